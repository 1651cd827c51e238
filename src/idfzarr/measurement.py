"""Measurement types: how a lightcurve was measured, as a name and as its parts.

A type is named ``{channel}_{method}_{image}``, for example ``ch1_aper2_original``.

========== =====================================================================
method     what it is
========== =====================================================================
auto       Kron ellipse of the superstack (2.5 Kron radii, at least 3.5 moments)
iso        the pixels of the object's segment on the superstack
aper1..8   circle of radius 2, 3, 4, 5, 6, 8, 10, 12 superstack pixels
r{R}       circle of any other radius R in superstack pixels, as ``r3.5``
psf        matched filter with the superstack's own PSF
median{A}  clipped median of the nearest A pixels, A = 3, 7, 13, 20 (ratio images)
biweight{A} biweight location of the nearest A pixels (ratio images)
========== =====================================================================

========== =====================================================================
image      what is measured
========== =====================================================================
original   the mosaic, background removed
clean      the same with cosmic rays replaced
ratio      mosaic over superstack
diff       mosaic minus superstack
========== =====================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, cast

from idfzarr.errors import UnknownName, UsageError, closest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "APERTURE_RADII",
    "IMAGES",
    "ImageKind",
    "Measurement",
    "default_measurements",
    "parse_measurement",
    "select_types",
]

ImageKind = Literal["original", "clean", "ratio", "diff"]

IMAGES: tuple[ImageKind, ...] = ("original", "clean", "ratio", "diff")
"""The images a type can be measured on."""

APERTURE_RADII: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)
"""Radii of aper1..aper8, in superstack pixels."""

_STATISTIC_AREAS = (3, 7, 13, 20)
_DEFAULT_METHODS = ("auto", "iso", *(f"aper{n}" for n in range(1, len(APERTURE_RADII) + 1)))
_CHANNEL = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_STATISTIC = re.compile(r"(median|biweight)(\d+)")
_RADIUS = re.compile(r"r(\d+(?:\.\d+)?)")


@dataclass(frozen=True, order=True)
class Measurement:
    """One measurement type.

    Parameters
    ----------
    channel
        ``ch1``, ``ch2``, or any identifier without an underscore.
    method
        See the table at the head of this module.
    image
        What is measured.

    Raises
    ------
    UsageError
        The parts do not name a measurement.

    Examples
    --------
    >>> Measurement("ch1", "aper2", "original").radius
    3.0
    """

    channel: str
    method: str
    image: ImageKind

    def __post_init__(self) -> None:
        if not _CHANNEL.fullmatch(self.channel):
            msg = (
                f"{self.channel!r} cannot be a channel: use letters and digits, a letter first, "
                "no underscore"
            )
            raise UsageError(msg)
        if self.image not in IMAGES:
            known = ", ".join(IMAGES)
            msg = f"{self.image!r} is no image{closest(self.image, IMAGES)}; one of {known}"
            raise UsageError(msg)
        if self.statistic is not None:
            if self.image != "ratio":
                msg = f"{self.method} is measured on ratio images only, not on {self.image!r}"
                raise UsageError(msg)
        elif self.method not in ("auto", "iso", "psf") and self.radius is None:
            msg = (
                f"{self.method!r} is no method{closest(self.method, _DEFAULT_METHODS)}; use auto, "
                "iso, psf, aper1..aper8, a radius such as r3.5, or median7 and biweight7 on ratio "
                "images"
            )
            raise UsageError(msg)
        elif self.image == "ratio":
            msg = (
                f"{self.method} is a sum, and ratio images have none: "
                "use median or biweight with an area"
            )
            raise UsageError(msg)

    @property
    def name(self) -> str:
        """The name, ``{channel}_{method}_{image}``."""
        return f"{self.channel}_{self.method}_{self.image}"

    @property
    def radius(self) -> float | None:
        """Radius of a circular aperture in superstack pixels; None for other methods."""
        if self.method.startswith("aper"):
            number = self.method.removeprefix("aper")
            if number.isdigit() and 1 <= int(number) <= len(APERTURE_RADII):
                return APERTURE_RADII[int(number) - 1]
            return None
        match = _RADIUS.fullmatch(self.method)
        return float(match[1]) if match and float(match[1]) > 0 else None

    @property
    def statistic(self) -> tuple[str, int] | None:
        """(``median`` or ``biweight``, number of pixels) of a robust statistic; else None."""
        match = _STATISTIC.fullmatch(self.method)
        if match and int(match[2]) in _STATISTIC_AREAS:
            return match[1], int(match[2])
        return None

    def __str__(self) -> str:
        return self.name


def parse_measurement(name: str) -> Measurement:
    """Take a type's name apart.

    Parameters
    ----------
    name
        ``{channel}_{method}_{image}``.

    Returns
    -------
    Measurement
        Its parts.

    Raises
    ------
    UsageError
        The name is not of that form, or a part is unknown.

    Examples
    --------
    >>> parse_measurement("ch2_r3.5_clean").radius
    3.5
    """
    parts = name.split("_")
    if len(parts) != 3:
        msg = (
            f"{name!r} is no measurement type: "
            "it must be CHANNEL_METHOD_IMAGE, as ch1_auto_original"
        )
        raise UsageError(msg)
    channel, method, image = parts
    return Measurement(channel, method, cast("ImageKind", image))


def default_measurements(channels: Sequence[str] = ("ch1", "ch2")) -> tuple[Measurement, ...]:
    """Return the default types of the channels: 20 for each.

    Parameters
    ----------
    channels
        The channels, in order.

    Returns
    -------
    tuple of Measurement
        Channel by channel, original before clean, auto, iso, aper1..aper8.

    Examples
    --------
    >>> len(default_measurements())
    40
    """
    images: tuple[ImageKind, ...] = ("original", "clean")
    return tuple(
        Measurement(channel, method, image)
        for channel in channels
        for image in images
        for method in _DEFAULT_METHODS
    )


def select_types(known: Sequence[str], wanted: str | Iterable[str]) -> list[str]:
    """Choose types by name or glob.

    Parameters
    ----------
    known
        The names to choose from.
    wanted
        A name or glob, several of them, or one string with commas; ``*`` takes all.

    Returns
    -------
    list of str
        The chosen names in the order of `known`.

    Raises
    ------
    UnknownName
        A name or glob matches nothing.

    Examples
    --------
    >>> select_types(["ch1_auto_original", "ch2_auto_original"], "ch2_*")
    ['ch2_auto_original']
    """
    globs = wanted.split(",") if isinstance(wanted, str) else list(wanted)
    chosen: set[str] = set()
    for glob in (g.strip() for g in globs):
        matches = [name for name in known if fnmatchcase(name, glob)]
        if not matches:
            msg = (
                f"no type matches {glob!r}{closest(glob, known)}; "
                f"there are {len(known)}: {_short(known)}"
            )
            raise UnknownName(msg)
        chosen.update(matches)
    return [name for name in known if name in chosen]


def _short(names: Sequence[str], count: int = 6) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
