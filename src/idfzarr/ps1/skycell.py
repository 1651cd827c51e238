"""Skycells of Pan-STARRS1 by name and by place: names, regions, neighbours, pixels, WCS.

Names are those of `idfzarr.ps1.names`. Positions are in degrees; pixels are numpy's, the centre of
the first one is (0, 0). The geometry is that of `idfzarr.ps1.grid`, whose pixels are exactly
0.25 arcsec; `wcs` carries the scale of the headers, which differs by rounding: 0.2 mas at most.

Examples
--------
>>> best(64.5, 28.0)
'skycell.1944.003'
>>> shape("skycell.1405.053")
(6243, 6240)
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.ps1.grid import CELLS, OVERLAP_PIXELS, grid, outlines, sky_of, unit_vectors
from idfzarr.ps1.names import (
    Skycell,
    all_names,
    matching,
    names_of_rows,
    parse,
    parse_all,
)
from idfzarr.ps1.overlap import rows_at, rows_in_box, rows_in_cone, rows_in_polygon

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Skycell",
    "all_names",
    "best",
    "best_many",
    "centre",
    "containing",
    "corners",
    "in_box",
    "in_cone",
    "in_polygon",
    "matching",
    "names_of_rows",
    "neighbours",
    "parse",
    "parse_all",
    "pixel_to_sky",
    "shape",
    "sky_to_pixel",
    "wcs",
    "wcs_cards",
]

# As it stands in the headers: 0.25 arcsec in single precision.
_CDELT = 6.94444461259988e-05
# Best skycells change over thousands of pixels; strips are looked at every so many.
_STRIDE = 60


def _degrees(**values: object) -> list[float]:
    found: list[float] = []
    for name, value in values.items():
        try:
            number = math.nan if isinstance(value, (str, bytes)) else float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            msg = f"{name} must be a number of degrees and is {str(value)[:60]!r}"
            raise UsageError(msg)
        if name.startswith("dec") and not -90 <= number <= 90:
            msg = f"{name} must lie between -90 and 90 degrees and is {number}"
            raise UsageError(msg)
        found.append(number)
    return found


def best(ra: float, dec: float) -> str:
    """Return the skycell in which a position lies best: nearest to the middle.

    Parameters
    ----------
    ra, dec
        Degrees.

    Returns
    -------
    str
        The same as the archive's ``ps1filenames.py`` answers.

    Raises
    ------
    UsageError
        Not a position, or south of the survey's stack images.

    Examples
    --------
    >>> best(10.6847083, 41.26875)
    'skycell.2159.034'
    """
    ra, dec = _degrees(ra=ra, dec=dec)
    return str(best_many([ra], [dec])[0])


def best_many(ra: ArrayLike, dec: ArrayLike) -> NDArray[np.str_]:
    """Return the skycell of each of many positions.

    The zone is that of the declination, the projection cell the one nearest in right ascension,
    and the skycell the one whose middle is nearest in the tangent plane. In the two zones at the
    pole the projection cell is the one that has the position farther from its border. This is the
    rule of the Space Telescope Science Institute's ``ps1skycell.py`` (R. White, 2019).

    Parameters
    ----------
    ra, dec
        Degrees, of shapes that broadcast.

    Returns
    -------
    ndarray of str
        Of that shape.

    Raises
    ------
    UsageError
        Some are not positions, or south of the survey's stack images.
    """
    alpha, delta = np.broadcast_arrays(
        np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
    )
    rows = _best_rows(unit_vectors(*_checked(alpha, delta)), alpha % 360.0, delta)
    names = names_of_rows(rows.ravel())
    return np.array(names, dtype="U16").reshape(alpha.shape)


def _checked(
    ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    bad = ~(np.isfinite(ra) & (np.abs(dec) <= 90))
    if bad.any():
        msg = f"{int(bad.sum())} of {bad.size} positions are no right ascension and declination"
        raise UsageError(msg)
    south = dec < grid().dec_min
    if south.any():
        msg = (
            f"Pan-STARRS1 has stack images north of declination {grid().dec_min:.3f} and "
            f"{int(south.sum())} of {south.size} positions lie south of it, "
            f"the first at {ra[south][0]:.5f} {dec[south][0]:.5f}"
        )
        raise UsageError(msg)
    return ra, dec


def _best_rows(
    vectors: NDArray[np.float64], ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> NDArray[np.int64]:
    sky = grid()
    last = len(sky.zone_first) - 1
    zone = np.minimum(np.searchsorted(sky.zone_dec_max, dec), last - 1)
    n = np.rint(ra * sky.zone_count[zone] / 360.0).astype(np.int64) % sky.zone_count[zone]
    projection = sky.zone_first[zone] - sky.first + n
    polar = np.full_like(projection, sky.projections - 1)
    deeper = (zone == last - 1) & (_depth(polar, vectors) > _depth(projection, vectors))
    projection = np.where(deeper, polar, projection)
    west, north = sky.project(projection, vectors)
    x = np.rint(4.5 + west / (sky.width[projection] - OVERLAP_PIXELS))
    y = np.rint(4.5 + north / (sky.height[projection] - OVERLAP_PIXELS))
    cell = 10 * np.clip(y, 0, 9) + np.clip(x, 0, 9)
    return projection * CELLS + np.asarray(cell, dtype=np.int64)


def _depth(projection: NDArray[np.int64], vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many pixels positions lie inside the nearest border of a projection cell."""
    sky = grid()
    west, north = sky.project(projection, vectors)
    half_x = (10 * (sky.width[projection] - OVERLAP_PIXELS) + OVERLAP_PIXELS) / 2
    half_y = (10 * (sky.height[projection] - OVERLAP_PIXELS) + OVERLAP_PIXELS) / 2
    inside = np.minimum(half_x - np.abs(west), half_y - np.abs(north))
    return np.where(np.isnan(inside), -np.inf, inside)


