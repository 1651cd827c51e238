"""The page's address: every choice is in it, so that it can be kept and sent to others.

The browser's history has an entry for each object and each page that somebody stayed at; going back
and forward shows it as it was left. Panel's own ``Location`` makes an entry of every change and
does not hear of going back (``panel/models/location.ts``), so that the address is written here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

import param
from panel.custom import JSComponent

from idfzarr.viewer.address import Restored, from_url, to_url
from idfzarr.viewer.state import MOST_SELECTED_IN_URL, ViewerState

if TYPE_CHECKING:
    from idfzarr.viewer.session import Session
    from idfzarr.viewer.state import Choices

__all__ = ["History", "follow", "restored_state", "search_of"]

_LATER_MS = 150  # one entry for a burst of changes
_STAY_SECONDS = 1.0  # who steps on sooner has not looked; browsers also refuse hundreds of entries
_PLACES = ("object", "page")
_READERS = ("dark",)  # the reader's own: going back to an object must not turn the lights on


class History(JSComponent):  # type: ignore[misc, unused-ignore]
    """Invisible; writes the address, and says where the user went back or forward to."""

    address = param.List(doc="'push' or 'replace', and the query with its question mark.")
    went = param.List(doc="The query that the address has now, and how often that was said.")

    _esm = """
    export function render({model, el}) {
      el.style.display = "none"
      const write = () => {
        const [how, search] = model.address
        if (search === undefined || search === window.location.search) return
        const url = window.location.pathname + search + window.location.hash
        if (how === "push") window.history.pushState({}, "", url)
        else window.history.replaceState({}, "", url)
      }
      let times = 0
      const went = () => { model.went = [window.location.search, String(++times)] }
      model.on("address", write)
      window.addEventListener("popstate", went)
      model.on("remove", () => window.removeEventListener("popstate", went))
      write()
    }
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(width=0, height=0, margin=0, **options)  # type: ignore[no-untyped-call, unused-ignore]


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
    found = _read(search, choices)
    return ViewerState(choices, **found.changes), found.refused


def _read(search: str, choices: Choices) -> Restored:
    asked = dict(parse_qsl(search.removeprefix("?"), keep_blank_values=True, max_num_fields=200))
    return from_url(asked, choices)


def follow(session: Session) -> History:
    """Write every change of a session into the address, and take over where its user goes back to.

    An object or a page that was stayed at becomes an entry of the browser's history; other changes
    alter the entry that there is.

    Parameters
    ----------
    session
        The session; without a document the address is written at once.

    Returns
    -------
    History
        A part of the page.
    """
    state, document = session.state, session.document
    history = History()
    shown, waiting, moved, since = search_of(state), False, False, -_STAY_SECONDS

    def write() -> None:
        nonlocal shown, waiting, moved, since
        search, new = search_of(state), moved and time.monotonic() - since >= _STAY_SECONDS
        waiting = moved = False
        if search == shown:
            return
        shown = search
        if new:
            since = time.monotonic()
        history.address = ["push" if new else "replace", search]

    def changed(*events: Any) -> None:
        nonlocal waiting, moved
        moved = moved or any(event.name in _PLACES for event in events)
        if document is None:
            write()
        elif not waiting:
            waiting = True
            document.add_timeout_callback(write, _LATER_MS)

    def went(event: Any) -> None:
        nonlocal shown, moved
        with session.guard():
            shown = event.new[0]
            _restore(session, shown)
            moved = False  # what is written now alters the entry that was gone to

    state.param.watch(changed, [name for name in state.param if name != "name"])
    history.param.watch(went, "went")
    return history


def _restore(session: Session, search: str) -> None:
    """Take over what an address asks for; what it does not say is as in the beginning."""
    state = session.state
    found = _read(search, state.choices)
    wanted = ViewerState.defaults(state.choices) | found.changes
    for name in _READERS:
        wanted.pop(name)
    if "selection" not in found.changes and len(state.selection) > MOST_SELECTED_IN_URL:
        wanted.pop("selection")  # no address holds so many
    state.param.update(**wanted)
    if found.refused:
        session.say("; ".join(found.refused))
