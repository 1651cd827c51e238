"""The fast path on object storage, the web and zip files: an index once, then ranges of bytes.

A shard costs two small requests once, for its size and for the index at its end, which is verified
and kept. A lightcurve then is one range. A block is as few ranges as its chunks allow, since those
of neighbouring objects stand next to one another; several are under way at a time.

How replaced shards are noticed
    A chunk that fails its checksum, or that is absent, is asked for once more from an index read
    anew. What a chunk's checksum matches is that chunk as it stood there at one time.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

from idfzarr.errors import ChunkCorrupt, ShardCorrupt
from idfzarr.store.forking import renew_lock_after_fork
from idfzarr.store.shard import ABSENT, decode_chunk, index_bytes, parse_index

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from idfzarr.store.layout import Layout
    from idfzarr.store.shard import Codec

__all__ = ["RangedPlace", "RemoteShardReader"]

FRESH = 1.0
"""Seconds for which a chunk or a shard that was not there is taken to be still not there."""

AT_ONCE = 8
"""Requests under way at a time; object storage answers one at 10 to 100 MB/s."""

MOST_RANGE = 1 << 23
"""Bytes of one request at most."""

MOST_GAP = 1 << 16
"""Bytes that are read and thrown away rather than made another request."""

SMALL = 1 << 16
"""A shard no larger is read whole by one request."""

MOST_KEPT = 1 << 28
"""Bytes of whole shards kept, of servers that give no ranges."""

_T = TypeVar("_T")
_R = TypeVar("_R")


class RangedPlace(Protocol):
    """A place whose files are read in ranges."""

    @property
    def url(self) -> str:
        """The place as a person writes it."""

    def size(self, key: str) -> int | None:
        """Return the number of bytes of a key, None where there is none."""

    def fetch(self, key: str, first: int, count: int) -> bytes:
        """Return a range of bytes, or all of them where ranges cannot be had."""


class _Shard(NamedTuple):
    """A shard's verified index, when it was read, and the whole shard where that was read."""

    entries: NDArray[np.uint64]
    read_at: float
    whole: bytes | None


class _Run(NamedTuple):
    """Chunks of one shard read by one request: position in the answer, row, column, entry."""

    number: int
    chunks: list[_Chunk]


class _Chunk(NamedTuple):
    at: int
    row: int
    column: int
    offset: int
    length: int


