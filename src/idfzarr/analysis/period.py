"""Periods of lightcurves: periodograms, the peaks in them, and folding.

`periodogram` is the Lomb-Scargle periodogram of astropy (VanderPlas 2018, ApJS 236, 16), or the
same from nifty-ls (Garrison et al. 2024, RNAAS 8, 250) where that is asked for. `box_periodogram`
looks for eclipses (Kovács, Zucker and Mazeh 2002, A&A 391, 369) and `multiband_periodogram` for one
period in several channels (VanderPlas and Ivezić 2015, ApJ 812, 18). What a star with two unequal
minima turns in is not the period of the highest peak, but twice that:
`idfzarr.analysis.period_search.find_period` settles it.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from idfzarr.analysis.period_grid import (
    OVERSAMPLING,
    Samples,
    frequency_grid,
    period_limits,
    refuse_unusable,
    usable_samples,
)
from idfzarr.analysis.period_peaks import (
    false_alarm_log10,
    highest_peaks,
    refined_peak,
    window_power,
)
from idfzarr.errors import MissingExtra, UnknownName, UsageError, closest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]

__all__ = [
    "METHODS",
    "Method",
    "Peak",
    "Periodogram",
    "box_periodogram",
    "fold",
    "has_nifty_ls",
    "multiband_periodogram",
    "periodogram",
]

Method: TypeAlias = Literal["lomb-scargle", "nifty-ls", "box"]

METHODS: tuple[Method, ...] = ("lomb-scargle", "nifty-ls", "box")
"""What `periodogram` takes."""

_ALIAS = 0.5
_PEAKS = 5
_DUTY_CYCLES = (0.05, 0.1, 0.2)
_BINS_IN_BOX = 5
_LEAST_BOX_TURNS = 3.0


@dataclass(frozen=True)
class Peak:
    """A peak of a periodogram.

    Attributes
    ----------
    period
        Days.
    power
        See `Periodogram`.
    false_alarm_probability
        Chance that noise alone has so high a peak anywhere in the search (an upper limit, Baluev
        2008); NaN where no theory is known: boxes, several bands.
    false_alarm_log10
        Its logarithm, finite where the probability itself is too small for a float.
    window
        Power of the sampling at the distance of this peak from the first, 0 to 1: a sine in the
        first has this part of its power here. NaN for the first peak.
    duration, depth, epoch
        Of an eclipse: days, unit of flux, MJD of a middle; NaN for other methods.
    """

    period: float
    power: float
    false_alarm_probability: float = math.nan
    false_alarm_log10: float = math.nan
    window: float = math.nan
    duration: float = math.nan
    depth: float = math.nan
    epoch: float = math.nan

    @property
    def frequency(self) -> float:
        """Turns a day."""
        return 1.0 / self.period

    @property
    def is_alias(self) -> bool:
        """Whether the sampling alone puts more than half of the first peak's power here."""
        return self.window > _ALIAS


@dataclass(frozen=True, eq=False)
class Periodogram:
    """Power over frequency.

    Attributes
    ----------
    frequency
        Per day, rising, (m,).
    power
        (m,). Lomb-Scargle: the part of the chi2 of a constant that a sine takes away, 0 to 1.
        Boxes: depth of the eclipse over its error.
    method
        How it was computed.
    peaks
        The highest first, more than their width apart.
    n
        How many points it is of.
    span
        Days between the first and the last; a peak is ``1 / span`` wide.
    oversampling
        Frequencies within that width.
    """

    frequency: Double
    power: Double
    method: str
    peaks: tuple[Peak, ...]
    n: int = 0
    span: float = math.nan
    oversampling: float = OVERSAMPLING

    @property
    def period(self) -> Double:
        """Days, falling, (m,)."""
        return 1.0 / self.frequency

    @property
    def best(self) -> Peak:
        """The highest peak."""
        return self.peaks[0]

    def __repr__(self) -> str:
        best = f"best {self.best.period:.6g} d, power {self.best.power:.3g}" if self.peaks else ""
        return f"<Periodogram {self.method}: {self.frequency.size} frequencies, {best}>"


def has_nifty_ls() -> bool:
    """Say whether the extra package nifty-ls is installed."""
    return importlib.util.find_spec("nifty_ls") is not None


