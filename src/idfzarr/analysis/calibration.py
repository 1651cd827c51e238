"""Ensemble zero points: what an AOR does to all stars alike, taken out by the stars themselves.

For one measurement type, with instrumental magnitudes ``m_ij = -2.5 log10 flux_ij`` of comparison
star i in AOR j, the zero point of AOR j is

    ``dz_j = weighted median over i of (m_ij - mean_i)``

and a calibrated flux is ``flux * 10**(0.4 dz_j)``. The means and the zero points are found in turn;
stars that vary are dropped on the way (Honeycutt 1992, PASP 104, 435, for the ensemble; the median
and the dropping by scatter and 1/eta after Sokolovsky et al. 2017, MNRAS 464, 274, section 2).
The zero points have median zero over the AORs: calibrated fluxes are those of a middling AOR.

The comparison stars and their means are part of the result. `frozen_zeropoint` calibrates AORs that
come later by these very numbers, so what was calibrated before stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.flags import BAD_FLAGS
from idfzarr.imaging.robust import median_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]
    Integers: TypeAlias = NDArray[np.integer[Any]]

__all__ = [
    "FEWEST_STARS",
    "Comparison",
    "ZeroPoints",
    "apply_zeropoint",
    "choose_comparison",
    "ensemble_zeropoint",
    "frozen_zeropoint",
    "suspect_aors",
]

FEWEST_STARS = 3
"""With fewer comparison stars an AOR gets no zero point: a variable among two would pass for it."""

_SIGNAL_TO_NOISE_STEPS = (50.0, 30.0, 20.0, 10.0, 5.0)
_FLOOR = 0.003  # mag; no single bright star may outvote the others
_PERCENTILE = 70.0
_SOLVE_STEPS = 10
_SOLVED = 1e-5  # mag
_MAD_TO_SIGMA = 1.482602218505602
_MEDIAN_LOSS = math.sqrt(math.pi / 2)  # the median's error over the mean's, for normal errors
_POGSON = 2.5 / math.log(10)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Stars that may calibrate.

    Parameters
    ----------
    rows
        Their positions in the arrays given, brightest (by S/N) first, shape (n,).
    signal_to_noise
        The threshold they pass; 0 where none could be met and all candidates were taken.
    isolated
        Whether all of them are isolated; False where too few were.
    """

    rows: NDArray[np.intp]
    signal_to_noise: float
    isolated: bool


def choose_comparison(
    signal_to_noise: Floats,
    *,
    isolated: Mask,
    usable: Mask | None = None,
    wanted: int = 20,
    most: int = 500,
) -> Comparison:
    """Choose comparison stars by what is known before any zero point.

    Parameters
    ----------
    signal_to_noise
        S/N of each object in a single AOR, for example the median of flux / flux_err, shape
        (object,); NaN where it was never measured.
    isolated
        Objects without a neighbour in the aperture, shape (object,).
    usable
        Objects that may be used at all (not saturated, not at an edge), shape (object,).
    wanted
        The threshold goes down in steps, from S/N 50 to 5, until so many stars pass.
    most
        At most so many are taken, the brightest.

    Returns
    -------
    Comparison
        Rows and the threshold that was used. Isolation is given up only where fewer than three
        isolated objects reach S/N 5.

    Raises
    ------
    UsageError
        The arrays differ in length.
    """
    shapes = {signal_to_noise.shape, isolated.shape, *(() if usable is None else (usable.shape,))}
    if len(shapes) != 1:
        msg = f"signal_to_noise, isolated and usable must have one length, not {sorted(shapes)}"
        raise UsageError(msg)
    known = np.isfinite(signal_to_noise) & (signal_to_noise > 0)
    if usable is not None:
        known &= usable
    ratio = np.where(known, signal_to_noise, 0)
    for candidates, alone in ((known & isolated, True), (known, False)):
        for threshold in _SIGNAL_TO_NOISE_STEPS:
            passed = candidates & (ratio > threshold)
            n_passed = int(passed.sum())
            last = threshold == _SIGNAL_TO_NOISE_STEPS[-1]
            if n_passed >= wanted or (last and n_passed >= FEWEST_STARS):
                return Comparison(_brightest(passed, ratio, most), threshold, isolated=alone)
    return Comparison(_brightest(known, ratio, most), 0.0, isolated=False)


