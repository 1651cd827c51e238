"""Times of Datasets of ours: ranges, bins, clipping and phases."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import xarray as xr

from idfzarr.analysis.dataset_parts import (
    BIN,
    MEASURED,
    replace_variables,
    require,
    time_dim,
    times_of_types,
)
from idfzarr.analysis.deferred import Along, deferred
from idfzarr.analysis.smoothing import (
    bin_flags,
    bin_numbers,
    bin_rows,
    clip,
)
from idfzarr.errors import UsageError, closest
from idfzarr.flags import BAD_FLAGS, flag_bit
from idfzarr.lightcurve import mjd_of

if TYPE_CHECKING:
    from astropy.time import Time
    from numpy.typing import NDArray

    from idfzarr.analysis.smoothing import BinMethod

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Flags: TypeAlias = NDArray[np.uint16]

__all__ = ["binned", "clipped", "days_of", "during", "phased"]

_DAYS = {"d": 1.0, "day": 1.0, "days": 1.0, "h": 1 / 24, "hr": 1 / 24, "hour": 1 / 24}
_DAYS |= {"hours": 1 / 24, "min": 1 / 1440, "w": 7.0, "week": 7.0, "weeks": 7.0}
_DAYS |= {"yr": 365.25, "y": 365.25, "year": 365.25, "years": 365.25}
_DURATION = re.compile(r"(?P<count>\d*\.?\d*)\s*(?P<unit>[a-zA-Z]*)")


def days_of(duration: str | float | Any) -> float:
    """Return a duration in days.

    Parameters
    ----------
    duration
        A number of days, text such as ``14D``, ``12 h`` or ``1 yr`` (a Julian year), a Quantity,
        a TimeDelta, or a timedelta of Python, numpy or pandas.

    Returns
    -------
    float
        Days, more than zero.

    Raises
    ------
    UsageError
        It is no duration.

    Examples
    --------
    >>> days_of("14D"), days_of("12h")
    (14.0, 0.5)
    """
    try:
        days = _days(duration)
    except (TypeError, ValueError) as error:
        msg = f"{duration!r} is no duration: write days, as 14, '14D', '12h' or '1yr'"
        raise UsageError(msg) from error
    if not (np.isfinite(days) and days > 0):
        msg = f"{duration!r} is no duration: it must be longer than zero, and finite"
        raise UsageError(msg)
    return days


def _days(duration: Any) -> float:
    if isinstance(duration, str):
        match = _DURATION.fullmatch(duration.strip())
        if match is None or not (match["count"] or match["unit"]):
            raise ValueError
        unit = match["unit"].lower() or "d"
        if unit not in _DAYS:
            msg = (
                f"{duration!r} is no duration{closest(unit, _DAYS)}: write days, as 14, '14D', "
                "'12h' or '1yr'"
            )
            raise UsageError(msg)
        return float(match["count"] or 1) * _DAYS[unit]
    if hasattr(duration, "to_value"):
        from astropy.units import UnitsError

        try:
            return float(duration.to_value("day"))
        except UnitsError as error:
            raise ValueError from error
    if isinstance(duration, np.timedelta64):
        return float(duration / np.timedelta64(1, "D"))
    if hasattr(duration, "total_seconds"):
        return float(duration.total_seconds()) / 86400
    return float(duration)


# ------------------------------------------------------------------ ranges


def during(
    dataset: xr.Dataset, start: str | float | Time | None, end: str | float | Time | None
) -> xr.Dataset:
    """Return the AORs from `start` up to, but without, `end`.

    Channels of one AOR were exposed minutes apart. An AOR is kept whole if the middle of the
    exposure lies in the range in any channel of the Dataset's types; with types of one channel that
    is what `idfzarr.lightcurve.Lightcurve.during` keeps.

    Parameters
    ----------
    dataset
        Of ours.
    start, end
        MJD (UTC), date, or astropy Time; None for an open end.

    Returns
    -------
    xarray.Dataset
        Fewer AORs, maybe none.

    Raises
    ------
    UsageError
        One of them is no date, or the end lies before the start.
    """
    first = -np.inf if start is None else mjd_of(start)
    last = np.inf if end is None else mjd_of(end)
    if np.isnan(first) or np.isnan(last):
        msg = f"the time range {start!r} to {end!r} has an end that is not a number"
        raise UsageError(msg)
    if last < first:
        msg = f"the time range {start!r} to {end!r} ends before it starts: swap the two"
        raise UsageError(msg)
    along = time_dim(dataset)
    if along is None:
        msg = "one AOR was selected from this Dataset: call during() before that"
        raise UsageError(msg)
    times = times_of_types(dataset)
    inside = (times >= first) & (times < last)
    return dataset.isel({along: np.flatnonzero(inside.any(axis=0))})


# ------------------------------------------------------------------ bins


_Value = Literal["flux", "flux_err", "flag", "n"]
_TYPES: dict[_Value, Any] = {
    "flux": np.float64,
    "flux_err": np.float64,
    "flag": np.uint16,
    "n": np.int32,
}


@dataclass(frozen=True, eq=False)
class _Binning:
    """What makes one of the values of bins of many lightcurves, (..., bin).

    Parameters
    ----------
    which
        The value.
    method
        See `idfzarr.analysis.smoothing.bin_rows`.
    drop
        Bits of the flags whose measurements are not used.
    bins
        Numbers of the bins, ascending.
    """

    which: _Value
    method: BinMethod
    drop: int
    bins: NDArray[np.int64]

    def __call__(
        self, flux: Floats, error: Floats, flag: Flags, number: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Bin lightcurves (..., aor), each with the numbers of its own channel's times."""
        shape = np.broadcast_shapes(flux.shape, number.shape)
        rows = [np.broadcast_to(one, shape).reshape(-1, shape[-1]) for one in (flux, error, flag)]
        numbers = np.broadcast_to(number, shape).reshape(-1, shape[-1])
        fill = {"flag": flag_bit("not_observed"), "n": 0}.get(self.which, np.nan)
        found = np.full((len(numbers), len(self.bins)), fill, dtype=_TYPES[self.which])
        unique, group = np.unique(numbers, axis=0, return_inverse=True)
        for k, own in enumerate(unique):
            mine = np.flatnonzero(group.reshape(-1) == k)
            at = np.searchsorted(self.bins, np.unique(own[own >= 0]))
            found[mine[:, None], at] = self._alike(*(one[mine] for one in rows), number=own)
        return found.reshape(*shape[:-1], len(self.bins))

    def _alike(
        self, flux: Any, error: Any, flag: Any, *, number: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Bin lightcurves that share their times."""
        usable = (flag & np.uint16(self.drop)) == 0
        if self.which == "flag":
            used = usable & np.isfinite(flux)
            if self.method == "weighted":
                used &= np.where(np.isfinite(error), error, 0) > 0
            return bin_flags(flag, used, number)
        found = bin_rows(flux, error, usable, number, method=self.method)
        return found[("flux", "flux_err", "n").index(self.which)]


def binned(
    dataset: xr.Dataset,
    width: str | float,
    *,
    method: BinMethod = "weighted",
    drop: int = BAD_FLAGS,
) -> xr.Dataset:
    """Return a Dataset of binned lightcurves.

    Parameters
    ----------
    dataset
        Of ours; calibrate it before.
    width
        Of the bins, see `days_of`; they are counted from MJD 0.
    method
        See `idfzarr.analysis.smoothing.bin_rows`.
    drop
        Bits of the flags whose measurements are not used.

    Returns
    -------
    xarray.Dataset
        ``flux``, ``flux_err`` (float64), ``flag`` and ``n`` along ``bin``, whose coordinate is the
        number of the bin, ``floor(mjd / width)``; ``mjd`` (bin, channel) is the mean time of the
        channel's AORs in the bin, ``bin_start`` where it begins. Only bins with an AOR are there.
        A flag tells of what was used, or, where nothing was, of everything in the bin.

    Raises
    ------
    UsageError
        The width is no duration, there is no such method, or the lightcurves were binned before.
    """
    require(dataset, "flux", "flux_err", "flag", "mjd")
    if time_dim(dataset) != "aor":
        msg = "these lightcurves are binned already, or of one AOR: bin what idfzarr.open gives"
        raise UsageError(msg)
    bin_rows(np.empty((0, 0)), np.empty((0, 0)), None, np.empty(0, np.int64), method=method)
    days = days_of(width)
    by_type = bin_numbers(times_of_types(dataset), width=days)
    numbers = np.unique(by_type[by_type >= 0])
    dims = ("type", "aor") if "type" in dataset.dims else ("aor",)
    own = xr.Variable(dims, by_type if len(dims) == 2 else by_type[0])
    flux, error, flag = (dataset.variables[name] for name in ("flux", "flux_err", "flag"))
    along = Along("aor", BIN, len(numbers))

    def of(which: _Value, attrs: dict[str, Any]) -> xr.Variable:
        function = _Binning(which, method, drop, numbers)
        return deferred(
            function, flux, error, flag, own, dtype=_TYPES[which], along=along, attrs=attrs
        )

    made = {
        "flux": of("flux", flux.attrs),
        "flux_err": of("flux_err", error.attrs),
        "flag": of("flag", flag.attrs),
        "n": of("n", {"long_name": "number of measurements in the bin"}),
    }
    kept = {
        name: one.variable
        for name, one in dataset.coords.items()
        if "aor" not in one.dims and name != "aor"
    }
    found = xr.Dataset(made, kept, dataset.attrs | {"bin_width": days, "bin_method": method})
    found = found.assign_coords(_bin_coordinates(dataset, numbers, days))
    found.encoding = dict(dataset.encoding)
    return found


def _bin_coordinates(
    dataset: xr.Dataset, numbers: NDArray[np.int64], days: float
) -> dict[str, xr.Variable]:
    mjd = dataset.variables["mjd"]
    times = mjd.transpose("aor", ...).to_numpy().astype(np.float64).reshape(mjd.sizes["aor"], -1)
    means = np.full((len(numbers), times.shape[1]), np.nan)
    for k in range(times.shape[1]):
        own = bin_numbers(times[:, k], width=days)
        found, _, n = bin_rows(
            times[:, k], np.ones(len(times)), np.isin(own, numbers), own, method="mean"
        )
        held = np.unique(own[own >= 0])
        inside = np.isin(held, numbers) & (n > 0)
        means[np.searchsorted(numbers, held[inside]), k] = found[inside]
    dims = (BIN, "channel") if "channel" in mjd.dims else (BIN,)
    told = dict(mjd.attrs) | {"long_name": "mean mid-exposure of the AORs in the bin, MJD UTC"}
    return {
        BIN: xr.Variable(BIN, numbers, {"long_name": f"bin of {days:g} d, counted from MJD 0"}),
        "bin_start": xr.Variable(
            BIN, numbers * days, {"long_name": "begin of the bin, MJD UTC", "units": "d"}
        ),
        "mjd": xr.Variable(dims, means if len(dims) == 2 else means[:, 0], told),
    }


# ------------------------------------------------------------------ clipping


def _clipped(
    sigma: float, window: float | None, flux: Floats, error: Floats, mjd: Double
) -> NDArray[np.bool_]:
    """Return which measurements are clipped, lightcurve by lightcurve."""
    shape = np.broadcast_shapes(flux.shape, error.shape, mjd.shape)
    rows = [np.broadcast_to(one, shape).reshape(-1, shape[-1]) for one in (flux, error, mjd)]
    found = np.zeros(rows[0].shape, dtype=np.bool_)
    for k, (values, errors, times) in enumerate(zip(*rows, strict=True)):
        kept = clip(times, values, sigma=sigma, window=window, error=errors)
        found[k] = ~kept & np.isfinite(values) & np.isfinite(times)
    return found.reshape(shape)


def _without(values: Floats, dropped: NDArray[np.bool_]) -> Floats:
    return np.where(dropped, np.asarray(np.nan, dtype=values.dtype), values)


def clipped(dataset: xr.Dataset, sigma: float, window: str | float | None = None) -> xr.Dataset:
    """Return a Dataset whose outliers are NaN; see `idfzarr.analysis.smoothing.clip`.

    Parameters
    ----------
    dataset
        Of ours. Flagged measurements count unless `good` was called before.
    sigma
        How far from the running median, in units of the larger of robust scatter and own error.
    window
        Full width of the running window, see `days_of`; the whole lightcurve if None.

    Returns
    -------
    xarray.Dataset
        As long as before; ``clipped`` says which measurements went.

    Raises
    ------
    UsageError
        `sigma` is not positive, or the window is no duration.
    """
    require(dataset, "flux", "flux_err", "mjd")
    along = time_dim(dataset)
    if along is None:
        msg = "one AOR was selected from this Dataset: a point alone has no outliers"
        raise UsageError(msg)
    days = None if window is None else days_of(window)
    clip([], [], sigma=sigma, window=days)  # refuse now what would be refused on reading
    times = times_of_types(dataset)
    dims = ("type", along) if "type" in dataset.dims else (along,)
    mjd = xr.Variable(dims, times if len(dims) == 2 else times[0])
    flux = dataset.variables["flux"]
    dropped = deferred(
        partial(_clipped, sigma, days),
        flux,
        dataset.variables["flux_err"],
        mjd,
        dtype=np.bool_,
        along=Along(along, along, dataset.sizes[along]),
        attrs={"long_name": f"more than {sigma:g} sigma from the running median"},
    )
    made = {
        name: deferred(_without, one, dropped, dtype=one.dtype, attrs=one.attrs)
        for name in MEASURED
        if name in dataset.data_vars
        and set((one := dataset.variables[name]).dims) == set(flux.dims)
    }
    return replace_variables(dataset, made | {"clipped": dropped})


# ------------------------------------------------------------------ phases


def phased(
    dataset: xr.Dataset, period: float, *, epoch: str | float | Time | None = None
) -> xr.Dataset:
    """Return a Dataset with the phase of each time as a coordinate.

    Parameters
    ----------
    dataset
        Of ours.
    period
        Days.
    epoch
        Phase 0, as `start` of `during`; the first time of the Dataset if None.

    Returns
    -------
    xarray.Dataset
        With ``phase``, 0 to less than 1, of the dimensions of ``mjd``; nothing is sorted.

    Raises
    ------
    UsageError
        The period is not positive, or the epoch is no date.
    """
    from idfzarr.analysis.period import fold

    require(dataset, "mjd")
    mjd = dataset.variables["mjd"]
    times = mjd.to_numpy().astype(np.float64)
    known = times[np.isfinite(times)]
    first = float(known.min()) if known.size else 0.0
    zero = first if epoch is None else mjd_of(epoch)
    phase = fold(times, period, epoch=zero)
    told = {"long_name": f"phase of period {period:g} d, epoch MJD {zero:.6f}", "units": "1"}
    return dataset.assign_coords(phase=(mjd.dims, phase, told))
