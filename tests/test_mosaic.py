"""Discovery by name, reading of FITS files, honest and hostile, and times from headers."""

from __future__ import annotations

import gzip
import hashlib
import math
import pickle
import re

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.errors import (
    AorTableError,
    DuplicateMosaic,
    ImageMissing,
    ImageShape,
    ImageUnreadable,
    UsageError,
)
from idfzarr.imaging.fits_image import card_number, read_image
from idfzarr.imaging.header_time import exposure_time
from idfzarr.imaging.mosaic import (
    IRAC_FATAL_BITS,
    MosaicFiles,
    check_kinds,
    discover,
    read_header,
    read_mosaic,
    require_times,
    source_digest,
)

XO3 = {
    "pattern": "SPITZER_I2_46466816_{aor}_0000_2_{kind}.fits",
    "kinds": {"sci": "sub2d", "unc": "unc2d", "cov": "cov2d", "mask": "msk2d"},
}


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def write(path, values, **cards):
    fits.PrimaryHDU(np.asarray(values), fits.Header(cards)).writeto(path)
    return path


def of(sci, **others):
    return MosaicFiles("gr1", "ch1", {"sci": sci, **others})


@pytest.fixture
def pixels():
    return np.random.default_rng(1).normal(5, 1, (30, 40)).astype(np.float32)


# --- discovery ---------------------------------------------------------------------------------


def test_default_names_are_found_in_natural_order_and_derived_files_are_not(tmp_path):
    touch(
        tmp_path,
        "IDF_gr10_ch1_sci.fits",
        "IDF_gr2_ch2_sci.fits.gz",
        "deep/er/IDF_gr2_ch1_sci.fits",
        "IDF_gr2_ch2_unc.fits",
        "IDF_gr2_ch1_cov.fits.fz",
        "IDF_gr2_ch1_sci_clean.fits",
        "IDF_gr2_ch1_sci_div.fits",
        "xIDF_gr2_ch1_sci.fits",
        "IDF_gr2_ch1_sci.fits.bak",
        "IDF_gr2_ch1_std.fits",
        "coadd_ch1.fits",
    )
    found = discover(tmp_path)
    assert [(f.aor, f.channel, sorted(f.paths)) for f in found] == [
        ("gr2", "ch1", ["cov", "sci"]),
        ("gr2", "ch2", ["sci", "unc"]),
        ("gr10", "ch1", ["sci"]),
    ]
    assert found[0].sci == tmp_path / "deep/er/IDF_gr2_ch1_sci.fits"
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_pattern_is_literal_but_for_its_fields(tmp_path):
    touch(tmp_path, "a[1]*_x+y.fits", "a1b_x.fits", "a[1]*_x+y.fits.gz")
    (found,) = discover(tmp_path, pattern="a[1]*_{aor}.fits", channel="R")
    assert (found.aor, found.channel) == ("x+y", "R")
    # With a slash the path below the folder is matched.
    touch(tmp_path, "gr7/ch2/image.fits")
    (found,) = discover(tmp_path, pattern="{aor}/{channel}/image.fits")
    assert (found.aor, found.channel) == ("gr7", "ch2")


def test_a_channel_given_with_a_channel_field_selects(tmp_path):
    touch(tmp_path, "IDF_gr1_ch1_sci.fits", "IDF_gr1_ch2_sci.fits")
    assert [f.channel for f in discover(tmp_path, channel="ch2")] == ["ch2"]
    with pytest.raises(ImageMissing, match=r"in channel ch3.*IDF_gr1_ch1_sci\.fits"):
        discover(tmp_path, channel="ch3")


names = st.from_regex(r"[A-Za-z0-9.+-]{1,12}", fullmatch=True)
literals = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="/{}\0"),
    min_size=1,
    max_size=8,
)


