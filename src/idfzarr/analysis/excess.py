"""Variability relative to objects of the same brightness, and a ranking by it.

No statistic means much by itself, since every error bar is somewhat wrong and in its own way at
each brightness. `excess` therefore compares each object with objects of its own brightness, as
Sokolovsky et al. 2017 (MNRAS 464, 274) advise, who find that a measure of scatter (IQR) together
with a measure of smoothness (1/eta) recovers most variables. `variability_score` joins the two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]

__all__ = ["FEWEST_POINTS", "excess", "most_variable", "variability_score"]

FEWEST_POINTS = 5
"""Lightcurves with fewer good points are not ranked."""

_MAD_TO_SIGMA = 1.482602218505602
_NEIGHBOURS = 51


def excess(
    statistic: Floats, brightness: Floats, *, neighbours: int = _NEIGHBOURS, floor: float = 0.05
) -> Double:
    """Compare a statistic with that of objects of the same brightness.

    Parameters
    ----------
    statistic
        A positive statistic such as reduced chi2 or 1/eta, shape (object,); its logarithm is
        compared.
    brightness
        Flux or magnitude, shape (object,); only its order matters.
    neighbours
        How many objects, nearest in rank of brightness, make the running median and scatter; all
        where there are fewer.
    floor
        Smallest scatter of the logarithm that is believed.

    Returns
    -------
    ndarray of float64
        ``(ln s - running median) / running robust sigma``, shape (object,); NaN where the statistic
        is not positive or the brightness not finite.

    Raises
    ------
    UsageError
        The arrays differ in shape, or `neighbours` is below 1.
    """
    if statistic.shape != brightness.shape or statistic.ndim != 1:
        msg = (
            f"statistic and brightness must be of one length, not of shapes {statistic.shape} and "
            f"{brightness.shape}"
        )
        raise UsageError(msg)
    if neighbours < 1:
        msg = f"a running median needs at least 1 neighbour, not {neighbours}"
        raise UsageError(msg)
    known = np.isfinite(brightness) & np.isfinite(statistic)
    known &= np.where(known, statistic, 0) > 0
    result = np.full(statistic.shape, np.nan)
    rows = np.flatnonzero(known)
    if not rows.size:
        return result
    rows = rows[np.argsort(brightness[rows], kind="stable")]
    values = np.log(statistic[rows].astype(np.float64))
    width = min(neighbours, rows.size)
    windows = np.lib.stride_tricks.sliding_window_view(values, width)
    middle = np.median(windows, axis=1)
    sigma = _MAD_TO_SIGMA * np.median(np.abs(windows - middle[:, None]), axis=1)
    # at the ends the window stops moving
    at = np.clip(np.arange(rows.size) - width // 2, 0, len(windows) - 1)
    result[rows] = (values - middle[at]) / np.maximum(sigma[at], floor)
    return result


def variability_score(
    measured: Mapping[str, Floats],
    brightness: Floats | None = None,
    *,
    neighbours: int = _NEIGHBOURS,
    fewest_points: int = FEWEST_POINTS,
) -> Double:
    """Join scatter and smoothness into one number.

    The score is ``hypot(max(a, 0), max(b, 0))`` with a the `excess` of ``trimmed_chi2`` and b that
    of ``inverse_eta``. The first finds whatever leaves the mean by more than its errors twice or
    more: transients and eclipses (few points) as well as pulsation. The second finds slow changes,
    such as those of active galaxies, within the errors of single points.

    Parameters
    ----------
    measured
        Of one type, from `statistics`, each of shape (object,).
    brightness
        Shape (object,); the median flux if None.
    neighbours
        See `excess`.
    fewest_points
        Lightcurves with fewer good points get NaN.

    Returns
    -------
    ndarray of float64
        Shape (object,), 0 or more, in units of the scatter among constant objects.
    """
    level = measured["median"] if brightness is None else brightness
    enough = measured["n"] >= fewest_points
    scatter, smooth = (
        excess(np.where(enough, measured[name], np.nan), level, neighbours=neighbours)
        for name in ("trimmed_chi2", "inverse_eta")
    )
    score = np.hypot(np.fmax(scatter, 0), np.fmax(smooth, 0))
    return np.where(enough & (np.isfinite(scatter) | np.isfinite(smooth)), score, np.nan)


def most_variable(
    measured: Mapping[str, Floats],
    brightness: Floats | None = None,
    *,
    count: int = 20,
    usable: Mask | None = None,
    neighbours: int = _NEIGHBOURS,
) -> NDArray[np.intp]:
    """Rank objects by `variability_score`.

    Parameters
    ----------
    measured, brightness, neighbours
        See `variability_score`.
    count
        How many at most.
    usable
        Objects to choose from, shape (object,): bright ones, isolated ones. The others still serve
        for comparison.

    Returns
    -------
    ndarray of int
        Rows, the most variable first; objects without a score are left out.
    """
    score = variability_score(measured, brightness, neighbours=neighbours)
    known = np.isfinite(score) if usable is None else np.isfinite(score) & usable
    rows = np.flatnonzero(known)
    return rows[np.argsort(-score[rows], kind="stable")][:count]
