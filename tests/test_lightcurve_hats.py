"""A whole cube as partitions: every number, in bounded memory, and again after a stop."""

from __future__ import annotations

import csv
import json
import math
import shutil

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from exported_cube import TYPES, A, N, make_cube
from numpy.testing import assert_array_equal

from idfzarr.care.lightcurve_export import export_lightcurves
from idfzarr.care.lightcurve_hats import healpix_29
from idfzarr.errors import StorageFull, StoreExists
from idfzarr.flags import BAD_FLAGS
from idfzarr.store.cube import Cube
from idfzarr.store.place import try_lock

PARTS = [f"shard={n}/part.parquet" for n in range(3)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_cube(tmp_path_factory.mktemp("hats") / "field.zarr")


def export(made, folder, **how):
    return export_lightcurves(made.path, folder, format="hats", **how)


def rows_in(folder):
    """Return one dictionary for each row, as pyarrow's dataset finds them, and its shards."""
    table = pads.dataset(folder / "dataset", partitioning="hive").to_table()
    return table.to_pylist()


def check_rows(made, rows, keep=None):
    by_key = {(row["object"], row["type"]): row for row in rows}
    assert len(by_key) == len(rows) == N * 3
    for o, number in enumerate(made.ids):
        for t, type_ in enumerate(TYPES):
            row = by_key[int(number), type_]
            assert (row["ra"], row["dec"]) == (made.ra[o], made.dec[o])
            assert row["shard"] == o // 4
            assert row["unit"] == ("uJy", "uJy", "")[t]
            kept = np.ones(A, bool) if keep is None else keep[o, t]
            curve = row["lightcurve"]
            for name, truth in (("flux", made.flux), ("flux_err", made.err)):
                values = np.array(curve[name], np.float32)
                assert_array_equal(values, truth[o, t][kept])
            assert_array_equal(curve["flag"], made.flag[o, t][kept])
            assert_array_equal(curve["mjd"], made.mjd[kept])
            assert_array_equal(curve["bjd_tdb"], made.bjd[kept])
            assert_array_equal(curve["aor"], made.aor[kept])


def test_every_number_is_there(made, tmp_path):
    done = export(made, tmp_path / "h")
    assert (done.objects, done.lightcurves, done.rows) == (N, 3 * N, 3 * N * A)
    assert [one.path for one in done.files] == [str(tmp_path / "h/dataset" / p) for p in PARTS]
    check_rows(made, rows_in(tmp_path / "h"))
    schema = pq.read_schema(tmp_path / "h/dataset/_common_metadata")
    kind = schema.field("lightcurve").type
    assert str(kind.field("flux").type) == "list<element: float>"
    assert kind.field("flag").metadata[b"ucd"] == b"meta.code.qual"
    manifest = json.loads((tmp_path / "h/idfzarr.json").read_text())
    assert manifest["notes"]["store_uuid"] == Cube(made.path).uuid
    with (tmp_path / "h/partition_info.csv").open() as file:
        info = list(csv.DictReader(file))
    assert [int(row["lightcurves"]) for row in info] == [12, 12, 6]
    assert [int(row["bytes"]) for row in info] == [
        (tmp_path / "h/dataset" / p).stat().st_size for p in PARTS
    ]


def test_good_and_chosen(made, tmp_path):
    export(made, tmp_path / "g", good=True)
    keep = ((made.flag & BAD_FLAGS) == 0) & np.isfinite(made.flux)
    assert 0 < keep.sum() < keep.size
    check_rows(made, rows_in(tmp_path / "g"), keep)
    done = export(made, tmp_path / "c", objects=[int(made.ids[8]), int(made.ids[1])], types="ch1_*")
    assert [one.lightcurves for one in done.files] == [2, 2]
    assert {row["object"] for row in rows_in(tmp_path / "c")} == set(made.ids[[1, 8]].tolist())


def test_memory_is_bounded(made, tmp_path, monkeypatch):
    monkeypatch.setattr("idfzarr.care.lightcurve_hats._AT_ONCE", 3 * A)
    export(made, tmp_path / "h")
    footer = pq.read_metadata(tmp_path / "h/dataset" / PARTS[0])
    assert footer.num_row_groups == 4  # an object each
    check_rows(made, rows_in(tmp_path / "h"))


# ---------------------------------------------------------------- stopped, and again


def stop_after(count):
    def progress(label, done, total):
        if done == count:
            raise KeyboardInterrupt(label)

    return progress


def states(folder):
    return {p: (folder / "dataset" / p).stat().st_mtime_ns for p in PARTS}


def test_a_stopped_run_goes_on(made, tmp_path):
    with pytest.raises(KeyboardInterrupt, match="partitions"):
        export(made, tmp_path / "h", progress=stop_after(2))
    first = tmp_path / "h/dataset" / PARTS[0]
    before = first.stat().st_mtime_ns
    assert not (tmp_path / "h/dataset" / PARTS[2]).exists()
    # what a killed process leaves, and what another is writing just now
    left = first.with_name(".x.idfzarr.partial")
    left.write_bytes(b"half")
    second = tmp_path / "h/dataset" / PARTS[1]
    second.write_bytes(second.read_bytes()[:-9])
    done = export(made, tmp_path / "h")
    assert [one.result for one in done.files] == ["there", "written", "written"]
    assert first.stat().st_mtime_ns == before
    assert not left.exists()
    check_rows(made, rows_in(tmp_path / "h"))
    kept = states(tmp_path / "h")
    again = export(made, tmp_path / "h")
    assert {one.result for one in again.files} == {"there"}
    assert again.rows == 3 * N * A
    assert states(tmp_path / "h") == kept


def test_what_another_process_is_writing_stays(made, tmp_path):
    export(made, tmp_path / "h")
    held = tmp_path / "h/dataset/shard=0/.y.idfzarr.partial"
    with held.open("wb") as file:
        assert try_lock(file.fileno())
        export(made, tmp_path / "h")
        assert held.exists()
    check_rows(made, rows_in(tmp_path / "h"))  # readers pass over it


def test_a_shard_that_changed_is_written_again(made, tmp_path):
    store = tmp_path / "field.zarr"
    shutil.copytree(made.path, store)
    export_lightcurves(store, tmp_path / "h", format="hats")
    number = int(made.ids[5])
    Cube(store, mode="r+").write_lightcurve(number, TYPES[1], flux=np.arange(A))
    done = export_lightcurves(store, tmp_path / "h", format="hats")
    assert [one.result for one in done.files] == ["there", "written", "there"]
    (row,) = (r for r in rows_in(tmp_path / "h") if (r["object"], r["type"]) == (number, TYPES[1]))
    assert row["lightcurve"]["flux"] == list(range(A))


def test_partitions_made_otherwise_are_not_mixed(made, tmp_path):
    export(made, tmp_path / "h")
    for how in ({"good": True}, {"types": "ch1_*"}, {"objects": [int(made.ids[0])]}, {"mag": True}):
        with pytest.raises(StoreExists, match="made otherwise: name another folder, or add"):
            export(made, tmp_path / "h", **how)
    check_rows(made, rows_in(tmp_path / "h"))
    mine = tmp_path / "h/dataset/shard=1/notes.txt"
    mine.write_text("mine")
    done = export(made, tmp_path / "h", objects=[int(made.ids[0])], overwrite=True)
    assert done.objects == 1
    assert mine.read_text() == "mine"
    mine.unlink()
    assert {row["object"] for row in rows_in(tmp_path / "h")} == {int(made.ids[0])}


def test_a_folder_of_another_kind_is_refused(made, tmp_path):
    (tmp_path / "h").mkdir()
    (tmp_path / "h/thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(StoreExists, match="is no export of partitions"):
            export(made, tmp_path / "h", overwrite=overwrite)
    assert [p.name for p in (tmp_path / "h").iterdir()] == ["thesis.tex"]
    with pytest.raises(StoreExists, match="is no folder"):
        export(made, tmp_path / "h/thesis.tex")
    (tmp_path / "e").mkdir()
    assert export(made, tmp_path / "e").objects == N  # an empty folder is nobody's


def test_a_full_disk_leaves_nothing_half(made, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("idfzarr.care.lightcurve_hats.os.fsync", full)
    with pytest.raises(StorageFull, match="no room"):
        export(made, tmp_path / "h")
    monkeypatch.undo()
    assert list((tmp_path / "h").rglob("*.partial")) == []
    assert export(made, tmp_path / "h").rows == 3 * N * A


# ---------------------------------------------------------------- HEALPix


def nested(ra, dec, order):
    """Return a HEALPix pixel, NESTED, by the formulas of Gorski et al. 2005, section 4.

    Written from the paper in whole numbers and floats, to compare with.
    """
    z, t = math.sin(math.radians(dec)), (ra % 360) / 90
    n = 1 << order
    if abs(z) <= 2 / 3:
        up, down = n * (0.5 + t - z * 0.75), n * (0.5 + t + z * 0.75)
        a, b = math.floor(up), math.floor(down)
        fa, fb = a // n, b // n
        face = (fa % 4) + 4 if fa == fb else fa % 4 if fa < fb else (fb % 4) + 8
        x, y = b % n, n - (a % n) - 1
    else:
        quarter = int(t)
        s = n * math.sqrt(3 * (1 - abs(z)))
        a, b = min(n - 1, int((t - quarter) * s)), min(n - 1, int((1 - (t - quarter)) * s))
        face, x, y = (quarter, n - b - 1, n - a - 1) if z > 0 else (quarter + 8, a, b)
    bits = sum(((x >> k) & 1) << (2 * k) | ((y >> k) & 1) << (2 * k + 1) for k in range(order))
    return (face << (2 * order)) + bits


def test_healpix_pixels(made, tmp_path):
    rng = np.random.default_rng(3)
    ra = rng.uniform(0, 360, 3000)
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, 3000)))
    # rounding moves places by 1e-14, and pixels of order 29 are that small: their parents are told
    found = healpix_29(ra, dec) >> (2 * (29 - 20))
    assert_array_equal(found, [nested(*place, 20) for place in zip(ra, dec, strict=True)])
    assert len(set(found >> 40)) == 12
    assert healpix_29(45.0, 90.0) >> 58 == 0
    assert list(healpix_29([np.nan, 0.0], [0.0, np.nan])) == [-1, -1]
    export(made, tmp_path / "h")
    rows = {row["object"]: row for row in rows_in(tmp_path / "h")}
    for number, place in zip(made.ids, zip(made.ra, made.dec, strict=True), strict=True):
        assert rows[int(number)]["_healpix_29"] >> 18 == nested(*place, 20)
