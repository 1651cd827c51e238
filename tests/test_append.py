from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from pathlib import Path

import growing
import numpy as np
import pytest
import xarray as xr
import zarr
from growing import TYPES, as_cube, by_zarr, kill_and_resume, measured, same
from hypothesis import given, settings
from hypothesis import strategies as st

from idfzarr.errors import (
    ChunkCorrupt,
    ChunkMissing,
    SettingsDiffer,
    StoreMissing,
    UnknownName,
    UsageError,
)
from idfzarr.store.append import begin_append, begin_replace
from idfzarr.store.cube import Cube, create
from idfzarr.store.ledger import read_ledger
from idfzarr.store.place import LocalPlace, RemotePlace
from idfzarr.store.published import open_published
from idfzarr.store.relayout import abandon_update
from idfzarr.store.root import read_root
from idfzarr.store.shard import reduce_precision
from idfzarr.store.update import roll_forward, update_under_way
from idfzarr.store.writer import CubeWriter

OLD = [100, 101, 102, 103, 104]
NEW = [200, 201, 202, 203, 204, 205]


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Spare the disk: what fsync is for is tested by the order of the calls, in test_cube.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path):
    return str(growing.built(tmp_path / "a.zarr", OLD))


def holds(path, keys, types=TYPES, **options):
    """Check a store against what was measured, through both readers and xarray."""
    wanted = as_cube(measured(keys, types, **options))
    cube = Cube(path)
    assert cube.aors.tolist() == list(keys)
    assert cube.types == tuple(types)
    np.testing.assert_array_equal(cube.block(), wanted)
    np.testing.assert_array_equal(by_zarr(path), wanted)
    assert cube.coordinate("mjd")[:, 1].tolist() == [53000.5 + key for key in keys]
    assert cube.coordinate("quality").tolist() == [key % 3 for key in keys]
    assert cube.coordinate("aor_name").tolist() == [f"r{key}" for key in keys]
    points = growing.zeropoints(keys, len(types))
    np.testing.assert_array_equal(cube.coordinate("zeropoint"), points)
    return cube


# ------------------------------------------------------------------ what an append does


def test_an_append_adds_columns_and_leaves_the_others_bit_for_bit(store):
    before = Cube(store).block()
    growing.append(store, NEW)
    cube = holds(store, OLD + NEW)
    assert same(cube.block(aors=slice(0, 5)), before)
    assert cube.lightcurve(4, TYPES[1]).mjd.tolist() == [53000.5 + key for key in OLD + NEW]
    assert set(cube.table("variability")["median"].ravel()) == {11.0}


def test_every_client_sees_the_new_lengths_after_an_append(store):
    growing.append(store, NEW)
    plain = zarr.open_group(store, mode="r", use_consolidated=False)
    assert plain["lightcurves"].shape == (7, 2, 3, 11)
    assert plain["mjd"].shape == (11, 2)
    assert plain["lightcurves"].attrs["aor_name"] == [f"r{key}" for key in OLD + NEW]
    assert plain["variability"].attrs["n_aors"] == 11
    with xr.open_zarr(store, consolidated=True) as ds:
        assert dict(ds.sizes) == {"object": 7, "type": 2, "value": 3, "aor": 11, "channel": 2}
        assert ds.aor.to_numpy().tolist() == OLD + NEW
        assert float(ds.lightcurves.sel(aor=203).isnull().mean()) < 0.5


def test_until_the_root_is_renamed_everybody_sees_the_old_cube(store):
    open_before = Cube(store)
    old = open_before.block()
    writer = begin_append(store, aors=growing.aor_table(NEW), staging_aors=4)
    growing.measure(writer, NEW)
    growing.calibrate(writer, NEW)
    for cube in (open_before, Cube(store)):
        assert same(cube.block(), old)
        assert cube.coordinate("zeropoint").shape == (2, 5)
        assert set(cube.table("variability")["median"].ravel()) == {5.0}
    np.testing.assert_array_equal(by_zarr(store), old)
    assert not writer.is_committed
    writer.publish()
    assert writer.is_committed
    assert same(open_before.block(), old), "an open cube keeps the lengths it was opened with"
    open_before.refresh()
    np.testing.assert_array_equal(open_before.block(), as_cube(measured(OLD + NEW)))


def test_the_writer_reads_arrays_as_they_will_be(store):
    writer = begin_append(store, aors=growing.aor_table(NEW))
    assert writer.read_array("mjd")[:, 0].tolist() == [53000.0 + key for key in OLD + NEW]
    assert np.isnan(writer.read_array("zeropoint")[:, 5:]).all()
    writer.write_coordinate("zeropoint", np.full((2, 11), 7.0, np.float32))
    points = writer.read_array("zeropoint")
    np.testing.assert_array_equal(points[:, :5], growing.zeropoints(OLD), "old columns stay")
    assert set(points[:, 5:].ravel()) == {7.0}
    writer.write_table(
        "variability", {"spread": np.ones((7, 2), np.float32)}, dims=("object", "type")
    )
    assert writer.has_array("variability/spread")
    assert not writer.has_array("variability/none")
    with pytest.raises(UnknownName, match="no array 'variability/none'"):
        writer.read_array("variability/none")


