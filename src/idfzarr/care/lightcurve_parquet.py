"""Lightcurves as Parquet, and as CSV and ECSV.

Parquet carries the notes as JSON under ``idfzarr`` and, by the VOParquet convention 1.0, a VOTable
without rows that tells units, UCDs and time scales (https://www.ivoa.net/documents/Notes/VOParquet).
A CSV has no place for them: a second file beside it, by the W3C's recommendation "Metadata
Vocabulary for Tabular Data" (section 5.1: the name of the file and ``-metadata.json``), tells them.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.lightcurve_votable import votable_head

if TYPE_CHECKING:
    from collections.abc import Sequence

    from idfzarr.care.lightcurve_notes import Notes
    from idfzarr.care.lightcurve_rows import Column, Rows

__all__ = ["arrow_field", "csv_bytes", "csv_metadata", "ecsv_bytes", "parquet_bytes", "plain_table"]

_XSD = {"i8": "long", "i4": "int", "f8": "double", "f4": "float"}


def arrow_field(column: Column, kind: Any) -> Any:
    """Return the description of a Parquet column, with its unit and UCD."""
    import pyarrow as pa

    told = {"description": column.description, "ucd": column.ucd}
    told |= {"unit": column.unit} if column.unit else {}
    return pa.field(column.name, kind, metadata=told)


def parquet_bytes(rows: Rows, notes: Notes) -> bytes:
    """Return a Parquet file of one table.

    Parameters
    ----------
    rows
        One row per measurement; object and type stand in each, of one lightcurve too.
    notes
        What goes into the metadata of the schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = rows.columns()
    arrays = [_arrow_array(column) for column in columns]
    fields = [arrow_field(c, a.type) for c, a in zip(columns, arrays, strict=True)]
    told = {
        "idfzarr": json.dumps(notes.to_dict()),
        "IVOA.VOTable-Parquet.version": "1.0",
        "IVOA.VOTable-Parquet.content": votable_head(rows, notes, columns).decode(),
    }
    # astropy's reader asks for the length of texts.
    texts = [one for one in columns if one.values.dtype.kind == "U"]
    told |= {f"table::len::{one.name}": str(max(1, one.values.itemsize // 4)) for one in texts}
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=told))
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _arrow_array(column: Column) -> Any:
    import pyarrow as pa

    if column.values.dtype.kind == "U":
        names, codes = np.unique(column.values, return_inverse=True)
        # As plain text, which Parquet packs as well: not every reader takes Arrow's dictionaries.
        return pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32)), pa.array(names.tolist(), pa.string())
        ).dictionary_decode()
    return pa.array(column.values)


# -------------------------------------------------------------------- text


def csv_bytes(rows: Rows) -> bytes:
    """Return CSV: names, then a row for each measurement; nothing where a number is NaN.

    Numbers have as many digits as give back every bit. A column says the unit.
    """
    import pyarrow as pa
    from pyarrow import csv

    columns = rows.columns(unit=True)
    arrays = [
        pa.array(c.values, mask=np.isnan(c.values))
        if c.values.dtype.kind == "f"
        else pa.array(c.values.tolist() if c.values.dtype.kind == "U" else c.values)
        for c in columns
    ]
    table = pa.Table.from_arrays(arrays, names=[c.name for c in columns])
    sink = io.BytesIO()
    csv.write_csv(table, sink, csv.WriteOptions(quoting_style="needed"))
    return sink.getvalue()


def csv_metadata(rows: Rows, notes: Notes, name: str) -> bytes:
    """Return what is told about a CSV file of this name, in JSON."""
    told = {
        "@context": "http://www.w3.org/ns/csvw",
        "url": name,
        "tableSchema": {"columns": [_csv_column(c) for c in rows.columns(unit=True)]},
        "idfzarr": notes.to_dict(),
    }
    return f"{json.dumps(told, indent=1)}\n".encode()


def _csv_column(column: Column) -> dict[str, Any]:
    told = {
        "name": column.name,
        "dc:description": column.description,
        "datatype": _XSD.get(column.values.dtype.str[1:], "string"),
        "ucd": column.ucd,
    }
    return told | ({"unit": column.unit} if column.unit else {})


def ecsv_bytes(rows: Rows, notes: Notes) -> bytes:
    """Return ECSV, with units, descriptions and notes in its head."""
    text = io.StringIO()
    plain_table(rows.columns(flat=len(rows.curves) == 1), rows, notes).write(
        text, format="ascii.ecsv"
    )
    return text.getvalue().encode()


def plain_table(columns: Sequence[Column], rows: Rows, notes: Notes) -> Any:
    """Return an astropy Table with units, descriptions and notes."""
    from astropy.table import Column as TableColumn
    from astropy.table import Table

    made = Table(
        [
            TableColumn(
                c.values,
                name=c.name,
                unit=c.unit or None,
                description=c.description,
                meta={"ucd": c.ucd},
            )
            for c in columns
        ]
    )
    made.meta.update(notes.to_dict())
    if len(rows.curves) == 1:
        one = rows.curves[0]
        made.meta.update(object=one.object, type=one.type, ra=one.ra, dec=one.dec)
    return made
