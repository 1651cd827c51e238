"""What people write down about a store: files of lines beside it, only ever appended to.

``field.zarr.notes/notes.jsonl`` and ``lists.jsonl`` hold one JSON object a line. Each ends in the
crc32c of its own bytes, as the ledger's lines do, and names the store by its uuid. What holds now
is the last line of a subject; a line that does not match its crc32c is told and not believed, and
one of another store is left alone. Lines are appended under a lock of the file (``flock``), by as
many sessions and programs at once as there are, each on the ground of what others wrote before. Who
listens hears of every line that this process writes; that others wrote is seen by the file's size.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import unicodedata
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UsageError
from idfzarr.store.ledger import Damage
from idfzarr.store.lines import checked_line, sealed_line
from idfzarr.store.place import LocalPlace, place_of, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from idfzarr.store.place import PlaceLike

__all__ = ["LONGEST_LINE", "NOTES_SUFFIX", "Entry", "Journal", "clean_text"]

NOTES_SUFFIX = ".notes"
"""What the folder of notes is called after the store's."""

LONGEST_LINE = 8 * 2**20
"""Bytes of a line that is read: a list of 300,000 objects is shorter."""

_MOST_BYTES = 2**28  # of a file: a million notes are less
_AT_ONCE = 2**24
_MOST_DAMAGE = 1000
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITE = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_ALLOWED = "\n\t\u200c\u200d\u00ad"  # besides what is printable: joiners make emoji and words
_FILE_MODE = 0o666  # less what the process's umask takes away


@dataclass(frozen=True)
class Entry:
    """What was written down last about a subject.

    Attributes
    ----------
    told
        The fields that the kind of journal has.
    time
        When, UTC, ISO 8601.
    author
        Who, as the server knows them; empty where nobody logs in.
    line
        Number of the line in its file.
    """

    told: Mapping[str, Any]
    time: str
    author: str
    line: int


