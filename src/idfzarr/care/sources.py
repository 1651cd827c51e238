"""Whether the mosaics and tables that a store was made from are still what they were.

The ledger names every one of them with its size and sha256. What lies elsewhere by now, or not on
this machine at all, is no fault of the store; what is there and differs makes the store stale.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.progress import silent
from idfzarr.store.schema import LIGHTCURVES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from idfzarr.progress import Progress
    from idfzarr.store.ledger import LedgerState, Record

__all__ = ["SourceFile", "SourcesChecked", "check_sources", "source_files"]

_WINDOW = 1 << 20
_GONE = (errno.ENOENT, errno.ENOTDIR)
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_WHERE = Where(array=LIGHTCURVES)


@dataclass(frozen=True)
class SourceFile:
    """A file that a store was made from, as the ledger notes it.

    Attributes
    ----------
    aor, channel
        Whose measurements came of it.
    path
        Where it was.
    size, sha256
        Of its bytes.
    mtime_ns
        When it was last changed, as it was then; None where that is not noted.
    """

    aor: str
    channel: str
    path: str
    size: int
    sha256: str
    mtime_ns: int | None = None


@dataclass(frozen=True)
class SourcesChecked:
    """What became of the sources.

    Attributes
    ----------
    findings
        In the order of their paths.
    n_files
        Files that the ledger names.
    n_read
        Bytes read.
    """

    findings: tuple[Finding, ...] = ()
    n_files: int = 0
    n_read: int = 0


def source_files(state: LedgerState) -> list[SourceFile]:
    """Return the files that the newest records of a ledger name, sorted by path.

    Parameters
    ----------
    state
        What the ledger says of this store.

    Returns
    -------
    list of SourceFile
        One for each kind of file of an AOR and channel: the one that was measured last.
    """
    newest: dict[tuple[str, ...], SourceFile] = {}
    for record in state.of("registered", "staged"):
        for source in _sources_of(record):
            whose = tuple(str(source.get(name, "")) for name in ("aor", "channel", "image"))
            for file in source.get("files") or ():
                told = _source_file(whose, file)
                if told is not None:
                    newest[*whose, str(file.get("kind", ""))] = told
    by_path = {file.path: file for file in newest.values()}
    return [by_path[path] for path in sorted(by_path)]


def _sources_of(record: Record) -> Iterator[Mapping[str, Any]]:
    fields = record.fields
    if record.kind == "registered":
        yield fields
    else:
        yield from (s for s in fields.get("sources") or () if isinstance(s, dict))


def _source_file(whose: tuple[str, ...], file: Any) -> SourceFile | None:
    try:
        mtime_ns = file.get("mtime_ns")
        return SourceFile(
            aor=whose[0],
            channel=whose[1],
            path=str(file["path"]),
            size=int(file["size"]),
            sha256=str(file["sha256"]),
            mtime_ns=None if mtime_ns is None else int(mtime_ns),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # a record of another version, which says less


def check_sources(
    state: LedgerState, *, verify: bool = True, workers: int = 2, progress: Progress = silent
) -> SourcesChecked:
    """Compare the files that a store was made from with what the ledger notes of them.

    Parameters
    ----------
    state
        What the ledger says of this store.
    verify
        Read every file and compare its sha256. Otherwise a file of the same size and time is taken
        to be the same, and only the others are read.
    workers
        Threads.
    progress
        Told files.

    Returns
    -------
    SourcesChecked
        ``source_missing`` for files that are gone, one for all of a folder that is gone whole, and
        for those that this user may not read;
        ``source_changed`` for files that are there and differ.
    """
    files = source_files(state)
    outcomes: list[tuple[str, int]] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            for outcome in pool.map(lambda file: _examine(file, verify=verify), files):
                outcomes.append(outcome)
                progress("sources", len(outcomes), len(files))
        finally:
            pool.shutdown(cancel_futures=True)
    gone = [file for file, (what, _) in zip(files, outcomes, strict=True) if what == _MISSING]
    found = _missing(gone, files)
    for file, (what, _) in zip(files, outcomes, strict=True):
        if what not in {_SAME, _MISSING}:
            told = f"{file.path} (AOR {file.aor}, {file.channel}) {what}"
            kind = "source_missing" if what == _BARRED else "source_changed"
            found.append(finding(kind, _WHERE, told))
    return SourcesChecked(tuple(found), len(files), sum(n for _, n in outcomes))


_SAME, _MISSING, _BARRED = "is the same", "is missing", "may not be read by this user"


def _examine(file: SourceFile, *, verify: bool) -> tuple[str, int]:
    """Return what became of a file, and the bytes read to know."""
    path = file.path.removeprefix("file://")
    if "://" in path:
        return _SAME, 0  # not on this machine: nothing can be said without downloading it
    try:
        # A name in a ledger may lead to a pipe or a device by now; those are not read.
        handle = os.open(path, _FLAGS)
        try:
            return _compare(handle, file, verify=verify)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno in {errno.EACCES, errno.EPERM}:
            return _BARRED, 0
        told = f"cannot be read: {error.strerror or error}"
        return (_MISSING if error.errno in _GONE else told), 0


def _compare(handle: int, file: SourceFile, *, verify: bool) -> tuple[str, int]:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        return "is no file any more", 0
    if status.st_size != file.size:
        return f"has {status.st_size} bytes, it had {file.size}", 0
    if not verify and status.st_mtime_ns == file.mtime_ns:
        return _SAME, 0
    same = _sha256(handle) == file.sha256
    return (_SAME if same else "has another sha256 than when it was measured"), status.st_size


def _sha256(handle: int) -> str:
    digest = hashlib.sha256()
    while window := os.read(handle, _WINDOW):
        digest.update(window)
    return digest.hexdigest()


def _missing(gone: Sequence[SourceFile], files: Sequence[SourceFile]) -> list[Finding]:
    """Tell what is missing, folders that are gone whole in one sentence each."""
    n_of: dict[str, int] = defaultdict(int)
    for file in files:
        n_of[str(PurePath(file.path).parent)] += 1
    missing: dict[str, list[SourceFile]] = defaultdict(list)
    for file in gone:
        missing[str(PurePath(file.path).parent)].append(file)
    found = []
    for folder, inside in missing.items():
        if len(inside) == n_of[folder] > 1:
            told = f"none of the {len(inside)} files that were measured is in {folder} any more"
            found.append(finding("source_missing", _WHERE, told))
            continue
        for file in inside:
            told = f"{file.path} (AOR {file.aor}, {file.channel}) is not there any more"
            found.append(finding("source_missing", _WHERE, told))
    return found
