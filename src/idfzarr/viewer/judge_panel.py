"""Judge: what people think of an object, and what they take away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idfzarr.viewer.code_card import CodeCard
from idfzarr.viewer.controls import column, row
from idfzarr.viewer.export_card import ExportCard
from idfzarr.viewer.list_card import ListCard
from idfzarr.viewer.note_card import NoteCard
from idfzarr.viewer.saving import Saver

if TYPE_CHECKING:
    from idfzarr.viewer.session import Session

__all__ = ["JudgePanel"]


class JudgePanel:
    """Notes and lists on the left, files, programs and messages on the right.

    Parameters
    ----------
    session
        The session.

    Attributes
    ----------
    notes, lists, export, code
        The cards.
    """

    def __init__(self, session: Session) -> None:
        saver = Saver()
        self.notes = NoteCard(session, saver)
        self.lists = ListCard(session)
        self.export = ExportCard(session, saver)
        self.code = CodeCard(session, saver)
        left = column(self.notes.view, self.lists.view, styles=_HALF)
        right = column(self.export.view, self.code.view, styles=_HALF)
        self.view: Any = row(
            left, right, saver, align_items="flex-start", flex_wrap="nowrap", gap="20px"
        )


_HALF = {"flex": "1 1 0", "min-width": "0"}
