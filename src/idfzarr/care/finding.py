"""What can be wrong with a store: the kinds of findings, and a finding.

A finding is data: what, how bad, where, in words, what to do, and how sure. `KINDS` is the one list
of everything an inventory can say; repair and cleaning go by it. All-NaN lightcurves, masks of
zeros, NaN borders and a build that is under way are no findings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

__all__ = [
    "KINDS",
    "LEVELS",
    "Finding",
    "Kind",
    "Level",
    "Severity",
    "State",
    "Sureness",
    "Where",
    "finding",
]

Level = Literal["listing", "structure", "scrub", "full"]
"""How deep an inventory looks; each level looks at all that the ones before it do.

``listing`` opens no file of a shard; ``structure`` reads metadata, coordinates and the index of
every shard; ``scrub`` reads every byte and verifies every checksum; ``full`` decodes.
"""

LEVELS: tuple[Level, ...] = get_args(Level)
"""All levels, the quickest first."""

Severity = Literal["error", "warning", "note"]
"""``error``: values are lost or cannot be trusted; ``warning``: something to tidy; ``note``."""

State = Literal["corrupt", "incomplete", "temporary", "stale", "foreign"]
"""What a finding makes of the thing it is about; without one it is healthy.

``corrupt``: bytes that are not what was written. ``incomplete``: built in part, or never built.
``temporary``: left behind by a writer that is gone. ``stale``: right once, overtaken since.
``foreign``: not of this package, or not for this version of it.
"""

Sureness = Literal["certain", "likely", "possible"]
"""How sure a finding is: a checksum is certain, an age is likely, a guess is possible."""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes
    ----------
    name
        Stable name, for programs.
    fault
        Row of the fault table in the README, from 1; 0 for what is no fault of a store.
    state
        What it makes of the thing it is about.
    severity
        How bad it is unless a finding says otherwise.
    level
        The first level that can see it.
    meaning
        In a few words.
    remedy
        What repair does about it, in a few words.
    """

    name: str
    fault: int
    state: State
    severity: Severity
    level: Level
    meaning: str
    remedy: str


_TABLE: tuple[Kind, ...] = (
    Kind(
        "partial_file", 1, "temporary", "warning", "listing",
        "a half-written file whose writer is gone", "quarantine",
    ),
    Kind(
        "staging_left", 1, "temporary", "warning", "listing",
        "staging of a build or a change that is over", "quarantine",
    ),
    Kind(
        "shard_missing", 2, "corrupt", "error", "listing",
        "a shard that the ledger calls done is not there", "rebuild from the mosaics",
    ),
    Kind(
        "shard_pending", 3, "incomplete", "note", "listing",
        "a shard that was never written", "none: go on with the build",
    ),
    Kind(
        "chunk_missing", 4, "corrupt", "error", "structure",
        "a chunk that must be there is not", "rebuild from the mosaics",
    ),
    Kind(
        "shard_torn", 5, "corrupt", "error", "listing",
        "a shard that is cut off or has another size than it was written with",
        "keep the intact chunks, rebuild the others",
    ),
    Kind(
        "index_corrupt", 6, "corrupt", "error", "structure",
        "the index of a shard does not match its crc32c",
        "derive the index from the chunks, whose checksums prove it",
    ),
    Kind(
        "chunk_corrupt", 7, "corrupt", "error", "scrub",
        "a chunk does not match its crc32c", "rebuild from the mosaics",
    ),
    Kind(
        "wrong_shard", 8, "corrupt", "error", "scrub",
        "a shard is whole, but not the one that was written last", "rebuild from the mosaics",
    ),
    Kind(
        "index_wrong", 9, "corrupt", "error", "structure",
        "the index of a shard points outside the shard, or its chunks overlap",
        "derive the index from the chunks, whose checksums prove it",
    ),
    Kind(
        "metadata_corrupt", 10, "corrupt", "error", "structure",
        "a zarr.json is damaged, altered or gone", "restore it from the root or the ledger's copy",
    ),
    Kind(
        "consolidated_stale", 11, "stale", "warning", "structure",
        "an array's own zarr.json and the root's copy of it differ",
        "write the array's own anew from the root",
    ),
    Kind(
        "key_outside", 12, "foreign", "warning", "listing",
        "a chunk outside the grid of its array", "quarantine",
    ),
    Kind(
        "file_unknown", 12, "foreign", "warning", "listing",
        "a file that belongs to no array", "quarantine",
    ),
    Kind(
        "update_unfinished", 13, "incomplete", "warning", "structure",
        "a change of the store was begun and is neither committed nor tidied up",
        "put a committed one in place, take an uncommitted one back",
    ),
    Kind(
        "lengths_disagree", 13, "corrupt", "error", "structure",
        "arrays disagree on the length of a dimension", "restore the metadata that was committed",
    ),
    Kind(
        "coordinate_duplicate", 14, "corrupt", "error", "full",
        "two objects, types or AORs have one name", "none",
    ),
    Kind(
        "coordinate_unsorted", 14, "foreign", "note", "full",
        "a coordinate is not in the order that its attributes promise", "none",
    ),
    Kind(
        "codec_unknown", 15, "foreign", "error", "structure",
        "a codec that this machine cannot read", "none",
    ),
    Kind(
        "format_version", 15, "foreign", "error", "structure",
        "a format version that this package does not read", "none: migrate",
    ),
    Kind(
        "unreadable", 16, "foreign", "error", "listing",
        "permissions keep a file or folder from being read", "none",
    ),
    Kind(
        "symlink", 16, "foreign", "error", "listing",
        "a link that leaves the store, or leads round in a circle; it is never followed", "none",
    ),
    Kind(
        "source_missing", 17, "stale", "note", "full",
        "a mosaic that the store was made from is not where it was", "none",
    ),
    Kind(
        "source_changed", 17, "stale", "warning", "full",
        "a mosaic is not the one that the store was made from", "none: build with --replace",
    ),
    Kind(
        "ledger_damaged", 18, "stale", "warning", "listing",
        "a line of the ledger does not match its crc32c",
        "note anew what a scrub proves, of unknown provenance",
    ),
    Kind(
        "ledger_absent", 18, "stale", "note", "listing",
        "there is no ledger of this store beside it", "none",
    ),
    Kind(
        "too_large", 0, "foreign", "error", "structure",
        "metadata that claims an absurd shape, or a chunk that would unpack beyond all bounds",
        "none",
    ),
    Kind(
        "values_wrong", 0, "corrupt", "error", "full",
        "values that cannot be: a flag that is no integer, an unexplained NaN, a negative error",
        "rebuild from the mosaics",
    ),
    Kind(
        "statistics_stale", 0, "stale", "note", "full",
        "the variability table covers fewer AORs than the cube has", "none: idfzarr stats --update",
    ),
    Kind(
        "values_lost", 0, "incomplete", "warning", "full",
        "lightcurves that repair could not mend and marked as lost", "none",
    ),
)  # fmt: skip

