"""Files of the survey read with suspicion: what is right is decoded, what is not is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tracemalloc
import zlib

import numpy as np
import pytest
from astropy.io import fits

from idfzarr.errors import ImageUnreadable
from idfzarr.ps1.fits_check import read_served
from idfzarr.ps1.sky_keys import KINDS, sky_array
from idfzarr.ps1.tile_check import rice_bytes
from idfzarr.testing.ps1_files import PS1Sky, disk_pixels, file_bytes

NAME = "skycell.1405.053"
SKY = PS1Sky(seed=3, size=(256, 250))


def served(kind="image", **options):
    return file_bytes(SKY, NAME, "r", kind, **options)


def read(tmp_path, body, kind="image", name=NAME, band="r", **options):
    path = tmp_path / "any.fits"
    path.write_bytes(body)
    handle = os.open(path, os.O_RDONLY)
    try:
        return read_served(handle, sky_array(name, band, kind), where="the file", **options)
    finally:
        os.close(handle)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packing", ["RICE_1", "GZIP_1", "GZIP_2", "none", "signed"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pixels_are_those_of_the_file(tmp_path, kind, packing, zipped):
    if packing == "signed" and kind != "mask":
        pytest.skip("only masks are packed without a sign")
    body = served(kind, compression=packing)
    packed = gzip.compress(body, 1) if zipped else body
    found = read(tmp_path, packed, kind)
    wanted, _ = disk_pixels(SKY, NAME, "r", kind)
    assert found.pixels.dtype == wanted.dtype
    np.testing.assert_array_equal(found.pixels, wanted)
    assert len(np.unique(found.pixels)) > 3
    assert (found.size, found.sha256) == (len(packed), hashlib.sha256(packed).hexdigest())
    assert any(card.startswith("SKYCELL =") for card in found.cards)
    assert (found.tiles.get("ZTILE2") == 1) == (packing != "none")


def test_checksums_that_are_there_are_believed(tmp_path):
    body = served(checksums=True)
    assert read(tmp_path, body).pixels.shape == (250, 256)
    for place in (0.4, 0.7, 0.99):
        at = int(place * len(body))
        damaged = body[:at] + bytes([body[at] ^ 8]) + body[at + 1 :]
        with pytest.raises(ImageUnreadable, match="the file"):
            read(tmp_path, damaged)


@pytest.mark.parametrize(("held", "asked"), [(a, b) for a in KINDS for b in KINDS if a != b])
def test_a_file_of_another_kind_is_told_by_its_content(tmp_path, held, asked):
    with pytest.raises(ImageUnreadable, match=r"mask|variance|image"):
        read(tmp_path, served(held), asked)


def test_a_file_of_another_skycell_or_band_is_told_by_its_header(tmp_path):
    with pytest.raises(ImageUnreadable, match=r"SKYCELL, not 'skycell.1405.054'"):
        read(tmp_path, served(), name="skycell.1405.054")
    with pytest.raises(ImageUnreadable, match=r"filter 'r\.00000' by its header, not 'i'"):
        read(tmp_path, served(), band="i")


def test_bytes_that_differ_from_those_that_came_are_refused(tmp_path):
    with pytest.raises(ImageUnreadable, match="changed on disk"):
        read(tmp_path, served(), sha256="0" * 64)


def with_card(body, name, text):
    """Return a file in whose image's header a card says something else."""
    start = body.index(b"XTENSION")
    stop = body.index(b"END     ", start)
    key = f"{name:<8}=".encode()
    card = b"" if text is None else f"{name:<8}= {text:>20}".encode()
    changed = bytearray(body)
    for at in range(start, stop, 80):
        if body[at : at + 9] == key:
            changed[at : at + 80] = card.ljust(80)
    return bytes(changed)


HOSTILE_CARDS = [
    ("ZNAXIS1", "2000000000"), ("ZNAXIS2", "2000000000"), ("ZNAXIS1", "-1"), ("ZNAXIS1", "0"),
    ("ZNAXIS", "3"), ("ZNAXIS1", "T"), ("ZNAXIS1", "'256'"), ("ZBITPIX", "-64"), ("ZBITPIX", "64"),
    ("ZBITPIX", "7"), ("ZTILE1", "2000000000"), ("ZTILE2", "0"), ("ZTILE1", "-5"),
    ("NAXIS1", "2000000000"), ("NAXIS2", "2000000000"), ("PCOUNT", "2000000000000"),
    ("PCOUNT", "-1"), ("NAXIS1", "9"), ("NAXIS2", "1"), ("TFIELDS", "900"), ("TFIELDS", "0"),
    ("TFORM1", "'1PB(9'"), ("TFORM1", "'1D'"), ("TTYPE1", "'UNCOMPRESSED'"), ("ZVAL1", "0"),
    ("ZVAL1", "2000000000"), ("ZVAL2", "8"), ("ZVAL2", "'x'"), ("ZCMPTYPE", "'HCOMPRESS_1'"),
    ("ZCMPTYPE", "'EVIL'"), ("ZCMPTYPE", "'GZIP_1'"), ("ZIMAGE", "F"), ("SKYCELL", "'../../evil'"),
    ("SKYCELL", "5"), ("SKYCELL", None), ("TESS_ID", "'OTHER'"), ("BSCALE", "0.0"),
    ("BSOFTEN", "-1.0"), ("BOFFSET", None), ("THEAP", "2000000000"),
]  # fmt: skip


