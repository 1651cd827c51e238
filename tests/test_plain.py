"""Plain Zarr stores of others: what is wrong is found, what is only strange is not."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import struct
import tracemalloc
import zlib
from dataclasses import dataclass

import google_crc32c
import numcodecs
import numpy as np
import pytest
import zarr
from healthy_stores import plain_stores
from hypothesis import HealthCheck, given, settings
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from idfzarr.care.plain import look_at_plain, plain_kind, plain_tasks
from idfzarr.care.plain_values import check_plain_values
from idfzarr.care.scrub import scrub
from idfzarr.care.unpacked_size import claimed_bytes, unpacks_within
from idfzarr.care.zarr_node import ArrayNode, NodeFault, parse_v2, parse_v3, unknown_codecs

NOW = 1_000_000.0


@dataclass
class File:
    size: int
    mtime_ns: int


def files_of(store):
    return {
        path.relative_to(store).as_posix(): File(path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(store.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def look(store, level="structure", **more):
    return look_at_plain(str(store), files_of(store), level=level, **more)


def found(seen):
    return [(f.kind, f.where.key) for f in seen.findings]


def put(store, key, data):
    path = store / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def changed(store, key, change):
    document = json.loads((store / key).read_bytes())
    change(document)
    put(store, key, document)


@pytest.fixture
def store(tmp_path):
    """A store of Zarr v3: a sealed sharded array, a compressed one, one of v2's names."""
    root = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=3)
    flux = root.create_array(
        "g/flux", shape=(10, 6), chunks=(2, 3), shards=(4, 6), dtype="f4",
        compressors=[BloscCodec(), Crc32cCodec()], dimension_names=["y", "x"],
    )  # fmt: skip
    flux[...] = np.arange(60.0).reshape(10, 6)
    for name, codec in (("zstd", ZstdCodec()), ("gzip", GzipCodec()), ("blosc", BloscCodec())):
        array = root.create_array(name, shape=(9,), chunks=(4,), dtype="i8", compressors=[codec])
        array[:8] = np.arange(8)
    dots = root.create_array(
        "dots", shape=(4, 4), chunks=(2, 2), dtype="u1", compressors=None,
        chunk_key_encoding={"name": "v2", "separator": "."},
    )  # fmt: skip
    dots[...] = 1
    return tmp_path / "p.zarr"


@pytest.fixture
def old_store(tmp_path):
    """A store of Zarr v2, consolidated."""
    root = zarr.open_group(tmp_path / "old.zarr", mode="w", zarr_format=2)
    a = root.create_array("a", shape=(5,), chunks=(2,), dtype="<i4", compressors=numcodecs.Zstd())
    a[...] = np.arange(5)
    b = root.create_array("g/b", shape=(4,), chunks=(2,), dtype="<f8", compressors=None)
    b[...] = 1
    b.attrs["units"] = "uJy"
    zarr.consolidate_metadata(tmp_path / "old.zarr", zarr_format=2)
    return tmp_path / "old.zarr"