@given(aor=names, channel=st.from_regex(r"[a-z][a-z0-9]{0,4}", fullmatch=True), word=literals)
def test_any_name_made_from_a_pattern_is_taken_apart_again(tmp_path_factory, aor, channel, word):
    folder = tmp_path_factory.mktemp("names")
    pattern = f"{word}_{{channel}}_{{kind}}__{{aor}}.fits"
    name = f"{word}_{channel}_sub2d__{aor}.fits"
    try:
        (folder / name).touch()
    except OSError:
        return  # not a name on this file system
    (found,) = discover(folder, pattern=pattern, kinds={"sci": "sub2d"})
    assert (found.aor, found.channel, found.sci.name) == (aor, channel, name)
    # and nothing longer or shorter is taken for it
    with pytest.raises(ImageMissing, match="none matches"):
        discover(folder, pattern=pattern + "x", kinds={"sci": "sub2d"})


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("IDF_{channel}.fits", r"put \{aor\} there"),
        ("{aor}_{colour}.fits", r"has \{colour\}; fields are"),
        ("{aor}_{.fits", "brace without its other half"),
        ("{aor}}.fits", "brace without its other half"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused(tmp_path, pattern, sentence):
    with pytest.raises(UsageError, match=sentence):
        discover(tmp_path, pattern=pattern)


@pytest.mark.parametrize(
    ("kinds", "sentence"),
    [
        ({"unc": "u"}, "how sci images are called"),
        ({"sci": "a", "cov": "a"}, "one word to two kinds"),
        ({"sci": "a", "covv": "b"}, "no kind of image.*nearest: 'cov'"),
    ],
)
def test_kinds_that_cannot_be_are_refused(tmp_path, kinds, sentence):
    with pytest.raises(UsageError, match=sentence):
        discover(tmp_path, kinds=kinds)


def test_nothing_found_says_what_is_there(tmp_path):
    with pytest.raises(ImageMissing, match="no FITS file at all"):
        discover(tmp_path)
    with pytest.raises(ImageMissing, match="nowhere: it does not exist"):
        discover(tmp_path / "nowhere")
    touch(tmp_path, "HATP-1.FITS.gz", "HATP-2.FITS.gz", "notes.txt")
    with pytest.raises(ImageMissing, match=r"of its 2 FITS files none.*'HATP-1\.FITS\.gz'"):
        discover(tmp_path)
    with pytest.raises(ImageMissing, match=r"notes\.txt: it is not a folder"):
        discover(tmp_path / "notes.txt")


def test_two_files_for_one_mosaic_are_named(tmp_path):
    touch(tmp_path, "a/IDF_gr1_ch1_sci.fits", "b/IDF_gr1_ch1_sci.fits.gz")
    with pytest.raises(DuplicateMosaic, match=r"a/IDF_gr1_ch1_sci\.fits and .*b/IDF_gr1_ch1_sci"):
        discover(tmp_path)


def test_unc_without_sci_is_named(tmp_path):
    touch(tmp_path, "IDF_gr1_ch1_sci.fits", "IDF_gr2_ch1_unc.fits")
    with pytest.raises(ImageMissing, match=r"gr2 in ch1 has no sci.*IDF_gr2_ch1_unc\.fits"):
        discover(tmp_path)


def test_a_channel_that_no_type_can_carry_is_refused(tmp_path):
    touch(tmp_path, "gr1_3.6_sci.fits")
    with pytest.raises(UsageError, match=r"'3\.6' cannot be a channel"):
        discover(tmp_path, pattern="{aor}_{channel}_{kind}.fits")


def test_links_in_a_loop_end_and_linked_folders_are_searched_once(tmp_path):
    real, field = tmp_path / "real", tmp_path / "field"
    touch(real, "IDF_gr1_ch1_sci.fits")
    field.mkdir()
    (field / "linked").symlink_to(real)
    (real / "back").symlink_to(field)
    assert [f.aor for f in discover(field)] == ["gr1"]


def test_a_kind_that_some_mosaics_lack_is_reported_for_each(tmp_path):
    touch(tmp_path, *(f"IDF_gr{n}_ch1_sci.fits" for n in (1, 2, 3)))
    assert check_kinds(discover(tmp_path)) == ()
    touch(tmp_path, "IDF_gr2_ch1_unc.fits", "IDF_gr1_ch1_cov.fits", "IDF_gr2_ch1_cov.fits")
    missing = check_kinds(discover(tmp_path))
    assert [(m.aor, m.kind) for m in missing] == [
        ("gr1", "missing_unc"),
        ("gr3", "missing_unc"),
        ("gr3", "missing_cov"),
    ]
    assert "IDF_gr1_ch1_sci.fits" in missing[0].reason
    allowed = check_kinds(discover(tmp_path), allow_missing_unc=True)
    assert [(m.aor, m.kind) for m in allowed] == [("gr3", "missing_cov")]


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8", "f4", "f8", "u2", "u4"])
def test_every_pixel_type_reads_as_astropy_reads_it(tmp_path, dtype):
    values = np.random.default_rng(2).integers(0, 200, (7, 9)).astype(dtype)
    image = read_image(write(tmp_path / "a.fits", values))
    np.testing.assert_array_equal(image.values, fits.getdata(tmp_path / "a.fits"))
    assert image.values.dtype.isnative
    assert image.integer == (dtype[0] != "f")


def test_scaled_integers_and_blanks(tmp_path):
    hdu = fits.PrimaryHDU(np.arange(20, dtype=np.int16).reshape(4, 5))
    hdu.header["BLANK"] = 3
    hdu.writeto(tmp_path / "a.fits")
    raw = (tmp_path / "a.fits").read_bytes()
    # BSCALE and BZERO written by hand: astropy would rescale the pixels.
    cards = b"".join(c.ljust(80) for c in (b"BSCALE  =  0.5", b"BZERO   =  10.0"))
    (tmp_path / "a.fits").write_bytes(
        raw.replace(b"END".ljust(80) + b" " * 160, cards + b"END".ljust(80), 1)
    )
    mosaic = read_mosaic(of(tmp_path / "a.fits"))
    assert mosaic.sci.dtype == np.float32
    assert mosaic.bad.sum() == 1
    assert mosaic.bad[0, 3]
    assert mosaic.sci[1, 0] == 12.5


@pytest.mark.parametrize("form", ["plain", "gzip", "tiles", "extension", "degenerate"])
def test_all_containers_give_the_same_pixels(tmp_path, pixels, form):
    path = tmp_path / "a.fits"
    primary, image = fits.PrimaryHDU(), fits.ImageHDU(pixels, name="SCI")
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1, 2])])
    if form == "tiles":
        path = tmp_path / "a.fits.fz"
        packed = fits.CompImageHDU(pixels, compression_type="GZIP_2", quantize_level=0)
        fits.HDUList([primary, packed]).writeto(path)
    elif form == "extension":
        fits.HDUList([primary, table, image]).writeto(path)
    else:
        write(path, pixels[None] if form == "degenerate" else pixels)
    if form == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_mosaic(of(path)).sci, pixels)
    assert read_header(of(path)).shape == pixels.shape


