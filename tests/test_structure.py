"""Metadata, lengths and coordinates: every copy against the one that was committed."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest
from small_cube import change_json, flip, make_cube, told

from idfzarr.care.claims import claims_of
from idfzarr.care.ledger_check import read_ledgers
from idfzarr.care.listing import list_store
from idfzarr.care.read_only import ReadOnlyPlace
from idfzarr.care.structure import (
    check_chunk_files,
    check_lengths,
    check_metadata,
    check_nodes,
    noted_metadata,
    read_coordinates,
)
from idfzarr.store.place import place_of
from idfzarr.store.writer import CubeWriter


@pytest.fixture
def store(tmp_path):
    make_cube(tmp_path / "f.zarr")
    return tmp_path / "f.zarr"


class Looked:
    """A store, listed, and what it says of itself."""

    def __init__(self, store):
        self.place = ReadOnlyPlace(place_of(store))
        self.state = read_ledgers(self.place).state
        self.claims = claims_of(self.place, self.state)
        self.listing = list_store(self.place, self.claims.nodes)

    def metadata(self, *, live=False):
        noted = noted_metadata(self.state)
        return list(check_metadata(self.place, self.claims, self.listing, noted=noted, live=live))

    def coordinates(self):
        found = []
        return read_coordinates(self.place, self.claims, self.listing, found), found


def test_a_healthy_store_has_no_findings(store):
    seen = Looked(store)
    assert seen.claims.source == "root"
    assert seen.metadata() == []
    for check in (check_nodes, check_lengths):
        assert list(check(seen.claims)) == []
    assert list(check_chunk_files(seen.claims, seen.listing)) == []
    values, found = seen.coordinates()
    assert found == []
    assert values["object"].tolist() == [3 * k + 1 for k in range(11)]
    assert values["type"].tolist()[0] == "ch1_auto_original"
    assert values["mjd"].shape == (5, 2)
    np.testing.assert_array_equal(np.isfinite(values["mjd"]), True)


# ------------------------------------------------------------------ own metadata


def test_a_flipped_bit_in_any_metadata_is_seen(store):
    rng = random.Random(4)
    paths = sorted(p for p in store.rglob("zarr.json") if p.parent != store)
    assert len(paths) > 20
    seen = 0
    for trial in range(150):
        path = paths[trial % len(paths)]
        data = path.read_bytes()
        flip(path, rng.randrange(len(data)), rng.randrange(8))
        try:
            same = json.loads(path.read_bytes()) == json.loads(data)
        except ValueError:
            same = False
        found = Looked(store).metadata()
        key = path.relative_to(store).as_posix()
        assert [one.where.key for one in found] == ([] if same else [key])
        assert {one.kind for one in found} <= {"metadata_corrupt", "consolidated_stale"}
        seen += not same
        path.write_bytes(data)
    assert seen > 100


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda d: d["attributes"].update(units="furlong"), "consolidated_stale", "attributes"),
        (lambda d: d["shape"].__setitem__(0, 3), "consolidated_stale", "as before an append"),
        (lambda d: d["shape"].__setitem__(0, 9), "metadata_corrupt", "shape"),
        (lambda d: d["shape"].__setitem__(1, 1), "metadata_corrupt", "shape are others"),
        (lambda d: d.update(fill_value=1), "metadata_corrupt", "fill_value"),
        (lambda d: d.update(more=1), "metadata_corrupt", "more"),
        (lambda d: d.pop("codecs"), "metadata_corrupt", "codecs"),
    ],
)
def test_what_a_difference_says(store, change, kind, words):
    change_json(store / "mjd/zarr.json", change)
    (one,) = Looked(store).metadata()
    assert (one.kind, one.where.key, one.where.array) == (kind, "mjd/zarr.json", "mjd")
    assert words in one.message


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\0" * 40, b"[" * 100_000, b"7" * 5000])
def test_metadata_that_is_none(store, data):
    (store / "ra/zarr.json").write_bytes(data)
    assert told(Looked(store).metadata()) == [("metadata_corrupt", "ra/zarr.json")]


def test_metadata_that_is_gone(store):
    for path in ("ra", "catalogue", "lightcurves"):
        (store / path / "zarr.json").unlink()
    assert told(Looked(store).metadata()) == [
        ("consolidated_stale", "catalogue/zarr.json"),  # a group without attributes needs none
        ("metadata_corrupt", "lightcurves/zarr.json"),
        ("metadata_corrupt", "ra/zarr.json"),
    ]


def test_metadata_that_a_writer_wrote_and_did_not_publish(store):
    writer = CubeWriter.begin(store)
    writer.write_group("catalogue", {"made": "anew"})
    (one,) = Looked(store).metadata()
    assert one.kind == "consolidated_stale"
    assert "has not published it" in one.message
    assert Looked(store).metadata(live=True) == []


def test_metadata_behind_a_link_is_not_judged(store, tmp_path):
    (store / "ra/zarr.json").rename(tmp_path / "x")
    (store / "ra/zarr.json").symlink_to(tmp_path / "x")
    assert Looked(store).metadata() == []


# ------------------------------------------------------------------ the root


def nodes_changed(store, change):
    seen = Looked(store)
    nodes = json.loads(json.dumps(seen.claims.nodes))
    change(nodes)
    object.__setattr__(seen.claims, "nodes", nodes)
    return seen


def test_arrays_that_disagree_on_a_length(store):
    def change(nodes):
        nodes["dx"] = nodes["mjd"] | {"shape": [4, 2]}
        nodes["catalogue/ra"]["shape"] = [10]
        nodes["images/a"] = nodes["mjd"] | {"dimension_names": ["y", "x"], "shape": [7, 8]}
        nodes["images/b"] = nodes["mjd"] | {"dimension_names": ["y", "x"], "shape": [7, 8]}
        nodes["images/c"] = nodes["mjd"] | {"dimension_names": ["y", "x"], "shape": [7, 9]}

    found = list(check_lengths(nodes_changed(store, change).claims))
    assert told(found) == [
        ("lengths_disagree", "catalogue/ra/zarr.json"),
        ("lengths_disagree", "dx/zarr.json"),
        ("lengths_disagree", "images/c/zarr.json"),
    ]
    assert "'aor' where the cube has 5" in next(f.message for f in found if f.where.array == "dx")


def test_codecs_and_types_that_nobody_knows(store):
    def change(nodes):
        nodes["ra"]["codecs"][0] = {"name": "zfpz", "configuration": {}}
        nodes["dec"]["data_type"] = "posit16"
        nodes["mjd"]["shape"] = [-1, 2]

    found = list(check_nodes(nodes_changed(store, change).claims))
    assert told(found) == [
        ("codec_unknown", "dec/zarr.json"),
        ("codec_unknown", "ra/zarr.json"),
        ("metadata_corrupt", "mjd/zarr.json"),
    ]


# ------------------------------------------------------------------ chunks of plain arrays


def test_chunks_that_are_missing_or_of_another_size(store):
    (store / "ra/c/0").unlink()
    os.truncate(store / "dec/c/0", 17)
    os.truncate(store / "type/c/0", 3)
    os.truncate(store / "catalogue/ra/c/0", 2)
    seen = Looked(store)
    assert told(check_chunk_files(seen.claims, seen.listing)) == [
        ("chunk_missing", "ra/c/0"),
        ("shard_torn", "catalogue/ra/c/0"),
        ("shard_torn", "dec/c/0"),
        ("shard_torn", "type/c/0"),
    ]
    values, found = seen.coordinates()
    assert found == []  # told once
    assert {"ra", "dec", "type"} & values.keys() == set()


@pytest.mark.parametrize("key", ["ra/c/0", "aor_name/c/0", "mjd/c/0/0"])
def test_every_flipped_bit_of_a_coordinate_is_seen(store, key):
    size = (store / key).stat().st_size
    for at in range(0, size, 7):
        flip(store / key, at, at % 8)
        values, found = Looked(store).coordinates()
        assert told(found) == [("chunk_corrupt", key)]
        assert key.split("/", maxsplit=1)[0] not in values
        flip(store / key, at, at % 8)


def test_strings_by_the_milliard_are_not_unpacked(store):
    def change(nodes):
        nodes["type"]["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 26]

    seen = nodes_changed(store, change)
    values, found = seen.coordinates()
    assert told(found) == [("chunk_corrupt", "type/c/0")]
    assert "cannot hold 67108864 strings" in found[0].message
    assert "type" not in values
