"""Read exported FITS files with lightkurve.

Importing this module teaches lightkurve the format; idfzarr itself never imports lightkurve::

    import lightkurve as lk
    import idfzarr.care.lightkurve_reader

    curve = lk.LightCurve.read("12_ch1_aper2_clean.fits", format="idfzarr")
    curve = lk.LightCurve.read("many.fits", format="idfzarr", object=12, type="ch1_aper2_clean")

astropy and lightkurve know no entry point by which a package could announce a reader of a
`LightCurve` unasked. `idfzarr.lightcurve.Lightcurve.to_lightkurve` needs no file.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from idfzarr.care.lightcurve_fits import TIME_COLUMN
from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.lightcurve import Lightcurve, imported_lightkurve

__all__ = ["FORMAT_NAME", "read_exported", "register"]

FORMAT_NAME = "idfzarr"
"""What ``format=`` is called in ``LightCurve.read``."""


def read_exported(
    path: str | os.PathLike[str], *, object: int | None = None, type: str | None = None
) -> Lightcurve:
    """Return a lightcurve from a FITS file that was written by `export_lightcurves`.

    Parameters
    ----------
    path
        The file.
    object, type
        Which lightcurve of it; needed where it holds several.

    Returns
    -------
    Lightcurve
        As it was written; without the calibration's own columns.

    Raises
    ------
    UsageError
        The file is none of ours, or holds several lightcurves and none is named.
    UnknownName
        It does not hold the one that is named.
    """
    from astropy.io import fits

    with fits.open(path, checksum=True) as opened:
        names = [one.name for one in opened]
        found = [n for n in ("LIGHTCURVE", "LIGHTCURVES") if n in names]
        if not found:
            msg = f"{os.fspath(path)} holds no lightcurves of idfzarr: it has {', '.join(names)}"
            raise UsageError(msg)
        header, data = opened[found[0]].header.copy(), np.array(opened[found[0]].data)
    if found[0] == "LIGHTCURVES":
        data = _of_many(data, os.fspath(path), object, type)
        object_id, type_ = int(data["object"][0]), data["type"][0].decode()
        place = [float(data[n][0]) if n in _names(data) else np.nan for n in ("ra", "dec")]
    else:
        object_id, type_ = int(header["OBJECT"]), str(header["TYPE"])
        _refuse_other(os.fspath(path), object_id, type_, object, type)
        place = [float(header.get(name, np.nan)) for name in ("RA_OBJ", "DEC_OBJ")]
    unit = data["unit"][0].decode() if "unit" in _names(data) else _unit(header)
    native = {
        name: data[name].astype(data[name].dtype.newbyteorder("=")) for name in _columns(data)
    }
    return Lightcurve(
        object_id=object_id,
        type=type_,
        aor=native["aor"],
        mjd=native[TIME_COLUMN],
        flux=native["flux"],
        flux_err=native["flux_err"],
        flag=native["flag"].astype(np.uint16),
        unit=unit,
        bjd_tdb=native.get("bjd_tdb"),
        ra=place[0],
        dec=place[1],
        is_calibrated=bool(header.get("CALIBRAT", False)),
    )


def _columns(data: Any) -> list[str]:
    wanted = ("aor", TIME_COLUMN, "bjd_tdb", "flux", "flux_err", "flag")
    return [name for name in wanted if name in _names(data)]


def _names(data: Any) -> tuple[str, ...]:
    return tuple(data.dtype.names)


def _unit(header: Any) -> str:
    """Return the unit of the column of fluxes."""
    numbers = {header[key]: key[5:] for key in header if key.startswith("TTYPE")}
    return str(header.get(f"TUNIT{numbers['flux']}", ""))


def _of_many(data: Any, path: str, object_id: int | None, type_: str | None) -> Any:
    """Return the rows of one lightcurve."""
    kept = np.ones(len(data), dtype=bool)
    if object_id is not None:
        kept &= data["object"] == object_id
    if type_ is not None:
        kept &= data["type"] == type_.encode("ascii", "replace")
    count = len(np.unique(data[kept][["object", "type"]]))
    if count == 0:
        known = [one.decode() for one in np.unique(data["type"])]
        near = "" if type_ is None else closest(type_, known)
        which = "" if object_id is None else f" of object {object_id}"
        which += "" if type_ is None else f", type {type_!r}"
        msg = f"{path} has no lightcurve{which}{near}"
        raise UnknownName(msg)
    if count > 1:
        msg = f"{path} holds {count} such lightcurves: say which by object= and type="
        raise UsageError(msg)
    return data[kept]


def _refuse_other(
    path: str, held: int, held_type: str, object_id: int | None, type_: str | None
) -> None:
    """Refuse a lightcurve that is not the one of a file."""
    if object_id not in {None, held} or type_ not in {None, held_type}:
        msg = f"{path} holds only the lightcurve of object {held}, type {held_type}"
        raise UnknownName(msg)


def register() -> None:
    """Teach lightkurve the format; done when this module is imported.

    Raises
    ------
    MissingExtra
        lightkurve is not installed.
    """
    from astropy.io import registry

    light_curve = imported_lightkurve().LightCurve

    def read(path: str | os.PathLike[str], **which: Any) -> Any:
        return read_exported(path, **which).to_lightkurve()

    registry.register_reader(FORMAT_NAME, light_curve, read, force=True)


register()
