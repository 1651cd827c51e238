"""The engine in earnest: other processes, stores that change, trees, CF, and what is read once."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import dask
import growing
import numpy as np
import pytest
import xarray as xr
import zarr
from growing import OLD, as_cube, measured
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cube import make_cube

from idfzarr.analysis import lazy_cube, planes
from idfzarr.analysis.backend import IdfzarrBackend, open_store
from idfzarr.analysis.lazy_array import LazyArray
from idfzarr.analysis.lazy_cube import CubeSource
from idfzarr.analysis.planes import Block, SharedPlanes
from idfzarr.errors import (
    ChunkCorrupt,
    ChunkMissing,
    CorruptError,
    ForeignStore,
    StoreError,
    StoreMissing,
    UsageError,
)
from idfzarr.flags import FLAGS, flag_bit
from idfzarr.ps1.datatree import open_datatree
from idfzarr.ps1.skydataset import wcs_of
from idfzarr.ps1.skystore import create_skystore
from idfzarr.store.cube import Cube, create
from idfzarr.store.images import SuperstackImages, write_superstack
from idfzarr.store.place import place_of
from idfzarr.store.root import read_root
from idfzarr.store.schema import COORDINATES, VALUES
from idfzarr.store.writer import CubeWriter

NEW = (105, 106, 107)
WCS = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 265.0,
    "CRVAL2": 69.0,
    "CRPIX1": 700.0,
    "CRPIX2": 650.0,
    "PC1_1": -1e-4,
    "PC2_2": 1e-4,
    "CDELT1": 1.0,
    "CDELT2": 1.0,
}
N_TYPES, N_AORS, N_OBJECTS = 40, 30, 40


@pytest.fixture
def store(tmp_path):
    return str(growing.built(tmp_path / "a.zarr", OLD))


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Make a cube whose shards are worth sharing, of random numbers; return path and values."""
    path = tmp_path_factory.mktemp("wide") / "w.zarr"
    rng = np.random.default_rng(3)
    shape = (N_OBJECTS, N_TYPES, N_AORS)
    flux, error = rng.normal(0, 10, (2, *shape)).astype(np.float32)
    flag = rng.integers(0, 4, shape).astype(np.uint16)
    cube = create(
        path,
        objects={"object_id": np.arange(N_OBJECTS) + 7},
        types=[f"ch{1 + n % 2}_aper{n}_original" for n in range(N_TYPES)],
        aors={"aor": np.arange(N_AORS), "mjd": np.arange(N_AORS) + 53000.0},
        shard_objects=10,
    )
    cube.write_block(0, flux=flux, flux_err=error, flag=flag)
    return path, {"flux": flux, "flux_err": error, "flag": flag}


@pytest.fixture(scope="module")
def by_zarr_python(wide):
    return growing.by_zarr(wide[0])


@pytest.fixture
def decoded(monkeypatch):
    """List what is decoded: how many planes of how many chunks."""
    found = []
    decode = CubeSource._decode

    def told(self, block, values):
        found.append((block.n_chunks, len(values)))
        return decode(self, block, values)

    monkeypatch.setattr(CubeSource, "_decode", told)
    return found


# ------------------------------------------------------------------ equal to zarr-python


@settings(max_examples=40)
@given(data=st.data(), name=st.sampled_from(["flux", "flux_err", "flag"]), chunked=st.booleans())
def test_mixed_indexers_equal_zarr_python(wide, by_zarr_python, data, name, chunked):
    """Orthogonal, pointwise and both at once, through Dask or not, against the plain array."""
    plain = by_zarr_python[:, :, VALUES.index(name)]
    expected = xr.Variable(("object", "type", "aor"), plain)
    positions = {
        dim: st.lists(st.integers(-n, n - 1), min_size=3, max_size=3)
        for dim, n in expected.sizes.items()
    }
    pointwise = data.draw(st.sets(st.sampled_from(["object", "type", "aor"])))
    key = {}
    for dim, n in expected.sizes.items():
        if dim in pointwise:
            key[dim] = xr.Variable("point", data.draw(positions[dim]))
        else:
            steps = st.sampled_from([None, 1, 3, -1, -2])
            ends = st.none() | st.integers(-n, n)
            key[dim] = data.draw(
                st.integers(-n, n - 1) | st.builds(slice, ends, ends, steps) | positions[dim]
            )
    with open_store(wide[0], chunks={} if chunked else None) as ds:
        got = ds[name].variable.isel(key)
        wanted = expected.isel(key)
        assert got.dims == wanted.dims
        assert got.dtype == (np.uint16 if name == "flag" else np.float32)
        with dask.config.set(scheduler="synchronous"):
            assert np.array_equal(got.to_numpy(), wanted.to_numpy())


