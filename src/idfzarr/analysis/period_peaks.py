"""The peaks of a periodogram: where, how high, how likely by chance, and which are aliases."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.special import gammaln

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from idfzarr.analysis.period_grid import Samples

    Double: TypeAlias = NDArray[np.float64]
    Floats: TypeAlias = NDArray[np.floating[Any]]

__all__ = ["false_alarm_log10", "highest_peaks", "refined_peak", "window_power"]

_LN10 = math.log(10.0)
_FINE_STEPS = 21
_ROUNDS = 3


def highest_peaks(frequency: Floats, power: Floats, *, count: int, width: float) -> list[int]:
    """Return the positions of the highest peaks, each more than a width from those before it.

    Parameters
    ----------
    frequency, power
        Of a periodogram, (m,).
    count
        How many at most.
    width
        Width of a peak, in the unit of `frequency`.

    Returns
    -------
    list of int
        The highest first; a maximum at either end counts.
    """
    known = np.where(np.isfinite(power), power, -np.inf)
    left = np.concatenate([[-np.inf], known[:-1]])
    right = np.concatenate([known[1:], [-np.inf]])
    tops = np.flatnonzero((known >= left) & (known > right) & np.isfinite(known))
    chosen: list[int] = []
    for k in tops[np.argsort(-known[tops], kind="stable")]:
        if all(abs(frequency[k] - frequency[c]) > width for c in chosen):
            chosen.append(int(k))
        if len(chosen) == count:
            break
    return chosen


def refined_peak(
    power: Callable[[Double], Double],
    frequency: float,
    step: float,
    *,
    limits: tuple[float, float] = (0.0, math.inf),
) -> tuple[float, float]:
    """Climb a peak between the frequencies of a grid.

    Parameters
    ----------
    power
        Computes the periodogram at any frequencies.
    frequency
        Highest of the grid.
    step
        Distance of the grid's frequencies.
    limits
        Frequencies that are not passed.

    Returns
    -------
    tuple of float
        Frequency and power of the top, within one step of where it began.
    """
    best, reach = frequency, step
    top = -math.inf
    for _ in range(_ROUNDS):
        near = best + reach * np.linspace(-1.0, 1.0, _FINE_STEPS)
        near = np.clip(near, *limits)
        values = power(near)
        k = int(np.nanargmax(values))
        best, top = float(near[k]), float(values[k])
        reach *= 2.0 / (_FINE_STEPS - 1)
    return best, top


def window_power(samples: Samples, frequency: float) -> float:
    """Return the power of the sampling itself at a frequency.

    A sine of frequency f shows itself in a periodogram at f + d and at f - d too, in the measure of
    the window's power at d (VanderPlas 2018, ApJS 236, 16, section 3.3).

    Parameters
    ----------
    samples
        The points.
    frequency
        Per day.

    Returns
    -------
    float
        ``|sum(w exp(2 pi i f t))|**2 / sum(w)**2`` with ``w = flux_err**-2``: 0 to 1; 1 where the
        sampling cannot tell two frequencies at that distance apart.
    """
    weight = samples.flux_err**-2
    phase = 2.0 * np.pi * frequency * (samples.mjd - samples.mjd[0])
    total = np.sum(weight * np.exp(1j * phase)) / np.sum(weight)
    return float(np.abs(total) ** 2)


def false_alarm_log10(power: float, samples: Samples, highest_frequency: float) -> float:
    """Return the logarithm of the chance that noise alone has so high a peak anywhere.

    Parameters
    ----------
    power
        Of a Lomb-Scargle periodogram with a fitted mean, ``1 - chi2 / chi2 of a constant``.
    samples
        The points.
    highest_frequency
        End of the search, per day.

    Returns
    -------
    float
        log10 of the upper limit of Baluev 2008, MNRAS 385, 1279, equations 5 and 6, with its table
        1 for the periodogram normalised by the residuals of a constant; the same number as
        astropy's ``false_alarm_probability(method="baluev")``, but finite where that one is 0.
        -inf for a power of 1.
    """
    n = len(samples)
    left = max(0.0, 1.0 - power)
    if power <= 0:
        return 0.0
    if left == 0:
        return -math.inf
    weight = samples.flux_err**-2
    weight = weight / weight.sum()
    mean = float(weight @ samples.mjd)
    spread = float(weight @ (samples.mjd - mean) ** 2)
    cycles = highest_frequency * math.sqrt(4.0 * math.pi * spread)
    constant, sine = n - 1, n - 3
    log_gamma = float(gammaln(constant / 2) - gammaln((constant - 1) / 2))
    gamma = math.sqrt(2.0 / constant) * math.exp(log_gamma)
    log_single = 0.5 * sine * math.log(left)
    log_tau = (
        math.log(cycles * gamma)
        + 0.5 * (sine - 1) * math.log(left)
        + 0.5 * math.log(0.5 * constant * power)
    )
    # 1 - (1 - single) exp(-tau), by way of logarithms where both are tiny
    if max(log_single, log_tau) < -25:
        return float(np.logaddexp(log_single, log_tau)) / _LN10
    single, tau = math.exp(log_single), math.exp(log_tau)
    chance = -math.expm1(math.log1p(-single) - tau) if single < 1 else 1.0
    return math.log10(chance)
