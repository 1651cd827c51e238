"""The local sky: the clipped median of the pixels in an annulus around each position."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.imaging.footprints import annulus_boxes
from idfzarr.imaging.robust import clip_rows, median_rows, std_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LocalSky", "local_sky"]

# Bounds the gathered boxes to some 30 MB.
_PIXELS_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class LocalSky:
    """The sky around n positions.

    Parameters
    ----------
    level
        (n,) clipped median, per pixel; NaN where the annulus holds no usable pixel.
    scatter
        (n,) standard deviation of the pixels left, per pixel.
    pixels
        (n,) how many pixels were left.
    """

    level: NDArray[np.float64]
    scatter: NDArray[np.float64]
    pixels: NDArray[np.int64]


def local_sky(
    image: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    annulus: tuple[float, float],
) -> LocalSky:
    """Measure the sky in annuli around positions.

    Parameters
    ----------
    image
        (y, x), NaN where a pixel must not be used.
    x, y
        Positions (n,) in pixels.
    annulus
        Inner and outer radius in pixels.

    Returns
    -------
    LocalSky
        As ``photutils.aperture.ApertureStats`` of a `CircularAnnulus` with
        ``SigmaClip(sigma=3, maxiters=10)`` gives it.

    Raises
    ------
    UsageError
        The radii are no annulus.
    """
    inner, outer = (float(radius) for radius in annulus)
    if not (np.isfinite(outer) and 0 <= inner < outer):
        msg = f"an annulus needs 0 <= r_in < r_out in pixels, and ({inner:g}, {outer:g}) was given"
        raise UsageError(msg)
    level, scatter = np.full(x.size, np.nan), np.full(x.size, np.nan)
    pixels = np.zeros(x.size, dtype=np.int64)
    step = max(1, int(_PIXELS_AT_ONCE / (2 * np.ceil(outer) + 1) ** 2))
    for first in range(0, x.size, step):
        run = slice(first, first + step)
        kept = clip_rows(annulus_boxes(image, x[run], y[run], inner=inner, outer=outer))
        level[run], scatter[run] = median_rows(kept), std_rows(kept)
        pixels[run] = np.count_nonzero(~np.isnan(kept), axis=1)
    return LocalSky(level, scatter, pixels)
