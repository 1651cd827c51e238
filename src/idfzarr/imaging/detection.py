"""Objects: found on every channel's superstack and on their combination, in one list.

SExtractor's algorithm (Bertin & Arnouts 1996, A&AS 117, 393) as implemented by ``sep`` finds and
deblends them; the combination of the channels goes first, and what only one channel shows (a
dropout, a source too red or too blue) is added to it. Each object has one number, one place in one
segmentation image and one row of one table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import sep
from scipy.spatial import cKDTree

from idfzarr.errors import ImageError, ImageShape, UsageError
from idfzarr.flags import flag_bit, from_sextractor
from idfzarr.imaging.detection_image import KERNEL, DetectionImage, combine, prepare
from idfzarr.imaging.object_shapes import Shapes, isolation, measure_shapes, sum_ellipses
from idfzarr.imaging.source_mask import grow_mask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from astropy.table import Table
    from astropy.wcs import WCS
    from numpy.typing import ArrayLike, NDArray

    from idfzarr.imaging.superstack import Superstack

Double: TypeAlias = "NDArray[np.float64]"
Single: TypeAlias = "NDArray[np.float32]"
Integers: TypeAlias = "NDArray[np.int64]"
Labels: TypeAlias = "NDArray[np.int32]"
Mask: TypeAlias = "NDArray[np.bool_]"
Records: TypeAlias = "NDArray[np.void]"

__all__ = ["THRESHOLD", "Detection", "detect", "seen_sky", "sky_order"]

THRESHOLD = 4.0
"""Detection threshold, in widths of the filtered sky."""

_MIN_AREA = 5  # pixels above the threshold, as in SExtractor's default.sex
_DEBLEND_LEVELS = 32
# SExtractor's default of 0.005 of the parent's flux loses a fifth of the objects of a field like
# the IDF in the wings of bright stars; down to this value nothing but objects is gained there.
_DEBLEND_CONTRAST = 0.0002
_MATCH_RADIUS = 2.0  # pixels
_OWN_PEAK = 0.1  # of the peak it lies under: below, a bump in one channel is that object's shape
_CORE = 1.5  # pixels around its peak that a new object takes from the segment it lies in
_SUB_OBJECTS = 65_536  # sep's default of 1,024 is too few for a bright star in a crowded field
_PIXEL_STACK = 300_000  # sep's default
_ARCSEC = 3600.0


@dataclass(frozen=True)
class Detection:
    """What was found.

    Parameters
    ----------
    catalogue
        One row per object, see `detect`.
    segmentation
        (y, x), the number of the object a pixel belongs to, 0 for none.
    threshold
        In widths of the filtered sky.
    correlation
        Of every channel: width of its filtered sky relative to what its ``err`` predicts.
    """

    catalogue: Table
    segmentation: Labels
    threshold: float
    correlation: Mapping[str, float]


def detect(
    superstacks: Mapping[str, Superstack],
    *,
    wcs: WCS | None = None,
    threshold: float = THRESHOLD,
    min_area: int = _MIN_AREA,
    min_coverage: float = 0.5,
    deblend_levels: int = _DEBLEND_LEVELS,
    deblend_contrast: float = _DEBLEND_CONTRAST,
    match_radius: float = _MATCH_RADIUS,
    field: str = "the field",
) -> Detection:
    """Find the objects of a field.

    Parameters
    ----------
    superstacks
        Superstack of every channel, on one grid.
    wcs
        The grid's celestial WCS; without it ``ra`` and ``dec`` are NaN and the order is by y, x.
    threshold
        Of a pixel, in widths of the filtered sky as measured (not as ``err`` predicts).
    min_area
        Connected pixels above the threshold that make an object.
    min_coverage
        An object must be seen, at its centre, in this fraction of the AORs of one channel.
    deblend_levels, deblend_contrast
        SExtractor's ``DEBLEND_NTHRESH`` and ``DEBLEND_MINCONT``.
    match_radius
        Detections of two images that are no farther apart are one object, pixels.
    field
        What to call the field in an error.

    Returns
    -------
    Detection
        The catalogue has, in the order of the sky (`sky_order`):

        - ``object_id`` (1 to N, row + 1, also the label in the segmentation)
        - ``x``, ``y`` windowed centroid, 0-based pixels; ``ra``, ``dec`` degrees
        - ``a``, ``b``, ``theta`` second moments (pixels; radians from x to y), ``ellipticity``,
          ``fwhm`` (of the mean radial profile), ``npix``, ``peak`` (in units of the noise)
        - ``kron_radius`` (in units of a and b), ``kron_a``, ``kron_b`` semi-axes of the AUTO
          aperture, pixels
        - ``flux_auto_{channel}``, ``flux_auto_err_{channel}``, ``snr_{channel}``: the plain sum in
          that ellipse in the superstack's unit, its error with the noise's correlation counted in
        - ``n_coverage_{channel}``: AORs that saw the centre
        - ``flags`` (`idfzarr.flags`), ``neighbour_distance`` (pixels; infinite for a lone object),
          ``isolated`` (see `idfzarr.imaging.object_shapes.isolation`)
        - ``detected_in``: channels, and ``both`` (``all`` for more than two) for the combination,
          joined by ``+``

    Raises
    ------
    UsageError
        No superstack, or a threshold or a fraction that cannot be.
    ImageShape
        The superstacks differ in shape.
    ImageError
        Nothing was found.
    """
    shape = _check(superstacks, threshold, min_coverage)
    images = [
        # A pixel seen by next to no AOR has next to no sky around it to be judged against.
        prepare(name, stack, min_aors=int(np.ceil(0.5 * min_coverage * stack.n_aors)))
        for name, stack in superstacks.items()
    ]
    search = _Search(threshold, min_area, deblend_levels, deblend_contrast, match_radius)
    found = _merge(images, search)
    found = found.take(_covered(found, superstacks, min_coverage))
    if found.count == 0:
        channels = ", ".join(superstacks)
        msg = (
            f"no object found on {field} ({channels}; {shape[1]} x {shape[0]} pixels) above "
            f"{threshold:g} times the noise in {min_area} pixels and in {min_coverage:.0%} of the "
            f"AORs: lower the threshold or the coverage asked for, or look at the images"
        )
        raise ImageError(msg)
    return _describe(found, superstacks, wcs, threshold)


def sky_order(
    x: ArrayLike,
    y: ArrayLike,
    ra: ArrayLike | None = None,
    dec: ArrayLike | None = None,
    *,
    band_arcsec: float = 20.0,
    band_pixels: float = 32.0,
) -> Integers:
    """Return the order in which neighbours on the sky are neighbours on disk.

    Parameters
    ----------
    x, y
        Pixels, (n,); they decide where there are no sky coordinates.
    ra, dec
        Degrees, (n,), or None.
    band_arcsec
        Height of the bands of declination, arc seconds; within a band by right ascension.
    band_pixels
        Height of the bands of y without sky coordinates; within a band by x.

    Returns
    -------
    ndarray of int64
        (n,), indices that sort.

    Notes
    -----
    Right ascension is counted from the direction opposite to the field, so that a field across 0h
    is not torn apart.
    """
    across, along = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    band = np.floor(along / band_pixels)
    if ra is not None and dec is not None:
        alpha, delta = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
        if alpha.size and np.isfinite(alpha).all() and np.isfinite(delta).all():
            angle = np.deg2rad(alpha)
            middle = np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean()))
            across = (alpha - middle + 180.0) % 360.0
            band = np.floor(delta * _ARCSEC / band_arcsec)
    return np.lexsort((along, across, band)).astype(np.int64)


def seen_sky(segmentation: Labels, *, grow: float = 4.0, good: Mask | None = None) -> Mask:
    """Return the pixels of pure sky.

    Parameters
    ----------
    segmentation
        (y, x), from `Detection`.
    grow
        Distance to keep from every object's pixels; its wings reach beyond its segment.
    good
        (y, x), False for pixels that must not be used; all may where omitted.

    Returns
    -------
    ndarray of bool
        (y, x), True for sky.
    """
    sky = ~grow_mask(segmentation > 0, grow)
    return sky if good is None else sky & good


@dataclass(frozen=True)
class _Search:
    """How objects are searched for."""

    threshold: float
    min_area: int
    levels: int
    contrast: float
    match_radius: float


@dataclass(frozen=True)
class _Found:
    """Objects of all images: sep's records, the image each was found on, and their pixels."""

    records: Records
    labels: Labels  # (n,), the label each has in the segmentation
    own: Integers  # (n,), index into images
    seen_in: Mask  # (n, images)
    segmentation: Labels
    images: Sequence[DetectionImage]

    @property
    def count(self) -> int:
        return int(self.records.size)

    def take(self, rows: NDArray[Any]) -> _Found:
        """Keep some objects, in the order given, and number them 1, 2, ..."""
        labels = self.labels[rows]
        table = np.zeros(int(self.labels.max(initial=0)) + 1, dtype=np.int32)
        table[labels] = np.arange(1, labels.size + 1)
        return _Found(
            records=self.records[rows],
            labels=table[labels],
            own=self.own[rows],
            seen_in=self.seen_in[rows],
            segmentation=table[self.segmentation],
            images=self.images,
        )


