"""The table of statistics: every lightcurve of a cube, shard by shard.

Statistics of single lightcurves and of pairs of channels are computed of all; a period and a damped
random walk cost a thousand times as much and are computed of candidates only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from idfzarr.analysis.damped_random_walk import damped_random_walk
from idfzarr.analysis.excess import variability_score
from idfzarr.analysis.period_search import periods_of_rows
from idfzarr.analysis.ranking import ranked_types
from idfzarr.analysis.statistic_definitions import (
    COSTLY_STATISTICS,
    DEFINITIONS,
    SCORE,
    STATISTICS,
    TWO_BAND_STATISTICS,
)
from idfzarr.analysis.two_band import two_band_statistics
from idfzarr.analysis.variability import statistics
from idfzarr.build.scheduler import Task, pool_of_workers, run_tasks
from idfzarr.build.shard_tasks import read_shard, refuse_failures, schema_of_writer
from idfzarr.errors import UsageError
from idfzarr.flags import BAD_FLAGS
from idfzarr.measurement import select_types
from idfzarr.store.cube import flags_of
from idfzarr.store.schema import VARIABILITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from idfzarr.progress import Progress
    from idfzarr.store.writer import CubeWriter

    Single: TypeAlias = NDArray[np.float32]

__all__ = [
    "CANDIDATE_SCORE",
    "PERIODS",
    "Periods",
    "VariabilityTable",
    "compute_variability",
    "write_variability",
]

Periods: TypeAlias = Literal["candidates", "all", "none"]

PERIODS: tuple[Periods, ...] = ("candidates", "all", "none")
"""Which lightcurves a period and a damped random walk are computed of."""

CANDIDATE_SCORE = 5.0
"""Score from which a lightcurve is a candidate: five times the scatter of objects as bright."""

_SHARDS_AT_A_TIME = 64
_ROWS_AT_A_TIME = 32


@dataclass(frozen=True, eq=False)
class Calibration:
    """What turns stored lightcurves into calibrated ones.

    Parameters
    ----------
    zeropoint, noise_scale
        (type, aor).
    mjd
        (aor, channel).
    channel_of
        Position of each type's channel, (type,).
    pairs
        Positions of the types that are the same in two channels.
    """

    zeropoint: NDArray[np.float32]
    noise_scale: NDArray[np.float32]
    mjd: NDArray[np.float64]
    channel_of: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class VariabilityTable:
    """The statistics of a cube, as its store keeps them.

    Parameters
    ----------
    columns
        (object, type) float32 by name.
    attributes
        Of the group.
    column_attributes
        By column: definition, source, unit.
    """

    columns: dict[str, Single]
    attributes: dict[str, Any]
    column_attributes: dict[str, dict[str, str]]


@dataclass(frozen=True)
class Running:
    """Where tasks run, and who is told."""

    scheduler: Any
    workers: int | None
    progress: Progress


def write_variability(
    writer: CubeWriter,
    zeropoint: NDArray[np.float32],
    noise_scale: NDArray[np.float32],
    *,
    periods: Periods = "candidates",
    types: str | Iterable[str] | None = None,
    scheduler: Any,
    workers: int | None,
    progress: Progress,
) -> None:
    """Compute and store the statistics of every lightcurve.

    Parameters
    ----------
    writer, zeropoint, noise_scale, periods, types, scheduler, workers, progress
        See `compute_variability`.

    Raises
    ------
    BuildFailed
        A shard could not be read.
    """
    table = compute_variability(
        writer,
        zeropoint,
        noise_scale,
        periods=periods,
        types=types,
        scheduler=scheduler,
        workers=workers,
        progress=progress,
    )
    writer.write_table(
        VARIABILITY,
        table.columns,
        dims=("object", "type"),
        attributes=table.attributes,
        column_attributes=table.column_attributes,
    )


def compute_variability(
    writer: CubeWriter,
    zeropoint: NDArray[np.float32],
    noise_scale: NDArray[np.float32],
    *,
    periods: Periods = "candidates",
    types: str | Iterable[str] | None = None,
    scheduler: Any,
    workers: int | None,
    progress: Progress,
) -> VariabilityTable:
    """Compute the statistics of every lightcurve, a shard a task.

    Parameters
    ----------
    writer
        The store, its shards written.
    zeropoint, noise_scale
        (type, aor).
    periods
        Which lightcurves of `types` a period and a damped random walk are looked for in:
        ``candidates`` with a score of `CANDIDATE_SCORE` or more, ``all``, or ``none``.
    types
        Names or globs of the types that they are looked for in; those that are ranked unless given.
    scheduler, workers
        See `idfzarr.build.scheduler.run_tasks`.
    progress
        Told of shards done.

    Returns
    -------
    VariabilityTable
        Memory: the columns, and what the workers have in hand.

    Raises
    ------
    UsageError
        `periods` is none of the three.
    UnknownName
        A type is not there.
    BuildFailed
        A shard could not be read.
    """
    if periods not in PERIODS:
        msg = f"periods must be {', '.join(PERIODS[:-1])} or {PERIODS[-1]}, not {periods!r}"
        raise UsageError(msg)
    schema = schema_of_writer(writer)
    names = ranked_types(schema.types) if types is None else select_types(schema.types, types)
    calibration = _calibration(writer, zeropoint, noise_scale)
    with pool_of_workers(scheduler, workers) as pool:
        run = Running(pool, workers, progress)
        columns = _every_lightcurve(writer, calibration, run)
        columns[SCORE.name] = _scores(columns)
        wanted = np.zeros(columns["n"].shape, dtype=bool)
        if periods != "none":
            asked = [schema.types.index(name) for name in names]
            wanted[:, asked] = (columns["n"] > 0)[:, asked]
        if periods == "candidates":
            wanted &= np.nan_to_num(columns[SCORE.name]) >= CANDIDATE_SCORE
        columns |= _costly(writer, calibration, wanted, run)
    return VariabilityTable(
        {name: columns[name] for name in DEFINITIONS if name in columns},
        {
            "n_aors": schema.layout.n_aors,
            "long_name": "statistics of calibrated lightcurves",
            "periods": periods,
        },
        _definitions(writer),
    )


def _calibration(
    writer: CubeWriter, zeropoint: NDArray[np.float32], noise_scale: NDArray[np.float32]
) -> Calibration:
    schema = schema_of_writer(writer)
    channel = [str(name) for name in writer.read_array("type_channel")]
    like = list(
        zip(
            map(str, writer.read_array("type_method")),
            map(str, writer.read_array("type_image")),
            # types whose names are not of our form are the same where the rest of the name is
            (name.partition("_")[2] for name in schema.types),
            strict=True,
        )
    )
    return Calibration(
        zeropoint,
        noise_scale,
        writer.read_array("mjd"),
        tuple(schema.channels.index(name) for name in channel),
        tuple(_first_two(schema.channels, channel, like)),
    )


def _first_two(
    channels: Sequence[str], channel: Sequence[str], like: Sequence[tuple[str, str, str]]
) -> list[tuple[int, int]]:
    """Return pairs of types that are alike but for being of the first and the second channel."""
    if len(channels) < 2:
        return []
    second = {like[k]: k for k in range(len(like)) if channel[k] == channels[1]}
    return [
        (k, second[like[k]])
        for k in range(len(like))
        if channel[k] == channels[0] and like[k] in second
    ]


# ---------------------------------------------------------------- every lightcurve


def _every_lightcurve(
    writer: CubeWriter, calibration: Calibration, run: Running
) -> dict[str, Single]:
    layout = schema_of_writer(writer).layout
    names = [d.name for d in (*STATISTICS, *TWO_BAND_STATISTICS)]
    shape = (layout.n_objects, layout.n_types)
    columns = {name: np.full(shape, np.nan, dtype=np.float32) for name in names}
    for begun in range(0, layout.n_shards, _SHARDS_AT_A_TIME):
        shards = range(begun, min(begun + _SHARDS_AT_A_TIME, layout.n_shards))
        tasks = [Task(layout.key(k), _shard_statistics, (writer, k, calibration)) for k in shards]
        outcomes = run_tasks(
            "variability",
            tasks,
            scheduler=run.scheduler,
            workers=run.workers,
            progress=_shifted(run.progress, begun, layout.n_shards),
        )
        refuse_failures("variability", outcomes)
        for shard, outcome in zip(shards, outcomes, strict=True):
            rows = slice(*layout.rows(shard))
            for name in names:
                columns[name][rows] = outcome.result[name]
    return columns


def _shifted(progress: Progress, begun: int, total: int) -> Progress:
    def told(label: str, done: int, of_these: int) -> None:  # noqa: ARG001  # as a Progress is
        progress(label, begun + done, total)

    return told


def _shard_statistics(
    writer: CubeWriter, shard: int, calibration: Calibration
) -> dict[str, Single]:
    """Return the statistics (row, type) of one shard's calibrated lightcurves."""
    block = read_shard(writer, shard)
    n_rows, n_types, _, n_aors = block.shape
    flux, error, good = _calibrated(block, calibration, range(n_types))
    del block
    names = [d.name for d in (*STATISTICS, *TWO_BAND_STATISTICS)]
    found = {name: np.full((n_rows, n_types), np.nan, dtype=np.float32) for name in names}
    for c in range(calibration.mjd.shape[1]):
        columns = [k for k in range(n_types) if calibration.channel_of[k] == c]
        measured = statistics(
            flux[:, columns].reshape(-1, n_aors),
            error[:, columns].reshape(-1, n_aors),
            good[:, columns].reshape(-1, n_aors),
            mjd=calibration.mjd[:, c],
        )
        for name, values in measured.items():
            found[name][:, columns] = values.reshape(n_rows, len(columns))
    for a, b in calibration.pairs:
        paired = two_band_statistics(
            flux[:, a], error[:, a], flux[:, b], error[:, b], good1=good[:, a], good2=good[:, b]
        )
        for name, values in paired.items():
            found[name][:, a] = found[name][:, b] = values
    return found


