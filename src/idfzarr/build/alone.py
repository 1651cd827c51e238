"""One build of a store at a time, on one machine or one shared disk that knows locks.

Two builds of one store would do each other's work again, and the one that ends first would remove
what the other has staged. Whoever comes second is told so; readers and single writes
(`idfzarr.store.cube.Cube.write_block`) have nothing to do with it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from idfzarr.errors import UsageError
from idfzarr.store.ledger import LEDGER_SUFFIX, read_ledger
from idfzarr.store.place import LocalPlace, try_lock

if TYPE_CHECKING:
    from idfzarr.store.place import Place

__all__ = ["Alone"]

_PATIENCE = 0.5
"""Seconds to wait for one that holds a store only until it has seen that it may not build it."""


class Alone:
    """The right to build a store, held until the ``with`` block or the process ends.

    Parameters
    ----------
    place
        The store. On object storage nothing is locked.

    Notes
    -----
    The folders themselves are locked (``flock``, https://man7.org/linux/man-pages/man2/flock.2.html)
    and no file is made, so a finished build can be run again on a disk that is for reading only.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._held: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.claim()
        return self

    def __exit__(self, *_: object) -> None:
        while self._held:
            os.close(self._held.popitem()[1])

    def claim(self) -> None:
        """Lock what is there of the store and is not locked yet.

        Raises
        ------
        UsageError
            Another process, or another thread of this one, is building it.
        """
        if not isinstance(self._place, LocalPlace):
            return
        # The ledger first: of two that come at once one gets it.
        for folder in (self._place.root + LEDGER_SUFFIX, self._place.root):
            if folder not in self._held:
                with suppress(FileNotFoundError, NotADirectoryError):
                    self._lock(folder)

    def _lock(self, folder: str) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        until = time.monotonic() + _PATIENCE
        while not (ours := try_lock(handle)) and time.monotonic() < until:
            time.sleep(_PATIENCE / 50)
        if ours:
            self._held[folder] = handle
            return
        os.close(handle)
        self.__exit__()
        records = read_ledger(self._place).records
        by = f" ({records[-1].writer} wrote its ledger last)" if records else ""
        msg = (
            f"{self._place.url} is being built by another process{by}: wait until that has ended, "
            "or stop it, then run this again"
        )
        raise UsageError(msg)