class Journal:
    """One file of lines about the subjects of one store; threads may share it.

    Parameters
    ----------
    store
        Path of the store.
    uuid
        Of the store.
    name
        Of the file, without its suffix.
    read
        Returns the subject of a line and what it tells; raises `ValueError`, `KeyError` or
        `TypeError` for a line that tells none.
    """

    def __init__(
        self,
        store: PlaceLike,
        uuid: str,
        name: str,
        read: Callable[[Mapping[str, Any]], tuple[Any, dict[str, Any]]],
    ) -> None:
        place = place_of(store)
        self._folder = place.root + NOTES_SUFFIX if isinstance(place, LocalPlace) else None
        self._url, self._uuid, self._read_line = place.url, uuid, read
        self.path = f"{self._folder or place.url + NOTES_SUFFIX}/{name}.jsonl"
        """Where it lies, or would."""
        self._lock = threading.RLock()
        self._listeners: list[weakref.WeakMethod[Callable[[], None]]] = []
        self._begin()

    def _begin(self) -> None:
        self._entries: dict[Any, Entry] = {}
        self._damage: list[Damage] = []
        self._others = 0
        self._at = self._lines = 0
        self._torn = False
        self._known: tuple[int, int] | None = None

    # ---------------------------------------------------------------- reading

    def entries(self) -> dict[Any, Entry]:
        """Return what holds now, by subject, with what others wrote since it was last asked.

        Raises
        ------
        UsageError
            There is something, but it cannot be read.
        """
        with self._lock:
            if self._folder is not None:
                try:
                    handle = os.open(self.path, _READ)
                except (FileNotFoundError, NotADirectoryError):
                    self._begin()
                except OSError as error:
                    raise self._unreadable(error) from error
                else:
                    try:
                        self._catch_up(handle)
                    except OSError as error:
                        raise self._unreadable(error) from error
                    finally:
                        os.close(handle)
            return dict(self._entries)

    @property
    def damage(self) -> tuple[Damage, ...]:
        """Lines that are not believed, of those read so far."""
        return tuple(self._damage)

    @property
    def others(self) -> int:
        """Lines about other stores, of those read so far."""
        return self._others

    @property
    def version(self) -> tuple[int, int] | None:
        """What changes with every line that anybody writes; None where there is no file."""
        if self._folder is None:
            return None
        try:
            found = Path(self.path).stat()
        except OSError:
            return None
        return found.st_ino, found.st_size

    def _unreadable(self, error: OSError) -> UsageError:
        return UsageError(f"{self.path} cannot be read: {error.strerror or error}")

    def _catch_up(self, handle: int) -> None:
        """Read what was appended since; all of it where the file is another one than before."""
        seen = os.fstat(handle)
        if not stat.S_ISREG(seen.st_mode):
            msg = f"{self.path} is no regular file; notes are kept in one"
            raise UsageError(msg)
        if seen.st_size > _MOST_BYTES:
            msg = f"{self.path} has {seen.st_size} bytes, more than the {_MOST_BYTES} that are read"
            raise UsageError(msg)
        if self._known != (seen.st_dev, seen.st_ino) or seen.st_size < self._at:
            self._begin()
            self._known = (seen.st_dev, seen.st_ino)
        rest = b""
        while part := os.pread(handle, _AT_ONCE, self._at + len(rest)):
            lines = (rest + part).split(b"\n")
            rest = lines.pop()
            for line in lines:
                self._at += len(line) + 1
                self._lines += 1
                self._take(line)
        self._torn = bool(rest)  # its writer is at work, or was stopped in the middle of it

    def _take(self, line: bytes) -> None:
        if not line:
            return
        reason = self._believed(line)
        if reason and len(self._damage) < _MOST_DAMAGE:
            self._damage.append(Damage(self.path, self._lines, reason))

    def _believed(self, line: bytes) -> str:
        """Take over a line; return why not, where that is so."""
        if len(line) > LONGEST_LINE:
            return f"{len(line)} bytes, too long for a line"
        body, reason = checked_line(line)
        if reason:
            return reason
        try:
            document = json.loads(body)
            if str(document["uuid"]) != self._uuid:
                self._others += 1
                return ""
            subject, told = self._read_line(document)
            author, time = str(document.get("author", "")), str(document["time"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            return f"it tells nothing that is known here ({type(error).__name__})"
        self._entries.pop(subject, None)  # so that they stand in the order they were written
        self._entries[subject] = Entry(told, time, author, self._lines)
        return ""

    # ---------------------------------------------------------------- writing

    def change(
        self,
        subject: Any,
        decide: Callable[[Entry | None], Mapping[str, Any] | None],
        *,
        author: str = "",
    ) -> Entry | None:
        """Append what is to hold of a subject from now on.

        Parameters
        ----------
        subject
            As the lines name it.
        decide
            Given what holds now, while nobody else can change it; returns the fields of the new
            line, None for no line.
        author
            Who says so.

        Returns
        -------
        Entry or None
            What holds now.

        Raises
        ------
        UsageError
            Nothing can be written there.
        """
        with self._lock, self._opened() as handle:
            self._catch_up(handle)
            told = decide(self._entries.get(subject))
            if told is not None:
                time = datetime.now(UTC).isoformat(timespec="milliseconds")
                line = sealed_line({**told, "uuid": self._uuid, "time": time, "author": author})
                write_all(handle, b"\n" + line if self._torn else line)
                os.fsync(handle)
                self._catch_up(handle)
            entry = self._entries.get(subject)
        if told is not None:
            self._tell()
        return entry

    def listen(self, act: Callable[[], None]) -> None:
        """Call a method after every line that this process writes, in the thread that wrote it.

        Parameters
        ----------
        act
            A bound method; it is called as long as its object lives.
        """
        with self._lock:
            self._listeners.append(weakref.WeakMethod(act))

    def _tell(self) -> None:
        with self._lock:
            self._listeners = [one for one in self._listeners if one() is not None]
            listening = [one() for one in self._listeners]
        for act in listening:
            if act is not None:
                act()

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the file for appending, locked; both it and its folder are made where needed."""
        import fcntl

        if self._folder is None:
            msg = f"notes lie beside the store, and beside {self._url} nothing can be written"
            raise UsageError(msg)
        try:
            Path(self._folder).mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, _WRITE | os.O_CREAT, _FILE_MODE)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                yield handle
            finally:
                os.close(handle)
        except OSError as error:
            msg = f"nothing can be written to {self.path}: {error.strerror or error}"
            raise UsageError(msg) from error


def clean_text(text: str, *, what: str, longest: int, one_line: bool) -> str:
    """Return a text as it is written down: without blanks around it.

    Parameters
    ----------
    text
        As typed.
    what
        What it is, for the sentence that refuses it.
    longest
        Characters at most.
    one_line
        Refuse line breaks, too.

    Raises
    ------
    UsageError
        It is too long, or has characters that cannot be seen.
    """
    tidy = text.replace("\r\n", "\n").replace("\r", "\n")
    tidy = "".join(" " if unicodedata.category(c) == "Zs" else c for c in tidy).strip()
    if len(tidy) > longest:
        msg = f"{what} has at most {longest:,} characters, and this one {len(tidy):,}: shorten it"
        raise UsageError(msg)
    for char in tidy:
        if not char.isprintable() and (one_line or char not in _ALLOWED):
            msg = f"{what} cannot hold the character U+{ord(char):04X}, which nobody would see"
            raise UsageError(msg)
    return tidy
