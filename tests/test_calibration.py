"""Ensemble zero points: what was put in comes out."""

from __future__ import annotations

import numpy as np
import pytest

from idfzarr.analysis.calibration import (
    FEWEST_STARS,
    apply_zeropoint,
    choose_comparison,
    ensemble_zeropoint,
    frozen_zeropoint,
    suspect_aors,
)
from idfzarr.errors import UsageError
from idfzarr.flags import flag_bit


def ensemble(seed=0, *, stars=80, aors=60, variables=0, drift=0.01):
    """Fluxes, errors, true zero points and true fluxes; the first rows vary."""
    rng = np.random.default_rng(seed)
    truth = 10 ** rng.uniform(2, 4, stars)
    shift = rng.normal(0, drift, aors)
    error = np.hypot(1.0, 0.003 * truth)[:, None] * np.ones(aors)
    real = truth[:, None] * np.ones(aors)
    phase = rng.uniform(0, 2 * np.pi, variables)
    real[:variables] *= 1 + 0.2 * np.sin(np.arange(aors) / 5 + phase[:, None])
    flux = real * 10 ** (-0.4 * shift) + rng.normal(size=real.shape) * error
    return flux.astype(np.float32), error.astype(np.float32), shift - np.median(shift), truth


def test_a_hand_worked_case():
    # three constant stars; the second AOR sees 10 per cent less of everything
    flux = np.array([[100.0, 90.0, 100.0], [200.0, 180.0, 200.0], [400.0, 360.0, 400.0]])
    found = ensemble_zeropoint(flux, 0.001 * flux)
    np.testing.assert_allclose(found.zeropoint, [0, -2.5 * np.log10(0.9), 0], atol=1e-12)
    np.testing.assert_allclose(found.mean_flux, [100, 200, 400], rtol=1e-12)
    np.testing.assert_allclose(
        apply_zeropoint(flux, found.zeropoint), flux[:, [0, 0, 0]], rtol=1e-12
    )
    np.testing.assert_array_equal(found.n_stars, [3, 3, 3])
    np.testing.assert_allclose(found.zeropoint_err, 0, atol=1e-9)


def test_recovers_the_drift_within_its_errors():
    flux, error, shift, truth = ensemble(1, stars=120)
    found = ensemble_zeropoint(flux, error)
    rest = found.zeropoint - shift
    rest -= np.median(rest)
    assert np.std(rest) < 0.001
    assert 0.6 < np.std(rest / found.zeropoint_err) < 1.5
    calibrated = apply_zeropoint(flux, found.zeropoint)
    np.testing.assert_allclose(np.median(calibrated, axis=1), truth, rtol=0.01)
    assert found.scatter == pytest.approx(0.0035, abs=0.002)


def test_variables_are_not_comparison_stars_and_do_not_pull():
    flux, error, shift, _ = ensemble(2, variables=30)
    found = ensemble_zeropoint(flux, error)
    assert not found.comparison[:30].any()
    assert found.comparison[30:].sum() >= 35
    rest = found.zeropoint - shift
    assert np.std(rest) < 0.0015
    assert np.isnan(found.mean_flux[:30]).all()


def test_a_clean_ensemble_keeps_most_of_its_stars():
    flux, error, _, _ = ensemble(3)
    assert ensemble_zeropoint(flux, error).comparison.mean() > 0.9


def test_flagged_and_missing_measurements_do_not_count():
    flux, error, shift, _ = ensemble(4)
    flag = np.zeros(flux.shape, np.uint16)
    flux[:60, 7] *= 3
    flag[:60, 7] = flag_bit("saturated")
    flag[:, 9] = flag_bit("neighbour")  # no bad flag
    flux[:50, 11] = np.nan
    error[:10, 12] = 0
    flux[:5, 13] = -1
    found = ensemble_zeropoint(flux, error, flag)
    n_out = [int(found.comparison[:n].sum()) for n in (60, 0, 50, 10, 5)]
    total = int(found.comparison.sum())
    expected = [total - n for n in n_out]
    np.testing.assert_array_equal(found.n_stars[[7, 9, 11, 12, 13]], expected)
    np.testing.assert_allclose(found.zeropoint, shift, atol=0.006)


def test_frozen_stars_give_old_aors_the_very_numbers_and_new_ones_the_right_ones():
    flux, error, shift, _ = ensemble(5, aors=80, variables=10)
    old = ensemble_zeropoint(flux[:, :60], error[:, :60])
    kept = {"comparison": old.comparison, "mean_flux": old.mean_flux}
    again = frozen_zeropoint(flux[:, :60], error[:, :60], **kept)
    for name in ("zeropoint", "zeropoint_err", "n_stars", "mean_flux"):
        np.testing.assert_array_equal(getattr(again, name), getattr(old, name))
    new = frozen_zeropoint(flux[:, 60:], error[:, 60:], **kept)
    gauge = np.median(shift[:60])
    np.testing.assert_allclose(new.zeropoint, shift[60:] - gauge, atol=0.003)
    # one AOR at a time, or all at once
    single = frozen_zeropoint(flux[:, 61:62], error[:, 61:62], **kept)
    assert single.zeropoint[0] == new.zeropoint[1]


