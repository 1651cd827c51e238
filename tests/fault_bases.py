"""The small stores that faults are made in; run as a program, so that their writers are dead.

``FOLDER/bases/NAME/f.zarr`` with its ledger, and ``FOLDER/images``, which the ledgers name. Stores
whose writer was killed are taken as the disk stood at a step: that is what a SIGKILL leaves.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TYPES = "ch1_aper2_*,ch2_aper2_original"
FIELD = {"aors": 4, "objects": 12, "size": 64, "seed": 5}
CODECS = ("lz4", "none")
HOW = {"types": TYPES, "shard_objects": 4, "scheduler": "synchronous"}
SHARED: list[Bases] = []


@dataclass(frozen=True)
class Bases:
    """Where the stores lie."""

    folder: Path

    @property
    def images(self):
        return self.folder / "images"

    @property
    def names(self):
        return sorted(p.name for p in (self.folder / "bases").iterdir())

    def of(self, kind):
        """Return the folders of a kind: built, grown, begun, appending, committed, older."""
        found = [self.folder / "bases" / n for n in self.names if n.split("-")[0] == kind]
        assert found, kind
        return found

    def copy(self, base, folder):
        """Copy a store with its ledger; return the store."""
        shutil.copytree(base, folder, dirs_exist_ok=True)
        return folder / "f.zarr"

    def older(self, base):
        """Return the store that a grown one was before."""
        return self.folder / "bases" / base.name.replace("grown", "older") / "f.zarr"


class Snapshots:
    """Copies a folder before every n-th rename: what would be there, had it been killed then."""

    def __init__(self, folder, bases, *, every):
        self.folder, self.bases, self.every = folder, bases, every
        self.count = 0
        self.taken = []

    def __enter__(self):
        self.plain = os.replace

        def counted(source, target):
            self.count += 1
            root = str(target).endswith("f.zarr/zarr.json")
            if root or self.count % self.every == 0:
                self.take("before")
            self.plain(source, target)
            if root:
                self.take("after")

        os.replace = counted
        return self

    def __exit__(self, *_):
        os.replace = self.plain

    def take(self, when):
        to = self.bases / f"snapshot-{self.folder.name}-{self.count:04d}-{when}"
        shutil.copytree(self.folder, to)
        self.taken.append(to)


def generation(store):
    """Return what the root counts, None where there is none."""
    root = store / "zarr.json"
    if not root.is_file():
        return None
    return json.loads(root.read_bytes())["attributes"]["idfzarr"].get("generation", 0)


def make(folder):
    """Simulate the field and build the stores."""
    from idfzarr.build.pipeline import build
    from idfzarr.imaging.simulate import simulate

    os.fsync = lambda handle: None  # for power cuts, which no test can make
    images, bases = folder / "images", folder / "bases"
    bases.mkdir(parents=True)
    simulate(images, **FIELD)
    fewer = folder / "fewer"
    fewer.mkdir()
    for path in images.iterdir():
        if "_gr4_" not in path.name and not path.name.startswith("truth"):
            shutil.copy2(path, fewer)
    for codec in CODECS:
        built = bases / f"built-{codec}"
        built.mkdir()
        with Snapshots(built, bases, every=23) as steps:
            build(images, built / "f.zarr", codec=codec, **HOW)
        name_snapshots(steps, codec, before="begun")
        older, grown = bases / f"older-{codec}", bases / f"grown-{codec}"
        older.mkdir()
        build(fewer, older / "f.zarr", codec=codec, **HOW)
        shutil.copytree(older, grown)
        with Snapshots(grown, bases, every=11) as steps:
            build(images, grown / "f.zarr", scheduler="synchronous")
        name_snapshots(steps, codec, before="appending", after="committed")


def name_snapshots(steps, codec, *, before, after=None):
    """Name what was taken after what it is; what is neither goes."""
    for number, path in enumerate(steps.taken):
        counted = generation(path / "f.zarr")
        staging = (path / "f.zarr/staging").exists()
        if before == "begun":
            kind = before if counted is None and staging else None
        elif counted == 0:
            kind = before if (path / "f.zarr/staging/next/update.json").exists() else None
        else:
            kind = after if staging else None
        if kind is None:
            shutil.rmtree(path)
        else:
            path.rename(path.with_name(f"{kind}-{codec}-{number:03d}"))


def shared_bases(factory):
    """Return the stores, built once in a session of tests."""
    if not SHARED:
        SHARED.append(bases_in(factory.mktemp("faults")))
    return SHARED[0]


def bases_in(folder):
    """Build the stores in a process of their own and return where they are."""
    command = [sys.executable, __file__, str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ended.returncode == 0, ended.stderr
    return Bases(Path(folder))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
