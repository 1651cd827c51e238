"""What there is to import: tables that can be used, their objects, their AORs, and what cannot."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.catalogue_columns import (
    FluxScale,
    default_rules,
    measure_catalogue,
    types_of,
)
from idfzarr.build.catalogue_objects import (
    ObjectList,
    disagreement,
    gather,
    ids_of,
    positions_of,
)
from idfzarr.build.catalogues import read_catalogue
from idfzarr.build.report import Skipped
from idfzarr.build.scheduler import Task, run_tasks
from idfzarr.errors import AorTableError, UsageError
from idfzarr.imaging.aor_table import match_aors, read_aor_table
from idfzarr.imaging.discovery import MosaicFiles, natural
from idfzarr.imaging.fits_image import card_number
from idfzarr.imaging.mosaic import MosaicHeader
from idfzarr.measurement import IMAGES, parse_measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from idfzarr.build.catalogue_columns import ColumnRule, Columns
    from idfzarr.build.catalogues import Catalogue, TableFile
    from idfzarr.imaging.aor_table import AorList
    from idfzarr.progress import Progress

__all__ = ["CatalogueSurvey", "Reading", "TableSummary", "survey_tables"]

_AT_ONCE = 64
"""Tables whose objects are held in memory together before they are joined."""


@dataclass(frozen=True)
class Reading:
    """How a table is read.

    Attributes
    ----------
    rules
        The mapping of columns; None to tell by names.
    radii
        Radii of FLUX_APER in pixels, or None.
    scale
        How values become microjansky.
    object_id
        Column of the ids, or None for the usual ones.
    by_sky
        Objects are told by their place.
    radius
        Arc seconds within which a row is an object.
    time
        Column or metadata of the time, or None for the usual ones.
    """

    rules: tuple[ColumnRule, ...] | None = None
    radii: tuple[float, ...] | None = None
    scale: FluxScale = field(default_factory=FluxScale)
    object_id: str | None = None
    by_sky: bool = False
    radius: float = 1.0
    time: str | None = None

    def types(self, catalogue: Catalogue, file: TableFile) -> dict[str, Columns]:
        """Return the columns of every type that a table holds.

        Raises
        ------
        UsageError
            There is none.
        """
        rules = self.rules or default_rules(catalogue, radii=self.radii)
        found = types_of(file, rules)
        if not found:
            what = (
                "no column of flux or magnitude by a known name"
                if self.rules is None
                else "no type in the mapping of columns"
            )
            msg = f"{catalogue.path} ({file.name}) has {what}: say which columns are which type"
            raise UsageError(msg)
        return found


@dataclass(frozen=True, eq=False)
class TableSummary:
    """What is known of a table that was read once.

    Attributes
    ----------
    file
        Which.
    types, units
        The columns of its types, and the types' units, by name.
    mjd, exptime, bjd_tdb
        Middle of the exposure, MJD in UTC; seconds; BJD in TDB; NaN where it does not say.
    reqkey
        AORKEY, or None.
    objects
        Ids and places of its rows, where they are not told by a table of objects.
    """

    file: TableFile
    types: dict[str, Columns]
    units: dict[str, str]
    mjd: float
    exptime: float
    bjd_tdb: float
    reqkey: int | None
    objects: ObjectList | None

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels of its types."""
        return tuple(dict.fromkeys(parse_measurement(name).channel for name in self.types))


