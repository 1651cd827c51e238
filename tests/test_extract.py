"""Files taken out of a store of skycells against astropy, the survey's formula and the grid."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from old_skycells import ALL, make_old, make_store, put
from sky_children import SkyServer, renames

from idfzarr.care import fits_checksum
from idfzarr.care.extract import choose_arrays, extract_array, extract_many, fits_bytes
from idfzarr.errors import ChunkCorrupt, StoreExists, UnknownName, UsageError
from idfzarr.ps1 import skycell
from idfzarr.ps1.skystore import create_skystore
from idfzarr.testing.ps1_files import PS1Sky, disk_pixels, file_bytes

NAME = "skycell.1405.053"
SKY = PS1Sky(seed=3, size=(140, 130))
A = 2.5 * np.log10(np.e)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("extract") / "s.zarr", SKY, [NAME], bands="rg")


def opened_quietly(data):
    """Return pixels and header of the image of a file as the archive serves it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(io.BytesIO(data)) as found:
            return np.asarray(found[1].data), found[1].header.copy()


def raw_cards(data):
    with fits.open(io.BytesIO(data), disable_image_compression=True) as found:
        return [card.image for card in found[1].header.cards]


@pytest.mark.parametrize("compression", ["RICE_1", "GZIP_1", "GZIP_2", "none", "signed"])
@pytest.mark.parametrize("kind", ALL)
def test_as_served_is_the_file_that_was_fetched(tmp_path, kind, compression):
    if compression == "signed" and kind != "mask":
        pytest.skip("only masks are served signed")
    store = create_skystore(tmp_path / "s.zarr")
    served = put(store, SKY, NAME, "r", kind, compression=compression)
    done = extract_array(store, NAME, "r", kind, output=tmp_path / "o.fits", form="served")
    made = (tmp_path / "o.fits").read_bytes()
    assert done.n_bytes == len(served)
    assert raw_cards(made) == raw_cards(served)
    assert np.array_equal(*(opened_quietly(d)[0] for d in (made, served)), equal_nan=kind != "mask")
    if not compression.startswith("GZIP"):  # gzip notes when it was run
        assert made == served
        assert done.identical is True


@pytest.mark.parametrize("kind", ALL)
def test_as_served_after_another_compressor_keeps_pixels_and_cards(tmp_path, kind):
    # Another compressor makes a heap of another length: its cards change, and no others.
    served = file_bytes(SKY, NAME, "r", kind)
    store = create_skystore(tmp_path / "s.zarr")
    put(store, SKY, NAME, "r", kind)
    attributes = store.attributes(NAME, "r", kind)
    header = [
        "PCOUNT  =                  999" if card.startswith("PCOUNT") else card
        for card in attributes["header"]
    ]
    from idfzarr.care.fits_files import served_file

    made = served_file(store.read(NAME, "r", kind), {**attributes, "header": header}, where="it")
    assert np.array_equal(*(opened_quietly(d)[0] for d in (made, served)), equal_nan=kind != "mask")
    assert raw_cards(made) == raw_cards(served)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("kind", ALL)
def test_written_anew_decodes_to_the_same_values_without_a_warning(store, kind, compress):
    array = choose_arrays(store, NAME, bands="r", kinds=(kind,))[0]
    truth, _ = opened_quietly(file_bytes(SKY, NAME, "r", kind))
    data = fits_bytes(store, array, compress=compress)
    with fits.open(io.BytesIO(data), checksum=True) as found:  # warnings are errors here
        found.verify("exception")
        image = found[1 if compress else 0]
        assert isinstance(image, fits.CompImageHDU) == compress
        values, header = np.asarray(image.data), image.header
        assert values.dtype == truth.dtype
        assert np.array_equal(values, truth, equal_nan=kind != "mask")
        if kind != "mask":
            assert np.isnan(truth).sum() > 100
        assert header["PC1_1"] == -1
        assert header["RADESYS"] == "FK5"
        assert header["TIMESYS"] == "TAI"
        assert not any(card.startswith("PC00") for card in header)
        WCS(header)


