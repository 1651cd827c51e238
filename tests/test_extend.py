"""Builds on a finished store: AORs and types are added, and what was there keeps its bits."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import growing
import numpy as np
import pytest
import tensorstore as ts
import xarray as xr
import zarr
from astropy.io import fits

import idfzarr
from idfzarr.build.pipeline import build
from idfzarr.build.refresh import update_variability
from idfzarr.errors import (
    BuildFailed,
    ForeignStore,
    ImageMissing,
    SettingsDiffer,
    UnknownName,
    UsageError,
)
from idfzarr.flags import BAD_FLAGS, flag_bit
from idfzarr.imaging.simulate import simulate
from idfzarr.imaging.simulated_truth import read_truth
from idfzarr.store.cube import Cube, flags_of
from idfzarr.store.ledger import read_ledger
from idfzarr.store.relayout import relayout

if TYPE_CHECKING:
    from pathlib import Path

TYPES = "ch1_aper2_*,ch2_aper2_original"
NAMES = ("ch1_aper2_original", "ch1_aper2_clean", "ch2_aper2_original")
FIRST = ("gr1", "gr2", "gr4", "gr5", "gr6", "gr8")
NEW = ("gr3", "gr7")  # neither after the others nor before them in time
HOW = {"scheduler": "synchronous"}


@dataclass(frozen=True)
class Field:
    """A field of eight AORs, and the store of the first six of them."""

    images: Path
    first: Path
    store: Path


def copy_aors(source, target, names, *, skip=""):
    """Copy the mosaics of some AORs, and the table of all."""
    target.mkdir(exist_ok=True)
    for path in source.glob("IDF_*.fits"):
        if path.name.split("_")[1] in names and not (skip and skip in path.name):
            shutil.copy2(path, target)
    shutil.copy2(source / "aors.ecsv", target)
    return target


def copy_store(store, folder, *, ledger=True):
    """Copy a store, as one does a folder, with its ledger or without."""
    target = folder / "f.zarr"
    shutil.copytree(store, target)
    if ledger:
        shutil.copytree(beside(store, ".ledger"), beside(target, ".ledger"))
    return target


def beside(store, suffix):
    return store.with_name(store.name + suffix)


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    folder = tmp_path_factory.mktemp("extend")
    simulate(folder / "all", aors=8, objects=50, size=128, seed=3)
    first = copy_aors(folder / "all", folder / "first", FIRST)
    build(first, folder / "f.zarr", types=TYPES, shard_objects=16, **HOW)
    return Field(folder / "all", first, folder / "f.zarr")


@pytest.fixture(scope="module")
def grown(field, tmp_path_factory):
    """Append the two others; return the report and the store."""
    store = copy_store(field.store, tmp_path_factory.mktemp("grown"))
    return build(field.images, store, **HOW), store


@pytest.fixture
def store(field, tmp_path):
    return copy_store(field.store, tmp_path)


@pytest.fixture
def small(tiny_images, tiny_store, tmp_path):
    """Return folders of the images of three of the tiny field's four AORs, and their store."""
    images = copy_aors(tiny_images, tmp_path / "images", ("gr1", "gr2", "gr3"))
    build(images, tmp_path / "f.zarr", types="ch1_aper2_original,ch2_aper2_original", **HOW)
    return images, tmp_path / "f.zarr"


def bits(array):
    """Return an array as something that compares bit for bit."""
    array = np.asarray(array)
    return array.tolist() if array.dtype.kind in "UO" else (array.shape, array.tobytes())


def along_aor(cube):
    """Return the coordinates along ``aor``, that axis last."""
    n_aors, found = cube.shape[3], {}
    for name in cube.coordinate_names:
        values = np.asarray(cube.coordinate(name))
        if name in {"aor", "aor_name"} or (values.ndim == 2 and n_aors in values.shape):
            found[name] = np.moveaxis(values, -1 if values.shape[-1] == n_aors else 0, -1)
    return found


def keeps(before, after):
    """Check that a cube has all that another had: every column bit for bit, and every object."""
    n_types, n_aors = before.shape[1], before.shape[3]
    assert bits(after.block()[:, :n_types, :, :n_aors]) == bits(before.block())
    old, new = along_aor(before), along_aor(after)
    assert {"mjd", "zeropoint", "zeropoint_err", "noise_scale", "dx", "dy", "sky"} <= old.keys()
    for name, values in old.items():
        here = new[name][..., :n_aors]
        here = here[: len(values)] if values.ndim > 1 else here
        assert bits(here) == bits(values), name
    for name in ("object", "ra", "dec", "x", "y"):
        assert bits(after.coordinate(name)) == bits(before.coordinate(name))
    assert after.uuid == before.uuid


