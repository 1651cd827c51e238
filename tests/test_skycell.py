"""The skycell grid against the archive's own answers, astropy, and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from idfzarr.errors import UnknownName, UsageError
from idfzarr.ps1 import grid as tessellation
from idfzarr.ps1 import skycell

# Positions and skycells as the live service answers them.
SERVICE = [
    (64.5, 28.0, "skycell.1944.003"),
    (10.6847083, 41.26875, "skycell.2159.034"),
    (0.0, 89.5, "skycell.2643.034"),
]


def served_wcs(name: str) -> WCS:
    """Write a header as the archive does and let astropy read it."""
    cell = skycell.parse(name)
    p = cell.projection - 635
    grid = tessellation.grid()
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": grid.ra[p],
        "CRVAL2": grid.dec[p],
        "CRPIX1": grid.crpix1[p] + (grid.width[p] - 480) * (5 - cell.x),
        "CRPIX2": grid.crpix2[p] + (grid.height[p] - 480) * (5 - cell.y),
        "CDELT1": 0.25 / 3600,
        "CDELT2": 0.25 / 3600,
        "PC1_1": -1.0,
        "PC1_2": 0.0,
        "PC2_1": 0.0,
        "PC2_2": 1.0,
        "LONPOLE": 180.0,
    }
    return WCS(fits.Header(cards), naxis=2)


@pytest.mark.parametrize(("ra", "dec", "name"), SERVICE)
def test_best_answers_as_the_service_does(ra, dec, name):
    assert skycell.best(ra, dec) == name
    assert skycell.best(ra + 360, dec) == name


@pytest.mark.parametrize(
    ("name", "ra", "dec"),
    [
        ("skycell.0635.000", 2.128573126861541, -31.790888721856746),
        ("skycell.2643.000", 44.9994473839998, 87.45606403015682),
    ],
)
def test_positions_that_the_service_lists(name, ra, dec):
    # The service lists the sky of pixel (NX-1)/2, (NY-1)/2 of FITS.
    ny, nx = skycell.shape(name)
    found = skycell.pixel_to_sky(name, (nx - 1) / 2 - 1, (ny - 1) / 2 - 1)
    assert found[0] == pytest.approx(ra, abs=1e-12)
    assert found[1] == pytest.approx(dec, abs=1e-12)


def test_the_header_of_1405_053():
    cards = skycell.wcs_cards("1405.053")
    assert (cards["CRVAL1"], cards["CRVAL2"]) == (332.0, 2.0)
    assert (cards["CRPIX1"], cards["CRPIX2"]) == (11760.0, 242.0)
    assert cards["CDELT1"] == cards["CDELT2"] == 6.94444461259988e-05
    assert skycell.shape("1405.053") == (6243, 6240)
    made = skycell.wcs("1405.053")
    assert made.array_shape == (6243, 6240)
    assert made.wcs.radesys == "FK5"
    np.testing.assert_array_equal(made.wcs.get_pc(), [[-1, 0], [0, 1]])


def test_the_table_obeys_the_rules_that_made_it():
    grid = tessellation.grid()
    assert grid.projections == 2009
    assert len(skycell.all_names()) == 200_900 == len(set(skycell.all_names()))
    decs = grid.dec[grid.zone_first - 635]
    bands = np.floor(90 * np.cos(np.radians(np.abs(decs) - 2)))
    np.testing.assert_array_equal(grid.zone_count[:-1], bands[:-1])
    np.testing.assert_array_equal(np.diff(grid.zone_first), grid.zone_count[:-1])
    assert grid.zone_first[-1] + grid.zone_count[-1] - 1 == 2643


@pytest.mark.parametrize(
    "name",
    [
        "0635.000",
        "1405.053",
        "1322.099",
        "2403.090",
        "2634.009",
        "2642.044",
        "2643.000",
        "2643.055",
    ],
)
def test_sky_and_pixels_are_those_of_astropy(name):
    ours, theirs = skycell.wcs(name), served_wcs(name)
    ny, nx = skycell.shape(name)
    x, y = np.meshgrid([0, nx / 3, nx - 1], [0, ny / 2, ny - 1])
    ra, dec = skycell.pixel_to_sky(name, x, y)
    wanted = theirs.all_pix2world(x.ravel(), y.ravel(), 0)
    np.testing.assert_allclose(dec.ravel(), wanted[1], atol=1e-11)
    turn = (ra.ravel() - wanted[0] + 180) % 360 - 180
    assert np.abs(turn * np.cos(np.radians(dec.ravel()))).max() < 1e-11
    back = skycell.sky_to_pixel(name, ra, dec)
    np.testing.assert_allclose(back[0], x, atol=1e-6)
    np.testing.assert_allclose(back[1], y, atol=1e-6)
    # The headers' rounded scale moves nothing by a milliarcsecond.
    moved = ours.all_pix2world(x.ravel(), y.ravel(), 0)
    apart = tessellation.unit_vectors(*moved) - tessellation.unit_vectors(*wanted)
    assert np.degrees(np.linalg.norm(apart, axis=1)).max() * 3600 < 1e-3
    assert skycell.centre(name)[1] == pytest.approx(
        float(theirs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)[1]), abs=1e-10
    )
    ra, dec = skycell.corners(name)
    edge = theirs.all_pix2world([-0.5, -0.5, nx - 0.5, nx - 0.5], [-0.5, ny - 0.5] * 2, 0)
    np.testing.assert_allclose(np.sort(dec), np.sort(edge[1]), atol=1e-10)


def test_at_the_pole_the_header_as_served_turns_the_sky_around():
    # The FITS standard lets the default of LONPOLE jump from 180 to 0 at CRVAL2 = 90; the archive
    # lists its positions without that jump.
    cards = skycell.wcs_cards("2643.000")
    assert (cards["CRVAL2"], cards["LONPOLE"]) == (90.0, 180.0)
    ny, nx = skycell.shape("2643.000")
    middle = ((nx - 1) / 2, (ny - 1) / 2, 1)
    ours = skycell.wcs("2643.000").all_pix2world(*middle)
    assert float(ours[0]) == pytest.approx(44.9994473839998, abs=1e-6)
    del cards["LONPOLE"]
    assert float(WCS(fits.Header(cards)).all_pix2world(*middle)[0]) == pytest.approx(225, abs=1e-3)


def test_sky_to_pixel_is_nan_behind_the_plane():
    x, y = skycell.sky_to_pixel("1405.053", [332.0, 152.0], [2.0, -2.0])
    assert np.isfinite([x[0], y[0]]).all()
    assert np.isnan([x[1], y[1]]).all()


positions = st.tuples(st.floats(0, 360), st.floats(-31.98, 90))


@given(positions)
def test_the_best_skycell_holds_the_position(position):
    ra, dec = position
    name = skycell.best(ra, dec)
    x, y = skycell.sky_to_pixel(name, ra, dec)
    ny, nx = skycell.shape(name)
    # Not beyond the image by more than rounding; and every position of the sky has one.
    assert -0.51 <= x <= nx - 0.49
    assert -0.51 <= y <= ny - 0.49
    holding = skycell.containing(ra, dec)
    assert holding
    # Of those in the same projection cell it is the one whose middle is nearest.
    family = [n for n in holding if n[:12] == name[:12]]
    if family:

        def away(n):
            px, py = skycell.sky_to_pixel(n, ra, dec)
            h, w = skycell.shape(n)
            return max(abs(px - (w - 1) / 2) / w, abs(py - (h - 1) / 2) / h)

        assert (
            away(name) <= min(away(n) for n in family) + 1e-3
        )  # the rule leaves out some pixels of CRPIX


def test_containing_equals_brute_force_through_astropy():
    ra, dec = 331.99, 0.001
    wanted = set()
    for name in skycell.in_cone(ra, dec, 2.0):
        x, y = served_wcs(name).all_world2pix(ra, dec, 0)
        ny, nx = skycell.shape(name)
        if -0.5 <= x <= nx - 0.5 and -0.5 <= y <= ny - 0.5:
            wanted.add(name)
    found = skycell.containing(ra, dec)
    assert len(wanted) >= 2
    assert set(found) == wanted
    assert skycell.containing(0.0, -60.0) == ()
    middle = skycell.centre("2643.044")
    assert skycell.containing(*middle)[0] == "skycell.2643.044"


def sampled(inside, near):
    """Find the skycells of which a sample of 41 x 41 positions, edges included, meets a region."""
    found = set()
    for name in near:
        ny, nx = skycell.shape(name)
        x, y = np.meshgrid(np.linspace(-0.5, nx - 0.5, 41), np.linspace(-0.5, ny - 0.5, 41))
        ra, dec = served_wcs(name).all_pix2world(x.ravel(), y.ravel(), 0)
        if inside(ra, dec).any():
            found.add(name)
    return found


def apart(ra, dec, ra0, dec0):
    chord = tessellation.unit_vectors(ra, dec) - tessellation.unit_vectors(ra0, dec0)
    return np.degrees(2 * np.arcsin(np.linalg.norm(chord, axis=-1) / 2))


def close_by(ra, dec, degrees):
    """Find skycells by the distance of their middle alone."""
    names = np.array(skycell.all_names())
    middle = tessellation.outlines().centre
    chord = np.linalg.norm(middle - tessellation.unit_vectors(ra, dec), axis=1)
    return names[chord <= math.radians(degrees)].tolist()


def check(found, wanted, *, grown):
    """A sample finds no more than there is, and no less than a region slightly larger has."""
    assert wanted, "the region must hold skycells"
    assert wanted <= set(found), sorted(wanted - set(found))
    assert set(found) <= grown, sorted(set(found) - grown)
    assert list(found) == sorted(set(found))


@pytest.mark.parametrize(
    ("ra", "dec", "radius"),
    [
        (0.02, 0.01, 0.6),
        (332.0, 2.0, 0.05),
        (123.0, 89.9, 0.7),
        (250.0, 68.0, 0.8),
        (40.0, -31.9, 0.5),
    ],
)
def test_cones_equal_brute_force(ra, dec, radius):
    near = close_by(ra, dec, radius + 1)
    # Half the sample's step of 0.011 degrees, along the diagonal, is what it can miss.
    wanted = sampled(lambda a, d: apart(a, d, ra, dec) <= radius, near)
    grown = sampled(lambda a, d: apart(a, d, ra, dec) <= radius + 0.008, near)
    check(skycell.in_cone(ra, dec, radius), wanted, grown=grown)


def test_a_cone_of_no_radius_is_a_point():
    for ra, dec, _ in SERVICE:
        assert set(skycell.in_cone(ra, dec, 0.0)) == set(skycell.containing(ra, dec))


def test_the_whole_sky_and_none_of_it():
    assert len(skycell.in_cone(10.0, 20.0, 180.0)) == 200_900
    assert skycell.in_box(0, 360, -90, 90) == skycell.all_names()
    assert skycell.in_cone(0.0, -89.0, 5.0) == ()
    assert skycell.in_box(0, 360, -90, -40) == ()


@pytest.mark.parametrize(
    "box",
    [
        (359.5, 0.5, -0.3, 0.3),
        (-0.5, 0.5, -0.3, 0.3),
        (0, 360, 89.5, 90),
        (0, 360, 89.96, 89.97),
        (350, 10, 88.5, 88.9),
        (100.0, 100.0, 45.0, 45.9),
        (200.0, 201.0, 67.97, 67.97),
    ],
)
def test_boxes_equal_brute_force(box):
    ra_min, ra_max, dec_min, dec_max = box
    width = 360.0 if ra_max - ra_min >= 360 else (ra_max - ra_min) % 360

    def inside(ra, dec, grow=0.0):
        slack = np.minimum(grow / np.cos(np.radians(np.clip(dec, -89.999, 89.999))), 180)
        turn = (ra - ra_min + slack) % 360
        rows = (dec >= dec_min - grow) & (dec <= dec_max + grow)
        return rows & (turn <= width + 2 * slack)

    middle = (ra_min + width / 2, (dec_min + dec_max) / 2) if width < 360 else (0, 90)
    near = close_by(*middle, 2.5)
    found = skycell.in_box(*box)
    wanted = sampled(inside, near)
    grown = sampled(lambda ra, dec: inside(ra, dec, 0.008), near)
    assert grown, "the region must hold skycells"
    assert wanted <= set(found) <= grown
    assert len(found) >= 1


def test_boxes_with_one_width_but_two_spellings_are_one():
    assert skycell.in_box(359.5, 0.5, -0.3, 0.3) == skycell.in_box(-0.5, 0.5, -0.3, 0.3)
    assert skycell.in_box(-0.5, 0.5, -0.3, 0.3) == skycell.in_box(359.5, 360.5, -0.3, 0.3)


def planar(ra0, dec0):
    """Return a projection onto a plane by astropy, for the test of polygons."""
    cards = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRPIX1": 1.0,
        "CRPIX2": 1.0,
        "CRVAL1": ra0,
        "CRVAL2": dec0,
        "CDELT1": -1.0,
        "CDELT2": 1.0,
    }
    return WCS(fits.Header(cards), naxis=2)


# A star with four rays, which is concave: its inside is little, its hull is large.
STAR = [(0.0, 1.0), (0.1, 0.1), (1.0, 0.0), (0.1, -0.1), (0.0, -1.0), (-0.1, -0.1)]
STAR += [(-1.0, 0.0), (-0.1, 0.1)]


@pytest.mark.parametrize(("ra0", "dec0"), [(0.0, 1.0), (10.0, 89.8), (180.0, 40.0)])
@pytest.mark.parametrize("reverse", [False, True], ids=["one way", "the other"])
def test_concave_polygons_equal_brute_force(ra0, dec0, reverse):
    from matplotlib.path import Path

    corners = np.array(STAR[::-1] if reverse else STAR)
    plane = planar(ra0, dec0)
    ra, dec = plane.all_pix2world(corners[:, 0], corners[:, 1], 0)
    outline = Path(np.vstack([corners, corners[:1]]))
    sense = -1 if reverse else 1

    def inside(a, d, grow=0.0):
        at = np.column_stack(plane.all_world2pix(a, d, 0))
        grown = outline.contains_points(at, radius=-sense * grow)
        return grown | outline.contains_points(at, radius=sense * grow)

    near = close_by(ra0, dec0, 2.2)
    found = skycell.in_polygon(ra, dec)
    check(found, sampled(inside, near), grown=sampled(lambda a, d: inside(a, d, 0.012), near))
    assert len(found) < len(skycell.in_cone(ra0, dec0, 1.0))


def test_a_polygon_within_one_skycell_is_in_all_that_hold_it():
    ra, dec = skycell.centre("1405.053")
    found = skycell.in_polygon([ra, ra + 0.01, ra], [dec, dec, dec + 0.01])
    assert found == ("skycell.1405.053",)


@settings(max_examples=30)
@given(positions, st.floats(0.001, 3.0), st.integers(3, 24))
def test_polygons_and_cones_agree(position, radius, count):
    ra0, dec0 = position
    axes = tessellation.unit_vectors(ra0, dec0)
    side = np.cross(axes, [0.3, -0.5, 0.8])
    side /= np.linalg.norm(side)
    up = np.cross(axes, side)
    turn = 2 * np.pi * np.arange(count) / count
    tangent = np.cos(turn)[:, None] * side + np.sin(turn)[:, None] * up
    r = math.radians(radius)
    ra, dec = tessellation.sky_of(math.cos(r) * axes + math.sin(r) * tangent)
    inscribed = math.degrees(math.atan(math.tan(r) * math.cos(math.pi / count)))
    found = set(skycell.in_polygon(ra, dec))
    assert set(skycell.in_cone(ra0, dec0, inscribed * (1 - 1e-9))) <= found
    assert found <= set(skycell.in_cone(ra0, dec0, radius * (1 + 1e-9)))
    assert skycell.best(ra0, dec0) in found


def test_neighbours_in_the_middle_are_the_eight_around():
    wanted = {f"skycell.1405.{10 * y + x:03d}" for y in (4, 5, 6) for x in (2, 3, 4)}
    assert skycell.neighbours("1405.053") == tuple(sorted(wanted - {"skycell.1405.053"}))


@pytest.mark.parametrize(
    "name", ["1405.000", "1405.059", "1322.040", "1411.049", "2400.090", "2634.099", "2643.000"]
)
def test_neighbours_cover_the_strip_around_the_image(name):
    ny, nx = skycell.shape(name)
    around = skycell.neighbours(name)
    assert all(n == skycell.parse(n).name for n in around)
    assert skycell.parse(name).name not in around
    inner = set(skycell.neighbours(name, across=False))
    assert inner < set(around)
    assert {n[:12] for n in inner} == {"skycell." + name[:4]}
    edge = np.linspace(-480.5, max(nx, ny) + 479.5, 24)
    one = np.ones_like(edge)
    for x, y in [
        (edge, -470 * one),
        (edge, (ny + 469) * one),
        (-470 * one, edge),
        ((nx + 469) * one, edge),
    ]:
        for a, d in zip(*skycell.pixel_to_sky(name, x, y), strict=True):
            assert set(skycell.containing(a, d)) & set(around), (a, d)


def test_neighbours_at_the_southern_border_are_those_there_are():
    around = skycell.neighbours("0635.003")
    assert around
    assert all(n.startswith("skycell.0635") for n in around)


def test_names_are_read_tolerantly_and_written_strictly():
    for text in ("skycell.0635.007", "0635.007", "635.007", "rings.v3.skycell.0635.007"):
        assert skycell.parse(text).name == "skycell.0635.007"
    cell = skycell.parse("1405.053")
    assert (cell.projection, cell.cell, cell.y, cell.x) == (1405, 53, 5, 3)
    assert str(cell) == "skycell.1405.053"
    assert skycell.all_names()[cell.row] == cell.name
    assert skycell.parse_all(["1405.053", "skycell.1405.053", "635.000"]) == (
        "skycell.0635.000",
        "skycell.1405.053",
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "skycell",
        "skycell.1405.53",
        "skycell.1405.0053",
        "skycell.01405.053",
        "SKYCELL.1405.053",
        "skycell.1405.053\n",
        " skycell.1405.053",
        "skycell.1405.053/..",
        "../skycell.1405.053",
        "skycell.1405.053\x00",
        "skycell/1405/053",
        "skycell.-405.053",
        "skycell.\u0661\u0664\u0660\u0665.053",
        "skycell.1405.0\u06653",
        "skycell.14e5.053",
        "skycell.1405.05*",
        "%2e%2e",
        "x" * 100_000,
        None,
        1405.053,
        b"1405.054",
        ["1405.053"],
    ],
)
def test_hostile_names_are_refused(text):
    with pytest.raises(UsageError, match="is no name of a skycell") as caught:
        skycell.parse(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "text", ["skycell.0634.000", "skycell.2644.000", "0000.000", "9999.099", "1405.100", "1405.999"]
)
def test_names_that_the_grid_lacks_are_unknown(text):
    with pytest.raises(UnknownName, match="there is no skycell"):
        skycell.parse(text)


def test_globs():
    assert len(skycell.matching("skycell.1405.*")) == 100
    assert skycell.matching("1405.05?") == tuple(f"skycell.1405.{c:03d}" for c in range(50, 60))
    assert skycell.matching(["*.2643.00[0-2]", "635.000"]) == (
        "skycell.0635.000",
        "skycell.2643.000",
        "skycell.2643.001",
        "skycell.2643.002",
    )
    with pytest.raises(UnknownName, match="no skycell matches"):
        skycell.matching("skycell.9*.000")
    with pytest.raises(UsageError, match="is no pattern"):
        skycell.matching("../*")
    with pytest.raises(UsageError, match="is no pattern"):
        skycell.matching("*" * 1000)
    with pytest.raises(UsageError, match="one string was given"):
        skycell.parse_all("1405.053")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: skycell.best(math.nan, 0), "ra must be a number"),
        (lambda: skycell.best("12", 0), "ra must be a number of degrees and is '12'"),
        (lambda: skycell.best(0, 91), "dec must lie between"),
        (lambda: skycell.best(0, -32), "lie south of it"),
        (lambda: skycell.best_many([0, 1], [0, math.nan]), "1 of 2 positions"),
        (lambda: skycell.in_cone(0, 0, -1), "radius of a cone must lie"),
        (lambda: skycell.in_cone(0, 0, math.inf), "radius_deg must be a number"),
        (lambda: skycell.in_box(0, 1, 2, 1), "goes from south to north"),
        (lambda: skycell.in_box(0, math.nan, 0, 1), "ra_max must be a number"),
        (lambda: skycell.in_box(0, 1, -91, 1), "dec_min must lie"),
        (lambda: skycell.in_polygon([0, 1], [0, 1]), "three at least"),
        (lambda: skycell.in_polygon([0, 1, 2], [0, 1]), "as many right ascensions"),
        (lambda: skycell.in_polygon([0, 1, 2], [0, 1, 99]), "corners of a polygon must"),
        (lambda: skycell.in_polygon([0, 120, 240], [0, 0, 0]), "cut it into smaller"),
        (lambda: skycell.in_polygon([0, 90, 0], [-80, 80, 80]), "may reach 80 degrees"),
        (lambda: skycell.neighbours("1405.053", margin=0), "margin around"),
    ],
)
def test_bad_regions_are_refused_in_words(call, sentence):
    with pytest.raises(UsageError, match=sentence):
        call()


def test_many_positions_keep_their_shape():
    ra, dec = np.meshgrid([0.0, 64.5, 359.99], [28.0, 89.9])
    found = skycell.best_many(ra, dec)
    assert found.shape == (2, 3)
    assert found[0, 1] == "skycell.1944.003"
    flat = [skycell.best(a, d) for a, d in zip(ra.ravel(), dec.ravel(), strict=True)]
    assert found.ravel().tolist() == flat
