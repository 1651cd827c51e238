from __future__ import annotations

import json
import multiprocessing
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idfzarr.errors import StorageFull, UsageError
from idfzarr.store.checksum import crc32c
from idfzarr.store.ledger import Ledger, Record, read_ledger

fields = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(
        lambda k: k not in {"kind", "uuid", "writer", "n", "t", "line_crc32c"}
    ),
    st.one_of(st.integers(), st.text(max_size=20), st.lists(st.booleans(), max_size=3), st.none()),
    max_size=4,
)


def files(path):
    return sorted((path.parent / (path.name + ".ledger")).iterdir())


@given(st.lists(fields, max_size=5))
def test_what_is_appended_is_read_in_order(tmp_path_factory, notes):
    store = tmp_path_factory.mktemp("l") / "a.zarr"
    ledger = Ledger(store, "u1")
    written = [ledger.append("note", **note) for note in notes]
    state = read_ledger(store)
    assert list(state.records) == written
    assert [dict(r.fields) for r in state.records] == notes
    assert state.damaged == ()


def test_every_line_is_json_with_its_own_crc(tmp_path):
    ledger = Ledger(tmp_path / "a.zarr", "u1")
    ledger.append("staged", batch=3, crc32c=17)
    ledger.append("note", text='quo"te\n')
    (file,) = files(tmp_path / "a.zarr")
    lines = file.read_bytes().splitlines()
    assert len(lines) == 2
    for line in lines:
        document = json.loads(line)
        stated = document.pop("line_crc32c")
        plain = json.dumps(document, sort_keys=True, separators=(",", ":"))
        assert f"{crc32c(plain.encode()):08x}" == stated
        assert document["uuid"] == "u1"


def test_no_flipped_bit_is_believed(tmp_path):
    store = tmp_path / "a.zarr"
    ledger = Ledger(store, "u1")
    records = [ledger.append("done", key=f"k{n}", size=n) for n in range(3)]
    (file,) = files(store)
    good = file.read_bytes()
    for byte in range(len(good)):
        bad = bytearray(good)
        bad[byte] ^= 1 << (byte % 8)
        file.write_bytes(bad)
        state = read_ledger(store)
        assert all(r in records for r in state.records)
        assert len(state.records) >= 1
        assert state.damaged or set(map(id, state.records)) == set() or len(state.records) == 3
        if len(state.records) < 3:
            assert state.damaged
            assert file.name in str(state.damaged[0])


def test_a_damaged_line_is_reported_by_file_and_number(tmp_path):
    store = tmp_path / "a.zarr"
    ledger = Ledger(store, "u1")
    for n in range(3):
        ledger.append("done", key=f"k{n}", size=n)
    (file,) = files(store)
    lines = file.read_bytes().split(b"\n")
    lines[1] = lines[1].replace(b'"size":1', b'"size":9')
    file.write_bytes(b"\n".join(lines))
    state = read_ledger(store)
    assert sorted(state.done) == ["k0", "k2"]
    (damage,) = state.damaged
    assert (damage.file, damage.line) == (str(file), 2)
    assert str(damage).endswith("line 2: it does not match its crc32c")


def test_a_torn_last_line_counts_as_not_done_at_any_length(tmp_path):
    store = tmp_path / "a.zarr"
    ledger = Ledger(store, "u1")
    ledger.append("done", key="k0", size=0)
    (file,) = files(store)
    first = file.read_bytes()
    ledger.append("done", key="k1", size=1)
    whole = file.read_bytes()
    for length in range(len(first) + 1, len(whole) - 1):
        file.write_bytes(whole[:length])
        state = read_ledger(store)
        assert sorted(state.done) == ["k0"]
        (damage,) = state.damaged
        assert damage.line == 2
        assert "torn" in damage.reason
    file.write_bytes(whole[:-1])  # only the end of the line is missing: its crc vouches for it
    assert sorted(read_ledger(store).done) == ["k0", "k1"]


