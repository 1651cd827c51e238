"""What there is to build from: mosaics, AORs, their grid, and what cannot be used."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units

from idfzarr.build.placed import PlacedMosaic, Source, place_mosaic, work_place
from idfzarr.build.report import Skipped, json_value
from idfzarr.build.scheduler import Task, run_tasks
from idfzarr.errors import ImageMissing, SettingsDiffer, UsageError
from idfzarr.imaging.aor_table import (
    AorList,
    AorTable,
    find_aor_table,
    match_aors,
    read_aor_table,
)
from idfzarr.imaging.mosaic import (
    DEFAULT_PATTERN,
    MosaicFiles,
    MosaicHeader,
    check_kinds,
    discover,
    read_header,
    read_mosaic,
    require_times,
    source_digest,
)
from idfzarr.imaging.register import Grid, StarField, choose_grid, find_stars
from idfzarr.imaging.sky import Plane, rough_plane

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from idfzarr.progress import Progress
    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.place import LocalPlace
    from idfzarr.store.writer import CubeWriter

__all__ = [
    "Registered",
    "Survey",
    "grid_of",
    "note_skipped",
    "refuse_other_sources",
    "register_mosaics",
    "skipped_before",
    "survey_images",
]

_STRIP_MEMORY = 1 << 30
"""Bytes of one channel's mosaics above which they are kept as files that can be mapped."""

_MICROJANSKY_PER_STERADIAN = 1e12  # 1 MJy/sr


