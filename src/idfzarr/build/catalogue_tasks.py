"""The tasks of an import: a batch of AORs into staging, a shard, a shard's signals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.catalogue_columns import measure_catalogue
from idfzarr.build.catalogue_objects import ids_of, match_ids, match_sky, positions_of
from idfzarr.build.catalogues import read_catalogue
from idfzarr.build.measure import unobserved
from idfzarr.errors import BuildFailed, SettingsDiffer
from idfzarr.flags import BAD_FLAGS
from idfzarr.imaging.fits_image import source_digest
from idfzarr.imaging.robust import median_rows
from idfzarr.measurement import parse_measurement
from idfzarr.store.cube import flags_of
from idfzarr.store.shard import decode_shard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.build.catalogue_columns import Columns
    from idfzarr.build.catalogue_objects import ObjectList
    from idfzarr.build.catalogue_survey import Reading
    from idfzarr.build.catalogues import TableFile
    from idfzarr.store.schema import CubeSchema
    from idfzarr.store.writer import CubeWriter

__all__ = ["TableInput", "assemble_shard", "shard_signal", "stage_batch", "writer_schema"]


def writer_schema(writer: CubeWriter) -> CubeSchema:
    """Return the schema of a writer; raises `BuildFailed` before it was laid out."""
    if writer.schema is None:
        msg = f"{writer.place.url} has no layout yet"
        raise BuildFailed(msg)
    return writer.schema


@dataclass(frozen=True)
class TableInput:
    """A table, the place of its AOR in the cube, its columns, and the bytes it must have."""

    position: int
    file: TableFile
    types: dict[str, Columns]
    source: dict[str, Any]


def stage_batch(
    writer: CubeWriter,
    batch: int,
    inputs: Sequence[TableInput],
    objects: ObjectList,
    reading: Reading,
) -> None:
    """Import the tables of one batch of AORs; the task owns the batch's staging file."""
    schema = writer_schema(writer)
    first, last = writer.batch_aors(batch)
    block = unobserved((last - first, len(objects), len(schema.types), 3))
    sources = []
    for table in inputs:
        told = _import_table(block[table.position - first], table, objects, reading, schema.types)
        sources.append(told)
    writer.write_staging(batch, block, sources=sources)


def _import_table(
    block: NDArray[np.float32],
    table: TableInput,
    objects: ObjectList,
    reading: Reading,
    types: Sequence[str],
) -> dict[str, Any]:
    """Put one table's measurements into its AOR's block (object, type, value)."""
    size, sha256 = source_digest(table.file.path)
    if sha256 != table.source["sha256"]:
        msg = f"{table.file.path} changed while it was imported; run the same command again"
        raise SettingsDiffer(msg)
    catalogue = read_catalogue(table.file.path)
    measured = measure_catalogue(catalogue, table.types, reading.scale)
    if reading.by_sky:
        ra, dec, _, _ = positions_of(catalogue)
        at = match_sky(objects.ra, objects.dec, ra, dec, radius=reading.radius)
    else:
        order = np.argsort(objects.ids, kind="stable")
        found = match_ids(objects.ids[order], ids_of(catalogue, reading.object_id))
        at = np.where(found >= 0, order[found], -1)
    rows = np.flatnonzero(at >= 0)
    place = np.array([types.index(name) for name in measured.types])
    block[at[rows][:, None], place[None, :]] = measured.values[rows]
    return {
        "aor": table.file.aor,
        "channel": table.file.channel,
        "image": table.file.image,
        "files": [{"path": str(table.file.path), "size": size, "sha256": sha256}],
        "n_rows": len(catalogue),
        "n_unmatched": len(catalogue) - len(rows),
    }


def assemble_shard(writer: CubeWriter, shard: int) -> None:
    """Turn one shard's staging into the shard; the task owns the shard's file."""
    writer.write_shard(shard, writer.assemble(shard))


def shard_signal(writer: CubeWriter, shard: int) -> NDArray[np.float64]:
    """Return the S/N in one AOR of each row in each channel: the median of flux / flux_err.

    Of the channel's first type, which is ``auto`` where there is one; and in how many AORs the row
    has a flux, as the last column.
    """
    schema = writer_schema(writer)
    layout = schema.layout
    first, last = layout.rows(shard)
    key = layout.key(shard)
    block = decode_shard(
        writer.place.read(key),
        layout,
        last - first,
        codec=schema.codec,
        where=f"{writer.place.url}/{key}",
    )
    found = np.full((last - first, len(schema.channels) + 1), np.nan)
    for c, channel in enumerate(schema.channels):
        flux, error, flag = (block[:, _first_type(schema, channel), v] for v in range(3))
        good = np.isfinite(flux) & (error > 0) & ((flags_of(flag) & BAD_FLAGS) == 0)
        ratio = np.where(good, flux, np.nan).astype(np.float64) / np.where(good, error, 1.0)
        found[:, c] = median_rows(ratio)
    found[:, -1] = np.isfinite(block[:, :, 0]).any(axis=1).sum(axis=1)
    return found


def _first_type(schema: CubeSchema, channel: str) -> int:
    own = [k for k, name in enumerate(schema.types) if parse_measurement(name).channel == channel]
    auto = [k for k in own if parse_measurement(schema.types[k]).method == "auto"]
    return (auto or own)[0]
