"""Add to a published cube: new AORs, AORs that were processed again, more types.

Only what is new is measured, with the apertures, the superstack and the comparison stars that the
cube was made with, so what was there keeps its values bit for bit.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.wcs import WCS

from idfzarr.build.calibrate import (
    calibrate,
    comparison_rows,
    measured_quantities,
    noise_scales,
    zero_points,
)
from idfzarr.build.register import (
    Registered,
    files_changed,
    register_mosaics,
    skipped_before,
)
from idfzarr.build.settings import Settings
from idfzarr.build.survey import Survey, stars_of_frames
from idfzarr.build.variability_table import write_variability
from idfzarr.errors import ImageMissing, SettingsDiffer, UnknownName, UsageError, closest
from idfzarr.imaging.register import STARING, Grid, find_stars
from idfzarr.measurement import parse_measurement
from idfzarr.store.append import CubeAppend, begin_append, begin_replace
from idfzarr.store.images import read_superstack
from idfzarr.store.ledger import read_ledger
from idfzarr.store.published import open_published
from idfzarr.store.root import ROOT_KEY
from idfzarr.store.update import update_under_way
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.progress import Progress
    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.place import Place
    from idfzarr.store.published import PublishedCube

__all__ = [
    "Extension",
    "aor_columns",
    "begin_extension",
    "calibrate_new",
    "calibrate_types",
    "grid_of_store",
    "in_order_of",
    "mosaics_of_cube",
    "plan_extension",
    "refuse_differences",
    "refuse_other_unit",
    "register_new",
    "stored_settings",
]


@dataclass(frozen=True)
class Extension:
    """What a published cube lacks of what was asked for.

    Attributes
    ----------
    cube
        The cube as it is.
    survey
        The mosaics that must be measured, and no others.
    skipped
        Mosaics that an earlier run could not use and that have not changed since.
    replaced
        Names of AORs to be measured again.
    new_types
        Types to be added.
    """

    cube: PublishedCube
    survey: Survey | None
    skipped: tuple[Any, ...]
    replaced: tuple[str, ...]
    new_types: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the cube has it all."""
        return self.survey is None and not self.new_types


def plan_extension(
    place: Place, survey: Survey, *, types: Sequence[str], replaced: Sequence[str]
) -> Extension:
    """Compare what was asked for with what a published cube has.

    Parameters
    ----------
    place
        The store.
    survey
        The mosaics there are.
    types
        The types asked for.
    replaced
        Names of AORs to be measured again.

    Returns
    -------
    Extension
        What is to be done.

    Raises
    ------
    SettingsDiffer
        The files of an AOR in the cube changed, and it was not asked to be replaced.
    UnknownName
        An AOR to be replaced is not in the cube, or has no mosaics.
    UsageError
        Types and AORs at once: types are measured on the AORs that are there.
    """
    cube = open_published(place)
    _refuse_other_channels(cube, types)
    writer = CubeWriter(place, schema=cube.schema, **cube.identity)
    state = writer.state()
    there = set(cube.schema.aor_names)
    for name in replaced:
        known = there & {m.aor for m in survey.mosaics}
        if name not in known:
            near = closest(name, known)
            msg = f"AOR {name!r} is not in {place.url}, or has no mosaics: nothing to replace{near}"
            raise UnknownName(msg)
    under_way = update_under_way(state, cube.root)
    if under_way is not None and under_way.kind == "replace" and not replaced:
        replaced = tuple(under_way.names)
    told = measured_quantities(state)
    before = skipped_before(state)
    _refuse_changed(place, survey, told, before, there - set(replaced))
    new = [
        (m.aor, m.channel)
        for m in survey.mosaics
        if (m.aor in replaced or m.aor not in there) and (m.aor, m.channel) not in before
    ]
    if replaced:
        new = [key for key in new if key[0] in replaced]
    new_types = tuple(t for t in types if t not in cube.schema.types)
    if new_types and new:
        msg = (
            f"{len(new_types)} types and {len({aor for aor, _ in new})} AORs cannot be added to "
            f"{place.url} at once: build with the AORs first, then again with --types"
        )
        raise UsageError(msg)
    own = [s for key, s in before.items() if key in {(m.aor, m.channel) for m in survey.mosaics}]
    return Extension(
        cube=cube,
        survey=survey.only(new) if new else None,
        skipped=tuple(own),
        replaced=tuple(replaced),
        new_types=new_types,
    )


