"""Headers of Pan-STARRS1 images: kept card for card, shown as served, or repaired.

The archive serves tile-compressed images: a table whose header holds the cards of the image and
those of the table. All 80-column cards are kept as they stand, so that nothing is lost; the header
of the image is made of them. Compressed images: FITS Standard 4.0, section 10.1
(https://fits.gsfc.nasa.gov); headers of the survey: "PS1 FITS image headers"
(outerspace.stsci.edu/display/PANSTARRS).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from astropy.io import fits

from idfzarr.errors import ImageUnreadable
from idfzarr.imaging.fits_image import silent_astropy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "ImageCards",
    "as_served",
    "card_value",
    "header_of",
    "is_tile_compressed",
    "linear",
    "read_cards",
    "read_image_cards",
    "repaired",
    "wcs_cards_of",
]

_BLOCK = 2880
_CARD = 80
# The largest headers of the survey have 250 cards.
_MAX_BLOCKS = 200
_MAX_HDUS = 50
_MAX_AXES = 9
_FITS = b"SIMPLE  ="
# 2132: later dates are no dates of this survey.
_LAST_MJD = 100_000
# Cards of the table and of the compression, which an image does not have.
_TABLE_CARDS = re.compile(
    r"XTENSION|SIMPLE|EXTEND|BITPIX|NAXIS[0-9]*|PCOUNT|GCOUNT|TFIELDS|THEAP|CHECKSUM|DATASUM"
    r"|T(?:TYPE|FORM|UNIT|DISP|NULL|SCAL|ZERO|DIM)[0-9]+"
    r"|Z(?:IMAGE|BITPIX|NAXIS[0-9]*|TILE[0-9]+|CMPTYPE|NAME[0-9]+|VAL[0-9]+|QUANTIZ|DITHER0"
    r"|MASKCMP|SIMPLE|TENSION|EXTEND|PCOUNT|GCOUNT|BLOCKED|HECKSUM|DATASUM|SCALE|ZERO)"
)
_OLD_MATRIX = re.compile(r"PC00([1-9])00([1-9])")
_SCALED = ("BSCALE", "BZERO", "BLANK", "ZBLANK", "BSOFTEN", "BOFFSET")
_WCS = re.compile(
    r"CTYPE[12]|CUNIT[12]|CRVAL[12]|CRPIX[12]|CDELT[12]|PC[12]_[12]|CD[12]_[12]"
    r"|LONPOLE|LATPOLE|RADESYS|EQUINOX|TIMESYS"
)


@dataclass(frozen=True)
class ImageCards:
    """The cards of a file up to those of its image.

    Attributes
    ----------
    primary
        Cards of the first HDU, 80 columns each, without END; empty where it is the image itself.
    image
        Cards of the HDU that holds the image.
    index
        Which HDU that is.
    offset
        Bytes from the beginning of the file to its pixels.
    """

    primary: tuple[str, ...]
    image: tuple[str, ...]
    index: int
    offset: int

    @property
    def compressed(self) -> bool:
        """Whether the image is tile-compressed."""
        return is_tile_compressed(self.image)


def read_cards(stream: BinaryIO, *, where: str = "the file") -> tuple[str, ...]:
    """Read one header, card for card.

    Parameters
    ----------
    stream
        Where the header begins; afterwards it stands at the data.
    where
        What to call it in an error.

    Returns
    -------
    tuple of str
        80 columns each, up to and without END.

    Raises
    ------
    ImageUnreadable
        It ends before END, has bytes that a header cannot have, or goes on for ever.
    """
    cards: list[str] = []
    for _ in range(_MAX_BLOCKS):
        block = stream.read(_BLOCK)
        if len(block) < _BLOCK:
            msg = f"{where} ends within a header, after {len(cards)} cards"
            raise ImageUnreadable(msg)
        if not (block.isascii() and block.decode("ascii").isprintable()):
            msg = f"{where} has bytes in a header that are no text: it is not FITS"
            raise ImageUnreadable(msg)
        text = block.decode("ascii")
        for at in range(0, _BLOCK, _CARD):
            card = text[at : at + _CARD]
            if card.rstrip() == "END":
                return tuple(cards)
            cards.append(card)
    msg = f"{where} has a header of more than {len(cards)} cards: it is not an image of the survey"
    raise ImageUnreadable(msg)


def read_image_cards(stream: BinaryIO, *, where: str = "the file") -> ImageCards:
    """Read the headers of a file up to its first two-dimensional image, compressed or not.

    Raises
    ------
    ImageUnreadable
        It is not FITS, is cut, or has no such image.
    """
    primary: tuple[str, ...] = ()
    begins = stream.read(len(_FITS))
    if begins != _FITS:
        msg = f"{where} is not FITS: it begins with {begins!r}"
        raise ImageUnreadable(msg)
    stream.seek(-len(_FITS), 1)
    for index in range(_MAX_HDUS):
        cards = read_cards(stream, where=where)
        header = header_of(cards)
        if index == 0:
            primary = cards
        if is_tile_compressed(cards) or (
            _integer(header, "NAXIS", where) == 2
            and str(card_value(header, "XTENSION", "IMAGE")).strip() == "IMAGE"
        ):
            return ImageCards(
                primary=primary if index else (), image=cards, index=index, offset=stream.tell()
            )
        stream.seek(_data_bytes(header, where), 1)
    msg = f"{where} holds no two-dimensional image"
    raise ImageUnreadable(msg)


def _integer(header: fits.Header, name: str, where: str, default: int = 0) -> int:
    value = card_value(header, name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        msg = f"{where} has {name} = {str(value)[:40]!r} in a header: it is not FITS"
        raise ImageUnreadable(msg)
    return int(value)


def _data_bytes(header: fits.Header, where: str) -> int:
    axes = _integer(header, "NAXIS", where)
    if axes == 0:
        return 0
    bits = card_value(header, "BITPIX")
    if axes > _MAX_AXES or bits not in {8, 16, 32, 64, -32, -64}:
        msg = f"{where} has {axes} axes of {str(bits)[:40]!r} bits in a header: it is not FITS"
        raise ImageUnreadable(msg)
    count = 1
    for axis in range(1, axes + 1):
        count *= _integer(header, f"NAXIS{axis}", where)
    groups = _integer(header, "GCOUNT", where, 1)
    size: int = abs(bits) // 8 * groups * (count + _integer(header, "PCOUNT", where))
    return -(-size // _BLOCK) * _BLOCK


def is_tile_compressed(cards: Iterable[str]) -> bool:
    """Return whether cards are those of a tile-compressed image: ZIMAGE is T."""
    return any(card.startswith("ZIMAGE  =") and card[10:30].strip() == "T" for card in cards)


def header_of(cards: Iterable[str]) -> fits.Header:
    """Return cards as an astropy header, each one as it stands.

    Raises
    ------
    ImageUnreadable
        They are no cards.
    """
    with silent_astropy():
        try:
            return fits.Header.fromstring("".join(card.ljust(_CARD) for card in cards))
        except (ValueError, TypeError, KeyError, IndexError, fits.VerifyError) as error:
            msg = f"the cards of a header cannot be read: {error}"
            raise ImageUnreadable(msg) from error


def card_value(header: Mapping[str, Any], name: str, default: Any = None) -> Any:
    """Return a card's value; the default where there is none, or none that can be read."""
    # astropy parses a card, and complains about it, when its value is first asked for.
    with silent_astropy():
        try:
            value = header.get(name, default)
        except (ValueError, fits.VerifyError):
            return default
    return default if isinstance(value, fits.card.Undefined) else value


