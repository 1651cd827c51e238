from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import growing
import numpy as np
import pytest
import xarray as xr
import zarr
from growing import ADDED, OLD, TYPES, as_cube, by_zarr, kill_and_resume, measured, same

from idfzarr.errors import ForeignStore, SettingsDiffer, UnfinishedStore, UsageError
from idfzarr.store import exchange as exchange_module
from idfzarr.store.append import begin_append, begin_replace
from idfzarr.store.cube import Cube
from idfzarr.store.exchange import recover_exchange
from idfzarr.store.ledger import read_ledger
from idfzarr.store.place import LocalPlace
from idfzarr.store.relayout import abandon_update, begin_relayout, relayout
from idfzarr.store.writer import CubeWriter

MANY = list(range(200, 240))


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Spare the disk: what fsync is for is tested by the order of the calls, in test_cube.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path):
    return str(growing.built(tmp_path / "a.zarr", OLD))


def beside(store):
    return sorted(p.name for p in Path(store).parent.iterdir())


# ------------------------------------------------------------------ growth


def test_a_cube_past_its_capacity_is_laid_out_anew_by_the_append(store):
    old = Cube(store).block()
    assert Cube(store).schema.layout.capacity == 32
    growing.append(store, MANY)
    cube = Cube(store)
    np.testing.assert_array_equal(cube.block(), as_cube(measured([*OLD, *MANY])))
    assert same(cube.block(aors=slice(0, 5)), old)
    assert cube.schema.layout.capacity == 64, "capacity_for(45)"
    assert beside(store) == ["a.zarr", "a.zarr.ledger"]


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_a_new_capacity_changes_nothing_that_is_read(tmp_path, codec):
    store = str(growing.built(tmp_path / "a.zarr", OLD, codec=codec))
    with xr.open_zarr(store) as ds:
        before = ds.load()
    uuid = Cube(store).uuid
    relayout(store, capacity=8)
    with xr.open_zarr(store) as ds:
        after = ds.load()
    xr.testing.assert_identical(before.drop_attrs(deep=False), after.drop_attrs(deep=False))
    group = zarr.open_group(store, mode="r", use_consolidated=False)
    assert group["lightcurves"].chunks == (1, 1, 3, 8)
    assert group["lightcurves"].shards == (3, 2, 3, 8)
    assert group["mjd"].chunks == (8, 2)
    assert group["zeropoint"].chunks == (2, 8)
    assert Cube(store).uuid == uuid
    with pytest.raises(UsageError, match="a capacity of 4 does not hold 5 AORs"):
        relayout(store, capacity=4)


def test_the_ledger_knows_the_new_shards_and_where_old_ones_came_from(store):
    relayout(store, capacity=64)
    state = read_ledger(store)
    for shard in range(3):
        key = f"lightcurves/c/{shard}/0/0/0"
        assert state.done[key].fields["size"] == Path(store, key).stat().st_size
        assert state.intents[key].fields["crc32c"] == state.done[key].fields["crc32c"]
    assert any(r.fields.get("sources") for r in state.of("staged"))
    again = CubeWriter.begin(store, settings={"sky": "plane"})
    assert again.is_published


def test_one_shard_is_in_memory_at_a_time(tmp_path):
    """Sixteen times the shards must not take more memory."""
    peaks = {}
    for objects in (64, 1024):
        path = growing.built(
            tmp_path / f"{objects}.zarr", OLD, objects=objects, shard_objects=64, codec="none"
        )
        tracemalloc.start()
        relayout(path, capacity=400)
        peaks[objects] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    shard = 64 * 2 * 3 * 400 * 4
    assert peaks[1024] < peaks[64] + shard


def test_an_open_cube_goes_on_reading_what_it_knows(store):
    cubes = [Cube(store) for _ in range(3)]
    old = cubes[0].block()
    cubes[1].values(4, TYPES[0])
    growing.append(store, MANY)
    growing.add_types(store)
    for cube in cubes:
        assert same(np.array(cube.values(4, TYPES[0])), old[1, 0])
        assert same(cube.block(), old)
        assert [len(lc) for lc in cube.lightcurves([1, 19])] == [5] * 4
        assert cube.table("variability")["median"].shape == (7, 2)
        cube.refresh()
        assert cube.shape == (7, 3, 3, 45)


def test_a_cube_whose_store_became_another_says_so(store, tmp_path):
    cube = Cube(store)
    growing.built(tmp_path / "b.zarr", [1, 2, 3], shard_objects=2)
    relayout(tmp_path / "b.zarr", capacity=8)
    Path(store).rename(tmp_path / "c.zarr")
    (tmp_path / "b.zarr").rename(store)
    with pytest.raises(Exception, match="repair the store") as raised:
        cube.block()
    assert raised.value.kind in {"shard_corrupt", "chunk_corrupt"}


