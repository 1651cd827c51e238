"""A download under way: ``<name>.part``, and beside it ``<name>.part.json`` that says how far.

The note tells address, validators, length, how many bytes are there and their sha256; it is renamed
into place after every block. Whoever goes on reads the bytes again and believes them only if they
match. A lock on the ``.part`` keeps others away: it ends with the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UsageError
from idfzarr.store.place import try_lock, write_all

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

__all__ = ["BLOCK", "Part", "PartNote", "is_strong", "part_path"]

BLOCK = 1 << 20
"""Bytes between two notes: no more is fetched twice after a kill."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MOST_NOTE_BYTES = 1 << 16


@dataclass(frozen=True)
class PartNote:
    """How far a download is.

    Attributes
    ----------
    url
        Where it comes from.
    etag, last_modified
        Validators of the answer; empty where it had none.
    length
        Bytes of the whole file; None where the answer did not say.
    count, sha256
        Bytes that are there, and their digest.
    """

    url: str
    etag: str = ""
    last_modified: str = ""
    length: int | None = None
    count: int = 0
    sha256: str = ""

    @property
    def resumable(self) -> bool:
        """Whether a server can be asked for the rest of the very same file."""
        return is_strong(self.etag) and self.count > 0

    @property
    def whole(self) -> bool:
        """Whether all bytes are there."""
        return self.length is not None and self.count == self.length


def is_strong(etag: str) -> bool:
    """Say whether a validator is strong: the same tag means the same bytes (RFC 9110, 8.8.1)."""
    return len(etag) > 2 and etag[0] == etag[-1] == '"' and '"' not in etag[1:-1]


def part_path(folder: Path, name: str) -> Path:
    """Return the path of a download under way.

    Raises
    ------
    UsageError
        The name could lead out of the folder.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        msg = f"{name[:140]!r} cannot be the name of a download"
        raise UsageError(msg)
    return folder / f"{name}.part"


class Part:
    """A download under way, locked; to be entered after `Part.take`.

    Attributes
    ----------
    note
        How far it is.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self._path, self._handle = path, handle
        self._noted = 0
        self._sha = hashlib.sha256()
        self.note = PartNote(url="")

    @classmethod
    def take(cls, folder: Path, name: str) -> Part | None:
        """Return the download of that name, or None while another process has it.

        Raises
        ------
        UsageError
            The name could lead out of the folder.
        OSError
            Something else stands there, as a link.
        """
        path = part_path(folder, name)
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(path, flags, 0o644)
        try:
            if not try_lock(handle) or not _is_still(path, handle):
                os.close(handle)
                return None
        except BaseException:
            os.close(handle)
            raise
        part = cls(path, handle)
        part._recover()
        return part

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    @property
    def path(self) -> Path:
        """Where the bytes are."""
        return self._path

    @property
    def handle(self) -> int:
        """The open file: of the very bytes that were noted, whatever stands at the path."""
        return self._handle

    @property
    def _note_path(self) -> Path:
        return self._path.with_name(self._path.name + ".json")

    def _recover(self) -> None:
        """Take over what an earlier download left, as far as it matches its own note."""
        note = _read_note(self._note_path)
        if note is None or not 0 < note.count <= os.fstat(self._handle).st_size:
            self.begin(PartNote(url=""))
            return
        sha = hashlib.sha256()
        at = 0
        while at < note.count:
            piece = os.pread(self._handle, min(BLOCK, note.count - at), at)
            sha.update(piece)
            at += len(piece)
        if sha.hexdigest() != note.sha256:
            self.begin(PartNote(url=""))
            return
        os.ftruncate(self._handle, note.count)
        os.lseek(self._handle, note.count, os.SEEK_SET)
        self._sha, self.note, self._noted = sha, note, note.count

    def begin(self, note: PartNote) -> None:
        """Throw away what is there; the file of a new note begins."""
        with suppress(FileNotFoundError):
            self._note_path.unlink()
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        self._sha, self._noted = hashlib.sha256(), 0
        self.note = PartNote(note.url, note.etag, note.last_modified, note.length)

    def add(self, piece: bytes) -> None:
        """Add bytes; a note is taken at the end of every block, wherever pieces end."""
        rest = memoryview(piece)
        while rest:
            room = self._noted + BLOCK - self.note.count
            self._append(rest[:room])
            rest = rest[room:]
            if self.note.count - self._noted >= BLOCK:
                self.take_note()

    def _append(self, piece: memoryview) -> None:
        write_all(self._handle, piece)
        self._sha.update(piece)
        self.note = PartNote(
            self.note.url,
            self.note.etag,
            self.note.last_modified,
            self.note.length,
            self.note.count + len(piece),
        )

    def take_note(self) -> None:
        """Note how far the download is; nobody sees half a note."""
        self.note = PartNote(
            self.note.url,
            self.note.etag,
            self.note.last_modified,
            self.note.length,
            self.note.count,
            self._sha.hexdigest(),
        )
        fresh = self._path.with_name(f"{self._path.name}.json.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(fresh, flags, 0o644)
        try:
            write_all(handle, json.dumps(asdict(self.note)).encode())
        finally:
            os.close(handle)
        os.replace(fresh, self._note_path)
        self._noted = self.note.count

    def remove(self) -> None:
        """Remove it: what it was for is done."""
        fresh = self._path.with_name(f"{self._path.name}.json.new")
        for path in (self._note_path, fresh, self._path):
            with suppress(FileNotFoundError):
                path.unlink()


def _is_still(path: Path, handle: int) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def _read_note(path: Path) -> PartNote | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        told: Any = json.loads(os.read(handle, _MOST_NOTE_BYTES))
    except (ValueError, RecursionError):
        return None
    finally:
        os.close(handle)
    texts = ("url", "etag", "last_modified", "sha256")
    if (
        not isinstance(told, dict)
        or set(told) != {*texts, "length", "count"}
        or not all(isinstance(told[name], str) for name in texts)
        or type(told["count"]) is not int
        or not (told["length"] is None or type(told["length"]) is int)
    ):
        return None
    return PartNote(**told)
