"""From mosaics to a published cube: the steps of a build, in order.

Every step is repeated without harm: what the ledger calls done, and is there, is not done again.
Nothing is visible to readers before the last step, one rename.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.calibrate import (
    calibrate,
    measured_quantities,
    noise_scales,
    refuse_failures,
    write_variability,
)
from idfzarr.build.measure import Batch, measure_batch
from idfzarr.build.placed import MosaicLayer, work_place
from idfzarr.build.report import BuildReport, json_value
from idfzarr.build.scheduler import Task, run_tasks
from idfzarr.build.settings import Settings, choose_sky, choose_types
from idfzarr.build.survey import (
    Registered,
    Survey,
    grid_of,
    note_skipped,
    refuse_other_sources,
    register_mosaics,
    skipped_before,
    survey_images,
)
from idfzarr.errors import ForeignStore, SettingsDiffer
from idfzarr.imaging.detection import Detection, detect
from idfzarr.imaging.superstack import Superstack, make_superstack
from idfzarr.progress import Progress, silent
from idfzarr.store.cube import Cube
from idfzarr.store.images import SuperstackImages, write_superstack
from idfzarr.store.place import LocalPlace, place_of
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from idfzarr.imaging.register import Grid
    from idfzarr.store.schema import CubeSchema

__all__ = ["build"]

_STAGING_BYTES = 96 << 20
"""Bytes of a batch's measurements in memory, at most, where that allows more than one AOR."""

_MOST_IN_BATCH = 16
_LOSSLESS_FRACTION = 0.01
"""With `precision`, flux keeps the bits that 1/100 of its error bar needs."""


@dataclass
class _Clock:
    """Wall time of the steps."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True)
class _Run:
    """How tasks are run."""

    scheduler: Any
    workers: int | None
    progress: Progress

    def tasks(self, label: str, tasks: Sequence[Task]) -> list[Any]:
        outcomes = run_tasks(
            label, tasks, scheduler=self.scheduler, workers=self.workers, progress=self.progress
        )
        refuse_failures(label, outcomes)
        return [outcome.result for outcome in outcomes]


def build(
    images: str | Path,
    store: str | Path,
    *,
    types: str | Sequence[str] | None = None,
    pattern: str | None = None,
    kinds: Mapping[str, str] | None = None,
    channel: str | None = None,
    aor_table: str | Path | None = None,
    sky: str = "auto",
    threshold: float = 4.0,
    min_coverage: float | None = None,
    codec: str = "lz4",
    precision: bool = False,
    shard_objects: int = 128,
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> BuildReport:
    """Turn a folder of mosaics into a cube of lightcurves.

    Run again, it goes on where it was; a finished build changes nothing.

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
    clock, run = _Clock(), _Run(scheduler, workers, progress)
    with clock.step("survey"):
        survey = survey_images(
            images, pattern=pattern, kinds=kinds, channel=channel, aor_table=aor_table
        )
    settings = Settings(
        types=choose_types(survey.channels, types),
        sky=choose_sky(sky, has_wcs=survey.has_wcs),
        threshold=threshold,
        min_coverage=_coverage(min_coverage, has_wcs=survey.has_wcs),
        codec=codec,
        precision=precision,
        shard_objects=shard_objects,
    )
    _refuse_file(store)
    writer = CubeWriter.begin(store, settings=settings.to_dict())
    if writer.is_published:
        return _already_built(writer, survey)
    return _Build(writer, settings, run, clock).build(survey)


def _refuse_file(store: str | Path) -> None:
    place = place_of(store)
    if isinstance(place, LocalPlace) and place.exists() and not Path(place.root).is_dir():
        msg = f"{place.url} is a file and no store of idfzarr; nothing there is touched: choose another path"
        raise ForeignStore(msg)


def _coverage(asked: float | None, *, has_wcs: bool) -> float:
    if asked is not None:
        return asked
    # Frames aligned by their stars drift: only what all of them see has a whole lightcurve.
    return 0.2 if has_wcs else 1.0


