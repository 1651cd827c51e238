"""The viewer's plots in a notebook, with widgets."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import holoviews as hv
import numpy as np
import panel as pn

from idfzarr.analysis.query import select
from idfzarr.errors import IdfzarrError, UsageError
from idfzarr.store.cube import Cube
from idfzarr.viewer import views
from idfzarr.viewer.curves import prepare
from idfzarr.viewer.field import Field
from idfzarr.viewer.stamps import ps1_stamp, superstack_stamp
from idfzarr.viewer.state import ViewerState

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Explorer", "explore"]

_LOOK = ("types", "unit", "system", "calibrated", "show_flagged", "time_axis", "layout")
_MEND = ("clip_on", "clip_sigma", "smooth_on", "smooth_window", "bin_on", "bin_width", "rate_on")
_FOLD = ("period_type", "period_method", "period", "epoch")
_FIND = ("statistic", "statistic_type", "column", "bins", "query")
_SEE = ("image_channel", "stretch", "colour_map", "percentile_low", "percentile_high", "stamp_size")


def explore(store: Any, *, truth: str | Path | None = None, **chosen: Any) -> Explorer:
    """Look at a store in a notebook.

    Parameters
    ----------
    store
        Path of a store, a Dataset opened from one, a `Cube` or a `Field`.
    truth
        Folder of the simulation, see `Field`.
    **chosen
        Parameters of `ViewerState` to begin with, as ``object=104, unit="mag"``.

    Returns
    -------
    Explorer
        Widgets and plots; ``.state`` is the `ViewerState`, which may be changed from other cells,
        and ``.field`` the `Field`.

    Raises
    ------
    StoreError
        There is no finished store of ours.
    UsageError
        It is nothing that can be looked at.

    Examples
    --------
    >>> explore("field.zarr", object=104, unit="mag")  # doctest: +SKIP
    """
    field = _field_of(store, truth)
    try:
        state = ViewerState(field.choices(), **chosen)
    except ValueError as error:
        msg = f"the view cannot begin so: {error}"
        raise UsageError(msg) from error
    return Explorer(field, state)


@dataclass
class _Part:
    """One tab: its widgets, its plots, and what makes them stale."""

    title: str
    widgets: Any
    plots: Any
    draw: Callable[[], list[Any]]
    watched: frozenset[str]
    stale: bool = True


class Explorer(pn.viewable.Viewer):  # type: ignore[no-untyped-call, misc, unused-ignore]
    """What `explore` shows; only the plots of the tab in front are drawn.

    Parameters
    ----------
    field
        The store.
    state
        What is chosen; it may be changed from other cells.
    """

    def __init__(self, field: Field, state: ViewerState) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.field = field
        self.state = state
        points = (*_LOOK, *_MEND, "object", "compared", "drop", "start", "end")
        self._parts = [
            self._part("Find", _FIND, (*_FIND, "object", "selection"), _found),
            self._part("Look", ("object", *_LOOK, *_MEND), points, _looked),
            self._part("Periods", ("object", *_FOLD), (*points, *_FOLD), _folded),
            self._part("See", ("object", *_SEE), ("object", "types", *_SEE), _seen),
        ]
        self._tabs: Any = pn.Tabs(  # type: ignore[no-untyped-call, unused-ignore]
            *((part.title, pn.Row(part.widgets, part.plots)) for part in self._parts)
        )
        self._tabs.param.watch(self._show, "active")
        state.param.watch(self._follow, sorted(set().union(*(p.watched for p in self._parts))))
        self._show()

    def __panel__(self) -> Any:
        return self._tabs

    def _part(
        self,
        title: str,
        names: tuple[str, ...],
        watched: tuple[str, ...],
        draw: Callable[[Field, ViewerState], list[Any]],
    ) -> _Part:
        widgets = pn.Param(  # type: ignore[no-untyped-call, unused-ignore]
            self.state.param, parameters=list(names), show_name=False, width=260
        )

        def drawn() -> list[Any]:
            return draw(self.field, self.state)

        return _Part(title, widgets, pn.Column(), drawn, frozenset(watched))

    def _follow(self, *events: Any) -> None:
        changed = {event.name for event in events}
        for part in self._parts:
            part.stale = part.stale or bool(part.watched & changed)
        self._show()

    def _show(self, *_: Any) -> None:
        part = self._parts[self._tabs.active]
        if part.stale:
            part.plots[:] = _drawn(part.draw)
            part.stale = False


def _field_of(store: Any, truth: str | Path | None) -> Field:
    if isinstance(store, Field):
        return store
    if isinstance(store, Cube | str | os.PathLike):
        return Field(store, truth=truth)
    source = getattr(store, "encoding", {}).get("source")
    if not source:
        msg = (
            f"explore looks at the path of a store or at a Dataset opened from one, not at a "
            f"{type(store).__name__} that does not say where it is from"
        )
        raise UsageError(msg)
    return Field(source, truth=truth)


def _drawn(draw: Callable[[], list[Any]]) -> list[Any]:
    """Return plots as panes; where they cannot be drawn, the sentence that says why."""
    try:
        made = draw()
    except IdfzarrError as error:
        made = [str(error)]
    return [_pane(one) for one in made]


def _pane(made: Any) -> Any:
    if isinstance(made, str):
        return pn.widgets.StaticText(value=html.escape(made))
    if isinstance(made, hv.core.Dimensioned):
        return pn.pane.HoloViews(made, linked_axes=False)  # type: ignore[no-untyped-call, unused-ignore]
    return made


def _found(field: Field, state: ViewerState) -> list[Any]:
    shown = select(field.columns(state.statistic_type), state.query)
    how: dict[str, Any] = {
        "statistic": state.statistic,
        "type": state.statistic_type,
        "shown": shown,
        "selection": state.selection,
        "object_id": state.object,
        "width": 440,
    }
    return [
        f"{np.count_nonzero(shown):,} of {len(shown):,} objects",
        views.sky_map(field, **how),
        views.statistic_against_magnitude(field, **how),
        views.histogram(
            field,
            state.column,
            type=state.statistic_type,
            shown=shown,
            bins=state.bins,
            width=440,
        ),
    ]


def _looked(field: Field, state: ViewerState) -> list[Any]:
    return [
        views.lightcurve_plot(field, state),
        views.rate_plot(field, state),
        *prepare(field, state).notes,
    ]


def _folded(field: Field, state: ViewerState) -> list[Any]:
    return [views.periodogram_plot(field, state), views.folded_plot(field, state)]


def _seen(field: Field, state: ViewerState) -> list[Any]:
    if state.object is None or not state.image_channel:
        return ["there is no image to show"]
    stamp = superstack_stamp(
        field, state.object, state.image_channel, state.stamp_size, types=state.types
    )
    plot = views.stamp_plot(
        stamp,
        stretch=state.stretch,
        low=state.percentile_low,
        high=state.percentile_high,
        colour_map=state.colour_map,
        apertures=state.show_apertures,
    )
    if field.skycells is None:
        return [plot]
    colour = ps1_stamp(field, state.object, state.stamp_size)
    picture = pn.pane.PNG(colour.png, width=320)  # type: ignore[no-untyped-call, unused-ignore]
    return [plot, colour.title, picture]
