"""Plots of lightcurves: against time, their rates, periodograms, folded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import holoviews as hv
import numpy as np

from idfzarr.viewer.curves import prepare, rate_limits
from idfzarr.viewer.figure_frame import NEUTRAL
from idfzarr.viewer.labels import axis_label
from idfzarr.viewer.periods import drawn_powers, find_periods, fold_curves
from idfzarr.viewer.view_style import REJECTED, colour_of, hover, look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.viewer.curve_values import Curve, Line, Prepared
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.periods import PeriodSearch
    from idfzarr.viewer.state import ViewerState

__all__ = ["folded_plot", "lightcurve_plot", "periodogram_plot", "rate_plot"]

_PANEL = 170  # pixels of the frame of one of several panels
_APART = {
    "flagged": ("circle_x", NEUTRAL),
    "clipped": ("x", REJECTED),
    "outlying": ("cross", REJECTED),
}
# Points minutes apart have enormous rates, which would leave a line of all the others.
_RATE_SIGMAS = 6.0
_SMOOTH = "#c51b8a"


def lightcurve_plot(
    field: Field, state: ViewerState, *, width: int = 760, height: int = 320
) -> Any:
    """Draw lightcurves as they are chosen.

    Parameters
    ----------
    field
        The store.
    state
        What is chosen.
    width, height
        Pixels of the frame; a panel of several is lower.

    Returns
    -------
    holoviews.Overlay or holoviews.Layout
        All in one frame, or one frame below the other with a common time axis. What is left out is
        said by the notes of `idfzarr.viewer.curves.prepare`.

    Raises
    ------
    UnknownName
        There is no such object.
    CorruptError
        A lightcurve is damaged.
    """
    prepared = prepare(field, state)
    if state.layout == "overlaid" or len(prepared) < 2:
        return _frame(state, prepared, range(len(prepared)), size=(width, height))
    panels = [_frame(state, prepared, [k], size=(width, _PANEL)) for k in range(len(prepared))]
    return hv.Layout(panels).cols(1).opts(shared_axes=True)


def _frame(
    state: ViewerState, prepared: Prepared, which: Sequence[int], *, size: tuple[int, int]
) -> Any:
    layers: list[Any] = []
    for k in which:
        layers += _layers(state, prepared[k], colour_of(k))
    alone = prepared[which[0]] if len(which) == 1 else None
    label = prepared.y_label
    if alone is not None:
        label = axis_label("magnitude" if prepared.y_reversed else "flux", alone.unit)
    options = look(
        width=size[0],
        height=size[1],
        xlabel=prepared.x_label,
        ylabel=label,
        invert_yaxis=prepared.y_reversed,
        title=_title(state) if alone is None else f"{_title(state)}: {alone.label}",
        legend_position="right",
        show_legend=alone is None,
        padding=(0.015, 0.08),
    )
    if not any(prepared[k].n_drawn for k in which):
        layers.append(_nothing())
    return hv.Overlay(layers).opts(hv.opts.Overlay(**options))


def _title(state: ViewerState) -> str:
    ids = state.objects
    return ("object " if len(ids) == 1 else "objects ") + ", ".join(map(str, ids))


def _nothing() -> Any:
    return hv.Text(0.5, 0.5, "nothing to draw").opts(color=NEUTRAL)


def _point_hover(curve: Curve) -> Any:
    return hover(
        [
            ("", curve.label),
            ("date", "@date{%F %T} UTC"),
            ("MJD", "@mjd{0.00000}"),
            ("flux", "@flux{0.0000} ± @flux_err{0.0000}"),
            ("AOR", "@aor_name (@aor{0})"),
            ("flags", "@flags"),
        ],
        formatters={"@date": "datetime"},
    )


_SHOWN = ["y", "low", "high", "mjd", "date", "flux", "flux_err", "flags", "aor", "aor_name"]


def _layers(state: ViewerState, curve: Curve, colour: str) -> list[Any]:
    """Return the layers of one curve, the lowest first."""
    layers: list[Any] = []
    if curve.truth is not None and curve.truth.x.size:
        line = hv.Curve((curve.truth.x, curve.truth.y), "x", "y", label=f"{curve.label}, simulated")
        layers.append(line.opts(color=colour, line_dash="dashed", line_width=1.2, alpha=0.7))
    smooth = [] if curve.smooth is None else _band(curve.smooth, f"{curve.label}, smoothed")
    layers += smooth[:1]  # the band lies under the points, the line over them
    layers += _points(state, curve, colour)
    layers += smooth[1:]
    if curve.binned is not None:
        layers += _bins(curve.binned, colour, f"{curve.label}, binned")
    return layers


def _points(state: ViewerState, curve: Curve, colour: str) -> list[Any]:
    layers: list[Any] = []
    tool = _point_hover(curve)
    kept = curve.points("kept")
    if state.show_errors and kept["x"].size:
        layers.append(_bars(kept, colour, alpha=0.45 if curve.binned is None else 0.15))
    if kept["x"].size:
        made = hv.Scatter(kept, "x", _SHOWN, label=curve.label)
        layers.append(
            made.opts(
                color=colour,
                size=state.marker_size,
                alpha=0.35 if curve.binned is not None else 0.9,
                tools=[tool, "tap"],
                nonselection_alpha=0.9,
            )
        )
    for group, (marker, own) in _APART.items():
        apart = curve.points(group)  # type: ignore[arg-type]
        if apart["x"].size:
            made = hv.Scatter(apart, "x", _SHOWN, label=f"{curve.label}, {group}")
            layers.append(
                made.opts(
                    line_color=own,
                    fill_color=None,
                    marker=marker,
                    size=state.marker_size + 1,
                    tools=[_point_hover(curve)],
                )
            )
    return layers


def _bars(columns: dict[str, NDArray[Any]], colour: str, *, alpha: float) -> Any:
    """Return error bars: lines of their own, since HoloViews' have no colour of the curve."""
    known = np.isfinite(columns["low"]) & np.isfinite(columns["high"])
    x = columns["x"][known]
    made = hv.Segments(
        (x, columns["low"][known], x, columns["high"][known]), ["x", "y", "x1", "y1"]
    )
    return made.opts(color=colour, alpha=alpha, line_width=1)


