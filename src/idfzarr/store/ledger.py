"""The ledger beside a store: who wrote what, line by line.

``field.zarr.ledger/`` lies beside the store and not in it, so that a copied store does not carry
claims along. Every writer appends to a file of its own, one JSON object a line, each line with the
crc32c of its own bytes, each on disk before the next step is taken. An ``intent`` line comes before
a shard is renamed into place, ``done`` after it. A line that does not match its crc32c is reported
and never believed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UsageError
from idfzarr.store.lines import checked_line, sealed_line
from idfzarr.store.place import LocalPlace, place_of, storage_full, write_all

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from idfzarr.store.place import Place, PlaceLike

__all__ = ["LEDGER_SUFFIX", "Damage", "Ledger", "LedgerState", "Record", "read_ledger"]

LEDGER_SUFFIX = ".ledger"
"""What the ledger's folder is called after the store's."""

KINDS = frozenset(
    [
        "begin",
        "laid_out",
        "registered",
        "staged",
        "intent",
        "done",
        "published",
        "removed",
        "note",
        "append",  # a published store gets AORs: what a change is, before anything of it is written
        "replace",
        "relayout",
        "relaid",  # a shard of the tree that is to be exchanged for the store
        "abandoned",
    ]
)
"""What a record can be."""

_SUFFIX = ".jsonl"
_RESERVED = frozenset(["kind", "uuid", "writer", "n", "t", "line_crc32c"])


@dataclass(frozen=True)
class Record:
    """One line of a ledger.

    Parameters
    ----------
    kind
        One of `KINDS`.
    uuid
        The store it speaks of.
    writer
        Name of the writer: host, process and a random part.
    number
        Its place among that writer's lines, from 0.
    time_ns
        When it was written, nanoseconds since 1970, by the writer's clock.
    fields
        What it says.
    """

    kind: str
    uuid: str
    writer: str
    number: int
    time_ns: int
    fields: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> bytes:
        """Return the record as a line with its crc32c."""
        document = dict(self.fields) | {
            "kind": self.kind,
            "uuid": self.uuid,
            "writer": self.writer,
            "n": self.number,
            "t": self.time_ns,
        }
        return sealed_line(document)


@dataclass(frozen=True)
class Damage:
    """A line of a ledger that cannot be believed."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}"


@dataclass(frozen=True)
class LedgerState:
    """Everything a ledger says.

    Parameters
    ----------
    url
        Where the ledger is.
    records
        Records that match their crc32c, in order of time.
    damaged
        Lines that do not.
    """

    url: str
    records: tuple[Record, ...] = ()
    damaged: tuple[Damage, ...] = ()

    def of(self, *kinds: str) -> Iterator[Record]:
        """Yield the records of some kinds, oldest first."""
        return (record for record in self.records if record.kind in kinds)

    def last(self, kind: str) -> Record | None:
        """Return the newest record of a kind."""
        return next((r for r in reversed(self.records) if r.kind == kind), None)

    @cached_property
    def begun(self) -> Record | None:
        """The newest ``begin``."""
        return self.last("begin")

    def since_begin(self) -> LedgerState:
        """Return the state without what other stores of that name left behind."""
        if self.begun is None:
            return LedgerState(self.url, (), self.damaged)
        own = tuple(r for r in self.records if r.uuid == self.begun.uuid)
        return LedgerState(self.url, own, self.damaged)

    def for_store(self, uuid: str) -> LedgerState:
        """Return the state with the records of one store only."""
        return LedgerState(self.url, tuple(r for r in self.records if r.uuid == uuid), self.damaged)

    def foreign_uuids(self, uuid: str) -> frozenset[str]:
        """Return the uuids of other stores that the ledger speaks of."""
        return frozenset(r.uuid for r in self.records) - {uuid}

    @cached_property
    def done(self) -> dict[str, Record]:
        """Newest ``done`` of every shard's key that was not removed after it."""
        return self._standing("done")

    @cached_property
    def intents(self) -> dict[str, Record]:
        """Newest ``intent`` of every shard's key that was not removed after it."""
        return self._standing("intent")

    @cached_property
    def removed(self) -> dict[str, Record]:
        """The ``done``, by key, of every shard that was removed and not written again since."""
        before = {str(r.fields["key"]): r for r in self.of("done") if "key" in r.fields}
        gone = {str(r.fields["key"]) for r in self.of("removed") if "key" in r.fields}
        return {key: before[key] for key in sorted(gone & before.keys() - self.done.keys())}

    def _standing(self, kind: str) -> dict[str, Record]:
        found: dict[str, Record] = {}
        for record in self.of(kind, "removed"):
            key = record.fields.get("key")
            if key is not None and record.kind == kind:
                found[str(key)] = record
            else:
                found.pop(str(key), None)
        return found

    def relaid(self, token: str) -> dict[str, Mapping[str, Any]]:
        """Return what a relayout noted of every shard of its new tree, the newest by key."""
        return {
            str(r.fields["key"]): r.fields
            for r in self.of("relaid")
            if r.fields.get("update") == token
        }

    @cached_property
    def staged(self) -> dict[int, Record]:
        """Newest ``staged`` of every batch of AORs."""
        return {int(r.fields["batch"]): r for r in self.of("staged") if "batch" in r.fields}

    @property
    def is_published(self) -> bool:
        """Whether the store was published after it was last begun."""
        return any(True for _ in self.since_begin().of("published"))