def periodogram(
    mjd: Floats,
    flux: Floats,
    flux_err: Floats | None = None,
    *,
    good: Mask | None = None,
    method: Method = "lomb-scargle",
    shortest: float | None = None,
    longest: float | None = None,
    oversampling: float = OVERSAMPLING,
    peaks: int = _PEAKS,
) -> Periodogram:
    """Compute the periodogram of one lightcurve.

    Parameters
    ----------
    mjd, flux, flux_err
        (n,) in any order; points that are not finite or have no positive error are left out.
        Without errors all weigh the same.
    good
        Points that count, (n,).
    method
        ``lomb-scargle`` (astropy), ``nifty-ls`` (the same power to some 1e-6, ten times as fast;
        ``pip install 'idfzarr[periods]'``) or ``box`` (see `box_periodogram`).
    shortest, longest
        Periods to look for, days. Unless given, down to twice the step of a regular sampling, or
        0.1 d where the sampling is irregular (twice the middling gap where that is shorter), and up
        to the time between the first point and the last.
    oversampling
        Frequencies within the width of a peak; of Lomb-Scargle.
    peaks
        How many peaks to list.

    Returns
    -------
    Periodogram
        Peaks are found between the frequencies too.

    Raises
    ------
    UsageError
        There are fewer than 8 good points, all are of one time or one flux, or the limits cannot
        be.
    UnknownName
        There is no such method.
    MissingExtra
        nifty-ls is asked for and not installed.
    """
    if method not in METHODS:
        msg = (
            f"there is no method {method!r} for a periodogram{closest(method, METHODS)}; there are "
            f"{', '.join(METHODS)}"
        )
        raise UnknownName(msg)
    if method == "box":
        return box_periodogram(
            mjd, flux, flux_err, good=good, shortest=shortest, longest=longest, peaks=peaks
        )
    samples = usable_samples(mjd, flux, flux_err, good)
    refuse_unusable(samples, given=np.size(mjd))
    return sine_periodogram(
        samples, method, shortest=shortest, longest=longest, oversampling=oversampling, peaks=peaks
    )


def sine_periodogram(
    samples: Samples,
    method: str,
    *,
    shortest: float | None = None,
    longest: float | None = None,
    oversampling: float = OVERSAMPLING,
    peaks: int = _PEAKS,
) -> Periodogram:
    """Compute a Lomb-Scargle periodogram of points that were looked at already."""
    _refuse_no_peaks(peaks)
    limits = period_limits(samples, shortest=shortest, longest=longest)
    frequency = frequency_grid(samples.span, *limits, oversampling=oversampling)
    power = _sine_power(samples, frequency, method)
    step = 1.0 / (samples.span * oversampling)
    places = highest_peaks(frequency, power, count=peaks, width=1.0 / samples.span)
    found: list[Peak] = []
    for place in places:
        top, height = refined_peak(
            _exact_power(samples),
            float(frequency[place]),
            step,
            limits=(1.0 / limits[1], 1.0 / limits[0]),
        )
        log10 = false_alarm_log10(height, samples, 1.0 / limits[0])
        distance = (abs(top - 1.0 / found[0].period), top + 1.0 / found[0].period) if found else ()
        window = max((window_power(samples, d) for d in distance), default=math.nan)
        found.append(Peak(1.0 / top, height, 10.0**log10, log10, window))
    found.sort(key=lambda peak: -peak.power)
    return Periodogram(
        frequency, power, method, tuple(found), len(samples), samples.span, oversampling
    )


def _refuse_no_peaks(peaks: int) -> None:
    if peaks < 1:
        msg = f"a periodogram lists 1 peak or more, not {peaks}"
        raise UsageError(msg)


def _sine_power(samples: Samples, frequency: Double, method: str) -> Double:
    from astropy.timeseries import LombScargle

    implementation, how = "fast", {}
    if method == "nifty-ls":
        if not has_nifty_ls():
            msg = (
                "method 'nifty-ls' needs the package nifty-ls, which is not installed: run "
                "pip install 'idfzarr[periods]', or use method 'lomb-scargle'"
            )
            raise MissingExtra(msg)
        importlib.import_module("nifty_ls")  # it makes itself known to astropy
        # tasks run side by side already
        implementation, how = "fastnifty", {"nthreads": 1}
    # the times begin at 0: what is kept of MJD 53000 in a phase is 1e-11 d
    model = LombScargle(samples.mjd - samples.mjd[0], samples.flux, samples.flux_err)
    power = model.power(
        frequency, method=implementation, assume_regular_frequency=True, method_kwds=how
    )
    return np.asarray(power, dtype=np.float64)


