"""Many lightcurves as one astropy Table or TimeSeries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idfzarr.care.lightcurve_choice import choose_lightcurves
from idfzarr.care.lightcurve_notes import notes_of
from idfzarr.care.lightcurve_parquet import plain_table
from idfzarr.care.lightcurve_rows import RowForm, rows_of
from idfzarr.store.cube import Cube

if TYPE_CHECKING:
    from collections.abc import Iterable

    from idfzarr.care.lightcurve_rows import System
    from idfzarr.store.place import PlaceLike

__all__ = ["lightcurve_table", "lightcurve_timeseries"]


def lightcurve_table(
    cube: PlaceLike | Cube,
    objects: Iterable[int],
    types: str | Iterable[str] = "*",
    *,
    calibrated: bool = False,
    good: bool = False,
    mag: bool = True,
    system: System = "AB",
) -> Any:
    """Return lightcurves as one astropy Table.

    Parameters
    ----------
    cube
        The cube, or its path.
    objects
        Ids of the objects.
    types
        Names or globs of types.
    calibrated
        Apply the calibration that is stored beside them.
    good
        Leave out flagged measurements.
    mag, system
        Add magnitudes, and of which system.

    Returns
    -------
    astropy.table.Table
        ``object``, ``type``, ``ra``, ``dec``, ``aor``, ``mjd``, ``flux``, ``flux_err``, ``mag``,
        ``mag_err``, ``flag``; where units differ, a column ``unit`` says which.

    Raises
    ------
    UnknownName
        No such object, or no type matches.
    StoreError
        There is no cube.
    """
    opened = cube if isinstance(cube, Cube) else Cube(cube)
    form = RowForm(calibrated=calibrated, good=good, mag=mag, system=system)
    choice = choose_lightcurves(opened, objects=objects, types=types)
    rows = rows_of(opened.lightcurves(choice.objects, choice.types), form)
    return plain_table(rows.columns(), rows, notes_of(opened, choice.types, form))


def lightcurve_timeseries(
    cube: PlaceLike | Cube,
    objects: Iterable[int],
    types: str | Iterable[str] = "*",
    **form: Any,
) -> Any:
    """Return lightcurves as one astropy TimeSeries, sorted by time.

    Parameters
    ----------
    cube, objects, types, **form
        As of `lightcurve_table`.

    Returns
    -------
    astropy.timeseries.TimeSeries
        ``time`` (UTC) and the columns of `lightcurve_table`.
    """
    from astropy.time import Time
    from astropy.timeseries import TimeSeries

    table = lightcurve_table(cube, objects, types, **form)
    times = Time(table["mjd"].value, format="mjd", scale="utc")
    series = TimeSeries(time=times, meta=dict(table.meta))
    for name in table.colnames:
        series[name] = table[name]
    series.sort("time")
    return series
