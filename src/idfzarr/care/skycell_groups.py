"""The groups of a store of skycells: what must stand in them, and what they are restored to.

A group says hardly anything that its arrays do not say too, so all of it can be written anew: a
projection cell nothing, a skycell its name, and the root that this is a store of skycells. Only the
root's uuid is its own; the ledger beside the store knows it, if there is one.
"""

from __future__ import annotations

import json
import uuid as uuids
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.ps1.sky_metadata import ATTRIBUTE, FORMAT
from idfzarr.ps1.skystore import root_document
from idfzarr.store.arrays import group_json, json_bytes
from idfzarr.store.ledger import read_ledger
from idfzarr.store.root import ROOT_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from idfzarr.care.read_only import ReadOnlyPlace
    from idfzarr.store.place import Place

__all__ = ["RESTORED_FROM", "group_findings", "is_group_key", "restored_group"]

RESTORED_FROM = "skycells"
"""Where a group's metadata is restored from, as an action's details say it."""

_REMEDY = "write it anew: what stands in it follows from its arrays"


def group_findings(
    place: ReadOnlyPlace, arrays: Iterable[str], *, told: Iterable[str]
) -> Iterator[Finding]:
    """Tell of groups whose metadata is gone or not what it must be.

    Parameters
    ----------
    place
        A store of skycells of this package, whatever its root says.
    arrays
        Paths of its arrays.
    told
        Keys of which there is a finding already.
    """
    known = set(told)
    parents = {path.rsplit("/", depth)[0] for path in arrays for depth in (1, 2)}
    for group in ("", *sorted(parents)):
        key = f"{group}/{ROOT_KEY}" if group else ROOT_KEY
        if key in known:
            continue
        try:
            version = _version(place, key) if not group else None
            wrong = _wrong(place, key)
        except OSError:
            continue  # unreadable, which has been told
        if version not in {None, FORMAT}:
            sentence = f"{key} has format {str(version)[:20]}, this package reads {FORMAT}"
            yield finding("format_version", Where(key=key), sentence)
        elif wrong:
            yield finding("metadata_corrupt", Where(key=key), wrong, remedy=_REMEDY)


def is_group_key(key: str) -> bool:
    """Say whether a key is that of the metadata of the root, a projection cell or a skycell."""
    return key.endswith(ROOT_KEY) and key.count("/") <= 2 and f"/{key}".endswith(f"/{ROOT_KEY}")


def restored_group(place: Place, key: str) -> bytes | None:
    """Return what the metadata of a group is restored to.

    Parameters
    ----------
    place
        The store.
    key
        Of its ``zarr.json``.

    Returns
    -------
    bytes or None
        Attributes that can still be read, and that are a user's own, are kept. None where nothing
        is wrong with it.
    """
    if not _wrong(place, key):
        return None
    kept = _attributes(_document(place, key))
    if key != ROOT_KEY:
        name = key.split("/")[-2]
        own = {"skycell": name} if key.count("/") == 2 else {}
        return json_bytes(group_json(kept | own))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    document = root_document(_uuid(place), restored=now)
    document["attributes"] = kept | document["attributes"]
    return json_bytes(document)


def _uuid(place: Place) -> str:
    """Return the uuid of the store that the ledger speaks of last; a new one where it has none."""
    records = read_ledger(place).records
    return records[-1].uuid if records else str(uuids.uuid4())


def _document(place: Place | ReadOnlyPlace, key: str) -> Any:
    """Return what a key holds as JSON; None where that is none, or nothing."""
    if place.size(key) is None:
        return None
    try:
        return json.loads(place.read(key))
    except (ValueError, RecursionError):
        return None


def _attributes(document: Any) -> dict[str, Any]:
    found = document.get("attributes") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _version(place: ReadOnlyPlace, key: str) -> Any:
    """Return the format that the root states; None where it states none."""
    ours = _attributes(_document(place, key)).get(ATTRIBUTE)
    return ours.get("format") if isinstance(ours, dict) else None


def _wrong(place: Place | ReadOnlyPlace, key: str) -> str:
    """Return what is wrong with the metadata of a group, in a sentence; empty for nothing."""
    document = _document(place, key)
    if document is None:
        there = place.size(key) is not None
        return f"{key} is no JSON" if there else f"there is no {key}"
    if (
        not isinstance(document, dict)
        or document.get("node_type") != "group"
        or document.get("zarr_format") != 3
        or not isinstance(document.get("attributes", {}), dict)
    ):
        return f"{key} is not the metadata of a group"
    attributes = _attributes(document)
    if key == ROOT_KEY:
        ours = attributes.get(ATTRIBUTE)
        whole = isinstance(ours, dict) and isinstance(ours.get("uuid"), str)
        stated = isinstance(ours, dict) and type(ours.get("format")) is int
        return "" if whole and stated else f"{key} does not say that this is a store of skycells"
    name = key.split("/")[-2]
    if key.count("/") == 2 and attributes.get("skycell") != name:
        return f"{key} does not say that it is {name}"
    return ""
