"""See: stamps of the object, large, with stretch, colours and cuts; blinking between two."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import panel as pn

from idfzarr.errors import IdfzarrError, ImageError, UsageError
from idfzarr.viewer.controls import (
    apart,
    button,
    choice,
    column,
    heading,
    number,
    radio,
    row,
    slider,
    spin,
    spinner,
    switch,
    words,
)
from idfzarr.viewer.stamp_figure import StampFigure, rgba_of_png
from idfzarr.viewer.stamps import aor_stamp, ps1_stamp, render, superstack_stamp

if TYPE_CHECKING:
    from idfzarr.viewer.session import Session
    from idfzarr.viewer.stamps import ColourStamp, Stamp

__all__ = ["SeePanel"]

_PAGE = ("see",)
_SIDE = 400
_BLINK_MS = 600


class SeePanel:
    """A stamp of each channel's superstack, one of an AOR, and PS1 in colour.

    Parameters
    ----------
    session
        The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._channels = session.state.choices.image_channels
        self._stacks = {
            channel: StampFigure(f"superstack stamp of {channel}", side=_SIDE)
            for channel in self._channels
        }
        self._own = StampFigure("stamp of an AOR", side=_SIDE)
        self._ps1 = StampFigure("PS1 stamp", side=_SIDE)
        self._ps1_coming = spinner("PS1 is coming")
        self._blinking: Any = None
        self._blinked = False
        self._shown: dict[str, Stamp | None] = {"stack": None, "own": None}
        self._told = words("", margin=(4, 8))
        self.view = self._laid_out()
        looked = [
            "object",
            "types",
            "stretch",
            "colour_map",
            "percentile_low",
            "percentile_high",
            "stamp_size",
            "show_apertures",
            "show_objects",
        ]
        on = session.on_page
        on(_PAGE, [*looked, "selection"], self._draw_stacks)
        on(_PAGE, [*looked, "aor", "image_channel"], self._draw_own)
        on(_PAGE, ["object", "stamp_size"], self._ask_ps1)
        on(_PAGE, ["blink"], self._blink)
        session.on(["page"], self._stop_elsewhere)
        on(_PAGE, ["dark"], self._paint)

    def _laid_out(self) -> Any:
        session = self._session
        controls = column(
            heading("Pictures"),
            slider(session, "stamp_size", "Side [arcsec]", step=1.0),
            radio(session, "stretch", "Stretch"),
            choice(session, "colour_map", "Colours"),
            row(
                number(session, "percentile_low", "Dark [%]", width=120),
                number(session, "percentile_high", "Bright [%]", width=120),
                flex_wrap="nowrap",
            ),
            switch(session, "show_apertures", "Apertures"),
            choice(session, "show_objects", "Mark objects"),
            heading("Image of one AOR"),
            choice(session, "image_channel", "Channel"),
            number(session, "aor", "AOR reqkey"),
            row(
                button(
                    session,
                    "AOR before",
                    partial(self.step_aor, -1),
                    says="Image of the AOR before in time",
                ),
                button(
                    session,
                    "AOR after",
                    partial(self.step_aor, 1),
                    says="Image of the next AOR in time",
                ),
            ),
            switch(session, "blink", "Blink with the superstack"),
            self._told,
            width=290,
            sizing_mode=None,
            margin=(0, 6, 20, 4),
        )
        pictures = [pn.pane.Bokeh(one.figure, margin=6) for one in self._stacks.values()]
        pictures.append(pn.pane.Bokeh(self._own.figure, margin=6))
        ps1: list[Any] = []
        if session.state.choices.has_ps1:
            ps1 = [row(pn.pane.Bokeh(self._ps1.figure, margin=6), self._ps1_coming)]
        else:
            ps1 = [
                words(
                    "No PS1 skycells are linked with this store; "
                    "<code>idfzarr fetch SKYCELLS --field STORE</code> brings them.",
                    margin=(10, 10),
                )
            ]
        shown = apart(row(*pictures, align_items="flex-start"), *ps1, min_width=400)
        return apart(controls, shown, side_by_side=True)

    # ---------------------------------------------------------------- AORs in turn

    def step_aor(self, count: int) -> None:
        """Go to the AOR before or after, in time."""
        session, state = self._session, self._session.state
        table = session.field.aors
        aors = table.sort_values("number")["aor"].tolist()
        at = aors.index(state.aor) + count if state.aor in aors else 0
        state.aor = int(aors[min(max(at, 0), len(aors) - 1)])

    # ---------------------------------------------------------------- drawing

    def _rendered(self, stamp: Stamp) -> Any:
        state = self._session.state
        return render(
            stamp.pixels,
            stretch=state.stretch,
            low=state.percentile_low,
            high=state.percentile_high,
            colour_map=state.colour_map,
        )

    def _places(self, stamp: Stamp) -> list[tuple[float, float]]:
        """Return offsets of the objects that are marked, in the units of the stamp."""
        session, state = self._session, self._session.state
        if state.show_objects == "none" or state.object is None:
            return []
        frame = session.field.objects
        here = int(session.field.rows([state.object])[0])
        dx = (frame["x"].to_numpy() - frame["x"].iat[here]) * stamp.scale
        dy = (frame["y"].to_numpy() - frame["y"].iat[here]) * stamp.scale
        left, low, right, high = stamp.bounds
        inside = (dx > left) & (dx < right) & (dy > low) & (dy < high)
        if state.show_objects == "selected":
            chosen = session.field.rows(state.selection)
            only = inside.copy()
            only[chosen] = False
            inside &= ~only
        inside[here] = False
        return list(zip(dx[inside].tolist(), dy[inside].tolist(), strict=True))

    def _draw_stacks(self) -> None:
        session, state = self._session, self._session.state
        for channel, figure in self._stacks.items():
            if state.object is None:
                figure.clear("no object is looked at")
                continue
            stamp = superstack_stamp(
                session.field, state.object, channel, state.stamp_size, types=state.types
            )
            figure.show(
                stamp,
                self._rendered(stamp),
                outlines=state.show_apertures,
                places=self._places(stamp),
            )

    def _draw_own(self) -> None:
        session, state = self._session, self._session.state
        if state.object is None or state.aor is None or not state.image_channel:
            self._own.clear("choose an AOR here, or click a point of a lightcurve")
            return
        ask = (session.field, state.object, state.image_channel)
        self._shown = {"stack": None, "own": None}
        try:
            stamp = aor_stamp(*ask, state.aor, state.stamp_size, types=state.types)
        except (ImageError, UsageError) as error:
            self._own.clear(str(error))
            return
        stack = superstack_stamp(*ask, state.stamp_size, types=state.types)
        self._shown = {"stack": stack, "own": stamp}
        self._own.show(stamp, self._rendered(stamp), outlines=state.show_apertures)

    def _ask_ps1(self) -> None:
        session, state = self._session, self._session.state
        if not state.choices.has_ps1 or state.object is None:
            return
        work = partial(_ps1_or_sentence, session, state.object, state.stamp_size)
        session.later("ps1", work, self._show_ps1, coming=self._wait)

    def _wait(self, coming: bool) -> None:  # noqa: FBT001
        spin(self._ps1_coming, turning=coming)
        if coming:
            self._ps1.clear("PS1 is coming …")

    def _show_ps1(self, found: ColourStamp | str) -> None:
        if isinstance(found, str):
            self._ps1.clear(found)
            return
        self._ps1.show_picture(rgba_of_png(found.png), title=found.title, side=found.size_arcsec)

    # ---------------------------------------------------------------- blinking

    def _blink(self) -> None:
        if self._blinking is not None:
            self._blinking.stop()
            self._blinking = None
        if self._session.state.blink:
            self._blinking = pn.state.add_periodic_callback(self._change, period=_BLINK_MS)
        else:
            self._draw_own()

    def _change(self) -> None:
        with self._session.guard():
            self._blinked = not self._blinked
            stamp = self._shown["stack" if self._blinked else "own"]
            if stamp is not None:
                outlines = self._session.state.show_apertures
                self._own.show(stamp, self._rendered(stamp), outlines=outlines)

    def _stop_elsewhere(self) -> None:
        state = self._session.state
        if state.page != "see" and state.blink:
            state.blink = False
            self._blink()

    def _paint(self) -> None:
        dark = self._session.state.dark
        for one in (*self._stacks.values(), self._own, self._ps1):
            one.paint(dark=dark)


def _ps1_or_sentence(session: Session, object_id: int, side: float) -> ColourStamp | str:
    """Return the stamp, or why there is none: a place beyond all skycells is no failure."""
    try:
        return ps1_stamp(session.field, object_id, side)
    except IdfzarrError as error:
        return str(error)
