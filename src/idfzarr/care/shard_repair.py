"""Mend one shard: take what is intact, rebuild the rest, or mark it as lost.

A shard is put together of encoded chunks. Those that are intact are taken byte for byte; others are
encoded anew from rebuilt values, as a build does, so a mended shard is the file that a clean build
writes, and the ledger's crc32c of it says so.
"""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.quarantine import contained, list_batches, measure_file
from idfzarr.care.safe_read import open_key
from idfzarr.care.salvage import Expected, Salvage, salvage
from idfzarr.errors import UsageError
from idfzarr.flags import flag_bit
from idfzarr.store.checksum import crc32c
from idfzarr.store.exchange import QUARANTINE_SUFFIX
from idfzarr.store.place import PARTIAL, LocalPlace
from idfzarr.store.precision import count_kept_bits
from idfzarr.store.schema import FLAG, FLUX, FLUX_ERR, VALUES
from idfzarr.store.shard import decode_shard, encode_chunk, join_chunks, reduce_precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.care.known_store import KnownStore
    from idfzarr.store.schema import CubeSchema

__all__ = [
    "DamagedShard",
    "Remedy",
    "distrusting_all",
    "examine_shard",
    "find_elsewhere",
    "find_remedy",
    "lost_lightcurve",
    "noted_shards",
    "put_together",
    "shard_record",
]


_BEYOND = 64  # bytes of a chunk beside its values: header, checksum, entry of the index


@dataclass(frozen=True)
class DamagedShard:
    """A shard as it stands, and what is left of it.

    Attributes
    ----------
    key
        Its key.
    number
        Its number.
    data
        Its bytes; None where the file is not there.
    noted
        What the ledger notes of its last writing; empty where it does not.
    left
        What can be taken from it.
    """

    key: str
    number: int
    data: bytes | None
    noted: Mapping[str, Any]
    left: Salvage

    @property
    def is_whole(self) -> bool:
        """Whether the file is the one that the ledger notes."""
        return self.left.whole is not None and self.left.whole == self.data


def noted_shards(known: KnownStore, key: str) -> list[Mapping[str, Any]]:
    """Return what the ledger notes of a shard's writing, the newest first.

    A shard whose writer was stopped between the rename and its ``done`` is that of the ``intent``.
    """
    records = [r for r in (known.state.done.get(key), known.state.intents.get(key)) if r]
    records.sort(key=lambda r: (r.time_ns, r.kind == "done"), reverse=True)
    return [dict(r.fields) for r in records]


def _expected(schema: CubeSchema, shard: int, noted: Mapping[str, Any]) -> Expected:
    layout = schema.layout
    first, last = layout.rows(shard)
    size, crc, other = (noted.get(name) for name in ("size", "crc32c", "crc32"))
    return Expected(
        room=layout.chunks_per_shard,
        present=(last - first) * layout.n_types,
        chunk_bytes=layout.chunk_bytes,
        codec=schema.codec,
        size=size if isinstance(size, int) else None,
        crc32c=crc if isinstance(crc, int) else None,
        crc32=other if isinstance(other, int) else None,
    )


def examine_shard(
    known: KnownStore, schema: CubeSchema, shard: int, *, distrust: Iterable[int] = ()
) -> DamagedShard:
    """Find out what is left of a shard.

    Parameters
    ----------
    known
        The store.
    schema
        What the cube is.
    shard
        Number of the shard.
    distrust
        Slots whose values are wrong although their bytes are as written.

    Returns
    -------
    DamagedShard
        The best of what the ledger's notes of it prove.
    """
    key = schema.layout.key(shard)
    data = _read(known, key, schema)
    noted = noted_shards(known, key) or [{}]
    found = [(one, salvage(data or b"", _expected(schema, shard, one))) for one in noted]
    one, left = max(found, key=lambda pair: (pair[1].whole is not None, -len(pair[1].lost)))
    wrong = set(distrust)
    if wrong:
        chunks = {slot: chunk for slot, chunk in left.chunks.items() if slot not in wrong}
        left = Salvage(chunks, tuple(sorted({*left.lost, *wrong})), left.how)
    return DamagedShard(key, shard, data, one, left)


def _read(known: KnownStore, key: str, schema: CubeSchema) -> bytes | None:
    """Return the bytes of a shard, not more than one can have; None where there is no such file."""
    layout = schema.layout
    most = layout.chunks_per_shard * (layout.chunk_bytes + _BEYOND) + _BEYOND
    if not isinstance(known.place, LocalPlace):
        try:
            return known.place.read_range(key, 0, most)
        except OSError:
            return None
    try:
        with open_key(known.place.root, key) as handle:
            parts = []
            while most > 0 and (part := os.read(handle, min(most, 1 << 24))):
                parts.append(part)
                most -= len(part)
            return b"".join(parts)
    except OSError:
        return None


def find_elsewhere(
    known: KnownStore, damaged: DamagedShard, *, among: Iterable[str] = ()
) -> bytes | None:
    """Return the bytes of a shard that the ledger notes, where they lie under another name.

    Two shards that were exchanged, a finished file whose writer was stopped before the rename, and
    any batch of the quarantine are such names.

    Parameters
    ----------
    known
        The store.
    damaged
        The shard that is looked for.
    among
        Keys of the store to look at besides.
    """
    size, crc, other = (damaged.noted.get(name) for name in ("size", "crc32c", "crc32"))
    if None in {size, crc, other} or not isinstance(known.place, LocalPlace):
        return None  # the crc32c alone is that of many shards, see `Expected`
    for path in _candidates(known.place, damaged, among):
        try:
            if os.lstat(path).st_size == size and measure_file(path) == (size, crc):
                with open(path, "rb") as file:
                    data = file.read()
                if zlib.crc32(data) == other:
                    return data
        except (OSError, UsageError):
            continue
    return None


