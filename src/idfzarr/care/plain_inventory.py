"""An inventory of a Zarr store that is no cube of ours: as far as its own metadata allows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from idfzarr.care.contents import within_bounds
from idfzarr.care.finding import LEVELS, Finding, Where, finding
from idfzarr.care.grouping import Group
from idfzarr.care.plain import look_at_plain, plain_kind, plain_tasks
from idfzarr.care.plain_values import check_plain_values
from idfzarr.care.scrub import choose, scrub
from idfzarr.care.walking import Seen, Sort, walk
from idfzarr.errors import ForeignStore, StoreMissing, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from idfzarr.care.finding import Level
    from idfzarr.care.plain import ArrayCensus, PlainStore
    from idfzarr.care.read_only import ReadOnlyPlace
    from idfzarr.progress import Progress

__all__ = ["PlainSeen", "plain_inventory"]

_MOST_FILES = 300_000
_MARKS = frozenset(["zarr.json", ".zarray", ".zgroup", ".zmetadata"])


@dataclass(frozen=True, eq=False)
class PlainSeen:
    """What was seen of a store.

    Attributes
    ----------
    store_kind
        ``zarr3`` or ``zarr2``.
    findings, groups
        What is the matter, and what there is.
    n_files, n_bytes
        Of everything in it.
    arrays, files
        Every array, and every file that may be read by its key.
    """

    store_kind: str
    findings: tuple[Finding, ...]
    groups: tuple[Group, ...]
    n_files: int
    n_bytes: int
    arrays: tuple[ArrayCensus, ...] = ()
    files: Mapping[str, Seen] = field(default_factory=dict, repr=False)


def plain_inventory(
    place: ReadOnlyPlace,
    *,
    level: Level,
    sample: float | None,
    seed: int,
    workers: int,
    grace: float,
    progress: Progress,
) -> PlainSeen:
    """Look at a Zarr v3 or v2 store.

    Parameters
    ----------
    place
        The store.
    level, sample, seed, workers, grace, progress
        See `idfzarr.care.inventory.inventory`.

    Returns
    -------
    PlainSeen
        What is there.

    Raises
    ------
    StoreMissing, ForeignStore
        There is nothing, or no Zarr store.
    UsageError
        It is on object storage.
    """
    if place.folder is None:
        msg = (
            f"{place.url} is no cube of idfzarr, and other stores are looked at on a local disk "
            "only; copy it there"
        )
        raise UsageError(msg)
    if not place.exists():
        msg = f"there is no store at {place.url}; check the path"
        raise StoreMissing(msg)
    findings: list[Finding] = []
    files, names, total = _listed(place, findings)
    kind = plain_kind(files) or ("zarr3" if "zarr.json" in names else None)
    if kind is None and not names & _MARKS:
        msg = (
            f"{place.url} is no Zarr store: there is no zarr.json, .zgroup or .zarray in it; give "
            "the folder of a store"
        )
        raise ForeignStore(msg)
    readable = {key: seen for key, seen in files.items() if seen.readable}
    store = look_at_plain(place.folder, readable, level=level, grace=grace, progress=progress)
    place.counter.n_read += store.n_read
    findings += store.findings
    if LEVELS.index(level) >= LEVELS.index("scrub"):
        findings += _scrubbed(
            place, store, readable, sample=sample, seed=seed, workers=workers, progress=progress
        )
    if level == "full":
        skip = {one.where.key for one in findings}
        done = check_plain_values(place.folder, store.arrays, skip=skip, progress=progress)
        place.counter.n_read += done.n_read
        findings += done.findings
    groups = _groups(store, files, findings)
    return PlainSeen(
        kind or "zarr2", tuple(findings), groups, *total, arrays=store.arrays, files=readable
    )


def _listed(
    place: ReadOnlyPlace, findings: list[Finding]
) -> tuple[dict[str, Seen], set[str], tuple[int, int]]:
    """Return regular files by key, names of everything, and how much there is of it."""
    files: dict[str, Seen] = {}
    names: set[str] = set()
    n_files = n_bytes = 0
    for seen in walk(place):
        name = seen.key.rpartition("/")[2]
        if name in _MARKS or any(part in _MARKS for part in seen.key.split("/")):
            names.update(part for part in seen.key.split("/") if part in _MARKS)
        if seen.sort is Sort.FILE:
            n_files += 1
            n_bytes += seen.size
            if n_files <= _MOST_FILES:
                files[seen.key] = seen
            if not seen.readable:
                told = f"{seen.key} may not be read"
                findings.append(finding("unreadable", Where(key=seen.key), told))
        else:
            findings.append(_told(seen))
    if n_files > _MOST_FILES:
        told = f"the store has {n_files} files; {n_files - _MOST_FILES} were not looked at"
        findings.append(finding("too_large", Where(), told))
    return files, names, (n_files, n_bytes)


def _told(seen: Seen) -> Finding:
    where = Where(key=seen.key)
    if seen.sort is Sort.LINK:
        told = f"{seen.key} is a link to {seen.told}; links in a store are not followed"
        return finding("symlink", where, told)
    if seen.sort is Sort.UNREADABLE:
        return finding("unreadable", where, f"{seen.key or 'it'} may not be read: {seen.told}")
    if seen.sort is Sort.MANY:
        return finding("too_large", where, "there are too many files; not all were looked at")
    what = "lies too deep" if seen.sort is Sort.DEEP else f"is a {seen.sort.value}"
    return finding("file_unknown", where, f"{seen.key} {what}: it was not looked at")


def _scrubbed(
    place: ReadOnlyPlace,
    store: PlainStore,
    files: Mapping[str, Seen],
    *,
    sample: float | None,
    seed: int,
    workers: int,
    progress: Progress,
) -> Sequence[Finding]:
    found: list[Finding] = []
    nodes = {census.node.path: census.node for census in store.arrays}
    tasks = within_bounds(plain_tasks(store, files), nodes, found)
    if sample is not None:
        tasks = choose(tasks, sample, seed=seed, last={})
    assert place.folder is not None  # noqa: S101  # plain_inventory has looked
    done = scrub(place.folder, tasks, workers=workers, progress=progress)
    place.counter.n_read += done.n_read
    return [*found, *done.findings]


def _groups(
    store: PlainStore, files: Mapping[str, Seen], findings: Iterable[Finding]
) -> tuple[Group, ...]:
    """Return a group for every folder of arrays."""
    by_group: dict[str, list[ArrayCensus]] = {}
    for census in store.arrays:
        by_group.setdefault(census.node.path.rpartition("/")[0] or "/", []).append(census)
    told = list(findings)
    made = []
    for name in sorted(by_group):
        many = by_group[name]
        paths = {census.node.path for census in many}
        states: dict[str, int] = {}
        for one in told:
            if one.where.array in paths:
                states[one.state] = states.get(one.state, 0) + 1
        metas = [files[c.node.meta_key].size for c in many if c.node.meta_key in files]
        dims = {" x ".join(c.node.dims) for c in many}
        made.append(
            Group(
                name=name,
                dims_text=dims.pop() if len(dims) == 1 else "",
                n_arrays=len(many),
                n_files=len(metas) + sum(len(c.chunk_keys) for c in many),
                n_bytes=sum(metas) + sum(c.n_bytes for c in many),
                n_logical=sum(c.node.n_logical for c in many),
                n_expected_chunks=sum(c.node.n_expected for c in many),
                n_present_chunks=sum(
                    len(c.chunk_keys) if c.n_present is None else c.n_present for c in many
                ),
                states=dict(sorted(states.items())),
            )
        )
    return tuple(made)
