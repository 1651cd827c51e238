"""Write lightcurves to files: one file for all, one for each, or a folder of partitions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from idfzarr.care.extract import refuse_inside, write_new
from idfzarr.care.lightcurve_choice import choose_lightcurves
from idfzarr.care.lightcurve_fits import fits_table
from idfzarr.care.lightcurve_hats import write_partitions
from idfzarr.care.lightcurve_notes import Notes, notes_of
from idfzarr.care.lightcurve_parquet import csv_bytes, csv_metadata, ecsv_bytes, parquet_bytes
from idfzarr.care.lightcurve_rows import RowForm, Rows, rows_of
from idfzarr.care.lightcurve_votable import votable_bytes
from idfzarr.errors import StoreExists, UsageError, closest
from idfzarr.lightcurve import VEGA_ZERO_FLUX
from idfzarr.progress import Progress, silent
from idfzarr.store.cube import Cube

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from idfzarr.care.lightcurve_choice import LightcurveChoice
    from idfzarr.care.lightcurve_rows import System
    from idfzarr.lightcurve import Lightcurve
    from idfzarr.store.place import PlaceLike

__all__ = [
    "FORMATS",
    "MOST_ROWS",
    "TEXT_FORMATS",
    "Exported",
    "ExportedFile",
    "export_lightcurves",
    "format_of",
    "lightcurve_bytes",
]

FORMATS = ("csv", "ecsv", "fits", "votable", "parquet", "hats")
"""What lightcurves are written as; ``hats`` is a folder of partitions, the others are files."""

TEXT_FORMATS = ("csv", "ecsv", "votable")
"""Those that a terminal can show."""

MOST_ROWS = 5_000_000
"""Measurements in one file at most: it is put together in memory, some 400 bytes for each."""

_MOST_OF = {"ecsv": 1_000_000}  # by astropy, 30 microseconds and 1,000 bytes for each

_SUFFIXES = {"csv": ".csv", "ecsv": ".ecsv", "fits": ".fits", "votable": ".vot"}
_SUFFIXES |= {"parquet": ".parquet"}
_BY_SUFFIX = {suffix: name for name, suffix in _SUFFIXES.items()}
_BY_SUFFIX |= {".fit": "fits", ".votable": "votable", ".xml": "votable", ".pq": "parquet"}
_OBJECTS_AT_ONCE = 64
_ENCODERS: dict[str, Callable[[Rows, Notes], bytes]] = {
    "csv": lambda rows, _: csv_bytes(rows),
    "ecsv": ecsv_bytes,
    "fits": fits_table,
    "votable": votable_bytes,
    "parquet": parquet_bytes,
}


@dataclass(frozen=True)
class ExportedFile:
    """One file.

    Attributes
    ----------
    path
        The file.
    lightcurves, rows
        How many lightcurves and measurements it holds.
    n_bytes
        Its size.
    result
        ``written``, or ``there``: a file or partition that was there and stays.
    """

    path: str
    lightcurves: int
    rows: int
    n_bytes: int
    result: Literal["written", "there"] = "written"


@dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes
    ----------
    format
        One of `FORMATS`.
    path
        The file or folder that was asked for.
    said
        How the objects were chosen.
    objects
        How many there are; 0 where nothing was chosen, and then nothing is written.
    types
        Names of the types.
    files
        The files.
    """

    format: str
    path: str
    said: str
    objects: int
    types: tuple[str, ...]
    files: tuple[ExportedFile, ...]

    @property
    def rows(self) -> int:
        """Measurements in all files."""
        return sum(one.rows for one in self.files)

    @property
    def lightcurves(self) -> int:
        """Lightcurves in all files."""
        return sum(one.lightcurves for one in self.files)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "format": self.format,
            "path": self.path,
            "chosen": self.said,
            "objects": self.objects,
            "types": list(self.types),
            "lightcurves": self.lightcurves,
            "rows": self.rows,
            "files": [dict(vars(one)) for one in self.files],
        }

    def to_text(self) -> str:
        """Return it as sentences for people."""
        if not self.objects:
            return f"nothing is written: no object was found ({self.said})"
        written = [one for one in self.files if one.result == "written"]
        counted = f"{self.lightcurves} lightcurves, {self.rows} rows"
        if self.format != "hats" and len(self.files) == 1 and written:
            return f"written: {self.files[0].path}: {counted}"
        kept = len(self.files) - len(written)
        stay = f", {kept} that were there stay" if kept else ""
        what = "partitions" if self.format == "hats" else "files"
        return f"written: {len(written)} {what} in {self.path}{stay}: {counted}"


