"""Columns of the objects of a cube by name, read when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.analysis.magnitude import magnitude
from idfzarr.analysis.ranking import ranked_types
from idfzarr.errors import UnknownName, closest
from idfzarr.store.schema import CATALOGUE, VARIABILITY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from idfzarr.store.cube import Cube

__all__ = ["ObjectColumns"]

_OWN = ("object", "ra", "dec", "x", "y")


class ObjectColumns:
    """Columns of the objects, for conditions on them (see `idfzarr.analysis.query.select`).

    A name is ``object``, ``ra``, ``dec``, ``x``, ``y``; ``{channel}_mag``, the AB magnitude of the
    median of the channel's ranked type; a column of the catalogue; a statistic of the first ranked
    type; or ``TYPE.statistic`` of any.

    Parameters
    ----------
    cube
        The cube.
    """

    def __init__(self, cube: Cube) -> None:
        self._cube = cube
        self._ranked = {name.partition("_")[0]: name for name in ranked_types(cube.types)[::-1]}
        self._tables: dict[str, dict[str, NDArray[Any]]] = {}

    def _table(self, group: str) -> dict[str, NDArray[Any]]:
        if group not in self._tables:
            try:
                found = self._cube.table(group)
            except UnknownName:  # a cube of one's own may lack it
                found = {}
            dims = 2 if group == VARIABILITY else 1
            self._tables[group] = {n: v for n, v in found.items() if v.ndim == dims}
        return self._tables[group]

    def _statistic(self, name: str, type_: str) -> NDArray[Any]:
        column: NDArray[Any] = self._table(VARIABILITY)[name][:, self._cube.column(type_)]
        return column

    def _magnitude(self, type_: str) -> NDArray[np.float64]:
        column = self._cube.column(type_)
        unit = str(self._cube.coordinate("unit")[column])
        return magnitude(self._statistic("median", type_).astype(np.float64), unit=unit)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self:
            msg = f"the objects have no column {name!r}{closest(name, list(self))}"
            raise UnknownName(msg)
        type_, dot, statistic = name.rpartition(".")
        if dot:
            return self._statistic(statistic, type_)
        if name == "object":
            return self._cube.objects
        if name in _OWN:
            return self._cube.coordinate(name)
        if name in self._magnitudes():
            return self._magnitude(self._magnitudes()[name])
        if name in self._table(CATALOGUE):
            return self._table(CATALOGUE)[name]
        return self._statistic(name, next(reversed(self._ranked.values())))

    def _magnitudes(self) -> dict[str, str]:
        known = "median" in self._table(VARIABILITY)
        return {f"{channel}_mag": type_ for channel, type_ in self._ranked.items() if known}

    def __contains__(self, name: object) -> bool:
        type_, dot, statistic = str(name).rpartition(".")
        if dot:
            return type_ in self._cube.types and statistic in self._table(VARIABILITY)
        return name in list(self)

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys(
            [*_OWN, *self._magnitudes(), *self._table(CATALOGUE), *self._table(VARIABILITY)]
        )

    def __len__(self) -> int:
        return len(self._cube.objects)
