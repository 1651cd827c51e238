"""What the pretended Pan-STARRS1 archive holds, and how it answers, without a network.

Paths and replies follow the Space Telescope Science Institute's image server, its list of files
(``ps1filenames.py``), the copy in the cloud and the download of the Mikulski Archive (MAST).
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from idfzarr.errors import IdfzarrError, UsageError
from idfzarr.ps1 import skycell as cells
from idfzarr.testing.ps1_files import file_bytes, file_name, parse_file_name, relative_path
from idfzarr.testing.ps1_reply import Reply, ServedFile
from idfzarr.testing.ps1_sky import BANDS, PS1Sky

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["CLOUD", "IMAGES", "LIST", "MAST", "Archive", "file_reply", "list_reply", "name_at"]

IMAGES = "/rings.v3.skycell/"
"""Below it lie the files: ``1405/053/rings.v3...fits``."""
CLOUD = "/stpubdata/panstarrs/ps1/public/rings.v3.skycell/"
"""The same in the public bucket ``stpubdata``."""
MAST = "/api/v0.1/Download/file"
"""With ``?uri=mast:PS1/product/<name>``."""
LIST = "/cgi-bin/ps1filenames.py"
"""With ``?skycell=1405.053`` or ``?ra=...&dec=...``."""

_MAST_PREFIX = "mast:PS1/product/"
_MODIFIED = datetime(2017, 3, 21, 12, 0, 0, tzinfo=UTC)
_COLUMNS = "projcell subcell ra dec filter mjd type filename shortname badflag"
_TYPES = {"stack": "image", "stack.wt": "weight", "stack.mask": "mask"}
# The archive knows these too; the pretended one has none of them.
_EMPTY_TYPES = {"stack.num", "stack.exp", "stack.expwt", "stack.psf", "stack.mdc", "stack.cmf"}
_EMPTY_TYPES |= {"warp", "warp.wt", "warp.mask"}
_CACHE_BYTES = 400_000_000


class Archive:
    """The files that are served: made when first asked for, or taken from a folder.

    Parameters
    ----------
    source
        A sky, or a folder with files under the archive's names, flat or in ``PPPP/0YX/``.
    absent
        Globs of file names that are not there, such as ``*.1405.053.stk.g.*``.
    bad
        Globs of file names whose badflag is 1.
    compression
        As of `idfzarr.testing.ps1_files.file_bytes`.
    """

    def __init__(
        self,
        source: PS1Sky | Path,
        *,
        absent: Iterable[str] = (),
        bad: Iterable[str] = (),
        compression: str = "RICE_1",
    ) -> None:
        self.source = source
        self.absent = tuple(absent)
        self.bad = tuple(bad)
        self._compression = compression
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._making: dict[tuple[str, int], threading.Lock] = {}

    def has(self, name: str) -> bool:
        """Return whether there is a file of that name."""
        asked = parse_file_name(name)
        if asked is None or any(fnmatchcase(name, pattern) for pattern in self.absent):
            return False
        try:
            cells.parse(asked.skycell)
        except IdfzarrError:
            return False
        if isinstance(self.source, PS1Sky):
            return self.source.has(asked.skycell, asked.band)
        return self._path(name) is not None

    def _path(self, name: str) -> Path | None:
        asked = parse_file_name(name)
        if asked is None or isinstance(self.source, PS1Sky):
            return None
        deep = relative_path(asked.skycell, asked.band, asked.kind)
        for path in (self.source / deep, self.source / name):
            if path.is_file():
                return path
        return None

    def bytes_of(self, name: str, version: int = 0) -> bytes:
        """Return a file, whether absent or not.

        Parameters
        ----------
        name
            Of the file.
        version
            0 is the file as it is; 1 is what takes its place when it changes: the same of another
            sky, or, from a folder, bytes that are no image any more.

        Raises
        ------
        UsageError
            The name is none of the archive's, or the folder does not have it.
        """
        key = (name, version)
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            made = self._made(name, version)
            with self._lock:
                self._kept[key] = made
                while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _CACHE_BYTES:
                    self._kept.popitem(last=False)
        return made

    def _made(self, name: str, version: int) -> bytes:
        asked, path = parse_file_name(name), self._path(name)
        if path is not None:
            body = path.read_bytes()
            return body.translate(bytes(range(255, -1, -1))) if version else body
        if asked is None or not isinstance(self.source, PS1Sky):
            msg = f"the archive has no file {name!r}"
            raise UsageError(msg)
        sky = replace(self.source, seed=self.source.seed + version)
        return file_bytes(sky, asked.skycell, asked.band, asked.kind, compression=self._compression)

    def file(self, name: str) -> ServedFile:
        """Return a file with its validators; the tag is strong and follows from the bytes."""
        body = self.bytes_of(name)
        digest = hashlib.blake2b(body, digest_size=8).hexdigest()
        return ServedFile(body, f'"{len(body):x}-{digest}"', _MODIFIED)


def name_at(path: str, query: Mapping[str, str]) -> str | None:
    """Return which file a request is for; None where no file can be."""
    if path == MAST:
        uri = query.get("uri", "")
        return uri.removeprefix(_MAST_PREFIX) if uri.startswith(_MAST_PREFIX) else None
    for folder in (IMAGES, CLOUD):
        name = path.rpartition("/")[2]
        asked = parse_file_name(name) if path.startswith(folder) else None
        if asked is not None:
            _, projection, cell = asked.skycell.split(".")
            return name if path == f"{folder}{projection}/{cell}/{name}" else None
    return None


def not_found(path: str) -> Reply:
    """Return the 404 of each of the servers."""
    if path.startswith("/stpubdata/"):
        return Reply.of_text(
            404,
            '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code>'
            "<Message>The specified key does not exist.</Message></Error>",
            "application/xml",
        )
    if path == MAST:
        return Reply.of_text(404, '{"detail": "Not Found"}', "application/json")
    return Reply.of_text(404, "<html><body><h1>Not Found</h1></body></html>\n", "text/html")


def file_reply(file: ServedFile, headers: Mapping[str, str]) -> Reply:
    """Return the reply to a request for a file: 200, 206, 304, 412 or 416.

    Follows RFC 9110, sections 13.1 (preconditions) and 14 (ranges); several ranges at once are
    answered with the whole file, as section 14.2 allows.

    Parameters
    ----------
    file
        What is served.
    headers
        Of the request.
    """
    total = len(file.body)
    whole = Reply(
        200,
        {
            "Content-Type": "image/fits",
            "Last-Modified": format_datetime(file.modified, usegmt=True),
        },
        file.body,
        total,
    ).with_headers(ETag=file.etag, Accept_Ranges="bytes" if file.ranges else None)
    if "If-Match" in headers and not _matches(headers["If-Match"], file.etag, weakly=False):
        return Reply(412)
    if "If-None-Match" in headers and _matches(headers["If-None-Match"], file.etag, weakly=True):
        return replace(whole, status=304, body=b"", length=0)
    wanted = headers.get("Range")
    if wanted is None or not file.ranges or not _same(headers.get("If-Range"), file):
        return whole
    span = _span(wanted, total)
    if span is None:
        return whole
    start, stop = span
    if start >= total or stop <= start:
        return Reply(416, {"Content-Range": f"bytes */{total}"})
    part = replace(whole, status=206, body=file.body[start:stop], length=stop - start)
    return part.with_headers(Content_Range=f"bytes {start}-{stop - 1}/{total}")


def _matches(condition: str, etag: str | None, *, weakly: bool) -> bool:
    if etag is None:
        return False
    tags = {tag.strip() for tag in condition.split(",")}
    if weakly:
        return "*" in tags or etag.removeprefix("W/") in {t.removeprefix("W/") for t in tags}
    return "*" in tags or (etag in tags and not etag.startswith("W/"))


def _same(condition: str | None, file: ServedFile) -> bool:
    if condition is None:
        return True
    if condition.startswith(('"', "W/")):
        return _matches(condition, file.etag, weakly=False)
    try:
        return parsedate_to_datetime(condition) == file.modified
    except ValueError:
        return False


def _span(wanted: str, total: int) -> tuple[int, int] | None:
    """Return the bytes asked for, (start, stop); None where the header is to be ignored."""
    unit, _, spans = wanted.partition("=")
    first, dash, last = spans.strip().partition("-")
    numbers = all(not text or (text.isascii() and text.isdigit()) for text in (first, last))
    if unit.strip() != "bytes" or not dash or not numbers or not (first or last):
        return None
    if not first:
        return (max(total - int(last), 0), total) if int(last) else (total, total)
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, total) if last else total


def list_reply(archive: Archive, query: Mapping[str, str], positions: str | None = None) -> Reply:
    """Return the reply of ``ps1filenames.py``: one line per file, columns apart by spaces.

    Parameters
    ----------
    archive
        What there is.
    query
        ``skycell`` (one, ``1405.053``) or ``ra`` and ``dec``; ``filters``, ``type`` (several,
        apart by commas). ``format`` changes nothing, as in the real one.
    positions
        In place of them, lines of right ascension and declination.
    """
    filters = query.get("filters", BANDS)
    types = query.get("type", "stack").split(",")
    unknown = [t for t in types if t not in _TYPES and t not in _EMPTY_TYPES]
    try:
        if unknown or not set(filters) <= set(BANDS):
            msg = f"unknown type or filter: {','.join(unknown) or filters}"
            raise UsageError(msg)
        asked = _skycells(query, positions)
    except (IdfzarrError, ValueError) as error:
        return Reply.of_text(400, f"Error: {error}\n")
    rows = [
        _row(archive, name, band, kind)
        for name in asked
        for band in BANDS
        if band in filters
        for kind in types
        if kind in _TYPES and archive.has(file_name(name, band, _TYPES[kind]))
    ]
    return Reply.of_text(200, "".join(f"{line}\n" for line in [_COLUMNS, *rows]))


def _skycells(query: Mapping[str, str], positions: str | None) -> list[str]:
    if positions is not None:
        places = [line.split()[:2] for line in positions.splitlines() if line.strip()]
    elif "skycell" in query:
        text = query["skycell"].removeprefix("skycell.")
        projection, _, cell = text.partition(".")
        if not (projection.isdigit() and cell.isdigit()):
            msg = f"skycell must be given as projcell.subcell, not {text}"
            raise UsageError(msg)
        try:
            return [cells.parse(f"{int(projection)}.{int(cell):03d}").name]
        except IdfzarrError:
            return []
    elif "ra" in query and "dec" in query:
        places = [[query["ra"], query["dec"]]]
    else:
        msg = "give skycell, or ra and dec"
        raise UsageError(msg)
    found = []
    for place in places:
        if len(place) != 2:
            msg = f"a line must hold ra and dec, not {' '.join(place)}"
            raise UsageError(msg)
        found.append(_best(float(place[0]), float(place[1])))
    return list(dict.fromkeys(name for name in found if name is not None))


def _best(ra: float, dec: float) -> str | None:
    try:
        return cells.best(ra, dec)
    except IdfzarrError:
        if not (abs(dec) <= 90 and math.isfinite(ra)):
            raise
        return None


def _row(archive: Archive, name: str, band: str, kind: str) -> str:
    cell = cells.parse(name)
    ny, nx = cells.shape(name)
    # The archive takes its pixels, counted from 0, for those of FITS, counted from 1.
    ra, dec = cells.pixel_to_sky(name, (nx - 1) / 2 - 1, (ny - 1) / 2 - 1)
    short = file_name(name, band, _TYPES[kind])
    path = IMAGES + relative_path(name, band, _TYPES[kind])
    bad = int(any(fnmatchcase(short, pattern) for pattern in archive.bad))
    place = f"{cell.projection} {cell.cell} {float(ra)!r} {float(dec)!r}"
    return f"{place} {band} 0.0 {kind} {path} {short} {bad}"
