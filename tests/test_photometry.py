"""Photometry in frozen apertures against photutils, astropy, and sums written out."""

from __future__ import annotations

import numpy as np
import photutils.aperture
import pytest
from astropy.stats import SigmaClip, biweight_location, biweight_scale, mad_std
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from photutils.aperture import (
    ApertureStats,
    CircularAnnulus,
    CircularAperture,
    EllipticalAperture,
)

from idfzarr.errors import ImageShape, UsageError
from idfzarr.flags import flag_bit, flag_names
from idfzarr.imaging import annulus as annulus_module
from idfzarr.imaging import photometry, robust
from idfzarr.imaging.apertures import freeze
from idfzarr.imaging.photometry import forced_photometry, measure, measure_ratio, profile_of

SHAPE = (44, 52)
RADIUS = {"aper1": 2.0, "aper3": 4.0, "r3.5": 3.5, "aper8": 12.0}
OBJECTS = 12


def scene(seed: int, *, bad: float = 0.05):
    rng = np.random.default_rng(seed)
    image = rng.normal(3, 10, SHAPE) * 10 ** rng.uniform(-2, 3, SHAPE)
    variance = rng.uniform(0.1, 4, SHAPE)
    good = rng.uniform(size=SHAPE) >= bad
    # What a mask hides may be anything.
    image[~good] = rng.choice([np.nan, np.inf, -1e30], np.count_nonzero(~good))
    variance[~good] = rng.choice([np.nan, 0.0, -1.0], np.count_nonzero(~good))
    x = rng.uniform(-14, SHAPE[1] + 14, OBJECTS)
    y = rng.uniform(-14, SHAPE[0] + 14, OBJECTS)
    segmentation = np.zeros(SHAPE, dtype=np.int32)
    line, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for i in range(OBJECTS):
        segmentation[np.hypot(column - x[i], line - y[i]) < 3.2] = i + 1
    catalogue = {
        "x": x,
        "y": y,
        "kron_a": rng.uniform(2, 12, OBJECTS),
        "kron_b": rng.uniform(1, 6, OBJECTS),
        "theta": rng.uniform(-3, 3, OBJECTS),
    }
    return catalogue, segmentation, image, variance, good


def photutils_aperture(catalogue, method: str, i: int):
    centre = (catalogue["x"][i], catalogue["y"][i])
    if method == "auto":
        a, b, theta = (catalogue[name][i] for name in ("kron_a", "kron_b", "theta"))
        return EllipticalAperture(centre, a, b, theta=theta)
    return CircularAperture(centre, RADIUS[method])


def photutils_sums(aperture, image, error, mask):
    if hasattr(photutils.aperture, "AperturePhotometry"):  # since photutils 3.1
        result = photutils.aperture.AperturePhotometry(image, aperture, error=error, mask=mask)
        return float(result.flux), float(result.flux_err)
    table = photutils.aperture.aperture_photometry(image, aperture, error=error, mask=mask)
    return float(table["aperture_sum"][0]), float(table["aperture_sum_err"][0])


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), bad=st.sampled_from([0.0, 0.02, 0.4]))
def test_flux_and_error_are_photutils_sums_with_error_and_mask(seed, bad):
    catalogue, _, image, variance, good = scene(seed, bad=bad)
    methods = ["aper8", "auto", "aper1", "r3.5", "aper3"]
    sums = measure(freeze(catalogue, methods, SHAPE), image, variance, good)
    filled, filled_variance = np.where(good, image, 0), np.where(good, variance, 0)
    error = np.sqrt(filled_variance)
    compared = 0
    for m, method in enumerate(methods):
        for i in range(OBJECTS):
            aperture = photutils_aperture(catalogue, method, i)
            weights = aperture.to_mask(method="exact").to_image(SHAPE)
            inside = 0.0 if weights is None else weights.sum()
            share = (weights * good).sum() / inside if inside > 0 else 0.0
            if 1e-7 < share < 1e-5:
                continue  # too little to measure, too much to be surely told from nothing
            if share <= 1e-7:
                assert np.isnan(sums.flux[i, m])
                assert np.isnan(sums.flux_err[i, m])
                assert "not_observed" in flag_names(sums.flag[i, m])
                continue
            flux, flux_err = photutils_sums(aperture, filled, error, ~good)
            assert abs(sums.flux[i, m] - flux) <= 1e-11 * (np.abs(weights * filled).sum() + 1)
            scale = (weights * filled_variance).sum()
            assert abs(sums.flux_err[i, m] ** 2 - flux_err**2) <= 1e-11 * (scale + 1)
            compared += 1
    assert compared > 0


