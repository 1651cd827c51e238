"""What writers leave behind when they are stopped: half-written files, staging, half a change.

Whatever may still be somebody's work is no finding: files that a living process has locked, files
younger than the oldest writer that is alive, and, as a writer on another machine cannot be asked,
files younger than the grace period.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.ledger_check import partial_in_ledger
from idfzarr.care.read_only import ReadOnlyPlace
from idfzarr.care.walking import Sort, walk
from idfzarr.errors import IdfzarrError, UsageError
from idfzarr.store.exchange import RELAID_SUFFIX, relaid_place
from idfzarr.store.root import ROOT_KEY, read_root
from idfzarr.store.schema import STAGING
from idfzarr.store.update import NEXT, Update, update_under_way

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from idfzarr.care.claims import Claims
    from idfzarr.care.ledger_check import Ledgers
    from idfzarr.care.listing import Listing, Tally
    from idfzarr.care.writers import Writers
    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.root import Root

__all__ = [
    "Clock",
    "change_under_way",
    "check_changes",
    "check_partial",
    "exchange_stopped",
    "may_be_to_come",
    "strays_to_come",
]

_LOCKS = "/proc/locks"
_MARKER = f"{NEXT}/update.json"
_WORKED_IN = {"work": "registered", "relaid": "relayout", "aside": "relayout"}
"""Folders beside a store by their suffix, and the line of the ledger without which none is ours."""


@dataclass(frozen=True)
class Clock:
    """What decides whether a file may still be somebody's work.

    Attributes
    ----------
    now
        Seconds since 1970.
    grace
        Seconds that a file may be somebody's work for.
    writers
        Who is at work.
    """

    now: float
    grace: float
    writers: Writers

    def is_left(self, mtime_ns: int | None) -> bool:
        """Say whether something that was last changed then is nobody's work any more."""
        if mtime_ns is None:
            return not self.writers
        if self.writers and (self.writers.since_ns or 0) <= mtime_ns:
            return False
        return abs(self.now - mtime_ns / 1e9) > self.grace


# -------------------------------------------------------------------- half-written files


def check_partial(listing: Listing, ledgers: Ledgers, clock: Clock) -> Iterator[Finding]:
    """Yield half-written files whose writer is gone.

    Parameters
    ----------
    listing
        What lies in the store.
    ledgers
        What lies in its ledger's folder.
    clock
        Who is at work, and for how long a file is left in peace.
    """
    found = [("", seen) for seen in listing.partial]
    found += [("ledger", seen) for seen in partial_in_ledger(ledgers)]
    old = [(beside, seen) for beside, seen in found if clock.is_left(seen.mtime_ns)]
    locked = _locked_inodes() if old else frozenset()
    for beside, seen in old:
        if seen.inode in locked:
            continue
        where = Where(key=seen.key, n_bytes=seen.size, beside=beside)
        told = f"{seen.key} was left half written{_since(seen.mtime_ns, clock)}"
        yield finding("partial_file", where, told, sure="likely")


def _since(mtime_ns: int | None, clock: Clock) -> str:
    if mtime_ns is None:
        return ""
    hours = max(0.0, clock.now - mtime_ns / 1e9) / 3600
    return f" {hours / 24:.0f} days ago" if hours > 48 else f" {hours:.1f} hours ago"


def _locked_inodes() -> frozenset[int]:
    """Return the inodes of files that a process of this machine has locked (proc(5), locks)."""
    try:
        with open(_LOCKS, encoding="ascii", errors="replace") as file:
            fields = [line.split() for line in file]
    except OSError:
        return frozenset()
    found = (part.rpartition(":")[2] for line in fields for part in line if part.count(":") == 2)
    return frozenset(int(inode) for inode in found if inode.isdecimal())


# -------------------------------------------------------------------- changes


def change_under_way(state: LedgerState, root: Root | None) -> Update | None:
    """Return the change of a published store that was begun and is not committed."""
    if root is None:
        return None
    try:
        return update_under_way(state, root)
    except (IdfzarrError, KeyError, TypeError, ValueError):
        return None  # a line of the ledger that says less than it must


def strays_to_come(claims: Claims, update: Update | None, clock: Clock) -> bool:
    """Say whether a chunk or metadata of an array that nobody knows yet may be on its way."""
    return not claims.is_published or update is not None or bool(clock.writers)


