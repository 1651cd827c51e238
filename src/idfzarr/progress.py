"""How long steps report themselves: one callback, shown by whoever calls.

A library function that takes a while accepts ``progress``, a callable that is told the step's
label, how many of its parts are done and how many there are. The command line draws bars from it,
a notebook may draw its own, and `silent` draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "silent"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""``progress(label, done, total)``; called from any thread."""


def silent(label: str, done: int, total: int) -> None:
    """Show nothing."""
