"""The accessor ``ds.idf``: what astronomers ask of a Dataset of lightcurves.

::

    ds = idfzarr.open("field.zarr")
    near = ds.idf.cone("17h40m00s +69d00m00s", radius="30 arcsec")
    mags = near.idf.calibrated().idf.good().idf.mag(system="Vega")
    ds.idf.lightcurve(12345, "ch1_auto_original").to_table()

Each method gives a new Dataset, as lazy as the one before, with all that xarray can do to it; or,
where one lightcurve is asked for, that. The work is done by functions on arrays that know no
Dataset: `idfzarr.analysis.sky_search`, ``magnitude``, ``smoothing``, ``variability``, ``period``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from idfzarr.analysis import (
    dataset_brightness,
    dataset_lightcurve,
    dataset_sky,
    dataset_time,
)
from idfzarr.analysis.dataset_parts import object_ids, require, row_of, type_names
from idfzarr.measurement import select_types

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from astropy.time import Time
    from astropy.timeseries import TimeSeries

    from idfzarr.analysis.magnitude import System
    from idfzarr.analysis.period import Periodogram
    from idfzarr.analysis.sky_search import Angle
    from idfzarr.analysis.smoothing import BinMethod
    from idfzarr.lightcurve import Lightcurve

__all__ = ["IdfAccessor"]


@xr.register_dataset_accessor("idf")  # type: ignore[no-untyped-call]
class IdfAccessor:
    """Questions to a Dataset that `idfzarr.open` gave, or to a selection of it.

    Parameters
    ----------
    dataset
        The Dataset; xarray gives it.

    Examples
    --------
    >>> import idfzarr
    >>> ds = idfzarr.open("field.zarr")  # doctest: +SKIP
    >>> ds.idf.types("ch2_*").idf.good().idf.bin("14D")  # doctest: +SKIP
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        # nothing is refused here: a name that is merely completed must not raise
        self._dataset = dataset

    # ------------------------------------------------------------ choose

    def types(self, wanted: str | Iterable[str]) -> xr.Dataset:
        """Choose measurement types by name or glob.

        Parameters
        ----------
        wanted
            A name or glob, several of them, or one string with commas.

        Returns
        -------
        xarray.Dataset
            Those types, in the order of the Dataset.

        Raises
        ------
        UnknownName
            A name or glob matches nothing; the closest names are told.
        """
        names = type_names(self._dataset)
        chosen = set(select_types(names, wanted))
        if "type" not in self._dataset.dims:
            return self._dataset
        return self._dataset.isel(type=[k for k, name in enumerate(names) if name in chosen])

    def objects(self, ids: int | Iterable[int]) -> xr.Dataset:
        """Choose objects by id.

        Parameters
        ----------
        ids
            One id or several.

        Returns
        -------
        xarray.Dataset
            Those objects, in the order of `ids`.

        Raises
        ------
        UnknownName
            There is no such object; the nearest ids are told.
        """
        several = list(ids) if hasattr(ids, "__iter__") else [ids]
        rows = [row_of(self._dataset, one) for one in several]
        return self._dataset.isel(object=rows) if "object" in self._dataset.dims else self._dataset

    def cone(self, *centre: Any, radius: Angle) -> xr.Dataset:
        """Choose the objects within a cone on the sky, the nearest first.

        Right at the poles and across right ascension 0.

        Parameters
        ----------
        *centre
            A SkyCoord, text such as ``17h40m00s +69d00m00s``, or right ascension and declination in
            degrees, as a pair or one after the other.
        radius
            Arcseconds, text such as ``30 arcsec``, or a Quantity; the rim belongs to the cone.

        Returns
        -------
        xarray.Dataset
            With the coordinate ``separation`` in arcseconds; without objects where none is near.

        Raises
        ------
        NoSkyCoordinates
            The field has no sky coordinates.
        UsageError
            The centre is no position, or the radius no angle.
        """
        return dataset_sky.cone(self._dataset, centre, radius)

    def nearest(self, *centre: Any, n: int = 1) -> xr.Dataset:
        """Choose the objects nearest to a position, the nearest first.

        Parameters
        ----------
        *centre
            As in `cone`.
        n
            How many at most.

        Returns
        -------
        xarray.Dataset
            With the coordinate ``separation`` in arcseconds.

        Raises
        ------
        NoSkyCoordinates
            The field has no sky coordinates.
        UsageError
            The centre is no position, or `n` is below 1.
        """
        return dataset_sky.nearest(self._dataset, centre, n)

    def box(
        self,
        *,
        ra: Sequence[float] | slice | None = None,
        dec: Sequence[float] | slice | None = None,
        x: Sequence[float] | slice | None = None,
        y: Sequence[float] | slice | None = None,
    ) -> xr.Dataset:
        """Choose the objects in a box on the sky or of pixels, the edges included.

        Parameters
        ----------
        ra
            Two ends in degrees, eastward from the first to the second: (359, 1) is two degrees
            wide.
        dec
            Two ends in degrees; None for an open end.
        x, y
            Two ends in superstack pixels.

        Returns
        -------
        xarray.Dataset
            In the order of the Dataset; without objects where none is in it.

        Raises
        ------
        UsageError
            A range ends before it begins, or there is none.
        """
        return dataset_sky.box(self._dataset, ra=ra, dec=dec, x=x, y=y)

    def crossmatch(self, table: Any, radius: Angle) -> xr.Dataset:
        """Choose the objects that a table of positions has.

        Parameters
        ----------
        table
            An astropy Table, a DataFrame or a dict with columns of positions (``ra``, ``dec``), a
            SkyCoord of many, or two arrays in degrees.
        radius
            As in `cone`; the farthest match that counts.

        Returns
        -------
        xarray.Dataset
            In the order of the table, with the coordinates ``table_row`` and ``separation``. An
            object nearest to several rows belongs to the nearest of them.

        Raises
        ------
        NoSkyCoordinates
            The field has no sky coordinates.
        UsageError
            The table has no positions, or the radius is no angle.
        """
        return dataset_sky.crossmatch(self._dataset, table, radius)

    def during(
        self, start: str | float | Time | None = None, end: str | float | Time | None = None
    ) -> xr.Dataset:
        """Choose the AORs from `start` up to, but without, `end`.

        Channels of one AOR were exposed minutes apart; an AOR is kept whole if any channel of the
        Dataset's types was exposed in the range.

        Parameters
        ----------
        start, end
            MJD (UTC), date such as ``2005-01-01``, or astropy Time; None for an open end.

        Returns
        -------
        xarray.Dataset
            Fewer AORs, maybe none.

        Raises
        ------
        UsageError
            One of them is no date, or the end lies before the start.
        """
        return dataset_time.during(self._dataset, start, end)

    def good(self, flags: str | Iterable[str] | None = None) -> xr.Dataset:
        """Put NaN for flux, and all that is made of it, where a measurement is not fit to use.

        Parameters
        ----------
        flags
            Names of the flags to drop; those marked bad in `idfzarr.FLAGS` if None.

        Returns
        -------
        xarray.Dataset
            As long as before; ``flag`` goes on saying why.

        Raises
        ------
        UnknownName
            There is no flag of that name.
        """
        return dataset_brightness.good(self._dataset, flags)

    # ------------------------------------------------------------ brightness

    def calibrated(self) -> xr.Dataset:
        """Apply the ensemble zero points and the noise scale.

        Returns
        -------
        xarray.Dataset
            As `Lightcurve.calibrated`, for all lightcurves; twice changes nothing more.

        Raises
        ------
        UsageError
            The lightcurves were binned before.
        """
        return dataset_brightness.calibrated(self._dataset)

    def mag(self, system: System = "AB") -> xr.Dataset:
        """Add magnitudes.

        Parameters
        ----------
        system
            ``AB``, or ``Vega`` for the IRAC channels.

        Returns
        -------
        xarray.Dataset
            With ``mag``, ``mag_err`` and ``mag_flag``: 1 where a flux is not positive and has no
            magnitude, 2 where there is no flux.

        Raises
        ------
        UsageError
            There is no such system for a channel, or a type is a ratio (see `ratio_to_mag`).
        """
        return dataset_brightness.magnitudes(self._dataset, system)

    def ratio_to_mag(
        self,
        reference_flux: Mapping[str, Any] | None = None,
        reference_err: Mapping[str, Any] | None = None,
        *,
        system: System = "AB",
        unit: str = "uJy",
    ) -> xr.Dataset:
        """Add magnitudes to ratio types, each channel with its own reference.

        Parameters
        ----------
        reference_flux, reference_err
            For each channel by name the objects' flux on the superstack and its error, one number
            or (object,); the Kron fluxes of the store's catalogue if None.
        system
            ``AB`` or ``Vega``.
        unit
            Unit of the reference; the store's own where that gives it.

        Returns
        -------
        xarray.Dataset
            With ``mag``, ``mag_err`` (of the ratio alone), ``mag_err_reference`` (common to all
            AORs of a lightcurve) and ``mag_flag``.

        Raises
        ------
        UsageError
            A type is no ratio, or there is no reference.
        """
        require(self._dataset, "flux", "flux_err")
        if reference_flux is None:
            found = dataset_lightcurve.reference_of_store(self._dataset)
            reference_flux, reference_err, unit = found
        return dataset_brightness.ratio_magnitudes(
            self._dataset, reference_flux, reference_err, system=system, unit=unit
        )

    def colour(self, first: str, second: str, *, system: System = "AB") -> xr.Dataset:
        """Return colours, AOR by AOR.

        Parameters
        ----------
        first, second
            Channels; magnitudes in the first less those in the second.
        system
            ``AB`` or ``Vega``, where the Dataset has no magnitudes yet.

        Returns
        -------
        xarray.Dataset
            ``colour`` and ``colour_err`` (object, method, aor) for each method and image that both
            channels have, such as ``aper2_clean``.

        Raises
        ------
        UnknownName
            There is no type of a channel.
        UsageError
            The two have no type in common.
        """
        return dataset_brightness.colours(self._dataset, first, second, system=system)

    # ------------------------------------------------------------ time

    def bin(self, width: str | float, *, method: BinMethod = "weighted") -> xr.Dataset:
        """Bin lightcurves in time; measurements with bad flags are not used.

        Parameters
        ----------
        width
            Days, text such as ``14D``, or a Quantity; bins are counted from MJD 0.
        method
            ``weighted`` by 1/flux_err**2, ``mean`` or ``median``.

        Returns
        -------
        xarray.Dataset
            ``flux``, ``flux_err``, ``flag`` and ``n`` (object, type, bin).

        Raises
        ------
        UsageError
            The width is no duration, or there is no such method.
        """
        return dataset_time.binned(self._dataset, width, method=method)

    def clip(self, sigma: float = 5.0, window: str | float | None = None) -> xr.Dataset:
        """Put NaN for outliers.

        Parameters
        ----------
        sigma
            How far from the running median, in units of the larger of the robust scatter and the
            measurement's own error.
        window
            Full width of the running window, as in `bin`; the whole lightcurve if None.

        Returns
        -------
        xarray.Dataset
            As long as before, with ``clipped``.

        Raises
        ------
        UsageError
            `sigma` is not positive, or the window is no duration.
        """
        return dataset_time.clipped(self._dataset, sigma, window)

    def fold(self, period: float, *, epoch: str | float | Time | None = None) -> xr.Dataset:
        """Add the phase of every time.

        Parameters
        ----------
        period
            Days.
        epoch
            Phase 0, a time as in `during`; the first time of the Dataset if None.

        Returns
        -------
        xarray.Dataset
            With the coordinate ``phase``, 0 to 1, along the dimensions of ``mjd``.

        Raises
        ------
        UsageError
            The period is not positive, or the epoch is no date.
        """
        return dataset_time.phased(self._dataset, period, epoch=epoch)

    # ------------------------------------------------------------ lightcurves

    def lightcurve(self, object_id: int | None = None, type: str | None = None) -> Lightcurve:
        """Return one lightcurve, as it is in this Dataset.

        Parameters
        ----------
        object_id, type
            Which; may be left out where the Dataset has one only.

        Returns
        -------
        Lightcurve
            Calibrated, selected or binned as the Dataset is.

        Raises
        ------
        UnknownName
            The Dataset has no such object or type; the nearest are told.
        UsageError
            It has several, and none was named.
        """
        return dataset_lightcurve.lightcurve(self._dataset, object_id, type)

    def lightcurves(
        self, ids: Iterable[int] | None = None, types: str | Iterable[str] = "*"
    ) -> list[Lightcurve]:
        """Return many lightcurves, object by object and type by type.

        Parameters
        ----------
        ids
            Of the objects; all of the Dataset if None.
        types
            Names or globs.

        Returns
        -------
        list of Lightcurve
            As `lightcurve` gives them.

        Raises
        ------
        UnknownName
            The Dataset has no such object, or no type matches.
        """
        wanted = object_ids(self._dataset).tolist() if ids is None else list(ids)
        chosen = self.types(types)
        loaded = IdfAccessor(chosen).objects(wanted).load()
        names = type_names(loaded)
        return [
            dataset_lightcurve.lightcurve(loaded, one, name) for one in wanted for name in names
        ]

    def variability(self, statistics: str | Iterable[str] | None = None) -> xr.Dataset:
        """Compute statistics of every lightcurve; measurements with bad flags do not count.

        The store's group ``variability`` has them for all AORs as stored; this computes them of
        what is selected here, calibrated if it is.

        Parameters
        ----------
        statistics
            Names, see `idfzarr.analysis.variability.STATISTICS`; all if None.

        Returns
        -------
        xarray.Dataset
            (object, type); Dask's where the Dataset is not in memory.

        Raises
        ------
        UnknownName
            There is no such statistic; the closest are told.
        """
        return dataset_lightcurve.variability(self._dataset, statistics)

    def periodogram(
        self, object_id: int | None = None, type: str | None = None, **how: Any
    ) -> Periodogram:
        """Compute the periodogram of one lightcurve's good measurements.

        Parameters
        ----------
        object_id, type
            As in `lightcurve`.
        **how
            See `idfzarr.analysis.period.periodogram`: ``method``, ``shortest``, ``longest``, ...

        Returns
        -------
        Periodogram
            Frequencies, power and the highest peaks.

        Raises
        ------
        UnknownName
            The Dataset has no such object or type.
        UsageError
            There are too few points.
        """
        from idfzarr.analysis.period import periodogram

        one = self.lightcurve(object_id, type).good()
        return periodogram(one.mjd, one.flux, one.flux_err, **how)

    def to_timeseries(self, object_id: int | None = None, type: str | None = None) -> TimeSeries:
        """Return one lightcurve as an astropy TimeSeries; see `lightcurve`."""
        return self.lightcurve(object_id, type).to_timeseries()

    def to_lightkurve(self, object_id: int | None = None, type: str | None = None) -> Any:
        """Return one lightcurve as a lightkurve LightCurve; see `lightcurve`.

        Raises
        ------
        MissingExtra
            lightkurve is not installed.
        """
        return self.lightcurve(object_id, type).to_lightkurve()

    def __repr__(self) -> str:
        dataset = self._dataset
        sizes = ", ".join(f"{size} along {dim}" for dim, size in dataset.sizes.items())
        methods = sorted(name for name in vars(IdfAccessor) if not name.startswith("_"))
        return f"<idf of a Dataset, {sizes or 'empty'}: {', '.join(methods)}>"