def _already_built(writer: CubeWriter, survey: Survey) -> BuildReport:
    """Report a store that is finished; tidy up what a kill right after publishing left behind."""
    cube = Cube(writer.place)
    there = set(cube.schema.aor_names)
    known = skipped_before(writer.state())
    skipped, new = [], []
    for files in survey.mosaics:
        before = known.get((files.aor, files.channel))
        if before is not None:
            skipped.append(before)
        elif files.aor not in there:
            new.append(files.aor)
    new = list(dict.fromkeys(new))
    if new:
        msg = (
            f"{cube.path} is built from {len(there)} AORs, and the images hold {len(new)} more "
            f"({', '.join(new[:5])}{', ...' if len(new) > 5 else ''}): build them into a new store"
        )
        raise SettingsDiffer(msg)
    writer.remove_staging()
    _remove_work(writer)
    n_objects, n_types, _, n_aors = cube.shape
    return BuildReport(
        writer.place.url,
        n_objects,
        n_types,
        n_aors,
        skipped=(*survey.skipped, *skipped),
        changed=False,
    )


def _remove_work(writer: CubeWriter) -> None:
    work = work_place(writer.place)
    if work.exists():
        work.remove_tree("")
        writer.ledger.append("removed", prefix=work.root)


@dataclass(frozen=True)
class _Build:
    """The steps of one build."""

    writer: CubeWriter
    settings: Settings
    run: _Run
    clock: _Clock

    def build(self, survey: Survey) -> BuildReport:
        factor, unit = survey.scale_and_unit()
        given = survey
        with self.clock.step("reading and placing"):
            survey, grid, registered = self._register(survey)
        with self.clock.step("superstack and detection"):
            self._make_field(survey, grid, registered)
        with self.clock.step("photometry"):
            writer = self._lay_out(survey, grid, unit)
            n_measured = self._measure(writer, registered, factor)
        with self.clock.step("assembling shards"):
            n_shards = self._assemble(writer)
        with self.clock.step("calibration"):
            notes = self._calibrate(writer)
        with self.clock.step("publishing"):
            note_skipped(writer, given, survey)
            writer.publish()
            _remove_work(writer)
        layout = _schema(writer).layout
        return BuildReport(
            store=writer.place.url,
            n_objects=layout.n_objects,
            n_types=layout.n_types,
            n_aors=layout.n_aors,
            aors_measured=n_measured,
            shards_written=n_shards,
            skipped=survey.skipped,
            notes=(*survey.notes, *_registration_notes(registered), *notes),
            seconds=self.clock.seconds,
        )

    def _register(self, survey: Survey) -> tuple[Survey, Grid, list[Registered]]:
        told = {
            "scheduler": self.run.scheduler,
            "workers": self.run.workers,
            "progress": self.run.progress,
        }
        survey, grid, stars = grid_of(survey, **told)
        survey, registered = register_mosaics(
            survey, grid, stars, writer=self.writer, sky=self.settings.sky, **told
        )
        return survey, grid, registered

    def _make_field(self, survey: Survey, grid: Grid, registered: Sequence[Registered]) -> None:
        """Make superstacks and objects and write them, unless an earlier run did from the same."""
        digest = _sources_digest(registered)
        state = self.writer.state()
        before = [r.fields["field"] for r in state.of("note") if "field" in r.fields]
        if before and before[-1] == digest:
            return
        refuse_other_sources(state, registered, where=self.writer.place.url)
        if before:
            # If we are stopped half-way, no later run may take what then stands for its own.
            self.writer.ledger.append("note", field="")
        stacks = {c: self._superstack(c, grid, registered) for c in survey.channels}
        detection = detect(
            stacks,
            wcs=grid.wcs,
            min_coverage=self.settings.min_coverage,
            threshold=self.settings.threshold,
        )
        for name, stack in stacks.items():
            aors = [r.source.files.aor for r in registered if r.source.files.channel == name]
            unit = survey.headers[0].unit
            self._write_stack(name, stack, detection, grid=grid, aors=aors, unit=unit)
        self.writer.write_table("catalogue", _columns(detection))
        self.writer.ledger.append("note", field=digest, n_objects=len(detection.catalogue))

    def _superstack(self, channel: str, grid: Grid, registered: Sequence[Registered]) -> Superstack:
        own = [r for r in registered if r.source.files.channel == channel]
        label = f"superstack of {channel}"

        def told(_: str, done: int, total: int) -> None:
            self.run.progress(label, done, total)

        return make_superstack(
            [MosaicLayer(r.source) for r in own],
            [r.sky for r in own],
            grid.shape,
            clip=self.settings.clip,
            progress=told,
        )

    def _write_stack(
        self,
        channel: str,
        stack: Superstack,
        detection: Detection,
        *,
        grid: Grid,
        aors: Sequence[str],
        unit: str,
    ) -> None:
        images = SuperstackImages(
            channel=channel,
            flux=stack.flux,
            err=stack.err,
            coverage=stack.coverage.astype(np.float32),
            segmentation=detection.segmentation,
            header=_wcs_cards(grid.wcs),
            attributes={"unit": unit, "pixel_scale": json_value(grid.pixel_scale)},
        )
        write_superstack(self.writer, images)
        group = f"images/superstack/{channel}"
        self.writer.write_array(f"{group}/background", stack.background, dims=("y", "x"))
        self.writer.write_array(f"{group}/aors", np.array(aors, dtype=str), dims=("stacked",))

    def _lay_out(self, survey: Survey, grid: Grid, unit: str) -> CubeWriter:
        columns = ("object_id", "ra", "dec", "x", "y")
        objects = {name: self.writer.read_array(f"catalogue/{name}") for name in columns}
        aors = survey.aors
        table: dict[str, Any] = {
            "aor": aors.reqkey,
            "aor_name": np.array(aors.name, dtype=str),
            "mjd": aors.mjd,
            "exptime": aors.exptime,
        }
        if np.isfinite(aors.bjd_tdb).any():
            table["bjd_tdb"] = aors.bjd_tdb
        n_objects, n_types = len(objects["object_id"]), len(self.settings.types)
        return self.writer.lay_out(
            objects=objects,
            types=_type_table(self.settings, grid.pixel_scale, unit),
            aors=table,
            channels=survey.channels,
            codec=self.settings.codec,
            precision=_LOSSLESS_FRACTION if self.settings.precision else None,
            shard_objects=self.settings.shard_objects,
            staging_aors=_batch_size(n_objects, n_types, len(aors.name)),
        )

    def _measure(self, writer: CubeWriter, registered: Sequence[Registered], factor: float) -> int:
        """Stage the batches that are not staged; return how many AORs were measured."""
        if _all_done(writer):
            return 0
        staged = writer.staged()
        tasks, n_aors = [], 0
        for batch in range(writer.n_batches):
            first, last = writer.batch_aors(batch)
            if batch in staged:
                continue
            own = [r for r in registered if first <= r.source.position < last]
            n_aors += last - first
            work = Batch(batch, tuple(r.source for r in own), tuple(r.files for r in own))
            arguments = (writer, work, self.settings, factor)
            tasks.append(Task(f"AORs {first} to {last - 1}", measure_batch, arguments))
        self.run.tasks("measuring AORs", tasks)
        return n_aors

    def _assemble(self, writer: CubeWriter) -> int:
        layout = _schema(writer).layout
        done = writer.done()
        todo = [k for k in range(layout.n_shards) if k not in done]
        self.run.tasks(
            "assembling shards", [Task(layout.key(k), _assemble_shard, (writer, k)) for k in todo]
        )
        return len(todo)

    def _calibrate(self, writer: CubeWriter) -> list[str]:
        schema = _schema(writer)
        told = measured_quantities(writer.state())
        for name in ("dx", "dy", "offset_rms", "sky", "sky_rms", "n_hits"):
            _write_measured(writer, schema, name, told)
        scales = noise_scales(schema, told)
        zeropoint, zeropoint_err, notes = calibrate(writer, scales, progress=self.run.progress)
        writer.write_coordinate("noise_scale", scales)
        writer.write_coordinate("zeropoint", zeropoint)
        writer.write_coordinate("zeropoint_err", zeropoint_err)
        write_variability(
            writer,
            zeropoint,
            scales,
            scheduler=self.run.scheduler,
            workers=self.run.workers,
            progress=self.run.progress,
        )
        off = [f"{aor} {channel}" for (aor, channel), t in told.items() if t.get("is_off")]
        if off:
            notes.append(f"pointing off, flagged aor_bad: {', '.join(off)}")
        return notes


