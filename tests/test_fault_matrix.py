"""Every fault of the table, injected, looked for, mended, and looked at again.

``pytest -s`` shows fault by fault what was found and what repair did; ``-m slow`` makes more than a
thousand of them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zarr_bytes as zb
from fault_bases import shared_bases
from fault_injector import Target, all_variants
from killed_repair import Repairs

from idfzarr.care.inventory import inventory
from idfzarr.care.repair import plan_repair

MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
NOBODY = 65534
ORDER = ("listing", "structure", "scrub", "full")


@pytest.fixture(scope="session")
def fault_bases(tmp_path_factory):
    return shared_bases(tmp_path_factory)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def memory(tmp_path):
    """Return a folder in memory where there is room, since the disk is not what is tested."""
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < 1 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="idfzarr-", dir=MEMORY) as name:
        yield Path(name)


@dataclass
class Outcome:
    """What became of one fault."""

    variant: object
    seed: int
    kind: str = "-"
    level: str = "-"
    right: bool = False
    actions: str = "-"
    end: str = "-"
    problems: list = field(default_factory=list)

    def check(self, good, problem):
        if not good:
            self.problems.append(problem)
        return good

    def row(self):
        said = "ok" if not self.problems else " ".join("; ".join(self.problems).split())
        name = f"{self.variant} #{self.seed}"
        where = "right" if self.right else "-"
        found = f"{self.kind:22} {self.level:9} {where:5}"
        return f"{name:88.88} {found} {self.actions:44.44} {self.end:12} {said}"


HEAD = f"{'fault':88} {'found as':22} {'level':9} {'place':5} {'repair':44} {'then':12}"


def told(outcomes, record_property):
    lines = [HEAD, *(outcome.row() for outcome in outcomes)]
    good = sum(outcome.problems == [] for outcome in outcomes)
    lines.append(f"{good} of {len(outcomes)} faults found in the right place and dealt with")
    text = "\n".join(lines)
    sys.stdout.write(f"\n{text}\n")
    record_property("fault_matrix", text)
    bad = [outcome.row() for outcome in outcomes if outcome.problems]
    assert not bad, "\n".join(["", HEAD, *bad])


def readable_by_all():
    """Return a new folder that others may enter, as those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="idfzarr-"))
    folder.chmod(0o755)
    return folder


@contextmanager
def rights_of(user):
    """Be a user to whom modes of files mean something, if this is root."""
    if user is None or os.geteuid() != 0:
        yield
        return
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(0)


def trouble(inv):
    """Return the findings that are more than notes."""
    return [f for f in inv.findings if f.severity != "note"]


def brief(findings):
    return ", ".join(sorted({f"{f.kind} at {f.where}" for f in findings}))


def held(store):
    """Return what lies in a store, without times; sockets of time are no content."""
    return {name: held for name, (_, _, held) in zb.tree_of(store).items() if held is not None}


def target_of(bases, variant, seed, folder):
    found = bases.of(variant.base)
    base = found[random.Random(f"{seed} {variant.name}").randrange(len(found))]
    older = bases.older(base) if variant.base == "grown" else None
    return Target(bases.copy(base, folder), bases.images, older), base


def examine(bases, variant, seed, folder):
    """Inject a fault, look for it, mend it and look again."""
    if variant.number == 16:
        folder = readable_by_all()
    out = Outcome(variant, seed)
    target, _ = target_of(bases, variant, seed, folder)
    pristine, chunks = held(target.store), whole_chunks(target.store)
    fault = variant(target, seed)
    user = NOBODY if variant.number == 16 else None
    try:
        full = look(out, fault, target.store, folder, user)
        if "nobody may read" not in variant.name:
            mend(out, fault, target, full, pristine, chunks)
    except Exception as error:  # noqa: BLE001 - the other faults are to be seen too
        at = traceback.extract_tb(error.__traceback__)[-1]
        out.problems.append(f"{error!r} in {at.name}, {Path(at.filename).name}:{at.lineno}")
    finally:
        if fault.undo is not None:
            fault.undo()
    shutil.rmtree(folder, ignore_errors=True)
    return out


