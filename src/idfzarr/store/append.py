"""Add AORs to a published cube, or measure some of its AORs again.

Shards are rewritten whole, each with its new columns; columns that are there already keep their
values bit for bit. Until the root ``zarr.json`` is renamed, readers see the old lengths and so the
old cube, whichever shards are new. A change that was stopped anywhere is gone on with by the next
`begin_append` or `begin_replace` of the same AORs, and gives the same files.

While AORs are measured again (`begin_replace`) lengths do not change, so a reader sees each
lightcurve either with the old or with the new values of these AORs, old ones in one object and new
ones in another until all shards are rewritten; zero points and statistics follow with the commit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.store.arrays import (
    ArraySpec,
    array_json,
    encode_array,
    group_json,
    json_bytes,
    read_array,
)
from idfzarr.store.layout import capacity_for
from idfzarr.store.ledger import LEDGER_SUFFIX, read_ledger
from idfzarr.store.merging import known_spec, refuse_cast, with_columns
from idfzarr.store.place import locked
from idfzarr.store.plan import STAGING_AORS
from idfzarr.store.precision import kept_bits_of_shards, precision_attributes
from idfzarr.store.published import dims_of, open_published, read_shard
from idfzarr.store.root import ROOT_KEY, read_root, root_bytes, settings_digest
from idfzarr.store.root_copy import commit_root
from idfzarr.store.schema import COORDINATES, LIGHTCURVES, STAGING
from idfzarr.store.store_writer import zarr_dtype
from idfzarr.store.tables import aor_table, columns_of, position_in
from idfzarr.store.update import (
    OverlayPlace,
    Update,
    claim_update,
    next_place,
    roll_forward,
    update_under_way,
)
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.ledger import Record
    from idfzarr.store.place import Place, PlaceLike
    from idfzarr.store.published import PublishedCube
    from idfzarr.store.root import Root
    from idfzarr.store.schema import CubeSchema
    from idfzarr.store.tables import AorTable

__all__ = ["CubeAppend", "begin_append", "begin_replace"]


@dataclass(frozen=True)
class CubeAppend(CubeWriter):
    """The right to add AORs to a published cube, or to measure some of them again.

    It is used as a `CubeWriter` is: its batches count the AORs of this change only, `assemble` puts
    them beside the columns that are there, arrays are read as they will be. Make it with
    `begin_append` or `begin_replace`; `schema` is the cube as it will be.

    Parameters
    ----------
    place, uuid, created, settings_json, schema
        See `idfzarr.store.store_writer.StoreWriter`.
    before
        What the cube is now.
    columns
        Positions of this change's AORs in the cube as it will be.
    update
        The change, as the ledger has it.
    """

    before: CubeSchema = field(kw_only=True)
    columns: tuple[int, ...] = field(kw_only=True)
    update: Update = field(kw_only=True)

    @property
    def _tag(self) -> dict[str, str]:
        return {"update": self.update.token}

    @property
    def _staging_schema(self) -> CubeSchema:
        schema = self._schema
        return replace(
            schema,
            aor_names=tuple(schema.aor_names[k] for k in self.columns),
            layout=replace(schema.layout, n_aors=len(self.columns)),
        )

    @property
    def _grows(self) -> bool:
        return self._schema.layout.n_aors > self.before.layout.n_aors

    @property
    def _lengths(self) -> tuple[int, int]:
        return self.before.layout.n_aors, self._schema.layout.n_aors

    @property
    def _next(self) -> Place:
        return next_place(self.place)

    @property
    def is_committed(self) -> bool:
        """Whether readers see this change."""
        return read_root(self.place).generation >= self.update.generation

    # ---------------------------------------------------------------- shards

    def assemble(self, shard: int) -> NDArray[np.float32]:
        """Return a shard as it will be: the columns that are there, and what is staged.

        Parameters
        ----------
        shard
            Number of the shard.

        Returns
        -------
        ndarray of float32
            (row, type, value, aor), for `write_shard`. It does not matter whether the shard was
            written by this change before.

        Raises
        ------
        ChunkMissing
            A batch is not staged.
        ChunkCorrupt, ShardCorrupt
            The shard, or a staging file, is damaged.
        """
        staged = self.read_staging(shard)
        there = read_shard(self.place, self.before, shard, uuid=self.uuid)
        block = np.empty((len(there), *self._schema.layout.shape[1:]), dtype=np.float32)
        block[..., : there.shape[-1]] = there
        block[..., list(self.columns)] = staged.transpose(1, 2, 3, 0)
        return block

    def _reduced(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Round what this change measured; columns that were there keep every bit."""
        columns = list(self.columns)
        out = block.copy()
        out[..., columns] = super()._reduced(np.ascontiguousarray(block[..., columns]))
        return out

    def _put_shard(self, key: str, data: bytes, told: dict[str, Any]) -> Record:
        with locked(self.place.beside(LEDGER_SUFFIX), f"shard-{key.split('/')[2]}.lock"):
            return super()._put_shard(key, data, told)

    # ---------------------------------------------------------------- arrays

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
        """Write an array as it will be once this change is committed.

        Parameters
        ----------
        path, dims, dtype, chunks, codec, attributes
            See `CubeWriter.write_array`. An array that the store has already keeps its data type,
            chunks and codec.
        values
            Along ``aor`` either all AORs or those of this change only. What an array of the store
            holds for other AORs stays, whatever is given for them.

        Raises
        ------
        UsageError
            The shape differs, or an array of the store cannot hold these values.

        Notes
        -----
        What only lengthens an array is put in place at once, since the old root shows its old
        part; what changes values that readers see waits for the commit.
        """
        values = np.asarray(values)
        node = self._root().metadata.get(path)
        if node is None:
            grid = chunks or self._grid(dims, values.shape)
            kind = dtype or zarr_dtype(values)
            spec = ArraySpec(path, dims, kind, values.shape, grid, codec, dict(attributes or {}))
        else:
            spec = known_spec(path, node, dims=dims, attributes=attributes)
        refuse_cast(path, values, spec)
        if spec.dtype != "string":
            values = values.astype(spec.dtype)
        if "aor" in dims:
            axis = dims.index("aor")
            old = None if node is None else read_array(self.place, path, node)
            values = with_columns(
                path, values, old, axis=axis, columns=self.columns, lengths=self._lengths
            )
            spec = replace(spec, shape=values.shape)
        lengthens = node is None or (self._grows and "aor" in dims)
        for key, data in encode_array(spec, values):
            self._put(key, data, waits=not lengthens)
        self.write_json(path, array_json(spec))

    def _grid(self, dims: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the chunk shape of an array that the store does not have yet."""
        schema = self._schema
        return tuple(
            schema.chunk_length(dim) if schema.has_dim(dim) else max(1, length)
            for dim, length in zip(dims, shape, strict=True)
        )

    def _put(self, key: str, data: bytes, *, waits: bool) -> None:
        """Put a file in its place, or where it waits for the commit; nothing if it is there."""
        if self.place.size(key) == len(data) and self.place.read(key) == data:
            self._next.remove(key)
        elif waits:
            self._next.write(key, data)
        else:
            self.place.write(key, data)

    def write_json(self, path: str, document: Mapping[str, Any]) -> None:
        """Write the ``zarr.json`` of an array or a group, in place once this is committed."""
        key = f"{path}/{ROOT_KEY}"
        if path.split("/", 1)[0] == STAGING:
            self.place.write(key, json_bytes(document))
        else:
            self._next.write(key, json_bytes(document))

    def _root(self) -> Root:
        return read_root(self.place)

    def _node(self, path: str) -> dict[str, Any]:
        if self.has_changed(path):
            found: dict[str, Any] = json.loads(self._next.read(f"{path}/{ROOT_KEY}"))
            return found
        return dict(self._root().metadata[path])

    def has_changed(self, path: str) -> bool:
        """Say whether this change has written an array or a group."""
        return self._next.size(f"{path}/{ROOT_KEY}") is not None

    def has_array(self, path: str) -> bool:
        """Say whether the cube will have an array or a group of this path."""
        return self.has_changed(path) or path in self._root().metadata

    def read_array(self, path: str) -> NDArray[Any]:
        """Read an array as it will be.

        Raises
        ------
        UnknownName
            There is none of that path.
        """
        if not self.has_array(path):
            near = closest(path, self._root().metadata)
            msg = f"there is no array {path!r} in {self.place.url}{near}"
            raise UnknownName(msg)
        return read_array(OverlayPlace(self._next, self.place), path, self._node(path))

    # ---------------------------------------------------------------- publish

    def publish(self, *, complete: bool = True) -> None:
        """Commit the change: one rename of the root ``zarr.json``; then put in place what waits.

        Parameters
        ----------
        complete
            Must be true: a change cannot be half visible.

        Raises
        ------
        ChunkMissing
            A shard is not done.
        UsageError
            An array along ``aor`` has no values for the new AORs.
        """
        if not complete:
            msg = f"{self.place.url} is published; a change of it cannot be published by halves"
            raise UsageError(msg)
        root = self._root()
        if root.generation < self.update.generation:
            self._refuse_missing()
            self._write_cube_node()
            metadata = dict(root.metadata) | self._changed_metadata()
            self._refuse_short(metadata)
            ours = dict(root.ours) | {"generation": self.update.generation}
            data = root_bytes(ours, metadata, extra=root.attributes)
            commit_root(self.place, data, generation=self.update.generation)
        roll_forward(self.place)

    def _write_cube_node(self) -> None:
        """Write the metadata of ``lightcurves`` with the new length."""
        schema = self._schema
        node = self._root().metadata[LIGHTCURVES]
        attributes = dict(node["attributes"]) | {"aor_name": list(schema.aor_names)}
        if schema.precision is not None:
            counts = kept_bits_of_shards(self._noted_shards(), schema.layout)
            attributes |= precision_attributes(counts)
        told = {"shape": list(schema.layout.shape), "attributes": attributes}
        self.write_json(LIGHTCURVES, dict(node) | told)

    def _changed_metadata(self) -> dict[str, dict[str, Any]]:
        """Return the metadata that waits for the commit, and that of the groups above it."""
        found: dict[str, dict[str, Any]] = {}
        known = self._root().metadata
        for key in self._next.keys():
            path = key.removesuffix("/" + ROOT_KEY)
            if path == key:
                continue
            found[path] = json.loads(self._next.read(key))
            for end in (i for i, letter in enumerate(path) if letter == "/"):
                above = path[:end]
                if above not in known and self._next.size(f"{above}/{ROOT_KEY}") is None:
                    found.setdefault(above, group_json())
        return found

    def _refuse_short(self, metadata: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse while an array along ``aor`` lacks the new AORs; no reader could open that."""
        n_aors = self._schema.layout.n_aors
        short = [
            path
            for path, node in metadata.items()
            if "aor" in (dims := dims_of(node)) and node["shape"][dims.index("aor")] != n_aors
        ]
        if short:
            msg = (
                f"{', '.join(map(repr, short))} of {self.place.url} have no values for the new "
                "AORs; give them with the table of AORs, or write them with write_coordinate"
            )
            raise UsageError(msg)


# -------------------------------------------------------------------- begin


def begin_append(path: PlaceLike, *, aors: Any, staging_aors: int = STAGING_AORS) -> CubeAppend:
    """Begin to add AORs to a published cube, or go on with it.

    Where the cube has no room for them it is laid out anew first, with a larger capacity; see
    `idfzarr.store.relayout`.

    Parameters
    ----------
    path
        Path or place of the store.
    aors
        Table of the new AORs, as `CubeWriter.lay_out` takes it.
    staging_aors
        AORs in a batch of staging.

    Returns
    -------
    CubeAppend
        Its batches count the new AORs from 0, in the order of the table.

    Raises
    ------
    UsageError
        The table cannot be used, or an AOR is in the cube already.
    SettingsDiffer
        A change of other AORs is under way.
    StoreError
        The store cannot be opened.
    """
    cube = _laid_out(open_published(path))
    table = aor_table(aors, cube.schema.channels)
    _refuse_present(cube, table)
    n_before, n_new = cube.schema.layout.n_aors, len(table.reqkeys)
    if n_before + n_new > cube.schema.layout.capacity:
        cube = _with_room(cube, n_before + n_new)
    update = claim_update(
        cube.place,
        cube.root,
        "append",
        digest=_digest("append", table.reqkeys, n_before),
        names=table.names,
        aors=table.reqkeys.tolist(),
        staging_aors=staging_aors,
    )
    schema = replace(
        cube.schema,
        aor_names=(*cube.schema.aor_names, *table.names),
        layout=replace(cube.schema.layout, n_aors=n_before + n_new),
        staging_aors=int(update.fields["staging_aors"]),
    )
    append = CubeAppend(
        place=cube.place,
        **cube.identity,
        schema=schema,
        before=cube.schema,
        columns=tuple(range(n_before, n_before + n_new)),
        update=update,
    )
    _lengthen(append, cube, table)
    return append


def begin_replace(path: PlaceLike, *, aors: Any, staging_aors: int = STAGING_AORS) -> CubeAppend:
    """Begin to measure AORs of a published cube again, or go on with it.

    Parameters
    ----------
    path
        Path or place of the store.
    aors
        Reqkeys, or a table with ``aor``; with further columns (``mjd`` among them) these replace
        what the cube has for these AORs.
    staging_aors
        AORs in a batch of staging.

    Returns
    -------
    CubeAppend
        Its batches count these AORs from 0, in the order given.

    Raises
    ------
    UnknownName
        An AOR is not in the cube.
    UsageError
        The table cannot be used.
    SettingsDiffer
        Another change is under way.
    """
    cube = open_published(path)
    given = columns_of(aors if hasattr(aors, "keys") or hasattr(aors, "columns") else {"aor": aors})
    described = not given.keys() <= {"aor", "aor_name"}
    table = aor_table(given if described else _with_times(given), cube.schema.channels)
    positions = {int(key): k for k, key in enumerate(cube.coordinates["aor"])}
    columns = tuple(
        position_in(positions, int(key), what="AOR", where=cube.place.url) for key in table.reqkeys
    )
    _refuse_none(table)
    update = claim_update(
        cube.place,
        cube.root,
        "replace",
        digest=_digest("replace", table.reqkeys, cube.schema.layout.n_aors),
        names=tuple(cube.schema.aor_names[k] for k in columns),
        aors=table.reqkeys.tolist(),
        staging_aors=staging_aors,
    )
    append = CubeAppend(
        place=cube.place,
        **cube.identity,
        schema=replace(cube.schema, staging_aors=int(update.fields["staging_aors"])),
        before=cube.schema,
        columns=columns,
        update=update,
    )
    if described:
        for name, values in table.columns.items():
            dims = ("aor", "channel")[: values.ndim]
            append.write_coordinate(name, values, dims=None if name in COORDINATES else dims)
    return append


def _with_times(given: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Add the times that a table of AORs needs, where those of the cube stay."""
    return given | {"mjd": np.zeros(len(given.get("aor", ())))}


def _digest(kind: str, reqkeys: NDArray[np.int64], n_before: int) -> str:
    return settings_digest({"kind": kind, "aors": reqkeys.tolist(), "n_before": n_before})


def _refuse_none(table: AorTable) -> None:
    if not len(table.reqkeys):
        msg = "the table of AORs is empty; give one AOR at least"
        raise UsageError(msg)


def _refuse_present(cube: PublishedCube, table: AorTable) -> None:
    _refuse_none(table)
    keys, names = {int(k) for k in cube.coordinates["aor"]}, set(cube.schema.aor_names)
    twice = [
        name
        for key, name in zip(table.reqkeys, table.names, strict=True)
        if int(key) in keys or name in names
    ]
    if twice:
        msg = (
            f"{len(twice)} of the {len(table.names)} AORs are in {cube.place.url} already "
            f"({', '.join(twice[:5])}{', ...' if len(twice) > 5 else ''}); leave them out, or "
            "replace them to have them measured again"
        )
        raise UsageError(msg)
    if len(set(table.names)) < len(table.names):
        msg = "the names of the new AORs must differ from one another"
        raise UsageError(msg)


def _laid_out(cube: PublishedCube) -> PublishedCube:
    """Finish a relayout for growth that was stopped; it needs nothing but the cube."""
    from idfzarr.store.relayout import relayout

    state = read_ledger(cube.place).for_store(cube.root.uuid)
    update = update_under_way(state, cube.root)
    if update is None or update.kind != "relayout" or update.fields["types"]:
        return cube
    relayout(cube.place, capacity=int(update.fields["capacity"]))
    return open_published(cube.place)


def _with_room(cube: PublishedCube, n_aors: int) -> PublishedCube:
    from idfzarr.store.relayout import relayout

    relayout(cube.place, capacity=capacity_for(n_aors))
    return open_published(cube.place)


def _lengthen(append: CubeAppend, cube: PublishedCube, table: AorTable) -> None:
    """Give every array along ``aor`` its new AORs: from the table, else NaN or no text.

    What whole numbers or booleans stand for cannot be guessed: `CubeAppend.publish` asks for them.
    """
    given = table.columns | {"aor": table.reqkeys, "aor_name": np.array(table.names, dtype=str)}
    for path in cube.arrays_along("aor"):
        dims = dims_of(cube.root.metadata[path])
        if path in given:
            append.write_array(path, given[path], dims=dims)
            continue
        node = cube.root.metadata[path]
        shape = [
            len(table.reqkeys) if d == "aor" else n
            for d, n in zip(dims, node["shape"], strict=True)
        ]
        if not append.has_changed(path) and node["data_type"] in {"float32", "float64", "string"}:
            unknown = "" if node["data_type"] == "string" else np.nan
            append.write_array(path, np.full(shape, unknown), dims=dims)
    for name in given.keys() - cube.root.metadata.keys():
        values = given[name]
        dims = ("aor", "channel")[: values.ndim]
        append.write_coordinate(name, values, dims=None if name in COORDINATES else dims)
