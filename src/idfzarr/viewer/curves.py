"""From what is chosen to numbers that are ready to be drawn; pure, and the same as by hand.

For every lightcurve ``prepare(field, state)`` gives what
``cube.lightcurve(object, type).calibrated().during(start, end).good(drop=...)`` gives, and beside
it the points that were set apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.analysis.magnitude import (
    magnitude,
    magnitude_error,
    ratio_to_magnitude,
    zero_magnitude,
)
from idfzarr.analysis.smoothing import bin_lightcurve, clip, smooth
from idfzarr.errors import UsageError
from idfzarr.flags import flag_mask
from idfzarr.viewer.curve_values import Curve, Line, Prepared, date_of
from idfzarr.viewer.labels import axis_label, plain, unit_text
from idfzarr.viewer.state import MOST_OBJECTS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idfzarr.lightcurve import Lightcurve
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.state import ViewerState

    Double = NDArray[np.float64]
    Mask = NDArray[np.bool_]

__all__ = ["MOST_POINTS", "prepare", "rate_limits"]

MOST_POINTS = 60_000
"""Points of one view: 40 types of 1,200 AORs, and some more; a browser draws more only slowly."""

_TIME_AXES = ("date", "mjd")
_MOST_ALONE = 3  # lightcurves of which each has a sentence of its own


def prepare(field: Field, state: ViewerState) -> Prepared:
    """Make the curves of a view.

    Parameters
    ----------
    field
        The store.
    state
        What is chosen.

    Returns
    -------
    Prepared
        The curves; objects beyond `idfzarr.viewer.state.MOST_OBJECTS` and curves beyond
        `MOST_POINTS` points are left out, and a note says so.

    Raises
    ------
    UnknownName
        There is no such object.
    CorruptError
        A lightcurve is damaged.
    """
    state = state.snapshot()
    drop = np.uint16(flag_mask(state.drop))
    asked = state.objects
    notes: list[str] = []
    if len(asked) > MOST_OBJECTS:
        notes.append(f"{MOST_OBJECTS} of {len(asked)} objects are drawn, the most there can be")
    curves: list[Curve] = []
    n_points = n_left = 0
    for object_id in asked[:MOST_OBJECTS]:
        known = _Object(field, object_id, drop)
        for lc in field.lightcurves(object_id, list(state.types)):
            n_points += int(np.count_nonzero(np.isfinite(lc.flux)))
            if n_points > MOST_POINTS and curves:
                n_left += 1
                continue
            curves.append(_curve(field, state, lc, known))
    if n_left:
        notes.append(
            f"{n_left} lightcurves are not drawn: together they pass {MOST_POINTS:,} points; "
            "choose fewer types or objects"
        )
    if state.time_axis not in _TIME_AXES and (state.smooth_on or state.bin_on):
        notes.append("smoothed and binned lightcurves are drawn against time only")
    notes += _view_notes(curves)
    notes += [note for curve in curves for note in curve.notes]
    return Prepared(
        curves=tuple(curves),
        notes=tuple(dict.fromkeys(notes)),
        x_label=_x_label(field, state),
        y_label=_y_label(state, curves),
        x_is_date=state.time_axis == "date",
        y_reversed=state.unit == "mag",
    )


def _x_label(field: Field, state: ViewerState) -> str:
    if state.time_axis == "date":
        return axis_label("mid-exposure", "date, UTC")
    if state.time_axis == "mjd":
        return axis_label("mid-exposure, MJD (UTC)", "d")
    return field.described(state.time_axis).axis


def _y_label(state: ViewerState, curves: list[Curve]) -> str:
    units = list(dict.fromkeys(curve.unit for curve in curves))
    if state.unit == "mag":
        return axis_label("magnitude", " / ".join(map(unit_text, units)) or f"{state.system} mag")
    words = {False: "flux", True: "ratio to the superstack"}
    kinds = list(dict.fromkeys((words[_is_ratio(curve.type)], curve.unit) for curve in curves))
    return "; ".join(axis_label(*kind) for kind in kinds) or axis_label("flux", "")


def _is_ratio(type_: str) -> bool:
    return type_.endswith("_ratio")


# ------------------------------------------------------------------ flux or magnitude


@dataclass(frozen=True)
class _Reference:
    """Flux that a ratio is a part of, and its error."""

    flux: float
    error: float


@dataclass(frozen=True)
class _Scale:
    """How a flux becomes what is drawn."""

    is_magnitude: bool
    unit: str
    system: Any = "AB"
    channel: str = ""
    flux_unit: str = "uJy"
    reference: _Reference | None = None

    def of(self, flux: Any, flux_err: Any) -> tuple[Double, Double]:
        """Return values and errors as drawn; NaN where there is no magnitude."""
        if not self.is_magnitude:
            return np.asarray(flux, np.float64), np.asarray(flux_err, np.float64)
        if self.reference is not None:
            value, error, _ = ratio_to_magnitude(
                flux,
                flux_err,
                reference_flux=self.reference.flux,
                reference_err=self.reference.error,
                system=self.system,
                channel=self.channel,
                unit=self.flux_unit,
            )
            return value, error
        value = magnitude(flux, system=self.system, channel=self.channel, unit=self.flux_unit)
        return value, magnitude_error(flux, flux_err)


@dataclass(frozen=True)
class _Object:
    """What the curves of one object share."""

    field: Field
    object_id: int
    drop: np.uint16

    def reference(self, channel: str) -> _Reference:
        """Return the Kron flux on the channel's own superstack; NaN where it is not known."""
        names = (f"flux_auto_{channel}", f"flux_auto_err_{channel}")
        return _Reference(*(self.field.number_of(self.object_id, name) for name in names))

    @cached_property
    def shape(self) -> dict[str, float]:
        """The Kron ellipse, NaN where it is not known."""
        names = ("kron_a", "kron_b", "theta")
        return {name: self.field.number_of(self.object_id, name) for name in names}