@dataclass(frozen=True, eq=False)
class CatalogueSurvey:
    """What a folder of tables holds.

    Attributes
    ----------
    tables
        Those that can be used.
    objects
        All objects, in sky order.
    units
        The unit of each type, in the cube's order of types.
    aors
        The AORs, in time order.
    skipped
        What cannot be used, and why.
    notes
        Sentences worth reading.
    """

    tables: tuple[TableSummary, ...]
    objects: ObjectList
    units: dict[str, str]
    aors: AorList
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def survey_tables(
    files: Sequence[TableFile],
    reading: Reading,
    *,
    reference: ObjectList | None,
    aor_table: Path | None,
    scheduler: Any,
    workers: int | None,
    progress: Progress,
) -> CatalogueSurvey:
    """Read every table once, and bring objects, types and AORs together.

    Raises
    ------
    UsageError
        No table can be used, or their ids are not of the same objects.
    AorTableError
        The AOR table cannot be used, or nothing tells when the tables were taken.
    """
    skipped: list[Skipped] = []
    joined: ObjectList | None = None
    summaries: list[TableSummary] = []
    n_elsewhere = 0
    for first in range(0, len(files), _AT_ONCE):
        part = files[first : first + _AT_ONCE]

        def told(label: str, done: int, _: int, begun: int = first) -> None:
            progress(label, begun + done, len(files))

        tasks = [Task(str(f.path), _summarise, (f, reading, reference is None)) for f in part]
        outcomes = run_tasks(
            "reading tables", tasks, scheduler=scheduler, workers=workers, progress=told
        )
        for file, outcome in zip(part, outcomes, strict=True):
            if not outcome.ok:
                skipped.append(_fault(file, outcome.reason or ""))
                continue
            summary: TableSummary = outcome.result
            reason = _other_objects(joined, summary, reading.radius)
            if reason:
                n_elsewhere += 1
                skipped.append(_fault(file, reason))
                continue
            if summary.objects is not None:
                joined = gather(joined, summary.objects)
            summaries.append(replace(summary, objects=None))
    if n_elsewhere > len(summaries):
        raise UsageError(_no_common_ids(n_elsewhere, len(files), skipped))
    usable, notes = _agreed(summaries, skipped)
    aors, usable = _aors(usable, aor_table, skipped)
    objects = reference if reference is not None else joined
    assert objects is not None  # noqa: S101  # a table that can be used has objects
    return CatalogueSurvey(
        tables=tuple(usable),
        objects=objects.in_sky_order(),
        units=_type_units(usable),
        aors=aors,
        skipped=tuple(skipped),
        notes=tuple(notes),
    )


def _fault(file: TableFile, reason: str, *, is_fault: bool = True) -> Skipped:
    return Skipped(file.aor, file.channel or "*", reason, is_fault=is_fault)


def _summarise(file: TableFile, reading: Reading, with_objects: bool) -> TableSummary:  # noqa: FBT001  # a task's arguments are given by position
    """Read a table wholly: what is wrong with it is known before anything is written."""
    catalogue = read_catalogue(file.path)
    types = reading.types(catalogue, file)
    measured = measure_catalogue(catalogue, types, reading.scale)
    time = catalogue.time(reading.time)
    ids = np.empty(0, dtype=np.int64) if reading.by_sky else ids_of(catalogue, reading.object_id)
    places = positions_of(catalogue)
    if reading.by_sky and not np.isfinite(places[0] + places[1]).any():
        msg = f"{file.path} has no ra and dec by which its rows could be matched with objects"
        raise UsageError(msg)
    key = card_number(catalogue.header, "AORKEY")
    exptime = card_number(catalogue.header, "EXPTIME")
    return TableSummary(
        file=file,
        types=types,
        units=dict(zip(measured.types, measured.units, strict=True)),
        mjd=time.mjd,
        exptime=exptime if math.isfinite(exptime) else time.duration,
        bjd_tdb=time.bjd_tdb,
        reqkey=int(key) if math.isfinite(key) and key == math.floor(key) else None,
        objects=ObjectList(ids, *places) if with_objects else None,
    )


# ---------------------------------------------------------------- do they agree


def _other_objects(joined: ObjectList | None, summary: TableSummary, radius: float) -> str:
    """Say that a table's ids are those of other objects; an empty string where they are not."""
    if joined is None or summary.objects is None:
        return ""
    n_elsewhere, n_common = disagreement(joined, summary.objects, radius=radius)
    if not n_elsewhere:
        return ""
    return (
        f"{summary.file.path}: {n_elsewhere} of the {n_common} ids it shares with the tables "
        "before it are of objects elsewhere; if ids are given anew in every table, match by sky "
        "with a table of objects"
    )


def _no_common_ids(n_elsewhere: int, n_files: int, skipped: Sequence[Skipped]) -> str:
    example = next(s.reason for s in skipped if "elsewhere" in s.reason)
    return (
        f"the ids of {n_elsewhere} of {n_files} tables are not of the same objects as those of the "
        f"others ({example})"
    )


