"""AOR tables of every format, and what matches what."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.table import MaskedColumn, Table
from astropy.time import Time
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.errors import AorTableError
from idfzarr.imaging.aor_table import find_aor_table, match_aors, read_aor_table
from idfzarr.imaging.mosaic import MosaicFiles, MosaicHeader


def files(aor, channel="ch1"):
    return MosaicFiles(aor, channel, {"sci": Path(f"IDF_{aor}_{channel}_sci.fits")})


def header(mjd, *, reqkey=None, exptime=30.0, bjd=math.nan):
    return MosaicHeader(
        path=Path("x.fits"),
        shape=(5, 5),
        wcs=None,
        unit="",
        mjd=mjd,
        exptime=exptime,
        bjd_tdb=bjd,
        saturate=math.nan,
        reqkey=reqkey,
        pixel_scale=math.nan,
        filter="",
        instrument="",
    )


@pytest.fixture
def table():
    return Table(
        {
            "reqkey": np.array([58520832, 2**40, 7]),
            "group_name": ["gr123", "gr2", "gr10"],
            "mjd_ch1": [57000.25, 56000.5, 55000.75],
            "mjd_ch2": [57000.75, np.nan, 55000.8],
            "exptime": [100.0, 50.0, 25.0],
            "program_id": [1, 2, 3],
            "note": ["a", "b", "c"],
        }
    )


@pytest.mark.parametrize("name", ["t.ecsv", "t.csv", "t.fits", "t.vot", "T.XML"])
def test_every_format_gives_the_same_table(tmp_path, table, name):
    path = tmp_path / name
    form = {"vot": "votable", "XML": "votable", "fits": "fits", "csv": "ascii.csv"}
    table.write(path, format=form.get(name.split(".")[1], "ascii.ecsv"))
    read = read_aor_table(path)
    assert read.reqkey.dtype == np.int64
    assert read.reqkey.tolist() == [58520832, 2**40, 7]
    assert read.name == ("gr123", "gr2", "gr10")
    assert sorted(read.mjd) == ["ch1", "ch2"]
    np.testing.assert_array_equal(read.mjd["ch2"], [57000.75, np.nan, 55000.8])
    assert read.exptime[""].tolist() == [100, 50, 25]
    assert sorted(read.columns) == ["note", "program_id"]
    assert [str(n) for n in read.columns["note"]] == ["a", "b", "c"]


def test_times_quantities_masks_and_old_keys(tmp_path):
    table = Table(
        {
            "ReqKey": ["r58520832", "12"],
            "GROUP_NAME": ["gr1", "gr2"],
            "mjd": Time([57000.0, 57001.0], format="mjd", scale="tt"),
            "exptime": [2.0, 3.0] * units.min,
            "seeing": MaskedColumn([1, 2], mask=[False, True]),
        }
    )
    table.write(tmp_path / "t.ecsv")
    read = read_aor_table(tmp_path / "t.ecsv")
    assert read.reqkey.tolist() == [58520832, 12]
    # TT is 67.184 s ahead of UTC then.
    assert read.mjd[""] == pytest.approx(np.array([57000, 57001]) - 67.184 / 86400, abs=1e-9)
    assert read.exptime[""].tolist() == [120, 180]
    np.testing.assert_array_equal(read.columns["seeing"], [1, np.nan])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.rename_column("reqkey", "req_key"), "lacks the column reqkey.*'req_key'"),
        (lambda t: t.remove_columns(["mjd_ch1", "mjd_ch2"]), "lacks the column mjd"),
        (lambda t: t.remove_columns(["group_name", "reqkey"]), "columns reqkey, group_name"),
        (lambda t: t["reqkey"].__setitem__(1, 7), "reqkey 7 twice, in rows 2 and 3"),
        (lambda t: t["group_name"].__setitem__(0, "gr2"), "group_name gr2 twice, in rows 1 and 2"),
        (lambda t: t["mjd_ch1"].__setitem__(1, np.nan), "no finite mjd for AOR gr2 in row 2"),
        (lambda t: t["mjd_ch1"].__setitem__(0, np.inf), "no finite mjd for AOR gr123 in row 1"),
        (lambda t: t.replace_column("reqkey", [1.5, 2, 3]), "reqkey 1.5 in row 1: not an integer"),
        (lambda t: t.replace_column("mjd_ch1", ["a", "b", "c"]), "mjd_ch1 that is not of numbers"),
        (lambda t: t.remove_rows([0, 1, 2]), "has no rows"),
    ],
)
def test_a_table_that_will_not_do_says_why(tmp_path, table, change, sentence):
    change(table)
    table.write(tmp_path / "aors.ecsv")
    with pytest.raises(AorTableError, match=rf"aors\.ecsv.*{sentence}"):
        read_aor_table(tmp_path / "aors.ecsv")


@pytest.mark.parametrize("name", ["a.ecsv", "a.csv", "a.fits", "a.vot"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 300, b"# %ECSV 1.0\n# ---\n# {]\n"])
def test_what_is_no_table_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AorTableError, match=f"the AOR table .*{name} "):
        read_aor_table(tmp_path / name)


def test_a_missing_table_and_an_unknown_format(tmp_path):
    with pytest.raises(AorTableError, match=r"gone\.ecsv cannot be read"):
        read_aor_table(tmp_path / "gone.ecsv")
    with pytest.raises(AorTableError, match=r"a\.txt is of no known format"):
        read_aor_table(tmp_path / "a.txt")


def test_the_usual_name_is_found_and_two_are_refused(tmp_path):
    assert find_aor_table(tmp_path) is None
    (tmp_path / "aors.ecsv").touch()
    assert find_aor_table(tmp_path) == tmp_path / "aors.ecsv"
    (tmp_path / "aor_table.csv").touch()
    with pytest.raises(AorTableError, match=r"2 AOR tables \(aors\.ecsv, aor_table\.csv\)"):
        find_aor_table(tmp_path)


def test_the_table_orders_and_the_leftovers_are_named(tmp_path, table):
    table.write(tmp_path / "aors.ecsv")
    read = read_aor_table(tmp_path / "aors.ecsv")
    mosaics = [files("gr123"), files("gr123", "ch2"), files("gr10"), files("gr99"), files("gr10x")]
    headers = [header(1.0, bjd=11.0), header(2.0), header(3.0), header(4.0), header(5.0)]
    found = match_aors(mosaics, read, headers)
    assert found.name == ("gr10", "gr123")
    assert found.reqkey.tolist() == [7, 58520832]
    assert found.channels == ("ch1", "ch2")
    np.testing.assert_array_equal(found.mjd, [[55000.75, np.nan], [57000.25, 57000.75]])
    np.testing.assert_array_equal(found.exptime, [[25, np.nan], [100, 100]])
    # The barycentric time moves with the table's correction of the time.
    np.testing.assert_array_equal(found.bjd_tdb, [[np.nan, np.nan], [11 + 56999.25, np.nan]])
    assert found.columns["program_id"].tolist() == [3, 1]
    assert [(s.aor, s.kind) for s in found.without_image] == [("gr2", "without_image")]
    assert "reqkey 1099511627776" in found.without_image[0].reason
    assert [(s.aor, s.channel) for s in found.without_row] == [("gr99", "ch1"), ("gr10x", "ch1")]
    assert "nearest: 'gr10'" in found.without_row[1].reason


def test_a_time_missing_from_the_table_comes_from_the_header(tmp_path, table):
    table.write(tmp_path / "aors.ecsv")
    read = read_aor_table(tmp_path / "aors.ecsv")
    found = match_aors([files("gr2", "ch2")], read, [header(56000.9)])
    assert found.mjd.tolist() == [[56000.9]]
    with pytest.raises(AorTableError, match=r"gr2 in ch2 .*neither .*aors\.ecsv nor its header"):
        match_aors([files("gr2", "ch2")], read, [header(math.nan)])


def test_nothing_in_common_is_an_error(tmp_path, table):
    table.write(tmp_path / "aors.ecsv")
    with pytest.raises(AorTableError, match=r"table has 'gr123', the mosaics are called 'x1'"):
        match_aors([files("x1")], read_aor_table(tmp_path / "aors.ecsv"), [header(1.0)])
    with pytest.raises(AorTableError, match="there are no mosaics"):
        match_aors([], None, [])
    with pytest.raises(AorTableError, match=r"gr1 in ch1 .*its header has none"):
        match_aors([files("gr1")], None, [header(math.nan)])


@pytest.mark.parametrize(
    ("names", "header_keys", "keys"),
    [
        (["gr5", "gr3"], [500, 300], [500, 300]),
        (["gr5", "gr3"], [500, 500], [5, 3]),
        (["gr5", "gr3"], [None, 300], [5, 3]),
        (["a1b2", "a3b4"], [None, None], [1, 2]),
        (["x", "y"], [None, None], [1, 2]),
        (["gr05", "gr5"], [None, None], [1, 2]),
        ([f"gr{2**63}", "gr1"], [None, None], [1, 2]),
        (["0000", "0001"], [4, 4], [0, 1]),
    ],
)
def test_numbers_without_a_table(names, header_keys, keys):
    headers = [header(float(k), reqkey=key) for k, key in enumerate(header_keys, 1)]
    found = match_aors([files(name) for name in names], None, headers)
    assert found.name == tuple(names)
    assert found.reqkey.tolist() == keys
    assert found.reqkey.dtype == np.int64


def test_channels_of_one_aor_share_its_number():
    mosaics = [files("gr1"), files("gr1", "ch2"), files("gr2")]
    headers = [header(2.0, reqkey=9), header(2.1, reqkey=9), header(1.0, reqkey=8)]
    found = match_aors(mosaics, None, headers)
    assert (found.name, found.reqkey.tolist()) == (("gr2", "gr1"), [8, 9])
    np.testing.assert_array_equal(found.mjd, [[1.0, np.nan], [2.0, 2.1]])


@given(
    st.lists(
        st.tuples(st.integers(1, 999), st.floats(1, 9e4)), min_size=1, unique_by=lambda t: t[0]
    )
)
def test_the_order_is_that_of_time_whatever_the_order_of_files(rows):
    mosaics = [files(f"gr{number}") for number, _ in rows]
    found = match_aors(mosaics, None, [header(mjd) for _, mjd in rows])
    expected = sorted((mjd, number) for number, mjd in rows)
    assert found.reqkey.tolist() == [number for _, number in expected]
    assert found.mjd[:, 0].tolist() == [mjd for mjd, _ in expected]
