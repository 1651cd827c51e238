"""The command ``stats``: the most variable objects, and their statistics computed anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from idfzarr.cli_options import AsJson, Quiet, Store, Workers, bars, say

__all__ = ["stats"]

_COLUMNS = "Statistics to list, with commas, or all."
_RELATIVE = "Rank by how far it stands above objects as bright, in units of their scatter."
_ABOVE = "List all whose statistic (excess, with --relative) is beyond this, not only --top."
_EVERY = "Count an object by the channel in which it varies least: no cosmic rays."
_PERIODS = "With --update: look for periods in candidates (score 5 or more), all or none."


def stats(  # one parameter an option
    store: Store,
    top: Annotated[
        int | None, typer.Option(help="How many objects to list (20).", min=1, show_default=False)
    ] = None,
    by: Annotated[str, typer.Option(help="The statistic to rank by.")] = "score",
    type_: Annotated[
        str | None,
        typer.Option("--type", help="Types to rank, name or glob; with --update, for periods too."),
    ] = None,
    relative: Annotated[bool, typer.Option("--relative", help=_RELATIVE)] = False,
    above: Annotated[float | None, typer.Option(help=_ABOVE, show_default=False)] = None,
    every_channel: Annotated[bool, typer.Option("--every-channel", help=_EVERY)] = False,
    snr: Annotated[
        float, typer.Option(help="Only objects of this S/N in one measurement.", min=0.0)
    ] = 0.0,
    complete: Annotated[
        float, typer.Option(help="Only lightcurves of which this part is good.", min=0.0, max=1.0)
    ] = 0.5,
    columns: Annotated[str | None, typer.Option(help=_COLUMNS, show_default=False)] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Write the list there too.", show_default=False)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of --csv.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Compute the statistics anew first.")
    ] = False,
    periods: Annotated[str | None, typer.Option(help=_PERIODS, show_default=False)] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="With --update: as for build.", show_default=False)
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """List the most variable objects.

    The statistics stand in the store since its build; after an append they cover the AORs of
    before, and --update computes them anew.
    """
    from idfzarr.analysis.ranking import rank_store

    _refuse(csv, periods, overwrite=overwrite, update=update)
    if update:
        _update(
            store,
            {"periods": periods or "candidates", "types": type_},
            {"scheduler": scheduler, "workers": workers},
            quiet=quiet or as_json,
        )
    table = rank_store(
        store,
        top=top,
        by=by,
        types=type_,
        least_signal=snr,
        least_complete=complete,
        relative=relative,
        above=above,
        every_channel=every_channel,
        columns=None if columns is None else [name.strip() for name in columns.split(",")],
    )
    if csv is not None:
        csv.write_text(table.to_csv(), encoding="utf-8")
    say(json.dumps(table.to_dict(), indent=2, allow_nan=False) if as_json else table.to_text())


def _refuse(csv: Path | None, periods: str | None, *, overwrite: bool, update: bool) -> None:
    """Refuse before anything is computed."""
    from idfzarr.errors import StoreExists, UsageError

    if periods is not None and not update:
        msg = "--periods says what --update looks for: give --update too"
        raise UsageError(msg)
    if csv is not None and csv.exists() and not overwrite:
        msg = f"{csv} exists already; choose another file, or pass --overwrite"
        raise StoreExists(msg)


def _update(store: Path, what: dict[str, Any], where: dict[str, Any], *, quiet: bool) -> None:
    from idfzarr.build.refresh import update_variability

    with bars(quiet=quiet) as progress:
        update_variability(store, **what, **where, progress=progress)
