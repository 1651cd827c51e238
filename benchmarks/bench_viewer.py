"""Time the viewer in a real browser on 50,000 objects x 40 types x 1,200 AORs.

    python benchmarks/bench_viewer.py [--store STORE] [--only find look] [--runs 40]

It makes a store (see viewer_store.py: some shards are filled, all else is of full size), serves it
by ``idfzarr view`` in a process of its own and drives headless Chromium. Times run from the time
stamp of the key or click, as the browser has it, until what changed has been painted. Files are in
the page cache.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bokeh
import numpy as np
import panel as pn
from viewer_browser_clock import Page, chromium
from viewer_sessions import Server, Session, serving
from viewer_store import make_store

from idfzarr.errors import IdfzarrError
from idfzarr.viewer.field import Field
from idfzarr.viewer.stamps import ps1_stamp

if TYPE_CHECKING:
    from collections.abc import Callable

_FIND = """heading() !== was.heading && marked() === heading()
  && other(was.preview, data("lightcurve preview", "aor"))
  && other(was.small, data("superstack stamp preview", "image"))"""
_LOOK = """heading() !== was.heading && other(was.curve, data("lightcurve", "aor"))
  && other(was.stack, data("superstack stamp", "image"))"""
_PERIODS = """heading() !== was.heading && other(was.power, data("periodogram", "power"))"""
_PS1 = """heading() !== was.heading && other(was.ps1, data("PS1 stamp", "image"))
  && data("PS1 stamp", "image").some((one) => one.image.length)"""
_READY = {
    "find": """listed() && data("lightcurve preview", "aor").some((one) => one.aor.length)
      && data("superstack stamp preview", "image").some((one) => one.image.length)""",
    "look": """data("lightcurve", "aor").some((one) => one.aor.length)
      && data("superstack stamp", "image").some((one) => one.image.length)""",
    "see": """data("PS1 stamp", "image").length""",
}
_CROWD = 20


@dataclass
class Figure:
    """What was measured, and its goal.

    Attributes
    ----------
    what
        In words.
    values
        Of single runs.
    goal
        At most this; None where there is none.
    unit
        Of values and goal.
    judged
        ``median`` or ``p95``.
    load
        Of the machine, when the figure was taken.
    """

    what: str
    values: list[float]
    goal: float | None = None
    unit: str = "ms"
    judged: str = "median"
    load: float = field(default_factory=lambda: os.getloadavg()[0])

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p95(self) -> float:
        return float(np.percentile(self.values, 95, method="higher"))

    @property
    def line(self) -> str:
        """Row of the table."""
        goal = "" if self.goal is None else f"{self.goal:,.0f} {self.unit}"
        verdict = ""
        if self.goal is not None:
            verdict = "reached" if getattr(self, self.judged) <= self.goal else "MISSED"
            verdict += "" if self.judged == "median" else f" ({self.judged})"
        digits = 2 if self.unit == "s" else 0
        cells = (
            self.what, f"{self.median:,.{digits}f} {self.unit}", f"{self.p95:,.{digits}f}",
            f"{max(self.values):,.{digits}f}", str(len(self.values)), goal, verdict,
            f"{self.load:.1f}",
        )  # fmt: skip
        return "| " + " | ".join(cells) + " |"


@dataclass(frozen=True)
class Bench:
    """What all parts use."""

    store: Path
    ids: list[int]
    browser: Any
    server: Server
    runs: int

    def page(self, part: str, **choices: object) -> Page:
        """Return a new page that shows a part and has settled."""
        made = Page(self.browser)
        made.load(self.address(part, **choices), ready=_READY[part])
        made.page.wait_for_function("() => Bokeh.documents[0].is_idle")
        made.page.wait_for_timeout(1500)
        return made

    def address(self, part: str, **choices: object) -> str:
        """Return the address of a part."""
        asked = {"page": part, "object": self.ids[0]} | choices
        return self.server.url + "?" + "&".join(f"{name}={value}" for name, value in asked.items())


# ------------------------------------------------------------------ parts


def start(store: Path, runs: int) -> list[Figure]:
    """Return how long it takes from the command to the first page answered."""
    spent = []
    for _ in range(runs):
        server = Server(store)
        with urllib.request.urlopen(server.url, timeout=60) as page:  # noqa: S310 - our own server
            assert page.status == 200
        spent.append(time.perf_counter() - server.begun)
        server.stop()
    return [Figure("server start to a page that answers", spent, 3.0, "s")]


def load(bench: Bench) -> list[Figure]:
    """Return page loads: in a context that has nothing in its cache, and again."""
    fresh, again = [], []
    for _ in range(max(bench.runs // 8, 3)):
        page = Page(bench.browser)
        for spent in (fresh, again):
            spent.append(page.load(bench.address("find"), ready=_READY["find"]) / 1e3)
            page.page.wait_for_timeout(700)
        _closed(page)
    return [
        Figure("page load, nothing cached", fresh, 2.0, "s"),
        Figure("page load again", again, 2.0, "s"),
    ]


def find(bench: Bench) -> list[Figure]:
    """Return object changes on the page Find, by key, and the work they are for the server."""
    page = bench.page("find")
    browser, server = _changes(bench, page, _FIND)
    panned = [
        page.time("pointerup", lambda across=across: _drag(page, "sky map", across), done=_MAP)
        for across in _to_and_fro(bench.runs // 2, 0.1)
    ]
    _closed(page)
    return [
        Figure("another object: lightcurve, table row, stamp painted", browser, 250.0),
        Figure("of which server work (processor time, all threads)", server, 40.0),
        Figure("sky map moved and drawn anew", panned, 150.0),
    ]


_MAP = """other(was.map, [...data("sky map", "value"), ...data("sky map", "image")])"""


def table(bench: Bench) -> list[Figure]:
    """Return sorting and filtering of the catalogue."""
    page = bench.page("find")
    on = page.page
    sorted_, filtered, asked = [], [], []
    for at in range(bench.runs):
        name = ("ra", "dec", "ch1_mag")[at % 3]
        title = on.locator(f'.tabulator-col[tabulator-field="{name}"] .tabulator-col-title')
        sorted_.append(page.time("click", title.click, done="listed() !== was.listed"))
        on.wait_for_timeout(250)
    for name in ("dec", "ra"):  # by right ascension, so that every filter changes the first rows
        on.locator(f'.tabulator-col[tabulator-field="{name}"] .tabulator-col-title').click()
        on.wait_for_timeout(500)
    box = on.locator('input[aria-label="filter of ra"]')
    both = "counted() !== was.counted && listed() !== was.listed"
    for at in range(bench.runs // 2):
        box.fill(f"> {264.9 + 0.01 * at:.2f}")
        filtered.append(page.time("keydown", lambda: box.press("Enter"), done=both))
        if math.isinf(filtered[-1]):
            break
        on.wait_for_timeout(250)
    box.fill("")
    box.press("Enter")
    on.wait_for_timeout(800)
    query = on.get_by_role("textbox", name=re.compile("^Condition"))
    for at in range(bench.runs // 2):
        query.fill(f"ra > {264.9 + 0.01 * at:.2f} and ch1_mag < 30")
        asked.append(page.time("keydown", lambda: query.press("Enter"), done=both))
        on.wait_for_timeout(250)
    _closed(page)
    return [
        Figure("catalogue sorted by a column", sorted_, 300.0),
        Figure("catalogue filtered by a column", filtered, 300.0),
        Figure("catalogue filtered by a condition", asked, 300.0),
    ]


def look(bench: Bench) -> list[Figure]:
    """Return what is done to lightcurves on the page Look."""
    page = bench.page("look")
    on = page.page
    browser, server = _changes(bench, page, _LOOK)
    periods = []
    for _ in range(bench.runs // 2):
        periods.append(page.time("keydown", lambda: on.keyboard.press("j"), done=_PERIODS))
        on.wait_for_timeout(400)
    drawn = """other(was.curve, data("lightcurve", "aor"))"""
    toggled = []
    for name in ("Flagged", "Calibrated"):
        switch = on.get_by_role("switch", name=re.compile(f"^{name}"))
        for _ in range(bench.runs // 2):
            toggled.append(page.time("click", switch.click, done=drawn))
            on.wait_for_timeout(500)
    moved = """figure("lightcurve").x_range.start !== was.x0"""
    slider = on.get_by_role("slider", name=re.compile("^Times")).first
    slid = []
    for _ in range(2):  # it begins a day before the first time, where nothing changes
        slider.press("ArrowRight")
        on.wait_for_timeout(600)
    for _ in range(bench.runs):
        slid.append(page.time("keydown", lambda: slider.press("ArrowRight"), done=moved))
        on.wait_for_timeout(500)
    zoomed, followed = [], []
    on.get_by_title("Box Zoom").first.click()
    for at in range(bench.runs):
        what, into = (moved, zoomed) if at % 2 else (f"{moved} && {drawn}", followed)
        into.append(page.time("pointerup", lambda: _box(page, "lightcurve"), done=what))
        on.wait_for_timeout(800)
        zoomed.append(page.time("click", on.get_by_title("Reset").first.click, done=moved))
        on.wait_for_timeout(800)
    _closed(page)
    return [
        Figure("another object on the page Look: lightcurve, stamp painted", browser, 250.0),
        Figure("of which server work, without the periodogram", server, None),
        Figure("periodogram of another object", periods, 1500.0),
        Figure("switches Flagged and Calibrated", toggled, 150.0),
        Figure("slider of times moved", slid, 150.0),
        Figure("zoomed and reset: the view", zoomed, 150.0),
        Figure("zoomed: points taken over by the server, too", followed, 150.0),
    ]


def see(bench: Bench) -> list[Figure]:
    """Return how soon PS1 follows another object; nothing where the store has no skycells."""
    inside = _seen_by_ps1(bench)
    if len(inside) < 3:
        return []
    chosen = ",".join(map(str, inside))
    page = bench.page("see", object=inside[0], selection=chosen)
    spent = []
    for _ in inside[1:]:
        spent.append(page.time("keydown", lambda: page.page.keyboard.press("j"), done=_PS1))
        page.page.wait_for_timeout(300)
    _closed(page)
    return [Figure("PS1 stamp of another object", spent, 1500.0)]


def memory(bench: Bench) -> list[Figure]:
    """Return what further sessions add to the server's memory, each on three pages."""

    def used(start: int) -> Page:
        page = bench.page("find", object=bench.ids[start])
        for name in ("Look", "See"):
            page.page.get_by_role("tab", name=name).click()
            page.page.wait_for_timeout(2500)
        for _ in range(3):
            page.page.keyboard.press("j")
            page.page.wait_for_timeout(500)
        return page

    pages = [used(0)]
    grown = []
    for at in range(1, 6):
        before = bench.server.megabytes
        pages.append(used(10 * at))
        grown.append(bench.server.megabytes - before)
    for page in pages:
        _closed(page)
    return [Figure("memory of a further session: Find, Look and See", grown, 120.0, "MB")]


