"""What an inventory never does: cry wolf, change anything, or miss a flipped bit."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest
import zarr_bytes as zb
from fault_bases import shared_bases
from fault_injector import Target, all_variants
from healthy_stores import STATES, cubes, healthy_stores, plain_stores
from hypothesis import HealthCheck, given, settings

from idfzarr.care.cleaning import plan_cleaning
from idfzarr.care.inventory import inventory
from idfzarr.care.quarantine import restore
from idfzarr.care.repair import plan_repair
from idfzarr.errors import UsageError

LEVELS = ("listing", "structure", "scrub", "full")


@pytest.fixture(scope="session")
def fault_bases(tmp_path_factory):
    return shared_bases(tmp_path_factory)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


# ------------------------------------------------------------------ no false alarms


def looked_at(recipe, seen):
    """Make a healthy store and look at it at every level; nothing may be wrong or change."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = recipe.make(folder)
        before = zb.tree_of(folder)
        for level in LEVELS:
            found = inventory(store, level=level)
            said = [f"{f.kind}, {f.severity}, {f.where}: {f.message}" for f in found.findings]
            assert found.ok, (level, recipe, said)
            assert found.exit_code == 0, (level, recipe, said)
            assert found.level == level
            seen.update(f.kind for f in found.findings)
        assert zb.tree_of(folder) == before
        seen[type(recipe).__name__ + getattr(recipe, "state", "")] += 1


def no_false_alarm(examples, recipes=None, seen=None):
    seen = Counter() if seen is None else seen

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(healthy_stores() if recipes is None else recipes)
    def look(recipe):
        if getattr(recipe, "state", "") != "begun":
            looked_at(recipe, seen)

    look()
    sys.stdout.write(f"{dict(seen)}\n")
    return seen


def test_healthy_stores_raise_no_alarm():
    assert no_false_alarm(15).total() > 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_healthy_stores_raise_no_alarm():
    seen = no_false_alarm(110)
    kept = [state for state in STATES if state != "begun"]  # that one has its own test below
    for state in kept:  # drawn at random, some state may not come at all
        no_false_alarm(6, cubes(state), seen)
    assert {name for name in seen if name.startswith("CubeRecipe")} == {
        f"CubeRecipe{state}" for state in kept
    }
    no_false_alarm(40, plain_stores(), seen)
    assert seen["PlainRecipe"] > 20


def test_stores_that_were_stopped_are_no_fault(fault_bases):
    """A build that was killed is gone on with by running it again."""
    for base in fault_bases.of("begun"):
        for level in LEVELS:
            found = inventory(base / "f.zarr", level=level)
            assert found.ok, [str(f) for f in found.findings]


def test_a_file_that_is_being_written_is_no_fault(fault_bases, tmp_path):
    """Its writer holds a lock on it; what another program writes is left alone while young."""
    store = fault_bases.copy(fault_bases.of("built")[0], tmp_path)
    folder = store / "lightcurves/c/0/0/0"
    ours, others = folder / "0.ab12.idfzarr.partial", folder / "0.cd34.partial"
    ours.write_bytes(b"half")
    then = ours.stat().st_mtime - 1e6
    os.utime(ours, (then, then))
    with ours.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        others.write_bytes(b"half")
        found = inventory(store)
        assert found.ok, [str(f) for f in found.findings]
        plan = plan_cleaning(found, temporary=True, corrupt=True, incomplete=True)
        assert not any(action.key.endswith(".partial") for action in plan.actions)
    found = {f.where.key for f in inventory(store, grace=0).findings if f.kind == "partial_file"}
    assert found == {p.relative_to(store).as_posix() for p in (ours, others)}


def test_a_store_that_is_reached_by_a_link_is_healthy(fault_bases, tmp_path):
    """The link in the store's own path is the user's choice; those within are not followed."""
    (tmp_path / "link.zarr").symlink_to(fault_bases.of("built")[0] / "f.zarr")
    found = inventory(tmp_path / "link.zarr", level="full")
    assert found.ok, [str(f) for f in found.findings]
    assert found.n_files > 100


def test_findings_do_not_depend_on_the_number_of_workers(fault_bases, tmp_path):
    store = fault_bases.copy(fault_bases.of("built")[0], tmp_path)
    target = Target(store, fault_bases.images)
    names = {
        "bit of the payload",
        "file that belongs to no array",
        "chunk of a plain array removed",
    }
    for variant in all_variants():
        if variant.name in names:
            variant(target, 4)
    found = [inventory(store, level="full", workers=n) for n in (1, 2, 5)]
    assert len(found[0].findings) >= 3
    assert found[0].findings == found[1].findings == found[2].findings
    assert list(found[0].findings) == sorted(found[0].findings, key=lambda f: f.sort_key())


# ------------------------------------------------------------------ nothing changes


def damaged(bases, folder, names, seed=3):
    store = bases.copy(bases.of("built")[0], folder)
    target = Target(store, bases.images)
    by_name = {variant.name: variant for variant in all_variants()}
    return store, [by_name[name](target, seed) for name in names]


MANY = (
    "partial file beside a shard",
    "staging of a build that is over",
    "bit of the payload",
    "chunk of a plain array outside the grid",
    "file that belongs to no array",
    "array's own metadata changed",
)


def test_looking_and_planning_change_nothing(fault_bases, tmp_path):
    damaged(fault_bases, tmp_path, MANY)
    store = tmp_path / "f.zarr"
    before = zb.tree_of(tmp_path)
    for level in LEVELS:
        found = inventory(store, level=level)
        assert found.findings
        plan_repair(found)
        with pytest.raises(UsageError, match="a cleaning of nothing was asked for"):
            plan_cleaning(found)
        for options in (
            {"temporary": True},
            {"corrupt": True},
            {"incomplete": True},
            {"temporary": True, "corrupt": True, "incomplete": True},
        ):
            plan = plan_cleaning(found, **options)
            assert plan.actions or "temporary" not in options
            json.dumps(plan.to_dict())
        assert zb.tree_of(tmp_path) == before


