"""What a store's metadata says the cube is, and whether the fast path can read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idfzarr.errors import MetadataCorrupt, UsageError
from idfzarr.store.layout import Layout
from idfzarr.store.schema import COORDINATES, CUBE_DIMS, LIGHTCURVES, VALUES, CubeSchema
from idfzarr.store.shard import codec_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.root import Root

__all__ = ["channels_of_types", "schema_of"]


def channels_of_types(coordinates: Mapping[str, NDArray[Any]], schema: CubeSchema) -> list[int]:
    """Return the position of every type's channel."""
    return [schema.channels.index(str(c)) for c in coordinates["type_channel"]]


def schema_of(root: Root, coordinates: Mapping[str, NDArray[Any]]) -> tuple[CubeSchema, bool]:
    """Return what the cube is, and whether the fast path knows its layout."""
    where = f"{root.place.url}/zarr.json"
    needed = [
        n
        for n in ("object", "type", "aor", "channel", "mjd", "type_channel")
        if n not in coordinates
    ]
    if needed or not root.is_array(LIGHTCURVES):
        msg = f"{where} lacks {', '.join(needed or [LIGHTCURVES])}; repair the store"
        raise MetadataCorrupt(msg)
    node = root.metadata[LIGHTCURVES]
    try:
        shape = tuple(int(n) for n in node["shape"])
        dims = tuple(node["dimension_names"])
        grid = tuple(int(n) for n in node["chunk_grid"]["configuration"]["chunk_shape"])
        layout, codec = _layout_of(node, shape, grid)
        precision = node["attributes"].get("precision")
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        msg = f"{where} does not describe the cube ({error!r}); repair the store"
        raise MetadataCorrupt(msg) from error
    lengths = dict(zip(CUBE_DIMS, shape, strict=False))
    wrong = [n for n in ("object", "type", "aor") if coordinates[n].shape != (lengths.get(n),)]
    if dims != CUBE_DIMS or wrong:
        msg = (
            f"{where}: the shape {shape} of the cube and its coordinates disagree; repair the store"
        )
        raise MetadataCorrupt(msg)
    lengths["channel"] = len(coordinates["channel"])
    for name, values in coordinates.items():
        if name in COORDINATES and values.shape != tuple(
            lengths[d] for d in COORDINATES[name].dims
        ):
            msg = f"{where}: the coordinate {name!r} has shape {values.shape}; repair the store"
            raise MetadataCorrupt(msg)
    schema = CubeSchema(
        types=tuple(str(t) for t in coordinates["type"]),
        channels=tuple(str(c) for c in coordinates["channel"]),
        aor_names=tuple(str(n) for n in coordinates.get("aor_name", coordinates["aor"])),
        layout=layout,
        codec=codec or "lz4",
        precision=precision,
    )
    return schema, codec is not None


def _layout_of(
    node: Mapping[str, Any], shape: tuple[int, ...], grid: tuple[int, ...]
) -> tuple[Layout, Any]:
    """Return the layout, and the codec where the fast path can read it."""
    sharding = node["codecs"][0]
    configuration = sharding.get("configuration", {})
    inner = tuple(configuration.get("chunk_shape", grid))
    codec = codec_of(configuration.get("codecs"))
    known = (
        [c["name"] for c in node["codecs"]] == ["sharding_indexed"]
        and node["data_type"] == "float32"
        and inner == (1, 1, len(VALUES), inner[3])
        and inner[3] >= shape[3]
        and grid == (grid[0], shape[1], len(VALUES), inner[3])
        and configuration.get("index_location", "end") == "end"
        and codec_of(configuration.get("index_codecs")) == "none"
        and node["chunk_grid"]["name"] == "regular"
        and node["fill_value"] == "NaN"
        and node["chunk_key_encoding"]["name"] == "default"
        and node["chunk_key_encoding"].get("configuration", {}).get("separator", "/") == "/"
        and not node.get("storage_transformers")
    )
    try:
        layout = Layout(shape[0], shape[1], shape[3], max(inner[3], shape[3], 1), grid[0])
    except UsageError as error:
        msg = f"the cube's metadata describes an absurd one: {error}"
        raise MetadataCorrupt(msg) from error
    return layout, codec if known else None
