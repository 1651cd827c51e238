"""The background of one AOR, against skies that the test made itself."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits

from idfzarr.errors import ImageShape
from idfzarr.imaging.sky import Plane, fit_plane, rough_plane


def slope(shape, constant, along_x, along_y):
    y, x = np.indices(shape, dtype=np.float64)
    return constant + along_x * (x - (shape[1] - 1) / 2) + along_y * (y - (shape[0] - 1) / 2)


def star_field(rng, shape, density):
    """Stars of a steep count slope with Moffat wings; returns the image."""
    y, x = np.indices(shape, dtype=np.float64)
    image = np.zeros(shape)
    count = int(shape[0] * shape[1] * density)
    where = rng.uniform(0, 1, (count, 2)) * shape
    for (y0, x0), peak in zip(where, np.minimum(5 * rng.pareto(1.2, count), 2e3), strict=True):
        image += peak * (1 + ((x - x0) ** 2 + (y - y0) ** 2) / 2.0**2) ** -3.0
    return image


def test_the_plane_is_found_on_the_pixels_that_may_be_used():
    rng = np.random.default_rng(1)
    shape = (180, 240)
    truth = slope(shape, 12.0, 0.004, -0.007)
    image = truth + rng.normal(0, 0.5, shape)
    usable = rng.uniform(size=shape) < 0.6
    image[~usable] = 1e6
    plane = fit_plane(image.astype(np.float32), usable)
    assert plane.ok
    assert plane.n_pixels > 0.9 * usable.sum()
    # errors of a least-squares fit: sigma / sqrt(n) in the middle, times sqrt(12) / side for slopes
    assert plane.constant == pytest.approx(12.0, abs=5 * 0.5 / np.sqrt(usable.sum()))
    assert plane.slope_x == pytest.approx(0.004, abs=1e-4)
    assert plane.slope_y == pytest.approx(-0.007, abs=1e-4)
    assert plane.rms == pytest.approx(0.5, rel=0.03)
    np.testing.assert_allclose(plane.image(shape), truth, atol=0.02)


def test_what_stands_out_is_clipped():
    rng = np.random.default_rng(2)
    shape = (128, 128)
    image = slope(shape, 3.0, 0.001, 0.002) + rng.normal(0, 1.0, shape)
    image[rng.uniform(size=shape) < 0.1] += 300.0
    plane = fit_plane(image.astype(np.float32), np.ones(shape, bool))
    assert plane.constant == pytest.approx(3.0, abs=0.08)
    assert plane.rms == pytest.approx(1.0, rel=0.05)


def test_rows_of_a_plane_are_the_rows_of_its_image():
    plane = Plane(constant=1.5, slope_x=0.01, slope_y=-0.2, n_pixels=10, rms=1.0, ok=True)
    whole = plane.image((40, 30))
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(plane.image((40, 30), rows=(7, 19)), whole[7:19])
    assert whole[:, 14:16].mean() == pytest.approx(1.5, abs=1e-5)


@pytest.mark.parametrize("fit", ["usable", "rough"])
def test_no_usable_pixel_is_said_and_changes_nothing(fit):
    image = np.full((50, 60), np.nan, np.float32)
    everything = np.ones(image.shape, bool)
    plane = fit_plane(image, everything) if fit == "usable" else rough_plane(image, ~everything)
    assert not plane.ok
    assert np.isnan(plane.rms)
    assert plane.n_pixels == 0
    assert not plane.image(image.shape).any()


def test_few_or_crowded_together_pixels_give_the_constant_alone():
    rng = np.random.default_rng(3)
    image = (slope((100, 100), 5.0, 0.5, 0.0) + rng.normal(0, 0.1, (100, 100))).astype(np.float32)
    few = np.zeros(image.shape, bool)
    few[::25, ::25] = True
    narrow = np.zeros(image.shape, bool)
    narrow[:, 50:60] = True
    for usable, expected in ((few, image[few]), (narrow, image[narrow])):
        plane = fit_plane(image, usable)
        assert plane.ok
        assert plane.slope_x == 0.0
        assert plane.slope_y == 0.0
        assert plane.constant == pytest.approx(np.median(expected), abs=0.5)


def test_a_constant_image_has_no_scatter():
    plane = fit_plane(np.full((64, 64), 7.0, np.float32), np.ones((64, 64), bool))
    assert plane.ok
    assert plane.constant == pytest.approx(7.0)
    assert plane.rms == pytest.approx(0.0, abs=1e-6)


def test_shapes_must_agree():
    with pytest.raises(ImageShape, match=r"image \(y, x\) and a mask of its shape"):
        fit_plane(np.zeros((4, 5), np.float32), np.ones((5, 4), bool))


@pytest.mark.parametrize("along_x", [0.0, 0.02])
def test_the_rough_plane_looks_under_the_stars(along_x):
    rng = np.random.default_rng(4)
    shape = (200, 200)
    stars = star_field(rng, shape, 1 / 120)
    truth = slope(shape, 20.0, along_x, -0.01)
    image = truth + stars + rng.normal(0, 1.0, shape)
    bad = rng.uniform(size=shape) < 0.05
    image[bad] = np.nan
    plane = rough_plane(image.astype(np.float32), bad)
    # the plain median is off by more than the bound, or this would test nothing
    assert np.nanmedian(image - truth) > 0.15
    residual = plane.image(shape) - truth
    # wings of faint stars everywhere are sky to anyone who does not know the stars
    assert abs(np.median(residual)) < 0.15
    assert np.ptp(residual) < 0.8
    assert plane.rms == pytest.approx(1.0, rel=0.15)


def test_one_bright_star_in_a_small_image_does_not_lift_the_sky():
    rng = np.random.default_rng(5)
    y, x = np.indices((32, 32), dtype=np.float64)
    star = 5000 * np.exp(-((x - 15.3) ** 2 + (y - 16.1) ** 2) / (2 * 1.3**2))
    image = (9.0 + star + rng.normal(0, 1.0, star.shape)).astype(np.float32)
    plane = rough_plane(image, np.zeros(image.shape, bool))
    assert plane.constant == pytest.approx(9.0, abs=0.2)
    assert (plane.slope_x, plane.slope_y) == (0.0, 0.0)


def test_the_sky_of_real_subarray_exposures_lies_low(data_folder):
    files = sorted((data_folder / "irac_bcd_xo3").glob("*sub2d.fits"))
    assert len(files) == 11
    for file in files:
        image = np.squeeze(fits.getdata(file)).astype(np.float32)
        bad = ~np.isfinite(image)
        plane = rough_plane(image, bad)
        corners = np.concatenate([image[:4, :4].ravel(), image[-4:, -4:].ravel()])
        assert plane.ok
        assert plane.constant < np.nanmedian(image)
        assert plane.constant == pytest.approx(np.nanmedian(corners), abs=3 * plane.rms)
