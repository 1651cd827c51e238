"""The steps of a build: each can be repeated, and what is done is not done again."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.calibrate import (
    calibrate,
    measured_quantities,
    noise_scales,
)
from idfzarr.build.extend import (
    Extension,
    aor_columns,
    begin_extension,
    calibrate_new,
    calibrate_types,
    grid_of_store,
    in_order_of,
    mosaics_of_cube,
    refuse_other_unit,
    register_new,
)
from idfzarr.build.measure import Batch, measure_batch
from idfzarr.build.placed import MosaicLayer, work_place
from idfzarr.build.register import (
    Registered,
    note_skipped,
    refuse_other_sources,
    register_mosaics,
)
from idfzarr.build.report import BuildReport, json_value
from idfzarr.build.scheduler import Task, run_tasks
from idfzarr.build.shard_tasks import refuse_failures
from idfzarr.build.survey import Survey, grid_of
from idfzarr.build.variability_table import write_variability
from idfzarr.imaging.detection import Detection, detect
from idfzarr.imaging.superstack import Superstack, make_superstack
from idfzarr.store.images import SuperstackImages, write_superstack
from idfzarr.store.relayout import begin_relayout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from astropy.wcs import WCS
    from numpy.typing import NDArray

    from idfzarr.build.report import Skipped
    from idfzarr.build.settings import Settings
    from idfzarr.imaging.register import Grid
    from idfzarr.progress import Progress
    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.schema import CubeSchema
    from idfzarr.store.writer import CubeWriter

__all__ = ["Clock", "Run", "Steps", "remove_work"]

_STAGING_BYTES = 96 << 20
"""Bytes of a batch's measurements in memory, at most, where that allows more than one AOR."""

_MOST_IN_BATCH = 16
_LOSSLESS_FRACTION = 0.01
"""With `precision`, flux keeps the bits that 1/100 of its error bar needs."""


