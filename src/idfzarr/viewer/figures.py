"""The lightcurve's figure: drawn once for a session; what is shown is swapped as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.core.properties import field, value
from bokeh.events import RangesUpdate, Tap
from bokeh.models import (
    DatetimeAxis,
    Legend,
    LegendItem,
    LinearAxis,
    LinearColorMapper,
    MultiLine,
    Patches,
    Range1d,
    Scatter,
    Segment,
)

from idfzarr.viewer.curve_values import GROUPS
from idfzarr.viewer.figure_frame import (
    COLOURS,
    NEUTRAL,
    blank_figure,
    draw,
    empty_source,
    paint,
    span,
    swap,
)
from idfzarr.viewer.point_words import PointWords

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from idfzarr.viewer.curve_values import Curve, Group, Line, Prepared
    from idfzarr.viewer.state import ViewerState

__all__ = ["MARKERS", "LightcurveFigure", "axis_of_mjd", "joined_points", "looks_of", "mjd_of_axis"]

MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "star", "hex", "plus")
"""One for each object; colours are for types."""

_MOST_IN_LEGEND = 12
_UNIX_EPOCH = 40587.0  # MJD of 1970-01-01
_MS_PER_DAY = 86_400_000.0
_WORDS = {
    "flagged": "flagged", "clipped": "clipped", "outlying": "outlying rate",
    "smooth": "smoothed", "binned": "binned", "truth": "simulated",
}  # fmt: skip
_COLOURED: dict[str, Any] = {"line_color": "colour", "line_width": 2}


def looks_of(curves: Sequence[Curve]) -> dict[tuple[int, str], tuple[str, str]]:
    """Return colour and marker of each curve, by object and type.

    Parameters
    ----------
    curves
        What is drawn together.
    """
    types = list(dict.fromkeys(curve.type for curve in curves))
    objects = list(dict.fromkeys(curve.object_id for curve in curves))
    by_object = len(types) == 1 and len(objects) > 1
    found = {}
    for curve in curves:
        t, o = types.index(curve.type), objects.index(curve.object_id)
        found[curve.object_id, curve.type] = (
            COLOURS[(o if by_object else t) % len(COLOURS)],
            MARKERS[o % len(MARKERS)],
        )
    return found


def joined_points(curves: Sequence[Curve], group: Group, series: Sequence[int]) -> dict[str, Any]:
    """Return the points of a group of all curves, one after the other, for a source: numbers alone.

    Parameters
    ----------
    curves
        The curves.
    group
        Which of their points.
    series
        Number of each curve among all that are drawn together.
    """
    rows = [np.flatnonzero(getattr(curve, group)) for curve in curves]

    def joined(name: str, kind: type[np.generic]) -> NDArray[Any]:
        parts = [getattr(curve, name)[at] for curve, at in zip(curves, rows, strict=True)]
        return np.concatenate([np.empty(0, kind), *parts]).astype(kind, copy=False)

    counts = [len(at) for at in rows]
    return {
        "x": np.concatenate(
            [np.empty(0), *(_numbers(c.x[at]) for c, at in zip(curves, rows, strict=True))]
        ),
        **{name: joined(name, np.float32) for name in ("y", "low", "high", "flux", "flux_err")},
        "mjd": joined("mjd", np.float64),
        "aor": joined("aor", np.float64),  # keys are longer than a float32 can tell apart
        "flag": joined("flag", np.int32),
        "position": np.concatenate([np.empty(0, np.int32), *rows]).astype(np.int32),
        "series": np.repeat(np.asarray(series, np.int32), counts),
    }


_COLUMNS = tuple(joined_points((), "kept", ()))


class LightcurveFigure:
    """One panel of lightcurves.

    What is not always drawn (flagged points, smoothed lines, the truth, ...) is made when it is
    first shown.

    Parameters
    ----------
    name
        Of the figure.
    height
        Pixels.
    pick
        Called with object, type and position of the AOR of a point that was clicked.
    zoomed
        Called with the two ends of the time axis as they are after a zoom.
    guard
        Turns failures into sentences.
    x_range
        Shared with other panels.
    """

    def __init__(
        self,
        name: str,
        *,
        height: int,
        pick: Callable[[int, str, int], None],
        zoomed: Callable[[float, float], None],
        guard: Callable[[], Any],
        x_range: Range1d | None = None,
    ) -> None:
        self.figure = blank_figure(
            name=name,
            height=height,
            x_range=x_range or Range1d(0.0, 1.0),
            x_axis_type="datetime",
        )
        self._sources: dict[str, Any] = {}
        self._points: dict[str, Any] = {}
        self._errors: list[Any] = []
        self._items: dict[str, LegendItem] = {}
        self._series: list[LegendItem] = []
        self._curves: Sequence[Curve] = ()
        self._looks = (6.0, True)  # size of the points, and whether they have error bars
        self._words = PointWords()
        self._colours = LinearColorMapper(palette=[COLOURS[0]], low=-0.5, high=0.5)
        self._pick, self._zoomed, self._guard = pick, zoomed, guard
        self._axes()
        self.legend = Legend(
            items=[], orientation="horizontal", ncols=4, label_text_font_size="11px", padding=2,
            margin=2, spacing=10, glyph_height=14, glyph_width=14,
        )  # fmt: skip
        self.figure.add_layout(self.legend, "above")
        self.figure.add_tools(self._words.hover)
        self._source("kept")
        # Points nowhere, one of each curve: a legend that showed the first point of each would be
        # laid out anew for every object, since those are others.
        colour = {"field": "series", "transform": self._colours}
        sample = _points(fill_color=colour, line_color=None)
        self._markers: list[str] = []
        self._samples = draw(self.figure, empty_source("x", "y", "series"), sample)
        self._samples.data_source.data = self._sample_rows()
        self.figure.on_event(Tap, self._tapped)
        self.figure.on_event(RangesUpdate, self._moved)

    def _axes(self) -> None:
        """Keep an axis of dates and one of numbers, of which one is seen."""
        made = self.figure
        self._dates: DatetimeAxis = made.xaxis[0]
        self._numbers = LinearAxis(
            visible=False,
            axis_label_text_font_style="normal",
            axis_label_text_font_size="12px",
            major_label_text_font_size="11px",
        )
        self._numbers.formatter.use_scientific = False
        made.add_layout(self._numbers, "below")

    # ---------------------------------------------------------------- what can be drawn

    def _source(self, part: str) -> Any:
        """Return the source of a part; what draws it is made with it."""
        if part not in self._sources:
            drawn = {
                "smooth": self._draw_smooth, "truth": self._draw_truth, "binned": self._draw_binned,
                "mark": self._draw_mark,
            }.get(part, self._draw_points)(part)  # fmt: skip
            if part in _WORDS:
                self._items[part] = LegendItem(label=_WORDS[part], renderers=[drawn])
        return self._sources[part]

    def _new(self, part: str, *names: str) -> Any:
        self._sources[part] = made = empty_source(*names)
        return made

    def _draw_points(self, group: str) -> Any:
        made, source = self.figure, self._new(group, *_COLUMNS)
        colour = {"field": "series", "transform": self._colours}
        size, errors = self._looks
        if group in {"kept", "flagged"}:
            faint = _bars(line_color=colour, line_alpha=0.55 if group == "kept" else 0.3)
            self._errors.append(draw(made, source, faint, visible=errors))
        # Hollow and crossed: apart from the others without any colour.
        looks: dict[str, Any] = {
            "kept": {"fill_color": colour, "line_color": None, "fill_alpha": 0.9},
            "flagged": {"line_color": colour, "line_alpha": 0.7},
            "clipped": {"marker": "x", "line_color": "#d62728", "line_width": 1.5},
            "outlying": {"marker": "cross", "line_color": "#d62728", "line_width": 1.5},
        }
        drawn = self._points[group] = draw(made, source, _points(size=size, **looks[group]))
        self._words.hover.renderers = list(self._points.values())
        return drawn

    def _draw_smooth(self, part: str) -> Any:
        source = self._new(part, "xs", "ys", "band_xs", "band_ys", "colour")
        band = Patches(
            xs="band_xs", ys="band_ys", fill_color="colour", fill_alpha=0.2, line_color=None
        )
        draw(self.figure, source, band, level="underlay")
        return draw(self.figure, source, MultiLine(xs="xs", ys="ys", **_COLOURED))

    def _draw_truth(self, part: str) -> Any:
        dashed = MultiLine(
            xs="xs", ys="ys", line_color="colour", line_width=1.5, line_dash="dashed",
            line_alpha=0.9,
        )  # fmt: skip
        return draw(self.figure, self._new(part, "xs", "ys", "colour"), dashed, level="underlay")

    def _draw_binned(self, part: str) -> Any:
        source = self._new(part, "x", "y", "low", "high", "n", "colour")
        draw(self.figure, source, _bars(**_COLOURED))
        squares = _points(marker="square", size=9, fill_color="colour", line_color=NEUTRAL)
        return draw(self.figure, source, squares)

    def _draw_mark(self, part: str) -> Any:
        ring = _points(size=16, line_color="#cc1177", line_width=2)
        return draw(self.figure, self._new(part, "x", "y"), ring, level="overlay")

    def _swap(self, part: str, data: dict[str, Any]) -> None:
        """Show other data; nothing is made or sent where they are the same."""
        some = any(len(column) for column in data.values())
        if not some and not self._holds(part):
            return
        swap(self._source(part), data)

    def _holds(self, part: str) -> bool:
        held = self._sources.get(part)
        return held is not None and any(len(column) for column in held.data.values())

    # ---------------------------------------------------------------- what is shown

    def show(
        self, prepared: Prepared, curves: Sequence[Curve], *, size: float, errors: bool
    ) -> None:
        """Swap the data.

        Parameters
        ----------
        prepared
            The view, for its axes.
        curves
            Those of it that this panel shows.
        size
            Of the points, pixels.
        errors
            Whether error bars are drawn.
        """
        self._curves, self._looks = curves, (size, errors)
        looks = looks_of(prepared.curves)
        self._paint_series(curves, looks)
        self._swap_points(curves)
        self._lines(curves, looks)
        for renderer in self._errors:
            renderer.visible = errors
        for renderer in self._points.values():
            renderer.glyph.size = size
        self._label(prepared)
        self._name_series(curves)
        self.mark(None)

    def _paint_series(
        self, curves: Sequence[Curve], looks: dict[tuple[int, str], tuple[str, str]]
    ) -> None:
        """Give each curve its colour and marker."""
        own = [looks[curve.object_id, curve.type] for curve in curves]
        colours = [colour for colour, _ in own] or [COLOURS[0]]
        if self._colours.palette != colours:
            self._colours.update(palette=colours, high=len(colours) - 0.5)
        self._markers = [marker for _, marker in own]
        self._words.tell([c.label for c in curves], curves[0].aor_name if curves else None)

    def _swap_points(self, curves: Sequence[Curve]) -> None:
        """Show the points; each has a marker of its own only where there are several kinds."""
        kinds = list(dict.fromkeys(self._markers)) or [MARKERS[0]]
        several = len(kinds) > 1
        if not several:  # before the data lose the column, and else after they have it
            self._set_marker(value(kinds[0]))
        for group in GROUPS:
            data = joined_points(curves, group, range(len(curves)))
            if several:
                data["marker"] = [self._markers[at] for at in data["series"]]
            self._swap(group, data)
        swap(self._samples.data_source, self._sample_rows())
        self._set_marker(field("marker") if several else value(kinds[0]))

    def _set_marker(self, wanted: Any) -> None:
        own = [drawn for group, drawn in self._points.items() if group in {"kept", "flagged"}]
        for glyph in (drawn.glyph for drawn in (*own, self._samples)):
            if glyph.marker != wanted:
                glyph.marker = wanted

    def _label(self, prepared: Prepared) -> None:
        self._dates.visible = prepared.x_is_date
        self._numbers.visible = not prepared.x_is_date
        self._dates.axis_label = self._numbers.axis_label = prepared.x_label
        made = self.figure
        made.xgrid[0].axis = self._dates if prepared.x_is_date else self._numbers
        made.yaxis.axis_label = prepared.y_label

    def _name_series(self, curves: Sequence[Curve]) -> None:
        """Write the legend: a line for each curve that is drawn, and one for each kind of mark."""
        shown = 0 < len(curves) <= _MOST_IN_LEGEND
        drawn = np.unique(self._sources["kept"].data["series"]).astype(int).tolist()
        drawn = drawn if shown else []
        while len(self._series) < len(drawn):
            self._series.append(LegendItem(renderers=[self._samples]))
        for item, at in zip(self._series, drawn, strict=False):
            item.update(label=value(curves[at].label), index=at)
        # What is listed stays listed: another list is another set of models, and to find out which
        # ones, Bokeh walks through all models of the page.
        items = [*self._series, *self._items.values()]
        named = {*self._series[: len(drawn)]} | {
            item for part, item in self._items.items() if self._holds(part)
        }
        for item in items:
            item.visible = item in named
        if self.legend.items != items:
            self.legend.items = items
        self.legend.visible = shown

    def _sample_rows(self) -> dict[str, Any]:
        """Return a point nowhere for each curve that the legend can name.

        Always as many: Bokeh paints a legend that names a new one before it has its colour.
        """
        rows: dict[str, Any] = {name: np.full(_MOST_IN_LEGEND, np.nan) for name in ("x", "y")}
        rows["series"] = np.arange(_MOST_IN_LEGEND)
        if len(set(self._markers)) > 1:
            more = [MARKERS[0]] * _MOST_IN_LEGEND
            rows["marker"] = [*self._markers, *more][:_MOST_IN_LEGEND]
        return rows

    def _lines(
        self, curves: Sequence[Curve], looks: dict[tuple[int, str], tuple[str, str]]
    ) -> None:
        colour = {id(curve): looks[curve.object_id, curve.type][0] for curve in curves}

        def of(name: str) -> list[tuple[Line, str]]:
            found = [(getattr(curve, name), colour[id(curve)]) for curve in curves]
            return [(line, tint) for line, tint in found if line is not None and len(line.x)]

        smooth, binned = of("smooth"), of("binned")
        band = {
            "band_xs": [_numbers(np.concatenate([line.x, line.x[::-1]])) for line, _ in smooth],
            "band_ys": [np.concatenate([line.low, line.high[::-1]]) for line, _ in smooth],
        }
        self._swap("smooth", _paths(smooth) | band)
        self._swap("truth", _paths(of("truth")))
        names = ("x", "y", "low", "high", "n")
        parts = [line.columns() for line, _ in binned]
        joined = {
            name: np.concatenate([np.empty(0), *(_numbers(part[name]) for part in parts)])
            for name in names
        }
        tints = [tint for line, tint in binned for _ in range(len(line.x))]
        self._swap("binned", joined | {"colour": tints})

    def fit_y(self, curves: Sequence[Curve], *, falling: bool) -> None:
        """Set the vertical axis so that all points of these curves are seen.

        Parameters
        ----------
        curves
            The curves.
        falling
            Whether smaller numbers stand higher, as magnitudes do.
        """
        parts = [np.empty(0)]
        for curve in curves:
            kept = curve.kept
            parts += [curve.y[~kept & np.isfinite(curve.y)]] if not kept.any() else []
            parts += [
                _bounded(curve.low[kept], curve.y[kept]),
                _bounded(curve.high[kept], curve.y[kept]),
            ]
            parts += [line.y for line in (curve.truth,) if line is not None and not kept.any()]
        low, high = span(np.concatenate(parts))
        start, end = (high, low) if falling else (low, high)
        self.figure.y_range.update(start=start, end=end, reset_start=start, reset_end=end)

    def fit_x(self, first: float, last: float, *, whole: tuple[float, float]) -> None:
        """Set the horizontal axis.

        Parameters
        ----------
        first, last
            Its ends, as numbers of the axis: milliseconds since 1970 for dates.
        whole
            Where the tool that resets goes to.
        """
        self.figure.x_range.update(start=first, end=last, reset_start=whole[0], reset_end=whole[1])

    def fit_times(self, prepared: Prepared, state: ViewerState) -> None:
        """Set the horizontal axis to the times that are chosen, or to what there is.

        Parameters
        ----------
        prepared
            The view.
        state
            What is chosen.
        """
        if state.time_axis not in {"date", "mjd"}:
            values = [curve.x[np.isfinite(curve.x)] for curve in prepared.curves]
            low, high = span(np.concatenate([np.empty(0), *values]).astype(np.float64))
            self.fit_x(low, high, whole=(low, high))
            return
        known = state.choices
        room = 0.02 * (known.last_mjd - known.first_mjd) or 1.0
        whole = (known.first_mjd - room, known.last_mjd + room)
        first = whole[0] if state.start is None else state.start
        last = whole[1] if state.end is None else state.end
        ends = [axis_of_mjd(mjd, is_date=prepared.x_is_date) for mjd in (first, last, *whole)]
        self.fit_x(ends[0], ends[1], whole=(ends[2], ends[3]))

    def mark(self, position: int | None) -> None:
        """Ring the points of one AOR."""
        xs: list[float] = []
        ys: list[float] = []
        if position is not None:
            for group in self._points:
                held = self._sources[group].data
                at = np.flatnonzero(np.asarray(held["position"]) == position)
                xs += np.asarray(held["x"])[at].tolist()
                ys += np.asarray(held["y"])[at].tolist()
        self._swap("mark", {"x": xs, "y": ys})

    def paint(self, *, dark: bool) -> None:
        """Colour the figure for a light or a dark page."""
        paint(self.figure, dark=dark)

    # ---------------------------------------------------------------- what is clicked

    def _tapped(self, event: Any) -> None:
        with self._guard():
            found = self._nearest(event.x, event.y)
            if found is not None:
                self._pick(*found)

    def _nearest(self, x: float | None, y: float | None) -> tuple[int, str, int] | None:
        """Return the point nearest to a place, in parts of the axes."""
        across, up = self.figure.x_range, self.figure.y_range
        width, height = across.end - across.start, up.end - up.start
        if x is None or y is None or not width or not height:
            return None
        best: tuple[float, tuple[int, str, int]] | None = None
        for group in self._points:
            held = self._sources[group].data
            if not len(held["x"]):
                continue
            far = np.hypot(
                (np.asarray(held["x"]) - x) / width * 3.0,  # the panel is wide
                (np.asarray(held["y"], np.float64) - y) / height,
            )
            at = int(np.nanargmin(far)) if np.isfinite(far).any() else -1
            if at >= 0 and (best is None or far[at] < best[0]):
                curve = self._curves[int(held["series"][at])]
                best = float(far[at]), (curve.object_id, curve.type, int(held["position"][at]))
        return best[1] if best is not None and best[0] < _REACH else None

    def _moved(self, event: Any) -> None:
        with self._guard():
            if event.x0 is not None and event.x1 is not None:
                self._zoomed(float(event.x0), float(event.x1))


def _points(**looks: Any) -> Scatter:
    return Scatter(**({"x": "x", "y": "y", "size": 6, "fill_color": None} | looks))


def _bars(**looks: Any) -> Segment:
    return Segment(x0="x", y0="low", x1="x", y1="high", **looks)


_REACH = 0.08  # a click farther than this part of the panel means no point


def mjd_of_axis(value: float, *, is_date: bool) -> float:
    """Return the MJD of a place on the time axis."""
    return value / _MS_PER_DAY + _UNIX_EPOCH if is_date else value


def axis_of_mjd(mjd: float, *, is_date: bool) -> float:
    """Return the place of an MJD on the time axis."""
    return (mjd - _UNIX_EPOCH) * _MS_PER_DAY if is_date else mjd


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return dates as milliseconds since 1970, numbers as they are."""
    if values.dtype.kind == "M":
        found = values.astype("datetime64[ms]").astype(np.int64).astype(np.float64)
        return np.where(np.isnat(values), np.nan, found)
    return values.astype(np.float64)


def _paths(lines: list[tuple[Line, str]]) -> dict[str, list[Any]]:
    return {
        "xs": [_numbers(line.x) for line, _ in lines],
        "ys": [line.y for line, _ in lines],
        "colour": [tint for _, tint in lines],
    }


def _bounded(end: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ends of error bars, cut where one is far longer than the scatter of the points.

    A faint point's magnitude may have an error of several; it must not flatten all the others.
    """
    if not y.size:
        return y
    low, high = np.percentile(y, [2.0, 98.0])
    room = max(high - low, np.finfo(float).tiny)
    return np.clip(end, y.min() - room, y.max() + room)