def crowd(bench: Bench) -> list[Figure]:
    """Return object changes while twenty sessions click at the same moments.

    Nineteen are sockets that draw nothing: twenty browsers would measure what Chromium takes of
    two processors. The twentieth is a browser.
    """
    before = bench.server.megabytes
    opened = [
        Session(bench.address("find", object=bench.ids[(7 * k) % len(bench.ids)]))
        for k in range(_CROWD - 1)
    ]
    ready, enough = threading.Event(), threading.Event()
    failed: list[BaseException] = []
    thread = threading.Thread(
        target=lambda: asyncio.run(_click_together(opened, ready, enough, failed))
    )
    thread.start()
    while not ready.wait(0.2) and thread.is_alive():
        pass
    grown = (bench.server.megabytes - before) / len(opened)
    page = bench.page("find", object=bench.ids[3])
    seen = []
    for _ in range(bench.runs):
        seen.append(page.time("keydown", lambda: page.page.keyboard.press("j"), done=_FIND))
        page.page.wait_for_timeout(300)
    enough.set()
    thread.join()
    _closed(page)
    if failed:
        raise failed[0]
    clicks = [one for session in opened for one in session.clicks]
    return [
        Figure("20 sessions click at once: object change received", clicks, 1500.0, judged="p95"),
        Figure("20 sessions click at once: painted in a browser", seen, 1500.0, judged="p95"),
        Figure("memory of each of them (page Find)", [grown], 120.0, "MB"),
    ]


