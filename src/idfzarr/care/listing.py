"""List a store: whose every file is, and what belongs to nobody. No file of it is opened.

What an array may have follows from its metadata: a chunk for every place of its grid. Everything
else that lies in a store is put down as what it is: staging, a half-written file, a chunk outside
the grid, a link, a stranger. What is put down takes memory by what is there, never by what the
metadata claims.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.care.walking import Seen, Sort, walk
from idfzarr.store.place import PARTIAL
from idfzarr.store.root import ROOT_KEY
from idfzarr.store.schema import STAGING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.care.read_only import ReadOnlyPlace

__all__ = ["MOST_TOLD", "ChunkFiles", "Grid", "Listing", "Stray", "Tally", "Watch", "list_store"]

MOST_TOLD = 10_000
"""Entries of a sort that are remembered one by one; the others are counted."""

Watch: TypeAlias = Callable[[str, int, Seen], None]
"""``watch(path, number, seen)`` of a chunk."""

_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)
_MOST_CHUNKS = 1 << 62


@dataclass(frozen=True)
class Grid:
    """The chunks that an array may have.

    Attributes
    ----------
    path
        Of the array.
    counts
        Chunks along each dimension; None for an array whose keys follow other rules than ours,
        whose files are not judged.
    """

    path: str
    counts: tuple[int, ...] | None

    @classmethod
    def of_node(cls, path: str, node: Mapping[str, Any]) -> Grid:
        """Return the grid that the metadata of an array describes."""
        try:
            shape = [int(n) for n in node["shape"]]
            steps = [int(n) for n in node["chunk_grid"]["configuration"]["chunk_shape"]]
            encoding = node["chunk_key_encoding"]
            ours = (
                encoding["name"] == "default"
                and encoding.get("configuration", {}).get("separator", "/") == "/"
                and node["chunk_grid"]["name"] == "regular"
            )
            counts = tuple(-(-n // step) for n, step in zip(shape, steps, strict=True))
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):
            return cls(path, None)
        if not ours or min(counts, default=0) < 0 or math.prod(counts) > _MOST_CHUNKS:
            return cls(path, None)
        return cls(path, counts)

    @property
    def n_chunks(self) -> int:
        """How many chunks there may be."""
        return 0 if self.counts is None else math.prod(self.counts)

    def place(self, inner: str) -> int | None:
        """Return the number of a chunk by its key below the array, -1 outside the grid.

        None where it is no key of a chunk at all: every number has one spelling.
        """
        assert self.counts is not None  # noqa: S101  # asked of grids that are judged only
        parts = inner.split("/")
        if parts[0] != "c" or len(parts) != len(self.counts) + 1:
            return None
        number = 0
        outside = False
        for text, count in zip(parts[1:], self.counts, strict=True):
            if text == "0":  # most of them, where shards span all other dimensions
                number *= count
                outside = outside or count == 0
                continue
            if _NUMBER.fullmatch(text) is None:
                return None
            at = int(text)
            outside = outside or at >= count
            number = number * count + at
        return -1 if outside else number

    def key(self, number: int) -> str:
        """Return the key of a chunk by its number."""
        assert self.counts is not None  # noqa: S101  # as above
        parts: list[str] = []
        for count in reversed(self.counts):
            number, at = divmod(number, count)
            parts.append(str(at))
        return "/".join([self.path, "c", *reversed(parts)])


@dataclass
class ChunkFiles:
    """Files of the chunks of one array, in the order in which they were seen."""

    numbers: array[int] = field(default_factory=lambda: array("q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    inodes: array[int] = field(default_factory=lambda: array("Q"))

    def add(self, number: int, seen: Seen) -> None:
        """Put down a file."""
        self.numbers.append(number)
        self.sizes.append(seen.size)
        self.inodes.append(seen.inode)

    def __len__(self) -> int:
        return len(self.numbers)

    def in_order(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        """Return numbers, sizes and inodes, sorted by number."""
        numbers = np.array(self.numbers, dtype=np.int64)
        order = np.argsort(numbers, kind="stable")
        sizes = np.array(self.sizes, dtype=np.int64)
        return numbers[order], sizes[order], np.array(self.inodes, dtype=np.uint64)[order]


@dataclass
class Tally:
    """Files that are counted together."""

    n_files: int = 0
    n_bytes: int = 0
    newest_ns: int | None = None
    first: str = ""

    def add(self, seen: Seen) -> None:
        """Count a file."""
        self.n_files += 1
        self.n_bytes += seen.size
        if seen.mtime_ns is not None:
            self.newest_ns = max(seen.mtime_ns, self.newest_ns or seen.mtime_ns)
        self.first = min(self.first, seen.key) if self.first else seen.key


@dataclass(frozen=True)
class Stray:
    """Files that belong to no array: one, or all that lie in a folder that belongs to none."""

    key: str
    tally: Tally


@dataclass
class Listing:
    """Everything that lies in a store.

    Attributes
    ----------
    n_files, n_bytes
        Of everything.
    chunks
        Files of the chunks of every array, by path.
    metadata
        Sizes of the ``zarr.json`` of arrays, groups and the root, by path.
    owned
        Files and bytes by the array or group that they belong to.
    staging
        What lies in staging.
    waiting
        Keys of the ``zarr.json`` that wait in staging for a commit, the path of the node only.
    partial
        Files half written.
    outside
        Chunks outside the grid of their array, with its path.
    links, specials, unreadable, deep
        Links; pipes and devices; what this user may not read; folders too deep to look into.
    n_more
        Entries of a sort beyond the first `MOST_TOLD`.
    """

    n_files: int = 0
    n_bytes: int = 0
    chunks: dict[str, ChunkFiles] = field(default_factory=dict)
    metadata: dict[str, int] = field(default_factory=dict)
    owned: dict[str, Tally] = field(default_factory=dict)
    staging: Tally = field(default_factory=Tally)
    waiting: set[str] = field(default_factory=set)
    partial: list[Seen] = field(default_factory=list)
    outside: list[tuple[str, Seen]] = field(default_factory=list)
    links: list[Seen] = field(default_factory=list)
    specials: list[Seen] = field(default_factory=list)
    unreadable: list[Seen] = field(default_factory=list)
    deep: list[Seen] = field(default_factory=list)
    n_more: dict[str, int] = field(default_factory=dict)
    is_cut: bool = False
    _strays: dict[str, Tally] = field(default_factory=dict)
    _blocked: set[str] = field(default_factory=set)

    def is_blocked(self, key: str) -> bool:
        """Say whether a link, or rights, keep from knowing whether there is such a file."""
        if not self._blocked:
            return False
        parts = key.split("/")
        return any("/".join(parts[:end]) in self._blocked for end in range(len(parts) + 1))

    def strays(self) -> Iterator[Stray]:
        """Yield what belongs to no array, sorted; a folder of strangers is told once."""
        for top in sorted(self._strays):
            tally = self._strays[top]
            yield Stray(tally.first if tally.n_files == 1 else top, tally)


class _Sorter:
    """Puts down every entry of a store as what it is."""

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]], watch: Watch | None) -> None:
        self.listing = Listing()
        self._watch = watch
        self._grids = {
            path: Grid.of_node(path, node)
            for path, node in nodes.items()
            if node.get("node_type") == "array"
        }
        self._nodes = nodes
        self._folders = {""}
        for path in nodes:
            parts = path.split("/")
            self._folders.update("/".join(parts[:end]) for end in range(1, len(parts) + 1))
        self._folders.update(f"{path}/c" for path in self._grids)

    def take(self, seen: Seen) -> None:
        """Take one entry."""
        listing = self.listing
        if seen.sort is Sort.FILE:
            listing.n_files += 1
            listing.n_bytes += seen.size
            self._file(seen)
            if not seen.readable:
                self._block(seen, listing.unreadable, "unreadable")
        elif seen.sort is Sort.LINK:
            self._block(seen, listing.links, "links")
        elif seen.sort is Sort.OTHER:
            self._block(seen, listing.specials, "specials")
        elif seen.sort is Sort.UNREADABLE:
            self._block(seen, listing.unreadable, "unreadable")
        elif seen.sort is Sort.DEEP:
            self._block(seen, listing.deep, "deep")
        else:
            listing.is_cut = True
            listing._blocked.add("")  # noqa: SLF001  # its own sorter

    def _block(self, seen: Seen, many: list[Seen], name: str) -> None:
        self._remember(seen, many, name)
        self.listing._blocked.add(seen.key)  # noqa: SLF001  # its own sorter

    def _remember(self, seen: Any, many: list[Any], name: str) -> None:
        if len(many) < MOST_TOLD:
            many.append(seen)
        else:
            self.listing.n_more[name] = self.listing.n_more.get(name, 0) + 1

    def _file(self, seen: Seen) -> None:
        listing, key = self.listing, seen.key
        if key.endswith(PARTIAL):
            self._remember(seen, listing.partial, "partial")
            return
        if key.startswith(f"{STAGING}/"):
            self._staged(seen)
            return
        folder, _, name = key.rpartition("/")
        if name == ROOT_KEY and (not folder or folder in self._nodes):
            listing.metadata[folder] = seen.size
            self._own(folder, seen)
            return
        path = self._array_of(key)
        if path is None or not self._chunk(path, seen):
            self._stray(seen)

    def _staged(self, seen: Seen) -> None:
        self.listing.staging.add(seen)
        inner = seen.key.removeprefix(f"{STAGING}/next/")
        path = inner.removesuffix(f"/{ROOT_KEY}")
        if inner not in {seen.key, path} and len(self.listing.waiting) < MOST_TOLD:
            self.listing.waiting.add(path)

    def _array_of(self, key: str) -> str | None:
        """Return the array that a key may be a chunk of: the one whose path it begins with."""
        at = key.find("/c")
        while at >= 0:
            if key[:at] in self._grids:
                return key[:at]
            at = key.find("/c", at + 1)
        for path, grid in self._grids.items():
            if grid.counts is None and key.startswith(f"{path}/"):
                return path
        return None

    def _chunk(self, path: str, seen: Seen) -> bool:
        """Put down a chunk; False where the key is none of one."""
        grid = self._grids[path]
        if grid.counts is None:
            self._own(path, seen)
            return True
        number = grid.place(seen.key[len(path) + 1 :])
        if number is None:
            return False
        if number < 0:
            self._remember((path, seen), self.listing.outside, "outside")
            return True
        self.listing.chunks.setdefault(path, ChunkFiles()).add(number, seen)
        self._own(path, seen)
        if self._watch is not None and seen.readable:
            self._watch(path, number, seen)
        return True

    def _own(self, path: str, seen: Seen) -> None:
        self.listing.owned.setdefault(path, Tally()).add(seen)

    def _stray(self, seen: Seen) -> None:
        """Count a file that belongs to nobody with its neighbours in a folder of strangers."""
        parts = seen.key.split("/")
        top = seen.key
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if folder not in self._folders:
                top = folder
                break
        strays = self.listing._strays  # noqa: SLF001  # its own sorter
        if top in strays or len(strays) < MOST_TOLD:
            strays.setdefault(top, Tally()).add(seen)
        else:
            self.listing.n_more["strays"] = self.listing.n_more.get("strays", 0) + 1


def list_store(
    place: ReadOnlyPlace,
    nodes: Mapping[str, Mapping[str, Any]],
    *,
    watch: Watch | None = None,
) -> Listing:
    """List a store.

    Parameters
    ----------
    place
        The store.
    nodes
        Metadata of its arrays and groups by path.
    watch
        Told every chunk as it is seen: path of its array, its number, its file.

    Returns
    -------
    Listing
        What lies in it, sorted by what it is.
    """
    sorter = _Sorter(nodes, watch)
    for seen in walk(place):
        sorter.take(seen)
    return sorter.listing
