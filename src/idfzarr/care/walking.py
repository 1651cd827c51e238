"""Walk through a store without trusting it: links are seen and never followed, depth is bounded.

Every folder is opened relative to the one above it and refused if it is a link by then, so that
nothing outside is reached even if somebody exchanges a folder for a link meanwhile.
"""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from idfzarr.store.place import RemotePlace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idfzarr.care.read_only import ReadOnlyPlace

__all__ = ["MOST_DEPTH", "MOST_ENTRIES", "Seen", "Sort", "walk"]

MOST_DEPTH = 48
"""Folders within folders that are looked into; ours are at most eight deep."""

MOST_ENTRIES = 1 << 23
"""Files, folders and links that are looked at."""

_TOP = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_INNER = _TOP | os.O_NOFOLLOW
_ALL_MAY_READ = 0o444


class Sort(Enum):
    """What an entry is."""

    FILE = "file"
    LINK = "link"
    OTHER = "pipe, socket or device"
    UNREADABLE = "folder that may not be read"
    DEEP = "folder too deep"
    MANY = "too many entries"


class Seen(NamedTuple):
    """An entry of a store.

    Attributes
    ----------
    key
        Below the root.
    sort
        What it is; folders that can be read are not told, only what lies in them.
    size
        Bytes of a file.
    mtime_ns
        When it was changed last, nanoseconds since 1970; None where the storage does not tell.
    inode
        Its number, 0 where there is none.
    readable
        Whether this user may read it.
    told
        More in words: where a link leads, or why a folder cannot be read.
    """

    key: str
    sort: Sort
    size: int = 0
    mtime_ns: int | None = None
    inode: int = 0
    readable: bool = True
    told: str = ""


def walk(place: ReadOnlyPlace, prefix: str = "") -> Iterator[Seen]:
    """Yield everything in a store but folders, in no particular order.

    Parameters
    ----------
    place
        The store.
    prefix
        Only what lies below this folder.

    Yields
    ------
    Seen
        Nothing is raised for what cannot be read: it is yielded as such.
    """
    if place.folder is None:
        yield from _walk_remote(place, prefix)
    else:
        yield from _walk_local(place.folder, prefix)


def _walk_remote(place: ReadOnlyPlace, prefix: str) -> Iterator[Seen]:
    if not isinstance(place.place, RemotePlace):
        for key in place.place.keys(prefix):
            yield Seen(key, Sort.FILE, place.place.size(key) or 0)
        return
    from fsspec.core import url_to_fs

    system, top = url_to_fs(place.place.root, **place.place.options)
    top = top.rstrip("/")
    system.invalidate_cache()
    found: dict[str, Any] = system.find(f"{top}/{prefix}".rstrip("/"), detail=True)
    for name, told in found.items():
        yield Seen(str(name)[len(top) + 1 :], Sort.FILE, int(told.get("size") or 0))


class _Folder(NamedTuple):
    """A folder that is being gone through."""

    head: str
    handle: int
    entries: Any


def _walk_local(root: str, prefix: str) -> Iterator[Seen]:
    count = 0
    stack: list[_Folder] = []
    try:
        begin = _open_top(root, prefix)
        if isinstance(begin, Seen):
            yield begin
            return
        stack.append(begin)
        while stack:
            folder = stack[-1]
            try:
                entry = next(folder.entries, None)
            except OSError as error:
                yield _unreadable(folder.head.rstrip("/"), error)
                entry = None
            if entry is None:
                _close(stack.pop())
                continue
            count += 1
            if count > MOST_ENTRIES:
                yield Seen(folder.head.rstrip("/"), Sort.MANY)
                return
            seen = _look(entry, folder, stack)
            if seen is not None:
                yield seen
    finally:
        for folder in stack:
            _close(folder)


def _open_top(root: str, prefix: str) -> _Folder | Seen:
    handle = -1
    try:
        handle = os.open(root, _TOP)
        for part in filter(None, prefix.split("/")):
            inner = os.open(part, _INNER, dir_fd=handle)
            os.close(handle)
            handle = inner
        return _Folder(f"{prefix}/" if prefix else "", handle, os.scandir(handle))
    except OSError as error:
        if handle >= 0:
            os.close(handle)
        return _unreadable(prefix, error)


def _unreadable(key: str, error: OSError) -> Seen:
    return Seen(key, Sort.UNREADABLE, told=error.strerror or str(error))


def _close(folder: _Folder) -> None:
    folder.entries.close()
    os.close(folder.handle)


def _look(entry: os.DirEntry[str], above: _Folder, stack: list[_Folder]) -> Seen | None:
    """Return what an entry is; a folder is put upon the stack instead."""
    name = entry.name
    key = above.head + name
    try:
        if entry.is_dir(follow_symlinks=False):
            if len(stack) >= MOST_DEPTH:
                return Seen(key, Sort.DEEP)
            handle = os.open(name, _INNER, dir_fd=above.handle)
            try:
                stack.append(_Folder(key + "/", handle, os.scandir(handle)))
            except BaseException:
                os.close(handle)
                raise
            return None
        if entry.is_symlink():
            return Seen(key, Sort.LINK, told=os.readlink(name, dir_fd=above.handle))
        status = entry.stat(follow_symlinks=False)
        sort = Sort.FILE if entry.is_file(follow_symlinks=False) else Sort.OTHER
        readable = status.st_mode & _ALL_MAY_READ == _ALL_MAY_READ or _may_read(entry, above)
    except FileNotFoundError:  # gone while it was looked at
        return None
    except OSError as error:
        return _unreadable(key, error)
    return Seen(key, sort, status.st_size, status.st_mtime_ns, status.st_ino, readable)


def _may_read(entry: os.DirEntry[str], above: _Folder) -> bool:
    known = os.access in os.supports_effective_ids and os.access in os.supports_dir_fd
    if not known:
        return True  # opening it will tell
    return os.access(entry.name, os.R_OK, dir_fd=above.handle, effective_ids=True)
