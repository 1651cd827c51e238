"""The commands inventory and repair: codes, what goes where, and what they refuse."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idfzarr.care.finding import KINDS
from idfzarr.care.quarantine import Quarantine, list_batches
from idfzarr.cli_options import bars

SHARD = "lightcurves/c/0/0/0/0"


@pytest.fixture
def store(tiny_store, tmp_path):
    """Return a copy of a small store with its ledger, to be damaged."""
    for suffix in ("", ".ledger"):
        shutil.copytree(f"{tiny_store.store}{suffix}", tmp_path / f"field.zarr{suffix}")
    return tmp_path / "field.zarr"


def flip(store, key=SHARD, where=0.3):
    path = store / key
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 16
    path.write_bytes(content)


def leave_partial(store, name="0.1b2c.partial", size=1000):
    path = (store / SHARD).with_name(name)
    path.write_bytes(b"x" * size)
    os.utime(path, (time.time() - 3 * 86400,) * 2)
    return path


def stamps(folder):
    """Return bytes and time of change of all that lies beside and in a store."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


# ---------------------------------------------------------------- what cannot be asked


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--restore", "--cleanup-temp"), "--restore and --cleanup-temp cannot be asked for at"),
        (("--restore", "--purge-quarantine"), "--purge-quarantine and --restore cannot be asked"),
        (("--history", "--cleanup-all"), "--history and --cleanup-all cannot be asked for at once"),
        (("--dry-run",), "--dry-run needs one of --restore, --purge-quarantine, --cleanup"),
        (("--older-than", "3d"), "--older-than needs one of --purge-quarantine"),
        (("batch-1",), "BATCH needs one of --restore"),
        (("--restore", "--level", "scrub"), "--level says nothing to --restore"),
        (("--history", "--sample", "5%"), "--sample says nothing to --history"),
        (("--cleanup-temp", "--html", "x.html"), "--html says nothing to --cleanup-temp"),
        (("--history", "--csv", "x.csv"), "--csv says nothing to --history"),
        (("--sample", "5%"), "add --level scrub or full"),
        (("--level", "scrub", "--sample", "5 of 6"), "write it as 5% or 0.05"),
        (("--level", "scrub", "--sample", "0%"), "write it as 5% or 0.05"),
        (("--level", "scrub", "--sample", "101%"), "write it as 5% or 0.05"),
        (("--level", "scrb"), "'scrb' is unknown; nearest: 'scrub'"),
        (("--purge-quarantine", "--older-than", "soon"), "write it as 30d, 12h or 2w"),
        (("--purge-quarantine", "--older-than", "-3d"), "write it as 30d, 12h or 2w"),
        (("--html", "field.zarr/x.html"), "which an inventory only reads"),
        (("--csv", "field.zarr.ledger/x.jsonl"), "which an inventory only reads"),
        (("--csv", "no/x.csv"), "there is no folder no"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_sentence(
    run_cli, store, monkeypatch, words, told
):
    monkeypatch.chdir(store.parent)
    before = stamps(store.parent)
    ended = run_cli("inventory", "field.zarr", *words)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert stamps(store.parent) == before


@pytest.mark.parametrize("command", ["inventory", "repair"])
def test_no_store_is_code_3(run_cli, tmp_path, command):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name in ("nothing.zarr", "empty", "file"):
        ended = run_cli(command, tmp_path / name)
        assert (ended.code, ended.out) == (3, ""), name
        assert str(tmp_path / name) in ended.err


# ---------------------------------------------------------------- the inventory


def test_a_healthy_store_is_code_0_and_nothing_is_written(run_cli, store):
    before = stamps(store.parent)
    for words in ((), ("--level", "listing"), ("--level", "full"), ("--json",)):
        ended = run_cli("inventory", store, *words, "-q")
        assert ended.code == 0, ended.out
        assert ended.err == ""
    changed = {k for k, v in stamps(store.parent).items() if before.get(k) != v}
    assert all(".ledger" in path for path in changed)  # the scrub history lies there
    text = run_cli("inventory", store, "-q").out
    assert text.splitlines()[0] == f"{store}: healthy"
    assert "what is there" in text
    assert "AORs ch1" in text
    assert "100%" in text


def test_findings_are_code_1_as_text_and_as_json(run_cli, store):
    flip(store)
    leave_partial(store)
    ended = run_cli("inventory", store, "--level", "scrub", "-q")
    assert ended.code == 1
    assert "damaged: 1 chunk corrupt, 1 partial file" in ended.out.splitlines()[0]
    told = run_cli("inventory", store, "--level", "scrub", "--json")
    assert (told.code, told.err) == (1, "")
    document = json.loads(told.out)
    assert document["counts"]["kind"] == {"chunk_corrupt": 1, "partial_file": 1}
    assert {one["key"] for one in document["findings"]} == {
        SHARD,
        "lightcurves/c/0/0/0/0.1b2c.partial",
    }
    assert document["exit_code"] == 1


def test_progress_goes_to_stderr_with_a_rate(run_cli, store):
    ended = run_cli("inventory", store, "--level", "scrub")
    assert "/s" in ended.err
    assert "healthy" in ended.out
    assert "healthy" not in ended.err


def test_csv_and_html_are_written_beside_the_text(run_cli, store, tmp_path):
    flip(store)
    files = (tmp_path / "found.csv", tmp_path / "found.html")
    ended = run_cli(
        "inventory", store, "--level", "scrub", "--csv", files[0], "--html", files[1], "-q"
    )
    assert ended.code == 1
    assert f"written: {files[0]}" in ended.out
    with files[0].open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["key"]) for row in rows] == [("chunk_corrupt", SHARD)]
    page = files[1].read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert page.count("<figure>") == 3
    assert "chunk corrupt" in page


