"""Registration: against reproject for WCS, against known shifts for stars, and on real frames."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.wcs import WCS
from reproject import reproject_interp

from idfzarr.errors import RegistrationFailed, UsageError
from idfzarr.imaging.mosaic import Mosaic, MosaicHeader, discover, read_header, read_mosaic
from idfzarr.imaging.register import (
    align,
    best_reference,
    choose_grid,
    find_stars,
    measure_offset,
    mesh_background,
    place,
)
from idfzarr.imaging.resample import fill_bad, grid_in_mosaic, is_surface_brightness, pixel_to_pixel

XO3 = {
    "pattern": "SPITZER_I2_46466816_{aor}_0000_2_{kind}.fits",
    "kinds": {"sci": "sub2d", "unc": "unc2d", "cov": "cov2d", "mask": "msk2d"},
}


def tan(shape, *, ra=265.0, dec=69.0, scale=0.6, angle=0.0, dx=0.0, dy=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [shape[1] / 2 + 0.5 + dx, shape[0] / 2 + 0.5 + dy]
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    wcs.wcs.cd = np.array([[-c, s], [s, c]]) * scale / 3600
    wcs.wcs.set()
    return wcs


def head(shape, wcs=None, *, mjd=55000.0, unit="MJy/sr", scale=0.6, name="a.fits"):
    return MosaicHeader(
        path=Path(name),
        shape=shape,
        wcs=wcs,
        unit=unit,
        mjd=mjd,
        exptime=1.0,
        bjd_tdb=math.nan,
        saturate=math.nan,
        reqkey=None,
        pixel_scale=scale if wcs is not None else math.nan,
        filter="",
        instrument="",
    )


def mosaic_of(sci, header, *, unc=None, cov=None, bad=None):
    sci = np.asarray(sci, np.float32)
    bad = ~np.isfinite(sci) if bad is None else bad
    return Mosaic(header, sci, unc, cov, bad)


def gaussians(shape, x, y, flux, sigma=1.3):
    """Stars by point sampling: at this width the sum over pixels is the flux to 1e-6."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for x0, y0, f in zip(x, y, flux, strict=True):
        r2 = (columns - x0) ** 2 + (rows - y0) ** 2
        near = r2 < (8 * sigma) ** 2
        image[near] += f / (2 * np.pi * sigma**2) * np.exp(-r2[near] / (2 * sigma**2))
    return image


def turned(x, y, *, angle, dx, dy, centre=(150.0, 125.0), scale=1.0):
    a = math.radians(angle)
    u, v = np.asarray(x) - centre[0], np.asarray(y) - centre[1]
    return (
        scale * (math.cos(a) * u - math.sin(a) * v) + centre[0] + dx,
        scale * (math.sin(a) * u + math.cos(a) * v) + centre[1] + dy,
    )


@pytest.fixture(scope="module")
def sky():
    rng = np.random.default_rng(11)
    n = 220
    return rng.uniform(-150, 450, n), rng.uniform(-150, 400, n), 10 ** rng.uniform(3, 4.6, n)


def frame(sky, seed, *, shape=(250, 300), sigma=1.3, **motion):
    x, y = turned(sky[0], sky[1], **motion)
    inside = (x > 3) & (x < shape[1] - 4) & (y > 3) & (y < shape[0] - 4)
    image = gaussians(shape, x[inside], y[inside], sky[2][inside], sigma)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    image += 350 + 0.1 * columns + 0.05 * rows
    image += np.random.default_rng(seed).normal(0, 2, shape)
    return mosaic_of(image, head(shape, unit="", name=f"frame{seed}.fits"))


# --- stars -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "motion",
    [
        {"angle": 0.0, "dx": 0.0, "dy": 0.0},
        {"angle": 0.3, "dx": 40.4, "dy": -31.7},
        {"angle": -0.5, "dx": -95.2, "dy": 60.9},
        {"angle": 180.0, "dx": 12.3, "dy": -7.8},
        {"angle": 37.5, "dx": -20.1, "dy": 15.6},
        {"angle": 0.1, "dx": 5.5, "dy": 4.5, "scale": 1.002},
    ],
)
def test_a_known_motion_is_found(sky, motion):
    reference, moved = frame(sky, 1, angle=0, dx=0, dy=0), frame(sky, 2, **motion)
    stars = [find_stars(m.sci, m.bad) for m in (reference, moved)]
    found = align(stars[1], stars[0])
    assert found.n_stars >= 15
    assert found.rms < 0.06
    # Positions over the frame, brought back, are where they were.
    x, y = np.array([60.0, 240, 150, 70]), np.array([50.0, 60, 125, 200])
    back = found.matrix @ np.stack([*turned(x, y, **motion), np.ones(4)])
    np.testing.assert_allclose(back, [x, y], atol=0.06)


