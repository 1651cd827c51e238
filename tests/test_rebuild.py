"""Lightcurves are measured again bit for bit, wherever the mosaics are, and nothing is written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits

import idfzarr
from idfzarr.build.pipeline import build
from idfzarr.build.rebuild import rebuild_lightcurves
from idfzarr.build.rebuild_columns import rebuild_coordinates
from idfzarr.build.refresh import update_variability
from idfzarr.errors import (
    ChunkCorrupt,
    ChunkMissing,
    ImageMissing,
    SettingsDiffer,
    UnknownName,
    UsageError,
)
from idfzarr.flags import flag_bit
from idfzarr.imaging.simulate import simulate
from idfzarr.store.cube import Cube
from idfzarr.store.relayout import relayout
from idfzarr.store.shard import reduce_precision

TYPES = "ch1_aper2_*,ch2_aper2_original"
HOW = {"scheduler": "synchronous"}


def beside(store, suffix):
    return store.with_name(store.name + suffix)


def copy_store(store, folder):
    target = folder / "field.zarr"
    shutil.copytree(store, target)
    shutil.copytree(beside(store, ".ledger"), beside(target, ".ledger"))
    return target


def copy_aors(source, target, names):
    target.mkdir(exist_ok=True)
    for path in source.glob("IDF_*.fits"):
        if path.name.split("_")[1] in names:
            shutil.copy2(path, target)
    shutil.copy2(source / "aors.ecsv", target)
    return target


def brighten(folder, aor, factor=1.001):
    """Process the mosaics of an AOR again: other files of the same names."""
    for path in folder.glob(f"IDF_{aor}_*_sci.fits"):
        with fits.open(path) as hdus:
            header, data = hdus[0].header, hdus[0].data * np.float32(factor)
        fits.writeto(path, data, header, overwrite=True)


def as_stored(values, precision):
    """Return values (..., value, aor) as the store's precision leaves them."""
    if precision is None:
        return values
    out = values.copy()
    out[..., 0, :], out[..., 1, :] = reduce_precision(
        values[..., 0, :], values[..., 1, :], precision
    )
    return out


def everything(store, tree):
    ledger = beside(store, ".ledger")
    names = sorted(p.name for p in store.parent.iterdir())
    return tree(store), tree(ledger), names


