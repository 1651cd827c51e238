"""Migration of earlier layouts: no pixel changes, nothing is lost unsaid, it can be stopped."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np
import pytest
import zarr
from old_skycells import ALL, decoded, make_old, make_store
from sky_children import SkyServer, renames

from idfzarr.care.inventory import inventory
from idfzarr.care.lost_integers import BLANK, find_integers
from idfzarr.care.migrate import migrate
from idfzarr.errors import ForeignStore, StoreMissing, UsageError
from idfzarr.ps1.skystore import SkycellStore
from idfzarr.testing.ps1_files import PS1Sky, disk_pixels

NAME = "skycell.1405.053"
OTHER = "skycell.1405.054"
SKY = PS1Sky(seed=4, size=(260, 250))


def single(store, name, band, kind):
    """Return the pixels of a migrated array as float32, in the arithmetic of astropy."""
    pixels = store.read(name, band, kind)
    if pixels.dtype != np.int16:
        return pixels
    scale = store.attributes(name, band, kind)["scale"]
    values = pixels.astype(np.float32) * np.float32(scale["BSCALE"]) + np.float32(scale["BZERO"])
    return np.where(pixels == BLANK, np.float32(np.nan), values)


# ---------------------------------------------------------------- the integers


@pytest.mark.parametrize("kind", ["image", "weight"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_integers_of_the_survey_are_found_again(kind, seed):
    sky = PS1Sky(seed=seed, size=(120, 110))
    values, _ = decoded(sky, NAME, "r", kind)
    truth, scale = disk_pixels(sky, NAME, "r", kind)
    found = find_integers(values)
    assert found is not None
    assert np.array_equal(found.disk, truth)
    assert found.unique
    assert found.bscale == np.float32(scale.bscale)
    assert found.bzero == np.float32(scale.bzero)


def test_real_scalings_of_the_survey():
    # BSCALE and BZERO of two stacks as published (the facts of the archive's headers).
    rng = np.random.default_rng(1)
    for bscale, bzero in (
        (2.112995762387e-04, 3.454127907753),
        (2.115535619667e-04, 3.632529139519),
    ):
        disk = rng.normal(-16000, 2100, (80, 90)).round().clip(-32768, 32766).astype(np.int16)
        disk[0, :] = BLANK
        values = disk.astype(np.float32) * np.float32(bscale) + np.float32(bzero)
        values[disk == BLANK] = np.nan
        found = find_integers(values)
        assert found is not None
        again = found.disk.astype(np.float32) * np.float32(found.bscale) + np.float32(found.bzero)
        assert np.array_equal(again[1:], values[1:])
        assert (found.disk[0] == BLANK).all()


def test_values_off_the_lattice_are_not_forced_on_it():
    values, _ = decoded(SKY, NAME, "r", "image")
    assert find_integers(values * np.float32(1.25) + np.float32(0.1) * values**2) is None
    nudged = values.copy()
    at = np.argwhere(np.isfinite(values))[777]
    nudged[tuple(at)] = np.nextafter(nudged[tuple(at)], np.float32(99))
    assert find_integers(nudged) is None
    assert find_integers(np.random.default_rng(0).normal(size=(50, 60)).astype(np.float32)) is None
    assert find_integers(np.full((9, 9), np.nan, dtype=np.float32)) is None
    assert find_integers(np.zeros((9, 9), dtype=np.float32)) is None
    endless = values.copy()
    endless[tuple(at)] = np.inf
    assert find_integers(endless) is None


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("layout", "how"),
    [
        ("G0", {"tree": "projections/", "kinds": ALL[:2], "mask_type": "uint32"}),
        ("G2", {"kinds": ALL[:2], "mask_type": "uint32"}),
        ("G3", {}),
        ("G3", {"zarr_format": 2}),
    ],
)
def test_every_pixel_and_card_survives(tmp_path, layout, how):
    make_old(tmp_path / "old.zarr", SKY, [NAME], **how)
    report = migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    assert report.ok
    kinds = how.get("kinds", ALL)
    assert report.count("stored") == 2 * len(kinds)
    store = SkycellStore(tmp_path / "new.zarr")
    for band in "ri":
        for kind in kinds:
            values, header = decoded(SKY, NAME, band, kind)
            assert store.has(NAME, band, kind, verify=True)
            assert np.array_equal(single(store, NAME, band, kind), values, equal_nan=kind != "mask")
            told = store.attributes(NAME, band, kind)
            assert told["provenance"]["layout"] in {layout, "G2", "G3"}
            cards = [header[at : at + 80] for at in range(0, len(header), 80)]
            gone = [card for card in cards if card not in told["header"]]
            assert all(card.startswith(("BITPIX", "END")) or not card.strip() for card in gone)
            if kind != "mask":
                truth, _ = disk_pixels(SKY, NAME, band, kind)
                assert np.array_equal(store.read(NAME, band, kind), truth)
                assert told["provenance"]["integers"] == "as served"
                digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
                assert told["provenance"]["pixels_sha256"] == digest


def test_the_one_header_of_a_group_is_given_to_its_own_array_only(tmp_path):
    make_old(tmp_path / "old.zarr", SKY, [NAME], kinds=ALL[:2], header_on="group")
    report = migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    assert report.ok
    store = SkycellStore(tmp_path / "new.zarr")
    assert "BSOFTEN" in store.attributes(NAME, "r", "image")["scale"]
    assert "BSOFTEN" not in store.attributes(NAME, "i", "image")["scale"]
    said = {one.array: one.message for one in report.arrays}
    assert "its header is lost" in said["i"]
    assert said["r"] == ""
    values, _ = decoded(SKY, NAME, "i", "image")
    assert np.array_equal(single(store, NAME, "i", "image"), values, equal_nan=True)


def test_pixels_that_are_no_integers_stay_as_they_are(tmp_path):
    make_old(tmp_path / "old.zarr", SKY, [NAME], bands="r")
    array = zarr.open_group(tmp_path / "old.zarr", mode="r+")[f"1405/{NAME}/r"]
    values = array[...] * np.float32(1.0123)
    array[...] = values
    report = migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    assert {one.array: one.pixels for one in report.arrays} == {
        "r": "float32",
        "r_mask": "mask",
        "r_wt": "integers",
    }
    store = SkycellStore(tmp_path / "new.zarr")
    assert np.array_equal(store.read(NAME, "r", "image"), values, equal_nan=True)
    assert "1 as float32" in report.to_text()


def test_keep_float32(tmp_path):
    make_old(tmp_path / "old.zarr", SKY, [NAME], bands="r")
    migrate(tmp_path / "old.zarr", tmp_path / "new.zarr", keep_float32=True)
    store = SkycellStore(tmp_path / "new.zarr")
    values, _ = decoded(SKY, NAME, "r", "image")
    assert store.read(NAME, "r", "image").dtype == np.float32
    assert np.array_equal(store.read(NAME, "r", "image"), values, equal_nan=True)


def test_flux_is_that_of_the_file_as_served(tmp_path):
    from idfzarr.ps1.skydataset import open_skycell

    make_old(tmp_path / "old.zarr", SKY, [NAME])
    migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    served = make_store(tmp_path / "served.zarr", SKY, [NAME])
    made = open_skycell(tmp_path / "new.zarr", NAME)
    truth = open_skycell(served, NAME)
    for band in "ri":
        a = made["flux"].sel(band=band).values
        b = truth["flux"].sel(band=band).values
        # BSCALE and BZERO came back in single precision: asinh values to 1e-7 of 4.
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-4, equal_nan=True)
        assert np.isfinite(a).mean() > 0.8


# ---------------------------------------------------------------- damage, stops, refusals


def test_damage_is_left_out_and_named(tmp_path):
    make_old(tmp_path / "old.zarr", SKY, [NAME, OTHER])
    top = tmp_path / "old.zarr/1405"
    (top / NAME / "r/c/0/1").unlink()
    chunk = top / OTHER / "i_wt/c/1/1"
    chunk.write_bytes(chunk.read_bytes()[:40])
    report = migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    assert not report.ok
    bad = {(one.skycell, one.array): one.result for one in report.arrays if one.result != "stored"}
    assert bad == {(NAME, "r"): "damaged", (OTHER, "i_wt"): "failed"}
    assert report.count("stored") == 10
    store = SkycellStore(tmp_path / "new.zarr")
    assert not store.has(NAME, "r", "image")
    assert not store.has(OTHER, "i", "weight")
    assert "idfzarr fetch" in report.to_text()


def test_it_goes_on_where_it_was_and_leaves_the_old_store_alone(tmp_path, tree):
    make_old(tmp_path / "old.zarr", SKY, [NAME])
    before = tree(tmp_path / "old.zarr")
    migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    assert tree(tmp_path / "old.zarr") == before
    first = tree(tmp_path / "new.zarr")
    shutil.rmtree(tmp_path / "new.zarr/1405" / NAME / "r")
    again = migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    assert {one.array: one.result for one in again.arrays if one.result == "stored"} == {
        "r": "stored"
    }
    assert again.count("there") == 5
    assert set(tree(tmp_path / "new.zarr")) == set(first)
    assert tree(tmp_path / "new.zarr")[f"1405/{NAME}/r/c/0/0"] == first[f"1405/{NAME}/r/c/0/0"]


def test_killed_at_every_rename_it_goes_on(tmp_path, tree):
    old = tmp_path / "old.zarr"
    make_old(old, SKY, [NAME], bands="r")
    before = tree(old)

    def shards(path):
        found = tree(path)
        assert not [name for name in found if "partial" in name]
        return {name: data for name, data in found.items() if name.endswith("c/0/0")}

    with SkyServer() as children:
        log = tmp_path / "renames.txt"
        whole = tmp_path / "whole.zarr"
        asked = {"old": str(old), "moment": -1, "log": str(log)}
        assert children.run("migrate", new=str(whole), **asked) == 0
        moments = 2 * renames(log)
        assert moments >= 12
        for moment in range(1, moments + 1):
            new = tmp_path / f"{moment}.zarr"
            assert children.run("migrate", new=str(new), **(asked | {"moment": moment})) == -9
            made = SkycellStore(new)
            for array in made.arrays():
                made.verify(array.name, array.band, array.kind)
                there = made.read(array.name, array.band, array.kind)
                wanted = SkycellStore(whole).read(array.name, array.band, array.kind)
                np.testing.assert_array_equal(there, wanted)
            held = len(made.arrays())
            assert held <= moment // 2
            report = migrate(old, new)
            assert report.ok
            assert report.count("there") == held
            assert report.count("stored") == 3 - held
            assert shards(new) == shards(whole)
            assert inventory(new, level="scrub").findings == ()
    assert tree(old) == before


def test_what_does_not_read_back_is_not_kept(tmp_path, monkeypatch):
    make_old(tmp_path / "old.zarr", SKY, [NAME], bands="r", kinds=("mask",))
    real = SkycellStore.read
    with monkeypatch.context() as patch:
        patch.setattr(SkycellStore, "read", lambda *a: real(*a) ^ np.uint16(1))
        report = migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
        assert [one.result for one in report.arrays] == ["failed"]
        assert "does not read back" in report.arrays[0].message
    assert SkycellStore(tmp_path / "new.zarr").arrays() == []
    assert migrate(tmp_path / "old.zarr", tmp_path / "new.zarr").count("stored") == 1


def test_a_mixed_store(tmp_path):
    make_old(tmp_path / "old.zarr", SKY, [NAME], bands="r")
    make_old(tmp_path / "old.zarr", SKY, [OTHER], bands="r", tree="projections/", kinds=ALL[:2])
    report = migrate(tmp_path / "old.zarr", tmp_path / "new.zarr")
    assert report.ok
    found = {(one.skycell, one.array) for one in report.arrays}
    assert found == {(NAME, "r"), (NAME, "r_mask"), (NAME, "r_wt"), (OTHER, "r"), (OTHER, "r_mask")}


def test_what_cannot_be_migrated(tmp_path):
    make_store(tmp_path / "new.zarr", SKY, [NAME], bands="r", kinds=("mask",))
    with pytest.raises(UsageError, match="nothing to migrate"):
        migrate(tmp_path / "new.zarr", tmp_path / "x.zarr")
    with pytest.raises(StoreMissing, match="no store"):
        migrate(tmp_path / "none.zarr", tmp_path / "x.zarr")
    zarr.create_group(tmp_path / "plain.zarr")
    with pytest.raises(ForeignStore, match="no store of skycells"):
        migrate(tmp_path / "plain.zarr", tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()