def _brightest(passed: Mask, ratio: Floats, most: int) -> NDArray[np.intp]:
    rows = np.flatnonzero(passed)
    return rows[np.argsort(-ratio[rows], kind="stable")][:most]


@dataclass(frozen=True, eq=False)
class ZeroPoints:
    """Zero points of the AORs in one measurement type.

    Parameters
    ----------
    zeropoint
        Magnitudes by which the AOR is too faint, shape (aor,); 0 where there are fewer than
        `FEWEST_STARS` comparison stars.
    zeropoint_err
        Their standard errors in magnitudes, shape (aor,). Where an AOR has too few stars while
        others have enough, the scatter of the others, since its zero point may be any of theirs.
        Where no AOR has enough, 0: nothing was applied, and `n_stars` says why. Never NaN.
    n_stars
        Comparison stars that were measured in the AOR, shape (aor,).
    comparison
        Which objects are comparison stars, shape (object,).
    mean_flux
        The mean flux of each comparison star as a middling AOR measures it, shape (object,), in
        float64; NaN for other objects.
    scatter
        Robust scatter of the comparison stars about their means after calibration, in magnitudes,
        median over the stars; NaN without any.
    """

    zeropoint: Double
    zeropoint_err: Double
    n_stars: NDArray[np.int64]
    comparison: Mask
    mean_flux: Double
    scatter: float


def ensemble_zeropoint(
    flux: Floats,
    flux_err: Floats,
    flag: Integers | None = None,
    *,
    usable: Mask | None = None,
    rounds: int = 5,
    bad_flags: int = BAD_FLAGS,
    percentile: float = _PERCENTILE,
) -> ZeroPoints:
    """Find zero points and the constant stars that define them.

    Parameters
    ----------
    flux, flux_err
        Of the candidates, shape (object, aor), any unit; see `choose_comparison`.
    flag
        Flags, shape (object, aor).
    usable
        Which objects may be comparison stars, shape (object,); all if None.
    rounds
        How many times variable stars are looked for and dropped.
    bad_flags
        Measurements with any of these bits are not used.
    percentile
        In each round, stars whose scatter over the expected one, or whose 1/eta, is above this
        percentile are dropped, if they also exceed the median by three robust sigma; so a clean
        ensemble keeps its stars.

    Returns
    -------
    ZeroPoints
        Per AOR, with the comparison stars.

    Raises
    ------
    UsageError
        The arrays differ in shape.
    """
    magnitude, error = _magnitudes(flux, flux_err, flag, bad_flags)
    comparison = np.ones(len(flux), dtype=bool) if usable is None else usable.astype(bool)
    if comparison.shape != (len(flux),):
        msg = f"usable must have one entry per object, {len(flux)}, not shape {comparison.shape}"
        raise UsageError(msg)
    # a star seen in less than half of the AORs has an uncertain mean
    seen = np.isfinite(magnitude).sum(axis=1)
    often = comparison & (seen > 0.5 * flux.shape[1])
    comparison = often if often.sum() >= FEWEST_STARS else comparison & (seen > 0)
    weight = np.where(np.isfinite(magnitude), 1 / (error**2 + _FLOOR**2), 0.0)
    for round_ in range(max(1, rounds)):
        mean, shift = _solve(magnitude, weight, comparison)
        if round_ + 1 == max(1, rounds):
            break
        kept = _constant(magnitude - mean[:, None] - shift, error, comparison, percentile)
        if kept.sum() < FEWEST_STARS or np.array_equal(kept, comparison):
            break
        comparison = kept
    mean, _ = _solve(magnitude, weight, comparison)
    mean_flux = 10 ** (-0.4 * mean)
    return _apply(magnitude, weight, comparison, mean_flux)


