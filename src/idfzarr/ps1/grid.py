"""The RINGS.V3 tessellation of Pan-STARRS1 as arrays: zones, projection cells, skycells.

The sky is cut into rings of constant declination (zones), a zone into projection cells of about
4 degrees, each with a tangent plane of its own, and a projection cell into 10 x 10 skycells that
overlap by 480 pixels. In the tangent plane a skycell is a rectangle, so on the sky it is a convex
polygon whose sides are great circles: every question of overlap has an exact answer.

Notes
-----
The zones stand in ``rings_v3.csv``, which names its source. A zone whose first projection cell is
``projcell`` has ``nband`` of them; number ``projcell + n`` lies at right ascension
``360 n / nband``. Skycell ``10 Y + X`` has its reference pixel at
``crpix1 + (xcell - 480) (5 - X)``, ``crpix2 + (ycell - 480) (5 - Y)``. X grows to the west, Y to
the north. See Flewelling et al. 2020, ApJS 251, 7, and Waters et al. 2020, ApJS 251, 4.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CELLS",
    "DEGREES_PER_PIXEL",
    "OVERLAP_PIXELS",
    "Grid",
    "Outlines",
    "grid",
    "outlines",
    "sky_of",
    "tangent_axes",
    "unit_vectors",
]

DEGREES_PER_PIXEL = 0.25 / 3600
"""Pixels of 0.25 arcsec; the headers carry it rounded to single precision."""

OVERLAP_PIXELS = 480
"""How far neighbouring skycells of one projection cell overlap."""

CELLS = 100
"""Skycells of a projection cell."""

_TABLE = "rings_v3.csv"


@dataclass(frozen=True)
class Grid:
    """The projection cells, and the zones they lie in.

    Attributes
    ----------
    first
        Number of the first projection cell.
    zone_first, zone_count, zone_dec_max
        (z,): number of a zone's first projection cell, how many it has, and the declination
        (degrees) up to which it is the best zone.
    dec_min
        Degrees; nothing was stacked south of it.
    zone
        (p,): index of the zone of a projection cell.
    ra, dec
        (p,): the tangent point, degrees: CRVAL1, CRVAL2.
    width, height
        (p,): pixels of one skycell: NAXIS1, NAXIS2.
    crpix1, crpix2
        (p,): reference pixel of skycell 55, FITS pixels.
    axes
        (p, 3, 3): unit vectors to the east, to the north and to the tangent point.
    """

    first: int
    zone_first: NDArray[np.int64]
    zone_count: NDArray[np.int64]
    zone_dec_max: NDArray[np.float64]
    dec_min: float
    zone: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    width: NDArray[np.int64]
    height: NDArray[np.int64]
    crpix1: NDArray[np.float64]
    crpix2: NDArray[np.float64]
    axes: NDArray[np.float64]

    @property
    def projections(self) -> int:
        """Number of projection cells."""
        return len(self.ra)

    def reference_pixel(
        self, projection: ArrayLike, cell: ArrayLike
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return CRPIX1 and CRPIX2 (FITS pixels) of skycells.

        Parameters
        ----------
        projection
            Index of the projection cell, from 0.
        cell
            10 Y + X, of a shape that broadcasts with it.
        """
        p, c = np.asarray(projection), np.asarray(cell)
        step_x, step_y = self.width[p] - OVERLAP_PIXELS, self.height[p] - OVERLAP_PIXELS
        return (
            self.crpix1[p] + step_x * (5 - c % 10),
            self.crpix2[p] + step_y * (5 - c // 10),
        )

    def deproject(
        self, projection: ArrayLike, cell: ArrayLike, x: ArrayLike, y: ArrayLike
    ) -> NDArray[np.float64]:
        """Return the unit vectors, (..., 3), of FITS pixels of skycells.

        The inverse of the gnomonic projection (Calabretta & Greisen 2002, A&A 395, 1077, section
        5.1.3), written with vectors so that nothing is special at the poles.

        Parameters
        ----------
        projection, cell
            As of `reference_pixel`.
        x, y
            FITS pixels: the centre of the first one is (1, 1).
        """
        crpix1, crpix2 = self.reference_pixel(projection, cell)
        scale = np.radians(DEGREES_PER_PIXEL)
        east = np.asarray(-scale * (np.asarray(x) - crpix1))[..., None]
        north = np.asarray(scale * (np.asarray(y) - crpix2))[..., None]
        axes = self.axes[np.asarray(projection)]
        vectors = east * axes[..., 0, :] + north * axes[..., 1, :] + axes[..., 2, :]
        return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))

    def project(
        self, projection: ArrayLike, vectors: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the offsets in pixels, to the west and to the north, from the tangent point.

        Parameters
        ----------
        projection
            Index of the projection cell, from 0.
        vectors
            Unit vectors, (..., 3), on its half of the sky; elsewhere the offsets are NaN.
        """
        axes = self.axes[np.asarray(projection)]
        east, north, towards = np.moveaxis((axes * vectors[..., None, :]).sum(axis=-1), -1, 0)
        pixels = np.where(towards > 0, np.degrees(1.0) / DEGREES_PER_PIXEL, np.nan)
        towards = np.where(towards > 0, towards, 1.0)
        return -east / towards * pixels, north / towards * pixels


@dataclass(frozen=True)
class Outlines:
    """Where every skycell lies: skycell 10 Y + X of projection cell p is row 100 p + 10 Y + X.

    Attributes
    ----------
    centre
        (n, 3): unit vectors of the middle of the images.
    corners
        (n, 4, 3): unit vectors of the outer corners of their corner pixels, counter-clockwise as
        seen from outside the sphere.
    radius
        (n,): radians from the centre to the farthest corner.
    """

    centre: NDArray[np.float64]
    corners: NDArray[np.float64]
    radius: NDArray[np.float64]


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return unit vectors, (..., 3), of positions in degrees."""
    alpha, delta = np.broadcast_arrays(
        np.radians(np.asarray(ra, dtype=np.float64)), np.radians(np.asarray(dec, dtype=np.float64))
    )
    return np.stack(
        [np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=-1
    )


def sky_of(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return right ascension (0 to 360) and declination, degrees, of vectors (..., 3)."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    ra = np.degrees(np.arctan2(y, x)) % 360.0
    return np.asarray(ra), np.degrees(np.arctan2(z, np.hypot(x, y)))


@lru_cache(maxsize=1)
def grid() -> Grid:
    """Return the tessellation, read once."""
    text = resources.files("idfzarr.ps1").joinpath(_TABLE).read_text(encoding="utf-8")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))

    def column(name: str) -> NDArray[np.float64]:
        return np.array([float(row[name]) for row in rows])

    count = column("nband").astype(np.int64)
    zone = np.repeat(np.arange(len(rows)), count)
    first = column("projcell").astype(np.int64)
    number = np.arange(len(zone)) + first[0]
    ra = 360.0 * (number - first[zone]) / count[zone]
    dec = column("dec")[zone]
    return Grid(
        first=int(first[0]),
        zone_first=first,
        zone_count=count,
        zone_dec_max=column("dec_max"),
        dec_min=float(column("dec_min")[0]),
        zone=zone,
        ra=ra,
        dec=dec,
        width=column("xcell").astype(np.int64)[zone],
        height=column("ycell").astype(np.int64)[zone],
        crpix1=column("crpix1")[zone],
        crpix2=column("crpix2")[zone],
        axes=tangent_axes(ra, dec),
    )


def tangent_axes(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.float64]:
    """Return the axes of the tangent planes at positions.

    Parameters
    ----------
    ra, dec
        Degrees, of one shape (...).

    Returns
    -------
    ndarray
        (..., 3, 3): unit vectors to the east, to the north and to the position itself. Its right
        ascension says where north is even at the pole.
    """
    alpha, delta = np.radians(ra), np.radians(dec)
    zero = np.zeros_like(alpha)
    east = np.stack([-np.sin(alpha), np.cos(alpha), zero], axis=-1)
    north = np.stack(
        [-np.sin(delta) * np.cos(alpha), -np.sin(delta) * np.sin(alpha), np.cos(delta)], axis=-1
    )
    return np.stack([east, north, unit_vectors(ra, dec)], axis=-2)


@lru_cache(maxsize=1)
def outlines() -> Outlines:
    """Return where all skycells lie (200,900 of them, 25 MB), computed once."""
    sky = grid()
    projection = np.repeat(np.arange(sky.projections), CELLS)
    cell = np.tile(np.arange(CELLS), sky.projections)
    right, top = sky.width[projection] + 0.5, sky.height[projection] + 0.5
    left = np.full_like(right, 0.5)
    # x grows to the west, which is to the left as seen from outside: this order turns
    # counter-clockwise there, so that every side has the image on its left.
    x = np.stack([left, left, right, right], axis=-1)
    y = np.stack([left, top, top, left], axis=-1)
    corners = sky.deproject(projection[:, None], cell[:, None], x, y)
    centre = sky.deproject(projection, cell, (right + 0.5) / 2, (top + 0.5) / 2)
    chord = np.linalg.norm(corners - centre[:, None], axis=-1).max(axis=-1)
    return Outlines(centre=centre, corners=corners, radius=2 * np.arcsin(chord / 2))
