"""The ledger of a store, judged: which lines can be believed, what it says of shards, who is alive."""

from __future__ import annotations

import os
import re
import socket
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.read_only import ReadOnlyPlace
from idfzarr.care.walking import Seen, Sort, walk
from idfzarr.errors import IdfzarrError
from idfzarr.store.ledger import LEDGER_SUFFIX, LedgerState, read_ledger
from idfzarr.store.place import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from idfzarr.care.scrub import Mark
    from idfzarr.store.ledger import Record

__all__ = ["Ledgers", "Noted", "Writers", "noted_files", "read_ledgers", "writers_at_work"]

_WRITER = re.compile(r"(?P<host>.*)-(?P<pid>\d{1,9})-[0-9a-f]{8}")
_PART = re.compile(r"(?P<writer>.*-\d{1,9}-[0-9a-f]{8})(-\d{8})?\.jsonl")
_ENDS = frozenset(["published", "removed", "abandoned"])
_ENDS_IF_SETTLED = _ENDS | {"note", "done"}
_START_TIME = 19  # field 22 of /proc/PID/stat (proc(5)), counted from the one after the name
_LINES = ".jsonl"
_NAMED = 3


@dataclass(frozen=True, eq=False)
class Ledgers:
    """What lies in the ledger's folder.

    Attributes
    ----------
    state
        All that can be believed, of whatever store.
    files
        Every file of the folder as it was seen.
    unreadable
        Findings about files that could not be read.
    """

    state: LedgerState
    files: tuple[Seen, ...] = ()
    unreadable: tuple[Finding, ...] = ()

    def of_store(self, uuid: str | None) -> LedgerState:
        """Return what is said of one store; of the one begun last where its uuid is not known."""
        return self.state.since_begin() if uuid is None else self.state.for_store(uuid)


@dataclass(frozen=True)
class _LedgerPlace(ReadOnlyPlace):
    """The ledger's folder, where a file that cannot be read is told and not raised."""

    found: list[Finding] = field(default_factory=list)

    def beside(self, suffix: str) -> _LedgerPlace:
        """Return the place of the same name with a suffix added."""
        return _LedgerPlace(self.place.beside(suffix), self.counter, self.found)

    def read(self, key: str) -> bytes:
        """Return all bytes of a key; none of one that cannot be read."""
        try:
            return super().read(key)
        except FileNotFoundError:
            return b""
        except OSError as error:
            where = Where(key=key, beside="ledger")
            told = f"{key} of the ledger cannot be read: {error.strerror or error}"
            self.found.append(finding("unreadable", where, told))
            return b""


def read_ledgers(place: ReadOnlyPlace) -> Ledgers:
    """Read the ledger beside a store, as far as it can be.

    Parameters
    ----------
    place
        The store.

    Returns
    -------
    Ledgers
        Empty where there is none.
    """
    found: list[Finding] = []
    folder = place.beside(LEDGER_SUFFIX)
    files: tuple[Seen, ...] = ()
    if folder.exists():
        files = tuple(sorted(walk(folder), key=lambda seen: seen.key))
    for seen in files:
        where = Where(key=seen.key, beside="ledger")
        if seen.sort is Sort.LINK:
            told = f"{seen.key or 'the ledger'} is a link to {seen.told}; it is not followed"
            found.append(finding("symlink", where, told))
        elif seen.sort is Sort.UNREADABLE:
            told = f"{seen.key or 'the ledger'} cannot be read: {seen.told}"
            found.append(finding("unreadable", where, told))
    state = read_ledger(_LedgerPlace(place.place, place.counter, found))
    return Ledgers(state, files, tuple(found))


# -------------------------------------------------------------------- files


@dataclass(frozen=True)
class Noted:
    """What the ledger notes of a file.

    Attributes
    ----------
    allowed
        Sizes, crc32c and, where that is noted, crc32 that it may have: those of the newest
        ``done``, and of an ``intent`` after it, whose writer may have been stopped before or after
        the rename.
    is_done
        Whether it must be there.
    """

    allowed: tuple[Mark, ...] = ()
    is_done: bool = False

    @property
    def sizes(self) -> frozenset[int]:
        """Sizes that the file may have."""
        return frozenset(mark[0] for mark in self.allowed)


def noted_files(state: LedgerState) -> dict[str, Noted]:
    """Return what a ledger notes of every shard, by key.

    Parameters
    ----------
    state
        The records of one store.

    Returns
    -------
    dict
        A shard that was removed on purpose after it was done is noted with nothing.
    """
    noted: dict[str, Noted] = {}
    for record in state.of("intent", "done", "removed"):
        told = record.fields
        key = told.get("key")
        if not isinstance(key, str):
            continue
        before = noted.get(key, Noted())
        if record.kind == "removed":
            noted[key] = Noted()
            continue
        mark = _mark(told)
        if mark is None:
            continue
        if record.kind == "done":
            noted[key] = Noted((mark,), is_done=True)
        else:
            noted[key] = Noted((*before.allowed[:1], mark), before.is_done)
    return noted


def _mark(told: Mapping[str, Any]) -> tuple[int, int, int | None] | None:
    size, crc, other = (told.get(name) for name in ("size", "crc32c", "crc32"))
    if not (isinstance(size, int) and isinstance(crc, int)):
        return None
    return size, crc, other if isinstance(other, int) else None


# -------------------------------------------------------------------- who is alive


@dataclass(frozen=True)
class Writers:
    """Writers that are at work.

    Attributes
    ----------
    names
        Of the writers.
    since_ns
        When the oldest of them wrote its first line; None where there is none.
    """

    names: tuple[str, ...] = ()
    since_ns: int | None = None

    def __bool__(self) -> bool:
        return bool(self.names)


