"""Compute the statistics of a finished cube anew, after AORs were appended or replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idfzarr.build.calibrate import write_variability
from idfzarr.errors import UsageError
from idfzarr.progress import Progress, silent
from idfzarr.store.cube import Cube
from idfzarr.store.published import open_published
from idfzarr.store.root import read_root
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from idfzarr.store.place import PlaceLike

__all__ = ["update_variability"]


def update_variability(
    path: PlaceLike,
    *,
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> None:
    """Compute the statistics of every lightcurve of a finished cube anew.

    Parameters
    ----------
    path
        The store.
    scheduler, workers
        Where tasks run, see `idfzarr.build.scheduler.run_tasks`.
    progress
        Told of shards done.

    Raises
    ------
    StoreError
        There is no finished store of ours.
    UsageError
        A change of the cube is under way.
    BuildFailed
        A shard could not be read.
    """
    # What a stopped writer left to do comes first: the arrays' own metadata may be behind the root.
    cube = Cube(open_published(path).place, mode="r+")
    writer = cube.writer
    under_way = update_under_way(writer.state(), read_root(writer.place))
    if under_way is not None:
        msg = (
            f"the statistics of {cube.path} wait for the {under_way} that is under way: run that "
            "build again first"
        )
        raise UsageError(msg)
    write_variability(
        writer,
        cube.coordinate("zeropoint"),
        cube.coordinate("noise_scale"),
        scheduler=scheduler,
        workers=workers,
        progress=progress,
    )
    writer.publish(complete=False)  # no shard was touched; a copied store has no ledger to ask
