"""The commands that take out of a store and bring old ones in: ``extract`` and ``migrate``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from idfzarr.cli_options import AsJson, Quiet, Store, bars, say
from idfzarr.errors import ForeignStore, StoreMissing, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from idfzarr.care.cutout import Cutout
    from idfzarr.care.extract import Extracted, PixelForm
    from idfzarr.ps1.sky_keys import Kind

__all__ = ["extract", "migrate"]

_SKYCELL = "--skycell"

Text = str | None


SkycellName = Annotated[
    Text, typer.Option(help="A skycell, as 1405.053; a glob with --batch or --list.")
]
Band = Annotated[
    Text, typer.Option("--band", "--bands", help="One of grizy; several as gri or g,r,i.")
]
Mask = Annotated[bool, typer.Option("--mask", help="The mask, not the image.")]
Weight = Annotated[bool, typer.Option("--weight", help="The weight (a variance), not the image.")]
Batch = Annotated[
    bool, typer.Option("--batch", help="All arrays of the skycells; some with --band, --mask...")
]
List = Annotated[bool, typer.Option("--list", help="Say what is there, and what is complete.")]
Place = Annotated[
    tuple[float, float, float] | None,
    typer.Option(help="RA and DEC in degrees and the SIZE of a side in arcsec."),
]
Objects = Annotated[
    list[int] | None, typer.Option("--object", help="Object of a cube (repeatable).", min=0)
]
Where = Annotated[
    Text, typer.Option(help="Objects that meet a condition, as 'score > 5 and ch1_mag < 20'.")
]
Types = Annotated[Text, typer.Option("--type", help="Types of its lightcurves, name or glob.")]
Size = Annotated[
    float | None, typer.Option(help="With --object: a cutout of so many arcsec around it.", min=0.0)
]
ObjectsFrom = Annotated[
    Path | None,
    typer.Option(help="A list of objects: CSV, ECSV, FITS... with a column object, or one a line."),
]
Cone = Annotated[
    tuple[str, str, str] | None,
    typer.Option(help="Objects around RA DEC within RADIUS: arcsec, or as '0.5 arcmin'."),
]
Top = Annotated[int | None, typer.Option(help="So many of the most variable objects.", min=1)]
By = Annotated[Text, typer.Option(help="With --top: the statistic (score).")]
Calibrated = Annotated[
    bool, typer.Option("--calibrated", help="Lightcurves with their calibration applied.")
]
Good = Annotated[bool, typer.Option("--good", help="Without flagged measurements.")]
Mag = Annotated[bool, typer.Option("--mag", help="With magnitudes.")]
MagSystem = Annotated[Text, typer.Option("--system", help="Of --mag: AB (unless given) or Vega.")]
Format = Annotated[
    Text,
    typer.Option(
        "--format",
        help="csv, ecsv, fits, votable, parquet, or hats (a folder of partitions); of a list csv.",
    ),
]
AsServed = Annotated[
    bool, typer.Option("--as-served", help="Pixels and cards as the archive served them.")
]
Linear = Annotated[
    bool, typer.Option("--linear", help="Flux in microjansky, of a weight the error of it.")
]
Plain = Annotated[bool, typer.Option("--plain", help="Without compression.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="The file, of hats the folder; .png makes a picture."),
]
OutputDir = Annotated[
    Path | None,
    typer.Option(help="Folder of one file for each lightcurve, or of --batch (extracted_fits)."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")]


def extract(  # one parameter an option
    context: typer.Context,
    store: Store,
    skycell: SkycellName = None,
    band: Band = None,
    mask: Mask = False,
    weight: Weight = False,
    batch: Batch = False,
    list_: List = False,
    cutout: Place = None,
    object_: Objects = None,
    objects_from: ObjectsFrom = None,
    cone: Cone = None,
    top: Top = None,
    by: By = None,
    where: Where = None,
    type_: Types = None,
    size: Size = None,
    calibrated: Calibrated = False,
    good: Good = False,
    mag: Mag = False,
    system: MagSystem = None,
    format_: Format = None,
    as_served: AsServed = False,
    linear: Linear = False,
    plain: Plain = False,
    output: Output = None,
    output_dir: OutputDir = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take lightcurves, skycells or cutouts out of a store.

    Lightcurves: choose objects by --object, --objects-from, --cone, --top or --where, all unless
    given, and types by --type; without --output they are printed. Skycells come as FITS, with a
    repaired header and the survey's own scaling unless --as-served or --linear is given. The code
    is 1 where something could not be taken out.
    """
    main = _main(_asked(context))
    form: PixelForm = "served" if as_served else "linear" if linear else "asinh"
    kinds: tuple[Kind, ...] = (*(("mask",) if mask else ()), *(("weight",) if weight else ()))
    bands = None if band is None else _bands(band)
    files = _Files(output, output_dir, overwrite=overwrite, as_json=as_json, quiet=quiet)
    if list_:
        _list(_skystore(store), skycell or "*", format_, files)
    elif main in _LIGHTCURVES and size is None:
        how = {"calibrated": calibrated, "good": good, "mag": mag, "system": system or "AB"}
        ways = {"objects": object_ or objects_from, "cone": _cone(cone), "top": top, "where": where}
        chosen = {"by": by or "score", "types": type_ or "*"}
        files.lightcurves(store, format_, {**ways, **chosen, **how})
    elif main in {"--object", "--cutout"}:
        place, (ra, dec, side) = _where(store, object_, size, cutout)
        kind: Kind = kinds[0] if kinds else "image"
        files.cutout(place, ra, dec, side, bands=bands, kind=kind, compress=not plain)
    elif batch:
        files.batch(_skystore(store), skycell or "*", bands, kinds, form=form, compress=not plain)
    else:
        if bands is None or len(bands) != 1 or len(kinds) > 1:
            msg = "one array is taken out: say --band with one of grizy, or --batch for many"
            raise UsageError(msg)
        kind = kinds[0] if kinds else "image"
        files.one(_skystore(store), skycell or "", bands[0], kind, form=form, compress=not plain)


