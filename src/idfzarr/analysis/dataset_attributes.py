"""What the variables of a Dataset say about themselves: CF attributes and UCDs.

CF has no standard name for right ascension and declination, nor for a flux density, and none is
invented here; UCDs (https://www.ivoa.net/documents/UCD1+/) say what CF cannot. The cube has a
dimension of types between its objects and its times, which CF's discrete sampling geometries
(chapter 9) do not have, so that it claims no ``featureType``; ``cf_role`` tells which variable
names a time series.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.flags import flag_masks, flag_meanings
from idfzarr.store.schema import COORDINATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "CONVENTIONS",
    "coordinate_attributes",
    "dataset_attributes",
    "plain_attributes",
    "value_attributes",
]

CONVENTIONS = "CF-1.12"

_MORE: dict[str, dict[str, Any]] = {
    "object": {"ucd": "meta.id"},
    "object_id": {
        "long_name": "object id",
        "cf_role": "timeseries_id",
        "ucd": "meta.id;meta.main",
    },
    "ra": {"ucd": "pos.eq.ra;meta.main", "reference_frame": "ICRS"},
    "dec": {"ucd": "pos.eq.dec;meta.main", "reference_frame": "ICRS"},
    "x": {"ucd": "pos.cartesian.x;instr.det"},
    "y": {"ucd": "pos.cartesian.y;instr.det"},
    "aor": {"ucd": "meta.id;obs"},
    "aor_name": {"ucd": "meta.id;obs"},
    "channel": {"ucd": "meta.id;instr.bandpass"},
    "type_channel": {"ucd": "meta.id;instr.bandpass"},
    "unit": {"ucd": "meta.unit"},
    "radius_arcsec": {"ucd": "phys.angSize;instr.param"},
    "mjd": {"ucd": "time.epoch", "time_format": "mjd", "time_scale": "utc", "time_stamp": "mid"},
    "bjd_tdb": {
        "ucd": "time.epoch",
        "time_format": "jd",
        "time_scale": "tdb",
        "time_stamp": "mid",
        "time_reference": "barycenter",
    },
    "exptime": {"ucd": "time.duration;obs.exposure"},
    "zeropoint": {"ucd": "phot.mag;arith.zp", "ancillary_variables": "zeropoint_err"},
    "zeropoint_err": {"ucd": "stat.error;phot.mag;arith.zp"},
    "noise_scale": {"ucd": "stat.error;arith.ratio"},
}


def coordinate_attributes(name: str, known: Iterable[str]) -> dict[str, Any]:
    """Return the attributes of a coordinate.

    Parameters
    ----------
    name
        Its name.
    known
        Names of all variables that are there, so that none refers to one that is not.
    """
    definition = COORDINATES.get(name)
    told = dict(definition.attributes) if definition is not None else {}
    told |= _MORE.get(name, {})
    if told.get("ancillary_variables") not in {None, *known}:
        del told["ancillary_variables"]
    return told


def value_attributes(name: str, *, unit: str, known: Iterable[str]) -> dict[str, Any]:
    """Return the attributes of flux, flux_err or flag.

    Parameters
    ----------
    name
        Which.
    unit
        Of flux, empty where that differs from type to type.
    known
        Names of all variables that are there.
    """
    told: dict[str, Any]
    if name == "flag":
        return {
            "long_name": "flags of the measurement",
            "flag_masks": np.array(flag_masks(), dtype=np.uint16),
            "flag_meanings": flag_meanings(),
            "ucd": "meta.code.qual",
        }
    if name == "flux":
        there = set(known)
        others = " ".join(n for n in ("flux_err", "flag") if n in there)
        told = {"long_name": "flux", "ucd": "phot.flux"}
        told |= {"ancillary_variables": others} if others else {}
    else:
        told = {"long_name": "standard error of flux", "ucd": "stat.error;phot.flux"}
    if unit:
        told["units"] = unit
    else:
        told["comment"] = "the unit differs from type to type, see the coordinate unit"
    return told


def dataset_attributes(stored: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the attributes of a Dataset.

    Parameters
    ----------
    stored
        Those of the store's root.
    source
        The store as a person writes it.
    """
    # xarray has the coordinates themselves, and would write their names a second time.
    kept = {name: value for name, value in stored.items() if name != "coordinates"}
    return plain_attributes(kept) | {"Conventions": CONVENTIONS, "source": source}


def plain_attributes(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes that any file format takes: what has parts becomes JSON text.

    Parameters
    ----------
    stored
        As they stand in a store, in JSON's types; ``_FillValue`` is left out.
    """
    return {
        name: value if _is_plain(value) else json.dumps(value)
        for name, value in stored.items()
        if name != "_FillValue"
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        kinds = {type(one) for one in value}
        return bool(value) and (kinds == {str} or kinds <= {int, float})
    return isinstance(value, str | int | float) and not isinstance(value, bool)