def test_a_sample_is_looked_at(run_cli, store):
    told = run_cli("inventory", store, "--level", "scrub", "--sample", "50%", "--json")
    assert told.code == 0
    assert json.loads(told.out)["sampled"] == 0.5


def test_the_history_says_when_a_shard_was_read_well(run_cli, store):
    ended = run_cli("inventory", store, "--history")
    assert ended.code == 0
    assert "never" in ended.out
    begin = time.time()
    assert run_cli("inventory", store, "--level", "scrub", "-q").code == 0
    told = json.loads(run_cli("inventory", store, "--history", "--json").out)
    assert told["n_never"] == 0
    by_key = {one["key"]: one for one in told["files"]}
    assert by_key[SHARD]["when"] >= begin - 1
    assert by_key[SHARD]["n_bytes"] == (store / SHARD).stat().st_size
    text = run_cli("inventory", store, "--history").out
    n_shards = sum(path.is_file() for path in (store / "lightcurves" / "c").rglob("*"))
    assert f"  {'lightcurves':<18}{n_shards} file" in text
    assert "never" in text.splitlines()[0]
    assert SHARD not in text
    with (store / SHARD).open("ab") as file:
        file.write(b"more")
    (store / "ra" / "c" / "9").write_bytes(b"new")
    text = run_cli("inventory", store, "--history").out
    assert f"{SHARD}: " in text
    assert "has changed since" in text
    assert "ra/c/9: never" in text
    with Path(f"{store}.ledger/scrubs.log").open("ab") as file:
        file.write(b"torn")
    assert run_cli("inventory", store, "--history").code == 1


# ---------------------------------------------------------------- cleaning


def test_a_dry_run_says_all_and_changes_nothing(run_cli, store):
    partial = leave_partial(store)
    before = stamps(store.parent)
    ended = run_cli("inventory", store, "--cleanup-temp", "--dry-run", "-q")
    assert ended.code == 1
    assert stamps(store.parent) == before
    assert str(partial.relative_to(store)) in ended.out
    assert "1.0 kB" in ended.out
    assert "total: 1 action, 1.0 kB" in ended.out
    command = f"to do it: idfzarr inventory {store} --cleanup-temp"
    assert ended.out.splitlines()[-1] == command
    told = run_cli("inventory", store, "--cleanup-temp", "--dry-run", "--json")
    assert [a["key"] for a in json.loads(told.out)["actions"]] == [str(partial.relative_to(store))]
    assert stamps(store.parent) == before


def test_cleaning_moves_to_quarantine_and_restore_brings_it_back(run_cli, store, tree):
    partial = leave_partial(store)
    before = tree(store)
    ended = run_cli("inventory", store, "--cleanup-temp", "-q")
    assert ended.code == 0, ended.out
    assert not partial.exists()
    (batch,) = list_batches(store)
    assert f"{store}.quarantine/{batch.name}" in ended.out
    assert f"idfzarr inventory {store} --restore {batch.name}" in ended.out
    assert run_cli("inventory", store, "-q").code == 0
    listed = run_cli("inventory", store, "--restore", "--dry-run")
    assert batch.name in listed.out
    assert not partial.exists()
    brought = run_cli("inventory", store, "--restore", batch.name)
    assert brought.code == 0
    assert "brought back 1 file" in brought.out
    assert tree(store) == before
    again = run_cli("inventory", store, "--cleanup-temp", "--dry-run", "-q")
    assert again.code == 1


