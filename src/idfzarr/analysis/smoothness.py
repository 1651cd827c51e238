"""How a lightcurve's points follow on each other in time.

Each function of `Points` returns one number for each of their lightcurves, float64 of shape (row,),
NaN where it is not defined. The definitions stand in `idfzarr.analysis.statistic_definitions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from idfzarr.analysis.points import divide, kept
from idfzarr.analysis.scatter import several, stetson_k

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idfzarr.analysis.points import Points

    Double: TypeAlias = NDArray[np.float64]

__all__ = [
    "GAUSSIAN_K",
    "inverse_eta",
    "max_rate",
    "slope",
    "squared_step",
    "stetson_j",
    "stetson_l",
    "von_neumann",
]

GAUSSIAN_K = 0.798
"""Stetson's K of Gaussian noise, as rounded in Stetson 1996, PASP 108, 851, section 2."""

_MAGNITUDES = 2.5 / np.log(10)


@kept
def squared_step(points: Points) -> Double:
    """Return the mean squared difference of successive points.

    Parameters
    ----------
    points
        Of some lightcurves.

    Returns
    -------
    ndarray of float64
        Shape (row,); NaN for one point.
    """
    steps = points.ragged.steps(points.value)
    return divide(points.ragged.product(steps, steps), points.n - 1)


def von_neumann(points: Points) -> Double:
    """Return eta."""
    return divide(squared_step(points), points.variance)


def inverse_eta(points: Points) -> Double:
    """Return 1 / eta."""
    return divide(points.variance, squared_step(points))


@kept
def stetson_j(points: Points) -> Double:
    """Return Stetson's J of one channel, over pairs of successive points.

    Parameters
    ----------
    points
        Of some lightcurves.

    Returns
    -------
    ndarray of float64
        Shape (row,); NaN for one point.
    """
    pull = points.pull
    pairs = np.empty_like(pull)
    np.multiply(pull[1:], pull[:-1], out=pairs[:-1])
    pairs[points.ragged.ends - 1] = 0  # a row's last point has no next one
    roots = np.sqrt(np.abs(pairs))
    np.copysign(roots, pairs, out=roots)
    # sqrt of n / (n - 1), which both of a pair carry
    factor = np.sqrt(divide(points.n, points.n - 1))
    return factor * divide(points.ragged.total(roots), points.n - 1)


def stetson_l(points: Points) -> Double:
    """Return Stetson's L of one channel.

    Parameters
    ----------
    points
        Of some lightcurves.

    Returns
    -------
    ndarray of float64
        Shape (row,); NaN for one point.
    """
    return stetson_j(points) * stetson_k(points) / GAUSSIAN_K


def slope(points: Points, time: Double) -> Double:
    """Return the slope of the weighted straight line.

    Parameters
    ----------
    points
        Of some lightcurves.
    time
        Of each point, shape (point,); small numbers, not far from zero.

    Returns
    -------
    ndarray of float64
        Shape (row,); NaN where all times are equal.
    """
    ragged, weight = points.ragged, points.weight
    middle = ragged.product(weight, time) / points.total_weight
    from_middle = time - ragged.spread(middle)
    lever = weight * from_middle
    spread = ragged.product(lever, from_middle)
    # equal times differ from their mean by rounding alone
    longest = np.maximum(ragged.largest(time), -ragged.smallest(time))
    spread = np.where(spread > points.total_weight * (1e-14 * longest) ** 2, spread, 0)
    return several(points, divide(ragged.product(lever, points.deviation), spread))


def max_rate(points: Points, time: Double) -> Double:
    """Return the fastest change of magnitude between successive points.

    Parameters
    ----------
    points
        Of some lightcurves.
    time
        Of each point, in days, shape (point,).

    Returns
    -------
    ndarray of float64
        Shape (row,), magnitudes per day; NaN without two points that are positive and of unequal
        time.
    """
    result = np.full(len(points.n), np.nan)
    value, ragged, rows = points.value, points.ragged, np.arange(len(points.n))
    positive = value > 0
    if not positive.all():
        rows, ragged = points.ragged.chosen(positive)
        value, time = value[positive], time[positive]
    if not rows.size:
        return result
    elapsed = ragged.steps(time)
    apart = elapsed > 0
    ratio = np.ones_like(value)
    np.divide(value[1:], value[:-1], out=ratio[:-1], where=apart[:-1])
    rate = np.abs(np.log(ratio))
    np.divide(rate, elapsed, out=rate, where=apart)
    known = np.add.reduceat(apart, ragged.starts, dtype=np.intp) > 0
    result[rows] = np.where(known, _MAGNITUDES * ragged.largest(rate), np.nan)
    return result
