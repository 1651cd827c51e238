"""Cutouts against the pixels of the survey that they are made of, across every kind of border."""

from __future__ import annotations

import io

import numpy as np
import pytest
from astropy.io import fits
from old_skycells import make_store

from idfzarr.care.cutout import cut_out
from idfzarr.care.cutout_png import picture
from idfzarr.errors import ChunkCorrupt, UnknownName, UsageError
from idfzarr.ps1 import skycell
from idfzarr.ps1.pixels import Scaling, flux_of_disk
from idfzarr.testing.ps1_files import PS1Sky, disk_pixels


def read_png(data):
    from matplotlib.image import imread

    return (imread(io.BytesIO(data), format="png")[..., :3] * 255).round().astype(int)


@pytest.fixture(scope="module")
def border(tmp_path_factory):
    """Two skycells of one projection cell whose images end within the cutout."""
    ra, dec = (float(v) for v in skycell.pixel_to_sky("skycell.1405.053", 240.0, 3000.0))
    sky = PS1Sky(seed=1, size=(300, 290), around=(ra, dec))
    names = ("skycell.1405.052", "skycell.1405.053")
    store = make_store(
        tmp_path_factory.mktemp("cutout") / "s.zarr", sky, names, bands="gri", kinds=("image",)
    )
    make_store(store.place.root, sky, names, bands="r", kinds=("mask", "weight"))
    return store, sky, ra, dec


def flux_of(store, name, band="r"):
    scaling = Scaling.from_header(store.attributes(name, band, "image")["scale"])
    return flux_of_disk(store.read(name, band, "image"), scaling).astype(np.float32)


def test_pixels_are_those_of_the_survey(border):
    store, _, ra, dec = border
    made = cut_out(store, ra, dec, 20.0, bands="r")
    assert made.shape == (80, 80)
    assert made.coverage == 1.0
    base = made.skycell
    assert base == skycell.best(ra, dec)
    x0 = round(
        float(store.attributes(base, "r", "image")["wcs"]["CRPIX1"]) - made.wcs_cards["CRPIX1"]
    )
    y0 = round(
        float(store.attributes(base, "r", "image")["wcs"]["CRPIX2"]) - made.wcs_cards["CRPIX2"]
    )
    truth = flux_of(store, base)[y0 : y0 + 80, x0 : x0 + 80]
    known = np.isfinite(truth)
    assert known.mean() > 0.9
    assert np.array_equal(made.pixels["r"][known], truth[known])


def test_the_middle_is_where_it_was_asked_for(border):
    store, _, ra, dec = border
    for size in (20.0, 20.25):
        made = cut_out(store, ra, dec, size, bands="r")
        x, y = (float(v[0]) for v in made.wcs.all_world2pix([ra], [dec], 0))
        half = (made.shape[0] - 1) / 2
        assert abs(x - half) <= 0.5 + 1e-6
        assert abs(y - half) <= 0.5 + 1e-6


def test_across_the_border_of_two_skycells(tmp_path):
    # One image is wiped right of its middle, the other left of it: only both make the whole.
    ra, dec = (float(v) for v in skycell.pixel_to_sky("skycell.1405.053", 240.0, 3000.0))
    sky = PS1Sky(seed=1, size=(300, 290), around=(ra, dec))
    names = ("skycell.1405.052", "skycell.1405.053")
    store = make_store(tmp_path / "s.zarr", sky, names, bands="r", kinds=("image",))
    whole = {name: flux_of(store, name) for name in names}
    for name, gone in zip(names, (slice(150, None), slice(0, 150)), strict=True):
        pixels, _ = disk_pixels(sky, name, "r")
        pixels = pixels.copy()
        pixels[:, gone] = 32767
        header = store.attributes(name, "r", "image")["header"]
        store.write(name, "r", "image", pixels, cards=header, replace=True)
    made = cut_out(store, ra, dec, 40.0, bands="r")
    assert set(made.sources["r"]) == set(names)
    assert made.interpolated == ()
    card = store.attributes(names[0], "r", "image")["wcs"]
    x0 = round(float(card["CRPIX1"]) - made.wcs_cards["CRPIX1"])
    y0 = round(float(card["CRPIX2"]) - made.wcs_cards["CRPIX2"])
    part = (slice(y0, y0 + 160), slice(x0, x0 + 160))
    left = 150 - x0
    truth = whole[names[0]][part].copy()
    truth[:, left:] = whole[names[1]][part][:, left:]
    assert 20 < left < 140
    assert np.array_equal(made.pixels["r"], truth, equal_nan=True)
    assert np.isfinite(made.pixels["r"]).mean() > 0.9


