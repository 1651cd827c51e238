"""A second copy of the root ``zarr.json``, in the ledger's folder beside the store.

The root carries the metadata of all arrays and is the one file that nothing else in the store can
replace. Whoever commits a root writes it first as ``root-<generation>.json`` into the ledger's
folder, then renames it into place, then removes the copies of generations before it: at any moment
there is a copy of the root that stands, or of the one that is about to. A copy is believed by the
root's own crc32c, as the root is.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from idfzarr.errors import IdfzarrError
from idfzarr.store.arrays import json_bytes
from idfzarr.store.checksum import crc32c
from idfzarr.store.ledger import LEDGER_SUFFIX, read_ledger
from idfzarr.store.root import ROOT_KEY, Root, read_root
from idfzarr.store.schema import ROOT_ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.place import Place

__all__ = [
    "choose_copy",
    "commit_root",
    "committed_root",
    "copies_of",
    "copy_key",
    "keep_copy",
    "remove_older",
]

_NAME = re.compile(r"root-(\d{1,9})\.json")
_CRC = "metadata_crc32c"


def copy_key(generation: int) -> str:
    """Return the name of a generation's copy in the ledger's folder."""
    return f"root-{generation}.json"


def keep_copy(home: Place, data: bytes, *, generation: int) -> None:
    """Write the copy of a root that is about to be committed.

    Parameters
    ----------
    home
        The store that the ledger lies beside.
    data
        The root, as it will stand.
    generation
        What it counts.
    """
    home.beside(LEDGER_SUFFIX).write(copy_key(generation), data)


def remove_older(home: Place, *, generation: int) -> None:
    """Remove the copies of generations before the one that is committed."""
    folder = home.beside(LEDGER_SUFFIX)
    for found in _generations(folder):
        if found < generation:
            folder.remove(copy_key(found))


def commit_root(place: Place, data: bytes, *, generation: int) -> None:
    """Commit a root in place: the copy, the rename, then away with older copies.

    Parameters
    ----------
    place
        The store.
    data
        The root, from `idfzarr.store.root.root_bytes`.
    generation
        What it counts.
    """
    keep_copy(place, data, generation=generation)
    place.write(ROOT_KEY, data)
    remove_older(place, generation=generation)


def _generations(folder: Place) -> list[int]:
    if not folder.exists():
        return []
    found = (_NAME.fullmatch(key) for key in folder.keys())
    return sorted(int(match[1]) for match in found if match)


class _CopyPlace:
    """One file of the ledger's folder, read as if it were the root of the store."""

    def __init__(self, place: Place, data: bytes) -> None:
        self._place, self._data = place, data

    @property
    def url(self) -> str:
        return self._place.url

    def size(self, key: str) -> int | None:
        return len(self._data) if key == ROOT_KEY else self._place.size(key)

    def read(self, key: str) -> bytes:
        return self._data if key == ROOT_KEY else self._place.read(key)


def copies_of(place: Place, *, uuid: str | None = None) -> dict[int, tuple[bytes, Root]]:
    """Return the copies of a store's root that match their own crc32c.

    Parameters
    ----------
    place
        The store.
    uuid
        Only copies of the store with this one.

    Returns
    -------
    dict
        Bytes and root by generation; empty where there is none that can be believed.
    """
    folder = place.beside(LEDGER_SUFFIX)
    found: dict[int, tuple[bytes, Root]] = {}
    for generation in _generations(folder):
        try:
            data = folder.read(copy_key(generation))
            seen = read_root(_CopyPlace(place, data))  # type: ignore[arg-type]
        except (OSError, IdfzarrError):
            continue
        root = Root(place, seen.attributes, seen.metadata)
        if root.generation == generation and uuid in {None, root.uuid}:
            found[generation] = (data, root)
    return found


def choose_copy(place: Place) -> tuple[bytes, Root] | None:
    """Return the copy of the root that was committed last.

    That of a root which is whole and was altered is the one of its generation. Where a damaged root
    still states its crc32c, the copy that has the same is the one. Else it is that of the
    generation that the ledger calls published last; else the oldest, which was surely committed.

    Parameters
    ----------
    place
        A store whose own root is damaged, altered or gone.

    Returns
    -------
    tuple or None
        Bytes and root; None where there is no copy that can be believed.
    """
    copies = copies_of(place)
    standing = _standing(place)
    if standing is not None and standing.generation in copies:
        return copies[standing.generation]
    stated = stated_by_damaged(place).get(_CRC)
    for data, root in copies.values():
        if stated is not None and root.ours.get(_CRC) == stated:
            return data, root
    published = [
        int(record.fields["generation"]) if "generation" in record.fields else 0
        for record in read_ledger(place).of("published")
    ]
    last = max(published, default=0)
    known = sorted(copies)
    chosen = last if last in copies else next(iter(known), None)
    return None if chosen is None else copies[chosen]


def _standing(place: Place) -> Root | None:
    try:
        return read_root(place)
    except (OSError, IdfzarrError):
        return None


def committed_root(place: Place, root: Root, state: LedgerState) -> Root:
    """Return a root as it was committed: itself, or the ledger's copy of it.

    Whoever commits a root keeps its copy first. A root that is whole by its crc32c, of the same
    generation as the copy and yet another was altered by somebody who made the crc32c right.

    Parameters
    ----------
    place
        The store.
    root
        What stands there.
    state
        The ledger's records of this store: metadata that a writer noted to have written is no
        alteration, with a copy or without.

    Returns
    -------
    Root
        The copy, if the root was altered. What is the user's own in the root does not count.
    """
    crc = root.ours.get(_CRC)
    try:
        data = place.beside(LEDGER_SUFFIX).read(copy_key(root.generation))
        seen = read_root(_CopyPlace(place, data))  # type: ignore[arg-type]
    except (OSError, IdfzarrError):
        return root
    same = seen.ours.get(_CRC) == crc and seen.metadata == root.metadata
    if same or (seen.generation, seen.uuid) != (root.generation, root.uuid):
        return root
    noted = {
        (str(record.fields["metadata"]), record.fields.get("crc32c"))
        for record in state.of("note")
        if "metadata" in record.fields
    }
    paths = [
        path
        for path in root.metadata.keys() | seen.metadata.keys()
        if root.metadata.get(path) != seen.metadata.get(path)
    ]
    if paths and all(
        path in root.metadata and (path, crc32c(json_bytes(root.metadata[path]))) in noted
        for path in paths
    ):
        return root
    return Root(place, seen.attributes, seen.metadata)


def stated_by_damaged(place: Place) -> Mapping[str, Any]:
    """Return what a root that may be damaged says of itself; empty where it is no JSON."""
    found = attributes_of_damaged(place).get(ROOT_ATTRIBUTE)
    return found if isinstance(found, dict) else {}


def attributes_of_damaged(place: Place) -> Mapping[str, Any]:
    """Return the attributes of a root that may be damaged; empty where it is no JSON."""
    try:
        document = json.loads(place.read(ROOT_KEY))
    except (OSError, ValueError, RecursionError):
        return {}
    attributes = document.get("attributes") if isinstance(document, dict) else None
    return attributes if isinstance(attributes, dict) else {}
