"""Exported files, read back by other programs, against the numbers the cube was made of."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import warnings

import numpy as np
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.io.votable import parse
from astropy.io.votable.ucd import parse_ucd
from astropy.table import Table
from exported_cube import TYPES, UNITS, A, N, make_cube
from numpy.testing import assert_array_equal

from idfzarr.care.lightcurve_export import (
    FORMATS,
    Exported,
    export_lightcurves,
    lightcurve_bytes,
)
from idfzarr.care.lightcurve_table import lightcurve_table, lightcurve_timeseries
from idfzarr.errors import ChunkCorrupt, StoreExists, UnknownName, UsageError
from idfzarr.flags import BAD_FLAGS, FLAGS
from idfzarr.store.cube import Cube

SUFFIX = {"fits": ".fits", "votable": ".vot", "ecsv": ".ecsv", "parquet": ".parquet", "csv": ".csv"}
FILES = tuple(SUFFIX)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_cube(tmp_path_factory.mktemp("export") / "field.zarr")


def plain(column):
    """Return a column without mask: text as text, numbers in the machine's order of bytes."""
    fill = {"f": np.nan}.get(column.dtype.kind, "")
    masked = np.ma.isMaskedArray(column) and np.ma.getmaskarray(column).any()
    values = np.asarray(column.filled(fill) if masked else column)
    if values.dtype.kind in "OSU":
        return values.astype(str)
    return values.astype(values.dtype.newbyteorder("="))


def of_csv(path):
    with path.open(newline="") as file:
        names, *lines = list(csv.reader(file))
    kinds = {"object": int, "aor": int, "flag": int, "type": str, "unit": str}
    kinds |= {"flux": np.float32, "flux_err": np.float32}
    return {
        name: np.array(
            [
                kinds.get(name, float)(line[k] or "nan") if name != "unit" else line[k]
                for line in lines
            ],
            dtype=kinds.get(name, float),
        )
        for k, name in enumerate(names)
    }


def read_back(form, path):
    """Return the columns of a file as a reader that is not ours finds them."""
    if form == "fits":
        with fits.open(path, checksum=True) as opened:  # a wrong sum warns, and warnings are errors
            opened.verify("exception")
            data = opened[1].data
            found = {name: np.array(data[name]) for name in data.names}
        found["mjd"] = found.pop("time")
    elif form == "votable":
        table = parse(path, verify="exception").get_first_table().array
        found = {name: table[name] for name in table.dtype.names}
    elif form == "ecsv":
        table = Table.read(path, format="ascii.ecsv")
        found = {name: table[name] for name in table.colnames}
    elif form == "parquet":
        table = pq.read_table(path)
        found = {n: table[n].to_numpy(zero_copy_only=False) for n in table.column_names}
    else:
        found = of_csv(path)
    return {name: plain(values) for name, values in found.items()}


def same_bits(found, truth):
    for name, expected in truth.items():
        values = found[name]
        if name in {"flux", "flux_err"}:
            assert values.dtype == np.float32, name
        if values.dtype.kind == "f":
            assert_array_equal(np.isnan(values), np.isnan(expected))
            known = ~np.isnan(expected)
            bits = f"u{values.dtype.itemsize}"
            assert_array_equal(values[known].view(bits), expected[known].view(bits), err_msg=name)
            assert known.sum() > 5
        else:
            assert_array_equal(values, expected, err_msg=name)


# ---------------------------------------------------------------- every format


@pytest.mark.parametrize("form", FILES)
def test_many_lightcurves_come_back_bit_for_bit(made, tmp_path, form):
    path = tmp_path / f"many{SUFFIX[form]}"
    ids = [int(i) for i in made.ids[[3, 0, 1, 2]]]
    told = []
    done = export_lightcurves(
        made.path, path, objects=ids, progress=lambda *said: told.append(said)
    )
    truth = made.rows(ids, TYPES)
    found = read_back(form, path)
    same_bits(found, truth)
    assert list(found["unit"]) == list(np.tile(np.repeat(UNITS, A), 4))
    assert list(found) == [*truth, "unit"] or form == "fits"
    assert (done.format, done.objects, done.lightcurves, done.rows) == (form, 4, 12, 12 * A)
    assert done.files[0].n_bytes == path.stat().st_size
    assert told[-1] == ("lightcurves", 12, 12)


