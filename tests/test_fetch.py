"""Skycells into a store: from disk, from a service that misbehaves, after kills, side by side."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from sky_children import SkyServer

from idfzarr.errors import ForeignStore, NoSkyCoordinates, UsageError
from idfzarr.ps1.download import RetryRules
from idfzarr.ps1.fetch import download_and_store_ps1_data, fetch_skycells, known_absent
from idfzarr.ps1.fetch_choice import arrays_of, choose, under_objects
from idfzarr.ps1.fetch_report import ArrayOutcome, FetchInterrupted, FetchReport
from idfzarr.ps1.linking import link_skycells, linked_skycells
from idfzarr.ps1.partial import BLOCK
from idfzarr.ps1.sky_keys import sky_array
from idfzarr.ps1.sky_ledger import read_notes
from idfzarr.ps1.skystore import SkycellStore, is_skystore
from idfzarr.store.ledger import read_ledger
from idfzarr.testing import ps1_faults as faults
from idfzarr.testing.ps1_files import PS1Sky, disk_pixels, file_bytes, relative_path, write_files
from idfzarr.testing.ps1_service import PS1Service

RETRY = RetryRules(attempts=4, seconds=30.0, first_wait=0.01, longest_wait=0.05)
CELLS = ("skycell.1405.053", "skycell.1405.054")
SKY = PS1Sky(seed=0, size=(256, 250))
SMALL_BLOCK, PIECE = 1 << 14, 1 << 13


@pytest.fixture(scope="module")
def running():
    with PS1Service(SKY) as service:
        yield service


@pytest.fixture
def service(running):
    running.clear()
    return running


def fetch(service, store, **options):
    made = {"mirrors": [service.mirrors["images"]], "retry": RETRY, "silence": 0.5}
    made |= {"use_local_files": False, "skycells": CELLS[:1]}
    return fetch_skycells(store, **(made | options))


def check_pixels(store, array):
    """Compare an array of the store with the sky itself."""
    wanted, _ = disk_pixels(SKY, array.name, array.band, array.kind)
    found = SkycellStore(store).read(array.name, array.band, array.kind)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


def leftovers(store):
    """Return what no finished fetch may leave behind."""
    beside = [p.name for p in Path(store).parent.glob("*.downloads")]
    return beside + [p.name for p in Path(store).rglob("*") if "partial" in p.name]


# -------------------------------------------------------------------- what is fetched


def test_everything_is_fetched_once(service, tmp_path):
    store = tmp_path / "s.zarr"
    told = []
    report = fetch(service, store, progress=lambda *a: told.append(a), num_workers=4)
    assert report.status == "completed"
    assert report.ok
    assert report.counts["downloaded"] == 15 == len(report.arrays)
    opened = SkycellStore(store)
    assert len(opened.arrays()) == 15
    for array in opened.arrays():
        check_pixels(store, array)
        source = opened.attributes(array.name, array.band, array.kind)["provenance"]
        assert source["source"] == "download"
        assert source["url"] == service.url_of(array.name, array.band, array.kind)
        body = service.archive.bytes_of(source["url"].rpartition("/")[2])
        assert source["size"] == len(body)
        assert source["etag"].startswith('"')
        assert source["last_modified"].endswith("GMT")
    # the service notes the end of a reply a moment after the client has it
    until = time.monotonic() + 20
    while service.bytes_sent() != report.n_bytes and time.monotonic() < until:
        time.sleep(0.01)
    assert report.n_bytes == service.bytes_sent()
    assert {r.status for r in service.requests} == {200}
    assert ("fetch", 15, 15) in told
    assert told[-1][0] == "fetch"
    assert max(done for label, done, _ in told if label == "download") == report.n_bytes
    assert leftovers(store) == []
    service.clear()
    noted = read_notes(store)
    assert noted.asked == {CELLS[0]: {array.path.rpartition("/")[2] for array in opened.arrays()}}
    again = fetch(service, store)
    assert again.counts["skipped"] == 15
    assert len(read_ledger(store).records) == 1, "what was asked for is noted once"
    assert again.status == "completed"
    assert service.requests == ()


def test_overwrite_fetches_again_and_damage_is_mended(service, tmp_path):
    store = tmp_path / "s.zarr"
    fetch(service, store, bands="r", kinds="image")
    report = fetch(service, store, bands="r", kinds="image", overwrite=True)
    assert report.counts["downloaded"] == 1
    (shard,) = store.rglob("c/0/0")
    shard.write_bytes(shard.read_bytes()[:-100])
    mended = fetch(service, store, bands="r", kinds="image")
    assert mended.counts["downloaded"] == 1
    check_pixels(store, SkycellStore(store).arrays()[0])


def test_what_the_archive_has_not_is_absent_and_not_asked_for_again(tmp_path):
    store = tmp_path / "s.zarr"
    with PS1Service(SKY, absent=["*.stk.g.*"]) as service:
        report = fetch(service, store, bands="gr")
        assert report.status == "completed"
        assert report.counts["absent"] == 3
        assert {a.band for a in report.of("absent")} == {"g"}
        assert all("404" in a.why for a in report.of("absent"))
        assert report.notices == ()
        asked = len(service.requests)
        assert len(known_absent(SkycellStore(store))) == 3
        assert fetch(service, store, bands="gr").counts["absent"] == 3
        assert len(service.requests) == asked
        nothing = fetch(service, store, bands="g", absent_days=0)
        assert nothing.counts["absent"] == 3
        assert "look at the mirrors" in nothing.notices[0]
        assert len(service.requests) == asked + 3
        service.archive.absent = ()
        assert fetch(service, store, bands="g", retry_absent=True).counts["downloaded"] == 3
    assert fetch(service, store, bands="gr").counts["skipped"] == 6


def test_a_failure_is_named_and_the_others_go_on(service, tmp_path):
    service.plant("*.stk.i.*", faults.Status(500), times=None)
    report = fetch(service, tmp_path / "s.zarr", bands="ri", kinds=("image", "mask"))
    assert report.status == "partial"
    assert not report.ok
    assert report.counts["failed"] == 2
    for array in report.of("failed"):
        assert array.band == "i"
        assert "status 500" in array.why
        assert service.url in array.why
        assert array.skycell in report.to_text()
    service.clear()
    service.plant("*", faults.Status(500), times=None)
    report = fetch(service, tmp_path / "t.zarr", bands="i", kinds="image")
    assert report.status == "failed"
    told = report.to_dict()
    assert json.loads(report.to_json()) == told
    earlier = {"status": "failed", "skycells_found": 1, "unique_images": 1}
    assert earlier.items() <= told.items()
    assert told["zarr_path"] == str(tmp_path / "t.zarr")
    assert told["message"]


# -------------------------------------------------------------------- what goes wrong

T, F = faults.Truncated(), faults.examples()
SCENARIOS = {
    # name: faults in the order of requests, what becomes of it, whether the rest is resumed
    "404": ([F["404"]], "absent", False),
    "410": ([F["410"]], "absent", False),
    "403": ([F["403"]], "failed", False),
    "429": ([F["429"]], "downloaded", False),
    "500 twice": ([F["500"], F["500"]], "downloaded", False),
    "503": ([F["503"]], "downloaded", False),
    "503 seconds": ([F["503 seconds"]], "downloaded", False),
    "html": ([F["html"]], "downloaded", False),
    "truncated twice": ([T, faults.Truncated(0.7)], "downloaded", True),
    "chunked and cut": ([F["chunked and cut"]], "downloaded", True),
    "stalled": ([F["stalled"]], "downloaded", True),
    "reset": ([F["reset"]], "downloaded", True),
    "short length": ([F["short length"]], "downloaded", False),
    "redirected to a host": ([F["redirected to a host"]], "failed", False),
    "range ignored": ([T, F["range ignored"]], "downloaded", False),
    "range refused": ([T, F["range refused"]], "downloaded", False),
    "range shifted": ([T, F["range shifted"]], "downloaded", False),
    "bomb": ([F["bomb"]], "downloaded", False),
    "cut heap": ([F["cut heap"]], "downloaded", False),
    "lying header": ([F["lying header"]], "downloaded", False),
    "wrong skycell": ([F["wrong skycell"]], "downloaded", False),
    "silence": ([F["silent"]], "downloaded", False),
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Let files have eight blocks."""
    monkeypatch.setattr("idfzarr.ps1.partial.BLOCK", SMALL_BLOCK)


