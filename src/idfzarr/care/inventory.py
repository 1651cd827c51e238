"""Look at a store and say what is the matter with it; nothing is ever changed.

The cube is judged by its schema, its layout and the ledger beside it; any other Zarr store as far
as its own metadata allows. Files are opened for reading only and links are never followed. After
the first error everything else is still looked at.
"""

from __future__ import annotations

import os
import time
from collections import Counter as Counts
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idfzarr.care.claims import Claims, claims_of
from idfzarr.care.contents import Contents, look_inside
from idfzarr.care.cube_shards import CubeNames, check_shards, list_and_scan
from idfzarr.care.finding import LEVELS, Finding, Where, finding
from idfzarr.care.grouping import Group, completeness_of, groups_of
from idfzarr.care.ledger_check import (
    Ledgers,
    ledger_findings,
    noted_files,
    read_ledgers,
)
from idfzarr.care.leftovers import (
    Clock,
    change_under_way,
    check_changes,
    check_partial,
    exchange_stopped,
    may_be_to_come,
    strays_to_come,
)
from idfzarr.care.listing import Listing, list_store
from idfzarr.care.plain_inventory import PlainSeen, plain_inventory
from idfzarr.care.read_only import Counter, ReadOnlyPlace
from idfzarr.care.report_words import visible
from idfzarr.care.skycells import is_skycells, skycell_inventory
from idfzarr.care.structure import (
    check_chunk_files,
    check_lengths,
    check_metadata,
    check_nodes,
    noted_metadata,
    read_coordinates,
)
from idfzarr.care.writers import writers_at_work
from idfzarr.errors import IdfzarrError, UsageError, closest
from idfzarr.progress import Progress, silent
from idfzarr.store.place import place_of
from idfzarr.store.root import ROOT_KEY
from idfzarr.store.schema import LIGHTCURVES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import xarray as xr
    from numpy.typing import NDArray

    from idfzarr.care.finding import Level
    from idfzarr.care.shard_index import IndexSeen
    from idfzarr.store.ledger import LedgerState, Record
    from idfzarr.store.place import PlaceLike

__all__ = ["Group", "Inventory", "inventory"]

_MOST_OF_A_KIND = 10_000
_MOST_WORKERS = 4
_LONGEST = 1000  # characters of a message, whatever names the store has
_TRIES = 3