def test_a_writer_can_be_sent_to_another_process(store):
    writer = begin_append(store, aors=growing.aor_table(NEW), staging_aors=4)
    growing.measure(pickle.loads(pickle.dumps(writer)), NEW)
    growing.calibrate(writer, NEW)
    writer.publish()
    holds(store, OLD + NEW)


def test_new_columns_of_the_aor_table_are_unknown_for_old_aors(store):
    table = growing.aor_table(NEW) | {"dx": np.arange(6.0), "program": [f"p{k}" for k in NEW]}
    writer = begin_append(store, aors=table)
    growing.measure(writer, NEW)
    writer.publish()
    cube = Cube(store)
    assert np.isnan(cube.coordinate("dx")[:5]).all()
    assert cube.coordinate("dx")[5:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert cube.coordinate("program").tolist() == [""] * 5 + [f"p{k}" for k in NEW]


def test_whole_numbers_are_asked_for_and_never_made_up(store):
    table = growing.aor_table(NEW)
    del table["quality"]
    writer = begin_append(store, aors=table)
    growing.measure(writer, NEW)
    with pytest.raises(UsageError, match=r"'quality' of .* have no values for the new AORs"):
        writer.publish()
    assert Cube(store).shape[3] == 5
    with pytest.raises(UsageError, match="has no word for 'not known'"):
        writer.write_coordinate("count", np.arange(6), dims=("aor",))
    with pytest.raises(UsageError, match="stored as int64"):
        writer.write_coordinate("quality", np.full(6, 0.5), dims=("aor",))
    with pytest.raises(UsageError, match="give all 11, or the 6 of this change"):
        writer.write_coordinate("quality", np.arange(5), dims=("aor",))
    writer.write_coordinate("quality", np.array(NEW) % 3, dims=("aor",))
    writer.publish()
    assert Cube(store).coordinate("quality").tolist() == [k % 3 for k in OLD + NEW]


def test_an_aor_that_is_there_is_refused(store):
    with pytest.raises(UsageError, match=r"1 of the 2 AORs are in .* already \(r103\)"):
        begin_append(store, aors=growing.aor_table([103, 300]))
    twin = growing.aor_table([300]) | {"aor_name": np.array(["r100"])}
    with pytest.raises(UsageError, match=r"already \(r100\)"):
        begin_append(store, aors=twin)
    with pytest.raises(UsageError, match="table of AORs is empty"):
        begin_append(store, aors=growing.aor_table([]))
    with pytest.raises(StoreMissing, match="no store"):
        begin_append(store + "x", aors=growing.aor_table([300]))
    assert read_ledger(store).last("append") is None, "nothing was begun"


def test_a_change_of_other_aors_must_wait(store):
    begin_append(store, aors=growing.aor_table([200, 201]))
    with pytest.raises(SettingsDiffer, match=r"append of r200, r201 was begun .* append of r202"):
        begin_append(store, aors=growing.aor_table([202]))
    with pytest.raises(SettingsDiffer, match=r"append of r200, r201 .* replace of r100"):
        begin_replace(store, aors=[100])
    assert abandon_update(store).names == ("r200", "r201")
    assert abandon_update(store) is None
    growing.append(store, [202])
    holds(store, [*OLD, 202])


def test_an_append_that_was_given_up_leaves_nothing_behind(store):
    writer = begin_append(store, aors=growing.aor_table([200, 201, 202]))
    growing.measure(writer, [200, 201, 202])
    abandon_update(store)
    holds(store, OLD)
    growing.append(store, [203])
    holds(store, [*OLD, 203])


def test_a_shard_is_missing_until_it_is_written(store):
    writer = begin_append(store, aors=growing.aor_table(NEW))
    writer.write_staging(0, measured(NEW))
    with pytest.raises(ChunkMissing, match="3 of 3 shards"):
        writer.publish()
    writer.write_shard(1, writer.assemble(1))
    assert writer.done() == {1}, "what the build wrote does not count"
    with pytest.raises(UsageError, match="cannot be published by halves"):
        writer.publish(complete=False)


def test_damage_is_not_carried_into_a_new_shard(store):
    shard = Path(store, "lightcurves/c/1/0/0/0")
    data = bytearray(shard.read_bytes())
    data[40] ^= 1
    shard.write_bytes(data)
    writer = begin_append(store, aors=growing.aor_table(NEW))
    writer.write_staging(0, measured(NEW))
    with pytest.raises(ChunkCorrupt, match="lightcurves/c/1/0/0/0 is damaged"):
        writer.assemble(1)
    shard.unlink()
    with pytest.raises(ChunkMissing, match="ledger calls lightcurves/c/1/0/0/0 done"):
        writer.assemble(1)


def test_a_created_cube_grows_too(tmp_path):
    cube = create(
        tmp_path / "a.zarr",
        objects=range(7),
        types=TYPES,
        aors=growing.aor_table(OLD),
        shard_objects=3,
    )
    values = as_cube(measured(OLD))
    cube.write_block(3, flux=values[3:6, :, 0], flux_err=values[3:6, :, 1], flag=values[3:6, :, 2])
    writer = begin_append(cube.path, aors=growing.aor_table(NEW))
    growing.measure(writer, NEW)
    writer.publish()
    now = Cube(cube.path)
    np.testing.assert_array_equal(now.block(aors=slice(5, 11)), as_cube(measured(NEW)))
    assert np.isnan(now.block([0, 6], aors=slice(0, 5))).all()
    assert (now.lightcurve(0, TYPES[0]).flag[:5] == 512).all(), "not_built"


def test_a_cube_that_is_open_for_writing_does_not_undo_an_append(store):
    cube = Cube(store, mode="r+")
    writer = begin_append(store, aors=growing.aor_table(NEW), staging_aors=4)
    with pytest.raises(UsageError, match="being appended to"):
        cube.write_lightcurve(4, TYPES[0], flux=np.zeros(5))
    growing.measure(writer, NEW)
    growing.calibrate(writer, NEW)
    writer.publish()
    with pytest.raises(UsageError, match="has changed since it was opened"):
        cube.write_lightcurve(4, TYPES[0], flux=np.zeros(5))
    holds(store, OLD + NEW)
    cube.refresh()
    cube.write_lightcurve(4, TYPES[0], flux=np.arange(11.0))
    assert Cube(store).values(4, TYPES[0])[0].tolist() == list(range(11))


def test_an_old_ledger_of_a_store_from_a_backup_is_not_believed(store, tmp_path):
    """With codec none all shards are equally long, so that sizes tell nothing."""
    path = str(growing.built(tmp_path / "b.zarr", OLD, codec="none"))
    shutil.copytree(path, tmp_path / "backup")
    growing.append(path, NEW)
    shutil.rmtree(path)
    shutil.copytree(tmp_path / "backup", path)
    assert update_under_way(read_ledger(path), read_root(LocalPlace(path))) is None
    growing.append(path, NEW)
    holds(path, OLD + NEW)


def test_a_build_does_not_sweep_away_the_staging_of_an_append(store):
    writer = begin_append(store, aors=growing.aor_table(NEW), staging_aors=4)
    writer.write_staging(0, measured(NEW[:4]))
    again = CubeWriter.begin(store, settings={"sky": "plane"})
    again.remove_staging()
    assert writer.staged() == {0}
    resumed = begin_append(store, aors=growing.aor_table(NEW), staging_aors=2)
    assert resumed.batch_aors(0) == (0, 4), "as it was begun"
    assert resumed.staged() == {0}


def test_appends_on_object_storage(tmp_path):
    import fsspec

    path = f"memory://{tmp_path.name}/a.zarr"
    growing.built(path, OLD)
    growing.append(path, NEW)
    cube = Cube(path)
    assert isinstance(cube._place, RemotePlace)
    np.testing.assert_array_equal(cube.block(), as_cube(measured(OLD + NEW)))
    # Stopped right after the commit: the cube's own metadata still has the old length.
    system = fsspec.filesystem("memory")
    node = f"/{tmp_path.name}/a.zarr/lightcurves/zarr.json"
    system.pipe_file(node, system.cat_file(node).replace(b"    11\n", b"    5\n"))
    assert Cube(path).values(4, TYPES[0]).shape == (3, 11)
    assert roll_forward(path)
    assert not roll_forward(path)


@settings(max_examples=15)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    first=st.integers(0, 6),
    codec=st.sampled_from(["lz4", "zstd", "none"]),
    objects=st.integers(1, 8),
    capacity=st.sampled_from([None, 8]),
)
def test_any_sequence_of_appends_equals_the_model(sizes, first, codec, objects, capacity):
    keys = list(range(first))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.zarr"
        growing.built(path, keys, objects=objects, codec=codec, capacity=capacity)
        for size in sizes:
            old = Cube(path).block()
            new = list(range(len(keys), len(keys) + size))
            growing.append(path, new, objects=objects)
            keys += new
            cube = holds(path, keys, objects=objects)
            assert same(cube.block(aors=slice(0, old.shape[3])), old)