def check(store, *, seed=0, **how):
    """Rebuild random lightcurves and a whole shard, and compare every bit with what is stored."""
    cube = Cube(store)
    layout, stored = cube.schema.layout, cube.block()
    rng = np.random.default_rng(seed)
    wanted = {0: None}
    for shard in range(1, layout.n_shards):
        first, last = layout.rows(shard)
        wanted[shard] = [
            (int(rng.integers(last - first)), int(rng.integers(layout.n_types))) for _ in range(3)
        ]
    rebuilt = rebuild_lightcurves(store, wanted, **(HOW | how))
    assert rebuilt.lost == ()
    assert rebuilt.inexact == ()
    assert rebuilt.shards == tuple(range(layout.n_shards))
    n_compared = 0
    for shard in rebuilt.shards:
        first, last = layout.rows(shard)
        block = as_stored(rebuilt.block(shard), cube.schema.precision)
        asked = wanted[shard]
        if asked is None:
            assert block.tobytes() == stored[first:last].tobytes()
            n_compared += block.shape[0] * block.shape[1]
            assert len(rebuilt.chunks(shard)) == block.shape[0] * block.shape[1]
            continue
        assert set(rebuilt.chunks(shard)) == set(asked)
        for row, column in set(asked):
            assert block[row, column].tobytes() == stored[first + row, column].tobytes()
            n_compared += 1
        rest = np.ones(block.shape[:2], dtype=bool)
        rest[tuple(np.array(sorted(set(asked))).T)] = False
        assert np.isnan(block[rest]).all()
    assert n_compared == len(rebuilt) > layout.shard_objects
    assert np.isfinite(stored[:, :, 0]).mean() > 0.5
    return rebuilt


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Simulate a field of six AORs; gr5 has no ch2."""
    folder = tmp_path_factory.mktemp("rebuild") / "images"
    simulate(folder, aors=6, objects=25, size=96, seed=4)
    for path in folder.glob("IDF_gr5_ch2_*.fits"):
        path.unlink()
    return folder


@pytest.fixture(scope="module")
def made(images, tmp_path_factory):
    """Build from four AORs, gr5 among them."""
    folder = tmp_path_factory.mktemp("made")
    own = copy_aors(images, folder / "images", ("gr1", "gr2", "gr3", "gr5"))
    build(own, folder / "field.zarr", types=TYPES, shard_objects=8, **HOW)
    return own, folder / "field.zarr"


@pytest.fixture
def store(made, tmp_path):
    return copy_store(made[1], tmp_path)


# ---------------------------------------------------------------- bit for bit


def test_a_plain_build_is_rebuilt_and_nothing_is_written(made, store, tree):
    before = everything(store, tree)
    rebuilt = check(store)
    assert everything(store, tree) == before
    cube = Cube(store)
    k, columns = list(cube.coordinate("aor_name")).index("gr5"), slice(2, 3)
    unseen = rebuilt.block(0)[:, columns, :, k]
    assert np.isnan(unseen[:, :, :2]).all()
    assert (unseen[:, :, 2] == flag_bit("not_observed")).all()


def test_everything_that_happens_to_a_store_is_rebuilt(made, images, store, tmp_path):
    """Append, more types, append, replace, more types, relayout: each measured in its own way."""
    own = copy_aors(images, tmp_path / "images", ("gr1", "gr2", "gr3", "gr5", "gr4"))
    build(own, store, **HOW)
    build(own, store, types="ch1_aper4_original,ch2_auto_clean", **HOW)
    check(store, seed=2)
    copy_aors(images, own, ("gr6",))
    build(own, store, **HOW)
    brighten(own, "gr2")
    build(own, store, replace_aors=["gr2"], **HOW)
    check(store, seed=3)
    build(own, store, types="ch1_median3_ratio,ch1_aper1_original", **HOW)
    relayout(store, capacity=96)
    for path in own.glob("IDF_gr3_ch2_*.fits"):
        path.unlink()
    build(own, store, replace_aors=["gr3"], **HOW)
    rebuilt = check(store, seed=5)
    assert Cube(store).shape[1] == 7
    assert rebuilt.values.shape[2] == 6


@pytest.mark.parametrize(
    "options",
    [
        {"codec": "none"},
        {"precision": True},
        {"sky": "mesh"},
        {"types": "ch1_auto_original,ch1_biweight7_ratio,ch1_r3.5_diff,ch2_iso_clean"},
    ],
    ids=["none", "precision", "mesh", "types"],
)
def test_every_way_to_build_is_rebuilt(images, tmp_path, options):
    own = copy_aors(images, tmp_path / "images", ("gr1", "gr2", "gr3"))
    store = tmp_path / "field.zarr"
    build(own, store, **({"types": TYPES, "shard_objects": 8} | HOW | options))
    copy_aors(images, own, ("gr4",))
    build(own, store, **HOW)
    check(store)


def shifted(folder, aor, by):
    """Move the WCS of an AOR's mosaics, so that they have to be resampled."""
    for path in folder.glob(f"IDF_{aor}_*.fits"):
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["CRPIX1"] += by
            hdus[0].header["CRPIX2"] -= by / 3


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in other processes"])
def test_resampled_mosaics_are_rebuilt(images, tmp_path, monkeypatch, elsewhere):
    """A WCS that is sent to another process loses digits, and a build knows no other there."""
    from idfzarr.build import scheduler

    def sent(task, attempt=scheduler._attempt):  # what a process is sent
        return attempt(pickle.loads(pickle.dumps(task)))

    own = copy_aors(images, tmp_path / "images", ("gr1", "gr2", "gr3"))
    shifted(own, "gr2", 2.37)
    shifted(own, "gr3", -4.11)
    store = tmp_path / "field.zarr"
    with monkeypatch.context() as patched:
        if elsewhere:
            patched.setattr(scheduler, "_attempt", sent)
        build(own, store, types=TYPES, shard_objects=8, **HOW)
        copy_aors(images, own, ("gr4",))
        shifted(own, "gr4", 1.2)
        build(own, store, **HOW)
    how = [
        r.fields["placement"]["how"]
        for r in idfzarr.store.ledger.read_ledger(store).of("registered")
    ]
    assert how.count("reprojected") == 8
    check(store)


