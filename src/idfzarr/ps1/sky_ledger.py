"""What the ledger beside a store of skycells tells: what was asked for, what the archive has not.

A store holds what was written and no list of what it is to hold. Every fetch notes what it was
asked for, so that an array which did not come can be told from one that nobody wanted; several
processes note side by side, since a ledger only grows.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from idfzarr.errors import IdfzarrError
from idfzarr.ps1.names import parse
from idfzarr.ps1.sky_keys import array_name, parse_array_name
from idfzarr.store.ledger import read_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from idfzarr.ps1.download import Attempt
    from idfzarr.ps1.sky_keys import SkyArray
    from idfzarr.store.ledger import Ledger, Record
    from idfzarr.store.place import PlaceLike

__all__ = ["ABSENT_DAYS", "SkyNotes", "note_absent", "note_asked", "read_notes"]

ABSENT_DAYS = 30.0
"""For so long the archive is believed that it does not have an array."""

_ASKED, _ABSENT = "ps1_asked", "ps1_absent"
_DAY = 86_400e9  # nanoseconds
_NAMES_A_LINE = 2000


@dataclass(frozen=True)
class SkyNotes:
    """What a ledger tells.

    Attributes
    ----------
    asked
        By the name of a skycell, the names of the arrays that were ever asked for.
    absent
        By an array's path in the store, what the archive said when it did not have it.
    """

    asked: Mapping[str, frozenset[str]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)


def read_notes(store: PlaceLike, uuid: str | None = None, *, days: float = ABSENT_DAYS) -> SkyNotes:
    """Read what the ledger of a store tells.

    Parameters
    ----------
    store
        The store.
    uuid
        Its uuid: lines about another that stood there before do not count. None where it is lost.
    days
        What the archive said longer ago does not count.
    """
    state = read_ledger(store)
    notes = tuple((state if uuid is None else state.for_store(uuid)).of("note"))
    oldest = time.time_ns() - days * _DAY
    asked: dict[str, frozenset[str]] = {}
    absent: dict[str, str] = {}
    for note in notes:
        for name, called in _asked(note):
            asked[name] = asked.get(name, frozenset()) | called
        path = note.fields.get(_ABSENT)
        if isinstance(path, str) and note.time_ns >= oldest:
            absent[path] = str(note.fields.get("why", ""))
    return SkyNotes(asked, absent)


def _asked(note: Record) -> Iterator[tuple[str, frozenset[str]]]:
    names, arrays = note.fields.get(_ASKED), note.fields.get("arrays")
    if not isinstance(names, list) or not isinstance(arrays, list):
        return
    called = frozenset(a for a in arrays if isinstance(a, str) and parse_array_name(a))
    for name in names:
        try:
            yield parse(name).name, called
        except IdfzarrError:  # of a later version, or not ours
            continue


def note_asked(ledger: Ledger, arrays: Iterable[SkyArray], known: SkyNotes) -> None:
    """Note what is asked for, where it has not been noted before.

    Parameters
    ----------
    ledger
        Of the store.
    arrays
        Which.
    known
        What is noted already.
    """
    wanted: dict[str, set[str]] = {}
    for array in arrays:
        wanted.setdefault(array.name, set()).add(array_name(array.band, array.kind))
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, called in wanted.items():
        if not called <= known.asked.get(name, frozenset()):
            alike.setdefault(tuple(sorted(called)), []).append(name)
    for same, names in alike.items():
        parts = (names[i : i + _NAMES_A_LINE] for i in range(0, len(names), _NAMES_A_LINE))
        ledger.append_all("note", [{_ASKED: part, "arrays": list(same)} for part in parts])


def note_absent(ledger: Ledger, array: SkyArray, said: Attempt) -> None:
    """Note that the archive does not have an array, and who said so."""
    ledger.append(
        "note",
        **{_ABSENT: array.path},
        url=said.url,
        status=said.status,
        why=f"{said.url}: status {said.status}",
    )
