from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from idfzarr.errors import ChunkCorrupt, CorruptError, ShardCorrupt, UsageError
from idfzarr.store.checksum import RESIDUE, crc32c, is_intact, sealed
from idfzarr.store.layout import Layout
from idfzarr.store.shard import (
    ABSENT,
    checked_codec,
    decode_chunk,
    decode_shard,
    encode_chunk,
    encode_shard,
    index_bytes,
    join_chunks,
    parse_index,
    reduce_precision,
    round_mantissa,
)

codecs = st.sampled_from(["lz4", "zstd", "none"])
any_float = st.floats(width=32)


def same(a, b):
    """Bit for bit, NaN payloads too."""
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def test_crc32c_is_that_of_rfc_3720():
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"123456789") == 0xE3069283


@given(st.binary(max_size=200))
def test_the_residue_tells_whole_bytes(data):
    assert crc32c(sealed(data)) == RESIDUE
    assert is_intact(sealed(data))
    assert not is_intact(data[:3])


@given(
    codecs, hnp.arrays(np.float32, st.tuples(st.just(3), st.integers(1, 80)), elements=any_float)
)
def test_a_chunk_comes_back_bit_for_bit(codec, values):
    data = encode_chunk(values, codec)
    assert same(decode_chunk(data, np.empty_like(values), codec, where="x"), values)


@settings(max_examples=30)
@given(codecs, st.integers(1, 5), st.integers(1, 4), st.integers(0, 20), st.data())
def test_a_shard_comes_back_and_lacks_the_rows_that_do_not_exist(codec, room, types, aors, data):
    rows = data.draw(st.integers(1, room))
    layout = Layout(rows, types, aors, aors + 3, room)
    shape = (rows, types, 3, aors)
    block = data.draw(hnp.arrays(np.float32, shape, elements=any_float))
    shard = encode_shard(block, layout, codec=codec)
    back = decode_shard(shard, layout, rows, codec=codec, where="x")
    assert same(back, block)
    n = layout.chunks_per_shard
    index = parse_index(shard[-index_bytes(n) :], n, len(shard), where="x")
    absent = (index == ABSENT).all(axis=1)
    assert not absent[: rows * types].any()
    assert absent[rows * types :].all()


def test_all_nan_chunks_are_written_and_room_is_nan():
    layout = Layout(2, 1, 4, 16, 2)
    shard = encode_shard(np.full((2, 1, 3, 4), np.nan, np.float32), layout, codec="none")
    assert len(shard) == 2 * (3 * 16 * 4 + 4) + index_bytes(2)
    assert np.isnan(np.frombuffer(shard, "<f4", 48)).all()


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_no_bit_flip_in_a_shard_is_silent(codec):
    rng = np.random.default_rng(5)
    layout = Layout(2, 2, 5, 8, 2)
    block = rng.normal(size=(2, 2, 3, 5)).astype(np.float32)
    shard = encode_shard(block, layout, codec=codec)
    for byte in range(len(shard)):
        for bit in (0, 3, 7):
            bad = bytearray(shard)
            bad[byte] ^= 1 << bit
            with pytest.raises(CorruptError, match=r"crc32c|points beyond"):
                decode_shard(bytes(bad), layout, 2, codec=codec, where="x")


def test_a_truncated_shard_is_refused_at_every_length():
    layout = Layout(2, 2, 5, 8, 2)
    shard = encode_shard(np.zeros((2, 2, 3, 5), np.float32), layout, codec="lz4")
    for length in range(len(shard)):
        with pytest.raises(ShardCorrupt, match=r"cut off|crc32c|points beyond"):
            decode_shard(shard[:length], layout, 2, codec="lz4", where="x")


@pytest.mark.parametrize("entry", [(0, 2**40), (2**63, 2**63), (ABSENT, 4), (5, ABSENT), (60, 10)])
def test_an_index_that_points_beyond_the_shard_is_refused_though_its_crc_fits(entry):
    tail = sealed(np.array([0, 4, *entry], dtype="<u8").tobytes())
    with pytest.raises(ShardCorrupt, match="points beyond it at entry 1"):
        parse_index(tail, 2, 64 + len(tail), where="x")