async def _click_together(
    sessions: list[Session],
    ready: threading.Event,
    enough: threading.Event,
    failed: list[BaseException],
) -> None:
    try:
        for one in sessions:
            await one.open()
        ready.set()
        while not enough.is_set():
            await asyncio.gather(*(one.press("j") for one in sessions))
    except Exception as error:  # noqa: BLE001 - raised again where it is waited for
        failed.append(error)
    finally:
        for one in sessions:
            one.close()


# ------------------------------------------------------------------ what the parts do


def _changes(bench: Bench, page: Page, done: str) -> tuple[list[float], list[float]]:
    """Go through objects by key; return times in the browser and processor time of the server."""
    browser, server = [], []
    for _ in range(bench.runs):
        before = bench.server.spent
        browser.append(page.time("keydown", lambda: page.page.keyboard.press("j"), done=done))
        server.append(bench.server.spent - before)
        page.page.wait_for_timeout(600)
    return browser, server


def _drag(page: Page, figure: str, across: float) -> None:
    mouse = page.page.mouse
    mouse.move(*page.pixel(figure, 0.5, 0.5))
    mouse.down()
    mouse.move(*page.pixel(figure, 0.5 + across / 2, 0.5))
    mouse.move(*page.pixel(figure, 0.5 + across, 0.5))
    mouse.up()


