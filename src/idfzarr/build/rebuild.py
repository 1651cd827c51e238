"""Measure damaged lightcurves again, bit for bit as they were; nothing is written.

The ledger tells from which mosaics every AOR was measured, when, and together with which types; the
store has the superstack and the catalogue that the apertures are frozen from. An AOR is measured
whole, as a build does, and only what was asked for is kept.

What cannot be had back: a cube that was filled by hand (`idfzarr.create`), AORs of which the ledger
beside the store does not speak (a store that was copied without it), and mosaics that are gone.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.field import channel_field
from idfzarr.build.measure import measure_mosaic, unobserved
from idfzarr.build.past_grids import (
    PastGrids,
    factor_and_unit,
    files_of,
    is_resampled,
    past_grids,
    placement_differs,
    stars_of,
)
from idfzarr.build.placed import bring_onto_grid, read_own_pixels
from idfzarr.build.provenance import (
    History,
    Measured,
    read_history,
    schema_of_root,
    writer_of_root,
)
from idfzarr.build.rebuild_imported import TableReader, measure_tables
from idfzarr.build.scheduler import Task, run_tasks, worker_count
from idfzarr.build.settings import Settings
from idfzarr.build.source_files import Found, ImageFolder, NotFound, find_sources
from idfzarr.errors import BuildFailed, ImageMissing, SettingsDiffer, UsageError
from idfzarr.flags import flag_bit
from idfzarr.imaging.mosaic import read_header
from idfzarr.measurement import parse_measurement
from idfzarr.progress import Progress, silent
from idfzarr.store.ledger import LedgerState, read_ledger
from idfzarr.store.place import place_of
from idfzarr.store.root import read_root
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from idfzarr.store.place import PlaceLike
    from idfzarr.store.root import Root
    from idfzarr.store.schema import CubeSchema
    from idfzarr.store.writer import CubeWriter

__all__ = ["Lost", "Rebuilt", "rebuild_lightcurves"]

_NAMED = 3
_AT_ONCE = 4
"""Mosaics to a worker whose results are held beside what was asked for."""

_NEAR = 1e-3
"""What was learnt of a mosaic may differ by this, of an error or of itself, where other versions of
numpy, say, sum in another order."""


@dataclass(frozen=True)
class Lost:
    """A source whose measurements cannot be had back.

    Attributes
    ----------
    aor, channel
        Which; the channel is an empty string where it is all of them.
    reason
        One sentence.
    """

    aor: str
    channel: str
    reason: str


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """Lightcurves as a clean build measures them, before the store's precision is applied.

    Attributes
    ----------
    url
        The store.
    schema
        What the cube is.
    shard, row, column
        (n,), of every lightcurve: number of the shard, row in it, place of the type; sorted.
    values
        (n, value, aor) float32.
    lost
        Sources without which it had to be done; their values are NaN with the flag ``lost``.
    inexact
        Mosaics, by name, of which the ledger tells something that was not found again to the last
        bit: the values are right, but may differ in their last bits from those of the build, as
        where packages have other versions than then.
    """

    url: str
    schema: CubeSchema
    shard: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    values: NDArray[np.float32]
    lost: tuple[Lost, ...] = ()
    inexact: tuple[str, ...] = ()

    @property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the shards of which there is a lightcurve."""
        return tuple(int(k) for k in np.unique(self.shard))

    def __len__(self) -> int:
        return len(self.shard)

    def block(self, shard: int) -> NDArray[np.float32]:
        """Return a shard: (row, type, value, aor) float32, NaN where nothing was asked for.

        Raises
        ------
        UsageError
            There is no such shard.
        """
        layout = self.schema.layout
        first, last = layout.rows(shard)
        block = np.full((last - first, *layout.shape[1:]), np.nan, dtype=np.float32)
        own = self.shard == shard
        block[self.row[own], self.column[own]] = self.values[own]
        return block

    def chunks(self, shard: int) -> dict[tuple[int, int], NDArray[np.float32]]:
        """Return the lightcurves (value, aor) of a shard by row in it and place of the type."""
        return {
            (int(self.row[k]), int(self.column[k])): self.values[k]
            for k in np.flatnonzero(self.shard == shard)
        }


@dataclass(frozen=True, eq=False)
class _Wanted:
    """The lightcurves asked for, sorted."""

    shard: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    objects: NDArray[np.intp]

    def of(self, columns: Collection[int]) -> NDArray[np.intp]:
        """Return which of them are of some types."""
        return np.flatnonzero(np.isin(self.column, list(columns)))


