"""Lightcurves as a FITS binary table, with CHECKSUM and DATASUM.

The time is one number a row, not the two that astropy writes of a `Time`, so that every program
can plot it. Keywords of time: FITS Standard 4.0, section 9. Units: its section 4.3.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.fits_checksum import hdu_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.care.lightcurve_notes import Notes
    from idfzarr.care.lightcurve_rows import Column, Rows

__all__ = ["TIME_COLUMN", "fits_table"]

TIME_COLUMN = "time"
"""What ``mjd`` is called in FITS, where the header says which time it is."""

_LETTERS = {"i8": "K", "i4": "J", "f8": "D", "f4": "E"}
_PRIMARY = (
    f"SIMPLE  = {'T':>20} / conforms to FITS standard",
    f"BITPIX  = {8:>20} / number of bits per data pixel",
    f"NAXIS   = {0:>20} / number of data axes",
    f"EXTEND  = {'T':>20} / FITS dataset may contain extensions",
)
_ROWS_AT_ONCE = 1 << 16


def fits_table(rows: Rows, notes: Notes) -> bytes:
    """Return a FITS file of one table.

    Parameters
    ----------
    rows
        One lightcurve gives a flat table; many give a row per measurement with object and type.
    notes
        What goes into the header besides the columns.

    Returns
    -------
    bytes
        The same for the same lightcurves.
    """
    flat = len(rows.curves) == 1
    columns = rows.columns(flat=flat)
    stored = [_stored(one) for one in columns]
    dtype = np.dtype([(one.name, each.dtype) for one, each in zip(columns, stored, strict=True)])
    parts = []
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        part = np.empty(min(_ROWS_AT_ONCE, len(rows) - first), dtype)
        for one, each in zip(columns, stored, strict=True):
            part[one.name] = each[first : first + len(part)]
        parts.append(part.tobytes())
    cards = _cards(rows, notes, columns, dtype)
    table = hdu_bytes(cards, b"".join(parts), checksums=True)
    return hdu_bytes(_PRIMARY, b"", checksums=True) + table


def _stored(column: Column) -> NDArray[Any]:
    """Return values as FITS stores them: big endian, text in ASCII."""
    values = column.values
    if values.dtype.kind == "U":
        # FITS knows no text of no length
        return np.char.encode(values, "ascii", "replace").astype(f"S{max(1, values.itemsize // 4)}")
    return values.astype(values.dtype.newbyteorder(">"))


def _form(dtype: np.dtype[Any]) -> str:
    return f"{dtype.itemsize}A" if dtype.kind == "S" else _LETTERS[dtype.str[1:]]


def _cards(rows: Rows, notes: Notes, columns: Sequence[Column], dtype: np.dtype[Any]) -> list[str]:
    """Return the cards of the table, 80 columns each."""
    from astropy.io.fits import Header

    structure = [
        "XTENSION= 'BINTABLE'           / binary table extension",
        f"BITPIX  = {8:>20} / array data type",
        f"NAXIS   = {2:>20} / number of array dimensions",
        f"NAXIS1  = {dtype.itemsize:>20} / bytes of a row",
        f"NAXIS2  = {len(rows):>20} / rows",
        f"PCOUNT  = {0:>20} / number of group parameters",
        f"GCOUNT  = {1:>20} / number of groups",
        f"TFIELDS = {len(columns):>20} / number of table fields",
    ]
    header = Header()
    for number, column in enumerate(columns, start=1):
        _describe(header, number, column, _form(dtype[column.name]))
    _date(header)
    _origin(header, rows, notes)
    for line in notes.lines():
        for part in textwrap.wrap(line.encode("ascii", "replace").decode(), 72):
            header["COMMENT"] = part
    return [*structure, *(card for one in header.cards for card in _pieces(str(one)))]


def _pieces(text: str) -> list[str]:
    """Return a card, and those that continue it, 80 columns each."""
    return [text[at : at + 80] for at in range(0, len(text), 80)]


def _describe(header: Any, number: int, column: Column, form: str) -> None:
    is_time = column.name == "mjd"
    header[f"TTYPE{number}"] = TIME_COLUMN if is_time else column.name
    header[f"TFORM{number}"] = form
    if column.unit:
        header[f"TUNIT{number}"] = column.unit
    header[f"TCOMM{number}"] = column.description
    header[f"TUCD{number}"] = column.ucd
    if is_time:
        header[f"TCTYP{number}"] = ("UTC", "time scale of this column")
        header[f"TCUNI{number}"] = "d"


def _date(header: Any) -> None:
    header["TIMESYS"] = ("UTC", "time scale")
    header["MJDREFI"] = (0, "times are Modified Julian Dates")
    header["MJDREFF"] = (0.0, "times are Modified Julian Dates")
    header["TIMEUNIT"] = ("d", "unit of times")
    header["TREFPOS"] = ("TOPOCENTER", "times as at the observatory")


def _origin(header: Any, rows: Rows, notes: Notes) -> None:
    header["EXTNAME"] = "LIGHTCURVES" if len(rows.curves) != 1 else "LIGHTCURVE"
    header["CREATOR"] = (notes.creator, "software that wrote this file")
    _put_text(header, "STORE", notes.store, "the store")
    header["STOREID"] = (notes.store_uuid, "uuid of the store")
    header["STOREDAT"] = (notes.store_created, "creation of the store, UTC")
    header["STOREGEN"] = (notes.store_generation, "changes of the store")
    _put_text(header, "STORESW", notes.store_software, "software of it")
    if notes.settings_digest:
        header["SETTINGS"] = notes.settings_digest
    header["NAORS"] = (notes.n_aors, "AORs in the store")
    header["CALIBRAT"] = (notes.calibrated, "calibration applied")
    header["GOODONLY"] = (notes.good_only, "flagged measurements left out")
    _put_text(header, "MAGNOTE", notes.magnitude, "")
    if len(rows.curves) == 1:
        one = rows.curves[0]
        header["OBJECT"] = (str(one.object), "object id")
        _put_text(header, "TYPE", one.type, "measurement type")
        _put_text(header, "CHANNEL", one.type.split("_", 1)[0], "channel")
        if np.isfinite(one.ra):
            header["RA_OBJ"] = (one.ra, "[deg] right ascension")
            header["DEC_OBJ"] = (one.dec, "[deg] declination")
            header["RADESYS"] = "ICRS"
    elif any(np.isfinite(one.ra) for one in rows.curves):
        header["RADESYS"] = "ICRS"


def _put_text(header: Any, name: str, text: str, comment: str) -> None:
    """Put text in, with its comment where both fit into a card."""
    value = text.encode("ascii", "replace").decode()
    # 10 columns go to the name, 2 to quotes, 3 to the slash; a quote in the text takes two
    room = 80 - 15 - max(8, len(value) + value.count("'"))
    header[name] = (value, comment) if len(comment) <= room else value
