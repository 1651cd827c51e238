"""The shards of the cube: each against the ledger, by its size, and by its index.

A shard is told once, by what is worst. Its size against the ledger's says that it is torn; an index
that is whole all the same says that it is another shard, or one that lacks chunks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.ledger_check import Noted
from idfzarr.care.listing import ChunkFiles, Listing, list_store
from idfzarr.care.shard_index import (
    MOST_INDEX,
    IndexForm,
    IndexScan,
    IndexSeen,
    ShardFile,
)
from idfzarr.progress import Progress, silent
from idfzarr.store.schema import LIGHTCURVES
from idfzarr.store.shard import codec_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.care.claims import Claims
    from idfzarr.care.finding import Sureness
    from idfzarr.care.read_only import ReadOnlyPlace
    from idfzarr.care.walking import Seen
    from idfzarr.store.layout import Layout

__all__ = ["CubeNames", "ShardsSeen", "check_shards", "list_and_scan"]

_MOST_SHARDS = 1 << 22
_MOST_MISSING = 64  # chunks of one shard, one by one


@dataclass(frozen=True, eq=False)
class CubeNames:
    """Ids of objects and names of types, as far as they are known.

    Attributes
    ----------
    objects
        Ids by row; None where they cannot be read.
    types
        Names by column; empty where they are not known.
    """

    objects: NDArray[np.int64] | None = None
    types: tuple[str, ...] = ()

    def of_slot(self, layout: Layout, shard: int, slot: int) -> tuple[int | None, str]:
        """Return object and type of a slot of a shard, None and nothing for what is not known."""
        row, column = divmod(slot, layout.n_types)
        row += shard * layout.shard_objects
        known = self.objects is not None and row < min(len(self.objects), layout.n_objects)
        name = self.types[column] if column < len(self.types) else ""
        return (int(self.objects[row]) if known and self.objects is not None else None), name


@dataclass(frozen=True, eq=False)
class ShardsSeen:
    """What was seen of the shards.

    Attributes
    ----------
    findings
        In the order of shards.
    there
        (shard,) which files are there.
    present
        (shard, type) chunks that are there; NaN where nobody looked or nobody can tell.
    faulty
        Keys of shards of which something is told.
    """

    findings: tuple[Finding, ...] = ()
    there: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    present: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    faulty: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class _Look:
    """What the checks of single shards share."""

    layout: Layout
    listing: Listing
    noted: Mapping[str, Noted]
    names: CubeNames
    form: IndexForm
    has_ledger: bool

    def where(self, shard: int, size: int | None = None) -> Where:
        return Where(LIGHTCURVES, self.layout.key(shard), n_bytes=size)


def list_and_scan(
    place: ReadOnlyPlace, claims: Claims, *, workers: int = 2, progress: Progress = silent
) -> tuple[Listing, dict[int, IndexSeen] | None]:
    """List a store and read the indexes of its shards while they are found.

    Parameters
    ----------
    place
        The store.
    claims
        What it says of itself.
    workers
        Threads that read.
    progress
        Told batches of shards.

    Returns
    -------
    tuple
        The listing, and what the index of every shard says by its number; None for a cube whose
        shards cannot be looked into.
    """
    layout, form = claims.layout, _form_of(claims)
    if layout is None or form is None or form.n_bytes > MOST_INDEX:
        return list_store(place, claims.nodes), None
    numbers: list[int] = []
    with IndexScan(place, form, workers=workers) as scan:

        def watch(path: str, number: int, seen: Seen) -> None:
            if path == LIGHTCURVES:
                numbers.append(number)
                file = ShardFile(seen.key, _n_expected(layout, number), seen.inode)
                scan.add(file)

        listing = list_store(place, claims.nodes, watch=watch)
        indexes = scan.results(progress)
    return listing, dict(zip(numbers, indexes, strict=True))


def _form_of(claims: Claims) -> IndexForm | None:
    layout = claims.layout
    if layout is None or layout.n_shards > _MOST_SHARDS:
        return None
    return IndexForm.of_cube(layout.chunks_per_shard, layout.chunk_bytes, _codec_of(claims))


def check_shards(
    claims: Claims,
    listing: Listing,
    indexes: Mapping[int, IndexSeen] | None,
    noted: Mapping[str, Noted],
    names: CubeNames,
) -> ShardsSeen:
    """Check every shard of a cube.

    Parameters
    ----------
    claims
        What the store says of itself.
    listing
        What lies in it.
    indexes
        What the index of every shard says, by its number; None to go by names and sizes alone.
    noted
        What the ledger notes of every shard.
    names
        Of objects and types.

    Returns
    -------
    ShardsSeen
        Nothing for a cube whose layout is not known.
    """
    layout = claims.layout
    if layout is None:
        return ShardsSeen()
    if layout.n_shards > _MOST_SHARDS:
        told = f"{LIGHTCURVES} claims {layout.n_shards} shards; none of them was looked at"
        return ShardsSeen((finding("too_large", Where(LIGHTCURVES), told),))
    form = _form_of(claims)
    assert form is not None  # noqa: S101  # there are not too many shards
    look = _Look(layout, listing, noted, names, form, bool(noted))
    numbers, sizes, _ = listing.chunks.get(LIGHTCURVES, ChunkFiles()).in_order()
    there = np.zeros(layout.n_shards, dtype=bool)
    there[numbers] = True
    findings = list(_not_there(look, there))
    present = np.where(there, np.nan, 0.0).astype(np.float32)[:, None]
    present = np.repeat(present, layout.n_types, axis=1)
    if form.n_bytes > MOST_INDEX:
        told = f"an index of {form.n_bytes} bytes is more than this package reads"
        findings.append(finding("too_large", Where(LIGHTCURVES), told))
    if indexes is None:
        findings += _by_size(look, numbers, sizes)
    else:
        findings += _by_index(look, indexes, present)
    faulty = frozenset(one.where.key for one in findings if one.kind != "shard_pending")
    return ShardsSeen(tuple(findings), there, present, faulty)


def _codec_of(claims: Claims) -> str | None:
    if claims.schema is not None:
        return claims.schema.codec
    try:
        told = claims.nodes[LIGHTCURVES]["codecs"][0]["configuration"]
        return codec_of(told.get("codecs"))
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def _not_there(look: _Look, there: NDArray[np.bool_]) -> Iterator[Finding]:
    for shard in np.flatnonzero(~there).tolist():
        key = look.layout.key(shard)
        if look.listing.is_blocked(key):
            continue
        if look.noted.get(key, Noted()).is_done:
            told = f"the ledger calls {key} done, but it is not there"
            yield finding("shard_missing", look.where(shard), told)
        else:
            known = "" if look.has_ledger else ", or its ledger is gone"
            told = f"{key} was never written{known}"
            yield finding("shard_pending", look.where(shard), told)


# -------------------------------------------------------------------- by size alone


def _by_size(
    look: _Look, numbers: NDArray[np.int64], sizes: NDArray[np.int64]
) -> Iterator[Finding]:
    for shard, size in zip(numbers.tolist(), sizes.tolist(), strict=True):
        told = _wrong_size(look, shard, size)
        if told:
            yield finding("shard_torn", look.where(shard, size), told)


def _wrong_size(look: _Look, shard: int, size: int) -> str:
    """Say why a shard cannot have the size that it has; empty where it can."""
    key = look.layout.key(shard)
    noted = look.noted.get(key)
    if noted is not None and noted.allowed and all(mark[0] != size for mark in noted.allowed):
        must = " or ".join(str(one) for one in sorted(noted.sizes))
        return f"{key} has {size} bytes where the ledger notes {must}"
    if size < look.form.n_bytes:
        return f"{key} has {size} bytes, its index alone would have {look.form.n_bytes}"
    return ""


# -------------------------------------------------------------------- by its index


def _by_index(
    look: _Look, indexes: Mapping[int, IndexSeen], present: NDArray[np.float32]
) -> list[Finding]:
    """Judge every shard by its index; fill in which chunks are there."""
    layout = look.layout
    found: list[Finding] = []
    whole = np.zeros(len(present), dtype=bool)
    for shard in sorted(indexes):
        seen = indexes[shard]
        # Most shards are whole and of the size that is noted, and nothing more is to be done.
        whole[shard] = seen.is_whole
        if not seen.is_whole or _wrong_size(look, shard, seen.size):
            found += _judge(look, shard, seen)
        if not seen.is_whole and seen.problem in {"", "wrong"}:
            present[shard] = _present_of(layout, _n_expected(layout, shard), seen)
    first = np.arange(layout.n_shards) * layout.shard_objects
    rows = np.minimum(layout.shard_objects, layout.n_objects - first)
    present[whole] = rows[whole, None]
    return found


def _n_expected(layout: Layout, shard: int) -> int:
    first, last = layout.rows(shard)
    return (last - first) * layout.n_types


def _present_of(layout: Layout, n_expected: int, seen: IndexSeen) -> Any:
    """Return how many chunks of each type are there."""
    counts = np.full(layout.n_types, n_expected // layout.n_types, dtype=np.float32)
    gone = [*seen.missing, *(slot for slot in seen.wrong if slot < n_expected)]
    np.subtract.at(counts, np.array(gone, dtype=np.intp) % layout.n_types, 1)
    return counts


def _judge(look: _Look, shard: int, seen: IndexSeen) -> Iterator[Finding]:
    """Yield what is the matter with a shard whose index or size is not as it must be."""
    key = look.layout.key(shard)
    wrong_size = _wrong_size(look, shard, seen.size) if seen.size else ""
    where = look.where(shard, seen.size)
    if seen.problem == "vanished":
        return
    if seen.problem == "unreadable":
        yield finding("unreadable", look.where(shard), f"{key}: {seen.told}")
    elif seen.problem == "torn":
        yield finding("shard_torn", where, wrong_size or f"{key}: {seen.told}")
    elif seen.problem == "crc":
        kind = "shard_torn" if wrong_size else "index_corrupt"
        yield finding(kind, where if wrong_size else _index_at(look, where), wrong_size or
                      f"{key}: {seen.told}")  # fmt: skip
    elif seen.problem == "wrong":
        kind = "shard_torn" if wrong_size else "index_wrong"
        told = f"{key}: {seen.told}" + (f"; {wrong_size}" if wrong_size else "")
        yield finding(kind, where if wrong_size else _index_at(look, where), told)
    elif wrong_size and not seen.missing:
        told = f"{wrong_size}, and yet its index is whole: it is not what was written last"
        yield finding("wrong_shard", where, told)
    if seen.problem in {"", "wrong"}:
        yield from _missing_chunks(look, shard, seen)


def _index_at(look: _Look, where: Where) -> Where:
    size = where.n_bytes or 0
    begin = size - look.form.n_bytes
    return Where(where.array, where.key, first_byte=begin, n_bytes=look.form.n_bytes)


def _missing_chunks(look: _Look, shard: int, seen: IndexSeen) -> Iterator[Finding]:
    key = look.layout.key(shard)
    done = look.noted.get(key, Noted()).is_done
    sure: Sureness = "certain" if done else "likely"
    n_expected = _n_expected(look.layout, shard)
    if len(seen.missing) > _MOST_MISSING:
        told = f"{len(seen.missing)} of the {n_expected} lightcurves of {key} are not there"
        yield finding("chunk_missing", look.where(shard), told, sure=sure)
        return
    for slot in seen.missing:
        object_id, type_ = look.names.of_slot(look.layout, shard, slot)
        named = f"slot {slot}" if object_id is None else f"object {object_id}, {type_},"
        where = Where(LIGHTCURVES, key, object_id, type_)
        told = f"the lightcurve of {named} is not in {key}"
        yield finding("chunk_missing", where, told, sure=sure)
