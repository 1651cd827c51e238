"""Make coordinates, calibration and statistics of a store anew; only statistics are written.

What can be had back, and from where:

- ``object``, ``ra``, ``dec``, ``x``, ``y`` from their twins in the catalogue, and the other way
  round; ``type``, ``aor_name``, ``value`` from the attributes of ``lightcurves``, ``type_*``,
  ``unit``, ``radius_arcsec`` and ``channel`` from these and the superstack;
- ``dx``, ``dy``, ``offset_rms``, ``sky``, ``sky_rms``, ``n_hits``, ``noise_scale`` from the ledger;
- ``mjd``, ``exptime``, ``bjd_tdb``, ``aor`` from the headers of the mosaics and the AOR table,
  which must be given where it does not lie beside them;
- ``zeropoint``, ``zeropoint_err`` and ``catalogue/comparison_flux`` from the lightcurves, which
  must be whole. They are exact but for two cases, which are told: zero points that were found
  together with those of AORs that have been replaced since, and those of appended AORs of a cube of
  reduced precision, which were found before it was applied.

Other columns of the catalogue and the superstack cannot be had back one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.calibrate import calibrate, comparison_rows, zero_points
from idfzarr.build.past_grids import factor_and_unit, files_of
from idfzarr.build.provenance import Measured, read_history, schema_of_root, writer_of_root
from idfzarr.build.source_files import Found, ImageFolder, find_sources
from idfzarr.errors import ImageMissing, SettingsDiffer, UsageError, closest
from idfzarr.imaging.aor_table import find_aor_table, match_aors, read_aor_table
from idfzarr.imaging.discovery import natural
from idfzarr.imaging.mosaic import read_header
from idfzarr.measurement import parse_measurement
from idfzarr.progress import Progress, silent
from idfzarr.store.arrays import read_array
from idfzarr.store.ledger import read_ledger
from idfzarr.store.place import place_of
from idfzarr.store.published import read_shard
from idfzarr.store.root import Root, read_root
from idfzarr.store.schema import LIGHTCURVES, VALUES
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from idfzarr.build.provenance import History
    from idfzarr.store.place import PlaceLike
    from idfzarr.store.schema import CubeSchema

__all__ = ["REBUILDABLE", "RebuiltColumns", "rebuild_coordinates"]

_TWINS = {
    "object": "catalogue/object_id",
    **{name: f"catalogue/{name}" for name in ("ra", "dec", "x", "y")},
}
_LABELS = ("type", "value", "aor_name", "channel")
_OF_TYPES = ("type_channel", "type_image", "type_method", "radius_arcsec", "unit")
_MEASURED = ("dx", "dy", "offset_rms", "sky", "sky_rms", "n_hits")
_TIMES = ("aor", "mjd", "exptime", "bjd_tdb")
_CALIBRATION = ("zeropoint", "zeropoint_err", "catalogue/comparison_flux")

REBUILDABLE = (
    *_TWINS,
    *_TWINS.values(),
    *_LABELS,
    *_OF_TYPES,
    *_MEASURED,
    "noise_scale",
    *_TIMES,
    *_CALIBRATION,
)
"""Arrays, by path, that `rebuild_coordinates` can make anew."""


@dataclass(frozen=True, eq=False)
class RebuiltColumns:
    """Arrays as a clean build writes them.

    Attributes
    ----------
    values
        By path.
    inexact
        By path, why values may differ from those of the build: one sentence.
    """

    values: Mapping[str, NDArray[Any]]
    inexact: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class _Sources:
    """What columns are made from."""

    root: Root
    schema: CubeSchema
    history: History
    writer: CubeWriter


def rebuild_coordinates(
    store: PlaceLike,
    names: Sequence[str],
    *,
    images: str | Path | None = None,
    aor_table: str | Path | None = None,
    progress: Progress = silent,
) -> RebuiltColumns:
    """Make coordinates and calibration anew; what can be had and what cannot is said above.

    Parameters
    ----------
    store
        A published store with its ledger; its root must be whole.
    names
        Paths of arrays, of `REBUILDABLE`.
    images
        Folder in which mosaics are looked for, and their AOR table.
    aor_table
        The AOR table.
    progress
        Told of images found and types calibrated.

    Returns
    -------
    RebuiltColumns
        Nothing is written.

    Raises
    ------
    UsageError
        An array cannot be made anew.
    ImageMissing, AorTableError
        Times are asked for, and mosaics are gone or do not tell them.
    SettingsDiffer
        Times are asked for, and mosaics or AOR table are of other AORs.
    CorruptError
        What an array is made from is damaged itself.
    """
    place = place_of(store)
    root = read_root(place)
    for name in names:
        if name not in REBUILDABLE or not root.is_array(name):
            known = [n for n in REBUILDABLE if root.is_array(n)]
            msg = (
                f"{name!r} of {place.url} cannot be made anew{closest(name, known)}; "
                f"{', '.join(known)} can"
            )
            raise UsageError(msg)
    schema = schema_of_root(root)
    history = read_history(read_ledger(place).for_store(root.uuid), root, schema)
    sources = _Sources(root, schema, history, writer_of_root(root, schema))
    found: dict[str, NDArray[Any]] = {}
    inexact: dict[str, str] = {}
    for name in names:
        if name in found:
            continue
        if name in _TIMES:
            told = _times(sources, images, aor_table, progress)
            _refuse_other_aors(sources, told["aor"], asked=names)
            found |= told
        elif name in _CALIBRATION:
            calibrated, reason = _calibration(sources, progress)
            found |= calibrated
            inexact |= dict.fromkeys(calibrated, reason) if reason else {}
        else:
            found[name] = _column(sources, name)
    values = {name: _as_stored(root, name, found[name]) for name in names}
    return RebuiltColumns(values, {n: why for n, why in inexact.items() if n in names})


def _as_stored(root: Root, name: str, values: NDArray[Any]) -> NDArray[Any]:
    dtype = root.metadata[name]["data_type"]
    return values.astype(str if dtype == "string" else dtype)


def _column(sources: _Sources, name: str) -> NDArray[Any]:
    """Return what the store itself and its ledger tell."""
    root, schema = sources.root, sources.schema
    twin = (_TWINS | {b: a for a, b in _TWINS.items()}).get(name)
    if twin is not None:
        return read_array(root.place, twin, root.metadata[twin])
    if name in _MEASURED:
        return _measured(sources, name)
    if name == "noise_scale":
        return _noise_scale(sources)
    measurements = [parse_measurement(t) for t in schema.types]
    if name == "radius_arcsec":
        scale = _pixel_scale(root, schema)
        radii = [math.nan if m.radius is None else m.radius * scale for m in measurements]
        return np.array(radii)
    if name == "unit":
        unit = _unit(root, schema)
        one = root.metadata[LIGHTCURVES]["attributes"].get("units")
        return np.array([one or ("" if m.statistic else unit) for m in measurements], dtype=str)
    channels = sorted({m.channel for m in measurements}, key=natural)
    words: dict[str, Sequence[str]] = {
        "type": schema.types,
        "value": VALUES,
        "aor_name": schema.aor_names,
        "channel": channels,
        "type_channel": [m.channel for m in measurements],
        "type_image": [m.image for m in measurements],
        "type_method": [m.method for m in measurements],
    }
    if name == "channel" and len(channels) != root.metadata[name]["shape"][0]:
        msg = f"{root.place.url} has channels without types: their names cannot be made anew"
        raise UsageError(msg)
    return np.array(words[name], dtype=str)


def _pixel_scale(root: Root, schema: CubeSchema) -> float:
    node = root.metadata.get(f"images/superstack/{schema.channels[0]}", {})
    scale = node.get("attributes", {}).get("pixel_scale")
    return math.nan if scale is None else float(scale)


def _unit(root: Root, schema: CubeSchema) -> str:
    """Return the unit of sums over the superstack's pixels."""
    node = root.metadata.get(f"images/superstack/{schema.channels[0]}", {})
    unit = str(node.get("attributes", {}).get("unit", ""))
    return factor_and_unit(unit, _pixel_scale(root, schema))[1]


