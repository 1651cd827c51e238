"""From mosaics to a published cube: the steps of a build, in order.

Every step is repeated without harm: what the ledger calls done, and is there, is not done again.
Nothing is visible to readers before the last step, one rename.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idfzarr.build.alone import Alone
from idfzarr.build.extend import (
    Extension,
    plan_extension,
    refuse_differences,
    stored_settings,
)
from idfzarr.build.remake import remake_shards
from idfzarr.build.scheduler import pool_of_workers
from idfzarr.build.settings import Asked, Settings
from idfzarr.build.steps import Clock, Run, Steps, remove_work
from idfzarr.build.survey import Survey, survey_images
from idfzarr.errors import ForeignStore, UsageError
from idfzarr.progress import Progress, silent
from idfzarr.store.exchange import recover_exchange
from idfzarr.store.place import LocalPlace, place_of
from idfzarr.store.root import ROOT_KEY
from idfzarr.store.update import update_under_way
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from idfzarr.build.report import BuildReport
    from idfzarr.store.place import Place


__all__ = ["build"]


def build(
    images: str | Path,
    store: str | Path,
    *,
    types: str | Sequence[str] | None = None,
    pattern: str | None = None,
    kinds: Mapping[str, str] | None = None,
    channel: str | None = None,
    aor_table: str | Path | None = None,
    sky: str | None = None,
    threshold: float | None = None,
    min_coverage: float | None = None,
    codec: str | None = None,
    precision: bool | None = None,
    shard_objects: int | None = None,
    replace_aors: Sequence[str] = (),
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> BuildReport:
    """Turn a folder of mosaics into a cube of lightcurves.

    Run again, it goes on where it was; a finished build changes nothing, but for shards that a
    cleaning took away, which are measured again. Where the folder holds
    AORs that a finished cube has not, these alone are measured, with the cube's own apertures and
    comparison stars, and appended; what was there keeps its values bit for bit. The same with types
    that it has not. On a store that is there, what is not said is as the store has it.

    Parameters
    ----------
    images
        Folder of the mosaics.
    store
        Where the cube is to be.
    types
        Globs over the default types of the channels there are, or names of any others; the default
        types unless given.
    pattern, kinds, channel
        How the files are called, see `idfzarr.imaging.mosaic.discover`.
    aor_table
        Table of the AORs; one that lies beside the images as ``aors.ecsv`` is found, else times are
        those of the headers.
    sky
        How the background is removed: ``plane``, ``mesh``, or ``auto`` (mesh for frames without
        WCS).
    threshold
        Detection threshold on the superstack, sigma.
    min_coverage
        Fraction of the AORs that must cover an object; 0.2, and 1 for frames without WCS, unless
        given.
    codec
        ``lz4``, ``zstd`` or ``none``.
    precision
        Drop bits of flux below 1/100 of its error bar; lossless otherwise.
    shard_objects
        Objects in a shard.
    replace_aors
        Names of AORs in the cube to be measured again, because their mosaics were processed again.
    scheduler, workers
        Where tasks run, see `idfzarr.build.scheduler.run_tasks`.
    progress
        Told how far each step is.

    Returns
    -------
    BuildReport
        What was done and what was left out.

    Raises
    ------
    ImageError
        There is nothing to build from.
    AorTableError
        The AOR table cannot be used.
    SettingsDiffer
        A store was begun there with other settings, or from other mosaics.
    UsageError
        An option cannot be, or another process is building that store.
    ForeignStore
        Something else is there.
    BuildFailed
        Tasks failed; nothing was published, and what is done is kept.
    StorageFull
        The disk is full; the same holds.

    Examples
    --------
    >>> report = build("images", "field.zarr")  # doctest: +SKIP
    """
    clock = Clock()
    with clock.step("survey"):
        survey = survey_images(
            images, pattern=pattern, kinds=kinds, channel=channel, aor_table=aor_table
        )
    asked = Asked(types, sky, threshold, min_coverage, codec, precision, shard_objects)
    _refuse_file(store)
    place = place_of(store)
    with Alone(place) as alone, pool_of_workers(scheduler, workers) as pool:
        run = Run(pool, workers, progress)
        recover_exchange(place)
        stored = stored_settings(place)
        known = [] if stored is None else [m.channel for m in stored.measurements]
        channels = tuple(dict.fromkeys([*known, *survey.channels]))
        settings = asked.settings(channels, has_wcs=survey.has_wcs, stored=stored)
        survey = survey.of_channels({*known, *(m.channel for m in settings.measurements)})
        if place.size(ROOT_KEY) is None:
            _refuse_replacing(place, replace_aors)
            writer = CubeWriter.begin(place, settings=settings.to_dict())
            alone.claim()
            if not writer.is_published:  # by another build, that has ended by now
                return Steps(writer, settings, run, clock).build(survey)
        if stored is None:  # another build was quicker; it may still be at work
            alone.claim()
            stored = stored_settings(place)
        refuse_differences(place, settings, stored or settings)
        plan = plan_extension(place, survey, types=settings.types, replaced=replace_aors)
        n_made = _remake(plan, images, run, clock)
        return _extend(plan, survey, settings, run, clock, n_made=n_made)


def _refuse_replacing(place: Place, names: Sequence[str]) -> None:
    if names:
        msg = f"{place.url} is no finished cube: there is no AOR to replace in it; build it first"
        raise UsageError(msg)


def _refuse_file(store: str | Path) -> None:
    place = place_of(store)
    if isinstance(place, LocalPlace) and place.exists() and not Path(place.root).is_dir():
        msg = (
            f"{place.url} is a file and no store of idfzarr; nothing there is touched: "
            "choose another path"
        )
        raise ForeignStore(msg)


def _remake(plan: Extension, images: str | Path, run: Run, clock: Clock) -> int:
    """Make shards again that a cleaning took away, before anything is done with the cube."""
    cube = plan.cube
    writer = CubeWriter(cube.place, schema=cube.schema, **cube.identity)
    with clock.step("shards that were removed"):
        return remake_shards(writer, cube.root, images=images, **run.options)


def _extend(
    plan: Extension, survey: Survey, settings: Settings, run: Run, clock: Clock, *, n_made: int
) -> BuildReport:
    """Bring a finished cube up to what was asked for."""
    cube = plan.cube
    writer = CubeWriter(cube.place, schema=cube.schema, **cube.identity)
    # All types even where only new ones are added: sums depend, in their last bit, on which other
    # apertures share their rings.
    measured = (*cube.schema.types, *plan.new_types)
    steps = Steps(writer, replace(settings, types=measured), run, clock)
    if plan.new_types:
        return steps.add_types(plan, survey)
    if plan.survey is not None:
        return steps.append(plan, plan.survey)
    under_way = update_under_way(writer.state(), cube.root)
    notes = []
    if n_made:
        notes.append(f"{n_made} shards that had been removed were measured and written again")
    if under_way is None:
        writer.remove_staging()
        remove_work(writer)
    else:
        notes.append(
            f"the {under_way} was begun and is not finished: run that build again, it goes on "
            "where it stopped"
        )
    skipped = (*survey.skipped, *plan.skipped)
    return steps.report(
        writer, survey, shards=n_made, notes=notes, skipped=skipped, changed=bool(n_made)
    )