def test_stars_of_another_field_are_refused(sky):
    rng = np.random.default_rng(99)
    other = rng.uniform(0, 300, 120), rng.uniform(0, 250, 120), 10 ** rng.uniform(3, 4.6, 120)
    stars = [
        find_stars(m.sci, m.bad)
        for m in (frame(sky, 1, angle=0, dx=0, dy=0), frame(other, 2, angle=0, dx=0, dy=0))
    ]
    assert min(map(len, stars)) > 40
    with pytest.raises(RegistrationFailed, match=r"other\.fits cannot be aligned.*too few agree"):
        align(stars[1], stars[0], name="other.fits")


def test_a_frame_without_stars_is_refused(sky):
    reference = frame(sky, 1, angle=0, dx=0, dy=0)
    noise = np.random.default_rng(5).normal(300, 3, (250, 300))
    cloudy = mosaic_of(noise, head((250, 300), name="cloudy.fits"))
    stars = [find_stars(m.sci, m.bad) for m in (reference, cloudy)]
    grid = choose_grid([reference.header], stars=stars[:1])
    with pytest.raises(RegistrationFailed, match=r"cloudy\.fits cannot be aligned.*of its 0 stars"):
        place(cloudy, grid)


def test_the_reference_is_the_frame_that_all_overlap_best(sky):
    shifts = [-90, -80, -70, 3, 30, 95]  # the middle of the drift is not the middle of the night
    frames = [frame(sky, k, angle=0, dx=float(dx), dy=0) for k, dx in enumerate(shifts)]
    fields = [find_stars(m.sci, m.bad) for m in frames]
    assert best_reference(fields) == 3
    # A clouded frame is not taken, well placed or not.
    few = replace(fields[3], x=fields[3].x[:5], y=fields[3].y[:5], flux=fields[3].flux[:5])
    assert best_reference([*fields[:3], few, *fields[4:]]) == 4
    with pytest.raises(RegistrationFailed, match="none of 2 frames holds 4 stars"):
        best_reference([replace(few, x=few.x[:1], y=few.y[:1], flux=few.flux[:1])] * 2)


def test_flux_and_position_survive_the_resampling(sky):
    shape = (250, 300)
    reference = frame(sky, 1, angle=0, dx=0, dy=0)
    motion = {"angle": 0.7, "dx": 22.37, "dy": -14.61, "scale": 1.004}
    x, y = turned(sky[0], sky[1], **motion)
    inside = (x > 3) & (x < 296) & (y > 3) & (y < 246)
    # Without background and noise, so that a sum over pixels can be compared with the truth.
    pure = mosaic_of(gaussians(shape, x[inside], y[inside], sky[2][inside]), head(shape, unit="DN"))
    noisy = frame(sky, 7, **motion)
    grid = choose_grid([reference.header], stars=[find_stars(reference.sci, reference.bad)])
    placed, placement = place(pure, grid, stars=find_stars(noisy.sci, noisy.bad))
    assert placement.how == "stars"
    middle = turned(149.5, 124.5, **motion)
    assert placement.dx == pytest.approx(middle[0] - 149.5, abs=0.05)
    assert placement.dy == pytest.approx(middle[1] - 124.5, abs=0.05)
    # Isolated stars well inside both frames.
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    tested = 0
    for k in np.argsort(-sky[2]):
        x0, y0 = sky[0][k], sky[1][k]
        gap = np.sort(np.hypot(sky[0] - x0, sky[1] - y0))[1]
        box = (np.abs(columns - x0) < 8) & (np.abs(rows - y0) < 8)
        if gap < 18 or not 9 < x0 < 290 or not 9 < y0 < 240 or placed.bad[box].any():
            continue
        star = placed.sci[box]
        assert star.sum() == pytest.approx(sky[2][k], rel=2e-3)
        assert (star * columns[box]).sum() / star.sum() == pytest.approx(x0, abs=0.06)
        assert (star * rows[box]).sum() / star.sum() == pytest.approx(y0, abs=0.06)
        tested += 1
    assert tested >= 10
    # What lies beyond the frame is bad and NaN, all of it and nothing else.
    assert np.array_equal(np.isnan(placed.sci), placed.bad)
    assert 0.05 < placed.bad.mean() < 0.3