def as_served(cards: Iterable[str]) -> fits.Header:
    """Return the header of the image alone, its cards as the archive served them.

    The cards of the table and of the compression are left out, and those that say what the image
    is (SIMPLE, BITPIX, NAXIS...) stand first, as integers on disk: BSCALE, BZERO and BLANK hold.

    Parameters
    ----------
    cards
        Of the HDU that holds the image, compressed or not.

    Raises
    ------
    ImageUnreadable
        They describe no two-dimensional image.
    """
    kept = list(cards)
    full = header_of(kept)
    mark = "Z" if is_tile_compressed(kept) else ""
    made = fits.Header([("SIMPLE", True, "conforms to FITS standard")])
    with silent_astropy():
        for name in ("BITPIX", "NAXIS", "NAXIS1", "NAXIS2"):
            value = card_value(full, mark + name)
            if isinstance(value, bool) or not isinstance(value, int):
                msg = f"the cards hold {mark}{name} = {str(value)[:40]!r}: they describe no image"
                raise ImageUnreadable(msg)
            made.append((name, value), end=True)
        if made["NAXIS"] != 2:
            msg = f"the cards describe an image of {made['NAXIS']} axes and two are needed"
            raise ImageUnreadable(msg)
        for card in full.cards:
            if not _TABLE_CARDS.fullmatch(card.keyword) and not _of_compression(card, mark):
                made.append(card, end=True)
    return made


