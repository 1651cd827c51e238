"""Take lightcurves out of a cube, as one table: CSV, ECSV, FITS or VOTable."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UsageError, closest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from idfzarr.store.place import PlaceLike

__all__ = ["FORMATS", "lightcurve_table", "table_bytes"]

FORMATS = {"csv": "ascii.csv", "ecsv": "ascii.ecsv", "fits": "fits", "votable": "votable"}
"""Formats by what they are called here and by astropy."""

_COLUMNS = ("aor", "mjd", "flux", "flux_err", "mag", "mag_err", "flag")


def lightcurve_table(
    cube: PlaceLike,
    objects: Iterable[int],
    types: str | Iterable[str] = "*",
    *,
    calibrated: bool = False,
) -> Any:
    """Return lightcurves as one astropy Table.

    Parameters
    ----------
    cube
        Path of the cube.
    objects
        Ids of the objects.
    types
        Names or globs of types.
    calibrated
        Apply the calibration that is stored beside them.

    Returns
    -------
    astropy.table.Table
        ``object``, ``type``, ``aor``, ``mjd``, ``flux``, ``flux_err``, ``mag``, ``mag_err``,
        ``flag``; where units differ, a column ``unit`` says which.

    Raises
    ------
    UnknownName
        No such object, or no type matches.
    StoreError
        There is no cube.
    """
    from astropy.table import Table, vstack

    from idfzarr.store.cube import Cube

    curves = Cube(cube).lightcurves(list(objects), types)
    curves = [one.calibrated() for one in curves] if calibrated else curves
    units = {one.unit for one in curves}
    made = []
    for one in curves:
        table = one.to_table()
        plain = {name: np.asarray(getattr(table[name], "value", table[name])) for name in _COLUMNS}
        plain["flag"] = plain["flag"].astype(
            np.int32
        )  # VOTable has no unsigned integers of 16 bits
        part = Table({"object": np.full(len(one), one.object_id), **plain})
        part.add_column(np.full(len(one), one.type), name="type", index=1)
        if len(units) > 1:
            part["unit"] = one.unit
        made.append(part)
    whole = vstack(made, metadata_conflicts="silent")
    whole["mjd"].unit = "d"
    if len(units) == 1:
        for name in ("flux", "flux_err"):
            whole[name].unit = units.copy().pop() or None
    return whole


def table_bytes(table: Any, form: str) -> bytes:
    """Return a table in one of the `FORMATS`.

    Raises
    ------
    UsageError
        There is no such format.
    """
    if form not in FORMATS:
        msg = f"--format {form!r} is unknown{closest(form, FORMATS)}; one of {', '.join(FORMATS)}"
        raise UsageError(msg)
    if form in {"csv", "ecsv"}:
        text = io.StringIO()
        table.write(text, format=FORMATS[form])
        return text.getvalue().encode()
    binary = io.BytesIO()
    table.write(binary, format=FORMATS[form])
    return binary.getvalue()
