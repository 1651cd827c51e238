"""Stores elsewhere: object storage, the web, zip files, memory; what is lost there is an error."""

from __future__ import annotations

import os
import pickle
import shutil
import uuid
import zipfile
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import serving
from small_cube import TYPES, begin_cube, copy_to, flip, make_cube, write_shards

from idfzarr.analysis.backend import open_store
from idfzarr.errors import (
    ChunkMissing,
    CorruptError,
    ForeignStore,
    MissingExtra,
    StoreError,
    StoreMissing,
    UsageError,
)
from idfzarr.flags import flag_bit
from idfzarr.store import remote_reader
from idfzarr.store.cube import Cube, create
from idfzarr.store.place import LocalPlace, RemotePlace, place_of
from idfzarr.store.remote_reader import RemoteShardReader
from idfzarr.store.zip_place import ZipPlace

KEYS = {"key": "AKIA-test", "secret": "not-a-secret"}
SHARD = "lightcurves/c/1/0/0/0"


def zipped(folder, file, how=zipfile.ZIP_STORED, *, top=True, ledger=True):
    """Zip a store and its ledger as ``zip -r`` does, or the store alone without its folder."""
    with zipfile.ZipFile(file, "w", how) as archive:
        for one in (folder, folder.with_name(f"{folder.name}.ledger")) if ledger else (folder,):
            for path in sorted(one.rglob("*")):
                archive.write(path, path.relative_to(one.parent if top else one))
    return file


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("remote") / "a.zarr"
    make_cube(path)
    return path


@pytest.fixture(scope="module")
def values(store):
    found = Cube(store).block()
    assert np.isfinite(found).all()
    return found


@pytest.fixture
def own(store, tmp_path):
    """Return a copy to be damaged."""
    for suffix in ("", ".ledger"):
        shutil.copytree(f"{store}{suffix}", tmp_path / f"a.zarr{suffix}")
    return tmp_path / "a.zarr"


@pytest.fixture
def web(own):
    with serving(own.parent) as served:
        yield served


@pytest.fixture(params=[0, 1 << 16], ids=["ranges", "whole"])
def small(request, monkeypatch):
    """Read shards in ranges, or whole since they are small."""
    monkeypatch.setattr(remote_reader, "SMALL", request.param)


# ------------------------------------------------------------------ S3


def put(address, path, body, access):
    """Put a bucket, or an object into one."""
    link = HTTPConnection(address, timeout=30)
    link.request("PUT", path, body, {"x-amz-acl": access, "Content-Length": str(len(body))})
    reply = link.getresponse()
    assert reply.status == 200, reply.read()
    link.close()


@pytest.fixture(scope="module")
def s3(store):
    """Run a server that speaks S3; return the options to reach it."""
    server = pytest.importorskip("moto.server", reason="S3 needs moto: pip install 'moto[server]'")
    pytest.importorskip("s3fs", reason="S3 needs s3fs: pip install 'idfzarr[s3]'")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    told = {"endpoint_url": f"http://{host}:{port}", "client_kwargs": {"region_name": "us-east-1"}}
    for bucket, access in (("field", "private"), ("open", "public-read")):
        put(f"{host}:{port}", f"/{bucket}", b"", access)
        for path in (p for s in ("", ".ledger") for p in Path(f"{store}{s}").rglob("*")):
            if path.is_file():
                key = path.relative_to(store.parent)
                put(f"{host}:{port}", f"/{bucket}/{key}", path.read_bytes(), access)
    yield told
    running.stop()


@pytest.mark.parametrize("bucket", ["field", "open"])
def test_s3_with_keys_and_without(s3, values, bucket):
    options = s3 | ({"anon": True} if bucket == "open" else KEYS)
    url = f"s3://{bucket}/a.zarr"
    if bucket == "field":
        with pytest.raises(StoreError, match=r"s3://field/a\.zarr/zarr\.json is denied"):
            Cube(url, storage_options=s3 | {"anon": True})
    cube = Cube(url, storage_options=options)
    assert isinstance(cube._reader, RemoteShardReader)
    assert np.array_equal(cube.block(), values)
    assert np.array_equal(cube.values(7, TYPES[2]), values[2, 2])
    with xr.open_dataset(f"{url}/", engine="idfzarr", storage_options=options, chunks={}) as ds:
        assert np.array_equal(ds["flux"], values[:, :, 0])
    for shown in (repr(cube), repr(cube._place), cube.path):
        assert "secret" not in shown


