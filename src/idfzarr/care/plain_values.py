"""Decode plain arrays chunk by chunk, in bounded memory and without leaving the store.

zarr-python decodes, from a store of its own that hands it one array's metadata and nothing but
files that were listed. What a chunk unpacks to is known before it is unpacked; where that cannot be
known, or is more than a reader should hold, the chunk is left alone and counted.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.safe_read import open_key
from idfzarr.care.shard_pieces import Pieces, read_pieces
from idfzarr.care.unpacked_size import unpacks_within
from idfzarr.progress import silent
from idfzarr.store.checksum import CRC_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Iterator

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from idfzarr.care.plain import ArrayCensus
    from idfzarr.care.zarr_node import ArrayNode
    from idfzarr.progress import Progress

__all__ = ["MOST_DECODED", "DecodedArrays", "check_plain_values"]

MOST_DECODED = 1 << 25
"""Bytes of a chunk, packed or not, beyond which it is not decoded."""

_MOST_TOLD = 100  # findings of one file
_FAILURES = (
    ValueError,
    RuntimeError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OSError,
    EOFError,
    AssertionError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
)
"""What decoders raise for damaged bytes: they have no error in common."""


@dataclass(frozen=True)
class DecodedArrays:
    """What came of decoding.

    Attributes
    ----------
    findings
        In the order of the files.
    n_chunks
        Chunks decoded.
    skipped
        Chunks left alone, by array: too large, or of a size that cannot be known beforehand.
    n_read
        Bytes read.
    """

    findings: tuple[Finding, ...]
    n_chunks: int
    skipped: dict[str, int]
    n_read: int


def check_plain_values(
    root: str,
    arrays: Iterable[ArrayCensus],
    *,
    skip: Collection[str] = (),
    progress: Progress = silent,
) -> DecodedArrays:
    """Decode every chunk of plain arrays.

    Parameters
    ----------
    root
        Folder of the store.
    arrays
        As they were looked at.
    skip
        Keys with which something is known to be wrong.
    progress
        Told files.

    Returns
    -------
    DecodedArrays
        ``chunk_corrupt`` for a chunk that cannot be decoded, ``too_large`` for one that would
        unpack to more than the metadata says, and as a note for arrays of which chunks were left
        alone.
    """
    censuses = list(arrays)
    total = sum(len(census.chunk_keys) for census in censuses)
    work = _Work(root)
    done = 0
    for census in censuses:
        decoder = _Decoder(work, census.node)
        for key in census.chunk_keys:
            if key not in census.faulty and key not in skip:
                decoder.check(key)
            done += 1
            progress("values", done, total)
        decoder.close()
    return DecodedArrays(tuple(work.findings), work.n_chunks, work.skipped, work.n_read)


class _Work:
    """What has been done so far, for all arrays."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.findings: list[Finding] = []
        self.skipped: dict[str, int] = {}
        self.n_chunks = 0
        self.n_read = 0


@dataclass(frozen=True)
class _Chunk:
    """A chunk of a file: its place in the file's own grid, and its bytes there."""

    place: tuple[int, ...]
    first: int
    n_bytes: int