def frozen_zeropoint(
    flux: Floats,
    flux_err: Floats,
    flag: Integers | None = None,
    *,
    comparison: Mask,
    mean_flux: Floats,
    bad_flags: int = BAD_FLAGS,
    spread: float | None = None,
) -> ZeroPoints:
    """Find the zero points of new AORs from comparison stars that are fixed already.

    Parameters
    ----------
    flux, flux_err
        Of the same objects in the new AORs, shape (object, aor).
    flag
        Flags, shape (object, aor).
    comparison, mean_flux
        From the `ZeroPoints` of the AORs before, shape (object,).
    bad_flags
        Measurements with any of these bits are not used.
    spread
        Error in magnitudes for AORs with too few stars: the scatter of all zero points there are.
        Taken from the new AORs themselves if None.

    Returns
    -------
    ZeroPoints
        Given the AORs that the means were made from, the very numbers they have.

    Raises
    ------
    UsageError
        The arrays differ in shape.
    """
    if comparison.shape != (len(flux),) or mean_flux.shape != (len(flux),):
        msg = (
            f"comparison and mean_flux must have one entry per object, {len(flux)}, not shapes "
            f"{comparison.shape} and {mean_flux.shape}"
        )
        raise UsageError(msg)
    magnitude, error = _magnitudes(flux, flux_err, flag, bad_flags)
    weight = np.where(np.isfinite(magnitude), 1 / (error**2 + _FLOOR**2), 0.0)
    return _apply(magnitude, weight, comparison, mean_flux.astype(np.float64), spread=spread)


def apply_zeropoint(flux: Floats, zeropoint: Floats) -> Double:
    """Return calibrated fluxes (or errors).

    Parameters
    ----------
    flux
        Shape (..., aor).
    zeropoint
        In magnitudes, shape (aor,).

    Returns
    -------
    ndarray of float64
        ``flux * 10**(0.4 zeropoint)``.
    """
    return np.asarray(flux, dtype=np.float64) * 10 ** (
        0.4 * np.asarray(zeropoint, dtype=np.float64)
    )


def suspect_aors(zeropoints: ZeroPoints, *, limit: float = 0.3, error_limit: float = 0.1) -> Mask:
    """Say which AORs are off, for the flag ``aor_bad``.

    Parameters
    ----------
    zeropoints
        Of one type; an aperture of middling size tells most.
    limit
        Zero points farther from zero than this, in magnitudes, are off: clouds, a lost guide star,
        a wrong exposure time.
    error_limit
        So are those whose comparison stars agree no better than this, in magnitudes.

    Returns
    -------
    ndarray of bool
        Shape (aor,). AORs with too few comparison stars are not judged.
    """
    known = zeropoints.n_stars >= FEWEST_STARS
    far = np.abs(zeropoints.zeropoint) > limit
    return known & (far | (zeropoints.zeropoint_err > error_limit))


def _magnitudes(
    flux: Floats, flux_err: Floats, flag: Integers | None, bad_flags: int
) -> tuple[Double, Double]:
    """Return magnitudes and errors, NaN where a measurement cannot calibrate."""
    if (
        flux.ndim != 2
        or flux_err.shape != flux.shape
        or (flag is not None and flag.shape != flux.shape)
    ):
        shapes = (flux.shape, flux_err.shape, None if flag is None else flag.shape)
        msg = f"flux, flux_err and flag must have one shape (object, aor), not {shapes}"
        raise UsageError(msg)
    good = np.isfinite(flux) & (flux > 0) & np.isfinite(flux_err) & (flux_err > 0)
    if flag is not None:
        good &= (flag.astype(np.int64) & bad_flags) == 0
    # a magnitude from a measurement at 2 sigma is biased, and its error is not normal
    good &= np.where(good, flux, 0) > 3 * np.where(good, flux_err, 1)
    level = np.where(good, flux, 1).astype(np.float64)
    magnitude = np.where(good, -2.5 * np.log10(level), np.nan)
    error = np.where(good, _POGSON * np.where(good, flux_err, 0) / level, np.nan)
    return magnitude, error


def _solve(magnitude: Double, weight: Double, comparison: Mask) -> tuple[Double, Double]:
    """Find means (object,) and shifts (aor,) in turn; shifts have median zero."""
    inside = weight[comparison]
    filled = np.where(inside > 0, magnitude[comparison], 0.0)
    shift = np.zeros(magnitude.shape[1])
    for _ in range(_SOLVE_STEPS):
        # along one star the errors hardly differ, and a median resists hits
        mean = _median(filled - shift, inside > 0)
        new = _weighted_median(filled - mean[:, None], inside)
        measured = inside.sum(axis=0) > 0
        if measured.any():
            new = np.where(measured, new - np.median(new[measured]), 0.0)
        moved = float(np.abs(new - shift).max(initial=0.0))
        shift = new
        if moved < _SOLVED:
            break
    means = np.full(len(magnitude), np.nan)
    means[comparison] = _median(filled - shift, inside > 0)
    return means, shift


