"""Scrub: every flipped bit is found, in its chunk, whatever the window; nothing else is."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib

import google_crc32c
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from idfzarr.care import scrub as scrubbing
from idfzarr.care.scrub import ScrubTask, choose, scrub
from idfzarr.care.shard_pieces import IndexFault, ShardForm, read_pieces
from idfzarr.errors import UsageError

ABSENT = 2**64 - 1


def sealed(data):
    return data + struct.pack("<I", google_crc32c.value(data))


def shard_of(chunks, *, gap=b"", at="end", index_sealed=True, endian="<"):
    """Return a shard put together by the specification, and where each chunk stands."""
    entries, payload = [], b""
    index_size = 16 * len(chunks) + 4 * index_sealed
    head = index_size if at == "start" else 0
    for chunk in chunks:
        if chunk is None:
            entries.append((ABSENT, ABSENT))
            continue
        entries.append((head + len(payload), len(chunk)))
        payload += chunk + gap
    index = b"".join(struct.pack(f"{endian}2Q", *entry) for entry in entries)
    index = sealed(index) if index_sealed else index
    return (index + payload if at == "start" else payload + index), entries


def chunks_of(rng, sizes):
    return [sealed(rng.bytes(n)) for n in sizes]


def put(folder, name, data):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return google_crc32c.value(data)


@pytest.mark.parametrize("window", [7, 64, 1000, 1 << 20])
def test_every_flip_is_found_in_its_chunk(tmp_path, monkeypatch, window):
    monkeypatch.setattr(scrubbing, "_WINDOW", window)
    rng = np.random.default_rng(window)
    data, entries = shard_of([*chunks_of(rng, [1, 90, 7, 300, 64, 60, 0, 128]), None])
    task = ScrubTask("s", "a", len(data), ShardForm(9))
    put(tmp_path, "s", data)
    good = scrub(str(tmp_path), [task])
    assert good.findings == ()
    assert [r.crc32c for r in good.reads] == [google_crc32c.value(data)]
    assert good.n_read == len(data)
    last = max(o + n for o, n in entries if o != ABSENT)
    for at in rng.choice(last, 60, replace=False).tolist():
        bad = bytearray(data)
        bad[at] ^= 1 << int(rng.integers(8))
        put(tmp_path, "s", bytes(bad))
        found = scrub(str(tmp_path), [task]).findings
        (one,) = found
        slot = next(k for k, (o, n) in enumerate(entries) if o <= at < o + n)
        assert one.kind == "chunk_corrupt"
        assert (one.where.first_byte, one.where.n_bytes) == entries[slot]
        assert f"chunk {slot} " in one.message


def test_flips_in_shards_of_zarr_python(tmp_path):
    values = np.random.default_rng(3).normal(size=(8, 6)).astype("f4")
    array = zarr.create_array(
        tmp_path / "a", shape=(8, 6), chunks=(2, 3), shards=(4, 6), dtype="f4",
        compressors=[BloscCodec(cname="lz4"), Crc32cCodec()],
    )  # fmt: skip
    array[...] = values
    path = tmp_path / "a/c/1/0"
    task = ScrubTask("a/c/1/0", "a", path.stat().st_size, ShardForm(4))
    assert scrub(str(tmp_path), [task]).findings == ()
    data = path.read_bytes()
    for at in range(0, len(data) - 68, 5):
        bad = bytearray(data)
        bad[at] ^= 16
        path.write_bytes(bytes(bad))
        (one,) = scrub(str(tmp_path), [task]).findings
        assert one.where.first_byte <= at < one.where.first_byte + one.where.n_bytes


@pytest.mark.parametrize("at", ["start", "end"])
@pytest.mark.parametrize(("endian", "index_sealed"), [("<", True), (">", False), (">", True)])
def test_index_of_any_place_and_order(tmp_path, at, endian, index_sealed):
    rng = np.random.default_rng(1)
    chunks = chunks_of(rng, [40, 50, 60])
    data, entries = shard_of(chunks, at=at, endian=endian, index_sealed=index_sealed)
    form = ShardForm(3, index_at=at, endian=endian, index_sealed=index_sealed)
    put(tmp_path, "s", data)
    with (tmp_path / "s").open("rb") as file:
        pieces = read_pieces(file.fileno(), len(data), form)
    assert list(zip(pieces.first.tolist(), pieces.last.tolist(), strict=True)) == [
        (o, o + n) for o, n in entries
    ]
    bad = bytearray(data)
    bad[entries[2][0]] ^= 1
    put(tmp_path, "s", bytes(bad))
    (one,) = scrub(str(tmp_path), [ScrubTask("s", "a", len(data), form)]).findings
    assert one.where.first_byte == entries[2][0]


def _entry(data, n, slot, offset, length):
    head = len(data) - 16 * n - 4
    index = bytearray(data[head:-4])
    index[16 * slot : 16 * slot + 16] = struct.pack("<2Q", offset, length)
    return data[:head] + sealed(bytes(index))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda d: d[:20], "shard_torn"),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "index_corrupt"),
        (lambda d: _entry(d, 2, 0, len(d), 5), "index_wrong"),
        (lambda d: _entry(d, 2, 0, 2**63, 2**63), "index_wrong"),
        (lambda d: _entry(d, 2, 0, ABSENT, 3), "index_wrong"),
        (lambda d: _entry(d, 2, 1, 10, 20), "index_wrong"),
    ],
    ids=["cut", "flipped", "beyond", "absurd", "half absent", "overlap"],
)
def test_an_index_that_cannot_be_believed(tmp_path, change, kind):
    data, _ = shard_of(chunks_of(np.random.default_rng(2), [30, 30]))
    data = change(data)
    put(tmp_path, "s", data)
    with (tmp_path / "s").open("rb") as file:
        fault = read_pieces(file.fileno(), len(data), ShardForm(2))
    assert isinstance(fault, IndexFault)
    assert fault.kind == kind
    seen = scrub(str(tmp_path), [ScrubTask("s", "a", len(data), ShardForm(2))])
    assert (seen.findings, seen.reads, seen.unverified) == ((), (), ("s",))


def test_a_huge_index_is_not_read(tmp_path):
    with (tmp_path / "s").open("wb") as file:
        file.truncate(1 << 40)
        fault = read_pieces(file.fileno(), 1 << 40, ShardForm(1 << 30))
    assert fault.kind == "too_large"


def mark(data):
    return len(data), google_crc32c.value(data), zlib.crc32(data)


def test_a_whole_shard_that_is_not_the_last_one_written(tmp_path):
    rng = np.random.default_rng(4)
    old, _ = shard_of(chunks_of(rng, [30, 30]))
    new, _ = shard_of(chunks_of(rng, [30, 30]))
    # Sealed parts of equal lengths: their own crc32c hides what they hold from that of the file.
    assert mark(old)[:2] == mark(new)[:2]
    put(tmp_path, "s", new)
    form = ShardForm(2, dense=True)

    def look(**more):
        return scrub(str(tmp_path), [ScrubTask("s", "a", len(new), form, **more)])

    (one,) = look(noted=(mark(old),)).findings
    assert one.kind == "wrong_shard"
    assert (one.where.object, one.where.first_byte) == (None, None)
    assert f"{mark(old)[2]:08x}" in one.message
    # The newest intent is a shard under way, not a wrong one.
    assert look(noted=(mark(old), mark(new))).findings == ()
    assert len(look(noted=(mark(new),)).reads) == 1
    known = look(noted=(mark(old),), faulty=True)
    assert (known.findings, known.reads) == ((), ())


def test_chunks_exchanged_and_ledgers_of_before(tmp_path):
    one, other, last = chunks_of(np.random.default_rng(14), [30, 40, 30])
    right, exchanged = shard_of([one, other, last])[0], shard_of([last, other, one])[0]
    longer = shard_of([other, one, last])[0]
    form = ShardForm(3)
    for data, noted, found in [
        (exchanged, mark(right), True),
        (exchanged, mark(right)[:2], False),  # a ledger without the crc32 cannot tell
        (longer, mark(right)[:2], True),
        (right, (*mark(right)[:2], None), False),
        (shard_of([one, None, last])[0], mark(right)[:2], True),
    ]:
        put(tmp_path, "s", data)
        seen = scrub(str(tmp_path), [ScrubTask("s", "a", len(data), form, noted=(noted,))])
        assert [f.kind for f in seen.findings] == ["wrong_shard"] * found


def test_bytes_of_no_chunk(tmp_path):
    data, _ = shard_of(chunks_of(np.random.default_rng(5), [30, 30]), gap=b"gap")
    crc = put(tmp_path, "s", data)

    def look(form, **more):
        return scrub(str(tmp_path), [ScrubTask("s", "a", len(data), form, **more)]).findings

    (one,) = look(ShardForm(2, dense=True))
    assert (one.kind, one.severity) == ("index_wrong", "note")
    assert "6 bytes" in one.message
    assert look(ShardForm(2)) == ()  # others may leave gaps
    assert look(ShardForm(2, dense=True), noted=((len(data), crc),)) == ()


def test_a_shard_all_of_which_is_bad_is_one_finding(tmp_path):
    data, entries = shard_of(chunks_of(np.random.default_rng(6), [30, 30, 30]))
    end = sum(entries[-1])
    put(tmp_path, "s", b"\1" * end + data[end:])
    (one,) = scrub(str(tmp_path), [ScrubTask("s", "a", len(data), ShardForm(3))]).findings
    assert (one.kind, one.where.first_byte) == ("chunk_corrupt", None)
    assert "none of the 3 chunks" in one.message


def test_plain_chunks_and_labels(tmp_path):
    data = sealed(b"values")
    put(tmp_path, "ra/c/0", data)
    put(tmp_path, "dec/c/0", data[:-1] + b"\0")
    put(tmp_path, "no/c/0", b"nothing to check")
    put(tmp_path, "short/c/0", b"ab")
    shard, entries = shard_of(chunks_of(np.random.default_rng(7), [9, 9, 9]))
    bad = bytearray(shard)
    bad[entries[1][0]] ^= 4
    put(tmp_path, "s", bytes(bad))
    tasks = [
        ScrubTask("ra/c/0", "ra", len(data)),
        ScrubTask("dec/c/0", "dec", len(data)),
        ScrubTask("no/c/0", "no", 16, sealed=False),
        ScrubTask("short/c/0", "short", 2),
        ScrubTask("gone/c/0", "gone", 2),
        ScrubTask("s", "lc", len(shard), ShardForm(3)),
    ]
    told = []
    seen = scrub(
        str(tmp_path),
        tasks,
        uuid="u",
        label=lambda task, slot: (100 + slot, f"type of {task.key}"),
        progress=lambda *step: told.append(step),
    )
    assert [(f.kind, f.where.key) for f in seen.findings] == [
        ("chunk_corrupt", "dec/c/0"),
        ("chunk_corrupt", "short/c/0"),
        ("chunk_corrupt", "s"),
    ]
    assert seen.findings[2].where.object == 101
    assert seen.findings[2].where.type == "type of s"
    assert [(r.key, r.uuid) for r in seen.reads] == [("ra/c/0", "u"), ("no/c/0", "u")]
    assert told[-1][1] == seen.n_read == 2 * len(data) + 16 + 2 + len(shard)


def test_links_and_pipes_are_not_read(tmp_path):
    outside = tmp_path / "outside"
    put(outside, "c/0", sealed(b"secret"))
    store = tmp_path / "store"
    (store / "a").mkdir(parents=True)
    (store / "b").symlink_to(outside)
    (store / "a/0").symlink_to(outside / "c/0")
    os.mkfifo(store / "a/1")
    keys = ["a/0", "a/1", "b/c/0", "a/../../outside/c/0"]
    seen = scrub(str(store), [ScrubTask(key, "a", 10) for key in keys])
    assert seen.n_read == 0
    assert seen.reads == ()
    assert {f.kind for f in seen.findings} == {"unreadable"}


def test_the_same_for_any_number_of_workers_and_noted_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(scrubbing, "_AT_ONCE", 4)
    rng = np.random.default_rng(8)
    tasks = []
    for k in range(15):
        data = bytearray(shard_of(chunks_of(rng, [50] * 4))[0])
        if k % 5 == 2:
            data[k] ^= 1
        put(tmp_path, f"s{k}", bytes(data))
        tasks.append(ScrubTask(f"s{k}", "a", len(data), ShardForm(4)))
    one, four = (scrub(str(tmp_path), tasks, workers=n) for n in (1, 4))
    assert one.findings == four.findings
    assert len(one.findings) == 3
    noted = []
    scrub(str(tmp_path), tasks, note=lambda reads: noted.append([r.key for r in reads]))
    assert [len(part) for part in noted] == [4, 4, 4]
    assert [key for part in noted for key in part] == [r.key for r in one.reads]


def test_what_was_read_before_an_interrupt_is_noted(tmp_path):
    data, _ = shard_of(chunks_of(np.random.default_rng(9), [50] * 4))
    tasks = []
    for k in range(6):
        put(tmp_path, f"s{k}", data)
        tasks.append(ScrubTask(f"s{k}", "a", len(data), ShardForm(4)))
    noted = []

    def stop(reads):
        noted.extend(reads)

    def progress(label, done, total):
        if done > 3 * len(data):
            msg = "enough"
            raise KeyboardInterrupt(msg)

    with pytest.raises(KeyboardInterrupt, match="enough"):
        scrub(str(tmp_path), tasks, workers=1, note=stop, progress=progress)
    assert 1 <= len(noted) <= 3


def test_a_sample_goes_round(tmp_path):
    tasks = [ScrubTask(f"k{n}", "a", 1000 + n) for n in range(40)]
    last = {}
    seen = []
    for turn in range(20):
        part = choose(tasks, 0.05, seed=3, last=last)
        assert 0.05 * 40_000 <= sum(t.size for t in part) < 0.1 * 42_000
        assert part == choose(tasks, 0.05, seed=3, last=last)
        seen += [t.key for t in part]
        last |= {t.key: turn + 1 for t in part}
    assert set(seen) == {t.key for t in tasks}
    one, other = (choose(tasks, 0.05, seed=s, last={}) for s in (1, 2))
    assert one != other
    assert choose(tasks, 1.0, seed=0, last=last) == tasks
    assert choose([], 0.5, seed=0, last={}) == []
    newest = {t.key: 9 for t in tasks} | {"k7": 2}
    assert [t.key for t in choose(tasks, 0.001, seed=5, last=newest)] == ["k7"]


@pytest.mark.parametrize("fraction", [0, -1, 1.5, float("nan")])
def test_a_sample_that_is_none(fraction):
    with pytest.raises(UsageError, match="a part above 0"):
        choose([], fraction, seed=0, last={})


def test_memory_does_not_grow_with_the_file(tmp_path):
    data, _ = shard_of([sealed(bytes(1_000_000))] * 20)
    put(tmp_path, "s", data)
    size = len(data)
    del data
    tasks = [ScrubTask("s", "a", size, ShardForm(20))] * 4
    tracemalloc.start()
    seen = scrub(str(tmp_path), tasks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seen.n_read == 4 * size > 80_000_000
    assert peak < 8_000_000
