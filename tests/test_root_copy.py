"""The ledger's copy of the root: there is one of whatever root stands, whenever a writer stops."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from idfzarr.build.refresh import update_variability
from idfzarr.care.inventory import inventory
from idfzarr.errors import MetadataCorrupt
from idfzarr.store.append import begin_append
from idfzarr.store.cube import Cube, create
from idfzarr.store.place import LocalPlace
from idfzarr.store.relayout import relayout
from idfzarr.store.root import read_root
from idfzarr.store.root_copy import choose_copy, copies_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tiny_store, tmp_path) -> Path:
    copied = tmp_path / "field.zarr"
    shutil.copytree(tiny_store.store, copied)
    shutil.copytree(tiny_store.store.with_name("field.zarr.ledger"), f"{copied}.ledger")
    return copied


def make(path: Path) -> Cube:
    return create(
        path, objects=[4, 7, 9], types=["ch1_aper2_original"], aors={"aor": [1], "mjd": [5.0]}
    )


def append(path: Path, reqkey: int) -> None:
    writer = begin_append(path, aors={"aor": [reqkey], "mjd": [6.0]})
    writer.write_staging(0, np.ones((1, 3, 1, 3), dtype=np.float32))
    writer.write_shard(0, writer.assemble(0))
    for name in ("zeropoint", "zeropoint_err", "noise_scale"):
        if writer.has_array(name):
            writer.write_coordinate(name, np.zeros((1, 1), dtype=np.float32))
    writer.publish()


def copies(path: Path) -> dict[str, bytes]:
    folder = path.with_name(f"{path.name}.ledger")
    return {one.name: one.read_bytes() for one in sorted(folder.glob("root-*.json"))}


def test_after_every_commit_the_one_copy_is_the_root(tmp_path):
    path = tmp_path / "mine.zarr"
    make(path).write_block(0, flux=np.ones((3, 1, 1)))
    assert copies(path) == {"root-0.json": (path / "zarr.json").read_bytes()}
    append(path, 2)
    assert copies(path) == {"root-1.json": (path / "zarr.json").read_bytes()}
    relayout(path, capacity=64)
    assert copies(path) == {"root-2.json": (path / "zarr.json").read_bytes()}


def test_new_statistics_are_published_and_copied(store):
    (store / "zarr.json").write_bytes((store / "zarr.json").read_bytes())
    update_variability(store, scheduler="synchronous")
    assert copies(store) == {"root-0.json": (store / "zarr.json").read_bytes()}


def test_a_copy_is_there_before_the_root_that_it_is_of(tmp_path, monkeypatch):
    path = tmp_path / "mine.zarr"
    make(path).write_block(0, flux=np.ones((3, 1, 1)))
    before = (path / "zarr.json").read_bytes()
    write = LocalPlace.write

    def stopped(self: LocalPlace, key: str, data: bytes) -> None:
        if key == "zarr.json":
            raise KeyboardInterrupt("stopped")
        write(self, key, data)

    with monkeypatch.context() as patched:
        patched.setattr(LocalPlace, "write", stopped)
        with pytest.raises(KeyboardInterrupt, match="stopped"):
            append(path, 2)
    assert copies(path)["root-0.json"] == before
    assert set(copies(path)) == {"root-0.json", "root-1.json"}
    (path / "zarr.json").write_bytes(b"{")
    chosen = choose_copy(LocalPlace(str(path)))
    assert chosen is not None
    assert chosen[0] == before  # the other was never committed


def test_a_damaged_copy_is_not_believed(store):
    (copy,) = store.with_name("field.zarr.ledger").glob("root-*.json")
    copy.write_bytes(copy.read_bytes().replace(b'"float32"', b'"float64"', 1))
    assert copies_of(LocalPlace(str(store))) == {}
    assert choose_copy(LocalPlace(str(store))) is None


def test_metadata_that_nobody_of_ours_wrote_is_not_taken_over(store):
    key = store / "variability/median/zarr.json"
    document = json.loads(key.read_bytes())
    document["attributes"]["units"] = "Jy"
    before = (store / "zarr.json").read_bytes()
    cube = Cube(store, mode="r+")
    writer = cube.writer
    key.write_text(json.dumps(document))
    with pytest.raises(MetadataCorrupt, match=r"variability/median/zarr.json differs.*repair"):
        writer.publish(complete=False)
    key.unlink()
    with pytest.raises(MetadataCorrupt, match=r"variability/median/zarr.json is gone.*repair"):
        writer.publish(complete=False)
    assert (store / "zarr.json").read_bytes() == before


def test_metadata_that_a_writer_wrote_is_taken_over_also_by_another(store):
    values = np.ones(Cube(store).shape[0])
    Cube(store, mode="r+").writer.write_table("mine", {"score": values})
    Cube(store, mode="r+").writer.write_coordinate("ra", values, attributes={"comment": "moved"})
    Cube(store, mode="r+").writer.publish(complete=False)
    root = read_root(LocalPlace(str(store)))
    assert root.is_array("mine/score")
    assert root.metadata["ra"]["attributes"]["comment"] == "moved"


def test_an_attribute_that_zarr_python_writes_into_the_root_does_no_harm(store):
    """It writes the root anew, with consolidated metadata of every group below besides."""
    import zarr

    before = read_root(LocalPlace(str(store)))
    zarr.open_group(store, mode="r+").attrs["note"] = "mine"
    after = read_root(LocalPlace(str(store)))
    assert after.attributes["note"] == "mine"
    assert after.metadata == before.metadata
    assert "catalogue" in after.metadata
    assert inventory(store, level="full").findings == ()