def _candidates(place: LocalPlace, damaged: DamagedShard, among: Iterable[str]) -> Iterator[str]:
    for key in (*among, *_half_written(place, damaged.key)):
        with suppress(UsageError):
            yield contained(place.root, key)
    beside = place.beside(QUARANTINE_SUFFIX).root
    for batch in list_batches(place):
        for item in batch.items:
            if item.crc32c == damaged.noted["crc32c"]:
                with suppress(UsageError):
                    yield contained(f"{beside}/{batch.name}", item.kept_as)


def _half_written(place: LocalPlace, key: str) -> list[str]:
    """Return the keys of files that were to be renamed to a shard."""
    folder, name = key.rsplit("/", 1)
    try:
        found = sorted(os.listdir(place.path(folder)))
    except OSError:
        return []
    return [
        f"{folder}/{one}" for one in found if one.startswith(f"{name}.") and one.endswith(PARTIAL)
    ]


@dataclass(frozen=True)
class Remedy:
    """How a shard is mended.

    Attributes
    ----------
    damaged
        The shard; what is not trusted of it is counted as lost.
    source
        ``nothing`` to do, or where its bytes come from: ``salvage``, ``another file``,
        ``mosaics``.
    data
        The whole file, where it can be had without the mosaics.
    """

    damaged: DamagedShard
    source: str
    data: bytes | None = None


def find_remedy(
    known: KnownStore,
    schema: CubeSchema,
    shard: int,
    *,
    distrust: Iterable[int] = (),
    is_wrong: bool = False,
    among: Iterable[str] = (),
) -> Remedy:
    """Find out how a shard can be mended.

    Parameters
    ----------
    known
        The store.
    schema
        What the cube is.
    shard
        Number of the shard.
    distrust
        Slots whose values are wrong although their bytes are as written.
    is_wrong
        Whether the shard is whole and not the one that was written last.
    among
        Keys of other files that may hold its bytes.
    """
    wrong = set(distrust)
    damaged = examine_shard(known, schema, shard, distrust=wrong)
    if not wrong:
        unnoted = not damaged.noted and not damaged.left.lost
        if damaged.is_whole or (unnoted and _is_canonical(schema, damaged)):
            return Remedy(damaged, "nothing", damaged.data)
        if damaged.left.whole is not None:
            return Remedy(damaged, "salvage", damaged.left.whole)
        other = find_elsewhere(known, damaged, among=among)
        if other is not None:
            return Remedy(damaged, "another file", other)
    if is_wrong:
        damaged = distrusting_all(damaged)
    if not damaged.left.lost:
        return Remedy(damaged, "salvage", put_together(schema, damaged, {}))
    return Remedy(damaged, "mosaics")


def _is_canonical(schema: CubeSchema, damaged: DamagedShard) -> bool:
    return put_together(schema, damaged, {}) == damaged.data


def lost_lightcurve(schema: CubeSchema) -> NDArray[np.float32]:
    """Return the values of a lightcurve that cannot be mended: NaN, with the flag that says so."""
    values = np.full((len(VALUES), schema.layout.n_aors), np.nan, dtype=np.float32)
    values[FLAG] = flag_bit("lost")
    return values


def put_together(
    schema: CubeSchema, damaged: DamagedShard, rebuilt: Mapping[int, NDArray[np.float32]]
) -> bytes:
    """Return a whole shard of the chunks that are left and of rebuilt lightcurves.

    Parameters
    ----------
    schema
        What the cube is.
    damaged
        What is left.
    rebuilt
        Values (value, aor) of every lost slot.

    Returns
    -------
    bytes
        The file.
    """
    chunks = dict(damaged.left.chunks)
    for slot, values in rebuilt.items():
        chunks[slot] = _encoded(schema, values)
    room = schema.layout.chunks_per_shard
    return join_chunks(chunks.get(slot) for slot in range(room))


def _encoded(schema: CubeSchema, values: NDArray[np.float32]) -> bytes:
    layout = schema.layout
    chunk = np.full(layout.chunk_shape[2:], np.nan, dtype=np.float32)
    chunk[:, : layout.n_aors] = values
    if schema.precision is not None:
        chunk[FLUX], chunk[FLUX_ERR] = reduce_precision(
            chunk[FLUX], chunk[FLUX_ERR], schema.precision
        )
    return encode_chunk(chunk, schema.codec)


def shard_record(
    schema: CubeSchema, damaged: DamagedShard, data: bytes, **more: Any
) -> dict[str, Any]:
    """Return what the ledger is to say of a mended shard: what it said, if it is that very file."""
    told: dict[str, Any] = {"key": damaged.key, "size": len(data)}
    told |= {"crc32c": crc32c(data), "crc32": zlib.crc32(data)}
    if damaged.noted and all(damaged.noted.get(name, told[name]) == told[name] for name in told):
        return dict(damaged.noted) | told
    layout = schema.layout
    told |= {"aors": layout.n_aors} | more
    if schema.precision is not None:
        first, last = layout.rows(damaged.number)
        block = decode_shard(data, layout, last - first, codec=schema.codec, where=damaged.key)
        told["flux_bits_kept"] = count_kept_bits(
            np.ascontiguousarray(block[:, :, FLUX]),
            np.ascontiguousarray(block[:, :, FLUX_ERR]),
            schema.precision,
        )
    return told


def distrusting_all(damaged: DamagedShard) -> DamagedShard:
    """Return the shard with nothing left of it."""
    slots = tuple(sorted({*damaged.left.lost, *damaged.left.chunks}))
    return replace(damaged, left=Salvage({}, slots, "nothing"))
