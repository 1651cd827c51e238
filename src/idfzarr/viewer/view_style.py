"""What all views share: HoloViews with Bokeh behind it, colours, hovers, fonts."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import holoviews as hv
import holoviews.plotting.bokeh
from bokeh.models import HoverTool

from idfzarr.viewer.figure_frame import COLOURS, NEUTRAL

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["REJECTED", "colour_of", "hover", "look"]

REJECTED = "#d62728"
"""Points that were set apart."""

_FONTS = {
    "title": "11pt",
    "labels": "10pt",
    "xticks": "9pt",
    "yticks": "9pt",
    "legend": "9pt",
    "clabel": "10pt",
}

# HoloViews draws with whatever was loaded last; these views are Bokeh's wherever they are made.
hv.Store.set_current_backend("bokeh")


def colour_of(number: int) -> str:
    """Return the colour of the n-th curve; after the last the first comes again."""
    return COLOURS[number % len(COLOURS)]


def hover(
    rows: Sequence[tuple[str, str]], *, formatters: dict[str, Any] | None = None
) -> HoverTool:
    """Return a hover of labels and columns.

    Bokeh escapes what stands in a column, but not the labels; those come from data too.

    Parameters
    ----------
    rows
        Label and what Bokeh is to show, as ``@mjd{0.000}``.
    formatters
        As of Bokeh's HoverTool.
    """
    return HoverTool(
        tooltips=[(html.escape(label).replace("@", "&#64;"), value) for label, value in rows],
        formatters=formatters or {},
    )


def _let_frame_decide(plot: Any, _: Any) -> None:
    """Take back the sizing mode that HoloViews sets: Bokeh wants outer sizes for it and warns."""
    plot.state.sizing_mode = "inherit"


def look(*, width: int = 700, height: int = 320, **others: Any) -> dict[str, Any]:
    """Return options of a figure."""
    return {
        "frame_width": width,
        "frame_height": height,
        "fontsize": _FONTS,
        "hooks": [_let_frame_decide],
        "show_grid": True,
        "gridstyle": {"grid_line_color": NEUTRAL, "grid_line_alpha": 0.25},
        **others,
    }