@pytest.mark.parametrize(("card", "text"), HOSTILE_CARDS)
def test_hostile_headers_are_refused_in_bounded_memory(tmp_path, card, text):
    body = served()
    if card == "THEAP":
        body = body.replace(b"GCOUNT  =                    1", b"THEAP   =           2000000000", 1)
        assert b"THEAP" in body
    else:
        body = with_card(body, card, text)
    assert body != served()
    tracemalloc.start()
    try:
        with pytest.raises(ImageUnreadable, match=r"the file|header"):
            read(tmp_path, body)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def zip_bomb(size):
    packer = zlib.compressobj(9, wbits=31)
    zeros = bytes(1 << 20)
    parts = [packer.compress(served()[:2880])]
    parts += [packer.compress(zeros) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


def test_a_bomb_is_unpacked_no_further_than_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("idfzarr.ps1.fits_check.MOST_UNPACKED", 8 << 20)
    bomb = zip_bomb(64 << 20)
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ImageUnreadable, match="unpacks to more than"):
            read(tmp_path, bomb)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_a_tile_that_is_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    body = served(compression="GZIP_1")
    pixels = np.zeros((250, 256), dtype=np.int16)
    table = fits.CompImageHDU(pixels, compression_type="GZIP_1", tile_shape=(1, 256))
    path = tmp_path / "t.fits"
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    bomb = gzip.compress(bytes(60 << 20), 9)
    with fits.open(path, disable_image_compression=True) as opened:
        start = opened[1].fileinfo()["datLoc"]
        pcount = opened[1].header["PCOUNT"]
    assert len(bomb) > pcount > 0
    with fits.open(tmp_path / "t.fits", disable_image_compression=True):
        own = body.index(b"XTENSION")
    header_end = body.index(b"END     ", own) // 2880 * 2880 + 2880
    rows = np.zeros((250, 2), dtype=">i4")
    rows[:, 0] = len(bomb)
    data = rows.tobytes() + bomb
    made = body[:header_end] + data.ljust(-(-len(data) // 2880) * 2880, b"\0")
    card = f"PCOUNT  = {len(bomb):>20}".encode()
    at = made.index(b"PCOUNT  =")
    made = made[:at] + card.ljust(80) + made[at + 80 :]
    assert start > 0
    tracemalloc.start()
    try:
        with pytest.raises(ImageUnreadable, match="unpacks to more than a tile"):
            read(tmp_path, made)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("keep", [0, 1, 80, 2879, 2880, 20_000, 40_000, -2880, -1])
def test_cut_files_are_refused(tmp_path, keep):
    with pytest.raises(ImageUnreadable, match="the file"):
        read(tmp_path, served()[:keep])
    with pytest.raises(ImageUnreadable, match="the file"):
        read(tmp_path, gzip.compress(served())[: keep if keep > 0 else keep - 20])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [0.6, 0.8, 0.9])
def test_a_file_whose_end_is_zeros_is_refused(tmp_path, kind, at):
    body = served(kind)
    cut = body[: int(at * len(body))].ljust(len(body), b"\0")
    with pytest.raises(ImageUnreadable, match=r"damaged|decoded"):
        read(tmp_path, cut, kind)


@pytest.mark.parametrize("body", [b"<html>", b"PK\3\4", b"\x1f\x8b", b"\x1f\x8b\x08" + b"\0" * 99])
def test_what_is_no_fits_is_refused(tmp_path, body):
    with pytest.raises(ImageUnreadable, match="the file"):
        read(tmp_path, body.ljust(2880, b" ") if body[:1] == b"<" else body)


@pytest.mark.parametrize("width", [1, 31, 32, 33, 256])
@pytest.mark.parametrize("spread", [0, 1, 30, 3000, 32000])
def test_the_length_of_a_rice_code_is_that_of_the_encoder(width, spread):
    drawn = np.random.default_rng(width + spread)
    rows = drawn.integers(-spread, spread + 1, (20, width)).astype(np.int16)
    table = fits.CompImageHDU(rows, compression_type="RICE_1", tile_shape=(1, width))
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(stream)
    stream.seek(0)
    with fits.open(stream, disable_image_compression=True, memmap=False) as opened:
        lengths = [len(row[0]) for row in opened[1].data]
    assert rice_bytes(rows).tolist() == lengths
