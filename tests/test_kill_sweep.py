"""Builds, appends, relayouts and replacements killed at their renames and by the clock.

After every kill readers see the old cube or the new one, whole; run again, the build goes on where
it was and leaves the bytes of one that was never disturbed.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import zarr
from astropy.io import fits
from child_server import environment
from killing import (
    Server,
    are_the_same,
    bits,
    by_cube,
    by_zarr,
    copy_store,
    files_of,
)

from idfzarr.build.pipeline import build
from idfzarr.errors import StoreMissing, UnfinishedStore
from idfzarr.store.cube import Cube
from idfzarr.store.ledger import read_ledger
from idfzarr.store.place import place_of
from idfzarr.store.relayout import relayout
from idfzarr.store.root import read_root

TYPES = "ch1_aper2_*,ch2_aper2_original"
ADDED = "ch1_aper3_original,ch2_r3.5_original"
ACTIONS = ("build", "append", "overflow", "types", "replace")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@dataclass(frozen=True)
class Action:
    """A run of a build: what it starts from, and what it leads to undisturbed.

    ``known`` holds what readers may see; ``targets`` what is renamed, in order; ``files`` what is
    on disk at the end; ``work`` what the ledger notes.
    """

    name: str
    images: Path
    start: Path | None
    how: dict
    known: dict
    targets: tuple
    files: dict
    work: frozenset
    seconds: float

    def begin(self, folder):
        """Make the store that the action starts from."""
        store = folder / "f.zarr"
        folder.mkdir(exist_ok=True, parents=True)
        if self.start is not None:
            copy_store(self.start, store)
        return store

    def to_go_on(self, store):
        """Return what to ask for after a kill; a replacement that is done is not again."""
        done = self.name == "replace" and read_root(place_of(store)).generation > 0
        return {"scheduler": "synchronous"} if done else self.how

    @property
    def moments(self):
        """How many there are to be killed at: before and after each rename."""
        return 2 * len(self.targets)

    def commit(self):
        """Return the moment right before the rename that readers see."""
        last = ("f.zarr/zarr.json", "/f.zarr")
        return 2 * max(k for k, t in enumerate(self.targets) if t.endswith(last)) + 1


def seen_whole(action, store):
    """Check that readers see one of the known states, every value; return which, or none at all."""
    known = action.known
    try:
        seen = by_cube(store)
    except (StoreMissing, UnfinishedStore):
        assert "old" not in known, "the cube that was there is gone"
        assert not (store / "zarr.json").exists()
        with pytest.raises(FileNotFoundError, match=r"f\.zarr"):
            zarr.open_group(store, mode="r", use_consolidated=True)
        return "none"
    assert by_zarr(store, seen) == seen
    if action.name == "replace":
        return replaced_in_place(known, seen, store)
    name = next((name for name, values in known.items() if values == seen), None)
    assert name is not None, "neither the old cube nor the new one"
    return name


def replaced_in_place(known, seen, store):
    """Check a store in which an AOR is being measured again.

    That is done in place: until all is, an object has its old lightcurves or its new ones, and
    what follows the commit (times, offsets, zero points) is old or new array by array.
    """
    rows = zip(seen["lightcurves"], *(known[k]["lightcurves"] for k in known), strict=True)
    assert all(row in states for row, *states in rows)
    for name, values in seen.items():
        assert name == "lightcurves" or values in [known[k][name] for k in known]
    if read_root(place_of(store)).generation == 0:
        assert seen | {"lightcurves": None} == known["old"] | {"lightcurves": None}
        return "old"
    assert seen["lightcurves"] == known["new"]["lightcurves"]
    return "new"


def work_noted(records):
    """Return the work that lines of a ledger say is done, each piece by its name."""
    relayouts = {r.fields["update"] for r in records if r.kind == "relayout"}
    pieces = []
    for record in records:
        told = record.fields
        if record.kind == "registered":
            pieces.append(("registered", told["aor"], told["channel"]))
        elif record.kind == "staged":
            pieces.append(("staged", "update" in told, told["batch"]))
        elif record.kind == "relaid" or (
            record.kind == "done" and told.get("update") not in relayouts
        ):
            pieces.append((record.kind, "update" in told, told["key"]))
    return pieces


def brighten(path):
    with fits.open(path) as hdus:
        header, data = hdus[0].header, hdus[0].data * np.float32(1.5)
    fits.writeto(path, data, header, overwrite=True)


@pytest.fixture(scope="module")
def stores(tiny_images, tmp_path_factory):
    """Build the first three AORs of the tiny field; once more without room for a fourth."""
    folder = tmp_path_factory.mktemp("stores")
    part, again = folder / "part", folder / "again"
    shutil.copytree(tiny_images, part, ignore=shutil.ignore_patterns("IDF_gr4_*", "truth*"))
    shutil.copytree(part, again)
    brighten(again / "IDF_gr2_ch1_sci.fits")
    how = {"types": TYPES, "shard_objects": 4, "scheduler": "synchronous"}
    build(part, folder / "three.zarr", **how)
    copy_store(folder / "three.zarr", folder / "full.zarr")
    relayout(folder / "full.zarr", capacity=3)
    return part, again, folder / "three.zarr", folder / "full.zarr"


@pytest.fixture(scope="module")
def actions(server, stores, tiny_images, tmp_path_factory):
    """Run every action once without a kill."""
    part, again, three, full = stores
    once = {"scheduler": "synchronous"}
    plans = {
        "build": (tiny_images, None, once | {"types": TYPES, "shard_objects": 4}),
        "append": (tiny_images, three, once),
        "overflow": (tiny_images, full, once),
        "types": (part, three, once | {"types": ADDED}),
        "replace": (again, three, once | {"replace_aors": ["gr2"]}),
    }
    assert tuple(plans) == ACTIONS
    found = {}
    for name, (images, start, how) in plans.items():
        folder = tmp_path_factory.mktemp(name)
        store, log = folder / "f.zarr", folder / "log"
        before = ()
        if start is not None:
            copy_store(start, store)
            before = read_ledger(store).records
        begun = time.perf_counter()
        assert server.run(images, store, how, log=str(log)) == 0
        seconds = time.perf_counter() - begun
        known = {"new": by_cube(store)}
        if start is not None:
            known["old"] = by_cube(start)
            assert known["old"] != known["new"]
        pieces = work_noted(read_ledger(store).records[len(before) :])
        assert len(pieces) == len(set(pieces)) > 3
        targets = tuple(json.loads(log.read_text())["targets"])
        found[name] = Action(
            name, images, start, how, known, targets, files_of(store), frozenset(pieces), seconds
        )
        others = {p.name for p in folder.iterdir()}
        assert others == {"f.zarr", "f.zarr.ledger", "log"}
    return found


def kill_and_go_on(server, action, folder, *, how=None, **when):
    """Kill an action, look, go on, and compare; return what readers saw after the kill."""
    store = action.begin(folder)
    before = len(read_ledger(store).records)
    code = server.run(action.images, store, action.how | (how or {}), **when)
    assert code == -9 or "after" in when
    seen = seen_whole(action, store)
    killed = read_ledger(store).records
    first = work_noted(killed[before:])
    assert server.run(action.images, store, action.to_go_on(store) | (how or {})) == 0
    assert seen_whole(action, store) == "new"
    assert by_cube(store) == action.known["new"]
    are_the_same(files_of(store), action.files)
    second = work_noted(read_ledger(store).records[before:])[len(first) :]
    assert not set(first) & set(second), "what was done is done again"
    assert len(set(second)) == len(second)
    assert set(first) | set(second) == action.work
    names = {p.name for p in folder.iterdir()}
    assert names == {"f.zarr", "f.zarr.ledger"}
    assert not list(folder.rglob("*.partial")), "what the dead left half written is gone"
    shutil.rmtree(folder)
    return seen


@pytest.mark.parametrize(
    ("name", "share"),
    [("build", 0.55), ("append", 0.5), ("overflow", 0.35), ("types", 0.6), ("replace", 0.4)],
)
def test_a_run_killed_at_a_rename_goes_on_to_the_same_bytes(server, actions, tmp_path, name, share):
    action = actions[name]
    assert action.moments > 50
    moment = round(share * action.moments)
    expected = "none" if name == "build" else "old"
    assert kill_and_go_on(server, action, tmp_path / "k", moment=moment) == expected


@pytest.mark.parametrize("name", ["build", "append", "types"])
def test_readers_see_the_new_cube_from_one_rename_on(server, actions, tmp_path, name):
    action = actions[name]
    commit = action.commit()
    before = "none" if name == "build" else "old"
    assert kill_and_go_on(server, action, tmp_path / "k", moment=commit) == before
    assert kill_and_go_on(server, action, tmp_path / "k", moment=commit + 1) == "new"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kills"),
    [("build", 22), ("append", 18), ("overflow", 16), ("types", 14), ("replace", 12)],
)
def test_killed_all_over_its_renames(server, actions, tmp_path, name, kills):
    """The moments are spread evenly, and at every one about the commit."""
    action = actions[name]
    commit = action.commit()
    about = [m for m in range(commit - 2, commit + 4) if 1 <= m <= action.moments]
    spread = np.linspace(1, action.moments, kills - len(about)).round().astype(int).tolist()
    seen = [
        kill_and_go_on(server, action, tmp_path / str(moment), moment=moment)
        for moment in sorted({*about, *spread})
    ]
    assert set(seen) == ({"none", "new"} if name == "build" else {"old", "new"})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kills"),
    [("build", 6), ("append", 6), ("overflow", 4), ("types", 4), ("replace", 4)],
)
def test_killed_by_the_clock(server, actions, tmp_path, name, kills):
    action = actions[name]
    rng = random.Random(11)
    for number in range(kills):
        after = rng.uniform(0.05, 0.95) * action.seconds
        how = {"scheduler": "threads"}
        kill_and_go_on(server, action, tmp_path / str(number), how=how, after=after)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["append", "overflow", "types"])
def test_killed_again_and_again(server, actions, tmp_path, name):
    """Every run gets a few renames further; what the dead leave behind does not add up."""
    action = actions[name]
    store = action.begin(tmp_path / "k")
    seen, code = [], None
    while code != 0:
        assert len(seen) < 40
        code = server.run(action.images, store, action.how, moment=round(0.45 * action.moments))
        seen.append(seen_whole(action, store))
        assert len(list(store.parent.rglob("*.partial"))) <= 1
    assert len(seen) > 2
    assert seen[-1] == "new"
    are_the_same(files_of(store), action.files)


# ---------------------------------------------------------------- half-written files

WRITER = '''
import os, signal, sys
import numpy as np
from idfzarr.store.cube import Cube

cube = Cube(sys.argv[1], mode="r+")
replace = os.replace

def pause(source, target):
    """Wait where the file is written and has not got its name."""
    if "/lightcurves/c/" in target:
        print(source, flush=True)
        sys.stdin.readline()
    replace(source, target)

os.replace = pause
flux = np.full((4, *cube.shape[1::2]), 7, dtype=np.float32)
cube.write_block(0, flux=flux, flux_err=flux, flag=np.zeros_like(flux))
print("written", flush=True)
'''


@pytest.fixture
def writer(stores, tmp_path):
    """Return a store, a process that is writing into it, and the file that it is writing."""
    store = tmp_path / "f.zarr"
    copy_store(stores[2], store)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(store)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        yield store, process, Path(process.stdout.readline().strip())
        process.kill()


def build_again(stores, store):
    report = build(stores[0], store, scheduler="synchronous")
    assert not report.changed


def test_a_file_that_is_being_written_is_left_to_its_writer(stores, writer):
    store, process, partial = writer
    others = store / "lightcurves/c/0/0/0" / f"0.{'ab' * 16}.partial"  # as zarr-python names them
    others.write_bytes(b"half of a chunk")
    build_again(stores, store)
    assert partial.is_file()
    assert others.is_file()
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "written\n"
    assert not partial.exists()
    assert (Cube(store).block()[:4, :, 0] == 7).all()
    assert not [r for r in read_ledger(store).of("removed") if "files" in r.fields]


def test_a_file_whose_writer_was_killed_is_removed_and_the_ledger_says_so(stores, writer):
    store, process, partial = writer
    before = bits(Cube(store).block())
    in_ledger = Path(f"{store}.ledger") / partial.name
    shutil.copy(partial, in_ledger)
    build_again(stores, store)
    assert partial.is_file()
    assert not in_ledger.exists()  # nobody holds that one
    process.send_signal(signal.SIGKILL)
    process.wait()
    build_again(stores, store)
    assert not partial.exists()
    removed = [name for r in read_ledger(store).of("removed") for name in r.fields.get("files", ())]
    assert removed == [str(in_ledger), str(partial)]
    assert bits(Cube(store).block()) == before


def test_a_link_with_the_name_of_such_a_file_is_not_followed(stores, tmp_path):
    store = tmp_path / "f.zarr"
    copy_store(stores[2], store)
    precious = tmp_path / "precious"
    precious.write_bytes(b"of somebody else")
    (store / f"mjd.{'0' * 32}.idfzarr.partial").symlink_to(precious)
    build_again(stores, store)
    assert precious.read_bytes() == b"of somebody else"
