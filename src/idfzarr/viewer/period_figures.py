"""Figures of periods and rates: periodogram, folded lightcurve, dMag/dt against magnitude."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import HoverTool, Line, Scatter, Segment, Span

from idfzarr.viewer.curves import rate_limits
from idfzarr.viewer.figure_frame import NEUTRAL, blank_figure, draw, empty_source, paint, span, swap
from idfzarr.viewer.figures import looks_of
from idfzarr.viewer.periods import drawn_powers, fold_curves

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from idfzarr.analysis.period import Peak, Periodogram
    from idfzarr.viewer.curve_values import Curve, Prepared

__all__ = ["FoldFigure", "PeriodogramFigure", "RateFigure", "chance_text"]

_COLOUR = "#0072b2"
_PEAK = "#d55e00"
_HERE = "#cc1177"


class PeriodogramFigure:
    """Power over period; a click takes the peak nearest to it.

    Parameters
    ----------
    height
        Pixels.
    take
        Called with the peak that was clicked.
    guard
        Turns failures into sentences.
    """

    def __init__(
        self, *, height: int, take: Callable[[Peak], None], guard: Callable[[], Any]
    ) -> None:
        self.figure = blank_figure(name="periodogram", height=height, x_axis_type="log")
        self.figure.x_range.update(start=0.1, end=1000.0)
        self._line = empty_source("period", "power")
        self._peaks = empty_source("period", "power", "chance")
        self._here = Span(dimension="height", line_color=_HERE, line_dash="dashed", visible=False)
        self.peaks: tuple[Peak, ...] = ()
        made = self.figure
        made.xaxis.axis_label = "period [d]"
        made.yaxis.axis_label = "power [no unit]"
        draw(made, self._line, Line(x="period", y="power", line_color=_COLOUR, line_width=1))
        peaks = Scatter(
            x="period", y="power", size=10, marker="inverted_triangle", fill_color=_PEAK,
            line_color=None,
        )  # fmt: skip
        drawn = draw(made, self._peaks, peaks)
        tips = [
            ("period", "@period{0.000000} d"),
            ("power", "@power{0.0000}"),
            ("chance", "@chance"),
        ]
        made.add_tools(HoverTool(renderers=[drawn], tooltips=tips))
        made.add_layout(self._here)

        def tapped(event: Any) -> None:
            with guard():
                peak = self.nearest(event.x)
                if peak is not None:
                    take(peak)

        made.on_event(Tap, tapped)

    def nearest(self, period: float | None) -> Peak | None:
        """Return the peak nearest to a period, on the axis as it is drawn."""
        if not self.peaks or period is None or not period > 0:
            return None
        return min(self.peaks, key=lambda peak: abs(np.log(peak.period / period)))

    def show(self, found: Periodogram | None) -> None:
        """Swap the data; None for no periodogram."""
        if found is None:
            self.peaks = ()
            self._line.data = {"period": [], "power": []}
            self._peaks.data = {"period": [], "power": [], "chance": []}
            return
        self.peaks = found.peaks
        period, power = drawn_powers(found)
        self._line.data = {"period": period, "power": power}
        self._peaks.data = {
            "period": [peak.period for peak in found.peaks],
            "power": [peak.power for peak in found.peaks],
            "chance": [chance_text(peak) for peak in found.peaks],
        }
        made = self.figure
        low, high = float(period.min()), float(period.max())
        made.x_range.update(start=low, end=high, reset_start=low, reset_end=high)
        bottom, top = span(power)
        made.y_range.update(start=bottom, end=top, reset_start=bottom, reset_end=top)
        unit = "depth over its error" if found.method == "box" else "no unit"
        made.yaxis.axis_label = f"power [{unit}]"

    def look_at(self, period: float | None) -> None:
        """Mark the period of folding."""
        self._here.update(location=period or 0.0, visible=period is not None)

    def paint(self, *, dark: bool) -> None:
        """Colour the figure for a light or a dark page."""
        paint(self.figure, dark=dark)


def chance_text(peak: Peak) -> str:
    """Return the false-alarm probability of a peak as people read it."""
    exponent = peak.false_alarm_log10
    if not np.isfinite(exponent):
        return "not known"
    return f"1e{exponent:.0f}" if exponent < -3 else f"{10**exponent:.3g}"


class FoldFigure:
    """Lightcurves over phase, two turns of them; a click makes its phase zero.

    Parameters
    ----------
    height
        Pixels.
    set_zero
        Called with a phase that was clicked.
    guard
        Turns failures into sentences.
    """

    def __init__(
        self, *, height: int, set_zero: Callable[[float], None], guard: Callable[[], Any]
    ) -> None:
        self.figure = blank_figure(name="folded", height=height)
        self.figure.x_range.update(start=0.0, end=2.0, reset_start=0.0, reset_end=2.0)
        self.epoch: float | None = None
        self._points = empty_source("x", "y", "low", "high", "colour", "marker", "label", "mjd")
        made = self.figure
        made.xaxis.axis_label = "phase [turns]"
        made.yaxis.axis_label = "flux [no unit]"
        bars = Segment(x0="x", y0="low", x1="x", y1="high", line_color="colour", line_alpha=0.4)
        draw(made, self._points, bars)
        points = Scatter(
            x="x", y="y", marker="marker", size=5, fill_color="colour", line_color=None,
            fill_alpha=0.85,
        )  # fmt: skip
        drawn = draw(made, self._points, points)
        tips = [("lightcurve", "@label"), ("phase", "@x{0.0000}"), ("MJD", "@mjd{0.00000} d")]
        made.add_tools(HoverTool(renderers=[drawn], tooltips=tips, limit=3))
        made.add_layout(
            Span(dimension="height", location=1.0, line_color=NEUTRAL, line_dash="dotted")
        )

        def tapped(event: Any) -> None:
            with guard():
                if event.x is not None:
                    set_zero(float(event.x) % 1.0)

        made.on_event(Tap, tapped)

    def show(self, prepared: Prepared, *, period: float | None, epoch: float | None) -> None:
        """Swap the data; nothing is drawn without a period."""
        names = ("x", "y", "low", "high", "mjd", "colour", "marker", "label")
        looks = looks_of(prepared.curves)
        folded = [] if period is None else fold_curves(prepared, period, epoch=epoch)
        self.epoch = folded[0].epoch if folded else None
        parts: dict[str, list[Any]] = {name: [] for name in names}
        for one in folded:
            points = one.points("kept")
            colour, marker = looks[one.curve.object_id, one.curve.type]
            for name in names[:5]:
                parts[name].append(np.asarray(points[name], dtype=np.float64))
            for name, word in zip(names[5:], (colour, marker, one.curve.label), strict=True):
                parts[name] += [word] * len(points["x"])
        data = _joined(parts, numbers=names[:5])
        swap(self._points, data)
        made = self.figure
        low, high = span(np.concatenate([data["low"], data["high"]]))
        start, end = (high, low) if prepared.y_reversed else (low, high)
        made.y_range.update(start=start, end=end, reset_start=start, reset_end=end)
        made.yaxis.axis_label = prepared.y_label

    def paint(self, *, dark: bool) -> None:
        """Colour the figure for a light or a dark page."""
        paint(self.figure, dark=dark)


class RateFigure:
    """dMag/dt of successive points against magnitude, with the limits of what is outlying."""

    def __init__(self, *, height: int) -> None:
        self.figure = blank_figure(name="rates", height=height)
        self._points = empty_source("mag", "rate", "low", "high", "colour", "label")
        made = self.figure
        made.xaxis.axis_label = "magnitude [mag]"
        made.yaxis.axis_label = "dMag/dt [mag/d]"
        bars = Segment(x0="mag", y0="low", x1="mag", y1="high", line_color="colour", line_alpha=0.3)
        draw(made, self._points, bars)
        points = Scatter(x="mag", y="rate", size=4, fill_color="colour", line_color=None)
        drawn = draw(made, self._points, points)
        made.add_tools(
            HoverTool(
                renderers=[drawn], tooltips=[("lightcurve", "@label"), ("rate", "@rate mag/d")]
            )
        )
        made.add_layout(Span(dimension="width", location=0.0, line_color=NEUTRAL))
        self._limits = [
            Span(dimension="width", line_color="#d62728", line_dash="dashed", visible=False)
            for _ in range(2)
        ]
        for limit in self._limits:
            made.add_layout(limit)

    def show(self, curves: Sequence[Curve], *, low: float, high: float, sigma: float) -> None:
        """Swap the data.

        Parameters
        ----------
        curves
            What is shown.
        low, high, sigma
            See `idfzarr.viewer.curves.rate_limits`.
        """
        looks = looks_of(curves)
        parts: dict[str, list[Any]] = {
            name: [] for name in ("mag", "rate", "low", "high", "colour", "label")
        }
        for curve in curves:
            rates = curve.rates
            error = np.nan_to_num(rates.rate_err)
            parts["mag"].append(rates.mag)
            parts["rate"].append(rates.rate)
            parts["low"].append(rates.rate - error)
            parts["high"].append(rates.rate + error)
            word = looks[curve.object_id, curve.type][0], curve.label
            parts["colour"] += [word[0]] * len(error)
            parts["label"] += [word[1]] * len(error)
        data = _joined(parts, numbers=("mag", "rate", "low", "high"))
        self._points.data = data
        rate = data["rate"]
        ends = rate_limits(rate, low=low, high=high, sigma=sigma)
        for limit, end in zip(self._limits, ends, strict=True):
            limit.update(location=float(np.nan_to_num(end)), visible=bool(np.isfinite(end)))
        made = self.figure
        left, right = span(data["mag"])
        made.x_range.update(start=right, end=left, reset_start=right, reset_end=left)
        bottom, top = span(np.concatenate([rate, np.asarray(ends)]))
        made.y_range.update(start=bottom, end=top, reset_start=bottom, reset_end=top)

    def paint(self, *, dark: bool) -> None:
        """Colour the figure for a light or a dark page."""
        paint(self.figure, dark=dark)


def _joined(parts: dict[str, list[Any]], *, numbers: Sequence[str]) -> dict[str, Any]:
    """Return columns for a source: arrays of numbers joined, words as lists."""
    joined: dict[str, Any] = dict(parts)
    for name in numbers:
        joined[name] = np.concatenate([np.empty(0), *parts[name]])
    return joined
