"""Turn timings into ratios, goals and a table."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

BEGIN, END = "<!-- bench:storage -->", "<!-- /bench:storage -->"
SQLITE, TUNED, ZLIB = (
    "SQLite BLOB",
    "SQLite tuned (16 kB pages, integer key)",
    "SQLite compressed (zlib)",
)
LZ4, NONE, PRECISION = "idfzarr, lz4 (default)", "idfzarr, none", "idfzarr, lz4, precision 0.01"
ZARR, LIMIT = "zarr-python on the same store", "memory-mapped .npy (limit)"
_LIBRARIES = (
    "numpy",
    "zarr",
    "numcodecs",
    "xarray",
    "tensorstore",
    "h5py",
    "duckdb",
    "pyarrow",
    "pylance",
)


@dataclass(frozen=True)
class Figure:
    """What one rival took for one thing: microseconds, and times the default SQLite BLOB."""

    calls: int
    median: float
    p25: float
    p99: float
    ratio: float | None

    @classmethod
    def of(cls, elapsed: Sequence[int], anchor: Sequence[int] | None) -> Figure:
        """Summarise nanoseconds against those of the anchor in the same process."""
        p25, median, p99 = (float(v) / 1e3 for v in np.percentile(elapsed, [25, 50, 99]))
        ratio = median / (float(np.median(anchor)) / 1e3) if anchor else None
        return cls(len(elapsed), median, p25, p99, ratio)


@dataclass(frozen=True)
class Store:
    """A store as it was built."""

    bytes: int
    seconds: float


@dataclass(frozen=True)
class Results:
    """Everything that was measured; `passes` holds figures by pass, figure and rival."""

    passes: dict[str, dict[str, dict[str, Figure]]]
    stores: dict[str, Store]
    names: dict[str, str]
    points: int

    def figure(self, what: str, rival: str) -> Figure | None:
        """Return a figure from the first pass that has it."""
        for figures in self.passes.values():
            if rival in figures.get(what, {}):
                return figures[what][rival]
        return None

    def over(
        self, what: str, rival: str, other: str, *, percentile: str = "median"
    ) -> float | None:
        """Return how many times the other's time a rival took, within one process."""
        for figures in self.passes.values():
            found = figures.get(what, {})
            if rival in found and other in found:
                return float(getattr(found[rival], percentile) / getattr(found[other], percentile))
        return None

    def size(self, rival: str, other: str) -> float | None:
        """Return a ratio of bytes on disk."""
        ours, theirs = (self.stores.get(self.names.get(name, "")) for name in (rival, other))
        return ours.bytes / theirs.bytes if ours and theirs else None


@dataclass(frozen=True)
class Goal:
    """A figure that was promised."""

    what: str
    limit: float
    measured: Callable[[Results], float | None]
    at_least: bool = False

    def reached(self, value: float) -> bool:
        """Say whether a value keeps the promise."""
        return value >= self.limit if self.at_least else value <= self.limit


def _writing(results: Results) -> float | None:
    store = results.stores.get(results.names.get(LZ4, ""))
    return results.points / store.seconds / 1e6 if store else None


GOALS = (
    Goal("one lightcurve, lz4: x SQLite", 0.9, lambda r: r.over("one", LZ4, SQLITE)),
    Goal("the same, 99th percentile", 1.0, lambda r: r.over("one", LZ4, SQLITE, percentile="p99")),
    Goal("one lightcurve, lz4: x SQLite tuned", 1.0, lambda r: r.over("one", LZ4, TUNED)),
    Goal("one lightcurve, lz4: x SQLite compressed", 0.2, lambda r: r.over("one", LZ4, ZLIB)),
    Goal("one lightcurve, none: x SQLite", 0.45, lambda r: r.over("one", NONE, SQLITE)),
    Goal(
        "one lightcurve: zarr-python x ours, same store",
        100,
        lambda r: r.over("one", ZARR, LZ4),
        at_least=True,
    ),
    Goal("one lightcurve, cold, lz4: x SQLite", 0.5, lambda r: r.over("cold", LZ4, SQLITE)),
    Goal(
        "all 40 types of an object, lz4: x SQLite", 0.5, lambda r: r.over("all types", LZ4, SQLITE)
    ),
    Goal("100 random lightcurves, lz4: x SQLite", 0.8, lambda r: r.over("100 random", LZ4, SQLITE)),
    Goal("full scan, lz4: x SQLite", 0.6, lambda r: r.over("scan", LZ4, SQLITE)),
    Goal("full scan, lz4: x memory-mapped array", 2.0, lambda r: r.over("scan", LZ4, LIMIT)),
    Goal("bytes, lz4, lossless: x SQLite", 0.65, lambda r: r.size(LZ4, SQLITE)),
    Goal("bytes, lz4, precision 0.01: x SQLite", 0.4, lambda r: r.size(PRECISION, SQLITE)),
    Goal(
        "shard writing, lz4: million points a second, fsync included", 10, _writing, at_least=True
    ),
    Goal(
        "ds.flux.sel(...).load() by the engine: x a Dataset in memory",
        1.5,
        lambda r: r.over("selection", "engine", "memory"),
    ),
)