def _check(
    superstacks: Mapping[str, Superstack], threshold: float, min_coverage: float
) -> tuple[int, int]:
    """Refuse what cannot be searched; return the shape."""
    if not superstacks:
        msg = "detection needs the superstack of one channel at least, none was given"
        raise UsageError(msg)
    if not threshold > 0 or not 0 <= min_coverage <= 1:
        msg = (
            f"detection needs a threshold above 0 and a coverage between 0 and 1, found "
            f"{threshold} and {min_coverage}"
        )
        raise UsageError(msg)
    shapes = {name: stack.flux.shape for name, stack in superstacks.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        msg = f"the superstacks of a field must have one shape, found {listed}: use one grid"
        raise ImageShape(msg)
    ny, nx = next(iter(shapes.values()))
    return ny, nx


def _merge(channels: Sequence[DetectionImage], search: _Search) -> _Found:
    """Search the combination and every channel, and make one list of it."""
    images = list(channels)
    if len(channels) > 1:
        images.insert(0, combine(channels, "both" if len(channels) == 2 else "all"))
    records, segmentation = _extract(images[0], search)
    seen_in = np.zeros((records.size, len(images)), dtype=bool)
    seen_in[:, 0] = True
    found = _Found(
        records=records,
        labels=np.arange(1, records.size + 1, dtype=np.int32),
        own=np.zeros(records.size, dtype=np.int64),
        seen_in=seen_in,
        segmentation=segmentation,
        images=images,
    )
    for number in range(1, len(images)):
        found = _add_channel(found, number, search)
    return found


def _extract(image: DetectionImage, search: _Search) -> tuple[Records, Labels]:
    """Let sep find and deblend the objects of one image."""
    nothing = np.zeros(image.values.shape, dtype=np.int32)
    if not (np.isfinite(image.width) and image.width > 0):
        return np.empty(0, dtype=[("x", "f8"), ("y", "f8")]), nothing
    sep.set_extract_pixstack(max(_PIXEL_STACK, image.values.size))
    sep.set_sub_object_limit(_SUB_OBJECTS)
    records, segmentation = sep.extract(
        np.ascontiguousarray(image.values),
        search.threshold * image.width,
        mask=image.hidden,
        minarea=search.min_area,
        filter_kernel=KERNEL,
        filter_type="conv",
        deblend_nthresh=search.levels,
        deblend_cont=search.contrast,
        clean=True,
        segmentation_map=True,
    )
    return records, segmentation.astype(np.int32, copy=False)


def _add_channel(found: _Found, number: int, search: _Search) -> _Found:
    """Match one channel's objects with those known; add those that are new."""
    image = found.images[number]
    records, segmentation = _extract(image, search)
    if records.size == 0:
        return found
    seen_in, new = found.seen_in.copy(), np.ones(records.size, dtype=bool)
    if found.count:
        known = np.stack([found.records["x"], found.records["y"]], axis=1)
        places = np.stack([records["x"], records["y"]], axis=1)
        distance, nearest = cKDTree(known).query(places)
        matched = distance <= search.match_radius
        seen_in[nearest[matched], number] = True
        # A blend in the combination is seen by the channel that resolves it, as is an extended
        # object with another centre: each one's peak lies in the other's segment.
        theirs = segmentation[found.records["ypeak"], found.records["xpeak"]]
        back = found.segmentation[records["ypeak"], records["xpeak"]]
        mutual = (theirs > 0) & (back[np.maximum(theirs, 1) - 1] == found.labels)
        seen_in[mutual, number] = True
        new = ~matched & _own_peak(found, image, records)
    added = np.flatnonzero(new) + 1
    return _append(found, records[new], added, segmentation, seen_in=seen_in, number=number)


def _own_peak(found: _Found, image: DetectionImage, records: Records) -> Mask:
    """Tell which objects stand free, or stand up in the segment of another."""
    under = found.segmentation[records["ypeak"], records["xpeak"]]
    peak = image.values[records["ypeak"], records["xpeak"]]
    order = np.argsort(found.labels)
    parent = order[np.searchsorted(found.labels, np.maximum(under, 1), sorter=order)]
    others = image.values[found.records["ypeak"], found.records["xpeak"]][parent]
    stands: Mask = (under == 0) | (peak >= _OWN_PEAK * others)
    return stands


def _append(
    found: _Found,
    records: Records,
    theirs: Integers,
    segmentation: Labels,
    *,
    seen_in: Mask,
    number: int,
) -> _Found:
    """Give new objects labels, and the pixels of their segments that are free or are their core."""
    merged = found.segmentation.copy()
    labels = np.arange(1, records.size + 1, dtype=np.int32) + found.labels.max(initial=0)
    table = np.zeros(int(segmentation.max(initial=0)) + 1, dtype=np.int32)
    table[theirs] = labels
    candidate = table[segmentation]
    free = (merged == 0) & (candidate > 0)
    merged[free] = candidate[free]
    ny, nx = merged.shape
    span = int(_CORE)
    for record, label in zip(records, labels, strict=True):
        x, y = int(record["xpeak"]), int(record["ypeak"])
        rows = slice(max(y - span, 0), min(y + span + 1, ny))
        columns = slice(max(x - span, 0), min(x + span + 1, nx))
        core = candidate[rows, columns] == label
        merged[rows, columns][core] = label
    new_in = np.zeros((records.size, seen_in.shape[1]), dtype=bool)
    new_in[:, number] = True
    # Without objects there is no table to add to: sep's columns come with the first.
    together = np.concatenate([found.records, records]) if found.count else records
    return _Found(
        records=together,
        labels=np.concatenate([found.labels, labels]),
        own=np.concatenate([found.own, np.full(records.size, number, dtype=np.int64)]),
        seen_in=np.concatenate([seen_in, new_in]),
        segmentation=merged,
        images=found.images,
    )


def _covered(found: _Found, superstacks: Mapping[str, Superstack], min_coverage: float) -> Integers:
    """Return the objects that enough AORs of one channel have seen."""
    enough = np.zeros(found.count, dtype=bool)
    if found.count:
        x, y = found.records["x"], found.records["y"]
        for stack in superstacks.values():
            enough |= _seen_at(stack, x, y) >= max(min_coverage * stack.n_aors, 1)
    return np.flatnonzero(enough)


def _seen_at(stack: Superstack, x: Double, y: Double) -> NDArray[np.int16]:
    """Look up the AORs that saw a position."""
    ny, nx = stack.flux.shape
    row = np.clip(np.rint(y).astype(np.int64), 0, ny - 1)
    column = np.clip(np.rint(x).astype(np.int64), 0, nx - 1)
    seen: NDArray[np.int16] = stack.seen[row, column]
    return seen


def _describe(
    found: _Found, superstacks: Mapping[str, Superstack], wcs: WCS | None, threshold: float
) -> Detection:
    """Measure the objects, put them in order and make the table."""
    shapes = measure_shapes(
        found.records, found.labels, found.own, found.segmentation, found.images
    )
    ra, dec = _sky(wcs, shapes.x, shapes.y)
    order = sky_order(shapes.x, shapes.y, ra, dec)
    found, shapes = found.take(order), shapes.take(order)
    table = _table(found, shapes, ra[order], dec[order])
    correlation = {i.name: i.correlation for i in found.images if i.name in superstacks}
    brightest = np.zeros(found.count)
    for name, stack in superstacks.items():
        flux, err, flags = sum_ellipses(stack, shapes)
        err *= max(correlation[name], 1.0)
        table[f"flux_auto_{name}"], table[f"flux_auto_err_{name}"] = flux, err
        known = err > 0
        table[f"snr_{name}"] = np.where(known, flux / np.where(known, err, 1.0), np.nan)
        table[f"n_coverage_{name}"] = _seen_at(stack, shapes.x, shapes.y)
        table["flags"] |= flags
        brightest = np.fmax(brightest, table[f"snr_{name}"])
    distance, isolated = isolation(shapes, brightest)
    table["neighbour_distance"], table["isolated"] = distance, isolated
    table["flags"][~isolated] |= np.uint16(flag_bit("neighbour"))
    return Detection(table, found.segmentation, threshold, correlation)


def _sky(wcs: WCS | None, x: Double, y: Double) -> tuple[Double, Double]:
    """Return ra and dec in degrees, NaN without a WCS."""
    if wcs is None:
        return np.full(x.size, np.nan), np.full(x.size, np.nan)
    ra, dec = wcs.all_pix2world(x, y, 0)
    return np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)


