"""Mend a store of skycells: fetch again what is bad, and nothing else.

An array is fetched whole, from files on disk first, and takes the place of the damaged one only
when it has been verified; the damaged bytes are in quarantine by then. Where fetching fails, the
store stays as it is. The metadata of groups follows from their arrays and is written anew.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from idfzarr.care.repair_plan import Action, RepairPlan
from idfzarr.care.skycell_groups import RESTORED_FROM, is_group_key
from idfzarr.care.skycells import skycell_path
from idfzarr.errors import IdfzarrError, MetadataCorrupt, UsageError
from idfzarr.ps1.mirrors import DEFAULT_MIRRORS, AddressRules
from idfzarr.ps1.sky_keys import array_name
from idfzarr.ps1.skystore import SkycellStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from idfzarr.care.finding import Finding
    from idfzarr.care.inventory import Inventory
    from idfzarr.care.quarantine import Quarantine
    from idfzarr.progress import Progress
    from idfzarr.store.place import LocalPlace

__all__ = ["plan_skycells", "refetch"]

_OF_FILES = frozenset(["partial_file", "key_outside", "file_unknown"])
_STATES = frozenset(["corrupt", "foreign"])


def plan_skycells(
    inventory: Inventory,
    *,
    images: str | os.PathLike[str] | None = None,
    mirrors: Sequence[str] | None = None,
) -> RepairPlan:
    """Plan how to mend a store of skycells; nothing is changed.

    Parameters
    ----------
    inventory
        Of the store. What its level does not see is not mended.
    images
        Folder of files of the survey, in which is looked first.
    mirrors
        Addresses to fetch from, see `idfzarr.ps1.fetch.fetch_skycells`; None for the archive's own.

    Returns
    -------
    RepairPlan
        ``restore_metadata`` for groups, ``refetch`` for every array that is damaged, and
        ``quarantine`` for what belongs to nobody.

    Raises
    ------
    UsageError
        A mirror is none, or there is no such folder.
    """
    if mirrors is not None:
        AddressRules.of(mirrors)
    if images is not None and not os.path.isdir(images):
        msg = f"there is no folder {os.fspath(images)} of files of the survey: give another"
        raise UsageError(msg)
    actions: dict[tuple[str, str], Action] = {}
    lost: set[str] = set()
    ours = inventory.store_kind == "skycells"
    for found in inventory.findings:
        action = _action(found, ours=ours, mirrors=mirrors)
        if isinstance(action, str):
            lost.add(action)
        elif action is not None:
            before = actions.setdefault((action.kind, action.key), action)
            if before is not action and action.reason not in before.reason:
                joined = f"{before.reason}; {action.reason}"
                told = Action(before.kind, before.key, joined, before.n_bytes, before.details)
                actions[before.kind, before.key] = told
    ordered = tuple(sorted(actions.values(), key=Action.sort_key))
    folder = None if images is None else os.fspath(images)
    return RepairPlan(inventory.url, inventory.uuid, ordered, tuple(sorted(lost)), folder)


def _action(found: Finding, *, ours: bool, mirrors: Sequence[str] | None) -> Action | str | None:
    """Return what mends a finding, a sentence where nothing does, None where nothing need be."""
    where = found.where
    if found.kind in _OF_FILES and where.key:
        return Action("quarantine", where.key, found.message, where.n_bytes or 0)
    if found.severity == "note" or found.kind == "shard_pending":
        return None
    if ours and found.kind == "metadata_corrupt" and is_group_key(where.key):
        told = {"from": RESTORED_FROM}
        return Action("restore_metadata", where.key, found.message, where.n_bytes or 0, told)
    array = skycell_path(where.array or where.key.removesuffix("/zarr.json"))
    if array is None or found.state not in _STATES or found.kind in {"unreadable", "symlink"}:
        return f"{where}: {found.message}"
    if not ours:
        return (
            f"{array}: {found.message}; the store is in an earlier layout, into which nothing is "
            "fetched: migrate it, and fetch into the new store what is left out"
        )
    which: dict[str, Any] = {"skycell": array.name, "band": array.band, "kind": array.kind}
    if mirrors is not None:
        which["mirrors"] = list(mirrors)
    return Action("refetch", array.path, found.message, where.n_bytes or 0, which)


def refetch(
    place: LocalPlace,
    action: Action,
    quarantine: Quarantine,
    *,
    images: str | None,
    progress: Progress,
) -> tuple[str, str, tuple[str, ...]]:
    """Fetch an array again and put it in the place of the damaged one.

    Parameters
    ----------
    place
        The store.
    action
        From `plan_skycells`.
    quarantine
        Keeps the damaged bytes.
    images
        Folder of files of the survey, in which is looked first.
    progress
        Told bytes.

    Returns
    -------
    tuple
        ``done`` or ``unneeded``, what was done, and what is lost.

    Raises
    ------
    MetadataCorrupt
        It could not be fetched; the store is as it was.
    """
    from idfzarr.care.repair_actions import files_of
    from idfzarr.ps1.fetch import LOCAL_DATA, fetch_skycells

    told = action.details
    name, band, kind = str(told["skycell"]), str(told["band"]), told["kind"]
    store = SkycellStore(place)
    if store.has(name, band, kind, verify=True):
        return "unneeded", f"{action.key} reads well", ()
    folders = [images] if images else [LOCAL_DATA, *_where_from(store, name, band, kind)]
    for key in files_of(place, action.key, ""):
        quarantine.keep(key, action.reason)
    report = fetch_skycells(
        place,
        skycells=[name],
        bands=band,
        kinds=(kind,),
        local_data_path=[folder for folder in folders if os.path.isdir(folder)] or LOCAL_DATA,
        overwrite=True,
        retry_absent=True,
        mirrors=told.get("mirrors", DEFAULT_MIRRORS),
        progress=progress,
    )
    outcome = report.arrays[0]
    if not outcome.stored:
        why = outcome.why or "the archive does not have it"
        msg = f"{name} {array_name(band, kind)} could not be fetched again: {why}"
        raise MetadataCorrupt(msg)
    where = outcome.source or outcome.outcome
    return "done", f"{action.key} was fetched again from {where}", ()


def _where_from(store: SkycellStore, name: str, band: str, kind: Any) -> Iterable[str]:
    """Return the folder of the file that an array was made from, where it says so."""
    try:
        path = store.attributes(name, band, kind)["provenance"].get("path")
    except (IdfzarrError, KeyError, AttributeError):
        return ()
    return (os.path.dirname(path),) if isinstance(path, str) and os.path.isfile(path) else ()
