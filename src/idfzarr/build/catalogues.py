"""Photometry catalogues as files: which there are, what they hold, and when they were taken.

What a file is, is told by its first bytes, not by the end of its name: SExtractor's FITS_LDAC and
ASCII_HEAD, any FITS table, ECSV, CSV, Parquet and VOTable.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.parsers.expat import ExpatError

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from pyarrow import ArrowException
from yaml import YAMLError

from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.imaging.discovery import natural
from idfzarr.imaging.fits_image import card_number, silent_astropy
from idfzarr.imaging.header_time import ExposureTime, exposure_time
from idfzarr.measurement import IMAGES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "DEFAULT_TABLES",
    "IMAGE_WORDS",
    "Catalogue",
    "TableFile",
    "catalogue_of",
    "find_tables",
    "read_catalogue",
]

DEFAULT_TABLES = "IDF_{aor}_{channel}_{image}"
"""How catalogues are called that lie beside the mosaics they were measured on."""

IMAGE_WORDS: dict[str, str] = {image: image for image in IMAGES} | {
    "sci": "original",
    "sci_clean": "clean",
}
"""What ``{image}`` may stand for in a file name, and the image it means."""

_ENDINGS = r"\.(?:ecsv|csv|fits|fit|fts|ldac|cat|sexcat|parquet|pq|vot|xml|txt|dat)(?:\.gz)?"
_HAS_ENDING = re.compile(rf".*{_ENDINGS}", re.IGNORECASE)
_WORD = r"[A-Za-z0-9.+-]+?"
_CHANNEL = r"[A-Za-z][A-Za-z0-9]*"
_SEXTRACTOR_HEAD = re.compile(rb"#\s+1\s+\w+")
_ELEMENT = re.compile(r"(?P<name>.+)\[(?P<index>\d+)\]")
_TIMES = ("mjd", "mjd_mid", "mjdmid")
_TROUBLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    UnicodeError,
    ArrowException,
    YAMLError,
    ExpatError,
    fits.VerifyError,
)


@dataclass(frozen=True)
class TableFile:
    """One catalogue.

    Attributes
    ----------
    aor
        The AOR's name.
    channel
        Its channel; an empty string where one table holds several.
    image
        The image it was measured on; an empty string where its name does not say it.
    path
        The file.
    """

    aor: str
    channel: str
    image: str
    path: Path

    @property
    def name(self) -> str:
        """How a person names it: AOR, channel and image."""
        return " ".join(part for part in (self.aor, self.channel, self.image) if part)


# ---------------------------------------------------------------- which files there are


def find_tables(
    folder: str | Path,
    *,
    pattern: str = DEFAULT_TABLES,
    images: Mapping[str, str] | None = None,
    channel: str | None = None,
    many_channels: bool = False,
    ignore: Sequence[Path] = (),
) -> tuple[TableFile, ...]:
    """Find the catalogues below a folder.

    Parameters
    ----------
    folder
        Searched with everything below it.
    pattern
        A file name in which ``{aor}``, ``{channel}`` and ``{image}`` stand for what varies and
        ``*`` for anything; all of it must match. With a ``/`` it is held against the path below
        the folder. Without an ending of its own it takes any that tables have.
    images
        What ``{image}`` may stand for, and the image it means; `IMAGE_WORDS` unless given.
    channel
        The channel of files whose pattern has no ``{channel}`` (``ch1`` unless given); with one,
        the only channel to take.
    many_channels
        Files whose pattern has no ``{channel}`` hold several channels each.
    ignore
        Files that are no catalogues whatever they are called: the AOR table, the table of objects.

    Returns
    -------
    tuple of TableFile
        By AOR, channel and image, in natural order.

    Raises
    ------
    UsageError
        There is no such folder, nothing in it matches, two files are of one AOR, channel and
        image, or the pattern is none.
    """
    root = Path(folder)
    words = dict(IMAGE_WORDS if images is None else images)
    expression = _expression(pattern, words)
    files = tuple(_walk(root))
    own = {path.resolve() for path in ignore}
    found: dict[tuple[str, str, str], TableFile] = {}
    for path in files:
        name = path.relative_to(root).as_posix() if "/" in pattern else path.name
        match = expression.fullmatch(name)
        if match is None or path.resolve() in own:
            continue
        fields = match.groupdict()
        told = fields.get("channel")
        if told is not None and channel is not None and told != channel:
            continue
        of_file = told or channel or ("" if many_channels else "ch1")
        image = words[fields["image"]] if fields.get("image") else ""
        table = TableFile(fields["aor"], of_file, image, path)
        key = (table.aor, table.channel, table.image)
        if key in found:
            msg = (
                f"two tables for AOR {table.name}: {found[key].path} and {path}; keep one of them "
                "in the folder, or narrow the pattern, by its ending for example"
            )
            raise UsageError(msg)
        found[key] = table
    if not found:
        raise UsageError(_nothing(root, pattern, channel, files))
    return tuple(found[key] for key in sorted(found, key=lambda k: [natural(part) for part in k]))


def _expression(pattern: str, words: Mapping[str, str]) -> re.Pattern[str]:
    """Turn a name pattern into a regular expression."""
    for word, image in words.items():
        if image not in IMAGES:
            msg = (
                f"{word!r} cannot stand for {image!r}{closest(image, IMAGES)}; images are "
                f"{', '.join(IMAGES)}"
            )
            raise UsageError(msg)
    # Longest first, so that "sci" does not hide "sci_clean".
    choice = "|".join(re.escape(w) for w in sorted(words, key=len, reverse=True))
    fields = {"aor": _WORD, "channel": _CHANNEL, "image": choice}
    expression, seen = "", set()
    for part in re.split(r"(\{[^{}]*\}|\*)", pattern):
        name = part[1:-1]
        if part == "*":
            expression += "[^/]*"
        elif not (part.startswith("{") and part.endswith("}")):
            if "{" in part or "}" in part:
                msg = f"pattern {pattern!r} has a brace without its other half"
                raise UsageError(msg)
            expression += re.escape(part)
        elif name not in fields:
            msg = f"pattern {pattern!r} has {part}; fields are {{aor}}, {{channel}} and {{image}}"
            raise UsageError(msg)
        elif name in seen:
            expression += f"(?P={name})"
        else:
            seen.add(name)
            expression += f"(?P<{name}>{fields[name]})"
    if "aor" not in seen:
        msg = f"pattern {pattern!r} does not say where the AOR's name stands: put {{aor}} there"
        raise UsageError(msg)
    if not _HAS_ENDING.fullmatch(pattern) and not pattern.endswith("*"):
        expression += _ENDINGS
    return re.compile(expression)


def _walk(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        msg = f"no tables can be found in {root}: it {what}"
        raise UsageError(msg)
    for folder, below, names in os.walk(root):
        below.sort()
        yield from (Path(folder) / name for name in sorted(names))


def _nothing(root: Path, pattern: str, channel: str | None, files: Sequence[Path]) -> str:
    of_channel = f" in channel {channel}" if channel and "{channel}" in pattern else ""
    head = f"no table{of_channel} in {root} by pattern {pattern!r}: "
    if not files:
        return f"{head}it holds no file at all"
    example = min((path.relative_to(root).as_posix() for path in files), key=natural)
    return (
        f"{head}none of its {len(files)} files matches, for example {example!r}; give a pattern "
        "with {aor} where the AOR's name stands"
    )


# ---------------------------------------------------------------- what a file holds


@dataclass(frozen=True, eq=False)
class Catalogue:
    """A table as plain arrays.

    Attributes
    ----------
    path
        Where it came from, for sentences.
    columns
        By name, (row,) or (row, element), native byte order; NaN where numbers are masked.
    units
        The columns' units as astropy writes them, where there are any.
    header
        Header cards and metadata that came with it.
    """

    path: str
    columns: Mapping[str, NDArray[Any]]
    units: Mapping[str, str]
    header: fits.Header

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def find(self, name: str) -> str | None:
        """Return a column's name as the table has it, upper and lower case aside, or None."""
        if name in self.columns:
            return name
        return next((n for n in self.columns if n.lower() == name.lower()), None)

    def first(self, names: Sequence[str]) -> str | None:
        """Return the first of several names that there is, as the table has it, or None."""
        return next((found for name in names if (found := self.find(name)) is not None), None)

    def unit(self, name: str) -> str:
        """Return the unit of a column or of its element; an empty string where there is none."""
        own, _ = self._located(name)
        return self.units.get(own, "")

    def values(self, name: str) -> NDArray[Any]:
        """Return a column, or with ``NAME[2]`` the third element of a vector column.

        SExtractor's ASCII_HEAD spreads a vector over columns, which astropy calls ``NAME``,
        ``NAME_1``, ``NAME_2``; these are elements 0, 1, 2.

        Raises
        ------
        UnknownName
            There is none, or no such element.
        """
        own, index = self._located(name)
        column = self.columns[own]
        if column.ndim == 1:
            return column
        if column.ndim > 2 or (index is None and column.shape[1] > 1):
            msg = (
                f"column {own!r} of {self.path} holds {column.shape[1:]} values in each row; name "
                f"one of them, as {own}[0]"
            )
            raise UnknownName(msg)
        if index is not None and index >= column.shape[1]:
            msg = f"column {own!r} of {self.path} has {column.shape[1]} elements and no {name!r}"
            raise UnknownName(msg)
        return column[:, index or 0]

    def _located(self, name: str) -> tuple[str, int | None]:
        """Return the column that a name means, and the element in it."""
        own = self.find(name)
        if own is not None:
            return own, None
        match = _ELEMENT.fullmatch(name)
        own = self.find(match["name"]) if match else None
        if match is None or own is None:
            msg = (
                f"{self.path} has no column {name!r}{closest(name, self.columns)}; it has "
                f"{len(self.columns)}: {', '.join(list(self.columns)[:8])}"
            )
            raise UnknownName(msg)
        index = int(match["index"])
        if self.columns[own].ndim == 1 and index:
            spread = self.find(f"{own}_{index}")
            if spread is None:
                msg = f"column {own!r} of {self.path} holds one value, so there is no {name!r}"
                raise UnknownName(msg)
            return spread, None
        return own, index

    def length(self, name: str) -> int:
        """Return how many elements a vector column has, in one column or spread over several."""
        own = self.find(name)
        if own is None:
            return 0
        if self.columns[own].ndim > 1:
            return int(self.columns[own].shape[1])
        count = 1
        while self.find(f"{own}_{count}") is not None:
            count += 1
        return count

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column as float64; raises `UsageError` where it holds none."""
        values = self.values(name)
        try:
            return np.asarray(values, dtype=np.float64)
        except (ValueError, TypeError):
            msg = f"column {name!r} of {self.path} is not of numbers but {values.dtype}"
            raise UsageError(msg) from None

    def time(self, column: str | None = None) -> ExposureTime:
        """Return when it was taken: from a column, or from metadata, else from header cards.

        Parameters
        ----------
        column
            Column or metadata with the middle of the exposure, MJD in UTC; ``mjd`` unless given.
            Header cards (MJD-OBS, DATE-OBS, EXPTIME...) are read by the rules of
            `idfzarr.imaging.header_time`.

        Raises
        ------
        UsageError
            The column asked for is not there, or its times span more than a day.
        """
        from_header = exposure_time(self.header)
        names = _TIMES if column is None else (column,)
        own = self.first(names)
        if own is not None:
            mjd = self._one_time(own)
        else:
            # cards are at most eight letters; longer metadata stands as HIERARCH
            mjd = card_number(self.header, *(n.upper() for n in names))
            if math.isnan(mjd) and column is not None:
                msg = (
                    f"{self.path} has neither a column nor metadata {column!r}"
                    f"{closest(column, self.columns)}"
                )
                raise UsageError(msg)
        if math.isnan(mjd):
            return from_header
        return ExposureTime(mjd, from_header.duration, math.nan)

    def _one_time(self, column: str) -> float:
        values = self.numbers(column)
        finite = values[np.isfinite(values)]
        if not len(finite):
            return math.nan
        if np.ptp(finite) > 1.0:
            msg = (
                f"column {column!r} of {self.path} spans {np.ptp(finite):.1f} days; a table is of "
                "one AOR, which has one time"
            )
            raise UsageError(msg)
        return float(np.median(finite))


def read_catalogue(path: str | Path) -> Catalogue:
    """Read a catalogue, whatever its format.

    Raises
    ------
    UsageError
        The file is missing, damaged, of no known format, or has no rows.
    """
    path = Path(path)
    try:
        with silent_astropy():
            catalogue = _read(path)
    except UsageError:
        raise
    except _TROUBLE as error:
        sentence = " ".join(str(error).split())[:200] or type(error).__name__
        msg = f"the table {path} cannot be read: {sentence}"
        raise UsageError(msg) from error
    if not catalogue.columns or not len(catalogue):
        msg = f"the table {path} has no rows"
        raise UsageError(msg)
    return catalogue


def catalogue_of(table: Any, where: str) -> Catalogue:
    """Return a table that is in memory as a catalogue.

    Parameters
    ----------
    table
        An astropy Table, a pandas DataFrame, or a mapping of arrays.
    where
        What to call it.

    Raises
    ------
    UsageError
        It is no table.
    """
    try:
        if hasattr(table, "to_numpy") and hasattr(table, "columns"):
            table = {str(name): table[name].to_numpy() for name in table.columns}
        return _plain_catalogue(Table(table, copy=False), where, fits.Header())
    except _TROUBLE as error:
        msg = f"{where} is no table: {' '.join(str(error).split())[:200]}"
        raise UsageError(msg) from error


def _read(path: Path) -> Catalogue:
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start:
        msg = f"the table {path} is empty"
        raise UsageError(msg)
    if start.startswith((b"SIMPLE  =", b"\x1f\x8b")):
        return _read_fits(path)
    form = _format_of(start, path)
    table = Table.read(path, format=form)
    return _plain_catalogue(table, str(path), _header_of(table.meta))


def _format_of(start: bytes, path: Path) -> str:
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"# %ECSV"):
        return "ascii.ecsv"
    if _SEXTRACTOR_HEAD.match(start):
        return "ascii.sextractor"
    if start.lstrip().startswith((b"<?xml", b"<VOTABLE")):
        return "votable"
    if b"\0" not in start and b"," in start.split(b"\n", 1)[0]:
        return "ascii.csv"
    msg = (
        f"the table {path} is of no known format: FITS (SExtractor's FITS_LDAC too), SExtractor's "
        "ASCII_HEAD, ECSV, CSV with names in the first line, Parquet or VOTable"
    )
    raise UsageError(msg)


def _read_fits(path: Path) -> Catalogue:
    with fits.open(path, memmap=False) as hdus:
        tables = [h for h in hdus if isinstance(h, fits.BinTableHDU | fits.TableHDU)]
        objects = [h for h in tables if h.name == "LDAC_OBJECTS"]
        image_headers = [h for h in tables if h.name == "LDAC_IMHEAD"]
        if len(objects) > 1:
            msg = f"{path} holds the catalogues of {len(objects)} images; give one file for each"
            raise UsageError(msg)
        others = [h for h in tables if h.name != "LDAC_IMHEAD"]
        if not others:
            msg = f"the FITS file {path} holds no table"
            raise UsageError(msg)
        chosen = (objects or others)[0]
        header = fits.Header(hdus[0].header, copy=True)
        header.extend(chosen.header, unique=True)
        for hdu in image_headers[:1]:
            header.update(_ldac_header(hdu))
        return _plain_catalogue(Table.read(chosen, format="fits"), str(path), header)


def _ldac_header(hdu: fits.BinTableHDU) -> fits.Header:
    """Return the header of the image, which SExtractor puts into a table of one cell of cards."""
    text = "".join(f"{card!s:<80}" for card in np.atleast_1d(hdu.data[0][0]))
    cards = [text[k : k + 80] for k in range(0, len(text), 80)]
    return fits.Header.fromstring("".join(c.ljust(80) for c in cards if c.strip() != "END"))


def _header_of(meta: Mapping[str, Any]) -> fits.Header:
    """Return metadata as header cards: numbers and text of names that a card can have."""
    header = fits.Header()
    for key, value in meta.items():
        name = str(key).upper()
        if isinstance(value, str | int | float) and re.fullmatch(r"[A-Z0-9_-]{1,8}", name):
            header[name] = value.isoformat() if hasattr(value, "isoformat") else value
    return header


def _plain_catalogue(table: Table, where: str, header: fits.Header) -> Catalogue:
    columns: dict[str, NDArray[Any]] = {}
    units: dict[str, str] = {}
    for name in table.colnames:
        column = table[name]
        if isinstance(column, SkyCoord):
            columns.setdefault("ra", np.asarray(column.icrs.ra.deg))
            columns.setdefault("dec", np.asarray(column.icrs.dec.deg))
            continue
        values = _plain(column)
        if values is None:
            continue
        columns[str(name)] = values
        if getattr(column, "unit", None) is not None:
            units[str(name)] = str(column.unit)
    return Catalogue(where, columns, units, header)


def _plain(column: Any) -> NDArray[Any] | None:
    """Return a column as a plain array, NaN or an empty text where masked; None for others."""
    if isinstance(column, Time):
        return np.asarray(np.ma.filled(column.utc.mjd, np.nan))
    masked: Any = np.ma.asarray(getattr(column, "value", column))
    if masked.dtype.kind == "O":
        masked = np.ma.asarray(_of_objects(masked.tolist()))
    if masked.dtype.kind == "S":
        masked = masked.astype(str)
    if masked.dtype.kind not in "biufU":
        return None
    if np.ma.is_masked(masked):
        text = masked.dtype.kind == "U"
        return np.asarray(masked.filled("") if text else masked.astype(np.float64).filled(np.nan))
    plain = np.asarray(masked.data)
    return plain.astype(plain.dtype.newbyteorder("="), copy=False)


def _of_objects(values: Sequence[Any]) -> NDArray[Any]:
    """Return Python objects as an array: numbers (None is NaN), vectors of one length, or text."""
    if all(value is None or isinstance(value, int | float) for value in values):
        return np.array([math.nan if v is None else v for v in values], dtype=np.float64)
    if any(isinstance(value, str | bytes) for value in values):
        return np.array(["" if v is None else str(v) for v in values])
    return np.array(values)
