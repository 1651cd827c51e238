"""Plots of all objects: where they are, a statistic against brightness, a histogram."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import holoviews as hv
import numpy as np

from idfzarr.errors import UsageError
from idfzarr.viewer.figure_frame import NEUTRAL
from idfzarr.viewer.view_style import REJECTED, hover, look

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from idfzarr.viewer.field import Field

__all__ = [
    "MOST_MARKERS",
    "Summary",
    "histogram",
    "sky_map",
    "statistic_against_magnitude",
    "summary",
]

MOST_MARKERS = 15_000
"""Objects that are drawn as markers, each with a hover; of more, an image shows how many there are
and how large the statistic is."""

_TAILS = (2.0, 98.0)  # percentiles between which colours change: outliers would take them all
_RASTER = (190, 140)  # pixels of the image of many objects: three of the screen along each axis


@dataclass(frozen=True)
class Summary:
    """A column in four numbers.

    Attributes
    ----------
    n
        Values that are finite.
    mean, median, std
        Of those; the standard deviation with ddof=1. NaN where there are too few.
    """

    n: int
    mean: float
    median: float
    std: float

    def __str__(self) -> str:
        return (
            f"N {self.n:,}, mean {self.mean:.5g}, median {self.median:.5g}, "
            f"standard deviation {self.std:.5g}"
        )


def summary(values: NDArray[Any]) -> Summary:
    """Return number, mean, median and standard deviation of what is finite."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return Summary(
        n=int(known.size),
        mean=float(known.mean()) if known.size else np.nan,
        median=float(np.median(known)) if known.size else np.nan,
        std=float(known.std(ddof=1)) if known.size > 1 else np.nan,
    )


# ------------------------------------------------------------------ places and brightness


def sky_map(
    field: Field,
    *,
    statistic: str = "",
    type: str = "",
    shown: NDArray[np.bool_] | None = None,
    selection: Iterable[int] = (),
    object_id: int | None = None,
    dense: bool | None = None,
    colour_map: str = "viridis",
    width: int = 560,
) -> Any:
    """Draw where the objects are.

    Parameters
    ----------
    field
        The store.
    statistic
        Statistic, or column of the objects, that colours them; the first statistic there is unless
        given.
    type
        Type whose statistic; the first ranked one unless given.
    shown
        Objects drawn, (object,), as `idfzarr.analysis.query.select` gives; all unless given.
    selection
        Ids of objects with a ring.
    object_id
        The one looked at, with a cross.
    dense
        Whether to draw an image of densities; beyond `MOST_MARKERS` objects unless given.
    colour_map
        Colours.
    width
        Pixels of the frame.

    Returns
    -------
    holoviews.Overlay
        East is left, as on the sky.

    Raises
    ------
    UnknownName
        There is no such statistic, type or object.
    """
    across, up = field.map_axes
    whose = _type_of(field, type)
    columns = field.columns(whose)
    x, y = columns[across], columns[up]
    if field.has_sky and float(np.nanmax(x)) - float(np.nanmin(x)) > 180.0:
        x = np.where(x > 180.0, x - 360.0, x)  # a field on both sides of right ascension 0
    drawn = _drawn(field, (statistic, whose), shown, x=x, y=y)
    aspect = 1.0
    if field.has_sky:
        aspect = 1.0 / max(0.01, float(np.cos(np.radians(np.nanmedian(y)))))
    many = int(np.count_nonzero(drawn.at)) > MOST_MARKERS if dense is None else dense
    axes = {"xlabel": field.described(across).axis, "ylabel": field.described(up).axis}
    layers = [_raster(drawn, colour_map) if many else _markers(drawn, colour_map, size=5)]
    layers += _rings(field, selection, object_id, x, y)
    height = _height(drawn, width, aspect)
    options = look(width=width, height=height, invert_xaxis=field.has_sky, **axes)
    return hv.Overlay(layers).opts(hv.opts.Overlay(**options, title=_title(drawn, many=many)))


