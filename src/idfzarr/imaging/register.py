"""Put every mosaic of a field on one grid.

The rule, in `choose_grid`:

- all mosaics on one WCS grid (within 0.01 pixel): that grid, and nothing is resampled;
- one shape and WCS that agree within 0.3 pixel everywhere, as of a staring telescope: the grid of
  the mosaic in the middle of them, and nothing is resampled either, since interpolation would
  correlate the noise for less than the photometry of an aperture can feel;
- other WCS: one gnomonic (TAN) grid, north up, that holds them all, at the finest pixel scale;
- no WCS: the grid of the frame that the others overlap best, and stars show where they lie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import sep
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.wcs import WCSCOMPARE_ANCILLARY
from astropy.wcs.utils import wcs_to_celestial_frame
from reproject.mosaicking import find_optimal_celestial_wcs

from idfzarr.errors import ImageShape, RegistrationFailed, UsageError
from idfzarr.imaging.fits_image import MAX_PIXELS, silent_astropy
from idfzarr.imaging.resample import (
    grid_in_mosaic,
    is_surface_brightness,
    pixel_to_pixel,
    resample,
)
from idfzarr.imaging.starfield import (
    Alignment,
    StarField,
    align,
    best_reference,
    find_stars,
    mesh_background,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from idfzarr.imaging.mosaic import Mosaic, MosaicHeader

__all__ = [
    "Alignment",
    "Grid",
    "Offset",
    "Placement",
    "StarField",
    "align",
    "best_reference",
    "choose_grid",
    "find_stars",
    "measure_offset",
    "mesh_background",
    "place",
]

SAME_GRID = 0.01
"""Pixels within which two WCS are one grid."""

STARING = 0.3
"""Pixels within which mosaics that all point alike are used as they are."""

# A mosaic farther than this many diagonals from the middle of all is of another field.
_FARTHEST = 3.0
_SAME_STARS = 0.05
_SCALE_SIGMA = 2.3548
_WIDEST_JUMP = 2.0


@dataclass(frozen=True)
class Grid:
    """The pixels that all mosaics of a field are brought to.

    Attributes
    ----------
    shape
        (ny, nx).
    wcs
        Celestial; None for a field without WCS.
    pixel_scale
        Arcseconds per pixel; NaN where unknown.
    reference
        Index of the mosaic whose own grid this is, among those given to `choose_grid`; None for a
        grid made for them all.
    stars
        The reference's stars, for a field without WCS.
    tolerance
        Pixels by which a mosaic's own grid may differ and still be used unresampled.
    """

    shape: tuple[int, int]
    wcs: WCS | None
    pixel_scale: float
    reference: int | None = None
    stars: StarField | None = None
    tolerance: float = SAME_GRID


@dataclass(frozen=True)
class Placement:
    """How a mosaic came to lie on the grid.

    Attributes
    ----------
    how
        ``same-grid`` (pixels untouched), ``reprojected`` (by its WCS) or ``stars``.
    matrix
        Shape (2, 3), from the mosaic's pixels (x, y) to the grid's; None where a WCS says it.
    dx, dy
        Where the middle of the grid lies in the mosaic, minus where it lies in the grid, in pixels
        (AOR minus grid), before resampling.
    rms
        Residual of the matched stars along one axis, in pixels; NaN where no stars were matched.
    n_stars
        How many were matched.
    """

    how: Literal["same-grid", "reprojected", "stars"]
    matrix: NDArray[np.float64] | None
    dx: float
    dy: float
    rms: float
    n_stars: int


@dataclass(frozen=True)
class Offset:
    """How far a mosaic's stars lie from where they should be.

    Attributes
    ----------
    dx, dy
        Median of measured minus given positions, in pixels; NaN where no star could be measured.
    rms
        Scatter of one star along one axis, robust, in pixels; NaN with fewer than two stars.
    n_stars
        How many stars were measured.
    """

    dx: float
    dy: float
    rms: float
    n_stars: int


def choose_grid(
    headers: Sequence[MosaicHeader], *, stars: Sequence[StarField] | None = None
) -> Grid:
    """Choose the grid of a field; the rule stands at the head of this module.

    Parameters
    ----------
    headers
        Of all mosaics, all channels.
    stars
        The stars of each, in the same order (`find_stars`); needed for frames without WCS.

    Returns
    -------
    Grid
        The same for the same headers in the same order.

    Raises
    ------
    UsageError
        No headers, or frames without WCS and no stars.
    RegistrationFailed
        Some mosaics have a WCS and some have none, or one points elsewhere.
    """
    if not headers:
        msg = "a grid was asked for no mosaics at all"
        raise UsageError(msg)
    without = [header for header in headers if header.wcs is None]
    if not without:
        return _celestial_grid(headers)
    if len(without) < len(headers):
        msg = (
            f"{without[0].path} and {len(without) - 1} more of {len(headers)} mosaics have no WCS "
            "while the others have one: build them apart, or give them one"
        )
        raise RegistrationFailed(msg)
    if stars is None or len(stars) != len(headers):
        msg = (
            f"{len(headers)} frames without WCS need the stars of each to be aligned by, got "
            f"{0 if stars is None else len(stars)} star fields"
        )
        raise UsageError(msg)
    middle = _middle_of_night(headers)
    chosen = best_reference(stars, start=middle)
    header = headers[chosen]
    return Grid(header.shape, None, header.pixel_scale, chosen, stars[chosen], _SAME_STARS)


def place(
    mosaic: Mosaic, grid: Grid, *, stars: StarField | None = None
) -> tuple[Mosaic, Placement]:
    """Bring a mosaic onto the grid of its field.

    Parameters
    ----------
    mosaic
        As `idfzarr.imaging.mosaic.read_mosaic` returns it; a background to be taken off comes off
        before.
    grid
        From `choose_grid`.
    stars
        The mosaic's stars where they are known already; only for a field without WCS.

    Returns
    -------
    placed : Mosaic
        On the grid; the mosaic itself where its pixels are the grid's.
    placement : Placement
        How it came there.

    Raises
    ------
    RegistrationFailed
        No alignment, no overlap, or a WCS on one side only; the file is named.

    Notes
    -----
    Surface brightness (MJy/sr) is interpolated; amounts per pixel (counts) are multiplied by the
    ratio of the pixels' areas besides, so that a star keeps its flux.
    """
    if grid.wcs is None:
        return _place_by_stars(mosaic, grid, stars)
    if mosaic.header.wcs is None:
        msg = f"{mosaic.header.path} has no WCS while the field has one: it cannot be placed"
        raise RegistrationFailed(msg)
    return _place_by_wcs(mosaic, grid)


def measure_offset(
    image: NDArray[np.float32],
    bad: NDArray[np.bool_],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    fwhm: float = 3.0,
) -> Offset:
    """Measure how far a placed mosaic's stars lie from their superstack positions.

    Windowed centroids (SExtractor manual, "Windowed positional parameters"; through sep) start at
    the given positions. Stars whose window holds a bad pixel, whose centroid fails or moves more
    than 2 pixels are left out, then those beyond 3 robust sigma of the median.

    Parameters
    ----------
    image
        Shape (y, x), its background taken off.
    bad
        Pixels not to use, like ``image``.
    x, y
        Positions of bright isolated stars, measured the same way on the superstack; pixels.
    fwhm
        Of a star, in pixels; sets the window.

    Returns
    -------
    Offset
        AOR minus superstack.
    """
    if image.shape != bad.shape:
        msg = f"image {image.shape} and its mask {bad.shape} differ in shape"
        raise ImageShape(msg)
    x, y = np.atleast_1d(x).astype(np.float64), np.atleast_1d(y).astype(np.float64)
    clear = _clear_of_bad(bad, x, y, fwhm)
    if not clear.any():
        return Offset(math.nan, math.nan, math.nan, 0)
    x, y = x[clear], y[clear]
    pixels = np.ascontiguousarray(np.where(bad, 0, image), dtype=np.float32)
    new_x, new_y, flag = sep.winpos(
        pixels, x, y, fwhm / _SCALE_SIGMA, mask=np.ascontiguousarray(bad)
    )
    dx, dy = new_x - x, new_y - y
    good = np.isfinite(dx) & np.isfinite(dy) & (np.hypot(dx, dy) < _WIDEST_JUMP)
    good &= (flag & (sep.APER_TRUNC | sep.APER_ALLMASKED | sep.APER_NONPOSITIVE)) == 0
    dx, dy = dx[good], dy[good]
    if not len(dx):
        return Offset(math.nan, math.nan, math.nan, 0)
    spread = _spread(dx, dy)
    if spread > 0:
        far = np.hypot(dx - np.median(dx), dy - np.median(dy)) > 3 * spread * math.sqrt(2)
        dx, dy = dx[~far], dy[~far]
    rms = _spread(dx, dy) if len(dx) > 1 else math.nan
    return Offset(float(np.median(dx)), float(np.median(dy)), rms, len(dx))


def _spread(dx: NDArray[np.float64], dy: NDArray[np.float64]) -> float:
    """Return 1.4826 x the median absolute deviation, both axes together."""
    deviations = np.concatenate([dx - np.median(dx), dy - np.median(dy)])
    return float(1.4826 * np.median(np.abs(deviations)))


def _clear_of_bad(
    bad: NDArray[np.bool_], x: NDArray[np.float64], y: NDArray[np.float64], fwhm: float
) -> NDArray[np.bool_]:
    """Mark the positions whose box of +-1.5 FWHM lies in the image and holds no bad pixel."""
    ny, nx = bad.shape
    reach = math.ceil(1.5 * fwhm)
    inside = (x >= reach) & (x <= nx - 1 - reach) & (y >= reach) & (y <= ny - 1 - reach)
    clear = np.zeros(len(x), dtype=bool)
    for k in np.flatnonzero(inside):
        column, row = round(float(x[k])), round(float(y[k]))
        box = bad[
            max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1
        ]
        clear[k] = not box.any()
    return clear


def _middle_of_night(headers: Sequence[MosaicHeader]) -> int:
    """Return the index of the frame in the middle of time, or of the sequence without times."""
    times = np.array([header.mjd for header in headers])
    if not np.isfinite(times).any():
        return len(headers) // 2
    # Without a time a frame sorts last and cannot be the middle.
    order = np.argsort(np.where(np.isfinite(times), times, np.inf), kind="stable")
    return int(order[int(np.isfinite(times).sum()) // 2])


def _celestial_grid(headers: Sequence[MosaicHeader]) -> Grid:
    first = headers[0]
    if any(header.shape != first.shape for header in headers):
        return _common_grid(headers)
    shifts = np.stack([_corner_shifts(header, first) for header in headers])
    if not np.isfinite(shifts).all():
        return _common_grid(headers)
    # Where the first one's grid is not everybody's, the frame nearest to the middle of all.
    centres = shifts.mean(axis=2)
    reach = np.maximum(centres - centres.min(axis=0), centres.max(axis=0) - centres).max(axis=1)
    chosen = 0 if np.abs(shifts).max() <= SAME_GRID else int(np.argmin(reach))
    farthest = float(np.abs(shifts - shifts[chosen]).max())
    if farthest > STARING:
        return _common_grid(headers)
    header = headers[chosen]
    tolerance = SAME_GRID if farthest <= SAME_GRID else STARING
    return Grid(header.shape, header.wcs, header.pixel_scale, chosen, None, tolerance)


def _corner_shifts(header: MosaicHeader, other: MosaicHeader) -> NDArray[np.float64]:
    """Return how far corners and middle lie in another's pixels from where they lie in their own.

    Shape (2, 5), x first; both mosaics have the same shape.
    """
    ny, nx = header.shape
    x = np.array([0, nx - 1, 0, nx - 1, (nx - 1) / 2])
    y = np.array([0, 0, ny - 1, ny - 1, (ny - 1) / 2])
    if header.wcs is None or other.wcs is None or _same_cards(header.wcs, other.wcs):
        return np.zeros((2, 5))
    there_x, there_y = pixel_to_pixel(header.wcs, other.wcs, x, y)
    return np.stack([there_x - x, there_y - y])


def _same_cards(one: WCS, other: WCS) -> bool:
    """Compare two WCS card by card, which is much faster than by their positions."""
    if one is other:
        return True
    if any(
        w.sip is not None or w.cpdis1 is not None or w.det2im1 is not None for w in (one, other)
    ):
        return False
    return bool(one.wcs.compare(other.wcs, WCSCOMPARE_ANCILLARY))


def _common_grid(headers: Sequence[MosaicHeader]) -> Grid:
    """Return a gnomonic grid that holds all mosaics."""
    _refuse_strays(headers)
    scale = min(header.pixel_scale for header in headers)
    inputs = [(header.shape, header.wcs) for header in headers]
    with silent_astropy():
        wcs, shape = find_optimal_celestial_wcs(
            inputs, frame="icrs", projection="TAN", resolution=scale * units.arcsec
        )
    ny, nx = int(shape[0]), int(shape[1])
    if ny * nx > MAX_PIXELS:
        msg = (
            f"a grid for {len(headers)} mosaics would have {nx} x {ny} pixels, more than "
            f"{MAX_PIXELS:,}: do they show one field?"
        )
        raise RegistrationFailed(msg)
    return Grid((ny, nx), wcs, scale)


def _refuse_strays(headers: Sequence[MosaicHeader]) -> None:
    """Raise where a mosaic points so far from the others that it must be of another field."""
    centres = np.stack([_direction(header) for header in headers])
    middle = np.median(centres, axis=0)
    middle /= np.linalg.norm(middle)
    away = np.degrees(np.arccos(np.clip(centres @ middle, -1, 1)))
    sizes = np.array([math.hypot(*header.shape) * header.pixel_scale / 3600 for header in headers])
    far = away > _FARTHEST * np.maximum(sizes, np.median(sizes))
    if far.any():
        worst = int(np.argmax(away))
        msg = (
            f"{headers[worst].path} points {away[worst]:.3g} degrees away from the middle of the "
            f"{len(headers)} mosaics, which are {np.median(sizes):.3g} degrees across: it is of "
            "another field, remove it from the folder"
        )
        raise RegistrationFailed(msg)


def _direction(header: MosaicHeader) -> NDArray[np.float64]:
    """Return the unit vector to a mosaic's middle, in ICRS."""
    if header.wcs is None:
        msg = f"{header.path} has no WCS"
        raise RegistrationFailed(msg)
    x, y = (header.shape[1] - 1) / 2, (header.shape[0] - 1) / 2
    lon, lat = header.wcs.all_pix2world(x, y, 0)
    frame = wcs_to_celestial_frame(header.wcs)
    sky = SkyCoord(float(lon), float(lat), unit="deg", frame=frame).icrs
    return np.asarray(sky.cartesian.xyz.value, dtype=np.float64)


