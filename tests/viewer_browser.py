"""A served store, a browser that may ask nothing of the network, and where things are on a page."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVE = "import typer; from idfzarr.cli_view import view; typer.run(view)"
OURS = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
PATIENCE = 30_000  # milliseconds, on a busy machine
# A part of the page that is added later is measured once before Bokeh and Tabulator have laid it
# out; they say so in the console, and lay it out a moment later.
EARLY = ("(reading 'top_panel')", "(reading 'rowManager')")
IDLE = """() => window.Bokeh?.documents?.length && Bokeh.documents[0].is_idle
    && !document.querySelector(".pn-loading")"""

# Views of figures are found from the roots: Panel's containers keep theirs in maps of their own.
FIGURES = """
(() => {
  const found = new Map(), seen = new Set()
  const visit = (view) => {
    if (view == null || seen.has(view)) return
    seen.add(view)
    if (view.frame != null && view.model?.name) found.set(view.model.name, view)
    for (const kids of [view.child_views, view._child_views]) {
      if (kids == null) continue
      for (const kid of kids instanceof Map ? kids.values() : kids) visit(kid)
    }
    if (view.children) for (const kid of view.children()) visit(kid)
  }
  for (const view of Bokeh.index.roots ?? Object.values(Bokeh.index)) visit(view)
  return found
})()
"""


class Served:
    """A store that a process of its own serves."""

    def __init__(self, url: str, process: subprocess.Popen[str], lines: list[str]) -> None:
        self.url, self.process, self.lines = url, process, lines
        self.may_fail = False  # whether a session's failure, told in the log, is what is tested

    def address(self, **choices: object) -> str:
        return self.url + "?" + urlencode(choices) if choices else self.url

    @property
    def log(self) -> str:
        return "".join(self.lines)


@contextmanager
def serving(store: Path, *options: str) -> Iterator[Served]:
    """Serve a store at a free port by the command, in a process of its own."""
    command = [sys.executable, "-c", SERVE, str(store), "--port", "0", "--no-open", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    lines: list[str] = []
    ready: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"viewer is at (http://\S+/)", line):
                ready.put(found[1])
        ready.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        url = ready.get(timeout=90)
        assert url, "the viewer did not start:\n" + "".join(lines)
        made = Served(url, process, lines)
        yield made
        assert made.may_fail or "a session failed" not in made.log, made.log
    finally:
        process.terminate()
        process.wait(timeout=20)
        reader.join(timeout=20)
        process.stdout.close()


@contextmanager
def chromium() -> Iterator[object]:
    """Start Debian's Chromium, or skip where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("needs the program chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One page of one browser, and all it asked for.

    Visits share the browser's cache, so that its scripts are fetched and compiled once; one that
    stands for another person's browser is `alone`.
    """

    def __init__(
        self, browser: object, *, width: int = 1280, height: int = 900, alone: bool = False
    ) -> None:
        if alone or not browser.contexts:
            self.context = browser.new_context(accept_downloads=True)
        else:
            self.context = browser.contexts[0]
        self.page = self.context.new_page()
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.set_default_timeout(PATIENCE)
        self.foreign: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", self._asked)
        self.page.on("websocket", self._asked)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._said)

    def _asked(self, request: object) -> None:
        if not request.url.startswith(OURS):
            self.foreign.append(request.url)

    def _said(self, message: object) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def open(self, address: str) -> Visit:
        self.page.goto(address)
        self.settle()
        return self

    def settle(self) -> None:
        self.page.wait_for_function(IDLE)

    def shows_object(self, object_id: int) -> None:
        self.page.get_by_role("heading", name=f"Object {object_id}", exact=True).wait_for()

    def wait_url(self, pattern: str) -> None:
        self.page.wait_for_url(re.compile(pattern), wait_until="commit")

    def figures(self) -> list[str]:
        return self.page.evaluate(f"() => [...{FIGURES}.keys()]")

    def wait_figure(self, name: str) -> None:
        self.page.wait_for_function(f"(name) => {FIGURES}.has(name)", arg=name)

    def data(self, figure: str, column: str, *, holder: str = "x") -> list[list[object]]:
        """Return a column of every source of a figure that has it."""
        return self.page.evaluate(
            f"""([name, column]) => {FIGURES}.get(name).model.renderers
            .map((r) => r.data_source.data[column]).filter((c) => c != null)
            .map((c) => Array.from(c))""",
            [figure, column],
        )

    def ranges(self, figure: str) -> dict[str, float]:
        return self.page.evaluate(
            f"""(name) => {{ const m = {FIGURES}.get(name).model
            return {{x0: m.x_range.start, x1: m.x_range.end,
                     y0: m.y_range.start, y1: m.y_range.end}} }}""",
            figure,
        )

    def labels(self) -> dict[str, list[str]]:
        """Return the labels of the axes that are seen, by figure."""
        return self.page.evaluate(
            f"""() => Object.fromEntries([...{FIGURES}].map(([name, view]) =>
            [name, [...view.model.below, ...view.model.left]
              .filter((a) => a.axis_label !== undefined && a.visible)
              .map((a) => String(a.axis_label))]))"""
        )

    def pixel(self, figure: str, x: float, y: float) -> tuple[float, float]:
        """Return where on the page a place in a figure is."""
        return tuple(
            self.page.evaluate(
                f"""([name, x, y]) => {{
                const view = {FIGURES}.get(name)
                const el = view.canvas_view?.el ?? view.canvas.el
                el.scrollIntoView({{block: "center"}})
                const box = el.getBoundingClientRect()
                return [box.x + view.frame.x_scale.compute(x),
                        box.y + view.frame.y_scale.compute(y)] }}""",
                [figure, x, y],
            )
        )

    def click(self, figure: str, x: float, y: float) -> None:
        self.page.mouse.click(*self.pixel(figure, x, y))

    def drag(self, figure: str, first: tuple[float, float], last: tuple[float, float]) -> None:
        begin, end = self.pixel(figure, *first), self.pixel(figure, *last)
        self.page.mouse.move(*begin)
        self.page.mouse.down()
        self.page.mouse.move((begin[0] + end[0]) / 2, (begin[1] + end[1]) / 2)
        self.page.mouse.move(*end)
        self.page.mouse.up()

    def turn_to(self, part: str) -> None:
        self.page.get_by_role("tab", name=part).click()
        self.wait_choice("page", None if part == "Find" else part.lower())

    # ---------------------------------------------------------------- what people do

    def named(self, role: str, start: str) -> object:
        """Return the control whose accessible name begins so."""
        return self.page.get_by_role(role, name=re.compile(f"^{re.escape(start)}")).first

    def press(self, start: str) -> None:
        self.named("button", start).click()

    def flip(self, start: str) -> None:
        self.named("switch", start).click()

    def write(self, start: str, text: str) -> None:
        box = self.named("textbox", start)
        box.fill(text)
        box.press("Enter")

    def choose(self, menu: str, option: str, *, more: bool = False) -> None:
        """Open a menu and take one of what it offers; one of `more` stays open and is closed."""
        self.named("combobox", menu).click()
        self.page.get_by_role("listbox").get_by_text(option, exact=True).click()
        if more:
            self.page.mouse.click(3, 3)  # beside it
        self.page.get_by_role("listbox").wait_for(state="detached")

    def slide(self, start: str, key: str, times: int = 1) -> None:
        slider = self.named("slider", start)
        slider.focus()
        for _ in range(times):
            slider.press(key)

    # ---------------------------------------------------------------- what comes of it

    def choices(self) -> dict[str, str]:
        """Return the choices that the address holds."""
        return dict(parse_qsl(urlsplit(self.page.url).query, keep_blank_values=True))

    def wait_choice(self, name: str, value: object) -> None:
        """Wait until a choice stands in the address; None where it must not."""
        self.page.wait_for_function(
            "([name, value]) => new URLSearchParams(location.search).get(name) === value",
            arg=[name, None if value is None else str(value)],
        )

    def wait_data(self, figure: str, column: str, expected: object) -> None:
        """Wait until a figure has a source whose column is this, sorted, to a millionth."""
        wanted = sorted(float(one) for one in expected)
        self.page.wait_for_function(
            f"""([name, column, wanted]) => {FIGURES}.get(name)?.model.renderers.some((r) => {{
            const held = r.data_source.data[column]
            if (held == null || held.length !== wanted.length) return false
            const sorted = Array.from(held, Number).filter((v) => !isNaN(v)).sort((a, b) => a - b)
            return sorted.length === wanted.length && sorted.every((v, at) =>
              Math.abs(v - wanted[at]) <= 1e-6 * Math.max(1e-3, Math.abs(wanted[at])))
            }}) === true""",
            arg=[figure, column, wanted],
        )

    def wait_paths(self, figure: str, expected: object, column: str = "ys") -> None:
        """Wait until a figure has lines that are these, in order, to a millionth."""
        wanted = [[float(one) for one in line] for line in expected]
        self.page.wait_for_function(
            f"""([name, column, wanted]) => {FIGURES}.get(name)?.model.renderers.some((r) => {{
            const held = r.data_source.data[column]
            return held != null && held.length === wanted.length && wanted.every((line, k) =>
              held[k].length === line.length && line.every((v, at) =>
                Math.abs(held[k][at] - v) <= 1e-6 * Math.max(1e-3, Math.abs(v))))
            }}) === true""",
            arg=[figure, column, wanted],
        )

    def wait_picture(self, figure: str, rgba: object) -> None:
        """Wait until a figure shows these pixels, and no other."""
        wanted = rgba.reshape(-1, 4).copy().view("<u4").ravel().tolist()
        self.page.wait_for_function(
            f"""([name, wanted]) => {FIGURES}.get(name)?.model.renderers.some((r) => {{
            const held = r.data_source.data.image
            if (held == null || held.length !== 1) return false
            const pixels = Array.from(held[0]).flat()
            return pixels.length === wanted.length && pixels.every((v, at) => v === wanted[at])
            }}) === true""",
            arg=[figure, wanted],
        )

    def close(self) -> None:
        """Close the page, and fail where it asked for anything foreign or an error was logged."""
        if self.context is self.page.context.browser.contexts[0]:
            self.page.close()
        else:
            self.context.close()
        assert self.foreign == [], self.foreign
        errors = [one for one in self.errors if not one.endswith(EARLY)]
        assert errors == [], errors


def overlap(one: list[float], other: list[float]) -> bool:
    """Say whether two boxes share area; what lies within another is part of it."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 1 or height <= 1:
        return False
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return width * height < 0.98 * smaller


