"""The quarantine: nothing is lost on the way in, nothing overwritten on the way back."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from idfzarr.care import quarantine
from idfzarr.care.quarantine import Quarantine, list_batches, purge, restore
from idfzarr.errors import MetadataCorrupt, StoreExists, UnknownName, UsageError
from idfzarr.store.checksum import crc32c

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = {"a/c/0": b"first", "a/zarr.json": b"{}", "odd.partial": b""}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "field.zarr"
    for key, data in CONTENT.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    ledger = tmp_path / "field.zarr.ledger"
    ledger.mkdir()
    (ledger / "one.jsonl").write_bytes(b"line\n")
    return folder


def test_what_is_taken_lies_under_its_key_and_comes_back(store, tree):
    before = tree(store.parent)
    batch = Quarantine(store)
    for key in CONTENT:
        batch.take(key, "because")
    batch.take("one.jsonl", "torn", beside="ledger")
    assert tree(store) == {}
    (found,) = list_batches(store)
    assert {(i.beside, i.key, i.size, i.crc32c, i.reason) for i in found.items} == {
        ("", key, len(data), crc32c(data), "because") for key, data in CONTENT.items()
    } | {("ledger", "one.jsonl", 5, crc32c(b"line\n"), "torn")}
    assert found.n_bytes == 12
    kept = tree(store.with_name("field.zarr.quarantine"))
    assert kept[f"{batch.name}/store/a/c/0"] == b"first"
    assert kept[f"{batch.name}/ledger/one.jsonl"] == b"line\n"
    assert len(restore(store)) == 4
    after = tree(store.parent)
    assert after == before
    assert list_batches(store) == ()


def test_a_copy_stays_where_it_was_and_is_not_brought_back(store, tree):
    batch = Quarantine(store)
    batch.keep("a/c/0", "to be mended")
    (store / "a/c/0").write_bytes(b"mended")
    (found,) = list_batches(store)
    assert found.items[0].copied
    assert restore(store) == ()
    assert (store / "a/c/0").read_bytes() == b"mended"
    assert b"first" in tree(store.with_name("field.zarr.quarantine")).values()


def test_nothing_is_brought_back_over_something_else(store):
    batch = Quarantine(store)
    batch.take("a/c/0", "x")
    batch.take("a/zarr.json", "x")
    (store / "a/zarr.json").write_bytes(b"other")
    with pytest.raises(StoreExists, match=r"stands where .* would be put back"):
        restore(store)
    assert not (store / "a/c/0").exists()
    (store / "a/zarr.json").write_bytes(b"{}")
    assert [item.key for item in restore(store, batch.name)] == ["a/c/0"]


def test_a_damaged_file_in_quarantine_is_not_brought_back(store):
    batch = Quarantine(store)
    batch.take("a/c/0", "x")
    kept = store.with_name("field.zarr.quarantine") / batch.name / "store/a/c/0"
    kept.write_bytes(b"fir5t")
    with pytest.raises(MetadataCorrupt, match="is not what was put into quarantine"):
        restore(store)


def test_a_line_that_was_altered_is_not_believed(store):
    batch = Quarantine(store)
    batch.take("a/c/0", "x")
    listed = store.with_name("field.zarr.quarantine") / batch.name / "list.jsonl"
    listed.write_bytes(listed.read_bytes().replace(b"a/c/0", b"a/c/1"))
    (found,) = list_batches(store)
    assert found.items == ()


def test_an_unknown_batch_is_named(store):
    Quarantine(store).take("a/c/0", "x")
    with pytest.raises(UnknownName, match="has no batch 'other'"):
        restore(store, "other")


@pytest.mark.parametrize("beside", ["", "ledger"])
@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "a//c"])
def test_keys_that_lead_outside_are_refused(store, key, beside):
    with pytest.raises(UsageError, match="cannot be a key"):
        Quarantine(store).take(key, "x", beside=beside)


def test_links_are_neither_followed_nor_moved(store, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"theirs")
    (store / "link").symlink_to(outside)
    (store / "one").symlink_to(outside / "file")
    for key in ("link/file", "one"):
        with pytest.raises(UsageError, match="is a link"):
            Quarantine(store).take(key, "x")
    assert (outside / "file").read_bytes() == b"theirs"
    store.with_name("field.zarr.quarantine").symlink_to(outside)
    with pytest.raises(UsageError, match="is a link"):
        Quarantine(store).take("a/c/0", "x")
    assert sorted(path.name for path in outside.iterdir()) == ["file"]
    assert list_batches(store) == ()


def test_another_file_system_takes_a_verified_copy(store, monkeypatch, tree):
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another device")

    monkeypatch.setattr(quarantine.os, "rename", refuse)
    before = tree(store)
    batch = Quarantine(store)
    batch.take("a/c/0", "x")
    assert not (store / "a/c/0").exists()
    kept = tree(store.with_name("field.zarr.quarantine"))
    assert kept[f"{batch.name}/store/a/c/0"] == b"first"
    restore(store)
    assert tree(store) == before


def test_purge_removes_what_is_old_enough_and_nothing_else(store, monkeypatch):
    now = quarantine.time.time()
    monkeypatch.setattr(quarantine.time, "time", lambda: now - 10 * 86400)
    old = Quarantine(store)
    old.take("a/c/0", "x")
    monkeypatch.undo()
    new = Quarantine(store)
    new.take("a/zarr.json", "x")
    assert [batch.name for batch in purge(store, older_than=9)] == [old.name]
    assert [batch.name for batch in list_batches(store)] == [new.name]
    assert purge(store, older_than=1) == ()
    with pytest.raises(UsageError, match="cannot be"):
        purge(store, older_than=-1)
    assert [batch.name for batch in purge(store)] == [new.name]
    assert not store.with_name("field.zarr.quarantine").exists()
