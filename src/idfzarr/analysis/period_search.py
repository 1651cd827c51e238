"""The period in which a star turns: the highest peak of a periodogram, or a multiple of it.

A sine finds half the period of a star with two minima in a turn, and a narrow eclipse is hardly a
sine at all. Sums of harmonics are therefore fitted at the highest peaks and at twice their periods,
and the Bayesian information criterion (Schwarz 1978, Ann. Stat. 6, 461) says which of them, with
how many harmonics, is worth its parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.analysis.period import has_nifty_ls, sine_periodogram
from idfzarr.analysis.period_grid import (
    FEWEST_POINTS,
    Samples,
    period_limits,
    refuse_unusable,
    usable_samples,
)
from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]

__all__ = ["FoundPeriod", "find_period", "periods_of_rows", "without_lonely_points"]

_PEAKS = 3
_HARMONICS = 4
# A turn of twice the length must be worth so much more: "strong" evidence in the scale of Kass and
# Raftery 1995, J. Am. Stat. Assoc. 90, 773, table of section 3.2.
_STRONG = 6.0
_LONELY_SHARE = 0.02
_RCOND = 1e-12
_MULTIPLES = (1, 2)
_FINE_STEPS = 21
_ROUNDS = 3
# Points in a parameter below which more harmonics would follow the noise.
_POINTS_PER_PARAMETER = 3


@dataclass(frozen=True)
class FoundPeriod:
    """The period of a lightcurve.

    Attributes
    ----------
    period
        Days.
    harmonics
        How many sines describe a turn best.
    power
        Part of the chi2 of a constant that they take away.
    false_alarm_log10
        Of the highest peak of the Lomb-Scargle periodogram, see
        `idfzarr.analysis.period_peaks.false_alarm_log10`.
    """

    period: float
    harmonics: int
    power: float
    false_alarm_log10: float


def find_period(
    mjd: Floats,
    flux: Floats,
    flux_err: Floats | None = None,
    *,
    good: Mask | None = None,
    shortest: float | None = None,
    longest: float | None = None,
) -> FoundPeriod:
    """Find the period in which a star turns.

    Parameters
    ----------
    mjd, flux, flux_err, good, shortest, longest
        See `idfzarr.analysis.period.periodogram`; the period found may be twice `longest`'s sine,
        but not longer than `longest`.

    Returns
    -------
    FoundPeriod
        nifty-ls computes the periodogram where it is installed; the period is then fitted exactly,
        so that it does not depend on that.

    Raises
    ------
    UsageError
        See `idfzarr.analysis.period.periodogram`.
    """
    samples = usable_samples(mjd, flux, flux_err, good)
    refuse_unusable(samples, given=np.size(mjd))
    samples = without_lonely_points(samples)
    refuse_unusable(samples, given=np.size(mjd))
    limits = period_limits(samples, shortest=shortest, longest=longest)
    method = "nifty-ls" if has_nifty_ls() else "lomb-scargle"
    sines = sine_periodogram(samples, method, shortest=limits[0], longest=limits[1], peaks=_PEAKS)
    best: tuple[float, FoundPeriod] | None = None
    for peak in sines.peaks:
        for multiple in _MULTIPLES:
            period = multiple * peak.period
            if period > limits[1] * (1.0 + 1e-9):
                continue
            merit, turns = _fit_turns(samples, period, multiple, longest=limits[1])
            found = FoundPeriod(*turns, sines.best.false_alarm_log10)
            merit += _STRONG if multiple > 1 else 0.0
            if best is None or merit < best[0]:
                best = merit, found
    assert best is not None  # noqa: S101  # the highest of the grid is a peak
    return best[1]


def without_lonely_points(samples: Samples) -> Samples:
    """Leave out points that lie farther from all others than these lie from one another.

    One cosmic ray of ten times the star's variation hides every period; what a star does is there
    more than once. Eclipses are safe: it takes a gap as wide as the range of all other points, and
    no more than one point in fifty goes, or one.

    Parameters
    ----------
    samples
        Points of a lightcurve.

    Returns
    -------
    Samples
        Without the lonely ones.
    """
    most = max(1, int(_LONELY_SHARE * len(samples)))
    kept = np.argsort(samples.flux, kind="stable")
    for _ in range(most):
        ranked = samples.flux[kept]
        if len(kept) < FEWEST_POINTS:
            break
        if ranked[-1] - ranked[-2] > ranked[-2] - ranked[0] > 0:
            kept = kept[:-1]
        elif ranked[1] - ranked[0] > ranked[-1] - ranked[1] > 0:
            kept = kept[1:]
        else:
            break
    kept = np.sort(kept)
    return Samples(samples.mjd[kept], samples.flux[kept], samples.flux_err[kept])


def periods_of_rows(
    mjd: Floats, flux: Floats, flux_err: Floats, good: Mask
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find the periods of rows of lightcurves.

    Parameters
    ----------
    mjd
        Days, (aor,).
    flux, flux_err, good
        (lightcurve, aor).

    Returns
    -------
    tuple of ndarray of float32
        Period in days and log10 of the false-alarm probability, (lightcurve,); NaN where no period
        can be looked for.
    """
    period = np.full(len(flux), np.nan, dtype=np.float32)
    chance = np.full(len(flux), np.nan, dtype=np.float32)
    for row in range(len(flux)):
        try:
            found = find_period(mjd, flux[row], flux_err[row], good=good[row])
        except UsageError:  # too few points, or all the same
            continue
        period[row], chance[row] = found.period, found.false_alarm_log10
    return period, chance


