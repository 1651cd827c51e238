"""Plots as free functions: what is in them, and that every axis says its unit."""

from __future__ import annotations

import re

import holoviews as hv
import numpy as np
import pytest
from bokeh.models import HoverTool

import idfzarr
from idfzarr.analysis.query import select
from idfzarr.care.inventory import inventory
from idfzarr.errors import UnknownName, UsageError
from idfzarr.viewer import object_views, views
from idfzarr.viewer.explorer import explore
from idfzarr.viewer.field import Field
from idfzarr.viewer.labels import axis_label, plain
from idfzarr.viewer.stamps import superstack_stamp
from idfzarr.viewer.state import ViewerState


@pytest.fixture(scope="module")
def field(small_store):
    return Field(small_store.store)


@pytest.fixture
def state(field):
    return ViewerState(field.choices())


def figures(plot):
    """Draw a plot and return its Bokeh figures."""
    made = hv.render(plot, backend="bokeh")
    return [made] if hasattr(made, "xaxis") else [child for child, *_ in made.children]


def axis_labels(plot):
    return [axis.axis_label for one in figures(plot) for axis in (one.xaxis[0], one.yaxis[0])]


def all_views(field, state, small_store):
    seen = inventory(small_store.store, level="structure")
    stamp = superstack_stamp(field, state.object, "ch1", types=state.types)
    return {
        "sky": views.sky_map(field, selection=[state.object], object_id=state.object),
        "dense": views.sky_map(field, dense=True),
        "scatter": views.statistic_against_magnitude(field, statistic="reduced_chi2"),
        "cloud": views.statistic_against_magnitude(field, statistic="reduced_chi2", dense=True),
        "histogram": views.histogram(field, "fwhm"),
        "curves": views.lightcurve_plot(field, state),
        "panels": views.lightcurve_plot(field, state.snapshot(layout="panels", unit="mag")),
        "rates": views.rate_plot(field, state),
        "periods": views.periodogram_plot(field, state),
        "folded": views.folded_plot(field, state.snapshot(period=3.0)),
        "unfolded": views.folded_plot(field, state),
        "stamp": views.stamp_plot(stamp),
        "image": views.field_image(field, "ch2", shown=np.ones(len(field.objects), bool)),
        "aors": views.completeness_map(seen.completeness),
        "shards": views.completeness_map(seen.completeness, by="shard"),
    }


def test_every_axis_carries_a_unit(field, state, small_store):
    every = all_views(field, state, small_store)
    assert len(every) == 15
    for name, plot in every.items():
        labels = axis_labels(plot)
        assert len(labels) >= 2, name
        for label in labels:
            assert re.search(r"\[[^\]]+\]", label), f"{name}: {label!r}"


def test_the_map_has_every_object_and_the_statistic(field):
    plot = views.sky_map(field, statistic="n", type="ch1_auto_clean")
    points = plot.get(0)
    assert list(points["object"]) == list(field.cube.objects)
    np.testing.assert_array_equal(points["value"], field.statistic("n", "ch1_auto_clean"))
    np.testing.assert_array_equal(points["x"], field.cube.coordinate("ra"))
    (figure,) = figures(plot)
    assert figure.x_range.start > figure.x_range.end  # east is left
    width = abs(figure.x_range.end - figure.x_range.start) * np.cos(np.radians(69.0))
    height = abs(figure.y_range.end - figure.y_range.start)
    assert width / figure.frame_width == pytest.approx(height / figure.frame_height, rel=0.05)