def test_the_figure_of_merit_holds_for_float32_images():
    catalogue, _, image, variance, _ = scene(7, bad=0)
    image32, variance32 = image.astype(np.float32), variance.astype(np.float32)
    frozen = freeze(catalogue, ["aper3", "auto"], SHAPE)
    sums = measure(frozen, image32, variance32)
    weights = frozen.matrix().toarray()
    expected = (weights @ image32.ravel().astype(np.float64)).reshape(sums.flux.shape)
    scale = (weights @ np.abs(image32).ravel().astype(np.float64)).reshape(sums.flux.shape)
    seen = scale > 0
    assert seen.sum() > 5
    assert (np.abs(sums.flux - expected)[seen] <= 1e-12 * scale[seen]).all()


def test_iso_is_the_sum_over_the_segment():
    catalogue, segmentation, image, variance, good = scene(8)
    frozen = freeze(catalogue, ["aper1", "iso"], SHAPE, segmentation=segmentation)
    sums = measure(frozen, image, variance, good)
    seen = 0
    for i in range(OBJECTS):
        chosen = (segmentation == i + 1) & good
        if not chosen.any():
            assert np.isnan(sums.flux[i, 1])
            continue
        seen += 1
        assert sums.flux[i, 1] == pytest.approx(image[chosen].sum(), rel=1e-9)
        assert sums.flux_err[i, 1] == pytest.approx(np.sqrt(variance[chosen].sum()), rel=1e-12)
    assert seen > 3


@pytest.mark.parametrize("squared", [True, False])
def test_errors_weigh_the_variance_by_the_overlap_squared_or_by_the_overlap(squared):
    catalogue, segmentation, image, variance, good = scene(20)
    stamp = np.exp(-0.5 * np.hypot(*np.mgrid[-9:10, -9:10]) ** 2 / 2.0)
    methods = ["aper8", "psf", "auto", "aper1", "iso"]
    frozen = freeze(
        catalogue, methods, SHAPE, segmentation=segmentation, psf=stamp, squared=squared
    )
    sums = measure(frozen, image, variance, good)
    weights = frozen.matrix().toarray().reshape(OBJECTS, len(methods), -1)
    counted = weights**2 if squared else weights.copy()
    counted[:, 1] = weights[:, 1] ** 2
    expected = counted @ np.where(good, variance, 0.0).ravel()
    scale = weights @ np.where(good, variance, 0.0).ravel()
    seen = ~np.isnan(sums.flux)
    assert seen.sum() > 20
    # Overlaps below 1e-13 are rounding and are left out: an absolute term beside the relative.
    assert (np.abs(sums.flux_err**2 - expected)[seen] <= 1e-12 * (scale[seen] + 1)).all()