def seen_twice():
    """Return two skycells of different projection cells and a place both see, the best first."""
    for name in skycell.neighbours("skycell.1405.050"):
        if ".1405." in name:
            continue
        x, y = skycell.sky_to_pixel("skycell.1405.050", *skycell.centre(name))
        place = skycell.pixel_to_sky(
            "skycell.1405.050", np.clip(x, 200, 6000), np.clip(y, 200, 6000)
        )
        ra, dec = (float(v) for v in place)
        base = skycell.best(ra, dec)
        cell = base.split(".")[1]
        others = [n for n in skycell.containing(ra, dec) if n.split(".")[1] != cell]
        if others:
            return base, others[0], ra, dec
    pytest.fail("no place in two projection cells was found")


def test_across_projection_cells_stars_keep_place_and_flux(tmp_path):
    # A place that skycells of two projection cells see; the image of the better one is wiped.
    base, far, ra, dec = seen_twice()
    sky = PS1Sky(seed=1, size=(240, 240), around=(ra, dec))
    apart = make_store(tmp_path / "a.zarr", sky, [base], bands="r", kinds=("image",))
    truth = cut_out(apart, ra, dec, 30.0, bands="r")
    both = make_store(tmp_path / "b.zarr", sky, [base, far], bands="r", kinds=("image",))
    blank = np.full(both.shape(base, "r", "image"), 32767, dtype=np.int16)
    header = both.attributes(base, "r", "image")["header"]
    both.write(base, "r", "image", blank, cards=header, replace=True)
    made = cut_out(both, ra, dec, 30.0, bands="r")
    assert made.skycell == base
    assert made.sources["r"] == (far,)
    assert made.interpolated == (far,)
    assert made.wcs_cards == truth.wcs_cards
    # The same sky, up to the noise of other pixels.
    assert np.isfinite(made.pixels["r"]).mean() > 0.9
    stars = sky.stars(base)
    x, y = truth.wcs.all_world2pix(stars.ra, stars.dec, 0)
    inside = np.maximum(abs(x - 60), abs(y - 60)) < 45
    assert inside.any()
    brightest = int(np.argmax(np.where(inside, stars.flux("r"), 0)))
    measured = []
    for one in (truth, made):
        x, y = one.wcs.all_world2pix([stars.ra[brightest]], [stars.dec[brightest]], 0)
        yy, xx = np.indices(one.shape)
        near = np.hypot(xx - x[0], yy - y[0]) < 8
        flux = np.nan_to_num(one.pixels["r"])
        measured.append(flux[near].sum())
        weight = np.clip(flux, 0, None) * near
        assert abs((xx * weight).sum() / weight.sum() - x[0]) < 1.0
    assert measured[1] == pytest.approx(measured[0], rel=0.1)


def test_only_the_chunks_that_it_touches_are_read(tmp_path):
    name = "skycell.1405.053"
    sky = PS1Sky(seed=2, size=(1100, 1100), around=skycell.centre(name))
    store = make_store(tmp_path / "s.zarr", sky, [name], bands="r", kinds=("image",))
    shard = tmp_path / "s.zarr/1405" / name / "r/c/0/0"
    data = bytearray(shard.read_bytes())
    data[10] ^= 1  # the first of nine chunks
    shard.write_bytes(data)
    wcs = store.attributes(name, "r", "image")["wcs"]
    shift = [float(wcs["CRPIX1"]), float(wcs["CRPIX2"])]
    own = skycell.wcs_cards(name)
    x, y = 800 - shift[0] + float(own["CRPIX1"]), 800 - shift[1] + float(own["CRPIX2"])
    ra, dec = (float(v) for v in skycell.pixel_to_sky(name, x, y))
    assert cut_out(store, ra, dec, 10.0, bands="r").coverage == 1.0
    x, y = 100 - shift[0] + float(own["CRPIX1"]), 100 - shift[1] + float(own["CRPIX2"])
    ra, dec = (float(v) for v in skycell.pixel_to_sky(name, x, y))
    with pytest.raises(ChunkCorrupt, match="crc32c"):
        cut_out(store, ra, dec, 10.0, bands="r")


