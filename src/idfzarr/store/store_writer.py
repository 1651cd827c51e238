"""Begin a store, or go on with one, and write the arrays beside the cube.

A `StoreWriter` is a small frozen value that can be sent to any thread or process. Nothing that it
does not know as a store of ours is ever touched.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from idfzarr.errors import (
    ForeignStore,
    SettingsDiffer,
    StoreExists,
    UnknownName,
    UsageError,
    closest,
)
from idfzarr.store.abandoned import remove_abandoned
from idfzarr.store.arrays import (
    ArraySpec,
    array_json,
    encode_array,
    group_json,
    json_bytes,
    read_array,
)
from idfzarr.store.exchange import recover_exchange
from idfzarr.store.ledger import LEDGER_SUFFIX, Ledger, LedgerState, read_ledger
from idfzarr.store.place import locked, place_of
from idfzarr.store.root import ROOT_KEY, read_root, settings_digest, software
from idfzarr.store.schema import COORDINATES, FORMAT, CubeSchema, plain_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.ledger import Record
    from idfzarr.store.place import Place, PlaceLike

__all__ = ["StoreWriter", "refuse_existing", "zarr_dtype"]

_LEDGERS: dict[tuple[str, str], Ledger] = {}
_LEDGERS_LOCK = threading.Lock()


@dataclass(frozen=True)
class StoreWriter:
    """The right to write one store; make it with `begin` or `of_published`.

    Parameters
    ----------
    place
        The store.
    uuid
        Its uuid.
    created
        When it was begun, ISO 8601, UTC.
    settings_json
        The settings it is made with, as JSON.
    schema
        What the cube is; None before `lay_out`.
    """

    place: Place
    uuid: str
    created: str
    settings_json: str
    schema: CubeSchema | None = None

    # ---------------------------------------------------------------- begin

    @classmethod
    def begin(
        cls,
        path: PlaceLike,
        *,
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Begin a store, or go on with one.

        Parameters
        ----------
        path
            Where the store is to be.
        settings
            What it is made with, in JSON's types. A store that was begun with the same is gone on
            with.
        overwrite
            Remove a store of ours that stands there.

        Returns
        -------
        StoreWriter
            Without a schema; see `lay_out`.

        Raises
        ------
        SettingsDiffer
            A store was begun there with other settings.
        ForeignStore
            Something else is there; it is never removed.
        UsageError
            The settings are no JSON.
        """
        place = place_of(path)
        settings_json = _canonical(settings or {})
        digest = settings_digest(json.loads(settings_json))
        recover_exchange(place)
        state = read_ledger(place).since_begin()
        _refuse_foreign(place, state)
        if overwrite:
            _remove_store(place)
            state = LedgerState(state.url)
        if place.size(ROOT_KEY) is not None:
            # Not from the ledger, which may be that of another store that stood here.
            writer = cls._of_root(place, settings_json, digest)
        elif state.begun is not None:
            writer = cls._of_begun(place, state.begun, settings_json, digest)
        else:
            writer = cls._new(place, settings_json, digest)
        remove_abandoned(place, writer.uuid)
        return writer

    @classmethod
    def _new(cls, place: Place, settings_json: str, digest: str) -> Self:
        with locked(place.beside(LEDGER_SUFFIX), "begin.lock"):
            begun = read_ledger(place).since_begin().begun
            if begun is not None:  # another process was quicker
                return cls._of_begun(place, begun, settings_json, digest)
            writer = cls(place, str(uuid.uuid4()), _now(), settings_json)
            writer.ledger.append(
                "begin",
                created=writer.created,
                format=FORMAT,
                settings=settings_json,
                settings_digest=digest,
                software=software(),
            )
        return writer

    @classmethod
    def _of_begun(cls, place: Place, begun: Record, settings_json: str, digest: str) -> Self:
        if begun.fields.get("settings_digest") != digest:
            raise _other_settings(place, str(begun.fields.get("settings")), settings_json)
        return cls(place, begun.uuid, str(begun.fields["created"]), settings_json)

    @classmethod
    def _of_root(cls, place: Place, settings_json: str, digest: str) -> Self:
        root = read_root(place)
        if root.ours.get("settings_digest") != digest:
            raise _other_settings(place, _canonical(root.ours.get("settings", {})), settings_json)
        return cls(place, root.uuid, str(root.ours["created"]), settings_json)

    @property
    def home(self) -> Place:
        """The store that the ledger lies beside."""
        return self.place

    @property
    def ledger(self) -> Ledger:
        """The ledger of this process."""
        key = (self.home.url, self.uuid)
        ledger = _LEDGERS.get(key)
        if ledger is None:
            with _LEDGERS_LOCK:
                ledger = _LEDGERS.setdefault(key, Ledger(self.home, self.uuid))
        return ledger

    def state(self) -> LedgerState:
        """Read what the ledger says about this store."""
        return read_ledger(self.home).for_store(self.uuid)

    @property
    def is_published(self) -> bool:
        """Whether the store has been published."""
        return self.place.size(ROOT_KEY) is not None

    # ---------------------------------------------------------------- arrays

    @property
    def _schema(self) -> CubeSchema:
        if self.schema is None:
            msg = f"{self.place.url} has no layout yet; call lay_out(objects=, types=, aors=) first"
            raise UsageError(msg)
        return self.schema

    def write_coordinate(
        self,
        name: str,
        values: NDArray[Any],
        *,
        dims: tuple[str, ...] | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write an array of the root: a coordinate, or a calibration.

        Parameters
        ----------
        name
            A name of `idfzarr.store.schema.COORDINATES`, or any other with `dims`.
        values
            Its values.
        dims
            Dimensions of an array that the schema does not know.
        attributes
            CF attributes, added to those of the schema.

        Raises
        ------
        UnknownName
            The schema has no such array and no dimensions were given.
        UsageError
            The shape differs.
        """
        definition = COORDINATES.get(name)
        if definition is None and dims is None:
            msg = f"the schema has no array {name!r}{closest(name, COORDINATES)}; give its dims"
            raise UnknownName(msg)
        if definition is not None:
            dims, dtype = definition.dims, definition.dtype
            attributes = dict(definition.attributes) | dict(attributes or {})
        else:
            dtype = zarr_dtype(values)
        self.write_array(name, values, dims=dims or (), dtype=dtype, attributes=attributes)

    def write_array(
        self,
        path: str,
        values: NDArray[Any],
        *,
        dims: tuple[str, ...],
        dtype: str | None = None,
        chunks: tuple[int, ...] | None = None,
        codec: str = "none",
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write any plain array, its chunks first, its metadata last.

        Parameters
        ----------
        path
            Where below the root, as ``variability/median``.
        values
            Its values.
        dims
            Names of its dimensions; those of the cube must have the cube's lengths.
        dtype
            Zarr v3 data type; that of the values unless given.
        chunks
            Chunk shape; the whole array, and C along ``aor``, unless given.
        codec
            ``none`` or ``zstd``.
        attributes
            CF attributes.
        """
        dtype = dtype or zarr_dtype(values)
        if self.schema is not None and chunks is None and all(map(self.schema.has_dim, dims)):
            spec = plain_spec(
                self.schema, path, dims=dims, dtype=dtype, attributes=attributes, codec=codec
            )
        else:
            whole = tuple(max(1, n) for n in values.shape)
            spec = ArraySpec(
                path, dims, dtype, values.shape, chunks or whole, codec, dict(attributes or {})
            )
        for key, data in encode_array(spec, values):
            self.place.write(key, data)
        self.write_json(path, array_json(spec))

    def write_group(self, path: str, attributes: Mapping[str, Any]) -> None:
        """Write a group's metadata with attributes."""
        self.write_json(path, group_json(attributes))

    def write_table(
        self,
        group: str,
        columns: Mapping[str, NDArray[Any]],
        *,
        dims: tuple[str, ...] = ("object",),
        attributes: Mapping[str, Any] | None = None,
        column_attributes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write the columns of a table as arrays of a group.

        Parameters
        ----------
        group
            ``catalogue``, ``variability``, ...
        columns
            Values by name, all of the same dimensions.
        dims
            Their dimensions: ``("object",)``, or ``("object", "type")`` for statistics.
        attributes
            Of the group.
        column_attributes
            CF attributes by column.
        """
        for name, values in columns.items():
            told = (column_attributes or {}).get(name, {})
            array = np.asarray(values)
            self.write_array(f"{group}/{name}", array, dims=dims, codec="zstd", attributes=told)
        self.write_group(group, attributes or {})

    def read_array(self, path: str) -> NDArray[Any]:
        """Read back an array that was written, published or not.

        Raises
        ------
        UnknownName
            There is none of that path.
        """
        try:
            document = json.loads(self.place.read(f"{path}/{ROOT_KEY}"))
        except FileNotFoundError:
            msg = f"there is no array {path!r} in {self.place.url} yet"
            raise UnknownName(msg) from None
        return read_array(self.place, path, document)

    def has_array(self, path: str) -> bool:
        """Say whether an array has been written, published or not."""
        return self.place.size(f"{path}/{ROOT_KEY}") is not None

    def write_json(self, path: str, document: Mapping[str, Any]) -> None:
        """Write the ``zarr.json`` of an array or a group."""
        self.place.write(f"{path}/{ROOT_KEY}", json_bytes(document))


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _canonical(settings: Mapping[str, Any]) -> str:
    try:
        return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        msg = f"settings must be JSON (text, numbers, lists, no NaN), but {error}"
        raise UsageError(msg) from error


def zarr_dtype(values: NDArray[Any]) -> str:
    """Return the Zarr v3 data type that an array is stored as; raises `UsageError`."""
    kind = np.asarray(values).dtype
    if kind.kind in "OSTU":
        return "string"
    if kind.kind not in "biuf" or kind.itemsize > 8 or kind == np.float16:
        msg = f"values of type {kind} cannot be stored; use floats, integers, booleans or text"
        raise UsageError(msg)
    return kind.name


def _refuse_foreign(place: Place, state: LedgerState) -> None:
    """Refuse a place where something stands that this package did not make."""
    if place.size(ROOT_KEY) is not None:
        read_root(place)
    elif state.begun is None and next(iter(place.keys()), None) is not None:
        msg = (
            f"{place.url} is not empty and no store of idfzarr; nothing there is touched: choose "
            "another "
            "path"
        )
        raise ForeignStore(msg)


def _remove_store(place: Place) -> None:
    """Remove a store of ours; the root first, so that no reader takes the rest for a store."""
    place.remove(ROOT_KEY)
    place.remove_tree("")
    place.beside(LEDGER_SUFFIX).remove_tree("")
    with _LEDGERS_LOCK:
        for key in [key for key in _LEDGERS if key[0] == place.url]:
            del _LEDGERS[key]


def _other_settings(place: Place, before: str, now: str) -> SettingsDiffer:
    old, new = json.loads(before), json.loads(now)
    names = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    told = ", ".join(f"{k}: {old.get(k)!r} then, {new.get(k)!r} now" for k in names[:4])
    msg = (
        f"{place.url} was begun with other settings ({told or 'none named'}); use the same, or "
        "build "
        "into another path"
    )
    return SettingsDiffer(msg)


def refuse_existing(path: PlaceLike) -> None:
    """Raise `StoreExists` where a store of ours stands, finished or not."""
    place = place_of(path)
    if place.size(ROOT_KEY) is not None or read_ledger(place).begun is not None:
        msg = (
            f"there is a store at {place.url} already; choose another path, or pass overwrite=True"
        )
        raise StoreExists(msg)
