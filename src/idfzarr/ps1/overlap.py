"""Which skycells a region of the sky touches: exact geometry on the sphere, in numpy.

A skycell's image is a convex polygon whose four sides are arcs of great circles. It overlaps a
region exactly if one of its corners lies in the region, a corner of the region lies in it, or the
borders cross; a region and a skycell that only touch count as overlapping, up to rounding.
Functions return the rows of `idfzarr.ps1.grid.outlines`, ascending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.ps1.grid import outlines

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["rows_at", "rows_in_box", "rows_in_cone", "rows_in_polygon"]

# Chunks of candidates keep the table of all pairs of sides at some tens of megabytes.
_PAIRS = 1_000_000
# A polygon is laid into a tangent plane, which holds less than half of the sky.
_POLYGON_RADIUS = np.radians(80.0)
_SLACK = 1e-6


def _angle(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    # Chords keep their precision at small angles, where the arc cosine loses it.
    chord = np.linalg.norm(a - b, axis=-1)
    return np.asarray(2 * np.arcsin(np.clip(chord / 2, 0.0, 1.0)))


def _sides(corners: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where the sides end, and their unit normals, which point into the image."""
    ends = np.roll(corners, -1, axis=1)
    normals = np.cross(corners, ends)
    return ends, normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def _holds(normals: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (n, m): whether image n holds point m."""
    return np.asarray((np.einsum("nsk,mk->nsm", normals, points) >= 0).all(axis=1))


def rows_at(point: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the skycells whose image holds a point.

    Parameters
    ----------
    point
        Unit vector, (3,).
    """
    near = _near(point, 0.0)
    _, normals = _sides(outlines().corners[near])
    return near[_holds(normals, point[None])[:, 0]]


def rows_in_cone(centre: NDArray[np.float64], radius: float) -> NDArray[np.intp]:
    """Return the skycells that come within a radius of a point.

    Parameters
    ----------
    centre
        Unit vector, (3,).
    radius
        Radians, 0 to pi.
    """
    near = _near(centre, radius)
    corners = outlines().corners[near]
    return near[_distance(corners, centre) <= radius]


def _near(centre: NDArray[np.float64], radius: float) -> NDArray[np.intp]:
    sky = outlines()
    reach = min(radius + float(sky.radius.max()) + _SLACK, np.pi)
    return np.flatnonzero(sky.centre @ centre >= np.cos(reach) - _SLACK * _SLACK)


def _distance(corners: NDArray[np.float64], point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the angles from images to a point; 0 where it lies within."""
    ends, normals = _sides(corners)
    to_corners = _angle(corners, point).min(axis=1)
    # The foot of the perpendicular lies on the side itself where the point is between the great
    # circles that stand upright on the side's two ends.
    after = np.cross(normals, corners) @ point >= 0
    before = np.cross(normals, ends) @ point <= 0
    across = np.abs(np.arcsin(np.clip(normals @ point, -1.0, 1.0)))
    to_sides = np.where(after & before, across, np.inf).min(axis=1)
    inside = _holds(normals, point[None])[:, 0]
    return np.asarray(np.where(inside, 0.0, np.minimum(to_corners, to_sides)))


def rows_in_polygon(vertices: NDArray[np.float64], *, centres: bool = False) -> NDArray[np.intp]:
    """Return the skycells that a polygon overlaps.

    The polygon is laid into the tangent plane at its middle, where its sides and those of the
    skycells are straight lines.

    Parameters
    ----------
    vertices
        Unit vectors, (m, 3), m at least 3, in either sense; the polygon may be concave, and where
        it crosses itself the even-odd rule says what is inside.
    centres
        Only skycells whose middle lies in the polygon.

    Raises
    ------
    UsageError
        The polygon reaches further than 80 degrees from its middle.
    """
    middle = vertices.mean(axis=0)
    length = float(np.linalg.norm(middle))
    reach = float(_angle(vertices, middle / length).max()) if length > 0 else np.pi
    if reach > _POLYGON_RADIUS:
        msg = (
            f"a polygon may reach 80 degrees from its middle and this one reaches "
            f"{np.degrees(reach):.1f}: cut it into smaller ones"
        )
        raise UsageError(msg)
    middle = middle / length
    near = _near(middle, reach)
    axes = _plane_at(middle)
    flat = _flatten(vertices, axes)
    size = max(1, _PAIRS // (4 * len(flat)))
    shapes = outlines().centre[:, None] if centres else outlines().corners
    test = _holds_first if centres else _overlaps
    found = [
        test(_flatten(shapes[near[i : i + size]], axes), flat) for i in range(0, len(near), size)
    ]
    return near[np.concatenate(found)] if found else near


def _plane_at(middle: NDArray[np.float64]) -> NDArray[np.float64]:
    away = np.eye(3)[np.argmin(np.abs(middle))]
    first = np.cross(away, middle)
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(middle, first), middle])


def _flatten(vectors: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.float64]:
    along = vectors @ axes.T
    return np.asarray(along[..., :2] / along[..., 2:])


def _cross2(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def _inside(
    points: NDArray[np.float64], starts: NDArray[np.float64], ends: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return whether points lie in a flat polygon: a ray meets its sides an odd number of times."""
    meets = (starts[..., 1] > points[..., 1]) != (ends[..., 1] > points[..., 1])
    left = _cross2(ends - starts, points - starts) > 0
    meets &= left == (ends[..., 1] > starts[..., 1])
    return np.asarray(np.sum(meets, axis=-1) % 2 == 1)


def _holds_first(shapes: NDArray[np.float64], polygon: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (n,): whether the first points of flat shapes (n, k, 2) lie in a polygon (m, 2)."""
    return _inside(shapes[:, 0, None], polygon[None], np.roll(polygon, -1, axis=0)[None])


def _overlaps(images: NDArray[np.float64], polygon: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (n,): whether flat convex images (n, 4, 2) overlap a flat polygon (m, 2)."""
    a, b = images[:, :, None], np.roll(images, -1, axis=1)[:, :, None]
    c, d = polygon[None, None], np.roll(polygon, -1, axis=0)[None, None]
    # The images turn counter-clockwise as the plane does: their inside is to the left.
    vertex_inside = np.any(np.all(_cross2(b - a, c - a) >= 0, axis=1), axis=1)
    corner_inside = np.any(_inside(a, c, d), axis=1)
    apart = _cross2(b - a, c - a) * _cross2(b - a, d - a) <= 0
    across = _cross2(d - c, a - c) * _cross2(d - c, b - c) <= 0
    crossing = np.any(apart & across, axis=(1, 2))
    return np.asarray(vertex_inside | corner_inside | crossing)


def rows_in_box(
    ra: tuple[float, float], dec: tuple[float, float], *, whole_circle: bool
) -> NDArray[np.intp]:
    """Return the skycells that a box of right ascension and declination overlaps.

    Its sides along right ascension are parallels, which are no great circles.

    Parameters
    ----------
    ra
        Where the box begins and ends going east, radians; the end is not before the beginning.
    dec
        South and north, radians.
    whole_circle
        Whether it goes around the sky.
    """
    sky = outlines()
    height = np.arcsin(np.clip(sky.centre[:, 2], -1.0, 1.0))
    margin = sky.radius + _SLACK
    near = np.flatnonzero((height >= dec[0] - margin) & (height <= dec[1] + margin))
    corners = sky.corners[near]
    ends, normals = _sides(corners)
    box = _Box(ra, dec, whole_circle=whole_circle)
    found = box.holds(corners).any(axis=1)
    found |= _holds(normals, box.corners()).any(axis=1)
    for latitude in dec:
        found |= box.parallel_crosses(corners, ends, normals, latitude).any(axis=1)
    if not whole_circle:
        for longitude in ra:
            found |= box.meridian_crosses(corners, ends, longitude).any(axis=1)
    return near[found]


class _Box:
    """A box of right ascension and declination, and where sides of images cross its own."""

    def __init__(
        self, ra: tuple[float, float], dec: tuple[float, float], *, whole_circle: bool
    ) -> None:
        self.west, self.width = ra[0], ra[1] - ra[0]
        self.south, self.north = dec
        self.whole_circle = whole_circle

    def corners(self) -> NDArray[np.float64]:
        alpha = np.array([self.west, self.west + self.width] * 2)
        delta = np.repeat([self.south, self.north], 2)
        return np.stack(
            [np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=-1
        )

    def within_ra(self, vectors: NDArray[np.float64]) -> NDArray[np.bool_]:
        if self.whole_circle:
            return np.ones(vectors.shape[:-1], dtype=bool)
        turn = (np.arctan2(vectors[..., 1], vectors[..., 0]) - self.west) % (2 * np.pi)
        return np.asarray(turn <= self.width)

    def within_dec(self, vectors: NDArray[np.float64]) -> NDArray[np.bool_]:
        delta = np.arctan2(vectors[..., 2], np.hypot(vectors[..., 0], vectors[..., 1]))
        return np.asarray((delta >= self.south) & (delta <= self.north))

    def holds(self, vectors: NDArray[np.float64]) -> NDArray[np.bool_]:
        return self.within_ra(vectors) & self.within_dec(vectors)

    def parallel_crosses(
        self,
        starts: NDArray[np.float64],
        ends: NDArray[np.float64],
        normals: NDArray[np.float64],
        latitude: float,
    ) -> NDArray[np.bool_]:
        # A point of the side is start cos(t) + forward sin(t); its height is that of the parallel
        # at up to two values of t.
        forward = np.cross(normals, starts)
        length = _angle(starts, ends)
        top = np.hypot(starts[..., 2], forward[..., 2])
        phase = np.arctan2(forward[..., 2], starts[..., 2])
        meets = np.abs(np.sin(latitude)) <= top
        ratio = np.sin(latitude) / np.where(meets & (top > 0), top, 1.0)
        spread = np.arccos(np.clip(ratio, -1.0, 1.0))
        found = np.zeros(meets.shape, dtype=bool)
        for t in ((phase + spread) % (2 * np.pi), (phase - spread) % (2 * np.pi)):
            point = starts * np.cos(t)[..., None] + forward * np.sin(t)[..., None]
            found |= meets & (t <= length) & self.within_ra(point)
        return found

    def meridian_crosses(
        self, starts: NDArray[np.float64], ends: NDArray[np.float64], longitude: float
    ) -> NDArray[np.bool_]:
        normal = np.array([-np.sin(longitude), np.cos(longitude), 0.0])
        before, after = starts @ normal, ends @ normal
        point = starts * np.abs(after)[..., None] + ends * np.abs(before)[..., None]
        half = point[..., 0] * np.cos(longitude) + point[..., 1] * np.sin(longitude) >= 0
        return np.asarray((before * after <= 0) & half & self.within_dec(point))
