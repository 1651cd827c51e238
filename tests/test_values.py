"""Decoded values: what cannot have been measured is found where it is, and nothing else."""

from __future__ import annotations

import hashlib
import os
import struct

import google_crc32c
import numpy as np
import pytest

import idfzarr
from idfzarr.care.sources import check_sources, source_files
from idfzarr.care.values import (
    check_coordinates,
    check_cube_values,
    check_statistics,
    check_times,
)
from idfzarr.flags import FLAGS, flag_bit
from idfzarr.store.ledger import Ledger, read_ledger
from idfzarr.store.place import place_of
from idfzarr.store.published import read_published

TYPES = ("ch1_auto_original", "ch1_aper2_original", "ch1_aper3_original")
N_OBJECTS, N_AORS = 11, 6
IDS = np.arange(N_OBJECTS) * 7 + 3


def measured(seed=0):
    rng = np.random.default_rng(seed)
    flux = rng.normal(5, 20, size=(N_OBJECTS, len(TYPES), N_AORS)).astype("f4")
    err = rng.uniform(0.5, 9, size=flux.shape).astype("f4")
    flag = rng.choice([0, 16, 34, 65535 & ~flag_bit("lost")], size=flux.shape).astype("f4")
    return np.stack([flux, err, flag], axis=2)


def cube_of(folder, *, codec="lz4"):
    aors = {"aor": np.arange(N_AORS) + 500, "mjd": 53000.0 + np.arange(N_AORS)}
    idfzarr.create(
        folder / "f.zarr", objects=IDS, types=TYPES, aors=aors, shard_objects=4, codec=codec
    )
    return folder / "f.zarr"


def put_shards(store, values):
    """Write shards with any values at all, by the specification, uncompressed."""
    capacity = 32
    for shard in range(3):
        rows = values[shard * 4 : shard * 4 + 4]
        payload, entries = b"", []
        for chunk in rows.reshape(-1, 3, N_AORS):
            room = np.full((3, capacity), np.nan, dtype="<f4")
            room[:, :N_AORS] = chunk
            data = room.tobytes()
            data += struct.pack("<I", google_crc32c.value(data))
            entries += [len(payload), len(data)]
            payload += data
        entries += [2**64 - 1] * (2 * 4 * len(TYPES) - len(entries))
        index = struct.pack(f"<{len(entries)}Q", *entries)
        path = store / f"lightcurves/c/{shard}/0/0/0"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(payload + index + struct.pack("<I", google_crc32c.value(index)))


@pytest.fixture
def store(tmp_path):
    return cube_of(tmp_path, codec="none")


def check(store, **more):
    cube, known = read_published(place_of(store))
    assert known
    assert cube.schema.layout.capacity == 32
    return check_cube_values(str(store), cube.schema, cube.coordinates["object"], **more)


def test_strange_and_healthy(store):
    values = measured()
    not_observed = flag_bit("not_observed")
    values[2] = [[np.nan]] * 2 + [[not_observed]]  # never in a mosaic
    values[3] = [[0.0]] * 2 + [[0.0]]
    values[:, :, :2, 1], values[:, :, 2, 1] = np.nan, not_observed
    values[4, 0, 0, 2], values[4, 0, 2, 2] = np.inf, flag_bit("undefined")
    values[5, 1, 1] = np.nan  # an error that is not known
    put_shards(store, values)
    seen = check(store)
    assert seen.findings == ()
    truth = np.isnan(values[:, :, 0])
    np.testing.assert_allclose(seen.nan_object, truth.mean(axis=(1, 2)))
    np.testing.assert_allclose(seen.nan_aor, truth.mean(axis=0))
    assert seen.n_read == N_OBJECTS * len(TYPES) * (32 * 3 * 4 + 4)


