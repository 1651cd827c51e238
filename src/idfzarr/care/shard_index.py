"""Read the index of every shard: its crc32c, its bounds, overlaps, and the chunks that are absent.

Nothing but the index is read. Shards of this package hold their chunks one after the other in the
order of the index, which is verified with a handful of vector operations; only an index of another
kind is looked at entry by entry. Buffers are reused, and two threads share the work: both numpy and
crc32c let go of the interpreter meanwhile.
"""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import google_crc32c
import numpy as np

from idfzarr.care.safe_read import open_key
from idfzarr.progress import silent
from idfzarr.store.checksum import CRC_BYTES, RESIDUE
from idfzarr.store.shard import ABSENT, index_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from idfzarr.care.read_only import ReadOnlyPlace
    from idfzarr.progress import Progress

__all__ = [
    "MOST_INDEX",
    "IndexForm",
    "IndexScan",
    "IndexSeen",
    "ShardFile",
    "judge_index",
    "read_indexes",
]

MOST_INDEX = 1 << 26
"""Bytes of an index; a larger one is not read."""

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_BLOSC_OVERHEAD = 16  # bytes of header, and all that blosc adds to what it cannot compress
_AT_ONCE = 64  # shards of a task
_INDEX_READ = frozenset(["", "crc", "wrong"])

Problem = Literal["", "torn", "crc", "wrong", "unreadable", "vanished"]


@dataclass(frozen=True)
class IndexForm:
    """What the indexes of an array look like.

    Attributes
    ----------
    n_slots
        Entries of an index.
    shortest, longest
        Bytes that a chunk can have, its crc32c with it.
    """

    n_slots: int
    shortest: int = 0
    longest: int = 2**63

    @classmethod
    def of_cube(cls, n_slots: int, chunk_bytes: int, codec: str | None) -> IndexForm:
        """Return the form of the indexes of a cube; `codec` is None where it is not ours."""
        if codec is None:
            return cls(n_slots)
        if codec == "none":
            return cls(n_slots, chunk_bytes + CRC_BYTES, chunk_bytes + CRC_BYTES)
        least = _BLOSC_OVERHEAD + CRC_BYTES
        return cls(n_slots, least, chunk_bytes + least)

    @property
    def n_bytes(self) -> int:
        """Size of an index with its crc32c."""
        return index_bytes(self.n_slots)


@dataclass(frozen=True)
class ShardFile:
    """A shard's file as the listing saw it.

    Attributes
    ----------
    key
        Below the root.
    n_expected
        Chunks that must be there: the first entries of the index.
    inode
        Its number; another one means that the file was replaced since.
    """

    key: str
    n_expected: int
    inode: int = 0