def test_saturated_stars_are_no_anchors(sky):
    m = frame(sky, 1, angle=0, dx=0, dy=0)
    full = m.sci > np.quantile(m.sci, 0.999)
    plain, without = find_stars(m.sci, m.bad), find_stars(m.sci, m.bad, saturated=full)
    assert 0 < len(without) < len(plain)
    assert not full[np.round(without.y).astype(int), np.round(without.x).astype(int)].any()


def test_the_same_frames_give_the_same_bytes(sky):
    frames = [frame(sky, k, angle=0.1 * k, dx=8.0 * k, dy=-3.0 * k) for k in range(3)]

    def run():
        fields = [find_stars(m.sci, m.bad) for m in frames]
        grid = choose_grid([m.header for m in frames], stars=fields)
        return [place(m, grid)[0].sci.tobytes() for m in frames]

    assert run() == run()


# --- WCS ---------------------------------------------------------------------------------------


def test_one_grid_passes_through_untouched():
    shape = (60, 80)
    headers = [head(shape, tan(shape)) for _ in range(3)]
    grid = choose_grid(headers)
    assert (grid.shape, grid.reference, grid.tolerance) == (shape, 0, 0.01)
    sci = np.random.default_rng(0).normal(size=shape)
    placed, placement = place(mosaic_of(sci, headers[1]), grid)
    assert placement.how == "same-grid"
    assert (placement.dx, placement.dy) == (0, 0)
    np.testing.assert_array_equal(placed.sci, sci.astype(np.float32))


def test_staring_frames_share_the_grid_of_the_one_in_the_middle():
    shape = (32, 32)
    offsets = [(0.0, 0.0), (0.05, 0.02), (0.25, 0.1)]
    headers = [head(shape, tan(shape, dx=dx, dy=dy)) for dx, dy in offsets]
    grid = choose_grid(headers)
    assert (grid.reference, grid.tolerance) == (1, 0.3)
    _, placement = place(mosaic_of(np.ones(shape), headers[2]), grid)
    assert placement.how == "same-grid"
    # AOR minus grid: its stars stand 0.2 pixel farther right.
    assert (placement.dx, placement.dy) == pytest.approx((0.2, 0.08), abs=1e-6)
    # One more pixel apart, and there is a common grid.
    wider = choose_grid([*headers, head(shape, tan(shape, dx=1.0))])
    assert wider.reference is None
    assert wider.tolerance == 0.01


def test_a_common_grid_holds_every_mosaic():
    shape = (70, 90)
    wcses = [tan(shape, angle=a, ra=265 + 0.01 * k) for k, a in enumerate((0, 33, 80))]
    grid = choose_grid([head(shape, wcs) for wcs in wcses])
    corners = np.array([0.0, 89, 0, 89]), np.array([0.0, 0, 69, 69])
    for wcs in wcses:
        x, y = pixel_to_pixel(wcs, grid.wcs, *corners)
        assert x.min() > -0.51
        assert y.min() > -0.51
        assert x.max() < grid.shape[1] - 0.49
        assert y.max() < grid.shape[0] - 0.49
    assert grid.pixel_scale == 0.6


def test_resampling_agrees_with_reproject():
    shape = (90, 110)
    rng = np.random.default_rng(4)
    image = gaussians(shape, rng.uniform(5, 105, 40), rng.uniform(5, 85, 40), np.full(40, 500.0), 2)
    source, target = tan(shape, angle=25, scale=0.7), tan(shape, scale=0.6)
    grid = choose_grid([head(shape, target)])
    unc = (1 + 0.01 * image).astype(np.float32)
    mosaic = mosaic_of(image, head(shape, source, scale=0.7), unc=unc, cov=unc.copy())
    placed, placement = place(mosaic, grid)
    assert placement.how == "reprojected"
    theirs, _ = reproject_interp((image, source), target, shape_out=shape, order="bicubic")
    linear, _ = reproject_interp((unc, source), target, shape_out=shape, order="bilinear")
    inner = ~placed.bad & np.isfinite(theirs)
    assert inner.mean() > 0.7
    # reproject interpolates outside the outermost pixel centres too; splines differ near the rim.
    np.testing.assert_allclose(placed.sci[inner], theirs[inner], atol=0.02)
    np.testing.assert_allclose(placed.unc[inner], linear[inner], rtol=0.02)
    np.testing.assert_allclose(placed.cov[inner], linear[inner], rtol=1e-4)
    assert (np.isfinite(theirs) & placed.bad).mean() < 0.02


