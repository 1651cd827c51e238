"""The most variable objects of a store, from the statistics that stand in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.analysis.excess import excess
from idfzarr.analysis.ranking_text import Ranking
from idfzarr.analysis.statistic_definitions import DEFINITIONS
from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.measurement import select_types
from idfzarr.store.cube import Cube
from idfzarr.store.schema import VARIABILITY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.store.place import PlaceLike

    Double: TypeAlias = NDArray[np.float64]

__all__ = ["RANKED_METHOD", "Ranking", "rank_store", "ranked_types", "strength"]

RANKED_METHOD = "aper2_clean"
"""Types that are ranked unless others are asked for: a small aperture on clean images. Its errors
are small and it sees neither most neighbours nor cosmic rays."""

_SHOWN = ("n", "median", "robust_scatter", "trimmed_chi2", "inverse_eta", "period")
_TOP = 20
_MAD_TO_SIGMA = 1.482602218505602

_SMALL = frozenset(["von_neumann", "chi2_log10_p", "false_alarm_log10"])
_SIGNED = frozenset(["slope", "max_pull", "skewness"])


def ranked_types(types: Sequence[str]) -> list[str]:
    """Return the types that are ranked unless others are asked for.

    Parameters
    ----------
    types
        Those of the cube.

    Returns
    -------
    list of str
        The small clean aperture of each channel, or all types where there is none.
    """
    return [name for name in types if name.partition("_")[2] == RANKED_METHOD] or list(types)


def strength(name: str, values: NDArray[Any]) -> Double:
    """Return what grows with variability, for any statistic.

    Parameters
    ----------
    name
        The statistic.
    values
        Any shape.

    Returns
    -------
    ndarray of float64
        The values themselves; the negative of those that are small for variables (``von_neumann``,
        ``chi2_log10_p``, ``false_alarm_log10``); without their sign those that may go both ways
        (``slope``, ``max_pull``, ``skewness``).
    """
    found = np.asarray(values, dtype=np.float64)
    if name in _SMALL:
        return -found
    return np.abs(found) if name in _SIGNED else found


def rank_store(
    store: PlaceLike | Cube,
    *,
    top: int | None = None,
    by: str = "score",
    types: str | Iterable[str] | None = None,
    least_signal: float = 0.0,
    least_complete: float = 0.5,
    relative: bool = False,
    above: float | None = None,
    every_channel: bool = False,
    columns: Iterable[str] | None = None,
) -> Ranking:
    """Rank the objects of a store by a statistic.

    Parameters
    ----------
    store
        The store.
    top
        How many objects to list; 20 unless given, or all that are `above`.
    by
        A statistic of ``variability/``; ``score`` joins scatter and smoothness relative to objects
        as bright. Those that are small for variables (see `strength`) are ranked from the smallest.
    types
        Names or globs of types; the small clean aperture of each channel unless given. An object
        counts by the type in which its statistic is largest.
    least_signal
        Leave out objects whose S/N in a middling measurement is lower.
    least_complete
        Leave out lightcurves of which a smaller fraction of the AORs is good.
    relative
        Rank by how far the statistic stands above the running median of objects as bright, in units
        of their scatter (Sokolovsky et al. 2017, MNRAS 464, 274, section 4), in place of its value.
    above
        Leave out objects whose statistic (its excess, with `relative`) is not above this; below it
        for those that are small for variables.
    every_channel
        An object counts by the channel in which it is smallest, so that what happens in one channel
        only is no variable: a cosmic ray, a bad column. Channels in which its lightcurve is not
        complete do not count.
    columns
        Statistics to list, or ``all``; a choice for people unless given.

    Returns
    -------
    Ranking
        The objects, the largest first; without those that have no value.

    Raises
    ------
    UnknownName
        There is no such statistic or type.
    UsageError
        `top` is below 1.
    """
    cube = store if isinstance(store, Cube) else Cube(store)
    if top is not None and top < 1:
        msg = f"a ranking lists 1 object or more, not {top}"
        raise UsageError(msg)
    measured = cube.table(VARIABILITY)
    refuse_unknown(by, measured, cube.path)
    names = ranked_types(cube.types) if types is None else select_types(cube.types, types)
    places = [cube.column(name) for name in names]
    values = strength(by, measured[by][:, places])
    if relative:
        level = measured["median"][:, places]
        values = np.stack([relative_to(v, m) for v, m in zip(values.T, level.T, strict=True)], 1)
    usable = measured["n"][:, places] >= least_complete * cube.shape[3]
    if least_signal > 0:
        usable &= _signal(measured, places) >= least_signal
    values = np.where(usable & np.isfinite(values), values, -np.inf)
    channels = [str(cube.coordinate("type_channel")[p]) for p in places]
    best = _best_type(values, channels if every_channel else [""] * len(places))
    highest = values[np.arange(len(values)), best]
    order = np.argsort(-highest, kind="stable")
    order = order[np.isfinite(highest[order])]
    if above is not None:
        limit = above if relative else float(strength(by, np.array(above)))
        order = order[highest[order] > limit]
    order = order[: top if top is not None else (_TOP if above is None else None)]
    shown = _shown(by, measured, columns, cube.path)
    told = _Told(cube, measured, shown)
    rows = tuple(
        told.row(int(r), places[best[r]], float(highest[r]) if relative else None) for r in order
    )
    units = {str(cube.coordinate("unit")[c]) for c in places}
    flux_unit = units.pop() if len(units) == 1 else ""
    return Ranking(
        by=by,
        types=tuple(names),
        unit=flux_unit,
        rows=rows,
        n_aors=cube.shape[3],
        covered=int(cube.group_attributes(VARIABILITY).get("n_aors", cube.shape[3])),
        relative=relative,
        above=above,
        units=_units(shown, flux_unit),
    )


def refuse_unknown(name: str, measured: Mapping[str, Any], where: str) -> None:
    """Refuse a statistic that a store has not.

    Raises
    ------
    UnknownName
        Either it is none at all, or the store was made before there was one of that name.
    """
    if name in measured:
        return
    if name in DEFINITIONS:
        msg = (
            f"{where} has no statistic {name!r} yet, its table is of an earlier version: "
            f"idfzarr stats {where} --update computes it"
        )
        raise UnknownName(msg)
    msg = (
        f"there is no statistic {name!r} in {where}{closest(name, measured)}; "
        f"there are {', '.join(measured)}"
    )
    raise UnknownName(msg)


def relative_to(values: Double, brightness: NDArray[Any]) -> Double:
    """Return how far values stand above those of objects as bright, in units of their scatter.

    Parameters
    ----------
    values
        (object,), as `strength` returns them.
    brightness
        Of each object, (object,).

    Returns
    -------
    ndarray of float64
        (object,), see `idfzarr.analysis.excess.excess`: logarithms are compared, or, where some
        values are not positive, their inverse hyperbolic sines, which are the same for large ones.
    """
    known = values[np.isfinite(values)]
    if known.size and known.min() <= 0:
        spread = _MAD_TO_SIGMA * float(np.median(np.abs(known - np.median(known))))
        scaled = values / spread if spread > 0 else values
        length = np.hypot(scaled, 1.0)
        # exp(asinh(x)), which `excess` takes the logarithm of
        values = np.where(scaled >= 0, scaled + length, 1.0 / (length - np.minimum(scaled, 0.0)))
    return excess(values, brightness)


def _best_type(values: Double, channels: Sequence[str]) -> NDArray[np.intp]:
    """Return by which type each object counts: the best of the channel that is the least."""
    best, heights = [], []
    for channel in dict.fromkeys(channels):
        own = np.array([k for k, name in enumerate(channels) if name == channel])
        place = own[values[:, own].argmax(axis=1)]
        height = values[np.arange(len(values)), place]
        best.append(place)
        heights.append(np.where(np.isfinite(height), height, np.inf))
    least = np.argmin(heights, axis=0)
    chosen: NDArray[np.intp] = np.stack(best)[least, np.arange(len(values))]
    return chosen


def _signal(measured: Mapping[str, NDArray[Any]], columns: list[int]) -> Double:
    """Return the S/N (object, type) of a middling measurement, 0 where there is none."""
    flux, error = measured["median"][:, columns], measured["median_err"][:, columns]
    known = np.isfinite(flux) & (error > 0)
    signal: Double = np.divide(flux, error, out=np.zeros(flux.shape), where=known)
    return signal


def _shown(
    by: str, measured: Mapping[str, Any], columns: Iterable[str] | None, where: str
) -> list[str]:
    """Return the statistics to list; those of an earlier version may lack some of ours."""
    if columns is None:
        return [name for name in dict.fromkeys((by, *_SHOWN)) if name in measured]
    asked = [columns] if isinstance(columns, str) else list(columns)
    if asked == ["all"]:
        known = [name for name in DEFINITIONS if name in measured]
        return list(dict.fromkeys((by, *known, *measured)))
    for name in asked:
        refuse_unknown(name, measured, where)
    return list(dict.fromkeys((by, *asked)))


def _units(shown: Iterable[str], flux_unit: str) -> dict[str, str]:
    found = {"ra": "deg", "dec": "deg", "x": "px", "y": "px"}
    for name in shown:
        unit = DEFINITIONS[name].units(flux_unit) if name in DEFINITIONS else ""
        if unit not in {"", "1"}:
            found[name] = unit
    return found


@dataclass(frozen=True, eq=False)
class _Told:
    """What a row tells of an object."""

    cube: Cube
    measured: Mapping[str, NDArray[Any]]
    shown: Sequence[str]

    def row(self, row: int, column: int, above: float | None) -> dict[str, Any]:
        known = {} if above is None else {"excess": above}
        places = ("ra", "dec", "x", "y")
        return {
            "object": int(self.cube.objects[row]),
            "type": self.cube.types[column],
            **{name: float(self.cube.coordinate(name)[row]) for name in places},
            **known,
            **{
                name: int(self.measured[name][row, column])
                if name == "n"
                else float(self.measured[name][row, column])
                for name in self.shown
            },
        }
