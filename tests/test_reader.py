from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numcodecs.blosc
import numpy as np
import pytest
import tensorstore as ts
import zarr
from adopting import publish_as_it_stands
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec

from idfzarr.errors import (
    ChunkCorrupt,
    ChunkMissing,
    CorruptError,
    ShardCorrupt,
    UnknownName,
    UsageError,
)
from idfzarr.store import reader as reader_module
from idfzarr.store.checksum import sealed
from idfzarr.store.cube import Cube, create, flags_of
from idfzarr.store.place import LocalPlace
from idfzarr.store.reader import PlainReader, ShardReader
from idfzarr.store.shard import join_chunks
from idfzarr.store.sharing import shared

TYPES = ("ch1_auto_original", "ch1_aper2_original", "ch2_iso_clean")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    """Spare the disk: what fsync is for is tested by the order of the calls, in test_cube.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made(path, *, objects=10, types=2, aors=7, shard=4, codec="lz4", capacity=None, seed=0):
    """Return a cube filled with known numbers, and these: (object, type, value, aor)."""
    rng = np.random.default_rng(seed)
    cube = create(
        path,
        objects=np.arange(objects) * 10 + 5,
        types=TYPES[:types],
        aors={"aor": np.arange(aors) + 100, "mjd": 53000.0 + np.arange(aors)},
        shard_objects=shard,
        codec=codec,
        capacity=capacity,
    )
    values = rng.normal(size=(objects, types, 3, aors)).astype(np.float32)
    values[:, :, 2] = rng.integers(0, 65536, size=values[:, :, 2].shape)
    values[rng.random((objects, types)) < 0.1, :2] = np.nan
    values[:, :, 2][np.isnan(values[:, :, 0])] = 256
    cube.write_block(0, flux=values[:, :, 0], flux_err=values[:, :, 1], flag=values[:, :, 2])
    return cube, values


def read_all(cube):
    return np.array([[cube.values(i, t) for t in cube.types] for i in cube.objects])


def by_zarr(path):
    return zarr.open_group(path, mode="r")["lightcurves"][...]


def by_tensorstore(path):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/lightcurves/"}}
    return ts.open(spec).result().read().result()


@settings(max_examples=15)
@given(
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 30),
    st.integers(1, 6),
    st.sampled_from(["lz4", "zstd", "none"]),
    st.integers(0, 9),
    st.integers(0, 99),
)
def test_every_reader_gives_what_was_written(
    tmp_path_factory, objects, types, aors, shard, codec, room, seed
):
    path = tmp_path_factory.mktemp("cube") / "a.zarr"
    cube, values = made(
        path,
        objects=objects,
        types=types,
        aors=aors,
        shard=shard,
        codec=codec,
        capacity=aors + room,
        seed=seed,
    )
    assert isinstance(cube._reader, ShardReader)
    cold = Cube(path)
    for got in (read_all(cold), cube.block(), by_zarr(path), by_tensorstore(path)):
        assert np.array_equal(got, values, equal_nan=True)
    plain = PlainReader(cube._place, "lightcurves", cube.schema.layout)
    got = plain.read_block(range(objects), range(types))
    assert np.array_equal(got, values, equal_nan=True)


def replaced_array(cube, values, **how):
    """Replace the cube's array by one that zarr-python writes as told, and publish it."""
    path = Path(cube.path)
    document = dict(zarr.open_group(path, mode="r")["lightcurves"].attrs)
    cube._place.remove_tree("lightcurves")
    with warnings.catch_warnings():
        array = zarr.create_array(
            path / "lightcurves",
            shape=values.shape,
            dtype="float32",
            fill_value=np.nan,
            dimension_names=("object", "type", "value", "aor"),
            attributes=document,
            config={"write_empty_chunks": True},
            **how,
        )
        array[...] = values
    publish_as_it_stands(cube)
    return Cube(path)


