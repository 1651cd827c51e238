"""The commands that look at a store and mend it: ``inventory`` and ``repair``."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from idfzarr.cli_options import AsJson, Quiet, Store, Workers, bars, say
from idfzarr.errors import StoreMissing, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from idfzarr.care.finding import Level
    from idfzarr.care.inventory import Inventory
    from idfzarr.care.quarantine import Batch as Kept
    from idfzarr.care.repair_plan import RepairPlan, RepairReport

__all__ = ["inventory", "repair"]

_LEFT = "cleaning leaves"
_DAYS = {"": 1.0, "d": 1.0, "h": 1 / 24, "w": 7.0}
_LEVEL_HELP = "How deep to look: listing, structure, scrub (every checksum) or full (every value)"


Batch = Annotated[
    str | None,
    typer.Argument(help="With --restore: one batch of the quarantine.", show_default=False),
]
Depth = Annotated[
    str | None,
    typer.Option(help=f"{_LEVEL_HELP}; structure, and scrub to clean up what is corrupt."),
]
Sample = Annotated[str | None, typer.Option(help="Read this part of the shards only, as 5%.")]
Csv = Annotated[Path | None, typer.Option(help="Write the findings to this file, a row each.")]
Html = Annotated[Path | None, typer.Option(help="Write a page with pictures to this file.")]
History = Annotated[bool, typer.Option("--history", help="Say when each shard was last read well.")]
Temp = Annotated[
    bool, typer.Option("--cleanup-temp", help="Move what dead writers left behind to quarantine.")
]
Corrupt = Annotated[
    bool, typer.Option("--cleanup-corrupt", help="Move corrupt shards to quarantine.")
]
Incomplete = Annotated[
    bool, typer.Option("--cleanup-incomplete", help="Move what was built in part to quarantine.")
]
All = Annotated[bool, typer.Option("--cleanup-all", help="All three.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be moved or removed, and why.")
]
Restore = Annotated[
    bool, typer.Option("--restore", help="Bring back what is in quarantine, all or one BATCH.")
]
Purge = Annotated[
    bool, typer.Option("--purge-quarantine", help="Remove old batches of quarantine for good.")
]
OlderThan = Annotated[
    str | None, typer.Option(help="Age of what is purged, as 30d, 12h or 2w (30d).")
]


def inventory(  # one parameter an option
    store: Store,
    batch: Batch = None,
    level: Depth = None,
    sample: Sample = None,
    as_json: AsJson = False,
    csv: Csv = None,
    html: Html = None,
    history: History = False,
    cleanup_temp: Temp = False,
    cleanup_corrupt: Corrupt = False,
    cleanup_incomplete: Incomplete = False,
    cleanup_all: All = False,
    dry_run: DryRun = False,
    restore: Restore = False,
    purge_quarantine: Purge = False,
    older_than: OlderThan = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Say what is wrong with a store, and where; it is only read.

    The cleanup options move files to the quarantine beside the store, from where --restore brings
    them back. The code is 0 where nothing is wrong, 1 where something is.
    """
    cleanup = {
        "--cleanup-temp": cleanup_temp,
        "--cleanup-corrupt": cleanup_corrupt,
        "--cleanup-incomplete": cleanup_incomplete,
        "--cleanup-all": cleanup_all,
    }
    looks = {"--level": level, "--sample": sample, "--csv": csv, "--html": html}
    asked = cleanup | looks | {"--history": history, "--restore": restore}
    asked |= {"--purge-quarantine": purge_quarantine, "--dry-run": dry_run}
    asked |= {"--older-than": older_than, "BATCH": batch}
    _agree({name for name, value in asked.items() if value not in {None, False}})
    if restore or purge_quarantine or history:
        _must_be(store)
    cleanings = tuple(name for name, value in cleanup.items() if value)
    look = _Look(store, level, sample, workers, quiet=quiet or as_json)
    if restore:
        _restore(store, batch, dry_run=dry_run, as_json=as_json)
    elif purge_quarantine:
        _purge(store, older_than or "30d", dry_run=dry_run, as_json=as_json)
    elif history:
        _history(store, as_json=as_json)
    elif cleanings:
        _clean(look, cleanings, dry_run=dry_run, as_json=as_json)
    else:
        _report(look, csv, html, as_json=as_json)


