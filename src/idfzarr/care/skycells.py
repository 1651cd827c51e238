"""Look at a store of skycells: what is damaged, what is wanting, what is somebody's work.

A store of this package is judged by its metadata, whose crc32c covers header and scaling, by the
size and the index of every shard, and at the level ``scrub`` by every chunk. In the earlier layouts
nothing has a checksum: there every chunk is decoded instead, and a chunk that is not there is
judged by the arrays around it. Masks of zeros and images that are blank at the border are sound,
and so is an array that the archive does not have.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.finding import LEVELS, Finding, Where, finding
from idfzarr.care.old_chunks import judge_missing
from idfzarr.care.plain_inventory import PlainSeen, plain_inventory
from idfzarr.care.plain_values import check_plain_values
from idfzarr.care.safe_read import open_key
from idfzarr.care.skycell_groups import group_findings
from idfzarr.errors import IdfzarrError, MetadataCorrupt
from idfzarr.ps1.names import parse
from idfzarr.ps1.old_layouts import OldSkycells
from idfzarr.ps1.sky_keys import BANDS, KINDS, SkyArray, array_name, parse_array_name
from idfzarr.ps1.sky_ledger import read_notes
from idfzarr.ps1.sky_metadata import ATTRIBUTE, parse_document
from idfzarr.ps1.skystore import SkycellStore, is_skystore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from idfzarr.care.finding import Level
    from idfzarr.care.plain import ArrayCensus
    from idfzarr.care.read_only import ReadOnlyPlace
    from idfzarr.progress import Progress
    from idfzarr.ps1.sky_keys import Kind

__all__ = [
    "ALL_ARRAYS",
    "SkycellsSeen",
    "is_skycells",
    "skycell_inventory",
    "skycell_path",
]

ALL_ARRAYS = tuple(array_name(band, kind) for band in BANDS for kind in KINDS)
"""Names of all arrays that a skycell can have."""

_PATH = re.compile(r"(?:projections/)?[0-9]{1,4}/(skycell\.[0-9]{1,4}\.[0-9]{3})/([^/]+)")
_PROJECTION = re.compile(r"[0-9]{1,4}")
_CELL = re.compile(r"skycell\.[0-9]{1,4}\.[0-9]{3}")
_PARTIAL = re.compile(r"((?:.*/)?[^/]*\.partial)/")
_TEMP = re.compile(r"((?:.*/)?[^/]*_temp_[^/]*)/")
_MOST = 0.5
_DAMAGED = frozenset(["corrupt", "foreign"])
_SHARD = "c/0/0"


@dataclass(frozen=True, eq=False)
class SkycellsSeen:
    """What was seen of a store of skycells.

    Attributes
    ----------
    plain
        Findings, groups, files and arrays, as of any Zarr store.
    names
        (n,): the skycells, sorted.
    states
        (n, 15): of every array of `ALL_ARRAYS` ``whole``, ``damaged``, ``missing`` where others
        have it, ``absent`` where the archive has none, and empty where nobody expects it.
    """

    plain: PlainSeen
    names: tuple[str, ...] = ()
    states: Any = field(default_factory=lambda: np.empty((0, len(ALL_ARRAYS)), dtype="<U8"))

    @property
    def completeness(self) -> Mapping[str, Any]:
        """The table of states in arrays, for the inventory."""
        names = np.array(self.names, dtype=str)
        return {"skycell": names, "array": np.array(ALL_ARRAYS), "array_state": self.states}


def is_skycells(place: ReadOnlyPlace) -> bool:
    """Say whether a store holds skycells, in the layout of this package or an earlier one."""
    if is_skystore(place):
        return True
    if place.folder is None:
        return False
    for tree in ("", "/projections"):
        for projection in _folders(place.folder + tree, _PROJECTION):
            for _ in _folders(f"{place.folder}{tree}/{projection}", _CELL):
                return True
    return False


def _folders(top: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Yield the names of folders, never of links to some, that match."""
    try:
        with os.scandir(top) as entries:
            for entry in entries:
                if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield entry.name
    except OSError:
        return


def skycell_path(path: str) -> SkyArray | None:
    """Return what array of a skycell lies at a path; None for what is none."""
    match = _PATH.fullmatch(path)
    found = None if match is None else parse_array_name(match[2])
    if match is None or found is None:
        return None
    try:
        return SkyArray(parse(match[1]).name, *found, path)
    except IdfzarrError:
        return None