def check_changes(
    place: ReadOnlyPlace,
    claims: Claims,
    listing: Listing,
    state: LedgerState,
    clock: Clock,
) -> Iterator[Finding]:
    """Yield a change that was stopped half-way, or the staging of one that is over; one at most.

    Parameters
    ----------
    place
        The store.
    claims
        What it says of itself.
    listing
        What lies in it.
    state
        What its ledger says.
    clock
        Who is at work.
    """
    if not claims.is_published or clock.writers:
        return
    staging = listing.staging
    size = staging.n_bytes if staging.n_files else None
    where = Where(key=STAGING if staging.n_files else "", n_bytes=size)
    update = change_under_way(state, claims.root)
    marker = _marked(place) if staging.n_files else {}
    if update is not None:
        told = f"the {update} was begun and is not committed, and its writer is gone"
        yield finding("update_unfinished", where, told)
    elif marker:
        generation = marker.get("generation")
        committed = isinstance(generation, int) and generation <= (claims.generation or 0)
        told = (
            "a change was committed, but not all of its files have been put in place"
            if committed
            else "files wait for a change of which the ledger does not know any more"
        )
        yield finding("update_unfinished", where, told)
    else:
        other = list(_other_tree(place, claims, state))
        yield from other
        yield from _staging_left(staging, where, clock)
        yield from _folders_left(place, state, clock, besides=bool(other))


def _staging_left(staging: Tally, where: Where, clock: Clock) -> Iterator[Finding]:
    if staging.n_files and clock.is_left(staging.newest_ns):
        told = f"{staging.n_files} files of staging, {staging.n_bytes} bytes, were left behind"
        yield finding("staging_left", where, told, sure="likely")


def _folders_left(
    place: ReadOnlyPlace, state: LedgerState, clock: Clock, *, besides: bool
) -> Iterator[Finding]:
    """Tell of folders beside a store that a writer worked in and did not come to remove.

    They are ours only if the ledger speaks of what they are for: anybody may name a folder so.
    """
    if place.folder is None:
        return
    for name, kind in _WORKED_IN.items():
        if (besides and name == "relaid") or next(state.of(kind), None) is None:
            continue
        files = [seen for seen in walk(place.beside(f".{name}")) if seen.sort is Sort.FILE]
        if files and clock.is_left(max(seen.mtime_ns or 0 for seen in files)):
            n_bytes = sum(seen.size for seen in files)
            told = (
                f"the folder .{name} beside the store, {len(files)} files, {n_bytes} bytes, was "
                "left behind by a writer that is gone"
            )
            yield finding("staging_left", Where(n_bytes=n_bytes, beside=name), told, sure="likely")


def _marked(place: ReadOnlyPlace) -> Mapping[str, Any]:
    try:
        found = json.loads(place.read(_MARKER))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _other_tree(place: ReadOnlyPlace, claims: Claims, state: LedgerState) -> Iterator[Finding]:
    """Tell of a tree of another generation that lies beside a store which was laid out anew."""
    try:
        beside = ReadOnlyPlace(relaid_place(place.place), place.counter)
    except UsageError:
        return  # on object storage, where nothing is laid out anew
    if next(state.of("relayout"), None) is None or not beside.exists():
        return
    try:
        before = read_root(beside)
    except (IdfzarrError, OSError):
        return
    if before.uuid == claims.uuid and before.generation < (claims.generation or 0):
        n_bytes = sum(seen.size for seen in walk(beside) if seen.sort is Sort.FILE)
        told = (
            f"the tree of before the store was laid out anew, {n_bytes} bytes, is still beside it, "
            f"as {beside.url.rpartition('/')[2]}"
        )
        yield finding("update_unfinished", Where(n_bytes=n_bytes), told)


def exchange_stopped(place: ReadOnlyPlace, state: LedgerState) -> Finding | None:
    """Return the finding of a store that was moved aside and not put back under its name."""
    if place.folder is None or next(state.of("relayout"), None) is None:
        return None
    for suffix in (".aside", RELAID_SUFFIX):
        beside = place.beside(suffix)
        if beside.size(ROOT_KEY) is not None:
            told = (
                f"the store was being exchanged for a new layout of it, which was stopped: it lies "
                f"at {beside.url}"
            )
            return finding("update_unfinished", Where(), told, severity="error")
    return None


def may_be_to_come(key: str) -> bool:
    """Say whether a key can be one of an array that is being written: a chunk, or metadata."""
    return "/c/" in f"{key}/" or key.endswith(f"/{ROOT_KEY}")