def _of_compression(card: fits.Card, mark: str) -> bool:
    # A compressed image without a name of its own carries the name of the table.
    unnamed = card.keyword == "EXTNAME" and "'COMPRESSED_IMAGE'" in card.image
    return bool(mark) and (unnamed or card.keyword == "ZBLANK")


def repaired(header: fits.Header) -> fits.Header:
    """Return a header with what the archive left out or wrote in an old way.

    PC001001 and so on become PC1_1. Where they are missing, there are added RADESYS = FK5 with
    EQUINOX = 2000, TIMESYS = TAI, CUNIT, DATE-OBS from MJD-OBS, and at the pole LONPOLE = 180,
    whose default would turn the sky around (see `idfzarr.ps1.skycell.wcs_cards`). The rest stays
    as it is.

    Parameters
    ----------
    header
        Of an image; not changed.
    """
    made = header.copy()
    with silent_astropy():
        for name in [card.keyword for card in made.cards]:
            old = _OLD_MATRIX.fullmatch(name)
            if old and f"PC{old[1]}_{old[2]}" not in made:
                value, comment = made[name], made.comments[name]
                made.insert(name, (f"PC{old[1]}_{old[2]}", value, comment))
            if old:
                made.remove(name)
        if "CTYPE1" in made:
            _default(made, "CUNIT1", "deg", "unit of CRVAL1 and CDELT1")
            _default(made, "CUNIT2", "deg", "unit of CRVAL2 and CDELT2")
            _default(made, "RADESYS", "FK5", "frame of the positions")
            if card_value(made, "RADESYS") == "FK5":
                _default(made, "EQUINOX", 2000.0, "equinox of the positions")
            if card_value(made, "CRVAL2") == 90.0:
                _default(made, "LONPOLE", 180.0, "north is up as everywhere")
        _default(made, "TIMESYS", "TAI", "time scale of MJD-OBS")
        mjd = card_value(made, "MJD-OBS")
        if isinstance(mjd, (int, float)) and 0 < mjd < _LAST_MJD:
            _default(made, "DATE-OBS", _date(mjd), "MJD-OBS as a date")
    return made


def _date(mjd: float) -> str:
    # Day 0 of the modified Julian date (FITS Standard 4.0, section 9.5).
    return str(np.datetime64("1858-11-17", "ms") + round(mjd * 86_400_000))


def _default(header: fits.Header, name: str, value: Any, comment: str) -> None:
    if name not in header:
        header.append((name, value, comment), end=True)


def linear(header: fits.Header, *, bitpix: int = -32, unit: str = "uJy") -> fits.Header:
    """Return a header for pixels that are linear floating point: without the scaling's cards.

    Parameters
    ----------
    header
        Of an image; not changed.
    bitpix
        -32 or -64.
    unit
        What the pixels are in.
    """
    made = header.copy()
    with silent_astropy():
        for name in _SCALED:
            made.remove(name, ignore_missing=True, remove_all=True)
        made["BITPIX"] = bitpix
        made["BUNIT"] = (unit, "unit of the pixels")
    return made


def wcs_cards_of(header: fits.Header) -> dict[str, str | float]:
    """Return the cards of the WCS of a header, repaired, for attributes and for a new header."""
    made = repaired(header)
    with silent_astropy():
        return {c.keyword: c.value for c in made.cards if _WCS.fullmatch(c.keyword)}
