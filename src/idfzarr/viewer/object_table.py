"""The objects of a store as a table: where they are, how bright, and what the catalogue says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from idfzarr.analysis.ranking import RANKED_METHOD
from idfzarr.errors import UnknownName, closest
from idfzarr.lightcurve import AB_ZERO_MAGNITUDE
from idfzarr.store.schema import CATALOGUE, VARIABILITY
from idfzarr.viewer.labels import Column, catalogue_column
from idfzarr.viewer.state import DEFAULT_METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.store.cube import Cube

    Reader = Callable[[str], NDArray[Any]]

__all__ = [
    "Columns",
    "ab_magnitude",
    "aor_table",
    "object_table",
    "ranked_types",
]

_OWN = ("object_id", "ra", "dec", "x", "y")


def ranked_types(cube: Cube) -> dict[str, str]:
    """Return for each channel the type that stands for its objects' brightness and variability."""
    found = {}
    for channel in cube.channels:
        own = [name for name in cube.types if name.split("_", 1)[0] == channel]
        wanted = [f"{channel}_{method}" for method in (RANKED_METHOD, *DEFAULT_METHODS)]
        chosen = next((name for name in wanted if name in own), own[0] if own else None)
        if chosen is not None:
            found[channel] = chosen
    return found


def ab_magnitude(flux: NDArray[Any], unit: str) -> NDArray[np.float64]:
    """Return AB magnitudes of fluxes in microjansky, instrumental ones of any other unit.

    NaN where the flux is not positive.
    """
    zero = AB_ZERO_MAGNITUDE if unit == "uJy" else 0.0
    positive = np.where(flux > 0, flux, np.nan).astype(np.float64)
    return np.asarray(zero - 2.5 * np.log10(positive))


def object_table(
    cube: Cube,
    read: Reader,
    nodes: Mapping[str, Mapping[str, Any]],
    *,
    ranked: Mapping[str, str],
    units: Mapping[str, str],
) -> tuple[pd.DataFrame, dict[str, Column]]:
    """Return the table of the objects, and what its columns are.

    Parameters
    ----------
    cube
        The cube.
    read
        Reads an array of the store by its path.
    nodes
        Metadata of all arrays of the store, by path.
    ranked
        Type that stands for each channel.
    units
        Unit of flux of each type.

    Returns
    -------
    DataFrame
        ``object``, ``ra``, ``dec``, ``x``, ``y``, ``{channel}_mag`` (median of the ranked type, AB
        where fluxes are in microjansky), then the catalogue's columns along the objects.
    dict of str to Column
        By name of the column.
    """
    columns: dict[str, NDArray[Any]] = {"object": cube.objects}
    told = {"object": catalogue_column("object", {}, flux_units={})}
    for name in ("ra", "dec", "x", "y"):
        columns[name] = cube.coordinate(name)
        told[name] = catalogue_column(name, {}, flux_units={})
    for channel, type_ in ranked.items():
        name, kind = f"{channel}_mag", "AB mag" if units[type_] == "uJy" else "instrumental mag"
        columns[name] = _median_magnitude(cube, read, nodes, type_, units[type_])
        told[name] = Column(name, f"{channel} median in {type_}", kind)
    flux_units = {channel: units[type_] for channel, type_ in ranked.items()}
    for path, node in nodes.items():
        group, _, name = path.partition("/")
        own = group == CATALOGUE and node.get("dimension_names") == ["object"]
        if own and name not in _OWN and name not in columns:
            columns[name] = read(path)
            told[name] = catalogue_column(name, node.get("attributes", {}), flux_units=flux_units)
    return pd.DataFrame(columns, copy=False), told


