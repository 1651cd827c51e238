"""What people take away: the view's measurements, the selection's table, as files of bytes.

The measurements are written by the exporters of `idfzarr.care`, so that they have the same columns,
units and notes as ``idfzarr extract`` gives, and the same bits as the cube.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.lightcurve_export import lightcurve_bytes
from idfzarr.care.lightcurve_fits import fits_table
from idfzarr.care.lightcurve_notes import notes_of
from idfzarr.care.lightcurve_parquet import csv_bytes
from idfzarr.care.lightcurve_rows import Column, Row, RowForm, Rows
from idfzarr.care.lightcurve_votable import votable_bytes
from idfzarr.errors import UsageError, closest
from idfzarr.viewer.curve_values import GROUPS
from idfzarr.viewer.curves import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from idfzarr.care.lightcurve_notes import Notes
    from idfzarr.viewer.curve_values import Curve, Prepared
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.state import ViewerState

__all__ = [
    "FORMATS",
    "MOST_ROWS",
    "KeptFile",
    "file_name",
    "selection_file",
    "selection_lightcurves",
    "selection_table",
    "view_file",
]

FORMATS = {"csv": "CSV", "fits": "FITS", "votable": "VOTable"}
"""What tables are written as, and what people call it."""

MOST_ROWS = 400_000
"""Measurements of one file: it is made in the server's memory, which all sessions share."""

_SUFFIX = {"csv": ".csv", "fits": ".fits", "votable": ".vot"}
_MIME = {"csv": "text/csv", "fits": "application/fits", "votable": "application/x-votable+xml"}
_ENCODERS: dict[str, Callable[[Rows, Notes], bytes]] = {
    "csv": lambda rows, _: csv_bytes(rows),
    "fits": fits_table,
    "votable": votable_bytes,
}
_DRAWN = "drawn as: kept, or set apart as flagged, clipped or outlying; hidden where not drawn"
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True)
class KeptFile:
    """A file for the browser, or for another program.

    Attributes
    ----------
    name
        Letters, digits and ``._+-`` only.
    mime
        Its media type.
    content
        Its bytes.
    said
        What it holds, as a sentence's subject.
    """

    name: str
    mime: str
    content: bytes
    said: str


def file_name(*parts: object, suffix: str) -> str:
    """Return a name for a file that is safe on every disk, whatever the parts are.

    Examples
    --------
    >>> file_name("field.zarr", "../<b>", 12, suffix=".csv")
    'field.zarr_b_12.csv'
    """
    words = [_UNSAFE.sub("_", str(part)).strip("._")[:60] for part in parts]
    return "_".join(word for word in words if word)[:150] + suffix


def _form_of(form: str) -> str:
    if form not in FORMATS:
        msg = f"there is no format {form!r}{closest(form, FORMATS)}; one of {', '.join(FORMATS)}"
        raise UsageError(msg)
    return form


def _stem(field: Field) -> str:
    return field.path.rstrip("/").rpartition("/")[2].removesuffix(".zarr")


# ------------------------------------------------------------------ the view


@dataclass(frozen=True, eq=False)
class _ViewRows(Rows):
    """Measurements with how they are drawn, and magnitudes as they are drawn."""

    magnitudes: str = ""

    def columns(self, *, flat: bool = False, unit: bool = False) -> list[Column]:
        """Return the columns, and one more that says how each measurement is drawn."""
        drawn = self.values["drawn"]
        rest = {name: values for name, values in self.values.items() if name != "drawn"}
        made = Rows(self.curves, rest, self.form).columns(flat=flat, unit=unit)
        told = f"magnitude as drawn: {self.magnitudes}"
        made = [replace(one, description=told) if one.name == "mag" else one for one in made]
        return [*made, Column("drawn", drawn, "", "meta.code", _DRAWN)]


def view_file(field: Field, state: ViewerState, form: str, *, kept_only: bool = False) -> KeptFile:
    """Return the measurements of the present view.

    Parameters
    ----------
    field
        The store.
    state
        What is chosen: objects, types, times, calibration, unit, flags, clipping.
    form
        One of `FORMATS`.
    kept_only
        Leave out what is set apart; else the column ``drawn`` says what is.

    Returns
    -------
    KeptFile
        A row for each measurement in the times that are drawn. Fluxes, errors and flags have the
        bits of the cube; magnitudes are there where magnitudes are drawn.

    Raises
    ------
    UsageError
        There is no such format, or nothing to write.
    UnknownName, CorruptError
        As of `idfzarr.viewer.curves.prepare`.
    """
    encode = _ENCODERS[_form_of(form)]
    plain = state.snapshot(smooth_on=False, bin_on=False, show_truth=False)
    rows = _view_rows(prepare(field, plain), field, plain, kept_only=kept_only)
    if not len(rows):
        msg = "there is nothing to write: no measurement is drawn"
        raise UsageError(msg)
    types = list(dict.fromkeys(one.type for one in rows.curves))
    notes = notes_of(field.cube, types, rows.form)
    notes = replace(notes, good_only=kept_only)
    if rows.magnitudes:
        notes = replace(notes, magnitude=rows.magnitudes)
    ids = list(dict.fromkeys(one.object for one in rows.curves))
    named = [str(ids[0])] if len(ids) == 1 else [f"{len(ids)}objects"]
    named += types if len(types) == 1 else [f"{len(types)}types"]
    many = "" if len(rows.curves) == 1 else "s"
    return KeptFile(
        file_name(_stem(field), *named, suffix=_SUFFIX[form]),
        _MIME[form],
        encode(rows, notes),
        f"{len(rows):,} measurements of {len(rows.curves)} lightcurve{many}",
    )


