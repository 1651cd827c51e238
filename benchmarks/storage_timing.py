"""Time readers against one another: the same keys, in shuffled blocks, in one process.

Readers that start threads of their own disturb those that do not, so there are two processes,
each with the default SQLite BLOB and the default cube in it, and in the second the readers with
threads come last in every round. Ratios are taken within a process.
"""

from __future__ import annotations

import gc
import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rivals import modules, rivals_in
from rivals.protocol import files_of, spread
from synthetic import Field

if TYPE_CHECKING:
    from collections.abc import Callable

    from rivals.protocol import Reader, Rival
    from synthetic import Block

ANCHORS = ("SQLite BLOB", "idfzarr, lz4 (default)")
PAIRS = 100
_DEFAULT = "cube-lz4"
_READ_BLOCK = 50
_SAMPLE = 20
_COLD_BLOCK = 40


@dataclass(frozen=True)
class Plan:
    """How much to time.

    Parameters
    ----------
    objects, aors
        Size of the field.
    reads
        Single reads of each rival at most.
    seconds
        Time for each figure of each rival at most.
    seed
        Of keys and orders.
    """

    objects: int = 2000
    aors: int = 1200
    reads: int = 5000
    seconds: float = 10.0
    seed: int = 1

    @property
    def field(self) -> Field:
        """The field that is read."""
        return Field(self.objects, self.aors)


def rivals_of(group: str) -> list[Rival]:
    """Return the rivals of a process: ``quiet``, ``threaded``, or those of one module."""
    if group == "quiet":
        return rivals_in(module.name for module in modules() if not module.threaded)
    if group == "threaded":
        anchors = [rival for rival in rivals_in(("cube", "sqlite")) if rival.name in ANCHORS]
        return anchors + rivals_in(module.name for module in modules() if module.threaded)
    return rivals_in([group])


def verify(rival: Rival, reader: Reader, field: Field, seed: int) -> None:
    """Compare what a reader returns with the truth, every way of reading; raises AssertionError."""
    rng = random.Random(seed)
    rows = [rng.randrange(field.n_objects) for _ in range(_SAMPLE)]
    columns = [rng.randrange(len(field.types)) for _ in rows]
    ids = [int(field.object_ids[row]) for row in rows]
    names = [field.types[column] for column in columns]
    truth = {row: field.values(row) for row in set(rows)}
    lossless = rival.lossless
    together = reader.many(ids, names)
    for k, (row, column) in enumerate(zip(rows, columns, strict=True)):
        pairs = [(reader.one(ids[k], names[k]), column), (reader.all_types(ids[k]), slice(None))]
        for found, where in [*pairs, (_part(together, k), column)]:
            _same(found, _part(truth[row], where), lossless=lossless)


def _part(block: Block, where: Any) -> Block:
    return type(block)(*(array[where] for array in block))


def _same(found: Block, truth: Block, *, lossless: bool) -> None:
    np.testing.assert_array_equal(found.flag, truth.flag)
    assert found.flag.dtype == np.uint16
    if lossless:
        np.testing.assert_array_equal(found.flux, truth.flux)
        np.testing.assert_array_equal(found.flux_err, truth.flux_err)
    else:
        off = np.abs(found.flux - truth.flux) / truth.flux_err
        assert np.nanmax(np.where(np.isnan(off), 0, off)) <= 0.011
        np.testing.assert_array_equal(np.isnan(found.flux), np.isnan(truth.flux))
        np.testing.assert_allclose(found.flux_err, truth.flux_err, rtol=0.01)


class Timings:
    """Nanoseconds of every call, by figure and rival."""

    def __init__(self) -> None:
        self.nanoseconds: dict[str, dict[str, list[int]]] = {}

    def add(self, figure: str, rival: str, elapsed: list[int]) -> None:
        """Keep what a block of calls took."""
        self.nanoseconds.setdefault(figure, {}).setdefault(rival, []).extend(elapsed)

    def spent(self, figure: str, rival: str) -> float:
        """Return the seconds that a rival has spent on a figure."""
        return sum(self.nanoseconds.get(figure, {}).get(rival, ())) / 1e9