def without_wcs(folder):
    for path in folder.glob("IDF_*.fits"):
        with fits.open(path, mode="update") as hdus:
            header = hdus[0].header
            for card in [
                c for c in header if c.startswith(("CTYPE", "CRVAL", "CRPIX", "CD", "PC"))
            ]:
                del header[card]


def test_frames_aligned_by_their_stars_are_rebuilt(tmp_path):
    simulate(tmp_path / "all", aors=4, objects=60, size=128, seed=9)
    without_wcs(tmp_path / "all")
    for aor, by in (("gr2", 3), ("gr3", -5), ("gr4", 4)):
        for path in (tmp_path / "all").glob(f"IDF_{aor}_*.fits"):
            with fits.open(path, mode="update") as hdus:
                hdus[0].data = np.roll(hdus[0].data, by, axis=(0, 1))
    own = copy_aors(tmp_path / "all", tmp_path / "images", ("gr1", "gr2", "gr3"))
    store = tmp_path / "field.zarr"
    build(own, store, types=TYPES, shard_objects=8, **HOW)
    copy_aors(tmp_path / "all", own, ("gr4",))
    build(own, store, **HOW)
    how = [
        r.fields["placement"]["how"]
        for r in idfzarr.store.ledger.read_ledger(store).of("registered")
    ]
    assert "stars" in how
    check(store)


# ---------------------------------------------------------------- where the mosaics are


def test_mosaics_in_another_folder_are_found_by_name(made, store, tmp_path):
    own = copy_aors(made[0], tmp_path / "own", ("gr1", "gr2", "gr3", "gr5"))
    away = tmp_path / "away" / "deep"
    target = tmp_path / "second.zarr"
    build(own, target, types=TYPES, shard_objects=8, **HOW)
    away.parent.mkdir()
    own.rename(away)
    with pytest.raises(
        ImageMissing, match=r"7 of the sources .* are not there .*/own/IDF_gr1_ch1_"
    ):
        rebuild_lightcurves(target, {0: None}, **HOW)
    for path in away.glob("*.fits"):
        os.utime(path, (1, 1))
    check(target, images=tmp_path / "away")


def test_a_changed_mosaic_is_refused_by_name(made, store, tmp_path):
    own = copy_aors(made[0], tmp_path / "own", ("gr1", "gr2", "gr3", "gr5"))
    target = tmp_path / "second.zarr"
    build(own, target, types=TYPES, shard_objects=8, **HOW)
    brighten(own, "gr3")
    with pytest.raises(SettingsDiffer, match=r"IDF_gr3_ch1_sci\.fits: another sha256"):
        rebuild_lightcurves(target, {0: [(0, 0)]}, **HOW)
    with pytest.raises(SettingsDiffer, match=r"IDF_gr3_ch2_sci\.fits: another sha256"):
        rebuild_lightcurves(target, {0: [(0, 2)]}, images=own, **HOW)
    # those that were measured are found in the other folder, whatever lies at the old place
    check(target, images=made[0])


def test_what_is_missing_is_lost_where_that_is_allowed(made, tmp_path):
    own = copy_aors(made[0], tmp_path / "own", ("gr1", "gr2", "gr3", "gr5"))
    store = tmp_path / "second.zarr"
    build(own, store, types=TYPES, shard_objects=8, **HOW)
    (own / "IDF_gr3_ch1_unc.fits").unlink()
    with pytest.raises(ImageMissing, match=r"1 of the sources .*IDF_gr3_ch1_unc\.fits"):
        rebuild_lightcurves(store, {0: None}, **HOW)
    rebuilt = rebuild_lightcurves(store, {0: None}, partial=True, **HOW)
    assert [(one.aor, one.channel) for one in rebuilt.lost] == [("gr3", "ch1")]
    assert "IDF_gr3_ch1_unc.fits" in rebuilt.lost[0].reason
    cube = Cube(store)
    k = list(cube.coordinate("aor_name")).index("gr3")
    block, stored = rebuilt.block(0), cube.block()[:8]
    assert (block[:, :2, 2, k] == flag_bit("lost")).all()
    assert np.isnan(block[:, :2, :2, k]).all()
    assert block[:, 2].tobytes() == stored[:, 2].tobytes()
    rest = [n for n in range(4) if n != k]
    assert block[..., rest].tobytes() == stored[..., rest].tobytes()
    # ch2 alone needs nothing of what is gone
    assert rebuild_lightcurves(store, {0: [(1, 2)]}, **HOW).lost == ()


