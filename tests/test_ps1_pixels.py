"""Pixels, masks and headers of Pan-STARRS1 against the formulae, astropy, and real stamps."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.errors import ImageUnreadable, UnknownName
from idfzarr.ps1 import headers, masks, pixels, skycell

# Real values: skycell 2381.062 in g, and a field in i.
G_BAND = {
    "BZERO": 3.454127907753,
    "BSCALE": 2.112995762387e-04,
    "BSOFTEN": 95.41472414983,
    "BOFFSET": 2.246295928955,
    "BLANK": 32767,
    "EXPTIME": 731.0,
    "FPA.ZP": 25.0,
}
I_BAND = G_BAND | {
    "BZERO": 3.632529139519,
    "BSCALE": 2.115535619667e-04,
    "BSOFTEN": 221.8863810555,
    "BOFFSET": 7.172080516815,
}


def by_hand(disk: int, cards: dict) -> float:
    """Follow the comments of the headers, in plain Python."""
    a = 1.0857362047581296
    v = cards["BZERO"] + cards["BSCALE"] * disk
    return cards["BOFFSET"] + cards["BSOFTEN"] * (math.exp(v / a) - math.exp(-v / a))


@pytest.mark.parametrize("cards", [G_BAND, I_BAND], ids=["g", "i"])
def test_every_integer_becomes_the_flux_of_the_formula(cards):
    scaling = pixels.Scaling.from_header(cards)
    disk = np.arange(-32768, 32768).astype(np.int16)
    flux = pixels.flux_of_disk(disk, scaling)
    assert flux.dtype == np.float64
    assert np.isnan(flux[-1])
    assert np.isfinite(flux[:-1]).all()
    assert (np.diff(flux[:-1]) > 0).all()
    for at in (0, 1, 16_000, 17_000, 32_768, 50_000, 65_534):
        dn = by_hand(at - 32768, cards)
        # AB magnitudes by astropy: 25 - 2.5 log10(DN/s).
        wanted = (abs(dn) / cards["EXPTIME"] * 10 ** (-0.4 * 25)) * (1 * u.ABflux).to_value(u.uJy)
        assert flux[at] == pytest.approx(math.copysign(wanted, dn), rel=1e-4)
        exact = dn / cards["EXPTIME"] * 10 ** (0.4 * (23.9 - 25))
        assert flux[at] == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<i4", "<f8"])
def test_the_table_of_values_changes_nothing(dtype):
    scaling = pixels.Scaling.from_header(I_BAND)
    disk = np.random.default_rng(1).integers(-32768, 32767, (50, 40)).astype(dtype)
    wanted = (
        pixels.dn_of_asinh(I_BAND["BZERO"] + I_BAND["BSCALE"] * disk.astype(np.float64), scaling)
        * scaling.microjansky_per_dn()
    )
    np.testing.assert_array_equal(pixels.flux_of_disk(disk, scaling), wanted)
    np.testing.assert_array_equal(pixels.flux_of_disk(disk[::2, ::-1], scaling), wanted[::2, ::-1])
    assert pixels.flux_of_disk(disk[0, 0], scaling) == wanted[0, 0]


@given(st.integers(-32768, 32766), st.sampled_from([G_BAND, I_BAND]))
def test_back_to_the_same_integer(disk, cards):
    scaling = pixels.Scaling.from_header(cards)
    flux = pixels.flux_of_disk(np.int16(disk), scaling)
    assert pixels.disk_of_asinh(pixels.asinh_of_flux(flux, scaling), scaling) == disk


@given(st.floats(-1e6, 1e6))
def test_counts_come_back(dn):
    scaling = pixels.Scaling.from_header(G_BAND)
    back = pixels.dn_of_asinh(pixels.asinh_of_dn(dn, scaling), scaling)
    assert float(back) == pytest.approx(dn, rel=1e-9, abs=1e-9)


def test_what_is_out_of_range_or_blank():
    scaling = pixels.Scaling.from_header(G_BAND)
    found = pixels.disk_of_asinh([np.nan, 1e9, -1e9, np.inf, -np.inf], scaling)
    assert found.tolist() == [32767, 32766, -32768, 32766, -32768]
    low = pixels.Scaling(blank=-32768)
    assert pixels.disk_of_asinh([np.nan, -1e9, 1e9], low).tolist() == [-32768, -32767, 32767]
    with pytest.raises(ImageUnreadable, match="1 pixels have no value"):
        pixels.disk_of_asinh([np.nan, 1.0], pixels.Scaling())


def test_values_that_astropy_has_scaled_already():
    disk = np.random.default_rng(2).integers(0, 20_000, (30, 30)).astype(np.int16)
    disk[3:5] = 32767
    hdu = fits.ImageHDU(disk)
    for name, value in G_BAND.items():
        hdu.header[name if name != "FPA.ZP" else "HIERARCH FPA.ZP"] = value
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
    # As in the file, then as astropy leaves the header once the pixels were looked at.
    with fits.open(io.BytesIO(stream.getvalue()), do_not_scale_image_data=True) as raw:
        whole = pixels.Scaling.from_header(raw[1].header)
        flux = pixels.flux_of_disk(raw[1].data, whole)
    with fits.open(io.BytesIO(stream.getvalue())) as scaled:
        values = scaled[1].data
        lost = pixels.Scaling.from_header(scaled[1].header)
    assert (whole.bscale, whole.blank) == (G_BAND["BSCALE"], 32767)
    assert (lost.bscale, lost.bzero) == (1.0, 0.0)
    assert np.isnan(flux[3:5]).all()
    np.testing.assert_allclose(pixels.flux_of_disk(values, lost), flux, rtol=1e-5)
    assert np.isfinite(flux[5:]).all()


def test_sigma_is_of_the_variance_with_its_own_softening():
    own = G_BAND | {"BSOFTEN": 11.5, "BOFFSET": 40.25, "BZERO": 4.0}
    scaling = pixels.Scaling.from_header(own)
    disk = np.array([-32768, -30_000, 0, 10_000, 32767], dtype=np.int16)
    sigma = pixels.sigma_of_disk(disk, scaling)
    variance = [by_hand(int(d), own) for d in disk]
    assert variance[0] < 0 < variance[2]
    assert np.isnan(sigma[[0, 4]]).all()
    for at in (2, 3):
        wanted = math.sqrt(variance[at]) / own["EXPTIME"] * 10 ** (0.4 * (23.9 - 25))
        assert sigma[at] == pytest.approx(wanted, rel=1e-12)
    other = pixels.sigma_of_disk(disk, pixels.Scaling.from_header(G_BAND))
    assert abs(other[2] / sigma[2] - 1) > 0.1


def test_linear_images_are_recognised():
    cut = {k: v for k, v in G_BAND.items() if k not in {"BSOFTEN", "BOFFSET"}}
    scaling = pixels.Scaling.from_header(cut)
    assert not scaling.asinh
    assert pixels.Scaling.from_header(G_BAND).asinh
    dn = cut["BZERO"] + cut["BSCALE"] * 1000
    wanted = dn / 731.0 * 10**-0.44
    assert float(pixels.flux_of_disk(np.int16(1000), scaling)) == pytest.approx(wanted, rel=1e-12)
    assert float(pixels.asinh_of_flux(wanted, scaling)) == pytest.approx(dn, rel=1e-12)
    assert pixels.Scaling.from_header(scaling.cards()) == scaling
    whole = pixels.Scaling.from_header(I_BAND)
    assert pixels.Scaling.from_header(whole.cards()) == whole


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"BSOFTEN": None}, "BOFFSET and no BSOFTEN"),
        ({"BOFFSET": None}, "BSOFTEN and no BOFFSET"),
        ({"BSOFTEN": 0.0}, "BSOFTEN is 0.0 and must be above 0"),
        ({"BSOFTEN": "much"}, "BSOFTEN = 'much', which is no finite number"),
        ({"BSCALE": 0}, "BSCALE is 0"),
        ({"BSCALE": 1e300}, "counts beyond all numbers"),
        ({"BZERO": math.nan}, "BZERO = 'nan'"),
        ({"EXPTIME": True}, "EXPTIME = 'True'"),
        ({"FPA.ZP": -0.0}, "FPA.ZP is -0.0"),
    ],
    ids=range(9),
)
def test_scalings_that_cannot_be_are_refused(change, sentence):
    cards = {k: v for k, v in (G_BAND | change).items() if v is not None}
    with pytest.raises(ImageUnreadable, match=sentence):
        pixels.Scaling.from_header(cards, where="r.fits")


@pytest.mark.parametrize("exptime", [None, 0.0, -3.0], ids=str)
def test_no_flux_without_exposure_time(exptime):
    scaling = pixels.Scaling(exptime=exptime)
    with pytest.raises(ImageUnreadable, match="EXPTIME is"):
        pixels.flux_of_disk(np.int16(3), scaling)


def test_mask_bits_of_the_survey():
    bits = masks.mask_bits()
    assert not bits.from_header
    assert (
        bits.bad
        == 8575
        == bits.value("DETECTOR", "FLAT", "DARK", "BLANK", "CTE", "SAT")
        | (bits.value("LOW", "CR", "CONV.BAD"))
    )
    attributes = bits.attributes()
    assert attributes["flag_masks"] == [1 << n for n in range(16)]
    meanings = attributes["flag_meanings"].split()
    assert len(meanings) == 16
    assert meanings[7] == "suspect_burntool"
    assert meanings[12] == "starcore"
    assert meanings[13] == "conv.bad"
    mask = np.array([0, 32, 4096, 8192, 32768, 65535], dtype=np.uint16)
    assert bits.where(mask).tolist() == [False, True, False, True, False, True]
    assert bits.where(mask, ["starcore"]).tolist() == [False, False, True, False, False, True]
    with pytest.raises(UnknownName, match="no mask bit 'STARCOR'; nearest: 'STARCORE'"):
        bits.value("STARCOR")


def test_mask_bits_of_a_header_come_first():
    header = {"MSKNAM00": "DEAD", "MSKVAL00": 4, "MSKNAM01": "HOT PIX", "MSKVAL01": 1}
    header |= {"MSKNAM02": "MASK.VALUE", "MSKVAL02": 5}
    header |= {"MSKNAM03": "HUGE", "MSKVAL03": 1 << 20, "MSKNAM04": "", "MSKVAL04": 8}
    bits = masks.mask_bits(header)
    assert bits.from_header
    assert bits.bad == 5
    assert bits.attributes() == {"flag_masks": [1, 4], "flag_meanings": "hot_pix dead"}
    assert bits.where([1, 2, 4]).tolist() == [True, False, True]
    assert masks.mask_bits({"MSKNUM": 18}) == masks.mask_bits()


# Cards in the manner of the archive: old matrix, no frame, long names, both blanks.
SERVED = [
    ("PSCAMERA", "GPC1"),
    ("SKYCELL", "skycell.1405.053"),
    ("CTYPE1", "RA---TAN"),
    ("CTYPE2", "DEC--TAN"),
    ("CRVAL1", 332.0),
    ("CRVAL2", 2.0),
    ("CRPIX1", 11760.0),
    ("CRPIX2", 242.0),
    ("CDELT1", 6.94444461259988e-05),
    ("CDELT2", 6.94444461259988e-05),
    ("PC001001", -1.0),
    ("PC001002", 0.0),
    ("PC002001", 0.0),
    ("PC002002", 1.0),
    ("HIERARCH FPA.ZP", 25.0),
    ("HIERARCH FPA.FILTER", "g.00000"),
    ("EXPTIME", 731.0),
    ("BSOFTEN", 95.41472414983),
    ("BOFFSET", 2.246295928955),
    ("ZPT_0001", 24.5),
    ("TTYPES", "not a card of the table"),
]


def compressed_file(extname="COMPRESSED_IMAGE"):
    """Make a compressed image with the archive's cards, and its pixels on disk."""
    disk = np.random.default_rng(3).integers(-3000, 3000, (40, 50)).astype(np.int16)
    disk[:3] = 32767
    hdu = fits.CompImageHDU(
        disk, compression_type="RICE_1", tile_shape=(1, 50), name=extname, quantize_level=0
    )
    for name, value in SERVED:
        hdu.header[name] = value
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
    # BSCALE, BZERO and BLANK go straight into the table's header: astropy would apply them.
    served = io.BytesIO()
    with fits.open(io.BytesIO(stream.getvalue()), disable_image_compression=True) as raw:
        head = raw[1].header
        head["BSCALE"], head["BZERO"], head["BLANK"] = 2.113e-4, 3.454, 32767
        head["ZBLANK"] = 32767
        raw.writeto(served)
    return served.getvalue(), disk


