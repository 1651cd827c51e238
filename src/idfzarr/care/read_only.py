"""A store that is only looked at: no link is followed, nothing is written, nothing read unbounded.

Whatever reads a store by way of a `idfzarr.store.place.Place` reads it through this one as safely
as the inventory itself does, and the bytes are counted.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from idfzarr.care.safe_read import open_key, read_key
from idfzarr.errors import UsageError
from idfzarr.store.place import LocalPlace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idfzarr.store.place import Buffer, Place

__all__ = ["MOST_BYTES", "Counter", "ReadOnlyPlace"]

MOST_BYTES = 1 << 26
"""Larger files are not read whole; metadata, ledgers and coordinates of ours are far smaller."""

_MOST_ELEMENTS = 1 << 20  # of a JSON document: a Python object takes a hundred times its text
_MARKS = (b"[", b"{", b",")
_GONE = (errno.ENOENT, errno.ENOTDIR)


@dataclass
class Counter:
    """Bytes that were read."""

    n_read: int = 0


@dataclass(frozen=True)
class ReadOnlyPlace:
    """A place that is only read.

    Parameters
    ----------
    place
        A folder or a prefix on object storage.
    counter
        Counts the bytes read.
    """

    place: Place
    counter: Counter = field(default_factory=Counter)

    @property
    def url(self) -> str:
        """The place as a person writes it."""
        return self.place.url

    @property
    def folder(self) -> str | None:
        """The folder on a local disk; None on object storage."""
        return self.place.root if isinstance(self.place, LocalPlace) else None

    def beside(self, suffix: str) -> ReadOnlyPlace:
        """Return the place of the same name with a suffix added."""
        return ReadOnlyPlace(self.place.beside(suffix), self.counter)

    def read(self, key: str) -> bytes:
        """Return all bytes of a key.

        Raises
        ------
        FileNotFoundError
            There is none.
        OSError
            It may not be read, is a link or no regular file, or is too large: more than
            `MOST_BYTES`, or a JSON document of more elements than any of ours has (EFBIG).
        """
        if self.folder is None:
            size = self.place.size(key)
            if size is not None and size > MOST_BYTES:
                raise OSError(errno.EFBIG, f"{size} bytes, more than {MOST_BYTES}", key)
            data = self.place.read(key)
        else:
            try:
                data = read_key(self.folder, key, at_most=MOST_BYTES)
            except NotADirectoryError as error:
                raise FileNotFoundError(error.errno, error.strerror, key) from None
        self.counter.n_read += len(data)
        if key.endswith(".json") and sum(map(data.count, _MARKS)) > _MOST_ELEMENTS:
            raise OSError(errno.EFBIG, f"JSON of more than {_MOST_ELEMENTS} elements", key)
        return data

    def read_range(self, key: str, first: int, count: int) -> bytes:
        """Return `count` bytes from byte `first` on, fewer at the end of the file."""
        if self.folder is None:
            data = self.place.read_range(key, first, count)
        else:
            with open_key(self.folder, key) as handle:
                data = os.pread(handle, min(count, MOST_BYTES), first)
        self.counter.n_read += len(data)
        return data

    def size(self, key: str) -> int | None:
        """Return the size of a regular file, None where there is none."""
        if self.folder is None:
            return self.place.size(key)
        try:
            status = os.lstat(f"{self.folder}/{key}")
        except OSError as error:
            if error.errno in {*_GONE, errno.ELOOP}:
                return None
            raise
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys of regular files below a prefix, without those half written."""
        if self.folder is None:
            yield from self.place.keys(prefix)
            return
        from idfzarr.care.walking import Sort, walk
        from idfzarr.store.place import PARTIAL

        inside = sorted(
            seen.key
            for seen in walk(self, prefix)
            if seen.sort is Sort.FILE and not seen.key.endswith(PARTIAL)
        )
        yield from inside

    def exists(self) -> bool:
        """Say whether there is anything."""
        return self.place.exists()

    def write(self, key: str, data: Buffer) -> None:  # noqa: ARG002  # a Place takes it
        """Refuse."""
        raise self._only_looked_at(key)

    def remove(self, key: str) -> None:
        """Refuse."""
        raise self._only_looked_at(key)

    def remove_tree(self, prefix: str) -> None:
        """Refuse."""
        raise self._only_looked_at(prefix)

    def _only_looked_at(self, key: str) -> UsageError:
        msg = f"{key} of {self.url} is only looked at; an inventory changes nothing"
        return UsageError(msg)
