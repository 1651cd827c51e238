"""What the arrays of skycells are called, in any store that holds them, and how they are read.

An array is the image, the mask or the weight (a variance) of one skycell in one band. It is called
``{band}``, ``{band}_mask`` or ``{band}_wt`` in the group of its skycell.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from idfzarr.errors import UsageError, closest
from idfzarr.ps1.names import parse

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BANDS",
    "KINDS",
    "Kind",
    "SkyArray",
    "SkycellReader",
    "Window",
    "array_name",
    "checked_window",
    "parse_array_name",
    "sky_array",
]

BANDS = ("g", "r", "i", "z", "y")
"""Bands of the survey, from blue to red."""

Kind = Literal["image", "mask", "weight"]
"""What an array holds; the weight of the survey is a variance."""

KINDS: tuple[Kind, ...] = get_args(Kind)
"""All kinds."""

Window: TypeAlias = tuple[slice, slice]
"""Rows and columns of an image, counted from 0, without a step."""

_SUFFIX: dict[Kind, str] = {"image": "", "mask": "_mask", "weight": "_wt"}


@dataclass(frozen=True, order=True)
class SkyArray:
    """One array of a store.

    Attributes
    ----------
    name
        Of the skycell, in full: ``skycell.1405.053``.
    band
        One of `BANDS`.
    kind
        One of `KINDS`.
    path
        Key of the array below the root of its store.
    """

    name: str
    band: str
    kind: Kind
    path: str

    def __str__(self) -> str:
        return f"{self.name} {array_name(self.band, self.kind)}"


class SkycellReader(Protocol):
    """What every store of skycells answers, this package's own and those in earlier layouts."""

    @property
    def url(self) -> str:
        """The store as a person writes it."""

    def arrays(self, names: str = "*") -> list[SkyArray]:
        """Return the arrays that are there whole, of the skycells that match a glob, sorted."""

    def has(self, name: str, band: str, kind: Kind, *, verify: bool = False) -> bool:
        """Say whether an array is there; with `verify`, whether every pixel of it can be read."""

    def shape(self, name: str, band: str, kind: Kind) -> tuple[int, int]:
        """Return the shape (ny, nx) of an array."""

    def read(self, name: str, band: str, kind: Kind, window: Window | None = None) -> NDArray[Any]:
        """Return pixels as they are stored, of a window or of the whole array."""

    def attributes(self, name: str, band: str, kind: Kind) -> dict[str, Any]:
        """Return ``scale``, ``header``, ``primary_header``, ``tiles``, ``wcs``, ``provenance``."""


def array_name(band: str, kind: str) -> str:
    """Return what an array is called in the group of its skycell.

    Raises
    ------
    UsageError
        There is no such band, or no such kind.
    """
    if band not in BANDS:
        msg = f"there is no band {str(band)[:20]!r}: the survey has {', '.join(BANDS)}"
        raise UsageError(msg)
    for known in KINDS:
        if kind == known:
            return band + _SUFFIX[known]
    msg = f"there is no kind {str(kind)[:20]!r}{closest(kind, KINDS)}; one of {', '.join(KINDS)}"
    raise UsageError(msg)


def parse_array_name(text: str) -> tuple[str, Kind] | None:
    """Return band and kind of an array by its name; None where it is the name of something else."""
    for kind, suffix in _SUFFIX.items():
        band = text.removesuffix(suffix) if suffix else text
        if band in BANDS and text == band + suffix:
            return band, kind
    return None


def sky_array(name: str, band: str, kind: str) -> SkyArray:
    """Return where an array stands in a store of this package.

    Parameters
    ----------
    name
        Of the skycell, as `idfzarr.ps1.names.parse` reads it.
    band, kind
        Of the array.

    Raises
    ------
    UsageError, UnknownName
        There can be no such array.
    """
    cell = parse(name)
    called = array_name(band, kind)
    known = next(k for k in KINDS if k == kind)
    return SkyArray(cell.name, band, known, f"{cell.projection:04d}/{cell.name}/{called}")


def checked_window(window: Window | None, shape: tuple[int, int], *, where: str) -> Window:
    """Return a window with its ends spelled out.

    Parameters
    ----------
    window
        Slices of rows and columns; None for all of the image. A missing end is the image's.
    shape
        Of the image.
    where
        What to call it in an error.

    Raises
    ------
    UsageError
        It has a step, is empty, or reaches beyond the image.
    """
    if window is None:
        return slice(0, shape[0]), slice(0, shape[1])
    given: object = window  # whatever the annotation says, people pass numbers too
    if not (
        isinstance(given, tuple) and len(given) == 2 and all(isinstance(w, slice) for w in given)
    ):
        msg = f"a window of {where} is a slice of rows and one of columns, not {str(window)[:60]!r}"
        raise UsageError(msg)
    made = []
    for part, length, axis in zip(window, shape, "yx", strict=True):
        first = 0 if part.start is None else int(part.start)
        last = length if part.stop is None else int(part.stop)
        if part.step not in {None, 1} or not 0 <= first < last <= length:
            msg = (
                f"the window {first}:{last}{'' if part.step is None else f':{part.step}'} along "
                f"{axis} does not fit {where}, which has {length} pixels there"
            )
            raise UsageError(msg)
        made.append(slice(first, last))
    return made[0], made[1]
