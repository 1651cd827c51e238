"""The simulator's PSFs and energies against brute-force images and photutils' apertures."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from photutils.aperture import CircularAperture, EllipticalAperture

from idfzarr.errors import ImageMissing, ImageUnreadable
from idfzarr.imaging.simulate import simulate
from idfzarr.imaging.simulated_psf import (
    CHANNELS,
    GRID_ARCSEC,
    disc_transform,
    frequency_grid,
    model_psf,
    read_psf,
)
from idfzarr.imaging.simulated_truth import Truth, energy_in_circle, energy_in_ellipse, read_truth
from idfzarr.measurement import APERTURE_RADII


@pytest.fixture(scope="module")
def psf():
    return model_psf("ch1")


def exact_sum(aperture, image):
    """Sum under an exact mask, by the part of photutils that is the same in 3.0 and 3.1."""
    return aperture.to_mask(method="exact").multiply(image).sum()


def brute_force(psf, *, roll, x, y, side=64, at=(32, 32)):
    """Sum the fine PSF, smeared over a turned square, into square pixels: no Fourier anywhere."""
    half = psf.fine.shape[0] // 2
    fine = (np.arange(-half, half + 1)) * 0.1
    u, v = (a.ravel() for a in np.meshgrid(fine, fine))
    weight = psf.fine.ravel()
    bright = weight > 1e-8
    u, v, weight = u[bright], v[bright], weight[bright]
    # 12 x 12 points within a detector pixel of 1.2 arcsec, and each fine sample anywhere in its
    # square of 0.1: edges of pixels would cut a lattice of points in steps.
    rng = np.random.default_rng(0)
    steps = (np.arange(12) + 0.5) / 12 * psf.native_arcsec - psf.native_arcsec / 2
    cosine, sine = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    image = np.zeros((side, side))
    edges = np.arange(side + 1) - 0.5
    for du in steps:
        for dv in steps:
            right, up = rng.uniform(-0.05, 0.05, (2, u.size)) + np.stack([u + du, v + dv])
            px = (right * cosine - up * sine) / GRID_ARCSEC + at[0] + x
            py = (right * sine + up * cosine) / GRID_ARCSEC + at[1] + y
            image += np.histogram2d(py, px, bins=(edges, edges), weights=weight)[0]
    return image / steps.size**2


# --- PSF and energies --------------------------------------------------------------------------


@pytest.mark.parametrize(("roll", "x", "y"), [(0.0, 0.0, 0.0), (37.0, 0.31, -0.44)])
def test_a_rendered_star_equals_its_brute_force_sum(psf, roll, x, y):
    grid = frequency_grid(64)
    image = grid.image(psf.transfer(grid, roll) * grid.phase(32 + x, 32 + y))
    expected = brute_force(psf, roll=roll, x=x, y=y)
    assert image.sum() == pytest.approx(1.0, abs=1e-9)
    assert expected.sum() == pytest.approx(1.0, abs=1e-3)
    assert image.max() > 0.05
    # The squares of 0.1 arcsec make the brute-force sum lower at its peak by some 0.3 %.
    assert np.abs(image - expected).max() < 6e-3 * expected.max()


def test_a_large_grid_shows_what_a_small_one_does(psf):
    small, large = frequency_grid(128), frequency_grid(300)
    a = small.image(psf.transfer(small, 71.0) * small.phase(64.2, 63.9))
    b = large.image(psf.transfer(large, 71.0) * large.phase(64.2, 63.9))
    assert np.abs(a - b[:128, :128]).max() < 1e-4 * a.max()
    assert np.abs(b[128:, 128:]).max() < 1e-4 * a.max()


@pytest.mark.parametrize("channel", ["ch1", "ch2"])
def test_the_psf_is_as_wide_as_iracs_and_not_round(channel):
    model = model_psf(channel)
    grid = frequency_grid(128)
    images = [
        grid.image(model.transfer(grid, roll) * grid.phase(64, 64)) for roll in (0.0, 45.0, 120.0)
    ]
    # Width at half maximum from the area above it, on a frequency-padded, ten times finer image.
    wide = np.zeros((1280, 641), dtype=complex)
    transform = model.transfer(grid, 0.0) * grid.phase(64, 64)
    wide[:64, :65], wide[-64:, :65] = transform[:64], transform[64:]
    fine = np.fft.irfft2(wide)
    width = 2 * np.sqrt((fine > fine.max() / 2).sum() / np.pi) * GRID_ARCSEC / 10
    assert 1.66 <= width <= 2.02
    # Rolled by a third of a turn the vanes fall on each other, by an eighth they do not.
    turned = [np.abs(images[0] - image).sum() for image in images[1:]]
    assert turned[0] > 0.02
    assert turned[1] > 0.005
    core = np.hypot(*(np.indices((128, 128)) - 64)) <= 3
    y, x = np.indices((128, 128)) - 64
    middle = [(images[0] * c * core).sum() / (images[0] * core).sum() for c in (x, y)]
    assert np.hypot(*middle) < 0.1


def one_aor(tmp_path, objects=30) -> Truth:
    simulate(tmp_path, aors=1, objects=objects, size=96, seed=8, channels=("ch1",))
    return read_truth(tmp_path)


def test_energies_equal_exact_apertures_on_brute_force_images(tmp_path, psf):
    truth = one_aor(tmp_path)
    star = int(truth.table["id"][truth.table["kind"] == "star"][0])
    roll = float(truth.roll[0, 0])
    circles, ellipse = np.zeros((4, 8)), []
    phases = [(0.0, 0.0), (0.5, 0.1), (-0.25, 0.35), (0.15, -0.4)]
    for k, (x, y) in enumerate(phases):
        image = brute_force(psf, roll=roll, x=x, y=y)
        at = (32 + x, 32 + y)
        circles[k] = [exact_sum(CircularAperture(at, r), image) for r in APERTURE_RADII]
        shape = EllipticalAperture(at, 6.0, 3.0, theta=0.6)
        ellipse.append(exact_sum(shape, image))
    expected = [energy_in_circle(truth, star, "ch1", radius=r) for r in APERTURE_RADII]
    assert np.allclose(circles.mean(axis=0), expected, atol=1.5e-3)
    # Averages over phases are no excuse: single ones differ by less than a half per cent.
    assert np.abs(circles - expected).max() < 5e-3
    assert 0.4 < expected[0] < 0.65 < expected[1] < expected[-1] < 1
    inside = energy_in_ellipse(truth, star, "ch1", a=6.0, b=3.0, angle=np.degrees(0.6))
    assert np.mean(ellipse) == pytest.approx(inside, abs=1.5e-3)
    column = [truth.table[f"energy_ch1_aper{n}"][star - 1] for n in range(1, 9)]
    assert np.allclose(column, expected, rtol=1e-12)


def test_a_misplaced_aperture_holds_less_by_as_much_as_photutils_says(tmp_path, psf):
    truth = one_aor(tmp_path)
    star = int(truth.table["id"][truth.table["kind"] == "star"][0])
    image = brute_force(psf, roll=float(truth.roll[0, 0]), x=0.0, y=0.0)
    expected = exact_sum(CircularAperture((33.2, 31.3), 3.0), image)
    offset = energy_in_circle(truth, star, "ch1", radius=3.0, offset=(1.2, -0.7))
    assert offset == pytest.approx(expected, abs=4e-3)
    assert offset < energy_in_circle(truth, star, "ch1", radius=3.0) - 0.05


def test_a_galaxy_is_its_disc_smeared_by_the_psf(psf):
    grid = frequency_grid(128)
    transfer = psf.transfer(grid, 20.0)
    scale, ratio, angle = 1.1, 0.5, 30.0
    image = grid.image(transfer * disc_transform(grid, scale, ratio, angle) * grid.phase(64, 64))
    rng = np.random.default_rng(0)
    # Radii of an exponential disc follow a gamma distribution of order 2.
    radius, turn = rng.gamma(2.0, scale, 1500), rng.uniform(0, 2 * np.pi, 1500)
    major, minor = radius * np.cos(turn), ratio * radius * np.sin(turn)
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    stars = grid.points(
        64 + major * cosine - minor * sine,
        64 + major * sine + minor * cosine,
        np.full(1500, 1 / 1500),
    )
    sampled = grid.image(transfer * stars)
    for radius in (2.0, 4.0, 8.0):
        a, b = (exact_sum(CircularAperture((64, 64), radius), i) for i in (image, sampled))
        assert a == pytest.approx(b, abs=0.02)
    y, x = np.indices(image.shape) - 64
    along = x * cosine + y * sine
    near = np.hypot(x, y) < 12
    spread = [(i * along**2 * near).sum() for i in (image, sampled)]
    assert spread[0] == pytest.approx(spread[1], rel=0.06)


# --- measured PSFs -----------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["ch1", "ch2"])
def test_measured_psfs_are_centred_and_agree_with_the_published_apertures(data_folder, channel):
    psf = read_psf(data_folder / "irac_psf", channel)
    y, x = (np.indices(psf.fine.shape) - 150) * 0.1
    core = np.hypot(x, y) < 1.5
    middle = [(psf.fine * c * core).sum() / (psf.fine * core).sum() for c in (x, y)]
    assert np.hypot(*middle) < 0.02
    assert psf.fine.sum() == pytest.approx(1.0)
    grid = frequency_grid(128)
    image = grid.image(psf.transfer(grid, 50.0) * grid.phase(64.0, 64.0))
    native = CHANNELS[channel].native_arcsec / GRID_ARCSEC
    sums = [exact_sum(CircularAperture((64, 64), r * native), image) for r in (3, 5, 8)]
    # Warm aperture corrections of IRSA, 3_12_20, 5_12_20 and 8_12_20: ratios of their radii.
    published = {"ch1": (1.1132, 1.0482, 1.0112), "ch2": (1.1126, 1.0500, 1.0125)}[channel]
    assert sums[0] / sums[2] == pytest.approx(published[2] / published[0], abs=0.03)
    assert sums[1] / sums[2] == pytest.approx(published[2] / published[1], abs=0.02)


def test_a_field_can_be_simulated_with_measured_psfs(data_folder, tmp_path):
    simulation = simulate(
        tmp_path, aors=1, objects=10, size=64, psf_folder=data_folder / "irac_psf"
    )
    assert simulation.psf == "measured"
    measured_psf, model = read_truth(tmp_path), read_psf(data_folder / "irac_psf", "ch1")
    grid = frequency_grid(128)
    turned = model.transfer(grid, float(measured_psf.roll[0, 0]))
    assert np.allclose(measured_psf.transform[0], turned, atol=1e-9)


def test_psfs_that_are_none_are_refused(tmp_path):
    with pytest.raises(ImageMissing, match=r"irac_ch1_warm_psf\.fits is not there"):
        simulate(tmp_path / "a", aors=1, objects=1, size=64, psf_folder=tmp_path)
    assert not (tmp_path / "a").exists()
    file = tmp_path / "irac_ch1_warm_psf.fits"
    file.write_bytes(b"no FITS")
    with pytest.raises(ImageUnreadable, match="cannot be read as a FITS image"):
        read_psf(tmp_path, "ch1")
    fits.writeto(file, np.full((20, 20), np.nan), overwrite=True)
    with pytest.raises(ImageUnreadable, match="not finite"):
        read_psf(tmp_path, "ch1")
    header = fits.Header({"PIXASEC": 0.3})
    fits.writeto(file, np.ones((20, 20)), header, overwrite=True)
    with pytest.raises(ImageUnreadable, match=r"pixels of 0\.3 arcsec"):
        read_psf(tmp_path, "ch1")
