"""The inventory of a cube: what it says, in which order, and what it never does."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from small_cube import (
    TYPES,
    begin_cube,
    change_json,
    copy_to,
    flip,
    make_cube,
    told,
    write_shards,
)
from zarr.codecs import ZstdCodec

import idfzarr
from idfzarr.care.finding import KINDS, LEVELS
from idfzarr.care.history import read_history
from idfzarr.care.inventory import inventory
from idfzarr.errors import ForeignStore, StoreMissing, UnfinishedStore, UsageError
from idfzarr.store.append import begin_append
from idfzarr.store.place import place_of
from idfzarr.store.relayout import relayout

SHARD = "lightcurves/c/1/0/0/0"


@pytest.fixture
def store(tmp_path):
    make_cube(tmp_path / "f.zarr")
    return tmp_path / "f.zarr"


def old(path):
    then = path.stat().st_mtime - 3 * 86400
    os.utime(path, (then, then))


# ------------------------------------------------------------------ a healthy store


@pytest.mark.parametrize("level", LEVELS)
def test_a_healthy_store(store, level):
    seen = inventory(store, level=level)
    assert seen.findings == ()
    assert seen.ok
    assert seen.exit_code == 0
    assert (seen.store_kind, seen.level, seen.live, seen.sampled) == ("cube", level, False, None)
    assert seen.uuid == idfzarr.Cube(store).uuid
    assert seen.generation == 0
    files = [p for p in store.rglob("*") if p.is_file()]
    assert seen.n_files == len(files)
    assert seen.n_bytes == sum(p.stat().st_size for p in files)
    assert sum(group.n_files for group in seen.groups) == seen.n_files
    assert sum(group.n_bytes for group in seen.groups) == seen.n_bytes
    assert seen.groups[0].name == "lightcurves"
    assert seen.groups[0].n_expected_chunks == seen.groups[0].n_present_chunks == 33
    assert seen.groups[0].n_logical == 11 * 3 * 3 * 5 * 4
    if level in {"scrub", "full"}:
        assert seen.n_read > seen.n_bytes / 2


def test_completeness_says_what_is_there(store):
    (store / SHARD).unlink()
    seen = inventory(store)
    there = seen.completeness
    assert there["shard"].tolist() == [1.0, 0.0, 1.0]
    assert there["shard_type"].shape == (3, 3)
    np.testing.assert_allclose(there["type"], 7 / 11)
    assert there["type_name"].tolist() == list(TYPES)
    assert there["aor"].tolist() == [[True, True]] * 5
    assert there["channel_name"].tolist() == ["ch1", "ch2"]
    assert (seen.groups[0].n_expected_chunks, seen.groups[0].n_present_chunks) == (33, 21)
    assert seen.groups[0].states == {"corrupt": 1}


def test_the_package_offers_it(store):
    assert idfzarr.inventory(store).ok


# ------------------------------------------------------------------ options and no stores


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": "scrup"}, "there is no level 'scrup'"),
        ({"sample": 0}, "a sample of 0 is none"),
        ({"sample": 1.5}, "a sample of 1.5 is none"),
        ({"workers": 0}, "0 workers cannot work"),
    ],
)
def test_options_that_are_none(store, options, words):
    with pytest.raises(UsageError, match=words):
        inventory(store, **options)


def test_where_there_is_no_store(tmp_path):
    with pytest.raises(StoreMissing, match=r"there is no store at .*nowhere"):
        inventory(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("x")
    with pytest.raises(ForeignStore, match="is no Zarr store"):
        inventory(tmp_path / "folder")
    idfzarr.store.writer.CubeWriter.begin(tmp_path / "begun.zarr")
    with pytest.raises(UnfinishedStore, match="is not finished"):
        inventory(tmp_path / "begun.zarr")


# ------------------------------------------------------------------ findings


def test_all_is_told_in_one_order_whatever_the_workers(store):
    damage(store)
    wanted = None
    for workers in (1, 2, 7):
        seen = inventory(store, level="scrub", workers=workers)
        wanted = wanted or seen.findings
        assert seen.findings == wanted
    assert told(wanted) == [
        ("chunk_corrupt", "lightcurves/c/0/0/0/0"),
        ("chunk_corrupt", "ra/c/0"),
        ("file_unknown", "notes.txt"),
        ("key_outside", "lightcurves/c/9/0/0/0"),
        ("metadata_corrupt", "dec/zarr.json"),
        ("partial_file", "type/c/0.1.partial"),
        ("shard_missing", SHARD),
        ("shard_torn", "lightcurves/c/2/0/0/0"),
    ]
    assert list(wanted) == sorted(wanted, key=lambda one: one.sort_key())
    (chunk,) = [one for one in wanted if one.where.key == "lightcurves/c/0/0/0/0"]
    assert (chunk.where.object, chunk.where.type) == (1, TYPES[0])
    assert chunk.where.first_byte <= 30 < chunk.where.first_byte + chunk.where.n_bytes
    assert seen.exit_code == 1
    assert (len(seen.errors), len(seen.warnings), len(seen.notes)) == (5, 3, 0)
    assert seen.of("shard_torn") == tuple(o for o in wanted if o.kind == "shard_torn")


def damage(store):
    flip(store / "lightcurves/c/0/0/0/0", 30)
    (store / SHARD).unlink()
    os.truncate(store / "lightcurves/c/2/0/0/0", 99)
    (store / "lightcurves/c/9/0/0").mkdir(parents=True)
    (store / "lightcurves/c/9/0/0/0").write_bytes(b"x")
    (store / "notes.txt").write_text("hello")
    flip(store / "ra/c/0", 5)
    (store / "dec/zarr.json").write_bytes(b"{")
    (store / "type/c/0.1.partial").write_bytes(b"x")
    old(store / "type/c/0.1.partial")


def test_every_level_finds_what_the_ones_before_it_find(store):
    damage(store)
    before = set()
    for level in LEVELS:
        kinds = {(one.kind, one.where.key) for one in inventory(store, level=level).findings}
        assert before <= kinds
        assert all(
            LEVELS.index(KINDS[kind].level) <= LEVELS.index(level) or kind == "chunk_corrupt"
            for kind, _ in kinds
        )
        before = kinds


def test_a_torn_shard_is_told_apart_from_another_one(store):
    shard = store / SHARD
    data = shard.read_bytes()
    other = make_cube(store.parent / "other.zarr", aors=6).place.read(SHARD)
    shard.write_bytes(other)
    assert told(inventory(store, level="listing").findings) == [("shard_torn", SHARD)]
    assert told(inventory(store).findings) == [("wrong_shard", SHARD)]
    shard.write_bytes(data + b"more")
    assert told(inventory(store).findings) == [("shard_torn", SHARD)]
    flip(shard, -9)
    shard.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    assert told(inventory(store).findings) == [("index_corrupt", SHARD)]


def test_findings_of_a_kind_are_bounded(store, monkeypatch):
    monkeypatch.setattr("idfzarr.care.inventory._MOST_OF_A_KIND", 20)
    for number in range(50):
        (store / f"stranger{number}").touch()
    found = inventory(store).findings
    assert len(found) == 21
    assert "30 more findings of this kind" in found[0].message


def test_hostile_names_are_told_in_words_that_can_be_seen(store):
    (store / "\x1b[2J\nname").touch()
    (one,) = inventory(store).findings
    assert one.where.key == "\x1b[2J\nname"
    assert one.message.isprintable()


# ------------------------------------------------------------------ roots and ledgers


@pytest.mark.parametrize("data", [None, b"", b"{}", b"[", b"\0" * 99])
@pytest.mark.parametrize("copies", [True, False], ids=["with copy", "without copy"])
def test_a_damaged_root_is_one_finding_and_the_rest_is_looked_at(store, data, copies):
    uuid = inventory(store).uuid
    if data is None:
        (store / "zarr.json").unlink()
    else:
        (store / "zarr.json").write_bytes(data)
    if not copies:
        for path in store.with_name("f.zarr.ledger").glob("root-*.json"):
            path.unlink()
    seen = inventory(store, level="full")
    assert told(seen.findings) == [("metadata_corrupt", "zarr.json")]
    assert (seen.store_kind, seen.uuid) == ("cube", uuid)
    flip(store / SHARD, 40)
    assert told(inventory(store, level="scrub").findings) == [
        ("chunk_corrupt", SHARD),
        ("metadata_corrupt", "zarr.json"),
    ]


def test_a_flipped_bit_of_the_root_is_found(store):
    path = store / "zarr.json"
    data = path.read_bytes()
    rng = random.Random(2)
    begin, end = data.index(b'"consolidated_metadata"'), len(data)
    for _ in range(40):
        at = rng.randrange(begin, end)
        if data[at : at + 1].isspace():
            continue
        flip(path, at, rng.randrange(7))
        seen = inventory(store, level="listing")
        same = path.read_bytes() == data
        assert same or told(seen.findings) == [("metadata_corrupt", "zarr.json")]
        path.write_bytes(data)


def test_attributes_of_a_user_are_no_fault(store):
    change_json(store / "zarr.json", lambda d: d["attributes"].update(note="mine", me=[None]))
    assert inventory(store, level="full").findings == ()


def test_a_later_format_is_said_and_the_rest_is_looked_at_as_plain(store):
    shutil.rmtree(store.with_name("f.zarr.ledger"))
    change_json(store / "zarr.json", lambda d: d["attributes"]["idfzarr"].update(format=2))
    seen = inventory(store, level="full")
    assert told(seen.findings) == [("format_version", "zarr.json")]
    assert seen.n_files > 40


def test_a_store_without_a_ledger_is_judged_by_itself(store):
    shutil.rmtree(store.with_name("f.zarr.ledger"))
    seen = inventory(store, level="full")
    assert [(o.kind, o.severity) for o in seen.findings] == [("ledger_absent", "note")]
    assert seen.ok
    (store / SHARD).unlink()
    os.truncate(store / "lightcurves/c/0/0/0/0", 99)
    assert told(inventory(store, level="listing").findings) == [
        ("ledger_absent", ""),
        ("shard_pending", SHARD),
        ("shard_torn", "lightcurves/c/0/0/0/0"),
    ]


def test_a_ledger_of_another_store_is_not_believed(store, tmp_path):
    make_cube(tmp_path / "b.zarr", aors=7)
    shutil.rmtree(store.with_name("f.zarr.ledger"))
    (tmp_path / "b.zarr.ledger").rename(tmp_path / "f.zarr.ledger")
    (one,) = inventory(store).findings
    assert (one.kind, one.severity) == ("ledger_absent", "note")


def test_a_shard_after_its_intent_is_under_way(store):
    records = idfzarr.store.ledger.read_ledger(store).records
    done = next(r for r in records if r.kind == "done" and r.fields["key"] == SHARD)
    (path,) = store.with_name("f.zarr.ledger").glob("*.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [r.line() for r in records if r is not done]
    assert len(kept) == len(lines) - 1
    numbered = [
        type(r)(r.kind, r.uuid, r.writer, n, r.time_ns, r.fields).line()
        for n, r in enumerate(r for r in records if r is not done)
    ]
    path.write_bytes(b"".join(numbered))
    assert inventory(store, level="scrub").findings == ()
    (store / SHARD).unlink()
    assert told(inventory(store).findings) == [("shard_pending", SHARD)]
    os.truncate(store / "lightcurves/c/0/0/0/0", 500)
    assert "shard_torn" in {one.kind for one in inventory(store).findings}


# ------------------------------------------------------------------ builds and changes


def test_a_build_under_way_is_no_fault(tmp_path):
    writer = begin_cube(tmp_path / "f.zarr")
    write_shards(writer, [0, 2])
    (tmp_path / "f.zarr/staging").mkdir()
    (tmp_path / "f.zarr/staging/x").write_bytes(b"1")
    (tmp_path / "f.zarr/later/c").mkdir(parents=True)
    (tmp_path / "f.zarr/later/c/0").write_bytes(b"1")
    for level in LEVELS:
        seen = inventory(tmp_path / "f.zarr", level=level)
        assert seen.ok
        assert seen.live
        assert told(seen.findings) == [("shard_pending", SHARD)]
    assert seen.completeness["shard"].tolist() == [1.0, 0.0, 1.0]


def test_a_created_cube_is_pending(tmp_path):
    cube = idfzarr.create(
        tmp_path / "f.zarr",
        objects={"object_id": np.arange(6)},
        types=TYPES[:2],
        aors={"aor": np.arange(3), "mjd": np.arange(3.0)},
        shard_objects=3,
    )
    values = np.ones((3, 2, 3), dtype=np.float32)
    cube.write_block(0, flux=values, flux_err=values, flag=np.zeros_like(values))
    seen = inventory(tmp_path / "f.zarr", level="full")
    assert told(seen.findings) == [("shard_pending", SHARD)]
    assert seen.ok


def begin_more(store):
    aors = {"aor": np.array([900]), "mjd": np.array([53900.0])}
    append = begin_append(store, aors=aors)
    layout = append.schema.layout
    block = np.ones((1, layout.n_objects, layout.n_types, 3), dtype=np.float32)
    block[..., 2] = 0
    append.write_staging(0, block)
    append.write_shard(0, append.assemble(0))
    return append


def test_an_append_under_way_is_no_fault_and_one_that_was_stopped_is_one(store, monkeypatch):
    append = begin_more(store)
    assert inventory(store, level="full").findings == ()
    assert inventory(store).live
    monkeypatch.setattr("idfzarr.care.writers._begin_of", lambda pid, now: None)
    (one,) = inventory(store, level="full").findings
    assert (one.kind, one.severity, one.where.key) == ("update_unfinished", "warning", "staging")
    monkeypatch.undo()
    for shard in (1, 2):
        append.write_shard(shard, append.assemble(shard))
    append.publish()
    seen = inventory(store, level="full")
    assert (seen.findings, seen.generation, seen.live) == ((), 1, False)


def test_staging_and_half_written_files_are_left_in_peace_for_a_while(store):
    for key in ("staging/c/0/0/0/0", "ra/c/0.7.partial"):
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_bytes(b"12")
    assert inventory(store).findings == ()
    found = inventory(store, grace=0.0).findings
    assert told(found) == [("partial_file", "ra/c/0.7.partial"), ("staging_left", "staging")]
    assert {one.sure for one in found} == {"likely"}


def test_a_half_written_file_that_is_locked_is_somebodys(store):
    import fcntl

    path = store / "ra/c/0.7.partial"
    path.write_bytes(b"12")
    old(path)
    assert told(inventory(store).findings) == [("partial_file", "ra/c/0.7.partial")]
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if f":{path.stat().st_ino} " not in Path("/proc/locks").read_text():
            pytest.skip("the locks of this process are not in /proc/locks here")
        assert inventory(store).findings == ()


def test_a_store_that_is_written_while_it_is_looked_at(store):
    writer = idfzarr.store.writer.CubeWriter.begin(store)
    layout = idfzarr.Cube(store).schema
    writer = type(writer)(writer.place, writer.uuid, writer.created, writer.settings_json, layout)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            write_shards(writer)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(25):
            seen = inventory(store, level="scrub")
            assert seen.ok, [str(one) for one in seen.findings]
    finally:
        stop.set()
        thread.join()


def test_a_store_that_is_exchanged_while_it_is_looked_at(store, monkeypatch):
    from idfzarr.care import cube_shards as module

    plain, calls = module.list_store, []

    def list_store(place, nodes, **more):
        calls.append(1)
        if len(calls) == 1:
            relayout(store, capacity=64)
        return plain(place, nodes, **more)

    monkeypatch.setattr(module, "list_store", list_store)
    seen = inventory(store, level="full")
    assert (seen.findings, seen.generation, len(calls)) == ((), 1, 2)


def test_a_store_that_was_moved_aside(store):
    relayout(store, capacity=64)
    store.rename(store.with_name("f.zarr.aside"))
    seen = inventory(store)
    (one,) = seen.findings
    assert (one.kind, one.severity) == ("update_unfinished", "error")
    assert "f.zarr.aside" in one.message
    assert seen.exit_code == 1


# ------------------------------------------------------------------ what is never done


def test_files_are_opened_for_reading_only_and_shards_not_at_all_at_listing(store, monkeypatch):
    damage(store)
    opened = []
    plain = os.open

    def watched(path, flags, *args, **more):
        opened.append((os.fspath(path), flags))
        return plain(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", watched)
    for level in LEVELS:
        opened.clear()
        inventory(store, level=level)
        assert len(opened) > 20
        assert not [o for o in opened if o[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)]
        files = [path for path, flags in opened if not flags & os.O_DIRECTORY]
        read = [path for path in files if path == "0" or path.endswith("/0")]
        assert bool(read) == (level != "listing")


def test_the_history_is_noted_only_if_asked(store):
    ledger = store.with_name("f.zarr.ledger")
    before = sorted(ledger.iterdir())
    inventory(store, level="scrub")
    assert sorted(ledger.iterdir()) == before
    inventory(store, level="scrub", history=True)
    assert {read.key for read in read_history(store).reads} >= {SHARD, "ra/c/0"}
    assert inventory(store, level="full").findings == ()


def test_a_sample_goes_on_where_the_last_one_ended(store):
    keys = [f"lightcurves/c/{k}/0/0/0" for k in range(3)]
    for key in keys:
        flip(store / key, 40)
    found = set()
    rounds = 0
    while len(found) < 3 and rounds < 30:
        seen = inventory(store, level="scrub", sample=0.1, seed=rounds, history=True)
        assert seen.sampled == 0.1
        assert len(seen.of("chunk_corrupt")) < 3 or rounds == 0
        found |= {one.where.key for one in seen.of("chunk_corrupt")}
        rounds += 1
    assert found == set(keys)


# ------------------------------------------------------------------ elsewhere


def test_object_storage_is_judged_alike(store, tmp_path):
    os.truncate(store / "lightcurves/c/2/0/0/0", 99)
    (store / SHARD).unlink()
    flip(store / "lightcurves/c/0/0/0/0", -8)
    (store / "dec/zarr.json").write_bytes(b"{")
    flip(store / "ra/c/0", 5)
    url = copy_to(store, f"memory://{tmp_path.name}/f.zarr")
    for level in ("listing", "structure"):
        here, there = inventory(store, level=level), inventory(url, level=level)
        assert len(here.findings) >= 2
        assert there.findings == here.findings
        assert (there.n_files, there.n_bytes, there.uuid) == (
            here.n_files, here.n_bytes, here.uuid,
        )  # fmt: skip
    assert place_of(url).exists()


def test_other_stores_are_looked_at_as_plain(tmp_path):
    for version, kind in ((2, "zarr2"), (3, "zarr3")):
        path = tmp_path / f"{kind}.zarr"
        group = zarr.open_group(path, mode="w", zarr_format=version)
        packed = numcodecs.Zstd() if version == 2 else ZstdCodec()
        array = group.create_array(
            "a/b", shape=(4, 4), chunks=(2, 2), dtype="f4", compressors=packed
        )
        array[...] = 1
        seen = inventory(path, level="full")
        assert (seen.store_kind, seen.findings, seen.uuid) == (kind, (), None)
        (one,) = seen.groups
        assert (one.n_arrays, one.n_expected_chunks, one.n_present_chunks) == (1, 4, 4)
        chunks = [p for p in (path / "a/b").rglob("*") if p.is_file() and "zarr" not in p.name]
        chunks = [p for p in chunks if not p.name.startswith(".z")]
        assert len(chunks) == 4
        os.truncate(chunks[0], 9)
        assert not inventory(path, level="full").ok


def test_reports_are_written_outside_the_store_only(store, tmp_path):
    seen = inventory(store)
    assert json.loads(seen.to_json(tmp_path / "a.json"))["ok"] is True
    seen.to_csv(tmp_path / "a.csv")
    seen.to_html(tmp_path / "a.html")
    assert all((tmp_path / f"a.{end}").stat().st_size for end in ("json", "csv", "html"))
    assert "healthy" in str(seen)
    assert seen.to_dict()["exit_code"] == 0
    assert seen.to_dataset().sizes["finding"] == 0
    with pytest.raises(UsageError, match="only reads"):
        seen.to_csv(store / "a.csv")
