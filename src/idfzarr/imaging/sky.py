"""The background of one AOR: a constant and a plane.

In a fixed field what differs from AOR to AOR is the zodiacal light, which over a field of some arc
minutes is a constant and a slope. Both are fitted on pixels that hold no object; before a
superstack tells where those are, `rough_plane` finds the sky on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from idfzarr.errors import ImageShape

if TYPE_CHECKING:
    from numpy.typing import NDArray

Mask: TypeAlias = "NDArray[np.bool_]"
Double: TypeAlias = "NDArray[np.float64]"
Floats: TypeAlias = "NDArray[np.floating]"

__all__ = ["Plane", "fit_plane", "rough_plane"]

# 1 / (Gaussian quantile of 0.75): the median absolute deviation of a Gaussian is 0.6745 sigma.
_MAD_TO_SIGMA = 1.482602218505602
_MIN_PIXELS = 100  # below, the slopes of a plane are noise
_MIN_SPAN = 16  # pixels along x and along y; below, likewise
_ROUGH_MIN_SIDE = 64  # a smaller image may be one star's wings, whose slope is not the sky's
_SAMPLES = 30_000  # enough to fix a plane to 1/100 of the noise, and cheap
_STILL = 0.01
_TILES = 8  # per side, for the first guess of a slope
_ROUNDS = 40
_ROUGH_CLIP = 2.0


@dataclass(frozen=True)
class Plane:
    """Background of an image: ``constant + slope_x (x - x_mid) + slope_y (y - y_mid)``.

    Parameters
    ----------
    constant
        Value in the middle of the image, ``x_mid = (nx - 1) / 2``, ``y_mid = (ny - 1) / 2``.
    slope_x, slope_y
        Change per pixel.
    n_pixels
        Pixels that remained in the fit.
    rms
        Robust scatter of those pixels about the plane; NaN where there were none.
    ok
        False where no usable pixel was found; the plane is then 0 and the AOR wants the flag
        ``background_failed``.
    """

    constant: float
    slope_x: float
    slope_y: float
    n_pixels: int
    rms: float
    ok: bool

    def image(
        self, shape: tuple[int, int], rows: tuple[int, int] | None = None
    ) -> NDArray[np.float32]:
        """Return the plane as an image.

        Parameters
        ----------
        shape
            (ny, nx) of the whole image, the one that was fitted.
        rows
            First row and the one after the last; all rows where omitted.

        Returns
        -------
        ndarray
            (rows, nx).
        """
        ny, nx = shape
        first, last = (0, ny) if rows is None else rows
        y = np.arange(first, last, dtype=np.float64)[:, np.newaxis] - 0.5 * (ny - 1)
        x = np.arange(nx, dtype=np.float64)[np.newaxis, :] - 0.5 * (nx - 1)
        return (self.constant + self.slope_y * y + self.slope_x * x).astype(np.float32)


_NO_SKY = Plane(constant=0.0, slope_x=0.0, slope_y=0.0, n_pixels=0, rms=float("nan"), ok=False)


def fit_plane(image: Floats, usable: Mask, *, clip: float = 3.0) -> Plane:
    """Fit a constant and a plane to the usable pixels, clipping what stands out.

    Parameters
    ----------
    image
        (y, x), in any unit.
    usable
        (y, x), True for good pixels without an object (see `idfzarr.imaging.detection.seen_sky`).
        Pixels that are not finite are left out in any case.
    clip
        Pixels farther from the plane than this many robust standard deviations are left out, in
        rounds until nothing changes.

    Returns
    -------
    Plane
        The constant alone, their clipped median, where there are fewer than 100 usable pixels or
        where they span fewer than 16 pixels in x or in y; ``ok`` is False where there are none.

    Raises
    ------
    ImageShape
        The two arrays differ in shape.
    """
    values, x, y = _sample(image, usable)
    if values.size == 0:
        return _NO_SKY
    start = np.array([np.median(values), 0.0, 0.0])
    return _iterate(values, x, y, start, clip=clip, flat=_too_narrow(x, y))


def rough_plane(image: Floats, bad: Mask) -> Plane:
    """Find the sky of an image without knowing where its objects are.

    Parameters
    ----------
    image
        (y, x), in any unit.
    bad
        (y, x), True for pixels that must not be used.

    Returns
    -------
    Plane
        A constant alone where the image is smaller than 64 pixels in x or y: there the wings of one
        star would pass for a slope. ``ok`` is False where there is no usable pixel.

    Raises
    ------
    ImageShape
        The two arrays differ in shape.

    Notes
    -----
    Objects only ever add light. A first plane goes through a low quantile of each of 8 x 8 tiles;
    from there on the width of the sky is taken from the half below the plane, which objects do not
    reach, and pixels farther than 2 widths from the plane are left out until nothing changes.
    """
    values, x, y = _sample(image, ~np.asarray(bad, dtype=bool))
    if values.size == 0:
        return _NO_SKY
    flat = min(image.shape) < _ROUGH_MIN_SIDE or _too_narrow(x, y)
    start = np.array([np.quantile(values, 0.3), 0.0, 0.0])
    if not flat:
        start = _tile_plane(values, x, y, image.shape)
    return _iterate(values, x, y, start, clip=_ROUGH_CLIP, flat=flat, from_below=True)


def _sample(image: Floats, usable: Mask) -> tuple[Double, Double, Double]:
    """Take the values and centred coordinates of usable pixels, thinned out evenly."""
    if image.ndim != 2 or np.shape(usable) != image.shape:
        msg = (
            f"the background needs an image (y, x) and a mask of its shape, found "
            f"{image.shape} and {np.shape(usable)}: give both on one grid"
        )
        raise ImageShape(msg)
    pixels = np.flatnonzero(np.asarray(usable, dtype=bool) & np.isfinite(image))
    if pixels.size > _SAMPLES:
        # Even steps through the rows, of a length that is no whole number of pixels: every column
        # gets its share.
        pixels = pixels[np.linspace(0, pixels.size - 1, _SAMPLES).astype(np.intp)]
    ny, nx = image.shape
    values = image.ravel()[pixels].astype(np.float64)
    return values, pixels % nx - 0.5 * (nx - 1), pixels // nx - 0.5 * (ny - 1)


def _too_narrow(x: Double, y: Double) -> bool:
    """Tell whether pixels cannot fix a slope."""
    return x.size < _MIN_PIXELS or bool(min(np.ptp(x), np.ptp(y)) < _MIN_SPAN)


def _iterate(
    values: Double,
    x: Double,
    y: Double,
    start: Double,
    *,
    clip: float,
    flat: bool,
    from_below: bool = False,
) -> Plane:
    """Clip and fit in turn until the plane stands still, to a hundredth of its own error."""
    terms = np.stack([np.ones_like(x), x, y], axis=1)
    reach = np.array([1.0, np.ptp(x), np.ptp(y)])
    solution, kept, width = start, np.zeros(values.size, dtype=bool), float("nan")
    for _ in range(_ROUNDS):
        residual = values - terms @ solution
        width = _lower_width(residual) if from_below else _mad_width(residual)
        kept = np.abs(residual) <= clip * width
        if not kept.any():
            kept = np.abs(residual) <= np.median(np.abs(residual))
        before = solution
        if flat or _too_narrow(x[kept], y[kept]):
            solution = np.array([np.median(values[kept]), 0.0, 0.0])
        else:
            solution = _solve(values, terms, kept)
        still = _STILL * width / np.sqrt(np.count_nonzero(kept))
        if float(np.abs((solution - before) * reach).max()) <= still:
            break
    residual = (values - terms @ solution)[kept]
    return Plane(
        constant=float(solution[0]),
        slope_x=float(solution[1]),
        slope_y=float(solution[2]),
        n_pixels=int(np.count_nonzero(kept)),
        rms=_mad_width(residual),
        ok=True,
    )


def _solve(values: Double, terms: Double, kept: NDArray[np.bool_]) -> Double:
    """Solve the normal equations of the kept pixels; three terms about the middle are benign."""
    weighted = terms * kept[:, None]
    return np.asarray(np.linalg.solve(weighted.T @ terms, weighted.T @ values))


def _mad_width(residual: Double) -> float:
    return float(_MAD_TO_SIGMA * np.median(np.abs(residual - np.median(residual))))


def _lower_width(residual: Double) -> float:
    """Measure the width of the sky from pixels below the plane, which objects do not reach."""
    lower = residual[residual <= 0]
    if lower.size < 10:
        return _mad_width(residual)
    return float(_MAD_TO_SIGMA * np.median(-lower))


def _tile_plane(values: Double, x: Double, y: Double, shape: tuple[int, ...]) -> Double:
    """Lay a plane through a low quantile of every tile."""
    ny, nx = shape
    column = np.minimum(((x + 0.5 * nx) * _TILES / nx).astype(np.intp), _TILES - 1)
    row = np.minimum(((y + 0.5 * ny) * _TILES / ny).astype(np.intp), _TILES - 1)
    tile = row * _TILES + column
    order = np.argsort(tile, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(tile[order])) + 1)
    full = [g for g in groups if g.size >= 10]
    if len(full) < 6:
        return np.array([np.quantile(values, 0.3), 0.0, 0.0])
    level = np.array([np.quantile(values[g], 0.3) for g in full])
    terms = np.array([[1.0, float(np.mean(x[g])), float(np.mean(y[g]))] for g in full])
    kept = np.ones(level.size, dtype=bool)
    solution = np.array([float(np.median(level)), 0.0, 0.0])
    for _ in range(_ROUNDS):
        solution = np.linalg.lstsq(terms[kept], level[kept], rcond=None)[0]
        residual = level - terms @ solution
        lower = residual[residual <= 0]
        width = _MAD_TO_SIGMA * float(np.median(-lower)) if lower.size else 0.0
        chosen = residual <= max(3.0 * width, 1e-12 * float(np.abs(level).max()))
        if chosen.sum() < 6 or np.array_equal(chosen, kept):
            break
        kept = chosen
    return solution
