"""Carry out a plan, action by action, so that it can be killed anywhere and run again.

Before a file of the store is touched its bytes are in quarantine, on disk. Every write is all or
nothing and goes through the ledger as a build's does. Nothing is written outside the store, its
ledger and its quarantine, and no link is followed.
"""

from __future__ import annotations

import fcntl
import os
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from idfzarr.care.array_repair import find_values, mended_chunks
from idfzarr.care.known_store import KnownStore, know_store, says, shard_number
from idfzarr.care.ledger_repair import mend_ledger
from idfzarr.care.quarantine import Quarantine, contained
from idfzarr.care.read_only import ReadOnlyPlace
from idfzarr.care.rebuilding import Measured, Source, rebuild, recompute_statistics
from idfzarr.care.repair_plan import Action, Outcome, RepairPlan, RepairReport
from idfzarr.care.shard_repair import (
    DamagedShard,
    Remedy,
    distrusting_all,
    find_remedy,
    lost_lightcurve,
    put_together,
    shard_record,
)
from idfzarr.care.skycell_groups import RESTORED_FROM, restored_group
from idfzarr.care.skycell_repair import refetch
from idfzarr.care.skycells import is_skycells
from idfzarr.care.writers import refuse_live_writers
from idfzarr.errors import IdfzarrError, ImageMissing, MetadataCorrupt, StorageFull, UsageError
from idfzarr.progress import Progress, silent
from idfzarr.store.arrays import json_bytes
from idfzarr.store.checksum import crc32c, is_intact
from idfzarr.store.exchange import RELAID_SUFFIX, settle_exchange
from idfzarr.store.ledger import LEDGER_SUFFIX, Ledger
from idfzarr.store.place import LocalPlace, locked, place_of
from idfzarr.store.relayout import abandon_update
from idfzarr.store.root import ROOT_KEY, root_bytes
from idfzarr.store.root_copy import attributes_of_damaged, choose_copy
from idfzarr.store.schema import ROOT_ATTRIBUTE, STAGING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from idfzarr.store.schema import CubeSchema

__all__ = ["REPAIR_LOCK", "apply_plan"]

REPAIR_LOCK = "repair.lock"
"""Held in the ledger's folder while a plan is carried out."""

_SHOWN = 3
_MOST_REBUILT = 1 << 28  # bytes of lightcurves that are measured again at once

_Done = tuple[str, str, tuple[str, ...]]  # result, message, what is lost


@dataclass(frozen=True)
class _Mended:
    """A whole shard, what was done, what is lost, and what may differ in its last bits."""

    data: bytes
    message: str
    lost: tuple[str, ...] = ()
    inexact: tuple[str, ...] = ()


@dataclass
class _Work:
    """What the actions of one run share."""

    place: LocalPlace
    plan: RepairPlan
    progress: Progress = silent
    quarantine: Quarantine = field(init=False)
    measured: Measured = field(default_factory=lambda: Measured({}))
    inexact: tuple[str, ...] = ()
    _ledgers: dict[str, Ledger] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.quarantine = Quarantine(self.place)

    def known(self) -> KnownStore:
        """Return what is known of the store now; every action may have changed it."""
        return know_store(self.place)

    def ledger(self, uuid: str) -> Ledger:
        return self._ledgers.setdefault(uuid, Ledger(self.place, uuid))

    def write(self, key: str, data: bytes, *, reason: str) -> None:
        """Replace a file, its bytes kept in quarantine first."""
        contained(self.place.root, key)
        self.quarantine.keep(key, reason)
        self.place.write(key, data)