def repair(
    store: Store,
    apply: Annotated[bool, typer.Option("--apply", help="Carry the plan out.")] = False,
    images: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder of the mosaics, if they are not where they were; of files of skycells.",
        ),
    ] = None,
    mirror: Annotated[
        list[str] | None,
        typer.Option(
            "--mirror", help="For skycells, an address with {path} or {file} (repeatable)."
        ),
    ] = None,
    accept_loss: Annotated[
        bool,
        typer.Option("--accept-loss", help="Mark as lost, too, what the plan did not foresee."),
    ] = False,
    level: Annotated[str, typer.Option(help=f"{_LEVEL_HELP}.")] = "scrub",
    workers: Workers = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Plan how to mend a store, and with --apply mend it.

    Nothing is deleted: original bytes go to the quarantine beside the store. Intact chunks are
    kept, damaged lightcurves measured again from the mosaics, damaged skycells fetched again, and
    what cannot be mended is marked lost.
    """
    from idfzarr.care.plan_text import plan_text, report_text
    from idfzarr.care.repair import plan_repair

    look = _Look(store, level, None, workers, quiet=quiet or as_json)
    plan = plan_repair(
        look.take("scrub"), images=images, mirrors=mirror or None, accept_loss=accept_loss
    )
    if not apply:
        words = ["idfzarr", "repair", str(store), "--apply"]
        words += ["--from", str(images)] if images else []
        words += [word for one in mirror or () for word in ("--mirror", one)]
        words += ["--accept-loss"] if accept_loss else []
        words += ["--level", level] if level != "scrub" else []
        say(plan.to_json() if as_json else plan_text(plan, command=shlex.join(words)))
        raise typer.Exit(1 if plan.actions or plan.lost else 0)
    report = _applied(plan, quiet=quiet or as_json)
    say(report.to_json() if as_json else report_text(report))
    raise typer.Exit(0 if report.ok and not report.lost else 1)


# -------------------------------------------------------------------- what goes together


def _agree(asked: set[str]) -> None:
    """Refuse options that contradict one another, in one sentence."""
    cleanup = {name for name in asked if name.startswith("--cleanup")}
    main = [*sorted(asked & {"--restore", "--purge-quarantine", "--history"})]
    main += ["/".join(sorted(cleanup))] if cleanup else []
    if len(main) > 1:
        msg = f"{main[0]} and {main[1]} cannot be asked for at once: give one command for each"
        raise UsageError(msg)
    chosen = main[0] if main else ""
    goes_with = {
        "--dry-run": ("--restore", "--purge-quarantine", "--cleanup"),
        "--older-than": ("--purge-quarantine",),
        "BATCH": ("--restore",),
        "--level": ("", "--cleanup"),
        "--sample": ("", "--cleanup"),
        "--csv": ("",),
        "--html": ("",),
    }
    for name, with_ in goes_with.items():
        fits = any(chosen.startswith(w) if w else not chosen for w in with_)
        if name in asked and not fits:
            if chosen:
                msg = f"{name} says nothing to {chosen}: leave one of them out"
            else:
                msg = f"{name} needs one of {', '.join(w for w in with_ if w)}: add it"
            raise UsageError(msg.replace("--cleanup:", "--cleanup-...:"))


def _fraction(text: str) -> float:
    """Return the fraction that ``5%`` or ``0.05`` says."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", text, re.ASCII)
    fraction = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < fraction <= 1:
        msg = f"--sample {text!r} is no part of a whole: write it as 5% or 0.05"
        raise UsageError(msg)
    return fraction


def _days(text: str) -> float:
    """Return the days that ``30d``, ``12h`` or ``2w`` says."""
    match = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{0,9})?)\s*([dhw]?)\s*", text, re.ASCII)
    if match is None:
        msg = f"--older-than {text!r} is no age: write it as 30d, 12h or 2w"
        raise UsageError(msg)
    return float(match[1]) * _DAYS[match[2]]


def _level(text: str) -> Level:
    from idfzarr.care.finding import LEVELS
    from idfzarr.errors import closest

    for level in LEVELS:
        if text == level:
            return level
    msg = f"--level {text!r} is unknown{closest(text, LEVELS)}; one of {', '.join(LEVELS)}"
    raise UsageError(msg)


# -------------------------------------------------------------------- what is done


@dataclass(frozen=True)
class _Look:
    """How to look at a store."""

    store: Path
    level: str | None
    sample: str | None
    workers: int | None
    quiet: bool

    def take(self, usual: str, *, history: bool = False) -> Inventory:
        """Return the inventory, at the usual level unless another was asked for.

        What only plans writes nothing, so it leaves the history of scrubs alone.
        """
        level = _level(self.level or usual)
        part = None if self.sample is None else _fraction(self.sample)
        if part is not None and level not in {"scrub", "full"}:
            msg = (
                f"--sample {self.sample} is for what reads whole shards: add --level scrub or full"
            )
            raise UsageError(msg)
        from idfzarr.care.inventory import inventory as take

        with bars(quiet=self.quiet, rate=True) as progress:
            return take(
                self.store,
                level=level,
                sample=part,
                workers=self.workers,
                history=history,
                progress=progress,
            )


