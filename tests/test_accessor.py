"""``ds.idf``: equal to the cube's lightcurves and to brute force, and as lazy as its Dataset."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.time import Time
from hypothesis import given, settings
from hypothesis import strategies as st

import idfzarr
from idfzarr.analysis import accessor
from idfzarr.analysis.dataset_time import days_of
from idfzarr.analysis.smoothing import bin_lightcurve, clip
from idfzarr.analysis.variability import STATISTICS, statistics
from idfzarr.errors import MissingExtra, NoSkyCoordinates, UnknownName, UsageError
from idfzarr.flags import BAD_FLAGS, FLAGS, flag_mask
from idfzarr.store.cube import Cube
from idfzarr.store.values import stacked
from idfzarr.store.writer import CubeWriter

TYPES = ["ch1_auto_original", "ch1_aper2_clean", "ch2_aper2_clean", "ch2_median7_ratio"]
N_OBJECTS, N_AORS = 30, 24
KINDS = ("lazy", "loaded", "dask", "dask in pieces")
AB = "ch1_auto_original,*_clean"
NUMBERED = map(str, itertools.count())


def positions(rng):
    """Return positions about the field's middle, across 0 h and near the pole, and one of none."""
    ra = np.concatenate([265 + rng.uniform(-1, 1, 10), rng.uniform(-1, 1, 10) % 360, np.zeros(10)])
    dec = np.concatenate(
        [69 + rng.uniform(-0.3, 0.3, 10), rng.uniform(-0.5, 0.5, 10), np.zeros(10)]
    )
    ra[20:], dec[20:] = rng.uniform(0, 360, 10), rng.uniform(89.5, 90, 10)
    ra[9] = np.nan
    return ra, dec


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Make a store of random numbers with all flags, gaps, negative fluxes and zero points."""
    rng = np.random.default_rng(3)
    ra, dec = positions(rng)
    shape = (N_OBJECTS, len(TYPES), N_AORS)
    flux = rng.normal(20, 15, shape).astype(np.float32)
    flux[rng.random(shape) < 0.1] *= 20
    flag = np.where(rng.random(shape) < 0.5, 0, 2 ** rng.integers(0, 16, shape))
    flux[rng.random(shape) < 0.1] = np.nan
    flux[4], flux[5, 1] = np.nan, 7.0
    flux[6] = -5
    error = rng.uniform(0.5, 3, shape).astype(np.float32)
    mjd = np.sort(53000 + rng.uniform(0, 300, N_AORS))
    mjd = np.stack([mjd, mjd + 0.3], axis=-1)[rng.permutation(N_AORS)]
    zeropoint = rng.normal(0, 0.1, shape[1:]).astype(np.float32)
    zeropoint[:, 3] = np.nan
    path = tmp_path_factory.mktemp("accessor") / "own.zarr"
    catalogue = {f"flux_auto_{c}": rng.uniform(5, 90, N_OBJECTS) for c in ("ch1", "ch2")}
    catalogue["flux_auto_ch2"][3] = -1
    catalogue |= {f"flux_auto_err_{c}": rng.uniform(0.1, 1, N_OBJECTS) for c in ("ch1", "ch2")}
    along = {
        "zeropoint": zeropoint,
        "zeropoint_err": rng.uniform(0, 0.02, shape[1:]).astype(np.float32),
        "noise_scale": rng.uniform(1, 2, shape[1:]).astype(np.float32),
    }
    writer = CubeWriter.begin(path).lay_out(
        objects={"object_id": np.arange(N_OBJECTS) * 7 + 100, "ra": ra, "dec": dec,
                 "x": np.arange(30.0), "y": np.arange(30.0) ** 2} | catalogue,
        types=TYPES,
        aors={"aor": np.arange(N_AORS) + 500, "mjd": mjd},
        shard_objects=8,
    )  # fmt: skip
    for name, values in along.items():
        writer.write_coordinate(name, values)
    block = stacked(flux, error, flag)
    for shard in range(writer.schema.layout.n_shards):
        first, last = writer.schema.layout.rows(shard)
        writer.write_shard(shard, block[first:last])
    writer.publish()
    return path


@pytest.fixture(scope="module")
def cube(store):
    return Cube(store)


@pytest.fixture(scope="module")
def every(store):
    """Open the store in each way there is."""
    return {
        "lazy": idfzarr.open(store),
        "loaded": idfzarr.open(store).load(),
        "dask": xr.open_dataset(store, engine="idfzarr", chunks={}),
        "dask in pieces": idfzarr.open(store).chunk({"aor": 7, "type": 1}),
    }


@pytest.fixture(params=KINDS)
def ds(request, every):
    return every[request.param]


@pytest.fixture
def lazy(every):
    return every["lazy"]


def is_unread(dataset, *names):
    return all(dataset[name].chunks or not dataset[name].variable._in_memory for name in names)


def assert_same(one, other):
    for name in ("aor", "mjd", "flux", "flux_err", "flag", "zeropoint", "noise_scale"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert (one.object_id, one.type, one.unit) == (other.object_id, other.type, other.unit)
    assert one.is_calibrated == other.is_calibrated
    np.testing.assert_equal((one.ra, one.dec), (other.ra, other.dec))


# ------------------------------------------------------------------ where it is


def test_both_ways_of_opening_have_it_and_import_idfzarr_stays_quick(store):
    code = f"""
