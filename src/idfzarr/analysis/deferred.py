"""Functions of arrays on xarray's Variables: as lazy as what they are given.

Dask arrays give Dask arrays. What xarray has not read yet gives what it reads, and computes, when
it is asked for, and no more of it than was asked for: one lightcurve of a cube of two million costs
one lightcurve. Arrays in memory give arrays in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    Function = Callable[..., NDArray[Any]]

__all__ = ["Along", "as_dask", "deferred"]

_INTEGER = (int, np.integer)


@dataclass(frozen=True)
class Along:
    """The dimension that a function needs whole, and what it makes of it.

    Parameters
    ----------
    dim
        Its name; the last of the arrays that the function is given.
    becomes
        Name of the last dimension of the result.
    length
        Its length.
    """

    dim: str
    becomes: str
    length: int


class _DeferredArray(BackendArray):
    """A function of Variables as xarray's lazy array."""

    def __init__(
        self,
        function: Function,
        inputs: Sequence[xr.Variable],
        dims: tuple[Hashable, ...],
        dtype: DTypeLike,
        along: Along | None,
    ) -> None:
        sizes = {dim: size for one in inputs for dim, size in one.sizes.items()}
        self._function = function
        self._dims = dims
        self._given = dims if along is None else (*dims[:-1], along.dim)
        self._inputs = [one.transpose(*(d for d in self._given if d in one.dims)) for one in inputs]
        self._along = along
        self.shape = tuple(
            along.length if along is not None and dim == along.becomes else sizes[dim]
            for dim in dims
        )
        self.dtype = np.dtype(dtype)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            # as in the engine: xarray's adapter fails on negative steps that are empty
            return self._read(key.tuple)
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Read orthogonally: each index an integer, a slice or an array."""
        chosen = dict(zip(self._dims, key, strict=True))
        after = slice(None) if self._along is None else chosen.pop(self._along.becomes)
        whole = {dim: _with_length(k, self._size(dim)) for dim, k in chosen.items()}
        values = self._function(*(self._part(one, whole) for one in self._inputs))
        values = values[
            tuple(0 if isinstance(k, _INTEGER) else slice(None) for k in chosen.values())
        ]
        if self._along is not None:
            values = values[..., after]
        return np.asarray(values, dtype=self.dtype)

    def _size(self, dim: Hashable) -> int:
        return self.shape[self._dims.index(dim)]

    def _part(self, one: xr.Variable, chosen: Mapping[Hashable, Any]) -> NDArray[Any]:
        values = one.isel({dim: k for dim, k in chosen.items() if dim in one.dims}).to_numpy()
        spread = tuple(slice(None) if dim in one.dims else None for dim in self._given)
        return np.asarray(values[spread])


def _with_length(key: Any, size: int) -> Any:
    """Return an index that keeps its dimension: that of an integer has length 1."""
    if isinstance(key, _INTEGER):
        at = int(key) % size
        return slice(at, at + 1)
    return key


def _dims(inputs: Sequence[xr.Variable], along: Along | None) -> tuple[Hashable, ...]:
    every = dict.fromkeys(dim for one in inputs for dim in one.dims)
    if along is None:
        return tuple(every)
    return (*(dim for dim in every if dim != along.dim), along.becomes)


def _is_unread(one: xr.Variable) -> bool:
    # xarray has no public word for what is neither in memory nor Dask's
    return one.chunks is None and not one._in_memory  # noqa: SLF001


def as_dask(one: xr.Variable) -> xr.Variable:
    """Return a Variable that was not read yet as Dask's, in the chunks that it prefers.

    Those in memory, and those that are Dask's already, stay what they are.
    """
    if not _is_unread(one):
        return one
    preferred = one.encoding.get("preferred_chunks", {})
    return one.chunk({dim: preferred.get(dim, -1) for dim in one.dims})


def deferred(
    function: Function,
    *inputs: xr.Variable,
    dtype: DTypeLike,
    along: Along | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Variable:
    """Apply a function to Variables, no sooner than they would be read.

    Parameters
    ----------
    function
        Of as many arrays, which it must not write into and which broadcast against one another;
        it gives one array. It may be sent to another process.
    *inputs
        Their dimensions, in the order in which they come, are those of the result.
    dtype
        Of the result.
    along
        The dimension that the function needs whole; element by element if None.
    attrs
        Attributes of the result.

    Returns
    -------
    xarray.Variable
        Dask's if one of the inputs is, else unread if one of them is, else in memory.
    """
    encoding = {k: v for k, v in inputs[0].encoding.items() if k == "preferred_chunks"}
    is_dask = any(one.chunks is not None for one in inputs)
    if not is_dask and any(_is_unread(one) for one in inputs):
        dims = _dims(inputs, along)
        lazy = indexing.LazilyIndexedArray(_DeferredArray(function, inputs, dims, dtype, along))
        # as xarray itself wraps what an engine gives it; its own annotations do not know that
        unchanged: Any = indexing.CopyOnWriteArray(lazy)  # type: ignore[arg-type]
        data = indexing.MemoryCachedArray(unchanged)  # type: ignore[no-untyped-call]
        return xr.Variable(dims, data, dict(attrs or {}), encoding=encoding, fastpath=True)
    found = _applied(function, inputs, dtype, along)
    found = found.transpose(*_dims(inputs, along))
    found.attrs, found.encoding = dict(attrs or {}), encoding
    return found


def _applied(
    function: Function, inputs: Sequence[xr.Variable], dtype: DTypeLike, along: Along | None
) -> xr.Variable:
    how: dict[str, Any] = {"dask": "parallelized", "output_dtypes": [dtype]}
    if along is not None:
        inputs = [
            one.chunk({along.dim: -1}) if one.chunks is not None and along.dim in one.dims else one
            for one in inputs
        ]
        how |= {
            "input_core_dims": [[along.dim] if along.dim in one.dims else [] for one in inputs],
            "output_core_dims": [[along.becomes]],
            "exclude_dims": {along.dim} if along.becomes == along.dim else set(),
            "dask_gufunc_kwargs": {"output_sizes": {along.becomes: along.length}},
        }
    found: xr.Variable = xr.apply_ufunc(function, *inputs, **how)
    return found.astype(dtype, copy=False)
