"""A cube of lightcurves: open it, read it fast, write into it."""

from __future__ import annotations

import json
from collections.abc import Hashable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.errors import ChunkMissing, UnknownName, UsageError, closest
from idfzarr.lightcurve import Lightcurve
from idfzarr.measurement import select_types
from idfzarr.store.arrays import read_array
from idfzarr.store.layout import SHARD_OBJECTS
from idfzarr.store.ledger import LEDGER_SUFFIX, read_ledger
from idfzarr.store.place import LocalPlace, locked, place_of
from idfzarr.store.plan import plan_cube
from idfzarr.store.reader import PlainReader, ShardReader
from idfzarr.store.recognise import channels_of_types, schema_of
from idfzarr.store.root import read_root
from idfzarr.store.schema import LIGHTCURVES, CubeSchema
from idfzarr.store.sky import cone_rows
from idfzarr.store.store_writer import refuse_existing
from idfzarr.store.values import flags_of, stacked
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from idfzarr.store.place import PlaceLike
    from idfzarr.store.reader import LightcurveReader

__all__ = ["Cube", "create", "flags_of"]


class Cube:
    """A published store, opened for fast reading.

    Parameters
    ----------
    path
        Path or URL of the store.
    mode
        ``r`` to read, ``r+`` to write lightcurves too.

    Raises
    ------
    StoreMissing, ForeignStore, FormatVersionError, UnfinishedStore, MetadataCorrupt
        It cannot be opened, and why.
    ChunkCorrupt, ChunkMissing
        A coordinate is damaged.

    Notes
    -----
    An open cube keeps the lengths it was opened with; `refresh` takes over those of now.
    Threads may share one; it may be sent to another process and used after a fork.

    Examples
    --------
    >>> cube = Cube("field.zarr")  # doctest: +SKIP
    >>> cube.lightcurve(12345, "ch1_auto_original")  # doctest: +SKIP
    """

    def __init__(self, path: PlaceLike, mode: Literal["r", "r+"] = "r") -> None:
        if mode not in {"r", "r+"}:
            msg = f"a cube is opened with mode 'r' or 'r+', not {mode!r}; idfzarr.create makes one"
            raise UsageError(msg)
        self._place = place_of(path)
        self._mode = mode
        self.refresh()

    def __reduce__(self) -> tuple[type[Cube], tuple[Any, str]]:
        return (Cube, (self._place, self._mode))

    def refresh(self) -> None:
        """Read the store's metadata and coordinates anew, as after an append."""
        root = read_root(self._place)
        coordinates = {
            name: read_array(self._place, name, root.metadata[name])
            for name in root.arrays()
            if name != LIGHTCURVES
        }
        schema, known = schema_of(root, coordinates)
        self._root = root
        self._coordinates = coordinates
        self._schema = schema
        self._rows = {int(n): i for i, n in enumerate(coordinates["object"])}
        self._columns = {str(n): i for i, n in enumerate(schema.types)}
        self._channel_of = channels_of_types(coordinates, schema)
        self._reader: LightcurveReader
        if known and isinstance(self._place, LocalPlace):
            self._reader = ShardReader(
                self._place,
                schema.layout,
                schema.codec,
                must_exist=self._must_exist,
                label=self._label,
            )
        else:
            self._reader = PlainReader(self._place, LIGHTCURVES, schema.layout)

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
        return {
            path.rsplit("/", 1)[1]: read_array(self._place, path, self._root.metadata[path])
            for path in paths
        }

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

    # ---------------------------------------------------------------- read

    def values(self, object_id: int, type: str) -> NDArray[np.float32]:
        """Return one lightcurve as it stands in the cube; the fastest way there is.

        Parameters
        ----------
        object_id
            The object's id.
        type
            Name of the measurement type.

        Returns
        -------
        ndarray of float32
            (value, aor): flux, flux_err, flag; not writable. Flags are NaN where there is no chunk.

        Raises
        ------
        UnknownName
            No such object or type.
        ChunkCorrupt, ShardCorrupt, ChunkMissing
            Damaged; the sentence names object, type and file.
        """
        try:
            row = self._rows[object_id]
            column = self._columns[type]
        except (KeyError, TypeError):
            raise self._unknown(object_id, type) from None
        return self._reader.read(row, column)

    def lightcurve(self, object_id: int, type: str) -> Lightcurve:
        """Return one lightcurve.

        Parameters
        ----------
        object_id
            The object's id.
        type
            Name of the measurement type.

        Returns
        -------
        Lightcurve
            Flux as stored; `Lightcurve.calibrated` applies the zero points.

        Raises
        ------
        UnknownName
            No such object or type.
        ChunkCorrupt, ShardCorrupt, ChunkMissing
            Damaged.
        """
        return self._lightcurve(object_id, type, self.values(object_id, type))

    def lightcurves(
        self, object_ids: Iterable[int], types: str | Iterable[str] = "*"
    ) -> list[Lightcurve]:
        """Return many lightcurves.

        Parameters
        ----------
        object_ids
            Ids of the objects.
        types
            Names or globs of types, see `idfzarr.measurement.select_types`.

        Returns
        -------
        list of Lightcurve
            Object by object, type by type, in the order of the cube's types.

        Raises
        ------
        UnknownName
            No such object, or no type matches.
        """
        ids = [int(i) for i in object_ids]
        names = select_types(self.types, types)
        columns = [self._columns[n] for n in names]
        out = []
        for object_id, row in [(i, self.row(i)) for i in ids]:
            block = self._reader.read_block([row], columns)[0]
            out += [self._lightcurve(object_id, n, v) for n, v in zip(names, block, strict=True)]
        return out

    def block(
        self,
        rows: slice | Sequence[int] = slice(None),
        types: str | Iterable[str] = "*",
        *,
        aors: slice = slice(None),
    ) -> NDArray[np.float32]:
        """Return a block of the cube as it stands there.

        Parameters
        ----------
        rows
            Positions of objects, or a slice of them.
        types
            Names or globs of types.
        aors
            Positions of AORs.

        Returns
        -------
        ndarray of float32
            (object, type, value, aor).
        """
        names = self.types if types == "*" else select_types(self.types, types)
        columns = [self._columns[n] for n in names]
        chosen = range(*rows.indices(self.shape[0])) if isinstance(rows, slice) else rows
        return self._reader.read_block(chosen, columns, aors=aors)

    def _lightcurve(self, object_id: int, type_: str, values: NDArray[np.float32]) -> Lightcurve:
        row, column = self._rows[object_id], self._columns[type_]
        channel = self._channel_of[column]
        own = self._coordinates
        along: dict[str, Any] = {
            name: own[name][column]
            for name in ("zeropoint", "zeropoint_err", "noise_scale")
            if name in own
        }
        if "bjd_tdb" in own and np.isfinite(own["bjd_tdb"][:, channel]).any():
            along["bjd_tdb"] = own["bjd_tdb"][:, channel]
        return Lightcurve(
            object_id=int(object_id),
            type=type_,
            aor=own["aor"],
            mjd=own["mjd"][:, channel],
            flux=values[0].copy(),
            flux_err=values[1].copy(),
            flag=flags_of(values[2]),
            unit=str(own["unit"][column]),
            ra=float(own["ra"][row]),
            dec=float(own["dec"][row]),
            **along,
        )

    def _label(self, row: int, column: int) -> str:
        return f"of object {self.objects[row]}, type {self.types[column]},"

    def _must_exist(self, shard: int) -> None:
        """Raise if the ledger calls a shard done of which something is missing."""
        key = self._schema.layout.key(shard)
        if key in read_ledger(self._place).for_store(self.uuid).done:
            msg = (
                f"the ledger calls {key} of {self.path} done, but it, or a chunk of it, is not "
                "there; "
                "repair the store"
            )
            raise ChunkMissing(msg)

    # ---------------------------------------------------------------- write

    @property
    def writer(self) -> CubeWriter:
        """What writes shards into this store; raises `UsageError` in mode ``r``."""
        if self._mode != "r+":
            msg = (
                f"{self.path} is open for reading only; open it with Cube(path, mode='r+') to write"
            )
            raise UsageError(msg)
        ours = self._root.ours
        return CubeWriter(
            place=self._place,
            uuid=self.uuid,
            created=str(ours["created"]),
            settings_json=json.dumps(ours.get("settings", {}), sort_keys=True),
            schema=self._schema,
        )

    def write_block(
        self,
        first: int,
        *,
        flux: ArrayLike,
        flux_err: ArrayLike | None = None,
        flag: ArrayLike | None = None,
    ) -> None:
        """Write whole shard rows.

        Parameters
        ----------
        first
            Position of the first object, at the beginning of a shard.
        flux, flux_err, flag
            (object, type, aor). Errors are NaN and flags 0 unless given; a flux that is not finite
            gets the flag ``not_observed`` where it has none.

        Raises
        ------
        ShardCut
            The rows cut a shard; the sentence names rows that would do.
        UsageError
            A shape or a flag is wrong, or the cube is open for reading only.
        """
        writer = self.writer
        values = stacked(flux, flux_err, flag)
        _, n_types, _, n_aors = self.shape
        if values.ndim != 4 or values.shape[1::2] != (n_types, n_aors):
            msg = f"a block of {self.path} is (object, {n_types}, {n_aors}), not {np.shape(flux)}"
            raise UsageError(msg)
        layout = self._schema.layout
        for shard in layout.shards_of_region(first, len(values)):
            begin, end = layout.rows(shard)
            with self._owned(shard):
                writer.write_shard(shard, values[begin - first : end - first])

    def write_lightcurve(
        self,
        object_id: int,
        type: str,
        *,
        flux: ArrayLike,
        flux_err: ArrayLike | None = None,
        flag: ArrayLike | None = None,
    ) -> None:
        """Write one lightcurve; its whole shard is read and written anew.

        On a local disk processes and threads wait for one another, so that none loses what another
        wrote; on object storage one process alone may do this.

        Parameters
        ----------
        object_id, type
            Which.
        flux, flux_err, flag
            (aor,), as in `write_block`.

        Raises
        ------
        UnknownName
            No such object or type.
        UsageError
            A shape or a flag is wrong, or the cube is open for reading only.
        """
        writer = self.writer
        row, column = self.row(object_id), self.column(type)
        values = stacked(flux, flux_err, flag)
        if values.shape != self.shape[2:]:
            msg = (
                f"a lightcurve of {self.path} has {self.shape[3]} AORs, not shape {np.shape(flux)}"
            )
            raise UsageError(msg)
        shard = self._schema.layout.shard_of(row)
        begin, end = self._schema.layout.rows(shard)
        with self._owned(shard):
            block = self._reader.read_block(range(begin, end), range(self.shape[1]))
            block[row - begin, column] = values
            writer.write_shard(shard, block)

    @contextmanager
    def _owned(self, shard: int) -> Iterator[None]:
        """Hold a shard against other processes, and forget what was read of it."""
        with locked(self._place.beside(LEDGER_SUFFIX), f"shard-{shard}.lock"):
            self._reader.forget(shard)
            try:
                yield
            finally:
                self._reader.forget(shard)


