"""Catalogues of others into a cube: the same numbers, in every format, and nothing mixed up."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from idfzarr.build.catalogue_columns import (
    Columns,
    FluxScale,
    default_rules,
    measure_catalogue,
    parse_rules,
    types_of,
)
from idfzarr.build.catalogue_objects import match_sky
from idfzarr.build.catalogues import catalogue_of, find_tables, read_catalogue
from idfzarr.build.importer import import_tables
from idfzarr.errors import (
    AorTableError,
    BuildFailed,
    ForeignStore,
    SettingsDiffer,
    UnknownName,
    UsageError,
)
from idfzarr.flags import flag_bit, flag_names, from_sextractor
from idfzarr.store.cube import Cube
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from pathlib import Path

TYPE = "ch1_auto_original"
NOT_OBSERVED, UNDEFINED, EXTERNAL = map(flag_bit, ("not_observed", "undefined", "external"))

needs_sextractor = pytest.mark.skipif(
    shutil.which("source-extractor") is None, reason="needs the program source-extractor"
)


def sky(n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return places of objects at least 6 arcsec apart."""
    rng = np.random.default_rng(seed)
    cells = rng.permutation(400)[:n]
    dec = 69.0 + (cells // 20) * 0.003 + rng.uniform(0, 0.0005, n)
    ra = 265.0 + ((cells % 20) * 0.003 + rng.uniform(0, 0.0005, n)) / np.cos(np.deg2rad(69.03))
    return ra, dec


def sextractor_table(n: int, aor: int, *, seed: int = 1, counts: bool = False) -> Table:
    """Return a table by SExtractor's names: an object's place and id never change."""
    ra, dec = sky(n, seed)
    rng = np.random.default_rng((seed, aor))
    table = Table(
        {
            "NUMBER": np.arange(1, n + 1),
            "X_IMAGE": np.arange(n) * 10.0 + 1.0,
            "Y_IMAGE": np.arange(n) * 5.0 + 2.0,
            "ALPHA_J2000": ra,
            "DELTA_J2000": dec,
            "FLUX_AUTO": rng.normal(100, 3, n),
            "FLUXERR_AUTO": rng.uniform(1, 2, n),
            "FLUX_APER": rng.normal(50, 3, (n, 3)),
            "FLUXERR_APER": rng.uniform(1, 2, (n, 3)),
            "FLAGS": rng.integers(0, 256, n),
        },
        meta={"MJD-OBS": 55000.0 + 10 * aor, "EXPTIME": 100.0},
    )
    for name in ("FLUX_AUTO", "FLUXERR_AUTO", "FLUX_APER", "FLUXERR_APER"):
        table[name].unit = "ct" if counts else "uJy"
    return table


def fill(folder: Path, *, aors: int = 3, n: int = 12) -> list[Table]:
    folder.mkdir(parents=True)
    tables = [sextractor_table(n, k) for k in range(aors)]
    for k, table in enumerate(tables):
        table.write(folder / f"IDF_gr{k}_ch1_sci.ecsv")
    return tables


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ------------------------------------------------------------------ round trip


@given(
    flux=hnp.arrays(
        np.float32,
        (3, 7),
        elements=st.floats(-1e6, 1e6, width=32) | st.just(np.nan),
    ),
    present=hnp.arrays(bool, (3, 7)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=8)
def test_what_the_tables_say_is_what_the_cube_says(tmp_path_factory, flux, present, seed):
    folder = tmp_path_factory.mktemp("t")
    present[0] = True  # an object that is in no table is none
    rng = np.random.default_rng(seed)
    ids = rng.choice(10**9, 7, replace=False)
    error = rng.uniform(0.1, 9, (3, 7)).astype(np.float32)
    bad = rng.integers(0, 2, (3, 7))
    ra, dec = sky(7, seed)
    for k in range(3):
        rows = rng.permutation(np.flatnonzero(present[k]))
        if not len(rows):
            rows, present[k, 0] = np.array([0]), True
        Table(
            {
                "id": ids[rows],
                "ra": ra[rows],
                "dec": dec[rows],
                "f": flux[k, rows] * units.uJy,
                "e": error[k, rows],
                "bad": bad[k, rows],
                "mjd": np.full(len(rows), 60000.0 - k),
            }
        ).write(folder / f"{k}.fits")
    import_tables(
        folder,
        folder / "s.zarr",
        pattern="{aor}.fits",
        columns={"auto": ("f", "e", "bad")},
        scheduler="synchronous",
    )
    cube = Cube(folder / "s.zarr")
    assert cube.shape == (7, 1, 3, 3)
    assert set(cube.objects.tolist()) == set(ids.tolist())
    assert cube.schema.aor_names == ("2", "1", "0")  # in order of time
    for j, object_id in enumerate(ids):
        got = cube.values(int(object_id), TYPE)[:, ::-1]
        defined = np.isfinite(flux[:, j]) & present[:, j]
        np.testing.assert_array_equal(got[0], np.where(defined, flux[:, j], np.nan))
        np.testing.assert_array_equal(got[1], np.where(defined, error[:, j], np.nan))
        external = np.where(bad[:, j] != 0, EXTERNAL, 0)
        flag = np.where(np.isfinite(flux[:, j]), external, external | UNDEFINED)
        np.testing.assert_array_equal(got[2], np.where(present[:, j], flag, NOT_OBSERVED))
        at = list(cube.objects).index(object_id)
        assert cube.table("catalogue")["ra"][at] == ra[j]


def write_as(table: Table, path: Path, form: str) -> None:
    if form == "csv":
        flat = Table(table, meta={})
        for name in ("FLUX_APER", "FLUXERR_APER"):
            for k in range(table[name].shape[1]):
                flat[name if k == 0 else f"{name}_{k}"] = np.asarray(table[name][:, k])
        flat["mjd"] = table.meta["MJD-OBS"] + 50 / 86400
        flat.write(path, format="ascii.csv")
    elif form == "parquet of others":
        columns = {n: pa.array(np.asarray(table[n]).tolist()) for n in table.colnames}
        columns["mjd"] = pa.array([table.meta["MJD-OBS"] + 50 / 86400] * len(table))
        pq.write_table(pa.table(columns), path)
    elif form == "ldac":
        header = fits.Header(table.meta)
        header["AORKEY"] = 7
        cards = "".join(str(card).ljust(80) for card in header.cards) + "END".ljust(80)
        imhead = fits.BinTableHDU.from_columns(
            [fits.Column("Field Header Card", f"{len(cards)}A", array=[cards])], name="LDAC_IMHEAD"
        )
        objects = fits.table_to_hdu(Table(table, meta={}))
        objects.name = "LDAC_OBJECTS"
        fits.HDUList([fits.PrimaryHDU(), imhead, objects]).writeto(path)
    else:
        table.write(path, format=form)


FORMS = ("csv", "ascii.ecsv", "fits", "parquet", "parquet of others", "votable", "ldac")


@pytest.mark.parametrize("form", FORMS)
def test_every_format_gives_the_same_cube(tmp_path, form):
    folder = tmp_path / "t"
    folder.mkdir()
    tables = [sextractor_table(9, k) for k in range(2)]
    for k, table in enumerate(tables):
        if form == "votable":  # which keeps no metadata of ours
            table["mjd"] = table.meta["MJD-OBS"] + 50 / 86400
        write_as(table, folder / f"IDF_gr{k}_ch1_sci.cat", form)
    report = import_tables(folder, tmp_path / "s.zarr", unit="uJy", scheduler="synchronous")
    assert report.ok
    cube = Cube(tmp_path / "s.zarr")
    assert cube.types == (TYPE, *(f"ch1_aper{k}_original" for k in (1, 2, 3)))
    np.testing.assert_allclose(
        cube.coordinate("mjd")[:, 0], [55000 + 50 / 86400, 55010 + 50 / 86400]
    )
    for row, object_id in enumerate(tables[0]["NUMBER"]):
        for k, table in enumerate(tables):
            auto = cube.values(int(object_id), TYPE)[:, k]
            assert auto[0] == np.float32(table["FLUX_AUTO"][row])
            assert auto[1] == np.float32(table["FLUXERR_AUTO"][row])
            assert auto[2] == from_sextractor(table["FLAGS"][row])
            third = cube.values(int(object_id), "ch1_aper3_original")[:, k]
            assert third[0] == np.float32(table["FLUX_APER"][row, 2])
    catalogue = cube.table("catalogue")
    order = np.argsort(catalogue["object_id"])
    np.testing.assert_array_equal(catalogue["x"][order], np.arange(9) * 10.0)  # pixels from 0
    np.testing.assert_array_equal(catalogue["y"][order], np.arange(9) * 5.0 + 1.0)


@needs_sextractor
@pytest.mark.parametrize(("form", "end"), [("FITS_LDAC", "ldac"), ("ASCII_HEAD", "sexcat")])
def test_catalogues_that_sextractor_made(tmp_path, form, end):
    folder = tmp_path / "t"
    folder.mkdir()
    rng = np.random.default_rng(4)
    yy, xx = np.mgrid[:96, :96]
    places = [(20, 20), (70, 25), (45, 70), (75, 75)]
    stars = sum(2000 * np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / 4.5) for x, y in places)
    names = ["NUMBER", "X_IMAGE", "Y_IMAGE", "ALPHA_J2000", "DELTA_J2000", "FLUX_AUTO"]
    names += ["FLUXERR_AUTO", "MAG_AUTO", "MAGERR_AUTO", "MAG_ISO", "MAGERR_ISO"]
    names += ["FLUX_APER(2)", "FLUXERR_APER(2)", "FLAGS"]
    (tmp_path / "p.param").write_text("\n".join(names))
    (tmp_path / "c.conv").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
    for k in range(2):
        header = fits.Header({"MJD-OBS": 56000.5 + k, "EXPTIME": 86.4, "AORKEY": 900 + k})
        header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=265.0, CRVAL2=69.0)
        header.update(CRPIX1=48.5, CRPIX2=48.5, CDELT1=-1.7e-4, CDELT2=1.7e-4)
        image = (stars + rng.normal(0, 1, stars.shape)).astype(np.float32)
        fits.writeto(tmp_path / "im.fits", image, header, overwrite=True)
        command = ["source-extractor", "im.fits", "-c", "/dev/null", "-PARAMETERS_NAME", "p.param"]
        command += ["-FILTER_NAME", "c.conv", "-CATALOG_TYPE", form, "-PHOT_APERTURES", "6,7"]
        command += ["-CATALOG_NAME", str(folder / f"IDF_gr{k}_ch2_sci.{end}"), "-MAG_ZEROPOINT"]
        command += ["21.4", "-VERBOSE_TYPE", "QUIET"]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    options = {"count_zeropoint": 21.4, "radii": [3.0, 3.5], "scheduler": "synchronous"}
    aor_table = None
    if form == "ASCII_HEAD":  # has no header: the AOR table tells the time
        aor_table = tmp_path / "when.ecsv"
        when = Table(
            {"reqkey": [900, 901], "group_name": ["gr0", "gr1"], "mjd": [56000.5005, 56001.5005]}
        )
        when.write(aor_table)
    import_tables(folder, tmp_path / "s.zarr", aor_table=aor_table, **options)
    cube = Cube(tmp_path / "s.zarr")
    assert cube.types == tuple(f"ch2_{m}_original" for m in ("auto", "iso", "aper2", "r3.5"))
    assert cube.aors.tolist() == [900, 901]
    np.testing.assert_allclose(cube.coordinate("mjd")[:, 0], [56000.5005, 56001.5005], atol=1e-9)
    # SExtractor's own magnitudes, with the zero point it was told, are those of the cube's fluxes
    hdu = {"hdu": 2} if end == "ldac" else {"format": "ascii.sextractor"}
    for k in range(2):
        own = Table.read(folder / f"IDF_gr{k}_ch2_sci.{end}", **hdu)
        assert len(own) == len(places) == cube.shape[0]
        for row in own:
            lc = cube.lightcurve(int(row["NUMBER"]), "ch2_auto_original")
            assert lc.mag[k] == pytest.approx(row["MAG_AUTO"], abs=1e-4)
            assert lc.mag_err[k] == pytest.approx(row["MAGERR_AUTO"], abs=1.1e-4)
            iso = cube.lightcurve(int(row["NUMBER"]), "ch2_iso_original")
            assert iso.mag[k] == pytest.approx(row["MAG_ISO"], abs=1e-4)


