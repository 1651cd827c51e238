"""Where bytes go: a folder on a local disk, or a prefix on object storage.

A `Place` maps keys (``lightcurves/c/0/0/0/0``) to bytes. A write is all or nothing: on a local disk
a temporary file in the same folder, fsync, rename, fsync of the folder; on object storage one put.
zarr-python's own local store renames but never calls fsync, so it survives a killed process and not
a power cut; that is why writing does not go through it.
"""

from __future__ import annotations

import errno
import os
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from idfzarr.errors import StorageFull, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "PARTIAL",
    "Buffer",
    "LocalPlace",
    "Place",
    "PlaceLike",
    "RemotePlace",
    "locked",
    "place_of",
    "sync_folder",
]

PARTIAL = ".partial"
"""How the name of a file ends that is still being written; nobody reads such a file."""

Buffer: TypeAlias = bytes | bytearray | memoryview
_OURS = f".idfzarr{PARTIAL}"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
_WRITE_AT_MOST = 1 << 30  # one write(2) takes at most 2**31 - 4096 bytes on Linux


@runtime_checkable
class Place(Protocol):
    """Keys and their bytes, below one folder or prefix."""

    @property
    def url(self) -> str:
        """The place as a person writes it."""

    def beside(self, suffix: str) -> Place:
        """Return the place of the same name with a suffix added."""

    def read(self, key: str) -> bytes:
        """Return all bytes of a key; raises FileNotFoundError where there is none."""

    def read_range(self, key: str, first: int, count: int) -> bytes:
        """Return `count` bytes from byte `first` on, fewer at the end of the file."""

    def size(self, key: str) -> int | None:
        """Return the number of bytes of a key, None where there is none."""

    def write(self, key: str, data: Buffer) -> None:
        """Write a key, all or nothing, on disk when this returns."""

    def remove(self, key: str) -> None:
        """Remove a key; it is no error if there is none."""

    def remove_tree(self, prefix: str) -> None:
        """Remove every key below a prefix, the place itself for an empty one."""

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a prefix in sorted order, without those half written."""

    def exists(self) -> bool:
        """Say whether there is anything at this place."""


PlaceLike: TypeAlias = str | os.PathLike[str] | Place


def place_of(path: PlaceLike) -> Place:
    """Return the place that a path or URL names.

    Parameters
    ----------
    path
        A local path, a ``file://`` URL, any URL that fsspec opens (``s3://bucket/field.zarr``), or
        a place, which is returned as it is.

    Returns
    -------
    Place
        A `LocalPlace` or a `RemotePlace`.

    Raises
    ------
    UsageError
        The path is empty.
    """
    if isinstance(path, Place):
        return path
    text = os.fspath(path)
    if not text:
        msg = "the path of the store is empty; give the folder of the store, as field.zarr"
        raise UsageError(msg)
    if text.startswith("file://"):
        return LocalPlace(os.path.abspath(text.removeprefix("file://")))
    if "://" in text:
        return RemotePlace(text.rstrip("/"))
    return LocalPlace(os.path.abspath(text))


def _checked(key: str) -> str:
    """Refuse a key that could lead out of the place."""
    parts = key.split("/")
    if "\0" in key or "\\" in key or any(part in {"", ".", ".."} for part in parts):
        msg = f"{key!r} cannot be a key of a store: plain names with single slashes only"
        raise UsageError(msg)
    return key


@dataclass(frozen=True)
class LocalPlace:
    """A folder on a local disk.

    Parameters
    ----------
    root
        Absolute path of the folder. It need not exist yet.
    """

    root: str

    @property
    def url(self) -> str:
        """The path of the folder."""
        return self.root

    def path(self, key: str) -> str:
        """Return the path of a key's file; raises `UsageError` for a key that leads outside."""
        return f"{self.root}/{_checked(key)}"

    def beside(self, suffix: str) -> LocalPlace:
        """Return the folder of the same name with a suffix added."""
        return LocalPlace(self.root + suffix)

    def read(self, key: str) -> bytes:
        """Return all bytes of a file; raises FileNotFoundError where there is none."""
        try:
            with open(self.path(key), "rb", buffering=0) as file:
                return file.read()
        except NotADirectoryError as error:
            raise FileNotFoundError(error.errno, error.strerror, error.filename) from None

    def read_range(self, key: str, first: int, count: int) -> bytes:
        """Return `count` bytes from byte `first` on, fewer at the end of the file."""
        handle = os.open(self.path(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(handle, count, first)
        finally:
            os.close(handle)

    def size(self, key: str) -> int | None:
        """Return the size of a file in bytes, None where there is none."""
        try:
            return os.stat(self.path(key)).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, key: str, data: Buffer) -> None:
        """Write a file: temporary name, fsync, rename, fsync of the folder.

        Raises
        ------
        StorageFull
            The disk or the quota is full; the file that stood there before still stands.
        """
        target = self.path(key)
        try:
            _make_folder(os.path.dirname(target))
            _replace_durably(target, data)
            sync_folder(os.path.dirname(target))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise storage_full(target, len(data), error) from error

    def remove(self, key: str) -> None:
        """Remove a file; it is no error if there is none."""
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(self.path(key))

    def remove_tree(self, prefix: str) -> None:
        """Remove a folder and everything in it; links are removed, never followed."""
        import shutil

        with suppress(FileNotFoundError):
            shutil.rmtree(self.path(prefix) if prefix else self.root)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a prefix in sorted order, without those half written."""
        top = self.path(prefix) if prefix else self.root
        for folder, folders, files in os.walk(top):
            folders.sort()
            inside = os.path.relpath(folder, self.root)
            head = "" if inside == "." else inside.replace(os.sep, "/") + "/"
            yield from (head + name for name in sorted(files) if not name.endswith(PARTIAL))

    def remove_abandoned(self) -> list[str]:
        """Remove the files half written whose writer was killed; return their paths.

        A writer holds a lock on such a file, which the system takes from it when it ends; one that
        is still held, on whatever process of this machine, is left alone, and so is one that
        another program named.
        """
        return [
            f"{folder}/{name}"
            for folder, _, files in os.walk(self.root)
            for name in sorted(files)
            if name.endswith(_OURS) and _remove_if_free(f"{folder}/{name}")
        ]

    def exists(self) -> bool:
        """Say whether there is anything at this path."""
        return os.path.lexists(self.root)


@dataclass(frozen=True)
class RemotePlace:
    """A prefix on object storage, by fsspec.

    Parameters
    ----------
    root
        URL, as ``s3://bucket/field.zarr``.
    """

    root: str

    @property
    def url(self) -> str:
        """The URL."""
        return self.root

    def _at(self, key: str = "") -> tuple[Any, str]:
        from fsspec.core import url_to_fs  # fsspec keeps one filesystem per protocol and options

        system, path = url_to_fs(self.root)
        return system, f"{path.rstrip('/')}/{_checked(key)}" if key else path.rstrip("/")

    def beside(self, suffix: str) -> RemotePlace:
        """Return the prefix of the same name with a suffix added."""
        return RemotePlace(self.root + suffix)

    def read(self, key: str) -> bytes:
        """Return all bytes of an object; raises FileNotFoundError where there is none."""
        system, path = self._at(key)
        return bytes(system.cat_file(path))

    def read_range(self, key: str, first: int, count: int) -> bytes:
        """Return `count` bytes from byte `first` on, fewer at the end of the object."""
        system, path = self._at(key)
        return bytes(system.cat_file(path, start=first, end=first + count))

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes, None where there is none."""
        system, path = self._at(key)
        system.invalidate_cache()
        try:
            return int(system.size(path))
        except FileNotFoundError:
            return None

    def write(self, key: str, data: Buffer) -> None:
        """Write an object with one put, which shows it whole or not at all."""
        system, path = self._at(key)
        system.pipe_file(path, bytes(data))

    def remove(self, key: str) -> None:
        """Remove an object; it is no error if there is none."""
        system, path = self._at(key)
        with suppress(FileNotFoundError):
            system.rm_file(path)

    def remove_tree(self, prefix: str) -> None:
        """Remove every object below a prefix."""
        system, path = self._at(prefix)
        system.invalidate_cache()
        with suppress(FileNotFoundError):
            system.rm(path, recursive=True)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a prefix in sorted order."""
        system, top = self._at()
        system.invalidate_cache()
        _, path = self._at(prefix)
        for name in sorted(system.find(path)):
            yield str(name)[len(top) + 1 :]

    def exists(self) -> bool:
        """Say whether there is any object below this prefix."""
        system, path = self._at()
        system.invalidate_cache()
        return bool(system.exists(path))


@contextmanager
def locked(place: Place, name: str) -> Iterator[None]:
    """Hold an advisory lock of this name, waiting for whoever holds it; local disks only.

    Parameters
    ----------
    place
        A folder; it is made if it is not there.
    name
        Name of the lock's file.
    """
    if not isinstance(place, LocalPlace):
        yield
        return
    import fcntl

    _make_folder(place.root)
    handle = os.open(place.path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def storage_full(path: str, size: int, error: OSError) -> StorageFull:
    """Return the error that says which file found no room."""
    msg = (
        f"no room for {size} bytes of {path}: {error.strerror or error}; free some space and run "
        "the same command again, it goes on where it stopped"
    )
    full = StorageFull(msg)
    full.errno = error.errno
    return full


def try_lock(handle: int) -> bool:
    """Lock an open file or folder against other processes; False where another has it.

    True too where the file system knows no such locks: then nobody can have it. The lock ends when
    the file is closed, or with the process.
    """
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _replace_durably(target: str, data: Buffer) -> None:
    """Write a temporary file, put it on disk and rename it; it is locked until it has its name."""
    partial, handle = _begin_partial(target)
    try:
        write_all(handle, data)
        os.fsync(handle)
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    finally:
        os.close(handle)


def _begin_partial(target: str) -> tuple[str, int]:
    while True:
        partial = f"{target}.{uuid.uuid4().hex}{_OURS}"
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            # Before the lock is there, somebody who tidies up may take the file for abandoned.
            if try_lock(handle) and os.fstat(handle).st_nlink:
                return partial, handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _remove_if_free(path: str) -> bool:
    import fcntl

    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # it has its name by now, or is not ours to touch
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except OSError:  # held by its writer, or nobody can tell
        return False
    else:
        return True
    finally:
        os.close(handle)


def write_all(handle: int, data: Buffer) -> None:
    """Write every byte to an open file; a short write is continued."""
    rest = memoryview(data).cast("B")
    while rest:
        rest = rest[os.write(handle, rest[:_WRITE_AT_MOST]) :]


def sync_folder(path: str) -> None:
    """Put a folder's entries on disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _make_folder(path: str) -> None:
    """Make a folder and those above it, each entry on disk before anything is put inside."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    _make_folder(above)
    with suppress(FileExistsError):
        os.mkdir(path)
        sync_folder(above)
