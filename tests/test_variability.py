"""Variability statistics against loops over single lightcurves; a ranking that finds variables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from idfzarr.analysis import variability
from idfzarr.analysis.variability import (
    STATISTICS,
    excess,
    most_variable,
    statistics,
    variability_score,
)
from idfzarr.errors import UsageError


def by_hand(flux, err, good):
    """One lightcurve, statistic by statistic, in the words of their definitions."""
    use = good & np.isfinite(flux) & np.isfinite(err) & (err > 0)
    f, e = flux[use].astype(float), err[use].astype(float)
    n = len(f)
    result = dict.fromkeys((d.name for d in STATISTICS), np.nan)
    result["n"] = n
    if n == 0:
        return result
    result["median"] = np.median(f)
    result["median_err"] = np.median(e)
    result["weighted_mean"] = mean = np.average(f, weights=e**-2)
    pull = (f - np.median(f)) / e
    result["max_pull"] = pull[np.argmax(np.abs(pull))]
    if n == 1:
        return result
    result["robust_scatter"] = stats.median_abs_deviation(f, scale="normal")
    result["iqr"] = stats.iqr(f)
    result["reduced_chi2"] = np.sum(((f - mean) / e) ** 2) / (n - 1)
    kept = np.sort(pull**2)[: n - int(np.ceil(0.01 * n))]
    result["trimmed_chi2"] = kept.mean()
    if f.mean() ** 2 > 0:
        result["excess_variance"] = (f.var(ddof=1) - np.mean(e**2)) / f.mean() ** 2
    steps = np.mean(np.diff(f) ** 2)
    if steps > 0:
        result["inverse_eta"] = f.var(ddof=1) / steps
    return result


def assert_as_by_hand(flux, err, good, found):
    for row in range(len(flux)):
        expected = by_hand(flux[row], err[row], good[row])
        for name, value in expected.items():
            got = found[name][row]
            np.testing.assert_allclose(
                got, np.float32(value), rtol=2e-5, atol=1e-6, err_msg=f"{name}, row {row}"
            )


@pytest.mark.parametrize("block", [1, 300, 10**6])
def test_agrees_with_a_loop(monkeypatch, block):
    monkeypatch.setattr(variability, "_BLOCK", block)
    rng = np.random.default_rng(3)
    flux = rng.normal(100, 10, (40, 130)).astype(np.float32)
    err = rng.uniform(5, 15, flux.shape).astype(np.float32)
    good = rng.random(flux.shape) > 0.2
    flux[rng.random(flux.shape) > 0.9] = np.nan
    err[5, :30] = 0
    flux[6] = np.nan
    good[7] = False
    good[8, 1:] = False
    flux[8, 0] = 42
    good[9, 2:] = False
    assert_as_by_hand(flux, err, good, statistics(flux, err, good))


@given(
    hnp.arrays(np.float64, (3, 7), elements=st.floats(-1000, 1000, width=32)),
    hnp.arrays(bool, (3, 7)),
)
def test_agrees_with_a_loop_on_anything(flux, good):
    err = np.full(flux.shape, 2.0)
    flux = np.round(flux, 2)  # near-zero divisors make any two formulae differ
    found = statistics(flux, err, good)
    for row in range(3):
        expected = by_hand(flux[row], err[row], good[row])
        for name in ("n", "median", "robust_scatter", "iqr", "reduced_chi2", "trimmed_chi2"):
            np.testing.assert_allclose(
                found[name][row], expected[name], rtol=1e-4, atol=1e-4, err_msg=name
            )


def test_hand_worked():
    flux = np.array([[1.0, 2.0, 4.0, 3.0]])
    found = {k: float(v[0]) for k, v in statistics(flux, np.ones((1, 4))).items()}
    assert found["n"] == 4
    assert found["median"] == 2.5
    assert found["weighted_mean"] == 2.5
    assert found["robust_scatter"] == pytest.approx(1.4826, abs=1e-4)  # deviations 1.5 .5 1.5 .5
    assert found["iqr"] == 1.5
    assert found["reduced_chi2"] == pytest.approx(5 / 3)
    assert found["trimmed_chi2"] == pytest.approx((0.25 + 0.25 + 2.25) / 3)
    assert found["excess_variance"] == pytest.approx((5 / 3 - 1) / 6.25)
    assert found["inverse_eta"] == pytest.approx((5 / 3) / (6 / 3))
    assert found["max_pull"] == -1.5


def test_white_noise_gives_what_theory_says():
    rng = np.random.default_rng(0)
    found = statistics(rng.normal(1000, 3, (200, 1200)), np.full((200, 1200), 3.0))
    assert np.mean(found["inverse_eta"]) == pytest.approx(0.5, abs=0.01)
    assert np.mean(found["reduced_chi2"]) == pytest.approx(1, abs=0.01)
    assert np.mean(found["excess_variance"]) == pytest.approx(0, abs=1e-6)
    assert np.mean(found["robust_scatter"]) == pytest.approx(3, abs=0.03)


def test_time_order_matters_to_the_successive_differences_alone():
    rng = np.random.default_rng(1)
    flux = np.cumsum(rng.normal(size=(5, 50)), axis=1)
    err = rng.uniform(1, 2, flux.shape)
    shuffle = rng.permutation(50)
    sorted_, mixed = statistics(flux, err), statistics(flux[:, shuffle], err[:, shuffle])
    ordered = statistics(flux[:, shuffle], err[:, shuffle], time_order=np.argsort(shuffle))
    for name in sorted_:
        np.testing.assert_allclose(ordered[name], sorted_[name], rtol=1e-6)
        if name != "inverse_eta":
            np.testing.assert_allclose(mixed[name], sorted_[name], rtol=1e-6)
    assert (mixed["inverse_eta"] < 0.5 * sorted_["inverse_eta"]).all()


@pytest.mark.parametrize("columns", [0, 1, 2, 5])
@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_one_point_and_constants_without_a_warning(rows, columns):
    flux = np.full((rows, columns), 7.0)
    found = statistics(flux, np.ones_like(flux))
    assert list(found) == [d.name for d in STATISTICS]
    for values in found.values():
        assert values.shape == (rows,)
        assert values.dtype == np.float32
    assert (found["n"] == columns).all()
    assert np.isnan(found["inverse_eta"]).all()
    if columns:
        assert (found["median"] == 7).all()
    if columns > 1:
        assert (found["reduced_chi2"] == 0).all()
        assert (found["robust_scatter"] == 0).all()
    else:
        assert np.isnan(found["reduced_chi2"]).all()
    missing = statistics(np.full_like(flux, np.nan), np.ones_like(flux))
    assert (missing["n"] == 0).all()
    assert all(np.isnan(v).all() for k, v in missing.items() if k != "n")


class TestExcess:
    def test_compares_with_neighbours_in_brightness_alone(self):
        rng = np.random.default_rng(2)
        brightness = rng.uniform(0, 10, 2000)
        # the statistic of constant objects rises ten thousand times over the range
        statistic = np.exp(brightness + rng.normal(0, 0.2, 2000))
        odd = [10, 500, 900]
        statistic[odd] *= np.exp(2.0)
        found = excess(statistic, brightness)
        assert set(np.argsort(-found)[:3]) == set(odd)
        assert np.median(np.abs(np.delete(found, odd))) == pytest.approx(0.6745, abs=0.1)

    def test_matches_a_loop(self):
        rng = np.random.default_rng(4)
        brightness, statistic = rng.permutation(40).astype(float), rng.uniform(1, 9, 40)
        found = excess(statistic, brightness, neighbours=9)
        order = np.argsort(brightness)
        for rank, row in enumerate(order):
            low = min(max(rank - 4, 0), 40 - 9)
            around = np.log(statistic[order[low : low + 9]])
            width = stats.median_abs_deviation(around, scale="normal")
            expected = (np.log(statistic[row]) - np.median(around)) / max(width, 0.05)
            assert found[row] == pytest.approx(expected)

    def test_what_cannot_be_compared_is_nan(self):
        statistic = np.array([1.0, 0.0, -1.0, np.nan, 2.0])
        brightness = np.array([1.0, 2.0, 3.0, 4.0, np.nan])
        found = excess(statistic, brightness)
        np.testing.assert_array_equal(found, [0, np.nan, np.nan, np.nan, np.nan])
        assert excess(np.empty(0), np.empty(0)).shape == (0,)

    def test_refuses(self):
        with pytest.raises(UsageError, match="of one length"):
            excess(np.ones(3), np.ones(4))
        with pytest.raises(UsageError, match="at least 1 neighbour"):
            excess(np.ones(3), np.ones(3), neighbours=0)


def walk(rng, n, *, sigma, tau):
    """A damped random walk, one step per column."""
    keep = np.exp(-1 / tau)
    value = rng.normal(0, sigma)
    series = []
    for _ in range(n):
        series.append(value)
        value = value * keep + rng.normal(0, sigma * np.sqrt(1 - keep**2))
    return np.array(series)


def many_kinds(seed, *, aors=64, count=600, wrong=1.0):
    """Six hundred lightcurves, of which 40 vary in four ways; errors too small by `wrong`."""
    rng = np.random.default_rng(seed)
    level = 10 ** rng.uniform(1.5, 3.5, count)
    err = np.hypot(2.0, 0.01 * level)[:, None] * np.ones(aors)
    shape = np.ones((count, aors))
    rows = rng.choice(np.flatnonzero(level > 100), 40, replace=False)
    for k, row in enumerate(rows):
        # amplitudes of eight errors or more, 20 per cent at least
        size = max(0.2, 8 * err[row, 0] / level[row])
        if k % 4 == 0:
            shape[row] += walk(rng, aors, sigma=0.5 * size, tau=15)
        elif k % 4 == 1:
            shape[row] += size * np.sin(np.arange(aors) * rng.uniform(0.2, 3) + k)
        elif k % 4 == 2:
            shape[row, rng.choice(aors, 5, replace=False)] -= size
        else:
            start = rng.integers(0, aors - 5)
            shape[row, start : start + 4] += 2 * size
    flux = level[:, None] * shape + rng.normal(size=shape.shape) * err
    return flux, err / wrong, rows


@pytest.mark.parametrize("wrong", [1.0, 2.5])
def test_finds_variables_of_every_kind_whatever_the_errors_scale(wrong):
    flux, err, rows = many_kinds(9, wrong=wrong)
    found = set(most_variable(statistics(flux, err), count=len(rows)).tolist())
    for kind in range(4):
        members = rows[kind::4].tolist()
        assert sum(row in found for row in members) >= 0.8 * len(members), kind
    assert len(found & set(rows.tolist())) >= 0.9 * len(rows)


def test_one_bad_point_does_not_make_a_variable():
    flux, err, rows = many_kinds(10)
    constant = np.setdiff1d(np.arange(len(flux)), rows)[:50]
    flux[constant, 13] += 100 * err[constant, 13]
    found = most_variable(statistics(flux, err), count=40)
    assert len(set(found) & set(constant)) <= 2
    assert len(set(found) & set(rows)) >= 34


def test_ranks_only_what_may_be_ranked():
    flux, err, rows = many_kinds(12)
    flux[rows[0], 4:] = np.nan
    measured = statistics(flux, err)
    score = variability_score(measured)
    assert np.isnan(score[rows[0]])
    assert np.nanmin(score) >= 0
    usable = np.zeros(len(flux), bool)
    usable[rows[:7]] = True
    found = most_variable(measured, count=40, usable=usable)
    assert set(found) == set(rows[1:7])
    assert (np.diff(score[found]) <= 0).all()
    # a brightness from elsewhere, as of the superstack, serves as well
    same = variability_score(measured, measured["median"])
    np.testing.assert_array_equal(same, score)


def test_refuses_shapes_and_orders_that_do_not_fit():
    flux = np.ones((2, 3))
    with pytest.raises(UsageError, match=r"must have one shape \(lightcurve, aor\)"):
        statistics(flux, np.ones((2, 4)))
    with pytest.raises(UsageError, match="each of the 3 columns once"):
        statistics(flux, flux, time_order=np.array([0, 1, 1]))


def test_every_statistic_has_a_unit_a_definition_and_a_source():
    names = [d.name for d in STATISTICS]
    assert len(set(names)) == len(names) >= 8
    for d in STATISTICS:
        assert d.unit in {"1", "flux"}
        assert len(d.definition) > 5
        assert d.reference
