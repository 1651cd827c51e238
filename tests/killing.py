"""Builds that run in children and are killed there, and stores compared whole.

Readers see a store at the moment of a rename as it will be for ever if the machine stops there, so
a child that kills itself before and after each of them leaves every state there is. A small server
imports the package once and forks a child for each run.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import zarr
from child_server import FORKING, ChildServer

from idfzarr.store.cube import Cube

SERVER = (
    '''
import json, os, signal, sys, time
from idfzarr.build.pipeline import build
from idfzarr.errors import IdfzarrError
from idfzarr.store import exchange
import idfzarr.analysis.calibration, idfzarr.imaging.cosmics, idfzarr.store.images
import idfzarr.store.relayout, sep

def die():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)

def arm(moment):
    """Die before (odd moments) or after (even ones) a rename; return the list of all of them."""
    os.fsync = lambda handle: None  # it is for power cuts, which no test can make
    targets = []
    def watched(real):
        def call(*arguments, **options):
            targets.append(str(arguments[1]))
            if moment == 2 * len(targets) - 1:
                die()
            result = real(*arguments, **options)
            if moment == 2 * len(targets):
                die()
            return result
        return call
    os.replace, os.rename = watched(os.replace), watched(os.rename)
    exchange.exchange_at_once = watched(exchange.exchange_at_once)
    return targets

def run(asked):
    targets = arm(asked.get("moment", 0))
    said = ""
    try:
        build(asked["images"], asked["store"], **asked["how"])
    except IdfzarrError as error:
        said = f"{type(error).__name__}: {error}"
    if asked.get("log"):
        with open(asked["log"], "w") as file:
            json.dump({"targets": targets, "said": said}, file)
    return 1 if said else 0
'''
    + FORKING
)


class Server(ChildServer):
    """Runs builds in children that can be killed."""

    def __init__(self, folder):
        super().__init__("-c", SERVER, cwd=folder)

    def begin(self, images, store, how, **asked):
        """Start a build: ``moment`` and ``after`` say when it dies, ``log`` where it reports."""
        self.ask(asked | {"images": str(images), "store": str(store), "how": how})

    def end(self):
        """Return the exit code: 1 where the build was refused, -9 where it was killed."""
        return self.answer()

    def run(self, images, store, how, **asked):
        self.begin(images, store, how, **asked)
        return self.end()


def bits(array):
    """Return an array as something that compares bit for bit."""
    array = np.asarray(array)
    return array.tolist() if array.dtype.kind in "UOT" else (array.shape, array.tobytes())


def by_cube(store):
    """Return every value of a store as this package reads it; lightcurves object by object."""
    cube = Cube(store)
    seen = {name: bits(cube.coordinate(name)) for name in cube.coordinate_names}
    for group in ("catalogue", "variability"):
        table = cube.table(group)
        assert table
        seen |= {f"{group}/{name}": bits(values) for name, values in table.items()}
    return seen | {"lightcurves": [bits(row) for row in cube.block()]}


def by_zarr(store, names):
    """Return every value of a store as plain zarr-python reads it, by consolidated metadata."""
    group = zarr.open_group(store, mode="r", use_consolidated=True)
    seen = {name: bits(group[name][...]) for name in names if name != "lightcurves"}
    return seen | {"lightcurves": [bits(row) for row in group["lightcurves"][...]]}


def copy_store(source, target):
    shutil.copytree(source, target)
    shutil.copytree(f"{source}.ledger", f"{target}.ledger")


def files_of(store):
    """Return every file of a store, its root without what differs from build to build."""
    found = {
        path.relative_to(store).as_posix(): path.read_bytes()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }
    root = json.loads(found["zarr.json"])
    ours = root["attributes"]["idfzarr"]
    assert {"uuid", "created"} < ours.keys()
    root["attributes"]["idfzarr"] = {
        key: value
        for key, value in ours.items()
        if key not in {"uuid", "created"} and "crc" not in key
    }
    assert any(name.startswith("lightcurves/c/") for name in found)
    return found | {"zarr.json": json.dumps(root).encode()}


def are_the_same(found, wanted):
    """Check the bytes of every file, and name the files that differ."""
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []
