from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorstore as ts
import xarray as xr
import zarr
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from idfzarr.errors import (
    ChunkCorrupt,
    ChunkMissing,
    ForeignStore,
    FormatVersionError,
    MetadataCorrupt,
    SettingsDiffer,
    ShardCorrupt,
    ShardCut,
    StorageFull,
    StoreExists,
    StoreMissing,
    UnfinishedStore,
    UnknownName,
    UsageError,
)
from idfzarr.store.cube import Cube, create
from idfzarr.store.place import PARTIAL, LocalPlace, RemotePlace, place_of
from idfzarr.store.root import settings_digest
from idfzarr.store.writer import CubeWriter

TYPES = ["ch1_auto_original", "ch2_aper2_clean"]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Spare the disk: what fsync is for is tested by the order of the calls, in test_cube.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def tables(objects=5, aors=6):
    return {
        "objects": {
            "object_id": np.arange(objects)[::-1] * 3 + 1,
            "ra": np.linspace(265, 266, objects),
            "dec": np.linspace(69, 70, objects),
            "detected_in": np.array(["ch1", "ch1+ch2"] * objects)[:objects],
        },
        "types": TYPES,
        "aors": {
            "aor": np.arange(aors)[::-1] + 100,
            "aor_name": [f"gr{n}" for n in range(aors)],
            "mjd_ch1": 53000.0 + np.arange(aors),
            "mjd_ch2": 53000.5 + np.arange(aors),
            "exptime": np.full(aors, 100.0),
            "quality": np.arange(aors) % 3,
        },
    }


def measured(objects, types, aors, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(objects, types, 3, aors)).astype(np.float32)
    values[:, :, 2] = rng.integers(0, 8, size=(objects, types, aors))
    return values


def write(cube, values, first=0):
    flux, err, flag = (values[:, :, v] for v in range(3))
    cube.write_block(first, flux=flux, flux_err=err, flag=flag)


def partials(folder):
    return [p for p in Path(folder).rglob("*") if p.name.endswith(PARTIAL)]


# ------------------------------------------------------------------ creating


def test_a_created_cube_keeps_the_order_and_the_tables_given(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    assert cube.objects.tolist() == [13, 10, 7, 4, 1]
    assert cube.aors.tolist() == [105, 104, 103, 102, 101, 100]
    assert cube.types == tuple(TYPES)
    assert cube.channels == ("ch1", "ch2")
    assert cube.shape == (5, 2, 3, 6)
    assert cube.coordinate("mjd")[2].tolist() == [53002.0, 53002.5]
    assert cube.coordinate("exptime").shape == (6, 2)
    assert cube.coordinate("quality").tolist() == [0, 1, 2, 0, 1, 2]
    assert cube.coordinate("type_method").tolist() == ["auto", "aper2"]
    assert np.isnan(cube.coordinate("x")).all()
    assert cube.table("catalogue")["detected_in"].tolist() == ["ch1", "ch1+ch2"] * 2 + ["ch1"]


@pytest.mark.parametrize("kind", ["dict", "astropy", "pandas"])
def test_tables_of_every_kind_will_do(tmp_path, kind):
    given = tables()
    if kind == "astropy":
        given["objects"] = Table(given["objects"])
        given["objects"]["mag"] = MaskedColumn([1.0, 2.0, 3.0, 4.0, 5.0], mask=[0, 1, 0, 0, 0])
        given["aors"] = Table(given["aors"])
    if kind == "pandas":
        given["objects"], given["aors"] = (
            pd.DataFrame(given["objects"]),
            pd.DataFrame(given["aors"]),
        )
    cube = create(tmp_path / "a.zarr", **given)
    assert cube.objects.tolist() == [13, 10, 7, 4, 1]
    assert cube.coordinate("aor_name").tolist() == [f"gr{n}" for n in range(6)]
    if kind == "astropy":
        assert np.isnan(cube.table("catalogue")["mag"]).tolist() == [False, True, *[False] * 3]


def replaced(**changes):
    out = tables()
    for name, change in changes.items():
        out[name] = out[name] | change if isinstance(change, dict) else change
    return out


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            replaced(objects={"object_id": [1, 2, 2, 3, 3]}),
            "unique, but 2 stand more than once: 2, 3",
        ),
        (replaced(objects={"object_id": [1.5, 2, 3, 4, 5]}), "must be whole numbers"),
        (replaced(objects={"object_id": list("abcde")}), "must be whole numbers"),
        (replaced(objects={"ra": [1.0]}), "must be equally long"),
        (replaced(objects=7), "a int is no table"),
        (replaced(aors={"aor": [1, 1, 2, 3, 4, 5]}), "reqkeys must be unique"),
        (replaced(types=["a_b", "a_b"]), "one or more different names"),
        (replaced(types=[]), "one or more different names"),
        (replaced(types="ch1_auto_original"), "must be a sequence of names"),
    ],
    ids=["twice", "halves", "text", "lengths", "number", "aors", "types", "none", "string"],
)
def test_tables_that_cannot_be_used_are_refused_and_nothing_is_made(tmp_path, given, reason):
    with pytest.raises(UsageError, match=reason):
        create(tmp_path / "a.zarr", **given)
    assert list(tmp_path.iterdir()) == []


