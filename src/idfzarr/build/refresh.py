"""Compute the statistics of a finished cube anew, after AORs were appended or replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.table_exchange import NewTable, exchange_table
from idfzarr.build.variability_table import Periods, compute_variability
from idfzarr.errors import UsageError
from idfzarr.progress import Progress, silent
from idfzarr.store.cube import Cube
from idfzarr.store.published import open_published
from idfzarr.store.root import read_root
from idfzarr.store.schema import VARIABILITY
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from idfzarr.store.place import PlaceLike

__all__ = ["update_variability"]


def update_variability(
    path: PlaceLike,
    *,
    periods: Periods = "candidates",
    types: str | Iterable[str] | None = None,
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> None:
    """Compute the statistics of every lightcurve of a finished cube anew.

    Killed at any time it leaves the old table or the new one; see
    `idfzarr.build.table_exchange`.

    Parameters
    ----------
    path
        The store.
    periods, types
        Of which lightcurves a period and a damped random walk are looked for, see
        `idfzarr.build.variability_table.compute_variability`.
    scheduler, workers
        Where tasks run, see `idfzarr.build.scheduler.run_tasks`.
    progress
        Told of shards done.

    Raises
    ------
    StoreError
        There is no finished store of ours.
    UsageError
        A change of the cube is under way, or was made meanwhile; `periods` is none of its three.
    UnknownName
        No type matches `types`.
    BuildFailed
        A shard could not be read.
    """
    # What a stopped writer left to do comes first: the arrays' own metadata may be behind the root.
    cube = Cube(open_published(path).place, mode="r+")
    writer = cube.writer
    root = read_root(writer.place)
    under_way = update_under_way(writer.state(), root)
    if under_way is not None:
        msg = (
            f"the statistics of {cube.path} wait for the {under_way} that is under way: run that "
            "build again first"
        )
        raise UsageError(msg)
    table = compute_variability(
        writer,
        _calibration(cube, "zeropoint"),
        _calibration(cube, "noise_scale"),
        periods=periods,
        types=types,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
    )
    new = NewTable(
        VARIABILITY, table.columns, ("object", "type"), table.attributes, table.column_attributes
    )
    exchange_table(writer, new, generation=root.generation)


def _calibration(cube: Cube, name: str) -> NDArray[np.float32]:
    """Return zero points or noise scales (type, aor), NaN in a cube that has none."""
    if name in cube.coordinate_names:
        return cube.coordinate(name)
    _, n_types, _, n_aors = cube.shape
    return np.full((n_types, n_aors), np.nan, dtype=np.float32)
