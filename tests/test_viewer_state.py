"""Every choice of the viewer: bounds, defaults, URLs there and back."""

from __future__ import annotations

import numpy as np
import param
import pytest
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.errors import UnknownName
from idfzarr.viewer.address import from_url, to_url
from idfzarr.viewer.field import Field
from idfzarr.viewer.state import MOST_OBJECTS, MOST_SELECTED_IN_URL, ViewerState


@pytest.fixture(scope="module")
def field(small_store):
    return Field(small_store.store)


@pytest.fixture(scope="module")
def choices(field):
    return field.choices()


def test_a_new_session_looks_at_the_most_variable_object(field, choices):
    state = ViewerState(choices)
    score = field.statistic("score", "ch1_aper2_clean")
    assert state.object == field.cube.objects[score.argmax()]
    assert state.types == ["ch1_aper2_clean", "ch2_aper2_clean"]
    assert state.statistic == "score"
    assert to_url(state) == {"object": str(state.object)}


def test_every_choice_says_what_it_is(choices):
    state = ViewerState(choices)
    for name in ViewerState.defaults(choices):
        assert len(state.param[name].doc) > 5, name


def test_two_sessions_share_no_choice(choices):
    one, other = ViewerState(choices), ViewerState(choices)
    one.types = ["ch1_auto_clean"]
    one.selection = [1]
    one.param["column"].objects.append("mine")
    assert other.types == ["ch1_aper2_clean", "ch2_aper2_clean"]
    assert other.selection == []
    assert "mine" not in other.param["column"].objects


_OF_COLUMNS = {
    "sorted_by": ["-ra", "object"],
    "column_filters": {"ra": "> 264.9 & <=265, +1", "object": "3 .. 5=é;"},
}


def _other(state, choices, name):
    """Return a value other than the default, allowed for the parameter."""
    asked, now = state.param[name], getattr(state, name)
    if isinstance(asked, param.Boolean):
        return not now
    if name in {"object", "compared", "selection"}:
        some = [i for i in range(1, 40) if choices.knows(i)][3:6]
        return some[0] if name == "object" else some
    if isinstance(asked, param.ListSelector):
        return [v for v in asked.objects if v not in now][:2]
    if isinstance(asked, param.Selector):
        return next((v for v in asked.objects if v != now), now)
    if isinstance(asked, param.String):
        return "score > 1 and ch1_mag < 20 & é"
    low, high = asked.bounds or (None, None)
    low, high = 1.0 if low is None else low, 54321.25 if high is None else high
    value = low + 0.25 * (high - low)
    return int(value) if isinstance(asked, param.Integer) else value


def test_every_choice_comes_back_from_its_url(choices):
    names = list(ViewerState.defaults(choices))
    for name in names:
        state = ViewerState(choices)
        value = _OF_COLUMNS.get(name) or _other(state, choices, name)
        state.param.update(**{name: value})
        told = to_url(state)
        if value != ViewerState.defaults(choices)[name]:
            assert name in told
        restored = from_url(told, choices)
        assert restored.refused == ()
        fresh = ViewerState(choices)
        fresh.param.update(**restored.changes)
        assert getattr(fresh, name) == value, name
        assert all(isinstance(text, str) for text in told.values())
    assert len(names) > 50


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("object", "424242", "names the object '424242'"),
        ("object", "", "names no object"),
        ("object", "\u0661", "names the object"),
        ("unit", "magg", "no choice here; nearest: 'mag'"),
        ("period", "-3", "out of its bounds 0 to any"),
        ("period", "inf", "out of its bounds"),
        ("bins", "2.5", "out of its bounds"),
        ("calibrated", "perhaps", "neither 0 nor 1"),
        ("types", "ch1_aper2_clean,<script>", "no choice here"),
        ("choices", "1", "nothing here is called"),
        ("__class__", "1", "nothing here is called"),
        ("query", "x" * 20_000, "20000 characters"),
        ("sorted_by", "-ra,decc", "names the column 'decc' for sorted_by"),
        ("column_filters", "ch1_magg=1", "which the table has not; nearest: 'ch1_mag'"),
        ("column_filters", "rubbish", "column_filters = 'rubbish', which cannot be read"),
    ],
)
def test_a_bad_value_is_refused_and_the_rest_is_kept(choices, name, text, sentence):
    restored = from_url({name: text, "stretch": "log"}, choices)
    assert restored.changes == {"stretch": "log"}
    assert len(restored.refused) == 1
    assert sentence in restored.refused[0]
    assert len(restored.refused[0]) < 300


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=30), max_size=5))
def test_any_url_is_read(choices, arguments):
    restored = from_url(arguments, choices)
    ViewerState(choices).param.update(**restored.changes)
    assert len(restored.refused) + len(restored.changes) == len(arguments)


