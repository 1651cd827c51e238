"""The simulator's files: headers like a mission's, tables, each written whole or not at all."""

from __future__ import annotations

import errno
import io
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from idfzarr.errors import StorageFull
from idfzarr.imaging.simulated_frame import EXPTIME
from idfzarr.imaging.simulated_psf import CHANNELS, GRID_ARCSEC

if TYPE_CHECKING:
    from pathlib import Path

    from astropy.table import Table

__all__ = [
    "FIELD_CENTRE",
    "disk_error",
    "ecsv_bytes",
    "field_wcs",
    "mosaic_header",
    "partial_name",
    "write_whole",
]

FIELD_CENTRE = (265.0, 69.0)
"""Right ascension and declination of the field, degrees: the IRAC Dark Field's (Krick et al. 2009,
ApJS 185, 85)."""


def field_wcs(size: int) -> WCS:
    """Return the WCS of a grid of `size` x `size` pixels about `FIELD_CENTRE`: TAN, ICRS."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = list(FIELD_CENTRE)
    wcs.wcs.crpix = [(size + 1) / 2, (size + 1) / 2]
    wcs.wcs.cd = np.diag([-GRID_ARCSEC / 3600.0, GRID_ARCSEC / 3600.0])
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.set()
    return wcs


def mosaic_header(
    *, channel: str, size: int, name: str, reqkey: int, start: float, date: str, roll: float
) -> fits.Header:
    """Return the header of a mosaic without what differs between sci, unc and cov.

    Parameters
    ----------
    channel
        ``ch1`` or ``ch2``.
    size
        Pixels on a side.
    name, reqkey
        Of the AOR.
    start, date
        Start of the exposure, UTC, as MJD and as a date.
    roll
        Of the detector on the grid, degrees.

    Returns
    -------
    Header
        With the WCS as CD cards.
    """
    model = CHANNELS[channel]
    step = GRID_ARCSEC / 3600.0
    middle = (size + 1) / 2
    cards = [
        ("ORIGIN", "idfzarr simulate", "Made, not observed"),
        ("TELESCOP", "Spitzer", "Telescope that is simulated"),
        ("INSTRUME", "IRAC", "Instrument that is simulated"),
        ("CHNLNUM", model.number, "Channel"),
        ("OBJECT", "IRAC Dark Field", "Field"),
        ("AORKEY", reqkey, "AOR key"),
        ("AORLABEL", f"IDF_{name}", "AOR label"),
        ("CTYPE1", "RA---TAN", ""),
        ("CTYPE2", "DEC--TAN", ""),
        ("CRVAL1", FIELD_CENTRE[0], "[deg]"),
        ("CRVAL2", FIELD_CENTRE[1], "[deg]"),
        ("CRPIX1", middle, ""),
        ("CRPIX2", middle, ""),
        ("CUNIT1", "deg", ""),
        ("CUNIT2", "deg", ""),
        ("CD1_1", -step, ""),
        ("CD1_2", 0.0, ""),
        ("CD2_1", 0.0, ""),
        ("CD2_2", step, ""),
        ("RADESYS", "ICRS", ""),
        ("EQUINOX", 2000.0, ""),
        ("PXSCAL1", -GRID_ARCSEC, "[arcsec] Width of a pixel"),
        ("PXSCAL2", GRID_ARCSEC, "[arcsec] Height of a pixel"),
        ("TIMESYS", "UTC", "Of all times here"),
        ("DATE-OBS", date, "Start of the first frame"),
        ("DATE_OBS", date, "Start of the first frame"),
        ("MJD-OBS", start, "[d] Start of the first frame"),
        ("MJD_OBS", start, "[d] Start of the first frame"),
        ("EXPTIME", EXPTIME, "[s] Integration at full coverage"),
        ("GAIN", model.gain, "[electron/DN]"),
        ("FLUXCONV", model.fluxconv, "[MJy/sr per DN/s]"),
        ("PA", roll, "[deg] Roll of the detector on the grid"),
    ]
    header = fits.Header()
    for keyword, value, comment in cards:
        header[keyword] = (value, comment)
    return header


def ecsv_bytes(table: Table) -> bytes:
    """Return a table as the bytes of an ECSV file."""
    text = io.StringIO()
    table.write(text, format="ascii.ecsv")
    return text.getvalue().encode()


def partial_name(name: str) -> str:
    """Return what a file is called while it is written."""
    return f".{name}.part"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all.

    Raises
    ------
    StorageFull
        The disk or the quota is full.
    """
    partial = path.with_name(partial_name(path.name))
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> OSError:
    """Return the error to raise: our own where the disk or the quota is full."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    msg = f"cannot write {path}: {error.strerror}; make room and simulate again with --overwrite"
    return StorageFull(msg)
