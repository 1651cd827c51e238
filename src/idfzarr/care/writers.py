"""Whether somebody writes a store just now, as far as its ledger and this machine tell."""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from idfzarr.errors import IdfzarrError, UsageError
from idfzarr.store.ledger import read_ledger
from idfzarr.store.root import read_root
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from collections.abc import Iterable

    from idfzarr.store.ledger import LedgerState, Record
    from idfzarr.store.place import Place

__all__ = ["Writers", "refuse_live_writers", "writers_at_work"]

_WRITER = re.compile(r"(?P<host>.*)-(?P<pid>\d{1,9})-[0-9a-f]{8}")
_ENDS = frozenset(["published", "removed", "abandoned"])
_ENDS_IF_SETTLED = _ENDS | {"note", "done"}
_START_TIME = 19  # field 22 of /proc/PID/stat (proc(5)), counted from the one after the name
_GRACE_S = 3600.0


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
    process = _process_of(record.writer)
    if process is None:
        return False
    host, pid = process
    if host != _this_host():
        return now - record.time_ns / 1e9 < grace
    begun = _begin_of(pid, now)
    return begun is not None and begun - 1.0 <= record.time_ns / 1e9


def _process_of(writer: str) -> tuple[str, int] | None:
    """Return host and number of the process that a writer is."""
    match = _WRITER.fullmatch(writer)
    return None if match is None else (match["host"], int(match["pid"]))


def _this_host() -> str:
    return "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]


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


def refuse_live_writers(place: Place) -> None:
    """Refuse to touch a store that somebody else writes.

    Parameters
    ----------
    place
        The store.

    Raises
    ------
    UsageError
        A process that has written to the ledger and not come to an end of its work is alive, or
        is on another machine and wrote within the last hour. This process itself is none.
    """
    state = read_ledger(place)
    writers = writers_at_work(state.records, settled=_is_settled(place, state), grace=_GRACE_S)
    others = [name for name in writers.names if _process_of(name) != (_this_host(), os.getpid())]
    if others:
        last = [record.kind for record in state.records if record.writer == others[0]][-1]
        msg = (
            f"{place.url} is being written by {others[0]} (its last line in the ledger is "
            f"{last!r}); wait until it has finished, or stop it, and repair then"
        )
        raise UsageError(msg)


def _is_settled(place: Place, state: LedgerState) -> bool:
    """Say whether the store is published and no change of it is under way."""
    try:
        root = read_root(place)
    except (IdfzarrError, OSError):
        return state.is_published
    return update_under_way(state.for_store(root.uuid), root) is None
