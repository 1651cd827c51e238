"""Plain Zarr v3 arrays as metadata and bytes: coordinates, tables, images.

This package writes its arrays itself: the metadata is the one zarr-python writes, the chunks end in
crc32c, and both go through `idfzarr.store.place`, which puts them on disk for good. Arrays made by
others are recognised where their codec chain is one of ours; the rest is read by zarr-python.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numcodecs.blosc
import numcodecs.zstd
import numpy as np

from idfzarr.errors import ChunkCorrupt, ChunkMissing, MetadataCorrupt, UsageError
from idfzarr.store.checksum import CRC_BYTES, is_intact, sealed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.store.place import Place

__all__ = [
    "ArraySpec",
    "array_json",
    "chunk_key",
    "decode_array",
    "encode_array",
    "group_json",
    "json_bytes",
    "parse_array",
    "read_array",
]

STRING = "string"
_NUMERIC = frozenset(
    [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float32",
        "float64",
    ]
)
_MOST_BYTES = 1 << 33
_MOST_CHUNKS = 1 << 20
_COUNT = struct.Struct("<I")
_ZSTD_LEVEL = 3


@dataclass(frozen=True)
class ArraySpec:
    """What a plain array is: everything its ``zarr.json`` says.

    Parameters
    ----------
    path
        Key of the array below the root, as ``variability/median``.
    dims
        Names of the dimensions.
    dtype
        A Zarr v3 name: ``float32``, ``int64``, ``string``, ...
    shape, chunks
        Lengths along the dimensions; a chunk may be longer than the array.
    codec
        ``none`` or ``zstd``, before the crc32c.
    attributes
        CF attributes.
    """

    path: str
    dims: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    codec: str = "none"
    attributes: Mapping[str, Any] = field(default_factory=dict)


def json_bytes(document: Mapping[str, Any]) -> bytes:
    """Return a ``zarr.json`` as bytes; NaN must have been spelled out as Zarr does."""
    return json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False).encode()


def group_json(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the metadata of a group."""
    return {"attributes": dict(attributes or {}), "zarr_format": 3, "node_type": "group"}


def array_json(spec: ArraySpec) -> dict[str, Any]:
    """Return the metadata of a plain array."""
    serializer: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    if spec.dtype == STRING:
        serializer = {"name": "vlen-utf8", "configuration": {}}
    elif spec.dtype in {"bool", "int8", "uint8"}:
        serializer = {"name": "bytes"}
    codecs = [serializer]
    if spec.codec == "zstd":
        configuration = {"level": _ZSTD_LEVEL, "checksum": False}
        codecs.append({"name": "zstd", "configuration": configuration})
    codecs.append({"name": "crc32c"})
    return zarr_array(spec, grid=spec.chunks, codecs=codecs)