# ------------------------------------------------------------------ measuring again


def test_replacing_changes_the_columns_it_is_told_and_no_other(store):
    old = Cube(store).block()
    table = growing.aor_table([103, 101]) | {"mjd_ch1": [1.0, 2.0]}
    writer = begin_replace(store, aors=table)
    assert writer.columns == (3, 1)
    growing.measure(writer, [103, 101], version=1)
    assert Cube(store).coordinate("mjd")[3, 0] == 53103.0
    writer.publish()
    cube = Cube(store)
    new = as_cube(measured([103, 101], version=1))
    np.testing.assert_array_equal(cube.block()[..., [3, 1]], new)
    assert same(cube.block()[..., [0, 2, 4]], old[..., [0, 2, 4]])
    assert cube.coordinate("mjd")[:, 0].tolist() == [53100, 2, 53102, 1, 53104]
    np.testing.assert_array_equal(by_zarr(store), cube.block())
    with pytest.raises(UnknownName, match="no AOR 999"):
        begin_replace(store, aors=[999])


def test_an_aor_can_be_replaced_again_and_again(store):
    for version in (1, 2):
        growing.remeasure(store, [102], version=version)
        new = as_cube(measured([102], version=version))
        np.testing.assert_array_equal(Cube(store).block()[..., [2]], new)