@pytest.mark.parametrize("form", FILES)
def test_one_lightcurve_is_a_flat_table(made, tmp_path, form):
    path = tmp_path / f"one{SUFFIX[form]}"
    number = int(made.ids[0])
    export_lightcurves(made.path, path, objects=[number], types="ch1_aper2_*", mag=True)
    found = read_back(form, path)
    truth = made.rows([number], TYPES[:1])
    named = ("object", "type", "ra", "dec")
    if form in {"csv", "parquet"}:
        same_bits(found, truth)
    else:
        assert set(named) & set(found) == set()
        same_bits(found, {k: v for k, v in truth.items() if k not in named})
    flux = truth["flux"].astype(float)
    above = flux > 0
    assert 2 < above.sum() < A
    expected = 23.9 - 2.5 * np.log10(flux[above])
    np.testing.assert_allclose(np.asarray(found["mag"], float)[above], expected, rtol=1e-13)
    assert np.isnan(np.asarray(found["mag"], float)[~above]).all()


@pytest.mark.parametrize("form", FILES)
def test_the_same_lightcurves_give_the_same_file(made, form):
    first, _ = lightcurve_bytes(made.path, form, objects=[int(made.ids[0])])
    assert first == lightcurve_bytes(made.path, form, objects=[int(made.ids[0])])[0]
    assert len(first) > 500


def notes_in(form, path):
    """Return all that a file says about itself as one text."""
    if form == "fits":
        with fits.open(path) as opened:
            header = opened[1].header
            return " ".join(str(v) for k, v in header.items() if k) + " ".join(header["COMMENT"])
    if form == "parquet":
        return json.dumps(json.loads(pq.read_schema(path).metadata[b"idfzarr"]))
    if form == "csv":
        return path.with_name(f"{path.name}-metadata.json").read_text()
    return path.read_text()


@pytest.mark.parametrize("form", FILES)
def test_a_file_says_where_it_is_from(made, tmp_path, form):
    path = tmp_path / f"one{SUFFIX[form]}"
    export_lightcurves(made.path, path, objects=[int(made.ids[0])], types=TYPES[0])
    said = notes_in(form, path)
    cube = Cube(made.path)
    ours = cube.attributes["idfzarr"]
    for part in (
        cube.uuid,
        ours["created"],
        ours["settings_digest"],
        "idfzarr 0",
        "23.9",
        "UTC",
        "uJy",
        "field.zarr",
    ):
        assert part in said, part
    for one in FLAGS:
        assert one.name in said
        assert one.meaning in said.replace("&apos;", "'").replace("''", "'")
    for part in ("ch1", "aper2", "original"):
        assert part in said


def test_units_and_descriptions_stand_in_the_columns(made, tmp_path):
    export_lightcurves(made.path, tmp_path / "a.parquet", types="ch1_aper2_*")
    schema = pq.read_schema(tmp_path / "a.parquet")
    assert schema.field("flux").metadata[b"unit"] == b"uJy"
    assert schema.field("flux").metadata[b"ucd"] == b"phot.flux;em.IR.3-4um"
    with warnings.catch_warnings():
        # of a file that another library wrote astropy says so
        warnings.filterwarnings("ignore", message=".*VOParquet.*")
        table = Table.read(tmp_path / "a.parquet", format="parquet.votable")
    assert str(table["flux"].unit) == "uJy"
    assert len(table) == N * A
    export_lightcurves(made.path, tmp_path / "a.ecsv", types="ch2_*")
    table = Table.read(tmp_path / "a.ecsv", format="ascii.ecsv")
    assert table["flux"].meta["ucd"] == "phot.flux;em.IR.4-8um"
    assert str(table["mjd"].unit) == "d"
    assert table.meta["types"][TYPES[1]]["channel"] == "ch2"
    export_lightcurves(made.path, tmp_path / "a.vot")
    opened = parse(tmp_path / "a.vot", verify="exception")
    (resource,) = opened.resources
    assert {(s.timescale, s.timeorigin, s.refposition) for s in resource.time_systems} == {
        ("UTC", "MJD-origin", "TOPOCENTER"),
        ("TDB", "JD-origin", "BARYCENTER"),
    }
    assert [s.system for s in resource.coordinate_systems] == ["ICRS"]
    fields = {f.name: f for f in resource.tables[0].fields}
    for one in (*fields.values(), *resource.tables[0].params):
        if one.ucd:
            parse_ucd(one.ucd, check_controlled_vocabulary=True)
    assert (fields["mjd"].ref, fields["ra"].ref, fields["flux"].ucd) == (
        "time_utc",
        "icrs",
        "phot.flux",
    )


