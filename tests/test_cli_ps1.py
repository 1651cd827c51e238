"""``idfzarr fetch`` as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from idfzarr.ps1.skystore import SkycellStore
from idfzarr.testing import ps1_faults as faults
from idfzarr.testing.ps1_files import PS1Sky, write_files
from idfzarr.testing.ps1_service import PS1Service

SKY = PS1Sky(seed=0, size=(128, 125))


@pytest.fixture(scope="module")
def service():
    with PS1Service(SKY, absent=["*.stk.g.*"]) as running:
        yield running


def test_fetch_says_what_became_of_it(run_cli, service, tmp_path):
    store = tmp_path / "s.zarr"
    mirror = service.mirrors["images"] + "{path}"
    asked = ["fetch", store, "--skycell", "1405.053", "--bands", "gr", "--mirror", mirror]
    ended = run_cli(*asked)
    assert ended.code == 0
    assert "completed: 6 arrays of 1 skycells: 3 downloaded, 3 absent" in ended.out
    assert str(store) in ended.out
    told = run_cli(*asked, "--json", "--kinds", "image,wt")
    assert told.code == 0
    assert told.err == ""
    assert json.loads(told.out)["counts"]["skipped"] == 2
    assert len(SkycellStore(store).arrays()) == 3


def test_failures_have_code_1_and_their_names(run_cli, service, tmp_path):
    service.clear()
    service.plant("*", faults.Status(403), times=None)
    asked = ["--skycell", "1405.053", "--bands", "r", "--kinds", "mask"]
    ended = run_cli("fetch", tmp_path / "s.zarr", *asked, "--mirror", service.mirrors["images"])
    service.clear()
    assert ended.code == 1
    assert "failed: skycell.1405.053 r mask: " in ended.out
    assert "status 403" in ended.out


def test_repair_fetches_from_a_mirror(run_cli, service, tmp_path):
    service.clear()
    store, mirror = tmp_path / "s.zarr", service.mirrors["images"] + "{path}"
    asked = ["--skycell", "1405.053", "--bands", "r", "--mirror", mirror]
    assert run_cli("fetch", store, *asked).code == 0
    shard = store / "1405/skycell.1405.053/r/c/0/0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-7])
    (store / "zarr.json").unlink()
    plan = run_cli("repair", store, "--mirror", mirror, "-q")
    assert plan.code == 1
    assert (
        plan.out.splitlines()[-1] == f"to do it: idfzarr repair {store} --apply --mirror '{mirror}'"
    )
    assert "restore metadata: 1" in plan.out
    assert "fetch again: 1" in plan.out
    assert shard.read_bytes() == whole[:-7]
    before = len(service.requests)
    done = run_cli("repair", store, "--apply", "--mirror", mirror, "-q")
    assert done.code == 0, done.out + done.err
    assert len(service.requests) == before + 1
    assert shard.read_bytes() == whole
    assert run_cli("inventory", store, "--level", "scrub", "-q").code == 0
    bad = run_cli("repair", store, "--mirror", "ftp://x", "-q")
    assert (bad.code, "'ftp://x' cannot be used" in bad.err) == (2, True)


def test_local_files_only(run_cli, tmp_path):
    write_files(tmp_path / "ps1", SKY, ["skycell.1405.053"], bands="r", extension=".fits.fz")
    asked = ["--skycell", "1405.*53", "--bands", "r", "--local-data-path", tmp_path / "ps1"]
    ended = run_cli("fetch", tmp_path / "s.zarr", *asked, "--local-only")
    assert ended.code == 0
    assert "3 local" in ended.out


def test_cones_as_people_write_them(run_cli, tmp_path):
    (tmp_path / "ps1").mkdir()
    rest = ["--local-only", "--local-data-path", tmp_path / "ps1", "--bands", "r", "--json"]
    found = [
        json.loads(run_cli("fetch", tmp_path / "s.zarr", "--cone", *cone, *rest).out)
        for cone in (
            ("64.5", "28", "0.01"),
            ("4h18m00s", "+28d00m00s", "36 arcsec"),
            ("04:18:00", "28:00:00", "36arcsec"),
        )
    ]
    names = [{a["skycell"] for a in told["arrays"]} for told in found]
    assert "skycell.1944.003" in names[0]
    assert names[0] == names[1] == names[2]
    below = run_cli("fetch", tmp_path / "s.zarr", "--cone", "10", "-5", "0.01", *rest)
    assert json.loads(below.out)["skycells_found"] >= 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "one way"),
        (["--skycell", "nonsense"], "no name of a skycell"),
        (["--skycell", "1405.053", "--sector", "20"], "one way"),
        (["--sector", "20"], "camera"),
        (["--skycell", "1405.053", "--bands", "u"], "no band 'u'"),
        (["--skycell", "1405.053", "--kinds", "flux"], "no kind 'flux'"),
        (["--skycell", "1405.053", "--mirror", "ftp://x/"], "neither https nor http"),
        (["--skycell", "1405.053", "--local-template", "../x"], "leads out"),
        (["--cone", "a", "b", "c"], "--cone"),
        (["--cone", "1", "2", "x"], "--cone"),
        (["--cone", "10", "-80", "0.1"], "north of declination"),
        (["--csv", "none.csv"], "cannot be read"),
        (["--sector", "20", "--camera", "3", "--ccd", "3", "--rule", "best"], "no rule"),
    ],
)
def test_what_cannot_be_asked_has_code_2(run_cli, tmp_path, asked, said):
    (tmp_path / "ps1").mkdir()
    ended = run_cli("fetch", tmp_path / "s.zarr", *asked, "--local-data-path", tmp_path / "ps1")
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "s.zarr").exists()


def test_another_store_is_left_alone(run_cli, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file.txt").write_text("mine")
    ended = run_cli("fetch", tmp_path / "mine", "--skycell", "1405.053")
    assert ended.code == 3
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "file.txt"]


def test_ctrl_c_has_code_130_and_the_command_goes_on(service, tmp_path):
    service.clear()
    service.plant("*.mask.*", faults.Stalled(seconds=60), times=None)
    source = Path(sys.modules["idfzarr"].__file__).parents[1]
    command = [sys.executable, "-m", "idfzarr", "fetch", "s.zarr", "--skycell", "1405.053"]
    command += ["--bands", "r", "--mirror", service.mirrors["images"]]
    options = {"env": os.environ | {"PYTHONPATH": str(source)}, "cwd": tmp_path, "text": True}
    child = subprocess.Popen(command, **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ends = time.monotonic() + 60
    while not any(".mask." in r.path and r.sent for r in service.requests):
        assert time.monotonic() < ends
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130, (out, err)
    assert "interrupted" in out
    assert "Traceback" not in out + err
    assert "go on" in err
    service.clear()
    done = subprocess.run(command, **options, capture_output=True, check=False)
    assert done.returncode == 0, done
    assert "2 skipped" in done.stdout
    assert "1 downloaded" in done.stdout
