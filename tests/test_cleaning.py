"""Cleaning: the plan is what is done, and what was taken can be built again or brought back."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from idfzarr.care.cleaning import plan_cleaning
from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.quarantine import list_batches, restore
from idfzarr.errors import UsageError
from idfzarr.store.ledger import read_ledger

if TYPE_CHECKING:
    from pathlib import Path

SHARD = "lightcurves/c/1/0/0/0"


@dataclass(frozen=True)
class Seen:
    """What cleaning reads of an inventory."""

    url: str
    findings: tuple[Finding, ...]
    uuid: str | None = None


@pytest.fixture
def store(tiny_store, tmp_path) -> Path:
    copied = tmp_path / "field.zarr"
    shutil.copytree(tiny_store.store, copied)
    shutil.copytree(tiny_store.store.with_name("field.zarr.ledger"), f"{copied}.ledger")
    (copied / f"{SHARD}.ab.partial").write_bytes(b"half")
    (copied / "staging/c/0").mkdir(parents=True)
    (copied / "staging/zarr.json").write_bytes(b"{}")
    (copied / "staging/c/0/0").write_bytes(b"staged")
    return copied


def findings() -> tuple[Finding, ...]:
    return (
        finding("partial_file", Where(key=f"{SHARD}.ab.partial", n_bytes=4), "half written"),
        finding("staging_left", Where(array="staging", key="staging"), "staging of nobody"),
        finding("index_corrupt", Where(array="lightcurves", key=SHARD), "index"),
        finding("chunk_corrupt", Where(array="lightcurves", key=SHARD, object=3), "chunk"),
        finding("chunk_corrupt", Where(array="ra", key="ra/c/0"), "coordinate"),
        finding("shard_pending", Where(array="lightcurves", key="lightcurves/c/2/0/0/0"), "none"),
        finding("file_unknown", Where(key="odd"), "odd"),
    )


def test_each_kind_takes_its_own_and_leaves_the_rest(store, tree):
    seen = Seen(str(store), findings())
    size = (store / SHARD).stat().st_size
    temporary = plan_cleaning(seen, temporary=True)
    assert [(a.kind, a.key, a.n_bytes) for a in temporary.actions] == [
        ("quarantine", "staging", 8),
        ("quarantine", f"{SHARD}.ab.partial", 4),
    ]
    corrupt = plan_cleaning(seen, corrupt=True)
    assert [(a.key, a.n_bytes) for a in corrupt.actions] == [(SHARD, size)]
    assert "index" in corrupt.actions[0].reason
    assert "chunk" in corrupt.actions[0].reason
    assert any("ra/c/0" in text for text in corrupt.lost)
    assert plan_cleaning(seen, incomplete=True).actions == ()
    everything = plan_cleaning(seen, temporary=True, corrupt=True, incomplete=True)
    assert everything.n_bytes == size + 12
    before = tree(store)
    report = everything.apply()
    assert report.ok
    taken = {SHARD, f"{SHARD}.ab.partial", "staging/zarr.json", "staging/c/0/0"}
    assert tree(store) == {k: v for k, v in before.items() if k not in taken}
    assert not (store / "staging").exists()
    assert {item.key for batch in list_batches(store) for item in batch.items} == taken
    assert len(restore(store)) == 4
    assert tree(store) == before


def test_a_plan_changes_nothing_and_is_the_same_again(store, tree):
    seen = Seen(str(store), findings())
    before = {path: path.stat().st_mtime_ns for path in store.parent.rglob("*")}
    one = plan_cleaning(seen, temporary=True, corrupt=True)
    two = plan_cleaning(Seen(str(store), findings()[::-1]), temporary=True, corrupt=True)
    assert [a.key for a in one.actions] == [a.key for a in two.actions]
    assert {path: path.stat().st_mtime_ns for path in store.parent.rglob("*")} == before


def test_the_ledger_calls_a_shard_that_was_taken_removed_not_done(store):
    plan_cleaning(Seen(str(store), findings()), corrupt=True).apply()
    last = [r for r in read_ledger(store).records if r.fields.get("key") == SHARD][-1]
    assert last.kind == "removed"


def test_applied_twice_nothing_is_left_to_do(store):
    plan = plan_cleaning(Seen(str(store), findings()), temporary=True, corrupt=True)
    plan.apply()
    again = plan.apply()
    assert {outcome.result for outcome in again.outcomes} == {"unneeded"}
    assert (
        plan_cleaning(Seen(str(store), findings()[2:4]), temporary=True, corrupt=True).actions == ()
    )


def test_a_shard_that_was_taken_can_be_measured_again(store, tiny_store, tree):
    from idfzarr.care.repair import plan_repair

    before = tree(tiny_store.store)
    plan_cleaning(Seen(str(store), findings()), temporary=True, corrupt=True).apply()
    assert SHARD not in tree(store)
    missing = finding("shard_missing", Where(array="lightcurves", key=SHARD), "gone")
    assert plan_repair(Seen(str(store), (missing,))).apply().ok
    assert tree(store) == before


def test_a_cleaning_of_nothing_is_refused(store):
    with pytest.raises(UsageError, match="cleaning of nothing"):
        plan_cleaning(Seen(str(store), ()))