def _refuse_other_channels(cube: PublishedCube, types: Sequence[str]) -> None:
    channels = cube.schema.channels
    strange = [t for t in types if parse_measurement(t).channel not in channels]
    if strange:
        msg = (
            f"type {strange[0]} cannot be added to {cube.place.url}, which was made from mosaics "
            f"of {', '.join(channels)} alone; build a new store from all channels"
        )
        raise UsageError(msg)


def _refuse_changed(
    place: Place,
    survey: Survey,
    told: Mapping[tuple[str, str], Mapping[str, Any]],
    before: Mapping[tuple[str, str], Any],
    there: set[str],
) -> None:
    """Refuse mosaics of AORs in the cube that are not those it was made from."""
    for files in survey.mosaics:
        key = (files.aor, files.channel)
        if files.aor not in there or key in before:
            continue
        known_aor = any(aor == files.aor for aor, _ in told)
        changed = files_changed(files, told.get(key, {}).get("files"))
        if key not in told and known_aor:
            changed = f"its mosaic in {files.channel} is new"
        if changed is not None:
            msg = (
                f"AOR {files.aor} is in {place.url} already, measured from other files than there "
                f"are now ({changed}): build with --replace {files.aor} to measure it again"
            )
            raise SettingsDiffer(msg)


def grid_of_store(place: Place, channel: str) -> Grid:
    """Return the grid that a cube was measured on, with its stars where it has no WCS.

    Parameters
    ----------
    place
        The store.
    channel
        Any of its channels; all lie on one grid.

    Returns
    -------
    Grid
        For `idfzarr.imaging.register.place`.
    """
    images = read_superstack(place, channel)
    cards = dict(images.header)
    scale, tolerance = (images.attributes.get(name) for name in ("pixel_scale", "tolerance"))
    wcs = WCS(cards) if cards else None
    bad = ~np.isfinite(images.flux)
    filled = np.where(bad, 0, images.flux).astype(np.float32)
    return Grid(
        shape=(images.flux.shape[0], images.flux.shape[1]),
        wcs=wcs,
        pixel_scale=_number(scale),
        reference=None,
        stars=find_stars(filled, bad) if wcs is None else None,
        tolerance=STARING if tolerance is None else float(tolerance),
    )


def stored_settings(place: Place) -> Settings | None:
    """Return the settings of a store that is finished or under way, None where there is none.

    Raises
    ------
    SettingsDiffer
        The store is ours, but was not made from mosaics.
    StoreError
        A finished store cannot be opened.
    """
    if place.size(ROOT_KEY) is not None:
        cube = open_published(place)
        told, types = dict(cube.root.ours.get("settings", {})), cube.schema.types
    else:
        begun = read_ledger(place).since_begin().begun
        if begun is None:
            return None
        told = json.loads(str(begun.fields.get("settings", "{}")))
        types = tuple(told.get("types", ()))
    if set(told) != {field.name for field in fields(Settings)}:
        msg = (
            f"{place.url} was not built from mosaics but filled in another way (create or import): "
            "build into a new store"
        )
        raise SettingsDiffer(msg)
    return Settings.from_dict(told | {"types": types})


def refuse_differences(place: Place, asked: Settings, stored: Settings) -> None:
    """Raise where something other than more types is asked of a finished cube.

    Raises
    ------
    SettingsDiffer
        It says in what they differ.
    """
    same_types = replace(asked, types=stored.types)
    if same_types != stored:
        msg = (
            f"{place.url} was made with other settings: {same_types.differences(stored)}; leave "
            "them out, or build a new store"
        )
        raise SettingsDiffer(msg)


