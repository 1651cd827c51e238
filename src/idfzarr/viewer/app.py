"""The viewer's page.

``idfzarr view STORE`` serves it; so does ``panel serve src/idfzarr/viewer/app.py --args STORE``,
where Panel's own options decide about addresses and logins.
"""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui
from panel.util import edit_readonly  # type: ignore[attr-defined]
from panel_material_ui.template import Page  # type: ignore[attr-defined]

from idfzarr.errors import IdfzarrError, UsageError
from idfzarr.viewer.find_panel import FindPanel
from idfzarr.viewer.health_panel import HealthPanel
from idfzarr.viewer.judge_panel import JudgePanel
from idfzarr.viewer.keys import KEYS, Keys
from idfzarr.viewer.link import follow, restored_state
from idfzarr.viewer.look_panel import LookPanel
from idfzarr.viewer.object_bar import ObjectBar
from idfzarr.viewer.see_panel import SeePanel
from idfzarr.viewer.serve import shared_field
from idfzarr.viewer.session import Session
from idfzarr.viewer.state import PAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from idfzarr.viewer.field import Field

__all__ = ["Viewer", "page"]

pn.extension("tabulator", notifications=False)

_THEME: dict[str, Any] = {
    "typography": {"fontSize": 13, "button": {"textTransform": "none"}},
    "shape": {"borderRadius": 4},
    "components": {
        "MuiTab": {"styleOverrides": {"root": {"minHeight": 36, "padding": "4px 18px"}}},
        "MuiTabs": {"styleOverrides": {"root": {"minHeight": 36}}},
        "MuiToolbar": {"styleOverrides": {"root": {"minHeight": "44px !important"}}},
    },
}
_MAKERS: dict[str, Callable[[Session], Any]] = {
    "find": FindPanel,
    "look": LookPanel,
    "see": SeePanel,
    "judge": JudgePanel,
    "health": HealthPanel,
}


class Viewer:
    """The page of one session.

    Parameters
    ----------
    session
        The session.

    Attributes
    ----------
    panels
        The parts made so far, by name: a part is made when it is first shown.
    page
        What is served.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.panels: dict[str, Any] = {}
        actions = {"j": self._next, "k": self._before, "f": self._fold, "?": self._say_keys}
        self._keys = Keys({key: self._guarded(act) for key, act in actions.items()})
        self._bar = ObjectBar(session, share=self._share, keys=self._say_keys)
        self._help = self._key_help()
        # Beside the tabs, not in them: tabs take their content apart whenever they are turned.
        self._slots = {
            name: pmui.Column(sizing_mode="stretch_width", margin=(8, 0, 0, 0)) for name in PAGES
        }
        self._tabs = pmui.Tabs(
            *((name.capitalize(), pmui.Column(height=0, margin=0)) for name in PAGES),
            active=PAGES.index(session.state.page),
            sizing_mode="stretch_width",
            margin=0,
        )
        self._tabs.param.watch(self._turned, "active")
        session.on(["page"], self._turn, now=True)
        self.page = Page(
            title=f"idfzarr  ·  {session.name}",
            main=[
                pmui.Column(
                    session.notice, self._bar.view, self._tabs, *self._slots.values(),
                    self._help, self._keys,
                    sizing_mode="stretch_width", margin=0,
                )
            ],
            dark_theme=session.state.dark,
            theme_config=_THEME,
            busy_indicator=None,
        )  # fmt: skip
        # The page would follow how busy the whole process is, all sessions together: every click of
        # anybody would change every page twice, and each change walks through all its models.
        with edit_readonly(self.page):
            self.page.busy = False
        self.page.param.watch(self._themed, "dark_theme")
        session.on(["dark"], self._theme)

    def part(self, name: str) -> Any:
        """Return a part of the page; made when it is first asked for."""
        if name not in self.panels:
            self.panels[name] = _MAKERS[name](self.session)
            self._slots[name].objects = [self.panels[name].view]
        return self.panels[name]

    # ---------------------------------------------------------------- turning

    def _turned(self, event: Any) -> None:
        with self.session.guard():
            self.session.state.page = PAGES[event.new]

    def _turn(self) -> None:
        name = self.session.state.page
        for other, slot in self._slots.items():
            slot.visible = other == name
        self.part(name)
        self._tabs.active = PAGES.index(name)

    def _themed(self, event: Any) -> None:
        with self.session.guard():
            self.session.state.dark = bool(event.new)

    def _theme(self) -> None:
        if self.page.dark_theme != self.session.state.dark:
            self.page.dark_theme = self.session.state.dark

    # ---------------------------------------------------------------- keys

    def _guarded(self, act: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            with self.session.guard():
                act()

        return run

    def _next(self) -> None:
        self.session.step(1)

    def _before(self) -> None:
        self.session.step(-1)

    def _fold(self) -> None:
        look = self.part("look")
        self.session.state.page = "look"
        look.periods.fold_best()

    def _key_help(self) -> Any:
        rows = "".join(
            f"<tr><td><kbd>{escape(key)}</kbd></td><td>{escape(says)}</td></tr>"
            for key, says in KEYS.items()
        )
        table = f'<table style="border-spacing:12px 4px">{rows}</table>'
        return pmui.Dialog(
            pn.pane.HTML(table),
            title="Keys",
            open=False,
            show_close_button=True,
            close_on_click=True,
        )

    def _say_keys(self) -> None:
        self._help.open = not self._help.open

    def _share(self) -> None:
        location = pn.state.location
        if location is not None:
            from idfzarr.viewer.link import search_of

            where = f"{location.protocol}//{location.hostname}"
            where += f":{location.port}" if location.port else ""
            where += f"{location.pathname}{search_of(self.session.state)}"
            self._keys.copy(where)
            self.session.say("the address of this view is on the clipboard", severity="success")


def page(field: Field) -> Any:
    """Return the page of a new session, as its address asks for.

    Parameters
    ----------
    field
        The opened store, shared by all sessions.

    Returns
    -------
    Page
        To be served.
    """
    location = pn.state.location
    search = (location.search if location is not None else "") or ""
    state, refused = restored_state(search, field.choices())
    session = Session(field, state)
    pn.config.exception_handler = session.fail
    viewer = Viewer(session)
    if refused:
        session.say("; ".join(refused))
    if location is not None:
        follow(state, location, pn.state.curdoc)
    return viewer.page


def _served(arguments: list[str]) -> Any:
    """Return the page for ``panel serve``: the store is its one argument."""
    if len(arguments) != 1:
        msg = "name one store: panel serve src/idfzarr/viewer/app.py --args STORE"
        raise UsageError(msg)
    try:
        return page(shared_field(arguments[0]))
    except IdfzarrError as error:
        return Page(title="idfzarr", main=[pmui.Alert(escape(str(error)), severity="error")])


if __name__.startswith("bokeh_app"):
    _served(sys.argv[1:]).servable()
