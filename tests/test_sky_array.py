"""One array of a skycell as bytes: what zarr and tensorstore read of it, and what damage does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numcodecs.blosc
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from idfzarr.errors import ChunkCorrupt, ChunkMissing, MetadataCorrupt, UsageError
from idfzarr.ps1.sky_array import (
    CHUNK,
    PixelLayout,
    codecs_json,
    encode_shard,
    layout_of_document,
    read_window,
)
from idfzarr.ps1.sky_keys import array_name, checked_window, parse_array_name, sky_array
from idfzarr.store.arrays import ArraySpec, zarr_array
from idfzarr.store.shard import ABSENT, index_bytes, parse_index

if TYPE_CHECKING:
    from pathlib import Path

SHAPE = (700, 1100)


def noise(shape: tuple[int, int], dtype: str = "int16") -> np.ndarray:
    rng = np.random.default_rng(7)
    if dtype == "float32":
        return rng.normal(0, 3, shape).astype(np.float32)
    return np.clip(rng.normal(-16384, 2048, shape), -32768, 32766).astype(np.int16).astype(dtype)


def document(layout: PixelLayout) -> dict:
    spec = ArraySpec("a", ("y", "x"), layout.dtype, layout.shape, layout.shard_shape)
    made = zarr_array(spec, grid=layout.shard_shape, codecs=codecs_json(layout))
    return made | {"fill_value": layout.fill_json}


def read(shard: bytes, layout: PixelLayout, window=(slice(None), slice(None)), *, threads=1):
    tail = shard[-index_bytes(layout.n_chunks) :]
    index = parse_index(tail, layout.n_chunks, len(shard), where="it")
    reads = []

    def read_range(first: int, count: int) -> bytes:
        reads.append((first, count))
        return shard[first : first + count]

    inside = checked_window(window, layout.shape, where="it")
    out = read_window(read_range, index, layout, inside, where="it", threads=threads)
    return out, reads


@pytest.mark.parametrize(
    ("dtype", "fill"), [("int16", 32767), ("uint16", 0), ("float32", None), ("int16", -32768)]
)
def test_zarr_python_reads_the_shard_and_the_border_is_filled(tmp_path: Path, dtype, fill):
    layout = PixelLayout(SHAPE, dtype, fill)
    pixels = noise(SHAPE, dtype)
    (tmp_path / "c" / "0").mkdir(parents=True)
    (tmp_path / "c" / "0" / "0").write_bytes(b"".join(encode_shard(pixels, layout)))
    told = document(layout)
    (tmp_path / "zarr.json").write_text(json.dumps(told))
    np.testing.assert_array_equal(zarr.open_array(tmp_path, mode="r")[...], pixels)
    # The same bytes as an array of the whole shard: beyond the image there is the fill value.
    (tmp_path / "zarr.json").write_text(json.dumps(told | {"shape": list(layout.shard_shape)}))
    whole = zarr.open_array(tmp_path, mode="r")[...]
    beyond = np.concatenate([whole[SHAPE[0] :].ravel(), whole[:, SHAPE[1] :].ravel()])
    assert beyond.size
    np.testing.assert_array_equal(beyond, np.nan if fill is None else fill)


def test_what_zarr_python_writes_with_these_codecs_reads_back(tmp_path: Path):
    layout = PixelLayout(SHAPE, "int16", 32767)
    (tmp_path / "zarr.json").write_text(json.dumps(document(layout)))
    pixels = noise(SHAPE)
    zarr.open_array(tmp_path, mode="r+")[...] = pixels
    theirs = (tmp_path / "c" / "0" / "0").read_bytes()
    np.testing.assert_array_equal(read(theirs, layout)[0], pixels)


@settings(max_examples=25)
@given(data=st.data(), dtype=st.sampled_from(["int16", "uint16", "float32"]))
def test_any_window_is_that_of_the_image(data, dtype):
    shape = data.draw(st.tuples(st.integers(1, 1200), st.integers(1, 1200)))
    layout = PixelLayout(shape, dtype, None if dtype == "float32" else 0)
    pixels = noise(shape, dtype)
    if data.draw(st.booleans()):
        pixels = pixels.astype(pixels.dtype.newbyteorder(">"))
    shard = b"".join(encode_shard(pixels, layout))
    window = []
    for n in shape:
        first = data.draw(st.integers(0, n - 1))
        window.append(slice(first, data.draw(st.integers(first + 1, n))))
    out, reads = read(shard, layout, tuple(window), threads=data.draw(st.integers(1, 3)))
    np.testing.assert_array_equal(out, pixels[tuple(window)])
    assert out.dtype == layout.pixel_type
    touched = [range(w.start // CHUNK, (w.stop - 1) // CHUNK + 1) for w in window]
    assert len(reads) == len(touched[0])  # neighbours in a row at once
    slots = [r * layout.grid[1] + c for r in touched[0] for c in touched[1]]
    index = parse_index(
        shard[-index_bytes(layout.n_chunks) :], layout.n_chunks, len(shard), where=""
    )
    assert sum(count for _, count in reads) == sum(int(index[slot, 1]) for slot in slots)


def test_chunks_in_another_order_are_read_one_by_one():
    layout = PixelLayout((512, 1024), "int16", 0)
    pixels = noise(layout.shape)
    first, second, tail = encode_shard(pixels, layout)
    index = np.frombuffer(tail[:-4], "<u8").reshape(2, 2).copy()
    index[:, 0] = [len(second), 0]
    swapped = second + first
    out = read_window(
        lambda at, n: swapped[at : at + n],
        index,
        layout,
        (slice(0, 512), slice(0, 1024)),
        where="it",
    )
    np.testing.assert_array_equal(out, pixels)


def test_every_flipped_bit_is_found():
    layout = PixelLayout((600, 600), "int16", 32767)
    shard = b"".join(encode_shard(noise(layout.shape), layout))
    rng = np.random.default_rng(3)
    body = len(shard) - index_bytes(layout.n_chunks)
    for at in rng.integers(0, body, 40):
        bad = bytearray(shard)
        bad[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(ChunkCorrupt, match="crc32c"):
            read(bytes(bad), layout)


def test_a_missing_chunk_is_an_error_and_no_hole():
    layout = PixelLayout((600, 600), "int16", 32767)
    pieces = list(encode_shard(noise(layout.shape), layout))
    index = np.frombuffer(pieces[-1][:-4], "<u8").reshape(-1, 2).copy()
    index[2] = ABSENT
    shard = b"".join(pieces[:-1])

    def read_range(at: int, n: int) -> bytes:
        return shard[at : at + n]

    window = (slice(0, 600), slice(0, 600))
    with pytest.raises(ChunkMissing, match="chunk 2 is missing from it"):
        read_window(read_range, index, layout, window, where="it")
    top = (slice(0, 512), slice(0, 600))
    assert read_window(read_range, index, layout, top, where="it").shape == (512, 600)


def test_shuffled_bytes_of_noise_come_near_its_entropy():
    layout = PixelLayout((1024, 1024), "int16", 32767)
    pixels = noise(layout.shape)
    size = sum(map(len, encode_shard(pixels, layout)))
    entropy = np.log2(2048 * np.sqrt(2 * np.pi * np.e)) / 8 * pixels.size
    assert entropy < size < 1.02 * entropy
    shuffled = numcodecs.blosc.compress(pixels, b"zstd", 3, numcodecs.blosc.BITSHUFFLE)
    assert size < 0.95 * len(shuffled)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"shape": [700]}, "shape"),
        ({"shape": [700, 1 << 40]}, "shape"),
        ({"shape": [700, -1]}, "shape"),
        ({"shape": [700, True]}, "shape"),
        ({"data_type": "int64"}, "type 'int64'"),
        ({"data_type": ["int16"]}, "type"),
        ({"fill_value": "NaN"}, "fill value 'NaN'"),
        ({"codecs": []}, "none of an array of a skycell"),
        ({"codecs": None}, "none of an array of a skycell"),
        ({"chunk_grid": {"configuration": {"chunk_shape": [512, 512]}}}, "shards"),
    ],
)
def test_metadata_of_another_array_is_refused(change, match):
    told = document(PixelLayout(SHAPE, "int16", 0))
    assert layout_of_document(told, where="it") == PixelLayout(SHAPE, "int16", 0)
    with pytest.raises(MetadataCorrupt, match=match):
        layout_of_document(told | change, where="it")


def test_pixels_of_another_shape_or_type_are_refused():
    layout = PixelLayout((10, 12), "int16", 0)
    with pytest.raises(UsageError, match=r"shape \(12, 10\)"):
        list(encode_shard(np.zeros((12, 10), np.int16), layout))
    with pytest.raises(UsageError, match="type int32"):
        list(encode_shard(np.zeros((10, 12), np.int32), layout))


def test_names_of_arrays():
    for kind, suffix in (("image", ""), ("mask", "_mask"), ("weight", "_wt")):
        assert array_name("i", kind) == f"i{suffix}"
        assert parse_array_name(f"i{suffix}") == ("i", kind)
    for other in ("", "w", "i_", "_mask", "i_mask_temp_1", "i.partial", "gr", "i_weight"):
        assert parse_array_name(other) is None
    assert sky_array("635.000", "g", "weight").path == "0635/skycell.0635.000/g_wt"
    with pytest.raises(UsageError, match="no band 'w'"):
        array_name("w", "image")
    with pytest.raises(UsageError, match="nearest: 'weight'"):
        array_name("g", "weights")


@pytest.mark.parametrize(
    "window",
    [
        (slice(0, 11), slice(None)),
        (slice(-1, 5), slice(None)),
        (slice(5, 5), slice(None)),
        (slice(0, 5, 2), slice(None)),
        (slice(0, 5),),
        (0, 3),
        [slice(0, 5), slice(0, 5)],
    ],
)
def test_windows_that_do_not_fit_are_refused(window):
    with pytest.raises(UsageError, match="window"):
        checked_window(window, (10, 10), where="it")
