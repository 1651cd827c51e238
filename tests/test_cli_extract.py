"""``extract`` and ``migrate`` as they are typed: files, codes, and sentences."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from old_skycells import make_old, make_store

from idfzarr.ps1 import skycell
from idfzarr.store.cube import Cube
from idfzarr.testing.ps1_files import PS1Sky, file_bytes

A, B = "skycell.1405.053", "skycell.1405.054"
RA, DEC = (float(v) for v in skycell.pixel_to_sky(A, 3000.0, 3000.0))
SKY = PS1Sky(seed=2, size=(150, 140), around=(RA, DEC))


@pytest.fixture(scope="module")
def skycells(tmp_path_factory):
    return make_store(
        tmp_path_factory.mktemp("cli") / "s.zarr", SKY, [A, B], bands="gri"
    ).place.root


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_one_array(run_cli, here, skycells):
    done = run_cli("extract", skycells, "--skycell", A, "--band", "r", "--as-served")
    assert done.code == 0
    assert "byte for byte as fetched" in done.out
    name = f"rings.v3.{A}.stk.r.unconv.fits"
    assert (here / name).read_bytes() == file_bytes(SKY, A, "r")
    again = run_cli("extract", skycells, "--skycell", A, "--band", "r", "--as-served")
    assert again.code == 2
    assert "add --overwrite" in again.err
    assert (
        run_cli(
            "extract", skycells, "--skycell", A, "--band", "r", "--as-served", "--overwrite"
        ).code
        == 0
    )
    assert run_cli(
        "extract", skycells, "--skycell", "1405.053", "--band", "r", "--weight", "--linear",
        "--plain", "--output", here / "w.fits",
    ).code == 0  # fmt: skip
    with fits.open(here / "w.fits", checksum=True) as found:
        assert found[0].data.dtype == np.dtype(">f4")
        assert found[0].header["BUNIT"] == "uJy"


def test_batch(run_cli, here, skycells):
    done = run_cli("extract", skycells, "--skycell", A, "--batch", "--json")
    assert done.code == 0
    files = json.loads(done.out)["files"]
    assert len(files) == 9
    assert {one["result"] for one in files} == {"written"}
    assert len(list((here / "extracted_fits" / A).glob("*.fits"))) == 9
    # what the earlier toolkit documented and refused: one band of every skycell
    done = run_cli("extract", skycells, "--band", "r", "--mask", "--batch", "--output-dir", "out")
    assert done.code == 0
    assert sorted(p.name for p in (here / "out").rglob("*.fits")) == [
        f"{A}_r_mask.fits",
        f"{B}_r_mask.fits",
    ]
    again = run_cli("extract", skycells, "--band", "r", "--mask", "--batch", "--output-dir", "out")
    assert again.code == 0
    assert "0 of 2 arrays written" in again.out


def test_list(run_cli, here, skycells):
    done = run_cli("extract", skycells, "--list")
    assert done.code == 0
    assert "2 skycells, 2 complete" in done.out
    assert f"{A}    +++..  +++..  +++..   complete" in done.out
    rows = list(
        csv.DictReader(
            io.StringIO(
                run_cli(
                    "extract", skycells, "--list", "--skycell", "1405.054", "--format", "csv"
                ).out
            )
        )
    )
    assert [(row["skycell_name"], row["is_complete"]) for row in rows] == [(B, "True")]
    told = json.loads(run_cli("extract", skycells, "--list", "--json").out)
    assert [row["arrays_present_count"] for row in told["skycells"]] == [9, 9]
    assert run_cli("extract", skycells, "--list", "-o", here / "list.txt").code == 0
    assert "2 skycells" in (here / "list.txt").read_text()


def test_cutouts(run_cli, here, skycells):
    place = ("--cutout", RA, DEC, 15)
    done = run_cli("extract", skycells, *place, "--bands", "irg", "-o", "c.png")
    assert done.code == 0
    assert (here / "c.png").read_bytes().startswith(b"\x89PNG")
    done = run_cli("extract", skycells, *place, "--band", "r", "--json")
    told = json.loads(done.out)
    assert told["shape"] == [60, 60]
    assert told["coverage"] == 1.0
    with fits.open(here / told["path"], checksum=True) as found:
        assert np.isfinite(found[1].data).mean() > 0.8
    done = run_cli("extract", skycells, "--cutout", 10, -20, 15)
    assert done.code == 2
    assert "fetch it first" in done.err


def test_migrate(run_cli, here):
    make_old(here / "old.zarr", SKY, [A], bands="r")
    done = run_cli("migrate", "old.zarr", "new.zarr")
    assert done.code == 0
    assert "2 as integers that give back every value bit for bit" in done.out
    (here / "old.zarr/1405" / A / "r/c/0/0").unlink()
    (here / "old.zarr/1405" / A / "r/c/1/0").unlink()
    done = run_cli("migrate", "old.zarr", "other.zarr", "--json")
    assert done.code == 1
    assert json.loads(done.out)["counts"] == {"stored": 2, "there": 0, "damaged": 1, "failed": 0}
    assert run_cli("migrate", "nothing.zarr", "x.zarr").code == 3
    assert run_cli("migrate", "new.zarr", "x.zarr").code == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "say what to take out"),
        (["--skycell", A], "say --band with one of grizy, or --batch"),
        (["--skycell", A, "--band", "rr"], "names no band or one twice"),
        (["--skycell", A, "--band", "q"], "there is no band 'q'"),
        (["--skycell", "1405.*", "--band", "r"], "is a glob: add --batch"),
        (["--skycell", "1405.059", "--band", "r"], "no skycell in"),
        (["--skycell", "nonsense", "--band", "r"], "is no name of a skycell"),
        (["--skycell", A, "--band", "r", "--linear", "--as-served"], "contradict each other"),
        (["--skycell", A, "--band", "r", "--type", "x"], "--type says nothing to --skycell"),
        (["--list", "--cutout", 1, 2, 3], "cannot be asked for at once"),
        (["--batch", "--output", "x"], "contradict each other"),
        (["--cutout", 1, 2, 3, "--linear"], "--linear says nothing to --cutout"),
        (["--list", "--format", "fits"], "a list is written as csv"),
    ],
)
def test_usage(run_cli, here, skycells, options, said):
    done = run_cli("extract", skycells, *options)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert list(here.iterdir()) == []


def test_no_store(run_cli, here):
    assert run_cli("extract", "nothing.zarr", "--list").code == 3
    assert run_cli("extract", "nothing.zarr", "--object", 1).code == 3
    assert run_cli("extract", "nothing.zarr", "--skycell", A, "--band", "r").code == 3


# ---------------------------------------------------------------- cubes


def test_lightcurves(run_cli, here, tiny_store):
    cube = Cube(tiny_store.store)
    ids = [int(n) for n in cube.objects[:2]]
    objects = ["--object", ids[0], "--object", ids[1]]
    done = run_cli("extract", tiny_store.store, *objects, "--type", "ch1_*")
    assert done.code == 0
    found = Table.read(done.out, format="ascii.csv")
    curves = cube.lightcurves(ids, "ch1_*")
    assert len(found) == sum(map(len, curves))
    assert set(found["object"]) == set(ids)
    truth = np.concatenate([one.flux for one in curves])
    flux = np.asarray(np.ma.filled(found["flux"].astype(float), np.nan))
    np.testing.assert_allclose(flux, truth, rtol=1e-6, equal_nan=True)
    assert np.isfinite(truth).any()
    for suffix, form in (("ecsv", "ascii.ecsv"), ("fits", "fits"), ("vot", "votable")):
        path = here / f"lc.{suffix}"
        done = run_cli("extract", tiny_store.store, *objects, "--type", "ch1_*", "-o", path)
        assert done.code == 0
        table = Table.read(path, format=form)
        assert len(table) == len(found)
        assert str(table["time" if form == "fits" else "mjd"].unit) == "d"
        assert list(table["aor"]) == list(found["aor"])


def test_lightcurves_that_are_not_there(run_cli, here, tiny_store):
    assert run_cli("extract", tiny_store.store, "--object", 10**9).code == 2
    number = int(Cube(tiny_store.store).objects[0])
    done = run_cli("extract", tiny_store.store, "--object", number, "--type", "ch7_*")
    assert done.code == 2
    done = run_cli("extract", tiny_store.store, "--object", number, "--format", "xls")
    assert "one of csv, ecsv, fits, votable" in done.err
    done = run_cli("extract", tiny_store.store, "--object", number, "--format", "fits")
    assert "add --output FILE" in done.err
    done = run_cli("extract", tiny_store.store, "--skycell", A, "--band", "r")
    assert "is a cube without skycells" in done.err
    assert list(here.iterdir()) == []


def test_the_skycells_of_a_cube(run_cli, here, tiny_store):
    import shutil

    from idfzarr.care.cutout import cut_out_object, place_of_object
    from idfzarr.ps1.linking import link_skycells

    field = here / "field.zarr"
    shutil.copytree(tiny_store.store, field)
    cube = Cube(field)
    ra, dec = cube.coordinate("ra"), cube.coordinate("dec")
    seen = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
    number = int(cube.objects[seen[0]])
    ra, dec = place_of_object(field, number)
    name = skycell.best(ra, dec)
    sky = PS1Sky(seed=2, size=(120, 120), around=(ra, dec))
    make_store(here / "field.ps1.zarr", sky, [name], bands="gri", kinds=("image",))
    link_skycells(field, here / "field.ps1.zarr")
    made = cut_out_object(field, number, 10.0)
    assert made.bands == ("g", "r", "i")
    assert made.coverage == 1.0
    done = run_cli(
        "extract", field, "--object", number, "--size", 10, "--bands", "irg", "-o", "o.png"
    )
    assert done.code == 0
    assert (here / "o.png").read_bytes().startswith(b"\x89PNG")
    assert f"{name}" in run_cli("extract", field, "--list").out
