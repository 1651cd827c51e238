"""The metadata of one array of any Zarr v3 or v2 store, read by the specifications and bounded.

Nothing is allocated by what metadata claims: shapes are compared, never enumerated. Sources:
https://zarr-specs.readthedocs.io/en/latest/v3/core/ and
https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html .
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.care.shard_pieces import ShardForm
from idfzarr.store.checksum import CRC_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["NEVER_RUN", "ArrayNode", "NodeFault", "parse_v2", "parse_v3", "unknown_codecs"]

NEVER_RUN = frozenset(["pickle", "numcodecs.pickle"])
"""Codecs whose decoding runs whatever program the chunk holds; they are never decoded here."""

_MOST_CHUNK_BYTES = 1 << 33
_MOST_INDEX_ENTRIES = 1 << 22
_MOST_LENGTH = 2**63 - 1
_MOST_BYTES = 2**63 - 1
_MOST_DIMS = 64
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_SIZES = {"bool": 1, "complex64": 8, "complex128": 16} | {
    f"{kind}{bits}": bits // 8
    for kind, widths in (
        ("int", (8, 16, 32, 64)),
        ("uint", (8, 16, 32, 64)),
        ("float", (16, 32, 64)),
    )
    for bits in widths
}
_KEEPING = frozenset(["bytes", "transpose", "vlen-utf8", "vlen-bytes"])
_SEALS = frozenset(["crc32c", "numcodecs.crc32c"])


@dataclass(frozen=True)
class NodeFault:
    """Why metadata is none of an array that can be looked at.

    Attributes
    ----------
    kind
        ``metadata_corrupt``, ``too_large`` or ``codec_unknown``.
    message
        What was found, without the file's name.
    """

    kind: str
    message: str


@dataclass(frozen=True)
class ArrayNode:
    """What an array is.

    Attributes
    ----------
    path
        Below the root; empty for a store that is an array.
    version
        Of Zarr, 2 or 3.
    shape
        Lengths.
    grid
        Shape of what one file holds: a chunk or a shard.
    inner
        Shape of a chunk: that of `grid` where there are no shards.
    prefix, separator
        Of the names of chunk files.
    itemsize
        Bytes of an element; None where that varies or is not known.
    codecs
        Names of the codecs of a chunk, in the order of encoding.
    form
        How a shard is made up; None without shards, or where its index has unknown codecs.
    sharded
        Whether a file is a shard.
    sealed
        Whether a chunk ends in its crc32c.
    dims
        Names of the dimensions.
    attributes
        The user's.
    document
        The metadata.
    """

    path: str
    version: Literal[2, 3]
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    inner: tuple[int, ...]
    prefix: str
    separator: str
    itemsize: int | None
    codecs: tuple[str, ...]
    form: ShardForm | None = None
    sharded: bool = False
    sealed: bool = False
    dims: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def meta_key(self) -> str:
        """Key of the metadata's file."""
        name = "zarr.json" if self.version == 3 else ".zarray"
        return f"{self.path}/{name}" if self.path else name

    @property
    def counts(self) -> tuple[int, ...]:
        """Files along each dimension."""
        return tuple(-(-n // g) for n, g in zip(self.shape, self.grid, strict=True))

    @property
    def n_expected(self) -> int:
        """Chunks of an array that is there whole."""
        return math.prod(-(-n // c) for n, c in zip(self.shape, self.inner, strict=True))

    @property
    def chunks_per_file(self) -> int:
        """Chunks that one file has room for."""
        return math.prod(g // c for g, c in zip(self.grid, self.inner, strict=True))

    @property
    def chunk_bytes(self) -> int | None:
        """Bytes of a decoded chunk; None where that varies."""
        return None if self.itemsize is None else math.prod(self.inner) * self.itemsize

    @property
    def n_logical(self) -> int:
        """Bytes of the whole array decoded, 0 where that varies."""
        return math.prod(self.shape) * (self.itemsize or 0)

    @property
    def file_bytes(self) -> int | None:
        """Size of every file of an array that is neither compressed nor sharded, else None."""
        plain = self.codecs in {("bytes",), ("bytes", "crc32c"), ()}
        if self.sharded or not plain or self.chunk_bytes is None:
            return None
        return self.chunk_bytes + CRC_BYTES * self.sealed

    def position(self, rest: str) -> tuple[int, ...] | None:
        """Return the place in the grid that a file's name says, None for a name of no chunk.

        Parameters
        ----------
        rest
            The file's key below the array.
        """
        if not self.shape:
            alone = self.prefix.rstrip("/.") if self.prefix else "0"
            return () if rest == alone else None
        if not rest.startswith(self.prefix):
            return None
        parts = rest[len(self.prefix) :].split(self.separator)
        if len(parts) != len(self.shape) or not all(map(_NUMBER.fullmatch, parts)):
            return None
        return tuple(map(int, parts))

    def holds(self, position: tuple[int, ...]) -> bool:
        """Say whether there is such a place in the grid."""
        return all(at < n for at, n in zip(position, self.counts, strict=True))

    def n_inside(self, position: tuple[int, ...]) -> int:
        """Return how many chunks of a file begin within the shape."""
        return math.prod(
            -(-min(g, n - at * g) // c)
            for at, g, c, n in zip(position, self.grid, self.inner, self.shape, strict=True)
        )


# -------------------------------------------------------------------- version 3


def parse_v3(path: str, document: Mapping[str, Any]) -> ArrayNode | NodeFault:
    """Read the ``zarr.json`` of an array.

    Parameters
    ----------
    path
        Of the array.
    document
        Its metadata, any JSON object.

    Returns
    -------
    ArrayNode or NodeFault
        What it is, or why that cannot be said.
    """
    try:
        return _v3(path, document)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        return NodeFault("metadata_corrupt", f"it describes no Zarr v3 array ({error!r:.200})")


def _v3(path: str, document: Mapping[str, Any]) -> ArrayNode | NodeFault:
    if document["chunk_grid"]["name"] != "regular":
        named = str(document["chunk_grid"]["name"])[:60]
        return NodeFault("codec_unknown", f"its chunk grid is {named!r}, which is not known here")
    shape = _lengths(document["shape"])
    grid = _lengths(document["chunk_grid"]["configuration"]["chunk_shape"])
    encoding = document["chunk_key_encoding"]
    encoding = {"name": encoding} if isinstance(encoding, str) else encoding
    default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
    if encoding["name"] not in {"default", "v2"} or separator not in {"/", "."}:
        return NodeFault("metadata_corrupt", f"it names its chunks by {str(encoding)[:80]}")
    chain = document["codecs"]
    unknown = unknown_codecs(chain)
    if unknown:
        return NodeFault("codec_unknown", _unknown_text(unknown))
    itemsize = _v3_itemsize(document["data_type"])
    if isinstance(itemsize, NodeFault):
        return itemsize
    names = [_name(link) for link in chain]
    sharded = names[0] == "sharding_indexed"
    inner, form = grid, None
    if sharded:
        told = chain[0]["configuration"]
        inner, names = _lengths(told["chunk_shape"]), [_name(link) for link in told["codecs"]]
    fault = _absurd(shape, grid, inner, itemsize)
    if fault is not None:
        return fault
    if sharded and len(chain) == 1:
        form = _form(told, names, math.prod(g // c for g, c in zip(grid, inner, strict=True)))
    return ArrayNode(
        path=path,
        version=3,
        shape=shape,
        grid=grid,
        inner=inner,
        prefix=f"c{separator}" if default else "",
        separator=separator,
        itemsize=itemsize if _keeps_size(names) else None,
        codecs=tuple(names),
        form=form,
        sharded=sharded,
        sealed=names[-1] in _SEALS,
        dims=tuple(str(name) for name in document.get("dimension_names") or ()),
        attributes=dict(document.get("attributes") or {}),
        document=document,
    )


def _lengths(values: Sequence[Any]) -> tuple[int, ...]:
    """Return lengths as they stand, which must be whole numbers."""
    if not isinstance(values, list) or any(type(n) is not int for n in values):
        msg = f"no lengths: {str(values)[:80]}"
        raise ValueError(msg)
    return tuple(values)


def _name(link: Any) -> str:
    return link if isinstance(link, str) else str(link["name"])


def _absurd(
    shape: tuple[int, ...], grid: tuple[int, ...], inner: tuple[int, ...], itemsize: int | None
) -> NodeFault | None:
    """Return what is wrong with lengths; big numbers are multiplied, nothing is allocated."""
    if not len(shape) == len(grid) == len(inner):
        told = f"shape {shape[:8]} and chunks {grid[:8]} differ in their number of dimensions"
        return NodeFault("metadata_corrupt", told)
    if min(shape, default=0) < 0 or min((*grid, *inner), default=1) < 1:
        told = f"shape {shape[:8]} in chunks of {grid[:8]} cannot be"
        return NodeFault("metadata_corrupt", told)
    if any(g % c for g, c in zip(grid, inner, strict=True)):
        told = f"shards of {grid[:8]} cannot be divided into chunks of {inner[:8]}"
        return NodeFault("metadata_corrupt", told)
    size = itemsize or 1
    entries = math.prod(g // c for g, c in zip(grid, inner, strict=True))
    if (
        len(shape) > _MOST_DIMS
        or max(shape, default=0) > _MOST_LENGTH
        or math.prod(shape) * size > _MOST_BYTES
        or math.prod(inner) * size > _MOST_CHUNK_BYTES
        or entries > _MOST_INDEX_ENTRIES
    ):
        told = (
            f"it claims shape {_shown(shape)} in chunks of {_shown(inner)}, "
            f"{_count_text(entries)} of them a file"
        )
        return NodeFault("too_large", told)
    return None


def _shown(lengths: tuple[int, ...]) -> str:
    more = ", ..." if len(lengths) > 6 else ""
    return "(" + ", ".join(map(_count_text, lengths[:6])) + more + ")"


def _count_text(n: int) -> str:
    """Spell a number that may be too large for a float, or for a line."""
    return str(n) if n.bit_length() < 60 else f"2**{n.bit_length() - 1}"


def _form(told: Mapping[str, Any], names: Sequence[str], n_chunks: int) -> ShardForm | None:
    """Return how a shard is made up; None where its index is encoded in another way than known."""
    index = told.get("index_codecs", [])
    index_names = [_name(link) for link in index]
    location = told.get("index_location", "end")
    if index_names not in (["bytes"], ["bytes", "crc32c"]) or location not in {"start", "end"}:
        return None
    endian = "little"
    if isinstance(index[0], dict):
        endian = index[0].get("configuration", {}).get("endian", "little")
    return ShardForm(
        n_chunks=n_chunks,
        index_at="start" if location == "start" else "end",
        index_sealed=index_names[-1] == "crc32c",
        sealed=bool(names) and names[-1] in _SEALS,
        endian=">" if endian == "big" else "<",
    )


def _keeps_size(names: Sequence[str]) -> bool:
    """Say whether the bytes that are compressed are those of the values, as many and as large."""
    serialised = names.index("bytes") if "bytes" in names else -1
    return serialised >= 0 and set(names[: serialised + 1]) <= _KEEPING


def _v3_itemsize(data_type: Any) -> int | NodeFault | None:
    if isinstance(data_type, str) and data_type in _SIZES:
        return _SIZES[data_type]
    if data_type in ("string", "bytes", "variable_length_bytes"):
        return None
    from zarr.core.dtype import get_data_type_from_json

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a type has no specification yet is no news here
            known = get_data_type_from_json(data_type, zarr_format=3)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return NodeFault("codec_unknown", f"its data type {str(data_type)[:80]} is not known here")
    size = getattr(known, "item_size", None)
    return size if isinstance(size, int) else None


def unknown_codecs(chain: Any) -> tuple[str, ...]:
    """Return the codecs of a Zarr v3 chain that this machine cannot run, or that must not be run.

    Parameters
    ----------
    chain
        ``codecs`` of an array; the chains inside a sharding codec are looked at too.

    Returns
    -------
    tuple of str
        Names, none where all are known.
    """
    return tuple(name for name in _all_names(chain, depth=0) if not _is_known(name))


def _all_names(chain: Any, *, depth: int) -> Iterator[str]:
    if not isinstance(chain, list) or not chain or depth > 8:
        msg = f"no chain of codecs: {str(chain)[:80]}"
        raise ValueError(msg)
    for link in chain:
        name = _name(link)
        yield name
        if name == "sharding_indexed":
            yield from _all_names(link["configuration"]["codecs"], depth=depth + 1)
            yield from _all_names(link["configuration"]["index_codecs"], depth=depth + 1)


@lru_cache(maxsize=256)
def _is_known(name: str) -> bool:
    if name in NEVER_RUN:
        return False
    from zarr.registry import get_codec_class

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            get_codec_class(name)
    except (KeyError, ValueError, ImportError):
        return False
    return True


def _unknown_text(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:60]) for name in names[:4])
    why = " (it would run a program from the chunk)" if set(names) & NEVER_RUN else ""
    return f"this machine does not read the codec {shown}{why}"


# -------------------------------------------------------------------- version 2


def parse_v2(
    path: str, document: Mapping[str, Any], attributes: Mapping[str, Any] | None = None
) -> ArrayNode | NodeFault:
    """Read the ``.zarray`` of an array.

    Parameters
    ----------
    path
        Of the array.
    document
        Its metadata, any JSON object.
    attributes
        Content of its ``.zattrs``.

    Returns
    -------
    ArrayNode or NodeFault
        What it is, or why that cannot be said.
    """
    try:
        return _v2(path, document, dict(attributes or {}))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        return NodeFault("metadata_corrupt", f"it describes no Zarr v2 array ({error!r:.200})")


def _v2(
    path: str, document: Mapping[str, Any], attributes: dict[str, Any]
) -> ArrayNode | NodeFault:
    if document["zarr_format"] != 2:
        found = document["zarr_format"]
        return NodeFault("metadata_corrupt", f"its zarr_format is {found!r:.40}, not 2")
    shape, chunks = _lengths(document["shape"]), _lengths(document["chunks"])
    separator = document.get("dimension_separator") or "."
    if separator not in {"/", "."}:
        return NodeFault("metadata_corrupt", f"it names its chunks with {separator!r:.40}")
    filters = [str(f["id"]) for f in document.get("filters") or ()]
    compressor = document["compressor"]
    names = [*filters, *([] if compressor is None else [str(compressor["id"])])]
    unknown = [name for name in names if not _is_known_v2(name)]
    if unknown:
        return NodeFault("codec_unknown", _unknown_text(unknown))
    itemsize = _v2_itemsize(document["dtype"])
    fault = _absurd(shape, chunks, chunks, itemsize)
    if fault is not None:
        return fault
    dims = attributes.get("_ARRAY_DIMENSIONS")
    return ArrayNode(
        path=path,
        version=2,
        shape=shape,
        grid=chunks,
        inner=chunks,
        prefix="",
        separator=separator,
        itemsize=None if filters else itemsize,
        codecs=tuple(names),
        sealed=bool(names) and names[-1] == "crc32c" and _at_end(document),
        dims=tuple(map(str, dims)) if isinstance(dims, list) else (),
        attributes=attributes,
        document=document,
    )


def _at_end(document: Mapping[str, Any]) -> bool:
    """Say whether numcodecs' crc32c stands after the bytes; before them unless it is told so."""
    last = document["compressor"] or (document.get("filters") or [{}])[-1]
    return bool(last.get("location", "start") == "end")


def _is_known_v2(name: str) -> bool:
    if name in NEVER_RUN:
        return False
    from numcodecs import registry

    return name in registry.codec_registry or name in registry.entries


def _v2_itemsize(dtype: Any) -> int | None:
    if isinstance(dtype, list):
        dtype = [tuple(field) for field in dtype]
    kind = np.dtype(dtype)
    return None if kind.hasobject else kind.itemsize
