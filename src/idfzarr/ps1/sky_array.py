"""One array of a skycell as bytes: a shard of chunks of 512 by 512 pixels.

The shard is that of the Zarr v3 codec ``sharding_indexed``
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/): one for the whole array,
its chunks in C order, the index at the end. Every chunk is little endian, compressed by blosc and
Zstandard with its bytes shuffled, then its own crc32c; chunks at the border are filled up.

Bytes are shuffled and not bits: the noise of these images spreads over the lower byte, which
nothing compresses, and the lower half of the upper one, which an entropy coder takes at its
entropy. Shuffled bits depend on where zero lies and take 13 % more. A chunk is one block of blosc:
smaller ones cost 10 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numcodecs.blosc
import numpy as np

from idfzarr.errors import ChunkMissing, MetadataCorrupt, UsageError
from idfzarr.store.checksum import sealed
from idfzarr.store.shard import ABSENT, decode_chunk
from idfzarr.store.sharing import shared

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.ps1.sky_keys import Window

__all__ = [
    "CHUNK",
    "PixelLayout",
    "codecs_json",
    "encode_shard",
    "layout_of_document",
    "read_window",
]

CHUNK = 512
"""Pixels of a chunk along either axis."""

_LEVEL = 3
# The largest images of the survey have 6,501 pixels along an axis.
_MOST_PIXELS = 1 << 15
_TYPES = {"int16": np.int16, "uint16": np.uint16, "float32": np.float32}


@dataclass(frozen=True)
class PixelLayout:
    """How an array is cut into chunks.

    Attributes
    ----------
    shape
        (ny, nx) of the image.
    dtype
        ``int16``, ``uint16``, or ``float32`` for pixels whose integers are lost.
    fill
        What fills chunks up beyond the image; None for NaN.
    """

    shape: tuple[int, int]
    dtype: str
    fill: int | None = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Chunks along y and x."""
        return -(-self.shape[0] // CHUNK), -(-self.shape[1] // CHUNK)

    @property
    def n_chunks(self) -> int:
        """Chunks of the array."""
        rows, columns = self.grid
        return rows * columns

    @property
    def shard_shape(self) -> tuple[int, int]:
        """Shape of the one shard: whole chunks."""
        rows, columns = self.grid
        return rows * CHUNK, columns * CHUNK

    @property
    def pixel_type(self) -> np.dtype[Any]:
        """The numpy type of a pixel in memory."""
        return np.dtype(_TYPES[self.dtype])

    @property
    def fill_json(self) -> int | str:
        """The fill value as ``zarr.json`` spells it."""
        return "NaN" if self.fill is None else self.fill


def layout_of_document(document: Mapping[str, Any], *, where: str) -> PixelLayout:
    """Read how an array is cut from its ``zarr.json``.

    Raises
    ------
    MetadataCorrupt
        It is no array of skycells as this package writes them.
    """
    try:
        shape = tuple(document["shape"])
        dtype = document["data_type"]
        fill = document["fill_value"]
        grid = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
        chunk = tuple(document["codecs"][0]["configuration"]["chunk_shape"])
    except (KeyError, TypeError, IndexError) as error:
        msg = f"the metadata of {where} is none of an array of a skycell: {error!r}"
        raise MetadataCorrupt(msg) from error
    sizes = len(shape) == 2 and all(type(n) is int and 0 < n <= _MOST_PIXELS for n in shape)
    fills = fill == "NaN" if dtype == "float32" else type(fill) is int
    if not sizes or not isinstance(dtype, str) or dtype not in _TYPES or not fills:
        msg = (
            f"the metadata of {where} is damaged: shape {str(shape)[:60]}, type "
            f"{str(dtype)[:20]!r} and fill value {str(fill)[:20]!r} are none of a skycell"
        )
        raise MetadataCorrupt(msg)
    made = PixelLayout((shape[0], shape[1]), dtype, None if fill == "NaN" else fill)
    if grid != made.shard_shape or chunk != (CHUNK, CHUNK):
        msg = f"the metadata of {where} is damaged: shards {grid} of chunks {chunk}"
        raise MetadataCorrupt(msg)
    return made


def codecs_json(layout: PixelLayout) -> list[dict[str, Any]]:
    """Return the codecs of an array as its ``zarr.json`` spells them."""
    size = layout.pixel_type.itemsize
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    compressor = {
        "typesize": size,
        "cname": "zstd",
        "clevel": _LEVEL,
        "shuffle": "shuffle",
        "blocksize": CHUNK * CHUNK * size,
    }
    configuration = {
        "chunk_shape": [CHUNK, CHUNK],
        "codecs": [little, {"name": "blosc", "configuration": compressor}, {"name": "crc32c"}],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": configuration}]


def encode_shard(pixels: NDArray[Any], layout: PixelLayout) -> Iterator[bytes]:
    """Yield a shard piece by piece: every chunk in C order, then the index.

    Parameters
    ----------
    pixels
        (ny, nx), of the type of the layout, in any byte order.
    layout
        How to cut them.

    Yields
    ------
    bytes
        To be written one after the other; no more than a chunk is held at a time.

    Raises
    ------
    UsageError
        Shape or type differ.
    """
    if pixels.shape != layout.shape or pixels.dtype.newbyteorder("=") != layout.pixel_type:
        msg = (
            f"pixels of shape {pixels.shape} and type {pixels.dtype} do not fit an array of shape "
            f"{layout.shape} and type {layout.dtype}"
        )
        raise UsageError(msg)
    entries: list[int] = []
    at = 0
    chunk = np.empty((CHUNK, CHUNK), dtype=layout.pixel_type.newbyteorder("<"))
    for slot in range(layout.n_chunks):
        row, column = divmod(slot, layout.grid[1])
        part = pixels[row * CHUNK : (row + 1) * CHUNK, column * CHUNK : (column + 1) * CHUNK]
        if part.shape != chunk.shape:
            chunk[...] = np.nan if layout.fill is None else layout.fill
        chunk[: part.shape[0], : part.shape[1]] = part
        data = _compressed(chunk)
        entries += (at, len(data))
        at += len(data)
        yield data
    yield sealed(np.array(entries, dtype="<u8").tobytes())


def _compressed(chunk: NDArray[Any]) -> bytes:
    packed = numcodecs.blosc.compress(
        chunk, b"zstd", _LEVEL, numcodecs.blosc.SHUFFLE, chunk.nbytes, chunk.itemsize
    )
    return sealed(bytes(packed))


def read_window(
    read: Callable[[int, int], bytes],
    index: NDArray[np.uint64],
    layout: PixelLayout,
    window: Window,
    *,
    where: str,
    threads: int = 1,
) -> NDArray[Any]:
    """Read a window of an array, and of its chunks only those that it touches.

    Parameters
    ----------
    read
        Returns so many bytes of the shard from a first one on.
    index
        Of the shard, checked.
    layout
        How it is cut.
    window
        Rows and columns, inside the image.
    where
        The shard's file, for the sentence of an error.
    threads
        How many decode at once.

    Returns
    -------
    ndarray
        Pixels as stored; every chunk's crc32c has been verified.

    Raises
    ------
    ChunkMissing
        A chunk is not in the shard.
    ChunkCorrupt
        A chunk is damaged.
    """
    rows, columns = window
    out = np.empty((rows.stop - rows.start, columns.stop - columns.start), layout.pixel_type)
    first, last = columns.start // CHUNK, (columns.stop - 1) // CHUNK

    def task(row: int) -> Callable[[], None]:
        def run() -> None:
            slots = range(row * layout.grid[1] + first, row * layout.grid[1] + last + 1)
            for slot, data in _stored(read, index, slots, where=where):
                _paste(data, slot, layout, window, out, where=where)

        return run

    wanted = range(rows.start // CHUNK, (rows.stop - 1) // CHUNK + 1)
    shared([task(row) for row in wanted], threads)
    return out


def _stored(
    read: Callable[[int, int], bytes], index: NDArray[np.uint64], slots: range, *, where: str
) -> Iterator[tuple[int, bytes]]:
    """Yield the bytes of neighbouring chunks, read at once where they lie one after the other."""
    places = [(int(offset), int(length)) for offset, length in index[slots.start : slots.stop]]
    for slot, (offset, _) in zip(slots, places, strict=True):
        if offset == ABSENT:
            msg = f"chunk {slot} is missing from {where}; repair the store"
            raise ChunkMissing(msg)
    begin = places[0][0]
    ends = [offset + length for offset, length in places]
    if [begin, *ends[:-1]] == [offset for offset, _ in places]:
        data = read(begin, ends[-1] - begin)
        for slot, (offset, length) in zip(slots, places, strict=True):
            yield slot, data[offset - begin : offset - begin + length]
        return
    for slot, (offset, length) in zip(slots, places, strict=True):
        yield slot, read(offset, length)


def _paste(
    data: bytes,
    slot: int,
    layout: PixelLayout,
    window: Window,
    out: NDArray[Any],
    *,
    where: str,
) -> None:
    """Decode one chunk and put what the window has of it in its place."""
    words = np.empty(CHUNK * CHUNK * layout.pixel_type.itemsize // 4, dtype=np.float32)
    decode_chunk(data, words, "zstd", where=f"chunk {slot} of {where}")
    chunk = words.view(layout.pixel_type.newbyteorder("<")).reshape(CHUNK, CHUNK)
    corner = divmod(slot, layout.grid[1])
    target, source = [], []
    for at, part in zip(corner, window, strict=True):
        begin, end = max(at * CHUNK, part.start), min((at + 1) * CHUNK, part.stop)
        target.append(slice(begin - part.start, end - part.start))
        source.append(slice(begin - at * CHUNK, end - at * CHUNK))
    out[tuple(target)] = chunk[tuple(source)]
