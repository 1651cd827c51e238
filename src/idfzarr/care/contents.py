"""Look into the files of a cube: every byte against its checksum, every value if it can be."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.finding import Where, finding
from idfzarr.care.history import append_history, last_read_well
from idfzarr.care.listing import ChunkFiles, Grid
from idfzarr.care.plain import ArrayCensus
from idfzarr.care.plain_values import MOST_DECODED, check_plain_values
from idfzarr.care.scrub import ScrubTask, choose, scrub
from idfzarr.care.sources import check_sources
from idfzarr.care.unpacked_size import unpacks_within
from idfzarr.care.values import (
    check_coordinates,
    check_cube_values,
    check_statistics,
    check_times,
)
from idfzarr.care.zarr_node import ArrayNode, parse_v3
from idfzarr.errors import ChunkCorrupt, IdfzarrError
from idfzarr.store.arrays import STRING, decode_chunk, parse_array
from idfzarr.store.checksum import CRC_BYTES
from idfzarr.store.schema import LIGHTCURVES, VARIABILITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.care.claims import Claims
    from idfzarr.care.cube_shards import CubeNames, ShardsSeen
    from idfzarr.care.finding import Finding
    from idfzarr.care.history import ReadWell
    from idfzarr.care.ledger_check import Noted
    from idfzarr.care.listing import Listing
    from idfzarr.care.read_only import ReadOnlyPlace
    from idfzarr.store.arrays import ArraySpec
    from idfzarr.store.ledger import LedgerState

__all__ = ["Contents", "look_inside", "within_bounds"]

_MOST_OF_TEXT = 1 << 33  # bytes of a file whose chunks have no fixed size
_MOST_ADDED = 4096  # bytes that a codec adds to twice the values


@dataclass(frozen=True, eq=False)
class Contents:
    """A cube that has been looked at down to its structure.

    Attributes
    ----------
    place, claims, listing, state
        The store; what it says of itself; what lies in it; what its ledger says.
    noted
        What the ledger notes of every shard.
    names
        Of objects and types.
    coordinates
        Those that were read.
    shards
        What was seen of the shards.
    """

    place: ReadOnlyPlace
    claims: Claims
    listing: Listing
    state: LedgerState
    noted: Mapping[str, Noted]
    names: CubeNames
    coordinates: Mapping[str, NDArray[Any]]
    shards: ShardsSeen


def nodes_of(claims: Claims) -> dict[str, ArrayNode]:
    """Return the arrays whose metadata can be read here, by path."""
    parsed = {path: parse_v3(path, claims.nodes[path]) for path in claims.arrays}
    return {path: node for path, node in parsed.items() if isinstance(node, ArrayNode)}


def scrub_tasks(contents: Contents, findings: Iterable[Finding]) -> list[ScrubTask]:
    """Return the files to scrub: those of all arrays that can be read, the damaged ones too."""
    faulty = {one.where.key for one in findings}
    tasks = []
    for path, node in nodes_of(contents.claims).items():
        form = node.form
        if form is not None and path == LIGHTCURVES:
            form = replace(form, dense=True)
        grid = Grid.of_node(path, contents.claims.nodes[path])
        numbers, sizes, _ = contents.listing.chunks.get(path, ChunkFiles()).in_order()
        for number, size in zip(numbers.tolist(), sizes.tolist(), strict=True):
            key = grid.key(number)
            if contents.listing.is_blocked(key):
                continue
            told = contents.noted.get(key)
            tasks.append(
                ScrubTask(
                    key,
                    path,
                    size,
                    form,
                    node.sealed,
                    () if told is None else tuple(reversed(told.allowed)),
                    key in faulty,
                )
            )
    return tasks


def within_bounds(
    tasks: Iterable[ScrubTask], nodes: Mapping[str, ArrayNode], findings: list[Finding]
) -> list[ScrubTask]:
    """Return the files that can be what they claim to be; those far too large are not read.

    Parameters
    ----------
    tasks
        Files to scrub.
    nodes
        Arrays by path.
    findings
        Takes those that are too large, unless something is told of them already.
    """
    kept = []
    for task in tasks:
        node = nodes[task.array]
        most = _MOST_OF_TEXT
        if node.chunk_bytes is not None:
            most = node.chunks_per_file * (2 * node.chunk_bytes + _MOST_ADDED)
            most += 0 if node.form is None else node.form.index_bytes
        if task.size <= most:
            kept.append(task)
        elif not task.faulty:
            told = f"{task.key} has {task.size} bytes, its chunks cannot have more than {most}"
            where = Where(task.array, task.key, n_bytes=task.size)
            findings.append(finding("too_large", where, told))
    return kept


def look_inside(contents: Contents, findings: list[Finding], asked: Any) -> list[Finding]:
    """Scrub a cube, and at level ``full`` decode it.

    Parameters
    ----------
    contents
        The cube.
    findings
        What was found before.
    asked
        Level, sample, seed, workers, whether to note what was read well, and progress.

    Returns
    -------
    list of Finding
        All, what is told already left out.
    """
    root = contents.place.folder
    if root is None:
        told = (
            "object storage is looked at down to its structure; copy the store to a local disk to "
            "scrub it"
        )
        return [*findings, finding("unreadable", Where(), told, severity="note")]
    known = list(findings)
    known += _scrubbed(contents, root, known, asked)
    if asked.reaches("full"):
        known += _decoded(contents, root, known, asked)
    return known


def _scrubbed(
    contents: Contents, root: str, findings: Sequence[Finding], asked: Any
) -> list[Finding]:
    uuid = contents.claims.uuid or ""
    found: list[Finding] = []
    tasks = within_bounds(scrub_tasks(contents, findings), nodes_of(contents.claims), found)
    if asked.sample is not None:
        last = last_read_well(contents.place.place, uuid)
        tasks = choose(tasks, asked.sample, seed=asked.seed, last=last)

    def note(reads: Sequence[ReadWell]) -> None:
        append_history(contents.place.place, reads)

    def label(task: ScrubTask, slot: int) -> tuple[int | None, str]:
        layout = contents.claims.layout
        if task.array != LIGHTCURVES or layout is None:
            return None, ""
        shard = int(task.key.split("/")[2])
        return contents.names.of_slot(layout, shard, slot)

    done = scrub(
        root, tasks, label=label, uuid=uuid, workers=asked.workers,
        note=note if asked.history else None, progress=asked.progress,
    )  # fmt: skip
    contents.place.counter.n_read += done.n_read
    told = {(one.kind, one.where.key) for one in findings}
    return found + [one for one in done.findings if (one.kind, one.where.key) not in told]


def _decoded(
    contents: Contents, root: str, findings: Sequence[Finding], asked: Any
) -> list[Finding]:
    claims, coordinates = contents.claims, contents.coordinates
    found: list[Finding] = []
    attributes = {
        path: dict(claims.nodes[path].get("attributes") or {})
        for path in claims.arrays
        if "/" not in path
    }
    found += check_coordinates(coordinates, attributes)
    found += _plain_decoded(contents, root, findings, asked)
    if claims.schema is not None:
        faulty = {one.where.key for one in findings if not one.where.object}
        shards = _shards_to_decode(contents, asked)
        objects = contents.names.objects
        values = check_cube_values(
            root, claims.schema, () if objects is None else objects,
            shards=[s for s in shards if claims.schema.layout.key(s) not in faulty],
            workers=asked.workers, progress=asked.progress,
        )  # fmt: skip
        contents.place.counter.n_read += values.n_read
        found += values.findings
        found += check_times(coordinates, np.isfinite(values.nan_aor) & (values.nan_aor < 1))
        told = claims.nodes.get(VARIABILITY, {}).get("attributes") or {}
        found += check_statistics(told, claims.schema.layout.n_aors)
    sources = check_sources(contents.state, verify=True, workers=asked.workers)
    contents.place.counter.n_read += sources.n_read
    return [*found, *sources.findings]


def _plain_decoded(
    contents: Contents, root: str, findings: Iterable[Finding], asked: Any
) -> Sequence[Finding]:
    """Decode the arrays beside the cube, what is damaged already left out."""
    skip = {one.where.key for one in findings}
    found: list[Finding] = []
    censuses = []
    for path, node in nodes_of(contents.claims).items():
        if path == LIGHTCURVES or path not in contents.listing.chunks:
            continue
        grid = Grid.of_node(path, contents.claims.nodes[path])
        numbers, sizes, _ = contents.listing.chunks[path].in_order()
        keys = [grid.key(number) for number in numbers.tolist()]
        keys = [key for key in keys if not contents.listing.is_blocked(key) and key not in skip]
        spec = _spec_of_numbers(path, contents.claims.nodes[path])
        if spec is not None and sizes.max(initial=0) <= MOST_DECODED:
            found += [bad for key in keys if (bad := _misfit(contents.place, spec, key))]
            continue
        censuses.append(ArrayCensus(node, tuple(keys), int(sizes.sum()), len(keys)))
    done = check_plain_values(root, censuses, progress=asked.progress)
    contents.place.counter.n_read += done.n_read
    return [*found, *done.findings]


def _spec_of_numbers(path: str, node: Mapping[str, Any]) -> ArraySpec | None:
    """Return what an array of numbers is that this package wrote, None for any other."""
    try:
        spec = parse_array(path, node)
    except IdfzarrError:
        return None
    return None if spec is None or spec.dtype == STRING or _bytes_of(spec) > MOST_DECODED else spec


def _bytes_of(spec: ArraySpec) -> int:
    return math.prod(spec.chunks) * np.dtype(spec.dtype).itemsize


def _misfit(place: ReadOnlyPlace, spec: ArraySpec, key: str) -> Finding | None:
    """Decode a chunk of numbers of ours; return what is wrong with it.

    Where it is not compressed, its size and crc32c are all there is, and have been looked at.
    """
    if spec.codec == "none":
        return None
    try:
        data = place.read(key)
    except OSError:
        return None  # gone, or unreadable, which the levels before this one tell
    where = Where(spec.path, key, n_bytes=len(data))
    fits = unpacks_within(spec.codec, data[:-CRC_BYTES], _bytes_of(spec))
    if fits is None:
        told = f"{key} is not packed as its metadata says, though its crc32c is right"
        return finding("chunk_corrupt", where, told)
    if not fits:
        told = f"{key} unpacks to more than the {_bytes_of(spec)} bytes it can have"
        return finding("too_large", where, told)
    try:
        decode_chunk(spec, data, where=key)
    except ChunkCorrupt as error:
        return finding("chunk_corrupt", where, str(error))
    return None


def _shards_to_decode(contents: Contents, asked: Any) -> list[int]:
    numbers, _, _ = contents.listing.chunks.get(LIGHTCURVES, ChunkFiles()).in_order()
    layout = contents.claims.layout
    if layout is None:
        return []
    there = [n for n in numbers.tolist() if not contents.listing.is_blocked(layout.key(n))]
    if asked.sample is None:
        return there
    tasks = [ScrubTask(layout.key(n), LIGHTCURVES, 1) for n in there]
    last = last_read_well(contents.place.place, contents.claims.uuid or "")
    chosen = {task.key for task in choose(tasks, asked.sample, seed=asked.seed, last=last)}
    return [n for n in there if layout.key(n) in chosen]
