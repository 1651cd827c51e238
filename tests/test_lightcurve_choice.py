"""Which lightcurves are taken out: lists of every kind, cones against brute force, ranks."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.table import Table
from exported_cube import TYPES, N, make_cube
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.analysis.ranking import rank_store
from idfzarr.care.lightcurve_choice import choose_lightcurves, objects_from
from idfzarr.errors import NoSkyCoordinates, UnknownName, UsageError
from idfzarr.store.cube import Cube, create

IDS = [1_099_511_627_776, 5, -3]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_cube(tmp_path_factory.mktemp("choice") / "field.zarr")


@pytest.mark.parametrize(
    "text",
    [
        "1099511627776\n5\n-3\n",
        "# mine\n1099511627776  # the first\n\n5\n-3",
        "object\n1099511627776\n5\n-3\n",
        "Object_ID,ra\n1099511627776,1.5\n5,2\n-3,\n",
        '\ufeffname,object\r\n"a, b",1099511627776\r\nb,5\r\nc,-3\r\n',
        "ra object\n1.5 1099511627776\n2 5\n3 -3\n",
        "object\n1099511627776.0\n5.0\n-3.0\n",
    ],
)
def test_lists_in_text(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode())
    assert objects_from(path) == IDS


@pytest.mark.parametrize("suffix", [".ecsv", ".fits", ".vot", ".parquet"])
def test_lists_in_tables(tmp_path, suffix):
    path = tmp_path / f"list{suffix}"
    table = Table({"ra": [1.0, 2.0, 3.0], "object": IDS})
    form = {".ecsv": "ascii.ecsv", ".fits": "fits", ".vot": "votable", ".parquet": "parquet"}
    table.write(path, format=form[suffix])
    assert objects_from(str(path)) == IDS


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "5\nfive\n", "'five', which is no id"),
        ("a.txt", "5\n5.5\n", "'5.5', which is no id"),
        ("a.txt", "5\nnan\n", "'nan', which is no id"),
        ("a.csv", "ra,dec\n1,2\n", "has no column object: it has ra, dec"),
        ("a.csv", "objct,dec\n1,2\n", "nearest: 'objct'"),
        ("a.csv", "ra,object\n1,2\n3\n", "a line without an object: '3'"),
        ("a.csv", "1,2\n3,4\n", "several columns and no names"),
        ("a.ecsv", "nonsense", "cannot be read as the table its suffix promises"),
        ("a.fits", "nonsense", "cannot be read as the table its suffix promises"),
        ("a.vot", "nonsense", "cannot be read as the table its suffix promises"),
        ("a.parquet", "nonsense", "cannot be read as the table its suffix promises"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=said):
        objects_from(tmp_path / name)


def test_lists_that_are_none(tmp_path):
    with pytest.raises(UsageError, match="is not there"):
        objects_from(tmp_path / "no.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="is no text"):
        objects_from(tmp_path / "b.csv")
    (tmp_path / "e.csv").write_text("object\n")
    assert objects_from(tmp_path / "e.csv") == []


@given(ids=st.lists(st.integers(-(2**62), 2**62), min_size=1), header=st.booleans())
def test_any_list_comes_back(tmp_path, ids, header):
    path = tmp_path / "list.txt"
    path.write_text("\n".join([*(["object"] if header else []), *map(str, ids)]))
    assert objects_from(path) == ids


def test_choices(made, tmp_path):
    cube = Cube(made.path)
    ids = [int(i) for i in made.ids]
    everything = choose_lightcurves(cube)
    assert (everything.objects, everything.types) == (tuple(ids), TYPES)
    assert len(everything) == 3 * N
    twice = choose_lightcurves(cube, objects=[ids[4], ids[2], ids[4]], types="ch1_*")
    assert (twice.objects, len(twice)) == ((ids[4], ids[2]), 4)
    (tmp_path / "l.txt").write_text(f"{ids[3]}\n{ids[0]}\n")
    assert choose_lightcurves(cube, objects=tmp_path / "l.txt").objects == (ids[3], ids[0])
    (tmp_path / "l.txt").write_text(f"{ids[3] + 1}\n")
    with pytest.raises(UnknownName, match="has no object"):
        choose_lightcurves(cube, objects=str(tmp_path / "l.txt"))
    with pytest.raises(UnknownName, match="has no object 'five'"):
        choose_lightcurves(cube, objects=["five"])


def test_cones_as_by_brute_force(made):
    cube = Cube(made.path)
    sky = SkyCoord(made.ra, made.dec, unit="deg")
    for centre, radius in (((0.0, 0.0), 25.0), ((359.995, 0.003), 30.0)):
        away = sky.separation(SkyCoord(*centre, unit="deg")).arcsec
        inside = [int(made.ids[k]) for k in np.argsort(away) if away[k] <= radius]
        assert 0 < len(inside) < N
        for cone in (
            (*centre, radius),
            (SkyCoord(*centre, unit="deg"), f"{radius / 60} arcmin"),
            (f"{centre[0]} {centre[1]:+}", radius),
        ):
            assert list(choose_lightcurves(cube, cone=cone).objects) == inside
    assert choose_lightcurves(cube, cone=(90, 0, 1)).objects == ()
    with pytest.raises(UsageError, match="is no angle"):
        choose_lightcurves(cube, cone=(90, 0, "wide"))


def test_a_cone_without_a_sky(tmp_path):
    objects = Table({"object_id": [1], "x": [1.0], "y": [1.0]})
    aors = Table({"aor": [1], "mjd": [53000.0]})
    cube = create(tmp_path / "s.zarr", objects=objects, types=TYPES[:1], aors=aors)
    with pytest.raises(NoSkyCoordinates, match=r"s\.zarr"):
        choose_lightcurves(cube, cone=(0, 0, 10))


def test_the_most_variable(small_store):
    cube = Cube(small_store.store)
    expected = rank_store(cube, top=3, by="robust_scatter").objects
    assert len(expected) == 3
    found = choose_lightcurves(cube, top=3, by="robust_scatter", types="ch1_*")
    assert list(found.objects) == expected
    with pytest.raises(UnknownName, match="nearest: 'robust_scatter'"):
        choose_lightcurves(cube, top=3, by="robust_scater")
