"""Where bytes are: a folder on a local disk, a zip file, a prefix on object storage or the web.

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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import unquote

from idfzarr.errors import StorageFull, UsageError
from idfzarr.store.remote_urls import (
    beside_url,
    checked_url,
    filesystem,
    is_listed,
    refuse_writing,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "PARTIAL",
    "Buffer",
    "LocalPlace",
    "Place",
    "PlaceLike",
    "RemotePlace",
    "checked_key",
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
_STAMPS = ("size", "ETag", "etag", "LastModified", "Last-Modified", "mtime", "created", "CRC")
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


def place_of(path: PlaceLike, *, storage_options: Mapping[str, Any] | None = None) -> Place:
    """Return the place that a path or URL names.

    Parameters
    ----------
    path
        A local folder, a ``file://`` URL, a ``.zip`` file, any URL that fsspec opens
        (``s3://bucket/field.zarr``, ``https://host/field.zarr``, ``memory://field.zarr``,
        ``zip::s3://bucket/field.zip``, ``zip://folder::field.zip``), or a place, which is returned
        as it is.
    storage_options
        For fsspec's file system of the URL: ``{"anon": True}``, ``{"key": ..., "secret": ...,
        "endpoint_url": ...}``, ``{"headers": {...}}``; of a chain of URLs by protocol.

    Returns
    -------
    Place
        A `LocalPlace`, a `idfzarr.store.zip_place.ZipPlace` or a `RemotePlace`.

    Raises
    ------
    UsageError
        The path is empty or none, or there are options for a path that takes none.
    """
    options = _checked_options(storage_options)
    if isinstance(path, Place):
        _refuse_options(options, path.url)
        return path
    text = _text_of(path)
    if _is_remote(text):
        return RemotePlace(checked_url(text), options)
    _refuse_options(options, text)
    inside, _, local = text.partition("::")
    if _is_zip_chain(text):
        return _zip_place(local, inside.removeprefix("zip").removeprefix("://").strip("/"))
    local = os.path.abspath(_local_path(text))
    is_zip = local.lower().endswith(".zip") and os.path.isfile(local)
    return _zip_place(local) if is_zip else LocalPlace(local)


def _text_of(path: object) -> str:
    if not isinstance(path, str | os.PathLike):
        msg = f"a store is opened by its path or URL, not by a {type(path).__name__}"
        raise UsageError(msg)
    text = os.fspath(path)
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    if not text:
        msg = "the path of the store is empty; give the folder of the store, as field.zarr"
        raise UsageError(msg)
    return text


def _is_remote(text: str) -> bool:
    """Say whether fsspec opens it; an archive on a local disk is opened without it."""
    head, chained, rest = text.partition("::")
    if _is_zip_chain(text):
        return "::" in rest or _is_remote(rest)
    is_url = "://" in text and not text.startswith("file://")
    return is_url or bool(chained and head in {"tar", "libarchive"})


def _is_zip_chain(text: str) -> bool:
    head, chained, _ = text.partition("::")
    return bool(chained) and (head == "zip" or head.startswith("zip://"))


def _local_path(text: str) -> str:
    """Return the path of a ``file://`` URL, see RFC 8089; other text as it is."""
    if not text.startswith("file://"):
        return text
    host, slash, path = text.removeprefix("file://").partition("/")
    if host not in {"", "localhost"}:
        msg = f"{text} names a file on the host {host!r}; a local path has three slashes, file:///"
        raise UsageError(msg)
    return unquote(slash + path)


def _checked_options(options: object) -> dict[str, Any]:
    if options is None:
        return {}
    try:
        found: dict[Any, Any] = dict(options)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        found = {0: None}
    if not all(isinstance(name, str) for name in found):
        msg = (
            f"storage_options are names and values, as {{'anon': True}}, not a "
            f"{type(options).__name__}"
        )
        raise UsageError(msg)
    return found


def _refuse_options(options: Mapping[str, Any], where: str) -> None:
    if options:
        msg = (
            f"{where} takes no storage_options ({', '.join(sorted(options))} given): they are for "
            "URLs of object storage and web servers"
        )
        raise UsageError(msg)


def _zip_place(path: str, inside: str | None = None) -> Place:
    from idfzarr.store.zip_place import open_zip  # it needs the rules of keys that stand here

    return open_zip(os.path.abspath(_local_path(path)), inside or None)


