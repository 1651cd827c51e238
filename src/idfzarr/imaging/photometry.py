"""Photometry of an image in frozen apertures: every object and method in one product.

The flux is the plain sum of weight x pixel over the good pixels, as photutils' aperture sums with a
mask, never divided by coverage; its error is propagated as photutils does. How
much of a source lay on good pixels is told apart by ``coverage``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from idfzarr.errors import ImageShape, UsageError
from idfzarr.flags import flag_bit
from idfzarr.imaging.annulus import LocalSky, local_sky
from idfzarr.imaging.aperture_shapes import method_radius, sort_methods, statistic_parts
from idfzarr.imaging.apertures import FrozenApertures, freeze
from idfzarr.imaging.robust import (
    biweight_location,
    biweight_scale,
    clip_rows,
    mad_std_rows,
    median_rows,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "LOW_COVERAGE",
    "LOW_STATISTIC_COVERAGE",
    "Profile",
    "Sums",
    "forced_photometry",
    "measure",
    "measure_ratio",
    "profile_of",
]

LOW_COVERAGE = 0.98
"""Below this share of the source's profile on good pixels a sum is flagged ``low_coverage``."""

LOW_STATISTIC_COVERAGE = 0.5
"""The same for robust statistics, which a missing pixel does not bias: share of their pixels."""

# An aperture with less than this share of its area on good pixels was not observed. The area on
# bad pixels is summed from weights in float32, each off by up to 6e-8 of itself.
_NOTHING = 1e-6
# Objects whose annuli or pixel lists are gathered at once.
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Profile:
    """A source profile, ready for coverage: made by `profile_of` once per superstack.

    Parameters
    ----------
    light
        (ny * nx,) the superstack's positive part.
    total
        (n, m), sum(w S) of every aperture.
    """

    light: NDArray[np.float64]
    total: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sums:
    """What was measured of n objects with m methods.

    Parameters
    ----------
    flux
        (n, m), or (k, n, m) where k images were measured at once; in the images' units summed
        over pixels (statistics: in the image's units). NaN where a flag says why.
    flux_err
        (n, m), 1 sigma; NaN where no variance was given.
    coverage
        (n, m), share of the source's profile (statistics: of the pixels) on good pixels.
    flag
        (n, m) uint16, bits of `idfzarr.flags`.
    """

    flux: NDArray[np.float64]
    flux_err: NDArray[np.float64]
    coverage: NDArray[np.float64]
    flag: NDArray[np.uint16]


def profile_of(frozen: FrozenApertures, superstack: ArrayLike) -> Profile:
    """Sum the superstack's light in every aperture, the denominator of coverage.

    Parameters
    ----------
    frozen
        The apertures.
    superstack
        (y, x), background removed; what is not finite or not positive counts as no light.

    Returns
    -------
    Profile
        To be given to `measure` for every AOR.

    Raises
    ------
    ImageShape
        The superstack has another shape than the apertures were frozen for.
    """
    image = frozen.require_shape("the superstack", superstack).astype(np.float64).ravel()
    light = np.where(np.isfinite(image) & (image > 0), image, 0.0)
    return Profile(light, frozen.sums(light[None])[0])


