"""The AORs of a field in time order, from an AOR table, from headers, or from both."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from xml.parsers.expat import ExpatError

import numpy as np
from astropy import units
from astropy.io import fits
from astropy.table import Column, MaskedColumn, Table
from astropy.time import Time
from yaml import YAMLError

from idfzarr.errors import AorTableError, closest
from idfzarr.imaging.discovery import Skipped, natural
from idfzarr.imaging.fits_image import silent_astropy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.imaging.discovery import MosaicFiles
    from idfzarr.imaging.mosaic import MosaicHeader

__all__ = ["AorList", "AorTable", "find_aor_table", "match_aors", "read_aor_table"]

TABLE_NAMES = tuple(
    f"{stem}{end}"
    for stem in ("aors", "aor_table")
    for end in (".ecsv", ".csv", ".fits", ".vot", ".xml")
)
"""Names that `find_aor_table` takes for an AOR table."""

_FORMATS = {
    ".ecsv": "ascii.ecsv",
    ".csv": "ascii.csv",
    ".fits": "fits",
    ".fit": "fits",
    ".vot": "votable",
    ".xml": "votable",
}
_NUMBER = re.compile(r"r?(\d+)")
_INT64_MAX = 2**63 - 1
_TROUBLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    UnicodeError,
    YAMLError,
    ExpatError,
    fits.VerifyError,
)


@dataclass(frozen=True)
class AorTable:
    """An AOR table, checked.

    Attributes
    ----------
    path
        The file it came from.
    reqkey
        Shape (n,): the AORs' numbers.
    name
        Their names (``group_name``), which the mosaics' file names carry.
    mjd
        From channel to shape (n,), MJD in UTC, middle of the exposure; the key ``""`` is a column
        ``mjd`` that holds for every channel.
    exptime
        Likewise, in seconds.
    columns
        All other columns of numbers or text, each of shape (n, ...).
    """

    path: Path
    reqkey: NDArray[np.int64]
    name: tuple[str, ...]
    mjd: Mapping[str, NDArray[np.float64]]
    exptime: Mapping[str, NDArray[np.float64]]
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        return len(self.name)


@dataclass(frozen=True)
class AorList:
    """The AORs of a build, in time order.

    Attributes
    ----------
    reqkey
        Shape (aor,): their numbers, unique.
    name
        Their names.
    channels
        The channels, in natural order.
    mjd, exptime, bjd_tdb
        Shape (aor, channel): middle of the exposure as MJD in UTC, seconds, and BJD in TDB; NaN
        where an AOR has no mosaic in a channel, or nothing is known.
    columns
        Other columns of the AOR table, for these AORs.
    without_image
        Rows of the table that no mosaic belongs to.
    without_row
        Mosaics that no row of the table belongs to, which are therefore left out.
    """

    reqkey: NDArray[np.int64]
    name: tuple[str, ...]
    channels: tuple[str, ...]
    mjd: NDArray[np.float64]
    exptime: NDArray[np.float64]
    bjd_tdb: NDArray[np.float64]
    columns: Mapping[str, NDArray[Any]]
    without_image: tuple[Skipped, ...]
    without_row: tuple[Skipped, ...]

    def __len__(self) -> int:
        return len(self.name)


def find_aor_table(folder: str | Path) -> Path | None:
    """Return the AOR table that lies in a folder by its usual name, or None.

    Raises
    ------
    AorTableError
        Several files have such a name.
    """
    there = [Path(folder) / name for name in TABLE_NAMES if (Path(folder) / name).is_file()]
    if len(there) > 1:
        listed = ", ".join(path.name for path in there)
        msg = f"{folder} holds {len(there)} AOR tables ({listed}): say which one to use"
        raise AorTableError(msg)
    return there[0] if there else None


def read_aor_table(path: str | Path) -> AorTable:
    """Read an AOR table: ECSV, CSV, FITS or VOTable, by the end of its name.

    Needed are ``reqkey`` (an integer, or text such as ``r58520832``), ``group_name`` (the AOR's
    name in file names) and a time: ``mjd``, or ``mjd_ch1``, ``mjd_ch2``... per channel (numbers are
    days in UTC; astropy Time columns are converted). ``exptime`` or ``exptime_ch1``... in seconds
    are used where there are any, and all other columns are kept. Upper and lower case do not
    matter.

    Raises
    ------
    AorTableError
        The file is missing or no table, a column is missing, an AOR stands there twice, or has no
        finite time in any channel.
    """
    path = Path(path)
    table = _read_table(path)
    if not len(table):
        msg = f"the AOR table {path} has no rows"
        raise AorTableError(msg)
    by_lower = {str(name).lower(): str(name) for name in table.colnames}
    _require(by_lower, path)
    reqkey = _reqkeys(table[by_lower["reqkey"]], path)
    name = tuple(str(value).strip() for value in table[by_lower["group_name"]])
    _refuse_twice("reqkey", [str(key) for key in reqkey], path)
    _refuse_twice("group_name", list(name), path)
    mjd = _per_channel(table, by_lower, "mjd", path)
    _refuse_timeless(mjd, name, path)
    exptime = _per_channel(table, by_lower, "exptime", path)
    used = {"reqkey", "group_name"}
    used |= {lower for lower in by_lower if re.fullmatch(r"(mjd|exptime)(_\w+)?", lower)}
    columns = {
        original: values
        for lower, original in by_lower.items()
        if lower not in used and (values := _plain(table[original])) is not None
    }
    return AorTable(path, reqkey, name, mjd, exptime, MappingProxyType(columns))


def match_aors(
    mosaics: Sequence[MosaicFiles], table: AorTable | None, headers: Sequence[MosaicHeader]
) -> AorList:
    """Bring mosaics and AOR table together, in time order.

    Parameters
    ----------
    mosaics
        All mosaics of the field.
    table
        The AOR table; without one, times come from the headers and an AOR's number is AORKEY where
        that is different for every AOR, else the number in its name where those are different
        (``gr12`` is 12), else its place in the order of time, from 1.
    headers
        Of the mosaics, in the same order.

    Returns
    -------
    AorList
        Only AORs with a mosaic, and with a row where there is a table; what is left over on either
        side stands in ``without_image`` and ``without_row``.

    Raises
    ------
    AorTableError
        Nothing matches at all, or a mosaic has a time neither in the table nor in its header.

    Notes
    -----
    The order is that of the median MJD over an AOR's channels, then of its number. A time in the
    table goes before one in a header; ``bjd_tdb`` is the header's, moved by as much.
    """
    if len(mosaics) != len(headers):
        msg = f"{len(mosaics)} mosaics were given with {len(headers)} headers"
        raise ValueError(msg)
    rows = {name: row for row, name in enumerate(table.name)} if table else {}
    kept = [k for k, files in enumerate(mosaics) if table is None or files.aor in rows]
    without_row = tuple(
        _without_row(files, table)
        for files in mosaics
        if table is not None and files.aor not in rows
    )
    names = tuple(sorted({mosaics[k].aor for k in kept}, key=natural))
    if not names:
        raise AorTableError(_nothing_matches(mosaics, table))
    channels = tuple(sorted({mosaics[k].channel for k in kept}, key=natural))
    mjd, exptime, bjd = (np.full((len(names), len(channels)), np.nan) for _ in range(3))
    place = {name: row for row, name in enumerate(names)}
    for k in kept:
        files, header = mosaics[k], headers[k]
        at = place[files.aor], channels.index(files.channel)
        mjd[at], exptime[at], bjd[at] = _times(files, header, table, rows)
    if table is None:
        keys = _keys_without_table(names, [mosaics[k] for k in kept], [headers[k] for k in kept])
    else:
        keys = table.reqkey[[rows[name] for name in names]]
    middle = np.array([np.median(row[np.isfinite(row)]) for row in mjd])
    order = np.lexsort((np.arange(len(names)) if keys is None else keys, middle))
    reqkey = np.arange(1, len(names) + 1, dtype=np.int64) if keys is None else keys[order]
    ordered = tuple(names[k] for k in order)
    columns = {
        column: values[[rows[name] for name in ordered]]
        for column, values in (table.columns.items() if table else ())
    }
    return AorList(
        reqkey=reqkey,
        name=ordered,
        channels=channels,
        mjd=mjd[order],
        exptime=exptime[order],
        bjd_tdb=bjd[order],
        columns=MappingProxyType(columns),
        without_image=_without_image(table, set(names)),
        without_row=without_row,
    )


def _read_table(path: Path) -> Table:
    form = _FORMATS.get(path.suffix.lower())
    if form is None:
        ends = ", ".join(_FORMATS)
        msg = f"the AOR table {path} is of no known format: its name must end in one of {ends}"
        raise AorTableError(msg)
    try:
        with silent_astropy():
            if form == "ascii.csv" and path.read_bytes()[:7] == b"# %ECSV":
                form = "ascii.ecsv"
            return Table.read(path, format=form)
    except _TROUBLE as error:
        sentence = " ".join(str(error).split())[:200]
        msg = f"the AOR table {path} cannot be read as {form}: {sentence}"
        raise AorTableError(msg) from error


def _require(by_lower: Mapping[str, str], path: Path) -> None:
    wanted = [name for name in ("reqkey", "group_name") if name not in by_lower]
    if not any(re.fullmatch(r"mjd(_\w+)?", name) for name in by_lower):
        wanted.append("mjd")
    if wanted:
        near = "".join(f" ({name}{closest(name, by_lower.values())})" for name in wanted)
        msg = (
            f"the AOR table {path} lacks the column{'s' if len(wanted) > 1 else ''} "
            f"{', '.join(wanted)}; it has {', '.join(by_lower.values())}{near}"
        )
        raise AorTableError(msg)


def _reqkeys(column: Column, path: Path) -> NDArray[np.int64]:
    keys = [_integer(value) for value in column]
    for row, (key, value) in enumerate(zip(keys, column, strict=True)):
        if key is None or not -_INT64_MAX <= key <= _INT64_MAX:
            msg = f"the AOR table {path} has the reqkey {value} in row {row + 1}: not an integer"
            raise AorTableError(msg)
    return np.array(keys, dtype=np.int64)


def _integer(value: Any) -> int | None:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value.strip())
        return int(match[1]) if match else None
    whole = isinstance(value, (int, np.integer)) or (
        isinstance(value, (float, np.floating)) and float(value).is_integer()
    )
    return int(value) if whole else None


def _refuse_twice(column: str, values: Sequence[str], path: Path) -> None:
    seen: dict[str, int] = {}
    for row, value in enumerate(values):
        if value in seen:
            msg = (
                f"the AOR table {path} has {column} {value} twice, in rows {seen[value] + 1} and "
                f"{row + 1}"
            )
            raise AorTableError(msg)
        seen[value] = row


def _per_channel(
    table: Table, by_lower: Mapping[str, str], stem: str, path: Path
) -> Mapping[str, NDArray[np.float64]]:
    """Return the columns ``stem`` and ``stem_ch1``... as float64, NaN where masked."""
    found = {}
    for lower, original in by_lower.items():
        if lower == stem or lower.startswith(f"{stem}_"):
            found[lower[len(stem) + 1 :]] = _numbers(table[original], original, path)
    return MappingProxyType(found)


def _numbers(column: Any, name: str, path: Path) -> NDArray[np.float64]:
    if isinstance(column, Time):
        return np.asarray(np.ma.filled(column.utc.mjd, np.nan), dtype=np.float64)
    target = units.day if name.lower().startswith("mjd") else units.s
    unit = column.unit
    try:
        plain = column.value if isinstance(column, units.Quantity) else column
        numbers = np.asarray(np.ma.filled(np.ma.asarray(plain, dtype=np.float64), np.nan))
    except (ValueError, TypeError) as error:
        msg = f"the AOR table {path} has a column {name} that is not of numbers: {error}"
        raise AorTableError(msg) from error
    # A unit that is no time, or none, leaves the numbers as the documentation says they are.
    convertible = isinstance(unit, units.UnitBase) and unit.is_equivalent(target)
    return numbers * unit.to(target) if convertible else numbers


def _refuse_timeless(
    mjd: Mapping[str, NDArray[np.float64]], name: Sequence[str], path: Path
) -> None:
    stacked = np.stack(list(mjd.values()))
    bad = np.isinf(stacked).any(axis=0) | ~np.isfinite(stacked).any(axis=0)
    if bad.any():
        first = int(np.argmax(bad))
        msg = (
            f"the AOR table {path} has no finite mjd for AOR {name[first]} in row {first + 1} "
            f"({int(bad.sum())} such rows)"
        )
        raise AorTableError(msg)


def _plain(column: Any) -> NDArray[Any] | None:
    """Return a column as an array: NaN or an empty text where masked, MJD for times."""
    if isinstance(column, Time):
        return np.asarray(np.ma.filled(column.utc.mjd, np.nan))
    if isinstance(column, units.Quantity):
        return np.asarray(column.value)
    if not isinstance(column, Column) or column.dtype.kind not in "biufUS":
        return None
    if column.dtype.kind == "S":
        # FITS tables hold bytes.
        column = column.astype(str)
    if isinstance(column, MaskedColumn) and np.any(column.mask):
        text = column.dtype.kind in "US"
        return np.asarray(column.filled("") if text else column.astype(np.float64).filled(np.nan))
    return np.asarray(column)


def _times(
    files: MosaicFiles,
    header: MosaicHeader,
    table: AorTable | None,
    rows: Mapping[str, int],
) -> tuple[float, float, float]:
    """Return mjd, exptime and bjd_tdb of one mosaic."""
    mjd = _cell(table.mjd, files.channel, rows[files.aor]) if table else math.nan
    exptime = _cell(table.exptime, files.channel, rows[files.aor]) if table else math.nan
    bjd = header.bjd_tdb
    if math.isnan(mjd):
        mjd = header.mjd
    elif math.isfinite(header.mjd):
        bjd += mjd - header.mjd
    if not math.isfinite(mjd):
        where = f"neither {table.path} nor its header has one" if table else "its header has none"
        msg = (
            f"AOR {files.aor} in {files.channel} ({files.sci}) has no time of observation: "
            f"{where}; give an AOR table with a column mjd"
        )
        raise AorTableError(msg)
    return mjd, header.exptime if math.isnan(exptime) else exptime, bjd


def _cell(columns: Mapping[str, NDArray[np.float64]], channel: str, row: int) -> float:
    """Return a channel's own value, else the one that holds for every channel, else NaN."""
    for key in (channel.lower(), ""):
        if key in columns and not math.isnan(columns[key][row]):
            return float(columns[key][row])
    return math.nan


