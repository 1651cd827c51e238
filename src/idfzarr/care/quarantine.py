"""The quarantine beside a store: what cleaning and repair take away, kept until it is purged.

``field.zarr.quarantine/<UTC time>-<random>/`` holds one batch: files under the keys that they had,
below ``store/`` or ``ledger/``, and ``list.jsonl``, which says of each its size, crc32c, why it was
taken and when, each line with its own crc32c. A batch is brought back by `restore` and emptied by
`purge`; nothing else ever removes it. Links are neither followed nor moved.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c

from idfzarr.errors import MetadataCorrupt, StoreExists, UnknownName, UsageError, closest
from idfzarr.store.exchange import QUARANTINE_SUFFIX
from idfzarr.store.ledger import Ledger, read_ledger
from idfzarr.store.lines import checked_line, sealed_line
from idfzarr.store.place import LocalPlace, place_of, sync_folder, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from idfzarr.store.place import PlaceLike

__all__ = [
    "QUARANTINE_SUFFIX",
    "Batch",
    "Item",
    "Quarantine",
    "list_batches",
    "purge",
    "restore",
]

LIST = "list.jsonl"
_SIDES = ("", "ledger", "relaid", "aside", "work")
_BUFFER = 1 << 20
_SECONDS_OF_A_DAY = 86400.0


@dataclass(frozen=True)
class Item:
    """One file in quarantine.

    Attributes
    ----------
    key
        Its key below the store, or below the folder that `beside` names.
    beside
        Empty for the store, ``ledger`` for the ledger's folder, or the suffix of another folder
        beside the store.
    size
        Bytes.
    crc32c
        Of the whole file.
    reason
        Why it was taken.
    when
        When, seconds since 1970.
    copied
        Whether the original stayed, to be mended in place.
    """

    key: str
    beside: str
    size: int
    crc32c: int
    reason: str
    when: float
    copied: bool = False

    @property
    def kept_as(self) -> str:
        """The key below the batch's folder."""
        return f"{self.beside or 'store'}/{self.key}"

    def line(self) -> bytes:
        """Return the item as a line with its crc32c."""
        document = {
            "key": self.key,
            "beside": self.beside,
            "size": self.size,
            "crc32c": self.crc32c,
            "reason": self.reason,
            "when": self.when,
            "copied": self.copied,
        }
        return sealed_line(document)

    @classmethod
    def of_line(cls, line: bytes) -> Item | None:
        """Return the item of a line, None where the line does not match its crc32c."""
        body, reason = checked_line(line)
        if reason:
            return None
        try:
            told = json.loads(body)
            return cls(
                key=str(told["key"]),
                beside=str(told["beside"]),
                size=int(told["size"]),
                crc32c=int(told["crc32c"]),
                reason=str(told["reason"]),
                when=float(told["when"]),
                copied=bool(told["copied"]),
            )
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True)
class Batch:
    """What was taken in one go.

    Attributes
    ----------
    name
        Name of its folder.
    when
        When it was begun, seconds since 1970.
    items
        What it holds, in the order in which it was taken.
    """

    name: str
    when: float
    items: tuple[Item, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of its items."""
        return sum(item.size for item in self.items)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        items = [
            {"key": i.key, "beside": i.beside, "size": i.size, "reason": i.reason, "when": i.when}
            for i in self.items
        ]
        return {"name": self.name, "when": self.when, "n_bytes": self.n_bytes, "items": items}


class Quarantine:
    """A batch that is being filled; its folder is made with the first file.

    Parameters
    ----------
    store
        Path or place of the store, on a local disk.
    """

    def __init__(self, store: PlaceLike) -> None:
        self._store = _local(store)
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self.name = f"{stamp}-{secrets.token_hex(4)}"
        self._folder = LocalPlace(f"{_folder_of(self._store)}/{self.name}")
        self.items: list[Item] = []

    def keep(self, key: str, reason: str, *, beside: str = "") -> Item | None:
        """Copy a file into quarantine; copy and list are on disk when this returns.

        Parameters
        ----------
        key
            The file's key.
        reason
            Why.
        beside
            The folder beside the store that the key is of; the store unless given.

        Returns
        -------
        Item or None
            None where there is no such file.

        Raises
        ------
        UsageError
            The key leads outside, or over a link.
        """
        found = self._look(key, beside)
        if found is None:
            return None
        size, crc = found
        item = Item(key, beside, size, crc, reason, time.time(), copied=True)
        self._copy(item)
        self._note(item)
        return item

    def take(self, key: str, reason: str, *, beside: str = "") -> Item | None:
        """Move a file into quarantine.

        The list says so before the file moves. On another file system it is copied, verified and
        only then removed.

        Parameters
        ----------
        key, reason, beside
            See `keep`.

        Returns
        -------
        Item or None
            None where there is no such file.
        """
        found = self._look(key, beside)
        if found is None:
            return None
        size, crc = found
        item = Item(key, beside, size, crc, reason, time.time())
        source, target = self._source(item), self._target(item)
        self._note(item)
        _make_folders(os.path.dirname(target))
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(item)
            os.unlink(source)
        sync_folder(os.path.dirname(target))
        sync_folder(os.path.dirname(source))
        return item

    def _look(self, key: str, beside: str) -> tuple[int, int] | None:
        """Return size and crc32c of a file."""
        path = contained(_side(self._store, beside), key)
        try:
            return measure_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _source(self, item: Item) -> str:
        return contained(_side(self._store, item.beside), item.key)

    def _target(self, item: Item) -> str:
        return contained(self._folder.root, item.kept_as)

    def _copy(self, item: Item) -> None:
        target = self._target(item)
        _make_folders(os.path.dirname(target))
        copy_durably(self._source(item), target)
        if measure_file(target) != (item.size, item.crc32c):
            msg = (
                f"{self._source(item)} was copied to {target}, but the copy differs: the file "
                "changed meanwhile, or the disk fails; nothing was removed, run it again"
            )
            raise MetadataCorrupt(msg)

    def _note(self, item: Item) -> None:
        _refuse_link(_folder_of(self._store))
        _make_folders(self._folder.root)
        path = contained(self._folder.root, LIST)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(path, flags, 0o666)
        try:
            write_all(handle, item.line())
            os.fsync(handle)
        finally:
            os.close(handle)
        if not self.items:
            sync_folder(self._folder.root)
        self.items.append(item)


# -------------------------------------------------------------------- look, restore, purge


def list_batches(store: PlaceLike) -> tuple[Batch, ...]:
    """Return what is in the quarantine of a store, the oldest batch first.

    Parameters
    ----------
    store
        Path or place of the store; it need not be there any more.

    Returns
    -------
    tuple of Batch
        Items whose files are not there, restored ones among them, are left out.
    """
    top = _folder_of(_local(store))
    if os.path.islink(top) or not os.path.isdir(top):
        return ()
    found = [
        _read_batch(top, entry.name)
        for entry in os.scandir(top)
        if entry.is_dir(follow_symlinks=False)
    ]
    return tuple(sorted(found, key=lambda batch: (batch.when, batch.name)))


def _read_batch(top: str, name: str) -> Batch:
    folder = f"{top}/{name}"
    items: dict[str, Item] = {}
    with suppress(FileNotFoundError), open(contained(folder, LIST), "rb") as file:
        for line in file.read().split(b"\n"):
            item = Item.of_line(line) if line else None
            if item is not None and _is_safe(item) and os.path.lexists(f"{folder}/{item.kept_as}"):
                items[item.kept_as] = item
    if name.startswith("relayout-"):
        items = {item.kept_as: item for item in _unlisted(folder)}
    when = min((item.when for item in items.values()), default=os.lstat(folder).st_mtime)
    return Batch(name, when, tuple(items.values()))


def _is_safe(item: Item) -> bool:
    parts = item.key.split("/")
    return item.beside in _SIDES and not any(p in {"", ".", ".."} for p in parts)


def _unlisted(folder: str) -> Iterator[Item]:
    """Yield what a relayout moved aside: files that others had put into the store."""
    for path in _files_below(folder):
        key = os.path.relpath(path, folder).replace(os.sep, "/")
        size, crc = measure_file(path)
        when = os.lstat(path).st_mtime
        yield Item(key, "", size, crc, "was in the store when it was laid out anew", when)


def restore(store: PlaceLike, batch: str | None = None) -> tuple[Item, ...]:
    """Bring back what was moved into quarantine.

    Parameters
    ----------
    store
        Path or place of the store.
    batch
        Name of one batch; all of them, the newest first, unless given.

    Returns
    -------
    tuple of Item
        What was brought back. Copies of files that repair mended in place stay where they are, and
        so does what stands in the store in the same bytes already.

    Raises
    ------
    UnknownName
        There is no such batch.
    StoreExists
        Something else stands now where a file would be put; nothing is brought back.
    MetadataCorrupt
        A file in quarantine is not what was put there; nothing is brought back.
    """
    place = _local(store)
    known = {found.name: found for found in list_batches(place)}
    if batch is not None and batch not in known:
        msg = (
            f"the quarantine of {place.root} has no batch {batch!r}{closest(batch, known)}; "
            f"it has {len(known)}"
        )
        raise UnknownName(msg)
    chosen = list(reversed(known.values())) if batch is None else [known[batch]]
    wanted = [(one, item) for one in chosen for item in one.items if not item.copied]
    moves = _moves(place, wanted)
    for source, target, _ in moves:
        _move_back(source, target)
    _note_brought_back(place, {item.key for _, item in wanted if not item.beside})
    for one in chosen:
        _remove_empty(f"{_folder_of(place)}/{one.name}")
    return tuple(item for _, _, item in moves)


def _note_brought_back(place: LocalPlace, keys: set[str]) -> None:
    """Call shards done again that the ledger calls removed and that are there."""
    state = read_ledger(place)
    for uuid in sorted({record.uuid for record in state.records}):
        removed = state.for_store(uuid).removed
        back = [key for key in sorted(keys & removed.keys()) if place.size(key) is not None]
        if back:
            Ledger(place, uuid).append_all("done", [removed[key].fields for key in back])


def _moves(place: LocalPlace, wanted: Sequence[tuple[Batch, Item]]) -> list[tuple[str, str, Item]]:
    """Return from where to where every file goes; raise before any has moved."""
    top = _folder_of(place)
    moves: dict[str, tuple[str, str, Item]] = {}
    for batch, item in wanted:
        source = _kept(top, batch, item)
        target = contained(_side(place, item.beside), item.key)
        found = measure_file(source)
        if found != (item.size, item.crc32c):
            msg = (
                f"{source} is not what was put into quarantine: it has {found[0]} bytes and crc32c "
                f"{found[1]:08x}, the list says {item.size} and {item.crc32c:08x}; nothing was "
                "brought back"
            )
            raise MetadataCorrupt(msg)
        if os.path.lexists(target):
            if measure_file(target) == found:
                continue
            msg = (
                f"{target} stands where {source} would be put back, and differs; move it away, or "
                "bring back another batch by its name; nothing was brought back"
            )
            raise StoreExists(msg)
        moves.setdefault(target, (source, target, item))
    return list(moves.values())


def _kept(top: str, batch: Batch, item: Item) -> str:
    listed = f"{top}/{batch.name}/{item.kept_as}"
    if os.path.lexists(listed):
        return contained(f"{top}/{batch.name}", item.kept_as)
    return contained(f"{top}/{batch.name}", item.key)


def _move_back(source: str, target: str) -> None:
    _make_folders(os.path.dirname(target))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy_durably(source, target)
        os.unlink(source)
    sync_folder(os.path.dirname(target))


def purge(store: PlaceLike, older_than: float = 0.0) -> tuple[Batch, ...]:
    """Remove batches from the quarantine for good.

    Parameters
    ----------
    store
        Path or place of the store.
    older_than
        Only batches that were begun more than so many days ago.

    Returns
    -------
    tuple of Batch
        What was removed.

    Raises
    ------
    UsageError
        The age is negative.
    """
    if not older_than >= 0:
        msg = f"an age of {older_than} days cannot be; give 0 or more"
        raise UsageError(msg)
    place = _local(store)
    latest = time.time() - older_than * _SECONDS_OF_A_DAY
    gone = tuple(batch for batch in list_batches(place) if batch.when <= latest)
    for batch in gone:
        shutil.rmtree(contained(_folder_of(place), batch.name))  # never follows a link
    with suppress(OSError):
        os.rmdir(_folder_of(place))
    return gone


# -------------------------------------------------------------------- files, links never followed


def contained(top: str, key: str) -> str:
    """Return the path of a key below a folder; raises `UsageError` where it leads over a link.

    Parameters
    ----------
    top
        The folder, which itself may be a link that a person made.
    key
        Names with single slashes between them.
    """
    path = LocalPlace(top).path(key)
    at = top
    for part in key.split("/"):
        at = f"{at}/{part}"
        if os.path.islink(at):
            msg = f"{at} is a link; nothing is moved or written over links: remove it by hand"
            raise UsageError(msg)
    return path


def measure_file(path: str) -> tuple[int, int]:
    """Return size and crc32c of a file, read in pieces; a link raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            msg = f"{path} is no plain file; nothing of that kind is moved: remove it by hand"
            raise UsageError(msg)
        crc, size = 0, 0
        while piece := file.read(_BUFFER):
            crc, size = google_crc32c.extend(crc, piece), size + len(piece)
    return size, crc


def copy_durably(source: str, target: str) -> None:
    """Copy a file under its name or not at all: another name, fsync, rename, fsync of the folder.

    Parameters
    ----------
    source, target
        Paths; neither is followed where it is a link.
    """
    partial = f"{target}.{secrets.token_hex(8)}.partial"
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        writing = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            while piece := os.read(reading, _BUFFER):
                write_all(writing, piece)
            os.fsync(writing)
        finally:
            os.close(writing)
        os.replace(partial, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(partial)
        raise
    finally:
        os.close(reading)
    sync_folder(os.path.dirname(target))


def _local(store: PlaceLike) -> LocalPlace:
    place = place_of(store)
    if not isinstance(place, LocalPlace):
        msg = (
            f"{place.url} is on object storage, where nothing can be moved into quarantine; copy "
            "the store to a local disk, mend it there and copy it back"
        )
        raise UsageError(msg)
    return place


def _folder_of(place: LocalPlace) -> str:
    return place.beside(QUARANTINE_SUFFIX).root


def _side(place: LocalPlace, beside: str) -> str:
    if beside not in _SIDES:
        msg = f"{beside!r} is no folder of a store; one of {', '.join(filter(None, _SIDES))}"
        raise UsageError(msg)
    return place.beside(f".{beside}").root if beside else place.root


def _refuse_link(path: str) -> None:
    if os.path.islink(path):
        msg = f"{path} is a link; the quarantine must be a folder: remove the link"
        raise UsageError(msg)


def _make_folders(path: str) -> None:
    """Make a folder and those above it, each on disk before anything is put inside."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    _make_folders(above)
    with suppress(FileExistsError):
        os.mkdir(path)
        sync_folder(above)


def _files_below(folder: str) -> Iterator[str]:
    """Yield the plain files below a folder, sorted; links are left alone."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files_below(entry.path)
        elif entry.is_file(follow_symlinks=False):
            yield entry.path


def _remove_empty(folder: str) -> None:
    """Remove a batch that holds nothing but its list."""
    if any(os.path.basename(path) != LIST for path in _files_below(folder)):
        return
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
