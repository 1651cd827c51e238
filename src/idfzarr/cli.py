"""The command line: parse, one call, render. Results go to stdout, progress to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from idfzarr.cli_care import inventory, repair
from idfzarr.cli_extract import extract, migrate
from idfzarr.cli_options import AsJson, Quiet, Store, Workers, bars
from idfzarr.cli_ps1 import fetch
from idfzarr.cli_stats import stats
from idfzarr.cli_view import view
from idfzarr.errors import IdfzarrError, UsageError

__all__ = ["app", "main"]

app = typer.Typer(
    name="idfzarr",
    help="Lightcurves of a fixed field in one Zarr cube.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

INTERRUPTED = 130

Scheduler = Annotated[
    str | None,
    typer.Option(help="threads, processes, synchronous, or a Dask address (tcp://host:8786)."),
]
Codec = Annotated[str | None, typer.Option(help="lz4 (the default), zstd or none.")]
Precision = Annotated[
    bool | None,
    typer.Option("--precision/--lossless", help="Drop bits below 1/100 of the error bar."),
]
ShardObjects = Annotated[int | None, typer.Option(help="Objects in one shard (128).", min=1)]
Text = str | None
_COLUMNS = "Types and their columns: auto=FLUX_AUTO:FLUXERR_AUTO:FLAGS,aper2=MAG_APER[1]."
_NAMES = "File names, with {aor}, {channel} and {image} where they vary."


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"idfzarr {installed('idfzarr')}")
        raise typer.Exit
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(name)s: %(message)s", stream=sys.stderr)


@app.command()
def simulate(
    folder: Annotated[Path, typer.Argument(help="Where the mosaics go.", show_default=False)],
    aors: Annotated[int, typer.Option(help="Number of AORs.", min=1)] = 64,
    objects: Annotated[int, typer.Option(help="Number of stars and galaxies.", min=1)] = 600,
    size: Annotated[int, typer.Option(help="Pixels on a side.", min=64)] = 512,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 1,
    psf_folder: Annotated[
        Path | None,
        typer.Option(
            help="Measured IRAC PSFs (irac_ch1_warm_psf.fits, ...); those in irac_psf below "
            "$IDFZARR_DATA where that is set, else a model."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier simulation there.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Simulate a field with known answers, as FITS mosaics, an AOR table and the truth."""
    from idfzarr.imaging.simulate import simulate as make

    with bars(quiet=quiet) as progress:
        simulation = make(
            folder,
            aors=aors,
            objects=objects,
            size=size,
            seed=seed,
            psf_folder=psf_folder or _measured_psfs(),
            overwrite=overwrite,
            progress=progress,
        )
    seen = f"{simulation.n_objects} objects in {simulation.n_aors} AORs, {simulation.psf} PSF"
    typer.echo(f"{seen}: {folder}")
    typer.echo(f"next: idfzarr build {folder} {folder}.zarr")