# ------------------------------------------------------------------ magnitudes, units, flags


@given(
    mag=st.floats(-20, 50),
    err=st.floats(1e-4, 2),
    form=st.sampled_from(["plain", "mag", "AB"]),
)
def test_magnitudes_become_flux_as_astropy_does_it(mag, err, form):
    table = Table({"MAG_AUTO": [mag], "MAGERR_AUTO": [err]})
    if form != "plain":
        table["MAG_AUTO"].unit = units.mag if form == "mag" else units.ABmag
    found = measure_catalogue(
        catalogue_of(table, "t"), {TYPE: Columns("MAG_AUTO", "MAGERR_AUTO")}, FluxScale()
    )
    flux = (mag * units.ABmag).to_value(units.uJy)
    assert found.units == ("uJy",)
    assert found.values[0, 0, 0] == pytest.approx(flux, rel=3e-7)
    assert found.values[0, 0, 1] == pytest.approx(flux * err * np.log(10) / 2.5, rel=3e-7)


@pytest.mark.parametrize(
    ("unit", "scale", "factor", "stored"),
    [
        ("mJy", FluxScale(), 1e3, "uJy"),
        ("nJy", FluxScale(), 1e-3, "uJy"),
        ("erg / (s cm2 Hz)", FluxScale(), 1e29, "uJy"),
        ("ct", FluxScale(), 1.0, "ct"),
        ("ct / s", FluxScale(count_zeropoint=23.9), 1.0, "uJy"),
        ("adu", FluxScale(count_zeropoint={"ch1": 21.4, "ch2": 0.0}), 10.0, "uJy"),
        ("", FluxScale(unit="Jy"), 1e6, "uJy"),
        ("", FluxScale(), 1.0, ""),
        ("whatever", FluxScale(unit="mJy"), 1e3, "uJy"),
    ],
)
def test_units_of_flux(unit, scale, factor, stored):
    catalogue = catalogue_of({"f": [2.0, 3.0], "e": [1.0, 0.5]}, "t")
    catalogue.units.update({"f": unit} if unit else {})
    found = measure_catalogue(catalogue, {TYPE: Columns("f", "e")}, scale)
    assert found.units == (stored,)
    np.testing.assert_allclose(found.values[:, 0, 0], np.array([2.0, 3.0]) * factor, rtol=1e-6)
    np.testing.assert_allclose(found.values[:, 0, 1], np.array([1.0, 0.5]) * factor, rtol=1e-6)


