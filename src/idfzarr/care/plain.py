"""Any plain Zarr v3 or v2 store, as far as its own metadata allows.

Groups and arrays in any hierarchy, sharded or not, consolidated or not. A chunk that is not there
is the fill value and no fault. Files are counted by the listing; no grid is ever enumerated, since
its metadata may claim what it likes.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from idfzarr.care.finding import KINDS, LEVELS, Finding, Level, Where, finding
from idfzarr.care.safe_read import open_key, read_key
from idfzarr.care.scrub import ScrubTask
from idfzarr.care.shard_pieces import IndexFault, read_pieces
from idfzarr.care.unpacked_size import HEAD, claimed_bytes
from idfzarr.care.zarr_node import ArrayNode, NodeFault, parse_v2, parse_v3
from idfzarr.progress import silent
from idfzarr.store.checksum import CRC_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from idfzarr.progress import Progress

__all__ = ["ArrayCensus", "FileSeen", "PlainStore", "look_at_plain", "plain_kind", "plain_tasks"]

V3_KEY = "zarr.json"
V2_KEYS = (".zarray", ".zgroup", ".zattrs", ".zmetadata")
_MOST_JSON = 1 << 26
_MOST_JSON_ELEMENTS = 1 << 20
_TEMPORARY = (".partial", ".__lock", "/__lock", ".tmp")
_TELLS_BY_AGE = "_temp_"


class FileSeen(Protocol):
    """What a listing says of a file."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def mtime_ns(self) -> int | None:
        """When it was changed last, nanoseconds since 1970; None where nobody tells."""


@dataclass(frozen=True)
class ArrayCensus:
    """What there is of one array.

    Attributes
    ----------
    node
        What it is.
    chunk_keys
        Keys of its chunk files within the grid, sorted.
    n_bytes
        Bytes of them.
    n_present
        Chunks in them; None where shards have not been looked into.
    faulty
        Those of the keys with which something is wrong.
    """

    node: ArrayNode
    chunk_keys: tuple[str, ...]
    n_bytes: int
    n_present: int | None
    faulty: frozenset[str] = frozenset()


@dataclass(frozen=True)
class PlainStore:
    """What there is of a store.

    Attributes
    ----------
    arrays
        Sorted by path.
    findings
        In no particular order.
    n_read
        Bytes read.
    """

    arrays: tuple[ArrayCensus, ...] = ()
    findings: tuple[Finding, ...] = ()
    n_read: int = 0


def plain_kind(keys: Iterable[str]) -> Literal["zarr3", "zarr2"] | None:
    """Say by its files alone which Zarr a store is.

    Parameters
    ----------
    keys
        Of all its files.

    Returns
    -------
    str or None
        ``zarr3`` where there is a ``zarr.json`` anywhere, else ``zarr2`` where there is a
        ``.zarray`` or ``.zgroup``; None where there is neither.
    """
    names = {key.rsplit("/", 1)[-1] for key in keys}
    if V3_KEY in names:
        return "zarr3"
    return "zarr2" if names & {".zarray", ".zgroup"} else None


def look_at_plain(
    root: str,
    files: Mapping[str, FileSeen],
    *,
    level: Level = "structure",
    grace: float = 3600.0,
    now: float | None = None,
    progress: Progress = silent,
) -> PlainStore:
    """Look at a plain store: its names, its metadata, the indexes of its shards.

    Parameters
    ----------
    root
        Its folder.
    files
        Regular files in it, by key.
    level
        ``listing`` opens metadata only; the others look into every chunk file too.
    grace
        Temporary files younger than this, in seconds, may be somebody's work and are not told.
    now
        Seconds since 1970.
    progress
        Told files.

    Returns
    -------
    PlainStore
        What there is, and what is wrong with it.
    """
    found: list[Finding] = []
    documents = _read_documents(root, files, found)
    nodes = _parse_nodes(documents, found)
    homes = _homes(documents, nodes)
    chunks = _sort_files(files, homes, found, grace=grace, now=time.time() if now is None else now)
    looked = _Looked(root, files, opened=level != "listing", progress=progress)
    looked.total = sum(map(len, chunks.values()))
    arrays = tuple(looked.census(homes[path], keys) for path, keys in sorted(chunks.items()))
    found += [*looked.findings, *_compare_consolidated(documents)]
    deep = LEVELS.index(level)
    told = tuple(f for f in found if LEVELS.index(KINDS[f.kind].level) <= deep)
    n_read = documents.n_read + looked.n_read
    return PlainStore(arrays, told, n_read)


