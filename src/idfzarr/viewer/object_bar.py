"""The bar on every page: which object is looked at, what is known of it, and the next."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import panel as pn
import panel_material_ui as pmui

from idfzarr.analysis.sky_search import position_of
from idfzarr.errors import UsageError
from idfzarr.viewer.catalogue_table import shown_number
from idfzarr.viewer.controls import icon_button, row
from idfzarr.viewer.labels import plain, unit_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from idfzarr.viewer.session import Session

__all__ = ["ObjectBar", "find_object"]


def find_object(session: Session, text: str) -> tuple[int, str]:
    """Return the object that a search means, and a sentence about it.

    Parameters
    ----------
    session
        Of the field that is searched.
    text
        An id, or a position on the sky; x and y where the field has no sky.

    Raises
    ------
    UsageError
        There is no such object, and the text is no position.
    """
    field = session.field
    wanted = text.strip()
    if wanted.isascii() and wanted.isdigit():
        if not field.knows(int(wanted)):
            ids = field.cube.objects
            msg = f"there is no object {wanted}; ids are {ids.min()} to {ids.max()}"
            raise UsageError(msg)
        return int(wanted), f"object {wanted}"
    across, up = position_of(wanted) if field.has_sky else _pixels(wanted)
    found = field.nearest(across, up)
    if found is None:
        msg = f"{field.path} has no objects"
        raise UsageError(msg)
    known = field.row_of(found)
    if not field.has_sky:
        far = np.hypot(known["x"] - across, known["y"] - up)
        return found, f"object {found} is the nearest, {far:.1f} px away"
    turned = (known["ra"] - across + 180.0) % 360.0 - 180.0
    far = np.hypot(turned * np.cos(np.radians(up)), known["dec"] - up) * 3600.0
    return found, f"object {found} is the nearest, {far:.1f} arcsec away"


def _pixels(text: str) -> tuple[float, float]:
    words = text.replace(",", " ").split()
    try:
        x, y = map(float, words)
    except ValueError as error:
        msg = f"{text!r} is neither an id nor a place: this field has no sky, write x and y"
        raise UsageError(msg) from error
    return x, y


class ObjectBar:
    """Search, previous and next, the object's row, and the page's address.

    Parameters
    ----------
    session
        The session.
    share
        Copies the address.
    keys
        Says the keys.
    """

    def __init__(
        self, session: Session, *, share: Callable[[], None], keys: Callable[[], None]
    ) -> None:
        self._session = session
        self._search = pmui.TextInput(
            label="Find an object",
            placeholder="id, or RA Dec",
            description="An object's id, or a position as 17h40m12s +68d58m30s or 265.05 68.97; "
            "Enter goes to the nearest object",
            size="small",
            width=250,
            margin=(4, 6),
        )
        self._search.param.watch(self._searched, "enter_pressed")
        self._title = pmui.Typography("", variant="h6", margin=(0, 8), width=130)
        self._facts = pn.pane.HTML(
            "",
            margin=(0, 6),
            sizing_mode="stretch_width",
            styles={"flex": "1 1 0", "min-width": "0"},
        )
        self.view: Any = row(
            self._search,
            icon_button(session, "navigate_before", self.before, says="Object before (key k)"),
            icon_button(session, "navigate_next", self.after, says="Next object (key j)"),
            self._title,
            self._facts,
            icon_button(session, "link", share, says="Copy the address of this view"),
            icon_button(session, "keyboard", keys, says="Say the keys (key ?)"),
            flex_wrap="nowrap",
            margin=(2, 4),
        )
        session.on(["object", "selection", "statistic_type"], self.refresh, now=True)

    def after(self) -> None:
        """Go to the next object."""
        self._session.step(1)

    def before(self) -> None:
        """Go to the object before."""
        self._session.step(-1)

    def _searched(self, _: Any) -> None:
        # Not cleared afterwards: whoever types on already would lose what was typed.
        text = self._search.value_input or self._search.value
        if not text.strip():
            return
        with self._session.guard():
            found, sentence = find_object(self._session, text)
            self._session.say(sentence if "nearest" in sentence else "", severity="info")
            self._session.state.object = found

    def refresh(self) -> None:
        """Show the row of the object looked at."""
        session, state = self._session, self._session.state
        if state.object is None:
            self._title.object, self._facts.object = "no object", ""
            return
        told = ("score", "n", "reduced_chi2")
        known = session.field.row_of(state.object, state.statistic_type, told)
        self._title.object = f"Object {state.object}"
        names = ["ra", "dec"] if session.field.has_sky else ["x", "y"]
        names += [f"{channel}_mag" for channel in session.field.channels]
        names += told
        parts = []
        for name in names:
            if name in known:
                unit = session.field.described(name, state.statistic_type).unit
                text = shown_number(known[name], name=name)
                tail = f" {unit_text(unit)}" if unit not in {"", "1"} and text != "–" else ""
                parts.append((plain(name), text + tail))
        selected = state.selection
        if selected:
            at = selected.index(state.object) + 1 if state.object in selected else None
            place = f"{at} of {len(selected)}" if at else f"not of the {len(selected)}"
            parts.append(("selection", place))
        self._facts.object = _facts(parts)


def _facts(parts: list[tuple[str, str]]) -> str:
    cells = "".join(
        f'<span style="margin-right:1.1em;display:inline-block">'
        f'<span style="opacity:.65">{escape(name)}</span> <b>{escape(value)}</b></span>'
        for name, value in parts
    )
    return f'<div style="font-size:13px;line-height:1.5">{cells}</div>'