def _report(look: _Look, csv: Path | None, html: Path | None, *, as_json: bool) -> None:
    from idfzarr.care.report import check_outside

    for path in (csv, html):
        if path is not None:
            check_outside(path, str(look.store))
    seen = look.take("structure", history=True)
    if csv is not None:
        seen.to_csv(csv)
    if html is not None:
        seen.to_html(html)
    if as_json:
        say(seen.to_json())
    else:
        _print(seen)
        for path in filter(None, (csv, html)):
            say(f"written: {path}")
    raise typer.Exit(seen.exit_code)


def _print(seen: Inventory) -> None:
    if not sys.stdout.isatty():
        say(str(seen))
        return
    from rich.console import Console

    from idfzarr.care.report_text import print_report

    print_report(seen, Console(highlight=False))


def _clean(look: _Look, cleanings: tuple[str, ...], *, dry_run: bool, as_json: bool) -> None:
    from idfzarr.care.cleaning import plan_cleaning
    from idfzarr.care.plan_text import plan_text, report_text

    everything = "--cleanup-all" in cleanings
    corrupt = everything or "--cleanup-corrupt" in cleanings
    plan = plan_cleaning(
        look.take("scrub" if corrupt else "structure"),
        temporary=everything or "--cleanup-temp" in cleanings,
        corrupt=corrupt,
        incomplete=everything or "--cleanup-incomplete" in cleanings,
    )
    if dry_run:
        words = ["idfzarr", "inventory", str(look.store), *cleanings]
        words += ["--level", look.level] if look.level else []
        words += ["--sample", look.sample] if look.sample else []
        command = shlex.join(words)
        say(plan.to_json() if as_json else plan_text(plan, command=command, left=_LEFT))
        raise typer.Exit(1 if plan.actions else 0)
    report = _applied(plan, quiet=look.quiet)
    say(report.to_json() if as_json else report_text(report, left=_LEFT))
    raise typer.Exit(0 if report.ok else 1)


def _applied(plan: RepairPlan, *, quiet: bool) -> RepairReport:
    with bars(quiet=quiet, rate=True) as progress:
        return plan.apply(progress=progress)


def _restore(store: Path, batch: str | None, *, dry_run: bool, as_json: bool) -> None:
    from idfzarr.care import quarantine
    from idfzarr.care.plan_text import restored_text

    if dry_run:
        batches = quarantine.list_batches(store)
        chosen = [b for b in batches if batch in {None, b.name}]
        _say_batches(store, chosen, "in quarantine", as_json=as_json)
        return
    items = quarantine.restore(store, batch)
    if as_json:
        told = [{"key": i.key, "beside": i.beside, "n_bytes": i.size} for i in items]
        say(json.dumps({"url": str(store), "restored": told}, indent=2))
    else:
        say(restored_text(str(store), items))


def _purge(store: Path, older_than: str, *, dry_run: bool, as_json: bool) -> None:
    from idfzarr.care import quarantine
    from idfzarr.care.plan_text import purged_text

    days = _days(older_than)
    if dry_run:
        latest = time.time() - days * 86400
        old = [b for b in quarantine.list_batches(store) if b.when <= latest]
        _say_batches(store, old, "would be removed for good", as_json=as_json)
        return
    gone = quarantine.purge(store, days)
    if as_json:
        told = [batch.to_dict() for batch in gone]
        say(json.dumps({"url": str(store), "purged": told}, indent=2))
    else:
        say(purged_text(str(store), gone))


def _must_be(store: Path) -> None:
    """Refuse a name at which there is neither a store nor a quarantine."""
    if not store.exists() and not Path(f"{store}.quarantine").is_dir():
        msg = f"there is no store at {store}, and no quarantine beside it: give another path"
        raise StoreMissing(msg)


def _say_batches(store: Path, batches: Sequence[Kept], what: str, *, as_json: bool) -> None:
    from idfzarr.care.plan_text import batches_text

    if as_json:
        told = {"url": str(store), "batches": [batch.to_dict() for batch in batches]}
        say(json.dumps(told, indent=2))
    else:
        say(batches_text(str(store), batches, what))


def _history(store: Path, *, as_json: bool) -> None:
    from idfzarr.care.history_text import read_since

    seen = read_since(store)
    say(json.dumps(seen.to_dict(), indent=2) if as_json else seen.to_text())
    raise typer.Exit(1 if seen.damaged else 0)