# ------------------------------------------------------------------ types


def test_types_are_added_after_those_that_are_there(store):
    old = Cube(store).block()
    types = {"type": list(ADDED), "radius_arcsec": [np.nan], "unit": ["MJy"]}
    writer = begin_relayout(store, types=types)
    assert writer.schema.types == TYPES + ADDED
    assert writer.new_types == ADDED
    growing.measure(writer, OLD, ADDED)
    assert Cube(store).types == TYPES
    writer.publish()
    cube = Cube(store)
    assert cube.types == TYPES + ADDED
    assert same(cube.block(types=TYPES), old)
    np.testing.assert_array_equal(cube.block(types=ADDED), as_cube(measured(OLD, ADDED)))
    np.testing.assert_array_equal(by_zarr(store), cube.block())
    assert cube.coordinate("type_channel").tolist() == ["ch1", "ch2", "ch2"]
    assert cube.coordinate("unit").tolist() == ["uJy", "uJy", "MJy"]
    np.testing.assert_array_equal(cube.coordinate("zeropoint")[:2], growing.zeropoints(OLD))
    assert np.isnan(cube.coordinate("zeropoint")[2]).all()
    assert np.isnan(cube.table("variability")["median"][:, 2]).all()
    node = zarr.open_group(store, mode="r")["lightcurves"]
    assert node.attrs["type"] == list(TYPES + ADDED)
    assert "units" not in node.attrs, "they differ now"


def test_a_block_of_all_types_is_taken_too(store):
    writer = begin_relayout(store, types=ADDED, staging_aors=5)
    writer.write_staging(0, measured(OLD, TYPES + ADDED))
    for shard in range(3):
        writer.write_shard(shard, writer.assemble(shard))
    writer.publish()
    np.testing.assert_array_equal(Cube(store).block(), as_cube(measured(OLD, TYPES + ADDED)))


def test_types_with_precision_keep_old_bits(tmp_path):
    store = str(growing.built(tmp_path / "a.zarr", OLD, precision=0.1))
    old = Cube(store).block()
    growing.add_types(store)
    assert same(Cube(store).block(types=TYPES), old)
    counts = zarr.open_group(store, mode="r")["lightcurves"].attrs["flux_bits_kept"]
    assert sum(counts) == np.isfinite(Cube(store).block()[:, :, 0]).sum()


def test_a_type_that_is_there_is_refused(store):
    with pytest.raises(UsageError, match="'ch1_auto_original' of the types are in"):
        begin_relayout(store, types=[TYPES[0], *ADDED])
    with pytest.raises(UsageError, match="channels are"):
        begin_relayout(store, types=["ch7_auto_original"])


# ------------------------------------------------------------------ others' property


def test_what_others_put_into_the_store_is_kept(store):
    notes = Path(store, "notes")
    notes.mkdir()
    (notes / "why.txt").write_text("dark field")
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    root.create_array("mine", data=np.arange(4.0))
    writer = begin_relayout(store, capacity=64)
    (notes / "late.txt").write_text("written meanwhile")
    (notes / "why.txt").write_text("changed meanwhile")
    growing.measure(writer, OLD)
    writer.publish()
    assert (notes / "why.txt").read_text() == "dark field"
    assert zarr.open_array(store + "/mine", mode="r")[...].tolist() == [0, 1, 2, 3]
    quarantine = Path(store + ".quarantine", "relayout-1", "notes")
    assert (quarantine / "late.txt").read_text() == "written meanwhile"
    assert (quarantine / "why.txt").read_text() == "changed meanwhile"
    removed = read_ledger(store).last("removed").fields
    assert removed["quarantined"] == ["notes/late.txt", "notes/why.txt"]
    assert beside(store) == ["a.zarr", "a.zarr.ledger", "a.zarr.quarantine"]


def test_a_folder_of_others_where_the_new_tree_must_be_is_not_touched(store):
    other = Path(store + ".relaid")
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(ForeignStore, match="something that idfzarr has not put there"):
        relayout(store, capacity=64)
    assert (other / "thesis.txt").read_text() == "mine"
    Path(store + ".aside").mkdir()
    assert not recover_exchange(LocalPlace(store + "x")), "not without a line in the ledger"
    assert Cube(store).shape == (7, 2, 3, 5)


