"""Apertures frozen once: the pixels and weights of every object and method of a fixed field.

In a fixed field every aperture is the same pixels with the same weights in every AOR. `freeze`
computes them once from the superstack's catalogue; `idfzarr.imaging.photometry.measure` then turns
an AOR into fluxes by one product.

The weights stand twice: a sparse row per object and ring, for the product, and a row per pixel, in
float32, by which the apertures that a bad pixel spoils are found without looking at the others.
Objects lie in bands of image rows, so that a product walks through an image nearly in order.
Circles of one object stand as rings, see `idfzarr.imaging.footprints`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy import sparse

from idfzarr.errors import ImageShape
from idfzarr.flags import flag_bit
from idfzarr.imaging.aperture_shapes import (
    Scheme,
    Shapes,
    read_shapes,
    sort_methods,
    statistic_parts,
)
from idfzarr.imaging.footprints import PHOTUTILS_SQUARES, Entries, nearest_pixels
from idfzarr.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["NEIGHBOUR_AREA", "FrozenApertures", "freeze"]

NEIGHBOUR_AREA = 1.0
"""An aperture is flagged ``neighbour`` from this many pixels of other objects' segments on."""

# Objects of one sparse matrix: bounds what building it needs beside the result.
_BLOCK = 16384
# Objects whose overlaps are computed at once: keeps the dense boxes near 20 MB.
_CHUNK = 512
# Image rows of one band: what the apertures of neighbours in the order share stays in the cache.
_BAND = 32
# Above this share of bad pixels a full product is cheaper than picking their rows (measured).
_MANY = 0.25

_Matrix: TypeAlias = "sparse.csr_array"


