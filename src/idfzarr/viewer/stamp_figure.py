"""A stamp's figure: the picture and the outlines are swapped, the figure stays."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import ImageRGBA, Label, MultiLine, Range1d

from idfzarr.viewer.figure_frame import COLOURS, LETTERS, NEUTRAL, blank_figure, draw, paint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.viewer.stamps import Stamp

__all__ = ["StampFigure", "rgba_of_png"]


class StampFigure:
    """A square picture around an object.

    Parameters
    ----------
    name
        Of the figure.
    side
        Pixels on the screen.
    axes
        Whether axes are drawn; small stamps say their size in the title.
    """

    def __init__(self, name: str, *, side: int, axes: bool = True) -> None:
        self.figure = blank_figure(
            name=name,
            height=side,
            tools="pan,wheel_zoom,reset,save" if axes else "",
            sizing_mode="fixed",
            width=side + 16 if axes else side,
            x_range=Range1d(-15.0, 15.0),
            y_range=Range1d(-15.0, 15.0),
            toolbar_location="right" if axes else None,
        )
        made = self.figure
        draw(made, self._new("image"), ImageRGBA(image="image", x="x", y="y", dw="dw", dh="dh"))
        outlines = MultiLine(xs="xs", ys="ys", line_color="colour", line_width=1.6, line_alpha=0.9)
        draw(made, self._new("outlines"), outlines)
        made.axis.visible = axes
        made.grid.visible = False
        made.title.text_font_size = "12px"
        made.title.text_font_style = "normal"
        made.xaxis.axis_label = "offset along x [arcsec]"
        made.yaxis.axis_label = "offset along y [arcsec]"
        made.axis.axis_label_standoff = 2
        self._word = Label(
            x=side // 2 - 10, y=side // 2 - 20, x_units="screen", y_units="screen", text="",
            text_align="center", text_font_size="12px", text_color=NEUTRAL, text_font=LETTERS,
        )  # fmt: skip
        made.add_layout(self._word)

    def _new(self, kind: str) -> Any:
        from bokeh.models import ColumnDataSource

        names = ("image", "x", "y", "dw", "dh") if kind == "image" else ("xs", "ys", "colour")
        made = ColumnDataSource({name: [] for name in names})
        setattr(self, f"_{kind}", made)
        return made

    def show(
        self,
        stamp: Stamp,
        rgba: NDArray[np.uint8],
        *,
        outlines: bool,
        places: Sequence[tuple[float, float]] = (),
    ) -> None:
        """Swap the picture.

        Parameters
        ----------
        stamp
            Whose picture it is.
        rgba
            (ny, nx, 4), see `idfzarr.viewer.stamps.render`.
        outlines
            Whether the apertures are drawn.
        places
            Further objects, offsets in the units of the stamp.
        """
        left, low, right, high = stamp.bounds
        self._put(rgba, (left, low, right - left, high - low))
        drawn = list(enumerate(stamp.outlines)) if outlines else []
        turn = np.linspace(0.0, 2 * np.pi, 24)
        rings = [(x + 0.8 * np.cos(turn), y + 0.8 * np.sin(turn)) for x, y in places]
        self._outlines.data = {
            "xs": [line.x for _, line in drawn] + [ring[0] for ring in rings],
            "ys": [line.y for _, line in drawn] + [ring[1] for ring in rings],
            "colour": [COLOURS[at % len(COLOURS)] for at, _ in drawn] + ["#e69f00"] * len(rings),
        }
        self.figure.xaxis.axis_label = f"offset along x [{stamp.size_unit}]"
        self.figure.yaxis.axis_label = f"offset along y [{stamp.size_unit}]"
        # Half a pixel less than the picture on every side: so the view is the same wherever in its
        # pixel an object lies, and the figure is not laid out anew for each.
        ny, nx = rgba.shape[:2]
        across, up = (right - left) * (nx - 1) / nx / 2, (high - low) * (ny - 1) / ny / 2
        self._look(stamp.title, (-across, across), (-up, up))

    def show_picture(self, rgba: NDArray[np.uint8], *, title: str, side: float) -> None:
        """Swap in a picture that has no outlines.

        Parameters
        ----------
        rgba
            (ny, nx, 4), the lowest row first.
        title
            In words.
        side
            Of the picture, arcsec.
        """
        half = side / 2
        self._put(rgba, (-half, -half, side, side))
        self._outlines.data = {"xs": [], "ys": [], "colour": []}
        self._look(title, (-half, half), (-half, half))

    def clear(self, sentence: str) -> None:
        """Show no picture, and why."""
        self._image.data = {name: [] for name in ("image", "x", "y", "dw", "dh")}
        self._outlines.data = {"xs": [], "ys": [], "colour": []}
        self._word.text = _broken(sentence)
        self.figure.title.text = ""

    def _put(self, rgba: NDArray[np.uint8], frame: tuple[float, float, float, float]) -> None:
        packed = np.ascontiguousarray(rgba).view(np.uint32).reshape(rgba.shape[:2])
        values = ([packed], *([one] for one in frame))
        self._image.data = dict(zip(("image", "x", "y", "dw", "dh"), values, strict=True))
        self._word.text = ""

    def _look(self, title: str, across: tuple[float, float], up: tuple[float, float]) -> None:
        made = self.figure
        made.title.text = title
        made.x_range.update(
            start=across[0], end=across[1], reset_start=across[0], reset_end=across[1]
        )
        made.y_range.update(start=up[0], end=up[1], reset_start=up[0], reset_end=up[1])

    def paint(self, *, dark: bool) -> None:
        """Colour the figure for a light or a dark page."""
        paint(self.figure, dark=dark)

    _image: Any
    _outlines: Any


def rgba_of_png(png: bytes) -> NDArray[np.uint8]:
    """Return a PNG as (ny, nx, 4), the lowest row first."""
    import matplotlib.image as mpimg

    found = mpimg.imread(BytesIO(png), format="png")
    if found.dtype.kind == "f":
        found = np.rint(found * 255).astype(np.uint8)
    if found.ndim == 2:
        found = np.repeat(found[..., None], 3, axis=-1)
    if found.shape[-1] == 3:
        opaque = np.full((*found.shape[:2], 1), 255, dtype=np.uint8)
        found = np.concatenate([found, opaque], axis=-1)
    return np.ascontiguousarray(found[::-1])


def _broken(sentence: str, width: int = 34) -> str:
    """Return a sentence in lines."""
    import textwrap

    return "\n".join(textwrap.wrap(sentence, width)[:6])