def test_missing_columns_are_named(tmp_path):
    given = tables()
    del given["aors"]["mjd_ch2"]
    with pytest.raises(UsageError, match="has 'mjd_ch1' but not 'mjd_ch2'"):
        create(tmp_path / "a.zarr", **given)
    with pytest.raises(UsageError, match="needs a column 'object_id'; it has ra"):
        create(tmp_path / "a.zarr", **(tables() | {"objects": {"ra": [1.0]}}))
    with pytest.raises(UsageError, match="is of channel 'u', but the channels are g, r"):
        create(tmp_path / "a.zarr", **(tables() | {"types": ["u_x"], "channels": ["g", "r"]}))
    with pytest.raises(UsageError, match="no codec 'gzip'"):
        create(tmp_path / "a.zarr", codec="gzip", **tables())


def test_a_store_is_replaced_only_when_asked_and_a_foreign_folder_never(tmp_path):
    path = tmp_path / "a.zarr"
    first = create(path, **tables())
    with pytest.raises(StoreExists, match="overwrite=True"):
        create(path, **tables())
    assert create(path, overwrite=True, **tables(objects=2)).uuid != first.uuid
    assert Cube(path).shape[0] == 2
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "me.jpg").write_bytes(b"x")
    for overwrite in (False, True):
        with pytest.raises(ForeignStore, match="nothing there is touched"):
            create(foreign, overwrite=overwrite, **tables())
    zarr.create_group(tmp_path / "other.zarr").attrs["a"] = 1
    with pytest.raises(ForeignStore, match="none of idfzarr"):
        create(tmp_path / "other.zarr", overwrite=True, **tables())
    assert [p.name for p in foreign.iterdir()] == ["me.jpg"]
    assert zarr.open_group(tmp_path / "other.zarr").attrs["a"] == 1


# ------------------------------------------------------------------ reading


