"""Time the append of one AOR to a cube of 2,000 objects x 40 types x 1,200 AORs.

    python benchmarks/bench_append.py [--objects 2000 --aors 1200 --runs 3]

The cube is built from a few simulated AORs; the others are appended to it as numbers, since 1,200
simulated AORs would take an hour. Then mosaics of one more AOR are put beside the first ones, and
``idfzarr.build`` is timed, from reading its files to the published cube, in a process of its own
after imports. Goal: 4 s on 2 workers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from idfzarr.build.pipeline import build
from idfzarr.imaging.simulate import simulate
from idfzarr.store.append import begin_append
from idfzarr.store.cube import Cube

_SIMULATED = 5
_APPEND = """
import json, sys, time
from idfzarr.build.pipeline import build
begun = time.perf_counter()
report = build(sys.argv[1], sys.argv[2], workers=2)
spent = time.perf_counter() - begun
print(json.dumps({"seconds": spent, "steps": report.seconds, "shape": [
    report.n_objects, report.n_types, report.n_aors], "measured": report.aors_measured}))
"""


def make_images(folder: Path, objects: int) -> tuple[Path, Path]:
    """Simulate mosaics; return the folder of all, and one without the last AOR."""
    every, first = folder / "all", folder / "first"
    size = round(512 * (objects / 500) ** 0.5)
    simulate(every, aors=_SIMULATED, objects=round(1.25 * objects), size=size, seed=1)
    first.mkdir()
    for path in every.iterdir():
        if not path.name.startswith((f"IDF_gr{_SIMULATED}_", "truth")):
            shutil.copy2(path, first / path.name)
    return every, first


def fill(store: Path, aors: int) -> None:
    """Append AORs as numbers until there are so many."""
    cube = Cube(store)
    n_objects, n_types, _, there = cube.shape
    start = cube.block()
    level = np.nanmedian(start[:, :, 0], axis=-1)
    error = np.nanmedian(start[:, :, 1], axis=-1)
    number = np.arange(there, aors)
    mjd = 40000.0 + number
    table = {"aor": 10**6 + number, "aor_name": [f"filled{k}" for k in number], "mjd": mjd}
    appender = begin_append(store, aors=table, staging_aors=16)
    rng = np.random.default_rng(1)
    for batch in range(appender.n_batches):
        first, last = appender.batch_aors(batch)
        block = np.zeros((last - first, n_objects, n_types, 3), dtype=np.float32)
        block[..., 1] = error * rng.uniform(0.9, 1.1, (last - first, 1, 1))
        block[..., 0] = level + block[..., 1] * rng.normal(size=block.shape[:3])
        appender.write_staging(batch, block)
    for shard in range(appender.schema.layout.n_shards):
        appender.write_shard(shard, appender.assemble(shard))
    appender.publish()


def run_append(images: Path, store: Path) -> dict[str, object]:
    """Append in a process of its own and return what it measured of itself."""
    command = [sys.executable, "-c", _APPEND, str(images), str(store)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(told.stdout.splitlines()[-1])


def main() -> None:
    """Print wall times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--aors", type=int, default=1200)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        every, first = make_images(root, asked.objects)
        build(first, root / "cube.zarr")
        fill(root / "cube.zarr", asked.aors)
        runs = []
        for k in range(asked.runs):
            store = root / f"run{k}.zarr"
            for suffix in ("", ".ledger"):
                shutil.copytree(f"{root / 'cube.zarr'}{suffix}", f"{store}{suffix}")
            runs.append(run_append(every, store))
    seconds = [float(run["seconds"]) for run in runs]
    shape = " x ".join(map(str, runs[0]["shape"]))
    print(f"append of {runs[0]['measured']} AOR to {shape}; load {os.getloadavg()[0]:.1f}")
    print(
        f"median {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f} in "
        f"{len(seconds)}), goal 4 s on 2 workers"
    )
    for step in runs[0]["steps"]:
        print(f"  {step:<28} {statistics.median(float(r['steps'][step]) for r in runs):6.2f} s")


if __name__ == "__main__":
    main()