def writers_at_work(
    records: Iterable[Record], *, settled: bool, grace: float, now: float | None = None
) -> Writers:
    """Say who is writing a store, as far as its ledger and this machine tell.

    Parameters
    ----------
    records
        Of a store.
    settled
        Whether the store is published and no change of it is under way: then whoever wrote a
        shard last has come to an end.
    grace
        Seconds since its last line after which a writer on another machine counts as gone.
    now
        Seconds since 1970.

    Returns
    -------
    Writers
        On this machine, processes that live, and have lived since they wrote; elsewhere, those
        that wrote within `grace`. None that has ended its work.
    """
    now = time.time() if now is None else now
    first: dict[str, Record] = {}
    last: dict[str, Record] = {}
    for record in records:
        first.setdefault(record.writer, record)
        last[record.writer] = record
    ends = _ENDS_IF_SETTLED if settled else _ENDS
    alive = sorted(
        writer
        for writer, record in last.items()
        if record.kind not in ends and _is_alive(record, grace=grace, now=now)
    )
    since = min((first[writer].time_ns for writer in alive), default=None)
    return Writers(tuple(alive), since)


def _is_alive(record: Record, *, grace: float, now: float) -> bool:
    match = _WRITER.fullmatch(record.writer)
    if match is None:
        return False
    here = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
    if match["host"] != here:
        return now - record.time_ns / 1e9 < grace
    begun = _begin_of(int(match["pid"]), now)
    return begun is not None and begun - 1.0 <= record.time_ns / 1e9


def _begin_of(pid: int, now: float) -> float | None:
    """Return when a process began, -inf where that cannot be told; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rsplit(b")", 1)[1].split()[_START_TIME])
        with open("/proc/uptime", "rb") as file:
            up = float(file.read().split()[0])
    except FileNotFoundError:
        return float("-inf") if not os.path.isdir("/proc/self") and _lives(pid) else None
    except (OSError, ValueError, IndexError):
        return float("-inf") if _lives(pid) else None
    return now - up + ticks / os.sysconf("SC_CLK_TCK")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


# -------------------------------------------------------------------- what is the matter with it


def ledger_findings(
    ledgers: Ledgers, state: LedgerState, writers: Writers, *, uuid: str | None
) -> Iterator[Finding]:
    """Yield what is the matter with a ledger.

    Parameters
    ----------
    ledgers
        All that lies in its folder.
    state
        What it says of this store.
    writers
        Who is at work: the last line of such a one may be under way.
    uuid
        Of the store.
    """
    yield from ledgers.unreadable
    yield from _damaged_lines(ledgers, writers)
    yield from _missing_lines(ledgers)
    others = sorted({record.uuid for record in ledgers.state.records})
    if not state.records:
        if others:
            told = (
                f"the ledger beside it speaks of {len(others)} other stores ({others[0]}), not of "
                f"this one ({uuid}); sizes of shards cannot be compared with anything"
            )
        else:
            told = (
                f"there is no ledger at {ledgers.state.url}: sizes of shards cannot be compared "
                "with anything, and shards that are not there count as never written"
            )
        yield finding("ledger_absent", Where(), told)


def _damaged_lines(ledgers: Ledgers, writers: Writers) -> Iterator[Finding]:
    by_file: dict[str, list[Any]] = defaultdict(list)
    for damage in ledgers.state.damaged:
        name = damage.file.removeprefix(f"{ledgers.state.url}/")
        match = _PART.fullmatch(name)
        if damage.reason.startswith("torn") and match and match["writer"] in writers.names:
            continue
        by_file[name].append(damage)
    for name in sorted(by_file):
        many = by_file[name]
        shown = "; ".join(f"line {one.line}: {one.reason}" for one in many[:_NAMED])
        more = f"; and {len(many) - _NAMED} more" if len(many) > _NAMED else ""
        where = Where(key=name, beside="ledger")
        told = f"{len(many)} lines of {name} cannot be believed: {shown}{more}"
        yield finding("ledger_damaged", where, told)


def _missing_lines(ledgers: Ledgers) -> Iterator[Finding]:
    """Tell of lines that are gone: every writer counts its own, from 0."""
    numbers: dict[str, set[int]] = defaultdict(set)
    excused: dict[str, int] = defaultdict(int)
    for record in ledgers.state.records:
        numbers[record.writer].add(record.number)
        if record.kind == "note" and isinstance(record.fields.get("damaged"), str):
            excused[str(record.fields["damaged"])] += 1 << 40  # mended: what is gone stays gone
    for damage in ledgers.state.damaged:
        excused[damage.file.removeprefix(f"{ledgers.state.url}/")] += 1
    for writer in sorted(numbers):
        name = f"{writer}{_LINES}"
        gone = max(numbers[writer]) + 1 - len(numbers[writer])
        if gone > excused[name]:
            where = Where(key=name, beside="ledger")
            told = f"{gone} lines of {name} are gone: its writer numbered its lines without a gap"
            yield finding("ledger_damaged", where, told)


def partial_in_ledger(ledgers: Ledgers) -> Iterator[Seen]:
    """Yield the half-written files of the ledger's folder."""
    for seen in ledgers.files:
        if seen.sort is Sort.FILE and seen.key.endswith(PARTIAL):
            yield seen


def settled(place: ReadOnlyPlace, state: LedgerState, root: Any) -> bool:
    """Say whether a store is published and no change of it is under way."""
    from idfzarr.store.update import update_under_way

    if root is None:
        return state.is_published
    try:
        return update_under_way(state, root) is None
    except (IdfzarrError, KeyError, TypeError, ValueError):
        return True
