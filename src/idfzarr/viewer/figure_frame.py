"""What all figures of the page share: a frame that changes between light and dark, and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import AllIndices, CDSView, ColumnDataSource, GlyphRenderer, Range1d
from bokeh.plotting import figure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = [
    "COLOURS",
    "LETTERS",
    "NEUTRAL",
    "blank_figure",
    "draw",
    "empty_source",
    "paint",
    "series_colours",
    "span",
    "swap",
]

COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c6bb1",
    "#7f7f7f",
)
"""Colours that people with any colour vision tell apart on white and on black; after Okabe and Ito
(2008), https://jfly.uni-koeln.de/color/ , without yellow and black."""

NEUTRAL = "#8a8f98"
"""What stands back, on white and on black."""

LETTERS = "Roboto, Helvetica, Arial, sans-serif"
"""Font family of the page and its figures."""

_LIGHT = {
    "paper": "#ffffff",
    "plot": "#ffffff",
    "line": "#b0b5bd",
    "text": "#30343b",
    "grid": "#e6e8ec",
}
_DARK = {
    "paper": "#121212",
    "plot": "#1a1c1f",
    "line": "#5a6069",
    "text": "#d5d9df",
    "grid": "#2c2f34",
}


def blank_figure(
    *, name: str, height: int, tools: str = "pan,wheel_zoom,box_zoom,reset,save", **options: Any
) -> Any:
    """Return an empty figure with ranges of its own.

    Parameters
    ----------
    name
        Of the figure, for tests and for those who cannot see it.
    height
        Pixels.
    tools
        Of Bokeh.
    **options
        Of the figure.
    """
    looks: dict[str, Any] = {
        "sizing_mode": "stretch_width",
        "x_range": Range1d(0.0, 1.0),
        "y_range": Range1d(0.0, 1.0),
        "output_backend": "canvas",
        "toolbar_location": "above",
        "active_scroll": None,
    }
    made = figure(name=name, height=height, tools=tools, **(looks | options))
    made.toolbar.logo = None
    made.toolbar.autohide = False
    made.min_border_right = 12
    for axis in made.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = "12px"
        axis.major_label_text_font_size = "11px"
    return made


def draw(made: Any, source: Any, glyph: Any, **options: Any) -> Any:
    """Draw a glyph for every row of a source; returns its renderer.

    Parameters
    ----------
    made
        The figure.
    source
        Rows.
    glyph
        What is drawn, fields by name of column.
    **options
        Of the renderer.

    Notes
    -----
    ``figure.scatter`` and its like make two more glyphs, for what is muted and what is not chosen,
    and a view of the source for each renderer. None of it is used here, and each is a model that
    the server makes, sends and walks through at every message.
    """
    same = (known.view for known in made.renderers if known.data_source is source)
    every = made.renderers[0].view.filter if made.renderers else AllIndices()
    renderer: Any = GlyphRenderer(
        data_source=source,
        glyph=glyph,
        view=next(same, None) or CDSView(filter=every),
        selection_glyph=None,
        nonselection_glyph=None,
        muted_glyph=None,
        **options,
    )
    made.renderers = [*made.renderers, renderer]
    return renderer


def paint(made: Any, *, dark: bool) -> None:
    """Colour a figure for a light or a dark page.

    Parameters
    ----------
    made
        The figure.
    dark
        Whether the page is dark.
    """
    colours = _DARK if dark else _LIGHT
    made.background_fill_color = colours["plot"]
    made.border_fill_color = colours["paper"]
    made.outline_line_color = colours["line"]
    for axis in made.axis:
        axis.axis_label_text_font = axis.major_label_text_font = LETTERS
        axis.axis_label_text_color = colours["text"]
        axis.major_label_text_color = colours["text"]
        axis.axis_line_color = colours["line"]
        axis.major_tick_line_color = colours["line"]
        axis.minor_tick_line_color = None
    for grid in made.grid:
        grid.grid_line_color = colours["grid"]
    for title in (made.title,):
        title.text_color = colours["text"]
        title.text_font = LETTERS
    for legend in made.legend:
        legend.background_fill_color = colours["plot"]
        legend.background_fill_alpha = 0.85
        legend.border_line_color = None
        legend.label_text_color = colours["text"]
        legend.label_text_font = LETTERS


def empty_source(*names: str) -> Any:
    """Return a source of no rows with these columns."""
    return ColumnDataSource({name: [] for name in names})  # an empty array is no colour


def series_colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name, by its place."""
    return {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(dict.fromkeys(names))}


def span(
    values: NDArray[np.float64],
    *,
    around: float = 0.05,
    otherwise: tuple[float, float] = (0.0, 1.0),
) -> tuple[float, float]:
    """Return a range that holds all finite values, with some room.

    Parameters
    ----------
    values
        Of any shape.
    around
        Room on either side, as a part of the range.
    otherwise
        Where nothing is finite.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return otherwise
    low, high = float(finite.min()), float(finite.max())
    room = (high - low) * around or abs(high) * around or 0.5
    return low - room, high + room


def swap(source: Any, data: dict[str, Any]) -> None:
    """Give a source other rows, unless they are the same ones: each swap is sent and drawn.

    Parameters
    ----------
    source
        The source.
    data
        Columns by name. Numbers in arrays are compared; texts and paths always count as others,
        unless there are none before and after.
    """
    held = source.data
    same = held.keys() == data.keys() and all(_equal(held[name], data[name]) for name in data)
    if not same:
        source.data = data


def _equal(one: Any, other: Any) -> bool:
    if not len(one) and not len(other):
        return True
    arrays = isinstance(one, np.ndarray) and isinstance(other, np.ndarray)
    return arrays and one.dtype.kind in "iuf" and np.array_equal(one, other, equal_nan=True)