def format_of(name: str | None, path: str | os.PathLike[str] | None) -> str:
    """Return the format that is asked for, or that a file's suffix says, or CSV.

    Raises
    ------
    UsageError
        There is no such format.
    """
    if name is None:
        suffix = "" if path is None else os.path.splitext(os.fspath(path))[1].lower()
        return _BY_SUFFIX.get(suffix, "csv")
    if name not in FORMATS:
        near = closest(name, FORMATS)
        msg = f"--format {name!r} is unknown{near}; one of {', '.join(FORMATS)}"
        raise UsageError(msg)
    return name


def _row_form(
    cube: Cube, types: Iterable[str], *, calibrated: bool, good: bool, mag: bool, system: System
) -> RowForm:
    """Return what is done to lightcurves; refused before any is read where it cannot be."""
    if system not in {"AB", "Vega"}:
        msg = f"there are no {system!r} magnitudes: AB or Vega"
        raise UsageError(msg)
    form = RowForm(calibrated=calibrated, good=good, mag=mag, system=system)
    if not mag or system == "AB":
        return form
    units = cube.coordinate("unit")
    for name in types:
        if name.split("_", 1)[0] not in VEGA_ZERO_FLUX or units[cube.column(name)] != "uJy":
            known = ", ".join(VEGA_ZERO_FLUX)
            msg = f"{name} has no Vega magnitudes: those of {known} in uJy have; choose by --type"
            raise UsageError(msg)
    return form


def lightcurve_bytes(
    store: PlaceLike | Cube,
    form: str,
    *,
    types: str | Iterable[str] = "*",
    objects: Iterable[int] | str | os.PathLike[str] | None = None,
    cone: Sequence[Any] | None = None,
    top: int | None = None,
    by: str = "score",
    where: str | None = None,
    calibrated: bool = False,
    good: bool = False,
    mag: bool = False,
    system: System = "AB",
) -> tuple[bytes, str]:
    """Return lightcurves as the bytes of one file, and how they were chosen.

    Parameters
    ----------
    store
        Path or URL, or the cube.
    form
        One of `FORMATS` but ``hats``.
    types, objects, cone, top, by, where, calibrated, good, mag, system
        As of `export_lightcurves`.

    Returns
    -------
    tuple
        The bytes, empty where no object was chosen, and a sentence's subject.

    Raises
    ------
    UnknownName, UsageError, NoSkyCoordinates, CorruptError
        As of `export_lightcurves`.
    """
    cube = store if isinstance(store, Cube) else Cube(store)
    if form not in _ENCODERS:
        msg = f"{form!r} is no file that can be made in one piece: one of {', '.join(_ENCODERS)}"
        raise UsageError(msg)
    choice = choose_lightcurves(
        cube, objects=objects, cone=cone, top=top, by=by, where=where, types=types
    )
    how = _row_form(cube, choice.types, calibrated=calibrated, good=good, mag=mag, system=system)
    if not choice.objects:
        return b"", choice.said
    rows = _gathered(cube, choice, how, form, silent)
    return _ENCODERS[form](rows, notes_of(cube, choice.types, how)), choice.said