def apply_plan(plan: RepairPlan, *, progress: Progress = silent) -> RepairReport:
    """Carry out a plan.

    Parameters
    ----------
    plan
        From `idfzarr.care.repair.plan_repair` or `idfzarr.care.cleaning.plan_cleaning`.
    progress
        Told of actions done.

    Returns
    -------
    RepairReport
        One outcome for every action.

    Raises
    ------
    UsageError
        A writer is at work, another repair is, or the store is on object storage.
    StorageFull
        The disk or the quota is full; what is done is kept.
    """
    place = place_of(plan.url)
    if not isinstance(place, LocalPlace):
        msg = (
            f"{place.url} is on object storage, where nothing is repaired in place; copy the store "
            "to a local disk, repair it there and copy it back"
        )
        raise UsageError(msg)
    if not plan.actions:
        return RepairReport(plan.url, (), plan.lost)
    work = _Work(place, plan, progress)
    with _only_repair(place):
        if not is_skycells(ReadOnlyPlace(place)):  # there arrays appear whole, whoever else writes
            refuse_live_writers(place)
        _refuse_another(work)
        outcomes = []
        for number, action in enumerate(plan.actions, start=1):
            outcomes.append(_carry_out(work, action))
            progress("repairing", number, len(plan.actions))
    lost = tuple(sorted({*plan.lost, *(text for one in outcomes for text in one.lost)}))
    name = work.quarantine.name if work.quarantine.items else ""
    return RepairReport(plan.url, tuple(outcomes), lost, name)


@contextmanager
def _only_repair(place: LocalPlace) -> Iterator[None]:
    """Hold the lock of repair; refuse where another holds it."""
    folder = place.beside(LEDGER_SUFFIX)
    if os.path.islink(folder.root):
        msg = f"{folder.root} is a link; the ledger must be a folder: nothing is repaired over it"
        raise UsageError(msg)
    os.makedirs(folder.root, exist_ok=True)
    path = contained(folder.root, REPAIR_LOCK)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    handle = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"{place.root} is being repaired by another process; wait until it has finished"
            raise UsageError(msg) from None
        yield
    finally:
        os.close(handle)


def _refuse_another(work: _Work) -> None:
    """Refuse a plan that was made for another store than the one that stands there now."""
    root = work.known().root
    if work.plan.uuid is not None and root is not None and root.uuid != work.plan.uuid:
        msg = (
            f"the plan is for the store {work.plan.uuid}, but at {work.place.root} stands "
            f"{root.uuid}; make an inventory and plan again"
        )
        raise UsageError(msg)


def _carry_out(work: _Work, action: Action) -> Outcome:
    """Do one action; what goes wrong with it is told, and the next is done."""
    try:
        work.inexact = ()
        result, message, lost = _DO[action.kind](work, action)
    except StorageFull:
        raise
    except (IdfzarrError, OSError) as error:
        return Outcome(action, "failed", str(error))
    how: Literal["done", "unneeded"] = "done" if result == "done" else "unneeded"
    return Outcome(action, how, message, lost, work.inexact)


# -------------------------------------------------------------------- metadata, updates, ledger


def _restore_metadata(work: _Work, action: Action) -> _Done:
    if action.details.get("from") == RESTORED_FROM:
        data = restored_group(work.place, action.key)
        if data is None:
            return "unneeded", f"{action.key} is as it must be", ()
        work.write(action.key, data, reason=action.reason)
        return "done", f"{action.key} was written anew", ()
    if action.key == ROOT_KEY:
        return _restore_root(work, action)
    root = work.known().root
    path = action.key.removesuffix(f"/{ROOT_KEY}")
    if root is None or path not in root.metadata:
        msg = f"{action.key} cannot be restored: the root of {work.place.root} does not name it"
        raise MetadataCorrupt(msg)
    wanted = json_bytes(root.metadata[path])
    if says(work.place, action.key, root.metadata[path]):
        return "unneeded", f"{action.key} is as the root has it", ()
    work.write(action.key, wanted, reason=action.reason)
    return "done", f"{action.key} was written anew from the root", ()


def _restore_root(work: _Work, action: Action) -> _Done:
    chosen = choose_copy(work.place)
    if chosen is None:
        msg = f"the ledger of {work.place.root} has no copy of its root that can be believed"
        raise MetadataCorrupt(msg)
    data, root = chosen
    theirs = {
        name: value
        for name, value in attributes_of_damaged(work.place).items()
        if name not in {ROOT_ATTRIBUTE, "Conventions", "coordinates"}
    }
    own = {k: v for k, v in root.attributes.items() if k not in theirs}
    if theirs and any(root.attributes.get(name) != value for name, value in theirs.items()):
        ours = {k: v for k, v in root.ours.items() if k != "metadata_crc32c"}
        data = root_bytes(ours, root.metadata, extra=own | theirs)
    work.write(ROOT_KEY, data, reason=action.reason)
    return "done", f"the root was restored from the ledger's copy {root.generation}", ()


