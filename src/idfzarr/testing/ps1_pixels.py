"""Pixels of the pretended Pan-STARRS1 skycells: counts, variances, masks, and integers on disk.

The formulae are those of the headers' own comments and are written out here once more, on purpose:
what reads such files can be checked against these pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.ps1 import skycell as cells
from idfzarr.testing.ps1_sky import (
    BANDS,
    KINDS,
    MARGIN,
    MICROJANSKY_PER_DN_PER_SECOND,
    PS1Sky,
    StarList,
    Window,
    seeded,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "BLANK",
    "BORDER",
    "NO_VALUE",
    "DiskScale",
    "Exposure",
    "clean",
    "defects",
    "disk_pixels",
    "exposure",
    "saturates",
    "true_flux",
]

BLANK = 32767
"""What stands for a pixel without a value."""

BORDER = 3
"""Pixels without a value around every image."""

NO_VALUE = 1 | 32
"""Mask bits whose pixels have no value: DETECTOR, SAT."""

_DETECTOR, _BLANK, _SAT, _LOW, _SUSPECT = 1, 8, 32, 64, 128
_CR, _SPIKE, _GHOST, _STREAK, _STARCORE = 256, 512, 1024, 2048, 4096
_CONV_POOR, _MARK = 16384, 32768
# One tile of the grid in nine has a defect of each kind, all of the same outline: small images
# have them all.
_TILE_X, _TILE_Y = 61, 53
_DEFECT = (slice(20, 34), slice(24, 31))
_DEFECT_BITS = (_DETECTOR, _LOW, _SUSPECT, _GHOST, _STREAK, _CONV_POOR, _MARK)
_TILE_KINDS = 9
_BLOCK_ROWS = 256
_SPIKE_REACH = MARGIN - 4
_REACH = 6.0

_A = 2.5 * math.log10(math.e)
_EXPOSURE_SECONDS = {"g": 43.0, "r": 40.0, "i": 45.0, "z": 30.0, "y": 30.0}
_NOISE_DN = {"g": 80.0, "r": 110.0, "i": 190.0, "z": 170.0, "y": 150.0}
_GAIN = 1.0
_SATURATED_DN = 3e5
# Of the asinh values of sky: 2^11 steps to a sigma, and the integers begin 8 sigma below the sky.
_SIGMA_ASINH = 0.4327
_STEPS_PER_SIGMA = 2048
_SIGMAS_BELOW = 8
_VARIANCE_WAVES = 0.25
_VARIANCE_NOISE = 0.04


@dataclass(frozen=True)
class DiskScale:
    """From counts to the integers on disk: v = a asinh((DN - BOFFSET) / (2 BSOFTEN)).

    Attributes
    ----------
    bscale, bzero
        v = BZERO + BSCALE disk.
    bsoften, boffset
        Counts.
    """

    bscale: float
    bzero: float
    bsoften: float
    boffset: float

    def disk(self, dn: NDArray[np.float64]) -> NDArray[np.int16]:
        """Return the integers of counts; NaN becomes BLANK, and what is too large the limit."""
        v = _A * np.arcsinh((dn - self.boffset) / (2 * self.bsoften))
        steps = np.rint((v - self.bzero) / self.bscale)
        empty = np.isnan(steps)
        steps[empty] = BLANK
        np.clip(steps, -32768, BLANK - 1, out=steps, where=~empty)
        return np.asarray(steps.astype(np.int16))


@dataclass(frozen=True)
class Exposure:
    """How a skycell was observed in a band.

    Attributes
    ----------
    seconds
        Of each input.
    noise
        Standard deviation of the sky, counts.
    """

    seconds: tuple[float, ...]
    noise: float

    @property
    def exptime(self) -> float:
        """Their sum, seconds."""
        return math.fsum(self.seconds)

    @property
    def microjansky_per_dn(self) -> float:
        """The flux of one count."""
        return MICROJANSKY_PER_DN_PER_SECOND / self.exptime


def exposure(sky: PS1Sky, name: str, band: str) -> Exposure:
    """Return how a skycell was observed in a band: alike all over its projection cell."""
    if band not in BANDS:
        msg = f"the bands are {', '.join(BANDS)}, not {band!r}"
        raise UsageError(msg)
    drawn = seeded(sky.seed, "exposure", cells.parse(name).projection, band)
    inputs = 18 + drawn % 14
    noise = _NOISE_DN[band] * (0.9 + 0.2 * (drawn >> 32) / 2**32)
    return Exposure(seconds=(_EXPOSURE_SECONDS[band],) * inputs, noise=noise)


def scale(sky: PS1Sky, name: str, band: str, kind: str) -> DiskScale:
    """Return the scaling of an image or a weight, as exactly as its header says it."""
    noise = exposure(sky, name, band).noise
    drawn = seeded(sky.seed, "scale", cells.parse(name).name, band, kind)
    jitter = 0.95 + 0.1 * (drawn % 1000) / 1000
    sigma = _SIGMA_ASINH * jitter
    if kind == "weight":
        softening = math.sqrt(_A) * noise**2 * math.hypot(_VARIANCE_WAVES / 2, _VARIANCE_NOISE)
        offset = noise**2 * jitter
    else:
        softening, offset = math.sqrt(_A) * noise, 0.03 * noise * jitter
    bscale = sigma / _STEPS_PER_SIGMA
    bzero = -_SIGMAS_BELOW * sigma + 32768 * bscale
    return DiskScale(*(_as_written(value) for value in (bscale, bzero, softening, offset)))


def _as_written(value: float) -> float:
    return float(f"{value:.12E}")


def saturates(
    sky: PS1Sky, name: str, band: str, magnitude: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return which stars lose their cores to saturation."""
    flux = 3631e6 * 10 ** (-0.4 * magnitude)
    dn = flux / exposure(sky, name, band).microjansky_per_dn
    return np.asarray(dn / (2 * math.pi * sky.sigma_pixels(band) ** 2) > _SATURATED_DN)


