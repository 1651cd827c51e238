"""Stores made to harm: looked at within bounded memory and time, reported, and never obeyed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import zarr_bytes as zb
from bounded_looks import Looks
from hostile_stores import HOSTILE

MOST_MEBIBYTES = 256
MOST_SECONDS = 12
NAMES = sorted(HOSTILE)


@pytest.fixture(scope="module")
def looks():
    with Looks() as served:
        yield served


@pytest.mark.parametrize("name", NAMES)
def test_it_is_reported_within_bounds(name, looks, tmp_path):
    make, kinds, level, may_be_clean = HOSTILE[name]
    store = make(tmp_path / "evil.zarr")
    deep = name == "folders_within_folders"
    before = None if deep or name == "root_of_brackets" else zb.tree_of(tmp_path)
    try:
        seen = {at: looks.at(store, at) for at in dict.fromkeys([level, "structure", "full"])}
        for at, told in seen.items():
            where = f"{name}, {at}: {told}"
            assert told["code"] == 0, where
            assert told["mebibytes"] < MOST_MEBIBYTES, where
            assert told["seconds"] < MOST_SECONDS, where
        found = set(seen["full"]["kinds"]) | set(seen[level]["kinds"])
        if kinds and not may_be_clean:
            assert found & set(kinds), (name, kinds, seen)
            assert seen["full"]["trouble"] == 1
        for told in seen.values():
            strange = {c for c in told["shown"] if not c.isprintable() and c != "\n"}
            assert not strange, (name, strange)
        if before is not None:
            assert zb.tree_of(tmp_path) == before
        assert not (tmp_path / "pwned").exists()
        worst = max(seen.values(), key=lambda told: told["mebibytes"])
        sys.stdout.write(
            f"{name}: {', '.join(sorted(found)) or 'nothing'}; {worst['mebibytes']:.0f} MB, "
            f"{max(told['seconds'] for told in seen.values()):.1f} s\n"
        )
    finally:
        if deep:
            # Python cannot remove paths longer than the system takes.
            subprocess.run(["rm", "-rf", store], check=True)
