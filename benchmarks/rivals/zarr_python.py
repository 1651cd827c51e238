"""zarr-python on the store of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import zarr

from rivals.cube import STORE, build
from rivals.protocol import Rival, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from synthetic import Block, Field


class _Reader:
    def __init__(self, field: Field, folder: Path) -> None:
        self._values = zarr.open_group(str(folder / STORE), mode="r")["lightcurves"]
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
        step = self._values.shards[0]
        for first in range(0, len(self._rows), step):
            flux = self._values[first : first + step, :, 0]
            yield flux.reshape(-1, flux.shape[-1])

    def close(self) -> None:
        pass


RIVALS = [Rival("zarr-python on the same store", "cube-lz4", build, _Reader, cold=True)]