def skycell_inventory(
    place: ReadOnlyPlace,
    *,
    level: Level,
    sample: float | None,
    seed: int,
    workers: int,
    grace: float,
    progress: Progress,
) -> SkycellsSeen:
    """Look at a store of skycells.

    Parameters
    ----------
    place
        The store.
    level, sample, seed, workers, grace, progress
        See `idfzarr.care.inventory.inventory`.

    Raises
    ------
    UsageError
        It is on object storage.
    """
    seen = plain_inventory(
        place, level=level, sample=sample, seed=seed, workers=workers, grace=grace,
        progress=progress,
    )  # fmt: skip
    ours = is_skystore(place) or any(ATTRIBUTE in one.node.attributes for one in seen.arrays)
    look = _Look(place, seen, level, ours=ours)
    findings = [one for one in seen.findings if not _is_work(one.where)]
    findings += look.leftovers(grace=grace, now=time.time())
    if LEVELS.index(level) >= LEVELS.index("structure"):
        findings += look.own_arrays(findings) if ours else look.old_arrays(findings)
        findings += look.shapes()
        if ours:
            findings += look.groups(findings)
    if level == "scrub" and not ours and sample is None and place.folder is not None:
        skip = {one.where.key for one in findings}
        done = check_plain_values(place.folder, look.plain_arrays, skip=skip, progress=progress)
        place.counter.n_read += done.n_read
        findings += done.findings
    names, states, wanting = look.table(findings)
    findings += wanting
    groups = tuple(one for one in seen.groups if not _is_work(Where(one.name + "/")))
    kind = "skycells" if ours else "skycells_old"
    findings = [_with_remedy(one) for one in findings]
    plain = replace(seen, store_kind=kind, findings=tuple(findings), groups=groups)
    return SkycellsSeen(plain, names, states)


def _with_remedy(one: Finding) -> Finding:
    """Return a finding of damage with the remedy that skycells have."""
    if one.severity == "error" and one.state == "corrupt" and skycell_path(one.where.array):
        return replace(one, remedy=_REFETCH)
    return one


def _is_work(where: Where) -> bool:
    """Say whether a finding is about what is half written, which is judged as a whole."""
    told = f"{where.key or where.array}/"
    return bool(_PARTIAL.match(told) or _TEMP.match(told))


