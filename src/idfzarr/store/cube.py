"""A cube of lightcurves: open it, read it fast, write into it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import CorruptError, UsageError
from idfzarr.lightcurve import Lightcurve
from idfzarr.measurement import select_types
from idfzarr.store.layout import SHARD_OBJECTS
from idfzarr.store.ledger import LEDGER_SUFFIX
from idfzarr.store.opened import OpenedCube
from idfzarr.store.place import locked
from idfzarr.store.plan import plan_cube
from idfzarr.store.root import read_root
from idfzarr.store.store_writer import refuse_existing
from idfzarr.store.update import is_being_updated, roll_forward
from idfzarr.store.values import flags_of, stacked
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from idfzarr.store.place import PlaceLike

__all__ = ["Cube", "create", "flags_of"]


class Cube(OpenedCube):
    """A published store, opened for fast reading.

    Parameters
    ----------
    path
        Path or URL of the store, as of `idfzarr.store.place.place_of`.
    mode
        ``r`` to read, ``r+`` to write lightcurves too.
    storage_options
        For URLs: keys, endpoint, headers, as of `idfzarr.store.place.place_of`.

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
        try:
            return self._reader.read(row, column)
        except CorruptError:
            if not self._follow():
                raise
            return self._reader.read(row, column)

    def _read_block(
        self, rows: Sequence[int], columns: Sequence[int], *, aors: slice = slice(None)
    ) -> NDArray[np.float32]:
        try:
            return self._reader.read_block(rows, columns, aors=aors)
        except CorruptError:
            if not self._follow():
                raise
            return self._reader.read_block(rows, columns, aors=aors)

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
            block = self._read_block([row], columns)[0]
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
        return self._read_block(chosen, columns, aors=aors)

    def pairs(self, object_ids: Iterable[int], types: Iterable[str]) -> NDArray[np.float32]:
        """Return any lightcurves as they stand in the cube, decoded together.

        Parameters
        ----------
        object_ids
            The object of each.
        types
            The type of each.

        Returns
        -------
        ndarray of float32
            (pair, value, aor).

        Raises
        ------
        UnknownName
            No such object or type.
        UsageError
            There are more of the ones than of the others.
        """
        rows = [self.row(object_id) for object_id in object_ids]
        columns = [self.column(name) for name in types]
        if len(rows) != len(columns):
            msg = f"{len(rows)} objects and {len(columns)} types make no pairs; give one for one"
            raise UsageError(msg)
        try:
            return self._reader.read_pairs(rows, columns)
        except CorruptError:
            if not self._follow():
                raise
            return self._reader.read_pairs(rows, columns)

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

    # ---------------------------------------------------------------- write

    @property
    def writer(self) -> CubeWriter:
        """What writes shards into this store; raises `UsageError` in mode ``r``."""
        if self._mode != "r+":
            msg = (
                f"{self.path} is open for reading only; open it with Cube(path, mode='r+') to write"
            )
            raise UsageError(msg)
        if not self._is_ours:
            msg = (
                f"the cube of {self.path} is of a layout or codecs that this package reads but "
                "does not write; write it with zarr-python, or import it into a store of ours"
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
            A shape or a flag is wrong, the cube is open for reading only, or the store is being
            changed or was since the cube was opened.
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
            A shape or a flag is wrong, the cube is open for reading only, or the store is being
            changed or was since the cube was opened.
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
            block = self._read_block(range(begin, end), range(self.shape[1]))
            block[row - begin, column] = values
            writer.write_shard(shard, block)

    def _refuse_changed(self) -> None:
        """Refuse to write shards of another length than those of the store."""
        if read_root(self._place).generation != self._root.generation:
            msg = f"{self.path} has changed since it was opened; call refresh() and write again"
            raise UsageError(msg)
        if is_being_updated(self._place):
            roll_forward(self._place)  # where it is committed and its writer was stopped
        if is_being_updated(self._place):
            msg = (
                f"{self.path} is being appended to or laid out anew, or that was stopped; write "
                "when it is finished"
            )
            raise UsageError(msg)

    @contextmanager
    def _owned(self, shard: int) -> Iterator[None]:
        """Hold a shard against other processes, and forget what was read of it."""
        with locked(self._place.beside(LEDGER_SUFFIX), f"shard-{shard}.lock"):
            self._refuse_changed()
            self._reader.forget(shard)
            try:
                yield
            finally:
                self._reader.forget(shard)


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
        AORs that fit before the cube must be laid out anew; a little more than there are unless
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
