"""Exported files and lightcurves in lightkurve."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from exported_cube import TYPES, A, make_cube
from numpy.testing import assert_array_equal

from idfzarr.care.lightcurve_export import export_lightcurves
from idfzarr.errors import MissingExtra, UnknownName, UsageError
from idfzarr.lightcurve import imported_lightkurve
from idfzarr.store.cube import Cube


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_cube(tmp_path_factory.mktemp("kurve") / "field.zarr")


@pytest.fixture(scope="module")
def lightkurve():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of its own optional packages when it is imported
        return pytest.importorskip("lightkurve", reason="needs the package lightkurve")


def check(curve, made, o, t):
    assert_array_equal(curve.flux.value, made.flux[o, t])
    assert_array_equal(curve.flux_err.value, made.err[o, t])
    assert np.asarray(curve.flux.value).dtype == np.float32
    assert str(curve.flux.unit) == ("uJy", "uJy", "")[t]
    assert_array_equal(curve["quality"], made.flag[o, t])
    assert_array_equal(curve["aor"], made.aor)
    np.testing.assert_allclose(curve.time.mjd, made.mjd, rtol=0, atol=1e-9)
    assert curve.time.scale == "utc"
    assert (curve.meta["OBJECT"], curve.meta["TYPE"]) == (int(made.ids[o]), TYPES[t])
    assert (curve.meta["RA"], curve.meta["DEC"]) == (made.ra[o], made.dec[o])


def test_lightkurve_reads_what_was_exported(lightkurve, made, tmp_path):
    import idfzarr.care.lightkurve_reader  # noqa: F401 - it registers the format

    read = lightkurve.LightCurve.read
    numbers = [int(i) for i in made.ids]
    one, many = tmp_path / "one.fits", tmp_path / "many.fits"
    export_lightcurves(made.path, one, objects=numbers[:1], types=TYPES[0])
    export_lightcurves(made.path, many, objects=numbers[:4])
    curve = read(one, format="idfzarr")
    assert isinstance(curve, lightkurve.LightCurve)
    check(curve, made, 0, 0)
    for o, t in ((0, 0), (2, 1), (3, 2)):
        check(read(many, format="idfzarr", object=numbers[o], type=TYPES[t]), made, o, t)
    assert len(read(one, format="idfzarr").remove_nans()) == A - 1
    with pytest.raises(UsageError, match="holds 12 such lightcurves: say which"):
        read(many, format="idfzarr")
    with pytest.raises(UnknownName, match="nearest: 'ch1_aper2_original'"):
        read(many, format="idfzarr", object=numbers[0], type="ch1_aper2_orig")
    with pytest.raises(UnknownName, match="holds only the lightcurve of object"):
        read(one, format="idfzarr", object=numbers[1])
    # and without us, where the columns are named
    generic = lightkurve.io.generic.read_generic_lightcurve
    plain = generic(str(one), flux_column="flux", quality_column="flag", time_format="mjd")
    np.testing.assert_allclose(np.sort(plain.time.mjd), np.sort(made.mjd), rtol=0, atol=1e-9)


def test_to_lightkurve(lightkurve, made):
    cube = Cube(made.path)
    for o, t in ((0, 0), (1, 2)):
        check(cube.lightcurve(int(made.ids[o]), TYPES[t]).to_lightkurve(), made, o, t)


def test_a_file_of_another_kind(lightkurve, tmp_path):
    from astropy.table import Table

    from idfzarr.care.lightkurve_reader import read_exported

    Table({"time": [1.0], "flux": [1.0]}).write(tmp_path / "t.fits")
    with pytest.raises(UsageError, match="holds no lightcurves of idfzarr"):
        read_exported(tmp_path / "t.fits")


def test_without_lightkurve(monkeypatch, made):
    monkeypatch.setitem(sys.modules, "lightkurve", None)
    with pytest.raises(MissingExtra, match="pip install lightkurve"):
        imported_lightkurve()
    with pytest.raises(MissingExtra, match="pip install lightkurve"):
        Cube(made.path).lightcurve(int(made.ids[0]), TYPES[0]).to_lightkurve()


def test_nothing_else_imports_lightkurve():
    code = (
        "import sys, idfzarr, idfzarr.cli, idfzarr.lightcurve, idfzarr.care.lightcurve_export; "
        "sys.exit('lightkurve' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
