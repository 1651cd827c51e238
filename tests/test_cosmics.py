"""Cosmic rays: found, and stars left alone.

The fields here are drawn by this file alone: noise and hits on native pixels of 1.22 arcsec,
rolled, and resampled bilinearly onto 0.6 arcsec; stars with an elliptical PSF that rolls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from photutils.aperture import CircularAperture, aperture_photometry
from scipy import ndimage

from idfzarr.errors import ImageShape, UsageError
from idfzarr.imaging.cosmics import clean, prepare

RATIO = 1.22 / 0.6
PIXEL_SIGMA = 2 / 3  # of bilinearly resampled white noise of sigma 1
STACKED = 64
SIZE = 384


def moffat(dx, dy, *, fwhm, ellipticity, angle, beta=3.0):
    cosine, sine = np.cos(angle), np.sin(angle)
    u = (cosine * dx + sine * dy) / (1 + ellipticity)
    v = (-sine * dx + cosine * dy) * (1 + ellipticity)
    a = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    return (beta - 1) / (np.pi * a * a) * (1 + (u * u + v * v) / a**2) ** -beta


def draw_stars(x, y, flux, *, fwhm=3.0, ellipticity=0.0, angle=0.0, size=SIZE, reach=20):
    image = np.zeros((size, size))
    for xi, yi, f in zip(x, y, flux, strict=True):
        left, right = max(0, int(xi) - reach), min(size, int(xi) + reach + 1)
        low, high = max(0, int(yi) - reach), min(size, int(yi) + reach + 1)
        yy, xx = np.mgrid[low:high, left:right]
        star = moffat(xx - xi, yy - yi, fwhm=fwhm, ellipticity=ellipticity, angle=angle)
        image[low:high, left:right] += f * star
    return image


def resample(native, roll, size=SIZE):
    yy, xx = np.mgrid[:size, :size]
    centre = (size - 1) / 2
    cosine, sine = np.cos(roll), np.sin(roll)
    u = (cosine * (xx - centre) + sine * (yy - centre)) / RATIO + len(native) / 2 - 0.5
    v = (-sine * (xx - centre) + cosine * (yy - centre)) / RATIO + len(native) / 2 - 0.5
    return ndimage.map_coordinates(native, [v, u], order=1)


def draw_native(rng, n_hits, *, size=SIZE):
    """Noise of sigma 1, and hits: a third of them tracks of two to four pixels."""
    side = int(1.42 * size / RATIO) + 8
    noise, hits = rng.normal(size=(side, side)), np.zeros((side, side))
    for _ in range(n_hits):
        row, column = rng.integers(2, side - 2, 2)
        energy = 10 ** rng.normal(1.3, 0.6)
        hits[row, column] += energy
        if rng.random() < 1 / 3:
            down, right = rng.integers(-1, 2, 2)
            for k in range(1, rng.integers(2, 5)):
                at = (row + k * down) % side, (column + k * right) % side
                hits[at] += energy * rng.uniform(0.3, 1)
    roll = rng.uniform(0, 2 * np.pi)
    return resample(noise, roll, size), resample(hits, roll, size)


@dataclass
class Field:
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    superstack: np.ndarray
    reference: object


@pytest.fixture(scope="module")
def field():
    rng = np.random.default_rng(11)
    count = 160
    x, y = rng.uniform(0, SIZE, (2, count))
    flux = 10 ** rng.uniform(1, 4, count)
    error = PIXEL_SIGMA / np.sqrt(STACKED)
    superstack = draw_stars(x, y, flux, fwhm=3.05) + rng.normal(0, error, (SIZE, SIZE))
    reference = prepare(superstack, np.full_like(superstack, error), n_aors=STACKED, psf_fwhm=3.05)
    return Field(x, y, flux, superstack, reference)


def isolated(field, *, margin=15, separation=10):
    distance = np.hypot(field.x[:, None] - field.x, field.y[:, None] - field.y)
    np.fill_diagonal(distance, np.inf)
    inside = (np.minimum(field.x, field.y) > margin) & (
        np.maximum(field.x, field.y) < SIZE - margin
    )
    return inside & (distance.min(axis=1) > separation)


def mosaic(field, seed, *, flux=None, extra=(), n_hits=200, ellipticity=0.05, offset=0.2):
    rng = np.random.default_rng(seed)
    brightness = field.flux if flux is None else flux
    x, y = np.r_[field.x, [e[0] for e in extra]], np.r_[field.y, [e[1] for e in extra]]
    f = np.r_[brightness, [e[2] for e in extra]] * (1 + rng.normal(0, 0.01))
    dx, dy = rng.normal(0, offset, 2)
    angle = rng.uniform(0, np.pi)
    stars = draw_stars(x + dx, y + dy, f, ellipticity=ellipticity, angle=angle)
    noise, hits = draw_native(rng, n_hits)
    return stars + noise, hits


def cleaned(field, image, **options):
    variance = np.full(image.shape, PIXEL_SIGMA**2)
    return clean(image, variance, np.zeros(image.shape, bool), field.reference, **options)


def sums(image, x, y, radius=4.0):
    return aperture_photometry(image, CircularAperture(np.c_[x, y], radius))["aperture_sum"].value


def islands(hits):
    label, count = ndimage.label(hits > 0, np.ones((3, 3)))
    index = range(1, count + 1)
    peak = np.array(ndimage.maximum(hits, label, index))
    at = np.array(ndimage.maximum_position(hits, label, index)).astype(int)
    return label, peak, at


def test_removes_nine_tenths_of_the_hits_by_count_and_by_flux(field):
    found, injected, left, total = 0, 0, 0.0, 0.0
    for seed in range(4):
        free, hits = mosaic(field, seed)
        result = cleaned(field, free + hits)
        label, peak, at = islands(hits)
        strong = peak > 5 * PIXEL_SIGMA
        found += int(result.hits[at[strong, 0], at[strong, 1]].sum())
        injected += int(strong.sum())
        inside = np.isin(label, 1 + np.flatnonzero(strong))
        left += float(np.abs(result.image - free)[inside].sum())
        total += float(hits[inside].sum())
        assert result.method == "superstack"
        assert result.n_hits >= strong.sum() * 0.9
    assert injected > 100
    assert found >= 0.92 * injected
    # what is left is of either sign: replaced pixels lose their noise too
    assert left <= 0.1 * total


def test_leaves_constant_stars_alone(field):
    # signal to noise above 5 in the aperture, by its noise of about 2.6 x sigma x sqrt(area)
    chosen = isolated(field) & (field.flux > 60)
    assert chosen.sum() > 40
    changes = []
    for seed in range(4):
        free, _ = mosaic(field, seed)
        result = cleaned(field, free)
        before, after = (sums(i, field.x[chosen], field.y[chosen]) for i in (free, result.image))
        changes.append(np.abs(after - before) / np.abs(before))
    change = np.concatenate(changes)
    assert np.median(change) < 1e-3
    assert np.mean(change > 0.01) <= 0.01


def test_takes_a_hit_out_of_a_star_core_and_gives_the_star_back(field):
    star = int(np.flatnonzero(isolated(field) & (field.flux > 1000) & (field.flux < 3000))[0])
    free, _ = mosaic(field, 5, n_hits=0, offset=0.1)
    native = np.zeros((11, 11))
    native[5, 5] = 300.0
    pyramid = resample(native, 0.3, 11)
    row, column = round(field.y[star]) + 1, round(field.x[star]) - 1
    image = free.copy()
    image[row - 5 : row + 6, column - 5 : column + 6] += pyramid
    result = cleaned(field, image)
    at = np.array([field.x[star]]), np.array([field.y[star]])
    truth, raw, after = (float(sums(i, *at)[0]) for i in (free, image, result.image))
    assert raw / truth > 1.2
    assert result.hits[row, column]
    assert after / truth == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("factor", [0.3, 0.6, 1.5, 4.0])
def test_does_not_flatten_a_variable(field, factor):
    chosen = np.flatnonzero(isolated(field) & (field.flux > 200))[::3]
    assert chosen.size >= 8
    flux = field.flux.copy()
    flux[chosen] *= factor
    free, _ = mosaic(field, 21, flux=flux, n_hits=0)
    result = cleaned(field, free)
    before, after = (sums(i, field.x[chosen], field.y[chosen]) for i in (free, result.image))
    np.testing.assert_allclose(after, before, rtol=1e-3)


def test_keeps_a_transient_the_superstack_does_not_know(field):
    taken = np.c_[field.x, field.y]
    grid = np.stack(np.meshgrid(np.arange(30, SIZE - 30, 7.3), np.arange(30, SIZE - 30, 7.3)), -1)
    spots = grid.reshape(-1, 2)
    lonely = spots[np.hypot(*(spots[:, None] - taken).T).min(axis=0) > 14][:12]
    assert len(lonely) == 12
    extra = [(x, y, f) for (x, y), f in zip(lonely, np.geomspace(200, 3000, 12), strict=True)]
    free, _ = mosaic(field, 31, extra=extra, n_hits=0)
    result = cleaned(field, free)
    for x, y, flux in extra:
        cut = np.s_[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5]
        assert np.abs(result.image - free)[cut].sum() < 1e-3 * flux


def test_pixels_that_are_no_hits_keep_every_bit(field):
    free, hits = mosaic(field, 3)
    image = (free + hits).astype(np.float32)
    result = cleaned(field, image)
    assert result.hits.any()
    assert not result.hits.all()
    np.testing.assert_array_equal(result.image[~result.hits], image[~result.hits])
    assert (result.image[result.hits] != image[result.hits]).all()


def test_bad_pixels_and_nan_are_never_hits_and_stay(field):
    free, hits = mosaic(field, 3)
    image = free + hits
    bad = np.zeros(image.shape, bool)
    bad[100:140, :] = True
    image[100:140, :] = 1e6
    image[200:210, 200:210] = np.nan
    result = clean(image, np.full(image.shape, PIXEL_SIGMA**2), bad, field.reference)
    assert not result.hits[100:140].any()
    assert not result.hits[200:210, 200:210].any()
    assert np.isnan(result.image[200:210, 200:210]).all()
    assert (result.image[100:140] == np.float32(1e6)).all()
    assert result.hits.any()


def test_a_wrong_level_of_the_variance_does_not_matter(field):
    free, hits = mosaic(field, 8)
    image = free + hits
    bad = np.zeros(image.shape, bool)
    right = clean(image, np.full(image.shape, PIXEL_SIGMA**2), bad, field.reference)
    wrong = clean(image, np.full(image.shape, 9 * PIXEL_SIGMA**2), bad, field.reference)
    assert right.n_hits > 20
    assert np.mean(right.hits == wrong.hits) > 0.9995


def test_without_enough_aors_it_says_so(field):
    error = np.full((SIZE, SIZE), PIXEL_SIGMA)
    few = prepare(field.superstack, error, n_aors=2, psf_fwhm=3.0)
    free, _ = mosaic(field, 4, n_hits=0)
    image = free.astype(np.float32)
    spots = [(40, 300), (250, 60), (333, 333)]
    for spot in spots:
        image[spot] += 200  # one pixel of this very grid, as in frames that were not resampled
    variance = np.full(image.shape, PIXEL_SIGMA**2)
    bad = np.zeros(image.shape, bool)
    nothing = clean(image, variance, bad, few, fallback="none")
    assert nothing.method == "none"
    assert nothing.n_hits == 0
    np.testing.assert_array_equal(nothing.image, image)
    alone = clean(image, variance, bad, few)
    assert alone.method == "lacosmic"
    assert all(alone.hits[spot] for spot in spots)
    chosen = isolated(field) & (field.flux > 60)
    before, after = (sums(i, field.x[chosen], field.y[chosen]) for i in (free, alone.image))
    assert np.mean(np.abs(after / before - 1) > 0.01) <= 0.02


def test_shapes_must_agree(field):
    good = np.ones((SIZE, SIZE))
    with pytest.raises(ImageShape, match=r"the variance has shape \(3, 3\)"):
        clean(good, np.ones((3, 3)), good > 2, field.reference)
    with pytest.raises(ImageShape, match="must have one shape"):
        prepare(good, np.ones((3, 3)), n_aors=5, psf_fwhm=3)
    with pytest.raises(UsageError, match="positive number of pixels"):
        prepare(good, good, n_aors=5, psf_fwhm=0)


def test_an_empty_superstack_and_an_empty_mosaic_are_no_trouble():
    nothing = np.full((40, 40), np.nan)
    reference = prepare(nothing, nothing, n_aors=9, psf_fwhm=3)
    result = clean(np.zeros((40, 40)), np.ones((40, 40)), np.zeros((40, 40), bool), reference)
    assert result.n_hits == 0
    flat = prepare(np.zeros((40, 40)), np.ones((40, 40)), n_aors=9, psf_fwhm=3)
    result = clean(nothing, np.ones((40, 40)), np.zeros((40, 40), bool), flat)
    assert result.n_hits == 0
    assert np.isnan(result.image).all()
