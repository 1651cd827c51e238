"""Periodograms against astropy's exact sums, least squares by hand, and known periods."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.timeseries import LombScargle, LombScargleMultiband
from hypothesis import given, settings
from hypothesis import strategies as st

from idfzarr.analysis import period as period_module
from idfzarr.analysis.period import (
    METHODS,
    box_periodogram,
    fold,
    has_nifty_ls,
    multiband_periodogram,
    periodogram,
)
from idfzarr.analysis.period_grid import (
    frequency_grid,
    period_limits,
    sampling_step,
    usable_samples,
)
from idfzarr.analysis.period_peaks import false_alarm_log10, highest_peaks, window_power
from idfzarr.errors import MissingExtra, UnknownName, UsageError

NIFTY = pytest.mark.skipif(not has_nifty_ls(), reason="the extra package nifty-ls is not installed")


def visits(seed=1, n=80, span=1300.0):
    """Times of a mission: every couple of weeks, never at the same hour."""
    rng = np.random.default_rng(seed)
    return 53000.0 + np.linspace(0, span, n) + rng.uniform(-4, 4, n)


def sine(mjd, period, *, noise=0.2, seed=2):
    rng = np.random.default_rng(seed)
    flux = 20.0 + 2.0 * np.sin(2 * np.pi * mjd / period + 0.7) + rng.normal(0, noise, mjd.size)
    return flux, np.full(mjd.size, noise)


def power_by_hand(mjd, flux, error, frequency):
    """1 - chi2 / chi2 of a constant, each fitted by least squares."""
    angle = 2 * np.pi * frequency * (mjd - mjd.mean())
    both = []
    for columns in ([np.ones(mjd.size)], [np.ones(mjd.size), np.sin(angle), np.cos(angle)]):
        design = np.stack(columns, axis=1) / error[:, None]
        both.append(np.linalg.lstsq(design, flux / error, rcond=None)[1][0])
    return 1 - both[1] / both[0]


# ---------------------------------------------------------------- the periodogram


@pytest.mark.parametrize("period", [0.4321, 3.7, 41.0, 400.0])
def test_the_period_of_a_sine_is_found_and_its_power_is_that_of_least_squares(period):
    mjd = visits()
    flux, error = sine(mjd, period)
    error *= np.random.default_rng(5).uniform(0.5, 2.0, mjd.size)
    found = periodogram(mjd, flux, error)
    assert found.best.period == pytest.approx(period, rel=5e-3)
    wanted = power_by_hand(mjd, flux, error, found.best.frequency)
    assert found.best.power == pytest.approx(wanted, rel=1e-9)
    assert found.power.max() <= found.best.power + 1e-3
    # the highest of the grid is within its stated loss of the top
    assert found.power.max() >= 0.96 * found.best.power
    for k in np.linspace(0, found.frequency.size - 1, 7).astype(int):
        wanted = power_by_hand(mjd, flux, error, found.frequency[k])
        assert found.power[k] == pytest.approx(wanted, abs=3e-3)
    assert found.n == 80
    assert np.allclose(np.diff(found.frequency) * found.span * found.oversampling, 1.0)


@NIFTY
def test_nifty_ls_gives_the_power_of_exact_sums():
    mjd = visits(n=120)
    flux, error = sine(mjd, 2.3, noise=1.0)
    found = periodogram(mjd, flux, error, method="nifty-ls", shortest=0.5)
    exact = LombScargle(mjd, flux, error).power(found.frequency, method="slow")
    assert np.max(np.abs(found.power - exact)) < 5e-7
    plain = periodogram(mjd, flux, error, shortest=0.5)
    assert found.best.period == pytest.approx(plain.best.period, rel=1e-9)
    assert (found.method, plain.method) == ("nifty-ls", "lomb-scargle")


def test_nifty_ls_that_is_absent_is_named(monkeypatch):
    monkeypatch.setattr(period_module, "has_nifty_ls", lambda: False)
    mjd = visits()
    with pytest.raises(MissingExtra, match=r"nifty-ls, which is not installed.*idfzarr\[periods\]"):
        periodogram(mjd, *sine(mjd, 3.0), method="nifty-ls")


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_order_of_points_zero_of_time_and_bad_points_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    mjd = visits(seed, n=40, span=300.0)
    flux, error = sine(mjd, float(rng.uniform(2, 50)), noise=1.0, seed=seed)
    plain = periodogram(mjd, flux, error, shortest=1.0)
    order = rng.permutation(mjd.size)
    worse = [np.append(a[order], b) for a, b in ((mjd, 53100.0), (flux, np.nan), (error, 1.0))]
    zero = [np.append(a, b) for a, b in zip(worse, (53100.5, 1e9, 0.0), strict=True)]
    mixed = periodogram(*zero, shortest=1.0)
    assert np.array_equal(mixed.power, plain.power)
    assert repr(mixed.peaks) == repr(plain.peaks)  # NaN among them
    known = np.append(np.ones(mjd.size, bool), False)
    masked = periodogram(
        np.append(mjd, 53000.0), np.append(flux, 1e6), np.append(error, 1.0), good=known, shortest=1
    )
    assert np.array_equal(masked.power, plain.power)


def test_peaks_stand_apart_and_fall():
    mjd = visits()
    found = periodogram(mjd, *sine(mjd, 5.5, noise=2.0), peaks=8)
    assert len(found.peaks) == 8
    powers = [peak.power for peak in found.peaks]
    assert powers == sorted(powers, reverse=True)
    frequencies = np.array([peak.frequency for peak in found.peaks])
    apart = np.abs(frequencies[:, None] - frequencies)[~np.eye(8, dtype=bool)]
    assert apart.min() > 0.8 / found.span
    assert highest_peaks(np.arange(5.0), np.array([3, 1, 2, np.nan, 5]), count=9, width=0.5) == [
        4,
        0,
        2,
    ]


def test_an_alias_of_nightly_sampling_is_told_from_the_period():
    rng = np.random.default_rng(3)
    # always within half an hour of the same time of day: f and 1 - f cannot be told apart well
    mjd = 53000 + np.sort(rng.choice(200, 90, replace=False)) + rng.normal(0, 0.01, 90)
    found = periodogram(mjd, *sine(mjd, 2.37, noise=0.4), shortest=0.5)
    others = [peak for peak in found.peaks[1:] if peak.is_alias]
    frequencies = [peak.frequency for peak in (found.best, *others)]
    assert any(abs(f - 1 / 2.37) < 0.005 for f in frequencies)
    assert any(
        abs(f - (1 - 1 / 2.37)) < 0.005 or abs(f - (1 + 1 / 2.37)) < 0.005 for f in frequencies
    )
    assert all(peak.window > 0.9 for peak in others)
    assert math.isnan(found.best.window)
    plain = periodogram(visits(), *sine(visits(), 2.37))
    assert not any(peak.is_alias for peak in plain.peaks)


def test_the_window_of_one_step_is_whole():
    samples = usable_samples(np.arange(20.0) * 3, np.arange(20.0))
    assert window_power(samples, 1 / 3) == pytest.approx(1.0)
    assert window_power(samples, 1 / 6) == pytest.approx(0.0, abs=1e-20)


# ---------------------------------------------------------------- false alarms


@pytest.mark.parametrize("noise", [1.0, 4.0, 12.0])
def test_false_alarms_are_those_of_astropy(noise):
    mjd = visits()
    flux, error = sine(mjd, 3.7, noise=noise)
    model = LombScargle(mjd, flux, error)
    samples = usable_samples(mjd, flux, error)
    for power in (0.02, 0.2, 0.35, 0.5, 0.9):
        wanted = model.false_alarm_probability(
            power, method="baluev", minimum_frequency=0.001, maximum_frequency=10.0
        )
        told = false_alarm_log10(power, samples, 10.0)
        assert 10**told == pytest.approx(float(wanted), rel=1e-6, abs=1e-300)
    assert false_alarm_log10(0.0, samples, 10.0) == 0.0
    assert false_alarm_log10(1.0, samples, 10.0) == -math.inf
    # where the probability itself is 0 as a float, its logarithm goes on falling
    many = usable_samples(visits(n=3000), *sine(visits(n=3000), 3.7))
    assert -5000 < false_alarm_log10(0.99, many, 10.0) < -2000


def test_noise_is_a_false_alarm_as_often_as_it_says():
    mjd, error = visits(n=40, span=200.0), np.ones(40)
    rng = np.random.default_rng(8)
    told = [
        periodogram(mjd, rng.normal(0, 1, 40), error, shortest=2.0).best.false_alarm_probability
        for _ in range(100)
    ]
    # an upper limit, and not far above the truth
    for level in (0.1, 0.3):
        share = np.mean(np.array(told) < level)
        assert 0.3 * level < share < level + 3 * math.sqrt(level / 100)


# ---------------------------------------------------------------- limits and grid


def test_limits_come_from_the_sampling():
    irregular = usable_samples(visits(), np.arange(80.0))
    assert period_limits(irregular) == (0.1, irregular.span)
    regular = usable_samples(np.delete(53000 + 0.5 * np.arange(60), [3, 4, 9]), np.arange(57.0))
    assert period_limits(regular) == (pytest.approx(1.0), 29.5)
    minutes = usable_samples(
        np.cumsum(np.random.default_rng(1).uniform(0.001, 0.003, 50)), np.arange(50.0)
    )
    assert 0.003 < period_limits(minutes)[0] < 0.005
    assert period_limits(irregular, shortest=2, longest=9) == (2.0, 9.0)


@settings(max_examples=30)
@given(
    step=st.floats(0.01, 30.0),
    counts=st.lists(st.integers(1, 9), min_size=8, max_size=40),
    seed=st.integers(0, 1000),
)
def test_a_regular_sampling_with_gaps_is_recognised(step, counts, seed):
    mjd = 53000 + step * np.cumsum(counts)
    found = sampling_step(mjd)
    multiples = np.diff(mjd) / found
    assert np.allclose(multiples, np.round(multiples), atol=0.1)  # a twentieth at either end
    # no finer than it must be
    assert found >= step * 0.999 / 12
    assert found == pytest.approx(step * np.gcd.reduce(counts[1:]), rel=1e-3) or found < step * 9
    jitter = np.random.default_rng(seed).uniform(-0.4, 0.4, mjd.size) * step
    if mjd.size >= 15:
        assert math.isnan(sampling_step(np.sort(mjd + jitter)))


def test_the_grid_resolves_every_peak():
    grid = frequency_grid(1000.0, 0.5, 500.0, oversampling=7.0)
    assert grid[0] == pytest.approx(1 / 500)
    assert 2.0 <= grid[-1] < 2.0 + 1 / 7000
    assert np.diff(grid).max() == pytest.approx(1 / 7000)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m, f, e: (m[:7], f[:7], e[:7]), r"at least 8 good points.* has 7 of 7"),
        (lambda m, f, e: (m[:1], f[:1], e[:1]), "has 1 of 1"),
        (lambda m, f, e: (m, f * np.nan, e), "has 0 of 80"),
        (lambda m, f, e: (m, f, e * 0), "has 0 of 80"),
        (lambda m, f, e: (m, f * 0 + 3, e), "all 80 points have the flux 3"),
        (lambda m, f, e: (m * 0 + 53000, f, e), "all 80 points are of one time, 53000"),
        (lambda m, f, e: (m, f[:-1], e), "must be of one length"),
    ],
    ids=["few", "one point", "NaN", "no errors", "constant", "one time", "lengths"],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_has_no_period_is_refused(change, said, method):
    if method == "nifty-ls" and not has_nifty_ls():
        pytest.skip("the extra package nifty-ls is not installed")
    mjd = visits()
    with pytest.raises(UsageError, match=said):
        periodogram(*change(mjd, *sine(mjd, 3.0)), method=method)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"shortest": 5.0, "longest": 2.0}, "periods from 5 d to 2 d cannot be searched"),
        ({"shortest": -1.0}, "shortest must be above 0"),
        ({"longest": math.nan}, "cannot be searched"),
        ({"oversampling": 0.5}, "oversampling must be 1 or more, not 0.5"),
        ({"shortest": 1e-6}, "frequencies, more than"),
        ({"peaks": 0}, "1 peak or more, not 0"),
    ],
)
def test_searches_that_cannot_be_are_refused(how, said):
    mjd = visits()
    with pytest.raises(UsageError, match=said):
        periodogram(mjd, *sine(mjd, 3.0), **how)


def test_an_unknown_method_is_refused_with_the_nearest():
    mjd = visits()
    with pytest.raises(UnknownName, match=r"no method 'lomb-scragle'.*nearest: 'lomb-scargle'"):
        periodogram(mjd, *sine(mjd, 3.0), method="lomb-scragle")


# ---------------------------------------------------------------- eclipses and several bands


def test_boxes_find_what_a_sine_does_not():
    mjd = np.sort(visits(n=400, span=200.0) + np.random.default_rng(1).uniform(-9, 9, 400))
    period, length, middle = 3.137, 0.2, 53001.0
    phase = (mjd - middle + 0.5 * period) % period - 0.5 * period
    rng = np.random.default_rng(4)
    flux = 10.0 - 1.0 * (np.abs(phase) < 0.5 * length) + rng.normal(0, 0.15, mjd.size)
    error = np.full(mjd.size, 0.15)
    found = box_periodogram(mjd, flux, error, shortest=1.0, longest=20.0)
    assert found.best.period == pytest.approx(period, rel=2e-3)
    assert found.best.depth == pytest.approx(1.0, rel=0.25)
    away = (found.best.epoch - middle + 0.5 * period) % period - 0.5 * period
    assert abs(away) < 0.5 * length
    assert math.isnan(found.best.false_alarm_probability)
    assert found.best.power > 15
    same = periodogram(mjd, flux, error, method="box", shortest=1.0, longest=20.0)
    assert repr(same.best) == repr(found.best)
    with pytest.raises(UsageError, match=r"duty cycles of eclipses lie between 0 and 0\.5"):
        box_periodogram(mjd, flux, error, duty_cycles=(0.7,))


def test_two_bands_together_find_what_neither_does_alone():
    mjd, period = visits(n=24, span=300.0), 4.321
    one, error = sine(mjd, period, noise=1.3, seed=12)
    two, _ = sine(mjd + 0.1, period, noise=1.3, seed=13)
    both = (
        np.tile(mjd, 2) + np.repeat([0, 0.1], 24),
        np.append(one, 3 * two),
        np.append(error, 3 * error),
    )
    band = np.repeat(["ch1", "ch2"], 24)
    found = multiband_periodogram(*both, band, shortest=1.0)
    assert found.best.period == pytest.approx(period, rel=0.01)
    # the chi2 of the parts is the chi2 of the whole
    chi2 = [
        np.sum(((f - np.average(f, weights=e**-2)) / e) ** 2)
        for f, e in ((one, error), (3 * two, 3 * error))
    ]
    parts = [
        power_by_hand(m, f, e, found.best.frequency)
        for m, f, e in ((mjd, one, error), (mjd + 0.1, 3 * two, 3 * error))
    ]
    assert found.best.power == pytest.approx(np.average(parts, weights=chi2), rel=1e-6)
    joint = LombScargleMultiband(
        both[0], both[1], band, both[2], nterms_base=0, nterms_band=1, reg_band=None
    )
    some = np.append(found.frequency[::97], found.best.frequency)
    told = np.append(found.power[::97], found.best.power)
    assert joint.power(some, method="flexible") == pytest.approx(told, abs=5e-3)
    assert joint.power(some[-1:], method="flexible") == pytest.approx(told[-1:], rel=1e-6)
    with pytest.raises(UsageError, match="at least 8 good points"):
        multiband_periodogram(*both, np.append(band[:-3], ["x", "x", "x"]))
    with pytest.raises(UsageError, match="one band for each of the 48 points"):
        multiband_periodogram(*both, band[:-1])


# ---------------------------------------------------------------- folding


@given(
    mjd=st.lists(st.floats(50_000, 60_000), min_size=1, max_size=20),
    period=st.floats(0.01, 1e4),
    epoch=st.none() | st.floats(-1e5, 1e5),
)
def test_phases_are_parts_of_a_turn(mjd, period, epoch):
    times = np.array(mjd)
    phase = fold(times, period, epoch=epoch)
    assert np.all((phase >= 0) & (phase < 1))
    zero = times.min() if epoch is None else epoch
    turns = (times - zero) / period - phase
    assert np.allclose(turns, np.round(turns), atol=1e-6)
    assert fold(np.array([zero]), period, epoch=epoch)[0] == 0.0
    later = fold(times + period, period, epoch=zero)
    distance = np.abs(later - phase)
    assert np.all(np.minimum(distance, 1 - distance) < 1e-6)


def test_a_hair_before_the_epoch_is_phase_zero_and_nan_stays():
    phase = fold(np.array([53000.0 - 1e-12, np.nan]), 1e6, epoch=53000.0)
    assert 0 <= phase[0] < 1
    assert math.isnan(phase[1])
    assert fold(np.array([-1e-20]), 1.0, epoch=0.0)[0] == 0.0
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="positive period in days"):
            fold(np.array([1.0]), wrong)
    with pytest.raises(UsageError, match="epoch of a fold must be an MJD"):
        fold(np.array([1.0]), 1.0, epoch=math.nan)