WRONG = {
    "half a flag": (2, 16.5, "1 flags that are no whole numbers"),
    "negative flag": (2, -1.0, "1 flags that are no whole numbers"),
    "flag of more bits": (2, 65536.0, "1 flags that are no whole numbers"),
    "no flag": (2, np.nan, "1 flags that are no whole numbers"),
    "infinite flag": (2, np.inf, "1 flags that are no whole numbers"),
    "unexplained NaN": (0, np.nan, "1 fluxes that are NaN"),
    "infinite flux": (0, -np.inf, "1 infinite"),
    "infinite error": (1, np.inf, "1 infinite"),
    "error below zero": (1, -0.25, "1 errors below zero"),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_that_cannot_be(store, name):
    value, what, told = WRONG[name]
    values = measured()
    values[9, 1, 2, 3] = 0
    values[9, 1, value, 3] = what
    put_shards(store, values)
    for workers in (1, 3):
        (one,) = check(store, workers=workers).findings
        assert one.kind == "values_wrong"
        assert (one.where.object, one.where.type) == (IDS[9], TYPES[1])
        assert one.where.key == "lightcurves/c/2/0/0/0"
        assert told in one.message
    assert check(store, shards=[0, 1]).findings == ()


def test_lost_is_told_and_no_mistake(store):
    values = measured()
    values[0, 2] = [[np.nan]] * 2 + [[flag_bit("lost")]]
    put_shards(store, values)
    (one,) = check(store).findings
    assert (one.kind, one.where.object, one.where.type) == ("values_lost", IDS[0], TYPES[2])
    assert f"{N_AORS} values" in one.message


def test_all_flags_are_known_bits():
    assert sum(f.bit for f in FLAGS) == 65535


def test_a_damaged_chunk_does_not_stop_the_rest(store):
    values = measured()
    values[3, 2, 1, 0] = -1
    put_shards(store, values)
    path = store / "lightcurves/c/0/0/0/0"
    data = bytearray(path.read_bytes())
    data[5] ^= 1  # in the first chunk; a matter of the scrub
    path.write_bytes(bytes(data))
    seen = check(store)
    assert [(f.kind, f.where.object) for f in seen.findings] == [("values_wrong", IDS[3])]
    (store / "lightcurves/c/0/0/0/0").unlink()
    seen = check(store)
    assert seen.findings == ()
    assert np.isnan(seen.nan_object[:4]).all()
    assert np.isfinite(seen.nan_object[4:]).all()


def test_a_whole_chunk_of_nonsense(tmp_path):
    store = cube_of(tmp_path)
    values = measured()
    cube = idfzarr.Cube(store, mode="r+")
    cube.write_block(0, flux=values[:, :, 0], flux_err=values[:, :, 1], flag=values[:, :, 2])
    path = store / "lightcurves/c/1/0/0/0"
    data = bytearray(path.read_bytes())
    offset, length = struct.unpack_from("<2Q", data, len(data) - 4 - 16 * 12)
    assert offset == 0
    for change in (
        lambda c: c.__setitem__(slice(4, 8), b"\xff\xff\xff\x7f"),
        lambda c: c.reverse(),
    ):
        chunk = bytearray(data[: length - 4])
        change(chunk)
        path.write_bytes(
            chunk + struct.pack("<I", google_crc32c.value(bytes(chunk))) + data[length:]
        )
        (one,) = check(store).findings
        assert (one.kind, one.where.object, one.where.first_byte) == ("chunk_corrupt", IDS[4], 0)
        assert "still cannot be decoded" in one.message


def test_many_wrong_lightcurves_are_told_in_short(store, monkeypatch):
    monkeypatch.setattr("idfzarr.care.values._MOST_TOLD", 5)
    values = measured()
    values[:, :, 1] = -1
    put_shards(store, values)
    found = check(store).findings
    assert len(found) == 6 * 3
    assert next(f.message for f in found if "more lightcurves" in f.message).startswith("7 more")


# -------------------------------------------------------------------- coordinates


def kinds(found):
    return [(f.kind, f.where.array, f.severity) for f in found]


def test_labels():
    names = np.array(["a", "b", "a"])
    good = {
        "object": np.array([5, 3, 9]),
        "aor": np.array([2, 1]),
        "type": np.array(["x", "y"]),
        "ra": np.array([1.0, 1.0, 1.0]),
        "type_channel": np.array(["ch1", "ch1"]),
    }
    assert check_coordinates(good, {}) == ()
    twice = {"object": np.array([5, 3, 5]), "type": names, "aor_name": names}
    assert kinds(check_coordinates(twice, {})) == [
        ("coordinate_duplicate", "object", "error"),
        ("coordinate_duplicate", "type", "error"),
        ("coordinate_duplicate", "aor_name", "warning"),
    ]
    assert ": 5" in check_coordinates(twice, {})[0].message
    repeated = {"lightcurves": {"type": ["x", "z"], "aor_name": None}}
    assert kinds(check_coordinates(good, repeated)) == [("metadata_corrupt", "type", "error")]
    assert check_coordinates(good, {"lightcurves": {"type": ["x", "y"]}}) == ()


@pytest.mark.parametrize(
    ("promised", "values", "sorted_"),
    [
        (None, [3, 1, 2], True),
        ("increasing", [1, 2, 3], True),
        ("increasing", [1, 3, 2], False),
        ("increasing", [1, 1, 2], False),
        ("decreasing", [3, 2, 1], True),
        ("decreasing", [1, 2, 3], False),
        ("sideways", [1, 3, 2], True),
    ],
)
def test_order_only_where_it_is_promised(promised, values, sorted_):
    found = check_coordinates({"aor": np.array(values)}, {"aor": {"monotonic": promised}})
    assert ("coordinate_unsorted" in {f.kind for f in found}) is not sorted_


def test_what_was_measured_has_a_time():
    mjd = np.array([[1.0, np.nan], [np.nan, 2.0], [3.0, 4.0]])
    coordinates = {
        "mjd": mjd,
        "aor": np.array([7, 8, 9]),
        "channel": np.array(["ch1", "ch2"]),
        "type_channel": np.array(["ch1", "ch2", "ch2"]),
    }
    there = np.array([[1, 0, 1], [0, 1, 1], [0, 1, 0]], dtype=bool)
    assert check_times(coordinates, there) == ()
    there[1, 0] = True
    (one,) = check_times(coordinates, there)
    assert kinds([one]) == [("values_wrong", "mjd", "warning")]
    assert "AOR 7" in one.message
    assert "ch2" in one.message
    assert check_times(coordinates, there[:, :2]) == ()


def test_statistics():
    assert check_statistics({}, 5) == ()
    assert check_statistics({"n_aors": 5}, 5) == ()
    assert kinds(check_statistics({"n_aors": 4}, 5)) == [
        ("statistics_stale", "variability", "note")
    ]


# -------------------------------------------------------------------- sources


def source(path, kind="sci"):
    data = path.read_bytes()
    return {
        "kind": kind,
        "path": str(path),
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "mtime_ns": path.stat().st_mtime_ns,
    }


@pytest.fixture
def sources(tmp_path):
    """A ledger and five files of two folders that it names."""
    paths = [tmp_path / f"{folder}/{k}.fits" for folder in ("one", "two") for k in range(3)][:5]
    ledger = Ledger(tmp_path / "f.zarr", "u")
    for k, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"%d" % k * 1000)
        ledger.append("registered", aor=f"gr{k}", channel="ch1", files=[source(path)])
    return paths, ledger, tmp_path / "f.zarr"


