"""What others write down appears on the pages of all sessions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from idfzarr.viewer.session import set_current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from bokeh.document import Document

    from idfzarr.viewer.journal import Journal
    from idfzarr.viewer.session import Session

__all__ = ["Live"]

_LATER_MS = 500  # once for a burst of lines


class Live:
    """Shows again what a journal holds, whenever somebody wrote a line.

    Lines of this server's sessions are heard of; lines of other programs are seen when the page is
    turned to. The disk is asked once a turn, and nothing is asked where the page is not shown.

    Parameters
    ----------
    session
        The session.
    journal
        What is written to.
    pages
        Those that show it.
    show
        Called in the session, once it should be shown anew.
    """

    def __init__(
        self, session: Session, journal: Journal, pages: Iterable[str], show: Callable[[], None]
    ) -> None:
        self._session, self._journal, self._show = session, journal, show
        self._pages = frozenset(pages)
        self._shown = journal.version
        self._waiting = False
        journal.listen(self._written)
        session.on(["page"], self._catch_up)

    def _written(self) -> None:
        """Hear of a line, in whatever thread wrote it."""
        if self._waiting:
            return
        document = self._session.document
        if document is None:
            self._catch_up()
            return
        self._waiting = True
        # Of all that a document does, only this may be asked for in another thread than its own.
        document.add_next_tick_callback(partial(self._wait, document))

    def _wait(self, document: Document) -> None:
        document.add_timeout_callback(self._act, _LATER_MS)

    def _act(self) -> None:
        self._waiting = False
        with set_current(self._session.document), self._session.guard():
            self._catch_up()

    def _catch_up(self) -> None:
        if self._session.state.page not in self._pages:
            return
        version = self._journal.version
        if version != self._shown:
            self._shown = version
            self._show()