def _view_rows(
    prepared: Prepared, field: Field, state: ViewerState, *, kept_only: bool
) -> _ViewRows:
    told, parts = [], []
    for curve in prepared.curves:
        at = np.flatnonzero(curve.kept if kept_only else _measured(curve, state))
        known = field.row_of(curve.object_id)
        sky = (float(known["ra"]), float(known["dec"])) if field.has_sky else (np.nan, np.nan)
        unit = field.units[curve.type]
        told.append(Row(curve.object_id, curve.type, unit, *sky, len(at)))
        parts.append(_values(field, curve, at, mag=state.unit == "mag"))
    names = list(parts[0]) if parts else ["drawn"]
    values = {name: np.concatenate([part[name] for part in parts]) for name in names if parts}
    form = RowForm(calibrated=state.calibrated, mag=state.unit == "mag", system=state.system)
    said = ""
    if form.mag:
        said = "; ".join(dict.fromkeys(f"{c.type}: {c.unit}" for c in prepared.curves))
    return _ViewRows(tuple(told), values or {"drawn": np.empty(0, "U8")}, form, said)


def _measured(curve: Curve, state: ViewerState) -> Any:
    """Say which AORs were measured in the times that are drawn."""
    inside = np.isfinite(curve.mjd) & np.isfinite(curve.flux)
    if state.start is not None:
        inside &= np.nan_to_num(curve.mjd, nan=-np.inf) >= state.start
    if state.end is not None:
        inside &= np.nan_to_num(curve.mjd, nan=np.inf) < state.end
    return inside


def _values(field: Field, curve: Curve, at: Any, *, mag: bool) -> dict[str, Any]:
    drawn = np.full(len(at), "hidden", dtype="U8")
    for group in GROUPS:
        drawn[getattr(curve, group)[at]] = group
    values: dict[str, Any] = {"aor": curve.aor[at], "mjd": curve.mjd[at]}
    if "bjd_tdb" in field.cube.coordinate_names:
        channel = field.channels.index(curve.channel)
        values["bjd_tdb"] = field.cube.coordinate("bjd_tdb")[:, channel][at]
    values |= {"flux": curve.flux[at], "flux_err": curve.flux_err[at]}
    if mag:
        values |= {"mag": curve.mag[at], "mag_err": curve.mag_err[at]}
    return values | {"flag": curve.flag[at].astype(np.int32), "drawn": drawn}


# ------------------------------------------------------------------ the selection


def selection_table(field: Field, ids: Sequence[int], type_: str) -> Any:
    """Return the catalogue and the statistics of objects as an astropy Table.

    Parameters
    ----------
    field
        The store.
    ids
        The objects, in order; all of the store where there are none.
    type_
        Whose statistics; none where it is empty.

    Returns
    -------
    astropy.table.Table
        With units and descriptions.

    Raises
    ------
    UnknownName
        There is no such object or type.
    """
    from astropy.table import Column as TableColumn
    from astropy.table import Table

    frame = field.table_of(type_) if type_ else field.objects
    rows = field.rows(ids) if len(ids) else np.arange(len(frame))
    made = Table()
    for name in map(str, frame.columns):
        values = frame[name].to_numpy()[rows]
        if values.dtype.kind == "O":
            values = values.astype(str)
        elif values.dtype.kind == "u":  # VOTable has no unsigned integers of two bytes and more
            values = values.astype(np.int32 if values.dtype.itemsize <= 2 else np.int64)
        told = field.described(name, type_)
        made[name] = TableColumn(values, description=told.label, unit=_unit(told.unit))
    made.meta.update(store=_stem(field), store_uuid=field.cube.uuid, statistics_of=type_)
    return made