import json, sys
import idfzarr
heavy = ("astropy.coordinates", "panel", "dask.distributed", "distributed", "scipy.spatial")
early = [name for name in (*heavy, "xarray") if name in sys.modules]
ds = idfzarr.open({str(store)!r})
n = ds.idf.nearest(265.0, 69.0, n=2).sizes["object"]
late = [name for name in heavy[:-1] if name in sys.modules]
import xarray as xr
m = xr.open_dataset({str(store)!r}, engine="idfzarr").idf.types("ch1_*").sizes["type"]
print(json.dumps([early, late, n, m]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], [], 2, 2]


def test_completing_a_name_on_a_foreign_dataset_raises_nothing():
    foreign = xr.Dataset({"t2m": ("time", [1.0])})
    assert "lightcurve" in dir(foreign.idf)
    assert "1 along time" in repr(foreign.idf)


@pytest.mark.parametrize(
    "call",
    [
        lambda a: a.types("ch1_*"),
        lambda a: a.objects(1),
        lambda a: a.lightcurve(1, "x"),
        lambda a: a.cone(1.0, 2.0, radius=3),
        lambda a: a.nearest(1.0, 2.0),
        lambda a: a.box(ra=(1, 2)),
        lambda a: a.crossmatch({"ra": [1.0], "dec": [1.0]}, 3),
        lambda a: a.good(),
        lambda a: a.calibrated(),
        lambda a: a.mag(),
        lambda a: a.ratio_to_mag(),
        lambda a: a.colour("ch1", "ch2"),
        lambda a: a.bin(14),
        lambda a: a.clip(),
        lambda a: a.fold(3.0),
        lambda a: a.variability(),
        lambda a: a.periodogram(1, "x"),
    ],
    ids=NUMBERED,
)
def test_a_foreign_dataset_is_refused(call):
    foreign = xr.Dataset({"t2m": ("time", [1.0])})
    with pytest.raises(UsageError, match=r"this Dataset has no '\w+': \.idf works on what idfzarr"):
        call(foreign.idf)


# ------------------------------------------------------------------ lightcurves


@pytest.mark.parametrize("name", TYPES)
def test_a_lightcurve_is_that_of_the_cube(ds, cube, name):
    for object_id in (100, 128, 303):
        assert_same(ds.idf.lightcurve(object_id, name), cube.lightcurve(object_id, name))


def test_a_lightcurve_of_any_selection_is_that_of_the_cube(ds, cube):
    truth = cube.lightcurve(121, TYPES[2])
    for chosen in (
        ds.sel(object=121, type=TYPES[2]),
        ds.sel(object=121).idf.types(TYPES[2]),
        ds.isel(type=2).idf.objects(121),
        ds.isel(type=slice(None, None, -1), object=slice(None, None, -2))
        .idf.objects([121])
        .isel(type=[1]),
        ds.transpose("aor", "type", "object", ...).sel(object=[121], type=[TYPES[2]]),
        ds.sel(object=121, type=TYPES[2]).sel(channel="ch2"),
    ):
        assert_same(chosen.idf.lightcurve(), truth)
        assert_same(chosen.idf.calibrated().idf.lightcurve(), truth.calibrated())
    part = ds.isel(aor=[5, 3]).idf.lightcurve(121, TYPES[2])
    np.testing.assert_array_equal(part.flux, truth.flux[[5, 3]])
    np.testing.assert_array_equal(part.zeropoint, truth.zeropoint[[5, 3]])
    alone = ds.isel(aor=4).idf.lightcurve(121, TYPES[2])
    assert (len(alone), alone.mjd[0]) == (1, truth.mjd[4])
    np.testing.assert_array_equal(alone.flux, truth.flux[4:5])


def test_many_lightcurves(lazy, cube):
    found = lazy.idf.lightcurves([128, 100], "ch2_*")
    for one, other in zip(found, cube.lightcurves([128, 100], "ch2_*"), strict=True):
        assert_same(one, other)
    assert len(lazy.isel(object=slice(3)).idf.lightcurves()) == 12


