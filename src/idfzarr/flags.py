"""The flags of a measurement: one registry from which every mask, meaning and table is made.

A flag is a bit of a uint16. In the cube flags stand as exact float32 integers (every integer up to
2**24 is one); readers of this package hand out uint16.

Notes
-----
SExtractor's extraction flags (bits 1 to 128) are those of the SExtractor manual,
https://sextractor.readthedocs.io/en/latest/Flagging.html .
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import UnknownName, closest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "BAD_FLAGS",
    "FLAGS",
    "FlagDefinition",
    "flag_bit",
    "flag_mask",
    "flag_masks",
    "flag_meanings",
    "flag_names",
    "from_sextractor",
]


@dataclass(frozen=True)
class FlagDefinition:
    """One bit: its value, its name, what it means, and whether `good` drops it."""

    bit: int
    name: str
    meaning: str
    bad: bool


FLAGS: tuple[FlagDefinition, ...] = (
    FlagDefinition(1, "edge", "the aperture reaches beyond the mosaic", bad=True),
    FlagDefinition(
        2, "masked_pixels", "the aperture holds pixels that are masked or not finite", bad=False
    ),
    FlagDefinition(
        4, "low_coverage", "less than 98 % of the source's profile lies on good pixels", bad=True
    ),
    FlagDefinition(8, "saturated", "the aperture holds saturated pixels", bad=True),
    FlagDefinition(16, "neighbour", "the aperture holds pixels of another object", bad=False),
    FlagDefinition(32, "deblended", "the object was separated from a blend", bad=False),
    FlagDefinition(
        64, "background_failed", "the background of the mosaic could not be measured", bad=True
    ),
    FlagDefinition(
        128,
        "aor_bad",
        "the AOR is off: pointing, zero point or noise far from the others",
        bad=True,
    ),
    FlagDefinition(
        256, "not_observed", "no good pixel of this AOR and channel in the aperture", bad=True
    ),
    FlagDefinition(512, "not_built", "never measured: the cube has no chunk here yet", bad=True),
    FlagDefinition(
        1024, "cosmic_ray", "a cosmic ray lies in the aperture and in the flux", bad=True
    ),
    FlagDefinition(2048, "cleaned", "a cosmic ray in the aperture was replaced", bad=False),
    FlagDefinition(4096, "lost", "damaged on disk and not to be mended", bad=True),
    FlagDefinition(
        8192, "undefined", "the measurement has no value here, as a ratio to nothing", bad=True
    ),
    FlagDefinition(16384, "noise_model", "no unc mosaic: errors from a noise model", bad=False),
    FlagDefinition(
        32768, "external", "flagged as bad by the catalogue it was imported from", bad=True
    ),
)
"""All flags, in the order of their bits."""

_BY_NAME = {definition.name: definition for definition in FLAGS}

BAD_FLAGS: int = sum(definition.bit for definition in FLAGS if definition.bad)
"""The bits that ``good()`` drops unless told otherwise."""

# SExtractor bit -> names of ours (https://sextractor.readthedocs.io/en/latest/Flagging.html)
_SEXTRACTOR: dict[int, tuple[str, ...]] = {
    1: ("neighbour", "masked_pixels"),
    2: ("deblended",),
    4: ("saturated",),
    8: ("edge",),
    16: ("edge",),
    32: ("edge",),
    64: ("external",),
    128: ("external",),
}


def flag_bit(name: str) -> int:
    """Return the bit of a flag.

    Parameters
    ----------
    name
        A name from `FLAGS`.

    Returns
    -------
    int
        The bit's value, a power of two.

    Raises
    ------
    UnknownName
        There is no flag of that name.

    Examples
    --------
    >>> flag_bit("saturated")
    8
    """
    try:
        return _BY_NAME[name].bit
    except KeyError:
        msg = f"there is no flag {name!r}{closest(name, _BY_NAME)}; see idfzarr.flags.FLAGS"
        raise UnknownName(msg) from None


def flag_mask(names: Iterable[str]) -> int:
    """Return the sum of the bits of several flags.

    Parameters
    ----------
    names
        Names from `FLAGS`.

    Returns
    -------
    int
        Their bits together.

    Examples
    --------
    >>> flag_mask(["edge", "saturated"])
    9
    """
    mask = 0
    for name in names:
        mask |= flag_bit(name)
    return mask


def flag_names(value: int) -> tuple[str, ...]:
    """Return the names of the bits set in a flag.

    Parameters
    ----------
    value
        A flag, 0 to 65535.

    Returns
    -------
    tuple of str
        Names in the order of the bits.

    Examples
    --------
    >>> flag_names(9)
    ('edge', 'saturated')
    """
    return tuple(d.name for d in FLAGS if int(value) & d.bit)


def flag_masks() -> list[int]:
    """Return the bits for the CF attribute ``flag_masks``."""
    return [definition.bit for definition in FLAGS]


def flag_meanings() -> str:
    """Return the names for the CF attribute ``flag_meanings``."""
    return " ".join(definition.name for definition in FLAGS)


def from_sextractor(flags: ArrayLike) -> NDArray[np.uint16]:
    """Translate SExtractor's extraction flags into ours.

    Parameters
    ----------
    flags
        SExtractor ``FLAGS``, any shape.

    Returns
    -------
    ndarray of uint16
        The same shape.

    Examples
    --------
    >>> flag_names(from_sextractor([6])[0])
    ('saturated', 'deblended')
    """
    theirs = np.asarray(flags).astype(np.int64)
    ours = np.zeros(theirs.shape, dtype=np.uint16)
    for bit, names in _SEXTRACTOR.items():
        ours[(theirs & bit) != 0] |= np.uint16(flag_mask(names))
    return ours
