"""Salvage: what is left of a damaged shard, against shards whose content is known."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.care.salvage import Expected, salvage, walk_payload
from idfzarr.store.checksum import crc32c
from idfzarr.store.layout import Layout
from idfzarr.store.shard import encode_shard

LAYOUT = Layout(n_objects=7, n_types=3, n_aors=5, capacity=16, shard_objects=4)
ROWS = 3  # of the last shard
INDEX = 4 * 3 * 16 + 4


def shard(codec: str, rows: int = ROWS) -> tuple[bytes, Expected, list[bytes]]:
    """Return a shard, what is known of it, and its chunks, cut out by its own index."""
    values = np.random.default_rng(3).normal(50, 9, (rows, 3, 3, 5)).astype(np.float32)
    values[1, 2] = np.nan
    data = encode_shard(values, LAYOUT, codec=codec)
    table = struct.unpack(f"<{2 * 12}Q", data[-INDEX:-4])
    chunks = [data[table[2 * k] :][: table[2 * k + 1]] for k in range(rows * 3)]
    return data, expected(codec, data, rows), chunks


def expected(codec: str, data: bytes | None = None, rows: int = ROWS) -> Expected:
    size, crc = (None, None) if data is None else (len(data), crc32c(data))
    return Expected(12, rows * 3, LAYOUT.chunk_bytes, codec, size, crc)


def blind(known: Expected) -> Expected:
    """Return what is known of a shard that the ledger does not speak of."""
    return Expected(known.room, known.present, known.chunk_bytes, known.codec)


CODECS = pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])


@CODECS
def test_a_whole_shard_has_every_chunk(codec):
    data, known, chunks = shard(codec)
    for one in (known, blind(known)):
        found = salvage(data, one)
        assert found.lost == ()
        assert [found.chunks[k] for k in range(9)] == chunks


@CODECS
def test_a_damaged_index_is_derived_from_the_chunks_and_the_ledger_proves_it(codec):
    data, known, _ = shard(codec)
    for at in (-1, -5, -INDEX, -INDEX + 40):
        broken = bytearray(data)
        broken[at] ^= 8
        found = salvage(bytes(broken), known)
        assert (found.how, found.whole, found.lost) == ("ledger", data, ())
        assert salvage(bytes(broken), blind(known)).lost == ()


@CODECS
def test_bytes_put_after_a_shard_are_cut_off(codec):
    data, known, _ = shard(codec)
    assert salvage(data + b"\x02\x01" * 40, known).whole == data


@CODECS
def test_of_a_cut_shard_the_chunks_before_the_cut_are_kept(codec):
    data, known, chunks = shard(codec)
    for n in range(0, len(data) - 1, 37):
        found = salvage(data[:n], known)
        before = 0
        while before < 9 and len(b"".join(chunks[: before + 1])) <= n:
            before += 1
        kept = [found.chunks[k] for k in sorted(found.chunks)]
        assert sorted(found.chunks) == list(range(before))
        assert kept == chunks[:before]
        assert found.lost == tuple(range(before, 9)) or found.whole == data


@CODECS
@pytest.mark.parametrize("n_flips", [1, 2, 3])
def test_flipped_bits_lose_the_chunks_they_are_in_and_no_other(codec, n_flips):
    data, known, chunks = shard(codec)
    random = np.random.default_rng(n_flips)
    ends = np.cumsum([len(chunk) for chunk in chunks])
    for _ in range(60):
        broken, hit = bytearray(data), set()
        for at in random.integers(0, ends[-1], n_flips):
            broken[at] ^= 1 << int(random.integers(8))
            hit.add(int(np.searchsorted(ends, at, side="right")))
        for one in (known, blind(known)):
            found = salvage(bytes(broken), one)
            for slot, chunk in found.chunks.items():
                assert chunk == chunks[slot]
            assert set(found.lost) == {k for k in hit if bytes(broken) != data and k in found.lost}
            if bytes(broken) != data:
                assert set(found.lost) <= hit


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_a_byte_before_the_chunks_is_no_chunk(codec):
    """With two damaged ones behind it, each piece could be taken for one of three chunks."""
    data, known, chunks = shard(codec)
    broken = bytearray(data)
    for at in (len(chunks[0]), len(chunks[0]) + len(chunks[1])):
        broken[at] ^= 1
    broken[0:0] = b"\0"
    for one in (known, blind(known)):
        found = salvage(bytes(broken), one)
        assert {*found.chunks} == {*range(3, 9)}
        assert all(chunk == chunks[slot] for slot, chunk in found.chunks.items())


@CODECS
@given(data=st.data())
def test_no_chunk_is_ever_taken_for_another(codec, data):
    whole, known, chunks = shard(codec)
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(broken) - 1))
        how = data.draw(st.sampled_from(["cut", "flip", "insert", "remove", "zero", "end"]))
        if how == "flip":
            broken[at] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "insert":
            broken[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        elif how == "remove":
            del broken[at : at + data.draw(st.integers(1, 300))]
        elif how == "zero":
            n = len(broken[at : at + 50])
            broken[at : at + n] = bytes(n)
        elif how == "end":
            broken += data.draw(st.binary(min_size=1, max_size=80))
        else:
            del broken[at:]
        if not broken:
            break
    for one in (known, blind(known)):
        found = salvage(bytes(broken), one)
        assert all(chunk == chunks[slot] for slot, chunk in found.chunks.items())
        assert sorted({*found.chunks, *found.lost}) == list(range(9))


def test_a_chunk_between_two_damaged_ones_is_kept_where_the_count_proves_it():
    data, known, chunks = shard("lz4")
    broken = bytearray(data)
    starts = [0, *np.cumsum([len(c) for c in chunks])]
    for slot in (2, 6):
        broken[starts[slot] + 2] ^= 255
        broken[starts[slot] + 13] ^= 255  # its length, too
    broken[-1] ^= 1  # and the index
    found = salvage(bytes(broken), known)
    assert found.lost == (2, 6)
    assert found.chunks[4] == chunks[4]


def test_a_shard_that_others_wrote_in_another_order_keeps_its_index():
    data, _, chunks = shard("lz4")
    order = [4, 0, 8, 2, 6, 1, 7, 3, 5]
    at, table = 0, [2**64 - 1] * 24
    for slot in order:
        table[2 * slot : 2 * slot + 2] = at, len(chunks[slot])
        at += len(chunks[slot])
    index = struct.pack("<24Q", *table)
    foreign = b"".join(chunks[k] for k in order) + index + struct.pack("<I", crc32c(index))
    found = salvage(foreign, blind(expected("lz4", data)))
    assert found.how == "index"
    assert [found.chunks[k] for k in range(9)] == chunks


def test_of_entries_that_overlap_or_lead_outside_the_ledger_tells_which():
    data, known, chunks = shard("lz4")
    table = list(struct.unpack("<24Q", data[-INDEX:-4]))
    for slot, (offset, length) in {3: (table[0], table[1]), 5: (1 << 40, 60)}.items():
        wrong = table.copy()
        wrong[2 * slot : 2 * slot + 2] = offset, length
        index = struct.pack("<24Q", *wrong)
        broken = data[:-INDEX] + index + struct.pack("<I", crc32c(index))
        assert salvage(broken, known).whole == data
        found = salvage(broken, blind(known))
        assert all(found.chunks[k] == chunks[k] for k in found.chunks)


def test_an_absent_entry_loses_that_chunk_only_where_its_bytes_are_gone():
    data, known, chunks = shard("zstd")
    table = list(struct.unpack("<24Q", data[-INDEX:-4]))
    table[8:10] = [2**64 - 1] * 2
    for k in range(5, 9):
        table[2 * k] -= len(chunks[4])
    index = struct.pack("<24Q", *table)
    payload = b"".join(chunks[:4] + chunks[5:])
    broken = payload + index + struct.pack("<I", crc32c(index))
    for one in (known, blind(known)):
        found = salvage(broken, one)
        assert found.lost == (4,)
        assert found.chunks[8] == chunks[8]


def test_a_hostile_payload_takes_bounded_time():
    head = bytes([2, 1, 0x31, 4]) + (192).to_bytes(4, "little") * 2 + (180).to_bytes(4, "little")
    found = walk_payload(head * 60_000, Expected(12, 9, 192, "lz4"))
    assert found == ()
