"""What is on disk, by name: arrays, dimensions, types and attributes.

Every name that stands in a store is owned here. The root of a store is itself an xarray Dataset:
``lightcurves`` (object, type, value, aor) and the coordinates below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idfzarr.flags import flag_masks, flag_meanings
from idfzarr.store.arrays import ArraySpec, zarr_array
from idfzarr.store.layout import VALUES_PER_CHUNK, Layout
from idfzarr.store.shard import Codec, sharding_codecs

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "COORDINATES",
    "CUBE_DIMS",
    "FORMAT",
    "LIGHTCURVES",
    "ROOT_ATTRIBUTE",
    "STAGING",
    "SUPERSTACK",
    "VALUES",
    "ArrayDefinition",
    "CubeSchema",
    "lightcurves_json",
    "plain_spec",
    "staging_json",
]

FORMAT = 1
"""Version of what is on disk; a store of another version is refused."""

ROOT_ATTRIBUTE = "idfzarr"
"""Attribute of the root that says a store is ours."""

LIGHTCURVES = "lightcurves"
"""The cube."""

STAGING = "staging"
"""Measured and not yet assembled; gone once a build is published."""

SUPERSTACK = "images/superstack"
"""Group of the coadds, one subgroup for a channel."""

CATALOGUE = "catalogue"
"""Group of the source table."""

VARIABILITY = "variability"
"""Group of the statistics of every lightcurve."""

CUBE_DIMS = ("object", "type", "value", "aor")
"""Dimensions of the cube."""

STAGING_DIMS = ("aor", "object", "type", "value")
"""Dimensions of the staging array."""

VALUES = ("flux", "flux_err", "flag")
"""What stands along ``value``."""

FLUX, FLUX_ERR, FLAG = range(VALUES_PER_CHUNK)


@dataclass(frozen=True)
class ArrayDefinition:
    """An array along named dimensions.

    Parameters
    ----------
    name
        Its name below the root.
    dims
        Names of its dimensions.
    dtype
        Zarr v3 data type.
    attributes
        CF attributes.
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    attributes: Mapping[str, Any]


def _definition(
    name: str, dims: str, dtype: str, long_name: str, units: str = ""
) -> ArrayDefinition:
    attributes = {"long_name": long_name} | ({"units": units} if units else {})
    return ArrayDefinition(name, tuple(dims.split()), dtype, attributes)


_ALL = (
    _definition("object", "object", "int64", "object id"),
    _definition("type", "type", "string", "measurement type"),
    _definition("value", "value", "string", "what a chunk holds"),
    _definition("aor", "aor", "int64", "AOR reqkey"),
    _definition("ra", "object", "float64", "right ascension, ICRS", "degree"),
    _definition("dec", "object", "float64", "declination, ICRS", "degree"),
    _definition("x", "object", "float64", "superstack pixel along x, counted from 0", "pixel"),
    _definition("y", "object", "float64", "superstack pixel along y, counted from 0", "pixel"),
    _definition("type_channel", "type", "string", "channel of the type"),
    _definition("type_image", "type", "string", "image of the type"),
    _definition("type_method", "type", "string", "method of the type"),
    _definition(
        "radius_arcsec", "type", "float64", "aperture radius, NaN where there is none", "arcsec"
    ),
    _definition("unit", "type", "string", "unit of flux and flux_err"),
    _definition("aor_name", "aor", "string", "name of the AOR"),
    _definition("channel", "channel", "string", "channel"),
    _definition("mjd", "aor channel", "float64", "mid-exposure, Modified Julian Date, UTC", "d"),
    _definition(
        "bjd_tdb", "aor channel", "float64", "mid-exposure, Barycentric Julian Date, TDB", "d"
    ),
    _definition("exptime", "aor channel", "float64", "exposure time", "s"),
    _definition("dx", "aor channel", "float64", "offset from the superstack along x", "pixel"),
    _definition("dy", "aor channel", "float64", "offset from the superstack along y", "pixel"),
    _definition(
        "zeropoint", "type aor", "float32", "ensemble zero point, flux * 10**(0.4 z)", "mag"
    ),
    _definition("zeropoint_err", "type aor", "float32", "error of the ensemble zero point", "mag"),
    _definition("noise_scale", "type aor", "float32", "true error over flux_err"),
)

