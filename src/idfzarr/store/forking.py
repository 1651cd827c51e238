"""Locks that are free again in a child that was forked while a thread of its parent held them."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol

__all__ = ["renew_lock_after_fork"]


class _Locked(Protocol):
    """Whatever keeps a lock under this name."""

    _lock: threading.Lock


_HOLDERS: weakref.WeakSet[_Locked] = weakref.WeakSet()


def renew_lock_after_fork(holder: _Locked) -> None:
    """Give an object a new ``_lock`` in every child that is forked while it lives."""
    _HOLDERS.add(holder)


def _renew_locks() -> None:
    for holder in _HOLDERS:
        holder._lock = threading.Lock()  # noqa: SLF001 - a thread of the parent may have held it


os.register_at_fork(after_in_child=_renew_locks)