def test_fits_times_are_times(made, tmp_path):
    number = int(made.ids[4])
    export_lightcurves(made.path, tmp_path / "a.fits", objects=[number], types=TYPES[1])
    table = Table.read(tmp_path / "a.fits", astropy_native=True)
    assert table["time"].scale == "utc"
    np.testing.assert_allclose(table["time"].mjd, made.mjd, rtol=0, atol=1e-9)
    with fits.open(tmp_path / "a.fits") as opened:
        header = opened[1].header
        assert opened[1].columns["time"].format == "D"  # one number a row
    assert (header["TIMESYS"], header["MJDREFI"], header["MJDREFF"]) == ("UTC", 0, 0.0)
    assert (header["OBJECT"], header["TYPE"]) == (str(number), TYPES[1])
    assert header["RA_OBJ"] == made.ra[4]


def test_good_and_calibrated(made, tmp_path, tiny_store):
    ids = [int(i) for i in made.ids]
    export_lightcurves(made.path, tmp_path / "a.parquet", good=True)
    truth = made.rows(ids, TYPES)
    keep = ((truth["flag"] & BAD_FLAGS) == 0) & np.isfinite(truth["flux"])
    assert 0 < keep.sum() < len(keep)
    same_bits(read_back("parquet", tmp_path / "a.parquet"), {k: v[keep] for k, v in truth.items()})
    cube = Cube(tiny_store.store)
    number, type_ = int(cube.objects[0]), cube.types[0]
    export_lightcurves(cube, tmp_path / "c.fits", objects=[number], types=type_, calibrated=True)
    curve = cube.lightcurve(number, type_).calibrated()
    found = read_back("fits", tmp_path / "c.fits")
    assert_array_equal(found["flux"], curve.flux)
    assert_array_equal(found["flux_err"], curve.flux_err)
    assert np.isfinite(curve.flux).any()
    assert not np.array_equal(curve.flux, cube.lightcurve(number, type_).flux)
    with fits.open(tmp_path / "c.fits") as opened:
        assert opened[1].header["CALIBRAT"] is True


def test_vega_magnitudes(made, tmp_path):
    number = int(made.ids[5])
    done = export_lightcurves(
        made.path, tmp_path / "v.csv", objects=[number], types="ch2_*", mag=True, system="Vega"
    )
    assert done.rows == A
    found = read_back("csv", tmp_path / "v.csv")
    flux = made.rows([number], [TYPES[1]])["flux"].astype(float)
    above = flux > 0
    expected = -2.5 * np.log10(flux[above] / 179.7e6)
    assert above.any()
    np.testing.assert_allclose(found["mag"].astype(float)[above], expected, rtol=1e-13)
    with pytest.raises(UsageError, match="ch1_median7_ratio has no Vega magnitudes"):
        export_lightcurves(made.path, tmp_path / "w.csv", mag=True, system="Vega")
    assert not (tmp_path / "w.csv").exists()


