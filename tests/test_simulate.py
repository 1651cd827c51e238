"""The simulator against independent sums: brute-force images, photutils' apertures, statistics."""

from __future__ import annotations

import ast
import errno
import hashlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.stats import mad_std
from astropy.table import Table
from astropy.wcs import WCS
from photutils.aperture import CircularAperture

from idfzarr.errors import (
    ImageUnreadable,
    StorageFull,
    StoreExists,
    StoreMissing,
    UnknownName,
    UsageError,
)
from idfzarr.imaging import simulate as simulate_module
from idfzarr.imaging.header_time import exposure_time
from idfzarr.imaging.simulate import FIELD_CENTRE, Simulation, read_simulation, simulate
from idfzarr.imaging.simulated_frame import observe
from idfzarr.imaging.simulated_psf import (
    GRID_ARCSEC,
)
from idfzarr.imaging.simulated_truth import (
    energy_in_circle,
    energy_in_pixels,
    read_truth,
)
from idfzarr.imaging.simulated_variability import VARIABLE_KINDS

# MJy/sr on a pixel of 0.6 arcsec, in microjansky (facts of IRAC: 8.4616e-6 Jy).
PIXEL_MICROJANSKY = 8.461595


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "field"
    return simulate(folder, aors=12, objects=60, size=160, seed=3)


@pytest.fixture(scope="module")
def truth(field):
    return read_truth(field.folder)


def exact_sum(aperture, image):
    """Sum under an exact mask, by the part of photutils that is the same in 3.0 and 3.1."""
    return aperture.to_mask(method="exact").multiply(image).sum()


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


# --- same seed, same bytes ---------------------------------------------------------------------


def test_same_arguments_give_the_same_bytes(tmp_path):
    arguments = {"aors": 3, "objects": 12, "size": 64}
    first = simulate(tmp_path / "a", seed=5, **arguments)
    simulate(tmp_path / "b", seed=5, **arguments)
    other = simulate(tmp_path / "c", seed=6, **arguments)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert len(a) == 3 * 2 * 3 + 6
    assert a == b
    assert a.keys() == c.keys()
    assert all(a[p.name] != c[p.name] for p in (*first.images, *other.images))
    simulate(tmp_path / "a", seed=5, overwrite=True, **arguments)
    assert digests(tmp_path / "a") == b