def test_a_field_across_right_ascension_0_is_one_piece(tmp_path):
    ra = np.array([359.99, 0.0, 0.01])
    objects = {"object_id": [1, 2, 3], "ra": ra, "dec": [1.0, 1.0, 1.01], "x": ra, "y": ra}
    cube = idfzarr.create(
        tmp_path / "f.zarr",
        objects=objects,
        types=["ch1_aper2_clean"],
        aors={"aor": [1], "mjd": [53000.0]},
    )
    cube.write_block(0, flux=np.ones((3, 1, 1)))
    field = Field(tmp_path / "f.zarr")
    assert np.ptp(views.sky_map(field).get(0)["x"]) == pytest.approx(0.02)
    assert field.nearest(360.0049, 1.0) == 2
    assert field.nearest(-0.0095, 1.0) == 1


def test_a_query_and_a_selection_show_on_the_map(field):
    shown = select(field.columns("ch1_aper2_clean"), "ch1_mag < 21")
    chosen = [int(one) for one in field.cube.objects[:2]]
    plot = views.sky_map(field, shown=shown, selection=chosen, object_id=chosen[0])
    assert 0 < len(plot.get(0)) == shown.sum() < len(field.objects)
    assert [len(layer) for layer in plot][1:] == [2, 1]
    with pytest.raises(UnknownName, match="no object 424242"):
        views.sky_map(field, selection=[424242])


def test_many_objects_are_an_image(field, monkeypatch):
    monkeypatch.setattr(object_views, "MOST_MARKERS", 5)
    plot = views.sky_map(field)
    image = plot.get(0)
    assert isinstance(image, hv.Image)
    values = image.dimension_values("value")
    score = field.statistic("score", "ch1_aper2_clean")
    assert np.nanmax(values) == np.nanmax(score)
    assert "as an image" in figures(plot)[0].title.text
    # the brightest pixel is where the object is
    x, y = (image.dimension_values(n) for n in ("x", "y"))
    at, row = np.nanargmax(values), np.nanargmax(score)
    assert abs(x[at] - field.cube.coordinate("ra")[row]) < np.ptp(x) / 150
    assert abs(y[at] - field.cube.coordinate("dec")[row]) < np.ptp(y) / 100


def test_a_histogram_says_its_numbers(field):
    told = views.summary(np.array([1.0, 2.0, 6.0, np.nan]))
    assert (told.n, told.mean, told.median) == (3, 3.0, 2.0)
    assert told.std == pytest.approx(np.sqrt(7.0))
    values = field.objects["fwhm"].to_numpy()
    known = values[np.isfinite(values)]
    plot = views.histogram(field, "fwhm", bins=12)
    assert plot.get(0).dimension_values("objects").sum() == len(known)
    assert len(plot.get(0)) == 12
    title = figures(plot)[0].title.text
    assert f"N {len(known):,}" in title
    assert f"median {np.median(known):.5g}" in title
    with pytest.raises(UsageError, match="holds no numbers"):
        views.histogram(field, "detected_in")
    with pytest.raises(UnknownName, match="no column 'fhwm'; nearest: 'fwhm'"):
        views.histogram(field, "fhwm")


def test_lightcurves_are_drawn_with_what_stands_in_the_cube(field, state):
    state.param.update(types=["ch1_aper2_clean"], time_axis="mjd")
    plot = views.lightcurve_plot(field, state)
    (scatter,) = [layer for layer in plot if isinstance(layer, hv.Scatter)]
    lc = field.cube.lightcurve(state.object, "ch1_aper2_clean").calibrated().good()
    np.testing.assert_array_equal(scatter["x"], lc.mjd)
    np.testing.assert_array_equal(scatter["y"], lc.flux.astype(float))
    state.unit = "mag"
    (figure,) = figures(views.lightcurve_plot(field, state))
    assert figure.y_range.start > figure.y_range.end


def test_panels_are_one_for_each_type_and_share_their_time(field, state):
    state.param.update(layout="panels", types=["ch1_auto_clean", "ch1_aper2_clean"])
    first, second = figures(views.lightcurve_plot(field, state))
    assert first.x_range is second.x_range
    assert "ch1_auto_clean" in first.title.text
    assert "ch1_aper2_clean" in second.title.text


