"""One shard as bytes: encoding, the index, chunks. Pure functions, no files.

A shard of ``lightcurves`` is, by the Zarr v3 codec ``sharding_indexed``
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/), its inner chunks one
after the other, then an index of (offset, length) for every chunk in C order, uint64 little endian,
then the index's crc32c. Every inner chunk is float32 little endian, compressed or not, then its own
crc32c. A chunk that is not there has 2**64 - 1 twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numcodecs.blosc
import numpy as np

from idfzarr.errors import ChunkCorrupt, ShardCorrupt, UsageError, closest
from idfzarr.store.checksum import CRC_BYTES, is_intact, sealed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from idfzarr.store.layout import Layout

__all__ = [
    "ABSENT",
    "ERR_BITS",
    "Codec",
    "chunk_codecs",
    "codec_of",
    "decode_chunk",
    "decode_shard",
    "encode_chunk",
    "encode_shard",
    "flux_quantum",
    "index_bytes",
    "join_chunks",
    "parse_index",
    "reduce_precision",
    "round_mantissa",
    "sharding_codecs",
]

Codec = Literal["lz4", "zstd", "none"]
"""How inner chunks are compressed: blosc with bit shuffle and LZ4 or Zstandard, or not at all."""

ABSENT = 2**64 - 1
"""Offset and length of a chunk that is not in the shard."""

# Measured on realistic lightcurves: LZ4 at 9 makes chunks 2 to 4 % smaller than at 5 for a third
# more time, and they decode as fast; Zstandard at 5 takes 4 times as long as at 2 for 0.5 %.
_LEVELS = {"lz4": 9, "zstd": 2}
_ENTRY = 16  # bytes of one (offset, length)
_BLOSC_HEADER = 16
_MOST_BLOSC_BYTES = 2**31 - 1 - _BLOSC_HEADER
ERR_BITS = 6
"""Bits of mantissa an error bar keeps; 2**-7 is the largest relative error of that rounding."""

_F32_BITS = 23


def checked_codec(codec: str) -> Codec:
    """Return the codec's name; raises `UsageError` where there is none of that name."""
    for known in get_args(Codec):
        if codec == known:
            return known  # type: ignore[no-any-return]
    names = get_args(Codec)
    msg = f"there is no codec {codec!r}{closest(codec, names)}; one of {', '.join(names)}"
    raise UsageError(msg)


def chunk_codecs(codec: Codec) -> list[dict[str, Any]]:
    """Return the codec chain of an inner chunk as ``zarr.json`` spells it."""
    chain: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if codec != "none":
        configuration = {
            "typesize": 4,
            "cname": codec,
            "clevel": _LEVELS[codec],
            "shuffle": "bitshuffle",
            "blocksize": 0,
        }
        chain.append({"name": "blosc", "configuration": configuration})
    return [*chain, {"name": "crc32c"}]