@settings(
    max_examples=15, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:The data type:Warning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:Warning")
@given(recipe=plain_stores())
def test_healthy_stores_of_others(recipe, tmp_path_factory):
    store = recipe.make(tmp_path_factory.mktemp("healthy"))
    seen = look(store)
    assert seen.findings == ()
    assert plain_kind(files_of(store)) == f"zarr{recipe.version}"
    tasks = plain_tasks(seen, files_of(store))
    assert scrub(str(store), tasks).findings == ()
    decoded = check_plain_values(str(store), seen.arrays)
    assert decoded.findings == ()
    assert decoded.n_chunks == sum(census.n_present for census in seen.arrays)


def test_what_there_is(store):
    seen = look(store)
    assert seen.findings == ()
    by_path = {census.node.path: census for census in seen.arrays}
    assert sorted(by_path) == ["blosc", "dots", "g/flux", "gzip", "zstd"]
    flux = by_path["g/flux"]
    assert flux.node.dims == ("y", "x")
    assert flux.node.n_expected == flux.n_present == 10
    assert len(flux.chunk_keys) == 3
    assert flux.node.form.sealed
    assert flux.node.n_logical == 240
    # A chunk that is not there is the fill value, and no fault.
    assert (by_path["zstd"].node.n_expected, by_path["zstd"].n_present) == (3, 2)
    assert by_path["dots"].chunk_keys == ("dots/0.0", "dots/0.1", "dots/1.0", "dots/1.1")
    (store / "g/flux/c/1/0").unlink()
    seen = look(store)
    assert seen.findings == ()
    assert next(c for c in seen.arrays if c.node.path == "g/flux").n_present == 6
    assert look(store, "listing").n_read < seen.n_read


def test_names(store):
    for key in ("g/flux/c/3/0", "zstd/c/3", "dots/2.0"):
        put(store, key, b"0123456789" * 20)
    unknown = ["g/flux/c/0/00", "zstd/c/-1", "zstd/c/5/1", "dots/c/0/0", "readme", "g/flux/c/1e1/0"]
    for key in unknown:
        put(store, key, b"?")
    half = ["g/flux/c/0/0.9f.partial", "zstd/c/1.__lock", "_temp_1", "zarr.json.5.partial"]
    for key in half:
        put(store, key, b"?")
        os.utime(store / key, (NOW - 7200, NOW - 7200))
    put(store, "dots/0.0.7.partial", b"new")
    os.utime(store / "dots/0.0.7.partial", (NOW - 60, NOW - 60))
    seen = look(store, "listing", now=NOW)
    told = {kind: {k for other, k in found(seen) if other == kind} for kind, _ in found(seen)}
    assert told == {
        "key_outside": {"g/flux/c/3/0", "zstd/c/3", "dots/2.0"},
        "file_unknown": set(unknown),
        "partial_file": set(half),
    }


@pytest.mark.parametrize(
    ("key", "data", "kind"),
    [
        ("zstd/zarr.json", b"{", "metadata_corrupt"),
        ("zstd/zarr.json", b"[]", "metadata_corrupt"),
        ("zstd/zarr.json", b"\xff\xfe", "metadata_corrupt"),
        ("zstd/zarr.json", b"[" * 200_000, "metadata_corrupt"),
        ("zstd/zarr.json", b"[" + b"0," * 1_100_000 + b"0]", "too_large"),
        ("zstd/zarr.json", {"zarr_format": 3, "node_type": "array"}, "metadata_corrupt"),
        ("zstd/zarr.json", {"zarr_format": 4, "node_type": "array"}, "format_version"),
        ("zstd/zarr.json", {"zarr_format": 3, "node_type": "table"}, "metadata_corrupt"),
        ("g/zarr.json", {"zarr_format": "3"}, "metadata_corrupt"),
    ],
    ids=range(9),
)
def test_metadata_that_is_none(store, key, data, kind):
    put(store, key, data)
    seen = look(store)
    assert found(seen) == [(kind, key)]
    assert "g/flux" in {census.node.path for census in seen.arrays}


ABSURD = [
    ({"shape": [-1]}, "metadata_corrupt"),
    ({"shape": [9, 9]}, "metadata_corrupt"),
    ({"shape": 9}, "metadata_corrupt"),
    ({"shape": [9.5]}, "metadata_corrupt"),
    ({"shape": [True]}, "metadata_corrupt"),
    ({"shape": [10**19]}, "too_large"),
    ({"shape": [10**4000]}, "too_large"),
    ({"shape": [2**62]}, "too_large"),
    ({"shape": [2] * 99, "chunk": [1] * 99}, "too_large"),
    ({"chunk": [0]}, "metadata_corrupt"),
    ({"chunk": [2**40]}, "too_large"),
    ({"data_type": "float8_e4m3"}, "codec_unknown"),
    ({"data_type": 7}, "codec_unknown"),
    ({"codecs": []}, "metadata_corrupt"),
    ({"codecs": [{"name": "bytes"}, {"name": "zfpz"}]}, "codec_unknown"),
    ({"codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle"}]}, "codec_unknown"),
    ({"codecs": [{"configuration": {}}]}, "metadata_corrupt"),
    ({"chunk_grid": {"name": "rectilinear", "configuration": {}}}, "codec_unknown"),
    ({"chunk_key_encoding": {"name": "spiral"}}, "metadata_corrupt"),
]


@pytest.mark.parametrize(("change", "kind"), ABSURD, ids=range(len(ABSURD)))
def test_arrays_that_cannot_be(store, change, kind):
    def alter(document):
        document.update({k: v for k, v in change.items() if k != "chunk"})
        if "chunk" in change:
            document["chunk_grid"]["configuration"]["chunk_shape"] = change["chunk"]

    look(store)  # modules are imported
    changed(store, "zstd/zarr.json", alter)
    tracemalloc.start()
    try:
        seen = look(store)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert found(seen) == [(kind, "zstd/zarr.json")]


