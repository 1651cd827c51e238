"""The damped random walk against the dense covariance, and on walks whose parameters are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from idfzarr.analysis.damped_random_walk import (
    LONGEST_TAU,
    SHORTEST_TAU,
    damped_random_walk,
)
from idfzarr.errors import UsageError


def walk(rng, time, *, tau, sigma):
    value, series = rng.normal(0, sigma), []
    for gap in np.diff(time, prepend=time[0]):
        keep = np.exp(-gap / tau)
        value = value * keep + rng.normal(0, sigma * np.sqrt(1 - keep**2))
        series.append(value)
    return np.array(series)


def observed(seed, *, tau, sigma=5.0, n=300, error=1.0, span=5850.0):
    rng = np.random.default_rng(seed)
    time = np.sort(rng.uniform(53000, 53000 + span, n))
    err = rng.uniform(0.5, 1.5, n) * error
    return time, 100 + walk(rng, time, tau=tau, sigma=sigma) + rng.normal(0, err), err


def dense(time, flux, err, tau, sigma):
    """Return ln likelihood by the whole covariance, the mean integrated over."""
    cov = sigma**2 * np.exp(-np.abs(time[:, None] - time) / tau) + np.diag(err**2)
    inverse = np.linalg.inv(cov)
    weight = inverse.sum()
    rest = flux - (inverse @ flux).sum() / weight
    at_best = -0.5 * (rest @ inverse @ rest + np.linalg.slogdet(2 * np.pi * cov)[1])
    # the integral over the mean is of a Gaussian of variance 1 / weight
    return at_best + 0.5 * np.log(2 * np.pi / weight)


@pytest.mark.parametrize("tau", [20.0, 100.0])
def test_likelihood_and_its_maximum_are_those_of_the_dense_covariance(tau):
    time, flux, err = observed(1, tau=tau, n=100)
    found = damped_random_walk(time, flux, err)
    assert not found.limit
    there = dense(time, flux, err, found.tau, found.sigma)
    assert found.log_likelihood == pytest.approx(there, rel=1e-9)
    assert found.noise_log_likelihood == pytest.approx(dense(time, flux, err, tau, 1e-9), rel=1e-9)
    best = minimize(
        lambda x: -dense(time, flux, err, *np.exp(x)), np.log([tau, 5.0]), method="Nelder-Mead"
    )
    assert found.log_likelihood == pytest.approx(-best.fun, abs=1e-3)
    assert np.log([found.tau, found.sigma]) == pytest.approx(best.x, abs=0.02)


def test_finds_the_parameters_of_walks():
    taus, sigmas = [], []
    for seed in range(12):
        found = damped_random_walk(*observed(seed, tau=60, n=600))
        assert not found.limit
        assert found.n == 600
        assert found.log_likelihood > found.noise_log_likelihood + 100
        taus.append(found.tau)
        sigmas.append(found.sigma)
    assert np.median(taus) == pytest.approx(60, rel=0.15)
    assert np.std(np.log(taus)) < 0.4
    assert np.median(sigmas) == pytest.approx(5, rel=0.1)


def test_says_when_tau_runs_into_a_limit():
    long = damped_random_walk(*observed(1, tau=1e6, sigma=100))
    assert (long.limit, long.tau) == ("long", LONGEST_TAU)
    # then sigma**2 / tau is right all the same
    assert long.sigma**2 / long.tau == pytest.approx(100**2 / 1e6, rel=0.5)
    short = damped_random_walk(*observed(2, tau=1e-3))
    assert (short.limit, short.tau) == ("short", SHORTEST_TAU)
    assert short.sigma == pytest.approx(5, rel=0.15)
    nothing = damped_random_walk(*observed(3, tau=50, sigma=1e-9))
    assert nothing.limit == "both"
    assert np.isnan(nothing.tau)
    assert nothing.log_likelihood < nothing.noise_log_likelihood + 2


def test_units_order_and_points_that_do_not_count():
    time, flux, err = observed(4, tau=60)
    plain = damped_random_walk(time, flux, err)
    other = damped_random_walk(time - 53000, flux * 1e-3, err * 1e-3)
    assert other.tau == pytest.approx(plain.tau, rel=1e-3)
    assert other.sigma == pytest.approx(plain.sigma * 1e-3, rel=1e-3)
    rng = np.random.default_rng(4)
    shuffle = rng.permutation(300)
    assert damped_random_walk(time[shuffle], flux[shuffle], err[shuffle]) == plain
    extra = [np.r_[a, b] for a, b in ((time, time[:9]), (flux, [9e9] * 9), (err, [1.0] * 9))]
    extra[1][301], extra[2][302], extra[0][303] = np.nan, 0, np.inf
    good = np.arange(309) < 300
    good[301:304] = True
    assert damped_random_walk(*extra, good) == plain


def test_points_of_equal_time_are_averaged():
    time, flux, err = observed(5, tau=60, n=100)
    double = damped_random_walk(
        np.repeat(time, 2), np.repeat(flux, 2), np.repeat(err * np.sqrt(2), 2)
    )
    plain = damped_random_walk(time, flux, err)
    assert double.n == 100
    assert double.tau == pytest.approx(plain.tau, rel=1e-3)


@pytest.mark.parametrize("n", [0, 1, 9])
def test_too_few_points_are_nan(n):
    time, flux, err = observed(6, tau=60)
    found = damped_random_walk(time[:n], flux[:n], err[:n])
    assert found.n == n
    assert np.isnan([found.tau, found.sigma, found.log_likelihood]).all()
    assert np.isfinite(damped_random_walk(time[:10], flux[:10], err[:10]).sigma)


def test_constant_and_wild_lightcurves_without_a_warning():
    time = np.arange(20.0)
    assert np.isnan(damped_random_walk(time, np.full(20, 7.3), np.ones(20)).tau)
    one_off = np.where(time == 7, 1e6, 1.0)
    assert np.isfinite(damped_random_walk(time, one_off, np.full(20, 1e-6)).sigma)
    close = np.r_[time * 1e-7, 1e5 + time]
    assert np.isfinite(damped_random_walk(close, np.sin(close), np.full(40, 1e-3)).sigma)


def test_refuses_shapes_that_do_not_fit():
    with pytest.raises(UsageError, match=r"one shape \(n,\), not"):
        damped_random_walk(np.arange(3.0), np.ones(4), np.ones(4))
    with pytest.raises(UsageError, match=r"one shape \(n,\), not"):
        damped_random_walk(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2)))
