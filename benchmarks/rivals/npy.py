"""A bare memory-mapped array without names, checksums or compression: the limit, not a rival."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from synthetic import Block

from rivals.protocol import Rival, joined, stacked, synced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from synthetic import Field

    from rivals.protocol import Source


def build(source: Source, folder: Path) -> None:
    """Write float32 (object, type, value, aor) as one file."""
    field = source.field
    shape = (field.n_objects, len(field.types), 3, field.n_aors)
    mapped = np.lib.format.open_memmap(folder / "values.npy", "w+", np.float32, shape)
    for first, block in source.blocks(64):
        values = stacked(block)
        mapped[first : first + len(values)] = values
    mapped.flush()
    synced(folder)


class _Reader:
    def __init__(self, field: Field, folder: Path) -> None:
        # As a plain array: numpy.memmap itself costs some microseconds for every slice.
        self._values = np.asarray(np.load(folder / "values.npy", mmap_mode="r"))
        self._rows = {object_id: row for row, object_id in enumerate(field.object_ids.tolist())}
        self._columns = {name: column for column, name in enumerate(field.types)}

    def one(self, object_id: int, type_name: str) -> Block:
        flux, flux_err, flag = self._values[self._rows[object_id], self._columns[type_name]].copy()
        return Block(flux, flux_err, flag.astype(np.uint16))

    def all_types(self, object_id: int) -> Block:
        return joined(self._values[self._rows[object_id]].copy())

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        rows = [self._rows[i] for i in object_ids]
        return joined(self._values[rows, [self._columns[t] for t in type_names]])

    def flux_blocks(self) -> Iterator[np.ndarray]:
        for values in self._values:
            yield values[:, 0]

    def close(self) -> None:
        pass


RIVALS = [Rival("memory-mapped .npy (limit)", "npy", build, _Reader)]
