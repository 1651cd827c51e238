"""Which object each row of a catalogue is: by an id all tables share, or by place on the sky."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units
from scipy.spatial import cKDTree

from idfzarr.errors import UsageError, closest
from idfzarr.imaging.detection import sky_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.build.catalogues import Catalogue

    Doubles = NDArray[np.float64]

__all__ = [
    "ObjectList",
    "disagreement",
    "gather",
    "ids_of",
    "match_ids",
    "match_sky",
    "nearest_neighbour",
    "positions_of",
    "reference_objects",
]

_IDS = ("NUMBER", "object_id", "id", "label")
_RA = ("ALPHA_J2000", "ALPHAWIN_J2000", "ra", "ra_deg", "RAJ2000", "_RAJ2000", "right_ascension")
_DEC = ("DELTA_J2000", "DELTAWIN_J2000", "dec", "dec_deg", "DEJ2000", "_DEJ2000", "declination")
_X = ("X_IMAGE", "XWIN_IMAGE", "x", "xcentroid", "x_centroid", "x_fit", "x_0")
_Y = ("Y_IMAGE", "YWIN_IMAGE", "y", "ycentroid", "y_centroid", "y_fit", "y_0")
_ONE_BASED = ("X_IMAGE", "Y_IMAGE", "XWIN_IMAGE", "YWIN_IMAGE")
"""FITS pixels, whose first is 1; the others are numpy's, whose first is 0."""

_ARCSEC = 3600.0
_OTHERS = 0.1
"""Part of the common objects that may lie elsewhere before ids are taken for those of others."""

_PIXELS_APART = 3.0
"""Without sky coordinates: pixels beyond which an id is of another object."""

_ALONE_ARCSEC, _ALONE_PIXELS = 5.0, 8.0
"""Distance to the nearest object beyond which an object is isolated."""