def test_cards_are_kept_to_the_byte():
    file, _ = compressed_file()
    found = headers.read_image_cards(io.BytesIO(file), where="r.fits")
    assert found.compressed
    assert found.index == 1
    assert len(found.image) > 40
    text = "".join(found.image) + "END".ljust(80)
    begin = file.index(b"XTENSION")
    assert file[begin : begin + len(text)] == text.encode()
    assert file[: 80 * len(found.primary)] == "".join(found.primary).encode()
    assert {len(card) for card in found.image} == {80}
    # Pixels of the table begin where the header's blocks end.
    assert found.offset == begin + -(-len(text) // 2880) * 2880


@pytest.mark.parametrize("extname", ["COMPRESSED_IMAGE", "SKY"])
def test_the_header_as_served_is_that_of_the_image(extname):
    file, disk = compressed_file(extname)
    found = headers.read_image_cards(io.BytesIO(file))
    made = headers.as_served(found.image)
    assert list(made)[:5] == ["SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2"]
    assert (made["BITPIX"], made["NAXIS1"], made["NAXIS2"]) == (16, 50, 40)
    assert (made["BSCALE"], made["BZERO"], made["BLANK"]) == (2.113e-4, 3.454, 32767)
    assert not [k for k in made if k.startswith(("Z", "TFORM", "TTYPE1")) and k != "ZPT_0001"]
    assert made["TTYPES"] == "not a card of the table"
    assert ("EXTNAME" in made) == (extname == "SKY")
    # Every card of the archive stands there with the bytes it came with.
    kept = {card.image for card in made.cards}
    ours = [c for c in found.image if c.startswith(("PC00", "HIERARCH", "CDELT", "BSOFT", "ZPT_"))]
    assert len(ours) == 10
    assert set(ours) <= kept
    # The image written with it is the image served, pixel for pixel, to astropy as well.
    plain_file = made.tostring().encode() + disk.astype(">i2").tobytes()
    plain_file += b"\0" * (-len(plain_file) % 2880)
    with fits.open(io.BytesIO(plain_file), do_not_scale_image_data=True) as plain:
        np.testing.assert_array_equal(plain[0].data, disk)
        assert plain[0].header["HIERARCH FPA.FILTER"] == "g.00000"
    with fits.open(io.BytesIO(file)) as theirs, fits.open(io.BytesIO(plain_file)) as plain:
        np.testing.assert_allclose(plain[0].data, theirs[1].data, rtol=1e-6)
        scaling = pixels.Scaling.from_header(made)
        flux = pixels.flux_of_disk(disk, scaling)
        wanted = pixels.flux_of_disk(
            theirs[1].data.astype(np.float64),
            pixels.Scaling(bsoften=scaling.bsoften, boffset=scaling.boffset, exptime=731.0),
        )
        np.testing.assert_allclose(flux, wanted, rtol=1e-5)
        assert np.isnan(flux[:3]).all()


def test_the_repaired_header_has_the_sky_of_the_grid():
    file, _ = compressed_file()
    served = headers.as_served(headers.read_image_cards(io.BytesIO(file)).image)
    before = served.tostring()
    made = headers.repaired(served)
    assert served.tostring() == before
    assert not [k for k in made if k.startswith("PC00")]
    assert [made[f"PC{i}_{j}"] for i in (1, 2) for j in (1, 2)] == [-1.0, 0.0, 0.0, 1.0]
    assert (made["RADESYS"], made["EQUINOX"], made["TIMESYS"]) == ("FK5", 2000.0, "TAI")
    assert headers.repaired(made).tostring() == made.tostring()
    wcs = WCS(made)  # in silence
    x, y = np.meshgrid([0, 3000, 6239], [0, 3000, 6242])
    ours = wcs.all_pix2world(x, y, 0)
    ra, dec = skycell.pixel_to_sky("1405.053", x, y)
    assert np.abs(ours[0] - ra).max() * 3.6e6 < 1  # milliarcseconds
    assert np.abs(ours[1] - dec).max() * 3.6e6 < 1
    with pytest.warns(FITSFixedWarning):
        old = WCS(served)
    np.testing.assert_allclose(old.all_pix2world(x, y, 0), ours, atol=1e-12)
    wanted = skycell.wcs_cards("1405.053")
    del wanted["LONPOLE"]
    cards = headers.wcs_cards_of(served)
    assert {k: cards[k] for k in wanted} == wanted
    assert set(cards) - set(wanted) == {"TIMESYS"}


def test_the_date_is_spelt_out():
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "MJD-OBS": 55377.3405080746})
    made = headers.repaired(header)
    assert made["DATE-OBS"] == "2010-06-30T08:10:19.898"  # as wcslib has it
    WCS(made, naxis=2)  # in silence
    assert "DATE-OBS" not in headers.repaired(fits.Header({"MJD-OBS": 1e9}))
    assert headers.repaired(fits.Header({"MJD-OBS": 5e4, "DATE-OBS": "x"}))["DATE-OBS"] == "x"