class _Look:
    """One look at a store of skycells."""

    def __init__(self, place: ReadOnlyPlace, seen: PlainSeen, level: Level, *, ours: bool) -> None:
        self._place, self._seen, self._level, self._ours = place, seen, level, ours
        self.plain_arrays = [c for c in seen.arrays if not _is_work(Where(c.node.path))]
        self._by_path = {census.node.path: census for census in self.plain_arrays}
        known = ((skycell_path(path), census) for path, census in self._by_path.items())
        self._arrays = [(array, census) for array, census in known if array is not None]

    # ---------------------------------------------------------------- half written

    def leftovers(self, *, grace: float, now: float) -> Iterator[Finding]:
        """Tell of half-written folders whose writer is gone."""
        folders: dict[str, list[Any]] = {}
        for key, seen in self._seen.files.items():
            match = _PARTIAL.match(key) or _TEMP.match(key)
            if match is not None:
                folders.setdefault(match[1], []).append(seen)
        for folder, files in sorted(folders.items()):
            newest = max((one.mtime_ns or 0) for one in files) / 1e9
            if now - newest <= grace or self._is_held(folder):
                continue
            size = sum(one.size for one in files)
            told = (
                f"{folder} is half written, and nobody has written to it for "
                f"{(now - newest) / 3600:.1f} hours"
            )
            yield finding("partial_file", Where(key=folder, n_bytes=size), told, sure="likely")

    def _is_held(self, folder: str) -> bool:
        """Say whether a writer holds the lock of a shard that it is writing."""
        if self._place.folder is None:
            return False
        try:
            with open_key(self._place.folder, f"{folder}/{_SHARD}") as handle:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    # ---------------------------------------------------------------- arrays of this package

    def own_arrays(self, findings: Iterable[Finding]) -> list[Finding]:
        """Compare every array with what its metadata says of it."""
        told = {(one.where.key, one.kind) for one in findings}
        faulty = {one.where.key for one in findings}
        made = []
        for array, census in self._arrays:
            made += [
                one
                for one in self._own_array(array, census)
                if (one.where.key, one.kind) not in told
                and not (one.kind == "wrong_shard" and one.where.key in faulty)
            ]
        return made

    def _own_array(self, array: SkyArray, census: ArrayCensus) -> Iterator[Finding]:
        key, shard = f"{array.path}/zarr.json", f"{array.path}/{_SHARD}"
        try:
            document = parse_document(
                self._place.read(key), array, where=f"{self._place.url}/{key}"
            )
        except MetadataCorrupt as error:
            yield finding("metadata_corrupt", Where(array.path, key), str(error), remedy=_REFETCH)
            return
        except IdfzarrError as error:
            yield finding("format_version", Where(array.path, key), str(error))
            return
        except OSError:
            return  # unreadable, which has been told, or gone since
        stated = document["attributes"][ATTRIBUTE]["shard"]
        seen = self._seen.files.get(shard)
        if seen is None:
            told = f"{array} has metadata and no pixels"
            yield finding("shard_missing", Where(array.path, shard), told, remedy=_REFETCH)
            return
        where = Where(array.path, shard, n_bytes=seen.size)
        if seen.size != stated["bytes"]:
            told = f"{shard} has {seen.size} bytes and was written with {stated['bytes']}"
            yield finding("shard_torn", where, told, remedy=_REFETCH)
            return
        tail = self._place.read_range(shard, max(0, seen.size - 4), 4)
        if tail.hex() != stated["index_crc32c"]:
            told = f"{shard} is not the shard that belongs to its metadata"
            yield finding("wrong_shard", where, told, remedy=_REFETCH)
            return
        present, expected = census.n_present, census.node.n_expected
        if present is not None and present < expected and not census.faulty:
            told = f"{expected - present} of the {expected} chunks of {array} are not there"
            yield finding("chunk_missing", where, told, remedy=_REFETCH)

    def groups(self, findings: Iterable[Finding]) -> list[Finding]:
        """Judge the metadata of the groups above the arrays."""
        paths = [array.path for array, _ in self._arrays]
        return list(group_findings(self._place, paths, told={f.where.key for f in findings}))

    # ---------------------------------------------------------------- earlier layouts

    def old_arrays(self, findings: Iterable[Finding]) -> list[Finding]:
        """Judge chunks that are not there, and headers that are lost."""
        if self._place.folder is None:
            return []
        old = OldSkycells(self._place.folder)
        broken = {one.where.array for one in findings if one.kind == "metadata_corrupt"}
        groups: dict[tuple[str, str, str], dict[Kind, ArrayCensus]] = {}
        for array, census in self._arrays:
            group = array.path.rpartition("/")[0]
            groups.setdefault((group, array.name, array.band), {})[array.kind] = census
        made: list[Finding] = []
        for (_, name, band), same in sorted(groups.items()):
            for kind, census in same.items():
                # Of a skycell in both trees the reader knows the newer; the older is not judged.
                try:
                    counts = census.node.path == next(iter(old.copies(name, band, kind)), "")
                except OSError:  # links in a circle, which have been told
                    continue
                if counts and census.node.path not in broken:
                    made += self._old_array(old, name, band, kind, same)
        return [*made, *self._headers()]

    def _old_array(
        self,
        old: OldSkycells,
        name: str,
        band: str,
        kind: Kind,
        same: Mapping[Kind, ArrayCensus],
    ) -> Iterator[Finding]:
        judged = judge_missing(old, name, band, kind, same)
        if judged.judgement == "blank":
            return
        path = same[kind].node.path
        sure = {"lost": "certain", "likely": "likely"}.get(judged.judgement, "possible")
        severity = {"lost": "error", "likely": "error", "possible": "warning"}
        more = f" ({len(judged.keys)} chunks)" if len(judged.keys) > 1 else ""
        yield finding(
            "chunk_missing",
            Where(path, judged.keys[0]),
            f"{name} {array_name(band, kind)}: {judged.why}{more}",
            severity=severity.get(judged.judgement, "note"),  # type: ignore[arg-type]
            remedy=_REFETCH,
            sure=sure,  # type: ignore[arg-type]
        )

    def _headers(self) -> Iterator[Finding]:
        """Tell of arrays without the header that the others of their skycell have."""
        groups: dict[str, list[tuple[SkyArray, bool]]] = {}
        for array, census in self._arrays:
            header = census.node.attributes.get("header")
            has = isinstance(header, str) and bool(header.strip())
            groups.setdefault(array.path.rpartition("/")[0], []).append((array, has))
        for many in groups.values():
            if not any(has for _, has in many):
                continue  # the layout that keeps one header for all
            for array, has in many:
                if not has:
                    told = f"{array} has no header: its writer was stopped before it was whole"
                    where = Where(array.path, f"{array.path}/zarr.json")
                    yield finding("metadata_corrupt", where, told, remedy=_REFETCH, sure="likely")

    # ---------------------------------------------------------------- the whole

    def shapes(self) -> Iterator[Finding]:
        """Tell of arrays whose shape differs from that of most others of their skycell."""
        groups: dict[str, list[tuple[SkyArray, tuple[int, ...]]]] = {}
        for array, census in self._arrays:
            group = array.path.rpartition("/")[0]
            groups.setdefault(group, []).append((array, census.node.shape))
        for many in groups.values():
            counted = Counter(shape for _, shape in many).most_common()
            if len(counted) < 2:
                continue
            for array, shape in many:
                if shape != counted[0][0]:
                    told = f"{array} is {shape}, the others of its skycell are {counted[0][0]}"
                    where = Where(array.path, f"{array.path}/zarr.json")
                    yield finding("lengths_disagree", where, told, remedy=_REFETCH, sure="likely")

    def table(self, findings: Iterable[Finding]) -> tuple[tuple[str, ...], Any, list[Finding]]:
        """Return the skycells, the state of every array, and findings of what is missing."""
        damaged = {
            self._path_of(one)
            for one in findings
            if one.state in _DAMAGED and one.severity == "error"
        }
        held: dict[str, dict[str, str]] = {}
        for array, census in self._arrays:
            state = "damaged" if census.node.path in damaged else "whole"
            cell = held.setdefault(array.name, {})
            called = array_name(array.band, array.kind)
            cell[called] = "damaged" if cell.get(called) == "damaged" else state
        for path in damaged:  # metadata that cannot be read is in no census
            lost = skycell_path(path)
            if lost is not None:
                held.setdefault(lost.name, {})[array_name(lost.band, lost.kind)] = "damaged"
        notes = read_notes(self._place, self._uuid())
        usual = _mostly(held.values())
        names = tuple(sorted(held.keys() | (notes.asked.keys() if self._ours else set())))
        states = np.zeros((len(names), len(ALL_ARRAYS)), dtype="<U8")
        made: list[Finding] = []
        for row, name in enumerate(names):
            cell = held.get(name, {})
            asked = notes.asked.get(name) if self._ours else None
            wanted = asked or (usual if self._ours else _of_layout(cell, usual))
            for column, called in enumerate(ALL_ARRAYS):
                state = cell.get(called, "missing" if called in wanted else "")
                if called not in cell and _own_path(name, called) in notes.absent:
                    state = "absent"
                states[row, column] = state
            missing = [a for a, s in zip(ALL_ARRAYS, states[row], strict=True) if s == "missing"]
            if missing:
                made.append(_incomplete(name, missing, is_asked=asked is not None))
        return names, states, made

    def _path_of(self, one: Finding) -> str:
        path = one.where.array
        key = one.where.key
        if not path and key.endswith("/zarr.json"):
            path = key.removesuffix("/zarr.json")
        return path

    def _uuid(self) -> str | None:
        """Return the store's uuid; None where it has none, or has lost it."""
        try:
            return SkycellStore(self._place).uuid
        except (IdfzarrError, OSError):
            return None