def test_a_replacement_that_overwrote_values_cannot_be_given_up(store):
    begin_replace(store, aors=[102])
    with pytest.raises(UsageError, match="replace of r102 may have overwritten shards"):
        abandon_update(store)


# ------------------------------------------------------------------ precision


def test_the_bits_that_were_kept_are_recorded(tmp_path):
    path = str(growing.built(tmp_path / "p.zarr", OLD, precision=0.01))
    growing.append(path, NEW)
    values = as_cube(measured(OLD + NEW))
    flux, err = values[:, :, 0], values[:, :, 1]
    rounded, _ = reduce_precision(flux, err, 0.01)
    # By another way than the code's: bits below the lowest one that is set were not needed.
    integers = np.abs(rounded[np.isfinite(rounded)]).view(np.int32) & 0x7FFFFF | 0x800000
    used = 23 - np.log2(integers & -integers).astype(int)
    node = zarr.open_group(path, mode="r")["lightcurves"]
    counts = np.array(node.attrs["flux_bits_kept"])
    assert node.attrs["precision"] == 0.01
    assert node.attrs["flux_err_bits_kept"] == 6
    assert counts.sum() == np.isfinite(flux).sum()
    mean_kept, mean_used = (counts * np.arange(24)).sum() / counts.sum(), used.mean()
    # A kept last bit is 0 half the time, the one above it half of these times: one bit on average.
    assert mean_used <= mean_kept <= mean_used + 1.5
    assert mean_kept < 16
    assert (
        "flux_bits_kept"
        not in zarr.open_group(str(growing.built(tmp_path / "q.zarr", OLD)), mode="r")[
            "lightcurves"
        ].attrs
    )


def test_an_append_with_precision_leaves_old_columns_bit_for_bit(tmp_path):
    path = str(growing.built(tmp_path / "p.zarr", OLD, precision=0.1))
    before = Cube(path).block()
    growing.append(path, NEW)
    now = Cube(path).block()
    assert same(now[..., :5], before)
    err = as_cube(measured(NEW))[:, :, 1]
    moved = np.abs(now[:, :, 0, 5:] - as_cube(measured(NEW))[:, :, 0])[err > 0]
    assert (moved[np.isfinite(moved)] <= 0.1 * err[err > 0][np.isfinite(moved)] + 1e-6).all()
    assert moved[np.isfinite(moved)].max() > 0


# ------------------------------------------------------------------ killed


def test_a_killed_append_is_gone_on_with(tmp_path):
    assert kill_and_resume(tmp_path, "append", kills=4, seed=1) == {"old", "new"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_append_killed_a_hundred_times(tmp_path):
    assert kill_and_resume(tmp_path, "append", kills=100, seed=2) == {"old", "new"}


def test_a_killed_replacement_is_gone_on_with(tmp_path):
    kill_and_resume(tmp_path, "replace", kills=1, seed=3, both=False)


# ------------------------------------------------------------------ others


def test_zarrs_reads_the_cube_alike(store):
    pytest.importorskip("zarrs", reason="needs the package zarrs")
    growing.append(store, NEW)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        group = zarr.open_group(store, mode="r")
        values = group["lightcurves"][...]
        assert group["mjd"][...].shape == (11, 2)
    np.testing.assert_array_equal(values, as_cube(measured(OLD + NEW)))


def test_open_published_names_the_cube(store):
    growing.append(store, NEW)
    cube = open_published(store)
    assert cube.root.generation == 1
    assert cube.schema.aor_names == tuple(f"r{key}" for key in OLD + NEW)
    assert {"mjd", "zeropoint", "quality"} <= set(cube.arrays_along("aor"))