def test_values_beyond_all_numbers_are_none():
    scaling = pixels.Scaling.from_header({k: G_BAND[k] for k in ("BSOFTEN", "BOFFSET", "EXPTIME")})
    flux = pixels.flux_of_disk(np.array([1.0, 1e4, -1e4, np.inf, np.nan]), scaling)
    assert np.isfinite(flux).tolist() == [True, False, False, False, False]
    assert np.isnan(flux[1:]).all()


def test_at_the_pole_the_repaired_header_holds_north_up():
    cards = skycell.wcs_cards("2643.000")
    del cards["LONPOLE"], cards["RADESYS"]
    header = headers.repaired(fits.Header(cards))
    assert header["LONPOLE"] == 180.0
    middle = WCS(header).all_pix2world(3119.5, 3119.5, 1)
    assert float(middle[0]) == pytest.approx(44.9994473839998, abs=1e-6)


def test_a_linear_header_has_no_scale_left():
    file, _ = compressed_file()
    served = headers.as_served(headers.read_image_cards(io.BytesIO(file)).image)
    made = headers.linear(headers.repaired(served))
    assert not {"BSCALE", "BZERO", "BLANK", "BSOFTEN", "BOFFSET"} & set(made)
    assert (made["BITPIX"], made["BUNIT"]) == (-32, "uJy")
    assert made["FPA.FILTER"] == "g.00000"
    assert "BSOFTEN" in served


