"""The most variable objects of a store, from the statistics that stand in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UnknownName, closest
from idfzarr.measurement import select_types
from idfzarr.store.cube import Cube
from idfzarr.store.schema import VARIABILITY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from idfzarr.store.place import PlaceLike

__all__ = ["RANKED_METHOD", "Ranking", "rank_store"]

RANKED_METHOD = "aper2_clean"
"""Types that are ranked unless others are asked for: a small aperture on clean images. Its errors
are small and it sees neither most neighbours nor cosmic rays."""

_SHOWN = ("n", "median", "robust_scatter", "trimmed_chi2", "inverse_eta")


@dataclass(frozen=True, eq=False)
class Ranking:
    """Objects in the order of a statistic.

    Attributes
    ----------
    by
        The statistic.
    types
        The types looked at; an object counts by the one in which it is largest.
    unit
        Unit of median and scatter.
    rows
        One dictionary for each object: object, type, ra, dec, x, y and the statistics.
    n_aors, covered
        AORs in the cube, and those that the statistics were computed from.
    """

    by: str
    types: tuple[str, ...]
    unit: str
    rows: tuple[dict[str, Any], ...]
    n_aors: int = 0
    covered: int = 0

    @property
    def objects(self) -> list[int]:
        """Ids of the objects, the most variable first."""
        return [int(row["object"]) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Return the ranking as plain values, None for what is not known, for JSON."""
        return {
            "by": self.by,
            "types": list(self.types),
            "unit": self.unit,
            "n_aors": self.n_aors,
            "covered": self.covered,
            "objects": [{k: _known(v) for k, v in row.items()} for row in self.rows],
        }

    def to_text(self) -> str:
        """Return the ranking as a table for people."""
        if not self.rows:
            return f"no object has a {self.by} in {', '.join(self.types)}"
        names = [name for name in self.rows[0] if not _all_nan(self.rows, name)]
        cells = [names] + [[_cell(row[name]) for name in names] for row in self.rows]
        widths = [max(len(line[k]) for line in cells) for k in range(len(names))]
        lines = [
            "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True))
            for line in cells
        ]
        unit = f"; median and robust_scatter in {self.unit}" if self.unit else ""
        lines.append(f"ranked by {self.by}{unit}")
        if self.covered != self.n_aors:
            lines.append(
                f"these statistics cover {self.covered} of {self.n_aors} AORs: "
                "idfzarr stats --update computes them anew"
            )
        return "\n".join(lines)


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _all_nan(rows: Iterable[dict[str, Any]], name: str) -> bool:
    return all(isinstance(row[name], float) and math.isnan(row[name]) for row in rows)


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _default_types(cube: Cube) -> list[str]:
    """Return the small clean aperture of each channel, or all types where there is none."""
    own = [name for name in cube.types if name.split("_", 1)[1] == RANKED_METHOD]
    return own or list(cube.types)


def rank_store(
    store: PlaceLike | Cube,
    *,
    top: int = 20,
    by: str = "score",
    types: str | Iterable[str] | None = None,
    least_signal: float = 0.0,
    least_complete: float = 0.5,
) -> Ranking:
    """Rank the objects of a store by a statistic.

    Parameters
    ----------
    store
        The store.
    top
        How many objects to list.
    by
        A statistic of ``variability/``; ``score`` joins scatter and smoothness relative to objects
        as bright.
    types
        Names or globs of types; the small clean aperture of each channel unless given. An object
        counts by the type in which its statistic is largest.
    least_signal
        Leave out objects whose S/N in a middling measurement is lower.
    least_complete
        Leave out lightcurves of which a smaller fraction of the AORs is good.

    Returns
    -------
    Ranking
        The objects, the largest first; without those that have no value.

    Raises
    ------
    UnknownName
        There is no such statistic or type.
    """
    cube = store if isinstance(store, Cube) else Cube(store)
    measured = cube.table(VARIABILITY)
    if by not in measured:
        msg = (
            f"there is no statistic {by!r} in {cube.path}{closest(by, measured)}; "
            f"there are {', '.join(measured)}"
        )
        raise UnknownName(msg)
    names = _default_types(cube) if types is None else select_types(cube.types, types)
    columns = [cube.column(name) for name in names]
    values = np.where(np.isfinite(measured[by][:, columns]), measured[by][:, columns], -np.inf)
    complete = measured["n"][:, columns] >= least_complete * cube.shape[3]
    values = np.where(complete, values, -np.inf)
    if least_signal > 0:
        values = np.where(_signal(measured, columns) >= least_signal, values, -np.inf)
    best = values.argmax(axis=1)
    highest = values[np.arange(len(values)), best]
    order = np.argsort(-highest, kind="stable")
    order = order[np.isfinite(highest[order])][:top]
    rows = tuple(_row(cube, measured, int(row), columns[best[row]], by) for row in order)
    units = {str(cube.coordinate("unit")[c]) for c in columns}
    return Ranking(
        by,
        tuple(names),
        units.pop() if len(units) == 1 else "",
        rows,
        n_aors=cube.shape[3],
        covered=int(cube.group_attributes(VARIABILITY).get("n_aors", cube.shape[3])),
    )


def _signal(measured: dict[str, NDArray[Any]], columns: list[int]) -> NDArray[np.float64]:
    """Return the S/N (object, type) of a middling measurement, 0 where there is none."""
    flux, error = measured["median"][:, columns], measured["median_err"][:, columns]
    known = np.isfinite(flux) & (error > 0)
    signal: NDArray[np.float64] = np.divide(flux, error, out=np.zeros(flux.shape), where=known)
    return signal


def _row(
    cube: Cube, measured: dict[str, NDArray[Any]], row: int, column: int, by: str
) -> dict[str, Any]:
    shown = dict.fromkeys((by, *_SHOWN))
    return {
        "object": int(cube.objects[row]),
        "type": cube.types[column],
        **{name: float(cube.coordinate(name)[row]) for name in ("ra", "dec", "x", "y")},
        **{
            name: int(measured[name][row, column])
            if name == "n"
            else float(measured[name][row, column])
            for name in shown
        },
    }
