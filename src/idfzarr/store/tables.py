"""Tables that people hand in, as columns of the right type.

An object table, a type table and an AOR table may be an astropy Table, a pandas DataFrame, or a
mapping of arrays. What comes out is checked and in the order given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.measurement import Measurement, parse_measurement
from idfzarr.store.schema import COORDINATES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "AorTable",
    "ObjectTable",
    "TypeTable",
    "aor_table",
    "columns_of",
    "object_table",
    "type_table",
]


@dataclass(frozen=True, eq=False)
class ObjectTable:
    """Objects: their ids, their positions, and every column that was given."""

    ids: NDArray[np.int64]
    positions: dict[str, NDArray[np.float64]]
    columns: dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class TypeTable:
    """Measurement types: names and what stands beside them in the cube."""

    names: tuple[str, ...]
    columns: dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class AorTable:
    """AORs: reqkeys, names, and quantities (aor,) or (aor, channel)."""

    reqkeys: NDArray[np.int64]
    names: tuple[str, ...]
    columns: dict[str, NDArray[Any]]


def columns_of(table: Any) -> dict[str, NDArray[Any]]:
    """Return the columns of a table as plain arrays.

    Parameters
    ----------
    table
        An astropy Table, a pandas DataFrame, a structured array, or a mapping of array-likes.

    Returns
    -------
    dict
        Arrays by name. Masked floats become NaN; text becomes numpy unicode.

    Raises
    ------
    UsageError
        It is none of these, or its columns differ in length.
    """
    if isinstance(table, Mapping):
        names = list(table)
    elif hasattr(table, "colnames"):
        names = list(table.colnames)
    elif hasattr(table, "columns"):
        names = list(table.columns)
    elif isinstance(table, np.ndarray) and table.dtype.names:
        names = list(table.dtype.names)
    else:
        msg = (
            f"a {type(table).__name__} is no table: give an astropy Table, a pandas DataFrame, "
            "or a dict "
            "of arrays"
        )
        raise UsageError(msg)
    columns = {str(name): _plain(table[name]) for name in names}
    lengths = {len(column) for column in columns.values() if column.ndim}
    if len(lengths) > 1 or any(column.ndim == 0 for column in columns.values()):
        told = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        msg = f"the columns of a table must be equally long, but they are {told}"
        raise UsageError(msg)
    return columns


def _plain(column: Any) -> NDArray[Any]:
    values = getattr(column, "value", column)  # a Quantity
    if isinstance(values, np.ma.MaskedArray):
        fill = np.nan if values.dtype.kind == "f" else None
        if fill is None and np.ma.is_masked(values) and values.dtype.kind in "iu":
            values, fill = values.astype(float), np.nan
        values = values.filled(fill) if fill is not None else np.asarray(values.filled())
    array = np.asarray(values)
    return array.astype(str) if array.dtype.kind in "OSTU" else array


def _whole_numbers(values: NDArray[Any], what: str) -> NDArray[np.int64]:
    """Return ids as int64; raises `UsageError` where they are none or stand twice."""
    try:
        numbers = values.astype(np.int64)
        exact = values.ndim == 1 and bool(np.all(numbers == values.astype(object)))
    except (ValueError, TypeError, OverflowError):
        exact = False
    if not exact or values.dtype.kind not in "iuf":
        msg = (
            f"{what} must be whole numbers in one column, not {values.dtype} of shape "
            f"{values.shape}"
        )
        raise UsageError(msg)
    unique, counts = np.unique(numbers, return_counts=True)
    if np.any(counts > 1):
        twice = ", ".join(str(n) for n in unique[counts > 1][:5])
        msg = f"{what} must be unique, but {int(np.sum(counts > 1))} stand more than once: {twice}"
        raise UsageError(msg)
    return numbers


def object_table(table: Any) -> ObjectTable:
    """Check a table of objects.

    Parameters
    ----------
    table
        With ``object_id`` (whole numbers, unique) and, where known, ``ra``, ``dec`` (degrees),
        ``x``, ``y`` (pixels); other columns are kept for the catalogue. A plain sequence of ids
        will do.

    Returns
    -------
    ObjectTable
        In the order given; positions that were not given are NaN.

    Raises
    ------
    UsageError
        Ids are missing, no whole numbers, or not unique.
    """
    if isinstance(table, list | tuple | range) or (
        isinstance(table, np.ndarray) and not table.dtype.names
    ):
        table = {"object_id": np.asarray(table)}
    columns = columns_of(table)
    if "object_id" not in columns:
        msg = (
            "the table of objects needs a column 'object_id'; it has "
            f"{', '.join(columns) or 'none'}"
        )
        raise UsageError(msg)
    ids = _whole_numbers(columns["object_id"], "object ids")
    columns["object_id"] = ids
    positions = {
        name: np.asarray(columns.get(name, np.full(len(ids), np.nan)), dtype=np.float64)
        for name in ("ra", "dec", "x", "y")
    }
    return ObjectTable(ids, positions, columns)


def type_table(types: Any, channels: tuple[str, ...] | None = None) -> TypeTable:
    """Check measurement types.

    Parameters
    ----------
    types
        Names, `Measurement` objects, or a table with a column ``type`` and, where wanted,
        ``type_channel``, ``type_image``, ``type_method``, ``radius_arcsec``, ``unit``.
    channels
        The channels there are, to find the channel of a name that is none of ours.

    Returns
    -------
    TypeTable
        In the order given.

    Raises
    ------
    UsageError
        There is none, a name stands twice, or its channel cannot be told.
    """
    given: dict[str, NDArray[Any]] = {}
    if isinstance(types, Mapping) or hasattr(types, "colnames") or hasattr(types, "columns"):
        given = columns_of(types)
        if "type" not in given:
            msg = f"the table of types needs a column 'type'; it has {', '.join(given) or 'none'}"
            raise UsageError(msg)
        names = tuple(str(n) for n in given["type"])
    elif isinstance(types, str) or not isinstance(types, Iterable):
        msg = f"types must be a sequence of names or a table, not {types!r}"
        raise UsageError(msg)
    else:
        names = tuple(str(n) for n in types)
    if not names or len(set(names)) < len(names) or "" in names:
        msg = (
            "types must be one or more different names, not "
            f"{', '.join(map(repr, names)) or 'none'}"
        )
        raise UsageError(msg)
    parts = [_parts(name, channels) for name in names]
    derived = {
        "type_channel": [p[0] for p in parts],
        "type_image": [p[1] for p in parts],
        "type_method": [p[2] for p in parts],
        "unit": ["uJy"] * len(names),
    }
    columns: dict[str, NDArray[Any]] = {
        name: np.asarray(given.get(name, np.array(values, dtype=str)), dtype=str)
        for name, values in derived.items()
    }
    radius = given.get("radius_arcsec", np.full(len(names), np.nan))
    columns["radius_arcsec"] = np.asarray(radius, dtype=np.float64)
    _known_channels(names, columns["type_channel"], channels)
    return TypeTable(names, columns)


def _parts(name: str, channels: tuple[str, ...] | None) -> tuple[str, str, str]:
    """Return channel, image and method of a type, whatever its name tells."""
    try:
        measurement: Measurement = parse_measurement(name)
    except UsageError:
        head = name.split("_", 1)[0]
        if channels and head not in channels and len(channels) == 1:
            head = channels[0]
        return head, "", ""
    return measurement.channel, measurement.image, measurement.method


def _known_channels(
    names: tuple[str, ...], of_type: NDArray[Any], channels: tuple[str, ...] | None
) -> None:
    for name, channel in zip(names, of_type, strict=True):
        if channels is not None and channel not in channels:
            msg = (
                f"the type {name!r} is of channel {str(channel)!r}, but the channels are "
                f"{', '.join(channels)}; begin its name with one of them, or give a table of "
                "types with "
                "a column 'type_channel'"
            )
            raise UsageError(msg)


def aor_table(table: Any, channels: tuple[str, ...]) -> AorTable:
    """Check a table of AORs.

    Parameters
    ----------
    table
        With ``aor`` (reqkeys, whole numbers, unique) and ``mjd`` (UTC): (aor,) for all channels
        alike, (aor, channel), or a column ``mjd_{channel}`` for each. The same forms serve
        ``exptime``, ``dx``, ``dy``, ``bjd_tdb``. ``aor_name`` where there are names. Other
        numeric or text columns are kept under their names.
    channels
        The channels, in order.

    Returns
    -------
    AorTable
        In the order given.

    Raises
    ------
    UsageError
        A column is missing or has another shape, or a reqkey stands twice.
    """
    columns = columns_of(table)
    if "aor" not in columns:
        msg = f"the table of AORs needs a column 'aor'; it has {', '.join(columns) or 'none'}"
        raise UsageError(msg)
    reqkeys = _whole_numbers(columns.pop("aor"), "AOR reqkeys")
    names = columns.pop("aor_name", reqkeys.astype(str)).astype(str)
    out: dict[str, NDArray[Any]] = {}
    for definition in COORDINATES.values():
        if definition.dims == ("aor", "channel"):
            values = _per_channel(columns, definition.name, channels, len(reqkeys))
            if values is not None:
                out[definition.name] = values.astype(definition.dtype)
    if "mjd" not in out:
        msg = f"the table of AORs needs a column 'mjd', or one 'mjd_{channels[0]}' for each channel"
        raise UsageError(msg)
    for name, values in columns.items():
        if name in COORDINATES:
            msg = (
                f"a table of AORs cannot have a column {name!r}: the cube has another array of "
                "that name"
            )
            raise UsageError(msg)
        if values.ndim == 1 or values.shape[1:] == (len(channels),):
            out[name] = values
    return AorTable(reqkeys, tuple(str(n) for n in names), out)


def _per_channel(
    columns: dict[str, NDArray[Any]], name: str, channels: tuple[str, ...], n_aors: int
) -> NDArray[np.float64] | None:
    """Take a quantity out of the columns as (aor, channel); None where there is none."""
    single = [f"{name}_{channel}" for channel in channels]
    found = [s for s in single if s in columns]
    if name not in columns:
        if not found:
            return None
        if len(found) < len(single):
            missing = ", ".join(repr(s) for s in single if s not in columns)
            msg = f"the table of AORs has {', '.join(map(repr, found))} but not {missing}"
            raise UsageError(msg)
        return np.stack([columns.pop(s).astype(np.float64) for s in single], axis=1)
    values = columns.pop(name).astype(np.float64)
    if values.ndim == 1:
        return np.repeat(values[:, None], len(channels), axis=1)
    if values.shape != (n_aors, len(channels)):
        msg = (
            f"the column {name!r} of the AORs has shape {values.shape}; it must be ({n_aors},) or "
            f"({n_aors}, {len(channels)})"
        )
        raise UsageError(msg)
    return values


def position_in(names: Mapping[Any, int], wanted: Any, *, what: str, where: str) -> int:
    """Return the position of a name; raises `UnknownName` with the nearest ones."""
    try:
        return names[wanted]
    except (KeyError, TypeError):
        msg = (
            f"there is no {what} {wanted!r} in {where}{closest(wanted, names)}; it has {len(names)}"
        )
        raise UnknownName(msg) from None