@dataclass(frozen=True, eq=False)
class _Context:
    """What every task needs of the store."""

    writer: CubeWriter
    settings: Settings | None
    tables: TableReader | None
    grids: PastGrids | None
    field: str


@dataclass(frozen=True, eq=False)
class _Part:
    """What one source gives to the lightcurves asked for."""

    source: Measured
    found: Found
    index: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))


def rebuild_lightcurves(
    store: PlaceLike,
    wanted: Mapping[int, Collection[tuple[int, int]] | None],
    *,
    images: str | Path | None = None,
    partial: bool = False,
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> Rebuilt:
    """Measure lightcurves again from the mosaics, or take them from the tables of an import again.

    Parameters
    ----------
    store
        A published store with its ledger. Its root, its catalogue and its superstacks must be
        whole; nothing else of it is read.
    wanted
        By number of the shard: pairs of the row in the shard and the place of the type, or None for
        the whole shard. All AORs are read for each call, so ask for everything at once.
    images
        Folder in which mosaics are looked for by name, or by AOR and channel; those at the places
        that the ledger names are found anyway.
    partial
        Do without mosaics that are gone or have changed: what would come from them is NaN with the
        flag ``lost``.
    scheduler, workers
        Where tasks run, see `idfzarr.build.scheduler.run_tasks`. Where mosaics have to be resampled
        they run in threads, since a WCS loses digits on its way to another process.
    progress
        Told of mosaics measured.

    Returns
    -------
    Rebuilt
        What a clean build of the same store gives, before its precision is applied. In memory are
        the lightcurves asked for, and a few mosaics at a time.

    Raises
    ------
    UsageError
        The cube was filled by hand, a replacement of AORs is under way, or there is no such
        lightcurve.
    ImageMissing
        Mosaics are gone, and `partial` is false.
    SettingsDiffer
        Mosaics are not those that were measured, and `partial` is false.
    ChunkCorrupt, ChunkMissing, MetadataCorrupt
        The store's superstack, catalogue or root is damaged itself.
    BuildFailed
        A mosaic cannot be measured, though it is the one that was.
    """
    place = place_of(store)
    root = read_root(place)
    state = read_ledger(place).for_store(root.uuid)
    schema = schema_of_root(root)
    asked = _wanted(schema, wanted)
    _refuse_half_replaced(state, root)
    settings, tables = _settings_of(root), TableReader.of_root(root)
    if settings is None and tables is None:
        msg = (
            f"{place.url} was filled by hand (idfzarr.create), not measured from mosaics: what is "
            "damaged must be written anew with Cube.write_lightcurve, or marked as lost"
        )
        raise UsageError(msg)
    history = read_history(state, root, schema)
    run = {"scheduler": scheduler, "workers": workers, "progress": progress}
    folder = None if images is None else ImageFolder(images)
    parts, lost = _parts(history, schema, asked, folder, partial=partial, where=place.url, **run)
    writer = writer_of_root(root, schema)
    context = _Context(writer, settings, tables, None, _field_digest(state))
    resampled = [(p.source, p.found) for p in parts if settings and is_resampled(p.source)]
    if settings is not None and parts:
        _read_field(root, writer, {p.source.channel for p in parts})
        channel = parts[0].source.channel
        grids = past_grids(
            place, state, resampled, channel=channel, sky=settings.sky, images=folder, **run
        )
        context = replace(context, grids=grids)
    if resampled:
        run["scheduler"] = None if scheduler != "synchronous" else scheduler
    values = _empty(schema, asked, lost)
    inexact, strays = _fill(values, context, asked, parts, schema=schema, **run)
    if strays and not partial:
        raise SettingsDiffer(strays[0].reason)
    return Rebuilt(
        url=place.url,
        schema=schema,
        shard=asked.shard,
        row=asked.row,
        column=asked.column,
        values=values,
        lost=(*lost, *strays),
        inexact=tuple(inexact),
    )


# ---------------------------------------------------------------- what is asked for


def _wanted(
    schema: CubeSchema, wanted: Mapping[int, Collection[tuple[int, int]] | None]
) -> _Wanted:
    layout = schema.layout
    parts: list[NDArray[np.intp]] = [np.empty((0, 3), dtype=np.intp)]
    for shard in sorted(wanted):
        first, last = layout.rows(shard)
        pairs = wanted[shard]
        if pairs is None:
            shape = (last - first, layout.n_types)
            own = np.stack([n.ravel() for n in np.indices(shape)], axis=1)
        else:
            own = np.array(sorted(set(pairs)), dtype=np.intp).reshape(-1, 2)
        beyond = (own < 0).any(axis=1) | (own[:, 0] >= last - first)
        beyond |= own[:, 1] >= layout.n_types
        if beyond.any():
            row, column = own[beyond][0].tolist()
            msg = (
                f"there is no lightcurve at row {row}, type {column} of shard {shard}: it has "
                f"{last - first} rows and {layout.n_types} types, counted from 0"
            )
            raise UsageError(msg)
        parts.append(np.column_stack([np.full(len(own), shard, dtype=np.intp), own]))
    shard_of, row_of, column_of = np.concatenate(parts).T
    return _Wanted(shard_of, row_of, column_of, shard_of * layout.shard_objects + row_of)


def _settings_of(root: Root) -> Settings | None:
    """Return the settings of a store that was measured from mosaics, None for any other."""
    told = dict(root.ours.get("settings", {}))
    if set(told) != {f.name for f in dataclasses.fields(Settings)}:
        return None
    return Settings.from_dict(told)


def _refuse_half_replaced(state: LedgerState, root: Root) -> None:
    update = update_under_way(state, root)
    if update is not None and update.kind == "replace":
        msg = (
            f"{root.place.url}: the {update} was begun and is not finished, so some lightcurves "
            "have the old values of these AORs and some the new ones: run that build again first"
        )
        raise UsageError(msg)


def _field_digest(state: LedgerState) -> str:
    made = [str(r.fields["field"]) for r in state.of("note") if "field" in r.fields]
    return made[-1] if made else ""


def _read_field(root: Root, writer: CubeWriter, channels: Collection[str]) -> None:
    """Read what apertures are frozen from, so that damage is found before hours of work.

    A field that this process has frozen before is not read again by `channel_field`.
    """
    for channel in sorted(channels):
        for name in ("flux", "err", "background", "segmentation", "aors"):
            writer.read_array(f"images/superstack/{channel}/{name}")
    columns = {"x", "y", "kron_a", "kron_b", "theta"}
    # A build does without these where the catalogue never had them.
    optional = {"isolated", "fwhm", *(f"snr_{channel}" for channel in channels)}
    columns |= {name for name in optional if root.is_array(f"catalogue/{name}")}
    for name in sorted(columns):
        writer.read_array(f"catalogue/{name}")


# ---------------------------------------------------------------- sources


def _parts(
    history: History,
    schema: CubeSchema,
    asked: _Wanted,
    folder: ImageFolder | None,
    *,
    partial: bool,
    where: str,
    **run: Any,
) -> tuple[list[_Part], list[Lost]]:
    """Find the files of every source that something asked for comes from."""
    place_of_type = {name: k for k, name in enumerate(schema.types)}
    needed = []
    for source in history.measured:
        index = asked.of([place_of_type[name] for name in source.types])
        if len(index):
            needed.append((source, index))
    found = find_sources([source for source, _ in needed], folder, **run)
    gone = [(s, f) for (s, _), f in zip(needed, found, strict=True) if isinstance(f, NotFound)]
    unknown = list(history.unknown) if len(asked.shard) else []
    if not partial:
        _refuse_gone(gone, unknown, where=where)
    told = "the ledger of {} names no source of AOR {}"
    lost = [Lost(name, "", told.format(where, name)) for name in unknown]
    lost += [Lost(source.aor, source.channel, f.reason) for source, f in gone]
    parts = [
        _Part(source, f, index)
        for (source, index), f in zip(needed, found, strict=True)
        if isinstance(f, Found)
    ]
    return parts, lost


def _refuse_gone(
    gone: Sequence[tuple[Measured, NotFound]], unknown: Sequence[str], *, where: str
) -> None:
    changed = [f for _, f in gone if f.why == "changed"]
    if changed:
        msg = (
            f"{len(changed)} of the sources that {where} was measured from have changed "
            f"({_some([f.path for f in changed])}: another sha256): lightcurves cannot be rebuilt "
            "from them; give the folder of the old ones, or do without them"
        )
        raise SettingsDiffer(msg)
    missing = [f.path for _, f in gone]
    if missing:
        msg = (
            f"{len(missing)} of the sources that {where} was measured from are not there "
            f"({_some(missing)}): give the folder that they are in now, or do without them"
        )
        raise ImageMissing(msg)
    if unknown:
        msg = (
            f"the ledger beside {where} does not say what {len(unknown)} AORs were measured from "
            f"({_some(unknown)}), as where a store was copied without it: put it back, or do "
            "without them"
        )
        raise ImageMissing(msg)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _empty(schema: CubeSchema, asked: _Wanted, lost: Sequence[Lost]) -> NDArray[np.float32]:
    """Return what stands where nothing is measured: not observed, or lost."""
    layout = schema.layout
    values = unobserved((len(asked.shard), layout.n_aors, 3)).transpose(0, 2, 1).copy()
    place_of = {name: k for k, name in enumerate(schema.aor_names)}
    for one in lost:
        own = {k for k, t in enumerate(schema.types) if _is_of(t, one.channel)}
        values[asked.of(own), 2, place_of[one.aor]] = flag_bit("lost")
    return values


def _is_of(type_: str, channel: str) -> bool:
    return not channel or parse_measurement(type_).channel == channel


# ---------------------------------------------------------------- measuring


def _fill(
    values: NDArray[np.float32],
    context: _Context,
    asked: _Wanted,
    parts: Sequence[_Part],
    *,
    schema: CubeSchema,
    scheduler: Any,
    workers: int | None,
    progress: Progress,
) -> tuple[list[str], list[Lost]]:
    """Measure the sources, a few at a time; return what is inexact, and what is something else."""
    inexact: list[str] = []
    strays: list[Lost] = []
    group = _AT_ONCE * (workers or worker_count())
    for first in range(0, len(parts), group):
        own = parts[first : first + group]

        def told(label: str, done: int, _: int, begun: int = first) -> None:
            progress(label, begun + done, len(parts))

        tasks = []
        for part in own:
            columns = np.array(
                [
                    part.source.together.index(schema.types[k])
                    for k in asked.column[part.index].tolist()
                ],
                dtype=np.intp,
            )
            arguments = (context, part.source, part.found, asked.objects[part.index], columns)
            tasks.append(Task(part.source.name, _measure, arguments))
        outcomes = run_tasks(
            "rebuilding", tasks, scheduler=scheduler, workers=workers, progress=told
        )
        for part, outcome in zip(own, outcomes, strict=True):
            if not outcome.ok:
                msg = f"{part.source.name} cannot be measured again: {outcome.reason}"
                raise BuildFailed(msg)
            measured, likeness = outcome.result
            if likeness == _OTHER:
                strays.append(_stray(part.source))
                measured = np.full_like(measured, np.nan)
                measured[:, 2] = flag_bit("lost")
            elif likeness == _INEXACT:
                inexact.append(part.source.name)
            values[part.index, :, part.source.position] = measured
    return inexact, strays


_EXACT, _INEXACT, _OTHER = range(3)


def _stray(source: Measured) -> Lost:
    reason = (
        f"{source.name}, measured again, gives another background, pointing or noise than the "
        "ledger tells, though its files are the same: it cannot be rebuilt with these versions of "
        "idfzarr and its packages"
    )
    return Lost(source.aor, source.channel, reason)


def _measure(
    context: _Context,
    source: Measured,
    found: Found,
    objects: NDArray[np.intp],
    columns: NDArray[np.intp],
) -> tuple[NDArray[np.float32], int]:
    """Measure one source; return (lightcurve, value), and how like it is to what the ledger has."""
    if context.settings is None or context.grids is None:
        assert context.tables is not None  # noqa: S101  # one of the two is known
        block = measure_tables(context.writer, context.tables, source, found)
        return block[objects, columns], _EXACT
    files = files_of(source, found)
    settings = replace(context.settings, types=source.together)
    own = channel_field(context.writer, source.channel, settings, version=context.field)
    exact = True
    if is_resampled(source):
        grid = context.grids.of(source)
        stars = stars_of(files) if grid.wcs is None else None
        placed, placement = bring_onto_grid(files, grid, sky=settings.sky, stars=stars)
        exact = not placement_differs(placed, placement, source)
    else:
        placed = read_own_pixels(files, sky=settings.sky)
    # By its own header: those of an append may have another unit that comes to the same.
    factor, _ = factor_and_unit(read_header(files).unit, context.grids.later.pixel_scale)
    block, summary = measure_mosaic(
        own, placed, name=source.aor, factor=factor, max_offset=settings.max_offset
    )
    likeness = _likeness(summary.to_fields(), source.told[0])
    if likeness == _EXACT and not exact:
        likeness = _INEXACT
    return block[objects, columns], likeness


def _likeness(now: Mapping[str, Any], then: Mapping[str, Any]) -> int:
    """Compare what was learnt of a mosaic with what the ledger tells of it."""
    if all(then.get(name) == value for name, value in now.items()):
        return _EXACT
    pairs = [(now[name], then.get(name)) for name in ("dx", "dy", "sky", "sky_rms")]
    pairs += [(scale, then["noise_scale"].get(t)) for t, scale in now["noise_scale"].items()]
    return _INEXACT if all(_is_near(a, b) for a, b in pairs) else _OTHER


def _is_near(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=_NEAR, abs_tol=_NEAR)
