"""Where the objects of a Dataset of ours lie: cones, boxes, neighbours and matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from idfzarr.analysis.dataset_parts import require
from idfzarr.analysis.sky_search import (
    angle_of,
    box_rows,
    position_of,
    sky_tree,
    table_positions,
)
from idfzarr.errors import UsageError
from idfzarr.store.sky import require_sky

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.analysis.sky_search import Angle, SkyTree

__all__ = ["box", "centre_of", "cone", "crossmatch", "nearest", "tree_of"]

_THIS = "this Dataset"


def _coordinate(dataset: xr.Dataset, name: str) -> NDArray[np.float64]:
    """Return a coordinate of the objects, (object,); the same array each time where it can be."""
    require(dataset, name)
    variable = dataset.variables[name]
    if variable.dims != ("object",):
        msg = (
            f"one object was selected from this Dataset, so {name} is of dimensions "
            f"{variable.dims}: search before that"
        )
        raise UsageError(msg)
    return np.asarray(variable.to_numpy(), dtype=np.float64)


def tree_of(dataset: xr.Dataset) -> SkyTree:
    """Return the tree of a Dataset's objects, made once for the same coordinates.

    Raises
    ------
    NoSkyCoordinates
        No object has a position on the sky.
    UsageError
        The Dataset has no objects to search.
    """
    ra, dec = _coordinate(dataset, "ra"), _coordinate(dataset, "dec")
    if len(ra):
        require_sky(ra, where=_THIS)
    return sky_tree(ra, dec)


def centre_of(centre: tuple[Any, ...]) -> tuple[float, float]:
    """Return the position that one or two arguments make; raises `UsageError`."""
    return position_of(centre[0] if len(centre) == 1 else centre)


_SEPARATION = {"long_name": "separation from what was searched for", "units": "arcsec"}


def _chosen(
    dataset: xr.Dataset, rows: NDArray[np.intp], separation: NDArray[np.float64]
) -> xr.Dataset:
    told = xr.Variable("object", separation, _SEPARATION)
    # a coordinate of the indexer comes along, in a third of the time of assign_coords
    chosen = xr.DataArray(rows, dims="object", coords={"separation": told})
    fresh = dataset.drop_vars("separation") if "separation" in dataset.coords else dataset
    return fresh.isel(object=chosen)


def cone(dataset: xr.Dataset, centre: tuple[Any, ...], radius: Angle) -> xr.Dataset:
    """Return the objects within a cone, the nearest first, with their ``separation``.

    Parameters
    ----------
    dataset
        Of ours.
    centre
        One position, see `idfzarr.analysis.sky_search.position_of`, or right ascension and
        declination.
    radius
        See `idfzarr.analysis.sky_search.angle_of`; the rim belongs to the cone.

    Returns
    -------
    xarray.Dataset
        Without objects where nothing is that near.

    Raises
    ------
    NoSkyCoordinates
        The field has no sky coordinates.
    UsageError
        The centre is no position, or the radius no angle of 0 to 180 degrees.
    """
    ra, dec = centre_of(centre)
    return _chosen(dataset, *tree_of(dataset).cone_separations(ra, dec, angle_of(radius)))


def nearest(dataset: xr.Dataset, centre: tuple[Any, ...], n: int = 1) -> xr.Dataset:
    """Return the objects nearest to a position, the nearest first, with their ``separation``."""
    ra, dec = centre_of(centre)
    return _chosen(dataset, *tree_of(dataset).nearest(ra, dec, n))


def box(dataset: xr.Dataset, **ranges: Sequence[float] | slice | None) -> xr.Dataset:
    """Return the objects in a box of coordinates; see `idfzarr.analysis.sky_search.box_rows`."""
    given: dict[str, Any] = {
        name: (_coordinate(dataset, name), limits)
        for name, limits in ranges.items()
        if limits is not None
    }
    if "ra" in given and len(given["ra"][0]):
        require_sky(given["ra"][0], where=_THIS)
    return dataset.isel(object=box_rows(**given))


def crossmatch(dataset: xr.Dataset, table: Any, radius: Angle) -> xr.Dataset:
    """Return the objects that a table has, each with its row there and the ``separation``.

    A row's match is the object nearest to it. Where several rows have the same nearest object, it
    belongs to the nearest of them, so that no object is there twice.

    Parameters
    ----------
    dataset
        Of ours.
    table
        See `idfzarr.analysis.sky_search.table_positions`.
    radius
        See `idfzarr.analysis.sky_search.angle_of`.

    Returns
    -------
    xarray.Dataset
        In the order of the table, with ``table_row`` (object), counted from 0.

    Raises
    ------
    NoSkyCoordinates
        The field has no sky coordinates.
    UsageError
        The table has no positions, or the radius is no angle.
    """
    ra, dec = table_positions(table)
    rows, separation = tree_of(dataset).crossmatch(ra, dec, angle_of(radius))
    matched = np.flatnonzero(rows >= 0)
    by_separation = matched[np.argsort(separation[matched], kind="stable")]
    _, first = np.unique(rows[by_separation], return_index=True)
    winners = np.sort(by_separation[first])
    found = _chosen(dataset, rows[winners], separation[winners])
    told = {"long_name": "row of the table, counted from 0"}
    return found.assign_coords(table_row=xr.Variable("object", winners.astype(np.int64), told))
