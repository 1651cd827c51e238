"""tensorstore on the store of this package, with its cache, which keeps the shards' indices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tensorstore as ts

from rivals.cube import STORE, build
from rivals.protocol import Rival, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from synthetic import Block, Field

CACHE_BYTES = 256 << 20


class _Reader:
    def __init__(self, field: Field, folder: Path) -> None:
        self._values = ts.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": f"{folder / STORE / 'lightcurves'}/"},
                "recheck_cached_data": False,
                "recheck_cached_metadata": False,
            },
            context=ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}}),
            read=True,
            open=True,
        ).result()
        self._rows = {object_id: row for row, object_id in enumerate(field.object_ids.tolist())}
        self._columns = {name: column for column, name in enumerate(field.types)}

    def one(self, object_id: int, type_name: str) -> Block:
        values = self._values[self._rows[object_id], self._columns[type_name]]
        return joined(values.read().result())

    def all_types(self, object_id: int) -> Block:
        return joined(self._values[self._rows[object_id]].read().result())

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        rows = [self._rows[i] for i in object_ids]
        columns = [self._columns[t] for t in type_names]
        return joined(self._values.vindex[rows, columns].read().result())

    def flux_blocks(self) -> Iterator[np.ndarray]:
        step = 16
        for first in range(0, len(self._rows), step):
            last = min(first + step, len(self._rows))
            flux = self._values[first:last, :, 0].read().result()
            yield flux.reshape(-1, flux.shape[-1])

    def close(self) -> None:
        pass


RIVALS = [
    Rival(
        "tensorstore on the same store",
        "cube-lz4",
        build,
        _Reader,
        note=f"cache of {CACHE_BYTES >> 20} MB",
    )
]
