"""Variability statistics of many lightcurves at once.

`STATISTICS` is the registry: name, unit, definition and source of each statistic, from which the
attributes of the store's ``variability/`` group and every table are made. `statistics` computes all
of them, or those asked for, for rows of lightcurves; measurements that are not good, and NaN, do
not count. Two channels together: `two_band_statistics`. Ranking: `variability_score`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.analysis import scatter, smoothness
from idfzarr.analysis.excess import FEWEST_POINTS, excess, most_variable, variability_score
from idfzarr.analysis.points import pack, ranked_quantile, usable
from idfzarr.analysis.statistic_definitions import (
    STATISTICS,
    STRUCTURE_FUNCTION_LAGS,
    StatisticDefinition,
)
from idfzarr.analysis.structure_function import lag_windows, structure_function
from idfzarr.analysis.two_band import two_band_statistics
from idfzarr.errors import UnknownName, UsageError, closest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray

    from idfzarr.analysis.points import Points

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Single: TypeAlias = NDArray[np.float32]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]
    Integers: TypeAlias = NDArray[np.integer[Any]]

__all__ = [
    "FEWEST_POINTS",
    "STATISTICS",
    "StatisticDefinition",
    "excess",
    "most_variable",
    "statistics",
    "two_band_statistics",
    "variability_score",
]

_BLOCK = 120_000  # measurements worked on at a time, which stay in the processor's cache

_OF_POINTS: Mapping[str, Callable[[Points], Double]] = {
    "median": lambda points: points.median,
    "robust_scatter": lambda points: points.robust_scatter,
    "iqr": scatter.iqr,
    "amplitude": scatter.amplitude,
    "weighted_mean": scatter.weighted_mean,
    "standard_deviation": scatter.standard_deviation,
    "skewness": scatter.skewness,
    "reduced_chi2": scatter.reduced_chi2,
    "chi2_log10_p": scatter.log10_p,
    "trimmed_chi2": scatter.trimmed_chi2,
    "roms": scatter.roms,
    "max_pull": scatter.max_pull,
    "excess_variance": scatter.excess_variance,
    "stetson_k": scatter.stetson_k,
    "von_neumann": smoothness.von_neumann,
    "inverse_eta": smoothness.inverse_eta,
    "stetson_j": smoothness.stetson_j,
    "stetson_l": smoothness.stetson_l,
}
_OF_TIME: Mapping[str, Callable[[Points, Double], Double]] = {
    "slope": smoothness.slope,
    "max_rate": smoothness.max_rate,
}
_STRUCTURE = tuple(f"sf_{lag}" for lag in STRUCTURE_FUNCTION_LAGS)


@dataclass(frozen=True)
class _Clock:
    """What all lightcurves have in common: their order and their times.

    Parameters
    ----------
    order
        Columns in order of time, those without one left out; None where they are in order.
    time
        Of the columns in that order, in days from their middle; None where no times are known.
    """

    order: Integers | None
    time: Double | None


def statistics(
    flux: Floats,
    flux_err: Floats,
    good: Mask | None = None,
    *,
    mjd: Floats | None = None,
    time_order: Integers | None = None,
    names: Collection[str] | None = None,
    threads: int = 1,
) -> dict[str, Single]:
    """Compute statistics of every lightcurve.

    Single precision is the faster; sums are in double precision all the same.

    Parameters
    ----------
    flux, flux_err
        Rows are lightcurves, shape (lightcurve, aor).
    good
        Measurements that count, shape (lightcurve, aor); in addition flux must be finite and
        flux_err finite and positive.
    mjd
        Times in days, shape (aor,), the same for all these lightcurves; in no particular order.
        Columns without a finite time do not count. Without it ``slope``, ``max_rate`` and the
        structure function are NaN.
    time_order
        In place of `mjd`: the columns in order of time (``argsort`` of the times), shape (aor,); as
        they stand if both are None.
    names
        Which statistics; all if None.
    threads
        Blocks of lightcurves worked on at the same time.

    Returns
    -------
    dict of str to ndarray of float32
        For each name asked for, in the order of `STATISTICS`, an array of shape (lightcurve,).
        ``n`` is 0 or more; the others are NaN where they are not defined: without a point, for
        those of scatter and of time with one point, and where a division has zero for its divisor;
        infinite where they are beyond single precision.

    Raises
    ------
    UsageError
        The arrays differ in shape, `time_order` is no permutation of the columns, or `threads` is
        below 1.
    UnknownName
        There is no statistic of that name.
    """
    _check(flux, flux_err, good)
    wanted = _wanted(names)
    clock = _clock(flux.shape[1], mjd, time_order)
    if threads < 1:
        msg = f"statistics need 1 thread or more, not {threads}"
        raise UsageError(msg)
    result = {name: np.full(len(flux), np.nan, dtype=np.float32) for name in wanted}
    step = max(1, _BLOCK // max(1, flux.shape[1]))
    windows = None
    if clock.time is not None and not set(_STRUCTURE).isdisjoint(wanted):
        windows = lag_windows(clock.time, STRUCTURE_FUNCTION_LAGS)

    def work(start: int) -> None:
        rows = slice(start, min(start + step, len(flux)))
        part = (flux[rows], flux_err[rows], None if good is None else good[rows])
        # what is beyond single precision is infinite, and says so
        with np.errstate(over="ignore", invalid="ignore"):
            _block(part, clock, windows, {name: values[rows] for name, values in result.items()})

    starts = range(0, len(flux), step)
    if threads == 1 or len(starts) < 2:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, starts))
    return result


def _check(flux: Floats, flux_err: Floats, good: Mask | None) -> None:
    shapes = (flux.shape, flux_err.shape, None if good is None else good.shape)
    if flux.ndim != 2 or any(shape not in {None, flux.shape} for shape in shapes):
        msg = f"flux, flux_err and good must have one shape (lightcurve, aor), not {shapes}"
        raise UsageError(msg)


def _wanted(names: Collection[str] | None) -> list[str]:
    known = [one.name for one in STATISTICS]
    if names is None:
        return known
    for name in names:
        if name not in known:
            msg = f"there is no statistic {name!r} of a single lightcurve{closest(name, known)}"
            raise UnknownName(msg)
    return [name for name in known if name in names]


def _clock(columns: int, mjd: Floats | None, time_order: Integers | None) -> _Clock:
    order: Integers
    if mjd is not None:
        if mjd.shape != (columns,):
            msg = f"mjd must have one time for each of the {columns} columns, not shape {mjd.shape}"
            raise UsageError(msg)
        if time_order is not None:
            msg = "mjd tells the order of time already: give mjd or time_order, not both"
            raise UsageError(msg)
        order = np.argsort(mjd, kind="stable")
        order = order[np.isfinite(mjd[order])]
        time = mjd[order].astype(np.float64)
        if time.size:
            time -= 0.5 * (time[0] + time[-1])
    elif time_order is not None:
        if not np.array_equal(np.sort(time_order), np.arange(columns)):
            msg = f"time_order must name each of the {columns} columns once"
            raise UsageError(msg)
        order, time = time_order, None
    else:
        return _Clock(None, None)
    return _Clock(None if np.array_equal(order, np.arange(columns)) else order, time)


def _block(
    part: tuple[Floats, Floats, Mask | None],
    clock: _Clock,
    windows: list[tuple[NDArray[np.intp], NDArray[np.intp]]] | None,
    result: Mapping[str, Single],
) -> None:
    """Fill the statistics of some lightcurves in."""
    flux, error, good = part
    if clock.order is not None:
        flux, error = flux[:, clock.order], error[:, clock.order]
        good = None if good is None else good[:, clock.order]
    known = usable(flux, error, good)
    points = pack(flux, error, known)
    if "n" in result:
        result["n"][:] = np.count_nonzero(known, axis=1)
    if points is None:
        return
    for name, of_points in _OF_POINTS.items():
        if name in result:
            result[name][points.rows] = of_points(points)
    if "median_err" in result:
        ranked = points.in_order(error.ravel().take(points.place))
        result["median_err"][points.rows] = ranked_quantile(ranked, points.n, 0.5)
    if clock.time is not None:
        _timed(points, clock.time, windows, result)


def _timed(
    points: Points,
    time: Double,
    windows: list[tuple[NDArray[np.intp], NDArray[np.intp]]] | None,
    result: Mapping[str, Single],
) -> None:
    """Fill in what needs more of time than its order."""
    wanted = [name for name in _OF_TIME if name in result]
    if wanted:
        of_points = time.take(points.column)
        for name in wanted:
            result[name][points.rows] = _OF_TIME[name](points, of_points)
    if windows is not None:
        found = structure_function(points, windows)
        for name, values in zip(_STRUCTURE, found, strict=True):
            if name in result:
                result[name][points.rows] = values