def zarr_array(
    spec: ArraySpec, *, grid: tuple[int, ...], codecs: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the metadata of an array with the codecs given, as zarr-python orders it."""
    return {
        "shape": list(spec.shape),
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(grid)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": _fill_json(spec.dtype),
        "codecs": codecs,
        "attributes": dict(spec.attributes),
        "dimension_names": list(spec.dims),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def _fill_json(dtype: str) -> str | int | bool:
    if dtype == STRING:
        return ""
    if dtype == "bool":
        return False
    return "NaN" if dtype.startswith("float") else 0


def parse_array(path: str, document: Mapping[str, Any]) -> ArraySpec | None:
    """Recognise an array whose chunks this module can decode.

    Parameters
    ----------
    path
        Key of the array, for the sentence of an error.
    document
        Its metadata.

    Returns
    -------
    ArraySpec or None
        None where the grid or the codec chain is another than ours.

    Raises
    ------
    MetadataCorrupt
        The metadata is none of an array, or describes an absurd one.
    """
    try:
        spec = ArraySpec(
            path=path,
            dims=tuple(str(d) for d in document["dimension_names"]),
            dtype=str(document["data_type"]),
            shape=tuple(int(n) for n in document["shape"]),
            chunks=tuple(int(n) for n in document["chunk_grid"]["configuration"]["chunk_shape"]),
            codec=_plain_codec(document),
            attributes=dict(document["attributes"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = f"the metadata of the array {path!r} is none of a Zarr v3 array: {error!r}"
        raise MetadataCorrupt(msg) from error
    _refuse_absurd(spec)
    return spec if spec.codec else None


def _plain_codec(document: Mapping[str, Any]) -> str:
    """Return the name of the compressor, ``none``, or an empty string for another chain."""
    names = [codec["name"] for codec in document["codecs"]]
    first = document["codecs"][0] if names else {}
    dtype = document["data_type"]
    head = "vlen-utf8" if dtype == STRING else "bytes"
    little = first.get("configuration", {}).get("endian", "little") == "little"
    ours = (
        document["node_type"] == "array"
        and document["chunk_grid"]["name"] == "regular"
        and document["chunk_key_encoding"]["name"] == "default"
        and document["chunk_key_encoding"].get("configuration", {}).get("separator", "/") == "/"
        and not document.get("storage_transformers")
        and (dtype == STRING or dtype in _NUMERIC)
        and document["fill_value"] == _fill_json(dtype)
    )
    if ours and little and names == [head, "crc32c"]:
        return "none"
    if ours and little and names == [head, "zstd", "crc32c"]:
        return "zstd"
    return ""


def _refuse_absurd(spec: ArraySpec) -> None:
    """Refuse metadata that would make a reader allocate without measure."""
    regular = len(spec.shape) == len(spec.chunks) == len(spec.dims)
    if not regular or min(spec.shape, default=0) < 0 or min(spec.chunks, default=1) < 1:
        msg = (
            f"the metadata of the array {spec.path!r} is damaged: shape {spec.shape}, chunks "
            f"{spec.chunks} and dimensions {spec.dims} do not belong together"
        )
        raise MetadataCorrupt(msg)


def chunk_key(path: str, position: tuple[int, ...]) -> str:
    """Return the key of a chunk in the default encoding."""
    return "/".join([path, "c", *map(str, position)])


def _positions(shape: tuple[int, ...], chunks: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    counts = [-(-n // c) for n, c in zip(shape, chunks, strict=True)]
    return itertools.product(*map(range, counts))


def encode_array(spec: ArraySpec, values: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    """Yield the key and the bytes of every chunk of an array.

    Parameters
    ----------
    spec
        What the array is.
    values
        Its values, of the shape in `spec`; they are cast to its type.

    Yields
    ------
    tuple
        Key below the root, bytes with crc32c.

    Raises
    ------
    UsageError
        The shape differs.
    """
    if values.shape != spec.shape:
        msg = f"{spec.path!r} has shape {spec.shape}, but values of shape {values.shape} were given"
        raise UsageError(msg)
    dtype = np.dtype(object) if spec.dtype == STRING else np.dtype(spec.dtype).newbyteorder("<")
    for position in _positions(spec.shape, spec.chunks):
        part = values[_window(position, spec)]
        chunk = np.full(spec.chunks, _fill(spec.dtype), dtype=dtype)
        chunk[tuple(slice(0, n) for n in part.shape)] = part
        plain = _pack_strings(chunk) if spec.dtype == STRING else chunk.tobytes()
        if spec.codec == "zstd":
            plain = bytes(numcodecs.zstd.compress(plain, _ZSTD_LEVEL))
        yield chunk_key(spec.path, position), sealed(plain)


def _window(position: tuple[int, ...], spec: ArraySpec) -> tuple[slice, ...]:
    return tuple(
        slice(i * c, min((i + 1) * c, n))
        for i, c, n in zip(position, spec.chunks, spec.shape, strict=True)
    )


def _fill(dtype: str) -> Any:
    return {"NaN": math.nan}.get(str(_fill_json(dtype)), _fill_json(dtype))


def _pack_strings(chunk: NDArray[np.object_]) -> bytes:
    """Encode strings as the codec ``vlen-utf8`` does: a count, then length and bytes of each."""
    encoded = [str(text).encode() for text in chunk.ravel()]
    parts = [_COUNT.pack(len(encoded))]
    for text in encoded:
        parts += (_COUNT.pack(len(text)), text)
    return b"".join(parts)


def _unpack_strings(data: bytes, count: int) -> NDArray[np.object_]:
    (found,) = _COUNT.unpack_from(data, 0)
    if found != count:
        msg = f"{found} strings where there must be {count}"
        raise ValueError(msg)
    texts = np.empty(count, dtype=object)
    at = _COUNT.size
    for i in range(count):
        (length,) = _COUNT.unpack_from(data, at)
        at += _COUNT.size
        if at + length > len(data):
            msg = f"string {i} is cut off"
            raise ValueError(msg)
        texts[i] = data[at : at + length].decode()
        at += length
    return texts


def decode_chunk(spec: ArraySpec, data: bytes, *, where: str) -> NDArray[Any]:
    """Return the values of one chunk, its whole length.

    Parameters
    ----------
    spec
        What the array is.
    data
        Bytes of the chunk.
    where
        The file, for the sentence of an error.

    Returns
    -------
    ndarray
        Of shape ``spec.chunks``; strings as objects.

    Raises
    ------
    ChunkCorrupt
        The bytes do not match their checksum, or not their description.
    """
    if not is_intact(data):
        msg = (
            f"a chunk of {spec.path!r} is damaged: {where} does not match its crc32c; repair the "
            "store"
        )
        raise ChunkCorrupt(msg)
    count = math.prod(spec.chunks)
    try:
        plain = data[:-CRC_BYTES]
        if spec.codec == "zstd":
            plain = bytes(numcodecs.zstd.decompress(plain))
        if spec.dtype == STRING:
            return _unpack_strings(plain, count).reshape(spec.chunks)
        dtype = np.dtype(spec.dtype).newbyteorder("<")
        if len(plain) != count * dtype.itemsize:
            msg = f"{len(plain)} bytes where there must be {count * dtype.itemsize}"
            raise ValueError(msg)
        return np.frombuffer(plain, dtype=dtype).reshape(spec.chunks)
    except (ValueError, RuntimeError, struct.error, UnicodeDecodeError) as error:
        msg = f"a chunk of {spec.path!r} is not what its metadata says: {where}: {error}"
        raise ChunkCorrupt(msg) from error


def decode_array(spec: ArraySpec, place: Place) -> NDArray[Any]:
    """Read a whole array and verify every chunk.

    Parameters
    ----------
    spec
        What the array is.
    place
        The store.

    Returns
    -------
    ndarray
        Of shape ``spec.shape``; strings as numpy unicode.

    Raises
    ------
    ChunkMissing
        A chunk is not there; arrays of this package have all of theirs.
    ChunkCorrupt
        A chunk is damaged.
    MetadataCorrupt
        The array is absurdly large.
    """
    _refuse_huge(spec)
    out: NDArray[Any] | None = None
    for position in _positions(spec.shape, spec.chunks):
        key = chunk_key(spec.path, position)
        try:
            data = place.read(key)
        except FileNotFoundError:
            msg = f"a chunk of {spec.path!r} is missing: {place.url}/{key}; repair the store"
            raise ChunkMissing(msg) from None
        chunk = decode_chunk(spec, data, where=f"{place.url}/{key}")
        if out is None:
            # Only now: metadata that lies about the shape has failed on its first chunk.
            out = np.empty(spec.shape, dtype=object if spec.dtype == STRING else spec.dtype)
        window = _window(position, spec)
        out[window] = chunk[tuple(slice(0, w.stop - w.start) for w in window)]
    if out is None:
        out = np.empty(spec.shape, dtype=object if spec.dtype == STRING else spec.dtype)
    return out.astype(str) if spec.dtype == STRING else out


def _refuse_huge(spec: ArraySpec) -> None:
    bytes_each = 1 if spec.dtype == STRING else np.dtype(spec.dtype).itemsize
    chunks = math.prod(-(-n // c) for n, c in zip(spec.shape, spec.chunks, strict=True))
    if (
        math.prod(spec.shape) * bytes_each > _MOST_BYTES
        or math.prod(spec.chunks) * bytes_each > _MOST_BYTES
        or chunks > _MOST_CHUNKS
    ):
        msg = (
            f"the array {spec.path!r} claims shape {spec.shape} in chunks of {spec.chunks}, more "
            "than "
            f"this package reads at once ({_MOST_BYTES} bytes in {_MOST_CHUNKS} chunks); its "
            "metadata "
            "must be damaged"
        )
        raise MetadataCorrupt(msg)


def read_array(place: Place, path: str, document: Mapping[str, Any]) -> NDArray[Any]:
    """Read an array of a store, by ourselves where we know its codec chain, else by zarr-python.

    Parameters
    ----------
    place
        The store.
    path
        Key of the array.
    document
        Its metadata.

    Returns
    -------
    ndarray
        All of it.
    """
    spec = parse_array(path, document)
    if spec is not None:
        return decode_array(spec, place)
    import zarr

    array = zarr.open_array(
        f"{place.url}/{path}",
        mode="r",
        zarr_format=3,
        storage_options=dict(getattr(place, "options", {})) or None,
    )
    values = np.asarray(array[...])
    # numpy casts its strings of any length to fixed ones by way of objects only.
    return values.astype(object).astype(str) if values.dtype.kind in "OT" else values
