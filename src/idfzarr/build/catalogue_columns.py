"""Which columns of a catalogue are which measurement type, and their values as flux.

Magnitudes become microjansky by ``f = 10**(-0.4 (m - z))``, z being the magnitude of 1 microjansky:
23.9 for AB magnitudes (Oke & Gunn 1983, ApJ 266, 713: -48.60 for flux in erg/s/cm2/Hz).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from astropy import units

from idfzarr.errors import UsageError
from idfzarr.flags import flag_bit, from_sextractor
from idfzarr.lightcurve import AB_ZERO_MAGNITUDE
from idfzarr.measurement import APERTURE_RADII, IMAGES, Measurement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.build.catalogues import Catalogue, TableFile

__all__ = [
    "ColumnRule",
    "Columns",
    "FluxScale",
    "Measured",
    "default_rules",
    "measure_catalogue",
    "parse_rules",
    "types_of",
]

_RELATIVE_PER_MAGNITUDE = math.log(10) / 2.5
_SENTINEL = 99.0
"""SExtractor writes magnitudes 99 (and others -99) where there is no value."""

_FLAG_COLUMNS = ("FLAGS", "flag", "flags")
_SEXTRACTOR_MARKS = (
    "FLUX_AUTO",
    "MAG_AUTO",
    "FLUX_ISO",
    "MAG_ISO",
    "FLUX_APER",
    "MAG_APER",
    "X_IMAGE",
)
_KNOWN = (
    ("auto", ("FLUX_AUTO", "FLUXERR_AUTO"), ("MAG_AUTO", "MAGERR_AUTO")),
    ("auto", ("kron_flux", "kron_fluxerr"), None),
    ("iso", ("FLUX_ISO", "FLUXERR_ISO"), ("MAG_ISO", "MAGERR_ISO")),
    ("iso", ("segment_flux", "segment_fluxerr"), None),
    ("psf", ("FLUX_PSF", "FLUXERR_PSF"), ("MAG_PSF", "MAGERR_PSF")),
)
"""Method, columns of flux, columns of magnitude: SExtractor's and photutils' names."""


@dataclass(frozen=True)
class Columns:
    """The columns of one measurement.

    Attributes
    ----------
    value
        Flux or magnitude; ``NAME[2]`` is the third element of a vector column.
    error
        Its error in the same sense; None where there is none.
    flag
        Its flag; None where there is none.
    magnitude
        Whether it is a magnitude; None to tell by the unit, else by a name that begins with
        ``mag``.
    """

    value: str
    error: str | None = None
    flag: str | None = None
    magnitude: bool | None = None


@dataclass(frozen=True)
class ColumnRule:
    """Columns and the type they are, as far as a mapping says it.

    Attributes
    ----------
    channel, image
        None where the table's own name, or the default, says it.
    method
        As in `idfzarr.measurement`.
    columns
        The columns.
    """

    channel: str | None
    method: str
    image: str | None
    columns: Columns

    def measurement(self, file: TableFile) -> Measurement | None:
        """Return the type of these columns in a file, or None where they are not of that file."""
        if self.channel and file.channel and self.channel != file.channel:
            return None
        if self.image and file.image and self.image != file.image:
            return None
        image: Any = self.image or file.image or "original"
        return Measurement(self.channel or file.channel, self.method, image)


@dataclass(frozen=True)
class FluxScale:
    """How values become microjansky.

    Attributes
    ----------
    unit
        Unit of flux columns that have none, or one that is not understood; None if not known.
    mag_zeropoint
        Magnitude of a source of 1 microjansky, by channel.
    count_zeropoint
        AB magnitude of one count (SExtractor's MAG_ZEROPOINT), by channel; counts stay counts
        where there is none.
    flags
        ``sextractor``, ``external``, or ``auto`` (SExtractor's in a table with SExtractor's
        names).
    """

    unit: str | None = None
    mag_zeropoint: float | Mapping[str, float] = AB_ZERO_MAGNITUDE
    count_zeropoint: float | Mapping[str, float] | None = None
    flags: Literal["auto", "sextractor", "external"] = "auto"

    def of_magnitudes(self, channel: str) -> float:
        """Return the magnitude of 1 microjansky."""
        found = _of_channel(self.mag_zeropoint, channel)
        return AB_ZERO_MAGNITUDE if found is None else found

    def of_counts(self, channel: str) -> float | None:
        """Return microjansky per count, or None."""
        found = _of_channel(self.count_zeropoint, channel)
        return None if found is None else float(10.0 ** (0.4 * (AB_ZERO_MAGNITUDE - found)))


def _of_channel(value: float | Mapping[str, float] | None, channel: str) -> float | None:
    if value is None or isinstance(value, int | float):
        return value
    found = value.get(channel)
    return None if found is None else float(found)


@dataclass(frozen=True, eq=False)
class Measured:
    """The measurements of one catalogue.

    Attributes
    ----------
    types
        Names of the types.
    units
        Their units; ``uJy`` where they could be converted.
    values
        (row, type, value) float32: flux, flux_err, flag.
    """

    types: tuple[str, ...]
    units: tuple[str, ...]
    values: NDArray[np.float32]


# ---------------------------------------------------------------- which columns


def parse_rules(columns: Mapping[str, Any]) -> tuple[ColumnRule, ...]:
    """Check a mapping of types to columns.

    Parameters
    ----------
    columns
        Keys are types (``ch1_auto_original``), or parts of them where the file names say the
        rest: ``auto``, ``auto_clean``. Values are `Columns`, or (value, error, flag), of which the
        last two may be left out, or text with colons, ``FLUX_AUTO:FLUXERR_AUTO:FLAGS``.

    Returns
    -------
    tuple of ColumnRule
        In the order given.

    Raises
    ------
    UsageError
        A key is no type, or a value names no columns.

    Examples
    --------
    >>> parse_rules({"aper2_clean": "MAG_APER[1]:MAGERR_APER[1]"})[0].columns.error
    'MAGERR_APER[1]'
    """
    if not columns:
        msg = "the mapping of columns is empty: give types and their columns, or none at all"
        raise UsageError(msg)
    return tuple(_rule(str(key), _columns(str(key), value)) for key, value in columns.items())


def _rule(key: str, columns: Columns) -> ColumnRule:
    parts = key.split("_")
    if len(parts) == 3:
        rule = ColumnRule(parts[0], parts[1], parts[2], columns)
    elif len(parts) == 2 and parts[1] in IMAGES:
        rule = ColumnRule(None, parts[0], parts[1], columns)
    elif len(parts) == 1:
        rule = ColumnRule(None, parts[0], None, columns)
    else:
        msg = f"{key!r} is no type to map columns to: use auto, auto_clean or ch1_auto_clean, say"
        raise UsageError(msg)
    is_statistic = rule.method.startswith(("median", "biweight"))
    image: Any = rule.image or ("ratio" if is_statistic else "original")
    Measurement(rule.channel or "ch1", rule.method, image)  # refuses what cannot be
    return ColumnRule(rule.channel, rule.method, image if is_statistic else rule.image, columns)


def _columns(key: str, value: Any) -> Columns:
    if isinstance(value, Columns):
        return value
    parts = value.split(":") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not 1 <= len(parts) <= 3:
        msg = f"columns of {key!r} must be value, error and flag, not {value!r}"
        raise UsageError(msg)
    names = [None if part is None else str(part).strip() or None for part in parts]
    column, error, flag = (*names, None, None)[:3]
    if column is None:
        msg = f"columns of {key!r} lack the value's name: {value!r}"
        raise UsageError(msg)
    return Columns(column, error, flag)


def default_rules(
    catalogue: Catalogue, *, radii: Sequence[float] | None = None
) -> tuple[ColumnRule, ...]:
    """Tell measurements by SExtractor's (and photutils') names; magnitudes where flux is absent.

    Parameters
    ----------
    catalogue
        The table.
    radii
        Radii in pixels of the apertures of FLUX_APER (half of SExtractor's PHOT_APERTURES);
        without them its elements are aper1, aper2, ... in order.

    Returns
    -------
    tuple of ColumnRule
        Maybe none.

    Raises
    ------
    UsageError
        There are more or fewer apertures than `radii`, or more than eight without radii.
    """
    flag = catalogue.first(_FLAG_COLUMNS)
    rules: dict[str, ColumnRule] = {}
    for method, flux, magnitude in _KNOWN:
        for pair in (flux, magnitude):
            if method in rules or pair is None or catalogue.find(pair[0]) is None:
                continue
            columns = Columns(*_existing(catalogue, *pair), flag)
            rules[method] = ColumnRule(None, method, None, columns)
    for stem in ("FLUX", "MAG"):
        count = catalogue.length(f"{stem}_APER")
        if not count:
            continue
        for k, method in enumerate(_aperture_methods(count, radii, catalogue.path)):
            error = f"{stem}ERR_APER[{k}]" if catalogue.length(f"{stem}ERR_APER") > k else None
            rules[method] = ColumnRule(
                None, method, None, Columns(f"{stem}_APER[{k}]", error, flag)
            )
        break
    return tuple(rules.values())


def _existing(catalogue: Catalogue, value: str, error: str) -> tuple[str, str | None]:
    return value, error if catalogue.find(error) is not None else None


def _aperture_methods(count: int, radii: Sequence[float] | None, where: str) -> list[str]:
    if radii is None:
        if count > len(APERTURE_RADII):
            msg = (
                f"{where} has {count} apertures, more than aper1 to aper{len(APERTURE_RADII)}: "
                "give their radii in pixels, or a mapping of columns"
            )
            raise UsageError(msg)
        return [f"aper{k + 1}" for k in range(count)]
    if len(radii) != count:
        msg = f"{where} has {count} apertures, and {len(radii)} radii were given"
        raise UsageError(msg)
    return [
        f"aper{APERTURE_RADII.index(radius) + 1}" if radius in APERTURE_RADII else f"r{radius:g}"
        for radius in radii
    ]


def types_of(file: TableFile, rules: Sequence[ColumnRule]) -> dict[str, Columns]:
    """Return the columns of each type that a file holds, by the type's name.

    Raises
    ------
    UsageError
        Two rules are of one type.
    """
    found: dict[str, Columns] = {}
    for rule in rules:
        measurement = rule.measurement(file)
        if measurement is None:
            continue
        if measurement.name in found:
            one, other = found[measurement.name].value, rule.columns.value
            msg = f"the type {measurement.name} is mapped twice, to {one!r} and to {other!r}"
            raise UsageError(msg)
        found[measurement.name] = rule.columns
    return found


# ---------------------------------------------------------------- their values


def measure_catalogue(
    catalogue: Catalogue, types: Mapping[str, Columns], scale: FluxScale
) -> Measured:
    """Return what a catalogue measured, as flux.

    Parameters
    ----------
    catalogue
        The table.
    types
        The columns of each type.
    scale
        How values become microjansky.

    Returns
    -------
    Measured
        Flux and error are NaN, and the flag has ``undefined``, where the table has no value:
        masked, not finite, or a magnitude of 99 or -99. An error without value is NaN.

    Raises
    ------
    UnknownName
        A column is missing.
    UsageError
        A column holds no numbers, or its unit is none of flux.
    """
    values = np.empty((len(catalogue), len(types), 3), dtype=np.float32)
    found_units = []
    for k, (name, columns) in enumerate(types.items()):
        flux, error, unit = _flux(catalogue, columns, name, scale)
        flag = _flags(catalogue, columns, scale.flags)
        with np.errstate(over="ignore"):
            values[:, k, 0], values[:, k, 1] = flux, error
        lost = ~np.isfinite(values[:, k, 0])
        values[lost, k, :2] = np.nan
        no_error = ~np.isfinite(values[:, k, 1]) | (values[:, k, 1] < 0)
        values[no_error, k, 1] = np.nan
        values[:, k, 2] = np.where(lost, flag | flag_bit("undefined"), flag)
        found_units.append(unit)
    return Measured(tuple(types), tuple(found_units), values)


def _flux(
    catalogue: Catalogue, columns: Columns, type_name: str, scale: FluxScale
) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
    value = catalogue.numbers(columns.value)
    error = (
        np.full(len(value), np.nan) if columns.error is None else catalogue.numbers(columns.error)
    )
    unit = _unit(catalogue, columns.value)
    channel = type_name.split("_", 1)[0]
    if _is_magnitude(columns, unit):
        return *_from_magnitudes(
            value, error, _magnitude_zero(catalogue, columns, unit, channel, scale)
        ), "uJy"
    if type_name.endswith("_ratio"):
        return value, error, ""
    factor, stored = _factor(catalogue, columns.value, channel, scale)
    if columns.error is not None and _unit(catalogue, columns.error) is not None:
        error_factor, _ = _factor(catalogue, columns.error, channel, scale)
    else:
        error_factor = factor
    return value * factor, error * error_factor, stored


def _unit(catalogue: Catalogue, column: str) -> Any:
    """Return the unit of a column; None where there is none or it is not understood."""
    text = catalogue.unit(column)
    if not text:
        return None
    try:
        return units.Unit(text)
    except (ValueError, TypeError):
        return None


def _is_magnitude(columns: Columns, unit: Any) -> bool:
    if columns.magnitude is not None:
        return columns.magnitude
    if unit is not None:
        return isinstance(unit, units.MagUnit) or unit == units.mag
    return columns.value.lower().startswith("mag")


def _magnitude_zero(
    catalogue: Catalogue, columns: Columns, unit: Any, channel: str, scale: FluxScale
) -> float:
    """Return the magnitude of 1 microjansky."""
    physical = getattr(unit, "physical_unit", None)
    if physical is None or physical == units.dimensionless_unscaled:
        return scale.of_magnitudes(channel)
    if not physical.is_equivalent(units.Jy):
        msg = (
            f"column {columns.value!r} of {catalogue.path} is in {unit.to_string()!r}, magnitudes "
            "of something else than flux per frequency; convert them to AB magnitudes"
        )
        raise UsageError(msg)
    return 2.5 * math.log10(physical.to(units.uJy))


def _from_magnitudes(
    magnitude: NDArray[np.float64], error: NDArray[np.float64], zero: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    known = np.isfinite(magnitude) & (np.abs(magnitude) < _SENTINEL)
    flux = np.where(known, 10.0 ** (-0.4 * (np.where(known, magnitude, zero) - zero)), np.nan)
    has_error = np.isfinite(error) & (np.abs(error) < _SENTINEL)
    relative = np.where(has_error, error, np.nan) * _RELATIVE_PER_MAGNITUDE
    return flux, flux * relative


def _factor(catalogue: Catalogue, column: str, channel: str, scale: FluxScale) -> tuple[float, str]:
    """Return what a flux column is multiplied by, and the unit it then has."""
    text = catalogue.unit(column)
    unit = _unit(catalogue, column)
    if unit is None and scale.unit is not None:
        text, unit = scale.unit, units.Unit(scale.unit)
    if unit is not None and unit.is_equivalent(units.Jy):
        return float(unit.to(units.uJy)), "uJy"
    per_count = scale.of_counts(channel)
    if unit is None and not text:
        return (1.0, "") if per_count is None else (per_count, "uJy")
    if unit is None or not _is_count(unit):
        msg = (
            f"column {column!r} of {catalogue.path} is in {text!r}, which is no unit of flux; name "
            "another column, or correct the table"
        )
        raise UsageError(msg)
    return (1.0, unit.to_string()) if per_count is None else (per_count, "uJy")


def _is_count(unit: Any) -> bool:
    counted = {units.ct, units.adu, units.electron, units.photon, units.DN}
    bases = {base for base in unit.bases if not base.is_equivalent(units.s)}
    return bases <= counted


def _flags(
    catalogue: Catalogue, columns: Columns, how: Literal["auto", "sextractor", "external"]
) -> NDArray[np.uint16]:
    if columns.flag is None:
        return np.zeros(len(catalogue), dtype=np.uint16)
    theirs = np.asarray(catalogue.values(columns.flag))
    if theirs.dtype.kind not in "biuf":
        msg = f"the flag {columns.flag!r} of {catalogue.path} is not of numbers but {theirs.dtype}"
        raise UsageError(msg)
    known = np.isfinite(theirs.astype(np.float64))
    whole = np.where(known, theirs, 0).astype(np.int64)
    if how == "sextractor" or (how == "auto" and _is_sextractor(catalogue, columns.flag)):
        return from_sextractor(whole)
    return np.where(whole != 0, flag_bit("external"), 0).astype(np.uint16)


def _is_sextractor(catalogue: Catalogue, flag: str) -> bool:
    return flag.upper() == "FLAGS" and catalogue.first(_SEXTRACTOR_MARKS) is not None
