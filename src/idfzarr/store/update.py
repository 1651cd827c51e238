"""Changes to a published store: which one is under way, and how it becomes visible.

A change goes through the ledger (what it is, by a digest of what it adds), writes what readers of
the old root cannot see, commits by one rename of the root ``zarr.json``, and then rolls forward:
files whose old content those readers still needed wait in ``staging/next`` and are put in place
after the commit, with every array's own ``zarr.json``. Whoever writes next finishes a roll forward
that was stopped. A root counts its changes in ``generation``.
"""

from __future__ import annotations

import json
import uuid as uuids
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idfzarr.errors import SettingsDiffer, UsageError
from idfzarr.store.arrays import json_bytes
from idfzarr.store.ledger import LEDGER_SUFFIX, Ledger, read_ledger
from idfzarr.store.place import LocalPlace, RemotePlace, locked, place_of
from idfzarr.store.root import ROOT_KEY, read_root
from idfzarr.store.schema import STAGING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from idfzarr.store.ledger import LedgerState, Record
    from idfzarr.store.place import Buffer, Place, PlaceLike
    from idfzarr.store.root import Root

__all__ = [
    "UPDATES",
    "OverlayPlace",
    "Update",
    "claim_update",
    "is_being_updated",
    "mark_update",
    "marked_token",
    "next_place",
    "roll_forward",
    "update_under_way",
]

UPDATES = ("append", "replace", "relayout")
"""Changes to a published store, as the ledger calls them."""

NEXT = f"{STAGING}/next"
"""Files that take the place of others once a change is committed."""

_MARKER = "update.json"
_NAMED = 5


@dataclass(frozen=True)
class Update:
    """A change to a published store.

    Parameters
    ----------
    kind
        One of `UPDATES`.
    token
        Name of this attempt at it, which its lines in the ledger carry.
    generation
        What the root counts once it is committed.
    digest
        Of what it adds.
    names
        What it adds or measures again: names of AORs, or of types.
    fields
        Whatever else the ledger says of it.
    """

    kind: str
    token: str
    generation: int
    digest: str
    names: tuple[str, ...]
    fields: Mapping[str, Any]

    @classmethod
    def of_record(cls, record: Record) -> Update:
        """Return the update that a line of the ledger speaks of."""
        told = record.fields
        return cls(
            kind=record.kind,
            token=str(told["update"]),
            generation=int(told["generation"]),
            digest=str(told["digest"]),
            names=tuple(str(name) for name in told["names"]),
            fields=dict(told),
        )

    def __str__(self) -> str:
        named = ", ".join(self.names[:_NAMED]) + (", ..." if len(self.names) > _NAMED else "")
        return f"{self.kind} of {named or 'nothing new'}"