def _scale(
    field: Field, state: ViewerState, lc: Lightcurve, known: _Object
) -> tuple[_Scale, list[str]]:
    """Return how a lightcurve is drawn, and what has to be said about it."""
    channel = field.channel_of(lc.type)
    reference = None
    flux_unit = lc.unit
    if _is_ratio(lc.type):
        flux_unit = field.units.get(field.ranked.get(channel, ""), "uJy")
        reference = known.reference(channel)
    if state.unit != "mag":
        return _Scale(is_magnitude=False, unit=lc.unit, channel=channel), []
    system, notes = state.system, []
    try:
        zero_magnitude(system, channel=channel, unit=flux_unit)
    except UsageError:
        system = "AB"
        notes.append(f"{plain(lc.type)}: Vega magnitudes are not known there; shown as AB")
    if reference is not None and not reference.flux > 0:
        notes.append(
            f"{plain(lc.type)} of object {lc.object_id}: the superstack's flux in {plain(channel)} "
            "is not known, so that ratios have no magnitude"
        )
    unit = f"{system} mag" if flux_unit == "uJy" else "instrumental mag"
    return (
        _Scale(
            is_magnitude=True,
            unit=unit,
            system=system,
            channel=channel,
            flux_unit=flux_unit,
            reference=reference,
        ),
        notes,
    )


# ------------------------------------------------------------------ one curve