def sharding_codecs(codec: Codec, chunk_shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Return the sharding codec of ``lightcurves`` as ``zarr.json`` spells it."""
    index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    configuration = {
        "chunk_shape": list(chunk_shape),
        "codecs": chunk_codecs(codec),
        "index_codecs": index,
        "index_location": "end",
    }
    return [{"name": "sharding_indexed", "configuration": configuration}]


def codec_of(chain: object) -> Codec | None:
    """Return which of our codecs a chain is, None for another.

    Blosc chunks say in their header how they were made, so any shuffle, level, block size or inner
    compressor decodes alike; those are reported as ``lz4`` unless they are Zstandard.
    """
    if not isinstance(chain, list) or not all(isinstance(link, dict) for link in chain):
        return None
    names = [link.get("name") for link in chain]
    if not names or chain[0].get("configuration", {}).get("endian") != "little":
        return None
    if names == ["bytes", "crc32c"]:
        return "none"
    if names == ["bytes", "blosc", "crc32c"]:
        return "zstd" if chain[1].get("configuration", {}).get("cname") == "zstd" else "lz4"
    return None


def encode_chunk(values: NDArray[np.float32], codec: Codec) -> bytes:
    """Encode one inner chunk.

    Parameters
    ----------
    values
        Float32, C order, the whole chunk.
    codec
        How to compress it.

    Returns
    -------
    bytes
        With crc32c.
    """
    if codec == "none":
        return sealed(values.astype("<f4", copy=False).tobytes())
    # One block per chunk: blosc then works in one thread and the bytes are the same in any process.
    compressed = numcodecs.blosc.compress(
        values, codec.encode(), _LEVELS[codec], numcodecs.blosc.BITSHUFFLE, values.nbytes, 4
    )
    return sealed(bytes(compressed))


def decode_chunk(
    data: bytes, out: NDArray[np.float32], codec: Codec, *, where: str
) -> NDArray[np.float32]:
    """Decode one inner chunk into an array.

    Parameters
    ----------
    data
        Bytes of the chunk with crc32c.
    out
        Float32, C order, as large as the chunk; filled and returned.
    codec
        How it was compressed.
    where
        Array, object, type and file, for the sentence of an error.

    Returns
    -------
    ndarray of float32
        `out`.

    Raises
    ------
    ChunkCorrupt
        The bytes do not match their checksum, or are no such chunk.
    """
    if not is_intact(data):
        msg = f"{where} is damaged: its bytes do not match their crc32c; repair the store"
        raise ChunkCorrupt(msg)
    size = len(data) - CRC_BYTES
    if codec == "none":
        if size != out.nbytes:
            msg = f"{where} has {size} bytes, not {out.nbytes}; repair the store"
            raise ChunkCorrupt(msg)
        out.reshape(-1)[:] = np.frombuffer(data, dtype="<f4", count=out.size)
        return out
    if size < _BLOSC_HEADER or int.from_bytes(data[4:8], "little") != out.nbytes:
        msg = f"{where} is no blosc chunk of {out.nbytes} bytes; repair the store"
        raise ChunkCorrupt(msg)
    try:
        numcodecs.blosc.decompress(data[:-CRC_BYTES], out)
    except (RuntimeError, ValueError) as error:
        msg = f"{where} cannot be decompressed ({error}); repair the store"
        raise ChunkCorrupt(msg) from error
    return out


def index_bytes(n_chunks: int) -> int:
    """Return the size of a shard's index with its crc32c."""
    return n_chunks * _ENTRY + CRC_BYTES


def join_chunks(chunks: Iterable[bytes | None]) -> bytes:
    """Return a shard of encoded chunks: the chunks in order, then the index.

    Parameters
    ----------
    chunks
        Bytes of every chunk the shard has room for, in C order; None for one that is not there.

    Returns
    -------
    bytes
        The whole shard.
    """
    parts: list[bytes] = []
    entries: list[int] = []
    at = 0
    for chunk in chunks:
        if chunk is None:
            entries += (ABSENT, ABSENT)
        else:
            parts.append(chunk)
            entries += (at, len(chunk))
            at += len(chunk)
    parts.append(sealed(np.array(entries, dtype="<u8").tobytes()))
    return b"".join(parts)


def encode_shard(
    block: NDArray[np.float32], layout: Layout, *, codec: Codec, room: int | None = None
) -> bytes:
    """Encode the block of one shard.

    Parameters
    ----------
    block
        (rows, type, value, aor) float32: the rows that exist, fewer than S in the last shard, and
        the AORs that exist; the room up to C is filled with NaN.
    layout
        Shape of the cube.
    codec
        How to compress the chunks.
    room
        Rows the shard has room for, S of the layout unless given.

    Returns
    -------
    bytes
        The whole shard, every chunk of an existing row written, all-NaN ones too.

    Raises
    ------
    UsageError
        The block has another shape.
    """
    rows, n_types, n_values, n_aors = block.shape
    room = layout.shard_objects if room is None else room
    if (n_types, n_values, n_aors) != layout.shape[1:] or not 0 < rows <= room:
        msg = (
            f"a block of shape {block.shape} does not fit a cube of shape {layout.shape} in "
            "shards of "
            f"{layout.shard_objects} objects"
        )
        raise UsageError(msg)
    return join_chunks(_encoded(block, layout, codec, room))


def _encoded(
    block: NDArray[np.float32], layout: Layout, codec: Codec, room: int
) -> Iterator[bytes | None]:
    chunk = np.full(layout.chunk_shape[2:], np.nan, dtype=np.float32)
    filled = chunk[:, : block.shape[3]]
    for row in block:
        for values in row:
            filled[...] = values
            yield encode_chunk(chunk, codec)
    for _ in range((room - len(block)) * layout.n_types):
        yield None


def parse_index(tail: bytes, n_chunks: int, shard_size: int, *, where: str) -> NDArray[np.uint64]:
    """Verify the index of a shard and return it.

    Parameters
    ----------
    tail
        The last `index_bytes` bytes of the shard.
    n_chunks
        Chunks the shard has room for.
    shard_size
        Size of the whole shard in bytes.
    where
        The shard's file, for the sentence of an error.

    Returns
    -------
    ndarray of uint64
        (n_chunks, 2): offset and length, or `ABSENT` twice.

    Raises
    ------
    ShardCorrupt
        The index is cut off, does not match its crc32c, or points beyond the shard.
    """
    if len(tail) != index_bytes(n_chunks):
        msg = (
            f"the shard {where} is cut off: it has {shard_size} bytes, its index alone takes "
            f"{index_bytes(n_chunks)}; repair the store"
        )
        raise ShardCorrupt(msg)
    if not is_intact(tail):
        msg = f"the index of the shard {where} does not match its crc32c; repair the store"
        raise ShardCorrupt(msg)
    index = np.frombuffer(tail, dtype="<u8", count=2 * n_chunks).reshape(n_chunks, 2)
    offset, length = index.T
    absent = (offset == ABSENT) & (length == ABSENT)
    end = np.uint64(shard_size - len(tail))
    inside = (length <= end) & (offset <= end) & (offset <= end - np.minimum(length, end))
    if not np.all(absent | inside):
        slot = int(np.flatnonzero(~(absent | inside))[0])
        msg = f"the index of the shard {where} points beyond it at entry {slot}; repair the store"
        raise ShardCorrupt(msg)
    return index


def decode_shard(
    data: bytes, layout: Layout, rows: int, *, codec: Codec, where: str
) -> NDArray[np.float32]:
    """Decode all rows of a shard.

    Parameters
    ----------
    data
        The whole shard.
    layout
        Shape of the cube.
    rows
        Rows of this shard that exist.
    codec
        How its chunks are compressed.
    where
        The shard's file, for the sentence of an error.

    Returns
    -------
    ndarray of float32
        (rows, type, value, aor); NaN where a chunk is not there.

    Raises
    ------
    ShardCorrupt, ChunkCorrupt
        The index or a chunk is damaged.
    """
    n_chunks = layout.chunks_per_shard
    tail = data[max(0, len(data) - index_bytes(n_chunks)) :]
    index = parse_index(tail, n_chunks, len(data), where=where)
    block = np.full((rows, *layout.shape[1:]), np.nan, dtype=np.float32)
    chunk = np.empty(layout.chunk_shape[2:], dtype=np.float32)
    for slot in range(rows * layout.n_types):
        offset, length = (int(n) for n in index[slot])
        if offset == ABSENT:
            continue
        row, column = divmod(slot, layout.n_types)
        name = f"chunk {slot} (row {row}, type {column}) of {where}"
        decode_chunk(data[offset : offset + length], chunk, codec, where=name)
        block[row, column] = chunk[:, : layout.n_aors]
    return block


def round_mantissa(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Round floats to so many bits of mantissa, to nearest, ties to even.

    Parameters
    ----------
    values
        Float32, any shape.
    bits
        Bits of the mantissa to keep, 0 to 23.

    Returns
    -------
    ndarray of float32
        Within a relative 2**-(bits + 1) of the values; NaN and infinity as they were. Rounding
        again changes nothing.

    Raises
    ------
    UsageError
        There are no so many bits.
    """
    if not 0 <= bits <= _F32_BITS:
        msg = f"{bits} bits of mantissa cannot be kept: a float32 has 0 to {_F32_BITS}"
        raise UsageError(msg)
    mantissa, exponent = np.frexp(values)  # 0.5 <= |mantissa| < 1
    step = np.float32(2.0 ** (bits + 1))
    with np.errstate(over="ignore"):
        rounded = np.ldexp(np.round(mantissa * step) / step, exponent)
    # The largest floats would round up to infinity; they stay.
    return np.where(np.isfinite(rounded), rounded, values).astype(np.float32)


def reduce_precision(
    flux: NDArray[np.float32], flux_err: NDArray[np.float32], fraction: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Round flux to a fraction of its error bar and the error to six bits, 0.8 %.

    Every flux is rounded to a multiple of a power of two of its own, the largest that moves it by
    at most `fraction` of its error. Doing it again changes nothing, so columns that are already in
    a cube keep their values when it is appended to.

    Parameters
    ----------
    flux, flux_err
        Float32, the same shape.
    fraction
        The largest change of a flux, in error bars.

    Returns
    -------
    tuple of ndarray
        Flux and error, rounded; a flux without a positive, finite error stays as it is.
    """
    error = round_mantissa(flux_err, ERR_BITS)
    usable = np.isfinite(error) & (error > 0) & np.isfinite(flux)
    quantum = flux_quantum(np.where(usable, error, 1), fraction)
    wide = np.where(usable, flux, 0).astype(np.float64)
    rounded = (np.round(wide / quantum) * quantum).astype(np.float32)
    return np.where(usable, rounded, flux).astype(np.float32), error


def flux_quantum(error: NDArray[np.floating[Any]], fraction: float) -> NDArray[np.float64]:
    """Return the power of two that a flux is rounded to a multiple of.

    Parameters
    ----------
    error
        Its error bar as it is stored, rounded and positive.
    fraction
        The largest change of the flux, in error bars.

    Returns
    -------
    ndarray of float64
        The largest that moves a flux by at most `fraction` of its error.
    """
    # The error bar that is stored may be larger than the true one by 2**-(bits + 1).
    bar = error.astype(np.float64) / (1 + 2.0 ** -(ERR_BITS + 1))
    quantum: NDArray[np.float64] = np.exp2(np.floor(np.log2(2 * fraction * bar)))
    return quantum
