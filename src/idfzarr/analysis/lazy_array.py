"""Any other array of a store as xarray's lazy array: the chunks that are looked at, each verified.

Catalogue, statistics and images are read when and where they are used: of a coadd the tiles that a
cutout needs, of the source table the columns.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from idfzarr.errors import ChunkMissing
from idfzarr.store.arrays import STRING, chunk_key, decode_chunk, parse_array, read_array

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.analysis.lazy_cube import CubeSource
    from idfzarr.store.arrays import ArraySpec
    from idfzarr.store.place import Place

__all__ = ["LazyArray"]

_INTEGER = (int, np.integer)


class LazyArray(BackendArray):
    """A plain array of a store.

    Parameters
    ----------
    source
        The store, which is asked whether it is still the one that was opened.
    path
        Key of the array.
    node
        Its metadata when the store was opened.
    """

    def __init__(self, source: CubeSource, path: str, node: Mapping[str, Any]) -> None:
        self._source = source
        self._path = path
        self._node = dict(node)
        spec = parse_array(path, node)
        self._whole: NDArray[Any] | None = None
        if spec is None or spec.dtype == STRING:
            # Strings have no width until they are read; other codecs are zarr-python's to read.
            self._whole = read_array(source.place, path, node)
            self.shape, self.dtype = self._whole.shape, self._whole.dtype
        else:
            self.shape, self.dtype = spec.shape, np.dtype(spec.dtype)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (*self._source.__dask_tokenize__(), self._path)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        if self._whole is None:
            spec = parse_array(self._path, self._node)
            wanted = [_span(one, n) for one, n in zip(key, self.shape, strict=True)]
            found = _read_window(self._source.place, spec, wanted)  # type: ignore[arg-type]
            self._source.check_generation()
        else:
            wanted = [slice(0, n) for n in self.shape]
            found = self._whole
        for axis in reversed(range(len(key))):
            inside = _shifted(key[axis], wanted[axis], self.shape[axis])
            found = found[(slice(None),) * axis + (inside,)]
        return found if self._whole is None else found.copy()


def _span(key: Any, n: int) -> slice:
    """Return the piece of a dimension that an index lies in."""
    if isinstance(key, slice):
        along = range(n)[key]
        return (
            slice(min(along[0], along[-1]), max(along[0], along[-1]) + 1) if along else slice(0, 0)
        )
    positions = np.atleast_1d(np.asarray(key, dtype=np.intp))
    positions = np.where(positions < 0, positions + n, positions)
    if ((positions < 0) | (positions >= n)).any():
        msg = f"a position is outside of a dimension of length {n}"
        raise IndexError(msg)
    return slice(int(positions.min()), int(positions.max()) + 1) if len(positions) else slice(0, 0)


def _shifted(key: Any, span: slice, n: int) -> Any:
    """Return an index as it is within the piece that was read."""
    if isinstance(key, slice):
        positions = np.arange(n)[key] - span.start
        if len(positions) and (key.step or 1) > 0:
            return slice(int(positions[0]), int(positions[-1]) + 1, key.step)
        return positions
    if isinstance(key, _INTEGER):
        return int(key) % n - span.start
    positions = np.asarray(key, dtype=np.intp)
    return np.where(positions < 0, positions + n, positions) - span.start


def _read_window(place: Place, spec: ArraySpec, window: list[slice]) -> NDArray[Any]:
    """Read a piece of an array; raises as `idfzarr.store.arrays.decode_array`."""
    out = np.empty([w.stop - w.start for w in window], dtype=spec.dtype)
    for position in _positions(spec, window) if out.size else ():
        key = chunk_key(spec.path, position)
        where = f"{place.url}/{key}"
        try:
            data = place.read(key)
        except FileNotFoundError:
            msg = f"a chunk of {spec.path!r} is missing: {where}; repair the store"
            raise ChunkMissing(msg) from None
        chunk = decode_chunk(spec, data, where=where)
        begin = [p * c for p, c in zip(position, spec.chunks, strict=True)]
        both = [
            (max(w.start, b), min(w.stop, b + c))
            for w, b, c in zip(window, begin, spec.chunks, strict=True)
        ]
        there = tuple(
            slice(a - w.start, z - w.start) for (a, z), w in zip(both, window, strict=True)
        )
        here = tuple(slice(a - b, z - b) for (a, z), b in zip(both, begin, strict=True))
        out[there] = chunk[here]
    return out


def _positions(spec: ArraySpec, window: list[slice]) -> Iterator[tuple[int, ...]]:
    ranges = [
        range(w.start // c, -(-w.stop // c)) for w, c in zip(window, spec.chunks, strict=True)
    ]
    return itertools.product(*ranges)
