"""Plots of the present view as files: PNG and SVG, as a paper shows them.

Drawn by matplotlib on a canvas of its own, from the numbers that the page draws, in the colours of
the page on white.
"""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UsageError, closest
from idfzarr.viewer.curves import prepare
from idfzarr.viewer.figure_frame import COLOURS, NEUTRAL
from idfzarr.viewer.keep import KeptFile, file_name
from idfzarr.viewer.labels import axis_label, plain
from idfzarr.viewer.periods import drawn_powers, find_periods, fold_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from idfzarr.viewer.curve_values import Curve, Line, Prepared
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.state import ViewerState

__all__ = ["DRAWING", "PICTURES", "PICTURE_FORMATS", "picture_file"]

PICTURES = {
    "lightcurve": "Lightcurve",
    "folded": "Folded lightcurve",
    "periodogram": "Periodogram",
}
"""What is drawn, and what people call it."""

PICTURE_FORMATS = {"png": "PNG", "svg": "SVG"}
"""What pictures are written as."""

DRAWING = threading.Lock()
"""Held while a file is drawn: matplotlib's settings are those of the whole process."""

_MIME = {"png": "image/png", "svg": "image/svg+xml"}
_WIDTH, _HEIGHT, _PANEL = 8.0, 4.0, 2.1  # inches
_MOST_PANELS = 8
_MOST_NAMED = 12  # curves that a legend names
_DPI = 200
_APART = {"flagged": "s", "clipped": "x", "outlying": "+"}


def picture_file(field: Field, state: ViewerState, what: str, form: str) -> KeptFile:
    """Return a plot of the present view.

    Parameters
    ----------
    field
        The store.
    state
        What is chosen.
    what
        One of `PICTURES`.
    form
        One of `PICTURE_FORMATS`.

    Raises
    ------
    UsageError
        There is no such plot or format, or nothing to draw.
    UnknownName, CorruptError
        As of `idfzarr.viewer.curves.prepare`.
    """
    if what not in PICTURES or form not in PICTURE_FORMATS:
        wrong, known = (what, PICTURES) if what not in PICTURES else (form, PICTURE_FORMATS)
        msg = f"there is no picture {wrong!r}{closest(wrong, known)}; one of {', '.join(known)}"
        raise UsageError(msg)
    state = state.snapshot()
    drawers = {"lightcurve": _lightcurve, "folded": _folded, "periodogram": _periodogram}
    figure = drawers[what](field, state)
    name = file_name(_store(field), *state.objects[:1], what, suffix=f".{form}")
    return KeptFile(name, _MIME[form], _written(figure, form, name), PICTURES[what].lower())


def _store(field: Field) -> str:
    return field.path.rstrip("/").rpartition("/")[2].removesuffix(".zarr")


def _written(figure: Figure, form: str, name: str) -> bytes:
    from matplotlib import rc_context

    out = io.BytesIO()
    # Words stay words in the SVG, and the same view gives the same file.
    with DRAWING, rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(out, format=form, dpi=_DPI, metadata=metadata)
    return out.getvalue()


