"""A stopwatch inside the page: from what a person does until what it changes has been painted."""

from __future__ import annotations

import math
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_OURS = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:")
# A part that is added later is measured once before Bokeh and Tabulator have laid it out; they say
# so, and lay it out a moment later.
_EARLY = ("(reading 'top_panel')", "(reading 'rowManager')")
_PATIENCE = 40_000  # milliseconds

# Time runs from the event's own time stamp. Conditions are looked at once per frame; two more
# frames pass until what came with the last message is painted.
_CLOCK = """
window.clock = (() => {
  const figures = () => {
    const found = new Map(), seen = new Set()
    const visit = (view) => {
      if (view == null || seen.has(view)) return
      seen.add(view)
      if (view.frame != null && view.model?.name) found.set(view.model.name, view.model)
      for (const kids of [view.child_views, view._child_views]) {
        if (kids == null) continue
        for (const kid of kids instanceof Map ? kids.values() : kids) visit(kid)
      }
      if (view.children) for (const kid of view.children()) visit(kid)
    }
    for (const view of Bokeh.index.roots ?? Object.values(Bokeh.index)) visit(view)
    return found
  }
  const known = new Map()
  const figure = (name) => {
    if (!known.get(name)?.document) known.set(name, figures().get(name))
    return known.get(name)
  }
  // Data of every source of a figure that has this column.
  const data = (name, column) => (figure(name)?.renderers ?? [])
    .map((r) => r.data_source.data).filter((d) => d[column] != null)
  const places = new Map()
  const first = (root, selector, want) => {
    for (const el of root.querySelectorAll("*")) {
      if (el.matches(selector) && (!want || want.test(el.textContent))) return el
      const inside = el.shadowRoot && first(el.shadowRoot, selector, want)
      if (inside) return inside
    }
    return null
  }
  const found = (selector, want) => {
    const key = selector + want
    const kept = places.get(key)
    if (kept?.isConnected && (!want || want.test(kept.textContent))) return kept
    places.set(key, first(document, selector, want))
    return places.get(key)
  }
  const heading = () => found("h6", /^\\s*Object \\d+\\s*$/)?.textContent.trim() ?? ""
  const rows = () => [...(found(".tabulator-table")?.querySelectorAll(".tabulator-row") ?? [])]
  const cell = (row, name) =>
    row.querySelector(`.tabulator-cell[tabulator-field="${name}"]`)?.textContent ?? ""
  const marked = () => {
    const row = rows().find((one) => cell(one, "shown").includes("▶"))
    return row ? `Object ${cell(row, "object").trim()}` : ""
  }
  const listed = () => rows().map((one) => cell(one, "object")).join()
  const counted = () => found("b", /of [\\d,]+ objects$/)?.textContent ?? ""
  const other = (was, now) => now.length !== was.length || now.some((d, at) => d !== was[at])
  const painted = () => new Promise((done) => requestAnimationFrame(() =>
    requestAnimationFrame(() => setTimeout(done, 0))))
  const when = async (done) => {
    const begun = performance.now()
    while (!done()) {
      if (performance.now() - begun > 30000) throw new Error(`never came: ${done}`)
      await new Promise((next) => requestAnimationFrame(next))
    }
    await painted()
    return performance.now()
  }
  const start = (kind, done) => {
    let begun = null
    const hear = new Promise((heard) => addEventListener(kind, (event) => {
      begun = event.timeStamp
      heard()
    }, {capture: true, once: true}))
    window.timed = hear.then(() => when(done)).then((end) => end - begun)
  }
  return {figure, data, heading, marked, listed, counted, other, when, start}
})()
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """Start Chromium without a window."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        msg = "this needs Chromium; on Debian: apt-get install chromium"
        raise SystemExit(msg)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Page:
    """One page with a stopwatch, in a browser context of its own: nothing is cached for it."""

    def __init__(self, browser: Any) -> None:
        from playwright.sync_api import Error

        self._error = Error
        self._context = browser.new_context(viewport={"width": 1600, "height": 1100})
        self._context.add_init_script(_CLOCK)
        self.page = self._context.new_page()
        self.page.set_default_timeout(_PATIENCE)
        self.errors: list[str] = []
        self.page.on("pageerror", self._failed)
        self.page.on("request", self._asked)

    def _failed(self, error: Any) -> None:
        if not str(error).endswith(_EARLY):
            self.errors.append(str(error))

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(_OURS):
            self.errors.append(f"asked for {request.url}")

    def load(self, address: str, *, ready: str) -> float:
        """Open an address; return milliseconds until `ready` holds and is painted."""
        self.page.goto(address, wait_until="commit")
        self.page.wait_for_function("() => window.clock && window.Bokeh?.documents?.length")
        spent = self.page.evaluate(
            f"async () => {{ {_READ}\nreturn await window.clock.when("
            f"() => heading() && ({ready})) }}"
        )
        return float(spent)

    def time(self, kind: str, act: Callable[[], object], *, done: str) -> float:
        """Return milliseconds from an event until a condition holds and is painted; inf for never.

        Parameters
        ----------
        kind
            Of the event that `act` causes: keydown, click, pointerup, ...
        act
            Does it.
        done
            In JavaScript; ``was`` is what `_WAS` held before.
        """
        self.page.evaluate(
            f"() => {{ {_READ} const was = {_WAS}; window.clock.start('{kind}', () => ({done})) }}"
        )
        act()
        try:
            return float(self.page.evaluate("() => window.timed"))
        except self._error as error:
            if "never came" not in str(error):
                raise
            return math.inf

    def pixel(self, figure: str, across: float, up: float) -> tuple[float, float]:
        """Return where on the page a place in a figure's frame is, both from 0 to 1."""
        return tuple(
            self.page.evaluate(
                """([name, across, up]) => {
                const model = window.clock.figure(name)
                const all = [], visit = (view, seen = new Set()) => {
                  const todo = [view]
                  while (todo.length) {
                    const one = todo.pop()
                    if (one == null || seen.has(one)) continue
                    seen.add(one)
                    if (one.model === model && one.frame) { all.push(one); return }
                    for (const kids of [one.child_views, one._child_views])
                      if (kids) todo.push(...(kids instanceof Map ? kids.values() : kids))
                    if (one.children) todo.push(...one.children())
                  }
                }
                for (const root of Bokeh.index.roots ?? Object.values(Bokeh.index)) visit(root)
                const view = all[0], el = view.canvas_view?.el ?? view.canvas.el
                const box = el.getBoundingClientRect(), frame = view.frame.bbox
                return [box.x + frame.left + across * frame.width,
                        box.y + frame.top + (1 - up) * frame.height]
                }""",
                [figure, across, up],
            )
        )

    def close(self) -> None:
        """Close it."""
        self._context.close()


_READ = "const {figure, data, heading, marked, listed, counted, other} = window.clock;"
_WAS = """{
  heading: heading(), marked: marked(), listed: listed(), counted: counted(),
  preview: data("lightcurve preview", "aor"), curve: data("lightcurve", "aor"),
  small: data("superstack stamp preview", "image"), stack: data("superstack stamp", "image"),
  power: data("periodogram", "power"), folded: data("folded", "x"),
  ps1: data("PS1 stamp", "image"),
  x0: figure("lightcurve")?.x_range.start,
  map: [...data("sky map", "value"), ...data("sky map", "image")],
}"""
