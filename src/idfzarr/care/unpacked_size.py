"""What a compressed chunk claims to become, read from its header without decompressing it.

A chunk of a few bytes may unpack to any size. Blosc, Zstandard, gzip and LZ4 say beforehand how
many bytes will come out; Deflate, bzip2 and LZMA can be asked to stop after so many.

Sources: https://github.com/Blosc/c-blosc/blob/main/README_CHUNK_FORMAT.rst ,
RFC 8878 section 3.1.1 (Zstandard), RFC 1952 section 2.3 (gzip), RFC 1950 (zlib).
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["HEAD", "claimed_bytes", "unpacks_within"]

HEAD = 18
"""Bytes of a chunk's head that `claimed_bytes` needs."""

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_BLOCK = 1 << 17
_STEP = 1 << 20
_STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(16 + zlib.MAX_WBITS),
    "zlib": zlib.decompressobj,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lambda: lzma.LZMADecompressor(memlimit=1 << 26),
}


def claimed_bytes(codec: str, head: bytes, tail: bytes) -> int | None:
    """Return the size that a chunk claims to have when decompressed.

    Parameters
    ----------
    codec
        Name of the compressor, of Zarr v3 or of numcodecs.
    head
        The first `HEAD` bytes of the chunk, or all of a shorter one.
    tail
        Its last four bytes, without any checksum of ours.

    Returns
    -------
    int or None
        None where the format does not say, or where these bytes are none of it.
    """
    name = codec.removeprefix("numcodecs.")
    if name == "blosc" and len(head) >= 16:
        return int.from_bytes(head[4:8], "little")
    if name == "lz4" and len(head) >= 4:
        return int.from_bytes(head[:4], "little")
    if name == "zstd":
        return _zstd_size(head)
    if name == "gzip" and head[:2] == _GZIP_MAGIC and len(tail) == 4:
        return int.from_bytes(tail, "little")  # of the last member, modulo 2**32
    return None


def _zstd_size(head: bytes) -> int | None:
    """Return the content size in the header of a frame (RFC 8878, 3.1.1.1)."""
    if head[:4] != _ZSTD_MAGIC or len(head) < 6:
        return None
    width = (int(bool(head[4] & 0x20)), 2, 4, 8)[head[4] >> 6]
    at = _zstd_fields(head[4])
    if not width or len(head) < at + width:
        return None
    return int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)


def _zstd_fields(descriptor: int) -> int:
    """Return where the content size begins: after the window's and the dictionary's fields."""
    return 5 + (0 if descriptor & 0x20 else 1) + (0, 1, 2, 4)[descriptor & 3]


def unpacks_within(codec: str, data: bytes, most: int) -> bool | None:
    """Say whether a chunk unpacks to no more than so many bytes, in bounded memory.

    Parameters
    ----------
    codec
        Name of the compressor.
    data
        The chunk without checksums around it.
    most
        Bytes that it may become.

    Returns
    -------
    bool or None
        None where that cannot be told without decompressing it without bound.
    """
    name = codec.removeprefix("numcodecs.")
    if name in _STREAMS:
        return _stream_within(_STREAMS[name], data, most)
    claimed = claimed_bytes(codec, data[:HEAD], data[-4:])
    if claimed is not None:
        return claimed <= most
    if name == "zstd" and data[:4] == _ZSTD_MAGIC and len(data) > 5:
        return True if _zstd_bound(data) <= most + _ZSTD_BLOCK else None
    return None


def _zstd_bound(data: bytes) -> int:
    """Return what a frame unpacks to at most, by the headers of its blocks (RFC 8878, 3.1.1.2)."""
    at = _zstd_fields(data[4])
    total = 0
    while at + 3 <= len(data):
        header = int.from_bytes(data[at : at + 3], "little")
        kind, size = (header >> 1) & 3, header >> 3
        total += _ZSTD_BLOCK if kind == 2 else size
        at += 3 + (1 if kind == 1 else size)
        if header & 1:
            break
    return total


def _stream_within(opened: Callable[[], Any], data: bytes, most: int) -> bool | None:
    """Unpack piece by piece and throw it away; what is damaged is left to the decoder to tell."""
    total, rest = 0, data
    try:
        while rest and total <= most:
            stream = opened()
            while not stream.eof and total <= most:
                out = stream.decompress(rest, _STEP)
                total += len(out)
                rest = getattr(stream, "unconsumed_tail", b"")
                if not out and not rest:
                    break
            rest = stream.unused_data if stream.eof else b""
    except lzma.LZMAError:  # damaged, or without the header that says what is inside
        return None
    except (zlib.error, OSError, EOFError, ValueError):
        return total <= most
    return total <= most