def _box(page: Page, figure: str) -> None:
    mouse = page.page.mouse
    begin, end = page.pixel(figure, 0.25, 0.2), page.pixel(figure, 0.7, 0.8)
    mouse.move(*begin)
    mouse.down()
    mouse.move((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2)
    mouse.move(*end)
    mouse.up()


def _to_and_fro(count: int, width: float) -> list[float]:
    return [width if at % 2 else -width for at in range(count)]


def _seen_by_ps1(bench: Bench) -> list[int]:
    field_ = Field(bench.store)
    inside: list[int] = []
    if field_.skycells is None:
        return inside
    for one in bench.ids:
        with contextlib.suppress(IdfzarrError):
            ps1_stamp(field_, one)
            inside.append(one)
        if len(inside) > bench.runs // 2:
            break
    return inside


def _closed(page: Page) -> None:
    page.close()
    if page.errors:
        raise SystemExit("the page failed:\n" + "\n".join(page.errors))


def first_in_table(store: Path, most: int = 400) -> list[int]:
    """Return ids in the order of the table: the highest score first."""
    seen = Field(store)
    known = seen.choices()
    if "score" not in seen.statistics:
        return [int(one) for one in seen.cube.objects[:most]]
    score = seen.statistic("score", known.default_statistic_type)
    return [int(one) for one in seen.cube.objects[np.argsort(-score, kind="stable")[:most]]]


def tree_hash(folder: Path) -> str:
    """Return a hash of every path in a folder, its size, time of change and bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        told = path.stat()
        found.update(f"{path.relative_to(folder)} {told.st_size} {told.st_mtime_ns}".encode())
        if path.is_file():
            with path.open("rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


# ------------------------------------------------------------------ the table

_PARTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "load": load,
    "find": find,
    "table": table,
    "look": look,
    "see": see,
    "memory": memory,
    "crowd": crowd,
}


def measure(store: Path, only: list[str], runs: int) -> list[Figure]:
    """Run the parts that are asked for, each figure printed as it comes."""
    figures: list[Figure] = []

    def keep(found: list[Figure]) -> None:
        figures.extend(found)
        for one in found:
            print(one.line, flush=True)

    before = tree_hash(store)
    print("| what | median | p95 | worst | n | goal | | load |\n|---|---|---|---|---|---|---|---|")
    if "start" in only:
        keep(start(store, 5))
    with chromium() as browser:
        for name, part in _PARTS.items():
            if name not in only:
                continue
            with serving(store) as server:
                keep(part(Bench(store, first_in_table(store), browser, server, runs)))
                keep([Figure(f"failures in the log ({name})", [len(server.failures)], 0, "lines")])
                if server.failures:
                    print("".join(server.lines)[-4000:], file=sys.stderr)
    keep([Figure("changes of the store", [float(tree_hash(store) != before)], 0, "")])
    return figures


def main() -> None:
    """Print the table."""
    every = ["start", *_PARTS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="one that is there; made unless given")
    parser.add_argument("--objects", type=int, default=50_000)
    parser.add_argument("--shards", type=int, default=4, help="that are filled, 128 objects each")
    parser.add_argument("--only", nargs="+", choices=every, default=every)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--json", type=Path, help="write every single value here")
    asked = parser.parse_args()
    print(
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} processors, "
        f"load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}, "
        f"panel {pn.__version__}, bokeh {bokeh.__version__}\n"
    )
    with tempfile.TemporaryDirectory(prefix="bench_viewer") as folder:
        store = asked.store or Path(folder) / "field.zarr"
        if asked.store is None:
            make_store(store, objects=asked.objects, shards=asked.shards)
        figures = measure(store.resolve(), asked.only, asked.runs)
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(one) for one in figures], indent=1))


if __name__ == "__main__":
    main()
