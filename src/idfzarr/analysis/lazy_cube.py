"""The cube as xarray's lazy arrays: any indexing, over the fast path.

A Dataset keeps the objects, types and AORs it was opened with, in other processes too. Whatever
was read is given out only if the store is still the one that was opened: it may have been appended
to or laid out anew, which leaves old positions what they were, but not exchanged for another.
"""

from __future__ import annotations

import hashlib
import secrets
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from idfzarr.analysis.planes import Block, SharedPlanes
from idfzarr.errors import StoreError
from idfzarr.store.cube import Cube, flags_of
from idfzarr.store.place import LocalPlace
from idfzarr.store.published import is_extension, read_published
from idfzarr.store.root import ROOT_KEY, read_root
from idfzarr.store.schema import VALUES
from idfzarr.store.sharing import default_threads, shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.store.place import Place

__all__ = ["CubeSource", "LazyValues"]

_DIMS = ("object", "type", "aor")
_INTEGER = (int, np.integer)
_FLAG = VALUES.index("flag")
_TOGETHER = 128
"""Chunks decoded at a time from a local disk: 2 MB, of which only what was asked for is kept."""

_TOGETHER_FAR = 1 << 12
"""From elsewhere: many, since neighbouring chunks are one request."""


@dataclass(frozen=True)
class _Identity:
    """Which store was opened, how long it was, and what stood along it."""

    uuid: str
    generation: int
    shape: tuple[int, int, int]
    labels: str

    @classmethod
    def of(cls, cube: Cube, shape: tuple[int, int, int] | None = None) -> _Identity:
        """Return the identity of an open cube, or of its beginning."""
        n_objects, n_types, n_aors = shape or (*cube.shape[:2], cube.shape[3])
        told = hashlib.sha256(cube.objects.tobytes())
        told.update("\n".join(cube.types[:n_types]).encode())
        told.update(cube.aors[:n_aors].tobytes())
        generation = int(cube.attributes["idfzarr"].get("generation", 0))
        return cls(cube.uuid, generation, (n_objects, n_types, n_aors), told.hexdigest())


