"""What tasks over the shards of a cube share: reading one, and refusing to go on after failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idfzarr.errors import BuildFailed
from idfzarr.measurement import parse_measurement
from idfzarr.store.shard import decode_shard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from idfzarr.store.schema import CubeSchema
    from idfzarr.store.writer import CubeWriter

__all__ = ["columns_of_channel", "read_shard", "refuse_failures", "schema_of_writer"]


def schema_of_writer(writer: CubeWriter) -> CubeSchema:
    """Return what the cube of a writer is; raises `BuildFailed` where it has no layout yet."""
    if writer.schema is None:
        msg = f"{writer.place.url} has no layout yet"
        raise BuildFailed(msg)
    return writer.schema


def read_shard(writer: CubeWriter, shard: int) -> NDArray[np.float32]:
    """Return one shard, (row, type, value, aor)."""
    schema = schema_of_writer(writer)
    layout = schema.layout
    first, last = layout.rows(shard)
    key = layout.key(shard)
    data = writer.place.read(key)
    return decode_shard(
        data, layout, last - first, codec=schema.codec, where=f"{writer.place.url}/{key}"
    )


def columns_of_channel(schema: CubeSchema, channel: str) -> list[int]:
    """Return the positions of the types of a channel."""
    return [k for k, name in enumerate(schema.types) if parse_measurement(name).channel == channel]


def refuse_failures(step: str, outcomes: Any) -> None:
    """Raise where tasks failed, naming the first few.

    Raises
    ------
    BuildFailed
        A task failed.
    """
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if failed:
        named = "; ".join(f"{o.name}: {o.reason}" for o in failed[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        msg = (
            f"{len(failed)} of {len(outcomes)} tasks of the step {step!r} failed ({named}{more}); "
            "mend what they name and run the same command again: what is done is kept"
        )
        raise BuildFailed(msg)
