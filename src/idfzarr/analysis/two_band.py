"""Statistics of a lightcurve in one channel and its partner in the other, paired by AOR.

Noise of the two channels is independent; what varies is not. Only AORs count in which both are
good, and all means are over these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.analysis.points import Ragged, divide, usable
from idfzarr.analysis.statistic_definitions import TWO_BAND_STATISTICS
from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Single: TypeAlias = NDArray[np.float32]
    Mask: TypeAlias = NDArray[np.bool_]

__all__ = ["two_band_statistics"]

_BLOCK = 80_000  # measurements worked on at a time, which stay in the processor's cache


def two_band_statistics(
    flux1: Floats,
    flux_err1: Floats,
    flux2: Floats,
    flux_err2: Floats,
    *,
    good1: Mask | None = None,
    good2: Mask | None = None,
) -> dict[str, Single]:
    """Compute Stetson's J, Welch & Stetson's I and Pearson's r of pairs of lightcurves.

    Parameters
    ----------
    flux1, flux_err1
        Of one channel, rows are lightcurves, shape (lightcurve, aor).
    flux2, flux_err2
        Of the other, of the same shape: the same objects and AORs.
    good1, good2
        Measurements that count, of that shape; in addition fluxes must be finite and errors finite
        and positive.

    Returns
    -------
    dict of str to ndarray of float32
        For each name in `TWO_BAND_STATISTICS` an array of shape (lightcurve,), NaN with fewer than
        two pairs; ``pearson_r`` also where a channel is constant.

    Raises
    ------
    UsageError
        The arrays differ in shape.
    """
    arrays = (flux1, flux_err1, flux2, flux_err2)
    shapes = [None if one is None else one.shape for one in (*arrays, good1, good2)]
    if flux1.ndim != 2 or any(shape not in {None, flux1.shape} for shape in shapes):
        msg = f"fluxes, errors and good must have one shape (lightcurve, aor), not {shapes}"
        raise UsageError(msg)
    result = {d.name: np.full(len(flux1), np.nan, dtype=np.float32) for d in TWO_BAND_STATISTICS}
    step = max(1, _BLOCK // max(1, flux1.shape[1]))
    for start in range(0, len(flux1), step):
        rows = slice(start, start + step)
        known = usable(flux1[rows], flux_err1[rows], None if good1 is None else good1[rows])
        known &= usable(flux2[rows], flux_err2[rows], None if good2 is None else good2[rows])
        n = np.count_nonzero(known, axis=1)
        inside = np.flatnonzero(n)
        if not inside.size:
            continue
        values = (one[rows].ravel()[known.ravel()] for one in arrays)
        # what is beyond single precision is infinite, and says so
        with np.errstate(over="ignore", invalid="ignore"):
            found = _of_pairs(*(v.astype(np.float64) for v in values), ragged=Ragged(n[inside]))
            for name, numbers in found.items():
                result[name][start + inside] = numbers
    return result


def _mean(value: Double, ragged: Ragged) -> Double:
    """Return the mean of each row, summed from its first value so that constants are exact."""
    first = value[ragged.starts]
    return first + ragged.total(value - ragged.spread(first)) / ragged.n


def _pull(value: Double, error: Double, ragged: Ragged) -> Double:
    """Return (value - weighted mean) / error."""
    weight = error**-2
    offset = value - ragged.spread(value[ragged.starts])
    mean = ragged.product(weight, offset) / ragged.total(weight)
    return (offset - ragged.spread(mean)) / error


def _of_pairs(
    flux1: Double, error1: Double, flux2: Double, error2: Double, *, ragged: Ragged
) -> dict[str, Double]:
    n = ragged.n.astype(np.float64)
    pairs = _pull(flux1, error1, ragged) * _pull(flux2, error2, ragged)
    roots = np.copysign(np.sqrt(np.abs(pairs)), pairs)
    # d of Stetson 1996 is the pull times sqrt(n / (n - 1)), and both of a pair carry it
    factor = np.sqrt(divide(n, n - 1))
    one, other = (flux - ragged.spread(_mean(flux, ragged)) for flux in (flux1, flux2))
    varies = np.sqrt(ragged.product(one, one)) * np.sqrt(ragged.product(other, other))
    return {
        "stetson_j2": factor * ragged.total(roots) / n,
        "welch_stetson_i": divide(ragged.total(pairs), np.sqrt(n * (n - 1))),
        "pearson_r": divide(ragged.product(one, other), np.where(ragged.n > 1, varies, 0)),
    }
