"""Metadata and coordinates of a cube: do all copies agree, do lengths, is every chunk there.

An array's own ``zarr.json`` is held against the root's copy of it, which is the one that was
committed. Where they differ in the attributes alone, or where the own one is shorter as an append
leaves it, it is ``consolidated_stale``: right once, or changed by somebody since. Any other
difference nobody makes on purpose: ``metadata_corrupt``.
"""

from __future__ import annotations

import errno
import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.listing import ChunkFiles, Grid, Listing
from idfzarr.care.read_only import MOST_BYTES
from idfzarr.care.zarr_node import NodeFault, parse_v3
from idfzarr.errors import ChunkCorrupt, IdfzarrError
from idfzarr.store.arrays import ArraySpec, decode_chunk, group_json, parse_array
from idfzarr.store.checksum import CRC_BYTES, crc32c, is_intact
from idfzarr.store.published import dims_of
from idfzarr.store.root import ROOT_KEY
from idfzarr.store.schema import CUBE_DIMS, LIGHTCURVES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.care.claims import Claims
    from idfzarr.care.read_only import ReadOnlyPlace
    from idfzarr.store.ledger import LedgerState

__all__ = [
    "check_chunk_files",
    "check_lengths",
    "check_metadata",
    "check_nodes",
    "noted_metadata",
    "read_coordinates",
]

_GROWING = frozenset(["aor", "type"])
_MOST_MISSING = 1000  # of one array, one by one
_MOST_CHUNKS = 1 << 22
_MOST_ITEMS = 1 << 26
_SHORTEST_STRING = 4  # its length
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EIO)


# -------------------------------------------------------------------- own metadata


def noted_metadata(state: LedgerState) -> set[tuple[str, int]]:
    """Return path and crc32c of the metadata that writers of a published store said they wrote."""
    return {
        (str(record.fields["metadata"]), int(record.fields["crc32c"]))
        for record in state.of("note")
        if "metadata" in record.fields and isinstance(record.fields.get("crc32c"), int)
    }


def check_metadata(
    place: ReadOnlyPlace,
    claims: Claims,
    listing: Listing,
    *,
    noted: set[tuple[str, int]],
    live: bool,
) -> Iterator[Finding]:
    """Yield where the metadata of an array or a group differs from the root's copy of it.

    Parameters
    ----------
    place
        The store.
    claims
        What its root says.
    listing
        What lies in it. Metadata that waits in staging for a commit explains a difference.
    noted
        See `noted_metadata`.
    live
        Whether a writer is at work, who may be between two steps.
    """
    if claims.source == "own":
        return
    for path in sorted(claims.nodes):
        key = f"{path}/{ROOT_KEY}"
        if listing.is_blocked(key):
            continue
        found = _own_metadata(place, claims.nodes[path], path, listing, noted)
        if found is None or (found.kind == "consolidated_stale" and live):
            continue
        if found.kind != "metadata_corrupt" and path in listing.waiting:
            continue  # the change that they wait for is told
        yield found


def _own_metadata(
    place: ReadOnlyPlace,
    node: Mapping[str, Any],
    path: str,
    listing: Listing,
    noted: set[tuple[str, int]],
) -> Finding | None:
    key = f"{path}/{ROOT_KEY}"
    where = Where(path, key, n_bytes=listing.metadata.get(path))
    if path not in listing.metadata:
        return _gone(node, key, where)
    try:
        data = place.read(key)
    except OSError as error:
        kind = "unreadable" if error.errno in _FORBIDDEN else "metadata_corrupt"
        return finding(kind, where, f"{key} cannot be read: {error.strerror or error}")
    own = _parsed(data)
    if isinstance(own, str):
        return finding("metadata_corrupt", where, f"{key} {own}")
    if _spelled(own) == _spelled(node):
        return None
    if (path, crc32c(data)) in noted:
        told = f"{key} was written anew by a writer that has not published it"
        return finding("consolidated_stale", where, told)
    kind, told = _difference(own, node)
    return finding(kind, where, f"{key} differs from the root's copy of it: {told}")


def _gone(node: Mapping[str, Any], key: str, where: Where) -> Finding:
    """Return the finding of metadata that is not there; a group needs none to be read."""
    if node == group_json():
        told = f"{key} is gone; the group it is of stands in the root"
        return finding("consolidated_stale", where, told)
    return finding("metadata_corrupt", where, f"{key} is gone")