def _band(line: Line, label: str) -> list[Any]:
    if not line.x.size:
        return []
    known = np.isfinite(line.low) & np.isfinite(line.high)
    band = hv.Area((line.x[known], line.low[known], line.high[known]), "x", ["y", "y2"])
    middle = hv.Curve((line.x, line.y), "x", "y", label=label)
    return [
        band.opts(color=_SMOOTH, alpha=0.25, line_alpha=0.0),
        middle.opts(color=_SMOOTH, line_width=2),
    ]


def _bins(line: Line, colour: str, label: str) -> list[Any]:
    known = np.isfinite(line.y)
    columns = {name: values[known] for name, values in line.columns().items()}
    if not columns["x"].size:
        return []
    made = hv.Scatter(columns, "x", ["y", "low", "high", "n"], label=label)
    tool = hover([("binned", label), ("measurements", "@n{0}"), ("value", "@y{0.0000}")])
    return [
        _bars(columns, colour, alpha=1.0),
        made.opts(color=colour, marker="square", size=8, line_color="white", tools=[tool]),
    ]


# ------------------------------------------------------------------ rates


def rate_plot(field: Field, state: ViewerState, *, width: int = 420, height: int = 320) -> Any:
    """Draw how fast objects change against how bright they are.

    Parameters
    ----------
    field, state
        The store, and what is chosen.
    width, height
        Pixels of the frame.

    Returns
    -------
    holoviews.Overlay
        dMag/dt of successive points against their mean magnitude, with a line at 0 and, where the
        rates are filtered, the limits of the first curve.

    Raises
    ------
    UnknownName, CorruptError
        As of `lightcurve_plot`.
    """
    prepared = prepare(field, state)
    layers: list[Any] = [hv.HLine(0.0).opts(color=NEUTRAL, line_width=1)]
    every = np.concatenate([np.empty(0), *(curve.rates.rate for curve in prepared)])
    low, high = rate_limits(every, low=state.rate_low, high=state.rate_high, sigma=_RATE_SIGMAS)
    for k, curve in enumerate(prepared):
        found = curve.rates
        if not found.rate.size:
            continue
        columns = {"x": found.mag, "rate": found.rate, "error": found.rate_err, "mjd": found.mjd}
        tool = hover(
            [
                ("", curve.label),
                ("dMag/dt", "@rate{0.0000} ± @error{0.0000} mag/d"),
                ("magnitude", "@x{0.000}"),
                ("MJD", "@mjd{0.000}"),
            ]
        )
        made = hv.Scatter(columns, "x", ["rate", "error", "mjd"], label=curve.label)
        layers.append(made.opts(color=colour_of(k), size=4, alpha=0.6, tools=[tool]))
        if state.rate_on and k == 0:
            quantiles = {"low": state.rate_low, "high": state.rate_high}
            limits = rate_limits(found.rate, sigma=state.rate_sigma, **quantiles)
            layers += [hv.HLine(v).opts(color=REJECTED, line_dash="dotted") for v in limits]
    beyond = int(np.count_nonzero((every < low) | (every > high)))
    told = f", {beyond} rates lie beyond the frame" if beyond else ""
    system = f"{state.system} mag" if state.unit == "mag" else "AB mag"
    options = look(
        width=width,
        height=height,
        xlabel=axis_label("magnitude", system),
        ylabel=axis_label("dMag/dt", "mag/d"),
        invert_xaxis=True,
        title=_title(state) + told,
        show_legend=False,
    )
    if high > low:
        options["ylim"] = (low, high)
    return hv.Overlay(layers).opts(hv.opts.Overlay(**options))


