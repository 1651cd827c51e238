"""A simulated field, built and held against what was put into it, type by type."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from idfzarr.analysis.ranking import rank_store
from idfzarr.build.demo import match_truth, recover
from idfzarr.build.field import channel_field
from idfzarr.build.measure import _variance, _without_sky
from idfzarr.build.pipeline import build
from idfzarr.build.placed import Source, read_placed
from idfzarr.build.settings import Settings
from idfzarr.imaging.cosmics import clean
from idfzarr.imaging.mosaic import discover
from idfzarr.imaging.simulate import simulate
from idfzarr.imaging.simulated_truth import Truth, energy_in_ellipse, read_truth
from idfzarr.store.cube import Cube

METHODS = ("auto", *(f"aper{n}" for n in range(1, 9)))
CONTAMINATION = 0.003
BRIGHT = 50.0


@dataclass(frozen=True)
class Field:
    """A field, its truth, and which row of the cube each true object is."""

    images: object
    cube: Cube
    truth: Truth
    rows: np.ndarray


@pytest.fixture(scope="module")
def field(tmp_path_factory) -> Field:
    folder = tmp_path_factory.mktemp("truth")
    simulate(folder / "images", aors=32, objects=170, size=288, seed=5)
    report = build(folder / "images", folder / "field.zarr")
    assert report.ok
    truth, cube = read_truth(folder / "images"), Cube(folder / "field.zarr")
    return Field(folder / "images", cube, truth, match_truth(truth, cube))


def constant_isolated(field: Field, channel: str, method: str) -> list[int]:
    """Return rows of the truth: constant, isolated, and alone in the aperture."""
    table, cube = field.truth.table, field.cube
    isolated = cube.table("catalogue")["isolated"].astype(bool)
    # what else is in a Kron aperture is about what is in the largest circle inside it
    circle = "aper5" if method == "auto" else method
    alone = np.abs(table[f"contamination_{channel}_{circle}"]) < CONTAMINATION
    chosen = ~np.asarray(table["varies"], bool) & np.asarray(table["isolated"], bool) & alone
    return [
        int(k) for k in np.flatnonzero(chosen) if field.rows[k] >= 0 and isolated[field.rows[k]]
    ]


def true_flux(field: Field, k: int, channel: str, method: str) -> float:
    """Return what an aperture holds of an object in a middling AOR, which calibration refers to."""
    truth, row = field.truth, field.rows[k]
    if method == "auto":
        catalogue = field.cube.table("catalogue")
        energy = energy_in_ellipse(
            truth,
            int(truth.table["id"][k]),
            channel,
            a=float(catalogue["kron_a"][row]),
            b=float(catalogue["kron_b"][row]),
            angle=float(np.degrees(catalogue["theta"][row])),
        )
    else:
        energy = float(truth.table[f"energy_{channel}_{method}"][k])
    middling = np.median(truth.zeropoint[:, truth.channel_index(channel)])
    return float(truth.table[f"flux_{channel}"][k]) * energy * middling


@pytest.mark.parametrize("image", ["original", "clean"])
@pytest.mark.parametrize("channel", ["ch1", "ch2"])
def test_calibrated_fluxes_and_errors_are_the_truth(field, channel, image) -> None:
    n_bright, n_pulls = 0, 0
    for method in METHODS:
        offsets, pulls = [], []
        for k in constant_isolated(field, channel, method):
            object_id = int(field.cube.objects[field.rows[k]])
            lc = field.cube.lightcurve(object_id, f"{channel}_{method}_{image}").calibrated().good()
            if len(lc) < 8:
                continue
            true = true_flux(field, k, channel, method)
            pulls.append((lc.flux - true) / lc.flux_err)
            if np.median(lc.flux / lc.flux_err) > BRIGHT:
                offsets.append(np.median(lc.flux) / true - 1)
        if offsets:
            n_bright += len(offsets)
            assert abs(np.median(offsets)) < 0.01, (method, offsets)
        if len(pulls) >= 5:
            pooled = np.concatenate(pulls)
            n_pulls += len(pooled)
            width = 1.4826 * np.median(np.abs(pooled - np.median(pooled)))
            assert 0.8 < width < 1.25, (method, width, len(pulls))
    assert n_bright >= 25
    assert n_pulls > 2000


def test_injected_variables_are_the_most_variable(field) -> None:
    injected = int(np.count_nonzero(field.truth.table["varies"]))
    assert injected >= 8
    listed = int(np.ceil(1.5 * injected))
    recovery = recover(field.truth, field.cube, rank_store(field.cube, top=listed))
    assert recovery.completeness >= 0.8, recovery.missed
    assert recovery.listed == listed


def test_transient_and_dropout_are_detected(field) -> None:
    where = field.cube.table("catalogue")["detected_in"]
    kinds = [str(kind) for kind in field.truth.table["variable"]]
    dropout = field.rows[kinds.index("dropout")]
    transient = field.rows[kinds.index("transient")]
    assert dropout >= 0
    assert "ch1" not in str(where[dropout])
    assert transient >= 0


def test_clean_keeps_the_transient(field) -> None:
    k = [str(kind) for kind in field.truth.table["variable"]].index("transient")
    object_id = int(field.cube.objects[field.rows[k]])
    for c, channel in enumerate(field.truth.channels):
        on = field.truth.flux[k, c] > 5
        assert on.sum() >= 2
        lc = field.cube.lightcurve(object_id, f"{channel}_aper2_clean").calibrated()
        true = field.truth.flux[k, c] * field.truth.table[f"energy_{channel}_aper2"][k]
        seen = on & np.isfinite(lc.flux)
        assert seen.sum() >= 2
        np.testing.assert_allclose(lc.flux[seen], true[seen], rtol=0.15)


def test_zero_points_follow_the_injected_drift(field) -> None:
    for c, channel in enumerate(field.truth.channels):
        column = field.cube.column(f"{channel}_aper2_clean")
        found = field.cube.coordinate("zeropoint")[column]
        true = -2.5 * np.log10(field.truth.zeropoint[:, c])
        assert np.std(true) > 0.005
        assert np.std(found - true) < 0.003


def test_pointing_offsets_are_measured(field) -> None:
    for name in ("dx", "dy"):
        found, true = field.cube.coordinate(name), getattr(field.truth, name)
        assert np.std(true) > 0.03
        assert np.nanstd(found - true) < 0.03


def test_noise_scale_is_that_of_resampled_pixels(field) -> None:
    for channel in ("ch1", "ch2"):
        scale = field.cube.coordinate("noise_scale")[field.cube.column(f"{channel}_aper3_clean")]
        assert 2.0 < np.median(scale) < 3.2


def test_clean_leaves_constant_stars_and_takes_the_hits(field) -> None:
    """Judged AOR by AOR on the images, as the build cleans them."""
    settings = Settings.from_dict(field.cube.attributes["idfzarr"]["settings"])
    writer = Cube(field.cube.path, mode="r+").writer
    names = list(field.cube.schema.aor_names)
    hit, taken, changes = 0, 0, []
    for files in discover(field.images):
        own = channel_field(writer, files.channel, settings, version="")
        placed = read_placed(Source(0, files))
        image, _ = _without_sky(own, placed)
        variance = _variance(own, placed, image)
        cleaned = clean(image, variance, ~placed.good, own.reference)
        hits = field.truth.hits_of(names.index(files.aor), files.channel)
        strong = placed.good[hits.y, hits.x] & (hits.amount > 5 * np.sqrt(variance[hits.y, hits.x]))
        for number in np.unique(hits.number[strong]):
            pixels = hits.number == number
            peak = np.argmax(np.where(pixels, hits.amount, -np.inf))
            hit += 1
            taken += cleaned.hits[hits.y[peak], hits.x[peak]]
        changes += _changes(field, own, image, cleaned.image, hits)
    assert hit > 300
    assert taken >= 0.9 * hit, (taken, hit)
    assert len(changes) > 100
    assert np.median(changes) < 0.001
    assert np.mean(np.array(changes) > 0.01) <= 0.01


def _changes(field, own, image, cleaned, hits) -> list[float]:
    """Return relative changes of isolated constant stars that no injected hit is near."""
    from idfzarr.imaging.photometry import measure

    column = own.frozen.methods.index("aper3")
    before, after = measure(own.frozen, np.stack([image, cleaned]), None).flux[:, :, column]
    found = []
    for k in constant_isolated(field, own.channel, "aper3"):
        x, y = field.truth.table["x"][k], field.truth.table["y"][k]
        if np.hypot(hits.x - x, hits.y - y).min(initial=99) > 9 and before[field.rows[k]] > 0:
            found.append(abs(after[field.rows[k]] / before[field.rows[k]] - 1))
    return found
