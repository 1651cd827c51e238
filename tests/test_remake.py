"""A shard that cleaning took away is made again by a build, and nothing else is taken for it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from idfzarr.build.pipeline import build
from idfzarr.care.cleaning import plan_cleaning
from idfzarr.care.inventory import inventory
from idfzarr.care.quarantine import restore
from idfzarr.errors import ChunkMissing
from idfzarr.flags import flag_bit
from idfzarr.store.append import begin_append
from idfzarr.store.cube import Cube
from idfzarr.store.ledger import read_ledger

if TYPE_CHECKING:
    from pathlib import Path

SHARD = "lightcurves/c/0/0/0/0"


@pytest.fixture
def cleaned(tiny_store, tmp_path) -> tuple[Path, bytes]:
    """Return a store of which one damaged shard was cleaned, and what the shard had been."""
    store = tmp_path / "field.zarr"
    shutil.copytree(tiny_store.store, store)
    shutil.copytree(f"{tiny_store.store}.ledger", f"{store}.ledger")
    whole = (store / SHARD).read_bytes()
    (store / SHARD).write_bytes(whole[:-1])
    plan = plan_cleaning(inventory(store), corrupt=True)
    assert [action.key for action in plan.actions] == [SHARD]
    assert plan.apply().ok
    return store, whole


def test_a_build_makes_it_again_bit_for_bit(cleaned, tiny_store):
    store, whole = cleaned
    found = inventory(store)
    assert [one.where.key for one in found.of("shard_pending")] == [SHARD]
    assert found.ok
    report = build(tiny_store.images, store, scheduler="synchronous")
    assert (report.shards_written, report.changed) == (1, True)
    assert "1 shards that had been removed" in report.to_text()
    assert (store / SHARD).read_bytes() == whole
    assert inventory(store, level="full").findings == ()
    again = build(tiny_store.images, store, scheduler="synchronous")
    assert (again.shards_written, again.changed) == (0, False)


def test_until_then_it_reads_as_not_built_and_nothing_is_made_of_it(cleaned):
    store, _ = cleaned
    cube = Cube(store)
    lightcurve = cube.lightcurve(int(cube.objects[0]), cube.types[0])
    assert len(lightcurve.flux) > 0
    assert np.isnan(lightcurve.flux).all()
    assert (lightcurve.flag == flag_bit("not_built")).all()
    append = begin_append(store, aors={"aor": np.array([99]), "mjd": np.array([6e4])})
    block = np.zeros((1, *append.schema.layout.shape[:2], 3), dtype=np.float32)
    append.write_staging(0, block)
    with pytest.raises(ChunkMissing, match="was removed when the store was cleaned; run idfzarr"):
        append.assemble(0)


def test_what_is_brought_back_is_done_again(cleaned):
    store, whole = cleaned
    assert SHARD not in read_ledger(store).done
    assert [item.key for item in restore(store)] == [SHARD]
    assert read_ledger(store).done[SHARD].fields["size"] == len(whole)
    assert [one.kind for one in inventory(store).errors] == ["shard_torn"]
