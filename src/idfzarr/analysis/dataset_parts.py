"""What a Dataset of ours holds, however it was selected from: objects, types, times.

Any of the dimensions ``object``, ``type`` and ``aor`` may have become a scalar, and ``aor`` may
have become ``bin``. What is asked here is answered as if they stood there with length one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UnknownName, UsageError, closest

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

__all__ = [
    "BIN",
    "MEASURED",
    "TIME_DIMS",
    "channels_of",
    "column_of",
    "object_ids",
    "replace_variables",
    "require",
    "row_of",
    "time_dim",
    "times_of_types",
    "type_names",
    "units_of",
]

BIN = "bin"
"""The dimension that takes the place of ``aor`` when lightcurves are binned."""

TIME_DIMS = ("aor", BIN)
"""Dimensions along which a lightcurve may lie."""

MEASURED = ("flux", "flux_err", "mag", "mag_err", "mag_err_reference")
"""Variables that are NaN where a measurement is not to be used."""


def require(dataset: xr.Dataset, *names: str) -> None:
    """Raise `UsageError` where a Dataset lacks a variable that one of ours has."""
    missing = [name for name in names if name not in dataset.variables]
    if missing:
        held = ", ".join(map(str, list(dataset.variables)[:8])) or "nothing"
        msg = (
            f"this Dataset has no {missing[0]!r}: .idf works on what idfzarr.open gives, and on "
            f"selections of it; this one has {held}"
        )
        raise UsageError(msg)


def object_ids(dataset: xr.Dataset) -> NDArray[np.int64]:
    """Return the ids of the objects, (object,)."""
    require(dataset, "object")
    return np.atleast_1d(dataset.variables["object"].to_numpy())


def type_names(dataset: xr.Dataset) -> list[str]:
    """Return the names of the types, (type,)."""
    require(dataset, "type")
    return [str(name) for name in np.atleast_1d(dataset.variables["type"].to_numpy())]


def channels_of(dataset: xr.Dataset) -> list[str]:
    """Return the channel of each type, (type,)."""
    if "type_channel" in dataset.variables:
        found = np.atleast_1d(dataset.variables["type_channel"].to_numpy())
        return [str(channel) for channel in found]
    return [name.split("_", 1)[0] for name in type_names(dataset)]


def units_of(dataset: xr.Dataset) -> list[str]:
    """Return the unit of flux of each type, (type,)."""
    if "unit" in dataset.variables:
        return [str(unit) for unit in np.atleast_1d(dataset.variables["unit"].to_numpy())]
    unit = str(dataset.variables["flux"].attrs.get("units", "")) if "flux" in dataset else ""
    return [unit] * len(type_names(dataset))


def time_dim(dataset: xr.Dataset) -> str | None:
    """Return the dimension along which lightcurves lie; None where one time was selected."""
    return next((dim for dim in TIME_DIMS if dim in dataset.dims), None)


def times_of_types(dataset: xr.Dataset, name: str = "mjd") -> NDArray[np.float64]:
    """Return the times of each type's channel, or another coordinate like them, (type, time)."""
    require(dataset, name)
    variable = dataset.variables[name]
    channels = channels_of(dataset)
    if "channel" not in variable.dims:
        alone = np.atleast_1d(variable.to_numpy().astype(np.float64))
        return np.broadcast_to(alone, (len(channels), len(alone)))
    require(dataset, "channel")
    known = [str(channel) for channel in dataset.variables["channel"].to_numpy()]
    values = variable.to_numpy().astype(np.float64)
    values = np.moveaxis(values, variable.dims.index("channel"), 0)
    values = values.reshape(len(known), -1)
    missing = sorted(set(channels) - set(known))
    if missing:
        msg = (
            f"this Dataset has no times of channel {missing[0]!r}: its channels are "
            f"{', '.join(known)}; select types and channels alike"
        )
        raise UsageError(msg)
    chosen: NDArray[np.float64] = values[[known.index(channel) for channel in channels]]
    return chosen


def _position(dataset: xr.Dataset, dim: str, label: Any) -> int | None:
    """Return where a label stands along a dimension; None where it does not."""
    if dim in dataset.xindexes:
        try:
            found = dataset.xindexes[dim].to_pandas_index().get_loc(label)
        except (KeyError, TypeError):
            return None
        return (
            found
            if isinstance(found, int)
            else int(np.flatnonzero(_marked(dataset, dim, label))[0])
        )
    held = np.flatnonzero(_marked(dataset, dim, label))
    return int(held[0]) if held.size else None


def _marked(dataset: xr.Dataset, dim: str, label: Any) -> NDArray[np.bool_]:
    return np.atleast_1d(np.asarray(dataset.variables[dim].to_numpy() == label))


def row_of(dataset: xr.Dataset, object_id: Any) -> int:
    """Return the position of an object; raises `UnknownName`."""
    require(dataset, "object")
    is_id = isinstance(object_id, int | np.integer) and not isinstance(object_id, bool)
    row = _position(dataset, "object", int(object_id)) if is_id else None
    if row is not None:
        return row
    ids = object_ids(dataset)
    near = f"there are {len(ids)} in this Dataset"
    if is_id and len(ids):
        by_distance = ids[np.argsort(np.abs(ids - int(object_id)), kind="stable")[:3]]
        near += f"; nearest: {', '.join(map(str, sorted(by_distance)))}"
    elif not is_id:
        near += ", named by whole numbers"
    msg = f"there is no object {object_id!r}: {near}"
    raise UnknownName(msg)


def column_of(dataset: xr.Dataset, type: str) -> int:
    """Return the position of a type; raises `UnknownName`."""
    require(dataset, "type")
    column = _position(dataset, "type", str(type))
    if column is not None:
        return column
    names = type_names(dataset)
    msg = f"there is no type {type!r}{closest(type, names)}; this Dataset has {len(names)}"
    raise UnknownName(msg)


def replace_variables(
    dataset: xr.Dataset, variables: dict[str, xr.Variable], **attributes: Any
) -> xr.Dataset:
    """Return a Dataset with variables put in, and attributes of its own added."""
    found = dataset.assign(variables)
    found.attrs = dict(dataset.attrs) | attributes
    found.encoding = dict(dataset.encoding)
    return found
