"""The present view as a program: what it computes are the numbers that are drawn.

The program needs this package, numpy and matplotlib, and neither the viewer nor its page. Whatever
comes from the store or from the page stands in it as a literal (`repr`), so that no name, however
hostile, is ever a statement.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UsageError
from idfzarr.viewer.curves import prepare
from idfzarr.viewer.state import MOST_OBJECTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idfzarr.viewer.curve_values import Prepared
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.state import ViewerState

__all__ = ["python_of"]

_TIMES = ("date", "mjd")
_WIDTH = 88  # columns of the program


def python_of(field: Field, state: ViewerState, *, prepared: Prepared | None = None) -> str:
    """Return a program that makes the lightcurves of the present view, and draws them.

    Parameters
    ----------
    field
        The store.
    state
        What is chosen.
    prepared
        The curves of this view where they are made already.

    Returns
    -------
    str
        Python; it leaves a list ``curves`` with an entry for each lightcurve, in the order of
        `idfzarr.viewer.curves.prepare`: ``object``, ``type``, ``mjd``, ``x``, ``y``, ``error`` and
        the masks ``kept``, ``flagged``, ``clipped``, ``outlying`` along the AORs, and where asked
        for ``smooth``, ``binned`` and ``phase``. What was simulated is not in it.

    Raises
    ------
    UsageError
        No object or no type is chosen.
    UnknownName, CorruptError
        As of `idfzarr.viewer.curves.prepare`.
    """
    state = state.snapshot()
    if not (state.objects and state.types):
        msg = "choose an object and a type: there is no lightcurve to make a program of"
        raise UsageError(msg)
    made = prepare(field, state) if prepared is None else prepared
    view = _View(field, state, made)
    blocks = [view.head(), view.choices(), *view.functions(), view.loop(), view.drawing()]
    return "\n\n\n".join("\n".join(block) for block in blocks if block) + "\n"


class _View:
    """One view, and what of it the program has to do."""

    def __init__(self, field: Field, state: ViewerState, prepared: Prepared) -> None:
        self.field, self.state, self.prepared = field, state, prepared
        self.shown = list(dict.fromkeys(curve.type for curve in prepared)) or list(state.types)
        self.in_time = state.time_axis in _TIMES
        self.smooths = state.smooth_on and self.in_time
        self.bins = state.bin_on and self.in_time
        self.is_mag = state.unit == "mag"
        self.ratios = [name for name in self.shown if name.endswith("_ratio")]
        self.folds = state.period is not None

    # ------------------------------------------------------------ words and choices

    def head(self) -> list[str]:
        """Return the docstring and the imports."""
        from_smoothing = [
            name
            for name, asked in (
                ("bin_lightcurve", self.bins),
                ("clip", self.state.clip_on),
                ("smooth", self.smooths),
            )
            if asked
        ]
        lines = ['"""Lightcurves as the viewer of idfzarr showed them."""', ""]
        if self.state.rate_on:
            lines += ["from statistics import NormalDist", ""]
        lines += ["import matplotlib.pyplot as plt", "import numpy as np", "", "import idfzarr"]
        if self.is_mag or self.state.rate_on:
            names = ["magnitude"]
            names += ["magnitude_error"] if self.is_mag else []
            names += ["ratio_to_magnitude"] if self.is_mag and self.ratios else []
            lines.append(f"from idfzarr.analysis.magnitude import {', '.join(names)}")
        if self.folds:
            lines.append("from idfzarr.analysis.period import fold")
        if from_smoothing:
            lines.append(f"from idfzarr.analysis.smoothing import {', '.join(from_smoothing)}")
        return [*lines, "from idfzarr.flags import flag_mask"]

    def choices(self) -> list[str]:
        """Return what was chosen, each as a name and a literal."""
        state = self.state
        told: dict[str, Any] = {
            "STORE": self.field.path,
            "OBJECTS": [int(one) for one in state.objects[:MOST_OBJECTS]],
            "TYPES": [str(name) for name in state.types],
            "DROP": [str(name) for name in state.drop],
            "START": -math.inf if state.start is None else state.start,
            "END": math.inf if state.end is None else state.end,
        }
        notes = {
            "DROP": "flags that set a measurement apart",
            "START": "MJD (UTC), days",
            "END": "MJD (UTC), days; nothing from here on",
        }
        if self.folds:
            told |= {"PERIOD": state.period, "EPOCH": self._epoch()}
            notes |= {"PERIOD": "days", "EPOCH": "MJD of phase 0"}
        if state.rate_on:
            told |= {"RATE_LOW": state.rate_low, "RATE_HIGH": state.rate_high}
            told |= {"RATE_SIGMA": state.rate_sigma}
            notes |= {"RATE_LOW": "percent", "RATE_HIGH": "percent"}
        lines = []
        for name, value in told.items():
            tail = f"  # {notes[name]}" if name in notes else ""
            lines += _assigned(name, value, tail)
        lines += ["", "cube = idfzarr.Cube(STORE)"]
        if self.is_mag and self.ratios:
            lines.append('catalogue = cube.table("catalogue")')
        return lines

    def _epoch(self) -> float:
        from idfzarr.viewer.periods import fold_curves

        folded = fold_curves(self.prepared, self.state.period or 1.0, epoch=self.state.epoch)
        return folded[0].epoch if folded else 0.0

    # ------------------------------------------------------------ functions

    def functions(self) -> Iterator[list[str]]:
        """Yield the functions that the loop calls."""
        if self.state.time_axis == "date":
            yield _DATES.strip().splitlines()
        if not self.in_time:
            yield self._axis()
        if self.is_mag:
            yield self._drawn()
        if self.state.rate_on:
            yield _SPIKES.strip().splitlines()

    def _axis(self) -> list[str]:
        """Return the function for the column of the AORs that stands on the time axis."""
        name = self.state.time_axis
        if name == "number":
            return [
                "def along_aors(lc):",
                '    """Number of each AOR in the order of time."""',
                '    mjd = cube.coordinate("mjd")',
                "    first = np.where(np.isfinite(mjd), mjd, np.inf).min(axis=1)",
                '    order = np.argsort(first, kind="stable")',
                "    number = np.empty(len(order))",
                "    number[order] = np.arange(1, len(order) + 1)",
                "    return number",
            ]
        if name == "aor":
            return ["def along_aors(lc):", "    return lc.aor.astype(np.float64)"]
        return [
            "def along_aors(lc):",
            f"    values = cube.coordinate({_literal(name)})",
            "    if values.ndim == 1:  # one for all channels",
            "        return values.astype(np.float64)",
            "    if values.shape == (len(cube.types), len(cube.aors)):",
            "        return values[cube.column(lc.type)].astype(np.float64)",
            '    channel = str(cube.coordinate("type_channel")[cube.column(lc.type)])',
            "    return values[:, cube.channels.index(channel)].astype(np.float64)",
        ]

    def _drawn(self) -> list[str]:
        """Return the function that gives magnitudes as they are drawn."""
        system = self.state.system
        lines = [
            "def drawn(lc, flux, flux_err):",
            '    """Magnitudes and their errors; NaN where a flux is not above 0."""',
            '    channel = str(cube.coordinate("type_channel")[cube.column(lc.type)])',
        ]
        known: dict[str, str] = {}
        for curve in self.prepared:
            own = "AB" if curve.unit.startswith("instrumental") else curve.unit.split(" ", 1)[0]
            known.setdefault(curve.type, own if own in {"AB", "Vega"} else system)
        if len(set(known.values()) | {system}) == 1:
            lines.append(f"    system = {_literal(system)}")
        else:
            lines.append(f"    system = {_literal(known)}[lc.type]  # Vega is not known of all")
        if self.ratios:
            lines += [
                '    if lc.type.endswith("_ratio"):  # of the flux in the superstack',
                "        row = cube.row(lc.object_id)",
                "        none = np.full(len(cube.objects), np.nan)",
                "        mag, mag_err, _ = ratio_to_magnitude(",
                "            flux,",
                "            flux_err,",
                '            reference_flux=catalogue.get(f"flux_auto_{channel}", none)[row],',
                '            reference_err=catalogue.get(f"flux_auto_err_{channel}", none)[row],',
                "            system=system,",
                "            channel=channel,",
                f"            unit={_literal(self._reference_units())}[channel],",
                "        )",
                "        return mag, mag_err",
            ]
        return [
            *lines,
            "    mag = magnitude(flux, system=system, channel=channel, unit=lc.unit)",
            "    return mag, magnitude_error(flux, flux_err)",
        ]

    def _reference_units(self) -> dict[str, str]:
        field = self.field
        return {
            channel: field.units.get(field.ranked.get(channel, ""), "uJy")
            for channel in field.channels
        }

    # ------------------------------------------------------------ the loop

    def loop(self) -> list[str]:
        """Return what makes the list of curves."""
        state = self.state
        axes = {"mjd": "lc.mjd", "date": "dates(lc.mjd)"}
        lines = [
            "drop = flag_mask(DROP)",
            "curves = []",
            f"for lc in {self._wanted()}:",
        ]
        if state.calibrated:
            lines.append("    lc = lc.calibrated()  # zero points and noise scales")
        lines += (
            ["    y, error = drawn(lc, lc.flux, lc.flux_err)"]
            if self.is_mag
            else ["    y, error = lc.flux.astype(np.float64), lc.flux_err.astype(np.float64)"]
        )
        lines += [
            f"    x = {axes.get(state.time_axis, 'along_aors(lc)')}",
            "    seen = np.isfinite(lc.mjd) & np.isfinite(y) & np.isfinite(x)",
            "    seen &= np.isfinite(lc.flux)",
            "    seen &= (lc.mjd >= START) & (lc.mjd < END)",
            "    flagged = seen & ((lc.flag & drop) != 0)",
            "    kept = seen & ~flagged",
        ]
        lines += self._clipping() + self._spikes()
        lines.append(
            "    curve = dict(object=lc.object_id, type=lc.type, mjd=lc.mjd, x=x, y=y, error=error)"
        )
        shown = "flagged" if state.show_flagged else "np.zeros(len(lc), bool)"
        clipped = "clipped" if state.clip_on else "np.zeros(len(lc), bool)"
        outlying = "outlying" if state.rate_on else "np.zeros(len(lc), bool)"
        lines.append(
            f"    curve.update(kept=kept, flagged={shown}, clipped={clipped}, outlying={outlying})"
        )
        return [*lines, *self._lines_through(), "    curves.append(curve)"]

    def _wanted(self) -> str:
        whole = len(self.prepared) == len(self.state.objects[:MOST_OBJECTS]) * len(self.state.types)
        if whole:
            return "cube.lightcurves(OBJECTS, TYPES)"
        pairs = [(int(curve.object_id), str(curve.type)) for curve in self.prepared]
        return f"(cube.lightcurve(*pair) for pair in {_literal(pairs)})"

    def _clipping(self) -> list[str]:
        state = self.state
        if not state.clip_on:
            return []
        return [
            "    near = clip(",
            "        lc.mjd,",
            "        np.where(kept, y, np.nan),",
            f"        sigma={_literal(state.clip_sigma)},",
            f"        window={_literal(state.clip_window)},",
            "        error=error,",
            "    )",
            "    clipped = kept & ~near",
            "    kept = kept & near",
        ]

    def _spikes(self) -> list[str]:
        if not self.state.rate_on:
            return []
        mag = "y" if self.is_mag else "magnitude(lc.flux, unit=lc.unit)"
        return [
            f"    outlying = spikes(lc.mjd, np.where(kept, {mag}, np.nan))",
            "    kept = kept & ~outlying",
        ]

    def _lines_through(self) -> list[str]:
        state, lines = self.state, []
        if self.smooths:
            lines += [
                '    curve["smooth"] = smooth(',
                "        lc.mjd,",
                "        np.where(kept, y, np.nan),",
                f"        window={_literal(state.smooth_window)},",
                f"        sigma={_literal(state.smooth_sigma)},",
                "        error=error,",
                "    )",
            ]
        if self.bins:
            width, method = _literal(state.bin_width), _literal(state.bin_method)
            drawn = "drawn(lc, b.flux, b.flux_err)" if self.is_mag else "(b.flux, b.flux_err)"
            lines += [
                "    b = bin_lightcurve(",
                f"        lc.mjd, lc.flux, lc.flux_err, kept, width={width}, method={method}",
                "    )",
                f'    curve["binned"] = (b.mjd, *{drawn})',
            ]
        if self.folds:
            lines.append('    curve["phase"] = fold(lc.mjd, PERIOD, epoch=EPOCH)')
        return lines

    # ------------------------------------------------------------ drawing

    def drawing(self) -> list[str]:
        """Return what draws them."""
        across = ["x", "phase"] if self.folds else ["x"]
        labels = [self.prepared.x_label]
        if self.folds:
            labels.append("phase [no unit]")
        size = (9.0, 3.8 * len(across))
        lines = [
            f'figure, axes = plt.subplots({len(across)}, figsize={size}, layout="constrained")',
            f"for ax, across, label in zip(np.atleast_1d(axes), {across}, {_literal(labels)}):",
            "    for number, curve in enumerate(curves):",
            '        colour, kept = f"C{number}", curve["kept"]',
            "        ax.errorbar(",
            '            curve[across][kept], curve["y"][kept], curve["error"][kept],',
            '            fmt="o", ms=3, lw=0.8, color=colour,',
            """            label=f"{curve['object']} {curve['type']}",""",
            "        )",
            '        for group, marker in (("flagged", "s"), ("clipped", "x"), ("outlying", "+")):',
            "            at = curve[group]",
            '            ax.plot(curve[across][at], curve["y"][at], marker, mfc="none", c="0.6")',
        ]
        lines += self._drawn_lines()
        lines += [
            "    ax.set_xlabel(label, parse_math=False)",
            f"    ax.set_ylabel({_literal(self.prepared.y_label)}, parse_math=False)",
        ]
        if self.prepared.y_reversed:
            lines.append("    ax.invert_yaxis()  # the brighter is the smaller number")
        return [
            *lines,
            '    legend = ax.legend(fontsize="small")',
            "    for text in legend.get_texts():",
            "        text.set_parse_math(False)",
            "plt.show()",
        ]

    def _drawn_lines(self) -> list[str]:
        time = "dates({})" if self.state.time_axis == "date" else "{}"
        lines = []
        if self.smooths:
            lines += [
                '        s = curve["smooth"]',
                '        if across == "x":',
                f"            when = {time.format('s.mjd')}",
                "            ax.fill_between(when, s.low, s.high, color=colour, alpha=0.25, lw=0)",
                "            ax.plot(when, s.value, color=colour)",
            ]
        if self.bins:
            lines += [
                '        if across == "x":',
                '            mjd, value, error = curve["binned"]',
                f"            when = {time.format('mjd')}",
                '            ax.errorbar(when, value, error, fmt="s", ms=6, mec="k", color=colour)',
            ]
        return lines


def _assigned(name: str, value: Any, tail: str) -> list[str]:
    """Return a name and its value; a list that is long in lines of its own."""
    line = f"{name} = {_literal(value)}{tail}"
    if len(line) <= _WIDTH or not isinstance(value, list):
        return [line]
    lines, row = [f"{name} = [{tail}"], ""
    for one in map(_literal, value):
        if row and len(row) + len(one) > _WIDTH - 6:
            lines.append(f"    {row}")
            row = ""
        row += f"{one}, "
    return [*(line.rstrip() for line in [*lines, f"    {row}"]), "]"]


def _literal(value: Any) -> str:
    """Return a value as Python reads it back; raises `TypeError` for what is none of ours."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_literal, value))},)"
    if isinstance(value, str):
        return repr(str(value))
    if value is None or isinstance(value, (bool, int)):
        return repr(value)
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else f'float("{float(value)}")'
    msg = f"a {type(value).__name__} cannot be written into a program"
    raise TypeError(msg)