def test_amounts_per_pixel_keep_their_sum_and_brightness_its_value():
    shape = (80, 80)
    image = gaussians(shape, [40.2], [39.7], [1000.0], 3)
    source, target = tan(shape, scale=0.6), tan(shape, scale=0.9)
    grid = choose_grid([head(shape, target, scale=0.9)])
    counts, _ = place(mosaic_of(image, head(shape, source, unit="DN")), grid)
    bright, _ = place(mosaic_of(image, head(shape, source, unit="MJy/sr")), grid)
    assert np.nansum(counts.sci) == pytest.approx(1000, rel=1e-3)
    assert np.nansum(bright.sci) == pytest.approx(1000 / 2.25, rel=1e-3)
    assert np.nanmax(bright.sci) == pytest.approx(image.max(), rel=0.02)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("MJy/sr", True),
        ("MJy sr-1", True),
        ("Jy / arcsec2", True),
        ("mJy arcsec**-2", True),
        ("MJy/(sr)", True),
        ("DN/pix", False),
        ("DN", False),
        ("electron/s", False),
        ("uJy", False),
        ("", False),
    ],
)
def test_units_of_surface_brightness(unit, expected):
    assert is_surface_brightness(unit) is expected


def test_bad_pixels_stay_local():
    shape = (100, 100)
    image = np.full(shape, 7.0, np.float32)
    image[50, 50], image[20, 20] = np.nan, 1e9
    bad = np.zeros(shape, bool)
    bad[50, 50] = bad[20, 20] = True
    grid = choose_grid([head(shape, tan(shape))])
    moved = mosaic_of(image, head(shape, tan(shape, dx=0.5, dy=0.3)), bad=bad)
    placed, _ = place(moved, grid)
    assert np.isnan(placed.sci[placed.bad]).all()
    np.testing.assert_allclose(placed.sci[~placed.bad], 7.0, rtol=1e-5)
    inside = placed.bad[2:97, 2:97]
    assert 4 <= inside.sum() <= 10
    np.testing.assert_allclose(fill_bad(image, bad), 7.0, rtol=1e-6)


def test_a_grid_s_pixels_lie_where_astropy_puts_them():
    shape = (20, 26)
    grid, other = tan(shape), tan(shape, angle=70, dx=11, ra=265.01)
    at = grid_in_mosaic(grid, other, shape)
    x, y = other.world_to_pixel(grid.pixel_to_world(25, 3))
    assert (at[1, 3, 25], at[0, 3, 25]) == pytest.approx((float(x), float(y)), abs=1e-8)


def test_frames_of_other_coordinates_meet(data_folder):
    # A real Galactic mosaic (GLON-CAR): the same sky position by SkyCoord and by us.
    path = data_folder / "glimpse_ch2_mosaic" / "spitzer_example_image.fits"
    galactic = read_header(discover(path.parent, pattern="spitzer_{aor}_image.fits")[0]).wcs
    x, y = np.array([100.0, 900.0]), np.array([50.0, 400.0])
    truth = galactic.pixel_to_world(x, y).icrs
    equatorial = tan((100, 100), ra=275.9, dec=-13.25, scale=1.2)
    ours = pixel_to_pixel(galactic, equatorial, x, y)
    np.testing.assert_allclose(ours, equatorial.world_to_pixel(truth), atol=1e-6)


def test_mosaics_that_do_not_belong_together_are_named():
    shape = (50, 50)
    near = [head(shape, tan(shape, angle=a), name=f"n{a}.fits") for a in (0, 10, 20)]
    far = head(shape, tan(shape, ra=266.0), name="far.fits")
    with pytest.raises(RegistrationFailed, match=r"far\.fits points 0\.358 degrees away"):
        choose_grid([*near, far])
    with pytest.raises(
        RegistrationFailed, match=r"blind\.fits and 0 more of 4 mosaics have no WCS"
    ):
        choose_grid([*near, head(shape, name="blind.fits")])
    grid = choose_grid(near[:1])
    with pytest.raises(RegistrationFailed, match=r"far\.fits does not overlap"):
        place(mosaic_of(np.ones(shape), far), grid)
    with pytest.raises(RegistrationFailed, match=r"blind\.fits has no WCS while the field has one"):
        place(mosaic_of(np.ones(shape), head(shape, name="blind.fits")), grid)
    with pytest.raises(UsageError, match="need the stars of each"):
        choose_grid([head(shape)])
    with pytest.raises(UsageError, match="no mosaics at all"):
        choose_grid([])


