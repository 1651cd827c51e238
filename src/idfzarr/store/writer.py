"""Write a cube: begin, lay out, stage, assemble, publish.

A `CubeWriter` is a small frozen value that can be sent to any thread or process. A task owns what
it writes: a batch of AORs its staging file, a shard task its shard. Every step can be repeated, and
the ledger beside the store says which are done. Until `CubeWriter.publish` has renamed the root
``zarr.json`` into place, no reader takes the store for finished.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from idfzarr.errors import ChunkMissing, MetadataCorrupt, SettingsDiffer, UsageError
from idfzarr.store.arrays import group_json, json_bytes
from idfzarr.store.checksum import crc32c
from idfzarr.store.layout import SHARD_OBJECTS
from idfzarr.store.plan import STAGING_AORS, plan_cube
from idfzarr.store.precision import (
    count_kept_bits,
    kept_bits_of_shards,
    precision_attributes,
)
from idfzarr.store.root import (
    ROOT_KEY,
    gather_metadata,
    read_root,
    root_bytes,
    settings_digest,
    software,
)
from idfzarr.store.root_copy import commit_root
from idfzarr.store.schema import (
    CATALOGUE,
    COORDINATES,
    FLUX,
    FLUX_ERR,
    FORMAT,
    LIGHTCURVES,
    STAGING,
    VALUES,
    lightcurves_json,
    staging_json,
)
from idfzarr.store.shard import encode_shard, reduce_precision
from idfzarr.store.staging import (
    batch_aors,
    encode_staging,
    n_batches,
    read_staging,
    staging_key,
)
from idfzarr.store.store_writer import StoreWriter
from idfzarr.store.update import is_being_updated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.store.ledger import Record
    from idfzarr.store.plan import CubePlan
    from idfzarr.store.root import Root
    from idfzarr.store.schema import CubeSchema

__all__ = ["CubeWriter"]


@dataclass(frozen=True)
class CubeWriter(StoreWriter):
    """The right to write one cube; `begin` makes it, `lay_out` says what the cube is."""

    # ---------------------------------------------------------------- lay out

    def lay_out(
        self,
        *,
        objects: Any,
        types: Any,
        aors: Any,
        channels: Sequence[str] | None = None,
        codec: str = "lz4",
        precision: float | None = None,
        shard_objects: int = SHARD_OBJECTS,
        capacity: int | None = None,
        staging_aors: int = STAGING_AORS,
    ) -> Self:
        """Say what the cube is: write its coordinates and the metadata of ``lightcurves``.

        Parameters
        ----------
        objects
            Table with ``object_id`` and, where known, ``ra``, ``dec``, ``x``, ``y``; all columns go
            to the catalogue.
        types
            Names, measurements, or a table with ``type``, ``unit``, ``radius_arcsec``, ...
        aors
            Table with ``aor``, ``mjd`` and, where known, ``aor_name``, ``exptime``, ``dx``, ``dy``.
        channels
            Names of the channels; those of the types unless given.
        codec
            ``lz4``, ``zstd`` or ``none``.
        precision
            Round flux to this fraction of its error bar; None for lossless.
        shard_objects
            Objects in a shard.
        capacity
            Chunk length along ``aor``; the number of AORs with room to grow unless given.
        staging_aors
            AORs in a batch of `write_staging`.

        Returns
        -------
        CubeWriter
            With a schema. Calling it again with the same writes the same bytes.

        Raises
        ------
        UsageError
            A table cannot be used.
        SettingsDiffer
            The store was laid out with other objects, types or AORs, and is not empty.
        """
        plan = plan_cube(
            objects=objects,
            types=types,
            aors=aors,
            channels=channels,
            codec=codec,
            precision=precision,
            shard_objects=shard_objects,
            capacity=capacity,
            staging_aors=staging_aors,
        )
        writer = replace(self, schema=plan.schema)
        _claim_layout(writer, plan)
        _write_layout(writer, plan)
        return writer

    # ---------------------------------------------------------------- staging

    @property
    def _staging_schema(self) -> CubeSchema:
        """What staging holds: the whole cube, or what a change adds to it."""
        return self._schema

    @property
    def _tag(self) -> dict[str, str]:
        """What lines of the ledger carry besides, so that a change knows its own."""
        return {}

    @property
    def n_batches(self) -> int:
        """How many batches of AORs `write_staging` takes."""
        return n_batches(self._staging_schema)

    def batch_aors(self, batch: int) -> tuple[int, int]:
        """Return the first AOR of a batch and the one after its last, as positions."""
        return batch_aors(self._staging_schema, batch)

    def write_staging(
        self,
        batch: int,
        block: NDArray[np.float32],
        *,
        sources: Sequence[Mapping[str, Any]] = (),
    ) -> Record:
        """Write the measurements of one batch of AORs, all objects and types.

        Parameters
        ----------
        batch
            Which, see `batch_aors`.
        block
            (aor, object, type, value) float32.
        sources
            What it was measured from: path, size and sha256 of every file, for the ledger.

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
        first, last = self.batch_aors(batch)
        schema = self._staging_schema
        layout = schema.layout
        wanted = (last - first, layout.n_objects, layout.n_types, len(VALUES))
        if block.shape != wanted:
            msg = f"batch {batch} of the staging has shape {wanted}, not {block.shape}"
            raise UsageError(msg)
        if self.place.size(f"{STAGING}/{ROOT_KEY}") is None:
            self.write_json(STAGING, staging_json(schema))
        data = encode_staging(schema, block)
        key = staging_key(batch)
        self.place.write(key, data)
        aors = list(schema.aor_names[first:last])
        return self.ledger.append(
            "staged",
            batch=batch,
            key=key,
            size=len(data),
            crc32c=crc32c(data),
            crc32=zlib.crc32(data),
            aors=aors,
            sources=list(map(dict, sources)),
            **self._tag,
        )

    def staged(self, *, verify: bool = False) -> set[int]:
        """Return the batches that are staged: in the ledger, and there in the right size.

        Parameters
        ----------
        verify
            Also compare the checksums of the files.
        """
        records = self.state().staged
        return {
            batch
            for batch, record in records.items()
            if self._is_ours(record.fields) and self._matches(record.fields, verify=verify)
        }

    def _is_ours(self, noted: Mapping[str, Any]) -> bool:
        return all(noted.get(name) == value for name, value in self._tag.items())

    def read_staging(self, shard: int) -> NDArray[np.float32]:
        """Read what is staged for one shard.

        Parameters
        ----------
        shard
            Number of the shard.

        Returns
        -------
        ndarray of float32
            (aor, row, type, value), the rows that exist.

        Raises
        ------
        ChunkMissing
            A batch is not staged.
        ChunkCorrupt, ShardCorrupt
            A staging file is damaged; stage the batch again.
        """
        return read_staging(self.place, self._staging_schema, shard)

    def assemble(self, shard: int) -> NDArray[np.float32]:
        """Return what is staged for one shard, turned as the cube wants it.

        Parameters
        ----------
        shard
            Number of the shard.

        Returns
        -------
        ndarray of float32
            (row, type, value, aor), for `write_shard`.
        """
        return np.ascontiguousarray(self.read_staging(shard).transpose(1, 2, 3, 0))

    def remove_staging(self) -> None:
        """Remove the staging files of a build, and say so in the ledger."""
        if is_being_updated(self.place):
            return  # what is staged there belongs to a change of the published store
        if self.place.size(f"{STAGING}/{ROOT_KEY}") is not None:
            self.place.remove_tree(STAGING)
            self.ledger.append("removed", prefix=STAGING)

    # ---------------------------------------------------------------- shards

    def write_shard(self, shard: int, block: NDArray[np.float32]) -> Record:
        """Write one shard, whole: ``intent`` to the ledger, the file, ``done`` to the ledger.

        Parameters
        ----------
        shard
            Number of the shard.
        block
            (row, type, value, aor) float32, the rows that exist.

        Returns
        -------
        Record
            The ledger's ``done``.

        Raises
        ------
        UsageError
            The block has another shape.
        StorageFull
            The disk or the quota is full; a shard that stood there before still stands.
        """
        schema = self._schema
        first, last = schema.layout.rows(shard)
        if block.shape != (last - first, *schema.layout.shape[1:]):
            msg = (
                f"shard {shard} has shape {(last - first, *schema.layout.shape[1:])}, not "
                f"{block.shape}"
            )
            raise UsageError(msg)
        reduced = self._reduced(block)
        data = encode_shard(reduced, schema.layout, codec=schema.codec)
        key = schema.layout.key(shard)
        told: dict[str, Any] = {
            "key": key,
            "size": len(data),
            "crc32c": crc32c(data),
            # Parts that end in their own crc32c leave that of the file as it was when they are
            # exchanged for others of their length; another polynomial tells them apart.
            "crc32": zlib.crc32(data),
            "aors": schema.layout.n_aors,
        }
        if schema.precision is not None:
            flux, error = reduced[:, :, FLUX], reduced[:, :, FLUX_ERR]
            told["flux_bits_kept"] = count_kept_bits(flux, error, schema.precision)
        return self._put_shard(key, data, told | self._tag)

    def _put_shard(self, key: str, data: bytes, told: dict[str, Any]) -> Record:
        self.ledger.append("intent", **told)
        self.place.write(key, data)
        return self.ledger.append("done", **told)

    def _reduced(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._schema.precision is None:
            return block
        out = block.copy()
        out[:, :, FLUX], out[:, :, FLUX_ERR] = reduce_precision(
            block[:, :, FLUX], block[:, :, FLUX_ERR], self._schema.precision
        )
        return out

    def done(self, *, verify: bool = False) -> set[int]:
        """Return the shards that are done: in the ledger, and there in the right size.

        Parameters
        ----------
        verify
            Also compare the checksums of the files.
        """
        layout = self._schema.layout
        keys = {layout.key(k): k for k in range(layout.n_shards)}
        return {
            keys[key]
            for key, noted in self._noted_shards().items()
            if key in keys
            and self._is_ours(noted)
            and noted.get("aors") == layout.n_aors
            and self._matches(noted, verify=verify)
        }

    def _noted_shards(self) -> dict[str, Mapping[str, Any]]:
        """Return what the ledger notes of the writing of every shard, by key."""
        return {key: record.fields for key, record in self.state().done.items()}

    def _matches(self, noted: Mapping[str, Any], *, verify: bool) -> bool:
        key = str(noted["key"])
        if self.place.size(key) != noted["size"]:
            return False
        if not verify:
            return True
        data = self.place.read(key)
        return crc32c(data) == noted["crc32c"] and noted.get("crc32") in {None, zlib.crc32(data)}

    # ---------------------------------------------------------------- publish

    def publish(self, *, complete: bool = True) -> None:
        """Make the store visible: one rename of the root ``zarr.json``. Staging goes after it.

        Parameters
        ----------
        complete
            Refuse while shards are missing.

        Raises
        ------
        ChunkMissing
            A shard is not done.
        """
        if complete:
            self._refuse_missing()
        before = read_root(self.place) if self.is_published else None
        if before is not None:
            self._refuse_altered(before)
        self._record_precision()
        metadata = gather_metadata(self.place)
        for path, node in metadata.items():
            if node["node_type"] == "group" and not self.has_array(path):
                self.write_group(path, {})
        ours = self._ours()
        if before is not None:
            ours |= {k: before.ours[k] for k in ("ps1", "generation") if k in before.ours}
        extra = before.attributes if before else {}  # what a user noted on the root stays
        data = root_bytes(ours, metadata, extra=extra)
        commit_root(self.place, data, generation=int(ours.get("generation", 0)))
        self.ledger.append("published", shape=self._schema.layout.shape)
        self.remove_staging()

    def write_json(self, path: str, document: Mapping[str, Any]) -> None:
        """Write the ``zarr.json`` of an array or a group; of a published store, the ledger knows.

        The note comes first: `publish` takes over what differs from the root only where a writer
        said that it would.
        """
        if path != STAGING and self.is_published:
            told = {"metadata": path, "crc32c": crc32c(json_bytes(document))}
            self.ledger.append("note", **told)
        super().write_json(path, document)

    def _refuse_altered(self, before: Root) -> None:
        """Refuse to take over metadata that differs from the root's and that no writer wrote."""
        noted = {
            (str(record.fields["metadata"]), record.fields.get("crc32c"))
            for record in self.state().of("note")
            if "metadata" in record.fields
        }
        for path, node in sorted(before.metadata.items()):
            key = f"{path}/{ROOT_KEY}"
            own = self.place.read(key) if self.place.size(key) is not None else b""
            if (path, crc32c(own)) in noted or _says(own, node):
                continue
            if not own and node == group_json():
                continue  # a group that needs no file of its own
            msg = (
                f"{self.place.url}/{key} {'differs from' if own else 'is gone, but stands in'} the "
                "root's copy of it, and no writer of idfzarr wrote it so; repair the store"
            )
            raise MetadataCorrupt(msg)

    def _refuse_missing(self) -> None:
        layout = self._schema.layout
        missing = sorted(set(range(layout.n_shards)) - self.done())
        if missing:
            named = ", ".join(layout.key(k) for k in missing[:5])
            msg = (
                f"{len(missing)} of {layout.n_shards} shards of {self.place.url} are not written "
                f"({named}{', ...' if len(missing) > 5 else ''}); run the build again"
            )
            raise ChunkMissing(msg)

    def _record_precision(self) -> None:
        """Write into the cube's attributes how many bits of its fluxes were kept."""
        if self._schema.precision is None:
            return
        document = self._node(LIGHTCURVES)
        counts = kept_bits_of_shards(self._noted_shards(), self._schema.layout)
        attributes = dict(document["attributes"]) | precision_attributes(counts)
        self.write_json(LIGHTCURVES, document | {"attributes": attributes})

    def _node(self, path: str) -> dict[str, Any]:
        """Return the metadata of an array as this writer sees it."""
        found: dict[str, Any] = json.loads(self.place.read(f"{path}/{ROOT_KEY}"))
        return found

    def _ours(self) -> dict[str, Any]:
        settings = json.loads(self.settings_json)
        return {
            "format": FORMAT,
            "uuid": self.uuid,
            "created": self.created,
            "software": software(),
            "settings": settings,
            "settings_digest": settings_digest(settings),
            "ps1": None,
        }


def _says(data: bytes, node: Mapping[str, Any]) -> bool:
    """Say whether the bytes of a ``zarr.json`` say what a node does, however it is spelled."""
    try:
        return bool(json.loads(data) == node)
    except (ValueError, RecursionError):
        return False


def _claim_layout(writer: StoreWriter, plan: CubePlan) -> None:
    """Record the layout, and refuse another one than what is written was made with."""
    state = writer.state()
    before = state.last("laid_out")
    if before is not None and before.fields.get("digest") == plan.digest:
        return
    if state.staged or state.done:
        msg = (
            f"{writer.place.url} was laid out with other objects, types or AORs than now, and "
            "measurements are written already; build into a new store, or remove this one"
        )
        raise SettingsDiffer(msg)
    if before is not None:
        # Arrays of the other layout would be published with this one.
        for top in sorted({key.split("/")[0] for key in writer.place.keys()} - {"images"}):
            writer.place.remove_tree(top)
    writer.ledger.append("laid_out", digest=plan.digest, shape=plan.schema.layout.shape)


def _write_layout(writer: StoreWriter, plan: CubePlan) -> None:
    """Write the coordinates, the catalogue, and the metadata of the cube."""
    schema, table, named, times = plan.schema, plan.objects, plan.types, plan.aors
    units = tuple(str(u) for u in named.columns["unit"])
    writer.write_json(LIGHTCURVES, lightcurves_json(schema, units))
    writer.write_coordinate("object", table.ids)
    writer.write_coordinate("type", np.array(schema.types))
    writer.write_coordinate("value", np.array(VALUES))
    writer.write_coordinate("aor", times.reqkeys)
    writer.write_coordinate("aor_name", np.array(times.names, dtype=str))
    writer.write_coordinate("channel", np.array(schema.channels))
    for name, values in (table.positions | named.columns | times.columns).items():
        dims = ("aor", "channel")[: values.ndim]
        writer.write_coordinate(name, values, dims=None if name in COORDINATES else dims)
    writer.write_table(CATALOGUE, table.columns)
