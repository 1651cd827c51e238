"""Names of skycells: read tolerantly, written strictly.

A skycell is named ``skycell.PPPP.0YX``: projection cell and, in it, row Y and column X.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import UnknownName, UsageError
from idfzarr.ps1.grid import CELLS, grid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike

__all__ = ["Skycell", "all_names", "matching", "names_of_rows", "parse", "parse_all"]

# Written strictly; read with or without what stands before, and with the projection cell's zeros
# lost on the way, as where it went through an integer.
_NAME = re.compile(r"(?:rings\.v3\.)?(?:skycell\.)?([0-9]{1,4})\.([0-9]{3})", re.ASCII)
_PATTERN = re.compile(r"[A-Za-z0-9.*?\[\]!-]{1,64}", re.ASCII)
_SHOWN = 60


@dataclass(frozen=True, order=True)
class Skycell:
    """One skycell.

    Attributes
    ----------
    projection
        Number of its projection cell, 635 to 2643.
    cell
        10 Y + X, 0 to 99.
    """

    projection: int
    cell: int

    @property
    def name(self) -> str:
        """The name in full: ``skycell.1405.053``."""
        return f"skycell.{self.projection:04d}.{self.cell:03d}"

    @property
    def x(self) -> int:
        """Column in the projection cell, 0 in the east to 9 in the west."""
        return self.cell % 10

    @property
    def y(self) -> int:
        """Row in the projection cell, 0 in the south to 9 in the north."""
        return self.cell // 10

    @property
    def row(self) -> int:
        """Row of `idfzarr.ps1.grid.outlines`."""
        return (self.projection - grid().first) * CELLS + self.cell

    def __str__(self) -> str:
        return self.name


def parse(name: object) -> Skycell:
    """Read a skycell's name.

    Parameters
    ----------
    name
        ``skycell.1405.053``, ``1405.053`` or ``rings.v3.skycell.1405.053``; the projection cell
        may have lost its leading zeros.

    Returns
    -------
    Skycell
        Whose ``name`` is the name in full.

    Raises
    ------
    UsageError
        It is no name of a skycell.
    UnknownName
        It is one, but the tessellation has no such skycell with stack images.

    Examples
    --------
    >>> parse("635.000").name
    'skycell.0635.000'
    """
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        msg = f"{_shown(name)} is no name of a skycell: write it as skycell.1405.053"
        raise UsageError(msg)
    found = Skycell(projection=int(match[1]), cell=int(match[2]))
    first, last = grid().first, grid().first + grid().projections - 1
    if not first <= found.projection <= last:
        msg = (
            f"there is no {found.name}: projection cells with stack images are "
            f"{first:04d} to {last}"
        )
        raise UnknownName(msg)
    if found.cell >= CELLS:
        msg = f"there is no {found.name}: the skycells of a projection cell are 000 to 099"
        raise UnknownName(msg)
    return found


def _shown(name: object) -> str:
    text = repr(name) if isinstance(name, str) else f"a {type(name).__name__}"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def parse_all(names: Iterable[object]) -> tuple[str, ...]:
    """Return the full names of skycells, sorted and each once.

    Raises
    ------
    UsageError
        One is no name of a skycell, or a single string was given for many.
    UnknownName
        One is not in the tessellation.
    """
    if isinstance(names, str):
        msg = f"names of skycells were asked for and one string was given: write [{_shown(names)}]"
        raise UsageError(msg)
    return tuple(sorted({parse(name).name for name in names}))


@lru_cache(maxsize=1)
def all_names() -> tuple[str, ...]:
    """Return the names of all 200,900 skycells, sorted."""
    first = grid().first
    return tuple(
        f"skycell.{first + p:04d}.{c:03d}" for p in range(grid().projections) for c in range(CELLS)
    )


def matching(patterns: str | Iterable[object]) -> tuple[str, ...]:
    """Return the skycells whose names match a name or a glob such as ``skycell.1405.*``.

    Parameters
    ----------
    patterns
        One or several, with or without ``skycell.`` before; the name of one skycell, as `parse`
        reads it, is a pattern too.

    Raises
    ------
    UsageError
        A pattern holds what no name can hold, or none of the 200,900 skycells matches it.
    UnknownName
        It is a name without a wildcard, and there is no such skycell.
    """
    found: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not isinstance(pattern, str) or not set(pattern) & set("*?["):
            found.add(parse(pattern).name)
            continue
        if not _PATTERN.fullmatch(pattern):
            msg = f"{_shown(pattern)} is no pattern of skycell names: write it as skycell.1405.*"
            raise UsageError(msg)
        full = pattern if pattern.startswith(("skycell", "*")) else "skycell." + pattern
        hits = {name for name in all_names() if fnmatchcase(name, full)}
        if not hits:
            msg = f"no skycell matches {_shown(pattern)}: names are like skycell.1405.053"
            raise UnknownName(msg)
        found |= hits
    return tuple(sorted(found))


def names_of_rows(rows: ArrayLike) -> tuple[str, ...]:
    """Return the names of rows of `idfzarr.ps1.grid.outlines`, in their order."""
    numbers = np.asarray(rows, dtype=np.int64) + grid().first * CELLS
    return tuple(f"skycell.{n // CELLS:04d}.{n % CELLS:03d}" for n in numbers.tolist())
