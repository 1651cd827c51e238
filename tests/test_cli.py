"""The command line: help, codes, and what goes to stdout and stderr."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import typer.main

from idfzarr.analysis.ranking import rank_store
from idfzarr.build.demo import Demonstration, demonstrate, match_truth
from idfzarr.cli import app
from idfzarr.errors import StoreExists
from idfzarr.imaging.simulated_truth import read_truth
from idfzarr.store.cube import Cube

COMMANDS = sorted(typer.main.get_command(app).commands)
HEAVY = (
    "astropy",
    "dask",
    "distributed",
    "matplotlib",
    "numpy",
    "panel",
    "photutils",
    "scipy",
    "xarray",
    "zarr",
)


def environment():
    source = Path(sys.modules["idfzarr"].__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(source), "COLUMNS": "200"}


def test_the_commands_of_this_package_are_there():
    assert {"simulate", "build", "info", "stats", "demo"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_its_options(run_cli, command):
    ended = run_cli(command, "--help")
    assert ended.code == 0
    assert ended.err == ""
    assert "Usage: idfzarr " + command in ended.out
    known = typer.main.get_command(app).commands[command]
    assert known.help
    for parameter in known.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert parameter.help
            assert parameter.opts[0][:20] in ended.out


def test_help_loads_nothing_heavy_and_lists_every_command():
    script = (
        "import sys\nfrom idfzarr.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    code = end.code\n"
        "print('CODE', code, 'LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    page, _, rest = ended.stdout.partition("CODE ")
    assert rest.startswith("0 ")
    assert set(rest.split()) & set(HEAVY) == set()
    for command in COMMANDS:
        assert command in page
    assert ended.stderr == ""


def test_no_command_shows_the_help_and_the_version_is_told(run_cli):
    ended = run_cli()
    assert ended.code == 2
    assert "build" in ended.out + ended.err
    ended = run_cli("--version")
    if ended.code == 0:  # where the package is installed
        assert ended.out.startswith("idfzarr ")


# ---------------------------------------------------------------- info and stats


def test_info_as_text_and_as_json(run_cli, small_store):
    text = run_cli("info", small_store.store)
    assert (text.code, text.err) == (0, "")
    cube = Cube(small_store.store)
    assert f"{cube.shape[0]} objects x 40 types x 6 AORs" in text.out
    told = run_cli("info", small_store.store, "--json")
    assert (told.code, told.err) == (0, "")
    summary = json.loads(told.out)
    assert (summary["n_objects"], summary["n_types"], summary["n_aors"]) == (cube.shape[0], 40, 6)
    assert summary["uuid"] == cube.uuid


def test_stats_list_the_first_objects(run_cli, small_store):
    ended = run_cli("stats", small_store.store, "--top", "5")
    assert (ended.code, ended.err) == (0, "")
    ranking = rank_store(small_store.store, top=5)
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == [str(n) for n in ranking.objects]
    assert "ranked by score" in lines[-1]
    told = run_cli(
        "stats", small_store.store, "--top", "3", "--by", "iqr", "--type", "ch2_aper3_*", "--json"
    )
    found = json.loads(told.out)
    assert found["by"] == "iqr"
    assert found["types"] == ["ch2_aper3_original", "ch2_aper3_clean"]
    assert len(found["objects"]) == 3
    iqr = [row["iqr"] for row in found["objects"]]
    assert iqr == sorted(iqr, reverse=True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--by", "inverse_etta"), ("'inverse_etta'", "nearest: 'inverse_eta'")),
        (("--type", "ch1_aper2_claen"), ("'ch1_aper2_claen'", "nearest: 'ch1_aper2_clean'")),
    ],
)
def test_unknown_names_give_the_nearest(run_cli, small_store, words, told):
    ended = run_cli("stats", small_store.store, *words)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.strip().splitlines()) == 1
    for word in told:
        assert word in ended.err


# ---------------------------------------------------------------- simulate and demo


def test_simulate_says_what_it_made_and_refuses_to_do_it_over(run_cli, tmp_path, tree):
    how = ("--aors", "2", "--objects", "5", "--size", "64", "--seed", "3", "-q")
    ended = run_cli("simulate", tmp_path / "im", *how)
    assert (ended.code, ended.err) == (0, "")
    assert "5 objects in 2 AORs" in ended.out
    assert f"idfzarr build {tmp_path / 'im'}" in ended.out
    names = {p.name for p in (tmp_path / "im").glob("IDF_*")}
    assert names == {
        f"IDF_gr{n}_{c}_{k}.fits"
        for n in (1, 2)
        for c in ("ch1", "ch2")
        for k in ("sci", "unc", "cov")
    }
    before = tree(tmp_path / "im")
    again = run_cli("simulate", tmp_path / "im", *how)
    assert (again.code, again.out) == (2, "")
    assert str(tmp_path / "im") in again.err
    assert tree(tmp_path / "im") == before
    assert run_cli("simulate", tmp_path / "other", *how).code == 0
    assert tree(tmp_path / "other") == before
    assert run_cli("simulate", tmp_path / "x", "--size", "10").code == 2
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, demonstrate(folder, aors=16, objects=80, size=192, seed=1)


def test_the_demonstration_finds_the_variables_and_draws_them(shown):
    folder, demo = shown
    assert demo.report.ok
    text = demo.to_text()
    found = demo.recovery
    truth = read_truth(folder / "images")
    assert found.injected == int(np.sum(truth.table["varies"])) >= 3
    assert len(found.recovered) + len(found.missed) == found.injected
    assert f"{len(found.recovered)} of {found.injected} injected variables" in text
    # so small a field may miss one: then the page says so and the code is 1
    assert demo.ok == (found.completeness >= 0.8)
    assert ("FAILED" in text) == (not demo.ok)
    assert found.completeness >= 0.5
    for line in ("python -m idfzarr info", "python -m idfzarr stats", str(demo.picture)):
        assert line in text
    data = demo.picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", data[16:24])
    assert 800 <= width <= 2400
    assert 200 <= height <= 2400
    assert 10_000 < len(data) < 2_000_000


def test_a_recovered_variable_is_the_true_one(shown):
    folder, demo = shown
    truth, cube = read_truth(folder / "images"), Cube(demo.store)
    rows = match_truth(truth, cube)
    ranked = set(demo.ranking.objects)
    for true_id in demo.recovery.recovered:
        k = truth.row(true_id)
        assert truth.table["varies"][k]
        assert int(cube.objects[rows[k]]) in ranked
        away = np.hypot(
            cube.coordinate("x")[rows[k]] - truth.table["x"][k],
            cube.coordinate("y")[rows[k]] - truth.table["y"][k],
        )
        assert away < 1.5
    assert len(ranked) <= np.ceil(1.25 * demo.recovery.injected)


def test_a_demonstration_run_again_changes_nothing_and_another_is_refused(shown, run_cli, tree):
    folder, demo = shown
    before = tree(demo.store)
    ended = run_cli("demo", folder, "--aors", "16", "--objects", "80", "--size", "192", "-q")
    assert ended.code == (0 if demo.ok else 1)
    assert "nothing changed" in ended.out
    assert "injected variables" in ended.out
    assert tree(demo.store) == before
    ended = run_cli("demo", folder, "--aors", "17", "--objects", "80", "--size", "192", "-q")
    assert (ended.code, ended.out) == (2, "")
    assert "holds another simulated field (16 AORs, 80 objects, 192 px, seed 1)" in ended.err
    with pytest.raises(StoreExists, match="another simulated field"):
        demonstrate(folder, aors=16, objects=80, size=192, seed=2)


def test_a_demonstration_that_finds_too_little_says_so(shown, run_cli, monkeypatch):
    from dataclasses import replace

    folder, demo = shown
    poor = replace(demo, recovery=replace(demo.recovery, recovered=(), missed=((7, "eclipsing"),)))
    assert not poor.ok
    assert "FAILED: fewer than 80%" in poor.to_text()
    assert "missed: eclipsing 7" in poor.to_text()
    monkeypatch.setattr("idfzarr.build.demo.demonstrate", lambda *a, **k: poor)
    assert run_cli("demo", folder, "-q").code == 1
    assert isinstance(poor, Demonstration)


# ---------------------------------------------------------------- Ctrl-C


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tiny_images, tmp_path):
    command = [sys.executable, "-m", "idfzarr", "build", str(tiny_images), str(tmp_path / "f.zarr")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        ledger, until = tmp_path / "f.zarr.ledger", time.monotonic() + 60
        while not ledger.exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "interrupted; run the same command again to go on" in err
    assert not (tmp_path / "f.zarr" / "zarr.json").exists()