def test_masks_and_weights(border):
    store, _, ra, dec = border
    mask = cut_out(store, ra, dec, 60.0, bands="r", kind="mask")
    sigma = cut_out(store, ra, dec, 60.0, bands="r", kind="weight")
    flux = cut_out(store, ra, dec, 60.0, bands="r")
    assert mask.pixels["r"].dtype == np.uint16
    assert (mask.pixels["r"][np.isnan(flux.pixels["r"])] > 0).all()
    assert np.nanmin(sigma.pixels["r"]) > 0
    with pytest.raises(UsageError, match="a picture is made of the images"):
        mask.png_bytes()


def test_a_part_outside_is_not_covered(border):
    store, _, ra, dec = border
    made = cut_out(store, ra, dec, 100.0, bands="r")
    assert 0.3 < made.coverage < 0.7
    assert np.isnan(made.pixels["r"][~made.covered["r"]]).all()


@pytest.mark.parametrize("compress", [True, False])
def test_fits_of_several_bands(border, compress):
    store, _, ra, dec = border
    made = cut_out(store, ra, dec, 20.0, bands="ri")
    with fits.open(io.BytesIO(made.fits_bytes(compress=compress)), checksum=True) as found:
        found.verify("exception")
        assert [hdu.name for hdu in found[1:]] == ["r", "i"]
        for hdu, band in zip(found[1:], "ri", strict=True):
            assert hdu.header["BUNIT"] == "uJy"
            assert hdu.header["CRPIX1"] == made.wcs_cards["CRPIX1"]
            assert np.array_equal(hdu.data, made.pixels[band], equal_nan=True)
    single = cut_out(store, ra, dec, 20.0, bands="i").fits_bytes(compress=compress)
    with fits.open(io.BytesIO(single), checksum=True) as found:
        image = found[1 if compress else 0]
        assert np.array_equal(image.data, made.pixels["i"], equal_nan=True)


def test_pictures_have_north_up_and_colours_in_order():
    dark = np.random.default_rng(0).normal(0, 1, (40, 50)).astype(np.float32)
    star = dark.copy()
    star[30:34, 5:9] += 300
    grey = read_png(picture([star]))
    assert grey.shape == (40, 50, 3)
    assert grey[40 - 32, 6].min() > 250  # row 32 from below
    red = read_png(picture([star, dark, dark]))
    assert red[40 - 32, 6, 0] > 150
    assert red[40 - 32, 6, 0] > 3 * red[40 - 32, 6, 2]
    assert read_png(picture([np.full((4, 4), np.nan)])).max() == 0


def test_a_picture_of_a_cutout(border):
    store, _, ra, dec = border
    made = cut_out(store, ra, dec, 20.0, bands="irg")
    assert read_png(made.png_bytes()).shape == (80, 80, 3)
    assert made.png_bytes() == made.png_bytes()
    with pytest.raises(UsageError, match="given from red to blue"):
        cut_out(store, ra, dec, 20.0, bands="ir").png_bytes()


def test_what_cannot_be_cut_out(border):
    store, _, ra, dec = border
    with pytest.raises(UnknownName, match=r"no skycell of .* has the image in z"):
        cut_out(store, ra, dec, 20.0, bands="rz")
    with pytest.raises(UnknownName, match="it would be skycell"):
        cut_out(store, 10.0, 10.0, 20.0)
    with pytest.raises(UnknownName, match="outside all images"):
        cut_out(store, ra, dec + 0.05, 5.0)
    for size in (0, -1, np.nan, 1e9):
        with pytest.raises(UsageError, match="a cutout has a side of"):
            cut_out(store, ra, dec, size)
    with pytest.raises(UsageError, match=r"declination|dec"):
        cut_out(store, ra, 95.0, 20.0)
