"""Tags and notes on the page: of the object that is looked at, and of all that have some."""

from __future__ import annotations

from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui

from idfzarr.errors import UsageError
from idfzarr.viewer.controls import button, column, heading, prompt, row, words
from idfzarr.viewer.keep import KeptFile, file_name
from idfzarr.viewer.live import Live
from idfzarr.viewer.notes import LONGEST_NOTE, Notes, notes_csv
from idfzarr.viewer.plain_table import PlainTable

if TYPE_CHECKING:
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.notes import Note
    from idfzarr.viewer.saving import Saver
    from idfzarr.viewer.session import Session

__all__ = ["NoteCard", "author_of_session", "notes_of_field"]

_PAGE = ("judge",)
_ROWS = 6
_LONGEST_SHOWN = 160
_ANY_TAG = "any tag"


@cache
def _notes_at(path: str, uuid: str) -> Notes:
    return Notes(path, uuid)


def notes_of_field(field: Field) -> Notes:
    """Return the notes of a store, which all sessions of this process share."""
    return _notes_at(field.path, field.cube.uuid)


def author_of_session() -> str:
    """Return who is logged in; empty where nobody logs in."""
    user = pn.state.user
    return "" if user in (None, "guest", "default_user") else str(user)[:80]


class NoteCard:
    """Tags and note of the object looked at, and a table of all notes.

    Parameters
    ----------
    session
        The session.
    saver
        Gives files to the browser.
    """

    def __init__(self, session: Session, saver: Saver) -> None:
        self._session, self._saver = session, saver
        self._notes = notes_of_field(session.field)
        self._about: int | None = None
        self._seen = ""
        self._listening = True
        self._listed: tuple[Note, ...] = ()
        self._make_controls()
        self._make_table()
        self.view: Any = self._laid_out()
        session.on_page(_PAGE, ["object"], self.refresh)
        self._live = Live(session, self._notes, _PAGE, self._catch_up)

    def _make_controls(self) -> None:
        session = self._session
        self._tags = pmui.MultiChoice(
            label="Tags",
            options=[],
            value=[],
            description="Tags of this object; written down at once, beside the store",
            sizing_mode="stretch_width",
            margin=(6, 6),
        )
        prompt(self._tags).param.watch(self._tagged, "value")
        self._new_tag = pmui.TextInput(
            label="New tag",
            description="A tag that nobody gave yet; Enter gives it to this object",
            size="small",
            width=170,
            margin=(6, 6),
        )
        prompt(self._new_tag).param.watch(self._tag_typed, "value")
        self._text = pmui.TextAreaInput(
            label="Note",
            # A text area shows no tooltip; this stands below it, and is what describes it.
            helper_text="A note on this object; written down beside the store when you leave the "
            "field or save",
            rows=4,
            max_length=LONGEST_NOTE,
            sizing_mode="stretch_width",
            margin=(6, 6),
        )
        prompt(self._text).param.watch(self._text_typed, "value")
        self._save = button(
            session, "Save note", self._write_text, says="Write the note down beside the store"
        )
        self._said = words("", margin=(10, 6), styles={"font-size": "12px", "opacity": "0.8"})
        self._told = words("", margin=(2, 6), styles={"font-size": "12px", "opacity": "0.8"})

    def _make_table(self) -> None:
        self._filter = pmui.Select(
            label="Objects with",
            options=[_ANY_TAG],
            value=_ANY_TAG,
            description="Show the objects that have this tag",
            size="small",
            width=170,
            margin=(6, 6),
        )
        prompt(self._filter).param.watch(self._filtered, "value")
        self._table = PlainTable(
            _frame(()),
            pagination="remote",
            page_size=_ROWS,
            show_index=False,
            disabled=True,
            sortable=False,
            formatters={name: {"type": "plaintext"} for name in _frame(()).columns},
            header_tooltips={
                "object": "its id; a click goes to the object",
                "tags": "tags of the object",
                "note": "the note, shortened",
                "changed": "last change, UTC, and by whom",
            },
            widths={"object": 80, "tags": 150, "changed": 150},
            layout="fit_columns",
            configuration={"placeholder": "nothing is written down yet"},
            sizing_mode="stretch_width",
            height=_ROWS * 26 + 70,
            stylesheets=[":host .tabulator { font-size: 12px; }"],
            margin=(4, 6),
        )
        self._table.on_click(self._clicked)

    def _laid_out(self) -> Any:
        session = self._session
        return column(
            heading("Tags and notes"),
            row(column(self._tags, styles={"flex": "1 1 0"}), self._new_tag, flex_wrap="nowrap"),
            self._text,
            row(self._save, self._said, flex_wrap="nowrap"),
            row(
                self._filter,
                button(
                    session,
                    "Select these",
                    self._select,
                    says="Select the objects of this table, to go through them or save them",
                ),
                button(session, "Notes as CSV", self._export, says="Save all tags and notes"),
                button(
                    session, "Read again", self.refresh, says="Show what others wrote meanwhile"
                ),
            ),
            self._table,
            self._told,
        )

    # ---------------------------------------------------------------- showing

    def refresh(self) -> None:
        """Show what is written down now."""
        object_id = self._session.state.object
        self._about = object_id
        note = None if object_id is None else self._notes.of(object_id)
        self._listening = False
        try:
            self._tags.options = list(self._notes.tags())
            self._tags.value = [] if note is None else list(note.tags)
            self._seen = "" if note is None else note.text
            self._text.param.update(value=self._seen, value_input=self._seen, disabled=note is None)
            self._tags.disabled = self._new_tag.disabled = self._save.disabled = note is None
        finally:
            self._listening = True
        self._say_when(note)
        self._list()

    def _catch_up(self) -> None:
        """Show what others wrote meanwhile; what is being typed here stays."""
        if self._about is None or self._text.value_input in (None, self._seen):
            self.refresh()
            return
        note = self._notes.of(self._about)
        self._show_tags(note)
        if note.text != self._seen:
            self._session.say(
                f"the note on object {self._about} was changed by somebody else while you type; "
                "it is in the table below"
            )
        self._list()

    def _show_tags(self, note: Note) -> None:
        self._listening = False
        try:
            self._tags.options = list(self._notes.tags())
            self._tags.value = list(note.tags)
        finally:
            self._listening = True

    def _say_when(self, note: Note | None) -> None:
        said = ""
        if note is not None and note.line:
            said = f"written {_changed(note)}"
        self._said.object = escape(said)

    def _list(self) -> None:
        everything = self._notes.all()
        tags = sorted({tag for note in everything for tag in note.tags}, key=str.casefold)
        wanted = self._filter.value if self._filter.value in tags else _ANY_TAG
        self._listening = False
        self._filter.param.update(options=[_ANY_TAG, *tags], value=wanted)
        self._listening = True
        listed = tuple(note for note in everything if wanted == _ANY_TAG or wanted in note.tags)
        if listed != self._listed:
            self._listed = listed
            self._table.value = _frame(listed)
        told = [f"Kept in {self._notes.path}"]
        bad, others = self._notes.damage, self._notes.others
        if bad:
            told.append(f"{len(bad)} lines of it are not believed, the first: {bad[0]}")
        if others:
            told.append(f"{others} lines of it are about another store")
        self._told.object = "<br>".join(escape(one) for one in told)

    # ---------------------------------------------------------------- writing

    def _tagged(self, event: Any) -> None:
        if not self._listening or self._about is None:
            return
        with self._session.guard():
            new, old = set(event.new), set(event.old)
            self._write(
                add=[tag for tag in event.new if tag not in old],
                remove=[tag for tag in event.old if tag not in new],
            )

    def _tag_typed(self, event: Any) -> None:
        if not event.new or self._about is None:
            return
        with self._session.guard():
            self._write(add=[event.new])
        self._new_tag.value = ""

    def _text_typed(self, _: Any) -> None:
        if self._listening:
            with self._session.guard():
                self._write_text()

    def _write_text(self) -> None:
        if self._about is not None and self._text.value != self._seen:
            self._write(text=self._text.value or "")

    def _write(self, **change: Any) -> None:
        assert self._about is not None  # noqa: S101 - its callers looked
        try:
            note = self._notes.write(
                self._about, seen=self._seen, author=author_of_session(), **change
            )
        except UsageError as error:
            self._session.say(str(error))
            if "text" not in change:
                self.refresh()
            return
        self._show_tags(note)
        if "text" in change:
            self._seen = note.text
            self._listening = False
            self._text.value = note.text
            self._listening = True
        self._say_when(note)
        self._list()

    # ---------------------------------------------------------------- the table

    def _filtered(self, _: Any) -> None:
        if self._listening:
            with self._session.guard():
                self._list()

    def _known(self) -> list[int]:
        return [n.object_id for n in self._listed if self._session.field.knows(n.object_id)]

    def _select(self) -> None:
        ids = self._known()
        if not ids:
            self._session.say("no object of the store has such a note", severity="info")
            return
        self._session.state.selection = ids
        many = "" if len(ids) == 1 else "s"
        self._session.say(f"{len(ids):,} object{many} selected", severity="success")

    def _clicked(self, event: Any) -> None:
        with self._session.guard():
            object_id = self._listed[event.row].object_id
            if not self._session.field.knows(object_id):
                self._session.say(f"this store has no object {object_id} any more")
                return
            self._session.state.object = object_id

    def _export(self) -> None:
        name = file_name(self._session.name.removesuffix(".zarr"), "notes", suffix=".csv")
        self._saver.give(KeptFile(name, "text/csv", notes_csv(self._notes.all()), "notes"))


def _changed(note: Note) -> str:
    when = note.time[:16].replace("T", " ")
    return f"{when} UTC by {note.author}" if note.author else f"{when} UTC"


def _frame(notes: tuple[Note, ...]) -> pd.DataFrame:
    shown = [" ".join(note.text.split()) for note in notes]
    cut = [one if len(one) <= _LONGEST_SHOWN else f"{one[:_LONGEST_SHOWN]}…" for one in shown]
    return pd.DataFrame(
        {
            "object": pd.Series([str(n.object_id) for n in notes], dtype=object),
            "tags": pd.Series([", ".join(n.tags) for n in notes], dtype=object),
            "note": pd.Series(cut, dtype=object),
            "changed": pd.Series([_changed(n) for n in notes], dtype=object),
        }
    )