def _settle(work: _Work, action: Action) -> _Done:
    """Put a committed change in place, or take an uncommitted one back."""
    given_up = abandon_update(work.place) if action.kind == "abandon_update" else None
    if given_up is not None:
        return "done", f"the {given_up} was given up", ()
    before = _traces(work.place)
    settle_exchange(work.place)
    if _traces(work.place) != before:
        return "done", "a committed change was put in place, and what it left was tidied up", ()
    return "unneeded", "no change is under way", ()


def _traces(place: LocalPlace) -> tuple[bool, ...]:
    """Return what a change that was stopped leaves: no store, waiting files, trees beside it."""
    trees = [place.beside(suffix).exists() for suffix in (RELAID_SUFFIX, ".aside")]
    waits = next(iter(place.keys(STAGING)), None) is not None
    return (place.size(ROOT_KEY) is None, waits, *trees)


def _note_ledger(work: _Work, action: Action) -> _Done:
    told = mend_ledger(work.known(), action.key, work.quarantine, reason=action.reason)
    if told is None:
        return "unneeded", f"every line of {action.key} matches its crc32c", ()
    return "done", told, ()


# -------------------------------------------------------------------- arrays and shards


def _rewrite_array(work: _Work, action: Action) -> _Done:
    known = work.known()
    path = str(action.details.get("array", action.key))
    found = find_values(known, path, work.plan.images)
    chunks = mended_chunks(known, path, found)
    if not chunks:
        return "unneeded", f"every chunk of {path} is intact", ()
    if found.values is None and not (action.details.get("is_lost") or work.plan.accept_loss):
        msg = (
            f"{path} was left as it is, since the plan did not foresee that it would be lost: "
            f"{found.source}; mend the rest and plan again, or accept the loss with --accept-loss"
        )
        raise ImageMissing(msg)
    for key, data in chunks.items():
        work.write(key, data, reason=action.reason)
    if found.values is None:
        assert known.root is not None  # noqa: S101  # its metadata told the chunks
        work.ledger(known.root.uuid).append("note", lost=path, keys=sorted(chunks))
        text = f"{path}: {found.source}"
        return "done", f"{len(chunks)} chunks of {path} are NaN now", (text,)
    return "done", f"{len(chunks)} chunks of {path} were written anew from {found.source}", ()


def _rewrite_shard(work: _Work, action: Action) -> _Done:
    number = shard_number(action.key)
    known = work.known()
    schema = known.schema
    if number is None or schema is None or known.root is None:
        msg = f"{action.key} cannot be written: the layout of {work.place.root} is not known"
        raise MetadataCorrupt(msg)
    ledger = work.place.beside(LEDGER_SUFFIX)
    with locked(ledger, f"shard-{number}.lock"):
        remedy = _remedy(work, action, known, schema, number)
        if remedy.source == "nothing":
            return "unneeded", f"{action.key} is whole", ()
        mended = _mended(work, action, schema, remedy)
        more = {"lost": len(remedy.damaged.left.lost)} if mended.lost else {}
        told = shard_record(schema, remedy.damaged, mended.data, **more)
        _put_shard(work, action, known.root.uuid, mended.data, told)
    work.inexact = mended.inexact
    return "done", mended.message, mended.lost


def _remedy(
    work: _Work, action: Action, known: KnownStore, schema: CubeSchema, number: int
) -> Remedy:
    runs = action.details.get("distrust", ())
    keys = [one.key for one in work.plan.actions if shard_number(one.key) is not None]
    return find_remedy(
        known,
        schema,
        number,
        distrust=[slot for first, last in runs for slot in range(first, last)],
        is_wrong=bool(action.details.get("is_wrong")),
        among=keys,
    )


