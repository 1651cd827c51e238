"""Which objects lie within a cone on the sky."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from idfzarr.errors import NoSkyCoordinates, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cone_rows", "require_sky"]

_ARCSEC = math.radians(1 / 3600)


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


def _unit_vectors(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    alpha, delta = np.radians(ra), np.radians(dec)
    return np.stack(
        [np.cos(delta) * np.cos(alpha), np.cos(delta) * np.sin(alpha), np.sin(delta)], axis=-1
    )


def cone_rows(
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    *,
    centre: tuple[float, float],
    radius: float,
    where: str,
) -> NDArray[np.intp]:
    """Return the objects within a cone, the nearest first.

    Right at the poles and across right ascension 0: distances are chords between unit vectors,
    ``2 asin(chord / 2)``, which keep their precision at small angles.

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
    if not (math.isfinite(centre[0]) and -90 <= centre[1] <= 90):
        msg = f"a cone around ra {centre[0]}, dec {centre[1]} is none: give degrees, dec -90 to 90"
        raise UsageError(msg)
    if not 0 <= radius <= 180 * 3600:
        msg = f"a cone of {radius} arcsec is none: give 0 to 648000"
        raise UsageError(msg)
    middle = _unit_vectors(np.array(centre[0]), np.array(centre[1]))
    chord = np.linalg.norm(_unit_vectors(ra, dec) - middle, axis=-1)
    angle = 2 * np.arcsin(np.clip(np.where(np.isfinite(chord), chord, 2.0) / 2, 0, 1))
    inside = np.flatnonzero(np.isfinite(chord) & (angle <= radius * _ARCSEC))
    nearest: NDArray[np.intp] = inside[np.argsort(angle[inside], kind="stable")]
    return nearest