class Ledger:
    """A writer's own file in the ledger of a store.

    Parameters
    ----------
    store
        Path or place of the store.
    uuid
        The store's uuid, which every line carries.

    Notes
    -----
    Threads may share one. A process that was forked from another gets a file of its own.
    """

    def __init__(self, store: PlaceLike, uuid: str) -> None:
        self._place = place_of(store).beside(LEDGER_SUFFIX)
        self._uuid = uuid
        self._lock = threading.Lock()
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]
        self._writer = f"{host}-{self._pid}-{secrets.token_hex(4)}"
        self._number = 0
        self._torn = False

    @property
    def url(self) -> str:
        """Where the ledger is."""
        return self._place.url

    def append(self, kind: str, /, **fields: Any) -> Record:
        """Write one record; it is on disk when this returns.

        Parameters
        ----------
        kind
            One of `KINDS`.
        **fields
            What to say: anything JSON can hold.

        Returns
        -------
        Record
            As written.

        Raises
        ------
        UsageError
            There is no such kind, or a field has a name the ledger needs itself.
        StorageFull
            The disk or the quota is full.
        """
        return self.append_all(kind, [fields])[0]

    def append_all(self, kind: str, many: Iterable[Mapping[str, Any]], /) -> list[Record]:
        """Write records of one kind; all are on disk when this returns.

        Parameters
        ----------
        kind
            One of `KINDS`.
        many
            What each is to say.

        Returns
        -------
        list of Record
            As written.

        Raises
        ------
        UsageError, StorageFull
            See `append`.
        """
        told = [dict(fields) for fields in many]
        for fields in told:
            self._check(kind, fields)
        if os.getpid() != self._pid:
            self._lock = threading.Lock()  # the parent's may have been held when it forked
            self._start()
        with self._lock:
            records = [
                Record(kind, self._uuid, self._writer, self._number + k, time.time_ns(), fields)
                for k, fields in enumerate(told)
            ]
            self._put([record.line() for record in records])
            self._number += len(records)
        return records

    def _check(self, kind: str, fields: Mapping[str, Any]) -> None:
        if kind not in KINDS or _RESERVED & fields.keys():
            msg = (
                f"the ledger {self.url} takes no record {kind!r} with fields {sorted(fields)}: "
                "kinds are "
                f"{', '.join(sorted(KINDS))}; the names {', '.join(sorted(_RESERVED))} are its own"
            )
            raise UsageError(msg)

    def _put(self, lines: Sequence[bytes]) -> None:
        if not isinstance(self._place, LocalPlace):
            # Objects cannot be appended to: every line is one.
            for number, line in enumerate(lines, start=self._number):
                self._place.write(f"{self._writer}-{number:08d}{_SUFFIX}", line)
            return
        text = b"".join(lines)
        path = self._place.path(self._writer + _SUFFIX)
        if self._number == 0 and not os.path.exists(path):
            self._place.write(self._writer + _SUFFIX, b"")
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                write_all(handle, b"\n" + text if self._torn else text)
                os.fsync(handle)
            except BaseException:
                self._torn = True
                raise
            finally:
                os.close(handle)
        except OSError as error:
            raise storage_full(path, len(text), error) from error
        self._torn = False


def read_ledger(store: PlaceLike) -> LedgerState:
    """Read the ledger of a store.

    Parameters
    ----------
    store
        Path or place of the store.

    Returns
    -------
    LedgerState
        Empty where there is no ledger. A last line without its end is reported as torn: its
        writer was stopped in the middle of it, and what it was about counts as not done.
    """
    place = place_of(store).beside(LEDGER_SUFFIX)
    records: list[Record] = []
    damaged: list[Damage] = []
    if place.exists():
        for key in place.keys():
            if key.endswith(_SUFFIX):
                _read_file(place, key, records, damaged)
    records.sort(key=lambda r: (r.time_ns, r.writer, r.number))
    return LedgerState(place.url, tuple(records), tuple(damaged))


def _read_file(place: Place, key: str, records: list[Record], damaged: list[Damage]) -> None:
    lines = place.read(key).split(b"\n")
    intact: list[tuple[int, bytes]] = []
    bad: list[Damage] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        body, reason = checked_line(line)
        if reason:
            torn = number == len(lines)
            told = "torn, its writer was stopped in the middle of it" if torn else reason
            bad.append(Damage(f"{place.url}/{key}", number, told))
        else:
            intact.append((number, body))
    for (number, _), document in zip(intact, _documents([b for _, b in intact]), strict=True):
        record = _record(document)
        if isinstance(record, Record):
            records.append(record)
        else:
            bad.append(Damage(f"{place.url}/{key}", number, record))
    damaged += sorted(bad, key=lambda damage: damage.line)


def _documents(bodies: Sequence[bytes]) -> list[Any]:
    """Parse lines that match their checksums, all by one call where that can be."""
    try:
        found = json.loads(b"[" + b",".join(bodies) + b"]")
    except (ValueError, RecursionError):
        found = []
    # A line that holds a comma too many would be two.
    return found if len(found) == len(bodies) else [_document(body) for body in bodies]


def _document(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        return error


def _record(document: Any) -> Record | str:
    """Return the record of a document, or why it cannot be believed."""
    try:
        return Record(
            kind=str(document.pop("kind")),
            uuid=str(document.pop("uuid")),
            writer=str(document.pop("writer")),
            number=int(document.pop("n")),
            time_ns=int(document.pop("t")),
            fields=document,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = document if isinstance(document, Exception) else error
        return f"it is no record ({told!r})"