def _median_magnitude(
    cube: Cube,
    read: Reader,
    nodes: Mapping[str, Mapping[str, Any]],
    type_: str,
    unit: str,
) -> NDArray[np.float64]:
    channel = type_.split("_", 1)[0]
    if f"{VARIABILITY}/median" in nodes:
        return ab_magnitude(read(f"{VARIABILITY}/median")[:, cube.column(type_)], unit)
    if f"{CATALOGUE}/flux_auto_{channel}" in nodes:
        return ab_magnitude(read(f"{CATALOGUE}/flux_auto_{channel}"), unit)
    return np.full(cube.shape[0], np.nan)


def aor_table(
    cube: Cube, nodes: Mapping[str, Mapping[str, Any]]
) -> tuple[pd.DataFrame, dict[str, Column]]:
    """Return the table of the AORs, and what its columns are.

    Parameters
    ----------
    cube
        The cube.
    nodes
        Metadata of all arrays of the store, by path.

    Returns
    -------
    DataFrame
        ``number`` (in order of time), ``aor``, ``aor_name``, and a column for each coordinate along
        the AORs; of those that differ by channel one for each, ``mjd_ch1``.
    dict of str to Column
        By name of the coordinate, without the channel.
    """
    mjd = cube.coordinate("mjd")
    known = np.where(np.isfinite(mjd), mjd, np.inf).min(axis=1)
    number = np.empty(len(known), dtype=np.int64)
    number[np.argsort(known, kind="stable")] = np.arange(1, len(known) + 1)
    columns: dict[str, NDArray[Any]] = {"number": number, "aor": cube.aors}
    told = {
        "number": Column("number", "number of the AOR in order of time"),
        "aor": Column("aor", "AOR reqkey"),
    }
    for name in cube.coordinate_names:
        dims = tuple(nodes.get(name, {}).get("dimension_names") or ())
        attributes = nodes.get(name, {}).get("attributes", {})
        if name in told or dims not in {("aor",), ("aor", "channel")}:
            continue
        values = cube.coordinate(name)
        if values.ndim == 1:
            columns[name] = values
        else:
            for c, channel in enumerate(cube.channels):
                columns[f"{name}_{channel}"] = values[:, c]
        if values.dtype.kind in "iufb":
            label, unit = str(attributes.get("long_name", name)), str(attributes.get("units", ""))
            if label.endswith(", image units"):
                label, unit = label.removesuffix(", image units"), "image units"
            told[name] = Column(name, label, unit)
    return pd.DataFrame(columns, copy=False), told


class Columns:
    """Columns of the objects by name, read when they are asked for.

    A name is one of the table's, a statistic of the chosen type, or ``TYPE.statistic`` of any.

    Parameters
    ----------
    table
        The objects.
    statistic
        Returns a statistic of a type, by the two names.
    names
        Of the statistics.
    types
        Of the measurement types.
    chosen
        Type whose statistics have no type before their name.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        statistic: Callable[[str, str], NDArray[Any]],
        *,
        names: Sequence[str],
        types: Sequence[str],
        chosen: str,
    ) -> None:
        self._table = table
        self._statistic = statistic
        self._names = tuple(names)
        self._types = tuple(types)
        self._chosen = chosen

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name in self._table.columns:
            return np.asarray(self._table[name].to_numpy())
        type_, dot, statistic = name.rpartition(".")
        if dot and type_ in self._types and statistic in self._names:
            return self._statistic(statistic, type_)
        if not dot and name in self._names and self._chosen:
            return self._statistic(name, self._chosen)
        msg = f"the objects have no column {name!r}{closest(name, list(self))}"
        raise UnknownName(msg)

    def __contains__(self, name: object) -> bool:
        type_, dot, statistic = str(name).rpartition(".")
        if dot:
            return type_ in self._types and statistic in self._names
        return name in self._table.columns or (name in self._names and bool(self._chosen))

    def __iter__(self) -> Iterator[str]:
        yield from map(str, self._table.columns)
        if self._chosen:
            yield from (name for name in self._names if name not in self._table.columns)

    def __len__(self) -> int:
        return len(self._table)
