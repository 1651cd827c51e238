"""HDF5 by h5py: one dataset (object, type, value, aor), chunked like the cube, or contiguous."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import h5py
import numpy as np

from rivals.protocol import Rival, joined, stacked, synced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from synthetic import Block, Field

    from rivals.protocol import Source


def build(source: Source, folder: Path, *, chunked: bool) -> None:
    """Write the dataset; a chunk per lightcurve, uncompressed."""
    field = source.field
    shape = (field.n_objects, len(field.types), 3, field.n_aors)
    with h5py.File(folder / "field.h5", "w", libver="latest") as file:
        chunks = (1, 1, *shape[2:]) if chunked else None
        values = file.create_dataset("lightcurves", shape, np.float32, chunks=chunks)
        for first, block in source.blocks(64):
            values[first : first + len(block.flux)] = stacked(block)
    synced(folder)


class _Reader:
    def __init__(self, field: Field, folder: Path) -> None:
        self._file = h5py.File(folder / "field.h5", "r")
        self._values = self._file["lightcurves"]
        self._rows = {object_id: row for row, object_id in enumerate(field.object_ids.tolist())}
        self._columns = {name: column for column, name in enumerate(field.types)}

    def one(self, object_id: int, type_name: str) -> Block:
        return joined(self._values[self._rows[object_id], self._columns[type_name]])

    def all_types(self, object_id: int) -> Block:
        return joined(self._values[self._rows[object_id]])

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        out = np.empty((len(object_ids), *self._values.shape[2:]), np.float32)
        for values, object_id, type_name in zip(out, object_ids, type_names, strict=True):
            values[...] = self._values[self._rows[object_id], self._columns[type_name]]
        return joined(out)

    def flux_blocks(self) -> Iterator[np.ndarray]:
        for row in range(len(self._rows)):
            yield self._values[row, :, 0]

    def close(self) -> None:
        self._file.close()


RIVALS = [
    Rival(
        "HDF5, a chunk per lightcurve",
        "hdf5-chunked",
        partial(build, chunked=True),
        _Reader,
        cold=True,
    ),
    Rival("HDF5, contiguous", "hdf5-contiguous", partial(build, chunked=False), _Reader, cold=True),
]
