"""The bits of a Pan-STARRS1 mask, by name.

A mask's header carries its own table: MSKNAMnn and MSKVALnn, MSKNUM of them. Where it does not,
the table of the survey stands in (Flewelling et al. 2020, ApJS 251, 7; Waters et al. 2020,
ApJS 251, 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UnknownName, closest
from idfzarr.ps1.headers import card_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = ["SURVEY_BITS", "MaskBits", "mask_bits"]

SURVEY_BITS: tuple[tuple[str, int], ...] = (
    ("DETECTOR", 1),
    ("FLAT", 2),
    ("DARK", 4),
    ("BLANK", 8),
    ("CTE", 16),
    ("SAT", 32),
    ("LOW", 64),
    ("SUSPECT", 128),
    ("BURNTOOL", 128),
    ("CR", 256),
    ("SPIKE", 512),
    ("GHOST", 1024),
    ("STREAK", 2048),
    ("STARCORE", 4096),
    ("CONV.BAD", 8192),
    ("CONV.POOR", 16384),
    ("MASK.VALUE", 8575),
    ("MARK.VALUE", 32768),
)
"""Names and values of the survey, in the order of its headers."""

_ALL_BITS = 0xFFFF
_BAD = "MASK.VALUE"
_BAD_FALLBACK = dict(SURVEY_BITS)[_BAD]
_MAX_NAMES = 100


@dataclass(frozen=True)
class MaskBits:
    """Which bit means what.

    Attributes
    ----------
    names
        Names and values as in the header, in its order; a value may be several bits
        (``MASK.VALUE``: what the survey itself leaves out), and two names may share one.
    from_header
        Whether they come from the header, not from `SURVEY_BITS`.
    """

    names: tuple[tuple[str, int], ...]
    from_header: bool

    @property
    def bad(self) -> int:
        """The bits of pixels without use: ``MASK.VALUE``."""
        return dict(self.names).get(_BAD, _BAD_FALLBACK)

    def value(self, *names: str) -> int:
        """Return the bits of several names together.

        Raises
        ------
        UnknownName
            The table has no such name.
        """
        known = {name.upper(): value for name, value in self.names}
        total = 0
        for name in names:
            if name.upper() not in known:
                msg = f"there is no mask bit {name!r}{closest(name.upper(), known)}"
                raise UnknownName(msg)
            total |= known[name.upper()]
        return total

    def single(self) -> tuple[tuple[str, int], ...]:
        """Return each single bit once, ascending, with its names joined by an underscore."""
        found: dict[int, list[str]] = {}
        for name, value in self.names:
            if value & (value - 1) == 0:
                found.setdefault(value, []).append(name)
        return tuple(("_".join(found[bit]), bit) for bit in sorted(found))

    def attributes(self) -> dict[str, Any]:
        """Return the CF attributes ``flag_masks`` (integers) and ``flag_meanings``.

        Meanings are in lower case, and what CF does not allow in one becomes an underscore
        (CF Conventions 1.11, section 3.5).
        """
        bits = self.single()
        return {
            "flag_masks": [value for _, value in bits],
            "flag_meanings": " ".join(_word(name) for name, _ in bits),
        }

    def where(self, mask: ArrayLike, names: Iterable[str] | None = None) -> NDArray[np.bool_]:
        """Return where a mask has one of the named bits; without names, where pixels are bad.

        Raises
        ------
        UnknownName
            The table has no such name.
        """
        bits = self.bad if names is None else self.value(*names)
        return np.asarray((np.asarray(mask).astype(np.int64) & bits) != 0)


def _word(name: str) -> str:
    return "".join(
        c if c.isascii() and (c.isalnum() or c in "_-.+@") else "_" for c in name
    ).lower()


def mask_bits(header: Mapping[str, Any] | None = None) -> MaskBits:
    """Return the mask bits that a header names, or those of the survey where it names none.

    Parameters
    ----------
    header
        Of any image or mask of the survey: names of cards to their values.

    Returns
    -------
    MaskBits
        Rows of the header without a name, or without a value of 1 to 65535, are left out.
    """
    found: list[tuple[str, int]] = []
    cards: Mapping[str, Any] = {} if header is None else header
    for number in range(_MAX_NAMES):
        name = card_value(cards, f"MSKNAM{number:02d}")
        value = card_value(cards, f"MSKVAL{number:02d}")
        if not isinstance(name, str) or not name.strip() or isinstance(value, bool):
            continue
        if isinstance(value, (int, np.integer)) and 0 < int(value) <= _ALL_BITS:
            found.append((name.strip(), int(value)))
    if not found:
        return MaskBits(names=SURVEY_BITS, from_header=False)
    return MaskBits(names=tuple(found), from_header=True)
