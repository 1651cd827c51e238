"""The cube against its rivals: reads, scans, bytes and building, on the same lightcurves.

    python benchmarks/bench_storage.py --objects 2000 --aors 1200 --readme

Rivals are SQLite (default, tuned, compressed), DuckDB, Parquet, HDF5, Lance, and zarr-python,
xarray and tensorstore on the store of this package; a memory-mapped array is the limit. Timings are
of a warm page cache unless they say cold; making the lightcurves, importing and opening are left
out; building counts to the last fsync.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rivals import everyone, left_out, modules
from rivals.protocol import Source, files_of
from storage_report import Results, Store, machine, report, rewrite, summarised
from storage_timing import Plan, worker


def build_all(plan: Plan, stores: Path) -> dict[str, Store]:
    """Build every store once and return what each took."""
    source = Source.of(plan.field)
    built: dict[str, Store] = {}
    for rival in everyone():
        if rival.store in built:
            continue
        folder = stores / rival.store
        folder.mkdir(parents=True)
        os.sync()  # what others left to be written is not this one's time
        begin = time.perf_counter()
        rival.build(source, folder)
        seconds = time.perf_counter() - begin
        built[rival.store] = Store(sum(p.stat().st_size for p in files_of(folder)), seconds)
        _say(f"built {rival.store}: {seconds:.1f} s, {built[rival.store].bytes / 1e6:.0f} MB")
    return built


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def in_process(kind: str, group: str, plan: Plan, stores: Path, turn: int = 0) -> dict[str, Any]:
    """Run a pass in a fresh process and return its nanoseconds by figure and rival."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        request = {
            "kind": kind,
            "group": group,
            "turn": turn,
            "plan": dataclasses.asdict(plan),
            "stores": str(stores),
            "result": str(result),
        }
        subprocess.run([sys.executable, __file__, "--worker", json.dumps(request)], check=True)
        found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def cold_passes(plan: Plan, stores: Path, turns: int) -> dict[str, dict[str, list[int]]]:
    """Read every rival that takes part from a dropped page cache, by turns."""
    groups = [m.name for m in modules() if any(rival.cold for rival in m.rivals)]
    rng = random.Random(plan.seed)
    found: dict[str, list[int]] = {}
    for turn in range(turns):
        rng.shuffle(groups)
        for group in groups:
            for name, elapsed in in_process("cold", group, plan, stores, turn)["cold"].items():
                found.setdefault(name, []).extend(elapsed)
    return {"cold": found}


def measure(plan: Plan, stores: Path, *, cold_turns: int) -> Results:
    """Build everything, time everything."""
    built = build_all(plan, stores)
    raw: dict[str, Any] = {}
    for group in ("quiet", "threaded"):
        _say(f"reading: {group}")
        raw[group] = in_process("read", group, plan, stores)
    _say("reading: engine")
    raw["engine"] = in_process("engine", "engine", plan, stores)
    if cold_turns and hasattr(os, "posix_fadvise"):
        _say("reading: cold")
        raw["cold"] = cold_passes(plan, stores, cold_turns)
    field = plan.field
    return Results(
        passes=summarised(raw),
        stores=built,
        names={rival.name: rival.store for rival in everyone()},
        points=field.n_objects * len(field.types) * field.n_aors,
    )


def _notes() -> list[str]:
    return [f"{rival.name}: {rival.note}." for rival in everyone() if rival.note] + left_out()


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--aors", type=int, default=1200)
    parser.add_argument(
        "--reads", type=int, default=5000, help="single reads of each rival at most"
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="for each figure of each rival")
    parser.add_argument("--cold-turns", type=int, default=5, help="fresh processes of each reader")
    parser.add_argument(
        "--folder", type=Path, help="where the stores go; a temporary one unless given"
    )
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--readme", action="store_true", help="rewrite the table in README.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.worker:
        worker(asked.worker)
        return
    plan = Plan(objects=asked.objects, aors=asked.aors, reads=asked.reads, seconds=asked.seconds)
    found = machine()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        results = measure(plan, Path(folder), cold_turns=asked.cold_turns)
    size = f"{plan.objects} objects x {len(plan.field.types)} types x {plan.aors} AORs"
    text = report(results, found, size=size, notes=_notes())
    print(text)
    if asked.json:
        written = {"machine": found, "plan": dataclasses.asdict(plan)} | dataclasses.asdict(results)
        asked.json.write_text(json.dumps(written, indent=1), encoding="utf-8")
    if asked.readme:
        rewrite(Path(__file__).resolve().parents[1] / "README.md", text)


if __name__ == "__main__":
    main()
