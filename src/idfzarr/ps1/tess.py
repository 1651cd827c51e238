"""Which skycells a CCD of TESS sees, by sector, camera and CCD.

Where the CCD looks comes from the headers of its full-frame images: a table of sectors 1 to 108
lies in the package (``tess_wcs.csv``, ``tess_distortion.csv``, taken from tesswcs); for later
sectors the extra ``tess`` (the package tesswcs) measures or predicts it. Without it there are three
other ways: a WCS (`select` with ``wcs``), the file of a full-frame image (`ffi_wcs`), or the CCD's
four corners (`skycell.in_polygon`). The outline is a polygon on the sky, and its overlap with the
skycells is exact (`idfzarr.ps1.overlap`).

Pixels of TESS are those of the full frame, 2136 x 2078, of which columns 45 to 2092 and rows 1 to
2048 see the sky (TESS Instrument Handbook, section 5; FITS pixels).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.errors import ImageMissing, ImageUnreadable, MissingExtra, UnknownName, UsageError
from idfzarr.ps1.grid import unit_vectors
from idfzarr.ps1.names import names_of_rows, parse
from idfzarr.ps1.overlap import rows_in_polygon
from idfzarr.ps1.skycell import neighbours
from idfzarr.ps1.tess_table import LAST_TABLED_SECTOR, TabledWcs, tabled_wcs

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "CENTRE_MARGIN",
    "LAST_TABLED_SECTOR",
    "SCIENCE_COLUMNS",
    "SCIENCE_ROWS",
    "CcdWcs",
    "Rule",
    "Selection",
    "ccd_wcs",
    "ffi_wcs",
    "from_csv",
    "outline",
    "select",
    "skycells",
]

Rule = Literal["overlap", "centre"]
"""``overlap``: the image of the skycell touches the part of the CCD that sees the sky; ``centre``:
its middle lies there or within 150 pixels of TESS around it."""

SCIENCE_COLUMNS = (45, 2092)
"""First and last column of the full frame that see the sky, FITS pixels."""

SCIENCE_ROWS = (1, 2048)
"""First and last row of the full frame that see the sky, FITS pixels."""

CENTRE_MARGIN = 150
"""Pixels of TESS around the CCD of the rule ``centre``."""

# Sides of the outline are curved by the distortion; pieces of 64 pixels are straight.
_PIECES = 32
_PADDING = "pad_skycell_"
_SEPARATORS = re.compile(r"[\s,/;|\[\]'\"()]+")
_EMPTY = {"", "nan", "none", "null"}
_LOST_ZERO = re.compile(r"skycell\.[0-9]{1,3}\.[0-9]{3}", re.ASCII)


@dataclass(frozen=True)
class CcdWcs:
    """Where a CCD looks.

    Attributes
    ----------
    wcs
        astropy WCS of the full frame, with its distortion.
    source
        Where it comes from.
    predicted
        Whether it is a prediction, not measured on images.
    notice
        What to tell a person about it; empty where there is nothing to tell.
    """

    wcs: Any
    source: str
    predicted: bool = False
    notice: str = ""


@dataclass(frozen=True)
class Selection:
    """Skycells, and how they were chosen.

    Attributes
    ----------
    names
        Of the skycells, sorted.
    padding
        Names of neighbours that are not among them, sorted; empty unless asked for.
    source
        What they were chosen by.
    predicted
        Whether the pointing is a prediction.
    notice
        What to tell a person; empty where there is nothing to tell.
    repaired
        How many names had lost the leading zeros of their projection cell and got them back.
    """

    names: tuple[str, ...]
    padding: tuple[str, ...] = ()
    source: str = ""
    predicted: bool = False
    notice: str = ""
    repaired: int = 0

    @property
    def all(self) -> tuple[str, ...]:
        """Skycells and padding together, sorted."""
        return tuple(sorted({*self.names, *self.padding}))


def skycells(
    *, sector: int, camera: int, ccd: int, rule: Rule = "overlap", padding: bool = False
) -> tuple[str, ...]:
    """Return the skycells that a CCD of TESS sees.

    Parameters
    ----------
    sector, camera, ccd
        Sector from 1; camera and CCD 1 to 4.
    rule
        ``overlap``, or ``centre`` for the earlier toolkit's.
    padding
        Whether to add the neighbours of the skycells.

    Returns
    -------
    tuple of str
        Sorted; empty where the survey has none, as in the far south.

    Raises
    ------
    UsageError
        No such sector, camera, CCD or rule.
    MissingExtra
        A sector after the table's last, and tesswcs is not installed.

    Examples
    --------
    >>> len(skycells(sector=20, camera=3, ccd=3))
    1017
    """
    chosen = select(sector=sector, camera=camera, ccd=ccd, rule=rule, padding=padding)
    return chosen.all


def select(
    *,
    sector: int | None = None,
    camera: int | None = None,
    ccd: int | None = None,
    wcs: Any = None,
    rule: Rule = "overlap",
    padding: bool = False,
) -> Selection:
    """Choose skycells by a CCD of TESS, with what there is to tell about the choice.

    Parameters
    ----------
    sector, camera, ccd
        As of `skycells`.
    wcs
        An astropy WCS of the full frame, or what `ffi_wcs` returns, instead of them.
    rule, padding
        As of `skycells`.

    Raises
    ------
    UsageError
        No such sector, camera, CCD or rule; both or neither of a CCD and a WCS.
    MissingExtra
        A sector after the table's last, and tesswcs is not installed.
    """
    if wcs is not None:
        if any(part is not None for part in (sector, camera, ccd)):
            msg = "give either a sector, camera and CCD or a WCS, not both"
            raise UsageError(msg)
        seen = wcs if isinstance(wcs, CcdWcs) else CcdWcs(wcs=wcs, source="the WCS given")
    elif sector is None or camera is None or ccd is None:
        msg = "skycells of TESS need a sector, a camera and a CCD, or a WCS"
        raise UsageError(msg)
    else:
        seen = _seen(sector, camera, ccd)
    names = _seen_by(seen.wcs, rule)
    return Selection(
        names=names,
        padding=_padding_of(names) if padding else (),
        source=seen.source,
        predicted=seen.predicted,
        notice=seen.notice,
    )


def _seen_by(wcs: Any, rule: str) -> tuple[str, ...]:
    if rule not in {"overlap", "centre"}:
        msg = f"there is no rule {str(rule)[:40]!r}: choose 'overlap' or 'centre'"
        raise UsageError(msg)
    ra, dec = outline(wcs, margin=CENTRE_MARGIN if rule == "centre" else 0)
    rows = rows_in_polygon(unit_vectors(ra, dec), centres=rule == "centre")
    return names_of_rows(rows)


def _padding_of(names: tuple[str, ...]) -> tuple[str, ...]:
    around = {other for name in names for other in neighbours(name)}
    return tuple(sorted(around - set(names)))


def outline(wcs: Any, *, margin: float = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the outline of the part of a CCD that sees the sky.

    Parameters
    ----------
    wcs
        astropy WCS of the full frame.
    margin
        Pixels of TESS around it.

    Returns
    -------
    ra, dec : ndarray
        Degrees, (128,): corners of a polygon.

    Raises
    ------
    UsageError
        The WCS does not say where these pixels lie.
    """
    low_x, high_x = SCIENCE_COLUMNS[0] - 0.5 - margin, SCIENCE_COLUMNS[1] + 0.5 + margin
    low_y, high_y = SCIENCE_ROWS[0] - 0.5 - margin, SCIENCE_ROWS[1] + 0.5 + margin
    t = np.arange(_PIECES) / _PIECES
    right, up = low_x + (high_x - low_x) * t, low_y + (high_y - low_y) * t
    left, down = high_x - (high_x - low_x) * t, high_y - (high_y - low_y) * t
    one = np.ones(_PIECES)
    x = np.concatenate([right, high_x * one, left, low_x * one])
    y = np.concatenate([low_y * one, up, high_y * one, down])
    if not (hasattr(wcs, "all_pix2world") and getattr(wcs, "has_celestial", False)):
        msg = f"a WCS of the sky is needed and this is a {type(wcs).__name__} without one"
        raise UsageError(msg)
    ra, dec = wcs.all_pix2world(x, y, 1)
    if not (np.isfinite(ra) & np.isfinite(dec)).all():
        msg = "the WCS gives no position for pixels of the full frame of TESS"
        raise UsageError(msg)
    return np.asarray(ra), np.asarray(dec)


