"""Mosaics read whole, brought onto the grid, and remembered by the files they came from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idfzarr.build.placed import PlacedMosaic, Source, place_mosaic, work_place
from idfzarr.build.report import Skipped, json_value
from idfzarr.build.scheduler import Task, run_tasks
from idfzarr.build.shard_tasks import refuse_failures
from idfzarr.build.survey import Survey, fault
from idfzarr.errors import SettingsDiffer
from idfzarr.imaging.mosaic import MosaicFiles, source_digest
from idfzarr.imaging.sky import Plane, rough_plane

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from idfzarr.imaging.register import Grid, StarField
    from idfzarr.progress import Progress
    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.place import LocalPlace
    from idfzarr.store.writer import CubeWriter

__all__ = [
    "Registered",
    "files_changed",
    "note_skipped",
    "refuse_other_sources",
    "register_mosaics",
    "skipped_before",
]

_NOT_THE_MOSAICS = ("os", "worker_died", "unexpected")
"""Kinds of failure that say nothing about the mosaic."""

_STRIP_MEMORY = 1 << 30
"""Bytes of one channel's mosaics above which they are kept as files that can be mapped."""


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


def _remembered(
    state: LedgerState, work: LocalPlace, sources: Mapping[tuple[str, str], Source]
) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what earlier runs registered of these sources and what has not changed since."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for record in state.of("registered"):
        fields = dict(record.fields)
        key, kept = (fields["aor"], fields["channel"]), fields["kept"]
        same = key in sources and _are_files_of(sources[key].files, fields["files"])
        unchanged = same and all(_is_unchanged(file) for file in fields["files"])
        there = kept is None or Path(kept).is_file()
        if unchanged and there and (kept is None or Path(kept).parent == Path(work.root)):
            found[key] = fields
        else:
            found.pop(key, None)
    return found


def _are_files_of(files: MosaicFiles, told: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether these are the paths of a mosaic; files of its name elsewhere are others."""
    return {kind: str(path) for kind, path in files.paths.items()} == {
        str(file["kind"]): str(file["path"]) for file in told
    }


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
    known = _remembered(writer.state(), work_place(writer.place), sources)
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
    # What the disk or a worker failed at says nothing about the mosaic: not one to leave out.
    refuse_failures("reading mosaics", [o for o in outcomes if o.kind in _NOT_THE_MOSAICS])
    gone = []
    for key, outcome in zip(todo, outcomes, strict=True):
        if outcome.ok:
            results[key] = outcome.result
        else:
            gone.append(fault(*key, outcome.reason or ""))
    if len(gone) == len(survey.mosaics):
        _note(writer, survey.mosaics, gone)  # now: what follows is an error
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
    left = {(m.aor, m.channel) for m in kept.mosaics}
    gone = [m for m in given.mosaics if (m.aor, m.channel) not in left]
    if gone:
        _note(writer, gone, kept.skipped)


def _note(writer: CubeWriter, gone: Sequence[MosaicFiles], skipped: Sequence[Skipped]) -> None:
    reasons = {(s.aor, s.channel): s.reason for s in skipped}
    told = [
        {
            "aor": m.aor,
            "channel": m.channel,
            "reason": reasons.get((m.aor, m.channel), ""),
            "files": [_stamped(path) for path in m.paths.values()],
        }
        for m in gone
    ]
    writer.ledger.append("note", skipped=told)


def files_changed(files: MosaicFiles, told: Sequence[Mapping[str, Any]] | None) -> str | None:
    """Return what differs between a mosaic's files and those it was measured from, or None.

    Parameters
    ----------
    files
        The mosaic's files as they are.
    told
        The files that the ledger names, or None where it names none: then nothing can be said.

    Returns
    -------
    str or None
        The first file that differs, is new or is gone. A file of the same path, size and time is
        taken to be the same; others are told by their sha256.
    """
    if told is None:
        return None
    then = {str(file["kind"]): file for file in told}
    for kind in sorted(then.keys() | files.paths.keys()):
        if kind not in then or kind not in files.paths:
            return f"its {kind} file is {'gone' if kind in then else 'new'}"
        path = files.paths[kind]
        same_place = str(path) == str(then[kind]["path"]) and _is_unchanged(then[kind])
        if not same_place and source_digest(path)[1] != then[kind]["sha256"]:
            return f"{path} has another sha256"
    return None


def _stamped(path: Path) -> dict[str, Any]:
    size, mtime_ns = _file_stamp(path)
    return {"path": str(path), "size": size, "mtime_ns": mtime_ns}


def skipped_before(state: LedgerState) -> dict[tuple[str, str], Skipped]:
    """Return the mosaics that the build could not use, as long as their files have not changed."""
    notes = [told for r in state.of("note") for told in r.fields.get("skipped", ())]
    newest = {(told["aor"], told["channel"]): told for told in notes}
    return {
        key: fault(*key, told["reason"])
        for key, told in newest.items()
        if all(_is_unchanged(file) for file in told["files"])
    }
