"""Parquet by pyarrow: lists of values, a row group per object, whose number is looked up."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from synthetic import Block

from rivals.protocol import Rival, synced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from synthetic import Field

    from rivals.protocol import Source

_NAMES = ("flux", "flux_err", "flag")


def _lists(array: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[-1])


def build(source: Source, folder: Path, *, compression: str) -> None:
    """Write a row group per object."""
    writer: pq.ParquetWriter | None = None
    n_types = len(source.field.types)
    for position, block in source.blocks(1):
        columns = {
            "object": np.repeat(source.field.object_ids[position], n_types),
            "type": np.arange(n_types, dtype=np.int16),
            **{name: _lists(array[0]) for name, array in zip(_NAMES, block, strict=True)},
        }
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(
            folder / "field.parquet", table.schema, use_dictionary=False, compression=compression
        )
        writer.write_table(table)
    if writer is not None:
        writer.close()
    synced(folder)


def _array(column: pa.ChunkedArray) -> np.ndarray:
    lists = column.chunk(0)
    return lists.flatten().to_numpy(zero_copy_only=True).reshape(len(lists), -1)


class _Reader:
    def __init__(self, field: Field, folder: Path) -> None:
        self._file = pq.ParquetFile(folder / "field.parquet", memory_map=True)
        self._rows = {object_id: row for row, object_id in enumerate(field.object_ids.tolist())}
        self._columns = {name: column for column, name in enumerate(field.types)}

    def _group(self, row: int, names: Sequence[str] = _NAMES) -> list[np.ndarray]:
        table = self._file.read_row_group(row, columns=list(names), use_threads=False)
        return [_array(table.column(name)) for name in names]

    def one(self, object_id: int, type_name: str) -> Block:
        column = self._columns[type_name]
        return Block(*(array[column] for array in self._group(self._rows[object_id])))

    def all_types(self, object_id: int) -> Block:
        return Block(*self._group(self._rows[object_id]))

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        found = [self.one(i, t) for i, t in zip(object_ids, type_names, strict=True)]
        return Block(*(np.stack(arrays) for arrays in zip(*found, strict=True)))

    def flux_blocks(self) -> Iterator[np.ndarray]:
        for row in range(len(self._rows)):
            yield self._group(row, ["flux"])[0]

    def close(self) -> None:
        self._file.close()


RIVALS = [
    Rival("Parquet (zstd)", "parquet-zstd", partial(build, compression="zstd"), _Reader),
    Rival("Parquet (uncompressed)", "parquet", partial(build, compression="none"), _Reader),
]