# ---------------------------------------------------------------- from the ledger


def _refuse_unknown(sources: _Sources, name: str) -> None:
    if sources.history.unknown:
        msg = (
            f"{name!r} of {sources.root.place.url} cannot be made anew: its ledger does not speak "
            f"of {len(sources.history.unknown)} AORs ({sources.history.unknown[0]}, ...)"
        )
        raise UsageError(msg)


def _measured(sources: _Sources, name: str) -> NDArray[np.float64]:
    """Return a quantity (aor, channel): of an AOR's newest measurement in a channel."""
    _refuse_unknown(sources, name)
    schema = sources.schema
    channels = sorted(schema.channels, key=natural)
    values = np.full((len(schema.aor_names), len(channels)), np.nan)
    place_of_aor = {aor: k for k, aor in enumerate(schema.aor_names)}
    for batch in sources.history.staged:
        if batch.kind == "relayout":
            continue
        for told in batch.record.fields.get("sources", ()):
            if told.get("channel") in channels and told["aor"] in place_of_aor:
                at = place_of_aor[told["aor"]], channels.index(told["channel"])
                values[at] = math.nan if told.get(name) is None else told[name]
    return values


def _noise_scale(sources: _Sources) -> NDArray[np.float32]:
    _refuse_unknown(sources, "noise_scale")
    schema = sources.schema
    scales = np.full((len(schema.types), len(schema.aor_names)), np.nan, dtype=np.float32)
    for source in sources.history.measured:
        for type_ in source.types:
            value = source.told[0].get("noise_scale", {}).get(type_)
            if value is not None:
                scales[schema.types.index(type_), source.position] = value
    return scales