def test_a_store_without_its_ledger_cannot_be_rebuilt(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "f.zarr")
    with pytest.raises(ImageMissing, match=r"does not say what 4 AORs were measured from"):
        rebuild_lightcurves(tmp_path / "f.zarr", {0: None}, images=made[0], **HOW)
    rebuilt = rebuild_lightcurves(tmp_path / "f.zarr", {0: [(2, 1)]}, partial=True, **HOW)
    assert len(rebuilt.lost) == 4
    assert (rebuilt.block(0)[2, 1, 2] == flag_bit("lost")).all()


# ---------------------------------------------------------------- what cannot be


def test_damaged_superstack_catalogue_and_ledger_are_told(store):
    path = store / "images/superstack/ch1/flux/c/0/0"
    good = path.read_bytes()
    path.write_bytes(good[:100] + bytes([good[100] ^ 4]) + good[101:])
    with pytest.raises(ChunkCorrupt, match="superstack/ch1/flux"):
        rebuild_lightcurves(store, {0: [(0, 0)]}, **HOW)
    path.write_bytes(good)
    check(store)
    (store / "catalogue/kron_a/c/0").unlink()
    with pytest.raises(ChunkMissing, match="catalogue/kron_a"):
        rebuild_lightcurves(store, {0: [(0, 0)]}, **HOW)
    # without it other stars would be used, and nobody would be told
    shutil.rmtree(store / "catalogue/isolated")
    with pytest.raises(UnknownName, match="catalogue/isolated"):
        rebuild_lightcurves(store, {0: [(0, 0)]}, **HOW)


def test_damaged_lightcurves_and_coordinates_do_not_matter(made, store):
    stored = Cube(made[1]).block()
    shutil.rmtree(store / "lightcurves/c")
    for name in ("mjd", "type", "object", "zeropoint", "aor_name", "channel", "variability"):
        shutil.rmtree(store / name)
    rebuilt = rebuild_lightcurves(store, {0: None, 1: [(2, 2)]}, **HOW)
    assert rebuilt.block(0).tobytes() == stored[:8].tobytes()
    assert rebuilt.block(1)[2, 2].tobytes() == stored[10, 2].tobytes()


def test_what_was_filled_by_hand_is_refused(tmp_path):
    aors = {"aor": [1, 2], "mjd": [53000.0, 53001.0]}
    path = tmp_path / "mine.zarr"
    idfzarr.create(path, objects={"object_id": [4, 5]}, types=["ch1_auto_original"], aors=aors)
    with pytest.raises(UsageError, match="filled by hand"):
        rebuild_lightcurves(path, {0: None})


@pytest.mark.parametrize("pair", [(8, 0), (0, 3), (-1, 0)])
def test_lightcurves_that_are_not_there_are_refused(made, pair):
    with pytest.raises(UsageError, match=r"no lightcurve at row .* of shard 0"):
        rebuild_lightcurves(made[1], {0: [pair]})
    with pytest.raises(UsageError, match="no shard 99"):
        rebuild_lightcurves(made[1], {99: None})


def test_a_replacement_under_way_is_refused(made, images, store, tmp_path, monkeypatch):
    own = copy_aors(made[0], tmp_path / "images", ("gr1", "gr2", "gr3", "gr5"))
    brighten(own, "gr1")
    from idfzarr.build import steps

    with monkeypatch.context() as patched:
        patched.setattr(steps, "calibrate_new", lambda writer: 1 / 0)
        with pytest.raises(ZeroDivisionError, match="division"):
            build(own, store, replace_aors=["gr1"], **HOW)
    with pytest.raises(UsageError, match="replace of gr1 was begun and is not finished"):
        rebuild_lightcurves(store, {0: None}, **HOW)


