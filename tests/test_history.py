"""The history of scrubs: what was noted is read again, damage is told, nothing is ever raised."""

from __future__ import annotations

import json
import os

import pytest

from idfzarr.care.history import (
    HISTORY,
    ReadWell,
    append_history,
    last_read_well,
    read_history,
)
from idfzarr.store.ledger import Ledger, read_ledger


@pytest.fixture
def store(tmp_path):
    (tmp_path / "f.zarr.ledger").mkdir()
    return tmp_path / "f.zarr"


def history_of(store):
    return store.parent / f"{store.name}.ledger" / HISTORY


READS = [
    ReadWell("lightcurves/c/0/0/0/0", 100, 5, 7, "u"),
    ReadWell("lightcurves/c/1/0/0/0", 101, 6, 8, "u"),
    ReadWell("\u00e9/c/0", 102, 0, 2**32 - 1, "other"),
]


def test_what_is_noted_is_read_again(store):
    assert read_history(store).reads == ()
    assert append_history(store, READS[:2])
    assert append_history(store, READS[2:])
    assert append_history(store, [])
    history = read_history(store)
    assert list(history.reads) == READS
    assert history.damaged == ()
    assert last_read_well(store) == {r.key: r.time_ns for r in READS}
    assert last_read_well(store, "other") == {"\u00e9/c/0": 102}


def test_the_newest_counts_whatever_the_order(store):
    key = "a/c/0"
    append_history(store, [ReadWell(key, t, 1, t) for t in (5, 9, 7)])
    assert last_read_well(store) == {key: 9}
    assert read_history(store).last()[key].crc32c == 9


def test_it_is_only_appended_to(store):
    append_history(store, READS[:1])
    before = history_of(store).read_bytes()
    append_history(store, READS[1:])
    after = history_of(store).read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == 3


def test_the_ledger_does_not_take_it_for_its_own(store):
    Ledger(store, "u").append("begin", settings="{}")
    before = read_ledger(store)
    append_history(store, READS)
    assert read_ledger(store) == before
    assert len(before.records) == 1


def test_every_flipped_bit_of_a_line_is_noticed(store):
    append_history(store, READS)
    path = history_of(store)
    data = path.read_bytes()
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 1 << (at % 8)
        path.write_bytes(bytes(bad))
        history = read_history(store)
        assert history.damaged, at
        assert len(history.reads) >= 1
        assert set(history.reads) < set(READS)


def test_a_torn_line_costs_no_other(store):
    append_history(store, READS[:2])
    path = history_of(store)
    os.truncate(path, path.stat().st_size - 9)
    assert list(read_history(store).reads) == READS[:1]
    assert "torn" in read_history(store).damaged[0].reason
    assert append_history(store, READS[2:])
    history = read_history(store)
    assert list(history.reads) == [READS[0], READS[2]]
    assert [damage.line for damage in history.damaged] == [2]


@pytest.mark.parametrize(
    "line", [b"x" * 500_000, b"\xff\xfe" * 40, b"[" * 90_000, b"{}", b"\0" * 70_000]
)
def test_noise_is_told_and_read_past(store, line):
    append_history(store, READS[:1])
    path = history_of(store)
    path.write_bytes(path.read_bytes() + line + b"\n")
    append_history(store, READS[1:2])
    history = read_history(store)
    assert list(history.reads) == READS[:2]
    assert [damage.line for damage in history.damaged] == [2]


def test_a_line_with_a_right_checksum_and_nothing_in_it(store):
    from idfzarr.store.checksum import crc32c

    body = json.dumps({"key": "a"}, separators=(",", ":"))
    line = f'{body[:-1]},"line_crc32c":"{crc32c(body.encode()):08x}"}}\n'
    history_of(store).write_text(line)
    assert "no line of a history" in read_history(store).damaged[0].reason


def test_without_a_folder_or_the_right_to_write(store, tmp_path):
    assert not append_history(tmp_path / "none.zarr", READS)
    assert not (tmp_path / "none.zarr.ledger").exists()
    assert not append_history("s3://bucket/none.zarr", READS)
    history_of(store).mkdir()
    assert not append_history(store, READS)


def test_a_link_is_neither_written_nor_read(store, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(READS[0].line())
    history_of(store).symlink_to(outside)
    assert not append_history(store, READS)
    assert outside.read_bytes() == READS[0].line()
    history = read_history(store)
    assert history.reads == ()
    assert "cannot be read" in history.damaged[0].reason