def test_psf_errors_take_the_square_of_the_weights():
    stamp = np.exp(-0.5 * np.hypot(*np.mgrid[-9:10, -9:10]) ** 2 / 2.0)
    catalogue = {"x": [20.2, 30.9], "y": [20.7, 15.0]}
    frozen = freeze(catalogue, ["aper1", "psf"], SHAPE, psf=stamp)
    variance = np.random.default_rng(9).uniform(1, 2, SHAPE)
    sums = measure(frozen, np.ones(SHAPE), variance)
    weights = frozen.matrix().toarray()[1::2]
    expected = np.sqrt((weights**2) @ variance.ravel())
    np.testing.assert_allclose(sums.flux_err[:, 1], expected, rtol=1e-12)
    # A matched filter is the least noisy unbiased sum: no worse than a circle of 4 px.
    wide = measure(freeze(catalogue, ["aper3"], SHAPE), np.ones(SHAPE), variance)
    assert (sums.flux_err[:, 1] < wide.flux_err[:, 0]).all()


@pytest.mark.parametrize("bad", [0.03, 0.6])
def test_coverage_and_masks_are_what_the_definition_says(bad):
    catalogue, segmentation, image, variance, good = scene(10, bad=bad)
    superstack = np.random.default_rng(11).normal(0.5, 1, SHAPE)
    superstack[3, 4] = np.nan
    superstack[:, :9] = -1.0  # apertures in there hold no light: area counts
    methods = ["aper3", "auto", "iso", "aper1"]
    frozen = freeze(catalogue, methods, SHAPE, segmentation=segmentation)
    sums = measure(frozen, image, variance, good, profile=profile_of(frozen, superstack))
    light = np.where(superstack > 0, superstack, 0.0).ravel()
    weights = frozen.matrix().toarray().reshape(OBJECTS, len(methods), -1)
    by_area = 0
    for i in range(OBJECTS):
        for m in range(len(methods)):
            w = weights[i, m]
            profile = light if (w * light).sum() > 0 else np.ones(light.size)
            by_area += bool(w.sum() > 0 and (w * light).sum() == 0)
            total = (w * profile).sum()
            expected = (w * good.ravel() * profile).sum() / total if total > 0 else 0.0
            assert sums.coverage[i, m] == pytest.approx(expected, abs=1e-6)
            names = set(flag_names(sums.flag[i, m]))
            assert ("masked_pixels" in names) == bool(((w > 0) & ~good.ravel()).any())
            assert ("low_coverage" in names) == (expected < photometry.LOW_COVERAGE)
    assert by_area > 0
    assert (sums.coverage == 1).any() or bad > 0.5


def test_a_perfect_mosaic_has_full_coverage_and_no_flag_but_the_frozen_ones():
    catalogue = {"x": [20.0, 0.0, -30.0], "y": [20.0, 20.0, 20.0]}
    frozen = freeze(catalogue, ["aper2"], SHAPE)
    sums = measure(frozen, np.ones(SHAPE), np.ones(SHAPE))
    assert flag_names(sums.flag[0, 0]) == ()
    assert flag_names(sums.flag[1, 0]) == ("edge",)
    assert flag_names(sums.flag[2, 0]) == ("edge", "low_coverage", "not_observed")
    assert sums.coverage[:, 0].tolist() == [1.0, 1.0, 0.0]
    assert sums.flux[0, 0] == pytest.approx(9 * np.pi)
    assert np.isnan(sums.flux[2, 0])


def test_an_aor_without_a_good_pixel_measures_nothing():
    frozen = freeze({"x": [20.0], "y": [20.0]}, ["aper2", "r3.5"], SHAPE)
    profile = profile_of(frozen, np.ones(SHAPE))
    blank = measure(frozen, np.full(SHAPE, np.nan), np.ones(SHAPE), profile=profile)
    assert np.isnan(blank.flux).all()
    assert np.isnan(blank.flux_err).all()
    assert (blank.flag & flag_bit("not_observed")).all()
    assert blank.coverage.max() == 0


