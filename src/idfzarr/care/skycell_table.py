"""What a store of skycells holds, a row for every skycell: complete or not, and what is wrong.

The columns are those of the earlier toolkit's list of skycells, where they say something.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.inventory import inventory
from idfzarr.errors import ForeignStore, UnknownName, closest
from idfzarr.ps1.names import parse
from idfzarr.ps1.sky_keys import BANDS, KINDS, array_name

if TYPE_CHECKING:
    import xarray as xr

    from idfzarr.care.finding import Level
    from idfzarr.care.inventory import Inventory
    from idfzarr.store.place import PlaceLike

__all__ = ["COLUMNS", "SkycellRow", "SkycellTable", "list_skycells", "table_of"]

COLUMNS = (
    "projection_id",
    "cell_id",
    "skycell_name",
    "is_complete",
    "arrays_present",
    "arrays_missing",
    "arrays_absent",
    "temp_arrays",
    "arrays_present_count",
    "arrays_missing_count",
    "temp_arrays_count",
    "is_corrupted",
    "corruption_type",
    "arrays_corrupted",
    "arrays_corrupted_count",
    "total_size_bytes",
    "total_size_mb",
)
"""Columns of the CSV, in this order."""

_MARKS = {"whole": "+", "damaged": "!", "missing": "-", "absent": "0", "": "."}


@dataclass(frozen=True)
class SkycellRow:
    """One skycell.

    Attributes
    ----------
    name
        Of the skycell.
    states
        By array, ``whole``, ``damaged``, ``missing``, ``absent`` (the archive has none) or empty.
    temporary
        Half-written folders whose writer is gone.
    faults
        Kinds of what is wrong with it.
    n_bytes
        On disk.
    """

    name: str
    states: dict[str, str]
    temporary: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    n_bytes: int = 0

    def of(self, state: str) -> tuple[str, ...]:
        """Return the arrays in a state."""
        return tuple(array for array, one in self.states.items() if one == state)

    @property
    def is_complete(self) -> bool:
        """Whether nothing that is expected is missing, and nothing damaged."""
        return not (self.of("missing") or self.of("damaged"))

    def to_dict(self) -> dict[str, Any]:
        """Return its columns in JSON's types."""
        cell = parse(self.name)
        present, missing = (*self.of("whole"), *self.of("damaged")), self.of("missing")
        return {
            "projection_id": f"{cell.projection:04d}",
            "cell_id": f"{cell.cell:03d}",
            "skycell_name": self.name,
            "is_complete": self.is_complete,
            "arrays_present": " ".join(a for a in self.states if a in present),
            "arrays_missing": " ".join(missing),
            "arrays_absent": " ".join(self.of("absent")),
            "temp_arrays": " ".join(self.temporary),
            "arrays_present_count": len(present),
            "arrays_missing_count": len(missing),
            "temp_arrays_count": len(self.temporary),
            "is_corrupted": bool(self.of("damaged")),
            "corruption_type": " ".join(self.faults),
            "arrays_corrupted": " ".join(self.of("damaged")),
            "arrays_corrupted_count": len(self.of("damaged")),
            "total_size_bytes": self.n_bytes,
            "total_size_mb": round(self.n_bytes / 1e6, 3),
        }