def test_an_error_in_a_unit_of_its_own_is_converted_by_it():
    table = Table({"f": [2.0] * units.mJy, "e": [5.0] * units.uJy})
    found = measure_catalogue(catalogue_of(table, "t"), {TYPE: Columns("f", "e")}, FluxScale())
    assert found.values[0, 0].tolist() == [2000.0, 5.0, 0.0]


@pytest.mark.parametrize("unit", ["arcsec", "furlongs"])
def test_a_unit_that_is_no_flux_is_refused(unit):
    catalogue = catalogue_of({"f": [2.0]}, "t")
    catalogue.units["f"] = unit
    with pytest.raises(UsageError, match=f"'f' of t is in '{unit}', which is no unit of flux"):
        measure_catalogue(catalogue, {TYPE: Columns("f")}, FluxScale())


def test_no_value_is_nan_and_says_so():
    table = Table(
        {
            "MAG_AUTO": MaskedColumn(
                [20.0, 99.0, -99.0, np.nan, 21.0, 22.0], mask=[0, 0, 0, 0, 1, 0]
            ),
            "MAGERR_AUTO": [0.1, 99.0, 0.1, 0.1, 0.1, 99.0],
            "FLAGS": [0, 0, 4, 0, 0, 0],
        }
    )
    columns = {TYPE: Columns("MAG_AUTO", "MAGERR_AUTO", "FLAGS")}
    found = measure_catalogue(catalogue_of(table, "t"), columns, FluxScale()).values[:, 0]
    assert np.isfinite(found[:, 0]).tolist() == [True, False, False, False, False, True]
    assert np.isfinite(found[:, 1]).tolist() == [True] + 5 * [False]
    assert found[:, 2].tolist() == [0, UNDEFINED, UNDEFINED | 8, UNDEFINED, UNDEFINED, 0]
    assert flag_names(int(found[2, 2])) == ("saturated", "undefined")


