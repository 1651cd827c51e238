"""xarray over zarr-python on the store of this package, without dask: selection by id and name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import xarray as xr

from rivals.cube import STORE, build
from rivals.protocol import Rival, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from synthetic import Block, Field


class _Reader:
    def __init__(self, _: Field, folder: Path) -> None:
        self._dataset = xr.open_zarr(folder / STORE, chunks=None, consolidated=True)
        self._values = self._dataset["lightcurves"]

    def one(self, object_id: int, type_name: str) -> Block:
        return joined(self._values.sel(object=object_id, type=type_name).load().to_numpy())

    def all_types(self, object_id: int) -> Block:
        return joined(self._values.sel(object=object_id).load().to_numpy())

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        pairs = self._values.sel(
            object=xr.DataArray(list(object_ids), dims="pair"),
            type=xr.DataArray(list(type_names), dims="pair"),
        )
        return joined(pairs.transpose("pair", "value", "aor").load().to_numpy())

    def flux_blocks(self) -> Iterator[np.ndarray]:
        step = 128
        for first in range(0, self._values.sizes["object"], step):
            part = self._values.isel(object=slice(first, first + step), value=0)
            yield part.load().to_numpy().reshape(-1, part.sizes["aor"])

    def close(self) -> None:
        self._dataset.close()


RIVALS = [Rival("xarray over zarr-python", "cube-lz4", build, _Reader)]