@dataclass(frozen=True)
class SkycellTable:
    """The skycells of a store.

    Attributes
    ----------
    url
        The store.
    rows
        Sorted by name.
    """

    url: str
    rows: tuple[SkycellRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything in JSON's types."""
        return {"url": self.url, "skycells": [row.to_dict() for row in self.rows]}

    def to_csv(self) -> str:
        """Return it as CSV, a row for every skycell."""
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(row.to_dict() for row in self.rows)
        return out.getvalue()

    def to_dataset(self) -> xr.Dataset:
        """Return it as an xarray Dataset: ``state`` (skycell, band, kind), and the columns."""
        import xarray as xr

        states = np.array(
            [
                [[row.states.get(array_name(b, k), "") for k in KINDS] for b in BANDS]
                for row in self.rows
            ],
            dtype="<U8",
        ).reshape(len(self.rows), len(BANDS), len(KINDS))
        told = [row.to_dict() for row in self.rows]
        columns = {
            name: ("skycell", np.array([one[name] for one in told]))
            for name in COLUMNS
            if name != "skycell_name"
        }
        return xr.Dataset(
            {"state": (("skycell", "band", "kind"), states), **columns},
            coords={
                "skycell": np.array([row.name for row in self.rows], dtype=str),
                "band": list(BANDS),
                "kind": list(KINDS),
            },
            attrs={"url": self.url},
        )

    def to_text(self) -> str:
        """Return what a person is to read."""
        from idfzarr.care.report_words import size_text

        complete = sum(row.is_complete for row in self.rows)
        size = size_text(sum(row.n_bytes for row in self.rows))
        lines = [
            f"{self.url}: {len(self.rows)} skycells, {complete} complete, {size} on disk",
            f"{'':<18}  {'image':<5}  {'mask':<5}  {'weight':<6}",
            f"{'skycell':<18}  {'grizy':<5}  {'grizy':<5}  {'grizy':<6}",
        ]
        for row in self.rows:
            marks = [
                "".join(_MARKS[row.states.get(array_name(b, k), "")] for b in BANDS) for k in KINDS
            ]
            words = "complete" if row.is_complete else self._wanting(row)
            lines.append(f"{row.name:<18}  {marks[0]}  {marks[1]}  {marks[2]}   {words}")
        lines.append("+ there  ! damaged  - missing  0 the archive has none  . not expected")
        return "\n".join(lines)

    @staticmethod
    def _wanting(row: SkycellRow) -> str:
        told = []
        if row.of("damaged"):
            told.append(f"damaged: {', '.join(row.of('damaged'))}")
        if row.of("missing"):
            told.append(f"missing: {', '.join(row.of('missing'))}")
        return "; ".join(told)


def list_skycells(
    store: PlaceLike, skycells: str = "*", *, level: Level = "structure"
) -> SkycellTable:
    """Say which skycells a store holds, and which of their arrays.

    Parameters
    ----------
    store
        Path of the store, in any layout.
    skycells
        Name or glob.
    level
        How deep it is looked into.

    Raises
    ------
    StoreMissing, ForeignStore
        There is no store of skycells.
    UnknownName
        No skycell matches.
    """
    seen = inventory(store, level=level)
    if seen.store_kind not in {"skycells", "skycells_old"}:
        msg = f"{seen.url} is no store of skycells; fetch skycells, or give another path"
        raise ForeignStore(msg)
    table = table_of(seen)
    pattern = skycells if set(skycells) & set("*?[") else parse(skycells).name
    pattern = pattern if pattern.startswith(("skycell", "*")) else f"skycell.{pattern}"
    rows = tuple(row for row in table.rows if fnmatchcase(row.name, pattern))
    if not rows and (table.rows or skycells != "*"):
        near = closest(pattern, [row.name for row in table.rows])
        msg = f"no skycell in {seen.url} is called {skycells}{near}"
        raise UnknownName(msg)
    return SkycellTable(table.url, rows)


def table_of(seen: Inventory) -> SkycellTable:
    """Return the table of an inventory of a store of skycells."""
    names = [str(name) for name in seen.completeness["skycell"]]
    arrays = [str(name) for name in seen.completeness["array"]]
    sizes: dict[str, int] = {}
    for group in seen.groups:
        name = _cell_of(group.name)
        sizes[name] = sizes.get(name, 0) + group.n_bytes
    faults: dict[str, set[str]] = {}
    temporary: dict[str, list[str]] = {}
    for one in seen.findings:
        key = one.where.key or one.where.array
        name = _cell_of(key)
        if one.state == "temporary":
            temporary.setdefault(name, []).append(key.rpartition("/")[2])
        elif one.severity == "error":
            faults.setdefault(name, set()).add(one.kind)
    rows = tuple(
        SkycellRow(
            name,
            {a: str(s) for a, s in zip(arrays, states, strict=True)},
            tuple(sorted(temporary.get(name, ()))),
            tuple(sorted(faults.get(name, ()))),
            sizes.get(name, 0),
        )
        for name, states in zip(names, seen.completeness["array_state"], strict=True)
    )
    return SkycellTable(seen.url, rows)


def _cell_of(key: str) -> str:
    """Return the full name of the skycell that a key lies in; empty where there is none."""
    from idfzarr.errors import IdfzarrError

    for part in key.split("/"):
        if part.startswith("skycell."):
            try:
                return parse(part).name
            except IdfzarrError:
                return ""
    return ""
