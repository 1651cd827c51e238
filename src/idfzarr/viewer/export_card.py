"""Files and messages on the page: measurements, tables, pictures, SAMP."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import panel_material_ui as pmui

from idfzarr.errors import UsageError
from idfzarr.viewer.controls import button, column, heading, row, spin, spinner, words
from idfzarr.viewer.keep import FORMATS, selection_file, selection_lightcurves, view_file
from idfzarr.viewer.pictures import PICTURE_FORMATS, PICTURES, picture_file
from idfzarr.viewer.samp import send_file
from idfzarr.viewer.saving import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from idfzarr.viewer.keep import KeptFile
    from idfzarr.viewer.saving import Saver
    from idfzarr.viewer.session import Session
    from idfzarr.viewer.state import ViewerState

    Maker = Callable[[ViewerState, str], KeptFile]

__all__ = ["ExportCard"]

_NAME: dict[str, Any] = {"width": 140, "height": 20, "sizing_mode": "fixed", "margin": (10, 6)}
_NAME |= {"styles": {"font-size": "13px"}}


class ExportCard:
    """Save what is shown, or send it on.

    Parameters
    ----------
    session
        The session.
    saver
        Gives files to the browser.
    """

    def __init__(self, session: Session, saver: Saver) -> None:
        self._session, self._saver = session, saver
        self._coming = spinner("what is exported is coming")
        self._kept_only = pmui.Switch(
            label="Only points that are kept",
            value=False,
            description="Leave out measurements that are set apart; else a column says which are",
            size="small",
            margin=(4, 10),
        )
        self.view: Any = self._laid_out()

    def _laid_out(self) -> Any:
        return column(
            row(heading("Export"), self._coming, flex_wrap="nowrap"),
            self._line("This view", self._view, FORMATS, "the measurements of this view"),
            row(words("", **_NAME), self._kept_only, flex_wrap="nowrap"),
            self._line("Selected objects", self._selection, FORMATS, "the selected objects' table"),
            self._line(
                "Their lightcurves",
                self._lightcurves,
                FORMATS,
                "whole lightcurves of the selection",
            ),
            *(
                self._line(
                    title, partial(self._picture, name), PICTURE_FORMATS, f"the {title.lower()}"
                )
                for name, title in PICTURES.items()
            ),
            heading("Send to TOPCAT (SAMP)"),
            row(
                button(
                    self._session,
                    "Send this view",
                    partial(self._send, self._view),
                    says="Send the measurements of this view to every SAMP program that takes "
                    "tables",
                ),
                button(
                    self._session,
                    "Send selected objects",
                    partial(self._send, self._selection),
                    says="Send the table of the selected objects to every SAMP program that takes "
                    "tables",
                ),
            ),
        )

    def _line(
        self,
        title: str,
        make: Maker,
        forms: dict[str, str],
        what: str,
    ) -> Any:
        buttons = [
            button(
                self._session,
                label,
                partial(self._save, make, form),
                says=f"Save {what} as {label}",
                margin=(4, 4),
            )
            for form, label in forms.items()
        ]
        return row(words(title, **_NAME), *buttons, flex_wrap="nowrap")

    # ---------------------------------------------------------------- what is made

    def _view(self, state: ViewerState, form: str) -> KeptFile:
        kept_only = bool(self._kept_only.value)
        return view_file(self._session.field, state, form, kept_only=kept_only)

    def _selection(self, state: ViewerState, form: str) -> KeptFile:
        return selection_file(self._session.field, state, form)

    def _lightcurves(self, state: ViewerState, form: str) -> KeptFile:
        return selection_lightcurves(self._session.field, state, form)

    def _picture(self, what: str, state: ViewerState, form: str) -> KeptFile:
        return picture_file(self._session.field, state, what, form)

    # ---------------------------------------------------------------- where it goes

    def _wait(self, coming: bool) -> None:  # noqa: FBT001 - as Session.later calls it
        spin(self._coming, turning=coming)

    def _save(self, make: Maker, form: str) -> None:
        state = self._session.state.snapshot()  # what is chosen now, whatever is chosen meanwhile
        self._session.later("export", partial(make, state, form), self._give, coming=self._wait)

    def _give(self, kept: KeptFile) -> None:
        if len(kept.content) > MOST_BYTES:
            msg = (
                f"{kept.name} has {len(kept.content) / 1e6:,.0f} MB, more than the "
                f"{MOST_BYTES / 1e6:,.0f} MB that go through the page: choose less"
            )
            raise UsageError(msg)
        self._saver.give(kept)
        self._session.say(f"{kept.name}: {kept.said}", severity="success")

    def _send(self, make: Maker) -> None:
        store = self._session.name.removesuffix(".zarr")
        state = self._session.state.snapshot()

        def send() -> str:
            kept = make(state, "votable")
            return send_file(kept, title=f"{store}: {kept.said}").to_text()

        self._session.later(
            "samp", send, partial(self._session.say, severity="success"), coming=self._wait
        )
