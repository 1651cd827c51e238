"""Periods of what is looked at: the search, what is drawn of it, and folded lightcurves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.analysis.period import (
    Periodogram,
    fold,
    has_nifty_ls,
    multiband_periodogram,
    periodogram,
)
from idfzarr.errors import UsageError
from idfzarr.viewer.curve_values import GROUPS
from idfzarr.viewer.curves import prepare
from idfzarr.viewer.labels import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.viewer.curve_values import Curve, Group, Prepared
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.state import ViewerState

__all__ = [
    "MOST_POWERS",
    "Folded",
    "PeriodSearch",
    "drawn_powers",
    "find_periods",
    "fold_curves",
    "peak_rows",
]

MOST_POWERS = 6_000
"""Powers that are drawn; of more, the highest and lowest of neighbours stand for them."""


@dataclass(frozen=True, eq=False)
class PeriodSearch:
    """What a search for periods found.

    Attributes
    ----------
    object_id, types
        In what it looked.
    found
        The periodogram; None where there is too little to look in.
    note
        Why there is none; empty where there is one.
    """

    object_id: int | None
    types: tuple[str, ...]
    found: Periodogram | None
    note: str = ""


def find_periods(field: Field, state: ViewerState) -> PeriodSearch:
    """Look for periods of the object that is looked at, in the points that are kept.

    Parameters
    ----------
    field
        The store.
    state
        What is chosen: object, ``period_type`` (with ``multiband`` all ``types``), method, the
        longest and the shortest period, and everything that decides which points are kept.

    Returns
    -------
    PeriodSearch
        Of fluxes, whatever unit is drawn.

    Raises
    ------
    UnknownName
        There is no such object.
    CorruptError
        The lightcurve is damaged.
    """
    many = state.period_method == "multiband"
    types = tuple(state.types) if many else (state.period_type,)
    if state.object is None or not any(types):
        return PeriodSearch(None, (), None, "no object is looked at")
    curves = prepare(field, flux_view(state, (state.object,), types)).curves
    limits: dict[str, Any] = {"shortest": state.shortest_period, "longest": state.longest_period}
    try:
        found = _bands(curves, limits) if many else _one(curves[0], state.period_method, limits)
    except UsageError as error:
        return PeriodSearch(state.object, types, None, plain(str(error)))
    return PeriodSearch(state.object, types, found)


def flux_view(state: ViewerState, objects: tuple[int, ...], types: Sequence[str]) -> ViewerState:
    """Return a state that asks for the same points as fluxes over days."""
    return state.snapshot(
        objects=objects,
        types=list(types),
        unit="flux",
        time_axis="mjd",
        smooth_on=False,
        bin_on=False,
        show_truth=False,
    )


def _one(curve: Curve, method: str, limits: dict[str, Any]) -> Periodogram:
    if method == "lomb-scargle" and has_nifty_ls():
        method = "nifty-ls"  # the same powers, ten times as fast
    return periodogram(
        curve.mjd,
        curve.flux,
        curve.flux_err,
        good=curve.kept,
        method=method,  # type: ignore[arg-type]
        **limits,
    )


def _bands(curves: Sequence[Curve], limits: dict[str, Any]) -> Periodogram:
    joined = {
        name: np.concatenate([getattr(curve, name) for curve in curves])
        for name in ("mjd", "flux", "flux_err", "kept")
    }
    band = np.repeat(np.arange(len(curves)), [len(curve.mjd) for curve in curves])
    return multiband_periodogram(
        joined["mjd"], joined["flux"], joined["flux_err"], band, good=joined["kept"], **limits
    )


def drawn_powers(found: Periodogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return periods (days) and powers to draw: at most `MOST_POWERS`, no peak lost.

    Parameters
    ----------
    found
        A periodogram.
    """
    n = found.power.size
    if n <= MOST_POWERS:
        return found.period, found.power
    # Periods are drawn on a logarithmic axis, where the few lowest frequencies take half the room.
    whole = MOST_POWERS // 2
    step = -(-2 * (n - whole) // (MOST_POWERS - whole))
    end = whole + (n - whole) // step * step
    blocks = found.power[whole:end].reshape(-1, step)
    first = whole + np.arange(len(blocks)) * step
    extremes = np.unique(np.concatenate([first + blocks.argmax(1), first + blocks.argmin(1)]))
    at = np.concatenate([np.arange(whole), extremes, np.arange(end, n)])
    return found.period[at], found.power[at]


def peak_rows(found: Periodogram) -> list[dict[str, float]]:
    """Return the table of peaks: period (d), power, false-alarm probability, whether an alias."""
    return [
        {
            "period": peak.period,
            "power": peak.power,
            "false_alarm_probability": peak.false_alarm_probability,
            "alias": float(peak.is_alias),
        }
        for peak in found.peaks
    ]


# ------------------------------------------------------------------ folding


@dataclass(frozen=True, eq=False)
class Folded:
    """A folded lightcurve; arrays are along the AORs of the cube.

    Attributes
    ----------
    curve
        What was folded.
    phase
        0 to 1; NaN where there is no time.
    period, epoch
        Days; MJD of phase 0.
    """

    curve: Curve
    phase: NDArray[np.float64]
    period: float
    epoch: float

    def points(self, group: Group = "kept") -> dict[str, NDArray[Any]]:
        """Return the points of a group twice, at phase 0 to 1 and 1 to 2, as `Curve.points`.

        ``x`` is the phase.
        """
        once = self.curve.points(group)
        phase = self.phase[once["position"]]
        twice = {name: np.concatenate([values, values]) for name, values in once.items()}
        return twice | {"x": np.concatenate([phase, phase + 1.0])}


def fold_curves(prepared: Prepared, period: float, *, epoch: float | None = None) -> list[Folded]:
    """Fold curves with one period and one zero point.

    Parameters
    ----------
    prepared
        The curves.
    period
        Days.
    epoch
        MJD of phase 0; the earliest time that is drawn unless given.

    Raises
    ------
    UsageError
        The period is not above 0.
    """
    if epoch is None:
        times = [c.mjd[getattr(c, group)] for c in prepared.curves for group in GROUPS]
        known = np.concatenate(times) if times else np.empty(0)
        epoch = float(known.min()) if known.size else 0.0
    return [
        Folded(curve, fold(curve.mjd, period, epoch=epoch), float(period), float(epoch))
        for curve in prepared.curves
    ]