def _curve(field: Field, state: ViewerState, raw: Lightcurve, known: _Object) -> Curve:
    lc = raw.calibrated() if state.calibrated else raw
    scale, notes = _scale(field, state, lc, known)
    y, error = scale.of(lc.flux, lc.flux_err)
    inside = _during(lc.mjd, state.start, state.end)
    measured = inside & np.isfinite(lc.flux)
    date = field.dates[scale.channel]
    x = date if state.time_axis == "date" else _x_of(field, state, lc)
    drawable = measured & np.isfinite(y) & ~(np.isnat(x) if x.dtype.kind == "M" else np.isnan(x))
    off_axis = int(np.count_nonzero(measured & np.isfinite(y) & ~drawable))
    if off_axis:
        notes.append(f"{_where(lc)}: {off_axis} measurements have no value on the time axis")
    dropped = (lc.flag & known.drop) != 0
    kept = drawable & ~dropped
    clipped = np.zeros_like(kept)
    if state.clip_on:
        stay = clip(
            lc.mjd,
            np.where(kept, y, np.nan),
            sigma=state.clip_sigma,
            window=state.clip_window,
            error=error,
        )
        clipped = kept & ~stay
    kept &= ~clipped
    outlying = np.zeros_like(kept)
    mag, mag_err = (y, error) if scale.is_magnitude else _magnitudes(lc)
    if state.rate_on:
        outlying = _outlying(lc.mjd, np.where(kept, mag, np.nan), state)
        kept &= ~outlying
    shown = np.where(drawable, y, np.nan)
    return Curve(
        object_id=lc.object_id,
        type=lc.type,
        channel=scale.channel,
        label=_label(state, lc, scale),
        unit=scale.unit,
        aor=lc.aor,
        aor_name=field.aor_names,
        mjd=lc.mjd,
        date=date,
        x=x,
        y=shown,
        low=shown - error,
        high=shown + error,
        mag=mag,
        mag_err=mag_err,
        flux=lc.flux,
        flux_err=lc.flux_err,
        flag=lc.flag,
        kept=kept,
        flagged=drawable & dropped & state.show_flagged,
        clipped=clipped,
        outlying=outlying,
        smooth=_smoothed(state, lc, np.where(kept, y, np.nan), error),
        binned=_binned(state, lc, kept, scale),
        truth=_truth(known, state, lc, scale) if state.show_truth else None,
        reference=_reference_magnitude(scale),
        n_measured=int(np.count_nonzero(measured)),
        n_without=int(np.count_nonzero(measured & ~np.isfinite(y))),
        notes=tuple(notes),
    )


def _during(mjd: Double, start: float | None, end: float | None) -> Mask:
    inside = np.isfinite(mjd)
    if start is not None:
        inside &= np.nan_to_num(mjd, nan=-np.inf) >= start
    if end is not None:
        inside &= np.nan_to_num(mjd, nan=np.inf) < end
    return inside


def _x_of(field: Field, state: ViewerState, lc: Lightcurve) -> NDArray[Any]:
    if state.time_axis == "mjd":
        return lc.mjd
    return field.along_aors(state.time_axis, lc.type)


def _where(curve: Curve | Lightcurve) -> str:
    return f"{plain(curve.type)} of object {curve.object_id}"


def _view_notes(curves: list[Curve]) -> list[str]:
    """Say what has no magnitude and what was not measured, in few sentences however many curves."""
    notes = []
    without = [curve for curve in curves if curve.n_without]
    if len(without) > _MOST_ALONE:
        n, of = (sum(getattr(c, name) for c in without) for name in ("n_without", "n_measured"))
        notes.append(
            f"{n:,} of {of:,} fluxes of {len(without)} lightcurves are not above zero and have no "
            "magnitude"
        )
    else:
        notes += [
            f"{_where(c)}: {c.n_without} of {c.n_measured} fluxes are not above zero and have no "
            "magnitude"
            for c in without
        ]
    empty = [curve for curve in curves if not curve.n_measured]
    if len(empty) > _MOST_ALONE:
        notes.append(f"{len(empty)} lightcurves were not measured in this time")
    else:
        notes += [f"{_where(c)} was not measured in this time" for c in empty]
    return notes


def _label(state: ViewerState, lc: Lightcurve, scale: _Scale) -> str:
    parts = [plain(lc.type)]
    if len(state.objects) > 1:
        parts.insert(0, f"{lc.object_id}")
    reference = _reference_magnitude(scale)
    if reference is not None:
        parts.append(f"(reference {reference:.2f} mag)")
    return " ".join(parts)


def _reference_magnitude(scale: _Scale) -> float | None:
    if scale.reference is None or not scale.reference.flux > 0:
        return None
    return float(
        magnitude(
            scale.reference.flux, system=scale.system, channel=scale.channel, unit=scale.flux_unit
        )
    )