def look(out, fault, store, folder, user):
    """Look for the fault at its level and at all above it; nothing may change on disk."""
    before = zb.tree_of(folder)
    found = None
    for level in ORDER[ORDER.index(fault.level) :]:
        if level not in {fault.level, "full"}:
            continue
        with rights_of(user):
            found = inventory(store, level=level)
        right = [f for f in found.findings if fault.is_found_by(f)]
        if not fault.kinds:
            out.right = out.check(not trouble(found), f"{level}: {brief(trouble(found))}")
            continue
        if not out.check(right, f"not found at {level}: {brief(found.findings)}"):
            continue
        out.right = True
        if out.level == "-":
            out.level, out.kind = level, right[0].kind
        allowed = {*fault.also}
        noise = [f for f in trouble(found) if f not in right and f.kind not in allowed]
        out.check(not noise, f"noise at {level}: {brief(noise)}")
        if fault.number not in {3, 18} and "source_missing" not in fault.kinds:
            bad = any(f.severity != "note" for f in right)
            out.check(found.exit_code == int(bad), f"exit code {found.exit_code} at {level}")
            out.check(bad, f"only a note at {level}")
        if fault.number == 3:
            out.check(found.ok, f"a build to go on with is trouble: {brief(trouble(found))}")
    out.check(zb.tree_of(folder) == before, "an inventory changed something on disk")
    return found


def whole_chunks(store):
    """Return the chunks of a store as bytes; none of a store that is not finished."""
    if not (store / "zarr.json").is_file() or not (store / "object/c/0").is_file():
        return {}
    return zb.Cube.of(store).chunks()


def mend(out, fault, target, full, pristine, chunks):
    """Plan a repair, apply it, and compare what is there with what was there."""
    folder = target.store.parent
    before = zb.tree_of(folder)
    plan = plan_repair(full)
    again = plan_repair(full)
    out.check(plan.to_json() == again.to_json(), "two plans of one inventory differ")
    out.check(zb.tree_of(folder) == before, "a plan changed something on disk")
    counted = Counter(action.kind for action in plan.actions)
    out.actions = ", ".join(f"{n} {kind}" for kind, n in counted.items()) or "none"
    if fault.after == "stays":
        out.check(not plan.actions, f"repair does something: {plan.to_json()}")
    plan.apply()
    after = inventory(target.store, level="full")
    left = trouble(after)
    second = plan_repair(after)
    out.check(not second.actions, f"a second repair has actions: {second.to_json()}")
    document = json.dumps(plan.to_dict())
    if fault.after == "stays":
        out.end = "stays"
        if fault.kinds:
            out.check(any(map(fault.is_found_by, after.findings)), "found no more")
        if fault.number not in {1, 14, 15, 16, 17}:
            out.check(not left, f"left: {brief(left)}")
    elif fault.after == "told":
        out.end = "clean" if not left else "told"
        for one in left:
            name = one.where.key or one.where.array
            out.check(name in document or fault.number == 18, f"lost, not told: {brief([one])}")
    else:
        out.end = "clean" if not left else "not clean"
        out.check(not left, f"not clean: {brief(left)}")
    compare(out, fault, target.store, pristine, chunks)


def compare(out, fault, store, pristine, chunks):
    """Compare chunks and files with those of the clean build."""
    whole = held(store)
    if fault.number == 13 or not chunks:
        return
    if "zarr.json" in whole and "object/c/0" in whole and fault.number not in {15, 16}:
        found = whole_chunks(store)
        other = [slot for slot, data in chunks.items() if found.get(slot) != data]
        if fault.after == "mended":
            out.check(not other, f"chunks differ from a clean build: {other}")
            out.check(found.keys() == chunks.keys(), "there are more chunks than before")
    if fault.after == "mended":
        shards = "lightcurves/c/"
        mine = {k: v for k, v in whole.items() if not k.startswith(shards)}
        want = {k: v for k, v in pristine.items() if not k.startswith(shards)}
        differ = sorted(k for k in mine.keys() | want.keys() if mine.get(k) != want.get(k))
        out.check(not differ, f"files differ from a clean build: {differ}")
        order = sorted(k for k in pristine if k.startswith(shards) and whole.get(k) != pristine[k])
        out.check(not order, f"shards are not byte for byte those of a clean build: {order}")
    else:
        keys = [key.rstrip("/") for key in fault.keys]
        for name, data in pristine.items():
            if not fault.keys or any(name == k or name.startswith(f"{k}/") for k in keys):
                continue
            if name != "zarr.json" and fault.after != "clean" and not name.startswith("staging"):
                out.check(whole.get(name) == data, f"another file changed: {name}")


# ------------------------------------------------------------------ one by one


def test_the_stores_to_be_damaged_are_healthy(fault_bases):
    for base in fault_bases.of("built") + fault_bases.of("grown"):
        for level in ORDER:
            found = inventory(base / "f.zarr", level=level)
            assert not trouble(found), (base.name, level, brief(found.findings))
            assert found.exit_code == 0
            assert found.ok
        assert plan_repair(found).actions == ()


