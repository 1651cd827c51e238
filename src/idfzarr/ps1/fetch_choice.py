"""Which skycells a fetch is about: by TESS, by name, by place, by list, or by a cube's objects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import NoSkyCoordinates, UsageError, closest
from idfzarr.ps1 import skycell, tess
from idfzarr.ps1.grid import grid
from idfzarr.ps1.sky_keys import BANDS, KINDS, SkyArray, sky_array
from idfzarr.ps1.tess import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from idfzarr.ps1.tess import Rule
    from idfzarr.store.place import PlaceLike

__all__ = ["arrays_of", "choose", "under_objects"]


def choose(
    *,
    skycells: str | Iterable[str] | None = None,
    sector: int | None = None,
    camera: int | None = None,
    ccd: int | None = None,
    cone: tuple[float, float, float] | None = None,
    csv: str | os.PathLike[str] | None = None,
    field: PlaceLike | None = None,
    rule: Rule = "overlap",
    padding: bool | None = None,
) -> Selection:
    """Choose skycells in one of five ways.

    Parameters
    ----------
    skycells
        Names or globs.
    sector, camera, ccd
        What a CCD of TESS sees.
    cone
        Right ascension, declination and radius, degrees.
    csv
        A master list of the earlier toolkit.
    field
        A cube: the skycells in which its objects lie.
    rule
        For a CCD, see `idfzarr.ps1.tess.Rule`.
    padding
        Whether neighbours come too; None takes those of a list and no others.

    Raises
    ------
    UsageError
        No way was given, or several; or nothing is found.
    """
    by_ccd = any(part is not None for part in (sector, camera, ccd))
    ways = {
        "skycells": skycells is not None,
        "sector, camera and ccd": by_ccd,
        "cone": cone is not None,
        "csv": csv is not None,
        "field": field is not None,
    }
    given = [way for way, is_given in ways.items() if is_given]
    if len(given) != 1:
        found = f"{' and '.join(given)} were given" if given else "none was given"
        msg = f"skycells are chosen in one way of {'; '.join(ways)}: {found}"
        raise UsageError(msg)
    if by_ccd:
        chosen = tess.select(
            sector=sector, camera=camera, ccd=ccd, rule=rule, padding=bool(padding)
        )
    elif csv is not None:
        chosen = tess.from_csv(os.fspath(csv), padding=padding is not False)
    else:
        chosen = _by_place(skycells, cone, field, padding=bool(padding))
    if not chosen.names:
        msg = (
            f"Pan-STARRS1 has no skycells for {chosen.source}: it sees the sky north of "
            f"declination {grid().dec_min:.1f}"
        )
        raise UsageError(msg)
    return chosen


def _by_place(
    skycells: str | Iterable[str] | None,
    cone: tuple[float, float, float] | None,
    field: PlaceLike | None,
    *,
    padding: bool,
) -> Selection:
    if skycells is not None:
        names, source = skycell.matching(skycells), "these names"
    elif cone is not None:
        ra, dec, radius = cone
        names, source = skycell.in_cone(ra, dec, radius), f"the cone around {ra} {dec}"
    elif field is not None:
        names, source = under_objects(field), f"the objects of {field}"
    around = {other for name in names for other in skycell.neighbours(name)} if padding else set()
    return Selection(names=names, padding=tuple(sorted(around - set(names))), source=source)


def under_objects(field: PlaceLike) -> tuple[str, ...]:
    """Return the skycells in which the objects of a cube lie best.

    Parameters
    ----------
    field
        The cube.

    Returns
    -------
    tuple of str
        Sorted; objects south of the survey have none.

    Raises
    ------
    NoSkyCoordinates
        No object has a position on the sky.
    StoreError
        There is no cube.
    """
    from idfzarr.store.cube import Cube

    cube = Cube(field)
    ra, dec = (np.asarray(cube.coordinate(name), dtype=np.float64) for name in ("ra", "dec"))
    known = np.isfinite(ra) & np.isfinite(dec)
    if not known.any():
        msg = f"no object of {field} has a position on the sky: choose skycells in another way"
        raise NoSkyCoordinates(msg)
    seen = known & (dec >= grid().dec_min)
    return tuple(sorted(set(skycell.best_many(ra[seen], dec[seen]).tolist())))


def arrays_of(
    names: Iterable[str], bands: str | Iterable[str], kinds: str | Sequence[str]
) -> list[SkyArray]:
    """Return the arrays of skycells in some bands and of some kinds.

    Raises
    ------
    UsageError
        There is no such band or kind, or none was given.
    """
    wanted_bands = _checked("band", bands, BANDS)
    wanted_kinds = _checked("kind", [kinds] if isinstance(kinds, str) else kinds, KINDS)
    return [
        sky_array(name, band, kind)
        for name in names
        for band in wanted_bands
        for kind in wanted_kinds
    ]


def _checked(what: str, asked: Iterable[Any], known: Sequence[str]) -> list[str]:
    given = list(asked)
    for one in given:
        if one not in known:
            near = closest(one, known)
            msg = f"there is no {what} {str(one)[:20]!r}{near}; one of {', '.join(known)}"
            raise UsageError(msg)
    if not given:
        msg = f"no {what} was asked for: give some of {', '.join(known)}"
        raise UsageError(msg)
    return [one for one in known if one in given]
