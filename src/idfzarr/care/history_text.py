"""The history of scrubs against what lies in a store now: for people, and for programs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idfzarr.care.history import read_history
from idfzarr.care.report_words import counted, visible
from idfzarr.store.place import PARTIAL, LocalPlace, place_of
from idfzarr.store.schema import LIGHTCURVES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from idfzarr.store.place import PlaceLike

__all__ = ["FileRead", "ReadSince", "read_since"]

_METADATA = {"zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata"}


@dataclass(frozen=True)
class FileRead:
    """One file of chunks, and when it was last read well.

    Attributes
    ----------
    key
        The file, below the store's root.
    n_bytes
        Its size now.
    when
        Seconds since 1970; None where it was never read well.
    changed
        Whether its size is another than it was then.
    """

    key: str
    n_bytes: int
    when: float | None
    changed: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "key": self.key,
            "n_bytes": self.n_bytes,
            "when": self.when,
            "changed": self.changed,
        }


@dataclass(frozen=True)
class ReadSince:
    """When the files of a store were last read well.

    Attributes
    ----------
    url
        The store.
    files
        Those that hold chunks: never read ones first, then the oldest reading first.
    damaged
        Sentences about lines of the history that cannot be believed.
    """

    url: str
    files: tuple[FileRead, ...]
    damaged: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "url": self.url,
            "n_files": len(self.files),
            "n_never": sum(file.when is None for file in self.files),
            "files": [file.to_dict() for file in self.files],
            "damaged": list(self.damaged),
        }

    def to_text(self, *, shown: int = 20) -> str:
        """Return it as people read it, at most `shown` of the files that a scrub is to read."""
        never = sum(file.when is None for file in self.files)
        read = len(self.files) - never
        total = counted(len(self.files), "file")
        lines = [f"{visible(self.url)}: {read:,} of {total} of chunks read well, {never:,} never"]
        together: dict[str, list[FileRead]] = {}
        for file in self.files:
            together.setdefault(_group_of(file.key), []).append(file)
        order = sorted(together, key=lambda group: (group != LIGHTCURVES, group))
        lines += [f"  {visible(name):<18}{_span(together[name])}" for name in order]
        wanting = [file for file in self.files if file.when is None or file.changed]
        lines += [f"    {visible(file.key)}: {_wanting(file)}" for file in wanting[:shown]]
        if len(wanting) > shown:
            lines.append(f"    … and {len(wanting) - shown:,} more; --json has all")
        lines += [f"  {visible(sentence)}" for sentence in self.damaged]
        if never:
            lines.append(f"to read them: idfzarr inventory {visible(self.url)} --level scrub")
        return "\n".join(lines)


def _group_of(key: str) -> str:
    """Return what a file is told with: the cube, a group of arrays, or all that is at the top."""
    array = key.partition("/c/")[0]
    if array == LIGHTCURVES or "/" in array:
        return array.partition("/")[0]
    return "other arrays"


def _span(files: Sequence[FileRead]) -> str:
    when = [file.when for file in files if file.when is not None]
    told = counted(len(files), "file")
    if when:
        first, last = _day(min(when)), _day(max(when))
        told += f", read well {first}" + (f" to {last}" if last != first else "")
    never = len(files) - len(when)
    return told + (f", {never:,} never" if never else "")


def _wanting(file: FileRead) -> str:
    return "never" if file.when is None else f"{_day(file.when)}, has changed since"


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))


def read_since(store: PlaceLike) -> ReadSince:
    """Say of every file of chunks when a scrub last read it well.

    Parameters
    ----------
    store
        Path or place of the store.

    Returns
    -------
    ReadSince
        Of a store on object storage only what its history names.
    """
    place = place_of(store)
    history = read_history(place)
    last = history.last()
    found = dict(_chunk_files(place.root)) if isinstance(place, LocalPlace) else {}
    files = []
    for key, n_bytes in found.items():
        read = last.get(key)
        when = None if read is None else read.time_ns / 1e9
        files.append(FileRead(key, n_bytes, when, read is not None and read.size != n_bytes))
    files.sort(key=lambda file: (file.when or 0.0, file.key))
    damaged = tuple(str(damage) for damage in history.damaged)
    return ReadSince(place.url, tuple(files), damaged)


def _chunk_files(root: str) -> Iterator[tuple[str, int]]:
    """Yield keys and sizes of the plain files that are no metadata; links are not followed."""
    for folder, _, names in os.walk(root, followlinks=False):
        for path in (Path(folder, name) for name in names):
            if path.name in _METADATA or path.name.endswith(PARTIAL) or path.is_symlink():
                continue
            yield path.relative_to(root).as_posix(), path.lstat().st_size