def plain_tasks(store: PlainStore, files: Mapping[str, FileSeen]) -> list[ScrubTask]:
    """Return what there is to scrub of a plain store.

    Parameters
    ----------
    store
        As it was looked at.
    files
        Regular files, by key.

    Returns
    -------
    list of ScrubTask
        Every chunk file; what has no checksum is read all the same, since a disk that fails says
        so then.
    """
    return [
        ScrubTask(
            key=key,
            array=census.node.path,
            size=files[key].size,
            form=census.node.form,
            sealed=census.node.sealed and not census.node.sharded,
            faulty=key in census.faulty,
        )
        for census in store.arrays
        for key in census.chunk_keys
        if census.node.sharded or key not in census.faulty
    ]


# -------------------------------------------------------------------- metadata


@dataclass
class _Documents:
    """Metadata by key; None for what is none."""

    by_key: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    n_read: int = 0

    def of(self, path: str, name: str) -> dict[str, Any] | None:
        return self.by_key.get(f"{path}/{name}" if path else name)


def _read_documents(root: str, files: Mapping[str, FileSeen], found: list[Finding]) -> _Documents:
    documents = _Documents()
    for key in sorted(files):
        if key.rsplit("/", 1)[-1] not in {V3_KEY, *V2_KEYS}:
            continue
        documents.by_key[key] = None
        where = Where(_path_of(key), key, n_bytes=files[key].size)
        if files[key].size > _MOST_JSON:
            told = f"{key} has {files[key].size} bytes, more than any metadata"
            found.append(finding("too_large", where, told))
            continue
        try:
            data = read_key(root, key, at_most=_MOST_JSON)
        except OSError as error:
            told = f"{key} cannot be read: {error.strerror or error}"
            found.append(finding("unreadable", where, told))
            continue
        documents.n_read += len(data)
        if sum(map(data.count, (b"[", b"{", b","))) > _MOST_JSON_ELEMENTS:
            told = f"{key} is JSON of more than {_MOST_JSON_ELEMENTS} elements"
            found.append(finding("too_large", where, told))
            continue
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            told = f"{key} is no JSON: {str(error)[:200]}"
            found.append(finding("metadata_corrupt", where, told))
            continue
        if isinstance(document, dict):
            documents.by_key[key] = document
        else:
            found.append(finding("metadata_corrupt", where, f"{key} is no JSON object"))
    return documents


def _path_of(key: str) -> str:
    return key.rpartition("/")[0]


def _parse_nodes(documents: _Documents, found: list[Finding]) -> dict[str, ArrayNode | None]:
    """Return every array by its path; None for one whose metadata does not say what it is."""
    nodes: dict[str, ArrayNode | None] = {}
    for key, document in documents.by_key.items():
        path, name = _path_of(key), key.rsplit("/", 1)[-1]
        if document is None:
            if name in {V3_KEY, ".zarray"}:
                nodes[path] = None
            continue
        parsed = _parse_node(path, name, document, documents)
        if isinstance(parsed, NodeFault):
            found.append(finding(parsed.kind, Where(path, key), f"{key}: {parsed.message}"))
            nodes[path] = None
        elif parsed is not None:
            nodes[path] = parsed
    return nodes


def _parse_node(
    path: str, name: str, document: dict[str, Any], documents: _Documents
) -> ArrayNode | NodeFault | None:
    """Return an array, what is wrong with a node, or None for a group."""
    if name == ".zarray":
        return parse_v2(path, document, documents.of(path, ".zattrs"))
    stated = document.get("zarr_format")
    if name == ".zgroup" and stated != 2:
        return NodeFault("metadata_corrupt", f"its zarr_format is {stated!r:.40}, not 2")
    return _parse_v3_node(path, document) if name == V3_KEY else None


def _parse_v3_node(path: str, document: dict[str, Any]) -> ArrayNode | NodeFault | None:
    stated, kind = document.get("zarr_format"), document.get("node_type")
    if stated != 3:
        newer = type(stated) is int and stated > 3
        fault = "format_version" if newer else "metadata_corrupt"
        return NodeFault(fault, f"its zarr_format is {stated!r:.40}, not 3")
    if kind == "array":
        return parse_v3(path, document)
    return (
        None if kind == "group" else NodeFault("metadata_corrupt", f"it is no node: {kind!r:.40}")
    )