def others_see(cube):
    """Check that plain readers see what `Cube` sees."""
    values, path = cube.block(), cube.path
    for consolidated in (True, False):
        with xr.open_zarr(path, consolidated=consolidated) as ds:
            assert bits(ds["lightcurves"].to_numpy()) == bits(values)
            for name in cube.coordinate_names:
                known = cube.coordinate(name)
                assert bits(ds[name].to_numpy().astype(known.dtype)) == bits(known), name
        group = zarr.open_group(path, mode="r", use_consolidated=consolidated)
        assert bits(group["lightcurves"][...]) == bits(values)
        assert group["lightcurves"].attrs["aor_name"] == cube.coordinate("aor_name").tolist()
        assert group["lightcurves"].attrs["type"] == list(cube.types)
    for name in ("lightcurves", "mjd", "zeropoint", "noise_scale", "dx", "aor"):
        kvstore = {"driver": "file", "path": f"{path}/{name}/"}
        stored = ts.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
        ours = values if name == "lightcurves" else cube.coordinate(name)
        assert bits(stored) == bits(ours), name
    with idfzarr.open(path) as ds:
        assert bits(ds["flux"].to_numpy()) == bits(values[:, :, 0])


def nothing_beside(store):
    names = {p.name for p in store.parent.iterdir() if p.name.startswith(store.name)}
    assert names == {store.name, store.name + ".ledger"}
    assert not (store / "staging").exists()


def staged_since(store, before):
    """Return the AORs whose measurements the ledger has noted since."""
    records = read_ledger(store).records[len(before.records) :]
    return [aor for r in records if r.kind == "staged" for aor in r.fields["aors"]]


def everything(store, tree):
    """Return every file of a store and of its ledger."""
    return tree(store), tree(beside(store, ".ledger"))


# ---------------------------------------------------------------- new AORs


def test_new_aors_are_appended_and_old_columns_keep_every_bit(field, grown):
    report, store = grown
    assert report.ok
    assert report.changed
    assert (report.n_aors, report.aors_measured) == (8, 2)
    assert "AORs appended: gr3, gr7" in report.notes
    before, after = Cube(field.store), Cube(store)
    keeps(before, after)
    assert after.coordinate("aor_name").tolist() == [*FIRST, *NEW]
    truth = read_truth(field.images)
    place = [int(name[2:]) - 1 for name in (*FIRST, *NEW)]
    assert after.coordinate("aor").tolist() == truth.reqkey[place].tolist()
    assert np.allclose(after.coordinate("mjd"), truth.mjd[place], atol=1e-6, rtol=0)
    assert not (np.diff(after.coordinate("mjd")[:, 0]) > 0).all()
    assert sorted(staged_since(store, read_ledger(field.store))) == list(NEW)
    new = after.block()[..., 6:]
    assert np.isfinite(new[:, :, 0]).mean() > 0.95
    assert bits(after.table("catalogue")["comparison_flux"]) == bits(
        before.table("catalogue")["comparison_flux"]
    )
    nothing_beside(store)


def test_every_reader_sees_the_appended_cube(grown):
    others_see(Cube(grown[1]))


def test_zero_points_and_offsets_of_new_aors_are_those_of_the_truth(field, grown):
    cube, truth = Cube(grown[1]), read_truth(field.images)
    place = [int(name[2:]) - 1 for name in (*FIRST, *NEW)]
    for column, name in enumerate(cube.types):
        c = truth.channel_index(name[:3])
        true = -2.5 * np.log10(truth.zeropoint[place, c])
        found, error = (cube.coordinate(n)[column] for n in ("zeropoint", "zeropoint_err"))
        assert np.std(true) > 0.005
        rest = (found - true) - np.mean((found - true)[:6])
        assert (error[6:] > 0).all()
        assert np.abs(rest[6:]).max() < max(0.005, 4 * error[6:].max()), (name, rest, error)
        assert np.abs(rest[6:]).max() < 0.02
    for name in ("dx", "dy"):
        rest = cube.coordinate(name) - getattr(truth, name)[place]
        assert np.abs(rest[6:] - rest[:6].mean(axis=0)).max() < 0.1
    scale = cube.coordinate("noise_scale")
    # a tiny field has few independent empty apertures: their scatter is known to some 15 %
    assert np.abs(scale[:, 6:] / np.median(scale[:, :6], axis=1)[:, None] - 1).max() < 0.5


def test_an_appended_aor_measured_again_gives_the_same(field, grown, tmp_path):
    """The apertures are frozen: it does not matter when and with which others one is measured."""
    store = copy_store(grown[1], tmp_path)
    before, records = Cube(store), read_ledger(store)
    report = build(field.images, store, replace_aors=["gr7", "gr3"], **HOW)
    assert (report.aors_measured, report.n_aors) == (2, 8)
    assert sorted(staged_since(store, records)) == list(NEW)
    after = Cube(store)
    assert np.allclose(after.block(), before.block(), rtol=3e-7, atol=0, equal_nan=True)
    for name, values in along_aor(before).items():
        if values.dtype.kind == "f":
            found = along_aor(after)[name]
            assert np.allclose(found, values, rtol=1e-5, atol=1e-6, equal_nan=True), name
    keeps(Cube(field.store), after)
    nothing_beside(store)