def test_flags_are_sextractors_only_where_the_table_is():
    flags = np.array([0, 1, 4, 24])
    ours = {"FLUX_AUTO": np.ones(4), "FLAGS": flags}
    columns = {TYPE: Columns("FLUX_AUTO", None, "FLAGS")}

    def found(table, columns, how="auto"):
        scale = FluxScale(flags=how)
        return measure_catalogue(catalogue_of(table, "t"), columns, scale).values[:, 0, 2].tolist()

    assert found(ours, columns) == from_sextractor(flags).tolist() == [0, 18, 8, 1]
    others = [0] + 3 * [EXTERNAL]
    assert found(ours, columns, "external") == others
    plain = {"flux": np.ones(4), "flags": flags}
    assert found(plain, {TYPE: Columns("flux", None, "flags")}) == others
    assert found(plain, {TYPE: Columns("flux", None, "flags")}, "sextractor") == [0, 18, 8, 1]


def test_names_that_are_known(tmp_path):
    file = find_tables(_touched(tmp_path, "x_ch2.csv"), pattern="{aor}_{channel}")[0]
    table = {"mag_auto": [20.0], "FLUX_ISO": [1.0], "MAG_ISO": [2.0], "MAG_APER": [[1.0, 2.0]]}
    rules = default_rules(catalogue_of(table, "t"))
    found = types_of(file, rules)
    assert list(found) == [f"ch2_{m}_original" for m in ("auto", "iso", "aper1", "aper2")]
    assert found["ch2_auto_original"].error is None
    assert found["ch2_iso_original"].value == "FLUX_ISO"  # flux before magnitude
    assert found["ch2_aper2_original"].value == "MAG_APER[1]"
    radii = default_rules(catalogue_of(table, "t"), radii=[3.0, 3.5])
    assert [r.method for r in radii][-2:] == ["aper2", "r3.5"]
    with pytest.raises(UsageError, match="t has 2 apertures, and 1 radii were given"):
        default_rules(catalogue_of(table, "t"), radii=[3.0])
    nine = {"FLUX_APER": np.ones((1, 9))}
    with pytest.raises(UsageError, match="9 apertures, more than aper1 to aper8"):
        default_rules(catalogue_of(nine, "t"))


