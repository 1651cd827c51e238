"""What can be known of a store that may be damaged: its root, its cube, its object ids.

Nothing here needs a whole store: where the root is damaged, the ledger's copy of it is taken, and
where a coordinate is, a second copy of the same names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.read_only import ReadOnlyPlace
from idfzarr.errors import IdfzarrError
from idfzarr.store.arrays import read_array
from idfzarr.store.ledger import read_ledger
from idfzarr.store.recognise import schema_of
from idfzarr.store.root import read_root
from idfzarr.store.root_copy import choose_copy, committed_root
from idfzarr.store.schema import CATALOGUE, COORDINATES, LIGHTCURVES, VALUES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.place import Place
    from idfzarr.store.root import Root
    from idfzarr.store.schema import CubeSchema

__all__ = ["KnownStore", "know_store", "says", "shard_number"]

_TWIN_OF_OBJECT = f"{CATALOGUE}/object_id"


@dataclass(frozen=True)
class KnownStore:
    """What is known of a store.

    Attributes
    ----------
    place
        Where it is.
    root
        Its root as it was committed, the ledger's copy of one that is damaged or was altered; None
        where there is neither.
    schema
        What the cube is; None where the root does not tell, or tells of another layout than ours.
    objects
        Object ids by row; None where they cannot be read.
    state
        What the ledger says of it.
    """

    place: Place
    root: Root | None
    schema: CubeSchema | None
    objects: NDArray[np.int64] | None
    state: LedgerState

    @property
    def reading(self) -> ReadOnlyPlace:
        """The store for reading: no link is followed, nothing is read without bound."""
        return ReadOnlyPlace(self.place)

    def row_of(self, object_id: int) -> int | None:
        """Return the row of an object; None where it is not known."""
        if self.objects is None:
            return None
        rows = np.flatnonzero(self.objects == object_id)
        return int(rows[0]) if len(rows) else None

    def name_of(self, row: int) -> int:
        """Return the id of a row; the row itself where ids cannot be read."""
        return row if self.objects is None else int(self.objects[row])


def know_store(place: Place) -> KnownStore:
    """Find out what can be known of a store.

    Parameters
    ----------
    place
        Where it is.

    Returns
    -------
    KnownStore
        As much as there is; nothing is raised for what is damaged.
    """
    seen = ReadOnlyPlace(place)
    state = read_ledger(seen)
    root = _root(seen, state)
    if root is None:
        return KnownStore(place, None, None, None, state)
    return KnownStore(place, root, _schema(root), _objects(root), state.for_store(root.uuid))


def _root(place: Place, state: LedgerState) -> Root | None:
    try:
        root = read_root(place)
        return committed_root(place, root, state.for_store(root.uuid))
    except (IdfzarrError, OSError):
        copy = choose_copy(place)
        return None if copy is None else copy[1]


def _schema(root: Root) -> CubeSchema | None:
    """Return what the cube is by its metadata alone, coordinates standing for their lengths."""
    node = root.metadata.get(LIGHTCURVES, {})
    attributes = node.get("attributes", {})
    try:
        n_objects, n_types, _, n_aors = (int(n) for n in node["shape"])
        names: dict[str, Any] = {
            "type": np.array(attributes["type"], dtype=str),
            "aor_name": np.array(attributes["aor_name"], dtype=str),
        }
        n_channels = int(root.metadata["channel"]["shape"][0])
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    lengths = {
        "object": n_objects,
        "type": n_types,
        "aor": n_aors,
        "channel": n_channels,
        "value": len(VALUES),
    }
    wanted = {"object", "type", "aor", "channel", "mjd", "type_channel"} & root.metadata.keys()
    for name in wanted - names.keys():
        shape = tuple(lengths[dim] for dim in COORDINATES[name].dims)
        names[name] = np.zeros(shape, dtype=np.int64)
    try:
        schema, known = schema_of(root, names)
    except IdfzarrError:
        return None
    return schema if known else None


def _objects(root: Root) -> NDArray[np.int64] | None:
    for path in ("object", _TWIN_OF_OBJECT):
        if root.is_array(path):
            try:
                found = read_array(root.place, path, root.metadata[path])
            except (IdfzarrError, OSError):
                continue
            return found.astype(np.int64)
    return None


def says(place: Place, key: str, node: Mapping[str, Any]) -> bool:
    """Say whether a file is the metadata that a root has for it, in whatever spelling."""
    try:
        return bool(json.loads(place.read(key)) == node)
    except (OSError, ValueError, RecursionError):
        return False


def shard_number(key: str) -> int | None:
    """Return the number of a shard of the cube by its key; None for any other key."""
    parts = key.split("/")
    shaped = len(parts) == 6 and parts[:2] == [LIGHTCURVES, "c"] and parts[3:] == ["0", "0", "0"]
    return int(parts[2]) if shaped and parts[2].isdecimal() and parts[2].isascii() else None