def _calibrated(
    block: NDArray[np.float32], calibration: Calibration, columns: Sequence[int]
) -> tuple[Single, Single, NDArray[np.bool_]]:
    """Return flux, error and what is good of (row, type, value, aor), each (row, type, aor)."""
    chosen = list(columns)
    zeropoint = calibration.zeropoint[chosen].astype(np.float64)
    factor = 10.0 ** (0.4 * np.where(np.isfinite(zeropoint), zeropoint, 0.0))
    noise = calibration.noise_scale[chosen]
    scale = np.where(np.isfinite(noise), noise, 1.0) * factor
    good = (flags_of(block[:, :, 2]) & BAD_FLAGS) == 0
    flux: Single = block[:, :, 0] * factor.astype(np.float32)
    error: Single = block[:, :, 1] * scale.astype(np.float32)
    return flux, error, good


def _scores(columns: dict[str, Single]) -> Single:
    scores: Single = np.full(columns["n"].shape, np.nan, dtype=np.float32)
    for t in range(scores.shape[1]):
        own = {name: columns[name][:, t] for name in ("n", "median", "trimmed_chi2", "inverse_eta")}
        scores[:, t] = variability_score(own).astype(np.float32)
    return scores


# ---------------------------------------------------------------- candidates


def _costly(
    writer: CubeWriter, calibration: Calibration, wanted: NDArray[np.bool_], run: Running
) -> dict[str, Single]:
    """Compute what takes long, of the lightcurves wanted (object, type)."""
    layout = schema_of_writer(writer).layout
    names = [d.name for d in COSTLY_STATISTICS]
    columns = {name: np.full(wanted.shape, np.nan, dtype=np.float32) for name in names}
    tasks, places = [], []
    for shard in range(layout.n_shards):
        first, last = layout.rows(shard)
        rows, types = np.nonzero(wanted[first:last])
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            part = slice(start, start + _ROWS_AT_A_TIME)
            arguments = (writer, shard, calibration, rows[part], types[part])
            tasks.append(Task(f"{layout.key(shard)} from {start}", _shard_costly, arguments))
            places.append((rows[part] + first, types[part]))
    outcomes = run_tasks(
        "periods",
        tasks,
        scheduler=run.scheduler,
        workers=run.workers,
        progress=run.progress,
    )
    refuse_failures("periods", outcomes)
    for place, outcome in zip(places, outcomes, strict=True):
        for name in names:
            columns[name][place] = outcome.result[name]
    return columns


