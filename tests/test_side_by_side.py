"""Processes side by side: disjoint shards of one store, and two builds of the same store."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time

import growing
import numpy as np
import pytest
import zarr
from astropy.table import Table
from child_server import environment
from killing import Server, are_the_same, files_of

import idfzarr
from idfzarr.build import pipeline
from idfzarr.build.alone import Alone
from idfzarr.build.importer import import_tables
from idfzarr.build.pipeline import build
from idfzarr.errors import SettingsDiffer, UsageError
from idfzarr.store.checksum import crc32c
from idfzarr.store.cube import Cube
from idfzarr.store.ledger import read_ledger
from idfzarr.store.place import place_of
from idfzarr.store.root import read_root
from idfzarr.store.writer import CubeWriter

# ---------------------------------------------------------------- disjoint shards

WRITER = """
import os, sys
import numpy as np
from idfzarr.store.cube import Cube

store, which, writers, shards = sys.argv[1], *map(int, sys.argv[2:])
if shards > 1000:
    os.fsync = lambda handle: None  # for power cuts, which no test can make
cube = Cube(store, mode="r+")
for shard in range(which, shards, writers):
    flux = shard + np.arange(8, dtype=np.float32).reshape(2, 1, 4) / 8
    err = np.full_like(flux, which)
    if shard % 2:
        cube.write_block(2 * shard, flux=flux, flux_err=err)
    else:
        block = np.stack([flux, err, np.zeros_like(flux)], axis=2)
        cube.writer.write_shard(shard, block)
