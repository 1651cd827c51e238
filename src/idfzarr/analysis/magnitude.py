"""Magnitudes of fluxes, of ratios to a reference, and colours.

A flux that is not positive has no magnitude: the result is NaN, and `magnitude_flag` says which of
the two reasons it has, so that nothing is lost in silence. Statistics belong on flux.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from idfzarr.errors import UsageError, closest
from idfzarr.lightcurve import AB_ZERO_MAGNITUDE, VEGA_ZERO_FLUX

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Double: TypeAlias = NDArray[np.float64]

__all__ = [
    "MAGNITUDE_FLAGS",
    "SYSTEMS",
    "System",
    "colour",
    "colour_error",
    "magnitude",
    "magnitude_error",
    "magnitude_flag",
    "ratio_to_magnitude",
    "zero_magnitude",
]

System = Literal["AB", "Vega"]

SYSTEMS: tuple[System, ...] = ("AB", "Vega")
"""Magnitude systems."""

MAGNITUDE_FLAGS: dict[str, int] = {"magnitude": 0, "flux_not_positive": 1, "no_flux": 2}
"""What `magnitude_flag` returns, by name: there is a magnitude, or why there is none."""

_MAG_PER_RELATIVE_ERROR = 2.5 / math.log(10.0)


def zero_magnitude(system: str = "AB", *, channel: str | None = None, unit: str = "uJy") -> float:
    """Return the magnitude of a flux of one unit.

    Parameters
    ----------
    system
        ``AB`` (Oke & Gunn 1983, ApJ 266, 713), or ``Vega`` for the IRAC channels (IRAC Instrument
        Handbook, section 4.8).
    channel
        The channel, for Vega magnitudes.
    unit
        Unit of the flux. Fluxes in another unit than uJy get instrumental magnitudes, with zero for
        a flux of 1, as `idfzarr.lightcurve.Lightcurve.mag` has them.

    Returns
    -------
    float
        Magnitude.

    Raises
    ------
    UsageError
        There is no such system, or it has no zero for this channel and unit.

    Examples
    --------
    >>> zero_magnitude("AB")
    23.9
    """
    if system not in SYSTEMS:
        msg = f"{system!r} is no magnitude system{closest(system, SYSTEMS)}; use 'AB' or 'Vega'"
        raise UsageError(msg)
    if system == "AB":
        return AB_ZERO_MAGNITUDE if unit == "uJy" else 0.0
    zero_flux = VEGA_ZERO_FLUX.get(channel or "")
    if zero_flux is None or unit != "uJy":
        msg = (
            f"Vega magnitudes of channel {channel!r} (unit {unit!r}) are not defined: use 'AB', or "
            f"'Vega' for fluxes in uJy of {', '.join(VEGA_ZERO_FLUX)}"
        )
        raise UsageError(msg)
    return 2.5 * math.log10(zero_flux)


def _positive(flux: ArrayLike) -> Double:
    """Return flux in float64, NaN where it is not positive."""
    values = np.asarray(flux, dtype=np.float64)
    return np.where(values > 0, values, np.nan)


def magnitude(
    flux: ArrayLike, *, system: System = "AB", channel: str | None = None, unit: str = "uJy"
) -> Double:
    """Return magnitudes, ``zero - 2.5 log10(flux)``.

    Parameters
    ----------
    flux
        In `unit`, any shape.
    system, channel, unit
        See `zero_magnitude`.

    Returns
    -------
    ndarray of float64
        The same shape; NaN where the flux is not positive.

    Raises
    ------
    UsageError
        See `zero_magnitude`.

    Examples
    --------
    >>> magnitude([100.0, 1.0, -1.0]).round(3).tolist()
    [18.9, 23.9, nan]
    """
    zero = zero_magnitude(system, channel=channel, unit=unit)
    return np.asarray(zero - 2.5 * np.log10(_positive(flux)), dtype=np.float64)


def magnitude_error(flux: ArrayLike, flux_err: ArrayLike) -> Double:
    """Return errors of magnitudes, ``2.5 / ln 10 * flux_err / flux``, to first order.

    Parameters
    ----------
    flux, flux_err
        In the same unit, shapes that broadcast.

    Returns
    -------
    ndarray of float64
        NaN where the flux is not positive.
    """
    errors = np.asarray(flux_err, dtype=np.float64)
    return np.asarray(_MAG_PER_RELATIVE_ERROR * errors / _positive(flux), dtype=np.float64)


def magnitude_flag(flux: ArrayLike) -> NDArray[np.uint8]:
    """Say where there is a magnitude, and why not: `MAGNITUDE_FLAGS`.

    Parameters
    ----------
    flux
        Any shape.

    Returns
    -------
    ndarray of uint8
        0 where the flux is positive, 1 where it is zero or negative, 2 where it is NaN.

    Examples
    --------
    >>> magnitude_flag([1.0, -1.0, float("nan")]).tolist()
    [0, 1, 2]
    """
    values = np.asarray(flux)
    return np.where(values > 0, 0, np.where(np.isnan(values), 2, 1)).astype(np.uint8)


def ratio_to_magnitude(
    ratio: ArrayLike,
    ratio_err: ArrayLike,
    *,
    reference_flux: ArrayLike,
    reference_err: ArrayLike,
    system: System = "AB",
    channel: str | None = None,
    unit: str = "uJy",
) -> tuple[Double, Double, Double]:
    """Return magnitudes of ratios to a reference image, and their two errors apart.

    The flux is ``ratio * reference_flux``. The error of the ratio is new in every AOR; that of the
    reference shifts the whole lightcurve alike, so it must not be added to the scatter.

    Parameters
    ----------
    ratio, ratio_err
        Mosaic over superstack, and its error.
    reference_flux, reference_err
        The object's flux on the superstack of this channel, in `unit`, and its error; a shape that
        broadcasts against `ratio`.
    system, channel, unit
        See `zero_magnitude`.

    Returns
    -------
    tuple of ndarray of float64
        Magnitude, its random error, and the error common to all AORs; NaN where ratio or reference
        is not positive. The common error has the shape of the reference.

    Raises
    ------
    UsageError
        See `zero_magnitude`.

    Examples
    --------
    >>> mag, _, _ = ratio_to_magnitude([1, 0.1], [0, 0], reference_flux=1, reference_err=0)
    >>> mag.tolist()
    [23.9, 26.4]
    """
    reference = _positive(reference_flux)
    value = magnitude(_positive(ratio) * reference, system=system, channel=channel, unit=unit)
    return value, magnitude_error(ratio, ratio_err), magnitude_error(reference, reference_err)


def colour(mag1: ArrayLike, mag2: ArrayLike) -> Double:
    """Return a colour, ``mag1 - mag2``.

    Parameters
    ----------
    mag1, mag2
        Magnitudes of the same system in two channels, shapes that broadcast: AOR by AOR.

    Returns
    -------
    ndarray of float64
        NaN where one of the two is.

    Examples
    --------
    >>> colour([20.0], [19.5]).tolist()
    [0.5]
    """
    return np.asarray(
        np.asarray(mag1, dtype=np.float64) - np.asarray(mag2, dtype=np.float64), dtype=np.float64
    )


def colour_error(mag1_err: ArrayLike, mag2_err: ArrayLike) -> Double:
    """Return the error of a colour: both errors in quadrature.

    Parameters
    ----------
    mag1_err, mag2_err
        Errors of the two magnitudes, shapes that broadcast.

    Returns
    -------
    ndarray of float64
        NaN where one of the two is.

    Examples
    --------
    >>> colour_error([0.3], [0.4]).tolist()
    [0.5]
    """
    one: Any = np.asarray(mag1_err, dtype=np.float64)
    return np.asarray(np.hypot(one, np.asarray(mag2_err, dtype=np.float64)), dtype=np.float64)
