"""A store in one zip file on a local disk, read where it lies, without unpacking.

zarr-python's ``ZipStore`` and every program for zip files make such files. Members that are not
compressed, as ``zip -0`` leaves them, are read from the file itself, any range of bytes at once;
of others all is decompressed for every read.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from idfzarr.errors import StoreError, UsageError
from idfzarr.store.place import checked_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from idfzarr.store.place import Buffer

__all__ = ["ZipPlace", "open_zip"]

_ROOT = "zarr.json"
_LOCAL = struct.Struct("<4s22xHH")  # local header: signature, lengths of the name and of the rest
_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 0x1


class _Member(NamedTuple):
    """Where a member's header stands, and what its bytes are."""

    header: int
    size: int
    stored: bool


@lru_cache(maxsize=8)
def _members(path: str, _stamp: tuple[int, int, int]) -> Mapping[str, _Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            return {
                m.filename: _Member(
                    m.header_offset,
                    m.file_size,
                    m.compress_type == zipfile.ZIP_STORED and not m.flag_bits & _ENCRYPTED,
                )
                for m in archive.infolist()
                if not m.is_dir()
            }
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        msg = f"{path} is no zip file that can be read: {error}; copy it again"
        raise StoreError(msg) from error


@dataclass(frozen=True)
class ZipPlace:
    """A folder of a zip file on a local disk, for reading only.

    Parameters
    ----------
    path
        Absolute path of the zip file.
    inside
        The folder; an empty string for the whole of it.
    """

    path: str
    inside: str = ""

    @property
    def url(self) -> str:
        """The folder as fsspec writes it."""
        return f"zip://{self.inside}::{self.path}"

    def beside(self, suffix: str) -> ZipPlace:
        """Return the folder of the same name with a suffix added, in the same file."""
        return ZipPlace(self.path, self.inside + suffix)

    def _name(self, key: str) -> str:
        return "/".join(filter(None, (self.inside, checked_key(key))))

    def _listed(self) -> Mapping[str, _Member]:
        try:
            told = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        return _members(self.path, (told.st_mtime_ns, told.st_ino, told.st_size))

    def _member(self, key: str) -> _Member:
        try:
            return self._listed()[self._name(key)]
        except KeyError:
            raise FileNotFoundError(2, os.strerror(2), f"{self.url}/{key}") from None

    def read(self, key: str) -> bytes:
        """Return all bytes of a member; raises FileNotFoundError where there is none."""
        member = self._member(key)
        if member.stored:
            return self._stored(key, member, 0, member.size)
        try:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self._name(key))
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
            self._damaged(key, error)

    def _stored(self, key: str, member: _Member, first: int, count: int) -> bytes:
        """Return bytes of a member that is not compressed."""
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            head = os.pread(handle, _LOCAL.size, member.header)
            if len(head) < _LOCAL.size or not head.startswith(_SIGNATURE):
                self._damaged(key, "its header is not where the directory says")
            _, name, extra = _LOCAL.unpack(head)
            begin = member.header + _LOCAL.size + name + extra
            return os.pread(handle, max(0, min(count, member.size - first)), begin + first)
        finally:
            os.close(handle)

    def _damaged(self, key: str, why: object) -> NoReturn:
        msg = f"{key} in {self.path} cannot be read: {why}; copy the zip file again"
        raise StoreError(msg)

    def fetch(self, key: str, first: int, count: int) -> bytes:
        """Return a range as `read_range` does, or all bytes of a member that is compressed."""
        member = self._member(key)
        return self._stored(key, member, first, count) if member.stored else self.read(key)

    def read_range(self, key: str, first: int, count: int) -> bytes:
        """Return `count` bytes from byte `first` on, fewer at the end of the member."""
        member = self._member(key)
        if member.stored:
            return self._stored(key, member, first, count)
        return self.read(key)[first : first + count]

    def size(self, key: str) -> int | None:
        """Return the size of a member in bytes, None where there is none."""
        member = self._listed().get(self._name(key))
        return None if member is None else member.size

    def stamp(self, key: str) -> tuple[int, ...] | None:
        """Return what is different once the file is another one, None where there is no member."""
        if self.size(key) is None:
            return None
        told = os.stat(self.path)
        return told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a prefix in sorted order."""
        head = f"{self.inside}/" if self.inside else ""
        wanted = head + (f"{checked_key(prefix)}/" if prefix else "")
        yield from sorted(n[len(head) :] for n in self._listed() if n.startswith(wanted))

    def exists(self) -> bool:
        """Say whether there is any member below this folder."""
        return next(self.keys(), None) is not None

    def write(self, key: str, data: Buffer) -> None:
        """Refuse: a zip file is read only."""
        self._refuse(f"{len(data)} bytes of {key}")

    def remove(self, key: str) -> None:
        """Refuse, likewise."""
        self._refuse(f"the removal of {key}")

    def remove_tree(self, prefix: str) -> None:
        """Refuse, likewise."""
        self._refuse(f"the removal of {prefix or 'all of it'}")

    def _refuse(self, what: str) -> NoReturn:
        msg = f"{self.path} takes no changes ({what}): a zip file is read only; unpack it first"
        raise UsageError(msg)


def open_zip(path: str, inside: str | None = None) -> ZipPlace:
    """Return the place of the store in a zip file.

    Parameters
    ----------
    path
        Absolute path of the zip file; it need not exist.
    inside
        The folder of the store in it. Unless given, the top of the file, or the one folder at the
        top that has a ``zarr.json``, as ``zip -r field.zip field.zarr`` leaves it.

    Raises
    ------
    StoreError
        It is no zip file, or several folders at its top are Zarr stores.
    """
    top = ZipPlace(path)
    if inside is not None:
        return ZipPlace(path, inside)
    if top.size(_ROOT) is not None:
        return top
    ends = f"/{_ROOT}"
    found = [n.removesuffix(ends) for n in top.keys() if n.count("/") == 1 and n.endswith(ends)]
    if len(found) > 1:
        msg = (
            f"{path} holds several stores ({', '.join(found[:5])}); say which, as "
            f"zip://{found[0]}::{path}"
        )
        raise StoreError(msg)
    return ZipPlace(path, found[0]) if found else top
