"""Lightcurves as numbers that are ready to be drawn: what one curve is, and its parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.analysis.smoothing import rates
from idfzarr.flags import flag_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.analysis.smoothing import Rates

__all__ = ["GROUPS", "Curve", "Group", "Line", "Prepared", "date_of", "words_of"]

Group = Literal["kept", "flagged", "clipped", "outlying"]

GROUPS: tuple[Group, ...] = ("kept", "flagged", "clipped", "outlying")
"""Points that are drawn apart: those used, those with a flag that is dropped, those far from the
running median, and those with an outlying rate."""

_UNIX_EPOCH = 40587.0  # MJD of 1970-01-01
_MS_PER_DAY = 86_400_000.0


def date_of(mjd: NDArray[np.float64]) -> NDArray[np.datetime64]:
    """Return MJD (UTC) as dates, to the millisecond; NaT where there is no time.

    Examples
    --------
    >>> str(date_of(np.array([53371.5]))[0])
    '2005-01-01T12:00:00.000'
    """
    known = np.isfinite(mjd)
    ms = np.rint((np.where(known, mjd, _UNIX_EPOCH) - _UNIX_EPOCH) * _MS_PER_DAY)
    dates = ms.astype(np.int64).astype("datetime64[ms]")
    dates[~known] = np.datetime64("NaT", "ms")
    return dates


def words_of(flag: NDArray[np.uint16]) -> NDArray[np.object_]:
    """Return flags in words, ``edge, saturated``; empty where there is none."""
    words = np.full(len(flag), "", dtype=object)
    some = np.flatnonzero(flag)
    words[some] = [_words(value) for value in flag[some].tolist()]
    return words


@lru_cache(maxsize=4096)
def _words(flag: int) -> str:
    return ", ".join(name.replace("_", " ") for name in flag_names(flag))


@dataclass(frozen=True, eq=False)
class Line:
    """A line with a band or error bars.

    Attributes
    ----------
    x
        On the time axis, ascending: days or dates, (n,).
    y, low, high
        In the unit of the curve, (n,).
    mjd
        Days, (n,).
    n
        How many measurements made each, (n,).
    """

    x: NDArray[Any]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mjd: NDArray[np.float64]
    n: NDArray[np.int64]

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return them by name, for a ColumnDataSource."""
        return {"x": self.x, "y": self.y, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True, eq=False)
class Curve:
    """One lightcurve, ready to be drawn; arrays are along the AORs of the cube.

    Attributes
    ----------
    object_id, type, channel
        Whose it is.
    label
        What stands in the legend.
    unit
        Of y.
    aor, aor_name
        Keys and names of the AORs.
    mjd, date
        Mid-exposure in days and as a date; NaN, NaT where an AOR has no time in this channel.
    x
        What stands on the time axis: dates, days, or a column of the AORs.
    y, low, high
        Flux or magnitude, less and plus its error; NaN where nothing can be drawn.
    flux, flux_err
        Flux (ratio) and error, calibrated if that was asked for.
    flag
        As stored.
    kept, flagged, clipped, outlying
        Which points belong to which of `GROUPS`; to none where nothing is drawn.
    smooth, binned
        Lines through the points kept; None where not asked for.
    mag, mag_err
        Magnitudes, also where fluxes are drawn; relative ones of a ratio then.
    truth
        What was simulated; None where that is not known or not asked for.
    reference
        Magnitude of the ratio's reference; None for other types.
    n_measured
        Fluxes there are in the time that is drawn.
    n_without
        Those of them that are not above zero and have no magnitude; 0 where fluxes are drawn.
    notes
        Sentences on what is not drawn.
    """

    object_id: int
    type: str
    channel: str
    label: str
    unit: str
    aor: NDArray[np.int64]
    aor_name: NDArray[Any]
    mjd: NDArray[np.float64]
    date: NDArray[np.datetime64]
    x: NDArray[Any]
    y: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    mag: NDArray[np.float64]
    mag_err: NDArray[np.float64]
    flux: NDArray[np.float32]
    flux_err: NDArray[np.float32]
    flag: NDArray[np.uint16]
    kept: NDArray[np.bool_]
    flagged: NDArray[np.bool_]
    clipped: NDArray[np.bool_]
    outlying: NDArray[np.bool_]
    smooth: Line | None = None
    binned: Line | None = None
    truth: Line | None = None
    reference: float | None = None
    n_measured: int = 0
    n_without: int = 0
    notes: tuple[str, ...] = ()

    @cached_property
    def rates(self) -> Rates:
        """dMag/dt of the points kept, in the order of time."""
        return rates(self.mjd, np.where(self.kept, self.mag, np.nan), self.mag_err)

    @property
    def n_drawn(self) -> int:
        """How many points are drawn, of all groups."""
        return int(sum(np.count_nonzero(getattr(self, group)) for group in GROUPS))

    def points(self, group: Group = "kept") -> dict[str, NDArray[Any]]:
        """Return the points of a group by name of column, for a ColumnDataSource.

        Columns are x, y, low, high, mjd, date, flux, flux_err, flags (in words), aor, aor_name and
        position (of the AOR in the cube).
        """
        at = np.flatnonzero(getattr(self, group))
        return {
            "x": self.x[at],
            "y": self.y[at],
            "low": self.low[at],
            "high": self.high[at],
            "mjd": self.mjd[at],
            "date": self.date[at],
            "flux": self.flux[at],
            "flux_err": self.flux_err[at],
            "flags": words_of(self.flag[at]),
            "aor": self.aor[at],
            "aor_name": self.aor_name[at],
            "position": at,
        }


@dataclass(frozen=True, eq=False)
class Prepared:
    """All curves of a view.

    Attributes
    ----------
    curves
        Object by object, type by type.
    notes
        Sentences on what is not drawn, and why.
    x_label, y_label
        With units. Where curves differ in theirs, `y_label` names each.
    x_is_date
        Whether x are dates.
    y_reversed
        Whether the brighter is the smaller number.
    """

    curves: tuple[Curve, ...]
    notes: tuple[str, ...]
    x_label: str
    y_label: str
    x_is_date: bool
    y_reversed: bool

    def __iter__(self) -> Any:
        return iter(self.curves)

    def __len__(self) -> int:
        return len(self.curves)

    def __getitem__(self, index: int) -> Curve:
        return self.curves[index]

    def of(self, object_id: int) -> Sequence[Curve]:
        """Return the curves of one object."""
        return [curve for curve in self.curves if curve.object_id == object_id]
