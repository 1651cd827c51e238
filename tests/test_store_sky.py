"""Cones on the sky: right at the poles and across right ascension 0."""

from __future__ import annotations

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.errors import NoSkyCoordinates, UsageError
from idfzarr.store.sky import cone_rows


@given(
    ra=st.sampled_from([0.0, 0.0002, 359.9999, 180.0, 265.0]),
    dec=st.sampled_from([-90.0, -89.9999, 0.0, 69.0, 89.9999, 90.0]),
    radius=st.floats(0.1, 3600),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_cone_holds_what_astropy_says(ra, dec, radius, seed) -> None:
    rng = np.random.default_rng(seed)
    centre = SkyCoord(ra, dec, unit="deg")
    points = centre.directional_offset_by(
        rng.uniform(0, 360, 50) * units.deg, rng.uniform(0, 2 * radius, 50) * units.arcsec
    )
    distance = centre.separation(points).arcsec
    rows = cone_rows(points.ra.deg, points.dec.deg, centre=(ra, dec), radius=radius, where="s")
    clear = np.abs(distance - radius) > 1e-6 * radius
    expected = set(np.flatnonzero((distance <= radius) & clear))
    assert expected == set(rows) & set(np.flatnonzero(clear))
    assert (np.diff(distance[rows]) > -1e-6).all()


def test_objects_without_position_are_in_no_cone() -> None:
    ra, dec = np.array([10.0, np.nan]), np.array([0.0, 0.0])
    assert cone_rows(ra, dec, centre=(10, 0), radius=648000, where="s").tolist() == [0]


def test_a_field_without_wcs_refuses_the_sky() -> None:
    nothing = np.full(3, np.nan)
    with pytest.raises(
        NoSkyCoordinates, match=r"hat\.zarr has no sky coordinates: its frames had no WCS"
    ):
        cone_rows(nothing, nothing, centre=(10, 0), radius=1, where="hat.zarr")


@pytest.mark.parametrize(
    ("centre", "radius", "message"),
    [
        ((10, 91), 1, "dec -90 to 90"),
        ((np.nan, 0), 1, "is none"),
        ((10, 0), -1, "a cone of -1 arcsec"),
        ((10, 0), np.nan, "a cone of nan arcsec"),
    ],
)
def test_what_is_no_cone_is_refused(centre, radius, message) -> None:
    with pytest.raises(UsageError, match=message):
        cone_rows(np.zeros(1), np.zeros(1), centre=centre, radius=radius, where="s")