def test_positions_outside_are_refused(wide):
    with open_store(wide[0]) as ds:
        for dim, n in ds["flux"].sizes.items():
            with pytest.raises(IndexError, match=f"{n}"):
                ds["flux"].isel({dim: n}).to_numpy()
            with pytest.raises(IndexError, match=r"out of bounds|outside"):
                ds["flux"].isel({dim: [0, -n - 1]}).to_numpy()


# ------------------------------------------------------------------ read once


def test_what_is_used_together_is_decoded_once(wide, decoded):
    path, values = wide
    with open_store(path, chunks={}) as ds, dask.config.set(scheduler="threads", num_workers=2):
        for _ in range(2):
            weight = (1 / ds["flux_err"] ** 2).where(ds["flag"] == 0)
            found = ((ds["flux"] * weight).sum("aor") / weight.sum("aor")).compute()
        weights = np.where(values["flag"] == 0, 1 / values["flux_err"].astype(float) ** 2, 0)
        wanted = (values["flux"] * weights).sum(-1) / weights.sum(-1)
        np.testing.assert_allclose(found, wanted, rtol=2e-3)
        assert decoded[-4:] == [(400, 3)] * 4, "one read of each of the four shards"
        # One alone: what is kept and not fetched ends the keeping.
        decoded.clear()
        for _ in range(3):
            time.sleep(0.001)
            ds["flux"].mean("aor").compute()
        assert decoded[0] == (400, 3)


def test_one_variable_alone_is_decoded_alone(wide, decoded):
    path, values = wide
    with open_store(path, chunks={}) as ds:
        for _ in range(3):
            np.testing.assert_allclose(
                ds["flux_err"].mean("aor").compute(),
                values["flux_err"].mean(-1),
                rtol=1e-4,
                atol=1e-5,
            )
    assert decoded == [(400, 1)] * 12


def test_planes_are_the_callers_own_and_whole_of_a_cube_too(wide):
    path, values = wide
    with open_store(path) as ds:
        loaded = ds.load()
        for name, wanted in values.items():
            own = loaded[name].to_numpy()
            assert np.array_equal(own, wanted)
            assert own.base is None or own.base.nbytes == own.nbytes, "no more than it shows"
            own[...] = 0
    with open_store(path) as ds:
        assert np.array_equal(ds["flux"], values["flux"])


class _Fake:
    """Stands for the cube: planes of the value's number, slowly, or an error."""

    def __init__(self):
        self.calls = []
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, block, values):
        self.calls.append(tuple(values))
        assert self.gate.wait(10)
        if self.fails:
            msg = "cannot be read"
            raise ChunkCorrupt(msg)
        return [np.full((len(block.rows), len(block.columns), block.n_aors), v) for v in values]


def block_of(first, n=40):
    return Block(np.arange(first, first + 10), np.arange(n), slice(0, 5, 1), 5)


def test_whoever_asks_meanwhile_waits_for_what_is_coming():
    fake = _Fake()
    shared = SharedPlanes(fake)
    assert [shared.get(block_of(0), v)[0, 0, 0] for v in (0, 1, 2)] == [0, 1, 2]
    fake.calls.clear()
    fake.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(shared.get, block_of(10), v) for v in (1, 0, 2)]
        time.sleep(0.05)
        fake.gate.set()
        assert [one.result()[0, 0, 0] for one in asked] == [1, 0, 2]
    assert len(fake.calls) == 1
    assert sorted(fake.calls[0]) == [0, 1, 2]
    fake.fails = True
    fake.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(shared.get, block_of(20), v) for v in (1, 0, 2)]
        fake.gate.set()
        for one in asked:
            with pytest.raises(ChunkCorrupt, match="cannot be read"):
                one.result()
    fake.fails = False
    assert shared.get(block_of(20), 2)[0, 0, 0] == 2