"""


def write_side_by_side(store, shards, writers=4):
    """Let processes write disjoint shards; check that none is lost."""
    idfzarr.create(
        store,
        objects=range(2 * shards),
        types=["ch1_aper2_original"],
        aors=growing.aor_table([1, 2, 3, 4]),
        shard_objects=2,
    )
    command = [sys.executable, "-c", WRITER, str(store)]
    started = [
        subprocess.Popen([*command, str(k), str(writers), str(shards)], env=environment())
        for k in range(writers)
    ]
    assert [process.wait(timeout=1800) for process in started] == [0] * writers
    block = Cube(store).block()
    rows = np.arange(2 * shards)
    wanted = rows[:, None] // 2 + (rows[:, None] % 2 * 4 + np.arange(4)) / 8
    np.testing.assert_array_equal(block[:, 0, 0], wanted.astype(np.float32))
    np.testing.assert_array_equal(block[:, 0, 1], np.repeat(rows // 2 % writers, 4).reshape(-1, 4))
    assert (block[:, 0, 2] == 0).all()
    state = read_ledger(store)
    assert state.damaged == ()
    done = list(state.of("done"))
    assert len(done) == len(state.done) == shards
    assert len({record.writer for record in done}) == writers
    for record in done[:: max(1, shards // 200)]:
        data = (store / record.fields["key"]).read_bytes()
        assert (len(data), crc32c(data)) == (record.fields["size"], record.fields["crc32c"])
    some = zarr.open_group(store, mode="r")["lightcurves"][: min(400, len(rows))]
    np.testing.assert_array_equal(some, block[: len(some)])
    assert not list(store.rglob("*.partial"))


def test_four_processes_write_disjoint_shards(tmp_path):
    write_side_by_side(tmp_path / "f.zarr", 400)


@pytest.mark.slow
def test_four_processes_write_ten_thousand_blocks(tmp_path):
    write_side_by_side(tmp_path / "f.zarr", 10_000)


# ---------------------------------------------------------------- two builds of one store

TYPES = "ch1_aper2_*,ch2_aper2_original"
HOW = {"types": TYPES, "shard_objects": 4, "scheduler": "synchronous"}
BUSY = r"is being built by another process .*wait until that has ended, or stop it"


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    servers = [Server(tmp_path_factory.mktemp("server")) for _ in range(2)]
    yield servers
    for server in servers:
        server.close()


def race(servers, folder, starts, images, *, hows=(HOW, HOW)):
    """Start two builds of one store, one a little after the other; return what each ended with."""
    logs = [folder / "log0", folder / "log1"]
    for server, start, how, log in zip(servers, starts, hows, logs, strict=True):
        time.sleep(start)
        server.begin(images, folder / "f.zarr", how, log=str(log))
    codes = [server.end() for server in servers]
    return codes, [json.loads(log.read_text())["said"] for log in logs]


def one_of_two_ends_well(codes, said):
    assert sorted(codes) in ([0, 0], [0, 1])
    for code, words in zip(codes, said, strict=True):
        assert (code == 0) == (words == "")
        assert not words or words.startswith("UsageError: ")
        assert not words or "is being built by another process" in words


def builds_at_once(servers, tiny_store, folder, delays):
    wanted = files_of(tiny_store.store)
    for number, delay in enumerate(delays):
        own = folder / f"fresh{number}"
        own.mkdir()
        codes, said = race(servers, own, (0, delay), tiny_store.images)
        one_of_two_ends_well(codes, said)
        are_the_same(files_of(own / "f.zarr"), wanted)
        assert sum(1 for _ in read_ledger(own / "f.zarr").of("begin")) == 1
        assert {p.name for p in own.iterdir()} == {"f.zarr", "f.zarr.ledger", "log0", "log1"}
        shutil.rmtree(own)


def appends_at_once(servers, tiny_store, folder, delays):
    part, first = folder / "part", folder / "first" / "f.zarr"
    shutil.copytree(tiny_store.images, part, ignore=shutil.ignore_patterns("IDF_gr4_*"))
    build(part, first, **HOW)
    for number, delay in enumerate(delays):
        own = folder / f"append{number}"
        shutil.copytree(first.parent, own)
        codes, said = race(servers, own, (0, delay), tiny_store.images, hows=({}, {}))
        one_of_two_ends_well(codes, said)
        cube = Cube(own / "f.zarr")
        assert cube.shape[3] == 4
        kept = Cube(first).block()
        np.testing.assert_array_equal(cube.block()[..., :3], kept)
        assert np.isfinite(cube.block()[..., 3]).mean() > 0.9
        assert sum(1 for _ in read_ledger(own / "f.zarr").of("append")) == 1
        shutil.rmtree(own)


def test_two_builds_of_one_store_at_once(servers, tiny_store, tmp_path):
    builds_at_once(servers, tiny_store, tmp_path, [0, 0.3])
    appends_at_once(servers, tiny_store, tmp_path, [0.05])


@pytest.mark.slow
def test_many_builds_of_one_store_at_once(servers, tiny_store, tmp_path):
    delays = np.linspace(0, 1.5, 12).tolist()
    builds_at_once(servers, tiny_store, tmp_path, [0, 0, 0, 0, *delays])
    appends_at_once(servers, tiny_store, tmp_path, [0, 0, *delays[::2]])


def test_of_two_builds_with_other_settings_one_is_told(servers, tiny_store, tmp_path):
    other = HOW | {"threshold": 9.0}
    codes, said = race(servers, tmp_path, (0, 0), tiny_store.images, hows=(HOW, other))
    assert sorted(codes) == [0, 1]
    words = said[codes.index(1)]
    assert "other settings" in words or "is being built by another process" in words
    settings = read_root(place_of(tmp_path / "f.zarr")).ours["settings"]
    assert (settings["threshold"] == 9.0) == (codes[1] == 0)


def test_a_build_that_another_overtook_unseen_is_told_of_other_settings(
    tiny_store, tmp_path, monkeypatch
):
    """Between the look for a store and the look for its root the other one has come and gone."""
    store = tmp_path / "f.zarr"
    build(tiny_store.images, store, **HOW)
    before = files_of(store)
    seen = [None]
    read = pipeline.stored_settings
    monkeypatch.setattr(
        pipeline, "stored_settings", lambda place: seen.pop() if seen else read(place)
    )
    with pytest.raises(SettingsDiffer, match="threshold"):
        build(tiny_store.images, store, **HOW | {"threshold": 9.0})
    assert seen == []
    are_the_same(files_of(store), before)


def test_a_store_that_is_being_built_is_refused_and_free_again_afterwards(tiny_store, tmp_path):
    store = tmp_path / "f.zarr"
    CubeWriter.begin(store, settings={})
    with Alone(place_of(store)):
        with pytest.raises(UsageError, match=BUSY):
            build(tiny_store.images, store, **HOW)
        with pytest.raises(UsageError, match=BUSY), Alone(place_of(store)):
            pass
    shutil.rmtree(f"{store}.ledger")
    assert build(tiny_store.images, store, **HOW).n_aors == 4
    with Alone(place_of(store)), pytest.raises(UsageError, match=BUSY):
        build(tiny_store.images, store, scheduler="synchronous")
    assert not build(tiny_store.images, store, scheduler="synchronous").changed


def test_an_import_into_a_store_that_is_being_filled_is_refused(tmp_path):
    store = tmp_path / "f.zarr"
    Table({"NUMBER": [1], "FLUX_AUTO": [2.0], "FLUXERR_AUTO": [1.0], "mjd": [55000.0]}).write(
        tmp_path / "IDF_gr0_ch1_sci.csv"
    )
    assert import_tables(tmp_path, store, unit="uJy").n_aors == 1
    with Alone(place_of(store)), pytest.raises(UsageError, match=BUSY):
        import_tables(tmp_path, store, unit="uJy")
    assert not import_tables(tmp_path, store, unit="uJy").changed


def test_nothing_is_made_where_there_is_nothing(tmp_path):
    with Alone(place_of(tmp_path / "f.zarr")):
        assert list(tmp_path.iterdir()) == []
