"""Tasks: every one is accounted for, wherever it runs."""

from __future__ import annotations

import os

import pytest

from idfzarr.build.scheduler import Task, run_tasks, worker_count
from idfzarr.errors import ImageMissing, StorageFull, UsageError


def double_or_fail(value: int) -> int:
    """Fail with one of ours at 3, with a stranger at 4."""
    if value == 3:
        msg = "no image 3"
        raise ImageMissing(msg)
    if value == 4:
        msg = "four"
        raise ZeroDivisionError(msg)
    return 2 * value


def fill_disk(value: int) -> int:
    msg = f"no room for {value}"
    raise StorageFull(msg)


def die(value: int) -> int:
    os._exit(value)


def tasks(function=double_or_fail, count=6):
    return [Task(f"task {n}", function, (n,)) for n in range(count)]


@pytest.mark.parametrize("scheduler", [None, "threads", "synchronous", "processes"])
def test_every_task_has_an_outcome_in_order(scheduler) -> None:
    told = []
    outcomes = run_tasks(
        "doubling",
        tasks(),
        scheduler=scheduler,
        workers=2,
        progress=lambda *told_: told.append(told_),
    )
    assert [outcome.name for outcome in outcomes] == [f"task {n}" for n in range(6)]
    assert [outcome.result for outcome in outcomes] == [0, 2, 4, None, None, 10]
    assert [outcome.kind for outcome in outcomes] == [
        None,
        None,
        None,
        "image_missing",
        "unexpected",
        None,
    ]
    assert outcomes[3].reason == "no image 3"
    assert outcomes[4].reason == "ZeroDivisionError: four"
    assert told[0] == ("doubling", 0, 6)
    assert told[-1] == ("doubling", 6, 6)


def test_a_full_disk_stops_everything() -> None:
    with pytest.raises(StorageFull, match="no room for"):
        run_tasks("filling", tasks(fill_disk), scheduler="synchronous")


def test_no_tasks_is_no_work() -> None:
    assert run_tasks("nothing", [], scheduler="not even looked at") == []


def test_what_is_no_scheduler_is_refused() -> None:
    with pytest.raises(UsageError, match="'thread' is no scheduler: use threads, processes"):
        run_tasks("doubling", tasks(), scheduler="thread")


def test_worker_count_is_what_the_process_may_use() -> None:
    assert 1 <= worker_count() <= (os.cpu_count() or 1)


def test_a_cluster_runs_tasks_and_survives_a_dead_worker() -> None:
    distributed = pytest.importorskip("distributed")
    import dask

    quiet = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.logging.distributed": "critical",
    }
    with (
        dask.config.set(quiet),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        outcomes = run_tasks("doubling", tasks(), scheduler=client)
        assert [outcome.result for outcome in outcomes] == [0, 2, 4, None, None, 10]
        by_address = run_tasks("doubling", tasks(count=2), scheduler=cluster.scheduler_address)
        assert [outcome.result for outcome in by_address] == [0, 2]
        dead = run_tasks("dying", tasks(die, count=1), scheduler=client)
        assert dead[0].kind == "worker_died"
        assert "KilledWorker" in (dead[0].reason or "")
