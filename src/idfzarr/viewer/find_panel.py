"""Find: the sky, the catalogue and the statistics, all of one selection."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import panel as pn
import panel_material_ui as pmui

from idfzarr.analysis.query import QueryError, select
from idfzarr.viewer.catalogue_table import catalogue_table, marked
from idfzarr.viewer.controls import apart, button, choice, column, many, prompt, row, words
from idfzarr.viewer.figures import LightcurveFigure
from idfzarr.viewer.histogram_figure import HistogramFigure
from idfzarr.viewer.session import CURVE_CHOICES
from idfzarr.viewer.sky_figure import PointsFigure
from idfzarr.viewer.stamp_figure import StampFigure
from idfzarr.viewer.stamps import render, superstack_stamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from idfzarr.viewer.session import Session

__all__ = ["FindPanel"]

_MAP = 420  # pixels
_PAGE = ("find",)


class FindPanel:
    """Sky map, scatter plot, histogram and table of a session.

    Parameters
    ----------
    session
        The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._match: NDArray[np.bool_] | None = None
        self.view: Any = apart(margin=(0, 4))

    def pieces(self) -> Iterator[None]:
        """Make it; whoever waits for something else has a turn after each piece."""
        for make in (
            self._make_map, self._make_scatter, self._make_histogram, self._make_preview,
            self._make_table, self._make_controls, self._follow,
        ):  # fmt: skip
            make()
            yield
        yield from self._lay_out()

    def _follow(self) -> None:
        """Draw what is chosen now, and again when it changes."""
        session = self._session
        session.on(["statistic_type", "table_columns"], self._tabulate)
        session.on(["query", "statistic_type"], self._ask, now=True)
        session.on(["sorted_by", "column_filters"], self._arrange)
        self._table.param.watch(self._arranged, ["filters", "sorters"])
        self._table.param.watch(self._ordered, ["filters", "sorters", "mask", "value"])
        on = session.on_page
        on(_PAGE, ["statistic", "statistic_type", "query"], self._colour)
        on(_PAGE, ["selection"], self._ring)
        on(_PAGE, ["object"], self._mark)
        on(_PAGE, ["column", "bins", "query", "statistic_type"], self._count)
        on(_PAGE, [*CURVE_CHOICES, "show_errors"], self._draw_curve)
        on(_PAGE, ["object", "types", "stretch", "colour_map", "image_channel"], self._draw_stamp)
        on(_PAGE, ["dark"], self._paint)

    # ---------------------------------------------------------------- parts

    def _make_map(self) -> None:
        session, field = self._session, self._session.field
        axes = field.map_axes
        frame = field.objects
        fixed: dict[str, Any] = {"sizing_mode": "fixed", "width": _MAP + 70}
        self._map = PointsFigure(
            "sky map",
            height=_MAP,
            pick=self._pick_on_map,
            choose=self._choose,
            guard=session.guard,
            **fixed,
        )
        self._map.place(
            frame[axes[0]].to_numpy(),
            frame[axes[1]].to_numpy(),
            labels=(field.described(axes[0]).axis, field.described(axes[1]).axis),
            falling=field.has_sky,
            scale=self._scale(),
        )

    def _make_scatter(self) -> None:
        self._scatter = PointsFigure(
            "statistic against magnitude",
            height=250,
            pick=self._pick_on_scatter,
            choose=self._choose,
            coloured=False,
            guard=self._session.guard,
        )

    def _make_histogram(self) -> None:
        self._histogram = HistogramFigure(height=200)

    def _make_preview(self) -> None:
        self._curve = LightcurveFigure(
            "lightcurve preview",
            height=250,
            pick=self._pick_point,
            zoomed=lambda *_: None,
            guard=self._session.guard,
        )
        self._stamp = StampFigure("superstack stamp preview", side=190, axes=False)

    def _scale(self) -> float:
        """Return how much shorter a degree across is than one up."""
        field = self._session.field
        if not field.has_sky:
            return 1.0
        return max(float(np.cos(np.radians(np.nanmedian(field.objects["dec"])))), 1e-3)

    def _make_table(self) -> None:
        session = self._session
        self._shown_of = self._table_key
        self._table = catalogue_table(
            session.field,
            self._frame(),
            type_=session.state.statistic_type,
            names=["object", *session.state.choices.table_columns],
            sorted_by=session.state.sorted_by,
            typed=session.state.column_filters,
        )
        self._listening = True
        self._table.on_click(self._clicked)
        self._table.param.watch(self._checked, "selection")
        self._table.param.watch(lambda e: session.say(e.new), "refused")

    def _frame(self) -> Any:
        """Return the objects as the table shows them, with the statistics of the chosen type."""
        field, state = self._session.field, self._session.state
        type_ = state.statistic_type
        frame = field.table_of(type_, state.table_columns) if type_ else field.objects
        return frame[["object", *(name for name in state.table_columns if name in frame.columns)]]

    def _make_controls(self) -> None:
        session = self._session
        self._query = pmui.TextInput(
            label="Condition",
            value=session.state.query,
            size="small",
            sizing_mode="stretch_width",
            placeholder="ch1_mag < 20 and score > 5",
            description="Objects that meet it stay in the table and in colour; and, or, not, "
            "brackets, arithmetic, abs sqrt log10 isnan, object in [1, 2]; Enter asks",
            margin=(6, 6),
        )
        prompt(self._query).param.watch(self._asked, "value")
        session.state.param.watch(lambda e: self._query.param.update(value=e.new), "query")
        self._told = words("", margin=(6, 6), width=170, height=24, sizing_mode="fixed")
        self._asking = row(
            choice(session, "statistic", "Statistic", width=170),
            choice(session, "statistic_type", "of type", width=190),
            column(self._query, sizing_mode="stretch_width", min_width=260),
            self._told,
            button(
                session,
                "Select these",
                self._select_all,
                says="Select every object that meets the condition and the filters of the table",
            ),
            button(session, "Clear", self._clear, says="Select nothing"),
            flex_wrap="nowrap",
        )
        self._counted = row(
            choice(session, "column", "Histogram of", width=200),
            self._histogram.summary,
            flex_wrap="nowrap",
        )
        self._row_facts = words("", margin=(4, 8), styles={"font-size": "12px"})

    def _lay_out(self) -> Iterator[None]:
        plots = apart(side_by_side=True)
        middle, right = column(min_width=300), column(min_width=300)
        columns = many(self._session, "table_columns", "Columns of the table")
        stamp = row(
            pn.pane.Bokeh(self._stamp.figure),
            column(self._row_facts, min_width=120),
            flex_wrap="nowrap",
            align_items="flex-start",
        )
        wide = {"sizing_mode": "stretch_width"}
        self.view[:] = [self._asking, plots, columns]
        for place, piece in (
            (plots, column(pn.pane.Bokeh(self._map.figure), width=_MAP + 70, sizing_mode="fixed")),
            (plots, middle),
            (middle, pn.pane.Bokeh(self._scatter.figure, **wide)),
            (middle, self._counted),
            (middle, pn.pane.Bokeh(self._histogram.figure, **wide)),
            (plots, right),
            (right, pn.pane.Bokeh(self._curve.figure, **wide)),
            (right, stamp),
            (self.view, self._table),
        ):
            yield
            place.append(piece)

    # ---------------------------------------------------------------- asking

    def _asked(self, event: Any) -> None:
        with self._session.guard():
            self._session.state.query = event.new or ""

    def _ask(self) -> None:
        """Take over the condition and the type of the statistics."""
        session, state = self._session, self._session.state
        columns = session.field.columns(state.statistic_type)
        try:
            self._match = select(columns, state.query) if state.query.strip() else None
        except QueryError as error:
            self._query.param.update(error_state=True)
            session.say(str(error))
            self._told.object = ""
            return
        if self._query.error_state:
            session.say("")
        self._query.param.update(error_state=False)
        self._table.mask = self._match
        self._ordered()

    @property
    def _table_key(self) -> tuple[str, list[str]]:
        return self._session.state.statistic_type, list(self._session.state.table_columns)

    def _tabulate(self) -> None:
        """Show other columns, or those of another type."""
        if self._shown_of == self._table_key:
            return
        self._shown_of = self._table_key
        self._listening = False
        self._table.value = marked(self._frame())
        self._listening = True

    def _arrange(self) -> None:
        """Order and filter the table as an address says."""
        state, table = self._session.state, self._table
        if state.sorted_by != table.sorted_by or state.column_filters != table.typed:
            table.arrange(state.sorted_by, state.column_filters)
            self._mark()

    def _arranged(self, *_: Any) -> None:
        with self._session.guard():
            table = self._table
            self._session.state.param.update(sorted_by=table.sorted_by, column_filters=table.typed)

    def _ordered(self, *_: Any) -> None:
        with self._session.guard():
            order = self._table.order
            self._session.order = order
            total = len(self._session.field.objects)
            text = f"{order.size:,} of {total:,} objects"
            self._told.object = f"<b>{escape(text)}</b>"

    # ---------------------------------------------------------------- choosing

    def _pick_on_map(self, across: float, up: float) -> None:
        found = self._session.field.nearest(across, up)
        if found is not None:
            self._session.state.object = found

    def _pick_on_scatter(self, across: float, up: float) -> None:
        row_ = self._scatter.nearest(across, up)
        if row_ is not None:
            self._session.state.object = int(self._session.field.cube.objects[row_])

    def _pick_point(self, _: int, type_: str, position: int) -> None:
        state = self._session.state
        channel = self._session.field.channel_of(type_)
        state.param.update(
            aor=int(self._session.field.cube.aors[position]), image_channel=channel, page="look"
        )

    def _choose(self, inside: NDArray[np.bool_], add: bool) -> None:  # noqa: FBT001
        if self._match is not None:
            inside = inside & self._match
        found = self._session.field.cube.objects[inside].tolist()
        before = self._session.state.selection if add else []
        self._session.state.selection = list(dict.fromkeys([*before, *found]))

    def _select_all(self) -> None:
        ids = self._session.field.cube.objects[self._table.order]
        self._session.state.selection = [int(one) for one in ids]

    def _clear(self) -> None:
        self._session.state.selection = []

    def _clicked(self, event: Any) -> None:
        with self._session.guard():
            if event.column != "_select":
                self._session.state.object = int(self._session.field.cube.objects[event.row])

    def _checked(self, event: Any) -> None:
        if self._listening:
            with self._session.guard():
                ids = self._session.field.cube.objects
                self._session.state.selection = [int(ids[at]) for at in event.new]

    # ---------------------------------------------------------------- drawing

    def _colour(self) -> None:
        session, state = self._session, self._session.state
        field = session.field
        if not state.statistic:
            return
        value = field.statistic(state.statistic, state.statistic_type).astype(np.float64)
        told = field.described(state.statistic, state.statistic_type)
        shown = value if self._match is None else np.where(self._match, value, np.nan)
        self._map.colour(shown, label=told.axis)
        magnitude = f"{field.channel_of(state.statistic_type)}_mag"
        x = field.objects[magnitude].to_numpy()
        positive = np.where(value > 0, value, np.nan) if self._is_wide(value) else value
        y = positive if self._match is None else np.where(self._match, positive, np.nan)
        wide = "log10 of " if self._is_wide(value) else ""
        y = np.log10(y) if wide else y
        labels = (field.described(magnitude).axis, f"{wide}{told.axis}")
        self._scatter.place(x, y, labels=labels)
        self._ring()
        self._mark()

    @staticmethod
    def _is_wide(value: NDArray[np.float64]) -> bool:
        """Say whether values run over so many decades that only their logarithm is readable."""
        positive = value[value > 0]
        if positive.size < 0.9 * np.count_nonzero(np.isfinite(value)) or not positive.size:
            return False
        low, high = np.percentile(positive, [5, 99.5])
        return bool(high > 30 * low)

    def _ring(self) -> None:
        session = self._session
        rows = session.field.rows(session.state.selection)
        self._map.choose(rows)
        self._scatter.choose(rows)
        self._listening = False
        self._table.selection = [int(one) for one in rows]
        self._listening = True

    def _mark(self) -> None:
        row_ = self._session.row
        self._map.look_at(row_)
        self._scatter.look_at(row_)
        place = None if row_ is None else self._session.place_of(row_)
        self._table.turn_to(row_, place)

    def _count(self) -> None:
        session, state = self._session, self._session.state
        if not state.column:
            return
        values = np.asarray(session.field.columns(state.statistic_type)[state.column], np.float64)
        shown = values if self._match is None else values[self._match]
        told = session.field.described(state.column, state.statistic_type)
        self._histogram.show(shown, label=told.axis, bins=state.bins)

    def _draw_curve(self) -> None:
        session, state = self._session, self._session.state
        prepared = session.prepared
        own = prepared.of(state.object) if state.object is not None else ()
        self._curve.show(prepared, own, size=5, errors=state.show_errors)
        self._curve.fit_y(own, falling=prepared.y_reversed)
        self._curve.fit_times(prepared, state)
        self._row_facts.object = "<br>".join(
            f"{escape(curve.label)}: <b>{int(np.count_nonzero(curve.kept))}</b> points"
            for curve in own
        )

    def _draw_stamp(self) -> None:
        session, state = self._session, self._session.state
        if state.object is None or not state.image_channel:
            self._stamp.clear("no superstack in this store")
            return
        stamp = superstack_stamp(
            session.field, state.object, state.image_channel, 20.0, types=state.types
        )
        rgba = render(stamp.pixels, stretch=state.stretch, colour_map=state.colour_map)
        self._stamp.show(stamp, rgba, outlines=True)

    def _paint(self) -> None:
        dark = self._session.state.dark
        for one in (self._map, self._scatter, self._histogram, self._curve, self._stamp):
            one.paint(dark=dark)
