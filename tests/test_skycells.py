"""Inventory, cleaning and repair of skycells: every known fault, and every known false alarm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from old_skycells import ALL, make_old, make_store, put

import idfzarr
from idfzarr.care.cleaning import plan_cleaning
from idfzarr.care.inventory import inventory
from idfzarr.care.quarantine import restore
from idfzarr.care.repair import plan_repair
from idfzarr.care.skycell_repair import plan_skycells
from idfzarr.care.skycell_table import list_skycells
from idfzarr.errors import ForeignStore, MetadataCorrupt, UnknownName, UsageError
from idfzarr.ps1.download import Attempt, RetryRules
from idfzarr.ps1.fetch import known_absent
from idfzarr.ps1.sky_keys import sky_array
from idfzarr.ps1.sky_ledger import ABSENT_DAYS, SkyNotes, note_absent, note_asked, read_notes
from idfzarr.ps1.skystore import SkycellStore, create_skystore
from idfzarr.store.ledger import Ledger, read_ledger
from idfzarr.testing.ps1_files import PS1Sky, write_files

A, B, C, D = (f"skycell.1405.05{k}" for k in (3, 4, 5, 6))
SKY = PS1Sky(seed=6, size=(560, 540))
SMALL = PS1Sky(seed=6, size=(400, 390))
LEVELS = ("listing", "structure", "scrub", "full")


def look(path, level="structure", **how):
    return inventory(path, level=level, **how)


def kinds_of(seen, *severities):
    severities = severities or ("error", "warning")
    return sorted({(f.kind, f.severity) for f in seen.findings if f.severity in severities})


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("ours") / "s.zarr", SKY, [A, B], bands="r").place.root


@pytest.fixture
def ours(tmp_path, pristine):
    return shutil.copytree(pristine, tmp_path / "s.zarr")


@pytest.fixture(scope="module")
def pristine_old(tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "old.zarr"
    make_old(path, SMALL, [A, B], bands="ri")
    return path


@pytest.fixture
def old(tmp_path, pristine_old):
    return shutil.copytree(pristine_old, tmp_path / "old.zarr")


# ---------------------------------------------------------------- sound stores


@pytest.mark.parametrize("level", LEVELS)
def test_a_sound_store_has_no_finding(pristine, pristine_old, level):
    for path, kind in ((pristine, "skycells"), (pristine_old, "skycells_old")):
        seen = look(path, level)
        assert seen.store_kind == kind
        assert seen.findings == ()
        assert seen.n_files > 6
        states = seen.completeness["array_state"]
        assert set(states.ravel()) == {"", "whole"}
        assert (states == "whole").sum() == (6 if kind == "skycells" else 12)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_masks_of_zeros_and_blank_borders_are_sound(tmp_path, level, zarr_format):
    # The earlier toolkit called both corrupt, deleted and fetched them, for ever.
    path = tmp_path / "old.zarr"
    make_old(path, SMALL, [A], bands="r", zarr_format=zarr_format)
    group = zarr.open_group(path, mode="r+", zarr_format=zarr_format)[f"1405/{A}"]
    for name, value in (("r", np.nan), ("r_wt", np.nan), ("r_mask", 0)):
        values = group[name][...]
        values[:140, :] = value  # a border that takes whole chunks, which zarr does not write
        values[:30, :30] = value
        group[name][...] = values
    mask = group["r_mask"][...]
    mask[:140, :] = 8
    group["r_mask"][...] = mask
    assert look(path, level).ok
    group["r_mask"][...] = 0  # not one chunk is written any more
    assert not list((path / "1405" / A / "r_mask").glob("c/*/*"))
    seen = look(path, level)
    assert seen.ok
    assert "r_mask" not in str([f.where for f in (*seen.errors, *seen.warnings)])


def test_a_store_of_ours_with_zero_mask_and_blank_image(tmp_path):
    store = make_store(tmp_path / "s.zarr", SKY, [A], bands="r")
    for kind, value, dtype in (("mask", 0, np.uint16), ("image", 32767, np.int16)):
        cards = store.attributes(A, "r", kind)["header"]
        pixels = np.full(store.shape(A, "r", kind), value, dtype=dtype)
        store.write(A, "r", kind, pixels, cards=cards, replace=True)
    assert look(store.url, "full").findings == ()


# ---------------------------------------------------------------- faults of our layout


def flip(path, at=2000):
    data = bytearray(path.read_bytes())
    data[at] ^= 16
    path.write_bytes(data)


def drop_chunk(path):
    """Take a chunk out of a shard's index, and seal the index again."""
    from idfzarr.store.checksum import sealed

    data = path.read_bytes()
    entries = np.frombuffer(data[-(4 * 16 + 4) : -4], dtype="<u8").copy()
    entries[2:4] = np.uint64(2**64 - 1)
    path.write_bytes(data[: -(4 * 16 + 4)] + sealed(entries.tobytes()))


