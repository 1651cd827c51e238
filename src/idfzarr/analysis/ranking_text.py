"""A ranking as people and programs read it: a table, JSON, CSV."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Ranking"]

_PLACES = {"ra": ".5f", "dec": ".5f", "x": ".1f", "y": ".1f"}


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
    relative
        Whether the order is that of the excess over objects as bright.
    above
        What all listed are above, None where there is no threshold.
    units
        By column, of those that have one.
    """

    by: str
    types: tuple[str, ...]
    unit: str
    rows: tuple[dict[str, Any], ...]
    n_aors: int = 0
    covered: int = 0
    relative: bool = False
    above: float | None = None
    units: Mapping[str, str] = field(default_factory=dict)

    @property
    def objects(self) -> list[int]:
        """Ids of the objects, the most variable first."""
        return [int(row["object"]) for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Return the ranking as plain values, None for what is not known, for JSON."""
        return {
            "by": self.by,
            "relative": self.relative,
            "above": self.above,
            "types": list(self.types),
            "unit": self.unit,
            "units": dict(self.units),
            "n_aors": self.n_aors,
            "covered": self.covered,
            "objects": [{k: _known(v) for k, v in row.items()} for row in self.rows],
        }

    def to_csv(self) -> str:
        """Return the rows as CSV, every digit, nothing for what is not known; a header first."""
        out = io.StringIO()
        names = list(self.rows[0]) if self.rows else ["object", "type", self.by]
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        for row in self.rows:
            writer.writerow(["" if (v := _known(row[name])) is None else v for name in names])
        return out.getvalue()

    def to_text(self) -> str:
        """Return the ranking as a table for people."""
        if not self.rows:
            limit = "" if self.above is None else f" {self._limit}"
            return f"no object has a {self._ranked}{limit} in {', '.join(self.types)}"
        names = [name for name in self.rows[0] if not self._left_out(name)]
        heads = [self._head(name) for name in names]
        cells = [heads] + [[_cell(name, row[name]) for name in names] for row in self.rows]
        widths = [max(len(line[k]) for line in cells) for k in range(len(names))]
        lines = [
            "  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        lines.append(self._last_line(names))
        if self.covered != self.n_aors:
            lines.append(
                f"these statistics cover {self.covered} of {self.n_aors} AORs: "
                "idfzarr stats --update computes them anew"
            )
        return "\n".join(lines)

    @property
    def _ranked(self) -> str:
        return f"{self.by} relative to objects as bright" if self.relative else self.by

    @property
    def _limit(self) -> str:
        return f"beyond {self.above:g}"

    def _last_line(self, names: Iterable[str]) -> str:
        told = f"ranked by {self._ranked}"
        if self.above is not None:
            told += f", {len(self.rows)} {self._limit}"
        in_flux = [name for name in names if self.unit and self.units.get(name) == self.unit]
        if not in_flux:
            return told
        *others, last = in_flux
        named = f"{', '.join(others)} and {last}" if others else last
        return f"{told}; {named} in {self.unit}"

    def _head(self, name: str) -> str:
        unit = self.units.get(name, "")
        plain = name in _PLACES or not unit or unit == self.unit
        return name if plain else f"{name}[{unit}]"

    def _left_out(self, name: str) -> bool:
        """Leave out what no object has, and pixels where the sky is known."""
        on_sky = not _all_nan(self.rows, "ra")
        return _all_nan(self.rows, name) or (name in {"x", "y"} and on_sky)


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _all_nan(rows: Iterable[Mapping[str, Any]], name: str) -> bool:
    return all(isinstance(row[name], float) and math.isnan(row[name]) for row in rows)


def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if math.isnan(value) else format(value, _PLACES.get(name, ".5g"))
