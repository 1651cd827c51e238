"""A few threads that help to decode: the caller works too, and never waits for work not begun.

Decompression releases the GIL, so a block that is read at once is shared with idle cores. There is
one pool per process, made when it is first needed; a forked child makes its own.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["MOST_THREADS", "default_threads", "shared"]

MOST_THREADS = 4
"""Threads that decode one block at most: checksums hold the GIL, so more would not help."""

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    global _lock, _pool  # noqa: PLW0603 - the threads, and who held the lock, are the parent's
    _lock = threading.Lock()
    _pool = None


os.register_at_fork(after_in_child=_forget_pool)


def default_threads() -> int:
    """Return how many threads decode a block unless told otherwise: the cores, four at most."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0)))


def _helpers() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603 - one pool per process
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(MOST_THREADS - 1, thread_name_prefix="idfzarr-decode")
        return _pool


def shared(tasks: Iterable[Callable[[], None]], threads: int) -> None:
    """Run tasks, sharing them with other threads.

    Parameters
    ----------
    tasks
        Independent of one another.
    threads
        How many work on them, the caller's among them; 1 for the caller's alone.

    Raises
    ------
    BaseException
        What a task raised; tasks not begun by then are left out.
    """
    waiting = deque(tasks)

    def work() -> None:
        try:
            while waiting:
                try:
                    task = waiting.popleft()
                except IndexError:
                    return
                task()
        except BaseException:
            waiting.clear()
            raise

    asked = [_helpers().submit(work) for _ in range(min(threads, len(waiting)) - 1)]
    try:
        work()
    finally:
        # One that has not begun finds nothing left to do; those that have still write.
        begun = [helper for helper in asked if not helper.cancel()]
        errors = [error for error in (helper.exception() for helper in begun) if error]
    if errors:
        raise errors[0]
