"""Which objects lie where on the sky: cones, neighbours and matches by a tree.

The tree is one of unit vectors, so that it is right at the poles and across right ascension 0.
Separations are ``2 asin(chord / 2)``, which keeps its precision at small angles.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from idfzarr.errors import NoSkyCoordinates, UsageError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Double: TypeAlias = NDArray[np.float64]
    Rows: TypeAlias = NDArray[np.intp]

__all__ = ["SkyTree", "cone_rows", "require_sky", "sky_tree"]

_ARCSEC = math.radians(1 / 3600)
_ALL_SKY = 180 * 3600


def require_sky(ra: NDArray[np.float64], *, where: str) -> None:
    """Raise where not one object has a position on the sky.

    Raises
    ------
    NoSkyCoordinates
        The frames had no WCS.
    """
    if not np.isfinite(ra).any():
        msg = (
            f"{where} has no sky coordinates: its frames had no WCS; "
            "choose objects by their pixels x and y, or by id"
        )
        raise NoSkyCoordinates(msg)


def _unit_vectors(ra: Double, dec: Double) -> Double:
    alpha, delta = np.radians(ra), np.radians(dec)
    vectors = np.empty((*alpha.shape, 3))
    across = np.cos(delta)
    np.multiply(across, np.cos(alpha), out=vectors[..., 0])
    np.multiply(across, np.sin(alpha), out=vectors[..., 1])
    np.sin(delta, out=vectors[..., 2])
    return vectors


def _unit_vector(ra: float, dec: float) -> tuple[float, float, float]:
    alpha, delta = math.radians(ra), math.radians(dec)
    across = math.cos(delta)
    return across * math.cos(alpha), across * math.sin(alpha), math.sin(delta)


def _arcsec(chord: Double) -> Double:
    return np.asarray(2 * np.arcsin(np.minimum(chord / 2, 1.0)) / _ARCSEC)


def _check_centre(ra: float, dec: float) -> None:
    if not (math.isfinite(ra) and -90 <= dec <= 90):
        msg = f"a cone around ra {ra}, dec {dec} is none: give degrees, dec -90 to 90"
        raise UsageError(msg)


def _check_radius(radius: float) -> None:
    if not 0 <= radius <= _ALL_SKY:
        msg = f"a cone of {radius} arcsec is none: give 0 to 648000"
        raise UsageError(msg)


class SkyTree:
    """Positions on the sky, for searches that do not look at each of them.

    Parameters
    ----------
    ra, dec
        Degrees, (n,); positions that are not finite are in no result.

    Raises
    ------
    UsageError
        The two differ in length.

    Examples
    --------
    >>> tree = SkyTree([359.999, 0.001, 10.0], [0.0, 0.0, 0.0])
    >>> tree.cone(0.0005, 0.0, 10).tolist()
    [1, 0]
    """

    def __init__(self, ra: ArrayLike, dec: ArrayLike) -> None:
        from scipy.spatial import cKDTree

        alpha, delta = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
        if alpha.shape != delta.shape or alpha.ndim != 1:
            msg = (
                f"ra and dec must be of one dimension and one length, not of shapes {alpha.shape} "
                f"and {delta.shape}"
            )
            raise UsageError(msg)
        known = np.isfinite(alpha) & np.isfinite(delta)
        self._rows = None if known.all() else np.flatnonzero(known)
        self._n = len(alpha)
        vectors = _unit_vectors(alpha, delta)
        self._vectors = vectors if self._rows is None else vectors[self._rows]
        # large leaves and no medians: built twice as fast as scipy's default, and searched as fast
        self._tree = cKDTree(self._vectors, leafsize=64, balanced_tree=False, compact_nodes=False)

    def __len__(self) -> int:
        """Return how many positions there are, those that are not finite among them."""
        return self._n

    def _own_rows(self, rows: Rows) -> Rows:
        return rows if self._rows is None else self._rows[rows]

    def cone(self, ra: float, dec: float, radius: float) -> Rows:
        """Return the positions within a cone, the nearest first.

        Parameters
        ----------
        ra, dec
            Its middle, degrees.
        radius
            Arcseconds; the rim belongs to the cone.

        Returns
        -------
        ndarray of int
            Rows; empty where nothing is that near.

        Raises
        ------
        UsageError
            The middle or the radius is no number, or out of range.
        """
        return self.cone_separations(ra, dec, radius)[0]

    def cone_separations(self, ra: float, dec: float, radius: float) -> tuple[Rows, Double]:
        """Return what `cone` does, and the separations in arcseconds, ascending."""
        _check_centre(ra, dec)
        _check_radius(radius)
        middle = np.array(_unit_vector(ra, dec))
        reach = 2 * math.sin(min(radius * _ARCSEC, math.pi) / 2)
        # the tree's own rounding must not decide about the rim
        near = self._tree.query_ball_point(middle, reach * (1 + 1e-9) + 1e-15)
        rows = np.array(near, dtype=np.intp)
        rows.sort()
        apart = self._vectors[rows] - middle
        separation = _arcsec(np.sqrt(np.vecdot(apart, apart)))
        inside = separation <= radius
        if not inside.all():
            rows, separation = rows[inside], separation[inside]
        order = separation.argsort(kind="stable")
        return self._own_rows(rows[order]), separation[order]

    def nearest(self, ra: float, dec: float, n: int = 1) -> tuple[Rows, Double]:
        """Return the nearest positions.

        Parameters
        ----------
        ra, dec
            Degrees.
        n
            How many at most.

        Returns
        -------
        tuple of ndarray
            Rows and separations in arcseconds, ascending; fewer than `n` where there are fewer.

        Raises
        ------
        UsageError
            The position is no number or out of range, or `n` is below 1.
        """
        _check_centre(ra, dec)
        if n < 1:
            msg = f"{n} nearest objects are none: ask for at least 1"
            raise UsageError(msg)
        count = min(n, len(self._vectors))
        if not count:
            return np.empty(0, dtype=np.intp), np.empty(0)
        chord, rows = self._tree.query(_unit_vector(ra, dec), k=[*range(1, count + 1)])
        return self._own_rows(np.asarray(rows, dtype=np.intp)), _arcsec(chord)

    def crossmatch(self, ra: ArrayLike, dec: ArrayLike, radius: float) -> tuple[Rows, Double]:
        """Return the nearest position to each of many.

        Parameters
        ----------
        ra, dec
            Degrees, (m,).
        radius
            Arcseconds; the farthest match that counts.

        Returns
        -------
        tuple of ndarray
            Rows, -1 where there is none, and separations in arcseconds, NaN there; (m,).

        Raises
        ------
        UsageError
            The shapes differ, a declination is beyond a pole, or the radius is out of range.
        """
        _check_radius(radius)
        alpha, delta = np.asarray(ra, dtype=np.float64), np.asarray(dec, dtype=np.float64)
        if alpha.shape != delta.shape or alpha.ndim != 1:
            msg = f"ra and dec must be of one length, not of shapes {alpha.shape} and {delta.shape}"
            raise UsageError(msg)
        beyond = np.flatnonzero(np.abs(delta) > 90)
        if beyond.size:
            msg = f"declination {delta[beyond[0]]} of row {beyond[0]} is none: give -90 to 90"
            raise UsageError(msg)
        rows = np.full(alpha.shape, -1, dtype=np.intp)
        separation = np.full(alpha.shape, np.nan)
        known = np.flatnonzero(np.isfinite(alpha) & np.isfinite(delta))
        if not (known.size and len(self._vectors)):
            return rows, separation
        chord, nearest = self._tree.query(_unit_vectors(alpha[known], delta[known]))
        found = _arcsec(chord)
        near = found <= radius
        rows[known[near]] = self._own_rows(np.asarray(nearest[near], dtype=np.intp))
        separation[known[near]] = found[near]
        return rows, separation


_MOST_TREES = 4
_TREES: list[tuple[Double, Double, SkyTree]] = []
_LOCK = threading.Lock()


def _same(one: Double, other: Double) -> bool:
    """Say whether two arrays hold the same bits: NaN is NaN, and nothing is rounded."""
    return one.shape == other.shape and np.array_equal(one.view(np.uint64), other.view(np.uint64))


def sky_tree(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> SkyTree:
    """Return the tree of two arrays, one of those made last where it is of the same numbers.

    Parameters
    ----------
    ra, dec
        Degrees, (n,).

    Returns
    -------
    SkyTree
        Of what the arrays hold now. That is compared number by number, in a hundredth of the time
        that a tree takes: arrays are changed in place, and read again from a store.
    """
    alpha = np.ascontiguousarray(ra, dtype=np.float64)
    delta = np.ascontiguousarray(dec, dtype=np.float64)
    with _LOCK:
        held = list(_TREES)
    for one in held:
        if _same(one[0], alpha) and _same(one[1], delta):
            return one[2]
    tree = SkyTree(alpha, delta)
    with _LOCK:
        _TREES[:] = [(alpha.copy(), delta.copy(), tree), *_TREES[: _MOST_TREES - 1]]
    return tree


def cone_rows(
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    *,
    centre: tuple[float, float],
    radius: float,
    where: str,
) -> NDArray[np.intp]:
    """Return the objects within a cone, the nearest first.

    Parameters
    ----------
    ra, dec
        Of the objects, degrees, (n,); NaN where unknown.
    centre
        Right ascension and declination of the middle, degrees.
    radius
        Arcseconds.
    where
        What an error calls the store.

    Returns
    -------
    ndarray of int
        Rows; empty where nothing is that near.

    Raises
    ------
    NoSkyCoordinates
        No object has a position on the sky.
    UsageError
        The centre or the radius is no number, or out of range.
    """
    require_sky(ra, where=where)
    return sky_tree(ra, dec).cone(centre[0], centre[1], radius)
