"""One AOR's image in one channel: its header and its pixels.

`idfzarr.imaging.discovery` says which files belong together, this module reads them into arrays.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, NoConvergence, WcsError
from astropy.wcs.utils import proj_plane_pixel_scales

from idfzarr.errors import AorTableError, ImageShape, ImageUnreadable
from idfzarr.imaging.discovery import (
    DEFAULT_PATTERN,
    KINDS,
    MosaicFiles,
    Skipped,
    check_kinds,
    discover,
)
from idfzarr.imaging.fits_image import (
    FitsImage,
    card_number,
    card_text,
    read_image,
    read_image_header,
    silent_astropy,
    source_digest,
)
from idfzarr.imaging.header_time import exposure_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "DEFAULT_PATTERN",
    "IRAC_FATAL_BITS",
    "KINDS",
    "Mosaic",
    "MosaicFiles",
    "MosaicHeader",
    "Skipped",
    "check_kinds",
    "discover",
    "read_header",
    "read_mosaic",
    "require_times",
    "source_digest",
]

IRAC_FATAL_BITS = 32520
"""Bits 3 and 8 to 14 of an IRAC imask: stray light, crosstalk, cosmic ray, latent image, no flat
field, not linear, saturated, bad or missing (Spitzer Science Center, "Bit definition for IRAC
*_bimsk.fits", DCE_Status_Mask_Fatal_BitPattern)."""

# FITS Standard 4.0, tables 22 to 25; PC001001 is PS1's older form, A_i_j are SIP's distortions.
_WCS_CARD = re.compile(
    r"NAXIS\d*|WCSAXES|(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)\d|(CD|PC)(\d_\d|\d{6})"
    r"|P[VS]\d_\d+|LONPOLE|LATPOLE|RADESYS|RADECSYS|EQUINOX|EPOCH"
    r"|[AB]P?_(ORDER|DMAX|\d_\d)|CPDIS\d|DP\d|D2IM.*"
)
_IRAC_SATURATED = 1 << 13
_INT64_MAX = 2**63 - 1
_SCALE_CARDS = ("PIXSCALE", "PIXSCAL1", "PXSCAL2", "SECPIX", "SECPIX1", "IM_SCALE")


@dataclass(frozen=True)
class MosaicHeader:
    """What the header of a mosaic's sci image says.

    Attributes
    ----------
    path
        The sci file.
    shape
        (ny, nx) in pixels.
    wcs
        Celestial, two-dimensional; None where the header has none.
    unit
        BUNIT, such as ``MJy/sr``; an empty string where there is none.
    mjd
        Middle of the exposure, MJD in UTC; NaN where the header has no time.
    exptime
        Exposure time in seconds, as EXPTIME has it; NaN where unknown.
    bjd_tdb
        Middle of the exposure as barycentric Julian date in TDB; NaN where the header cannot say.
    saturate
        SATURATE, in image units; NaN where unknown.
    reqkey
        AORKEY, the AOR's number at the Spitzer Science Center; None where there is none.
    pixel_scale
        Arcseconds per pixel, from the WCS, else from a card; NaN where unknown.
    filter
        FILTER, or IRAC's channel number as ``ch1``; an empty string where unknown.
    instrument
        INSTRUME; an empty string where unknown.
    """

    path: Path
    shape: tuple[int, int]
    wcs: WCS | None
    unit: str
    mjd: float
    exptime: float
    bjd_tdb: float
    saturate: float
    reqkey: int | None
    pixel_scale: float
    filter: str
    instrument: str


@dataclass(frozen=True)
class Mosaic:
    """One AOR's image in one channel.

    Attributes
    ----------
    header
        What its header says.
    sci
        Shape (y, x), float32, in `MosaicHeader.unit`; bad pixels hold whatever the file has.
    unc
        One-sigma uncertainty per pixel, like ``sci``; None where there is no unc file.
    cov
        Coverage, like ``sci``; None where there is no cov file.
    bad
        True where a pixel must not be used: ``sci`` not finite, fatal mask bits, no coverage, or
        an uncertainty that is not positive and finite.
    saturated
        True where a pixel is saturated, by SATURATE, by IRAC's mask, or by the converter's top
        (see `read_mosaic`); None where nothing tells.
    """

    header: MosaicHeader
    sci: NDArray[np.float32]
    unc: NDArray[np.float32] | None
    cov: NDArray[np.float32] | None
    bad: NDArray[np.bool_]
    saturated: NDArray[np.bool_] | None = None


def read_header(files: MosaicFiles) -> MosaicHeader:
    """Read the header of a mosaic's sci image, and not its pixels.

    Raises
    ------
    ImageMissing
        There is no such file.
    ImageUnreadable
        Not FITS, truncated, without a two-dimensional image, or with a WCS that is broken.
    """
    header, shape = read_image_header(files.sci)
    return _mosaic_header(files.sci, header, shape)


def read_mosaic(files: MosaicFiles, *, mask_bits: int | None = None) -> Mosaic:
    """Read a mosaic with all its kinds.

    Parameters
    ----------
    files
        As `discover` returns them.
    mask_bits
        The bits of the mask file that make a pixel bad. By default any nonzero value does, but for
        IRAC's imasks (INSTRUME is IRAC and a value is above 1), where `IRAC_FATAL_BITS` do.

    Returns
    -------
    Mosaic
        Its pixels in native byte order.

    Raises
    ------
    ImageMissing
        There is no such file.
    ImageUnreadable
        Not FITS, truncated, no two-dimensional image, or not one usable pixel.
    ImageShape
        Two kinds differ in shape.

    Notes
    -----
    Without SATURATE, an integer image whose highest value is 2**n - 1 (n = 8 to 16) in two pixels
    or more has reached the top of its n-bit converter: those pixels are saturated.
    """
    image = read_image(files.sci)
    shape = (image.values.shape[0], image.values.shape[1])
    header = _mosaic_header(files.sci, image.header, shape)
    sci = _float32(image.values)
    finite = np.isfinite(sci)
    if not finite.any():
        msg = f"{files.sci} holds no finite pixel: all {sci.size:,} are NaN or infinite"
        raise ImageUnreadable(msg)
    bad = ~finite
    saturated = _saturated(image, header)
    unc = _read_kind(files, "unc", shape)
    if unc is not None:
        bad |= ~(np.isfinite(unc) & (unc > 0))
    cov = _read_kind(files, "cov", shape)
    if cov is not None:
        bad |= ~(cov > 0)
    if "mask" in files.paths:
        fatal, full = _read_mask(files, shape, header, mask_bits)
        bad |= fatal
        if full is not None:
            saturated = full if saturated is None else saturated | full
    if bad.all():
        kinds = ", ".join(str(path) for path in files.paths.values())
        msg = f"AOR {files.aor} in {files.channel} has no usable pixel by {kinds}"
        raise ImageUnreadable(msg)
    return Mosaic(header, sci, unc, cov, bad, saturated)


def require_times(headers: Sequence[MosaicHeader]) -> None:
    """Raise where a header has no time, which only an AOR table could then give.

    Raises
    ------
    AorTableError
        Naming the first file without a time, and how many there are.
    """
    without = [header.path for header in headers if not math.isfinite(header.mjd)]
    if without:
        others = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        msg = (
            f"the header of {without[0]}{others} says no time of observation (DATE-OBS with a "
            "clock, MJD-OBS): give an AOR table with a column mjd"
        )
        raise AorTableError(msg)


def _mosaic_header(path: Path, header: fits.Header, shape: tuple[int, int]) -> MosaicHeader:
    wcs = _celestial(header, path)
    time = exposure_time(header)
    exptime = card_number(header, "EXPTIME", "EXPOSURE", "XPOSURE", "FRAMTIME")
    key = card_number(header, "AORKEY", "REQKEY")
    channel = card_number(header, "CHNLNUM")
    filter_name = card_text(header, "FILTER") or ("" if math.isnan(channel) else f"ch{channel:g}")
    return MosaicHeader(
        path=path,
        shape=shape,
        wcs=wcs,
        unit=card_text(header, "BUNIT"),
        mjd=time.mjd,
        exptime=exptime if exptime > 0 else time.duration,
        bjd_tdb=time.bjd_tdb,
        saturate=card_number(header, "SATURATE"),
        reqkey=int(key) if key == key // 1 and 0 < key <= _INT64_MAX else None,
        pixel_scale=_pixel_scale(header, wcs),
        filter=filter_name,
        instrument=card_text(header, "INSTRUME"),
    )


def _celestial(header: fits.Header, path: Path) -> WCS | None:
    """Return the celestial WCS of a header, or None where it has none."""
    if not card_text(header, "CTYPE1"):
        return None
    try:
        with silent_astropy():
            # IRAC's headers have 600 other cards, which would take a hundred times as long.
            chosen = (card for card in header.cards if _WCS_CARD.fullmatch(card.keyword))
            wcs = WCS(fits.Header(chosen), naxis=2)
            if not wcs.has_celestial:
                return None
            wcs = wcs.celestial
            lon, lat = wcs.all_pix2world([0.0, 1.0], [0.0, 1.0], 0)
    except (WcsError, NoConvergence, ValueError, TypeError, KeyError, MemoryError) as error:
        sentence = " ".join(str(error).split())
        msg = f"the WCS in the header of {path} cannot be used: {sentence}"
        raise ImageUnreadable(msg) from error
    if not (
        np.isfinite(lon).all() and np.isfinite(lat).all() and (lon[0], lat[0]) != (lon[1], lat[1])
    ):
        msg = f"the WCS in the header of {path} cannot be used: it gives no positions"
        raise ImageUnreadable(msg)
    return wcs


def _pixel_scale(header: fits.Header, wcs: WCS | None) -> float:
    if wcs is not None:
        return float(np.sqrt(np.prod(proj_plane_pixel_scales(wcs)))) * 3600.0
    return abs(card_number(header, *_SCALE_CARDS))


def _float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(values, dtype=np.float32)


def _read_kind(files: MosaicFiles, kind: str, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    if kind not in files.paths:
        return None
    return _float32(_read_alike(files, kind, shape).values)


def _read_alike(files: MosaicFiles, kind: str, shape: tuple[int, int]) -> FitsImage:
    image = read_image(files.paths[kind])
    if image.values.shape != shape:
        other = image.values.shape
        msg = (
            f"images of AOR {files.aor} in {files.channel} differ in shape (ny, nx): {files.sci} "
            f"is {shape[0]} x {shape[1]} and {files.paths[kind]} is {other[0]} x {other[1]}"
        )
        raise ImageShape(msg)
    return image


def _read_mask(
    files: MosaicFiles, shape: tuple[int, int], header: MosaicHeader, mask_bits: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_] | None]:
    """Return the pixels that the mask calls bad, and those it calls saturated."""
    image = _read_alike(files, "mask", shape)
    values = image.values
    if values.dtype.kind == "f":
        # A blank in a mask says nothing, and what nothing is known of is not used.
        unknown = ~np.isfinite(values)
        whole = np.where(unknown | (np.abs(values) >= _INT64_MAX), 0, values)
        nonzero = unknown | (values != 0)
        bits = whole.astype(np.int64)
    else:
        unknown, nonzero, bits = np.zeros(shape, bool), values != 0, values.astype(np.int64)
    instrument = card_text(image.header, "INSTRUME") or header.instrument
    is_imask = instrument.upper().startswith("IRAC") and bool((bits > 1).any())
    if mask_bits is not None:
        return unknown | ((bits & mask_bits) != 0), None
    if is_imask:
        return unknown | ((bits & IRAC_FATAL_BITS) != 0), (bits & _IRAC_SATURATED) != 0
    return nonzero, None


def _saturated(image: FitsImage, header: MosaicHeader) -> NDArray[np.bool_] | None:
    values = image.values
    if math.isfinite(header.saturate) and header.saturate > 0:
        return np.asarray(values >= header.saturate)
    if not image.integer or values.dtype.kind not in "iu":
        return None
    top = int(values.max())
    is_converter_top = 255 <= top <= 65535 and (top + 1) & top == 0
    at_top = values == top
    return at_top if is_converter_top and int(at_top.sum()) >= 2 else None