def sources_of(store, **more):
    return check_sources(read_ledger(store).for_store("u"), **more)


def test_sources_that_are_the_same(sources):
    paths, _, store = sources
    seen = sources_of(store)
    assert (seen.findings, seen.n_files, seen.n_read) == ((), 5, 5000)
    assert sources_of(store, verify=False).n_read == 0
    os.utime(paths[0], ns=(1, 1))
    again = sources_of(store, verify=False)
    assert (again.findings, again.n_read) == ((), 1000)


def test_sources_that_are_gone_or_others(sources):
    paths, _, store = sources
    then = paths[0].stat()
    paths[0].write_bytes(b"x" + paths[0].read_bytes()[1:])
    os.utime(paths[0], ns=(then.st_atime_ns, then.st_mtime_ns))
    os.truncate(paths[1], 10)
    paths[2].unlink()
    seen = sources_of(store)
    told = [(f.kind, f.message) for f in seen.findings]
    assert [kind for kind, _ in told] == ["source_missing", "source_changed", "source_changed"]
    assert str(paths[2]) in told[0][1]
    assert "another sha256" in told[1][1]
    assert "has 10 bytes, it had 1000" in told[2][1]
    # Without verifying, a bit that changed no time goes unseen: that is the price.
    assert len(sources_of(store, verify=False).findings) == 2


def test_a_folder_that_is_gone_is_one_finding(sources):
    paths, _, store = sources
    paths[0].parent.rename(paths[0].parent.with_name("elsewhere"))
    (one,) = sources_of(store).findings
    assert (one.kind, one.severity) == ("source_missing", "note")
    assert f"none of the 3 files that were measured is in {paths[0].parent}" in one.message


def test_only_the_newest_record_of_an_aor_counts(sources):
    paths, ledger, store = sources
    newer = paths[0].with_name("newer.fits")
    newer.write_bytes(b"new")
    fields = {"aor": "gr0", "channel": "ch1", "files": [source(newer)]}
    ledger.append("staged", batch=0, sources=[fields, "nonsense", {"files": [{"path": 3}]}])
    paths[0].unlink()
    assert sources_of(store).findings == ()
    named = [file.path for file in source_files(read_ledger(store))]
    assert str(newer) in named
    assert str(paths[0]) not in named


def test_what_is_no_file_is_not_read(sources):
    paths, ledger, store = sources
    told = source(paths[0])
    paths[0].unlink()
    os.mkfifo(paths[0])
    ledger.append(
        "registered", aor="x", channel="ch1", files=[told | {"path": "s3://bucket/a.fits"}]
    )
    (one,) = sources_of(store).findings
    assert (one.kind, "is no file" in one.message) == ("source_changed", True)