@dataclass(frozen=True, eq=False)
class IndexSeen:
    """What the index of a shard says.

    Attributes
    ----------
    problem
        Empty for an index that is as it must be, missing chunks apart; ``torn``: the file is
        shorter than an index; ``crc``; ``wrong``: entries that cannot be; ``unreadable``;
        ``vanished``: not there any more.
    told
        The same in words.
    size
        Bytes of the file.
    missing
        Expected slots that are empty.
    wrong
        Slots whose entries cannot be.
    n_present
        Expected slots that are not empty and not wrong.
    """

    problem: Problem = ""
    told: str = ""
    size: int = 0
    missing: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()
    n_present: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is the matter."""
        return not self.problem and not self.missing


def judge_index(
    raw: NDArray[np.uint8], size: int, form: IndexForm, *, n_expected: int
) -> IndexSeen:
    """Judge the bytes of an index.

    Parameters
    ----------
    raw
        The last ``form.n_bytes`` bytes of the file.
    size
        Bytes of the file.
    form
        What the index must look like.
    n_expected
        Chunks that must be there: the first so many.

    Returns
    -------
    IndexSeen
        What is the matter with it.
    """
    if google_crc32c.value(raw) != RESIDUE:
        return IndexSeen("crc", "its index does not match the index's crc32c", size)
    table = raw[:-CRC_BYTES].view("<u8").reshape(-1, 2)
    if _is_in_order(table, size - form.n_bytes, form, n_expected):
        return IndexSeen(size=size, n_present=n_expected)
    return _look_closely(table, size, form, n_expected)


def _is_in_order(table: NDArray[np.uint64], top: int, form: IndexForm, n_expected: int) -> bool:
    """Say whether the expected chunks stand one after the other, and nothing else is there."""
    if n_expected == 0:
        return bool((table == ABSENT).all())
    offset, length = table[:n_expected, 0], table[:n_expected, 1]
    # Unsigned, so that a length below the shortest wraps far beyond the longest.
    if offset[0] != 0 or (length - np.uint64(form.shortest)).max() > form.longest - form.shortest:
        return False
    end = offset + length  # cannot wrap unnoticed: lengths are bounded and each begins at an end
    return bool(
        end[-1] <= top
        and (end[:-1] == offset[1:]).all()
        and (n_expected == len(table) or (table[n_expected:] == ABSENT).all())
    )


def _look_closely(
    table: NDArray[np.uint64], size: int, form: IndexForm, n_expected: int
) -> IndexSeen:
    empty = table == ABSENT
    absent, half = empty.all(axis=1), empty.any(axis=1)
    offset, length = table[:, 0], table[:, 1]
    top = np.uint64(size - form.n_bytes)
    outside = ~half & ((offset > top) | (length > top - np.minimum(offset, top)))
    unfit = ~half & ~outside & ((length < form.shortest) | (length > form.longest))
    inside = np.flatnonzero(~half & ~outside)
    overlap = np.zeros(len(table), dtype=bool)
    overlap[_overlapping(offset[inside], length[inside], inside)] = True
    broken = half & ~absent
    reasons = {
        f"end beyond the chunks, at byte {int(top)}": outside,
        "are empty by half": broken,
        "have a length that no chunk has": unfit & ~overlap,
        "overlap": overlap,
    }
    wrong = np.flatnonzero(outside | broken | unfit | overlap)
    missing = np.flatnonzero(absent[:n_expected])
    told = "; ".join(
        f"{int(bad.sum())} entries of its index {what}, slot {int(np.flatnonzero(bad)[0])} first"
        for what, bad in reasons.items()
        if bad.any()
    )
    return IndexSeen(
        "wrong" if len(wrong) else "",
        told,
        size,
        tuple(missing.tolist()),
        tuple(wrong.tolist()),
        n_expected - len(missing) - int((wrong < n_expected).sum()),
    )


def _overlapping(
    offset: NDArray[np.uint64], length: NDArray[np.uint64], slots: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return the slots of chunks that share bytes with another; all lie inside the file."""
    order = np.lexsort((length, offset))
    first = offset[order].astype(np.int64)
    last = first + length[order].astype(np.int64)
    if len(order) < 2:
        return slots[:0]
    reach = np.maximum.accumulate(last)
    shares = np.zeros(len(order), dtype=bool)
    touched = first[1:] < reach[:-1]
    shares[1:] |= touched
    # The one that reaches over the next need not stand right before it.
    follower = np.minimum.accumulate(np.append(first[1:], np.iinfo(np.int64).max)[::-1])[::-1]
    shares |= follower < last
    return slots[order[shares]]


# -------------------------------------------------------------------- files


