"""Lazy arrays for xarray: pixels of skycells as flux, sigma or mask, and where they lie on the sky.

A selection reads row of chunks by row of chunks, and converts each before the next is read: memory
is the answer and one such row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from idfzarr.imaging.fits_image import silent_astropy
from idfzarr.ps1.pixels import flux_of_disk, sigma_of_disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.ps1.pixels import Scaling
    from idfzarr.ps1.sky_keys import Kind, SkycellReader

__all__ = ["NO_MASK", "LazyPixels", "LazySky", "sky_positions"]

NO_MASK = 0xFFFF
"""Mask of a band that has none in the store: every bit, as no pixel is known to be good."""

_INTEGER = (int, np.integer)
_ROWS = 512  # of a chunk
_ROWS_OF_SKY = 64


class _Orthogonal:
    """Orthogonal indexing into something that is computed block by block."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def _outer(self, key: tuple[Any, ...]) -> NDArray[Any]:
        wanted = [_positions(one, n) for one, n in zip(key, self.shape, strict=True)]
        out = np.empty([len(one) for one in wanted], dtype=self.dtype)
        if out.size:
            self._fill(out, wanted)
        return out[tuple(0 if isinstance(one, _INTEGER) else slice(None) for one in key)]

    def _fill(self, out: NDArray[Any], wanted: list[NDArray[np.intp]]) -> None:
        raise NotImplementedError


def _positions(key: Any, n: int) -> NDArray[np.intp]:
    if isinstance(key, slice):
        return np.arange(n)[key]
    positions = np.atleast_1d(np.asarray(key, dtype=np.intp))
    return np.where(positions < 0, positions + n, positions)


def _in_blocks(rows: NDArray[np.intp], height: int) -> Iterator[NDArray[np.intp]]:
    """Yield which of the wanted rows lie in one block of rows after the other."""
    block = rows // height
    for number in np.unique(block):
        yield np.flatnonzero(block == number)


class LazyPixels(_Orthogonal, BackendArray):
    """Pixels of one kind (band, y, x).

    Parameters
    ----------
    reader
        The store.
    name, kind
        Of the arrays.
    bands
        Along the first axis.
    scalings
        Of the bands that have such an array; the others read as NaN, or as `NO_MASK`.
    shape
        (ny, nx) of every band.
    """

    def __init__(
        self,
        reader: SkycellReader,
        name: str,
        kind: Kind,
        *,
        bands: tuple[str, ...],
        scalings: Mapping[str, Scaling | None],
        shape: tuple[int, int],
    ) -> None:
        self._reader = reader
        self._name = name
        self._kind: Kind = kind
        self._bands = bands
        self._scalings = dict(scalings)
        self.shape = (len(bands), *shape)
        self.dtype = np.dtype(np.uint16 if kind == "mask" else np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Return what xarray asks for."""
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            # xarray's adapter would take apart negative steps, and fails on those that are empty
            return self._outer(key.tuple)
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._outer
        )

    def _fill(self, out: NDArray[Any], wanted: list[NDArray[np.intp]]) -> None:
        bands, rows, columns = wanted
        left, right = int(columns.min()), int(columns.max()) + 1
        for target, position in zip(out, bands, strict=True):
            band = self._bands[position]
            if band not in self._scalings:
                target[...] = NO_MASK if self._kind == "mask" else np.nan
                continue
            for chosen in _in_blocks(rows, _ROWS):
                top, bottom = int(rows[chosen].min()), int(rows[chosen].max()) + 1
                window = (slice(top, bottom), slice(left, right))
                stored = self._reader.read(self._name, band, self._kind, window)
                inside = np.ix_(rows[chosen] - top, columns - left)
                target[chosen] = self._converted(stored[inside], self._scalings[band])

    def _converted(self, stored: NDArray[Any], scaling: Scaling | None) -> NDArray[Any]:
        if scaling is None:
            return stored
        return (flux_of_disk if self._kind == "image" else sigma_of_disk)(stored, scaling)


class LazySky(_Orthogonal):
    """Right ascension or declination of every pixel (y, x), computed where Dask asks for it.

    Parameters
    ----------
    cards
        Of the WCS.
    axis
        0 for right ascension, 1 for declination.
    shape
        (ny, nx).
    """

    def __init__(self, cards: Mapping[str, Any], axis: int, shape: tuple[int, int]) -> None:
        self._cards = dict(cards)
        self._axis = axis
        self.shape = shape
        self.dtype = np.dtype(np.float64)
        self.ndim = 2

    def __getitem__(self, key: tuple[Any, ...]) -> NDArray[np.float64]:
        """Return the positions of rows and columns."""
        return self._outer(key)

    def _fill(self, out: NDArray[Any], wanted: list[NDArray[np.intp]]) -> None:
        rows, columns = wanted
        for first in range(0, len(rows), _ROWS_OF_SKY):
            part = slice(first, first + _ROWS_OF_SKY)
            out[part] = sky_positions(self._cards, columns, rows[part, None])[self._axis]


def sky_positions(
    cards: Mapping[str, Any], x: NDArray[Any], y: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return right ascension and declination (degrees) of pixels.

    Parameters
    ----------
    cards
        Of the WCS.
    x, y
        Pixels, of shapes that broadcast; the centre of the first one is (0, 0).
    """
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    with silent_astropy():
        wcs = WCS(Header(cards), naxis=2)
        ra, dec = wcs.all_pix2world(x, y, 0)
    return np.asarray(ra), np.asarray(dec)
