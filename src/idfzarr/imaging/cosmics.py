"""Cosmic rays: found by comparing a mosaic with the superstack, and replaced.

A mosaic on its own says little about cosmic rays once it is resampled: a hit in one native pixel
becomes a pyramid hardly narrower than the core of a star, and an edge detector such as L.A.Cosmic
(van Dokkum 2001, PASP 113, 1420) eats the stars. In a fixed field the superstack knows better what
each pixel should hold. So

1. the superstack is matched to the mosaic: ``S``, its two gradients, ``Sxx - Syy``, ``Sxy`` and its
   Laplacian are fitted to the pixels of all sources at once (scale, pointing, roll and width of the
   PSF; the linear basis is in the manner of Alard & Lupton 1998, ApJ 503, 325);
2. pixels that stand out from the match by `THRESHOLD` of the noise are candidates, the noise being
   that of mosaic and superstack and a fraction of ``hypot(S, FWHM/2 |grad S|)`` that is measured on
   the bright sources themselves, so that what the match leaves in sharp cores is not a candidate;
3. each local maximum is judged by its halo: the amplitude of a PSF fitted to the pixels *around*
   the peak, by a weighted quantile so that a track through them does not count. A star, a variable
   or a transient has the halo that its peak demands; a hit has not. On a source the peak must also
   stand out from the source's own profile, scaled by whatever the source did in this AOR;
4. the hit and its skirt are set to what the match expects there, and what remains is judged again.

A source that varies is source-shaped, so it stays as it is. A hit so faint that it drowns in the
noise stays too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from idfzarr.errors import ImageShape, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Single: TypeAlias = NDArray[np.float32]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]
    Indices: TypeAlias = NDArray[np.intp]

__all__ = ["THRESHOLD", "Cleaned", "Reference", "clean", "prepare"]

THRESHOLD = 4.5
"""How far a pixel stands out, in units of its noise, before it can be a hit."""

_SOURCE_SIGNIFICANCE = 5.0  # superstack over its error: from here on a pixel belongs to a source
_FIT_SIGNIFICANCE = (
    10.0  # superstack over the mosaic's noise: from here on a pixel guides the match
)
_FIT_PIXELS = 20_000  # enough to fix six numbers
_FEWEST_AORS = 3  # below this a clipped superstack still holds the hits themselves
_SMALLEST_FRACTION = 0.005  # pixel phase and array location, IRAC handbook 4.5 and 4.6
_MOFFAT_BETA = 3.0
_LOW_QUANTILE = 0.3
_PASSES = 6  # a track of n native pixels is found in at most about n / 2 passes
# what the coefficients of the match may reasonably be: scale, px, px, px^2, px^2, px^2
_PRIOR = np.array([0.3, 0.5, 0.5, 0.5, 0.5, 0.5])

Method = Literal["superstack", "lacosmic", "none"]


@dataclass(frozen=True, eq=False)
class Reference:
    """What is known of the field in one channel, made once by `prepare` and used for each AOR.

    Parameters
    ----------
    flux
        The superstack (y, x), background removed, zero where it has no value.
    err
        Its error (y, x).
    usable
        Where the superstack has a value (y, x).
    source
        Pixels that belong to a source (y, x).
    envelope
        ``hypot(flux, psf_fwhm / 2 * |gradient|)`` (y, x): errors of the match are a fraction of it.
    pixels
        Flat indices of the pixels that guide the match, shape (n,).
    basis
        There: S, dS/dx, dS/dy, Sxx - Syy, Sxy, Laplacian; shape (n, 6).
    psf_fwhm
        Full width at half maximum of the PSF in pixels.
    n_aors
        How many AORs the superstack was made of.
    """

    flux: Single
    err: Single
    usable: Mask
    source: Mask
    envelope: Single
    pixels: Indices
    basis: Single
    psf_fwhm: float
    n_aors: int


@dataclass(frozen=True, eq=False)
class Cleaned:
    """A mosaic without its cosmic rays.

    Parameters
    ----------
    image
        The mosaic (y, x) with hits replaced; equal to the input, bit for bit, elsewhere.
    hits
        The pixels that were replaced (y, x).
    n_hits
        How many peaks were judged hits; a track counts once for each of its peaks.
    method
        ``superstack``; or, where there are too few AORs to judge by, ``lacosmic`` (away from
        sources only), or ``none`` where that was not wanted.
    """

    image: Single
    hits: Mask
    n_hits: int
    method: Method


def prepare(
    flux: Floats, err: Floats, *, n_aors: int, psf_fwhm: float, source: Mask | None = None
) -> Reference:
    """Make the superstack ready to judge mosaics by.

    Parameters
    ----------
    flux
        The superstack (y, x), background removed; NaN where there is none.
    err
        Its error (y, x), in the same unit.
    n_aors
        How many AORs it was made of.
    psf_fwhm
        Full width at half maximum of its PSF in pixels.
    source
        Pixels of sources (y, x), for example the segmentation; found from `flux` and `err` if None.

    Returns
    -------
    Reference
        To be handed to `clean`.

    Raises
    ------
    ImageShape
        `flux`, `err` and `source` differ in shape.
    UsageError
        `psf_fwhm` is not a positive number.
    """
    if flux.shape != err.shape or (source is not None and source.shape != flux.shape):
        shapes = (flux.shape, err.shape, None if source is None else source.shape)
        msg = f"superstack, error and source mask must have one shape, not {shapes}"
        raise ImageShape(msg)
    if not (math.isfinite(psf_fwhm) and psf_fwhm > 0):
        msg = f"the PSF's width must be a positive number of pixels, not {psf_fwhm}"
        raise UsageError(msg)
    usable = np.isfinite(flux) & np.isfinite(err)
    level = np.where(usable, flux, 0).astype(np.float32)
    noise = np.where(usable, err, 0).astype(np.float32)
    dy, dx = (np.asarray(slope) for slope in np.gradient(level))
    envelope = np.hypot(level, np.float32(psf_fwhm / 2) * np.hypot(dx, dy))
    significant = usable & (level > _SOURCE_SIGNIFICANCE * noise)
    source = significant if source is None else (source & usable) | significant
    pixels = np.flatnonzero(significant)
    return Reference(
        flux=level,
        err=noise,
        usable=usable,
        source=source,
        envelope=envelope.astype(np.float32),
        pixels=pixels,
        basis=_basis(level, dx, dy, pixels),
        psf_fwhm=float(psf_fwhm),
        n_aors=int(n_aors),
    )


def clean(
    image: Floats,
    variance: Floats,
    bad: Mask,
    reference: Reference,
    *,
    scale: float = 1.0,
    threshold: float = THRESHOLD,
    fallback: Literal["lacosmic", "none"] = "lacosmic",
) -> Cleaned:
    """Replace the cosmic rays of one mosaic by what the superstack expects there.

    Parameters
    ----------
    image
        The mosaic (y, x), background removed, on the superstack's grid.
    variance
        Its variance per pixel (y, x). Its overall level need not be right: it is rescaled to the
        scatter of the sky.
    bad
        Pixels that hold no measurement (y, x); they are never hits.
    reference
        From `prepare`.
    scale
        The mosaic's flux scale relative to the superstack, where it is known; only a start.
    threshold
        How far a pixel must stand out, in units of its noise.
    fallback
        What to do when the superstack was made of fewer than three AORs, and so holds the hits
        itself.

    Returns
    -------
    Cleaned
        The new image, the mask of what was replaced, and how it was judged.

    Raises
    ------
    ImageShape
        An image differs from the superstack in shape.
    """
    for name, array in (("mosaic", image), ("variance", variance), ("bad-pixel mask", bad)):
        if array.shape != reference.flux.shape:
            msg = f"the {name} has shape {array.shape}, the superstack {reference.flux.shape}"
            raise ImageShape(msg)
    single = image.astype(np.float32)
    good = ~bad & np.isfinite(single) & np.isfinite(variance) & (variance > 0) & reference.usable
    if reference.n_aors < _FEWEST_AORS:
        return _clean_alone(single, variance, good, method=fallback)
    residual, noise, expected = _residual(single, variance, good, reference, scale)
    search = _Search(residual, noise, good, expected, reference)
    hits, n_hits = _find(search, threshold)
    cleaned = single.copy()
    cleaned[hits] = search.expected[hits]
    return Cleaned(cleaned, hits, n_hits, "superstack")


def _basis(level: Single, dx: Floats, dy: Floats, pixels: Indices) -> Single:
    """Return S and its derivatives to second order at the pixels."""
    dxy, dxx = np.gradient(dx)
    dyy = np.gradient(dy, axis=0)
    terms = (level, dx, dy, dxx - dyy, dxy, dxx + dyy)
    return np.stack([term.ravel()[pixels] for term in terms], axis=1).astype(np.float32)


def _residual(
    image: Single, variance: Floats, good: Mask, reference: Reference, scale: float
) -> tuple[Single, Single, Single]:
    """Return mosaic minus matched superstack, its noise, and the matched superstack."""
    random = np.where(good, variance, 1).astype(np.float32) + reference.err * reference.err
    expected = np.float32(scale) * reference.flux
    pixels, basis = reference.pixels, reference.basis
    flat_good, flat_random = good.ravel(), random.ravel()
    start = np.where(good, image - expected, 0).astype(np.float32)
    guides = flat_good[pixels] & (basis[:, 0] > _FIT_SIGNIFICANCE * np.sqrt(flat_random[pixels]))
    step = max(1, int(guides.sum()) // _FIT_PIXELS)
    rows = np.flatnonzero(guides)[::step]
    fraction = _SMALLEST_FRACTION
    if rows.size:
        at = pixels[rows]
        envelope = reference.envelope.ravel()[at]
        target, weight = start.ravel()[at], flat_random[at]
        match = _match(basis[rows], target, weight, envelope)
        expected = expected.copy()
        expected.ravel()[pixels] += basis @ match
        rest = target - basis[rows] @ match
        fraction = max(fraction, _fraction(rest, weight, envelope))
    residual = np.where(good, image - expected, 0).astype(np.float32)
    sky = _sky_width(residual, random, good & ~reference.source)
    noise = np.sqrt(np.float32(sky**2) * random + np.float32(fraction) ** 2 * reference.envelope**2)
    return residual, noise.astype(np.float32), expected


def _match(basis: Single, target: Single, random: Single, envelope: Single) -> Single:
    """Fit the basis to the target, dropping what stands out (variables and hits)."""
    fraction = 0.03
    keep = np.ones(target.size, dtype=bool)
    wide = basis.astype(np.float64)
    match: Floats = np.zeros(wide.shape[1])
    for _ in range(4):
        weight = keep / (random + (fraction * envelope) ** 2)
        weighted = wide * weight[:, None]
        normal = wide.T @ weighted + np.diag(1 / _PRIOR**2)
        match = np.linalg.solve(normal, weighted.T @ target)
        rest = target - wide @ match
        fraction = max(_SMALLEST_FRACTION, _fraction(rest, random, envelope))
        keep = np.abs(rest) < 3 * np.sqrt(random + (fraction * envelope) ** 2)
    return match.astype(np.float32)


def _fraction(rest: Floats, random: Floats, envelope: Floats) -> float:
    """Return the scatter that noise does not explain, as a fraction of the envelope."""
    bright = envelope**2 > 30**2 * random
    if np.count_nonzero(bright) < 30:  # too few pixels for a scatter
        return 0.03
    return 1.4826 * float(np.median(np.abs(rest[bright]) / envelope[bright]))


def _sky_width(residual: Single, random: Single, sky: Mask) -> float:
    """Return the robust width of residual over noise on the sky; 1 where there is no sky."""
    at = np.flatnonzero(sky)
    at = at[:: max(1, at.size // 20_000)]
    if at.size < 100:
        return 1.0
    pulls = residual.ravel()[at] / np.sqrt(random.ravel()[at])
    width = 1.4826 * float(np.median(np.abs(pulls - np.median(pulls))))
    return width if width > 0 else 1.0


class _Search:
    """The images a search works on, padded so that every stamp is whole."""

    def __init__(
        self, residual: Single, noise: Single, good: Mask, expected: Single, reference: Reference
    ) -> None:
        fwhm = reference.psf_fwhm
        self.shape = residual.shape
        self.half = max(3, math.ceil(1.6 * fwhm))
        self.fwhm = fwhm
        self.expected = expected
        pad = self.half
        self.width = residual.shape[1] + 2 * pad
        self.residual = np.pad(residual, pad).ravel()
        self.noise = np.pad(noise, pad, constant_values=1).ravel()
        self.valid = np.pad(good, pad).ravel()
        self.flux = np.pad(reference.flux, pad).ravel()
        self.source = np.pad(reference.source, pad).ravel()
        side = np.arange(-pad, pad + 1)
        self.dy, self.dx = (axis.ravel() for axis in np.meshgrid(side, side, indexing="ij"))
        self.stamp = self.dy * self.width + self.dx
        self.ring = np.array([-1, 0, 1])[:, None] * self.width + np.array([-1, 0, 1])
        self.around = np.delete(self.ring.ravel(), 4)

    def inner(self, flat: Indices) -> Indices:
        """Translate padded flat indices to those of the image."""
        rows, columns = np.divmod(flat, self.width)
        inner: Indices = (rows - self.half) * self.shape[1] + (columns - self.half)
        return inner


def _find(search: _Search, threshold: float) -> tuple[Mask, int]:
    """Judge the peaks, remove the hits, and look again at what stands beside them."""
    hits = np.zeros(search.shape, dtype=bool)
    expected = search.expected = search.expected.copy()
    candidates = np.flatnonzero(search.valid & (search.residual > threshold * search.noise))
    judged: Indices = np.empty(0, dtype=np.intp)
    n_hits = 0
    for _ in range(_PASSES):
        candidates = candidates[search.valid[candidates]]
        value = search.residual[candidates]
        beside = candidates[:, None] + search.around
        rival = np.where(search.valid[beside], search.residual[beside], -np.inf).max(axis=1)
        peaks = np.setdiff1d(candidates[value >= rival], judged, assume_unique=True)
        if not peaks.size:
            break
        judged = np.union1d(judged, peaks)
        is_hit, amplitude = _judge(search, peaks, threshold)
        if not is_hit.any():
            break
        n_hits += int(is_hit.sum())
        removed, level = _skirt(search, peaks[is_hit], amplitude[is_hit])
        search.valid[removed] = False
        inner = search.inner(removed)
        hits.ravel()[inner] = True
        expected.ravel()[inner] += level
    return hits, n_hits


def _judge(search: _Search, peaks: Indices, threshold: float) -> tuple[Mask, Single]:
    """Say which peaks are hits, and how much each one's source changed (0 off sources)."""
    at = peaks[:, None] + search.stamp
    value, noise = search.residual[at], search.noise[at]
    weight = search.valid[at] / noise
    peak, peak_noise = search.residual[peaks], search.noise[peaks]
    profile = _profile(search, peaks)
    distance = np.hypot(search.dy, search.dx)
    halo = (distance > 0.6 * search.fwhm) & (distance <= 1.6 * search.fwhm)
    on_source = search.source[peaks]
    # a track fills up to half the halo, but a point source all of it: off sources a low quantile,
    # on sources, where neighbours may hold part of the halo down, the median
    around = _amplitude(
        value[:, halo], profile[:, halo], weight[:, halo], np.where(on_source, 0.5, _LOW_QUANTILE)
    )
    centre = profile[:, search.stamp.size // 2]
    lonely = around * centre < 0.5 * peak

    template = np.maximum(search.flux[at], 0)
    amplitude = _amplitude(value, template, weight)
    formal = 1.25 / np.sqrt(np.maximum(((template * weight) ** 2).sum(axis=1), 1e-30))
    # resampled noise is correlated: the sums of a stamp scatter about twice as much as formally
    spread = 2 * formal * template[:, search.stamp.size // 2]
    amplitude = np.where(on_source & (np.abs(amplitude) > 6 * formal), amplitude, 0)
    rest = peak - amplitude * template[:, search.stamp.size // 2]
    stands_out = rest > threshold * np.hypot(peak_noise, np.where(on_source, spread, 0))
    return lonely & stands_out, amplitude.astype(np.float32)


def _profile(search: _Search, peaks: Indices) -> Single:
    """Return the PSF of a point source at each peak, centred on the peak's own centroid."""
    core = (
        search.residual[peaks[:, None] + search.ring.ravel()].clip(0)
        * search.valid[peaks[:, None] + search.ring.ravel()]
    )
    total = core.sum(axis=1)
    y0 = ((core @ np.repeat([-1.0, 0.0, 1.0], 3)) / total)[:, None]
    x0 = ((core @ np.tile([-1.0, 0.0, 1.0], 3)) / total)[:, None]
    alpha = search.fwhm / (2 * math.sqrt(2 ** (1 / _MOFFAT_BETA) - 1))
    squared = (search.dy - y0) ** 2 + (search.dx - x0) ** 2
    return np.asarray((1 + squared / alpha**2) ** -_MOFFAT_BETA, dtype=np.float32)


def _amplitude(
    value: Single, template: Single, weight: Single, quantile: Floats | float = 0.5
) -> Single:
    """Return, row by row, a weighted quantile of value / template, weights template x weight.

    The median is the k that minimises sum |value - k template| weight.
    """
    pull = template * weight
    ratio = np.where(pull > 0, value / np.where(pull > 0, template, 1), np.inf)
    order = np.argsort(ratio, axis=1)
    total = np.cumsum(np.take_along_axis(pull, order, axis=1), axis=1)
    wanted = np.reshape(quantile, (-1, 1)) * total[:, -1:]
    middle = np.argmax(total >= wanted, axis=1)
    found = np.take_along_axis(ratio, np.take_along_axis(order, middle[:, None], axis=1), axis=1)[
        :, 0
    ]
    return np.where(total[:, -1] > 0, found, 0).astype(np.float32)


def _skirt(search: _Search, peaks: Indices, amplitude: Single) -> tuple[Indices, Single]:
    """Return the pixels a hit reaches, and by how much its source raises what is expected there."""
    distance = np.hypot(search.dy, search.dx)
    near = distance <= 1.5  # a native pixel spread over the neighbours
    reach = distance <= 3.0  # beyond the corner of a pyramid 2 px wide
    at = peaks[:, None] + search.stamp[reach]
    level = amplitude[:, None] * np.maximum(search.flux[at], 0)
    pull = (search.residual[at] - level) / search.noise[at]
    part = search.valid[at] & (pull > np.where(near[reach], 0.5, 2.0))
    part[:, distance[reach] == 0] = True
    flat, first = np.unique(at[part], return_index=True)
    return flat, level[part][first]


def _clean_alone(image: Single, variance: Floats, good: Mask, *, method: Method) -> Cleaned:
    """Clean without a superstack to judge by: L.A.Cosmic, and only away from sources."""
    hits = np.zeros(image.shape, dtype=bool)
    if method == "none" or not good.any():
        return Cleaned(image, hits, 0, "none")
    import astroscrappy  # needed for fields of one or two AORs only
    from scipy import ndimage

    filled = np.where(good, image, 0).astype(np.float32)
    level = np.where(good, variance, 1).astype(np.float32)
    found, _ = astroscrappy.detect_cosmics(
        filled,
        inmask=~good,
        invar=level,
        gain=1.0,
        readnoise=0.0,
        satlevel=np.inf,
        sigclip=6.0,
        objlim=10.0,
        niter=2,
        cleantype="medmask",
    )
    # a source shows as one on a smoothed image; a hit of one pixel hardly does
    hits = found.astype(bool) & good
    smooth = ndimage.median_filter(filled, size=5)
    hits &= smooth < _SOURCE_SIGNIFICANCE * np.sqrt(level)
    cleaned = image.copy()
    cleaned[hits] = smooth[hits]
    return Cleaned(cleaned, hits, int(ndimage.label(hits)[1]), "lacosmic")
