"""An open store: what it is, and how its reader follows it when it is laid out anew."""

from __future__ import annotations

import os
from collections.abc import Hashable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.errors import ChunkMissing, CorruptError, UnknownName, UsageError, closest
from idfzarr.store.arrays import read_array
from idfzarr.store.ledger import read_ledger
from idfzarr.store.place import LocalPlace, RemotePlace, place_of
from idfzarr.store.published import is_extension, read_published
from idfzarr.store.reader import PlainReader, ShardReader
from idfzarr.store.recognise import channels_of_types
from idfzarr.store.remote_reader import RemoteShardReader
from idfzarr.store.root import read_root
from idfzarr.store.schema import LIGHTCURVES
from idfzarr.store.sky import cone_rows
from idfzarr.store.zip_place import ZipPlace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.place import PlaceLike
    from idfzarr.store.reader import LightcurveReader
    from idfzarr.store.schema import CubeSchema

__all__ = ["OpenedCube"]

_TRIES = 5
"""How often a table is read anew that was exchanged for another in the meantime."""


class OpenedCube:
    """A published store that was opened; `idfzarr.store.cube.Cube` reads and writes it.

    Parameters
    ----------
    path
        Path or URL of the store.
    mode
        ``r`` to read, ``r+`` to write lightcurves too.
    storage_options
        As of `idfzarr.store.place.place_of`.
    """

    def __init__(
        self,
        path: PlaceLike,
        mode: Literal["r", "r+"] = "r",
        *,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        if mode not in {"r", "r+"}:
            msg = f"a cube is opened with mode 'r' or 'r+', not {mode!r}; idfzarr.create makes one"
            raise UsageError(msg)
        self._place = place_of(path, storage_options=storage_options)
        self._mode = mode
        self.refresh()

    def __reduce__(self) -> tuple[Any, tuple[Any, str]]:
        return (type(self), (self._place, self._mode))

    def refresh(self) -> None:
        """Read the store's metadata and coordinates anew, as after an append."""
        cube, known = read_published(self._place)
        coordinates, schema = cube.coordinates, cube.schema
        self._root = cube.root
        self._coordinates = coordinates
        self._schema = schema
        self._rows = {int(n): i for i, n in enumerate(coordinates["object"])}
        self._columns = {str(n): i for i, n in enumerate(schema.types)}
        self._channel_of = channels_of_types(coordinates, schema)
        self._is_ours = known
        self._reader = self._reader_of(schema, known=known)

    def _reader_of(self, schema: CubeSchema, *, known: bool) -> LightcurveReader:
        if known and isinstance(self._place, LocalPlace):
            return ShardReader(
                self._place,
                schema.layout,
                schema.codec,
                must_exist=self._must_exist,
                label=self._label,
            )
        if known and isinstance(self._place, RemotePlace | ZipPlace):
            return RemoteShardReader(
                self._place,
                schema.layout,
                schema.codec,
                must_exist=self._must_exist,
                label=self._label,
            )
        return PlainReader(
            self._place,
            LIGHTCURVES,
            schema.layout,
            must_exist=self._must_exist if known else None,
            label=self._label,
        )

    def _follow(self) -> bool:
        """Go on reading what is known of a store that was laid out anew; False if it was not."""
        now, known = read_published(self._place)
        if now.root.generation == self._root.generation or not is_extension(now, self._coordinates):
            return False
        layout = replace(now.schema.layout, n_aors=self._schema.layout.n_aors)
        self._is_ours = known
        self._reader = self._reader_of(replace(now.schema, layout=layout), known=known)
        return True

    # ---------------------------------------------------------------- what it is

    @property
    def path(self) -> str:
        """Path or URL of the store."""
        return self._place.url

    @property
    def uuid(self) -> str:
        """The store's uuid."""
        return self._root.uuid

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the root."""
        return self._root.attributes

    @property
    def schema(self) -> CubeSchema:
        """Types, channels, layout, codec."""
        return self._schema

    @property
    def types(self) -> tuple[str, ...]:
        """Names of the measurement types, in order."""
        return self._schema.types

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return self._schema.channels

    @property
    def objects(self) -> NDArray[np.int64]:
        """Object ids, in order."""
        return self._coordinates["object"]

    @property
    def aors(self) -> NDArray[np.int64]:
        """Reqkeys, in order."""
        return self._coordinates["aor"]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Lengths along object, type, value and aor."""
        return self._schema.layout.shape

    @property
    def coordinate_names(self) -> tuple[str, ...]:
        """Names of all arrays of the root besides the cube."""
        return tuple(sorted(self._coordinates))

    def coordinate(self, name: str) -> NDArray[Any]:
        """Return a coordinate, as verified when the cube was opened.

        Raises
        ------
        UnknownName
            There is none of that name.
        """
        try:
            return self._coordinates[name]
        except KeyError:
            near = closest(name, self._coordinates)
            msg = (
                f"{self.path} has no coordinate {name!r}{near}; it has "
                f"{', '.join(self.coordinate_names)}"
            )
            raise UnknownName(msg) from None

    def group_attributes(self, group: str) -> Mapping[str, Any]:
        """Return the attributes of a group, empty where there is none of that name."""
        attributes: Mapping[str, Any] = self._root.metadata.get(group, {}).get("attributes", {})
        return attributes

    def table(self, group: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of a group, ``catalogue`` or ``variability``, by name.

        Raises
        ------
        UnknownName
            There is no such group, or nothing in it.
        """
        paths = self._root.arrays(group)
        if not paths:
            groups = [p for p, node in self._root.metadata.items() if node["node_type"] == "group"]
            msg = f"{self.path} has no table {group!r}{closest(group, groups)}"
            raise UnknownName(msg)
        for _ in range(_TRIES):
            before = self._identity(group)
            found = {path.rsplit("/", 1)[1]: self._read_table(path) for path in paths}
            if self._identity(group) == before:
                break
        return found

    def _identity(self, group: str) -> tuple[int, int] | None:
        """Return what tells a group's folder from one that is put in its place as a whole."""
        if not isinstance(self._place, LocalPlace):
            return None
        try:
            seen = os.stat(self._place.path(group))
        except OSError:
            return None
        return seen.st_dev, seen.st_ino

    def _read_table(self, path: str) -> NDArray[Any]:
        node = self._root.metadata[path]
        try:
            return read_array(self._place, path, node)
        except CorruptError:
            now = read_root(self._place)
            if now.generation == self._root.generation or path not in now.metadata:
                raise
            known = tuple(slice(0, n) for n in node["shape"])
            return read_array(self._place, path, now.metadata[path])[known]

    def row(self, object_id: int) -> int:
        """Return the position of an object; raises `UnknownName`."""
        try:
            return self._rows[object_id]
        except (KeyError, TypeError):
            raise self._unknown(object_id, None) from None

    def column(self, type: str) -> int:
        """Return the position of a type; raises `UnknownName`."""
        try:
            return self._columns[type]
        except (KeyError, TypeError):
            raise self._unknown(None, type) from None

    def cone(self, ra: float, dec: float, radius: float) -> NDArray[np.int64]:
        """Return the ids of the objects within a cone on the sky, the nearest first.

        Parameters
        ----------
        ra, dec
            Its middle, degrees, ICRS.
        radius
            Arcseconds.

        Returns
        -------
        ndarray of int64
            Empty where nothing is that near.

        Raises
        ------
        NoSkyCoordinates
            The frames had no WCS.
        UsageError
            The centre or the radius is none.
        """
        rows = cone_rows(
            self.coordinate("ra"),
            self.coordinate("dec"),
            centre=(ra, dec),
            radius=radius,
            where=self.path,
        )
        return self.objects[rows]

    def _unknown(self, object_id: Any, type_: Any) -> UnknownName:
        known = isinstance(object_id, Hashable) and object_id in self._rows
        if object_id is not None and not known:
            near = _nearest_ids(object_id, self.objects)
            msg = f"{self.path} has no object {object_id!r}; {near}"
        else:
            near = closest(type_, self._columns)
            msg = (
                f"{self.path} has no type {type_!r}{near}; it has {len(self._columns)}, see "
                "Cube.types"
            )
        return UnknownName(msg)

    def __repr__(self) -> str:
        n_objects, n_types, _, n_aors = self.shape
        return f"<Cube {self.path}: {n_objects} objects x {n_types} types x {n_aors} AORs>"

    def _label(self, row: int, column: int) -> str:
        return f"of object {self.objects[row]}, type {self.types[column]},"

    def _must_exist(self, shard: int) -> None:
        """Raise if the ledger calls a shard done of which something is missing."""
        key = self._schema.layout.key(shard)
        state = read_ledger(self._place).for_store(self.uuid)
        if not state.records and not isinstance(self._place, LocalPlace):
            msg = (
                f"{key} of {self.path}, or a chunk of it, is not there, and no ledger lies beside "
                "the store or can be listed, so that nobody can tell whether it is lost or was "
                "never written; copy the store again, its ledger with it"
            )
            raise ChunkMissing(msg)
        if key in state.done:
            msg = (
                f"the ledger calls {key} of {self.path} done, but it, or a chunk of it, is not "
                "there; "
                "repair the store"
            )
            raise ChunkMissing(msg)


def _nearest_ids(wanted: object, ids: NDArray[np.int64]) -> str:
    if isinstance(wanted, int | np.integer) and len(ids):
        near = ids[np.argsort(np.abs(ids - int(wanted)), kind="stable")[:3]]
        return f"there are {len(ids)}; nearest: {', '.join(map(str, sorted(near)))}"
    return f"objects are named by whole numbers; there are {len(ids)}, see Cube.objects"