def test_the_number_of_cores_does_not_change_a_byte(tmp_path):
    script = (
        "import sys; from idfzarr.imaging.simulate import simulate; "
        "simulate(sys.argv[1], aors=1, objects=90, size=128, channels=['ch2'])"
    )
    for threads in ("1", "2"):
        environment = os.environ | {"OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        command = [sys.executable, "-c", script, str(tmp_path / threads)]
        subprocess.run(command, env=environment, check=True, timeout=240)
    assert len(digests(tmp_path / "1")) == 3 + 6
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_one_channel_is_the_same_alone(tmp_path):
    simulation = simulate(tmp_path, aors=2, objects=12, size=64, channels=["ch2"])
    assert [p.name for p in simulation.images[:3]] == [
        "IDF_gr1_ch2_sci.fits",
        "IDF_gr1_ch2_unc.fits",
        "IDF_gr1_ch2_cov.fits",
    ]
    truth = read_truth(tmp_path)
    assert truth.channels == ("ch2",)
    assert "dropout" not in set(truth.table["variable"])
    assert "mjd_ch1" not in Table.read(simulation.aor_table).colnames


# --- the truth --------------------------------------------------------------------------------


def test_galaxies_hold_less_in_small_apertures_than_stars(truth):
    table = truth.table
    star, galaxy = table["kind"] == "star", table["kind"] == "galaxy"
    assert star.sum() > 10
    assert galaxy.sum() > 10
    assert table["energy_ch1_aper1"][galaxy].max() < table["energy_ch1_aper1"][star].min()
    assert np.ptp(table["energy_ch1_aper1"][star]) == 0
    for n in range(1, 8):
        assert np.all(table[f"energy_ch2_aper{n}"] < table[f"energy_ch2_aper{n + 1}"])
    assert np.all(table["energy_ch2_aper8"] > 0.9)


def test_energy_in_pixels_adds_up(truth):
    row = int(np.flatnonzero(truth.table["kind"] == "galaxy")[0])
    galaxy = int(truth.table["id"][row])
    x, y = truth.table["x"][row], truth.table["y"][row]
    rows, columns = np.mgrid[int(y) - 50 : int(y) + 51, int(x) - 50 : int(x) + 51]
    total = energy_in_pixels(truth, galaxy, "ch1", y=rows, x=columns)
    assert total == pytest.approx(1.0, abs=1e-3)
    near = np.hypot(rows - y, columns - x) <= 8
    disc = energy_in_pixels(truth, galaxy, "ch1", y=rows[near], x=columns[near])
    assert disc == pytest.approx(energy_in_circle(truth, galaxy, "ch1", radius=8.0), abs=5e-3)
    assert energy_in_pixels(truth, galaxy, "ch1", y=[10_000], x=[10_000]) == 0


# --- the mosaics -------------------------------------------------------------------------------


def test_noise_is_correlated_and_unc_is_the_scatter_of_a_pixel():
    size, level = 320, 0.08
    rng = np.random.default_rng(4)
    scene = np.zeros((size, size))
    ratios = {radius: [] for radius in (2.0, 3.0, 4.0, 6.0)}
    pulls, sigmas = [], []
    for roll in (17.0, 63.0, 128.0, 205.0):
        frame = observe(
            scene, rng, channel="ch1", roll=roll, background=(level, 0.0, 0.0), bad_pixels=9
        )
        good = np.isfinite(frame.sci) & (frame.cov > 7.5)
        good[frame.hits.y, frame.hits.x] = False
        good &= np.hypot(*(np.indices((size, size)) - size / 2)) < 0.45 * size
        pull = np.where(good, (frame.sci - level) / np.where(good, frame.unc, 1), np.nan)
        pulls.append(pull[good])
        sigmas.append(frame.unc[good])
        noise = np.where(good, frame.sci - level, 0.0)
        square = np.where(good, frame.unc**2, 0.0)
        place = np.stack(np.meshgrid(*[np.arange(20, size - 20, 11.0)] * 2), axis=-1).reshape(-1, 2)
        for radius, found in ratios.items():
            aperture = CircularAperture(place, radius)
            for mask in aperture.to_mask(method="exact"):
                if not mask.multiply(~good).any():
                    found.append(mask.multiply(noise).sum() / mask.multiply(square).sum() ** 0.5)
    pull, sigma = np.concatenate(pulls), np.concatenate(sigmas)
    assert pull.size > 100_000
    # Not only on average: where bilinear weights make a pixel quiet, unc says so.
    for part in np.array_split(np.argsort(sigma), 4):
        assert mad_std(pull[part]) == pytest.approx(1.0, abs=0.025)
    # Bilinear, 1.22 arcsec turned onto 0.6: R(r) as measured on other people's resampling.
    for radius, expected in {2.0: 2.19, 3.0: 2.46, 4.0: 2.59, 6.0: 2.76}.items():
        assert len(ratios[radius]) > 1000
        assert mad_std(ratios[radius]) == pytest.approx(expected, rel=0.1)


def test_sources_add_their_photons_to_noise_and_unc():
    scene = np.zeros((128, 128))
    scene[40:88, 40:88] = 10.0
    frame = observe(
        scene,
        np.random.default_rng(1),
        channel="ch2",
        roll=33.0,
        background=(0.2, 0, 0),
        bad_pixels=1,
    )
    bright = np.zeros(scene.shape, dtype=bool)
    bright[46:82, 46:82] = True
    bright[frame.hits.y, frame.hits.x] = False
    bright &= frame.cov > 8.9
    dark = np.isfinite(frame.sci)
    dark[34:94, 34:94] = False
    assert np.median(frame.unc[bright]) > 3 * np.median(frame.unc[dark])
    pull = (frame.sci[bright] - 10.2) / frame.unc[bright]
    assert mad_std(pull) == pytest.approx(1.0, abs=0.15)


def test_uncovered_pixels_are_nan_and_coverage_is_uneven(field):
    seen, uneven = [], []
    for aor in range(1, field.n_aors + 1):
        for channel in field.channels:
            sci, unc, cov = (
                fits.getdata(field.folder / f"IDF_gr{aor}_{channel}_{kind}.fits")
                for kind in ("sci", "unc", "cov")
            )
            assert sci.shape == unc.shape == cov.shape == (160, 160)
            assert sci.dtype == unc.dtype == cov.dtype == np.dtype(">f4")
            assert np.array_equal(np.isnan(sci), cov == 0)
            assert np.array_equal(np.isnan(unc), cov == 0)
            assert np.all(unc[cov > 0] > 0)
            assert cov.min() >= 0
            assert cov.max() == pytest.approx(9.0)
            seen.append((cov > 0).mean())
            uneven.append(np.unique(np.round(cov)).size)
    assert min(seen) > 0.9
    assert min(seen) < 0.99
    assert np.median(uneven) > 4


def test_a_detector_turned_by_45_degrees_leaves_the_corners_dark():
    frame = observe(
        np.zeros((200, 200)),
        np.random.default_rng(0),
        channel="ch1",
        roll=45.0,
        background=(0.1, 0.0, 0.0),
        bad_pixels=3,
    )
    corners = frame.cov[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert np.all(corners == 0)
    assert np.isnan(frame.sci[0, 0])
    assert frame.cov[100, 100] > 7


def test_hits_are_sharp_and_written_down(field, truth):
    pulls, cleaned, count = [], [], 0
    for aor in range(field.n_aors):
        for channel in field.channels:
            stem = field.folder / f"IDF_gr{aor + 1}_{channel}"
            sci = fits.getdata(f"{stem}_sci.fits").astype(float)
            unc = fits.getdata(f"{stem}_unc.fits")
            hits = truth.hits_of(aor, channel)
            # Only those far from sources say something about the hits alone.
            far = (
                np.hypot(
                    hits.x[:, None] - np.asarray(truth.table["x"]),
                    hits.y[:, None] - np.asarray(truth.table["y"]),
                ).min(axis=1)
                > 8
                if hits.x.size
                else np.zeros(0, dtype=bool)
            )
            sky = np.nanmedian(sci)
            y, x = hits.y[far], hits.x[far]
            pulls.extend((sci[y, x] - sky) / unc[y, x])
            cleaned.extend((sci[y, x] - sky - hits.amount[far]) / unc[y, x])
            count += np.unique(hits.number).size
            assert np.all(hits.amount > 3 * unc[hits.y, hits.x])
    assert count > 40
    assert len(pulls) > 30
    assert np.median(pulls) > 6
    assert np.median(np.abs(cleaned)) < 3


def test_headers_and_the_aor_table_tell_one_story(field, truth):
    table = Table.read(field.aor_table)
    assert table.colnames == ["reqkey", "group_name", "mjd_ch1", "mjd_ch2", "exptime"]
    assert table["reqkey"].dtype == np.int64
    assert list(table["group_name"]) == [f"gr{n}" for n in range(1, 13)]
    assert np.array_equal(table["reqkey"], truth.reqkey)
    assert np.all(np.diff(table["mjd_ch1"]) > 5)
    for aor, row in enumerate(table):
        for c, channel in enumerate(field.channels):
            header = fits.getheader(field.folder / f"IDF_{row['group_name']}_{channel}_sci.fits")
            assert header["AORKEY"] == row["reqkey"]
            assert header["CHNLNUM"] == int(channel[-1])
            assert (header["BUNIT"], header["TELESCOP"], header["INSTRUME"]) == (
                "MJy/sr",
                "Spitzer",
                "IRAC",
            )
            assert header["EXPTIME"] == row["exptime"]
            assert header["MJD_OBS"] == header["MJD-OBS"]
            assert exposure_time(header).mjd == pytest.approx(row[f"mjd_{channel}"], abs=2e-8)
            assert truth.mjd[aor, c] == row[f"mjd_{channel}"]
            assert header["PA"] == truth.roll[aor, c]
    turned = np.diff(np.unwrap(np.radians(truth.roll[:, 0]))) / np.diff(truth.mjd[:, 0])
    assert np.allclose(np.degrees(turned), 360 / 365.25, atol=1e-6)


def test_the_wcs_leads_from_truth_to_pixels_and_back(field, truth):
    wcs = WCS(fits.getheader(field.images[0]))
    x, y = wcs.world_to_pixel_values(truth.table["ra"], truth.table["dec"])
    assert np.allclose(x, truth.table["x"], atol=1e-6)
    assert np.allclose(y, truth.table["y"], atol=1e-6)
    assert np.allclose(wcs.proj_plane_pixel_scales()[0].to_value("arcsec"), GRID_ARCSEC)
    assert np.allclose(wcs.pixel_to_world_values(79.5, 79.5), FIELD_CENTRE)
    assert wcs.wcs.ctype[0] == "RA---TAN"


def measured(field, truth, row, channel, radius=4.0):
    """Sum plain circles on the mosaics: no code of the package but the truth's sky and hits."""
    flux = []
    place = (truth.table["x"][row], truth.table["y"][row])
    axis = np.arange(field.size) - (field.size - 1) / 2
    for aor in range(field.n_aors):
        sci = fits.getdata(field.folder / f"IDF_gr{aor + 1}_{channel}_sci.fits").astype(float)
        level, along_x, along_y = truth.background[aor, truth.channel_index(channel)]
        sci -= level + along_x * axis + along_y * axis[:, None]
        hits = truth.hits_of(aor, channel)
        sci[hits.y, hits.x] -= hits.amount
        flux.append(exact_sum(CircularAperture(place, radius), sci) * PIXEL_MICROJANSKY)
    return np.array(flux)


def test_fluxes_on_the_mosaics_are_the_truth_times_the_zero_point(field, truth):
    table = truth.table
    alone = (table["contamination_ch1_aper3"] < 0.02) & (table["contamination_ch2_aper3"] < 0.02)
    alone &= np.hypot(table["x"] - 79.5, table["y"] - 79.5) < 65
    alone &= np.minimum(table["flux_ch1"], table["flux_ch2"]) > 15
    rows = np.flatnonzero(alone)
    assert rows.size >= 5
    varied = 0
    for row in rows:
        for c, channel in enumerate(truth.channels):
            share = table[f"energy_{channel}_aper3"][row]
            expected = truth.flux[row, c] * truth.zeropoint[:, c] * share
            around = table[f"contamination_{channel}_aper3"][row] * expected.mean()
            found = measured(field, truth, row, channel) - around
            scatter = np.hypot(0.5, 0.02 * expected)
            good = np.isfinite(found)
            assert good.sum() >= 8
            assert np.median(np.abs(found - expected)[good] / scatter[good]) < 1.5
            assert found[good].mean() == pytest.approx(expected[good].mean(), rel=0.02, abs=0.5)
        varied += bool(table["varies"][row])
    assert varied >= 2


def test_drifts_and_pointings_are_of_the_size_of_life(tmp_path):
    simulate(tmp_path, aors=24, objects=6, size=64, seed=2)
    truth = read_truth(tmp_path)
    assert truth.zeropoint.shape == truth.dx.shape == truth.roll.shape == (24, 2)
    assert np.std(truth.zeropoint) == pytest.approx(0.01, rel=0.3)
    assert 0.04 < np.std(truth.dx) < 0.11
    assert np.hypot(truth.dx, truth.dy).max() < 0.45
    assert np.allclose(truth.dx.mean(axis=0), 0, atol=1e-12)
    assert np.std(truth.background[..., 0] / truth.background[..., 0].mean(axis=0)) > 0.03


# --- the population ----------------------------------------------------------------------------


def test_every_kind_of_variable_is_there_and_stands_out(tmp_path):
    from idfzarr.imaging.simulated_frame import EXPTIME
    from idfzarr.imaging.simulated_sources import aor_noise, populate
    from idfzarr.imaging.simulated_variability import Schedule

    mjd = 53000 + 17.0 * np.arange(64)[:, None] + [0.0, 0.02]
    for seed in range(3):
        population = populate(
            np.random.default_rng(seed),
            objects=600,
            size=512,
            channels=("ch1", "ch2"),
            schedule=Schedule(mjd, EXPTIME),
        )
        kinds = Counter(population.variable.tolist())
        assert kinds["none"] == 570
        assert set(kinds) == {*VARIABLE_KINDS, "dropout", "none"}
        assert kinds["transient"] == kinds["dropout"] == 1
        assert population.varies.sum() == 29
        chi2 = []
        for row in np.flatnonzero(population.varies):
            flux = population.flux[row]
            assert np.all(flux >= 0)
            pulls = [
                (f - f.mean()) / aor_noise(c, f, EXPTIME)
                for c, f in zip(("ch1", "ch2"), flux, strict=True)
            ]
            chi2.append(max((p**2).mean() for p in pulls))
        assert np.mean(np.array(chi2) > 6) > 0.95
        constant = population.flux[~population.varies]
        assert np.all(np.ptp(constant, axis=2) == 0)
        dropout = population.flux[population.variable == "dropout"][0]
        assert np.all(dropout[0] == 0)
        assert np.all(dropout[1] > 10)
        transient = population.flux[population.variable == "transient"][0, 0]
        assert 3 <= np.count_nonzero(transient) <= 7
        assert transient.max() > 40


def test_counts_rise_towards_the_faint_as_on_the_sky(tmp_path):
    from idfzarr.imaging.simulated_frame import EXPTIME
    from idfzarr.imaging.simulated_sources import aor_noise, populate
    from idfzarr.imaging.simulated_variability import Schedule

    population = populate(
        np.random.default_rng(1),
        objects=4000,
        size=1300,
        channels=("ch1",),
        schedule=Schedule(53000 + 17.0 * np.arange(4)[:, None], EXPTIME),
    )
    flux = population.flux[~population.varies, 0, 0]
    bins = [np.count_nonzero(flux > limit) for limit in (2, 6, 18, 54, 162, 486)]
    assert np.all(np.diff(bins) < 0)
    slope = np.polyfit(np.log([2, 6, 18, 54, 162]), np.log(bins[:5]), 1)[0]
    assert slope == pytest.approx(-0.78, abs=0.08)
    photon = np.sqrt(aor_noise("ch1", flux, EXPTIME) ** 2 - (0.01 * flux) ** 2)
    ratio = flux / photon
    assert 0.1 < np.mean(ratio > 50) < 0.4
    assert 5 < np.count_nonzero(ratio > 500) < 120
    assert np.mean((ratio > 5) & (ratio < 50)) > 0.5


def test_isolated_objects_have_no_neighbours(truth):
    table = truth.table
    places = np.stack([table["x"], table["y"]], axis=1)
    distance = np.hypot(*(places[:, None] - places).T) + 1e9 * np.eye(len(table))
    assert 3 < table["isolated"].sum() < 0.7 * len(table)
    assert distance[np.asarray(table["isolated"])].min() > 8
    close = int(np.argmin(distance.min(axis=1)))
    assert not table["isolated"][close]
    other = int(np.argmin(distance[close]))
    faint = close if table["flux_ch1"][close] < table["flux_ch1"][other] else other
    assert table["contamination_ch1_aper8"][faint] > 0.3


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"aors": 0}, r"aors=0: give an integer of at least 1"),
        ({"aors": 2.5}, r"aors=2\.5: give an integer"),
        ({"objects": 0}, r"objects=0: give an integer of at least 1"),
        ({"size": 63}, r"size=63: give an integer of at least 64"),
        ({"seed": -1}, r"seed=-1: give an integer of at least 0"),
        ({"channels": ["ch3"]}, r"channel 'ch3'; nearest: 'ch"),
        ({"channels": []}, r"channels \(\): name each of ch1, ch2 once"),
        ({"channels": ["ch1", "ch1"]}, r"name each of ch1, ch2 once at most"),
    ],
    ids=str,
)
def test_what_cannot_be_simulated_is_said_and_nothing_is_made(tmp_path, arguments, sentence):
    with pytest.raises(UsageError, match=sentence):
        simulate(tmp_path / "field", **{"aors": 1, "objects": 1, "size": 64, **arguments})
    assert not (tmp_path / "field").exists()


