"""The xarray engine: lazy, and indexing equal to numpy's on the loaded arrays."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import idfzarr
from idfzarr.analysis.backend import open_store
from idfzarr.errors import StoreMissing, UnfinishedStore
from idfzarr.flags import FLAGS, flag_bit
from idfzarr.store.cube import Cube, create, flags_of
from idfzarr.store.writer import CubeWriter

SHAPE = (11, 5, 7)
TYPES = [f"ch1_aper{n}_original" for n in range(1, 6)]


def tables():
    return {
        "objects": {
            "object_id": np.arange(11) * 10 + 3,
            "ra": np.linspace(0, 1, 11),
            "dec": np.zeros(11),
        },
        "types": TYPES,
        "aors": {"aor": np.arange(7) + 100, "mjd": np.linspace(53000, 53070, 7)},
        "shard_objects": 4,
    }


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Make a cube of random numbers; return its path and what was written."""

    class Written(dict):
        def __repr__(self):
            return "written"

    rng = np.random.default_rng(7)
    flux, error = rng.normal(0, 10, (2, *SHAPE)).astype(np.float32)
    flag = rng.integers(0, 65536, SHAPE)
    flux[2, 3, 4] = np.nan
    flag[2, 3, 4] = flag_bit("not_observed")
    path = tmp_path_factory.mktemp("engine") / "own.zarr"
    create(path, **tables()).write_block(0, flux=flux, flux_err=error, flag=flag)
    return path, Written(flux=flux, flux_err=error, flag=flag.astype(np.uint16))


def test_opening_reads_no_chunk(loaded, monkeypatch):
    path, values = loaded
    read = []

    def told(cube, rows=slice(None), types="*", **how):
        read.append(rows)
        return block(cube, rows, types, **how)

    block = Cube.block
    monkeypatch.setattr(Cube, "block", told)
    for name in ("read", "read_block"):
        for reader in ("ShardReader", "PlainReader"):
            owner = getattr(__import__("idfzarr.store.reader", fromlist=[reader]), reader)
            original = getattr(owner, name)

            def counted(self, *a, _original=original, **k):
                read.append("chunk")
                return _original(self, *a, **k)

            monkeypatch.setattr(owner, name, counted)
    with open_store(path) as ds:
        repr(ds)
        part = ds["flux"].isel(object=slice(2, 4)).sel(type=TYPES[1])
        assert part.shape == (2, 7)
        assert read == []
        assert np.array_equal(part.to_numpy(), values["flux"][2:4, 1], equal_nan=True)
        assert read[0] == [2, 3]
        assert 1 <= read.count("chunk") <= 3


def indexers(n):
    """Return any index of a dimension of length n that isel takes."""
    # A start before the first is left out: xarray itself takes x[-n - 1 :: -1] for x[::-1].
    ends = st.none() | st.integers(-n, n + 2)
    steps = st.integers(-3, 3).filter(bool) | st.none()
    positions = st.lists(st.integers(-n, n - 1), max_size=2 * n).map(
        lambda k: np.array(k, dtype=int)
    )
    masks = st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
    return st.integers(-n, n - 1) | st.builds(slice, ends, ends, steps) | positions | masks


@settings(max_examples=100)
@given(st.tuples(*(indexers(n) for n in SHAPE)), st.sampled_from(["flux", "flux_err", "flag"]))
def test_any_selection_equals_numpy(loaded, key, name):
    path, values = loaded
    with open_store(path) as ds:
        chosen = dict(zip(("object", "type", "aor"), key, strict=True))
        got = ds[name].isel(chosen)
        expected = values[name]
        # orthogonal: one axis after the other, from the last on
        for axis in (2, 1, 0):
            expected = expected[(slice(None),) * axis + (key[axis],)]
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        assert np.array_equal(got.to_numpy(), expected, equal_nan=name != "flag")


@settings(max_examples=30)
@given(st.lists(st.tuples(*(st.integers(-n, n - 1) for n in SHAPE)), min_size=1, max_size=9))
def test_pointwise_selections_equal_numpy(loaded, points):
    path, values = loaded
    k = np.array(points)
    with open_store(path) as ds:
        got = ds["flux"].isel(
            {d: xr.Variable("point", k[:, i]) for i, d in enumerate(("object", "type", "aor"))}
        )
        assert got.dims == ("point",)
        expected = values["flux"][k[:, 0], k[:, 1], k[:, 2]]
        assert np.array_equal(got.to_numpy(), expected, equal_nan=True)


def test_selections_by_label(loaded):
    path, values = loaded
    with open_store(path) as ds:
        one = ds.sel(object=53, type=TYPES[2], aor=104)
        assert float(one["flux"]) == values["flux"][5, 2, 4]
        many = ds["flag"].sel(object=[3, 103], aor=slice(101, 103))
        assert np.array_equal(many.to_numpy(), values["flag"][[0, 10]][:, :, 1:4])
        twice = ds["flux"].isel(object=slice(None, None, -1)).isel(object=slice(2, 5), aor=[6, 0])
        assert np.array_equal(
            twice.to_numpy(), values["flux"][::-1][2:5][:, :, [6, 0]], equal_nan=True
        )
        masked = ds["flux"].where(ds["flag"] == values["flag"][0, 0, 0], drop=True)
        assert values["flux"][0, 0, 0] in masked.to_numpy()
        with pytest.raises(KeyError, match="not all values found in index 'object'"):
            ds.sel(object=54)
        with pytest.raises(IndexError, match="11"):
            ds["flux"].isel(object=11).to_numpy()


