"""What a cube is to be, worked out from tables before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UsageError
from idfzarr.store.checksum import crc32c
from idfzarr.store.layout import SHARD_OBJECTS, Layout, capacity_for
from idfzarr.store.root import settings_digest
from idfzarr.store.schema import CubeSchema
from idfzarr.store.shard import checked_codec
from idfzarr.store.tables import aor_table, object_table, type_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from idfzarr.store.tables import AorTable, ObjectTable, TypeTable

__all__ = ["STAGING_AORS", "CubePlan", "plan_cube"]

STAGING_AORS = 16
"""AORs in a batch of staging unless told otherwise."""


@dataclass(frozen=True, eq=False)
class CubePlan:
    """A schema and the checked tables it comes from."""

    schema: CubeSchema
    objects: ObjectTable
    types: TypeTable
    aors: AorTable

    @property
    def digest(self) -> str:
        """Digest of what decides which number stands where."""
        layout = self.schema.layout
        told = [layout.shape, layout.capacity, layout.shard_objects, self.schema.staging_aors]
        ids = [crc32c(self.objects.ids.tobytes()), crc32c(self.aors.reqkeys.tobytes())]
        return settings_digest({"layout": told, "ids": ids, "types": self.schema.types})


def plan_cube(
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
) -> CubePlan:
    """Check tables and options, and work out what the cube is to be.

    Parameters
    ----------
    objects, types, aors
        See `idfzarr.store.tables`.
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
        AORs in a batch of staging.

    Returns
    -------
    CubePlan
        Nothing has been written yet.

    Raises
    ------
    UsageError
        A table or an option cannot be used.
    """
    table = object_table(objects)
    named = type_table(types, None if channels is None else tuple(channels))
    of_type = [str(c) for c in named.columns["type_channel"]]
    all_channels = tuple(dict.fromkeys(of_type)) if channels is None else tuple(channels)
    times = aor_table(aors, all_channels)
    n_aors = len(times.reqkeys)
    if precision is not None and not 0 < precision <= 1:
        msg = f"a precision of {precision} error bars is none: give 0.01, say, or None for lossless"
        raise UsageError(msg)
    if shard_objects < 1 or staging_aors < 1:
        msg = f"a shard of {shard_objects} objects and a batch of {staging_aors} AORs need one each"
        raise UsageError(msg)
    layout = Layout(
        n_objects=len(table.ids),
        n_types=len(named.names),
        n_aors=n_aors,
        capacity=capacity_for(n_aors) if capacity is None else capacity,
        shard_objects=max(1, min(shard_objects, len(table.ids))),
    )
    schema = CubeSchema(
        types=named.names,
        channels=all_channels,
        aor_names=times.names,
        layout=layout,
        codec=checked_codec(codec),
        precision=precision,
        staging_aors=staging_aors,
    )
    return CubePlan(schema, table, named, times)