@dataclass(frozen=True, eq=False)
class Inventory:
    """What is there of a store, and what is the matter with it.

    Attributes
    ----------
    url
        The store.
    store_kind
        ``cube``, ``skycells``, ``skycells_old`` (in an earlier layout), ``zarr3`` or ``zarr2``.
    level
        How deep it was looked into.
    findings
        Sorted: errors first, then by place.
    groups
        The parts of the store, with sizes.
    completeness
        What is there of a cube; see `idfzarr.care.grouping.completeness_of`.
    uuid, generation
        Of a cube; None where nobody says.
    n_files, n_bytes
        Of everything in the store, on disk.
    n_read
        Bytes that were read.
    seconds
        How long it took.
    sampled
        Fraction of the bytes that were scrubbed or decoded; None for all of them.
    live
        Whether a writer is at work.
    """

    url: str
    store_kind: str
    level: Level
    findings: tuple[Finding, ...] = ()
    groups: tuple[Group, ...] = ()
    completeness: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    uuid: str | None = None
    generation: int | None = None
    n_files: int = 0
    n_bytes: int = 0
    n_read: int = 0
    seconds: float = 0.0
    sampled: float | None = None
    live: bool = False

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings of values that are lost or cannot be trusted."""
        return tuple(one for one in self.findings if one.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings of what is to be tidied up."""
        return tuple(one for one in self.findings if one.severity == "warning")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """Findings that are good to know."""
        return tuple(one for one in self.findings if one.severity == "note")

    @property
    def ok(self) -> bool:
        """Whether there is no error and no warning."""
        return not (self.errors or self.warnings)

    @property
    def exit_code(self) -> int:
        """0 where all is well, 1 where there are errors or warnings."""
        return int(not self.ok)

    def of(self, kind: str) -> tuple[Finding, ...]:
        """Return the findings of a kind."""
        return tuple(one for one in self.findings if one.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Return everything in JSON's types."""
        from idfzarr.care.report import document

        return document(self)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return everything as JSON, and write it to a file if one is named."""
        from idfzarr.care.report import json_text

        text = json_text(self)
        if path is not None:
            self._write(path, text)
        return text

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the findings to a file, one a row."""
        from idfzarr.care.report import csv_text

        self._write(path, csv_text(self))

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Write a page with pictures to a file; it needs nothing else."""
        from idfzarr.care.report_html import page

        self._write(path, page(self))

    def to_dataset(self) -> xr.Dataset:
        """Return the findings and the completeness as an xarray Dataset."""
        from idfzarr.care.report import dataset

        return dataset(self)

    def _write(self, path: str | os.PathLike[str], text: str) -> None:
        from idfzarr.care.report import check_outside, write_whole

        write_whole(check_outside(Path(path), self.url), text)

    def __str__(self) -> str:
        from idfzarr.care.report_text import text

        return text(self)

    def _repr_html_(self) -> str:
        from idfzarr.care.report_html import fragment

        return fragment(self)


def inventory(
    store: PlaceLike,
    *,
    level: Level = "structure",
    sample: float | None = None,
    seed: int = 0,
    workers: int | None = None,
    grace: float = 3600.0,
    history: bool = False,
    progress: Progress = silent,
) -> Inventory:
    """Look at a store and say what is the matter with it.

    Parameters
    ----------
    store
        Path or place of a cube, or of any Zarr v3 or v2 store.
    level
        How deep: ``listing`` opens no file of a shard; ``structure`` reads metadata, coordinates
        and the index of every shard; ``scrub`` reads every byte and verifies every checksum;
        ``full`` decodes.
    sample
        Fraction of the bytes to scrub or decode, above 0 and up to 1, those never read well or
        longest ago first; all unless given.
    seed
        Decides among files that were never read.
    workers
        Threads; as many as there are processors, four at most, unless given.
    grace
        Seconds that a half-written file or staging may be somebody's work for.
    history
        Note in the ledger's folder which files were read well; the one thing ever written.
    progress
        Told what is being done.

    Returns
    -------
    Inventory
        Findings in an order that depends on nothing but the store.

    Raises
    ------
    StoreMissing
        There is nothing.
    ForeignStore
        There is something, but no Zarr store.
    UnfinishedStore
        A build was begun, and nothing of it is there yet.
    UsageError
        The level, the sample or the number of workers is none.
    """
    _check_options(level, sample, workers)
    asked = _Asked(
        level, sample, seed, workers or min(_MOST_WORKERS, os.cpu_count() or 1), grace, history,
        progress,
    )  # fmt: skip
    begun = time.monotonic()
    place = ReadOnlyPlace(place_of(store), Counter())
    for _ in range(_TRIES):
        seen = _look(place, asked)
        if seen.claims is None or _root_state(place) == seen.root_state:
            break  # else the store was exchanged for another while it was looked at
    return Inventory(
        url=place.url,
        store_kind=seen.store_kind,
        level=level,
        findings=_ordered(seen.findings),
        groups=seen.groups,
        completeness=seen.completeness,
        uuid=seen.claims.uuid if seen.claims else None,
        generation=seen.claims.generation if seen.claims else None,
        n_files=seen.n_files,
        n_bytes=seen.n_bytes,
        n_read=place.counter.n_read,
        seconds=time.monotonic() - begun,
        sampled=sample if level in {"scrub", "full"} else None,
        live=seen.live,
    )


@dataclass(frozen=True)
class _Asked:
    """What an inventory was asked for."""

    level: Level
    sample: float | None
    seed: int
    workers: int
    grace: float
    history: bool
    progress: Progress

    def reaches(self, level: Level) -> bool:
        """Say whether it is as deep as a level."""
        return LEVELS.index(self.level) >= LEVELS.index(level)


@dataclass(frozen=True, eq=False)
class _Seen:
    """What one look at a store has seen."""

    store_kind: str
    findings: list[Finding]
    groups: tuple[Group, ...]
    completeness: Mapping[str, NDArray[Any]]
    n_files: int
    n_bytes: int
    claims: Claims | None = None
    live: bool = False
    root_state: object = None


def _check_options(level: str, sample: float | None, workers: int | None) -> None:
    if level not in LEVELS:
        msg = f"there is no level {level!r}{closest(level, LEVELS)}; one of {', '.join(LEVELS)}"
        raise UsageError(msg)
    if sample is not None and not 0 < sample <= 1:
        msg = f"a sample of {sample} is none: give a fraction above 0 and up to 1, as 0.05"
        raise UsageError(msg)
    if workers is not None and workers < 1:
        msg = f"{workers} workers cannot work; give one at least"
        raise UsageError(msg)


def _ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings in their order, of each kind no more than can be read."""
    shown = {replace(one, message=visible(one.message, at_most=_LONGEST)) for one in findings}
    ordered = sorted(shown, key=Finding.sort_key)
    counted = Counts(one.kind for one in ordered)
    kept: list[Finding] = []
    taken: Counts[str] = Counts()
    for one in ordered:
        taken[one.kind] += 1
        if taken[one.kind] <= _MOST_OF_A_KIND:
            kept.append(one)
    for kind, count in sorted(counted.items()):
        if count > _MOST_OF_A_KIND:
            told = f"{count - _MOST_OF_A_KIND} more findings of this kind are not told one by one"
            kept.append(finding(kind, Where(), told))
    return tuple(sorted(kept, key=Finding.sort_key))


def _root_state(place: ReadOnlyPlace) -> object:
    """Return what changes when a store is committed to, or exchanged for another."""
    if place.folder is None:
        return None
    try:
        status = os.lstat(f"{place.folder}/{ROOT_KEY}")
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


# -------------------------------------------------------------------- one look


def _look(place: ReadOnlyPlace, asked: _Asked) -> _Seen:
    root_state = _root_state(place)
    if is_skycells(place):  # before the ledger is asked, which skycells without a root have too
        return _of_skycells(place, asked, root_state)
    ledgers = read_ledgers(place)
    try:
        claims = claims_of(place, ledgers.state)
    except IdfzarrError:
        stopped = exchange_stopped(place, ledgers.state)
        if stopped is None:
            raise
        return _Seen("cube", [stopped], (), {}, 0, 0, Claims("own", {}), root_state=root_state)
    if claims is None or not claims.nodes:
        plain = plain_inventory(
            place, level=asked.level, sample=asked.sample, seed=asked.seed, workers=asked.workers,
            grace=asked.grace, progress=asked.progress,
        )  # fmt: skip
        return _of_plain(plain, claims, root_state)
    return _look_at_cube(place, asked, ledgers, claims, root_state)


def _of_skycells(place: ReadOnlyPlace, asked: _Asked, root_state: object) -> _Seen:
    seen = skycell_inventory(
        place, level=asked.level, sample=asked.sample, seed=asked.seed, workers=asked.workers,
        grace=asked.grace, progress=asked.progress,
    )  # fmt: skip
    plain = seen.plain
    return _Seen(
        plain.store_kind, list(plain.findings), plain.groups, seen.completeness, plain.n_files,
        plain.n_bytes, root_state=root_state,
    )  # fmt: skip


def _of_plain(plain: PlainSeen, claims: Claims | None, root_state: object) -> _Seen:
    findings = list(plain.findings)
    kind = plain.store_kind
    if claims is not None:
        kind = "cube"
        keys = {one.where.key for one in claims.findings}
        findings = [one for one in findings if one.where.key not in keys] + list(claims.findings)
    return _Seen(
        kind, findings, plain.groups, {}, plain.n_files, plain.n_bytes, claims,
        root_state=root_state,
    )  # fmt: skip


def _look_at_cube(
    place: ReadOnlyPlace, asked: _Asked, ledgers: Ledgers, claims: Claims, root_state: object
) -> _Seen:
    state = ledgers.of_store(claims.uuid)
    update = change_under_way(state, claims.root)
    settled = claims.is_published and update is None
    records = _since_published(state) if settled else state.records
    writers = writers_at_work(records, settled=settled, grace=asked.grace)
    clock = Clock(time.time(), asked.grace, writers)
    asked.progress("listing", 0, 1)
    listing, indexes = _list(place, claims, asked)
    asked.progress("listing", 1, 1)
    findings = [*claims.findings, *ledger_findings(ledgers, state, writers, uuid=claims.uuid)]
    findings += _of_listing(listing, to_come=strays_to_come(claims, update, clock))
    findings += check_partial(listing, ledgers, clock)
    findings += check_changes(place, claims, listing, state, clock)
    coordinates: dict[str, NDArray[Any]] = {}
    if asked.reaches("structure"):
        noted = noted_metadata(state)
        findings += check_metadata(place, claims, listing, noted=noted, live=bool(writers))
        findings += check_nodes(claims)
        findings += check_lengths(claims)
        findings += check_chunk_files(claims, listing)
        coordinates = read_coordinates(place, claims, listing, findings)
    names = CubeNames(coordinates.get("object"), claims.schema.types if claims.schema else ())
    told = noted_files(state)
    shards = check_shards(claims, listing, indexes, told, names)
    findings += shards.findings
    if asked.reaches("scrub"):
        contents = Contents(place, claims, listing, state, told, names, coordinates, shards)
        findings = look_inside(contents, findings, asked)
    findings = _settled(place, findings, told, claims.uuid)
    return _Seen(
        "cube",
        findings,
        groups_of(claims, listing, shards, findings),
        completeness_of(claims, shards, names, coordinates),
        listing.n_files,
        listing.n_bytes,
        claims,
        bool(writers),
        root_state,
    )


def _list(
    place: ReadOnlyPlace, claims: Claims, asked: _Asked
) -> tuple[Listing, dict[int, IndexSeen] | None]:
    if not asked.reaches("structure"):
        return list_store(place, claims.nodes), None
    return list_and_scan(place, claims, workers=asked.workers, progress=asked.progress)


def _since_published(state: LedgerState) -> tuple[Record, ...]:
    """Return what was noted after a store was published last: before that, all has come to an end.

    A process may have taken part in a build and live on for other reasons.
    """
    last = state.last("published")
    since = 0 if last is None else last.time_ns
    return tuple(record for record in state.records if record.time_ns > since)


_OF_SHARDS = frozenset(
    ["shard_missing", "shard_torn", "index_corrupt", "index_wrong", "chunk_missing",
     "chunk_corrupt", "wrong_shard"]
)  # fmt: skip


def _settled(
    place: ReadOnlyPlace,
    findings: list[Finding],
    told: Mapping[str, Any],
    uuid: str | None,
) -> list[Finding]:
    """Leave out what was found of shards that somebody wrote while they were looked at."""
    suspects = {
        one.where.key
        for one in findings
        if one.kind in _OF_SHARDS and one.where.key.startswith(f"{LIGHTCURVES}/c/")
    }
    if not suspects:
        return findings
    now = noted_files(read_ledgers(place).of_store(uuid))
    written = {key for key in suspects if now.get(key) != told.get(key)}
    return [one for one in findings if one.where.key not in written or one.kind not in _OF_SHARDS]


# -------------------------------------------------------------------- what the listing tells


def _of_listing(listing: Listing, *, to_come: bool) -> Iterator[Finding]:
    for seen in listing.links:
        told = f"{seen.key} is a link to {seen.told}; links in a store are not followed"
        yield finding("symlink", Where(key=seen.key), told)
    for seen in listing.unreadable:
        why = f": {seen.told}" if seen.told else ""
        yield finding("unreadable", Where(key=seen.key), f"{seen.key} may not be read{why}")
    for seen in listing.specials:
        told = f"{seen.key} is no regular file but a pipe, a socket or a device"
        yield finding("file_unknown", Where(key=seen.key), told)
    for seen in listing.deep:
        told = f"{seen.key} lies too deep: nothing in it was looked at"
        yield finding("file_unknown", Where(key=seen.key), told)
    for path, seen in listing.outside:
        where = Where(path, seen.key, n_bytes=seen.size)
        yield finding("key_outside", where, f"{seen.key} lies outside the grid of {path}")
    for stray in listing.strays():
        if to_come and may_be_to_come(stray.tally.first):
            continue
        many = "" if stray.tally.n_files == 1 else f", {stray.tally.n_files} files,"
        where = Where(key=stray.key, n_bytes=stray.tally.n_bytes)
        told = f"{stray.key}{many} belongs to no array of the store"
        yield finding("file_unknown", where, told)
    for name, count in sorted(listing.n_more.items()):
        told = f"{count} more of the {name} are not told one by one"
        yield finding("file_unknown", Where(), told)
    if listing.is_cut:
        told = f"the store has too many files: those after {listing.n_files} were not looked at"
        yield finding("too_large", Where(), told)
