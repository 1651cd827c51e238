"""The Lightcurve: selections, calibration, magnitudes, and what it turns into."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units
from astropy.time import Time

from idfzarr.errors import UsageError
from idfzarr.flags import flag_bit
from idfzarr.lightcurve import Lightcurve, mjd_of


@pytest.fixture
def lightcurve() -> Lightcurve:
    return Lightcurve(
        object_id=7,
        type="ch1_aper2_original",
        aor=np.arange(1, 6, dtype=np.int64),
        mjd=np.array([53000.0, 53010.0, 53020.0, 53030.0, 53040.0]),
        flux=np.array([100.0, 110.0, np.nan, -5.0, 90.0], dtype=np.float32),
        flux_err=np.array([1.0, 1.0, np.nan, 1.0, 1.0], dtype=np.float32),
        flag=np.array([0, 8, 256, 0, 2], dtype=np.uint16),
        zeropoint=np.array([0.0, 0.1, np.nan, 0.0, -0.1], dtype=np.float32),
        zeropoint_err=np.array([0.0, 0.01, np.nan, 0.0, 0.0], dtype=np.float32),
        noise_scale=np.array([2.0, 2.0, 2.0, np.nan, 3.0], dtype=np.float32),
        ra=265.0,
        dec=69.0,
    )


def test_good_drops_bad_flags_and_nan_and_keeps_remarks(lightcurve: Lightcurve) -> None:
    assert lightcurve.good().aor.tolist() == [1, 4, 5]
    assert lightcurve.good(drop=["masked_pixels"]).aor.tolist() == [1, 2, 4]
    assert len(lightcurve.good().zeropoint) == 3  # type: ignore[arg-type]


def test_during_is_half_open_and_takes_dates(lightcurve: Lightcurve) -> None:
    assert lightcurve.during(53010, 53030).aor.tolist() == [2, 3]
    dated = lightcurve.during(Time(53010, format="mjd"), "2004-01-26")
    assert dated.aor.tolist() == [2, 3]


def test_during_refuses_what_is_no_range(lightcurve: Lightcurve) -> None:
    with pytest.raises(UsageError, match="ends before it starts"):
        lightcurve.during(53030, 53010)
    with pytest.raises(UsageError, match="'yesterday' is no date"):
        lightcurve.during("yesterday", 53010)


def test_mjd_of_agrees_with_astropy() -> None:
    assert mjd_of("2012-12-09T11:21:18.813") == pytest.approx(56270.4731344, abs=1e-7)


def test_calibrated_applies_zero_point_and_noise_scale(lightcurve: Lightcurve) -> None:
    calibrated = lightcurve.calibrated()
    assert calibrated.flux[1] == pytest.approx(110 * 10**0.04, rel=1e-6)
    expected = np.hypot(2 * 10**0.04, 110 * 10**0.04 * 0.01 * np.log(10) / 2.5)
    assert calibrated.flux_err[1] == pytest.approx(expected, rel=1e-6)
    assert calibrated.flux_err[3] == pytest.approx(1.0)
    assert np.isnan(calibrated.flux[2])
    assert calibrated.calibrated() is calibrated


def test_magnitudes_are_ab_and_nan_for_negative_flux(lightcurve: Lightcurve) -> None:
    assert lightcurve.mag[0] == pytest.approx((100 * units.uJy).to_value(units.ABmag), abs=1e-3)
    assert np.isnan(lightcurve.mag[3])
    assert np.isnan(lightcurve.mag_err[3])
    assert lightcurve.mag_err[0] == pytest.approx(0.010857, rel=1e-4)


def test_vega_magnitudes_come_from_the_handbook(lightcurve: Lightcurve) -> None:
    assert lightcurve.magnitude("Vega")[0] == pytest.approx(2.5 * np.log10(280.9e6 / 100), abs=1e-5)


def test_vega_is_refused_where_no_zero_flux_is_known(lightcurve: Lightcurve) -> None:
    from dataclasses import replace

    with pytest.raises(UsageError, match="'Vega' magnitudes of V_auto_clean"):
        replace(lightcurve, type="V_auto_clean").magnitude("Vega")


def test_tables_carry_units_and_the_time_scale(lightcurve: Lightcurve) -> None:
    table = lightcurve.to_table()
    assert table["flux"].unit == units.uJy
    assert table["time"].scale == "utc"
    assert table.meta["object"] == 7
    series = lightcurve.to_timeseries()
    assert len(series) == 5
    np.testing.assert_allclose(series.time.mjd, lightcurve.mjd)


def test_xarray_carries_cf_attributes(lightcurve: Lightcurve) -> None:
    dataset = lightcurve.to_xarray()
    assert dataset.flux.attrs["units"] == "uJy"
    assert dataset.flag.dtype == np.uint16
    assert flag_bit("saturated") in dataset.flag.attrs["flag_masks"]
    np.testing.assert_array_equal(dataset.aor, lightcurve.aor)


def test_repr_says_what_it_is(lightcurve: Lightcurve) -> None:
    assert repr(lightcurve) == (
        "<Lightcurve of object 7, ch1_aper2_original: 5 AORs, 4 measured, "
        "MJD 53000.00 to 53040.00, median 95 uJy>"
    )
