"""Make the shards of a finished cube again that were taken away, as by a cleaning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idfzarr.build.rebuild import rebuild_lightcurves
from idfzarr.progress import Progress, silent
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from idfzarr.store.root import Root
    from idfzarr.store.writer import CubeWriter

__all__ = ["remake_shards"]

_MOST_AT_ONCE = 1 << 28  # bytes of lightcurves that are measured again at once


def remake_shards(
    writer: CubeWriter,
    root: Root,
    *,
    images: str | Path | None = None,
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> int:
    """Measure and write again every shard that was removed; the values are those that it had.

    Parameters
    ----------
    writer
        Of a published cube.
    root
        Its root.
    images
        Folder in which mosaics are looked for besides where the ledger says.
    scheduler, workers, progress
        See `idfzarr.build.rebuild.rebuild_lightcurves`.

    Returns
    -------
    int
        How many were written. A shard that the ledger calls done and that is not there is no such
        shard: something happened to the store, and it is to be repaired.

    Raises
    ------
    ImageMissing, SettingsDiffer
        Mosaics that are needed are gone, or are not those that were measured.
    """
    removed = _removed(writer)
    under_way = update_under_way(writer.state(), root)
    if not removed or (under_way is not None and under_way.kind == "replace"):
        return 0
    for some in _groups(writer, removed):
        found = rebuild_lightcurves(
            writer.place,
            dict.fromkeys(some),
            images=images,
            scheduler=scheduler,
            workers=workers,
            progress=progress,
        )
        for shard in some:
            writer.write_shard(shard, found.block(shard))
    return len(removed)


def _removed(writer: CubeWriter) -> list[int]:
    assert writer.schema is not None  # noqa: S101  # that of a published cube is known
    layout = writer.schema.layout
    removed = writer.state().removed
    keys = {layout.key(shard): shard for shard in range(layout.n_shards)} if removed else {}
    return [n for key, n in keys.items() if key in removed and writer.place.size(key) is None]


def _groups(writer: CubeWriter, shards: list[int]) -> Iterator[list[int]]:
    """Yield as many shards as may be held in memory: every mosaic is read anew for each group."""
    assert writer.schema is not None  # noqa: S101  # that of a published cube is known
    layout = writer.schema.layout
    together = max(1, _MOST_AT_ONCE // (layout.chunks_per_shard * layout.chunk_bytes))
    for first in range(0, len(shards), together):
        yield shards[first : first + together]
