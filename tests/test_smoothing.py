"""Clip, smooth, bin, rates: worked by hand, and equal to slow loops on random lightcurves."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.stats import mad_std
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.analysis import smoothing
from idfzarr.analysis.smoothing import (
    bin_flags,
    bin_lightcurve,
    bin_numbers,
    bin_rows,
    clip,
    rates,
    smooth,
)
from idfzarr.errors import UsageError

SEEDS = st.integers(0, 2**32 - 1)
NAN = float("nan")


def made(seed, n=40):
    """Return a lightcurve out of order, with gaps, outliers, points of one time and NaN."""
    rng = np.random.default_rng(seed)
    mjd = np.round(rng.uniform(53000, 53100, n), 1)
    value = rng.normal(5, 1, n)
    value[rng.random(n) < 0.1] += 30
    error = rng.uniform(0.5, 2, n)
    value[rng.random(n) < 0.1] = NAN
    mjd[rng.random(n) < 0.05] = NAN
    error[rng.random(n) < 0.05] = NAN
    return mjd, value, error


# ------------------------------------------------------------------ clip


@given(SEEDS, st.sampled_from([None, 0.5, 10.0, 60.0, 1e4]), st.floats(0.5, 6), st.booleans())
def test_clip_equals_a_slow_loop(seed, window, sigma, with_error):
    mjd, value, error = made(seed)
    kept = clip(mjd, value, sigma=sigma, window=window, error=error if with_error else None)
    known = np.isfinite(mjd) & np.isfinite(value)
    for i in range(len(mjd)):
        if not known[i]:
            assert not kept[i]
            continue
        inside = known if window is None else known & (np.abs(mjd - mjd[i]) <= window / 2 + 1e-12)
        if window is not None and (np.abs(np.abs(mjd - mjd[i])[known] - window / 2) < 1e-9).any():
            continue  # on the rim of a window rounding decides
        scale = mad_std(value[inside])
        if with_error and error[i] > scale:
            scale = error[i]
        off = abs(value[i] - np.median(value[inside]))
        if abs(off - sigma * scale) > 1e-9:
            assert kept[i] == (off <= sigma * scale or inside.sum() < 5)


def test_clip_by_hand():
    time = np.arange(7.0)
    value = np.array([1, 2, 3, 100, 5, 6, 7.0])
    assert clip(time, value, sigma=5).tolist() == [True, True, True, False, True, True, True]
    # the error of a point speaks for it
    error = np.array([1, 1, 1, 50, 1, 1, 1.0])
    assert clip(time, value, sigma=5, error=error).all()
    # windows of three points judge none
    assert clip(time, value, sigma=1, window=2).all()


def test_a_window_sees_what_the_whole_lightcurve_hides():
    time = np.arange(100.0)
    value = time.copy()
    value[50] = 70
    assert clip(time, value, sigma=2).all()
    assert np.flatnonzero(~clip(time, value, sigma=2, window=20)).tolist() == [50]


@pytest.mark.parametrize("n", [0, 1, 2, 6])
def test_constant_short_and_empty_lightcurves_stay_whole(n):
    time, value = np.arange(n, dtype=float), np.full(n, 0.1)
    assert clip(time, value, sigma=3).tolist() == [True] * n
    assert clip(time, value, sigma=3, window=4).tolist() == [True] * n
    assert clip(time, np.full(n, NAN), sigma=3).tolist() == [False] * n


def test_one_other_value_in_a_constant_lightcurve_goes():
    value = np.full(9, 3.0)
    value[4] = 3.1
    assert np.flatnonzero(~clip(np.arange(9.0), value, sigma=5)).tolist() == [4]
    value[4] = np.nextafter(3.0, 4)
    assert clip(np.arange(9.0), value, sigma=5).all()


def test_windows_in_blocks_are_windows(monkeypatch):
    mjd, value, error = made(3, n=300)
    whole = clip(mjd, value, sigma=2, window=20), smooth(mjd, value, window=20, error=error).value
    monkeypatch.setattr(smoothing, "_BLOCK", 100)
    parts = clip(mjd, value, sigma=2, window=20), smooth(mjd, value, window=20, error=error).value
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_allclose(whole[1], parts[1], rtol=1e-13)  # sums of other widths


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"sigma": 0}, "sigma must be a positive number, not 0"),
        ({"sigma": NAN}, "sigma must be"),
        ({"sigma": 3, "window": -1}, "the window, in days, must be"),
        ({"sigma": 3, "error": [1.0]}, r"error \(1,\)"),
    ],
)
def test_what_cannot_be_clipped_is_refused(how, message):
    with pytest.raises(UsageError, match=message):
        clip([1.0, 2.0], [1.0, 2.0], **how)


def test_lightcurves_of_two_dimensions_are_refused():
    with pytest.raises(UsageError, match=r"mjd \(2, 1\)"):
        clip([[1.0], [2.0]], [[1.0], [2.0]], sigma=1)


# ------------------------------------------------------------------ smooth


@given(SEEDS, st.sampled_from([0.25, 10.15, 60.05, 1e4]))
def test_smooth_equals_a_slow_loop(seed, window):
    mjd, value, error = made(seed)
    known = np.isfinite(mjd) & np.isfinite(value)
    plain = smooth(mjd, value, window=window)
    assert plain.n.sum() >= known.sum() == len(plain.mjd)
    for k, time in enumerate(plain.mjd):
        inside = known & (np.abs(mjd - time) <= window / 2)
        assert plain.n[k] == inside.sum()
        assert plain.value[k] == pytest.approx(np.median(value[inside]))
    with np.errstate(invalid="ignore"):
        known &= error > 0
    heavy = smooth(mjd, value, window=window, error=error)
    assert len(heavy.mjd) == known.sum()
    for k, time in enumerate(heavy.mjd):
        inside = known & (np.abs(mjd - time) <= window / 2)
        weight = error[inside] ** -2
        mean = np.average(value[inside], weights=weight)
        assert heavy.value[k] == pytest.approx(mean)
        chi2 = (weight * (value[inside] - mean) ** 2).sum() / max(inside.sum() - 1, 1)
        expected = np.sqrt(max(1, chi2) / weight.sum())
        assert heavy.high[k] - heavy.value[k] == pytest.approx(expected)
        assert heavy.value[k] - heavy.low[k] == pytest.approx(expected)


def test_smooth_by_hand():
    found = smooth([3.0, 1.0, 2.0, 10.0], [9.0, 1.0, 2.0, 5.0], window=4)
    assert found.mjd.tolist() == [1, 2, 3, 10]
    assert found.value.tolist() == [2, 2, 2, 5]
    assert found.n.tolist() == [3, 3, 3, 1]
    half = np.sqrt(np.pi / 2) * 1.4826022 * 1 / np.sqrt(3)
    np.testing.assert_allclose(found.high[:3] - 2, half, rtol=1e-6)
    assert np.isnan(found.low[3])
    lone = smooth([1.0], [5.0], window=4, error=[0.5])
    assert (lone.low[0], lone.high[0]) == (4.5, 5.5)


def test_outliers_are_left_out_before_smoothing():
    value = np.ones(20)
    value[7] = 50
    found = smooth(np.arange(20.0), value, window=10, sigma=5, error=np.ones(20))
    assert len(found.mjd) == 19
    np.testing.assert_allclose(found.value, 1)


def test_the_band_of_white_noise_holds_the_truth_two_times_in_three():
    rng = np.random.default_rng(5)
    value = rng.normal(0, 1, 20000)
    for error in (None, np.ones(20000)):
        found = smooth(np.arange(20000.0), value, window=30, error=error)
        inside = ((found.low <= 0) & (found.high >= 0)).mean()
        assert 0.62 < inside < 0.78


def test_smoothing_nothing_gives_nothing():
    for value in ([], [NAN, NAN]):
        found = smooth(np.arange(len(value), dtype=float), value, window=3)
        assert len(found.mjd) == len(found.value) == len(found.n) == 0


# ------------------------------------------------------------------ bins


@given(SEEDS, st.sampled_from([0.5, 14.0, 1000.0]), st.sampled_from(smoothing.BIN_METHODS))
def test_bins_equal_a_slow_loop(seed, width, method):
    mjd, value, error = made(seed)
    good = np.random.default_rng(seed + 1).random(len(mjd)) > 0.2
    found = bin_lightcurve(mjd, value, error, good, width=width, method=method)
    usable = good & np.isfinite(mjd) & np.isfinite(value)
    if method == "weighted":
        usable &= np.isfinite(error)
    starts = sorted({np.floor(t / width) * width for t in mjd[usable]})
    assert found.start.tolist() == pytest.approx(starts)
    for k, start in enumerate(starts):
        mine = usable & (mjd >= start) & (mjd < start + width)
        v, e = value[mine], error[mine]
        assert found.n[k] == len(v)
        assert found.mjd[k] == pytest.approx(mjd[mine].mean())
        mean_err = np.sqrt((e**2).sum()) / len(v)
        expected = {
            "weighted": (np.average(v, weights=np.nan_to_num(e**-2)), (e**-2).sum() ** -0.5)
            if np.isfinite(e).all()
            else (NAN, NAN),
            "mean": (v.mean(), mean_err),
            "median": (np.median(v), mean_err * (np.sqrt(np.pi / 2) if len(v) > 2 else 1)),
        }[method]
        assert found.flux[k] == pytest.approx(expected[0])
        assert found.flux_err[k] == pytest.approx(expected[1], nan_ok=True)


def test_bins_by_hand():
    mjd = [0.0, 13.9, 14.0, 27.0, 28.5, 100.0]
    flux = [10.0, 20.0, 1.0, 3.0, 7.0, NAN]
    error = [1.0, 2.0, 1.0, 1.0, 0.5, 1.0]
    found = bin_lightcurve(mjd, flux, error, width=14)
    np.testing.assert_allclose(found.flux, [(10 + 20 / 4) / 1.25, 2.0, 7.0])
    np.testing.assert_allclose(found.flux_err, [1.25**-0.5, 0.5**0.5, 0.5])
    assert found.n.tolist() == [2, 2, 1]
    np.testing.assert_allclose(found.mjd, [6.95, 20.5, 28.5])
    assert found.start.tolist() == [0, 14, 28]
    flagged = [True, False, True, True, False, True]
    found = bin_lightcurve(mjd, flux, error, flagged, width=14, method="mean")
    assert found.flux.tolist() == [10, 2]


def test_bins_of_nothing():
    for flux in ([], [NAN]):
        found = bin_lightcurve(np.zeros(len(flux)), flux, np.ones(len(flux)), width=1)
        assert [len(x) for x in (found.mjd, found.flux, found.flux_err, found.n)] == [0] * 4


def test_bins_are_the_same_for_every_lightcurve():
    assert bin_numbers([0.0, 6.9, 7.0, NAN, 53000.5], width=7).tolist() == [0, 0, 1, -1, 7571]


def test_the_flag_of_a_bin_is_that_of_what_was_used():
    flag = np.array([[1, 2, 16, 8, 0, 4]], dtype=np.uint16)
    used = np.array([[False, True, True, False, False, True]])
    number = np.array([3, 3, 3, 5, 5, -1])
    assert bin_flags(flag, used, number).tolist() == [[18, 8]]
    none = bin_flags(np.zeros((1, 1), np.uint16), np.zeros((1, 1), bool), np.array([0]))
    assert none.tolist() == [[256]]


def test_rows_are_binned_each_for_itself():
    rng = np.random.default_rng(1)
    flux, error = rng.normal(5, 1, (3, 2, 50)), rng.uniform(1, 2, (3, 2, 50))
    good = rng.random((3, 2, 50)) > 0.3
    number = bin_numbers(rng.uniform(0, 100, 50), width=10)
    whole = bin_rows(flux, error, good, number, method="median")
    one = bin_rows(flux[2, 1], error[2, 1], good[2, 1], number, method="median")
    for many, single in zip(whole, one, strict=True):
        np.testing.assert_array_equal(many[2, 1], single)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"width": 0}, "the width of bins, in days, must be a positive number, not 0"),
        ({"width": 3, "method": "wieghted"}, "no way to bin; nearest: 'weighted'"),
    ],
)
def test_what_cannot_be_binned_is_refused(how, message):
    with pytest.raises(UsageError, match=message):
        bin_lightcurve([1.0], [1.0], [1.0], **how)


# ------------------------------------------------------------------ rates


def test_rates_by_hand():
    found = rates([2.0, 0.0, 3.0, 3.0, 7.0], [21.0, 20.0, NAN, 20.0, 22.0], [0.3, 0.4, 1, 0.4, 0])
    assert found.mjd.tolist() == [1.0, 2.5, 5.0]
    np.testing.assert_allclose(found.rate, [0.5, -1.0, 0.5])
    np.testing.assert_allclose(found.mag, [20.5, 20.5, 21])
    np.testing.assert_allclose(found.rate_err, [0.25, 0.5, 0.1])


def test_points_of_one_time_have_no_rate_between_them():
    assert rates([1.0, 1.0, 2.0], [5.0, 6.0, 8.0]).rate.tolist() == [2.0]


@pytest.mark.parametrize("mag", [[], [20.0], [NAN, 20.0]])
def test_fewer_than_two_points_have_no_rate(mag):
    found = rates(np.arange(len(mag), dtype=float), mag)
    assert len(found.rate) == len(found.mjd) == len(found.rate_err) == 0


def test_rates_without_errors_have_none():
    assert np.isnan(rates([0.0, 1.0], [1.0, 2.0]).rate_err).all()
