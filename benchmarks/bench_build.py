"""Time the main job: simulate a field, build its cube, and measure memory; each in its own process.

    python benchmarks/bench_build.py [--aors 64 --objects 600 --size 512] [--runs 3]

Goals at the default size on 2 cores: a build from FITS to the published cube in at most 45 s after
imports, with at most 1.5 GB; the whole demonstration in at most 90 s.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_BUILD = """
import json, resource, sys, time
from idfzarr.build.pipeline import build
begun = time.perf_counter()
report = build(sys.argv[1], sys.argv[2])
spent = time.perf_counter() - begun
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"seconds": spent, "peak": peak, "steps": report.seconds, "ok": report.ok}))
"""


def run_build(images: Path, store: Path) -> dict[str, object]:
    """Build in a process of its own and return what it measured of itself."""
    told = subprocess.run(
        [sys.executable, "-c", _BUILD, str(images), str(store)],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(told.stdout.splitlines()[-1])


def run_demo(folder: Path, size: list[str]) -> tuple[float, int]:
    """Run the demonstration as a person would; return seconds and its exit code."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "idfzarr", "demo", str(folder), "--quiet", *size]
    code = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    return time.perf_counter() - begun, code


def main() -> None:
    """Print a table of wall times and memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--aors", type=int, default=64)
    parser.add_argument("--objects", type=int, default=600)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    size = [f"--{name}={getattr(asked, name)}" for name in ("aors", "objects", "size")]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        demos = [run_demo(root / f"demo{k}", size) for k in range(asked.runs)]
        images = root / "demo0" / "images"
        builds = [run_build(images, root / f"{k}.zarr") for k in range(asked.runs)]
    field = f"{asked.aors} AORs x 2 channels x {asked.size} px, {asked.objects} objects"
    print(f"{field}; load {os.getloadavg()[0]:.1f}")
    print(f"build  {spread([float(b['seconds']) for b in builds])}, goal 45 s")
    for name in builds[0]["steps"]:
        spent = statistics.median(float(b["steps"][name]) for b in builds)
        print(f"       {name:<28} {spent:6.1f} s")
    peak = max(float(b["peak"]) for b in builds) / 1e9
    print(f"       peak memory {peak:.2f} GB, goal 1.5 GB")
    codes = sorted({code for _, code in demos})
    print(f"demo   {spread([spent for spent, _ in demos])}, goal 90 s; exit codes {codes}")


def spread(seconds: list[float]) -> str:
    """Return median and range as people read them."""
    low, high = min(seconds), max(seconds)
    return f"median {statistics.median(seconds):.1f} s ({low:.1f} to {high:.1f} in {len(seconds)})"


if __name__ == "__main__":
    main()