def measure(
    frozen: FrozenApertures,
    images: ArrayLike,
    variance: ArrayLike | None,
    good: ArrayLike | None = None,
    *,
    profile: Profile | None = None,
    saturated: ArrayLike | None = None,
) -> Sums:
    """Measure every object and method on an image, or on several that share their mask.

    Parameters
    ----------
    frozen
        The apertures.
    images
        (y, x), or (k, y, x) for images with one variance and mask, as original and clean.
    variance
        (y, x), the pixels' variance, shared by the images; None leaves every error NaN.
    good
        (y, x), true where a pixel may be used. Pixels that are not finite in one of the images, or
        whose variance is negative or not finite, are never used.
    profile
        Of the superstack; without it coverage is the share of the aperture's area.
    saturated
        (y, x), true where a pixel is saturated.

    Returns
    -------
    Sums
        Fluxes, errors, coverage, flags.

    Raises
    ------
    ImageShape
        An image has another shape than the apertures were frozen for.

    Notes
    -----
    flux = sum(w g I), flux_err^2 = sum(w^2 g V) as in `photutils.aperture` from 3.1 on (before,
    and where the apertures were frozen with ``squared=False``, sum(w g V)),
    coverage = sum(w g S) / sum(w S), with w the weights, g the good pixels, S the superstack's
    positive part; where an aperture holds no light of S, S = 1.
    """
    stack = np.asarray(images)
    single = stack.ndim == 2
    planes = [frozen.require_shape("the image", i) for i in (stack[None] if single else stack)]
    if not planes:
        msg = "photometry was asked of an empty stack of images: give at least one"
        raise ImageShape(msg)
    noise = None if variance is None else frozen.require_shape("the variance", variance)
    bad = _bad_pixels(frozen, planes, noise, good)
    flux = frozen.sums(_pixel_rows(planes, bad))
    coverage, lost = _coverage(frozen, bad, profile)
    flag = _sum_flags(frozen, coverage, lost, saturated)
    flux_err = np.full(frozen.area.shape, np.nan)
    if noise is not None:
        flux_err = np.sqrt(np.maximum(frozen.variances(_pixel_rows([noise], bad)[0]), 0.0))
    empty = (flag & np.uint16(flag_bit("not_observed") | flag_bit("undefined"))) != 0
    if empty.any():
        flux[:, empty] = np.nan
        flux_err[empty] = np.nan
    return Sums(flux[0] if single else flux, flux_err, coverage, flag)


def _bad_pixels(
    frozen: FrozenApertures,
    planes: Sequence[NDArray[Any]],
    noise: NDArray[Any] | None,
    good: ArrayLike | None,
) -> NDArray[np.intp]:
    usable = np.ones(frozen.shape, dtype=np.bool_)
    if good is not None:
        usable &= frozen.require_shape("the mask of good pixels", good).astype(np.bool_)
    for plane in planes:
        usable &= np.isfinite(plane)
    if noise is not None:
        usable &= (noise >= 0) & np.isfinite(noise)
    return np.flatnonzero(~usable)


def _pixel_rows(planes: Sequence[NDArray[Any]], bad: NDArray[np.intp]) -> NDArray[np.float64]:
    """Stack images as float64 rows (k, ny * nx), bad pixels 0: 0 x NaN would be NaN."""
    values = np.empty((len(planes), planes[0].size))
    for k, plane in enumerate(planes):
        values[k] = plane.ravel()
        values[k, bad] = 0.0
    return values


def _coverage(
    frozen: FrozenApertures, bad: NDArray[np.intp], profile: Profile | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coverage, and the area on bad pixels, both (n, m)."""
    weights = np.ones((1 if profile is None else 2, bad.size))
    if profile is not None:
        weights[1] = profile.light[bad]
    lost = frozen.sums_at(bad, weights)
    area = _kept(lost[0], frozen.area)
    if profile is None:
        return area, lost[0]
    light = _kept(lost[1], profile.total)
    return np.where(profile.total > 0, light, area), lost[0]


def _kept(lost: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 - lost / total, 0 where there is no total."""
    part = np.divide(lost, total, out=np.ones_like(lost), where=total > 0)
    return np.clip(1.0 - part, 0.0, 1.0)


def _sum_flags(
    frozen: FrozenApertures,
    coverage: NDArray[np.float64],
    lost: NDArray[np.float64],
    saturated: ArrayLike | None,
) -> NDArray[np.uint16]:
    flag = frozen.flags.copy()
    flag |= (lost > 0) * np.uint16(flag_bit("masked_pixels"))
    flag |= (coverage < LOW_COVERAGE) * np.uint16(flag_bit("low_coverage"))
    unseen = frozen.area - lost <= _NOTHING * frozen.area
    flag |= unseen * np.uint16(flag_bit("not_observed"))
    if saturated is not None:
        flag |= frozen.touches(saturated) * np.uint16(flag_bit("saturated"))
    return flag


def measure_ratio(frozen: FrozenApertures, ratio: ArrayLike, good: ArrayLike | None = None) -> Sums:
    """Measure the robust statistics of a ratio image in the frozen pixel lists.

    Parameters
    ----------
    frozen
        Apertures with statistics among their methods.
    ratio
        (y, x), mosaic over superstack.
    good
        (y, x), true where the mosaic's pixel may be used.

    Returns
    -------
    Sums
        One column per statistic. ``flux`` is the location (a ratio, no unit), after clipping at 3
        standard deviations; ``flux_err`` the scatter of the pixels, MAD sigma for the median and
        biweight scale for the biweight; ``coverage`` the share of the pixels that were used
        before clipping.

    Raises
    ------
    ImageShape
        An image has another shape than the apertures were frozen for.

    Notes
    -----
    Pixels that are good but whose ratio is not finite, as where the superstack is zero, are not
    used; where nothing else is left the value is NaN and flagged ``undefined``.
    """
    image = frozen.require_shape("the ratio image", ratio).astype(np.float64).ravel()
    seen = np.ones(image.size, dtype=np.bool_)
    if good is not None:
        mask = frozen.require_shape("the mask of good pixels", good)
        seen = mask.astype(np.bool_).ravel()
    shape = (frozen.n_objects, len(frozen.statistics))
    flux, scatter, coverage = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape)
    flag = np.zeros(shape, dtype=np.uint16)
    for first in range(0, frozen.n_objects, _CHUNK):
        run = slice(first, first + _CHUNK)
        inside = frozen.nearest[run] >= 0
        observed = inside & seen[frozen.nearest[run]]
        samples = np.where(observed, image[frozen.nearest[run]], np.nan)
        samples[~np.isfinite(samples)] = np.nan
        for s, method in enumerate(frozen.statistics):
            kind, count = statistic_parts(method) or ("median", 0)
            flux[run, s], scatter[run, s] = _location(kind, samples[:, :count])
            coverage[run, s] = np.count_nonzero(~np.isnan(samples[:, :count]), axis=1) / count
            flag[run, s] = _ratio_flags(inside[:, :count], observed[:, :count], samples[:, :count])
    return Sums(flux, scatter, coverage, flag)


