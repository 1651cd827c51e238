"""Disks on which a call fails: never reported as done, the cube that was there whole, gone on with.

The n-th open, write, fsync or rename of a run fails, for many n spread over the run; what was there
must be read as it was, and the same run again must leave the bytes of one that never met a fault.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager

import growing
import numpy as np
import pytest
from astropy.table import Table
from killing import are_the_same, bits, copy_store, files_of

from idfzarr.build.importer import import_tables
from idfzarr.build.pipeline import build
from idfzarr.errors import IdfzarrError, StoreMissing, UnfinishedStore
from idfzarr.store import exchange as exchange_module
from idfzarr.store import ledger as ledger_module
from idfzarr.store import place as place_module
from idfzarr.store.cube import Cube

CALLS = ("open", "write", "fsync", "rename")
NUMBERS = (errno.EIO, errno.ENOSPC)


@contextmanager
def failing(name, at=0, number=errno.EIO):
    """Let the n-th call of one of the functions that reach the disk fail, and no other."""
    counted = [0]

    def watched(plain):
        def call(*arguments, **options):
            counted[0] += 1
            if counted[0] == at:
                raise OSError(number, os.strerror(number), str(arguments[0]))
            return plain(*arguments, **options)

        return call

    replaced = {"rename": ("replace", "rename")}.get(name, (name,))

    class System:
        """The module os but for some functions; without fsync, for no test is a power cut."""

        def __getattr__(self, asked):
            plain = (lambda handle: None) if asked == "fsync" else getattr(os, asked)
            return watched(plain) if asked in replaced else plain

    with pytest.MonkeyPatch.context() as patch:
        for module in (place_module, ledger_module, exchange_module):
            patch.setattr(module, "os", System())
        if name == "open":
            patch.setattr(place_module, "open", watched(open), raising=False)
        if name == "rename":
            at_once = exchange_module.exchange_at_once
            patch.setattr(exchange_module, "exchange_at_once", watched(at_once))
        yield counted


def fail_and_go_on(run, store, known, wanted, *, name, at):
    """Let one call fail, look, run again, and compare."""
    number = NUMBERS[at % 2]
    with (
        failing(name, at, number) as counted,
        pytest.raises((OSError, IdfzarrError), match=os.strerror(number)),
    ):
        run(store)
    assert counted[0] >= at
    if "old" in known or (store / "zarr.json").exists():
        block = bits(Cube(store).block())
        assert block in known.values()
        assert bits(growing.by_zarr(store)) == block
    else:
        with pytest.raises((StoreMissing, UnfinishedStore), match=r"f\.zarr"):
            Cube(store)
    run(store)
    are_the_same(files_of(store), wanted)
    assert bits(Cube(store).block()) == known["new"]
    assert not list(store.parent.rglob("*.partial"))


SMALL = {"objects": 5, "shard_objects": 2, "staging_aors": 2}


def run_build(store):
    growing.built(store, growing.OLD[:3], **SMALL)


def run_append(store):
    growing.append(store, [200, 201], objects=SMALL["objects"], staging_aors=1)


def run_relayout(store):
    growing.grow(store, 64)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Return a folder of three small catalogues."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(3)
    for aor in range(3):
        Table(
            {
                "NUMBER": np.arange(1, 6),
                "FLUX_AUTO": rng.normal(100, 3, 5),
                "FLUXERR_AUTO": rng.uniform(1, 2, 5),
                "FLAGS": np.zeros(5, dtype=int),
                "mjd": np.full(5, 55000.0 + aor),
            }
        ).write(folder / f"IDF_gr{aor}_ch1_sci.csv")
    return folder


def every_failure(tmp_path, action, step, tables):
    """Let every step-th call of every kind fail in a run on a small store; count the runs."""

    def run_import(store):
        told = import_tables(tables, store, unit="uJy", shard_objects=2, scheduler="synchronous")
        assert told.ok

    start = tmp_path / "start" / "f.zarr"
    run = {
        "build": run_build,
        "append": run_append,
        "relayout": run_relayout,
        "import": run_import,
    }[action]
    known = {}
    if action in {"append", "relayout"}:
        run_build(start)
        known["old"] = bits(Cube(start).block())
    runs = 0
    for name in CALLS:
        store = tmp_path / f"whole-{name}" / "f.zarr"
        if known.get("old"):
            copy_store(start, store)
        with failing(name) as counted:
            run(store)
        known["new"], wanted = bits(Cube(store).block()), files_of(store)
        assert counted[0] > 20
        for at in range(1 + runs % step, counted[0] + 1, step):
            store = tmp_path / f"{name}-{at}" / "f.zarr"
            if known.get("old"):
                copy_store(start, store)
            fail_and_go_on(run, store, known, wanted, name=name, at=at)
            shutil.rmtree(store.parent)
            runs += 1
    return runs


@pytest.mark.parametrize("action", ["build", "append", "relayout", "import"])
def test_a_call_that_fails_is_never_reported_as_done(tmp_path, tables, action):
    assert every_failure(tmp_path, action, 61, tables) >= 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "step"), [("build", 5), ("append", 5), ("relayout", 7), ("import", 11)]
)
def test_any_call_that_fails_is_never_reported_as_done(tmp_path, tables, action, step):
    assert every_failure(tmp_path, action, step, tables) > 50


# ---------------------------------------------------------------- from mosaics

HOW = {"types": "ch1_aper2_*,ch2_aper2_original", "shard_objects": 4, "scheduler": "synchronous"}


@pytest.mark.slow
@pytest.mark.parametrize("action", ["build", "append"])
def test_a_build_from_mosaics_on_a_disk_that_fails(tiny_images, tmp_path, action):
    known, start = {}, tmp_path / "start" / "f.zarr"
    if action == "append":
        part = tmp_path / "part"
        shutil.copytree(tiny_images, part, ignore=shutil.ignore_patterns("IDF_gr4_*"))
        build(part, start, **HOW)
        known["old"] = bits(Cube(start).block())

    def begin(name):
        store = tmp_path / name / "f.zarr"
        if known.get("old"):
            copy_store(start, store)
        return store

    def run(store):
        report = build(tiny_images, store, **HOW)
        assert report.ok
        assert report.n_aors == 4

    for name in CALLS:
        store = begin(f"whole-{name}")
        with failing(name) as counted:
            run(store)
        known["new"], wanted = bits(Cube(store).block()), files_of(store)
        for at in np.linspace(1, counted[0], 8).round().astype(int).tolist():
            store = begin(f"{name}-{at}")
            fail_and_go_on(run, store, known, wanted, name=name, at=at)
            shutil.rmtree(store.parent)