@settings(max_examples=40)
@given(
    x=st.floats(-4, SHAPE[1] + 3),
    y=st.floats(-4, SHAPE[0] + 3),
    radius=st.sampled_from([0.4, 1.7, 3.5, 5.0]),
)
def test_an_aperture_whose_every_pixel_is_bad_was_not_observed(x, y, radius):
    frozen = freeze({"x": [x], "y": [y]}, [f"r{radius}"], SHAPE)
    line, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
    good = np.hypot(column - x, line - y) > radius + 1
    assert good.mean() > 0.9
    sums = measure(
        frozen, np.ones(SHAPE), np.ones(SHAPE), good, profile=profile_of(frozen, np.ones(SHAPE))
    )
    assert np.isnan(sums.flux[0, 0])
    assert np.isnan(sums.flux_err[0, 0])
    assert sums.coverage[0, 0] < 1e-6
    assert {"not_observed", "low_coverage"} <= set(flag_names(sums.flag[0, 0]))


def test_a_bad_pixel_outside_an_aperture_changes_nothing():
    frozen = freeze({"x": [20.0], "y": [20.0]}, ["aper8", "aper2"], SHAPE)
    image, good = np.random.default_rng(1).normal(size=SHAPE), np.ones(SHAPE, dtype=bool)
    before = measure(frozen, image, np.ones(SHAPE), good)
    image[20, 30], good[20, 30] = 1e6, False  # in aper8, not in aper2
    after = measure(frozen, image, np.ones(SHAPE), good)
    assert after.flux[0, 1] == before.flux[0, 1]
    assert after.flag[0].tolist() == [flag_bit("masked_pixels"), 0]
    assert after.flux[0, 0] != before.flux[0, 0]


def test_saturated_pixels_flag_the_apertures_that_hold_them():
    frozen = freeze({"x": [20.0, 40.0], "y": [20.0, 20.0]}, ["aper8", "aper2"], SHAPE)
    saturated = np.zeros(SHAPE, dtype=bool)
    saturated[20, 30] = True
    sums = measure(frozen, np.ones(SHAPE), None, saturated=saturated)
    assert ((sums.flag & flag_bit("saturated")) != 0).tolist() == [[True, False], [True, False]]
    assert np.isnan(sums.flux_err).all()
    assert np.isfinite(sums.flux).all()


def test_several_images_at_once_are_each_alone():
    catalogue, _, image, variance, good = scene(12)
    clean = np.where(good, image * 0.5 + 1, np.nan)
    frozen = freeze(catalogue, ["aper3", "auto"], SHAPE)
    both = measure(frozen, np.stack([image, clean]), variance, good)
    for k, alone in enumerate((image, clean)):
        single = measure(frozen, alone, variance, good)
        np.testing.assert_array_equal(both.flux[k], single.flux)
        np.testing.assert_array_equal(both.flux_err, single.flux_err)
        np.testing.assert_array_equal(both.flag, single.flag)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), p=st.floats(-5, 5), q=st.floats(-5, 5))
def test_photometry_is_linear(seed, p, q):
    catalogue, _, _, variance, good = scene(seed)
    rng = np.random.default_rng(seed + 1)
    one, two = rng.normal(size=(2, *SHAPE))
    frozen = freeze(catalogue, ["aper3", "auto", "aper8"], SHAPE)
    variance = np.where(good, variance, 1.0)
    a, b, c = (
        measure(frozen, image, variance, good).flux for image in (one, two, p * one + q * two)
    )
    np.testing.assert_allclose(p * a + q * b, c, atol=1e-9)


