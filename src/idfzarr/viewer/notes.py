"""Tags and notes on objects, in ``field.zarr.notes/notes.jsonl`` beside the store, never in it.

A line is ``{"author": "", "note": "...", "object": 12, "tags": ["variable"], "time": "2026-01-01T
00:00:00.000+00:00", "uuid": "...", "line_crc32c": "..."}``; the last of an object holds.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UsageError
from idfzarr.viewer.journal import Entry, Journal, clean_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from idfzarr.store.place import PlaceLike

__all__ = [
    "LONGEST_NOTE",
    "LONGEST_TAG",
    "MOST_TAGS",
    "USUAL_TAGS",
    "Note",
    "Notes",
    "notes_csv",
]

LONGEST_NOTE = 10_000
"""Characters of a note."""

LONGEST_TAG = 40
"""Characters of a tag."""

MOST_TAGS = 30
"""Tags of one object."""

USUAL_TAGS = ("variable", "periodic", "artefact", "check again")
"""Tags that are offered before anybody made one."""

_MOST_ID = 2**63


@dataclass(frozen=True)
class Note:
    """What is written down about one object.

    Attributes
    ----------
    object_id
        The object.
    tags
        Each once, in the order they were given.
    text
        Empty where there is none.
    time, author
        Of the last change; empty where nothing was ever written.
    line
        Number of the line that says so, 0 for none.
    """

    object_id: int
    tags: tuple[str, ...] = ()
    text: str = ""
    time: str = ""
    author: str = ""
    line: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is neither tag nor text."""
        return not (self.tags or self.text)


class Notes(Journal):
    """The notes of one store; sessions and threads may share it.

    Parameters
    ----------
    store
        Path of the store.
    uuid
        Of the store.
    """

    def __init__(self, store: PlaceLike, uuid: str) -> None:
        super().__init__(store, uuid, "notes", _read)

    def all(self) -> tuple[Note, ...]:
        """Return all that is written down, the last change first.

        Raises
        ------
        UsageError
            The file cannot be read.
        """
        entries = self.entries()
        found = [_note(object_id, entry) for object_id, entry in entries.items()]
        return tuple(note for note in reversed(found) if not note.is_empty)

    def of(self, object_id: int) -> Note:
        """Return what is written down about an object, an empty note where nothing is.

        Raises
        ------
        UsageError
            The file cannot be read.
        """
        return _note(object_id, self.entries().get(object_id))

    def tags(self) -> tuple[str, ...]:
        """Return all tags that some object has, and the usual ones, sorted."""
        given = {tag for note in self.all() for tag in note.tags}
        return tuple(sorted(given | set(USUAL_TAGS), key=str.casefold))

    def write(
        self,
        object_id: int,
        *,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
        text: str | None = None,
        seen: str | None = None,
        author: str = "",
    ) -> Note:
        """Change what is written down about an object.

        Parameters
        ----------
        object_id
            The object.
        add, remove
            Tags; those that others gave meanwhile stay.
        text
            The new note; as it is unless given.
        seen
            The note that was read before this one was written: where it is another one by now,
            nothing is changed.
        author
            Who says so.

        Returns
        -------
        Note
            What holds now.

        Raises
        ------
        UsageError
            A tag or the note is too long, there are too many tags, somebody else changed the note
            meanwhile, or nothing can be written there.
        """
        wanted = [_tag(tag) for tag in add]
        unwanted = {_tag(tag) for tag in remove}
        if text is not None:
            text = clean_text(text, what="a note", longest=LONGEST_NOTE, one_line=False)

        def decide(entry: Entry | None) -> dict[str, Any] | None:
            before = _note(object_id, entry)
            if text is not None and seen is not None and before.text not in {seen, text}:
                msg = (
                    f"the note on object {object_id} was changed by somebody else meanwhile: "
                    f"it is {_short(before.text)} now; yours was not written"
                )
                raise UsageError(msg)
            tags = [tag for tag in dict.fromkeys([*before.tags, *wanted]) if tag not in unwanted]
            if len(tags) > MOST_TAGS:
                msg = f"an object has at most {MOST_TAGS} tags; take one away from {object_id}"
                raise UsageError(msg)
            now = before.text if text is None else text
            if (tuple(tags), now) == (before.tags, before.text):
                return None
            return {"object": int(object_id), "tags": tags, "note": now}

        return _note(object_id, self.change(object_id, decide, author=author))


def _read(document: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """Return the object of a line and what it says; raises where it is no such line."""
    object_id, tags, text = document["object"], document["tags"], document["note"]
    good = isinstance(object_id, int) and not isinstance(object_id, bool)
    good = good and -_MOST_ID <= object_id < _MOST_ID
    good = good and isinstance(text, str) and len(text) <= LONGEST_NOTE
    good = good and isinstance(tags, list) and len(tags) <= MOST_TAGS
    if not (good and all(isinstance(tag, str) and 0 < len(tag) <= LONGEST_TAG for tag in tags)):
        raise ValueError
    return object_id, {"tags": tuple(tags), "note": text}


def _note(object_id: int, entry: Entry | None) -> Note:
    if entry is None:
        return Note(object_id)
    told = entry.told
    return Note(object_id, told["tags"], told["note"], entry.time, entry.author, entry.line)


def _tag(text: str) -> str:
    tag = clean_text(text, what="a tag", longest=LONGEST_TAG, one_line=True)
    if not tag or "," in tag:
        msg = "a tag is a word or a few, without a comma"
        raise UsageError(msg)
    return tag


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:80] + "…")


def notes_csv(notes: Iterable[Note]) -> bytes:
    """Return notes as CSV: object, tags (separated by commas), note, time, author.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, which
    spreadsheets do not show (https://owasp.org/www-community/attacks/CSV_Injection); the file of
    notes itself has the exact text.

    Parameters
    ----------
    notes
        Any.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["object", "tags", "note", "time", "author"])
    for note in notes:
        words = (",".join(note.tags), note.text, note.time, note.author)
        writer.writerow([note.object_id, *map(_harmless, words)])
    return out.getvalue().encode("utf-8", "replace")


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
