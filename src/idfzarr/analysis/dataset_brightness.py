"""Flux to magnitude and colour, calibration and flags, on Datasets of ours.

Each works on flux as it is: lazily where it is lazy.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import xarray as xr

from idfzarr.analysis.calibration import apply_zeropoint
from idfzarr.analysis.dataset_parts import (
    BIN,
    MEASURED,
    channels_of,
    object_ids,
    replace_variables,
    require,
    type_names,
    units_of,
)
from idfzarr.analysis.deferred import deferred
from idfzarr.analysis.magnitude import (
    MAGNITUDE_FLAGS,
    colour,
    colour_error,
    magnitude_error,
    magnitude_flag,
    zero_magnitude,
)
from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.flags import BAD_FLAGS, flag_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from idfzarr.analysis.magnitude import System

    Floats: TypeAlias = NDArray[np.floating[Any]]

__all__ = [
    "RATIO",
    "calibrated",
    "colours",
    "good",
    "is_calibrated",
    "magnitudes",
    "masked",
    "ratio_magnitudes",
]

RATIO = "ratio"
"""Image of the types whose values are ratios to the superstack."""


# ------------------------------------------------------------------ flags


def _kept(mask: int, values: Floats, flag: NDArray[np.integer[Any]]) -> Floats:
    return np.where((flag & np.uint16(mask)) == 0, values, np.asarray(np.nan, dtype=values.dtype))


def masked(dataset: xr.Dataset, mask: int) -> xr.Dataset:
    """Return a Dataset whose measurements with one of the flags are NaN; see `good`."""
    require(dataset, "flux", "flag")
    flag = dataset.variables["flag"]
    kept = partial(_kept, mask)
    held = {n: dataset.variables[n] for n in MEASURED if n in dataset.data_vars}
    spread = {n: v for n, v in held.items() if set(v.dims) == set(flag.dims)}
    return replace_variables(
        dataset,
        {n: deferred(kept, v, flag, dtype=v.dtype, attrs=v.attrs) for n, v in spread.items()},
    )


def good(dataset: xr.Dataset, flags: str | Iterable[str] | None = None) -> xr.Dataset:
    """Return a Dataset whose flux and error are NaN where a measurement is not fit to use.

    Parameters
    ----------
    dataset
        Of ours.
    flags
        Names of the flags to drop; those marked bad in `idfzarr.flags.FLAGS` if None.

    Returns
    -------
    xarray.Dataset
        As many AORs as before; ``flag`` as it was, so that it says why.

    Raises
    ------
    UnknownName
        There is no flag of that name.
    """
    names = [flags] if isinstance(flags, str) else flags
    return masked(dataset, BAD_FLAGS if names is None else flag_mask(names))


# ------------------------------------------------------------------ calibration


def is_calibrated(dataset: xr.Dataset) -> bool:
    """Say whether the zero points have been applied to flux."""
    own = dataset.variables["flux"].attrs if "flux" in dataset.variables else {}
    return bool(own.get("calibrated", dataset.attrs.get("calibrated", 0)))


def _filled(values: Floats, fill: float) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, fill).astype(np.float64)


def _calibrated_flux(flux: Floats, zeropoint: Floats) -> Floats:
    return apply_zeropoint(flux, _filled(zeropoint, 0.0)).astype(np.float32)


def _calibrated_error(
    flux: Floats, error: Floats, zeropoint: Floats, zeropoint_err: Floats, scale: Floats
) -> Floats:
    """Return the errors of `idfzarr.lightcurve.Lightcurve.calibrated`."""
    factor = _filled(zeropoint, 0.0)
    own = apply_zeropoint(error.astype(np.float64) * _filled(scale, 1.0), factor)
    shared = apply_zeropoint(flux, factor) * _filled(zeropoint_err, 0.0) / (2.5 / np.log(10.0))
    return np.asarray(np.hypot(own, shared), dtype=np.float32)


def calibrated(dataset: xr.Dataset) -> xr.Dataset:
    """Return a Dataset with the ensemble zero points and the noise scale applied.

    The same as `idfzarr.lightcurve.Lightcurve.calibrated`, for every lightcurve. Magnitudes that
    the Dataset has are made anew.

    Parameters
    ----------
    dataset
        Of ours.

    Returns
    -------
    xarray.Dataset
        Attribute ``calibrated`` of flux says that it was done; twice changes nothing more.

    Raises
    ------
    UsageError
        The lightcurves were binned before they were calibrated.
    """
    require(dataset, "flux", "flux_err")
    if is_calibrated(dataset):
        return dataset
    if BIN in dataset.dims:
        msg = "lightcurves are calibrated AOR by AOR: call calibrated() before bin()"
        raise UsageError(msg)
    flux, error = dataset.variables["flux"], dataset.variables["flux_err"]
    zeropoint, zeropoint_err, scale = (
        dataset.variables.get(name, xr.Variable((), np.float32(fill)))
        for name, fill in (("zeropoint", 0), ("zeropoint_err", 0), ("noise_scale", 1))
    )
    made = {
        "flux": deferred(
            _calibrated_flux,
            flux,
            zeropoint,
            dtype=np.float32,
            attrs=flux.attrs | {"calibrated": 1},
        ),
        "flux_err": deferred(
            _calibrated_error,
            flux,
            error,
            zeropoint,
            zeropoint_err,
            scale,
            dtype=np.float32,
            attrs=error.attrs | {"calibrated": 1},
        ),
    }
    found = replace_variables(dataset, made, calibrated=1)
    if "mag" in dataset.data_vars and "system" in dataset.variables["mag"].attrs:
        return magnitudes(found, dataset.variables["mag"].attrs["system"])
    return found


# ------------------------------------------------------------------ magnitudes


def _magnitude(flux: Floats, zero: Floats) -> Floats:
    values = np.asarray(flux, dtype=np.float64)
    return np.asarray(zero - 2.5 * np.log10(np.where(values > 0, values, np.nan)))


def _along_types(dataset: xr.Dataset, values: list[float]) -> xr.Variable:
    """Return a number for each type, scalar where one type was selected."""
    if "type" in dataset.dims:
        return xr.Variable("type", np.asarray(values, dtype=np.float64))
    return xr.Variable((), np.float64(values[0]))


_FLAG_ATTRIBUTES = {
    "long_name": "why there is no magnitude",
    "flag_values": np.array(list(MAGNITUDE_FLAGS.values()), dtype=np.uint8),
    "flag_meanings": " ".join(MAGNITUDE_FLAGS),
}


def magnitudes(dataset: xr.Dataset, system: System = "AB") -> xr.Dataset:
    """Return a Dataset with magnitudes beside the flux.

    Parameters
    ----------
    dataset
        Of ours.
    system
        ``AB``, or ``Vega`` for the IRAC channels.

    Returns
    -------
    xarray.Dataset
        With ``mag``, ``mag_err`` (float64, NaN where flux is not positive) and ``mag_flag``, which
        is 1 where the flux is zero or negative and 2 where there is none.

    Raises
    ------
    UsageError
        There is no such system, or it has no zero for a channel; or a type is a ratio, of which
        `ratio_magnitudes` makes magnitudes.
    """
    require(dataset, "flux", "flux_err")
    names, channels, units = type_names(dataset), channels_of(dataset), units_of(dataset)
    ratios = [name for name in names if name.endswith("_" + RATIO)]
    if ratios:
        msg = (
            f"{ratios[0]} is a ratio and has no magnitude of its own: use ratio_to_mag, or choose "
            "other types with .idf.types(...)"
        )
        raise UsageError(msg)
    zeros = [
        zero_magnitude(system, channel=channel, unit=unit)
        for channel, unit in zip(channels, units, strict=True)
    ]
    flux, error = dataset.variables["flux"], dataset.variables["flux_err"]
    told = {"units": "mag", "system": system}
    made = {
        "mag": deferred(
            _magnitude,
            flux,
            _along_types(dataset, zeros),
            dtype=np.float64,
            attrs=told
            | {"long_name": f"{system} magnitude", "ancillary_variables": "mag_err mag_flag"},
        ),
        "mag_err": deferred(
            magnitude_error,
            flux,
            error,
            dtype=np.float64,
            attrs=told | {"long_name": "standard error of mag"},
        ),
        "mag_flag": deferred(magnitude_flag, flux, dtype=np.uint8, attrs=_FLAG_ATTRIBUTES),
    }
    return replace_variables(dataset, made)


# ------------------------------------------------------------------ ratios


def _reference(dataset: xr.Dataset, given: Mapping[str, Any] | None, what: str) -> xr.Variable:
    """Return a number of the superstack for each object and type's channel."""
    if given is None:
        return xr.Variable((), np.float64(0.0))
    channels = channels_of(dataset)
    ids = object_ids(dataset)
    columns = []
    for channel in channels:
        if channel not in given:
            msg = (
                f"there is no {what} of channel {channel!r}{closest(channel, given)}: each channel "
                "has its own"
            )
            raise UnknownName(msg)
        values = np.asarray(given[channel], dtype=np.float64)
        if values.shape not in {(), (len(ids),)}:
            msg = (
                f"the {what} of {channel} must be one number or one for each of the {len(ids)} "
                f"objects, not of shape {values.shape}"
            )
            raise UsageError(msg)
        columns.append(np.broadcast_to(values, (len(ids),)))
    table = xr.Variable(("object", "type"), np.stack(columns, axis=-1))
    scalar = {dim: 0 for dim in ("object", "type") if dim not in dataset.dims}
    return table.isel(scalar)


