"""Stores made to harm whoever looks at them; bytes only, nothing of the package."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib

import numcodecs
import zarr_bytes as zb

GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
HOSTILE = {}


def hostile(*kinds, level="structure", may_be_clean=False):
    """Note what makes a hostile store, which findings would be right, and where it harms."""

    def register(function):
        HOSTILE[function.__name__] = (function, kinds, level, may_be_clean)
        return function

    return register


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def array_node(shape, chunks, codecs=None, **more):
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "float64",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs or [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    } | more


def with_array(store, node, chunk=None, key="a/c/0"):
    put(store / "zarr.json", GROUP)
    put(store / "a/zarr.json", node)
    if chunk is not None:
        put(store / key, chunk)
    return store


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}


def compressed(name, **configuration):
    return [BYTES, {"name": name, "configuration": configuration}]


def sharded(chunk_shape, inner=None):
    index = [BYTES, {"name": "crc32c"}]
    told = {"chunk_shape": chunk_shape, "codecs": inner or [BYTES], "index_codecs": index}
    return [{"name": "sharding_indexed", "configuration": told | {"index_location": "end"}}]


# ------------------------------------------------------------------ metadata


@hostile("metadata_corrupt", "too_large")
def root_of_brackets(store):
    """A hundred megabytes of brackets: a parser that recurses, or reads it all, is lost."""
    store.mkdir(parents=True)
    with (store / "zarr.json").open("wb") as file:
        for _ in range(100):
            file.write(b"[" * (1 << 20))
    return store


@hostile("metadata_corrupt", "too_large")
def array_of_brackets(store):
    put(store / "zarr.json", GROUP)
    put(store / "a/zarr.json", b'{"a":' * 200_000)
    return store


@hostile("metadata_corrupt", "too_large", may_be_clean=True)
def attributes_nested_deep(store):
    text = json.dumps(GROUP | {"attributes": {"a": "@"}})
    put(store / "zarr.json", text.replace('"@"', "[" * 900 + "]" * 900).encode())
    return store


@hostile("metadata_corrupt", "too_large")
def numbers_of_a_million_digits(store):
    text = json.dumps(array_node(["@"], [10])).replace('"@"', "9" * 1_000_000)
    put(store / "zarr.json", GROUP)
    put(store / "a/zarr.json", text.encode())
    return store


@hostile("too_large", "metadata_corrupt")
def shape_of_a_trillion_trillion(store):
    return with_array(store, array_node([10**24, 10**24], [10**12, 10**12]))


@hostile(may_be_clean=True)
def shape_of_1e18_without_a_chunk(store):
    return with_array(store, array_node([10**18], [10**6]))


@hostile("too_large", "chunk_corrupt", "shard_torn", level="full")
def one_chunk_of_1e18(store):
    return with_array(store, array_node([10**18], [10**18]), b"\0" * 64)


@hostile("too_large", "metadata_corrupt", "shard_torn", "index_corrupt", "index_wrong")
def shard_of_1e15_chunks(store):
    node = array_node([10**15], [10**15], sharded([1]))
    return with_array(store, node, zb.sealed(b"\0" * 1600))


@hostile("metadata_corrupt", "too_large")
def shape_negative_or_no_number(store):
    put(store / "zarr.json", GROUP)
    for name, shape in {
        "a": [-5],
        "b": ["ten"],
        "c": [1.5],
        "d": [None],
        "e": 7,
        "f": [[3]],
    }.items():
        put(store / name / "zarr.json", array_node(shape, [1]))
    return store


@hostile("metadata_corrupt", "too_large")
def chunk_shape_of_zero_or_another_rank(store):
    put(store / "zarr.json", GROUP)
    for name, chunks in {"a": [0], "b": [1, 1], "c": [], "d": [-1], "e": {}, "f": [1e30]}.items():
        put(store / name / "zarr.json", array_node([100], chunks))
    return store


@hostile("metadata_corrupt", "codec_unknown", "too_large")
def ten_thousand_dimensions(store):
    return with_array(store, array_node([1] * 10_000, [1] * 10_000))


@hostile("metadata_corrupt", "codec_unknown", "too_large", may_be_clean=True)
def codecs_within_codecs(store):
    chain = [BYTES]
    for _ in range(300):
        chain = sharded([1], chain)
    return with_array(store, array_node([1], [1], chain), zb.sealed(b"\0" * 16))


@hostile("metadata_corrupt", "too_large", "consolidated_stale")
def half_a_million_nodes_in_the_root(store):
    node = array_node([1], [1])
    metadata = {f"n{k}": node for k in range(20_000)}
    told = {"kind": "inline", "must_understand": False, "metadata": metadata}
    put(store / "zarr.json", GROUP | {"consolidated_metadata": told})
    return store


@hostile("metadata_corrupt", "file_unknown", "consolidated_stale")
def names_that_climb_out(store):
    node = array_node([4], [4])
    names = ("../../etc", "/etc", "a/../../b", "a//b", "", ".", "a\0b", "a\\..\\b", "c/0")
    told = {"kind": "inline", "must_understand": False, "metadata": dict.fromkeys(names, node)}
    put(store / "zarr.json", GROUP | {"consolidated_metadata": told})
    return store


@hostile("metadata_corrupt", "codec_unknown", may_be_clean=True)
def v2_of_nonsense(store):
    put(store / ".zgroup", {"zarr_format": 2})
    for name, told in {
        "a": {"zarr_format": 2, "shape": [10**30], "chunks": [1], "dtype": "<f8"},
        "b": [],
        "c": {"zarr_format": 2, "shape": [4], "chunks": [0], "dtype": "|O"},
        "d": {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "not a dtype"},
        "e": {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": [["a", "<f8", [10**9]]]},
    }.items():
        whole = {"compressor": None, "fill_value": None, "order": "C", "filters": None}
        put(store / name / ".zarray", whole | told if isinstance(told, dict) else told)
    put(store / "d/0", b"\0" * 32)
    return store


@hostile("codec_unknown", "metadata_corrupt", level="full")
def v2_pickle(store):
    """A codec that unpickles runs what it reads: it must never be called."""
    marker = store.parent / "pwned"
    evil = b"cposix\nsystem\n(S'touch " + os.fsencode(marker) + b"'\ntR."
    told = {
        "zarr_format": 2,
        "shape": [1],
        "chunks": [1],
        "dtype": "|O",
        "compressor": None,
        "fill_value": None,
        "order": "C",
        "filters": [{"id": "pickle", "protocol": 0}],
    }
    put(store / ".zarray", told)
    put(store / "0", evil)
    return store


# ------------------------------------------------------------------ bombs

MANY = 320 << 20


@hostile("too_large", "chunk_corrupt", level="full")
def gzip_bomb(store):
    """A chunk of a hundred bytes by its shape unpacks to 320 megabytes."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [squeeze.compress(b"\0" * (1 << 24)) for _ in range(MANY >> 24)]
    data = b"".join([*parts, squeeze.flush()])
    return with_array(store, array_node([10], [10], compressed("gzip", level=9)), data)


