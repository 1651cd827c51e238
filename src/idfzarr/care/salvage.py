"""What is left of a damaged shard: which bytes are which lightcurve, and how that is known.

Pure functions on bytes. The chunks of a shard stand one after another from byte 0, in the order of
its index. A compressed chunk says in its header how long it is (bytes 12 to 16 of a blosc buffer,
https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst), an uncompressed one is as long
as its values; its crc32c, the four bytes after it, proves it. So the payload can be walked without
an index, and a damaged piece be skipped by looking for the next header whose chunk is proved.

Which lightcurve a proved chunk is must be proved too, never guessed: by an index whose crc32c is
right, by the number of intact chunks before it, or after it where the end of the payload is known.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import google_crc32c
import numpy as np

from idfzarr.store.checksum import CRC_BYTES, RESIDUE, crc32c, is_intact
from idfzarr.store.shard import ABSENT, Codec, index_bytes, join_chunks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Expected", "Salvage", "Segment", "salvage", "walk_payload"]

_HEADER = 16
_TYPE_SIZE = 4
_BLOSC_VERSION = 2
_SIZES = slice(4, 8), slice(12, 16)
_BUDGET = 4  # times the shard's bytes, that looking for the next chunk may checksum

How = Literal["ledger", "index", "order", "nothing"]


@dataclass(frozen=True)
class Expected:
    """What a shard must hold.

    Attributes
    ----------
    room
        Chunks that its index has entries for.
    present
        Chunks that must be there: those of rows that exist, the first ones of the index.
    chunk_bytes
        Size of a decoded chunk.
    codec
        How chunks are compressed.
    size, crc32c
        Of the whole file, as the ledger notes them; None where it does not.
    crc32
        Of the whole file, CRC-32 of zlib, where the ledger notes it.

    Notes
    -----
    The crc32c of a file is blind to a part of it that ends in its own crc32c and is exchanged for
    another such part of the same length: the difference of the two is a multiple of the polynomial.
    So an index that was altered and sealed anew, or chunks of one length that changed places, leave
    it as it was. CRC-32 has another polynomial, and the order of the index is looked at for itself.
    """

    room: int
    present: int
    chunk_bytes: int
    codec: Codec
    size: int | None = None
    crc32c: int | None = None
    crc32: int | None = None

    def is_whole(self, data: bytes) -> bool:
        """Say whether a file is the one that the ledger notes."""
        if self.size != len(data) or self.crc32c != crc32c(data):
            return False
        if self.crc32 is not None:
            return self.crc32 == zlib.crc32(data)
        return self.has_plain_index(data)

    def has_plain_index(self, data: bytes) -> bool:
        """Say whether the chunks that must be there stand one after another, and no other does."""
        tail = data[max(0, len(data) - index_bytes(self.room)) :]
        if len(tail) != index_bytes(self.room) or not is_intact(tail):
            return False
        table = np.frombuffer(tail, dtype="<u8", count=2 * self.room).reshape(-1, 2)
        own, beyond = table[: self.present], table[self.present :]
        end = len(data) - len(tail)
        begins = np.concatenate([[0], np.cumsum(own[:, 1], dtype=np.uint64)]).astype(np.uint64)
        # Lengths first: a sum of absurd ones may come round to the right number.
        return bool(
            (own[:, 1] <= end).all()
            and np.array_equal(own[:, 0], begins[:-1])
            and int(begins[-1]) == end
            and (beyond == ABSENT).all()
        )


@dataclass(frozen=True)
class Segment:
    """Intact chunks that stand one after another.

    Attributes
    ----------
    first_byte
        Where the first stands.
    lengths
        Bytes of each with its crc32c.
    """

    first_byte: int
    lengths: tuple[int, ...]

    @property
    def end(self) -> int:
        """The byte after the last."""
        return self.first_byte + sum(self.lengths)

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield offset and length of each."""
        at = self.first_byte
        for length in self.lengths:
            yield at, length
            at += length


@dataclass(frozen=True)
class Salvage:
    """What is left of a shard.

    Attributes
    ----------
    chunks
        Bytes of every proved chunk with its crc32c, by its place in the index.
    lost
        Places of the chunks that must be there and are not proved, sorted.
    how
        What proves the places: ``ledger`` (the whole file equals what the ledger notes), ``index``,
        ``order``, or ``nothing``.
    whole
        The shard put together again, equal to what the ledger notes; None where that is not proved.
    """

    chunks: Mapping[int, bytes] = field(repr=False)
    lost: tuple[int, ...]
    how: How
    whole: bytes | None = field(default=None, repr=False)