def migrate(
    old: Annotated[Path, typer.Argument(help="Store in an earlier layout.", show_default=False)],
    new: Annotated[Path, typer.Argument(help="Where the new one goes.", show_default=False)],
    keep_float32: Annotated[
        bool, typer.Option("--keep-float32", help="Never go back to the survey's integers.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Bring a store of skycells in an earlier layout into this package's own.

    The old store is only read. No pixel changes its value: the survey's integers are found again
    where they give back every value bit for bit, the others stay float32. Run it again and it goes
    on where it was. The code is 1 where something had to be left out.
    """
    from idfzarr.care.migrate import migrate as run

    with bars(quiet=quiet or as_json) as progress:
        report = run(old, new, keep_float32=keep_float32, progress=progress)
    say(json.dumps(report.to_dict(), indent=2) if as_json else report.to_text())
    raise typer.Exit(0 if report.ok else 1)


# -------------------------------------------------------------------- what goes together

_OBJECTS = ("--object", "--objects-from", "--cone", "--top", "--where")
_LIGHTCURVES = (*_OBJECTS, "--type", "--format")
_GOES_WITH = {
    "--type": _LIGHTCURVES,
    "--calibrated": _LIGHTCURVES,
    "--good": _LIGHTCURVES,
    "--mag": _LIGHTCURVES,
    "--system": _LIGHTCURVES,
    "--by": ("--top",),
    "--size": ("--object",),
    "--format": (*_LIGHTCURVES, "--list"),
    "--batch": (_SKYCELL, "--batch"),
    "--output-dir": ("--batch", *_LIGHTCURVES),
    "--as-served": (_SKYCELL, "--batch"),
    "--linear": (_SKYCELL, "--batch"),
    "--mask": (_SKYCELL, "--batch", "--cutout", "--object"),
    "--weight": (_SKYCELL, "--batch", "--cutout", "--object"),
}


_CONTRADICT = (
    ("--as-served", "--linear"),
    ("--type", "--size"),
    ("--format", "--size"),
    ("--calibrated", "--size"),
    ("--good", "--size"),
    ("--mag", "--size"),
    ("--output-dir", "--size"),
    ("--output", "--batch"),
    ("--output", "--output-dir"),
)


def _asked(context: typer.Context) -> set[str]:
    """Return the options that were typed."""
    asked = set()
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if source is not None and source.name == "COMMANDLINE" and option.opts[0].startswith("--"):
            asked.add(option.opts[0])
    return asked


def _main(asked: set[str]) -> str:
    """Return what is asked for, and refuse what contradicts itself, in one sentence."""
    chosen = [n for n in ("--list", "--cutout", *_OBJECTS) if n in asked]
    if not chosen:
        # of types alone all objects are taken
        chosen = [n for n in ("--batch", _SKYCELL, "--type", "--format") if n in asked][:1]
    if not chosen:
        ways = f"{_SKYCELL}, --batch, --cutout, --list, --type, {', '.join(_OBJECTS[:-1])}"
        msg = f"say what to take out: {ways} or {_OBJECTS[-1]}"
        raise UsageError(msg)
    if len(chosen) > 1:
        msg = f"{chosen[0]} and {chosen[1]} cannot be asked for at once: give a command for each"
        raise UsageError(msg)
    main = chosen[0]
    for name, with_ in _GOES_WITH.items():
        if name in asked and main not in with_:
            msg = f"{name} says nothing to {main}: leave one of them out"
            raise UsageError(msg)
    for one, other in _CONTRADICT:
        if {one, other} <= asked:
            msg = f"{one} and {other} contradict each other: leave one of them out"
            raise UsageError(msg)
    if "--system" in asked and "--mag" not in asked:
        msg = "--system is that of magnitudes: add --mag"
        raise UsageError(msg)
    for name in (_SKYCELL, "--band"):
        if name in asked and main in _LIGHTCURVES and (name == _SKYCELL or "--size" not in asked):
            msg = f"{name} says nothing to {main}: leave one of them out"
            raise UsageError(msg)
    if _SKYCELL in asked and main == "--cutout":
        msg = f"{_SKYCELL} says nothing to {main}: leave one of them out"
        raise UsageError(msg)
    return main


def _cone(words: tuple[str, str, str] | None) -> tuple[str, str | float] | None:
    """Return a place and a radius: a number without a unit is in arcseconds."""
    if words is None:
        return None
    try:
        return " ".join(words[:2]), float(words[2])
    except ValueError:
        return " ".join(words[:2]), words[2]


def _bands(text: str) -> tuple[str, ...]:
    """Return the bands that ``gri`` or ``g,r,i`` says."""
    letters = [letter for letter in text if letter not in ", "]
    if not letters or len(set(letters)) != len(letters):
        msg = f"--band {text!r} names no band or one twice: write it as r, gri or g,r,i"
        raise UsageError(msg)
    return tuple(letters)


def _skystore(store: Path) -> Path | str:
    """Return the store of skycells: the one given, or that of the cube given."""
    from idfzarr.ps1.linking import linked_skycells

    try:
        linked = linked_skycells(store)
    except (ForeignStore, StoreMissing):
        return store
    if linked is None:
        msg = f"{store} is a cube without skycells: idfzarr fetch SKYCELLS --field {store}"
        raise UsageError(msg)
    return linked


def _where(
    store: Path,
    objects: Sequence[int] | None,
    size: float | None,
    cutout: tuple[float, float, float] | None,
) -> tuple[Path | str, tuple[float, float, float]]:
    if cutout is not None:
        return _skystore(store), cutout
    from idfzarr.care.cutout import place_of_object

    if objects is None or len(objects) != 1 or size is None:
        msg = "a cutout is made of one object at a time: give one --object and its --size"
        raise UsageError(msg)
    return _skystore(store), (*place_of_object(store, objects[0]), size)


def _list(store: Path | str, skycells: str, format_: str | None, files: _Files) -> None:
    from idfzarr.care.skycell_table import list_skycells

    if format_ not in {None, "csv"}:
        msg = f"a list is written as csv or with --json, not as {format_}"
        raise UsageError(msg)
    table = list_skycells(store, skycells)
    if files.as_json:
        files.text(json.dumps(table.to_dict(), indent=2))
    else:
        files.text(table.to_csv() if format_ else table.to_text())


# -------------------------------------------------------------------- what is done


class _Files:
    """Where what is taken out goes."""

    def __init__(
        self,
        output: Path | None,
        output_dir: Path | None,
        *,
        overwrite: bool,
        as_json: bool,
        quiet: bool,
    ) -> None:
        self.output, self.output_dir = output, output_dir
        self.overwrite, self.as_json, self.quiet = overwrite, as_json, quiet or as_json

    def _write(self, path: Path, data: bytes, url: str) -> None:
        from idfzarr.care.extract import refuse_inside, write_new

        refuse_inside(path, url)
        write_new(path, data, overwrite=self.overwrite)

    def text(self, text: str) -> None:
        """Print a list, or write it to the file that was named."""
        if self.output is None:
            say(text.rstrip("\r\n"))
            return
        from idfzarr.care.extract import write_new

        write_new(self.output, f"{text}\n".encode(), overwrite=self.overwrite)
        say(f"written: {self.output}")

    def one(
        self,
        store: Path | str,
        skycell: str,
        band: str,
        kind: Kind,
        *,
        form: PixelForm,
        compress: bool,
    ) -> None:
        """Write one array."""
        from idfzarr.care.extract import extract_array

        if set(skycell) & set("*?["):
            msg = f"--skycell {skycell} is a glob: add --batch to take out many"
            raise UsageError(msg)
        done = extract_array(
            store,
            skycell,
            band,
            kind,
            output=self.output,
            form=form,
            compress=compress,
            overwrite=self.overwrite,
        )
        self._say_done([done])

    def batch(
        self,
        store: Path | str,
        skycells: str,
        bands: tuple[str, ...] | None,
        kinds: tuple[Kind, ...],
        *,
        form: PixelForm,
        compress: bool,
    ) -> None:
        """Write many arrays."""
        from idfzarr.care.extract import extract_many
        from idfzarr.ps1.sky_keys import BANDS, KINDS

        with bars(quiet=self.quiet) as progress:
            done = extract_many(
                store,
                skycells,
                bands=bands or BANDS,
                kinds=kinds or KINDS,
                output_dir=self.output_dir or Path("extracted_fits"),
                form=form,
                compress=compress,
                overwrite=self.overwrite,
                progress=progress,
            )
        self._say_done(done)
        raise typer.Exit(1 if any(one.result == "failed" for one in done) else 0)

    def _say_done(self, done: Sequence[Extracted]) -> None:
        if self.as_json:
            say(json.dumps({"files": [one.to_dict() for one in done]}, indent=2))
            return
        for one in done:
            same = ", byte for byte as fetched" if one.identical else ""
            told = f"{one.path}{same}" if one.result == "written" else one.message
            say(f"{one.result}: {told}")
        if len(done) > 1:
            written = sum(one.result == "written" for one in done)
            say(f"{written} of {len(done)} arrays written")

    def cutout(
        self,
        store: Path | str,
        ra: float,
        dec: float,
        size: float,
        *,
        bands: tuple[str, ...] | None,
        kind: Kind,
        compress: bool,
    ) -> None:
        """Write a cutout, a picture where the file's name says so."""
        from idfzarr.care.cutout import cut_out

        path = self.output or Path(f"cutout_{ra:.5f}_{dec:+.5f}.fits")
        made = cut_out(store, ra, dec, size, bands=bands, kind=kind)
        picture = path.suffix.lower() == ".png"
        data = made.png_bytes() if picture else made.fits_bytes(compress=compress)
        self._write(path, data, str(store))
        self._say_cutout(made, path)

    def _say_cutout(self, made: Cutout, path: Path) -> None:
        sources = sorted({name for names in made.sources.values() for name in names})
        told = {
            "path": str(path),
            "bands": list(made.bands),
            "shape": list(made.shape),
            "skycells": sources,
            "interpolated": list(made.interpolated),
            "coverage": made.coverage,
        }
        if self.as_json:
            say(json.dumps(told, indent=2))
            return
        ny, nx = made.shape
        say(f"written: {path}: {nx} x {ny} pixels in {', '.join(made.bands)}")
        say(f"from {', '.join(sources)}; {made.coverage:.1%} covered")

    def lightcurves(self, store: Path, format_: str | None, how: dict[str, Any]) -> None:
        """Write lightcurves, or print them."""
        from idfzarr.care.lightcurve_export import export_lightcurves, format_of

        path = self.output or self.output_dir
        form = format_of(format_, self.output)
        if path is None:
            self._printed(store, form, how)
            return
        if form == "hats" and self.output is None:
            msg = "hats is one folder for all lightcurves: name it by --output, not by --output-dir"
            raise UsageError(msg)
        with bars(quiet=self.quiet) as progress:
            done = export_lightcurves(
                store,
                path,
                format=form,
                separate=self.output is None,
                overwrite=self.overwrite,
                progress=progress,
                **how,
            )
        say(json.dumps(done.to_dict(), indent=2) if self.as_json else done.to_text())

    def _printed(self, store: Path, form: str, how: dict[str, Any]) -> None:
        from idfzarr.care.lightcurve_export import TEXT_FORMATS, lightcurve_bytes

        if form not in TEXT_FORMATS:
            what = {"fits": "a FITS table", "parquet": "Parquet"}.get(form, f"the folder of {form}")
            msg = f"{what} is not for the terminal: add --output FILE"
            raise UsageError(msg)
        if self.as_json:
            msg = "--json tells what was written: add --output FILE, or leave it out"
            raise UsageError(msg)
        data, said = lightcurve_bytes(store, form, **how)
        if not data:
            typer.echo(f"nothing is written: no object was found ({said})", err=True)
        sys.stdout.write(data.decode())
