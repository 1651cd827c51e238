"""The period in which a star turns: unequal minima, sharp shapes, wild points, hopeless cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from idfzarr.analysis import period_search
from idfzarr.analysis.period_grid import usable_samples
from idfzarr.analysis.period_search import find_period, periods_of_rows, without_lonely_points
from idfzarr.errors import UsageError

SHAPES = {
    "sine": lambda p: np.sin(2 * np.pi * p),
    "minima": lambda p: (
        -np.exp(-(((p - 0.25) / 0.06) ** 2)) - 0.5 * np.exp(-(((p - 0.75) / 0.06) ** 2))
    ),
    "contact": lambda p: -np.cos(4 * np.pi * p) - 0.3 * np.cos(2 * np.pi * p),
    "sawtooth": lambda p: np.where(p < 0.2, p / 0.2, (1 - p) / 0.8),
    "eclipse": lambda p: -1.0 * (np.abs(p - 0.5) < 0.06),
}


def star(shape, period, *, seed=1, n=80, span=1300.0, noise=0.03):
    rng = np.random.default_rng(seed)
    mjd = 53000 + np.linspace(0, span, n) + rng.uniform(-5, 5, n)
    flux = 10 + 2 * SHAPES[shape](((mjd - 53000) / period) % 1) + rng.normal(0, 10 * noise, n)
    return mjd, flux, np.full(n, 10 * noise)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_turn_is_found_whatever_its_shape(shape):
    right = []
    for seed, period in enumerate([0.61, 1.93, 5.2, 17.3, 61.0]):
        found = find_period(*star(shape, period, seed=seed))
        right.append(abs(found.period / period - 1) < 0.01)
        # a narrow eclipse is no sine: there the chance of the highest peak is not small
        assert found.false_alarm_log10 < (0 if shape == "eclipse" else -3)
        assert 0.5 < found.power <= 1
    assert sum(right) >= (4 if shape in {"eclipse", "minima"} else 5)


def test_two_equal_minima_cannot_be_told_from_one():
    # without the difference between the minima half the turn is the shortest description
    mjd, _, error = star("sine", 3.0)
    flux = (
        10 - np.cos(4 * np.pi * (mjd - 53000) / 3.0) + np.random.default_rng(1).normal(0, 0.1, 80)
    )
    assert find_period(mjd, flux, error).period == pytest.approx(1.5, rel=1e-3)


def test_one_wild_point_does_not_hide_the_period_and_eclipses_are_no_wild_points():
    mjd, flux, error = star("sine", 5.2)
    flux[17] += 40.0
    assert find_period(mjd, flux, error).period == pytest.approx(5.2, rel=2e-3)
    samples = usable_samples(mjd, flux, error)
    assert len(without_lonely_points(samples)) == 79
    mjd, flux, error = star("eclipse", 5.2, noise=0.01)
    samples = usable_samples(mjd, flux, error)
    assert len(without_lonely_points(samples)) == len(samples) == 80
    few = usable_samples(np.arange(8.0), np.array([1, 2, 3, 2, 1, 2, 3, 90.0]))
    assert len(without_lonely_points(few)) == 7


@settings(max_examples=10)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e6), shift=st.floats(-1e5, 1e5))
def test_unit_zero_and_order_do_not_matter(seed, scale, shift):
    mjd, flux, error = star("sawtooth", 4.4, seed=seed, n=50, span=200.0)
    plain = find_period(mjd, flux, error, shortest=1.0)
    order = np.random.default_rng(seed).permutation(50)
    other = find_period(
        mjd[order] + 7.0, scale * (flux[order] + shift / 1e3), scale * error[order], shortest=1.0
    )
    assert other.period == pytest.approx(plain.period, rel=1e-5)
    assert other.harmonics == plain.harmonics


def test_the_extra_package_changes_nothing(monkeypatch):
    lightcurve = star("contact", 1.3, n=60)
    first = find_period(*lightcurve, shortest=0.5)
    monkeypatch.setattr(period_search, "has_nifty_ls", lambda: False)
    second = find_period(*lightcurve, shortest=0.5)
    assert second.period == pytest.approx(first.period, rel=1e-9)
    assert second.false_alarm_log10 == pytest.approx(first.false_alarm_log10, rel=1e-6)
    assert first.period == pytest.approx(1.3, rel=1e-3)


def test_no_period_is_longer_than_asked_for():
    mjd, flux, error = star("sine", 900.0)
    assert find_period(mjd, flux + (mjd - 53000) / 300, error).period <= np.ptp(mjd) * (1 + 1e-9)
    assert find_period(mjd, flux, error, longest=50.0).period <= 50.0 * (1 + 1e-9)


def test_rows_without_a_period_are_nan_and_one_lightcurve_says_why():
    mjd, flux, error = star("sine", 5.2, n=40)
    rows = np.stack([flux, np.full(40, 3.0), np.full(40, np.nan), flux])
    errors = np.tile(error, (4, 1))
    good = np.ones((4, 40), dtype=bool)
    good[3, 7:] = False
    period, chance = periods_of_rows(mjd, rows, errors, good)
    assert period.dtype == chance.dtype == np.float32
    assert period[0] == pytest.approx(find_period(mjd, flux, error).period, rel=1e-6)
    assert np.isnan(period[1:]).all()
    assert np.isnan(chance[1:]).all()
    with pytest.raises(UsageError, match="at least 8 good points, and this lightcurve has 7 of 40"):
        find_period(mjd, flux, error, good=good[3])
