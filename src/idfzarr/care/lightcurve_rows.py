"""The rows of an exported table: a row for each measurement, and what its columns mean.

UCDs are words of the IVOA's UCD1+ controlled vocabulary, version 1.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from idfzarr.lightcurve import Lightcurve

__all__ = ["Column", "Row", "RowForm", "Rows", "System", "measured_names", "rows_of"]

System = Literal["AB", "Vega"]

_BAND_WORDS = {"ch1": ";em.IR.3-4um", "ch2": ";em.IR.4-8um"}


@dataclass(frozen=True)
class RowForm:
    """What is done to lightcurves before they are written.

    Attributes
    ----------
    calibrated
        The calibration that is stored beside them is applied.
    good
        Measurements that are not fit to use are left out.
    mag
        Magnitudes and their errors are added.
    system
        System of the magnitudes.
    """

    calibrated: bool = False
    good: bool = False
    mag: bool = False
    system: System = "AB"

    def applied(self, curve: Lightcurve) -> Lightcurve:
        """Return a lightcurve as it is to be written."""
        curve = curve.calibrated() if self.calibrated else curve
        return curve.good() if self.good else curve


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes
    ----------
    name
        In lower case.
    values
        (row,).
    unit
        Unit as FITS writes it, empty where there is none.
    ucd
        What it is, in the IVOA's words.
    description
        What it is, in ours.
    """

    name: str
    values: NDArray[Any]
    unit: str
    ucd: str
    description: str


@dataclass(frozen=True)
class Row:
    """What all measurements of one lightcurve share.

    Attributes
    ----------
    object, type
        Which lightcurve.
    unit
        Of its flux.
    ra, dec
        Degrees, ICRS; NaN where the frames have no WCS.
    length
        How many measurements there are.
    """

    object: int
    type: str
    unit: str
    ra: float
    dec: float
    length: int


@dataclass(frozen=True, eq=False)
class Rows:
    """Lightcurves one after another, as arrays.

    Attributes
    ----------
    curves
        The lightcurves, in order.
    values
        Array of each measured column, (row,).
    form
        What was done to them.
    """

    curves: tuple[Row, ...]
    values: dict[str, NDArray[Any]]
    form: RowForm

    def __len__(self) -> int:
        return sum(one.length for one in self.curves)

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the fluxes, each once."""
        return tuple(dict.fromkeys(one.unit for one in self.curves))

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels of the lightcurves, each once."""
        return tuple(dict.fromkeys(one.type.split("_", 1)[0] for one in self.curves))

    def shared(self, name: str) -> NDArray[Any]:
        """Return for each row what its lightcurve has, as its object."""
        each = np.array([getattr(one, name) for one in self.curves])
        return each.repeat([one.length for one in self.curves])

    def columns(self, *, flat: bool = False, unit: bool = False) -> list[Column]:
        """Return the columns of a table.

        Parameters
        ----------
        flat
            Without those that are the same in all rows of one lightcurve: object, type, position.
        unit
            With the flux's unit in each row; it is there anyhow where units differ.
        """
        made = [] if flat else self._named()
        made += [self._measured(name) for name in self.values]
        if unit or len(self.units) > 1:
            made.append(
                Column("unit", self.shared("unit").astype(str), "", "meta.unit", "unit of flux")
            )
        return made

    def _named(self) -> list[Column]:
        made = [
            Column("object", self.shared("object"), "", "meta.id;meta.main", "object id"),
            Column("type", self.shared("type"), "", "meta.code", "measurement type"),
        ]
        if np.isfinite([one.ra for one in self.curves]).any():
            told = {"ra": "right ascension, ICRS", "dec": "declination, ICRS"}
            made += [
                Column(name, self.shared(name), "deg", f"pos.eq.{name};meta.main", text)
                for name, text in told.items()
            ]
        return made

    def _measured(self, name: str) -> Column:
        """Return a measured column with what it means."""
        word = _BAND_WORDS.get(self.channels[0], "") if len(self.channels) == 1 else ""
        unit = self.units[0] if len(self.units) == 1 else ""
        done = ", calibrated" if self.form.calibrated else ", as stored"
        system = self.form.system
        known: dict[str, tuple[str, str, str]] = {
            "aor": ("", "meta.id;obs", "reqkey of the AOR"),
            "mjd": ("d", "time.epoch;meta.main", "mid-exposure, Modified Julian Date, UTC"),
            "bjd_tdb": ("d", "time.epoch", "mid-exposure, Barycentric Julian Date, TDB"),
            "flux": (unit, f"phot.flux{word}", f"flux{done}"),
            "flux_err": (unit, f"stat.error;phot.flux{word}", f"error of flux{done}"),
            "mag": (
                "mag",
                f"phot.mag{word}",
                f"{system} magnitude of flux; instrumental if not uJy",
            ),
            "mag_err": ("mag", f"stat.error;phot.mag{word}", "error of mag"),
            "flag": ("", "meta.code.qual", "sum of the bits of flags that are set, 0 for none"),
        }
        return Column(name, self.values[name], *known[name])


def measured_names(form: RowForm, *, barycentric: bool) -> tuple[str, ...]:
    """Return the names of the measured columns, in order."""
    times = ("mjd", "bjd_tdb") if barycentric else ("mjd",)
    mags = ("mag", "mag_err") if form.mag else ()
    return ("aor", *times, "flux", "flux_err", *mags, "flag")


def _values(curve: Lightcurve, name: str, form: RowForm) -> NDArray[Any]:
    if name == "flag":
        return curve.flag.astype(np.int32)  # neither FITS nor VOTable has unsigned 16-bit integers
    if name == "mag":
        return curve.magnitude(form.system)
    if name == "bjd_tdb" and curve.bjd_tdb is None:
        return np.full(len(curve), np.nan)
    return np.asarray(getattr(curve, name))


def rows_of(
    curves: Iterable[Lightcurve], form: RowForm, *, names: Sequence[str] | None = None
) -> Rows:
    """Return lightcurves as the rows of a table.

    Parameters
    ----------
    curves
        As stored.
    form
        What is to be done to them.
    names
        Measured columns; with ``bjd_tdb`` where a lightcurve has it unless given.

    Raises
    ------
    UsageError
        Vega magnitudes are asked of a channel or unit that has none.
    """
    done = [form.applied(curve) for curve in curves]
    if names is None:
        barycentric = any(one.bjd_tdb is not None for one in done)
        names = measured_names(form, barycentric=barycentric)
    told = tuple(Row(one.object_id, one.type, one.unit, one.ra, one.dec, len(one)) for one in done)
    dtypes = {"aor": np.int64, "flag": np.int32, "flux": np.float32, "flux_err": np.float32}
    values = {
        name: np.concatenate(
            [np.empty(0, dtypes.get(name, np.float64)), *(_values(one, name, form) for one in done)]
        )
        for name in names
    }
    return Rows(told, values, form)
