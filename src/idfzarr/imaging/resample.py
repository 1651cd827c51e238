"""Bring a mosaic's pixels onto another grid.

One resampler for shifts found from stars and for WCS: it is given where every pixel of the grid
lies in the mosaic. The image is interpolated with cubic splines after bad pixels have been filled
from their neighbours (a NaN would otherwise spread over the whole image); what drew on a bad pixel
is bad again. Variance and coverage are interpolated linearly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.wcs.utils import wcs_to_celestial_frame
from scipy import ndimage

if TYPE_CHECKING:
    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from idfzarr.imaging.mosaic import Mosaic, MosaicHeader

__all__ = ["fill_bad", "grid_in_mosaic", "is_surface_brightness", "pixel_to_pixel", "resample"]

_PER_ANGLE = re.compile(
    r"/\s*\(?\s*(sr|arcsec|deg)|(sr|arcsec2?|deg2?)\s*(\*\*|\^)?\s*\(?\s*-\s*[12]"
)
# An interpolated pixel is bad where bad pixels had more than this share in a linear interpolation.
_BAD_SHARE = 0.1
_SATURATED_SHARE = 0.01


def is_surface_brightness(unit: str) -> bool:
    """Say whether a unit is per solid angle (``MJy/sr``), so that resampling keeps its values.

    Anything else (counts, electrons, none) is an amount per pixel, which a larger pixel holds more
    of.

    Examples
    --------
    >>> is_surface_brightness("MJy/sr"), is_surface_brightness("DN"), is_surface_brightness("")
    (True, False, False)
    """
    return _PER_ANGLE.search(unit.lower()) is not None


def pixel_to_pixel(
    source: WCS, target: WCS, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where positions of one celestial WCS lie in another, in pixels counted from 0.

    NaN where a position cannot be projected.
    """
    lon, lat = source.all_pix2world(x, y, 0)
    ours, theirs = wcs_to_celestial_frame(source), wcs_to_celestial_frame(target)
    if not ours.is_equivalent_frame(theirs):
        inside = np.isfinite(lon) & np.isfinite(lat)
        moved = SkyCoord(lon[inside], lat[inside], unit="deg", frame=ours).transform_to(theirs)
        lon, lat = np.full_like(lon, np.nan), np.full_like(lat, np.nan)
        lon[inside] = moved.spherical.lon.deg
        lat[inside] = moved.spherical.lat.deg
    # quiet: positions that do not converge come back unconverged rather than as an exception.
    there = target.all_world2pix(lon, lat, 0, quiet=True)
    return np.asarray(there[0]), np.asarray(there[1])


