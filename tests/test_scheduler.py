"""Tasks: every one is accounted for, wherever it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from idfzarr.build.scheduler import Task, pool_of_workers, run_tasks, worker_count
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


# ---------------------------------------------------------------- workers that outlive a step


def own_process(_: int) -> int:
    return os.getpid()


def handler(_: int) -> object:
    return signal.getsignal(signal.SIGINT)


def test_processes_outlive_a_step_and_leave_ctrl_c_to_their_parent() -> None:
    with pool_of_workers("processes", 1) as pool:
        first, second = (
            run_tasks("asking", [Task("pid", own_process, (0,))], scheduler=pool) for _ in range(2)
        )
        asked = run_tasks("asking", [Task("handler", handler, (0,))], scheduler=pool)
    assert first[0].result == second[0].result != os.getpid()
    assert asked[0].result == signal.SIG_IGN
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.executor.submit(own_process, 0)


def test_a_pool_has_as_many_threads_as_asked_for() -> None:
    with pool_of_workers(None, 3) as pool:
        assert (pool.kind, pool.workers) == ("threads", 3)
        assert [o.result for o in run_tasks("doubling", tasks(count=2), scheduler=pool)] == [0, 2]
    for other in ("synchronous", "tcp://nowhere:1"):
        with pool_of_workers(other) as same:
            assert same == other


def test_what_is_under_way_has_ended_when_an_interrupt_comes_through() -> None:
    at_work, begun, ended = threading.Event(), [], []

    def slow(number: int) -> None:
        begun.append(number)
        at_work.set()
        time.sleep(0.3)
        ended.append(number)

    def interrupt(number: int) -> None:
        at_work.wait(20)
        raise KeyboardInterrupt("stop here")

    work = [Task("slow", slow, (0,)), Task("interrupt", interrupt, (1,))]
    work += [Task("never", slow, (k,)) for k in range(2, 9)]
    with pytest.raises(KeyboardInterrupt, match="stop here"):
        run_tasks("stopping", work, scheduler="threads", workers=2)
    assert sorted(ended) == sorted(begun)
    assert ended
    known = list(begun)
    time.sleep(0.5)
    assert begun == known


INTERRUPTED = """
import concurrent.futures.thread as threads
import weakref
from idfzarr.build.scheduler import Task, run_tasks

class Moment(weakref.WeakKeyDictionary):
    def __setitem__(self, thread, queue):
        raise KeyboardInterrupt  # it runs, and the interpreter does not know of it yet

threads._threads_queues = Moment()
run_tasks("doubling", [Task("one", abs, (-1,))], scheduler="threads")
"""


def test_ctrl_c_while_a_thread_is_started_ends_the_process() -> None:
    source = str(Path(sys.modules["idfzarr"].__file__).parents[1])
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode in {130, -signal.SIGINT}
    assert "KeyboardInterrupt" in ended.stderr
