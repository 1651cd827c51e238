"""One object's measurements of one type, AOR by AOR."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.errors import MissingExtra, UsageError
from idfzarr.flags import BAD_FLAGS, flag_mask, flag_masks, flag_meanings

if TYPE_CHECKING:
    from collections.abc import Iterable

    import xarray as xr
    from astropy.table import Table
    from astropy.time import Time
    from astropy.timeseries import TimeSeries
    from numpy.typing import NDArray

    Float = NDArray[np.float32] | NDArray[np.float64]

__all__ = ["AB_ZERO_MAGNITUDE", "VEGA_ZERO_FLUX", "Lightcurve", "imported_lightkurve", "mjd_of"]

AB_ZERO_MAGNITUDE = 23.9
"""AB magnitude of 1 microjansky: 2.5 log10(3631 Jy / 1 uJy), Oke & Gunn 1983, ApJ 266, 713."""

VEGA_ZERO_FLUX: dict[str, float] = {"ch1": 280.9e6, "ch2": 179.7e6}
"""Microjansky of a Vega magnitude of zero: IRAC Instrument Handbook, section 4.8."""

_MAG_PER_RELATIVE_ERROR = 2.5 / math.log(10.0)


def mjd_of(moment: str | float | Time) -> float:
    """Return the MJD (UTC) of a date.

    Parameters
    ----------
    moment
        An MJD, a date such as ``2005-01-01`` or ``2005-01-01T12:00``, or an astropy Time.

    Returns
    -------
    float
        Modified Julian Date, UTC, in days.

    Raises
    ------
    UsageError
        It is no date.

    Examples
    --------
    >>> mjd_of("2005-01-01")
    53371.0
    """
    if isinstance(moment, int | float | np.integer | np.floating):
        return float(moment)
    from astropy.time import Time

    try:
        time = moment if isinstance(moment, Time) else Time(str(moment), scale="utc")
        return float(time.utc.mjd)
    except (ValueError, TypeError) as error:
        msg = f"{moment!r} is no date: give an MJD, a date such as 2005-01-01, or an astropy Time"
        raise UsageError(msg) from error


def imported_lightkurve() -> Any:
    """Return lightkurve, which is optional.

    Raises
    ------
    MissingExtra
        It is not installed.
    """
    try:
        with warnings.catch_warnings():
            # It warns of its own optional packages, which nobody needs for lightcurves.
            warnings.simplefilter("ignore", UserWarning)
            import lightkurve
    except ImportError as error:
        msg = f"lightkurve cannot be imported ({error}): pip install lightkurve"
        raise MissingExtra(msg) from error
    return lightkurve


@dataclass(frozen=True, repr=False, eq=False)
class Lightcurve:
    """One object's measurements of one type.

    Attributes
    ----------
    object_id
        The object's stable id.
    type
        Name of the measurement type.
    aor
        Reqkeys, (aor,).
    mjd
        Mid-exposure, UTC, days, (aor,).
    flux, flux_err
        As stored, in `unit`, (aor,); NaN where there is none, and then `flag` says why.
    flag
        Bits of `idfzarr.flags.FLAGS`, (aor,).
    unit
        Unit of flux, an astropy unit string (``uJy``).
    zeropoint, zeropoint_err
        Ensemble zero point and its error, magnitudes, (aor,); None where there is none.
    noise_scale
        How many times `flux_err` the true error is, (aor,); None where not known.
    bjd_tdb
        Barycentric Julian Date, TDB, days, (aor,); None where the headers do not allow it.
    ra, dec
        Degrees, ICRS; NaN where the frames have no WCS.
    is_calibrated
        Whether `calibrated` has been applied.

    Examples
    --------
    >>> lc = Lightcurve(
    ...     object_id=7,
    ...     type="ch1_aper2_original",
    ...     aor=np.array([1, 2]),
    ...     mjd=np.array([53000.0, 53010.0]),
    ...     flux=np.array([10.0, 12.0], dtype=np.float32),
    ...     flux_err=np.array([1.0, 1.0], dtype=np.float32),
    ...     flag=np.array([0, 8], dtype=np.uint16),
    ...     unit="uJy",
    ... )
    >>> len(lc.good())
    1
    """

    object_id: int
    type: str
    aor: NDArray[np.int64]
    mjd: NDArray[np.float64]
    flux: NDArray[np.float32]
    flux_err: NDArray[np.float32]
    flag: NDArray[np.uint16]
    unit: str = "uJy"
    zeropoint: NDArray[np.float32] | None = None
    zeropoint_err: NDArray[np.float32] | None = None
    noise_scale: NDArray[np.float32] | None = None
    bjd_tdb: NDArray[np.float64] | None = None
    ra: float = math.nan
    dec: float = math.nan
    is_calibrated: bool = False

    @property
    def channel(self) -> str:
        """The channel it was measured in."""
        return self.type.split("_", 1)[0]

    @property
    def time(self) -> Time:
        """Mid-exposure as an astropy Time, UTC."""
        from astropy.time import Time

        return Time(self.mjd, format="mjd", scale="utc")

    @property
    def mag(self) -> NDArray[np.float64]:
        """AB magnitude, instrumental where flux is not in uJy; NaN where it is not positive."""
        return self.magnitude("AB")

    @property
    def mag_err(self) -> NDArray[np.float64]:
        """Error of the magnitude, ``1.0857 flux_err / flux``; NaN where flux is not positive."""
        flux = np.where(self.flux > 0, self.flux, np.nan).astype(np.float64)
        return _MAG_PER_RELATIVE_ERROR * self.flux_err.astype(np.float64) / flux

    def magnitude(self, system: Literal["AB", "Vega"] = "AB") -> NDArray[np.float64]:
        """Return magnitudes.

        Parameters
        ----------
        system
            ``AB``, or ``Vega`` for the IRAC channels (Handbook 4.8).

        Returns
        -------
        ndarray of float64
            (aor,); NaN where the flux is not positive.

        Raises
        ------
        UsageError
            No Vega zero flux is known for the channel, or the flux has no such unit.
        """
        flux = np.where(self.flux > 0, self.flux, np.nan).astype(np.float64)
        if system == "AB":
            zero = AB_ZERO_MAGNITUDE if self.unit == "uJy" else 0.0
            return zero - 2.5 * np.log10(flux)
        zero_flux = {"Vega": VEGA_ZERO_FLUX}.get(system, {}).get(self.channel)
        if zero_flux is None or self.unit != "uJy":
            known = ", ".join(VEGA_ZERO_FLUX)
            msg = (
                f"{system!r} magnitudes of {self.type} (unit {self.unit!r}) are not defined: "
                f"use 'AB', or 'Vega' for fluxes in uJy of {known}"
            )
            raise UsageError(msg)
        return -2.5 * np.log10(flux / zero_flux)

    def good(self, *, drop: Iterable[str] | None = None) -> Lightcurve:
        """Keep the measurements that are fit to use.

        Parameters
        ----------
        drop
            Names of the flags to drop; those marked bad in `idfzarr.flags.FLAGS` unless given.

        Returns
        -------
        Lightcurve
            Without flagged measurements and without NaN flux.
        """
        mask = BAD_FLAGS if drop is None else flag_mask(drop)
        return self._where(((self.flag & mask) == 0) & np.isfinite(self.flux))

    def during(self, start: str | float | Time, end: str | float | Time) -> Lightcurve:
        """Keep the AORs from `start` up to, but without, `end`.

        Parameters
        ----------
        start, end
            MJD (UTC), date, or astropy Time.

        Returns
        -------
        Lightcurve
            The measurements with ``start <= mjd < end``.

        Raises
        ------
        UsageError
            One of them is no date, or the end lies before the start.
        """
        first, last = mjd_of(start), mjd_of(end)
        if last < first:
            msg = f"the time range {start!r} to {end!r} ends before it starts: swap the two"
            raise UsageError(msg)
        return self._where((self.mjd >= first) & (self.mjd < last))

    def calibrated(self) -> Lightcurve:
        """Apply the ensemble zero point and the noise scale.

        ``flux 10**(0.4 zeropoint)``; errors times the noise scale, with the zero point's own
        error added in quadrature. Calling it twice changes nothing more.

        Returns
        -------
        Lightcurve
            Calibrated; the same where the cube has no calibration.
        """
        if self.is_calibrated:
            return self
        factor = np.ones(len(self)) if self.zeropoint is None else _factor(self.zeropoint)
        scale = np.ones(len(self)) if self.noise_scale is None else _filled(self.noise_scale, 1.0)
        flux = self.flux.astype(np.float64) * factor
        error = self.flux_err.astype(np.float64) * scale * factor
        if self.zeropoint_err is not None:
            error = np.hypot(
                error, flux * _filled(self.zeropoint_err, 0.0) / _MAG_PER_RELATIVE_ERROR
            )
        return replace(
            self,
            flux=flux.astype(np.float32),
            flux_err=error.astype(np.float32),
            is_calibrated=True,
        )

    def to_table(self) -> Table:
        """Return an astropy QTable: aor, time, flux, flux_err, mag, mag_err, flag."""
        from astropy import units
        from astropy.table import QTable

        unit = units.Unit(self.unit) if self.unit else units.dimensionless_unscaled
        table = QTable(
            {
                "aor": self.aor,
                "time": self.time,
                "mjd": self.mjd * units.day,
                "flux": self.flux * unit,
                "flux_err": self.flux_err * unit,
                "mag": self.mag,
                "mag_err": self.mag_err,
                "flag": self.flag,
            }
        )
        table.meta.update(
            object=self.object_id,
            type=self.type,
            ra=self.ra,
            dec=self.dec,
            calibrated=self.is_calibrated,
        )
        return table

    def to_timeseries(self) -> TimeSeries:
        """Return an astropy TimeSeries of flux, flux_err and flag."""
        from astropy.timeseries import TimeSeries

        table = self.to_table()
        series = TimeSeries(time=table["time"], meta=dict(table.meta))
        for name in ("aor", "flux", "flux_err", "mag", "mag_err", "flag"):
            series[name] = table[name]
        return series

    def to_lightkurve(self) -> Any:
        """Return a ``lightkurve.LightCurve`` of time (UTC), flux, flux_err, quality and aor.

        ``quality`` is `flag`: 0 for none. Flux keeps its unit and its bits.

        Raises
        ------
        MissingExtra
            lightkurve is not installed.
        """
        from astropy import units

        unit = units.Unit(self.unit) if self.unit else units.dimensionless_unscaled
        curve = imported_lightkurve().LightCurve(
            time=self.time, flux=self.flux * unit, flux_err=self.flux_err * unit
        )
        curve["quality"] = self.flag.astype(np.int32)
        curve["aor"] = self.aor
        curve.meta.update(
            LABEL=f"{self.object_id} {self.type}",
            OBJECT=self.object_id,
            TYPE=self.type,
            RA=self.ra,
            DEC=self.dec,
            CALIBRATED=self.is_calibrated,
        )
        return curve

    def to_xarray(self) -> xr.Dataset:
        """Return an xarray Dataset along ``aor`` with CF attributes."""
        import xarray as xr

        flags = {"flag_masks": flag_masks(), "flag_meanings": flag_meanings()}
        related = {"units": self.unit, "ancillary_variables": "flux_err flag"}
        return xr.Dataset(
            {
                "flux": ("aor", self.flux, related),
                "flux_err": ("aor", self.flux_err, {"units": self.unit}),
                "flag": ("aor", self.flag, flags),
            },
            coords={
                "aor": ("aor", self.aor, {"long_name": "AOR reqkey"}),
                "mjd": ("aor", self.mjd, {"units": "d", "long_name": "mid-exposure, MJD UTC"}),
            },
            attrs={
                "object": self.object_id,
                "type": self.type,
                "ra": self.ra,
                "dec": self.dec,
                "calibrated": int(self.is_calibrated),
            },
        )

    def _where(self, keep: NDArray[np.bool_]) -> Lightcurve:
        along = ("zeropoint", "zeropoint_err", "noise_scale", "bjd_tdb")
        optional = {
            name: value[keep] for name in along if (value := getattr(self, name)) is not None
        }
        return replace(
            self,
            aor=self.aor[keep],
            mjd=self.mjd[keep],
            flux=self.flux[keep],
            flux_err=self.flux_err[keep],
            flag=self.flag[keep],
            **optional,
        )

    def __len__(self) -> int:
        return len(self.aor)

    def __repr__(self) -> str:
        finite = np.isfinite(self.flux)
        span = f", MJD {self.mjd.min():.2f} to {self.mjd.max():.2f}" if len(self) else ""
        middle = f", median {np.median(self.flux[finite]):.4g} {self.unit}" if finite.any() else ""
        return (
            f"<Lightcurve of object {self.object_id}, {self.type}: {len(self)} AORs, "
            f"{int(finite.sum())} measured{span}{middle}>"
        )


def _filled(values: Float, fill: float) -> NDArray[np.float64]:
    """Return values with `fill` where they are not finite: no calibration, not a wrong one."""
    return np.where(np.isfinite(values), values, fill).astype(np.float64)


def _factor(zeropoint: Float) -> NDArray[np.float64]:
    return np.asarray(10.0 ** (0.4 * _filled(zeropoint, 0.0)))
