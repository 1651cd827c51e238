"""The parts of a store, counted: files, bytes, chunks, and what is the matter with each."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.listing import Grid, Tally
from idfzarr.store.published import dims_of
from idfzarr.store.schema import LIGHTCURVES, STAGING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from idfzarr.care.claims import Claims
    from idfzarr.care.cube_shards import CubeNames, ShardsSeen
    from idfzarr.care.finding import Finding
    from idfzarr.care.listing import Listing

__all__ = ["Group", "completeness_of", "groups_of"]

COORDINATES_GROUP = "coordinates"
OTHER_GROUP = "other"
_ITEM_BYTES = {"string": 0, "bool": 1}
_MOST_LOGICAL = 1 << 62


@dataclass(frozen=True)
class Group:
    """A part of a store.

    Attributes
    ----------
    name
        ``lightcurves``, ``coordinates``, ``catalogue``, ...; ``staging`` and ``other`` for what
        belongs to no array.
    dims_text
        Its dimensions, in words.
    n_arrays, n_files, n_bytes
        What there is of it, on disk.
    n_logical
        Bytes of its arrays, decoded; text does not count.
    n_expected_chunks, n_present_chunks
        Chunks that a whole store has, and those that are there.
    states
        How many findings there are of each state.
    """

    name: str
    dims_text: str = ""
    n_arrays: int = 0
    n_files: int = 0
    n_bytes: int = 0
    n_logical: int = 0
    n_expected_chunks: int = 0
    n_present_chunks: int = 0
    states: Mapping[str, int] = field(default_factory=dict)


def group_of(path: str) -> str:
    """Return the name of the group that an array, a group or the root belongs to."""
    if path == LIGHTCURVES:
        return LIGHTCURVES
    parts = path.split("/")
    if parts[0] == "images":
        return "/".join(parts[:3])
    return COORDINATES_GROUP if len(parts) == 1 else parts[0]


def groups_of(
    claims: Claims, listing: Listing, shards: ShardsSeen, findings: Iterable[Finding]
) -> tuple[Group, ...]:
    """Return the groups of a cube.

    Parameters
    ----------
    claims
        What the store says of itself.
    listing
        What lies in it.
    shards
        What was seen of its shards.
    findings
        All of them.

    Returns
    -------
    tuple of Group
        The cube first, then by name; together they have every file of the store.
    """
    tops = {path.split("/")[0] for path in claims.nodes if "/" in path}
    sums: dict[str, dict[str, Any]] = {}
    for path, tally in listing.owned.items():
        name = path if path in tops else group_of(path)
        _add(sums, name, n_files=tally.n_files, n_bytes=tally.n_bytes)
    for path in claims.arrays:
        name = group_of(path)
        _add(sums, name, n_arrays=1, **_chunks(claims, listing, shards, path))
        sums[name].setdefault("dims", Counter())[" x ".join(dims_of(claims.nodes[path]))] += 1
    if listing.staging.n_files:
        told = listing.staging
        _add(sums, STAGING, n_files=told.n_files, n_bytes=told.n_bytes)
    strangers = _strangers(listing)
    if strangers.n_files:
        _add(sums, OTHER_GROUP, n_files=strangers.n_files, n_bytes=strangers.n_bytes)
    states = _states(claims, findings)
    order = sorted(sums, key=lambda name: (name != LIGHTCURVES, name))
    return tuple(_group(name, sums[name], states.get(name, Counter())) for name in order)


def _add(sums: dict[str, dict[str, Any]], name: str, **counts: int) -> None:
    mine = sums.setdefault(name, {})
    for key, count in counts.items():
        mine[key] = mine.get(key, 0) + count


def _group(name: str, told: Mapping[str, Any], states: Mapping[str, int]) -> Group:
    dims = told.get("dims")
    usual = max(dims, key=lambda text: (dims[text], text)) if dims else ""
    counts = {key: value for key, value in told.items() if key != "dims"}
    return Group(name, usual, states=dict(sorted(states.items())), **counts)


def _strangers(listing: Listing) -> Tally:
    """Return what belongs to no array and is no staging."""
    owned = listing.owned.values()
    n_files = listing.n_files - listing.staging.n_files - sum(t.n_files for t in owned)
    n_bytes = listing.n_bytes - listing.staging.n_bytes - sum(t.n_bytes for t in owned)
    return Tally(n_files, n_bytes)


def _chunks(claims: Claims, listing: Listing, shards: ShardsSeen, path: str) -> dict[str, int]:
    node = claims.nodes[path]
    n_logical = _logical(node)
    if path == LIGHTCURVES and claims.layout is not None and shards.there.size:
        layout = claims.layout
        rows = np.minimum(
            layout.shard_objects,
            layout.n_objects - np.arange(layout.n_shards) * layout.shard_objects,
        )
        whole = np.where(shards.there, rows * layout.n_types, 0)
        known = np.isfinite(shards.present).all(axis=1)
        counted = np.where(known, np.nan_to_num(shards.present).sum(axis=1), whole)
        return {
            "n_logical": n_logical,
            "n_expected_chunks": layout.n_objects * layout.n_types,
            "n_present_chunks": int(counted.sum()),
        }
    files = listing.chunks.get(path)
    return {
        "n_logical": n_logical,
        "n_expected_chunks": Grid.of_node(path, node).n_chunks,
        "n_present_chunks": 0 if files is None else len(files),
    }


def _logical(node: Mapping[str, Any]) -> int:
    try:
        name = node["data_type"]
        item = _ITEM_BYTES[name] if name in _ITEM_BYTES else np.dtype(name).itemsize
        return min(_MOST_LOGICAL, math.prod(int(n) for n in node["shape"]) * item)
    except (KeyError, TypeError, ValueError):
        return 0


def _states(claims: Claims, findings: Iterable[Finding]) -> dict[str, Counter[str]]:
    counted: dict[str, Counter[str]] = {}
    for one in findings:
        where = one.where
        if where.beside:
            continue
        key = where.key.removesuffix("/zarr.json")
        path = where.array or next((head for head in _heads(key) if head in claims.nodes), "")
        name = STAGING if key.split("/")[0] == STAGING else OTHER_GROUP
        if path:
            name = group_of(path)
        elif key in {"", "zarr.json"}:
            name = COORDINATES_GROUP
        counted.setdefault(name, Counter())[one.state] += 1
    return counted


def _heads(key: str) -> Iterable[str]:
    parts = key.split("/")
    return ("/".join(parts[:end]) for end in range(len(parts), 0, -1))


# -------------------------------------------------------------------- completeness


def completeness_of(
    claims: Claims,
    shards: ShardsSeen,
    names: CubeNames,
    coordinates: Mapping[str, NDArray[Any]],
) -> dict[str, NDArray[Any]]:
    """Return what is there of a cube, as far as this look went.

    Parameters
    ----------
    claims
        What the store says of itself.
    shards
        What was seen of its shards.
    names
        Of its types.
    coordinates
        Those that were read.

    Returns
    -------
    dict
        ``shard`` (shard,) and ``shard_type`` (shard, type), fractions of chunks that are there;
        ``type`` (type,) likewise, with ``type_name``; ``aor`` (aor, channel) whether observed, with
        ``channel_name``. NaN where nobody looked.
    """
    told: dict[str, NDArray[Any]] = {}
    layout = claims.layout
    if layout is not None and shards.there.size:
        rows = np.minimum(
            layout.shard_objects,
            layout.n_objects - np.arange(layout.n_shards) * layout.shard_objects,
        ).astype(np.float64)
        fraction = shards.present / rows[:, None]
        looked = np.isfinite(fraction).any()
        told["shard"] = fraction.mean(axis=1) if looked else shards.there.astype(np.float64)
        if looked:
            told["shard_type"] = fraction
            known = np.isfinite(shards.present)
            count = np.where(known, rows[:, None], 0).sum(axis=0)
            total = np.nansum(shards.present, axis=0)
            out = np.full(layout.n_types, np.nan)
            told["type"] = np.divide(total, count, out=out, where=count > 0)
            if len(names.types) == layout.n_types:
                told["type_name"] = np.array(names.types, dtype=str)
    mjd = coordinates.get("mjd")
    channels = coordinates.get("channel")
    if mjd is not None and mjd.ndim == 2:
        told["aor"] = np.isfinite(mjd)
        if channels is not None and len(channels) == mjd.shape[1]:
            told["channel_name"] = channels
    return told