@pytest.mark.parametrize("kind", ["image", "weight"])
def test_linear_is_the_formula_of_the_survey(store, kind):
    served = file_bytes(SKY, NAME, "r", kind)
    _, header = opened_quietly(served)
    with fits.open(io.BytesIO(served), disable_image_compression=True) as found:
        raw = found[1].header
    disk, _ = disk_pixels(SKY, NAME, "r", kind)
    v = np.where(disk == raw["ZBLANK"], np.nan, raw["BZERO"] + raw["BSCALE"] * disk.astype(float))
    dn = header["BOFFSET"] + header["BSOFTEN"] * (np.exp(v / A) - np.exp(-v / A))
    if kind == "weight":
        dn = np.sqrt(np.where(dn > 0, dn, np.nan))
    # 23.9: the AB magnitude of a microjansky in all of this package.
    flux = dn / header["EXPTIME"] * 10 ** (0.4 * (23.9 - 25.0))
    array = choose_arrays(store, NAME, bands="r", kinds=(kind,))[0]
    for compress in (True, False):
        data = fits_bytes(store, array, form="linear", compress=compress)
        with fits.open(io.BytesIO(data), checksum=True) as found:
            image = found[1 if compress else 0]
            assert image.header["BUNIT"] == "uJy"
            assert not {"BSOFTEN", "BSCALE", "BOFFSET", "BZERO"} & set(image.header)
            np.testing.assert_allclose(image.data, flux, rtol=1e-6, atol=0, equal_nan=True)
    assert np.isfinite(flux).mean() > 0.8


def test_a_mask_is_never_scaled(store):
    array = choose_arrays(store, NAME, bands="r", kinds=("mask",))[0]
    assert fits_bytes(store, array, form="linear") == fits_bytes(store, array)


def test_wcs_is_that_of_the_grid_within_a_milliarcsecond(tmp_path):
    # Images of the survey's own pixels around a place: their pixels are those of the grid.
    ra, dec = skycell.centre(NAME)
    sky = PS1Sky(seed=1, size=(90, 80), around=(ra, dec))
    store = make_store(tmp_path / "s.zarr", sky, [NAME], bands="r", kinds=("image",))
    extract_array(store, NAME, "r", output=tmp_path / "o.fits")
    with fits.open(tmp_path / "o.fits") as found:
        wcs = WCS(found[1].header)
    window = sky.window(NAME)
    x, y = np.array([0.0, 45.0, 89.0]), np.array([0.0, 40.0, 79.0])
    seen = np.array(wcs.all_pix2world(x, y, 0))
    truth = np.array(skycell.pixel_to_sky(NAME, *window.survey_pixels(x, y)))
    offset = (seen - truth) * 3.6e6 * np.array([[np.cos(np.radians(dec))], [1.0]])
    assert np.abs(offset).max() < 1.0