FAULTS = {
    "garbled chunk": (lambda a: flip(a / "c/0/0"), "scrub", "chunk_corrupt"),
    "truncated": (lambda a: os.truncate(a / "c/0/0", 5000), "structure", "shard_torn"),
    "no pixels": (lambda a: shutil.rmtree(a / "c"), "structure", "shard_missing"),
    "empty": (lambda a: os.truncate(a / "c/0/0", 0), "listing", "shard_torn"),
    "index": (
        lambda a: flip(a / "c/0/0", (a / "c/0/0").stat().st_size - 20),
        "structure",
        "index_corrupt",
    ),
    "deleted middle chunk": (lambda a: drop_chunk(a / "c/0/0"), "structure", "wrong_shard"),
    "scaling": (
        lambda a: (a / "zarr.json").write_text(
            (a / "zarr.json").read_text().replace('"EXPTIME"', '"EXPTIMF"', 1)
        ),
        "structure",
        "metadata_corrupt",
    ),
    "no json": (lambda a: (a / "zarr.json").write_text("{"), "structure", "metadata_corrupt"),
    "another's shard": (
        lambda a: shutil.copy(a.parent.parent / B / "r/c/0/0", a / "c/0/0"),
        "structure",
        "shard_torn",
    ),
    "another's array": (
        lambda a: shutil.copytree(a.parent.parent / B / "r", a, dirs_exist_ok=True),
        "structure",
        "metadata_corrupt",
    ),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faults_are_found_and_mended(tmp_path, ours, fault, tree):
    harm, level, kind = FAULTS[fault]
    whole = tree(ours)
    harm(ours / "1405" / A / "r")
    seen = look(ours, level)
    assert (kind, "error") in kinds_of(seen)
    seen = look(ours, "scrub")
    row = next(r for r in list_skycells(ours, level="scrub").rows if r.name == A)
    assert row.of("damaged") == ("r",)
    write_files(tmp_path / "files", SKY, [A], bands="r", kinds=("image",))
    plan = plan_repair(seen, images=tmp_path / "files")
    assert [(a.kind, a.key) for a in plan.actions] == [("refetch", f"1405/{A}/r")]
    report = plan.apply()
    assert report.ok
    assert look(ours, "full").findings == ()
    after = tree(ours)
    key = f"1405/{A}/r/c/0/0"
    assert after[key] == whole[key]
    others = {k for k in whole if not k.startswith(f"1405/{A}/r/")}
    assert {k: after[k] for k in others} == {k: whole[k] for k in others}
    assert [o.result for o in plan.apply().outcomes] == ["unneeded"]


def test_repair_refetches_from_the_archive(ours):
    from idfzarr.testing.ps1_service import PS1Service

    flip(ours / "1405" / A / "r_mask/c/0/0", 100)
    with PS1Service(SKY) as service:
        mirror = service.mirrors["images"] + "{path}"
        plan = plan_repair(look(ours, "scrub"), mirrors=[mirror])
        assert plan.apply().ok
        assert [r.status for r in service.requests] == [200]
    assert look(ours, "full").findings == ()


def test_a_repair_that_fails_leaves_the_store_as_it_is(tmp_path, ours, tree, monkeypatch):
    flip(ours / "1405" / A / "r/c/0/0")
    before = tree(ours)
    (tmp_path / "empty").mkdir()
    plan = plan_skycells(
        look(ours, "scrub"), images=tmp_path / "empty", mirrors=["http://127.0.0.1:9/{path}"]
    )
    one_try = RetryRules(attempts=1, first_wait=0.01, longest_wait=0.01)
    monkeypatch.setattr("idfzarr.ps1.fetch.RetryRules", lambda: one_try)
    report = plan.apply()
    assert not report.ok
    assert "could not be fetched again" in report.outcomes[0].message
    assert tree(ours) == before


def harm_group(path, harm):
    if harm == "gone":
        path.unlink()
    elif harm == "garbled":
        path.write_text(path.read_text()[:40])
    else:
        told = json.loads(path.read_text())
        told["attributes"] = {"mine": 7}
        path.write_text(json.dumps(told))


@pytest.mark.parametrize("harm", ["gone", "garbled", "stripped"])
@pytest.mark.parametrize("group", ["", "1405/", f"1405/{A}/"])
@pytest.mark.parametrize("with_ledger", [True, False])
def test_metadata_of_groups_is_written_anew(ours, harm, group, with_ledger, tree):
    uuid = SkycellStore(ours).uuid
    if with_ledger:
        Ledger(SkycellStore(ours).place, uuid).append("note", ps1_asked=[A, B], arrays=["r"])
    before = tree(ours)
    path = ours / f"{group}zarr.json"
    harm_group(path, harm)
    seen = look(ours)
    if (group, harm) == ("1405/", "stripped"):
        assert seen.findings == ()  # nothing need stand in it
        return
    assert seen.store_kind == "skycells"
    assert [(f.kind, f.where.key) for f in seen.errors] == [
        ("metadata_corrupt", f"{group}zarr.json")
    ]
    if not group:
        with pytest.raises(MetadataCorrupt, match="repair"):
            idfzarr.open_skycell(ours, A)
        with pytest.raises((ForeignStore, MetadataCorrupt), match=r"zarr.json|attribute"):
            create_skystore(ours, exist_ok=True)
    harmed = tree(ours)
    plan = plan_repair(seen)
    assert [(a.kind, a.key) for a in plan.actions] == [("restore_metadata", f"{group}zarr.json")]
    assert tree(ours) == harmed
    report = plan.apply()
    assert report.ok
    assert bool(report.quarantine) == (harm != "gone")
    assert look(ours, "full").findings == ()
    after = tree(ours)
    assert [k for k in after if after[k] != before.get(k)] in ([], [f"{group}zarr.json"])
    assert after.keys() == before.keys()
    kept = json.loads(path.read_text())["attributes"].get("mine")
    assert kept == (7 if harm == "stripped" else None)
    assert (SkycellStore(ours).uuid == uuid) == (with_ledger or bool(group))
    assert zarr.open_group(ours, mode="r")[f"1405/{A}"].attrs["skycell"] == A
    assert set(idfzarr.open_skycell(ours, A)["band"].values) == {"r"}
    assert [o.result for o in plan.apply().outcomes] == ["unneeded"]


def test_a_root_of_a_later_format_is_told_and_left(ours):
    path = ours / "zarr.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2').replace(
        '"format":1', '"format":2'
    ))  # fmt: skip
    seen = look(ours)
    assert [(f.kind, f.where.key) for f in seen.errors] == [("format_version", "zarr.json")]
    plan = plan_repair(seen)
    assert plan.actions == ()
    assert "format 2" in plan.lost[0]