def test_one_lightcurve_reads_one_lightcurve(store, monkeypatch):
    ds = idfzarr.open(store)
    chain = ds.idf.calibrated().idf.good().idf.clip(4).idf.bin("14D", method="median")
    read = []
    original = Cube.block

    def told(self, rows, types, **how):
        read.append((list(rows), list(types)))
        return original(self, rows, types, **how)

    monkeypatch.setattr(Cube, "block", told)
    assert np.isfinite(chain.idf.lightcurve(100, TYPES[1]).flux).any()
    assert {(tuple(rows), tuple(types)) for rows, types in read} <= {((0,), (TYPES[1],))}


def test_lightcurves_for_other_packages(lazy, cube, monkeypatch):
    series = lazy.idf.to_timeseries(100, TYPES[0])
    np.testing.assert_array_equal(series["flux"].value, cube.lightcurve(100, TYPES[0]).flux)
    monkeypatch.setitem(sys.modules, "lightkurve", None)
    with pytest.raises(MissingExtra, match="pip install lightkurve"):
        lazy.idf.to_lightkurve(100, TYPES[0])


def test_lightkurve_takes_it(lazy, cube):
    pytest.importorskip("lightkurve", reason="lightkurve is an extra", exc_type=ImportError)
    found = lazy.idf.to_lightkurve(100, TYPES[0])
    np.testing.assert_array_equal(found.flux.value, cube.lightcurve(100, TYPES[0]).flux)
    assert (found.meta["OBJECT"], str(found.flux.unit)) == (100, "uJy")


# ------------------------------------------------------------------ sky


@pytest.mark.parametrize(
    ("ra", "dec", "radius"),
    [(265, 69, 1800), (0, 0, 2000), (359.9, 0.1, 1500), (0, 90, 900), (123, 89.9, 1200)],
)
def test_a_cone_equals_brute_force(ds, ra, dec, radius):
    known = np.isfinite(ds.ra.values)
    points = SkyCoord(np.nan_to_num(ds.ra.values), ds.dec.values, unit="deg")
    apart = np.where(known, SkyCoord(ra, dec, unit="deg").separation(points).arcsec, np.inf)
    expected = ds.object.values[np.argsort(apart)][: (apart <= radius).sum()]
    assert len(expected) > 1
    for found in (
        ds.idf.cone(ra, dec, radius=radius),
        ds.idf.cone((ra, dec), radius=f"{radius / 60} arcmin"),
        ds.idf.cone(SkyCoord(ra, dec, unit="deg").galactic, radius=radius * units.arcsec),
        ds.isel(type=1).idf.cone(f"{ra} {dec}", radius=radius),
    ):
        assert found.object.values.tolist() == expected.tolist()
        np.testing.assert_allclose(found.separation, np.sort(apart)[: len(expected)], rtol=1e-6)
    near = ds.idf.nearest(ra, dec, n=3)
    assert near.object.values.tolist() == ds.object.values[np.argsort(apart)[:3]].tolist()


def test_a_cone_keeps_all_that_belongs_to_its_objects(ds):
    found = ds.idf.cone("17h40m00s +69d00m00s", radius="1 deg")
    same = ds.sel(object=found.object.values)
    xr.testing.assert_identical(found.drop_vars("separation").load(), same.load())
    again = found.idf.cone(265.5, 69.0, radius=1800)
    assert 0 < again.sizes["object"] < found.sizes["object"]
    assert (np.diff(again.separation) >= 0).all()


def test_an_empty_cone_is_an_empty_dataset(ds):
    found = ds.idf.cone(100.0, -30.0, radius=1)
    assert dict(found.sizes) == dict(ds.sizes) | {"object": 0}
    done = found.idf.calibrated().idf.good().idf.types(AB).idf.mag().idf.clip().idf.bin(14).load()
    assert done.flux.size == 0
    assert found.idf.variability().load()["median"].size == 0
    assert found.idf.cone(1.0, 1.0, radius=5).sizes["object"] == 0
    assert found.idf.lightcurves() == []


def test_boxes(ds):
    found = ds.idf.box(ra=(359, 1), dec=(-0.5, 0.5)).object.values
    ra, dec = ds.ra.values, ds.dec.values
    with np.errstate(invalid="ignore"):
        inside = ((ra >= 359) | (ra <= 1)) & (np.abs(dec) <= 0.5)
    assert found.tolist() == ds.object.values[inside].tolist()
    assert len(found) == 10
    assert ds.idf.box(x=(3, 5), y=(10, None)).x.values.tolist() == [4, 5]