def _location(
    kind: str, samples: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    kept = clip_rows(samples)
    if kind == "median":
        return median_rows(kept), mad_std_rows(kept)
    return biweight_location(kept), biweight_scale(kept)


def _ratio_flags(
    inside: NDArray[np.bool_], observed: NDArray[np.bool_], samples: NDArray[np.float64]
) -> NDArray[np.uint16]:
    used = ~np.isnan(samples)
    edge, nothing = ~inside.all(axis=1), ~observed.any(axis=1)
    flag = edge * np.uint16(flag_bit("edge"))
    flag |= (inside & ~used).any(axis=1) * np.uint16(flag_bit("masked_pixels"))
    low = used.mean(axis=1) < LOW_STATISTIC_COVERAGE
    flag |= low * np.uint16(flag_bit("low_coverage"))
    flag |= nothing * np.uint16(flag_bit("not_observed"))
    flag |= (~nothing & ~used.any(axis=1)) * np.uint16(flag_bit("undefined"))
    return np.asarray(flag, dtype=np.uint16)


def forced_photometry(
    sci: ArrayLike,
    x: ArrayLike,
    y: ArrayLike,
    *,
    methods: Sequence[str] = ("aper3", "aper5"),
    unc: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    annulus: tuple[float, float] | None = None,
) -> Table:
    """Measure one image at given positions, with the same frozen weights as a build.

    Parameters
    ----------
    sci
        (y, x) image. Without `annulus` its background must have been removed.
    x, y
        Positions (n,) in pixels, 0 at the centre of the first pixel.
    methods
        Circular methods: aper1..aper8 or a radius in pixels, as r3.5.
    unc
        1 sigma uncertainty of the pixels, (y, x) or one number.
    mask
        (y, x), true (not 0) where a pixel must not be used.
    annulus
        (r_in, r_out) in pixels: the clipped median of the pixels whose centres lie between is
        the local sky, and sky x area of the good pixels is taken from every flux.

    Returns
    -------
    astropy.table.Table
        A row per position: ``x``, ``y``, with `annulus` ``sky`` and ``sky_scatter`` (per pixel),
        and for every method ``{method}_flux``, ``{method}_flux_err`` (image units summed over
        pixels) and ``{method}_flag`` (uint16, bits of `idfzarr.flags`).

    Raises
    ------
    UsageError
        A method is not a circle or unknown, a position is not finite, the annulus is none.
    ImageShape
        `sci` is no image, or `unc` or `mask` has another shape.

    Notes
    -----
    flux_err^2 = sum(w^2 unc^2) + (A^2 / A_ann) (pi / 2) sigma_sky^2; the second term is the error
    of the local median with an annulus (A: area of the good pixels, A_ann: pixels left in the
    annulus, sigma_sky: their standard deviation after clipping; pi / 2 is what a median's
    variance exceeds a mean's by for Gaussian noise). Without `unc` the first term is
    sum(w^2) sigma_sky^2, which lacks the photon noise of the source, and the flag ``noise_model``
    is set; with neither `unc` nor `annulus` errors are NaN. Where the annulus holds no pixel the
    flux is NaN and flagged ``background_failed``. Before photutils 3.1 w stands for w^2, see
    `idfzarr.imaging.apertures.freeze`.

    Examples
    --------
    >>> sci = np.ones((40, 40))
    >>> table = forced_photometry(sci, [20.0], [18.5], methods=["aper3"], unc=0.1)
    >>> round(float(table["aper3_flux"][0]), 6)
    50.265482
    >>> float(forced_photometry(sci, 20, 18, annulus=(8, 12))["aper3_flux"].round(9)[0])
    0.0
    """
    image = np.asarray(sci)
    if image.ndim != 2:
        msg = f"forced photometry needs an image (y, x), and sci has the shape {image.shape}"
        raise ImageShape(msg)
    _require_circles(methods)
    at = {"x": np.atleast_1d(x).astype(np.float64), "y": np.atleast_1d(y).astype(np.float64)}
    frozen = freeze(at, methods, (image.shape[0], image.shape[1]))
    good = None if mask is None else frozen.require_shape("the mask", mask) == 0
    # Without unc, a variance of 1 gives the effective area by which the sky's scatter counts.
    variance = np.ones(image.shape) if unc is None else _squared(frozen, unc)
    sums = measure(frozen, image, variance, good)
    if annulus is None:
        return _as_table(at, frozen.methods, sums if unc is not None else _errorless(sums))
    usable = np.isfinite(image) if good is None else np.isfinite(image) & good
    sky = local_sky(np.where(usable, image, np.nan), at["x"], at["y"], annulus)
    sums = _without_sky(sums, frozen, sky, noise_known=unc is not None)
    at |= {"sky": sky.level, "sky_scatter": sky.scatter}
    return _as_table(at, frozen.methods, sums)


def _errorless(sums: Sums) -> Sums:
    return replace(sums, flux_err=np.full_like(sums.flux_err, np.nan))


def _require_circles(methods: Sequence[str]) -> None:
    scheme, statistics = sort_methods(methods)
    for method in (*scheme.methods, *statistics):
        if method_radius(method) is None:
            msg = (
                f"forced photometry cannot measure {method!r}, which needs a catalogue: "
                "use aper1..aper8 or a radius in pixels such as r3.5, or build a cube"
            )
            raise UsageError(msg)


def _as_table(columns: Mapping[str, NDArray[Any]], methods: Sequence[str], sums: Sums) -> Table:
    table = Table(dict(columns), copy=True)
    for m, method in enumerate(methods):
        table[f"{method}_flux"] = sums.flux[:, m]
        table[f"{method}_flux_err"] = sums.flux_err[:, m]
        table[f"{method}_flag"] = sums.flag[:, m]
    return table


def _squared(frozen: FrozenApertures, unc: ArrayLike) -> NDArray[np.float64]:
    if np.ndim(unc) == 0:
        return np.full(frozen.shape, float(np.asarray(unc, np.float64)) ** 2)
    return np.square(frozen.require_shape("unc", unc).astype(np.float64))


def _without_sky(sums: Sums, frozen: FrozenApertures, sky: LocalSky, *, noise_known: bool) -> Sums:
    area = frozen.area * sums.coverage
    level, scatter, pixels = (v[:, None] for v in (sky.level, sky.scatter, sky.pixels))
    own = sums.flux_err**2 if noise_known else sums.flux_err**2 * scatter**2
    of_sky = area**2 / np.where(pixels > 0, pixels, np.nan) * (np.pi / 2) * scatter**2
    flag = sums.flag | (pixels == 0) * np.uint16(flag_bit("background_failed"))
    if not noise_known:
        flag |= np.uint16(flag_bit("noise_model"))
    flux_err = np.where(np.isnan(sums.flux), np.nan, np.sqrt(own + of_sky))
    return Sums(sums.flux - level * area, flux_err, sums.coverage, flag.astype(np.uint16))
