"""Put an array on a local disk so that it appears whole or not at all.

It is written as ``{array}.{uuid}.partial/`` beside its place: the shard, then ``zarr.json``, each
fsynced, then one rename. Renaming a folder onto one that holds anything fails, so of two writers
one wins and the other removes its own. The shard is locked until the rename; who finds a partial
folder whose shard is not locked knows that its writer is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from idfzarr.store.place import (
    PARTIAL,
    LocalPlace,
    storage_full,
    sync_folder,
    try_lock,
    write_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["SHARD", "partial_folders", "place_folder", "remove_if_abandoned"]

SHARD = "c/0/0"
"""Key of the one shard below its array."""

_NAME = re.compile(r"[a-z][a-z_]{0,7}\.[0-9a-f]{32}" + re.escape(PARTIAL))
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


def place_folder(
    place: LocalPlace,
    path: str,
    pieces: Iterable[bytes],
    finish: Callable[[int], bytes],
    *,
    replace: bool = False,
) -> bool:
    """Write an array beside its place and rename it there.

    Parameters
    ----------
    place
        The store.
    path
        Key of the array; the folder of its group exists.
    pieces
        The shard.
    finish
        Returns the ``zarr.json``, told how many bytes the shard has, once it is written.
    replace
        Put it in the place of the one that is there. For a moment there is none then.

    Returns
    -------
    bool
        False where another array has the place, and nothing of this one is left.

    Raises
    ------
    StorageFull
        The disk or the quota is full; nothing is left of what was written.
    """
    folder = place.path(path)
    with _partial_folder(folder) as (partial, handle):
        size = 0
        try:
            for piece in pieces:
                write_all(handle, piece)
                size += len(piece)
            os.fsync(handle)
            for inner in (f"{partial}/c/0", f"{partial}/c"):
                sync_folder(inner)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise storage_full(folder, size, error) from error
        LocalPlace(partial).write("zarr.json", finish(size))
        while not _renamed(partial, folder):
            if not replace:
                return False
            _move_aside(folder)
        sync_folder(os.path.dirname(folder))
        return True


@contextmanager
def _partial_folder(folder: str) -> Iterator[tuple[str, int]]:
    """Make a partial folder and yield it with its open, locked shard; nothing is left of it."""
    partial, handle = _begin(folder)
    try:
        yield partial, handle
    finally:
        # Gone already if it has its name by now.
        shutil.rmtree(partial, ignore_errors=True)
        os.close(handle)


def _begin(folder: str) -> tuple[str, int]:
    while True:
        partial = f"{folder}.{uuid.uuid4().hex}{PARTIAL}"
        try:
            os.makedirs(f"{partial}/c/0")
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            handle = os.open(f"{partial}/{SHARD}", flags, 0o666)
        except FileNotFoundError:
            if os.path.isdir(os.path.dirname(folder)):
                continue  # somebody who tidies up took the empty folder for abandoned
            raise
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        # Before the lock is there, somebody who tidies up may take it for abandoned.
        if try_lock(handle) and os.fstat(handle).st_nlink:
            return partial, handle
        os.close(handle)


def _renamed(partial: str, folder: str) -> bool:
    try:
        os.rename(partial, folder)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _move_aside(folder: str) -> None:
    """Take away what stands in the place of an array; killed in between, it is a partial folder."""
    aside = f"{folder}.{uuid.uuid4().hex}{PARTIAL}"
    with suppress(FileNotFoundError):
        os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def partial_folders(group: str) -> list[str]:
    """Return the paths of the partial folders of ours in the folder of a skycell, sorted."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(group) as entries:
        return sorted(
            entry.path
            for entry in entries
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
        )
    return []


def remove_if_abandoned(partial: str) -> bool:
    """Remove a partial folder unless its writer is alive, on whatever process of this machine.

    Where the file system knows no locks nobody can tell, and it stays.
    """
    try:
        handle = os.open(f"{partial}/{SHARD}", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _removed_empty(partial)
    except OSError:  # not ours to touch
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(partial)
    except OSError:  # held by its writer, renamed by now, or nobody can tell
        return False
    else:
        return True
    finally:
        os.close(handle)


def _removed_empty(partial: str) -> bool:
    """Remove a partial folder whose writer had not begun its shard, or whose removal was cut."""
    with suppress(FileNotFoundError):
        os.unlink(f"{partial}/zarr.json")
    for folder in (f"{partial}/c/0", f"{partial}/c", partial):
        with suppress(OSError):
            os.rmdir(folder)
    return not os.path.lexists(partial)
