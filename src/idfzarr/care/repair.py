"""Plan a repair: for every finding of an inventory, what mends it.

Nothing is written here. Findings say where to look; what is really left of a shard is read again,
so that many findings of one shard are one action, and an action says how much of it is intact.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

from idfzarr.care.array_repair import find_values, is_recomputed, mended_chunks
from idfzarr.care.known_store import KnownStore, know_store, says, shard_number
from idfzarr.care.rebuilding import FROM_LIGHTCURVES, Sources, find_sources
from idfzarr.care.repair_plan import Action, RepairPlan
from idfzarr.care.shard_repair import find_remedy
from idfzarr.care.skycell_repair import plan_skycells
from idfzarr.errors import IdfzarrError, UsageError
from idfzarr.store.ledger import LEDGER_SUFFIX
from idfzarr.store.place import place_of
from idfzarr.store.root import ROOT_KEY, read_root
from idfzarr.store.root_copy import choose_copy
from idfzarr.store.schema import STAGING, VARIABILITY
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from idfzarr.care.finding import Finding
    from idfzarr.care.inventory import Inventory
    from idfzarr.care.repair_plan import ActionKind
    from idfzarr.store.root import Root
    from idfzarr.store.schema import CubeSchema

__all__ = ["plan_repair"]

_OF_SHARDS = frozenset(
    [
        "shard_missing",
        "shard_torn",
        "chunk_missing",
        "chunk_corrupt",
        "index_corrupt",
        "index_wrong",
        "wrong_shard",
        "values_wrong",
    ]
)
_OF_METADATA = frozenset(["metadata_corrupt", "consolidated_stale", "lengths_disagree"])
_OF_FILES = frozenset(["partial_file", "staging_left", "key_outside", "file_unknown"])
_NAMED = 1000  # lightcurves that a plan names one by one


def plan_repair(
    inventory: Inventory,
    *,
    images: str | os.PathLike[str] | None = None,
    mirrors: Sequence[str] | None = None,
    accept_loss: bool = False,
) -> RepairPlan:
    """Plan how to mend what an inventory found; nothing is changed.

    Parameters
    ----------
    inventory
        Of the store, see `idfzarr.care.inventory.inventory`. What its level does not see is not
        mended.
    images
        Folder with the mosaics, if they are no longer where the ledger says; for a store of
        skycells the folder of files of the survey, in which is looked before the archive is asked.
    mirrors
        For a store of skycells, the addresses to fetch from, with ``{path}`` or ``{file}``; None
        for the archive's own.
    accept_loss
        Mark as lost, too, what turns out to be lost only while it is mended: mosaics of the same
        name and size that are others, or that measure differently now. Without it, such a shard is
        left as it is and its outcome is ``failed``.

    Returns
    -------
    RepairPlan
        To be read, then applied.

    Raises
    ------
    UsageError
        Mirrors for a store that is fetched from nowhere, or for skycells a mirror that is none or
        a folder that is not there.
    """
    place = place_of(inventory.url)
    folder = None if images is None else os.fspath(images)
    uuid = getattr(inventory, "uuid", None)
    if getattr(inventory, "store_kind", "cube") in {"skycells", "skycells_old"}:
        return plan_skycells(inventory, images=images, mirrors=mirrors)
    if mirrors is not None:
        msg = (
            f"{inventory.url} is no store of skycells, and nothing of it is fetched: leave the "
            "mirrors out"
        )
        raise UsageError(msg)
    if getattr(inventory, "store_kind", "cube") != "cube":
        told = "this is no cube of idfzarr: what it was made from is not known, so nothing is done"
        return RepairPlan(inventory.url, uuid, (), (told,) if inventory.findings else (), folder)
    planner = _Planner(know_store(place), folder)
    for found in inventory.findings:
        planner.sort(found)
    planner.finish()
    actions = tuple(sorted(planner.actions.values(), key=Action.sort_key))
    known_uuid = planner.known.root.uuid if planner.known.root else uuid
    lost = tuple(sorted(planner.lost))
    return RepairPlan(inventory.url, known_uuid, actions, lost, folder, accept_loss)


class _Planner:
    """The actions that are gathered while findings are gone through."""

    def __init__(self, known: KnownStore, images: str | None) -> None:
        self.known = known
        self.images = images
        self.actions: dict[tuple[str, str, str], Action] = {}
        self.lost: set[str] = set()
        self._shards: dict[int, list[Finding]] = {}
        self._late: list[tuple[str, Finding]] = []

    def add(self, action: Action) -> None:
        key = (action.kind, str(action.details.get("beside", "")), action.key)
        self.actions.setdefault(key, action)

    def sort(self, found: Finding) -> None:
        """Take one finding."""
        where, kind = found.where, found.kind
        shard = None if where.beside else shard_number(where.key)
        if kind in _OF_FILES:
            self._quarantine(found)
        elif kind == "ledger_damaged":
            self._note_ledger(found)
        elif kind == "update_unfinished":
            self._settle(found)
        elif kind in _OF_METADATA:
            self._metadata(found)
        elif shard is not None and (
            kind in _OF_SHARDS or (kind == "values_lost" and self.images is not None)
        ):
            self._shards.setdefault(shard, []).append(found)
        elif kind in _OF_SHARDS:
            self._array(found)
        elif found.severity == "error" or (found.severity == "warning" and kind != "values_lost"):
            self.lost.add(f"{where}: {found.message}")

    # ---------------------------------------------------------------- files and ledger

    def _quarantine(self, found: Finding) -> None:
        where = found.where
        if self._settles_it(where.key):
            return
        told: dict[str, Any] = {"beside": where.beside} if where.beside else {}
        self.add(Action("quarantine", where.key, found.message, where.n_bytes or 0, told))

    def _settles_it(self, key: str) -> bool:
        """Say whether staging of a change goes with that change."""
        return key.split("/", 1)[0] == STAGING and self._under_way() is not None

    def _note_ledger(self, found: Finding) -> None:
        place = self.known.place.beside(LEDGER_SUFFIX)
        prefix = place.url.rstrip("/") + "/"
        key = found.where.key.removeprefix(prefix)
        size = place.size(key) or 0
        self.add(Action("note_ledger", key, found.message, size, {"beside": "ledger"}))

    def _under_way(self) -> Any:
        root = self.known.root
        return None if root is None else update_under_way(self.known.state, root)

    def _settle(self, found: Finding) -> None:
        update = self._under_way()
        if update is None:
            self.add(Action("roll_forward", STAGING, found.message))
        elif update.kind == "replace":
            self.lost.add(
                f"the {update} may have overwritten shards and cannot be given up; run it again, "
                "it goes on where it stopped"
            )
        else:
            told = {"update": update.token, "what": str(update)}
            self.add(Action("abandon_update", STAGING, found.message, 0, told))

    # ---------------------------------------------------------------- metadata

    def _metadata(self, found: Finding) -> None:
        root = self.known.root
        key = found.where.key or (f"{found.where.array}/{ROOT_KEY}" if found.where.array else "")
        if root is None:
            self.lost.add(
                f"{found.where}: {found.message}; the ledger has no copy of the root that matches "
                "its own crc32c, so nothing can be restored from it"
            )
            return
        if key in {"", ROOT_KEY}:
            done = self._restore_root(root, found.message)
        else:
            done = self._own_node(root, key.removesuffix(f"/{ROOT_KEY}"), found.message)
        if not done:
            self.lost.add(f"{found.where}: {found.message}")

    def _restore_root(self, root: Root, reason: str) -> bool:
        """Plan to restore the root where it is not the one that was committed."""
        try:
            standing = read_root(self.known.place)
        except (IdfzarrError, OSError):
            standing = None
        if standing is not None and standing.metadata == root.metadata:
            return False
        copy = choose_copy(self.known.place)
        if copy is None:
            return False
        told = {"generation": copy[1].generation, "from": "ledger"}
        self.add(Action("restore_metadata", ROOT_KEY, reason, len(copy[0]), told))
        return True

    def _own_node(self, root: Root, path: str, reason: str) -> bool:
        """Plan to write an array's metadata as the root has it; not where it is that already."""
        key = f"{path}/{ROOT_KEY}"
        if path not in root.metadata or says(self.known.place, key, root.metadata[path]):
            return False
        self.add(Action("restore_metadata", key, reason, 0, {"from": "root"}))
        return True

    # ---------------------------------------------------------------- arrays and shards

    def _array(self, found: Finding) -> None:
        where = found.where
        path = where.array or where.key.split("/c/", 1)[0].removesuffix("/c")
        if path == STAGING or self.known.root is None or not self.known.root.is_array(path):
            self.lost.add(f"{where}: {found.message}")
            return
        if is_recomputed(path):
            reason = f"{path} is damaged and follows from the lightcurves"
            self.add(Action("recompute_variability", VARIABILITY, reason))
            return
        if path in FROM_LIGHTCURVES:
            self._late.append((path, found))
        else:
            self._rewrite_array(path, found)

    def _rewrite_array(self, path: str, found: Finding) -> None:
        is_late = path in FROM_LIGHTCURVES
        values = find_values(self.known, path, self.images)
        is_lost, source = values.values is None, values.source
        if is_lost and is_late and self._shards:
            is_lost, source = False, "the lightcurves, once they are mended"
        no_chunk = not mended_chunks(self.known, path, values)
        if no_chunk or (is_lost and not values.fills):
            why = "its chunks are as they were written" if no_chunk else source
            self.lost.add(f"{found.where}: {found.message}; {why}")
            return
        told = {"array": path, "from": source, "is_lost": is_lost, "late": is_late}
        size = found.where.n_bytes or 0
        self.add(Action("rewrite_array", path, found.message, size, told))
        if is_lost:
            self.lost.add(f"{path}: {source}")

    def finish(self) -> None:
        """Turn what was found of shards into actions, one for each, and what follows of them."""
        for path, found in self._late:
            self._rewrite_array(path, found)
        schema = self.known.schema
        if schema is None:
            for many in self._shards.values():
                for found in many:
                    self.lost.add(f"{found.where}: {found.message}; the cube's layout is unknown")
            return
        unmended = [a.key for a in self.actions.values() if a.details.get("is_lost")]
        sources = find_sources(self.known, self.images, damaged=unmended) if self._shards else None
        keys = {schema.layout.key(k) for k in self._shards if k < schema.layout.n_shards}
        for shard, many in sorted(self._shards.items()):
            if shard < schema.layout.n_shards and sources is not None:
                self._shard(schema, shard, many, sources, keys)

    def _shard(
        self,
        schema: CubeSchema,
        shard: int,
        many: Sequence[Finding],
        sources: Sources,
        keys: Iterable[str],
    ) -> None:
        is_incomplete = bool(sources.blocked or sources.gone(schema.types))
        if is_incomplete and all(found.kind == "values_lost" for found in many):
            return
        distrust = sorted(set(self._distrusted(schema, shard, many)))
        is_wrong = any(found.kind == "wrong_shard" for found in many)
        remedy = find_remedy(
            self.known, schema, shard, distrust=distrust, is_wrong=is_wrong, among=keys
        )
        if remedy.source == "nothing":
            return
        damaged, lost = remedy.damaged, remedy.damaged.left.lost
        told: dict[str, Any] = {
            "intact": len(damaged.left.chunks),
            "proved_by": damaged.left.how,
            "from": remedy.source,
            "distrust": _runs(distrust),
            "is_wrong": is_wrong,
        }
        kind: ActionKind = "rewrite_shard"
        if remedy.data is None:
            named = [self._named(schema, shard, slot) for slot in lost[:_NAMED]]
            told |= {"rebuild": named, "n_rebuild": len(lost)}
            kind, more = self._foreseen(schema, damaged.key, lost, sources)
            told |= more
        reason = "; ".join(sorted({found.message for found in many})[:3])
        size = int(damaged.noted.get("size") or len(damaged.data or b""))
        self.add(Action(kind, damaged.key, reason, size, told))

    def _foreseen(
        self, schema: CubeSchema, key: str, lost: Sequence[int], sources: Sources
    ) -> tuple[ActionKind, dict[str, Any]]:
        """Return what rebuilding lightcurves comes to, and tell of what will be lost by it."""
        types = {schema.types[slot % schema.layout.n_types] for slot in lost}
        blocked = sources.why_blocked(types)
        if blocked:
            self.lost.add(
                f"{key}: {len(lost)} lightcurves cannot be rebuilt: {blocked}; "
                "they become NaN with the flag lost, their bytes go to quarantine"
            )
            return "mark_lost", {"from": "nothing", "why": blocked}
        gone = sources.gone(types)
        if not gone:
            return "rewrite_shard", {}
        self.lost.add(
            f"{key}: {len(lost)} lightcurves can be rebuilt only without {len(gone)} mosaics, "
            f"whose AORs become NaN with the flag lost ({gone[0].why})"
        )
        return "rewrite_shard", {"without": sorted(one.name for one in gone)}

    def _named(self, schema: CubeSchema, shard: int, slot: int) -> list[Any]:
        row, column = divmod(slot, schema.layout.n_types)
        row += schema.layout.rows(shard)[0]
        return [self.known.name_of(row), schema.types[column]]

    def _distrusted(self, schema: CubeSchema, shard: int, many: Iterable[Finding]) -> Iterator[int]:
        """Yield the slots whose values are wrong although their bytes are as written."""
        for found in many:
            if found.kind in {"values_wrong", "values_lost"}:
                yield from self._slots(schema, shard, found)

    def _slots(self, schema: CubeSchema, shard: int, found: Finding) -> Iterator[int]:
        first, last = schema.layout.rows(shard)
        where = found.where
        row = None if where.object is None else self.known.row_of(where.object)
        rows = range(first, last) if row is None else [row]
        names = [where.type] if where.type in schema.types else list(schema.types)
        for one in rows:
            for name in names:
                yield schema.layout.slot(one, schema.types.index(name))


def _runs(slots: Sequence[int]) -> list[list[int]]:
    """Return slots as runs, first and the one after the last."""
    runs: list[list[int]] = []
    before = -math.inf
    for slot in slots:
        if slot == before + 1:
            runs[-1][1] = slot + 1
        else:
            runs.append([slot, slot + 1])
        before = slot
    return runs
