"""The frequencies of a period search: how far apart, and from where to where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]

__all__ = [
    "FEWEST_POINTS",
    "OVERSAMPLING",
    "Samples",
    "frequency_grid",
    "period_limits",
    "sampling_step",
    "usable_samples",
]

FEWEST_POINTS = 8
"""A period search wants so many points at least: a sine of unknown period and mean has four
parameters, and as many again must be left to tell it from noise."""

OVERSAMPLING = 5.0
"""Frequencies within the width of a peak, 1 / (last - first time). With 5 the highest power found
lies at most 3 % below that of the peak (VanderPlas 2018, ApJS 236, 16, section 7.1)."""

_SHORTEST_DAYS = 0.1
_MOST_FREQUENCIES = 20_000_000
_GRID_DIVISORS = 12
_GRID_TOLERANCE = 0.05


@dataclass(frozen=True, eq=False)
class Samples:
    """The points of a lightcurve that a period search uses, in order of time.

    Parameters
    ----------
    mjd, flux, flux_err
        (n,), all finite, errors positive.
    """

    mjd: Double
    flux: Double
    flux_err: Double

    @property
    def span(self) -> float:
        """Days between the first and the last."""
        return float(self.mjd[-1] - self.mjd[0]) if self.mjd.size else 0.0

    def __len__(self) -> int:
        return int(self.mjd.size)


def usable_samples(
    mjd: Floats, flux: Floats, flux_err: Floats | None = None, good: Mask | None = None
) -> Samples:
    """Take the points of a lightcurve that can be used, sorted by time.

    Parameters
    ----------
    mjd, flux, flux_err
        (n,) in any order; without errors all points weigh the same. Points that are not finite, or
        whose error is not positive, are left out.
    good
        Points that count, (n,); all unless given.

    Returns
    -------
    Samples
        In order of time.

    Raises
    ------
    UsageError
        The arrays differ in shape.
    """
    times, values = np.asarray(mjd, dtype=np.float64), np.asarray(flux, dtype=np.float64)
    errors = np.ones(values.shape) if flux_err is None else np.asarray(flux_err, dtype=np.float64)
    kept = np.ones(values.shape, dtype=bool) if good is None else np.asarray(good, dtype=bool)
    if times.ndim != 1 or not times.shape == values.shape == errors.shape == kept.shape:
        shapes = (times.shape, values.shape, errors.shape, kept.shape)
        msg = f"mjd, flux, flux_err and good must be of one length, not of shapes {shapes}"
        raise UsageError(msg)
    known = kept & np.isfinite(times) & np.isfinite(values) & np.isfinite(errors)
    known &= np.where(known, errors, 0.0) > 0
    order = np.flatnonzero(known)
    order = order[np.argsort(times[order], kind="stable")]
    return Samples(times[order], values[order], errors[order])


def refuse_unusable(samples: Samples, *, given: int, fewest: int = FEWEST_POINTS) -> None:
    """Refuse points in which no period can be looked for.

    Raises
    ------
    UsageError
        There are too few, all at one time, or all of one flux.
    """
    if len(samples) < fewest:
        msg = (
            f"a period search needs at least {fewest} good points, and this lightcurve has "
            f"{len(samples)} of {given}: choose another type, or drop fewer points"
        )
        raise UsageError(msg)
    if samples.span <= 0:
        msg = f"all {len(samples)} points are of one time, {samples.mjd[0]}: there is no period"
        raise UsageError(msg)
    if np.ptp(samples.flux) == 0:
        msg = f"all {len(samples)} points have the flux {samples.flux[0]:g}: there is no period"
        raise UsageError(msg)


def sampling_step(mjd: Floats) -> float:
    """Return the step of the regular grid on which all times lie, NaN where there is none.

    Times on a grid cannot tell periods shorter than two steps from longer ones, however many steps
    are empty (Eyer and Bartholdi 1999, A&AS 135, 1, section 2); irregular times can.

    Parameters
    ----------
    mjd
        Days, sorted, (n,).

    Returns
    -------
    float
        Days: the smallest gap or a twelfth of it at least. A grid is believed where every time lies
        within a twentieth of a step of it.
    """
    gaps = np.diff(np.asarray(mjd, dtype=np.float64))
    gaps = gaps[gaps > 0]
    if not gaps.size:
        return math.nan
    for divisor in range(1, _GRID_DIVISORS + 1):
        # the smallest gap is known to its own rounding only: the step is fitted to all of them
        step = float(gaps.min()) / divisor
        counts = np.round(gaps / step)
        step = float(gaps.sum() / counts.sum())
        since = np.cumsum(gaps) / step
        if np.all(np.abs(since - np.round(since)) < _GRID_TOLERANCE):
            return step
    return math.nan


def period_limits(
    samples: Samples, *, shortest: float | None = None, longest: float | None = None
) -> tuple[float, float]:
    """Return the shortest and the longest period to look for, days.

    Parameters
    ----------
    samples
        The points.
    shortest
        Unless given: two steps where the times lie on a regular grid (see `sampling_step`), else
        0.1 d, or twice the middling gap where that is shorter still.
    longest
        Unless given: the time between the first and the last point, one turn.

    Returns
    -------
    tuple of float
        Shortest and longest.

    Raises
    ------
    UsageError
        They are not positive, or the shortest is not below the longest.
    """
    if longest is None:
        longest = samples.span
    if shortest is None:
        step = sampling_step(samples.mjd)
        gaps = np.diff(samples.mjd)
        irregular = min(_SHORTEST_DAYS, 2.0 * float(np.median(gaps[gaps > 0])))
        shortest = irregular if math.isnan(step) else 2.0 * step
        shortest = min(shortest, 0.5 * longest)
    if not (math.isfinite(longest) and 0 < shortest < longest):
        msg = (
            f"periods from {shortest:g} d to {longest:g} d cannot be searched: shortest must be "
            "above 0 and below longest"
        )
        raise UsageError(msg)
    return float(shortest), float(longest)


def frequency_grid(
    span: float, shortest: float, longest: float, *, oversampling: float = OVERSAMPLING
) -> Double:
    """Return frequencies, evenly spaced, that resolve every peak of a periodogram.

    Parameters
    ----------
    span
        Days between the first and the last point; a peak is 1 / span wide.
    shortest, longest
        Periods, days.
    oversampling
        Frequencies within the width of a peak.

    Returns
    -------
    ndarray of float64
        Per day, from ``1 / longest`` to ``1 / shortest``.

    Raises
    ------
    UsageError
        `oversampling` is below 1, or there would be too many frequencies.
    """
    if not (math.isfinite(oversampling) and oversampling >= 1):
        msg = f"oversampling must be 1 or more, not {oversampling}"
        raise UsageError(msg)
    low, high = 1.0 / longest, 1.0 / shortest
    count = math.ceil((high - low) * span * oversampling) + 1
    if count > _MOST_FREQUENCIES:
        msg = (
            f"periods from {shortest:g} d over {span:g} d are {count:.3g} frequencies, more than "
            f"{_MOST_FREQUENCIES:.0e}: give a longer shortest period"
        )
        raise UsageError(msg)
    return low + np.arange(count) / (span * oversampling)
