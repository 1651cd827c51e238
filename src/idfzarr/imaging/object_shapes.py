"""What an object looks like on the superstack: centre, moments, Kron ellipse, size, neighbours."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import sep
from scipy.spatial import cKDTree

from idfzarr.flags import flag_bit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.imaging.detection_image import DetectionImage
    from idfzarr.imaging.superstack import Superstack

Double: TypeAlias = "NDArray[np.float64]"
Integers: TypeAlias = "NDArray[np.int64]"
Labels: TypeAlias = "NDArray[np.int32]"
Mask: TypeAlias = "NDArray[np.bool_]"

__all__ = ["Shapes", "isolation", "measure_shapes", "sum_ellipses"]

_KRON_SEARCH = 6.0  # SExtractor measures the Kron radius within 6 a x 6 b
_KRON_FACTOR = 2.5  # PHOT_AUTOPARAMS 2.5, 3.5
_KRON_MIN = 3.5
_KRON_MAX = 8.0  # an exponential disc has 5; more is a neighbour or the sky
_MIN_AXIS = 0.5  # pixels: less is one pixel's shape
_MAX_SHIFT = 1.0  # pixels: a windowed centre that went farther went to a neighbour
_FWHM_TO_SIGMA = 1.0 / 2.3548200450309493
# A window as wide as the star, SExtractor's, is drawn to a neighbour 6 px away by up to a pixel;
# 0.65 of that by a tenth of it, and is as good for stars that stand alone, as long as it spans
# pixels.
_WINDOW = 0.65
_WINDOW_MIN = 2.4  # pixels, of full width
_PROFILE_STEP = 0.5  # pixels
_PROFILE_STEPS = 24
_NEAR = 8.0  # pixels
_SPILL = 0.01  # of an object's own flux
_APERTURE = 5.0  # pixels, of the circle that spilled light is counted in
_BETA = 2.5  # Moffat's exponent of a star's wings, as for IRAC and for seeing
_SPILL_REACH = 40.0  # pixels


@dataclass(frozen=True)
class Shapes:
    """Shapes of n objects, every array (n,).

    Parameters
    ----------
    x, y
        Windowed centroid (SExtractor's ``XWIN``, ``YWIN``, with a narrower window), 0-based
        pixels; the isophotal one where the windowed one left by more than a pixel.
    a, b, theta
        Second moments as an ellipse: pixels, radians from x to y.
    fwhm
        Full width at half maximum of the mean radial profile, pixels.
    kron_radius
        Kron's first moment in units of a and b (Kron 1980, ApJS 43, 305), neighbours' pixels left
        out.
    kron_a, kron_b
        Semi-axes of the AUTO ellipse, pixels: 2.5 Kron radii, at least 3.5 and at most 8 moments.
    """

    x: Double
    y: Double
    a: Double
    b: Double
    theta: Double
    fwhm: Double
    kron_radius: Double
    kron_a: Double
    kron_b: Double

    def take(self, rows: NDArray[Any]) -> Shapes:
        """Keep some objects, in the order given."""
        return Shapes(**{item.name: getattr(self, item.name)[rows] for item in fields(self)})


def measure_shapes(
    records: NDArray[np.void],
    labels: Labels,
    own: Integers,
    segmentation: Labels,
    images: Sequence[DetectionImage],
) -> Shapes:
    """Measure every object on the image it was found on.

    Parameters
    ----------
    records
        (n,), as `sep.extract` returns them.
    labels
        (n,), the object's label in the segmentation.
    own
        (n,), index of the image.
    segmentation
        (y, x).
    images
        The images.

    Returns
    -------
    Shapes
        In the order of the records.
    """
    values = {item.name: np.full(records.size, np.nan) for item in fields(Shapes)}
    for number, image in enumerate(images):
        rows = np.flatnonzero(own == number)
        if rows.size:
            part = _measure(records[rows], labels[rows], segmentation, image)
            for name, column in values.items():
                column[rows] = getattr(part, name)
    return Shapes(**values)


def _measure(
    records: NDArray[np.void], labels: Labels, segmentation: Labels, image: DetectionImage
) -> Shapes:
    """Measure the objects of one image."""
    data = np.ascontiguousarray(image.values)
    x, y = records["x"].astype(np.float64), records["y"].astype(np.float64)
    a = np.maximum(np.nan_to_num(records["a"].astype(np.float64)), _MIN_AXIS)
    b = np.clip(np.nan_to_num(records["b"].astype(np.float64)), _MIN_AXIS, a)
    # sep wants angles within a quarter turn, and rounding may step over.
    theta = np.clip(np.nan_to_num(records["theta"].astype(np.float64)), -np.pi / 2, np.pi / 2)
    others = {"seg_id": labels.astype(np.int32), "segmap": np.ascontiguousarray(segmentation)}
    kron, flag = sep.kron_radius(data, x, y, a, b, theta, _KRON_SEARCH, mask=image.hidden, **others)
    failed = ~np.isfinite(kron) | (kron <= 0) | ((flag & sep.APER_NONPOSITIVE) != 0)
    kron = np.where(failed, _KRON_MIN / _KRON_FACTOR, kron)
    factor = np.clip(_KRON_FACTOR * kron, _KRON_MIN, _KRON_MAX)
    moments = np.sqrt(0.5 * (a**2 + b**2)) / _FWHM_TO_SIGMA
    x, y = _windowed(data, x, y, _full_width(data, x, y, moments), image.hidden)
    fwhm = _full_width(data, x, y, moments)
    return Shapes(x, y, a, b, theta, fwhm, kron, factor * a, factor * b)


def _full_width(data: NDArray[np.float32], x: Double, y: Double, otherwise: Double) -> Double:
    """Interpolate where the mean radial profile falls to half of its middle."""
    radius = _PROFILE_STEP * np.arange(1, _PROFILE_STEPS + 1)
    inside = np.stack([sep.sum_circle(data, x, y, r, subpix=0)[0] for r in radius])
    area = np.pi * radius[:, np.newaxis] ** 2
    ring = np.diff(inside, axis=0, prepend=0.0) / np.diff(area, axis=0, prepend=0.0)
    middle = np.sqrt(radius**2 - _PROFILE_STEP * radius + 0.5 * _PROFILE_STEP**2)
    middle[0] = 0.0
    below = ring <= 0.5 * ring[0]
    found = below.any(axis=0) & (ring[0] > 0)
    last = np.where(found, np.argmax(below, axis=0), 1)
    each = np.arange(x.size)
    upper, lower = ring[last - 1, each], ring[last, each]
    share = np.where(found, upper - 0.5 * ring[0], 0.0) / np.where(found, upper - lower, 1.0)
    at = middle[last - 1] + share * (middle[last] - middle[last - 1])
    return np.where(found, 2.0 * at, otherwise)


def _windowed(
    data: NDArray[np.float32], x: Double, y: Double, fwhm: Double, hidden: Mask
) -> tuple[Double, Double]:
    """Refine centres with a Gaussian window, where that stays near."""
    width = np.maximum(_WINDOW * fwhm, np.minimum(fwhm, _WINDOW_MIN))
    window = np.clip(width * _FWHM_TO_SIGMA, 0.5, 10.0)
    x_new, y_new, _ = sep.winpos(data, x, y, window, mask=hidden, subpix=5)
    near = np.hypot(x_new - x, y_new - y) <= _MAX_SHIFT  # False for NaN
    return np.where(near, x_new, x), np.where(near, y_new, y)


def sum_ellipses(stack: Superstack, shapes: Shapes) -> tuple[Double, Double, NDArray[np.uint16]]:
    """Sum the flux in the AUTO ellipses.

    Parameters
    ----------
    stack
        The superstack of a channel.
    shapes
        The objects.

    Returns
    -------
    flux, err
        (n,), in the superstack's unit summed over pixels. Neighbours in the ellipse count.
    flags
        (n,), `idfzarr.flags`: ``edge`` and ``masked_pixels``.
    """
    hidden = ~(np.isfinite(stack.flux) & np.isfinite(stack.err))
    flux, err, theirs = sep.sum_ellipse(
        np.where(hidden, np.float32(0.0), stack.flux),
        shapes.x,
        shapes.y,
        shapes.kron_a,
        shapes.kron_b,
        shapes.theta,
        1.0,
        err=np.where(hidden, np.float32(0.0), stack.err),
        subpix=1,
    )
    masked = sep.sum_ellipse(
        hidden.astype(np.float32),
        shapes.x,
        shapes.y,
        shapes.kron_a,
        shapes.kron_b,
        shapes.theta,
        1.0,
        subpix=1,
    )[0]
    flags = np.where(theirs & sep.APER_TRUNC, flag_bit("edge"), 0)
    flags |= np.where(masked > 0, flag_bit("masked_pixels"), 0)
    return flux, err, flags.astype(np.uint16)


def isolation(shapes: Shapes, brightness: Double) -> tuple[Double, Mask]:
    """Tell which objects stand alone.

    Parameters
    ----------
    shapes
        The objects.
    brightness
        (n,), flux in any unit common to all, as the signal-to-noise ratio.

    Returns
    -------
    distance
        (n,), to the nearest object, pixels; infinite for a lone one.
    isolated
        (n,), True where no object within 8 pixels has 1 % of its flux, and where all within 40
        pixels together spill less than 1 % of its flux into a circle of 5 pixels around it. The
        spilled light is that of a Moffat profile (exponent 2.5) of the field's median FWHM.
    """
    n = shapes.x.size
    if n < 2:
        return np.full(n, np.inf), np.ones(n, dtype=bool)
    places = np.stack([shapes.x, shapes.y], axis=1)
    tree = cKDTree(places)
    distance = tree.query(places, k=2)[0][:, 1]
    pairs = tree.query_pairs(_SPILL_REACH, output_type="ndarray")
    first = np.concatenate([pairs[:, 0], pairs[:, 1]])
    second = np.concatenate([pairs[:, 1], pairs[:, 0]])
    light = np.maximum(np.nan_to_num(brightness), 1e-9)
    apart = np.hypot(*(places[first] - places[second]).T)
    share = _spilled(apart, float(np.median(shapes.fwhm))) * light[second] / light[first]
    spill = np.bincount(first, weights=share, minlength=n)
    beside = (apart <= _NEAR) & (light[second] >= _SPILL * light[first])
    crowded = np.bincount(first[beside], minlength=n) > 0
    return distance, ~crowded & (spill < _SPILL)


def _spilled(distance: Double, fwhm: float) -> Double:
    """Return the share of a star's light in a circle of 5 pixels at a distance."""
    core = fwhm / (2.0 * np.sqrt(2.0 ** (1.0 / _BETA) - 1.0))
    peak = (_BETA - 1.0) / (np.pi * core**2)
    surface = peak * (1.0 + (distance / core) ** 2) ** -_BETA
    share: Double = np.minimum(surface * np.pi * _APERTURE**2, 1.0)
    return share