def refuse_other_unit(cube: PublishedCube, unit: str) -> None:
    """Raise where mosaics would give fluxes of another unit than the cube has.

    Raises
    ------
    UsageError
        Naming both.
    """
    there = {str(u) for u in cube.coordinates["unit"]} - {""}
    if there and unit not in there:
        msg = (
            f"the mosaics give fluxes in {unit or 'no unit'}, and {cube.place.url} has "
            f"{', '.join(sorted(there))}: they are not calibrated alike"
        )
        raise UsageError(msg)


def mosaics_of_cube(cube: PublishedCube, state: LedgerState, survey: Survey) -> Survey:
    """Return the mosaics that a cube was made from, all of them.

    Raises
    ------
    ImageMissing
        One of them is not there: a new type needs every AOR.
    """
    there = {(m.aor, m.channel) for m in survey.mosaics}
    wanted = _mosaics_measured(cube, state)
    missing = [key for key in wanted if key not in there]
    if missing:
        msg = (
            f"types cannot be added to {cube.place.url}: the mosaic of AOR {missing[0][0]} in "
            f"{missing[0][1]} is not among the images ({len(missing)} missing)"
        )
        raise ImageMissing(msg)
    return survey.only(wanted)


def _mosaics_measured(cube: PublishedCube, state: LedgerState) -> list[tuple[str, str]]:
    """Return AOR and channel of every mosaic in a cube."""
    told = measured_quantities(state)
    known = {aor for aor, _ in told}
    # A copied store has no ledger to ask: an AOR has a time in the channels it was observed in.
    observed = np.isfinite(cube.coordinates["mjd"])
    return [
        (aor, channel)
        for a, aor in enumerate(cube.schema.aor_names)
        for c, channel in enumerate(cube.schema.channels)
        if ((aor, channel) in told if aor in known else observed[a, c])
    ]


def in_order_of(cube: PublishedCube, registered: Sequence[Registered]) -> list[Registered]:
    """Return mosaics with the places that their AORs have in a cube."""
    place_of = {name: k for k, name in enumerate(cube.schema.aor_names)}
    return [
        replace(r, source=replace(r.source, position=place_of[r.source.files.aor]))
        for r in registered
    ]


def calibrate_types(
    writer: CubeWriter,
    cube: PublishedCube,
    *,
    scheduler: Any,
    workers: int | None,
    progress: Progress,
) -> None:
    """Calibrate the types that a cube is laid out anew with; the others keep what they have."""
    schema = writer.schema
    if schema is None:
        return
    n_before = len(cube.schema.types)
    scales = noise_scales(schema, measured_quantities(writer.state()))
    scales[:n_before] = cube.coordinates["noise_scale"]
    zeropoint, zeropoint_err, _ = calibrate(writer, scales, frozen=True, progress=progress)
    zeropoint[:n_before] = cube.coordinates["zeropoint"]
    zeropoint_err[:n_before] = cube.coordinates["zeropoint_err"]
    writer.write_coordinate("noise_scale", scales)
    writer.write_coordinate("zeropoint", zeropoint)
    writer.write_coordinate("zeropoint_err", zeropoint_err)
    write_variability(
        writer, zeropoint, scales, scheduler=scheduler, workers=workers, progress=progress
    )


def aor_columns(survey: Survey, channels: Sequence[str]) -> dict[str, Any]:
    """Return the AORs of a survey as a store's table, times in the order of its channels.

    Raises
    ------
    UsageError
        The mosaics are of a channel that the cube has not.
    """
    aors = survey.aors
    strange = [c for c in aors.channels if c not in channels]
    if strange:
        msg = (
            f"mosaics of channel {strange[0]!r} do not go into a cube of {', '.join(channels)}; "
            "build a new store from all channels"
        )
        raise UsageError(msg)
    at = [aors.channels.index(c) if c in aors.channels else None for c in channels]

    def ordered(values: NDArray[np.float64]) -> NDArray[np.float64]:
        nothing = np.full(len(aors.name), np.nan)
        return np.stack([nothing if k is None else values[:, k] for k in at], axis=1)

    table: dict[str, Any] = {
        "aor": aors.reqkey,
        "aor_name": np.array(aors.name, dtype=str),
        "mjd": ordered(aors.mjd),
        "exptime": ordered(aors.exptime),
    }
    if np.isfinite(aors.bjd_tdb).any():
        table["bjd_tdb"] = ordered(aors.bjd_tdb)
    return table