def test_a_chunk_of_another_size_is_refused_though_its_crc_fits():
    small, out = np.zeros((3, 8), np.float32), np.empty((3, 16), np.float32)
    for codec in ("lz4", "none"):
        with pytest.raises(ChunkCorrupt, match="bytes"):
            decode_chunk(encode_chunk(small, codec), out, codec, where="x")
    with pytest.raises(ChunkCorrupt, match="no blosc chunk"):
        decode_chunk(sealed(b"abc"), out, "lz4", where="x")
    header = encode_chunk(out, "lz4")[:16]
    with pytest.raises(ChunkCorrupt, match="cannot be decompressed"):
        decode_chunk(sealed(header + b"\xff" * 9), out, "lz4", where="x")


def test_chunks_are_joined_in_order_with_gaps_marked():
    shard = join_chunks([b"aa", None, b"bbb"])
    index = parse_index(shard[-index_bytes(3) :], 3, len(shard), where="x")
    assert index.tolist() == [[0, 2], [ABSENT, ABSENT], [2, 3]]
    assert shard[:5] == b"aabbb"


def test_a_block_that_does_not_fit_is_refused():
    with pytest.raises(UsageError, match=r"block of shape \(3, 1, 3, 5\) does not fit"):
        encode_shard(np.zeros((3, 1, 3, 5), np.float32), Layout(9, 1, 5, 8, 2), codec="none")
    with pytest.raises(UsageError, match="no codec 'lz5'; nearest: 'lz4'"):
        checked_codec("lz5")


@given(hnp.arrays(np.float32, 20, elements=any_float), st.integers(0, 23))
def test_rounding_a_mantissa_is_close_and_done_once(values, bits):
    rounded = round_mantissa(values, bits)
    finite = np.isfinite(values)
    assert same(rounded[~finite], values[~finite])
    error = np.abs(rounded[finite].astype(float) - values[finite].astype(float))
    tiny = np.finfo(np.float32).smallest_subnormal
    assert (error <= np.abs(values[finite].astype(float)) * 2.0 ** -(bits + 1) + tiny).all()
    assert same(round_mantissa(rounded, bits), rounded)
    if bits == 23:
        assert np.array_equal(rounded, values, equal_nan=True)


def test_rounding_refuses_more_bits_than_there_are():
    with pytest.raises(UsageError, match="has 0 to 23"):
        round_mantissa(np.zeros(1, np.float32), 24)


@given(
    hnp.arrays(np.float32, 30, elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.float32, 30, elements=st.floats(2**-20, 2**20, width=32)),
    st.sampled_from([0.01, 0.1, 1.0]),
)
def test_reduced_precision_moves_a_flux_by_less_than_its_share_of_the_error(flux, err, fraction):
    new_flux, new_err = reduce_precision(flux, err, fraction)
    moved = np.abs(new_flux.astype(float) - flux.astype(float))
    # a float32 that is rounded to a coarser grid may gain half a unit in its own last place
    assert (moved <= fraction * err.astype(float) + np.spacing(np.abs(flux))).all()
    assert (np.abs(new_err - err) <= err * 2.0**-7).all()
    again = reduce_precision(new_flux, new_err, fraction)
    assert same(again[0], new_flux)
    assert same(again[1], new_err)


def test_reduced_precision_leaves_what_has_no_error_alone_and_compresses():
    flux = np.array([1.2345678, np.nan, np.inf, 3.3333333], np.float32)
    err = np.array([np.nan, 1, 1, 0], np.float32)
    assert same(reduce_precision(flux, err, 0.01)[0], flux)
    rng = np.random.default_rng(1)
    err = np.full(1000, 0.5, np.float32)
    flux = (100 + 0.5 * rng.normal(size=1000)).astype(np.float32)
    before = len(encode_chunk(np.stack([flux, err, err * 0]), "lz4"))
    after = len(encode_chunk(np.stack([*reduce_precision(flux, err, 0.01), err * 0]), "lz4"))
    assert after < 0.6 * before
