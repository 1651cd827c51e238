"""What an exported file says about itself: store, settings, times, magnitudes, types and flags.

No moment of export is among it, so that the same lightcurves give the same file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.flags import FLAGS
from idfzarr.lightcurve import AB_ZERO_MAGNITUDE, VEGA_ZERO_FLUX
from idfzarr.store.root import software

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from idfzarr.care.lightcurve_rows import RowForm
    from idfzarr.store.cube import Cube

__all__ = ["TIME_NOTE", "Notes", "TypeNote", "notes_of"]

TIME_NOTE = "mjd: mid-exposure at the observatory, Modified Julian Date, UTC, days"
_BJD_NOTE = "; bjd_tdb: Barycentric Julian Date, TDB, days"


@dataclass(frozen=True)
class TypeNote:
    """Attributes of a measurement type.

    Attributes
    ----------
    name, channel, method, image, unit
        As the store has them.
    radius_arcsec
        Of the aperture; None where there is none.
    """

    name: str
    channel: str
    method: str
    image: str
    unit: str
    radius_arcsec: float | None

    def to_text(self) -> str:
        """Return it as one line."""
        radius = "" if self.radius_arcsec is None else f", radius {self.radius_arcsec:.6g} arcsec"
        unit = self.unit or "none"
        return (
            f"type {self.name}: channel {self.channel}, method {self.method}, image {self.image}"
            f"{radius}, unit {unit}"
        )


@dataclass(frozen=True)
class Notes:
    """What stands in an exported file besides its columns.

    Attributes
    ----------
    creator
        This package and its version.
    store, store_uuid, store_created, store_generation
        Which store, and how often it was changed since it was published.
    store_software
        Versions that wrote it.
    settings_digest
        sha256 of the settings it was built with; empty where it was not built.
    n_aors
        AORs in the store.
    time, magnitude
        What the times and magnitudes are.
    calibrated, good_only
        What was done to the lightcurves.
    types
        Attributes of the types in the file.
    """

    creator: str
    store: str
    store_uuid: str
    store_created: str
    store_generation: int
    store_software: str
    settings_digest: str
    n_aors: int
    time: str
    magnitude: str
    calibrated: bool
    good_only: bool
    types: tuple[TypeNote, ...]

    def plain(self) -> dict[str, Any]:
        """Return all but the types, by name."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "types"}

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types, with the meanings of the flags."""
        flags = [
            {"bit": one.bit, "name": one.name, "meaning": one.meaning, "bad": one.bad}
            for one in FLAGS
        ]
        types = {
            one.name: {k: v for k, v in vars(one).items() if k != "name"} for one in self.types
        }
        return {**self.plain(), "types": types, "flags": flags}

    def lines(self) -> list[str]:
        """Return types and flags as lines, for formats that hold only text."""
        flags = [
            f"flag {one.bit} {one.name}{' (bad)' if one.bad else ''}: {one.meaning}"
            for one in FLAGS
        ]
        return [*(one.to_text() for one in self.types), *flags]


def notes_of(cube: Cube, types: Iterable[str], form: RowForm) -> Notes:
    """Return what a file of lightcurves of these types says about itself."""
    ours: Mapping[str, Any] = cube.attributes["idfzarr"]
    barycentric = "bjd_tdb" in cube.coordinate_names
    told = ours.get("software") or {}
    return Notes(
        creator=f"idfzarr {software()['idfzarr']}",
        store=os.path.basename(cube.path.rstrip("/")),
        store_uuid=cube.uuid,
        store_created=str(ours.get("created", "")),
        store_generation=int(ours.get("generation", 0)),
        store_software=", ".join(f"{name} {version}" for name, version in sorted(told.items())),
        settings_digest=str(ours.get("settings_digest") or ""),
        n_aors=cube.shape[3],
        time=TIME_NOTE + (_BJD_NOTE if barycentric else ""),
        magnitude=_magnitude_note(form),
        calibrated=form.calibrated,
        good_only=form.good,
        types=tuple(_type_note(cube, name) for name in types),
    )


def _magnitude_note(form: RowForm) -> str:
    if form.system == "AB":
        return f"AB: {AB_ZERO_MAGNITUDE} - 2.5 log10(flux / uJy)"
    zeros = ", ".join(f"{name} {flux / 1e6:.1f} Jy" for name, flux in VEGA_ZERO_FLUX.items())
    return f"Vega: -2.5 log10(flux / zero flux), zero flux {zeros}"


def _type_note(cube: Cube, name: str) -> TypeNote:
    column = cube.column(name)

    def of(coordinate: str) -> str:
        known = coordinate in cube.coordinate_names
        return str(cube.coordinate(coordinate)[column]) if known else ""

    radius = np.nan
    if "radius_arcsec" in cube.coordinate_names:
        radius = float(cube.coordinate("radius_arcsec")[column])
    return TypeNote(
        name=name,
        channel=of("type_channel") or name.split("_", 1)[0],
        method=of("type_method"),
        image=of("type_image"),
        unit=of("unit"),
        radius_arcsec=radius if np.isfinite(radius) else None,
    )
