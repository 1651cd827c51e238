"""One door to a store as a tree of Datasets, whatever is in it: a cube, or skycells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from idfzarr.analysis.backend import IdfzarrBackend
from idfzarr.errors import ForeignStore, UsageError
from idfzarr.ps1 import skydataset
from idfzarr.ps1.old_layouts import OldSkycells
from idfzarr.ps1.skystore import SkycellStore
from idfzarr.store.place import place_of
from idfzarr.store.root import read_root

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idfzarr.ps1.sky_keys import SkycellReader
    from idfzarr.store.place import Place, PlaceLike

__all__ = ["open_datatree"]


def open_datatree(
    store: PlaceLike | SkycellReader,
    names: str = "*",
    *,
    chunks: Any = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Open a store as a tree: a cube with its tables and images, or many skycells.

    Parameters
    ----------
    store
        Path or URL, as of `idfzarr.store.place.place_of`, or a store of skycells that is open.
    names
        Of skycells, a glob.
    chunks
        ``{}`` for Dask arrays: along shards, and of 1024 by 1024 pixels.
    storage_options
        For URLs: keys, endpoint, headers.

    Returns
    -------
    xarray.DataTree
        Of a cube as ``xr.open_datatree(store, engine="idfzarr")``: ``tree.ds.flux``,
        ``tree["variability"]``, ``tree["images/superstack/ch1"].ds.flux``. Of skycells as
        `idfzarr.ps1.skydataset.open_datatree`: ``tree["1405/skycell.1405.053"].ds.flux``.

    Raises
    ------
    StoreError
        There is no store, or neither of a cube nor of skycells.
    UsageError
        Names are given for a cube, which has none.
    UnknownName
        No skycell matches.
    """
    if isinstance(store, SkycellStore | OldSkycells):
        return skydataset.open_datatree(store, names, chunks=chunks)
    place: Place = place_of(store, storage_options=storage_options)  # type: ignore[arg-type]
    try:
        read_root(place)
    except ForeignStore as error:
        return _skycells(place, names, chunks, error)
    if names != "*":
        msg = f"{place.url} is a cube, and names are of skycells; leave out {names!r}"
        raise UsageError(msg)
    tree = xr.open_datatree(place, engine=IdfzarrBackend, chunks=chunks)  # type: ignore[arg-type]
    for coordinate in tree.coords.values():
        coordinate.variable.load()
    return tree


def _skycells(place: Place, names: str, chunks: Any, no_cube: ForeignStore) -> xr.DataTree:
    try:
        return skydataset.open_datatree(place, names, chunks=chunks)
    except ForeignStore as error:
        msg = f"{place.url} is neither a cube ({no_cube}) nor a store of skycells ({error})"
        raise ForeignStore(msg) from error