def summarised(
    raw: dict[str, dict[str, dict[str, list[int]]]],
) -> dict[str, dict[str, dict[str, Figure]]]:
    """Summarise nanoseconds by pass, figure and rival."""
    return {
        group: {
            what: {name: Figure.of(ns, found.get(SQLITE)) for name, ns in found.items()}
            for what, found in figures.items()
        }
        for group, figures in raw.items()
    }


def machine() -> dict[str, str]:
    """Describe the machine and the libraries."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in _lines(Path("/proc/cpuinfo"))
            if line.startswith("model name")
        ),
        platform.processor() or platform.machine(),
    )
    versions = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _lines(path: Path) -> Iterable[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up; all but the first lean to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    lines.insert(1, rule)
    return "\n".join(
        "| "
        + " | ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        + " |"
        for line in lines
    )


def _cell(figure: Figure | None, unit: float, digits: int) -> str:
    if figure is None:
        return ""
    ratio = (
        ""
        if figure.ratio is None
        else f" ({figure.ratio:.2f})"
        if figure.ratio < 10
        else f" ({figure.ratio:.0f})"
    )
    return f"{figure.median / unit:.{digits}f}{ratio}"


def readers_table(results: Results) -> str:
    """Return the table of readers: medians, and in brackets times the default SQLite BLOB."""
    header = (
        "store and reader", "one, us", "p99, us", "cold, us", "40 types, ms", "100 random, ms",
        "scan, s", "MB", "build, s",
    )  # fmt: skip
    rows = []
    for name, store_name in results.names.items():
        one, store = results.figure("one", name), results.stores.get(store_name)
        rows.append((
            name,
            _cell(one, 1, 1),
            f"{one.p99:.0f}" if one else "",
            _cell(results.figure("cold", name), 1, 0),
            _cell(results.figure("all types", name), 1e3, 2),
            _cell(results.figure("100 random", name), 1e3, 2),
            _cell(results.figure("scan", name), 1e6, 2),
            f"{store.bytes / 1e6:.0f}" if store else "",
            f"{store.seconds:.1f}" if store else "",
        ))  # fmt: skip
    return table(header, rows)


def goals_table(results: Results) -> str:
    """Return the table of goals: each with what was measured and whether it was reached."""
    rows = []
    for goal in GOALS:
        value = goal.measured(results)
        sign = ">=" if goal.at_least else "<="
        shown = "not measured" if value is None else f"{value:.2f}"
        verdict = "" if value is None else "reached" if goal.reached(value) else "MISSED"
        rows.append((goal.what, f"{sign} {goal.limit:g}", shown, verdict))
    return table(("goal", "limit", "measured", ""), rows)


def report(results: Results, found: dict[str, str], *, size: str, notes: Sequence[str]) -> str:
    """Return the whole report as Markdown."""
    about = (
        f"Measured on {found['date']}, {found['cpu']}, {found['cores']} cores, load average "
        f"{found['load']} at the start; {size}. {found['versions']}.\n\n"
        "Medians; in brackets, times the default SQLite BLOB in the same process. One read is "
        "flux, its error and the flag of one lightcurve by object id and type name, as arrays."
    )
    parts = [about, readers_table(results), goals_table(results), *notes]
    return "\n\n".join(parts)


def rewrite(readme: Path, text: str) -> None:
    """Put the report between its markers in a README.

    Raises
    ------
    SystemExit
        The README has no such markers.
    """
    page = readme.read_text(encoding="utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        msg = f"{readme} must hold {BEGIN} and then {END}, once each, where the table is to stand"
        raise SystemExit(msg)
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    readme.write_text(f"{before}{BEGIN}\n{text}\n{after}", encoding="utf-8")
