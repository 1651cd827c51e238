"""The viewer's page.

``idfzarr view STORE`` serves it; so does ``panel serve src/idfzarr/viewer/app.py --args STORE``,
where Panel's own options decide about addresses and logins.
"""

from __future__ import annotations

import asyncio
import sys
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui
from bokeh.themes import Theme
from panel.io.resources import parse_template
from panel.util import edit_readonly  # type: ignore[attr-defined]
from panel_material_ui.template import Page  # type: ignore[attr-defined]

from idfzarr.errors import IdfzarrError, UsageError
from idfzarr.viewer.controls import apart
from idfzarr.viewer.keys import KEYS, Keys
from idfzarr.viewer.link import follow, restored_state
from idfzarr.viewer.object_bar import ObjectBar
from idfzarr.viewer.serve import shared_field
from idfzarr.viewer.session import Session, set_current
from idfzarr.viewer.state import PAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from idfzarr.viewer.field import Field

__all__ = ["Viewer", "page"]

pn.extension("tabulator", notifications=False)

_THEME: dict[str, Any] = {
    "typography": {"fontSize": 13, "button": {"textTransform": "none"}},
    "shape": {"borderRadius": 4},
    "components": {
        # A ripple is drawn for half a second after every click, over and over while what was
        # clicked for is drawn too. It also shows what has the keyboard: an outline does that here.
        "MuiButtonBase": {
            "defaultProps": {"disableRipple": True},
            "styleOverrides": {
                "root": {
                    "&.Mui-focusVisible": {"outline": "2px solid #1976d2", "outlineOffset": "-2px"}
                }
            },
        },
        "MuiTab": {"styleOverrides": {"root": {"minHeight": 36, "padding": "4px 18px"}}},
        "MuiTabs": {"styleOverrides": {"root": {"minHeight": 36}}},
        "MuiToolbar": {"styleOverrides": {"root": {"minHeight": "44px !important"}}},
    },
}

# Figures have their colours from us (figure_frame.paint). What a document's own theme names, the
# page leaves alone; else it gives every part of a figure its colours, one after the other, draws
# the figure anew each time and tells the server (apply_bokeh_theme in
# https://github.com/panel-extensions/panel-material-ui/blob/main/src/panel_material_ui/utils.js).
_PARTS = ("Axis", "BaseColorBar", "Figure", "Grid", "Legend", "Title")
_FIGURES_OWN = Theme(json={"attrs": {part: {} for part in _PARTS}})

# The components' program, the largest of the page's files, would be asked for only when the first
# component is drawn, after all else is there. es-module-shims keeps what it has.
_TEMPLATE = parse_template(
    """{% extends "base.html" %}
{% block postamble %}{{ super() }}{% if program %}
<script>window.importShim?.({{ program | tojson }}).catch(() => {})</script>{% endif %}
{% endblock %}"""
)


def _program() -> str:
    """Return where the components' program is, relative to the page; empty where unknown."""
    told = str(Page._render_esm(server=True))  # noqa: SLF001 - the models get theirs from it
    return told if told.split("?", maxsplit=1)[0].endswith(".bundle.js") else ""


def _maker(name: str) -> Callable[[Session], Any]:
    """Return what makes a part of the page; its modules are imported when it is first shown."""
    module = import_module(f"idfzarr.viewer.{name}_panel")
    made: Callable[[Session], Any] = getattr(module, f"{name.capitalize()}Panel")
    return made


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
        self._slots = {name: apart(margin=(8, 0, 0, 0)) for name in PAGES}
        self._tabs = pmui.Tabs(
            *((name.capitalize(), pn.Column(height=0, margin=0)) for name in PAGES),
            active=PAGES.index(session.state.page),
            sizing_mode="stretch_width",
            margin=0,
        )
        self._tabs.param.watch(self._turned, "active")
        session.on(["page"], self._turn)
        self._show(session.state.page)
        self.page = Page(
            template=_TEMPLATE,
            title=f"idfzarr  ·  {session.name}",
            main=[
                session.notice,
                self._bar.view,
                self._tabs,
                *self._slots.values(),
                self._help,
                self._keys,
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
        for _ in self._making(name):
            pass
        return self.panels[name]

    def _making(self, name: str) -> Iterator[None]:
        """Make a part of the page, piece by piece."""
        if name in self.panels:
            return
        made = self.panels[name] = _maker(name)(self.session)
        self._slots[name].objects = [made.view]
        if hasattr(made, "pieces"):
            yield from made.pieces()

    async def grow(self) -> None:
        """Make the part that is shown, piece by piece, and let the server answer in between.

        The browser fetches the page's programs while the page itself is being made. The session's
        document is locked all the time, so that nobody takes it over before it is complete.
        """
        pieces = self._making(self.session.state.page)
        more = True
        while more:
            more = False
            with set_current(self.session.document), self.session.guard():
                more = next(pieces, self) is not self
            await asyncio.sleep(0)

    # ---------------------------------------------------------------- turning

    def _turned(self, event: Any) -> None:
        with self.session.guard():
            self.session.state.page = PAGES[event.new]

    def _turn(self) -> None:
        self.part(self.session.state.page)
        self._show(self.session.state.page)

    def _show(self, name: str) -> None:
        for other, slot in self._slots.items():
            slot.visible = other == name
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
    viewer.page.main = [*viewer.page.main, follow(session)]
    document = pn.state.curdoc
    if document is not None:
        document.template_variables["program"] = _program()
        document.theme = _FIGURES_OWN
    if document is not None and document.session_context is not None:
        document.add_next_tick_callback(viewer.grow)
    else:
        viewer.part(state.page)
    return viewer.page


def _served(arguments: list[str]) -> Any:
    """Return the page for ``panel serve``: the store is its one argument."""
    try:
        if len(arguments) != 1:
            msg = f"name one store, not {len(arguments)}: panel serve app.py --args STORE"
            raise UsageError(msg)
        return page(shared_field(arguments[0]))
    except IdfzarrError as error:
        return Page(title="idfzarr", main=[pmui.Alert(object=escape(str(error)), severity="error")])


if __name__.startswith("bokeh_app"):
    _served(sys.argv[1:]).servable()
