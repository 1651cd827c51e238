"""Small stores that grow, for the tests of append and relayout; run as a program, one to be killed.

Every measurement follows from the reqkey of its AOR, the id of its object and the name of its type,
so that a test knows what must stand anywhere, whoever measured it and however often.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import zarr

from idfzarr.store.append import begin_append, begin_replace
from idfzarr.store.cube import Cube
from idfzarr.store.published import open_published
from idfzarr.store.relayout import begin_relayout, relayout
from idfzarr.store.writer import CubeWriter

TYPES = ("ch1_auto_original", "ch2_aper2_clean")
ADDED = ("ch2_iso_original",)
OBJECTS = 7
OLD = (100, 101, 102, 103, 104)


def measured(keys, types=TYPES, *, objects=OBJECTS, version=0):
    """Return what is measured, (aor, object, type, value)."""
    out = np.empty((len(keys), objects, len(types), 3), dtype=np.float32)
    for a, key in enumerate(keys):
        for t, name in enumerate(types):
            rng = np.random.default_rng([int(key), zlib.crc32(name.encode()), version])
            out[a, :, t] = rng.normal(10, 3, size=(objects, 3))
            out[a, :, t, 2] = rng.integers(0, 8, size=objects)
            out[a, rng.integers(objects), t, :2] = np.nan
    return out


def as_cube(values):
    """Return measurements as the cube holds them, (object, type, value, aor)."""
    return values.transpose(1, 2, 3, 0)


def aor_table(keys):
    keys = np.asarray(keys, dtype=np.int64)
    return {
        "aor": keys,
        "aor_name": np.array([f"r{key}" for key in keys], dtype=str),
        "mjd_ch1": 53000.0 + keys,
        "mjd_ch2": 53000.5 + keys,
        "quality": keys % 3,
    }


def zeropoints(keys, n_types=2):
    keys = np.asarray(keys)
    return (np.arange(n_types)[:, None] + keys / 1000).astype(np.float32)


def built(path, keys, *, objects=OBJECTS, **options):
    """Build and publish a store of these AORs."""
    writer = CubeWriter.begin(path, settings={"sky": "plane"}).lay_out(
        objects={"object_id": np.arange(objects) * 3 + 1, "ra": np.linspace(265, 266, objects)},
        types=TYPES,
        aors=aor_table(keys),
        **{"shard_objects": 3, "staging_aors": 4, **options},
    )
    measure(writer, keys, objects=objects)
    calibrate(writer, keys)
    writer.publish()
    return path


def measure(writer, keys, types=TYPES, *, objects=OBJECTS, version=0):
    """Stage and write what is not done yet, as a build does."""
    staged, done = writer.staged(), writer.done()
    n_shards = writer.schema.layout.n_shards
    for batch in range(writer.n_batches):
        first, last = writer.batch_aors(batch)
        if batch not in staged and len(done) < n_shards:
            block = measured(keys[first:last], types, objects=objects, version=version)
            sources = [{"path": f"{key}.fits", "sha256": f"{version}"} for key in keys[first:last]]
            writer.write_staging(batch, block, sources=sources)
    for shard in range(n_shards):
        if shard not in done:
            writer.write_shard(shard, writer.assemble(shard))


def calibrate(writer, keys):
    schema = writer.schema
    points = zeropoints(keys, len(schema.types))
    writer.write_coordinate("zeropoint", points)
    n_aors = schema.layout.n_aors
    median = np.full((schema.layout.n_objects, len(schema.types)), n_aors, dtype=np.float32)
    writer.write_table(
        "variability", {"median": median}, dims=("object", "type"), attributes={"n_aors": n_aors}
    )


def append(path, keys, *, objects=OBJECTS, staging_aors=4):
    """Append AORs, or go on with it; nothing where they are there."""
    if set(keys) <= set(open_published(path).coordinates["aor"].tolist()):
        return
    writer = begin_append(path, aors=aor_table(keys), staging_aors=staging_aors)
    measure(writer, keys, writer.schema.types, objects=objects)
    calibrate(writer, keys)
    writer.publish()


def add_types(path, types=ADDED):
    """Add types, or go on with it; nothing where they are there."""
    cube = open_published(path)
    if set(types) <= set(cube.schema.types):
        return
    writer = begin_relayout(path, types=types, staging_aors=4)
    keys = cube.coordinates["aor"].tolist()
    measure(writer, keys, types, objects=cube.schema.layout.n_objects)
    calibrate(writer, keys)
    writer.publish()


def grow(path, capacity):
    """Lay out anew, or go on with it; nothing where the capacity is that."""
    if open_published(path).schema.layout.capacity != capacity:
        relayout(path, capacity=capacity)


def grow_without_exchange(path, capacity):
    """Lay out anew on a file system that cannot exchange two folders at once."""
    from idfzarr.store import exchange

    at_once = exchange.exchange_at_once
    exchange.exchange_at_once = lambda one, other: False
    try:
        grow(path, capacity)
    finally:
        exchange.exchange_at_once = at_once


def remeasure_once(path, keys):
    """Measure AORs again, or go on with it; nothing where that has been done."""
    if open_published(path).root.generation == 0:
        remeasure(path, keys, version=1)


def remeasure(path, keys, *, version):
    writer = begin_replace(path, aors=keys, staging_aors=4)
    measure(writer, keys, writer.schema.types, version=version)
    writer.publish()


def files_of(store, *, without=()):
    """Return the bytes of every file of a store."""
    store = Path(store)
    return {
        str(p.relative_to(store)): p.read_bytes()
        for p in sorted(store.rglob("*"))
        if p.is_file() and p.name not in without
    }


class Killer:
    """Counts what a process does to the disk, and kills it at one of these steps.

    A write is cut in half; before a rename, a removal or an fsync the process ends.
    """

    def __init__(self, at):
        self.at = at
        self.count = 0
        for name in ("write", "replace", "rename", "unlink", "fsync", "rmdir"):
            setattr(os, name, self._counted(name, getattr(os, name)))
        from idfzarr.store import exchange

        exchange.exchange_at_once = self._counted("exchange", exchange.exchange_at_once)

    def _counted(self, name, plain):
        def counted(*arguments, **options):
            self.count += 1
            if self.count == self.at:
                if name == "write":
                    plain(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            # fsync is for power cuts, which no test can make.
            return None if name == "fsync" else plain(*arguments, **options)

        return counted


ACTIONS = {
    "append": lambda path: append(path, [200, 201, 202, 203, 204, 205]),
    "overflow": lambda path: append(path, list(range(300, 320))),
    "add_types": add_types,
    "grow": lambda path: grow(path, 64),
    "grow_without_exchange": lambda path: grow_without_exchange(path, 64),
    "replace": lambda path: remeasure_once(path, [102, 100]),
}


def same(a, b):
    """Compare bit for bit."""
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def by_zarr(path):
    """Read the cube as others do, who know nothing of us."""
    return zarr.open_group(path, mode="r", use_consolidated=True)["lightcurves"][...]


def run_killed(action, path, at):
    """Run an action in a process that is killed at its n-th step on the disk."""
    command = [sys.executable, __file__, action, str(path), str(at)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def is_old_or_new(path, old, new):
    """Check that both readers see the old cube whole or the new one; return which."""
    if not Path(path).exists():
        return "none"
    seen = Cube(path).block()
    assert same(seen, by_zarr(path))
    assert same(seen, old) or same(seen, new)
    return "new" if same(seen, new) else "old"


def kill_and_resume(tmp_path, action, kills, seed, *, both=True):
    """Kill an action at random steps; check what is left, go on, and compare every file.

    Returns
    -------
    set
        What readers saw after the kills: ``old``, ``new``, ``none`` for no store.
    """
    start = tmp_path / "start"
    built(start / "a.zarr", OLD)
    shutil.copytree(start, tmp_path / "whole")
    whole = run_killed(action, tmp_path / "whole" / "a.zarr", 0)
    assert whole.returncode == 0, whole.stderr
    steps = int(whole.stdout)
    old, new = Cube(start / "a.zarr").block(), Cube(tmp_path / "whole" / "a.zarr").block()
    wanted = files_of(tmp_path / "whole" / "a.zarr")
    assert not any(".partial" in name or name.startswith("staging") for name in wanted)
    seen = set()
    # The last steps are those of the commit and what comes after it.
    chosen = random.Random(seed).sample(range(1, steps + 1), min(kills, steps))
    for at in [*chosen, *range(steps - 25, steps + 1, 8)]:
        folder = tmp_path / f"killed{at}"
        shutil.copytree(start, folder, dirs_exist_ok=True)
        path = folder / "a.zarr"
        killed = run_killed(action, path, at)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if both:
            seen.add(is_old_or_new(path, old, new))
        ACTIONS[action](str(path))
        assert same(Cube(path).block(), new)
        assert not list(folder.rglob("*.partial")), "what the dead left half written is gone"
        found = files_of(path)
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if wanted[name] != found[name]] == []
        others = {p.name for p in folder.iterdir()} - {"a.zarr", "a.zarr.ledger"}
        assert not others, "nothing is left beside the store"
        shutil.rmtree(folder)
    return seen


def main():
    action, path, at = sys.argv[1:]
    killer = Killer(int(at))
    ACTIONS[action](path)
    sys.stdout.write(f"{killer.count}\n")


if __name__ == "__main__":
    main()