def test_an_append_gives_nearly_what_a_build_of_all_gives(field, grown, tmp_path):
    build(field.images, tmp_path / "whole.zarr", types=TYPES, shard_objects=16, **HOW)
    whole, cube = Cube(tmp_path / "whole.zarr"), Cube(grown[1])
    away = np.hypot(
        np.subtract.outer(cube.coordinate("x"), whole.coordinate("x")),
        np.subtract.outer(cube.coordinate("y"), whole.coordinate("y")),
    )
    bright = cube.table("catalogue")["snr_ch1"] > 100
    rows = np.flatnonzero((away.min(axis=1) < 0.1) & bright)
    assert len(rows) >= 5
    names = whole.coordinate("aor_name").tolist()
    there = whole.block()[away.argmin(axis=1)[rows]][..., [names.index(n) for n in NEW]]
    here = cube.block()[rows][..., 6:]
    good = ((flags_of(here[:, :, 2]) | flags_of(there[:, :, 2])) & BAD_FLAGS) == 0
    good &= cube.table("catalogue")["isolated"].astype(bool)[rows][:, None, None]
    assert good.sum() >= 12
    pull = ((here[:, :, 0] - there[:, :, 0]) / here[:, :, 1])[good]
    assert np.abs(pull).max() < 1
    assert np.median(np.abs(here[:, :, 0] / there[:, :, 0] - 1)[good]) < 0.003


def test_a_build_of_nothing_new_changes_nothing(field, grown, tmp_path, tree):
    before = everything(grown[1], tree)
    assert not build(field.images, grown[1], **HOW).changed
    # fewer images than the cube has AORs are no reason to do anything either
    assert not build(field.first, grown[1], **HOW).changed
    moved = tmp_path / "elsewhere"
    shutil.copytree(field.images, moved)
    for path in moved.glob("*.fits"):
        os.utime(path, (1.6e9, 1.6e9))
    report = build(moved, grown[1], types=TYPES, shard_objects=16, **HOW)
    assert not report.changed
    assert report.ok
    assert everything(grown[1], tree) == before


def test_an_aor_of_one_channel_only(field, store):
    images = copy_aors(field.images, store.with_name("images"), FIRST)
    copy_aors(field.images, images, ("gr3",), skip="ch2")
    report = build(images, store, **HOW)
    assert report.aors_measured == 1
    assert report.ok
    before, after = Cube(field.store), Cube(store)
    keeps(before, after)
    assert after.coordinate("aor_name").tolist() == [*FIRST, "gr3"]
    assert np.isfinite(after.coordinate("mjd")[6, 0])
    assert np.isnan(after.coordinate("mjd")[6, 1])
    values = after.block()[..., 6]
    assert np.isfinite(values[:, :2, 0]).mean() > 0.95
    assert np.isnan(values[:, 2, :2]).all()
    assert (flags_of(values[:, 2, 2]) == flag_bit("not_observed")).all()
    assert np.isnan(after.coordinate("noise_scale")[2, 6])
    others_see(after)
    # the other channel comes later: that is no new AOR, and it is not quietly left out
    copy_aors(field.images, images, ("gr3",))
    with pytest.raises(SettingsDiffer, match=r"AOR gr3 .*ch2.* --replace gr3"):
        build(images, store, **HOW)
    report = build(images, store, replace_aors=["gr3"], **HOW)
    assert report.ok
    now = Cube(store)
    keeps(before, now)
    assert np.isfinite(now.coordinate("mjd")[6]).all()
    assert np.isfinite(now.block()[:, :, 0, 6]).mean() > 0.95


def test_past_the_capacity_the_cube_is_laid_out_anew(field, store):
    relayout(store, capacity=7)
    before = Cube(store)
    report = build(field.images, store, **HOW)
    assert (report.aors_measured, report.n_aors) == (2, 8)
    after = Cube(store)
    keeps(before, after)
    keeps(Cube(field.store), after)
    shape = json.loads((store / "lightcurves/zarr.json").read_bytes())["chunk_grid"]
    assert shape["configuration"]["chunk_shape"][3] > 7
    assert np.isfinite(after.block()[:, :, 0, 6:]).mean() > 0.95
    others_see(after)
    nothing_beside(store)


def test_appends_one_after_the_other_are_one_append(field, grown, store):
    for name in NEW:
        copy_aors(field.images, store.with_name("images"), (*FIRST, name))
        report = build(store.with_name("images"), store, **HOW)
        assert report.aors_measured == 1
    one, two = Cube(grown[1]), Cube(store)
    assert bits(two.block()) == bits(one.block())
    for name, values in along_aor(one).items():
        assert bits(along_aor(two)[name]) == bits(values), name


def test_a_copied_store_grows_without_its_ledger_too(field, tmp_path, grown):
    """What it was made from is not known then: its AORs are told by their names."""
    store = copy_store(field.store, tmp_path, ledger=False)
    report = build(field.images, store, **HOW)
    assert report.aors_measured == 2
    keeps(Cube(field.store), Cube(store))
    assert bits(Cube(store).block()) == bits(Cube(grown[1]).block())
    assert not build(field.images, store, **HOW).changed


def test_a_ledger_of_another_store_is_not_believed(field, tiny_store, tmp_path, grown):
    store = copy_store(field.store, tmp_path, ledger=False)
    shutil.copytree(beside(tiny_store.store, ".ledger"), beside(store, ".ledger"))
    report = build(field.images, store, **HOW)
    assert report.aors_measured == 2
    assert bits(Cube(store).block()) == bits(Cube(grown[1]).block())


# ---------------------------------------------------------------- new AORs that cannot be used


def cut(path):
    path.write_bytes(path.read_bytes()[:9000])


