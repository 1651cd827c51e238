"""The ledger of a store, judged: which lines can be believed, and what they say."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.read_only import ReadOnlyPlace
from idfzarr.care.walking import Seen, Sort, walk
from idfzarr.store.ledger import LEDGER_SUFFIX, LedgerState, read_ledger
from idfzarr.store.place import PARTIAL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from idfzarr.care.scrub import Mark
    from idfzarr.care.writers import Writers

__all__ = [
    "Ledgers",
    "Noted",
    "ledger_findings",
    "lines_gone",
    "noted_files",
    "partial_in_ledger",
    "read_ledgers",
]

_PART = re.compile(r"(?P<writer>.*-\d{1,9}-[0-9a-f]{8})(-\d{8})?\.jsonl")
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
    """Tell of lines that are gone; those that a repair has noted are gone and stay gone."""
    noted: dict[str, int] = defaultdict(int)
    for record in ledgers.state.of("note"):
        name, gone = record.fields.get("damaged"), record.fields.get("gone")
        if isinstance(name, str) and isinstance(gone, int):
            noted[name] = max(noted[name], gone)
    damaged: dict[str, int] = defaultdict(int)
    for damage in ledgers.state.damaged:
        damaged[damage.file.removeprefix(f"{ledgers.state.url}/")] += 1
    for name, gone in sorted(lines_gone(ledgers.state).items()):
        if gone > noted[name] + damaged[name]:
            where = Where(key=name, beside="ledger")
            told = f"{gone} lines of {name} are gone: its writer numbered its lines without a gap"
            yield finding("ledger_damaged", where, told)


def lines_gone(state: LedgerState) -> dict[str, int]:
    """Return how many lines are missing from every file of a ledger: writers count theirs from 0.

    Parameters
    ----------
    state
        All that the ledger says, of whatever store.
    """
    numbers: dict[str, set[int]] = defaultdict(set)
    for record in state.records:
        numbers[f"{record.writer}{_LINES}"].add(record.number)
    return {name: max(found) + 1 - len(found) for name, found in numbers.items()}


def partial_in_ledger(ledgers: Ledgers) -> Iterator[Seen]:
    """Yield the half-written files of the ledger's folder."""
    for seen in ledgers.files:
        if seen.sort is Sort.FILE and seen.key.endswith(PARTIAL):
            yield seen
