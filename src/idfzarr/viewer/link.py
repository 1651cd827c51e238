"""The page's address: every choice is in it, so that it can be kept and sent to others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from idfzarr.viewer.address import Restored, from_url, to_url
from idfzarr.viewer.state import ViewerState

if TYPE_CHECKING:
    from idfzarr.viewer.state import Choices

__all__ = ["follow", "restored_state", "search_of"]

_LATER_MS = 150  # one entry for a burst of changes


def search_of(state: ViewerState) -> str:
    """Return the query of the page's address, with its question mark."""
    told = to_url(state)
    return "?" + urlencode(told, safe=",") if told else ""


def restored_state(search: str, choices: Choices) -> tuple[ViewerState, tuple[str, ...]]:
    """Return the state that an address asks for.

    Parameters
    ----------
    search
        Query of the address, with or without its question mark.
    choices
        What there is to choose from.

    Returns
    -------
    tuple
        The state, and a sentence for each part of the address that was refused.
    """
    asked = dict(parse_qsl(search.removeprefix("?"), keep_blank_values=True, max_num_fields=200))
    found: Restored = from_url(asked, choices)
    return ViewerState(choices, **found.changes), found.refused


def follow(state: ViewerState, location: Any, document: Any) -> None:
    """Write every change of the state into the address, in the browser's history.

    Parameters
    ----------
    state
        The state.
    location
        Panel's location of the session.
    document
        The session's document; without one the address is written at once.
    """
    waiting = False

    def write() -> None:
        nonlocal waiting
        waiting = False
        search = search_of(state)
        if location.search != search:
            location.search = search

    def changed(*_: Any) -> None:
        nonlocal waiting
        if document is None:
            write()
        elif not waiting:
            waiting = True
            document.add_timeout_callback(write, _LATER_MS)

    state.param.watch(changed, [name for name in state.param if name != "name"])