# ---------------------------------------------------------------- times


def _times(
    sources: _Sources,
    images: str | Path | None,
    aor_table: str | Path | None,
    progress: Progress,
) -> dict[str, NDArray[Any]]:
    _refuse_unknown(sources, "mjd")
    schema = sources.schema
    newest = {(s.aor, s.channel): s for s in sources.history.measured}
    if any(not channel for _, channel in newest):
        msg = f"{sources.root.place.url} was imported from tables: import it again for its times"
        raise UsageError(msg)
    own: list[Measured] = [newest[key] for key in sorted(newest, key=_order)]
    folder = None if images is None else ImageFolder(images)
    files = []
    for source, found in zip(own, find_sources(own, folder, progress=progress), strict=True):
        if not isinstance(found, Found):
            error = ImageMissing if found.why == "missing" else SettingsDiffer
            msg = f"times of {sources.root.place.url} cannot be made anew: {found.reason}"
            raise error(msg)
        files.append(files_of(source, found))
    where = aor_table
    if where is None:
        where = find_aor_table(files[0].sci.parent if images is None else images)
    table = None if where is None else read_aor_table(where)
    aors = match_aors(files, table, [read_header(f) for f in files])
    rows = [aors.name.index(name) if name in aors.name else -1 for name in schema.aor_names]
    if -1 in rows:
        gone = schema.aor_names[rows.index(-1)]
        msg = f"the AOR table {where} has no row for AOR {gone} of {sources.root.place.url}"
        raise SettingsDiffer(msg)
    return {
        "aor": aors.reqkey[rows],
        "mjd": aors.mjd[rows],
        "exptime": aors.exptime[rows],
        "bjd_tdb": aors.bjd_tdb[rows],
    }


def _order(key: tuple[str, str]) -> tuple[object, object]:
    return natural(key[0]), natural(key[1])


def _refuse_other_aors(sources: _Sources, reqkeys: NDArray[Any], *, asked: Sequence[str]) -> None:
    """Compare reqkeys with those of the store, unless it is they that are asked for."""
    if "aor" in asked:
        return
    root = sources.root
    there = read_array(root.place, "aor", root.metadata["aor"])
    if not np.array_equal(there, reqkeys):
        msg = (
            f"the headers and the AOR table give other reqkeys than {root.place.url} has: give the "
            "AOR table that it was built with"
        )
        raise SettingsDiffer(msg)


# ---------------------------------------------------------------- calibration