@hostile("too_large", "chunk_corrupt", level="full")
def gzip_bomb_of_many_members(store):
    data = gzip.compress(b"\0" * (1 << 20)) * (MANY >> 20)
    return with_array(store, array_node([10], [10], compressed("gzip", level=9)), data)


@hostile("too_large", "chunk_corrupt", level="full")
def zstd_bomb(store):
    data = bytes(numcodecs.Zstd(level=1).encode(b"\0" * MANY))
    codecs = compressed("zstd", level=0, checksum=False)
    return with_array(store, array_node([10], [10], codecs), data)


@hostile("too_large", "chunk_corrupt", level="full")
def zstd_frames(store):
    """Many frames one after another, each small."""
    data = bytes(numcodecs.Zstd(level=1).encode(b"\0" * (1 << 20))) * 1000
    codecs = compressed("zstd", level=0, checksum=False)
    return with_array(store, array_node([10], [10], codecs), data)


@hostile("too_large", "chunk_corrupt", level="full")
def blosc_bomb(store):
    """The header says two gigabytes."""
    data = bytearray(numcodecs.Blosc("lz4").encode(b"\0" * 4096))
    struct.pack_into("<I", data, 4, (1 << 31) - 1)
    told = {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "typesize": 8, "blocksize": 0}
    return with_array(store, array_node([512], [512], compressed("blosc", **told)), bytes(data))


@hostile("chunk_corrupt", level="full")
def blosc_of_lies(store):
    """Sealed by a right crc32c, and nonsense within: it must not bring the process down."""
    data = bytearray(numcodecs.Blosc("lz4").encode(bytes(range(256)) * 16))
    for at in range(16, len(data)):
        data[at] = (data[at] * 7 + at) % 256
    told = {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "typesize": 8, "blocksize": 0}
    chain = [*compressed("blosc", **told), {"name": "crc32c"}]
    return with_array(store, array_node([512], [512], chain), zb.sealed(data))