def test_an_append_under_way_does_not_count(made, images, store, tmp_path, monkeypatch):
    own = copy_aors(images, tmp_path / "images", ("gr1", "gr2", "gr3", "gr5", "gr6"))
    from idfzarr.build import steps

    with monkeypatch.context() as patched:
        patched.setattr(steps, "calibrate_new", lambda writer: 1 / 0)
        with pytest.raises(ZeroDivisionError, match="division"):
            build(own, store, **HOW)
    assert Cube(store).shape[3] == 4
    check(store)


def test_a_mosaic_that_measures_differently_now_is_not_passed_off(made, store):
    """The ledger tells what was learnt of each mosaic; another result is another computation."""
    from idfzarr.store.ledger import Record, read_ledger

    folder = beside(store, ".ledger")

    def rewrite(change):
        records = read_ledger(store).records
        for path in folder.glob("*.jsonl"):
            path.unlink()
        with (folder / "all.jsonl").open("wb") as stream:
            for record in records:
                fields = json.loads(json.dumps(dict(record.fields)))
                if record.kind == "staged":
                    for told in fields["sources"]:
                        change(told)
                stream.write(
                    Record(
                        record.kind,
                        record.uuid,
                        record.writer,
                        record.number,
                        record.time_ns,
                        fields,
                    ).line()
                )

    def barely(told):
        told["sky"] = np.nextafter(told["sky"], 1).item()

    def truly(told):
        told["noise_scale"] = {name: 1.1 * scale for name, scale in told["noise_scale"].items()}

    rewrite(barely)
    rebuilt = rebuild_lightcurves(store, {0: [(0, 0)]}, **HOW)
    assert rebuilt.inexact == (
        "AOR gr1 in ch1",
        "AOR gr2 in ch1",
        "AOR gr3 in ch1",
        "AOR gr5 in ch1",
    )
    rewrite(truly)
    with pytest.raises(
        SettingsDiffer, match="gr1 in ch1, measured again, gives another background"
    ):
        rebuild_lightcurves(store, {0: [(0, 0)]}, **HOW)


# ---------------------------------------------------------------- memory


def test_memory_is_what_was_asked_for_and_a_few_mosaics(made, store):
    rebuild_lightcurves(store, {0: [(0, 0)]}, **HOW)  # apertures are frozen now
    tracemalloc.start()
    try:
        rebuild_lightcurves(store, {0: [(0, 0)]}, **HOW)
        few = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        rebuilt = rebuild_lightcurves(store, {k: [(0, 0)] for k in range(3)}, **HOW)
        more = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rebuilt.values.shape == (3, 3, 4)
    assert more < 1.3 * few


# ---------------------------------------------------------------- other arrays


def write_tables(folder, *, aors=4, objects=12):
    """Write a catalogue per AOR and channel, with times in an AOR table."""
    folder.mkdir()
    rng = np.random.default_rng(8)
    for a in range(aors):
        for channel in ("ch1", "ch2"):
            keep = np.flatnonzero(rng.random(objects) < 0.9)
            lines = ["object_id,ra,dec,flux_auto,fluxerr_auto,flags"]
            for k in keep:
                flux = rng.normal(100 + k, 2)
                lines.append(f"{k + 5},{265 + k / 100},{69 - k / 100},{flux},{2.0},{k % 3}")
            (folder / f"IDF_gr{a + 1}_{channel}_sci.csv").write_text("\n".join(lines) + "\n")
    table = ["reqkey,group_name,mjd"] + [f"{100 + a},gr{a + 1},{53000 + a}" for a in range(aors)]
    (folder / "aors.csv").write_text("\n".join(table) + "\n")
    return folder


def damaged_columns(store, names):
    """Remove the chunks of arrays, and return what they held."""
    cube = Cube(store)
    held = {
        n: cube.table("catalogue")[n.split("/")[1]] if "/" in n else cube.coordinate(n)
        for n in names
    }
    for name in names:
        shutil.rmtree(store / name)
    return held


