"""Magnitudes: worked by hand, equal to astropy's, and never silent about what has none."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from idfzarr.analysis.magnitude import (
    colour,
    colour_error,
    magnitude,
    magnitude_error,
    magnitude_flag,
    ratio_to_magnitude,
    zero_magnitude,
)
from idfzarr.errors import UsageError
from idfzarr.lightcurve import Lightcurve

FLUXES = hnp.arrays(np.float32, 12, elements=st.floats(-1e6, 1e8, width=32) | st.just(np.nan))


@given(FLUXES, st.sampled_from(["AB", "Vega"]), st.sampled_from(["ch1", "ch2"]))
def test_magnitudes_are_those_of_a_lightcurve(flux, system, channel):
    error = np.abs(flux) / 10 + 1
    one = Lightcurve(
        object_id=1,
        type=f"{channel}_auto_clean",
        aor=np.arange(12),
        mjd=np.arange(12.0),
        flux=flux,
        flux_err=error,
        flag=np.zeros(12, dtype=np.uint16),
    )
    found = magnitude(flux, system=system, channel=channel)
    np.testing.assert_allclose(found, one.magnitude(system), rtol=1e-13)
    np.testing.assert_allclose(magnitude_error(flux, error), one.mag_err, rtol=1e-13)
    flag = magnitude_flag(flux)
    assert np.array_equal(flag == 0, np.isfinite(found))
    assert np.array_equal(flag == 2, np.isnan(flux))
    assert np.array_equal(flag == 1, flux <= 0)


def test_ab_magnitudes_are_those_of_astropy():
    flux = np.array([0.3, 1.0, 250.0])
    truth = (flux * units.uJy).to_value(units.ABmag)
    np.testing.assert_allclose(magnitude(flux), truth, atol=3e-4)  # 3631 Jy is 48.60 rounded


def test_vega_is_zero_at_its_own_flux():
    assert magnitude(280.9e6, system="Vega", channel="ch1") == pytest.approx(0, abs=1e-12)
    assert magnitude(179.7e6, system="Vega", channel="ch2") == pytest.approx(0, abs=1e-12)
    assert zero_magnitude("Vega", channel="ch1") - 23.9 == pytest.approx(-2.78, abs=0.005)


def test_magnitudes_without_a_unit_are_instrumental():
    assert magnitude([100.0], unit="").tolist() == [-5.0]


def test_an_error_of_a_tenth_is_a_tenth_of_a_magnitude():
    assert magnitude_error(10.0, 1.0) == pytest.approx(0.10857, abs=1e-5)
    assert np.isnan(magnitude_error(-10.0, 1.0))


def test_a_ratio_keeps_the_errors_apart():
    mag, own, shared = ratio_to_magnitude(
        np.array([[1.0, 0.5, -1.0], [2.0, 1.0, 1.0]]),
        np.full((2, 3), 0.1),
        reference_flux=np.array([[100.0], [0.0]]),
        reference_err=np.array([[5.0], [1.0]]),
    )
    np.testing.assert_allclose(mag[0, :2], [18.9, 18.9 + 2.5 * np.log10(2)])
    assert np.isnan(mag[0, 2])
    assert np.isnan(mag[1]).all()
    np.testing.assert_allclose(own[0, :2], [0.108574, 0.217147], atol=1e-6)
    np.testing.assert_allclose(shared, [[0.054287], [np.nan]], atol=1e-6)


def test_colours():
    assert colour([20.0, np.nan], [19.0, 1.0])[0] == 1
    assert np.isnan(colour([20.0, np.nan], [19.0, 1.0])[1])
    assert colour_error([3.0], [4.0]).tolist() == [5.0]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"system": "vega"}, "'vega' is no magnitude system; nearest: 'Vega'"),
        ({"system": "Vega"}, "Vega magnitudes of channel None"),
        ({"system": "Vega", "channel": "ch3"}, "of channel 'ch3' .* ch1, ch2"),
        ({"system": "Vega", "channel": "ch1", "unit": "ct"}, "unit 'ct'"),
    ],
)
def test_systems_that_are_not_defined_are_refused(how, message):
    with pytest.raises(UsageError, match=message):
        magnitude([1.0], **how)
