"""Everything that can be chosen on the viewer's page, with bounds and defaults.

`Choices` says what there is to choose from in a store; `ViewerState` holds what is chosen, one for
each session. Neither knows the page: panel is not imported here. `idfzarr.viewer.address` writes a
state into a URL and reads it from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import param

from idfzarr.flags import FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "COLOUR_MAPS",
    "DEFAULT_METHODS",
    "MOST_OBJECTS",
    "MOST_SELECTED_IN_URL",
    "PAGES",
    "STRETCHES",
    "Choices",
    "ViewerState",
]

MOST_OBJECTS = 10
"""Objects whose lightcurves are drawn at once: the one looked at and those compared with it."""

MOST_SELECTED_IN_URL = 200
"""A longer selection is left out of the URL: browsers and proxies cut long ones."""

PAGES = ("find", "look", "see", "judge", "health")
"""Parts of the page, in order."""

STRETCHES = ("linear", "log", "sqrt", "asinh")
"""How brightness becomes grey or colour."""

COLOUR_MAPS = ("gray", "viridis", "inferno", "magma", "plasma", "cividis")
"""Colour maps for images and for statistics."""

DEFAULT_METHODS = ("aper2_clean", "aper2_original", "auto_clean", "auto_original")
"""Types shown at first: the first of these that each channel has."""

_BAD_FLAGS = [definition.name for definition in FLAGS if definition.bad]
_ALL_FLAGS = [definition.name for definition in FLAGS]


@dataclass(frozen=True, eq=False)
class Choices:
    """What there is to choose from in a store.

    Attributes
    ----------
    types, channels
        Their names, in the order of the cube.
    aor_columns
        Numbers of each AOR, which can stand on the time axis.
    statistics
        Statistics of the lightcurves; empty where none were computed.
    columns
        Numeric columns of the objects besides the statistics.
    first_mjd, last_mjd
        Of all AORs, days.
    first_object
        The one shown at first; None where the cube has none.
    default_types, default_statistic, default_statistic_type, default_column, default_table_columns
        Shown at first.
    table_columns
        What the table of the objects can show besides their ids.
    knows
        Whether there is an object of that id.
    has_truth
        Whether the field was simulated and what was put in is known.
    has_ps1
        Whether the cube is linked with PS1 skycells.
    image_channels
        Channels with a superstack.
    """

    types: tuple[str, ...]
    channels: tuple[str, ...]
    aor_columns: tuple[str, ...]
    statistics: tuple[str, ...]
    columns: tuple[str, ...]
    first_mjd: float
    last_mjd: float
    first_object: int | None
    default_types: tuple[str, ...]
    default_statistic: str
    default_statistic_type: str
    default_column: str
    knows: Callable[[int], bool]
    table_columns: tuple[str, ...] = ()
    default_table_columns: tuple[str, ...] = ()
    has_truth: bool = False
    has_ps1: bool = False
    image_channels: tuple[str, ...] = ()


def _plain(values: dict[str, Any]) -> ViewerState:
    made: Any = SimpleNamespace(**values)
    made.snapshot = lambda **changes: _plain(values | changes)
    return cast("ViewerState", made)


def _selector(default: str, objects: tuple[str, ...], doc: str) -> param.Selector[str]:
    return param.Selector(default=default, objects=list(objects), doc=doc)


def _switch(doc: str, *, on: bool = False) -> param.Boolean[bool]:
    return param.Boolean(default=on, doc=doc)


def _number(
    default: float | None,
    doc: str,
    *,
    bounds: tuple[float | None, float | None] = (None, None),
    softbounds: tuple[float, float] | None = None,
    exclusive: bool = False,
) -> Any:
    return param.Number(
        default=default,
        bounds=bounds,
        softbounds=softbounds,
        inclusive_bounds=(not exclusive, True),
        allow_None=default is None,
        doc=doc,
    )


class ViewerState(param.Parameterized):
    """Every choice of one session.

    Each parameter's ``doc`` is the sentence that the page shows as a tooltip. Times are MJD (UTC)
    in days, angles arcseconds, and quantiles and percentiles percent.

    Parameters
    ----------
    choices
        What there is to choose from; its defaults are taken.
    **chosen
        Parameters to set.

    Raises
    ------
    ValueError
        A value is none of the choices or out of bounds.
    """

    page: param.Selector[str] = _selector("find", PAGES, "Part of the page that is shown")
    dark = _switch("Dark colours")

    # ---- which lightcurves
    object = param.Integer(default=None, allow_None=True, doc="Id of the object looked at")
    compared: Any = param.List(
        default=[],
        item_type=int,
        bounds=(0, MOST_OBJECTS - 1),
        doc="Ids of further objects, drawn with it",
    )
    types: Any = param.ListSelector(
        default=[], objects=[], check_on_set=True, doc="Measurement types that are drawn"
    )
    layout: param.Selector[str] = _selector(
        "overlaid", ("overlaid", "panels"), "All types in one panel, or one panel for each"
    )

    # ---- what is drawn of them
    unit: param.Selector[str] = _selector("flux", ("flux", "mag"), "Flux or magnitude")
    system: param.Selector[str] = _selector("AB", ("AB", "Vega"), "System of the magnitudes")
    calibrated = _switch("Apply the ensemble zero points and noise scales", on=True)
    drop: Any = param.ListSelector(
        default=_BAD_FLAGS, objects=_ALL_FLAGS, doc="Flags that set a measurement apart"
    )
    show_flagged = _switch("Show flagged measurements apart", on=True)
    show_errors = _switch("Show error bars", on=True)
    show_truth = _switch("Show what was simulated, where that is known", on=True)
    marker_size = _number(6.0, "Size of the points, pixels", bounds=(1, 30))

    # ---- when
    time_axis: param.Selector[str] = _selector("date", ("date", "mjd"), "What the time axis shows")
    start = _number(None, "First time that is drawn, MJD (UTC), days")
    end = _number(None, "Time from which on nothing is drawn, MJD (UTC), days")

    # ---- clipping, smoothing, binning, rates
    clip_on = _switch("Set apart what is far from the running median")
    clip_sigma = _number(5.0, "So many robust standard deviations are far", bounds=(1, 20))
    clip_window = _number(
        None,
        "Window of the running median, days; of the whole lightcurve where empty",
        bounds=(0, None),
        exclusive=True,
    )
    smooth_on = _switch("Draw a smoothed lightcurve with its band")
    smooth_window = _number(
        14.0, "Window of the smoothing, days", bounds=(0, 10_000), exclusive=True
    )
    smooth_sigma = _number(3.0, "Clipping within the window, standard deviations", bounds=(1, 20))
    bin_on = _switch("Draw binned measurements")
    bin_width = _number(30.0, "Width of a bin, days", bounds=(0, 10_000), exclusive=True)
    bin_method: param.Selector[str] = _selector(
        "weighted", ("weighted", "mean", "median"), "How measurements of a bin are joined"
    )
    rate_on = _switch("Set apart points with a dMag/dt far from the others'")
    rate_low = _number(2.0, "Lower quantile of dMag/dt, percent", bounds=(0.1, 49.9))
    rate_high = _number(98.0, "Upper quantile of dMag/dt, percent", bounds=(50.1, 99.9))
    rate_symmetric = _switch("Keep the two quantiles alike", on=True)
    rate_sigma = _number(
        3.0, "So many standard deviations, from the quantiles, are far", bounds=(1, 20)
    )

    # ---- periods
    period_type: param.Selector[str] = _selector("", ("",), "Type whose periods are looked for")
    period_method: param.Selector[str] = _selector(
        "lomb-scargle", ("lomb-scargle", "box", "multiband"), "How periods are looked for"
    )
    shortest_period = _number(
        None, "Shortest period looked for, days", bounds=(0, None), exclusive=True
    )
    longest_period = _number(
        None, "Longest period looked for, days", bounds=(0, None), exclusive=True
    )
    period = _number(None, "Period of folding, days", bounds=(0, None), exclusive=True)
    epoch = _number(None, "Time of phase zero, MJD (UTC), days")

    # ---- objects
    statistic: param.Selector[str] = _selector("", ("",), "Statistic of colours and scatter plot")
    statistic_type: param.Selector[str] = _selector("", ("",), "Type whose statistics are shown")
    column: param.Selector[str] = _selector("", ("",), "Column of the histogram")
    bins = param.Integer(default=50, bounds=(2, 500), doc="Bins of the histogram")
    query = param.String(default="", doc="Condition that objects meet, as ch1_mag < 20")
    table_columns: Any = param.ListSelector(
        default=[], objects=[], check_on_set=True, doc="Columns of the table, besides the object"
    )
    sorted_by: Any = param.List(
        default=[],
        item_type=str,
        doc="Columns that order the table, the first before the next; with a minus it falls",
    )
    column_filters: Any = param.Dict(
        default={}, doc="Condition that a column of the table must meet, by its name"
    )
    selection: Any = param.List(
        default=[], item_type=int, doc="Ids of the selected objects, in order"
    )

    # ---- images
    image_channel: param.Selector[str] = _selector("", ("",), "Channel of the image")
    stretch: param.Selector[str] = _selector("asinh", STRETCHES, "How brightness is shown")
    colour_map: param.Selector[str] = _selector("gray", COLOUR_MAPS, "Colours of the image")
    percentile_low = _number(1.0, "Fainter pixels are darkest, percent", bounds=(0, 50))
    percentile_high = _number(99.5, "Brighter pixels are brightest, percent", bounds=(50, 100))
    stamp_size = _number(30.0, "Side of a stamp, arcsec", bounds=(5, 300))
    show_apertures = _switch("Draw the apertures", on=True)
    show_objects: param.Selector[str] = _selector(
        "selected", ("none", "selected", "all"), "Objects marked on the field's image"
    )
    aor = param.Integer(default=None, allow_None=True, doc="AOR whose own image is shown")
    blink = _switch("Change between the superstack and the AOR's image")

    def __init__(self, choices: Choices, **chosen: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.choices = choices
        self._periods: list[tuple[float | None, float | None]] = []
        self._offer(choices)
        self.param.update(**chosen)

    def _offer(self, choices: Choices) -> None:
        """Take over what there is to choose from, and its defaults."""
        offered = self.param
        offered["types"].objects = list(choices.types)
        offered["table_columns"].objects = list(choices.table_columns)
        offered["time_axis"].objects = ["date", "mjd", *choices.aor_columns]
        offered["statistic"].objects = list(choices.statistics) or [""]
        offered["statistic_type"].objects = list(choices.types) or [""]
        offered["period_type"].objects = list(choices.types) or [""]
        offered["column"].objects = [*choices.columns, *choices.statistics] or [""]
        offered["image_channel"].objects = list(choices.image_channels) or [""]
        span = (choices.first_mjd, choices.last_mjd)
        for name in ("start", "end", "epoch"):
            offered[name].softbounds = span
        offered.update(**self.defaults(choices))

    @classmethod
    def defaults(cls, choices: Choices) -> dict[str, Any]:
        """Return what a new session on this store begins with, every parameter by name."""
        plain = {name: p.default for name, p in cls.param.objects().items() if name != "name"}
        first = choices.default_types[0] if choices.default_types else ""
        return plain | {
            "object": choices.first_object,
            "types": list(choices.default_types),
            "statistic": choices.default_statistic,
            "statistic_type": choices.default_statistic_type,
            "period_type": first,
            "column": choices.default_column,
            "table_columns": list(choices.default_table_columns),
            "sorted_by": ["-score"] if "score" in choices.default_table_columns else [],
            "image_channel": choices.image_channels[0] if choices.image_channels else "",
        }

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids of the objects that are drawn: the one looked at, then those compared with it."""
        first = [] if self.object is None else [self.object]
        return tuple(dict.fromkeys([*first, *self.compared]))

    def snapshot(self, **changes: Any) -> ViewerState:
        """Return the choices as they are now, as plain attributes that are quick to read.

        What is returned does not follow later changes, and nothing can be changed by it.

        Parameters
        ----------
        **changes
            Choices that are other ones in what is returned; they are not looked at.
        """
        return _plain(self.param.values() | {"objects": self.objects} | changes)

    # ---------------------------------------------------------------- periods

    def take_period(self, period: float | None, *, epoch: float | None = None) -> None:
        """Fold with another period; `undo_period` goes back.

        Parameters
        ----------
        period
            Days; None for no folding.
        epoch
            Time of phase zero, MJD; as it is unless given.

        Raises
        ------
        ValueError
            The period is not above 0.
        """
        before = (self.period, self.epoch)
        self.param.update(period=period, epoch=self.epoch if epoch is None else epoch)
        if before != (self.period, self.epoch):
            self._periods.append(before)

    def undo_period(self) -> bool:
        """Go back to the period before this one; False where there was none."""
        if not self._periods:
            return False
        period, epoch = self._periods.pop()
        self.param.update(period=period, epoch=epoch)
        return True

    # ---------------------------------------------------------------- objects in turn

    def step(self, count: int, order: list[int] | None = None) -> int | None:
        """Go to a later or earlier object; at the ends it stays.

        Parameters
        ----------
        count
            So many on; back where it is negative.
        order
            Ids in the order gone through; the selection unless given.

        Returns
        -------
        int or None
            The object that is looked at now.
        """
        ids = self.selection if order is None else order
        if ids:
            here = self.object
            at = ids.index(here) + count if here is not None and here in ids else 0
            self.object = int(ids[min(max(at, 0), len(ids) - 1)])
        return self.object
