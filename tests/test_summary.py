"""`idfzarr info`: every number against the cube and the disk."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from idfzarr.errors import ForeignStore, StoreMissing
from idfzarr.flags import BAD_FLAGS
from idfzarr.store.cube import Cube, create, flags_of
from idfzarr.store.summary import summarise


def test_numbers_are_those_of_the_cube_and_of_the_disk(small_store):
    summary, cube = summarise(small_store.store), Cube(small_store.store)
    assert (summary.n_objects, summary.n_types, 3, summary.n_aors) == cube.shape
    assert summary.uuid == cube.uuid
    assert summary.chunk_shape == (1, 1, 3, summary.capacity)
    assert summary.shard_shape == (summary.n_objects, 40, 3, summary.capacity)
    assert summary.capacity > summary.n_aors
    files = [p for p in small_store.store.rglob("*") if p.is_file()]
    assert summary.total_bytes == sum(p.stat().st_size for p in files)
    shards = [p for p in (small_store.store / "lightcurves" / "c").rglob("*") if p.is_file()]
    assert summary.stored_bytes == sum(p.stat().st_size for p in shards) > 0
    assert summary.logical_bytes == cube.block().nbytes
    mjd = cube.coordinate("mjd")
    assert (summary.first_mjd, summary.last_mjd) == (mjd.min(), mjd.max())
    assert summary.units == ("uJy",)
    assert summary.has_sky
    assert (summary.codec, summary.precision) == ("lz4", None)


def test_completeness_counts_the_good_measurements_of_a_channel(small_store):
    summary, cube = summarise(small_store.store), Cube(small_store.store)
    values = cube.block()
    good = ((flags_of(values[:, :, 2]) & BAD_FLAGS) == 0) & np.isfinite(values[:, :, 0])
    assert [c.name for c in summary.channels] == ["ch1", "ch2"]
    for channel in summary.channels:
        own = cube.coordinate("type_channel") == channel.name
        assert channel.n_types == own.sum() == 20
        assert channel.n_aors == 6
        assert channel.completeness == pytest.approx(good[:, own].mean(), abs=1e-6)
        assert 0.3 < channel.completeness < 1
        assert channel.methods == ("auto", "iso", *(f"aper{n}" for n in range(1, 9)))
        assert channel.images == ("original", "clean")


def test_text_and_json_say_the_same(small_store):
    summary = summarise(small_store.store)
    told = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert told["n_objects"] == summary.n_objects
    assert told["chunk_shape"] == list(summary.chunk_shape)
    assert [c["name"] for c in told["channels"]] == ["ch1", "ch2"]
    text = summary.to_text()
    assert (
        f"{summary.n_objects} objects x 40 types x 6 AORs, room for {summary.capacity} AORs" in text
    )
    assert f"(1, 1, 3, {summary.capacity}): one lightcurve" in text
    assert f"MJD {summary.first_mjd:.4f} to {summary.last_mjd:.4f} UTC" in text
    assert f"{summary.channels[0].completeness:.1%} good" in text
    assert f"{summary.stored_bytes / 1000:.1f} kB" in text
    assert "lossless" in text
    assert "ra, dec and pixels" in text


def test_a_cube_without_statistics_times_or_sky_says_so(tmp_path):
    objects = {"object_id": [3, 5], "x": [1.0, 2.0], "y": [1.0, 2.0]}
    aors = {"aor": [1, 2], "mjd": [np.nan, np.nan]}
    create(
        tmp_path / "own.zarr",
        objects=objects,
        types=["ch1_aper2_original"],
        aors=aors,
        precision=0.01,
    )
    summary = summarise(tmp_path / "own.zarr")
    told = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
    assert told["first_mjd"] is None
    assert told["channels"][0]["completeness"] is None
    assert not summary.has_sky
    assert summary.stored_bytes == 0
    text = summary.to_text()
    assert "time         unknown" in text
    assert "unknown good" in text
    assert "pixels (no WCS)" in text
    assert "flux to 0.01 sigma" in text


def test_no_lightcurve_is_read(small_store, tmp_path):
    store = tmp_path / "torn.zarr"
    shutil.copytree(small_store.store, store)
    shard = store / "lightcurves/c/0/0/0/0"
    shard.write_bytes(b"\0" * shard.stat().st_size)
    assert summarise(store).stored_bytes == summarise(small_store.store).stored_bytes


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(StoreMissing, match=r"there is no store at .*none.zarr"):
        summarise(tmp_path / "none.zarr")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ForeignStore, match="notes is no store of idfzarr"):
        summarise(tmp_path / "notes")