def _exact_power(samples: Samples) -> Any:
    """Return what computes the power at a few frequencies, sums and all."""
    from astropy.timeseries import LombScargle

    model = LombScargle(samples.mjd - samples.mjd[0], samples.flux, samples.flux_err)
    return lambda frequency: model.power(frequency, method="slow")


def multiband_periodogram(
    mjd: Floats,
    flux: Floats,
    flux_err: Floats | None,
    band: ArrayLike,
    *,
    good: Mask | None = None,
    shortest: float | None = None,
    longest: float | None = None,
    oversampling: float = OVERSAMPLING,
    peaks: int = _PEAKS,
) -> Periodogram:
    """Look for one period in several bands, each with a mean, an amplitude and a phase of its own.

    Parameters
    ----------
    mjd, flux, flux_err, good
        Points of all bands, one after the other, (n,).
    band
        The band of each, (n,).
    shortest, longest, oversampling, peaks
        See `periodogram`.

    Returns
    -------
    Periodogram
        Power as of a Lomb-Scargle periodogram: the part of the chi2 of a constant in each band that
        one sine in each band takes away. No false-alarm probability is known.

    Notes
    -----
    The same as astropy's ``LombScargleMultiband`` with ``nterms_base=0, nterms_band=1`` and no
    regularisation, as the sum of its bands' periodograms weighted with the chi2 of a constant in
    each, which takes a hundredth of the time. astropy's own ``method="fast"`` weighs them by their
    powers over whatever frequencies are asked for.

    Raises
    ------
    UsageError
        A band has fewer than 8 good points, or see `periodogram`.
    """
    _refuse_no_peaks(peaks)
    names = np.asarray(band)
    times = np.asarray(mjd)
    if names.shape != times.shape:
        msg = f"band must name one band for each of the {times.size} points, not {names.shape}"
        raise UsageError(msg)
    kept = np.ones(times.shape, dtype=bool) if good is None else np.asarray(good, dtype=bool)
    parts = []
    for name in np.unique(names):
        part = usable_samples(mjd, flux, flux_err, kept & (names == name))
        refuse_unusable(part, given=int(np.sum(names == name)))
        parts.append(part)
    every = _joined(parts)
    limits = period_limits(every, shortest=shortest, longest=longest)
    frequency = frequency_grid(every.span, *limits, oversampling=oversampling)
    share = np.array([_chi2_of_constant(part) for part in parts])
    share /= share.sum()
    exact = [_exact_power(part) for part in parts]
    power = share @ np.stack([_sine_power(part, frequency, "lomb-scargle") for part in parts])
    found = []
    for place in highest_peaks(frequency, power, count=peaks, width=1.0 / every.span):
        top, height = refined_peak(
            lambda f: share @ np.stack([one(f) for one in exact]),
            float(frequency[place]),
            1.0 / (every.span * oversampling),
            limits=(1.0 / limits[1], 1.0 / limits[0]),
        )
        found.append(Peak(1.0 / top, height))
    found.sort(key=lambda peak: -peak.power)
    return Periodogram(
        frequency, power, "multiband", tuple(found), len(every), every.span, oversampling
    )


def _chi2_of_constant(samples: Samples) -> float:
    weight = samples.flux_err**-2
    mean = np.average(samples.flux, weights=weight)
    return float(np.sum(weight * (samples.flux - mean) ** 2))


def _joined(parts: Sequence[Samples]) -> Samples:
    """Return the points of several bands as those of one, in order of time."""
    mjd = np.concatenate([part.mjd for part in parts])
    order = np.argsort(mjd, kind="stable")
    return Samples(
        mjd[order],
        np.concatenate([part.flux for part in parts])[order],
        np.concatenate([part.flux_err for part in parts])[order],
    )


