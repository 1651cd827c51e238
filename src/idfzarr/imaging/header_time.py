"""When an image was taken, from whatever its header says about it.

Headers disagree about names, precision and zones. The rules here, in order:

1. A header that gives the middle of the exposure (MJD-AVG, DATE-AVG; FITS Standard 4.0, section
   9.5) is believed.
2. Otherwise the middle is start + duration / 2. All cards that give the start are read with the
   precision they are written with; the finest one is taken, unless an MJD card contradicts it by
   more than its own rounding: then the MJD card is taken, since local time without a zone in
   DATE-OBS is the commoner mistake.
3. The duration is end - start where the header has both, then the time the detector integrated
   (IRAC: ATIMEEND - AINTBEG, which covers all subframes), then TELAPSE, FRAMTIME, EXPTIME.
4. No start gives NaN; no duration leaves the start itself.

All times are UTC unless TIMESYS says otherwise.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from astropy.time import Time

from idfzarr.imaging.fits_image import card_as_written, card_number, card_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from astropy.io import fits

__all__ = ["ExposureTime", "exposure_time", "utc_to_bjd_tdb"]

_DAY = 86400.0
_MJD_ZERO = dt.date(1858, 11, 17).toordinal()
# Leap seconds are known from 1972 to some years ahead; astropy warns outside.
_FIRST_LEAP, _LAST_LEAP = 41317.0, 61770.0
_ISO = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d{2})-(?P<day>\d{2})"
    r"(?:[T ](?P<clock>\d{2}:\d{2}(?::\d{2}(?:\.\d*)?)?)(?P<zone>Z|[+-]\d{2}:?\d{2})?)?"
)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(\.\d*)?)?")
_START_DATES = ("UT-OBS", "UTC-OBS", "DATE-BEG", "DATE-OBS", "DATE_OBS")
_START_MJDS = ("MJD-BEG", "MJD-OBS", "MJD_OBS")
_CLOCKS = ("TIME-OBS", "TIME_OBS", "UTC", "UT", "UTSTART")


@dataclass(frozen=True)
class ExposureTime:
    """Time of one exposure.

    Attributes
    ----------
    mjd
        Middle of the exposure, MJD in UTC; NaN where the header has no time.
    duration
        Seconds from its start to its end; NaN where unknown.
    bjd_tdb
        Middle of the exposure as barycentric Julian date in TDB, for Spitzer's headers, which give
        the barycentric start; NaN for others.
    """

    mjd: float
    duration: float
    bjd_tdb: float


@dataclass(frozen=True)
class _Reading:
    """One card's time: MJD, the step of its last digit in days, and whether an MJD card gave it."""

    mjd: float
    step: float
    is_mjd: bool


def exposure_time(header: fits.Header) -> ExposureTime:
    """Read the time of an exposure; the rules stand at the head of this module.

    Examples
    --------
    >>> from astropy.io import fits
    >>> header = fits.Header({"DATE-OBS": "2017-12-19T18:33:43-0700", "EXPTIME": 60.0})
    >>> round(exposure_time(header).mjd, 6)
    58107.065428
    """
    start = _agreed(_readings(header, _START_DATES, _START_MJDS))
    duration = _duration(header, start)
    middle = _agreed(_readings(header, ("DATE-AVG",), ("MJD-AVG", "MJD-MID")))
    mjd = math.nan
    if middle is not None:
        mjd = middle.mjd
    elif start is not None:
        mjd = start.mjd + _half(duration)
    return ExposureTime(_as_utc(mjd, header), duration, _barycentric(header, duration))


def utc_to_bjd_tdb(bmjd_utc: float) -> float:
    """Turn a barycentric MJD that runs on UTC into BJD in TDB.

    Spitzer's BMJD_OBS is MJD_OBS plus the light travel time and nothing else: it runs on UTC, about
    a minute behind TDB (IRAC Instrument Handbook; Eastman, Siverd & Gaudi 2010, PASP 122, 935, on
    why the two must not be mixed).

    Parameters
    ----------
    bmjd_utc
        Days.

    Returns
    -------
    float
        Days; NaN outside the years of which leap seconds are known (from 1972 on).
    """
    if not _FIRST_LEAP <= bmjd_utc < _LAST_LEAP:
        return math.nan
    return float(Time(2400000.5, bmjd_utc, format="jd", scale="utc").tdb.jd)


