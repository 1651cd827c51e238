"""The fast path: one lightcurve is one pread, one checksum, one decompression.

zarr-python takes a millisecond for a chunk of a shard, most of it in its event loop and in reading
the shard's index anew. Here a shard is opened and its index verified once; a read is then
`os.pread`, crc32c over the chunk, and one call of numcodecs.

How replaced shards are noticed
    An open file goes on showing the shard it was opened on, whole, even when its name is given to
    another file. `os.fstat` tells: replacing, removing or moving a file changes its ctime. It
    costs as much as a read, so an open shard is asked at most every `FRESH` seconds; what
    this process writes is noticed at once, by `forget`, and so is a chunk that fails its checksum.

Threads and forks
    Reads take no lock. A shard's file is closed when the last reader lets go of it, never under
    a reader's feet, and pread has no position to share, so threads and forked processes may use
    the same descriptors.
"""

from __future__ import annotations

import os
import struct
import threading
import time
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import google_crc32c
import numcodecs.blosc
import numpy as np

from idfzarr.errors import ChunkCorrupt, ShardCorrupt
from idfzarr.store.checksum import CRC_BYTES, RESIDUE
from idfzarr.store.chunks import (
    MOST_BYTES,
    Chunks,
    are_intact,
    begins,
    header_bytes,
    read_runs,
    scratch,
    unpack_blosc,
)
from idfzarr.store.forking import renew_lock_after_fork
from idfzarr.store.shard import ABSENT, decode_chunk, index_bytes, parse_index
from idfzarr.store.sharing import default_threads, shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from idfzarr.store.layout import Layout
    from idfzarr.store.place import LocalPlace, Place
    from idfzarr.store.shard import Codec

__all__ = ["FRESH", "MOST_OPEN", "LightcurveReader", "PlainReader", "ShardReader"]

FRESH = 0.02
"""Seconds for which an open shard is taken to be the one under its name."""

MOST_OPEN = 512
"""Shards kept open unless the process may not open so many files; 391 hold 50,000 objects."""

_TOGETHER = 64
"""Chunks decoded by one call: 1 MB at 1,200 AORs, which the cores' own caches hold."""

_FEW = 3
"""Chunks that are decoded one by one as fast as together."""

_WORTH_A_THREAD = 4 * _TOGETHER
"""Chunks that take much longer to decode than threads take to wake up and to find the GIL."""

_ENTRY = struct.Struct("<QQ").unpack_from
_ENTRY_BYTES = 16
_F4 = np.dtype("<f4")