def compare(found, held):
    assert found.values.keys() == held.keys()
    for name, values in held.items():
        now = found.values[name]
        if values.dtype.kind == "U":
            assert now.tolist() == values.tolist(), name
        else:
            assert (now.dtype, now.shape, now.tobytes()) == (
                values.dtype,
                values.shape,
                values.tobytes(),
            ), name


def test_coordinates_are_made_anew_bit_for_bit(made, images, store, tmp_path, tree):
    own = copy_aors(images, tmp_path / "images", ("gr1", "gr2", "gr3", "gr5", "gr4"))
    build(own, store, **HOW)
    build(own, store, types="ch2_aper3_original", **HOW)
    copy_aors(images, own, ("gr6",))
    build(own, store, **HOW)
    groups = (
        ("object", "x", "mjd", "exptime", "dx", "sky", "n_hits", "type", "type_image"),
        (
            "ra",
            "dec",
            "y",
            "aor",
            "dy",
            "offset_rms",
            "aor_name",
            "radius_arcsec",
            "channel",
            "unit",
        ),
        ("catalogue/ra", "catalogue/object_id", "zeropoint", "zeropoint_err", "noise_scale"),
        ("catalogue/comparison_flux", "value", "type_channel", "type_method", "sky_rms"),
    )
    keep = copy_store(store, tmp_path / "keep")
    for k, names in enumerate(groups):
        part = copy_store(keep, tmp_path / f"part{k}")
        held = damaged_columns(part, names)
        before = everything(part, tree)
        found = rebuild_coordinates(part, names, images=own)
        assert everything(part, tree) == before
        compare(found, held)
        assert not found.inexact
    assert (Cube(keep).coordinate("zeropoint_err") > 0).any()


def test_what_cannot_be_exact_is_told(made, store, tmp_path):
    own = copy_aors(made[0], tmp_path / "images", ("gr1", "gr2", "gr3", "gr5"))
    brighten(own, "gr2")
    build(own, store, replace_aors=["gr2"], **HOW)
    held = Cube(store).coordinate("zeropoint")
    found = rebuild_coordinates(store, ["zeropoint"])
    assert "replaced since" in found.inexact["zeropoint"]
    assert np.abs(found.values["zeropoint"] - held).max() < 0.01
    with pytest.raises(UsageError, match=r"'catalogue/kron_a' of .* cannot be made anew"):
        rebuild_coordinates(store, ["catalogue/kron_a"])


@pytest.mark.parametrize("damage", ["flip", "chunk", "json", "all"])
def test_statistics_are_made_anew_whatever_is_damaged(made, store, damage):
    held = {n: v.tobytes() for n, v in Cube(made[1]).table("variability").items()}
    folder = store / "variability/median"
    chunk = folder / "c/0/0"
    if damage == "flip":
        data = chunk.read_bytes()
        chunk.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    elif damage == "chunk":
        chunk.unlink()
    elif damage == "json":
        (folder / "zarr.json").unlink()
    else:
        shutil.rmtree(store / "variability")
    update_variability(store, **HOW)
    cube = Cube(store)
    assert {n: v.tobytes() for n, v in cube.table("variability").items()} == held
    assert len(held) > 5
    assert cube.block().tobytes() == Cube(made[1]).block().tobytes()


@pytest.mark.parametrize("options", [{}, {"columns": {"auto": ["flux_auto", "fluxerr_auto"]}}])
def test_imported_lightcurves_are_taken_from_their_tables_again(tmp_path, options, tree):
    tables, store = write_tables(tmp_path / "tables"), tmp_path / "f.zarr"
    idfzarr.import_tables(tables, store, shard_objects=4, **(HOW | options))
    before = everything(store, tree)
    check(store)
    assert everything(store, tree) == before
    tables.rename(tmp_path / "away")
    with pytest.raises(ImageMissing, match="4 of the sources"):
        rebuild_lightcurves(store, {0: None}, **HOW)
    check(store, images=tmp_path / "away")
