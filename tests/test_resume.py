"""A build killed at any moment: nothing half-made is ever read, and going on gives the same.

A small server process imports the package once and forks a child for each build; the child is
killed with SIGKILL, by the clock or by itself at a chosen system call, as a machine that goes down
would stop it between any two steps.
"""

from __future__ import annotations

import random
import shutil
import time

import numpy as np
import pytest
import xarray as xr
from child_server import ChildServer

from idfzarr.errors import StoreMissing, UnfinishedStore
from idfzarr.store.cube import Cube
from idfzarr.store.ledger import read_ledger

TYPES = "ch1_aper2_*,ch2_aper2_original"

SERVER = '''
import json, os, signal, sys, threading, time
from idfzarr.build.pipeline import build
import idfzarr.analysis.calibration, idfzarr.imaging.cosmics, idfzarr.store.images, sep

def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

def arm(at):
    """Die before, in the middle of, or after the n-th call that changes the disk."""
    count = 0
    def wrapped(real, name):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == at["call"]:
                if at["how"] == "before":
                    die()
                if at["how"] == "torn" and name == "write":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                    die()
                real(*arguments, **options)
                die()
            return real(*arguments, **options)
        return call
    for name in ("write", "replace", "fsync", "mkdir", "unlink", "rmdir"):
        setattr(os, name, wrapped(getattr(os, name), name))
    return lambda: count

print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 70
        try:
            count = arm(asked["at"]) if asked.get("at") else (lambda: 0)
            build(asked["images"], asked["store"], types=asked["types"], shard_objects=4,
                  scheduler=asked["scheduler"])
            code = 0
            if asked.get("count"):
                with open(asked["count"], "w") as file:
                    file.write(str(count()))
        finally:
            os._exit(code)
    if asked.get("after") is not None:
        time.sleep(asked["after"])
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)
'''


