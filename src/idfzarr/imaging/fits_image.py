"""One two-dimensional image out of a FITS file, read with bounds and without surprises.

The file is walked header by header before a pixel is read, so that a truncated file, a header that
asks for more bytes than the file can hold, or a gzip that would unpack to something absurd is one
clear `ImageUnreadable` instead of a warning, an array of zeros or a machine without memory.
Structure of a FITS file: FITS Standard 4.0, section 3 (https://fits.gsfc.nasa.gov).
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import threading
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, cast

import numpy as np
from astropy.io import fits

from idfzarr.errors import ImageMissing, ImageUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "MAX_PIXELS",
    "FitsImage",
    "card_as_written",
    "card_number",
    "card_text",
    "read_image",
    "read_image_header",
    "silent_astropy",
    "source_digest",
]

MAX_PIXELS = 2**28
"""Pixels of the largest image that is read: 16,384 x 16,384, 1 GiB as float32."""

_BLOCK = 2880
_MAX_HEADER = 2000 * _BLOCK
# Deflate cannot shrink by more than 1032:1 (zlib technical notes,
# https://zlib.net/zlib_tech.html), so a header that asks for more is lying.
_GZIP_RATIO = 1032
_PIECE = 1 << 20
_MAX_REST = 1 << 30
_DTYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_ASTROPY_TROUBLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    zlib.error,
    struct.error,
    fits.VerifyError,
)
_warnings_lock = threading.RLock()


@dataclass(frozen=True)
class FitsImage:
    """One image of a FITS file.

    Attributes
    ----------
    header
        Header of the HDU the image came from.
    values
        Shape (ny, nx), scaled by BSCALE and BZERO; float32 or float64, or the integers of an
        integer image.
    integer
        Whether the file holds integers.
    """

    header: fits.Header
    values: NDArray[Any]
    integer: bool


@contextmanager
def silent_astropy() -> Iterator[None]:
    """Let astropy read headers and WCS without a word about their cosmetics.

    Filters of warnings are global to the process, so two threads that change them at once could
    leave them changed for good: one thread at a time does it here.
    """
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def card_number(header: fits.Header, *names: str) -> float:
    """Return the first of the named cards that holds a finite number, else NaN."""
    for name in names:
        value = _card(header, name)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                continue
        if isinstance(value, (int, float)) and not isinstance(value, bool) and _finite(value):
            return float(value)
    return math.nan


def card_text(header: fits.Header, *names: str) -> str:
    """Return the first of the named cards that holds text, stripped, else an empty string."""
    for name in names:
        value = _card(header, name)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return ""


def card_as_written(header: fits.Header, name: str) -> str:
    """Return a card's value as its digits stand in the file, without the comment."""
    with silent_astropy():
        image: str = header.cards[name].image
    return image.partition("=")[2].partition("/")[0].strip()


def _card(header: fits.Header, name: str) -> Any:
    """Return a card's value; None where there is none, or none that can be parsed."""
    # A card is parsed, and complained about, when its value is first asked for.
    with silent_astropy():
        try:
            return header.get(name)
        except (fits.VerifyError, ValueError):
            return None


def read_image(path: Path) -> FitsImage:
    """Read the first two-dimensional image of a FITS file.

    Plain, gzipped (whatever the name ends in) and tile-compressed (``.fits.fz``) files are read;
    axes of length one are dropped.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    FitsImage
        Header and pixels.

    Raises
    ------
    ImageMissing
        There is no such file.
    ImageUnreadable
        Not FITS, truncated or damaged, no two-dimensional image, or one beyond `MAX_PIXELS`.
    """
    with _opened(path) as (stream, limit, packed):
        found = _locate(stream, path, limit)
        if found.compressed:
            return _read_compressed(path, found.index)
        size = _data_bytes(found.header, path)
        raw = _take(stream, size, path)
        if packed:
            _expect_end(stream, size, path)
    return _decode(found.header, raw, found.shape, path)


def read_image_header(path: Path) -> tuple[fits.Header, tuple[int, int]]:
    """Read the header and the shape (ny, nx) of the image that `read_image` would read.

    Raises as `read_image`, but pixels are not looked at: a gzipped file that is cut within its
    pixels shows only when they are read.
    """
    with _opened(path) as (stream, limit, _):
        found = _locate(stream, path, limit)
    if found.compressed:
        return _compressed_header(path, found.index), found.shape
    return found.header, found.shape


def source_digest(path: Path) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 of a file, as the ledger records them.

    Raises
    ------
    ImageMissing
        There is no such file.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return stream.tell(), digest
    except OSError as error:
        raise _missing(path, error) from error


