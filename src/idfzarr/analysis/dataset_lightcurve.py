"""Lightcurves and their statistics out of Datasets of ours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import xarray as xr

from idfzarr.analysis.dataset_brightness import is_calibrated
from idfzarr.analysis.dataset_parts import (
    channels_of,
    column_of,
    object_ids,
    require,
    row_of,
    time_dim,
    times_of_types,
    type_names,
    units_of,
)
from idfzarr.analysis.deferred import Along, as_dask, deferred
from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.flags import BAD_FLAGS
from idfzarr.lightcurve import Lightcurve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]

__all__ = ["lightcurve", "reference_of_store", "variability"]


# ------------------------------------------------------------------ one lightcurve


def _only(dim: str, known: Any) -> Any:
    """Return the one label along a dimension; raises `UsageError` where there are several."""
    if len(known) == 1:
        return known[0]
    msg = f"this Dataset has {len(known)} along {dim!r}: say which"
    raise UsageError(msg)


def lightcurve(
    dataset: xr.Dataset, object_id: int | None = None, type: str | None = None
) -> Lightcurve:
    """Return one lightcurve of a Dataset as it is there: selected, calibrated, binned.

    Parameters
    ----------
    dataset
        Of ours.
    object_id, type
        Which; may be left out where the Dataset has one only.

    Returns
    -------
    Lightcurve
        Along ``aor``; of a binned Dataset `Lightcurve.aor` is the number of the bin.

    Raises
    ------
    UnknownName
        The Dataset has no such object or type.
    UsageError
        It has several and none was named.
    """
    require(dataset, "flux", "flux_err", "flag", "object", "type", "mjd")
    wanted = _only("object", object_ids(dataset)) if object_id is None else object_id
    name = _only("type", type_names(dataset)) if type is None else type
    row, column = row_of(dataset, wanted), column_of(dataset, name)
    at = {"object": row, "type": column}

    def of(one: str) -> NDArray[Any] | None:
        variable = dataset.variables.get(one)
        if variable is None:
            return None
        return np.atleast_1d(variable.isel({d: k for d, k in at.items() if d in variable.dims}))

    along = time_dim(dataset) or "aor"
    names = ("flux", "flux_err", "flag", "zeropoint", "zeropoint_err", "noise_scale")
    values: dict[str, Any] = {one: of(one) for one in names} | {"aor": of(along)}
    return Lightcurve(
        object_id=int(wanted),
        type=str(name),
        mjd=times_of_types(dataset)[column],
        unit=units_of(dataset)[column],
        ra=_number(of("ra")),
        dec=_number(of("dec")),
        bjd_tdb=_barycentric(dataset, column),
        is_calibrated=is_calibrated(dataset),
        **values,
    )


def _number(values: NDArray[Any] | None) -> float:
    return math.nan if values is None else float(values[0])


def _barycentric(dataset: xr.Dataset, column: int) -> NDArray[np.float64] | None:
    if "bjd_tdb" not in dataset.variables:
        return None
    found: NDArray[np.float64] = times_of_types(dataset, "bjd_tdb")[column]
    return found if np.isfinite(found).any() else None


# ------------------------------------------------------------------ statistics of all


@dataclass(frozen=True)
class _Statistics:
    """What computes statistics of many lightcurves, (..., statistic)."""

    names: tuple[str, ...]
    drop: int

    def __call__(
        self, flux: Floats, error: Floats, flag: NDArray[np.uint16], mjd: Floats
    ) -> NDArray[np.float32]:
        from idfzarr.analysis.variability import statistics

        shape = np.broadcast_shapes(flux.shape, mjd.shape)
        rows = [np.broadcast_to(one, shape).reshape(-1, shape[-1]) for one in (flux, error, flag)]
        times = np.broadcast_to(mjd, shape).reshape(-1, shape[-1])
        found = np.full((len(times), len(self.names)), np.nan, dtype=np.float32)
        unique, group = np.unique(times, axis=0, return_inverse=True)
        for k, own in enumerate(unique):
            mine = np.flatnonzero(group.reshape(-1) == k)
            parts: list[Any] = [one[mine] for one in rows]
            values, errors, flags = parts
            usable = (flags & np.uint16(self.drop)) == 0
            made = statistics(values, errors, usable, mjd=own, names=self.names)
            found[mine] = np.stack([made[name] for name in self.names], axis=-1)
        return found.reshape(*shape[:-1], len(self.names))


def _chosen(names: str | Iterable[str] | None) -> tuple[str, ...]:
    from idfzarr.analysis.variability import STATISTICS

    known = [one.name for one in STATISTICS]
    wanted = known if names is None else [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in known:
            msg = f"there is no statistic {name!r}{closest(name, known)}; there are {len(known)}"
            raise UnknownName(msg)
    return tuple(dict.fromkeys(wanted))


def variability(
    dataset: xr.Dataset, names: str | Iterable[str] | None = None, *, drop: int = BAD_FLAGS
) -> xr.Dataset:
    """Return statistics of every lightcurve of a Dataset.

    Parameters
    ----------
    dataset
        Of ours.
    names
        Which, of `idfzarr.analysis.variability.STATISTICS`; all if None.
    drop
        Bits of the flags whose measurements do not count.

    Returns
    -------
    xarray.Dataset
        Each of them (object, type), float32, with its definition and source; Dask's where the
        Dataset is not in memory, so that ``compute()`` goes through the store once.

    Raises
    ------
    UnknownName
        There is no such statistic.
    UsageError
        One AOR was selected.
    """
    from idfzarr.analysis.variability import STATISTICS

    require(dataset, "flux", "flux_err", "flag", "mjd")
    chosen = _chosen(names)
    along = time_dim(dataset)
    if along is None:
        msg = "one AOR was selected from this Dataset: a point alone has no statistics"
        raise UsageError(msg)
    times = times_of_types(dataset)
    dims = ("type", along) if "type" in dataset.dims else (along,)
    found = deferred(
        _Statistics(chosen, drop),
        *(as_dask(dataset.variables[name]) for name in ("flux", "flux_err", "flag")),
        xr.Variable(dims, times if len(dims) == 2 else times[0]),
        dtype=np.float32,
        along=Along(along, "statistic", len(chosen)),
    )
    units = set(units_of(dataset))
    unit = units.pop() if len(units) == 1 else ""
    by_name = {one.name: one for one in STATISTICS}
    made = {}
    for k, name in enumerate(chosen):
        one = by_name[name]
        made[name] = found.isel(statistic=k)
        made[name].attrs = {
            "long_name": one.definition,
            "references": one.reference,
            "units": one.units(unit),
        }
    kept = {n: c.variable for n, c in dataset.coords.items() if not {along} & set(c.dims)}
    kept.pop(along, None)
    return xr.Dataset(made, kept, dataset.attrs)


# ------------------------------------------------------------------ the store's own reference


def reference_of_store(
    dataset: xr.Dataset,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]], str]:
    """Return the Kron fluxes on the superstacks of a Dataset's objects, channel by channel.

    Parameters
    ----------
    dataset
        Of ours, from a store whose catalogue has ``flux_auto_ch1`` and so on.

    Returns
    -------
    tuple
        Fluxes and errors, (object,), by channel, and their unit.

    Raises
    ------
    UsageError
        The Dataset does not say which store it is from, or the store has no such columns.
    """
    from idfzarr.store.cube import Cube

    source = dataset.encoding.get("source")
    if not source:
        msg = (
            "this Dataset does not say which store it is from: give reference_flux, for each "
            "channel by name the objects' flux on the superstack"
        )
        raise UsageError(msg)
    cube = Cube(source)
    table = cube.table("catalogue")
    rows = [cube.row(int(one)) for one in object_ids(dataset)]
    flux, error = {}, {}
    for channel in dict.fromkeys(channels_of(dataset)):
        column = f"flux_auto_{channel}"
        if column not in table:
            msg = (
                f"the catalogue of {source} has no {column!r}{closest(column, table)}: give "
                "reference_flux"
            )
            raise UsageError(msg)
        flux[channel] = np.asarray(table[column][rows], dtype=np.float64)
        held = table.get(f"flux_auto_err_{channel}")
        nothing = np.full(len(rows), np.nan)
        error[channel] = nothing if held is None else np.asarray(held[rows], dtype=np.float64)
    kinds = {
        str(unit)
        for name, unit in zip(cube.types, cube.coordinate("unit"), strict=True)
        if not name.endswith("_ratio")
    }
    return flux, error, kinds.pop() if len(kinds) == 1 else "uJy"