def ccd_wcs(sector: int, camera: int, ccd: int) -> CcdWcs:
    """Return where a CCD of TESS looks in a sector.

    Parameters
    ----------
    sector, camera, ccd
        Sector from 1; camera and CCD 1 to 4.

    Raises
    ------
    UsageError
        No such sector, camera or CCD.
    MissingExtra
        A sector after the table's last, and tesswcs is not installed.
    """
    seen = _seen(sector, camera, ccd)
    return replace(seen, wcs=seen.wcs.to_astropy()) if isinstance(seen.wcs, TabledWcs) else seen


def _seen(sector: int, camera: int, ccd: int) -> CcdWcs:
    """Return where a CCD looks, without astropy where the table knows it."""
    _check("sector", sector, 9999)
    _check("camera", camera, 4)
    _check("ccd", ccd, 4)
    tabled = tabled_wcs(int(sector), int(camera), int(ccd))
    if tabled is None:
        return _from_tesswcs(int(sector), int(camera), int(ccd))
    return CcdWcs(wcs=tabled, source=f"TESS sector {sector}, camera {camera}, CCD {ccd}")


def _check(name: str, value: object, limit: int) -> None:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not 1 <= int(str(value)) <= limit:
        msg = f"{name} must be a whole number from 1 to {limit} and is {str(value)[:40]}"
        raise UsageError(msg)