SHARDED = {"chunks": (1, 2, 3, 7), "shards": (4, 2, 3, 7)}
OURS = {"chunks": (1, 1, 3, 7), "shards": (4, 2, 3, 7)}
LZ4 = BloscCodec(cname="lz4", clevel=1, shuffle="shuffle", typesize=4)


@pytest.mark.parametrize(
    ("how", "fast"),
    [
        ({**OURS, "compressors": [LZ4, Crc32cCodec()]}, True),
        ({**OURS, "compressors": [Crc32cCodec()]}, True),
        ({**OURS, "compressors": [LZ4]}, False),
        ({**OURS, "compressors": [GzipCodec(), Crc32cCodec()]}, False),
        ({**OURS, "compressors": None}, False),
        ({**SHARDED, "compressors": [Crc32cCodec()]}, False),
        ({"chunks": (1, 1, 3, 7), "compressors": [Crc32cCodec()]}, False),
        ({"chunks": (3, 1, 3, 4), "compressors": [LZ4]}, False),
        ({"chunks": (1, 1, 3, 7), "shards": (4, 1, 3, 7), "compressors": [Crc32cCodec()]}, False),
    ],
    ids=[
        "lz4",
        "plain",
        "no-crc",
        "gzip",
        "bare",
        "wide-chunks",
        "unsharded",
        "odd",
        "thin-shards",
    ],
)
def test_stores_of_zarr_python_read_alike_fast_or_not(tmp_path, how, fast):
    cube, values = made(tmp_path / "a.zarr")
    other = replaced_array(cube, values, **how)
    assert isinstance(other._reader, ShardReader) == fast
    assert np.array_equal(read_all(other), values, equal_nan=True)
    assert np.array_equal(other.block(slice(2, 9), aors=slice(1, 4)), values[2:9, ..., 1:4], True)


def test_a_shard_of_tensorstore_reads_fast_and_alike(tmp_path):
    cube, values = made(tmp_path / "a.zarr")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{cube.path}/lightcurves/"}}
    array = ts.open(spec).result()
    array[...].write(values[::-1].copy()).result()
    again = Cube(cube.path)
    assert isinstance(again._reader, ShardReader)
    assert np.array_equal(read_all(again), values[::-1], equal_nan=True)


def test_parts_of_the_cube_are_the_same_numbers(tmp_path):
    cube, values = made(tmp_path / "a.zarr", types=3)
    one_type = cube.block(types="ch1_aper2_original")
    assert np.array_equal(one_type[:, 0], values[:, 1], equal_nan=True)
    assert np.array_equal(cube.block([7, 1])[1], values[1], equal_nan=True)
    one_aor = cube.block(aors=slice(3, 4))
    assert np.array_equal(one_aor[..., 0], values[..., 3], equal_nan=True)
    backwards = cube.block(aors=slice(None, None, -2))
    assert np.array_equal(backwards, values[..., ::-2], equal_nan=True)
    edges = cube.block([9], types=["ch1_auto_original", "ch2_iso_clean"])
    assert np.array_equal(edges[0], values[9, ::2], equal_nan=True)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def shard_file(cube, shard=0):
    return Path(cube.path) / cube.schema.layout.key(shard)


@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_no_flipped_bit_is_read_in_silence(tmp_path, codec):
    cube, values = made(tmp_path / "a.zarr", objects=4, codec=codec, capacity=8)
    file = shard_file(cube)
    good = file.read_bytes()
    rng = np.random.default_rng(3)
    caught = []
    for byte in rng.permutation(len(good))[:150]:
        bad = bytearray(good)
        bad[byte] ^= 1 << int(rng.integers(8))
        file.write_bytes(bad)
        broken = Cube(cube.path)
        for i, object_id in enumerate(broken.objects):
            for j, name in enumerate(broken.types):
                try:
                    got = broken.values(object_id, name)
                except CorruptError as error:
                    caught.append((f"lightcurves of object {object_id}, type {name},", error))
                else:
                    assert np.array_equal(got, values[i, j], equal_nan=True)
        with pytest.raises(CorruptError, match=r"crc32c|points beyond"):
            broken.block()
    assert len(caught) >= 150
    assert all(str(file) in str(error) for _, error in caught)
    chunks = [(where, str(error)) for where, error in caught if isinstance(error, ChunkCorrupt)]
    assert len(chunks) > 30
    assert all(where in told for where, told in chunks)