def _product(ratio: Floats, reference: Floats) -> Floats:
    return np.where(np.asarray(reference) > 0, ratio * np.asarray(reference), np.nan)


def ratio_magnitudes(
    dataset: xr.Dataset,
    reference_flux: Mapping[str, Any],
    reference_err: Mapping[str, Any] | None = None,
    *,
    system: System = "AB",
    unit: str = "uJy",
) -> xr.Dataset:
    """Return a Dataset of ratio types with magnitudes beside the ratios.

    Parameters
    ----------
    dataset
        Of ours, of types measured on ratio images only.
    reference_flux, reference_err
        For each channel by name the objects' flux on its superstack, and its error: one number, or
        (object,) in the order of the Dataset.
    system
        ``AB`` or ``Vega``.
    unit
        Unit of the reference.

    Returns
    -------
    xarray.Dataset
        With ``mag``, ``mag_err`` (of the ratio alone), ``mag_err_reference`` (common to all AORs;
        NaN where no error was given) and ``mag_flag``.

    Raises
    ------
    UsageError
        A type is no ratio, or a reference has another length.
    UnknownName
        A channel has no reference.
    """
    require(dataset, "flux", "flux_err")
    others = [name for name in type_names(dataset) if not name.endswith("_" + RATIO)]
    if others:
        msg = f"{others[0]} is no ratio: choose types with .idf.types('*_{RATIO}') first"
        raise UsageError(msg)
    zeros = [zero_magnitude(system, channel=c, unit=unit) for c in channels_of(dataset)]
    reference = _reference(dataset, reference_flux, "reference flux")
    error = (
        xr.full_like(reference, np.nan)
        if reference_err is None
        else _reference(dataset, reference_err, "error of the reference")
    )
    ratio, ratio_err = dataset.variables["flux"], dataset.variables["flux_err"]
    flux = deferred(_product, ratio, reference, dtype=np.float64)
    told = {"units": "mag", "system": system}
    made = {
        "mag": deferred(
            _magnitude,
            flux,
            _along_types(dataset, zeros),
            dtype=np.float64,
            attrs=told | {"long_name": f"{system} magnitude", "reference_unit": unit},
        ),
        "mag_err": deferred(
            magnitude_error,
            ratio,
            ratio_err,
            dtype=np.float64,
            attrs=told | {"long_name": "standard error of mag, without that of the reference"},
        ),
        "mag_err_reference": deferred(
            magnitude_error,
            reference,
            error,
            dtype=np.float64,
            attrs=told | {"long_name": "standard error of the reference, common to all AORs"},
        ),
        "mag_flag": deferred(magnitude_flag, flux, dtype=np.uint8, attrs=_FLAG_ATTRIBUTES),
    }
    return replace_variables(dataset, made)


