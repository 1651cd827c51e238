"""CHECKSUM and DATASUM of a FITS HDU, and an HDU put together card by card.

The sums are those of the FITS Standard 4.0, section 4.4.2.7 and appendix J: 32-bit words added in
ones' complement, the sum of the whole HDU written in ASCII so that all words add up to zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["hdu_bytes", "padded", "words_sum"]

_BLOCK, _CARD = 2880, 80
_WORD = 0xFFFFFFFF
_ZEROS = "0000000000000000"
_NO_LETTERS = (*range(0x3A, 0x41), *range(0x5B, 0x61))


def padded(data: bytes, fill: bytes = b"\0") -> bytes:
    """Return bytes filled up to whole blocks of 2,880."""
    return data.ljust(-(-len(data) // _BLOCK) * _BLOCK, fill)


def words_sum(data: bytes, start: int = 0) -> int:
    """Return the sum of big endian 32-bit words in ones' complement; length a multiple of 4."""
    total = int(np.frombuffer(data, dtype=">u4").sum(dtype=np.uint64)) + start
    while total > _WORD:
        total = (total & _WORD) + (total >> 32)
    return total


def _encoded(total: int) -> str:
    """Return the complement of a sum as 16 ASCII characters (appendix J of the standard)."""
    value = _WORD - total
    letters = [0] * 16
    for byte in range(4):
        part = (value >> (24 - 8 * byte)) & 0xFF
        quarter, rest = divmod(part, 4)
        four = [quarter + 0x30 + rest, *[quarter + 0x30] * 3]
        while any(letter in _NO_LETTERS for letter in four):
            for low in (0, 2):
                if four[low] in _NO_LETTERS or four[low + 1] in _NO_LETTERS:
                    four[low] += 1
                    four[low + 1] -= 1
        for at in range(4):
            letters[4 * at + byte] = four[at]
    # The value of the card begins in column 12, so the characters are turned by one place.
    text = "".join(map(chr, letters))
    return text[-1] + text[:-1]


def _header(cards: Iterable[str]) -> bytes:
    text = "".join(card.ljust(_CARD) for card in [*cards, "END"])
    return padded(text.encode("ascii"), b" ")


def hdu_bytes(cards: Iterable[str], data: bytes, *, checksums: bool) -> bytes:
    """Return one HDU.

    Parameters
    ----------
    cards
        80 columns each, without END.
    data
        What follows the header; it is filled up with zeros.
    checksums
        Whether to add CHECKSUM and DATASUM, in the place of those among the cards; otherwise the
        cards are taken as they stand.
    """
    body = padded(data)
    if not checksums:
        return _header(cards) + body
    kept = [card for card in cards if card[:9] not in {"CHECKSUM=", "DATASUM ="}]
    of_data = words_sum(body)
    datasum = f"DATASUM = '{of_data}'".ljust(31) + "/ data unit checksum"

    def headed(text: str) -> bytes:
        return _header([*kept, f"CHECKSUM= '{text}'   / HDU checksum", datasum])

    total = words_sum(headed(_ZEROS), of_data)
    return headed(_encoded(total)) + body