def faulted(service, store, name, **options):
    """Fetch with a fault on every file; check the store, the report and the bytes that came."""
    planted, outcome, resumed = SCENARIOS[name]
    service.clear()
    for number, fault in enumerate(planted, start=1):
        service.plant("*", fault, first=number)
    report = fetch(service, store, **options)
    assert report.counts[outcome] == len(report.arrays) > 0, report.to_text()
    opened = SkycellStore(store)
    held = opened.arrays()
    assert len(held) == report.counts["downloaded"]
    for array in held:
        opened.verify(array.name, array.band, array.kind)
        check_pixels(store, array)
    for array in report.of("failed", "absent"):
        assert service.url in array.why
        assert not opened.has(array.skycell, array.band, array.kind)
    for array in report.arrays if resumed else ():
        path = relative_path(array.skycell, array.band, array.kind)
        length = len(service.archive.bytes_of(path.rpartition("/")[2]))
        assert length <= array.n_bytes <= length + SMALL_BLOCK
        assert 206 in {r.status for r in service.requests if r.path.endswith("/" + path)}
    assert leftovers(store) == []
    return len(report.arrays)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_faulted_download_ends_whole_or_named(service, tmp_path, name):
    assert len(SCENARIOS) >= 20
    assert faulted(service, tmp_path / "s.zarr", name, bands="r", kinds=("image", "mask")) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
