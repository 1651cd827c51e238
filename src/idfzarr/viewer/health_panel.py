"""Health: what the store holds, what is wrong with it, and where it came from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import panel as pn

from idfzarr.care.report import csv_text
from idfzarr.care.report_html import page
from idfzarr.viewer.controls import button, column, row, spin, spinner
from idfzarr.viewer.health import health_html, health_of
from idfzarr.viewer.keep import KeptFile, file_name
from idfzarr.viewer.saving import Saver

if TYPE_CHECKING:
    from idfzarr.viewer.health import Health
    from idfzarr.viewer.session import Session

__all__ = ["HealthPanel"]


class HealthPanel:
    """The inventory's picture; looked for when it is first shown, and read only.

    Parameters
    ----------
    session
        The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._health: Health | None = None
        self._saver = Saver()
        self._coming = spinner("the inventory is coming")
        self._shown = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 4))
        self.view: Any = column(
            row(
                button(
                    session,
                    "Look again",
                    partial(self._look, anew=True),
                    says="Take the inventory of the store once more; nothing is changed",
                ),
                button(
                    session,
                    "Findings as CSV",
                    self._save_csv,
                    says="Save every finding, one a row",
                ),
                button(
                    session,
                    "Report as HTML",
                    self._save_page,
                    says="Save the inventory as one page that needs nothing else",
                ),
                self._coming,
                self._saver,
            ),
            self._shown,
        )
        session.on(["dark"], self._draw)
        self._look(anew=False)

    def _look(self, *, anew: bool) -> None:
        self._session.later(
            "health",
            partial(health_of, self._session.field, anew=anew),
            self._take,
            coming=self._wait,
        )

    def _wait(self, coming: bool) -> None:  # noqa: FBT001 - as Session.later calls it
        spin(self._coming, turning=coming)
        if coming and self._health is None:
            self._shown.object = "<p>The store is being looked at.</p>"
        elif self._health is None:
            self._shown.object = "<p>The store could not be looked at.</p>"

    def _take(self, health: Health) -> None:
        self._health = health
        self._draw()

    def _draw(self) -> None:
        if self._health is not None:
            self._shown.object = health_html(self._health, dark=self._session.state.dark)

    def _save_csv(self) -> None:
        self._save("findings.csv", "text/csv", csv_text)

    def _save_page(self) -> None:
        self._save("inventory.html", "text/html", page)

    def _save(self, name: str, mime: str, make: Any) -> None:
        if self._health is None:
            self._session.say("the store is still being looked at", severity="info")
            return
        content = make(self._health.inventory).encode()
        stem, _, suffix = name.partition(".")
        named = file_name(self._session.name.removesuffix(".zarr"), stem, suffix=f".{suffix}")
        self._saver.give(KeptFile(named, mime, content, stem))