def test_every_fault_is_found_told_apart_and_mended(fault_bases, memory, record_property):
    """A sample of every row: one of its ways."""
    chosen = [
        random.Random(number).choice([v for v in all_variants() if v.number == number])
        for number in range(1, 19)
    ]
    outcomes = [
        examine(fault_bases, variant, 1, memory / f"{k}") for k, variant in enumerate(chosen)
    ]
    told(outcomes, record_property)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_thousand_faults(fault_bases, memory, record_property):
    variants = all_variants()
    rounds = -(-1000 // len(variants))
    asked = [
        (fault_bases, variant, seed, memory / f"{seed}-{k}")
        for seed in range(2, 2 + rounds)
        for k, variant in enumerate(variants)
    ]
    # Those that touch the images, which all the stores have in common, come one after another.
    alone = [one for one in asked if one[1].number == 17]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, without_fsync) as pool:
        outcomes = list(pool.map(examine, *zip(*(a for a in asked if a not in alone), strict=True)))
    outcomes += [examine(*one) for one in alone]
    assert len(outcomes) == len(asked) >= 1000
    told(outcomes, record_property)


def without_fsync():
    os.fsync = lambda handle: None


# ------------------------------------------------------------------ several at once

TOGETHER = (
    "partial file beside a shard",
    "shard removed",
    "cut in the payload",
    "bit of the payload",
    "bit of the index",
    "entries that overlap",
    "bit of the root",
    "array's own metadata changed",
    "file that belongs to no array",
    "chunk of a plain array outside the grid",
)


def damage(bases, folder, seed, n_faults):
    """Damage a store in several ways, no shard or file in two."""
    rng = random.Random(f"together {seed}")
    base = rng.choice(bases.of("built"))
    target = Target(bases.copy(base, folder), bases.images)
    by_name = {variant.name: variant for variant in all_variants()}
    faults, used = [], set()
    for name in rng.sample(TOGETHER, len(TOGETHER)):
        trial = folder.parent / f"{folder.name}-trial"
        fault = by_name[name](Target(bases.copy(base, trial), bases.images), seed)
        shutil.rmtree(trial)
        if not used & set(fault.keys) and len(faults) < n_faults:
            faults.append(by_name[name](target, seed))
            used |= set(faults[-1].keys)
    return target, faults, base


@pytest.mark.parametrize("seed", range(3))
def test_several_faults_in_one_store(fault_bases, tmp_path, seed):
    target, faults, base = damage(fault_bases, tmp_path / "a", seed, 5)
    assert len(faults) == 5
    full = inventory(target.store, level="full")
    for fault in faults:
        assert any(map(fault.is_found_by, full.findings)), (fault, brief(full.findings))
    right = {f for f in full.findings if any(fault.is_found_by(f) for fault in faults)}
    also = {kind for fault in faults for kind in fault.also}
    noise = [f for f in trouble(full) if f not in right and f.kind not in also]
    assert not noise, brief(noise)
    plan_repair(full).apply()
    after = inventory(target.store, level="full")
    assert not trouble(after), brief(trouble(after))
    assert plan_repair(after).actions == ()
    assert held(target.store) == held(base / "f.zarr")


# ------------------------------------------------------------------ kill -9


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_a_repair_that_is_killed_goes_on_and_ends_the_same(fault_bases, tmp_path, kills):
    rng = random.Random(kills)
    done = 0
    with Repairs() as repairs:
        for seed in range(-(-kills // 10)):
            start, _, base = damage(fault_bases, tmp_path / f"start{seed}", seed, 4)
            counted = tmp_path / f"counted{seed}"
            shutil.copytree(start.store.parent, counted)
            ended = repairs.run(counted / "f.zarr")
            assert ended["code"] == 0
            assert ended["steps"] > 4
            wanted = held(counted / "f.zarr")
            assert wanted == held(base / "f.zarr")
            for at in rng.sample(range(1, ended["steps"] + 1), min(10, kills, ended["steps"])):
                folder = tmp_path / f"killed{seed}-{at}"
                shutil.copytree(start.store.parent, folder)
                killed = repairs.run(folder / "f.zarr", at)
                assert killed["code"] == -signal.SIGKILL
                again = repairs.run(folder / "f.zarr")
                assert again["code"] == 0
                # What the killed one had half written is told, and taken away, once it is old.
                found = {k: v for k, v in held(folder / "f.zarr").items() if k[-8:] != ".partial"}
                left = sorted(k for k in found.keys() | wanted if found.get(k) != wanted.get(k))
                assert not left, (seed, at, left)
                after = inventory(folder / "f.zarr", level="full")
                assert not trouble(after), (seed, at, brief(trouble(after)))
                old = trouble(inventory(folder / "f.zarr", level="full", grace=0))
                assert {f.kind for f in old} <= {"partial_file"}, (seed, at, brief(old))
                shutil.rmtree(folder)
                done += 1
    assert done >= min(kills, 3)
