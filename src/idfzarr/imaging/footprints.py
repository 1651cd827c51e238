"""Which pixels an aperture holds, and how much of each: photutils' exact overlaps as entries.

An aperture is a set of entries (object, pixel, weight). photutils defines the weights:
`photutils.aperture.CircularAperture` and `EllipticalAperture` with ``method="exact"``. Both are
thin shells around the overlap functions of `photutils.geometry`, which this module calls itself,
because making 50,000 aperture objects costs more than computing their masks; a test holds that the
two agree. Nothing else in this package knows where photutils keeps them.

Circles around one position are nested, so that they are kept as rings: the first ring is the
smallest circle, and every further one what the next larger circle adds. A sum over a circle is the
running sum over its rings, at about half the entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import photutils
from photutils.geometry import circular_overlap_grid, elliptical_overlap_grid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "PHOTUTILS_SQUARES",
    "Entries",
    "annulus_boxes",
    "ellipse_entries",
    "ellipse_extents",
    "nearest_pixels",
    "ring_entries",
    "segment_entries",
    "stamp_entries",
]

PHOTUTILS_SQUARES: bool = [int(part) for part in photutils.__version__.split(".")[:2]] >= [3, 1]
"""Whether the photutils that is installed weighs a pixel's variance by its overlap squared.

