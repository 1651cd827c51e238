"""One simulated AOR in one channel: noise and hits on detector pixels, resampled onto the grid.

The frame is a square detector, turned by the roll angle and dithered. Photons and reading noise,
cosmic rays and bad pixels live on its pixels of 1.2 arcsec; bilinear interpolation onto the grid of
0.6 arcsec then makes neighbouring pixels share their noise, as in a real mosaic. The uncertainty of
a grid pixel is its true standard deviation, sqrt(sum w^2 sigma^2) over the four detector pixels it
was made from; a sum over an aperture that takes the pixels to be independent is therefore two to
three times too sure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import label, map_coordinates

from idfzarr.imaging.simulated_psf import CHANNELS, GRID_ARCSEC

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DITHERS", "EXPTIME", "Frame", "Hits", "observe"]

DITHERS = 9
"""Frames in an AOR."""

_FRAME_SECONDS = 93.6
EXPTIME = DITHERS * _FRAME_SECONDS
"""Seconds of an AOR where all its frames lie: of a frame of 100 s, IRAC integrates 93.6."""

# A square turned by 45 degrees then leaves 7 % of the grid uncovered.
_FOOTPRINT = 1.15
_DITHER_SHARE = 0.04
_BAD_SHARE = 0.002
_HOLES = 4
_HITS_PER_AOR, _USUAL_SIDE = 40.0, 512.0
_TRACK_SHARE = 0.3
_HIT_SIGMA = (12.0, 500.0)
_RECORDED_SIGMA = 3.0


@dataclass(frozen=True)
class Hits:
    """The grid pixels that cosmic rays changed by more than three sigma; arrays of shape (n,).

    `y`, `x` are pixels, `amount` MJy/sr, and `number` says which pixels touch: 1, 2, ... .
    """

    y: NDArray[np.int64]
    x: NDArray[np.int64]
    amount: NDArray[np.float32]
    number: NDArray[np.int32]


@dataclass(frozen=True)
class Frame:
    """A mosaic: `sci` and `unc` in MJy/sr, NaN where not covered, `cov` in frames; and its hits."""

    sci: NDArray[np.float32]
    unc: NDArray[np.float32]
    cov: NDArray[np.float32]
    hits: Hits


@dataclass(frozen=True)
class _Resampling:
    """Where each grid pixel lies on the detector: its lower left pixel and the way beyond it."""

    side: int
    corner: NDArray[np.intp]
    right: NDArray[np.float32]
    up: NDArray[np.float32]

    def corners(self, native: NDArray[np.floating]) -> tuple[NDArray[np.float32], ...]:
        """Return the four detector pixels around each grid pixel: lower two, then upper two."""
        flat = native.astype(np.float32).reshape(-1)
        return tuple(flat[step:].take(self.corner) for step in (0, 1, self.side, self.side + 1))

    def interpolate(self, native: NDArray[np.floating]) -> NDArray[np.float32]:
        return self.blend(self.corners(native), self.right, self.up)

    def spread(self, variance: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the variance of what `interpolate` makes of independent pixels."""
        a, b, c, d = self.corners(variance)
        right, left = self.right**2, (1 - self.right) ** 2
        return (1 - self.up) ** 2 * (left * a + right * b) + self.up**2 * (left * c + right * d)

    @staticmethod
    def blend(
        corners: tuple[NDArray[np.float32], ...],
        right: NDArray[np.float32],
        up: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        a, b, c, d = corners
        low = a + right * (b - a)
        high = c + right * (d - c)
        return low + up * (high - low)


def observe(
    scene: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    channel: str,
    roll: float,
    background: tuple[float, float, float],
    bad_pixels: int,
) -> Frame:
    """Look at a scene once.

    Parameters
    ----------
    scene
        All sources without noise, MJy/sr; square.
    rng
        Where the numbers come from.
    channel
        ``ch1`` or ``ch2``.
    roll
        Of the detector against the grid, degrees.
    background
        Level in the middle and the gradients along x and y, MJy/sr and MJy/sr per grid pixel.
    bad_pixels
        Seed of the detector's own bad pixels, the same in every AOR.

    Returns
    -------
    Frame
        Of the scene's shape.
    """
    model = CHANNELS[channel]
    size = scene.shape[0]
    step = model.native_arcsec / GRID_ARCSEC
    footprint = int(np.ceil(_FOOTPRINT * size / step))
    most = max(1, round(_DITHER_SHARE * footprint))
    coverage = _coverage(rng, footprint, most, np.random.default_rng(bad_pixels))
    side = coverage.shape[0]
    shift = rng.uniform(-0.5, 0.5, 2)
    resampling = _resampling(size, side, roll, step, shift)
    expected = np.maximum(_on_detector(scene, side, roll, step, shift), 0.0) + background[0]
    noise, variance = _noise(rng, expected, coverage, channel)
    struck = _cosmic_rays(rng, np.sqrt(variance), size)

    # A grid pixel is covered where all four of its detector pixels saw something.
    frames = resampling.corners(coverage)
    covered = np.minimum(np.minimum(*frames[:2]), np.minimum(*frames[2:])) > 0
    cov = np.where(covered, resampling.blend(frames, resampling.right, resampling.up), 0)
    sigma = np.sqrt(resampling.spread(variance))
    rays = resampling.interpolate(struck)
    axis = np.arange(size) - (size - 1) / 2
    sky = background[0] + background[1] * axis + background[2] * axis[:, None]
    image = scene + sky + resampling.interpolate(noise) + rays
    hits = _recorded(np.where(covered, rays, 0.0), sigma)
    return Frame(
        np.where(covered, image, np.nan).astype(np.float32),
        np.where(covered, sigma, np.nan).astype(np.float32),
        cov.astype(np.float32),
        hits,
    )


def _coverage(
    rng: np.random.Generator, footprint: int, most: int, detector: np.random.Generator
) -> NDArray[np.float64]:
    """Count the frames over each pixel; bad pixels of the detector drop out at every dither."""
    side = footprint + 2 * most
    coverage = np.zeros((side, side))
    bad = detector.integers(0, footprint, (2, max(1, round(_BAD_SHARE * footprint**2))))
    good = np.ones((footprint, footprint))
    good[bad[0], bad[1]] = 0.0
    for down, left in rng.integers(0, 2 * most + 1, (DITHERS, 2)):
        coverage[down : down + footprint, left : left + footprint] += good
    # Where hits or bad pixels meet in every frame a mosaic has a hole.
    holes = rng.integers(most, side - most, (2, _HOLES))
    coverage[holes[0], holes[1]] = 0.0
    # Grid pixels beyond the detector are given the first corner: it must see nothing.
    coverage[:2, :2] = 0.0
    return coverage


def _resampling(
    size: int, side: int, roll: float, step: float, shift: NDArray[np.float64]
) -> _Resampling:
    cosine, sine = np.cos(np.radians(roll)) / step, np.sin(np.radians(roll)) / step
    axis = np.arange(size) - (size - 1) / 2
    u = cosine * axis + sine * axis[:, None] + (side - 1) / 2 + shift[0]
    v = cosine * axis[:, None] - sine * axis + (side - 1) / 2 + shift[1]
    # What lies beyond the detector is given its first corner, which is blind.
    inside = (u >= 0) & (u < side - 1) & (v >= 0) & (v < side - 1)
    # Nothing is negative inside, where to truncate is to floor.
    column, row = u.astype(np.intp), v.astype(np.intp)
    corner = np.where(inside, row * side + column, 0)
    right, up = np.where(inside, u - column, 0.0), np.where(inside, v - row, 0.0)
    return _Resampling(side, corner, right.astype(np.float32), up.astype(np.float32))


def _on_detector(
    scene: NDArray[np.float64], side: int, roll: float, step: float, shift: NDArray[np.float64]
) -> NDArray[np.float64]:
    cosine, sine = np.cos(np.radians(roll)) * step, np.sin(np.radians(roll)) * step
    u = np.arange(side) - (side - 1) / 2 - shift[0]
    v = (np.arange(side) - (side - 1) / 2 - shift[1])[:, None]
    middle = (scene.shape[0] - 1) / 2
    where = np.stack([sine * u + cosine * v + middle, cosine * u - sine * v + middle])
    return np.asarray(map_coordinates(scene, where, order=1, mode="constant"))


def _noise(
    rng: np.random.Generator,
    expected: NDArray[np.float64],
    coverage: NDArray[np.float64],
    channel: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what photons and reading add to the expected image, and its variance."""
    model = CHANNELS[channel]
    electrons = model.electron_rate * _FRAME_SECONDS * np.maximum(coverage, 1.0)
    mean = expected * electrons
    reading = model.read_noise * np.sqrt(np.maximum(coverage, 1.0))
    counted = rng.poisson(mean) + reading * rng.standard_normal(mean.shape)
    return (counted - mean) / electrons, (mean + reading**2) / electrons**2


def _cosmic_rays(
    rng: np.random.Generator, sigma: NDArray[np.float64], size: int
) -> NDArray[np.float64]:
    """Return what is left of cosmic rays after frames were compared: points and short tracks."""
    side = sigma.shape[0]
    struck = np.zeros_like(sigma)
    for _ in range(rng.poisson(_HITS_PER_AOR * (size / _USUAL_SIDE) ** 2)):
        row, column = rng.integers(0, side, 2)
        length = int(rng.integers(2, 9)) if rng.random() < _TRACK_SHARE else 1
        angle = rng.uniform(0, 2 * np.pi)
        strength = np.exp(rng.uniform(*np.log(_HIT_SIGMA))) * sigma[row, column]
        rows = np.round(row + np.sin(angle) * np.arange(length)).astype(int)
        columns = np.round(column + np.cos(angle) * np.arange(length)).astype(int)
        inside = (rows >= 0) & (rows < side) & (columns >= 0) & (columns < side)
        pixels = np.unique(rows[inside] * side + columns[inside])
        struck.reshape(-1)[pixels] += strength * rng.uniform(0.8, 1.2, pixels.size)
    return struck


def _recorded(rays: NDArray[np.float32], sigma: NDArray[np.float32]) -> Hits:
    changed = rays > _RECORDED_SIGMA * sigma
    numbers, _ = label(changed, structure=np.ones((3, 3)))
    y, x = np.nonzero(changed)
    return Hits(y, x, rays[y, x].astype(np.float32), numbers[y, x].astype(np.int32))