def test_a_truncated_new_aor_is_listed_and_the_others_are_appended(field, grown, store, run_cli):
    images = copy_aors(field.images, store.with_name("images"), (*FIRST, *NEW))
    for channel in ("ch1", "ch2"):
        cut(images / f"IDF_gr3_{channel}_sci.fits")
    ended = run_cli("build", images, store, "-q", "--scheduler", "synchronous", "--json")
    report = json.loads(ended.out)
    assert ended.code == 1
    assert report["aors_measured"] == 1
    assert {(s["aor"], s["channel"]) for s in report["skipped"]} == {("gr3", "ch1"), ("gr3", "ch2")}
    assert all("truncated" in s["reason"] for s in report["skipped"])
    cube = Cube(store)
    keeps(Cube(field.store), cube)
    assert cube.coordinate("aor_name").tolist() == [*FIRST, "gr7"]
    assert bits(cube.block()[..., 6]) == bits(Cube(grown[1]).block()[..., 7])
    # once it is whole it is appended
    copy_aors(field.images, images, ("gr3",))
    ended = run_cli("build", images, store, "-q", "--scheduler", "synchronous")
    assert ended.code == 0
    assert Cube(store).coordinate("aor_name").tolist() == [*FIRST, "gr7", "gr3"]


def test_a_truncated_aor_that_is_the_only_new_one_leaves_the_cube_alone(
    field, store, run_cli, tree
):
    images = copy_aors(field.images, store.with_name("images"), (*FIRST, "gr3"))
    for channel in ("ch1", "ch2"):
        cut(images / f"IDF_gr3_{channel}_sci.fits")
    before = tree(store)
    for _ in range(2):
        ended = run_cli("build", images, store, "-q", "--scheduler", "synchronous")
        assert ended.code == 1
        assert "gr3" in ended.out + ended.err
        assert "truncated" in ended.out + ended.err
    assert tree(store) == before
    nothing_beside(store)


def test_a_new_aor_whose_pixels_cannot_be_read(field, store, tree):
    """Its header is well, so that only measuring finds the fault."""
    images = copy_aors(field.images, store.with_name("images"), (*FIRST, "gr3"))
    for path in images.glob("IDF_gr3_*_sci.fits"):
        with fits.open(path) as hdus:
            data, header = np.full_like(hdus[0].data, np.nan), hdus[0].header
        fits.writeto(path, data, header, overwrite=True)
    before = tree(store)
    with pytest.raises(ImageMissing, match=r"not one mosaic can be used; the first: .*gr3_ch1"):
        build(images, store, **HOW)
    assert tree(store) == before
    keeps(Cube(field.store), Cube(store))


# ---------------------------------------------------------------- other grids


