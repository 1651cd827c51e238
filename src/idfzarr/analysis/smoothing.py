"""Clip, smooth, bin and differentiate lightcurves.

All of these work in windows of time, since lightcurves of a survey come in clumps: a window of so
many points would span hours here and years there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from idfzarr.errors import UsageError, closest
from idfzarr.flags import flag_bit
from idfzarr.imaging.robust import median_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray

    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]

__all__ = [
    "BIN_METHODS",
    "FEWEST_TO_JUDGE",
    "BinMethod",
    "Binned",
    "Rates",
    "Smoothed",
    "bin_flags",
    "bin_lightcurve",
    "bin_numbers",
    "bin_rows",
    "clip",
    "rates",
    "smooth",
]

BinMethod = Literal["weighted", "mean", "median"]

BIN_METHODS: tuple[BinMethod, ...] = ("weighted", "mean", "median")
"""How the measurements of a bin become one."""

FEWEST_TO_JUDGE = 5
"""In a window with fewer points none is clipped: too few to say which of them is off."""

_MAD_TO_SIGMA = 1.482602218505602
_MEDIAN_LOSS = math.sqrt(math.pi / 2)  # the median's error over the mean's, for normal errors
_BLOCK = 2_000_000  # values of windows that are worked on at a time


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A smoothed lightcurve, a value for each point, in the order of time.

    Attributes
    ----------
    mjd
        Times of the points, days, ascending, (n,).
    value
        Smoothed value, (n,).
    low, high
        Value less and plus its standard error, (n,); NaN where one point alone without an error
        makes it.
    n
        How many points made it, (n,).
    """

    mjd: Double
    value: Double
    low: Double
    high: Double
    n: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Binned:
    """A binned lightcurve, in the order of time; bins without a good measurement are left out.

    Attributes
    ----------
    mjd
        Mean time of the measurements that were used, days, (bin,).
    flux, flux_err
        In the unit of the lightcurve, (bin,).
    n
        How many measurements were used, (bin,).
    start
        Where the bins begin, MJD, (bin,).
    """

    mjd: Double
    flux: Double
    flux_err: Double
    n: NDArray[np.int64]
    start: Double


@dataclass(frozen=True, eq=False)
class Rates:
    """How fast a lightcurve changes between successive points, (n - 1,).

    Attributes
    ----------
    mjd
        Middle of the two times, days.
    mag
        Mean of the two magnitudes.
    rate
        Change of magnitude, mag/day; positive where it fades.
    rate_err
        Its error, mag/day; NaN where the magnitudes have none.
    """

    mjd: Double
    mag: Double
    rate: Double
    rate_err: Double


# ------------------------------------------------------------------ windows