def test_permuted_objects_give_permuted_results():
    catalogue, segmentation, image, variance, good = scene(13)
    order = np.random.default_rng(2).permutation(OBJECTS)
    methods = ["aper3", "iso", "auto"]
    frozen = freeze(
        {**catalogue, "labels": np.arange(1, OBJECTS + 1)},
        methods,
        SHAPE,
        segmentation=segmentation,
    )
    moved = {name: column[order] for name, column in catalogue.items()} | {"labels": order + 1}
    other = freeze(moved, methods, SHAPE, segmentation=segmentation)
    light = np.abs(np.nan_to_num(image, posinf=0, neginf=0))
    one = measure(frozen, image, variance, good, profile=profile_of(frozen, light))
    two = measure(other, image, variance, good, profile=profile_of(other, light))
    for part in ("flux", "flux_err", "coverage", "flag"):
        np.testing.assert_array_equal(getattr(two, part), getattr(one, part)[order])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.ones((3, 4))}, "the image has the shape"),
        ({"images": np.ones((0, *SHAPE))}, "empty stack"),
        ({"images": np.ones(7)}, "the image has the shape"),
        ({"variance": np.ones((3, 4))}, "the variance has the shape"),
        ({"good": np.ones((3, 4))}, "the mask of good pixels has the shape"),
        ({"saturated": np.ones((3, 4))}, "the mask has the shape"),
    ],
)
def test_images_of_another_shape_are_refused(change, message):
    frozen = freeze({"x": [20.0], "y": [20.0]}, ["aper2"], SHAPE)
    given_ = {"images": np.ones(SHAPE), "variance": np.ones(SHAPE), **change}
    with pytest.raises(ImageShape, match=message):
        measure(frozen, **given_)


# robust statistics

# Eighths: values next to each other by a rounding would be clipped, or not, by chance.
samples = arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(1, 20)),
    elements=st.one_of(
        st.integers(-800, 800).map(lambda eighths: eighths / 8),
        st.sampled_from([0.0, 1.0, np.nan, 1e4]),
    ),
    fill=st.nothing(),
)


@settings(max_examples=60)
@given(rows=samples)
def test_row_statistics_are_astropys(rows):
    kept = robust.clip_rows(rows)
    clip = SigmaClip(sigma=3, maxiters=10)
    for row, ours, location, scale, median, mad, std in zip(
        rows,
        kept,
        robust.biweight_location(kept),
        robust.biweight_scale(kept),
        robust.median_rows(kept),
        robust.mad_std_rows(kept),
        robust.std_rows(kept),
        strict=True,
    ):
        there = row[~np.isnan(row)]
        if there.size == 0:
            assert np.isnan([location, scale, median, mad, std]).all()
            continue
        expected = clip(there, masked=False)
        assert np.sort(ours[~np.isnan(ours)]).tolist() == np.sort(expected).tolist()
        size = np.abs(expected).max() + 1
        assert median == pytest.approx(np.median(expected), abs=1e-12 * size)
        assert mad == pytest.approx(mad_std(expected), abs=1e-12 * size)
        assert std == pytest.approx(np.std(expected), abs=1e-12 * size)
        assert location == pytest.approx(biweight_location(expected), abs=1e-10 * size)
        assert scale == pytest.approx(biweight_scale(expected), rel=1e-8, abs=1e-8 * size)


def test_ratio_statistics_are_astropys_on_the_nearest_pixels():
    rng = np.random.default_rng(14)
    ratio = rng.normal(1, 0.1, SHAPE)
    ratio[rng.uniform(size=SHAPE) < 0.1] += 5
    good = rng.uniform(size=SHAPE) > 0.1
    x, y = rng.uniform(4, 38, (2, 40))
    methods = [f"{kind}{count}" for kind in ("median", "biweight") for count in (3, 7, 13, 20)]
    frozen = freeze({"x": x, "y": y}, ["aper1", *methods], SHAPE)
    sums = measure_ratio(frozen, np.where(good, ratio, np.nan), good)
    assert sums.flux.shape == (40, 8)
    line, column = np.mgrid[: SHAPE[0], : SHAPE[1]].reshape(2, -1)
    for i in range(40):
        nearest = np.argsort(np.hypot(column - x[i], line - y[i]), kind="stable")
        for s, method in enumerate(methods):
            count = int(method.removeprefix("median").removeprefix("biweight"))
            chosen = nearest[:count][good.ravel()[nearest[:count]]]
            kept = SigmaClip(sigma=3, maxiters=10)(ratio.ravel()[chosen], masked=False)
            if method.startswith("median"):
                location, scale = np.median(kept), mad_std(kept)
            else:
                location, scale = biweight_location(kept), biweight_scale(kept)
            assert sums.flux[i, s] == pytest.approx(location, abs=1e-10)
            assert sums.flux_err[i, s] == pytest.approx(scale, abs=1e-10)
            assert sums.coverage[i, s] == pytest.approx(chosen.size / count)
            names = flag_names(sums.flag[i, s])
            assert ("masked_pixels" in names) == (chosen.size < count)
            assert ("low_coverage" in names) == (chosen.size < count / 2)