def test_a_shard_that_is_cleaned_away_can_be_brought_back(run_cli, store, tree):
    flip(store)
    before = tree(store)
    ended = run_cli("inventory", store, "--cleanup-corrupt", "--json")
    assert ended.code == 0
    done = json.loads(ended.out)
    assert [o["action"]["key"] for o in done["outcomes"]] == [SHARD]
    assert not (store / SHARD).exists()
    told = json.loads(run_cli("inventory", store, "--restore", "--json").out)
    assert [one["key"] for one in told["restored"]] == [SHARD]
    assert tree(store) == before


def test_an_unknown_batch_names_the_nearest(run_cli, store):
    ended = run_cli("inventory", store, "--restore", "no-such-batch")
    assert (ended.code, ended.out) == (2, "")
    assert "no batch 'no-such-batch'" in ended.err


def test_a_purge_takes_old_batches_only(run_cli, store):
    Quarantine(store).take("mjd/zarr.json", "a test")
    kept = run_cli("inventory", store, "--purge-quarantine")
    assert kept.code == 0
    assert "nothing was removed" in kept.out
    assert len(list_batches(store)) == 1
    dry = run_cli("inventory", store, "--purge-quarantine", "--older-than", "0d", "--dry-run")
    assert "1 batch would be removed for good" in dry.out
    assert len(list_batches(store)) == 1
    gone = run_cli("inventory", store, "--purge-quarantine", "--older-than", "0d", "--json")
    assert gone.code == 0
    assert [b["items"][0]["key"] for b in json.loads(gone.out)["purged"]] == ["mjd/zarr.json"]
    assert list_batches(store) == ()


# ---------------------------------------------------------------- repair


def test_repair_plans_first_then_mends_then_has_nothing_to_do(run_cli, store, tiny_store, tree):
    healthy = tree(store)
    flip(store)
    leave_partial(store)
    before = stamps(store.parent)
    plan = run_cli("repair", store, "-q")
    assert plan.code == 1
    assert plan.out.splitlines()[-1] == f"to do it: idfzarr repair {store} --apply"
    assert SHARD in plan.out
    changed = {k for k, v in stamps(store.parent).items() if before.get(k) != v}
    assert all(".ledger" in path for path in changed)
    told = json.loads(run_cli("repair", store, "--json").out)
    assert [a["kind"] for a in told["actions"]] == ["rewrite_shard", "quarantine"]
    done = run_cli("repair", store, "--apply", "--from", tiny_store.images, "-q")
    assert done.code == 0, done.out + done.err
    assert "2 done" in done.out
    assert "quarantine" in done.out
    assert run_cli("inventory", store, "--level", "full", "-q").code == 0
    assert tree(store) == healthy
    again = run_cli("repair", store, "-q")
    assert again.code == 0
    assert "nothing to do" in again.out


# ---------------------------------------------------------------- the world around


def environment(**others):
    source = Path(sys.modules["idfzarr"].__file__).parents[1]
    return os.environ | {"PYTHONPATH": str(source)} | others


def test_a_terminal_that_knows_ascii_only_shows_something(store):
    leave_partial(store, "0.\u00e9.partial")
    done = subprocess.run(
        [sys.executable, "-m", "idfzarr", "inventory", str(store), "-q"],
        capture_output=True,
        check=False,
        env=environment(PYTHONIOENCODING="ascii", PYTHONUTF8="0"),
    )
    assert done.returncode == 1
    assert done.stderr == b""
    assert b"partial file" in done.stdout


def test_ctrl_c_is_code_130(store):
    command = [sys.executable, "-m", "idfzarr", "inventory", str(store), "--level", "full"]
    code = (
        "import signal, os, sys; import idfzarr.care.inventory as i; from idfzarr.cli import main;"
        "i.inventory = lambda *a, **k: os.kill(os.getpid(), signal.SIGINT) or __import__('time')"
        f".sleep(5); main({command[3:]!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment()
    )
    assert done.returncode == 130 == 128 + signal.SIGINT
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_every_kind_has_words_that_fit_a_line():
    for kind in KINDS.values():
        assert "\n" not in kind.meaning + kind.remedy
        assert "|" not in kind.meaning + kind.remedy  # they stand in a table of the README


def test_bars_tell_a_rate_and_do_not_slow_what_they_show(capsys):
    begin = time.monotonic()
    with bars(quiet=False, rate=True) as progress:
        for done in range(0, 2_000_000_000, 20_000):
            progress("scrub", done, 2_000_000_000)
        progress("scrub", 2_000_000_000, 2_000_000_000)
        progress("shards", 5, 5)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "2,000.0/2,000.0 MB" in shown.err
    assert "MB/s" in shown.err
    assert "5/5" in shown.err
    assert time.monotonic() - begin < 10  # 100,000 calls
    with bars(quiet=True) as progress:
        progress("scrub", 1, 2)
    assert capsys.readouterr().err == ""
