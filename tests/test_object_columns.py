"""Columns of objects by name, and conditions on them, against the tables they are read from."""

from __future__ import annotations

import numpy as np
import pytest

from idfzarr.analysis.object_columns import ObjectColumns
from idfzarr.analysis.query import QueryError, select
from idfzarr.care.lightcurve_choice import choose_lightcurves
from idfzarr.errors import UnknownName, UsageError
from idfzarr.store.cube import Cube

OWN = ("object", "ra", "dec", "x", "y")


@pytest.fixture(scope="module")
def cube(small_store):
    return Cube(small_store.store)


def test_every_column_is_that_of_the_store(cube):
    columns = ObjectColumns(cube)
    measured = cube.table("variability")
    catalogue = [name for name, values in cube.table("catalogue").items() if values.ndim == 1]
    first = next(name for name in cube.types if name.endswith("_aper2_clean"))
    assert {*OWN, "ch1_mag", "score", *catalogue, *measured} <= {*columns}
    assert len(columns) == len(cube.objects)
    for name in columns:
        assert name in columns
        assert columns[name].shape == cube.objects.shape
    np.testing.assert_array_equal(columns["object"], cube.objects)
    np.testing.assert_array_equal(columns["dec"], cube.coordinate("dec"))
    column = cube.column(first)
    np.testing.assert_array_equal(columns["score"], measured["score"][:, column])
    flux = measured["median"][:, column].astype(float)
    wanted = 23.9 - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))
    np.testing.assert_allclose(columns["ch1_mag"], wanted, rtol=1e-7)
    for type_ in cube.types:
        found = columns[f"{type_}.median"]
        np.testing.assert_array_equal(found, measured["median"][:, cube.column(type_)])


def test_objects_that_meet_a_condition_are_chosen(cube):
    columns = ObjectColumns(cube)
    limit = float(np.nanmedian(columns["score"]))
    wanted = cube.objects[(columns["score"] > limit) & (columns["ch1_mag"] < 22)]
    assert 0 < len(wanted) < len(cube.objects)
    choice = choose_lightcurves(cube, where=f"score > {limit!r} and ch1_mag < 22")
    assert choice.objects == tuple(wanted.tolist())
    assert choice.said == f"the objects with score > {limit!r} and ch1_mag < 22"
    assert choose_lightcurves(cube, where="ch1_mag < -90").objects == ()


def test_what_is_no_condition_is_refused(cube):
    with pytest.raises(QueryError, match=r"scor.*score"):
        choose_lightcurves(cube, where="scor > 3")
    with pytest.raises(QueryError, match=r"__import__"):
        choose_lightcurves(cube, where="__import__('os').system('true')")
    with pytest.raises(UsageError, match="by top and by where at once"):
        choose_lightcurves(cube, top=3, where="score > 3")
    with pytest.raises(UnknownName, match=r"no column .median_er.*median_err"):
        ObjectColumns(cube)["median_er"]


def test_a_cube_without_tables_has_its_coordinates(tmp_path):
    from idfzarr.store.cube import create

    aors = {"aor": [1, 2], "mjd": [53000.0, 53001.0]}
    made = create(tmp_path / "m.zarr", objects=[5, 6], types=["ch1_aper2_original"], aors=aors)
    columns = ObjectColumns(made)
    assert {*OWN} <= {*columns}
    assert select(columns, "object == 6").tolist() == [False, True]


def test_the_command_takes_them_out(cube, run_cli, tmp_path):
    target = tmp_path / "some.csv"
    done = run_cli(
        "extract", cube.path, "--where", "ch1_mag < 21", "--type", "ch1_*", "--output", target
    )
    assert done.code == 0, done.err
    wanted = choose_lightcurves(cube, where="ch1_mag < 21").objects
    found = np.genfromtxt(target, delimiter=",", names=True, dtype=None, encoding="utf-8")
    assert wanted
    assert {*found["object"].tolist()} == {*wanted}
    wrong = run_cli("extract", cube.path, "--where", "ch1_mag <", "--output", tmp_path / "no.csv")
    assert wrong.code == 2
    assert "ch1_mag <" in wrong.err
    assert not (tmp_path / "no.csv").exists()