def _one_length(**arrays: ArrayLike | None) -> dict[str, Double]:
    """Return arrays in float64, of one dimension and one length; raises `UsageError`."""
    found = {
        name: np.asarray(values, dtype=np.float64)
        for name, values in arrays.items()
        if values is not None
    }
    shapes = {name: values.shape for name, values in found.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        msg = f"a lightcurve has arrays of one dimension and one length, not of shapes {told}"
        raise UsageError(msg)
    return found


def _positive_number(value: float, what: str) -> None:
    if not (math.isfinite(value) and value > 0):
        msg = f"{what} must be a positive number, not {value!r}"
        raise UsageError(msg)


def _windows(mjd: Double, window: float | None) -> Iterator[tuple[slice, NDArray[np.intp], Mask]]:
    """Yield blocks of windows of points in order of time: rows, positions in them, which count.

    The window of a point holds the points at most ``window / 2`` before and after it.
    """
    half = math.inf if window is None else window / 2
    first = np.searchsorted(mjd, mjd - half, side="left")
    last = np.searchsorted(mjd, mjd + half, side="right")
    width = int((last - first).max(initial=1))
    step = max(1, _BLOCK // width)
    along = np.arange(width)
    for begin in range(0, len(mjd), step):
        rows = slice(begin, begin + step)
        at = first[rows, None] + along
        counts = at < last[rows, None]
        yield rows, np.minimum(at, len(mjd) - 1), counts


def _in_order(mjd: Double, usable: Mask) -> NDArray[np.intp]:
    """Return the positions of usable points in the order of time."""
    rows = np.flatnonzero(usable & np.isfinite(mjd))
    ordered: NDArray[np.intp] = rows[np.argsort(mjd[rows], kind="stable")]
    return ordered


def _medians(value: Double, mjd: Double, window: float | None) -> tuple[Double, Double, Double]:
    """Return running median, robust sigma and number of points of a lightcurve in order."""
    if window is None:
        middle = np.median(value) if len(value) else np.nan
        spread = np.median(np.abs(value - middle)) if len(value) else np.nan
        whole = np.full((3, len(value)), float(len(value)))
        whole[0], whole[1] = middle, _MAD_TO_SIGMA * spread
        return whole[0], whole[1], whole[2]
    median, sigma, n = np.empty((3, len(value)))
    for rows, at, counts in _windows(mjd, window):
        near = np.where(counts, value[at], np.nan)
        median[rows] = median_rows(near)
        sigma[rows] = _MAD_TO_SIGMA * median_rows(np.abs(near - median[rows, None]))
        n[rows] = counts.sum(axis=1)
    return median, sigma, n


# ------------------------------------------------------------------ clip and smooth


def clip(
    mjd: ArrayLike,
    value: ArrayLike,
    *,
    sigma: float,
    window: float | None = None,
    error: ArrayLike | None = None,
) -> Mask:
    """Say which points stay when those far from their neighbours in time are clipped.

    A point goes if it is more than `sigma` times the scale from the median of its window. The scale
    is 1.4826 times the median absolute deviation of the window, or the point's own error where
    that is given and larger. Neither knows the outliers, so one pass is enough (Hampel's
    identifier; Davies & Gather 1993, JASA 88, 782).

    Parameters
    ----------
    mjd
        Times, days, in any order, (n,).
    value
        Fluxes or magnitudes, (n,).
    sigma
        How far, in units of the scale.
    window
        Full width of the window around each point, days; all points if None.
    error
        Errors of the values, (n,).

    Returns
    -------
    ndarray of bool
        True for the points to keep, (n,); False where value or time is not finite. In windows of
        fewer than `FEWEST_TO_JUDGE` points all are kept.

    Raises
    ------
    UsageError
        The arrays differ in length; sigma or window is not positive.

    Examples
    --------
    >>> clip(range(6), [1.0, 1.1, 9.0, 0.9, 1.0, float("nan")], sigma=5).tolist()
    [True, True, False, True, True, False]
    """
    given = _one_length(mjd=mjd, value=value, error=error)
    _positive_number(sigma, "sigma")
    if window is not None:
        _positive_number(window, "the window, in days,")
    rows = _in_order(given["mjd"], np.isfinite(given["value"]))
    values = given["value"][rows]
    median, scale, n = _medians(values, given["mjd"][rows], window)
    if "error" in given:
        scale = np.fmax(scale, given["error"][rows])
    # equal values may differ by their rounding
    scale = np.fmax(scale, 4 * np.spacing(np.abs(median)))
    kept = np.zeros(len(given["value"]), dtype=np.bool_)
    kept[rows] = (np.abs(values - median) <= sigma * scale) | (n < FEWEST_TO_JUDGE)
    return kept


def smooth(
    mjd: ArrayLike,
    value: ArrayLike,
    *,
    window: float,
    sigma: float | None = None,
    error: ArrayLike | None = None,
) -> Smoothed:
    """Smooth a lightcurve by a running average in a window of time.

    With errors: the mean with weights ``1/error**2``; its standard error ``1/sqrt(sum of weights)``
    is scaled up by the square root of the reduced chi-squared of the window where that exceeds 1.
    Without: the median, with ``1.2533 * 1.4826 MAD / sqrt(n)``.

    Parameters
    ----------
    mjd
        Times, days, in any order, (n,).
    value
        Fluxes or magnitudes, (n,); points that are not finite are left out.
    window
        Full width of the window around each point, days.
    sigma
        Leave out what `clip` drops in the same window; nothing if None.
    error
        Errors of the values, (n,); points whose error is not positive are then left out.

    Returns
    -------
    Smoothed
        One value for each point used.

    Raises
    ------
    UsageError
        The arrays differ in length; sigma or window is not positive.

    Examples
    --------
    >>> smooth([0.0, 1.0, 2.0], [1.0, 2.0, 6.0], window=2).value.tolist()
    [1.5, 2.0, 4.0]
    """
    given = _one_length(mjd=mjd, value=value, error=error)
    _positive_number(window, "the window, in days,")
    usable = np.isfinite(given["value"])
    if "error" in given:
        usable &= np.isfinite(given["error"]) & (np.nan_to_num(given["error"]) > 0)
    if sigma is not None:
        usable &= clip(mjd, np.where(usable, given["value"], np.nan), sigma=sigma, window=window)
    rows = _in_order(given["mjd"], usable)
    times, values = given["mjd"][rows], given["value"][rows]
    if "error" in given:
        middle, half, n = _weighted_means(values, given["error"][rows], times, window)
    else:
        middle, spread, n = _medians(values, times, window)
        half = np.where(n > 1, _median_loss(n) * spread / np.sqrt(np.fmax(n, 1)), np.nan)
    return Smoothed(times, middle, middle - half, middle + half, n.astype(np.int64))


def _weighted_means(
    value: Double, error: Double, mjd: Double, window: float
) -> tuple[Double, Double, Double]:
    mean, mean_err, n = np.empty((3, len(value)))
    for rows, at, counts in _windows(mjd, window):
        weight = np.where(counts, error[at] ** -2.0, 0.0)
        total = weight.sum(axis=1)
        n[rows] = counts.sum(axis=1)
        mean[rows] = (weight * value[at]).sum(axis=1) / total
        chi2 = (weight * (value[at] - mean[rows, None]) ** 2).sum(axis=1)
        reduced = chi2 / np.fmax(n[rows] - 1, 1)
        mean_err[rows] = np.sqrt(np.fmax(reduced, 1) / total)
    return mean, mean_err, n


def _median_loss(n: NDArray[np.generic]) -> Double:
    """Return the median's error over the mean's; the two are one and the same for two points."""
    return np.where(np.asarray(n) > 2, _MEDIAN_LOSS, 1.0)


# ------------------------------------------------------------------ bins


def bin_numbers(mjd: ArrayLike, *, width: float) -> NDArray[np.int64]:
    """Return the number of the bin that each time lies in, ``floor(mjd / width)``.

    Bins are counted from MJD 0, so that those of all objects and channels are the same ones.

    Parameters
    ----------
    mjd
        Days, any shape.
    width
        Days.

    Returns
    -------
    ndarray of int64
        The same shape; -1 where there is no time.

    Raises
    ------
    UsageError
        The width is not positive.
    """
    _positive_number(width, "the width of bins, in days,")
    times = np.asarray(mjd, dtype=np.float64)
    known = np.isfinite(times)
    return np.where(known, np.floor(np.where(known, times, 0.0) / width), -1).astype(np.int64)


def _usable(flux: Double, flux_err: Double, good: Mask | None, method: BinMethod) -> Mask:
    usable = np.isfinite(flux)
    if good is not None:
        usable = usable & good
    if method == "weighted":
        usable = usable & (np.where(np.isfinite(flux_err), flux_err, 0.0) > 0)
    return usable


def _starts(number: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the order of bins, and where in it each of them begins; -1 is in none."""
    order = np.argsort(number, kind="stable")
    order = order[number[order] >= 0]
    ordered = number[order]
    return order, np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])


def _binned_medians(values: Double, starts: NDArray[np.intp]) -> Double:
    """Return the median of every run of columns that begins at `starts`; NaN do not count."""
    ends = np.r_[starts[1:], values.shape[-1]]
    rows = values.reshape(-1, values.shape[-1])
    medians = [median_rows(rows[:, a:b]) for a, b in zip(starts, ends, strict=True)]
    return np.stack(medians, axis=-1).reshape(*values.shape[:-1], len(starts))


def bin_rows(
    flux: NDArray[np.floating],
    flux_err: NDArray[np.floating],
    good: Mask | None,
    number: NDArray[np.int64],
    *,
    method: BinMethod = "weighted",
) -> tuple[Double, Double, NDArray[np.int64]]:
    """Bin many lightcurves of the same times at once.

    ======== ================================ =========================================
    method   flux                             flux_err
    ======== ================================ =========================================
    weighted mean with weights 1/flux_err**2  1/sqrt(sum of weights)
    mean     mean                             sqrt(sum of flux_err**2) / n
    median   median                           that of the mean, x 1.2533 from 3 points on
    ======== ================================ =========================================

    Parameters
    ----------
    flux, flux_err
        (..., time).
    good
        Which measurements may be used, (..., time); all if None. NaN never are, and ``weighted``
        uses none whose error is not positive.
    number
        Bin of each time, (time,), any whole numbers; -1 for none.
    method
        See above.

    Returns
    -------
    tuple of ndarray
        Flux and error, float64, and the number of measurements used, each (..., bin) for the bins
        that occur in `number`, ascending; NaN where none was used.

    Raises
    ------
    UsageError
        There is no such method.
    """
    if method not in BIN_METHODS:
        msg = (
            f"{method!r} is no way to bin{closest(method, BIN_METHODS)}; "
            f"use {', '.join(BIN_METHODS)}"
        )
        raise UsageError(msg)
    order, starts = _starts(number)
    values = flux[..., order].astype(np.float64)
    errors = flux_err[..., order].astype(np.float64)
    usable = _usable(values, errors, None if good is None else good[..., order], method)
    if not len(starts):
        empty = np.empty((*flux.shape[:-1], 0))
        return empty, empty.copy(), empty.astype(np.int64)

    def total(what: Double) -> Double:
        return np.asarray(np.add.reduceat(np.where(usable, what, 0.0), starts, axis=-1))

    n = total(np.ones_like(values))
    some = np.where(n > 0, n, np.nan)
    if method == "weighted":
        weights = np.where(usable, errors, 1.0) ** -2.0
        sums = np.where(n > 0, total(weights), np.nan)
        middle, error = total(weights * np.where(usable, values, 0.0)) / sums, sums**-0.5
    else:
        error = np.sqrt(total(errors**2)) / some
        if method == "mean":
            middle = total(values) / some
        else:
            middle = _binned_medians(np.where(usable, values, np.nan), starts)
            error = error * _median_loss(n)
    return middle, error, n.astype(np.int64)


def bin_flags(
    flag: NDArray[np.uint16], used: Mask, number: NDArray[np.int64]
) -> NDArray[np.uint16]:
    """Return the flags of bins: those of what was used, or of everything where nothing was.

    Parameters
    ----------
    flag
        (..., time).
    used
        Which measurements made the bin, (..., time).
    number
        As in `bin_rows`, (time,).

    Returns
    -------
    ndarray of uint16
        (..., bin); a bin of nothing used has at least ``not_observed``.
    """
    order, starts = _starts(number)
    if not len(starts):
        return np.empty((*flag.shape[:-1], 0), dtype=np.uint16)
    flags, kept = flag[..., order], used[..., order]
    those = np.bitwise_or.reduceat(np.where(kept, flags, 0), starts, axis=-1)
    every = np.bitwise_or.reduceat(flags, starts, axis=-1)
    any_used = np.logical_or.reduceat(kept, starts, axis=-1)
    none = np.where(every == 0, flag_bit("not_observed"), every)
    return np.where(any_used, those, none).astype(np.uint16)


def bin_lightcurve(
    mjd: ArrayLike,
    flux: ArrayLike,
    flux_err: ArrayLike,
    good: ArrayLike | None = None,
    *,
    width: float,
    method: BinMethod = "weighted",
) -> Binned:
    """Bin a lightcurve in time.

    Parameters
    ----------
    mjd
        Times, days, in any order, (n,).
    flux, flux_err
        (n,).
    good
        Which measurements may be used, (n,); all if None.
    width
        Width of the bins, days; they are counted from MJD 0, see `bin_numbers`.
    method
        See `bin_rows`.

    Returns
    -------
    Binned
        Bins that hold a good measurement.

    Raises
    ------
    UsageError
        The arrays differ in length, the width is not positive, or there is no such method.

    Examples
    --------
    >>> binned = bin_lightcurve([0.0, 1.0, 14.5], [1.0, 4.0, 7.0], [1.0, 0.5, 1.0], width=14)
    >>> binned.flux.round(6).tolist(), binned.n.tolist()
    ([3.4, 7.0], [2, 1])
    """
    given = _one_length(mjd=mjd, flux=flux, flux_err=flux_err, good=good)
    times, values, errors = given["mjd"], given["flux"], given["flux_err"]
    kept = given["good"] != 0 if "good" in given else None
    number = bin_numbers(times, width=width)
    middle, error, n = bin_rows(values, errors, kept, number, method=method)
    usable = _usable(values, errors, kept, method)
    known = np.where(usable, times, np.nan)
    when, _, _ = bin_rows(known, np.ones_like(known), None, number, method="mean")
    filled = n > 0
    starts = np.unique(number[number >= 0]).astype(np.float64) * width
    return Binned(when[filled], middle[filled], error[filled], n[filled], starts[filled])


# ------------------------------------------------------------------ rates


def rates(mjd: ArrayLike, mag: ArrayLike, mag_err: ArrayLike | None = None) -> Rates:
    """Return how fast magnitudes change between successive points.

    ``rate = (mag[i+1] - mag[i]) / (mjd[i+1] - mjd[i])``, with the errors of both in quadrature.

    Parameters
    ----------
    mjd
        Times, days, in any order, (n,).
    mag, mag_err
        (n,); points that are not finite are left out, so that a rate spans the gap. Of points of
        one time there is no rate between them.

    Returns
    -------
    Rates
        One less than there are points; empty for fewer than two.

    Raises
    ------
    UsageError
        The arrays differ in length.

    Examples
    --------
    >>> rates([0.0, 2.0, 3.0], [20.0, 21.0, 20.5]).rate.tolist()
    [0.5, -0.5]
    """
    given = _one_length(mjd=mjd, mag=mag, mag_err=mag_err)
    rows = _in_order(given["mjd"], np.isfinite(given["mag"]))
    times, values = given["mjd"][rows], given["mag"][rows]
    errors = given["mag_err"][rows] if "mag_err" in given else np.full(len(rows), np.nan)
    step = np.diff(times)
    some = step > 0
    span = step[some]
    return Rates(
        mjd=(times[:-1] + times[1:])[some] / 2,
        mag=(values[:-1] + values[1:])[some] / 2,
        rate=np.diff(values)[some] / span,
        rate_err=np.hypot(errors[:-1], errors[1:])[some] / span,
    )