# The controls that are seen: what people press, type into or slide, with their boxes. Each stands
# in a shadow root of its own, with its label and the sign beside it that shows its tooltip; what
# has no such sign has the tooltip on itself, which is then not what can be read on it anyway.
CONTROLS = """
() => {
  const found = []
  const text = (el) => (el?.textContent ?? "").trim()
  const all = (ids, root) => (ids ?? "").split(" ").map((id) => text(root.getElementById?.(id)))
    .join(" ").trim()
  const name = (el, root) => el.getAttribute("aria-label")
    || all(el.getAttribute("aria-labelledby"), root) || text(el.labels?.[0])
    || text(el.closest("label")) || text(el) || el.title
  const own = (el, root) => {
    const label = el.matches("input[type=range]") ? "" : el.getAttribute("aria-label") ?? ""
    return el.title || all(el.getAttribute("aria-describedby"), root)
      || (label !== text(el) ? label : "")
  }
  const sign = (root) => {
    if (!(root instanceof ShadowRoot) || root.querySelector(".bk-panel-models-esm-ReactComponent"))
      return ""
    return root.querySelector("svg + span[aria-label]")?.getAttribute("aria-label") ?? ""
  }
  const visit = (root) => {
    for (const el of root.querySelectorAll("*")) {
      if (el.shadowRoot) visit(el.shadowRoot)
      if (!el.matches("button, input, [role=combobox], [role=slider], textarea, select")) continue
      if (el.closest(".bk-toolbar, .tabulator, [role=tablist], header, [role=dialog]")) continue
      if (el.getAttribute("aria-hidden") === "true") continue
      const box = el.getBoundingClientRect()
      if (box.width < 2 || box.height < 2) continue
      found.push({
        name: name(el, root).trim(), kind: el.tagName, tip: own(el, root) || sign(root),
        box: [box.left, box.top, box.right, box.bottom],
      })
    }
  }
  visit(document)
  return found
}
"""