class _Reader:
    """Reads indexes with a buffer of its own; one for a thread."""

    def __init__(self, place: ReadOnlyPlace, form: IndexForm, handle: int, device: int) -> None:
        self._place, self._form = place, form
        self._handle, self._device = handle, device
        self._buffer = np.empty(form.n_bytes, dtype=np.uint8)
        self._room = [memoryview(self._buffer.data)]

    def look(self, file: ShardFile) -> IndexSeen:
        try:
            if self._place.folder is None:
                return self._look_remote(file)
            return self._look_local(self._place.folder, file)
        except (FileNotFoundError, NotADirectoryError):
            return IndexSeen("vanished", "it is not there any more")
        except OSError as error:
            return IndexSeen("unreadable", f"it cannot be read: {error.strerror or error}")

    def _look_local(self, root: str, file: ShardFile) -> IndexSeen:
        handle = os.open(file.key, _FLAGS, dir_fd=self._handle)
        try:
            status = os.fstat(handle)
            # The walk came to this inode without following a link, so this is the same file.
            known = status.st_ino == file.inode and status.st_dev == self._device
            if known and stat.S_ISREG(status.st_mode):
                return self._judge(handle, status.st_size, file)
        finally:
            os.close(handle)
        with open_key(root, file.key) as handle:
            return self._judge(handle, os.fstat(handle).st_size, file)

    def _judge(self, handle: int, size: int, file: ShardFile) -> IndexSeen:
        begin = size - self._form.n_bytes
        if begin < 0 or os.preadv(handle, self._room, begin) != self._form.n_bytes:
            return _too_short(size, self._form)
        return judge_index(self._buffer, size, self._form, n_expected=file.n_expected)

    def _look_remote(self, file: ShardFile) -> IndexSeen:
        size = self._place.size(file.key)
        if size is None:
            return IndexSeen("vanished", "it is not there any more")
        begin = size - self._form.n_bytes
        if begin < 0:
            return _too_short(size, self._form)
        raw = np.frombuffer(
            self._place.read_range(file.key, begin, self._form.n_bytes), dtype=np.uint8
        )
        if len(raw) != self._form.n_bytes:
            return _too_short(size, self._form)
        return judge_index(raw, size, self._form, n_expected=file.n_expected)


def _too_short(size: int, form: IndexForm) -> IndexSeen:
    told = f"it has {size} bytes, its index alone would have {form.n_bytes}"
    return IndexSeen("torn", told, size)


class IndexScan:
    """Reads indexes in threads while files are still being found; use it as a context.

    Parameters
    ----------
    place
        The store.
    form
        What the indexes must look like.
    workers
        Threads.

    Raises
    ------
    ValueError
        An index would have more than `MOST_INDEX` bytes.
    """

    def __init__(self, place: ReadOnlyPlace, form: IndexForm, *, workers: int = 2) -> None:
        if form.n_bytes > MOST_INDEX:
            msg = f"an index of {form.n_bytes} bytes is more than {MOST_INDEX} and is not read"
            raise ValueError(msg)
        self._place, self._form, self._workers = place, form, max(1, workers)
        self._own = threading.local()
        self._waiting: list[ShardFile] = []
        self._parts: list[Future[list[IndexSeen]]] = []
        self._handle = self._device = -1

    def __enter__(self) -> Self:
        if self._place.folder is not None:
            self._handle = os.open(self._place.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._device = os.fstat(self._handle).st_dev
        self._pool = ThreadPoolExecutor(self._workers)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        if self._handle >= 0:
            os.close(self._handle)

    def add(self, file: ShardFile) -> None:
        """Have an index read, soon."""
        self._waiting.append(file)
        if len(self._waiting) >= _AT_ONCE:
            self._send()

    def _send(self) -> None:
        part, self._waiting = self._waiting, []
        self._parts.append(self._pool.submit(self._look, part))

    def _look(self, part: Sequence[ShardFile]) -> list[IndexSeen]:
        if not hasattr(self._own, "reader"):
            reader = _Reader(self._place, self._form, self._handle, self._device)
            self._own.reader = reader
        return [self._own.reader.look(file) for file in part]

    def results(self, progress: Progress = silent) -> list[IndexSeen]:
        """Wait for all that were added and return what was seen, in that order."""
        self._send()
        seen: list[IndexSeen] = []
        total = len(self._parts)
        for done, part in enumerate(self._parts, start=1):
            seen += part.result()
            progress("structure", done, total)
        if self._place.folder is not None:
            n_read = sum(one.problem in _INDEX_READ for one in seen)
            self._place.counter.n_read += self._form.n_bytes * n_read
        return seen


def read_indexes(
    place: ReadOnlyPlace, files: Iterable[ShardFile], form: IndexForm, *, workers: int = 2
) -> list[IndexSeen]:
    """Read and judge the indexes of shards.

    Parameters
    ----------
    place
        The store.
    files
        The shards.
    form
        What their indexes must look like.
    workers
        Threads.

    Returns
    -------
    list of IndexSeen
        In the order of the files, whatever the number of workers.

    Raises
    ------
    ValueError
        An index would have more than `MOST_INDEX` bytes.
    """
    with IndexScan(place, form, workers=workers) as scan:
        for file in files:
            scan.add(file)
        return scan.results()
