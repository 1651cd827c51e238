"""An inventory for people at a terminal: a verdict, what was found, groups, and a small map."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from idfzarr.care.completeness import map_lines
from idfzarr.care.report_words import (
    alike,
    counted,
    kind_words,
    rate_text,
    size_text,
    verdict,
    visible,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from idfzarr.care.finding import Finding
    from idfzarr.care.inventory import Group, Inventory
    from idfzarr.care.report_words import Alike

__all__ = ["print_report", "text"]

_SHOWN = 20
_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}


def text(inventory: Inventory, *, width: int = 100, shown: int = _SHOWN) -> str:
    """Return an inventory as people read it, without colours.

    Parameters
    ----------
    inventory
        Of a store.
    width
        Characters of a line.
    shown
        Findings of one kind that are told before the rest are only counted.

    Returns
    -------
    str
        The verdict first; no line ends in spaces.
    """
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=False)
    print_report(inventory, console, shown=shown)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def print_report(inventory: Inventory, console: Console, *, shown: int = _SHOWN) -> None:
    """Print an inventory on a rich console; see `text`."""
    from rich.text import Text

    # Text, never markup: names in a store may hold square brackets
    worst = next((s for s in _STYLES if any(f.severity == s for f in inventory.findings)), "")
    style = _STYLES.get(worst, "bold green") if worst != "note" else "bold green"
    head = Text(f"{visible(inventory.url)}: ")
    head.append(verdict(inventory), style=style)
    console.print(head, soft_wrap=True)
    for line in facts(inventory):
        console.print(Text(f"  {line}"), soft_wrap=True, highlight=False)
    for group in alike(inventory.findings):
        console.print()
        _print_alike(group, console, shown)
    if inventory.groups:
        console.print()
        console.print(_group_table(inventory.groups))
    lines = map_lines(inventory.completeness, width=min(console.width, 110) - 2)
    if lines:
        console.print()
        console.print(Text("  what is there"), style="bold")
        for line in lines:
            console.print(Text(f"  {line}"), soft_wrap=True)


def facts(inventory: Inventory) -> Iterator[str]:
    """Yield what was looked at, and how: one or two lines."""
    what = {"cube": "cube", "zarr3": "Zarr v3 store", "zarr2": "Zarr v2 store"}
    what |= {"skycells": "skycells", "skycells_old": "skycells in an earlier layout"}
    parts = [what.get(inventory.store_kind, inventory.store_kind)]
    if inventory.uuid:
        parts.append(f"uuid {visible(inventory.uuid, at_most=60)}")
    if inventory.generation is not None:
        parts.append(f"generation {inventory.generation}")
    yield ", ".join(parts)
    level = f"level {inventory.level}"
    if inventory.sampled is not None and inventory.sampled < 1:
        level += f", a sample of {inventory.sampled:.3g} of the shards"
    amount = f"{counted(inventory.n_files, 'file')}, {size_text(inventory.n_bytes)} on disk"
    rate = rate_text(inventory.n_read, inventory.seconds)
    read = f"read {size_text(inventory.n_read)} in {inventory.seconds:.2f} s"
    yield f"{level}: {amount}; {read}" + (f" ({rate})" if rate else "")


def _print_alike(group: Alike, console: Console, shown: int) -> None:
    from rich.table import Table
    from rich.text import Text

    count = len(group.findings)
    head = Text()
    head.append(f"{group.severity:<8}", style=_STYLES[group.severity])
    head.append(f"{kind_words(group.kind)} ({count:,})", style="bold")
    head.append(f": {group.meaning}")
    console.print(head)
    console.print(Text(f"        remedy: {visible(group.remedy)}"), style="dim")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(width=6)
    table.add_column(overflow="fold", max_width=max(24, console.width // 2 - 8))
    table.add_column(overflow="fold")
    for one in group.findings[:shown]:
        table.add_row("", Text(visible(str(one.where))), Text(_said(one)))
    console.print(table)
    if count > shown:
        console.print(Text(f"        … and {count - shown:,} more; --json has all"), style="dim")


def _said(one: Finding) -> str:
    sure = "" if one.sure == "certain" else f" ({one.sure})"
    return visible(one.message) + sure


def _group_table(groups: tuple[Group, ...]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=True, padding=(0, 1))
    table.add_column("group", overflow="fold")
    table.add_column("dims", overflow="fold")
    for name in ("arrays", "files", "on disk", "logical", "complete"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for group in groups:
        table.add_row(
            Text(visible(group.name, at_most=60)),
            Text(visible(group.dims_text, at_most=60)),
            f"{group.n_arrays:,}",
            f"{group.n_files:,}",
            size_text(group.n_bytes),
            size_text(group.n_logical),
            complete_text(group),
            Text(states_text(group)),
        )
    return table


def complete_text(group: Group) -> str:
    """Return which part of a group's chunks is there, never rounded up to all of them."""
    if not group.n_expected_chunks:
        return "-"
    fraction = group.n_present_chunks / group.n_expected_chunks
    return "100%" if fraction >= 1 else f"{min(99.9, int(fraction * 1000) / 10):.1f}%"


def states_text(group: Group) -> str:
    """Return what is the matter with a group, as ``2 corrupt, 1 stale``; healthy without any."""
    return ", ".join(f"{n:,} {state}" for state, n in group.states.items() if n) or "healthy"