@dataclass(frozen=True)
class _Calculating(CubeWriter):
    """A writer that keeps the comparison stars of a calibration, and writes nothing."""

    kept: list[NDArray[np.float64]] = field(kw_only=True, default_factory=list, compare=False)

    def write_table(
        self,
        group: str,
        columns: Mapping[str, NDArray[Any]],
        *,
        dims: tuple[str, ...] = ("object",),
        attributes: Mapping[str, Any] | None = None,
        column_attributes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Keep the columns."""
        del group, dims, attributes, column_attributes
        self.kept.extend(columns.values())


def _calibration(sources: _Sources, progress: Progress) -> tuple[dict[str, NDArray[Any]], str]:
    """Return zero points and comparison stars, and in what they may be inexact.

    A type's comparison stars were chosen when it came, of the AORs that there were then; later AORs
    were calibrated by these.
    """
    schema, history = sources.schema, sources.history
    scales = _noise_scale(sources)
    shape = (len(schema.types), len(schema.aor_names))
    zeropoint, error = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    kept = np.full((schema.layout.n_objects, len(schema.types)), np.nan)
    since = np.array([history.added[t] for t in schema.types])
    changed = _last_changes(history, schema)
    told = ""
    for generation in np.unique(since):
        columns = np.flatnonzero(since == generation)
        n_then = _n_aors(history, schema, int(generation))
        then = _Calculating(
            **vars(replace(sources.writer, schema=_shortened(schema, n_then))),
        )
        own, own_error, _ = calibrate(then, scales[:, :n_then], progress=progress)
        zeropoint[columns, :n_then] = own[columns]
        error[columns, :n_then] = own_error[columns]
        kept[:, columns] = then.kept[0][:, columns]
        if (changed[:n_then] > generation).any():
            told = "AORs were replaced since their zero points were found together with these"
    later = changed[None, :] > since[:, None]
    if later.any():
        _calibrate_later(
            sources, scales=scales, kept=kept, later=later, zeropoint=zeropoint, error=error
        )
        if schema.precision is not None:
            told = told or "zero points of later AORs were found before precision was reduced"
    return {
        "zeropoint": zeropoint,
        "zeropoint_err": error,
        "catalogue/comparison_flux": kept,
    }, told


def _shortened(schema: CubeSchema, n_aors: int) -> CubeSchema:
    """Return a cube as it was when it had fewer AORs."""
    layout = replace(schema.layout, n_aors=n_aors)
    return replace(schema, layout=layout, aor_names=schema.aor_names[:n_aors])


def _last_changes(history: History, schema: CubeSchema) -> NDArray[np.intp]:
    """Return the generation in which each AOR was measured last."""
    place_of_aor = {aor: k for k, aor in enumerate(schema.aor_names)}
    changed = np.zeros(len(schema.aor_names), dtype=np.intp)
    for batch in history.staged:
        if batch.kind != "relayout":
            for aor in batch.record.fields["aors"]:
                if aor in place_of_aor:
                    changed[place_of_aor[aor]] = batch.generation
    return changed


def _n_aors(history: History, schema: CubeSchema, generation: int) -> int:
    """Return how many AORs a cube had in a generation; new ones come after those there are."""
    there = {
        aor
        for batch in history.staged
        if batch.generation <= generation
        for aor in batch.record.fields["aors"]
    }
    return sum(name in there for name in schema.aor_names)


def _calibrate_later(
    sources: _Sources,
    *,
    scales: NDArray[np.float32],
    kept: NDArray[np.float64],
    later: NDArray[np.bool_],
    zeropoint: NDArray[np.float32],
    error: NDArray[np.float32],
) -> None:
    """Fill in zero points that were found by comparison stars of before."""
    schema = sources.schema
    rows = {c: comparison_rows(kept, schema, c) for c in schema.channels}
    wanted = np.unique(np.concatenate(list(rows.values())))
    values = _rows_of_cube(sources, wanted)
    for column, type_ in enumerate(schema.types):
        own = rows[parse_measurement(type_).channel]
        aors = np.flatnonzero(later[column])
        if not len(own) or not len(aors):
            continue
        block = np.stack([values[int(row)][column][:, aors] for row in own])
        isolated = np.ones(len(own), dtype=bool)
        found = zero_points(block, scales[column, aors], isolated, kept[own, column])
        zeropoint[column, aors], error[column, aors] = found.zeropoint, found.zeropoint_err


def _rows_of_cube(sources: _Sources, rows: NDArray[np.intp]) -> dict[int, NDArray[np.float32]]:
    """Return lightcurves (type, value, aor) of some objects, by row."""
    schema, root = sources.schema, sources.root
    found: dict[int, NDArray[np.float32]] = {}
    for shard in range(schema.layout.n_shards):
        first, last = schema.layout.rows(shard)
        inside = rows[(rows >= first) & (rows < last)]
        if len(inside):
            block = read_shard(root.place, schema, shard, uuid=root.uuid)
            found |= {int(row): block[row - first] for row in inside}
    return found