@hostile("too_large", "chunk_corrupt", "codec_unknown", level="full")
def chunk_that_claims_a_terabyte(store):
    codecs = compressed("zstd", level=0, checksum=False)
    node = array_node([1 << 37], [1 << 37], codecs)
    return with_array(store, node, bytes(numcodecs.Zstd().encode(b"\0" * 64)))


@hostile("too_large", "chunk_corrupt", level="full")
def strings_that_claim_gigabytes(store):
    node = array_node([3], [3], [{"name": "vlen-utf8", "configuration": {}}], data_type="string")
    node["fill_value"] = ""
    return with_array(store, node, struct.pack("<III", 3, 1 << 31, 5) + b"abc")


@hostile("too_large", "chunk_corrupt", level="full")
def strings_by_the_milliard(store):
    node = array_node([3], [3], [{"name": "vlen-utf8", "configuration": {}}], data_type="string")
    node["fill_value"] = ""
    return with_array(store, node, struct.pack("<I", 0xFFFFFFFF) + b"\0" * 64)


# ------------------------------------------------------------------ files and folders


@hostile("symlink", level="listing")
def links_in_circles(store):
    with_array(store, array_node([4], [4]), b"\0" * 32)
    for name, target in {"b": ".", "c": "..", "d": "d", "e": "/", "a/x": "../.."}.items():
        (store / name).symlink_to(target)
    return store


@hostile("symlink", level="listing")
def links_to_the_world(store):
    with_array(store, array_node([4], [4]))
    (store / "a/c").mkdir()
    (store / "a/c/0").symlink_to("/dev/zero")
    (store / "b").symlink_to("/proc/self")
    (store / "c").symlink_to("/etc/passwd")
    return store


@hostile("symlink")
def root_is_a_link(store):
    put(store / "x", b"")
    (store / "zarr.json").symlink_to("/dev/zero")
    return store


@hostile("file_unknown", "unreadable", "metadata_corrupt")
def fifo_for_metadata(store):
    """Whoever opens it waits for ever."""
    put(store / "zarr.json", GROUP)
    (store / "a").mkdir()
    os.mkfifo(store / "a/zarr.json")
    return store


@hostile("file_unknown", "unreadable", "chunk_corrupt", "shard_torn", level="full")
def fifo_for_a_chunk(store):
    with_array(store, array_node([4], [4]))
    (store / "a/c").mkdir()
    os.mkfifo(store / "a/c/0")
    return store


@hostile("file_unknown", "unreadable", "metadata_corrupt")
def fifo_for_the_root(store):
    put(store / "lightcurves/c/0/0/0/0", b"\0")
    os.mkfifo(store / "zarr.json")
    return store


@hostile("file_unknown", level="listing")
def names_of_control_characters(store):
    put(store / "zarr.json", GROUP)
    names = ["\x1b[2J\x1b]0;owned\x07", "a\nb", "\r", "\t", "\u202egnp", "..\u2215..", " ", "-rf"]
    for name in names:
        put(store / name / "file", b"x")
    put(store / "<script>alert(1)<", b"x")
    (store / os.fsdecode(b"\xff\xfe not utf8")).write_bytes(b"x")
    return store


@hostile("file_unknown", "too_large", level="listing")
def folders_within_folders(store):
    """Deeper than any recursion, and than a path may be long."""
    put(store / "zarr.json", GROUP)
    here = os.open(store, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deeper", dir_fd=here)
        there = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = there
    handle = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here)
    os.close(handle)
    os.close(here)
    return store


@hostile("file_unknown", level="listing")
def folder_of_ten_thousand(store):
    put(store / "zarr.json", GROUP)
    (store / "x").mkdir()
    for number in range(10_000):
        (store / f"x/{number}").touch()
    return store


@hostile("file_unknown", "metadata_corrupt", "unreadable")
def folder_for_a_file(store):
    put(store / "zarr.json/zarr.json", GROUP)
    put(store / "a/zarr.json", array_node([4], [4]))
    put(store / "a/c/0/0/zarr.json", b"")
    return store


@hostile("shard_torn", "chunk_corrupt", "too_large", level="full")
def sparse_chunk_of_a_terabyte(store):
    with_array(store, array_node([4], [4]), b"")
    os.truncate(store / "a/c/0", 1 << 40)
    return store
