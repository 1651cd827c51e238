"""Run tasks with Dask: threads, processes, or a cluster, and say what became of each.

A task is a function of picklable arguments that owns whatever it writes and can be run again. The
scheduler knows nothing of images or stores.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask
from dask.callbacks import Callback
from dask.multiprocessing import get_context, initialize_worker_process

from idfzarr.errors import IdfzarrError, StorageFull, UsageError
from idfzarr.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Outcome", "Task", "WorkerPool", "pool_of_workers", "run_tasks", "worker_count"]

logger = logging.getLogger(__name__)

_POOLED = ("threads", "processes")
_LOCAL = (*_POOLED, "synchronous")


@dataclass(frozen=True)
class Task:
    """A function with its arguments, and the name it goes by in reports."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its result, or why there is none."""

    name: str
    result: Any = None
    kind: str | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the task ended well."""
        return self.kind is None


def worker_count() -> int:
    """Return how many tasks run at once on this machine: the processors we may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return max(1, os.cpu_count() or 1)


@dataclass(frozen=True)
class WorkerPool:
    """Threads or processes of this machine that run the tasks of more than one step.

    Attributes
    ----------
    kind
        ``threads`` or ``processes``.
    executor
        They themselves.
    workers
        How many there are.
    """

    kind: str
    executor: Executor
    workers: int


@contextmanager
def pool_of_workers(scheduler: Any, workers: int | None = None) -> Iterator[Any]:
    """Yield what `run_tasks` takes for its scheduler, with workers that outlive a step.

    Parameters
    ----------
    scheduler, workers
        See `run_tasks`.

    Yields
    ------
    WorkerPool or other
        Threads or processes; any other scheduler as it was given.

    Notes
    -----
    At the end, whatever ended it, tasks not begun are dropped and those under way waited for: what
    writes into a store has stopped when this returns. Dask's own pools would be left to the
    interpreter's exit, which waits for ever for a thread that was being started when Ctrl-C came.
    """
    kind = "threads" if scheduler is None else scheduler
    if isinstance(kind, WorkerPool) or kind not in _POOLED:
        yield scheduler
        return
    number = workers or worker_count()
    executor: Executor
    if kind == "threads":
        executor = ThreadPoolExecutor(number, thread_name_prefix="idfzarr-task")
    else:
        # Without a fixed seed, names that Dask hashes would differ between processes.
        os.environ.setdefault("PYTHONHASHSEED", "6640")
        executor = ProcessPoolExecutor(
            number, mp_context=get_context(), initializer=_begin_worker_process
        )
    try:
        yield WorkerPool(kind, executor, number)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _begin_worker_process() -> None:
    initialize_worker_process()
    # Ctrl-C reaches every process of a terminal; ours alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def run_tasks(
    label: str,
    tasks: Sequence[Task],
    *,
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress = silent,
) -> list[Outcome]:
    """Run independent tasks and collect what became of each, in their order.

    Parameters
    ----------
    label
        What the step is called where progress is shown.
    tasks
        The tasks; no two may write the same file.
    scheduler
        None or ``"threads"``, ``"processes"``, ``"synchronous"``, the address of a
        dask.distributed scheduler (``tcp://host:8786``), a ``distributed.Client``, or what
        `pool_of_workers` yields.
    workers
        How many at once on this machine; as many as there are processors unless given.
    progress
        Told after each task.

    Returns
    -------
    list of Outcome
        One for each task. A failed task does not stop the others, except that a full disk stops
        all, for every other task would fail on it too.

    Raises
    ------
    UsageError
        `scheduler` is none of the above.
    StorageFull
        A task found the disk full.
    """
    if not tasks:
        return []
    progress(label, 0, len(tasks))
    if isinstance(scheduler, WorkerPool) or scheduler is None or scheduler in _LOCAL:
        with pool_of_workers(scheduler, workers) as pool:
            outcomes = _run_local(label, tasks, pool, progress)
    else:
        outcomes = _run_cluster(label, tasks, scheduler, progress)
    for outcome in outcomes:
        if outcome.kind == StorageFull.kind:
            raise StorageFull(outcome.reason)
    return outcomes


def _attempt(task: Task) -> Outcome:
    """Run one task and turn its failure into a record: one of the two places that may."""
    try:
        return Outcome(task.name, result=task.function(*task.arguments))
    except IdfzarrError as error:
        return Outcome(task.name, kind=error.kind, reason=str(error))
    except OSError as error:  # the machine's word, not our mistake: no traceback
        return Outcome(task.name, kind="os", reason=str(error))
    except Exception as error:
        logger.exception("task %s failed", task.name)
        return Outcome(task.name, kind="unexpected", reason=f"{type(error).__name__}: {error}")


def _count(label: str, total: int, progress: Progress) -> Callback:
    """Return what tells `progress` of every task the local scheduler ends."""
    ended = itertools.count(1)

    def posttask(*_: object) -> None:
        progress(label, min(next(ended), total), total)

    return Callback(posttask=posttask)


def _run_local(
    label: str, tasks: Sequence[Task], pool: WorkerPool | str, progress: Progress
) -> list[Outcome]:
    delayed = [dask.delayed(_attempt, pure=False)(_Opaque(task)) for task in tasks]
    how: dict[str, Any] = {"scheduler": pool}
    if isinstance(pool, WorkerPool):
        # One task at a time to a worker: they are long, and few.
        how = {"scheduler": pool.kind, "pool": pool.executor, "chunksize": 1}
    with _count(label, len(tasks), progress):
        results = dask.compute(*delayed, optimize_graph=False, **how)
    return list(results)


class _Opaque:
    """Keeps Dask from walking into a task's arguments in search of other tasks."""

    def __init__(self, task: Task) -> None:
        self.name, self.function, self.arguments = task.name, task.function, task.arguments


def _run_cluster(
    label: str, tasks: Sequence[Task], scheduler: Any, progress: Progress
) -> list[Outcome]:
    from distributed import Client, as_completed

    if isinstance(scheduler, Client):
        client, ours = scheduler, False
    elif isinstance(scheduler, str) and "://" in scheduler:
        try:
            client, ours = Client(scheduler, timeout="10s"), True
        except OSError as error:
            msg = f"no dask scheduler answers at {scheduler!r}: start one with 'dask scheduler'"
            raise UsageError(msg) from error
    else:
        msg = (
            f"{scheduler!r} is no scheduler: use threads, processes, synchronous, "
            "an address such as tcp://host:8786, or a distributed.Client"
        )
        raise UsageError(msg)
    try:
        futures = [client.submit(_attempt, task, pure=False) for task in tasks]
        for done, _ in enumerate(as_completed(futures), start=1):
            progress(label, done, len(tasks))
        return [_collect(task, future) for task, future in zip(tasks, futures, strict=True)]
    finally:
        if ours:
            client.close()


def _collect(task: Task, future: Any) -> Outcome:
    """Return a future's outcome; a worker that died is an outcome too."""
    error = future.exception()
    if error is not None:
        return Outcome(task.name, kind="worker_died", reason=f"{type(error).__name__}: {error}")
    outcome: Outcome = future.result()
    return outcome