def test_crossmatch_gives_each_object_to_the_nearest_row(ds):
    rows = [3, 12, 25, 3]
    ra, dec = ds.ra.values[rows], ds.dec.values[rows] + np.array([2, -1, 0, 1]) / 3600
    table = Table({"RA": [10.0, *ra, np.nan], "DEC": [-60.0, *dec, 1.0]})
    found = ds.idf.crossmatch(table, "3 arcsec")
    assert found.table_row.values.tolist() == [2, 3, 4]
    assert found.object.values.tolist() == ds.object.values[[12, 25, 3]].tolist()
    np.testing.assert_allclose(found.separation, [1, 0, 1], atol=1e-5)
    assert ds.idf.crossmatch(table, 0.5).sizes["object"] == 1
    assert ds.idf.crossmatch(Table({"ra": [], "dec": []}, dtype=[float, float]), 5).object.size == 0


def test_a_field_without_sky_says_so(lazy):
    blind = lazy.assign_coords(ra=("object", np.full(N_OBJECTS, np.nan)))
    for call in (
        lambda: blind.idf.cone(1.0, 1.0, radius=1),
        lambda: blind.idf.box(ra=(1, 2)),
        lambda: blind.idf.crossmatch({"ra": [1.0], "dec": [1.0]}, 3),
    ):
        with pytest.raises(NoSkyCoordinates, match="this Dataset has no sky coordinates"):
            call()


# ------------------------------------------------------------------ time


@pytest.mark.parametrize(("start", "end"), [(53050, 53200), (53000, 53000), (None, 53100.5)])
def test_during_is_that_of_a_lightcurve_where_there_is_one_channel(ds, cube, start, end):
    for name in (TYPES[0], TYPES[3]):
        found = ds.idf.types(name).idf.during(start, end).idf.lightcurve(107, name)
        one = cube.lightcurve(107, name)
        assert_same(found, one.during(0 if start is None else start, end))


def test_an_aor_stays_whole_if_any_channel_lies_in_the_range(ds):
    mjd = ds.mjd.values
    end = mjd[4, 0] + 0.15  # after the first channel's exposure, before the second's
    found = ds.idf.during(None, end)
    assert ds.aor.values[4] in found.aor.values
    assert found.flux.sel(aor=504).equals(ds.flux.sel(aor=504))
    assert ds.aor.values[4] not in ds.idf.types("ch2_*").idf.during(None, end).aor.values
    by_date = ds.idf.during("2004-01-01", Time("2004-03-01"))
    assert by_date.aor.equals(ds.idf.during(53005, 53065).aor)
    assert by_date.sizes["aor"] > 2


@given(st.floats(52990, 53310), st.floats(0, 400), st.sampled_from(["ch1_*", "ch2_*", "*"]))
@settings(max_examples=25)
def test_during_equals_a_slow_loop(every, start, length, types):
    ds = every["lazy"].idf.types(types)
    channels = [{"ch1": 0, "ch2": 1}[c] for c in set(ds.type_channel.values)]
    inside = [
        aor
        for aor, times in zip(ds.aor.values, ds.mjd.values, strict=True)
        if any(start <= times[c] < start + length for c in channels)
    ]
    assert ds.idf.during(start, start + length).aor.values.tolist() == inside


@pytest.mark.parametrize("method", ["weighted", "mean", "median"])
def test_bins_are_those_of_each_lightcurve(ds, cube, method):
    binned = ds.idf.bin("14D", method=method)
    assert set(binned.flux.dims) == {"object", "type", "bin"}
    assert ds.flux.chunks is None or binned.flux.chunks is not None
    binned = binned.load()
    for object_id in (100, 121, 128, 135):
        for name in TYPES:
            one = cube.lightcurve(object_id, name)
            good = (one.flag & BAD_FLAGS) == 0
            truth = bin_lightcurve(one.mjd, one.flux, one.flux_err, good, width=14, method=method)
            found = binned.sel(object=object_id, type=name)
            filled = found.n.values > 0
            np.testing.assert_allclose(found.flux[filled], truth.flux, rtol=1e-12)
            np.testing.assert_allclose(found.flux_err[filled], truth.flux_err, rtol=1e-12)
            np.testing.assert_array_equal(found.n[filled], truth.n)
            np.testing.assert_array_equal(found.bin_start[filled], truth.start)
            assert np.isnan(found.flux[~filled]).all()
            assert (found.flag.values[~filled] > 0).all()
            assert (found.flag.values[filled] & BAD_FLAGS == 0).all()