def checked_key(key: str) -> str:
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
        return f"{self.root}/{checked_key(key)}"

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

    def stamp(self, key: str) -> tuple[Any, ...] | None:
        """Return what is different once a file is another one, None where there is none."""
        try:
            told = os.stat(self.path(key))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns

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
    """A prefix on object storage or a web server, or a folder of an archive there, by fsspec.

    Parameters
    ----------
    root
        URL, as ``s3://bucket/field.zarr``.
    options
        For fsspec's file system; they are not shown, since keys and passwords are among them.

    Notes
    -----
    Every method raises `StoreError` where the server fails or refuses.
    """

    root: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)

    @property
    def url(self) -> str:
        """The URL."""
        return self.root

    @property
    def is_listed(self) -> bool:
        """Whether one can learn what is there; a web server gives only what one can name."""
        return is_listed(self.root)

    def _at(self, key: str = "") -> tuple[Any, str]:
        inside = checked_key(key) if key else ""
        with translated(self.root):
            system, path = filesystem(self.root, self.options)
        return system, "/".join(filter(None, (path, inside)))

    def beside(self, suffix: str) -> RemotePlace:
        """Return the prefix of the same name with a suffix added."""
        return RemotePlace(beside_url(self.root, suffix), self.options)

    def below(self, key: str) -> RemotePlace:
        """Return the prefix of a folder of this place."""
        return self.beside(f"/{checked_key(key)}")

    def read(self, key: str) -> bytes:
        """Return all bytes of an object; raises FileNotFoundError where there is none."""
        system, path = self._at(key)
        with translated(f"{self.root}/{key}"):
            return bytes(system.cat_file(path))

    def read_range(self, key: str, first: int, count: int) -> bytes:
        """Return `count` bytes from byte `first` on, fewer at the end of the object."""
        found = self.fetch(key, first, count)
        return found if len(found) <= count else found[first : first + count]

    def fetch(self, key: str, first: int, count: int) -> bytes:
        """Return a range as `read_range` does, or all bytes where the server gives no ranges."""
        if count <= 0:
            return b""
        system, path = self._at(key)
        with translated(f"{self.root}/{key}"):
            return bytes(system.cat_file(path, start=first, end=first + count))

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes, None where there is none."""
        system, path = self._at(key)
        system.invalidate_cache()
        try:
            with translated(f"{self.root}/{key}"):
                told = system.size(path)
                # A server that streams does not say.
                return len(system.cat_file(path)) if told is None else int(told)
        except FileNotFoundError:
            return None

    def stamp(self, key: str) -> tuple[Any, ...] | None:
        """Return what is different once an object is another one, None where there is none."""
        system, path = self._at(key)
        system.invalidate_cache()
        try:
            with translated(f"{self.root}/{key}"):
                told = system.info(path)
        except FileNotFoundError:
            return None
        return tuple(str(told.get(name)) for name in _STAMPS)

    def write(self, key: str, data: Buffer) -> None:
        """Write an object with one put, which shows it whole or not at all."""
        refuse_writing(self.root)
        system, path = self._at(key)
        with translated(f"{self.root}/{key}"):
            system.pipe_file(path, bytes(data))

    def remove(self, key: str) -> None:
        """Remove an object; it is no error if there is none."""
        refuse_writing(self.root)
        system, path = self._at(key)
        with suppress(FileNotFoundError), translated(f"{self.root}/{key}"):
            system.rm_file(path)

    def remove_tree(self, prefix: str) -> None:
        """Remove every object below a prefix."""
        refuse_writing(self.root)
        system, path = self._at(prefix)
        system.invalidate_cache()
        with suppress(FileNotFoundError), translated(f"{self.root}/{prefix}"):
            system.rm(path, recursive=True)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys below a prefix in sorted order; of a web server what it lists, if any."""
        system, top = self._at()
        system.invalidate_cache()
        _, path = self._at(prefix)
        try:
            with translated(f"{self.root}/{prefix}"):
                found = sorted(map(str, system.find(path)))
        except FileNotFoundError:
            found = []
        for name in found:
            yield name[len(top) + 1 :] if top else name.removeprefix("/")

    def exists(self) -> bool:
        """Say whether there is any object below this prefix."""
        system, path = self._at()
        system.invalidate_cache()
        with translated(self.root):
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
