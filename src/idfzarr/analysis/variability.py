"""Variability statistics of many lightcurves at once, and a ranking by them.

`STATISTICS` is the registry: name, unit, definition and source of each statistic, from which the
attributes of the store's ``variability/`` group and every table are made. `statistics` computes all
of them for rows of lightcurves; measurements that are not good, and NaN, do not count.

No statistic means much by itself, since every error bar is somewhat wrong and in its own way at
each brightness. `excess` therefore compares each object with objects of its own brightness, as
Sokolovsky et al. 2017 (MNRAS 464, 274) advise, who find that a measure of scatter (IQR) together
with a measure of smoothness (1/eta) recovers most variables. `variability_score` joins the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

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
    "variability_score",
]

FEWEST_POINTS = 5
"""Lightcurves with fewer good points are not ranked."""

_MAD_TO_SIGMA = 1.482602218505602
_TRIMMED = 0.01
_BLOCK = 1_000_000  # measurements worked on at a time: some 100 MB of temporaries
_NEIGHBOURS = 51


@dataclass(frozen=True)
class StatisticDefinition:
    """One statistic of a lightcurve.

    Parameters
    ----------
    name
        As in the store.
    unit
        ``flux`` stands for the unit of the lightcurve's type.
    definition
        What it is, in a line.
    reference
        Where the definition is from.
    """

    name: str
    unit: str
    definition: str
    reference: str


_SOKOLOVSKY = "Sokolovsky et al. 2017, MNRAS 464, 274, section 2"

STATISTICS: tuple[StatisticDefinition, ...] = (
    StatisticDefinition("n", "1", "number of good measurements", "this package"),
    StatisticDefinition("median", "flux", "median flux", "this package"),
    StatisticDefinition("median_err", "flux", "median of flux_err", "this package"),
    StatisticDefinition(
        "robust_scatter",
        "flux",
        "1.4826 x median absolute deviation from the median",
        f"{_SOKOLOVSKY}.4 (MAD)",
    ),
    StatisticDefinition(
        "iqr", "flux", "third minus first quartile, linearly interpolated", f"{_SOKOLOVSKY}.5 (IQR)"
    ),
    StatisticDefinition(
        "weighted_mean", "flux", "mean with weights 1/flux_err**2", f"{_SOKOLOVSKY}.1, equation 2"
    ),
    StatisticDefinition(
        "reduced_chi2",
        "1",
        "sum(((flux - weighted_mean) / flux_err)**2) / (n - 1)",
        f"{_SOKOLOVSKY}.1, equation 1",
    ),
    StatisticDefinition(
        "trimmed_chi2",
        "1",
        "mean of ((flux - median) / flux_err)**2 without the largest 1 % of them, at least one",
        "this package: one bad point in a good lightcurve does not make a variable",
    ),
    StatisticDefinition(
        "excess_variance",
        "1",
        "(variance with ddof=1 - mean(flux_err**2)) / mean(flux)**2",
        "Nandra et al. 1997, ApJ 476, 70; Vaughan et al. 2003, MNRAS 345, 1271, equation 8",
    ),
    StatisticDefinition(
        "inverse_eta",
        "1",
        "variance with ddof=1 over the mean squared successive difference, in order of time; "
        "0.5 for white noise",
        f"von Neumann 1941, Ann. Math. Stat. 12, 367; {_SOKOLOVSKY}.15",
    ),
    StatisticDefinition(
        "max_pull",
        "1",
        "the (flux - median) / flux_err that is farthest from zero, with its sign",
        "this package",
    ),
)
"""All statistics, in the order in which they are stored."""


def statistics(
    flux: Floats,
    flux_err: Floats,
    good: Mask | None = None,
    *,
    time_order: Integers | None = None,
) -> dict[str, Single]:
    """Compute every statistic of every lightcurve.

    Parameters
    ----------
    flux, flux_err
        Rows are lightcurves, shape (lightcurve, aor).
    good
        Measurements that count, shape (lightcurve, aor); in addition flux must be finite and
        flux_err finite and positive.
    time_order
        The columns in order of time (``argsort`` of the times), shape (aor,); as they stand if
        None.

    Returns
    -------
    dict of str to ndarray of float32
        For each name in `STATISTICS` an array of shape (lightcurve,). ``n`` is 0 or more; the
        others are NaN where they are not defined: without a point, for those of scatter with one
        point, and where a division has zero for its divisor.

    Raises
    ------
    UsageError
        The arrays differ in shape, or `time_order` is no permutation of the columns.
    """
    if (
        flux.ndim != 2
        or flux_err.shape != flux.shape
        or (good is not None and good.shape != flux.shape)
    ):
        shapes = (flux.shape, flux_err.shape, None if good is None else good.shape)
        msg = f"flux, flux_err and good must have one shape (lightcurve, aor), not {shapes}"
        raise UsageError(msg)
    n_rows, n_columns = flux.shape
    if time_order is not None and not np.array_equal(np.sort(time_order), np.arange(n_columns)):
        msg = f"time_order must name each of the {n_columns} columns once"
        raise UsageError(msg)
    result = {d.name: np.full(n_rows, np.nan, dtype=np.float32) for d in STATISTICS}
    step = max(1, _BLOCK // max(1, n_columns))
    for start in range(0, n_rows, step):
        rows = slice(start, min(start + step, n_rows))
        block = _block(flux[rows], flux_err[rows], None if good is None else good[rows], time_order)
        for name, values in block.items():
            result[name][rows] = values
    return result


def _block(
    flux: Floats, flux_err: Floats, good: Mask | None, time_order: Integers | None
) -> dict[str, Double]:
    known = np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0)
    if good is not None:
        known &= good
    if time_order is not None:
        flux, flux_err, known = flux[:, time_order], flux_err[:, time_order], known[:, time_order]
    value = np.where(known, flux, 0).astype(np.float64)
    error = np.where(known, flux_err, 1).astype(np.float64)
    n = known.sum(axis=1)
    ranked = np.sort(np.where(known, value, np.inf), axis=1)
    median = _quantile(ranked, n, 0.5)
    median_err = _quantile(np.sort(np.where(known, error, np.inf), axis=1), n, 0.5)
    deviation = np.where(known, value - median[:, None], 0)
    spread = np.sort(np.where(known, np.abs(deviation), np.inf), axis=1)
    weight = np.where(known, error**-2, 0)
    weighted_mean = _divide((weight * value).sum(axis=1), weight.sum(axis=1))
    mean = _divide(value.sum(axis=1), n)
    variance = _divide(
        np.where(known, value - mean[:, None], 0) ** 2 @ np.ones(known.shape[1]), n - 1
    )
    chi2 = np.where(known, (value - weighted_mean[:, None]) ** 2 * weight, 0).sum(axis=1)
    pull = deviation / error
    several = n > 1
    return {
        "n": n.astype(np.float64),
        "median": median,
        "median_err": median_err,
        "robust_scatter": np.where(several, _MAD_TO_SIGMA * _quantile(spread, n, 0.5), np.nan),
        "iqr": np.where(several, _quantile(ranked, n, 0.75) - _quantile(ranked, n, 0.25), np.nan),
        "weighted_mean": weighted_mean,
        "reduced_chi2": _divide(chi2, n - 1),
        "trimmed_chi2": _trimmed(pull**2, known, n),
        "excess_variance": _divide(
            variance - _divide(np.where(known, error**2, 0).sum(axis=1), n), mean**2
        ),
        "inverse_eta": _divide(variance, _squared_step(value, known, n)),
        "max_pull": _farthest(pull, n),
    }


def _divide(above: Floats, below: Floats | Integers) -> Double:
    """Return above / below, NaN where `below` is not positive."""
    positive = below > 0
    return np.where(positive, above / np.where(positive, below, 1), np.nan)


def _quantile(ranked: Double, n: Integers, q: float) -> Double:
    """Return a quantile of the first n of each row, linearly interpolated (numpy's default)."""
    if not ranked.shape[1]:
        return np.full(len(ranked), np.nan)
    at = np.maximum(n - 1, 0) * q
    low = np.floor(at).astype(np.intp)
    high = np.minimum(low + 1, np.maximum(n - 1, 0))
    rows = np.arange(len(ranked))
    below = np.where(n > 0, ranked[rows, low], 0.0)
    above = np.where(n > 0, ranked[rows, high], 0.0)
    return np.where(n > 0, below + (at - low) * (above - below), np.nan)


def _trimmed(squared: Double, known: Mask, n: Integers) -> Double:
    """Return the mean of each row without the largest 1 %, at least one."""
    kept = n - np.ceil(_TRIMMED * n).astype(np.intp)
    ranked = np.sort(np.where(known, squared, np.inf), axis=1)
    inside = np.arange(squared.shape[1]) < kept[:, None]
    return _divide(np.where(inside, ranked, 0).sum(axis=1), np.where(n > 1, kept, 0))


def _squared_step(value: Double, known: Mask, n: Integers) -> Double:
    """Return the mean squared difference of successive known values of each row."""
    # known values moved to the front of each row, in their order
    packed = np.take_along_axis(value, np.argsort(~known, axis=1, kind="stable"), axis=1)
    pairs = np.arange(1, max(1, value.shape[1])) < n[:, None]
    return _divide(np.where(pairs, np.diff(packed, axis=1) ** 2, 0).sum(axis=1), n - 1)


def _farthest(pull: Double, n: Integers) -> Double:
    if not pull.shape[1]:
        return np.full(len(pull), np.nan)
    at = np.argmax(np.abs(pull), axis=1)
    return np.where(n > 0, pull[np.arange(len(pull)), at], np.nan)


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
