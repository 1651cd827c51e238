"""What is to be frozen: methods taken apart, and every object's shapes read from the catalogue.

`Scheme` says how methods lie in the columns of the weights, `Shapes` draws any run of objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from idfzarr.errors import ImageShape, UsageError, closest
from idfzarr.imaging.footprints import (
    Entries,
    ellipse_entries,
    ellipse_extents,
    ring_entries,
    segment_entries,
    stamp_entries,
)
from idfzarr.imaging.psf import check_psf, shifted_stamps
from idfzarr.measurement import Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Scheme", "Shapes", "method_radius", "read_shapes", "sort_methods", "statistic_parts"]


@dataclass(frozen=True)
class Scheme:
    """How methods lie in the columns of the weights.

    The columns of one object are its rings by radius, then auto, iso and psf as far as asked for.

    Parameters
    ----------
    methods
        The methods that are sums, in the order asked for.
    radii
        Radii of their circles in pixels, ascending, each once.
    others
        Those that are no circles.
    """

    methods: tuple[str, ...]
    radii: tuple[float, ...]
    others: tuple[str, ...]

    @property
    def width(self) -> int:
        """Columns of one object."""
        return len(self.radii) + len(self.others)

    @property
    def columns(self) -> NDArray[np.intp]:
        """Column, within the object's, that completes each method."""
        rings = len(self.radii)
        places = [
            rings + self.others.index(method)
            if method in self.others
            else self.radii.index(cast("float", method_radius(method)))
            for method in self.methods
        ]
        return np.asarray(places, dtype=np.intp)

    def complete(self, sums: NDArray[np.float64]) -> None:
        """Turn sums over rings into sums over circles, in place.

        Parameters
        ----------
        sums
            (..., width), C order.
        """
        # Ring by ring: numpy's cumsum along a short last axis costs several times as much.
        for ring in range(1, len(self.radii)):
            sums[..., ring] += sums[..., ring - 1]


def method_radius(method: str) -> float | None:
    """Return the radius in pixels of a circular method, None for others.

    Parameters
    ----------
    method
        A method's name, as ``aper2`` or ``r3.5``.

    Returns
    -------
    float or None
        The radius.

    Raises
    ------
    UsageError
        There is no such method.
    """
    return _measurement(method).radius


def statistic_parts(method: str) -> tuple[str, int] | None:
    """Return (``median`` or ``biweight``, number of pixels), None for methods that are sums.

    Parameters
    ----------
    method
        A method's name, as ``median7``.

    Returns
    -------
    tuple or None
        The statistic's kind and its number of pixels.

    Raises
    ------
    UsageError
        There is no such method.
    """
    return _measurement(method).statistic


def _measurement(method: str) -> Measurement:
    # A method is measured on one kind of image or on the others; here only its parts matter.
    image = "ratio" if method.startswith(("median", "biweight")) else "original"
    return Measurement("any", method, "ratio" if image == "ratio" else "original")


def sort_methods(methods: Sequence[str]) -> tuple[Scheme, tuple[str, ...]]:
    """Part methods into sums and robust statistics.

    Parameters
    ----------
    methods
        Names as in `idfzarr.measurement`, each once.

    Returns
    -------
    tuple
        The scheme of the sums; the statistics in the order asked for.

    Raises
    ------
    UsageError
        No method is given, one is unknown, or one is given twice.
    """
    if isinstance(methods, str):
        msg = f"methods must be a sequence of names, and a single string was given: [{methods!r}]"
        raise UsageError(msg)
    if not methods or len(set(methods)) != len(methods):
        msg = f"methods must be given, each once, and these were: {', '.join(methods) or 'none'}"
        raise UsageError(msg)
    statistics = tuple(m for m in methods if statistic_parts(m) is not None)
    sums = tuple(m for m in methods if m not in statistics)
    radii = sorted({r for r in map(method_radius, sums) if r is not None})
    others = tuple(m for m in ("auto", "iso", "psf") if m in sums)
    return Scheme(sums, tuple(radii), others), statistics


