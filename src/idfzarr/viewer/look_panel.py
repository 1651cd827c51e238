"""Look: lightcurves with all that can be done to them, and an object's stamps beside them."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from html import escape
from typing import TYPE_CHECKING, Any

import panel as pn
import panel_material_ui as pmui

from idfzarr.errors import ImageError, UsageError
from idfzarr.viewer.controls import (
    apart,
    button,
    choice,
    column,
    heading,
    many,
    number,
    prompt,
    radio,
    row,
    slider,
    switch,
    words,
)
from idfzarr.viewer.figures import LightcurveFigure, mjd_of_axis
from idfzarr.viewer.period_figures import RateFigure
from idfzarr.viewer.period_panel import PeriodPanel
from idfzarr.viewer.session import CURVE_CHOICES
from idfzarr.viewer.stamp_figure import StampFigure
from idfzarr.viewer.stamps import aor_stamp, render, superstack_stamp

if TYPE_CHECKING:
    from idfzarr.viewer.curve_values import Curve
    from idfzarr.viewer.session import Session

__all__ = ["LookPanel"]

_PAGE = ("look",)
_SIDE = 218  # pixels of a small stamp
_MOST_PANELS = 8
_EPOCH = datetime(1858, 11, 17, tzinfo=timezone.utc)  # noqa: UP017 - MJD 0


class LookPanel:
    """Lightcurves, rates and periods of a session.

    Parameters
    ----------
    session
        The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._zooming = self._sliding = False
        self._frames: list[LightcurveFigure] = []
        self._panes: list[Any] = []
        self._frame(0)
        self._rates = RateFigure(height=230)
        self._superstack = StampFigure("superstack stamp", side=_SIDE, axes=False)
        self._own = StampFigure("AOR stamp", side=_SIDE, axes=False)
        self._notes = words("", margin=(0, 8), styles={"font-size": "12px", "opacity": "0.8"})
        self.periods = PeriodPanel(session)
        self._times = self._time_slider()
        self._curves_column = column(self._panes[0], margin=0)
        self._rate_pane = pn.pane.Bokeh(self._rates.figure, sizing_mode="stretch_width")
        self.view = self._laid_out()
        on = session.on_page
        shown = [*CURVE_CHOICES, "layout", "marker_size", "show_errors"]
        on(_PAGE, shown, self._draw)
        on(_PAGE, ["aor", "object"], self._mark)
        stamped = ["object", "types", "image_channel", "stretch", "colour_map", "show_apertures"]
        on(_PAGE, [*stamped, "stamp_size"], self._stamp)
        on(_PAGE, [*stamped, "stamp_size", "aor"], self._stamp_of_aor)
        on(_PAGE, ["dark"], self.paint)
        session.on(["start", "end"], self._follow_times)
        session.on(["rate_on"], self._show_rates, now=True)

    # ---------------------------------------------------------------- parts

    def _frame(self, at: int) -> LightcurveFigure:
        """Return a panel; made when it is first needed, and kept."""
        while len(self._frames) <= at:
            first = self._frames[0] if self._frames else None
            made = LightcurveFigure(
                "lightcurve" if first is None else f"lightcurve {len(self._frames) + 1}",
                height=360,
                pick=self._pick,
                zoomed=self._zoomed,
                guard=self._session.guard,
                x_range=None if first is None else first.figure.x_range,
            )
            made.paint(dark=self._session.state.dark)
            self._frames.append(made)
            self._panes.append(pn.pane.Bokeh(made.figure, sizing_mode="stretch_width"))
        return self._frames[at]

    def _time_slider(self) -> Any:
        known = self._session.state.choices
        first, last = known.first_mjd - 1.0, known.last_mjd + 1.0
        made = pmui.DateRangeSlider(
            label="Times",
            start=_date(first),
            end=_date(last),
            value=(_date(first), _date(last)),
            description="First and last time that is drawn and searched for periods; zooming "
            "sets them too",
            size="small",
            sizing_mode="stretch_width",
            margin=(0, 24, 0, 60),
        )
        prompt(made).param.watch(self._slid, "value_throttled")
        return made

    def _laid_out(self) -> Any:
        self._aor_told = words("", margin=(0, 8), styles={"font-size": "12px"})
        session = self._session
        stamps = apart(
            pn.pane.Bokeh(self._superstack.figure),
            pn.pane.Bokeh(self._own.figure),
            self._aor_told,
            row(
                button(
                    session,
                    "Before",
                    lambda: self._step_aor(-1),
                    says="Image of the AOR before in time",
                ),
                button(
                    session,
                    "After",
                    lambda: self._step_aor(1),
                    says="Image of the next AOR in time",
                ),
                flex_wrap="nowrap",
            ),
            width=_SIDE + 12,
            sizing_mode=None,
        )
        curves = apart(
            self._curves_column, self._times, self._notes, self._rate_pane, min_width=420
        )
        upper = apart(curves, stamps, side_by_side=True)
        drawn = apart(upper, self.periods.view, min_width=600)
        return apart(self._controls(), drawn, side_by_side=True)

    def _controls(self) -> Any:
        session = self._session
        choose = column(
            many(session, "types", "Types"),
            row(radio(session, "layout", "Layout"), radio(session, "unit", "Unit")),
            row(
                choice(session, "system", "System", width=110),
                choice(session, "time_axis", "Time axis", width=140),
                flex_wrap="nowrap",
            ),
            row(
                switch(session, "calibrated", "Calibrated"),
                switch(session, "show_errors", "Errors"),
            ),
            row(
                switch(session, "show_flagged", "Flagged"),
                *(
                    [switch(session, "show_truth", "Simulated")]
                    if session.state.choices.has_truth
                    else []
                ),
            ),
            many(session, "drop", "Flags that set apart"),
            slider(session, "marker_size", "Point size", step=1.0),
        )
        compared = column(
            heading("Compare"),
            row(
                button(
                    session,
                    "Add selection",
                    self._compare,
                    says="Draw the selected objects with this one, ten at most",
                ),
                button(session, "This one only", self._compare_none, says="Draw this object alone"),
            ),
        )
        work = column(
            heading("Clip"),
            switch(session, "clip_on", "Sigma clip"),
            row(
                number(session, "clip_sigma", "Sigma", width=110),
                number(session, "clip_window", "Window [d]", width=130),
                flex_wrap="nowrap",
            ),
            heading("Smooth"),
            switch(session, "smooth_on", "Smoothed line"),
            row(
                number(session, "smooth_window", "Window [d]", width=120),
                number(session, "smooth_sigma", "Sigma", width=110),
                flex_wrap="nowrap",
            ),
            heading("Bin"),
            switch(session, "bin_on", "Binned points"),
            row(
                number(session, "bin_width", "Width [d]", width=110),
                choice(session, "bin_method", "Joined by", width=140),
                flex_wrap="nowrap",
            ),
            heading("Rates, dMag/dt"),
            row(
                switch(session, "rate_on", "Clip by rate"),
                switch(session, "rate_symmetric", "Symmetric"),
            ),
            row(
                number(session, "rate_low", "From [%]", width=88),
                number(session, "rate_high", "To [%]", width=88),
                number(session, "rate_sigma", "Sigma", width=80),
                flex_wrap="nowrap",
            ),
        )
        return column(choose, compared, work, width=290, sizing_mode=None, margin=(0, 6, 20, 4))

    # ---------------------------------------------------------------- choosing

    def _compare(self) -> None:
        state = self._session.state
        others = [one for one in state.selection if one != state.object]
        most = int(state.param["compared"].bounds[1])
        if len(others) > most:
            self._session.say(
                f"{len(others)} objects are selected; the first {most} are drawn with this one",
                severity="info",
            )
        if not others:
            self._session.say("select objects on the page Find first", severity="info")
        state.compared = others[:most]

    def _compare_none(self) -> None:
        self._session.state.compared = []

    def _pick(self, object_id: int, type_: str, position: int) -> None:
        session = self._session
        channel = session.field.channel_of(type_)
        known = session.state.choices.image_channels
        session.state.param.update(
            object=object_id if object_id in session.state.objects[:1] else session.state.object,
            aor=int(session.field.cube.aors[position]),
            image_channel=channel if channel in known else session.state.image_channel,
        )

    def _step_aor(self, count: int) -> None:
        """Go to the AOR before or after, in time, of those that are drawn."""
        session, state = self._session, self._session.state
        aors = [
            int(aor) for curve in session.prepared.curves[:1] for aor in curve.aor[_in_time(curve)]
        ]
        if not aors:
            return
        at = aors.index(state.aor) + count if state.aor in aors else 0
        state.aor = aors[min(max(at, 0), len(aors) - 1)]

    def _zoomed(self, first: float, last: float) -> None:
        """Take over the times of a zoom, unless they are those that are chosen already."""
        state = self._session.state
        if state.time_axis not in {"date", "mjd"}:
            return
        is_date = state.time_axis == "date"
        start, end = (mjd_of_axis(value, is_date=is_date) for value in (first, last))
        known = state.choices
        whole = known.last_mjd - known.first_mjd
        took = (
            None if start <= known.first_mjd else start,
            None if end > known.last_mjd else end,
        )
        before = (state.start, state.end)
        if all(_same(a, b, 1e-4 * whole) for a, b in zip(before, took, strict=True)):
            return
        self._zooming = True
        state.param.update(start=took[0], end=took[1])
        self._zooming = False

    def _slid(self, event: Any) -> None:
        with self._session.guard():
            known = self._session.state.choices
            start, end = (_mjd(value) for value in event.new)
            self._sliding = True  # the slider may be further by now, and must not be put back
            self._session.state.param.update(
                start=None if start <= known.first_mjd else start,
                end=None if end > known.last_mjd else end,
            )
            self._sliding = False

    def _follow_times(self) -> None:
        if self._sliding:
            return
        state = self._session.state
        start = self._times.start if state.start is None else _date(state.start)
        end = self._times.end if state.end is None else _date(state.end)
        low, high = (min(max(one, self._times.start), self._times.end) for one in (start, end))
        if list(map(_day, self._times.value)) != [_day(low), _day(high)]:
            self._times.value = (low, high)

    # ---------------------------------------------------------------- drawing

    def _draw(self) -> None:
        session, state = self._session, self._session.state
        prepared = session.prepared
        groups: list[list[Curve]] = [list(prepared.curves)]
        if state.layout == "panels" and len(state.types) > 1:
            groups = [[c for c in prepared.curves if c.type == name] for name in state.types]
        notes = list(prepared.notes)
        if len(groups) > _MOST_PANELS:
            notes.append(f"{_MOST_PANELS} of {len(groups)} panels are drawn")
            groups = groups[:_MOST_PANELS]
        height = 360 if len(groups) == 1 else max(170, 480 // len(groups))
        for at, curves in enumerate(groups):
            frame = self._frame(at)
            frame.figure.height = height
            frame.show(prepared, curves, size=state.marker_size, errors=state.show_errors)
            if not self._zooming:
                frame.fit_y(curves, falling=prepared.y_reversed)
        if not self._zooming:
            self._frames[0].fit_times(prepared, state)
        panes = self._panes[: len(groups)]
        if list(self._curves_column.objects) != panes:
            self._curves_column.objects = panes
        self._notes.object = "<br>".join(escape(note) for note in notes[:6])
        if state.rate_on:
            self._draw_rates()
        self._mark()

    def _show_rates(self) -> None:
        self._rate_pane.visible = self._session.state.rate_on

    def _draw_rates(self) -> None:
        state = self._session.state
        self._rates.show(
            self._session.prepared.curves,
            low=state.rate_low,
            high=state.rate_high,
            sigma=state.rate_sigma,
        )

    def _mark(self) -> None:
        session, aor = self._session, self._session.state.aor
        rows = [] if aor is None else (session.field.cube.aors == aor).nonzero()[0].tolist()
        for frame in self._frames:
            frame.mark(rows[0] if rows else None)

    def _stamp(self) -> None:
        session, state = self._session, self._session.state
        if state.object is None or not state.image_channel:
            self._superstack.clear("this store has no superstack")
            return
        stamp = superstack_stamp(
            session.field, state.object, state.image_channel, state.stamp_size, types=state.types
        )
        self._superstack.show(stamp, self._rendered(stamp.pixels), outlines=state.show_apertures)

    def _stamp_of_aor(self) -> None:
        session, state = self._session, self._session.state
        if state.object is None or state.aor is None or not state.image_channel:
            self._own.clear("click a point of the lightcurve to see the image of its AOR")
            self._aor_told.object = ""
            return
        try:
            stamp = aor_stamp(
                session.field,
                state.object,
                state.image_channel,
                state.aor,
                state.stamp_size,
                types=state.types,
            )
        except (ImageError, UsageError) as error:
            self._own.clear(str(error))
            self._aor_told.object = ""
            return
        self._own.show(stamp, self._rendered(stamp.pixels), outlines=state.show_apertures)
        self._aor_told.object = escape(f"reqkey {state.aor}")

    def _rendered(self, pixels: Any) -> Any:
        state = self._session.state
        return render(
            pixels,
            stretch=state.stretch,
            low=state.percentile_low,
            high=state.percentile_high,
            colour_map=state.colour_map,
        )

    def paint(self) -> None:
        """Colour all figures for a light or a dark page."""
        dark = self._session.state.dark
        figures: list[Any] = [*self._frames, self._rates, self._superstack, self._own]
        for one in figures:
            one.paint(dark=dark)
        self.periods.paint(dark=dark)


def _in_time(curve: Curve) -> Any:
    rows = curve.kept.nonzero()[0]
    return rows[curve.mjd[rows].argsort(kind="stable")]


def _same(one: float | None, other: float | None, near: float) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= near


def _date(mjd: float) -> datetime:
    """Return an MJD as a date without a zone, in UTC, as the slider takes it."""
    return (_EPOCH + timedelta(days=mjd)).replace(tzinfo=None)


def _day(when: date) -> date:
    """Return the day of a date or time: the slider knows no hours and forgets them."""
    return when.date() if isinstance(when, datetime) else when


def _mjd(when: Any) -> float:
    moment = when if isinstance(when, datetime) else datetime(when.year, when.month, when.day)  # noqa: DTZ001
    return (moment.replace(tzinfo=_EPOCH.tzinfo) - _EPOCH) / timedelta(days=1)