def test_an_image_in_the_first_hdu():
    stream = io.BytesIO()
    fits.PrimaryHDU(np.zeros((5, 6), np.int16)).writeto(stream)
    found = headers.read_image_cards(io.BytesIO(stream.getvalue()))
    assert (found.index, found.primary, found.compressed) == (0, (), False)
    assert found.offset == 2880
    assert headers.as_served(found.image)["NAXIS1"] == 6


def hostile():
    file, _ = compressed_file()
    first, second = file[:2880], file[2880:]
    return {
        "empty": (b"", "is not FITS"),
        "page": (b"<html>" + b" " * 6000, "is not FITS: it begins with b'<html>"),
        "cut": (file[:3000], "ends within a header"),
        "binary": (first[:800] + b"\xff\x00" + first[802:] + second, "no text"),
        "endless": (b"SIMPLE  =                    T".ljust(80) + b" " * 2880 * 300, "more than"),
        "no image": (first, "ends within a header"),
        "axes": (
            first.replace(b"NAXIS   =                    0", b"NAXIS   =                  999")
            + second,
            "999 axes|NAXIS1",
        ),
        "negative": (
            first.replace(b"NAXIS   =                    0", b"NAXIS   =                   -2")
            + second,
            "NAXIS = '-2'",
        ),
        "words": (
            first.replace(b"NAXIS   =                    0", b"NAXIS   = 'a lot'             ")
            + second,
            "NAXIS = 'a lot'",
        ),
    }


