"""What a measurement's error bar must hold: noise models, and noise measured in empty apertures.

Two questions are answered here.

*Frames without unc*: `noise_model` measures the scatter of the sky and, against the superstack, the
gain, and gives a variance per pixel.

*Resampled frames*: neighbouring pixels share noise, so the quadrature sum over an aperture is too
small, by two to three times for IRAC's 1.22 arcsec pixels on a 0.6 arcsec grid. The ratio R(r) of
the scatter among empty apertures to their formal error says by how much. `choose_empty` finds their
places once, `noise_scale` takes the ratio for each AOR, and `scale_for_area` carries it over to
apertures of any shape by their area. It is the method of Labbe et al. 2003 (AJ 125, 1107, section
4.4) and Gawiser et al. 2006 (ApJS 162, 1, section 4.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import ndimage

from idfzarr.errors import ImageShape, ImageUnreadable, UsageError
from idfzarr.imaging.apertures import freeze
from idfzarr.imaging.photometry import measure
from idfzarr.imaging.robust import mad_std_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from idfzarr.imaging.apertures import FrozenApertures

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]

__all__ = [
    "EmptyApertures",
    "NoiseModel",
    "choose_empty",
    "freeze_empty",
    "measure_noise_scale",
    "noise_model",
    "noise_scale",
    "robust_sigma",
    "scale_for_area",
]

_FEWEST_INDEPENDENT = 40  # empty apertures side by side; R is then known to about 13 %
_FEWEST_APERTURES = 20
_HALF_DIAGONAL = math.sqrt(0.5)  # of a pixel
_BIN = 150  # pixels in a bin of brightness
_FEWEST_BINS = 4
_WHOLE = 0.9
_BY_HEADER = "scatter of the sky, photon noise by the header's gain"
_BY_SUPERSTACK = "scatter of the sky, photon noise by the scatter about the superstack"
_SKY_ALONE = "scatter of the sky, photon noise unknown"


def robust_sigma(values: Floats) -> float:
    """Return the standard deviation that the median absolute deviation stands for.

    Parameters
    ----------
    values
        Any shape; values that are not finite do not count.

    Returns
    -------
    float
        1.4826 times the median absolute deviation from the median; NaN without a finite value.

    Examples
    --------
    >>> round(robust_sigma(np.array([1.0, 2.0, 3.0, 4.0, 100.0])), 4)
    1.4826
    """
    finite = values[np.isfinite(values)].astype(np.float64)
    return float(mad_std_rows(finite[None])[0]) if finite.size else math.nan


@dataclass(frozen=True)
class NoiseModel:
    """The noise of a frame without ``unc``.

    Parameters
    ----------
    sky_rms
        Standard deviation of a sky pixel, in image units.
    gain
        Counted photons (electrons) per image unit; infinity where photon noise is not known.
    method
        What it was made from, a sentence part for the store's attributes.
    """

    sky_rms: float
    gain: float
    method: str

    def variance(self, level: Floats) -> NDArray[np.float32]:
        """Return the variance of each pixel.

        Parameters
        ----------
        level
            What the pixels are expected to hold (y, x), background removed, in image units: the
            scaled superstack rather than the frame, whose noise would correlate with its variance.

        Returns
        -------
        ndarray of float32
            ``sky_rms**2 + max(level, 0) / gain``, (y, x); where `level` is not finite, the sky's.
        """
        photons = np.maximum(np.where(np.isfinite(level), level, 0), 0) / self.gain
        return (self.sky_rms**2 + photons).astype(np.float32)


def noise_model(
    image: Floats,
    bad: Mask,
    *,
    superstack: Floats | None = None,
    source: Mask | None = None,
    gain: float | None = None,
) -> NoiseModel:
    """Measure the noise of a frame that comes without ``unc``.

    The sky's scatter is the robust standard deviation of its pixels. Photon noise comes from `gain`
    where the header has one; else from the scatter of frame minus superstack, which in bins of the
    superstack's level S is fitted by ``sky**2 + S / gain + (c S)**2``, the last term standing for
    the change of the PSF between frames (the photon transfer method of Janesick 2007, Photon
    Transfer, SPIE, chapter 5, with the frames' mean in place of flat fields).

    Parameters
    ----------
    image
        The frame (y, x), background removed.
    bad
        Pixels without a measurement (y, x).
    superstack
        The mean of the frames on the same grid, scaled to this frame.
    source
        Pixels that belong to sources (y, x). If None, pixels above 3 sigma are left out in turn
        until the scatter settles.
    gain
        Electrons per image unit, from the header.

    Returns
    -------
    NoiseModel
        With ``method`` saying which way was taken.

    Raises
    ------
    ImageShape
        The arrays differ in shape.
    ImageUnreadable
        Fewer than ten pixels of sky are left to measure.
    UsageError
        `gain` is not a positive number.
    """
    for name, array in (("mask", bad), ("superstack", superstack), ("source mask", source)):
        if array is not None and array.shape != image.shape:
            msg = f"the {name} has shape {array.shape}, the frame {image.shape}"
            raise ImageShape(msg)
    if gain is not None and not (math.isfinite(gain) and gain > 0):
        msg = f"a gain must be a positive number of electrons per image unit, not {gain}"
        raise UsageError(msg)
    good = ~bad & np.isfinite(image)
    flat = image
    if superstack is not None:  # faint sources and wings cancel
        good &= np.isfinite(superstack)
        flat = image - np.where(good, superstack, 0)
    sky_rms = _sky_rms(flat, good if source is None else good & ~source, clip=source is None)
    if gain is not None:
        return NoiseModel(
            sky_rms, float(gain), "scatter of the sky, photon noise by the header's gain"
        )
    measured = None if superstack is None else _gain(image, superstack, good, sky_rms)
    if measured is None:
        return NoiseModel(sky_rms, math.inf, _SKY_ALONE)
    return NoiseModel(sky_rms, measured, _BY_SUPERSTACK)


def _sky_rms(image: Floats, sky: Mask, *, clip: bool) -> float:
    values = image[sky].astype(np.float64)
    for _ in range(10 if clip else 0):
        centre, width = float(np.median(values)) if values.size else 0.0, robust_sigma(values)
        kept = values[np.abs(values - centre) <= 3 * width] if width > 0 else values
        if kept.size == values.size:
            break
        values = kept
    if values.size < 10:
        msg = (
            "the noise of a frame without unc cannot be measured: no more than "
            f"{values.size} pixels of sky are left of it; give its unc"
        )
        raise ImageUnreadable(msg)
    width = robust_sigma(values)
    # a frame of integers may have more than half its sky at one value
    return width if width > 0 else float(values.std())


def _gain(image: Floats, superstack: Floats, good: Mask, sky_rms: float) -> float | None:
    """Return electrons per unit from the scatter about the superstack; None if it is unclear."""
    at = good & (np.where(good, superstack, 0) > 2 * sky_rms)
    level = superstack[at].astype(np.float64)
    rest = image[at].astype(np.float64) - level
    n_bins = min(30, level.size // _BIN)
    if n_bins < _FEWEST_BINS:
        return None
    bins = np.array_split(np.argsort(level), n_bins)
    mean = np.array([level[part].mean() for part in bins])
    scatter = np.array([robust_sigma(rest[part]) for part in bins]) ** 2 - sky_rms**2
    # MAD has an efficiency of 37 %: its square varies 2.7 times as much as a variance
    error = np.maximum(scatter + sky_rms**2, sky_rms**2) * np.sqrt(2 * 2.7 / (level.size / n_bins))
    design = np.stack([mean, mean**2], axis=1) / error[:, None]
    normal = np.linalg.inv(design.T @ design)
    photon, mismatch = normal @ (design.T @ (scatter / error))
    if mismatch < 0:  # no change of the PSF to be seen: one term is enough
        photon = float((design[:, 0] @ (scatter / error)) / (design[:, 0] @ design[:, 0]))
    significant = photon > 2 * math.sqrt(normal[0, 0])
    return 1 / float(photon) if significant else None


@dataclass(frozen=True, eq=False)
class EmptyApertures:
    """Places where circular apertures hold nothing but sky.

    Parameters
    ----------
    x, y
        Centres in pixels, shape (n,).
    radii
        Radii in pixels that can be measured, ascending, shape (k,).
    valid
        Which aperture is free of sources at which centre, shape (n, k).
    left_out
        Radii that were asked for and find too little free sky; the largest that fits is in `radii`.
    """

    x: Double
    y: Double
    radii: tuple[float, ...]
    valid: Mask
    left_out: tuple[float, ...]


def choose_empty(
    usable: Mask, radii: Sequence[float], *, count: int = 2000, seed: int = 0
) -> EmptyApertures:
    """Find centres of empty apertures.

    Parameters
    ----------
    usable
        Pixels that are covered and free of sources (y, x).
    radii
        Aperture radii in pixels.
    count
        How many centres at most. Half of them stand where the largest aperture fits, half where the
        smallest does, so that large apertures are many and small ones stand between sources too.
    seed
        Of the random choice.

    Returns
    -------
    EmptyApertures
        Without any radius where there is no room for the smallest one.

    Raises
    ------
    UsageError
        No radius is given, or one is not positive.
    """
    wanted = sorted({float(radius) for radius in radii})
    if not wanted or wanted[0] <= 0:
        msg = f"empty apertures need radii above zero, not {list(radii)}"
        raise UsageError(msg)
    # beyond the frame there is nothing to measure: the border counts as used
    room = (
        np.asarray(ndimage.distance_transform_edt(np.pad(usable, 1)))[1:-1, 1:-1] - _HALF_DIAGONAL
    )
    largest = _largest_that_fits(room, wanted)
    fitting = [radius for radius in wanted if largest is not None and radius <= largest]
    left_out = tuple(radius for radius in wanted if radius not in fitting)
    if largest is not None and largest not in fitting:
        fitting.append(largest)
    if not fitting:
        nowhere = np.empty(0)
        return EmptyApertures(nowhere, nowhere, (), np.empty((0, 0), dtype=bool), left_out)
    rng = np.random.default_rng(seed)
    picked = np.union1d(
        _pick(rng, room >= fitting[-1], -(-count // 2)), _pick(rng, room >= fitting[0], count // 2)
    )
    y, x = np.divmod(picked, usable.shape[1])
    valid = room.ravel()[picked][:, None] >= np.array(fitting)
    return EmptyApertures(
        x.astype(np.float64), y.astype(np.float64), tuple(fitting), valid, left_out
    )


def _largest_that_fits(room: Double, wanted: Sequence[float]) -> float | None:
    """Return the largest radius, of those wanted or between, for which there is enough sky."""
    for n, radius in reversed(list(enumerate(wanted))):
        if _fits(room, radius):
            if n + 1 == len(wanted):
                return radius
            # something between this one and the next may still fit
            between = np.linspace(wanted[n + 1], radius, 6)[1:-1]
            return next((round(float(r), 2) for r in between if _fits(room, float(r))), radius)
    return None


def _fits(room: Double, radius: float) -> bool:
    centres = room >= radius
    if np.count_nonzero(centres) < _FEWEST_APERTURES:
        return False
    covered = np.count_nonzero(np.asarray(ndimage.distance_transform_edt(~centres)) <= radius)
    return bool(covered >= _FEWEST_INDEPENDENT * math.pi * radius**2)


def _pick(rng: np.random.Generator, centres: Mask, count: int) -> NDArray[np.intp]:
    flat = np.flatnonzero(centres)
    return rng.choice(flat, size=min(count, flat.size), replace=False)


def noise_scale(flux: Floats, flux_err: Floats, valid: Mask, *, share: float = 0.0) -> Double:
    """Return by how much the scatter of empty apertures exceeds their formal error.

    Parameters
    ----------
    flux
        Sums in the apertures, of mosaic minus superstack (so that faint sources cancel), shape
        (n, k).
    flux_err
        Their formal errors, those of the mosaic alone, shape (n, k).
    valid
        Apertures that count, shape (n, k): `EmptyApertures.valid`, and wholly covered in this AOR.
    share
        The mosaic's weight in the superstack, about 1/N where it is one of the N mosaics in it: the
        difference then scatters less, by ``sqrt(1 - share)``. 0 where nothing was subtracted.

    Returns
    -------
    ndarray of float64
        R, the robust standard deviation of flux / flux_err, shape (k,); NaN with fewer than 20
        apertures.

    Raises
    ------
    UsageError
        `share` is not in [0, 1).
    """
    if not 0 <= share < 1:
        msg = f"the share of a mosaic in the superstack must be at least 0 and below 1, not {share}"
        raise UsageError(msg)
    known = valid & np.isfinite(flux) & np.isfinite(flux_err) & (flux_err > 0)
    pulls = np.where(known, flux, np.nan) / np.where(known, flux_err, 1)
    enough = known.sum(axis=0) >= _FEWEST_APERTURES
    scale = np.full(flux.shape[1], np.nan)
    scale[enough] = mad_std_rows(pulls.T[enough])
    return scale / math.sqrt(1 - share)


def freeze_empty(
    empty: EmptyApertures, shape: tuple[int, int], *, squared: bool = True
) -> FrozenApertures:
    """Freeze empty apertures, to be measured in every AOR.

    Parameters
    ----------
    empty
        From `choose_empty`, with at least one radius.
    shape
        (ny, nx) of the images.
    squared
        As for the apertures that the scale is for, see `idfzarr.imaging.apertures.freeze`.

    Returns
    -------
    FrozenApertures
        One object per centre, one method per radius.
    """
    methods = [f"r{radius:g}" for radius in empty.radii]
    return freeze({"x": empty.x, "y": empty.y}, methods, shape, squared=squared)


def measure_noise_scale(
    frozen: FrozenApertures,
    empty: EmptyApertures,
    residual: Floats,
    variance: Floats,
    good: Mask,
    *,
    share: float = 0.0,
) -> Double:
    """Measure R in one AOR.

    Parameters
    ----------
    frozen
        From `freeze_empty`.
    empty
        What it was made of.
    residual
        Mosaic minus scaled superstack (y, x), so that faint sources cancel; the mosaic itself where
        it is the only one.
    variance
        Of the mosaic, per pixel (y, x).
    good
        Pixels that may be used (y, x).
    share
        See `noise_scale`.

    Returns
    -------
    ndarray of float64
        R for each of ``empty.radii``, shape (k,); NaN where fewer than 20 apertures are wholly on
        good pixels.
    """
    sums = measure(frozen, residual, variance, good)
    # an aperture that lost a pixel or two is still an aperture; half of one is a smaller one
    whole = empty.valid & (sums.coverage > _WHOLE)
    return noise_scale(sums.flux, sums.flux_err, whole, share=share)


def scale_for_area(area: ArrayLike, radii: Sequence[float], scales: ArrayLike) -> Double:
    """Carry R over to apertures of any shape.

    How much noise neighbours share depends on the size of an aperture, hardly on its shape.

    Parameters
    ----------
    area
        Effective areas in pixels, any shape: pi r**2 of a circle, pixels of an isophote, and for
        weighted sums ``sum(w)**2 / sum(w**2)``.
    radii
        Radii of the empty apertures in pixels, ascending, shape (k,).
    scales
        R there, shape (k,), NaN where unknown.

    Returns
    -------
    ndarray of float64
        R, interpolated over the square root of the area and constant beyond the ends; 1 everywhere
        where no R is known; NaN where `area` is.
    """
    wide = np.asarray(scales, dtype=np.float64)
    known = np.isfinite(wide)
    size = np.sqrt(np.asarray(area, dtype=np.float64) / math.pi)
    if not known.any():
        return np.where(np.isfinite(size), 1.0, np.nan)
    return np.asarray(np.interp(size, np.asarray(radii, dtype=np.float64)[known], wide[known]))