def _keys_without_table(
    names: Sequence[str], mosaics: Sequence[MosaicFiles], headers: Sequence[MosaicHeader]
) -> NDArray[np.int64] | None:
    """Return unique numbers of the AORs from headers or names, or None."""
    from_header: dict[str, set[int | None]] = {name: set() for name in names}
    for files, header in zip(mosaics, headers, strict=True):
        from_header[files.aor].add(header.reqkey)
    # An AOR's channels share its AORKEY; an AOR with two, or none, has no number of its own.
    keys = [next(iter(found)) if len(found) == 1 else None for found in from_header.values()]
    if None in keys or len(set(keys)) < len(names):
        digits = [re.findall(r"[0-9]+", name) for name in names]
        keys = [int(found[0]) if len(found) == 1 else None for found in digits]
    if len(set(keys)) < len(names) or any(key is None or key > _INT64_MAX for key in keys):
        return None
    return np.array(keys, dtype=np.int64)


def _without_row(files: MosaicFiles, table: AorTable | None) -> Skipped:
    where = table.path if table else "the AOR table"
    near = closest(files.aor, table.name) if table else ""
    reason = f"{files.sci}: {where} has no row with group_name {files.aor}{near}"
    return Skipped(files.aor, files.channel, files.sci, "without_row", reason)


def _without_image(table: AorTable | None, names: set[str]) -> tuple[Skipped, ...]:
    if table is None:
        return ()
    return tuple(
        Skipped(
            name,
            "",
            None,
            "without_image",
            f"{table.path} names AOR {name} (reqkey {key}), of which there is no mosaic",
        )
        for name, key in zip(table.name, table.reqkey, strict=True)
        if name not in names
    )


def _nothing_matches(mosaics: Sequence[MosaicFiles], table: AorTable | None) -> str:
    if table is None or not mosaics:
        return "there are no mosaics to make a list of AORs from"
    return (
        f"no group_name of the AOR table {table.path} is the AOR of any mosaic: the table has "
        f"{table.name[0]!r}, the mosaics are called {mosaics[0].aor!r}"
    )