@pytest.mark.parametrize("case", list(hostile()))
def test_hostile_files_are_refused(case):
    file, sentence = hostile()[case]
    with pytest.raises(ImageUnreadable, match=sentence):
        headers.read_image_cards(io.BytesIO(file), where="r.fits")


@pytest.mark.parametrize(
    ("cards", "sentence"),
    [
        (["SIMPLE  =                    T"], "describe no image"),
        (["BITPIX  =                   16", "NAXIS   =                    3"], "describe no image"),
        (["ZIMAGE  =                    T", "BITPIX  =                    8"], "ZBITPIX = 'None'"),
    ],
    ids=["none", "cube", "table"],
)
def test_cards_of_no_image_are_refused(cards, sentence):
    with pytest.raises(ImageUnreadable, match=sentence):
        headers.as_served(cards)


def test_cards_that_cannot_be_read_are_kept_and_are_no_numbers():
    cards = [
        "SIMPLE  =                    T",
        "BITPIX  =                   16",
        "NAXIS   =                    2",
        "NAXIS1  =                    4",
        "NAXIS2  =                    4",
        "BSCALE  = 0x10 garbage ' here",
        "NOTACARD",
        "COMMENT  words",
    ]
    made = headers.as_served([c.ljust(80) for c in cards])
    assert "BSCALE" in made
    assert pixels.Scaling.from_header(made).bscale == 1.0
    assert headers.repaired(made)["TIMESYS"] == "TAI"