def _touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_mapping_of_columns():
    rules = parse_rules({"auto": "A:B:C", "ch2_r3.5_clean": ["D"], "median7": ("E", None, "F")})
    assert [(r.channel, r.method, r.image) for r in rules] == [
        (None, "auto", None),
        ("ch2", "r3.5", "clean"),
        (None, "median7", "ratio"),
    ]
    assert rules[0].columns == Columns("A", "B", "C")
    assert rules[2].columns == Columns("E", None, "F")
    for wrong, sentence in (
        ({}, "mapping of columns is empty"),
        ({"aut": "A"}, "'aut' is no method; nearest: 'auto'"),
        ({"auto_cleen": "A"}, "'auto_cleen' is no type to map columns to"),
        ({"auto": ()}, r"columns of 'auto' must be value, error and flag, not \(\)"),
        ({"auto": ":B"}, "columns of 'auto' lack the value's name"),
    ):
        with pytest.raises(UsageError, match=sentence):
            parse_rules(wrong)


# ------------------------------------------------------------------ files


def test_files_are_found_by_pattern(tmp_path):
    _touched(tmp_path, "IDF_gr2_ch1_sci.ecsv", "IDF_gr10_ch1_sci_clean.fits", "IDF_gr2_ch2_sci.cat")
    _touched(tmp_path, "IDF_gr2_ch1_sci_div.ecsv", "IDF_gr2_ch1_sci.png", "sub/IDF_gr3_ch1_sci.csv")
    found = find_tables(tmp_path)
    assert [f.name for f in found] == [
        "gr2 ch1 original",
        "gr2 ch2 original",
        "gr3 ch1 original",
        "gr10 ch1 clean",
    ]
    only = find_tables(tmp_path, channel="ch2")
    assert [f.path.name for f in only] == ["IDF_gr2_ch2_sci.cat"]
    ratio = find_tables(tmp_path, images={"sci_div": "ratio"})
    assert [f.name for f in ratio] == ["gr2 ch1 ratio"]
    assert [f.name for f in find_tables(tmp_path, pattern="sub/IDF_{aor}_*")] == ["gr3 ch1"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pattern": "x_{channel}"}, "does not say where the AOR's name stands"),
        ({"pattern": "{aor"}, "a brace without its other half"),
        ({"pattern": "{aor}_{kind}"}, r"has \{kind\}; fields are"),
        ({"images": {"sci": "orignal"}}, "'sci' cannot stand for 'orignal'; nearest: 'original'"),
        ({"pattern": "Q_{aor}"}, "none of its 2 files matches, for example 'IDF_gr1_ch1_sci.csv'"),
        ({}, "two tables for AOR gr1 ch1 original: .*csv and .*ecsv"),
    ],
)
def test_files_that_cannot_be_found(tmp_path, options, sentence):
    _touched(tmp_path, "IDF_gr1_ch1_sci.csv", "IDF_gr1_ch1_sci.ecsv")
    with pytest.raises(UsageError, match=sentence):
        find_tables(tmp_path, **options)


def test_no_folder_and_an_empty_one(tmp_path):
    with pytest.raises(UsageError, match="it does not exist"):
        import_tables(tmp_path / "none", tmp_path / "s.zarr")
    (tmp_path / "t").mkdir()
    with pytest.raises(UsageError, match="it holds no file at all"):
        import_tables(tmp_path / "t", tmp_path / "s.zarr")
    assert not (tmp_path / "s.zarr").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"SIMPLE  =                    T" + b" " * 500, "cannot be read"),
        (b"\x89PNG....", "is of no known format"),
        (b"a,b\n", "has no rows"),
        (b"PAR1....", "cannot be read"),
        (b"# %ECSV 1.0\n# ---\n# nonsense\n", "cannot be read"),
    ],
)
def test_files_that_are_no_tables(tmp_path, content, sentence):
    path = tmp_path / "t.cat"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=sentence):
        read_catalogue(path)


# ------------------------------------------------------------------ which object


@given(seed=st.integers(0, 500), n=st.integers(1, 40), m=st.integers(1, 40))
@settings(max_examples=30)
def test_matching_by_sky_equals_brute_force(seed, n, m):
    rng = np.random.default_rng(seed)
    # crowded, across 0h, near the pole
    ra, dec = (360 + rng.normal(0, 2e-3, n)) % 360, 69 + rng.normal(0, 7e-4, n)
    of_ra, of_dec = (360 + rng.normal(0, 2e-3, m)) % 360, 69 + rng.normal(0, 7e-4, m)
    of_dec[rng.random(m) < 0.1] = np.nan
    found = match_sky(ra, dec, of_ra, of_dec, radius=2.0)
    turn = (of_ra[:, None] - ra + 180) % 360 - 180
    apart = 3600 * np.hypot(turn * np.cos(np.deg2rad(69)), of_dec[:, None] - dec)
    expected = np.full(m, -1)
    pairs = np.argwhere(apart <= 2.0)
    for row, at in pairs[np.argsort(apart[tuple(pairs.T)])]:
        if expected[row] < 0 and at not in expected:
            expected[row] = at
    np.testing.assert_array_equal(found, expected)