def test_everything_at_once_is_drawn(field, state):
    state.param.update(
        types=list(field.types)[:2],
        smooth_on=True,
        bin_on=True,
        clip_on=True,
        rate_on=True,
        unit="mag",
        compared=[int(field.cube.objects[0])],
        drop=["neighbour", "deblended", "edge"],
    )
    (figure,) = figures(views.lightcurve_plot(field, state))
    assert len(figure.renderers) > 12
    assert figures(views.rate_plot(field, state))


def test_nothing_to_draw_is_a_word(field, state):
    state.param.update(start=1.0, end=2.0)
    for plot in (
        views.lightcurve_plot(field, state),
        views.rate_plot(field, state),
        views.folded_plot(field, state.snapshot(period=1.0)),
        views.periodogram_plot(field, state),
    ):
        assert figures(plot)


def test_hostile_names_stay_text(tmp_path):
    name = '<script>alert("x")<b>@{x}$$href{javascript:alert(1)}{x}$$'
    n = 6
    objects = {
        "object_id": np.arange(n),
        "x": np.arange(n) * 1.0,
        "y": np.arange(n) * 2.0,
        name: np.arange(n) * 3.0,
    }
    aors = {"aor": np.arange(3), "mjd": 53000.0 + np.arange(3), "aor_name": [name] * 3}
    path = tmp_path / "hostile.zarr"
    cube = idfzarr.create(path, objects=objects, types=["ch1_aper2_clean"], aors=aors)
    cube.write_block(0, flux=np.ones((n, 1, 3)), flux_err=np.ones((n, 1, 3)))
    field = Field(path)
    state = ViewerState(field.choices(), object=1)
    column = next(c for c in field.objects.columns if "script" in c)
    plots = [
        views.histogram(field, column),
        views.sky_map(field, statistic=column),
        views.lightcurve_plot(field, state),
    ]
    for plot in plots:
        (figure,) = figures(plot)
        for tool in figure.select({"type": HoverTool}):
            assert all("<" not in label for label, _ in tool.tooltips)
        assert "$$" not in f"{figure.title.text} {axis_labels(plot)}"
    assert plain("a\nb\x00c") == "a b c"
    assert axis_label("x" * 500, "uJy").endswith("… [µJy]")


def test_completeness_that_was_not_looked_at_is_a_sentence():
    with pytest.raises(UsageError, match="did not look at completeness by aor"):
        views.completeness_map({})
    with pytest.raises(UsageError, match="not by 'moon'"):
        views.completeness_map({}, by="moon")
    part = np.array([[1.0, 0.0], [0.5, np.nan]])
    plot = views.completeness_map({"aor": part, "channel_name": np.array(["ch1", "ch2"])})
    image = plot.get(0)
    found = {
        (x, y): value
        for x, y, value in zip(
            image.dimension_values("x"), image.dimension_values("y"), image["part"], strict=True
        )
    }
    assert found[0.5, 1.0] == 1.0
    assert found[0.5, 0.0] == 0.0
    assert found[1.5, 1.0] == 0.5


def test_a_notebook_explores_a_path_a_dataset_or_a_field(field, small_store):
    shown = explore(small_store.store, unit="mag", object=int(field.cube.objects[3]))
    assert shown.state.unit == "mag"
    assert explore(idfzarr.open(small_store.store)).field.path == field.path
    find = shown._parts[0]
    assert len(find.plots) == 4
    before = find.plots[1].object
    shown.state.query = "score > 3"
    assert find.plots[1].object is not before
    shown.state.query = "`<b>` > 3"
    assert "no column &#x27;&lt;b&gt;&#x27;" in find.plots[0].value
    for number in (1, 2, 3):
        shown._tabs.active = number
        assert len(shown._parts[number].plots) > 0
    with pytest.raises(UsageError, match="does not say where it is from"):
        explore(3)
    with pytest.raises(UsageError, match="the view cannot begin so"):
        explore(field, unit="magg")
