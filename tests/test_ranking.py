"""The most variable objects: the order, the columns, and what is left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from idfzarr.analysis.excess import excess
from idfzarr.analysis.ranking import rank_store, ranked_types, relative_to, strength
from idfzarr.build.demo import match_truth
from idfzarr.errors import UnknownName, UsageError
from idfzarr.imaging.simulated_truth import read_truth
from idfzarr.store.cube import Cube


@pytest.fixture(scope="module")
def cube(small_store):
    return Cube(small_store.store)


@pytest.fixture(scope="module")
def measured(cube):
    return cube.table("variability")


def test_rows_stand_in_the_order_of_the_statistic_and_agree_with_the_store(cube, measured):
    for by in ("score", "robust_scatter", "inverse_eta"):
        ranking = rank_store(cube, top=10, by=by, types="ch1_aper2_clean")
        column = cube.column("ch1_aper2_clean")
        assert len(ranking.rows) == 10
        told = [row[by] for row in ranking.rows]
        assert told == sorted(told, reverse=True)
        for row in ranking.rows:
            at = cube.row(row["object"])
            assert row["type"] == "ch1_aper2_clean"
            assert row[by] == measured[by][at, column]
            assert row["n"] == measured["n"][at, column]
            assert (row["ra"], row["x"]) == (cube.coordinate("ra")[at], cube.coordinate("x")[at])
        values = measured[by][:, column].astype(float)
        values[measured["n"][:, column] < 3] = np.nan
        rest = values[~np.isin(cube.objects, ranking.objects)]
        assert np.nanmax(rest) <= told[-1]


def test_an_object_counts_once_by_the_type_in_which_it_is_largest(cube, measured):
    ranking = rank_store(cube, top=1000, by="robust_scatter", types="ch?_aper2_*", least_complete=0)
    assert len(set(ranking.objects)) == len(ranking.objects)
    columns = [cube.column(name) for name in ranking.types]
    assert len(columns) == 4
    for row in ranking.rows:
        own = measured["robust_scatter"][cube.row(row["object"]), columns]
        assert row["robust_scatter"] == np.nanmax(own)
    assert {row["type"].split("_")[0] for row in ranking.rows} == {"ch1", "ch2"}


def test_the_small_clean_aperture_is_ranked_unless_told_otherwise(cube, tiny_store):
    assert rank_store(cube).types == ("ch1_aper2_clean", "ch2_aper2_clean")
    assert rank_store(tiny_store.store).types == ("ch1_aper2_clean",)
    assert rank_store(cube, types=["ch1_auto_original"]).types == ("ch1_auto_original",)
    assert rank_store(cube).unit == "uJy"


def test_faint_objects_and_lightcurves_with_gaps_can_be_left_out(cube, measured):
    types = "ch1_aper8_original"
    column = cube.column(types)
    signal = measured["median"][:, column] / measured["median_err"][:, column]
    everything = rank_store(cube, top=1000, types=types, by="robust_scatter", least_complete=0)
    bright = rank_store(
        cube, top=1000, types=types, by="robust_scatter", least_complete=0, least_signal=40
    )
    expected = [n for n in everything.objects if signal[cube.row(n)] >= 40]
    assert bright.objects == expected
    assert 0 < len(expected) < len(everything.objects)
    whole = rank_store(cube, top=1000, types=types, by="robust_scatter", least_complete=1)
    n = measured["n"][:, cube.column(types)]
    assert all(n[cube.row(k)] == 6 for k in whole.objects)
    # objects at the border have no whole large aperture in any AOR
    assert 0 < len(whole.objects) < len(cube.objects)
    assert len(rank_store(cube, top=3).rows) == 3


def test_the_first_are_variables_of_the_truth(cube, small_store):
    truth = read_truth(small_store.images)
    rows = match_truth(truth, cube)
    varies = {
        int(cube.objects[r])
        for r, v in zip(rows, truth.table["varies"], strict=True)
        if v and r >= 0
    }
    assert varies
    first = rank_store(cube, top=len(varies) + 2).objects
    assert len(varies & set(first)) >= 0.5 * len(varies)


def test_text_and_json_hold_the_rows(cube):
    ranking = rank_store(cube, top=5)
    lines = ranking.to_text().splitlines()
    assert len(lines) == 7
    assert lines[0].split()[:2] == ["object", "type"]
    assert [line.split()[0] for line in lines[1:6]] == [str(n) for n in ranking.objects]
    assert "median and robust_scatter in uJy" in lines[6]
    told = json.loads(json.dumps(ranking.to_dict(), allow_nan=False))
    assert [row["object"] for row in told["objects"]] == ranking.objects
    assert told["by"] == "score"


def test_a_ranking_without_objects_says_so(cube):
    ranking = rank_store(cube, least_signal=1e9)
    assert ranking.rows == ()
    assert ranking.to_text().startswith("no object has a score in ch1_aper2_clean")


def test_unknown_names_are_refused_with_the_nearest(cube):
    with pytest.raises(UnknownName, match=r"no statistic 'inverse_etta'.*nearest: 'inverse_eta'"):
        rank_store(cube, by="inverse_etta")
    with pytest.raises(
        UnknownName, match="no type matches 'ch1_aper2_claen'; nearest: 'ch1_aper2_clean'"
    ):
        rank_store(cube, types="ch1_aper2_claen")


# ---------------------------------------------------------------- thresholds


def test_all_above_a_threshold_are_listed_and_no_other(cube, measured):
    columns = [cube.column(name) for name in ("ch1_aper2_clean", "ch2_aper2_clean")]
    scatter = np.nanmax(measured["robust_scatter"][:, columns], axis=1)
    limit = float(np.sort(scatter)[-26])
    ranking = rank_store(cube, by="robust_scatter", above=limit, least_complete=0)
    assert sorted(ranking.objects) == sorted(cube.objects[scatter > limit])
    assert len(ranking.objects) == 25 > len(rank_store(cube).objects) == 20
    assert len(rank_store(cube, by="robust_scatter", above=limit, top=4).objects) == 4
    assert f"25 beyond {limit:g}" in ranking.to_text()
    nothing = rank_store(cube, above=1e9)
    assert nothing.to_text().startswith("no object has a score beyond 1e+09 in ch1_aper2_clean")
    with pytest.raises(UsageError, match="lists 1 object or more, not 0"):
        rank_store(cube, top=0)


def test_relative_ranks_by_the_excess_over_objects_as_bright(cube, measured):
    column = cube.column("ch1_aper2_clean")
    own = {name: values[:, column] for name, values in measured.items()}
    wanted = excess(own["reduced_chi2"], own["median"])
    ranking = rank_store(
        cube, by="reduced_chi2", relative=True, types="ch1_aper2_clean", least_complete=0, top=10
    )
    order = np.argsort(-np.nan_to_num(wanted, nan=-np.inf), kind="stable")[:10]
    assert ranking.objects == cube.objects[order].tolist()
    assert [row["excess"] for row in ranking.rows] == pytest.approx(wanted[order])
    assert ranking.to_dict()["relative"] is True
    assert "reduced_chi2 relative to objects as bright" in ranking.to_text()
    above = rank_store(
        cube, by="reduced_chi2", relative=True, types="ch1_aper2_clean", least_complete=0, above=2
    )
    assert sorted(above.objects) == sorted(cube.objects[np.nan_to_num(wanted) > 2])
    assert above.objects


def test_signed_statistics_are_compared_by_what_is_large_for_variables():
    assert strength("von_neumann", np.array([2.0, 0.1])).tolist() == [-2.0, -0.1]
    assert strength("slope", np.array([2.0, -3.0])).tolist() == [2.0, 3.0]
    assert strength("score", np.array([2.0, -3.0])).tolist() == [2.0, -3.0]
    rng = np.random.default_rng(1)
    values, brightness = rng.normal(0, 0.01, 400), rng.random(400)
    values[7], values[9] = 0.09, -0.09
    found = relative_to(values, brightness)
    assert np.isfinite(found).all()
    assert np.argmax(found) == 7
    assert found[7] > 2.5
    assert found[9] < -2.5
    # the unit does not matter, and far out it is the logarithm
    assert relative_to(values * 1e6, brightness) == pytest.approx(found)
    positive = np.exp(values)
    assert np.array_equal(relative_to(positive, brightness), excess(positive, brightness))


def test_small_ones_are_ranked_from_the_smallest(cube, measured):
    column = cube.column("ch1_aper2_clean")
    eta = measured["von_neumann"][:, column]
    how = {"by": "von_neumann", "types": "ch1_aper2_clean", "least_complete": 0}
    ranking = rank_store(cube, top=5, **how)
    assert [row["von_neumann"] for row in ranking.rows] == sorted(eta[np.isfinite(eta)])[:5]
    below = rank_store(cube, above=1.0, **how)
    assert sorted(below.objects) == sorted(cube.objects[eta < 1.0])
    assert below.objects


def test_every_channel_counts_the_one_in_which_it_varies_least(cube, measured):
    columns = [cube.column(name) for name in ("ch1_aper2_clean", "ch2_aper2_clean")]
    score = np.where(measured["n"] >= 3, measured["score"], np.nan)[:, columns]
    least = np.nanmin(score, axis=1)
    ranking = rank_store(cube, every_channel=True, top=1000)
    assert len(ranking.objects) == np.isfinite(least).sum() > 30
    for row in ranking.rows:
        assert row["score"] == least[cube.row(row["object"])]
    assert ranking.objects != rank_store(cube, top=1000).objects


def test_columns_are_chosen_and_unknown_ones_refused(cube, measured):
    first = rank_store(cube, top=2, columns=["slope", "n"]).rows[0]
    assert list(first)[6:] == ["score", "slope", "n"]
    assert set(rank_store(cube, top=1, columns=["all"]).rows[0]) >= set(measured)
    with pytest.raises(UnknownName, match=r"no statistic 'slop'.*nearest: 'slope'"):
        rank_store(cube, columns=["slop"])
    text = rank_store(cube, top=2, columns=["slope"]).to_text()
    assert "slope[uJy/d]" in text
    assert len({len(line) for line in text.splitlines()[:3]}) == 1


def test_types_ranked_by_default():
    assert ranked_types(["ch1_auto_clean", "ch2_aper2_clean"]) == ["ch2_aper2_clean"]
    assert ranked_types(["flux", "ch1_auto_clean"]) == ["flux", "ch1_auto_clean"]
