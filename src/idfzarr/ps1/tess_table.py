"""Where the CCDs of TESS looked in sectors 1 to 108: a table, and its projection in numpy.

The projection is that of astropy.wcs, written down here because importing that package takes longer
than everything else that is needed to find the skycells under a CCD.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.ps1.grid import sky_of, tangent_axes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["LAST_TABLED_SECTOR", "TabledWcs", "tabled_wcs"]

LAST_TABLED_SECTOR = 108
"""The last sector of the table in the package."""

_SIP_ORIGIN = (1045.0, 1001.0)


@dataclass(frozen=True, eq=False)
class TabledWcs:
    """The WCS of a CCD as the table has it.

    Attributes
    ----------
    crval
        (2,): degrees.
    crpix
        (2,): FITS pixels.
    cd
        (2, 2): degrees per pixel.
    a, b
        (5, 5): coefficients of the distortion along columns and rows, by the powers of both.
    """

    crval: NDArray[np.float64]
    crpix: NDArray[np.float64]
    cd: NDArray[np.float64]
    a: NDArray[np.float64]
    b: NDArray[np.float64]

    has_celestial = True

    def all_pix2world(
        self, x: NDArray[np.float64], y: NDArray[np.float64], origin: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where pixels lie, as the method of astropy's WCS of this name does.

        The distortion is SIP (Shupe et al. 2005, ASP Conf. Ser. 347, 491), the projection gnomonic
        (Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3).

        Parameters
        ----------
        x, y
            Pixels of the full frame, of one shape.
        origin
            1 for FITS pixels, 0 for numpy's.

        Returns
        -------
        ra, dec : ndarray
            Degrees.
        """
        columns = np.asarray(x, dtype=np.float64) + (1 - origin)
        rows = np.asarray(y, dtype=np.float64) + (1 - origin)
        u, v = columns - _SIP_ORIGIN[0], rows - _SIP_ORIGIN[1]
        moved_x = columns + np.polynomial.polynomial.polyval2d(u, v, self.a) - self.crpix[0]
        moved_y = rows + np.polynomial.polynomial.polyval2d(u, v, self.b) - self.crpix[1]
        offsets = np.radians(np.stack([moved_x, moved_y], axis=-1) @ self.cd.T)
        east, north, towards = tangent_axes(*self.crval)
        return sky_of(offsets[..., :1] * east + offsets[..., 1:] * north + towards)

    def to_astropy(self) -> Any:
        """Return it as a WCS of astropy."""
        from astropy.wcs import WCS, Sip

        made = WCS(naxis=2)
        made.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
        made.wcs.cunit = ["deg", "deg"]
        made.wcs.radesys = "ICRS"
        made.wcs.crval = list(self.crval)
        made.wcs.crpix = list(self.crpix)
        made.wcs.cd = self.cd.copy()
        made.sip = Sip(self.a, self.b, None, None, _SIP_ORIGIN)
        return made


def tabled_wcs(sector: int, camera: int, ccd: int) -> TabledWcs | None:
    """Return where a CCD looked; None for a sector that the table does not have."""
    row = _table().get(f"{sector},{camera},{ccd}")
    if row is None:
        return None
    numbers = np.array(row.split(","), dtype=np.float64)
    a, b = _distortion()[camera, ccd]
    return TabledWcs(numbers[:2], numbers[2:4], numbers[4:].reshape(2, 2), a, b)


def _lines(name: str) -> Iterator[str]:
    text = resources.files("idfzarr.ps1").joinpath(name).read_text(encoding="utf-8")
    return (line for line in text.splitlines() if not line.startswith("#"))


@lru_cache(maxsize=1)
def _table() -> dict[str, str]:
    """Return the lines of the table by their first three columns; few of them are ever read."""
    lines = _lines("tess_wcs.csv")
    next(lines)  # names of columns
    return dict(map(_cut, lines))


def _cut(line: str) -> tuple[str, str]:
    sector, camera, ccd, rest = line.split(",", 3)
    return f"{sector},{camera},{ccd}", rest


@lru_cache(maxsize=1)
def _distortion() -> dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    found: dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for row in csv.DictReader(_lines("tess_distortion.csv")):
        key = (int(row["camera"]), int(row["ccd"]))
        a, b = found.setdefault(key, (np.zeros((5, 5)), np.zeros((5, 5))))
        a[int(row["p"]), int(row["q"])] = float(row["a"])
        b[int(row["p"]), int(row["q"])] = float(row["b"])
    return found