def _homes(
    documents: _Documents, nodes: Mapping[str, ArrayNode | None]
) -> dict[str, ArrayNode | None]:
    """Return what every folder with metadata is: an array, or None for all else."""
    groups = {_path_of(key): None for key in documents.by_key}
    return groups | dict(nodes)


# -------------------------------------------------------------------- names


def _sort_files(
    files: Mapping[str, FileSeen],
    homes: Mapping[str, ArrayNode | None],
    found: list[Finding],
    *,
    grace: float,
    now: float,
) -> dict[str, list[str]]:
    """Return the keys of chunk files by array; what is none of these is told."""
    chunks: dict[str, list[str]] = {p: [] for p, node in homes.items() if node is not None}
    unknown_nodes = {path for path, node in homes.items() if node is None}
    for key in sorted(files):
        if key.rsplit("/", 1)[-1] in {V3_KEY, *V2_KEYS}:
            continue
        path = _home_of(key, homes)
        node = None if path is None else homes[path]
        rest = key if not path else key[len(path) + 1 :]
        position = None if node is None else node.position(rest)
        where = Where(path or "", key, n_bytes=files[key].size)
        if node is not None and position is not None and path is not None:
            if node.holds(position):
                chunks[path].append(key)
            else:
                told = f"{key} lies outside the grid {node.counts} of {path or 'the array'}"
                found.append(finding("key_outside", where, told))
        elif _is_temporary(key):
            found += _temporary(key, where, files[key], grace=grace, now=now)
        elif not (path in unknown_nodes and _may_be_chunk(rest)):
            found.append(finding("file_unknown", where, f"{key} belongs to no array"))
    return chunks


def _home_of(key: str, homes: Mapping[str, ArrayNode | None]) -> str | None:
    """Return the nearest folder above a file that has metadata."""
    path = key
    while path:
        path = _path_of(path)
        if path in homes:
            return path
    return None


def _may_be_chunk(rest: str) -> bool:
    """Say whether a file may be a chunk of an array whose metadata cannot be read."""
    parts = rest.replace(".", "/").split("/")
    return all(part.isdecimal() for part in parts[parts[0] == "c" :])


def _is_temporary(key: str) -> bool:
    name = f"/{key.rsplit('/', 1)[-1]}"
    return name.endswith(_TEMPORARY) or _TELLS_BY_AGE in name


def _temporary(
    key: str, where: Where, seen: FileSeen, *, grace: float, now: float
) -> Iterator[Finding]:
    age = None if seen.mtime_ns is None else now - seen.mtime_ns / 1e9
    if age is not None and age > grace:
        told = f"{key} is half written, and nobody has written to it for {age / 3600:.1f} hours"
        yield finding("partial_file", where, told, sure="likely")


# -------------------------------------------------------------------- chunk files


