"""What a rival can do, and the small things that all of them share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from synthetic import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from synthetic import Field


@dataclass(frozen=True)
class Source:
    """The lightcurves in memory, so that making them is no part of building a store."""

    field: Field
    values: Block

    @classmethod
    def of(cls, field: Field) -> Source:
        """Make all lightcurves of a field."""
        shape = (field.n_objects, len(field.types), field.n_aors)
        values = Block(
            np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.uint16)
        )
        for position in range(field.n_objects):
            for whole, part in zip(values, field.values(position), strict=True):
                whole[position] = part
        return cls(field, values)

    def blocks(self, step: int) -> Iterator[tuple[int, Block]]:
        """Yield the first position and the values of neighbouring objects."""
        for first in range(0, self.field.n_objects, step):
            yield first, Block(*(array[first : first + step] for array in self.values))


class Reader(Protocol):
    """An open store. Every array is ready to be computed with; flags are uint16."""

    def one(self, object_id: int, type_name: str) -> Block:
        """Return one lightcurve, (aor,)."""

    def all_types(self, object_id: int) -> Block:
        """Return all lightcurves of an object, (type, aor)."""

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        """Return the lightcurves of pairs of object and type, (pair, aor)."""

    def flux_blocks(self) -> Iterator[np.ndarray]:
        """Yield all fluxes, (lightcurve, aor), object by object and type by type."""

    def close(self) -> None:
        """Close what is open."""


@dataclass(frozen=True)
class Rival:
    """One way to keep lightcurves.

    Parameters
    ----------
    name
        In the table.
    build
        Puts a source into a folder, fsynced.
    open
        Opens what `build` made; told the field too, whose ids and types a user would know.
    store
        Name of the folder, shared by rivals that read the same store; the first of them builds it.
    cold
        Whether it takes part in the reads from a dropped page cache.
    lossless
        Whether the values come back bit for bit.
    note
        What the reader of the table should know.
    """

    name: str
    store: str
    build: Callable[[Source, Path], None]
    open: Callable[[Field, Path], Reader]
    cold: bool = False
    lossless: bool = True
    note: str = ""


def spread(flux: np.ndarray) -> np.ndarray:
    """Return the standard deviation of every lightcurve, NaN left out; NaN of nothing."""
    good = ~np.isnan(flux)
    count = np.maximum(good.sum(axis=1), 1)
    mean = np.where(good, flux, 0).sum(axis=1) / count
    off = np.where(good, flux - mean[:, None].astype(np.float32), 0)
    variance = np.einsum("ij,ij->i", off, off) / count
    return np.where(good.any(axis=1), np.sqrt(variance), np.nan)


def joined(values: np.ndarray) -> Block:
    """Return a block from float32 (..., value, aor) as the cube and its like keep it."""
    return Block(values[..., 0, :], values[..., 1, :], values[..., 2, :].astype(np.uint16))


def stacked(block: Block) -> np.ndarray:
    """Return float32 (object, type, value, aor) of a block."""
    return np.stack([block.flux, block.flux_err, block.flag.astype(np.float32)], axis=2)


def files_of(folder: Path) -> list[Path]:
    """Return every file below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def synced(folder: Path) -> None:
    """Put every file below a folder on disk for good, as a careful user would."""
    for path in files_of(folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
