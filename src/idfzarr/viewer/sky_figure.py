"""The sky map: every object as a point, or as a cell of an image where there are very many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.events import DoubleTap, RangesUpdate, SelectionGeometry, Tap
from bokeh.models import BoxSelectTool, ColorBar, LassoSelectTool, LinearColorMapper
from bokeh.palettes import Cividis256
from matplotlib.path import Path as Polygon

from idfzarr.viewer.figure_frame import blank_figure, empty_source, paint, span

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["MANY_POINTS", "MOST_POINTS", "PointsFigure"]

MOST_POINTS = 20_000
"""Points that are drawn one by one; more become an image of cells until the view holds fewer."""

MANY_POINTS = 5_000
"""From here on WebGL draws points faster than a canvas; where there is no graphics processor it
is slower."""

_CELLS = 256
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
    many
        Whether there are so many points that the graphics processor should draw them.
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
        many: bool = False,
        coloured: bool = True,
        guard: Callable[[], Any],
        **options: Any,
    ) -> None:
        self.figure = blank_figure(
            name=name,
            height=height,
            tools="pan,wheel_zoom,reset,save",
            output_backend="webgl" if many else "canvas",
            **options,
        )
        self._pick, self._choose, self._guard = pick, choose, guard
        self._x = self._y = self._value = np.empty(0)
        self._points = empty_source("x", "y", "value")
        self._cells = empty_source("image", "x", "y", "dw", "dh")
        self._chosen = empty_source("x", "y")
        self._current = empty_source("x", "y")
        self._mapper = LinearColorMapper(Cividis256, low=0.0, high=1.0, nan_color="#8a8f9866")
        self._bar = ColorBar(
            color_mapper=self._mapper, width=10, title_text_font_style="normal",
            title_text_font_size="11px", major_label_text_font_size="10px", padding=4,
        )  # fmt: skip
        self._draw(coloured=coloured)
        self._listen()

    def _draw(self, *, coloured: bool) -> None:
        made = self.figure
        colour: Any = {"field": "value", "transform": self._mapper} if coloured else "#0072b2"
        made.image(
            "image", x="x", y="y", dw="dw", dh="dh", source=self._cells, color_mapper=self._mapper
        )
        drawn = made.scatter(
            "x", "y", source=self._points, size=5, fill_color=colour, line_color=None, alpha=0.85
        )
        drawn.nonselection_glyph = drawn.selection_glyph = None
        made.scatter(
            "x", "y", source=self._chosen, size=9, fill_color=None, line_color="#d55e00",
            line_width=1.5,
        )  # fmt: skip
        made.scatter(
            "x", "y", source=self._current, size=18, marker="circle_cross", fill_color=None,
            line_color="#cc1177", line_width=2,
        )  # fmt: skip
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
        """Ring the chosen points."""
        self._chosen.data = {"x": self._x[rows], "y": self._y[rows]}

    def look_at(self, row: int | None) -> None:
        """Mark the one looked at."""
        rows = [] if row is None else [row]
        self._current.data = {"x": self._x[rows], "y": self._y[rows]}

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
        nothing: dict[str, Any] = {name: [] for name in ("image", "x", "y", "dw", "dh")}
        if len(self._x) <= MOST_POINTS:
            inside: Any = slice(None)
        else:
            (x0, x1), (y0, y1) = sorted(across), sorted(up)
            inside = (self._x >= x0) & (self._x <= x1) & (self._y >= y0) & (self._y <= y1)
            if np.count_nonzero(inside) > MOST_POINTS:
                self._points.data = {name: np.empty(0) for name in ("x", "y", "value")}
                self._cells.data = self._as_cells(inside, (x0, x1), (y0, y1))
                return
        if len(self._cells.data["x"]):
            self._cells.data = nothing
        self._points.data = self._of(inside)

    def _of(self, inside: Any) -> dict[str, Any]:
        return {"x": self._x[inside], "y": self._y[inside], "value": self._value[inside]}

    def _as_cells(
        self, inside: NDArray[np.bool_], across: tuple[float, float], up: tuple[float, float]
    ) -> dict[str, Any]:
        """Return an image of the mean value in each cell; NaN where there is no object."""
        known = inside & np.isfinite(self._value)
        where = (self._y[known], self._x[known])
        limits = [[up[0], up[1]], [across[0], across[1]]]
        count, *_ = np.histogram2d(*where, bins=_CELLS, range=limits)
        total, *_ = np.histogram2d(*where, bins=_CELLS, range=limits, weights=self._value[known])
        mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        self._mapper.nan_color = "rgba(0,0,0,0)"
        return {
            "image": [mean.astype(np.float32)],
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