def containing(ra: float, dec: float) -> tuple[str, ...]:
    """Return all skycells whose image holds a position, the one with the nearest middle first.

    Parameters
    ----------
    ra, dec
        Degrees.

    Returns
    -------
    tuple of str
        Empty where the survey has none.

    Raises
    ------
    UsageError
        Not a position.
    """
    ra, dec = _degrees(ra=ra, dec=dec)
    point = unit_vectors(ra, dec)
    rows = rows_at(point)
    away = np.linalg.norm(outlines().centre[rows] - point, axis=-1)
    return names_of_rows(rows[np.argsort(away, kind="stable")])


def in_cone(ra: float, dec: float, radius_deg: float) -> tuple[str, ...]:
    """Return the skycells whose image comes within a radius of a position.

    Parameters
    ----------
    ra, dec
        Degrees.
    radius_deg
        Degrees, 0 to 180.

    Returns
    -------
    tuple of str
        Sorted; empty where the survey has none.

    Raises
    ------
    UsageError
        Not a position, or not a radius.
    """
    ra, dec, radius_deg = _degrees(ra=ra, dec=dec, radius_deg=radius_deg)
    if not 0 <= radius_deg <= 180:
        msg = f"the radius of a cone must lie between 0 and 180 degrees and is {radius_deg}"
        raise UsageError(msg)
    return names_of_rows(rows_in_cone(unit_vectors(ra, dec), math.radians(radius_deg)))


def in_box(ra_min: float, ra_max: float, dec_min: float, dec_max: float) -> tuple[str, ...]:
    """Return the skycells that a box of right ascension and declination overlaps.

    Parameters
    ----------
    ra_min, ra_max
        Where it begins and ends going east, degrees: 350 and 10, like -10 and 10, go through 0;
        360 or more apart is the whole circle.
    dec_min, dec_max
        South and north, degrees.

    Returns
    -------
    tuple of str
        Sorted; empty where the survey has none.

    Raises
    ------
    UsageError
        Not a box.
    """
    ra_min, ra_max, dec_min, dec_max = _degrees(
        ra_min=ra_min, ra_max=ra_max, dec_min=dec_min, dec_max=dec_max
    )
    if dec_min > dec_max:
        msg = f"a box goes from south to north: dec_min {dec_min} is above dec_max {dec_max}"
        raise UsageError(msg)
    width = ra_max - ra_min
    whole = width >= 360
    west = math.radians(ra_min % 360)
    rows = rows_in_box(
        (west, west + math.radians(360 if whole else width % 360)),
        (math.radians(dec_min), math.radians(dec_max)),
        whole_circle=whole,
    )
    return names_of_rows(rows)


