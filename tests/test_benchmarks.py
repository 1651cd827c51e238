"""The storage benchmark at a size that takes seconds, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _benchmarks_importable(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))


def _module_names() -> list[str]:
    return [
        "cube", "sqlite", "npy", "hdf5", "zarr_python", "xarray_zarr", "tensorstore_zarr", "duck",
        "parquet", "lance_file",
    ]  # fmt: skip


@pytest.mark.parametrize("name", _module_names())
def test_every_rival_returns_the_values_of_the_field(name: str, tmp_path: Path) -> None:
    from rivals import MODULES, missing, rivals_in
    from rivals.protocol import Source, spread
    from synthetic import Field

    (module,) = [m for m in MODULES if m.name == name]
    if missing(module):
        pytest.skip(f"not installed: {missing(module)}")
    field = Field(n_objects=5, n_aors=32)
    source = Source.of(field)
    rivals = rivals_in([name])
    assert rivals
    for rival in rivals:
        folder = tmp_path / rival.store
        if not folder.exists():
            folder.mkdir()
            rival.build(source, folder)
        reader = rival.open(field, folder)
        _agrees(rival, reader, field, source)
        stds = np.concatenate([spread(flux) for flux in reader.flux_blocks()])
        wanted = spread(source.values.flux.reshape(-1, field.n_aors))
        tolerance = 1e-4 if rival.lossless else 0.05
        np.testing.assert_allclose(np.sort(stds), np.sort(wanted), rtol=tolerance)
        reader.close()


def _agrees(rival, reader, field, source) -> None:
    from storage_timing import verify

    verify(rival, reader, field, seed=3)  # itself compared with the source here
    for position in range(field.n_objects):
        found = reader.all_types(int(field.object_ids[position]))
        np.testing.assert_array_equal(found.flag, source.values.flag[position])
        if rival.lossless:
            np.testing.assert_array_equal(found.flux, source.values.flux[position])
            np.testing.assert_array_equal(found.flux_err, source.values.flux_err[position])


def test_verify_notices_a_reader_that_is_wrong(tmp_path: Path) -> None:
    from rivals import rivals_in
    from rivals.protocol import Source
    from storage_timing import verify
    from synthetic import Field

    field = Field(n_objects=5, n_aors=32)
    (rival,) = rivals_in(["npy"])
    rival.build(Source.of(field), tmp_path)
    with pytest.raises(AssertionError, match="Arrays are not equal"):
        verify(rival, rival.open(Field(5, 32, seed=2), tmp_path), field, seed=3)


def test_the_field_is_the_same_however_it_is_asked_and_looks_like_one() -> None:
    from synthetic import Field

    field = Field(n_objects=40, n_aors=300)
    whole = field.block(0, 40)
    for array, part in zip(whole, field.block(17, 2), strict=True):
        np.testing.assert_array_equal(array[17:19], part)
    gone = np.isnan(whole.flux)
    assert 0.15 < gone.mean() < 0.25
    assert 0.002 < gone.all(axis=2).mean() < 0.03
    assert (whole.flag[gone] == 256).all()
    assert len(np.unique(whole.flag)) > 8
    assert len(set(field.object_ids.tolist())) == 40


def test_spread_is_the_standard_deviation_that_leaves_nan_out() -> None:
    from rivals.protocol import spread

    rng = np.random.default_rng(0)
    flux = rng.normal(5, 2, (6, 50)).astype(np.float32)
    flux[rng.random(flux.shape) < 0.3] = np.nan
    flux[2] = np.nan
    found = spread(flux)
    assert np.isnan(found[2])
    kept = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(found[kept], np.nanstd(flux[kept].astype(float), axis=1), rtol=1e-5)


def test_rivals_that_are_not_installed_are_named() -> None:
    from rivals import left_out

    sentences = left_out(lambda package: package not in {"duckdb", "lance"})
    assert len(sentences) == 2
    assert "duck" in sentences[0]
    assert "lance cannot be imported" in sentences[1]


def test_the_table_goes_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    from storage_report import BEGIN, END, rewrite

    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    rewrite(readme, "new")
    rewrite(readme, "newer")
    assert readme.read_text() == f"before\n{BEGIN}\nnewer\n{END}\nafter\n"
    readme.write_text("none")
    with pytest.raises(SystemExit, match="must hold"):
        rewrite(readme, "new")


def test_goals_are_judged_by_their_sense() -> None:
    from storage_report import GOALS

    at_most, at_least = GOALS[0], next(g for g in GOALS if g.at_least)
    assert at_most.reached(at_most.limit)
    assert not at_most.reached(at_most.limit * 1.01)
    assert at_least.reached(at_least.limit)
    assert not at_least.reached(at_least.limit * 0.99)


@pytest.mark.slow
def test_the_command_prints_every_rival_and_every_goal(repository: Path, tmp_path: Path) -> None:
    from rivals import everyone
    from storage_report import GOALS

    command = [sys.executable, str(repository / "benchmarks" / "bench_storage.py"), "--folder"]
    command += [
        str(tmp_path),
        "--objects",
        "8",
        "--aors",
        "24",
        "--reads",
        "20",
        "--seconds",
        "0.2",
    ]
    command += ["--cold-turns", "1", "--json", str(tmp_path / "figures.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    for rival in everyone():
        assert f"| {rival.name}" in done.stdout
    for goal in GOALS:
        (line,) = [row for row in rows if row.split("|")[1].strip() == goal.what]
        assert line.rstrip(" |").endswith(("reached", "MISSED")), line
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["passes"]["quiet"]["one"]["SQLite BLOB"]["ratio"] == 1
    assert figures["passes"]["threaded"]["one"]["SQLite BLOB"]["ratio"] == 1
    assert all(store["bytes"] > 0 for store in figures["stores"].values())
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]  # the stores are gone
