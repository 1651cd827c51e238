"""Comparison with objects as bright; a ranking that finds variables of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from idfzarr.analysis.excess import excess, most_variable, variability_score
from idfzarr.analysis.variability import statistics
from idfzarr.errors import UsageError


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
