"""A store under any sequence of writes, appends and crashes, against a model held in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import growing
import numpy as np
import pytest
import zarr
from growing import OBJECTS, TYPES, as_cube, measured
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from idfzarr.errors import UsageError
from idfzarr.store.cube import Cube, create
from idfzarr.store.place import LocalPlace

STEP = 3
CODECS = st.sampled_from(["lz4", "zstd", "none"])
SEEDS = st.integers(0, 2**32 - 1)


def crashes(most):
    """Draw after how many writes the process ends, and whether the last one was carried out."""
    return st.none() | st.tuples(st.integers(0, most), st.booleans())


class Crash(BaseException):
    """The process is gone; nothing of ours may catch this."""


class Disk:
    """Every write of a store; one of them may be the last."""

    def __init__(self):
        self.left = None
        self.torn = False
        self.plain = LocalPlace.write

    def install(self):
        disk = self

        def write(place, key, data):
            if disk.left is None:
                return disk.plain(place, key, data)
            disk.left -= 1
            if disk.left >= 0:
                return disk.plain(place, key, data)
            if disk.torn:  # written, and nobody told
                disk.plain(place, key, data)
            raise Crash

        LocalPlace.write = write

    def remove(self):
        LocalPlace.write = self.plain


class GrowingStore(RuleBasedStateMachine):
    """The store on disk, and what it must hold."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.path = str(Path(self.folder) / "a.zarr")
        self.fsync, os.fsync = os.fsync, lambda handle: None
        self.disk = Disk()
        self.disk.install()
        self.keys = []
        self.pending = []
        self.next_key = 1000
        self.model = None
        self.cube = None

    def teardown(self):
        self.disk.remove()
        os.fsync = self.fsync
        shutil.rmtree(self.folder)

    @initialize(n_aors=st.integers(0, 4), codec=CODECS, capacity=st.sampled_from([4, 8, None]))
    def make(self, n_aors, codec, capacity):
        self.keys = list(range(100, 100 + n_aors))
        self.cube = create(
            self.path,
            objects=np.arange(OBJECTS) * 3 + 1,
            types=TYPES,
            aors=growing.aor_table(self.keys),
            codec=codec,
            capacity=capacity,
            shard_objects=STEP,
        )
        self.model = np.full((OBJECTS, len(TYPES), 3, n_aors), np.nan, dtype=np.float32)

    # ------------------------------------------------------------------ what may happen

    @rule()
    def reopen(self):
        self.cube = Cube(self.path, mode="r+")

    @rule()
    def refresh(self):
        self.cube.refresh()

    @rule(first=st.integers(0, 2), count=st.integers(1, 3), seed=SEEDS, crash=crashes(3))
    def write_block(self, first, count, seed, crash):
        begin, end = first * STEP, min((first + count) * STEP, OBJECTS)
        wanted = self.model.copy()
        wanted[begin:end] = self._drawn(seed, (end - begin, len(TYPES)))
        known = self.cube.shape[3]  # an old cube goes by the length that it knows
        flux, err, flag = (wanted[begin:end, :, k, :known] for k in range(3))
        values = {"flux": flux, "flux_err": err, "flag": flag}
        write = lambda: self.cube.write_block(begin, **values)  # noqa: E731
        self._write(wanted, write, crash)

    @rule(row=st.integers(0, OBJECTS - 1), column=st.integers(0, 1), seed=SEEDS, crash=crashes(1))
    def write_lightcurve(self, row, column, seed, crash):
        wanted = self.model.copy()
        wanted[row, column] = self._drawn(seed, ())
        flux, err, flag = wanted[row, column, :, : self.cube.shape[3]]
        values = {"flux": flux, "flux_err": err, "flag": flag}
        name = TYPES[column]
        write = lambda: self.cube.write_lightcurve(row * 3 + 1, name, **values)  # noqa: E731
        self._write(wanted, write, crash)

    @precondition(lambda self: len(self.keys) < 60)
    @rule(count=st.integers(1, 7), crash=crashes(120))
    def append(self, count, crash):
        if not self.pending:
            self.pending = list(range(self.next_key, self.next_key + count))
            self.next_key += count
        survived = self._survives(lambda: growing.append(self.path, self.pending), crash)
        now = Cube(self.path).aors.tolist()
        # Killed before or after the rename of the root: the one or the other.
        assert now == self.keys + self.pending or (not survived and now == self.keys)
        if now != self.keys and self.pending:
            new = as_cube(measured(self.pending))
            self.model = np.concatenate([self.model, new], axis=3)
            self.keys += self.pending
            self.pending = []

    def _schema(self):
        return Cube(self.path).schema

    def _drawn(self, seed, shape):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(*shape, 3, len(self.keys))).astype(np.float32)
        values[..., 2, :] = rng.integers(0, 8, size=(*shape, len(self.keys)))
        return values

    def _write(self, wanted, write, crash):
        try:
            survived = self._survives(write, crash)
        except UsageError as error:
            refusal = str(error)
        else:
            refusal = ""
        if refusal:  # while an append that crashed is not finished, or by a cube from before it
            changed = self.cube.shape[3] != len(self.keys) or self.cube.schema != self._schema()
            assert ("has changed" in refusal) == changed
            assert changed or ("being appended" in refusal and self.pending)
            return
        if survived:
            self.model = wanted
            return
        seen = Cube(self.path).block()
        for begin in range(0, OBJECTS, STEP):
            shard = slice(begin, begin + STEP)
            whole = [m for m in (self.model, wanted) if np.array_equal(seen[shard], m[shard], True)]
            assert whole, "a shard is neither the old one nor the new one"
        self.model = seen

    def _survives(self, act, crash):
        """Run something; after a crash the process is a new one."""
        self.disk.left, self.disk.torn = crash or (None, False)
        try:
            act()
        except Crash:
            self.disk.left = None
            self.cube = Cube(self.path, mode="r+")
            return False
        finally:
            self.disk.left = None
        return True

    # ------------------------------------------------------------------ what must hold

    @invariant()
    def reads_what_was_written(self):
        if self.model is None:
            return
        fresh = Cube(self.path)
        assert fresh.aors.tolist() == self.keys
        assert fresh.coordinate("quality").tolist() == [key % 3 for key in self.keys]
        np.testing.assert_array_equal(fresh.block(), self.model)
        known = self.cube.shape[3]
        np.testing.assert_array_equal(self.cube.block(), self.model[..., :known])

    @rule()
    def read_by_zarr(self):
        group = zarr.open_group(self.path, mode="r", use_consolidated=True)
        np.testing.assert_array_equal(group["lightcurves"][...], self.model)
        assert group["aor"][...].tolist() == self.keys


def test_a_store_holds_what_was_written_whatever_happens():
    run_state_machine_as_test(
        GrowingStore, settings=settings(max_examples=15, stateful_step_count=20)
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_store_holds_what_was_written_two_hundred_times():
    run_state_machine_as_test(
        GrowingStore, settings=settings(max_examples=200, stateful_step_count=50)
    )