@pytest.mark.parametrize("stars", [0, 1, 2])
def test_with_too_few_stars_nothing_is_applied_and_nothing_is_nan(stars):
    flux, error, _, _ = ensemble(6, stars=stars)
    found = ensemble_zeropoint(flux, error)
    assert stars < FEWEST_STARS
    np.testing.assert_array_equal(found.zeropoint, np.zeros(60))
    np.testing.assert_array_equal(found.zeropoint_err, np.zeros(60))
    np.testing.assert_array_equal(found.n_stars, np.full(60, stars))
    np.testing.assert_array_equal(apply_zeropoint(flux, found.zeropoint), flux)


def test_an_aor_without_stars_gets_the_scatter_of_the_others_for_its_error():
    flux, error, shift, _ = ensemble(7, drift=0.03)
    flux[:, 20] = np.nan
    flux[2:, 21] = np.nan
    found = ensemble_zeropoint(flux, error)
    assert found.n_stars[20] == 0
    assert found.n_stars[21] <= 2
    np.testing.assert_array_equal(found.zeropoint[20:22], 0)
    np.testing.assert_allclose(found.zeropoint_err[20:22], 0.03, rtol=0.4)
    others = np.delete(np.arange(60), [20, 21])
    np.testing.assert_allclose(found.zeropoint[others], shift[others], atol=0.008)


def test_aors_far_off_are_suspect():
    flux, error, _, _ = ensemble(8)
    flux[:, 5] *= 0.5
    rng = np.random.default_rng(0)
    flux[:, 6] *= rng.lognormal(0, 1.5, len(flux))
    flux[:, 7] = np.nan
    suspects = suspect_aors(ensemble_zeropoint(flux, error))
    assert set(np.flatnonzero(suspects)) == {5, 6}


class TestChooseComparison:
    def test_takes_the_isolated_above_fifty(self):
        ratio = np.r_[np.full(25, 80.0), np.full(30, 40.0), np.nan]
        isolated = np.ones(56, bool)
        isolated[0] = False
        chosen = choose_comparison(ratio, isolated=isolated)
        assert chosen.signal_to_noise == 50
        assert chosen.isolated
        np.testing.assert_array_equal(np.sort(chosen.rows), np.arange(1, 25))

    @pytest.mark.parametrize(("level", "threshold"), [(35, 30), (25, 20), (12, 10), (6, 5)])
    def test_goes_down_in_steps_until_there_are_enough(self, level, threshold):
        ratio = np.r_[np.full(5, 90.0), np.full(30, float(level))]
        chosen = choose_comparison(ratio, isolated=np.ones(35, bool))
        assert chosen.signal_to_noise == threshold
        assert len(chosen.rows) == 35
        np.testing.assert_array_equal(np.sort(chosen.rows[:5]), np.arange(5))

    def test_gives_isolation_up_last_and_says_so(self):
        ratio = np.full(40, 60.0)
        isolated = np.zeros(40, bool)
        isolated[:2] = True
        chosen = choose_comparison(ratio, isolated=isolated)
        assert not chosen.isolated
        assert len(chosen.rows) == 40

    def test_one_star_is_what_there_is(self):
        chosen = choose_comparison(np.array([900.0]), isolated=np.array([True]))
        np.testing.assert_array_equal(chosen.rows, [0])
        assert chosen.signal_to_noise == 0

    def test_unusable_stars_stay_out_and_the_brightest_come_first(self):
        ratio = np.linspace(60, 200, 50)
        usable = np.ones(50, bool)
        usable[-3:] = False
        everything = np.ones(50, bool)
        chosen = choose_comparison(ratio, isolated=everything, usable=usable, most=10)
        np.testing.assert_array_equal(chosen.rows, np.arange(46, 36, -1))

    def test_refuses_different_lengths(self):
        with pytest.raises(UsageError, match="must have one length"):
            choose_comparison(np.ones(3), isolated=np.ones(4, bool))


def test_refuses_shapes_that_differ():
    flux = np.ones((4, 5))
    with pytest.raises(UsageError, match=r"must have one shape \(object, aor\)"):
        ensemble_zeropoint(flux, flux[:, :2])
    with pytest.raises(UsageError, match="one entry per object, 4"):
        ensemble_zeropoint(flux, flux, usable=np.ones(3, bool))
    with pytest.raises(UsageError, match="one entry per object, 4"):
        frozen_zeropoint(flux, flux, comparison=np.ones(3, bool), mean_flux=np.ones(4))