def statistic_against_magnitude(
    field: Field,
    *,
    statistic: str = "",
    type: str = "",
    shown: NDArray[np.bool_] | None = None,
    selection: Iterable[int] = (),
    object_id: int | None = None,
    log: bool | None = None,
    dense: bool | None = None,
    width: int = 560,
) -> Any:
    """Draw a statistic of every object against its brightness, where variables stand out.

    Parameters
    ----------
    field, statistic, type, shown, selection, object_id, dense, width
        As of `sky_map`.
    log
        Whether the statistic's axis is logarithmic; unless given, where all of it is positive and
        the largest is more than a thousand times the smallest.

    Returns
    -------
    holoviews.Overlay
        The brighter are to the left.

    Raises
    ------
    UnknownName, UsageError
        There is no such statistic, type or object, or the store has no statistics.
    """
    whose = _type_of(field, type)
    columns = field.columns(whose)
    magnitude = f"{field.channel_of(whose)}_mag" if whose else ""
    if magnitude not in columns:
        msg = f"the objects of {field.path} have no magnitude to draw a statistic against"
        raise UsageError(msg)
    x = columns[magnitude]
    drawn = _drawn(field, (statistic, whose), shown, x=x)
    if log is None:
        known = drawn.value[drawn.at]
        log = bool(known.size and known.min() > 0 and known.max() > 1000 * known.min())
    if log:
        drawn = replace(drawn, at=drawn.at & (drawn.value > 0))
    many = int(np.count_nonzero(drawn.at)) > MOST_MARKERS if dense is None else dense
    flat = drawn
    if many and log:  # an image has no logarithmic axis
        empty = np.full(len(x), np.nan)
        flat = replace(drawn, y=np.log10(drawn.value, where=drawn.at, out=empty))
    axes = {"xlabel": field.described(magnitude).axis, "ylabel": drawn.label}
    if many and log:
        axes["ylabel"] = f"log10 of {drawn.label}"
    layers = [_raster(flat, "viridis", count=True) if many else _markers(flat, None, size=4)]
    layers += _rings(field, selection, object_id, flat.x, flat.y)
    options = look(width=width, height=round(width * 0.62), **axes)
    if log and not many:
        options["logy"] = True
    return hv.Overlay(layers).opts(hv.opts.Overlay(**options, title=_title(drawn, many=many)))


@dataclass(frozen=True, eq=False)
class _Drawn:
    """Objects as they are drawn; arrays are along all objects of the store."""

    ids: NDArray[np.int64]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    value: NDArray[np.float64]
    at: NDArray[np.bool_]
    label: str
    n_all: int


def _type_of(field: Field, type_: str) -> str:
    """Return the type that was asked for, else the first channel's ranked one."""
    return type_ or next(iter(field.ranked.values()), "")


def _drawn(
    field: Field,
    what: tuple[str, str],
    shown: NDArray[np.bool_] | None,
    *,
    x: NDArray[Any],
    y: NDArray[Any] | None = None,
) -> _Drawn:
    """Return the objects to draw; where no `y` is given it is the statistic."""
    statistic, type_ = what
    name = statistic or next(iter(field.statistics), next(iter(field.numeric_columns), "x"))
    value = np.asarray(field.columns(type_)[name], dtype=np.float64)
    up = value if y is None else np.asarray(y, dtype=np.float64)
    chosen = np.ones(len(value), dtype=bool) if shown is None else np.asarray(shown, dtype=bool)
    at = chosen & np.isfinite(x) & np.isfinite(up)
    across = np.asarray(x, dtype=np.float64)
    label = field.described(name, type_).axis
    return _Drawn(field.cube.objects, across, up, value, at, label, int(chosen.sum()))


def _title(drawn: _Drawn, *, many: bool) -> str:
    n = int(np.count_nonzero(drawn.at))
    left = drawn.n_all - n
    parts = [f"{n:,} objects"]
    if many:
        parts.append("as an image")
    if left:
        parts.append(f"{left:,} without a value")
    return ", ".join(parts)


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(known, _TAILS))
    return (low, high) if high > low else (low, low + 1.0)


def _markers(drawn: _Drawn, colour_map: str | None, *, size: float) -> Any:
    at = drawn.at
    table = {"x": drawn.x[at], "y": drawn.y[at], "object": drawn.ids[at], "value": drawn.value[at]}
    tool = hover([("object", "@object{0}"), (drawn.label, "@value{0.0000}")])
    made = hv.Points(table, ["x", "y"], ["object", "value"])
    shared = {"size": size, "tools": [tool, "tap", "box_select", "lasso_select"]}
    if colour_map is None:
        return made.opts(color="#0072b2", alpha=0.5, nonselection_alpha=0.15, **shared)
    return made.opts(
        color="value",
        cmap=colour_map,
        clim=_limits(drawn.value[at]),
        colorbar=True,
        clabel=drawn.label,
        nonselection_alpha=0.2,
        **shared,
    )