class _Looked:
    """Looks at chunk files one after another."""

    def __init__(
        self, root: str, files: Mapping[str, FileSeen], *, opened: bool, progress: Progress
    ) -> None:
        self.findings: list[Finding] = []
        self.n_read = 0
        self.total = 0
        self._done = 0
        self._root, self._files, self._opened = root, files, opened
        self._progress = progress

    def census(self, node: ArrayNode | None, keys: list[str]) -> ArrayCensus:
        """Look at the files of an array."""
        if node is None:
            msg = "only arrays have chunks"
            raise TypeError(msg)
        faulty = set()
        present = 0
        for key in keys:
            count = self._look(node, key)
            if count is None:
                faulty.add(key)
            else:
                present += count
            self._done += 1
            if self._done % 256 == 0 or self._done == self.total:
                self._progress("structure", self._done, self.total)
        known = self._opened or not node.sharded
        n_bytes = sum(self._files[key].size for key in keys)
        return ArrayCensus(
            node, tuple(keys), n_bytes, present if known else None, frozenset(faulty)
        )

    def _look(self, node: ArrayNode, key: str) -> int | None:
        """Return how many chunks a file has; None where something is wrong with it."""
        size = self._files[key].size
        fault = self._wrong_size(node, size)
        if fault is None and self._opened:
            looked = self._look_inside(node, key, size)
            if isinstance(looked, int):
                return looked
            fault = looked
        if fault is None:
            return 1
        where = Where(node.path, key, n_bytes=size)
        self.findings.append(finding(fault.kind, where, f"{key}: {fault.message}"))
        return None

    @staticmethod
    def _wrong_size(node: ArrayNode, size: int) -> IndexFault | None:
        least = node.form.index_bytes if node.form else 1 + CRC_BYTES * node.sealed
        if size < least:
            return IndexFault("shard_torn", f"it has {size} bytes, it must have {least} at least")
        if node.file_bytes not in {None, size}:
            return IndexFault("shard_torn", f"it has {size} bytes, it must have {node.file_bytes}")
        return None

    def _look_inside(self, node: ArrayNode, key: str, size: int) -> int | IndexFault | None:
        compressed = not node.sharded and node.chunk_bytes is not None and node.codecs
        if node.form is None and not compressed:
            return None
        try:
            with open_key(self._root, key) as handle:
                if node.form is None:
                    return self._claim(node, handle, size)
                pieces = read_pieces(handle, size, node.form)
        except FileNotFoundError:  # removed since it was listed
            return 0
        except OSError as error:
            return IndexFault("unreadable", f"it cannot be read: {error.strerror or error}")
        if isinstance(pieces, IndexFault):
            return pieces
        self.n_read += node.form.index_bytes
        return len(pieces.slots)

    def _claim(self, node: ArrayNode, handle: int, size: int) -> IndexFault | None:
        """Compare what a chunk's header claims with what the chunk can be."""
        end = size - CRC_BYTES * node.sealed
        compressor = node.codecs[-1 - node.sealed] if len(node.codecs) > node.sealed else ""
        head = os.pread(handle, HEAD, 0)
        tail = os.pread(handle, 4, max(0, end - 4))
        self.n_read += len(head) + len(tail)
        claimed = claimed_bytes(compressor, head, tail)
        most = node.chunk_bytes
        if claimed is None or most is None or claimed <= most:
            return None
        told = f"its {compressor} header claims {claimed} bytes where a chunk has {most}"
        return IndexFault("too_large", told)


# -------------------------------------------------------------------- consolidated metadata


def _compare_consolidated(documents: _Documents) -> Iterator[Finding]:
    for key, document in documents.by_key.items():
        if document is None:
            continue
        path, name = _path_of(key), key.rsplit("/", 1)[-1]
        copies: Any = None
        if name == ".zmetadata":
            copies = document.get("metadata")
        elif name == V3_KEY and document.get("consolidated_metadata") is not None:
            copies = document["consolidated_metadata"]
            copies = copies.get("metadata") if isinstance(copies, dict) else 7
        else:
            continue
        if isinstance(copies, dict):
            yield from _compare_copies(path, key, copies, documents, v2=name == ".zmetadata")
        else:
            told = f"{key} has consolidated metadata that is none"
            yield finding("metadata_corrupt", Where(path, key), told)


def _compare_copies(
    path: str, key: str, copies: dict[str, Any], documents: _Documents, *, v2: bool
) -> Iterator[Finding]:
    """Compare a consolidated copy with what stands in each place."""
    head = f"{path}/" if path else ""
    names = (".zarray", ".zgroup", ".zattrs") if v2 else (V3_KEY,)
    own = {
        other[len(head) :]: document
        for other, document in documents.by_key.items()
        if other.startswith(head) and other != key and other.rsplit("/", 1)[-1] in names
    }
    told = (
        copies if v2 else {f"{name}/{V3_KEY}" if name else V3_KEY: c for name, c in copies.items()}
    )
    for name in sorted(own.keys() | told.keys()):
        if own.get(name, 0) is None:
            continue  # damaged, which has been told
        if name in own and name in told and _spelled(own[name]) == _spelled(told[name]):
            continue
        what = "differs from" if name in own and name in told else (
            "is not in" if name in own else "is only in"
        )  # fmt: skip
        where = Where(_path_of(head + name), head + name)
        yield finding(
            "consolidated_stale", where, f"{head}{name} {what} the consolidated copy in {key}"
        )


def _spelled(document: Any) -> str:
    """Return metadata in one spelling, without what says nothing."""
    if isinstance(document, dict):
        document = {
            name: value
            for name, value in document.items()
            if name != "consolidated_metadata" and value not in (None, [], {})
        }
    return json.dumps(document, sort_keys=True)
