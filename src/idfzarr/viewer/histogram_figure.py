"""A histogram of one column, with N, mean, median and standard deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import panel as pn
from bokeh.models import Quad

from idfzarr.viewer.figure_frame import blank_figure, draw, empty_source, paint, span

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["HistogramFigure"]

_TRIMMED = (0.5, 99.5)  # percentiles: one wild value must not leave all others in one bin


class HistogramFigure:
    """Bars that are swapped.

    Parameters
    ----------
    height
        Pixels.

    Attributes
    ----------
    summary
        N, mean, median and standard deviation in words.
    """

    def __init__(self, *, height: int) -> None:
        self.figure = blank_figure(
            name="histogram", height=height, tools="pan,wheel_zoom,reset,save"
        )
        self.summary = pn.pane.HTML("", margin=(4, 8), sizing_mode="stretch_width")
        self._bars = empty_source("left", "right", "top")
        bars = Quad(
            left="left", right="right", bottom=0, top="top", fill_color="#0072b2", fill_alpha=0.8,
            line_color=None,
        )  # fmt: skip
        draw(self.figure, self._bars, bars)
        self.figure.yaxis.axis_label = "objects [count]"

    def show(self, values: NDArray[np.float64], *, label: str, bins: int) -> None:
        """Count.

        Parameters
        ----------
        values
            (n,); what is not finite does not count.
        label
            Of the axis, with its unit.
        bins
            How many.
        """
        finite = values[np.isfinite(values)]
        self.figure.xaxis.axis_label = label
        if not finite.size:
            self._bars.data = {"left": [], "right": [], "top": []}
            self.summary.object = "<b>N 0</b>"
            return
        limits: Any = np.percentile(finite, _TRIMMED)
        if limits[1] <= limits[0]:
            limits = np.array([limits[0] - 0.5, limits[0] + 0.5])
        count, edges = np.histogram(finite, bins=bins, range=(limits[0], limits[1]))
        self._bars.data = {"left": edges[:-1], "right": edges[1:], "top": count}
        left, right = float(edges[0]), float(edges[-1])
        self.figure.x_range.update(start=left, end=right, reset_start=left, reset_end=right)
        _, top = span(np.array([0.0, float(count.max())]))
        self.figure.y_range.update(start=0.0, end=top, reset_start=0.0, reset_end=top)
        outside = finite.size - int(count.sum())
        parts = {
            "N": f"{finite.size:,}",
            "mean": f"{finite.mean():.4g}",
            "median": f"{np.median(finite):.4g}",
            "std": f"{finite.std():.4g}",
        }
        if outside:
            parts["beyond the axis"] = f"{outside:,}"
        cells = "  ".join(
            f'<span style="white-space:nowrap"><span style="opacity:.65">{name}</span> '
            f"<b>{value}</b></span>"
            for name, value in parts.items()
        )
        self.summary.object = f'<div style="font-size:12px;line-height:1.5">{cells}</div>'

    def paint(self, *, dark: bool) -> None:
        """Colour the figure for a light or a dark page."""
        paint(self.figure, dark=dark)
