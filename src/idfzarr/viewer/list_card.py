"""Lists of objects on the page: the selection saved under a name, and loaded again."""

from __future__ import annotations

from functools import cache, partial
from html import escape
from typing import TYPE_CHECKING, Any

import panel_material_ui as pmui

from idfzarr.viewer.controls import button, column, heading, row, words
from idfzarr.viewer.lists import LONGEST_NAME, ObjectLists
from idfzarr.viewer.live import Live
from idfzarr.viewer.note_card import author_of_session

if TYPE_CHECKING:
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.session import Session

__all__ = ["ListCard", "lists_of_field"]

_PAGE = ("judge",)


@cache
def _lists_at(path: str, uuid: str) -> ObjectLists:
    return ObjectLists(path, uuid)


def lists_of_field(field: Field) -> ObjectLists:
    """Return the lists of a store, which all sessions of this process share."""
    return _lists_at(field.path, field.cube.uuid)


class ListCard:
    """Save the selection, load a list, delete it.

    Parameters
    ----------
    session
        The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lists = lists_of_field(session.field)
        self._name = pmui.TextInput(
            label="Name of a new list",
            description="What the list of the selected objects is to be called",
            size="small",
            max_length=LONGEST_NAME,
            sizing_mode="stretch_width",
            margin=(6, 6),
        )
        self._chosen = pmui.Select(
            label="Saved list",
            options=[],
            description="Lists that were saved beside the store, with their number of objects",
            size="small",
            searchable=True,
            sizing_mode="stretch_width",
            margin=(6, 6),
        )
        self._told = words("", margin=(2, 6), styles={"font-size": "12px", "opacity": "0.8"})
        self.view: Any = self._laid_out()
        session.on_page(_PAGE, ["selection"], self.refresh)
        self._live = Live(session, self._lists, _PAGE, self.refresh)

    def _laid_out(self) -> Any:
        session = self._session
        wide = {"flex": "1 1 0", "min-width": "0"}
        return column(
            heading("Lists of objects"),
            row(
                column(self._name, styles=wide),
                button(
                    session,
                    "Save selection",
                    partial(self._save, replace=False),
                    says="Save the selected objects under this name",
                ),
                button(
                    session,
                    "Replace",
                    partial(self._save, replace=True),
                    says="Save the selected objects under this name in place of those it has",
                ),
                flex_wrap="nowrap",
            ),
            row(
                column(self._chosen, styles=wide),
                button(session, "Load", self._load, says="Select the objects of this list"),
                button(session, "Add", self._add, says="Select the objects of this list, too"),
                button(session, "Delete", self._delete, says="Delete this list"),
                flex_wrap="nowrap",
            ),
            self._told,
        )

    def refresh(self) -> None:
        """Show the lists there are."""
        lists = self._lists.all()
        options = {f"{one.name} ({len(one.objects):,})": one.name for one in lists}
        options = options or {"no list yet": ""}
        before = self._chosen.value
        value = before if before in options.values() else next(iter(options.values()), None)
        self._chosen.param.update(options=options, value=value)
        n = len(self._session.state.selection)
        told = [
            f"{n:,} object{'' if n == 1 else 's'} selected. Lists are kept in {self._lists.path}"
        ]
        bad = self._lists.damage
        if bad:
            told.append(f"{len(bad)} lines of it are not believed, the first: {bad[0]}")
        self._told.object = "<br>".join(escape(one) for one in told)

    def _save(self, *, replace: bool) -> None:
        saved = self._lists.save(
            self._name.value or "",
            self._session.state.selection,
            replace=replace,
            author=author_of_session(),
        )
        self.refresh()
        self._chosen.value = saved.name
        self._name.value = ""
        self._session.say(
            f"saved {len(saved.objects):,} objects as {saved.name}", severity="success"
        )

    def _known(self) -> tuple[str, list[int]]:
        """Return the chosen list, without objects that the store has no more."""
        if not self._chosen.value:
            return "", []
        found = self._lists.load(self._chosen.value)
        return found.name, [one for one in found.objects if self._session.field.knows(one)]

    def _load(self) -> None:
        self._take(before=[])

    def _add(self) -> None:
        self._take(before=list(self._session.state.selection))

    def _take(self, *, before: list[int]) -> None:
        name, ids = self._known()
        if not name:
            self._session.say("there is no list yet: select objects and save them", severity="info")
            return
        state = self._session.state
        state.selection = list(dict.fromkeys([*before, *ids]))
        if ids and not before:
            state.object = ids[0]
        lost = len(self._lists.load(name).objects) - len(ids)
        tail = f"; {lost:,} of it are not in this store" if lost else ""
        self._session.say(f"{name}: {len(ids):,} objects{tail}", severity="success")

    def _delete(self) -> None:
        name = self._chosen.value
        if name:
            self._lists.delete(name, author=author_of_session())
            self.refresh()
            self._session.say(f"the list {name} is deleted", severity="success")
