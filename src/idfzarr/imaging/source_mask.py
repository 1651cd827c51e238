"""Where the objects of an image are, roughly: for its background, and for pixels of pure sky."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import sep
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

Single: TypeAlias = "NDArray[np.float32]"
Mask: TypeAlias = "NDArray[np.bool_]"

__all__ = ["grow_mask", "sky_width", "superstack_background"]

_THRESHOLD = 2.0  # in widths of the smoothed image, to begin with
_STEPS = 12  # of a factor 1.5 by which it is raised in crowded fields
_SMOOTH = 1.0  # pixels, sigma of the smoothing before the threshold
_MIN_AREA = 5  # connected pixels
_GROW = 11  # pixels, side of the square around a source's pixel that its wings still fill
_MOST_HIDDEN = 0.5  # of the pixels: hiding more would leave the dark holes between stars as sky
_FEWEST = 200  # pixels of sky, for a mesh to mean anything
_ROUNDS = 2


def grow_mask(mask: Mask, radius: float) -> Mask:
    """Widen a mask by a radius.

    Parameters
    ----------
    mask
        (y, x).
    radius
        Pixels; a pixel belongs to the result when a pixel of the mask is not farther.

    Returns
    -------
    ndarray of bool
        (y, x).
    """
    if not mask.any():
        return mask.copy()
    grown: Mask = ndimage.distance_transform_edt(~mask) <= radius
    return grown


def sky_width(values: NDArray[np.floating]) -> float:
    """Measure the width of the sky from the values below the median, which objects do not reach.

    Parameters
    ----------
    values
        Finite values, objects among them.

    Returns
    -------
    float
        The distance from the median to the 15.87 % quantile: one standard deviation of a Gaussian.
        NaN without a value.
    """
    if values.size == 0:
        return float("nan")
    low, middle = np.quantile(values, [0.158655, 0.5])
    return float(middle - low)


def superstack_background(mean: Single, err: Single, *, mesh: int) -> Single:
    """Estimate what is left of the sky in a superstack.

    Parameters
    ----------
    mean, err
        (y, x), NaN where nothing was seen.
    mesh
        Size of the mesh, pixels. It must be well above the size of the largest object.

    Returns
    -------
    ndarray
        (y, x): SExtractor's background (mode of the clipped histogram of each mesh, median of 3 x 3
        meshes, bicubic spline; Bertin & Arnouts 1996, A&AS 117, 393) outside a mask of the objects,
        which is made anew once the first background is known. The clipped median of the sky
        pixels where too few of them are left for a mesh, 0 where there are none.
    """
    blank = ~np.isfinite(mean)
    background = np.zeros(mean.shape, dtype=np.float32)
    objects = np.zeros(mean.shape, dtype=bool)
    for _ in range(_ROUNDS):
        background = _mesh(mean, blank | objects, mesh)
        objects = _objects(mean - background, err)
    return _mesh(mean, blank | objects, mesh)


def _mesh(mean: Single, hidden: Mask, mesh: int) -> Single:
    """Estimate the background of the pixels that are not hidden."""
    visible = mean[~hidden]
    if visible.size < _FEWEST or visible.size < 0.02 * mean.size:
        level = float(np.median(visible)) if visible.size else 0.0
        return np.full(mean.shape, level, dtype=np.float32)
    filled = np.where(hidden, np.float32(0.0), mean).astype(np.float32)
    size = min(mesh, *mean.shape)
    found = sep.Background(filled, mask=hidden, bw=size, bh=size, fw=3, fh=3)
    background: Single = found.back(dtype=np.float32)
    return background


def _objects(image: Single, err: Single) -> Mask:
    """Mark what stands out of the noise of the smoothed image, with its wings."""
    finite = np.isfinite(image) & np.isfinite(err)
    snr = np.where(finite, image / np.where(finite, err, 1.0), 0.0).astype(np.float32)
    smooth = ndimage.gaussian_filter(snr, _SMOOTH)
    width = sky_width(smooth[finite])
    if not width > 0:
        return np.zeros(image.shape, dtype=bool)
    grown = np.zeros(image.shape, dtype=bool)
    for step in range(_STEPS):
        labels, count = ndimage.label(smooth > _THRESHOLD * 1.5**step * width)
        large = np.bincount(labels.ravel(), minlength=count + 1) >= _MIN_AREA
        large[0] = False
        grown = ndimage.maximum_filter(large[labels], size=_GROW)
        if np.count_nonzero(grown & finite) <= _MOST_HIDDEN * np.count_nonzero(finite):
            break
    return grown
