"""Read files of a store that nobody vouches for: no link is followed, nothing without bound.

Every folder on the way is opened for itself and links are refused at each step, so that no name in
a store leads out of it, whatever is put there while it is looked at. Pipes and devices are refused
before anything is read from them.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["open_key", "read_key"]

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe waits for whoever writes into it.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def open_key(root: str, key: str) -> Iterator[int]:
    """Open a file below a folder for reading.

    Parameters
    ----------
    root
        The folder; it may itself be reached by links.
    key
        Path below it, with slashes.

    Yields
    ------
    int
        Descriptor of a regular file.

    Raises
    ------
    OSError
        It is not there, may not be read, is a link or lies behind one (ELOOP or ENOTDIR), is no
        regular file, or the key is none (EINVAL).
    """
    parts = key.split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise OSError(errno.EINVAL, "no key of a store", key)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = inner
        handle = os.open(parts[-1], _FILE, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "no regular file", key)
        yield handle
    finally:
        os.close(handle)


def read_key(root: str, key: str, *, at_most: int) -> bytes:
    """Return all bytes of a file below a folder.

    Parameters
    ----------
    root, key
        See `open_key`.
    at_most
        More bytes than this are not read.

    Returns
    -------
    bytes
        The whole file.

    Raises
    ------
    OSError
        As `open_key`; EFBIG where the file is larger than that.
    """
    with open_key(root, key) as handle:
        size = os.fstat(handle).st_size
        if size > at_most:
            raise OSError(errno.EFBIG, f"{size} bytes, more than {at_most}", key)
        parts = []
        at = 0
        while at < size and (part := os.pread(handle, size - at, at)):
            parts.append(part)
            at += len(part)
        return b"".join(parts)