@given(
    st.sampled_from(
        ["object", "types", "period", "drop", "selection", "bins", "sorted_by", "column_filters"]
    ),
    st.text(),
)
def test_any_value_is_taken_or_refused(choices, name, text):
    restored = from_url({name: text}, choices)
    assert len(restored.refused) + len(restored.changes) == 1


def test_a_long_selection_is_left_out_of_the_url(choices):
    state = ViewerState(choices, selection=list(range(MOST_SELECTED_IN_URL + 1)))
    assert "selection" not in to_url(state)
    state.selection = state.selection[:-1]
    assert to_url(state)["selection"].count(",") == MOST_SELECTED_IN_URL - 1


def test_bounds_hold(choices):
    state = ViewerState(choices)
    with pytest.raises(ValueError, match=r"must be (in the range|greater than)"):
        state.smooth_window = 0
    with pytest.raises(ValueError, match="length"):
        state.compared = list(range(MOST_OBJECTS))
    with pytest.raises(ValueError, match="types"):
        state.types = ["ch9_auto_clean"]


def test_periods_are_undone_one_after_the_other(choices):
    state = ViewerState(choices)
    state.take_period(3.0, epoch=53000.0)
    state.take_period(4.0)
    state.take_period(4.0)
    assert (state.period, state.epoch) == (4.0, 53000.0)
    assert state.undo_period()
    assert (state.period, state.epoch) == (3.0, 53000.0)
    assert state.undo_period()
    assert (state.period, state.epoch) == (None, None)
    assert not state.undo_period()
    with pytest.raises(ValueError, match="must be greater than 0"):
        state.take_period(0.0)
    assert not state.undo_period()


def test_stepping_stays_within_the_selection(choices):
    state = ViewerState(choices, selection=[5, 9, 2], object=9)
    assert [state.step(1), state.step(1), state.step(-1), state.step(-5)] == [2, 2, 9, 5]
    state.object = 7
    assert state.step(1) == 5
    state.selection = []
    assert state.step(1) == 5


def test_a_snapshot_does_not_follow(choices):
    state = ViewerState(choices, object=5, compared=[9, 5])
    taken = state.snapshot(unit="mag")
    state.object = 9
    assert taken.objects == (5, 9)
    assert (taken.unit, state.unit) == ("mag", "flux")
    assert taken.snapshot(types=["x"]).types == ["x"]


def test_the_field_names_what_it_does_not_have(field):
    with pytest.raises(UnknownName, match="no statistic 'scor'; nearest: 'score'"):
        field.statistic("scor", "ch1_aper2_clean")
    with pytest.raises(UnknownName, match="no type matches 'ch1_aper2_claen'"):
        field.lightcurves(1, ["ch1_aper2_claen"])
    with pytest.raises(UnknownName, match="no column 'exptim'; nearest: 'exptime'"):
        field.along_aors("exptim", "ch1_aper2_clean")


def test_the_table_is_the_cubes(field, small_store):
    row = field.row_of(int(field.cube.objects[3]), "ch2_aper2_clean")
    assert row["ra"] == field.cube.coordinate("ra")[3]
    assert (
        row["median"]
        == field.cube.table("variability")["median"][3, field.cube.column("ch2_aper2_clean")]
    )
    median = field.statistic("median", "ch1_aper2_clean")[3]
    assert row["ch1_mag"] == pytest.approx(23.9 - 2.5 * np.log10(median))
    table = field.table_of("ch1_auto_clean")
    assert len(table) == field.cube.shape[0]
    assert {"score", "kron_a", "ch2_mag"} <= set(table.columns)
    assert field.choices().has_truth


def test_the_nearest_object_and_a_box_of_the_map(field):
    ra, dec = field.cube.coordinate("ra"), field.cube.coordinate("dec")
    for k in (0, 7, 20):
        assert field.nearest(ra[k] + 1e-6, dec[k]) == field.cube.objects[k]
    found = field.within((ra.min(), ra[4]), (dec.min(), dec.max()))
    assert set(found) == {
        int(i) for i, one in zip(field.cube.objects, ra, strict=True) if one <= ra[4]
    }
    assert field.nearest(float("nan"), 1.0) is None