class _Decoder:
    """Decodes the chunks of one array."""

    def __init__(self, work: _Work, node: ArrayNode) -> None:
        self._work, self._node = work, node
        self._store = _OneArray(work.root, node)
        self._array: zarr.Array[Any] | None = None
        self._skipped = 0

    def close(self) -> None:
        """Tell what was left alone."""
        self._work.n_read += self._store.n_read
        if not self._skipped:
            return
        path = self._node.path
        self._work.skipped[path] = self._skipped
        told = (
            f"{self._skipped} chunks of {path or 'the array'} were not decoded: each takes more "
            f"than {MOST_DECODED} bytes, or does not say how many"
        )
        where = Where(path, self._node.meta_key)
        self._work.findings.append(finding("too_large", where, told, severity="note"))

    def check(self, key: str) -> None:
        """Decode the chunks of a file."""
        node = self._node
        rest = key[len(node.path) + 1 :] if node.path else key
        position = node.position(rest)
        if position is None:
            return
        count = 0
        try:
            with open_key(self._work.root, key) as handle:
                for chunk in self._chunks(handle):
                    bad = self._fault(handle, key, position, chunk)
                    count += bad is not None
                    if bad is not None and count <= _MOST_TOLD:
                        self._work.findings.append(bad)
        except OSError:
            return  # gone, or unreadable, which the levels before this one tell
        if count > _MOST_TOLD:
            told = f"{count - _MOST_TOLD} more chunks of {key} cannot be decoded"
            self._work.findings.append(finding("chunk_corrupt", Where(node.path, key), told))

    def _chunks(self, handle: int) -> Iterator[_Chunk]:
        node = self._node
        size = os.fstat(handle).st_size
        if not node.sharded:
            yield _Chunk((0,) * len(node.shape), 0, size)
            return
        pieces = None if node.form is None else read_pieces(handle, size, node.form)
        if not isinstance(pieces, Pieces):
            self._skipped += node.form is None
            return
        within = tuple(g // c for g, c in zip(node.grid, node.inner, strict=True))
        for slot, first, last in zip(pieces.slots, pieces.first, pieces.last, strict=True):
            yield _Chunk(_unravel(int(slot), within), int(first), int(last - first))

    def _fault(
        self, handle: int, key: str, position: tuple[int, ...], chunk: _Chunk
    ) -> Finding | None:
        """Decode a chunk; return what is wrong with it."""
        node = self._node
        region = _region(node, position, chunk.place)
        if region is None:
            return None  # in the index, but beyond the shape: nobody ever reads it
        first = chunk.first if node.sharded else None
        where = Where(node.path, key, first_byte=first, n_bytes=chunk.n_bytes)
        fits = self._fits(handle, chunk)
        if fits is None:
            self._skipped += 1
            return None
        if not fits:
            told = f"a chunk of {key} unpacks to more than the {node.chunk_bytes} bytes it can have"
            return finding("too_large", where, told)
        try:
            self._opened()[region]
        except _FAILURES as error:
            told = f"a chunk of {key} cannot be decoded: {type(error).__name__}: {error!s:.200}"
            return finding("chunk_corrupt", where, told)
        self._work.n_chunks += 1
        return None

    def _fits(self, handle: int, chunk: _Chunk) -> bool | None:
        """Say whether a chunk unpacks to what it must; None where it must not be unpacked."""
        node = self._node
        most = node.chunk_bytes
        if chunk.n_bytes > MOST_DECODED or (most is not None and most > MOST_DECODED):
            return None
        packed = [name for name in node.codecs if name.removeprefix("numcodecs.") in _PACKING]
        if not packed:
            return True
        last = node.codecs[-1 - node.sealed] if len(node.codecs) > node.sealed else ""
        if len(packed) > 1 or last != packed[0]:
            return None  # what is inside the outer one cannot be seen without unpacking it
        data = os.pread(handle, chunk.n_bytes - CRC_BYTES * node.sealed, chunk.first)
        self._work.n_read += len(data)
        if most is None:
            return unpacks_within(last, data, MOST_DECODED) or None
        return unpacks_within(last, data, most)

    def _opened(self) -> zarr.Array[Any]:
        if self._array is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a type without a specification is no news here
                self._array = zarr.open_array(self._store, mode="r", zarr_format=self._node.version)
        return self._array


_PACKING = frozenset(
    ["blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma", "zfpy", "pcodec", "packbits"]
)


def _unravel(slot: int, within: tuple[int, ...]) -> tuple[int, ...]:
    place = []
    for n in reversed(within):
        slot, at = divmod(slot, n)
        place.append(at)
    return tuple(reversed(place))


def _region(
    node: ArrayNode, position: tuple[int, ...], place: tuple[int, ...]
) -> tuple[slice, ...] | None:
    """Return what of the array a chunk holds; None where it lies beyond the shape."""
    begin = [
        p * g + at * c for p, g, at, c in zip(position, node.grid, place, node.inner, strict=True)
    ]
    ends = [min(b + c, n) for b, c, n in zip(begin, node.inner, node.shape, strict=True)]
    if any(b >= e for b, e in zip(begin, ends, strict=True)):
        return None
    return tuple(itertools.starmap(slice, zip(begin, ends, strict=True)))


# -------------------------------------------------------------------- a store for zarr-python


class _OneArray(Store):
    """One array of a folder: its metadata as it was parsed, its chunk files by safe reads."""

    supports_writes = False
    supports_deletes = False
    supports_listing = False

    def __init__(self, root: str, node: ArrayNode) -> None:
        super().__init__(read_only=True)
        self._root, self._node = root, node
        self.n_read = 0
        name = "zarr.json" if node.version == 3 else ".zarray"
        document = {k: v for k, v in node.document.items() if k != "attributes"}
        if node.version == 3:
            document["attributes"] = {}
        self._own = {name: json.dumps(document).encode()}

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def _bytes(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        own = self._own.get(key)
        if own is not None:
            return own[_first_and_count(wanted, len(own))[0] :]
        if self._node.position(key) is None:
            return None
        path = f"{self._node.path}/{key}" if self._node.path else key
        try:
            with open_key(self._root, path) as handle:
                first, count = _first_and_count(wanted, os.fstat(handle).st_size)
                data = os.pread(handle, count, first)
        except (FileNotFoundError, NotADirectoryError):
            return None
        self.n_read += len(data)
        return data

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        data = self._bytes(key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in self._own

    async def set(self, key: str, value: Buffer) -> None:
        self._refuse(key, len(value))

    async def delete(self, key: str) -> None:
        self._refuse(key, 0)

    def _refuse(self, key: str, size: int) -> None:
        msg = f"{key} ({size} bytes): this array is only read"
        raise PermissionError(msg)

    async def list(self) -> AsyncIterator[str]:
        for key in self._own:
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._own:
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for key in self._own:
            if not prefix:
                yield key


def _first_and_count(wanted: ByteRequest | None, size: int) -> tuple[int, int]:
    if isinstance(wanted, RangeByteRequest):
        return wanted.start, max(0, min(wanted.end, size) - wanted.start)
    if isinstance(wanted, OffsetByteRequest):
        return wanted.offset, max(0, size - wanted.offset)
    if isinstance(wanted, SuffixByteRequest):
        count = min(wanted.suffix, size)
        return size - count, count
    return 0, size
