"""A sky for pretended Pan-STARRS1 skycells: where the stars are, what is noise, what is broken.

Everything follows from a seed, so that any skycell can be made alone, in any order, again and
again. Stars lie on the sky, not in images: skycells that overlap hold the same ones. Noise and
defects belong to the pixels of a projection cell, whose skycells share one grid: where two of them
overlap they agree pixel for pixel, up to the integers on disk.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.ps1 import skycell as cells
from idfzarr.ps1.grid import DEGREES_PER_PIXEL

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BANDS",
    "KINDS",
    "MARGIN",
    "MICROJANSKY_PER_DN_PER_SECOND",
    "PS1Sky",
    "StarList",
    "Window",
    "seeded",
]

BANDS = "grizy"
KINDS = ("image", "mask", "weight")

MICROJANSKY_PER_DN_PER_SECOND = 3631e6 * 10 ** (-0.4 * 25.0)
"""The zero point of the stacks, 25 AB (Oke & Gunn 1983, ApJ 266, 713: 0 AB is 3631 Jy)."""

MARGIN = 24
"""How far beyond an image, in pixels, a star may lie and still be seen in it."""

_FULL_WIDTH = 6240.0
_SMALLEST = 16
# One star in so many pixels keeps them 10 pixels apart at the least.
_PIXELS_PER_STAR = 700.0
_FULL_SIZE_DENSITY = 10_000.0
_JITTER = 0.6
_SIGMA_PIXELS = {"g": 2.1, "r": 1.9, "i": 1.8, "z": 1.75, "y": 1.7}
_SIGMA_BINNED = 1.5
# Mean colours of a K star against r (Tonry et al. 2012, ApJ 750, 99), spread by a quarter.
_COLOURS = {"g": 0.8, "r": 0.0, "i": -0.3, "z": -0.45, "y": -0.5}


@dataclass(frozen=True)
class Window:
    """Which part of a skycell an image shows, and how coarsely.

    Attributes
    ----------
    nx, ny
        Pixels of the image.
    left, bottom
        Its outer edges in pixels of the skycell as the survey has it, whose own are 0.
    step
        Pixels of the survey per pixel of the image, along each axis.
    column, row
        Where its first pixel stands in the grid that all skycells of the projection cell share.
    """

    nx: int
    ny: int
    left: float
    bottom: float
    step: float
    column: int
    row: int

    def pixels(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return pixels of the image of pixels of the survey's skycell; both count from 0."""
        return (x + 0.5 - self.left) / self.step - 0.5, (y + 0.5 - self.bottom) / self.step - 0.5

    def survey_pixels(
        self, x: NDArray[np.float64], y: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return pixels of the survey's skycell of pixels of the image: undoes `pixels`."""
        return (x + 0.5) * self.step + self.left - 0.5, (y + 0.5) * self.step + self.bottom - 0.5


@dataclass(frozen=True)
class StarList:
    """Stars and what they should measure; all arrays are of shape (n,).

    Attributes
    ----------
    ra, dec
        Degrees.
    x, y
        Pixels of the image they were asked for, the centre of the first one is (0, 0).
    magnitude
        AB, per band.
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    magnitude: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        return len(self.ra)

    def flux(self, band: str) -> NDArray[np.float64]:
        """Return the fluxes in a band, in microjansky: what all pixels of a star add up to."""
        return np.asarray(3631e6 * 10 ** (-0.4 * self.magnitude[band]))


def seeded(*parts: object) -> int:
    """Return 64 bits that follow from the parts and look like chance."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    # SplitMix64 (Steele, Lea & Flood 2014, OOPSLA, 453), the same on every machine and numpy.
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _bits(
    key: int, columns: NDArray[np.int64], rows: NDArray[np.int64], *more: int
) -> NDArray[np.uint64]:
    """Return 64 bits for each place of a grid; columns and rows broadcast, as arrays."""
    salt = np.uint64(seeded(key, *more))
    down = _mixed(_mixed(np.atleast_1d(rows).astype(np.uint64) ^ salt))
    across = np.atleast_1d(columns).astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
    return _mixed(down + across)


def _normal(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    # The sum of four uniform numbers: near enough to normal, and never beyond 3.5 sigma.
    quarters = np.ascontiguousarray(bits).view(np.uint16).reshape(*bits.shape, 4)
    total = quarters.sum(axis=-1, dtype=np.int64)
    return np.asarray((total - 2 * 65535) / (65535 * math.sqrt(1 / 3)))


def _uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


@dataclass(frozen=True)
class PS1Sky:
    """The pretended sky, and how much of each skycell its images show.

    Attributes
    ----------
    seed
        All follows from it.
    size
        Pixels (nx, ny) of every image; None is the survey's own, about 6240 x 6243. Smaller
        images show the whole skycell with coarser pixels.
    around
        Right ascension and declination, degrees: images of that size show the pixels of the
        survey as they are, those of each skycell nearest to this place.
    stars_per_square_degree
        None chooses as many as stay apart.

    Raises
    ------
    UsageError
        The size is none, or larger than a skycell.
    """

    seed: int = 0
    size: tuple[int, int] | None = (256, 250)
    around: tuple[float, float] | None = None
    stars_per_square_degree: float | None = None

    def __post_init__(self) -> None:
        if self.size is not None and not all(_SMALLEST <= n <= _FULL_WIDTH for n in self.size):
            msg = f"images of a skycell have {_SMALLEST} to 6240 pixels a side, not {self.size}"
            raise UsageError(msg)

    @property
    def binned(self) -> bool:
        """Whether pixels are coarser than the survey's."""
        return self.size is not None and self.around is None

    @property
    def density(self) -> float:
        """Stars per square degree."""
        if self.stars_per_square_degree is not None:
            return self.stars_per_square_degree
        if self.size is None:
            return _FULL_SIZE_DENSITY
        step = _FULL_WIDTH / (min(self.size) - 1) if self.binned else 1.0
        return 1.0 / (_PIXELS_PER_STAR * (step * DEGREES_PER_PIXEL) ** 2)

    def sigma_pixels(self, band: str) -> float:
        """Return the standard deviation of the Gaussian PSF, in pixels of the image."""
        return _SIGMA_BINNED if self.binned else _SIGMA_PIXELS[band]

    def has(self, name: str, band: str) -> bool:
        """Return whether the survey has a skycell in a band.

        Its southern border is ragged: of the lowest row of the southernmost zone (projection
        cells 0635 to 0713) columns 1, 4 and 7 are missing, and 2, 5 and 8 have no g and y.
        """
        cell = cells.parse(name)
        if cell.projection >= 714 or cell.y:
            return True
        return not (cell.x % 3 == 1 or (cell.x % 3 == 2 and band in "gy"))

    def window(self, name: str) -> Window:
        """Return which part of a skycell its images show."""
        height, width = cells.shape(name)
        cards = cells.wcs_cards(name)
        west, south = 0.5 - float(cards["CRPIX1"]), 0.5 - float(cards["CRPIX2"])
        column, row = math.floor(west), math.floor(south)
        if self.size is None:
            return Window(width, height, 0.0, 0.0, 1.0, column, row)
        nx, ny = self.size
        if self.around is not None:
            x, y = self._nearest(name, width - nx, height - ny)
            return Window(nx, ny, float(x), float(y), 1.0, column + x, row + y)
        step = max(width / (nx - 1), height / (ny - 1))
        column, row = math.floor(west / step), math.floor(south / step)
        return Window(nx, ny, column * step - west, row * step - south, step, column, row)

    def _nearest(self, name: str, most_x: int, most_y: int) -> tuple[int, int]:
        if self.around is None or self.size is None:
            return 0, 0
        x, y = cells.sky_to_pixel(name, *self.around)
        if not np.isfinite(x):
            return 0, 0
        left, bottom = round(float(x) - self.size[0] / 2), round(float(y) - self.size[1] / 2)
        return min(max(left, 0), most_x), min(max(bottom, 0), most_y)

    def stars(self, name: str) -> StarList:
        """Return the stars of which a skycell's images show anything."""
        window = self.window(name)
        reach = float(MARGIN)
        x = np.array([-reach, window.nx + reach, window.nx / 2])
        y = np.array([-reach, window.ny + reach, window.ny / 2])
        ra, dec = cells.pixel_to_sky(name, *window.survey_pixels(x, y))
        radius = 1.01 * float(_separation(ra[:2], dec[:2], ra[2], dec[2]).max())
        ra, dec, magnitude = self._stars_near(float(ra[2]), float(dec[2]), radius)
        x, y = window.pixels(*cells.sky_to_pixel(name, ra, dec))
        seen = (np.abs(x - window.nx / 2) < window.nx / 2 + reach) & (
            np.abs(y - window.ny / 2) < window.ny / 2 + reach
        )
        kept = {band: values[seen] for band, values in magnitude.items()}
        return StarList(ra[seen], dec[seen], x[seen], y[seen], kept)

    def stars_in_cone(
        self, ra: float, dec: float, radius_deg: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Return right ascensions, declinations (degrees) and magnitudes of the stars in a cone."""
        alpha, delta, magnitude = self._stars_near(ra, dec, radius_deg)
        inside = _separation(alpha, delta, ra, dec) <= radius_deg
        return alpha[inside], delta[inside], {b: m[inside] for b, m in magnitude.items()}

    def _stars_near(
        self, ra: float, dec: float, radius: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Return at least the stars of a cone: one in each tile of the sky that may touch it."""
        side = self.density**-0.5
        first = math.floor((max(dec - radius, -90.0) + 90) / side)
        last = math.floor((min(dec + radius, 90.0 - 1e-9) + 90) / side)
        columns, rows, counts = [], [], []
        for row in range(first, last + 1):
            middle = math.radians(min((row + 0.5) * side - 90, 90.0))
            count = max(1, math.floor(360 * math.cos(middle) / side))
            near = _columns(ra, dec, radius + 2 * side, count)
            columns.append(near)
            rows.append(np.full(len(near), row))
            counts.append(np.full(len(near), count))
        column, row_of = np.concatenate(columns), np.concatenate(rows)
        spread = [_uniform(self._of_tiles(column, row_of, word)) for word in ("x", "y", "m", "c")]
        ra_found = (column + 0.5 + _JITTER * (spread[0] - 0.5)) * 360 / np.concatenate(counts)
        dec_found = (row_of + 0.5 + _JITTER * (spread[1] - 0.5)) * side - 90
        faint = 16.0 + 5.0 * np.sqrt(spread[2])
        red = np.where(spread[2] < 0.03, faint - 3.0, faint)
        colour = 0.75 + 0.5 * spread[3]
        magnitude = {band: red + colour * _COLOURS[band] for band in BANDS}
        on_sky = dec_found < 90
        return (
            ra_found[on_sky],
            dec_found[on_sky],
            {band: values[on_sky] for band, values in magnitude.items()},
        )

    def _of_tiles(
        self, columns: NDArray[np.int64], rows: NDArray[np.int64], word: str
    ) -> NDArray[np.uint64]:
        return _bits(self.seed, columns, rows, seeded("star", word))

    def noise(
        self, name: str, word: str, columns: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return normal deviates of pixels of the shared grid: (rows, columns)."""
        key = seeded("noise", cells.parse(name).projection, word)
        return _normal(_bits(self.seed, columns[None, :], rows[:, None], key))

    def chance(
        self, name: str, word: str, columns: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        """Return 64 bits for each place (rows, columns) of a grid of a projection cell."""
        key = seeded("chance", cells.parse(name).projection, word)
        return _bits(self.seed, columns[None, :], rows[:, None], key)


def _columns(ra: float, dec: float, radius: float, count: int) -> NDArray[np.int64]:
    """Return the tiles of a row, of so many around the sky, that a cone may touch."""
    if abs(dec) + radius >= 89.9:
        return np.arange(count)
    width = math.degrees(math.asin(math.sin(math.radians(radius)) / math.cos(math.radians(dec))))
    first = math.floor((ra - width) * count / 360)
    last = math.floor((ra + width) * count / 360)
    return np.unique(np.arange(first, last + 1) % count)


def _separation(
    ra: NDArray[np.float64], dec: NDArray[np.float64], ra0: ArrayLike, dec0: ArrayLike
) -> NDArray[np.float64]:
    from idfzarr.ps1.grid import unit_vectors

    chord = np.linalg.norm(unit_vectors(ra, dec) - unit_vectors(ra0, dec0), axis=-1)
    return np.asarray(np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1.0))))
