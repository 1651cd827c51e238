"""The program of a view gives the numbers of the view, and is nothing but that program."""

from __future__ import annotations

import ast
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from viewer_field import TYPES, make_field

from idfzarr.errors import UsageError
from idfzarr.viewer.copy_code import python_of
from idfzarr.viewer.curves import prepare
from idfzarr.viewer.field import Field
from idfzarr.viewer.periods import fold_curves
from idfzarr.viewer.state import ViewerState

MASKS = ("kept", "flagged", "clipped", "outlying")
VIEWS = {
    "plain": {},
    "raw": {"calibrated": False},
    "magnitudes": {"unit": "mag"},
    "Vega": {"unit": "mag", "system": "Vega", "types": TYPES},
    "mjd and times": {"time_axis": "mjd", "start": 53100.0, "end": 53400.5},
    "flags": {"drop": ["neighbour", "edge"]},
    "no flags, hidden": {"drop": [], "show_flagged": False},
    "hidden": {"show_flagged": False},
    "clipped": {"clip_on": True, "clip_sigma": 3.0},
    "clipped in a window": {"clip_on": True, "clip_window": 60.0, "unit": "mag"},
    "smoothed": {"smooth_on": True, "smooth_window": 20.0, "types": TYPES},
    "smoothed magnitudes": {"smooth_on": True, "unit": "mag", "types": TYPES},
    "binned": {"bin_on": True, "bin_width": 25.0, "bin_method": "median"},
    "binned magnitudes": {"bin_on": True, "unit": "mag", "types": TYPES},
    "rates": {"rate_on": True, "rate_sigma": 2.0, "types": TYPES},
    "rates of magnitudes": {"rate_on": True, "unit": "mag", "rate_low": 5.0},
    "folded": {"period": 7.3, "types": TYPES},
    "folded from an epoch": {"period": 7.3, "epoch": 53000.25, "unit": "mag"},
    "several objects": {"compared": [5, 8], "types": TYPES, "unit": "mag"},
    "exposure": {"time_axis": "exptime", "smooth_on": True},
    "number": {"time_axis": "number"},
    "reqkey": {"time_axis": "aor"},
    "all at once": {
        "unit": "mag", "clip_on": True, "smooth_on": True, "bin_on": True, "rate_on": True,
        "period": 3.3, "types": TYPES, "start": 53050.0, "compared": [5],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "it's \"a\" {field}\n__import__('os')#.zarr"
    make_field(path)
    return Field(path)


@pytest.fixture
def shown(monkeypatch):
    """Count what is shown; close it."""
    seen = []
    monkeypatch.setattr(plt, "show", lambda: seen.append(plt.gcf()))
    yield seen
    plt.close("all")


def run(program):
    names = {"__name__": "program"}
    exec(compile(program, "program", "exec"), names)  # noqa: S102 - our own program
    return names["curves"]


def same(program, field, state):
    """Compare what a program makes with what is drawn; returns how many points are kept."""
    drawn = prepare(field, state)
    made = run(program)
    assert [(c["object"], c["type"]) for c in made] == [(c.object_id, c.type) for c in drawn]
    for got, want in zip(made, drawn, strict=True):
        for mask in MASKS:
            np.testing.assert_array_equal(got[mask], getattr(want, mask), err_msg=mask)
        any_ = want.kept | want.flagged | want.clipped | want.outlying
        np.testing.assert_array_equal(got["y"][any_], want.y[any_])
        np.testing.assert_array_equal((got["y"] - got["error"])[any_], want.low[any_])
        np.testing.assert_array_equal(got["x"][any_], want.x[any_])
        assert ("smooth" in got) == (want.smooth is not None)
        if want.smooth is not None:
            for mine, theirs in (("value", "y"), ("low", "low"), ("high", "high"), ("mjd", "mjd")):
                np.testing.assert_allclose(
                    getattr(got["smooth"], mine), getattr(want.smooth, theirs), rtol=1e-12
                )
        assert ("binned" in got) == (want.binned is not None)
        if want.binned is not None:
            np.testing.assert_allclose(got["binned"][0], want.binned.mjd, rtol=1e-12)
            np.testing.assert_allclose(got["binned"][1], want.binned.y, rtol=1e-12)
            np.testing.assert_allclose(
                got["binned"][1] - got["binned"][2], want.binned.low, rtol=1e-12
            )
    if state.period is not None:
        folded = fold_curves(drawn, state.period, epoch=state.epoch)
        for got, want in zip(made, folded, strict=True):
            np.testing.assert_array_equal(got["phase"], want.phase)
    return sum(int(c["kept"].sum()) for c in made)


@pytest.mark.parametrize("name", VIEWS)
def test_the_program_gives_the_numbers_of_the_view(field, shown, name):
    state = ViewerState(field.choices(), **({"object": 11, "types": TYPES[:2]} | VIEWS[name]))
    program = python_of(field, state)
    assert same(program, field, state) > 50
    assert len(shown) == 1
    axes = shown[0].axes
    assert len(axes) == (1 if state.period is None else 2)
    assert all("[" in ax.get_xlabel() and "[" in ax.get_ylabel() for ax in axes)
    assert max(map(len, program.splitlines())) < 180


def test_the_views_differ_as_they_should(field):
    def masks(**chosen):
        state = ViewerState(field.choices(), object=11, types=TYPES[:2], **chosen)
        return [int(getattr(c, m).sum()) for c in prepare(field, state) for m in MASKS]

    plain = masks()
    assert plain[1] == 6
    for name in ("flags", "clipped", "rates of magnitudes", "hidden"):
        assert masks(**VIEWS[name]) != plain, name


def test_a_calibrated_store_that_was_built(tiny_store, shown):
    field = Field(tiny_store.store)
    ids = field.cube.objects[:2].tolist()
    for calibrated in (True, False):
        state = ViewerState(
            field.choices(), object=ids[0], compared=ids[1:], unit="mag", calibrated=calibrated
        )
        assert same(python_of(field, state), field, state) > 4
    one, other = (ViewerState(field.choices(), object=ids[0], calibrated=c) for c in (True, False))
    assert not np.array_equal(prepare(field, one)[0].y, prepare(field, other)[0].y, equal_nan=True)
    assert len(shown) == 2


def test_too_many_points_are_left_out_alike(field, shown, monkeypatch):
    monkeypatch.setattr("idfzarr.viewer.curves.MOST_POINTS", 200)
    state = ViewerState(field.choices(), object=11, compared=[5], types=TYPES)
    assert len(prepare(field, state)) < 6
    assert same(python_of(field, state), field, state) > 50


def test_names_are_literals_and_never_statements(field):
    state = ViewerState(field.choices(), object=11, types=TYPES[:1], unit="mag").snapshot()
    evil = "x'];__import__('os').system('id')#\n\"\"\""
    state = state.snapshot(drop=[evil], time_axis=evil, system="AB", bin_method=evil, bin_on=True)
    drawn = prepare(field, ViewerState(field.choices(), object=11, types=TYPES[:1]))
    tree = ast.parse(python_of(field, state, prepared=drawn))
    strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    assert evil in strings
    assert field.path in strings
    called = {
        n.func.id
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert "__import__" not in called
    assert not any(isinstance(n, ast.Attribute) and n.attr == "system" for n in ast.walk(tree))
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert imported == {"matplotlib.pyplot", "numpy", "idfzarr"}


def test_nothing_to_make_a_program_of_is_a_sentence(field):
    with pytest.raises(UsageError, match="choose an object and a type"):
        python_of(field, ViewerState(field.choices(), object=11, types=[]))


def test_it_runs_by_itself_without_the_viewer(field, tmp_path):
    state = ViewerState(field.choices(), **({"object": 11} | VIEWS["all at once"]))
    program = python_of(field, state).replace("plt.show()", "plt.savefig('made.png')")
    program += (
        "import sys\nprint(len(curves), [m for m in ('panel', 'bokeh', 'param', 'idfzarr.viewer')"
        " if m in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"MPLBACKEND": "Agg", "MPLCONFIGDIR": str(tmp_path), **_path()},
    )
    assert done.stderr == ""
    assert done.stdout.split() == ["6", "[]"]
    assert (tmp_path / "made.png").read_bytes()[:4] == b"\x89PNG"


def _path():
    return {"PYTHONPATH": ":".join(p for p in sys.path if p)}
