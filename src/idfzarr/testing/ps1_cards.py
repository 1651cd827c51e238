"""Header cards of pretended Pan-STARRS1 stacks, in the manner of the survey's own software.

The cards follow real headers of the survey: no RADESYS, no EQUINOX, no TIMESYS; the matrix as
PC001001; focal plane, chip and cell under HIERARCH; the inputs with their zero points one by one;
BLANK beside ZBLANK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from idfzarr.ps1 import skycell as cells
from idfzarr.testing.ps1_pixels import BLANK, exposure
from idfzarr.testing.ps1_sky import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idfzarr.testing.ps1_pixels import DiskScale, Exposure
    from idfzarr.testing.ps1_sky import PS1Sky

__all__ = ["MASK_TABLE", "header_cards"]

MASK_TABLE = (
    ("DETECTOR", 1),
    ("FLAT", 2),
    ("DARK", 4),
    ("BLANK", 8),
    ("CTE", 16),
    ("SAT", 32),
    ("LOW", 64),
    ("SUSPECT", 128),
    ("BURNTOOL", 128),
    ("CR", 256),
    ("SPIKE", 512),
    ("GHOST", 1024),
    ("STREAK", 2048),
    ("STARCORE", 4096),
    ("CONV.BAD", 8192),
    ("CONV.POOR", 16384),
    ("MASK.VALUE", 8575),
    ("MARK.VALUE", 32768),
)
"""MSKNAMnn and MSKVALnn, as in the headers of the survey."""

_CDELT = 6.94444461259988e-05
_FIRST_MJD = 55000.0


def _card(name: str, value: str | float, comment: str = "") -> str:
    text = _text(value)
    if "." in name:
        line = f"HIERARCH {name} = {text}"
    else:
        line = f"{name:<8}= {text:<20}" if isinstance(value, str) else f"{name:<8}= {text:>20}"
    # The survey's software cuts comments that do not fit, as this does.
    return (f"{line} / {comment}" if comment else line)[:80].ljust(80)


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return f"'{value:<8}'"
    if isinstance(value, bool):
        return "T" if value else "F"
    if isinstance(value, int):
        return str(value)
    text = f"{value:.15G}"
    return text if set(text) & set(".E") else text + "."


def header_cards(sky: PS1Sky, name: str, band: str, meaning: DiskScale | None) -> tuple[str, ...]:
    """Return the cards, 80 columns each, that are neither of the table nor of the compression.

    Parameters
    ----------
    sky, name, band
        Which image.
    meaning
        Scaling of its pixels; None for a mask.
    """
    made = exposure(sky, name, band)
    return (
        *_of_software(sky, name, band),
        *(_of_mask() if meaning is None else ()),
        *_of_pixels(meaning),
        *_of_place(sky, name),
        *_of_focal_plane(band),
        *_of_exposure(sky, name, band, made),
        *_of_inputs(name, band, made),
    )


def _of_software(sky: PS1Sky, name: str, band: str) -> Iterator[str]:
    drawn = seeded(sky.seed, "stack", name, band)
    yield _card("PSLIB_V", "36284", "")
    yield _card("MODULE_V", "36284:36284", "")
    yield _card("PHOT_V", "36284", "")
    yield _card("STATS_V", "36284", "")
    yield _card("STACK_V", "36284", "")
    yield "HISTORY ppStack at 2014-07-16T03:14:15".ljust(80)
    yield "COMMENT A pretended stack: not an observation".ljust(80)
    yield _card("PSCAMERA", "GPC1", "Camera name")
    yield _card("PSFORMAT", "SKYCELL", "Camera format")
    # Some stacks of the survey have none.
    if drawn % 5:
        yield _card("IMAGEID", 1_000_000 + drawn % 9_000_000, "Image identifier")
        yield _card("SOURCEID", 38, "Source identifier")
    yield _card("STK_ID", 3_000_000 + drawn % 999_983, "type of stack")
    yield _card("SKYCELL", cells.parse(name).name, "Name of this skycell")
    yield _card("TESS_ID", "RINGS.V3", "Name of this tessellation")


def _of_mask() -> Iterator[str]:
    for number, (bit, value) in enumerate(MASK_TABLE):
        yield _card(f"MSKNAM{number:02d}", bit, "Bitmask bit name")
        yield _card(f"MSKVAL{number:02d}", value, "Bitmask bit value")
    yield _card("MSKNUM", len(MASK_TABLE), "Bitmask bit count")


def _of_pixels(meaning: DiskScale | None) -> Iterator[str]:
    if meaning is None:
        return
    yield _exact("BZERO", meaning.bzero, "Scaling: TRUE = BZERO + BSCALE * DISK")
    yield _exact("BSCALE", meaning.bscale, "Scaling: TRUE = BZERO + BSCALE * DISK")
    yield _exact("BSOFTEN", meaning.bsoften, "Scaling: LINEAR = 2 * BSOFTEN * sinh(TRUE/a)")
    yield _exact("BOFFSET", meaning.boffset, "Scaling: UNCOMP = BOFFSET + LINEAR")
    yield _card("BLANK", BLANK, "Value for undefined pixels")
    yield _card("ZBLANK", BLANK, "Value for undefined pixels")


def _exact(name: str, value: float, comment: str) -> str:
    return f"{name:<8}= {value:>20.12E} / {comment}"[:80].ljust(80)


def _of_place(sky: PS1Sky, name: str) -> Iterator[str]:
    cards, window = cells.wcs_cards(name), sky.window(name)
    yield _card("CTYPE1", "RA---TAN")
    yield _card("CTYPE2", "DEC--TAN")
    yield _card("CRVAL1", float(cards["CRVAL1"]))
    yield _card("CRVAL2", float(cards["CRVAL2"]))
    yield _card("CRPIX1", (float(cards["CRPIX1"]) - 0.5 - window.left) / window.step + 0.5)
    yield _card("CRPIX2", (float(cards["CRPIX2"]) - 0.5 - window.bottom) / window.step + 0.5)
    for name_of_axis in ("CDELT1", "CDELT2"):
        yield f"{name_of_axis:<8}= {_CDELT * window.step:>20.14E}".ljust(80)
    for element, value in (("001001", -1.0), ("001002", 0.0), ("002001", 0.0), ("002002", 1.0)):
        yield _card(f"PC{element}", value)


def _of_focal_plane(band: str) -> Iterator[str]:
    for name, value, comment in (
        ("FPA.TELESCOPE", "PS1", "Telescope of origin"),
        ("FPA.INSTRUMENT", "GPC1", "Instrument name (according to the instrument)"),
        ("FPA.DETECTOR", "GPC1", "Detector name"),
        ("FPA.COMMENT", "", "Observation comment"),
        ("FPA.OBS.MODE", "3PI", "Observation mode (eg, survey id)"),
        ("FPA.OBS.GROUP", "", "Observation group (eg, associated images)"),
        ("FPA.FOCUS", -1219.85, "Telescope focus"),
        ("FPA.FILTERID", f"{band}.00000", "Filter used (parsed, abstract name)"),
        ("FPA.FILTER", f"{band}.00000", "Filter used (instrument name)"),
        ("FPA.POSANGLE", 0.0, "Position angle of instrument"),
        ("FPA.ROTANGLE", 0.0, "Rotator angle of instrument"),
        ("FPA.RADECSYS", "2000.000000", "Celestial coordinate system"),
        ("FPA.LONGITUDE", 10.4170602777931, "West longitude of observatory"),
        ("FPA.LATITUDE", 20.7070994446013, "Latitude of observatory"),
        ("FPA.ELEVATION", 3048.0, "Elevation of observatory (meters)"),
        ("FPA.OBSTYPE", "OBJECT", "Type of observation"),
        ("FPA.TEMP", -80.0383, "Temperature of focal plane"),
        ("FPA.M1X", 0.0, "Primary Mirror X Position"),
        ("FPA.M1Y", 1000.0, "Primary Mirror Y Position"),
        ("FPA.M2X", 471.5741, "Primary Mirror X Position"),
        ("FPA.M2Y", -534.3894, "Primary Mirror Y Position"),
        ("FPA.ENV.TEMP", 10.9, "Environment: Temperature"),
        ("FPA.ENV.HUMID", 18.5, "Environment: Humidity"),
        ("FPA.BURNTOOL.APPLIED", True, "[T=applied] Burn streaks applied"),
        ("FPA.ZP", 25.0, "Magnitude zero point"),
        ("CHIP.XSIZE", 0, "Size of chip (pixels)"),
        ("CHIP.YSIZE", 0, "Size of chip (pixels)"),
        ("CHIP.TEMP", "NaN", "Temperature of chip"),
        ("CHIP.ID", "", "Chip identifier"),
        ("CHIP.SEEING", 4.59, "Seeing FWHM (pixels)"),
        ("CHIP.VIDEOCELL", False, "Does this OTA have any video cells"),
    ):
        yield _card(name, value, comment)


def _of_exposure(sky: PS1Sky, name: str, band: str, made: Exposure) -> Iterator[str]:
    drawn = seeded(sky.seed, "time", name, band)
    for key, value, comment in (
        ("CELL.GAIN", 1.0, "CCD gain (e/count)"),
        ("CELL.READNOISE", 5.922853, "CCD read noise (e)"),
        ("CELL.SATURATION", 3e5, "Saturation level (counts)"),
        ("CELL.BAD", 0.0, "Bad level (counts)"),
        ("CELL.XBIN", 1, "Binning in x"),
        ("CELL.YBIN", 1, "Binning in y"),
        ("CELL.XSIZE", 0, "Size of cell (pixels)"),
        ("CELL.YSIZE", 0, "Size of cell (pixels)"),
        ("CELL.TRIMSEC", "[1:{},1:{}]".format(*_size(sky, name)), "Trim section"),
        ("CELL.BIASSEC", "", ""),
        ("CELL.DARKTIME", made.exptime, "Time since flush (sec)"),
    ):
        yield _card(key, value, comment)
    yield _card("EXPTIME", made.exptime, "Exposure time (sec)")
    yield _card("MJD-OBS", _FIRST_MJD + drawn % 1_500_000 / 1000, "Time of exposure")
    yield _card("AIRMASS", 1.0 + drawn % 500 / 1000, "Airmass at boresight")


def _size(sky: PS1Sky, name: str) -> tuple[int, int]:
    window = sky.window(name)
    return window.nx, window.ny


def _of_inputs(name: str, band: str, made: Exposure) -> Iterator[str]:
    cell = cells.parse(name).name
    yield _card("NINPUTS", len(made.seconds), "Number of input images")
    for number, seconds in enumerate(made.seconds):
        drawn = seeded("input", cell, band, number)
        file = f"{cell}.wrp.{drawn % 1_000_000:06d}.fits"
        yield _card(f"INP_{number:04d}", file, "Input image")
        yield _card(f"SCL_{number:04d}", 0.8 + drawn % 400 / 1000, "Relative scale of input")
        yield _card(f"ZPT_{number:04d}", 24.3 + drawn % 400 / 1000, "Zero point of input")
        yield _card(f"EXP_{number:04d}", seconds, "Exposure time of input")
        yield _card(f"AIR_{number:04d}", 1.0 + drawn % 500 / 1000, "Airmass of input")
        yield _card(f"SEE_{number:04d}", 3.5 + drawn % 2000 / 1000, "Seeing of input (pixels)")