@dataclass(frozen=True)
class OverlayPlace:
    """A place seen through another that lies upon it; for reading only.

    Parameters
    ----------
    top
        What is there is shown.
    below
        What is shown elsewhere.
    """

    top: Place
    below: Place

    @property
    def url(self) -> str:
        """The place below as a person writes it."""
        return self.below.url

    def _of(self, key: str) -> Place:
        return self.below if self.top.size(key) is None else self.top

    def beside(self, suffix: str) -> Place:
        """Return what lies beside the place below."""
        return self.below.beside(suffix)

    def read(self, key: str) -> bytes:
        """Return all bytes of a key."""
        return self._of(key).read(key)

    def read_range(self, key: str, first: int, count: int) -> bytes:
        """Return `count` bytes of a key from byte `first` on."""
        return self._of(key).read_range(key, first, count)

    def size(self, key: str) -> int | None:
        """Return the number of bytes of a key, None where there is none."""
        return self._of(key).size(key)

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys of both."""
        yield from sorted({*self.top.keys(prefix), *self.below.keys(prefix)})

    def exists(self) -> bool:
        """Say whether there is anything."""
        return self.below.exists()

    def write(self, key: str, data: Buffer) -> None:  # noqa: ARG002  # a Place takes it
        """Refuse: whoever writes must say into which of the two."""
        raise self._for_reading(key)

    def remove(self, key: str) -> None:
        """Refuse, likewise."""
        raise self._for_reading(key)

    def remove_tree(self, prefix: str) -> None:
        """Refuse, likewise."""
        raise self._for_reading(prefix)

    def _for_reading(self, key: str) -> UsageError:
        msg = f"{key} of {self.url} is seen through what is to replace it, for reading only"
        return UsageError(msg)


def next_place(place: Place) -> Place:
    """Return where the files wait that a commit puts in place."""
    if isinstance(place, LocalPlace):
        return LocalPlace(f"{place.root}/{NEXT}")
    if isinstance(place, RemotePlace):
        return place.below(NEXT)
    return RemotePlace(f"{place.url}/{NEXT}")


def marked_token(place: Place) -> str | None:
    """Return the token of the change whose files wait in a store or a new tree."""
    token = _marked(place).get("update")
    return None if token is None else str(token)


def is_being_updated(place: Place) -> bool:
    """Say whether a change of a published store is under way, or was stopped."""
    return place.size(f"{NEXT}/{_MARKER}") is not None


def _marked(place: Place) -> Mapping[str, Any]:
    """Return what the waiting files say of themselves; empty where there are none."""
    try:
        found = json.loads(place.read(f"{NEXT}/{_MARKER}"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def update_under_way(state: LedgerState, root: Root) -> Update | None:
    """Return the change that was begun and is not committed.

    Parameters
    ----------
    state
        The ledger's records of this store.
    root
        Its root.

    Returns
    -------
    Update or None
        A line that does not go with the root's generation, as where the store came from a backup
        that is older than the ledger, is not believed.
    """
    ended = {
        str(record.fields["update"])
        for record in state.of("published", "abandoned")
        if "update" in record.fields
    }
    for record in reversed(tuple(state.of(*UPDATES))):
        update = Update.of_record(record)
        if update.generation == root.generation + 1:
            return None if update.token in ended else update
    return None


def claim_update(
    place: Place, root: Root, kind: str, *, digest: str, names: tuple[str, ...], **fields: Any
) -> Update:
    """Record that a change is begun, or go on with it.

    Parameters
    ----------
    place
        The store.
    root
        Its root.
    kind
        One of `UPDATES`.
    digest
        Of what it adds.
    names
        What it adds, for people.
    **fields
        What a resumed change must find again.

    Returns
    -------
    Update
        The one under way where it is the same.

    Raises
    ------
    SettingsDiffer
        Another change is under way.
    """
    with locked(place.beside(LEDGER_SUFFIX), "update.lock"):
        before = update_under_way(read_ledger(place).for_store(root.uuid), root)
        if before is not None and (before.kind, before.digest) == (kind, digest):
            mark_update(place, before)
            return before
        update = Update(kind, uuids.uuid4().hex, root.generation + 1, digest, names, fields)
        if before is not None:
            msg = (
                f"{place.url}: the {before} was begun and is not finished, so the {update} cannot "
                "begin; run the first again, it goes on where it stopped, or give it up with "
                "abandon_update"
            )
            raise SettingsDiffer(msg)
        Ledger(place, root.uuid).append(
            kind,
            update=update.token,
            generation=update.generation,
            digest=digest,
            names=list(names),
            **fields,
        )
        mark_update(place, update)
        return update


def mark_update(place: Place, update: Update) -> None:
    """Make the waiting files those of this change; what another left is ours and goes."""
    if marked_token(place) != update.token:
        place.remove_tree(STAGING)
        document = {"update": update.token, "generation": update.generation}
        place.write(f"{NEXT}/{_MARKER}", json_bytes(document))


def roll_forward(path: PlaceLike) -> bool:
    """Finish a committed change whose writer was stopped before it had put all in place.

    Parameters
    ----------
    path
        Path or place of a published store.

    Returns
    -------
    bool
        Whether there was anything to do.

    Notes
    -----
    The root has been renamed already, so readers see the new lengths; what is left are the arrays'
    own ``zarr.json``, which this package never reads lengths from, and files that replace others
    of the same shape, such as statistics.
    """
    place = place_of(path)
    if _is_settled(place):  # no lock, whose file a disk to be read only would not take
        return False
    with locked(place.beside(LEDGER_SUFFIX), "update.lock"):
        return _put_in_place(place)


def _is_settled(place: Place) -> bool:
    """Say whether nothing waits to be put in place and no staging is left."""
    root = read_root(place)
    waits = bool(_marked(place)) or next(iter(place.keys(STAGING)), None) is not None
    return not waits and not any(_is_behind(place, p, n) for p, n in root.metadata.items())


def _put_in_place(place: Place) -> bool:
    root = read_root(place)
    waiting = next_place(place)
    marked = _marked(place)
    committed = int(marked.get("generation", root.generation + 1)) <= root.generation
    if committed:
        for key in waiting.keys():
            if key != _MARKER:
                place.write(key, waiting.read(key))
    behind = [path for path, node in root.metadata.items() if _is_behind(place, path, node)]
    for node_path in behind:
        place.write(f"{node_path}/{ROOT_KEY}", json_bytes(root.metadata[node_path]))
    if committed:
        waiting.remove(_MARKER)  # first: from now on nothing that waits is put in place again
        told = {"update": marked["update"], "generation": root.generation}
        Ledger(place, root.uuid).append("published", **told)
    # Staging without a marker is what is left of a removal that was stopped.
    swept = committed or (not marked and next(iter(place.keys(STAGING)), None) is not None)
    if swept:
        place.remove_tree(STAGING)
    return swept or bool(behind)


def _is_behind(place: Place, path: str, node: Mapping[str, Any]) -> bool:
    """Say whether an array's own metadata has another shape than the root's copy of it."""
    if node.get("node_type") != "array":
        return False
    try:
        own = json.loads(place.read(f"{path}/{ROOT_KEY}"))
    except (FileNotFoundError, ValueError):
        return True
    return not isinstance(own, dict) or own.get("shape") != node["shape"]