def test_a_truncated_shard_is_an_error_at_once(tmp_path):
    cube, _ = made(tmp_path / "a.zarr")
    data = shard_file(cube).read_bytes()
    for length in (0, 3, 20, len(data) // 2, len(data) - 1):
        shard_file(cube).write_bytes(data[:length])
        with pytest.raises(ShardCorrupt, match="repair the store"):
            Cube(cube.path).values(5, TYPES[0])


def test_a_missing_shard_that_the_ledger_calls_done_is_an_error(tmp_path):
    cube, values = made(tmp_path / "a.zarr")
    shard_file(cube, 1).unlink()
    again = Cube(cube.path)
    assert np.array_equal(again.values(5, TYPES[0]), values[0, 0], equal_nan=True)
    for read in (lambda: again.values(45, TYPES[0]), lambda: again.block([4, 5])):
        with pytest.raises(ChunkMissing, match=r"calls lightcurves/c/1/0/0/0 of .* done"):
            read()


def test_a_chunk_that_was_never_written_is_flagged_not_built(tmp_path):
    cube = create(
        tmp_path / "a.zarr",
        objects=[1, 2],
        types=TYPES[:1],
        aors={"aor": [7, 8], "mjd": [1.0, 2.0]},
    )
    assert np.isnan(cube.values(1, TYPES[0])).all()
    lc = cube.lightcurve(2, TYPES[0])
    assert lc.flag.tolist() == [512, 512]
    assert np.isnan(lc.flux).all()
    assert flags_of(cube.block())[0, 0, 2].tolist() == [512, 512]


def test_flags_that_no_flag_can_be_are_lost_not_wrapped():
    stored = np.array([0, 65535, 65536, -1, 2.5, np.inf, np.nan], np.float32)
    assert flags_of(stored).tolist() == [0, 65535, 4096, 4096, 4096, 4096, 512]
    assert flags_of(stored[:2]).dtype == np.uint16


def test_a_replaced_shard_is_noticed(tmp_path, monkeypatch):
    cube, values = made(tmp_path / "a.zarr")
    reader = Cube(cube.path)
    before = reader.values(5, TYPES[0]).copy()
    other = zarr.open_group(cube.path, mode="r+", use_consolidated=False)["lightcurves"]
    other[:4] = values[:4] + 1
    monkeypatch.setattr(reader_module, "FRESH", -1.0)  # no waiting in a test
    reader._reader._shards[0].fresh_until = 0
    assert np.array_equal(reader.values(5, TYPES[0]), values[0, 0] + 1, equal_nan=True)
    assert not np.array_equal(before, reader.values(5, TYPES[0]), equal_nan=True)
    shard_file(cube).unlink()
    with pytest.raises(ChunkMissing, match="done"):
        reader.values(5, TYPES[0])


def test_what_a_cube_writes_it_reads_at_once(tmp_path):
    cube, values = made(tmp_path / "a.zarr")
    for n in range(5):
        assert cube.values(15, TYPES[1]).shape == (3, 7)
        cube.write_lightcurve(
            15, TYPES[1], flux=np.full(7, n), flux_err=np.full(7, 2), flag=[n] * 7
        )
        assert cube.values(15, TYPES[1])[0].tolist() == [n] * 7
    values[1, 1] = [[4] * 7, [2] * 7, [4] * 7]
    assert np.array_equal(cube.block(), values, equal_nan=True)


def test_few_shards_stay_open_and_none_leaks(tmp_path):
    cube, values = made(tmp_path / "a.zarr", objects=40, shard=1)
    place, layout = cube._place, cube.schema.layout
    few = ShardReader(place, layout, "lz4", must_exist=cube._must_exist, most_open=5)
    before = open_files()
    for row in [*range(40), *range(40)]:
        assert np.array_equal(few.read(row, 1), values[row, 1], equal_nan=True)
        held = len([s for s in few._shards if s is not None])
        assert held == few._n_open <= 5
    assert open_files() - before <= 5
    del few
    assert open_files() <= before


def test_threads_read_while_shards_are_replaced_and_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "FRESH", 0.0)
    cube, values = made(tmp_path / "a.zarr", objects=12, shard=2)
    tight = ShardReader(
        cube._place, cube.schema.layout, "lz4", must_exist=cube._must_exist, most_open=2
    )
    stop, wrong, reads = threading.Event(), [], [0] * 4

    def read(n):
        rng = np.random.default_rng(n)
        while not stop.is_set():
            row, column = int(rng.integers(12)), int(rng.integers(2))
            got = tight.read(row, column)
            reads[n] += 1
            if not np.array_equal(got, values[row, column], equal_nan=True):
                wrong.append((row, column))

    threads = [threading.Thread(target=read, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for n in range(30):
        first = 2 * (n % 6)
        part = values[first : first + 2]
        cube.write_block(first, flux=part[:, :, 0], flux_err=part[:, :, 1], flag=part[:, :, 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(reads) > 20


def test_a_cube_may_be_forked_with_its_shards_open(tmp_path):
    cube, _ = made(tmp_path / "a.zarr")
    code = f"""
import os, numpy as np
from idfzarr.store.cube import Cube
cube = Cube({cube.path!r})
first = cube.values(5, {TYPES[0]!r}).copy()
cube._reader._lock.acquire()  # as if another thread held it in the moment of the fork
child = os.fork()
if child == 0:
    same = np.array_equal(cube.values(5, {TYPES[0]!r}), first, equal_nan=True)
    other = cube.values(95, {TYPES[1]!r}).shape == (3, 7)
    os._exit(0 if same and other else 9)
assert os.waitpid(child, 0)[1] == 0
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=60, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_cube_can_be_sent_to_another_process(tmp_path):
    cube, values = made(tmp_path / "a.zarr")
    sent = pickle.loads(pickle.dumps(cube))
    assert np.array_equal(read_all(sent), values, equal_nan=True)


def test_opening_and_reading_load_no_zarr(tmp_path):
    cube, _ = made(tmp_path / "a.zarr")
    code = (
        "import sys; from idfzarr.store.cube import Cube\n"
        f"Cube({cube.path!r}).lightcurve(5, {TYPES[0]!r})\n"
        "assert not {'zarr', 'xarray', 'dask', 'astropy', 'fsspec'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=60, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_lightcurves_decoded_together_are_those_read_one_by_one(
    tmp_path, monkeypatch, codec, threads
):
    monkeypatch.setattr(reader_module, "_TOGETHER", 5)
    monkeypatch.setattr(reader_module, "_WORTH_A_THREAD", 10)
    made(tmp_path / "a.zarr", objects=21, types=3, aors=9, codec=codec, capacity=24)
    cube = Cube(tmp_path / "a.zarr")
    reader = ShardReader(
        LocalPlace(str(tmp_path / "a.zarr")),
        cube.schema.layout,
        cube.schema.codec,
        must_exist=lambda shard: None,
        decode_threads=threads,
    )
    rng = np.random.default_rng(3)
    rows, columns = rng.integers(0, 21, 200), rng.integers(0, 3, 200)
    singly = np.array([reader.read(i, j) for i, j in zip(rows, columns, strict=True)])
    assert np.isfinite(singly).any()
    for aors in (slice(None), slice(None, None, -1), slice(2, 7, 3), slice(0)):
        found = reader.read_pairs(rows, columns, aors=aors)
        assert np.array_equal(found, singly[..., aors], equal_nan=True)
        assert found.flags.writeable
    everything = np.array([[reader.read(i, j) for j in range(3)] for i in range(21)])
    assert np.array_equal(reader.read_block(range(21), [2, 0]), everything[:, [2, 0]], True)
    ids, names = cube.objects[rows], [cube.types[j] for j in columns]
    assert np.array_equal(cube.pairs(ids, names), singly, equal_nan=True)
    assert reader.read_pairs([], []).shape == (0, 3, 9)


def test_pairs_that_do_not_pair_are_refused(tmp_path):
    cube, _ = made(tmp_path / "a.zarr")
    with pytest.raises(UsageError, match="2 objects and 1 types make no pairs"):
        cube.pairs([5, 15], [TYPES[0]])
    with pytest.raises(UnknownName, match="no object 6"):
        cube.pairs([6], [TYPES[0]])


def test_a_block_of_chunks_that_are_not_alike_is_read_all_the_same(tmp_path):
    cube, values = made(tmp_path / "a.zarr", objects=8, types=2, aors=64, shard=8, capacity=64)
    path = tmp_path / "a.zarr" / cube.schema.layout.key(0)
    # As other writers of Zarr may: stored, shuffled by bytes, of several blocks, by bits.
    ways = [(0, 2, 0), (5, 1, 0), (5, 2, 256), (1, 2, 0)]
    alike = values.reshape(16, 3, 64)
    for mixed in (ways, ways[:1], ways[2:3]):
        chunks = [
            sealed(numcodecs.blosc.compress(one, b"lz4", *mixed[k % len(mixed)], 4))
            for k, one in enumerate(alike)
        ]
        path.write_bytes(join_chunks(chunks))
        found = Cube(tmp_path / "a.zarr").block()
        assert np.array_equal(found, values, equal_nan=True)


def index_of(shard, n_chunks):
    return np.frombuffer(shard[-16 * n_chunks - 4 : -4], "<u8").reshape(-1, 2).astype(int)


@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_damage_and_gaps_in_a_block_are_found_wherever_they_are(tmp_path, monkeypatch, codec):
    monkeypatch.setattr(reader_module, "_WORTH_A_THREAD", 10)
    monkeypatch.setattr(reader_module, "_TOGETHER", 8)
    cube, values = made(tmp_path / "a.zarr", objects=40, types=2, shard=40, codec=codec)
    path = tmp_path / "a.zarr" / cube.schema.layout.key(0)
    whole = bytearray(path.read_bytes())
    for slot in (0, 7, 8, 79):
        broken = bytearray(whole)
        start, length = index_of(whole, 80)[slot]
        broken[start + length // 2] ^= 4
        path.write_bytes(broken)
        reader_of = Cube(tmp_path / "a.zarr")
        where = f"object {slot // 2 * 10 + 5}, type {TYPES[slot % 2]}"
        with pytest.raises(ChunkCorrupt, match=where):
            reader_of.block()
        kept = [row for row in range(40) if row != slot // 2]
        assert np.array_equal(reader_of.block(kept), values[kept], equal_nan=True)


def test_the_pool_of_threads_does_not_outlive_a_fork(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "_WORTH_A_THREAD", 10)
    monkeypatch.setattr(reader_module, "_TOGETHER", 4)
    monkeypatch.setattr(reader_module, "default_threads", lambda: 3)
    _, values = made(tmp_path / "a.zarr", objects=40)
    cube = Cube(tmp_path / "a.zarr")
    assert np.array_equal(cube.block(), values, equal_nan=True)
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        good = np.array_equal(cube.block(), values, equal_nan=True)
        os._exit(0 if good else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_shared_work_is_done_once_and_its_error_told():
    done = []
    shared([lambda k=k: done.append(k) for k in range(100)], 4)
    assert sorted(done) == list(range(100))

    def fail():
        msg = "the seventh"
        raise ValueError(msg)

    with pytest.raises(ValueError, match="the seventh"):
        shared([lambda: None] * 6 + [fail] + [lambda: None] * 50, 4)
    shared([], 4)
