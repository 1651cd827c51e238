"""The tiles of a compressed image: where they lie, how large they may become, if they are whole.

A decoder trusts the table of tiles; these checks come before it and after it. A part of a file that
became zeros decodes without a word, since zeros are a valid Rice code of equal pixels: it is found
because the tile has bytes that no pixel needed.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import ImageUnreadable
from idfzarr.ps1.headers import card_value

if TYPE_CHECKING:
    from astropy.io import fits
    from numpy.typing import NDArray

__all__ = ["TileTable", "check_rice", "check_tiles", "read_table", "rice_bytes"]

_TYPES = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "PLIO_1", "NOCOMPRESS")
_FORM = re.compile(r"1?([PQ])B(?:\([0-9]{0,12}\))?", re.ASCII)
# Zero bytes at the end of a tile that make it worth a closer look, and slack of that look.
_TAIL = 8
_SLACK = 64
_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class TileTable:
    """The table of a compressed image.

    Attributes
    ----------
    rows, row_bytes
        Of the table: one row a tile.
    wide
        Whether descriptors have 64 bits a number.
    heap
        Bytes from the beginning of the data to the heap.
    total_bytes
        Of the data, heap and all.
    tile
        (ny, nx) of a tile.
    shape
        (ny, nx) of the image.
    pixel_bytes
        Of a pixel of the image.
    packing
        ``RICE_1``, ``GZIP_1`` and so on.
    block, step
        Pixels of a block of the Rice code, and bytes of its pixels.
    """

    rows: int
    row_bytes: int
    wide: bool
    heap: int
    total_bytes: int
    tile: tuple[int, int]
    shape: tuple[int, int]
    pixel_bytes: int
    packing: str
    block: int
    step: int


def read_table(header: fits.Header, nx: int, ny: int, bits: int, *, where: str) -> TileTable:
    """Read the table's geometry and refuse what cannot be.

    Parameters
    ----------
    header
        Of the table.
    nx, ny, bits
        Of the image in it, checked.
    where
        What to call the file in an error.

    Raises
    ------
    ImageUnreadable
        It is no table of tiles, or one that no image of the survey has.
    """

    def number(name: str, default: int | None = None) -> int:
        value = card_value(header, name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            msg = f"{where} has {name} = {str(value)[:40]!r} in its header: it is no image"
            raise ImageUnreadable(msg)
        return value

    rows, row_bytes, pcount = number("NAXIS2"), number("NAXIS1"), number("PCOUNT")
    tile = number("ZTILE2", 1), number("ZTILE1", nx)
    packing = str(card_value(header, "ZCMPTYPE", "")).strip()
    form = _FORM.fullmatch(str(card_value(header, "TFORM1", "")).strip())
    named = str(card_value(header, "TTYPE1", "")).strip() == "COMPRESSED_DATA"
    if packing not in _TYPES:
        msg = f"{where} is compressed as {packing[:20]!r}; known are {', '.join(_TYPES)}"
        raise ImageUnreadable(msg)
    if not (0 < tile[0] <= ny and 0 < tile[1] <= nx):
        msg = f"{where} states tiles of {tile[1]} x {tile[0]} in an image of {nx} x {ny}"
        raise ImageUnreadable(msg)
    wide = form is not None and form[1] == "Q"
    if form is None or not named or number("TFIELDS") != 1 or row_bytes != (16 if wide else 8):
        msg = f"{where} has no table of one column of tiles"
        raise ImageUnreadable(msg)
    wanted = -(-ny // tile[0]) * -(-nx // tile[1])
    heap = number("THEAP", rows * row_bytes)
    total = rows * row_bytes + pcount
    if rows != wanted or not rows * row_bytes <= heap <= total:
        msg = f"{where} has {rows} tiles and a heap at {heap}; its image needs {wanted} tiles"
        raise ImageUnreadable(msg)
    options = {
        str(card_value(header, f"ZNAME{k}", "")).strip(): card_value(header, f"ZVAL{k}")
        for k in range(1, 10)
    }
    block, step = options.get("BLOCKSIZE", 32), options.get("BYTEPIX", 4)
    if packing.startswith("RICE") and (block not in {16, 32} or step not in {1, 2, 4}):
        msg = f"{where} states a Rice code of blocks of {block!r} and {step!r} bytes a pixel"
        raise ImageUnreadable(msg)
    return TileTable(
        rows=rows,
        row_bytes=row_bytes,
        wide=wide,
        heap=heap,
        total_bytes=total,
        tile=tile,
        shape=(ny, nx),
        pixel_bytes=bits // 8,
        packing=packing,
        block=int(block or 32),
        step=int(step or 4),
    )


def check_tiles(data: bytes, offset: int, table: TileTable, *, where: str) -> NDArray[np.int64]:
    """Check that every tile lies in the heap, and unpacks to no more than a tile.

    Parameters
    ----------
    data
        The file.
    offset
        Where the table begins.
    table
        Its geometry; the file is long enough for it.
    where
        What to call the file in an error.

    Returns
    -------
    ndarray of int64
        (tile, 2): length, and place in the file.

    Raises
    ------
    ImageUnreadable
        A tile does not.
    """
    kind = ">i8" if table.wide else ">i4"
    raw = np.frombuffer(data, dtype=kind, count=2 * table.rows, offset=offset).reshape(-1, 2)
    places = raw.astype(np.int64)
    room = table.total_bytes - table.heap
    bad = (places < 0).any(axis=1) | (places[:, 0] == 0) | (places > room).any(axis=1)
    bad |= places.sum(axis=1) > room
    if bad.any():
        tile = int(np.flatnonzero(bad)[0])
        msg = f"tile {tile} of {where} does not lie in the file: it is damaged"
        raise ImageUnreadable(msg)
    places[:, 1] += offset + table.heap
    if table.packing.startswith("GZIP"):
        most = table.tile[0] * table.tile[1] * max(table.pixel_bytes, 4)
        for tile, (length, at) in enumerate(places.tolist()):
            _check_gzip(data[at : at + length], most, f"tile {tile} of {where}")
    return places


def _check_gzip(packed: bytes, most: int, where: str) -> None:
    try:
        member = zlib.decompressobj(wbits=31)
        found = member.decompress(packed, most + 1)
    except zlib.error as error:
        msg = f"{where} cannot be unpacked: {error}"
        raise ImageUnreadable(msg) from error
    if len(found) > most or not member.eof:
        msg = f"{where} unpacks to more than a tile, or is cut"
        raise ImageUnreadable(msg)


def check_rice(
    data: bytes,
    offset: int,
    table: TileTable,
    places: NDArray[np.int64],
    pixels: NDArray[np.integer],
    *,
    where: str,
) -> None:
    """Check that tiles that end in zeros needed all their bytes.

    Parameters
    ----------
    data, offset, table, places
        As of `check_tiles`, and what it returned.
    pixels
        As decoded, (ny, nx).
    where
        What to call the file in an error.

    Raises
    ------
    ImageUnreadable
        A tile has far more bytes than its pixels take: what it held is lost.
    """
    if not table.packing.startswith("RICE") or table.tile != (1, table.shape[1]):
        return
    lengths, ends = places[:, 0], places.sum(axis=1)
    tail = np.frombuffer(data, dtype=np.uint8)
    back = np.minimum(lengths, _TAIL)
    empty = np.ones(len(ends), dtype=bool)
    for k in range(1, _TAIL + 1):
        empty &= (tail[np.maximum(ends - k, offset)] == 0) | (k > back)
    suspect = np.flatnonzero(empty)
    for first in range(0, len(suspect), _ROWS_AT_ONCE):
        rows = suspect[first : first + _ROWS_AT_ONCE]
        needed = rice_bytes(pixels[rows], block=table.block, step=table.step)
        lost = lengths[rows] > needed + _SLACK
        if lost.any():
            row = int(rows[np.flatnonzero(lost)[0]])
            msg = f"row {row} of {where} decodes from part of its bytes: the file is damaged"
            raise ImageUnreadable(msg)


def rice_bytes(rows: NDArray[np.integer], *, block: int = 32, step: int = 2) -> NDArray[np.int64]:
    """Return how many bytes the Rice code of rows takes.

    Parameters
    ----------
    rows
        (n, nx) integers.
    block
        Pixels of a block.
    step
        Bytes of a pixel: 1, 2 or 4.

    Returns
    -------
    ndarray of int64
        (n,), by the rule of White's encoder (see the module `idfzarr.ps1.fits_check`).
    """
    select_bits = {1: 3, 2: 4, 4: 5}[step]
    most = {1: 6, 2: 14, 4: 25}[step]
    n, nx = rows.shape
    values = rows.astype(np.int64)
    half = 1 << (8 * step - 1)
    steps = np.diff(values, axis=1, prepend=values[:, :1])
    steps = (steps + half) % (2 * half) - half
    mapped = np.where(steps < 0, -2 * steps - 1, 2 * steps)
    blocks = -(-nx // block)
    full = np.zeros((n, blocks * block), dtype=np.int64)
    full[:, :nx] = mapped
    full = full.reshape(n, blocks, block)
    count = np.minimum(block, nx - block * np.arange(blocks))
    total = full.sum(axis=2)
    mean = np.maximum((total - count // 2 - 1) / count, 0).astype(np.int64) >> 1
    split = np.where(mean > 0, np.frexp(mean.astype(np.float64))[1], 0)
    high = (full >> split[:, :, None]).sum(axis=2)
    bits = select_bits + count * (split + 1) + high
    bits = np.where(split >= most, select_bits + count * 8 * step, bits)
    bits = np.where((split == 0) & (total == 0), select_bits, bits)
    return np.asarray(step + (bits.sum(axis=1) + 7) // 8, dtype=np.int64)