def test_a_thousand_faulted_downloads(service, tmp_path):
    done = 0
    cells = [f"skycell.1405.05{k}" for k in range(4)]
    for name in list(SCENARIOS):
        store = tmp_path / f"{name}.zarr"
        done += faulted(service, store, name, skycells=cells, bands="griz", num_workers=8)
        shutil.rmtree(store)
    assert done >= 1000


def test_a_file_that_changes_between_two_ranges_is_fetched_whole(service, tmp_path):
    service.plant("*", faults.Truncated())
    service.plant("*", faults.Replaced(), first=2, times=None)
    fetch(service, tmp_path / "s.zarr", bands="r", kinds="image")
    service.clear()
    service.plant("*", faults.Replaced(), times=None)
    fetch(service, tmp_path / "t.zarr", bands="r", kinds="image")
    first, second = (
        SkycellStore(tmp_path / f"{x}.zarr").read(CELLS[0], "r", "image") for x in "st"
    )
    np.testing.assert_array_equal(first, second)
    assert (first != disk_pixels(SKY, CELLS[0], "r", "image")[0]).any()


def test_a_flipped_bit_is_found_where_the_file_has_checksums(tmp_path):
    folder = tmp_path / "files"
    path = folder / relative_path(CELLS[0], "r", "image")
    path.parent.mkdir(parents=True)
    path.write_bytes(file_bytes(SKY, CELLS[0], "r", "image", checksums=True))
    with PS1Service(folder) as service:
        service.plant("*", faults.FlippedBit())
        report = fetch(service, tmp_path / "s.zarr", bands="r", kinds="image")
    assert report.counts["downloaded"] == 1
    assert "DATASUM" in report.arrays[0].why
    check_pixels(tmp_path / "s.zarr", SkycellStore(tmp_path / "s.zarr").arrays()[0])


def test_a_second_mirror_is_asked(service, tmp_path):
    service.plant("/rings*", faults.Status(503), times=None)
    both = [service.mirrors["images"], service.mirrors["cloud"]]
    report = fetch(service, tmp_path / "s.zarr", bands="r", kinds="mask", mirrors=both)
    assert report.counts["downloaded"] == 1
    assert "stpubdata" in report.arrays[0].source
    assert "status 503" in report.arrays[0].why


# -------------------------------------------------------------------- files on disk


@pytest.mark.parametrize("extension", [".fits", ".fits.fz", ".fits.gz"])
def test_files_on_disk_come_first(service, tmp_path, extension):
    local = tmp_path / "ps1"
    write_files(local, SKY, CELLS[:1], bands="r", extension=extension)
    report = fetch(
        service, tmp_path / "s.zarr", bands="ri", use_local_files=True, local_data_path=local
    )
    assert report.counts["local"] == 3
    assert report.counts["downloaded"] == 3
    opened = SkycellStore(tmp_path / "s.zarr")
    for array in opened.arrays():
        check_pixels(tmp_path / "s.zarr", array)
    told = opened.attributes(CELLS[0], "r", "image")["provenance"]
    assert told["source"] == "local"
    assert told["path"].endswith(extension)
    assert len(told["sha256"]) == 64


