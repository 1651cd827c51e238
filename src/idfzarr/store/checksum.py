"""crc32c, the checksum at the end of every chunk, index and ledger line.

The checksum is that of RFC 3720, appendix B.4, as the Zarr v3 codec ``crc32c`` stores it: four
bytes, little endian, after the bytes it covers.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import google_crc32c

if TYPE_CHECKING:
    from idfzarr.store.place import Buffer

__all__ = ["CRC_BYTES", "RESIDUE", "crc32c", "is_intact", "sealed"]

CRC_BYTES = 4
"""How many bytes the checksum takes."""

RESIDUE = 0x48674BC7
"""crc32c of any bytes followed by their own crc32c: one pass over a chunk tells."""

_LITTLE = struct.Struct("<I")


def crc32c(data: Buffer) -> int:
    """Return the crc32c of some bytes."""
    return int(google_crc32c.value(bytes(data)))


def sealed(data: bytes) -> bytes:
    """Return the bytes with their crc32c after them."""
    return data + _LITTLE.pack(google_crc32c.value(data))


def is_intact(data: bytes) -> bool:
    """Say whether bytes that end in their crc32c are whole."""
    return len(data) >= CRC_BYTES and google_crc32c.value(data) == RESIDUE
