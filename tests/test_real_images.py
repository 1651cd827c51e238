"""Real frames: 142 of one night without WCS, and 11 exposures of Spitzer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from idfzarr.analysis.ranking import rank_store
from idfzarr.build.pipeline import build
from idfzarr.errors import NoSkyCoordinates
from idfzarr.store.cube import Cube


@pytest.fixture(scope="module")
def hatp32(data_folder, tmp_path_factory):
    """Build the cube of the HAT-P-32 night once."""
    store = tmp_path_factory.mktemp("hatp32") / "hat.zarr"
    report = build(data_folder / "hatp32_142_epochs", store, pattern="HATP-32{aor}.FITS.gz")
    return report, Cube(store)


@pytest.fixture(scope="module")
def xo3(data_folder, tmp_path_factory):
    """Build the cube of XO-3's AOR once."""
    store = tmp_path_factory.mktemp("xo3") / "xo3.zarr"
    report = build(
        data_folder / "irac_bcd_xo3",
        store,
        pattern="SPITZER_I2_46466816_{aor}_0000_2_{kind}.fits",
        kinds={"sci": "sub2d", "unc": "unc2d", "cov": "cov2d", "mask": "msk2d"},
    )
    return report, Cube(store)


@pytest.mark.slow
def test_every_frame_of_the_night_is_in_the_cube(hatp32) -> None:
    report, cube = hatp32
    assert report.ok
    assert report.n_aors == 142
    assert report.n_objects >= 300
    assert any("aligned by their stars" in note for note in report.notes)
    assert any("noise model" in note for note in report.notes)
    assert np.isnan(cube.coordinate("ra")).all()


@pytest.mark.slow
def test_frames_without_wcs_stand_in_order_of_y_and_refuse_the_sky(hatp32) -> None:
    _, cube = hatp32
    band = np.floor(cube.coordinate("y") / 32)
    assert (np.diff(band) >= 0).all()
    with pytest.raises(NoSkyCoordinates, match="no sky coordinates"):
        cube.cone(30.0, 46.0, 10.0)


@pytest.mark.slow
def test_times_come_from_the_finer_card(hatp32) -> None:
    _, cube = hatp32
    mjd = cube.coordinate("mjd")[:, 0]
    # 2017-12-20T01:33:43.317 UT and 61.96 s of exposure; MJD-OBS has three decimals only
    assert mjd[0] == pytest.approx(58107.06508469 + 30.98 / 86400, abs=2e-6)
    assert (np.diff(mjd) > 0).all()


BRIGHT = 60.0
"""S/N of a star in one frame from which on it is bright."""


def bright_rows(cube, type_, least):
    """Return rows of the stars of that S/N measured, unsaturated, in nearly every frame."""
    column = cube.column(type_)
    measured = cube.table("variability")
    complete = measured["n"][:, column] >= 0.9 * cube.shape[3]
    signal = measured["median"][:, column] / measured["median_err"][:, column]
    return np.flatnonzero(complete & (signal > least))


@pytest.mark.slow
@pytest.mark.parametrize("type_", ["ch1_aper2_clean", "ch1_aper3_clean"])
def test_the_star_that_dims_is_among_the_five_most_variable(hatp32, type_) -> None:
    """The ranking knows no place; the shape of the dip says which star is the one that dims."""
    _, cube = hatp32
    assert len(bright_rows(cube, type_, BRIGHT)) >= 12
    ranking = rank_store(cube, top=5, types=type_, least_signal=BRIGHT, least_complete=0.9)
    assert len(ranking.objects) == 5
    dips = [deepest_dip(cube.lightcurve(object_id, type_)) for object_id in ranking.objects]
    assert any(0.012 < depth < 0.035 and sigma > 12 for depth, sigma in dips), dips


def deepest_dip(lightcurve) -> tuple[float, float]:
    """Return depth and significance of the best box of 2 to 4 h with a level before and after."""
    lc = lightcurve.calibrated().good()
    hours = (lc.mjd - lc.mjd[0]) * 24
    noise = 1.4826 * np.median(np.abs(np.diff(lc.flux))) / np.sqrt(2)
    best = (0.0, 0.0)
    for length in np.arange(2.0, 4.1, 0.25):
        for start in np.arange(0.4, hours[-1] - length - 0.4, 0.1):
            inside = (hours >= start) & (hours < start + length)
            before, after = hours < start, hours >= start + length
            if min(inside.sum(), before.sum(), after.sum()) < 6:
                continue
            level = min(np.median(lc.flux[before]), np.median(lc.flux[after]))
            drop = level - np.median(lc.flux[inside])
            sigma = drop / noise * np.sqrt(inside.sum())
            best = max(best, (float(drop / level), float(sigma)), key=lambda found: found[1])
    return best


@pytest.mark.slow
def test_bright_constant_stars_are_flat_to_one_per_cent(hatp32) -> None:
    _, cube = hatp32
    type_ = "ch1_aper3_clean"
    variable = rank_store(cube, top=5, types=type_, least_signal=BRIGHT, least_complete=0.9)
    rows = [
        r for r in bright_rows(cube, type_, BRIGHT) if int(cube.objects[r]) not in variable.objects
    ]
    assert len(rows) >= 6
    scatter = []
    for row in rows:
        lc = cube.lightcurve(int(cube.objects[row]), type_).calibrated().good()
        scatter.append(1.4826 * np.median(np.abs(lc.flux / np.median(lc.flux) - 1)))
    assert np.median(scatter) < 0.009
    assert np.mean(np.array(scatter) < 0.01) >= 0.8, np.sort(scatter)


def test_xo3_is_one_bright_star_of_channel_two(xo3) -> None:
    report, cube = xo3
    assert report.ok
    assert cube.shape == (1, 20, 3, 11)
    assert cube.channels == ("ch2",)
    assert cube.coordinate("ra")[0] == pytest.approx(65.4697, abs=2e-4)
    assert cube.coordinate("dec")[0] == pytest.approx(57.8175, abs=3e-4)


def test_xo3_scatter_agrees_with_unc2d(xo3) -> None:
    _, cube = xo3
    for method in ("aper2", "aper3", "aper4", "aper5", "auto", "iso"):
        lc = cube.lightcurve(1, f"ch2_{method}_original")
        assert len(lc.good()) == 11
        ratio = np.std(lc.flux, ddof=1) / np.median(lc.flux_err)
        assert 1 / 1.5 < ratio < 1.5, (method, ratio)


def test_xo3_fluxes_are_microjansky_and_times_barycentric(xo3) -> None:
    _, cube = xo3
    lc = cube.lightcurve(1, "ch2_aper8_original")
    assert lc.unit == "uJy"
    # XO-3: K = 8.79 mag (2MASS), a late F star, so about 8.8 mag at 4.5 um
    assert lc.magnitude("Vega").mean() == pytest.approx(8.8, abs=0.1)
    assert lc.bjd_tdb is not None
    # header: BMJD_OBS 56270.4752315 UTC at the start; 125.96 s of exposure; UTC to TDB is 67.184 s
    start = 2400000.5 + 56270.4752315 + (125.96 / 2 + 67.184) / 86400
    # leap seconds at the end of 2012: 35, and TT - TAI = 32.184
    assert lc.bjd_tdb[0] == pytest.approx(start, abs=3e-6)
    assert math.isfinite(lc.bjd_tdb.sum())
