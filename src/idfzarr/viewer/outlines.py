"""Outlines of apertures, to be drawn over a stamp."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import UsageError
from idfzarr.measurement import parse_measurement

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.viewer.field import Field
    from idfzarr.viewer.field_images import FieldImage

__all__ = ["Outline", "outlines_of"]

_POINTS = 73  # of an ellipse: a corner every 5 degrees cannot be seen
_FARTHEST = 100  # pixels from an object that its segment is followed


@dataclass(frozen=True, eq=False)
class Outline:
    """The outline of an aperture, from the object.

    Attributes
    ----------
    method
        ``aper2``, ``auto``, ``iso``, ...
    label
        With its size.
    x, y
        Along the line; NaN between pieces.
    """

    method: str
    label: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def outlines_of(
    field: Field, object_id: int, types: Sequence[str], image: FieldImage, *, scale: float
) -> tuple[Outline, ...]:
    """Return the outlines of the apertures of some types, each method once.

    Parameters
    ----------
    field
        The store.
    object_id
        The object.
    types
        Names of types; those without an outline (psf, statistics, names of others) have none.
    image
        Whose segments are followed for ``iso``.
    scale
        What a pixel of the superstack counts in the outlines.
    """
    made: dict[str, Outline] = {}
    for name in types:
        try:
            asked = parse_measurement(name)
        except UsageError:
            continue  # imported from elsewhere: nothing is known of its aperture
        if asked.method in made:
            continue
        if asked.radius is not None:
            r = asked.radius * scale
            label = f"{asked.method}, radius {r:.3g}"
            made[asked.method] = _ellipse(asked.method, label, r, r, 0.0)
        elif asked.method == "auto":
            found = _kron(field, object_id, scale)
            if found is not None:
                made["auto"] = found
        elif asked.method == "iso":
            found = _segment(field, object_id, image, scale)
            if found is not None:
                made["iso"] = found
    return tuple(made.values())


def _ellipse(method: str, label: str, a: float, b: float, theta: float) -> Outline:
    turn = np.linspace(0.0, 2 * np.pi, _POINTS)
    along, across = a * np.cos(turn), b * np.sin(turn)
    x = along * np.cos(theta) - across * np.sin(theta)
    y = along * np.sin(theta) + across * np.cos(theta)
    return Outline(method, label, x, y)


def _kron(field: Field, object_id: int, scale: float) -> Outline | None:
    a, b, theta = (field.number_of(object_id, name) for name in ("kron_a", "kron_b", "theta"))
    if not np.isfinite([a, b, theta]).all():
        return None
    return _ellipse("auto", f"auto, {a * scale:.3g} x {b * scale:.3g}", a * scale, b * scale, theta)


def _segment(field: Field, object_id: int, image: FieldImage, scale: float) -> Outline | None:
    """Follow the edges of the pixels of an object's segment."""
    if "segmentation" not in image.planes:
        return None
    labels = image.plane("segmentation")
    x, y = (field.number_of(object_id, name) for name in ("x", "y"))
    if not np.isfinite([x, y]).all():
        return None
    column, row = round(x), round(y)
    if (
        not (0 <= row < labels.shape[0] and 0 <= column < labels.shape[1])
        or not labels[row, column]
    ):
        return None
    low, left = max(0, row - _FARTHEST), max(0, column - _FARTHEST)
    near = labels[low : row + _FARTHEST, left : column + _FARTHEST]
    own = np.pad(near == labels[row, column], 1)
    first_x, first_y = left - 1.5 - x, low - 1.5 - y  # outer edge of the first pixel of `own`
    up = np.argwhere(own[:, 1:] != own[:, :-1])  # an edge between a pixel and that to its right
    over = np.argwhere(own[1:] != own[:-1])
    gap = np.full(len(up) + len(over), np.nan)
    xs = np.concatenate([up[:, 1] + 1, over[:, 1]]), np.concatenate([up[:, 1] + 1, over[:, 1] + 1])
    ys = np.concatenate([up[:, 0], over[:, 0] + 1]), np.concatenate([up[:, 0] + 1, over[:, 0] + 1])
    pieces_x = np.stack([xs[0] + first_x, xs[1] + first_x, gap], axis=1).ravel()
    pieces_y = np.stack([ys[0] + first_y, ys[1] + first_y, gap], axis=1).ravel()
    return Outline("iso", "iso, the segment", pieces_x * scale, pieces_y * scale)