def _magnitudes(lc: Lightcurve) -> tuple[Double, Double]:
    """Return magnitudes for rates where fluxes are drawn; of a ratio, relative ones."""
    return magnitude(lc.flux, unit=lc.unit), magnitude_error(lc.flux, lc.flux_err)


# ------------------------------------------------------------------ lines through the points


def _smoothed(state: ViewerState, lc: Lightcurve, y: Double, error: Double) -> Line | None:
    if not state.smooth_on or state.time_axis not in _TIME_AXES:
        return None
    made = smooth(lc.mjd, y, window=state.smooth_window, sigma=state.smooth_sigma, error=error)
    return Line(_on_axis(state, made.mjd), made.value, made.low, made.high, made.mjd, made.n)


def _binned(state: ViewerState, lc: Lightcurve, kept: Mask, scale: _Scale) -> Line | None:
    if not state.bin_on or state.time_axis not in _TIME_AXES:
        return None
    made = bin_lightcurve(
        lc.mjd, lc.flux, lc.flux_err, kept, width=state.bin_width, method=state.bin_method
    )
    y, error = scale.of(made.flux, made.flux_err)
    return Line(_on_axis(state, made.mjd), y, y - error, y + error, made.mjd, made.n)


def _on_axis(state: ViewerState, mjd: Double) -> NDArray[Any]:
    return date_of(mjd) if state.time_axis == "date" else mjd


def _truth(known: _Object, state: ViewerState, lc: Lightcurve, scale: _Scale) -> Line | None:
    overlay = known.field.truth if state.time_axis in _TIME_AXES and lc.unit == "uJy" else None
    if overlay is None:
        return None
    flux = overlay.flux(lc.object_id, lc.type, calibrated=state.calibrated, shape=known.shape)
    if flux is None:
        return None
    y, _ = scale.of(flux, np.zeros_like(flux))
    rows = np.flatnonzero(np.isfinite(y) & _during(lc.mjd, state.start, state.end))
    rows = rows[np.argsort(lc.mjd[rows], kind="stable")]
    mjd, y = lc.mjd[rows], y[rows]
    return Line(_on_axis(state, mjd), y, y, y, mjd, np.ones(len(y), dtype=np.int64))


# ------------------------------------------------------------------ rates


def rate_limits(rate: Double, *, low: float, high: float, sigma: float) -> tuple[float, float]:
    """Return the rates beyond which one is far from the others.

    Two quantiles give middle and width of the normal distribution that has them; outliers, which
    lie beyond them, do not count. The limits lie `sigma` standard deviations from the middle.

    Parameters
    ----------
    rate
        dMag/dt, mag/day, (n,).
    low, high
        Quantiles, percent.
    sigma
        How far.

    Returns
    -------
    tuple of float
        NaN where there are no rates.
    """
    known = rate[np.isfinite(rate)]
    if not known.size:
        return np.nan, np.nan
    first, last = np.percentile(known, [low, high])
    normal = NormalDist()
    begin, end = normal.inv_cdf(low / 100), normal.inv_cdf(high / 100)
    width = (last - first) / (end - begin)
    middle = first - begin * width
    return float(middle - sigma * width), float(middle + sigma * width)


def _outlying(mjd: Double, mag: Double, state: ViewerState) -> Mask:
    """Say which points lie at the tip of a spike: far too fast there, and far too fast back."""
    found = np.zeros(len(mjd), dtype=bool)
    rows = np.flatnonzero(np.isfinite(mag) & np.isfinite(mjd))
    rows = rows[np.argsort(mjd[rows], kind="stable")]
    span = np.diff(mjd[rows])
    rate = np.divide(np.diff(mag[rows]), span, out=np.full(len(span), np.nan), where=span > 0)
    low, high = rate_limits(rate, low=state.rate_low, high=state.rate_high, sigma=state.rate_sigma)
    before, after = rate[:-1], rate[1:]
    tip = ((before > high) & (after < low)) | ((before < low) & (after > high))
    found[rows[1:-1][tip]] = True
    return found
