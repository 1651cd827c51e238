"""A cube and the store of its skycells: the cube's root says where they are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from idfzarr.errors import UsageError
from idfzarr.store.ledger import LEDGER_SUFFIX, read_ledger
from idfzarr.store.place import LocalPlace, locked, place_of
from idfzarr.store.published import open_published
from idfzarr.store.root import read_root, root_bytes
from idfzarr.store.root_copy import commit_root
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from idfzarr.store.place import Place, PlaceLike

__all__ = ["link_skycells", "linked_skycells"]


def link_skycells(cube: PlaceLike, store: PlaceLike) -> str:
    """Note on a cube's root where the skycells of its field are.

    Parameters
    ----------
    cube
        The cube.
    store
        The store of skycells.

    Returns
    -------
    str
        What stands in the root: a path from the cube's folder where both lie side by side, so that
        they can be moved together; else the whole path or URL.

    Raises
    ------
    StoreError
        There is no finished cube.
    UsageError
        A change of the cube is under way.
    """
    place = open_published(cube).place
    told = _told(place, place_of(store))
    with locked(place.beside(LEDGER_SUFFIX), "update.lock"):
        root = read_root(place)
        if root.ours.get("ps1") == told:
            return told
        if update_under_way(read_ledger(place).for_store(root.uuid), root) is not None:
            msg = (
                f"a change of {place.url} is under way, and its root cannot be linked with "
                f"{told}: run that build again first"
            )
            raise UsageError(msg)
        data = root_bytes({**root.ours, "ps1": told}, root.metadata, extra=root.attributes)
        # Nothing but this note changes: the generation stays, and readers keep what they know.
        commit_root(place, data, generation=root.generation)
    return told


def _told(cube: Place, store: Place) -> str:
    if isinstance(cube, LocalPlace) and isinstance(store, LocalPlace):
        above = os.path.dirname(cube.root)
        if os.path.dirname(store.root) == above:
            return os.path.basename(store.root)
    return store.url


def linked_skycells(cube: PlaceLike) -> str | None:
    """Return where the skycells of a cube's field are, None where nobody noted it.

    Raises
    ------
    StoreError
        There is no cube.
    """
    place = place_of(cube)
    told = read_root(place).ours.get("ps1")
    if not isinstance(told, str) or not told:
        return None
    if isinstance(place, LocalPlace) and "://" not in told:
        return os.path.normpath(os.path.join(os.path.dirname(place.root), told))
    return told