def test_broken_and_false_files_on_disk_are_named_and_downloaded(service, tmp_path):
    local = tmp_path / "ps1"
    write_files(local, SKY, CELLS[:1], bands="r")
    image, mask, weight = (
        local / relative_path(CELLS[0], "r", kind) for kind in ("image", "mask", "weight")
    )
    image.write_bytes(image.read_bytes()[:-2880])
    mask.write_bytes(file_bytes(SKY, CELLS[1], "r", "mask"))
    secret = tmp_path / "secret.fits"
    weight.rename(secret)
    weight.symlink_to(secret)
    options = {"bands": "r", "local_data_path": local}
    only = fetch(service, tmp_path / "only.zarr", local_only=True, **options)
    assert only.status == "failed"
    assert service.requests == ()
    why = {a.kind: a.why for a in only.arrays}
    assert "cut" in why["image"]
    assert "not 'skycell.1405.053'" in why["mask"]
    assert "leads out" in why["weight"]
    report = fetch(service, tmp_path / "s.zarr", use_local_files=True, **options)
    assert report.counts["downloaded"] == 3
    assert all(a.why for a in report.arrays)
    for array in SkycellStore(tmp_path / "s.zarr").arrays():
        check_pixels(tmp_path / "s.zarr", array)


def test_where_no_store_can_be(service, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ForeignStore, match="no store can be made at"):
        fetch(service, tmp_path / "file")
    with pytest.raises(UsageError, match="no store can be made at"):
        fetch(service, tmp_path / "file" / "s.zarr")
    for options in ({"num_workers": 0}, {"per_host": 0}, {"num_workers": 65}):
        with pytest.raises(UsageError, match=next(iter(options))):
            fetch(service, tmp_path / "s.zarr", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert service.requests == ()


def test_a_folder_that_is_not_there(service, tmp_path):
    options = {"bands": "r", "kinds": "mask", "local_data_path": tmp_path / "none"}
    with pytest.raises(UsageError, match="only local files"):
        fetch(service, tmp_path / "s.zarr", local_only=True, **options)
    report = fetch(service, tmp_path / "s.zarr", use_local_files=True, **options)
    assert "no folder" in report.notices[0]
    assert report.counts["downloaded"] == 1


# -------------------------------------------------------------------- which skycells


def test_skycells_are_chosen_in_one_way(tmp_path):
    assert choose(skycells="1405.05?").names[3] == "skycell.1405.053"
    assert len(choose(sector=20, camera=3, ccd=3).names) == 1017
    assert "skycell.1944.003" in choose(cone=(64.5, 28.0, 0.01)).names
    padded = choose(skycells=["1405.053"], padding=True)
    assert len(padded.padding) == 8
    listed = tmp_path / "list.csv"
    listed.write_text("NAME,pad_skycell_top\nskycell.0635.000,skycell.635.010\n")
    assert choose(csv=listed).all == ("skycell.0635.000", "skycell.0635.010")
    assert choose(csv=listed, padding=False).padding == ()
    for bad in ({}, {"skycells": "1405.053", "csv": listed}, {"sector": 20, "cone": (1, 2, 3)}):
        with pytest.raises(UsageError, match="one way"):
            choose(**bad)
    with pytest.raises(UsageError, match="camera"):
        choose(sector=20)
    with pytest.raises(UsageError, match="north of declination"):
        choose(cone=(10.0, -80.0, 0.1))


def test_bands_and_kinds_are_checked():
    assert len(arrays_of(CELLS, "yg", ["weight"])) == 4
    for bands, kinds in (("u", "image"), ("r", "wt"), ("", "image"), ("r", ())):
        with pytest.raises(UsageError, match=r"band|kind"):
            arrays_of(CELLS, bands, kinds)


def test_the_skycells_under_a_cube_are_fetched_and_linked(service, tmp_path, small_store, tree):
    cube = tmp_path / "field.zarr"
    shutil.copytree(small_store.store, cube)
    shutil.copytree(f"{small_store.store}.ledger", f"{cube}.ledger")
    before = tree(cube)
    assert linked_skycells(cube) is None
    names = under_objects(cube)
    assert names
    report = fetch(service, tmp_path / "f.zarr", skycells=None, field=cube, bands="r", kinds="mask")
    assert report.skycells == names
    assert report.counts["downloaded"] == len(names)
    assert linked_skycells(cube) == str(tmp_path / "f.zarr")
    assert json.loads((cube / "zarr.json").read_text())["attributes"]["idfzarr"]["ps1"] == "f.zarr"
    after = tree(cube)
    assert [name for name in after if after[name] != before.get(name)] == ["zarr.json"]
    from idfzarr.care.inventory import inventory

    assert inventory(cube).ok
    assert link_skycells(cube, "s3://bucket/x.zarr") == "s3://bucket/x.zarr"
    assert linked_skycells(cube) == "s3://bucket/x.zarr"


def test_a_field_without_positions_is_refused(tmp_path):
    from idfzarr.store.cube import create

    objects = {"object_id": [1, 2], "ra": [np.nan] * 2, "dec": [np.nan] * 2}
    aors = {"aor": [1, 2], "mjd": [50000.0, 50001.0]}
    try:
        create(tmp_path / "c.zarr", objects=objects, types=["ch1_auto_original"], aors=aors)
    except UsageError:
        pytest.skip("cubes need positions")
    with pytest.raises(NoSkyCoordinates, match="choose skycells in another way"):
        under_objects(tmp_path / "c.zarr")


def test_the_earlier_toolkits_function(service, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/skycell_pixel_mapping/sector_0020/camera_3/ccd_3"
    folder.mkdir(parents=True)
    listed = "NAME,pad_skycell_top\nskycell.1405.053,skycell.1405.063\n"
    (folder / "tess_s0020_3_3_master_skycells_list.csv").write_text(listed)
    write_files(tmp_path / "data/ps1_skycells", SKY, ["skycell.1405.063"], bands="rizy")
    told = download_and_store_ps1_data(
        20, 3, 3, 4, "out", use_local_files=True, mirrors=[service.mirrors["images"]], retry=RETRY
    )
    assert told["status"] == "completed"
    assert told["skycells_found"] == 1
    assert told["unique_images"] == 2
    assert told["zarr_path"] == str(tmp_path / "out/ps1_skycells.zarr")
    assert told["counts"]["local"] == told["counts"]["downloaded"] == 12


# -------------------------------------------------------------------- stopped, and side by side


@pytest.fixture(scope="module")
def children():
    with SkyServer() as server:
        yield server


def begin(children, service, store, **options):
    """Start a fetch in a process of its own."""
    asked = {"store": str(store), "skycells": list(CELLS), "use_local_files": False}
    asked |= {"mirrors": [service.mirrors["images"]], "num_workers": 3, "block": BLOCK}
    children.begin("fetch", **(asked | options))


def settled(service):
    """Return the requests once the service knows of all that a killed process had sent."""
    before = None
    while before != (seen := service.requests) or not all(r.finished for r in seen):
        before = seen
        time.sleep(0.02)
    return seen


def contents(store):
    """Return everything of a store that does not tell when it was fetched."""
    opened = SkycellStore(store)
    found = {}
    for array in opened.arrays():
        attributes = opened.attributes(array.name, array.band, array.kind)
        assert attributes["provenance"].pop("fetched")
        assert attributes["idfzarr_ps1"].pop("metadata_crc32c")
        pixels = opened.read(array.name, array.band, array.kind)
        found[array.path] = (pixels.tobytes(), json.dumps(attributes, sort_keys=True))
    return found


def killed_and_resumed(service, tmp_path, children, times, seed):
    """Kill fetches at random moments; return how many arrays each had stored, and had begun."""
    service.clear()
    asked = {"skycells": CELLS, "bands": "gri"}
    fetch(service, tmp_path / "whole.zarr", **asked)
    whole = contents(tmp_path / "whole.zarr")
    assert len(whole) == 18
    drawn = np.random.default_rng(seed)
    landed = []
    for _ in range(times):
        store = tmp_path / "killed.zarr"
        service.clear()
        service.plant("*", faults.Dripped(piece=PIECE, seconds=0.006), times=None)
        after = float(drawn.uniform(0.02, 0.8))
        begin(children, service, store, bands="gri", block=SMALL_BLOCK, after=after)
        assert children.answer() in {-signal.SIGKILL, 0}
        settled(service)
        held = {a.path for a in SkycellStore(store).arrays()} if is_skystore(store) else set()
        there = {p.name: p.stat().st_size for p in tmp_path.glob("*.downloads/*.part")}
        service.clear()
        report = fetch(service, store, **asked)
        assert report.status == "completed"
        assert report.counts["skipped"] == len(held)
        begun = check_nothing_came_twice(service, report, held, there)
        assert contents(store) == whole
        assert leftovers(store) == []
        shutil.rmtree(store)
        landed.append((len(held), begun))
    return landed


def check_nothing_came_twice(service, report, held, there):
    """Compare what was asked for with what was there; return how many downloads went on.

    Parameters
    ----------
    held
        Paths of the arrays that were stored.
    there
        Bytes of downloads, by their names, when the process was killed.
    """
    asked = settled(service)
    resumed = 0
    for one in report.arrays:
        array = sky_array(one.skycell, one.band, one.kind)
        path = relative_path(array.name, array.band, array.kind)
        name = path.rpartition("/")[2]
        again = [r for r in asked if r.path.endswith("/" + path)]
        if array.path in held:
            assert again == []
            continue
        length, before = len(service.archive.bytes_of(name)), there.get(name + ".part", 0)
        first = length - sum(r.sent for r in again)  # byte from which it was asked for
        assert len(again) == 1 or (again == [] and before == length)
        assert before - SMALL_BLOCK <= first <= before
        resumed += first > 0
    return resumed


@pytest.mark.usefixtures("small_blocks")
def test_a_killed_fetch_goes_on_to_the_same_store(service, tmp_path, children):
    killed_and_resumed(service, tmp_path, children, 2, seed=1)


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
def test_fifty_killed_fetches_go_on_to_the_same_store(service, tmp_path, children):
    landed = killed_and_resumed(service, tmp_path, children, 50, seed=2)
    assert len({held for held, _ in landed}) > 5, "the kills did not come at different moments"
    assert sum(begun > 0 for _, begun in landed) > 20, "no download went on where it was"


def test_two_processes_fetch_into_one_store(service, tmp_path, children):
    store = tmp_path / "s.zarr"
    with SkyServer() as others:
        for server in (children, others):
            begin(server, service, store)
        assert children.answer() == others.answer() == 0
    assert len(contents(store)) == 30
    assert leftovers(store) == []
    assert len(service.requests) == 30, "something was downloaded twice"


def test_ctrl_c_stops_and_the_same_call_goes_on(service, tmp_path):
    store = tmp_path / "s.zarr"
    service.plant("*.stk.[izy].*", faults.Stalled(at=0.5, seconds=60), times=None)
    before = threading.active_count()

    def stop():
        while sum(r.sent > 10_000 for r in service.requests if ".stk.i." in r.path) < 1:
            time.sleep(0.02)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=stop)
    watcher.start()
    with pytest.raises(FetchInterrupted, match="pending") as stopped:
        fetch(service, store, kinds="image", num_workers=2, silence=60)
    watcher.join()
    report = stopped.value.report
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert report.status == report.to_dict()["status"] == "interrupted"
    assert report.counts["pending"] >= 3
    assert threading.active_count() <= before + 3  # those that decode chunks stay
    (tmp_path / "s.zarr.downloads").stat()
    service.clear()
    report = fetch(service, store, kinds="image")
    assert report.status == "completed"
    assert len(SkycellStore(store).arrays()) == 5
    assert any(r.status == 206 for r in service.requests)
    assert leftovers(store) == []


def test_a_notebooks_event_loop_is_not_in_the_way(service, tmp_path):
    import asyncio

    async def cell():
        return fetch(service, tmp_path / "s.zarr", bands="r", kinds="image")

    assert asyncio.run(cell()).ok


def test_nothing_happens_when_it_is_imported():
    code = (
        "import logging, signal, threading; before = signal.getsignal(signal.SIGINT); "
        "import idfzarr.ps1.fetch; assert signal.getsignal(signal.SIGINT) is before; "
        "assert not logging.getLogger().handlers; assert threading.active_count() == 1; "
        "import sys; assert 'aiohttp' not in sys.modules"
    )
    source = Path(sys.modules["idfzarr"].__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(source)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_report_says_how_it_ended():
    def report(*outcomes, interrupted=False):
        arrays = tuple(ArrayOutcome("a", "r", "image", outcome) for outcome in outcomes)
        return FetchReport("s", ("a",), (), arrays, 1.0, interrupted)

    assert report("local", "absent").status == "completed"
    assert report("failed", "absent").status == "partial"
    assert report("failed").status == "failed"
    assert report("pending", interrupted=True).status == "interrupted"
    assert [a.stored for a in report("local", "skipped", "downloaded", "absent").arrays] == [
        True, True, True, False,
    ]  # fmt: skip


def test_a_download_whose_array_was_stored_before_a_kill_is_removed(service, tmp_path):
    store, downloads = tmp_path / "s.zarr", tmp_path / "s.zarr.downloads"
    fetch(service, store, bands="r", kinds="image")
    downloads.mkdir()
    name = Path(relative_path(CELLS[0], "r", "image")).name
    for suffix in (".part", ".part.json", ".part.json.new"):
        (downloads / (name + suffix)).write_bytes(b"{}")
    assert fetch(service, store, bands="r", kinds="image").counts["skipped"] == 1
    assert leftovers(store) == []