# --- background and offsets --------------------------------------------------------------------


def test_the_background_follows_a_gradient_under_stars(sky):
    m = frame(sky, 3, angle=0, dx=0, dy=0)
    rows, columns = np.mgrid[:250, :300]
    truth = 350 + 0.1 * columns + 0.05 * rows
    found = mesh_background(m.sci, m.bad, mesh=50)
    assert found.dtype == np.float32
    assert np.abs(found - truth).max() < 4
    # Bad pixels do not count, NaN or not, in any byte order.
    spoiled = m.sci.astype(">f4")
    spoiled[100:120, 100:120] = np.nan
    assert np.abs(mesh_background(spoiled, ~np.isfinite(spoiled), mesh=50) - truth).max() < 4


def test_an_offset_is_measured_and_bad_stars_are_left_out():
    shape = (200, 200)
    rng = np.random.default_rng(8)
    grid_x, grid_y = np.meshgrid(np.arange(20, 190, 20.0), np.arange(20, 190, 20.0))
    x = grid_x.ravel() + rng.uniform(-0.5, 0.5, 81)
    y = grid_y.ravel() + rng.uniform(-0.5, 0.5, 81)
    image = gaussians(shape, x + 0.21, y - 0.13, np.full(81, 3000.0))
    image[99:104, 99:104] += 900  # a neighbour that pulls one star away
    image = (image + rng.normal(0, 1, shape)).astype(np.float32)
    bad = np.zeros(shape, bool)
    bad[18:23, :] = True
    found = measure_offset(image, bad, x, y)
    assert 60 <= found.n_stars <= 72
    assert (found.dx, found.dy) == pytest.approx((0.21, -0.13), abs=0.005)
    assert found.rms < 0.03
    nothing = measure_offset(image, np.ones(shape, bool), x, y)
    assert nothing.n_stars == 0
    assert math.isnan(nothing.dx)


# --- real frames -------------------------------------------------------------------------------


def test_real_frames_that_drift_are_aligned(data_folder):
    found = discover(data_folder / "hatp32_142_epochs", pattern="HATP-32{aor}.FITS.gz")
    sample = [found[0], *found[6:141:15], found[-1]]
    mosaics = [read_mosaic(files) for files in sample]
    fields = [find_stars(m.sci, m.bad, saturated=m.saturated) for m in mosaics]
    grid = choose_grid([m.header for m in mosaics], stars=fields)
    assert 3 <= grid.reference <= 7
    drift, placed = [], []
    for mosaic, stars in zip(mosaics, fields, strict=True):
        flat = replace(mosaic, sci=mosaic.sci - mesh_background(mosaic.sci, mosaic.bad))
        image, placement = place(flat, grid, stars=stars)
        assert placement.rms < 0.1
        assert placement.n_stars > 60
        drift.append(placement.dx)
        placed.append(image)
    assert max(drift) - min(drift) > 250
    # Independent of the fit: stars that it used last, the faint end, measured on the placed frames.
    reference = fields[grid.reference]
    faint = np.arange(len(reference)) >= 100
    for image in placed:
        offset = measure_offset(image.sci, image.bad, reference.x[faint], reference.y[faint])
        assert offset.n_stars > 5
        assert math.hypot(offset.dx, offset.dy) < 0.1
        # Bright stars keep their flux to the few per cent of the night's transparency.
    ours = placed[0].bad | placed[-1].bad
    assert 0.2 < ours.mean() < 0.6


def test_real_staring_frames_pass_through(data_folder):
    found = discover(data_folder / "irac_bcd_xo3", **XO3)
    headers = [read_header(files) for files in found]
    grid = choose_grid(headers)
    assert (grid.shape, grid.tolerance) == ((32, 32), 0.3)
    for files in found:
        mosaic = read_mosaic(files)
        placed, placement = place(mosaic, grid)
        assert placement.how == "same-grid"
        assert math.hypot(placement.dx, placement.dy) < 0.03
        assert placed.sci is mosaic.sci