def _frame(rows: int, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(np.asarray(figure.subplots(rows, 1, sharex=True))).tolist()
    for ax in axes:
        ax.grid(color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=9)
    return figure, axes


def _prepared(field: Field, state: ViewerState) -> Prepared:
    prepared = prepare(field, state)
    if not any(curve.n_drawn for curve in prepared):
        msg = "there is nothing to draw: no measurement is shown"
        raise UsageError(msg)
    return prepared


# ------------------------------------------------------------------ lightcurves


def _lightcurve(field: Field, state: ViewerState) -> Figure:
    prepared = _prepared(field, state)
    groups = [list(prepared.curves)]
    if state.layout == "panels" and len(state.types) > 1:
        groups = [[c for c in prepared if c.type == name] for name in state.types][:_MOST_PANELS]
    figure, axes = _frame(len(groups), _HEIGHT if len(groups) == 1 else _PANEL * len(groups))
    number = {id(curve): k for k, curve in enumerate(prepared)}
    for ax, curves in zip(axes, groups, strict=True):
        for curve in curves:
            _draw_curve(ax, state, curve, COLOURS[number[id(curve)] % len(COLOURS)])
        unit = curves[0].unit if len(groups) > 1 and curves else ""
        word = "magnitude" if prepared.y_reversed else "flux"
        _finish(ax, prepared, axis_label(word, unit) if len(groups) > 1 else prepared.y_label)
    axes[-1].set_xlabel(prepared.x_label, parse_math=False)
    axes[0].set_title(_title(field, state), fontsize=11, parse_math=False)
    return figure


def _draw_curve(ax: Axes, state: ViewerState, curve: Curve, colour: str) -> None:
    dim = curve.binned is not None
    _draw_points(ax, state, curve, colour, curve.x, dim=dim)
    if curve.truth is not None and curve.truth.x.size:
        ax.plot(curve.truth.x, curve.truth.y, "--", color=colour, lw=1.0, alpha=0.7)
    if curve.smooth is not None and curve.smooth.x.size:
        line = curve.smooth
        ax.fill_between(line.x, line.low, line.high, color=colour, alpha=0.25, lw=0)
        ax.plot(line.x, line.y, color=colour, lw=1.6)
    if curve.binned is not None:
        _draw_bins(ax, curve.binned, colour)


def _draw_points(
    ax: Axes,
    state: ViewerState,
    curve: Curve,
    colour: str,
    x: Any,
    *,
    dim: bool = False,
    named: bool = True,
) -> None:
    at = curve.kept
    error = (curve.y - curve.low)[at] if state.show_errors else None
    size = max(2.0, 0.6 * state.marker_size)
    ax.errorbar(
        x[at],
        curve.y[at],
        error,
        fmt="o",
        ms=size,
        lw=0,
        elinewidth=0.7,
        mew=0,
        color=colour,
        alpha=0.35 if dim else 0.9,
        label=plain(curve.label) if named else "_",
    )
    for group, marker in _APART.items():
        apart = getattr(curve, group)
        if apart.any():
            ax.plot(
                x[apart], curve.y[apart], marker, ms=size + 1, mfc="none", color=NEUTRAL, mew=0.8
            )


def _draw_bins(ax: Axes, line: Line, colour: str) -> None:
    known = np.isfinite(line.y)
    error = np.nan_to_num(line.y - line.low)[known]
    ax.errorbar(
        line.x[known], line.y[known], error, fmt="s", ms=5, lw=0, elinewidth=1.2, mec="black",
        mew=0.6, color=colour,
    )  # fmt: skip


def _finish(ax: Axes, prepared: Prepared, label: str) -> None:
    ax.set_ylabel(label, parse_math=False)
    if prepared.y_reversed:
        ax.invert_yaxis()
    handles, _ = ax.get_legend_handles_labels()
    if 0 < len(handles) <= _MOST_NAMED:
        legend = ax.legend(fontsize=8, loc="best", framealpha=0.8)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _title(field: Field, state: ViewerState) -> str:
    ids = ", ".join(map(str, state.objects))
    many = "s" if len(state.objects) > 1 else ""
    return plain(f"{_store(field)}, object{many} {ids}")


# ------------------------------------------------------------------ periods


def _folded(field: Field, state: ViewerState) -> Figure:
    if state.period is None:
        msg = "no period is chosen: click a peak of the periodogram on the page Look, or type one"
        raise UsageError(msg)
    prepared = _prepared(field, state)
    figure, (ax,) = _frame(1, _HEIGHT)
    folded = fold_curves(prepared, state.period, epoch=state.epoch)
    for k, one in enumerate(folded):
        colour = COLOURS[k % len(COLOURS)]
        for turn in (0.0, 1.0):
            _draw_points(ax, state, one.curve, colour, one.phase + turn, named=turn == 0.0)
    _finish(ax, prepared, prepared.y_label)
    ax.set_xlim(0.0, 2.0)
    ax.set_xlabel(axis_label("phase", ""), parse_math=False)
    epoch = folded[0].epoch if folded else 0.0
    said = f"{_title(field, state)}: period {state.period:.8g} d, phase 0 at MJD {epoch:.5f}"
    ax.set_title(said, fontsize=11, parse_math=False)
    return figure


def _periodogram(field: Field, state: ViewerState) -> Figure:
    search = find_periods(field, state)
    if search.found is None:
        raise UsageError(search.note)
    period, power = drawn_powers(search.found)
    figure, (ax,) = _frame(1, 0.8 * _HEIGHT)
    ax.plot(period, power, color=COLOURS[0], lw=0.7)
    ax.set_xscale("log")
    for peak in search.found.peaks:
        ax.plot(peak.period, peak.power, "v", color=COLOURS[1], ms=6)
    if state.period is not None:
        ax.axvline(state.period, color=NEUTRAL, lw=1.0, ls="--")
    ax.set_xlabel(axis_label("period", "d"), parse_math=False)
    ax.set_ylabel(axis_label("power", ""), parse_math=False)
    said = f"{_title(field, state)}: {', '.join(map(plain, search.types))}"
    ax.set_title(said, fontsize=11, parse_math=False)
    return figure
