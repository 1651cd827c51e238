"""The images that objects are searched on: flux in units of the background's noise.

A superstack divided by its error is no such image, since the error holds the objects' own photon
noise and would flatten bright stars. Here the error is that of the background alone, and how
wide the result really is after the detection filter is measured: noise that is correlated
between pixels makes it two to three times wider than independent noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy import ndimage

from idfzarr.imaging.source_mask import sky_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.imaging.superstack import Superstack

Single: TypeAlias = "NDArray[np.float32]"
Mask: TypeAlias = "NDArray[np.bool_]"

__all__ = ["KERNEL", "DetectionImage", "combine", "prepare"]

KERNEL: Single = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=np.float32)
"""SExtractor's ``default.conv``, an all-ground pyramid of about 2 pixels FWHM."""

_NORMALISED = KERNEL / KERNEL.sum()
_WHITE = float(
    np.sqrt(np.sum(_NORMALISED.astype(np.float64) ** 2))
)  # width of filtered white noise
_STEP = 4  # every fourth pixel is enough to follow the noise of the background
_ROUNDS = 3
_CLIP = 4.0  # widths
_GROW = 9  # pixels, side of the square around an object's pixel
_LEAST_SKY = 0.3  # of the pixels: less is dark holes between objects
_FEWEST = 4096  # pixels: in a smaller image the wings of one star are the noise
_WINDOW = 9  # of those: 33 pixels, well above an object, well below a step in coverage


@dataclass(frozen=True)
class DetectionImage:
    """An image to search.

    Parameters
    ----------
    name
        The channel, or what the combination is called.
    values
        (y, x), flux over the noise of the background; 0 where hidden.
    hidden
        (y, x), pixels that were not seen.
    width
        Robust standard deviation of the filtered image where there is only sky.
    """

    name: str
    values: Single
    hidden: Mask
    width: float

    @property
    def correlation(self) -> float:
        """Width relative to that of independent noise of unit variance after the same filter."""
        return self.width / _WHITE


def prepare(name: str, stack: Superstack, *, min_aors: int) -> DetectionImage:
    """Turn a superstack into an image to search.

    Parameters
    ----------
    name
        Its channel.
    stack
        The superstack.
    min_aors
        Pixels that fewer AORs have seen are hidden.

    Returns
    -------
    DetectionImage
        Its width is NaN where everything is hidden.
    """
    hidden = ~np.isfinite(stack.flux) | ~np.isfinite(stack.err) | (stack.seen < max(min_aors, 1))
    err = _background_err(stack, hidden)
    values = (np.where(hidden, 0.0, stack.flux) / err).astype(np.float32)
    return DetectionImage(name, values, hidden, _filtered_width(values, hidden))


def combine(images: Sequence[DetectionImage], name: str) -> DetectionImage:
    """Add up images in units of their noise.

    Parameters
    ----------
    images
        One or more, on one grid.
    name
        What to call the result.

    Returns
    -------
    DetectionImage
        The sum over those that saw a pixel, divided by the root of their number: an object as
        bright in both of two channels, in units of their noise, gains a factor of 1.4.
    """
    total = np.zeros(images[0].values.shape, dtype=np.float32)
    number = np.zeros(images[0].values.shape, dtype=np.float32)
    for image in images:
        if not image.width > 0:
            continue
        total += image.values / np.float32(image.width)
        number += ~image.hidden
    hidden = number == 0
    values = (total / np.sqrt(np.maximum(number, 1.0))).astype(np.float32)
    return DetectionImage(name, values, hidden, _filtered_width(values, hidden))


def _filtered_width(values: Single, hidden: Mask) -> float:
    """Measure how wide the sky is after the detection filter."""
    filtered = ndimage.convolve(values, _NORMALISED, mode="nearest")
    sky = ~hidden
    width, seen = sky_width(filtered[sky]), np.count_nonzero(sky)
    for _ in range(_ROUNDS if width > 0 else 0):
        # The wings of objects widen the sky: leave them out, as long as sky remains.
        objects = filtered > np.median(filtered[sky]) + _CLIP * width
        sky = ~hidden & ~ndimage.maximum_filter(objects, size=_GROW)
        if np.count_nonzero(sky) < max(_LEAST_SKY * seen, _FEWEST):
            break
        width = sky_width(filtered[sky])
    return width


def _background_err(stack: Superstack, hidden: Mask) -> Single:
    """Return the error of the background: the error, without the objects' photon noise.

    The error of one AOR, ``err * sqrt(coverage)``, is smooth but for objects; a running median
    leaves them out and keeps the steps in coverage.
    """
    root = np.sqrt(np.maximum(stack.coverage, 1)).astype(np.float32)
    one = np.where(hidden, np.nan, stack.err * root)[::_STEP, ::_STEP]
    known = np.isfinite(one)
    if not known.any():
        return np.ones(stack.err.shape, dtype=np.float32)
    filled = np.where(known, one, np.median(one[known]))
    smooth = ndimage.median_filter(filled, size=_WINDOW, mode="nearest")
    ny, nx = stack.err.shape
    smooth = np.repeat(np.repeat(smooth, _STEP, axis=0), _STEP, axis=1)[:ny, :nx]
    err = np.where(hidden, 1.0, np.fmin(stack.err, smooth / root))
    return np.maximum(err, np.finfo(np.float32).tiny).astype(np.float32)