# ------------------------------------------------------------------ colours


def _pairs(dataset: xr.Dataset, first: str, second: str) -> dict[str, tuple[int, int]]:
    """Return the columns of both channels by what their types have in common."""
    channels, names = channels_of(dataset), type_names(dataset)
    by_channel: dict[str, dict[str, int]] = {}
    for k, (channel, name) in enumerate(zip(channels, names, strict=True)):
        by_channel.setdefault(channel, {})[name.split("_", 1)[-1]] = k
    for wanted in (first, second):
        if wanted not in by_channel:
            msg = (
                f"there is no type of channel {wanted!r}{closest(wanted, by_channel)}; this "
                f"Dataset has {', '.join(by_channel)}"
            )
            raise UnknownName(msg)
    shared = {
        rest: (column, by_channel[second][rest])
        for rest, column in by_channel[first].items()
        if rest in by_channel[second]
    }
    if not shared:
        msg = f"no type of {first} has its like in {second}: a colour needs the same of both"
        raise UsageError(msg)
    return shared


_BOTH = ("mag", "mag_err")


def _of_methods(dataset: xr.Dataset, name: str, columns: list[int]) -> xr.Variable:
    chosen = xr.DataArray(dataset.variables[name].isel(type=columns))
    return chosen.rename(type="method").variable


