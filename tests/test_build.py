"""A build against plain readers of Zarr, against photutils, the truth, and itself."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tensorstore as ts
import xarray as xr
import zarr
from astropy.io import fits
from photutils.aperture import CircularAperture, aperture_photometry

import idfzarr
from idfzarr.build.pipeline import build
from idfzarr.errors import NoSkyCoordinates, UnfinishedStore, UnknownName, UsageError
from idfzarr.flags import BAD_FLAGS, flag_bit
from idfzarr.imaging.simulated_truth import read_truth
from idfzarr.measurement import APERTURE_RADII
from idfzarr.store.cube import Cube, flags_of

# One pixel of 0.6 arcsec in uJy per MJy/sr: (0.6 / 206264.806)**2 sr * 1e12 uJy/MJy.
FACTOR = (0.6 / 206264.80624709636) ** 2 * 1e12


@pytest.fixture(scope="module")
def cube(small_store):
    return Cube(small_store.store)


@pytest.fixture(scope="module")
def truth(small_store):
    return read_truth(small_store.images)


def matched(cube, truth):
    """Return pairs (row of the truth, row of the cube) by brute force."""
    away = np.hypot(
        np.subtract.outer(np.asarray(truth.table["x"]), cube.coordinate("x")),
        np.subtract.outer(np.asarray(truth.table["y"]), cube.coordinate("y")),
    )
    nearest = away.argmin(axis=1)
    return [(k, int(n)) for k, n in enumerate(nearest) if away[k, n] < 1.0]


def constant_objects(cube, truth, channel, least):
    """Return pairs of isolated constant objects that stand out of the noise."""
    table = truth.table
    signal = cube.table("catalogue")[f"snr_{channel}"]
    return [
        (k, row)
        for k, row in matched(cube, truth)
        if table["isolated"][k] and not table["varies"][k] and signal[row] > least
    ]


# ---------------------------------------------------------------- other readers


@pytest.mark.parametrize("consolidated", [True, False])
def test_plain_xarray_and_zarr_read_the_cube_of_a_build_without_a_warning(
    cube, small_store, consolidated
):
    values = cube.block()
    assert np.isfinite(values[:, :, 0]).mean() > 0.9
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with xr.open_zarr(small_store.store, consolidated=consolidated) as ds:
            assert ds["lightcurves"].dims == ("object", "type", "value", "aor")
            assert ds["lightcurves"].dtype == np.float32
            # zarr-python takes milliseconds a chunk: every fifth object, all their types
            part = ds["lightcurves"][::5]
            assert np.array_equal(part.to_numpy(), values[::5], equal_nan=True)
            for name in cube.coordinate_names:
                known = cube.coordinate(name)
                assert name in ds.coords
                assert np.array_equal(
                    ds[name].to_numpy().astype(known.dtype),
                    known,
                    equal_nan=known.dtype.kind == "f",
                )
            one = ds["lightcurves"].sel(object=cube.objects[3], type="ch2_auto_clean", value="flux")
            column = cube.types.index("ch2_auto_clean")
            assert np.array_equal(one.to_numpy(), values[3, column, 0], equal_nan=True)
        group = zarr.open_group(small_store.store, mode="r", use_consolidated=consolidated)
        assert group["lightcurves"].shape == values.shape
        for row in (1, len(values) - 1):
            assert np.array_equal(group["lightcurves"][row], values[row], equal_nan=True)
    assert [str(w.message) for w in caught if issubclass(w.category, UserWarning)] == []


def test_tensorstore_reads_the_cube_of_a_build(cube, small_store):
    for name in ("lightcurves", "object", "ra", "mjd", "zeropoint", "noise_scale"):
        kvstore = {"driver": "file", "path": f"{small_store.store}/{name}/"}
        stored = ts.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
        ours = cube.block() if name == "lightcurves" else cube.coordinate(name)
        assert stored.dtype == ours.dtype
        assert np.array_equal(stored, ours, equal_nan=True)


def test_the_engine_and_single_lightcurves_agree_with_the_cube(cube, small_store):
    values = cube.block()
    with idfzarr.open(small_store.store) as ds:
        assert np.array_equal(ds["flux"].to_numpy(), values[:, :, 0], equal_nan=True)
        assert np.array_equal(ds["flux_err"].to_numpy(), values[:, :, 1], equal_nan=True)
        assert np.array_equal(ds["flag"].to_numpy(), flags_of(values[:, :, 2]))
    for row in (0, len(values) - 1):
        for column in (0, 17, len(cube.types) - 1):
            lc = cube.lightcurve(int(cube.objects[row]), cube.types[column])
            assert np.array_equal(lc.flux, values[row, column, 0], equal_nan=True)
            assert np.array_equal(lc.flag, values[row, column, 2].astype(np.uint16))
            channel = cube.channels.index(lc.channel)
            assert np.array_equal(lc.mjd, cube.coordinate("mjd")[:, channel])
            assert lc.unit == "uJy"


# ---------------------------------------------------------------- the numbers


def test_fluxes_are_those_of_photutils_on_the_mosaics(cube, small_store, truth):
    """Nothing of ours but x, y: the background is the truth's plane, the apertures photutils'.

    Ours may differ by what either knows of the background: one small value per unit of area, the
    same in apertures of any size.
    """
    values = cube.block()
    y, x = np.mgrid[:128, :128]
    middle = (128 - 1) / 2
    places = np.stack([cube.coordinate("x"), cube.coordinate("y")], axis=1)
    compared = 0
    for a, name in enumerate(cube.coordinate("aor_name")):
        for c, channel in enumerate(cube.channels):
            sci = fits.getdata(small_store.images / f"IDF_{name}_{channel}_sci.fits")
            cov = fits.getdata(small_store.images / f"IDF_{name}_{channel}_cov.fits")
            level, slope_x, slope_y = truth.background[a, c]
            image = sci - (level + slope_x * (x - middle) + slope_y * (y - middle))
            bad = ~np.isfinite(sci) | ~(cov > 0)
            beside, error, whole = [], [], np.ones(len(places), dtype=bool)
            for k in (1, 2, 3):
                circles = CircularAperture(places, APERTURE_RADII[k - 1])
                found = aperture_photometry(image, circles, mask=bad)["aperture_sum"].value
                whole &= aperture_photometry(bad.astype(float), circles)["aperture_sum"] == 0
                column = cube.types.index(f"{channel}_aper{k}_original")
                beside.append((values[:, column, 0, a] - found * FACTOR) / circles.area)
                error.append(values[:, column, 1, a] / circles.area)
            whole &= (np.abs(places - middle) < middle - 8).all(axis=1)
            assert whole.sum() > 15
            assert np.abs(beside[2][whole]).max() < 4 * np.median(error[2][whole])
            assert np.abs(np.median(beside[2][whole])) < 2 * np.median(error[2][whole])
            for one in beside[:2]:
                assert np.abs(one - beside[2])[whole].max() < 0.1 * np.median(error[2][whole])
            compared += int(whole.sum())
    assert compared > 200


def test_isolated_constant_objects_have_their_true_flux_in_every_aperture(cube, truth):
    compared = 0
    for c, channel in enumerate(truth.channels):
        for k, row in constant_objects(cube, truth, channel, least=200):
            for n in (1, 2, 3, 4):
                lc = cube.lightcurve(int(cube.objects[row]), f"{channel}_aper{n}_clean")
                lc = lc.calibrated().good()
                assert len(lc) >= 4
                true = (
                    np.median(truth.flux[k, c])
                    * float(truth.table[f"energy_{channel}_aper{n}"][k])
                    * np.median(truth.zeropoint[:, c])
                )
                assert np.median(lc.flux) == pytest.approx(true, rel=0.03)
                compared += 1
    assert compared >= 8


def test_sums_grow_with_the_aperture_and_errors_with_them(cube, truth):
    names = [f"ch1_aper{n}_original" for n in range(1, 6)]
    columns = [cube.types.index(name) for name in names]
    values = cube.block()[:, columns]
    rows = [row for _, row in constant_objects(cube, truth, "ch1", least=50)]
    assert rows
    assert (np.diff(np.median(values[rows, :, 0], axis=2), axis=1) > 0).all()
    good = np.isfinite(values[:, :, 1])
    assert good.any()
    assert (values[:, :, 1][good] > 0).all()
    whole = np.isfinite(values[:, :, 1]).all(axis=(1, 2))
    assert (np.diff(values[whole, :, 1], axis=1) > 0).all()


def test_every_flag_is_an_integer_and_nan_flux_says_why(cube):
    values = cube.block()
    flags = values[:, :, 2]
    assert np.isfinite(flags).all()
    assert (flags == np.floor(flags)).all()
    assert (flags >= 0).all()
    assert (flags < 65536).all()
    told = flags.astype(np.int64)
    absent = ~np.isfinite(values[:, :, 0])
    assert (told[absent] & BAD_FLAGS != 0).all()
    assert ((told & flag_bit("not_built")) == 0).all()
    assert ((told & flag_bit("noise_model")) == 0).all()
    clean = np.char.endswith(np.array(cube.types), "_clean")
    assert ((told[:, clean] & flag_bit("cosmic_ray")) == 0).all()
    assert ((told[:, ~clean] & flag_bit("cleaned")) == 0).all()
    # a large aperture near the border is cut, a small one in the middle is not
    x, y = cube.coordinate("x"), cube.coordinate("y")
    border = np.minimum.reduce([x, y, 127 - x, 127 - y])
    largest, smallest = (
        cube.types.index("ch1_aper8_original"),
        cube.types.index("ch1_aper1_original"),
    )
    edge = (told & flag_bit("edge")) != 0
    assert edge[border < 10, largest].all()
    assert (border < 10).any()
    assert not edge[border > 13].any(axis=(1, 2))[border[border > 13] > 40].any()
    assert not edge[border > 4, smallest].any()


def test_pointing_offsets_are_those_of_the_truth(cube, truth):
    for name in ("dx", "dy"):
        measured, true = cube.coordinate(name), getattr(truth, name)
        assert measured.shape == true.shape
        assert np.isfinite(measured).all()
        # relative to the superstack, which lies where the AORs lie on average
        residual = (measured - measured.mean(axis=0)) - (true - true.mean(axis=0))
        assert np.abs(residual).max() < 0.1
        assert np.ptp(true) > 0


def test_objects_stand_in_the_order_of_the_sky_with_unique_ids(cube):
    ra, dec = cube.coordinate("ra"), cube.coordinate("dec")
    assert np.isfinite(ra).all()
    assert np.isfinite(dec).all()
    assert len(set(cube.objects.tolist())) == len(cube.objects)
    assert (np.abs(ra - 265) < 0.1).all()
    assert (np.abs(dec - 69) < 0.05).all()
    # neighbours in the cube are neighbours on the sky: far nearer than in a shuffled order
    x, y = cube.coordinate("x"), cube.coordinate("y")
    step = np.hypot(np.diff(x), np.diff(y)).mean()
    shuffled = np.random.default_rng(1).permutation(len(x))
    assert step < 0.75 * np.hypot(np.diff(x[shuffled]), np.diff(y[shuffled])).mean()
    table = cube.table("catalogue")
    assert np.array_equal(table["object_id"], cube.objects)
    for name in ("ra", "dec", "x", "y"):
        assert np.array_equal(table[name], cube.coordinate(name))


# ---------------------------------------------------------------- the store


def test_a_finished_build_run_again_changes_nothing(tiny_store, tree):
    def stamps():
        return {
            path: path.stat().st_mtime_ns
            for folder in (tiny_store.store, tiny_store.store.with_name("field.zarr.ledger"))
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix != ".lock"  # locks are made to be held, and stay
        }

    before, when = tree(tiny_store.store), stamps()
    settings = json.loads(before["zarr.json"])["attributes"]["idfzarr"]["settings"]
    report = build(tiny_store.images, tiny_store.store, types=settings["types"], shard_objects=4)
    assert not report.changed
    assert report.ok
    assert (report.n_objects, report.aors_measured) == (tiny_store.objects, 0)
    assert "nothing changed" in report.to_text()
    assert tree(tiny_store.store) == before
    assert stamps() == when


def test_nothing_temporary_is_left(tiny_store, small_store):
    for built in (tiny_store, small_store):
        beside = {p.name for p in built.store.parent.iterdir() if p.name.startswith("field.zarr")}
        assert beside == {"field.zarr", "field.zarr.ledger"}
        assert not (built.store / "staging").exists()
        assert list(built.store.parent.rglob("*.partial")) == []


@pytest.mark.parametrize("scheduler", ["threads", "processes", "cluster"])
def test_every_scheduler_writes_the_same_bytes(tiny_store, tmp_path, chunks, scheduler, request):
    if scheduler == "cluster":
        scheduler = request.getfixturevalue("cluster_address")
    store = tmp_path / "other.zarr"
    build(
        tiny_store.images,
        store,
        types="ch1_aper2_*,ch2_aper2_original",
        shard_objects=4,
        scheduler=scheduler,
        workers=1 if scheduler == "processes" else 2,
    )
    ours, theirs = chunks(store), chunks(tiny_store.store)
    assert sum(name.startswith("lightcurves/c/") for name in ours) == -(-tiny_store.objects // 4)
    assert sorted(ours) == sorted(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []


@pytest.fixture(scope="module")
def cluster_address():
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        dashboard_address=":0",
    ) as cluster:
        yield cluster.scheduler_address


@pytest.mark.parametrize(
    "step", ["reading mosaics", "measuring AORs", "assembling shards", "variability"]
)
def test_nothing_can_be_read_before_the_end_and_an_interrupted_build_goes_on(
    tiny_store, tmp_path, chunks, step
):
    store = tmp_path / "field.zarr"
    how = {
        "types": "ch1_aper2_*,ch2_aper2_original",
        "shard_objects": 4,
        "scheduler": "synchronous",
    }
    seen = []

    def interrupt(label, done, total):
        assert not (store / "zarr.json").exists()
        seen.append(label)
        if label == step and done == max(1, total // 2):
            raise KeyboardInterrupt("stop here")

    with pytest.raises(KeyboardInterrupt, match="stop here"):
        build(tiny_store.images, store, progress=interrupt, **how)
    assert step in seen
    with pytest.raises(UnfinishedStore, match="not finished: its build has not been published"):
        Cube(store)
    with pytest.raises(FileNotFoundError, match=r"field\.zarr"):
        xr.open_zarr(store)
    report = build(tiny_store.images, store, **how)
    assert report.changed
    measured = {"reading mosaics": 4, "measuring AORs": 2, "assembling shards": 0, "variability": 0}
    assert report.aors_measured == measured[step]
    assert chunks(store) == chunks(tiny_store.store)


# ---------------------------------------------------------------- what may be asked


def test_other_types_than_the_default_ones(small_store, tmp_path, cube):
    asked = "ch1_aper2_*,ch1_r3.5_original,ch1_median7_ratio,ch1_psf_original,"
    asked += "ch2_auto_diff,ch1_r3_clean"
    report = build(small_store.images, tmp_path / "t.zarr", types=asked)
    other = Cube(report.store)
    assert other.types == (
        "ch1_aper2_original",
        "ch1_aper2_clean",
        "ch1_r3.5_original",
        "ch1_median7_ratio",
        "ch1_psf_original",
        "ch2_auto_diff",
        "ch1_r3_clean",
    )
    values, default = other.block(), cube.block()
    assert np.array_equal(
        values[:, 0], default[:, cube.types.index("ch1_aper2_original")], equal_nan=True
    )
    assert np.array_equal(values[:, 6, :2], values[:, 1, :2], equal_nan=True)  # aper2 is r3
    bright = other.table("catalogue")["snr_ch1"] > 50
    assert bright.sum() >= 3
    flux = np.nanmedian(values[bright, :, 0], axis=2)
    isolated = other.table("catalogue")["isolated"].astype(bool)[bright]
    assert isolated.any()
    between = default[bright][:, [cube.types.index(f"ch1_aper{n}_original") for n in (2, 3)], 0]
    assert (flux[isolated, 2] > np.median(between[isolated, 0], axis=1)).all()
    assert (flux[isolated, 2] < np.median(between[isolated, 1], axis=1)).all()
    ratio = values[bright, 3, 0]
    assert np.nanmedian(ratio) == pytest.approx(1, abs=0.03)
    # all of a star's light is more than 3 pixels hold
    assert (flux[isolated, 4] > flux[isolated, 0]).all()
    assert (flux[isolated, 4] < 3 * flux[isolated, 0]).all()
    auto = np.nanmedian(default[bright, cube.types.index("ch2_auto_original"), 0], axis=1)
    assert np.median(np.abs(flux[:, 5]) / auto) < 0.05
    assert other.coordinate("unit").tolist() == ["uJy", "uJy", "uJy", "", "uJy", "uJy", "uJy"]
    assert other.coordinate("radius_arcsec")[[0, 2]] == pytest.approx([1.8, 2.1], rel=1e-3)


def test_one_channel_alone_has_twenty_types(tiny_images, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(tiny_images, images, ignore=shutil.ignore_patterns("*ch1*"))
    report = build(images, tmp_path / "one.zarr")
    assert report.ok
    cube = Cube(report.store)
    assert cube.channels == ("ch2",)
    assert len(cube.types) == 20
    assert all(name.startswith("ch2_") for name in cube.types)
    assert cube.coordinate("mjd").shape == (4, 1)
    assert np.isfinite(cube.block()[:, :, 0]).mean() > 0.9


def test_types_that_cannot_be_are_refused_before_anything_is_written(tiny_images, tmp_path):
    for wrong, sentence, error in (
        ("ch1_atuo_original", "no method; nearest: 'auto'|no method", UsageError),
        ("ch3_auto_original", "of channel 'ch3', of which there is no mosaic", UsageError),
        ("ch1_x*", "no type matches 'ch1_x\\*'", UnknownName),
        (" , ", "no type was asked for", UsageError),
    ):
        with pytest.raises(error, match=sentence):
            build(tiny_images, tmp_path / "t.zarr", types=wrong)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- frames on other grids


def shifted(source, target, *, skip):
    """Cut other windows out of mosaics, their WCS with them; the stars stay where they are."""
    target.mkdir()
    shutil.copy(source / "aors.ecsv", target)
    for number, path in enumerate(sorted(source.glob("*_ch1_*.fits"))):
        dx, dy = skip[number // 3]
        with fits.open(path) as hdus:
            header, data = hdus[0].header, hdus[0].data[dy : dy + 110, dx : dx + 110].copy()
            header["CRPIX1"] -= dx
            header["CRPIX2"] -= dy
            if number // 3 == 3:  # one mosaic lies mirrored
                data = data[:, ::-1].copy()
                header["CD1_1"] *= -1
                header["CRPIX1"] = data.shape[1] + 1 - header["CRPIX1"]
            fits.writeto(target / path.name, data, header)


def test_mosaics_on_other_grids_are_resampled_onto_one(small_store, tmp_path, cube):
    images = tmp_path / "images"
    skip = [(0, 0), (3, 7), (12, 2), (5, 15), (9, 9), (1, 4)]
    shifted(small_store.images, images, skip=skip)
    report = build(images, tmp_path / "s.zarr", types="ch1_aper3_original")
    assert report.ok
    assert any("resampled onto the field's grid by their WCS" in note for note in report.notes)
    other = Cube(report.store)
    assert other.shape[3] == 6
    # the same stars, found by their sky positions
    cosine = np.cos(np.radians(69))
    away = 3600 * np.hypot(
        np.subtract.outer(other.coordinate("ra"), cube.coordinate("ra")) * cosine,
        np.subtract.outer(other.coordinate("dec"), cube.coordinate("dec")),
    )
    near = away.argmin(axis=1)
    rows = np.flatnonzero((away.min(axis=1) < 0.6) & (other.table("catalogue")["snr_ch1"] > 60))
    assert len(rows) >= 4
    flux = other.block()[:, 0, 0]
    told = flags_of(other.block()[:, 0, 2])
    first = cube.block()[:, cube.types.index("ch1_aper3_original"), 0]
    compared = 0
    for row in rows:
        good = (told[row] & BAD_FLAGS) == 0
        if good.sum() >= 4:
            assert np.median(flux[row, good]) == pytest.approx(
                np.median(first[near[row]]), rel=0.06
            )
            compared += 1
    assert compared >= 3
    outside = ~np.isfinite(flux)
    assert (told[outside] & flag_bit("not_observed") != 0).all()


@pytest.fixture(scope="module")
def starfield(tmp_path_factory):
    """Frames without WCS and unc: Gaussian stars, whole-pixel shifts, headers with times."""
    folder = tmp_path_factory.mktemp("starfield")
    rng = np.random.default_rng(3)
    places = rng.uniform(14, 116, (40, 2))
    flux = 10 ** rng.uniform(3.5, 4.8, 40)
    y, x = np.mgrid[:130, :130]
    shifts = [(0, 0), (3, -2), (-4, 1), (2, 5), (-1, -3)]
    for n, (dx, dy) in enumerate(shifts):
        image = np.full((130, 130), 200.0)
        for (sx, sy), f in zip(places, flux, strict=True):
            r2 = (x - sx - dx) ** 2 + (y - sy - dy) ** 2
            image += f / (2 * np.pi * 1.6**2) * np.exp(-r2 / (2 * 1.6**2))
        image = rng.poisson(image).astype(np.float32)
        header = fits.Header()
        header["DATE-OBS"] = f"2020-01-{n + 1:02d}T03:00:00"
        header["EXPTIME"] = 60.0
        fits.writeto(folder / f"frame-{n}.fits", image, header)
    return folder, places, flux, shifts


def test_frames_without_wcs_and_unc_are_aligned_by_their_stars(starfield, tmp_path):
    folder, places, flux, shifts = starfield
    report = build(
        folder, tmp_path / "w.zarr", pattern="frame-{aor}.fits", types="ch1_aper4_original"
    )
    assert report.ok
    told = " ".join(report.notes)
    assert "aligned by their stars" in told
    assert "noise model" in told
    cube = Cube(report.store)
    assert cube.channels == ("ch1",)
    assert np.isnan(cube.coordinate("ra")).all()
    assert np.isnan(cube.coordinate("dec")).all()
    assert cube.coordinate("unit").tolist() == [""]
    assert np.isnan(cube.coordinate("radius_arcsec")).all()
    # 60 s from 03:00: the middle is 30 s later; MJD 58849 is 2020-01-01
    assert cube.coordinate("mjd")[:, 0] == pytest.approx(
        58849 + 0.125 + 30 / 86400 + np.arange(5), abs=1e-6
    )
    # objects stand in bands of y, and along each band by x
    x, y = cube.coordinate("x"), cube.coordinate("y")
    assert len(x) >= 25
    assert np.corrcoef(y, np.arange(len(y)))[0, 1] > 0.8
    values = cube.block()[:, 0]
    flags = flags_of(values[:, 2])
    assert (flags & flag_bit("noise_model") != 0)[np.isfinite(values[:, 0])].all()
    # the grid is one frame's own: its shift is that of all true places
    away = [
        np.hypot(
            np.subtract.outer(x, places[:, 0] + dx), np.subtract.outer(y, places[:, 1] + dy)
        ).min(axis=1)
        for dx, dy in shifts
    ]
    best = int(np.argmin([np.median(a) for a in away]))
    assert np.median(away[best]) < 0.1
    dx, dy = shifts[best]
    index = np.hypot(
        np.subtract.outer(x, places[:, 0] + dx), np.subtract.outer(y, places[:, 1] + dy)
    ).argmin(axis=1)
    good = ((flags & BAD_FLAGS) == 0).sum(axis=1) >= 4
    alone = np.array([np.sort(np.hypot(*(places - places[i]).T))[1] > 12 for i in index])
    rows = np.flatnonzero(good & alone & (flux[index] > 8000))
    assert len(rows) >= 3
    share = 1 - np.exp(-(APERTURE_RADII[3] ** 2) / (2 * 1.6**2))
    measured = np.nanmedian(values[rows, 0], axis=1)
    assert np.abs(measured / (flux[index[rows]] * share) - 1).max() < 0.05
    with idfzarr.open(report.store) as ds:
        assert ds["flux"].attrs.get("units", "") == ""
        if hasattr(ds, "idf"):
            with pytest.raises(NoSkyCoordinates, match="WCS"):
                ds.idf.cone("17h40m00s +69d00m00s", radius="30 arcsec")


def test_a_report_says_what_was_left_out(tiny_store):
    from idfzarr.build.report import BuildReport, Skipped

    report = BuildReport(str(tiny_store.store), 1, 2, 3)
    assert report.ok
    listed = replace(report, skipped=(Skipped("gr7", "ch1", "x_sci.fits is torn"),))
    assert not listed.ok
    assert "gr7 ch1: x_sci.fits is torn" in listed.to_text()
    assert json.loads(json.dumps(listed.to_dict()))["skipped"][0]["aor"] == "gr7"
    row = replace(report, skipped=(Skipped("gr8", "*", "no image", is_fault=False),))
    assert row.ok
    assert "gr8 *: no image" in row.to_text()