def test_absurd_shards(store):
    def alter(document):
        document["chunk_grid"]["configuration"]["chunk_shape"] = [2**30, 2**30]

    def uneven(document):
        document["codecs"][0]["configuration"]["chunk_shape"] = [3, 3]

    before = (store / "g/flux/zarr.json").read_bytes()
    for change, kind in ((alter, "metadata_corrupt"), (uneven, "metadata_corrupt")):
        put(store, "g/flux/zarr.json", before)
        changed(store, "g/flux/zarr.json", change)
        assert found(look(store)) == [(kind, "g/flux/zarr.json")]
    put(store, "g/flux/zarr.json", before)
    changed(
        store, "g/flux/zarr.json",
        lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[2**30, 3 * 2**30]),
    )  # fmt: skip
    assert found(look(store)) == [("too_large", "g/flux/zarr.json")]


def test_an_array_of_any_number_of_chunks_is_not_enumerated(store):
    def alter(document):
        document["shape"] = [10**15]

    changed(store, "zstd/zarr.json", alter)
    put(store, "zstd/c/7", (store / "zstd/c/0").read_bytes())
    seen = look(store)
    assert seen.findings == ()
    zstd = next(c for c in seen.arrays if c.node.path == "zstd")
    assert (zstd.node.n_expected, zstd.n_present) == (10**15 // 4, 3)


def test_shards_cut_flipped_and_lying(store):
    path = store / "g/flux/c/0/0"
    data = path.read_bytes()
    for bad, kind, level in [
        (b"", "shard_torn", "listing"),
        (data[:40], "shard_torn", "listing"),
        (data[:-1], "index_corrupt", "structure"),
        (data[:-30] + bytes([data[-30] ^ 1]) + data[-29:], "index_corrupt", "structure"),
    ]:
        path.write_bytes(bad)
        assert found(look(store, level)) == [(kind, "g/flux/c/0/0")]
        tasks = plain_tasks(look(store), files_of(store))
        assert scrub(str(store), tasks).findings == ()  # told once
    path.write_bytes(data[:5] + bytes([data[5] ^ 2]) + data[6:])
    seen = look(store)
    assert seen.findings == ()
    (one,) = scrub(str(store), plain_tasks(seen, files_of(store))).findings
    assert (one.kind, one.where.key) == ("chunk_corrupt", "g/flux/c/0/0")
    assert one.where.first_byte <= 5


def test_an_uncompressed_chunk_of_another_size(store):
    os.truncate(store / "dots/0.1", 3)
    assert found(look(store, "listing")) == [("shard_torn", "dots/0.1")]


BIG = bytes(50_000_000)


@pytest.mark.parametrize("name", ["zstd", "gzip", "blosc"])
def test_bombs_are_seen_and_not_unpacked(store, name):
    packed = {
        "zstd": numcodecs.Zstd(1).encode(BIG),
        "gzip": gzip.compress(BIG, 1),
        "blosc": numcodecs.Blosc().encode(BIG),
    }[name]
    put(store, f"{name}/c/0", bytes(packed))
    seen = look(store)
    assert found(seen) == [("too_large", f"{name}/c/0")]
    assert "50000000" in seen.findings[0].message
    assert check_plain_values(str(store), seen.arrays).findings == ()


def test_bombs_that_lie_or_hide_in_a_shard(store):
    lying = bytearray(gzip.compress(BIG, 1))
    lying[-4:] = (32).to_bytes(4, "little")
    put(store, "gzip/c/0", bytes(lying))
    root = zarr.open_group(store, mode="r+")
    array = root.create_array(
        "s", shape=(8,), chunks=(4,), shards=(8,), dtype="i8", compressors=[ZstdCodec()]
    )
    array[...] = np.arange(8)
    bomb = bytes(numcodecs.Zstd(1).encode(BIG))
    good = (store / "s/c/0").read_bytes()
    index = np.frombuffer(good[-36:-4], "<u8").copy().reshape(2, 2)
    moved = np.array([[0, len(bomb)], [len(bomb), index[1][1]]], "<u8").tobytes()
    second = good[int(index[1][0]) : int(index[1].sum())]
    put(store, "s/c/0", bomb + second + moved + struct.pack("<I", google_crc32c.value(moved)))
    seen = look(store)
    assert seen.findings == ()
    tracemalloc.start()
    try:
        decoded = check_plain_values(str(store), seen.arrays)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert found(decoded) == [("too_large", "gzip/c/0"), ("too_large", "s/c/0")]
    assert decoded.findings[1].where.first_byte == 0


def test_what_cannot_be_decoded(store):
    data = (store / "zstd/c/0").read_bytes()
    put(store, "zstd/c/0", data[:9] + b"\xff" * (len(data) - 9))
    put(store, "blosc/c/1", b"\0" * 40)
    put(store, "gzip/c/1", b"nothing of the kind")
    seen = look(store)
    assert seen.findings == ()
    decoded = check_plain_values(str(store), seen.arrays)
    assert {key for _, key in found(decoded)} == {"zstd/c/0", "blosc/c/1", "gzip/c/1"}
    assert {kind for kind, _ in found(decoded)} == {"chunk_corrupt"}
    assert decoded.n_chunks == 10 + 4 + 3
    assert (
        check_plain_values(str(store), seen.arrays, skip=[k for _, k in found(decoded)]).findings
        == ()
    )


def test_chunks_too_large_are_left_alone_and_told(store, monkeypatch):
    monkeypatch.setattr("idfzarr.care.plain_values.MOST_DECODED", 31)
    decoded = check_plain_values(str(store), look(store).arrays)
    assert decoded.skipped == {"zstd": 2, "gzip": 2, "blosc": 2, "g/flux": 10}
    assert {(f.kind, f.severity) for f in decoded.findings} == {("too_large", "note")}


# -------------------------------------------------------------------- consolidated, v2


def test_consolidated_copies(store):
    zarr.consolidate_metadata(store, zarr_format=3)
    assert look(store).findings == ()
    changed(store, "zstd/zarr.json", lambda d: d.update(shape=[12]))
    assert found(look(store)) == [("consolidated_stale", "zstd/zarr.json")]
    assert look(store, "listing").findings == ()
    (store / "gzip/zarr.json").unlink()
    told = found(look(store))
    assert ("consolidated_stale", "gzip/zarr.json") in told
    changed(store, "zarr.json", lambda d: d.update(consolidated_metadata={"metadata": 3}))
    assert ("metadata_corrupt", "zarr.json") in found(look(store))


def test_version_two(old_store):
    seen = look(old_store)
    assert seen.findings == ()
    assert plain_kind(files_of(old_store)) == "zarr2"
    assert [(c.node.path, c.n_present) for c in seen.arrays] == [("a", 3), ("g/b", 2)]
    assert check_plain_values(str(old_store), seen.arrays).n_chunks == 5
    put(old_store, "a/3", b"x")
    put(old_store, "g/b/0", b"short")
    put(old_store, "a/1", bytes(numcodecs.Zstd(1).encode(BIG)))
    changed(old_store, "g/b/.zattrs", lambda d: d.update(units="Jy"))
    assert sorted(found(look(old_store))) == [
        ("consolidated_stale", "g/b/.zattrs"),
        ("key_outside", "a/3"),
        ("shard_torn", "g/b/0"),
        ("too_large", "a/1"),
    ]


V2 = [
    ({"compressor": {"id": "pickle"}}, "codec_unknown"),
    ({"filters": [{"id": "pickle"}]}, "codec_unknown"),
    ({"compressor": {"id": "none such"}}, "codec_unknown"),
    ({"shape": [10**30]}, "too_large"),
    ({"chunks": [2**40]}, "too_large"),
    ({"dtype": "<U2000000000"}, "metadata_corrupt"),
    ({"dtype": "nonsense"}, "metadata_corrupt"),
    ({"zarr_format": 3}, "metadata_corrupt"),
    ({"compressor": 7}, "metadata_corrupt"),
    ({"dimension_separator": "-"}, "metadata_corrupt"),
]


@pytest.mark.parametrize(("change", "kind"), V2, ids=range(len(V2)))
def test_version_two_that_cannot_be(old_store, change, kind):
    (old_store / ".zmetadata").unlink()
    changed(old_store, "a/.zarray", lambda d: d.update(change))
    told = found(look(old_store))
    assert [key for _, key in told] == ["a/.zarray"]
    assert told[0][0] in {kind, "too_large"}


def test_a_pickle_is_never_opened(tmp_path):
    root = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2)
    array = root.create_array("a", shape=(2,), chunks=(2,), dtype="<i4", compressors=None)
    array[...] = 1
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    put(tmp_path / "p.zarr", "a/0", bytes(numcodecs.Pickle().encode(np.array([Trap()], object))))
    changed(
        tmp_path / "p.zarr", "a/.zarray",
        lambda d: d.update(filters=[{"id": "pickle"}], dtype="|O"),
    )  # fmt: skip
    seen = look(tmp_path / "p.zarr")
    assert [kind for kind, _ in found(seen)] == ["codec_unknown"]
    assert "run a program" in seen.findings[0].message
    check_plain_values(str(tmp_path / "p.zarr"), seen.arrays)
    assert not marker.exists()