def _unit(text: str) -> Any:
    """Return a unit that both FITS and VOTable know; None for the others, which a label says."""
    from astropy import units

    known = {"px": "pix", "AB mag": "mag", "instrumental mag": "mag", "sigma": "", "semi-axes": ""}
    text = known.get(text, text)
    if text in {"", "1"}:
        return None
    try:
        found = units.Unit(text)
        found.to_string("fits")
        found.to_string("vounit")
    except ValueError:
        return None
    return found


def selection_file(field: Field, state: ViewerState, form: str) -> KeptFile:
    """Return the catalogue and the statistics of the selected objects.

    Parameters
    ----------
    field
        The store.
    state
        What is chosen: ``selection``, and the type whose statistics are shown.
    form
        One of `FORMATS`.

    Raises
    ------
    UsageError
        There is no such format, or nothing is selected.
    UnknownName
        An object is not there.
    """
    _form_of(form)
    if not state.selection:
        msg = "nothing is selected: choose objects on the page Find, or load a list"
        raise UsageError(msg)
    table = selection_table(field, state.selection, state.statistic_type)
    named = file_name(_stem(field), f"{len(table)}objects", suffix=_SUFFIX[form])
    said = f"{len(table):,} object{'' if len(table) == 1 else 's'} of the selection"
    return KeptFile(named, _MIME[form], table_bytes(table, form), said)


def table_bytes(table: Any, form: str) -> bytes:
    """Return an astropy Table as the bytes of a file.

    Parameters
    ----------
    table
        Columns of numbers and texts.
    form
        One of `FORMATS`.
    """
    if form == "csv":
        frame = table.to_pandas()
        return bytes(frame.to_csv(index=False, lineterminator="\n").encode())
    out = io.BytesIO()
    if form == "fits":
        from astropy.io import fits

        hdu = fits.table_to_hdu(_ascii(table))
        hdu.name = "OBJECTS"
        for number, name in enumerate(table.colnames, start=1):
            told = (table[name].description or "").encode("ascii", "replace").decode()
            hdu.header[f"TCOMM{number}"] = told[:60]
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(out, checksum=True)
    else:
        from astropy.io.votable import from_table, writeto

        writeto(_with_booleans(from_table(table)), out, tabledata_format="binary2")
    return out.getvalue()


def _with_booleans(made: Any) -> Any:
    """Return a VOTable whose truth values are booleans: of single bits STIL 4 and TOPCAT 4.8 fail.

    See VOTable 1.4, section 2.1: astropy writes a bit for each truth value.
    """
    from astropy.io.votable.tree import Field as Column

    for table in made.iter_tables():
        for at, old in enumerate(table.fields):
            if old.datatype == "bit":
                new = Column(made, ID=old.ID, name=old.name, datatype="boolean")
                new.description = old.description
                table.fields[at] = new
    return made


_KEYWORDS = {"store": "STORE", "store_uuid": "STOREID", "statistics_of": "STATTYPE"}


def _ascii(table: Any) -> Any:
    """Return a table of which FITS can hold every text."""
    made = table.copy()
    for name in made.colnames:
        if made[name].dtype.kind == "U":
            made[name] = np.char.encode(made[name].value, "ascii", "replace")
    told = {_KEYWORDS[key]: str(text) for key, text in made.meta.items() if key in _KEYWORDS}
    made.meta = {key: text.encode("ascii", "replace").decode()[:60] for key, text in told.items()}
    return made


def selection_lightcurves(field: Field, state: ViewerState, form: str) -> KeptFile:
    """Return whole lightcurves of the selected objects in the chosen types.

    Parameters
    ----------
    field
        The store.
    state
        What is chosen: selection, types, calibration.
    form
        One of `FORMATS`.

    Raises
    ------
    UsageError
        There is no such format, nothing is selected, or it is more than `MOST_ROWS` measurements.
    UnknownName, CorruptError
        An object is not there, or damaged.
    """
    _form_of(form)
    if not (state.selection and state.types):
        msg = "select objects on the page Find and types on the page Look first"
        raise UsageError(msg)
    count = len(state.selection) * len(state.types) * field.cube.shape[3]
    if count > MOST_ROWS:
        msg = (
            f"{len(state.selection):,} objects in {len(state.types)} types are {count:,} "
            f"measurements, more than the {MOST_ROWS:,} that the page gives away: choose fewer, or "
            "use idfzarr extract"
        )
        raise UsageError(msg)
    content, _ = lightcurve_bytes(
        field.cube,
        form,
        objects=[int(one) for one in state.selection],
        types=list(state.types),
        calibrated=state.calibrated,
    )
    named = [f"{len(state.selection)}objects", f"{len(state.types)}types"]
    return KeptFile(
        file_name(_stem(field), *named, "lightcurves", suffix=_SUFFIX[form]),
        _MIME[form],
        content,
        f"lightcurves of {len(state.selection):,} objects in {len(state.types)} types",
    )