def _timed(call: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[int]:
    now = time.perf_counter_ns
    elapsed = []
    for given in arguments:
        begin = now()
        held = call(*given)
        elapsed.append(now() - begin)
    del held
    return elapsed


def _rounds(
    figure: str,
    calls: dict[str, Callable[..., Any]],
    arguments: list[tuple[Any, ...]],
    timings: Timings,
    *,
    block: int,
    last: set[str],
    plan: Plan,
) -> None:
    """Call everyone with the same arguments, a block each in turn, in an order of chance."""
    rng = random.Random(plan.seed)
    for begin in range(0, len(arguments), block):
        order = list(calls)
        rng.shuffle(order)
        order.sort(key=last.__contains__)
        for name in order:
            if timings.spent(figure, name) < plan.seconds:
                timings.add(figure, name, _timed(calls[name], arguments[begin : begin + block]))
        gc.collect()


def _scan(reader: Reader) -> np.ndarray:
    return np.concatenate([spread(flux) for flux in reader.flux_blocks()])


def _check_scans(rivals: list[Rival], readers: dict[str, Reader]) -> None:
    """Compare every scan with the anchor's; the order of the lightcurves is each one's own."""
    truth = np.sort(_scan(readers[ANCHORS[0]]))
    assert np.isfinite(truth).any()
    for rival in rivals:
        found = np.sort(_scan(readers[rival.name]))
        tolerance = 1e-4 if rival.lossless else 0.05
        np.testing.assert_allclose(found, truth, rtol=tolerance, err_msg=rival.name)


def warm(folder: Path) -> None:
    """Bring every file below a folder into the page cache."""
    for path in files_of(folder):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def read_pass(group: str, plan: Plan, stores: Path) -> dict[str, dict[str, list[int]]]:
    """Time the warm reads of a group of rivals and return nanoseconds by figure and rival."""
    field, rivals = plan.field, rivals_of(group)
    rng = random.Random(plan.seed)
    ids, names = field.object_ids.tolist(), field.types
    pairs = [(rng.choice(ids), rng.choice(names)) for _ in range(plan.reads)]
    readers = {rival.name: rival.open(field, stores / rival.store) for rival in rivals}
    for rival in rivals:
        warm(stores / rival.store)
        verify(rival, readers[rival.name], field, plan.seed)
    last = {rival.name for rival in rivals} - set(ANCHORS) if group == "threaded" else set()
    _check_scans(rivals, readers)
    several = max(4, plan.reads // 25)
    hundreds = [
        tuple(zip(*(rng.choice(pairs) for _ in range(PAIRS)), strict=True))
        for _ in range(max(4, plan.reads // 50))
    ]
    work: list[tuple[str, str, list[tuple[Any, ...]], int]] = [
        ("one", "one", list(pairs), _READ_BLOCK),
        ("all types", "all_types", [(rng.choice(ids),) for _ in range(several)], 10),
        ("100 random", "many", hundreds, 5),
    ]
    timings = Timings()
    gc.disable()
    for figure, method, arguments, block in work:
        calls = {name: getattr(reader, method) for name, reader in readers.items()}
        _rounds(figure, calls, arguments, timings, block=block, last=last, plan=plan)
    scans = {name: (lambda reader=reader: _scan(reader)) for name, reader in readers.items()}
    _rounds("scan", scans, [()] * 3, timings, block=1, last=last, plan=plan)
    gc.enable()
    for reader in readers.values():
        reader.close()
    return timings.nanoseconds


def cold_pass(module: str, plan: Plan, stores: Path, turn: int) -> dict[str, dict[str, list[int]]]:
    """Time single reads of a module's rivals, the files dropped from the page cache before each."""
    field = plan.field
    timings = Timings()
    for rival in rivals_of(module):
        if rival.cold:
            rng = random.Random(f"{plan.seed} {turn}")  # the same keys for every rival
            keys = [
                (int(rng.choice(field.object_ids)), rng.choice(field.types))
                for _ in range(_COLD_BLOCK)
            ]
            folder = stores / rival.store
            timings.add("cold", rival.name, _cold_reads(rival.open(field, folder), folder, keys))
    return timings.nanoseconds


def _cold_reads(reader: Reader, folder: Path, keys: list[tuple[int, str]]) -> list[int]:
    # What is imported and prepared by the first read is no part of a cold read; the rest is.
    reader.one(*keys[0])
    handles = [os.open(path, os.O_RDONLY) for path in files_of(folder)]
    elapsed: list[int] = []
    gc.disable()
    for key in keys[1:]:
        for handle in handles:
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        elapsed += _timed(reader.one, [key])
    gc.enable()
    for handle in handles:
        os.close(handle)
    return elapsed


def engine_pass(plan: Plan, stores: Path) -> dict[str, dict[str, list[int]]]:
    """Time the selection of one flux by the xarray engine and from a Dataset in memory."""
    from rivals.cube import STORE

    from idfzarr.analysis.backend import open_store

    field = plan.field
    path = stores / _DEFAULT / STORE
    # Opened twice, since load() keeps what it has read.
    datasets = {"engine": open_store(path), "memory": open_store(path)[["flux"]].load()}
    rng = random.Random(plan.seed)
    ids, names = field.object_ids.tolist(), field.types
    keys = [(rng.choice(ids), rng.choice(names)) for _ in range(plan.reads)]
    for object_id, name in keys[:_SAMPLE]:
        truth = field.values(ids.index(object_id)).flux[names.index(name)]
        for dataset in datasets.values():
            found = dataset.flux.sel(object=object_id, type=name).load()
            np.testing.assert_array_equal(found.to_numpy(), truth)
    calls = {
        label: (lambda i, t, dataset=dataset: dataset.flux.sel(object=i, type=t).load())
        for label, dataset in datasets.items()
    }
    timings = Timings()
    gc.disable()
    _rounds("selection", calls, list(keys), timings, block=_READ_BLOCK, last=set(), plan=plan)
    gc.enable()
    return timings.nanoseconds


def worker(request: str) -> None:
    """Do the pass that a request in JSON asks for and write its result to the file it names."""
    asked = json.loads(request)
    plan, stores = Plan(**asked["plan"]), Path(asked["stores"])
    if asked["kind"] == "cold":
        found = cold_pass(asked["group"], plan, stores, asked["turn"])
    elif asked["kind"] == "engine":
        found = engine_pass(plan, stores)
    else:
        found = read_pass(asked["group"], plan, stores)
    Path(asked["result"]).write_text(json.dumps(found), encoding="utf-8")
