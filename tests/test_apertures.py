"""Frozen apertures against photutils' own masks, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st
from photutils.aperture import CircularAperture, EllipticalAperture

from idfzarr.errors import ImageShape, UsageError
from idfzarr.flags import flag_bit
from idfzarr.imaging import apertures
from idfzarr.imaging.apertures import freeze
from idfzarr.imaging.footprints import nearest_pixels, stamp_entries
from idfzarr.imaging.psf import check_psf, estimate_psf, shifted_stamps
from idfzarr.measurement import APERTURE_RADII

SHAPE = (40, 52)
EDGE, NEIGHBOUR, UNDEFINED = (flag_bit(name) for name in ("edge", "neighbour", "undefined"))

centres = st.tuples(
    st.floats(-20, SHAPE[1] + 20) | st.sampled_from([0.0, 7.0, 10.5, -0.5, SHAPE[1] - 0.5]),
    st.floats(-20, SHAPE[0] + 20) | st.sampled_from([0.0, 7.0, 10.5, -0.5, SHAPE[0] - 0.5]),
)


def mask_image(aperture) -> np.ndarray:
    image = aperture.to_mask(method="exact").to_image(SHAPE)
    return np.zeros(SHAPE) if image is None else image


def rows_of(frozen) -> np.ndarray:
    dense = frozen.matrix().toarray()
    return dense.reshape(frozen.n_objects, len(frozen.methods), *frozen.shape)


def gaussian(side: int = 25, sigma: float = 1.6, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[:side, :side] - side // 2
    return np.exp(-0.5 * ((x - dx) ** 2 + (y - dy) ** 2) / sigma**2)


@settings(max_examples=30)
@given(
    at=st.lists(centres, min_size=1, max_size=4),
    radii=st.lists(
        st.sampled_from([*APERTURE_RADII, 0.3, 0.75, 3.5, 7.25]),
        min_size=1,
        max_size=5,
        unique=True,
    ),
)
def test_circles_are_photutils_exact_masks_in_any_order_of_radii(at, radii):
    x, y = np.transpose(at)
    frozen = freeze({"x": x, "y": y}, [f"r{radius}" for radius in radii], SHAPE)
    weights = rows_of(frozen)
    for i, centre in enumerate(at):
        for m, radius in enumerate(radii):
            expected = mask_image(CircularAperture(centre, radius))
            assert np.abs(weights[i, m] - expected).max() < 1e-11
            assert frozen.area[i, m] == pytest.approx(expected.sum(), abs=1e-9)


@settings(max_examples=30)
@given(
    centre=centres,
    a=st.floats(0.2, 25),
    ratio=st.floats(0.1, 1),
    theta=st.floats(-np.pi, np.pi),
)
def test_kron_ellipses_are_photutils_exact_masks(centre, a, ratio, theta):
    b = a * ratio
    catalogue = {"x": [centre[0]], "y": [centre[1]], "kron_a": [a], "kron_b": [b], "theta": [theta]}
    frozen = freeze(catalogue, ["auto"], SHAPE)
    expected = mask_image(EllipticalAperture(centre, a, b, theta=theta))
    assert np.abs(rows_of(frozen)[0, 0] - expected).max() < 1e-9


def test_named_apertures_have_their_radii_and_duplicates_agree():
    methods = [*(f"aper{n}" for n in range(8, 0, -1)), "r3.0"]
    frozen = freeze({"x": [25.3], "y": [19.8]}, methods, SHAPE)
    expected = np.pi * np.square([*APERTURE_RADII[::-1], 3.0])
    np.testing.assert_allclose(frozen.area[0], expected, rtol=1e-12)
    assert frozen.methods == tuple(methods)


def test_iso_is_the_segment_whatever_the_labels_and_an_object_without_one_is_undefined():
    segmentation = np.zeros(SHAPE, dtype=np.int32)
    segmentation[5:9, 5:12] = 7
    segmentation[20:30, 40:52] = 2
    catalogue = {"x": [45.0, 8.0, 30.0], "y": [25.0, 6.0, 10.0], "labels": [2, 7, 9]}
    frozen = freeze(catalogue, ["iso"], SHAPE, segmentation=segmentation)
    weights = rows_of(frozen)[:, 0]
    assert (weights[0] == (segmentation == 2)).all()
    assert (weights[1] == (segmentation == 7)).all()
    assert weights[2].sum() == 0
    assert frozen.flags[:, 0].tolist() == [EDGE, 0, UNDEFINED]
    in_order = freeze({"x": [8.0], "y": [6.0]}, ["iso"], SHAPE, segmentation=segmentation == 7)
    assert in_order.area[0, 0] == 28


def test_edge_is_set_exactly_where_the_aperture_reaches_beyond_the_image():
    x = np.array([3.5, 3.49, SHAPE[1] - 4.5, SHAPE[1] - 4.49, 25.0, 25.0, 25.0])
    y = np.array([20.0, 20.0, 20.0, 20.0, 3.4, SHAPE[0] - 4.4, 20.0])
    frozen = freeze({"x": x, "y": y}, ["aper3"], SHAPE)
    cut = frozen.area[:, 0] < np.pi * 16 - 1e-9
    assert cut.tolist() == [False, True, False, True, True, True, False]
    assert ((frozen.flags[:, 0] & EDGE) != 0).tolist() == cut.tolist()


def test_neighbour_counts_the_pixels_of_other_segments_in_each_aperture():
    segmentation = np.zeros(SHAPE, dtype=np.int32)
    segmentation[18:23, 18:23] = 1
    segmentation[18:23, 29:33] = 2
    catalogue = {"x": [20.0, 30.0], "y": [20.0, 20.0]}
    methods = ["aper8", "aper1", "aper6", "iso", "aper7"]
    frozen = freeze(catalogue, methods, SHAPE, segmentation=segmentation)
    weights = rows_of(frozen)
    other = np.stack([segmentation == 2, segmentation == 1])[:, None]
    expected = (weights * other).sum(axis=(2, 3)) >= apertures.NEIGHBOUR_AREA
    assert ((frozen.flags & NEIGHBOUR) != 0).tolist() == expected.tolist()
    assert expected[0].tolist() == [True, False, False, False, True]
    alone = freeze(catalogue, ["aper8"], SHAPE)
    assert not (alone.flags & NEIGHBOUR).any()


def test_kron_ellipses_that_are_none_are_undefined_and_spoil_no_other_row():
    kron_a = MaskedColumn([5.0, 0.0, np.nan, 4.0, 4.0], mask=[False, False, False, True, False])
    table = Table({"x": [20.0] * 5, "y": [20.0] * 5, "kron_a": kron_a, "kron_b": [3.0] * 5})
    table["theta"] = [0.3] * 5
    frozen = freeze(table, ["auto", "aper1"], SHAPE)
    assert (frozen.flags[:, 0] & UNDEFINED).tolist() == [0, UNDEFINED, UNDEFINED, UNDEFINED, 0]
    np.testing.assert_allclose(frozen.area[:, 0], np.pi * 3 * np.array([5, 0, 0, 0, 4]), rtol=1e-9)
    np.testing.assert_allclose(frozen.area[:, 1], 4 * np.pi)


@settings(max_examples=25)
@given(at=st.lists(centres, min_size=2, max_size=8), seed=st.integers(0, 99))
def test_permuted_objects_give_permuted_weights_bit_for_bit(at, seed):
    x, y = np.transpose(at)
    order = np.random.default_rng(seed).permutation(len(x))
    methods = ["aper3", "aper1", "psf"]
    one = rows_of(freeze({"x": x, "y": y}, methods, SHAPE, psf=gaussian()))
    other = rows_of(freeze({"x": x[order], "y": y[order]}, methods, SHAPE, psf=gaussian()))
    assert (other == one[order]).all()


def test_blocks_and_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    catalogue = {"x": rng.uniform(-5, 55, 50), "y": rng.uniform(-5, 45, 50)}
    methods = ["aper4", "aper2", "psf"]
    whole = freeze(catalogue, methods, SHAPE, psf=gaussian())
    monkeypatch.setattr(apertures, "_BLOCK", 7)
    monkeypatch.setattr(apertures, "_CHUNK", 3)
    told = []
    parts = freeze(
        catalogue, methods, SHAPE, psf=gaussian(), progress=lambda *report: told.append(report)
    )
    assert len(parts.blocks) == 8
    assert told[-1] == ("freezing apertures", 50, 50)
    assert (rows_of(parts) == rows_of(whole)).all()
    values = rng.normal(size=(2, SHAPE[0] * SHAPE[1]))
    np.testing.assert_array_equal(parts.sums(values), whole.sums(values))
    np.testing.assert_array_equal(parts.variances(values[0]), whole.variances(values[0]))
    assert parts.nbytes > 12 * parts.matrix().nnz / 2


@pytest.mark.parametrize("share", [0.01, 0.9])
def test_sums_at_some_pixels_is_the_sum_of_an_image_that_is_zero_elsewhere(share):
    rng = np.random.default_rng(4)
    catalogue = {"x": rng.uniform(-5, 55, 20), "y": rng.uniform(-5, 45, 20)}
    frozen = freeze(catalogue, ["aper4", "r1.5"], SHAPE)
    pixels = np.flatnonzero(rng.uniform(size=SHAPE[0] * SHAPE[1]) < share)
    values = rng.uniform(0.5, 2, (2, pixels.size))
    full = np.zeros((2, SHAPE[0] * SHAPE[1]))
    full[:, pixels] = values
    expected = frozen.sums(full)
    assert np.count_nonzero(expected) > 10
    np.testing.assert_allclose(frozen.sums_at(pixels, values), expected, rtol=1e-5, atol=1e-7)
    mask = np.zeros(SHAPE, dtype=bool)
    mask.ravel()[pixels] = True
    held = ((rows_of(frozen) > 0) & mask).any(axis=(2, 3))
    assert (frozen.touches(mask) == held).all()
    with pytest.raises(ImageShape, match="the mask has the shape"):
        frozen.touches(mask[:-1])


@settings(max_examples=30)
@given(centre=centres)
def test_nearest_pixels_are_the_nearest(centre):
    x, y = (np.array([v]) for v in centre)
    flat = nearest_pixels(x, y, 20, SHAPE)[0]
    line, column = np.mgrid[-30:80, -30:90].reshape(2, -1)
    distance = np.hypot(column - x[0], line - y[0])
    order = np.argsort(distance, kind="stable")
    inside = flat >= 0
    found = np.hypot(flat[inside] % SHAPE[1] - x[0], flat[inside] // SHAPE[1] - y[0])
    np.testing.assert_allclose(found, distance[order[:20]][inside], atol=1e-9)
    assert np.unique(flat[inside]).size == inside.sum()


def test_statistics_alone_freeze_lists_and_no_weights():
    frozen = freeze({"x": [10.0], "y": [11.0]}, ["median7", "biweight3"], SHAPE)
    assert frozen.methods == ()
    assert frozen.statistics == ("median7", "biweight3")
    assert frozen.nearest.shape == (1, 7)
    assert frozen.nearest[0, 0] == 11 * SHAPE[1] + 10
    assert frozen.matrix().shape == (0, SHAPE[0] * SHAPE[1])
    assert frozen.sums(np.zeros((3, SHAPE[0] * SHAPE[1]))).shape == (3, 1, 0)


def test_no_objects_give_no_rows():
    frozen = freeze({"x": [], "y": []}, ["aper1", "psf"], SHAPE, psf=gaussian())
    assert frozen.area.shape == (0, 2)
    assert frozen.sums(np.zeros((3, SHAPE[0] * SHAPE[1]))).shape == (3, 0, 2)


@pytest.mark.parametrize(
    ("catalogue", "methods", "extra", "message"),
    [
        ({"x": [1.0], "y": [1.0]}, [], {}, "methods must be given"),
        ({"x": [1.0], "y": [1.0]}, ["aper1", "aper1"], {}, "each once"),
        ({"x": [1.0], "y": [1.0]}, "aper1", {}, "single string"),
        ({"x": [1.0], "y": [1.0]}, ["aper9"], {}, "'aper9' is no method"),
        ({"x": [1.0], "y": [1.0]}, ["median5"], {}, "'median5' is no method|no image|ratio"),
        ({"x": [1.0]}, ["aper1"], {}, "needs the column 'y', and the catalogue has x"),
        ({"x": [1.0, np.nan], "y": [1.0, 2.0]}, ["aper1"], {}, "row 1 is not finite"),
        ({"x": [1.0, 2.0], "y": [1.0]}, ["aper1"], {}, "2 x and 1 y"),
        ({"x": [1.0], "y": [1.0]}, ["auto"], {}, "auto needs the column 'kron_a'"),
        ({"x": [1.0], "y": [1.0]}, ["iso"], {}, "without segmentation="),
        ({"x": [1.0], "y": [1.0]}, ["psf"], {}, "without psf="),
        ({"x": [1.0], "y": [1.0]}, ["psf"], {"psf": np.ones((4, 4))}, "odd side"),
        ({"x": [1.0], "y": [1.0]}, ["psf"], {"psf": np.zeros((5, 5))}, "positive sum"),
        (
            {"x": [1.0, 2.0], "y": [1.0, 2.0], "labels": [3, 3]},
            ["iso"],
            {"segmentation": np.zeros(SHAPE, int)},
            "same label",
        ),
    ],
)
def test_bad_input_is_one_clear_sentence(catalogue, methods, extra, message):
    with pytest.raises(UsageError, match=message):
        freeze(catalogue, methods, SHAPE, **extra)


def test_a_segmentation_of_another_shape_is_refused():
    with pytest.raises(ImageShape, match="segmentation has the shape"):
        freeze({"x": [1.0], "y": [1.0]}, ["iso"], SHAPE, segmentation=np.zeros((3, 3), int))


# the point-spread function


@given(dx=st.floats(-0.5, 0.5), dy=st.floats(-0.5, 0.5))
def test_a_shifted_stamp_is_the_shifted_function(dx, dy):
    shifted = shifted_stamps(check_psf(gaussian()), np.array([dx]), np.array([dy]))[0]
    expected = gaussian(dx=dx, dy=dy)
    assert np.abs(shifted - expected / expected.sum()).max() < 2e-4
    assert shifted.sum() == pytest.approx(1, abs=1e-12)
    assert shifted.min() >= 0


def test_psf_weights_give_the_flux_of_a_point_source_back():
    rng = np.random.default_rng(5)
    x, y = rng.uniform(14, 24, 6), rng.uniform(14, 24, 6)
    frozen = freeze({"x": x, "y": y}, ["psf"], SHAPE, psf=gaussian())
    for i in range(6):
        line, column = np.mgrid[: SHAPE[0], : SHAPE[1]]
        star = np.exp(-0.5 * ((column - x[i]) ** 2 + (line - y[i]) ** 2) / 1.6**2)
        star *= 1000 / star.sum()
        assert frozen.sums(star.reshape(1, -1))[0, i, 0] == pytest.approx(1000, rel=2e-3)
    assert frozen.flags.max() == 0
    assert freeze({"x": [3.0], "y": [20.0]}, ["psf"], SHAPE, psf=gaussian()).flags[0, 0] == EDGE


def test_stamps_fall_on_the_nearest_pixel():
    stamp = np.zeros((1, 3, 3))
    stamp[0, 1, 1] = 2.0
    entries = stamp_entries(np.array([7.4]), np.array([3.6]), stamp, SHAPE)
    assert (entries.pixel.tolist(), entries.weight.tolist()) == ([4 * SHAPE[1] + 7], [2.0])


def test_the_psf_of_a_field_is_found_among_galaxies_and_blends():
    rng = np.random.default_rng(6)
    size = 400
    line, column = np.mgrid[:size, :size]
    image = rng.normal(0, 0.02, (size, size))
    grid = np.stack(np.meshgrid(np.arange(30, 380, 40), np.arange(30, 380, 40)), -1).reshape(-1, 2)
    at = grid + rng.uniform(-0.5, 0.5, grid.shape)
    for i, (x, y) in enumerate(at):
        sigma = 1.6 if i % 3 else 3.0
        near = np.s_[int(y) - 20 : int(y) + 21, int(x) - 20 : int(x) + 21]
        blob = np.exp(-0.5 * ((column[near] - x) ** 2 + (line[near] - y) ** 2) / sigma**2)
        image[near] += rng.uniform(100, 1000) * blob / sigma**2
    psf = estimate_psf(image, at[:, 0], at[:, 1])
    expected = gaussian() / gaussian().sum()
    assert np.abs(psf - expected).max() < 0.02 * expected.max()
    with pytest.raises(UsageError, match="a PSF was asked of an image"):
        estimate_psf(image, at[:2, 0], at[:2, 1])
    with pytest.raises(UsageError, match="odd number"):
        estimate_psf(image, at[:, 0], at[:, 1], size=24)
