"""Lists of objects with a name, in ``field.zarr.notes/lists.jsonl`` beside the store.

A line is ``{"author": "", "name": "...", "objects": [1, 2], "time": "...", "uuid": "...",
"line_crc32c": "..."}``, with null for the objects of a list that was deleted; the last of a name
holds. No file is called after a list, so that no name can lead out of the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.viewer.journal import Entry, Journal, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from idfzarr.store.place import PlaceLike

__all__ = ["LONGEST_NAME", "MOST_LISTS", "MOST_OBJECTS_OF_A_LIST", "ObjectList", "ObjectLists"]

LONGEST_NAME = 80
"""Characters of a list's name."""

MOST_LISTS = 500
"""Lists of one store."""

MOST_OBJECTS_OF_A_LIST = 300_000
"""Objects of one list."""

_MOST_ID = 2**63


@dataclass(frozen=True)
class ObjectList:
    """A list of objects.

    Attributes
    ----------
    name
        Its name.
    objects
        Ids, each once, in order.
    time, author
        When it was saved, and by whom.
    """

    name: str
    objects: tuple[int, ...]
    time: str
    author: str


class ObjectLists(Journal):
    """The lists of one store; sessions and threads may share it.

    Parameters
    ----------
    store
        Path of the store.
    uuid
        Of the store.
    """

    def __init__(self, store: PlaceLike, uuid: str) -> None:
        super().__init__(store, uuid, "lists", _read)

    def all(self) -> tuple[ObjectList, ...]:
        """Return all lists, sorted by name.

        Raises
        ------
        UsageError
            The file cannot be read.
        """
        found = [
            ObjectList(name, entry.told["objects"], entry.time, entry.author)
            for name, entry in self.entries().items()
            if entry.told["objects"] is not None
        ]
        return tuple(sorted(found, key=lambda one: (one.name.casefold(), one.name)))

    def load(self, name: str) -> ObjectList:
        """Return a list.

        Raises
        ------
        UnknownName
            There is none of that name.
        UsageError
            The file cannot be read.
        """
        known = {one.name: one for one in self.all()}
        if name not in known:
            msg = f"there is no list {name!r}{closest(name, known)}"
            raise UnknownName(msg)
        return known[name]

    def save(
        self, name: str, objects: Iterable[int], *, replace: bool = False, author: str = ""
    ) -> ObjectList:
        """Save objects under a name.

        Parameters
        ----------
        name
            Anything that can be read, in one line.
        objects
            Ids.
        replace
            Save them also where another list has that name.
        author
            Who says so.

        Raises
        ------
        UsageError
            The name is none, a list of that name has other objects, there are too many of either,
            or nothing can be written there.
        """
        tidy = clean_text(name, what="a list's name", longest=LONGEST_NAME, one_line=True)
        ids = list(dict.fromkeys(int(one) for one in objects))
        if not tidy:
            msg = "give the list a name"
            raise UsageError(msg)
        if not ids:
            msg = f"no object is selected, so that there is nothing to save as {tidy!r}"
            raise UsageError(msg)
        if len(ids) > MOST_OBJECTS_OF_A_LIST:
            msg = f"{len(ids):,} objects are more than the {MOST_OBJECTS_OF_A_LIST:,} of one list"
            raise UsageError(msg)
        if len(self.all()) >= MOST_LISTS and tidy not in {one.name for one in self.all()}:
            msg = f"there are {MOST_LISTS} lists already: delete one"
            raise UsageError(msg)

        def decide(entry: Entry | None) -> dict[str, Any] | None:
            before = None if entry is None else entry.told["objects"]
            if before == tuple(ids):
                return None
            if before is not None and not replace:
                msg = f"there is a list {tidy!r} of {len(before):,} objects: replace it, or rename"
                raise UsageError(msg)
            return {"name": tidy, "objects": ids}

        entry = self.change(tidy, decide, author=author)
        told = (entry.time, entry.author) if entry is not None else ("", author)
        return ObjectList(tidy, tuple(ids), *told)

    def delete(self, name: str, *, author: str = "") -> None:
        """Delete a list; its lines stay in the file.

        Raises
        ------
        UnknownName
            There is none of that name.
        UsageError
            Nothing can be written there.
        """
        self.load(name)
        self.change(name, lambda _: {"name": name, "objects": None}, author=author)


def _read(document: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of a line's list and its objects; raises where it is no such line."""
    name, ids = document["name"], document["objects"]
    if not (isinstance(name, str) and 0 < len(name) <= LONGEST_NAME):
        raise ValueError
    if ids is None:
        return name, {"objects": None}
    if not (isinstance(ids, list) and len(ids) <= MOST_OBJECTS_OF_A_LIST):
        raise ValueError
    if not all(type(one) is int and -_MOST_ID <= one < _MOST_ID for one in ids):
        raise ValueError
    return name, {"objects": tuple(ids)}