def test_what_is_kept_is_bounded_in_bytes_and_time(monkeypatch):
    fake = _Fake()
    shared = SharedPlanes(fake)
    for v in (0, 1, 2):
        shared.get(block_of(0), v)
    shared.get(block_of(10), 0)
    assert len(shared._kept) == 2
    monkeypatch.setattr(planes, "KEPT_SECONDS", 0.0)
    fake.calls.clear()
    shared.get(block_of(10), 1)
    assert fake.calls == [(1,)], "what is old is read anew"
    assert not shared._kept
    monkeypatch.setattr(planes, "KEPT_SECONDS", 60.0)
    for v in (0, 1, 2):
        shared.get(block_of(30), v)
    monkeypatch.setattr(planes, "MOST_KEPT", 2 * block_of(0).n_bytes)
    for k in range(5, 9):
        shared.get(block_of(k * 10), 0)
    assert sum(kept.plane.nbytes for kept in shared._kept.values()) <= planes.MOST_KEPT
    fake.calls.clear()
    shared.get(block_of(0, n=2), 0)
    assert fake.calls == [(0,)], "small blocks are not kept"


# ------------------------------------------------------------------ stores that change


@pytest.mark.parametrize("where", ["disk", "memory"])
@pytest.mark.parametrize("chunks", [None, {}])
def test_an_open_dataset_keeps_its_lengths_through_an_append(tmp_path, where, chunks):
    path = str(tmp_path / "a.zarr") if where == "disk" else f"memory://{tmp_path.name}/a.zarr"
    growing.built(path, OLD)
    before = as_cube(measured(OLD))
    with open_store(path, chunks=chunks) as ds:
        ds["flux"][0].load()
        sent = pickle.dumps(ds)
        growing.append(path, NEW)
        for one in (ds, pickle.loads(sent)):
            assert one.sizes["aor"] == 5
            np.testing.assert_array_equal(one["flux"], before[:, :, 0])
            np.testing.assert_array_equal(
                one["flux_err"].isel(aor=[4, 0]), before[:, :, 1][..., [4, 0]]
            )
            np.testing.assert_array_equal(one["flux"][3, 1], before[3, 1, 0])
            np.testing.assert_array_equal(one["flag"][3, :, ::-1], before[3, :, 2, ::-1])
    with open_store(path) as ds:
        np.testing.assert_array_equal(ds["flux"], as_cube(measured(OLD + NEW))[:, :, 0])


def sent_to_a_fresh_process(dataset):
    """Return a dataset as another process would unpickle it: nothing is open there."""
    data = pickle.dumps(dataset)
    open_here = dict(lazy_cube._OPEN)
    lazy_cube._OPEN.clear()
    try:
        return pickle.loads(data)
    finally:
        lazy_cube._OPEN.update(open_here)


def test_a_dataset_unpickled_after_an_append_keeps_its_lengths(store):
    before = as_cube(measured(OLD))
    ds = open_store(store)
    growing.append(store, NEW)
    there = sent_to_a_fresh_process(ds)
    assert there["flux"].variable is not ds["flux"].variable
    for name, value in (("flux", 0), ("flux_err", 1), ("flag", 2)):
        np.testing.assert_array_equal(there[name], before[:, :, value])
        np.testing.assert_array_equal(there[name][2, 1], before[2, 1, value])
        np.testing.assert_array_equal(there[name][:, 1, -1], before[:, 1, value, -1])


def test_types_that_were_added_do_not_matter(store):
    before = as_cube(measured(OLD))
    with open_store(store) as ds:
        ds["flux"][0].load()
        growing.add_types(store)
        np.testing.assert_array_equal(ds["flux"], before[:, :, 0])
        np.testing.assert_array_equal(sent_to_a_fresh_process(ds)["flux"], before[:, :, 0])


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_another_store_under_the_same_name_is_refused(tmp_path, where):
    path = str(tmp_path / "a.zarr") if where == "disk" else f"memory://{tmp_path.name}/a.zarr"
    growing.built(path, OLD)
    ds, lazy = open_store(path), open_store(path, chunks={})
    ds["flux"][0].load()
    for suffix in ("", ".ledger"):
        place_of(path).beside(suffix).remove_tree("")
    with pytest.raises((StoreError, CorruptError), match=r"a\.zarr"):
        ds["flux"].load()
    growing.built(path, OLD)
    for one in (ds, lazy, sent_to_a_fresh_process(ds)):
        with pytest.raises((StoreError, ChunkMissing), match=r"it is another store|is not there"):
            one["flux"].load()
        with pytest.raises((StoreError, ChunkMissing), match=r"it is another store|is not there"):
            one["flux"][1, 1].load()


