"""``idfzarr stats``: what it lists and writes, and a table that is never half new."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import zarr
from child_server import FORKING, ChildServer
from killing import bits, copy_store

from idfzarr.analysis.period_search import find_period
from idfzarr.analysis.ranking import rank_store
from idfzarr.analysis.statistic_definitions import DEFINITIONS
from idfzarr.build import refresh
from idfzarr.build.refresh import update_variability
from idfzarr.care.inventory import inventory
from idfzarr.errors import UnknownName, UsageError
from idfzarr.store import exchange
from idfzarr.store.cube import Cube, create
from idfzarr.store.place import place_of
from idfzarr.store.root import read_root, root_bytes
from idfzarr.store.root_copy import commit_root
from idfzarr.store.writer import CubeWriter

HOW = {"scheduler": "synchronous"}
N_OBJECTS, N_AORS, PERIOD = 40, 30, 3.21
TYPES = ("ch1_aper2_clean", "ch2_aper2_clean", "ch1_aper3_clean")


def fill(path, *, loud=(3, 17), shard_objects=16):
    """Make a cube of constant objects, two of which swing in a period."""
    rng = np.random.default_rng(1)
    mjd = 53000 + np.cumsum(rng.uniform(2, 6, N_AORS))
    objects = {"object_id": np.arange(N_OBJECTS) + 100, "ra": np.full(N_OBJECTS, 265.0)}
    objects["dec"] = 69.0 + 0.01 * np.arange(N_OBJECTS)
    cube = create(
        path,
        objects=objects,
        types=list(TYPES),
        aors={"aor": np.arange(N_AORS) + 1, "mjd": mjd},
        shard_objects=shard_objects,
    )
    level = np.linspace(20, 80, N_OBJECTS)[:, None, None]
    flux = level + rng.normal(0, 1, (N_OBJECTS, len(TYPES), N_AORS))
    for row in loud:
        flux[row] += 12 * np.sin(2 * np.pi * mjd / PERIOD)
    cube.write_block(0, flux=flux, flux_err=np.ones(flux.shape))
    return flux


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    store = tmp_path_factory.mktemp("stats") / "f.zarr"
    flux = fill(store)
    update_variability(store, **HOW)
    return store, flux


@pytest.fixture
def store(plain, tmp_path):
    copy_store(plain[0], tmp_path / "f.zarr")
    return tmp_path / "f.zarr"


def table_by_zarr(store):
    group = zarr.open_group(store, mode="r", use_consolidated=True)["variability"]
    return {name: bits(group[name][...]) for name in group.array_keys()}, dict(group.attrs)


# ---------------------------------------------------------------- the table


def test_every_definition_is_a_column_with_its_paper(plain):
    store, flux = plain
    cube = Cube(store)
    measured = cube.table("variability")
    assert set(measured) == set(DEFINITIONS)
    group = zarr.open_group(store, mode="r")["variability"]
    for name, values in measured.items():
        assert values.shape == (N_OBJECTS, len(TYPES))
        assert values.dtype == np.float32
        attributes = dict(group[name].attrs)
        assert attributes["long_name"] == DEFINITIONS[name].definition
        assert attributes["references"] == DEFINITIONS[name].reference
        assert attributes["units"] == DEFINITIONS[name].units("uJy")
    assert dict(group.attrs)["n_aors"] == N_AORS
    stored = flux.astype(np.float32)
    assert measured["n"] == pytest.approx(np.full(measured["n"].shape, N_AORS))
    assert measured["median"] == pytest.approx(np.median(stored, axis=2), rel=1e-6)
    assert measured["standard_deviation"] == pytest.approx(stored.std(axis=2, ddof=1), rel=1e-5)


def test_two_bands_stand_at_both_types_of_a_pair(plain):
    measured, flux = Cube(plain[0]).table("variability"), plain[1]
    for row in (0, 3, 30):
        r = np.corrcoef(flux[row, 0], flux[row, 1])[0, 1]
        assert measured["pearson_r"][row, 0] == pytest.approx(r, rel=1e-4)
        assert measured["pearson_r"][row, 1] == measured["pearson_r"][row, 0]
    for name in ("pearson_r", "stetson_j2", "welch_stetson_i"):
        assert np.isfinite(measured[name][:, :2]).all()
        assert np.isnan(measured[name][:, 2]).all()


def test_periods_are_those_of_candidates(plain):
    store, _ = plain
    cube = Cube(store)
    measured = cube.table("variability")
    candidate = measured["score"] >= 5
    candidate[:, 2] = False  # not a type that is ranked
    assert candidate[[3, 17], :2].all()
    assert candidate.sum() < 12
    for name in ("period", "false_alarm_log10", "drw_sigma"):
        assert np.array_equal(np.isfinite(measured[name]), candidate)
    for row in (3, 17):
        assert measured["period"][row, 0] == pytest.approx(PERIOD, rel=2e-3)
        lc = cube.lightcurve(100 + row, "ch1_aper2_clean").good()
        found = find_period(lc.mjd, lc.flux, lc.flux_err)
        assert measured["period"][row, 0] == pytest.approx(found.period, rel=1e-6)
        wanted = pytest.approx(found.false_alarm_log10, rel=1e-5)
        assert measured["false_alarm_log10"][row, 0] == wanted


def test_periods_of_all_or_of_none_and_of_chosen_types(store, run_cli):
    ended = run_cli("stats", store, "--update", "--periods", "none", "--quiet")
    assert ended.code == 0
    assert np.isnan(Cube(store).table("variability")["period"]).all()
    assert "period" not in ended.out
    assert (
        run_cli("stats", store, "--update", "--periods", "all", "--type", "ch1_aper3*", "-q").code
        == 0
    )
    period = Cube(store).table("variability")["period"]
    assert np.isfinite(period[:, 2]).all()
    assert np.isnan(period[:, :2]).all()
    ended = run_cli("stats", store, "--update", "--periods", "every", "-q")
    assert ended.code == 2
    assert "periods must be candidates, all or none, not 'every'" in ended.err
    ended = run_cli("stats", store, "--periods", "all")
    assert (ended.code, ended.out) == (2, "")
    assert "give --update too" in ended.err
    with pytest.raises(UnknownName, match="no type matches 'ch9"):
        update_variability(store, types="ch9_*", **HOW)


def test_any_scheduler_gives_the_same_table(store, plain):
    update_variability(store, scheduler="threads", workers=2)
    assert table_by_zarr(store) == table_by_zarr(plain[0])


# ---------------------------------------------------------------- the command


def test_the_list_is_a_table_json_and_csv(store, run_cli, tmp_path):
    ended = run_cli("stats", store, "--top", "4")
    lines = ended.out.splitlines()
    assert ended.code == 0
    assert {lines[1].split()[0], lines[2].split()[0]} == {"103", "117"}
    assert "period[d]" in lines[0]
    assert len({len(line) for line in lines[:5]}) == 1
    target = tmp_path / "list.csv"
    ended = run_cli("stats", store, "--top", "4", "--json", "--columns", "all", "--csv", target)
    told = json.loads(ended.out)
    assert told["units"]["period"] == "d"
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["object"]) for row in rows] == [row["object"] for row in told["objects"]]
    for row, wanted in zip(rows, told["objects"], strict=True):
        assert row.keys() == wanted.keys() >= set(DEFINITIONS)
        for name, value in wanted.items():
            assert row[name] == ("" if value is None else str(value))
    before = target.read_bytes()
    ended = run_cli("stats", store, "--csv", target)
    assert (ended.code, ended.out) == (2, "")
    assert f"{target} exists already" in ended.err
    assert target.read_bytes() == before
    assert run_cli("stats", store, "--top", "1", "--csv", target, "--overwrite").code == 0
    assert len(target.read_text().splitlines()) == 2
    ended = run_cli("stats", store, "--csv", tmp_path / "no" / "such" / "list.csv")
    assert ended.code == 1
    assert "No such file or directory" in ended.err


def test_thresholds_and_relative_ranks(store, run_cli):
    ended = run_cli("stats", store, "--above", "5", "--every-channel", "--json")
    assert {row["object"] for row in json.loads(ended.out)["objects"]} == {103, 117}
    ended = run_cli("stats", store, "--by", "pearson_r", "--relative", "--above", "4", "--json")
    assert {row["object"] for row in json.loads(ended.out)["objects"]} <= {103, 117}
    ended = run_cli("stats", store, "--by", "chi2_log10_p", "--top", "2", "--json")
    assert {row["object"] for row in json.loads(ended.out)["objects"]} == {103, 117}
    ended = run_cli("stats", store, "--by", "perod")
    assert ended.code == 2
    assert "nearest: 'period'" in ended.err
    ended = run_cli("stats", store, "--type", "ch1_aper2_claen")
    assert ended.code == 2
    assert "nearest: 'ch1_aper2_clean'" in ended.err


def test_a_store_of_an_earlier_version_is_read_and_brought_up_to_date(store, run_cli):
    """Its table has fewer columns: those that it has are ranked, the others are named."""
    lacks = ("period", "slope", "trimmed_chi2")
    writer = Cube(store, mode="r+").writer
    root = json.loads((store / "zarr.json").read_text())
    nodes = root["consolidated_metadata"]["metadata"]
    metadata = {path: node for path, node in nodes.items() if path.rpartition("/")[2] not in lacks}
    for name in lacks:
        shutil.rmtree(store / "variability" / name)
    commit(writer.place, root, metadata)
    assert len(rank_store(store, top=3).rows) == 3
    assert "period" not in rank_store(store).rows[0]
    with pytest.raises(UnknownName, match=r"no statistic 'slope' yet.*idfzarr stats .* --update"):
        rank_store(store, by="slope")
    assert run_cli("stats", store, "--update", "--by", "slope", "-q").code == 0
    assert set(Cube(store).table("variability")) == set(DEFINITIONS)


def commit(place, root, metadata):
    ours = {k: v for k, v in root["attributes"]["idfzarr"].items() if "crc" not in k}
    commit_root(place, root_bytes(ours, metadata), generation=0)


def test_columns_of_others_stay(store):
    writer = Cube(store, mode="r+").writer
    own = np.arange(N_OBJECTS * len(TYPES), dtype=np.float32).reshape(N_OBJECTS, -1)
    writer.write_array("variability/mine", own, dims=("object", "type"))
    writer.publish(complete=False)
    update_variability(store, **HOW)
    table = Cube(store).table("variability")
    assert np.array_equal(table["mine"], own)
    assert set(table) == {*DEFINITIONS, "mine"}
    assert inventory(store, level="full").findings == ()


# ---------------------------------------------------------------- killed

SERVER = (
    """
