"""Photometry that others made, one catalogue per AOR, into a published cube of lightcurves.

The steps are those of a build, without the images: read every table once, agree on objects, types
and AORs, stage batches of AORs, assemble shards, compute statistics, publish. Every step is
repeated without harm.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.build.alone import Alone
from idfzarr.build.calibrate import calibrate as find_zeropoints
from idfzarr.build.catalogue_columns import FluxScale, parse_rules
from idfzarr.build.catalogue_notes import match_notes, source_notes, unseen_notes
from idfzarr.build.catalogue_objects import (
    nearest_neighbour,
    reference_objects,
)
from idfzarr.build.catalogue_survey import Reading, survey_tables
from idfzarr.build.catalogue_tasks import (
    TableInput,
    assemble_shard,
    shard_signal,
    stage_batch,
    writer_schema,
)
from idfzarr.build.catalogues import DEFAULT_TABLES, catalogue_of, find_tables, read_catalogue
from idfzarr.build.remake import remake_shards
from idfzarr.build.report import BuildReport, Skipped
from idfzarr.build.scheduler import Task, pool_of_workers, run_tasks
from idfzarr.build.shard_tasks import refuse_failures
from idfzarr.build.steps import Clock
from idfzarr.build.variability_table import write_variability
from idfzarr.errors import SettingsDiffer, UsageError, closest
from idfzarr.imaging.aor_table import TABLE_NAMES, find_aor_table
from idfzarr.imaging.fits_image import source_digest
from idfzarr.lightcurve import AB_ZERO_MAGNITUDE
from idfzarr.measurement import parse_measurement
from idfzarr.progress import Progress, silent
from idfzarr.store.checksum import crc32c
from idfzarr.store.cube import Cube
from idfzarr.store.ledger import read_ledger
from idfzarr.store.place import place_of
from idfzarr.store.root import ROOT_KEY, read_root
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.build.catalogue_objects import ObjectList
    from idfzarr.build.catalogue_survey import CatalogueSurvey
    from idfzarr.build.catalogues import TableFile

__all__ = ["import_tables"]

_STAGING_BYTES = 96 << 20
_MOST_IN_BATCH = 16
_LOSSLESS_FRACTION = 0.01
_NOTE = "imported_tables"
"""Field of the ledger's note that says which tables a cube is made of."""

Match = Literal["id", "sky"]
Flags = Literal["auto", "sextractor", "external"]
Source = dict[str, Any]