def test_nothing_of_others_is_overwritten(tmp_path):
    folder = tmp_path / "field"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    arguments = {"aors": 1, "objects": 2, "size": 64}
    for overwrite in (False, True):
        with pytest.raises(StoreExists, match=r"it holds 'thesis\.tex'; name an empty"):
            simulate(folder, overwrite=overwrite, **arguments)
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]
    (folder / "thesis.tex").unlink()
    simulate(folder, **arguments)
    with pytest.raises(StoreExists, match="holds this simulation already"):
        simulate(folder, **arguments)
    with pytest.raises(StoreExists, match="a simulation with other arguments"):
        simulate(folder, overwrite=True, seed=9, **arguments)
    with pytest.raises(UsageError, match="it is a file"):
        simulate(folder / "aors.ecsv", **arguments)


def test_a_full_disk_is_said_and_a_second_run_finishes(tmp_path, monkeypatch):
    arguments = {"aors": 2, "objects": 4, "size": 64}
    write_bytes = Path.write_bytes

    def full(path, content):
        if "gr2_ch1_unc" in path.name:
            write_bytes(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageFull, match=r"IDF_gr2_ch1_unc\.fits: No space left.*make room"):
        simulate(tmp_path / "field", **arguments)
    monkeypatch.undo()
    assert not list((tmp_path / "field").glob(".*.part"))
    assert not read_simulation(tmp_path / "field").complete
    with pytest.raises(StoreMissing, match=r"no finished simulation: .*truth\.ecsv"):
        read_truth(tmp_path / "field")
    simulate(tmp_path / "field", overwrite=True, **arguments)
    simulate(tmp_path / "again", **arguments)
    assert digests(tmp_path / "field") == digests(tmp_path / "again")