def in_polygon(ra: ArrayLike, dec: ArrayLike) -> tuple[str, ...]:
    """Return the skycells that a polygon, whose sides are great circles, overlaps.

    Parameters
    ----------
    ra, dec
        Its corners in order, degrees, (m,), m at least 3; it may be concave and go either way
        round, and reach 80 degrees from its middle.

    Returns
    -------
    tuple of str
        Sorted; empty where the survey has none.

    Raises
    ------
    UsageError
        Not a polygon, or a larger one.
    """
    alpha, delta = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
    if alpha.ndim != 1 or alpha.shape != delta.shape or len(alpha) < 3:
        msg = (
            "a polygon needs as many right ascensions as declinations, three at least: "
            f"found {alpha.size} and {delta.size}"
        )
        raise UsageError(msg)
    if not (np.isfinite(alpha) & (np.abs(delta) <= 90)).all():
        msg = "the corners of a polygon must be right ascensions and declinations in degrees"
        raise UsageError(msg)
    return names_of_rows(rows_in_polygon(unit_vectors(alpha, delta)))


def neighbours(name: str, *, across: bool = True, margin: int = OVERLAP_PIXELS) -> tuple[str, ...]:
    """Return the skycells around a skycell.

    Within a projection cell these are the up to eight that touch it. At its border, where some
    are missing, skycells of other projection cells take their place: those that are `best`
    somewhere in the strip around the image that no neighbour covers.

    Parameters
    ----------
    name
        Of the skycell.
    across
        Whether to look beyond the border of the projection cell.
    margin
        Width of that strip in pixels.

    Returns
    -------
    tuple of str
        Sorted, without the skycell itself.

    Raises
    ------
    UsageError
        No name of a skycell, or no width.
    UnknownName
        No such skycell.
    """
    cell = parse(name)
    if not 0 < margin <= 100_000:
        msg = f"the margin around {cell.name} must be 1 to 100,000 pixels and is {margin}"
        raise UsageError(msg)
    found = {
        Skycell(cell.projection, 10 * y + x).name
        for y in range(max(cell.y - 1, 0), min(cell.y + 2, 10))
        for x in range(max(cell.x - 1, 0), min(cell.x + 2, 10))
    }
    if across and (cell.x in {0, 9} or cell.y in {0, 9}):
        found |= _across(cell, margin)
    return tuple(sorted(found - {cell.name}))


def _across(cell: Skycell, margin: int) -> set[str]:
    """Return the best skycells of the strip around an image outside its projection cell."""
    ny, nx = shape(cell.name)

    def along(length: int) -> NDArray[np.float64]:
        inner = np.arange(0.0, length, _STRIDE)
        outer = np.append(np.arange(_STRIDE, margin, _STRIDE), margin).astype(np.float64)
        return np.concatenate([-outer[::-1] - 0.5, inner, [length - 1.0], length - 0.5 + outer])

    y, x = np.meshgrid(along(ny), along(nx), indexing="ij")
    beyond = np.zeros(x.shape, dtype=bool)
    beyond |= (x < -0.5) & (cell.x == 0)
    beyond |= (x > nx - 0.5) & (cell.x == 9)
    beyond |= (y < -0.5) & (cell.y == 0)
    beyond |= (y > ny - 0.5) & (cell.y == 9)
    ra, dec = pixel_to_sky(cell.name, x[beyond], y[beyond])
    covered = dec >= grid().dec_min
    return set(best_many(ra[covered], dec[covered]).tolist())