@dataclass(frozen=True)
class Survey:
    """What a folder of mosaics holds.

    Attributes
    ----------
    mosaics, headers
        Mosaics that may be used and their headers, in one order.
    aors
        The AORs, in time order.
    skipped
        What is left out so far.
    notes
        Sentences worth reading.
    """

    mosaics: tuple[MosaicFiles, ...]
    headers: tuple[MosaicHeader, ...]
    aors: AorList
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels there are mosaics of."""
        return tuple(self.aors.channels)

    @property
    def has_wcs(self) -> bool:
        """Whether the mosaics say where on the sky they are."""
        return self.headers[0].wcs is not None

    @property
    def unit(self) -> str:
        """Unit of a stored flux: uJy where the mosaics are calibrated, else their own."""
        return self.scale_and_unit()[1]

    def scale_and_unit(self) -> tuple[float, str]:
        """Return what a sum of pixels is multiplied by, and the unit it then has.

        Surface brightness becomes microjansky by the solid angle of a pixel of the first mosaic's
        grid (a pixel of 0.6 arcsec holds 8.4616e-12 sr).

        Raises
        ------
        UsageError
            The mosaics differ in unit.
        """
        found = sorted({header.unit for header in self.headers})
        if len(found) > 1:
            units_found = ", ".join(map(repr, found))
            msg = f"the mosaics differ in unit (BUNIT): {units_found}; build them apart"
            raise UsageError(msg)
        return _scale_and_unit(found[0], self.headers[0].pixel_scale)

    def without(self, gone: Sequence[Skipped]) -> Survey:
        """Return the survey without the mosaics that turned out not to be usable."""
        lost = {(skipped.aor, skipped.channel) for skipped in gone}
        kept = [k for k, m in enumerate(self.mosaics) if (m.aor, m.channel) not in lost]
        if not kept:
            msg = f"not one mosaic can be used; the first: {gone[0].reason}"
            raise ImageMissing(msg)
        return replace(
            self,
            mosaics=tuple(self.mosaics[k] for k in kept),
            headers=tuple(self.headers[k] for k in kept),
            aors=_aors_of(self.aors, [self.mosaics[k] for k in kept]),
            skipped=(*self.skipped, *gone),
        )


def _scale_and_unit(unit: str, pixel_scale: float) -> tuple[float, str]:
    try:
        parsed = units.Unit(unit)
    except ValueError:
        return 1.0, ""
    if parsed.is_equivalent(units.MJy / units.sr) and math.isfinite(pixel_scale):
        solid_angle = (pixel_scale * units.arcsec).to_value(units.rad) ** 2
        factor = parsed.to(units.MJy / units.sr)
        return factor * solid_angle * _MICROJANSKY_PER_STERADIAN, "uJy"
    if parsed.is_equivalent(units.Jy):
        return parsed.to(units.uJy), "uJy"
    return 1.0, parsed.to_string()


def survey_images(
    images: str | Path,
    *,
    pattern: str | None = None,
    kinds: Mapping[str, str] | None = None,
    channel: str | None = None,
    aor_table: str | Path | None = None,
) -> Survey:
    """Find the mosaics and bring them together with the AOR table.

    Parameters
    ----------
    images
        A folder.
    pattern, kinds, channel
        See `idfzarr.imaging.mosaic.discover`.
    aor_table
        The AOR table; one that lies in the folder by its usual name is used unasked.

    Returns
    -------
    Survey
        What can be used and what cannot.

    Raises
    ------
    ImageError
        There is no mosaic, or two of one AOR and channel.
    AorTableError
        The table cannot be used, or there is none and the headers tell no time.
    """
    folder = Path(images)
    mosaics = discover(folder, pattern=pattern or DEFAULT_PATTERN, kinds=kinds, channel=channel)
    skipped = [_fault(s.aor, s.channel, s.reason) for s in check_kinds(mosaics)]
    usable, headers = _read_headers(mosaics, skipped)
    if not usable:
        msg = f"not one mosaic in {folder} can be used; the first: {skipped[0].reason}"
        raise ImageMissing(msg)
    if channel is None and "{channel}" not in (pattern or DEFAULT_PATTERN):
        usable = _named_by_headers(usable, headers)
    where = Path(aor_table) if aor_table is not None else find_aor_table(folder)
    table: AorTable | None = None if where is None else read_aor_table(where)
    if table is None:
        require_times(headers)
    aors = match_aors(usable, table, headers)
    unusable = {s.aor for s in skipped}  # these have an image, and the fault is told above
    without_image = [
        Skipped(s.aor, s.channel or "*", s.reason, is_fault=False)
        for s in aors.without_image
        if s.aor not in unusable
    ]
    without_row = [_fault(s.aor, s.channel, s.reason) for s in aors.without_row]
    gone = {(s.aor, s.channel) for s in without_row}
    kept = [
        k
        for k, m in enumerate(usable)
        if m.aor in set(aors.name) and (m.aor, m.channel) not in gone
    ]
    return Survey(
        mosaics=tuple(usable[k] for k in kept),
        headers=tuple(headers[k] for k in kept),
        aors=aors,
        skipped=(*skipped, *without_row, *without_image),
        notes=() if table is None else (f"times from the AOR table {where}",),
    )


def _fault(aor: str, channel: str, reason: str) -> Skipped:
    return Skipped(aor, channel or "*", reason)


def _read_headers(
    mosaics: Sequence[MosaicFiles], skipped: list[Skipped]
) -> tuple[list[MosaicFiles], list[MosaicHeader]]:
    """Read the headers of the mosaics not skipped yet; add those that cannot be read."""
    gone = {(s.aor, s.channel) for s in skipped}
    asked = [m for m in mosaics if (m.aor, m.channel) not in gone]
    tasks = [Task(str(m.sci), read_header, (m,)) for m in asked]
    outcomes = run_tasks("reading headers", tasks, scheduler="synchronous")
    usable, headers = [], []
    for files, outcome in zip(asked, outcomes, strict=True):
        if outcome.ok:
            usable.append(files)
            headers.append(outcome.result)
        else:
            skipped.append(_fault(files.aor, files.channel, outcome.reason or ""))
    return usable, headers


def _named_by_headers(
    mosaics: list[MosaicFiles], headers: Sequence[MosaicHeader]
) -> list[MosaicFiles]:
    """Return the mosaics under IRAC's channel where all headers agree on it."""
    told = {header.filter for header in headers}
    name = told.pop() if len(told) == 1 else ""
    if not re.fullmatch(r"ch[1-4]", name):
        return mosaics
    return [replace(mosaic, channel=name) for mosaic in mosaics]


def _aors_of(aors: AorList, mosaics: Sequence[MosaicFiles]) -> AorList:
    """Return the AORs that still have a mosaic, NaN times where a channel has none."""
    there = {(m.aor, m.channel) for m in mosaics}
    names = {aor for aor, _ in there}
    rows = np.array([k for k, name in enumerate(aors.name) if name in names], dtype=np.intp)
    seen = np.array(
        [[(aors.name[k], channel) in there for channel in aors.channels] for k in rows], dtype=bool
    )
    kept = [k for k, channel in enumerate(aors.channels) if seen[:, k].any()]
    seen = seen[:, kept]

    def cut(values: Any) -> Any:
        return np.where(seen, values[rows][:, kept], np.nan)

    return replace(
        aors,
        reqkey=aors.reqkey[rows],
        name=tuple(aors.name[k] for k in rows),
        channels=tuple(aors.channels[k] for k in kept),
        mjd=cut(aors.mjd),
        exptime=cut(aors.exptime),
        bjd_tdb=cut(aors.bjd_tdb),
        columns={name: values[rows] for name, values in aors.columns.items()},
    )


def _stars_of(files: MosaicFiles) -> StarField:
    mosaic = read_mosaic(files)
    return find_stars(mosaic.sci, mosaic.bad, saturated=mosaic.saturated)