@dataclass
class Clock:
    """Wall time of the steps."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what is done inside."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun


@dataclass(frozen=True)
class Run:
    """How tasks are run."""

    scheduler: Any
    workers: int | None
    progress: Progress

    @property
    def options(self) -> dict[str, Any]:
        """What steps that run tasks of their own are told."""
        return {"scheduler": self.scheduler, "workers": self.workers, "progress": self.progress}

    def tasks(self, label: str, tasks: Sequence[Task]) -> list[Any]:
        """Run tasks and return their results; raises `BuildFailed` where any failed."""
        outcomes = run_tasks(
            label, tasks, scheduler=self.scheduler, workers=self.workers, progress=self.progress
        )
        refuse_failures(label, outcomes)
        return [outcome.result for outcome in outcomes]


def remove_work(writer: CubeWriter) -> None:
    """Remove the work folder beside a store, and say so in the ledger."""
    work = work_place(writer.place)
    if work.exists():
        work.remove_tree("")
        writer.ledger.append("removed", prefix=work.root)


@dataclass(frozen=True)
class Steps:
    """The steps of one build."""

    writer: CubeWriter
    settings: Settings
    run: Run
    clock: Clock

    def build(self, survey: Survey) -> BuildReport:
        """Go all the way from mosaics to a published cube."""
        given = survey
        with self.clock.step("reading and placing"):
            survey, grid, registered = self._register(survey)
            factor, unit = survey.scale_and_unit(grid.pixel_scale)
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
            remove_work(writer)
        told = (*survey.notes, *_registration_notes(registered), *notes)
        return self.report(writer, survey, measured=n_measured, shards=n_shards, notes=told)

    def append(self, plan: Extension, new: Survey) -> BuildReport:
        """Measure the AORs of a plan and put them into the cube."""
        cube = plan.cube
        with self.clock.step("reading and placing"):
            grid = grid_of_store(cube.place, cube.schema.channels[0])
            factor, unit = new.scale_and_unit(grid.pixel_scale)
            refuse_other_unit(cube, unit)
            left, registered = register_new(
                self.writer, new, grid, self.settings, **self.run.options
            )
            note_skipped(self.writer, new, left)
        size = _batch_size(
            cube.schema.layout.n_objects, len(cube.schema.types), len(left.aors.name)
        )
        with self.clock.step("photometry"):
            writer = begin_extension(plan, left, staging_aors=size)
            n_measured = self._measure(writer, registered, factor)
        with self.clock.step("assembling shards"):
            n_shards = self._assemble(writer)
        with self.clock.step("calibration"):
            calibrate_new(writer)
        with self.clock.step("publishing"):
            writer.publish()
            remove_work(self.writer)
        what = "measured again" if plan.replaced else "appended"
        notes = (
            f"AORs {what}: {', '.join(left.aors.name[:5])}{', ...' * (len(left.aors.name) > 5)}",
            "variability/ covers the AORs before; idfzarr stats --update computes it anew",
        )
        return self.report(
            writer,
            left,
            measured=n_measured,
            shards=n_shards,
            notes=(*new.notes, *notes),
            skipped=(*left.skipped, *plan.skipped),
        )

    def add_types(self, plan: Extension, survey: Survey) -> BuildReport:
        """Measure further types on the AORs of the cube and lay the cube out anew with them."""
        cube = plan.cube
        own = mosaics_of_cube(cube, self.writer.state(), survey)
        with self.clock.step("reading and placing"):
            grid = grid_of_store(cube.place, cube.schema.channels[0])
            factor, unit = own.scale_and_unit(grid.pixel_scale)
            refuse_other_unit(cube, unit)
            left, registered = register_new(
                self.writer, own, grid, self.settings, **self.run.options
            )
            registered = in_order_of(cube, registered)
        layout = cube.schema.layout
        size = _batch_size(layout.n_objects, len(self.settings.types), layout.n_aors)
        with self.clock.step("photometry"):
            added = replace(self.settings, types=plan.new_types)
            table = _type_table(added, grid.pixel_scale, unit)
            writer = begin_relayout(cube.place, types=table, staging_aors=size)
            n_measured = self._measure(writer, registered, factor)
        with self.clock.step("assembling shards"):
            n_shards = self._assemble(writer)
        with self.clock.step("calibration"):
            calibrate_types(writer, cube, **self.run.options)
        with self.clock.step("publishing"):
            writer.publish()
            remove_work(self.writer)
        notes = (f"types added: {', '.join(plan.new_types)}",)
        return self.report(writer, left, measured=n_measured, shards=n_shards, notes=notes)

    def report(
        self,
        writer: CubeWriter,
        survey: Survey,
        *,
        measured: int = 0,
        shards: int = 0,
        notes: Sequence[str] = (),
        skipped: Sequence[Skipped] | None = None,
        changed: bool = True,
    ) -> BuildReport:
        """Return what was done."""
        layout = _schema(writer).layout
        return BuildReport(
            store=self.writer.place.url,
            n_objects=layout.n_objects,
            n_types=layout.n_types,
            n_aors=layout.n_aors,
            aors_measured=measured,
            shards_written=shards,
            skipped=tuple(survey.skipped if skipped is None else skipped),
            notes=tuple(notes),
            seconds=self.clock.seconds,
            changed=changed,
        )

    def _register(self, survey: Survey) -> tuple[Survey, Grid, list[Registered]]:
        survey, grid, stars = grid_of(survey, **self.run.options)
        survey, registered = register_mosaics(
            survey,
            grid,
            stars,
            writer=self.writer,
            sky=self.settings.sky,
            **self.run.options,
        )
        return survey, grid, registered

    def _make_field(self, survey: Survey, grid: Grid, registered: Sequence[Registered]) -> None:
        """Make superstacks and objects and write them, unless an earlier run did from the same."""
        digest = _sources_digest(registered)
        state = self.writer.state()
        before = _field_digests(state)
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
            attributes={
                "unit": unit,
                "pixel_scale": json_value(grid.pixel_scale),
                "tolerance": grid.tolerance,
            },
        )
        write_superstack(self.writer, images)
        group = f"images/superstack/{channel}"
        self.writer.write_array(f"{group}/background", stack.background, dims=("y", "x"))
        self.writer.write_array(f"{group}/aors", np.array(aors, dtype=str), dims=("stacked",))

    def _lay_out(self, survey: Survey, grid: Grid, unit: str) -> CubeWriter:
        columns = ("object_id", "ra", "dec", "x", "y")
        objects = {name: self.writer.read_array(f"catalogue/{name}") for name in columns}
        aors = survey.aors
        n_objects, n_types = len(objects["object_id"]), len(self.settings.types)
        return self.writer.lay_out(
            objects=objects,
            types=_type_table(self.settings, grid.pixel_scale, unit),
            aors=aor_columns(survey, survey.channels),
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
        field_made = _field_digests(writer.state())[-1:] or [""]
        tasks, n_aors = [], 0
        for batch in range(writer.n_batches):
            first, last = writer.batch_aors(batch)
            if batch in staged:
                continue
            own = [r for r in registered if first <= r.source.position < last]
            n_aors += last - first
            sources, files = tuple(r.source for r in own), tuple(r.files for r in own)
            work = Batch(batch, sources, files, field_made[0])
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
        zeropoint, zeropoint_err, notes = calibrate(
            writer, scales, frozen=False, progress=self.run.progress
        )
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


def _field_digests(state: LedgerState) -> list[str]:
    """Return the digests of what superstack and catalogue were made from, the newest last."""
    return [str(r.fields["field"]) for r in state.of("note") if "field" in r.fields]


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
