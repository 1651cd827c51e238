"""Very many points as an image: how many lie in each cell, and what their mean value is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Cells", "as_colours", "as_densities", "cells_of"]

_UNKNOWN = (0x8A, 0x8F, 0x98, 0x66)  # grey that is seen on white and on black, as of such points
_FAINTEST = 90  # of 255: one object alone must be seen, too


@dataclass(frozen=True)
class Cells:
    """Points in the cells of a grid, the first row at the lower end.

    Attributes
    ----------
    count
        Points in each cell, (rows, columns).
    mean
        Mean of those whose value is known, (rows, columns); NaN where there is none.
    """

    count: NDArray[np.intp]
    mean: NDArray[np.float64]


def cells_of(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    value: NDArray[np.float64],
    *,
    across: tuple[float, float],
    up: tuple[float, float],
    shape: tuple[int, int],
) -> Cells:
    """Count points in the cells of a grid.

    Parameters
    ----------
    x, y
        Where the points are, (n,); those beyond the grid, or nowhere, are left out.
    value
        Of each point, (n,); NaN where it is not known.
    across, up
        The grid's lower and upper ends; a point on an upper end is in the last cell.
    shape
        Rows and columns.

    Returns
    -------
    Cells
        Each point in one cell at most.
    """
    (x0, x1), (y0, y1) = across, up
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    rows, columns = shape
    column = np.minimum(((x[inside] - x0) / (x1 - x0) * columns).astype(np.intp), columns - 1)
    row = np.minimum(((y[inside] - y0) / (y1 - y0) * rows).astype(np.intp), rows - 1)
    cell, told = row * columns + column, value[inside]
    known = np.isfinite(told)
    size = rows * columns
    count = np.bincount(cell, minlength=size)
    of_known = np.bincount(cell[known], minlength=size)
    total = np.bincount(cell[known], weights=told[known], minlength=size)
    mean = np.divide(total, of_known, out=np.full(size, np.nan), where=of_known > 0)
    return Cells(count.reshape(shape), mean.reshape(shape))


def as_colours(
    cells: Cells, palette: Sequence[str], *, low: float, high: float
) -> NDArray[np.uint32]:
    """Colour cells by their mean, as Bokeh's ``LinearColorMapper`` colours points.

    Parameters
    ----------
    cells
        The cells.
    palette
        Colours as #rrggbb.
    low, high
        Values of the first and the last colour.

    Returns
    -------
    ndarray
        RGBA, (rows, columns): nothing where there is no point, grey where no value is known.
    """
    opaque = np.array([[*bytes.fromhex(one[1:]), 0xFF] for one in palette], np.uint8)
    part = (np.nan_to_num(cells.mean, nan=low) - low) / (high - low)
    place = np.clip(part * len(palette), 0, len(palette) - 1).astype(np.intp)
    made = opaque[place]
    made[np.isnan(cells.mean)] = _UNKNOWN
    made[cells.count == 0] = 0
    return np.ascontiguousarray(made).view(np.uint32)[..., 0]


def as_densities(cells: Cells, colour: str) -> NDArray[np.uint32]:
    """Show cells in one colour, the denser the more points are in them, by the logarithm.

    Parameters
    ----------
    cells
        The cells.
    colour
        As #rrggbb.

    Returns
    -------
    ndarray
        RGBA, (rows, columns): nothing where there is no point.
    """
    made = np.empty((*cells.count.shape, 4), np.uint8)
    made[..., :3] = list(bytes.fromhex(colour[1:]))
    part = np.log1p(cells.count) / np.log1p(max(int(cells.count.max()), 1))
    made[..., 3] = np.where(cells.count > 0, _FAINTEST + (255 - _FAINTEST) * part, 0).astype(
        np.uint8
    )
    return made.view(np.uint32)[..., 0]