def test_ratio_statistics_say_why_there_is_no_value():
    frozen = freeze(
        {"x": [20.0, 10.0, -30.0, 0.0], "y": [20.0, 10.0, 5.0, 20.0]}, ["median7"], SHAPE
    )
    ratio, good = np.ones(SHAPE), np.ones(SHAPE, dtype=bool)
    ratio[16:25, 16:25] = np.inf  # the superstack is zero there
    good[6:15, 6:15] = False
    sums = measure_ratio(frozen, ratio, good)
    names = [set(flag_names(flag)) for flag in sums.flag[:, 0]]
    assert names[0] == {"masked_pixels", "low_coverage", "undefined"}
    assert names[1] == {"masked_pixels", "low_coverage", "not_observed"}
    assert names[2] == {"edge", "low_coverage", "not_observed"}
    assert names[3] == {"edge"}
    assert np.isnan(sums.flux[:, 0]).tolist() == [True, True, True, False]
    assert (sums.flux[3, 0], sums.flux_err[3, 0]) == (1.0, 0.0)


# forced photometry


def test_forced_photometry_is_photutils_at_positions():
    catalogue, _, image, variance, good = scene(15)
    x, y = np.clip(catalogue["x"], 13, 38), np.clip(catalogue["y"], 13, 30)
    unc = np.sqrt(np.where(good, variance, np.nan))
    table = forced_photometry(image, x, y, methods=["aper3", "r3.5"], unc=unc, mask=~good)
    assert table.colnames == [
        "x", "y", "aper3_flux", "aper3_flux_err", "aper3_flag",
        "r3.5_flux", "r3.5_flux_err", "r3.5_flag",
    ]  # fmt: skip
    filled = np.where(good, image, 0)
    for method in ("aper3", "r3.5"):
        for i in range(OBJECTS):
            aperture = CircularAperture((x[i], y[i]), RADIUS[method])
            flux, flux_err = photutils_sums(aperture, filled, unc, ~good)
            assert table[f"{method}_flux"][i] == pytest.approx(flux, rel=1e-9)
            assert table[f"{method}_flux_err"][i] == pytest.approx(flux_err, rel=1e-9)
    assert table["aper3_flag"].dtype == np.uint16
    assert np.isnan(forced_photometry(image, x, y, mask=~good)["aper3_flux_err"]).all()


