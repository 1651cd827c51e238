"""Skycells as Datasets: flux against astropy and the formula, positions, what is read and when."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from idfzarr.errors import (
    ChunkCorrupt,
    ImageShape,
    ImageUnreadable,
    StoreMissing,
    UnknownName,
    UsageError,
)
from idfzarr.ps1 import sky_lazy, skydataset
from idfzarr.ps1.headers import read_image_cards
from idfzarr.ps1.skycell import wcs as wcs_of_grid
from idfzarr.ps1.skydataset import open_datatree, open_skycell, wcs_of
from idfzarr.ps1.skystore import SkycellStore, create_skystore
from idfzarr.testing.ps1_files import file_bytes
from idfzarr.testing.ps1_sky import PS1Sky

NAME = "skycell.1405.053"
SHAPE = (1100, 700)
# AB = -2.5 log10(f / (erg/s/cm2/Hz)) - 48.60 (Oke & Gunn 1983); 1 uJy is 1e-29 of that unit.
MICROJANSKY_AT_25 = 10 ** (-0.4 * (25.0 + 48.60)) * 1e29


@pytest.fixture(scope="module")
def files() -> dict[tuple[str, str], bytes]:
    sky = PS1Sky(seed=8, size=(SHAPE[1], SHAPE[0]), around=(332.0, 2.0))
    wanted = [("g", "image"), ("i", "image"), ("i", "mask"), ("i", "weight"), ("z", "image")]
    return {(band, kind): file_bytes(sky, NAME, band, kind) for band, kind in wanted}


def add(store: SkycellStore, data: bytes, band: str, kind: str, name: str = NAME) -> None:
    cards = read_image_cards(io.BytesIO(data))
    with fits.open(io.BytesIO(data), do_not_scale_image_data=True) as opened:
        pixels = np.array(opened[1].data)
    if kind == "mask":
        pixels = pixels.astype(np.int16).view(np.uint16) ^ np.uint16(0x8000)
    store.write(name, band, kind, pixels, cards=cards.image, primary_cards=cards.primary)


@pytest.fixture(scope="module")
def store(files, tmp_path_factory) -> str:
    made = create_skystore(tmp_path_factory.mktemp("skydataset") / "s.zarr")
    for (band, kind), data in files.items():
        add(made, data, band, kind)
    return made.url


def microjansky(data: bytes) -> np.ndarray:
    """Return fluxes by astropy's decoding and the formula of the headers' comments."""
    with fits.open(io.BytesIO(data), do_not_scale_image_data=True) as opened:
        disk, header = np.array(opened[1].data), opened[1].header
        v = header["BZERO"] + header["BSCALE"] * disk.astype(float)
        v[disk == header["BLANK"]] = np.nan
        a = 1.0857362047581294
        dn = header["BOFFSET"] + header["BSOFTEN"] * (np.exp(v / a) - np.exp(-v / a))
        return dn / header["EXPTIME"] * MICROJANSKY_AT_25


def test_flux_is_that_of_astropy_and_the_formula(store, files):
    ds = open_skycell(store, NAME)
    assert list(ds.band.values) == ["g", "i", "z"]
    assert ds.flux.dims == ("band", "y", "x")
    assert ds.flux.shape == (3, *SHAPE)
    for band in "giz":
        expected = microjansky(files[band, "image"])
        assert np.isnan(expected).sum() >= 3 * 2 * sum(SHAPE) - 36  # the border of three pixels
        np.testing.assert_allclose(ds.flux.sel(band=band).values, expected, rtol=1e-6, atol=1e-6)
    assert ds.flux.attrs["units"] == "uJy"


def test_sigma_and_mask_with_what_bands_lack(store, files):
    ds = open_skycell(store, NAME)
    with fits.open(io.BytesIO(files["i", "weight"]), do_not_scale_image_data=True) as opened:
        disk, header = np.array(opened[1].data), opened[1].header
    v = header["BZERO"] + header["BSCALE"] * disk.astype(float)
    variance = header["BOFFSET"] + 2 * header["BSOFTEN"] * np.sinh(v / 1.0857362047581294)
    variance[(disk == header["BLANK"]) | (variance <= 0)] = np.nan
    expected = np.sqrt(variance) / header["EXPTIME"] * MICROJANSKY_AT_25
    np.testing.assert_allclose(ds.sigma.sel(band="i").values, expected, rtol=1e-6)
    assert np.isfinite(expected).mean() > 0.9
    with fits.open(io.BytesIO(files["i", "mask"])) as opened:
        np.testing.assert_array_equal(ds.mask.sel(band="i").values, opened[1].data)
    for band in "gz":
        assert np.isnan(ds.sigma.sel(band=band).values).all()
        assert (ds.mask.sel(band=band).values == 0xFFFF).all()
    assert ds.attrs["bands_without_sigma"] == ds.attrs["bands_without_mask"] == "g z"
    assert ds.mask.dtype == np.uint16
    assert ds.mask.attrs["bad"] == 8575
    assert len(ds.mask.attrs["flag_masks"]) == len(ds.mask.attrs["flag_meanings"].split())
    only = open_skycell(store, NAME, bands="g")
    assert set(only.data_vars) == {"flux"}


def test_positions_are_those_of_the_header(store, files):
    ds = open_skycell(store, NAME, bands="i")
    with fits.open(io.BytesIO(files["i", "image"])) as opened:
        header = opened[1].header.copy()
    for i in "12":
        for j in "12":
            header[f"PC{i}_{j}"] = header.pop(f"PC00{i}00{j}")
    header["RADESYS"] = "FK5"
    y, x = np.mgrid[1000:1100:7, 30:40]
    ra, dec = WCS(header, naxis=2).all_pix2world(x, y, 0)
    cut = ds.isel(y=slice(1000, 1100, 7), x=slice(30, 40))
    np.testing.assert_allclose(cut.ra.values, ra, rtol=0, atol=1e-11)
    np.testing.assert_allclose(cut.dec.values, dec, rtol=0, atol=1e-11)
    assert (np.diff(cut.ra.values, axis=1) < 0).all()  # x grows to the west
    assert (np.diff(cut.dec.values, axis=0) > 0).all()
    assert ds.coords["wcs"].attrs["RADESYS"] == "FK5"
    assert ds.flux.attrs["grid_mapping"] == "wcs"


@pytest.mark.parametrize("step", [1, 3, -1])
def test_the_wcs_of_a_cutout_is_that_of_its_pixels(store, step):
    ds = open_skycell(store, NAME, bands="i")
    assert wcs_of(ds).array_shape == SHAPE
    cut = (
        ds.flux.isel(band=0)
        .isel(y=slice(40, 90), x=slice(200, 300))
        .isel(x=slice(None, None, step))
    )
    wcs = wcs_of(cut)
    assert wcs.array_shape == cut.shape
    y, x = np.mgrid[: cut.sizes["y"], : cut.sizes["x"]]
    ra, dec = wcs.all_pix2world(x, y, 0)
    np.testing.assert_allclose(ra, cut.ra.values, rtol=0, atol=1e-10)
    np.testing.assert_allclose(dec, cut.dec.values, rtol=0, atol=1e-10)
    with pytest.raises(UsageError, match="not evenly spaced"):
        wcs_of(ds.isel(x=[0, 1, 5]))
    with pytest.raises(UsageError, match="needs its coordinates"):
        wcs_of(ds.flux.drop_vars("x"))


def test_a_full_header_has_the_wcs_of_the_grid(tmp_path):
    made = create_skystore(tmp_path / "s.zarr")
    cards = ["BSOFTEN =                 90.0", "BOFFSET =                  2.0", "EXPTIME = 100.0"]
    made.write(NAME, "g", "image", np.zeros((8, 9), np.int16), cards=cards)
    ds = open_skycell(made.url, NAME)
    ra, dec = wcs_of_grid(NAME).all_pix2world([0, 8], [0, 7], 0)
    np.testing.assert_allclose(ds.ra.values[[0, 7], [0, 8]], ra, rtol=0, atol=1e-11)
    np.testing.assert_allclose(ds.dec.values[[0, 7], [0, 8]], dec, rtol=0, atol=1e-11)


class Counting(SkycellStore):
    """A store that notes which windows are read."""

    def __init__(self, path):
        super().__init__(path)
        self.windows = []

    def read(self, name, band, kind, window=None):
        self.windows.append((band, kind, window))
        return super().read(name, band, kind, window)


def test_nothing_is_read_before_it_is_looked_at_and_only_the_window_then(store, monkeypatch):
    placed = []
    fill = sky_lazy.LazySky._fill
    monkeypatch.setattr(
        sky_lazy.LazySky,
        "_fill",
        lambda self, out, wanted: (placed.append(out.shape), fill(self, out, wanted)),
    )
    reader = Counting(store)
    ds = open_skycell(reader, NAME)
    repr(ds)
    cut = ds.isel(y=slice(500, 530), x=slice(10, 20))
    difference = cut.flux.sel(band="g") - cut.flux.sel(band="i")
    assert difference.shape == (30, 10)
    assert np.isfinite(difference.values).all()
    rows = [(slice(500, 512), slice(10, 20)), (slice(512, 530), slice(10, 20))]
    assert sorted(reader.windows, key=str) == [(b, "image", w) for b in "gi" for w in rows]
    # Positions were not computed to find that both bands have the same.
    assert placed == []
    assert difference.ra.values.shape == (30, 10)
    assert placed == [(30, 10)]


@pytest.mark.parametrize(
    "key",
    [
        {"y": 5, "x": 6, "band": 1},
        {"y": slice(None, None, -100), "x": slice(3, 600, 50)},
        {"y": [1099, 0, 600, 600], "x": [5], "band": [2, 0]},
        {"y": slice(0, 0)},
        {"y": -1},
        {"y": xr.DataArray([0, 700, 5], dims="p"), "x": xr.DataArray([1, 2, 699], dims="p")},
    ],
)
def test_any_selection_is_that_of_the_whole(store, key):
    lazy, loaded = open_skycell(store, NAME), open_skycell(store, NAME).load()
    xr.testing.assert_identical(lazy.isel(key).load(), loaded.isel(key))


def test_dask(store):
    ds = open_skycell(store, NAME, chunks={})
    assert ds.flux.chunksizes["y"] == (1024, 76)
    whole = open_skycell(store, NAME)
    assert float(ds.flux.max().compute(scheduler="threads")) == float(whole.flux.max())
    again = pickle.loads(pickle.dumps(whole))
    np.testing.assert_array_equal(again.flux[0, :9].values, whole.flux[0, :9].values)


def test_a_tree_of_many(store, files, tmp_path):
    made = create_skystore(tmp_path / "s.zarr")
    for name in ("skycell.1405.053", "skycell.1405.054", "skycell.0635.000"):
        add(made, files["g", "image"], "g", "image", name)
    tree = open_datatree(made.url)
    assert set(tree["1405"].children) == {"skycell.1405.053", "skycell.1405.054"}
    one = tree["0635/skycell.0635.000"]
    assert one.attrs["skycell"] == "skycell.0635.000"
    assert np.isfinite(one.flux[0, 50:60, 50:60].values).all()
    assert set(open_datatree(made.url, "*.054").children) == {"1405"}
    with pytest.raises(UnknownName, match="no image of a skycell 'x'"):
        open_datatree(made.url, "x")


def test_what_is_not_there(store, tmp_path):
    with pytest.raises(StoreMissing, match="no store"):
        open_skycell(tmp_path / "none.zarr", NAME)
    with pytest.raises(UnknownName, match=r"no image of skycell.1405.054"):
        open_skycell(store, "1405.054")
    with pytest.raises(UnknownName, match="no y image"):
        open_skycell(store, NAME, bands="gy")
    with pytest.raises(UsageError, match="not 'w'"):
        open_skycell(store, NAME, bands="gw")
    with pytest.raises(UsageError, match="not none"):
        open_skycell(store, NAME, bands="")


def test_damage_is_heard_of(files, tmp_path):
    made = create_skystore(tmp_path / "s.zarr")
    add(made, files["g", "image"], "g", "image")
    shard = tmp_path / "s.zarr" / "1405" / NAME / "g" / "c" / "0" / "0"
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ChunkCorrupt, match="chunk 0 of"):
        open_skycell(made.url, NAME).flux.load()


def test_shapes_that_differ_and_fluxes_that_cannot_be_known(files, tmp_path):
    made = create_skystore(tmp_path / "s.zarr")
    add(made, files["g", "image"], "g", "image")
    made.write(NAME, "r", "image", np.zeros((5, 5), np.int16), cards=["BSCALE  = 2.0"])
    ds = open_skycell(made.url, NAME)
    assert list(ds.band.values) == ["g"]
    assert "r: EXPTIME is None" in ds.attrs["bands_left_out"]
    with pytest.raises(ImageUnreadable, match="EXPTIME is None"):
        open_skycell(made.url, NAME, bands="r")
    made.write(NAME, "z", "image", np.zeros((5, 5), np.int16), cards=["EXPTIME = 2.0"])
    with pytest.raises(ImageShape, match=r"z image \(5, 5\)"):
        open_skycell(made.url, NAME)
    assert skydataset.open_skycell(made.url, NAME, bands="z").flux.shape == (1, 5, 5)