def import_tables(
    tables: str | Path,
    store: str | Path,
    *,
    columns: Mapping[str, Any] | None = None,
    pattern: str | None = None,
    images: Mapping[str, str] | None = None,
    channel: str | None = None,
    objects: Any = None,
    match: Match | None = None,
    match_radius: float = 1.0,
    object_id: str | None = None,
    aor_table: str | Path | None = None,
    time_column: str | None = None,
    unit: str | None = None,
    mag_zeropoint: float | Mapping[str, float] = AB_ZERO_MAGNITUDE,
    count_zeropoint: float | Mapping[str, float] | None = None,
    radii: Sequence[float] | None = None,
    flags: Flags = "auto",
    calibrate: bool = False,
    codec: str = "lz4",
    precision: bool = False,
    shard_objects: int = 128,
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> BuildReport:
    """Turn a folder of photometry catalogues, one per AOR, into a cube of lightcurves.

    Run again, it goes on where it was; a finished import changes nothing.

    Parameters
    ----------
    tables
        Folder of the catalogues: SExtractor's FITS_LDAC and ASCII_HEAD, FITS tables, ECSV, CSV,
        Parquet, VOTable.
    store
        Where the cube is to be.
    columns
        From a type, or the part of it that file names do not say (``auto``, ``auto_clean``,
        ``ch1_auto_clean``), to its columns of value, error and flag; see
        `idfzarr.build.catalogue_columns.parse_rules`. SExtractor's names are known without it.
    pattern, images, channel
        How the files are called, see `idfzarr.build.catalogues.find_tables`.
    objects
        Table of objects, or its path: object_id, ra, dec. Without it the objects are those of the
        tables, by their ids.
    match
        ``id`` or ``sky``: how rows are told; by sky where `objects` is given, else by id.
    match_radius
        Arc seconds within which a row is an object, the nearest pairs first, one to one. By id:
        beyond it an id is of another object, and the table is left out.
    object_id
        Column of the ids; NUMBER, object_id, id or label unless given.
    aor_table
        Table of the AORs (reqkey, group_name, mjd, exptime); one beside the tables as ``aors.ecsv``
        is found, else times are those of the tables.
    time_column
        Column or metadata with the middle of the exposure, MJD in UTC; ``mjd`` unless given. Header
        cards as MJD-OBS and EXPTIME are read too.
    unit
        Unit of flux columns that have none.
    mag_zeropoint
        Magnitude of a source of 1 microjansky, one or by channel; 23.9 for AB magnitudes.
    count_zeropoint
        AB magnitude of one count, one or by channel (SExtractor's MAG_ZEROPOINT); without it counts
        stay counts.
    radii
        Radii in pixels of the apertures of FLUX_APER (half of PHOT_APERTURES).
    flags
        ``sextractor`` or ``external`` (whatever is not 0 is bad); ``auto`` takes FLAGS of a table
        with SExtractor's names for SExtractor's.
    calibrate
        Find zero points by the stars themselves, as a build does. Off, for catalogues are mostly
        calibrated already.
    codec, precision, shard_objects
        How chunks are written, see `idfzarr.build.pipeline.build`.
    scheduler, workers
        Where tasks run, see `idfzarr.build.scheduler.run_tasks`.
    progress
        Told how far each step is.

    Returns
    -------
    BuildReport
        What was done, and which tables were left out and why.

    Raises
    ------
    UsageError
        There is nothing to import from, an option cannot be, or the store is being filled.
    AorTableError
        The AOR table cannot be used, or nothing tells when tables were taken.
    SettingsDiffer
        A store was begun there with other settings, or from tables that have changed since.
    ForeignStore
        Something else is there.
    BuildFailed
        Tasks failed; nothing was published, and what is done is kept.
    StorageFull
        The disk is full; the same holds.

    Examples
    --------
    >>> report = import_tables("catalogues", "field.zarr")  # doctest: +SKIP
    """
    folder = Path(tables)
    rules = None if columns is None else parse_rules(columns)
    scale = FluxScale(unit, mag_zeropoint, count_zeropoint, flags)
    by_sky = _by_sky(match, match_radius, objects)
    reading = Reading(
        rules=rules,
        radii=None if radii is None else tuple(float(r) for r in radii),
        scale=_checked(scale),
        object_id=object_id,
        by_sky=by_sky,
        radius=float(match_radius),
        time=time_column,
    )
    asked = _Asked(
        pattern or DEFAULT_TABLES, images, channel, calibrate, codec, precision, shard_objects
    )
    where = Path(aor_table) if aor_table is not None else _beside(folder)
    ignore = [Path(p) for p in (where, objects) if isinstance(p, str | Path)]
    ignore += [folder / name for name in TABLE_NAMES]
    files = find_tables(
        folder,
        pattern=asked.pattern,
        images=images,
        channel=channel,
        many_channels=bool(rules) and all(r.channel for r in rules or ()),
        ignore=ignore,
    )
    reference = None if objects is None else _reference(objects, reading)
    told = _settings(asked, reading, reference)
    with Alone(place_of(store)) as alone, pool_of_workers(scheduler, workers) as pool:
        run = _Run(pool, workers, progress)
        digests = _digests(files, run)
        if _is_begun(store):
            writer = CubeWriter.begin(store, settings=told)
            _refuse_changed(writer, digests)
            if writer.is_published:
                return _already_imported(writer, files)
        steps = _Import(store, told, asked, reading, run, alone)
        return steps.run_all(files, digests, reference, where)


@dataclass(frozen=True)
class _Asked:
    """Options that are not about reading a table."""

    pattern: str
    images: Mapping[str, str] | None
    channel: str | None
    calibrate: bool
    codec: str
    precision: bool
    shard_objects: int


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


# ---------------------------------------------------------------- what was asked


def _by_sky(match: str | None, radius: float, objects: Any) -> bool:
    if match not in {None, "id", "sky"}:
        msg = f"rows are matched by 'id' or by 'sky', not by {match!r}"
        raise UsageError(msg)
    if match == "sky" and objects is None:
        msg = "matching by sky needs a table of objects (object_id, ra, dec)"
        raise UsageError(msg)
    if not 0 < radius < math.inf:
        msg = f"a match radius must be a positive number of arc seconds, not {radius!r}"
        raise UsageError(msg)
    return match == "sky" or (match is None and objects is not None)


def _checked(scale: FluxScale) -> FluxScale:
    """Refuse a unit or a way of flags that does not exist, before any table is read."""
    from astropy import units

    if scale.flags not in {"auto", "sextractor", "external"}:
        known = ("auto", "sextractor", "external")
        msg = (
            f"flags cannot be {scale.flags!r}{closest(scale.flags, known)}; use {', '.join(known)}"
        )
        raise UsageError(msg)
    if scale.unit is not None:
        try:
            units.Unit(scale.unit)
        except (ValueError, TypeError):
            msg = f"the unit {scale.unit!r} is not understood; use uJy, mJy, Jy or ct, say"
            raise UsageError(msg) from None
    return scale


def _beside(folder: Path) -> Path | None:
    return find_aor_table(folder) if folder.is_dir() else None


def _reference(objects: Any, reading: Reading) -> ObjectList:
    if isinstance(objects, str | Path):
        catalogue = read_catalogue(objects)
    else:
        catalogue = catalogue_of(objects, "the table of objects")
    # Ids of the tables may be in a column of another name than those of the objects.
    named = reading.object_id if catalogue.find(reading.object_id or "") else None
    return reference_objects(catalogue, object_id=named, needs_sky=reading.by_sky)


def _settings(asked: _Asked, reading: Reading, reference: ObjectList | None) -> dict[str, Any]:
    """Return what decides which numbers come out, as it stands in the store."""
    read = asdict(reading)
    told = asdict(asked) | {"images": None if asked.images is None else dict(asked.images)}
    if reference is not None:
        parts = (reference.ids, reference.ra, reference.dec)
        told["objects"] = [
            len(reference),
            *(crc32c(np.ascontiguousarray(p).tobytes()) for p in parts),
        ]
    for name in ("mag_zeropoint", "count_zeropoint"):
        value = read["scale"][name]
        read["scale"][name] = (
            value if value is None or isinstance(value, int | float) else dict(value)
        )
    return {"made_by": "import_tables", **told, **read}


# ---------------------------------------------------------------- what was imported before


def _key(file: TableFile) -> str:
    return f"{file.aor} {file.channel} {file.image}"


def _digest(path: Path) -> tuple[int, str]:
    return source_digest(path)


def _digests(files: Sequence[TableFile], run: _Run) -> dict[str, Source]:
    """Return path, size and sha256 of every table."""
    tasks = [Task(str(file.path), _digest, (file.path,)) for file in files]
    return {
        _key(file): {"path": str(file.path), "size": size, "sha256": sha256}
        for file, (size, sha256) in zip(files, run.tasks("checking tables", tasks), strict=True)
    }


def _is_begun(store: str | Path) -> bool:
    place = place_of(store)
    return place.size(ROOT_KEY) is not None or read_ledger(place).begun is not None


def _noted(writer: CubeWriter) -> dict[str, Any]:
    """Return the ledger's note of what the cube is made of."""
    notes = [r.fields[_NOTE] for r in writer.state().of("note") if _NOTE in r.fields]
    return dict(notes[-1]) if notes else {}


def _refuse_changed(writer: CubeWriter, digests: Mapping[str, Source]) -> None:
    """Refuse tables that changed since measurements of them were written."""
    state = writer.state()
    if not (state.staged or state.done):
        return
    before = _noted(writer).get("tables", {})
    changed = [
        now["path"]
        for key, now in digests.items()
        if key in before and before[key]["sha256"] != now["sha256"]
    ]
    if changed:
        msg = (
            f"{len(changed)} tables changed since they were imported into {writer.place.url} "
            f"({', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''}): put the old files "
            "back, or import into a new store"
        )
        raise SettingsDiffer(msg)


def _already_imported(writer: CubeWriter, files: Sequence[TableFile]) -> BuildReport:
    """Report a store that is finished; tidy up what a kill right after publishing left behind."""
    cube = Cube(writer.place)
    noted = _noted(writer)
    there = set(cube.schema.aor_names) | {key.split(" ")[0] for key in noted.get("tables", {})}
    new = list(dict.fromkeys(file.aor for file in files if file.aor not in there))
    if new:
        msg = (
            f"{cube.path} is imported from {len(cube.schema.aor_names)} AORs, and the tables hold "
            f"{len(new)} more ({', '.join(new[:5])}{', ...' if len(new) > 5 else ''}): import them "
            "into a new store"
        )
        raise SettingsDiffer(msg)
    writer.remove_staging()
    writer = replace(writer, schema=cube.schema)
    n_made = remake_shards(writer, read_root(writer.place))
    n_objects, n_types, _, n_aors = cube.shape
    return BuildReport(
        writer.place.url,
        n_objects,
        n_types,
        n_aors,
        shards_written=n_made,
        skipped=tuple(Skipped(**told) for told in noted.get("skipped", ())),
        changed=bool(n_made),
    )


# ---------------------------------------------------------------- the steps


@dataclass(frozen=True)
class _Import:
    """The steps of one import."""

    store: str | Path
    settings: dict[str, Any]
    asked: _Asked
    reading: Reading
    run: _Run
    alone: Alone
    clock: Clock = field(default_factory=Clock)

    def run_all(
        self,
        files: Sequence[TableFile],
        digests: Mapping[str, Source],
        reference: ObjectList | None,
        aor_table: Path | None,
    ) -> BuildReport:
        with self.clock.step("reading tables"):
            survey = survey_tables(
                files,
                self.reading,
                reference=reference,
                aor_table=aor_table,
                scheduler=self.run.scheduler,
                workers=self.run.workers,
                progress=self.run.progress,
            )
        writer = self._lay_out(survey)
        self._note(writer, digests, survey)
        with self.clock.step("importing measurements"):
            n_staged = self._stage(writer, survey, digests)
        with self.clock.step("assembling shards"):
            n_shards = self._assemble(writer)
        with self.clock.step("statistics"):
            notes = self._finish(writer, survey, has_reference=reference is not None)
        with self.clock.step("publishing"):
            writer.publish()
        layout = writer_schema(writer).layout
        return BuildReport(
            store=writer.place.url,
            n_objects=layout.n_objects,
            n_types=layout.n_types,
            n_aors=layout.n_aors,
            aors_measured=n_staged,
            shards_written=n_shards,
            skipped=survey.skipped,
            notes=(*source_notes(survey, self.reading, aor_table), *survey.notes, *notes),
            seconds=self.clock.seconds,
        )

    def _lay_out(self, survey: CatalogueSurvey) -> CubeWriter:
        aors = survey.aors
        table: dict[str, Any] = {
            "aor": aors.reqkey,
            "aor_name": np.array(aors.name, dtype=str),
            "mjd": aors.mjd,
            "exptime": aors.exptime,
        }
        if np.isfinite(aors.bjd_tdb).any():
            table["bjd_tdb"] = aors.bjd_tdb
        n_objects, n_types = len(survey.objects), len(survey.units)
        # Begun only now: tables that cannot be used, or a mistaken option, leave nothing behind.
        writer = CubeWriter.begin(self.store, settings=self.settings)
        self.alone.claim()
        return writer.lay_out(
            objects=_object_columns(survey.objects),
            types=_type_table(survey.units),
            aors=table,
            channels=aors.channels,
            codec=self.asked.codec,
            precision=_LOSSLESS_FRACTION if self.asked.precision else None,
            shard_objects=self.asked.shard_objects,
            staging_aors=_batch_size(n_objects, n_types, len(aors)),
        )

    def _note(
        self, writer: CubeWriter, digests: Mapping[str, Source], survey: CatalogueSurvey
    ) -> None:
        told = {"tables": dict(digests), "skipped": [asdict(s) for s in survey.skipped]}
        if _noted(writer) != told:
            writer.ledger.append("note", **{_NOTE: told})

    def _stage(
        self, writer: CubeWriter, survey: CatalogueSurvey, digests: Mapping[str, Source]
    ) -> int:
        """Stage the batches that are not staged; return how many AORs that were."""
        if len(writer.done()) == writer_schema(writer).layout.n_shards:
            return 0
        place = {name: k for k, name in enumerate(survey.aors.name)}
        inputs = [
            TableInput(place[s.file.aor], s.file, s.types, dict(digests[_key(s.file)]))
            for s in survey.tables
        ]
        staged, tasks, n_aors = writer.staged(), [], 0
        for batch in range(writer.n_batches):
            if batch in staged:
                continue
            first, last = writer.batch_aors(batch)
            n_aors += last - first
            own = [i for i in inputs if first <= i.position < last]
            arguments = (writer, batch, own, survey.objects, self.reading)
            tasks.append(Task(f"AORs {first} to {last - 1}", stage_batch, arguments))
        self.run.tasks("importing AORs", tasks)
        return n_aors

    def _assemble(self, writer: CubeWriter) -> int:
        layout = writer_schema(writer).layout
        done = writer.done()
        todo = [k for k in range(layout.n_shards) if k not in done]
        self.run.tasks(
            "assembling shards", [Task(layout.key(k), assemble_shard, (writer, k)) for k in todo]
        )
        return len(todo)

    def _finish(
        self, writer: CubeWriter, survey: CatalogueSurvey, *, has_reference: bool
    ) -> list[str]:
        """Write what is known only now: signals, neighbours, zero points, statistics."""
        schema = writer_schema(writer)
        layout = schema.layout
        signals = self.run.tasks(
            "signals",
            [Task(layout.key(k), shard_signal, (writer, k)) for k in range(layout.n_shards)],
        )
        _write_catalogue(writer, survey.objects, np.concatenate(signals))
        notes = match_notes(writer, schema, self.reading) if has_reference else []
        notes += unseen_notes(writer)
        shape = (layout.n_types, layout.n_aors)
        zeropoint = np.zeros(shape, dtype=np.float32)
        scales = np.full(shape, np.nan, dtype=np.float32)
        if self.asked.calibrate:
            zeropoint, error, told = find_zeropoints(writer, scales, progress=self.run.progress)
            notes += told
            for name, values in (
                ("zeropoint", zeropoint),
                ("zeropoint_err", error),
                ("noise_scale", scales),
            ):
                writer.write_coordinate(name, values)
        write_variability(
            writer,
            zeropoint,
            scales,
            scheduler=self.run.scheduler,
            workers=self.run.workers,
            progress=self.run.progress,
        )
        return notes


def _batch_size(n_objects: int, n_types: int, n_aors: int) -> int:
    """Return how many AORs are staged together: bounded memory, no idle worker."""
    fitting = _STAGING_BYTES // max(1, n_objects * n_types * 12)
    return int(max(1, min(fitting, _MOST_IN_BATCH, math.ceil(n_aors / 8))))


def _object_columns(objects: ObjectList) -> dict[str, NDArray[Any]]:
    own = {name: getattr(objects, name) for name in ("ra", "dec", "x", "y")}
    return {"object_id": objects.ids, **own, **objects.columns}


def _type_table(units: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    measurements = [parse_measurement(name) for name in units]
    return {
        "type": np.array(list(units), dtype=str),
        "type_channel": np.array([m.channel for m in measurements], dtype=str),
        "type_image": np.array([m.image for m in measurements], dtype=str),
        "type_method": np.array([m.method for m in measurements], dtype=str),
        # The tables do not say how large their pixels are.
        "radius_arcsec": np.full(len(units), np.nan),
        "unit": np.array(list(units.values()), dtype=str),
    }


def _write_catalogue(writer: CubeWriter, objects: ObjectList, signals: NDArray[np.float64]) -> None:
    """Add what choosing comparison stars, and ranking, want to know."""
    distance, isolated, unit = nearest_neighbour(objects)
    columns: dict[str, NDArray[Any]] = {
        f"snr_{channel}": signals[:, c].astype(np.float32)
        for c, channel in enumerate(writer_schema(writer).channels)
    }
    columns |= {"neighbour_distance": distance, "isolated": isolated}
    columns["n_measured"] = signals[:, -1].astype(np.int32)
    told = {
        "neighbour_distance": {"units": unit},
        "n_measured": {"long_name": "AORs with a flux in any type"},
    }
    writer.write_table("catalogue", columns, column_attributes=told)