def _place_by_wcs(mosaic: Mosaic, grid: Grid) -> tuple[Mosaic, Placement]:
    header = mosaic.header
    on_grid = replace(header, shape=grid.shape, wcs=grid.wcs, pixel_scale=grid.pixel_scale)
    if header.shape == grid.shape:
        shifts = _corner_shifts(on_grid, header)
        if np.abs(shifts).max() <= grid.tolerance:
            dx, dy = (float(shift) for shift in shifts[:, -1])
            return replace(mosaic, header=on_grid), Placement(
                "same-grid", None, dx, dy, math.nan, 0
            )
    at = grid_in_mosaic(grid.wcs, header.wcs, grid.shape)
    scale = (
        1.0 if is_surface_brightness(header.unit) else (grid.pixel_scale / header.pixel_scale) ** 2
    )
    placed = resample(mosaic, at, on_grid, scale=scale)
    _refuse_empty(placed, header)
    middle = grid.shape[0] // 2, grid.shape[1] // 2
    dy, dx = (float(at[k][middle]) - middle[k] for k in (0, 1))
    return placed, Placement("reprojected", None, dx, dy, math.nan, 0)


def _place_by_stars(
    mosaic: Mosaic, grid: Grid, stars: StarField | None
) -> tuple[Mosaic, Placement]:
    header = mosaic.header
    if grid.stars is None:
        msg = f"{header.path} has no WCS and the grid has no stars to align it by"
        raise RegistrationFailed(msg)
    if stars is None:
        stars = find_stars(mosaic.sci, mosaic.bad, saturated=mosaic.saturated)
    found = align(stars, grid.stars, name=str(header.path))
    linear, shift = found.matrix[:, :2], found.matrix[:, 2]
    inverse = np.linalg.inv(linear)
    ny, nx = grid.shape
    corners = np.array([[0, nx - 1, 0, nx - 1], [0, 0, ny - 1, ny - 1]], dtype=float)
    middle = np.array([(nx - 1) / 2, (ny - 1) / 2])
    dx, dy = (float(value) for value in inverse @ (middle - shift) - middle)
    away = np.abs(inverse @ (corners - shift[:, None]) - corners).max()
    on_grid = replace(header, shape=grid.shape, wcs=None)
    if header.shape == grid.shape and away <= grid.tolerance:
        placement = Placement("same-grid", found.matrix, dx, dy, found.rms, found.n_stars)
        return replace(mosaic, header=on_grid), placement
    x, y = np.meshgrid(np.arange(nx) - shift[0], np.arange(ny) - shift[1])
    at = np.stack([inverse[1, 0] * x + inverse[1, 1] * y, inverse[0, 0] * x + inverse[0, 1] * y])
    scale = 1.0 if is_surface_brightness(header.unit) else float(abs(np.linalg.det(inverse)))
    placed = resample(mosaic, at, on_grid, scale=scale)
    _refuse_empty(placed, header)
    return placed, Placement("stars", found.matrix, dx, dy, found.rms, found.n_stars)


def _refuse_empty(placed: Mosaic, header: MosaicHeader) -> None:
    if placed.bad.all():
        msg = f"{header.path} does not overlap the field's grid of {placed.header.shape} (ny, nx)"
        raise RegistrationFailed(msg)
