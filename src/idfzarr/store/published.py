"""A published cube as its next writer must know it: root, coordinates, shards."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import ChunkMissing, CorruptError, UsageError
from idfzarr.store.abandoned import remove_abandoned
from idfzarr.store.arrays import read_array
from idfzarr.store.exchange import settle_exchange
from idfzarr.store.ledger import Ledger, read_ledger
from idfzarr.store.place import place_of
from idfzarr.store.recognise import schema_of
from idfzarr.store.root import read_root
from idfzarr.store.schema import LIGHTCURVES
from idfzarr.store.shard import decode_shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.store.place import Place, PlaceLike
    from idfzarr.store.root import Root
    from idfzarr.store.schema import CubeSchema

__all__ = [
    "PublishedCube",
    "dims_of",
    "is_extension",
    "open_published",
    "read_published",
    "read_shard",
]


@dataclass(frozen=True, eq=False)
class PublishedCube:
    """A published cube.

    Parameters
    ----------
    place
        The store.
    root
        What its root says.
    schema
        What the cube is.
    coordinates
        The arrays of the root besides the cube, by name.
    """

    place: Place
    root: Root
    schema: CubeSchema
    coordinates: Mapping[str, NDArray[Any]]

    @property
    def identity(self) -> dict[str, Any]:
        """What a writer of this store is made with."""
        ours = self.root.ours
        return {
            "uuid": self.root.uuid,
            "created": str(ours["created"]),
            "settings_json": json.dumps(ours.get("settings", {}), sort_keys=True),
        }

    def arrays_along(self, dim: str) -> Iterator[str]:
        """Yield the paths of the plain arrays with a dimension of this name."""
        for path in sorted(self.root.metadata):
            if path != LIGHTCURVES and dim in dims_of(self.root.metadata[path]):
                yield path


def is_extension(now: PublishedCube, before: Mapping[str, NDArray[Any]]) -> bool:
    """Say whether a cube holds all that it held: objects, and types and AORs in their places.

    Parameters
    ----------
    now
        The cube.
    before
        The coordinates that it had.
    """
    objects = np.array_equal(now.coordinates["object"], before["object"])
    return objects and all(
        np.array_equal(now.coordinates[name][: len(before[name])], before[name])
        for name in ("type", "aor")
    )


def dims_of(node: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the dimensions of an array, none for a group."""
    if node.get("node_type") != "array":
        return ()
    return tuple(str(name) for name in node.get("dimension_names") or ())


def open_published(path: PlaceLike) -> PublishedCube:
    """Open a published cube to change it; what a stopped writer left to do is done first.

    Parameters
    ----------
    path
        Path or place of the store.

    Returns
    -------
    PublishedCube
        As its root says.

    Raises
    ------
    StoreMissing, ForeignStore, FormatVersionError, UnfinishedStore, MetadataCorrupt
        It cannot be opened, and why.
    UsageError
        The cube is laid out in another way than this package does.
    """
    place = place_of(path)
    settle_exchange(place)
    cube, known = read_published(place)
    if not known:
        msg = (
            f"{place.url} is laid out in chunks or codecs that idfzarr reads but does not write; "
            "migrate it into a store of ours first"
        )
        raise UsageError(msg)
    remove_abandoned(place, cube.root.uuid)
    _note_published(place, cube)
    return cube


def _note_published(place: Place, cube: PublishedCube) -> None:
    """Say in the ledger what a writer that was stopped after the root's rename did not."""
    state = read_ledger(place).for_store(cube.root.uuid)
    if state.begun is not None and not state.is_published:
        told = {"shape": cube.schema.layout.shape}
        Ledger(place, cube.root.uuid).append("published", **told)


def read_published(place: Place) -> tuple[PublishedCube, bool]:
    """Read root and coordinates of a published cube, all of one generation.

    Parameters
    ----------
    place
        The store.

    Returns
    -------
    tuple
        The cube, and whether the fast path knows its layout.

    Raises
    ------
    StoreMissing, ForeignStore, FormatVersionError, UnfinishedStore, MetadataCorrupt
        It cannot be opened, and why.
    ChunkCorrupt, ChunkMissing
        A coordinate is damaged.
    """
    while True:
        root = read_root(place)
        try:
            coordinates = {
                name: read_array(place, name, root.metadata[name])
                for name in root.arrays()
                if name != LIGHTCURVES
            }
        except CorruptError:
            if read_root(place).generation == root.generation:
                raise
            continue  # the store was exchanged between its root and its coordinates
        schema, known = schema_of(root, coordinates)
        return PublishedCube(place, root, schema, coordinates), known


def read_shard(place: Place, schema: CubeSchema, shard: int, *, uuid: str) -> NDArray[np.float32]:
    """Read one shard whole, every chunk verified.

    Parameters
    ----------
    place
        The store.
    schema
        What the cube is; of a shard that has more AORs already, those of the schema are returned.
    shard
        Number of the shard.
    uuid
        The store's uuid, to ask its ledger.

    Returns
    -------
    ndarray of float32
        (row, type, value, aor); NaN where nothing was ever written.

    Raises
    ------
    ChunkMissing
        The shard is not there, though the ledger calls it done, or has been removed.
    ShardCorrupt, ChunkCorrupt
        It is damaged.
    """
    layout = schema.layout
    first, last = layout.rows(shard)
    key = layout.key(shard)
    where = f"{place.url}/{key}"
    try:
        data = place.read(key)
    except FileNotFoundError:
        state = read_ledger(place).for_store(uuid)
        if key in state.done:
            msg = f"the ledger calls {key} done, but there is no {where}; repair the store"
            raise ChunkMissing(msg) from None
        if key in state.removed:
            msg = (
                f"{where} was removed when the store was cleaned; run idfzarr build with its "
                "images, which makes it again, before the store is changed"
            )
            raise ChunkMissing(msg) from None
        return np.full((last - first, *layout.shape[1:]), np.nan, dtype=np.float32)
    return decode_shard(data, layout, last - first, codec=schema.codec, where=where)
