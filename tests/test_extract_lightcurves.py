"""``idfzarr extract`` of lightcurves as it is typed: every selection, format, code and sentence."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from exported_cube import TYPES, A, N, make_cube
from numpy.testing import assert_array_equal

from idfzarr.store.cube import Cube


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_cube(tmp_path_factory.mktemp("typed") / "field.zarr")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_by_suffix_and_by_format(run_cli, here, made):
    number = made.ids[0]
    for name, form, magic in (
        ("a.fits", None, b"SIMPLE"),
        ("a.vot", None, b"<?xml"),
        ("a.xml", None, b"<?xml"),
        ("a.ecsv", None, b"# %ECSV"),
        ("a.csv", None, b'"object"'),
        ("a.parquet", None, b"PAR1"),
        ("a.dat", "fits", b"SIMPLE"),
    ):
        options = [] if form is None else ["--format", form]
        done = run_cli("extract", made.path, "--object", number, "-o", name, *options)
        assert done.code == 0
        assert f"written: {name}: 3 lightcurves, {3 * A} rows" in done.out
        assert (here / name).read_bytes().startswith(magic)


def test_what_is_chosen(run_cli, here, made):
    ids = [int(i) for i in made.ids]
    (here / "list.txt").write_text(f"{ids[4]}\n{ids[7]}\n")
    for options, expected in (
        (["--object", ids[2], "--object", ids[1]], [ids[2], ids[1]]),
        (["--objects-from", "list.txt"], [ids[4], ids[7]]),
        (["--cone", "0.0", "+0.0", "20 deg"], [*_nearest(made)]),
        (["--type", "*"], ids),
    ):
        done = run_cli("extract", made.path, *options, "-o", "o.parquet", "--overwrite")
        assert done.code == 0, done.err
        found = pq.read_table(here / "o.parquet")["object"].to_numpy()
        assert list(dict.fromkeys(found.tolist())) == expected


def _nearest(made):
    away = np.hypot((made.ra + 180) % 360 - 180, made.dec)
    return [int(made.ids[k]) for k in np.argsort(away)]


def test_the_most_variable(run_cli, here, small_store):
    listed = json.loads(
        run_cli("stats", small_store.store, "--top", 2, "--by", "robust_scatter", "--json").out
    )
    expected = [row["object"] for row in listed["objects"]]
    done = run_cli(
        "extract", small_store.store, "--top", 2, "--by", "robust_scatter", "--type", "ch2_aper2_*",
        "--calibrated", "--good", "-o", "top.fits",
    )  # fmt: skip
    assert done.code == 0, done.err
    with fits.open(here / "top.fits", checksum=True) as opened:
        data = opened[1].data
        assert list(dict.fromkeys(data["object"].tolist())) == expected
        assert (opened[1].header["CALIBRAT"], opened[1].header["GOODONLY"]) == (True, True)
    assert len(expected) == 2


def test_printed(run_cli, here, made):
    number = int(made.ids[1])
    done = run_cli("extract", made.path, "--object", number, "--type", "ch2_*", "--mag")
    table = Table.read(done.out, format="ascii.csv")
    assert_array_equal(np.asarray(table["flux"], np.float32), made.flux[1, 1])
    done = run_cli(
        "extract", made.path, "--object", number, "--mag", "--system", "Vega", "--type", "ch2_*"
    )
    vega = Table.read(done.out, format="ascii.csv")
    above = made.flux[1, 1] > 0
    difference = (np.asarray(table["mag"]) - np.asarray(vega["mag"]))[above]
    np.testing.assert_allclose(difference, 23.9 - 2.5 * np.log10(179.7e6), atol=1e-9)
    assert above.any()
    done = run_cli("extract", made.path, "--object", number, "--format", "votable")
    assert len(Table.read(io.BytesIO(done.out.encode()), format="votable")) == 3 * A
    assert names(here) == []


def test_one_file_for_each(run_cli, here, made):
    number = made.ids[1]
    asked = ("extract", made.path, "--object", number, "--format", "fits", "--output-dir", "each")
    done = run_cli(*asked, "--json")
    told = json.loads(done.out)
    assert [one["result"] for one in told["files"]] == ["written"] * 3
    assert names(here / "each") == sorted(f"{number}_{t}.fits" for t in TYPES)
    assert (told["lightcurves"], told["rows"], told["format"]) == (3, 3 * A, "fits")
    done = run_cli(*asked)
    assert done.code == 0
    assert "written: 0 files in each, 3 that were there stay" in done.out


def test_the_whole_cube(run_cli, here, made):
    done = run_cli("extract", made.path, "--format", "hats", "-o", "parts", "--json")
    told = json.loads(done.out)
    assert (told["objects"], told["lightcurves"], told["rows"]) == (N, 3 * N, 3 * N * A)
    table = pads.dataset(here / "parts/dataset", partitioning="hive").to_table()
    assert set(table["object"].to_pylist()) == {int(i) for i in made.ids}
    done = run_cli("extract", made.path, "--format", "hats", "-o", "parts")
    assert "written: 0 partitions in parts, 3 that were there stay" in done.out
    done = run_cli("extract", made.path, "--format", "hats", "--good", "-o", "parts")
    assert done.code == 2
    assert "add --overwrite" in done.err


def test_an_empty_cone_is_said(run_cli, here, made):
    for output in (["-o", "o.fits"], ["--output-dir", "each"], ["--format", "hats", "-o", "h"], []):
        done = run_cli("extract", made.path, "--cone", "12h00m00s", "+10d", "3", *output)
        assert done.code == 0
        said = done.out if output else done.err
        assert "nothing is written: no object was found (the objects within 3 arcsec" in said
        assert done.out == "" or output
    done = run_cli("extract", made.path, "--cone", 180, 10, 3, "-o", "o.fits", "--json")
    assert json.loads(done.out)["objects"] == 0
    assert names(here) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--object", 1], "has no object 1"),
        (["--type", "ch3_*"], "no type matches 'ch3_*'"),
        (["--type", "*", "--format", "fit"], "nearest: 'fits'"),
        (["--type", "*", "--format", "xls"], "one of csv, ecsv, fits, votable, parquet, hats"),
        (["--type", "*", "--format", "parquet"], "is not for the terminal: add --output FILE"),
        (["--format", "hats"], "the folder of hats is not for the terminal"),
        (["--format", "hats", "--output-dir", "d"], "hats is one folder"),
        (["--type", "*", "--json"], "--json tells what was written"),
        (["--object", 1, "--cone", 1, 2, 3], "cannot be asked for at once"),
        (["--object", 1, "--top", 3], "cannot be asked for at once"),
        (["--object", 1, "--by", "score"], "--by says nothing to --object"),
        (["--cone", 1, 2, "wide"], "is no angle"),
        (["--cone", "here", "there", 2], "no position"),
        (["--objects-from", "no.txt"], "is not there"),
        (["--top", 3], "no table 'variability'"),
        (["--type", "*", "--system", "Vega"], "add --mag"),
        (["--type", "*", "--mag", "--system", "Vega"], "has no Vega magnitudes"),
        (["--type", "*", "--mag", "--system", "vega"], "no 'vega' magnitudes"),
        (["--type", "*", "-o", "a", "--output-dir", "b"], "contradict each other"),
        (["--type", "*", "--linear"], "--linear says nothing to --type"),
        (["--top", 3, "--band", "r"], "--band says nothing to --top"),
        (["--list", "--good"], "--good says nothing to --list"),
        (["--object", 1, "--size", 3, "--mag"], "--mag and --size contradict each other"),
        ([], "say what to take out"),
    ],
)
def test_bad_input(run_cli, here, made, options, said):
    done = run_cli("extract", made.path, *options)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert names(here) == []


def test_where_it_cannot_be_written(run_cli, here, made):
    (here / "file").write_text("mine")
    asked = ("extract", made.path, "--type", "*", "-o")
    done = run_cli(*asked, "file/o.fits")
    assert done.code != 0
    assert "file" in done.err
    done = run_cli(*asked, "file", "--format", "fits")
    assert done.code == 2
    assert "is there already; add --overwrite" in done.err
    done = run_cli(*asked, made.path / "o.fits")
    assert done.code == 2
    assert "name another" in done.err
    assert (here / "file").read_text() == "mine"
    assert names(here) == ["file"]
    assert Cube(made.path).shape[0] == N
    assert run_cli("extract", here / "no.zarr", "--type", "*").code == 3
