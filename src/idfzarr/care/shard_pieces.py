"""Where the chunks of a shard of any Zarr v3 array stand, by an index that is not believed blindly.

By the codec ``sharding_indexed``
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/) the index is an offset and
a length for each chunk, in C order, at the end of the file or at its start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from idfzarr.store.checksum import CRC_BYTES, is_intact
from idfzarr.store.shard import ABSENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["IndexFault", "Pieces", "ShardForm", "read_pieces"]

_ENTRY = 16
_MOST_INDEX = 1 << 26


@dataclass(frozen=True)
class ShardForm:
    """How the files of a sharded array are made up.

    Attributes
    ----------
    n_chunks
        Entries of the index.
    index_at
        ``end`` or ``start``.
    index_sealed
        Whether the index ends in its crc32c.
    sealed
        Whether every chunk does.
    dense
        Whether every byte must belong to a chunk or to the index: so it is in shards of this
        package; the specification asks it of nobody.
    endian
        ``<`` or ``>``, of the numbers in the index.
    """

    n_chunks: int
    index_at: Literal["end", "start"] = "end"
    index_sealed: bool = True
    sealed: bool = True
    dense: bool = False
    endian: Literal["<", ">"] = "<"

    @property
    def index_bytes(self) -> int:
        """Size of the index with its crc32c."""
        return self.n_chunks * _ENTRY + CRC_BYTES * self.index_sealed


@dataclass(frozen=True)
class IndexFault:
    """Why an index cannot be believed.

    Attributes
    ----------
    kind
        ``shard_torn``, ``index_corrupt``, ``index_wrong`` or ``too_large``.
    message
        What was found, without the file's name.
    """

    kind: str
    message: str


@dataclass(frozen=True, eq=False)
class Pieces:
    """Chunks of a shard in the order in which they stand in it.

    Attributes
    ----------
    slots
        Place of each in the index.
    first, last
        Its first byte in the file, and the one after its last.
    """

    slots: NDArray[np.intp]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @property
    def n_bytes(self) -> int:
        """Bytes of all of them."""
        return int((self.last - self.first).sum())


def read_pieces(handle: int, size: int, form: ShardForm) -> Pieces | IndexFault:
    """Read the index of a shard.

    Parameters
    ----------
    handle
        Open file.
    size
        Its bytes.
    form
        How it is made up.

    Returns
    -------
    Pieces or IndexFault
        The chunks that it holds, none of which lies outside it or upon another; or why that cannot
        be said.
    """
    n_bytes = form.index_bytes
    if n_bytes > _MOST_INDEX:
        return IndexFault("too_large", f"an index of {n_bytes} bytes is more than is read at once")
    if n_bytes > size:
        return IndexFault("shard_torn", f"it has {size} bytes, its index alone takes {n_bytes}")
    begin, end = (n_bytes, size) if form.index_at == "start" else (0, size - n_bytes)
    raw = os.pread(handle, n_bytes, 0 if form.index_at == "start" else end)
    if len(raw) != n_bytes:
        return IndexFault("shard_torn", "it ended while its index was read")
    if form.index_sealed and not is_intact(raw):
        return IndexFault("index_corrupt", "its index does not match its crc32c")
    return _placed(raw, form, begin, end)


def _placed(raw: bytes, form: ShardForm, begin: int, end: int) -> Pieces | IndexFault:
    """Return the chunks by a whole index, if all lie in these bytes and none upon another."""
    table = np.frombuffer(raw, dtype=f"{form.endian}u8", count=2 * form.n_chunks).reshape(-1, 2)
    slots = np.flatnonzero(~(table == ABSENT).all(axis=1))
    offset, length = table[slots].astype(np.uint64).T
    top = np.uint64(end)
    outside = (offset < begin) | (offset > top) | (length > top - np.minimum(offset, top))
    if outside.any():
        slot = int(slots[np.flatnonzero(outside)[0]])
        return IndexFault("index_wrong", f"entry {slot} of its index points outside it")
    order = np.lexsort((length, offset))
    first = offset[order].astype(np.int64)
    last = first + length[order].astype(np.int64)
    upon = np.flatnonzero(last[:-1] > first[1:])
    if len(upon):
        one, other = (int(slots[order[upon[0] + k]]) for k in (0, 1))
        return IndexFault("index_wrong", f"entries {one} and {other} of its index share bytes")
    return Pieces(slots[order], first, last)