COORDINATES: dict[str, ArrayDefinition] = {d.name: d for d in _ALL}
"""Arrays of the root besides the cube, by name."""

DIMENSION_COORDINATES = ("object", "type", "value", "aor", "channel")
"""Coordinates that are the labels of a dimension."""


@dataclass(frozen=True)
class CubeSchema:
    """What a cube is, in a form that can be sent to another process.

    Parameters
    ----------
    types, channels
        Names, in order.
    aor_names
        Names of the AORs, in order.
    layout
        Shape of the cube and of its shards.
    codec
        How chunks are compressed.
    precision
        Fluxes are rounded to this fraction of their error bar; None for lossless.
    staging_aors
        AORs in a staging chunk, B.
    """

    types: tuple[str, ...]
    channels: tuple[str, ...]
    aor_names: tuple[str, ...]
    layout: Layout
    codec: Codec = "lz4"
    precision: float | None = None
    staging_aors: int = 16

    def length(self, dim: str) -> int:
        """Return how long a dimension is; raises KeyError for one that the root does not have."""
        return self._lengths()[dim]

    def _lengths(self) -> dict[str, int]:
        layout = self.layout
        return {
            "object": layout.n_objects,
            "type": layout.n_types,
            "value": VALUES_PER_CHUNK,
            "aor": layout.n_aors,
            "channel": len(self.channels),
        }

    def has_dim(self, dim: str) -> bool:
        """Say whether the root has such a dimension."""
        return dim in self._lengths()

    def chunk_length(self, dim: str) -> int:
        """Return the chunk length along a dimension: C along ``aor``, all of it elsewhere."""
        return self.layout.capacity if dim == "aor" else max(1, self.length(dim))


def plain_spec(
    schema: CubeSchema,
    path: str,
    *,
    dims: tuple[str, ...],
    dtype: str,
    attributes: Mapping[str, Any] | None = None,
    codec: str = "none",
) -> ArraySpec:
    """Return the description of an array along dimensions of the cube."""
    return ArraySpec(
        path=path,
        dims=dims,
        dtype=dtype,
        shape=tuple(schema.length(d) for d in dims),
        chunks=tuple(schema.chunk_length(d) for d in dims),
        codec=codec,
        attributes=dict(attributes or {}),
    )


def lightcurves_json(schema: CubeSchema, units: tuple[str, ...]) -> dict[str, Any]:
    """Return the metadata of the cube.

    Parameters
    ----------
    schema
        What the cube is.
    units
        Unit of every type.

    Returns
    -------
    dict
        Content of ``lightcurves/zarr.json``.
    """
    layout = schema.layout
    attributes: dict[str, Any] = {
        "long_name": "lightcurves",
        "ancillary_variables": "zeropoint zeropoint_err noise_scale",
        "flag_masks": flag_masks(),
        "flag_meanings": flag_meanings(),
        # Not every client reads Zarr strings, so the labels stand here once more.
        "type": list(schema.types),
        "value": list(VALUES),
        "aor_name": list(schema.aor_names),
        "precision": schema.precision,
    }
    if len(set(units)) == 1:
        attributes["units"] = units[0]
    spec = ArraySpec(
        path=LIGHTCURVES,
        dims=CUBE_DIMS,
        dtype="float32",
        shape=layout.shape,
        chunks=layout.chunk_shape,
        attributes=attributes,
    )
    codecs = sharding_codecs(schema.codec, layout.chunk_shape)
    return zarr_array(spec, grid=layout.shard_shape, codecs=codecs)


def staging_json(schema: CubeSchema) -> dict[str, Any]:
    """Return the metadata of the staging array: a file for a batch of AORs, a chunk for a shard."""
    layout, batch = schema.layout, schema.staging_aors
    chunk = (batch, layout.shard_objects, layout.n_types, VALUES_PER_CHUNK)
    spec = ArraySpec(
        path=STAGING,
        dims=STAGING_DIMS,
        dtype="float32",
        shape=(layout.n_aors, layout.n_objects, layout.n_types, VALUES_PER_CHUNK),
        chunks=chunk,
        attributes={"long_name": "measured, not yet assembled"},
    )
    grid = (batch, layout.n_shards * layout.shard_objects, *chunk[2:])
    return zarr_array(spec, grid=grid, codecs=sharding_codecs("lz4", chunk))
