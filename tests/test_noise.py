"""Noise models and empty apertures, against noise whose strength is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import median_abs_deviation

from idfzarr.errors import ImageShape, ImageUnreadable, UsageError
from idfzarr.imaging.noise import (
    choose_empty,
    freeze_empty,
    measure_noise_scale,
    noise_model,
    noise_scale,
    robust_sigma,
    scale_for_area,
)

RADII = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
# sigma_aperture / (sigma_px sqrt(area)) of white noise of 1.22 arcsec pixels, rolled and resampled
# bilinearly onto 0.6 arcsec, as measured with reproject and SWarp
BILINEAR = (2.19, 2.46, 2.59, 2.76, 2.82, 2.90)


def stars(rng, size, count, *, fwhm=3.0):
    image = np.zeros((size, size))
    yy, xx = np.mgrid[:size, :size]
    sigma = fwhm / 2.355
    for _ in range(count):
        x, y = rng.uniform(0, size, 2)
        flux = 10 ** rng.uniform(2, 4.3)
        profile = np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2 * sigma**2))
        image += flux * profile / (2 * np.pi * sigma**2)
    return image


def correlated(rng, size):
    side = int(1.42 * size * 0.6 / 1.22) + 8
    native = rng.normal(size=(side, side))
    yy, xx = np.mgrid[:size, :size] - (size - 1) / 2
    angle = rng.uniform(0, np.pi)
    u = (np.cos(angle) * xx + np.sin(angle) * yy) * 0.6 / 1.22 + side / 2 - 0.5
    v = (-np.sin(angle) * xx + np.cos(angle) * yy) * 0.6 / 1.22 + side / 2 - 0.5
    return ndimage.map_coordinates(native, [v, u], order=1)


def test_robust_sigma_is_scipys_and_skips_nan():
    values = np.random.default_rng(0).normal(3, 2, 1001)
    assert robust_sigma(values) == pytest.approx(median_abs_deviation(values, scale="normal"))
    assert robust_sigma(np.r_[values, np.nan, np.inf]) == robust_sigma(values)
    assert np.isnan(robust_sigma(np.full(3, np.nan)))


class TestNoiseModel:
    GAIN = 2.5
    SKY = 4.0

    @pytest.fixture(scope="class")
    @staticmethod
    def frame():
        rng = np.random.default_rng(7)
        truth = stars(rng, 300, 120)
        noise = rng.normal(size=truth.shape)
        image = truth + noise * np.sqrt(TestNoiseModel.SKY**2 + truth / TestNoiseModel.GAIN)
        return truth, image, np.zeros(image.shape, bool)

    def test_finds_sky_and_gain_from_the_superstack(self, frame):
        truth, image, bad = frame
        model = noise_model(image, bad, superstack=truth)
        assert model.sky_rms == pytest.approx(self.SKY, rel=0.03)
        assert model.gain == pytest.approx(self.GAIN, rel=0.2)
        assert "superstack" in model.method

    def test_a_psf_that_changed_is_not_taken_for_photons(self, frame):
        truth, image, bad = frame
        wider = ndimage.gaussian_filter(truth, 0.35)
        model = noise_model(image, bad, superstack=wider)
        assert model.gain == pytest.approx(self.GAIN, rel=0.5)

    def test_takes_the_headers_gain_and_says_so(self, frame):
        truth, image, bad = frame
        model = noise_model(image, bad, superstack=truth, gain=7.0)
        assert model.gain == 7.0
        assert "header" in model.method

    def test_a_single_frame_has_its_sky_only(self, frame):
        _, image, bad = frame
        model = noise_model(image, bad)
        assert model.sky_rms == pytest.approx(self.SKY, rel=0.1)
        assert model.gain == np.inf
        assert "unknown" in model.method
        assert model.variance(image) == pytest.approx(model.sky_rms**2)

    def test_a_source_mask_is_used(self, frame):
        truth, image, bad = frame
        model = noise_model(image, bad, source=truth > 1)
        assert model.sky_rms == pytest.approx(self.SKY, rel=0.03)

    def test_bad_pixels_do_not_count(self, frame):
        truth, image, bad = frame
        broken, bad = image.copy(), bad.copy()
        broken[:100], bad[:100] = 1e9, True
        broken[150, 150] = np.nan
        model = noise_model(broken, bad, superstack=truth)
        assert model.sky_rms == pytest.approx(self.SKY, rel=0.04)

    def test_variance_is_sky_and_photons(self, frame):
        truth, image, bad = frame
        model = noise_model(image, bad, superstack=truth, gain=2.0)
        level = np.array([[0.0, 10.0], [-5.0, np.nan]])
        sky = model.sky_rms**2
        np.testing.assert_allclose(model.variance(level), [[sky, sky + 5], [sky, sky]], rtol=1e-6)
        assert model.variance(level).dtype == np.float32

    def test_refuses(self, frame):
        _, image, bad = frame
        with pytest.raises(ImageShape, match="the superstack has shape"):
            noise_model(image, bad, superstack=image[:5])
        with pytest.raises(UsageError, match="a gain must be a positive number"):
            noise_model(image, bad, gain=0.0)
        with pytest.raises(ImageUnreadable, match="0 pixels of sky are left"):
            noise_model(np.full((20, 20), np.nan), np.zeros((20, 20), bool))


class TestChooseEmpty:
    @given(st.integers(0, 1000), st.floats(0.0, 0.02))
    def test_no_pixel_of_an_empty_aperture_is_used(self, seed, share):
        rng = np.random.default_rng(seed)
        usable = rng.random((90, 110)) >= share
        empty = choose_empty(usable, (1.5, 3.0, 5.0), count=60, seed=seed)
        yy, xx = np.mgrid[:90, :110]
        for x, y, valid in zip(empty.x, empty.y, empty.valid, strict=True):
            for radius in np.array(empty.radii)[valid]:
                # any pixel with a corner in the circle has its centre this near
                near = np.hypot(xx - x, yy - y) < radius + np.sqrt(0.5)
                assert usable[near].all()
                assert radius <= min(x, y, 109 - x, 89 - y) + 0.5

    def test_an_open_field_has_them_all(self):
        empty = choose_empty(np.ones((300, 300), bool), RADII, count=500, seed=1)
        assert empty.radii == RADII
        assert empty.left_out == ()
        assert len(empty.x) > 480
        assert empty.valid[:, 0].all()
        assert np.all(np.diff(empty.valid.sum(axis=0)) <= 0)
        assert empty.valid[:, -1].sum() >= 250

    def test_the_same_seed_gives_the_same_places(self):
        usable = np.random.default_rng(0).random((200, 200)) > 0.001
        one, two, other = (choose_empty(usable, (2.0, 4.0), seed=s) for s in (3, 3, 4))
        np.testing.assert_array_equal(one.x, two.x)
        assert not np.array_equal(one.x, other.x)

    def test_a_crowded_field_takes_the_largest_that_fits_and_says_so(self):
        usable = np.ones((400, 400), bool)
        usable[::20, :] = False
        usable[:, ::20] = False
        empty = choose_empty(usable, RADII)
        # squares of 19 free pixels: centre to border is 10 pixels, less half a diagonal
        assert empty.left_out == (12.0,)
        assert 8.0 <= empty.radii[-1] < 9.3
        assert empty.radii[:5] == RADII[:5]

    def test_no_room_at_all_is_no_radius(self):
        empty = choose_empty(np.zeros((50, 50), bool), RADII)
        assert empty.radii == ()
        assert empty.left_out == RADII
        assert len(empty.x) == 0

    def test_refuses_radii_that_are_none(self):
        with pytest.raises(UsageError, match="radii above zero"):
            choose_empty(np.ones((9, 9), bool), [])
        with pytest.raises(UsageError, match="radii above zero"):
            choose_empty(np.ones((9, 9), bool), [0.0, 2.0])


class TestNoiseScale:
    def test_agrees_with_what_was_measured_of_bilinear_resampling(self):
        rng = np.random.default_rng(5)
        usable = np.ones((512, 512), bool)
        usable[rng.integers(0, 512, 40), rng.integers(0, 512, 40)] = False
        empty = choose_empty(usable, RADII, count=2000)
        # the table is relative to sigma_px sqrt(area), which weights once give
        frozen = freeze_empty(empty, usable.shape, squared=False)
        # the formal variance of a pixel, as unc would have it
        variance = np.full(usable.shape, 0.67**2)
        scales = [
            measure_noise_scale(frozen, empty, correlated(rng, 512), variance, usable)
            for _ in range(4)
        ]
        np.testing.assert_allclose(np.mean(scales, axis=0), BILINEAR, rtol=0.1)

    def test_white_noise_needs_no_scale(self):
        rng = np.random.default_rng(6)
        usable = np.ones((300, 300), bool)
        empty = choose_empty(usable, (2.0, 4.0, 6.0))
        frozen = freeze_empty(empty, usable.shape)
        noise = rng.normal(0, 3, usable.shape)
        scale = measure_noise_scale(frozen, empty, noise, np.full(usable.shape, 9.0), usable)
        np.testing.assert_allclose(scale, 1, atol=0.12)

    def test_masked_pixels_take_their_apertures_out(self):
        rng = np.random.default_rng(6)
        usable = np.ones((200, 200), bool)
        empty = choose_empty(usable, (3.0,))
        frozen = freeze_empty(empty, usable.shape)
        good = usable.copy()
        good[:, 60:] = False
        noise = rng.normal(0, 1, usable.shape)
        noise[:, 60:] = 1e6
        scale = measure_noise_scale(frozen, empty, noise, np.ones(usable.shape), good)
        assert scale[0] == pytest.approx(1, abs=0.2)
        nothing = measure_noise_scale(frozen, empty, noise, np.ones(usable.shape), ~usable)
        assert np.isnan(nothing).all()

    def test_its_own_share_in_the_superstack_is_put_back(self):
        rng = np.random.default_rng(8)
        n_aors = 4
        frames = rng.normal(size=(n_aors, 4000, 1))
        residual = frames[0] - frames.mean(axis=0)
        ones = np.ones_like(residual)
        plain = noise_scale(residual, ones, ones > 0)
        mended = noise_scale(residual, ones, ones > 0, share=1 / n_aors)
        assert plain[0] == pytest.approx(np.sqrt(1 - 1 / n_aors), rel=0.05)
        assert mended[0] == pytest.approx(1, rel=0.05)

    def test_an_outlier_does_not_matter_and_too_few_are_nan(self):
        flux = np.random.default_rng(1).normal(size=(500, 2))
        err = np.ones_like(flux)
        valid = np.ones(flux.shape, bool)
        before = noise_scale(flux, err, valid)
        flux[:3] = 1e9
        np.testing.assert_allclose(noise_scale(flux, err, valid), before, rtol=0.02)
        valid[19:, 1] = False
        assert np.isnan(noise_scale(flux, err, valid)[1])
        with pytest.raises(UsageError, match="must be at least 0 and below 1"):
            noise_scale(flux, err, valid, share=1.0)


class TestScaleForArea:
    def test_interpolates_over_radius_and_stays_constant_beyond(self):
        radii, scales = (2.0, 4.0), [2.0, 3.0]
        area = np.pi * np.array([1.0, 2.0, 3.0, 4.0, 9.0]) ** 2
        np.testing.assert_allclose(scale_for_area(area, radii, scales), [2, 2, 2.5, 3, 3])

    def test_unknown_radii_are_stepped_over(self):
        got = scale_for_area(np.pi * 9.0, (2.0, 3.0, 4.0), [2.0, np.nan, 3.0])
        assert float(got) == pytest.approx(2.5)

    def test_nothing_known_is_one(self):
        got = scale_for_area([[5.0, np.nan]], (2.0,), [np.nan])
        np.testing.assert_array_equal(got, [[1.0, np.nan]])
        assert float(scale_for_area(5.0, (), [])) == 1.0