def _parsed(data: bytes) -> dict[str, Any] | str:
    """Return the object that metadata is, or why it is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        return f"is no JSON: {str(error)[:200]}"
    return found if isinstance(found, dict) else "is no metadata of Zarr"


def _spelled(node: Mapping[str, Any]) -> str:
    """Return metadata in one spelling; for Python true is 1, for Zarr it is not."""
    return json.dumps(node, sort_keys=True, separators=(",", ":"), default=repr)


def _difference(own: Mapping[str, Any], node: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of a difference, and what differs in words."""
    names = sorted(
        str(name)
        for name in own.keys() | node.keys()
        if _spelled({"": own.get(name, ...)}) != _spelled({"": node.get(name, ...)})
    )
    if names == ["attributes"]:
        return "consolidated_stale", "its attributes are others"
    told = ", ".join(name[:60] for name in names[:8])
    if {"shape"} <= set(names) <= {"shape", "attributes"} and _is_shorter(own, node):
        told = f"shape {own['shape']} where the root has {node['shape']}, as before an append"
        return "consolidated_stale", told
    return "metadata_corrupt", f"{told} are others"


def _is_shorter(own: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Say whether a shape is that of before an append or a relayout."""
    before, after, dims = own["shape"], node.get("shape"), dims_of(node)
    if not isinstance(before, list) or not isinstance(after, list) or len(before) != len(after):
        return False
    changed = [(dim, a, b) for dim, a, b in zip(dims, before, after, strict=False) if a != b]
    return all(
        dim in _GROWING and type(a) is int and type(b) is int and 0 <= a < b
        for dim, a, b in changed
    )


# -------------------------------------------------------------------- what the root says


def check_nodes(claims: Claims) -> Iterator[Finding]:
    """Yield arrays whose metadata, as committed, cannot be or cannot be read here."""
    told = {one.where.array for one in claims.findings}
    for path in claims.arrays:
        node = parse_v3(path, claims.nodes[path])
        if isinstance(node, NodeFault) and path not in told:
            where = Where(path, f"{path}/{ROOT_KEY}")
            yield finding(node.kind, where, f"the metadata of {path}: {node.message}")


def check_lengths(claims: Claims) -> Iterator[Finding]:
    """Yield arrays that disagree with the cube, or with their neighbours, on a length."""
    cube = claims.nodes.get(LIGHTCURVES, {})
    lengths = dict(zip(dims_of(cube), _shape(cube), strict=False))
    if set(lengths) != set(CUBE_DIMS):
        return
    channel = claims.nodes.get("channel", {})
    if dims_of(channel) == ("channel",):
        lengths["channel"] = _shape(channel)[0]
    usual = _usual_lengths(claims)
    for path in claims.arrays:
        node = claims.nodes[path]
        group = path.rpartition("/")[0]
        for dim, length in zip(dims_of(node), _shape(node), strict=False):
            wanted = lengths.get(dim, usual.get((group, dim)))
            if path != LIGHTCURVES and wanted is not None and length != wanted:
                whose = "the cube" if dim in lengths else "its neighbours"
                where = Where(path, f"{path}/{ROOT_KEY}")
                told = f"{path} has {length} along {dim!r} where {whose} has {wanted}"
                yield finding("lengths_disagree", where, told)
                break


def _shape(node: Mapping[str, Any]) -> tuple[int, ...]:
    shape = node.get("shape")
    return tuple(n for n in shape if type(n) is int) if isinstance(shape, list) else ()


def _usual_lengths(claims: Claims) -> dict[tuple[str, str], int]:
    """Return the length that most arrays of a group have along each dimension."""
    counted: dict[tuple[str, str], Counter[int]] = {}
    for path in claims.arrays:
        node = claims.nodes[path]
        group = path.rpartition("/")[0]
        for dim, length in zip(dims_of(node), _shape(node), strict=False):
            counted.setdefault((group, dim), Counter())[length] += 1
    return {at: max(counts, key=lambda n: (counts[n], n)) for at, counts in counted.items()}


# -------------------------------------------------------------------- chunks of plain arrays


def check_chunk_files(claims: Claims, listing: Listing) -> Iterator[Finding]:
    """Yield chunks of plain arrays of ours that are missing, or cannot have the size they have.

    Every chunk of an array that this package writes is there; of an array of somebody else a
    missing one stands for the fill value.
    """
    for path in claims.arrays:
        spec = _our_spec(path, claims.nodes[path])
        if path == LIGHTCURVES or spec is None:
            continue
        grid = Grid.of_node(path, claims.nodes[path])
        files = listing.chunks.get(path, ChunkFiles())
        numbers, sizes, _ = files.in_order()
        if grid.n_chunks > len(numbers):
            yield from _missing(grid, numbers, listing)
        size = _file_bytes(spec)
        wrong = sizes != size if size is not None else sizes < CRC_BYTES
        for at in np.flatnonzero(wrong)[:_MOST_MISSING].tolist():
            key = grid.key(int(numbers[at]))
            must = f"{size}" if size is not None else f"at least {CRC_BYTES}"
            where = Where(path, key, n_bytes=int(sizes[at]))
            told = f"{key} has {int(sizes[at])} bytes where there must be {must}"
            yield finding("shard_torn", where, told)


def _our_spec(path: str, node: Mapping[str, Any]) -> ArraySpec | None:
    try:
        return parse_array(path, node)
    except IdfzarrError:
        return None


def _file_bytes(spec: ArraySpec) -> int | None:
    """Return the size of every file of an array that is not compressed."""
    if spec.codec != "none" or spec.dtype == "string":
        return None
    return math.prod(spec.chunks) * np.dtype(spec.dtype).itemsize + CRC_BYTES


def _missing(grid: Grid, numbers: NDArray[np.int64], listing: Listing) -> Iterator[Finding]:
    count = grid.n_chunks - len(numbers)
    gone: list[int] = []
    if grid.n_chunks <= _MOST_CHUNKS:
        there = np.zeros(grid.n_chunks, dtype=bool)
        there[numbers] = True
        gone = np.flatnonzero(~there).tolist()
    for number in gone[:_MOST_MISSING]:
        key = grid.key(number)
        if not listing.is_blocked(key):
            yield finding("chunk_missing", Where(grid.path, key), f"{key} is not there")
    rest = count - min(len(gone), _MOST_MISSING)
    if rest > 0:
        told = f"{rest} more of the {grid.n_chunks} chunks of {grid.path} are not there"
        yield finding("chunk_missing", Where(grid.path, f"{grid.path}/c"), told)


# -------------------------------------------------------------------- coordinates


def read_coordinates(
    place: ReadOnlyPlace, claims: Claims, listing: Listing, found: list[Finding]
) -> dict[str, NDArray[Any]]:
    """Read the arrays of the root besides the cube, every chunk verified.

    Parameters
    ----------
    place
        The store.
    claims
        What it says of itself.
    listing
        What lies in it; missing chunks are told elsewhere.
    found
        Takes what is found.

    Returns
    -------
    dict
        By name, those that could be read and that this package wrote.
    """
    read: dict[str, NDArray[Any]] = {}
    for path in claims.arrays:
        if path == LIGHTCURVES or "/" in path:
            continue
        spec = _our_spec(path, claims.nodes[path])
        if spec is None or not _is_sane(spec):
            continue
        values = _read_one(place, spec, claims, listing, found)
        if values is not None:
            read[path] = values
    return read


def _is_sane(spec: ArraySpec) -> bool:
    return math.prod(spec.shape) <= _MOST_ITEMS and math.prod(spec.chunks) <= _MOST_ITEMS


def _read_one(
    place: ReadOnlyPlace,
    spec: ArraySpec,
    claims: Claims,
    listing: Listing,
    found: list[Finding],
) -> NDArray[Any] | None:
    grid = Grid.of_node(spec.path, claims.nodes[spec.path])
    numbers, sizes, _ = listing.chunks.get(spec.path, ChunkFiles()).in_order()
    size = _file_bytes(spec)
    parts: dict[int, NDArray[Any]] = {}
    for number, n_bytes in zip(numbers.tolist(), sizes.tolist(), strict=True):
        key = grid.key(number)
        # What has another size than it must have is told, and left to the scrub beyond all bounds.
        if n_bytes > MOST_BYTES or n_bytes < CRC_BYTES or size not in {None, n_bytes}:
            continue
        if not listing.is_blocked(key):
            part = _decode(place, spec, key, found)
            if part is not None:
                parts[number] = part
    if len(parts) < grid.n_chunks:
        return None
    return _joined(spec, grid, parts)


def _decode(
    place: ReadOnlyPlace, spec: ArraySpec, key: str, found: list[Finding]
) -> NDArray[Any] | None:
    try:
        data = place.read(key)
    except FileNotFoundError:
        return None
    except OSError as error:
        where = Where(spec.path, key)
        found.append(finding("unreadable", where, f"{key} cannot be read: {error.strerror}"))
        return None
    told = "" if is_intact(data) else f"{key} does not match its crc32c"
    if not told and spec.codec != "none":
        return None  # what it unpacks to is not known: that is for the level full
    count = math.prod(spec.chunks)
    if not told and spec.dtype == "string" and count * _SHORTEST_STRING > len(data):
        told = f"{key} of {len(data)} bytes cannot hold {count} strings"
    if not told:
        try:
            return decode_chunk(spec, data, where=key)
        except ChunkCorrupt as error:
            told = str(error)
    found.append(finding("chunk_corrupt", Where(spec.path, key, n_bytes=len(data)), told))
    return None


def _joined(spec: ArraySpec, grid: Grid, parts: Mapping[int, NDArray[Any]]) -> NDArray[Any]:
    is_text = spec.dtype == "string"
    out = np.empty(spec.shape, dtype=object if is_text else spec.dtype)
    for number, part in parts.items():
        at = np.unravel_index(number, grid.counts) if grid.counts else ()
        window = tuple(
            slice(int(i) * c, min((int(i) + 1) * c, n))
            for i, c, n in zip(at, spec.chunks, spec.shape, strict=True)
        )
        out[window] = part[tuple(slice(0, w.stop - w.start) for w in window)]
    return out.astype(str) if is_text else out
