"""Which lightcurves are taken out: objects by number, list, cone or rank, and types by glob."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UsageError, closest
from idfzarr.measurement import select_types

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from idfzarr.store.cube import Cube

__all__ = ["LightcurveChoice", "choose_lightcurves", "objects_from"]

_COLUMNS = ("object", "object_id")
_EXACT = 1 << 53
_TABLES = {".ecsv", ".fits", ".fit", ".vot", ".votable", ".xml", ".parquet"}


@dataclass(frozen=True)
class LightcurveChoice:
    """Objects and types that were chosen.

    Attributes
    ----------
    objects
        Ids, in the order asked for, each once.
    types
        Names, in the order of the cube.
    said
        How the objects were chosen, for people.
    """

    objects: tuple[int, ...]
    types: tuple[str, ...]
    said: str

    def __len__(self) -> int:
        return len(self.objects) * len(self.types)


def choose_lightcurves(
    cube: Cube,
    *,
    objects: Iterable[int] | str | os.PathLike[str] | None = None,
    cone: Sequence[Any] | None = None,
    top: int | None = None,
    by: str = "score",
    where: str | None = None,
    types: str | Iterable[str] = "*",
) -> LightcurveChoice:
    """Choose lightcurves of a cube.

    Parameters
    ----------
    cube
        The cube.
    objects
        Ids, or a file that lists them; see `objects_from`.
    cone
        ``(ra, dec, radius)`` or ``(place, radius)``: degrees or what names a place, and arcseconds
        or an angle with its unit. The nearest come first.
    top, by
        So many objects with the largest value of a statistic; see
        `idfzarr.analysis.ranking.rank_store`.
    where
        A condition on the objects, ``score > 5 and ch1_mag < 20``; see
        `idfzarr.analysis.query.select` and `idfzarr.analysis.object_columns.ObjectColumns`.
    types
        Names or globs of types.

    Returns
    -------
    LightcurveChoice
        All objects unless one of the above is given. A cone or a list may hold none.

    Raises
    ------
    UnknownName
        No such object, type or statistic.
    UsageError
        Objects are chosen in two ways, or the list, the cone or the condition cannot be read.
    NoSkyCoordinates
        A cone is asked of a field without a WCS.
    """
    ways = {"objects": objects, "cone": cone, "top": top, "where": where}
    asked = [name for name, value in ways.items() if value is not None]
    if len(asked) > 1:
        msg = f"objects are chosen by {' and by '.join(asked)} at once: leave all but one out"
        raise UsageError(msg)
    names = tuple(select_types(cube.types, types))
    if cone is not None:
        chosen, said = _in_cone(cube, cone)
    elif top is not None:
        chosen, said = _ranked(cube, top, by), f"the {top} objects with the largest {by}"
    elif where is not None:
        chosen, said = _meeting(cube, where), f"the objects with {where}"
    elif objects is None:
        chosen, said = [int(one) for one in cube.objects], "all objects"
    elif isinstance(objects, str | os.PathLike):
        chosen, said = objects_from(objects), f"the objects in {os.fspath(objects)}"
    else:
        chosen, said = list(objects), "the objects that were named"
    for one in chosen:
        cube.row(one)
    return LightcurveChoice(tuple(dict.fromkeys(int(one) for one in chosen)), names, said)


def _in_cone(cube: Cube, cone: Sequence[Any]) -> tuple[list[int], str]:
    from idfzarr.analysis.sky_search import angle_of, position_of

    if isinstance(cone, str) or len(cone) not in {2, 3}:
        msg = f"the cone {cone!r} is not understood: give (ra, dec, radius) or (place, radius)"
        raise UsageError(msg)
    ra, dec = position_of(cone[0] if len(cone) == 2 else (cone[0], cone[1]))
    radius = angle_of(cone[-1])
    said = f"the objects within {radius:g} arcsec of RA {ra:.6g}, Dec {dec:.6g}"
    return [int(one) for one in cube.cone(ra, dec, radius)], said


def _ranked(cube: Cube, top: int, by: str) -> list[int]:
    from idfzarr.analysis.ranking import rank_store

    if top < 1:
        msg = f"the {top} most variable objects cannot be listed: ask for at least one"
        raise UsageError(msg)
    return rank_store(cube, top=top, by=by).objects


def _meeting(cube: Cube, where: str) -> list[int]:
    from idfzarr.analysis.object_columns import ObjectColumns
    from idfzarr.analysis.query import select

    return [int(one) for one in cube.objects[select(ObjectColumns(cube), where)]]


# -------------------------------------------------------------------- lists


def objects_from(path: str | os.PathLike[str]) -> list[int]:
    """Return the ids of objects that a file lists.

    Parameters
    ----------
    path
        A table with a column ``object`` (or ``object_id``) as ECSV, FITS, VOTable or Parquet by
        its suffix; else text: CSV with such a column, or one id a line; ``#`` begins a comment.

    Returns
    -------
    list of int
        In the order of the file; empty where it lists none.

    Raises
    ------
    UsageError
        There is no such file, no such column, or something in it is no whole number.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        msg = f"the list of objects {name} is not there: give a file with a column object"
        raise UsageError(msg)
    read = _of_table if os.path.splitext(name)[1].lower() in _TABLES else _of_text
    return [_whole(value, name) for value in read(name)]


def _whole(value: Any, name: str) -> int:
    text = str(value).strip()
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    # Tables with gaps hold their whole numbers as floats, which are exact only so far.
    if not number.is_integer() or abs(number) > _EXACT:
        msg = f"{name} lists {text!r}, which is no id of an object: ids are whole numbers"
        raise UsageError(msg)
    return int(number)


def _position(names: Sequence[str], path: str) -> int:
    lower = [name.strip().lower() for name in names]
    for wanted in _COLUMNS:
        if wanted in lower:
            return lower.index(wanted)
    near = closest("object", lower)
    msg = f"{path} has no column object{near}: it has {', '.join(map(str, names))}"
    raise UsageError(msg)


def _of_table(path: str) -> list[Any]:
    from astropy.io.registry import IORegistryError
    from astropy.table import Table

    suffix = os.path.splitext(path)[1].lower()
    form = {".ecsv": "ascii.ecsv", ".fits": "fits", ".fit": "fits", ".parquet": "parquet"}
    try:
        table = Table.read(path, format=form.get(suffix, "votable"))
    except (ValueError, TypeError, OSError, IORegistryError, IndexError, KeyError) as error:
        reason = str(error).strip().splitlines()[:1]
        msg = f"{path} cannot be read as the table its suffix promises ({''.join(reason)})"
        raise UsageError(msg) from error
    return list(table.columns[_position(table.colnames, path)].tolist())


def _of_text(path: str) -> list[Any]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [line for line in (one.split("#", 1)[0].strip() for one in file) if line]
    except UnicodeDecodeError as error:
        msg = f"{path} is no text: give a list as CSV, ECSV, or one id a line"
        raise UsageError(msg) from error
    if not lines:
        return []
    if "," in lines[0]:
        cells = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    else:
        cells = [line.split() for line in lines]
    column = 0
    if not cells[0][0].lstrip("+-").isdigit():
        column = _position(cells[0], path)
        cells = cells[1:]
    elif len(cells[0]) > 1:
        msg = f"{path} has several columns and no names: name one of them object in the first line"
        raise UsageError(msg)
    short = [row for row in cells if len(row) <= column]
    if short:
        msg = f"{path} has a line without an object: {' '.join(short[0])!r}"
        raise UsageError(msg)
    return [row[column] for row in cells]
