"""The ledger, judged: what it notes of shards, which lines are gone, and who is alive."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from small_cube import begin_cube, make_cube, told, write_shards

from idfzarr.care.ledger_check import (
    Noted,
    ledger_findings,
    noted_files,
    partial_in_ledger,
    read_ledgers,
)
from idfzarr.care.read_only import ReadOnlyPlace
from idfzarr.care.writers import Writers, writers_at_work
from idfzarr.store.ledger import Ledger, LedgerState, Record
from idfzarr.store.place import place_of

KEY = "lightcurves/c/0/0/0/0"
HERE = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]


def records(*told_of, writer="vm-1-00000000", time_ns=10):
    return tuple(
        Record(kind, "u", writer, n, time_ns + n, {"key": KEY} | fields)
        for n, (kind, fields) in enumerate(told_of)
    )


def mark(size, crc, other=None):
    return {"size": size, "crc32c": crc} | ({} if other is None else {"crc32": other})


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ([("intent", mark(5, 7))], Noted(((5, 7, None),))),
        ([("intent", mark(5, 7)), ("done", mark(5, 7, 3))], Noted(((5, 7, 3),), is_done=True)),
        (
            [("done", mark(5, 7)), ("intent", mark(6, 8))],
            Noted(((5, 7, None), (6, 8, None)), is_done=True),
        ),
        (
            [("done", mark(5, 7)), ("intent", mark(6, 8)), ("done", mark(6, 8))],
            Noted(((6, 8, None),), is_done=True),
        ),
        ([("done", mark(5, 7)), ("removed", {"reason": "cleaned"})], Noted()),
        ([("done", {"size": "5"})], None),
    ],
)
def test_what_is_noted_of_a_shard(lines, wanted):
    assert noted_files(LedgerState("x", records(*lines))).get(KEY) == wanted


# ------------------------------------------------------------------ lines


@pytest.fixture
def store(tmp_path):
    make_cube(tmp_path / "f.zarr")
    return tmp_path / "f.zarr"


def ledger_file(store):
    (path,) = store.with_name("f.zarr.ledger").glob("*.jsonl")
    return path


def uuid_of(store):
    return json.loads((store / "zarr.json").read_bytes())["attributes"]["idfzarr"]["uuid"]


def findings(store, writers=None, uuid=None):
    ledgers = read_ledgers(ReadOnlyPlace(place_of(store)))
    uuid = uuid or uuid_of(store)
    return list(ledger_findings(ledgers, ledgers.of_store(uuid), writers or Writers(), uuid=uuid))


def test_a_whole_ledger_is_no_finding(store):
    assert findings(store) == []
    ledgers = read_ledgers(ReadOnlyPlace(place_of(store)))
    assert len(ledgers.of_store(uuid_of(store)).done) == 3


def test_a_flipped_bit_is_told_with_its_line(store):
    path = ledger_file(store)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"size"', b'"sizE"')
    path.write_bytes(b"".join(lines))
    (one,) = findings(store)
    assert (one.kind, one.where.key, one.where.beside) == ("ledger_damaged", path.name, "ledger")
    assert "line 4: it does not match its crc32c" in one.message


@pytest.mark.parametrize("gone", [1, 2])
def test_lines_that_are_gone_are_missed(store, gone):
    path = ledger_file(store)
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[2 : 2 + gone]
    path.write_bytes(b"".join(lines))
    (one,) = findings(store)
    assert one.kind == "ledger_damaged"
    assert one.message.startswith(f"{gone} lines of {path.name} are gone")


def test_lines_that_a_repair_took_out_are_not_missed(store):
    path = ledger_file(store)
    lines = path.read_bytes().splitlines(keepends=True)
    del lines[2]
    path.write_bytes(b"".join(lines))
    Ledger(store, uuid_of(store)).append("note", damaged=path.name, lines=[], gone=1)
    assert findings(store) == []


def test_the_last_line_of_a_living_writer_may_be_under_way(store):
    path = ledger_file(store)
    path.write_bytes(path.read_bytes() + b'{"kind":"int')
    assert told(findings(store)) == [("ledger_damaged", path.name)]
    assert findings(store, Writers((path.stem,), 0)) == []


def test_a_ledger_that_is_not_there_or_anothers(store):
    (one,) = findings(store, uuid="another")
    assert (one.kind, one.severity, one.where.beside) == ("ledger_absent", "note", "")
    assert "not of this one" in one.message
    shutil.rmtree(store.with_name("f.zarr.ledger"))
    (one,) = findings(store)
    assert (one.kind, one.severity) == ("ledger_absent", "note")


def test_links_in_the_ledger_are_not_followed(store, tmp_path):
    path = ledger_file(store)
    path.rename(tmp_path / "elsewhere.jsonl")
    path.symlink_to(tmp_path / "elsewhere.jsonl")
    assert told(findings(store)) == [("ledger_absent", ""), ("symlink", path.name)]


def test_half_written_files_of_the_ledger(store):
    folder = store.with_name("f.zarr.ledger")
    (folder / "a.jsonl.77.partial").write_bytes(b"{")
    ledgers = read_ledgers(ReadOnlyPlace(place_of(store)))
    assert [seen.key for seen in partial_in_ledger(ledgers)] == ["a.jsonl.77.partial"]
    assert ledgers.state.damaged == ()


# ------------------------------------------------------------------ who is alive


def line_of(pid, *, kind="intent", host=HERE, ago=1.0):
    then = int((time.time() - ago) * 1e9)
    return Record(kind, "u", f"{host}-{pid}-0123abcd", 0, then, {})


def at_work(*lines, settled=False):
    return writers_at_work(lines, settled=settled, grace=60.0)


def test_a_living_process_is_at_work_until_it_has_ended():
    mine = line_of(os.getpid())
    writers = at_work(mine)
    assert writers.names == (mine.writer,)
    assert writers.since_ns == mine.time_ns
    for kind in ("published", "removed", "abandoned"):
        assert not at_work(line_of(os.getpid(), kind=kind))
    assert at_work(line_of(os.getpid(), kind="done"))
    assert not at_work(line_of(os.getpid(), kind="done"), settled=True)


def test_a_dead_process_is_not_at_work_however_young_its_line():
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert not at_work(line_of(int(ended.stdout), ago=0.0))


def test_a_process_that_is_younger_than_the_line_is_another():
    assert not at_work(line_of(os.getpid(), ago=10 * 365 * 86400.0))


def test_a_writer_elsewhere_is_at_work_within_the_grace_period():
    assert at_work(line_of(1, host="elsewhere", ago=30))
    assert not at_work(line_of(1, host="elsewhere", ago=90))
    assert not at_work(line_of(1, kind="published", host="elsewhere", ago=30))
    assert not at_work(Record("intent", "u", "no name of a writer", 0, time.time_ns(), {}))


def test_a_build_in_this_process_is_live(tmp_path):
    writer = begin_cube(tmp_path / "f.zarr")
    write_shards(writer, [0])
    state = read_ledgers(ReadOnlyPlace(place_of(tmp_path / "f.zarr"))).of_store(None)
    assert writers_at_work(state.records, settled=False, grace=1.0)
    writer.publish(complete=False)
    state = read_ledgers(ReadOnlyPlace(place_of(tmp_path / "f.zarr"))).of_store(None)
    assert not writers_at_work(state.records, settled=True, grace=1.0)