def colours(dataset: xr.Dataset, first: str, second: str, *, system: System = "AB") -> xr.Dataset:
    """Return colours of objects, AOR by AOR.

    Parameters
    ----------
    dataset
        Of ours.
    first, second
        Channels; the colour is the magnitude in the first minus that in the second.
    system
        ``AB`` or ``Vega``, where the Dataset has no magnitudes yet.

    Returns
    -------
    xarray.Dataset
        ``colour`` and ``colour_err`` (object, method, aor), where ``method`` is what types of both
        channels have in common, such as ``aper2_clean``; NaN where one flux is not positive.

    Raises
    ------
    UnknownName
        There is no type of a channel.
    UsageError
        No type of one has its like in the other, or both are the same.
    """
    require(dataset, "flux", "flux_err")
    if first == second:
        msg = f"a colour is between two channels, not of {first!r} and itself"
        raise UsageError(msg)
    pairs = _pairs(dataset, first, second)
    whole = dataset if "mag" in dataset.data_vars else magnitudes(dataset, system)
    one, other = (
        {name: _of_methods(whole, name, [pair[k] for pair in pairs.values()]) for name in _BOTH}
        for k in (0, 1)
    )
    used = str(whole.variables["mag"].attrs.get("system", system))
    told = {"units": "mag", "system": used}
    title = {"long_name": f"{first} - {second}, {used} magnitudes"}
    made = {
        "colour": deferred(colour, one["mag"], other["mag"], dtype=np.float64, attrs=told | title),
        "colour_err": deferred(
            colour_error,
            one["mag_err"],
            other["mag_err"],
            dtype=np.float64,
            attrs=told | {"long_name": "standard error of colour"},
        ),
    }
    kept = {
        name: variable.variable
        for name, variable in whole.coords.items()
        if "type" not in variable.dims and not str(name).startswith(("type_", "unit", "radius_"))
    }
    kept.pop("type", None)
    found = xr.Dataset(made, kept, whole.attrs)
    return found.assign_coords(method=("method", list(pairs), {"long_name": "method and image"}))