@dataclass(frozen=True, eq=False)
class Shapes:
    """The shapes of every object, to be drawn run by run.

    Parameters
    ----------
    x, y
        Centres (n,) in pixels.
    shape
        (ny, nx) of the images.
    scheme
        What is drawn.
    kron
        (3, n): a, b, theta; None without auto.
    segments
        Entries of all segments by object; None without iso.
    segmentation, labels
        (y, x) and (n,), for neighbours; both None where not given.
    psf
        Stamp, sum 1; None without psf.
    squared
        Whether the variance of a pixel counts by the square of its overlap.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    shape: tuple[int, int]
    scheme: Scheme
    kron: NDArray[np.float64] | None
    segments: Entries | None
    segmentation: NDArray[np.int64] | None
    labels: NDArray[np.int64] | None
    psf: NDArray[np.float64] | None
    squared: bool

    def take(self, order: NDArray[np.intp]) -> Shapes:
        """Return the shapes in another order.

        Parameters
        ----------
        order
            (n,) rows of the catalogue, each once.

        Returns
        -------
        Shapes
            Row i is this one's row ``order[i]``.
        """
        return replace(
            self,
            x=self.x[order],
            y=self.y[order],
            kron=None if self.kron is None else self.kron[:, order],
            labels=None if self.labels is None else self.labels[order],
            segments=None if self.segments is None else self.segments.take(order),
        )

    def draw(self, run: slice) -> tuple[Entries, Entries]:
        """Compute the entries of a run of objects.

        Parameters
        ----------
        run
            Start and stop in rows of the catalogue.

        Returns
        -------
        tuple of Entries
            The weights, row ``(object - start) * width + column``; and what, of the completed
            columns, is to be taken from sums of variance.
        """
        width, rings = self.scheme.width, len(self.scheme.radii)
        weights, excess = [], []
        if rings:
            drawn = ring_entries(self.x[run], self.y[run], self.scheme.radii, self.shape)
            spread = [_spread(entries, rings, width) for entries in drawn]
            weights.append(spread[0])
            excess += spread[1:] if self.squared else []
        for place, method in enumerate(self.scheme.others, start=rings):
            drawn_other = self._draw_other(method, run)
            other = replace(drawn_other, row=drawn_other.row * width + place)
            weights.append(other)
            # The weights of psf are no overlaps: its variance takes their squares in any case.
            excess += [other.partial()] if self.squared or method == "psf" else []
        return _joined(weights), _joined(excess)

    def _draw_other(self, method: str, run: slice) -> Entries:
        if method == "auto" and self.kron is not None:
            return ellipse_entries(self.x[run], self.y[run], self.kron[:, run], self.shape)
        if method == "iso" and self.segments is not None:
            lo, hi = np.searchsorted(self.segments.row, [run.start, run.stop])
            own = self.segments
            return Entries(own.row[lo:hi] - run.start, own.pixel[lo:hi], own.weight[lo:hi])
        return self._draw_psf(run)

    def _draw_psf(self, run: slice) -> Entries:
        x, y = self.x[run], self.y[run]
        stamp = cast("NDArray[np.float64]", self.psf)
        stamps = shifted_stamps(stamp, x - np.floor(x + 0.5), y - np.floor(y + 0.5))
        stamps /= (stamps**2).sum(axis=(1, 2), keepdims=True)
        return stamp_entries(x, y, stamps, self.shape)

    def reaches_beyond(self) -> NDArray[np.bool_]:
        """Say which apertures (n, m) the image cuts off; segments that touch its border too."""
        return np.stack([self._beyond(method) for method in self.scheme.methods], axis=1)

    def _beyond(self, method: str) -> NDArray[np.bool_]:
        if method == "iso" and self.segments is not None:
            ny, nx = self.shape
            line, column = np.divmod(self.segments.pixel, nx)
            border = (line == 0) | (line == ny - 1) | (column == 0) | (column == nx - 1)
            touched = np.zeros(self.x.size, dtype=np.bool_)
            touched[self.segments.row[border]] = True
            return touched
        if method == "psf" and self.psf is not None:
            reach = self.psf.shape[0] / 2
            return self._cut_off(np.floor(self.x + 0.5), np.floor(self.y + 0.5), reach, reach)
        if method == "auto" and self.kron is not None:
            drawable = self._drawable()
            reach_x, reach_y = ellipse_extents(*np.where(drawable, self.kron, 0.0))
            return drawable & self._cut_off(self.x, self.y, reach_x, reach_y)
        radius = cast("float", method_radius(method))
        return self._cut_off(self.x, self.y, radius, radius)

    def _cut_off(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        reach_x: NDArray[np.float64] | float,
        reach_y: NDArray[np.float64] | float,
    ) -> NDArray[np.bool_]:
        ny, nx = self.shape
        beyond = (x - reach_x < -0.5) | (x + reach_x > nx - 0.5)
        beyond |= (y - reach_y < -0.5) | (y + reach_y > ny - 0.5)
        return beyond

    def undefined(self) -> NDArray[np.bool_]:
        """Say which apertures (n, m) do not exist: no Kron ellipse, no segment."""
        missing = np.zeros((self.x.size, len(self.scheme.methods)), dtype=np.bool_)
        if self.kron is not None:
            missing[:, self.scheme.methods.index("auto")] = ~self._drawable()
        if self.segments is not None:
            has_segment = np.bincount(self.segments.row, minlength=self.x.size) > 0
            missing[:, self.scheme.methods.index("iso")] = ~has_segment
        return missing

    def _drawable(self) -> NDArray[np.bool_]:
        a, b, theta = cast("NDArray[np.float64]", self.kron)
        drawable: NDArray[np.bool_] = np.isfinite(a + b + theta) & (a > 0) & (b > 0)
        return drawable


def _spread(entries: Entries, rings: int, width: int) -> Entries:
    """Make room for the other columns of an object."""
    item, ring = np.divmod(entries.row, rings)
    return replace(entries, row=item * width + ring)


def _joined(parts: Sequence[Entries]) -> Entries:
    # The empty piece makes no parts an empty set of entries.
    return Entries(
        np.concatenate([np.empty(0, np.int64), *(part.row for part in parts)]),
        np.concatenate([np.empty(0, np.int64), *(part.pixel for part in parts)]),
        np.concatenate([np.empty(0), *(part.weight for part in parts)]),
    )


def read_shapes(
    catalogue: Mapping[str, ArrayLike],
    scheme: Scheme,
    shape: tuple[int, int],
    *,
    segmentation: ArrayLike | None,
    psf: ArrayLike | None,
    squared: bool,
) -> Shapes:
    """Read the shapes that a scheme needs from a catalogue.

    Parameters
    ----------
    catalogue, shape, segmentation, psf, squared
        As in `idfzarr.imaging.apertures.freeze`.
    scheme
        What is to be drawn.

    Returns
    -------
    Shapes
        Checked, as float64.

    Raises
    ------
    UsageError
        A column or image that a method needs is missing, or a position is not finite.
    ImageShape
        The segmentation has another shape.
    """
    x, y = _column(catalogue, "x", "every method"), _column(catalogue, "y", "every method")
    if x.shape != y.shape or not (np.isfinite(x) & np.isfinite(y)).all():
        found = f"{x.size} x and {y.size} y were given"
        if x.shape == y.shape:
            found = f"row {np.flatnonzero(~np.isfinite(x + y))[0]} is not finite"
        msg = f"apertures need a finite x and y of every object, and {found}"
        raise UsageError(msg)
    kron = None
    if "auto" in scheme.others:
        kron = np.stack([_column(catalogue, c, "auto") for c in ("kron_a", "kron_b", "theta")])
    for method, needed in (("iso", segmentation), ("psf", psf)):
        if method in scheme.others and needed is None:
            name = "segmentation" if method == "iso" else "psf"
            msg = f"the method {method} was asked for without {name}=, which it is made of"
            raise UsageError(msg)
    segments = None if segmentation is None else _segmentation(segmentation, shape)
    labels = None if segments is None else _labels(catalogue, x.size)
    iso = None
    if "iso" in scheme.others and segments is not None and labels is not None:
        iso = segment_entries(segments, labels)
    stamp = check_psf(psf) if "psf" in scheme.others and psf is not None else None
    return Shapes(x, y, shape, scheme, kron, iso, segments, labels, stamp, squared)


def _column(catalogue: Mapping[str, ArrayLike], name: str, purpose: str) -> NDArray[np.float64]:
    names = list(getattr(catalogue, "colnames", None) or catalogue.keys())
    if name not in names:
        msg = f"{purpose} needs the column {name!r}, and the catalogue has {', '.join(names)}"
        raise UsageError(msg + closest(name, names))
    column: Any = catalogue[name]
    if hasattr(column, "filled"):
        column = column.astype(np.float64).filled(np.nan)
    return np.atleast_1d(np.asarray(column, dtype=np.float64))


def _segmentation(segmentation: ArrayLike, shape: tuple[int, int]) -> NDArray[np.int64]:
    array = np.asarray(segmentation)
    if array.shape != shape:
        msg = f"the segmentation has the shape {array.shape}, and the images have {shape}"
        raise ImageShape(msg)
    return array.astype(np.int64)


def _labels(catalogue: Mapping[str, ArrayLike], size: int) -> NDArray[np.int64]:
    names = list(getattr(catalogue, "colnames", None) or catalogue.keys())
    if "labels" not in names:
        return np.arange(1, size + 1, dtype=np.int64)
    labels = np.asarray(catalogue["labels"]).astype(np.int64)
    used = labels[labels > 0]
    if np.unique(used).size != used.size:
        msg = "two objects of the catalogue have the same label: a segment belongs to one object"
        raise UsageError(msg)
    return labels