def test_repair_with_mirrors_and_folders_that_are_none(ours, tmp_path):
    flip(ours / "1405" / A / "r/c/0/0")
    seen = look(ours, "scrub")
    with pytest.raises(UsageError, match="mirror 'ftp://x' cannot be used"):
        plan_repair(seen, mirrors=["ftp://x"])
    with pytest.raises(UsageError, match="no mirror to fetch from"):
        plan_repair(seen, mirrors=[])
    with pytest.raises(UsageError, match="there is no folder"):
        plan_repair(seen, images=tmp_path / "nowhere")
    zarr.create_group(tmp_path / "plain.zarr")
    with pytest.raises(UsageError, match="no store of skycells"):
        plan_repair(look(tmp_path / "plain.zarr"), mirrors=["http://127.0.0.1/{path}"])


def test_a_process_that_has_fetched_and_lives_on_does_not_keep_repair_away(ours):
    """As a notebook does, which stays open after a fetch."""
    code = (
        "import sys, time; from idfzarr.ps1.skystore import SkycellStore; "
        "from idfzarr.store.ledger import Ledger; s = SkycellStore(sys.argv[1]); "
        f"Ledger(s.place, s.uuid).append('note', ps1_asked=['{A}'], arrays=['r']); "
        "print('noted', flush=True); time.sleep(60)"
    )
    source = Path(idfzarr.__file__).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(ours)],
        env=os.environ | {"PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "noted\n"
        (ours / "1405" / A / "zarr.json").unlink()
        assert plan_repair(look(ours)).apply().ok
        assert look(ours).findings == ()
    finally:
        child.kill()
        child.communicate()


def test_cleaning_takes_what_is_corrupt_and_brings_it_back(ours, tree):
    flip(ours / "1405" / A / "r/c/0/0")
    before = tree(ours)
    plan = plan_cleaning(look(ours, "scrub"), corrupt=True)
    assert [(a.kind, a.key) for a in plan.actions] == [("quarantine", f"1405/{A}/r")]
    assert plan.apply().ok
    assert not (ours / "1405" / A / "r").exists()
    assert SkycellStore(ours).has(A, "r", "mask", verify=True)
    restore(ours)
    assert tree(ours) == before


def test_cleaning_of_the_incomplete_takes_no_good_array(tmp_path, tree):
    # The earlier toolkit deleted eleven good arrays for one that was missing.
    store = make_store(tmp_path / "s.zarr", SKY, [A, B, C], bands="r")
    shutil.rmtree(tmp_path / "s.zarr/1405" / A / "r_wt")
    before = tree(tmp_path / "s.zarr")
    plan = plan_cleaning(look(store.url), incomplete=True)
    assert plan.actions == ()
    assert tree(tmp_path / "s.zarr") == before


# ---------------------------------------------------------------- half written


def partial(ours, age=0.0):
    folder = ours / "1405" / A / f"i.{'0' * 32}.partial"
    (folder / "c/0").mkdir(parents=True)
    (folder / "c/0/0").write_bytes(b"half")
    when = time.time() - age
    os.utime(folder / "c/0/0", (when, when))
    return folder


def test_what_is_under_way_is_no_finding(ours):
    import fcntl

    folder = partial(ours)
    assert look(ours, "full").findings == ()
    with (folder / "c/0/0").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert look(ours, "full", grace=-1).findings == ()


def test_what_a_dead_writer_left_is_temporary(ours):
    folder = partial(ours, age=7200)
    seen = look(ours)
    assert kinds_of(seen) == [("partial_file", "warning")]
    assert list_skycells(ours).rows[0].temporary == (folder.name,)
    assert plan_cleaning(seen, temporary=True).apply().ok
    assert not folder.exists()
    assert look(ours, "full").findings == ()


def test_temporary_arrays_of_the_earlier_toolkit(old):
    shutil.copytree(old / "1405" / A / "r", old / "1405" / A / "r_temp_1234")
    assert look(old, "full").ok
    for path in (old / "1405" / A / "r_temp_1234").rglob("*"):
        os.utime(path, (1e9, 1e9))
    seen = look(old)
    assert [(f.kind, f.where.key) for f in seen.findings] == [
        ("partial_file", f"1405/{A}/r_temp_1234")
    ]


# ---------------------------------------------------------------- complete, incomplete, absent


def test_incomplete_by_what_the_others_have_and_absent_upstream(tmp_path):
    store = make_store(tmp_path / "s.zarr", SKY, [A, B], bands="r")
    put(store, SKY, C, "r", "image")
    seen = look(store.url)
    assert seen.ok
    pending = seen.of("shard_pending")
    assert [f.message for f in pending] == [
        f"{C} has no r_mask, r_wt: most skycells here have them"
    ]
    assert list_skycells(store.url).rows[2].of("missing") == ("r_mask", "r_wt")
    ledger = Ledger(store.place, store.uuid)
    for name in ("r_mask", "r_wt"):
        ledger.append("note", ps1_absent=f"1405/{C}/{name}", url="http://x", status=404, why="404")
    seen = look(store.url)
    assert seen.findings == ()
    row = list_skycells(store.url).rows[2]
    assert row.of("absent") == ("r_mask", "r_wt")
    assert row.is_complete


def test_what_was_asked_for_tells_incomplete_from_never_asked_for(tmp_path):
    store = make_store(tmp_path / "s.zarr", SKY, [A, B], bands="r")
    put(store, SKY, C, "r", "image")
    known = SkyNotes()
    one, other = (Ledger(store.place, store.uuid) for _ in range(2))  # two processes
    note_asked(one, [sky_array(C, "r", kind) for kind in ("image", "mask")], known)
    note_asked(other, [sky_array(D, "g", "image"), sky_array(A, "r", "image")], known)
    note_absent(one, sky_array(C, "r", "mask"), Attempt("http://x", "status 404", 404))
    notes = read_notes(store.place, store.uuid)
    assert notes.asked[C] == {"r", "r_mask"}
    assert notes.absent == {f"1405/{C}/r_mask": "http://x: status 404"}
    before = read_ledger(store.place).records
    note_asked(one, [sky_array(C, "r", "mask")], notes)
    assert read_ledger(store.place).records == before, "what is noted is noted again"
    seen = look(store.url)
    assert seen.ok
    assert [(f.message, f.sure) for f in seen.of("shard_pending")] == [
        (f"{D} has no g: it was asked for and has not come", "certain")
    ]
    assert "--bands g --kinds image" in seen.findings[0].remedy
    rows = {row.name: row for row in list_skycells(store.url).rows}
    assert list(rows) == [A, B, C, D]
    assert rows[D].of("missing") == ("g",)
    assert not rows[D].is_complete
    assert (rows[C].of("absent"), rows[C].of("missing")) == (("r_mask",), ())
    assert rows[C].is_complete
    assert all(rows[name].is_complete for name in (A, B))
    assert rows[C].states["r_wt"] == "", "nobody asked for it"


def test_an_absence_is_believed_as_long_as_fetch_believes_it(tmp_path, monkeypatch):
    store = make_store(tmp_path / "s.zarr", SKY, [A], bands="r", kinds=("image",))
    ledger = Ledger(store.place, store.uuid)
    arrays = [sky_array(A, "r", kind) for kind in ("image", "mask")]
    note_asked(ledger, arrays, SkyNotes())
    long_ago = time.time_ns() - int((ABSENT_DAYS + 1) * 86_400e9)
    with monkeypatch.context() as patch:
        patch.setattr("idfzarr.store.ledger.time.time_ns", lambda: long_ago)
        note_absent(ledger, arrays[1], Attempt("http://x", "status 404", 404))
    assert known_absent(store) == {}
    assert list_skycells(store.url).rows[0].of("missing") == ("r_mask",)
    assert list(known_absent(store, days=ABSENT_DAYS + 2)) == [f"1405/{A}/r_mask"]
    note_absent(ledger, arrays[1], Attempt("http://x", "status 404", 404))
    assert list(known_absent(store)) == [f"1405/{A}/r_mask"]
    assert list_skycells(store.url).rows[0].of("absent") == ("r_mask",)


def test_notes_that_are_none_are_passed_over(tmp_path):
    store = make_store(tmp_path / "s.zarr", SKY, [A], bands="r", kinds=("image",))
    ledger = Ledger(store.place, store.uuid)
    for told in (
        {"ps1_asked": "all", "arrays": ["r"]},
        {"ps1_asked": [A], "arrays": "r"},
        {"ps1_asked": [7, None, "../x", "skycell.9999.000", A], "arrays": [5, "u", "r"]},
        {"ps1_absent": 5},
        {"ps1_absent": ["x"]},
    ):
        ledger.append("note", **told)
    Ledger(store.place, "another").append("note", ps1_asked=[B], arrays=["r"])
    assert read_notes(store.place, store.uuid) == SkyNotes({A: frozenset(["r"])}, {})
    assert look(store.url).findings == ()


def test_the_older_layouts_need_no_weights(tmp_path):
    path = tmp_path / "old.zarr"
    make_old(path, SMALL, [A, B], bands="r")
    make_old(path, SMALL, [C], bands="r", tree="projections/", kinds=ALL[:2], mask_type="uint32")
    seen = look(path, "full")
    assert seen.findings == ()
    rows = list_skycells(path).rows
    assert [row.name for row in rows] == [A, B, C]
    assert all(row.is_complete for row in rows)
    assert rows[2].of("whole") == ("r", "r_mask")


# ---------------------------------------------------------------- faults of earlier layouts


@pytest.mark.parametrize("kind", ["r", "r_wt"])
def test_a_deleted_middle_chunk(old, kind):
    (old / "1405" / A / kind / "c/1/1").unlink()
    seen = look(old)
    assert [(f.kind, f.severity, f.sure) for f in seen.findings] == [
        ("chunk_missing", "error", "certain")
    ]
    assert "good pixels" in seen.findings[0].message
    assert list_skycells(old).rows[0].of("damaged") == (kind,)


def test_a_deleted_middle_chunk_of_a_mask(old):
    (old / "1405" / A / "r_mask" / "c/1/1").unlink()
    seen = look(old)
    assert kinds_of(seen) == [("chunk_missing", "warning")]
    assert seen.findings[0].sure == "possible"


@pytest.mark.parametrize("harm", ["garbled", "truncated", "empty"])
def test_a_damaged_chunk_far_from_the_corner(old, harm):
    chunk = old / "1405" / A / "i/c/2/1"
    data = bytearray(chunk.read_bytes())
    if harm == "garbled":
        data[40:400] = bytes(360)
    chunk.write_bytes({"garbled": data, "truncated": data[:-50], "empty": b""}[harm])
    for level in ("scrub", "full"):
        seen = look(old, level)
        assert {f.severity for f in seen.findings} == {"error"}
        assert {f.where.array for f in seen.findings} == {f"1405/{A}/i"}
    plan = plan_repair(seen)
    assert plan.actions == ()
    assert "earlier layout" in plan.lost[0]


def test_arrays_of_metadata_only(old):
    # The earlier toolkit's own check called them complete: an absent chunk reads as fill value.
    for name in ("r", "r_mask", "r_wt"):
        shutil.rmtree(old / "1405" / A / name / "c")
    seen = look(old)
    assert kinds_of(seen) == [("chunk_missing", "error")]
    assert list_skycells(old).rows[0].of("damaged") == ("r", "r_mask", "r_wt")
    shutil.rmtree(old / "1405" / A / "i" / "c")  # its mask and weight are there
    assert "i" in list_skycells(old).rows[0].of("damaged")


def test_an_array_whose_writer_died_before_the_header(old):
    array = zarr.open_group(old, mode="r+")[f"1405/{A}/r"]
    del array.attrs["header"]
    seen = look(old)
    assert [(f.kind, f.where.array) for f in seen.findings] == [("metadata_corrupt", f"1405/{A}/r")]


def test_one_header_for_a_group_is_that_layout_and_no_fault(tmp_path):
    make_old(tmp_path / "o.zarr", SMALL, [A], kinds=ALL[:2], header_on="group", mask_type="uint32")
    assert look(tmp_path / "o.zarr", "full").findings == ()


def test_shapes_that_disagree(old):
    group = zarr.open_group(old, mode="r+")[f"1405/{A}"]
    header = group["r"].attrs["header"]
    small = group.create_array(
        "r", shape=(100, 100), chunks=(100, 100), dtype="f4", fill_value=np.nan, overwrite=True
    )
    small[...] = 1.0
    small.attrs["header"] = header
    assert ("lengths_disagree", "error") in kinds_of(look(old))


def test_nothing_is_changed_by_looking(ours, old, tree):
    before = tree(ours), tree(old)
    for level in LEVELS:
        look(ours, level)
        look(old, level)
    assert (tree(ours), tree(old)) == before


# ---------------------------------------------------------------- tables and reports


def test_table_dataset_and_reports(tmp_path, ours):
    flip(ours / "1405" / A / "r/c/0/0")
    table = list_skycells(ours, level="scrub")
    lines = table.to_csv().splitlines()
    assert lines[0].startswith("projection_id,cell_id,skycell_name,is_complete,arrays_present")
    assert lines[1].startswith(f"1405,053,{A},False,r r_mask r_wt,")
    assert "chunk_corrupt" in lines[1]
    assert len(lines) == 3
    data = table.to_dataset()
    assert data["state"].sel(skycell=A, band="r", kind="image").item() == "damaged"
    assert data["state"].sel(skycell=B, band="r", kind="mask").item() == "whole"
    assert data["is_complete"].values.tolist() == [False, True]
    assert data["total_size_bytes"].values.min() > 100_000
    assert "damaged: r" in table.to_text()
    assert list_skycells(ours, "1405.054").rows[0].name == B
    with pytest.raises(UnknownName, match="no skycell in"):
        list_skycells(ours, "1405.099")
    seen = look(ours, "scrub")
    assert seen.to_dataset()["completeness_array_state"].shape == (2, 15)
    assert "skycells" in str(seen)
    seen.to_html(tmp_path / "x.html")
    assert A in (tmp_path / "x.html").read_text()
    zarr.create_group(tmp_path / "plain.zarr")
    with pytest.raises(ForeignStore, match="no store of skycells"):
        list_skycells(tmp_path / "plain.zarr")