def shape(name: str) -> tuple[int, int]:
    """Return the shape (ny, nx) of a skycell's images: NAXIS2, NAXIS1.

    Raises
    ------
    UsageError, UnknownName
        As of `parse`.
    """
    projection = parse(name).row // CELLS
    return int(grid().height[projection]), int(grid().width[projection])


def centre(name: str) -> tuple[float, float]:
    """Return right ascension and declination (degrees) of the middle of a skycell's image.

    Raises
    ------
    UsageError, UnknownName
        As of `parse`.
    """
    ra, dec = sky_of(outlines().centre[parse(name).row])
    return float(ra), float(dec)


def corners(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where the outer corners of a skycell's corner pixels lie.

    Returns
    -------
    ra, dec : ndarray
        Degrees, (4,): south-east, north-east, north-west, south-west (at the tangent point).

    Raises
    ------
    UsageError, UnknownName
        As of `parse`.
    """
    return sky_of(outlines().corners[parse(name).row])


def sky_to_pixel(
    name: str, ra: ArrayLike, dec: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixels of positions in the plane of a skycell, which goes on beyond its image.

    Parameters
    ----------
    name
        Of the skycell.
    ra, dec
        Degrees, of shapes that broadcast.

    Returns
    -------
    x, y : ndarray
        Pixels, the centre of the first one is (0, 0); NaN on the other half of the sky.

    Raises
    ------
    UsageError, UnknownName
        As of `parse`.
    """
    cell = parse(name)
    projection = cell.row // CELLS
    west, north = grid().project(projection, unit_vectors(ra, dec))
    crpix1, crpix2 = grid().reference_pixel(projection, cell.cell)
    return west + crpix1 - 1, north + crpix2 - 1


def pixel_to_sky(
    name: str, x: ArrayLike, y: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return right ascension and declination of pixels of a skycell; undoes `sky_to_pixel`.

    Parameters
    ----------
    name
        Of the skycell.
    x, y
        Pixels, of shapes that broadcast; the centre of the first one is (0, 0).

    Returns
    -------
    ra, dec : ndarray
        Degrees.

    Raises
    ------
    UsageError, UnknownName
        As of `parse`.
    """
    cell = parse(name)
    fits_x, fits_y = np.asarray(x, dtype=np.float64) + 1, np.asarray(y, dtype=np.float64) + 1
    return sky_of(grid().deproject(cell.row // CELLS, cell.cell, fits_x, fits_y))


def wcs_cards(name: str) -> dict[str, str | float]:
    """Return the cards of a skycell's WCS, with the orientation and the frame written properly.

    The archive's headers write the matrix as PC001001 and so on, and name neither frame nor
    equinox; the positions are FK5, J2000 (Flewelling et al. 2020, ApJS 251, 7). Nor do they name
    LONPOLE, whose default the FITS standard turns around where CRVAL2 is 90 (Calabretta & Greisen
    2002, A&A 395, 1077, section 2.4); the archive's list of positions is that of 180.

    Raises
    ------
    UsageError, UnknownName
        As of `parse`.
    """
    cell = parse(name)
    projection = cell.row // CELLS
    crpix1, crpix2 = grid().reference_pixel(projection, cell.cell)
    return {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CUNIT1": "deg",
        "CUNIT2": "deg",
        "CRVAL1": float(grid().ra[projection]),
        "CRVAL2": float(grid().dec[projection]),
        "CRPIX1": float(crpix1),
        "CRPIX2": float(crpix2),
        "CDELT1": _CDELT,
        "CDELT2": _CDELT,
        "PC1_1": -1.0,
        "PC1_2": 0.0,
        "PC2_1": 0.0,
        "PC2_2": 1.0,
        "LONPOLE": 180.0,
        "RADESYS": "FK5",
        "EQUINOX": 2000.0,
    }


def wcs(name: str) -> Any:
    """Return the astropy WCS of a skycell's images, with their shape.

    Returns
    -------
    astropy.wcs.WCS
        The same sky for every pixel as from the header that the archive serves.

    Raises
    ------
    UsageError, UnknownName
        As of `parse`.
    """
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    made = WCS(Header(wcs_cards(name)), naxis=2)
    made.array_shape = shape(name)
    return made