class LightcurveReader(Protocol):
    """What reads the cube, fast or plain."""

    def read(self, row: int, column: int) -> NDArray[np.float32]:
        """Return one lightcurve, (value, aor); NaN flags where there is no chunk."""

    def read_block(
        self, rows: Sequence[int], columns: Sequence[int], *, aors: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return (row, column, value, aor) of any rows and columns."""

    def read_pairs(
        self, rows: ArrayLike, columns: ArrayLike, *, aors: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return (pair, value, aor) of one row and one column each."""

    def forget(self, shard: int, /) -> None:
        """Forget what is held of a shard: it has been written anew."""


class _OpenShard:
    """An open shard and its verified index. The file is closed with the last reference."""

    __slots__ = ("__weakref__", "ctime_ns", "fresh_until", "handle", "index", "path")

    def __init__(self, handle: int, index: bytes, ctime_ns: int, path: str) -> None:
        self.handle = handle
        self.index = index
        self.ctime_ns = ctime_ns
        self.path = path
        self.fresh_until = 0.0

    def __del__(self) -> None:
        os.close(self.handle)


class ShardReader:
    """Reads the chunks of the cube from shards on a local disk.

    Parameters
    ----------
    place
        The store.
    layout
        Shape of the cube and of its shards.
    codec
        How chunks are compressed.
    must_exist
        Told the number of a shard of which something is missing; raises `ChunkMissing` if the
        ledger calls it done.
    label
        Says in words which object and type stand at a row and a column.
    most_open
        Shards to keep open at most.
    decode_threads
        How many threads decode a large block, the caller's among them; as many as there are cores,
        four at most, unless given.
    """

    def __init__(
        self,
        place: LocalPlace,
        layout: Layout,
        codec: Codec,
        *,
        must_exist: Callable[[int], None],
        label: Callable[[int, int], str] = "[{}, {}]".format,
        most_open: int = MOST_OPEN,
        decode_threads: int | None = None,
    ) -> None:
        self._place = place
        self._layout = layout
        self._codec = codec
        self._must_exist = must_exist
        self._label = label
        self._most_open = max(1, min(most_open, _allowed_open()))
        self._lock = threading.Lock()
        self._shards: list[_OpenShard | None] = [None] * layout.n_shards
        self._n_open = 0
        # Taken apart once, since the hot path below cannot afford attribute look-ups.
        self._step = layout.shard_objects
        self._n_types = layout.n_types
        self._n_aors = layout.n_aors
        self._shape = layout.chunk_shape[2:]
        self._kept = (layout.chunk_shape[2], layout.n_aors)
        self._strides = (4 * layout.capacity, 4)
        self._header = layout.chunk_bytes.to_bytes(4, "little")
        self._is_plain = codec == "none"
        self._plain_length = layout.chunk_bytes + CRC_BYTES
        # Chunks that are not compressed are read to where they stay, with their checksums.
        self._pitch = (self._plain_length if self._is_plain else layout.chunk_bytes) // 4
        self._threads = default_threads() if decode_threads is None else max(1, decode_threads)
        self._most_together = max(1, min(_TOGETHER, MOST_BYTES // layout.chunk_bytes))
        renew_lock_after_fork(self)

    def read(
        self,
        row: int,
        column: int,
        *,
        # Bound once: a global look-up for each would be a tenth of the read.
        _now: Callable[[], float] = time.monotonic,
        _pread: Callable[[int, int, int], bytes] = os.pread,
        _crc: Callable[[bytes], int] = google_crc32c.value,
        _decompress: Callable[[bytes], bytes] = numcodecs.blosc.decompress,
        _array: type[np.ndarray[Any, Any]] = np.ndarray,
    ) -> NDArray[np.float32]:
        """Return one lightcurve.

        Parameters
        ----------
        row, column
            Positions of the object and the type.

        Returns
        -------
        ndarray of float32
            (value, aor), not writable: it shows the decompressed bytes themselves. All NaN where
            there is no chunk.

        Raises
        ------
        ChunkCorrupt, ShardCorrupt
            Damaged.
        ChunkMissing
            Not there, though the ledger calls its shard done.
        """
        number, inside = divmod(row, self._step)
        shard = self._shards[number]
        if shard is None or _now() > shard.fresh_until:
            shard = self._asked(number, row, column)
            if shard is None:
                return self._absent()
        offset, length = _ENTRY(shard.index, (inside * self._n_types + column) * _ENTRY_BYTES)
        if length == ABSENT:
            return self._not_in_shard(number)
        data = _pread(shard.handle, length, offset)
        whole = len(data) == self._plain_length if self._is_plain else data[4:8] == self._header
        if _crc(data) != RESIDUE or not whole:
            return self._again(row, column)
        if not self._is_plain:
            # numcodecs takes longer to look at an array to write into than to make these bytes.
            try:
                data = _decompress(data)
            except RuntimeError:
                return self._again(row, column)
        return _array(self._kept, _F4, data, 0, self._strides)

    def _absent(self) -> NDArray[np.float32]:
        return np.full(self._kept, np.nan, dtype=np.float32)

    def _not_in_shard(self, number: int) -> NDArray[np.float32]:
        self._must_exist(number)
        return self._absent()

    def _where(self, row: int, column: int, path: str) -> str:
        return f"lightcurves {self._label(row, column)} in {path}"

    def _again(self, row: int, column: int) -> NDArray[np.float32]:
        """Read a chunk that failed once more, from a shard opened afresh; say what is wrong."""
        number = self._layout.shard_of(row)
        self.forget(number)
        shard = self._asked(number, row, column)
        if shard is None:
            return self._absent()
        offset, length = _ENTRY(shard.index, self._layout.slot(row, column) * _ENTRY_BYTES)
        if length == ABSENT:
            return self._not_in_shard(number)
        out = np.empty(self._shape, dtype=np.float32)
        data = os.pread(shard.handle, length, offset)
        decode_chunk(data, out, self._codec, where=self._where(row, column, shard.path))
        return out[:, : self._n_aors]

    # ---------------------------------------------------------------- shards

    def _asked(self, number: int, row: int, column: int) -> _OpenShard | None:
        """Return the shard; where its index is damaged, say which lightcurve was asked for."""
        try:
            return self._current(number)
        except ShardCorrupt as error:
            msg = f"lightcurves {self._label(row, column)} cannot be read: {error}"
            raise ShardCorrupt(msg) from error

    def _current(self, number: int) -> _OpenShard | None:
        """Return the shard, opened anew if it is another file now; None where it is not."""
        shard = self._shards[number]
        if shard is not None and os.fstat(shard.handle).st_ctime_ns != shard.ctime_ns:
            shard = None
        if shard is None:
            shard = self._open(number)
            if shard is None:
                self.forget(number)
                self._must_exist(number)
                return None
            self._keep(number, shard)
        shard.fresh_until = time.monotonic() + FRESH
        return shard

    def _open(self, number: int) -> _OpenShard | None:
        path = self._place.path(self._layout.key(number))
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            status = os.fstat(handle)
            n_chunks = self._layout.chunks_per_shard
            begin = max(0, status.st_size - index_bytes(n_chunks))
            tail = os.pread(handle, index_bytes(n_chunks), begin)
            parse_index(tail, n_chunks, status.st_size, where=path)
        except BaseException:
            os.close(handle)
            raise
        return _OpenShard(handle, tail, status.st_ctime_ns, path)

    def _keep(self, number: int, shard: _OpenShard) -> None:
        with self._lock:
            if self._shards[number] is None:
                self._n_open += 1
            self._shards[number] = shard
            if self._n_open > self._most_open:
                self._let_go(number)

    def _let_go(self, keep: int) -> None:
        """Close the quarter of the shards that were asked for longest ago."""
        held = [
            (s.fresh_until, k) for k, s in enumerate(self._shards) if s is not None and k != keep
        ]
        for _, k in sorted(held)[: max(1, len(held) // 4)]:
            self._shards[k] = None
            self._n_open -= 1

    def forget(self, shard: int, /) -> None:
        """Let go of a shard."""
        with self._lock:
            if self._shards[shard] is not None:
                self._shards[shard] = None
                self._n_open -= 1

    # ---------------------------------------------------------------- many

    def read_block(
        self, rows: Sequence[int], columns: Sequence[int], *, aors: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return the lightcurves of any rows and columns.

        Parameters
        ----------
        rows, columns
            Positions of objects and types.
        aors
            Which AORs to keep.

        Returns
        -------
        ndarray of float32
            (row, column, value, aor).
        """
        number, inside = np.divmod(np.asarray(rows, dtype=np.int64), self._step)
        slots = inside[:, None] * self._n_types + np.asarray(columns, dtype=np.int64)
        found = self._read(number.repeat(len(columns)), slots.reshape(-1), aors)
        return found.reshape(len(rows), len(columns), *found.shape[1:])

    def read_pairs(
        self, rows: ArrayLike, columns: ArrayLike, *, aors: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return lightcurves one by one named, decoded together.

        Parameters
        ----------
        rows, columns
            Positions of the object and the type of each.
        aors
            Which AORs to keep.

        Returns
        -------
        ndarray of float32
            (pair, value, aor). With all AORs it is a view that leaves out the room for more.
        """
        number, inside = np.divmod(np.asarray(rows, dtype=np.int64), self._step)
        return self._read(number, inside * self._n_types + np.asarray(columns, np.int64), aors)

    def _read(
        self, numbers: NDArray[np.int64], slots: NDArray[np.int64], aors: slice
    ) -> NDArray[np.float32]:
        """Return the chunks at these slots of these shards, (chunk, value, aor)."""
        n, n_kept = len(slots), len(range(*aors.indices(self._n_aors)))
        if n_kept < self._n_aors or not n * n_kept:
            room, out = None, np.empty((n, self._shape[0], n_kept), dtype=np.float32)
        else:
            room = np.empty((n, self._pitch), dtype=np.float32)
            out = self._shown(room)[..., aors]

        def fill(part: slice) -> None:
            where = numbers[part].tolist(), slots[part].tolist()
            if room is not None:
                if not self._read_together(*where, room[part]):
                    self._read_singly(*where, out[part], aors)
                return
            with scratch(len(where[0]) * 4 * self._pitch) as used:
                into = used.view(np.float32).reshape(-1, self._pitch)
                if self._read_together(*where, into):
                    out[part] = self._shown(into)[..., aors]
                    return
            self._read_singly(*where, out[part], aors)

        tasks = [
            partial(fill, slice(first, min(first + self._most_together, n)))
            for first in range(0, n, self._most_together)
        ]
        shared(tasks, self._threads if n >= _WORTH_A_THREAD else 1)
        return out

    def _shown(self, room: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (chunk, value, aor) of decoded chunks, a view."""
        strides = (4 * self._pitch, *self._strides)
        return np.ndarray((len(room), *self._kept), _F4, room, 0, strides)

    def _read_singly(
        self,
        numbers: Sequence[int],
        slots: Sequence[int],
        out: NDArray[np.float32],
        aors: slice,
    ) -> None:
        """Read shards and slots one by one: they are few, or anything is the matter with them."""
        known = {n: self._fresh(n, slot) for n, slot in zip(numbers, slots, strict=True)}
        for values, number, slot in zip(out, numbers, slots, strict=True):
            inside, column = divmod(slot, self._n_types)
            values[...] = (
                np.nan
                if known[number] is None
                else self.read(number * self._step + inside, column)[:, aors]
            )

    def _fresh(self, number: int, slot: int) -> _OpenShard | None:
        shard = self._shards[number]
        if shard is None or time.monotonic() > shard.fresh_until:
            inside, column = divmod(slot, self._n_types)
            shard = self._asked(number, number * self._step + inside, column)
        return shard

    def _read_together(
        self, numbers: Sequence[int], slots: Sequence[int], into: NDArray[np.float32]
    ) -> bool:
        """Read shards and slots at once; False where they are few, or one is missing or odd."""
        if len(slots) <= _FEW:
            return False
        held: dict[int, _OpenShard] = {}  # open until all is read
        for number in set(numbers):
            shard = self._fresh(number, slots[numbers.index(number)])
            if shard is None:
                return False
            held[number] = shard
        if len(held) == 1:
            (shard,) = held.values()
            index = shard.index
            entries = [_ENTRY(index, slot * _ENTRY_BYTES) for slot in slots]
            handles = [shard.handle] * len(slots)
        else:
            shards = [held[number] for number in numbers]
            pairs = zip(shards, slots, strict=True)
            entries = [_ENTRY(shard.index, slot * _ENTRY_BYTES) for shard, slot in pairs]
            handles = [shard.handle for shard in shards]
        offsets, lengths = zip(*entries, strict=True)
        if ABSENT in lengths:
            return False
        return self._decoded(Chunks(handles, offsets, lengths), into)

    def _decoded(self, chunks: Chunks, into: NDArray[np.float32]) -> bool:
        if self._is_plain:
            if set(chunks.lengths) != {self._plain_length}:
                return False
            begin, buffer = begins(chunks, 0), into.reshape(-1).view(np.uint8)
            return read_runs(chunks, begin, buffer) and are_intact(buffer, begin)
        begin = begins(chunks, header_bytes(len(into)))
        with scratch(begin[-1]) as buffer:
            return (
                read_runs(chunks, begin, buffer)
                and are_intact(buffer, begin)
                and unpack_blosc(buffer, begin, into.reshape(-1, *self._shape))
            )


def _allowed_open() -> int:
    """Return half of the files that this process may open."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft == resource.RLIM_INFINITY else soft // 2


class PlainReader:
    """Reads the cube by zarr-python: object storage, and layouts and codecs that are not ours.

    Parameters
    ----------
    place
        The store.
    path
        Path of the cube below the root.
    layout
        Shape of the cube; its chunks may be any.
    must_exist
        Told the number of a shard of which something is missing, as in `ShardReader`; None where
        shards are not those of the layout.
    label
        Says in words which object and type stand at a row and a column.
    """

    def __init__(
        self,
        place: Place,
        path: str,
        layout: Layout,
        *,
        must_exist: Callable[[int], None] | None = None,
        label: Callable[[int, int], str] = "[{}, {}]".format,
    ) -> None:
        import zarr

        self._place = place
        self._must_exist = must_exist
        self._label = label
        self._layout = layout
        # By the root: the array's own metadata may be of another length until it is rolled forward.
        options = dict(getattr(place, "options", {})) or None
        root = zarr.open_group(
            place.url,
            mode="r",
            zarr_format=3,
            use_consolidated=True,
            storage_options=options,
        )
        self._array: Any = root[path]

    def forget(self, _shard: int, /) -> None:
        """Nothing is held: zarr-python opens a shard for every read."""

    def _get(self, row: int, column: int) -> NDArray[np.float32]:
        # Every codec has exceptions of its own; these are what zarr-python's raise on bad bytes.
        try:
            values = self._array[row, column, :, : self._layout.n_aors]
        except (ValueError, RuntimeError, EOFError, OSError, zlib.error) as error:
            ours = self._must_exist is not None
            key = f"/{self._layout.key(self._layout.shard_of(row))}" if ours else ""
            msg = (
                f"lightcurves {self._label(row, column)} in {self._place.url}{key} is damaged: "
                f"{error}; repair the store"
            )
            raise ChunkCorrupt(msg) from error
        values = np.asarray(values, dtype=np.float32)
        # A flag is never NaN but where there is no chunk.
        if self._must_exist is not None and values.size and np.isnan(values[-1]).all():
            self._must_exist(self._layout.shard_of(row))
        return values

    def read(self, row: int, column: int) -> NDArray[np.float32]:
        """Return one lightcurve, (value, aor)."""
        return self._get(row, column)

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
        """Return (pair, value, aor) of one row and one column each."""
        pairs = np.stack([rows, columns], axis=1).astype(np.int64).tolist()
        n_kept = len(range(*aors.indices(self._layout.n_aors)))
        out = np.empty((len(pairs), 3, n_kept), dtype=np.float32)
        for values, (row, column) in zip(out, pairs, strict=True):
            values[...] = self._get(row, column)[:, aors]
        return out