# -------------------------------------------------------------------- pieces


def test_names_of_chunks():
    def node(separator, shape=(10, 10), prefix="c"):
        return ArrayNode(
            "a", 3, shape, (3,) * len(shape), (3,) * len(shape), prefix + separator * bool(prefix),
            separator, 4, ("bytes",),
        )  # fmt: skip

    slash, dot = node("/"), node(".", prefix="")
    assert slash.position("c/3/0") == (3, 0)
    assert slash.holds((3, 3))
    assert not slash.holds((4, 0))
    assert dot.position("3.0") == (3, 0)
    for bad in (
        "c/3",
        "c/3/0/0",
        "3/0",
        "c/03/0",
        "c/\u0663/0",
        "c/+1/0",
        "c/1 /0",
        "c/3.0",
        "c//3",
    ):
        assert slash.position(bad) is None, bad
    assert node("/", ()).position("c") == ()
    assert node("/", ()).position("c/0") is None


def test_unknown_codecs_inside_shards():
    known = {"name": "sharding_indexed", "configuration": {
        "chunk_shape": [1], "codecs": [{"name": "bytes"}, {"name": "mystery"}],
        "index_codecs": [{"name": "bytes"}, "crc32c"]}}  # fmt: skip
    assert unknown_codecs([known]) == ("mystery",)
    assert unknown_codecs(["bytes", {"name": "zstd"}]) == ()
    deep = known
    for _ in range(50):
        deep = json.loads(json.dumps(known))
        deep["configuration"]["codecs"] = [known]
        known = deep
    with pytest.raises(ValueError, match="no chain of codecs"):
        unknown_codecs([deep])