_DATES = '''
def dates(mjd):
    """MJD (UTC) as dates, to the millisecond."""
    ms = np.rint((np.nan_to_num(mjd, nan=40587.0) - 40587.0) * 86_400_000.0)
    when = ms.astype(np.int64).astype("datetime64[ms]")
    when[~np.isfinite(mjd)] = np.datetime64("NaT", "ms")
    return when
'''

_SPIKES = '''
def spikes(mjd, mag):
    """Points that come far too fast and go far too fast, by dMag/dt."""
    rows = np.flatnonzero(np.isfinite(mag) & np.isfinite(mjd))
    rows = rows[np.argsort(mjd[rows], kind="stable")]
    span = np.diff(mjd[rows])
    rate = np.divide(np.diff(mag[rows]), span, out=np.full(len(span), np.nan), where=span > 0)
    known, found = rate[np.isfinite(rate)], np.zeros(len(mjd), bool)
    if not known.size:
        return found
    first, last = np.percentile(known, [RATE_LOW, RATE_HIGH])
    begin, end = (NormalDist().inv_cdf(q / 100) for q in (RATE_LOW, RATE_HIGH))
    width = (last - first) / (end - begin)  # of the normal distribution with these quantiles
    middle = first - begin * width
    low, high = middle - RATE_SIGMA * width, middle + RATE_SIGMA * width
    before, after = rate[:-1], rate[1:]
    tip = ((before > high) & (after < low)) | ((before < low) & (after > high))
    found[rows[1:-1][tip]] = True
    return found
'''
