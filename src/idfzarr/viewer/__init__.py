"""Look at a store: what can be chosen, plots as free functions, and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idfzarr.viewer.explorer import explore

__all__ = ["explore"]


def __getattr__(name: str) -> Any:
    """Import `explore` when it is first asked for: the page does without its packages."""
    if name == "explore":
        from idfzarr.viewer.explorer import explore

        return explore
    msg = f"module 'idfzarr.viewer' has no attribute {name!r}"
    raise AttributeError(msg)