def test_tables_with_ids_of_their_own_are_matched_by_sky(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    ra, dec = sky(10)
    rng = np.random.default_rng(5)
    objects = Table({"object_id": np.arange(10) + 500, "ra": ra, "dec": dec, "kind": ["star"] * 10})
    truth = np.full((3, 10), np.nan)
    for k in range(3):
        rows = rng.permutation(10)[: 9 - k]
        truth[k, rows] = rng.uniform(10, 20, len(rows))
        stray = k + 1  # rows of none of the objects
        Table(
            {
                "NUMBER": np.arange(len(rows) + stray) + 1,
                "ALPHA_J2000": np.append(ra[rows] + 1e-4, np.full(stray, 266.0)),
                "DELTA_J2000": np.append(dec[rows] - 5e-5, 69 + 0.01 * np.arange(stray)),
                "FLUX_AUTO": np.append(truth[k, rows], np.ones(stray)),
                "FLUXERR_AUTO": np.ones(len(rows) + stray),
                "mjd": np.full(len(rows) + stray, 55000.0 + k),
            }
        ).write(folder / f"gr{k}.fits")
    options = {"pattern": "{aor}", "unit": "uJy", "scheduler": "synchronous"}
    report = import_tables(folder, tmp_path / "s.zarr", objects=objects, **options)
    cube = Cube(tmp_path / "s.zarr")
    for j in range(10):
        got = cube.values(500 + j, TYPE)
        np.testing.assert_array_equal(got[0], truth[:, j].astype(np.float32))
        assert (got[2] == np.where(np.isfinite(truth[:, j]), 0, NOT_OBSERVED)).all()
    assert cube.coordinate("n_unmatched")[:, 0].tolist() == [1, 2, 3]
    assert any("6 rows in 3 of 3 tables are none of the objects" in n for n in report.notes)
    assert set(cube.table("catalogue")["kind"]) == {"star"}
    assert cube.table("catalogue")["isolated"].all()
    with pytest.raises(UsageError, match="ids of 2 of 3 tables are not of the same objects"):
        import_tables(folder, tmp_path / "by_id.zarr", **options)


def test_one_table_of_other_ids_is_left_out(tmp_path):
    folder = tmp_path / "t"
    fill(folder, aors=4)
    shifted = sextractor_table(12, 9)
    shifted["NUMBER"] = np.roll(shifted["NUMBER"], 1)
    shifted.write(folder / "IDF_gr9_ch1_sci.ecsv")
    report = import_tables(folder, tmp_path / "s.zarr", scheduler="synchronous")
    assert [s.aor for s in report.skipped] == ["gr9"]
    assert "12 of the 12 ids it shares" in report.skipped[0].reason
    assert not report.ok
    assert Cube(tmp_path / "s.zarr").schema.aor_names == ("gr0", "gr1", "gr2", "gr3")


# ------------------------------------------------------------------ bad tables


def test_tables_that_cannot_be_used_are_left_out_and_listed(tmp_path):
    folder = tmp_path / "t"
    fill(folder, aors=3)
    twice = sextractor_table(12, 3)
    twice["NUMBER"][1] = 1
    twice.write(folder / "IDF_gr3_ch1_sci.ecsv")
    lacking = sextractor_table(12, 4)
    lacking.rename_column("FLUX_AUTO", "FLUX_AUT")
    lacking.write(folder / "IDF_gr4_ch1_sci.ecsv")
    odd = sextractor_table(12, 5)
    odd["FLUX_AUTO"].unit = "arcsec"
    odd.write(folder / "IDF_gr5_ch1_sci.ecsv")
    counts = sextractor_table(12, 6, counts=True)
    counts.write(folder / "IDF_gr6_ch1_sci.ecsv")
    timeless = sextractor_table(12, 7)
    timeless.meta.clear()
    timeless.write(folder / "IDF_gr7_ch1_sci.ecsv")
    (folder / "IDF_gr8_ch1_sci.ecsv").write_bytes(b"junk")
    report = import_tables(folder, tmp_path / "s.zarr", scheduler="synchronous")
    assert not report.ok
    reasons = {s.aor: s.reason for s in report.skipped}
    expected = {
        "gr3": "1 ids stand more than once in column 'NUMBER' of",
        "gr4": "no columns for ch1_auto_original, which most of",
        "gr5": "is in 'arcsec', which is no unit of flux",
        "gr6": "gives ch1_auto_original in 'ct', and most of",
        "gr7": "has no time of observation, and there is no AOR table",
        "gr8": "is of no known format",
    }
    assert reasons.keys() == expected.keys()
    for aor, part in expected.items():
        assert part in reasons[aor]
        assert f"IDF_{aor}_ch1_sci.ecsv" in reasons[aor]
    assert Cube(tmp_path / "s.zarr").shape == (12, 4, 3, 3)
    again = import_tables(folder, tmp_path / "s.zarr", scheduler="synchronous")
    assert (again.changed, again.ok, again.skipped) == (False, False, report.skipped)
    assert json.loads(json.dumps(again.to_dict()))["ok"] is False


def test_a_missing_column_is_named_with_its_nearest(tmp_path):
    fill(tmp_path / "t", aors=2)
    with pytest.raises(
        UsageError, match=r"not one of the tables .*'FLUX_ATUO'; nearest: 'FLUX_AUTO'"
    ):
        import_tables(
            tmp_path / "t",
            tmp_path / "s.zarr",
            columns={"auto": "FLUX_ATUO"},
            scheduler="synchronous",
        )
    # the mistake left nothing behind that would now be called other settings
    assert import_tables(tmp_path / "t", tmp_path / "s.zarr", scheduler="synchronous").ok
    catalogue = catalogue_of(sextractor_table(3, 0), "t")
    with pytest.raises(UnknownName, match=r"holds .3,. values in each row; name one of them"):
        catalogue.values("FLUX_APER")
    with pytest.raises(UnknownName, match=r"has 3 elements and no 'FLUX_APER\[3\]'"):
        catalogue.values("FLUX_APER[3]")


def test_nothing_tells_the_time(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    table = sextractor_table(5, 0)
    table.meta.clear()
    table.write(folder / "IDF_gr0_ch1_sci.ecsv")
    with pytest.raises(AorTableError, match="no table tells when it was taken"):
        import_tables(folder, tmp_path / "s.zarr", scheduler="synchronous")
    Table({"reqkey": [77], "group_name": ["gr0"], "mjd": [54321.5]}).write(folder / "aors.ecsv")
    report = import_tables(folder, tmp_path / "s.zarr", scheduler="synchronous")
    cube = Cube(tmp_path / "s.zarr")
    assert (cube.aors.tolist(), cube.coordinate("mjd").tolist()) == ([77], [[54321.5]])
    assert any("times from the AOR table" in note for note in report.notes)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"match": "sky"}, UsageError, "matching by sky needs a table of objects"),
        ({"match": "name"}, UsageError, "by 'id' or by 'sky', not by 'name'"),
        ({"match_radius": -1.0}, UsageError, "a match radius must be a positive number"),
        ({"flags": "sexractor"}, UsageError, "flags cannot be 'sexractor'; nearest: 'sextractor'"),
        ({"unit": "microjy"}, UsageError, "the unit 'microjy' is not understood"),
        ({"objects": {"object_id": [1]}}, UsageError, "1 of 1 objects .* have no ra and dec"),
        ({"objects": {"ra": [1.0], "dec": [2.0]}}, UsageError, "has no column of ids"),
        ({"object_id": "FLUX_AUTO"}, UsageError, "must hold a whole number in every row"),
        ({"object_id": "NUMBR"}, UsageError, r"no column of ids \(NUMBR\); nearest: 'NUMBER'"),
        ({"time_column": "t0"}, UsageError, "neither a column nor metadata 't0'"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, error, sentence):
    fill(tmp_path / "t", aors=1)
    with pytest.raises(error, match=sentence):
        import_tables(tmp_path / "t", tmp_path / "s.zarr", scheduler="synchronous", **options)


