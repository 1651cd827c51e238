"""Measurement types: names and parts are two views of one thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.errors import UnknownName, UsageError
from idfzarr.measurement import (
    APERTURE_RADII,
    Measurement,
    default_measurements,
    parse_measurement,
    select_types,
)

NAMES = [measurement.name for measurement in default_measurements()]

channels = st.from_regex(r"[A-Za-z][A-Za-z0-9]{0,5}", fullmatch=True)
sums = st.sampled_from(["auto", "iso", "psf", "aper1", "aper8", "r3.5", "r12"])
statistics = st.sampled_from(["median3", "median20", "biweight7", "biweight13"])
measurements = st.one_of(
    st.builds(Measurement, channels, sums, st.sampled_from(["original", "clean", "diff"])),
    st.builds(Measurement, channels, statistics, st.just("ratio")),
)


@given(measurements)
def test_a_name_says_everything(measurement: Measurement) -> None:
    assert parse_measurement(measurement.name) == measurement


def test_the_default_types_are_forty() -> None:
    assert len(NAMES) == len(set(NAMES)) == 40
    assert NAMES[0] == "ch1_auto_original"
    assert len(default_measurements(["ch1"])) == 20


def test_radii_of_the_numbered_apertures() -> None:
    radii = tuple(Measurement("ch1", f"aper{n}", "clean").radius for n in range(1, 9))
    assert radii == APERTURE_RADII == (2, 3, 4, 5, 6, 8, 10, 12)
    assert Measurement("ch1", "r3.5", "clean").radius == 3.5
    assert Measurement("ch1", "auto", "clean").radius is None


def test_statistics_name_their_area() -> None:
    assert Measurement("ch1", "biweight7", "ratio").statistic == ("biweight", 7)
    assert Measurement("ch1", "auto", "clean").statistic is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ch1_auto", "must be CHANNEL_METHOD_IMAGE"),
        ("ch1_atuo_original", "'atuo' is no method; nearest: 'auto'"),
        ("ch1_aper9_original", "'aper9' is no method"),
        ("ch1_aper0_original", "'aper0' is no method"),
        ("ch1_r0_original", "'r0' is no method"),
        ("ch1_median4_ratio", "'median4' is no method"),
        ("ch1_auto_orignal", "'orignal' is no image; nearest: 'original'"),
        ("ch1_auto_ratio", "is a sum, and ratio images have none"),
        ("ch1_median7_clean", "measured on ratio images only"),
        ("1ch_auto_clean", "cannot be a channel"),
        ("../x_auto_clean", "cannot be a channel"),
    ],
)
def test_names_that_are_none_say_why(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_measurement(name)


def test_globs_choose_in_the_order_of_the_cube() -> None:
    assert select_types(NAMES, "ch2_auto_*,ch1_iso_clean") == [
        "ch1_iso_clean",
        "ch2_auto_original",
        "ch2_auto_clean",
    ]
    assert select_types(NAMES, "*") == NAMES


def test_a_glob_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(UnknownName, match="no type matches 'ch3_auto_original'; nearest:"):
        select_types(NAMES, ["ch1_*", "ch3_auto_original"])