def test_forced_photometry_takes_the_clipped_median_of_the_annulus(monkeypatch):
    monkeypatch.setattr(annulus_module, "_PIXELS_AT_ONCE", 3000)  # several runs
    rng = np.random.default_rng(16)
    sci = rng.normal(7, 1, (90, 90))
    sci[rng.uniform(size=sci.shape) < 0.05] += 100
    mask = rng.uniform(size=sci.shape) < 0.05
    sci[mask] = np.nan
    x, y = rng.uniform(3, 86, (2, 15))
    at = np.column_stack([x, y])
    clip = SigmaClip(sigma=3, maxiters=10)
    stats = ApertureStats(
        np.where(mask, 0, sci), CircularAnnulus(at, 6, 11.5), mask=mask, sigma_clip=clip
    )
    table = forced_photometry(sci, x, y, methods=["aper2"], unc=0.5, mask=mask, annulus=(6, 11.5))
    np.testing.assert_allclose(table["sky"], stats.median, rtol=1e-12)
    np.testing.assert_allclose(table["sky_scatter"], stats.std, rtol=1e-9)
    plain = forced_photometry(sci, x, y, methods=["aper2"], unc=0.5, mask=mask)
    frozen = freeze({"x": x, "y": y}, ["aper2"], sci.shape)
    weights = frozen.matrix().toarray()
    area = weights @ ~mask.ravel()
    noisy = (weights**2 if frozen.squared else weights) @ ~mask.ravel()
    np.testing.assert_allclose(
        plain["aper2_flux"] - table["aper2_flux"], stats.median * area, rtol=1e-6
    )
    pixels = np.asarray(stats.center_aper_area.value, dtype=float)
    expected = np.sqrt(0.25 * noisy + area**2 / pixels * np.pi / 2 * stats.std**2)
    np.testing.assert_allclose(table["aper2_flux_err"], expected, rtol=1e-6)
    measured = forced_photometry(sci, x, y, methods=["aper2"], mask=mask, annulus=(6, 11.5))
    expected = np.sqrt(stats.std**2 * (noisy + area**2 / pixels * np.pi / 2))
    np.testing.assert_allclose(measured["aper2_flux_err"], expected, rtol=1e-6)
    assert (measured["aper2_flag"] & flag_bit("noise_model")).all()
    assert not (table["aper2_flag"] & flag_bit("noise_model")).any()


def test_the_annulus_error_is_the_scatter_of_many_skies():
    rng = np.random.default_rng(17)
    sci = rng.normal(100, 3, (700, 700))
    x, y = (axis.ravel().astype(float) for axis in np.meshgrid(*[np.arange(15, 690, 27)] * 2))
    table = forced_photometry(sci, x, y, methods=["aper5"], unc=3.0, annulus=(8, 13))
    pulls = table["aper5_flux"] / table["aper5_flux_err"]
    assert len(table) == 625
    assert 0.9 < np.std(pulls) < 1.1
    assert abs(np.mean(pulls)) < 0.15


def test_forced_photometry_says_where_nothing_can_be_measured():
    sci = np.ones((40, 40))
    mask = np.hypot(*np.mgrid[-20:20, -20:20]) > 6
    table = forced_photometry(
        sci, [20, -50], [20, 20], methods=["aper1"], mask=mask, annulus=(8, 11)
    )
    assert np.isnan(table["aper1_flux"]).all()
    assert np.isnan(table["aper1_flux_err"]).all()
    assert "background_failed" in flag_names(table["aper1_flag"][0])
    assert {"edge", "not_observed", "background_failed"} <= set(flag_names(table["aper1_flag"][1]))
    assert len(forced_photometry(sci, [], [])) == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"methods": ["auto"]}, UsageError, "cannot measure 'auto', which needs a catalogue"),
        ({"methods": ["median7"]}, UsageError, "cannot measure 'median7'"),
        ({"methods": ["apre2"]}, UsageError, "'apre2' is no method"),
        ({"methods": "aper2"}, UsageError, "single string"),
        ({"x": [np.nan]}, UsageError, "row 0 is not finite"),
        ({"x": [1.0, 2.0]}, UsageError, "2 x and 1 y"),
        ({"annulus": (9, 5)}, UsageError, "0 <= r_in < r_out"),
        ({"annulus": (9, np.inf)}, UsageError, "0 <= r_in < r_out"),
        ({"unc": np.ones((2, 2))}, ImageShape, "unc has the shape"),
        ({"mask": np.ones((2, 2))}, ImageShape, "the mask has the shape"),
        ({"sci": np.ones((2, 3, 3))}, ImageShape, "forced photometry needs an image"),
    ],
)
def test_bad_input_to_forced_photometry_is_one_clear_sentence(change, error, message):
    asked = {"sci": np.ones((20, 20)), "x": [9.0], "y": [9.0], **change}
    with pytest.raises(error, match=message):
        forced_photometry(asked.pop("sci"), asked.pop("x"), asked.pop("y"), **asked)