import json, os, signal, sys, time
from idfzarr.build.refresh import update_variability
from idfzarr.store import exchange

def run(asked):
    os.fsync = lambda handle: None
    targets = []
    def watched(real):
        def call(*arguments, **options):
            targets.append(str(arguments[1]))
            if asked["moment"] == 2 * len(targets) - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **options)
            if asked["moment"] == 2 * len(targets):
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return call
    os.replace, os.rename = watched(os.replace), watched(os.rename)
    exchange.exchange_at_once = watched(exchange.exchange_at_once)
    update_variability(asked["store"], scheduler="synchronous", periods="none")
    with open(asked["log"], "w") as file:
        json.dump(targets, file)
    return 0
"""
    + FORKING
)


@pytest.fixture
def changed(store):
    """Change the lightcurves of a store so that each of its statistics changes with them."""
    cube = Cube(store, mode="r+")
    flux = cube.block()[:, :, 0][:, :, ::-1] * 1.5
    cube.write_block(0, flux=flux, flux_err=np.ones(flux.shape))
    return store


def test_a_killed_update_leaves_the_old_table_or_the_new(changed, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)  # for power cuts, which no test can make
    old, _ = table_by_zarr(changed)
    done, log = tmp_path / "done.zarr", tmp_path / "log"
    copy_store(changed, done)
    with ChildServer("-c", SERVER, cwd=tmp_path) as server:
        server.ask({"store": str(done), "moment": 0, "log": str(log)})
        assert server.answer() == 0
        new, _ = table_by_zarr(done)
        differing = [name for name in old if old[name] != new[name]]
        assert len(differing) > 25
        targets = json.loads(log.read_text())
        swap = next(k for k, t in enumerate(targets, 1) if t.endswith("/variability"))
        last = len(targets)
        assert targets[swap:].count(str(done / "zarr.json")) == 1
        moments = {31, 2 * swap - 1, *range(2 * swap, 2 * last + 1)}
        seen = []
        for moment in sorted(moments):
            store = tmp_path / f"k{moment}.zarr"
            copy_store(changed, store)
            server.ask({"store": str(store), "moment": moment, "log": str(log)})
            assert server.answer() == -9
            by_zarr = table_by_zarr(store)[0]
            by_cube = {n: bits(v) for n, v in Cube(store).table("variability").items()}
            assert by_cube == by_zarr
            assert by_zarr in (old, new)
            seen.append(by_zarr == new)
            update_variability(store, periods="none", **HOW)
            assert table_by_zarr(store) == table_by_zarr(done)
            assert not (store / "staging").exists()
        assert seen == sorted(seen)
        assert {*seen} == {False, True}


def test_a_table_that_is_exchanged_while_it_is_read_is_read_anew(changed, monkeypatch):
    cube = Cube(changed)
    old = {name: bits(values) for name, values in cube.table("variability").items()}
    read, waiting = cube._read_table, [10]

    def interrupted(path):
        waiting[0] -= 1
        if waiting[0] == 0:
            update_variability(changed, periods="none", **HOW)
        return read(path)

    monkeypatch.setattr(cube, "_read_table", interrupted)
    found = {name: bits(values) for name, values in cube.table("variability").items()}
    new = {name: bits(values) for name, values in Cube(changed).table("variability").items()}
    assert found == new != old
    assert waiting[0] <= -len(old)


def test_where_names_cannot_be_exchanged_a_half_new_table_says_it_covers_nothing(
    changed, monkeypatch
):
    monkeypatch.setattr(exchange, "exchange_at_once", lambda *_: False)

    class Stopped(BaseException):
        pass

    written = []

    def stop(self, path, *arguments, **options):
        if len(written) == 9:
            raise Stopped("here")
        written.append(path)
        return write_array(self, path, *arguments, **options)

    write_array = CubeWriter.write_array
    monkeypatch.setattr(CubeWriter, "write_array", stop)
    with pytest.raises(Stopped, match="here"):
        update_variability(changed, **HOW)
    assert Cube(changed).group_attributes("variability")["n_aors"] == 0
    assert "cover 0 of 30 AORs" in rank_store(changed, top=1).to_text()
    kinds = {found.kind for found in inventory(changed, level="full").findings}
    assert "statistics_stale" in kinds
    monkeypatch.setattr(CubeWriter, "write_array", write_array)
    update_variability(changed, **HOW)
    assert Cube(changed).group_attributes("variability")["n_aors"] == N_AORS
    assert "cover" not in rank_store(changed, top=1).to_text()
    assert inventory(changed, level="full").findings == ()


def test_a_cube_that_was_changed_meanwhile_keeps_its_table(store, monkeypatch):
    before = table_by_zarr(store)
    compute = refresh.compute_variability

    def meanwhile(writer, *arguments, **options):
        table = compute(writer, *arguments, **options)
        root = json.loads((store / "zarr.json").read_text())
        root["attributes"]["idfzarr"]["generation"] = 1
        commit(writer.place, root, root["consolidated_metadata"]["metadata"])
        return table

    monkeypatch.setattr(refresh, "compute_variability", meanwhile)
    with pytest.raises(UsageError, match="the cube was changed: the table stays as it was"):
        update_variability(store, **HOW)
    assert table_by_zarr(store) == before
    assert read_root(place_of(store)).generation == 1
