"""How far a lightcurve's points lie from their middle, whatever their order in time.

Each function of `Points` returns one number for each of their lightcurves, float64 of shape (row,),
NaN where it is not defined. The definitions stand in `idfzarr.analysis.statistic_definitions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.special import gammaincc, gammaln

from idfzarr.analysis.points import divide, kept

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idfzarr.analysis.points import Points

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Integers: TypeAlias = NDArray[np.integer[Any]]

__all__ = [
    "amplitude",
    "chi2_log10_p",
    "excess_variance",
    "iqr",
    "log10_p",
    "max_pull",
    "reduced_chi2",
    "roms",
    "several",
    "skewness",
    "standard_deviation",
    "stetson_k",
    "trimmed_chi2",
    "weighted_mean",
]

_TRIMMED = 0.01
_SMALLEST = 1e-280  # of a probability that double precision holds without loss
_TERMS = 400


def several(points: Points, found: Double) -> Double:
    """Return `found` where there are two points or more, NaN elsewhere."""
    return np.where(points.n > 1, found, np.nan)


def iqr(points: Points) -> Double:
    """Return the interquartile range."""
    return several(points, points.quantile(0.75) - points.quantile(0.25))


def amplitude(points: Points) -> Double:
    """Return half the distance of the largest from the smallest value."""
    last = points.ranked[np.arange(len(points.n)), points.n - 1].astype(np.float64)
    return several(points, 0.5 * (last - points.ranked[:, 0]))


def weighted_mean(points: Points) -> Double:
    """Return the mean with weights 1 / error**2."""
    return points.median + points.weighted_offset


def standard_deviation(points: Points) -> Double:
    """Return the root of the variance with ddof=1."""
    return np.sqrt(points.variance)


def skewness(points: Points) -> Double:
    """Return the adjusted Fisher-Pearson coefficient."""
    n = points.n.astype(np.float64)
    cubes = points.ragged.product(points.squared, points.centred)
    return divide(n * cubes, (n - 1) * (n - 2) * np.nan_to_num(points.variance) ** 1.5)


def excess_variance(points: Points) -> Double:
    """Return the normalised excess variance."""
    noise = points.ragged.product(points.error, points.error) / points.n
    mean = points.median + points.offset
    return divide(points.variance - noise, mean**2)


def reduced_chi2(points: Points) -> Double:
    """Return chi2 / (n - 1) about the weighted mean."""
    return divide(points.chi2, points.n - 1)


def log10_p(points: Points) -> Double:
    """Return the logarithm of the p-value of chi2."""
    return chi2_log10_p(points.chi2, points.n - 1)


def roms(points: Points) -> Double:
    """Return the robust median statistic."""
    return divide(points.ragged.total(np.abs(points.median_pull)), points.n - 1)


def max_pull(points: Points) -> Double:
    """Return the pull that is farthest from zero, with its sign."""
    high, low = (
        points.ragged.largest(points.median_pull),
        points.ragged.smallest(points.median_pull),
    )
    return np.where(high >= -low, high, low)


@kept
def stetson_k(points: Points) -> Double:
    """Return Stetson's K, in which sqrt(n / (n - 1)) of both sides cancels.

    Parameters
    ----------
    points
        Of some lightcurves.

    Returns
    -------
    ndarray of float64
        Shape (row,); NaN for one point and where no point leaves the mean.
    """
    spread = points.ragged.total(np.abs(points.pull))
    return several(points, divide(spread, np.sqrt(points.n * points.chi2)))


def trimmed_chi2(points: Points) -> Double:
    """Return the mean of each row's squared pulls without the largest 1 %, at least one.

    Parameters
    ----------
    points
        Of some lightcurves.

    Returns
    -------
    ndarray of float64
        Shape (row,); NaN for one point.
    """
    width = points.ranked.shape[1]
    # single precision sorts twice as fast and is good to 1e-7
    single = np.zeros(points.ranked.shape, dtype=np.float32)
    inside = np.arange(width) < points.n[:, None]
    single[inside] = np.abs(points.median_pull)
    dropped = np.ceil(_TRIMMED * points.n).astype(np.intp)
    most = int(dropped.max())
    single.partition(max(width - most - 1, 0), axis=1)
    cut = width - most
    body, tail = single[:, :cut].astype(np.float64), np.sort(single[:, cut:], axis=1)
    kept_tail = np.arange(most) < (most - dropped)[:, None]
    total = np.vecdot(body, body) + (np.where(kept_tail, tail, 0).astype(np.float64) ** 2).sum(
        axis=1
    )
    return divide(total, np.where(points.n > 1, points.n - dropped, 0))


def chi2_log10_p(chi2: Double, degrees: Integers) -> Double:
    """Return log10 of the probability of so large a chi2 or a larger one.

    Where the probability is too small for double precision, its continued fraction gives the
    logarithm (Abramowitz & Stegun 1964, equation 6.5.31).

    Parameters
    ----------
    chi2
        Any shape.
    degrees
        Degrees of freedom, of that shape.

    Returns
    -------
    ndarray of float64
        Of that shape, 0 or less; NaN without a degree of freedom.
    """
    enough = degrees > 0
    a, x = np.where(enough, degrees, 1) / 2.0, np.where(enough, chi2, 0) / 2.0
    p = gammaincc(a, x)
    tiny = p < _SMALLEST
    result = np.log10(np.where(tiny, 1, p))
    if tiny.any():
        result[tiny] = _log_upper_gamma(a[tiny], x[tiny]) / np.log(10)
    return np.where(enough, result, np.nan)


def _log_upper_gamma(a: Double, x: Double) -> Double:
    """Return ln Q(a, x) for x well above a, by Lentz's method."""
    b = x + 1 - a
    c = np.full_like(x, np.inf)
    d = 1 / b
    product = d.copy()
    for i in range(1, _TERMS):
        above = -i * (i - a)
        b += 2
        d = 1 / (above * d + b)
        c = b + above / c
        factor = c * d
        product *= factor
        if (np.abs(factor - 1) < 1e-14).all():
            break
    found: Double = a * np.log(x) - x - gammaln(a) + np.log(product)
    return found