def test_lines_that_are_no_records_do_no_harm(tmp_path):
    store = tmp_path / "a.zarr"
    Ledger(store, "u1").append("note")
    folder = tmp_path / "a.zarr.ledger"
    body = b'{"kind":"done"}'
    forged = body[:-1] + b',"line_crc32c":"%08x"}' % crc32c(body)
    (folder / "x.jsonl").write_bytes(
        b"\xff\xfe\n[]\n{}\n" + forged + b"\n" + b"[" * 100_000 + b"\n"
    )
    (folder / "readme.txt").write_text("not a ledger")
    state = read_ledger(store)
    assert len(state.records) == 1
    assert [d.line for d in state.damaged] == [1, 2, 3, 4, 5]


def test_the_newest_of_every_shard_counts(tmp_path):
    ledger = Ledger(tmp_path / "a.zarr", "u1")
    for size in (1, 2):
        ledger.append("intent", key="k", size=size)
        ledger.append("done", key="k", size=size)
    ledger.append("intent", key="k", size=3)
    state = read_ledger(tmp_path / "a.zarr")
    assert state.done["k"].fields["size"] == 2
    assert state.intents["k"].fields["size"] == 3
    assert state.last("done").fields["size"] == 2
    assert state.last("published") is None


def test_a_ledger_of_another_store_is_told_apart(tmp_path):
    store = tmp_path / "a.zarr"
    Ledger(store, "u1").append("begin", created="x")
    Ledger(store, "u1").append("done", key="k")
    Ledger(store, "u1").append("published")
    assert read_ledger(store).is_published
    Ledger(store, "u2").append("begin", created="y")
    state = read_ledger(store)
    assert state.foreign_uuids("u1") == {"u2"}
    assert state.begun.uuid == "u2"
    assert not state.is_published
    assert state.since_begin().done == {}
    assert sorted(state.for_store("u1").done) == ["k"]


def test_threads_share_a_file_and_lose_no_line(tmp_path):
    ledger = Ledger(tmp_path / "a.zarr", "u1")

    def append(n):
        for i in range(20):
            ledger.append("note", n=None) if False else ledger.append("note", who=n, i=i)

    threads = [threading.Thread(target=append, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = read_ledger(tmp_path / "a.zarr")
    assert sorted((r.fields["who"], r.fields["i"]) for r in state.records) == [
        (n, i) for n in range(4) for i in range(20)
    ]
    assert sorted(r.number for r in state.records) == list(range(80))
    assert len(files(tmp_path / "a.zarr")) == 1


def append_one(store):
    return Ledger(store, "u1").append("note", pid=os.getpid()).writer


def test_every_process_has_a_file_of_its_own(tmp_path):
    store = tmp_path / "a.zarr"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        writers = pool.map(append_one, [store] * 4)
    assert len(set(writers)) == 4
    assert len(files(store)) == 4
    assert len(read_ledger(store).records) == 4


def test_a_full_disk_tears_one_line_and_not_the_next(tmp_path, monkeypatch):
    store = tmp_path / "a.zarr"
    ledger = Ledger(store, "u1")
    ledger.append("note", a=1)
    plain = os.write

    def full(handle, data):
        plain(handle, bytes(data)[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StorageFull, match=r"no room for \d+ bytes of .*jsonl"):
        ledger.append("note", a=2)
    monkeypatch.undo()
    ledger.append("note", a=3)
    state = read_ledger(store)
    assert [r.fields["a"] for r in state.records] == [1, 3]
    assert [d.line for d in state.damaged] == [2]


def test_kinds_and_names_of_its_own_are_refused(tmp_path):
    ledger = Ledger(tmp_path / "a.zarr", "u1")
    with pytest.raises(UsageError, match="takes no record 'finished'"):
        ledger.append("finished")
    with pytest.raises(UsageError, match="are its own"):
        ledger.append("note", uuid="x")
    assert not (tmp_path / "a.zarr.ledger").exists()


def test_there_may_be_no_ledger(tmp_path):
    state = read_ledger(tmp_path / "a.zarr")
    assert state.records == ()
    assert state.begun is None
    assert not state.is_published


def test_object_storage_gets_a_line_per_object():
    ledger = Ledger("memory://ledgers/a.zarr", "u1")
    written = [ledger.append("note", i=i) for i in range(12)]
    assert list(read_ledger("memory://ledgers/a.zarr").records) == written


def test_a_line_is_what_its_record_says():
    record = Record("note", "u", "w", 3, 4, {"a": [1, "ü"]})
    document = json.loads(record.line())
    assert (document["a"], document["n"], document["t"]) == ([1, "ü"], 3, 4)