def _shard_costly(
    writer: CubeWriter,
    shard: int,
    calibration: Calibration,
    rows: NDArray[np.intp],
    types: NDArray[np.intp],
) -> dict[str, Single]:
    """Return periods and random walks of chosen lightcurves of one shard, (chosen,)."""
    block = read_shard(writer, shard)
    found = {d.name: np.full(len(rows), np.nan, dtype=np.float32) for d in COSTLY_STATISTICS}
    for t in np.unique(types):
        own = np.flatnonzero(types == t)
        part = block[rows[own], t][:, None]
        flux, error, good = _calibrated(part, calibration, [int(t)])
        mjd = calibration.mjd[:, calibration.channel_of[t]]
        period, chance = periods_of_rows(mjd, flux[:, 0], error[:, 0], good[:, 0])
        found["period"][own], found["false_alarm_log10"][own] = period, chance
        for k, row in enumerate(own):
            found["drw_tau"][row], found["drw_sigma"][row] = _random_walk(
                mjd, flux[k, 0], error[k, 0], good[k, 0]
            )
    return found


def _random_walk(
    mjd: NDArray[np.float64], flux: Single, error: Single, good: NDArray[np.bool_]
) -> tuple[float, float]:
    walk = damped_random_walk(mjd, flux, error, good)
    return walk.tau, walk.sigma


def _definitions(writer: CubeWriter) -> dict[str, dict[str, str]]:
    units = {str(u) for u in writer.read_array("unit")}
    flux_unit = units.pop() if len(units) == 1 else ""
    return {
        one.name: {
            "long_name": one.definition,
            "references": one.reference,
            "units": one.units(flux_unit),
        }
        for one in DEFINITIONS.values()
    }