def _from_tesswcs(sector: int, camera: int, ccd: int) -> CcdWcs:
    try:
        import tesswcs
    except ImportError as error:
        msg = (
            f"sector {sector} is after {LAST_TABLED_SECTOR}, the last of the table in this "
            "package: install the extra with pip install 'idfzarr[tess]', or give a full-frame "
            "image or its WCS"
        )
        raise MissingExtra(msg) from error
    latest = int(tesswcs.latest_sector)
    source = f"TESS sector {sector}, camera {camera}, CCD {ccd}, by tesswcs {tesswcs.__version__}"
    if sector <= latest:
        return CcdWcs(wcs=tesswcs.WCS.from_sector(sector, camera, ccd), source=source)
    known = tesswcs.pointings[tesswcs.pointings["Sector"] == sector]
    if len(known) == 0:
        msg = (
            f"no pointing of sector {sector} is known: tesswcs {tesswcs.__version__} has sectors "
            f"up to {max(int(s) for s in tesswcs.pointings['Sector'] if int(s) < 1000)}"
        )
        raise UsageError(msg)
    # `predict` itself, since `from_sector` tells of the prediction on a terminal.
    ra, dec, roll = (float(known[name][0]) for name in ("RA", "Dec", "Roll"))
    return CcdWcs(
        wcs=tesswcs.WCS.predict(ra=ra, dec=dec, roll=roll, camera=camera, ccd=ccd),
        source=source,
        predicted=True,
        notice=(
            f"the pointing of sector {sector} is predicted, not measured: skycells at the border "
            "of the CCD may differ"
        ),
    )