@dataclass(frozen=True)
class _Found:
    """Where the image is: its HDU, and the header that describes the pixels' bytes."""

    index: int
    header: fits.Header
    shape: tuple[int, int]
    compressed: bool


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int, bool]]:
    """Open a file; yield it, the most bytes it can hold unpacked, and whether it is gzipped."""
    try:
        with path.open("rb") as plain:
            size = os.fstat(plain.fileno()).st_size
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=plain, mode="rb") as stream:
                    yield cast("BinaryIO", stream), _GZIP_RATIO * size, True
            else:
                yield plain, size, False
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        msg = f"{path} cannot be unpacked ({error}): the gzip file is truncated or damaged"
        raise ImageUnreadable(msg) from error
    except OSError as error:
        if isinstance(error, (ImageMissing, ImageUnreadable)):
            raise
        raise _missing(path, error) from error


def _missing(path: Path, error: OSError) -> ImageMissing:
    return ImageMissing(f"{path} cannot be read: {error.strerror or error}")


def _unreadable(path: Path, what: str) -> NoReturn:
    msg = f"{path} cannot be read as a FITS image: {what}"
    raise ImageUnreadable(msg)


def _locate(stream: BinaryIO, path: Path, limit: int) -> _Found:
    """Walk the HDUs to the first two-dimensional image; leave the stream at its pixels."""
    seen: list[str] = []
    index = 0
    used = 0
    while True:
        text = _header_text(stream, path, first=index == 0)
        if not text:
            found = "; ".join(seen) or "nothing"
            _unreadable(path, f"no HDU holds a two-dimensional image, found {found}")
        with silent_astropy():
            header = fits.Header.fromstring(text)
        size = _data_bytes(header, path)
        used += len(text) + size
        if used > limit:
            _unreadable(
                path,
                f"HDU {index} asks for {size:,} bytes of pixels and the file cannot hold them: "
                "it is truncated, or its header is damaged",
            )
        compressed = _is_compressed(header)
        axes = _axes(header, path, prefix="ZNAXIS" if compressed else "NAXIS")
        shape = _image_shape(axes)
        if shape and (compressed or index == 0 or card_text(header, "XTENSION") == "IMAGE"):
            if shape[0] * shape[1] > MAX_PIXELS:
                _unreadable(path, f"{shape[0]} x {shape[1]} pixels, more than {MAX_PIXELS:,}")
            return _Found(index, header, shape, compressed)
        kind = card_text(header, "XTENSION") or "PRIMARY"
        seen.append(f"HDU {index} {kind} with axes {axes or 'none'}")
        _skip(stream, size, path)
        index += 1


def _header_text(stream: BinaryIO, path: Path, *, first: bool) -> str:
    """Read one header, block by block, to its END card; an empty string at the end of the file."""
    blocks: list[bytes] = []
    while True:
        block = stream.read(_BLOCK)
        if first and not blocks and not block.startswith(b"SIMPLE  ="):
            start = "it is empty" if not block else f"it starts with {block[:16]!r}"
            _unreadable(path, f"not FITS, {start}")
        if not first and not blocks and not block.startswith(b"XTENSION"):
            # The standard allows special records, that is anything, behind the last HDU.
            return ""
        if len(block) < _BLOCK:
            _unreadable(path, "it is truncated within a header")
        blocks.append(block)
        if any(block[k : k + 8] == b"END     " for k in range(0, _BLOCK, 80)):
            break
        if len(blocks) * _BLOCK >= _MAX_HEADER:
            _unreadable(path, f"a header of more than {_MAX_HEADER:,} bytes without END")
    return b"".join(blocks).decode("ascii", errors="replace").replace("\ufffd", "?")


def _axes(header: fits.Header, path: Path, *, prefix: str = "NAXIS") -> tuple[int, ...]:
    """Return the lengths of the axes, in the order of FITS (x first)."""
    count = card_number(header, prefix)
    if not 0 <= count <= 999:
        _unreadable(path, f"{prefix} is {count}")
    axes = tuple(card_number(header, f"{prefix}{k + 1}") for k in range(int(count)))
    if not all(axis >= 0 and axis == int(axis) for axis in axes if not math.isnan(axis)) or any(
        math.isnan(axis) for axis in axes
    ):
        _unreadable(path, f"the lengths of its axes are {axes}")
    return tuple(int(axis) for axis in axes)


