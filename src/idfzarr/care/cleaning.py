"""Plan a cleaning: which files of a store are to be taken away, and why.

Cleaning takes away and mends nothing: what it takes lies in the quarantine and can be brought back.
A shard that it took is noted as removed, so a build makes it again. To keep what is intact of a
damaged shard, repair it instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from idfzarr.care.known_store import KnownStore, know_store, shard_number
from idfzarr.care.repair_plan import Action, RepairPlan
from idfzarr.care.skycells import skycell_path
from idfzarr.errors import UsageError
from idfzarr.store.place import LocalPlace, place_of
from idfzarr.store.root import ROOT_KEY
from idfzarr.store.schema import LIGHTCURVES, STAGING
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from idfzarr.care.finding import Finding
    from idfzarr.care.inventory import Inventory

__all__ = ["plan_cleaning"]


def plan_cleaning(
    inventory: Inventory,
    *,
    temporary: bool = False,
    corrupt: bool = False,
    incomplete: bool = False,
) -> RepairPlan:
    """Plan what a cleaning takes away; nothing is changed.

    Parameters
    ----------
    inventory
        Of the store.
    temporary
        Take what writers that are gone left behind: half-written files, staging.
    corrupt
        Take shards with damage, whole: a build makes them again. Metadata and coordinates are
        repaired instead, since nothing can be built into a store without them.
    incomplete
        Take what was built in part: staging of an unfinished change, and the shards that lack some
        of their lightcurves, so that a build begins them anew.

    Returns
    -------
    RepairPlan
        All its actions are ``quarantine``; the totals are its ``n_bytes``.

    Raises
    ------
    UsageError
        Nothing is asked for.
    """
    if not (temporary or corrupt or incomplete):
        msg = "a cleaning of nothing was asked for; say temporary, corrupt or incomplete"
        raise UsageError(msg)
    wanted = {
        state
        for state, asked in (
            ("temporary", temporary),
            ("corrupt", corrupt),
            ("incomplete", incomplete),
        )
        if asked
    }
    known = know_store(place_of(inventory.url))
    actions: dict[tuple[str, str], Action] = {}
    left: set[str] = set()
    for found in inventory.findings:
        if found.state not in wanted:
            continue
        action = _action(known, found)
        if action is None:
            if found.kind != "shard_pending":
                left.add(f"{found.where}: {found.message}; cleaning leaves it: {found.remedy}")
            continue
        before = actions.setdefault((str(action.details.get("beside", "")), action.key), action)
        if before is not action and action.reason not in before.reason:
            joined = f"{before.reason}; {action.reason}"
            told = Action("quarantine", before.key, joined, before.n_bytes, before.details)
            actions[str(before.details.get("beside", "")), before.key] = told
    uuid = known.root.uuid if known.root else getattr(inventory, "uuid", None)
    ordered = tuple(sorted(actions.values(), key=Action.sort_key))
    return RepairPlan(inventory.url, uuid, ordered, tuple(sorted(left)))


def _action(known: KnownStore, found: Finding) -> Action | None:
    """Return what takes away the thing that a finding is about; None for what cleaning leaves."""
    where = found.where
    told: dict[str, Any] = {"state": found.state}
    if where.beside:
        told["beside"] = where.beside
    if found.state == "temporary":
        return _of(known, where.key, found, told)
    if where.beside or not where.key:
        return None
    if found.severity == "error" and skycell_path(where.array) is not None:
        return _of(known, where.array, found, told)  # a fetch makes it again
    shard = shard_number(where.key)
    if shard is not None and where.array in {"", LIGHTCURVES} and found.kind != "shard_pending":
        return _of(known, where.key, found, told) if known.place.size(where.key) else None
    if found.kind == "update_unfinished" and _is_given_up(known):
        return _of(known, STAGING, found, told)
    return None


def _is_given_up(known: KnownStore) -> bool:
    """Say whether no change that could be gone on with owns the staging."""
    return known.root is not None and update_under_way(known.state, known.root) is None


def _of(known: KnownStore, key: str, found: Finding, told: dict[str, Any]) -> Action | None:
    from idfzarr.care.repair_actions import files_of

    beside = str(told.get("beside", ""))
    is_vital = beside in {"", "ledger"} and key in {"", ROOT_KEY}
    if is_vital or not isinstance(known.place, LocalPlace):
        return None
    top = known.place.beside(f".{beside}") if beside else known.place
    sizes = [top.size(one) or 0 for one in files_of(known.place, key, beside)]
    return Action("quarantine", key, found.message, sum(sizes), told | {"n_files": len(sizes)})