def _schema(writer: CubeWriter) -> CubeSchema:
    assert writer.schema is not None  # noqa: S101  # callers have laid it out
    return writer.schema


def _all_done(writer: CubeWriter) -> bool:
    return len(writer.done()) == _schema(writer).layout.n_shards


def _assemble_shard(writer: CubeWriter, shard: int) -> None:
    """Turn one shard's staging into the shard; the task owns the shard's file."""
    writer.write_shard(shard, writer.assemble(shard))


def _batch_size(n_objects: int, n_types: int, n_aors: int) -> int:
    """Return how many AORs are measured and staged together: bounded memory, no idle worker."""
    fitting = _STAGING_BYTES // max(1, n_objects * n_types * 12)
    return int(max(1, min(fitting, _MOST_IN_BATCH, math.ceil(n_aors / 8))))


def _sources_digest(registered: Sequence[Registered]) -> str:
    """Return a digest of every file that the field is made of."""
    import hashlib

    digest = hashlib.sha256()
    for found in registered:
        for file in found.files:
            digest.update(f"{found.source.files.aor} {file['kind']} {file['sha256']}\n".encode())
    return digest.hexdigest()


def _columns(detection: Detection) -> dict[str, NDArray[Any]]:
    table = detection.catalogue
    return {str(name): np.asarray(table[name]) for name in table.colnames}