def _mended(work: _Work, action: Action, schema: CubeSchema, remedy: Remedy) -> _Mended:
    damaged = remedy.damaged
    if remedy.data is not None:
        return _Mended(remedy.data, f"{action.key} was put together from {remedy.source}")
    lost = damaged.left.lost
    if action.kind == "mark_lost":
        values = {slot: lost_lightcurve(schema) for slot in lost}
        data = put_together(schema, damaged, values)
        told = f"{len(lost)} lightcurves of {action.key} are lost: {action.details.get('why')}"
        return _Mended(data, f"{action.key}: {len(lost)} lightcurves were marked as lost", (told,))
    data = put_together(schema, damaged, _rebuilt(work, schema, damaged.number, lost))
    if not _is_noted(damaged, data) and damaged.left.how == "order":
        # The chunks that were taken by their order may be in another: rebuild every one.
        every = distrusting_all(damaged)
        values = _rebuilt(work, schema, damaged.number, every.left.lost)
        whole = put_together(schema, every, values)
        if _is_noted(damaged, whole):
            return _Mended(whole, f"{action.key} was rebuilt from the mosaics")
    types = {schema.types[slot % schema.layout.n_types] for slot in lost}
    without = tuple(one for one in work.measured.lost if one.types & types)
    _refuse_unforeseen(work, action, without)
    equal = "" if _is_noted(damaged, data) else ", not equal to what the ledger notes"
    told = f"{action.key}: {len(lost)} lightcurves were rebuilt from the mosaics"
    return _Mended(data, told + equal, tuple(one.why for one in without), _last_bits(work, action))


def _is_noted(damaged: DamagedShard, data: bytes) -> bool:
    """Say whether a file is the one that the ledger notes, or of which it notes nothing."""
    told = {"size": len(data), "crc32c": crc32c(data), "crc32": zlib.crc32(data)}
    return all(damaged.noted.get(name) in {None, value} for name, value in told.items())


def _refuse_unforeseen(work: _Work, action: Action, without: tuple[Source, ...]) -> None:
    """Refuse to lose more than the plan said, unless that was asked for."""
    foreseen = set(action.details.get("without", ()))
    more = [one for one in without if one.name not in foreseen]
    if more and not work.plan.accept_loss:
        msg = (
            f"{action.key} was left as it is, since the plan did not foresee that measurements "
            f"would be lost: {more[0].why}"
            + (f", and {len(more) - 1} more" if len(more) > 1 else "")
            + "; give the mosaics that were measured with --from, or accept the loss with "
            "--accept-loss"
        )
        raise ImageMissing(msg)


def _last_bits(work: _Work, action: Action) -> tuple[str, ...]:
    """Tell of mosaics that measure a little differently now."""
    names = work.measured.inexact
    if not names:
        return ()
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    told = (
        f"{action.key}: {len(names)} mosaics ({shown}) do not measure to the last bit as the "
        "ledger notes, so rebuilt values may differ in their last bits"
    )
    return (told,)


def _rebuilt(
    work: _Work, schema: CubeSchema, number: int, slots: tuple[int, ...]
) -> dict[int, NDArray[np.float32]]:
    """Return the values of lost slots."""
    names = {slot: (number, *divmod(slot, schema.layout.n_types)) for slot in slots}
    if not all(name in work.measured.values for name in names.values()):
        wanted = {number: [(row, column) for _, row, column in names.values()]}
        wanted |= _also_wanted(work, schema, number, len(slots))
        work.measured = rebuild(work.place, wanted, images=work.plan.images, progress=work.progress)
    return {slot: work.measured.values[name] for slot, name in names.items()}


def _also_wanted(
    work: _Work, schema: CubeSchema, number: int, taken: int
) -> dict[int, list[tuple[int, int]]]:
    """Return what the next shards want: every mosaic is measured whole for whatever is asked."""
    room = _MOST_REBUILT // (schema.layout.chunk_bytes or 1) - taken
    wanted: dict[int, list[tuple[int, int]]] = {}
    known = work.known()
    for action in work.plan.actions:
        shard = shard_number(action.key)
        if action.kind != "rewrite_shard" or shard is None or shard <= number:
            continue
        remedy = _remedy(work, action, known, schema, shard)
        if remedy.source == "mosaics":
            slots = remedy.damaged.left.lost
            room -= len(slots)
            if room < 0:
                break
            wanted[shard] = [divmod(slot, schema.layout.n_types) for slot in slots]
    return wanted


