"""The sky map: every object as a point, or as a cell of an image where there are very many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.events import DoubleTap, RangesUpdate, SelectionGeometry, Tap
from bokeh.models import (
    BoxSelectTool,
    ColorBar,
    ImageRGBA,
    LassoSelectTool,
    LinearColorMapper,
    Scatter,
)
from bokeh.palettes import Cividis256

from idfzarr.viewer.figure_frame import LETTERS, blank_figure, draw, empty_source, paint, span, swap
from idfzarr.viewer.sky_cells import as_colours, as_densities, cells_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["MOST_POINTS", "PointsFigure"]

MOST_POINTS = 8_000
"""Points that are drawn one by one; more become an image of cells until the view holds fewer."""

_CELLS = 140  # across and up: three pixels of a map
_COLOUR = "#0072b2"
_LOW, _HIGH = 2.0, 98.0  # percentiles at the ends of the colours: a few outliers must not take all


class PointsFigure:
    """Objects as points on two axes, coloured by a number; the data are swapped, the figure stays.

    Parameters
    ----------
    name
        Of the figure.
    height
        Pixels.
    pick
        Called with a place that was clicked.
    choose
        Called with a mask (n,) of what was boxed or lassoed, and whether it adds to what is
        chosen.
    coloured
        Whether there is a bar of colours.
    """

    def __init__(
        self,
        name: str,
        *,
        height: int,
        pick: Callable[[float, float], None],
        choose: Callable[[NDArray[np.bool_], bool], None],
        coloured: bool = True,
        guard: Callable[[], Any],
        **options: Any,
    ) -> None:
        self.figure = blank_figure(
            name=name,
            height=height,
            tools="pan,wheel_zoom,reset,save",
            **options,
        )
        self._pick, self._choose, self._guard = pick, choose, guard
        self._coloured = coloured
        self._columns = ("x", "y", "value") if coloured else ("x", "y")
        self._x = self._y = self._value = np.empty(0)
        self._points = empty_source(*self._columns)
        self._cells = empty_source("image", "x", "y", "dw", "dh")
        self._chosen = empty_source("x", "y")
        self._current = empty_source("x", "y")
        self._mapper = LinearColorMapper(Cividis256, low=0.0, high=1.0, nan_color="#8a8f9866")
        self._bar = ColorBar(
            color_mapper=self._mapper, width=10, title_text_font_style="normal",
            title_text_font_size="11px", major_label_text_font_size="10px", padding=4,
            title_text_font=LETTERS, major_label_text_font=LETTERS,
        )  # fmt: skip
        self._draw(coloured=coloured)
        self._listen()

    def _draw(self, *, coloured: bool) -> None:
        made = self.figure
        colour: Any = {"field": "value", "transform": self._mapper} if coloured else _COLOUR
        cells = ImageRGBA(image="image", x="x", y="y", dw="dw", dh="dh")
        points = Scatter(x="x", y="y", size=5, fill_color=colour, line_color=None, fill_alpha=0.85)
        chosen = Scatter(
            x="x", y="y", size=9, fill_color=None, line_color="#d55e00", line_width=1.5
        )
        current = Scatter(
            x="x", y="y", size=18, marker="circle_cross", fill_color=None, line_color="#cc1177",
            line_width=2,
        )  # fmt: skip
        draw(made, self._cells, cells)
        draw(made, self._points, points)
        draw(made, self._chosen, chosen)
        draw(made, self._current, current)
        if coloured:
            made.add_layout(self._bar, "right")
        # The tools only draw a shape; which objects lie within is found on the server.
        for tool in (BoxSelectTool(renderers=[]), LassoSelectTool(renderers=[])):
            made.add_tools(tool)

    def _listen(self) -> None:
        def tapped(event: Any) -> None:
            with self._guard():
                if event.x is not None and event.y is not None:
                    self._pick(float(event.x), float(event.y))

        def drawn(event: Any) -> None:
            with self._guard():
                if event.final:
                    self._choose(self._inside(event.geometry), False)

        def moved(event: Any) -> None:
            with self._guard():
                if len(self._x) > MOST_POINTS:
                    self._redraw((event.x0, event.x1), (event.y0, event.y1))

        self.figure.on_event(Tap, tapped)
        self.figure.on_event(SelectionGeometry, drawn)
        self.figure.on_event(RangesUpdate, moved)
        self.figure.on_event(DoubleTap, lambda _: self.whole_view())

    def _inside(self, geometry: dict[str, Any]) -> NDArray[np.bool_]:
        """Return which points lie within a shape that was drawn."""
        if geometry.get("type") == "rect":
            across = sorted((geometry["x0"], geometry["x1"]))
            up = sorted((geometry["y0"], geometry["y1"]))
            return np.asarray(
                (self._x >= across[0]) & (self._x <= across[1])
                & (self._y >= up[0]) & (self._y <= up[1])
            )  # fmt: skip
        corners = np.stack([_floats(geometry["x"]), _floats(geometry["y"])], axis=-1)
        if len(corners) < 3:
            return np.zeros(self._x.shape, dtype=bool)
        from matplotlib.path import Path as Polygon  # slow to import, and a lasso can wait

        places = np.stack([self._x, self._y], axis=-1)
        return np.asarray(Polygon(corners).contains_points(np.nan_to_num(places, nan=1e99)))

    def nearest(self, across: float, up: float) -> int | None:
        """Return the point nearest to a place, in parts of the axes as they are drawn."""
        ranges = self.figure.x_range, self.figure.y_range
        width, height = (abs(one.end - one.start) or 1.0 for one in ranges)
        far = np.hypot((self._x - across) / width, (self._y - up) / height)
        return int(np.nanargmin(far)) if np.isfinite(far).any() else None

    # ---------------------------------------------------------------- what is shown

    def place(
        self,
        x: NDArray[Any],
        y: NDArray[Any],
        *,
        labels: tuple[str, str],
        falling: bool = False,
        scale: float | None = None,
    ) -> None:
        """Say where the points are, and show all of them.

        Parameters
        ----------
        x, y
            (n,).
        labels
            Of the axes, with units.
        falling
            Whether the horizontal axis falls, as right ascension does on maps of the sky.
        scale
            Length of one unit across over one up, where both axes must have one scale.
        """
        self._x, self._y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        self._value = np.full(self._x.shape, np.nan)
        self._falling, self._scale = falling, scale
        self.figure.xaxis.axis_label, self.figure.yaxis.axis_label = labels
        self.whole_view()

    def whole_view(self) -> None:
        """Show all points."""
        across, up = span(self._x), span(self._y)
        if self._scale is not None:
            wide, high = (across[1] - across[0]) * self._scale, up[1] - up[0]
            more = max(wide, high)
            across = _widened(across, more / self._scale)
            up = _widened(up, more)
        made = self.figure
        start, end = across[::-1] if self._falling else across
        made.x_range.update(start=start, end=end)
        made.y_range.update(start=up[0], end=up[1])
        for axis, (low, high) in ((made.x_range, (start, end)), (made.y_range, up)):
            axis.reset_start, axis.reset_end = low, high
        self._redraw(across, up)

    def colour(self, value: NDArray[Any], *, label: str) -> None:
        """Colour the points by a number.

        Parameters
        ----------
        value
            (n,).
        label
            Of the bar, with the unit.
        """
        self._value = np.asarray(value, np.float64)
        finite = self._value[np.isfinite(self._value)]
        low, high = np.percentile(finite, [_LOW, _HIGH]) if finite.size else (0.0, 1.0)
        self._mapper.update(low=float(low), high=float(high) if high > low else float(low) + 1.0)
        self._bar.title = label
        ranges = self.figure.x_range, self.figure.y_range
        self._redraw(*((one.start, one.end) for one in ranges))

    def choose(self, rows: NDArray[np.intp]) -> None:
        """Ring the chosen points; none where no points are placed."""
        rows = rows[rows < self._x.size]
        swap(self._chosen, {"x": self._x[rows], "y": self._y[rows]})

    def look_at(self, row: int | None) -> None:
        """Mark the one looked at; none where no points are placed."""
        rows = np.array([] if row is None or row >= self._x.size else [row], dtype=np.intp)
        swap(self._current, {"x": self._x[rows], "y": self._y[rows]})

    def paint(self, *, dark: bool) -> None:
        """Colour the figure for a light or a dark page."""
        paint(self.figure, dark=dark)
        self._bar.update(
            background_fill_alpha=0.0,
            title_text_color="#d5d9df" if dark else "#30343b",
            major_label_text_color="#d5d9df" if dark else "#30343b",
        )

    def _redraw(self, across: tuple[Any, Any], up: tuple[Any, Any]) -> None:
        """Draw points one by one, or cells where more than `MOST_POINTS` are in view."""
        if len(self._x) <= MOST_POINTS:
            inside: Any = slice(None)
        else:
            (x0, x1), (y0, y1) = sorted(across), sorted(up)
            inside = (self._x >= x0) & (self._x <= x1) & (self._y >= y0) & (self._y <= y1)
            if np.count_nonzero(inside) > MOST_POINTS:
                swap(self._points, {name: np.empty(0) for name in self._columns})
                self._show_cells((x0, x1), (y0, y1))
                return
        swap(self._cells, {name: [] for name in self._cells.data})
        every = {"x": self._x, "y": self._y, "value": self._value}
        swap(self._points, {name: every[name][inside] for name in self._columns})

    def _show_cells(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        cells = self._as_cells(across, up)
        held = self._cells.data
        same = len(held["image"]) and np.array_equal(held["image"][0], cells["image"][0])
        if not (same and all(held[name] == cells[name] for name in ("x", "y", "dw", "dh"))):
            self._cells.data = cells

    def _as_cells(self, across: tuple[float, float], up: tuple[float, float]) -> dict[str, Any]:
        shape = (_CELLS, _CELLS)
        cells = cells_of(self._x, self._y, self._value, across=across, up=up, shape=shape)
        if self._coloured:
            low, high = self._mapper.low, self._mapper.high
            image = as_colours(cells, Cividis256, low=low, high=high)
        else:
            image = as_densities(cells, _COLOUR)
        return {
            "image": [image],
            "x": [across[0]],
            "y": [up[0]],
            "dw": [across[1] - across[0]],
            "dh": [up[1] - up[0]],
        }


def _floats(values: Any) -> NDArray[np.float64]:
    """Return what the browser sent of a lasso, a list or a dict of numbers by place."""
    if isinstance(values, dict):
        values = [values[key] for key in sorted(values, key=int)]
    return np.asarray(values, dtype=np.float64)


def _widened(ends: tuple[float, float], length: float) -> tuple[float, float]:
    middle = (ends[0] + ends[1]) / 2
    return middle - length / 2, middle + length / 2