def export_lightcurves(
    store: PlaceLike | Cube,
    path: str | os.PathLike[str],
    *,
    objects: Iterable[int] | str | os.PathLike[str] | None = None,
    cone: Sequence[Any] | None = None,
    top: int | None = None,
    by: str = "score",
    where: str | None = None,
    types: str | Iterable[str] = "*",
    format: str | None = None,
    calibrated: bool = False,
    good: bool = False,
    mag: bool = False,
    system: System = "AB",
    separate: bool = False,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write lightcurves to a file or a folder.

    Parameters
    ----------
    store
        Path or URL, or the cube.
    path
        The file; with `separate` and for ``hats`` a folder.
    objects, cone, top, by, where, types
        Which lightcurves, as of `idfzarr.care.lightcurve_choice.choose_lightcurves`; all unless
        given.
    format
        One of `FORMATS`; by the suffix of the file, else CSV, unless given.
    calibrated
        Apply the calibration that is stored beside the lightcurves.
    good
        Leave out flagged measurements.
    mag, system
        Add magnitudes, and of which system.
    separate
        One file for each lightcurve, ``{object}_{type}``; those that are there stay.
    overwrite
        Replace what is there.
    progress
        Told lightcurves or partitions.

    Returns
    -------
    Exported
        What was written; nothing where no object was chosen.

    Raises
    ------
    UnknownName
        No such object, type or statistic.
    UsageError
        The format is unknown, the file would lie in the store, or it would hold more than
        `MOST_ROWS` measurements.
    StoreExists
        Something is there and is not to be replaced.
    CorruptError
        A lightcurve is damaged; the file is not written.
    StorageFull
        The disk is full.

    Notes
    -----
    Memory is bounded for ``hats`` and `separate`, whatever the size of the cube.
    """
    cube = store if isinstance(store, Cube) else Cube(store)
    target = Path(path)
    name = format_of(format, None if separate else target)
    if separate and name == "hats":
        msg = "hats is one folder for all lightcurves: give its path, not a folder for each of them"
        raise UsageError(msg)
    refuse_inside(target, cube.path)
    choice = choose_lightcurves(
        cube, objects=objects, cone=cone, top=top, by=by, where=where, types=types
    )
    form = _row_form(cube, choice.types, calibrated=calibrated, good=good, mag=mag, system=system)
    if not choice.objects:
        return Exported(name, str(target), choice.said, 0, choice.types, ())
    export = _Export(cube, choice, form, name, overwrite, progress)
    way = _partitions if name == "hats" else _separate if separate else _one
    files = way(export, target)
    return Exported(name, str(target), choice.said, len(choice.objects), choice.types, files)


@dataclass(frozen=True)
class _Export:
    """What all ways to write need."""

    cube: Cube
    choice: LightcurveChoice
    form: RowForm
    format: str
    overwrite: bool
    progress: Progress

    def notes(self, *types: str) -> Notes:
        return notes_of(self.cube, types or self.choice.types, self.form)

    def write(self, path: Path, rows: Rows, notes: Notes) -> ExportedFile:
        data = _ENCODERS[self.format](rows, notes)
        write_new(path, data, overwrite=self.overwrite)
        if self.format == "csv":
            beside = path.with_name(f"{path.name}-metadata.json")
            write_new(beside, csv_metadata(rows, notes, path.name), overwrite=True)
        return ExportedFile(str(path), len(rows.curves), len(rows), len(data))


def _gathered(
    cube: Cube, choice: LightcurveChoice, form: RowForm, name: str, progress: Progress
) -> Rows:
    asked, most = len(choice) * cube.shape[3], min(MOST_ROWS, _MOST_OF.get(name, MOST_ROWS))
    if asked > most:
        msg = (
            f"{len(choice)} lightcurves of {cube.shape[3]} AORs are {asked} measurements, and one "
            f"{name} file holds {most} at most: choose fewer, write one file for each lightcurve "
            "(--output-dir), or --format hats"
        )
        raise UsageError(msg)
    curves: list[Lightcurve] = []
    for first in range(0, len(choice.objects), _OBJECTS_AT_ONCE):
        ids = choice.objects[first : first + _OBJECTS_AT_ONCE]
        curves += cube.lightcurves(ids, choice.types)
        progress("lightcurves", len(curves), len(choice))
    return rows_of(curves, form)


def _one(export: _Export, path: Path) -> tuple[ExportedFile, ...]:
    if path.is_dir() or (not export.overwrite and os.path.lexists(path)):
        write_new(path, b"", overwrite=False)  # which refuses, before the work and not after it
    rows = _gathered(export.cube, export.choice, export.form, export.format, export.progress)
    return (export.write(path, rows, export.notes()),)


def _separate(export: _Export, folder: Path) -> tuple[ExportedFile, ...]:
    if os.path.lexists(folder) and not folder.is_dir():
        msg = f"{folder} is there already and is no folder: name another"
        raise StoreExists(msg)
    made = []
    notes = {one: export.notes(one) for one in export.choice.types}
    for object_id, type_ in product(export.choice.objects, export.choice.types):
        path = folder / f"{object_id}_{type_}{_SUFFIXES[export.format]}"
        if not export.overwrite and path.is_file():
            made.append(ExportedFile(str(path), 0, 0, path.stat().st_size, "there"))
        else:
            rows = rows_of([export.cube.lightcurve(object_id, type_)], export.form)
            made.append(export.write(path, rows, notes[type_]))
        export.progress("lightcurves", len(made), len(export.choice))
    return tuple(made)


def _partitions(export: _Export, folder: Path) -> tuple[ExportedFile, ...]:
    made = write_partitions(
        export.cube,
        folder,
        export.choice,
        export.notes(),
        export.form,
        overwrite=export.overwrite,
        progress=export.progress,
    )
    return tuple(
        ExportedFile(
            one.path, one.lightcurves, one.rows, one.n_bytes, "there" if one.kept else "written"
        )
        for one in made
    )
