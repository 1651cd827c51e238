"""The good points of some lightcurves, one lightcurve after the other, without gaps.

Packed so, every sum over a lightcurve is one ``reduceat``, successive points stand side by side,
and what does not count costs nothing. What several statistics need is computed when first asked
for and kept: `Points` is made for some dozens of lightcurves, so that it stays in the processor's
cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]
    Integers: TypeAlias = NDArray[np.integer[Any]]

__all__ = [
    "Points",
    "Ragged",
    "divide",
    "kept",
    "median_distance",
    "pack",
    "ranked_quantile",
    "usable",
]

_MAD_TO_SIGMA = 1.482602218505602


def usable(flux: Floats, flux_err: Floats, good: Mask | None) -> Mask:
    """Return which measurements count.

    Parameters
    ----------
    flux, flux_err, good
        Of one shape.

    Returns
    -------
    ndarray of bool
        Good, with a finite flux and a finite positive error.
    """
    known = np.isfinite(flux)
    known &= np.isfinite(flux_err)
    known &= flux_err > 0
    if good is not None:
        known &= good
    return known


def divide(above: Floats | Integers, below: Floats | Integers) -> Double:
    """Return above / below, NaN where `below` is not positive.

    Parameters
    ----------
    above, below
        Of one shape.

    Returns
    -------
    ndarray of float64
        Of that shape.
    """
    positive = below > 0
    return np.where(positive, above / np.where(positive, below, 1), np.nan)


@dataclass(frozen=True)
class Ragged:
    """Where each of several rows of unequal length stands in one flat array.

    Parameters
    ----------
    n
        Points of each row, one or more.
    """

    n: Integers

    @cached_property
    def ends(self) -> NDArray[np.intp]:
        """Where each row stops."""
        return np.cumsum(self.n)

    @cached_property
    def starts(self) -> NDArray[np.intp]:
        """Where each row begins."""
        return self.ends - self.n

    def total(self, flat: Double) -> Double:
        """Return the sum of each row."""
        return np.add.reduceat(flat, self.starts)

    def product(self, one: Double, other: Double) -> Double:
        """Return the sum of the products of two flat arrays in each row."""
        return np.add.reduceat(one * other, self.starts)

    def largest(self, flat: Double) -> Double:
        """Return the largest of each row."""
        return np.maximum.reduceat(flat, self.starts)

    def smallest(self, flat: Double) -> Double:
        """Return the smallest of each row."""
        return np.minimum.reduceat(flat, self.starts)

    def spread(self, of_rows: Double) -> Double:
        """Return the row's value for each point."""
        return np.repeat(of_rows, self.n)

    def steps(self, flat: Double) -> Double:
        """Return each point's difference to the next of its row; 0 for the last of a row."""
        found = np.empty_like(flat)
        np.subtract(flat[1:], flat[:-1], out=found[:-1])
        found[self.ends - 1] = 0
        return found

    def chosen(self, inside: Mask) -> tuple[NDArray[np.intp], Ragged]:
        """Return which rows keep points of `inside`, and where these stand among the kept."""
        n = np.add.reduceat(inside, self.starts, dtype=np.intp)
        rows = np.flatnonzero(n)
        return rows, Ragged(n[rows])


@dataclass(frozen=True)
class Points:
    """Good points of lightcurves that have one or more.

    Parameters
    ----------
    rows
        Where each lightcurve stood among those given, shape (row,).
    ragged
        Where each lightcurve stands in the flat arrays.
    place
        Where each point stood in the array of shape (lightcurve, aor), made flat.
    value, error
        float64, shape (point,).
    single
        Values as they were given, in their precision, shape (point,).
    width
        Columns of the array that the points are from.
    """

    rows: NDArray[np.intp]
    ragged: Ragged
    place: NDArray[np.intp]
    value: Double
    error: Double
    single: Floats
    width: int

    @cached_property
    def found(self) -> dict[str, Double]:
        """Statistics that are `kept`, by name."""
        return {}

    @cached_property
    def n(self) -> Integers:
        """Points of each lightcurve."""
        return self.ragged.n

    @cached_property
    def column(self) -> NDArray[np.intp]:
        """Column of each point."""
        return self.place - np.repeat(self.rows * self.width, self.n)

    @cached_property
    def ranked(self) -> Floats:
        """Values in order of size, shape (row, aor): the first n of each row, then infinity."""
        return self.in_order(self.single)

    def in_order(self, flat: Floats) -> Floats:
        """Return the values of each row in order of size, shape (row, aor), then infinity."""
        every = int(self.rows[-1]) + 1
        ranked = np.full((every, self.width), np.inf, dtype=flat.dtype)
        ranked.reshape(-1)[self.place] = flat
        if every > len(self.rows):
            ranked = ranked[self.rows]
        ranked.sort(axis=1)
        return ranked

    @cached_property
    def median(self) -> Double:
        """Median of each lightcurve."""
        return self.quantile(0.5)

    def quantile(self, q: float) -> Double:
        """Return a quantile of each lightcurve, linearly interpolated (numpy's default)."""
        return ranked_quantile(self.ranked, self.n, q)

    @cached_property
    def robust_scatter(self) -> Double:
        """1.4826 times the median absolute deviation, NaN for one point."""
        found = _MAD_TO_SIGMA * median_distance(self.ranked, self.n, self.median)
        return np.where(self.n > 1, found, np.nan)

    @cached_property
    def deviation(self) -> Double:
        """Value - median."""
        return self.value - self.ragged.spread(self.median)

    @cached_property
    def inverse_error(self) -> Double:
        """1 / error."""
        return 1.0 / self.error

    @cached_property
    def weight(self) -> Double:
        """1 / error**2."""
        return self.inverse_error * self.inverse_error

    @cached_property
    def total_weight(self) -> Double:
        """Sum of the weights of each lightcurve."""
        return self.ragged.total(self.weight)

    @cached_property
    def weighted_offset(self) -> Double:
        """Weighted mean - median of each lightcurve."""
        return self.ragged.product(self.weight, self.deviation) / self.total_weight

    @cached_property
    def pull(self) -> Double:
        """(Value - weighted mean) / error."""
        found = self.deviation - self.ragged.spread(self.weighted_offset)
        found *= self.inverse_error
        return found

    @cached_property
    def median_pull(self) -> Double:
        """(Value - median) / error."""
        return self.deviation * self.inverse_error

    @cached_property
    def chi2(self) -> Double:
        """Sum of the squared pulls of each lightcurve."""
        return self.ragged.product(self.pull, self.pull)

    @cached_property
    def offset(self) -> Double:
        """Mean - median of each lightcurve."""
        return self.ragged.total(self.deviation) / self.n

    @cached_property
    def centred(self) -> Double:
        """Value - mean."""
        return self.deviation - self.ragged.spread(self.offset)

    @cached_property
    def squared(self) -> Double:
        """(Value - mean)**2."""
        return self.centred * self.centred

    @cached_property
    def variance(self) -> Double:
        """Variance of each lightcurve with ddof=1, NaN for one point."""
        return divide(self.ragged.total(self.squared), self.n - 1)