def test_the_engine_takes_options_by_every_way_of_xarray(s3, values):
    options = s3 | KEYS
    for how in (
        {"storage_options": options},
        {"backend_kwargs": {"storage_options": options}},
    ):
        with xr.open_dataset("s3://field/a.zarr", engine="idfzarr", **how) as ds:
            assert np.array_equal(ds["flag"].isel(object=[9, 0]), values[[9, 0], :, 2])
    tree = xr.open_datatree("s3://field/a.zarr", engine="idfzarr", storage_options=options)
    assert np.array_equal(
        tree["catalogue"].ds["ra"],
        Cube("s3://field/a.zarr", storage_options=options).coordinate("ra"),
    )


def test_what_s3_has_not_or_refuses(s3):
    options = s3 | KEYS
    with pytest.raises(StoreMissing, match=r"there is no store at s3://field/b\.zarr"):
        Cube("s3://field/b.zarr", storage_options=options)
    with pytest.raises(StoreMissing, match="there is no store at s3://nobody-has-it/b"):
        Cube("s3://nobody-has-it/b.zarr", storage_options=options)
    lost = options | {"endpoint_url": "http://127.0.0.1:9"}
    lost["config_kwargs"] = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    with pytest.raises(StoreError, match=r"could not be read or written: .*127\.0\.0\.1:9") as told:
        Cube("s3://field/a.zarr", storage_options=lost)
    assert KEYS["secret"] not in str(told.value)


def test_a_store_on_s3_is_written_and_what_is_lost_is_missed(s3, values):
    options = s3 | KEYS
    url = f"s3://field/{uuid.uuid4().hex}.zarr"
    writer = begin_cube(place_of(url, storage_options=options))
    write_shards(writer, [0, 2])
    writer.publish(complete=False)
    part = Cube(writer.place)
    flags = open_store(writer.place)["flag"].to_numpy()
    assert (flags[4:8] == flag_bit("not_built")).all(), "never written: the ledger says so"
    assert np.array_equal(part.block(slice(0, 4)), values[:4])
    writer.place.remove("lightcurves/c/0/0/0/0")
    with pytest.raises(ChunkMissing, match=r"ledger calls lightcurves/c/0/0/0/0 .* done"):
        Cube(writer.place).block(slice(0, 4))


# ------------------------------------------------------------------ the web


def test_the_web_is_read_without_listing(web, values, small):
    url = f"{web.url}/a.zarr"
    cube = Cube(url)
    assert np.array_equal(cube.block(), values)
    assert np.array_equal(
        cube.block([9, 0, 9], TYPES[1], aors=slice(4, 0, -2)), values[[9, 0, 9], 1:2, :, 4:0:-2]
    )
    with open_store(url, chunks={}) as ds:
        assert np.array_equal(ds["flux_err"], values[:, :, 1])
        assert ds["flux"].chunks == ((4, 4, 3), (3,), (5,))
    with xr.open_dataset(url, engine="idfzarr") as ds:
        assert np.array_equal(ds["flux"].sel(object=4, type=TYPES[2]), values[1, 2, 0])
    listed = [path for _, path, _ in web.requests if path.endswith("/")]
    assert not listed


def test_neighbours_are_one_request_and_the_index_is_read_once(web, values, monkeypatch):
    monkeypatch.setattr(remote_reader, "SMALL", 0)
    cube = Cube(f"{web.url}/a.zarr")
    web.requests.clear()
    cube.block(slice(4, 8))
    assert [(c, s is None) for c, _, s in web.requests] == [
        ("HEAD", True),
        ("GET", False),
        ("GET", False),
    ]
    web.requests.clear()
    for row in (4, 5, 7):
        assert np.array_equal(cube.values(row * 3 + 1, TYPES[0]), values[row, 0])
    assert [c for c, _, _ in web.requests] == ["GET"] * 3
    monkeypatch.setattr(remote_reader, "MOST_RANGE", 200)
    monkeypatch.setattr(remote_reader, "MOST_GAP", 0)
    web.requests.clear()
    assert np.array_equal(cube.block(slice(4, 8)), values[4:8])
    assert len(web.requests) > 3


def test_a_server_that_gives_no_ranges_is_read_all_the_same(web, values, small, monkeypatch):
    web.gives_ranges = False
    cube = Cube(f"{web.url}/a.zarr")
    assert np.array_equal(cube.block(), values)
    web.requests.clear()
    assert np.array_equal(cube.block(), values)
    assert web.requests == [], "whole shards are kept"
    monkeypatch.setattr(remote_reader, "MOST_KEPT", 1)
    assert np.array_equal(Cube(f"{web.url}/a.zarr").block(), values)