def clean(sky: PS1Sky, name: str, stars: StarList) -> NDArray[np.bool_]:
    """Return which stars lie, in every band, on pixels with values only.

    Their sums are their fluxes, up to noise: they touch neither border nor defect, and are not
    saturated.
    """
    window = sky.window(name)
    good = np.ones(len(stars), dtype=bool)
    for band in BANDS:
        good &= ~saturates(sky, name, band, stars.magnitude[band])
    reach = math.ceil(_REACH * max(map(sky.sigma_pixels, BANDS)))
    offsets = np.arange(-reach, reach + 1)
    for i in np.flatnonzero(good):
        columns, rows = round(stars.x[i]) + offsets, round(stars.y[i]) + offsets
        good[i] = not (defects(sky, name, window, columns, rows) & (NO_VALUE | _BLANK)).any()
    return good


def defects(
    sky: PS1Sky,
    name: str,
    window: Window,
    columns: NDArray[np.int64],
    rows: NDArray[np.int64],
) -> NDArray[np.uint16]:
    """Return the mask bits, (rows, columns), that do not come from stars.

    Parameters
    ----------
    sky, name, window
        Which image.
    columns, rows
        Its pixels, ascending; those beyond it are border.
    """
    gx, gy = columns + window.column, rows + window.row
    tile_x, first_x = np.unique(gx // _TILE_X, return_inverse=True)
    tile_y, first_y = np.unique(gy // _TILE_Y, return_inverse=True)
    turn = seeded(sky.seed, "defects", cells.parse(name).projection) % _TILE_KINDS
    kinds = (2 * tile_x[None, :] + 4 * tile_y[:, None] + turn) % _TILE_KINDS
    table = np.zeros(_TILE_KINDS, dtype=np.uint16)
    table[: len(_DEFECT_BITS)] = _DEFECT_BITS
    inside_x = np.isin(gx % _TILE_X, np.r_[_DEFECT[0]])
    inside_y = np.isin(gy % _TILE_Y, np.r_[_DEFECT[1]])
    bits = table[kinds][np.ix_(first_y, first_x)] * (inside_y[:, None] & inside_x[None, :])
    border_x = (columns < BORDER) | (columns >= window.nx - BORDER)
    border_y = (rows < BORDER) | (rows >= window.ny - BORDER)
    bits |= np.where(border_y[:, None] | border_x[None, :], np.uint16(_BLANK), np.uint16(0))
    return np.asarray(bits.astype(np.uint16))


def true_flux(sky: PS1Sky, name: str, band: str) -> NDArray[np.float32]:
    """Return what the stars alone give each pixel, (ny, nx), in microjansky: the truth."""
    window, stars = sky.window(name), sky.stars(name)
    image = np.zeros((window.ny, window.nx), dtype=np.float32)
    sigma = sky.sigma_pixels(band)
    reach = math.ceil(_REACH * sigma)
    for x, y, flux in zip(stars.x, stars.y, stars.flux(band), strict=True):
        columns = _within(round(x) - reach, round(x) + reach + 1, window.nx)
        rows = _within(round(y) - reach, round(y) + reach + 1, window.ny)
        across = np.exp(-0.5 * ((np.arange(columns.start, columns.stop) - x) / sigma) ** 2)
        down = np.exp(-0.5 * ((np.arange(rows.start, rows.stop) - y) / sigma) ** 2)
        peak = flux / (2 * math.pi * sigma**2)
        image[rows, columns] += (peak * down[:, None] * across[None, :]).astype(np.float32)
    return image


def _within(start: int, stop: int, length: int) -> slice:
    return slice(min(max(start, 0), length), min(max(stop, 0), length))


def disk_pixels(
    sky: PS1Sky, name: str, band: str, kind: str = "image"
) -> tuple[NDArray[np.int16] | NDArray[np.uint16], DiskScale | None]:
    """Return the integers on disk of one image, and what they mean.

    Parameters
    ----------
    sky
        On which everything depends.
    name
        Of the skycell.
    band
        One of g, r, i, z, y.
    kind
        ``image`` (counts), ``weight`` (their variance) or ``mask``.

    Returns
    -------
    pixels : ndarray
        (ny, nx), int16; uint16 for masks.
    scale : DiskScale or None
        None for masks, whose integers are bits.

    Raises
    ------
    UsageError
        No such skycell, band or kind.
    """
    if kind not in KINDS:
        msg = f"the kinds are {', '.join(KINDS)}, not {kind!r}"
        raise UsageError(msg)
    name = cells.parse(name).name
    window = sky.window(name)
    if kind == "mask":
        mask = np.empty((window.ny, window.nx), dtype=np.uint16)
        for rows, bits, _ in _blocks(sky, name, band):
            mask[rows] = bits
        return mask, None
    meaning = scale(sky, name, band, kind)
    pixels = np.empty((window.ny, window.nx), dtype=np.int16)
    for block in _blocks(sky, name, band):
        pixels[block[0]] = meaning.disk(_counts(sky, name, band, kind, block))
    return pixels, meaning


def _blocks(
    sky: PS1Sky, name: str, band: str
) -> Iterator[tuple[slice, NDArray[np.uint16], NDArray[np.float64]]]:
    """Go through an image by rows: mask bits, and the counts of the stars."""
    window = sky.window(name)
    stars = true_flux(sky, name, band)
    per_dn = exposure(sky, name, band).microjansky_per_dn
    spikes = _spikes(sky, name, band, window)
    columns = np.arange(window.nx)
    for start in range(0, window.ny, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, window.ny))
        places = np.arange(rows.start, rows.stop)
        dn = stars[rows].astype(np.float64) / per_dn
        bits = defects(sky, name, window, columns, places)
        bits[dn > _SATURATED_DN] |= _SAT | _STARCORE
        for spiked_rows, spiked_columns in spikes:
            low, high = max(spiked_rows.start, rows.start), min(spiked_rows.stop, rows.stop)
            if low < high:
                bits[low - rows.start : high - rows.start, spiked_columns] |= _SPIKE
        hits = sky.chance(name, f"cr {band}", columns + window.column, places + window.row)
        bits[hits % np.uint64(2003) == 0] |= _CR
        yield rows, bits, dn


def _spikes(sky: PS1Sky, name: str, band: str, window: Window) -> list[tuple[slice, slice]]:
    stars = sky.stars(name)
    found = []
    for i in np.flatnonzero(saturates(sky, name, band, stars.magnitude[band])):
        x, y = round(stars.x[i]), round(stars.y[i])
        for half_y, half_x in ((_SPIKE_REACH, 0), (0, _SPIKE_REACH)):
            rows = _within(y - half_y, y + half_y + 1, window.ny)
            found.append((rows, _within(x - half_x, x + half_x + 1, window.nx)))
    return found


def _counts(
    sky: PS1Sky,
    name: str,
    band: str,
    kind: str,
    block: tuple[slice, NDArray[np.uint16], NDArray[np.float64]],
) -> NDArray[np.float64]:
    rows, bits, stars = block
    window, noise = sky.window(name), exposure(sky, name, band).noise
    gx = np.arange(window.nx) + window.column
    gy = np.arange(rows.start, rows.stop) + window.row
    waves = np.sin(gy * (math.tau / 1013))[:, None] * np.sin(gx * (math.tau / 997))[None, :]
    variance = noise**2 * (1 + _VARIANCE_WAVES * waves) + stars / _GAIN
    if kind == "image":
        dn = stars + sky.noise(name, f"image {band}", gx, gy) * np.sqrt(variance)
    else:
        dn = variance * (1 + _VARIANCE_NOISE * sky.noise(name, f"weight {band}", gx, gy))
        # Pixels of too few inputs have no variance to speak of: below zero, after the asinh.
        dn[(bits & _LOW) > 0] = -0.5 * noise**2
    dn[(bits & (NO_VALUE | _BLANK)) > 0] = np.nan
    return np.asarray(dn)
