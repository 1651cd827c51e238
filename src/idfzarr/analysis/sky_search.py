"""Positions and angles as people write them, and searches on the sky.

`SkyTree` searches; it is that of `idfzarr.store.sky`, which the cube itself uses. Positions in the
usual notations are read here without astropy's coordinates, which take longer to import than all
of a search; whatever else is asked goes to them.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.store.sky import SkyTree, sky_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from astropy.coordinates import SkyCoord
    from astropy.units import Quantity
    from numpy.typing import NDArray

    Double: TypeAlias = NDArray[np.float64]
    Position: TypeAlias = SkyCoord | str | tuple[float, float] | Sequence[float]
    Angle: TypeAlias = str | float | Quantity

__all__ = [
    "SkyTree",
    "angle_of",
    "box_rows",
    "position_of",
    "range_of",
    "sky_tree",
    "table_positions",
]

_NUMBER = r"\d+(?:\.\d*)?|\.\d+"
_PAIR = r"(?:\s*,\s*|\s+)"
_DEGREES = re.compile(
    rf"(?P<ra>[+-]?(?:{_NUMBER}))\s*(?:deg|d)?{_PAIR}(?P<dec>[+-]?(?:{_NUMBER}))\s*(?:deg|d)?"
)
# Each number has its own mark in these, so that no two of them can run into one another.
_LETTERS = re.compile(
    rf"(?P<rh>\d+)\s*h\s*(?P<rm>\d+)\s*m(?:\s*(?P<rs>{_NUMBER})\s*s)?\s*,?\s*"
    rf"(?P<sign>[+-]?)\s*(?P<dd>\d+)\s*d\s*(?P<dm>\d+)\s*[m'](?:\s*(?P<ds>{_NUMBER})\s*[s\"])?"
)
_SIX_NUMBERS = re.compile(
    rf"(?P<rh>\d+)(?P<mark>[: ])(?P<rm>\d+)(?P=mark)(?P<rs>{_NUMBER})(?:{_PAIR}|(?=[+-]))"
    rf"(?P<sign>[+-]?)(?P<dd>\d+)(?P=mark)(?P<dm>\d+)(?P=mark)(?P<ds>{_NUMBER})"
)
_ANGLE = re.compile(rf"(?P<value>[+-]?(?:{_NUMBER})(?:[eE][+-]?\d+)?)\s*(?P<unit>[a-zA-Z'\"]*)")
_ARCSEC_OF = {
    1.0: ("", "arcsec", "arcsecs", "arcsecond", "arcseconds", "as", "asec", '"', "''"),
    60.0: ("arcmin", "arcmins", "arcminute", "arcminutes", "am", "amin", "'"),
    3600.0: ("deg", "degs", "degree", "degrees", "d"),
    0.001: ("mas", "milliarcsec", "milliarcsecond", "milliarcseconds"),
    math.degrees(1) * 3600: ("rad", "radian", "radians"),
}
_ARCSEC_BY_NAME = {name: size for size, names in _ARCSEC_OF.items() for name in names}
_EXAMPLES = "as '17h40m00s +69d00m00s', '17:40:00 +69:00:00', '265.0 +69.0' or (265.0, 69.0)"
_RA_NAMES = ("ra", "raj2000", "ra_icrs", "_raj2000", "ra_deg", "radeg", "ra_j2000", "alpha_j2000")
_DEC_NAMES = (
    "dec", "dej2000", "decj2000", "de_icrs", "dec_icrs", "_dej2000", "dec_deg", "decdeg", "dedeg",
    "dec_j2000", "delta_j2000",
)  # fmt: skip


# ------------------------------------------------------------------ positions and angles


def _no_position(what: object, why: str = "") -> UsageError:
    return UsageError(f"{what!r} is no position on the sky{why}: write one {_EXAMPLES}")


def _checked(ra: float, dec: float, what: object) -> tuple[float, float]:
    if not (math.isfinite(ra) and math.isfinite(dec)):
        raise _no_position(what, " (not finite)")
    if not -360 <= ra <= 360 or not -90 <= dec <= 90:
        raise _no_position(what, f" (ra {ra:g}, dec {dec:g} is out of range)")
    return ra % 360.0, dec


def _sexagesimal(match: re.Match[str], what: str) -> tuple[float, float]:
    part = {name: float(match[name] or 0) for name in ("rh", "rm", "rs", "dd", "dm", "ds")}
    for name, limit in (("rh", 24), ("rm", 60), ("rs", 60), ("dm", 60), ("ds", 60)):
        if part[name] >= limit:
            raise _no_position(what, f" ({part[name]:g} where less than {limit} belongs)")
    ra = 15 * (part["rh"] + part["rm"] / 60 + part["rs"] / 3600)
    dec = part["dd"] + part["dm"] / 60 + part["ds"] / 3600
    return _checked(ra, -dec if match["sign"] == "-" else dec, what)


def _parsed(text: str) -> tuple[float, float]:
    stripped = text.strip().replace("−", "-")
    if match := _DEGREES.fullmatch(stripped):
        return _checked(float(match["ra"]), float(match["dec"]), text)
    if match := _LETTERS.fullmatch(stripped) or _SIX_NUMBERS.fullmatch(stripped):
        return _sexagesimal(match, text)
    from astropy.coordinates import SkyCoord
    from astropy.units import UnitsError

    try:
        return _of_skycoord(SkyCoord(stripped))
    except (ValueError, TypeError, UnitsError) as error:
        raise _no_position(text) from error


def _of_skycoord(coordinate: Any) -> tuple[float, float]:
    from astropy.coordinates.errors import ConvertError

    if not coordinate.isscalar:
        msg = (
            f"one position is asked for, not {coordinate.size} of them: take one, or use "
            "crossmatch for many"
        )
        raise UsageError(msg)
    try:
        icrs = coordinate.icrs
    except ConvertError as error:
        raise _no_position(coordinate, f" ({error})") from error
    return _checked(float(icrs.ra.deg), float(icrs.dec.deg), coordinate)


def position_of(position: Position) -> tuple[float, float]:
    """Return right ascension and declination of a position.

    Parameters
    ----------
    position
        An astropy SkyCoord in any frame; text such as ``17h40m00s +69d00m00s``,
        ``17:40:00 +69:00:00`` (hours) or ``265.0 +69.0`` (degrees); a pair of numbers (degrees) or
        of Quantities.

    Returns
    -------
    tuple of float
        Degrees, ICRS; right ascension 0 to 360.

    Raises
    ------
    UsageError
        It is no position, or several.

    Examples
    --------
    >>> position_of("17h40m00s +69d00m00s")
    (265.0, 69.0)
    """
    if isinstance(position, str):
        return _parsed(position)
    if hasattr(position, "icrs"):
        return _of_skycoord(position)
    try:
        ra, dec = position
        return _checked(_degrees(ra), _degrees(dec), (ra, dec))
    except (TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise _no_position(position) from error


def _degrees(angle: Any) -> float:
    """Return a number of degrees, or a Quantity in degrees; raises TypeError and ValueError."""
    if hasattr(angle, "to_value"):
        return angle_of(angle) / 3600
    if isinstance(angle, str | bool):
        raise TypeError
    return float(angle)


def angle_of(angle: Angle) -> float:
    """Return an angle in arcseconds.

    Parameters
    ----------
    angle
        A number of arcseconds, text such as ``30 arcsec``, ``0.5'`` or ``2 deg``, or a Quantity.

    Returns
    -------
    float
        Arcseconds.

    Raises
    ------
    UsageError
        It is no angle.

    Examples
    --------
    >>> angle_of("0.5 arcmin")
    30.0
    """
    if isinstance(angle, str):
        match = _ANGLE.fullmatch(angle.strip())
        size = None if match is None else _ARCSEC_BY_NAME.get(match["unit"].lower())
        if match is None or size is None:
            unit = "" if match is None else closest(match["unit"], _ARCSEC_BY_NAME)
            msg = f"{angle!r} is no angle{unit}: write one as '30 arcsec', '0.5 arcmin' or '1 deg'"
            raise UsageError(msg)
        return float(match["value"]) * size
    if hasattr(angle, "to_value"):
        return _of_quantity(angle)
    try:
        return float(angle)
    except (TypeError, ValueError) as error:
        msg = f"{angle!r} is no angle: give arcseconds, '30 arcsec' or a Quantity"
        raise UsageError(msg) from error


def _of_quantity(angle: Any) -> float:
    from astropy.units import UnitsError

    try:
        return float(angle.to_value("arcsec"))
    except (UnitsError, TypeError, ValueError) as error:
        msg = f"{angle!r} is no angle: its unit is none of angles, or there are several"
        raise UsageError(msg) from error


def range_of(limits: Sequence[float] | slice, *, name: str) -> tuple[float, float]:
    """Return the two ends of a range.

    Parameters
    ----------
    limits
        Two numbers, or a slice; None for an open end.
    name
        What an error calls it.

    Returns
    -------
    tuple of float
        First and last.

    Raises
    ------
    UsageError
        They are no two numbers.

    Examples
    --------
    >>> range_of((1, None), name="dec")
    (1.0, inf)
    """
    pair = (limits.start, limits.stop) if isinstance(limits, slice) else limits
    try:
        low, high = pair
        first = -math.inf if low is None else float(low)
        last = math.inf if high is None else float(high)
    except (TypeError, ValueError) as error:
        msg = f"{limits!r} is no range of {name}: give two numbers, as (1.5, 3)"
        raise UsageError(msg) from error
    if math.isnan(first) or math.isnan(last):
        msg = f"{limits!r} is no range of {name}: an end is not a number"
        raise UsageError(msg)
    return first, last


# ------------------------------------------------------------------ boxes and tables


def _within(values: Double, limits: Sequence[float] | slice, name: str) -> NDArray[np.bool_]:
    first, last = range_of(limits, name=name)
    if last < first:
        msg = f"the range of {name} {first:g} to {last:g} ends before it begins: swap the two"
        raise UsageError(msg)
    return np.asarray((values >= first) & (values <= last), dtype=np.bool_)


def _within_ra(ra: Double, limits: Sequence[float] | slice) -> NDArray[np.bool_]:
    first, last = range_of(limits, name="ra")
    if not (math.isfinite(first) and math.isfinite(last)):
        msg = f"the range of ra {first:g} to {last:g} is open: give both ends, in degrees"
        raise UsageError(msg)
    known = np.isfinite(ra)
    if last - first >= 360:
        return np.asarray(known, dtype=np.bool_)
    turned, begin, end = np.where(known, ra, 0.0) % 360.0, first % 360.0, last % 360.0
    if begin <= end:
        inside = (turned >= begin) & (turned <= end)
    else:
        inside = (turned >= begin) | (turned <= end)
    return np.asarray(inside & known, dtype=np.bool_)


def box_rows(
    *,
    ra: tuple[Double, Sequence[float] | slice] | None = None,
    dec: tuple[Double, Sequence[float] | slice] | None = None,
    **along: tuple[Double, Sequence[float] | slice] | None,
) -> NDArray[np.intp]:
    """Return what lies in a box of coordinates, the edges included.

    Parameters
    ----------
    ra
        Right ascensions in degrees, (n,), and the two ends of their range: eastward from the first
        to the second, so that (359, 1) is two degrees wide and (1, 359) is 358.
    dec
        Declinations in degrees, (n,), and the two ends.
    **along
        The same for further coordinates, as ``x`` and ``y``.

    Returns
    -------
    ndarray of int
        Rows, ascending; where a coordinate is NaN, it is in no box.

    Raises
    ------
    UsageError
        A range is none or ends before it begins, or no range was given.

    Examples
    --------
    >>> box_rows(ra=(np.array([358.0, 359.5, 0.5]), (359, 1))).tolist()
    [1, 2]
    """
    masks = [] if ra is None else [_within_ra(*ra)]
    for name, one in {"dec": dec, **along}.items():
        if one is not None:
            masks.append(_within(one[0], one[1], name))
    if not masks:
        msg = "a box needs a range: give ra=(264.9, 265.1) or dec=..., or pixels x=... and y=..."
        raise UsageError(msg)
    return np.flatnonzero(np.logical_and.reduce(masks))


def _column(table: Any, names: Sequence[str], what: str) -> Any:
    columns = list(getattr(table, "colnames", None) or table.keys())
    by_name = {str(column).lower(): column for column in columns}
    for name in names:
        if name in by_name:
            return table[by_name[name]]
    near = closest(what, by_name)
    msg = (
        f"the table has no column of {what} (looked for {', '.join(names[:4])}, ...){near}; it has "
        f"{', '.join(map(str, columns[:8]))}"
    )
    raise UnknownName(msg)


def _in_degrees(column: Any) -> Double:
    unit = getattr(column, "unit", None)
    values = np.ma.filled(np.ma.asarray(getattr(column, "value", column), dtype=np.float64), np.nan)
    if unit is None:
        return np.asarray(values, dtype=np.float64)
    from astropy.units import Unit, UnitsError

    try:
        return np.asarray(Unit(unit).to("deg", values), dtype=np.float64)
    except UnitsError as error:
        msg = f"a column of positions has the unit {unit}, which is none of angles"
        raise UsageError(msg) from error


def table_positions(table: Any) -> tuple[Double, Double]:
    """Return the positions of a table.

    Parameters
    ----------
    table
        An astropy Table, a pandas DataFrame, an xarray Dataset or a dict with columns of right
        ascension and declination (``ra`` and ``dec``, ``RAJ2000`` and ``DEJ2000``, ...; degrees
        where they have no unit), a SkyCoord of many, or two arrays.

    Returns
    -------
    tuple of ndarray
        Degrees, ICRS, (m,); NaN where the table has none.

    Raises
    ------
    UnknownName
        There are no such columns.
    UsageError
        Their unit is none of angles, or it is no table.

    Examples
    --------
    >>> table_positions({"RA": [265.0], "Dec": [69.0]})
    (array([265.]), array([69.]))
    """
    if hasattr(table, "icrs"):
        icrs = table.icrs
        return np.atleast_1d(icrs.ra.deg), np.atleast_1d(icrs.dec.deg)
    if hasattr(table, "colnames") or hasattr(table, "keys"):
        ra, dec = _column(table, _RA_NAMES, "ra"), _column(table, _DEC_NAMES, "dec")
    else:
        try:
            ra, dec = table
        except (TypeError, ValueError) as error:
            msg = f"a {type(table).__name__} is no table of positions: give one with ra and dec"
            raise UsageError(msg) from error
    try:
        return np.atleast_1d(_in_degrees(ra)), np.atleast_1d(_in_degrees(dec))
    except (TypeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        msg = f"the table's positions are no numbers: {error}"
        raise UsageError(msg) from error