class RemoteShardReader:
    """Reads the chunks of the cube from shards that are read in ranges.

    Parameters
    ----------
    place
        The store.
    layout
        Shape of the cube and of its shards.
    codec
        How chunks are compressed.
    must_exist
        Told the number of a shard of which something is missing; raises `ChunkMissing` unless that
        is as it should be.
    label
        Says in words which object and type stand at a row and a column.
    """

    def __init__(
        self,
        place: RangedPlace,
        layout: Layout,
        codec: Codec,
        *,
        must_exist: Callable[[int], None],
        label: Callable[[int, int], str] = "[{}, {}]".format,
    ) -> None:
        self._place = place
        self._layout = layout
        self._codec = codec
        self._must_exist = must_exist
        self._label = label
        self._lock = threading.Lock()
        self._shards: dict[int, _Shard] = {}
        self._absent: dict[int, float] = {}
        renew_lock_after_fork(self)

    def read(self, row: int, column: int) -> NDArray[np.float32]:
        """Return one lightcurve, (value, aor); all NaN where there is no chunk."""
        found: NDArray[np.float32] = self.read_pairs([row], [column])[0]
        return found

    def read_block(
        self, rows: Sequence[int], columns: Sequence[int], *, aors: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return (row, column, value, aor) of any rows and columns."""
        n_rows, n_columns = len(rows), len(columns)
        found = self.read_pairs(np.repeat(rows, n_columns), np.tile(columns, n_rows), aors=aors)
        return found.reshape(n_rows, n_columns, *found.shape[1:])

    def read_pairs(
        self, rows: ArrayLike, columns: ArrayLike, *, aors: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return (pair, value, aor) of one row and one column each.

        Raises
        ------
        ChunkCorrupt, ShardCorrupt
            Damaged.
        ChunkMissing
            Not there, though it was written.
        StoreError
            The server fails or refuses.
        """
        pairs = np.stack([rows, columns], axis=1).astype(np.int64).tolist()
        n_kept = len(range(*aors.indices(self._layout.n_aors)))
        out = np.full((len(pairs), self._layout.shape[2], n_kept), np.nan, dtype=np.float32)
        runs = self._runs([(at, row, column) for at, (row, column) in enumerate(pairs)])

        def fill(run: _Run) -> list[_Chunk]:
            data, begin = self._fetched(run)
            return [
                chunk
                for chunk in run.chunks
                if not self._decoded(data, begin, chunk, out[chunk.at], aors)
            ]

        for chunk in [chunk for failed in _each(fill, runs) for chunk in failed]:
            out[chunk.at] = self._again(chunk.row, chunk.column)[:, aors]
        return out

    def forget(self, shard: int, /) -> None:
        """Let go of a shard's index."""
        with self._lock:
            self._shards.pop(shard, None)
            self._absent.pop(shard, None)

    # ---------------------------------------------------------------- requests

    def _runs(self, wanted: list[tuple[int, int, int]]) -> list[_Run]:
        """Return the requests that read these chunks (position, row, column)."""
        layout = self._layout
        wanted.sort(key=lambda one: one[1:])
        grouped = {
            number: list(chunks)
            for number, chunks in groupby(wanted, key=lambda one: layout.shard_of(one[1]))
        }
        shards = dict(zip(grouped, _each(self._asked, list(grouped.items())), strict=True))
        runs: list[_Run] = []
        for number, chunks in grouped.items():
            shard = shards[number]
            if shard is not None:
                runs += self._runs_of(number, shard, chunks)
        return runs

    def _runs_of(
        self, number: int, shard: _Shard, chunks: list[tuple[int, int, int]]
    ) -> list[_Run]:
        slots = [self._layout.slot(row, column) for _, row, column in chunks]
        entries = shard.entries[slots].tolist()
        found = sorted(
            (
                _Chunk(at, row, column, offset, length)
                for (at, row, column), (offset, length) in zip(chunks, entries, strict=True)
                if length != ABSENT
            ),
            key=lambda chunk: chunk.offset,
        )
        if len(found) < len(chunks):
            self._must_exist(number)
        runs: list[_Run] = []
        begin = end = -1
        for chunk in found:
            last = chunk.offset + chunk.length
            if not runs or chunk.offset > end + MOST_GAP or last > begin + MOST_RANGE:
                begin = chunk.offset
                runs.append(_Run(number, []))
            runs[-1].chunks.append(chunk)
            end = last
        return runs

    def _fetched(self, run: _Run) -> tuple[bytes, int]:
        """Return bytes of a shard, and where in it they begin."""
        shard = self._shards.get(run.number)
        if shard is not None and shard.whole is not None:
            return shard.whole, 0
        first = run.chunks[0].offset
        count = max(chunk.offset + chunk.length for chunk in run.chunks) - first
        try:
            data = self._place.fetch(self._layout.key(run.number), first, count)
        except FileNotFoundError:
            return b"", first  # gone since its index was read
        return data, 0 if len(data) > count else first

    def _decoded(
        self, data: bytes, begin: int, chunk: _Chunk, out: NDArray[np.float32], aors: slice
    ) -> bool:
        piece = data[chunk.offset - begin : chunk.offset - begin + chunk.length]
        values = np.empty(self._layout.chunk_shape[2:], dtype=np.float32)
        try:
            decode_chunk(piece, values, self._codec, where="")
        except ChunkCorrupt:
            return False
        out[...] = values[:, : self._layout.n_aors][:, aors]
        return True

    def _again(self, row: int, column: int) -> NDArray[np.float32]:
        """Read a chunk that failed once more by an index read anew; say what is wrong."""
        number = self._layout.shard_of(row)
        self.forget(number)
        out = np.full(self._layout.chunk_shape[2:], np.nan, dtype=np.float32)
        for run in self._runs([(0, row, column)]):
            data, begin = self._fetched(run)
            chunk = run.chunks[0]
            piece = data[chunk.offset - begin : chunk.offset - begin + chunk.length]
            where = f"lightcurves {self._label(row, column)} in {self._where(number)}"
            decode_chunk(piece, out, self._codec, where=where)
        return out[:, : self._layout.n_aors]

    # ---------------------------------------------------------------- shards

    def _where(self, number: int) -> str:
        return f"{self._place.url}/{self._layout.key(number)}"

    def _asked(self, wanted: tuple[int, list[tuple[int, int, int]]]) -> _Shard | None:
        """Return a shard; where its index is damaged, say which lightcurve was asked for."""
        number, chunks = wanted
        try:
            return self._shard(number, [self._layout.slot(*one[1:]) for one in chunks])
        except ShardCorrupt as error:
            msg = f"lightcurves {self._label(*chunks[0][1:])} cannot be read: {error}"
            raise ShardCorrupt(msg) from error

    def _shard(self, number: int, slots: list[int]) -> _Shard | None:
        """Return a shard, None where it is not; what is absent is not believed for long."""
        now = time.monotonic()
        shard = self._shards.get(number)
        if (
            shard is not None
            and now > shard.read_at + FRESH
            and (shard.entries[slots, 1] == ABSENT).any()
        ):
            shard = None
        if shard is None and now > self._absent.get(number, -np.inf) + FRESH:
            shard = self._open(number)
            with self._lock:
                if shard is None:
                    self._shards.pop(number, None)
                    self._absent[number] = now
                else:
                    self._keep(number, shard)
        if shard is None:
            self._must_exist(number)
        return shard

    def _keep(self, number: int, shard: _Shard) -> None:
        self._shards[number] = shard
        self._absent.pop(number, None)
        kept = sum(len(s.whole) for s in self._shards.values() if s.whole is not None)
        for other in list(self._shards) if kept > MOST_KEPT else []:
            whole = self._shards[other].whole
            if whole is not None and other != number and kept > MOST_KEPT:
                kept -= len(whole)
                del self._shards[other]

    def _open(self, number: int) -> _Shard | None:
        key = self._layout.key(number)
        n_chunks = self._layout.chunks_per_shard
        now = time.monotonic()
        for attempt in (1, 2):  # a shard may be replaced between the two requests
            size = self._place.size(key)
            if size is None:
                return None
            count = size if size <= SMALL else min(size, index_bytes(n_chunks))
            try:
                data = self._place.fetch(key, size - count, count)
            except FileNotFoundError:
                continue
            tail = data[max(0, len(data) - index_bytes(n_chunks)) :]
            try:
                index = parse_index(tail, n_chunks, size, where=self._where(number))
            except ShardCorrupt:
                if attempt == 1:
                    continue
                raise
            return _Shard(index, now, data if len(data) == size else None)
        return None


def _each(work: Callable[[_T], _R], todo: Sequence[_T]) -> list[_R]:
    """Do work for each, several at a time; a pool of its own, so that forks need not care."""
    if len(todo) <= 1:
        return [work(one) for one in todo]
    with ThreadPoolExecutor(min(AT_ONCE, len(todo)), thread_name_prefix="idfzarr-fetch") as pool:
        return list(pool.map(work, todo))