def test_a_store_that_is_a_link_is_exchanged_where_it_lies(store, tmp_path):
    big = tmp_path / "big"
    big.mkdir()
    Path(store).rename(big / "real.zarr")
    Path(store).symlink_to(big / "real.zarr")
    growing.append(store, MANY)
    assert Path(store).is_symlink()
    np.testing.assert_array_equal(Cube(store).block(), as_cube(measured([*OLD, *MANY])))
    assert [p.name for p in big.iterdir()] == ["real.zarr"]


def test_object_storage_is_refused(tmp_path):
    path = f"memory://{tmp_path.name}/a.zarr"
    growing.built(path, OLD)
    with pytest.raises(UsageError, match="on object storage, where a store cannot be exchanged"):
        relayout(path, capacity=64)


# ------------------------------------------------------------------ stopped


def test_an_append_goes_on_with_a_growth_that_was_stopped(store):
    writer = begin_relayout(store, capacity=48)
    writer.write_shard(0, writer.assemble(0))
    with pytest.raises(SettingsDiffer, match="relayout of capacity 48 was begun"):
        begin_replace(store, aors=[100])
    with pytest.raises(SettingsDiffer, match=r"relayout of capacity 48 .* capacity 48, ch2_iso"):
        begin_relayout(store, capacity=48, types=ADDED)
    growing.append(store, [200])
    cube = Cube(store)
    assert cube.schema.layout.capacity == 48
    np.testing.assert_array_equal(cube.block(), as_cube(measured([*OLD, 200])))


def test_a_relayout_can_be_given_up(store):
    writer = begin_relayout(store, types=ADDED)
    writer.write_staging(0, measured(OLD, ADDED))
    assert abandon_update(store).kind == "relayout"
    growing.append(store, [200])
    growing.add_types(store)
    wanted = as_cube(measured([*OLD, 200], TYPES + ADDED))
    np.testing.assert_array_equal(Cube(store).block(), wanted)
    assert beside(store) == ["a.zarr", "a.zarr.ledger"]


@pytest.mark.parametrize("action", ["grow", "add_types"])
def test_a_killed_relayout_is_gone_on_with(tmp_path, action):
    seen = kill_and_resume(tmp_path, action, kills=2, seed=4)
    # A new capacity changes nothing that is read, so there old and new are the same.
    assert seen == ({"new"} if action == "grow" else {"old", "new"}), "never without a store"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("action", ["grow", "add_types", "overflow"])
def test_a_relayout_killed_many_times(tmp_path, action):
    """With the other two kinds about a hundred times."""
    seen = kill_and_resume(tmp_path, action, kills=34, seed=5)
    assert seen == ({"new"} if action == "grow" else {"old", "new"}), "never without a store"


@pytest.mark.parametrize("stop_after", [1, 2])
def test_without_an_exchange_a_stopped_one_is_recovered(store, monkeypatch, stop_after):
    monkeypatch.setattr(exchange_module, "exchange_at_once", lambda one, other: False)
    plain, calls = os.rename, []

    def stopped(one, other):
        if len(calls) == stop_after:
            raise KeyboardInterrupt("stopped")
        calls.append((one, other))
        plain(one, other)

    old = Cube(store).block()
    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        relayout(store, capacity=64)
    monkeypatch.setattr(os, "rename", plain)
    if stop_after == 1:
        with pytest.raises(UnfinishedStore, match="being exchanged for a new layout"):
            Cube(store)
    else:
        assert same(Cube(store).block(), old)
    begin_append(store, aors=growing.aor_table([200]))
    cube = Cube(store)
    assert same(cube.block(), old)
    assert cube.schema.layout.capacity == 64
    assert beside(store) == ["a.zarr", "a.zarr.ledger"]


def test_a_build_recovers_a_stopped_exchange_too(store, monkeypatch):
    monkeypatch.setattr(exchange_module, "exchange_at_once", lambda one, other: False)
    writer = begin_relayout(store, capacity=64)
    growing.measure(writer, OLD)
    Path(store).rename(store + ".aside")
    again = CubeWriter.begin(store, settings={"sky": "plane"})
    assert again.is_published
    assert Cube(store).schema.layout.capacity == 32, "the new tree was not published yet"


def test_a_file_system_that_refuses_leaves_the_store_as_it_was(store, monkeypatch):
    old = Cube(store).block()

    def refused(one, other):
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(exchange_module, "exchange_at_once", refused)
    with pytest.raises(OSError, match="resource busy"):
        relayout(store, capacity=64)
    assert same(Cube(store).block(), old)
    monkeypatch.undo()
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    relayout(store, capacity=64)
    assert same(Cube(store).block(), old)
    assert Cube(store).schema.layout.capacity == 64