def salvage(data: bytes, expected: Expected) -> Salvage:
    """Find what is left of a shard.

    Parameters
    ----------
    data
        The file as it stands.
    expected
        What it must hold.

    Returns
    -------
    Salvage
        Every chunk in it is proved by its crc32c, and its place too.
    """
    if expected.is_whole(data):
        return _of_index(data, expected, whole=data)
    by_index = _trusted_index(data, expected)
    segments = walk_payload(data[: _payload_limit(data, expected)], expected)
    by_order = _places_by_order(segments, data, expected)
    if _contradicts(by_order, by_index, segments):
        by_order = {}
    proved = _proved(data, by_index, expected)
    for places in (by_order, proved):
        whole = _joined(data, places, expected)
        if whole is not None:
            return _salvaged(data, places, expected, "ledger", whole)
    if by_order and len(by_order) >= len(proved):
        return _salvaged(data, by_order, expected, "order", None)
    return _salvaged(data, proved, expected, "index" if proved else "nothing", None)


def _salvaged(
    data: bytes,
    places: Mapping[int, tuple[int, int]],
    expected: Expected,
    how: How,
    whole: bytes | None,
) -> Salvage:
    chunks = {slot: data[at : at + n] for slot, (at, n) in sorted(places.items())}
    lost = tuple(slot for slot in range(expected.present) if slot not in chunks)
    return Salvage(chunks, lost, how, whole)


def _of_index(data: bytes, expected: Expected, *, whole: bytes) -> Salvage:
    places = _proved(data, _trusted_index(data, expected), expected)
    return _salvaged(data, places, expected, "ledger", whole)


# -------------------------------------------------------------------- the index


def _trusted_index(data: bytes, expected: Expected) -> dict[int, tuple[int, int]]:
    """Return offset and length by slot of an index that matches its crc32c, else nothing.

    Entries that point outside the payload, or that share bytes with another, are left out: one of
    two that overlap is wrong, and which one cannot be told.
    """
    tail = data[max(0, len(data) - index_bytes(expected.room)) :]
    if len(tail) != index_bytes(expected.room) or not is_intact(tail):
        return {}
    table = np.frombuffer(tail, dtype="<u8", count=2 * expected.room).reshape(-1, 2)
    end = len(data) - len(tail)
    inside = {
        slot: (int(offset), int(length))
        for slot, (offset, length) in enumerate(table[: expected.present].tolist())
        if ABSENT not in {offset, length} and length > 0 and offset + length <= end
    }
    shared: set[int] = set()
    before, reach = -1, 0
    for slot, (offset, length) in sorted(inside.items(), key=lambda pair: pair[1]):
        if offset < reach:
            shared |= {slot, before}
        if offset + length > reach:
            before, reach = slot, offset + length
    return {slot: place for slot, place in inside.items() if slot not in shared}


def _proved(
    data: bytes, places: Mapping[int, tuple[int, int]], expected: Expected
) -> dict[int, tuple[int, int]]:
    """Return those places where a chunk of the right kind matches its crc32c."""
    return {
        slot: (at, length)
        for slot, (at, length) in places.items()
        if _chunk_length(data, at, len(data), expected) == length
        and is_intact(data[at : at + length])
    }


def _payload_limit(data: bytes, expected: Expected) -> int:
    """Return where the payload ends at most; a file that was cut off may be payload throughout."""
    room = len(data) - index_bytes(expected.room)
    return room if _end_is_known(data, expected) and room >= 0 else len(data)


def _end_is_known(data: bytes, expected: Expected) -> bool:
    tail = data[max(0, len(data) - index_bytes(expected.room)) :]
    whole_tail = len(tail) == index_bytes(expected.room) and is_intact(tail)
    return whole_tail or len(data) == expected.size


# -------------------------------------------------------------------- the payload


def _chunk_length(data: bytes, at: int, end: int, expected: Expected) -> int | None:
    """Return how long the chunk at a byte says it is, with its crc32c; None where it cannot be."""
    if expected.codec == "none":
        length = expected.chunk_bytes + CRC_BYTES
        return length if at + length <= end else None
    head = data[at : at + _HEADER]
    if len(head) < _HEADER or head[0] != _BLOSC_VERSION or head[3] != _TYPE_SIZE:
        return None
    plain, packed = (int.from_bytes(head[part], "little") for part in _SIZES)
    length = packed + CRC_BYTES
    fits = _HEADER < packed <= expected.chunk_bytes + _HEADER and at + length <= end
    return length if plain == expected.chunk_bytes and fits else None


def walk_payload(data: bytes, expected: Expected) -> tuple[Segment, ...]:
    """Find the intact chunks of a payload.

    Parameters
    ----------
    data
        The payload, or what may be one.
    expected
        What the shard must hold.

    Returns
    -------
    tuple of Segment
        In the order of their bytes. The time is bounded by a multiple of the payload's size,
        whatever stands in it.
    """
    view = memoryview(data)
    found: list[Segment] = []
    lengths: list[int] = []
    begin = at = 0
    budget = _BUDGET * len(data) + expected.chunk_bytes
    while at < len(data) and budget > 0:
        length = _chunk_length(data, at, len(data), expected)
        budget -= length or 0
        if length is not None and google_crc32c.value(bytes(view[at : at + length])) == RESIDUE:
            lengths.append(length)
            at += length
            continue
        if lengths:
            found.append(Segment(begin, tuple(lengths)))
            lengths = []
        begin = at = _next_candidate(data, at, expected)
    if lengths:
        found.append(Segment(begin, tuple(lengths)))
    return tuple(found)


