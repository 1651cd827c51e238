"""Pixels of Pan-STARRS1 stacks: integers on disk, asinh values, counts, microjansky.

A stack pixel is kept as an integer, that as an asinh value, and that as counts (DN)::

    v  = BZERO + BSCALE disk
    DN = BOFFSET + BSOFTEN (exp(v / a) - exp(-v / a)),    a = 2.5 log10(e)

Counts over EXPTIME have the zero point FPA.ZP (25, AB). The weight image is a variance in counts
squared, kept the same way with a BSOFTEN and BOFFSET of its own. Warps and cutouts of
``fitscut.cgi`` are linear: they lack BSOFTEN and BOFFSET, and v is in counts. Formulae: comments
in the headers themselves; Waters et al. 2020, ApJS 251, 4, section 3.4; the documentation of the
archive, "PS1 FITS image headers" and "PS1 Stack images" (outerspace.stsci.edu/display/PANSTARRS).

Everything is computed in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import ImageUnreadable
from idfzarr.lightcurve import AB_ZERO_MAGNITUDE
from idfzarr.ps1.headers import card_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "POGSON",
    "SCALE_KEYWORDS",
    "STACK_ZERO_POINT",
    "Scaling",
    "asinh_of_disk",
    "asinh_of_dn",
    "asinh_of_flux",
    "disk_of_asinh",
    "dn_of_asinh",
    "flux_of_disk",
    "sigma_of_disk",
]

POGSON = 2.5 * math.log10(math.e)
"""Magnitudes of a factor e, 1.0857362: the a of the formulae."""

STACK_ZERO_POINT = 25.0
"""AB magnitude of 1 DN/s in every stack (FPA.ZP)."""

SCALE_KEYWORDS = ("BSCALE", "BZERO", "BLANK", "BSOFTEN", "BOFFSET", "EXPTIME", "FPA.ZP")
"""Cards that say what a pixel means."""

_LEVELS = 2**16
# Beyond it exp overflows float64; real images stay below 15.
_LARGEST_EXPONENT = 600.0


@dataclass(frozen=True)
class Scaling:
    """What a pixel means.

    Attributes
    ----------
    bscale, bzero
        From the integer to the asinh value, or to counts where the image is linear.
    blank
        The integer of pixels without a value; None where there is none.
    bsoften, boffset
        From the asinh value to counts; both None where the image is linear.
    exptime
        Seconds, the sum over the inputs; None where the header does not say.
    zero_point
        AB magnitude of 1 DN/s.
    """

    bscale: float = 1.0
    bzero: float = 0.0
    blank: int | None = None
    bsoften: float | None = None
    boffset: float | None = None
    exptime: float | None = None
    zero_point: float = STACK_ZERO_POINT

    @property
    def asinh(self) -> bool:
        """Whether values are asinh, not linear."""
        return self.bsoften is not None

    @classmethod
    def from_header(cls, header: Mapping[str, Any], *, where: str = "the header") -> Scaling:
        """Read a scaling from an image's own header.

        Parameters
        ----------
        header
            Names of cards to their values. BSCALE, BZERO and BLANK may be missing, as astropy
            takes them away once it has applied them.
        where
            What to call it in an error.

        Raises
        ------
        ImageUnreadable
            A card is not a number, or not one that pixels can be scaled with; or of BSOFTEN and
            BOFFSET only one is there.
        """
        number = _Numbers(header, where)
        bsoften, boffset = number("BSOFTEN"), number("BOFFSET")
        if (bsoften is None) != (boffset is None):
            there, lost = ("BSOFTEN", "BOFFSET") if boffset is None else ("BOFFSET", "BSOFTEN")
            msg = f"{where} has {there} and no {lost}: its pixels cannot be scaled"
            raise ImageUnreadable(msg)
        blank, zero_point = number("BLANK"), number("FPA.ZP")
        bscale, bzero = number("BSCALE"), number("BZERO")
        found = cls(
            bscale=1.0 if bscale is None else bscale,
            bzero=0.0 if bzero is None else bzero,
            blank=None if blank is None else round(blank),
            bsoften=bsoften,
            boffset=boffset,
            exptime=number("EXPTIME"),
            zero_point=STACK_ZERO_POINT if zero_point is None else zero_point,
        )
        found._check(where)
        return found

    def _check(self, where: str) -> None:
        scaled = (self.bscale, self.bzero) != (1.0, 0.0)
        largest = (abs(self.bzero) + abs(self.bscale) * _LEVELS / 2) / POGSON
        wrong = ""
        if self.bscale == 0:
            wrong = "BSCALE is 0"
        elif self.bsoften is not None and self.bsoften <= 0:
            wrong = f"BSOFTEN is {self.bsoften} and must be above 0"
        elif self.asinh and scaled and largest > _LARGEST_EXPONENT:
            wrong = f"BSCALE {self.bscale} and BZERO {self.bzero} make counts beyond all numbers"
        elif not 0 < abs(self.zero_point) < 100:
            wrong = f"FPA.ZP is {self.zero_point}, which is no zero point"
        if wrong:
            msg = f"{where} cannot be used: {wrong}"
            raise ImageUnreadable(msg)

    def microjansky_per_dn(self) -> float:
        """Return the flux of one count, in microjansky.

        Raises
        ------
        ImageUnreadable
            The exposure time is not known.
        """
        if self.exptime is None or self.exptime <= 0:
            msg = f"EXPTIME is {self.exptime}: counts cannot be turned into a flux without it"
            raise ImageUnreadable(msg)
        factor: float = 10 ** (0.4 * (AB_ZERO_MAGNITUDE - self.zero_point)) / self.exptime
        return factor

    def cards(self) -> dict[str, float | int]:
        """Return the cards that `from_header` reads, as far as they are known."""
        values = (
            self.bscale,
            self.bzero,
            self.blank,
            self.bsoften,
            self.boffset,
            self.exptime,
            self.zero_point,
        )
        known = zip(SCALE_KEYWORDS, values, strict=True)
        return {name: value for name, value in known if value is not None}


@dataclass(frozen=True)
class _Numbers:
    """Cards that must be finite numbers if they are there at all."""

    header: Mapping[str, Any]
    where: str

    def __call__(self, name: str) -> float | None:
        value = card_value(self.header, name)
        if value is None:
            return None
        number = isinstance(value, (int, float, np.integer, np.floating))
        if not number or isinstance(value, bool) or not math.isfinite(value):
            msg = f"{self.where} has {name} = {str(value)[:40]!r}, which is no finite number"
            raise ImageUnreadable(msg)
        return float(value)


def asinh_of_disk(disk: ArrayLike, scaling: Scaling) -> NDArray[np.float64]:
    """Return BZERO + BSCALE disk, NaN where it is BLANK: asinh values, or counts if linear.

    Parameters
    ----------
    disk
        Integers as stored; values that are floating point already, with NaN for blank, pass
        through BSCALE and BZERO (1 and 0 where the header has lost them).
    scaling
        Of the image.
    """
    values = np.asarray(disk)
    scaled = scaling.bzero + scaling.bscale * values.astype(np.float64)
    if values.dtype.kind in "iu" and scaling.blank is not None:
        scaled = np.where(values == scaling.blank, np.nan, scaled)
    return np.asarray(scaled)


def disk_of_asinh(values: ArrayLike, scaling: Scaling) -> NDArray[np.int16]:
    """Return the integers that stand for asinh values (counts, if linear): undoes `asinh_of_disk`.

    What lies beyond the range of the integers becomes the last of them that is not BLANK.

    Raises
    ------
    ImageUnreadable
        There are values to be blank, and the scaling has no BLANK.
    """
    wanted = (np.asarray(values, dtype=np.float64) - scaling.bzero) / scaling.bscale
    empty = np.isnan(wanted)
    if scaling.blank is None and empty.any():
        msg = f"{int(empty.sum())} pixels have no value and the scaling has no BLANK for them"
        raise ImageUnreadable(msg)
    lowest, highest = -_LEVELS // 2, _LEVELS // 2 - 1
    lowest += scaling.blank == lowest
    highest -= scaling.blank == highest
    rounded = np.rint(np.clip(np.where(empty, 0.0, wanted), lowest, highest))
    filled = np.where(empty, 0 if scaling.blank is None else scaling.blank, rounded)
    return np.asarray(filled.astype(np.int16))


def dn_of_asinh(values: ArrayLike, scaling: Scaling) -> NDArray[np.float64]:
    """Return counts of asinh values; of a linear image these are the values themselves.

    Values whose counts no float64 can hold become NaN.
    """
    v = np.asarray(values, dtype=np.float64)
    if scaling.bsoften is None or scaling.boffset is None:
        return v
    exponent = v / POGSON
    exponent = np.where(np.abs(exponent) <= _LARGEST_EXPONENT, exponent, np.nan)
    return np.asarray(scaling.boffset + 2 * scaling.bsoften * np.sinh(exponent))


def asinh_of_dn(dn: ArrayLike, scaling: Scaling) -> NDArray[np.float64]:
    """Return asinh values of counts: undoes `dn_of_asinh`."""
    counts = np.asarray(dn, dtype=np.float64)
    if scaling.bsoften is None or scaling.boffset is None:
        return counts
    return np.asarray(POGSON * np.arcsinh((counts - scaling.boffset) / (2 * scaling.bsoften)))


def flux_of_disk(disk: ArrayLike, scaling: Scaling) -> NDArray[np.float64]:
    """Return fluxes in microjansky of pixels as stored, NaN where they are blank.

    Parameters
    ----------
    disk
        Integers as stored, or the values that astropy makes of them, any shape.
    scaling
        Of the image.

    Raises
    ------
    ImageUnreadable
        The exposure time is not known.
    """
    return _looked_up(_flux, disk, scaling)


def asinh_of_flux(flux: ArrayLike, scaling: Scaling) -> NDArray[np.float64]:
    """Return asinh values (counts, if linear) of fluxes in microjansky.

    `disk_of_asinh` makes the integers of them.

    Raises
    ------
    ImageUnreadable
        The exposure time is not known.
    """
    counts = np.asarray(flux, dtype=np.float64) / scaling.microjansky_per_dn()
    return asinh_of_dn(counts, scaling)


def sigma_of_disk(disk: ArrayLike, scaling: Scaling) -> NDArray[np.float64]:
    """Return standard deviations in microjansky of the pixels of a weight image.

    Parameters
    ----------
    disk
        The variance as stored, any shape.
    scaling
        Of the weight image: its BSOFTEN and BOFFSET are not those of the image.

    Returns
    -------
    ndarray of float64
        NaN where the pixel is blank and where the variance is not above 0.

    Raises
    ------
    ImageUnreadable
        The exposure time is not known.
    """
    return _looked_up(_sigma, disk, scaling)


def _flux(disk: NDArray[Any], scaling: Scaling) -> NDArray[np.float64]:
    dn = dn_of_asinh(asinh_of_disk(disk, scaling), scaling)
    return np.asarray(dn * scaling.microjansky_per_dn())


def _sigma(disk: NDArray[Any], scaling: Scaling) -> NDArray[np.float64]:
    variance = dn_of_asinh(asinh_of_disk(disk, scaling), scaling)
    good = np.where(variance > 0, variance, np.nan)
    return np.asarray(np.sqrt(good) * scaling.microjansky_per_dn())


def _looked_up(
    compute: Callable[[NDArray[Any], Scaling], NDArray[np.float64]],
    disk: ArrayLike,
    scaling: Scaling,
) -> NDArray[np.float64]:
    values = np.asarray(disk)
    if values.dtype.kind == "i" and values.dtype.itemsize == 2:
        native = np.ascontiguousarray(values, dtype=np.int16)
        return _table(compute, scaling)[native.view(np.uint16)].reshape(values.shape)
    return compute(values, scaling)


# 65,536 values stand for all pixels of an image: one table saves 39 million exponentials.
@lru_cache(maxsize=16)
def _table(
    compute: Callable[[NDArray[Any], Scaling], NDArray[np.float64]], scaling: Scaling
) -> NDArray[np.float64]:
    table = compute(np.arange(_LEVELS, dtype=np.uint16).view(np.int16), scaling)
    table.setflags(write=False)
    return table
