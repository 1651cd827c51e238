"""Decode many chunks at once: blosc takes the blocks of all of them for those of one buffer.

A chunk of this package is a blosc buffer of one block. A header is put before the bytes of many,
which says where each block stands; one call then decompresses them side by side, without the GIL
and without copying them together first. The format is that of C-Blosc 1,
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import google_crc32c
import numcodecs.blosc
import numpy as np

from idfzarr.store.checksum import CRC_BYTES, RESIDUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["MOST_BYTES", "are_intact", "header_bytes", "read_runs", "unpack_blosc"]

MOST_BYTES = 1 << 28
"""Bytes that one call decompresses at most, well below the 2**31 of blosc."""

_HEADER = 16  # version, its compressor's, flags, type size; then sizes: all, block, compressed
_START = 4  # bytes of the place where a block begins
_STORED = 0x02  # flag: not compressed

# Blosc's own threads would be woken for every read; zarr-python switches them off as it is
# imported, and what this package does shall not depend on that.
numcodecs.blosc.use_threads = False


def header_bytes(n_chunks: int) -> int:
    """Return the room that `unpack_blosc` needs before the chunks."""
    return _HEADER + _START * n_chunks


def read_runs(
    handles: Sequence[int],
    offset: NDArray[np.int64],
    begin: NDArray[np.int64],
    into: NDArray[np.uint8],
) -> bool:
    """Read chunks into a buffer, those that stand next to one another on disk with one call.

    Parameters
    ----------
    handles
        The open shard of each chunk.
    offset
        Where each stands in its file.
    begin
        Where each is to stand in the buffer, one after another, and where the last one ends.
    into
        Filled from ``begin[0]`` to ``begin[-1]``.

    Returns
    -------
    bool
        Whether the files had them all.
    """
    moved = np.diff(offset - begin[:-1]) != 0
    if handles[0] != handles[-1] or len(set(handles)) > 1:
        moved |= np.diff(handles) != 0
    cuts = [0, *(np.flatnonzero(moved) + 1).tolist()]
    edges = begin[[*cuts, -1]].tolist()
    for k, at, first, last in zip(cuts, offset[cuts].tolist(), edges, edges[1:], strict=False):
        if os.preadv(handles[k], [into[first:last]], at) != last - first:
            return False
    return True


def are_intact(buffer: NDArray[np.uint8], begin: Sequence[int]) -> bool:
    """Say whether all chunks match their crc32c.

    Parameters
    ----------
    buffer
        Chunks, one after another.
    begin
        Where each stands, and where the last one ends.
    """
    crc = google_crc32c.value
    return all(
        crc(buffer[first:last]) == RESIDUE for first, last in zip(begin, begin[1:], strict=False)
    )


def unpack_blosc(
    buffer: NDArray[np.uint8], begin: NDArray[np.int64], out: NDArray[np.float32]
) -> bool:
    """Decompress chunks that match their checksums.

    Parameters
    ----------
    buffer
        `header_bytes` of room, which is overwritten, then the chunks one after another.
    begin
        Where each stands, and where the last one ends.
    out
        (chunk, value, capacity), C order; filled.

    Returns
    -------
    bool
        False where they are not alike, or not chunks of one block, and must be decompressed one by
        one.
    """
    n = len(begin) - 1
    length = np.diff(begin)
    chunk_bytes = out.nbytes // n
    if length.min() < _HEADER + _START + CRC_BYTES or out.nbytes > MOST_BYTES:
        return False
    heads = buffer[begin[:-1, None] + np.arange(_HEADER + _START)].view("<u4")
    kind, whole, block, packed, start = heads.T
    alike = (
        (kind == kind[0])
        & (whole == chunk_bytes)
        & (block == chunk_bytes)
        & (packed == length - CRC_BYTES)
        & (start == _HEADER + _START)
    )
    if not alike.all() or (int(kind[0]) >> 16) & _STORED:
        return False
    header = buffer[: header_bytes(n)].view("<u4")
    header[:4] = kind[0], out.nbytes, chunk_bytes, len(buffer)
    header[4:] = begin[:-1] + _HEADER + _START
    try:
        numcodecs.blosc.decompress(buffer, out)
    except (RuntimeError, ValueError):
        return False
    return True