# ------------------------------------------------------------------ again, killed, changed


def test_a_finished_import_changes_nothing_and_refuses_what_differs(tmp_path):
    folder, store = tmp_path / "t", tmp_path / "s.zarr"
    fill(folder)
    first = import_tables(folder, store, scheduler="synchronous")
    assert (first.ok, first.changed, first.aors_measured) == (True, True, 3)
    before = tree(store)
    again = import_tables(folder, store, scheduler="synchronous")
    assert (again.changed, again.n_objects, again.n_types, again.n_aors) == (False, 12, 4, 3)
    assert tree(store) == before
    with pytest.raises(SettingsDiffer, match="begun with other settings"):
        import_tables(folder, store, calibrate=True)
    sextractor_table(12, 7).write(folder / "IDF_gr7_ch1_sci.ecsv")
    with pytest.raises(SettingsDiffer, match=r"1 more \(gr7\): import them into a new store"):
        import_tables(folder, store)
    (folder / "IDF_gr7_ch1_sci.ecsv").unlink()
    sextractor_table(12, 8).write(folder / "IDF_gr1_ch1_sci.ecsv", overwrite=True)
    with pytest.raises(SettingsDiffer, match="1 tables changed since they were imported"):
        import_tables(folder, store)
    assert tree(store) == before


