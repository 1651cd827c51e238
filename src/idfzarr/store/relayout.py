"""Lay a published cube out anew: with room for more AORs, or with more measurement types.

Chunks change their shape, so no file of the old layout can become one of the new in place. A
complete tree is written beside the store, shard by shard, and exchanged for it in one step (see
`idfzarr.store.exchange`). Stopped anywhere, it leaves the old store or the new one, and goes on
where it was. It takes the disk space of the store once more, and the memory of one shard.

A reader that had the store open goes on with the values it knows; `Cube.refresh` shows the new
types and AORs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import ForeignStore, UsageError
from idfzarr.progress import Progress, silent
from idfzarr.store.arrays import array_json, encode_array, parse_array, read_array
from idfzarr.store.exchange import (
    exchange,
    is_reencoded,
    owner_of,
    relaid_place,
    settle_exchange,
)
from idfzarr.store.layout import capacity_for
from idfzarr.store.ledger import Ledger, read_ledger
from idfzarr.store.place import place_of
from idfzarr.store.plan import STAGING_AORS
from idfzarr.store.published import dims_of, open_published, read_shard
from idfzarr.store.root import ROOT_KEY, gather_metadata, read_root, root_bytes, settings_digest
from idfzarr.store.root_copy import keep_copy, remove_older
from idfzarr.store.schema import LIGHTCURVES, STAGING, lightcurves_json
from idfzarr.store.tables import type_table
from idfzarr.store.update import (
    Update,
    claim_update,
    mark_update,
    marked_token,
    update_under_way,
)
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.store.ledger import Record
    from idfzarr.store.place import LocalPlace, Place, PlaceLike
    from idfzarr.store.published import PublishedCube
    from idfzarr.store.schema import CubeSchema
    from idfzarr.store.tables import TypeTable

__all__ = ["CubeRelayout", "abandon_update", "begin_relayout", "relayout"]


@dataclass(frozen=True)
class CubeRelayout(CubeWriter):
    """The right to lay a published cube out anew; make it with `begin_relayout`.

    It is used as a `CubeWriter` is. ``place`` is the new tree; batches count all AORs and hold the
    new types; `assemble` puts them beside the types that are there.

    Parameters
    ----------
    place, uuid, created, settings_json, schema
        See `idfzarr.store.store_writer.StoreWriter`.
    source
        The store.
    before
        What the cube is now.
    update
        The change, as the ledger has it.
    """

    source: Place = field(kw_only=True)
    before: CubeSchema = field(kw_only=True)
    update: Update = field(kw_only=True)

    @property
    def home(self) -> Place:
        """The store that the ledger lies beside."""
        return self.source

    @property
    def _tag(self) -> dict[str, str]:
        return {"update": self.update.token}

    @property
    def layout_schema(self) -> CubeSchema:
        """What the cube will be."""
        return self._schema

    @property
    def new_types(self) -> tuple[str, ...]:
        """Names of the types that the cube does not have yet."""
        return self._schema.types[len(self.before.types) :]

    @property
    def is_committed(self) -> bool:
        """Whether readers see this change."""
        return read_root(self.source).generation >= self.update.generation

    # ---------------------------------------------------------------- staging

    @property
    def _staging_schema(self) -> CubeSchema:
        names = self.new_types or self._schema.types
        layout = replace(self._schema.layout, n_types=len(names))
        return replace(self._schema, types=names, layout=layout)

    @property
    def n_batches(self) -> int:
        """How many batches of AORs `write_staging` takes: none where no type is new."""
        return super().n_batches if self.new_types else 0

    def write_staging(
        self,
        batch: int,
        block: NDArray[np.float32],
        *,
        sources: Sequence[Mapping[str, Any]] = (),
    ) -> Record:
        """Write the measurements of one batch of AORs, all objects.

        Parameters
        ----------
        batch
            Which, see `batch_aors`.
        block
            (aor, object, type, value) float32: the new types, or all of them, of which the new
            ones are kept.
        sources
            What it was measured from, for the ledger.

        Returns
        -------
        Record
            The ledger's line.

        Raises
        ------
        UsageError
            The block has another shape.
        StorageFull
            The disk or the quota is full.
        """
        n_all, n_new = len(self._schema.types), len(self.new_types)
        if block.ndim == len(self._schema.layout.shape) and block.shape[2] == n_all != n_new:
            block = block[:, :, n_all - n_new :]
        return super().write_staging(batch, block, sources=sources)

    # ---------------------------------------------------------------- shards

    def assemble(self, shard: int) -> NDArray[np.float32]:
        """Return a shard as it will be: the types that are there, and what is staged.

        Parameters
        ----------
        shard
            Number of the shard.

        Returns
        -------
        ndarray of float32
            (row, type, value, aor), for `write_shard`.

        Raises
        ------
        ChunkMissing
            A batch is not staged.
        ChunkCorrupt, ShardCorrupt
            The shard, or a staging file, is damaged.
        """
        there = read_shard(self.source, self.before, shard, uuid=self.uuid)
        if not self.new_types:
            return there
        staged = self.read_staging(shard).transpose(1, 2, 3, 0)
        return np.concatenate([there, staged], axis=1)

    def _reduced(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Round what is new; types that were there keep every bit."""
        n_before = len(self.before.types)
        out = block.copy()
        out[:, n_before:] = super()._reduced(block[:, n_before:])
        return out

    def _put_shard(self, key: str, data: bytes, told: dict[str, Any]) -> Record:
        # Not ``done``: in the store that the ledger speaks of, another shard stands there as yet.
        self.place.write(key, data)
        return self.ledger.append("relaid", **told)

    def _noted_shards(self) -> dict[str, Mapping[str, Any]]:
        return self.state().relaid(self.update.token)

    # ---------------------------------------------------------------- publish

    def publish(self, *, complete: bool = True) -> None:
        """Exchange the store for the new tree, and tidy up.

        Parameters
        ----------
        complete
            Must be true: a layout cannot be half visible.

        Raises
        ------
        ChunkMissing
            A shard is not done.
        UsageError
            An array along ``type`` has no values for the new types.
        """
        if not complete:
            msg = f"{self.source.url} is published; it cannot be laid out anew by halves"
            raise UsageError(msg)
        root = read_root(self.source)
        if root.generation < self.update.generation:
            self._refuse_missing()
            self._record_precision()
            # What somebody added and the root does not know stays so.
            strays = gather_metadata(self.source).keys() - root.metadata.keys()
            metadata = {k: v for k, v in gather_metadata(self.place).items() if k not in strays}
            self._refuse_short(metadata, root.metadata)
            ours = dict(root.ours) | {"generation": self.update.generation}
            data = root_bytes(ours, metadata, extra=root.attributes)
            self.place.write(ROOT_KEY, data)
            self.ledger.append_all("intent", self._noted_shards().values())
            keep_copy(self.source, data, generation=self.update.generation)
            exchange(self.source)
            remove_older(self.source, generation=self.update.generation)
        settle_exchange(self.source)

    def _refuse_short(
        self,
        metadata: Mapping[str, Mapping[str, Any]],
        before: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """Refuse while an array lacks the new types, or is not in the new tree at all."""
        short = sorted(before.keys() - metadata.keys()) + [
            path
            for path, node in metadata.items()
            for dim, length in zip(dims_of(node), node.get("shape", ()), strict=False)
            if dim in {"type", "aor"} and length != self._schema.length(dim)
        ]
        if short:
            msg = (
                f"{', '.join(map(repr, short))} of {self.source.url} have no values for the new "
                "types; write them before publishing"
            )
            raise UsageError(msg)


# -------------------------------------------------------------------- begin


def begin_relayout(
    path: PlaceLike,
    *,
    capacity: int | None = None,
    types: Any = None,
    staging_aors: int = STAGING_AORS,
) -> CubeRelayout:
    """Begin to lay a published cube out anew, or go on with it.

    Parameters
    ----------
    path
        Path or place of the store, on a local disk.
    capacity
        Chunk length along ``aor``; as it is where types are added, else with room to grow.
    types
        Types to add, as `CubeWriter.lay_out` takes them: names, or a table.
    staging_aors
        AORs in a batch of staging.

    Returns
    -------
    CubeRelayout
        All arrays besides the cube are in the new tree already; what stands along ``type`` is NaN
        or no text for the new ones, but for what the table says of them.

    Raises
    ------
    UsageError
        A type is there already, the capacity is too small, or the store is on object storage.
    SettingsDiffer
        Another change is under way.
    ForeignStore
        Something else stands where the new tree must be.
    """
    cube = open_published(path)
    place = relaid_place(cube.place)
    named = None if types is None else _new_types(cube, types)
    schema = _schema_of_relayout(cube, named, capacity)
    told = {"capacity": schema.layout.capacity, "types": list(named.names if named else ())}
    update = claim_update(
        cube.place,
        cube.root,
        "relayout",
        digest=settings_digest({"kind": "relayout", "aors": schema.layout.n_aors} | told),
        names=(f"capacity {schema.layout.capacity}", *(named.names if named else ())),
        staging_aors=staging_aors,
        **told,
    )
    _claim_tree(place, cube, update)
    writer = CubeRelayout(
        place=place,
        **cube.identity,
        schema=replace(schema, staging_aors=int(update.fields["staging_aors"])),
        source=cube.place,
        before=cube.schema,
        update=update,
    )
    _copy_files(writer, cube)
    _reencode(writer, cube, named)
    return writer


def relayout(path: PlaceLike, *, capacity: int | None = None, progress: Progress = silent) -> None:
    """Lay a published cube out anew with another capacity, or go on with it.

    Parameters
    ----------
    path
        Path or place of the store, on a local disk.
    capacity
        Chunk length along ``aor``; the number of AORs with room to grow unless given.
    progress
        Told how many shards are written.

    Raises
    ------
    UsageError, SettingsDiffer, ForeignStore
        See `begin_relayout`.
    StorageFull
        There is no room for the store a second time.
    """
    writer = begin_relayout(path, capacity=capacity)
    n_shards = writer.before.layout.n_shards
    done = writer.done()
    for shard in range(n_shards):
        if shard not in done:
            writer.write_shard(shard, writer.assemble(shard))
        progress("laying out anew", shard + 1, n_shards)
    writer.publish()


def _new_types(cube: PublishedCube, types: Any) -> TypeTable:
    named = type_table(types, cube.schema.channels)
    twice = [name for name in named.names if name in cube.schema.types]
    if twice:
        msg = (
            f"{', '.join(map(repr, twice))} of the types are in {cube.place.url} already; leave "
            "them out"
        )
        raise UsageError(msg)
    return named


def _schema_of_relayout(
    cube: PublishedCube, named: TypeTable | None, capacity: int | None
) -> CubeSchema:
    schema = cube.schema
    if capacity is None:
        n_aors = schema.layout.n_aors
        capacity = schema.layout.capacity if named else capacity_for(n_aors)
    types = schema.types + (named.names if named else ())
    layout = replace(schema.layout, n_types=len(types), capacity=capacity)
    return replace(schema, types=types, layout=layout)


def _claim_tree(place: LocalPlace, cube: PublishedCube, update: Update) -> None:
    """Make the new tree's folder this change's; remove what another change of ours left there."""
    token = marked_token(place)
    if token == update.token:
        return
    if place.exists():
        state = read_ledger(cube.place).for_store(cube.root.uuid)
        ours = {r.fields["update"] for r in state.of("relayout")}
        if token not in ours and next(iter(place.keys()), None) is not None:
            msg = (
                f"{place.root} is needed to lay {cube.place.url} out anew, but there is something "
                "that idfzarr has not put there; move it away"
            )
            raise ForeignStore(msg)
        place.remove_tree("")
    mark_update(place, update)


def _copy_files(writer: CubeRelayout, cube: PublishedCube) -> None:
    """Copy every file that does not depend on the layout, those of others too."""
    for key in cube.place.keys():
        owner = owner_of(key)
        if key == ROOT_KEY or key.split("/")[0] == STAGING or is_reencoded(cube.root, owner):
            continue
        if writer.place.size(key) is None:
            writer.place.write(key, cube.place.read(key))


def _reencode(writer: CubeRelayout, cube: PublishedCube, named: TypeTable | None) -> None:
    """Write the arrays along ``aor`` and ``type`` in their new chunks, and the cube's metadata."""
    given: dict[str, NDArray[Any]] = {}
    if named is not None:
        given = {"type": np.array(named.names, dtype=str)} | named.columns
    for path in cube.root.metadata:
        if path != LIGHTCURVES and is_reencoded(cube.root, path) and not writer.has_array(path):
            _write_in_new_chunks(writer, cube, path, given.get(path))
    if not writer.has_array(LIGHTCURVES):
        units = tuple(str(unit) for unit in writer.read_array("unit"))
        document = lightcurves_json(writer.layout_schema, units)
        attributes = dict(cube.root.metadata[LIGHTCURVES]["attributes"])
        attributes.pop("units", None)  # one for all types, which the new ones may end
        document["attributes"] = attributes | document["attributes"]
        writer.write_json(LIGHTCURVES, document)


def _write_in_new_chunks(
    writer: CubeRelayout, cube: PublishedCube, path: str, given: NDArray[Any] | None
) -> None:
    """Write one array as it is, with the new types after the old ones where it has types.

    What whole numbers or booleans stand for cannot be guessed: `CubeRelayout.publish` asks for
    them.
    """
    spec = parse_array(path, cube.root.metadata[path])
    assert spec is not None  # noqa: S101  # is_reencoded has seen it
    values = read_array(cube.place, path, cube.root.metadata[path])
    n_new = len(writer.new_types)
    if "type" in spec.dims and n_new:
        axis = spec.dims.index("type")
        shape = [n_new if k == axis else n for k, n in enumerate(values.shape)]
        if given is None and spec.dtype not in {"float32", "float64", "string"}:
            return
        unknown: Any = "" if spec.dtype == "string" else np.nan
        added = np.full(shape, unknown) if given is None else given
        kind = str if spec.dtype == "string" else spec.dtype
        values = np.concatenate([values, added.astype(kind)], axis=axis)
    old, new = cube.schema, writer.layout_schema
    chunks = tuple(
        new.chunk_length(dim) if dim in {"aor", "type"} and n == old.chunk_length(dim) else n
        for dim, n in zip(spec.dims, spec.chunks, strict=True)
    )
    spec = replace(spec, shape=values.shape, chunks=chunks)
    for key, data in encode_array(spec, values):
        writer.place.write(key, data)
    writer.write_json(path, array_json(spec))


def abandon_update(path: PlaceLike) -> Update | None:
    """Give up an append or a relayout that was begun and is not committed.

    Parameters
    ----------
    path
        Path or place of a published store.

    Returns
    -------
    Update or None
        What was given up.

    Raises
    ------
    UsageError
        It is a replacement, which has overwritten values already.
    """
    place = place_of(path)
    settle_exchange(place)
    root = read_root(place)
    update = update_under_way(read_ledger(place).for_store(root.uuid), root)
    if update is None:
        return None
    if update.kind == "replace":
        msg = (
            f"{place.url}: the {update} may have overwritten shards, and cannot be given up; run "
            "it again, it goes on where it stopped"
        )
        raise UsageError(msg)
    if update.kind == "relayout" and marked_token(relaid_place(place)) == update.token:
        relaid_place(place).remove_tree("")
    Ledger(place, root.uuid).append("abandoned", update=update.token)
    place.remove_tree(STAGING)
    return update
