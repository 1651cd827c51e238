"""The xarray engine ``idfzarr``: a store as a Dataset of lazy flux, flux_err and flag.

The fast path of `idfzarr.store.cube.Cube` reads; xarray indexes. ``chunks={}`` gives Dask chunks
along shards.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

from idfzarr.errors import UsageError
from idfzarr.flags import flag_masks, flag_meanings
from idfzarr.store.cube import Cube, flags_of
from idfzarr.store.schema import COORDINATES, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from idfzarr.store.place import PlaceLike

__all__ = ["IdfzarrBackend", "open_store"]

_DIMS = ("object", "type", "aor")
_INTEGER = (int, np.integer)


def open_store(
    path: PlaceLike, *, chunks: Any = None, drop_variables: str | Iterable[str] | None = None
) -> xr.Dataset:
    """Open a store as an xarray Dataset; the same as ``xr.open_dataset(path, engine="idfzarr")``.

    Parameters
    ----------
    path
        The store.
    chunks
        As in `xarray.open_dataset`; ``{}`` for Dask chunks along shards.
    drop_variables
        Names to leave out.

    Returns
    -------
    xarray.Dataset
        ``flux``, ``flux_err`` (object, type, aor) float32 and ``flag`` uint16, lazily read, with
        the store's coordinates. Where there is no chunk, flux is NaN and flag is ``not_built``.

    Raises
    ------
    StoreError
        There is no finished store of ours.
    """
    dataset = xr.open_dataset(
        os.fspath(path) if isinstance(path, os.PathLike) else path,  # type: ignore[arg-type]
        engine=IdfzarrBackend,
        chunks=chunks,
        drop_variables=drop_variables,
    )
    # They are in memory already; xarray wraps them as if they were not, and every selection would
    # take longer to unwrap them than to read a lightcurve.
    for coordinate in dataset.coords.values():
        coordinate.variable.load()
    return dataset


class _CubeArray(BackendArray):
    """One of flux, flux_err, flag as xarray's lazy array."""

    def __init__(self, cube: Cube, value: int) -> None:
        n_objects, n_types, _, n_aors = cube.shape
        self._cube = cube
        self._value = value
        self.shape = (n_objects, n_types, n_aors)
        self.dtype = np.dtype(np.uint16 if VALUES[value] == "flag" else np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        if isinstance(key, indexing.BasicIndexer | indexing.OuterIndexer):
            # xarray's adapter would take apart negative steps, and fails on those that are empty
            return self._read(key.tuple)
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """Read orthogonally: each of the three indices an integer, a slice or an array."""
        row, column, aors = key
        if isinstance(row, _INTEGER) and isinstance(column, _INTEGER):
            values = self._one(int(row), int(column))[aors]
        else:
            values = self._many(row, column, aors)
        return flags_of(values) if self.dtype == np.uint16 else values

    def _one(self, row: int, column: int) -> NDArray[np.float32]:
        """Return one lightcurve, which the caller may write into."""
        values = self._cube.values(int(self._cube.objects[row]), self._cube.types[column])
        own: NDArray[np.float32] = values[self._value].copy()
        return own

    def _many(self, row: Any, column: Any, aor: Any) -> NDArray[np.float32]:
        rows, columns, aors = (
            _positions(one, n) for one, n in zip((row, column, aor), self.shape, strict=True)
        )
        some, order = np.unique(columns, return_inverse=True)
        names = [self._cube.types[c] for c in some]
        whole = isinstance(aor, slice)
        block = self._cube.block(rows.tolist(), names, aors=aor if whole else slice(None))
        values: NDArray[np.float32] = block[:, order, self._value]
        if not whole:
            values = values[..., aors]
        squeezed = (0 if isinstance(one, _INTEGER) else slice(None) for one in (row, column, aor))
        return values[tuple(squeezed)]


def _positions(key: Any, n: int) -> NDArray[np.intp]:
    if isinstance(key, slice):
        return np.arange(n)[key]
    positions = np.atleast_1d(np.asarray(key, dtype=np.intp))
    return np.where(positions < 0, positions + n, positions)


def _units(cube: Cube) -> str:
    found = {str(unit) for unit in cube.coordinate("unit")}
    return found.pop() if len(found) == 1 else ""


def _variables(cube: Cube) -> dict[str, xr.Variable]:
    unit = _units(cube)
    attributes: dict[str, dict[str, Any]] = {
        "flux": {"long_name": "flux", "ancillary_variables": "flux_err flag"},
        "flux_err": {"long_name": "standard error of flux"},
        "flag": {
            "long_name": "flags of the measurement",
            "flag_masks": np.array(flag_masks(), dtype=np.uint16),
            "flag_meanings": flag_meanings(),
        },
    }
    shard = {
        "object": cube.schema.layout.shard_objects,
        "type": cube.shape[1],
        "aor": cube.shape[3],
    }
    variables = {}
    for position, name in enumerate(VALUES):
        told = attributes[name] | ({"units": unit} if unit and name != "flag" else {})
        data = indexing.LazilyIndexedArray(_CubeArray(cube, position))
        variables[name] = xr.Variable(
            _DIMS, data, told, encoding={"preferred_chunks": shard}, fastpath=True
        )
    return variables


def _coordinates(cube: Cube) -> dict[str, xr.Variable]:
    found = {}
    for name in cube.coordinate_names:
        if name == "value":
            continue
        values = cube.coordinate(name)
        definition = COORDINATES.get(name)
        dims = ("aor", "channel")[: values.ndim] if definition is None else definition.dims
        told = {} if definition is None else dict(definition.attributes)
        if values.dtype.kind == "O":
            values = values.astype(str)
        found[name] = xr.Variable(dims, values, told)
    found["object_id"] = xr.Variable("object", cube.objects, {"long_name": "object id"})
    return found


class IdfzarrBackend(BackendEntrypoint):
    """xarray's door to a store: ``xr.open_dataset("field.zarr", engine="idfzarr")``.

    It guesses at no path: plain ``xr.open_dataset(path)`` goes on meaning Zarr.
    """

    description: ClassVar[str] = "Lightcurves of a fixed field in one Zarr cube"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = ("filename_or_obj", "drop_variables")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
    ) -> xr.Dataset:
        """Open a store; see `open_store`.

        Parameters
        ----------
        filename_or_obj
            The store.
        drop_variables
            Names to leave out.

        Returns
        -------
        xarray.Dataset
            Lazily read.

        Raises
        ------
        UsageError
            It is no path.
        """
        if not isinstance(filename_or_obj, str | os.PathLike):
            msg = f"a store is opened by its path, not by a {type(filename_or_obj).__name__}"
            raise UsageError(msg)
        cube = Cube(filename_or_obj)
        variables = _variables(cube) | _coordinates(cube)
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        kept = {name: v for name, v in variables.items() if name not in dropped}
        dataset = xr.Dataset(
            {name: v for name, v in kept.items() if name in VALUES}, attrs=dict(cube.attributes)
        )
        return dataset.assign_coords({n: v for n, v in kept.items() if n not in VALUES})
