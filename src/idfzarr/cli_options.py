"""What several commands share: options that mean the same everywhere, and progress on stderr."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idfzarr.progress import Progress

__all__ = ["AsJson", "Quiet", "Store", "Workers", "bars", "say"]

_IN_BYTES = {"scrub"}
_OFTEN = 0.05  # seconds between two drawings of one bar

Store = Annotated[
    Path, typer.Argument(help="The store, for example field.zarr.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Workers = Annotated[
    int | None, typer.Option(help="Tasks at once; the processors there are.", min=1)
]


def say(text: str) -> None:
    """Print a result on stdout, whatever characters the terminal knows.

    Parameters
    ----------
    text
        Lines.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    typer.echo(text.encode(encoding, errors="replace").decode(encoding))


@contextmanager
def bars(*, quiet: bool, rate: bool = False) -> Iterator[Progress]:
    """Draw a bar on stderr for every label that reports itself.

    Parameters
    ----------
    quiet
        Draw nothing.
    rate
        Show how many parts a second; a scrub counts bytes.

    Yields
    ------
    Progress
        What to hand on.
    """
    from idfzarr.progress import silent

    if quiet:
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    counts = TextColumn("{task.fields[told]}") if rate else MofNCompleteColumn()
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=32),
        counts,
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as drawn:
        known: dict[str, Any] = {}
        drawn_at: dict[str, float] = {}
        lock = Lock()

        def progress(label: str, done: int, total: int) -> None:
            now = monotonic()
            with lock:  # called from any thread, and for every few kilobytes
                if now - drawn_at.get(label, 0.0) < _OFTEN and done < total:
                    return
                drawn_at[label] = now
                if label not in known:
                    known[label] = drawn.add_task(label, total=total, told="", started=now)
                task = drawn.tasks[known[label]]
                told = _told(label, done, total, now - task.fields["started"]) if rate else ""
                drawn.update(known[label], completed=done, total=total, told=told)

        yield progress


def _told(label: str, done: int, total: int, seconds: float) -> str:
    """Return how much of how much, and how fast."""
    per_second = done / seconds if seconds > 0 else 0.0
    if label in _IN_BYTES:
        return f"{done / 1e6:,.1f}/{total / 1e6:,.1f} MB  {per_second / 1e6:,.0f} MB/s"
    rate = f"  {per_second:,.0f}/s" if per_second else ""  # none for what was told only once
    return f"{done:,}/{total:,}{rate}"