@pytest.mark.parametrize("form", FILES)
def test_nothing_good_is_a_table_without_rows(made, tmp_path, form):
    path = tmp_path / "store.zarr"
    shutil.copytree(made.path, path)
    number = int(made.ids[0])
    cube = Cube(path, mode="r+")
    cube.write_lightcurve(number, TYPES[0], flux=np.ones(A), flag=np.full(A, 8))
    out = tmp_path / f"none{SUFFIX[form]}"
    done = export_lightcurves(path, out, objects=[number], types=TYPES[0], good=True)
    assert (done.lightcurves, done.rows) == (1, 0)
    found = read_back(form, out)
    assert {len(values) for values in found.values()} == {0}
    assert "flux" in found


def test_one_file_for_each(made, tmp_path):
    ids = [int(i) for i in made.ids[:2]]
    done = export_lightcurves(
        made.path, tmp_path / "each", objects=ids, format="fits", separate=True
    )
    assert len(done.files) == 6
    for one in ids:
        for type_ in TYPES:
            found = read_back("fits", tmp_path / "each" / f"{one}_{type_}.fits")
            assert_array_equal(found["flux"], made.rows([one], [type_])["flux"])
    first = tmp_path / "each" / f"{ids[0]}_{TYPES[0]}.fits"
    first.write_bytes(b"mine")
    again = export_lightcurves(
        made.path, tmp_path / "each", objects=ids, format="fits", separate=True
    )
    assert {one.result for one in again.files} == {"there"}
    assert first.read_bytes() == b"mine"
    over = export_lightcurves(
        made.path, tmp_path / "each", objects=ids, format="fits", separate=True, overwrite=True
    )
    assert {one.result for one in over.files} == {"written"}
    assert first.read_bytes() != b"mine"


def test_tables_in_python(made):
    ids = [int(i) for i in made.ids[:3]]
    table = lightcurve_table(made.path, ids, "ch?_aper2_*", mag=False)
    same_bits({n: np.asarray(table[n]) for n in table.colnames}, made.rows(ids, TYPES[:2]))
    assert str(table["flux"].unit) == "uJy"
    series = lightcurve_timeseries(made.path, ids, TYPES[0], good=True)
    truth = made.rows(ids, TYPES[:1])
    keep = ((truth["flag"] & BAD_FLAGS) == 0) & np.isfinite(truth["flux"])
    order = np.argsort(truth["mjd"][keep], kind="stable")
    np.testing.assert_allclose(series.time.mjd, truth["mjd"][keep][order], rtol=0, atol=1e-9)
    assert_array_equal(np.sort(series["flux"].value), np.sort(truth["flux"][keep]))
    assert len(series) > 3


# ---------------------------------------------------------------- what cannot be


def test_bad_input(made, tmp_path):
    out = tmp_path / "o.fits"
    number = int(made.ids[0])
    cases = [
        ({"objects": [number + 1]}, UnknownName, "has no object .* nearest"),
        ({"types": "ch1_aper2_orignal"}, UnknownName, "nearest: 'ch1_aper2_original'"),
        ({"format": "fist"}, UsageError, "nearest: 'fits'; one of csv, ecsv, fits"),
        ({"objects": [number], "top": 3}, UsageError, "by objects and by top at once"),
        ({"cone": (1.0,)}, UsageError, r"give \(ra, dec, radius\)"),
        ({"top": 0}, UsageError, "ask for at least one"),
        ({"system": "ST", "mag": True}, UsageError, "no 'ST' magnitudes"),
        ({"format": "hats", "separate": True}, UsageError, "hats is one folder"),
    ]
    for how, kind, said in cases:
        with pytest.raises(kind, match=said):
            export_lightcurves(made.path, out, **how)
    for inside in (made.path / "x.fits", made.path.with_name("field.zarr.ledger") / "x.fits"):
        with pytest.raises(UsageError, match="name another"):
            export_lightcurves(made.path, inside)
    with pytest.raises(UsageError, match="one of csv, ecsv, fits, votable, parquet"):
        lightcurve_bytes(made.path, "hats")
    assert list(tmp_path.iterdir()) == []
    assert FORMATS[-1] == "hats"