def _table(found: _Found, shapes: Shapes, ra: Double, dec: Double) -> Table:
    """Make the columns that do not depend on a channel."""
    from astropy.table import Table

    # sep's flags differ from SExtractor's: 1 merged is SExtractor's 2, 2 truncated its 8.
    theirs = found.records["flag"].astype(np.int64)
    sextractor = np.where(theirs & sep.OBJ_MERGED, 2, 0) | np.where(theirs & sep.OBJ_TRUNC, 8, 0)
    names = [image.name for image in found.images]
    spoken = [*names[1:], names[0]] if len(names) > 1 else names
    columns = [names.index(name) for name in spoken]
    detected_in = [
        "+".join(name for name, yes in zip(spoken, row[columns], strict=True) if yes)
        for row in found.seen_in
    ]
    return Table(
        {
            "object_id": np.arange(1, found.count + 1, dtype=np.int64),
            "x": shapes.x,
            "y": shapes.y,
            "ra": ra,
            "dec": dec,
            "a": shapes.a,
            "b": shapes.b,
            "theta": shapes.theta,
            "ellipticity": 1.0 - shapes.b / shapes.a,
            "fwhm": shapes.fwhm,
            "npix": np.bincount(found.segmentation.ravel(), minlength=found.count + 1)[1:],
            "peak": found.records["peak"].astype(np.float64),
            "kron_radius": shapes.kron_radius,
            "kron_a": shapes.kron_a,
            "kron_b": shapes.kron_b,
            "flags": from_sextractor(sextractor),
            "detected_in": np.array(detected_in, dtype=np.str_),
        }
    )
