"""The field's own point-spread function: one stamp, and that stamp shifted to any sub-pixel place.

The PSF of a superstack is empirical: the clipped median of its bright, isolated, compact sources,
each shifted to the middle of a pixel by its cubic spline and normalised to a sum of 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import spline_filter
from scipy.spatial import cKDTree

from idfzarr.errors import UsageError
from idfzarr.imaging.footprints import ring_entries

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["check_psf", "estimate_psf", "shifted_stamps"]

_FEWEST_STARS = 3
_CORE, _WING = 2.0, 6.0


def check_psf(psf: ArrayLike) -> NDArray[np.float64]:
    """Check a PSF stamp and normalise it to a sum of 1.

    Parameters
    ----------
    psf
        Square stamp of odd side, its source on the middle pixel.

    Returns
    -------
    ndarray
        float64, sum 1.

    Raises
    ------
    UsageError
        It is not square, of even side, not finite, or has no positive sum.
    """
    stamp = np.asarray(psf, dtype=np.float64)
    if stamp.ndim != 2 or stamp.shape[0] != stamp.shape[1] or stamp.shape[0] % 2 == 0:
        msg = f"a PSF must be a square stamp of odd side, and this one has the shape {stamp.shape}"
        raise UsageError(msg)
    total = float(stamp.sum())
    if not np.isfinite(total) or total <= 0:
        msg = f"a PSF must be finite with a positive sum, and this one sums to {total}"
        raise UsageError(msg)
    return stamp / total


def shifted_stamps(
    stamp: NDArray[np.float64], dx: NDArray[np.float64], dy: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shift a stamp by parts of a pixel along its cubic spline.

    Parameters
    ----------
    stamp
        (side, side), falling to nothing at its borders.
    dx, dy
        Shifts (n,) in pixels, -0.5 to 0.5, towards larger x and y.

    Returns
    -------
    ndarray
        (n, side, side); values below 0, which a spline makes beside steep flanks, are set to 0
        and the sum of each is 1 again.

    Notes
    -----
    Cubic B-spline interpolation (Unser 1999, IEEE Signal Processing Magazine 16, 22). All
    pixels of a stamp move alike, so the spline is two one-dimensional sums of four taps.
    """
    shifted = np.maximum(_shift(stamp, dx, dy), 0.0)
    normalised: NDArray[np.float64] = shifted / shifted.sum(axis=(1, 2), keepdims=True)
    return normalised


def _shift(
    stamp: NDArray[np.float64], dx: NDArray[np.float64], dy: NDArray[np.float64]
) -> NDArray[np.float64]:
    side = stamp.shape[0]
    coefficients = np.asarray(spline_filter(np.pad(stamp, 2), order=3, mode="mirror"))
    taps_x, taps_y = _taps(dx)[..., None, None], _taps(dy)[..., None, None]
    # Sums of products and no matrix product, whose rounding would depend on how many are shifted.
    along_x = np.zeros((dx.size, side + 4, side))
    for t in range(5):
        along_x += taps_x[:, t] * coefficients[:, t : t + side]
    shifted = np.zeros((dx.size, side, side))
    for t in range(5):
        shifted += taps_y[:, t] * along_x[:, t : t + side]
    return shifted


