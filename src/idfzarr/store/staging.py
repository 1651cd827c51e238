"""Staging: measurements on their way from AORs to lightcurves.

Mosaics are measured AOR by AOR, lightcurves are stored object by object; staging turns one into
the other in bounded memory. A batch of B AORs is one file, a shard of the array ``staging`` (aor,
object, type, value), with an inner chunk (B, S, T, 3) for every shard of the cube: a shard task
reads its own chunk of every batch and nothing else. Missing room is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import ChunkMissing, UsageError
from idfzarr.store.schema import STAGING, VALUES
from idfzarr.store.shard import (
    decode_chunk,
    encode_chunk,
    index_bytes,
    join_chunks,
    parse_index,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idfzarr.store.place import Place
    from idfzarr.store.schema import CubeSchema

__all__ = ["batch_aors", "encode_staging", "n_batches", "read_staging", "staging_key"]


def n_batches(schema: CubeSchema) -> int:
    """Return how many batches of AORs there are."""
    return -(-schema.layout.n_aors // schema.staging_aors)


def batch_aors(schema: CubeSchema, batch: int) -> tuple[int, int]:
    """Return the first AOR of a batch and the one after its last, as positions.

    Raises
    ------
    UsageError
        There is no such batch.
    """
    if not 0 <= batch < n_batches(schema):
        msg = f"there is no batch {batch}: there are {n_batches(schema)}, counted from 0"
        raise UsageError(msg)
    first = batch * schema.staging_aors
    return first, min(first + schema.staging_aors, schema.layout.n_aors)


def staging_key(batch: int) -> str:
    """Return the key of a batch's file."""
    return f"{STAGING}/c/{batch}/0/0/0"


def _chunk_shape(schema: CubeSchema) -> tuple[int, int, int, int]:
    layout = schema.layout
    return (schema.staging_aors, layout.shard_objects, layout.n_types, len(VALUES))


def encode_staging(schema: CubeSchema, block: NDArray[np.float32]) -> bytes:
    """Encode the measurements of one batch.

    Parameters
    ----------
    schema
        What the cube is.
    block
        (aor, object, type, value) float32, all objects.

    Returns
    -------
    bytes
        The file of the batch.
    """
    return join_chunks(_encoded(schema, block, shard) for shard in range(schema.layout.n_shards))


def _encoded(schema: CubeSchema, block: NDArray[np.float32], shard: int) -> bytes:
    first, last = schema.layout.rows(shard)
    chunk = np.full(_chunk_shape(schema), np.nan, dtype=np.float32)
    chunk[: len(block), : last - first] = block[:, first:last]
    return encode_chunk(chunk, "lz4")


def read_staging(place: Place, schema: CubeSchema, shard: int) -> NDArray[np.float32]:
    """Read what is staged for one shard.

    Parameters
    ----------
    place
        The store.
    schema
        What the cube is.
    shard
        Number of the shard.

    Returns
    -------
    ndarray of float32
        (aor, row, type, value), the rows that exist.

    Raises
    ------
    ChunkMissing
        A batch is not staged.
    ChunkCorrupt, ShardCorrupt
        A staging file is damaged; stage the batch again.
    """
    layout = schema.layout
    first, last = layout.rows(shard)
    out = np.empty((layout.n_aors, last - first, layout.n_types, len(VALUES)), np.float32)
    chunk = np.empty(_chunk_shape(schema), dtype=np.float32)
    for batch in range(n_batches(schema)):
        begin, end = batch_aors(schema, batch)
        _read_chunk(place, batch, shard, layout.n_shards, chunk)
        out[begin:end] = chunk[: end - begin, : last - first]
    return out


def _read_chunk(
    place: Place, batch: int, shard: int, n_shards: int, out: NDArray[np.float32]
) -> None:
    key = staging_key(batch)
    where = f"{place.url}/{key}"
    size = place.size(key)
    if size is None:
        msg = f"batch {batch} of the AORs is not staged: there is no {where}; run the build again"
        raise ChunkMissing(msg)
    begin = max(0, size - index_bytes(n_shards))
    tail = place.read_range(key, begin, size - begin)
    offset, length = (int(n) for n in parse_index(tail, n_shards, size, where=where)[shard])
    data = place.read_range(key, offset, length)
    decode_chunk(data, out, "lz4", where=f"the staging of shard {shard} in {where}")
