"""A file of the survey, read with suspicion: bounds before bytes, header before belief.

Whatever the file came from, a download or somebody's disk, it must be FITS of whole blocks, hold
one two-dimensional image no larger than a skycell, in tiles that lie within the file, with the
checksums it states; its header must name the skycell, the band and the kind that were asked for.
Compressed images: FITS Standard 4.0, section 10.1; checksums: section 4.4.2.7 and appendix J; the
Rice code: R. White, P. Greenfield, W. Pence, D. Tody, R. Seaman (2009), "Tiled Image Convention for
Storing Compressed Images in FITS Binary Tables" (https://fits.gsfc.nasa.gov).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from idfzarr.errors import ImageUnreadable
from idfzarr.imaging.fits_image import silent_astropy
from idfzarr.ps1.headers import card_value, header_of, read_image_cards
from idfzarr.ps1.pixels import POGSON, Scaling
from idfzarr.ps1.skycell import shape
from idfzarr.ps1.tile_check import check_rice, check_tiles, read_table

try:  # astropy has no public name for what its decoders raise
    from astropy.io.fits.hdu.compressed._compression import CfitsioException
except ImportError:
    CfitsioException = RuntimeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idfzarr.ps1.headers import ImageCards
    from idfzarr.ps1.sky_keys import SkyArray

__all__ = ["MOST_UNPACKED", "ServedImage", "check_header", "read_served"]

MOST_UNPACKED = 1 << 28
"""Bytes of a file, after gunzip where it is gzipped, at most."""

_BLOCK, _CARD = 2880, 80
_GZIP = b"\x1f\x8b"
_PIECE = 1 << 20
_TILES = re.compile(r"Z(?:CMPTYPE|BITPIX|NAXIS[12]|TILE[12]|NAME[0-9]{1,2}|VAL[0-9]{1,2}|BLANK)")
_SIGN_ROWS, _SIGN_SAMPLE = 250, 10_000
_WHOLE = 0xFFFFFFFF
# What a decoder of hostile bytes may raise.
_DECODING = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    zlib.error,
    fits.VerifyError,
    CfitsioException,
)


@dataclass(frozen=True, eq=False)
class ServedImage:
    """A file that passed every check, decoded.

    Attributes
    ----------
    pixels
        (ny, nx): int16 as in the file, or float32 where it holds that; a mask is uint16.
    cards, primary_cards
        80-column cards of the HDU with the image, and of the first one if that is another.
    tiles
        How the image was compressed; empty where it was not.
    size, sha256
        Of the file as it came.
    """

    pixels: NDArray[Any]
    cards: tuple[str, ...]
    primary_cards: tuple[str, ...]
    tiles: dict[str, Any]
    size: int
    sha256: str


def read_served(handle: int, array: SkyArray, *, where: str, sha256: str = "") -> ServedImage:
    """Read and check a file.

    Parameters
    ----------
    handle
        The open file.
    array
        What it must hold.
    where
        What to call it in an error.
    sha256
        Of the bytes that must be in it; empty where that is not known.

    Raises
    ------
    ImageUnreadable
        It is not what it must be, and why.
    """
    packed = _read(handle, where)
    digest = hashlib.sha256(packed).hexdigest()
    if sha256 and digest != sha256:
        msg = f"{where} changed on disk between its download and its reading"
        raise ImageUnreadable(msg)
    data = _gunzip(packed, where) if packed.startswith(_GZIP) else packed
    if len(data) % _BLOCK:
        msg = f"{where} has {len(data)} bytes, no whole blocks of FITS: it is cut"
        raise ImageUnreadable(msg)
    found = read_image_cards(io.BytesIO(data), where=where)
    header = header_of(found.image)
    check_header(header, array, where=where)
    pixels, tiles = _decode(data, found, header, array, where)
    values = _as_stored(pixels, header, array, where)
    if array.kind != "mask":
        _check_signs(values, header, array, where)
    return ServedImage(values, found.image, found.primary, tiles, len(packed), digest)


def _read(handle: int, where: str) -> bytes:
    size = os.fstat(handle).st_size
    if not _BLOCK <= size <= MOST_UNPACKED and not 0 < size < _BLOCK:
        msg = f"{where} has {size} bytes, and files of the survey up to {MOST_UNPACKED}"
        raise ImageUnreadable(msg)
    pieces, at = [], 0
    while at < size:
        piece = os.pread(handle, min(_PIECE, size - at), at)
        if not piece:
            msg = f"{where} became shorter while it was read"
            raise ImageUnreadable(msg)
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)


def _gunzip(packed: bytes, where: str) -> bytes:
    """Unpack, and stop as soon as it is too much."""
    pieces: list[bytes] = []
    total = 0
    rest = packed
    try:
        while rest:
            if not rest.startswith(_GZIP):
                break  # padding after the last member
            member = zlib.decompressobj(wbits=31)
            while not member.eof:
                piece = member.decompress(rest, _PIECE)
                total += len(piece)
                pieces.append(piece)
                if total > MOST_UNPACKED:
                    msg = f"{where} unpacks to more than {MOST_UNPACKED} bytes: it is no image"
                    raise ImageUnreadable(msg)
                rest = member.unconsumed_tail
                if not piece and not rest and not member.eof:
                    msg = f"{where} ends within its gzip stream: it is cut"
                    raise ImageUnreadable(msg)
            rest = member.unused_data
    except zlib.error as error:
        msg = f"{where} cannot be unpacked: {error}"
        raise ImageUnreadable(msg) from error
    return b"".join(pieces)


def check_header(header: fits.Header, array: SkyArray, *, where: str) -> None:
    """Refuse a header of another skycell, band or kind.

    Parameters
    ----------
    header
        Of the HDU with the image.
    array
        What was asked for.
    where
        What to call the file in an error.

    Raises
    ------
    ImageUnreadable
        It is another, or does not say.
    """
    told = _text(header, "SKYCELL")
    if told != array.name:
        msg = f"{where} holds {told or 'no skycell'!r} by its card SKYCELL, not {array.name!r}"
        raise ImageUnreadable(msg)
    tessellation = _text(header, "TESS_ID")
    if tessellation not in {"", "RINGS.V3"}:
        msg = f"{where} is of the tessellation {tessellation!r}, not RINGS.V3"
        raise ImageUnreadable(msg)
    band = _text(header, "FPA.FILTERID") or _text(header, "FPA.FILTER")
    if band.partition(".")[0] != array.band:
        msg = f"{where} holds the filter {band or 'none'!r} by its header, not {array.band!r}"
        raise ImageUnreadable(msg)
    is_mask = card_value(header, "BSOFTEN") is None and card_value(header, "MSKNUM") is not None
    if is_mask != (array.kind == "mask"):
        held = "a mask" if is_mask else "no mask"
        msg = f"{where} holds {held} by its header, and the {array.kind} was asked for"
        raise ImageUnreadable(msg)


def _text(header: fits.Header, name: str) -> str:
    value = card_value(header, name, "")
    return value.strip()[:80] if isinstance(value, str) else ""


def _decode(
    data: bytes, found: ImageCards, header: fits.Header, array: SkyArray, where: str
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return the integers of the file, and how they were compressed."""
    mark = "Z" if found.compressed else ""
    nx, ny, bits = (_whole(header, mark + name, where) for name in ("NAXIS1", "NAXIS2", "BITPIX"))
    most_y, most_x = shape(array.name)
    if _whole(header, mark + "NAXIS", where) != 2 or not (0 < nx <= most_x and 0 < ny <= most_y):
        msg = f"{where} states {nx} x {ny} pixels, and the skycell has {most_x} x {most_y}"
        raise ImageUnreadable(msg)
    allowed = {8, 16, 32} if array.kind == "mask" else {16} if found.compressed else {16, -32}
    if bits not in allowed:
        msg = f"{where} has pixels of {bits} bits, which the survey's {array.kind} has not"
        raise ImageUnreadable(msg)
    if not found.compressed:
        end = _check_sums(data, found, header, nx * ny * abs(bits) // 8, where)
        kind = {8: ">u1", 16: ">i2", 32: ">i4", -32: ">f4"}[bits]
        return np.frombuffer(data[found.offset : end], dtype=kind).reshape(ny, nx), {}
    table = read_table(header, nx, ny, bits, where=where)
    _check_sums(data, found, header, table.total_bytes, where)
    descriptors = check_tiles(data, found.offset, table, where=where)
    pixels = _decompressed(data, found.index, where)
    if pixels.shape != (ny, nx) or pixels.dtype.kind not in "iu":
        msg = f"{where} decodes to {pixels.shape} of type {pixels.dtype}, not as it states"
        raise ImageUnreadable(msg)
    check_rice(data, found.offset, table, descriptors, pixels, where=where)
    with silent_astropy():
        cards = [card for card in header.cards if _TILES.fullmatch(card.keyword)]
        tiles = {card.keyword: card.value for card in cards}
    return pixels, {k: v for k, v in tiles.items() if isinstance(v, (str, int))}


def _whole(header: fits.Header, name: str, where: str) -> int:
    value = card_value(header, name)
    if isinstance(value, bool) or not isinstance(value, int):
        msg = f"{where} has {name} = {str(value)[:40]!r} in its header: it is no image"
        raise ImageUnreadable(msg)
    return value


def _decompressed(data: bytes, index: int, where: str) -> NDArray[Any]:
    with silent_astropy():
        try:
            with fits.open(
                io.BytesIO(data), memmap=False, do_not_scale_image_data=True, uint=False
            ) as opened:
                return np.asarray(opened[index].data)
        except _DECODING as error:
            told = (str(error).strip().splitlines() or [""])[0][:160]
            msg = f"the pixels of {where} cannot be decoded: {type(error).__name__} {told}"
            raise ImageUnreadable(msg) from error


def _check_sums(
    data: bytes, found: ImageCards, header: fits.Header, n_bytes: int, where: str
) -> int:
    """Check length, DATASUM and CHECKSUM of the HDU; return where its data end."""
    end = found.offset + n_bytes
    padded = found.offset + -(-n_bytes // _BLOCK) * _BLOCK
    if padded > len(data):
        msg = f"{where} has {len(data)} bytes and states an image that ends at {end}: it is cut"
        raise ImageUnreadable(msg)
    stated = str(card_value(header, "DATASUM", "")).strip()
    sealed = card_value(header, "CHECKSUM") is not None
    if not (stated.isdecimal() or sealed):
        return end
    pixels = _ones_sum(data[found.offset : padded])
    blocks = -(-(len(found.image) + 1) * _CARD // _BLOCK)
    whole = _ones_sum(data[found.offset - blocks * _BLOCK : found.offset])
    if stated.isdecimal() and int(stated) % _WHOLE != pixels % _WHOLE:
        msg = f"the pixels of {where} do not match their DATASUM: the file is damaged"
        raise ImageUnreadable(msg)
    if sealed and (whole + pixels) % _WHOLE:
        msg = f"{where} does not match its CHECKSUM: the file is damaged"
        raise ImageUnreadable(msg)
    return end


def _ones_sum(data: bytes) -> int:
    return int(np.frombuffer(data, dtype=">u4").sum(dtype=np.uint64)) % _WHOLE


def _as_stored(
    pixels: NDArray[Any], header: fits.Header, array: SkyArray, where: str
) -> NDArray[Any]:
    """Return pixels in the type of the store: the integers of the file, whatever their sign."""
    if array.kind != "mask":
        kind = np.float32 if pixels.dtype.kind == "f" else np.int16
        return np.ascontiguousarray(pixels, dtype=kind)
    zero, scale = card_value(header, "BZERO", 0), card_value(header, "BSCALE", 1)
    if scale != 1 or zero not in {0, 32768}:
        msg = f"{where} is a mask scaled by BSCALE {scale} and BZERO {zero}: bits have no scale"
        raise ImageUnreadable(msg)
    if pixels.dtype.itemsize == 2:
        bits = np.ascontiguousarray(pixels, dtype=np.int16).view(np.uint16)
        return bits ^ np.uint16(0x8000) if zero else bits
    wide = pixels.astype(np.int64) + int(zero)
    if wide.min() < 0 or wide.max() > 0xFFFF:
        msg = f"{where} has bits in its mask beyond the 16 of the survey"
        raise ImageUnreadable(msg)
    return wide.astype(np.uint16)


def _check_signs(pixels: NDArray[Any], header: fits.Header, array: SkyArray, where: str) -> None:
    """Tell an image from a weight, whose headers have the same cards.

    The sky is subtracted from an image, so that noise makes about half of it negative; a variance
    is positive but for pixels that interpolation spoiled.
    """
    scaling = Scaling.from_header(header, where=where)
    pixels = pixels[:: max(1, pixels.shape[0] // _SIGN_ROWS)]
    zero = 0.0
    if scaling.bsoften is not None and scaling.boffset is not None:
        zero = POGSON * np.arcsinh(-scaling.boffset / (2 * scaling.bsoften))
    if pixels.dtype.kind == "f":
        good = np.isfinite(pixels)
        negative = pixels < zero
    else:
        good = pixels != (32767 if scaling.blank is None else scaling.blank)
        at = (zero - scaling.bzero) / scaling.bscale
        negative = pixels < at if scaling.bscale > 0 else pixels > at
    n_good = int(good.sum())
    n_negative = int((negative & good).sum())
    if array.kind == "weight" and n_negative > n_good // 4:
        msg = f"{where} has {n_negative} negative pixels of {n_good}: it is an image, no variance"
        raise ImageUnreadable(msg)
    if array.kind == "image" and n_good >= _SIGN_SAMPLE and n_negative < n_good // 50:
        msg = f"{where} has {n_negative} negative pixels of {n_good}: it is a variance, no image"
        raise ImageUnreadable(msg)