class Server(ChildServer):
    """Runs builds in children that can be killed."""

    def __init__(self, folder):
        super().__init__("-c", SERVER, cwd=folder)

    def run(self, **asked):
        self.ask(asked | {"types": TYPES})
        return self.answer()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def undisturbed(server, tiny_store, tmp_path_factory):
    """Build once without a kill; return its calls that change the disk, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    asked = {
        "images": str(tiny_store.images),
        "store": str(folder / "f.zarr"),
        "scheduler": "synchronous",
        "at": {"call": -1, "how": "before"},
        "count": str(folder / "count"),
    }
    assert server.run(**asked) == 0
    warm = str(folder / "warm.zarr")
    begun = time.perf_counter()
    assert server.run(images=str(tiny_store.images), store=warm, scheduler="threads") == 0
    return int((folder / "count").read_text()), time.perf_counter() - begun


def holds_nothing_or_everything(store, reference):
    """Hold what readers see of a store against the finished one; say whether it is published."""
    try:
        cube = Cube(store)
    except (UnfinishedStore, StoreMissing):
        assert not (store / "zarr.json").exists()
        with pytest.raises(FileNotFoundError, match=r"f\.zarr"):
            xr.open_zarr(store)
        return False
    finished = Cube(reference)
    assert np.array_equal(cube.block(), finished.block(), equal_nan=True)
    assert cube.coordinate_names == finished.coordinate_names
    for name in cube.coordinate_names:
        known = finished.coordinate(name)
        assert np.array_equal(cube.coordinate(name), known, equal_nan=known.dtype.kind == "f")
    with xr.open_zarr(store) as ds:
        assert np.array_equal(ds["lightcurves"][0], finished.block([0])[0], equal_nan=True)
    for group in ("catalogue", "variability"):
        assert sorted(cube.table(group)) == sorted(finished.table(group))
    return True


def complete(store):
    """Return the files that are not the remains of a write that was cut short."""
    return [p for p in store.rglob("*") if p.is_file() and not p.name.endswith(".partial")]


def go_on_to_the_end(server, tiny_store, store, chunks, scheduler):
    asked = {"images": str(tiny_store.images), "store": str(store), "scheduler": scheduler}
    assert server.run(**asked) == 0
    assert holds_nothing_or_everything(store, tiny_store.store)
    assert not list(store.parent.rglob("*.partial")), "what the dead left half written is gone"
    assert chunks(store) == chunks(tiny_store.store)
    assert not (store / "staging").exists() or not complete(store / "staging")
    assert not store.with_name("f.zarr.work").exists()
    state = read_ledger(store)
    assert state.is_published
    assert all("torn" in damage.reason for damage in state.damaged)
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    assert server.run(**asked) == 0
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before


def kill_at_calls(server, tiny_store, store, chunks, calls, hows):
    """Kill one build again and again, each time at the given call of that run."""
    asked = {"images": str(tiny_store.images), "store": str(store), "scheduler": "synchronous"}
    for call, how in zip(calls, hows, strict=True):
        code = server.run(**asked, at={"call": call, "how": how})
        assert code in (-9, 0)
        holds_nothing_or_everything(store, tiny_store.store)
        if code == 0:  # that run had less left to do
            break
    go_on_to_the_end(server, tiny_store, store, chunks, "synchronous")


@pytest.mark.parametrize(
    ("share", "how"),
    [
        (0.01, "torn"),
        (0.3, "before"),
        (0.62, "after"),
        (0.9, "torn"),
        (0.985, "before"),
        (1.0, "after"),
    ],
)
def test_a_build_killed_at_a_step_goes_on_to_the_same_bytes(
    server, tiny_store, undisturbed, tmp_path, chunks, share, how
):
    calls, _ = undisturbed
    assert calls > 200
    asked = {
        "images": str(tiny_store.images),
        "store": str(tmp_path / "f.zarr"),
        "scheduler": "synchronous",
    }
    code = server.run(**asked, at={"call": max(1, round(share * calls)), "how": how})
    assert code == -9
    holds_nothing_or_everything(tmp_path / "f.zarr", tiny_store.store)
    go_on_to_the_end(server, tiny_store, tmp_path / "f.zarr", chunks, "synchronous")


def test_a_build_killed_by_the_clock_again_and_again(
    server, tiny_store, undisturbed, tmp_path, chunks
):
    _, seconds = undisturbed
    rng = random.Random(20240501)
    store = tmp_path / "f.zarr"
    killed = 0
    for _ in range(4):
        code = server.run(
            images=str(tiny_store.images),
            store=str(store),
            scheduler="threads",
            after=rng.uniform(0.1, 0.5) * seconds,
        )
        killed += code == -9
        holds_nothing_or_everything(store, tiny_store.store)
    assert killed >= 1
    go_on_to_the_end(server, tiny_store, store, chunks, "threads")


def test_work_that_is_done_is_not_done_again(server, tiny_store, undisturbed, tmp_path):
    """After a kill late in the build, the ledger of the second run measures no AOR anew."""
    calls, _ = undisturbed
    store = tmp_path / "f.zarr"
    asked = {"images": str(tiny_store.images), "store": str(store), "scheduler": "synchronous"}
    assert server.run(**asked, at={"call": round(0.85 * calls), "how": "after"}) == -9
    first = read_ledger(store)
    assert server.run(**asked) == 0
    second = read_ledger(store).records[len(first.records) :]
    before = {record.kind for record in first.records}
    assert {"begin", "registered", "staged", "intent", "done"} <= before
    assert "published" not in before
    again = [record.kind for record in second]
    assert again.count("published") == 1
    for kind in ("begin", "registered", "staged", "intent", "done"):
        assert kind not in again


def test_a_shard_or_staging_file_that_vanished_is_made_again(
    server, tiny_store, undisturbed, tmp_path, chunks
):
    calls, _ = undisturbed
    store = tmp_path / "f.zarr"
    asked = {"images": str(tiny_store.images), "store": str(store), "scheduler": "synchronous"}
    assert server.run(**asked, at={"call": round(0.85 * calls), "how": "after"}) == -9
    shard = store / "lightcurves/c/1/0/0/0"
    assert shard.is_file()
    shard.write_bytes(shard.read_bytes()[:-1])
    go_on_to_the_end(server, tiny_store, store, chunks, "synchronous")


def test_staging_whose_removal_was_cut_short_is_removed(server, tiny_store, tmp_path):
    """A kill just after publishing can leave staging without its metadata."""
    store = tmp_path / "f.zarr"
    asked = {"images": str(tiny_store.images), "store": str(store), "scheduler": "synchronous"}
    assert server.run(**asked) == 0
    left = store / "staging/c/0/0/0/0"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"measured and not removed")
    assert server.run(**asked) == 0
    assert not left.exists()


@pytest.mark.slow
def test_forty_kills_anywhere(server, tiny_store, undisturbed, tmp_path, chunks):
    calls, _ = undisturbed
    rng = random.Random(7)
    for number in range(14):
        store = tmp_path / str(number) / "f.zarr"
        times = [rng.randint(1, calls) for _ in range(3)]
        hows = [rng.choice(["before", "torn", "after"]) for _ in times]
        kill_at_calls(server, tiny_store, store, chunks, times, hows)
        shutil.rmtree(store.parent)
