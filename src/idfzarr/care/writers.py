"""Whether somebody writes a store just now, as far as its ledger and this machine tell."""

from __future__ import annotations

import os
import re
import socket
import time
from typing import TYPE_CHECKING

from idfzarr.errors import IdfzarrError, UsageError
from idfzarr.store.ledger import read_ledger
from idfzarr.store.root import read_root
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from idfzarr.store.ledger import LedgerState, Record
    from idfzarr.store.place import Place

__all__ = ["refuse_live_writers"]

_WRITER = re.compile(r"(?P<host>.*)-(?P<pid>\d+)-[0-9a-f]{8}")
_ENDS = frozenset(["published", "removed", "abandoned", "note", "done"])
_ALSO_BETWEEN = frozenset(["note", "done"])
_GRACE_S = 3600.0
_START_TIME = 19  # field 22 of /proc/PID/stat (proc(5)), counted from the one after the name


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
        is on another machine and wrote within the last hour.
    """
    state = read_ledger(place)
    last: dict[str, Record] = {}
    for record in state.records:
        last[record.writer] = record
    ends = _ENDS if _is_settled(place, state) else _ENDS - _ALSO_BETWEEN
    for writer, record in sorted(last.items()):
        if record.kind not in ends and _is_at_work(writer, record):
            msg = (
                f"{place.url} is being written by {writer} (its last line in the ledger is "
                f"{record.kind!r}); wait until it has finished, or stop it, and repair then"
            )
            raise UsageError(msg)


def _is_settled(place: Place, state: LedgerState) -> bool:
    """Say whether the store is published and no change of it is under way."""
    try:
        root = read_root(place)
    except (IdfzarrError, OSError):
        return state.is_published
    return update_under_way(state.for_store(root.uuid), root) is None


def _is_at_work(writer: str, record: Record) -> bool:
    match = _WRITER.fullmatch(writer)
    if match is None:
        return False
    here = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
    age = time.time() - record.time_ns / 1e9
    if match["host"] != here:
        return age < _GRACE_S
    pid = int(match["pid"])
    return pid != os.getpid() and _has_lived_since(pid, record)


def _has_lived_since(pid: int, record: Record) -> bool:
    """Say whether the process that wrote a line still lives, and not another of its number."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rsplit(b")", 1)[1].split()[_START_TIME])
        with open("/proc/uptime", "rb") as file:
            up = float(file.read().split()[0])
    except ProcessLookupError:
        return False
    except (OSError, ValueError, IndexError):
        return True  # it is there, and no more can be told of it
    begun = time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
    return begun - 1.0 <= record.time_ns / 1e9