def kept(statistic: Callable[[Points], Double]) -> Callable[[Points], Double]:
    """Compute a statistic once for the same points: others are made from it."""

    @wraps(statistic)
    def once(points: Points) -> Double:
        found = points.found
        if statistic.__name__ not in found:
            found[statistic.__name__] = statistic(points)
        return found[statistic.__name__]

    return once


def pack(flux: Floats, flux_err: Floats, known: Mask) -> Points | None:
    """Pack the measurements that count.

    Parameters
    ----------
    flux, flux_err
        Shape (lightcurve, aor), columns in order of time.
    known
        Which count, of that shape; see `usable`.

    Returns
    -------
    Points
        Of the lightcurves with one point or more; None where there is none.
    """
    n = np.count_nonzero(known, axis=1)
    rows = np.flatnonzero(n)
    if not rows.size:
        return None
    place = np.flatnonzero(known)
    single = flux.ravel().take(place)
    return Points(
        rows=rows,
        ragged=Ragged(n[rows]),
        place=place,
        value=single.astype(np.float64),
        error=flux_err.ravel().take(place).astype(np.float64),
        single=single,
        width=flux.shape[1],
    )


def ranked_quantile(ranked: Floats, n: Integers, q: float) -> Double:
    """Return a quantile of the first n of each row, linearly interpolated (numpy's default).

    Parameters
    ----------
    ranked
        In order of size, shape (row, aor).
    n
        How many of each row count, at least one, shape (row,).
    q
        From 0 to 1.

    Returns
    -------
    ndarray of float64
        Shape (row,).
    """
    at = (n - 1) * q
    low = np.floor(at).astype(np.intp)
    high = np.minimum(low + 1, n - 1)
    rows = np.arange(len(ranked))
    below = ranked[rows, low].astype(np.float64)
    found: Double = below + (at - low) * (ranked[rows, high] - below)
    return found


def median_distance(ranked: Floats, n: Integers, centre: Double) -> Double:
    """Return the median absolute distance from a value, without sorting again.

    The k nearest of sorted values are neighbours, so the first window of k whose right end is as
    far from the centre as its left end tells the k-th smallest distance; it is found by bisection.

    Parameters
    ----------
    ranked, n
        See `ranked_quantile`.
    centre
        Of each row, shape (row,).

    Returns
    -------
    ndarray of float64
        Shape (row,).
    """
    flat, begin = ranked.reshape(-1), np.arange(len(ranked)) * ranked.shape[1]
    half = (n + 1) // 2  # points of the window: the lower of two middle distances, if two

    def far(place: Integers, sign: float) -> Double:
        inside = (place >= 0) & (place < n)
        return np.where(inside, sign * (flat[begin + np.where(inside, place, 0)] - centre), np.inf)

    # the first window, from 0 to n - half, whose right end is at least as far as its left
    low, high = np.zeros_like(n), n - half
    left, right, twice = begin, begin + half - 1, 2 * centre
    for _ in range(int(ranked.shape[1]).bit_length()):
        middle = (low + high) >> 1
        ends = flat.take(left + middle).astype(np.float64)
        ends += flat.take(right + middle)
        beyond = ends >= twice
        high = np.where(beyond, middle, high)
        low = np.minimum(np.where(beyond, low, middle + 1), high)
    # of two windows the narrower: the one that begins at low, or the one before it
    before, at = far(low - 1, -1), np.maximum(far(low + half - 1, 1), far(low, -1))
    first = np.where(before < at, low - 1, low)
    lower = np.minimum(before, at)
    upper = np.minimum(far(first - 1, -1), far(first + half, 1))
    return np.where(n % 2 == 1, lower, 0.5 * (lower + np.where(n % 2 == 1, lower, upper)))