@dataclass(frozen=True, eq=False)
class FrozenApertures:
    """The apertures of n objects and m methods on images of one shape.

    Made by `freeze`; the fields are not to be changed.

    Parameters
    ----------
    shape
        (ny, nx) of the images.
    methods
        The m methods that are sums over pixels, in the order asked for.
    statistics
        The s methods that are robust statistics of pixels, in the order asked for.
    n_objects
        n.
    area
        (n, m), sum of the weights inside the image.
    flags
        (n, m) uint16: what never changes, ``edge``, ``neighbour``, and ``undefined`` where an
        object has no such aperture (no Kron ellipse, no segment).
    nearest
        (n, a) int32 flat indices of the nearest pixels, -1 beyond the image; a = 0 without
        statistics.
    scheme
        How methods lie in the columns of one object.
    places
        (n * m,) where, in the rows of all blocks, each object's method is completed.
    blocks
        Sparse weights (rank * width + column, pixel), for consecutive blocks of objects; rank is
        an object's place in the order of the blocks.
    lookups
        The same, transposed and in float32.
    excess
        Sparse w - w^2 of the completed columns, laid out as `blocks`: only psf's where `squared`
        is false.
    squared
        Whether the variance of a pixel counts by the square of its overlap, as in photutils from
        3.1 on, or by the overlap itself, as before.
    """

    shape: tuple[int, int]
    methods: tuple[str, ...]
    statistics: tuple[str, ...]
    n_objects: int
    area: NDArray[np.float64]
    flags: NDArray[np.uint16]
    nearest: NDArray[np.int32]
    scheme: Scheme
    places: NDArray[np.intp]
    blocks: tuple[_Matrix, ...]
    lookups: tuple[_Matrix, ...]
    excess: tuple[_Matrix, ...]
    squared: bool

    @property
    def nbytes(self) -> int:
        """Memory of weights and lists, in bytes."""
        matrices = [*self.blocks, *self.lookups, *self.excess]
        sparse_bytes = sum(m.data.nbytes + m.indices.nbytes + m.indptr.nbytes for m in matrices)
        return int(sparse_bytes + self.area.nbytes + self.flags.nbytes + self.nearest.nbytes)

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum weighted pixels in every aperture.

        Parameters
        ----------
        values
            (k, ny * nx) float64, finite everywhere.

        Returns
        -------
        ndarray
            (k, n, m), accumulated in float64.
        """
        # One vector after the other: scipy's product with several is slower than that.
        parts = [np.stack([block @ v for v in values]) for block in self.blocks]
        return self._gather(parts, len(values))

    def sums_at(self, pixels: NDArray[np.intp], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sum weighted pixels in every aperture where only some pixels count.

        Parameters
        ----------
        pixels
            (p,) flat indices, each once.
        values
            (k, p) float64, finite.

        Returns
        -------
        ndarray
            (k, n, m), from weights rounded to float32; exactly 0 where an aperture holds none of
            the pixels, above 0 where it holds one and the values are positive.
        """
        size = self.shape[0] * self.shape[1]
        if pixels.size > _MANY * size:
            full = np.zeros((len(values), size))
            full[:, pixels] = values
            return self.sums(full)
        parts = [_picked(lookup, pixels, values) for lookup in self.lookups]
        return self._gather(parts, len(values))

    def variances(self, variance: NDArray[np.float64]) -> NDArray[np.float64]:
        """Propagate the pixels' variance to every aperture.

        Parameters
        ----------
        variance
            (ny * nx,) float64, finite everywhere.

        Returns
        -------
        ndarray
            (n, m), the sum of w^2 x variance, or of w x variance where not `squared`.
        """
        parts = [(block @ variance)[None] for block in self.blocks]
        excess = [(part @ variance)[None] for part in self.excess]
        propagated: NDArray[np.float64] = self._gather(parts, 1, excess)[0]
        return propagated

    def _gather(
        self,
        parts: list[NDArray[np.float64]],
        k: int,
        excess: list[NDArray[np.float64]] | None = None,
    ) -> NDArray[np.float64]:
        """Complete sums per block (k, columns), bring them into the order asked for, (k, n, m)."""
        if not parts:
            return np.zeros((k, self.n_objects, len(self.methods)))
        columns = np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
        self.scheme.complete(columns.reshape(k, self.n_objects, self.scheme.width))
        if excess is not None:
            columns -= np.concatenate(excess, axis=1) if len(excess) > 1 else excess[0]
        return np.take(columns, self.places, axis=1).reshape(k, *self.area.shape)

    def touches(self, mask: ArrayLike) -> NDArray[np.bool_]:
        """Say which apertures hold at least one pixel of a mask.

        Parameters
        ----------
        mask
            (y, x), nonzero where a pixel belongs to it: saturated, hit by a cosmic ray, ...

        Returns
        -------
        ndarray of bool
            (n, m).

        Raises
        ------
        ImageShape
            The mask has another shape than the apertures were frozen for.
        """
        image = self.require_shape("the mask", mask)
        pixels = np.flatnonzero(image != 0)
        held: NDArray[np.bool_] = self.sums_at(pixels, np.ones((1, pixels.size)))[0] > 0
        return held

    def require_shape(self, name: str, image: ArrayLike) -> NDArray[Any]:
        """Return the image as an array, or say that its shape is another.

        Parameters
        ----------
        name
            What the error calls it.
        image
            (y, x).

        Returns
        -------
        ndarray
            The image.

        Raises
        ------
        ImageShape
            Another shape than the apertures were frozen for.
        """
        array = np.asarray(image)
        if array.shape != self.shape:
            msg = (
                f"{name} has the shape {array.shape}, and the apertures were frozen for "
                f"{self.shape}: resample it onto the superstack's grid first"
            )
            raise ImageShape(msg)
        return array

    def matrix(self) -> _Matrix:
        """Return the weights as one sparse matrix, each aperture a row.

        Returns
        -------
        scipy.sparse.csr_array
            (n * m, ny * nx), row ``object * m + method``: for looking at apertures, and for
            programs that multiply on their own; `sums` is faster.
        """
        if not self.blocks:
            empty = (self.n_objects * len(self.methods), self.shape[0] * self.shape[1])
            return sparse.csr_array(empty, dtype=np.float64)
        width, rings = self.scheme.width, len(self.scheme.radii)
        last = self.places % width
        first = np.where(last < rings, 0, last)
        parts = last - first + 1
        row = np.repeat(np.arange(last.size), parts)
        start = np.repeat(self.places - last + first, parts)
        column = start + np.arange(row.size) - np.repeat(np.cumsum(parts) - parts, parts)
        columns = self.n_objects * width
        choice = sparse.csr_array((np.ones(row.size), (row, column)), shape=(last.size, columns))
        rows = sparse.csr_array(choice @ sparse.vstack(self.blocks, format="csr"))
        rows.sort_indices()
        return rows