def test_a_binned_dataset_is_one_of_ours(lazy, cube):
    binned = lazy.idf.calibrated().idf.types(AB).idf.bin("30D").idf.mag()
    assert is_unread(binned, "flux", "mag")
    one = binned.idf.lightcurve(100, TYPES[1])
    assert one.is_calibrated
    np.testing.assert_array_equal(one.aor, binned.bin)
    np.testing.assert_allclose(binned.mag.sel(object=100, type=TYPES[1]), one.mag, rtol=1e-12)
    assert binned.idf.during(53100, 53200).sizes["bin"] in {3, 4, 5}
    assert binned.idf.variability("median").load()["median"].shape == (N_OBJECTS, 3)
    means = binned.mjd.sel(channel="ch2").values
    times = cube.lightcurve(100, TYPES[2]).mjd
    expected = [times[np.floor(times / 30) == b].mean() for b in binned.bin.values]
    np.testing.assert_allclose(means, expected)
    with pytest.raises(UsageError, match="binned already"):
        binned.idf.bin("30D")
    with pytest.raises(UsageError, match=r"call calibrated\(\) before bin\(\)"):
        lazy.idf.bin("30D").idf.calibrated()


@pytest.mark.parametrize("window", [None, "60D"])
def test_clipped_is_that_of_each_lightcurve(ds, cube, window):
    found = ds.idf.clip(2.5, window)
    assert ds.flux.variable._in_memory or is_unread(found, "flux", "clipped")
    found = found.load()
    for object_id in (100, 121, 128, 135):
        for name in TYPES:
            one = cube.lightcurve(object_id, name)
            kept = clip(one.mjd, one.flux, sigma=2.5, window=window and 60, error=one.flux_err)
            part = found.sel(object=object_id, type=name)
            np.testing.assert_array_equal(part.clipped, ~kept & np.isfinite(one.flux))
            np.testing.assert_array_equal(part.flux, np.where(kept, one.flux, np.nan))
    assert found.clipped.sum() > 20


def test_fold_adds_phases(ds):
    found = ds.idf.fold(3.7, epoch=53000.5)
    np.testing.assert_allclose(found.phase, ((ds.mjd - 53000.5) / 3.7) % 1, atol=1e-9)
    assert ds.idf.fold(3.7).phase.min() == 0
    assert ds.sel(channel="ch1").idf.fold(2).phase.dims == ("aor",)


@pytest.mark.parametrize(
    ("duration", "days"),
    [
        (14, 14),
        ("14D", 14),
        ("14 d", 14),
        ("12h", 0.5),
        ("1yr", 365.25),
        ("2W", 14),
        (12 * units.hour, 0.5),
        (np.timedelta64(36, "h"), 1.5),
        (np.float32(2.5), 2.5),
    ],
)
def test_durations(duration, days):
    assert days_of(duration) == pytest.approx(days, rel=1e-12)


@pytest.mark.parametrize(
    "wrong", ["", "14X", "D14", "0D", "-3D", 0, -1, np.nan, np.inf, None, 3 * units.m, "1 2 d"]
)
def test_what_is_no_duration_is_refused(lazy, wrong):
    with pytest.raises(UsageError, match="is no duration"):
        lazy.idf.bin(wrong)


# ------------------------------------------------------------------ brightness


def test_good_puts_nan_where_flags_are_bad(ds):
    bad = (ds.flag.values & BAD_FLAGS) != 0
    found = ds.idf.good()
    assert ds.flux.variable._in_memory or is_unread(found, "flux", "flux_err")
    for name in ("flux", "flux_err"):
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], np.where(bad, np.nan, ds[name]))
        assert found[name].attrs == ds[name].attrs
    np.testing.assert_array_equal(found.flag, ds.flag)
    mine = (ds.flag.values & flag_mask(["neighbour", "saturated"])) != 0
    only = ds.idf.good(["neighbour", "saturated"]).flux
    np.testing.assert_array_equal(only, np.where(mine, np.nan, ds.flux))
    assert mine.any()
    assert not np.array_equal(mine, bad)
    mag = ds.idf.types(AB).idf.mag().idf.good("saturated").mag
    saturated = (ds.flag.sel(type=mag.type).values & 8) != 0
    assert np.isnan(mag.values[saturated]).all()
    assert np.isfinite(mag.values).any()


def test_every_flag_can_be_dropped_alone(lazy):
    for one in FLAGS:
        dropped = np.isnan(lazy.idf.good(one.name).flux) & np.isfinite(lazy.flux)
        expected = ((lazy.flag & np.uint16(one.bit)) != 0) & np.isfinite(lazy.flux)
        assert dropped.equals(expected)
        assert bool(expected.any())


def test_calibrated_is_that_of_each_lightcurve_and_twice_is_once(ds, cube):
    found = ds.idf.calibrated()
    assert ds.flux.variable._in_memory or is_unread(found, "flux", "flux_err")
    assert found.flux.attrs["units"] == "uJy"
    twice = found.idf.calibrated().load()
    found = found.load()
    for object_id in (100, 107, 121, 303):
        for name in TYPES:
            truth = cube.lightcurve(object_id, name).calibrated()
            for one in (found, twice):
                assert_same(one.idf.lightcurve(object_id, name), truth)
    assert not np.array_equal(found.flux, ds.flux, equal_nan=True)
    bare = ds.drop_vars(["zeropoint", "zeropoint_err", "noise_scale"]).idf.calibrated()
    np.testing.assert_array_equal(bare.flux, ds.flux)