def stamps(data_folder):
    found = sorted((data_folder / "ps1_warp_stamps").glob("*_sci.fits"))
    if not found:
        pytest.skip(f"real data absent: no stamps in {data_folder / 'ps1_warp_stamps'}")
    return found


def test_real_stamps(data_folder):
    for path in stamps(data_folder):
        raw = path.read_bytes()
        found = headers.read_image_cards(io.BytesIO(raw), where=path.name)
        assert "".join(found.image).encode() == raw[: 80 * len(found.image)]
        header = headers.as_served(found.image)
        assert header["HIERARCH FPA.TELESCOPE"] == "PS1"
        scaling = pixels.Scaling.from_header(header, where=path.name)
        assert not scaling.asinh
        assert 23 < scaling.zero_point < 26
        bits = masks.mask_bits(header)
        assert bits.from_header
        assert bits.names == masks.SURVEY_BITS
        made = headers.repaired(header)
        wcs = WCS(made)
        ra, dec = wcs.all_pix2world(header["CRPIX1"], header["CRPIX2"], 1)
        assert float(ra) == pytest.approx(213.94267, abs=1e-9)
        assert float(dec) == pytest.approx(11.4954, abs=1e-9)
        values = np.frombuffer(raw, ">f8", 49 * 49, found.offset).reshape(49, 49)
        variance = path.with_name(path.name.replace("_sci", "_var"))
        cards = headers.read_image_cards(io.BytesIO(variance.read_bytes()))
        noise = np.frombuffer(variance.read_bytes(), ">f8", 49 * 49, cards.offset)
        flux = pixels.flux_of_disk(values, scaling)
        sigma = pixels.sigma_of_disk(
            noise.reshape(49, 49), pixels.Scaling.from_header(headers.as_served(cards.image))
        )
        # The quasar of the stamps, H1413+117, is of magnitude 17 (Magain et al. 1988).
        sky = np.nanmedian(flux)
        magnitude = 23.9 - 2.5 * np.log10(np.nansum(flux - sky))
        assert 16 < magnitude < 18.5
        blank = np.nanstd(np.clip(flux - sky, -5 * np.nanmedian(sigma), 2 * np.nanmedian(sigma)))
        assert 0.3 < blank / np.nanmedian(sigma) < 3