def _type_table(settings: Settings, pixel_scale: float, unit: str) -> dict[str, Any]:
    measurements = settings.measurements
    radii = [math.nan if m.radius is None else m.radius * pixel_scale for m in measurements]
    return {
        "type": np.array(settings.types, dtype=str),
        "type_channel": np.array([m.channel for m in measurements], dtype=str),
        "type_image": np.array([m.image for m in measurements], dtype=str),
        "type_method": np.array([m.method for m in measurements], dtype=str),
        "radius_arcsec": np.array(radii),
        "unit": np.array(["" if m.statistic else unit for m in measurements], dtype=str),
    }


def _write_measured(
    writer: CubeWriter,
    schema: CubeSchema,
    name: str,
    told: Mapping[tuple[str, str], Mapping[str, Any]],
) -> None:
    values = np.full((len(schema.aor_names), len(schema.channels)), np.nan)
    for a, aor in enumerate(schema.aor_names):
        for c, channel in enumerate(schema.channels):
            value = told.get((aor, channel), {}).get(name)
            if value is not None:
                values[a, c] = value
    writer.write_coordinate(
        name,
        values,
        dims=None if name in ("dx", "dy") else ("aor", "channel"),
        attributes=_MEASURED_ATTRIBUTES.get(name),
    )


_MEASURED_ATTRIBUTES: dict[str, dict[str, str]] = {
    "offset_rms": {"long_name": "scatter of one star about the pointing offset", "units": "pixel"},
    "sky": {"long_name": "background beyond the superstack's, image units"},
    "sky_rms": {"long_name": "scatter of the background, image units"},
    "n_hits": {"long_name": "cosmic rays replaced in the clean image"},
}


def _wcs_cards(wcs: WCS | None) -> dict[str, float | int | str | bool]:
    if wcs is None:
        return {}
    header = wcs.to_header(relax=True)
    return {str(card.keyword): card.value for card in header.cards if card.keyword}


def _registration_notes(registered: Sequence[Registered]) -> list[str]:
    """Say how mosaics were placed, and where errors come from a noise model."""
    notes = []
    for how, sentence in (
        ("reprojected", "mosaics resampled onto the field's grid by their WCS"),
        ("stars", "frames without WCS aligned by their stars"),
    ):
        own = [r for r in registered if r.how == how]
        if own:
            rms = [r.rms for r in own if math.isfinite(r.rms)]
            scatter = f", median residual {np.median(rms):.2f} px" if rms else ""
            notes.append(f"{len(own)} {sentence}{scatter}")
    n_without = sum(not r.has_unc for r in registered)
    if n_without:
        notes.append(
            f"{n_without} mosaics have no unc: errors from a noise model (scatter of the sky, "
            "and photon noise by the scatter about the superstack), flagged noise_model"
        )
    return notes