def test_dask_chunks_lie_along_shards(loaded):
    path, values = loaded
    with open_store(path, chunks={}) as ds:
        for name in ("flux", "flux_err", "flag"):
            assert ds[name].chunks == ((4, 4, 3), (5,), (7,))
        total = ds["flux"].sum("aor").compute(scheduler="synchronous")
        assert np.allclose(total, np.nansum(values["flux"], axis=2), atol=1e-3)
        other = ds["flag"].isel(object=[9, 1]).compute(scheduler="threads")
        assert np.array_equal(other, values["flag"][[9, 1]])
    with open_store(path, chunks={"object": 8}) as ds:
        assert ds["flux"].chunks == ((8, 3), (5,), (7,))
        assert np.array_equal(ds["flux"].to_numpy(), values["flux"], equal_nan=True)


def test_what_is_not_built_says_so_and_is_never_cast(tmp_path):
    cube = create(tmp_path / "part.zarr", **tables())
    cube.write_block(4, flux=np.ones((4, 5, 7)), flux_err=np.ones((4, 5, 7)))
    with open_store(tmp_path / "part.zarr") as ds:
        flag = ds["flag"].to_numpy()
        assert flag.dtype == np.uint16
        assert (flag[4:8] == 0).all()
        assert (flag[:4] == flag_bit("not_built")).all()
        assert (flag[8:] == flag_bit("not_built")).all()
        assert np.isnan(ds["flux"].to_numpy()[:4]).all()
        assert (ds["flux"].to_numpy()[4:8] == 1).all()


def test_attributes_are_those_of_cf(small_store):
    with idfzarr.open(small_store.store) as ds:
        assert ds["flux"].dims == ("object", "type", "aor")
        assert ds["flux"].attrs["units"] == ds["flux_err"].attrs["units"] == "uJy"
        assert ds["flux"].attrs["ancillary_variables"].split() == ["flux_err", "flag"]
        masks, meanings = ds["flag"].attrs["flag_masks"], ds["flag"].attrs["flag_meanings"].split()
        assert masks.dtype == ds["flag"].dtype == np.uint16
        assert dict(zip(meanings, masks.tolist(), strict=True)) == {f.name: f.bit for f in FLAGS}
        assert "units" not in ds["flag"].attrs
        assert ds["ra"].attrs["units"] == "degree" or ds["ra"].attrs["units"].startswith("deg")
        assert ds["mjd"].dims == ("aor", "channel")
        assert ds["zeropoint"].dims == ("type", "aor")
        assert json.loads(ds.attrs["idfzarr"])["format"] == 1
        assert np.array_equal(ds["object_id"], ds["object"])
        cube = Cube(small_store.store)
        assert set(cube.coordinate_names) - {"value"} <= set(ds.coords)
        assert sorted(ds.data_vars) == ["flag", "flux", "flux_err"]
        block = cube.block([5])[0]
        assert np.array_equal(ds["flux"][5], block[:, 0], equal_nan=True)
        assert np.array_equal(ds["flag"][5], flags_of(block[:, 2]))


def test_the_engine_is_found_by_its_name_and_drops_variables(small_store):
    if "idfzarr" in xr.backends.list_engines():
        with xr.open_dataset(small_store.store, engine="idfzarr") as ds:
            assert ds["flux"].shape[1:] == (40, 6)
    with open_store(small_store.store, drop_variables=["flag", "ra"]) as ds:
        assert sorted(ds.data_vars) == ["flux", "flux_err"]
        assert "ra" not in ds.coords
        assert "dec" in ds.coords
    with open_store(small_store.store, drop_variables="flux") as ds:
        assert sorted(ds.data_vars) == ["flag", "flux_err"]


def test_a_dataset_can_be_pickled_and_saved(loaded, tmp_path):
    path, values = loaded
    for how in (None, {}):
        with open_store(path, chunks=how) as ds:
            data = pickle.dumps(ds)
            # all it holds are coordinates and where to read
            assert len(data) < 200_000
            back = pickle.loads(data)
        assert np.array_equal(back["flux"].to_numpy(), values["flux"], equal_nan=True)
        assert np.array_equal(back["flag"].to_numpy(), values["flag"])


def test_what_is_no_finished_store_is_refused(tmp_path):
    with pytest.raises(StoreMissing, match=r"there is no store at .*none.zarr"):
        open_store(tmp_path / "none.zarr")
    CubeWriter.begin(tmp_path / "begun.zarr", settings={"a": 1})
    with pytest.raises(UnfinishedStore, match="not finished"):
        open_store(tmp_path / "begun.zarr")