def grid_of(
    survey: Survey, *, scheduler: Any, workers: int | None, progress: Progress
) -> tuple[Survey, Grid, dict[tuple[str, str], StarField]]:
    """Choose the field's grid; for frames without WCS by their stars.

    Returns
    -------
    survey, grid, stars
        The survey without frames that cannot be read; the grid; the stars of each frame by AOR and
        channel, empty where WCS say it all.
    """
    if survey.has_wcs:
        return survey, choose_grid(survey.headers), {}
    tasks = [Task(str(files.sci), _stars_of, (files,)) for files in survey.mosaics]
    outcomes = run_tasks(
        "finding stars", tasks, scheduler=scheduler, workers=workers, progress=progress
    )
    gone = [
        _fault(files.aor, files.channel, outcome.reason or "")
        for files, outcome in zip(survey.mosaics, outcomes, strict=True)
        if not outcome.ok
    ]
    left = survey.without(gone) if gone else survey
    fields = [outcome.result for outcome in outcomes if outcome.ok]
    stars = {(m.aor, m.channel): f for m, f in zip(left.mosaics, fields, strict=True)}
    return left, choose_grid(left.headers, stars=fields), stars


@dataclass(frozen=True)
class Registered:
    """A mosaic that was read whole and lies on the grid.

    Attributes
    ----------
    source
        How tasks read it.
    sky
        First estimate of its background.
    how, dx, dy, rms, n_stars
        Its placement, see `idfzarr.imaging.register.Placement`.
    files
        Path, size and sha256 of each file it came from.
    has_unc
        Whether it has ``unc``.
    """

    source: Source
    sky: Plane
    how: str
    dx: float
    dy: float
    rms: float
    n_stars: int
    files: tuple[dict[str, Any], ...]
    has_unc: bool

    def to_fields(self) -> dict[str, Any]:
        """Return it as a ledger keeps it."""
        return {
            "aor": self.source.files.aor,
            "channel": self.source.files.channel,
            "kept": self.source.kept,
            "sky": {k: json_value(v) for k, v in vars(self.sky).items()},
            "placement": {
                k: json_value(getattr(self, k)) for k in ("how", "dx", "dy", "rms", "n_stars")
            },
            "files": list(self.files),
            "has_unc": self.has_unc,
        }


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _file_stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class _Placing:
    """How mosaics are brought onto the grid: its sky, and whether a mappable file is kept."""

    grid: Grid
    sky: str
    keep: bool


def _register(
    writer: CubeWriter, source: Source, stars: StarField | None, how: _Placing
) -> Registered:
    """Read a mosaic whole, place it, and say so in the ledger."""
    stamps = {kind: _file_stamp(path) for kind, path in source.files.paths.items()}
    digests = {kind: source_digest(path) for kind, path in source.files.paths.items()}
    work = work_place(writer.place)
    placed_source, placed, placement = place_mosaic(
        source, how.grid, sky=how.sky, stars=stars, work=work, keep=how.keep
    )
    files = tuple(
        {
            "kind": kind,
            "path": str(path),
            "size": digests[kind][0],
            "sha256": digests[kind][1],
            "mtime_ns": stamps[kind][1],
        }
        for kind, path in source.files.paths.items()
    )
    registered = Registered(
        source=placed_source,
        sky=_sky(placed),
        how=placement.how,
        dx=placement.dx,
        dy=placement.dy,
        rms=placement.rms,
        n_stars=placement.n_stars,
        files=files,
        has_unc=placed.variance is not None,
    )
    writer.ledger.append("registered", **registered.to_fields())
    return registered


def _sky(placed: PlacedMosaic) -> Plane:
    return rough_plane(placed.flux, ~placed.good)


def _remembered(state: LedgerState, work: LocalPlace) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what earlier runs registered and what has not changed since."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in state.of("registered"):
        fields = dict(record.fields)
        kept = fields["kept"]
        unchanged = all(_is_unchanged(file) for file in fields["files"])
        there = kept is None or Path(kept).is_file()
        if unchanged and there and (kept is None or Path(kept).parent == Path(work.root)):
            found[fields["aor"], fields["channel"]] = fields
        else:
            found.pop((fields["aor"], fields["channel"]), None)
    return found


def _is_unchanged(file: Mapping[str, Any]) -> bool:
    try:
        return _file_stamp(Path(file["path"])) == (file["size"], file["mtime_ns"])
    except OSError:
        return False