def test_an_import_that_was_stopped_goes_on_with_the_same_bytes(tmp_path, monkeypatch):
    folder = tmp_path / "t"
    fill(folder, aors=5)
    import_tables(folder, tmp_path / "whole.zarr", shard_objects=5, scheduler="synchronous")
    write = CubeWriter.write_staging

    def failing(self, batch, block, **told):
        if batch == 3:
            raise RuntimeError("pulled the plug")
        return write(self, batch, block, **told)

    store = tmp_path / "s.zarr"
    options = {"shard_objects": 5, "scheduler": "synchronous"}
    with monkeypatch.context() as patch:
        patch.setattr(CubeWriter, "write_staging", failing)
        with pytest.raises(BuildFailed, match=r"importing AORs.*pulled the plug"):
            import_tables(folder, store, **options)
    assert not (store / "zarr.json").exists()
    report = import_tables(folder, store, **options)
    assert report.aors_measured == 1  # only what was not staged
    ours, whole = tree(store), tree(tmp_path / "whole.zarr")
    assert ours.keys() == whole.keys()
    assert {k for k in ours if ours[k] != whole[k]} == {"zarr.json"}  # uuid and time of creation
    with pytest.raises(ForeignStore, match="no store of idfzarr"):
        import_tables(folder, folder)


def test_two_channels_two_images_and_threads(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    for k in range(3):
        for c in (1, 2):
            for word in ("sci", "sci_clean"):
                if (k, c) == (1, 2):
                    continue
                table = sextractor_table(8, k)
                table["FLUX_AUTO"] += 1000 * c + (500 if word == "sci_clean" else 0)
                table.write(folder / f"IDF_gr{k}_ch{c}_{word}.fits")
    report = import_tables(folder, tmp_path / "s.zarr", columns={"auto": "FLUX_AUTO:FLUXERR_AUTO"})
    assert report.ok
    cube = Cube(tmp_path / "s.zarr")
    assert cube.types == (
        "ch1_auto_original",
        "ch1_auto_clean",
        "ch2_auto_original",
        "ch2_auto_clean",
    )
    base = [float(sextractor_table(8, k)["FLUX_AUTO"][2]) for k in range(3)]
    for name, shift in zip(cube.types, (1000, 1500, 2000, 2500), strict=True):
        got = cube.values(3, name)[0]
        gone = [name.startswith("ch2") and k == 1 for k in range(3)]
        np.testing.assert_allclose(got, np.where(gone, np.nan, np.add(base, shift)), rtol=1e-6)
    assert np.isnan(cube.coordinate("mjd")).tolist() == [[False] * 2, [False, True], [False] * 2]


def test_one_table_may_hold_several_channels(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    for k in range(2):
        Table(
            {"id": [4, 9], "f1": [1.0, 2.0 + k], "f2": [3.0, 4.0 + k], "mjd": [6e4 + k] * 2}
        ).write(folder / f"a{k}.csv")
    columns = {"ch1_psf_original": "f1", "ch2_psf_original": "f2"}
    import_tables(
        folder,
        tmp_path / "s.zarr",
        pattern="{aor}",
        columns=columns,
        unit="mJy",
        scheduler="synchronous",
    )
    cube = Cube(tmp_path / "s.zarr")
    assert cube.channels == ("ch1", "ch2")
    assert cube.values(9, "ch2_psf_original")[0].tolist() == [4000.0, 5000.0]
    assert cube.values(4, "ch1_psf_original")[0].tolist() == [1000.0, 1000.0]


def test_zero_points_are_found_where_they_are_asked_for(tmp_path):
    folder = tmp_path / "t"
    folder.mkdir()
    rng = np.random.default_rng(8)
    truth = np.array([0.0, 0.2, -0.1, 0.05, 0.0])
    bright = rng.uniform(500, 900, 30)
    for k, dz in enumerate(truth):
        table = sextractor_table(30, k)
        table["FLUX_AUTO"] = (bright + rng.normal(0, 1, 30)) * 10 ** (-0.4 * dz) * units.uJy
        table["FLUXERR_AUTO"] = np.ones(30) * units.uJy
        table["FLAGS"] = 0
        table.write(folder / f"IDF_gr{k}_ch1_sci.fits")
    columns = {"auto": "FLUX_AUTO:FLUXERR_AUTO:FLAGS"}
    told = {"columns": columns, "scheduler": "synchronous"}
    import_tables(folder, tmp_path / "s.zarr", calibrate=True, **told)
    cube = Cube(tmp_path / "s.zarr")
    np.testing.assert_allclose(cube.coordinate("zeropoint")[0], truth, atol=2e-3)
    assert cube.table("catalogue")["snr_ch1"].min() > 400
    assert cube.table("variability")["n"].tolist() == [[5]] * 30
    import_tables(folder, tmp_path / "plain.zarr", **told)
    plain = Cube(tmp_path / "plain.zarr")
    assert "zeropoint" not in plain.coordinate_names
    lc = plain.lightcurve(1, TYPE)
    np.testing.assert_array_equal(lc.calibrated().flux, lc.flux)