def grid_in_mosaic(grid: WCS, mosaic: WCS, shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return where every pixel of a grid lies in a mosaic: shape (2, y, x), y first."""
    y, x = np.indices(shape, dtype=np.float64)
    there_x, there_y = pixel_to_pixel(grid, mosaic, x.ravel(), y.ravel())
    return np.stack([there_y.reshape(shape), there_x.reshape(shape)])


def fill_bad(image: NDArray[np.float32], bad: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Replace bad pixels by the mean of the good ones around, or by the median of the image.

    The neighbours are weighted by a Gaussian of sigma 1 pixel, cut at 4 pixels.
    """
    if not bad.any():
        return image
    good = (~bad).astype(np.float32)
    middle = np.float32(np.median(image[~bad]))
    # Around the median, so that what is far from any good pixel tends to it.
    level = np.where(bad, np.float32(0), image - middle).astype(np.float32)
    weight = ndimage.gaussian_filter(good, 1.0)
    smooth = ndimage.gaussian_filter(level, 1.0)
    near = weight > 1e-4
    fill = np.where(near, smooth / np.where(near, weight, 1), 0) + middle
    return np.where(bad, fill, image).astype(np.float32)


def resample(
    mosaic: Mosaic,
    coordinates: NDArray[np.float64],
    header: MosaicHeader,
    *,
    scale: float | NDArray[np.float64] = 1.0,
) -> Mosaic:
    """Interpolate a mosaic at given positions.

    Parameters
    ----------
    mosaic
        What to interpolate.
    coordinates
        Shape (2, y, x): for every pixel of the new grid its y and x in the mosaic.
    header
        Of the result; its shape is (y, x).
    scale
        Area of a new pixel in pixels of the mosaic, for amounts per pixel; 1 for surface
        brightness.

    Returns
    -------
    Mosaic
        On the new grid. Bad pixels, among them all that lie beyond the mosaic, are NaN in ``sci``
        and ``unc`` and 0 in ``cov``.

    Notes
    -----
    ``unc`` is the square root of the linearly interpolated variance: the noise of a pixel before
    interpolation, not the smaller one after it. Neighbours are correlated instead, and an
    aperture's noise has to be measured (``noise_scale``).
    """
    ny, nx = mosaic.sci.shape
    with np.errstate(invalid="ignore"):
        inside = (
            (coordinates[0] >= 0)
            & (coordinates[0] <= ny - 1)
            & (coordinates[1] >= 0)
            & (coordinates[1] <= nx - 1)
        )
    at = np.where(inside, coordinates, 0.0)
    corners = _Corners.of(at, mosaic.sci.shape)
    bad = ~inside
    if mosaic.bad.any():
        bad |= corners.linear(mosaic.bad) > _BAD_SHARE
    sci = ndimage.map_coordinates(
        fill_bad(mosaic.sci, mosaic.bad), at, order=3, mode="mirror", output=np.float32
    )
    unc = cov = saturated = None
    if mosaic.unc is not None:
        variance = fill_bad(mosaic.unc, mosaic.bad).astype(np.float64) ** 2
        unc = _blank(np.sqrt(corners.linear(variance)) * scale, bad)
    if mosaic.cov is not None:
        coverage = corners.linear(np.nan_to_num(mosaic.cov, nan=0.0, posinf=0.0, neginf=0.0))
        cov = np.where(bad, 0, coverage).astype(np.float32)
    if mosaic.saturated is not None:
        saturated = inside & (corners.linear(mosaic.saturated) > _SATURATED_SHARE)
    return replace(
        mosaic,
        header=header,
        sci=_blank(sci * scale, bad),
        unc=unc,
        cov=cov,
        bad=bad,
        saturated=saturated,
    )


def _blank(image: NDArray[np.floating], bad: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(bad, np.nan, image).astype(np.float32)


@dataclass(frozen=True)
class _Corners:
    """The four pixels around every position and their weights, made once for all planes."""

    first: NDArray[np.intp]
    right: NDArray[np.intp]
    below: NDArray[np.intp]
    weight_x: NDArray[np.float32]
    weight_y: NDArray[np.float32]

    @classmethod
    def of(cls, at: NDArray[np.float64], shape: tuple[int, ...]) -> _Corners:
        ny, nx = shape
        row, column = np.floor(at[0]).astype(np.intp), np.floor(at[1]).astype(np.intp)
        # On the last row or column the next one has weight 0 and is not looked at.
        return cls(
            row * nx + column,
            np.minimum(column + 1, nx - 1) - column,
            (np.minimum(row + 1, ny - 1) - row) * nx,
            (at[1] - column).astype(np.float32),
            (at[0] - row).astype(np.float32),
        )

    def linear(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Interpolate a plane linearly."""
        flat = plane.ravel()
        flat = flat.astype(np.float32) if flat.dtype == bool else flat
        lower = self.first + self.below
        top = flat[self.first] * (1 - self.weight_x) + flat[self.first + self.right] * self.weight_x
        bottom = flat[lower] * (1 - self.weight_x) + flat[lower + self.right] * self.weight_x
        return np.asarray(top * (1 - self.weight_y) + bottom * self.weight_y)
