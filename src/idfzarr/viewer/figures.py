"""The lightcurve's figure: drawn once for a session; what is shown is swapped as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.events import RangesUpdate, Tap
from bokeh.models import (
    DatetimeAxis,
    HoverTool,
    Legend,
    LegendItem,
    LinearAxis,
    Range1d,
)

from idfzarr.viewer.curve_values import GROUPS
from idfzarr.viewer.figure_frame import COLOURS, NEUTRAL, blank_figure, empty_source, paint, span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from idfzarr.viewer.curve_values import Curve, Group, Line, Prepared
    from idfzarr.viewer.state import ViewerState

__all__ = ["MARKERS", "LightcurveFigure", "axis_of_mjd", "joined_points", "looks_of", "mjd_of_axis"]

MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "star", "hex", "plus")
"""One for each object; colours are for types."""

_COLUMNS = (
    "x", "y", "low", "high", "mjd", "date", "flux", "flux_err", "flags", "aor", "aor_name",
    "position", "label", "colour", "marker", "object", "type",
)  # fmt: skip
_WORDS = {"flags", "aor_name", "label", "colour", "marker", "type"}
_MOST_IN_LEGEND = 12
_UNIX_EPOCH = 40587.0  # MJD of 1970-01-01
_MS_PER_DAY = 86_400_000.0

_TIPS = [
    ("lightcurve", "@label"),
    ("date (UTC)", "@date{%F %H:%M}"),
    ("MJD", "@mjd{0.00000} d"),
    ("AOR", "@aor @aor_name"),
    ("flux", "@flux{0.0000} ± @flux_err{0.0000}"),
    ("drawn", "@y{0.0000}"),
    ("flags", "@flags"),
]


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


def joined_points(
    curves: Sequence[Curve], group: Group, looks: dict[tuple[int, str], tuple[str, str]]
) -> dict[str, Any]:
    """Return the points of a group of all curves, one after the other, for a source.

    Parameters
    ----------
    curves
        The curves.
    group
        Which of their points.
    looks
        See `looks_of`.
    """
    parts = []
    for curve in curves:
        points = dict(curve.points(group))
        n = len(points["x"])
        colour, marker = looks[curve.object_id, curve.type]
        fixed = {
            "label": curve.label, "colour": colour, "marker": marker,
            "object": curve.object_id, "type": curve.type,
        }  # fmt: skip
        parts.append(points | {name: [value] * n for name, value in fixed.items()})
    if not parts:
        return {name: [] for name in _COLUMNS}
    return {
        name: [one for part in parts for one in part[name]]
        if name in _WORDS
        else np.concatenate([np.asarray(part[name]) for part in parts])
        for name in _COLUMNS
    }


class LightcurveFigure:
    """One panel of lightcurves.

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
        self._sources = {group: empty_source(*_COLUMNS) for group in GROUPS}
        self._smooth = empty_source("xs", "ys", "colour")
        self._band = empty_source("xs", "ys", "colour")
        self._truth = empty_source("xs", "ys", "colour")
        self._binned = empty_source("x", "y", "low", "high", "n", "colour")
        self._mark = empty_source("x", "y")
        self._items: dict[str, LegendItem] = {}
        self._pick, self._zoomed, self._guard = pick, zoomed, guard
        self._axes()
        self._draw()
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

    def _draw(self) -> None:
        made = self.figure
        made.patches(
            "xs", "ys", source=self._band, fill_color="colour", fill_alpha=0.2, line_color=None
        )
        truth = made.multi_line(
            "xs", "ys", source=self._truth, line_color="colour", line_width=1.5, line_dash="dashed",
            line_alpha=0.9,
        )  # fmt: skip
        self._errors = [
            made.segment(
                "x", "low", "x", "high", source=source, line_color="colour", line_alpha=alpha
            )
            for source, alpha in ((self._sources["flagged"], 0.3), (self._sources["kept"], 0.55))
        ]
        # Hollow and crossed: apart from the others without any colour.
        drawn = {
            "flagged": made.scatter(
                "x", "y", source=self._sources["flagged"], marker="marker", size=6,
                fill_color=None, line_color="colour", line_alpha=0.7,
            ),
            "clipped": made.scatter(
                "x", "y", source=self._sources["clipped"], marker="x", size=8,
                line_color="#d62728", line_width=1.5,
            ),
            "outlying": made.scatter(
                "x", "y", source=self._sources["outlying"], marker="cross", size=9,
                line_color="#d62728", line_width=1.5,
            ),
            "kept": made.scatter(
                "x", "y", source=self._sources["kept"], marker="marker", size=6,
                fill_color="colour", line_color=None, alpha=0.9,
            ),
        }  # fmt: skip
        self._drawn = list(drawn.values())
        for renderer in self._drawn:
            renderer.nonselection_glyph = renderer.selection_glyph = None
        smooth = made.multi_line("xs", "ys", source=self._smooth, line_color="colour", line_width=2)
        made.segment(
            "x", "low", "x", "high", source=self._binned, line_color="colour", line_width=2
        )
        binned = made.scatter(
            "x", "y", source=self._binned, marker="square", size=9, fill_color="colour",
            line_color=NEUTRAL,
        )  # fmt: skip
        made.scatter(
            "x",
            "y",
            source=self._mark,
            size=16,
            fill_color=None,
            line_color="#cc1177",
            line_width=2,
        )
        hover = HoverTool(
            renderers=list(drawn.values()),
            tooltips=_TIPS,
            formatters={"@date": "datetime"},
            limit=4,
        )
        made.add_tools(hover)
        words = {
            "flagged": "flagged", "clipped": "clipped", "outlying": "outlying rate",
            "smooth": "smoothed", "binned": "binned", "truth": "simulated",
        }  # fmt: skip
        renderers = drawn | {"smooth": smooth, "binned": binned, "truth": truth}
        self._items = {
            key: LegendItem(label=word, renderers=[renderers[key]], visible=False)
            for key, word in words.items()
        }
        series = LegendItem(label={"field": "label"}, renderers=[drawn["kept"]])
        self.legend = Legend(
            items=[series, *self._items.values()], orientation="horizontal", ncols=4,
            label_text_font_size="11px", padding=2, margin=2, spacing=10, glyph_height=14,
            glyph_width=14,
        )  # fmt: skip
        made.add_layout(self.legend, "above")

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
        made = self.figure
        looks = looks_of(prepared.curves)
        for group in GROUPS:
            self._sources[group].data = joined_points(curves, group, looks)
        self._lines(curves, looks)
        for renderer in self._errors:
            renderer.visible = errors
        for renderer in self._drawn:
            if renderer.glyph.size != size:
                renderer.glyph.size = size
        self._dates.visible = prepared.x_is_date
        self._numbers.visible = not prepared.x_is_date
        self._dates.axis_label = self._numbers.axis_label = prepared.x_label
        made.xgrid[0].axis = self._dates if prepared.x_is_date else self._numbers
        made.yaxis.axis_label = prepared.y_label
        for group in ("flagged", "clipped", "outlying"):
            some = bool(len(self._sources[group].data["x"]))
            self._items[group].visible = some
        self.legend.visible = 0 < len(curves) <= _MOST_IN_LEGEND
        self.mark(None)

    def _lines(
        self, curves: Sequence[Curve], looks: dict[tuple[int, str], tuple[str, str]]
    ) -> None:
        colour = {id(curve): looks[curve.object_id, curve.type][0] for curve in curves}

        def of(name: str) -> list[tuple[Line, str]]:
            found = [(getattr(curve, name), colour[id(curve)]) for curve in curves]
            return [(line, tint) for line, tint in found if line is not None and len(line.x)]

        smooth, binned, truth = of("smooth"), of("binned"), of("truth")
        self._smooth.data = _paths(smooth)
        self._band.data = {
            "xs": [_numbers(np.concatenate([line.x, line.x[::-1]])) for line, _ in smooth],
            "ys": [np.concatenate([line.low, line.high[::-1]]) for line, _ in smooth],
            "colour": [tint for _, tint in smooth],
        }
        self._truth.data = _paths(truth)
        names = ("x", "y", "low", "high", "n")
        parts = [line.columns() for line, _ in binned]
        self._binned.data = {
            name: np.concatenate([_numbers(part[name]) for part in parts]) if parts else []
            for name in names
        } | {"colour": [tint for line, tint in binned for _ in range(len(line.x))]}
        for key, some in (("smooth", smooth), ("binned", binned), ("truth", truth)):
            self._items[key].visible = bool(some)

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
        xs: list[Any] = []
        ys: list[Any] = []
        if position is not None:
            for source in self._sources.values():
                at = np.flatnonzero(np.asarray(source.data["position"]) == position)
                xs += list(_numbers(np.asarray(source.data["x"]))[at])
                ys += list(np.asarray(source.data["y"])[at])
        self._mark.data = {"x": xs, "y": ys}

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
        for source in self._sources.values():
            held = source.data
            if not len(held["x"]):
                continue
            far = np.hypot(
                (_numbers(np.asarray(held["x"])) - x) / width * 3.0,  # the panel is wide
                (np.asarray(held["y"], np.float64) - y) / height,
            )
            at = int(np.nanargmin(far)) if np.isfinite(far).any() else -1
            if at >= 0 and (best is None or far[at] < best[0]):
                own = int(held["object"][at]), str(held["type"][at]), int(held["position"][at])
                best = float(far[at]), own
        return best[1] if best is not None and best[0] < _REACH else None

    def _moved(self, event: Any) -> None:
        with self._guard():
            if event.x0 is not None and event.x1 is not None:
                self._zoomed(float(event.x0), float(event.x1))


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