def test_values_measured_anew_never_mix_with_old_ones(store):
    ds = open_store(store, chunks={})
    ds["flux"][0].load()
    growing.remeasure(store, OLD[:2], version=1)
    with pytest.raises(StoreError, match="measured or laid out anew; open it again"):
        ds["flux"].load()
    wanted = as_cube(measured(OLD))
    wanted[..., :2] = as_cube(measured(OLD[:2], version=1))
    np.testing.assert_array_equal(open_store(store)["flux"], wanted[:, :, 0])


def test_readers_never_see_a_mixture_while_a_store_grows(store):
    """A reader in a thread; every answer it gets is the old cube, bit for bit, or an error."""
    before = as_cube(measured(OLD))[:, :, 0]
    ds = open_store(store)
    stop, seen = threading.Event(), []

    def read():
        while not stop.is_set():
            seen.append(np.array_equal(ds["flux"].isel(object=slice(None)), before, equal_nan=True))

    thread = threading.Thread(target=read)
    thread.start()
    for key in range(105, 111):
        growing.append(store, (key,))
    stop.set()
    thread.join()
    assert len(seen) > 3
    assert all(seen)
    assert Cube(store).shape[3] == 11


def test_tables_of_a_store_that_changed_are_refused(store):
    with xr.open_datatree(store, engine="idfzarr") as tree:
        table = tree["variability"].ds
        assert (table["median"][0] == 5).all()
        growing.append(store, NEW)
        with pytest.raises(StoreError, match="has changed since it was opened, and its tables"):
            table["median"][1].load()
    with xr.open_datatree(store, engine="idfzarr") as tree:
        assert (tree["variability"].ds["median"] == 8).all()


# ------------------------------------------------------------------ processes


def _mean(dataset):
    return float(dataset["flux"].mean())


def test_it_survives_a_fork_with_threads_at_work(wide):
    path, values = wide
    ds = open_store(path, chunks={})
    stop = threading.Event()

    def read():
        while not stop.is_set():
            _mean(ds)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with get_context("fork").Pool(2) as pool:
            plain = open_store(path)
            for got in pool.map(_mean, [plain] * 4):
                assert np.isclose(got, values["flux"].mean(dtype=float), atol=1e-3)
    finally:
        stop.set()
        thread.join()


def test_dask_distributed_computes_it_in_other_processes(wide):
    distributed = pytest.importorskip("distributed", reason="needs dask.distributed")
    path, values = wide
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster),
        open_store(path, chunks={}) as ds,
    ):
        found = (ds["flux"] / ds["flux_err"]).where(ds["flag"] == 0).sum("aor").compute()
    wanted = np.where(values["flag"] == 0, values["flux"] / values["flux_err"], 0).sum(-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-2)


def test_a_pickled_dataset_is_small_and_shares_one_cube(wide, monkeypatch):
    path, _ = wide
    data = pickle.dumps(open_store(path))
    assert len(data) < 60_000
    ds, opened = open_store(path), []

    def told(place):
        opened.append(place)
        return Cube(place)

    monkeypatch.setattr(lazy_cube, "Cube", told)
    there = sent_to_a_fresh_process(ds)
    assert opened == [place_of(path)], "one for its three arrays"
    assert there.sizes["object"] == N_OBJECTS


# ------------------------------------------------------------------ CF


def test_cf_xarray_reads_flags_and_roles(store):
    pytest.importorskip("cf_xarray", reason="needs cf_xarray")
    with open_store(store) as ds:
        flag = ds["flag"]
        wanted = np.asarray(flag) & flag_bit(FLAGS[1].name) != 0
        assert wanted.any()
        assert np.array_equal(flag.cf == FLAGS[1].name, wanted)
        assert set(flag.cf.flags.data_vars) == {one.name for one in FLAGS}
        assert ds.cf.cf_roles == {"timeseries_id": ["object_id"]}
        assert {"flux_err", "flag"} <= set(ds.cf[["flux"]].variables)