def test_a_lightcurve_carries_what_stands_beside_the_cube(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    values = measured(5, 2, 6)
    write(cube, values)
    writer = cube.writer
    writer.write_coordinate("zeropoint", np.arange(12, dtype=np.float32).reshape(2, 6))
    writer.write_coordinate("bjd_tdb", np.arange(12.0).reshape(6, 2))
    writer.publish()
    lc = Cube(tmp_path / "a.zarr").lightcurve(7, TYPES[1])
    assert np.array_equal(np.stack([lc.flux, lc.flux_err, lc.flag]), values[2, 1])
    assert lc.flag.dtype == np.uint16
    assert lc.mjd.tolist() == (53000.5 + np.arange(6)).tolist()
    assert lc.zeropoint.tolist() == [6, 7, 8, 9, 10, 11]
    assert lc.bjd_tdb.tolist() == [1, 3, 5, 7, 9, 11]
    assert (lc.object_id, lc.type, lc.unit, lc.ra, lc.noise_scale) == (
        7,
        TYPES[1],
        "uJy",
        265.5,
        None,
    )
    lc.flux[0] = 5  # a lightcurve is the caller's own


def test_many_lightcurves_come_object_by_object(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    values = measured(5, 2, 6)
    write(cube, values)
    got = cube.lightcurves([1, 13])
    assert [(lc.object_id, lc.type) for lc in got] == [(i, t) for i in (1, 13) for t in TYPES]
    assert np.array_equal(got[2].flux, values[0, 0, 0])
    assert [lc.type for lc in cube.lightcurves([4], "ch2_*")] == TYPES[1:]
    assert cube.lightcurves([np.int64(4)], "ch2_*")[0].object_id == 4


def test_unknown_names_come_with_the_nearest(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    with pytest.raises(UnknownName, match="no object 5; there are 5; nearest: 1, 4, 7"):
        cube.values(5, TYPES[0])
    with pytest.raises(
        UnknownName, match="no type 'ch1_auto_orginal'; nearest: 'ch1_auto_original'"
    ):
        cube.lightcurve(4, "ch1_auto_orginal")
    with pytest.raises(UnknownName, match="objects are named by whole numbers"):
        cube.values("4", TYPES[0])
    with pytest.raises(UnknownName, match=r"no object \[4\]"):
        cube.values([4], TYPES[0])
    with pytest.raises(UnknownName, match="no type matches 'ch3"):
        cube.lightcurves([4], "ch3_*")
    with pytest.raises(UnknownName, match="no coordinate 'mjds'; nearest: 'mjd'"):
        cube.coordinate("mjds")
    with pytest.raises(UnknownName, match="no table 'catalog'; nearest: 'catalogue'"):
        cube.table("catalog")


def test_other_packages_read_the_same_without_a_warning(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    values = measured(5, 2, 6)
    write(cube, values)
    with xr.open_zarr(cube.path) as ds:
        assert np.array_equal(ds["lightcurves"].to_numpy(), values)
        assert ds["object"].to_numpy().tolist() == [13, 10, 7, 4, 1]
        assert ds["type"].to_numpy().tolist() == TYPES
        assert set(ds.coords) == set(cube.coordinate_names)
        picked = ds["lightcurves"].sel(object=7, type=TYPES[1], value="flux", aor=103)
        assert float(picked) == values[2, 1, 0, 2]
        assert ds["mjd"].dims == ("aor", "channel")
        assert ds["mjd"].attrs["units"] == "d"
        assert ds["lightcurves"].attrs["type"] == TYPES
        assert ds["lightcurves"].attrs["aor_name"] == [f"gr{n}" for n in range(6)]
        assert len(ds["lightcurves"].attrs["flag_masks"]) == len(
            ds["lightcurves"].attrs["flag_meanings"].split()
        )
    with xr.open_zarr(cube.path, group="catalogue") as catalogue:
        assert catalogue["object_id"].to_numpy().tolist() == cube.objects.tolist()
    for name in (n for n in cube.coordinate_names if cube.coordinate(n).dtype.kind in "if"):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{cube.path}/{name}/"}}
        stored = ts.open(spec).result().read().result()
        assert np.array_equal(stored, cube.coordinate(name), equal_nan=True)
    plain = zarr.open_group(cube.path, mode="r", use_consolidated=False)
    joined = zarr.open_group(cube.path, mode="r")
    assert sorted(plain) == sorted(joined)
    for name in cube.coordinate_names:
        assert np.array_equal(
            plain[name][...], joined[name][...], equal_nan=plain[name].dtype.kind == "f"
        )


def test_every_array_ends_in_crc32c_and_is_chunked_by_the_capacity(tmp_path):
    cube = create(tmp_path / "a.zarr", capacity=40, **tables())
    nodes = cube._root.metadata
    arrays = {p: n for p, n in nodes.items() if n["node_type"] == "array"}
    assert len(arrays) > 15
    for path, node in arrays.items():
        codecs = node["codecs"]
        if codecs[0]["name"] == "sharding_indexed":
            inner = codecs[0]["configuration"]
            assert inner["index_codecs"][-1]["name"] == inner["codecs"][-1]["name"] == "crc32c"
        else:
            assert codecs[-1]["name"] == "crc32c", path
        if "aor" in node["dimension_names"]:
            along = node["dimension_names"].index("aor")
            assert node["chunk_grid"]["configuration"]["chunk_shape"][along] == 40
            assert node["shape"][along] == 6
        own = json.loads((Path(cube.path) / path / "zarr.json").read_text())
        assert own == node


# ------------------------------------------------------------------ writing


@settings(max_examples=10)
@given(st.integers(1, 9), st.integers(1, 4), st.sampled_from(["lz4", "zstd", "none"]), st.data())
def test_what_is_written_in_any_pieces_is_read(tmp_path_factory, objects, shard, codec, data):
    path = tmp_path_factory.mktemp("c") / "a.zarr"
    given = tables(objects=objects)
    cube = create(path, shard_objects=shard, codec=codec, **given)
    values = np.full((objects, 2, 3, 6), np.nan, np.float32)
    n_shards = cube.schema.layout.n_shards
    for seed in range(3):
        k = data.draw(st.integers(0, n_shards - 1))
        end = data.draw(st.integers(k + 1, n_shards))
        first, last = cube.schema.layout.rows(k)[0], cube.schema.layout.rows(end - 1)[1]
        values[first:last] = measured(last - first, 2, 6, seed=seed)
        write(cube, values[first:last], first)
        row = data.draw(st.integers(0, objects - 1))
        one = measured(1, 1, 6, seed=seed + 50)[0, 0]
        cube.write_lightcurve(
            int(cube.objects[row]), TYPES[1], flux=one[0], flux_err=one[1], flag=one[2]
        )
        values[row, 1] = one
        assert np.array_equal(cube.block(), values, equal_nan=True)
    assert np.array_equal(Cube(path).block(), values, equal_nan=True)


def test_a_flux_that_is_not_there_says_why(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    cube.write_lightcurve(
        7, TYPES[0], flux=[1, np.nan, np.inf, 4, 5, np.nan], flag=[0, 0, 0, 0, 2, 8]
    )
    lc = cube.lightcurve(7, TYPES[0])
    assert lc.flag.tolist() == [0, 256, 256, 0, 2, 8]
    assert np.isnan(lc.flux_err).all()
    assert cube.lightcurve(7, TYPES[1]).flag.tolist() == [512] * 6


def test_blocks_that_do_not_fit_are_refused_and_nothing_changes(tmp_path):
    cube = create(tmp_path / "a.zarr", shard_objects=2, **tables())
    values = measured(5, 2, 6)
    write(cube, values)
    with pytest.raises(ShardCut, match="rows 0 to 4 or rows 2 to 4"):
        write(cube, values[:3] * 2, 1)
    with pytest.raises(UsageError, match="is \\(object, 2, 6\\), not"):
        cube.write_block(0, flux=np.zeros((2, 2, 5)))
    with pytest.raises(UsageError, match="must have one shape"):
        cube.write_block(0, flux=np.zeros((2, 2, 6)), flag=np.zeros(3))
    with pytest.raises(UsageError, match="whole numbers from 0 to 65535"):
        cube.write_lightcurve(7, TYPES[0], flux=np.zeros(6), flag=[0, 0, 0, 0, 0, 65536])
    with pytest.raises(UsageError, match="has 6 AORs"):
        cube.write_lightcurve(7, TYPES[0], flux=np.zeros(7))
    with pytest.raises(UsageError, match="open for reading only"):
        Cube(cube.path).write_lightcurve(7, TYPES[0], flux=np.zeros(6))
    with pytest.raises(UsageError, match="mode 'r' or 'r\\+', not 'w'"):
        Cube(cube.path, mode="w")
    assert np.array_equal(Cube(cube.path).block(), values)


def test_precision_rounds_flux_and_error_and_never_the_flag(tmp_path):
    cube = create(tmp_path / "a.zarr", precision=0.01, **tables())
    values = measured(5, 2, 6)
    values[:, :, 1] = np.abs(values[:, :, 1]) + 0.1
    write(cube, values)
    again = Cube(cube.path, mode="r+")
    assert again.schema.precision == 0.01
    got = again.block()
    assert not np.array_equal(got[:, :, 0], values[:, :, 0])
    assert (np.abs(got[:, :, 0] - values[:, :, 0]) <= 0.0101 * values[:, :, 1]).all()
    assert np.array_equal(got[:, :, 2], values[:, :, 2])
    write(again, got)
    assert np.array_equal(Cube(cube.path).block(), got)
    with pytest.raises(UsageError, match="a precision of 2 error bars"):
        create(tmp_path / "b.zarr", precision=2, **tables())


def one_shard(arguments):
    writer, shard, values = arguments
    return writer.write_shard(shard, values).fields["key"]


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_writers_of_disjoint_shards_lose_nothing(tmp_path, kind):
    cube = create(tmp_path / "a.zarr", shard_objects=2, **tables(objects=15))
    values = measured(15, 2, 6)
    writer = pickle.loads(pickle.dumps(cube.writer))
    tasks = [(writer, k, values[2 * k : 2 * k + 2]) for k in range(8)]
    if kind == "threads":
        with ThreadPoolExecutor(4) as pool:
            keys = list(pool.map(one_shard, tasks))
    else:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            keys = pool.map(one_shard, tasks)
    assert len(set(keys)) == 8
    assert writer.done(verify=True) == set(range(8))
    assert writer.state().damaged == ()
    assert np.array_equal(Cube(cube.path).block(), values)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_one_sentence_and_leaves_the_old_shard(tmp_path, monkeypatch, call, code):
    cube = create(tmp_path / "a.zarr", **tables())
    values = measured(5, 2, 6)
    write(cube, values)
    plain = getattr(os, call)

    def full(handle, *rest):
        if "lightcurves" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(code, os.strerror(code))
        return plain(handle, *rest)

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageFull, match=r"no room for \d+ bytes of .*lightcurves/c/0/0/0/0") as e:
        write(cube, values + 1)
    assert e.value.errno == code
    monkeypatch.undo()
    assert partials(tmp_path) == []
    assert np.array_equal(Cube(cube.path).block(), values)
    state = cube.writer.state()
    assert (
        state.intents["lightcurves/c/0/0/0/0"].time_ns > state.done["lightcurves/c/0/0/0/0"].time_ns
    )


def test_a_file_is_on_disk_before_it_has_its_name_and_the_name_before_we_go_on(
    tmp_path, monkeypatch
):
    calls = []

    def sync(handle):
        calls.append(("fsync", Path(f"/proc/self/fd/{handle}").readlink().name))

    def replace(source, target, plain=os.replace):
        calls.append(("replace", Path(source).name, Path(target).name))
        plain(source, target)

    place = LocalPlace(str(tmp_path / "s"))
    place.write("a/first", b"1")
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    place.write("a/b", b"2")
    partial = calls[0][1]
    assert partial.startswith("b.")
    assert partial.endswith(PARTIAL)
    assert calls == [("fsync", partial), ("replace", partial, "b"), ("fsync", "a")]
    calls.clear()
    place.write("new/c", b"3")
    assert calls[0] == ("fsync", "s")  # the new folder's own entry
    assert len(calls) == 4


def test_a_shard_has_its_intent_on_disk_before_its_name(tmp_path, monkeypatch):
    cube = create(tmp_path / "a.zarr", **tables())
    order = []

    def replace(source, target, plain=os.replace):
        kinds = [r.kind for r in cube.writer.state().of("intent", "done")]
        order.append((Path(target).name, kinds))
        plain(source, target)

    monkeypatch.setattr(os, "replace", replace)
    write(cube, measured(5, 2, 6))
    assert order == [("0", ["intent"])]
    assert [r.kind for r in cube.writer.state().of("intent", "done")] == ["intent", "done"]


def test_other_failures_of_the_disk_are_not_called_full(tmp_path, monkeypatch):
    place = LocalPlace(str(tmp_path))
    place.write("a/b", b"old")

    def broken(source, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        place.write("a/b", b"new")
    assert not isinstance(caught.value, StorageFull)
    assert place.read("a/b") == b"old"
    assert partials(tmp_path) == []


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a//b", "a/../b", "", "a\\b", "a\0b", "."])
def test_no_key_leads_out_of_the_store(tmp_path, key):
    for place in (LocalPlace(str(tmp_path / "s")), RemotePlace("memory://out")):
        if key or isinstance(place, LocalPlace):
            with pytest.raises(UsageError, match="cannot be a key"):
                place.write(key, b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_cube_lives_on_object_storage_too():
    cube = create("memory://bucket/a.zarr", shard_objects=2, **tables())
    values = measured(5, 2, 6)
    write(cube, values)
    again = Cube("memory://bucket/a.zarr")
    assert np.array_equal(again.block(), values)
    assert np.array_equal(again.values(7, TYPES[1]), values[2, 1])
    assert cube.writer.done(verify=True) == {0, 1, 2}
    with pytest.raises(StoreMissing, match=r"no store at memory://bucket/b.zarr"):
        Cube("memory://bucket/b.zarr")
    create("memory://bucket/a.zarr", overwrite=True, **tables(objects=1))
    assert Cube("memory://bucket/a.zarr").shape[0] == 1


# ------------------------------------------------------------------ opening


def test_what_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(StoreMissing, match=r"there is no store at"):
        Cube(tmp_path / "nothing.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreMissing, match=r"there is no store at"):
        Cube(tmp_path / "empty")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises((StoreMissing, ForeignStore), match="no store"):
        Cube(tmp_path / "file")
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(ForeignStore, match=r"no zarr\.json at its root"):
        Cube(tmp_path / "empty")
    zarr.create_group(tmp_path / "g.zarr")
    with pytest.raises(ForeignStore, match="has no attribute 'idfzarr'"):
        Cube(tmp_path / "g.zarr")
    CubeWriter.begin(tmp_path / "begun.zarr", settings={})
    with pytest.raises(UnfinishedStore, match="run the build again"):
        Cube(tmp_path / "begun.zarr")
    with pytest.raises(UsageError, match="path of the store is empty"):
        place_of("")


def edited(path, change):
    file = Path(path) / "zarr.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize("found", [0, 2, "1", None])
def test_another_format_names_the_command_that_migrates(tmp_path, found):
    cube = create(tmp_path / "a.zarr", **tables())
    edited(cube.path, lambda d: d["attributes"]["idfzarr"].update(format=found))
    with pytest.raises(FormatVersionError, match=r"run `idfzarr migrate .*a.zarr NEW`"):
        Cube(cube.path)


def test_no_changed_number_in_the_root_is_believed(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    file = Path(cube.path) / "zarr.json"
    good = file.read_bytes()
    rng = np.random.default_rng(1)
    seen = set()
    for byte in rng.permutation(len(good))[:400]:
        bad = bytearray(good)
        bad[byte] ^= 1 << int(rng.integers(7))
        file.write_bytes(bad)
        try:
            again = Cube(cube.path)
        except (MetadataCorrupt, ForeignStore, FormatVersionError) as error:
            seen.add(type(error))
        else:
            # White space, or an attribute that is not ours to vouch for.
            assert again._root.metadata == cube._root.metadata
            assert again._root.ours == cube._root.ours
    assert MetadataCorrupt in seen


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("consolidated_metadata"),
        lambda d: d["consolidated_metadata"].pop("metadata"),
        lambda d: d["consolidated_metadata"]["metadata"].pop("mjd"),
        lambda d: d["attributes"]["idfzarr"].pop("metadata_crc32c"),
        lambda d: d["attributes"]["idfzarr"].update(uuid="another"),
        lambda d: d["consolidated_metadata"].update(metadata=[]),
    ],
    ids=["no-arrays", "no-metadata", "no-mjd", "no-crc", "other-uuid", "list"],
)
def test_a_root_that_was_changed_is_refused(tmp_path, change):
    cube = create(tmp_path / "a.zarr", **tables())
    edited(cube.path, change)
    with pytest.raises(MetadataCorrupt, match="repair the store"):
        Cube(cube.path)


def test_attributes_that_a_user_adds_do_no_harm(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    edited(cube.path, lambda d: d["attributes"].update(note="seen by me"))
    again = Cube(cube.path, mode="r+")
    assert again.attributes["note"] == "seen by me"
    again.writer.publish(complete=False)
    assert Cube(cube.path).attributes["note"] == "seen by me"


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["lightcurves"]["shape"].__setitem__(0, 10**15),
        lambda m: m["lightcurves"]["chunk_grid"]["configuration"].update(chunk_shape=[10**12] * 4),
        lambda m: m["lightcurves"]["codecs"][0]["configuration"].update(
            chunk_shape=[1, 1, 3, 10**14]
        ),
        lambda m: m["object"].update(shape=[10**15]),
        lambda m: m["object"].update(shape=[-5]),
        lambda m: m["object"]["chunk_grid"]["configuration"].update(chunk_shape=[0]),
        lambda m: m["mjd"].update(shape=[3]),
        lambda m: m["aor_name"].update(shape=[10**13]),
        lambda m: m.pop("lightcurves"),
        lambda m: m.pop("mjd"),
        lambda m: m["mjd"].pop("codecs"),
        lambda m: m.update(lightcurves={"node_type": "array"}),
    ],
    ids=[
        *("objects", "shards", "capacity", "ids", "negative", "no-chunk", "mjd", "names"),
        *("no-cube", "no-mjd", "no-codecs", "no-shape"),
    ],
)
def test_hostile_metadata_with_a_fitting_crc_is_refused(tmp_path, monkeypatch, change):
    cube = create(tmp_path / "a.zarr", **tables())
    from idfzarr.store.root import root_bytes

    metadata = json.loads(json.dumps(cube._root.metadata))
    change(metadata)
    (Path(cube.path) / "zarr.json").write_bytes(root_bytes(cube._root.ours, metadata))
    with pytest.raises(
        (MetadataCorrupt, ChunkCorrupt, ChunkMissing), match=r"a\.zarr|array|absurd"
    ):
        Cube(cube.path)


def test_a_damaged_coordinate_is_found_on_opening(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    for name in ("ra", "aor_name", "mjd", "object"):
        file = next(p for p in (Path(cube.path) / name / "c").rglob("*") if p.is_file())
        good = file.read_bytes()
        file.write_bytes(good[:-6] + bytes([good[-6] ^ 4]) + good[-5:])
        with pytest.raises(ChunkCorrupt, match=rf"a chunk of '{name}' is damaged"):
            Cube(cube.path)
        file.unlink()
        with pytest.raises(ChunkMissing, match=rf"a chunk of '{name}' is missing"):
            Cube(cube.path)
        file.write_bytes(good)
    assert Cube(cube.path).shape == (5, 2, 3, 6)


# ------------------------------------------------------------------ building


def begun(path, *, staging_aors=4, **how):
    return CubeWriter.begin(path, settings={"types": "*"}).lay_out(
        shard_objects=2, staging_aors=staging_aors, **(tables(aors=10) | how)
    )


def stage(writer, values):
    for batch in range(writer.n_batches):
        first, last = writer.batch_aors(batch)
        block = values[..., first:last].transpose(3, 0, 1, 2)
        writer.write_staging(batch, np.ascontiguousarray(block), sources=[{"path": "x", "size": 1}])


def test_a_build_goes_through_staging_and_is_seen_only_when_published(tmp_path):
    path = tmp_path / "a.zarr"
    writer = begun(path)
    values = measured(5, 2, 10)
    stage(writer, values)
    assert writer.staged(verify=True) == {0, 1, 2}
    assert np.array_equal(writer.read_staging(2), values[4:].transpose(3, 0, 1, 2))
    for shard in (2, 0):
        writer.write_shard(shard, writer.assemble(shard))
        with pytest.raises(UnfinishedStore, match="not finished"):
            Cube(path)
    with pytest.raises(ChunkMissing, match=r"1 of 3 shards of .* \(lightcurves/c/1/0/0/0\)"):
        writer.publish()
    writer.write_shard(1, writer.assemble(1))
    writer.write_table("variability", {"n": np.full((5, 2), 10)}, dims=("object", "type"))
    writer.publish()
    assert np.array_equal(Cube(path).block(), values)
    assert Cube(path).table("variability")["n"].dtype == np.int64
    assert not (path / "staging").exists()
    assert [r.kind for r in writer.state().of("published", "removed")] == ["published", "removed"]
    assert writer.is_published


def test_a_build_that_stopped_goes_on_and_gives_the_same_bytes(tmp_path):
    values = measured(5, 2, 10)

    def whole(path):
        writer = begun(path)
        stage(writer, values)
        for shard in range(3):
            writer.write_shard(shard, writer.assemble(shard))
        writer.publish()
        return writer

    whole(tmp_path / "a.zarr")
    stopped = begun(tmp_path / "b.zarr")
    block = np.ascontiguousarray(values[..., :4].transpose(3, 0, 1, 2))
    stopped.write_staging(0, block)
    again = begun(tmp_path / "b.zarr")
    assert again == stopped
    assert again.staged() == {0}
    stage(again, values)
    again.write_shard(1, again.assemble(1))
    assert begun(tmp_path / "b.zarr").done() == {1}
    assert whole(tmp_path / "b.zarr").uuid == stopped.uuid
    files = {}
    for name in ("a.zarr", "b.zarr"):
        root = tmp_path / name
        files[name] = {
            str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()
        }
    roots = [json.loads(files[n].pop("zarr.json")) for n in files]
    assert len(files["a.zarr"]) > 40
    assert files["a.zarr"] == files["b.zarr"]
    for root in roots:
        for key in ("uuid", "created", "metadata_crc32c"):
            root["attributes"]["idfzarr"].pop(key)
    assert roots[0] == roots[1]


def test_a_resumed_build_with_other_settings_or_objects_is_refused(tmp_path):
    path = tmp_path / "a.zarr"
    writer = begun(path)
    with pytest.raises(SettingsDiffer, match=r"types: '\*' then, 'ch1_\*' now"):
        CubeWriter.begin(path, settings={"types": "ch1_*"})
    with pytest.raises(UsageError, match="settings must be JSON"):
        CubeWriter.begin(path, settings={"x": float("nan")})
    assert begun(path, objects={"object_id": [1, 2]}).schema.layout.n_objects == 2
    writer = begun(path)
    stage(writer, measured(5, 2, 10))
    with pytest.raises(SettingsDiffer, match="other objects, types or AORs"):
        begun(path, objects={"object_id": [1, 2]})
    for shard in range(3):
        writer.write_shard(shard, writer.assemble(shard))
    writer.publish()
    assert Cube(path).attributes["idfzarr"]["settings_digest"] == settings_digest({"types": "*"})
    shutil.rmtree(f"{path}.ledger")
    assert CubeWriter.begin(path, settings={"types": "*"}).uuid == writer.uuid
    with pytest.raises(SettingsDiffer, match="begun with other settings"):
        CubeWriter.begin(path, settings={})


def test_damaged_or_missing_staging_is_told(tmp_path):
    writer = begun(tmp_path / "a.zarr")
    values = measured(5, 2, 10)
    with pytest.raises(ChunkMissing, match="batch 0 of the AORs is not staged"):
        writer.assemble(0)
    stage(writer, values)
    file = tmp_path / "a.zarr" / "staging" / "c" / "1" / "0" / "0" / "0"
    good = file.read_bytes()
    file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(ChunkCorrupt, match="the staging of shard 0 in"):
        writer.assemble(0)
    assert writer.staged() == {0, 1, 2}
    assert writer.staged(verify=True) == {0, 2}
    file.write_bytes(good[:-1])
    assert writer.staged() == {0, 2}
    with pytest.raises(ShardCorrupt, match="crc32c"):
        writer.assemble(2)
    with pytest.raises(UsageError, match=r"has shape \(2, 5, 2, 3\), not"):
        writer.write_staging(2, np.zeros((4, 5, 2, 3), np.float32))
    with pytest.raises(UsageError, match="no batch 3: there are 3"):
        writer.batch_aors(3)
    with pytest.raises(UsageError, match="no layout yet"):
        CubeWriter.begin(tmp_path / "new.zarr").write_shard(0, values)


def test_staging_is_a_zarr_array_too(tmp_path):
    writer = begun(tmp_path / "a.zarr")
    values = measured(5, 2, 10)
    stage(writer, values)
    array = zarr.open_array(tmp_path / "a.zarr" / "staging", mode="r")
    assert np.array_equal(array[...], values.transpose(3, 0, 1, 2))


def test_a_shard_is_done_only_for_as_many_aors_as_it_holds(tmp_path):
    writer = begun(tmp_path / "a.zarr")
    for shard in range(3):
        first, last = writer.schema.layout.rows(shard)
        writer.write_shard(shard, np.zeros((last - first, 2, 3, 10), np.float32))
    assert writer.done() == {0, 1, 2}
    file = tmp_path / "a.zarr" / "lightcurves" / "c" / "1" / "0" / "0" / "0"
    good = file.read_bytes()
    file.write_bytes(good[:5] + bytes([good[5] ^ 1]) + good[6:])
    assert writer.done() == {0, 1, 2}
    assert writer.done(verify=True) == {0, 2}
    file.write_bytes(b"")
    assert writer.done() == {0, 2}


def write_ten(arguments):
    path, column = arguments
    cube = Cube(path, mode="r+")
    for i in cube.objects:
        cube.write_lightcurve(int(i), cube.types[column], flux=np.full(6, int(i) + column))


def test_two_processes_writing_lightcurves_of_one_shard_lose_none(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(write_ten, [(cube.path, 0), (cube.path, 1)])
    expected = cube.objects[:, None] + np.arange(2)
    assert np.array_equal(Cube(cube.path).block()[:, :, 0, 0], expected)


def test_a_table_that_cannot_be_used_does_not_cost_the_old_store(tmp_path):
    old = create(tmp_path / "a.zarr", **tables())
    with pytest.raises(UsageError, match="needs a column 'aor'"):
        create(tmp_path / "a.zarr", overwrite=True, **(tables() | {"aors": {"mjd": [1.0]}}))
    assert Cube(tmp_path / "a.zarr").uuid == old.uuid


def test_a_ledger_of_a_store_that_stood_here_before_is_not_believed(tmp_path):
    values = measured(5, 2, 6)
    for name in ("a.zarr", "b.zarr"):
        write(create(tmp_path / name, **tables()), values)
    other = Cube(tmp_path / "b.zarr")
    shutil.rmtree(tmp_path / "a.zarr")
    shutil.copytree(tmp_path / "b.zarr", tmp_path / "a.zarr")
    copied = Cube(tmp_path / "a.zarr", mode="r+")
    assert copied.uuid == other.uuid
    assert copied.writer.done() == set()
    assert CubeWriter.begin(tmp_path / "a.zarr").uuid == other.uuid
    assert len(copied.writer.state().records) == 0
    write(copied, values + 8)
    assert copied.writer.done(verify=True) == {0}


def test_a_published_store_that_lost_its_root_or_all_of_it_is_told_apart(tmp_path):
    cube = create(tmp_path / "a.zarr", **tables())
    (tmp_path / "a.zarr" / "zarr.json").unlink()
    with pytest.raises(MetadataCorrupt, match="was published, but its root"):
        Cube(cube.path)
    shutil.rmtree(tmp_path / "a.zarr")
    with pytest.raises(StoreMissing, match="there is no store"):
        Cube(cube.path)