KINDS: dict[str, Kind] = {kind.name: kind for kind in _TABLE}
"""Every kind of finding by its name."""


@dataclass(frozen=True)
class Where:
    """Where a finding is; the empty string or None for what does not apply.

    Attributes
    ----------
    array
        Path of the array below the root, as ``lightcurves`` or ``variability/median``.
    key
        Key of the file below the root, as ``lightcurves/c/0/0/0/0``; a shard's own.
    object
        Id of the object; None for all of the key.
    type
        Name of the measurement type.
    first_byte
        Where in the file it begins.
    n_bytes
        Bytes it takes there; without `first_byte`, the size of the file or folder.
    beside
        ``ledger`` or ``quarantine`` where the key lies in that folder beside the store; ``work``,
        ``relaid`` or ``aside``, without a key, for such a folder that a writer left there.
    """

    array: str = ""
    key: str = ""
    object: int | None = None
    type: str = ""
    first_byte: int | None = None
    n_bytes: int | None = None
    beside: str = ""

    def __str__(self) -> str:
        place = f"{self.beside}:{self.key}" if self.beside else self.key or self.array or "/"
        # Names of files are anybody's; what a terminal would obey is spelled out.
        parts = ["".join(c if c.isprintable() else repr(c)[1:-1] for c in place)]
        if self.object is not None:
            parts.append(f"object {self.object}")
        if self.type:
            parts.append(self.type)
        if self.first_byte is not None:
            parts.append(f"byte {self.first_byte}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Finding:
    """One thing that an inventory found.

    Attributes
    ----------
    kind
        Its name in `KINDS`.
    severity
        How bad it is.
    where
        Where it is.
    message
        What was found, in one sentence.
    remedy
        What to do about it.
    sure
        How sure it is.
    """

    kind: str
    severity: Severity
    where: Where
    message: str
    remedy: str
    sure: Sureness = "certain"

    @property
    def state(self) -> State:
        """What it makes of the thing it is about."""
        return KINDS[self.kind].state

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types, the place flat beside the rest."""
        told = {
            "kind": self.kind,
            "state": self.state,
            "severity": self.severity,
            "sure": self.sure,
            "message": self.message,
            "remedy": self.remedy,
        }
        return told | asdict(self.where)

    def sort_key(self) -> tuple[Any, ...]:
        """Return what findings are sorted by: errors first, then place, then kind."""
        where = self.where
        return (
            get_args(Severity).index(self.severity),
            where.beside,
            where.key,
            where.array,
            -1 if where.object is None else where.object,
            where.type,
            -1 if where.first_byte is None else where.first_byte,
            self.kind,
            self.message,
        )


def finding(
    kind: str,
    where: Where,
    message: str,
    *,
    severity: Severity | None = None,
    remedy: str | None = None,
    sure: Sureness = "certain",
) -> Finding:
    """Return a finding; severity and remedy are those of its kind unless given.

    Parameters
    ----------
    kind
        A name in `KINDS`; any other raises KeyError.
    where
        Where it is.
    message
        What was found, in one sentence.
    severity, remedy
        Where they differ from what is usual for the kind.
    sure
        How sure it is.

    Returns
    -------
    Finding
        Complete.
    """
    usual = KINDS[kind]
    return Finding(kind, severity or usual.severity, where, message, remedy or usual.remedy, sure)