def _next_candidate(data: bytes, at: int, expected: Expected) -> int:
    """Return the next byte after this one where a chunk could begin; the end where there is none.

    Chunks of fixed length stand at multiples of it, whatever was damaged before.
    """
    if expected.codec == "none":
        length = expected.chunk_bytes + CRC_BYTES
        return (at // length + 1) * length
    pattern = bytes([_TYPE_SIZE]) + expected.chunk_bytes.to_bytes(4, "little")
    hit = data.find(pattern, at + 1 + 3)
    while hit >= 0:
        if _chunk_length(data, hit - 3, len(data), expected) is not None:
            return hit - 3
        hit = data.find(pattern, hit + 1)
    return len(data)


# -------------------------------------------------------------------- which chunk is which


def _places_by_order(
    segments: tuple[Segment, ...], data: bytes, expected: Expected
) -> dict[int, tuple[int, int]]:
    """Return the places of chunks whose number follows from their neighbours.

    Chunks from byte 0 on are numbered from the front. Those that reach the known end of the
    payload are numbered from the back. Those between damaged pieces are numbered where each piece
    must be one chunk: the file has the size that the ledger notes, so that no byte came or went;
    there are as many chunks missing as there are pieces; and each piece is as long as a chunk may
    be.
    """
    counts = [len(segment.lengths) for segment in segments]
    if not segments:
        return {}
    if expected.codec == "none":
        return _places_by_length(segments, data, expected)
    if sum(counts) > expected.present:
        return {}
    anchored_front = segments[0].first_byte == 0
    end = len(data) - index_bytes(expected.room)
    anchored_back = _end_is_known(data, expected) and segments[-1].end == end
    missing = expected.present - sum(counts)
    places: dict[int, tuple[int, int]] = {}
    if len(data) == expected.size and _are_chunks(_gaps(segments, end), missing, expected):
        slot = 0 if anchored_front else 1
        for segment in segments:
            slot = _number(segment, slot, places) + 1
        return places
    if anchored_front:
        _number(segments[0], 0, places)
    if anchored_back and (len(segments) > 1 or not anchored_front):
        _number(segments[-1], expected.present - counts[-1], places)
    return places


def _gaps(segments: tuple[Segment, ...], end: int) -> list[int]:
    """Return the bytes of each piece of a payload that is no intact chunk."""
    begins = [*(segment.first_byte for segment in segments), end]
    ends = [0, *(segment.end for segment in segments)]
    return [begin - last for begin, last in zip(begins, ends, strict=True) if begin != last]


def _are_chunks(gaps: list[int], missing: int, expected: Expected) -> bool:
    """Say whether every damaged piece can be one chunk and nothing else."""
    least, most = _HEADER + CRC_BYTES, expected.chunk_bytes + _HEADER + CRC_BYTES
    return len(gaps) == missing and all(least < gap <= most for gap in gaps)


def _number(segment: Segment, first: int, places: dict[int, tuple[int, int]]) -> int:
    """Give numbers to the chunks of a segment from a slot on; return the slot after the last."""
    places.update(enumerate(segment.places(), start=first))
    return first + len(segment.lengths)


def _places_by_length(
    segments: tuple[Segment, ...], data: bytes, expected: Expected
) -> dict[int, tuple[int, int]]:
    """Give numbers to chunks of one length by their places, where no byte can have gone or come."""
    length = expected.chunk_bytes + CRC_BYTES
    whole = expected.present * length + index_bytes(expected.room)
    sound = len(data) == whole
    places: dict[int, tuple[int, int]] = {}
    for segment in segments:
        # Of a file of another size only what stands before any damage is sure to be in place.
        if sound or segment.first_byte == 0:
            _number(segment, segment.first_byte // length, places)
    return {slot: place for slot, place in places.items() if slot < expected.present}


def _contradicts(
    by_order: Mapping[int, tuple[int, int]],
    by_index: Mapping[int, tuple[int, int]],
    segments: tuple[Segment, ...],
) -> bool:
    """Say whether an index that is whole puts an intact chunk into another slot than its order.

    A shard that others wrote may hold its chunks in any order.
    """
    if not by_index:
        return False
    slots = {place: slot for slot, place in by_order.items()}
    intact = {place for segment in segments for place in segment.places()}
    return any(
        place in intact and slots.get(place, slot) != slot for slot, place in by_index.items()
    )


def _joined(data: bytes, places: Mapping[int, tuple[int, int]], expected: Expected) -> bytes | None:
    """Return the shard put together of its chunks, if it equals what the ledger notes."""
    if expected.crc32c is None or len(places) != expected.present:
        return None
    pieces: list[bytes | None] = []
    for slot in range(expected.room):
        at, length = places.get(slot, (0, 0))
        pieces.append(data[at : at + length] if length else None)
    whole = join_chunks(pieces)
    return whole if expected.is_whole(whole) else None