def box_periodogram(
    mjd: Floats,
    flux: Floats,
    flux_err: Floats | None = None,
    *,
    good: Mask | None = None,
    shortest: float | None = None,
    longest: float | None = None,
    duty_cycles: Sequence[float] = _DUTY_CYCLES,
    oversampling: float = 2.0,
    peaks: int = _PEAKS,
) -> Periodogram:
    """Look for eclipses: the same dip once in every turn (box least squares).

    Parameters
    ----------
    mjd, flux, flux_err, good
        See `periodogram`.
    shortest, longest
        Periods, days; unless given, as for `periodogram`, but at least 0.3 d and at most a third
        of the time between the first and the last point: an eclipse seen three times.
    duty_cycles
        Parts of a turn that an eclipse may last.
    oversampling
        Frequencies in which the shortest eclipse moves by its own length over the whole time.
    peaks
        How many to list.

    Returns
    -------
    Periodogram
        Power is the depth over its error; peaks carry duration, depth and epoch.

    Raises
    ------
    UsageError
        See `periodogram`; or a duty cycle is not between 0 and 0.5.
    """
    from astropy.timeseries import BoxLeastSquares

    _refuse_no_peaks(peaks)
    if not duty_cycles or not all(0 < q < 0.5 for q in duty_cycles):
        msg = f"duty cycles of eclipses lie between 0 and 0.5, not {tuple(duty_cycles)}"
        raise UsageError(msg)
    samples = usable_samples(mjd, flux, flux_err, good)
    refuse_unusable(samples, given=np.size(mjd))
    longest = samples.span / _LEAST_BOX_TURNS if longest is None else longest
    limits = period_limits(samples, shortest=shortest, longest=longest)
    if shortest is None:
        limits = (min(max(limits[0], _SHORTEST_BOX_DAYS), 0.5 * limits[1]), limits[1])
    frequency = frequency_grid(samples.span, *limits, oversampling=oversampling / min(duty_cycles))
    model = BoxLeastSquares(samples.mjd - samples.mjd[0], samples.flux, samples.flux_err)
    columns = _boxes_by_octave(model, frequency, duty_cycles)
    power = columns["depth_snr"]
    found = [
        Peak(
            period=float(1.0 / frequency[k]),
            power=float(power[k]),
            duration=float(columns["duration"][k]),
            depth=float(columns["depth"][k]),
            epoch=float(columns["transit_time"][k] + samples.mjd[0]),
        )
        for k in highest_peaks(frequency, power, count=peaks, width=1.0 / samples.span)
    ]
    return Periodogram(
        frequency, power, "box", tuple(found), len(samples), samples.span, oversampling
    )


_SHORTEST_BOX_DAYS = 0.3


def _boxes_by_octave(
    model: Any, frequency: Double, duty_cycles: Sequence[float]
) -> dict[str, Double]:
    """Fit boxes, whose lengths astropy wants in days, octave by octave of the period."""
    names = ("depth_snr", "duration", "depth", "transit_time")
    columns = {name: np.full(frequency.shape, np.nan) for name in names}
    octave = np.floor(np.log2(frequency / frequency[0])).astype(int)
    for number in np.unique(octave):
        rows = np.flatnonzero(octave == number)
        period = 1.0 / frequency[rows]
        middle = math.sqrt(float(period.min()) * float(period.max()))
        lengths = [q * middle for q in duty_cycles if q * middle < period.min()]
        result = model.power(period, lengths, objective="snr", oversample=_BINS_IN_BOX)
        for name in names:
            columns[name][rows] = np.asarray(result[name], dtype=np.float64)
    return columns


def fold(mjd: Floats, period: float, *, epoch: float | None = None) -> Double:
    """Return the phase of every time in a period.

    Parameters
    ----------
    mjd
        Days, any shape; NaN stays NaN.
    period
        Days.
    epoch
        Time of phase 0; the earliest time unless given.

    Returns
    -------
    ndarray of float64
        At least 0 and below 1, the shape of `mjd`.

    Raises
    ------
    UsageError
        The period is not a positive number, or the epoch none.
    """
    times = np.asarray(mjd, dtype=np.float64)
    if not (math.isfinite(period) and period > 0):
        msg = f"a lightcurve is folded by a positive period in days, not {period}"
        raise UsageError(msg)
    if epoch is None:
        known = times[np.isfinite(times)]
        epoch = float(known.min()) if known.size else 0.0
    if not math.isfinite(epoch):
        msg = f"the epoch of a fold must be an MJD, not {epoch}"
        raise UsageError(msg)
    phase = ((times - epoch) / period) % 1.0
    # a time a hair before the epoch is rounded up to 1
    return np.where(phase >= 1.0, 0.0, phase)
