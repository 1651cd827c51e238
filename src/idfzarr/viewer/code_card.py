"""The present view as a program on the page."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import panel as pn

from idfzarr.errors import UsageError
from idfzarr.viewer.controls import button, column, heading, row
from idfzarr.viewer.copy_code import python_of
from idfzarr.viewer.keep import KeptFile, file_name
from idfzarr.viewer.session import CURVE_CHOICES

if TYPE_CHECKING:
    from idfzarr.viewer.saving import Saver
    from idfzarr.viewer.session import Session

__all__ = ["CodeCard"]

_PAGE = ("judge",)


class CodeCard:
    """Show the program, copy it, save it.

    Parameters
    ----------
    session
        The session.
    saver
        Gives texts to the browser.
    """

    def __init__(self, session: Session, saver: Saver) -> None:
        self._session, self._saver = session, saver
        self._program = ""
        self._shown = pn.pane.HTML("", sizing_mode="stretch_width", margin=(4, 6))
        self.view: Any = column(
            heading("Copy as Python"),
            row(
                button(
                    session,
                    "Copy program",
                    self._copy,
                    says="Copy the program that makes the numbers of this view and draws them",
                ),
                button(session, "Save program", self._save, says="Save the program as a file"),
            ),
            self._shown,
        )
        session.on_page(_PAGE, [*CURVE_CHOICES, "period", "epoch"], self.refresh)

    def refresh(self) -> None:
        """Write the program of the present view."""
        session = self._session
        try:
            self._program = python_of(session.field, session.state, prepared=session.prepared)
        except UsageError as error:
            self._program = ""
            self._shown.object = escape(str(error))
            return
        self._shown.object = (
            '<pre tabindex="0" aria-label="Program of this view" style="max-height:330px;'
            "overflow:auto;margin:0;padding:8px 10px;font-size:11.5px;line-height:1.45;"
            'border:1px solid rgba(128,128,128,.35);border-radius:4px">'
            f"{escape(self._program)}</pre>"
        )

    def _copy(self) -> None:
        if self._program:
            self._saver.copy(self._program)
            self._session.say("the program is on the clipboard", severity="success")

    def _save(self) -> None:
        if self._program:
            state = self._session.state
            name = file_name(self._session.name.removesuffix(".zarr"), state.object, suffix=".py")
            kept = KeptFile(name, "text/x-python", self._program.encode(), "program")
            self._saver.give(kept)