def begin_extension(extension: Extension, survey: Survey, *, staging_aors: int) -> CubeAppend:
    """Begin to append or to replace, whichever the plan says."""
    cube = extension.cube
    table = aor_columns(survey, cube.schema.channels)
    if not extension.replaced:
        return begin_append(cube.place, aors=table, staging_aors=staging_aors)
    keys = {n: int(k) for n, k in zip(cube.schema.aor_names, cube.coordinates["aor"], strict=True)}
    table["aor"] = np.array([keys[name] for name in survey.aors.name], dtype=np.int64)
    return begin_replace(cube.place, aors=table, staging_aors=staging_aors)


def register_new(
    writer: CubeWriter,
    survey: Survey,
    grid: Grid,
    settings: Settings,
    **told: Any,
) -> tuple[Survey, list[Registered]]:
    """Read the new mosaics and bring them onto the cube's grid."""
    left, stars = stars_of_frames(survey, **told)
    return register_mosaics(left, grid, stars, writer=writer, sky=settings.sky, **told)


def calibrate_new(writer: CubeAppend) -> None:
    """Give the AORs of a change their zero points, by the comparison stars that the cube has."""
    schema, columns = writer.schema, list(writer.columns)
    if schema is None:
        return
    told = measured_quantities(writer.state())
    names = tuple(schema.aor_names[k] for k in columns)
    for name in ("dx", "dy", "offset_rms", "sky", "sky_rms", "n_hits"):
        quantity = np.array(
            [
                [_number(told.get((aor, channel), {}).get(name)) for channel in schema.channels]
                for aor in names
            ]
        )
        if writer.has_array(name):
            writer.write_coordinate(
                name, quantity, dims=None if name in ("dx", "dy") else ("aor", "channel")
            )
    scales = noise_scales(replace(schema, aor_names=names), told)
    frozen = writer.read_array("catalogue/comparison_flux")
    zeropoint = np.zeros(scales.shape, dtype=np.float32)
    zeropoint_err = np.zeros(scales.shape, dtype=np.float32)
    rows = {c: comparison_rows(frozen, schema, c) for c in schema.channels}
    values = _staged_rows(writer, np.unique(np.concatenate(list(rows.values()))))
    for column, type_ in enumerate(schema.types):
        own = rows[parse_measurement(type_).channel]
        block = np.stack([values[row][column] for row in own]) if len(own) else None
        if block is None:
            continue
        isolated = np.ones(len(own), dtype=bool)
        found = zero_points(block, scales[column], isolated, frozen[own, column])
        zeropoint[column], zeropoint_err[column] = found.zeropoint, found.zeropoint_err
    writer.write_coordinate("noise_scale", scales)
    writer.write_coordinate("zeropoint", zeropoint)
    writer.write_coordinate("zeropoint_err", zeropoint_err)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _staged_rows(writer: CubeAppend, rows: NDArray[np.intp]) -> dict[int, NDArray[np.float32]]:
    """Return what is staged of some objects, (type, value, new AOR) by row."""
    layout = writer.schema.layout if writer.schema else None
    found: dict[int, NDArray[np.float32]] = {}
    for shard in range(0 if layout is None else layout.n_shards):
        first, last = layout.rows(shard) if layout else (0, 0)
        inside = rows[(rows >= first) & (rows < last)]
        if len(inside):
            block = writer.read_staging(shard)
            for row in inside:
                found[int(row)] = block[:, row - first].transpose(1, 2, 0)
    return found