def test_a_file_cut_anywhere_is_unreadable(tmp_path, pixels):
    whole = write(tmp_path / "whole.fits", pixels).read_bytes()
    cut = tmp_path / "cut.fits"
    offsets = [0, 1, 79, 80, 2879, 2880, 2881, 5000, len(whole) - 2880, len(whole) - 1]
    for offset in [*offsets, *range(0, len(whole), 397)]:
        cut.write_bytes(whole[:offset])
        with pytest.raises(ImageUnreadable, match=r"cut\.fits cannot be read as a FITS image"):
            read_mosaic(of(cut))
    cut.write_bytes(whole)
    assert not read_mosaic(of(cut)).bad.any()


def test_a_gzip_cut_or_damaged_anywhere_is_unreadable(tmp_path, pixels):
    whole = gzip.compress(write(tmp_path / "whole.fits", pixels).read_bytes())
    cut = tmp_path / "cut.fits.gz"
    for offset in [*range(2, len(whole) - 1, 211), len(whole) - 1, len(whole) - 8]:
        cut.write_bytes(whole[:offset])
        with pytest.raises(ImageUnreadable, match=r"cut\.fits\.gz cannot be (read|unpacked)"):
            read_mosaic(of(cut))
    for offset in range(len(whole) // 2, len(whole) - 4, 311):
        flipped = bytearray(whole)
        flipped[offset] ^= 16
        cut.write_bytes(flipped)
        with pytest.raises(ImageUnreadable, match=r"cut\.fits\.gz cannot be (read|unpacked)"):
            read_mosaic(of(cut))


def test_a_tile_compressed_file_cut_anywhere_is_unreadable(tmp_path, pixels):
    path = tmp_path / "whole.fits.fz"
    packed = fits.CompImageHDU(pixels, compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
    whole, cut = path.read_bytes(), tmp_path / "cut.fits.fz"
    for offset in range(0, len(whole), 977):
        cut.write_bytes(whole[:offset])
        with pytest.raises(ImageUnreadable, match=r"cut\.fits\.fz cannot be read"):
            read_mosaic(of(cut))


def header_of(**cards):
    lines = [f"{key:<8}= {value:>20}" for key, value in cards.items()]
    text = "".join(line.ljust(80) for line in ["SIMPLE  =                    T", *lines, "END"])
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("cards", "sentence"),
    [
        ({"BITPIX": -64, "NAXIS": 2, "NAXIS1": 10**6, "NAXIS2": 10**6}, "cannot hold them"),
        ({"BITPIX": 8, "NAXIS": 2, "NAXIS1": -5, "NAXIS2": 5}, "lengths of its axes"),
        ({"BITPIX": 8, "NAXIS": 2, "NAXIS1": "'a'", "NAXIS2": 5}, "lengths of its axes"),
        ({"BITPIX": 8, "NAXIS": 2, "NAXIS1": 2.5, "NAXIS2": 5}, "lengths of its axes"),
        ({"BITPIX": 8, "NAXIS": 99999}, "NAXIS is 99999"),
        ({"BITPIX": 7, "NAXIS": 2, "NAXIS1": 5, "NAXIS2": 5}, "BITPIX is 7"),
        ({"BITPIX": 8, "NAXIS": 1, "NAXIS1": 5}, r"found HDU 0 PRIMARY with axes \(5,\)"),
        ({"BITPIX": 8, "NAXIS": 3, "NAXIS1": 5, "NAXIS2": 5, "NAXIS3": 2}, r"axes \(5, 5, 2\)"),
        ({"BITPIX": 8, "NAXIS": 0}, "axes none"),
        ({"BITPIX": 8}, "NAXIS is nan"),
        ({"BITPIX": 8, "NAXIS": 2, "NAXIS1": 5, "NAXIS2": 5, "PCOUNT": -9}, "PCOUNT is -9"),
        ({"BITPIX": 8, "NAXIS": 2, "NAXIS1": 5, "NAXIS2": 5, "BSCALE": 0.0}, "BSCALE is 0"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, cards, sentence, packed):
    raw = header_of(**cards) + bytes(2880)
    path = tmp_path / "lie.fits"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(ImageUnreadable, match=rf"lie\.fits cannot be read.*{sentence}"):
        read_mosaic(of(path))


def test_a_gzip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    import tracemalloc

    side = 17_000  # beyond the largest image, and small when packed
    path = tmp_path / "bomb.fits.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(header_of(BITPIX=8, NAXIS=2, NAXIS1=side, NAXIS2=side))
        for _ in range(side * side // 2**20 + 1):
            stream.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(ImageUnreadable, match="17000 x 17000 pixels, more than"):
        read_mosaic(of(path))
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n" + bytes(5000), "it starts with b'.x89PNG"),
        (b"SIMPLE  =                    T".ljust(80) * 36 * 3, "truncated within a header"),
    ],
)
def test_what_is_not_fits_is_said_so(tmp_path, content, sentence):
    (tmp_path / "x.fits").write_bytes(content)
    with pytest.raises(ImageUnreadable, match=sentence):
        read_mosaic(of(tmp_path / "x.fits"))


@given(noise=st.binary(min_size=1, max_size=200), at=st.integers(0, 2879))
def test_a_header_with_noise_in_it_reads_or_is_refused(tmp_path_factory, noise, at):
    path = tmp_path_factory.mktemp("noise") / "n.fits"
    raw = bytearray(header_of(BITPIX=-32, NAXIS=2, NAXIS1=6, NAXIS2=5, MJDOBS=5) + bytes(2880))
    raw[at : at + len(noise)] = noise[: 2880 - at]
    path.write_bytes(raw)
    try:
        mosaic = read_mosaic(of(path))
    except ImageUnreadable:
        return
    assert mosaic.sci.size > 0


def test_a_missing_file_and_an_image_without_a_finite_pixel(tmp_path):
    with pytest.raises(ImageMissing, match=r"gone\.fits cannot be read: No such file"):
        read_mosaic(of(tmp_path / "gone.fits"))
    path = write(tmp_path / "nan.fits", np.full((5, 6), np.nan, np.float32))
    with pytest.raises(ImageUnreadable, match=r"nan\.fits holds no finite pixel: all 30"):
        read_mosaic(of(path))


def test_shapes_that_differ_name_both_files(tmp_path, pixels):
    sci = write(tmp_path / "sci.fits", pixels)
    unc = write(tmp_path / "unc.fits", pixels[:, 1:])
    with pytest.raises(ImageShape, match=r"sci\.fits is 30 x 40 and .*unc\.fits is 30 x 39"):
        read_mosaic(of(sci, unc=unc))


def test_bad_pixels_come_from_every_kind(tmp_path, pixels):
    sci, unc, cov = pixels.copy(), np.ones_like(pixels), np.ones_like(pixels)
    mask = np.zeros(pixels.shape, np.int16)
    sci[0, 0], sci[0, 1] = np.nan, np.inf
    unc[1, 0], unc[1, 1], unc[1, 2] = np.nan, 0, -1
    cov[2, 0], cov[2, 1] = 0, np.nan
    mask[3, 0], mask[3, 1] = 1, 64
    kinds = {"unc": unc, "cov": cov, "mask": mask}
    paths = {k: write(tmp_path / f"{k}.fits", v) for k, v in kinds.items()}
    mosaic = read_mosaic(of(write(tmp_path / "sci.fits", sci), **paths))
    expected = {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (3, 1)}
    assert {(int(y), int(x)) for y, x in np.argwhere(mosaic.bad)} == expected
    with_bits = read_mosaic(of(tmp_path / "sci.fits", **paths), mask_bits=64)
    assert {(int(y), int(x)) for y, x in np.argwhere(with_bits.bad)} == expected - {(3, 0)}


def test_irac_masks_use_the_fatal_bits_and_plain_ones_do_not(tmp_path, pixels):
    sci = write(tmp_path / "sci.fits", pixels, INSTRUME="IRAC")
    values = np.zeros(pixels.shape, np.int16)
    values.flat[:15] = 1 << np.arange(15)
    mask = write(tmp_path / "mask.fits", values)
    mosaic = read_mosaic(of(sci, mask=mask))
    assert np.flatnonzero(mosaic.bad).tolist() == [3, *range(8, 15)]
    assert sum(1 << k for k in [3, *range(8, 15)]) == IRAC_FATAL_BITS
    assert np.flatnonzero(mosaic.saturated).tolist() == [13]
    # A mask of zeros and ones means what it says, IRAC or not.
    plain = write(tmp_path / "plain.fits", (values == 4).astype(np.int16))
    assert np.flatnonzero(read_mosaic(of(sci, mask=plain)).bad).tolist() == [2]


def test_numbers_beyond_float32_are_bad_and_make_no_noise(tmp_path, pixels):
    values = pixels.astype(np.float64)
    values[0, 0] = 1e300
    assert np.flatnonzero(read_mosaic(of(write(tmp_path / "a.fits", values))).bad).tolist() == [0]


def test_saturation_from_the_header_and_from_the_converter(tmp_path):
    counts = np.random.default_rng(3).integers(0, 1000, (20, 20)).astype(np.int16)
    counts[4, 4:7] = 4095
    assert read_mosaic(of(write(tmp_path / "a.fits", counts))).saturated.sum() == 3
    from_card = read_mosaic(of(write(tmp_path / "b.fits", counts, SATURATE=900.0)))
    np.testing.assert_array_equal(from_card.saturated, counts >= 900)
    counts[4, 4:7] = 3000
    assert read_mosaic(of(write(tmp_path / "c.fits", counts))).saturated is None


def test_a_broken_wcs_is_named(tmp_path, pixels):
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 1.0, "CRVAL2": 2.0}
    singular = {"CD1_1": 0.0, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.0}
    path = write(tmp_path / "a.fits", pixels, **cards, **singular)
    with pytest.raises(ImageUnreadable, match=r"the WCS in the header of .*a\.fits cannot be used"):
        read_header(of(path))


def test_the_digest_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert source_digest(tmp_path / "a") == (3000, hashlib.sha256(b"abc" * 1000).hexdigest())
    with pytest.raises(ImageMissing, match="gone cannot be read"):
        source_digest(tmp_path / "gone")


# --- times -------------------------------------------------------------------------------------


def mid(**cards):
    return exposure_time(fits.Header({k.replace("_", "-"): v for k, v in cards.items()}))


def test_the_finest_card_wins_where_the_coarser_agrees():
    # UT-OBS to a millisecond; MJD-OBS is rounded to 86 seconds.
    time = mid(UT_OBS="2017-12-20T01:33:43.317-0000", MJD_OBS=58107.065, EXPTIME=60.0)
    truth = Time("2017-12-20T01:34:13.317", scale="utc").mjd
    assert abs(time.mjd - truth) * 86400 < 1e-3


def test_local_time_without_a_zone_loses_to_an_mjd():
    time = mid(DATE_OBS="2017-12-19T18:33:43.317", MJD_OBS=58107.065)
    assert time.mjd == 58107.065


@pytest.mark.parametrize(
    ("cards", "mjd"),
    [
        ({"DATE_OBS": "2017-12-19T18:33:43-07:00"}, 58107 + 5623 / 86400),
        ({"DATE_OBS": "2017-12-20T01:33:43Z"}, 58107 + 5623 / 86400),
        ({"DATE_OBS": "2017-12-20", "TIME_OBS": "01:33:43"}, 58107 + 5623 / 86400),
        ({"DATE_AVG": "2017-12-20T12:00:00", "DATE_OBS": "2017-12-20T00:00:00"}, 58107.5),
        ({"MJD_OBS": 58107.0, "EXPTIME": 8640.0}, 58107.05),
        ({"MJD_OBS": 58107.1234, "MJD_END": 58107.3234, "EXPTIME": 864.0}, 58107.2234),
        ({"MJD_OBS": 58107.5, "TIMESYS": "TT"}, 58107.5 - 69.184 / 86400),
        ({"DATE_OBS": "2017-12-20"}, math.nan),
        ({"DATE_OBS": "2017-13-45T01:33:43"}, math.nan),
        ({"DATE_OBS": "nonsense", "MJD_OBS": "x"}, math.nan),
        ({"MJD_OBS": -1.0}, math.nan),
        ({}, math.nan),
    ],
)
def test_times(cards, mjd):
    # 1e-9 day is 0.1 ms; nan_ok because no time must stay no time.
    assert mid(**cards).mjd == pytest.approx(mjd, abs=1e-9, nan_ok=True)


def test_without_times_the_first_file_is_named(tmp_path, pixels):
    header = read_header(of(write(tmp_path / "a.fits", pixels)))
    assert math.isnan(header.mjd)
    with pytest.raises(AorTableError, match=r"a\.fits \(and 1 more\) says no time"):
        require_times([header, header])


# --- real frames -------------------------------------------------------------------------------


def test_real_optical_frames(data_folder):
    found = discover(data_folder / "hatp32_142_epochs", pattern="HATP-32{aor}.FITS.gz")
    assert len(found) == 142
    headers = [read_header(files) for files in found]
    require_times(headers)
    for files, header in zip(found, headers, strict=True):
        # The file's name is the start in UTC, cut to a second; the exposure lasts 62 s.
        year, month, day, hour, minute, second = re.findall("..", files.aor)
        start = Time(f"20{year}-{month}-{day}T{hour}:{minute}:{second}").mjd
        assert 30 < (header.mjd - start) * 86400 < 33
    assert headers[0].wcs is None
    assert headers[0].pixel_scale == 5.21
    assert headers[0].exptime == 60
    mosaic = read_mosaic(found[0])
    assert mosaic.sci.shape == (500, 650)
    assert not mosaic.bad.any()
    assert mosaic.saturated.sum() == (mosaic.sci == 4095).sum() == 166


def test_real_irac_frames(data_folder):
    found = discover(data_folder / "irac_bcd_xo3", **XO3)
    assert [files.aor for files in found] == [f"{k:04d}" for k in range(11)]
    assert check_kinds(found) == ()
    for files in found:
        mosaic, header = read_mosaic(files), read_header(files)
        raw = fits.getheader(files.sci)
        # 64 subframes: the integration lasts 126 s, not EXPTIME.
        start = Time(raw["MJD_OBS"], format="mjd", scale="utc")
        assert (header.mjd - start.mjd) * 86400 == pytest.approx(62.98, abs=0.01)
        assert (header.unit, header.reqkey, header.filter) == ("MJy/sr", 46466816, "ch2")
        assert header.pixel_scale == pytest.approx(1.209, abs=0.001)
        assert mosaic.bad.sum() == 31
        assert np.isnan(mosaic.sci[~mosaic.bad]).sum() == 0


def test_spitzer_barycentric_time_against_the_spacecraft_s_position(data_folder):
    # Truth from the header's own heliocentric position of the telescope: light travel time to the
    # Sun, which the barycentre is at most 5 s away from, on top of TDB, which ET_OBS gives.
    files = discover(data_folder / "irac_bcd_xo3", **XO3)[0]
    raw = fits.getheader(files.sci)
    position = np.array([raw[f"SPTZR_{axis}"] for axis in "XYZ"])
    ra, dec = np.radians([raw["CRVAL1"], raw["CRVAL2"]])
    star = np.array([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
    travel = position @ star / 299792.458
    truth = 2451545.0 + (raw["ET_OBS"] + 62.98 + travel) / 86400
    assert abs(read_header(files).bjd_tdb - truth) * 86400 < 5


def test_real_masks_and_stamps_of_other_instruments(data_folder):
    stamps = sorted((data_folder / "ps1_warp_stamps").glob("*_sci.fits"))
    assert stamps
    for path in stamps:
        header = read_header(of(path))
        assert header.shape == (49, 49)
        # The name carries the MJD of the exposure.
        assert abs(header.mjd - float(re.search(r"_(5\d{4}\.\d+)_", path.name)[1])) < 1e-3


def test_card_number_reads_text_and_refuses_what_is_no_number():
    header = fits.Header({"A": "12.5 ", "B": "x", "C": True, "D": 7})
    assert card_number(header, "A") == 12.5
    assert card_number(header, "MISSING", "B", "C", "D") == 7
    assert math.isnan(card_number(header, "B"))