def test_magnitudes_follow_calibration(ds):
    few = ds.idf.types(AB)
    after = few.idf.mag("Vega").idf.calibrated()
    before = few.idf.calibrated().idf.mag("Vega")
    np.testing.assert_array_equal(after.mag, before.mag)
    assert not np.allclose(after.mag, few.idf.mag("Vega").mag, equal_nan=True)


@pytest.mark.parametrize("system", ["AB", "Vega"])
def test_magnitudes_are_those_of_each_lightcurve(ds, cube, system):
    found = ds.idf.types(AB).idf.mag(system)
    assert ds.flux.variable._in_memory or is_unread(found, "mag", "mag_err", "mag_flag")
    found = found.load()
    for object_id in (100, 121, 142):
        for name in TYPES[:3]:
            one, part = cube.lightcurve(object_id, name), found.sel(object=object_id, type=name)
            np.testing.assert_allclose(part.mag, one.magnitude(system), rtol=1e-12)
            np.testing.assert_allclose(part.mag_err, one.mag_err, rtol=1e-12)
    flag = found.mag_flag.values
    flux = found.flux.values
    assert np.array_equal(flag == 1, flux <= 0)
    assert np.array_equal(flag == 2, np.isnan(flux))
    assert np.array_equal(np.isfinite(found.mag), flag == 0)
    assert (flag[6] == 1).any()
    assert found.mag.attrs["system"] == system
    alone = ds.sel(object=121, type=TYPES[1]).idf.mag(system)
    np.testing.assert_allclose(alone.mag, found.mag.sel(object=121, type=TYPES[1]))