def test_default_names_and_no_overwriting(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert extract_array(store, "1405.053", "r", "weight").path == f"{NAME}_r_wt.fits"
    served = extract_array(store, NAME, "r", "mask", form="served")
    assert served.path == f"rings.v3.{NAME}.stk.r.unconv.mask.fits"
    before = (tmp_path / f"{NAME}_r_wt.fits").read_bytes()
    with pytest.raises(StoreExists, match="is there already; add --overwrite"):
        extract_array(store, NAME, "r", "weight")
    extract_array(store, NAME, "r", "weight", form="linear", overwrite=True)
    assert (tmp_path / f"{NAME}_r_wt.fits").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([served.path, f"{NAME}_r_wt.fits"])


def test_nothing_is_written_into_the_store(store):
    for inside in ("", ".ledger", ".quarantine"):
        with pytest.raises(UsageError, match="lies in the store"):
            extract_array(store, NAME, "r", output=f"{store.url}{inside}/o.fits")


def test_batch_goes_on_after_a_damaged_array(tmp_path):
    store = make_store(tmp_path / "s.zarr", SKY, [NAME, "skycell.1405.054"], bands="r")
    shard = tmp_path / "s.zarr" / "1405" / NAME / "r_mask" / "c/0/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 4
    shard.write_bytes(data)
    done = extract_many(store, "1405.*", output_dir=tmp_path / "out")
    assert [one.result for one in done].count("written") == 5
    failed = next(one for one in done if one.result == "failed")
    assert (failed.skycell, failed.kind) == (NAME, "mask")
    assert "crc32c" in failed.message
    assert sum(1 for _ in (tmp_path / "out").rglob("*.fits")) == 5
    assert not list((tmp_path / "out").rglob("*.partial"))
    again = extract_many(store, "1405.*", output_dir=tmp_path / "out")
    assert [one.result for one in again].count("there") == 5
    with pytest.raises(ChunkCorrupt, match="crc32c"):
        extract_array(store, NAME, "r", "mask", output=tmp_path / "o.fits")
    assert not (tmp_path / "o.fits").exists()


def test_a_batch_killed_at_every_rename_leaves_whole_files_only(store, tmp_path, tree):
    log, asked = tmp_path / "renames.txt", {"store": store.url, "bands": "r", "kinds": list(ALL)}
    with SkyServer() as children:
        whole = tmp_path / "whole"
        how = asked | {"output_dir": str(whole), "moment": -1, "log": str(log)}
        assert children.run("extract", **how) == 0
        files = tree(whole)
        assert len(files) >= 3
        assert renames(log) == len(files)
        for moment in range(1, 2 * renames(log) + 1):
            folder = tmp_path / str(moment)
            how |= {"output_dir": str(folder), "moment": moment}
            assert children.run("extract", **how) == -9
            left = {n: d for n, d in tree(folder).items() if not n.endswith(".partial")}
            assert len(left) == moment // 2
            assert left.items() <= files.items()
            done = extract_many(store.url, bands="r", output_dir=folder)
            assert {one.result for one in done} <= {"there", "written"}
            assert sum(one.result == "there" for one in done) == len(left)
            assert tree(folder) == files


def test_what_is_not_there_is_named(store):
    with pytest.raises(UnknownName, match=r"no skycell in .* nearest: 'skycell.1405.053'"):
        choose_arrays(store, "1405.054")
    with pytest.raises(UnknownName, match=r"has no array z; it has g, g_mask, g_wt, r"):
        choose_arrays(store, NAME, bands="z", kinds=("image",))
    with pytest.raises(UsageError, match="there is no band 'q'"):
        choose_arrays(store, NAME, bands="q")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_earlier_layouts_are_taken_out_as_they_are(tmp_path, zarr_format):
    make_old(tmp_path / "old.zarr", SKY, [NAME], bands="r", zarr_format=zarr_format)
    for kind in ALL:
        truth, _ = opened_quietly(file_bytes(SKY, NAME, "r", kind))
        path = tmp_path / f"{kind}.fits"
        extract_array(tmp_path / "old.zarr", NAME, "r", kind, output=path)
        with fits.open(path, checksum=True) as found:
            found.verify("exception")
            assert np.array_equal(found[1].data, truth, equal_nan=kind != "mask")
            assert found[1].header["RADESYS"] == "FK5"
    with pytest.raises(UsageError, match="integers that were served are not in this store"):
        extract_array(tmp_path / "old.zarr", NAME, "r", output=tmp_path / "n", form="served")


def test_checksums_are_those_of_astropy():
    rng = np.random.default_rng(5)
    for size in (0, 4, 2880, 9999):
        data = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
        cards = [
            f"SIMPLE  = {'T':>20}",
            f"BITPIX  = {8:>20}",
            f"NAXIS   = {1:>20}" if size else f"NAXIS   = {0:>20}",
            *([f"NAXIS1  = {size:>20}"] if size else []),
        ]
        made = fits_checksum.hdu_bytes(cards, data, checksums=True)
        assert len(made) % 2880 == 0
        with fits.open(io.BytesIO(made), checksum=True) as found:
            assert found[0].verify_checksum() == 1
            assert found[0].verify_datasum() == 1
        assert fits_checksum.words_sum(made) in {0, 0xFFFFFFFF}