class CubeSource:
    """An open cube behind the arrays of a Dataset.

    Parameters
    ----------
    place
        The store.
    identity
        What it must be, of one that was opened in another process.
    token
        The same in every process.
    """

    def __init__(
        self, place: Place, identity: _Identity | None = None, token: str | None = None
    ) -> None:
        self.place = place
        self._stamp = self._stamp_of()
        self.cube = Cube(place)
        self._identity = identity or _Identity.of(self.cube)
        self._token = token or secrets.token_hex(16)
        self._is_known = identity is None or self._is_beginning()
        self.planes = SharedPlanes(self._decode)
        _OPEN[self._token] = self

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (_opened, (self.place, self._identity, self._token))

    def __dask_tokenize__(self) -> tuple[str, ...]:
        return (self.place.url, self._identity.uuid, str(self._identity.generation), self._token)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Objects, types and AORs when it was opened."""
        return self._identity.shape

    def _is_beginning(self) -> bool:
        """Say whether the cube that is open here begins as the one that was opened first."""
        now = _Identity.of(self.cube, self.shape)
        same = now.uuid == self._identity.uuid and now.labels == self._identity.labels
        return same and len(self.cube.objects) == self.shape[0]

    # ---------------------------------------------------------------- still the same

    def _stamp_of(self) -> Any:
        stamp = getattr(self.place, "stamp", None)
        return None if stamp is None else stamp(ROOT_KEY)

    def check(self) -> None:
        """Raise unless the store is still the one that was opened, or that one grown longer.

        Raises
        ------
        StoreError
            It is another one, was measured anew or laid out anew, or is not there.
        """
        stamp = self._stamp_of()
        if self._is_known and stamp is not None and stamp == self._stamp:
            return
        now, _ = read_published(self.place)
        before = {name: self.cube.coordinate(name) for name in ("object", "type", "aor")}
        same = now.root.uuid == self._identity.uuid and self._is_known
        # What changes without growing has been measured anew, and old values would mix with new.
        layout = now.schema.layout
        has_grown = (layout.n_types, layout.n_aors) != self.shape[1:]
        same = same and (has_grown or now.root.generation == self._identity.generation)
        if not (same and is_extension(now, before)):
            msg = (
                f"{self.place.url} has changed since it was opened: it is another store, its "
                "objects, types or AORs stand in another order, or it was measured or laid out "
                "anew; open it again"
            )
            raise StoreError(msg)
        self._stamp = stamp

    def check_generation(self) -> None:
        """Raise unless nothing was appended or laid out anew since the store was opened.

        Raises
        ------
        StoreError
            Tables and images may be others now.
        """
        stamp = self._stamp_of()
        unchanged = stamp is not None and stamp == self._stamp
        root = None if unchanged else read_root(self.place)
        expected = (self._identity.uuid, self._identity.generation)
        if root is not None and (root.uuid, root.generation) != expected:
            msg = (
                f"{self.place.url} has changed since it was opened, and its tables and images "
                "with it; open it again"
            )
            raise StoreError(msg)

    # ---------------------------------------------------------------- read

    def one(self, row: int, column: int, value: int) -> NDArray[np.float32]:
        """Return one lightcurve's flux, error or flag, which the caller may write into."""
        values = self.cube.values(int(self.cube.objects[row]), self.cube.types[column])
        own: NDArray[np.float32] = values[value, : self.shape[2]].copy()
        self.check()
        return own

    def plane(self, block: Block, value: int) -> NDArray[Any]:
        """Return flux, error or flag of a block, (row, column, aor)."""
        found = self.planes.get(block, value)
        self.check()
        return found

    def _decode(self, block: Block, values: Sequence[int]) -> list[NDArray[Any]]:
        """Read planes of a block, a few chunks at a time: the planes alone are kept."""
        shape = (len(block.rows), len(block.columns), block.n_aors)
        out = [np.empty(shape, np.uint16 if v == _FLAG else np.float32) for v in values]
        some, order = np.unique(block.columns, return_inverse=True)
        names: Any = [self.cube.types[c] for c in some]
        names = "*" if len(names) == len(self.cube.types) else names
        in_order = np.array_equal(order, np.arange(len(some)))
        known, picked = (
            (block.aors, slice(None))
            if isinstance(block.aors, slice)
            else (slice(0, self.shape[2]), block.aors)
        )

        def fill(part: slice) -> None:
            found = self.cube.block(block.rows[part].tolist(), names, aors=known)
            for plane, value in zip(out, values, strict=True):
                read = found[:, :, value] if in_order else found[:, order, value]
                read = read[..., picked]
                plane[part] = flags_of(read) if value == _FLAG else read

        is_local = isinstance(self.place, LocalPlace)
        most = _TOGETHER if is_local else _TOGETHER_FAR
        step = max(1, most // max(1, len(some)))
        n_rows = len(block.rows) if len(some) else 0
        parts = [slice(k, min(k + step, n_rows)) for k in range(0, n_rows, step)]
        shared([partial(fill, part) for part in parts], default_threads() if is_local else 1)
        return out


_OPEN: weakref.WeakValueDictionary[str, CubeSource] = weakref.WeakValueDictionary()


def _opened(place: Place, identity: _Identity, token: str) -> CubeSource:
    """Return the source of this token; all arrays of a Dataset share one in every process."""
    return _OPEN.get(token) or CubeSource(place, identity, token)


class LazyValues(BackendArray):
    """One of flux, flux_err, flag as xarray's lazy array, (object, type, aor).

    Parameters
    ----------
    source
        The open cube.
    value
        Position along ``value``.
    """

    def __init__(self, source: CubeSource, value: int) -> None:
        self._source = source
        self._value = value
        self.shape = source.shape
        self.dtype = np.dtype(np.uint16 if value == _FLAG else np.float32)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return (*self._source.__dask_tokenize__(), self._value)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            # xarray's adapter would take apart negative steps, and fails on those that are empty
            return self._read(key.tuple)
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Read orthogonally: each of the three indices an integer, a slice or an array."""
        row, column, aor = key
        rows, columns = _positions(row, 0, self.shape), _positions(column, 1, self.shape)
        if isinstance(row, _INTEGER) and isinstance(column, _INTEGER):
            values: NDArray[Any] = self._source.one(int(rows[0]), int(columns[0]), self._value)
            values = flags_of(values) if self._value == _FLAG else values
            picked: NDArray[Any] = values[aor]
            return picked
        ahead = _ascending(aor, self.shape[2])
        aors = _positions(aor, 2, self.shape) if ahead is None else ahead
        n_aors = len(range(*aors.indices(self.shape[2]))) if isinstance(aors, slice) else len(aors)
        found = self._source.plane(Block(rows, columns, aors, n_aors), self._value)
        squeezed = (0 if isinstance(one, _INTEGER) else slice(None) for one in key)
        return found[tuple(squeezed)]


def _ascending(key: Any, n: int) -> slice | None:
    """Return a slice with its ends spelled out, None for what is none that goes forward."""
    if not isinstance(key, slice) or (key.step or 1) < 0:
        return None
    return slice(*key.indices(n))


def _positions(key: Any, axis: int, shape: tuple[int, ...]) -> NDArray[np.intp]:
    n = shape[axis]
    if isinstance(key, slice):
        return np.arange(n)[key]
    positions = np.atleast_1d(np.asarray(key, dtype=np.intp))
    outside = (positions < -n) | (positions >= n)
    if outside.any():
        msg = f"position {positions[outside][0]} is outside of {_DIMS[axis]}, which has length {n}"
        raise IndexError(msg)
    return np.where(positions < 0, positions + n, positions)