def freeze(
    catalogue: Mapping[str, ArrayLike],
    methods: Sequence[str],
    shape: tuple[int, int],
    *,
    segmentation: ArrayLike | None = None,
    psf: ArrayLike | None = None,
    squared: bool = PHOTUTILS_SQUARES,
    progress: Progress = silent,
) -> FrozenApertures:
    """Compute the pixels and weights of every object and method, once.

    Parameters
    ----------
    catalogue
        Columns by name, a Table or a mapping: ``x``, ``y`` (pixels, 0 at the centre of the first
        pixel); for auto ``kron_a``, ``kron_b`` (semi-axes in pixels of the whole Kron aperture)
        and ``theta`` (radians from the x axis, counterclockwise); for iso and for the flag
        ``neighbour`` ``labels`` (the object's label in `segmentation`; without that column row
        k is label k + 1).
    methods
        Method names as in `idfzarr.measurement`: auto, iso, aper1..aper8, r3.5, psf, median7, ...
    shape
        (ny, nx) of the images.
    segmentation
        (y, x) integers, 0 = sky; needed by iso, and by ``neighbour``, which stays unset without.
    psf
        Square stamp of odd side; needed by psf. Its weights are P / sum(P^2), the matched filter
        for white noise (Irwin 1985, MNRAS 214, 575).
    squared
        Whether errors count the variance of a pixel by the square of its overlap; by default as
        the photutils that is installed does.
    progress
        Told of objects done.

    Returns
    -------
    FrozenApertures
        Weights that equal photutils' ``method="exact"`` masks.

    Raises
    ------
    UsageError
        A method is unknown or asked for twice, a column or image it needs is missing, a position
        is not finite.
    ImageShape
        The segmentation has another shape.

    Examples
    --------
    >>> frozen = freeze({"x": [10.0], "y": [12.0]}, ["aper1", "r3.5"], (32, 32))
    >>> frozen.area.round(4).tolist()
    [[12.5664, 38.4845]]
    """
    shape = (int(shape[0]), int(shape[1]))
    scheme, statistics = sort_methods(methods)
    shapes = read_shapes(
        catalogue, scheme, shape, segmentation=segmentation, psf=psf, squared=squared
    )
    parts = [statistic_parts(method) for method in statistics]
    count = max((part[1] for part in parts if part is not None), default=0)
    order = np.lexsort((shapes.x, np.floor(shapes.y / _BAND)))
    rank = np.argsort(order)
    blocks, excess, areas = _build_blocks(shapes.take(order), progress)
    area, foreign = areas[:, rank]
    return FrozenApertures(
        shape=shape,
        methods=scheme.methods,
        statistics=statistics,
        n_objects=shapes.x.size,
        area=area,
        flags=_constant_flags(shapes, foreign >= NEIGHBOUR_AREA),
        nearest=nearest_pixels(shapes.x, shapes.y, count, shape),
        scheme=scheme,
        places=(rank[:, None] * scheme.width + scheme.columns).ravel(),
        blocks=blocks,
        lookups=tuple(block.astype(np.float32).T.tocsr() for block in blocks),
        excess=excess,
        squared=squared,
    )