Since 3.1 it does (https://github.com/astropy/photutils/pull/2398), as independent pixels demand; up
to 3.0 it weighed by the overlap itself, which makes errors a few per cent too large, most for small
apertures.
"""

# Overlaps this close to zero are the rounding of an exact overlap that is zero.
_NO_OVERLAP = 1e-13


@dataclass(frozen=True)
class Entries:
    """The nonzero weights of some rows.

    Parameters
    ----------
    row
        Row of each entry.
    pixel
        Flat index, ``y * nx + x``, of its pixel.
    weight
        Its weight, above 0.
    """

    row: NDArray[np.int64]
    pixel: NDArray[np.int64]
    weight: NDArray[np.float64]

    def partial(self) -> Entries:
        """Return w - w^2 of the entries where it is not 0: pixels that are held in part.

        Returns
        -------
        Entries
            What a sum of w x variance exceeds that of w^2 x variance by.
        """
        excess = self.weight - self.weight**2
        part = np.abs(excess) > _NO_OVERLAP
        return Entries(self.row[part], self.pixel[part], excess[part])

    def take(self, order: NDArray[np.intp]) -> Entries:
        """Return the entries of rows in another order, sorted by the new row.

        Parameters
        ----------
        order
            Every row once; the new row i is the old row ``order[i]``.

        Returns
        -------
        Entries
            As many.
        """
        row = np.argsort(order)[self.row]
        by_row = np.argsort(row, kind="stable")
        return Entries(row[by_row], self.pixel[by_row], self.weight[by_row])


def ring_entries(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    radii: Sequence[float],
    shape: tuple[int, int],
) -> tuple[Entries, Entries]:
    """Overlap circles and rings around positions with the pixels, exactly.

    Parameters
    ----------
    x, y
        Centres (n,) in pixels, 0 at the centre of the first pixel.
    radii
        The m radii in pixels, ascending.
    shape
        (ny, nx) of the image.

    Returns
    -------
    tuple of Entries
        The rings, row ``object * m + ring``; ring 0 is the first circle, ring j what circle j
        adds to circle j - 1. Then `Entries.partial` of the whole circles. Pixels beyond the image
        are left out.
    """
    half = int(np.ceil(radii[-1]))
    side = 2 * half + 1
    middle_x, middle_y = np.floor(x + 0.5), np.floor(y + 0.5)
    circles = np.zeros((x.size, len(radii), side, side))
    offsets = list(zip((middle_x - x).tolist(), (middle_y - y).tolist(), strict=True))
    for ring, radius in enumerate(radii):
        reach = int(np.ceil(radius))
        inner = slice(half - reach, half + reach + 1)
        _fill_circles(circles[:, ring, inner, inner], offsets, reach, radius)
    # Rounding must not let a larger circle hold less of a pixel than a smaller one.
    np.maximum.accumulate(circles, axis=1, out=circles)
    excess = circles - circles**2
    excess[excess < _NO_OVERLAP] = 0.0
    circles[:, 1:] = np.diff(circles, axis=1)
    circles[circles < _NO_OVERLAP] = 0.0
    left, bottom = middle_x - half, middle_y - half
    return _box_entries(circles, left, bottom, shape), _box_entries(excess, left, bottom, shape)


def _fill_circles(
    boxes: NDArray[np.float64], offsets: list[tuple[float, float]], reach: int, radius: float
) -> None:
    side, edge = 2 * reach + 1, reach + 0.5
    for box, (dx, dy) in zip(boxes, offsets, strict=True):
        box[...] = circular_overlap_grid(
            dx - edge, dx + edge, dy - edge, dy + edge, side, side, radius, 1, 1
        )


def _box_entries(
    boxes: NDArray[np.float64],
    left: NDArray[np.float64],
    bottom: NDArray[np.float64],
    shape: tuple[int, int],
) -> Entries:
    """Turn boxes of weights (n, m, side, side) with their first pixels into entries."""
    ny, nx = shape
    item, ring, dy, dx = np.nonzero(boxes)
    weight = boxes[item, ring, dy, dx]
    column = left.astype(np.int64)[item] + dx
    line = bottom.astype(np.int64)[item] + dy
    row = item * boxes.shape[1] + ring
    inside = (column >= 0) & (column < nx) & (line >= 0) & (line < ny)
    if not inside.all():
        row, line, column, weight = row[inside], line[inside], column[inside], weight[inside]
    return Entries(row, line * nx + column, weight)


def ellipse_extents(
    a: NDArray[np.float64], b: NDArray[np.float64], theta: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return how far ellipses reach along x and y from their centres.

    Parameters
    ----------
    a, b
        Semi-axes in pixels.
    theta
        Angle of `a` from the x axis, counterclockwise, in radians.

    Returns
    -------
    tuple of ndarray
        Half widths along x and along y, in pixels.
    """
    cosine, sine = np.cos(theta), np.sin(theta)
    return np.hypot(a * cosine, b * sine), np.hypot(a * sine, b * cosine)


def ellipse_entries(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    kron: NDArray[np.float64],
    shape: tuple[int, int],
) -> Entries:
    """Overlap ellipses with the pixels, exactly.

    Parameters
    ----------
    x, y
        Centres (n,) in pixels, 0 at the centre of the first pixel.
    kron
        (3, n): semi-axes a and b in pixels, angle of a from the x axis, counterclockwise, in
        radians. Where an axis is not above 0 or anything is not finite the row stays empty.
    shape
        (ny, nx) of the image.

    Returns
    -------
    Entries
        Row = object. Pixels beyond the image are left out.
    """
    ny, nx = shape
    a, b, theta = kron
    reach_x, reach_y = ellipse_extents(a, b, theta)
    drawn = np.isfinite(reach_x) & np.isfinite(reach_y) & (a > 0) & (b > 0)
    left, right = _pixel_span(x, np.where(drawn, reach_x, 0.0), nx)
    bottom, top = _pixel_span(y, np.where(drawn, reach_y, 0.0), ny)
    rows: list[NDArray[np.int64]] = []
    pixels: list[NDArray[np.int64]] = []
    weights: list[NDArray[np.float64]] = []
    for i in np.flatnonzero(drawn & (right > left) & (top > bottom)).tolist():
        x0, x1, y0, y1 = int(left[i]), int(right[i]), int(bottom[i]), int(top[i])
        overlap = elliptical_overlap_grid(
            x0 - 0.5 - x[i], x1 - 0.5 - x[i], y0 - 0.5 - y[i], y1 - 0.5 - y[i],
            x1 - x0, y1 - y0, a[i], b[i], theta[i], 1, 1,
        )  # fmt: skip
        line, column = np.nonzero(overlap > _NO_OVERLAP)
        rows.append(np.full(line.size, i, dtype=np.int64))
        pixels.append((line + y0) * nx + column + x0)
        weights.append(overlap[line, column])
    if not rows:
        return Entries(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return Entries(np.concatenate(rows), np.concatenate(pixels), np.concatenate(weights))


def _pixel_span(
    centre: NDArray[np.float64], reach: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First pixel and the one after the last that an extent touches, cut to the image."""
    first = np.clip(np.floor(centre - reach + 0.5), 0, size)
    after = np.clip(np.ceil(centre + reach + 0.5), 0, size)
    return first.astype(np.int64), after.astype(np.int64)


def segment_entries(segmentation: NDArray[np.int64], labels: NDArray[np.int64]) -> Entries:
    """Take the pixels of segments, each with weight 1.

    Parameters
    ----------
    segmentation
        (y, x), 0 = sky.
    labels
        Label of every object (n,), unique where above 0; 0 or less: it has no segment.

    Returns
    -------
    Entries
        Row = object, in the order of rows.
    """
    flat = segmentation.ravel()
    highest = int(max(flat.max(initial=0), labels.max(initial=0)))
    owner = np.full(highest + 1, -1, dtype=np.int64)
    known = np.flatnonzero(labels > 0)
    owner[labels[known]] = known
    pixel = np.flatnonzero(flat > 0)
    row = owner[flat[pixel]]
    pixel, row = pixel[row >= 0], row[row >= 0]
    order = np.argsort(row, kind="stable")
    return Entries(row[order], pixel[order], np.ones(order.size))


def stamp_entries(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    stamps: NDArray[np.float64],
    shape: tuple[int, int],
) -> Entries:
    """Put stamps of weights down at positions.

    Parameters
    ----------
    x, y
        Centres (n,) in pixels; a stamp's middle pixel falls on the nearest one.
    stamps
        (n, side, side), odd side, already shifted by the rest.
    shape
        (ny, nx) of the image.

    Returns
    -------
    Entries
        Row = object. Pixels beyond the image are left out.
    """
    half = stamps.shape[1] // 2
    left, bottom = np.floor(x + 0.5) - half, np.floor(y + 0.5) - half
    return _box_entries(stamps[:, None], left, bottom, shape)


def nearest_pixels(
    x: NDArray[np.float64], y: NDArray[np.float64], count: int, shape: tuple[int, int]
) -> NDArray[np.int32]:
    """List the pixels nearest to positions.

    Parameters
    ----------
    x, y
        Positions (n,) in pixels, 0 at the centre of the first pixel.
    count
        How many pixels, at most 20.
    shape
        (ny, nx) of the image.

    Returns
    -------
    ndarray of int32
        Flat indices (n, count), nearest first, ties in raster order; -1 where the pixel lies
        beyond the image.
    """
    ny, nx = shape
    # 49 candidates hold every pixel within 3.5, and a circle of 3.5 - 0.71 holds at least 20.
    step_y, step_x = (axis.ravel() for axis in np.mgrid[-3:4, -3:4])
    column = np.floor(x + 0.5)[:, None] + step_x
    line = np.floor(y + 0.5)[:, None] + step_y
    distance = (column - x[:, None]) ** 2 + (line - y[:, None]) ** 2
    order = np.argsort(distance, axis=1, kind="stable")[:, :count]
    column = np.take_along_axis(column, order, axis=1)
    line = np.take_along_axis(line, order, axis=1)
    inside = (column >= 0) & (column < nx) & (line >= 0) & (line < ny)
    flat = np.full(inside.shape, -1, dtype=np.int32)
    flat[inside] = (line[inside] * nx + column[inside]).astype(np.int32)
    return flat


def annulus_boxes(
    image: NDArray[np.float64],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    inner: float,
    outer: float,
) -> NDArray[np.float64]:
    """Gather the pixels whose centres lie in annuli around positions.

    Parameters
    ----------
    image
        (y, x), NaN where a pixel is not to be used.
    x, y
        Positions (n,) in pixels.
    inner, outer
        Radii in pixels; a pixel at distance d belongs where ``inner <= d < outer``, as in
        photutils with ``method="center"``.

    Returns
    -------
    ndarray
        (n, number of pixels in the box around the annulus), NaN where a pixel does not belong.
    """
    ny, nx = image.shape
    half = int(np.ceil(outer))
    step_y, step_x = (axis.ravel() for axis in np.mgrid[-half : half + 1, -half : half + 1])
    column = np.floor(x + 0.5)[:, None] + step_x
    line = np.floor(y + 0.5)[:, None] + step_y
    distance = np.hypot(column - x[:, None], line - y[:, None])
    belongs = (distance >= inner) & (distance < outer)
    belongs &= (column >= 0) & (column < nx) & (line >= 0) & (line < ny)
    boxes = np.full(belongs.shape, np.nan)
    boxes[belongs] = image[line[belongs].astype(np.int64), column[belongs].astype(np.int64)]
    return boxes
