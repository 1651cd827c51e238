"""Lightcurves as VOTable 1.4, with TIMESYS, COOSYS and UCDs.

VOTable Format Definition 1.4, IVOA Recommendation of 2019-10-21; reference positions and time
scales are words of the IVOA's vocabularies.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from idfzarr.care.lightcurve_notes import Notes
    from idfzarr.care.lightcurve_rows import Column, Rows

__all__ = ["votable_bytes", "votable_head"]

_DATATYPES = {"i8": "long", "i4": "int", "f8": "double", "f4": "float"}
_BEGIN, _END = b'<STREAM encoding="base64">', b"</STREAM>"
_VERSION = {"version": "1.4", **{f"version_1_{n}_or_later": True for n in (1, 2, 3, 4)}}
_REFERENCES = {"mjd": "time_utc", "bjd_tdb": "time_tdb", "ra": "icrs", "dec": "icrs"}


def votable_bytes(rows: Rows, notes: Notes) -> bytes:
    """Return a VOTable of one table, its values in BINARY2, which keeps every bit.

    Parameters
    ----------
    rows
        One lightcurve gives a flat table; many give a row per measurement with object and type.
    notes
        What goes into its parameters.
    """
    return _written(rows, notes, rows.columns(flat=len(rows.curves) == 1), with_rows=True)


def votable_head(rows: Rows, notes: Notes, columns: list[Column]) -> bytes:
    """Return a VOTable that describes columns and holds no rows, for VOParquet."""
    return _written(rows, notes, columns, with_rows=False)


def _written(rows: Rows, notes: Notes, columns: list[Column], *, with_rows: bool) -> bytes:
    from astropy.io.votable import tree

    file = tree.VOTableFile(version="1.4")
    resource = tree.Resource(type="results")
    file.resources.append(resource)
    has_sky = bool(np.isfinite([one.ra for one in rows.curves]).any())
    if has_sky:
        resource.coordinate_systems.append(tree.CooSys(ID="icrs", system="ICRS", config=_VERSION))
    names = [column.name for column in columns]
    for ID, origin, scale, place in (
        ("time_utc", "MJD-origin", "UTC", "TOPOCENTER"),
        ("time_tdb", "JD-origin", "TDB", "BARYCENTER"),
    ):
        if ID in {_REFERENCES.get(name) for name in names}:
            resource.time_systems.append(
                tree.TimeSys(
                    ID=ID,
                    timeorigin=origin,
                    timescale=scale,
                    refposition=place,
                    config=_VERSION,
                )
            )
    table = tree.TableElement(file, name="lightcurves")
    resource.tables.append(table)
    table.fields.extend(_field(file, tree, column) for column in columns)
    table.params.extend(_params(file, tree, rows, notes, has_sky=has_sky))
    for line in notes.lines():
        name = line.split(":", 1)[0].split()
        table.infos.append(tree.Info(name="_".join(name[:2]), value=line))
    # One row marks the place of all: astropy takes 50 times as long for each as numpy.
    table.create_arrays(1 if with_rows else 0)
    stream = io.BytesIO()
    file.to_xml(stream, tabledata_format="binary2" if with_rows else "tabledata")
    if not with_rows:
        return stream.getvalue()
    head, begin, rest = stream.getvalue().partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    return b"".join([head, begin, b"\n", base64.encodebytes(_binary2(columns)), end, tail])


def _binary2(columns: list[Column]) -> bytes:
    """Return rows in BINARY2 (section 5.4): bits of nulls, of which there are none, and values."""
    stored = [
        column.values.astype("S") if column.values.dtype.kind == "U" else column.values
        for column in columns
    ]
    kinds: list[Any] = [("nulls", "u1", (-(-len(columns) // 8),))]
    kinds += [(f"f{k}", one.dtype.newbyteorder(">")) for k, one in enumerate(stored)]
    made = np.zeros(len(stored[0]), dtype=np.dtype(kinds))
    for k, one in enumerate(stored):
        made[f"f{k}"] = one
    return made.tobytes()


def _field(file: Any, tree: Any, column: Column) -> Any:
    is_text = column.values.dtype.kind == "U"
    field = tree.Field(
        file,
        name=column.name,
        datatype="char" if is_text else _DATATYPES[column.values.dtype.str[1:]],
        # A length, since some readers take text of any length for objects.
        arraysize=str(max(1, column.values.itemsize // 4)) if is_text else None,
        unit=column.unit or None,
        ucd=column.ucd,
        ref=_REFERENCES.get(column.name),
    )
    field.description = column.description
    return field


def _params(file: Any, tree: Any, rows: Rows, notes: Notes, *, has_sky: bool) -> list[Any]:
    """Return what is the same in all rows."""

    def param(name: str, value: Any, ucd: str | None = None, **more: Any) -> Any:
        kinds = {bool: "boolean", int: "long", float: "double"}
        datatype = kinds.get(type(value), "unicodeChar")
        size = "*" if datatype == "unicodeChar" else None
        return tree.Param(
            file, name=name, value=value, datatype=datatype, arraysize=size, ucd=ucd, **more
        )

    made = [param(name, value) for name, value in notes.plain().items()]
    if len(rows.curves) == 1:
        one = rows.curves[0]
        made.append(param("object", one.object, "meta.id;meta.main"))
        made.append(param("type", one.type, "meta.code"))
        if has_sky:
            made += [
                param(name, getattr(one, name), f"pos.eq.{name};meta.main", unit="deg", ref="icrs")
                for name in ("ra", "dec")
            ]
    return made
