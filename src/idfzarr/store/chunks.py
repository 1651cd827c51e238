"""Decode many chunks at once: blosc takes the blocks of all of them for those of one buffer.

A chunk of this package is a blosc buffer of one block. A header is put before the bytes of many,
which says where each block stands; one call then decompresses them side by side, without the GIL
and without copying them together first. The format is that of C-Blosc 1,
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst
"""

from __future__ import annotations

import os
import struct
import threading
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

import google_crc32c
import numcodecs.blosc
import numpy as np

from idfzarr.store.checksum import CRC_BYTES, RESIDUE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "MOST_BYTES",
    "Chunks",
    "are_intact",
    "begins",
    "header_bytes",
    "read_runs",
    "scratch",
    "unpack_blosc",
]

MOST_BYTES = 1 << 28
"""Bytes that one call decompresses at most, well below the 2**31 of blosc."""

_MOST_HELD = 1 << 22  # bytes of one piece of memory kept for later
_MOST_FREE = 2  # pieces: one to read into, one to decode into

_HEADER = 16  # version, its compressor's, flags, type size; then sizes: all, block, compressed
_START = 4  # bytes of the place where a block begins
_HEAD = struct.Struct("<5I").unpack_from  # the header of a chunk, and where its first block begins
_HEAD_BYTES = _HEADER + _START
_LEAST = _HEAD_BYTES + CRC_BYTES
_STORED = 0x02  # flag: not compressed

# Blosc's own threads would be woken for every read; zarr-python switches them off as it is
# imported, and what this package does shall not depend on that.
numcodecs.blosc.use_threads = False


def header_bytes(n_chunks: int) -> int:
    """Return the room that `unpack_blosc` needs before the chunks."""
    return _HEADER + _START * n_chunks


class Chunks(NamedTuple):
    """Where chunks stand: for each an open file, and its offset and length there."""

    handles: Sequence[int]
    offsets: Sequence[int]
    lengths: Sequence[int]


class _Free(threading.local):
    """Memory that a thread has done with."""

    def __init__(self) -> None:
        self.held: list[NDArray[np.uint8]] = []


_free = _Free()


@contextmanager
def scratch(n_bytes: int) -> Iterator[NDArray[np.uint8]]:
    """Lend memory that is used again later: fresh memory costs a page fault for every 4 kB.

    Parameters
    ----------
    n_bytes
        How much.
    """
    # Taken out while in use, so that whoever interrupts this thread gets memory of its own.
    held = _free.held.pop() if _free.held else None
    if held is None or len(held) < n_bytes:
        held = np.empty(n_bytes + n_bytes // 4, dtype=np.uint8)
    yield held[:n_bytes]
    if len(held) <= _MOST_HELD and len(_free.held) < _MOST_FREE:
        _free.held.append(held)


def begins(chunks: Chunks, first: int) -> list[int]:
    """Return where each chunk stands in a buffer, one after another, and where the last one ends.

    Parameters
    ----------
    chunks
        What is to be read.
    first
        Room before them.
    """
    return list(accumulate(chunks.lengths, initial=first))


def read_runs(chunks: Chunks, begin: Sequence[int], into: NDArray[np.uint8]) -> bool:
    """Read chunks into a buffer, those that stand next to one another on disk with one call.

    Parameters
    ----------
    chunks
        What to read.
    begin
        Where each is to stand in the buffer, and where the last one ends.
    into
        Filled from ``begin[0]`` to ``begin[-1]``.

    Returns
    -------
    bool
        Whether the files had them all.
    """
    runs: list[tuple[int, int, int]] = []
    file, end = -1, -1
    for handle, offset, length, at in zip(*chunks, begin, strict=False):
        if offset != end or handle != file:
            runs.append((handle, offset, at))
        file, end = handle, offset + length
    room = memoryview(into.data)
    ends = [at for _, _, at in runs[1:]] + [begin[-1]]
    return all(
        os.preadv(handle, [room[at:end]], offset) == end - at
        for (handle, offset, at), end in zip(runs, ends, strict=True)
    )


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
    return all(crc(buffer[first:last]) == RESIDUE for first, last in pairwise(begin))


def unpack_blosc(buffer: NDArray[np.uint8], begin: Sequence[int], out: NDArray[np.float32]) -> bool:
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
    chunk_bytes = out.nbytes // len(out)
    if out.nbytes > MOST_BYTES or len(buffer) < begin[0] + _LEAST:
        return False
    view = buffer.data
    kind = _HEAD(view, begin[0])[0]
    alike = all(
        last - first >= _LEAST
        and _HEAD(view, first)
        == (kind, chunk_bytes, chunk_bytes, last - first - CRC_BYTES, _HEAD_BYTES)
        for first, last in pairwise(begin)
    )
    if not alike or (kind >> 16) & _STORED:
        return False
    header = buffer[: header_bytes(len(out))].view("<u4")
    header[:4] = kind, out.nbytes, chunk_bytes, len(buffer)
    header[4:] = begin[:-1]
    header[4:] += _HEAD_BYTES
    try:
        numcodecs.blosc.decompress(buffer, out)
    except (RuntimeError, ValueError):
        return False
    return True
