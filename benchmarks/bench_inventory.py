"""Time an inventory: indexes of full-size shards, the checksums of a scrub, and a large cube.

    python benchmarks/bench_inventory.py [--shards 10000] [--scrub-gb 1] [--folder DIR]

Goals on 2 cores, the files in the page cache: 10,000 shards of 5,120 chunks a second at level
``structure``; a scrub at 1 GB/s for chunks of 8 kB and more, or within 1.5 times of reading the
files alone; a cube of 50,000 objects at ``structure`` in 1 s; 256 MB of memory at most.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from idfzarr.store.ledger import Ledger
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from idfzarr.store.layout import Layout

N_TYPES = 40
SHARD_OBJECTS = 128
N_AORS = 1200

_LOOK = """
import json, sys, time
from idfzarr.care.inventory import inventory
store, level, runs, workers = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
spent = []
for _ in range(runs):
    begun = time.perf_counter()
    seen = inventory(store, level=level, workers=workers)
    spent.append(time.perf_counter() - begun)
# Not ru_maxrss, which begins with that of the process it was made by.
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) * 1024
kinds = sorted({one.kind for one in seen.findings})
print(json.dumps({"seconds": spent, "peak": peak, "kinds": kinds, "read": seen.n_read}))
"""

_READ = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
def read(path):
    room = bytearray(1 << 20)
    handle = os.open(path, os.O_RDONLY)
    while os.readv(handle, [room]):
        pass
    os.close(handle)
begun = time.perf_counter()
with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    list(pool.map(read, sys.argv[2:]))
print(time.perf_counter() - begun)
"""


def types() -> list[str]:
    """Return the names of the 40 usual types."""
    methods = ["auto", "iso", *(f"aper{n}" for n in range(1, 9))]
    return [f"{c}_{m}_{i}" for c in ("ch1", "ch2") for m in methods for i in ("original", "clean")]


def lay_out(store: Path, n_objects: int, n_aors: int = N_AORS) -> Layout:
    """Write and publish an empty cube."""
    rows = np.arange(n_objects)
    writer = CubeWriter.begin(store).lay_out(
        objects={"object_id": rows + 1, "ra": 265 + rows * 1e-6, "dec": 69 - rows * 1e-6},
        types=types(),
        aors={"aor": np.arange(n_aors), "mjd": 53000.0 + np.arange(n_aors)},
        shard_objects=SHARD_OBJECTS,
    )
    writer.publish(complete=False)
    return writer.schema.layout


def sealed(data: bytes) -> bytes:
    """Return bytes with their crc32c after them."""
    return data + google_crc32c.value(data).to_bytes(4, "little")


def sparse_shards(store: Path, layout: Layout, chunk: int) -> int:
    """Write every shard as a hole of chunks, with an index that is whole; note them as done."""
    slots = layout.chunks_per_shard
    noted = []
    size = 0
    for shard in range(layout.n_shards):
        first, last = layout.rows(shard)
        there = (last - first) * layout.n_types
        table = np.full((slots, 2), 2**64 - 1, dtype="<u8")
        table[:there, 0] = np.arange(there) * chunk
        table[:there, 1] = chunk
        index = sealed(table.tobytes())
        path = store / layout.key(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.seek(there * chunk)
            file.write(index)
        size = there * chunk + len(index)
        told = {"key": layout.key(shard), "size": size, "crc32c": 0, "aors": layout.n_aors}
        noted.append(told)
    root = json.loads((store / "zarr.json").read_bytes())
    ledger = Ledger(store, root["attributes"]["idfzarr"]["uuid"])
    ledger.append_all("intent", noted)
    ledger.append_all("done", noted)
    return layout.n_shards


def full_shards(store: Path, layout: Layout, chunk: int) -> int:
    """Write every shard with random chunks, each with its crc32c; return their bytes."""
    rng = np.random.default_rng(chunk)
    there = layout.chunks_per_shard
    table = np.stack([np.arange(there) * chunk, np.full(there, chunk)], axis=1).astype("<u8")
    index = sealed(table.tobytes())
    body = b"".join(sealed(rng.bytes(chunk - 4)) for _ in range(there))
    for shard in range(layout.n_shards):
        path = store / layout.key(shard)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body + index)
    return layout.n_shards * (len(body) + len(index))