def ffi_wcs(path: str | os.PathLike[str]) -> CcdWcs:
    """Return where a full-frame image of TESS looks, by its own header.

    Parameters
    ----------
    path
        FITS file; the WCS is that of its first image.

    Raises
    ------
    ImageMissing
        There is no such file.
    ImageUnreadable
        It is not FITS, or its image has no WCS of the sky.
    """
    from astropy.wcs import WCS

    from idfzarr.imaging.fits_image import silent_astropy
    from idfzarr.ps1.headers import header_of, read_image_cards

    where = os.fspath(path)
    try:
        with open(where, "rb") as stream:
            cards = read_image_cards(stream, where=where)
    except FileNotFoundError as error:
        msg = f"there is no full-frame image {where}"
        raise ImageMissing(msg) from error
    except OSError as error:
        msg = f"the full-frame image {where} cannot be read: {error.strerror}"
        raise ImageUnreadable(msg) from error
    with silent_astropy():
        try:
            wcs = WCS(header_of(cards.image), naxis=2)
        except (ValueError, TypeError, KeyError, MemoryError) as error:
            msg = f"the WCS of {where} cannot be read: {error}"
            raise ImageUnreadable(msg) from error
    if not wcs.has_celestial:
        msg = f"{where} has no WCS of the sky in the header of its image"
        raise ImageUnreadable(msg)
    return CcdWcs(wcs=wcs, source=where)


def from_csv(path: Path | str, *, padding: bool = True) -> Selection:
    """Read skycells from a master list of the earlier toolkit.

    Its column NAME holds the skycells; its columns ``pad_skycell_*`` the neighbours they need,
    separated by commas or slashes. That toolkit lost the leading zeros of projection cells below
    1000 in the names of neighbours; they are given back.

    Parameters
    ----------
    path
        The CSV; other columns are not looked at.
    padding
        Whether to read the neighbours.

    Returns
    -------
    Selection
        Neighbours that are skycells of the list themselves are not repeated as padding.

    Raises
    ------
    UsageError
        No such file, not such a list, or an empty one; a name in it is no skycell's.
    """
    import pandas as pd

    try:
        table = pd.read_csv(
            path,
            usecols=lambda column: column == "NAME" or column.startswith(_PADDING),
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
        )
    except OSError as error:
        msg = f"the list of skycells {path} cannot be read: {error.strerror}"
        raise UsageError(msg) from error
    except ValueError as error:
        msg = f"{path} is not a list of skycells: {str(error).splitlines()[0]}"
        raise UsageError(msg) from error
    if "NAME" not in table.columns:
        msg = f"{path} is not a list of skycells: it has no column NAME"
        raise UsageError(msg)
    names = _Names(str(path))
    skycells = names.of(table["NAME"].tolist(), "NAME")
    if not skycells:
        msg = f"{path} names no skycell in its column NAME"
        raise UsageError(msg)
    around: set[str] = set()
    for column in table.columns if padding else ():
        if column != "NAME":
            around |= names.of(table[column].tolist(), column)
    chosen = Selection(
        names=tuple(sorted(skycells)),
        padding=tuple(sorted(around - skycells)),
        source=str(path),
        repaired=names.repaired,
    )
    if names.repaired:
        told = f"{names.repaired} names in {path} had lost leading zeros and got them back"
        chosen = replace(chosen, notice=told)
    return chosen


class _Names:
    """Names out of the cells of a list, with the place in every error, and repairs counted."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.repaired = 0

    def of(self, cells: list[str], column: str) -> set[str]:
        found: set[str] = set()
        for number, cell in enumerate(cells, start=2):
            for word in _SEPARATORS.split(cell):
                if word.lower() in _EMPTY:
                    continue
                try:
                    name = parse(word).name
                except UsageError as error:
                    msg = f"{self.path}, line {number}, column {column}: {error}"
                    kind = UnknownName if isinstance(error, UnknownName) else UsageError
                    raise kind(msg) from error
                self.repaired += _LOST_ZERO.fullmatch(word) is not None
                found.add(name)
        return found
