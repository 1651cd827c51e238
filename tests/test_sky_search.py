"""Positions, angles, boxes, trees: equal to astropy's brute force, at poles and across 0 h."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.analysis.sky_search import (
    SkyTree,
    angle_of,
    box_rows,
    position_of,
    sky_tree,
    table_positions,
)
from idfzarr.errors import UnknownName, UsageError
from idfzarr.store import sky

CENTRES = st.tuples(
    st.sampled_from([0.0, 0.0002, 359.9999, 180.0, 265.0]),
    st.sampled_from([-90.0, -89.9999, 0.0, 69.0, 89.9999, 90.0]),
)
SEEDS = st.integers(0, 2**32 - 1)


def around(ra, dec, radius, seed, n=60):
    """Return points about a centre, up to twice the radius away."""
    rng = np.random.default_rng(seed)
    return SkyCoord(ra, dec, unit="deg").directional_offset_by(
        rng.uniform(0, 360, n) * units.deg, rng.uniform(0, 2 * radius, n) * units.arcsec
    )


# ------------------------------------------------------------------ the tree


@given(CENTRES, st.floats(0.1, 36000), SEEDS)
def test_cone_and_nearest_equal_brute_force(centre, radius, seed):
    points = around(*centre, radius, seed)
    apart = SkyCoord(*centre, unit="deg").separation(points).arcsec
    tree = SkyTree(points.ra.deg, points.dec.deg)
    rows, separation = tree.cone_separations(*centre, radius)
    clear = np.abs(apart - radius) > 1e-6 * radius
    assert set(rows) & set(np.flatnonzero(clear)) == set(np.flatnonzero((apart <= radius) & clear))
    np.testing.assert_allclose(separation, apart[rows], rtol=1e-7, atol=1e-7)
    assert (np.diff(separation) >= 0).all()
    assert np.array_equal(tree.cone(*centre, radius), rows)
    near, far = tree.nearest(*centre, 7)
    np.testing.assert_allclose(far, np.sort(apart)[:7], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(apart[near], far, rtol=1e-7, atol=1e-7)


@given(CENTRES, st.floats(0.5, 3600), SEEDS)
def test_crossmatch_equals_astropy(centre, radius, seed):
    ours, theirs = around(*centre, radius, seed), around(*centre, radius, seed + 1, n=25)
    tree = SkyTree(ours.ra.deg, ours.dec.deg)
    rows, separation = tree.crossmatch(theirs.ra.deg, theirs.dec.deg, radius / 10)
    index, apart, _ = theirs.match_to_catalog_sky(ours)
    near = apart.arcsec <= radius / 10
    assert np.array_equal(rows >= 0, near)
    np.testing.assert_allclose(separation[near], apart.arcsec[near], rtol=1e-6, atol=1e-7)
    assert np.isnan(separation[~near]).all()
    same = rows[near] == index[near]
    twins = ours[rows[near][~same]].separation(ours[index[near][~same]]).arcsec
    assert (twins < 1e-6).all()  # but for ties


def test_every_object_lies_within_180_degrees_and_none_without_a_position():
    tree = SkyTree([10.0, np.nan, 190.0, 20.0], [0.0, 0.0, 0.0, np.nan])
    assert len(tree) == 4
    assert tree.cone(10, 0, 648000).tolist() == [0, 2]
    assert tree.cone(10, 0, 0).tolist() == [0]
    assert tree.nearest(10, 0, 9)[0].tolist() == [0, 2]
    assert tree.crossmatch([191.0, np.nan], [0.0, 0.0], 3601)[0].tolist() == [2, -1]


def test_a_tree_of_nothing_finds_nothing():
    for tree in (SkyTree([], []), SkyTree([np.nan], [np.nan])):
        assert tree.cone(1, 2, 648000).tolist() == []
        assert tree.nearest(1, 2)[0].tolist() == []
        assert tree.crossmatch([1.0], [2.0], 5)[0].tolist() == [-1]


def test_objects_at_one_place_come_in_their_order():
    tree = SkyTree(np.full(300, 5.0), np.full(300, 5.0))
    assert tree.cone(5, 5, 1).tolist() == list(range(300))


def test_a_rim_belongs_to_the_cone():
    tree = SkyTree([0.0, 0.0], [0.0, 1 / 3600])
    exact = tree.nearest(0, 0, 2)[1][1]
    assert tree.cone(0, 0, exact).tolist() == [0, 1]
    assert tree.cone(0, 0, np.nextafter(exact, 0)).tolist() == [0]


def test_the_tree_is_made_once_for_the_same_numbers_and_anew_when_they_change():
    ra, dec = np.array([1.0, 2.0]), np.array([0.0, np.nan])
    first = sky_tree(ra, dec)
    assert sky_tree(ra, dec) is first
    assert sky_tree(ra.copy(), dec[:]) is first
    ra[0] = 50.0
    assert sky_tree(ra, dec).cone(50, 0, 1).tolist() == [0]
    assert first.cone(50, 0, 1).tolist() == []
    dec[1] = 0.0
    assert sky_tree(ra, dec).cone(2, 0, 1).tolist() == [1]
    assert sky_tree(ra[::-1], dec).cone(2, 0, 1).tolist() == [0]
    for k in range(9):
        sky_tree(np.array([k + 0.5]), np.array([0.0]))
    assert len(sky._TREES) == sky._MOST_TREES


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.cone(10, 91, 1), "dec -90 to 90"),
        (lambda t: t.cone(np.inf, 1, 1), "is none"),
        (lambda t: t.cone(10, 1, -1), "a cone of -1 arcsec"),
        (lambda t: t.cone(10, 1, 648001), "give 0 to 648000"),
        (lambda t: t.nearest(10, 1, 0), "ask for at least 1"),
        (lambda t: t.crossmatch([1.0, 2.0], [1.0], 1), r"of shapes \(2,\) and \(1,\)"),
        (lambda t: t.crossmatch([1.0], [91.0], 1), "declination 91.0 of row 0"),
        (lambda t: SkyTree([1.0], [1.0, 2.0]), r"not of shapes \(1,\) and \(2,\)"),
    ],
)
def test_what_cannot_be_searched_is_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call(SkyTree([1.0], [1.0]))


# ------------------------------------------------------------------ positions and angles


@pytest.mark.parametrize(
    "text",
    [
        "17h40m00s +69d00m00s",
        "17h40m00s+69d00m00s",
        "17h40m +69d00m",
        "17h40m 69d00m",
        "17h40m00.0s, 69d00'00.0\"",
        "17:40:00 +69:00:00",
        "17:40:00+69:00:00.0",
        "17 40 00 +69 00 00",
        " 265.0  +69.0 ",
        "265,69",
        "265d 69d",
        "17.666666666666668h 69d",
    ],
)
def test_notations_of_one_position(text):
    assert position_of(text) == pytest.approx((265.0, 69.0), abs=1e-9)


@given(
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 5999),
    st.sampled_from("+-"),
    st.integers(0, 89),
    st.integers(0, 59),
    st.integers(0, 5999),
    st.sampled_from(["{:02d}h{:02d}m{:05.2f}s {}{:02d}d{:02d}m{:05.2f}s", "{}:{}:{} {}{}:{}:{}"]),
)
def test_sexagesimal_positions_are_those_of_astropy(h, m, s, sign, d, dm, ds, form):
    text = form.format(h, m, s / 100, sign, d, dm, ds / 100)
    truth = SkyCoord(text, unit=(units.hourangle, units.deg))
    assert position_of(text) == pytest.approx((truth.ra.deg, truth.dec.deg), abs=1e-10)


def test_coordinates_of_other_frames_and_pairs():
    here = SkyCoord(265.0, 69.0, unit="deg")
    assert position_of(here.galactic) == pytest.approx((265.0, 69.0), abs=1e-9)
    assert position_of((265, 69)) == (265.0, 69.0)
    assert position_of(np.array([-95.0, 69.0])) == (265.0, 69.0)
    assert position_of((265 * units.deg, 69 * 60 * units.arcmin)) == pytest.approx((265, 69))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("Vega", "'Vega' is no position on the sky: write one as '17h40m00s"),
        ("", "is no position"),
        ("10 20 30 40", "is no position"),
        ("25h00m00s +10d00m00s", "25 where less than 24 belongs"),
        ("10h60m00s +10d00m00s", "60 where less than 60 belongs"),
        ("10 95", "dec 95 is out of range"),
        ((10, np.nan), "not finite"),
        ((10, 20, 30), "is no position"),
        (("a", "b"), "is no position"),
        (12.5, "12.5 is no position"),
        (None, "None is no position"),
        ((1 * units.s, 2 * units.deg), "none of angles"),
        (SkyCoord([1, 2], [3, 4], unit="deg"), "not 2 of them"),
    ],
)
def test_what_is_no_position_is_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        position_of(wrong)


@pytest.mark.parametrize(
    ("angle", "arcsec"),
    [
        (30, 30),
        (" 30 ", 30),
        ("30 arcsec", 30),
        ('30"', 30),
        ("0.5 arcmin", 30),
        ("0.5'", 30),
        ("1 deg", 3600),
        ("1e-2deg", 36),
        ("500 mas", 0.5),
        (0.5 * units.arcmin, 30),
        (np.float32(2), 2),
        ("-3 arcsec", -3),
    ],
)
def test_angles(angle, arcsec):
    assert angle_of(angle) == pytest.approx(arcsec, rel=1e-12)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("30 arcsek", "nearest: 'arcsec'"),
        ("thirty", "is no angle"),
        ("30 arcsec 2", "is no angle"),
        (None, "None is no angle"),
        (3 * units.m, "none of angles"),
        ([1, 2] * units.deg, "there are several"),
    ],
)
def test_what_is_no_angle_is_refused(wrong, message):
    with pytest.raises(UsageError, match=message):
        angle_of(wrong)


# ------------------------------------------------------------------ boxes


@given(st.floats(-180, 360), st.floats(0, 359.5), st.floats(-90, 90), SEEDS)
def test_a_box_reaches_eastward_from_its_first_end(first, width, low, seed):
    rng = np.random.default_rng(seed)
    ra, dec = rng.uniform(0, 360, 200), rng.uniform(-90, 90, 200)
    last = first + width if seed % 2 or first < 0 else (first + width) % 360
    east = (ra - first) % 360
    clear = np.minimum(np.abs(east - width), np.minimum(east, 360 - east)) > 1e-9
    expected = (east <= width) & (dec >= low) & (dec <= 90)
    found = np.zeros(200, dtype=bool)
    found[box_rows(ra=(ra, (first, last)), dec=(dec, (low, 90)))] = True
    assert np.array_equal(found[clear], expected[clear])


def test_a_box_holds_its_edges_and_no_nan():
    ra = np.array([358.9, 359.0, 0.0, 1.0, 1.1, np.nan])
    assert box_rows(ra=(ra, (359, 1))).tolist() == [1, 2, 3]
    assert box_rows(ra=(ra, (1, 359))).tolist() == [0, 1, 3, 4]
    for whole in ((0, 360), (-1, 359), (-180, 180)):
        assert box_rows(ra=(ra, whole)).tolist() == [0, 1, 2, 3, 4]
    assert box_rows(ra=(ra, (359, -1))).tolist() == [1]
    x = np.array([1.0, 2.0, np.nan])
    assert box_rows(x=(x, slice(1.5, None))).tolist() == [1]
    assert box_rows(x=(x, (5, 6))).tolist() == []


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({}, "a box needs a range"),
        ({"dec": (np.zeros(1), (2, 1))}, "dec 2 to 1 ends before it begins: swap"),
        ({"ra": (np.zeros(1), (2, None))}, "is open"),
        ({"x": (np.zeros(1), 3)}, "3 is no range of x"),
        ({"x": (np.zeros(1), (3, np.nan))}, "not a number"),
        ({"x": (np.zeros(1), ("a", "b"))}, "is no range of x"),
    ],
)
def test_what_is_no_box_is_refused(ranges, message):
    with pytest.raises(UsageError, match=message):
        box_rows(**ranges)


# ------------------------------------------------------------------ tables


def test_positions_of_tables_of_many_kinds():
    ra, dec = np.array([265.0, 266.0]), np.array([69.0, 68.0])
    masked = Table({"RAJ2000": np.ma.masked_array(ra, [False, True]), "DEJ2000": dec})
    for table in (
        {"ra": ra, "dec": dec},
        pd.DataFrame({"RA": ra, "Dec": dec}),
        Table({"ra": ra / 15 * units.hourangle, "dec": dec * 60 * units.arcmin}),
        SkyCoord(ra, dec, unit="deg").galactic,
        (ra, dec),
    ):
        found = table_positions(table)
        np.testing.assert_allclose(found, (ra, dec), rtol=1e-12)
    assert np.isnan(table_positions(masked)[0]).tolist() == [False, True]


@pytest.mark.parametrize(
    ("table", "kind", "message"),
    [
        ({"right": [1.0], "dec": [1.0]}, UnknownName, "no column of ra .* it has right, dec"),
        ({"ra": [1.0]}, UnknownName, "no column of dec"),
        (5, UsageError, "a int is no table of positions"),
        ({"ra": ["x"], "dec": [1.0]}, UsageError, "are no numbers"),
        (Table({"ra": [1.0] * units.s, "dec": [1.0]}), UsageError, "unit s, which is none"),
    ],
)
def test_what_is_no_table_of_positions_is_refused(table, kind, message):
    with pytest.raises(kind, match=message):
        table_positions(table)
