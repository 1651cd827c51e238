"""Variability statistics against loops over single lightcurves, light-curve, scipy and astropy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from astropy import stats as astropy_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from idfzarr.analysis import variability
from idfzarr.analysis.scatter import chi2_log10_p
from idfzarr.analysis.statistic_definitions import (
    COSTLY_STATISTICS,
    DEFINITIONS,
    STRUCTURE_FUNCTION_LAGS,
    TWO_BAND_STATISTICS,
    definition,
)
from idfzarr.analysis.variability import STATISTICS, statistics
from idfzarr.errors import UnknownName, UsageError

NAMES = [d.name for d in STATISTICS]
OF_ORDER = {"von_neumann", "inverse_eta", "stetson_j", "stetson_l", "max_rate"}
OF_TIME = {"slope", "max_rate", *(f"sf_{lag}" for lag in STRUCTURE_FUNCTION_LAGS)}
TOLERANCE = 1e-6  # the accuracy that is demanded


def by_hand(flux, err, good, mjd):
    """One lightcurve, statistic by statistic, in the words of their definitions."""
    use = good & np.isfinite(flux) & np.isfinite(err) & (err > 0) & np.isfinite(mjd)
    order = np.argsort(mjd[use], kind="stable")
    f, e, t = (a[use][order].astype(float) for a in (flux, err, mjd))
    n = len(f)
    result = dict.fromkeys(NAMES, math.nan)
    result["n"] = n
    if n == 0:
        return result
    result["median"] = middle = np.median(f)
    result["median_err"] = np.median(e)
    result["weighted_mean"] = mean = np.average(f, weights=e**-2)
    pull = (f - middle) / e
    result["max_pull"] = pull[np.argmax(np.abs(pull))]
    if n == 1:
        return result
    result["robust_scatter"] = stats.median_abs_deviation(f, scale="normal")
    result["iqr"] = stats.iqr(f)
    result["amplitude"] = (max(f) - min(f)) / 2
    result["standard_deviation"] = np.std(f, ddof=1)
    chi2 = math.fsum(((a - mean) / b) ** 2 for a, b in zip(f, e, strict=True))
    result["reduced_chi2"] = chi2 / (n - 1)
    p = stats.chi2.sf(chi2, n - 1)
    if p > 1e-250:
        result["chi2_log10_p"] = math.log10(p)
    kept = np.sort(pull**2)[: n - int(np.ceil(0.01 * n))]
    result["trimmed_chi2"] = kept.mean()
    result["roms"] = sum(abs(pull)) / (n - 1)
    if f.mean() ** 2 > 0:
        result["excess_variance"] = (f.var(ddof=1) - np.mean(e**2)) / f.mean() ** 2
    d = math.sqrt(n / (n - 1)) * (f - mean) / e
    pairs = [d[i] * d[i + 1] for i in range(n - 1)]
    result["stetson_j"] = sum(np.sign(x) * math.sqrt(abs(x)) for x in pairs) / (n - 1)
    if np.ptp(f) > 0:
        result["stetson_k"] = np.mean(np.abs(d)) / np.sqrt(np.mean(d**2))
        result["stetson_l"] = result["stetson_j"] * result["stetson_k"] / 0.798
    steps = np.mean(np.diff(f) ** 2)
    if np.ptp(f) > 0:
        result["von_neumann"] = steps / f.var(ddof=1)
        if n > 2:
            result["skewness"] = stats.skew(f, bias=False)
    if steps > 0:
        result["inverse_eta"] = f.var(ddof=1) / steps
    if np.ptp(t) > 0:
        design = np.stack([t - t.mean(), np.ones(n)], axis=1) / e[:, None]
        result["slope"] = np.linalg.lstsq(design, (f - middle) / e, rcond=None)[0][0]
    rates = []
    bright = [(a, b) for a, b in zip(t, f, strict=True) if b > 0]
    for (t1, f1), (t2, f2) in itertools.pairwise(bright):
        if t2 > t1:
            rates.append(2.5 * abs(math.log10(f2) - math.log10(f1)) / (t2 - t1))
    result["max_rate"] = max(rates, default=math.nan)
    for lag in STRUCTURE_FUNCTION_LAGS:
        result[f"sf_{lag}"] = structure_by_hand(t, f, e, lag, middle)
    return result


def structure_by_hand(t, f, e, lag, middle):
    lags = t[None, :] - t[:, None]
    i, j = np.nonzero((lags >= lag / math.sqrt(2)) & (lags < lag * math.sqrt(2)))
    if len(i) < 10 or middle <= 0:
        return math.nan
    mean = math.fsum((f[i] - f[j]) ** 2 - e[i] ** 2 - e[j] ** 2) / len(i)
    return math.copysign(math.sqrt(abs(mean)), mean) / middle


def gappy(seed, rows=40, columns=300, *, level=100.0):
    """Lightcurves of slow and fast change with gaps, flags and errors that differ."""
    rng = np.random.default_rng(seed)
    mjd = np.sort(rng.uniform(53000, 58850, columns))
    slow = rng.normal(0, 8, (rows, 1)) * np.sin(mjd / rng.uniform(50, 900, (rows, 1)))
    flux = (level + slow + rng.standard_t(4, (rows, columns)) * 5).astype(np.float32)
    err = rng.uniform(3, 9, flux.shape).astype(np.float32)
    good = rng.random(flux.shape) > 0.2
    flux[rng.random(flux.shape) > 0.9] = np.nan
    return flux, err, good, mjd


def assert_as_by_hand(flux, err, good, mjd, found, *, rtol=TOLERANCE, atol=0.0):
    assert list(found) == NAMES
    for row in range(len(flux)):
        expected = by_hand(flux[row], err[row], good[row], mjd)
        for name, value in expected.items():
            if name == "chi2_log10_p" and math.isnan(value) and expected["n"] > 1:
                continue  # too small for the plain way: see the tests of its own
            np.testing.assert_allclose(
                found[name][row], value, rtol=rtol, atol=atol, err_msg=f"{name}, row {row}"
            )


@pytest.mark.parametrize("block", [1, 900, 10**6])
def test_agrees_with_a_loop(monkeypatch, block):
    monkeypatch.setattr(variability, "_BLOCK", block)
    flux, err, good, mjd = gappy(3)
    err[5, :60] = 0
    err[5, 60:90] = np.nan
    flux[6] = np.nan
    good[7] = False
    good[8, 1:] = False
    flux[8, 0], good[8, 0] = 42, True
    good[9, 4:] = False
    good[10] &= mjd < 53500  # no long lags
    flux[11] -= 100  # half of it negative
    flux[12] *= -1
    flux[13] *= 1e6
    flux[14, 33] = 1e9  # a cosmic ray
    found = statistics(flux, err, good, mjd=mjd)
    assert_as_by_hand(flux, err, good, mjd, found)
    assert np.isfinite(found["sf_1000"]).sum() > 30
    assert np.isnan(found["max_rate"][12])


def test_agrees_with_a_loop_at_full_length_and_in_double_precision():
    flux, err, good, mjd = gappy(8, rows=6, columns=1200)
    shuffled = np.random.default_rng(8).permutation(1200)
    for kind in (np.float32, np.float64):
        parts = [a.astype(kind)[:, shuffled] for a in (flux, err)]
        found = statistics(*parts, good[:, shuffled], mjd=mjd[shuffled], threads=2)
        assert_as_by_hand(flux, err, good, mjd, found)


@pytest.mark.filterwarnings("ignore:Precision loss occurred in moment:RuntimeWarning")
@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float64, (3, 7), elements=st.floats(-1000, 1000, width=32)),
    hnp.arrays(bool, (3, 7)),
    hnp.arrays(np.float64, 7, elements=st.sampled_from([0.0, 1, 2, 30, 31, 55, 130, np.nan])),
)
def test_agrees_with_a_loop_on_anything(flux, good, mjd):
    flux = np.round(flux, 2)  # near-zero divisors make any two formulae differ
    err = np.full(flux.shape, 2.0)
    found = statistics(flux, err, good, mjd=mjd)
    for row in range(3):
        expected = by_hand(flux[row], err[row], good[row], mjd)
        for name in NAMES:
            if name == "chi2_log10_p" and math.isnan(expected[name]) and expected["n"] > 1:
                continue  # too small for the plain way
            if name not in {"excess_variance", "skewness", "max_pull"}:
                np.testing.assert_allclose(
                    found[name][row], expected[name], rtol=1e-5, atol=1e-5, err_msg=name
                )


def test_agrees_with_light_curve():
    light_curve = pytest.importorskip("light_curve", reason="pip install light-curve: GPL, tests")
    flux, err, good, mjd = gappy(21, rows=30, columns=1200)
    found = statistics(flux, err, good, mjd=mjd)
    features = {
        "amplitude": light_curve.Amplitude(),
        "excess_variance": light_curve.ExcessVariance(),
        # its percentiles interpolate in another way: no iqr
        "median": light_curve.Median(),
        "reduced_chi2": light_curve.ReducedChi2(),
        "robust_scatter": light_curve.MedianAbsoluteDeviation(),
        "skewness": light_curve.Skew(),
        "slope": light_curve.LinearFit(),
        "standard_deviation": light_curve.StandardDeviation(),
        "stetson_k": light_curve.StetsonK(),
        "von_neumann": light_curve.Eta(),
        "weighted_mean": light_curve.WeightedMean(),
    }
    for row in range(len(flux)):
        use = good[row] & np.isfinite(flux[row])
        curve = [a.astype(np.float64) for a in (mjd[use], flux[row][use], err[row][use])]
        for name, feature in features.items():
            theirs = float(feature(*curve)[0])
            theirs *= 1.482602218505602 if name == "robust_scatter" else 1
            np.testing.assert_allclose(found[name][row], theirs, rtol=TOLERANCE, err_msg=name)


def test_agrees_with_astropy():
    flux, err, _, mjd = gappy(22, rows=5)
    flux = np.nan_to_num(flux, nan=77)
    found = statistics(flux, err, mjd=mjd)
    np.testing.assert_allclose(
        found["robust_scatter"], astropy_stats.mad_std(flux.astype(float), axis=1), rtol=TOLERANCE
    )


def test_hand_worked():
    flux = np.array([[1.0, 2.0, 4.0, 3.0]])
    mjd = np.array([0.0, 1.0, 2.0, 4.0])
    found = {k: float(v[0]) for k, v in statistics(flux, np.ones((1, 4)), mjd=mjd).items()}
    assert found["n"] == 4
    assert found["median"] == 2.5
    assert found["weighted_mean"] == 2.5
    assert found["robust_scatter"] == pytest.approx(1.4826, abs=1e-4)  # deviations 1.5 .5 1.5 .5
    assert found["iqr"] == 1.5
    assert found["amplitude"] == 1.5
    assert found["standard_deviation"] == pytest.approx(math.sqrt(5 / 3))
    assert found["skewness"] == 0
    assert found["reduced_chi2"] == pytest.approx(5 / 3)
    # three degrees of freedom: erfc(sqrt(x / 2)) + sqrt(2 x / pi) exp(-x / 2)
    p = math.erfc(math.sqrt(2.5)) + math.sqrt(10 / math.pi) * math.exp(-2.5)
    assert found["chi2_log10_p"] == pytest.approx(math.log10(p))
    assert found["trimmed_chi2"] == pytest.approx((0.25 + 0.25 + 2.25) / 3)
    assert found["roms"] == pytest.approx(4 / 3)
    assert found["max_pull"] == 1.5  # of two as far the positive one
    assert found["excess_variance"] == pytest.approx((5 / 3 - 1) / 6.25)
    assert found["inverse_eta"] == pytest.approx((5 / 3) / (6 / 3))
    assert found["von_neumann"] == pytest.approx(6 / 5)
    # d**2 n / (n - 1): products of neighbours .75, -.75, .75, times 4/3
    assert found["stetson_j"] == pytest.approx(1 / 3)
    assert found["stetson_k"] == pytest.approx(1 / math.sqrt(1.25))
    assert found["stetson_l"] == pytest.approx(1 / 3 / math.sqrt(1.25) / 0.798)
    # times from their mean: -7/4, -3/4, 1/4, 9/4
    assert found["slope"] == pytest.approx((7 * 1.5 + 3 * 0.5 + 1.5 + 9 * 0.5) / 4 / 8.75)
    assert found["max_rate"] == pytest.approx(2.5 * math.log10(2))
    assert math.isnan(found["sf_30"])


def test_structure_function_of_a_line_and_of_noise():
    mjd = np.arange(0.0, 4000.0, 10.0)
    line = 50 + mjd[None, :] / 100
    found = statistics(line, np.full(line.shape, 1e-3), mjd=mjd)
    for lag in STRUCTURE_FUNCTION_LAGS:
        steps = np.arange(10, 4000, 10)
        steps = steps[(steps >= lag / math.sqrt(2)) & (steps < lag * math.sqrt(2))]
        count = 400 - steps / 10
        expected = math.sqrt((count * (steps / 100) ** 2).sum() / count.sum() - 2e-6)
        assert found[f"sf_{lag}"][0] == pytest.approx(expected / np.median(line), rel=1e-6)
    rng = np.random.default_rng(5)
    noise = statistics(rng.normal(100, 2, (300, 400)), np.full((300, 400), 2.0), mjd=mjd)
    for lag in STRUCTURE_FUNCTION_LAGS:
        signed = noise[f"sf_{lag}"]
        squares = np.copysign(signed.astype(float) ** 2, signed) * 100**2
        # what is left of 2 * 2**2 after the errors are taken off
        assert abs(squares.mean()) < 0.05
        assert 0.3 < (signed < 0).mean() < 0.7


def test_white_noise_gives_what_theory_says():
    rng = np.random.default_rng(0)
    mjd = np.arange(1200.0)
    found = statistics(rng.normal(1000, 3, (200, 1200)), np.full((200, 1200), 3.0), mjd=mjd)
    assert np.mean(found["inverse_eta"]) == pytest.approx(0.5, abs=0.01)
    assert np.mean(found["von_neumann"]) == pytest.approx(2, abs=0.02)
    assert np.mean(found["reduced_chi2"]) == pytest.approx(1, abs=0.01)
    assert np.mean(found["excess_variance"]) == pytest.approx(0, abs=1e-6)
    assert np.mean(found["robust_scatter"]) == pytest.approx(3, abs=0.03)
    assert np.mean(found["stetson_k"]) == pytest.approx(math.sqrt(2 / math.pi), abs=0.002)
    assert np.mean(found["stetson_j"]) == pytest.approx(0, abs=0.01)
    assert np.mean(found["slope"]) == pytest.approx(0, abs=1e-4)
    # p-values of what they suppose are even
    assert stats.kstest(10.0 ** found["chi2_log10_p"], "uniform").pvalue > 1e-3


class TestLaws:
    def test_order_of_columns_is_that_of_time(self):
        flux, err, good, mjd = gappy(1)
        shuffle = np.random.default_rng(1).permutation(len(mjd))
        straight = statistics(flux, err, good, mjd=mjd)
        mixed = statistics(flux[:, shuffle], err[:, shuffle], good[:, shuffle], mjd=mjd[shuffle])
        by_order = statistics(
            flux[:, shuffle], err[:, shuffle], good[:, shuffle], time_order=np.argsort(shuffle)
        )
        unordered = statistics(flux[:, shuffle], err[:, shuffle], good[:, shuffle])
        for name in NAMES:
            np.testing.assert_array_equal(mixed[name], straight[name], err_msg=name)
            if name in OF_TIME:
                assert np.isnan(by_order[name]).all()
            else:
                np.testing.assert_array_equal(by_order[name], straight[name], err_msg=name)
                same = np.allclose(unordered[name], straight[name], rtol=1e-5, equal_nan=True)
                assert same is (name not in OF_ORDER), name

    def test_what_does_not_count_does_not_count(self):
        flux, err, good, mjd = gappy(2, rows=12)
        rng = np.random.default_rng(2)
        plain = statistics(flux, err, good, mjd=mjd)
        wild = flux.copy()
        wild[~good] = rng.choice([np.nan, np.inf, -np.inf, 3e38, -1.0], (~good).sum())
        odd = err.copy()
        odd[~good] = rng.choice([np.nan, np.inf, 0, -1, 1e-30], (~good).sum())
        found = statistics(wild, odd, good, mjd=mjd)
        # without any columns for them; and with columns that have no time
        times = np.concatenate([mjd, [np.nan, np.nan]])
        wider = [np.concatenate([a, a[:, :2]], axis=1) for a in (flux, err, good)]
        for name in NAMES:
            np.testing.assert_array_equal(found[name], plain[name], err_msg=name)
            np.testing.assert_array_equal(statistics(*wider, mjd=times)[name], plain[name])
        row = good[0] & np.isfinite(flux[0])
        packed = statistics(flux[:1, row], err[:1, row], mjd=mjd[row])
        for name in NAMES:
            np.testing.assert_allclose(packed[name], plain[name][:1], rtol=2e-6, err_msg=name)

    @given(st.integers(-8, 8), st.integers(0, 1000))
    @settings(max_examples=20, deadline=None)
    def test_fluxes_in_another_unit(self, power, seed):
        flux, err, good, mjd = gappy(seed, rows=2, columns=60)
        factor = 2.0**power
        one = statistics(flux, err, good, mjd=mjd)
        other = statistics(flux * factor, err * factor, good, mjd=mjd)
        for d in STATISTICS:
            scale = factor if d.unit.startswith("flux") else 1
            np.testing.assert_allclose(other[d.name], one[d.name] * scale, rtol=2e-6)

    @given(st.integers(0, 1000))
    @settings(max_examples=20, deadline=None)
    def test_another_zero_point_of_flux_or_time(self, seed):
        flux, err, good, mjd = gappy(seed, rows=2, columns=60)
        flux = np.round(flux * 64) / 64  # so that sums are exact
        one = statistics(flux, err, good, mjd=mjd)
        later = statistics(flux, err, good, mjd=mjd - 53000)
        higher = statistics(flux + 512, err, good, mjd=mjd)
        level = {"median", "weighted_mean", "max_rate", "excess_variance"}
        for name in NAMES:
            np.testing.assert_allclose(later[name], one[name], rtol=1e-5, err_msg=name)
            if name in {"median", "weighted_mean"}:
                np.testing.assert_allclose(higher[name], one[name] + 512, rtol=2e-6)
            elif name not in level and not name.startswith("sf"):
                np.testing.assert_allclose(higher[name], one[name], rtol=1e-5, err_msg=name)

    def test_a_choice_of_names_and_threads_changes_nothing(self, monkeypatch):
        monkeypatch.setattr(variability, "_BLOCK", 900)
        flux, err, good, mjd = gappy(4)
        every = statistics(flux, err, good, mjd=mjd)
        for name in NAMES:
            (found,) = statistics(flux, err, good, mjd=mjd, names=[name]).items()
            assert found[0] == name
            np.testing.assert_array_equal(found[1], every[name], err_msg=name)
        threaded = statistics(flux, err, good, mjd=mjd, threads=3)
        for name in NAMES:
            np.testing.assert_array_equal(threaded[name], every[name])
        assert list(statistics(flux, err, names=("slope", "n"))) == ["n", "slope"]

    @given(
        hnp.arrays(
            np.float32, (2, 6), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)
        ),
        hnp.arrays(
            np.float32, (2, 6), elements=st.floats(width=32, allow_nan=True, allow_infinity=True)
        ),
        hnp.arrays(np.float64, 6, elements=st.floats(-1e6, 1e6)),
    )
    @settings(max_examples=80, deadline=None)
    def test_never_warns_and_never_counts_wrong(self, flux, err, mjd):
        found = statistics(flux, err, mjd=mjd)
        known = np.isfinite(flux) & np.isfinite(err) & (np.nan_to_num(err) > 0)
        np.testing.assert_array_equal(found["n"], known.sum(axis=1))
        for row in np.flatnonzero(found["n"]):
            values = flux[row][known[row]]
            assert values.min() <= found["median"][row] <= values.max()


@pytest.mark.parametrize("columns", [0, 1, 2, 5])
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_one_point_and_constants_without_a_warning(rows, columns):
    flux = np.full((rows, columns), 7.3)
    mjd = np.arange(columns, dtype=float)
    found = statistics(flux, np.full_like(flux, 0.3), mjd=mjd)
    assert list(found) == NAMES
    for values in found.values():
        assert values.shape == (rows,)
        assert values.dtype == np.float32
    assert (found["n"] == columns).all()
    for name in ("inverse_eta", "von_neumann", "stetson_k", "stetson_l", "skewness", "sf_30"):
        assert np.isnan(found[name]).all()
    if columns:
        assert (found["median"] == np.float32(7.3)).all()
        assert (found["max_pull"] == 0).all()
    zero = ["reduced_chi2", "robust_scatter", "iqr", "amplitude", "standard_deviation", "roms"]
    zero += ["chi2_log10_p", "stetson_j", "slope", "max_rate", "trimmed_chi2"]
    for name in zero:
        assert (found[name] == 0).all() if columns > 1 else np.isnan(found[name]).all(), name
    missing = statistics(np.full_like(flux, np.nan), np.ones_like(flux), mjd=mjd)
    assert (missing["n"] == 0).all()
    assert all(np.isnan(v).all() for k, v in missing.items() if k != "n")


def test_points_of_equal_time_have_no_slope_and_no_rate():
    found = statistics(np.array([[1.0, 2.0, 3.0]]), np.ones((1, 3)), mjd=np.full(3, 55000.1))
    assert np.isnan(found["slope"]).all()
    assert np.isnan(found["max_rate"]).all()
    assert found["n"] == 3


class TestProbabilityOfChi2:
    @pytest.mark.parametrize("pairs", [1, 3, 40, 600])
    def test_tiny_ones_by_their_sum(self, pairs):
        # of an even number 2 k of degrees of freedom: exp(-x) sum of x**i / i!, i < k, x = chi2 / 2
        for x in (0.5 * pairs, 3.0 * pairs, 800.0 + pairs, 3e4, 1e7):
            terms = [i * math.log(x) - math.lgamma(i + 1) for i in range(pairs)]
            top = max(terms)
            log_sum = top + math.log(math.fsum(math.exp(one - top) for one in terms))
            found = chi2_log10_p(np.array([2 * x]), np.array([2 * pairs]))[0]
            assert found == pytest.approx((log_sum - x) / math.log(10), rel=1e-9)

    def test_both_ways_meet(self):
        chi2 = np.linspace(3500, 4500, 300)
        steps = np.diff(chi2_log10_p(chi2, np.full(300, 1100)))
        assert (steps < 0).all()
        assert np.abs(np.diff(steps)).max() < 2e-3


def test_refuses_shapes_orders_and_names_that_do_not_fit():
    flux = np.ones((2, 3))
    with pytest.raises(UsageError, match=r"must have one shape \(lightcurve, aor\)"):
        statistics(flux, np.ones((2, 4)))
    with pytest.raises(UsageError, match=r"must have one shape \(lightcurve, aor\)"):
        statistics(flux[0], flux[0])
    with pytest.raises(UsageError, match="each of the 3 columns once"):
        statistics(flux, flux, time_order=np.array([0, 1, 1]))
    with pytest.raises(UsageError, match="one time for each of the 3 columns"):
        statistics(flux, flux, mjd=np.arange(4.0))
    with pytest.raises(UsageError, match="mjd or time_order, not both"):
        statistics(flux, flux, mjd=np.arange(3.0), time_order=np.arange(3))
    with pytest.raises(UsageError, match="1 thread or more"):
        statistics(flux, flux, threads=0)
    with pytest.raises(UnknownName, match=r"no statistic 'stetson_jj'.*'stetson_j'"):
        statistics(flux, flux, names=["stetson_jj"])


def test_every_statistic_has_a_unit_a_definition_and_a_source():
    assert (
        len(DEFINITIONS) == len(STATISTICS) + len(TWO_BAND_STATISTICS) + len(COSTLY_STATISTICS) + 1
    )
    for name, d in DEFINITIONS.items():
        assert d.name == name
        assert d.unit in {"1", "flux", "flux/d", "mag/d", "d"}
        assert len(d.definition) > 5
        assert d.reference
    assert definition("slope").units("uJy") == "uJy/d"
    assert definition("median").units("") == ""
    assert definition("roms").units("uJy") == "1"
    with pytest.raises(UnknownName, match=r"no statistic 'med'.*'median'"):
        definition("med")
