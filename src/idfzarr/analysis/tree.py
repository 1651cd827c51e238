"""A store as a tree of Datasets: the cube, catalogue, statistics and images.

::

    tree = xr.open_datatree("field.zarr", engine="idfzarr")
    tree["variability"].ds.median.sel(type="ch1_aper2_clean")
    tree["images/superstack/ch1"].ds.flux[2000:2100, 1000:1100]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from idfzarr.analysis.dataset_attributes import plain_attributes
from idfzarr.analysis.lazy_array import LazyArray
from idfzarr.store.published import dims_of
from idfzarr.store.root import read_root
from idfzarr.store.schema import SUPERSTACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idfzarr.analysis.lazy_cube import CubeSource
    from idfzarr.store.root import Root

__all__ = ["group_datasets"]

WCS = "wcs"
"""Coordinate whose attributes are the cards of the WCS."""


def group_datasets(source: CubeSource) -> dict[str, xr.Dataset]:
    """Return the Dataset of every group of a store that holds arrays.

    Parameters
    ----------
    source
        The store.

    Returns
    -------
    dict
        By path, as ``catalogue`` and ``images/superstack/ch1``. Nothing but strings is read.

    Raises
    ------
    StoreError
        The store has changed since it was opened.
    """
    root = read_root(source.place)
    source.check_generation()
    groups = [path for path, node in root.metadata.items() if node["node_type"] == "group"]
    found = {path: _dataset(source, root, path) for path in sorted(groups) if root.arrays(path)}
    return {path: dataset for path, dataset in found.items() if dataset.variables}


def _dataset(source: CubeSource, root: Root, group: str) -> xr.Dataset:
    attributes = dict(root.metadata[group].get("attributes", {}))
    variables = {
        path.rsplit("/", 1)[1]: _variable(source, path, root.metadata[path])
        for path in root.arrays(group)
    }
    if not group.startswith(SUPERSTACK + "/") or "flux" not in variables:
        return xr.Dataset(variables, attrs=plain_attributes(attributes))
    cards = attributes.pop("header", {})
    coordinates = _pixels(variables["flux"].sizes, cards)
    if cards:
        for variable in variables.values():
            variable.attrs["grid_mapping"] = WCS
    others = " ".join(name for name in ("err", "coverage", "segmentation") if name in variables)
    variables["flux"].attrs["ancillary_variables"] = others
    attributes["channel"] = group.rsplit("/", 1)[1]
    return xr.Dataset(variables, attrs=plain_attributes(attributes)).assign_coords(coordinates)


def _variable(source: CubeSource, path: str, node: Mapping[str, Any]) -> xr.Variable:
    array = LazyArray(source, path, node)
    dims = dims_of(node) or tuple(f"{path}_{axis}" for axis in range(array.ndim))
    chunks = node["chunk_grid"]["configuration"]["chunk_shape"]
    preferred = {
        dim: max(1, min(c, n)) for dim, c, n in zip(dims, chunks, array.shape, strict=True)
    }
    told = plain_attributes(node.get("attributes", {}))
    data: Any = indexing.LazilyIndexedArray(array)
    return xr.Variable(dims, data, told, encoding={"preferred_chunks": preferred}, fastpath=True)


def _pixels(sizes: Mapping[Any, int], cards: Mapping[str, Any]) -> dict[str, xr.Variable]:
    found = {
        name: xr.Variable(name, np.arange(sizes[name]), {"long_name": told, "units": "pixel"})
        for name, told in (("y", "row, from 0"), ("x", "column, from 0"))
    }
    if cards:
        found[WCS] = xr.Variable(
            (), np.int32(0), {"long_name": "cards of the WCS", **plain_attributes(cards)}
        )
    return found
