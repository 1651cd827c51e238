"""A plan, what became of it, and a quarantine, as people read them."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from idfzarr.care.report_words import counted, kind_words, size_text, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from idfzarr.care.quarantine import Batch, Item
    from idfzarr.care.repair_plan import Action, RepairPlan, RepairReport

__all__ = ["batches_text", "plan_text", "purged_text", "report_text", "restored_text"]

_SHOWN = 20
_WORDS = {
    "restore_metadata": "restore metadata",
    "note_ledger": "note in the ledger",
    "roll_forward": "finish a committed change",
    "abandon_update": "take back a change that was never committed",
    "rewrite_array": "write an array anew",
    "rewrite_shard": "write a shard anew",
    "mark_lost": "mark as lost",
    "recompute_variability": "compute the statistics anew",
    "refetch": "fetch again",
    "quarantine": "move to quarantine",
}


def plan_text(plan: RepairPlan, *, command: str, left: str = "cannot be mended") -> str:
    """Return a plan: every action with its reason and bytes, the totals, and how to go on.

    Parameters
    ----------
    plan
        Of a repair or a cleaning.
    command
        What to type to have it done.
    left
        What becomes of `plan.lost`.

    Returns
    -------
    str
        Lines; the last one is the command, unless there is nothing to do.
    """
    url = visible(plan.url)
    if not plan.actions:
        return "\n".join([f"{url}: nothing to do", *_lost(plan.lost, left)])
    lines = [f"{url}: {counted(len(plan.actions), 'action')}, nothing is done yet"]
    lines += _actions(plan.actions)
    lines += ["", *_totals(plan.actions)]
    lines += _lost(plan.lost, left)
    lines += ["", f"to do it: {command}"]
    return "\n".join(lines)


def _actions(actions: Sequence[Action]) -> Iterator[str]:
    """Yield every action; none is left out, since the plan is what is going to be done."""
    before = ""
    for action in actions:
        if action.kind != before:
            yield ""
            yield _WORDS.get(action.kind, kind_words(action.kind))
            before = action.kind
        beside = str(action.details.get("beside", ""))
        key = f"{beside}:{action.key}" if beside else action.key
        yield f"  {size_text(action.n_bytes):>9}  {visible(key)}"
        yield f"             {visible(action.reason)}"


def _totals(actions: Sequence[Action]) -> Iterator[str]:
    number = Counter(action.kind for action in actions)
    for kind in dict.fromkeys(action.kind for action in actions):
        size = sum(action.n_bytes for action in actions if action.kind == kind)
        yield f"{_WORDS.get(kind, kind_words(kind))}: {number[kind]:,}, {size_text(size)}"
    total = sum(action.n_bytes for action in actions)
    yield f"total: {counted(len(actions), 'action')}, {size_text(total)}"


def _lost(lost: Iterable[str], left: str) -> list[str]:
    all_of_them = list(lost)
    sentences = [f"  {visible(sentence)}" for sentence in all_of_them[:_SHOWN]]
    if len(all_of_them) > _SHOWN:
        sentences.append(f"  … and {len(all_of_them) - _SHOWN:,} more; --json has all")
    return ["", f"{left}:", *sentences] if sentences else []


def report_text(report: RepairReport, *, left: str = "cannot be mended") -> str:
    """Return what a repair or a cleaning did, where the quarantine is and how to undo it.

    Parameters
    ----------
    report
        Of `RepairPlan.apply`.
    left
        What becomes of `report.lost`.

    Returns
    -------
    str
        Lines; actions that failed are told last, with the reason.
    """
    url = visible(report.url)
    if not report.outcomes:
        return "\n".join([f"{url}: nothing to do", *_lost(report.lost, left)])
    number = Counter(outcome.result for outcome in report.outcomes)
    told = [f"{number['done']:,} done"]
    told += [f"{number['unneeded']:,} needed no more"] if number["unneeded"] else []
    told += [f"{number['failed']:,} FAILED"] if number["failed"] else []
    lines = [f"{url}: {', '.join(told)}"]
    for outcome in report.outcomes:
        action = outcome.action
        mark = {"done": "done", "unneeded": "none", "failed": "FAILED"}[outcome.result]
        lines.append(f"  {mark:<7}{_WORDS.get(action.kind, action.kind)}: {visible(action.key)}")
        lines.append(f"         {visible(outcome.message)}")
    moved = [
        o.action for o in report.outcomes if o.result == "done" and o.action.kind == "quarantine"
    ]
    if moved:
        size = size_text(sum(action.n_bytes for action in moved))
        lines.append(f"moved to quarantine: {counted(len(moved), 'item')}, {size}")
    lines += _lost(report.lost, left)
    lines += _lost(report.inexact, "mended, but perhaps not to the last bit")
    if report.quarantine:
        folder = f"{report.url.rstrip('/')}.quarantine/{report.quarantine}"
        lines.append(f"the original bytes lie in {visible(folder)}")
        if moved:
            back = f"idfzarr inventory {url} --restore {report.quarantine}"
            lines.append(f"to bring back what was moved: {back}")
    return "\n".join(lines)


def restored_text(url: str, items: Sequence[Item]) -> str:
    """Return what was brought back from a quarantine."""
    if not items:
        return f"{visible(url)}: there was nothing to bring back"
    total = size_text(sum(item.size for item in items))
    lines = [f"{visible(url)}: brought back {counted(len(items), 'file')}, {total}"]
    return "\n".join(lines + [f"  {size_text(i.size):>9}  {visible(i.key)}" for i in items])


def purged_text(url: str, batches: Sequence[Batch]) -> str:
    """Return which batches of a quarantine were removed."""
    if not batches:
        return f"{visible(url)}: no batch in quarantine is that old; nothing was removed"
    return batches_text(url, batches, "removed for good")


def batches_text(url: str, batches: Sequence[Batch], what: str) -> str:
    """Return batches of a quarantine, oldest first, with what became of them in a few words."""
    total = size_text(sum(batch.n_bytes for batch in batches))
    number = f"{len(batches):,} batch{'' if len(batches) == 1 else 'es'}"
    lines = [f"{visible(url)}: {number} {what}, {total}"]
    for batch in batches:
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(batch.when))
        size = f"{counted(len(batch.items), 'file')}, {size_text(batch.n_bytes)}"
        lines.append(f"  {visible(batch.name)}: {size}, from {day}")
        lines += [
            f"    {size_text(item.size):>9}  {visible(item.key)}: {visible(item.reason)}"
            for item in batch.items
        ]
    return "\n".join(lines)