def _apply(
    magnitude: Double,
    weight: Double,
    comparison: Mask,
    mean_flux: Double,
    *,
    spread: float | None = None,
) -> ZeroPoints:
    """Take the zero points of given means."""
    known = comparison & np.isfinite(mean_flux) & (mean_flux > 0)
    mean = -2.5 * np.log10(mean_flux[known])
    inside = weight[known]
    rest = np.where(inside > 0, magnitude[known] - mean[:, None], 0.0)
    n_stars = (inside > 0).sum(axis=0)
    enough = n_stars >= FEWEST_STARS
    zeropoint = np.where(enough, _weighted_median(rest, inside), 0.0)
    about = np.where(inside > 0, rest - zeropoint, 0.0)
    width = _MAD_TO_SIGMA * _weighted_median(np.abs(about), inside)
    squared = inside.sum(axis=0) ** 2
    n_effective = squared / np.where(enough, (inside**2).sum(axis=0), 1.0)
    error = _MEDIAN_LOSS * width / np.sqrt(np.where(enough, n_effective, 1.0))
    if spread is None:
        others = zeropoint[enough]
        spread = _MAD_TO_SIGMA * float(np.median(np.abs(others))) if others.size else 0.0
    scatter = _MAD_TO_SIGMA * _median(np.abs(about), inside > 0)
    return ZeroPoints(
        zeropoint=zeropoint,
        zeropoint_err=np.where(enough, error, spread),
        n_stars=n_stars.astype(np.int64),
        comparison=known,
        mean_flux=np.where(known, mean_flux, np.nan),
        scatter=float(np.median(scatter)) if known.any() and enough.any() else math.nan,
    )


def _constant(rest: Double, error: Double, comparison: Mask, percentile: float) -> Mask:
    """Return the comparison stars without those that vary."""
    inside = np.where(comparison[:, None], rest, np.nan)
    known = np.isfinite(inside)
    n = known.sum(axis=1)
    width = _MAD_TO_SIGMA * _median(np.abs(np.where(known, inside, 0.0)), known)
    expected = np.sqrt(_median(np.where(known, error**2, 0.0), known) + _FLOOR**2)
    excess = np.log(np.maximum(width / expected, 1e-3))
    kept: Mask = comparison & (n > 0)
    for index in (excess, _inverse_eta(inside)):
        values = index[kept & np.isfinite(index)]
        if values.size < FEWEST_STARS:
            continue
        middle = float(np.median(values))
        sigma = _MAD_TO_SIGMA * float(np.median(np.abs(values - middle)))
        limit = max(float(np.percentile(values, percentile)), middle + 3 * sigma)
        kept &= ~(np.isfinite(index) & (index > limit))
    return kept


def _inverse_eta(rows: Double) -> Double:
    """Return 1/eta of each row, NaN aware (von Neumann 1941, Ann. Math. Stat. 12, 367)."""
    result = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        values = row[np.isfinite(row)]
        if values.size > 2:
            steps = float((np.diff(values) ** 2).mean())
            if steps > 0:
                result[i] = float(values.var(ddof=1)) / steps
    return result


def _median(values: Double, known: Mask) -> Double:
    """Return the median of the known values of each row, 0 for a row without any."""
    if not values.size:
        return np.zeros(len(values))
    return np.nan_to_num(median_rows(np.where(known, values, np.nan)), nan=0.0)


def _weighted_median(values: Double, weight: Double) -> Double:
    """Return the weighted median of each column, 0 for a column without weight.

    The middle of the values at which the running sum of weights reaches and passes one half, so
    that equal weights give the common median.
    """
    if not len(values):
        return np.zeros(values.shape[1])
    order = np.argsort(np.where(weight > 0, values, np.inf), axis=0, kind="stable")
    ranked = np.take_along_axis(values, order, axis=0)
    running = np.cumsum(np.take_along_axis(weight, order, axis=0), axis=0)
    half = 0.5 * running[-1]
    tiny = 1e-12 * running[-1]
    low = np.argmax(running >= half - tiny, axis=0)
    high = np.argmax(running > half + tiny, axis=0)
    columns = np.arange(values.shape[1])
    median = 0.5 * (ranked[low, columns] + ranked[high, columns])
    return np.where(running[-1] > 0, median, 0.0)
