"""The superstack: the weighted mean of every AOR of one channel, with cosmic rays clipped.

The images are read twice, in strips of rows, so that memory depends on the strip and not on the
number of AORs. The first reading gives the median of every pixel and its spread among the AORs. The
second sums the inverse-variance weighted mean and collects what stands out of the median; the
outliers are then judged by `idfzarr.imaging.outliers`, which keeps what looks like an object and
drops the rest from the sums.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from scipy import ndimage

from idfzarr.errors import ImageShape, UsageError
from idfzarr.imaging.outliers import Judge, Residuals, measure_sharpness
from idfzarr.imaging.source_mask import superstack_background
from idfzarr.progress import silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from idfzarr.imaging.outliers import Verdict
    from idfzarr.imaging.sky import Plane
    from idfzarr.progress import Progress

Single: TypeAlias = "NDArray[np.float32]"
Double: TypeAlias = "NDArray[np.float64]"
Mask: TypeAlias = "NDArray[np.bool_]"
Integers: TypeAlias = "NDArray[np.int64]"

__all__ = ["MIN_EPOCHS", "Layer", "Strip", "Superstack", "make_superstack"]

MIN_EPOCHS = 3
"""A pixel seen by fewer AORs than this is not clipped: two values cannot tell which is wrong."""

_DEFAULT_MEMORY = 256 * 1024 * 1024
_BYTES = 10  # per pixel of a strip and AOR: residual, weight, two masks
_HALO = 2  # rows around a strip that the shape of an outlier needs
_BLOCK = 4096  # pixels sorted at a time: 4096 x 64 float32 stay in the cache
_LABEL = "superstack"

# How far a star may be from its median without being an outlier, beside the noise of the pixel:
# - a share of its light: 1 % drift of the zero point, up to 4 % by pixel phase (IRAC Instrument
#   Handbook 4.6), of which the scatter is about half;
# - a share of the light's change to the neighbouring pixels: pointing is good to 0.1-0.2 arcsec,
#   0.2 of a superstack pixel, and the PSF turns with the roll of the spacecraft.
_FLUX_SHARE = 0.03
_STEP_SHARE = 0.2
_SPREAD_EPOCHS = 8  # the quartiles of fewer values are too uncertain to widen the limit by
_IQR_TO_SIGMA = 1.0 / 1.3489795003921634


@dataclass(frozen=True)
class Strip:
    """Some rows of one AOR's image.

    Parameters
    ----------
    flux
        (rows, nx), with the AOR's sky still in.
    variance
        (rows, nx), the square of the uncertainty; None where the AOR has no ``unc``.
    good
        (rows, nx), False for pixels that must not be used.
    """

    flux: Single
    variance: Single | None
    good: Mask


class Layer(Protocol):
    """One AOR's image on the field's grid."""

    def strip(self, y0: int, y1: int) -> Strip:
        """Return rows ``y0`` to ``y1 - 1``."""
        ...


@dataclass(frozen=True)
class Superstack:
    """The mean image of one channel.

    Parameters
    ----------
    flux
        (y, x), background removed; NaN where no AOR has a good pixel.
    err
        (y, x), one standard deviation by the weights alone, ``1 / sqrt(sum of weights)``; noise
        correlated between pixels makes apertures worse than this says.
    coverage
        (y, x), AORs in the mean. Pixels with fewer than `MIN_EPOCHS` are not clipped.
    clipped
        (y, x), AORs left out as outliers.
    background
        (y, x), what was removed from the mean of the sky-subtracted AORs.
    scatter
        (y, x), standard error of the mean from the scatter of the AORs; NaN for fewer than two.
    n_aors
        AORs that went in.
    """

    flux: Single
    err: Single
    coverage: NDArray[np.int16]
    clipped: NDArray[np.int16]
    background: Single
    scatter: Single
    n_aors: int

    @property
    def seen(self) -> NDArray[np.int16]:
        """AORs with a good pixel here, clipped or not."""
        return self.coverage + self.clipped


def make_superstack(
    layers: Sequence[Layer],
    skies: Sequence[Plane],
    shape: tuple[int, int],
    *,
    scales: Sequence[float] | None = None,
    clip: float = 3.0,
    memory: int = _DEFAULT_MEMORY,
    background_mesh: int = 64,
    progress: Progress = silent,
) -> Superstack:
    """Average the AORs of one channel.

    Parameters
    ----------
    layers
        The images, on one grid.
    skies
        The background of each; its ``rms`` is the noise of a layer without variance.
    shape
        (ny, nx) of the grid.
    scales
        Flux scale of each AOR relative to the field's (a zero-point drift); 1 where omitted.
    clip
        Limit in standard deviations about the median. The standard deviation is the pixel's own
        noise with 3 % of the median's light and a fifth of its step to the neighbours added in
        quadrature, or the spread of the AORs by their quartiles where that is larger (and at least
        8 AORs are there), so that cores of stars survive drift, pointing and roll.
    memory
        Bytes that the strips may take; a field of any number of AORs is worked in as many strips as
        that needs.
    background_mesh
        Size in pixels of the mesh on which what is left of the sky is estimated.
    progress
        Told the label, rows done and rows in all (both readings).

    Returns
    -------
    Superstack
        The mean, its error and its planes.

    Raises
    ------
    UsageError
        There is no layer, or the numbers of layers, skies and scales differ, or a scale is not a
        positive number.
    ImageShape
        A strip has another shape than the rows asked for.

    Notes
    -----
    An outlier is kept in all AORs where it looks like an object: not sharper than the PSF, and, if
    it is an excess, seen at that place (within a pixel) in two AORs or more. A cosmic ray is seen
    once. See `idfzarr.imaging.outliers`.
    """
    stack = _Stack.of(layers, skies, shape, scales, memory)
    total = 2 * shape[0]

    median, spread = _locate(stack, progress, total)
    flux_noise = _typical_noise(stack, median, spread)
    sharpness = measure_sharpness(median, flux_noise)
    judge = Judge(sharpness, clip=clip)
    sums = _Sums.empty(shape)
    floor = _floor(median)
    for y0, y1 in stack.strips():
        block = stack.read(y0, y1, halo=_HALO)
        _center(block, median, y0)
        limits = _Limits(floor[y0:y1], spread[y0:y1], clip)
        at, strength = _accumulate(block, sums, limits, (y0, y1))
        judge.add(Residuals(block.flux, block.weight, at, strength, y0=y0, halo=_HALO))
        _drop(sums, judge.settle(y1 if y1 < shape[0] else None))
        progress(_LABEL, shape[0] + y1, total)
    return _finish(sums, median, len(layers), background_mesh)


@dataclass
class _Block:
    """One strip of all AORs, with a margin of NaN (and weight 0) wherever the field ends."""

    flux: Single  # (aor, rows + 2 halo, nx + 2 halo)
    weight: Single
    halo: int


@dataclass(frozen=True)
class _Stack:
    """What is to be averaged, and how its strips are read."""

    layers: Sequence[Layer]
    skies: Sequence[Plane]
    shape: tuple[int, int]
    scales: Sequence[float]
    noise: Sequence[float]
    rows: int
    kept: dict[tuple[int, int], _Block] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        layers: Sequence[Layer],
        skies: Sequence[Plane],
        shape: tuple[int, int],
        scales: Sequence[float] | None,
        memory: int,
    ) -> _Stack:
        """Check what is asked and choose the height of the strips."""
        given = [1.0] * len(layers) if scales is None else [float(scale) for scale in scales]
        if not layers or len({len(layers), len(skies), len(given)}) != 1:
            msg = (
                f"a superstack needs as many skies and scales as AORs and at least one, found "
                f"{len(layers)} AORs, {len(skies)} skies and {len(given)} scales"
            )
            raise UsageError(msg)
        wrong = [scale for scale in given if not (np.isfinite(scale) and scale > 0)]
        if wrong:
            msg = f"the flux scale of an AOR must be a positive number, found {wrong[0]}"
            raise UsageError(msg)
        rms = np.array([sky.rms for sky in skies], dtype=np.float64)
        valid = np.isfinite(rms) & (rms > 0)
        # An AOR whose sky could not be measured counts like the typical one.
        rms[~valid] = np.median(rms[valid]) if valid.any() else 1.0
        per_row = len(layers) * (shape[1] + 2 * _HALO) * _BYTES
        rows = max(int(memory // per_row) - 2 * _HALO, 1)
        return cls(layers, skies, shape, given, rms.tolist(), min(rows, shape[0]))

    def strips(self) -> Iterator[tuple[int, int]]:
        """Yield the first row and the one after the last of every strip."""
        for y0 in range(0, self.shape[0], self.rows):
            yield y0, min(y0 + self.rows, self.shape[0])

    def read(self, y0: int, y1: int, *, halo: int) -> _Block:
        """Read one strip of all AORs, sky removed and scaled."""
        if (y0, y1) in self.kept:
            return self.kept.pop((y0, y1))
        ny, nx = self.shape
        size = (len(self.layers), y1 - y0 + 2 * halo, nx + 2 * halo)
        block = _Block(np.full(size, np.nan, np.float32), np.zeros(size, np.float32), halo)
        first, last = max(y0 - halo, 0), min(y1 + halo, ny)
        inner = (slice(first - y0 + halo, last - y0 + halo), slice(halo, halo + nx))
        for k, layer in enumerate(self.layers):
            flux, weight = self._layer(k, layer.strip(first, last), (first, last))
            block.flux[k][inner] = flux
            block.weight[k][inner] = weight
        return block

    def _layer(self, k: int, strip: Strip, rows: tuple[int, int]) -> tuple[Single, Single]:
        """Turn one AOR's strip into flux on the field's scale and weight."""
        expected = (rows[1] - rows[0], self.shape[1])
        shapes = {np.shape(strip.flux), np.shape(strip.good)}
        if strip.variance is not None:
            shapes.add(np.shape(strip.variance))
        if shapes != {expected}:
            msg = (
                f"rows {rows[0]} to {rows[1]} of AOR number {k} should have the shape {expected}, "
                f"found {sorted(shapes)}: resample it onto the grid of the superstack first"
            )
            raise ImageShape(msg)
        scale = np.float32(self.scales[k])
        flux = (strip.flux - self.skies[k].image(self.shape, rows)) / scale
        good = np.asarray(strip.good, dtype=bool) & np.isfinite(flux)
        if strip.variance is None:
            weight = np.full(expected, (self.scales[k] / self.noise[k]) ** 2, dtype=np.float32)
        else:
            good &= np.isfinite(strip.variance) & (strip.variance > 0)
            weight = (scale**2 / np.where(good, strip.variance, np.float32(1.0))).astype(np.float32)
        flux[~good] = np.nan
        weight[~good] = 0.0
        return flux.astype(np.float32, copy=False), weight


def _locate(stack: _Stack, progress: Progress, total: int) -> tuple[Single, Single]:
    """Find the median of every pixel and the spread of the AORs about it."""
    median = np.full(stack.shape, np.nan, dtype=np.float32)
    spread = np.full(stack.shape, np.nan, dtype=np.float32)
    single = stack.rows >= stack.shape[0]
    for y0, y1 in stack.strips():
        # One strip for all rows is read once and kept for the second pass.
        halo = _HALO if single else 0
        block = stack.read(y0, y1, halo=halo)
        inner = block.flux[:, halo : halo + y1 - y0, halo : halo + stack.shape[1]]
        median[y0:y1], spread[y0:y1] = _median_and_spread(inner)
        if single:
            stack.kept[y0, y1] = block
        progress(_LABEL, y1, total)
    return median, spread


def _median_and_spread(cube: Single) -> tuple[Single, Single]:
    """Return the median of every pixel and the standard deviation that its quartiles stand for."""
    n, rows, nx = cube.shape
    median = np.empty((rows, nx), dtype=np.float32)
    spread = np.empty((rows, nx), dtype=np.float32)
    step = max(_BLOCK // nx, 1)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        values = np.ascontiguousarray(cube[:, part].reshape(n, -1).T)
        count = n - np.count_nonzero(np.isnan(values), axis=1)
        values.sort(axis=1)  # NaN goes last
        last = np.maximum(count - 1, 0)
        at = np.stack([last // 2, (last + 1) // 2, last // 4, last - last // 4], axis=1)
        low, high, first, third = np.take_along_axis(values, at, axis=1).T
        width = np.where(count >= _SPREAD_EPOCHS, (third - first) * _IQR_TO_SIGMA, np.nan)
        median[part] = (np.float32(0.5) * (low + high)).reshape(-1, nx)
        spread[part] = width.reshape(-1, nx)
    return median, spread


def _typical_noise(stack: _Stack, median: Single, spread: Single) -> float:
    """Estimate the noise of the median image: its own robust scatter, sky being most of it."""
    finite = median[np.isfinite(median)]
    if finite.size == 0:
        return float("nan")
    lower = finite[finite <= np.median(finite)]
    width = 1.4826 * float(np.median(np.median(finite) - lower))
    typical = spread[np.isfinite(spread)]
    if typical.size:
        width = max(width, 1.2533 * float(np.median(typical)) / len(stack.layers) ** 0.5)
    return width


def _floor(median: Single) -> Single:
    """Return the variance that drift, pointing and roll add: see the constants above."""
    filled = np.where(np.isfinite(median), median, np.float32(0.0))
    step = ndimage.maximum_filter(filled, size=3) - ndimage.minimum_filter(filled, size=3)
    floor: Single = (_FLUX_SHARE * filled) ** 2 + (_STEP_SHARE * 0.5 * step) ** 2
    return floor.astype(np.float32, copy=False)


def _center(block: _Block, median: Single, y0: int) -> None:
    """Subtract the median in place."""
    halo = block.halo
    ny, nx = median.shape
    rows = block.flux.shape[1]
    first, last = max(y0 - halo, 0), min(y0 - halo + rows, ny)
    inner = (slice(first - y0 + halo, last - y0 + halo), slice(halo, halo + nx))
    block.flux[(slice(None), *inner)] -= median[first:last]


@dataclass(frozen=True)
class _Limits:
    """What a residual is measured against."""

    floor: Single
    spread: Single
    clip: float

    def strength(self, residual: Single, weight: Single) -> Single:
        """Return the square of residual over limit, NaN where there is no value."""
        noise = np.float32(1.0) / np.maximum(weight, np.float32(1e-30))
        variance = np.fmax(self.floor + noise, self.spread**2)
        square = residual * residual / (np.float32(self.clip**2) * variance)
        return square.astype(np.float32, copy=False)


@dataclass
class _Sums:
    """Sums over AORs, relative to the median: of w, w r, w r^2, and how many."""

    weight: Double
    first: Double
    second: Double
    count: NDArray[np.int16]
    clipped: NDArray[np.int16]

    @classmethod
    def empty(cls, shape: tuple[int, int]) -> _Sums:
        """Return sums of nothing."""
        zeros = [np.zeros(shape, dtype=np.float64) for _ in range(3)]
        counts = [np.zeros(shape, dtype=np.int16) for _ in range(2)]
        return cls(zeros[0], zeros[1], zeros[2], counts[0], counts[1])


def _accumulate(
    block: _Block, sums: _Sums, limits: _Limits, rows: tuple[int, int]
) -> tuple[tuple[Integers, Integers, Integers], Single]:
    """Add every AOR to the sums; return the outliers (AOR, row, column) and their strength."""
    y0, y1 = rows
    nx = sums.count.shape[1]
    inner = (slice(block.halo, block.halo + y1 - y0), slice(block.halo, block.halo + nx))
    weights, first, second = sums.weight[y0:y1], sums.first[y0:y1], sums.second[y0:y1]
    pixels, strengths = [], []
    for k in range(block.flux.shape[0]):
        residual, weight = block.flux[k][inner], block.weight[k][inner]
        square = limits.strength(residual, weight)
        pixel = np.flatnonzero(square > 1.0)
        pixels.append(pixel)
        strengths.append(np.sqrt(square.ravel()[pixel]))
        seen = weight > 0
        residual = np.where(seen, residual, np.float32(0.0))
        weighted = weight * residual
        weights += weight
        first += weighted
        second += weighted * residual
        sums.count[y0:y1] += seen
    aor = np.repeat(np.arange(len(pixels)), [pixel.size for pixel in pixels])
    y, x = np.divmod(np.concatenate(pixels), nx)
    several = sums.count[y0:y1][y, x] >= MIN_EPOCHS
    at = (aor[several], y[several], x[several])
    return at, np.concatenate(strengths)[several]


def _drop(sums: _Sums, verdict: Verdict) -> None:
    """Take clipped values out of the sums again."""
    at = (verdict.y, verdict.x)
    weight = verdict.weight.astype(np.float64)
    residual = verdict.residual.astype(np.float64)
    np.subtract.at(sums.weight, at, weight)
    np.subtract.at(sums.first, at, weight * residual)
    np.subtract.at(sums.second, at, weight * residual**2)
    np.subtract.at(sums.count, at, np.int16(1))
    np.add.at(sums.clipped, at, np.int16(1))


def _finish(sums: _Sums, median: Single, n_aors: int, mesh: int) -> Superstack:
    """Turn sums into images and remove the background that is left."""
    covered = sums.count > 0
    weight = np.where(covered, sums.weight, 1.0)
    offset = sums.first / weight
    mean = np.where(covered, median + offset, np.nan).astype(np.float32)
    err = np.where(covered, 1.0 / np.sqrt(weight), np.nan).astype(np.float32)
    several = sums.count > 1
    variance = np.maximum(sums.second / weight - offset**2, 0.0)
    scatter = np.sqrt(variance / np.where(several, sums.count - 1, 1))
    background = superstack_background(mean, err, mesh=mesh)
    return Superstack(
        flux=mean - background,
        err=err,
        coverage=sums.count,
        clipped=sums.clipped,
        background=background,
        scatter=np.where(several, scatter, np.nan).astype(np.float32),
        n_aors=n_aors,
    )