def _barycentric(header: fits.Header, duration: float) -> float:
    start = card_number(header, "BMJD_OBS")
    return math.nan if math.isnan(start) else utc_to_bjd_tdb(start + _half(duration))


def _half(duration: float) -> float:
    return 0.0 if math.isnan(duration) else duration / 2 / _DAY


def _duration(header: fits.Header, start: _Reading | None) -> float:
    """Return the seconds from start to end, by the best card there is."""
    end = _agreed(_readings(header, ("DATE-END",), ("MJD-END",)))
    if start is not None and end is not None:
        span = (end.mjd - start.mjd) * _DAY
        # A span that its own rounding could have made is no measurement.
        if span > 2 * max(start.step, end.step) * _DAY:
            return span
    integrated = card_number(header, "ATIMEEND") - card_number(header, "AINTBEG")
    if integrated > 0:
        return integrated
    for name in ("TELAPSE", "FRAMTIME", "EXPTIME", "EXPOSURE"):
        seconds = card_number(header, name)
        if seconds > 0:
            return seconds
    return math.nan


def _readings(
    header: fits.Header, dates: Iterable[str], mjds: Iterable[str]
) -> tuple[_Reading, ...]:
    readings = [_from_date(header, name) for name in dates]
    readings += [_from_mjd(header, name) for name in mjds]
    return tuple(reading for reading in readings if reading is not None)


def _agreed(readings: tuple[_Reading, ...]) -> _Reading | None:
    """Return the finest reading, or the finest MJD card where that one contradicts it."""
    if not readings:
        return None
    finest = min(readings, key=lambda reading: reading.step)
    mjds = [reading for reading in readings if reading.is_mjd]
    if not mjds:
        return finest
    judge = min(mjds, key=lambda reading: reading.step)
    fitting = [r for r in readings if abs(r.mjd - judge.mjd) <= judge.step + r.step]
    return min(fitting, key=lambda reading: reading.step)


def _from_mjd(header: fits.Header, name: str) -> _Reading | None:
    mjd = card_number(header, name)
    if not 0 < mjd < 1e6:
        return None
    decimals = re.search(r"\.(\d+)", card_as_written(header, name))
    return _Reading(mjd, 10.0 ** -(len(decimals[1]) if decimals else 0), is_mjd=True)


def _from_date(header: fits.Header, name: str) -> _Reading | None:
    text = card_text(header, name)
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    clock, zone = match["clock"], match["zone"]
    if clock is None:
        clock = card_text(header, *_CLOCKS) if name.startswith("DATE") else ""
    parts = _CLOCK.fullmatch(clock)
    if parts is None:
        # A day without a clock is no time of an exposure.
        return None
    try:
        day = dt.date(int(match["year"]), int(match["month"]), int(match["day"]))
    except ValueError:
        return None
    seconds = (
        int(parts[1]) * 3600 + int(parts[2]) * 60 + float((parts[3] or "0") + (parts[4] or ""))
    )
    if zone and zone != "Z":
        offset = int(zone[1:3]) * 3600 + int(zone[-2:]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    step = 60.0 if parts[3] is None else 10.0 ** -(len(parts[4]) - 1 if parts[4] else 0)
    return _Reading(day.toordinal() - _MJD_ZERO + seconds / _DAY, step / _DAY, is_mjd=False)


def _as_utc(mjd: float, header: fits.Header) -> float:
    """Bring a time in another scale (TIMESYS) to UTC."""
    scale = card_text(header, "TIMESYS").lower() or "utc"
    if scale in ("utc", "ut", "ut1") or math.isnan(mjd):
        return mjd
    if scale not in ("tai", "tt", "tdb") or not _FIRST_LEAP <= mjd < _LAST_LEAP:
        return math.nan
    return float(Time(2400000.5, mjd, format="jd", scale=scale).utc.mjd)
