"""Periods on the page Look: periodogram, its peaks, and folding with slider, field and undo."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import panel as pn
import panel_material_ui as pmui

from idfzarr.viewer.controls import (
    apart,
    button,
    choice,
    number,
    number_text,
    prompt,
    read_number,
    row,
    spin,
    spinner,
    words,
)
from idfzarr.viewer.period_figures import FoldFigure, PeriodogramFigure, chance_text
from idfzarr.viewer.periods import find_periods
from idfzarr.viewer.plain_table import PlainTable
from idfzarr.viewer.session import CURVE_CHOICES

if TYPE_CHECKING:
    from idfzarr.analysis.period import Peak
    from idfzarr.viewer.periods import PeriodSearch
    from idfzarr.viewer.session import Session

__all__ = ["PeriodPanel"]

_PAGE = ("look",)
_FINE = 2.0  # percent that the slider reaches to either side


class PeriodPanel:
    """Looks for periods in a thread, and folds.

    Parameters
    ----------
    session
        The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._centre: float | None = session.state.period
        self._periodogram = PeriodogramFigure(height=260, take=self._take, guard=session.guard)
        self._folded = FoldFigure(height=260, set_zero=self._set_zero, guard=session.guard)
        self._coming = spinner("looking for periods", margin=(10, 6))
        self._told = words("", margin=(6, 6), styles={"font-size": "12px"})
        self._peaks = self._peak_table()
        self._slider = self._fine_slider()
        self.view = self._laid_out()
        searched = [
            "object",
            "types",
            "calibrated",
            "drop",
            "start",
            "end",
            "clip_on",
            "clip_sigma",
            "clip_window",
            "rate_on",
            "rate_low",
            "rate_high",
            "rate_sigma",
            "rate_symmetric",
            "period_type",
            "period_method",
            "shortest_period",
            "longest_period",
        ]
        session.on_page(_PAGE, searched, self._search)
        session.on_page(_PAGE, [*CURVE_CHOICES, "period", "epoch"], self._fold)

    # ---------------------------------------------------------------- parts

    def _peak_table(self) -> Any:
        made = PlainTable(
            _rows(()),
            disabled=True,
            selectable=False,
            show_index=False,
            sortable=False,
            height=190,
            formatters={name: {"type": "plaintext"} for name in _rows(()).columns},
            header_tooltips={
                "period [d]": "click a row to fold with its period",
                "chance": "that noise alone has so high a peak, at most (Baluev 2008)",
                "alias": "whether the sampling alone makes it of the first peak",
            },
            layout="fit_columns",
            sizing_mode="stretch_width",
            margin=(0, 6),
        )
        made.on_click(self._clicked)
        return made

    def _fine_slider(self) -> Any:
        made = pmui.FloatSlider(
            label="Fine period [d]",
            start=0.98,
            end=1.02,
            value=1.0,
            step=0.00001,
            format="0.000000",
            description="Moves the period of folding by up to 2 percent",
            size="small",
            sizing_mode="stretch_width",
            disabled=True,
            margin=(0, 16),
        )
        prompt(made).param.watch(self._slides, "value")
        made.param.watch(self._slid, "value_throttled")
        return made

    def _laid_out(self) -> Any:
        session = self._session
        asked = row(
            choice(session, "period_type", "Periods in", width=190),
            choice(session, "period_method", "Method", width=140),
            number(session, "shortest_period", "Shortest [d]", width=110),
            number(session, "longest_period", "Longest [d]", width=110),
            self._coming,
        )
        self._period = pmui.TextInput(
            label="Period [d]",
            value=number_text(session.state.period),
            size="small",
            width=130,
            margin=(6, 6),
            description="Period of folding, days; Enter folds",
            placeholder="none",
        )
        prompt(self._period).param.watch(self._typed, "value")
        folding = row(
            self._period,
            number(session, "epoch", "Zero point [MJD]", width=140),
            button(session, "Undo", self._undo, says="Go back to the period and zero point before"),
            button(session, "Half", partial(self._times, 0.5), says="Fold with half the period"),
            button(session, "Double", partial(self._times, 2.0), says="Fold with twice the period"),
            button(session, "Unfold", self._unfold, says="Fold no longer"),
        )
        left = apart(
            asked,
            pn.pane.Bokeh(self._periodogram.figure, sizing_mode="stretch_width"),
            self._told,
            self._peaks,
            min_width=300,
        )
        right = apart(
            folding,
            self._slider,
            pn.pane.Bokeh(self._folded.figure, sizing_mode="stretch_width"),
            words(
                "Click in the folded lightcurve to make that phase zero.",
                styles={"font-size": "12px", "opacity": "0.7"},
            ),
            min_width=300,
        )
        return apart(left, right, side_by_side=True)

    # ---------------------------------------------------------------- searching

    def _search(self) -> None:
        session = self._session
        asked = session.state.snapshot()
        session.later(
            "periods", partial(find_periods, session.field, asked), self._show, coming=self._wait
        )

    def _wait(self, coming: bool) -> None:  # noqa: FBT001
        spin(self._coming, turning=coming)
        if coming:
            self._told.object = "looking for periods …"

    def _show(self, search: PeriodSearch) -> None:
        from html import escape

        self._periodogram.show(search.found)
        self._peaks.value = _rows(self._periodogram.peaks)
        if search.found is None:
            self._told.object = escape(search.note)
            return
        types = ", ".join(search.types)
        self._told.object = escape(
            f"object {search.object_id}, {types}: {search.found.n} points, "
            f"{search.found.frequency.size:,} periods; click a peak to fold with it"
        )

    # ---------------------------------------------------------------- folding

    def fold_best(self) -> None:
        """Fold with the strongest period; no longer where a lightcurve is folded already."""
        if self._session.state.period is not None:
            self._unfold()
        elif self._periodogram.peaks:
            self._take(self._periodogram.peaks[0])
        else:
            self._session.say("no period is known yet to fold with", severity="info")

    def _take(self, peak: Peak) -> None:
        self._centre = peak.period
        self._session.state.take_period(peak.period)

    def _clicked(self, event: Any) -> None:
        with self._session.guard():
            self._take(self._periodogram.peaks[event.row])

    def _typed(self, event: Any) -> None:
        with self._session.guard():
            state = self._session.state
            if event.new == number_text(state.period):
                return
            try:
                period = read_number(event.new, state.param["period"])
                state.take_period(period)
            except ValueError as error:
                self._period.error_state = True
                self._session.say(f"Period: {str(error).splitlines()[0]}")
                return
            self._centre = period

    def _times(self, factor: float) -> None:
        period = self._session.state.period
        if period is not None:
            self._centre = period * factor
            self._session.state.take_period(period * factor)

    def _unfold(self) -> None:
        self._session.state.take_period(None)

    def _undo(self) -> None:
        if not self._session.state.undo_period():
            self._session.say("there is no period before this one", severity="info")
        self._centre = self._session.state.period

    def _set_zero(self, phase: float) -> None:
        state, epoch = self._session.state, self._folded.epoch
        if state.period is not None and epoch is not None:
            state.take_period(state.period, epoch=epoch + phase * state.period)

    def _slides(self, event: Any) -> None:
        """Show what the slider passes over; only where it is let go becomes the period."""
        with self._session.guard():
            state = self._session.state
            if state.period is not None and event.new != state.period:
                self._folded.show(self._session.prepared, period=event.new, epoch=state.epoch)
                self._periodogram.look_at(event.new)

    def _slid(self, event: Any) -> None:
        with self._session.guard():
            state = self._session.state
            if state.period is not None and event.new != state.period:
                state.take_period(event.new)

    def _fold(self) -> None:
        state = self._session.state
        self._folded.show(self._session.prepared, period=state.period, epoch=state.epoch)
        self._periodogram.look_at(state.period)
        self._period.param.update(value=number_text(state.period), error_state=False)
        self._slider.disabled = state.period is None
        if state.period is None:
            return
        centre = self._centre
        if centre is None or abs(state.period / centre - 1.0) > _FINE / 100:
            self._centre = centre = state.period
        reach = _FINE / 100 * centre
        self._slider.param.update(
            start=centre - reach, end=centre + reach, step=reach / 1000, value=state.period
        )

    def paint(self, *, dark: bool) -> None:
        """Colour both figures for a light or a dark page."""
        self._periodogram.paint(dark=dark)
        self._folded.paint(dark=dark)


def _rows(peaks: tuple[Peak, ...]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "period [d]": [f"{peak.period:.6g}" for peak in peaks],
            "power": [f"{peak.power:.4g}" for peak in peaks],
            "chance": [chance_text(peak) for peak in peaks],
            "alias": ["alias" if peak.is_alias else "" for peak in peaks],
        },
        dtype=object,
    )