def test_what_cleaning_takes_can_be_put_back(fault_bases, tmp_path):
    store, _ = damaged(fault_bases, tmp_path, MANY)
    before = contents(store)
    found = inventory(store, level="full")
    plan = plan_cleaning(found, temporary=True, corrupt=True, incomplete=True)
    assert len(plan.actions) >= 3
    plan.apply()
    cleaned = contents(store)
    assert cleaned != before
    assert cleaned.keys() < before.keys()
    assert sum(f.kind == "partial_file" for f in inventory(store).findings) == 0
    restore(store)
    assert contents(store) == before


def contents(folder):
    """Return modes and bytes of everything below a folder; folders do not count."""
    return {
        k: (mode, held) for k, (mode, _, held) in zb.tree_of(folder).items() if held is not None
    }


def test_cleaning_one_thing_leaves_the_others(fault_bases, tmp_path):
    store, _ = damaged(fault_bases, tmp_path, MANY)
    before = contents(store)
    found = inventory(store, level="full")
    plan_cleaning(found, temporary=True).apply()
    gone = before.keys() - contents(store).keys()
    assert gone
    assert all(name.endswith(".partial") or name.startswith("staging/") for name in gone)
    after = contents(store)
    assert all(after[name] == before[name] for name in after)


# ------------------------------------------------------------------ flipped bits


def flips(bases, folder, count):
    """Flip bits anywhere in a store, many at once, no two in one chunk or file: each is named."""
    missed, tally = [], Counter()
    for number, base in enumerate(bases.of("built")):
        place = folder / f"{number}"
        shutil.copytree(base, place)
        store, rng = place / "f.zarr", random.Random(number)
        cube = zb.Cube.of(store)
        shards = {cube.path(n): cube.shard(n) for n in range(cube.n_shards)}
        plain = [p for p in sorted(store.rglob("*")) if p.is_file() and p not in shards]
        root = store / "zarr.json"
        documents = [p for p in plain if p.name == "zarr.json" and p != root]
        chunks = [p for p in plain if p.name != "zarr.json"]
        wanted = (number + 1) * count // len(bases.of("built"))
        for trial in range(count):
            if tally.total() >= wanted:
                break
            marks = [anywhere(path, rng, "chunk") for path in rng.sample(chunks, 10)]
            marks += [anywhere(path, rng, "metadata") for path in rng.sample(documents, 4)]
            marks += [mark for path in shards for mark in in_shard(path, shards[path], rng)]
            if trial % 8 == 7:  # nothing else, since all metadata is judged by the root
                marks = [anywhere(root, rng, "root")]
            missed += look_for(store, marks[: wanted - tally.total()], tally)
        found = inventory(store, level="scrub")
        assert found.ok, [str(f) for f in found.findings]
    return missed, tally


def anywhere(path, rng, what):
    return path, rng.randrange(path.stat().st_size), what


def in_shard(path, shard, rng):
    """Return where bits are flipped in a shard: once in its index, or in all chunks but one."""
    if rng.random() < 0.2:
        return [(path, rng.randrange(shard.index_at, len(shard.data)), "index")]
    chosen = [shard.entries[slot] for slot in rng.sample(shard.present, len(shard.present) - 1)]
    return [(path, rng.randrange(first, first + n), "payload") for first, n in chosen]


def look_for(store, marks, tally):
    """Flip a bit at every mark, scrub once, put all back; return the marks that were not named."""
    rng = random.Random(f"{marks}")
    before = {path: path.read_bytes() for path, _, _ in marks}
    for path, at, _ in marks:
        zb.flip(path, at, rng.randrange(8))
    found = [f.where for f in inventory(store, level="scrub").findings if f.severity != "note"]
    named = {where.key for where in found}
    pieces = {}
    for where in found:
        if where.first_byte is not None:
            pieces.setdefault(where.key, []).append(where)
    missed = []
    for path, at, what in marks:
        key = path.relative_to(store).as_posix()
        if path.name == "zarr.json" and means_the_same(before[path], path.read_bytes()):
            tally["no effect"] += 1
            continue
        tally[what] += 1
        good = key in named
        if what == "payload":
            told = [(w.first_byte, w.first_byte + w.n_bytes) for w in pieces.get(key, ())]
            good = any(first <= at < last for first, last in told)
        if not good:
            missed.append((key, at, what, sorted(named)))
    for path, data in before.items():
        path.write_bytes(data)
    return missed


def means_the_same(one, other):
    """Say whether a flip hit white space, or what of the root is the user's own."""
    try:
        a, b = json.loads(one), json.loads(other)
        if "consolidated_metadata" not in a:
            return a == b
        crc = "metadata_crc32c"
        told = [d["attributes"]["idfzarr"][crc] for d in (a, b)]
        return zb.relied_upon(a) == zb.relied_upon(b) and told[0] == told[1]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_scrub_finds_every_flipped_bit(fault_bases, tmp_path, count):
    missed, tally = flips(fault_bases, tmp_path, count)
    sys.stdout.write(f"{count} flips: {dict(tally)}, {len(missed)} missed\n")
    assert tally.total() == count
    assert tally["payload"] > count / 2
    assert min(tally[what] for what in ("index", "chunk", "metadata")) > count / 100
    assert tally["root"] > 0
    assert tally["no effect"] < count / 10
    assert not missed, missed[:10]
