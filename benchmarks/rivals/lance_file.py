"""Lance: fixed-size lists, rows taken by their number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lance
import pyarrow as pa
from synthetic import Block

from rivals.protocol import Rival, synced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from synthetic import Field

    from rivals.protocol import Source

_NAMES = ["flux", "flux_err", "flag"]


def _lists(array: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[-1])


def _batches(source: Source) -> Iterator[pa.RecordBatch]:
    for _, block in source.blocks(16):
        arrays = [_lists(array) for array in block]
        yield pa.RecordBatch.from_arrays(arrays, names=_NAMES)


def build(source: Source, folder: Path) -> None:
    """Write the rows in the order of objects and types."""
    batches = _batches(source)
    first = next(batches)
    everything = (batch for part in ((first,), batches) for batch in part)
    reader = pa.RecordBatchReader.from_batches(first.schema, everything)
    lance.write_dataset(reader, str(folder / "field.lance"))
    synced(folder)


def _block(table: pa.Table) -> Block:
    lists = [table.column(name).combine_chunks() for name in _NAMES]
    return Block(*(x.flatten().to_numpy().reshape(len(x), -1) for x in lists))


class _Reader:
    def __init__(self, field: Field, folder: Path) -> None:
        self._dataset = lance.dataset(str(folder / "field.lance"))
        self._rows = {object_id: row for row, object_id in enumerate(field.object_ids.tolist())}
        self._columns = {name: column for column, name in enumerate(field.types)}
        self._n_types = len(field.types)

    def _number(self, object_id: int, type_name: str) -> int:
        return self._rows[object_id] * self._n_types + self._columns[type_name]

    def one(self, object_id: int, type_name: str) -> Block:
        found = _block(self._dataset.take([self._number(object_id, type_name)], columns=_NAMES))
        return Block(*(array[0] for array in found))

    def all_types(self, object_id: int) -> Block:
        first = self._rows[object_id] * self._n_types
        return _block(self._dataset.take(list(range(first, first + self._n_types)), columns=_NAMES))

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        numbers = [self._number(i, t) for i, t in zip(object_ids, type_names, strict=True)]
        return _block(self._dataset.take(numbers, columns=_NAMES))

    def flux_blocks(self) -> Iterator[np.ndarray]:
        for batch in self._dataset.to_batches(columns=["flux"], batch_size=16 * self._n_types):
            lists = batch.column("flux")
            yield lists.flatten().to_numpy().reshape(len(lists), -1)

    def close(self) -> None:
        pass


RIVALS = [Rival("Lance, fixed-size lists", "lance", build, _Reader)]