def _nearest_ids(wanted: object, ids: NDArray[np.int64]) -> str:
    if isinstance(wanted, int | np.integer) and len(ids):
        near = ids[np.argsort(np.abs(ids - int(wanted)), kind="stable")[:3]]
        return f"there are {len(ids)}; nearest: {', '.join(map(str, sorted(near)))}"
    return f"objects are named by whole numbers; there are {len(ids)}, see Cube.objects"


def create(
    path: PlaceLike,
    *,
    objects: Any,
    types: Any,
    aors: Any,
    channels: Sequence[str] | None = None,
    codec: str = "lz4",
    precision: float | None = None,
    shard_objects: int = SHARD_OBJECTS,
    capacity: int | None = None,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Cube:
    """Make an empty cube for one's own measurements.

    Parameters
    ----------
    path
        Where: a path, or a URL of object storage.
    objects
        Table with ``object_id`` (unique whole numbers) and, where known, ``ra``, ``dec`` (degrees),
        ``x``, ``y`` (pixels). Further columns go to the catalogue.
    types
        Names of measurement types, or a table with ``type``, ``unit``, ``type_channel``, ...
    aors
        Table with ``aor`` (unique whole numbers), ``mjd`` (UTC, days) and, where known,
        ``aor_name``, ``exptime``, ``dx``, ``dy``, ``bjd_tdb``.
    channels
        Names of the channels; those of the types unless given.
    codec
        ``lz4`` (fastest to read), ``zstd`` (smaller) or ``none``.
    precision
        Round flux to this fraction of its error bar, as 0.01; None for lossless.
    shard_objects
        Objects in a shard, the unit of writing.
    capacity
        AORs that fit before the cube must be laid out anew; an eighth more than there are unless
        given.
    overwrite
        Remove a store of ours that stands there.
    settings
        Anything to remember with the cube, in JSON's types.

    Returns
    -------
    Cube
        Empty, mode ``r+``; its order is that of the tables.

    Raises
    ------
    StoreExists
        A store stands there and `overwrite` is false.
    ForeignStore
        Something else stands there.
    UsageError
        A table cannot be used: ids twice, no ``mjd``, ...
    """
    how: dict[str, Any] = {
        "objects": objects,
        "types": types,
        "aors": aors,
        "channels": channels,
        "codec": codec,
        "precision": precision,
        "shard_objects": shard_objects,
        "capacity": capacity,
    }
    plan_cube(**how)  # before anything is written, or removed
    if not overwrite:
        refuse_existing(path)
    writer = CubeWriter.begin(path, settings=settings, overwrite=overwrite).lay_out(**how)
    writer.publish(complete=False)
    return Cube(writer.place, mode="r+")