def test_attributes_say_what_cf_cannot(store):
    with open_store(store) as ds:
        assert ds.attrs["Conventions"].startswith("CF-1.")
        assert "featureType" not in ds.attrs, "no sampling geometry has a dimension of types"
        assert "coordinates" not in ds.attrs
        assert ds.attrs["source"] == store
        assert json.loads(ds.attrs["idfzarr"])["uuid"] == Cube(store).uuid
        assert ds["ra"].attrs["ucd"] == "pos.eq.ra;meta.main"
        assert ds["dec"].attrs["ucd"] == "pos.eq.dec;meta.main"
        assert ds["mjd"].attrs["time_scale"] == "utc"
        assert "standard_name" not in ds["ra"].attrs
        for name, variable in ds.variables.items():
            assert variable.attrs.get("long_name") or name not in {*COORDINATES, *VALUES}, name
            refers = variable.attrs.get("ancillary_variables", "").split()
            assert set(refers) <= set(ds.variables), name
        assert ds["zeropoint"].attrs.get("ancillary_variables") is None, "there is no such error"
    with open_store(store, drop_variables=["flag"]) as ds:
        assert ds["flux"].attrs["ancillary_variables"] == "flux_err"
    with open_store(store, drop_variables=["flag", "flux_err"]) as ds:
        assert "ancillary_variables" not in ds["flux"].attrs


@pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3 specification")
def test_what_was_opened_is_saved_as_zarr_and_netcdf(store, tmp_path):
    with open_store(store) as ds:
        ds.isel(object=[1, 2]).to_zarr(tmp_path / "part.zarr")
        with xr.open_zarr(tmp_path / "part.zarr") as back:
            assert np.array_equal(back["flux"], ds["flux"][1:3], equal_nan=True)
            assert back["flag"].dtype == np.uint16
        with pytest.raises(ForeignStore, match="none of idfzarr"):
            Cube(tmp_path / "part.zarr")
        awkward = [n for n, v in ds.variables.items() if v.dtype.kind in "iU"]
        part = ds[["flux"]].isel(object=[1, 2]).drop_vars(awkward, errors="ignore")
        part.to_netcdf(tmp_path / "part.nc", engine="scipy")


# ------------------------------------------------------------------ trees


@pytest.fixture(scope="module")
def imaged(tmp_path_factory):
    """Make a store with a superstack of several tiles, a catalogue and statistics."""
    path = tmp_path_factory.mktemp("imaged") / "i.zarr"
    writer = CubeWriter.begin(path).lay_out(
        objects={
            "object_id": [1, 2, 3],
            "ra": [1.0, 2.0, 3.0],
            "dec": [0.0] * 3,
            "colour": ["r", "g", "b"],
        },
        types=["ch1_a_original", "ch1_b_original"],
        aors={"aor": [5, 6], "mjd": [1.0, 2.0]},
    )
    writer.write_shard(0, np.ones((3, 2, 3, 2), dtype=np.float32))
    rng = np.random.default_rng(0)
    planes_ = {
        n: rng.normal(size=(1300, 1400)).astype(np.float32) for n in ("flux", "err", "coverage")
    }
    segments = rng.integers(0, 99, (1300, 1400)).astype(np.int32)
    images = SuperstackImages(
        "ch1",
        **planes_,
        segmentation=segments,
        header=WCS,
        attributes={"unit": "MJy/sr", "deep": {"a": 1}},
    )
    write_superstack(writer, images)
    table = {"median": np.arange(6, dtype=np.float32).reshape(3, 2)}
    writer.write_table("variability", table, dims=("object", "type"), attributes={"n_aors": 2})
    writer.publish()
    return path, planes_ | {"segmentation": segments}


def test_a_tree_holds_cube_catalogue_statistics_and_images(imaged):
    path, images = imaged
    for tree in (xr.open_datatree(path, engine="idfzarr"), open_datatree(path, chunks={})):
        with tree:
            assert (tree["flux"] == 1).all()
            assert tree["catalogue/colour"].to_numpy().tolist() == ["r", "g", "b"]
            assert tree["variability"].ds["median"].sel(object=2, type="ch1_b_original") == 3
            node = tree["images/superstack/ch1"].to_dataset()
            for name, wanted in images.items():
                assert np.array_equal(node[name], wanted)
                assert node[name].attrs["grid_mapping"] == "wcs"
            assert json.loads(node.attrs["deep"]) == {"a": 1}
            cut = node[["flux"]].isel(x=slice(100, 1300, 2), y=slice(40, 90))
            sky = wcs_of(cut).pixel_to_world_values(0, 0)
            np.testing.assert_allclose(sky, wcs_of(node).pixel_to_world_values(100, 40), atol=1e-9)
    with xr.open_datatree(path, engine="idfzarr", chunks={}) as tree:
        assert tree["images/superstack/ch1/flux"].chunks == ((1024, 276), (1024, 376))
    with xr.open_dataset(path, engine="idfzarr") as ds:
        assert set(ds.data_vars) == {"flux", "flux_err", "flag"}


