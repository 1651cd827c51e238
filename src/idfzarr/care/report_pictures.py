"""Pictures of an inventory, as SVG that takes on the colours of the page around it.

Drawn with matplotlib on a canvas of its own, so that neither pyplot's state nor a screen is
needed. Words stay words in the SVG; ink is ``currentColor`` and the three colours are CSS
variables, so that one picture serves a light page, a dark one and paper.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.completeness import Bar, bars, binned
from idfzarr.care.report_words import size_text, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from idfzarr.care.inventory import Group, Inventory

__all__ = ["aor_picture", "picture_names", "shard_picture", "size_picture"]

# Stand-ins that matplotlib draws with and `_svg` exchanges for the page's own.
_INK, _GOOD, _BAD, _PALE = "#010203", "#010204", "#010205", "#010206"
_PAGE = {
    _INK: "currentColor",
    _GOOD: "var(--good)",
    _BAD: "var(--bad)",
    _PALE: "var(--pale)",
}
_WIDTH = 9.0
_MOST_BINS = 240
_MOST_ROWS = 48


def picture_names() -> dict[str, str]:
    """Return the title of each picture, by its name."""
    return {
        "shards": "Chunks, shard by shard",
        "aors": "AORs, channel by channel",
        "sizes": "Sizes",
    }


def _figure(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = np.atleast_1d(np.asarray(figure.subplots(rows, 1))).tolist()
    for ax in axes:
        ax.set_facecolor("none")
        ax.tick_params(colors=_INK, labelsize=8, length=3, width=0.6)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        for spine in ax.spines.values():
            spine.set_color(_INK)
            spine.set_linewidth(0.6)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """Return a figure as an SVG element for a page, the same bytes for the same picture."""
    from matplotlib import rc_context, rcParams

    out = io.BytesIO()
    with rc_context():
        rcParams["svg.fonttype"] = "none"
        rcParams["svg.hashsalt"] = name

        figure.savefig(
            out,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    svg = out.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # names of parts would clash between the pictures of one page
    svg = re.sub(r'<g id="[A-Za-z_]*\d+(?:\.\d+)?">', "<g>", svg)
    # matplotlib names every font it knows, some of its versions in the shorthand `font`
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"font: (\d[\d.]*px)[^;\"]*", r"font: \1 sans-serif", svg)
    for drawn, wanted in _PAGE.items():
        svg = svg.replace(drawn, wanted)
    title = visible(picture_names()[name])
    return re.sub(
        r'<svg [^>]*viewBox="([^"]+)"[^>]*>',
        rf'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        rf'viewBox="\1" role="img" aria-label="{title}">',
        svg,
        count=1,
    )


def _label(ax: Axes, text: str) -> None:
    ax.set_ylabel(
        text, rotation=0, ha="right", va="center", color=_INK, fontsize=8, parse_math=False
    )


def _strip(ax: Axes, bar: Bar) -> None:
    """Draw a bar of the map: what is there in one colour, what is not in the other.

    An AOR that is not observed in a channel is no fault, so it is pale.
    """
    absent = _PALE if bar.unit == "AOR" else _BAD
    heights = binned(bar.fractions, _MOST_BINS)
    edges = np.linspace(0, bar.fractions.size, heights.size + 1)
    known = np.isfinite(heights)
    ax.stairs(np.where(known, 1.0, 0.0), edges, fill=True, color=absent, linewidth=0)
    ax.stairs(np.where(known, heights, 0.0), edges, fill=True, color=_GOOD, linewidth=0)
    ax.stairs(np.where(known, 0.0, 1.0), edges, fill=True, color=_PALE, linewidth=0)
    ax.set_xlim(0, bar.fractions.size)
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    _label(ax, visible(bar.label, at_most=48))


def _last_axis(axes: Sequence[Axes], title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for ax in axes[:-1]:
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
    axes[-1].set_xlabel(title, color=_INK, fontsize=8)


def _strips(drawn: Sequence[Bar], title: str, name: str) -> str:
    figure, axes = _figure(0.45 + 0.32 * len(drawn), len(drawn))
    for ax, bar in zip(axes, drawn, strict=True):
        _strip(ax, bar)
    _last_axis(axes, title)
    return _svg(figure, name)


def shard_picture(inventory: Inventory) -> str:
    """Draw shard by type where the inventory knows both, else the shards alone.

    Parameters
    ----------
    inventory
        Of a store.

    Returns
    -------
    str
        An SVG element; empty where no shard was looked at.
    """
    grid = inventory.completeness.get("shard_type")
    if grid is None or grid.ndim != 2 or not grid.size:
        drawn = [bar for bar in bars(inventory.completeness) if bar.unit == "shard"]
        return _strips(drawn, "shard", "shards") if drawn else ""
    return _grid(np.asarray(grid, dtype=np.float64), inventory.completeness.get("type_name"))


def _grid(grid: np.ndarray[Any, Any], type_names: Any) -> str:
    """Draw fractions (shard, type): full in one colour, what is missing in the other."""
    n_shards, n_types = grid.shape
    cells = np.array([binned(column, _MOST_BINS) for column in grid.T])
    cells = np.array([binned(row, _MOST_ROWS) for row in cells.T]).T
    rows, columns = cells.shape
    figure, (ax,) = _figure(0.75 + max(0.9, 0.13 * rows))
    x = np.linspace(0, n_shards, columns + 1)
    y = np.linspace(0, n_types, rows + 1)
    for row in range(rows):
        known = np.isfinite(cells[row])
        for heights, colour in (
            (known * 1.0, _BAD),
            (np.where(known, cells[row], 0.0), _GOOD),
            (~known * 1.0, _PALE),
        ):
            top = y[row] + heights * (y[row + 1] - y[row]) * 0.86
            ax.stairs(top, x, baseline=y[row], fill=True, color=colour, linewidth=0)
    ax.set_xlim(0, n_shards)
    ax.set_ylim(n_types, 0)
    ax.spines["left"].set_visible(False)
    if type_names is not None and rows == n_types:
        ax.set_yticks((y[:-1] + y[1:]) / 2)
        names = [visible(str(name), at_most=40) for name in type_names]
        ax.set_yticklabels(names, fontsize=6.5, parse_math=False)
        ax.tick_params(axis="y", length=0)
    _last_axis([ax], "shard")
    return _svg(figure, "shards")


def aor_picture(inventory: Inventory) -> str:
    """Draw what is observed, a strip for each channel; empty where that was not looked at."""
    drawn = [bar for bar in bars(inventory.completeness) if bar.unit == "AOR"]
    return _strips(drawn, "AOR", "aors") if drawn else ""


def size_picture(inventory: Inventory) -> str:
    """Draw the sizes of the groups on disk and unpacked, on a logarithmic scale."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    groups: list[Group] = [g for g in inventory.groups if g.n_bytes or g.n_logical]
    groups = sorted(groups, key=lambda g: g.n_bytes, reverse=True)[:24]
    if not groups:
        return ""
    figure, (ax,) = _figure(0.6 + 0.3 * len(groups))
    y = np.arange(len(groups))
    least = min(max(1, min(g.n_bytes or g.n_logical, g.n_logical or g.n_bytes)) for g in groups)
    left = 10.0 ** np.floor(np.log10(least)) / 2.0
    logical = np.array([max(g.n_logical, left) for g in groups], dtype=np.float64)
    stored = np.array([max(g.n_bytes, left) for g in groups], dtype=np.float64)
    ax.barh(y, logical - left, left=left, height=0.66, color=_PALE, linewidth=0)
    ax.barh(y, stored - left, left=left, height=0.34, color=_GOOD, linewidth=0)
    most = float(max(logical.max(), stored.max()))
    ax.set_xscale("log")
    ax.set_xlim(left, left * (most / left) ** 1.35)
    for row, group in enumerate(groups):
        words = f"{size_text(group.n_bytes)} of {size_text(group.n_logical)}"
        at = max(logical[row], stored[row]) * 1.15
        ax.text(at, row, words, va="center", fontsize=8, color=_INK, parse_math=False)
    ax.set_yticks(y)
    ax.set_yticklabels([visible(g.name, at_most=40) for g in groups], parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: size_text(size)))
    ax.xaxis.set_minor_locator(NullLocator())
    return _svg(figure, "sizes")
