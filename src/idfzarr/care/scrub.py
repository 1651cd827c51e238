"""Read every byte of a store and verify every checksum, without decompressing anything.

A file is read once, window by window, in bounded memory. Its own crc32c, which the ledger notes,
and those of its chunks are computed from the same window while it is in the processor's cache: two
passes over the memory cost less than one over the disk.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import google_crc32c
import numpy as np

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.history import ReadWell
from idfzarr.care.safe_read import open_key
from idfzarr.care.shard_pieces import Pieces, ShardForm, read_pieces
from idfzarr.errors import UsageError
from idfzarr.progress import silent
from idfzarr.store.checksum import CRC_BYTES, RESIDUE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.progress import Progress

__all__ = ["Label", "Mark", "ScrubTask", "Scrubbed", "choose", "scrub"]

Label: TypeAlias = "Callable[[ScrubTask, int], tuple[int | None, str]]"
"""``label(task, slot)``: object id and type of a chunk; None and the empty string for neither."""

Mark: TypeAlias = tuple[int, int] | tuple[int, int, int | None]
"""Size and crc32c of a whole file, and its crc32 (that of zlib) or None."""

_WINDOW = 1 << 20  # fits the second-level cache; larger reads are no faster, measured
_MOST_TOLD = 10_000  # findings of one file
_AT_ONCE = 64  # files between two notes in the history
_VANISHED = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True)
class ScrubTask:
    """A file to scrub.

    Attributes
    ----------
    key
        Below the root.
    array
        Path of its array.
    size
        Bytes, as the listing says.
    form
        How a shard is made up; None for a file that is none.
    sealed
        Whether a file that is no shard ends in its crc32c.
    noted
        Size, crc32c and, where that is noted, crc32 that the ledger allows the file to have: those
        of the newest ``done``, and of an ``intent`` after it. Empty where it says nothing. The
        crc32c of a shard tells torn from whole; that of bytes which end in their own crc32c is the
        same for any bytes as long, so that only the crc32, of another polynomial, tells one shard
        from another.
    faulty
        Something was found in it already, so that another crc32c than the ledger's is no news.
    """

    key: str
    array: str
    size: int
    form: ShardForm | None = None
    sealed: bool = True
    noted: tuple[Mark, ...] = ()
    faulty: bool = False


@dataclass(frozen=True)
class Scrubbed:
    """What a scrub found.

    Attributes
    ----------
    findings
        In the order of the tasks.
    reads
        Files that are as they must be.
    unverified
        Keys of shards whose chunks could not be verified, since the index cannot be believed; the
        level ``structure`` says why.
    n_read
        Bytes read.
    """

    findings: tuple[Finding, ...] = ()
    reads: tuple[ReadWell, ...] = ()
    unverified: tuple[str, ...] = ()
    n_read: int = 0


def choose(
    tasks: Sequence[ScrubTask], fraction: float, *, seed: int, last: Mapping[str, int]
) -> list[ScrubTask]:
    """Choose a part of the files: those never read well first, then those read longest ago.

    Parameters
    ----------
    tasks
        All files.
    fraction
        Of their bytes, above 0 and up to 1.
    seed
        Decides among files that were never read; the same seed chooses the same.
    last
        When each was last read well; see `idfzarr.care.history.last_read_well`.

    Returns
    -------
    list of ScrubTask
        In the order given; at least one where there is any. Where each scrub is noted in the
        history, ``1 / fraction`` of them read everything.

    Raises
    ------
    UsageError
        The fraction is none.
    """
    if not 0 < fraction <= 1:
        msg = f"a sample of {fraction:g} cannot be scrubbed; give a part above 0 and up to 1"
        raise UsageError(msg)

    def rank(position: int) -> tuple[int, bytes]:
        key = tasks[position].key
        return last.get(key, 0), hashlib.blake2b(f"{seed} {key}".encode(errors="replace")).digest()

    wanted = fraction * sum(task.size for task in tasks)
    chosen: list[int] = []
    taken = 0
    for position in sorted(range(len(tasks)), key=rank):
        if chosen and taken >= wanted:
            break
        chosen.append(position)
        taken += tasks[position].size
    return [tasks[position] for position in sorted(chosen)]


def scrub(
    root: str,
    tasks: Sequence[ScrubTask],
    *,
    label: Label | None = None,
    uuid: str = "",
    workers: int = 2,
    note: Callable[[Sequence[ReadWell]], object] | None = None,
    progress: Progress = silent,
) -> Scrubbed:
    """Read files whole and verify every checksum.

    Parameters
    ----------
    root
        Folder of the store.
    tasks
        What to read.
    label
        Says which object and type a chunk is.
    uuid
        The store's, for the history.
    workers
        Threads.
    note
        Called now and then with files that were read well, so that a scrub that is stopped has
        not been for nothing.
    progress
        Told bytes.

    Returns
    -------
    Scrubbed
        The same for any number of workers.
    """
    bytes_read = _Counter(progress, sum(task.size for task in tasks))
    findings: list[Finding] = []
    unverified: list[str] = []
    reads: list[ReadWell] = []
    noted = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            made = pool.map(lambda task: _scrub_file(root, task, label, uuid, bytes_read), tasks)
            for result in made:
                findings += result.findings
                unverified += result.unverified
                reads += result.reads
                if note is not None and len(reads) - noted >= _AT_ONCE:
                    note(reads[noted:])
                    noted = len(reads)
        finally:
            bytes_read.stopped = True
            pool.shutdown(cancel_futures=True)
            if note is not None and len(reads) > noted:
                note(reads[noted:])
    return Scrubbed(tuple(findings), tuple(reads), tuple(unverified), bytes_read.done)


@dataclass
class _Counter:
    """Counts bytes for all threads; tells them to stop."""

    progress: Progress
    total: int
    done: int = 0
    stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            self.progress("scrub", self.done, max(self.total, self.done))


# -------------------------------------------------------------------- one file


def _scrub_file(
    root: str, task: ScrubTask, label: Label | None, uuid: str, counter: _Counter
) -> Scrubbed:
    try:
        with open_key(root, task.key) as handle:
            return _scrub_open(handle, task, label, uuid, counter)
    except OSError as error:
        if error.errno in _VANISHED:  # replaced or removed since it was listed
            return Scrubbed()
        told = f"{task.key} cannot be read: {error.strerror or error}"
        where = Where(task.array, task.key, n_bytes=task.size)
        return Scrubbed((finding("unreadable", where, told),))


def _scrub_open(
    handle: int, task: ScrubTask, label: Label | None, uuid: str, counter: _Counter
) -> Scrubbed:
    size = os.fstat(handle).st_size
    pieces = None if task.form is None else read_pieces(handle, size, task.form)
    sealed = task.form is not None and task.form.sealed
    verified = pieces if sealed and isinstance(pieces, Pieces) else None
    wanted = any(len(mark) > 2 for mark in task.noted)
    crcs, bad = _read_whole(handle, size, verified, counter, zlib_too=wanted)
    crc = crcs[0]
    found: tuple[Finding, ...]
    if task.form is None:
        good = not task.sealed or (size >= CRC_BYTES and crc == RESIDUE)
        found = () if good else (_file_corrupt(task, size),)
        found = found or _against_ledger(task, size, crcs, gap=0)
    elif not isinstance(pieces, Pieces):
        return Scrubbed(unverified=(task.key,))
    else:
        gap = size - task.form.index_bytes - pieces.n_bytes
        found = _chunk_findings(task, pieces, bad, label) or _against_ledger(
            task, size, crcs, gap=gap
        )
    if found or task.faulty:
        return Scrubbed(found)
    return Scrubbed(found, (ReadWell(task.key, time.time_ns(), size, crc, uuid),))


def _read_whole(
    handle: int, size: int, pieces: Pieces | None, counter: _Counter, *, zlib_too: bool
) -> tuple[tuple[int, int], list[int]]:
    """Read a file; return its crc32c and crc32, and the positions of pieces that fail theirs."""
    buffer = np.empty(min(_WINDOW, max(size, 1)), dtype=np.uint8)
    room = memoryview(buffer.data)
    extend = google_crc32c.extend
    chunks = _Verifier(pieces) if pieces is not None else None
    whole, other, at = 0, 0, 0
    while at < size and not counter.stopped:
        count = os.preadv(handle, [room[: size - at]], at)
        if not count:
            break
        window = buffer[:count]
        whole = extend(whole, window)
        if zlib_too:
            other = zlib.crc32(window.data, other)
        if chunks is not None:
            chunks.take(window, at)
        at += count
        counter.add(count)
    return (whole, other), [] if chunks is None else chunks.finish()


class _Verifier:
    """Checks the crc32c of chunks, given the bytes of their file window by window."""

    def __init__(self, pieces: Pieces) -> None:
        self._first, self._last = pieces.first, pieces.last
        self._next = 0
        self._crc = 0  # of the part of the next chunk that has been seen
        self._bad: list[int] = []

    def take(self, window: NDArray[np.uint8], at: int) -> None:
        """Take the bytes of a window that begins at byte `at`."""
        extend = google_crc32c.extend
        end = at + len(window)
        k = self._next
        to = int(np.searchsorted(self._first, end))
        crc, bad = self._crc, self._bad
        for first, last in zip(self._first[k:to].tolist(), self._last[k:to].tolist(), strict=True):
            crc = extend(crc, window[first - at if first > at else 0 : last - at])
            if last > end:  # goes on in the next window; it is the last one of this
                break
            if crc != RESIDUE:
                bad.append(k)
            crc = 0
            k += 1
        self._next, self._crc = k, crc

    def finish(self) -> list[int]:
        """Return the positions of bad chunks; one that was not seen to its end is bad."""
        return [*self._bad, *range(self._next, len(self._first))]


# -------------------------------------------------------------------- what is said of it


def _file_corrupt(task: ScrubTask, size: int) -> Finding:
    where = Where(task.array, task.key, n_bytes=size)
    return finding("chunk_corrupt", where, f"{task.key} does not match its crc32c")


def _chunk_findings(
    task: ScrubTask, pieces: Pieces, bad: Sequence[int], label: Label | None
) -> tuple[Finding, ...]:
    if len(bad) == len(pieces.slots) > 1:
        where = Where(task.array, task.key, n_bytes=task.size)
        told = f"none of the {len(bad)} chunks of {task.key} matches its crc32c"
        return (finding("chunk_corrupt", where, told),)
    found = list(_each_chunk(task, pieces, bad[:_MOST_TOLD], label))
    if len(bad) > _MOST_TOLD:
        where = Where(task.array, task.key, n_bytes=task.size)
        told = f"{len(bad) - _MOST_TOLD} more chunks of {task.key} do not match their crc32c"
        found.append(finding("chunk_corrupt", where, told))
    return tuple(found)


def _each_chunk(
    task: ScrubTask, pieces: Pieces, bad: Sequence[int], label: Label | None
) -> Iterator[Finding]:
    for position in bad:
        slot = int(pieces.slots[position])
        first = int(pieces.first[position])
        n_bytes = int(pieces.last[position]) - first
        object_id, type_ = (None, "") if label is None else label(task, slot)
        where = Where(task.array, task.key, object_id, type_, first, n_bytes)
        named = f"chunk {slot}" if object_id is None else f"object {object_id}, type {type_},"
        told = f"the {n_bytes} bytes of {named} in {task.key} do not match their crc32c"
        yield finding("chunk_corrupt", where, told)


def _against_ledger(
    task: ScrubTask, size: int, crcs: tuple[int, int], *, gap: int
) -> tuple[Finding, ...]:
    """Compare a file, every chunk of which is whole, with what the ledger says of it."""
    between = f"; {gap} bytes of it belong to no chunk" if gap else ""
    where = Where(task.array, task.key, n_bytes=size)
    if task.faulty:
        return ()
    if task.noted and not any(_is_marked(mark, size, crcs) for mark in task.noted):
        told = (
            f"every chunk of {task.key} is whole, but the file is not what was written last: it "
            f"has {_spelled(size, *crcs)}, the ledger notes {_spelled(*task.noted[0])}{between}"
        )
        return (finding("wrong_shard", where, told),)
    if gap and not task.noted and task.form is not None and task.form.dense:
        told = f"{gap} bytes of {task.key} belong to no chunk"
        return (finding("index_wrong", where, told, severity="note", sure="likely"),)
    return ()


def _is_marked(mark: Mark, size: int, crcs: tuple[int, int]) -> bool:
    same = mark[:2] == (size, crcs[0])
    return same and (len(mark) < 3 or mark[2] in {None, crcs[1]})


def _spelled(size: int, crc: int, other: int | None = None) -> str:
    more = f", crc32 {other:08x}" if other else ""
    return f"{size} bytes of crc32c {crc:08x}{more}"
