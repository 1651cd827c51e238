"""The injector of faults itself: it does what it says, where it says, and the same for a seed."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import zarr_bytes as zb
from fault_bases import shared_bases
from fault_injector import Target, all_variants

from idfzarr.care.finding import KINDS, LEVELS


@pytest.fixture(scope="session")
def fault_bases(tmp_path_factory):
    return shared_bases(tmp_path_factory)


def contents(folder):
    """Return what lies below a folder, without its times."""
    return {name: (mode, held) for name, (mode, _, held) in zb.tree_of(folder).items()}


def injected(bases, variant, seed, folder):
    base = bases.of(variant.base)[seed % len(bases.of(variant.base))]
    store = bases.copy(base, folder)
    before = contents(folder)
    older = bases.older(base) if variant.base == "grown" else None
    fault = variant(Target(store, bases.images, older), seed)
    return fault, before, contents(folder)


def test_every_row_of_the_table_has_variants():
    rows = Counter(variant.number for variant in all_variants())
    assert sorted(rows) == list(range(1, 19))
    assert min(rows.values()) >= 2
    named = [variant.name for variant in all_variants()]
    assert len(set(named)) == len(named)


@pytest.mark.parametrize("variant", all_variants(), ids=str)
def test_what_is_injected_is_what_is_told(variant, fault_bases, tmp_path):
    images = contents(fault_bases.images)
    seed = len(variant.name)
    fault, before, after = injected(fault_bases, variant, seed, tmp_path / "one")
    damaged_images = contents(fault_bases.images) != images
    if fault.undo is not None:
        fault.undo()
    again, _, same = injected(fault_bases, variant, seed, tmp_path / "again")
    if again.undo is not None:
        again.undo()
    assert contents(fault_bases.images) == images
    if "partial" not in variant.name and "copies" not in variant.name:
        assert same.keys() == after.keys()
    assert (again.keys, again.kinds, again.byte) == (fault.keys, fault.kinds, fault.byte)
    assert fault.number == variant.number
    assert fault.level in LEVELS
    assert set(fault.kinds) <= KINDS.keys()
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    whole_base = variant.base in {"begun", "appending", "committed"}
    assert changed or whole_base or damaged_images
    if variant.number not in {1, 3, 15, 18}:
        assert not any(name.startswith("f.zarr.ledger") for name in changed)
    if fault.byte is not None and fault.object is not None:
        bits(before, after, f"f.zarr/{fault.keys[0]}", fault.byte)
    if variant.base == "built" and fault.keys and fault.beside == "":
        told = [key.rstrip("/") for key in fault.keys]
        places = [n.removeprefix("f.zarr/") for n in changed if n.startswith("f.zarr/")]
        assert any(p == t or p.startswith(f"{t}/") for p in places for t in told), changed


def bits(before, after, name, at):
    """Check that a byte changed, and only bytes of one chunk."""
    old, new = before[name][1], after[name][1]
    assert len(old) == len(new)
    assert old != new
    different = [k for k, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    assert at in different or min(different) >= at
    assert max(different) - min(different) < 2000


RIGHT = [
    v
    for v in all_variants()
    if v.number in {4, 9}
    or "checksums right" in v.name
    or "made right" in v.name
    or "every" in v.name
]


@pytest.mark.parametrize("variant", RIGHT, ids=str)
def test_checksums_made_right_are_right(variant, fault_bases, tmp_path):
    """What is to be wrong in one way only is right in all others."""
    fault, _, after = injected(fault_bases, variant, 5, tmp_path)
    for key in fault.keys:
        if f"f.zarr/{key}" not in after:
            continue
        data = after[f"f.zarr/{key}"][1]
        if key.startswith("lightcurves/c/"):
            assert zb.is_sealed(data[-zb.index_bytes(12) :])
        elif "/c/" in key:
            assert zb.is_sealed(data)
    root = zb.read_root(tmp_path / "f.zarr")
    told = root["attributes"]["idfzarr"]["metadata_crc32c"]
    assert told == f"{zb.crc32c(zb.relied_upon(root)):08x}"


def test_the_bases_are_whole_by_the_specification(fault_bases):
    for base in fault_bases.of("built") + fault_bases.of("grown"):
        store = base / "f.zarr"
        cube = zb.Cube.of(store)
        chunks = cube.chunks()
        assert len(chunks) == len(cube.objects) * len(cube.types)
        assert all(zb.is_sealed(data) for data in chunks.values())
        for path in store.rglob("c/**/*"):
            if path.is_file() and "lightcurves" not in path.parts:
                assert zb.is_sealed(path.read_bytes())
        noted = {r["key"]: r for r in zb.ledger_records(store) if r["kind"] == "done"}
        for number in range(cube.n_shards):
            data = cube.path(number).read_bytes()
            told = noted[cube.key(number)]
            assert (told["size"], told["crc32c"]) == (len(data), zb.crc32c(data))
    assert len(fault_bases.of("appending")) >= 4
    assert len(fault_bases.of("committed")) >= 2


def test_the_ledger_tells_one_shard_from_another(fault_bases):
    """What follows from lengths alone proves nothing.

    The crc32c of bytes that end in their own crc32c is a constant, and so that of a whole shard
    follows from the lengths of its chunks: a digest of a shard must be of another kind.
    """
    one, other = (zb.sealed(bytes([k])) + zb.sealed(bytes(range(k, k + 50))) for k in (1, 2))
    assert one != other
    assert zb.crc32c(one) == zb.crc32c(other)
    for base in fault_bases.of("built") + fault_bases.of("grown"):
        noted = {}
        for record in zb.ledger_records(base / "f.zarr"):
            if record["kind"] == "done":
                own = {"key", "kind", "n", "t", "uuid", "writer", "update", "aors"}
                said = json.dumps({k: v for k, v in record.items() if k not in own}, sort_keys=True)
                assert said not in noted, f"{base.name}: {record['key']} and {noted[said]}: {said}"
                noted[said] = record["key"]
        assert len(noted) >= 3