def _image_shape(axes: tuple[int, ...]) -> tuple[int, int] | None:
    """Return (ny, nx) where all other axes have length one."""
    if len(axes) < 2 or any(axis != 1 for axis in axes[2:]) or min(axes[:2]) < 1:
        return None
    return axes[1], axes[0]


def _is_compressed(header: fits.Header) -> bool:
    return _card(header, "ZIMAGE") is True


def _data_bytes(header: fits.Header, path: Path) -> int:
    """Return the bytes of an HDU's data, padded to whole blocks (FITS Standard 4.0, eq. 2)."""
    axes = _axes(header, path)
    if not axes:
        return 0
    bits = card_number(header, "BITPIX")
    if bits not in _DTYPES:
        _unreadable(path, f"BITPIX is {bits}")
    if axes[0] == 0:
        axes = axes[1:] or (0,)  # random groups
    extra, groups = (card_number(header, name) for name in ("PCOUNT", "GCOUNT"))
    extra = 0 if math.isnan(extra) else extra
    groups = 1 if math.isnan(groups) else groups
    if extra < 0 or groups < 0:
        _unreadable(path, f"PCOUNT is {extra:g} and GCOUNT is {groups:g}")
    size = abs(int(bits)) // 8 * int(groups) * (int(extra) + math.prod(axes))
    return -(-size // _BLOCK) * _BLOCK


def _take(stream: BinaryIO, size: int, path: Path) -> bytes:
    raw = stream.read(size)
    if len(raw) < size:
        _unreadable(path, f"it is truncated, {len(raw):,} of {size:,} bytes of pixels are there")
    return raw


def _skip(stream: BinaryIO, size: int, path: Path) -> None:
    left = size
    while left > 0:
        piece = stream.read(min(left, _PIECE))
        if not piece:
            _unreadable(path, f"it is truncated, {left:,} bytes are missing before its image")
        left -= len(piece)


def _expect_end(stream: BinaryIO, size: int, path: Path) -> None:
    """Read to the end of the file, where a gzipped one has its checksum."""
    left = _MAX_REST + size
    while piece := stream.read(_PIECE):
        left -= len(piece)
        if left < 0:
            _unreadable(path, f"more than {_MAX_REST:,} bytes follow its image")


def _decode(header: fits.Header, raw: bytes, shape: tuple[int, int], path: Path) -> FitsImage:
    """Turn big-endian bytes into scaled, native pixels."""
    bits = int(card_number(header, "BITPIX"))
    stored = np.frombuffer(raw, dtype=_DTYPES[bits], count=shape[0] * shape[1]).reshape(shape)
    integer = bits > 0
    scale, zero = card_number(header, "BSCALE"), card_number(header, "BZERO")
    scale = 1.0 if math.isnan(scale) else scale
    zero = 0.0 if math.isnan(zero) else zero
    blank = card_number(header, "BLANK") if integer else math.nan
    if scale == 0:
        _unreadable(path, "BSCALE is 0")
    if scale == 1 and zero == 0:
        values: NDArray[Any] = stored.astype(stored.dtype.newbyteorder("="))
    elif integer and scale == 1 and zero == int(zero) and bits < 64:
        values = stored.astype(np.int64) + int(zero)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            values = stored.astype(np.float64) * scale + zero
    if not math.isnan(blank):
        empty = stored == blank
        if empty.any():
            values = np.where(empty, np.nan, values.astype(np.float64))
    return FitsImage(header, values, integer)


def _compressed_header(path: Path, index: int) -> fits.Header:
    with silent_astropy():
        try:
            with fits.open(path, memmap=False) as hdus:
                header: fits.Header = hdus[index].header.copy()
        except _ASTROPY_TROUBLE as error:
            _unreadable(path, f"the header of its compressed image is damaged ({error})")
    return header


def _read_compressed(path: Path, index: int) -> FitsImage:
    """Unpack a tile-compressed image (FITS Standard 4.0, section 10) through astropy."""
    with silent_astropy():
        try:
            with fits.open(path, memmap=False) as hdus:
                hdu = hdus[index]
                values = np.asarray(hdu.data)
                header: fits.Header = hdu.header.copy()
        except _ASTROPY_TROUBLE as error:
            _unreadable(path, f"its compressed image is damaged ({error})")
    if values.ndim < 2:
        _unreadable(path, f"its compressed image has shape {values.shape}")
    values = values.reshape(values.shape[-2:])
    return FitsImage(
        header,
        values.astype(values.dtype.newbyteorder("=")),
        bool(card_number(header, "BITPIX") > 0),
    )


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