def look(store: Path, level: str, runs: int, workers: int) -> dict[str, object]:
    """Take inventories in a process of its own and return what it measured of itself."""
    command = [sys.executable, "-c", _LOOK, str(store), level, str(runs), str(workers)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(told.stdout.splitlines()[-1])
    return found


def read_alone(store: Path, workers: int) -> float:
    """Return the seconds that it takes to read every shard and do nothing with it."""
    paths = [str(path) for path in (store / "lightcurves/c").rglob("0") if path.is_file()]
    command = [sys.executable, "-c", _READ, str(workers), *paths]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(told.stdout)


def time_structure(folder: Path, n_shards: int, runs: int, workers: int) -> None:
    """Print how fast indexes are read and judged."""
    store = folder / "sparse.zarr"
    layout = lay_out(store, n_shards * SHARD_OBJECTS)
    sparse_shards(store, layout, 8000)
    for level in ("listing", "structure"):
        found = look(store, level, runs, workers)
        print(row(f"{level}, {n_shards} shards of {layout.chunks_per_shard}", found, n_shards))


def time_large(folder: Path, n_objects: int, runs: int, workers: int) -> None:
    """Print how long the cube of the design takes."""
    store = folder / "large.zarr"
    layout = lay_out(store, n_objects)
    sparse_shards(store, layout, 8000)
    found = look(store, "structure", runs, workers)
    print(row(f"structure, {n_objects} objects", found, layout.n_shards))


def time_scrub(folder: Path, gigabytes: float, runs: int, workers: int) -> None:
    """Print how fast checksums are verified, against reading alone."""
    for chunk in (2000, 8000, 64000):
        store = folder / f"scrub{chunk}.zarr"
        n_shards = max(1, round(gigabytes * 1e9 / (chunk * SHARD_OBJECTS * N_TYPES)))
        layout = lay_out(store, n_shards * SHARD_OBJECTS, n_aors=max(N_AORS, chunk // 12))
        n_bytes = full_shards(store, layout, chunk)
        read_alone(store, workers)  # into the page cache
        found = look(store, "scrub", runs, workers)
        alone = statistics.median(read_alone(store, workers) for _ in range(runs))
        spent = statistics.median(found["seconds"])
        ratio = f"{spent / alone:.2f} x reading alone ({n_bytes / alone / 1e9:.1f} GB/s)"
        rate = f"{n_bytes / spent / 1e9:.2f} GB/s, {n_bytes / chunk / spent / 1e6:.2f} M chunks/s"
        peak = f"{float(found['peak']) / 1e6:.0f} MB"
        print(f"scrub, chunks of {chunk:>6} B: {rate}; {ratio}; {peak}; {found['kinds']}")


def row(what: str, found: dict[str, object], n_shards: int) -> str:
    """Return a line of the table."""
    spent = [float(one) for one in found["seconds"]]
    middle = statistics.median(spent)
    told = f"{middle:.2f} s ({min(spent):.2f} to {max(spent):.2f})"
    return (
        f"{what}: {told}, {n_shards / middle:,.0f} shards/s; {float(found['peak']) / 1e6:.0f} MB; "
        f"{found['kinds']}"
    )


def main() -> None:
    """Print a table of rates and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--objects", type=int, default=50_000)
    parser.add_argument("--scrub-gb", type=float, default=1.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--folder", type=Path, help="where to put the stores; removed afterwards")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as scratch:
        folder = Path(scratch)
        print(f"load {os.getloadavg()[0]:.1f}, {asked.workers} threads, median of {asked.runs}")
        time_large(folder, asked.objects, asked.runs, asked.workers)
        if asked.shards:
            time_structure(folder, asked.shards, asked.runs, asked.workers)
        if asked.scrub_gb:
            time_scrub(folder, asked.scrub_gb, asked.runs, asked.workers)


if __name__ == "__main__":
    main()
