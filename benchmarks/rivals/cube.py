"""The cube of this package: one chunk per lightcurve, every read verified by its crc32c."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from synthetic import Block

from idfzarr.store.cube import Cube, create
from rivals.protocol import Rival, joined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from synthetic import Field

    from rivals.protocol import Source

STORE = "field.zarr"
_SCANNED = 8  # objects read at once: 320 lightcurves, 5 MB


def build(
    source: Source, folder: Path, *, codec: str = "lz4", precision: float | None = None
) -> None:
    """Write a cube shard by shard; every shard is fsynced and named in the ledger."""
    field = source.field
    ra, dec = field.positions
    cube = create(
        folder / STORE,
        objects={"object_id": field.object_ids, "ra": ra, "dec": dec},
        types=field.types,
        aors={"aor": field.aor_keys, "mjd": np.stack([field.mjd, field.mjd], axis=1)},
        codec=codec,
        precision=precision,
    )
    for first, block in source.blocks(cube.schema.layout.shard_objects):
        cube.write_block(first, flux=block.flux, flux_err=block.flux_err, flag=block.flag)


class _Reader:
    def __init__(self, _: Field, folder: Path) -> None:
        self._cube = Cube(folder / STORE)
        self._values = self._cube.values

    def one(self, object_id: int, type_name: str) -> Block:
        flux, flux_err, flag = self._values(object_id, type_name)
        return Block(flux, flux_err, flag.astype(np.uint16))

    def all_types(self, object_id: int) -> Block:
        return joined(self._cube.block([self._cube.row(object_id)])[0])

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        return joined(self._cube.pairs(object_ids, type_names))

    def flux_blocks(self) -> Iterator[np.ndarray]:
        for first in range(0, self._cube.shape[0], _SCANNED):
            last = min(first + _SCANNED, self._cube.shape[0])
            for values in self._cube.block(slice(first, last)):
                yield values[:, 0]

    def close(self) -> None:
        pass


RIVALS = [
    Rival("idfzarr, lz4 (default)", "cube-lz4", build, _Reader, cold=True),
    Rival("idfzarr, zstd", "cube-zstd", partial(build, codec="zstd"), _Reader),
    Rival("idfzarr, none", "cube-none", partial(build, codec="none"), _Reader, cold=True),
    Rival(
        "idfzarr, lz4, precision 0.01",
        "cube-precision",
        partial(build, precision=0.01),
        _Reader,
        lossless=False,
        note="flux within 1/100 of its error",
    ),
]