def test_new_mosaics_on_another_grid_are_resampled_onto_the_cubes(field, grown, store):
    images = copy_aors(field.images, store.with_name("images"), (*FIRST, *NEW))
    for path in images.glob("IDF_gr3_*.fits"):
        with fits.open(path) as hdus:
            header, data = hdus[0].header, hdus[0].data[5:, 3:120].copy()
            header["CRPIX1"] -= 3
            header["CRPIX2"] -= 5
            fits.writeto(path, data, header, overwrite=True)
    report = build(images, store, **HOW)
    assert report.ok
    assert report.aors_measured == 2
    keeps(Cube(field.store), Cube(store))
    here, there = Cube(store).block(), Cube(grown[1]).block()
    assert bits(here[..., 7]) == bits(there[..., 7])
    good = (flags_of(here[:, :, 2, 6]) & BAD_FLAGS) == 0
    assert good.sum() > 20
    outside = np.isnan(here[:, :, 0, 6])
    assert ((flags_of(here[:, :, 2, 6]) & flag_bit("not_observed")) != 0)[outside].all()
    pull = (here[..., 0, 6] - there[..., 0, 6]) / there[..., 1, 6]
    assert np.abs(np.median(pull[good])) < 0.2
    assert np.abs(pull[good]).max() < 3
    nothing_beside(store)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Frames without WCS: the same stars, shifted by whole pixels."""
    folder = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(3)
    places, flux = rng.uniform(12, 98, (30, 2)), 10 ** rng.uniform(3.5, 4.8, 30)
    y, x = np.mgrid[:110, :110]
    for n, (dx, dy) in enumerate([(0, 0), (3, -2), (-4, 1), (2, 5), (-1, -3)]):
        image = np.full((110, 110), 200.0)
        for (sx, sy), f in zip(places, flux, strict=True):
            r2 = (x - sx - dx) ** 2 + (y - sy - dy) ** 2
            image += f / (2 * np.pi * 1.6**2) * np.exp(-r2 / (2 * 1.6**2))
        header = fits.Header({"DATE-OBS": f"2020-01-{n + 1:02d}T03:00:00", "EXPTIME": 60.0})
        pixels = rng.poisson(image).astype(np.float32)
        fits.writeto(folder / f"frame-{n}.fits", pixels, header)
    return folder


def test_frames_without_wcs_are_appended_by_their_stars(frames, tmp_path):
    how = {"pattern": "frame-{aor}.fits", "types": "ch1_aper4_original", **HOW}
    part = tmp_path / "part"
    part.mkdir()
    for n in range(4):
        shutil.copy2(frames / f"frame-{n}.fits", part)
    build(part, tmp_path / "f.zarr", **how)
    before = Cube(tmp_path / "f.zarr")
    report = build(frames, tmp_path / "f.zarr", **how)
    assert report.ok
    assert report.aors_measured == 1
    cube = Cube(tmp_path / "f.zarr")
    assert bits(cube.block()[..., :4]) == bits(before.block())
    values = cube.block()[:, 0]
    flags = flags_of(values[:, 2])
    bright = values[:, 0, :4].min(axis=1) > 5000
    good = ((flags & BAD_FLAGS) == 0).all(axis=1) & bright
    assert good.sum() >= 4
    assert (flags[:, 4] & flag_bit("noise_model") != 0)[np.isfinite(values[:, 0, 4])].all()
    ratio = values[good, 0, 4] / np.median(values[good, 0, :4], axis=1)
    noise = values[good, 1, 4] / np.median(values[good, 0, :4], axis=1)
    assert (np.abs(ratio - 1) < 0.01 + 5 * noise).all()
    assert np.median(np.abs(ratio - 1)) < 0.02
    assert cube.coordinate("mjd")[4, 0] == pytest.approx(58853 + 0.125 + 30 / 86400, abs=1e-6)
    nothing_beside(tmp_path / "f.zarr")


# ---------------------------------------------------------------- AORs that changed


def brighten(path, factor=2.0):
    with fits.open(path) as hdus:
        header, data = hdus[0].header, hdus[0].data * np.float32(factor)
    fits.writeto(path, data, header, overwrite=True)


def test_an_aor_whose_file_changed_is_refused_and_replaced_only_when_asked(
    field, store, run_cli, tree
):
    images = copy_aors(field.images, store.with_name("images"), FIRST)
    for channel in ("ch1", "ch2"):
        brighten(images / f"IDF_gr4_{channel}_sci.fits")
    before = everything(store, tree)
    ended = run_cli("build", images, store, "-q")
    assert ended.code == 2
    assert ended.out == ""
    assert "IDF_gr4_ch1_sci.fits" in ended.err
    assert "--replace gr4" in ended.err
    # nor beside new AORs, nor when another one is replaced
    copy_aors(field.images, images, NEW)
    with pytest.raises(SettingsDiffer, match=r"gr4_ch1_sci.fits has another sha256"):
        build(images, store, **HOW)
    with pytest.raises(SettingsDiffer, match=r"gr4_ch1_sci.fits has another sha256"):
        build(images, store, replace_aors=["gr1"], **HOW)
    assert everything(store, tree) == before
    old, records = Cube(store), read_ledger(store)
    there = old.block()  # now: a replacement writes into the shards that `old` reads
    ended = run_cli("build", images, store, "-q", "--replace", "gr4", "--scheduler", "synchronous")
    assert ended.code == 0, ended.err
    assert "AORs measured again: gr4" in ended.out
    assert staged_since(store, records) == ["gr4"]
    new = Cube(store)
    others = [0, 1, 3, 4, 5]
    assert new.shape == old.shape
    assert bits(new.block()[..., others]) == bits(there[..., others])
    for name, values in along_aor(old).items():
        assert bits(along_aor(new)[name][..., others]) == bits(values[..., others]), name
    bright = (old.table("catalogue")["snr_ch1"] > 60) & np.isfinite(there[:, 0, 0, 2])
    assert bright.sum() >= 4
    ratio = new.block()[bright, 0, 0, 2] / there[bright, 0, 0, 2]
    assert np.median(ratio) == pytest.approx(2, rel=0.02)
    moved = new.coordinate("zeropoint")[:, 2] - old.coordinate("zeropoint")[:, 2]
    assert moved == pytest.approx(np.full(3, -2.5 * np.log10(2)), abs=0.03)
    others_see(new)
    # the new files are now those it was measured from
    assert build(images, store, **HOW).aors_measured == 2
    assert not build(images, store, **HOW).changed


def test_an_aor_that_is_not_there_cannot_be_replaced(field, store, run_cli, tree):
    before = everything(store, tree)
    with pytest.raises(UnknownName, match=r"AOR 'gr44' is not in .*gr4"):
        build(field.first, store, replace_aors=["gr44"], **HOW)
    with pytest.raises(UnknownName, match="AOR 'gr3' is not in"):
        build(field.images, store, replace_aors=["gr3"], **HOW)
    assert run_cli("build", field.first, store, "-q", "--replace", "gr44").code == 2
    ended = run_cli("build", field.first, store.with_name("none.zarr"), "-q", "--replace", "gr1")
    assert ended.code == 2
    assert "no AOR to replace" in ended.err
    assert everything(store, tree) == before


# ---------------------------------------------------------------- types


def test_types_are_added_and_the_others_keep_every_bit(field, store, run_cli):
    before, records = Cube(store), read_ledger(store)
    asked = "ch1_r3.5_original,ch2_aper2_*,ch1_aper3_original"
    words = ("build", field.first, store, "-q", "--scheduler", "synchronous", "--types", asked)
    ended = run_cli(*words)
    assert ended.code == 0, ended.err
    assert "types added: ch1_aper3_original, ch2_aper2_clean, ch1_r3.5_original" in ended.out
    assert sorted(staged_since(store, records)) == list(FIRST)
    after = Cube(store)
    added = ("ch2_aper2_clean", "ch1_aper3_original", "ch1_r3.5_original")
    assert set(after.types[3:]) == set(added)
    assert after.types[:3] == NAMES
    keeps(before, after)
    for name in NAMES:
        column = before.types.index(name)
        assert bits(after.table("variability")["median"][:, column]) == bits(
            before.table("variability")["median"][:, column]
        )
    column = {name: after.types.index(name) for name in after.types}
    flux = after.block()[:, :, 0]
    assert np.isfinite(flux[:, 3:]).mean() > 0.95
    alone = after.table("catalogue")["isolated"].astype(bool)
    bright = (after.table("catalogue")["snr_ch1"] > 60) & alone
    assert bright.sum() >= 3
    two, half, three = (
        np.median(flux[bright, column[name]], axis=1)
        for name in ("ch1_aper2_original", "ch1_r3.5_original", "ch1_aper3_original")
    )
    assert ((two < half) & (half < three)).all()
    assert np.isfinite(after.coordinate("zeropoint")).all()
    assert np.isfinite(after.table("catalogue")["comparison_flux"][:, 3:]).any()
    others_see(after)
    nothing_beside(store)
    assert not build(field.first, store, types=asked, **HOW).changed
    # and new AORs get them all
    assert build(field.images, store, **HOW).aors_measured == 2
    assert np.isfinite(Cube(store).block()[:, :, 0, 6:]).mean() > 0.95


def test_types_and_aors_at_once_are_refused(field, store, run_cli, tree):
    before = everything(store, tree)
    with pytest.raises(UsageError, match=r"1 types and 2 AORs cannot be added .* at once"):
        build(field.images, store, types="ch2_aper2_*", **HOW)
    assert run_cli("build", field.images, store, "-q", "--types", "ch2_aper2_*").code == 2
    assert everything(store, tree) == before


def test_types_need_the_mosaics_of_every_aor(field, store, run_cli, tree):
    before = everything(store, tree)
    images = copy_aors(field.images, store.with_name("images"), FIRST[1:])
    with pytest.raises(ImageMissing, match=r"mosaic of AOR gr1 in ch1 .*\(2 missing\)"):
        build(images, store, types="ch2_aper2_*", **HOW)
    assert run_cli("build", images, store, "-q", "--types", "ch2_aper2_*").code == 1
    assert everything(store, tree) == before


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("option", "value", "flag"),
    [
        ("threshold", 6.0, ("--threshold", "6")),
        ("codec", "zstd", ("--codec", "zstd")),
        ("sky", "mesh", ("--sky", "mesh")),
        ("shard_objects", 32, ("--shard-objects", "32")),
        ("precision", True, ("--precision",)),
        ("min_coverage", 0.7, ("--min-coverage", "0.7")),
    ],
)
def test_other_settings_are_refused_by_name(field, store, run_cli, tree, option, value, flag):
    before = everything(store, tree)
    for images in (field.first, field.images):
        with pytest.raises(SettingsDiffer, match=f"made with other settings: {option} ") as caught:
            build(images, store, **{option: value}, **HOW)
        assert repr(value) in str(caught.value)
    ended = run_cli("build", field.images, store, "-q", *flag)
    assert ended.code == 2
    assert option in ended.err
    assert everything(store, tree) == before


def test_a_store_that_was_not_built_from_mosaics_is_refused(field, tmp_path, run_cli, tree):
    cube = idfzarr.create(
        tmp_path / "own.zarr", objects=[1, 2], types=NAMES[:1], aors=growing.aor_table([1, 2])
    )
    before = tree(tmp_path)
    with pytest.raises(SettingsDiffer, match="not built from mosaics but filled in another way"):
        build(field.images, cube.path, **HOW)
    ended = run_cli("build", field.images, cube.path, "-q")
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_the_store_is_refused(field, tmp_path, run_cli):
    (tmp_path / "f.zarr").write_text("mine")
    with pytest.raises(ForeignStore, match="is a file and no store of idfzarr"):
        build(field.images, tmp_path / "f.zarr", **HOW)
    assert run_cli("build", field.images, tmp_path / "f.zarr", "-q").code == 3
    assert (tmp_path / "f.zarr").read_text() == "mine"


def test_a_channel_that_the_cube_has_not_is_left_out_and_named(field, tmp_path, tree):
    one = copy_aors(field.images, tmp_path / "one", ("gr1", "gr2", "gr4"), skip="ch2")
    build(one, tmp_path / "f.zarr", types="ch1_aper2_original", **HOW)
    before = tree(tmp_path / "f.zarr")
    copy_aors(field.images, one, ("gr1",))
    report = build(one, tmp_path / "f.zarr", **HOW)
    assert not report.changed
    assert report.ok
    assert ("ch2", "no type of channel ch2 is asked for") in [
        (s.channel, s.reason) for s in report.skipped
    ]
    with pytest.raises(
        UsageError, match=r"type ch2_aper2_original cannot be added to .* ch1 alone"
    ):
        build(one, tmp_path / "f.zarr", types="ch2_aper2_original", **HOW)
    assert tree(tmp_path / "f.zarr") == before
    # of a new AOR only the channel goes in that the cube has
    copy_aors(field.images, one, ("gr3",))
    assert build(one, tmp_path / "f.zarr", **HOW).aors_measured == 1
    assert Cube(tmp_path / "f.zarr").channels == ("ch1",)


def test_one_channel_of_two_is_built_and_built_on(field, tmp_path):
    types = ("ch1_aper2_original", "ch1_aper3_original")
    report = build(field.first, tmp_path / "f.zarr", types=types[0], **HOW)
    assert report.ok
    assert "ch2" in {s.channel for s in report.skipped}
    assert not build(field.first, tmp_path / "f.zarr", **HOW).changed
    assert build(field.first, tmp_path / "f.zarr", types=types[1], **HOW).n_types == 2
    cube = Cube(tmp_path / "f.zarr")
    assert cube.types == types
    assert np.isfinite(cube.block()[:, :, 0]).mean() > 0.9


# ---------------------------------------------------------------- statistics


def test_statistics_cover_the_old_aors_until_they_are_computed_anew(grown, tmp_path, run_cli):
    store = copy_store(grown[1], tmp_path)
    assert any("stats --update" in note for note in grown[0].notes)
    group = zarr.open_group(store, mode="r")
    assert group["variability"].attrs["n_aors"] == 6
    assert int(Cube(store).table("variability")["n"].max()) <= 6
    ended = run_cli("stats", store)
    assert ended.code == 0
    assert "6 of 8" in ended.out + ended.err or "stats --update" in ended.out + ended.err
    before = Cube(store)
    ended = run_cli("stats", store, "--update", "-q")
    assert ended.code == 0, ended.err
    assert "--update" not in ended.out + ended.err
    group = zarr.open_group(store, mode="r")
    assert group["variability"].attrs["n_aors"] == 8
    cube = Cube(store)
    assert bits(cube.block()) == bits(before.block())
    table, values = cube.table("variability"), cube.block()
    for row in (0, len(values) // 2):
        good = (flags_of(values[row, 0, 2]) & BAD_FLAGS) == 0
        assert table["n"][row, 0] == good.sum()
    assert int(table["n"].max()) == 8
    others_see(cube)


def test_statistics_wait_for_a_change_that_is_under_way(field, store, tree):
    stop_in(field.images, store, "assembling shards")
    before = everything(store, tree)
    with pytest.raises(UsageError, match=r"append of gr3, gr7.* build .*again"):
        update_variability(store)
    assert everything(store, tree) == before
    assert build(field.images, store, **HOW).n_aors == 8
    update_variability(store)
    assert Cube(store).shape[3] == 8


# ---------------------------------------------------------------- stopped


def stop_in(images, store, step, **how):
    """Interrupt a build in the middle of a step."""

    def interrupt(label, done, total):
        if label == step and done >= max(1, total // 2):
            raise KeyboardInterrupt(f"stop in {step}")

    with pytest.raises(KeyboardInterrupt, match="stop in"):
        build(images, store, progress=interrupt, **HOW, **how)


@pytest.mark.parametrize("step", ["reading mosaics", "measuring AORs", "assembling shards"])
def test_a_stopped_append_is_gone_on_with(field, grown, store, step):
    stop_in(field.images, store, step)
    keeps(Cube(field.store), Cube(store))
    assert Cube(store).shape[3] == 6
    report = build(field.images, store, **HOW)
    assert report.n_aors == 8
    assert bits(Cube(store).block()) == bits(Cube(grown[1]).block())
    nothing_beside(store)


def test_while_an_append_is_stopped_other_changes_wait(field, store, tree):
    stop_in(field.images, store, "assembling shards")
    before = tree(store)
    for how in ({"replace_aors": ["gr1"]}, {"types": "ch2_aper2_*"}):
        images = field.first if "types" in how else field.images
        with pytest.raises((SettingsDiffer, UsageError), match=r"append of gr3, gr7|at once"):
            build(images, store, **how, **HOW)
        assert tree(store) == before


def test_a_stopped_replacement_is_gone_on_with_without_being_asked_again(field, store):
    images = copy_aors(field.images, store.with_name("images"), FIRST)
    for channel in ("ch1", "ch2"):
        brighten(images / f"IDF_gr4_{channel}_sci.fits")
    stop_in(images, store, "assembling shards", replace_aors=["gr4"])
    report = build(images, store, **HOW)
    assert any("measured again: gr4" in note for note in report.notes)
    old, new = Cube(field.store).block(), Cube(store).block()
    assert bits(new[..., [0, 1, 3, 4, 5]]) == bits(old[..., [0, 1, 3, 4, 5]])
    bright = Cube(store).table("catalogue")["snr_ch1"] > 60
    ratio = new[bright, 0, 0, 2] / old[bright, 0, 0, 2]
    assert np.nanmedian(ratio) == pytest.approx(2, rel=0.02)
    nothing_beside(store)


def test_a_disk_that_fails_is_not_taken_for_a_bad_mosaic(field, store, monkeypatch):
    """The mosaic is well, so the next run must find it again and not remember it as unusable."""
    from idfzarr.store.ledger import Ledger

    plain = Ledger.append

    def failing(ledger, kind, /, **told):
        if kind == "registered" and told["aor"] == "gr3":
            raise OSError(5, "Input/output error", "ledger")
        return plain(ledger, kind, **told)

    monkeypatch.setattr(Ledger, "append", failing)
    with pytest.raises(BuildFailed, match=r"gr3.*Input/output error"):
        build(field.images, store, **HOW)
    keeps(Cube(field.store), Cube(store))
    monkeypatch.setattr(Ledger, "append", plain)
    assert build(field.images, store, **HOW).aors_measured == 2
    assert Cube(store).coordinate("aor_name").tolist() == [*FIRST, *NEW]


# ---------------------------------------------------------------- what is remembered


def blank(path):
    """Leave a mosaic its header and no pixel, so that only reading it whole finds the fault."""
    with fits.open(path) as hdus:
        header, data = hdus[0].header, np.full_like(hdus[0].data, np.nan)
    fits.writeto(path, data, header, overwrite=True)


def test_bad_mosaics_are_remembered_over_many_appends(field, store):
    images = copy_aors(field.images, store.with_name("images"), (*FIRST, "gr3"))
    for channel in ("ch1", "ch2"):
        blank(images / f"IDF_gr3_{channel}_sci.fits")
    with pytest.raises(ImageMissing, match="not one mosaic can be used"):
        build(images, store, **HOW)
    # it is listed from now on, and stands in nobody's way
    report = build(images, store, **HOW)
    assert not report.changed
    assert not report.ok
    assert {(s.aor, s.channel) for s in report.skipped if s.is_fault} == {
        ("gr3", "ch1"),
        ("gr3", "ch2"),
    }
    copy_aors(field.images, images, ("gr7",))
    blank(images / "IDF_gr7_ch2_sci.fits")
    report = build(images, store, **HOW)
    assert report.aors_measured == 1
    report = build(images, store, **HOW)
    assert not report.changed
    assert {(s.aor, s.channel) for s in report.skipped if s.is_fault} == {
        ("gr3", "ch1"),
        ("gr3", "ch2"),
        ("gr7", "ch2"),
    }
    report = build(images, store, types="ch1_aper3_original", **HOW)
    assert report.n_types == 4
    cube = Cube(store)
    keeps(Cube(field.store), cube)
    assert cube.coordinate("aor_name").tolist() == [*FIRST, "gr7"]
    assert np.isfinite(cube.block()[:, 3, 0]).mean() > 0.95


def test_an_aor_processed_again_in_another_folder_is_remembered_by_its_new_files(field, store):
    """The old files still lie where they were; the ledger must speak of those that were read."""
    images = copy_aors(field.images, store.with_name("again"), FIRST)
    brighten(images / "IDF_gr4_ch1_sci.fits")
    brighten(images / "IDF_gr4_ch2_sci.fits")
    assert build(images, store, replace_aors=["gr4"], **HOW).changed
    assert not build(images, store, **HOW).changed
    with pytest.raises(SettingsDiffer, match=r"first/IDF_gr4_ch1_sci\.fits has another sha256"):
        build(field.first, store, **HOW)


def test_types_are_added_to_a_copied_store_without_its_ledger(field, tmp_path):
    with_ledger = copy_store(field.store, tmp_path)
    build(field.first, with_ledger, types="ch2_aper3_original", **HOW)
    (tmp_path / "copy").mkdir()
    store = copy_store(field.store, tmp_path / "copy", ledger=False)
    part = copy_aors(field.images, tmp_path / "part", FIRST[1:])
    with pytest.raises(ImageMissing, match=r"mosaic of AOR gr1 in ch1 .*\(2 missing\)"):
        build(part, store, types="ch2_aper3_original", **HOW)
    report = build(field.first, store, types="ch2_aper3_original", **HOW)
    assert report.aors_measured == 6
    assert bits(Cube(store).block()) == bits(Cube(with_ledger).block())
    assert np.isfinite(Cube(store).block()[:, 3, 0]).mean() > 0.95


def test_a_change_that_waits_is_named_where_nothing_is_asked(field, store):
    stop_in(field.images, store, "assembling shards")
    report = build(field.first, store, **HOW)
    assert not report.changed
    assert any("append of gr3, gr7 was begun and is not finished" in n for n in report.notes)
    assert build(field.images, store, **HOW).n_aors == 8
    assert build(field.first, store, **HOW).notes == ()


def test_statistics_after_a_commit_that_was_not_tidied_up(field, store, monkeypatch):
    """Right after the root's rename every other ``zarr.json`` still has the old lengths."""
    from idfzarr.store import append

    with monkeypatch.context() as patched:
        patched.setattr(append, "roll_forward", lambda place: None)
        build(field.images, store, **HOW)
    assert json.loads((store / "lightcurves/zarr.json").read_bytes())["shape"][3] == 6
    assert Cube(store).shape[3] == 8
    update_variability(store)
    cube = Cube(store)
    assert cube.shape[3] == 8
    assert zarr.open_group(store, mode="r")["variability"].attrs["n_aors"] == 8
    keeps(Cube(field.store), cube)
    others_see(cube)
