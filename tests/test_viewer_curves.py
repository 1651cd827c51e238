"""Curves as they are drawn hold the numbers that the cube gives by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

import idfzarr
from idfzarr.analysis.magnitude import ratio_to_magnitude
from idfzarr.analysis.smoothing import bin_lightcurve, clip, smooth
from idfzarr.flags import flag_bit
from idfzarr.viewer import curves as curves_module
from idfzarr.viewer.curve_values import GROUPS, date_of, words_of
from idfzarr.viewer.curves import prepare, rate_limits
from idfzarr.viewer.field import Field
from idfzarr.viewer.periods import drawn_powers, find_periods, fold_curves, peak_rows
from idfzarr.viewer.state import ViewerState

RNG = np.random.default_rng(7)
N_AORS = 120
TYPES = ["ch1_aper2_clean", "ch2_aper2_clean", "ch1_median7_ratio", "ch2_median7_ratio"]
MJD = np.sort(RNG.uniform(53000, 54000, N_AORS))
PERIOD = 7.3
# between two others that are near in time, and without a flag
SPIKE = 31 + int(np.argmin(np.maximum(np.diff(MJD)[30:-1], np.diff(MJD)[31:])))
SATURATED, NEIGHBOUR = flag_bit("saturated"), flag_bit("neighbour")


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """Three objects: a periodic one, a faint one with negative fluxes, one never measured."""
    path = tmp_path_factory.mktemp("curves") / "<b>field.zarr"
    objects = pd.DataFrame(
        {
            "object_id": [11, 5, 8],
            "x": [3.0, 8.0, 5.0],
            "y": [4.0, 5.0, 5.5],
            "flux_auto_ch1": [100.0, 3.0, np.nan],
            "flux_auto_ch2": [50.0, 2.0, 1.0],
            "flux_auto_err_ch1": [1.0, 0.1, 1.0],
            "flux_auto_err_ch2": [1.0, 0.1, 1.0],
        }
    )
    types = pd.DataFrame({"type": TYPES, "unit": ["uJy", "uJy", "", ""]})
    aors = {
        "aor": np.arange(1000, 1000 + N_AORS),
        "mjd": MJD,
        "aor_name": [f"<i>a{k}" for k in range(N_AORS)],
        "exptime": np.linspace(10, 20, N_AORS),
    }
    cube = idfzarr.create(path, objects=objects, types=types, aors=aors)
    flux = np.empty((3, 4, N_AORS))
    flux[0, :2] = 100 + 20 * np.sin(2 * np.pi * MJD / PERIOD) + RNG.normal(0, 1, (2, N_AORS))
    flux[1, :2] = RNG.normal(0.0, 1.0, (2, N_AORS))
    flux[:2, 2:] = RNG.normal(1.0, 0.02, (2, 2, N_AORS))
    flux[2] = np.nan
    flux[0, 0, SPIKE] = 1000.0
    error = np.full_like(flux, 1.0)
    error[:, 2:] = 0.02
    flag = np.zeros(flux.shape, dtype=np.uint16)
    flag[0, 0, 10:14] = SATURATED | NEIGHBOUR
    flag[0, 0, 20:25] = NEIGHBOUR
    cube.write_block(0, flux=flux, flux_err=error, flag=flag)
    return Field(path)


@pytest.fixture
def state(field):
    return ViewerState(field.choices(), object=11, types=TYPES[:1])


def test_the_points_kept_are_those_of_the_cube(field, state):
    state.param.update(start=53100.0, end=53900.0)
    (curve,) = prepare(field, state)
    by_hand = field.cube.lightcurve(11, TYPES[0]).calibrated().during(53100, 53900).good()
    points = curve.points()
    np.testing.assert_array_equal(points["mjd"], by_hand.mjd)
    np.testing.assert_array_equal(points["y"], by_hand.flux.astype(float))
    np.testing.assert_array_equal(points["aor"], by_hand.aor)
    np.testing.assert_array_equal(points["high"] - points["y"], by_hand.flux_err.astype(float))
    state.unit = "mag"
    (curve,) = prepare(field, state)
    np.testing.assert_array_equal(curve.points()["y"], by_hand.mag)
    np.testing.assert_allclose(curve.points()["y"] - curve.points()["low"], by_hand.mag_err)
    state.system = "Vega"
    np.testing.assert_allclose(prepare(field, state)[0].points()["y"], by_hand.magnitude("Vega"))


def test_flagged_points_stand_apart_with_their_flags_in_words(field, state):
    (curve,) = prepare(field, state)
    apart = curve.points("flagged")
    assert list(apart["aor"]) == [1010, 1011, 1012, 1013]
    assert set(apart["flags"]) == {"saturated, neighbour"}
    assert sorted(set(curve.points()["flags"])) == ["", "neighbour"]
    state.drop = ["neighbour"]
    assert prepare(field, state)[0].flagged.sum() == 9
    state.show_flagged = False
    (curve,) = prepare(field, state)
    assert curve.flagged.sum() == 0
    assert curve.kept.sum() == N_AORS - 9
    state.drop = []
    assert prepare(field, state)[0].kept.sum() == N_AORS


def test_clipped_points_stand_apart(field, state):
    state.param.update(clip_on=True, clip_sigma=8.0)
    (curve,) = prepare(field, state)
    lc = field.cube.lightcurve(11, TYPES[0]).good()
    stay = clip(lc.mjd, lc.flux, sigma=8.0, error=lc.flux_err)
    assert list(curve.points("clipped")["aor"]) == list(lc.aor[~stay]) == [1000 + SPIKE]
    assert not (curve.clipped & curve.kept).any()


def test_a_spike_is_outlying_by_its_rates(field, state):
    state.rate_on = True
    (curve,) = prepare(field, state)
    assert 1000 + SPIKE in curve.points("outlying")["aor"]
    assert curve.points("outlying")["aor"].size < 10
    assert not np.isin(1000 + SPIKE, curve.points("kept")["aor"])


def test_rate_limits_know_no_outliers():
    rate = np.append(np.random.default_rng(1).normal(0.5, 2.0, 20_000), np.full(100, 1e6))
    low, high = rate_limits(rate, low=5.0, high=95.0, sigma=3.0)
    assert low == pytest.approx(0.5 - 6.0, abs=0.3)
    assert high == pytest.approx(0.5 + 6.0, abs=0.3)
    assert np.isnan(rate_limits(np.empty(0), low=5.0, high=95.0, sigma=3.0)).all()


def test_groups_share_no_point(field, state):
    state.param.update(clip_on=True, rate_on=True, types=TYPES, unit="mag")
    for curve in prepare(field, state):
        masks = np.stack([getattr(curve, group) for group in GROUPS])
        assert masks.sum(axis=0).max() == 1
        assert curve.n_drawn == masks.sum() > 0


def test_negative_fluxes_are_counted_and_said(field, state):
    state.param.update(object=5, unit="mag", types=TYPES[:2])
    prepared = prepare(field, state)
    for curve in prepared:
        flux = field.cube.lightcurve(5, curve.type).flux
        negative = int((flux <= 0).sum())
        assert 30 < negative < 90
        assert curve.n_drawn == N_AORS - negative
        said = f"{curve.type} of object 5: {negative} of {N_AORS} fluxes are not above zero"
        assert any(said in note for note in prepared.notes)
    state.unit = "flux"
    assert prepare(field, state).notes == ()
    assert prepare(field, state)[0].n_drawn == N_AORS


def test_many_negative_lightcurves_are_one_sentence(field, state):
    state.param.update(object=5, compared=[11, 8], unit="mag", types=TYPES)
    notes = prepare(field, state).notes
    assert sum("not above zero" in note for note in notes) == 2
    assert "4 lightcurves were not measured in this time" in notes


def test_ratios_become_magnitudes_by_their_own_channel(field, state):
    state.param.update(unit="mag", types=TYPES[2:])
    for curve, channel, reference in zip(
        prepare(field, state), ("ch1", "ch2"), (100.0, 50.0), strict=True
    ):
        lc = field.cube.lightcurve(11, curve.type)
        expected, error, _ = ratio_to_magnitude(
            lc.flux, lc.flux_err, reference_flux=reference, reference_err=1.0, channel=channel
        )
        np.testing.assert_array_equal(curve.y, expected)
        np.testing.assert_allclose(curve.high - curve.y, error)
        assert curve.reference == pytest.approx(23.9 - 2.5 * np.log10(reference))
        assert f"(reference {curve.reference:.2f} mag)" in curve.label
    state.param.update(object=8, types=TYPES[2:3])
    assert any("flux in ch1 is not known" in note for note in prepare(field, state).notes)


def test_labels_carry_units(field, state):
    state.types = TYPES
    assert prepare(field, state).y_label == "flux [µJy]; ratio to the superstack [no unit]"
    assert prepare(field, state).x_label == "mid-exposure [date, UTC]"
    state.param.update(unit="mag", system="Vega", time_axis="exptime")
    prepared = prepare(field, state)
    assert prepared.y_label == "magnitude [Vega mag]"
    assert prepared.x_label == "exposure time [s]"
    assert prepared.y_reversed
    assert not prepared.x_is_date


def test_dates_keep_the_time_of_day(field, state):
    (curve,) = prepare(field, state)
    for k in (0, 17, 60):
        exact = datetime(1858, 11, 17, tzinfo=UTC) + timedelta(days=MJD[k])
        told = curve.x[k].astype("datetime64[us]").item().replace(tzinfo=UTC)
        assert abs(told - exact) < timedelta(milliseconds=1)
    assert np.isnat(date_of(np.array([np.nan]))).all()
    assert len(np.unique(date_of(53000 + np.arange(5) / 86400))) == 5


@pytest.mark.parametrize("axis", ["mjd", "number", "aor", "exptime"])
def test_any_column_of_the_aors_can_be_the_axis(field, state, axis):
    state.time_axis = axis
    expected = {
        "mjd": MJD,
        "number": np.arange(1, N_AORS + 1),
        "aor": np.arange(1000, 1000 + N_AORS),
        "exptime": np.linspace(10, 20, N_AORS),
    }[axis]
    np.testing.assert_allclose(prepare(field, state)[0].x, expected)


def test_lines_are_those_of_the_library(field, state):
    state.param.update(smooth_on=True, bin_on=True, time_axis="mjd", smooth_window=40.0)
    (curve,) = prepare(field, state)
    lc = field.cube.lightcurve(11, TYPES[0]).good()
    made = smooth(lc.mjd, lc.flux, window=40.0, sigma=3.0, error=lc.flux_err)
    np.testing.assert_allclose(curve.smooth.y, made.value)
    np.testing.assert_allclose(curve.smooth.low, made.low)
    binned = bin_lightcurve(lc.mjd, lc.flux, lc.flux_err, width=30.0)
    np.testing.assert_allclose(curve.binned.y, binned.flux)
    np.testing.assert_allclose(curve.binned.high - curve.binned.y, binned.flux_err)
    state.time_axis = "exptime"
    prepared = prepare(field, state)
    assert prepared[0].smooth is None
    assert "against time only" in prepared.notes[0]


def test_too_many_points_are_said(field, state, monkeypatch):
    monkeypatch.setattr(curves_module, "MOST_POINTS", 250)
    state.param.update(types=TYPES, compared=[5])
    prepared = prepare(field, state)
    assert len(prepared) == 2
    assert "6 lightcurves are not drawn" in prepared.notes[0]


def test_words_of_every_flag():
    flags = np.array([0, 1, 8, 9, 65535], dtype=np.uint16)
    words = words_of(flags)
    assert list(words[:4]) == ["", "edge", "saturated", "edge, saturated"]
    assert words[4].count(",") == 15


def test_a_period_is_found_and_folds(field, state):
    state.param.update(period_type=TYPES[0], clip_on=True, clip_sigma=8.0, shortest_period=1.0)
    search = find_periods(field, state)
    assert search.found.best.period == pytest.approx(PERIOD, rel=1e-3)
    assert peak_rows(search.found)[0]["false_alarm_probability"] < 1e-10
    period, power = drawn_powers(search.found)
    assert power.max() == search.found.power.max()
    assert period.size <= 6100
    (folded,) = fold_curves(prepare(field, state), PERIOD, epoch=53000.0)
    points = folded.points()
    n = len(points["x"]) // 2
    np.testing.assert_allclose(points["x"][:n] + 1, points["x"][n:])
    np.testing.assert_allclose(points["x"][:n], (points["mjd"][:n] - 53000.0) / PERIOD % 1)
    expected = 100 + 20 * np.sin(2 * np.pi * (points["x"] + 53000.0 / PERIOD))
    assert np.abs(points["y"] - expected).max() < 6


def test_nothing_to_look_for_periods_in_is_a_sentence(field, state):
    state.param.update(object=8, period_type=TYPES[0])
    search = find_periods(field, state)
    assert search.found is None
    assert len(search.note) > 10


def test_the_truth_of_a_simulated_field_is_drawn(small_store):
    field = Field(small_store.store)
    score = field.statistic("n", "ch1_aper2_clean") * field.statistic("median", "ch1_aper2_clean")
    bright = int(field.cube.objects[np.nanargmax(score)])
    types = ["ch1_aper2_clean", "ch2_auto_clean", "ch1_iso_clean"]
    state = ViewerState(field.choices(), object=bright, types=types, time_axis="mjd")
    small, kron, isophote = prepare(field, state)
    assert isophote.truth is None
    for curve, most in ((small, 0.05), (kron, 0.1)):
        assert curve.truth.y.size == small_store.aors
        ratio = np.median(curve.points()["y"]) / np.median(curve.truth.y)
        assert ratio == pytest.approx(1.0, abs=most)
    state.show_truth = False
    assert prepare(field, state)[0].truth is None
    elsewhere = Field(small_store.store, truth=small_store.images)
    assert elsewhere.truth.describe(bright)["kind"] in {"star", "galaxy"}