def _recalled(source: Source, fields: Mapping[str, Any]) -> Registered:
    told = fields["placement"]
    sky: dict[str, Any] = {
        k: _number(v) if k in _SKY_FLOATS else v for k, v in fields["sky"].items()
    }
    return Registered(
        source=replace(source, kept=fields["kept"]),
        sky=Plane(**sky),
        how=str(told["how"]),
        dx=_number(told["dx"]),
        dy=_number(told["dy"]),
        rms=_number(told["rms"]),
        n_stars=int(told["n_stars"]),
        files=tuple(fields["files"]),
        has_unc=bool(fields["has_unc"]),
    )


_SKY_FLOATS = ("constant", "slope_x", "slope_y", "rms")


def register_mosaics(
    survey: Survey,
    grid: Grid,
    stars: Mapping[tuple[str, str], StarField],
    *,
    writer: CubeWriter,
    sky: str,
    scheduler: Any,
    workers: int | None,
    progress: Progress,
) -> tuple[Survey, list[Registered]]:
    """Read every mosaic whole, once, and bring it onto the grid.

    What earlier runs of the same build registered is not read again unless its files changed.

    Returns
    -------
    survey, registered
        The survey without the mosaics that cannot be used, and the others in its order.

    Raises
    ------
    ImageMissing
        None can be used.
    StorageFull
        There is no room for the work folder.
    """
    sources = {(m.aor, m.channel): Source(-1, m) for m in survey.mosaics}
    known = _remembered(writer.state(), work_place(writer.place))
    per_channel = len(survey.mosaics) / max(1, len(survey.channels))
    keep = per_channel * grid.shape[0] * grid.shape[1] * 9 > _STRIP_MEMORY
    how = _Placing(grid, sky, keep)
    todo = [key for key in sources if key not in known]
    tasks = [
        Task(str(sources[key].files.sci), _register, (writer, sources[key], stars.get(key), how))
        for key in todo
    ]
    outcomes = run_tasks(
        "reading mosaics", tasks, scheduler=scheduler, workers=workers, progress=progress
    )
    results = {key: _recalled(sources[key], known[key]) for key in sources if key in known}
    gone = []
    for key, outcome in zip(todo, outcomes, strict=True):
        if outcome.ok:
            results[key] = outcome.result
        else:
            gone.append(_fault(*key, outcome.reason or ""))
    left = survey.without(gone) if gone else survey
    place_of = {name: k for k, name in enumerate(left.aors.name)}
    return left, [
        replace(found, source=replace(found.source, position=place_of[m.aor]))
        for m in left.mosaics
        for found in (results[m.aor, m.channel],)
    ]


def refuse_other_sources(
    state: LedgerState, registered: Sequence[Registered], *, where: str
) -> None:
    """Refuse to go on with measurements that were made from other files.

    What is staged was measured against a superstack of the files there were then; with any of them
    changed, old and new measurements would be mixed in one cube.

    Raises
    ------
    SettingsDiffer
        Something is staged; the sentence names the first file that differs.
    """
    if not state.staged and not state.done:
        return
    now = {str(f["path"]): f["sha256"] for found in registered for f in found.files}
    then = {
        str(f["path"]): f["sha256"]
        for record in state.staged.values()
        for source in record.fields["sources"]
        for f in source["files"]
    }
    changed = [path for path, digest in then.items() if now.get(path) != digest]
    named = f" ({changed[0]} differs)" if changed else ""
    msg = (
        f"{where} was begun from other mosaics than there are now{named}, and measurements of them "
        "are written already; put the files back, build into a new store, or remove this one"
    )
    raise SettingsDiffer(msg)


def note_skipped(writer: CubeWriter, given: Survey, kept: Survey) -> None:
    """Tell the ledger which mosaics turned out not to be usable when they were read."""
    reasons = {(s.aor, s.channel): s.reason for s in kept.skipped}
    left = {(m.aor, m.channel) for m in kept.mosaics}
    skipped = [
        {
            "aor": m.aor,
            "channel": m.channel,
            "reason": reasons.get((m.aor, m.channel), ""),
            "files": [_stamped(path) for path in m.paths.values()],
        }
        for m in given.mosaics
        if (m.aor, m.channel) not in left
    ]
    if skipped:
        writer.ledger.append("note", skipped=skipped)


def _stamped(path: Path) -> dict[str, Any]:
    size, mtime_ns = _file_stamp(path)
    return {"path": str(path), "size": size, "mtime_ns": mtime_ns}


def skipped_before(state: LedgerState) -> dict[tuple[str, str], Skipped]:
    """Return the mosaics that the build could not use, as long as their files have not changed."""
    notes = [r.fields["skipped"] for r in state.of("note") if "skipped" in r.fields]
    return {
        (told["aor"], told["channel"]): _fault(told["aor"], told["channel"], told["reason"])
        for told in (notes[-1] if notes else [])
        if all(_is_unchanged(file) for file in told["files"])
    }