def _put_shard(work: _Work, action: Action, uuid: str, data: bytes, told: dict[str, Any]) -> None:
    """Write a shard as a build does: intent, the file, done; its old bytes are in quarantine."""
    ledger = work.ledger(uuid)
    contained(work.place.root, action.key)
    work.quarantine.keep(action.key, action.reason)
    ledger.append("intent", **told)
    work.place.write(action.key, data)
    ledger.append("done", **told)


def _recompute(work: _Work, action: Action) -> _Done:
    for key in list(work.place.keys(action.key)):
        contained(work.place.root, key)
        if "/c/" in key and not is_intact(work.place.read(key)):
            work.quarantine.keep(key, action.reason)
    recompute_statistics(work.place, progress=work.progress)
    return "done", "the statistics of every lightcurve were computed anew", ()


# -------------------------------------------------------------------- quarantine


def _quarantine(work: _Work, action: Action) -> _Done:
    """Move a file or a folder's files into quarantine, and tell the ledger of a shard's."""
    beside = str(action.details.get("beside", ""))
    keys = files_of(work.place, action.key, beside)
    taken = [work.quarantine.take(key, action.reason, beside=beside) for key in keys]
    moved = [item for item in taken if item is not None]
    if not beside:
        _tell_removed(work, [item.key for item in moved], action)
    _remove_folders(work.place, action.key, beside)
    if not moved:
        return "unneeded", f"{action.key} is not there any more", ()
    n_bytes = sum(item.size for item in moved)
    return "done", f"{len(moved)} files, {n_bytes} bytes, were moved to quarantine", ()


def _tell_removed(work: _Work, keys: list[str], action: Action) -> None:
    """Note shards as removed, so that a build makes them again; those of an earlier try too."""
    root = work.known().root
    shards = [key for key in {action.key, *keys} if shard_number(key) is not None]
    if root is not None and shards:
        noted = [{"key": key, "reason": action.reason} for key in sorted(shards)]
        work.ledger(root.uuid).append_all("removed", noted)


def files_of(place: LocalPlace, key: str, beside: str) -> list[str]:
    """Return the keys of the plain files of a key: itself, or all below it; links are left out."""
    top = place.beside(f".{beside}") if beside else place
    path = contained(top.root, key) if key else _whole(top)
    if not os.path.isdir(path):
        return [key] if key and os.path.lexists(path) else []
    found = []
    for folder, folders, files in os.walk(path):  # links to folders are not followed
        folders.sort()
        names = (f"{folder}/{name}".removeprefix(f"{top.root}/") for name in sorted(files))
        found += [name for name in names if not os.path.islink(top.path(name))]
    return found


def _whole(top: LocalPlace) -> str:
    """Return a folder beside a store; raises `UsageError` where it is a link."""
    if os.path.islink(top.root):
        msg = f"{top.root} is a link; nothing is moved over links: remove it by hand"
        raise UsageError(msg)
    return top.root


def _remove_folders(place: LocalPlace, key: str, beside: str) -> None:
    """Remove folders that are empty now, from the innermost out."""
    top = place.beside(f".{beside}") if beside else place
    path = contained(top.root, key) if key else _whole(top)
    if not os.path.isdir(path):
        return
    for folder, _, _ in os.walk(path, topdown=False):
        if not os.listdir(folder):
            os.rmdir(folder)


def _refetch(work: _Work, action: Action) -> _Done:
    return refetch(
        work.place, action, work.quarantine, images=work.plan.images, progress=work.progress
    )


_DO: dict[str, Callable[[_Work, Action], _Done]] = {
    "restore_metadata": _restore_metadata,
    "note_ledger": _note_ledger,
    "roll_forward": _settle,
    "abandon_update": _settle,
    "rewrite_array": _rewrite_array,
    "rewrite_shard": _rewrite_shard,
    "mark_lost": _rewrite_shard,
    "recompute_variability": _recompute,
    "refetch": _refetch,
    "quarantine": _quarantine,
}