def test_what_is_there_stays(made, tmp_path):
    out = tmp_path / "o.csv"
    out.write_text("mine")
    with pytest.raises(StoreExists, match="add --overwrite"):
        export_lightcurves(made.path, out)
    assert out.read_text() == "mine"
    assert export_lightcurves(made.path, out, overwrite=True).rows == N * 3 * A
    with pytest.raises(StoreExists, match="is a folder"):
        export_lightcurves(made.path, tmp_path, format="csv", overwrite=True)
    with pytest.raises(StoreExists, match="is no folder"):
        export_lightcurves(made.path, out, separate=True, overwrite=True)


def test_too_much_for_one_file(made, tmp_path, monkeypatch):
    monkeypatch.setattr("idfzarr.care.lightcurve_export.MOST_ROWS", N * 3 * A - 1)
    with pytest.raises(UsageError, match="choose fewer, write one file for each lightcurve"):
        export_lightcurves(made.path, tmp_path / "o.csv")
    assert export_lightcurves(made.path, tmp_path / "h", format="hats").rows == N * 3 * A


def test_a_damaged_lightcurve_leaves_no_file(made, tmp_path):
    path = tmp_path / "store.zarr"
    shutil.copytree(made.path, path)
    shard = path / "lightcurves/c/0/0/0/0"
    data = bytearray(shard.read_bytes())
    data[20] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ChunkCorrupt, match="object"):
        export_lightcurves(path, tmp_path / "o.fits")
    assert not (tmp_path / "o.fits").exists()


def test_an_empty_choice_writes_nothing(made, tmp_path):
    done = export_lightcurves(made.path, tmp_path / "o.fits", cone=(180.0, 45.0, 10.0))
    assert isinstance(done, Exported)
    assert (done.objects, done.files, done.rows) == (0, (), 0)
    assert "no object was found (the objects within 10 arcsec of RA 180, Dec 45)" in done.to_text()
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- other programs


def program(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs the program {name}")
    return found


def test_fitsverify_finds_nothing(made, tmp_path):
    verify = program("fitsverify")
    export_lightcurves(made.path, tmp_path / "many.fits", mag=True)
    export_lightcurves(made.path, tmp_path / "one.fits", objects=[int(made.ids[0])], types=TYPES[0])
    bad = bytearray((tmp_path / "one.fits").read_bytes())
    bad[bad.index(b"TFORM2")+11 : bad.index(b"TFORM2") + 12] = b"X"  # fmt: skip
    (tmp_path / "bad.fits").write_bytes(bad)
    for name in ("many", "one"):
        done = subprocess.run(
            [verify, f"{name}.fits"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert "0 warning(s) and 0 error(s)" in done.stdout
        assert done.returncode == 0
    done = subprocess.run([verify, "bad.fits"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode != 0


def test_votlint_finds_nothing_and_stilts_reads(made, tmp_path):
    stilts = program("stilts")  # Java starts slowly: three times in all
    path = tmp_path / "many.vot"
    export_lightcurves(made.path, path, mag=True)

    def run(*arguments):
        return subprocess.run(
            [stilts, *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True, check=True
        )

    done = run("votlint", "ucd=true", path)
    assert (done.stdout.strip(), done.stderr.strip()) == ("", "")
    wrong = tmp_path / "wrong.vot"
    wrong.write_text(path.read_text().replace('ID="icrs"', 'ID="ircs"'))
    assert "ID icrs referenced" in run("votlint", "ucd=true", wrong).stdout
    export_lightcurves(made.path, tmp_path / "many.fits", mag=True)
    run("tjoin", "nin=2", "in1=many.fits", "in2=many.vot", "ofmt=fits-basic", "out=both.fits")
    with fits.open(tmp_path / "both.fits") as opened:
        both = opened[1].data
        truth = made.rows([int(i) for i in made.ids], TYPES)
        for end in ("_1", "_2"):
            assert_array_equal(both[f"flux{end}"].astype("f4"), truth["flux"])
            assert_array_equal(both[f"object{end}"], truth["object"])
        assert_array_equal(both["time"], truth["mjd"])
        assert_array_equal(both["mjd"], truth["mjd"])
