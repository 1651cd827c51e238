"""A map of very many objects: every object in a cell, cells in the colours of points."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
from bokeh.events import RangesUpdate
from bokeh.palettes import Cividis256

from idfzarr.viewer import sky_figure
from idfzarr.viewer.sky_cells import Cells, as_colours, as_densities, cells_of
from idfzarr.viewer.sky_figure import PointsFigure

N = 30_000
SHAPE = (40, 70)


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(7)
    x, y = rng.normal(265.0, 0.2, N), rng.normal(69.0, 0.1, N)
    value = rng.normal(3.0, 2.0, N)
    value[rng.random(N) < 0.2] = np.nan
    y[:50] = np.nan
    return x, y, value


def rgba(image):
    return image.view(np.uint8).reshape(*image.shape, 4)


def test_cells_are_the_histogram_of_the_window(points):
    x, y, value = points
    across, up = (264.8, 265.3), (68.9, 69.2)
    made = cells_of(x, y, value, across=across, up=up, shape=SHAPE)
    seen = np.isfinite(y)
    want = {"bins": SHAPE, "range": [up, across]}
    count = np.histogram2d(y[seen], x[seen], **want)[0]
    np.testing.assert_array_equal(made.count, count)
    assert 0 < count.sum() < N
    known = seen & np.isfinite(value)
    of_known = np.histogram2d(y[known], x[known], **want)[0]
    total = np.histogram2d(y[known], x[known], weights=value[known], **want)[0]
    np.testing.assert_array_equal(np.isnan(made.mean), of_known == 0)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(made.mean, total / of_known, rtol=1e-12)


def test_points_on_the_ends_of_the_grid_are_in_it():
    x, y = np.array([0.0, 1.0, 0.0, 1.0, 1.1]), np.array([0.0, 0.0, 2.0, 2.0, 1.0])
    made = cells_of(x, y, x, across=(0.0, 1.0), up=(0.0, 2.0), shape=(3, 4))
    assert made.count.sum() == 4
    assert [made.count[at] for at in ((0, 0), (0, 3), (2, 0), (2, 3))] == [1, 1, 1, 1]


def test_colours_are_those_of_points_and_grey_is_what_is_not_known():
    mean = np.array([[-5.0, 0.0, 0.5, 1.0, 9.0, np.nan, np.nan]])
    cells = Cells(np.array([[1, 1, 2, 1, 1, 3, 0]]), mean)
    made = rgba(as_colours(cells, Cividis256, low=0.0, high=1.0))[0]
    want = [Cividis256[k].lower() for k in (0, 0, 128, 255, 255)]
    assert ["#" + bytes(one[:3]).hex() for one in made[:5]] == want
    assert (made[:5, 3] == 255).all()
    assert bytes(made[5]).hex() == "8a8f9866"
    assert made[6, 3] == 0


def test_one_object_is_seen_and_denser_cells_are_denser():
    cells = Cells(np.array([[0, 1, 10, 1000]]), np.full((1, 4), np.nan))
    made = rgba(as_densities(cells, "#0072b2"))[0]
    assert bytes(made[3]).hex() == "0072b2ff"
    none, one, ten, most = made[:, 3].tolist()
    assert none == 0
    assert 80 < one < ten < most
    empty = Cells(np.zeros((2, 2), int), np.full((2, 2), np.nan))
    assert not rgba(as_densities(empty, "#0072b2"))[..., 3].any()


@pytest.mark.parametrize("coloured", [True, False])
def test_a_dense_figure_becomes_points_where_few_are_in_view(points, monkeypatch, coloured):
    x, y, value = points
    monkeypatch.setattr(sky_figure, "MOST_POINTS", 1000)
    made = PointsFigure(
        "dense",
        height=300,
        pick=lambda *_: None,
        choose=lambda *_: None,
        guard=nullcontext,
        coloured=coloured,
    )
    made.place(x, y, labels=("a", "b"), falling=True)
    if coloured:
        made.colour(value, label="v")
    grey = made._mapper.nan_color
    (image,) = made._cells.data["image"]
    assert np.count_nonzero(rgba(image)[..., 3]) > 1000
    assert len(made._points.data["x"]) == 0

    def look(half):
        window = {"x0": 265.0 + half, "x1": 265.0 - half, "y0": 69.0 - half, "y1": 69.0 + half}
        made.figure._trigger_event(RangesUpdate(made.figure, **window))
        return (np.abs(x - 265.0) <= half) & (np.abs(y - 69.0) <= half)

    assert np.count_nonzero(look(0.1)) > 1000
    assert made._cells.data["dw"] == [pytest.approx(0.2)]
    few = look(0.005)
    assert 0 < np.count_nonzero(few) < 1000
    assert made._cells.data["image"] == []
    np.testing.assert_array_equal(np.sort(made._points.data["x"]), np.sort(x[few]))
    assert made._mapper.nan_color == grey, "points whose value is not known would vanish"
    made.whole_view()
    assert len(made._points.data["x"]) == 0
    sent = []
    for source in (made._points, made._cells):
        source.on_change("data", lambda attr, old, new: sent.append(attr))
    made.whole_view()
    assert sent == [], "what is shown already was sent once more"


def test_nothing_is_marked_where_no_points_are_placed():
    made = PointsFigure(
        "none", height=300, pick=lambda *_: None, choose=lambda *_: None, guard=nullcontext
    )
    made.look_at(3)
    made.choose(np.array([1, 2]))
    assert (len(made._current.data["x"]), len(made._chosen.data["x"])) == (0, 0)