def _agreed(
    summaries: Sequence[TableSummary], skipped: list[Skipped]
) -> tuple[list[TableSummary], list[str]]:
    """Return the tables of the types and units that most of their kind have."""
    usable: list[TableSummary] = []
    left_out: dict[str, None] = {}
    kinds = dict.fromkeys((s.file.channel, s.file.image) for s in summaries)
    for kind in kinds:
        own = [s for s in summaries if (s.file.channel, s.file.image) == kind]
        wanted = Counter(tuple(s.types) for s in own).most_common(1)[0][0]
        units = {
            t: Counter(s.units[t] for s in own if t in s.units).most_common(1)[0][0] for t in wanted
        }
        for summary in own:
            reason = _differs(summary, wanted, units, len(own))
            if reason:
                skipped.append(_fault(summary.file, reason))
                continue
            left_out.update(dict.fromkeys(t for t in summary.types if t not in wanted))
            usable.append(replace(summary, types={t: summary.types[t] for t in wanted}))
    note = f"in some tables only, and therefore left out: {', '.join(left_out)}"
    return usable, [note] if left_out else []


def _differs(
    summary: TableSummary, wanted: Sequence[str], units: Mapping[str, str], n_tables: int
) -> str:
    path = summary.file.path
    missing = [name for name in wanted if name not in summary.types]
    if missing:
        return (
            f"{path} has no columns for {', '.join(missing)}, which most of {n_tables} tables have"
        )
    for name in wanted:
        if summary.units[name] != units[name]:
            return (
                f"{path} gives {name} in {summary.units[name] or 'no unit'!r}, and most of "
                f"{n_tables} tables give it in {units[name] or 'no unit'!r}"
            )
    return ""


def _type_units(usable: Sequence[TableSummary]) -> dict[str, str]:
    """Return the unit of every type: channel by channel, image by image, methods as mapped."""
    units: dict[str, str] = {}
    for summary in usable:
        units.update({name: summary.units[name] for name in summary.types})

    def order(name: str) -> tuple[Any, int]:
        measurement = parse_measurement(name)
        return natural(measurement.channel), IMAGES.index(measurement.image)

    return {name: units[name] for name in sorted(units, key=order)}


# ---------------------------------------------------------------- AORs


def _aors(
    tables: Sequence[TableSummary], aor_table: Path | None, skipped: list[Skipped]
) -> tuple[AorList, list[TableSummary]]:
    """Bring tables and AOR table together; leave out tables without time or row."""
    table = None if aor_table is None else read_aor_table(aor_table)
    usable = list(tables)
    if table is None:
        timeless = [s for s in tables if math.isnan(s.mjd)]
        usable = [s for s in tables if not math.isnan(s.mjd)]
        if timeless and not usable:
            msg = (
                f"no table tells when it was taken, {timeless[0].file.path} for example: give an "
                "AOR table (reqkey, group_name, mjd), or the column with the MJD"
            )
            raise AorTableError(msg)
        skipped += [
            _fault(s.file, f"{s.file.path} has no time of observation, and there is no AOR table")
            for s in timeless
        ]
    if not usable:
        msg = f"not one of the tables can be used; the first: {skipped[0].reason}"
        raise UsageError(msg)
    pairs = {(s.file.aor, channel): s for s in reversed(usable) for channel in s.channels}
    mosaics = [MosaicFiles(aor, c, {"sci": s.file.path}) for (aor, c), s in pairs.items()]
    aors = match_aors(mosaics, table, [_header(s) for s in pairs.values()])
    there = set(aors.name)
    gone = {s.aor: s.reason for s in aors.without_row}
    skipped += [_fault(s.file, gone[s.file.aor]) for s in usable if s.file.aor not in there]
    skipped += [
        Skipped(
            s.aor, "*", f"{aor_table} names AOR {s.aor}, of which there is no table", is_fault=False
        )
        for s in aors.without_image
    ]
    return aors, [s for s in usable if s.file.aor in there]


def _header(summary: TableSummary) -> MosaicHeader:
    """Return what the table says of its image, as `match_aors` wants it."""
    return MosaicHeader(
        path=summary.file.path,
        shape=(0, 0),
        wcs=None,
        unit="",
        mjd=summary.mjd,
        exptime=summary.exptime,
        bjd_tdb=summary.bjd_tdb,
        saturate=math.nan,
        reqkey=summary.reqkey,
        pixel_scale=math.nan,
        filter="",
        instrument="",
    )
