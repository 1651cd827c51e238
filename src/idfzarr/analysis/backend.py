"""The xarray engine ``idfzarr``: a store as a Dataset of lazy flux, flux_err and flag.

::

    ds = xr.open_dataset("field.zarr", engine="idfzarr")
    ds = xr.open_dataset("s3://bucket/field.zarr", engine="idfzarr", chunks={},
                         storage_options={"anon": True})
    tree = xr.open_datatree("field.zarr", engine="idfzarr")

The fast path of `idfzarr.store.cube.Cube` reads; xarray indexes. ``chunks={}`` gives Dask chunks
along shards.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar

import xarray as xr
from xarray.backends import BackendEntrypoint
from xarray.core import indexing

from idfzarr.analysis import accessor as _accessor  # noqa: F401 - it registers ds.idf
from idfzarr.analysis.dataset_attributes import (
    coordinate_attributes,
    dataset_attributes,
    value_attributes,
)
from idfzarr.analysis.lazy_cube import CubeSource, LazyValues
from idfzarr.analysis.tree import group_datasets
from idfzarr.store.place import place_of
from idfzarr.store.schema import COORDINATES, VALUES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from idfzarr.store.cube import Cube
    from idfzarr.store.place import PlaceLike

__all__ = ["IdfzarrBackend", "open_store"]

_DIMS = ("object", "type", "aor")
_OBJECT_ID = "object_id"


def open_store(
    path: PlaceLike,
    *,
    chunks: Any = None,
    drop_variables: str | Iterable[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Open a store as an xarray Dataset; the same as ``xr.open_dataset(path, engine="idfzarr")``.

    Parameters
    ----------
    path
        The store: a folder, a ``.zip`` file, or a URL, as of `idfzarr.store.place.place_of`.
    chunks
        As in `xarray.open_dataset`; ``{}`` for Dask chunks along shards.
    drop_variables
        Names to leave out.
    storage_options
        For URLs: keys, endpoint, headers, as of `idfzarr.store.place.place_of`.

    Returns
    -------
    xarray.Dataset
        ``flux``, ``flux_err`` (object, type, aor) float32 and ``flag`` uint16, lazily read, with
        the store's coordinates. Where there is no chunk, flux is NaN and flag is ``not_built``.
        It keeps the objects, types and AORs it was opened with; it may be pickled, sent to other
        processes and used after a fork.

    Raises
    ------
    StoreError
        There is no finished store of ours, or it cannot be reached.
    UsageError
        It is no path, or takes no such options.
    """
    dataset = xr.open_dataset(
        os.fspath(path) if isinstance(path, os.PathLike) else path,  # type: ignore[arg-type]
        engine=IdfzarrBackend,
        chunks=chunks,
        drop_variables=drop_variables,
        storage_options=storage_options,
    )
    # They are in memory already; xarray wraps them as if they were not, and every selection would
    # take longer to unwrap them than to read a lightcurve.
    for coordinate in dataset.coords.values():
        coordinate.variable.load()
    return dataset


def _units(cube: Cube) -> str:
    found = {str(unit) for unit in cube.coordinate("unit")}
    return found.pop() if len(found) == 1 else ""


def _variables(source: CubeSource, names: list[str]) -> dict[str, xr.Variable]:
    layout = source.cube.schema.layout
    shard = dict(zip(_DIMS, (layout.shard_objects, *source.shape[1:]), strict=True))
    shard = {dim: max(1, length) for dim, length in shard.items()}
    unit = _units(source.cube)
    return {
        name: xr.Variable(
            _DIMS,
            indexing.LazilyIndexedArray(LazyValues(source, VALUES.index(name))),
            value_attributes(name, unit=unit, known=names),
            encoding={"preferred_chunks": shard},
            fastpath=True,
        )
        for name in names
    }


def _coordinates(cube: Cube, names: list[str]) -> dict[str, xr.Variable]:
    found = {}
    for name in names:
        told = coordinate_attributes(name, names)
        if name == _OBJECT_ID:
            found[name] = xr.Variable("object", cube.objects, told)
            continue
        values = cube.coordinate(name)
        definition = COORDINATES.get(name)
        dims = ("aor", "channel")[: values.ndim] if definition is None else definition.dims
        values = values.astype(str) if values.dtype.kind == "O" else values
        found[name] = xr.Variable(dims, values, told)
    return found


def _dataset(source: CubeSource, dropped: set[str]) -> xr.Dataset:
    cube = source.cube
    names = [name for name in VALUES if name not in dropped]
    others = [name for name in cube.coordinate_names if name != "value"] + [_OBJECT_ID]
    dataset = xr.Dataset(
        _variables(source, names), attrs=dataset_attributes(cube.attributes, cube.path)
    )
    return dataset.assign_coords(_coordinates(cube, [n for n in others if n not in dropped]))


def _names(drop_variables: str | Iterable[str] | None) -> set[str]:
    return {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())


class IdfzarrBackend(BackendEntrypoint):
    """xarray's door to a store: ``xr.open_dataset("field.zarr", engine="idfzarr")``.

    It guesses at no path: plain ``xr.open_dataset(path)`` goes on meaning Zarr.
    """

    description: ClassVar[str] = "Lightcurves of a fixed field in one Zarr cube"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj",
        "drop_variables",
        "storage_options",
    )
    supports_groups: ClassVar[bool] = True

    def guess_can_open(self, filename_or_obj: Any) -> bool:  # noqa: ARG002
        """Return False: the engine is used where it is named, since a store is plain Zarr too.

        Parameters
        ----------
        filename_or_obj
            Anything.
        """
        return False

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open a store; see `open_store`.

        Parameters
        ----------
        filename_or_obj
            The store.
        drop_variables
            Names to leave out.
        storage_options
            For URLs.

        Returns
        -------
        xarray.Dataset
            Lazily read.

        Raises
        ------
        StoreError
            There is no finished store of ours, or it cannot be reached.
        UsageError
            It is no path, or takes no such options.
        """
        source = CubeSource(place_of(filename_or_obj, storage_options=storage_options))
        return _dataset(source, _names(drop_variables))

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> dict[str, xr.Dataset]:
        """Open a store and its tables and images.

        Parameters
        ----------
        filename_or_obj
            The store.
        drop_variables
            Names to leave out of every Dataset.
        storage_options
            For URLs.

        Returns
        -------
        dict
            The cube under ``/``, then ``/catalogue``, ``/variability``,
            ``/images/superstack/ch1``, ... where they are there; all lazily read.

        Raises
        ------
        StoreError, UsageError
            As of `open_dataset`.
        """
        source = CubeSource(place_of(filename_or_obj, storage_options=storage_options))
        dropped = _names(drop_variables)
        found = {"/": _dataset(source, dropped)}
        for path, dataset in group_datasets(source).items():
            found[f"/{path}"] = dataset.drop_vars(dropped, errors="ignore")
        return found

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.DataTree:
        """Open a store as a tree; see `open_groups_as_dict`.

        Parameters
        ----------
        filename_or_obj
            The store.
        drop_variables
            Names to leave out of every Dataset.
        storage_options
            For URLs.

        Returns
        -------
        xarray.DataTree
            Lazily read.

        Raises
        ------
        StoreError, UsageError
            As of `open_dataset`.
        """
        found = self.open_groups_as_dict(
            filename_or_obj, drop_variables=drop_variables, storage_options=storage_options
        )
        return xr.DataTree.from_dict(found)
