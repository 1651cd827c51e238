"""Find the integers behind floating-point pixels whose BSCALE and BZERO are lost.

Earlier stores kept what astropy makes of an image, float32(BZERO + BSCALE disk), and lost the two
numbers. The values lie on a lattice, so that BSCALE is its step; and since astropy computes in
single precision, the roundings tell BZERO too. What is found is believed only if it gives back
every value bit for bit. Nothing is lost then, and nothing else is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BLANK", "Integers", "find_integers"]

BLANK = 32767
"""The integer of pixels without a value, in every image of the survey (ZBLANK)."""

_LOWEST, _HIGHEST = -32768, BLANK - 1
_FEWEST = 64  # different values: fewer could lie on many lattices
_SAMPLE = 48
_OFFSETS_AT_ONCE = 4096
_NEAR = 2  # single-precision numbers on either side of the one that was estimated
_ULPS = 4.0


@dataclass(frozen=True, eq=False)
class Integers:
    """Pixels as integers, which give back the floating-point values bit for bit.

    Attributes
    ----------
    disk
        int16, of the shape of the values; `BLANK` where they were NaN.
    bscale, bzero
        Single-precision numbers: float32(float32(bscale disk) + bzero) is the value.
    unique
        Whether no other BZERO gives the values too: then these are the integers of the survey.
    """

    disk: NDArray[np.int16]
    bscale: float
    bzero: float
    unique: bool


def find_integers(values: NDArray[np.float32]) -> Integers | None:
    """Find the integers of which astropy made these values.

    Parameters
    ----------
    values
        float32, any shape; NaN where there is no value.

    Returns
    -------
    Integers or None
        None where there are none that give back every value, as after any arithmetic on the
        pixels, or where too few values differ to tell.
    """
    import pandas as pd

    different = pd.unique(values.ravel())
    known = np.sort(different[~np.isnan(different)])
    if not _FEWEST <= len(known) <= _HIGHEST - _LOWEST + 1 or not np.isfinite(known).all():
        return None
    steps = _steps(known.astype(np.float64))
    if steps is None:
        return None
    counts, step = steps
    found = _scalings(known, counts, step)
    if not found:
        return None
    bscale, bzero = found[0]
    disk = _disk(values, bscale, bzero)
    if disk is None:
        return None
    return Integers(disk, float(bscale), float(bzero), unique=len(found) == 1)


def _steps(known: NDArray[np.float64]) -> tuple[NDArray[np.int64], float] | None:
    """Return how many steps each value lies above the first, and the step.

    The step is fitted to neighbours first, and then to ever more of the values around the densest
    place, so that it is always known well enough to count as far as it is applied.
    """
    gaps = np.diff(known)
    step = float(np.median(gaps[gaps < 1.5 * gaps.min()]))
    middle = int(np.argmin(np.convolve(gaps, np.ones(16), mode="valid"))) + 8
    reach = 16
    while True:
        low, high = max(0, middle - reach), min(len(known), middle + reach)
        part = known[low:high] - known[middle]
        counts = np.rint(part / step)
        spread = counts - counts.mean()
        if not spread.any():
            return None
        step = float((spread * (part - part.mean())).sum() / (spread**2).sum())
        if high - low == len(known):
            break
        reach *= 2
    counts = np.rint((known - known[middle]) / step)
    left = (known - known[middle]) - counts * step
    noise = _ULPS * float(np.spacing(np.float32(np.abs(known).max())))
    if np.ptp(left) > 2 * noise + 1e-3 * step or np.any(np.diff(counts) < 1):
        return None
    return (counts - counts[0]).astype(np.int64), step


def _scalings(
    known: NDArray[np.float32], counts: NDArray[np.int64], step: float
) -> list[tuple[np.float32, np.float32]]:
    """Return pairs of BSCALE and BZERO that give all values: the one there is, or the first two."""
    span = int(counts[-1])
    if span > _HIGHEST - _LOWEST:
        return []
    chosen = np.unique(np.linspace(0, len(known) - 1, _SAMPLE).astype(np.int64))
    sample, places = known[chosen], counts[chosen]
    middle = float(known.astype(np.float64).mean())
    level = float(counts.mean())
    found: list[tuple[np.float32, np.float32]] = []
    for bscale in _around(np.float32(step)):
        for first in range(_LOWEST, _HIGHEST - span + 1, _OFFSETS_AT_ONCE):
            last = min(first + _OFFSETS_AT_ONCE, _HIGHEST - span + 1)
            offsets = np.arange(first, last)
            guess = (middle - float(bscale) * (level + offsets)).astype(np.float32)
            made = (places[None, :] + offsets[:, None]).astype(np.float32) * bscale
            for bzero in _around(guess):
                fits = (made + bzero[:, None] == sample).all(axis=1)
                for k in np.flatnonzero(fits):
                    whole = (counts + offsets[k]).astype(np.float32) * bscale + bzero[k]
                    if np.array_equal(whole, known):
                        found.append((bscale, bzero[k]))
                        if len(found) > 1:
                            return found
    return found


def _around(value: Any) -> list[Any]:
    """Return a single-precision number and its neighbours, the nearest first."""
    made = [value]
    low = high = value
    for _ in range(_NEAR):
        low = np.nextafter(low, np.float32(-np.inf))
        high = np.nextafter(high, np.float32(np.inf))
        made += [low, high]
    return made


def _disk(
    values: NDArray[np.float32], bscale: np.float32, bzero: np.float32
) -> NDArray[np.int16] | None:
    """Return the integers of all pixels; None unless they give every value back."""
    disk = np.full(values.shape, BLANK, dtype=np.int16)
    for row in range(values.shape[0]):
        part = values[row]
        known = ~np.isnan(part)
        counts = np.rint((part[known].astype(np.float64) - float(bzero)) / float(bscale))
        if not np.array_equal(counts.astype(np.float32) * bscale + bzero, part[known]):
            return None
        if counts.size and not _LOWEST <= counts.min() <= counts.max() <= _HIGHEST:
            return None
        disk[row][known] = counts.astype(np.int16)
    return disk