def _taps(shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (n, 5) of the cubic B-spline at distance |t + shift|, t = -2..2."""
    distance = np.abs(np.arange(-2, 3) + shift[:, None])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, near, far)


def estimate_psf(
    image: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    good: ArrayLike | None = None,
    size: int = 25,
    stars: int = 50,
) -> NDArray[np.float64]:
    """Measure the PSF of an image from its bright, isolated, compact sources.

    Parameters
    ----------
    image
        (y, x), background removed.
    x, y
        Positions of the sources in pixels, 0 at the centre of the first pixel; neighbours count
        too, so give all of them.
    good
        True where a pixel may be used; by default where it is finite.
    size
        Side of the stamp in pixels, odd.
    stars
        How many sources to use at most.

    Returns
    -------
    ndarray
        (size, size), not negative, sum 1.

    Raises
    ------
    UsageError
        Fewer than three sources qualify, or `size` is even.

    Notes
    -----
    A source qualifies where its whole stamp is good, no other source of more than a tenth of its
    light lies within half a stamp, and its concentration (light within 2 px over light within
    6 px) is not below the median of those that do: galaxies are less concentrated than stars.
    """
    if size % 2 == 0 or size < 2 * int(_WING) + 1:
        msg = f"a PSF of {size} pixels a side cannot be made: use an odd number of at least 13"
        raise UsageError(msg)
    pixels = np.asarray(image, dtype=np.float64)
    usable = np.isfinite(pixels)
    if good is not None:
        usable &= np.asarray(good, dtype=bool)
    at = np.column_stack([np.ravel(x), np.ravel(y)]).astype(np.float64)
    light = _two_sums(np.where(usable, pixels, 0.0), at)
    chosen = _isolated(at, light[:, 1], usable, size // 2 + 1)
    if chosen.size >= _FEWEST_STARS:
        ratio = light[chosen, 0] / light[chosen, 1]
        chosen = chosen[ratio >= np.median(ratio)] if chosen.size > 2 * _FEWEST_STARS else chosen
        chosen = chosen[np.argsort(-light[chosen, 1], kind="stable")][:stars]
    if chosen.size < _FEWEST_STARS:
        msg = (
            f"a PSF was asked of an image in which {chosen.size} of {len(at)} sources are bright, "
            f"isolated and wholly on good pixels; at least {_FEWEST_STARS} are needed: give a PSF"
        )
        raise UsageError(msg)
    stamps = np.stack(
        [_centred(pixels, float(column), float(line), size) for column, line in at[chosen]]
    )
    stamp = np.clip(np.median(stamps, axis=0), 0.0, None)
    return check_psf(stamp)


def _two_sums(image: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Light (n, 2) within the core and the wing radius."""
    entries, _ = ring_entries(at[:, 0], at[:, 1], (_CORE, _WING), _shape(image))
    rings = np.bincount(
        entries.row, weights=entries.weight * image.ravel()[entries.pixel], minlength=2 * len(at)
    )
    return np.cumsum(rings.reshape(-1, 2), axis=1)


def _shape(image: NDArray[np.float64]) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _isolated(
    at: NDArray[np.float64], light: NDArray[np.float64], usable: NDArray[np.bool_], half: int
) -> NDArray[np.int64]:
    """Rows with a whole good stamp and no bright neighbour within half a stamp."""
    ny, nx = usable.shape
    column, line = np.floor(at + 0.5).astype(np.int64).T
    whole = (column >= half) & (column < nx - half) & (line >= half) & (line < ny - half)
    whole &= light > 0
    tree = cKDTree(at)
    chosen = [
        i
        for i in np.flatnonzero(whole).tolist()
        if usable[
            line[i] - half : line[i] + half + 1, column[i] - half : column[i] + half + 1
        ].all()
        and all(light[j] <= 0.1 * light[i] for j in tree.query_ball_point(at[i], half) if j != i)
    ]
    return np.asarray(chosen, dtype=np.int64)


def _centred(image: NDArray[np.float64], x: float, y: float, size: int) -> NDArray[np.float64]:
    """One source's stamp, its border's median removed, shifted to the middle, sum 1."""
    half = size // 2
    column, line = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
    cut = image[line - half : line + half + 1, column - half : column + half + 1]
    border = np.concatenate([cut[0], cut[-1], cut[1:-1, 0], cut[1:-1, -1]])
    stamp = _shift(cut - np.median(border), np.array([column - x]), np.array([line - y]))[0]
    centred: NDArray[np.float64] = stamp / stamp.sum()
    return centred