def test_ratios_take_the_reference_of_their_own_channel(ds, cube):
    ratios = ds.idf.types("*_ratio")
    table = cube.table("catalogue")
    rows = [cube.row(int(one)) for one in ds.object.values]
    flux, error = (np.asarray(table[f"flux_auto{e}_ch2"])[rows] for e in ("", "_err"))
    found = ratios.idf.ratio_to_mag()
    ratio = ratios.flux.values[:, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        product = ratio.astype(float) * np.where(flux > 0, flux, np.nan)[:, None]
        expected = np.where(product > 0, 23.9 - 2.5 * np.log10(product), np.nan)
    np.testing.assert_allclose(found.mag[:, 0], expected, rtol=1e-12)
    relative = np.where(flux > 0, error / flux, np.nan)
    np.testing.assert_allclose(found.mag_err_reference[:, 0], 1.0857362 * relative, rtol=1e-6)
    own = ratios.flux_err.values[:, 0] / np.where(ratio > 0, ratio, np.nan)
    np.testing.assert_allclose(found.mag_err[:, 0], 1.0857362 * own, rtol=1e-6)
    assert np.isnan(found.mag[3]).all()
    assert (found.mag_flag[3] == 2).all()
    given = ratios.idf.ratio_to_mag({"ch2": flux}, {"ch2": 0.0})
    np.testing.assert_allclose(given.mag, found.mag)
    assert given.mag_err_reference.max() == 0
    assert np.isnan(ratios.idf.ratio_to_mag({"ch2": 10.0}).mag_err_reference).all()
    alone = ratios.isel(object=5, type=0).idf.ratio_to_mag()
    np.testing.assert_allclose(alone.mag, found.mag[5, 0])


def test_colours_are_paired_aor_by_aor(ds, cube):
    found = ds.idf.types("*_clean").idf.colour("ch1", "ch2", system="Vega")
    assert found.method.values.tolist() == ["aper2_clean"]
    one, other = (cube.lightcurve(121, f"{c}_aper2_clean") for c in ("ch1", "ch2"))
    truth = one.magnitude("Vega") - other.magnitude("Vega")
    np.testing.assert_allclose(found.colour.sel(object=121)[0], truth, rtol=1e-12)
    both = np.hypot(one.mag_err, other.mag_err)
    np.testing.assert_allclose(found.colour_err.sel(object=121)[0], both, rtol=1e-12)
    back = ds.idf.types("*_clean").idf.colour("ch2", "ch1", system="Vega")
    np.testing.assert_allclose(back.colour, -found.colour)
    assert np.isfinite(truth).any()


# ------------------------------------------------------------------ statistics and periods


def test_variability_is_that_of_the_arrays(ds):
    found = ds.idf.variability()
    assert ds.flux.variable._in_memory or found["median"].chunks is not None
    assert set(found.data_vars) == {one.name for one in STATISTICS}
    found = found.load()
    for k, name in enumerate(TYPES):
        one = ds.isel(type=k).load()
        mjd = one.mjd.sel(channel=name[:3]).values
        good = (one.flag.values & BAD_FLAGS) == 0
        values = [one[v].transpose("object", "aor").values for v in ("flux", "flux_err")]
        for statistic, truth in statistics(*values, good, mjd=mjd).items():
            np.testing.assert_array_equal(found[statistic].sel(type=name), truth, statistic)
    assert found["median"].attrs["units"] == "uJy"
    assert "Sokolovsky" in found.iqr.attrs["references"]


def test_statistics_of_one_lightcurve_and_of_some_aors(lazy):
    whole = lazy.idf.variability(["n", "median"]).load()
    one = lazy.sel(object=121, type=TYPES[1]).idf.variability(["n", "median"])
    assert set(one.data_vars) == {"n", "median"}
    assert float(one["median"]) == float(whole["median"].sel(object=121, type=TYPES[1]))
    early = lazy.idf.during(None, 53100).idf.variability("n").load()
    assert 0 < int(early.n.sum()) < int(whole.n.sum())


def test_lightcurves_without_a_point_and_constant_ones(lazy):
    found = lazy.idf.variability().load()
    nothing = found.isel(object=4)
    assert (nothing.n == 0).all()
    assert np.isnan(nothing["median"]).all()
    constant = found.isel(object=5, type=1)
    assert float(constant["median"]) == 7
    assert float(constant["robust_scatter"]) == 0


def test_a_periodogram_uses_good_measurements(lazy, cube):
    from idfzarr.analysis.period import periodogram

    one = cube.lightcurve(100, TYPES[1]).good()
    truth = periodogram(one.mjd, one.flux, one.flux_err, shortest=2)
    found = lazy.idf.periodogram(100, TYPES[1], shortest=2)
    np.testing.assert_allclose(found.power, truth.power)
    with pytest.raises(UsageError, match="8"):
        lazy.idf.periodogram(128, TYPES[1])


# ------------------------------------------------------------------ chains, copies, refusals


def test_chains_of_all_kinds_agree(every):
    def chain(ds):
        few = ds.idf.types(AB).idf.calibrated().idf.good().idf.cone(265.0, 69.0, radius="1 deg")
        return few.idf.during(53020, 53280).idf.clip(3, "90D").idf.bin("10D").idf.mag().load()

    truth = chain(every["loaded"])
    assert np.isfinite(truth.mag).sum() > 20
    for kind in KINDS:
        found = chain(every[kind])
        xr.testing.assert_allclose(found, truth, rtol=1e-12)
        for name in truth.data_vars:
            assert found[name].attrs.keys() == truth[name].attrs.keys()


def test_lazy_chains_can_be_sent_to_another_process(lazy):
    chain = lazy.idf.types(AB).idf.calibrated().idf.clip(3).idf.mag()
    back = pickle.loads(pickle.dumps(chain))
    np.testing.assert_array_equal(back.mag.isel(object=3), chain.mag.isel(object=3))


@pytest.fixture(scope="module")
def both(every):
    """Return a chain on what is unread, and the same on what is read."""
    kinds = (every[kind].idf.types(AB).idf.calibrated() for kind in ("lazy", "loaded"))
    return tuple(one.idf.clip(3).idf.mag() for one in kinds)


def index_of(n):
    return (
        st.integers(-n, n - 1)
        | st.builds(slice, st.none() | st.integers(0, n), st.none() | st.integers(0, n))
        | st.lists(st.integers(-n, n - 1), max_size=n).map(lambda k: np.array(k, dtype=int))
        | st.just(slice(None, None, -1))
    )


@given(index_of(N_OBJECTS), index_of(3), index_of(N_AORS))
@settings(max_examples=20)
def test_any_selection_of_what_is_unread_is_that_of_what_is_read(both, rows, columns, aors):
    key = {"object": rows, "type": columns, "aor": aors}
    whole, truth = both
    for name in ("mag", "clipped", "flux_err"):
        found, expected = whole[name].isel(key), truth[name].isel(key)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found.values, expected.values)