@pytest.mark.parametrize("status", [500, 503, 403, 401, 429])
def test_a_server_that_fails_or_refuses_is_no_hole_in_the_data(web, status, small):
    cube = Cube(f"{web.url}/a.zarr")
    web.faults[SHARD] = status
    wanted = "is denied" if status in {401, 403} else "could not be read"
    with pytest.raises(StoreError, match=rf"{SHARD}.*{wanted}|{wanted}.*") as told:
        cube.block()
    assert SHARD in str(told.value)
    with pytest.raises(StoreError, match=wanted), open_store(f"{web.url}/a.zarr") as ds:
        ds["flux"].load()
    web.faults = {"zarr.json": status}
    with pytest.raises(StoreError, match=wanted):
        Cube(f"{web.url}/a.zarr")


def test_half_an_answer_is_an_error(web, small):
    cube = Cube(f"{web.url}/a.zarr")
    web.faults[SHARD] = "cut"
    with pytest.raises((StoreError, CorruptError), match=SHARD):
        cube.block(slice(4, 8))


def test_a_shard_that_is_lost_on_the_web_is_an_error(web, own, small):
    (own / SHARD).unlink()
    for how in (None, {}):
        with open_store(f"{web.url}/a.zarr", chunks=how) as ds:
            with pytest.raises(ChunkMissing, match=f"{SHARD} of http.*is not there"):
                ds["flag"].load()
            assert ds["flux"][:4].load().notnull().all()