@app.command()
def build(  # one parameter an option
    images: Annotated[Path, typer.Argument(help="Folder of mosaics.", show_default=False)],
    store: Store,
    types: Annotated[
        str | None,
        typer.Option(help="Globs over the default types, or names of any others, with commas."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="File names, with {aor}, {channel} and {kind} where they vary."),
    ] = None,
    kinds: Annotated[
        str | None, typer.Option(help="Words for the kinds, as sci=sub2d,unc=unc2d.")
    ] = None,
    channel: Annotated[
        str | None, typer.Option(help="The channel, where file names do not say it.")
    ] = None,
    aor_table: Annotated[
        Path | None,
        typer.Option(help="Table of reqkey, group_name, mjd, exptime; else times from headers."),
    ] = None,
    sky: Annotated[
        str | None,
        typer.Option(help="Background: plane, mesh, or auto (mesh for frames without WCS)."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Detection threshold on the superstack, in sigma (4).", min=0.1),
    ] = None,
    min_coverage: Annotated[
        float | None,
        typer.Option(help="Fraction of the AORs that must cover an object.", min=0.0, max=1.0),
    ] = None,
    codec: Codec = None,
    precision: Precision = None,
    shard_objects: ShardObjects = None,
    replace_aor: Annotated[
        list[str] | None,
        typer.Option("--replace", help="Measure this AOR of a finished cube again (repeatable)."),
    ] = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a folder of mosaics into a cube of lightcurves.

    Run it again and it goes on where it was; a finished build says so and changes nothing. AORs
    that a finished cube has not are appended; --types adds types that it has not.
    """
    from idfzarr.build.pipeline import build as run

    with bars(quiet=quiet or as_json) as progress:
        report = run(
            images,
            store,
            types=types,
            pattern=pattern,
            kinds=_pairs(kinds, "--kinds", "sci=sub2d,unc=unc2d"),
            channel=channel,
            aor_table=aor_table,
            sky=sky,
            threshold=threshold,
            min_coverage=min_coverage,
            codec=codec,
            precision=precision,
            shard_objects=shard_objects,
            replace_aors=tuple(replace_aor or ()),
            scheduler=scheduler,
            workers=workers,
            progress=progress,
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        typer.echo(report.to_text())
    raise typer.Exit(0 if report.ok else 1)


@app.command("import")
def import_(  # one parameter an option
    tables: Annotated[Path, typer.Argument(help="Folder of catalogues.", show_default=False)],
    store: Store,
    columns: Annotated[Text, typer.Option(help=_COLUMNS)] = None,
    pattern: Annotated[Text, typer.Option(help=_NAMES)] = None,
    images: Annotated[Text, typer.Option(help="Words for {image}: sci=original,lac=clean.")] = None,
    channel: Annotated[Text, typer.Option(help="Where file names do not say it.")] = None,
    objects: Annotated[Path | None, typer.Option(help="Table of object_id, ra, dec.")] = None,
    match: Annotated[Text, typer.Option(help="id or sky; sky with --objects.")] = None,
    match_radius: Annotated[float, typer.Option(help="Arc seconds.")] = 1.0,
    object_id: Annotated[Text, typer.Option(help="Column of the ids; NUMBER, id...")] = None,
    aor_table: Annotated[
        Path | None, typer.Option(help="Of reqkey, group_name, mjd; else times of the tables.")
    ] = None,
    time_column: Annotated[Text, typer.Option(help="Column or metadata of the MJD.")] = None,
    unit: Annotated[Text, typer.Option(help="Of flux columns without one, as uJy.")] = None,
    mag_zeropoint: Annotated[float, typer.Option(help="Magnitude of 1 uJy; 23.9 is AB.")] = 23.9,
    count_zeropoint: Annotated[
        float | None, typer.Option(help="AB magnitude of one count (MAG_ZEROPOINT).")
    ] = None,
    radii: Annotated[Text, typer.Option(help="Of FLUX_APER in pixels, as 2,3.5.")] = None,
    flags: Annotated[str, typer.Option(help="auto, sextractor or external.")] = "auto",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Find zero points by the stars themselves.")
    ] = False,
    codec: Codec = None,
    precision: Precision = None,
    shard_objects: ShardObjects = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a folder of photometry catalogues, one per AOR, into a cube of lightcurves.

    Run it again and it goes on where it was; a finished import says so and changes nothing.
    """
    from idfzarr.build.importer import import_tables

    options: dict[str, Any] = {
        "columns": _pairs(columns, "--columns", "auto=FLUX_AUTO:FLUXERR_AUTO"),
        "pattern": pattern,
        "images": _pairs(images, "--images", "sci=original,lac=clean"),
        "channel": channel,
        "objects": objects,
        "match": match,
        "match_radius": match_radius,
        "object_id": object_id,
        "aor_table": aor_table,
        "time_column": time_column,
        "unit": unit,
        "mag_zeropoint": mag_zeropoint,
        "count_zeropoint": count_zeropoint,
        "radii": _numbers(radii),
        "flags": flags,
        "calibrate": calibrate,
        "codec": codec or "lz4",
        "precision": bool(precision),
        "shard_objects": shard_objects or 128,
    }
    with bars(quiet=quiet or as_json) as progress:
        report = import_tables(
            tables, store, **options, scheduler=scheduler, workers=workers, progress=progress
        )
    typer.echo(json.dumps(report.to_dict(), indent=2) if as_json else report.to_text())
    raise typer.Exit(0 if report.ok else 1)


@app.command()
def info(store: Store, as_json: AsJson = False) -> None:
    """Say what a store holds: sizes, channels, types, time span, layout, completeness."""
    from idfzarr.store.summary import summarise

    summary = summarise(store)
    typer.echo(json.dumps(summary.to_dict(), indent=2) if as_json else summary.to_text())


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Argument(help="Where the demonstration goes; new, or one it made before.")
    ] = Path("idfzarr-demo"),
    aors: Annotated[int, typer.Option(help="Number of AORs.", min=8)] = 64,
    objects: Annotated[int, typer.Option(help="Number of objects.", min=40)] = 600,
    size: Annotated[int, typer.Option(help="Pixels on a side.", min=128)] = 512,
    seed: Annotated[int, typer.Option(help="Same seed, same field.", min=0)] = 1,
    scheduler: Annotated[str | None, typer.Option(help="As for build.")] = None,
    look: Annotated[
        bool, typer.Option("--view", help="Open the viewer on the field at the end.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Run the main job on a simulated field: simulate, build, find the variables, draw them."""
    from idfzarr.build.demo import demonstrate

    with bars(quiet=quiet) as progress:
        demonstration = demonstrate(
            folder,
            aors=aors,
            objects=objects,
            size=size,
            seed=seed,
            scheduler=scheduler,
            progress=progress,
        )
    typer.echo(demonstration.to_text())
    if look:
        view(demonstration.store)
    raise typer.Exit(0 if demonstration.ok else 1)


app.command()(stats)
app.command()(inventory)
app.command()(repair)
app.command()(extract)
app.command()(migrate)
app.command()(fetch)
app.command()(view)


def _measured_psfs() -> Path | None:
    """Return the folder of measured PSFs among the real data, where there is any."""
    named = os.environ.get("IDFZARR_DATA")
    folder = Path(named) / "irac_psf" if named else None
    return folder if folder is not None and folder.is_dir() else None


def _pairs(text: str | None, option: str, example: str) -> dict[str, str] | None:
    """Take ``a=b,c=d`` apart."""
    if text is None:
        return None
    pairs: dict[str, str] = {}
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals or not key or not value:
            msg = f"{option} {text!r} cannot be read at {part!r}: write it as {example}"
            raise UsageError(msg)
        pairs[key] = value
    return pairs


def _numbers(text: str | None) -> list[float] | None:
    """Take ``2,3.5`` apart."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        msg = f"--radii {text!r} cannot be read: write it as 2,3.5,5"
        raise UsageError(msg) from None


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Parameters
    ----------
    arguments
        Those of the process unless given.

    Raises
    ------
    SystemExit
        Always: 0 well, 1 findings or failed tasks, 2 usage, 3 the store is missing or not one of
        ours, 130 interrupted.
    """
    try:
        app(args=arguments, prog_name="idfzarr")
    except IdfzarrError as error:
        typer.echo(f"idfzarr: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        # a folder that may not be written, a disk that fails: what the system says is the sentence
        named = f": {error.filename}" if error.filename else ""
        typer.echo(f"idfzarr: {error.strerror or error}{named}", err=True)
        raise SystemExit(1) from None
    except SystemExit as end:
        # typer turns Ctrl-C into this code without a word
        if end.code == INTERRUPTED:
            typer.echo("idfzarr: interrupted; run the same command again to go on", err=True)
        raise
