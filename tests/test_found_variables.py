"""Figures of finding: which variables of a simulated field are found, and their periods."""

from __future__ import annotations

import numpy as np
import pytest

from idfzarr.analysis.ranking import rank_store
from idfzarr.build.demo import match_truth
from idfzarr.build.pipeline import build
from idfzarr.build.variability_table import CANDIDATE_SCORE
from idfzarr.imaging.simulate import simulate
from idfzarr.imaging.simulated_truth import read_truth
from idfzarr.store.cube import Cube

SEEDS = (41, 42)
TYPES = ("ch1_aper2_clean", "ch2_aper2_clean")
TIMES_THE_SCATTER = 5.0
LEAST_SIGNAL = 20.0


def look(folder, seed):
    """Simulate and build a field; return its truth, its cube, and the row of each true object."""
    images, store = folder / f"images{seed}", folder / f"f{seed}.zarr"
    simulate(images, aors=60, objects=400, size=420, seed=seed)
    build(images, store, types=",".join(TYPES))
    truth, cube = read_truth(images), Cube(store)
    return truth, cube, match_truth(truth, cube)


def swings(truth, cube, rows, measured):
    """Return which variables swing by more than five times their scatter in the first channel."""
    column = cube.column(TYPES[0])
    share = np.asarray(truth.table["energy_ch1_aper2"])
    half = 0.5 * np.ptp(truth.flux[:, truth.channel_index("ch1")], axis=1) * share
    scatter = np.where(rows >= 0, measured["median_err"][rows, column], np.inf)
    return np.asarray(truth.table["varies"], dtype=bool) & (half > TIMES_THE_SCATTER * scatter)


@pytest.mark.slow
def test_variables_are_found_and_their_periods_are_right(tmp_path):
    wanted = found = listed = true = periodic = right = 0
    for seed in SEEDS:
        truth, cube, rows = look(tmp_path, seed)
        measured = cube.table("variability")
        ranking = rank_store(cube, above=CANDIDATE_SCORE, every_channel=True)
        chosen = {cube.row(object_id) for object_id in ranking.objects}
        loud = rows[swings(truth, cube, rows, measured)]
        wanted, found = wanted + len(loud), found + len(chosen & set(loud.tolist()))
        varies = rows[np.asarray(truth.table["varies"], dtype=bool)]
        listed, true = listed + len(chosen), true + len(chosen & set(varies.tolist()))
        column = cube.column(TYPES[0])
        signal = measured["median"][:, column] / measured["median_err"][:, column]
        period = np.asarray(truth.table["period"])
        own = np.flatnonzero(np.isfinite(period) & (rows >= 0))
        own = own[signal[rows[own]] > LEAST_SIGNAL]
        told = measured["period"][rows[own], column]
        periodic, right = (
            periodic + len(own),
            right + int(np.sum(np.abs(told / period[own] - 1) < 0.01)),
        )
    figures = f"{found} of {wanted} found, {true} of {listed} true, {right} of {periodic} periods"
    assert wanted >= 34, figures
    assert periodic >= 20, figures
    assert found >= 0.95 * wanted, figures
    assert true >= 0.95 * listed, figures
    assert right >= 0.9 * periodic, figures