@pytest.mark.parametrize("document", [{}, {"shape": None}, {"chunk_grid": 3}, {"codecs": {}}])
def test_any_json_is_an_answer_and_no_error(document):
    assert isinstance(parse_v3("a", document), NodeFault)
    assert isinstance(parse_v2("a", document), NodeFault)


PACKED = {
    "zstd": lambda data: bytes(numcodecs.Zstd(3).encode(data)),
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "lzma": lzma.compress,
    "blosc": lambda data: bytes(numcodecs.Blosc().encode(data)),
    "lz4": lambda data: bytes(numcodecs.LZ4().encode(data)),
}


@pytest.mark.parametrize("size", [1, 200, 256, 70_000, 1_100_000])
@pytest.mark.parametrize("name", PACKED)
def test_what_a_chunk_becomes(name, size):
    data = np.random.default_rng(size).integers(0, 4, size, dtype=np.uint8).tobytes()
    packed = PACKED[name](data)
    if name in {"zstd", "gzip", "blosc", "lz4"}:
        assert claimed_bytes(name, packed[:18], packed[-4:]) == size
    assert unpacks_within(name, packed, size) is True
    assert unpacks_within(f"numcodecs.{name}", packed, size - 1) is False


def test_a_frame_that_does_not_say_its_size():
    # By RFC 8878: window of 1 KB, no content size, one block of type RLE and the last.
    def frame(size):
        block = ((size << 3) | (1 << 1) | 1).to_bytes(3, "little") + b"\0"
        return b"\x28\xb5\x2f\xfd" + b"\x00\x00" + block

    assert claimed_bytes("zstd", frame(1000), b"") is None
    assert unpacks_within("zstd", frame(1000), 1000) is True
    assert unpacks_within("zstd", frame(400_000), 1000) is None
