"""Files of pretended Pan-STARRS1 stacks: what the archive serves, of any size.

An empty HDU, then a table whose rows are RICE-compressed rows of 16-bit integers. The heap is
compressed by astropy; the header is written card for card, because the survey's own cards (BSCALE
beside ZBLANK, PC001001) would not survive a library that understands them.

Examples
--------
>>> sky = PS1Sky(seed=1, size=(64, 60))
>>> file_name("skycell.1405.053", "r", "weight")
'rings.v3.skycell.1405.053.stk.r.unconv.wt.fits'
>>> len(file_bytes(sky, "skycell.1405.053", "r")) % 2880
0
"""

from __future__ import annotations

import gzip
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from idfzarr.errors import UsageError
from idfzarr.ps1 import skycell as cells
from idfzarr.testing.ps1_cards import header_cards
from idfzarr.testing.ps1_pixels import clean, disk_pixels, exposure, true_flux
from idfzarr.testing.ps1_sky import BANDS, KINDS, PS1Sky, StarList, Window

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "BANDS",
    "COMPRESSIONS",
    "KINDS",
    "FileName",
    "PS1Sky",
    "StarList",
    "Window",
    "clean",
    "disk_pixels",
    "exposure",
    "file_bytes",
    "file_name",
    "parse_file_name",
    "relative_path",
    "true_flux",
    "write_files",
]

COMPRESSIONS = ("RICE_1", "GZIP_1", "GZIP_2", "signed", "none")
"""How pixels can be packed: ``signed`` is RICE_1 of a mask as plain int16, without BZERO, whose
bit 32768 is the sign; ``none`` is an image extension without compression."""

_BLOCK, _CARD = 2880, 80
_SUFFIX = {"image": "", "mask": ".mask", "weight": ".wt"}
_FILE = re.compile(
    r"rings\.v3\.(skycell\.[0-9]{4}\.[0-9]{3})\.stk\.([grizy])\.unconv(|\.mask|\.wt)\.fits"
)
_CHECKSUM = re.compile(r"CHECKSUM|DATASUM")


@dataclass(frozen=True)
class FileName:
    """What a file is, by its name.

    Attributes
    ----------
    skycell
        Its full name.
    band
        One of g, r, i, z, y.
    kind
        ``image``, ``mask`` or ``weight``.
    """

    skycell: str
    band: str
    kind: str


def file_name(name: str, band: str, kind: str = "image") -> str:
    """Return the name of a file as the archive has it."""
    return f"rings.v3.{cells.parse(name).name}.stk.{band}.unconv{_SUFFIX[kind]}.fits"


def relative_path(name: str, band: str, kind: str = "image") -> str:
    """Return the path of a file below ``rings.v3.skycell/``: ``1405/053/rings.v3...fits``."""
    cell = cells.parse(name)
    return f"{cell.projection:04d}/{cell.cell:03d}/{file_name(name, band, kind)}"


def parse_file_name(text: str) -> FileName | None:
    """Return what a file is by its name; None if it is none of the archive's stacks."""
    match = _FILE.fullmatch(text)
    if match is None:
        return None
    kinds = {suffix: kind for kind, suffix in _SUFFIX.items()}
    return FileName(match[1], match[2], kinds[match[3]])


def file_bytes(
    sky: PS1Sky,
    name: str,
    band: str,
    kind: str = "image",
    *,
    compression: str = "RICE_1",
    checksums: bool = False,
) -> bytes:
    """Return one file as the archive would serve it.

    Parameters
    ----------
    sky
        Which sky, and how large the images are.
    name
        Of the skycell.
    band
        One of g, r, i, z, y.
    kind
        ``image``, ``weight`` (a variance) or ``mask``.
    compression
        One of `COMPRESSIONS`.
    checksums
        Whether to add CHECKSUM and DATASUM, which the survey's files do not have.

    Returns
    -------
    bytes
        The same for the same arguments, always.

    Raises
    ------
    UsageError
        No such skycell, band, kind or compression.
    """
    if compression not in COMPRESSIONS:
        msg = f"pixels are packed as {', '.join(COMPRESSIONS)}, not {compression!r}"
        raise UsageError(msg)
    name = cells.parse(name).name
    pixels, meaning = disk_pixels(sky, name, band, kind)
    if compression == "signed":
        pixels, compression = pixels.view(np.int16), "RICE_1"
    own = header_cards(sky, name, band, meaning)
    if compression == "none":
        own = tuple(card for card in own if not card.startswith("ZBLANK"))
        structure, heap = _image(pixels)
    else:
        structure, heap = _table(pixels, compression)
    first = _header(
        [
            f"SIMPLE  = {'T':>20} / file does conform to FITS standard",
            f"BITPIX  = {16:>20} / number of bits per data pixel",
            f"NAXIS   = {0:>20} / number of data axes",
            f"EXTEND  = {'T':>20} / FITS dataset may contain extensions",
        ]
    )
    made = first + _header([*structure, *own]) + heap
    return _with_checksums(made) if checksums else made


