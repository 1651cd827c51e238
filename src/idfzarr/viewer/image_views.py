"""Plots of images: a stamp with its apertures, the whole superstack, and completeness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import holoviews as hv
import numpy as np

from idfzarr.care.completeness import binned
from idfzarr.errors import UsageError
from idfzarr.viewer.figure_frame import NEUTRAL
from idfzarr.viewer.labels import axis_label, plain
from idfzarr.viewer.stamps import render
from idfzarr.viewer.view_style import colour_of, hover, look

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from idfzarr.viewer.field import Field
    from idfzarr.viewer.stamps import Stamp

__all__ = ["MOST_IMAGE_PIXELS", "completeness_map", "field_image", "stamp_plot"]

MOST_IMAGE_PIXELS = 1200
"""Pixels of the whole superstack along either axis as it is drawn; of more, every n-th."""

_MOST_CELLS = 600
_FEWEST_FOR_BAR = 8  # rows; beside fewer a bar of colours has no room


def stamp_plot(
    stamp: Stamp,
    *,
    stretch: str = "asinh",
    low: float = 1.0,
    high: float = 99.5,
    colour_map: str = "gray",
    apertures: bool = True,
    width: int = 320,
) -> Any:
    """Draw a stamp with the outlines of its apertures.

    Parameters
    ----------
    stamp
        From `idfzarr.viewer.stamps`.
    stretch, low, high, colour_map
        As of `idfzarr.viewer.stamps.render`.
    apertures
        Whether the outlines are drawn.
    width
        Pixels of the frame, along both axes.

    Returns
    -------
    holoviews.Overlay
        Offsets from the object along both axes.

    Raises
    ------
    UsageError
        There is no such stretch or colour map.
    """
    rgba = render(stamp.pixels, stretch=stretch, low=low, high=high, colour_map=colour_map)
    layers: list[Any] = [_picture(rgba, stamp.bounds)]
    if apertures:
        for k, outline in enumerate(stamp.outlines):
            path = hv.Path([np.stack([outline.x, outline.y], axis=1)], label=outline.label)
            layers.append(path.opts(color=colour_of(k + 1), line_width=1.6))
    left, low_edge, right, high_edge = stamp.bounds
    options = look(
        width=width,
        height=width,
        xlabel=axis_label("offset along x", stamp.size_unit),
        ylabel=axis_label("offset along y", stamp.size_unit),
        xlim=(left, right),
        ylim=(low_edge, high_edge),
        title=f"object {stamp.object_id}: {stamp.title}",
        show_legend=False,
    )
    return hv.Overlay(layers).opts(hv.opts.Overlay(**options | {"show_grid": False}))


def _picture(rgba: NDArray[np.uint8], bounds: tuple[float, float, float, float]) -> Any:
    # HoloViews counts rows from above.
    return hv.RGB(
        rgba[::-1],
        bounds=bounds,
        kdims=["x", "y"],
        vdims=[*hv.RGB.vdims, hv.RGB.alpha_dimension],
    )


def field_image(
    field: Field,
    channel: str,
    *,
    shown: NDArray[np.bool_] | None = None,
    selection: Iterable[int] = (),
    stretch: str = "asinh",
    low: float = 1.0,
    high: float = 99.5,
    colour_map: str = "gray",
    marker_size: float = 8.0,
    width: int = 640,
) -> Any:
    """Draw the whole superstack of a channel with its objects.

    Parameters
    ----------
    field
        The store.
    channel
        Of the superstack.
    shown
        Objects with a marker, (object,); none unless given.
    selection
        Ids of objects with a ring of another colour.
    stretch, low, high, colour_map
        As of `idfzarr.viewer.stamps.render`.
    marker_size
        Pixels.
    width
        Pixels of the frame.

    Returns
    -------
    holoviews.Overlay
        Along the pixels of the superstack, counted from 0.

    Raises
    ------
    UnknownName
        The store has no superstack of that channel, or no such object.
    """
    image = field.image(channel)
    ny, nx = image.shape
    step = -(-max(ny, nx) // MOST_IMAGE_PIXELS)
    pixels = image.plane("flux")[::step, ::step]
    rgba = render(pixels, stretch=stretch, low=low, high=high, colour_map=colour_map)
    high_edges = (pixels.shape[1] * step - 0.5, pixels.shape[0] * step - 0.5)
    layers: list[Any] = [_picture(rgba, (-0.5, -0.5, *high_edges))]
    x, y = (field.cube.coordinate(name) for name in ("x", "y"))
    chosen = np.flatnonzero(shown) if shown is not None else np.empty(0, dtype=np.intp)
    for rows, colour in ((chosen, "#56b4e9"), (field.rows(selection), "#d55e00")):
        if rows.size:
            columns = {"x": x[rows], "y": y[rows], "object": field.cube.objects[rows]}
            made = hv.Points(columns, ["x", "y"], ["object"])
            tool = hover([("object", "@object{0}")])
            layers.append(
                made.opts(size=marker_size, fill_alpha=0.0, line_color=colour, tools=[tool, "tap"])
            )
    options = look(
        width=width,
        height=int(np.clip(round(width * ny / nx), 200, 1200)),
        xlabel=axis_label("superstack x", "px"),
        ylabel=axis_label("superstack y", "px"),
        title=f"superstack of {plain(channel)}" + (f", every {step}th pixel" if step > 1 else ""),
    )
    return hv.Overlay(layers).opts(hv.opts.Overlay(**options | {"show_grid": False}))


def completeness_map(
    completeness: Mapping[str, NDArray[Any]], *, by: str = "aor", width: int = 760
) -> Any:
    """Draw what is there of a cube.

    Parameters
    ----------
    completeness
        Of an inventory, ``idfzarr.inventory(store).completeness``.
    by
        ``aor``, what was observed by channel and AOR; or ``shard``, which chunks are there by type
        and shard.
    width
        Pixels of the frame.

    Returns
    -------
    holoviews.Overlay
        Colours from 0 to 1; nothing where that was not looked at.

    Raises
    ------
    UsageError
        The inventory did not look at that, or `by` is neither.
    """
    keys = {"aor": ("aor", "channel_name"), "shard": ("shard_type", "type_name")}
    if by not in keys:
        msg = f"completeness is drawn by 'aor' or by 'shard', not by {by!r}"
        raise UsageError(msg)
    key, name_key = keys[by]
    grid = np.asarray(completeness.get(key, np.empty((0, 0))), dtype=np.float64)
    if grid.ndim != 2 or not grid.size:
        msg = f"this inventory did not look at completeness by {by}: take one at a higher level"
        raise UsageError(msg)
    rows = grid.T  # a row for each channel or type
    given = completeness.get(name_key)
    names = (
        [plain(str(n)) for n in given] if given is not None else list(map(str, range(len(rows))))
    )
    shown = np.stack([binned(row, _MOST_CELLS) for row in rows])
    n = grid.shape[0]
    made = hv.Image(
        shown, bounds=(0.0, -0.5, float(n), len(rows) - 0.5), kdims=["x", "y"], vdims=["part"]
    )
    tool = hover([(f"{by} number", "$x{0}"), ("part that is there", "@image{0.0 %}")])
    what = {"aor": "AOR in the order of the cube", "shard": "shard"}[by]
    options = look(
        width=width,
        height=int(np.clip(18 * len(rows), 60, 760)),
        xlabel=axis_label(what, "number"),
        ylabel=axis_label({"aor": "channel", "shard": "type"}[by], "name"),
        yticks=[(len(names) - 1 - k, name) for k, name in enumerate(names)],
        title=f"{100 * float(np.nanmean(grid)):.1f} % is there" if np.isfinite(grid).any() else "",
    )
    drawn = made.opts(
        cmap="viridis",
        clim=(0.0, 1.0),
        colorbar=len(rows) >= _FEWEST_FOR_BAR,
        clabel="part that is there [no unit]",
        clipping_colors={"NaN": NEUTRAL},
        tools=[tool],
    )
    return hv.Overlay([drawn]).opts(hv.opts.Overlay(**options | {"show_grid": False}))