def test_the_dataset_itself_is_never_changed(store):
    ds = idfzarr.open(store)
    before = ds.copy(deep=True)
    ds.idf.calibrated().idf.good().idf.types(AB).idf.mag().idf.clip().load()
    ds.idf.cone(265.0, 69.0, radius=100)
    xr.testing.assert_identical(ds.load(), before.load())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda a: a.types("ch1_atuo_original"), UnknownName, "nearest: 'ch1_auto_original'"),
        (lambda a: a.types("tess_*"), UnknownName, r"no type matches 'tess_\*'"),
        (lambda a: a.lightcurve(101, TYPES[0]), UnknownName, "no object 101: .* nearest: 100, 107"),
        (lambda a: a.lightcurve("x", TYPES[0]), UnknownName, "named by whole numbers"),
        (lambda a: a.lightcurve(100, "ch1_aper2_claen"), UnknownName, "nearest: 'ch1_aper2_clean'"),
        (lambda a: a.lightcurve(100), UsageError, "has 4 along 'type': say which"),
        (lambda a: a.objects([100, 5]), UnknownName, "no object 5"),
        (lambda a: a.cone("nowhere", radius=3), UsageError, "'nowhere' is no position"),
        (lambda a: a.cone(1.0, 2.0, 3.0, radius=3), UsageError, "is no position"),
        (lambda a: a.cone(radius=3), UsageError, "is no position"),
        (lambda a: a.cone(1.0, 2.0, radius="wide"), UsageError, "'wide' is no angle"),
        (lambda a: a.cone(1.0, 2.0, radius=-1), UsageError, "a cone of -1"),
        (lambda a: a.nearest(1.0, 2.0, n=0), UsageError, "at least 1"),
        (lambda a: a.box(), UsageError, "a box needs a range"),
        (lambda a: a.box(dec=(2, 1)), UsageError, "swap the two"),
        (lambda a: a.crossmatch({"a": [1]}, 1), UnknownName, "no column of ra"),
        (lambda a: a.during("2005-01-01", "2004-01-01"), UsageError, "swap the two"),
        (lambda a: a.during("soon", None), UsageError, "'soon' is no date"),
        (lambda a: a.during(np.nan, 53000), UsageError, "not a number"),
        (lambda a: a.good("satturated"), UnknownName, "nearest: 'saturated'"),
        (lambda a: a.mag(), UsageError, "ch2_median7_ratio is a ratio .* use ratio_to_mag"),
        (lambda a: a.ratio_to_mag(), UsageError, "ch1_auto_original is no ratio"),
        (lambda a: a.bin(14, method="mode"), UsageError, "no way to bin"),
        (lambda a: a.clip(0), UsageError, "sigma must be a positive number"),
        (lambda a: a.clip(3, -2), UsageError, "is no duration"),
        (lambda a: a.fold(0), UsageError, "positive period"),
        (lambda a: a.fold(1, epoch="never"), UsageError, "'never' is no date"),
        (lambda a: a.variability("medain"), UnknownName, "nearest: 'median'"),
        (lambda a: a.colour("ch1", "ch1"), UsageError, "between two channels"),
        (lambda a: a.colour("ch1", "ch3"), UnknownName, "no type of channel 'ch3'"),
    ],
    ids=NUMBERED,
)
def test_what_cannot_be_asked_is_refused_at_once(lazy, call, kind, message):
    with pytest.raises(kind, match=message):
        call(lazy.idf)


def test_selections_that_left_too_little_are_told(lazy):
    one = lazy.isel(object=0)
    with pytest.raises(UsageError, match="one object was selected"):
        one.idf.cone(1.0, 2.0, radius=3)
    point = lazy.isel(aor=0)
    for call in (point.idf.clip, point.idf.variability, point.idf.during):
        with pytest.raises(UsageError, match="one AOR was selected"):
            call()
    with pytest.raises(UsageError, match="of one AOR"):
        point.idf.bin(14)
    with pytest.raises(UsageError, match="no times of channel 'ch1'"):
        lazy.isel(channel=[1]).idf.during(53000, 53100)
    with pytest.raises(UsageError, match="no type of ch1 has its like in ch2"):
        lazy.idf.types("ch1_auto_original,ch2_aper2_clean").idf.colour("ch1", "ch2")
    ratios = lazy.idf.types("*_ratio")
    with pytest.raises(UnknownName, match="no reference flux of channel 'ch2'; nearest: 'ch1'"):
        ratios.idf.ratio_to_mag({"ch1": 1.0})
    with pytest.raises(UsageError, match="one for each of the 30 objects"):
        ratios.idf.ratio_to_mag({"ch2": [1.0, 2.0]})
    ratios.encoding.clear()
    with pytest.raises(UsageError, match="does not say which store it is from"):
        ratios.idf.ratio_to_mag()


def test_the_accessor_names_what_it_can():
    public = {name for name in vars(accessor.IdfAccessor) if not name.startswith("_")}
    asked = "lightcurve cone box nearest crossmatch during good mag calibrated bin clip fold"
    asked += " ratio_to_mag colour variability periodogram types to_timeseries to_lightkurve"
    assert set(asked.split()) <= public
