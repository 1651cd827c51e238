"""The structure function of lightcurves that share their times.

Of 1,200 points there are 720,000 pairs. Nevertheless all of them count, at a cost that grows with
the number of points only: the partners of a point within a range of lags stand side by side in
time, so that sums over them are differences of running sums, and the square of a difference is a
sum of products of such sums.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from idfzarr.analysis.points import divide

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from idfzarr.analysis.points import Points

    Double: TypeAlias = NDArray[np.float64]
    Places: TypeAlias = NDArray[np.intp]

__all__ = ["FEWEST_PAIRS", "lag_windows", "structure_function"]

FEWEST_PAIRS = 10
"""Lags with fewer pairs have no structure function."""

_ROWS = 16  # whose sums fit into the processor's cache


def lag_windows(time: Double, lags: Sequence[float]) -> list[tuple[Places, Places]]:
    """Return, for each lag, where the partners of each point begin and end.

    Parameters
    ----------
    time
        In order, shape (aor,).
    lags
        Pairs count from lag / sqrt(2) on and below lag sqrt(2): half an octave to each side.

    Returns
    -------
    list of tuple of ndarray of int
        For each lag the first partner of each point and the one past the last, shape (aor,) each.
    """
    return [
        (np.searchsorted(time, time + lag / np.sqrt(2)), np.searchsorted(time, time + lag * 2**0.5))
        for lag in lags
    ]


def structure_function(points: Points, windows: Sequence[tuple[Places, Places]]) -> list[Double]:
    """Return the structure function in units of the median at some lags.

    Parameters
    ----------
    points
        Of some lightcurves.
    windows
        See `lag_windows`.

    Returns
    -------
    list of ndarray of float64
        For each lag an array of shape (row,): the root of the absolute mean of
        ``(f_i - f_j)**2 - e_i**2 - e_j**2``, with the sign of the mean, over the median.
    """
    width = len(windows[0][0])
    result = [np.full(len(points.n), np.nan) for _ in windows]
    kinds = (points.centred, points.squared - points.error * points.error)
    for start in range(0, len(points.n), _ROWS):
        rows = slice(start, min(start + _ROWS, len(points.n)))
        flat = slice(points.ragged.starts[rows][0], points.ragged.ends[rows][-1])
        row = np.repeat(np.arange(rows.stop - start) * (3 * width), points.n[rows])
        parts = np.zeros((rows.stop - start, 3, width))
        place, spread_out = row + points.column[flat], parts.reshape(-1)
        spread_out[place] = 1
        for kind in kinds:
            place += width
            spread_out[place] = kind[flat]
        for found, mean in zip(result, _mean_squares(parts, windows), strict=True):
            found[rows] = np.copysign(np.sqrt(np.abs(mean)), mean)
    return [divide(found, points.median) for found in result]


def _mean_squares(parts: Double, windows: Sequence[tuple[Places, Places]]) -> Iterator[Double]:
    """Yield for each lag the mean square that errors do not explain, shape (row,).

    `parts` has, for each row and column, 1, the value and its square less that of its error, or
    three times 0.
    """
    counted, value, square = parts[:, 0], parts[:, 1], parts[:, 2]
    sums = np.zeros((*parts.shape[:2], parts.shape[2] + 1))
    np.cumsum(parts, axis=2, out=sums[:, :, 1:])
    for first, end in windows:
        inside = sums.take(end, axis=2)
        inside -= sums.take(first, axis=2)
        pairs = np.vecdot(counted, inside[:, 0])
        squares = np.vecdot(square, inside[:, 0]) + np.vecdot(counted, inside[:, 2])
        squares -= 2 * np.vecdot(value, inside[:, 1])
        yield divide(squares, np.where(pairs >= FEWEST_PAIRS, pairs, 0))
