"""Robust statistics of many small samples at once: clipped median and biweight.

Every function takes samples as rows, NaN where a value is missing, and gives what astropy gives for
each row alone (`astropy.stats.sigma_clip`, `mad_std`, `biweight_location`, `biweight_scale`),
without a Python loop over rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "biweight_location",
    "biweight_scale",
    "clip_rows",
    "mad_std_rows",
    "median_rows",
    "std_rows",
]

# 1 / (Gaussian quantile of 0.75): the median absolute deviation of a Gaussian is 0.6745 sigma.
_MAD_TO_SIGMA = 1.482602218505602


def median_rows(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of every row.

    Parameters
    ----------
    samples
        (n, a), NaN where missing.

    Returns
    -------
    ndarray
        (n,), NaN for rows without a value.
    """
    # NaN sorts last, so that the values of a row stand first.
    ordered = np.sort(samples, axis=1)
    count = np.count_nonzero(~np.isnan(samples), axis=1)
    middle = np.stack([(count - 1) // 2, count // 2], axis=1)
    # A row without values looks up its last entry, which is NaN.
    pair = np.take_along_axis(ordered, middle, axis=1)
    median: NDArray[np.float64] = 0.5 * (pair[:, 0] + pair[:, 1])
    return median


def std_rows(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard deviation (divisor N) of every row.

    Parameters
    ----------
    samples
        (n, a), NaN where missing.

    Returns
    -------
    ndarray
        (n,), NaN for rows without a value.
    """
    there = ~np.isnan(samples)
    count = np.maximum(there.sum(axis=1), 1)
    mean = np.where(there, samples, 0.0).sum(axis=1) / count
    squares = np.where(there, (samples - mean[:, None]) ** 2, 0.0).sum(axis=1)
    return np.where(there.any(axis=1), np.sqrt(squares / count), np.nan)


def mad_std_rows(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median absolute deviation of every row as a Gaussian sigma.

    Parameters
    ----------
    samples
        (n, a), NaN where missing.

    Returns
    -------
    ndarray
        (n,), NaN for rows without a value.
    """
    return _MAD_TO_SIGMA * _mad(samples, median_rows(samples))


def _mad(samples: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    return median_rows(np.abs(samples - centre[:, None]))


def clip_rows(
    samples: NDArray[np.float64], *, sigma: float = 3.0, rounds: int = 10
) -> NDArray[np.float64]:
    """Clip every row about its median until nothing more goes.

    Parameters
    ----------
    samples
        (n, a), NaN where missing.
    sigma
        Values farther from the median than this many standard deviations go.
    rounds
        At most so many times.

    Returns
    -------
    ndarray
        (n, a), NaN where missing or clipped.

    Notes
    -----
    ``astropy.stats.SigmaClip(sigma=3, maxiters=10)``, centre the median, width the standard
    deviation, which is what photutils' examples and SExtractor's background clip with.
    """
    kept = np.array(samples, dtype=np.float64)
    active = np.arange(len(kept))
    for _ in range(rounds):
        rows = kept[active]
        centre, width = median_rows(rows), sigma * std_rows(rows)
        gone = (rows < (centre - width)[:, None]) | (rows > (centre + width)[:, None])
        changed = gone.any(axis=1)
        if not changed.any():
            break
        rows[gone] = np.nan
        active, rows = active[changed], rows[changed]
        kept[active] = rows
    return kept


def biweight_location(samples: NDArray[np.float64], *, cut: float = 6.0) -> NDArray[np.float64]:
    """Return the biweight location of every row.

    Parameters
    ----------
    samples
        (n, a), NaN where missing.
    cut
        Values farther than this many median absolute deviations count nothing.

    Returns
    -------
    ndarray
        (n,); the median where the deviations vanish, NaN for rows without a value.

    Notes
    -----
    Beers, Flynn and Gebhardt 1990 (AJ 100, 32), eq. 5, one step from the median.
    """
    median = median_rows(samples)
    offset, distance, degenerate = _distances(samples, median, cut)
    weight = (1 - distance) ** 2
    step = (weight * offset).sum(axis=1) / np.where(degenerate, 1.0, weight.sum(axis=1))
    return np.where(degenerate, median, median + step)


def biweight_scale(samples: NDArray[np.float64], *, cut: float = 9.0) -> NDArray[np.float64]:
    """Return the biweight scale, a robust standard deviation, of every row.

    Parameters
    ----------
    samples
        (n, a), NaN where missing.
    cut
        Values farther than this many median absolute deviations count nothing.

    Returns
    -------
    ndarray
        (n,); 0 where the deviations vanish, NaN for rows without a value.

    Notes
    -----
    Beers, Flynn and Gebhardt 1990 (AJ 100, 32), eq. 9, with N the number of all values.
    """
    median = median_rows(samples)
    offset, distance, degenerate = _distances(samples, median, cut)
    upper = (offset**2 * (1 - distance) ** 4).sum(axis=1)
    lower = ((1 - distance) * (1 - 5 * distance)).sum(axis=1)
    count = np.count_nonzero(~np.isnan(samples), axis=1)
    scale = np.sqrt(count * upper) / np.abs(np.where(degenerate, 1.0, lower))
    return np.where(degenerate, np.where(count > 0, 0.0, np.nan), scale)


def _distances(
    samples: NDArray[np.float64], median: NDArray[np.float64], cut: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Offsets from the median, squared distances in cuts (at most 1), rows without width."""
    mad = _mad(samples, median)
    offset = np.nan_to_num(samples - median[:, None])
    width = np.broadcast_to(cut * mad[:, None], offset.shape)
    # At a distance of 1 every weight is 0: so it may stand for all beyond, and for the missing.
    distance = np.ones_like(offset)
    within = ~np.isnan(samples) & (np.abs(offset) < width)
    np.divide(offset, width, out=distance, where=within)
    return offset, distance**2, ~(mad > 0)
