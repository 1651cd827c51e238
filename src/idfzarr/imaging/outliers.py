"""Which outliers of a stack are cosmic rays, and which are objects that changed.

An outlier is a pixel of one AOR that is far from the median of all. It is kept where it looks like
an object, and then in the whole of that object's light:

- its peak is not sharper than the PSF: the light two pixels from the peak, relative to the peak, is
  at least half of what the stars of the field have there, on average and on its dim sides too (a
  track has two bright sides and two dark ones);
- an excess is seen again, within a pixel of the place and a factor of ten in strength, in another
  AOR: a cosmic ray strikes once. A deficit need not be seen twice, since nothing but an object
  that faded leaves a deficit of the PSF's shape.

Everything else is dropped. Around a strong hit its eight neighbours are dropped too, whatever their
value: a resampled cosmic ray has wings below the limit.

The verdict does not depend on how the field was cut into strips: a row is judged when all rows
that could speak for it have been seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

Single: TypeAlias = "NDArray[np.float32]"
Mask: TypeAlias = "NDArray[np.bool_]"
Integers: TypeAlias = "NDArray[np.int64]"

__all__ = ["Judge", "Residuals", "Sharpness", "Verdict", "measure_sharpness"]

# The twelve pixels at distances of 2 and sqrt(5): at the nominal 0.6 arcsec a resampled cosmic ray
# (one native pixel of 1.22 arcsec) has faded to nothing there, and a star still has a third.
_RING = tuple((i, j) for i in range(-2, 3) for j in range(-2, 3) if i * i + j * j in {4, 5})
_RING_RADIUS_SQUARED = (4 * 4 + 8 * 5) / 12
_NEIGHBOURS = tuple((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0))
_DIM = 2  # index of the third dimmest pixel of the ring
_RING_NOISE = 0.35  # one sigma of the ring's mean, in a pixel's: its noise is correlated
_DIM_NOISE = 1.0  # of its dim side, which noise makes dimmer
_DEFAULT_RATIO = 0.1  # of a Gaussian of 2.5 px: where the field shows no star to measure
_STAR_SNR = 30.0
_SAME_PLACE = 1.0  # pixels: error of the centre of a 3-sigma peak, twice
_SAME_STRENGTH = 10.0  # factor between two AORs
_STRONG = 2.0  # times the limit: from there on a hit has wings worth dropping
_REACH = 12  # pixels: farthest that a kept object's light is followed
_APART = 1.0e4  # puts AORs and signs out of each other's reach in a tree


@dataclass(frozen=True)
class Sharpness:
    """How sharp the stars of a field are.

    Parameters
    ----------
    ratio
        Mean light two pixels from the peak, relative to the peak.
    dim
        The same of the third dimmest of the twelve pixels there.
    n_stars
        Stars it was measured on; 0 where it is a default.
    """

    ratio: float
    dim: float
    n_stars: int

    @property
    def half_width(self) -> float:
        """Half width at half maximum of the Gaussian of that ratio, pixels."""
        clamped = min(max(self.ratio, 0.01), 0.8)
        return float(1.1774 * np.sqrt(_RING_RADIUS_SQUARED / (-2.0 * np.log(clamped))))


def measure_sharpness(image: Single, noise: float) -> Sharpness:
    """Measure how sharp the stars of an image are.

    Parameters
    ----------
    image
        (y, x), sky removed, NaN where there is no value.
    noise
        One standard deviation of a pixel.

    Returns
    -------
    Sharpness
        The lower quartile over all bright peaks (galaxies are blunter than stars), or a default
        where fewer than three stand out by 30 times the noise.
    """
    ny, nx = image.shape
    unknown = Sharpness(_DEFAULT_RATIO, 0.0, 0)
    if not (np.isfinite(noise) and noise > 0) or min(ny, nx) < 7:
        return unknown
    filled = np.where(np.isfinite(image), image, np.float32(0.0))
    peaks = (filled > _STAR_SNR * noise) & (filled == ndimage.maximum_filter(filled, size=7))
    y, x = np.nonzero(peaks[3:-3, 3:-3])
    y, x = y + 3, x + 3
    ring = np.stack([image[y + i, x + j] for i, j in _RING]) / image[y, x]
    ring = np.sort(ring[:, np.isfinite(ring).all(axis=0)], axis=0)
    if ring.shape[1] < 3:
        return unknown
    ratio, dim = np.clip(np.quantile([ring.mean(axis=0), ring[_DIM]], 0.25, axis=1), 0.0, 0.8)
    return Sharpness(float(ratio), float(dim), int(ring.shape[1]))


@dataclass(frozen=True)
class Residuals:
    """One strip of all AORs minus the median, and its outliers.

    Parameters
    ----------
    residual, weight
        (aor, rows + 2 halo, nx + 2 halo); NaN and 0 where there is no value.
    at
        AOR, row and column of every outlier, without halo.
    strength
        How far each is from the median, in units of the limit: 1 or more.
    y0
        The field's row of the first row without halo.
    halo
        Pixels of margin on every side, at least 2.
    """

    residual: Single
    weight: Single
    at: tuple[Integers, Integers, Integers]
    strength: Single
    y0: int
    halo: int


@dataclass(frozen=True)
class Verdict:
    """Values to drop from the sums, each once, in the order of AOR, row and column.

    Parameters
    ----------
    y, x
        Pixels of the field.
    residual, weight
        What was added for them.
    """

    y: Integers
    x: Integers
    residual: Single
    weight: Single


# A value that may have to be dropped, and the outlier that decides: itself, or a strong neighbour.
_CASE = np.dtype(
    [
        ("aor", "i4"),
        ("y", "i4"),
        ("x", "i4"),
        ("residual", "f4"),
        ("weight", "f4"),
        ("own", "?"),
        ("by_y", "i4"),
        ("by_x", "i4"),
        ("by_residual", "f4"),
    ]
)
_PEAK = np.dtype([("aor", "i4"), ("y", "f8"), ("x", "f8"), ("residual", "f4"), ("strength", "f4")])


class Judge:
    """Collect outliers strip by strip, from the first row to the last, and judge them.

    Parameters
    ----------
    sharpness
        Of the field's stars.
    clip
        The limit in standard deviations that `Residuals.strength` is measured in.
    """

    def __init__(self, sharpness: Sharpness, *, clip: float) -> None:
        self._sharpness = sharpness
        self._clip = clip
        self._cases = np.empty(0, dtype=_CASE)
        self._peaks = np.empty(0, dtype=_PEAK)

    def add(self, strip: Residuals) -> None:
        """Take in the outliers of the next strip."""
        self._cases = np.concatenate([self._cases, _own_cases(strip), _neighbour_cases(strip)])
        self._peaks = np.concatenate([self._peaks, self._object_like(strip)])

    def settle(self, seen: int | None) -> Verdict:
        """Judge every row that all evidence is in for.

        Parameters
        ----------
        seen
            Rows before this one have been added; None when all have.

        Returns
        -------
        Verdict
            What to drop, of rows not judged before.
        """
        ready = np.ones(self._cases.size, dtype=bool)
        if seen is not None:
            # The deciding outlier is a row away at most, its peak the reach farther, and that
            # peak's counterpart in another AOR some pixels more.
            until = seen - _REACH - 4
            ready = self._cases["y"] < until
        verdict = self._judge(self._cases[ready])
        self._cases = self._cases[~ready]
        if seen is not None:
            self._peaks = self._peaks[self._peaks["y"] >= until - _REACH - 4]
        return verdict

    def _object_like(self, strip: Residuals) -> NDArray[np.void]:
        """Pick the outliers that are peaks and not sharper than a star."""
        aor, y, x = strip.at
        value = _value(strip, 0, 0)
        sign = np.where(value < 0, np.float32(-1.0), np.float32(1.0))
        height = value * sign
        around = {at: np.nan_to_num(_value(strip, *at) * sign) for at in _NEIGHBOURS}
        peak = np.all([height >= other for other in around.values()], axis=0)
        ring = np.stack([_value(strip, *at)[peak] * sign[peak] for at in _RING])
        ring = np.sort(ring, axis=0) / height[peak]  # NaN goes last
        known = np.count_nonzero(np.isfinite(ring), axis=0)
        mean = np.nansum(ring, axis=0) / np.maximum(known, 1)
        noise = 1.0 / (self._clip * strip.strength[peak])
        blunt = mean >= 0.5 * self._sharpness.ratio - _RING_NOISE * noise
        blunt &= ring[_DIM] >= 0.5 * self._sharpness.dim - _DIM_NOISE * noise
        blunt &= known >= len(_RING) // 2
        chosen = np.flatnonzero(peak)[blunt]
        found = np.empty(chosen.size, dtype=_PEAK)
        positive = {at: np.maximum(other[chosen], 0.0) for at, other in around.items()}
        total = height[chosen] + np.sum(list(positive.values()), axis=0)
        found["aor"] = aor[chosen]
        found["y"] = y[chosen] + strip.y0 + sum(i * p for (i, _), p in positive.items()) / total
        found["x"] = x[chosen] + sum(j * p for (_, j), p in positive.items()) / total
        found["residual"] = value[chosen]
        found["strength"] = strip.strength[chosen]
        return found

    def _judge(self, cases: NDArray[np.void]) -> Verdict:
        """Drop a value whose deciding outlier does not belong to an object."""
        dropped = ~self._kept(cases)
        # The same value may stand there for itself and for several neighbours. Its own case goes
        # first; without one, any neighbour that is dropped takes it along.
        order = np.lexsort((~dropped, ~cases["own"], cases["x"], cases["y"], cases["aor"]))
        ordered = cases[order]
        first = np.ones(order.size, dtype=bool)
        same = np.ones(max(order.size - 1, 0), dtype=bool)
        for name in ("aor", "y", "x"):
            same &= ordered[name][1:] == ordered[name][:-1]
        first[1:] = ~same
        out = ordered[first & dropped[order]]
        return Verdict(
            y=out["y"].astype(np.int64),
            x=out["x"].astype(np.int64),
            residual=out["residual"],
            weight=out["weight"],
        )

    def _kept(self, cases: NDArray[np.void]) -> Mask:
        """Tell which deciding outliers lie in the light of an object."""
        kept = np.zeros(cases.size, dtype=bool)
        objects = self._peaks[_repeated(self._peaks) | (self._peaks["residual"] < 0)]
        if not cases.size or not objects.size:
            return kept
        tree = cKDTree(_places(objects["aor"], objects["residual"], objects["y"], objects["x"]))
        wanted = _places(cases["aor"], cases["by_residual"], cases["by_y"], cases["by_x"])
        near = min(4, objects.size)
        distance, which = tree.query(wanted, k=near, distance_upper_bound=_REACH + 0.5)
        distance, which = distance.reshape(-1, near), which.reshape(-1, near)
        # The wings of the IRAC PSF fall with about the third power of the distance.
        reach = 1.5 + self._sharpness.half_width * np.cbrt(objects["strength"])
        reach, height = np.minimum(reach, _REACH), np.abs(objects["residual"])
        for column in range(near):
            there = np.isfinite(distance[:, column])
            who = which[there, column]
            apart = distance[there, column]
            # Far looser than any PSF, but a track goes on as bright as it began.
            share = np.minimum(
                (1.5 * self._sharpness.half_width / np.maximum(apart, 1.0)) ** 2, 1.0
            )
            below = np.abs(cases["by_residual"][there]) <= share * height[who]
            kept[there] |= below & (apart <= reach[who])
        return kept


def _value(strip: Residuals, dy: int, dx: int) -> Single:
    """Look up the residual at an offset from every outlier."""
    aor, y, x = strip.at
    found: Single = strip.residual[aor, y + strip.halo + dy, x + strip.halo + dx]
    return found


def _own_cases(strip: Residuals) -> NDArray[np.void]:
    """Make a case of every outlier."""
    aor, y, x = strip.at
    cases = np.empty(aor.size, dtype=_CASE)
    cases["aor"], cases["y"], cases["x"] = aor, y + strip.y0, x
    cases["residual"] = _value(strip, 0, 0)
    cases["weight"] = strip.weight[aor, y + strip.halo, x + strip.halo]
    cases["own"] = True
    cases["by_y"], cases["by_x"] = cases["y"], cases["x"]
    cases["by_residual"] = cases["residual"]
    return cases


def _neighbour_cases(strip: Residuals) -> NDArray[np.void]:
    """Make a case of every pixel around a strong outlier."""
    aor, y, x = (index[strip.strength >= _STRONG] for index in strip.at)
    by = strip.residual[aor, y + strip.halo, x + strip.halo]
    found = []
    for dy, dx in _NEIGHBOURS:
        cases = np.empty(aor.size, dtype=_CASE)
        cases["aor"], cases["y"], cases["x"] = aor, y + strip.y0 + dy, x + dx
        cases["residual"] = strip.residual[aor, y + strip.halo + dy, x + strip.halo + dx]
        cases["weight"] = strip.weight[aor, y + strip.halo + dy, x + strip.halo + dx]
        cases["own"] = False
        cases["by_y"], cases["by_x"] = y + strip.y0, x
        cases["by_residual"] = by
        found.append(cases[cases["weight"] > 0])
    return np.concatenate(found)


def _places(
    aor: NDArray[np.int32], residual: Single, y: NDArray[np.generic], x: NDArray[np.generic]
) -> NDArray[np.float64]:
    """Put values of different AORs or signs out of each other's reach."""
    apart = _APART * (2.0 * aor + (residual > 0))
    return np.stack([apart, y.astype(np.float64), x.astype(np.float64)], axis=1)


def _repeated(peaks: NDArray[np.void]) -> Mask:
    """Tell which peaks stand, alike in sign and strength, within a pixel of another AOR's."""
    if peaks.size < 2:
        return np.zeros(peaks.size, dtype=bool)
    apart = _APART * (peaks["residual"] > 0)
    # One unit of this axis is the factor allowed.
    strength = np.log(np.abs(peaks["residual"])) / np.log(_SAME_STRENGTH) * _SAME_PLACE
    places = np.stack([apart, strength, peaks["y"], peaks["x"]], axis=1)
    # Two peaks of one AOR are never this close: the second nearest is another AOR's.
    found: Mask = np.isfinite(
        cKDTree(places).query(places, k=2, p=np.inf, distance_upper_bound=_SAME_PLACE)[0][:, 1]
    )
    return found