def _raster(drawn: _Drawn, colour_map: str, *, count: bool = False) -> Any:
    """Return an image: of how many objects there are, or of the mean of their values."""
    import datashader as ds
    import pandas as pd

    at = drawn.at
    frame = pd.DataFrame({"x": drawn.x[at], "y": drawn.y[at], "value": drawn.value[at]})
    spans = [_span(frame[name].to_numpy()) for name in ("x", "y")]
    canvas = ds.Canvas(
        plot_width=_RASTER[0], plot_height=_RASTER[1], x_range=spans[0], y_range=spans[1]
    )
    found = canvas.points(frame, "x", "y", ds.count() if count else ds.max("value"))
    grid = np.asarray(found.values, dtype=np.float64)
    if count:
        grid[grid == 0] = np.nan
    label = "objects in a pixel [no unit]" if count else f"largest {drawn.label}"
    bounds = (spans[0][0], spans[1][0], spans[0][1], spans[1][1])
    # Datashader's rows begin at the lowest y, HoloViews' at the highest.
    made = hv.Image(grid[::-1], bounds=bounds, kdims=["x", "y"], vdims=["value"])
    tool = hover([(label, "@image{0.000}")])
    return made.opts(
        cmap=colour_map,
        colorbar=True,
        clabel=label,
        clim=(0.0, float(np.nanmax(grid))) if count else _limits(grid),
        clipping_colors={"NaN": "transparent"},
        tools=[tool],
    )


def _span(values: NDArray[np.float64]) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    edge = 0.01 * (high - low) or 0.5
    return low - edge, high + edge


def _height(drawn: _Drawn, width: int, aspect: float) -> int:
    """Return the height at which a step along both axes is as long on the sky."""
    (x0, x1), (y0, y1) = (_span(one[drawn.at]) for one in (drawn.x, drawn.y))
    return int(np.clip(round(width * aspect * (y1 - y0) / (x1 - x0)), 200, 1200))


def _rings(
    field: Field,
    selection: Iterable[int],
    object_id: int | None,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> list[Any]:
    layers = []
    rows = field.rows(selection)
    if rows.size:
        rings = hv.Points((x[rows], y[rows]), ["x", "y"])
        layers.append(rings.opts(size=10, fill_alpha=0.0, line_color="#d55e00", line_width=1.5))
    if object_id is not None:
        row = field.rows([object_id])
        cross = hv.Points((x[row], y[row]), ["x", "y"])
        layers.append(
            cross.opts(
                size=16, marker="circle_cross", fill_alpha=0.0, line_color=REJECTED, line_width=2
            )
        )
    return layers


# ------------------------------------------------------------------ histogram


def histogram(
    field: Field,
    column: str,
    *,
    type: str = "",
    shown: NDArray[np.bool_] | None = None,
    bins: int = 50,
    width: int = 560,
) -> Any:
    """Draw how a column, or a statistic of a type, is distributed.

    Parameters
    ----------
    field
        The store.
    column
        Its name.
    type
        Type whose statistic.
    shown
        Objects that count, (object,); all unless given.
    bins
        How many.
    width
        Pixels of the frame.

    Returns
    -------
    holoviews.Overlay
        With number, mean, median and standard deviation in the title, and the median as a line.

    Raises
    ------
    UnknownName, UsageError
        There is no such column or type, or it holds no numbers.
    """
    whose = _type_of(field, type)
    values = field.columns(whose)[column]
    if values.dtype.kind not in "iufb":
        msg = f"column {column!r} of {field.path} holds no numbers"
        raise UsageError(msg)
    values = values.astype(np.float64)
    values = values if shown is None else values[shown]
    told = summary(values)
    counts, edges = np.histogram(values[np.isfinite(values)], bins=bins)
    label = field.described(column, whose).axis
    tool = hover([(label, "@left{0.000} to @right{0.000}"), ("objects", "@top{0}")])
    made = hv.Histogram((edges, counts), kdims=["value"], vdims=["objects"])
    layers = [made.opts(color="#0072b2", line_color="white", line_alpha=0.4, tools=[tool])]
    if told.n:
        layers.append(hv.VLine(told.median).opts(color=NEUTRAL, line_dash="dashed", line_width=1.5))
    options = look(width=width, height=round(width * 0.5))
    return hv.Overlay(layers).opts(
        hv.opts.Overlay(**options, xlabel=label, ylabel="objects [number]", title=str(told))
    )