_REFETCH = "fetch the array again"


def _mostly(held: Iterable[Mapping[str, str]]) -> frozenset[str]:
    """Return the arrays that more than half of the skycells have."""
    cells = list(held)
    counted = Counter(called for cell in cells for called in cell)
    return frozenset(called for called, n in counted.items() if n > _MOST * len(cells))


def _of_layout(cell: Mapping[str, str], expected: frozenset[str]) -> frozenset[str]:
    """Leave out the kinds that a skycell has none of: earlier layouts had no weights."""
    kinds = {found[1] for called in cell if (found := parse_array_name(called))}
    return frozenset(
        called
        for called in expected
        if (found := parse_array_name(called)) is not None and found[1] in kinds
    )


def _own_path(name: str, called: str) -> str:
    return f"{name.split('.')[1]}/{name}/{called}"


def _incomplete(name: str, missing: list[str], *, is_asked: bool) -> Finding:
    one = len(missing) == 1
    if is_asked:
        why = (
            f"{'it was' if one else 'they were'} asked for and {'has' if one else 'have'} not come"
        )
    else:
        why = f"most skycells here have {'it' if one else 'them'}"
    found = [pair for called in missing if (pair := parse_array_name(called))]
    bands = "".join(b for b in BANDS if b in {band for band, _ in found})
    kinds = ",".join(k for k in KINDS if k in {kind for _, kind in found})
    return finding(
        "shard_pending",
        Where(key=f"{name.split('.')[1]}/{name}"),
        f"{name} has no {', '.join(missing)}: {why}",
        remedy=f"idfzarr fetch STORE --skycell {name} --bands {bands} --kinds {kinds}",
        sure="certain" if is_asked else "likely",
    )