def test_a_cutout_reads_its_tiles_alone_and_a_lost_tile_is_an_error(imaged, tmp_path):
    shutil.copytree(imaged[0], tmp_path / "i.zarr")
    tile = tmp_path / "i.zarr/images/superstack/ch1/flux/c/1/1"
    flux = imaged[1]["flux"]
    tile.unlink()
    with xr.open_datatree(tmp_path / "i.zarr", engine="idfzarr") as tree:
        image = tree["images/superstack/ch1"].ds["flux"]
        assert np.array_equal(image[:1024, 1000:1100], flux[:1024, 1000:1100])
        assert np.array_equal(image[::-7, 3], flux[::-7, 3])
        with pytest.raises(ChunkMissing, match=r"superstack/ch1/flux.* is missing"):
            image[1020:1030, 1020:1030].load()
        tile.write_bytes(b"x" * 100)
        with pytest.raises(ChunkCorrupt, match=r"does not match its crc32c"):
            image[1024, 1024].load()


@settings(max_examples=40)
@given(data=st.data())
def test_any_piece_of_an_image_equals_numpy(imaged, data):
    path, images = imaged
    source = CubeSource(place_of(path))
    at = "images/superstack/ch1/segmentation"
    array = LazyArray(source, at, read_root(place_of(path)).metadata[at])
    key = []
    for n in array.shape:
        ends = st.none() | st.integers(-n, n)
        steps = st.sampled_from([None, 1, 7, -1, -300])
        key.append(
            data.draw(
                st.integers(-n, n - 1)
                | st.builds(slice, ends, ends, steps)
                | st.lists(st.integers(-n, n - 1), max_size=4).map(lambda k: np.array(k, int))
            )
        )
    found = array._read(tuple(key))
    wanted = images["segmentation"]
    for axis in (1, 0):
        wanted = wanted[(slice(None),) * axis + (key[axis],)]
    assert np.array_equal(found, wanted)


def test_one_door_to_cubes_and_skycells(store, tmp_path):
    assert open_datatree(store)["variability"].ds.attrs["n_aors"] == 5
    with pytest.raises(UsageError, match="names are of skycells"):
        open_datatree(store, "skycell.1405.*")
    skycells = create_skystore(tmp_path / "sky.zarr")
    for one in (skycells, tmp_path / "sky.zarr"):
        with pytest.raises(KeyError, match="no image of a skycell"):
            open_datatree(one)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.txt").write_text("x")
    with pytest.raises(ForeignStore, match=r"neither a cube .* nor a store of skycells"):
        open_datatree(tmp_path / "other")
    with pytest.raises(StoreMissing, match="there is no store"):
        open_datatree(tmp_path / "nothing.zarr")


# ------------------------------------------------------------------ what is no store


def test_plain_open_dataset_goes_on_meaning_zarr(store):
    assert not IdfzarrBackend().guess_can_open(store)
    with xr.open_dataset(store) as ds:
        assert "lightcurves" in ds
        assert "flux" not in ds


def test_what_is_no_store_is_refused_by_the_engine(tmp_path):
    with pytest.raises(StoreMissing, match="there is no store at"):
        xr.open_dataset(tmp_path / "no.zarr", engine="idfzarr")
    zarr.create_group(tmp_path / "g.zarr")
    with pytest.raises(ForeignStore, match="has no attribute 'idfzarr'"):
        xr.open_dataset(tmp_path / "g.zarr", engine="idfzarr")
    with pytest.raises(ForeignStore, match="has no attribute 'idfzarr'"):
        xr.open_datatree(tmp_path / "g.zarr", engine="idfzarr")
    for wrong in (3, None, {"a": 1}, b""):
        with pytest.raises(UsageError, match="opened by its path or URL"):
            open_store(wrong)
    with pytest.raises(UsageError, match="takes no storage_options"):
        open_store(tmp_path, storage_options={"anon": True})
    make_cube(tmp_path / "a.zarr")
    with (
        xr.open_dataset(tmp_path / "a.zarr", engine="idfzarr") as ds,
        pytest.raises(KeyError, match="not all values found in index 'type'"),
    ):
        ds.sel(type="ch1_atuo_original")