def test_a_run_killed_at_its_first_file_can_be_repeated(tmp_path):
    (tmp_path / ".simulation.json.part").write_text("{")
    simulate(tmp_path, aors=1, objects=2, size=64, overwrite=True)
    assert read_simulation(tmp_path).complete


def test_damaged_truth_is_not_believed(field, tmp_path):
    for path in field.folder.glob("truth*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert len(read_truth(tmp_path).table) == 60
    (tmp_path / "truth_hits.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ImageUnreadable, match=r"truth_hits\.npz is damaged"):
        read_truth(tmp_path)
    with pytest.raises(StoreMissing, match="holds no simulated field"):
        read_simulation(tmp_path)


def test_questions_about_what_is_not_there(truth):
    with pytest.raises(UnknownName, match=r"not simulated in 'ch4'.*it has ch1, ch2"):
        energy_in_circle(truth, 1, "ch4", radius=3.0)
    with pytest.raises(UnknownName, match="no object 61: ids go from 1 to 60"):
        energy_in_circle(truth, 61, "ch1", radius=3.0)
    for radius in (0.0, -1.0, 40.0, float("nan")):
        with pytest.raises(UsageError, match="cannot be integrated: semi-axes must be positive"):
            energy_in_circle(truth, 1, "ch1", radius=radius)


def test_a_simulation_knows_what_lies_where(field):
    assert read_simulation(field.folder) == field
    assert isinstance(field, Simulation)
    assert (field.n_aors, field.n_objects, field.size) == (12, 60, 160)
    assert len(field.images) == 12 * 2 * 3
    assert all(path.is_file() for path in (*field.images, field.aor_table, field.truth_table))


def test_progress_counts_every_mosaic(tmp_path):
    told = []
    simulate(tmp_path, aors=2, objects=2, size=64, progress=lambda *step: told.append(step))
    assert told == [("simulate", done, 4) for done in range(5)]


def test_the_truth_knows_nothing_of_the_measuring():
    folder = Path(simulate_module.__file__).parent
    sources = sorted(folder.glob("simulat*.py"))
    assert len(sources) == 7
    allowed = {path.stem for path in sources}
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "idfzarr.imaging"
            ):
                assert node.module.removeprefix("idfzarr.imaging.") in allowed, (path, node.module)
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(
                name.split(".")[0] in {"photutils", "sep", "reproject"} for name in names
            )
