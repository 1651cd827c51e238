"""FITS files of skycells: rebuilt as the archive served them, or written anew.

A file as served is put together card by card, since a library that understands BSCALE beside
ZBLANK, or PC001001, would change them. Only what tells the length of the compressed rows is
written anew, so that most files come out byte for byte. Tile compression: FITS Standard 4.0,
section 10.1.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from idfzarr.care.fits_checksum import hdu_bytes
from idfzarr.errors import ImageUnreadable, UsageError
from idfzarr.imaging.fits_image import silent_astropy
from idfzarr.ps1.headers import card_value, header_of, is_tile_compressed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["image_file", "many_images_file", "served_file"]

_UNSIGNED_ZERO = 32768
_FIRST = (
    f"SIMPLE  = {'T':>20} / file does conform to FITS standard",
    f"BITPIX  = {16:>20} / number of bits per data pixel",
    f"NAXIS   = {0:>20} / number of data axes",
    f"EXTEND  = {'T':>20} / FITS dataset may contain extensions",
)
_OF_STRUCTURE = ("SIMPLE", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "EXTEND")


# -------------------------------------------------------------------- as served


def served_file(pixels: NDArray[Any], attributes: Mapping[str, Any], *, where: str) -> bytes:
    """Return a file with the pixels and the cards that were served.

    Parameters
    ----------
    pixels
        (ny, nx), as stored: int16, or uint16 of a mask.
    attributes
        Of the array: ``header``, ``primary_header``.
    where
        What to call it in an error.

    Returns
    -------
    bytes
        Byte for byte the file that was fetched, where the same compressor made it.

    Raises
    ------
    UsageError
        The integers are lost: pixels are floating point.
    ImageUnreadable
        The cards describe no image of this size.
    """
    if pixels.dtype.kind == "f":
        msg = (
            f"{where} holds floating-point values: the integers that were served are not in this "
            "store, so it cannot be written as served; leave out --as-served"
        )
        raise UsageError(msg)
    cards = [str(card) for card in attributes.get("header", ())]
    header = header_of(cards)
    mark = "Z" if is_tile_compressed(cards) else ""
    _check_size(header, mark, pixels.shape, where)
    disk = _disk(pixels, header, mark)
    primary = [str(card) for card in attributes.get("primary_header", ())]
    had_sums = any(card.startswith(("CHECKSUM=", "DATASUM =")) for card in cards)
    if not mark:
        own = hdu_bytes(cards, _big_endian(disk), checksums=had_sums)
        return own if cards[0].startswith("SIMPLE") else _first(primary) + own
    kind = str(card_value(header, "ZCMPTYPE", "RICE_1")).strip()
    tile = (int(card_value(header, "ZTILE2", 1)), int(card_value(header, "ZTILE1", disk.shape[1])))
    structure, heap = _packed(disk, kind, tile)
    return _first(primary) + hdu_bytes(_merged(cards, structure), heap, checksums=had_sums)


def _first(cards: Sequence[str]) -> bytes:
    sums = any(card.startswith(("CHECKSUM=", "DATASUM =")) for card in cards)
    return hdu_bytes(cards or _FIRST, b"", checksums=sums)


def _check_size(header: fits.Header, mark: str, shape: tuple[int, ...], where: str) -> None:
    told = (card_value(header, f"{mark}NAXIS2"), card_value(header, f"{mark}NAXIS1"))
    if told != shape:
        msg = f"{where} has {shape} pixels and its header says {told}: repair the store"
        raise ImageUnreadable(msg)


def _disk(pixels: NDArray[Any], header: fits.Header, mark: str) -> NDArray[Any]:
    """Return the integers that stood in the file."""
    bits = card_value(header, f"{mark}BITPIX", 16)
    if pixels.dtype != np.uint16:
        return pixels
    if bits == 16 and card_value(header, "BZERO") == _UNSIGNED_ZERO:
        return np.asarray((pixels ^ np.uint16(_UNSIGNED_ZERO)).view(np.int16))
    wanted = {8: np.uint8, 16: np.int16, 32: np.int32}.get(bits)
    if wanted is None:
        msg = f"a mask of BITPIX {bits} cannot be written: 8, 16 and 32 bits can"
        raise ImageUnreadable(msg)
    return pixels.view(np.int16) if bits == 16 else pixels.astype(wanted)


def _big_endian(values: NDArray[Any]) -> bytes:
    return values.astype(values.dtype.newbyteorder(">")).tobytes()


def _packed(values: NDArray[Any], kind: str, tile: tuple[int, int]) -> tuple[list[str], bytes]:
    """Return the cards of a compressed table, and its rows with their heap."""
    with silent_astropy():
        # A quantize_level of 0 keeps floating point as it is.
        made = fits.CompImageHDU(values, compression_type=kind, tile_shape=tile, quantize_level=0.0)
        stream = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), made]).writeto(stream)
        whole = stream.getvalue()
        stream.seek(0)
        with fits.open(stream, disable_image_compression=True) as opened:
            start = int(opened[1].fileinfo()["datLoc"])
            cards = [str(card) for card in opened[1].header.cards]
    kept = [card for card in cards if not card.startswith("EXTNAME")]
    return kept, _without_times(kept, whole[start:]) if kind.startswith("GZIP") else whole[start:]


def _without_times(cards: list[str], table: bytes) -> bytes:
    """Return a compressed table whose gzip members do not say when they were made.

    The same pixels give the same file then, as with the compressor of the survey (RFC 1952, 2.3).
    """
    header = header_of(cards)
    width, rows = int(header["NAXIS1"]), int(header["NAXIS2"])
    entry = ">i8" if "Q" in header["TFORM1"] else ">i4"
    size = np.dtype(entry).itemsize * 2
    made = bytearray(table)
    for row in range(rows):
        length, at = np.frombuffer(table, entry, 2, row * width)
        first = width * rows + int(at)
        if length and size <= width and made[first : first + 2] == b"\x1f\x8b":
            made[first + 4 : first + 8] = bytes(4)
    return bytes(made)


def _keyword(card: str) -> str:
    return card[:8].rstrip()


def _merged(cards: Sequence[str], structure: Sequence[str]) -> list[str]:
    """Return the cards as served, with the lengths of the rows as they are now."""
    ours = {_keyword(card): card for card in structure if _keyword(card)}
    lengths = {"NAXIS1", "NAXIS2", "PCOUNT", "TFIELDS", "THEAP"}
    lengths |= {name for name in ours if name.startswith(("TTYPE", "TFORM"))}
    made = []
    for card in cards:
        name = _keyword(card)
        differs = name in lengths and name in ours and _value(ours[name]) != _value(card)
        made.append(ours[name] if differs else card)
    there = {_keyword(card) for card in cards}
    wanting = [card for name, card in ours.items() if name in lengths and name not in there]
    after = max(k for k, card in enumerate(made) if _keyword(card) in {"TFIELDS", "GCOUNT"})
    return [*made[: after + 1], *wanting, *made[after + 1 :]]


def _value(card: str) -> Any:
    value = card_value(header_of([card]), _keyword(card))
    return value.strip() if isinstance(value, str) else value


# -------------------------------------------------------------------- written anew


def image_file(header: fits.Header, pixels: NDArray[Any], *, compress: bool) -> bytes:
    """Return a file of one image, with CHECKSUM and DATASUM.

    Parameters
    ----------
    header
        Of the image; its cards of structure are written anew.
    pixels
        (ny, nx), as they are to stand there.
    compress
        Tile-compressed by rows: integers by RICE_1, floating point by GZIP_2, both without loss.
    """
    if compress:
        return _first(()) + _compressed(header, pixels)
    disk, zero = _unsigned(pixels)
    cards = [
        f"SIMPLE  = {'T':>20} / conforms to FITS standard",
        *_shape_cards(disk),
        f"EXTEND  = {'T':>20} / extensions may follow",
        *_own_cards(header, zero=zero),
    ]
    return hdu_bytes(cards, _big_endian(disk), checksums=True)


def many_images_file(
    images: Sequence[tuple[str, fits.Header, NDArray[Any]]], *, compress: bool
) -> bytes:
    """Return a file of several images, each in an extension of its own.

    Parameters
    ----------
    images
        EXTNAME, header and pixels (ny, nx) of each.
    compress
        As of `image_file`.
    """
    made = [hdu_bytes(_FIRST, b"", checksums=True)]
    for name, header, pixels in images:
        named = header.copy()
        named["EXTNAME"] = name
        if compress:
            made.append(_compressed(named, pixels))
            continue
        disk, zero = _unsigned(pixels)
        cards = [
            "XTENSION= 'IMAGE   '           / image extension",
            *_shape_cards(disk),
            f"PCOUNT  = {0:>20} / number of parameters",
            f"GCOUNT  = {1:>20} / number of groups",
            *_own_cards(named, zero=zero),
        ]
        made.append(hdu_bytes(cards, _big_endian(disk), checksums=True))
    return b"".join(made)


def _compressed(header: fits.Header, pixels: NDArray[Any]) -> bytes:
    disk, zero = _unsigned(pixels)
    kind = "GZIP_2" if disk.dtype.kind == "f" else "RICE_1"
    structure, heap = _packed(disk, kind, (1, disk.shape[1]))
    # ZBLANK is the standard's place for BLANK in a compressed image.
    own = [
        f"ZBLANK  {card[8:]}" if _keyword(card) == "BLANK" else card
        for card in _own_cards(header, zero=zero)
    ]
    if not any(_keyword(card) == "EXTNAME" for card in own):
        own.insert(0, "EXTNAME = 'COMPRESSED_IMAGE'")
    kept = [card for card in structure if _keyword(card) not in {"ZBLANK", "BSCALE", "BZERO"}]
    return hdu_bytes([*kept, *own], heap, checksums=True)


def _unsigned(pixels: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Return values as FITS can hold them, and whether BZERO must say that they are unsigned."""
    if pixels.dtype == np.uint16:
        return np.asarray((pixels ^ np.uint16(_UNSIGNED_ZERO)).view(np.int16)), True
    return pixels, False


def _shape_cards(values: NDArray[Any]) -> list[str]:
    bits = values.dtype.itemsize * 8 * (-1 if values.dtype.kind == "f" else 1)
    return [
        f"BITPIX  = {bits:>20} / bits of a pixel",
        f"NAXIS   = {2:>20} / number of axes",
        f"NAXIS1  = {values.shape[1]:>20} / pixels along x",
        f"NAXIS2  = {values.shape[0]:>20} / pixels along y",
    ]


def _own_cards(header: fits.Header, *, zero: bool) -> list[str]:
    """Return the cards of an image that are not of its structure, 80 columns each."""
    left_out = {*_OF_STRUCTURE, "XTENSION", "PCOUNT", "GCOUNT"}
    left_out |= {"BSCALE", "BZERO", "BLANK"} if zero else set()
    with silent_astropy():
        texts = [str(card) for card in header.cards if card.keyword not in left_out]
    cards = [text[at : at + 80] for text in texts for at in range(0, len(text), 80)]
    if zero:
        cards = [
            f"BSCALE  = {1:>20} / bits as they are",
            f"BZERO   = {_UNSIGNED_ZERO:>20} / unsigned 16-bit integers",
            *cards,
        ]
    return cards
