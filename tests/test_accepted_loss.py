"""A repair never loses more than its plan said, unless it is told that it may."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr_bytes as zb

from idfzarr.build.pipeline import build
from idfzarr.care.inventory import inventory
from idfzarr.care.repair import plan_repair
from idfzarr.flags import flag_bit
from idfzarr.store.cube import Cube

if TYPE_CHECKING:
    from pathlib import Path

SHARD = "lightcurves/c/0/0/0/0"


@pytest.fixture
def store(tiny_store, tmp_path) -> Path:
    """Return a store with images of its own, of which one chunk of ch1 is damaged."""
    images = tmp_path / "images"
    shutil.copytree(tiny_store.images, images)
    store = tmp_path / "f.zarr"
    build(images, store, types="ch1_aper2_*,ch2_aper2_original", scheduler="synchronous")
    first, _ = zb.Cube.of(store).shard(0).entries[0]
    zb.flip(store / SHARD, first + 20, 3)
    return store


def one_mosaic(store: Path) -> Path:
    return min((store.parent / "images").glob("*_ch1_sci.fits"))


def alter(path: Path) -> None:
    """Change a file's content; its size stays, by which a plan foresees what can be had."""
    data = bytearray(path.read_bytes())
    data[-3000] ^= 1
    path.write_bytes(data)


def test_what_was_not_foreseen_fails_and_leaves_the_shard(store):
    alter(one_mosaic(store))
    before = (store / SHARD).read_bytes()
    plan = plan_repair(inventory(store, level="scrub"))
    assert plan.lost == ()
    assert [action.kind for action in plan.actions] == ["rewrite_shard"]
    report = plan.apply()
    assert [outcome.result for outcome in report.outcomes] == ["failed"]
    assert "the plan did not foresee that measurements would be lost" in report.outcomes[0].message
    assert not report.ok
    assert (store / SHARD).read_bytes() == before


def test_it_is_marked_as_lost_where_that_is_accepted(store):
    alter(one_mosaic(store))
    plan = plan_repair(inventory(store, level="scrub"), accept_loss=True)
    report = plan.apply()
    assert report.ok
    assert len(report.lost) == 1
    assert "another sha256" in report.lost[0]
    cube = Cube(store)
    lightcurve = cube.lightcurve(int(cube.objects[0]), cube.types[0])
    lost = (lightcurve.flag & flag_bit("lost")) != 0
    assert lost.sum() == 1
    assert np.isnan(lightcurve.flux[lost]).all()
    assert np.isfinite(lightcurve.flux[~lost]).any()


def test_a_mosaic_that_is_gone_is_foreseen_for_the_types_it_gives(store):
    one_mosaic(store).unlink()
    plan = plan_repair(inventory(store, level="scrub"))
    assert len(plan.lost) == 1
    assert "can be rebuilt only without 1 mosaics" in plan.lost[0]
    report = plan.apply()
    assert report.ok
    assert any("is not there" in sentence for sentence in report.lost)


def test_a_mosaic_of_another_channel_is_not_missed(store):
    others = list((store.parent / "images").glob("*_ch2_*.fits"))
    assert len(others) > 1
    for path in others:
        path.unlink()
    plan = plan_repair(inventory(store, level="scrub"))
    assert plan.lost == ()
    assert plan.apply().lost == ()
    assert inventory(store, level="scrub").ok