def _constant_flags(shapes: Shapes, neighbour: NDArray[np.bool_]) -> NDArray[np.uint16]:
    flags = np.zeros(neighbour.shape, dtype=np.uint16)
    if shapes.scheme.methods:
        flags[shapes.reaches_beyond()] |= np.uint16(flag_bit("edge"))
        flags[neighbour] |= np.uint16(flag_bit("neighbour"))
        flags[shapes.undefined()] |= np.uint16(flag_bit("undefined"))
    return flags


def _runs(size: int, length: int, start: int = 0) -> Iterator[slice]:
    for first in range(start, size, length):
        yield slice(first, min(first + length, size))


def _build_blocks(
    shapes: Shapes, progress: Progress
) -> tuple[tuple[_Matrix, ...], tuple[_Matrix, ...], NDArray[np.float64]]:
    """Return blocks, excess, and (2, n, m) areas and those of other objects' segments in them."""
    n, scheme = shapes.x.size, shapes.scheme
    areas = np.zeros((2, n, scheme.width))
    blocks, excess = [], []
    for block in _runs(n if scheme.width else 0, _BLOCK):
        weights, partial = _Gathered(), _Gathered()
        for run in _runs(block.stop, _CHUNK, block.start):
            drawn = shapes.draw(run)
            areas[:, run] = _areas(drawn[0], shapes, run)
            for gathered, entries in zip((weights, partial), drawn, strict=True):
                gathered.add(entries, (run.start - block.start) * scheme.width)
            progress("freezing apertures", run.stop, n)
        columns = (block.stop - block.start) * scheme.width
        blocks.append(weights.matrix(columns, shapes.shape))
        excess.append(partial.matrix(columns, shapes.shape))
    scheme.complete(areas)
    return tuple(blocks), tuple(excess), areas[..., scheme.columns]


class _Gathered:
    """Entries of one block as they come, kept small, then one matrix."""

    def __init__(self) -> None:
        self._row: list[NDArray[np.int32]] = []
        self._pixel: list[NDArray[np.int32]] = []
        self._weight: list[NDArray[np.float64]] = []

    def add(self, entries: Entries, first_row: int) -> None:
        self._row.append((entries.row + first_row).astype(np.int32))
        self._pixel.append(entries.pixel.astype(np.int32))
        self._weight.append(entries.weight)

    def matrix(self, rows: int, shape: tuple[int, int]) -> _Matrix:
        where = (np.concatenate(self._row), np.concatenate(self._pixel))
        size = (rows, shape[0] * shape[1])
        matrix = sparse.coo_array((np.concatenate(self._weight), where), shape=size).tocsr()
        # One order of pixels, so that a sum has one rounding, whatever scipy's conversion leaves.
        matrix.sort_indices()
        return matrix


def _picked(
    lookup: _Matrix, pixels: NDArray[np.intp], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Sum over some pixels, (k, columns)."""
    rows = lookup[pixels]
    held = np.diff(rows.indptr)
    # Filled row by row: of no pixel at all, numpy's bincount would return integers.
    sums = np.zeros((len(values), lookup.shape[1]))
    for total, value in zip(sums, values, strict=True):
        total[:] = np.bincount(rows.indices, rows.data * np.repeat(value, held), total.size)
    return sums


def _areas(entries: Entries, shapes: Shapes, run: slice) -> NDArray[np.float64]:
    """Sum the weights of every column, and those on other objects' segments: (2, run, width)."""
    width = shapes.scheme.width
    size = (run.stop - run.start) * width
    areas = np.zeros((2, size))
    areas[0] = np.bincount(entries.row, weights=entries.weight, minlength=size)
    if shapes.segmentation is not None and shapes.labels is not None:
        label = shapes.segmentation.ravel()[entries.pixel]
        foreign = (label > 0) & (label != shapes.labels[run.start + entries.row // width])
        areas[1] = np.bincount(entries.row[foreign], entries.weight[foreign], minlength=size)
    return areas.reshape(2, -1, width)