# ------------------------------------------------------------------ periods


def periodogram_plot(
    field: Field,
    state: ViewerState,
    *,
    search: PeriodSearch | None = None,
    width: int = 760,
    height: int = 240,
) -> Any:
    """Draw the periodogram of the object that is looked at, with its peaks.

    Parameters
    ----------
    field, state
        The store, and what is chosen.
    search
        What `idfzarr.viewer.periods.find_periods` found; looked for unless given.
    width, height
        Pixels of the frame.

    Returns
    -------
    holoviews.Overlay
        Power against period; the period of folding is a line.

    Raises
    ------
    UnknownName, CorruptError
        As of `lightcurve_plot`.
    """
    found = find_periods(field, state) if search is None else search
    options = look(
        width=width,
        height=height,
        xlabel=axis_label("period", "d"),
        ylabel=axis_label("power", ""),
        title=f"{_title(state)}: {', '.join(found.types)}",
        show_legend=False,
    )
    if found.found is None:
        empty = hv.Overlay([_nothing()])
        return empty.opts(hv.opts.Overlay(**options | {"title": found.note}))
    period, power = drawn_powers(found.found)
    tool = hover([("period", "@x{0.00000} d"), ("power", "@power{0.000}")])
    line = hv.Curve((period, power), "x", "power").opts(color="#0072b2", line_width=1, tools=[tool])
    layers: list[Any] = [line]
    peaks = found.found.peaks
    if peaks:
        columns = {
            "x": np.array([peak.period for peak in peaks]),
            "power": np.array([peak.power for peak in peaks]),
            "chance": np.array([peak.false_alarm_probability for peak in peaks]),
        }
        told = [("peak at", "@x{0.00000} d"), ("false alarm", "@chance{0.0e+0}")]
        marks = hv.Scatter(columns, "x", ["power", "chance"])
        layers.append(
            marks.opts(
                color="#d55e00", marker="inverted_triangle", size=9, tools=[hover(told), "tap"]
            )
        )
    if state.period is not None:
        layers.append(hv.VLine(state.period).opts(color=REJECTED, line_dash="dashed"))
    return hv.Overlay(layers).opts(hv.opts.Overlay(**options, logx=True))


def folded_plot(field: Field, state: ViewerState, *, width: int = 760, height: int = 280) -> Any:
    """Draw lightcurves folded with the chosen period, twice.

    Parameters
    ----------
    field, state
        The store, and what is chosen.
    width, height
        Pixels of the frame.

    Returns
    -------
    holoviews.Overlay
        Against phase 0 to 2. Without a period there is nothing but a word.

    Raises
    ------
    UnknownName, CorruptError
        As of `lightcurve_plot`.
    """
    prepared = prepare(field, state.snapshot(time_axis="mjd", smooth_on=False, bin_on=False))
    options = look(
        width=width,
        height=height,
        xlabel=axis_label("phase", "cycles"),
        ylabel=prepared.y_label,
        invert_yaxis=prepared.y_reversed,
        legend_position="right",
        title=_title(state),
    )
    if state.period is None:
        return hv.Overlay([_nothing()]).opts(
            hv.opts.Overlay(**options | {"title": "choose a period to fold with"})
        )
    layers: list[Any] = []
    for k, folded in enumerate(fold_curves(prepared, state.period, epoch=state.epoch)):
        columns = folded.points("kept")
        if columns["x"].size:
            if state.show_errors:
                layers.append(_bars(columns, colour_of(k), alpha=0.4))
            made = hv.Scatter(columns, "x", _SHOWN, label=folded.curve.label)
            tool = _point_hover(folded.curve)
            layers.append(made.opts(color=colour_of(k), size=state.marker_size, tools=[tool]))
            options["title"] = (
                f"{_title(state)}, period {folded.period:.6g} d, phase 0 at MJD {folded.epoch:.4f}"
            )
    return hv.Overlay(layers or [_nothing()]).opts(hv.opts.Overlay(**options))