def _header(cards: list[str]) -> bytes:
    text = "".join(card.ljust(_CARD) for card in [*cards, "END"])
    return text.ljust(-(-len(text) // _BLOCK) * _BLOCK).encode("ascii")


def _image(pixels: NDArray[Any]) -> tuple[list[str], bytes]:
    unsigned = pixels.dtype == np.uint16
    values = (pixels ^ np.uint16(0x8000)).view(np.int16) if unsigned else pixels
    cards = [
        "XTENSION= 'IMAGE   '           / Image extension",
        f"BITPIX  = {16:>20} / array data type",
        f"NAXIS   = {2:>20} / number of array dimensions",
        f"NAXIS1  = {pixels.shape[1]:>20}",
        f"NAXIS2  = {pixels.shape[0]:>20}",
        f"PCOUNT  = {0:>20} / number of parameters",
        f"GCOUNT  = {1:>20} / number of groups",
        *([f"BSCALE  = {1:>20}", f"BZERO   = {32768:>20}"] if unsigned else []),
    ]
    data = values.astype(">i2").tobytes()
    return cards, data.ljust(-(-len(data) // _BLOCK) * _BLOCK, b"\0")


def _table(pixels: NDArray[Any], compression: str) -> tuple[list[str], bytes]:
    """Return the cards of the compressed table, and its rows with their heap."""
    packed = fits.CompImageHDU(
        pixels, compression_type=compression, tile_shape=(1, pixels.shape[1])
    )
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(stream)
    whole = stream.getvalue()
    stream.seek(0)
    with fits.open(stream, disable_image_compression=True) as opened:
        start = opened[1].fileinfo()["datLoc"]
        cards = [str(card) for card in opened[1].header.cards]
    kept = [card for card in cards if not card.startswith(("EXTNAME", "ZBLANK"))]
    return kept, whole[start:]


def _with_checksums(made: bytes) -> bytes:
    with fits.open(io.BytesIO(made), disable_image_compression=True) as opened:
        stream = io.BytesIO()
        opened.writeto(stream, checksum=True, output_verify="ignore")
    return stream.getvalue()


def write_files(
    folder: Path,
    sky: PS1Sky,
    names: Iterable[str],
    *,
    bands: str = BANDS,
    kinds: Iterable[str] = KINDS,
    extension: str = ".fits",
    flat: bool = False,
    compression: str = "RICE_1",
) -> tuple[Path, ...]:
    """Write files as a folder of downloads has them.

    Parameters
    ----------
    folder
        Made where it is missing.
    sky
        Which sky, and how large the images are.
    names
        Of the skycells; what the sky does not have is left out.
    bands, kinds
        Which of them.
    extension
        ``.fits``, ``.fits.fz`` (the same bytes) or ``.fits.gz``.
    flat
        Whether all lie in the folder itself, not in ``PPPP/0YX/``.
    compression
        As of `file_bytes`.

    Returns
    -------
    tuple of Path
        The files.

    Raises
    ------
    UsageError
        No such skycell, band, kind, extension or compression.
    """
    if extension not in {".fits", ".fits.fz", ".fits.gz"}:
        msg = f"files end in .fits, .fits.fz or .fits.gz, not {extension!r}"
        raise UsageError(msg)
    kinds, written = tuple(kinds), []
    for name in names:
        for band in (band for band in bands if sky.has(name, band)):
            for kind in kinds:
                made = file_bytes(sky, name, band, kind, compression=compression)
                place = file_name(name, band, kind) if flat else relative_path(name, band, kind)
                path = folder / (place.removesuffix(".fits") + extension)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(gzip.compress(made, 1, mtime=0) if "gz" in extension else made)
                written.append(path)
    return tuple(written)