def test_a_flipped_bit_anywhere_is_an_error_and_names_the_lightcurve(web, own, small):
    size = (own / SHARD).stat().st_size
    for at in (5, size // 3, size - 40):
        flip(own / SHARD, at)
        with pytest.raises(CorruptError, match=rf"of object \d+, type \w+.*{SHARD}"):
            Cube(f"{web.url}/a.zarr").block(slice(4, 8))
        flip(own / SHARD, at)
    Cube(f"{web.url}/a.zarr").block(slice(4, 8))


def test_headers_are_sent_and_nothing_is_written(web, values):
    web.token = "sesame"  # noqa: S105 - of the test
    url = f"{web.url}/a.zarr"
    with pytest.raises(StoreError, match="is denied"):
        Cube(url)
    cube = Cube(url, storage_options={"headers": {"X-Token": "sesame"}})
    assert np.array_equal(cube.block(), values)
    back = pickle.loads(pickle.dumps(cube))
    assert np.array_equal(back.values(4, TYPES[0]), values[1, 0])
    place = place_of(url, storage_options={"headers": {"X-Token": "sesame"}})
    for change in (
        lambda: place.write("x", b"1"),
        lambda: place.remove("x"),
        lambda: place.remove_tree(""),
        lambda: create(
            url, objects={"object_id": [1]}, types=["ch1_a"], aors={"aor": [1], "mjd": [1.0]}
        ),
    ):
        with pytest.raises((UsageError, StoreError), match=r"can be read only|denied"):
            change()


def test_a_shard_replaced_under_an_open_cube_is_read_anew(web, own, values, small):
    cube = Cube(f"{web.url}/a.zarr")
    assert np.array_equal(cube.block(), values)
    cube._reader.forget(0)
    changed = Cube(own, mode="r+")
    changed.write_lightcurve(13, TYPES[0], flux=np.arange(5), flux_err=np.ones(5))
    fresh = Cube(f"{web.url}/a.zarr")
    assert fresh.values(13, TYPES[0])[0].tolist() == [0, 1, 2, 3, 4]
    for column in (1, 2):
        assert np.array_equal(cube.values(13, TYPES[column]), values[4, column])
    now = cube.block(slice(4, 8))
    assert np.array_equal(now[1:], values[5:8])


# ------------------------------------------------------------------ zip


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("top", [True, False])
def test_a_zip_file_is_read_where_it_lies(store, tmp_path, values, how, top, small):
    file = zipped(store, tmp_path / "F.ZIP", how, top=top, ledger=top)
    inside = f"zip://{store.name if top else ''}::{file}"
    for path in (file, str(file), f"zip::{file}", inside, f"file://{file}"):
        with xr.open_dataset(path, engine="idfzarr", chunks={}) as ds:
            assert np.array_equal(ds["flux"], values[:, :, 0])
    cube = Cube(file)
    assert cube.path == inside
    assert np.array_equal(pickle.loads(pickle.dumps(cube)).values(4, TYPES[1]), values[1, 1])
    with pytest.raises(UsageError, match="a zip file is read only"):
        Cube(file, mode="r+").write_block(0, flux=np.zeros((4, 3, 5)))


def test_a_zip_file_elsewhere_is_read_too(store, tmp_path, values):
    import fsspec

    file = zipped(store, tmp_path / "a.zip")
    name = tmp_path.name
    fsspec.filesystem("memory").pipe(f"/{name}/a.zip", file.read_bytes())
    url = f"zip://a.zarr::memory://{name}/a.zip"
    cube = Cube(url)
    assert np.array_equal(cube.block(), values)
    with pytest.raises(UsageError, match="can be read only"):
        cube._place.write("x", b"")
    assert cube._place.beside(".ledger").exists()
    with serving(tmp_path) as served:
        assert np.array_equal(Cube(f"zip://a.zarr::{served.url}/a.zip").block(), values)


def test_what_is_wrong_with_a_zip_file_is_said(own, tmp_path):
    (tmp_path / "no.zip").write_bytes(b"PK, or so it says")
    with pytest.raises(StoreError, match=r"no\.zip is no zip file"):
        Cube(tmp_path / "no.zip")
    with pytest.raises(StoreMissing, match="there is no store"):
        Cube("zip::nowhere.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(ForeignStore, match=r"no zarr\.json at its root"):
        Cube(tmp_path / "other.zip")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a/zarr.json", "{}")
        archive.writestr("b/zarr.json", "{}")
    with pytest.raises(StoreError, match=r"several stores \(a, b\); say which, as zip://a::"):
        Cube(tmp_path / "two.zip")
    (own / SHARD).unlink()
    lost = zipped(own, tmp_path / "lost.zip")
    with pytest.raises(ChunkMissing, match="the ledger calls"):
        Cube(lost).block()
    alone = zipped(own, tmp_path / "alone.zip", ledger=False)
    with pytest.raises(ChunkMissing, match="no ledger lies beside"):
        Cube(alone).block()


@settings(max_examples=25)
@given(at=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_a_zip_file_with_a_flipped_bit_is_read_right_or_refused(
    store, values, tmp_path_factory, at, bit
):
    file = zipped(store, tmp_path_factory.getbasetemp() / f"{uuid.uuid4().hex}.zip")
    flip(file, at % file.stat().st_size, bit)
    try:
        found = Cube(file).block()
    except (StoreError, CorruptError, UsageError) as error:
        assert str(error)  # noqa: PT017 - either this, or the values
    else:
        assert np.array_equal(found, values)
    finally:
        file.unlink()


# ------------------------------------------------------------------ memory, any indexing, processes


@pytest.fixture(scope="module")
def in_memory(store):
    return copy_to(store, f"memory://{uuid.uuid4().hex}/a.zarr")


@settings(max_examples=60)
@given(
    rows=st.lists(st.integers(0, 10), max_size=25),
    columns=st.lists(st.integers(0, 2), max_size=5),
    aors=st.builds(slice, *[st.none() | st.integers(-7, 7)] * 2, st.sampled_from([None, 1, 2, -1])),
    most=st.sampled_from([1, 300, 1 << 23]),
    gap=st.sampled_from([0, 1 << 16]),
)
def test_any_block_equals_the_local_one(in_memory, values, rows, columns, aors, most, gap):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_reader, "MOST_RANGE", most)
        patch.setattr(remote_reader, "MOST_GAP", gap)
        patch.setattr(remote_reader, "SMALL", 0)
        reader = Cube(in_memory)._reader
        assert isinstance(reader, RemoteShardReader)
        found = reader.read_block(rows, columns, aors=aors)
        wanted = values[np.array(rows, int)][:, np.array(columns, int)][..., aors]
        assert found.shape == wanted.shape
        assert np.array_equal(found, wanted)


def _read_in_child(what):
    return float(what["flux"].sum()) if isinstance(what, xr.Dataset) else what.block()


@pytest.mark.parametrize("way", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_other_processes_read_it_too(web, values, way):
    cube = Cube(f"{web.url}/a.zarr")
    dataset = open_store(f"{web.url}/a.zarr")
    assert float(dataset["flux"].sum()) != 0  # the event loop of fsspec has run in this process
    with get_context(way).Pool(1) as pool:
        assert np.array_equal(pool.apply(_read_in_child, (cube,)), values)
        assert np.isclose(pool.apply(_read_in_child, (dataset,)), values[:, :, 0].sum())


def test_threads_share_a_reader(web, values):
    cube = Cube(f"{web.url}/a.zarr")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: cube.values(int(k) * 3 + 1, TYPES[k % 3]), range(11)))
    for k, one in enumerate(found):
        assert np.array_equal(one, values[k, k % 3])


def test_a_published_shard_without_a_ledger_beside_it_cannot_be_called_unbuilt(own, in_memory):
    url = copy_to(own, f"memory://{uuid.uuid4().hex}/a.zarr")
    place_of(url).beside(".ledger").remove_tree("")
    place_of(url).remove(SHARD)
    with pytest.raises(ChunkMissing, match="no ledger lies beside the store"):
        Cube(url).block()
    with pytest.raises(ChunkMissing, match="no ledger lies beside the store"):
        Cube(url).values(13, TYPES[0])
    assert np.isfinite(Cube(url).block(slice(0, 4))).all()


# ------------------------------------------------------------------ what names a place


def test_a_local_path_is_a_folder_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = LocalPlace(str(tmp_path / "a b.zarr"))
    odd = tmp_path / "a b.zarr"
    for path in ("a b.zarr", odd, str(odd), f"{odd}/", odd.as_uri(), f"file://localhost{odd}"):
        assert place_of(path) == wanted, path
    assert place_of(wanted) is wanted
    assert place_of("no.zip") == LocalPlace(str(tmp_path / "no.zip")), "a zip file must be there"
    (tmp_path / "folder.zip").mkdir()
    assert isinstance(place_of("folder.zip"), LocalPlace)
    assert place_of("a::b.zarr") == LocalPlace(str(tmp_path / "a::b.zarr"))


@pytest.mark.parametrize(
    ("path", "options", "match"),
    [
        ("", None, "path of the store is empty"),
        (None, None, "not by a NoneType"),
        (3, None, "not by a int"),
        (["a.zarr"], None, "not by a list"),
        ("a.zarr", {"anon": True}, r"takes no storage_options \(anon given\)"),
        ("zip::a.zip", {"anon": True}, "takes no storage_options"),
        ("file://host/a.zarr", None, "names a file on the host 'host'"),
        ("s3://", None, "names no store"),
        ("memory://", None, "names no store"),
        ("https://host/a.zarr?token=1", None, "has a query"),
        ("https://host/a.zarr#x", None, "has a query or a fragment"),
        ("https://me:pass@host/a.zarr", None, "a user or a password stands in a URL"),
        ("s3://b/a.zarr", ["anon"], "storage_options are names and values"),
        ("s3://b/a.zarr", {1: 2}, "storage_options are names and values"),
        ("s3://b/a.zarr", 5, "not a int"),
    ],
)
def test_what_names_no_place_is_refused(path, options, match):
    with pytest.raises(UsageError, match=match) as told:
        place_of(path, storage_options=options)
    assert "pass@" not in str(told.value)
    if options is None:
        with pytest.raises(UsageError, match=match):
            open_store(path)


def test_protocols_that_cannot_be_had_are_named():
    with pytest.raises(UsageError, match=r"foo://x/a\.zarr cannot be opened .*Protocol not known"):
        Cube("foo://x/a.zarr")
    with pytest.raises(MissingExtra, match="needs a package that is not installed"):
        Cube("root://server//a.zarr")


def test_what_lies_beside_and_below():
    options = {"anon": True}
    place = place_of("s3://b/f.zarr//", storage_options=options)
    assert place == RemotePlace("s3://b/f.zarr", options)
    assert place.beside(".ledger") == RemotePlace("s3://b/f.zarr.ledger", options)
    assert place.below("next") == RemotePlace("s3://b/f.zarr/next", options)
    assert hash(place) == hash(place_of("s3://b/f.zarr"))
    inside = place_of("zip://f.zarr::s3://b/f.zip")
    assert inside.beside(".ledger").url == "zip://f.zarr.ledger::s3://b/f.zip"
    assert place_of("zip::s3://b/f.zip").beside(".ledger").url == "zip://.ledger::s3://b/f.zip"
    cached = place_of("simplecache::memory://b/f.zarr")
    assert cached.beside(".ledger").url == "simplecache::memory://b/f.zarr.ledger"
    assert ZipPlace("/x/f.zip", "f.zarr").beside(".ledger").url == "zip://f.zarr.ledger::/x/f.zip"
    with pytest.raises(UsageError, match="cannot be a key"):
        ZipPlace("/x/f.zip").size("../x")
    assert not place_of("https://host/f.zarr").is_listed
    assert place.is_listed
    assert os.sep not in place.root.removeprefix("s3://b/")