@dataclass(frozen=True, eq=False)
class ObjectList:
    """Objects and where they are.

    Attributes
    ----------
    ids
        (n,), unique.
    ra, dec
        (n,), degrees; NaN where unknown.
    x, y
        (n,), pixels, the first pixel's centre being 0; NaN where unknown.
    columns
        Other columns, (n,), for the catalogue.
    """

    ids: NDArray[np.int64]
    ra: Doubles
    dec: Doubles
    x: Doubles
    y: Doubles
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_sky(self) -> bool:
        """Whether every object has a place on the sky."""
        return bool(len(self)) and bool(np.isfinite(self.ra + self.dec).all())

    def taken(self, rows: NDArray[np.integer[Any]]) -> ObjectList:
        """Return some of the objects, in the order of `rows`."""
        return ObjectList(
            ids=self.ids[rows],
            ra=self.ra[rows],
            dec=self.dec[rows],
            x=self.x[rows],
            y=self.y[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    def in_sky_order(self) -> ObjectList:
        """Return them with neighbours on the sky together; by id where nothing is known."""
        by_id = self.taken(np.argsort(self.ids, kind="stable"))
        if not by_id.has_sky and not np.isfinite(by_id.x + by_id.y).all():
            return by_id
        return by_id.taken(sky_order(by_id.x, by_id.y, by_id.ra, by_id.dec))


# ---------------------------------------------------------------- what a table says


def ids_of(catalogue: Catalogue, column: str | None) -> NDArray[np.int64]:
    """Return the ids of a table's rows.

    Parameters
    ----------
    catalogue
        The table.
    column
        Column of the ids; NUMBER, object_id or id unless given.

    Raises
    ------
    UsageError
        There is no such column, its values are no whole numbers, or one stands twice.
    """
    name = catalogue.first(_IDS) if column is None else catalogue.find(column)
    if name is None:
        asked = ", ".join(_IDS[:3]) if column is None else column
        msg = (
            f"{catalogue.path} has no column of ids ({asked})"
            f"{closest(column or 'id', catalogue.columns)}; "
            "name it, or match by sky with a table of objects"
        )
        raise UsageError(msg)
    values = catalogue.values(name)
    ids = _whole(values)
    if ids is None:
        msg = f"column {name!r} of {catalogue.path} must hold a whole number in every row, as an id"
        raise UsageError(msg)
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        twice = ", ".join(str(i) for i in unique[counts > 1][:5])
        msg = (
            f"{int((counts > 1).sum())} ids stand more than once in column {name!r} of "
            f"{catalogue.path} ({twice}); each object may have one row in a table"
        )
        raise UsageError(msg)
    return ids


def _whole(values: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return values as int64, or None where one is no whole number."""
    if values.ndim != 1:
        return None
    if values.dtype.kind == "f":
        finite = np.isfinite(values) & (np.abs(values) < 2.0**53)
        if not finite.all() or (values != np.floor(values)).any():
            return None
    try:
        return values.astype(np.int64)
    except (ValueError, OverflowError):
        return None


def positions_of(catalogue: Catalogue) -> tuple[Doubles, Doubles, Doubles, Doubles]:
    """Return ra, dec (degrees), x, y (pixels from 0) of a table's rows; NaN where it has none."""
    ra, dec = (_angle(catalogue, names) for names in (_RA, _DEC))
    x, y = (_pixel(catalogue, names) for names in (_X, _Y))
    return ra, dec, x, y


def _angle(catalogue: Catalogue, names: Sequence[str]) -> Doubles:
    name = catalogue.first(names)
    if name is None:
        return np.full(len(catalogue), np.nan)
    values = catalogue.numbers(name)
    text = catalogue.unit(name)
    try:
        unit = units.Unit(text) if text else units.deg
        return values * float(unit.to(units.deg))
    except (ValueError, TypeError):
        msg = f"column {name!r} of {catalogue.path} is in {text!r}, which is no angle"
        raise UsageError(msg) from None


def _pixel(catalogue: Catalogue, names: Sequence[str]) -> Doubles:
    name = catalogue.first(names)
    if name is None:
        return np.full(len(catalogue), np.nan)
    return catalogue.numbers(name) - (1.0 if name.upper() in _ONE_BASED else 0.0)


def reference_objects(
    catalogue: Catalogue, *, object_id: str | None = None, needs_sky: bool
) -> ObjectList:
    """Return the objects of a table of objects, all of its columns kept.

    Raises
    ------
    UsageError
        It has no ids, or no place on the sky where one is needed.
    """
    ids = ids_of(catalogue, object_id)
    ra, dec, x, y = positions_of(catalogue)
    if needs_sky and not np.isfinite(ra + dec).all():
        lacking = int((~np.isfinite(ra + dec)).sum())
        msg = (
            f"{lacking} of {len(ids)} objects of {catalogue.path} have no ra and dec (degrees), by "
            "which tables are matched"
        )
        raise UsageError(msg)
    known = {"object_id", "ra", "dec", "x", "y", "isolated", "neighbour_distance"}
    columns = {
        name: values
        for name, values in catalogue.columns.items()
        if values.ndim == 1 and name not in known
    }
    return ObjectList(ids, ra, dec, x, y, columns)


# ---------------------------------------------------------------- tables together


def gather(before: ObjectList | None, more: ObjectList) -> ObjectList:
    """Return the objects of both, each where it was found first."""
    if before is None:
        return more.taken(np.argsort(more.ids, kind="stable"))
    new = np.flatnonzero(match_ids(before.ids, more.ids) < 0)
    added = more.taken(new)
    joined = ObjectList(
        ids=np.concatenate([before.ids, added.ids]),
        ra=np.concatenate([before.ra, added.ra]),
        dec=np.concatenate([before.dec, added.dec]),
        x=np.concatenate([before.x, added.x]),
        y=np.concatenate([before.y, added.y]),
    )
    return joined.taken(np.argsort(joined.ids, kind="stable"))


def match_ids(sorted_ids: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return where each id stands among sorted ones; -1 where it does not."""
    if not len(sorted_ids):
        return np.full(len(ids), -1, dtype=np.intp)
    at = np.minimum(np.searchsorted(sorted_ids, ids), len(sorted_ids) - 1)
    return np.where(sorted_ids[at] == ids, at, -1)


def match_sky(
    ra: Doubles, dec: Doubles, of_table_ra: Doubles, of_table_dec: Doubles, *, radius: float
) -> NDArray[np.intp]:
    """Return the object each row is: the nearest pairs first, no object and no row twice.

    Parameters
    ----------
    ra, dec
        Objects, (n,), degrees.
    of_table_ra, of_table_dec
        Rows, (m,), degrees; NaN matches nothing.
    radius
        Greatest separation, arc seconds.

    Returns
    -------
    ndarray of int
        (m,), positions of objects, -1 where there is none within the radius.
    """
    out = np.full(len(of_table_ra), -1, dtype=np.intp)
    usable = np.flatnonzero(np.isfinite(of_table_ra + of_table_dec))
    if not len(usable) or not len(ra):
        return out
    chord = 2.0 * np.sin(np.deg2rad(radius / _ARCSEC) / 2.0)
    objects = cKDTree(_unit_vectors(ra, dec))
    rows = cKDTree(_unit_vectors(of_table_ra[usable], of_table_dec[usable]))
    near = rows.sparse_distance_matrix(objects, chord, output_type="ndarray")
    order = np.lexsort((near["j"], near["i"], near["v"]))
    taken = np.zeros(len(ra), dtype=bool)
    for row, at in zip(near["i"][order].tolist(), near["j"][order].tolist(), strict=True):
        if out[usable[row]] < 0 and not taken[at]:
            out[usable[row]], taken[at] = at, True
    return out


def _unit_vectors(ra: Doubles, dec: Doubles) -> Doubles:
    alpha, delta = np.deg2rad(ra), np.deg2rad(dec)
    return np.stack(
        [np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=1
    )


def disagreement(before: ObjectList, more: ObjectList, *, radius: float) -> tuple[int, int]:
    """Return how many common ids lie elsewhere in two lists, and how many are common.

    Parameters
    ----------
    before, more
        Lists with ids; `before` sorted by id.
    radius
        Arc seconds beyond which an id is of another object. Without sky coordinates, three pixels
        off what all are shifted by.

    Returns
    -------
    elsewhere, common
        `elsewhere` is 0 where it is at most a tenth of the common ones: a faint object may wander.
    """
    at = match_ids(before.ids, more.ids)
    mine = np.flatnonzero(at >= 0)
    theirs = at[mine]
    d_dec = (more.dec[mine] - before.dec[theirs]) * _ARCSEC
    turn = (more.ra[mine] - before.ra[theirs] + 180.0) % 360.0 - 180.0
    apart = np.hypot(turn * _ARCSEC * np.cos(np.deg2rad(before.dec[theirs])), d_dec)
    known = np.isfinite(apart)
    limit = radius
    if not known.any():
        dx, dy = more.x[mine] - before.x[theirs], more.y[mine] - before.y[theirs]
        known = np.isfinite(dx + dy)
        if known.any():
            apart = np.hypot(dx - np.median(dx[known]), dy - np.median(dy[known]))
        limit = _PIXELS_APART
    n_known = int(known.sum())
    elsewhere = int((apart[known] > limit).sum())
    return (elsewhere if elsewhere > _OTHERS * n_known else 0), n_known


def nearest_neighbour(objects: ObjectList) -> tuple[Doubles, NDArray[np.bool_], str]:
    """Return each object's distance to the nearest other one, and whether it is isolated.

    Returns
    -------
    distance, isolated, unit
        (n,), (n,), and ``arcsec`` or ``pixel``. Isolated is beyond 5 arcsec, or 8 pixels without
        sky coordinates; nothing is where nothing is known.
    """
    if objects.has_sky:
        points, limit, unit = _unit_vectors(objects.ra, objects.dec), _ALONE_ARCSEC, "arcsec"
    else:
        points, limit, unit = np.stack([objects.x, objects.y], axis=1), _ALONE_PIXELS, "pixel"
    distance = np.full(len(objects), np.nan)
    known = np.flatnonzero(np.isfinite(points).all(axis=1))
    if len(known) == 1:
        distance[known] = np.inf
    elif len(known):
        nearest = cKDTree(points[known]).query(points[known], k=2)[0][:, 1]
        if unit == "arcsec":
            nearest = np.rad2deg(2.0 * np.arcsin(np.minimum(nearest / 2.0, 1.0))) * _ARCSEC
        distance[known] = nearest
    return distance, np.nan_to_num(distance, nan=0.0) > limit, unit
