"""Repair: a damaged copy of a store becomes the store again, wherever repair is stopped."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.quarantine import list_batches
from idfzarr.care.repair import plan_repair
from idfzarr.errors import UsageError
from idfzarr.flags import flag_bit
from idfzarr.store.cube import Cube
from idfzarr.store.ledger import Ledger, read_ledger
from idfzarr.store.place import LocalPlace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHARD = "lightcurves/c/1/0/0/0"
OTHER = "lightcurves/c/0/0/0/0"


@dataclass(frozen=True)
class Seen:
    """What repair reads of an inventory."""

    url: str
    findings: tuple[Finding, ...]
    uuid: str | None = None
    store_kind: str = "cube"


def shard(kind: str, key: str = SHARD, **where: Any) -> Finding:
    return finding(kind, Where(array="lightcurves", key=key, **where), f"{kind} of {key}")


def array(kind: str, key: str) -> Finding:
    path = key.split("/c/", maxsplit=1)[0].removesuffix("/zarr.json")
    return finding(kind, Where(array="" if path == key else path, key=key), f"{kind} of {key}")


@pytest.fixture
def store(tiny_store, tmp_path) -> Path:
    """Return a copy of the smallest store with its ledger."""
    copied = tmp_path / "field.zarr"
    shutil.copytree(tiny_store.store, copied)
    shutil.copytree(tiny_store.store.with_name("field.zarr.ledger"), f"{copied}.ledger")
    return copied


def mend(store: Path, *findings: Finding, images: Any = None) -> Any:
    plan = plan_repair(Seen(str(store), findings), images=images)
    assert plan.to_json() == plan_repair(Seen(str(store), findings), images=images).to_json()
    report = plan.apply()
    assert [o.message for o in report.outcomes if o.result == "failed"] == []
    return report


def edit(path: Path, change: Callable[[bytearray], Any]) -> bytes:
    before = path.read_bytes()
    data = bytearray(before)
    change(data)
    path.write_bytes(data)
    return before


def flip(at: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[at] ^= 4

    return change


def cut(data: bytearray) -> None:
    del data[len(data) // 2 :]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("index_corrupt", flip(-9)),
        ("shard_torn", lambda data: data.extend(b"more")),
        ("chunk_corrupt", flip(90)),
        ("shard_torn", cut),
        ("shard_torn", lambda data: data.clear()),
    ],
    ids=["index", "longer", "chunk", "half", "empty"],
)
def test_a_damaged_shard_is_the_same_file_again_and_no_other_changes(store, tree, kind, change):
    before = tree(store)
    edit(store / SHARD, change)
    damaged = (store / SHARD).read_bytes()
    report = mend(store, shard(kind))
    assert tree(store) == before
    assert report.lost == ()
    (batch,) = list_batches(store)
    kept = store.with_name("field.zarr.quarantine") / batch.name / "store" / SHARD
    assert kept.read_bytes() == damaged
    done = read_ledger(store).done[SHARD].fields
    assert (done["size"], done["crc32"]) == (len(before[SHARD]), zlib.crc32(before[SHARD]))
    again = plan_repair(Seen(str(store), (shard(kind),)))
    assert (again.actions, again.lost) == ((), ())


def test_missing_shards_are_measured_again_all_at_once(store, tree):
    before = tree(store)
    for key in (SHARD, OTHER):
        (store / key).unlink()
    mend(store, shard("shard_missing"), shard("shard_missing", OTHER))
    assert tree(store) == before


def test_exchanged_shards_are_put_back_from_one_another(store, tree, monkeypatch):
    before = tree(store)
    (store / SHARD).write_bytes(before[OTHER])
    (store / OTHER).write_bytes(before[SHARD])

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("nothing needs to be measured")

    monkeypatch.setattr("idfzarr.care.repair_actions.rebuild", refuse)
    mend(store, shard("wrong_shard"), shard("wrong_shard", OTHER))
    assert tree(store) == before


def test_without_mosaics_exactly_the_damaged_lightcurves_are_marked_as_lost(
    store, tiny_store, monkeypatch
):
    whole = Cube(tiny_store.store).block()
    edit(store / SHARD, flip(90))  # in the first chunk
    ledger = next(store.with_name("field.zarr.ledger").glob("*.jsonl"))
    monkeypatch.setattr("idfzarr.build.source_files.find_sources", _none_found)
    report = mend(store, shard("chunk_corrupt"))
    assert ledger.exists()
    assert [o.action.kind for o in report.outcomes] == ["mark_lost"]
    assert "1 lightcurves" in report.lost[0]
    found = Cube(store).block()
    lost = found[4, 0]
    assert np.isnan(lost[:2]).all()
    assert (lost[2] == flag_bit("lost")).all()
    found[4, 0] = whole[4, 0]
    assert found.tobytes() == whole.tobytes()


def _none_found(measured: Any, *_: object, **__: object) -> list[Any]:
    from idfzarr.build.source_files import NotFound

    return [NotFound("missing", one.name, f"{one.name} is gone") for one in measured]


@pytest.mark.parametrize(
    "key",
    [
        "type/c/0",
        "object/c/0",
        "catalogue/x/c/0",
        "aor_name/c/0",
        "noise_scale/c/0/0",
        "dx/c/0/0",
        "sky_rms/c/0/0",
        "channel/c/0",
        "type_method/c/0",
        "unit/c/0",
        "value/c/0",
        "variability/score/c/0/0",
    ],
)
def test_a_damaged_array_is_had_from_a_second_place(store, tree, key):
    before = tree(store)
    edit(store / key, flip(2))
    report = mend(store, array("chunk_corrupt", key))
    assert report.lost == ()
    after = tree(store)
    assert {k for k in before if before[k] != after[k]} <= {"zarr.json"}
    assert len(list_batches(store)[0].items) == 1


def test_what_has_no_second_copy_is_said_to_be_lost(store, tree):
    before = tree(store)
    keys = ["catalogue/peak/c/0", "catalogue/flags/c/0"]
    for key in keys:
        edit(store / key, flip(3))
    report = mend(store, *(array("chunk_corrupt", key) for key in keys))
    assert len(report.lost) == 2
    assert {k for k, v in tree(store).items() if before[k] != v} == set(keys)
    assert [r.fields["lost"] for r in read_ledger(store).of("note") if "lost" in r.fields] == [
        "catalogue/peak"
    ]


def test_times_and_zero_points_come_back_from_the_mosaics(store, tree):
    before = tree(store)
    keys = ["mjd/c/0/0", "aor/c/0", "zeropoint/c/0/0", SHARD]
    for key in keys:
        edit(store / key, flip(3))
    findings = [array("chunk_corrupt", key) for key in keys[:3]] + [shard("chunk_corrupt")]
    plan = plan_repair(Seen(str(store), tuple(findings)))
    assert plan.lost == ()
    assert [action.key for action in plan.actions] == ["aor", "mjd", SHARD, "zeropoint"]
    assert plan.apply().ok
    assert tree(store) == before


@pytest.mark.parametrize("key", ["ra/zarr.json", "lightcurves/zarr.json", "catalogue/zarr.json"])
@pytest.mark.parametrize("kind", ["metadata_corrupt", "consolidated_stale"])
def test_metadata_of_an_array_comes_back_from_the_root(store, tree, key, kind):
    before = tree(store)
    (store / key).write_bytes(b'{"shape": [3]}')
    mend(store, array(kind, key))
    assert json.loads((store / key).read_bytes()) == json.loads(before[key])
    (store / key).unlink()
    mend(store, array(kind, key))
    assert json.loads((store / key).read_bytes()) == json.loads(before[key])


def test_the_root_comes_back_from_the_ledger_with_what_a_user_noted_on_it(store, tree):
    import zarr

    before = tree(store)
    (store / "zarr.json").unlink()
    mend(store, array("metadata_corrupt", "zarr.json"))
    assert tree(store) == before
    zarr.open_group(store, mode="r+").attrs["observer"] = "me"
    text = (store / "zarr.json").read_bytes()
    (store / "zarr.json").write_bytes(text.replace(b'"bytes"', b'"bytez"', 1))
    mend(store, array("metadata_corrupt", "zarr.json"))
    assert Cube(store).shape[0] > 4
    assert json.loads((store / "zarr.json").read_bytes())["attributes"]["observer"] == "me"


def test_a_root_without_a_copy_is_said_to_be_lost(store):
    for path in store.with_name("field.zarr.ledger").glob("root-*.json"):
        path.unlink()
    (store / "zarr.json").write_bytes(b"{")
    plan = plan_repair(Seen(str(store), (array("metadata_corrupt", "zarr.json"),)))
    assert plan.actions == ()
    assert "no copy of the root" in plan.lost[0]


def test_damaged_lines_of_the_ledger_are_taken_out_and_proved_shards_noted(store, tree):
    before = tree(store)
    (path,) = store.with_name("field.zarr.ledger").glob("*.jsonl")
    lines = path.read_bytes().split(b"\n")
    spoilt = [k for k, line in enumerate(lines) if SHARD.encode() in line or b'"begin"' in line]
    assert len(spoilt) == 3
    for k in spoilt:
        lines[k] = lines[k].replace(b'"n":', b'"m":')
    path.write_bytes(b"\n".join(lines) + b'{"torn')
    found = finding("ledger_damaged", Where(key=path.name, beside="ledger"), "damaged")
    mend(store, found)
    state = read_ledger(store)
    assert state.damaged == ()
    assert state.done[SHARD].fields["provenance"] == "unknown"
    assert state.done[SHARD].fields["crc32"] == zlib.crc32(before[SHARD])
    assert state.is_published
    assert tree(store) == before
    assert plan_repair(Seen(str(store), (shard("wrong_shard"),))).actions == ()


def test_files_that_belong_to_nothing_go_to_quarantine(store, tree):
    before = tree(store)
    (store / "lightcurves/c/9/0/0").mkdir(parents=True)
    (store / "lightcurves/c/9/0/0/0").write_bytes(b"beyond")
    (store / "odd").write_bytes(b"?")
    mend(
        store,
        finding("key_outside", Where(key="lightcurves/c/9/0/0/0", n_bytes=6), "x"),
        finding("file_unknown", Where(key="odd", n_bytes=1), "y"),
    )
    assert tree(store) == before
    assert {item.key for item in list_batches(store)[0].items} == {"odd", "lightcurves/c/9/0/0/0"}


def test_a_change_that_is_not_committed_is_taken_back(store, tree):
    from idfzarr.store.append import begin_append

    before = tree(store)
    begin_append(store, aors={"aor": [99], "mjd": [56000.0]})
    assert "staging/next/update.json" in tree(store)
    unfinished = finding("update_unfinished", Where(key="staging"), "begun")
    left = finding("staging_left", Where(key="staging"), "left")
    plan = plan_repair(Seen(str(store), (unfinished, left)))
    assert [action.kind for action in plan.actions] == ["abandon_update"]
    assert plan.apply().ok
    after = tree(store)
    assert {k: v for k, v in after.items() if "/c/" not in k} == {
        k: v for k, v in before.items() if "/c/" not in k
    }
    assert Cube(store).block().tobytes() == _values_of(before, store)


def _values_of(before: dict[str, bytes], store: Path) -> bytes:
    folder = store.with_name("before.zarr")
    for key, data in before.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return Cube(folder).block().tobytes()


def test_a_committed_change_is_put_in_place(store, tree, monkeypatch):
    from idfzarr.store import append

    writer = append.begin_replace(store, aors=[int(Cube(store).coordinate("aor")[0])])
    block = np.ones((1, *writer.schema.layout.shape[:2], 3), dtype=np.float32)
    writer.write_staging(0, block)
    for number in range(writer.schema.layout.n_shards):
        writer.write_shard(number, writer.assemble(number))
    with monkeypatch.context() as patched:
        patched.setattr(append, "roll_forward", lambda _: False)
        writer.publish()
    assert any(key.startswith("staging/") for key in tree(store))
    report = mend(store, finding("update_unfinished", Where(key="staging"), "not in place"))
    assert [o.action.kind for o in report.outcomes] == ["roll_forward"]
    assert not any(key.startswith("staging/") for key in tree(store))
    assert (Cube(store).block()[:, :, :, 0] == 1).all()


def test_a_live_writer_and_another_repair_are_left_in_peace(store, tree, monkeypatch):
    edit(store / SHARD, flip(-9))
    plan = plan_repair(Seen(str(store), (shard("index_corrupt"),)))
    before = tree(store)
    writer = Ledger(store, Cube(store).uuid)
    writer._writer = writer._writer.replace(f"-{os.getpid()}-", f"-{os.getppid()}-")
    writer.append("intent", key=OTHER, size=1, crc32c=1)
    with pytest.raises(UsageError, match="is being written by"):
        plan.apply()
    assert tree(store) == before
    for path in store.with_name("field.zarr.ledger").glob(f"*-{os.getppid()}-*.jsonl"):
        path.unlink()
    from idfzarr.care.repair_actions import _only_repair

    with (
        _only_repair(LocalPlace(str(store))),
        pytest.raises(UsageError, match="repaired by another process"),
    ):
        plan.apply()
    assert plan.apply().ok


def test_nothing_is_written_through_a_link(store, tmp_path, tree):
    outside = tmp_path / "outside"
    shutil.move(store / "lightcurves/c/1", outside)
    (store / "lightcurves/c/1").symlink_to(outside)
    edit(outside / "0/0/0", flip(-9))
    before = tree(outside)
    report = plan_repair(Seen(str(store), (shard("index_corrupt"),))).apply()
    assert [o.result for o in report.outcomes] == ["failed"]
    assert "is a link" in report.outcomes[0].message
    assert tree(outside) == before


class _Killed(BaseException):
    """Stands for a kill: no handler of the package takes it for an error."""


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_stopped_at_any_step_and_run_again_it_ends_in_the_same_files(
    store, tree, monkeypatch, tmp_path, step
):
    before = tree(store)
    edit(store / SHARD, flip(-9))
    edit(store / "type/c/0", flip(2))
    (store / "ra/zarr.json").write_bytes(b"{")
    (store / f"{SHARD}.x.partial").write_bytes(b"left")
    findings = (
        shard("index_corrupt"),
        array("chunk_corrupt", "type/c/0"),
        array("metadata_corrupt", "ra/zarr.json"),
        finding("partial_file", Where(key=f"{SHARD}.x.partial"), "left"),
    )
    damaged = tmp_path / "damaged"
    shutil.copytree(tmp_path, damaged)
    steps = 0
    real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink")}
    for stop in range(3, 1000, step):
        for name in ("field.zarr", "field.zarr.ledger", "field.zarr.quarantine"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            if (damaged / name).exists():
                shutil.copytree(damaged / name, tmp_path / name)
        left = [stop]
        plan = plan_repair(Seen(str(store), findings))
        with monkeypatch.context() as patched:
            for name, call in real.items():
                patched.setattr(os, name, _counted(call, left))
            try:
                plan.apply()
            except _Killed:
                steps += 1
            else:
                break
        again = plan_repair(Seen(str(store), findings))
        assert again.apply().ok
        after = {k: v for k, v in tree(store).items() if not k.endswith(".partial")}
        assert after == before, stop
        kept = tree(store.with_name("field.zarr.quarantine"))
        assert b"left" in [v for k, v in kept.items() if "store" in k]
    assert steps * step > 30


def _counted(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    def run(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        return call(*arguments, **named)

    return run