def _fit_turns(
    samples: Samples, period: float, multiple: int, *, longest: float
) -> tuple[float, tuple[float, int, float]]:
    """Return the least information criterion near a period: of which, how many sines, its power."""
    n = len(samples)
    most = min(_HARMONICS, max(1, (n // _POINTS_PER_PARAMETER - 2) // (2 * multiple))) * multiple
    flat = _left_over(samples, np.array([1.0 / period]), 0)[0]
    frequency = 1.0 / period
    reach = 1.0 / (3.0 * multiple * samples.span)
    for _ in range(_ROUNDS):
        near = frequency + reach * np.linspace(-1.0, 1.0, _FINE_STEPS)
        near = np.maximum(near, 1.0 / longest)
        frequency = float(near[np.argmin(_left_over(samples, near, most))])
        reach *= 2.0 / (_FINE_STEPS - 1)
    merits = []
    for harmonics in range(multiple, most + 1):
        left = _left_over(samples, np.array([frequency]), harmonics)[0]
        # what is left of a perfect fit is rounding, and all such fits are as good
        log_left = math.log(max(left / flat, 1e-12))
        merits.append((n * log_left + (2 * harmonics + 2) * math.log(n), harmonics, left))
    merit, harmonics, left = min(merits)
    return merit, (1.0 / frequency, harmonics, float(1.0 - left / flat))


def _left_over(samples: Samples, frequency: Double, harmonics: int) -> Double:
    """Return the chi2 that a mean and so many harmonics leave, at each frequency."""
    angle = 2.0 * np.pi * frequency[:, None] * (samples.mjd - samples.mjd[0])
    columns = [np.ones(angle.shape)]
    for k in range(1, harmonics + 1):
        columns += [np.sin(k * angle), np.cos(k * angle)]
    weight = 1.0 / samples.flux_err
    design = np.stack(columns, axis=-1) * weight[:, None]
    target = (samples.flux - np.average(samples.flux, weights=weight**2)) * weight
    transposed = design.transpose(0, 2, 1)
    # the shortest solution where columns cannot be told apart, as at the ends of the search
    inverse = np.linalg.pinv(transposed @ design, rcond=_RCOND, hermitian=True)
    coefficients = (inverse @ (transposed @ target)[..., None])[..., 0]
    rest = target - np.einsum("fnk,fk->fn", design, coefficients)
    return np.asarray((rest**2).sum(axis=1))
