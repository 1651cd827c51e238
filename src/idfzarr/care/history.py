"""When which file of a store was last read well: the history of scrubs.

It lies in the ledger's folder, ``field.zarr.ledger/scrubs.log``, and is only ever appended to: a
JSON object a line, each line with the crc32c of its own bytes, as the ledger's. A line that does
not match its crc32c is reported and not believed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from idfzarr.store.ledger import LEDGER_SUFFIX, Damage
from idfzarr.store.lines import checked_line, sealed_line
from idfzarr.store.place import LocalPlace, place_of, write_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from idfzarr.store.place import PlaceLike

__all__ = [
    "HISTORY",
    "History",
    "ReadWell",
    "append_history",
    "last_read_well",
    "read_history",
]

HISTORY = "scrubs.log"
"""Name of the history's file in the ledger's folder; the ledger itself reads ``.jsonl`` only."""

_LONGEST = 1 << 16  # bytes of a line; a key has at most 4,096
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class ReadWell:
    """A file that was read from its first byte to its last and found as it must be.

    Attributes
    ----------
    key
        The file, below the store's root.
    time_ns
        When, nanoseconds since 1970.
    size, crc32c
        Of the whole file, as read.
    uuid
        The store's uuid; empty for a store that has none.
    """

    key: str
    time_ns: int
    size: int
    crc32c: int
    uuid: str = ""

    def line(self) -> bytes:
        """Return it as a line with its crc32c."""
        document = {
            "key": self.key,
            "t": self.time_ns,
            "size": self.size,
            "crc32c": self.crc32c,
            "uuid": self.uuid,
        }
        return sealed_line(document)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "key": self.key,
            "time_ns": self.time_ns,
            "size": self.size,
            "crc32c": self.crc32c,
            "uuid": self.uuid,
        }


@dataclass(frozen=True)
class History:
    """What the history says.

    Attributes
    ----------
    url
        Its file.
    reads
        Files read well, in the order of the lines.
    damaged
        Lines that cannot be believed, or the reason why nothing could be read.
    """

    url: str
    reads: tuple[ReadWell, ...] = ()
    damaged: tuple[Damage, ...] = ()

    def last(self, uuid: str = "") -> dict[str, ReadWell]:
        """Return when each file was last read well, the newest by key.

        Parameters
        ----------
        uuid
            Only of the store of this uuid; of any for an empty one.
        """
        newest: dict[str, ReadWell] = {}
        for read in self.reads:
            if uuid and read.uuid != uuid:
                continue
            if read.key not in newest or read.time_ns >= newest[read.key].time_ns:
                newest[read.key] = read
        return newest


def read_history(store: PlaceLike) -> History:
    """Read the history of scrubs of a store.

    Parameters
    ----------
    store
        Path or place of the store.

    Returns
    -------
    History
        Empty where there is none. Damage is told and never raised.
    """
    place = place_of(store).beside(LEDGER_SUFFIX)
    url = f"{place.url}/{HISTORY}"
    if not isinstance(place, LocalPlace):
        return History(url)
    try:
        handle = os.open(place.path(HISTORY), os.O_RDONLY | os.O_NONBLOCK | _FLAGS)
    except FileNotFoundError:
        return History(url)
    except OSError as error:
        return History(url, damaged=(Damage(url, 0, f"it cannot be read: {error.strerror}"),))
    reads: list[ReadWell] = []
    damaged: list[Damage] = []
    try:
        for number, line in _lines(handle):
            read = _parse(line)
            if isinstance(read, ReadWell):
                reads.append(read)
            else:
                damaged.append(Damage(url, number, read))
    except OSError as error:
        damaged.append(Damage(url, 0, f"it cannot be read: {error.strerror}"))
    return History(url, tuple(reads), tuple(damaged))


def _lines(handle: int) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers; of a line without end no more than can be one of ours."""
    with open(handle, "rb") as file:
        number = 1
        while line := file.readline(_LONGEST):
            if line != b"\n":
                yield number, line
            while not line.endswith(b"\n"):
                line = file.readline(_LONGEST)
                if not line:
                    return
            number += 1


def _parse(line: bytes) -> ReadWell | str:
    """Return what a line says, or why it cannot be believed."""
    if not line.endswith(b"\n"):
        return "torn, its writer was stopped in the middle of it"
    body, reason = checked_line(line[:-1])
    if reason:
        return reason
    try:
        document = json.loads(body)
        return ReadWell(
            key=str(document["key"]),
            time_ns=int(document["t"]),
            size=int(document["size"]),
            crc32c=int(document["crc32c"]),
            uuid=str(document["uuid"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"it is no line of a history ({error!r})"


def append_history(store: PlaceLike, reads: Iterable[ReadWell]) -> bool:
    """Note files that were read well; they are on disk when this returns.

    Parameters
    ----------
    store
        Path or place of the store.
    reads
        What was read well.

    Returns
    -------
    bool
        False where there is no ledger's folder beside the store, or where it cannot be written
        to: a history is worth having and never worth failing for, so nothing is raised.
    """
    place = place_of(store).beside(LEDGER_SUFFIX)
    text = b"".join(read.line() for read in reads)
    if not isinstance(place, LocalPlace) or not place.exists():
        return False
    if not text:
        return True
    try:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | _FLAGS
        handle = os.open(place.path(HISTORY), flags, 0o666)
        try:
            write_all(handle, _end_of_torn_line(handle) + text)
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        return False
    return True


def _end_of_torn_line(handle: int) -> bytes:
    """Return what must come before the next line: an end for one that was never finished."""
    size = os.fstat(handle).st_size
    return b"\n" if size and os.pread(handle, 1, size - 1) != b"\n" else b""


def last_read_well(store: PlaceLike, uuid: str = "") -> dict[str, int]:
    """Return when each file of a store was last read well.

    Parameters
    ----------
    store
        Path or place of the store.
    uuid
        Only what is noted of the store of this uuid; of any for an empty one.

    Returns
    -------
    dict
        Nanoseconds since 1970, by key; files never read are not in it.
    """
    return {key: read.time_ns for key, read in read_history(store).last(uuid).items()}
