"""Skycells in layouts of an earlier toolkit, made with zarr-python from their description."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from astropy.io import fits

from idfzarr.errors import (
    ChunkCorrupt,
    ForeignStore,
    ImageUnreadable,
    MetadataCorrupt,
    StoreMissing,
    UnknownName,
)
from idfzarr.ps1.old_layouts import OldSkycells, open_skystore
from idfzarr.ps1.skydataset import open_datatree, open_skycell
from idfzarr.ps1.skystore import SkycellStore, create_skystore
from idfzarr.testing.ps1_files import file_bytes
from idfzarr.testing.ps1_sky import PS1Sky

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {"G0": "skycell.1405.050", "G1": "skycell.1405.051", "G2": "skycell.1405.052"}
NAMES |= {"G3": "skycell.1405.053"}
SUFFIX = {"image": "", "mask": "_mask", "weight": "_wt"}


@pytest.fixture(scope="module")
def files() -> dict[tuple[str, str], bytes]:
    sky = PS1Sky(seed=2, size=(130, 120), around=(332.0, 2.0))
    wanted = [(b, k) for b in "ri" for k in SUFFIX]
    return {(band, kind): file_bytes(sky, NAMES["G3"], band, kind) for band, kind in wanted}


def opened_by_astropy(data: bytes) -> tuple[np.ndarray, str]:
    """Return float32 pixels and the header that is left when astropy has applied the scaling."""
    with fits.open(io.BytesIO(data)) as opened:
        pixels = np.array(opened[1].data)
        return pixels, opened[1].header.tostring()


def plant(root: Path, generation: str, files, *, zarr_format: int = 3, group_of=("r", "image")):
    """Write one skycell as the earlier toolkit of that generation did."""
    name = NAMES[generation]
    tree = "projections/" if generation == "G0" else ""
    zarr.open_group(root, mode="a", zarr_format=zarr_format)
    group = zarr.open_group(root / f"{tree}1405/{name}", mode="a", zarr_format=zarr_format)
    for (band, kind), data in files.items():
        if kind == "weight" and generation != "G3":
            continue
        pixels, header = opened_by_astropy(data)
        if kind == "mask":
            pixels = pixels.astype(np.uint16 if generation == "G3" else np.uint32)
        array = group.create_array(
            band + SUFFIX[kind],
            shape=pixels.shape,
            dtype=pixels.dtype,
            chunks=(64, 64),
            fill_value=np.nan if kind != "mask" else 0,
            compressors="auto",
        )
        array[...] = pixels
        if generation != "G1":
            array.attrs["header"] = header
        elif (band, kind) == group_of:
            group.attrs["header"] = header


@pytest.fixture(scope="module", params=[3, 2], ids=["v3", "v2"])
def mixed(request, files, tmp_path_factory) -> Path:
    """Make one store that holds all four generations."""
    root = tmp_path_factory.mktemp("old") / "ps1_skycells.zarr"
    for generation in NAMES:
        plant(root, generation, files, zarr_format=request.param)
    return root


def test_all_generations_in_one_store_read_as_astropy_does(mixed, files):
    store = open_skystore(mixed)
    assert isinstance(store, OldSkycells)
    assert len(store.arrays()) == 3 * 4 + 6
    for generation, name in NAMES.items():
        for (band, kind), data in files.items():
            if kind == "weight" and generation != "G3":
                assert not store.has(name, band, kind)
                continue
            expected, _ = opened_by_astropy(data)
            pixels = store.read(name, band, kind)
            np.testing.assert_array_equal(pixels, expected)
            assert pixels.dtype == (np.uint16 if kind == "mask" else np.float32)
            window = (slice(60, 70), slice(3, 130))
            np.testing.assert_array_equal(store.read(name, band, kind, window), expected[window])
            assert store.generation(name, band, kind) == generation
            assert store.has(name, band, kind, verify=True)
            assert store.shape(name, band, kind) == (120, 130)


def test_flux_of_old_pixels_is_that_of_the_same_files_in_a_new_store(mixed, files, tmp_path):
    from idfzarr.ps1.headers import read_image_cards

    new = create_skystore(tmp_path / "new.zarr")
    for (band, kind), data in files.items():
        with fits.open(io.BytesIO(data), do_not_scale_image_data=True) as opened:
            pixels = np.array(opened[1].data)
        if kind == "mask":
            pixels = pixels.astype(np.int16).view(np.uint16) ^ np.uint16(0x8000)
        cards = read_image_cards(io.BytesIO(data)).image
        new.write(NAMES["G3"], band, kind, pixels, cards=cards)
    truth = open_skycell(new, NAMES["G3"])
    for generation in ("G0", "G2", "G3"):
        old = open_skycell(mixed, NAMES[generation])
        assert list(old.band.values) == ["r", "i"]
        # Asinh values in single precision: fluxes near zero are differences of larger ones.
        np.testing.assert_allclose(old.flux, truth.flux, rtol=3e-6, atol=1e-5)
        assert np.isfinite(old.flux.values).mean() > 0.8
        np.testing.assert_array_equal(old.mask, truth.mask)
        np.testing.assert_allclose(old.ra, truth.ra, rtol=0, atol=1e-10)
        assert ("sigma" in old) == (generation == "G3")
    np.testing.assert_allclose(old.sigma, truth.sigma, rtol=1e-5)


def test_the_header_of_a_group_is_that_of_one_array_only(mixed, files):
    store = OldSkycells(mixed)
    name = NAMES["G1"]
    told = store.attributes(name, "r", "image")
    with fits.open(io.BytesIO(files["r", "image"])) as opened:
        assert told["scale"]["BSOFTEN"] == opened[1].header["BSOFTEN"]
    assert told["header_of"] == "group"
    other = store.attributes(name, "i", "image")
    assert other["scale"] == {}
    assert other["header_of"] == "none"
    assert other["wcs"] == told["wcs"]
    assert store.attributes(name, "r", "mask")["header_of"] == "none"
    ds = open_skycell(store, name)
    assert list(ds.band.values) == ["r"]
    assert "the header of the i image" in ds.attrs["bands_left_out"]
    with pytest.raises(
        ImageUnreadable, match=r"header of the i image of skycell\.1405\.051 is lost"
    ):
        open_skycell(store, name, bands="i")


def test_where_the_group_has_the_header_of_a_mask_no_flux_is_known(tmp_path, files):
    plant(tmp_path / "s.zarr", "G1", files, group_of=("r", "mask"))
    store = OldSkycells(tmp_path / "s.zarr")
    assert store.attributes(NAMES["G1"], "r", "mask")["header_of"] == "group"
    with pytest.raises(ImageUnreadable, match="flux of no band"):
        open_skycell(store, NAMES["G1"])
    plant(tmp_path / "s.zarr", "G3", files)
    tree = open_datatree(store)
    assert set(tree["1405"].children) == {NAMES["G3"]}
    assert NAMES["G1"] in tree.attrs["skycells_left_out"]


def test_attributes_are_those_of_our_own_stores(mixed):
    store = OldSkycells(mixed)
    told = store.attributes(NAMES["G2"], "i", "image")
    assert {len(card) for card in told["header"]} == {80}
    assert not any(card.startswith("END ") for card in told["header"])
    assert (told["scale"]["BSCALE"], told["scale"]["BZERO"]) == (1.0, 0.0)
    assert told["provenance"]["layout"] == "G2"
    assert told["wcs"]["RADESYS"] == "FK5"
    masks = store.attributes(NAMES["G2"], "i", "mask")
    assert masks["flag_masks"][0] == 1
    assert masks["scale"] == {}


def test_of_two_trees_the_newer_counts(tmp_path, files, monkeypatch):
    monkeypatch.setitem(NAMES, "G0", NAMES["G3"])
    root = tmp_path / "s.zarr"
    plant(root, "G0", files)
    plant(root, "G3", files)
    store = OldSkycells(root)
    assert len(store.arrays()) == 6
    assert store.copies(NAMES["G3"], "i", "image") == (
        f"1405/{NAMES['G3']}/i",
        f"projections/1405/{NAMES['G3']}/i",
    )
    assert store.generation(NAMES["G3"], "i", "image") == "G3"


def test_names_that_lost_their_zeros_are_found_by_their_full_name(tmp_path):
    group = zarr.open_group(tmp_path / "s.zarr" / "635" / "skycell.635.012", mode="w")
    group.create_array("g", data=np.ones((4, 5), np.float32))
    store = open_skystore(tmp_path / "s.zarr")
    (array,) = store.arrays()
    assert (array.name, array.path) == ("skycell.0635.012", "635/skycell.635.012/g")
    assert store.read("skycell.0635.012", "g", "image").sum() == 20


def test_leftovers_and_names_of_others_are_no_arrays(tmp_path, files):
    plant(tmp_path / "s.zarr", "G3", files)
    group = zarr.open_group(tmp_path / "s.zarr" / "1405" / NAMES["G3"], mode="a")
    group.create_array("z_temp_123", data=np.ones((4, 5), np.float32))
    group.create_array("notes", data=np.ones((4, 5), np.float32))
    assert len(OldSkycells(tmp_path / "s.zarr").arrays()) == 6
    assert len(OldSkycells(tmp_path / "s.zarr").arrays("*.053")) == 6
    assert OldSkycells(tmp_path / "s.zarr").arrays("*.054") == []


def chunk_files(array: Path) -> list[Path]:
    return sorted(p for p in array.rglob("*") if p.is_file() and p.name[0] not in ".z")


def test_a_lost_chunk_is_counted_and_a_garbled_one_is_an_error(mixed, files, tmp_path):
    root = tmp_path / "copy.zarr"
    shutil.copytree(mixed, root)
    name = NAMES["G3"]
    store = OldSkycells(root)
    array = root / "1405" / name / "i"
    first, second, *_ = chunk_files(array)
    # The last chunks of a row lie within the border of three pixels: never written.
    blank = [k for k in store.missing_chunks(name, "i", "image") if k.endswith("2")]
    assert len(blank) == len(store.missing_chunks(name, "i", "image")) == 2
    first.unlink()
    lost = first.relative_to(array).as_posix()
    assert set(store.missing_chunks(name, "i", "image")) == {lost, *blank}
    second.write_bytes(b"garbage" * 9)
    with pytest.raises(ChunkCorrupt, match="cannot be decoded"):
        store.read(name, "i", "image")
    assert store.has(name, "i", "image")
    assert not store.has(name, "i", "image", verify=True)


def test_masks_with_impossible_bits(tmp_path, files):
    plant(tmp_path / "s.zarr", "G2", files)
    path = tmp_path / "s.zarr" / "1405" / NAMES["G2"] / "i_mask"
    zarr.open_array(path, mode="r+")[5, 5] = 1 << 20
    with pytest.raises(ChunkCorrupt, match="bits beyond the sixteen"):
        OldSkycells(tmp_path / "s.zarr").read(NAMES["G2"], "i", "mask")


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1 << 20, 1 << 20]},
        {"shape": [120, 130, 2]},
        {"shape": ["a", 3]},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1 << 20, 1 << 20]}}},
        {"data_type": "complex64"},
        {"data_type": "nonsense"},
        {"chunk_key_encoding": 3},
    ],
)
def test_hostile_metadata_is_refused(tmp_path, files, change):
    plant(tmp_path / "s.zarr", "G3", files)
    path = tmp_path / "s.zarr" / "1405" / NAMES["G3"] / "i" / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    store = OldSkycells(tmp_path / "s.zarr")
    with pytest.raises(MetadataCorrupt, match=r"skycell\.1405\.053/i"):
        store.read(NAMES["G3"], "i", "image")
    assert not store.has(NAMES["G3"], "i", "image")


def test_what_is_no_store_of_skycells(tmp_path):
    with pytest.raises(StoreMissing, match="no store"):
        open_skystore(tmp_path / "nothing")
    zarr.open_group(tmp_path / "other.zarr", mode="w").create_array("a", data=np.zeros(3))
    with pytest.raises(ForeignStore, match="no attribute 'idfzarr_ps1'"):
        open_skystore(tmp_path / "other.zarr")
    ours = create_skystore(tmp_path / "ours.zarr")
    assert isinstance(open_skystore(ours.url), SkycellStore)
    assert open_skystore(ours) is ours


def test_what_is_not_in_it(mixed):
    with pytest.raises(UnknownName, match=r"no skycell.1405.053 g in"):
        OldSkycells(mixed).read(NAMES["G3"], "g", "image")
    with pytest.raises(UnknownName, match=r"no image of skycell.1405.099"):
        open_skycell(mixed, "1405.099")


def test_a_store_of_ours_is_refused_as_the_target_where_old_skycells_are(mixed):
    with pytest.raises(ForeignStore, match="skycells"):
        create_skystore(mixed)
