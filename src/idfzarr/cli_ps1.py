"""The command that fetches Pan-STARRS1 skycells: ``fetch``."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from idfzarr.cli_options import AsJson, Quiet, bars, say
from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idfzarr.progress import Progress
    from idfzarr.ps1.fetch_report import FetchReport

__all__ = ["fetch"]

_KINDS = {"image": "image", "mask": "mask", "weight": "weight", "wt": "weight"}
_INTERRUPTED = 130
_MEGABYTE = 1_000_000

SkyStore = Annotated[
    Path, typer.Argument(help="The store of skycells; made where it is not.", show_default=False)
]
Sector = Annotated[int | None, typer.Option(help="Sector of TESS.", min=1)]
Camera = Annotated[int | None, typer.Option(help="Camera of TESS.", min=1, max=4)]
Ccd = Annotated[int | None, typer.Option(help="CCD of TESS.", min=1, max=4)]
Names = Annotated[
    list[str] | None,
    typer.Option("--skycell", help="Name or glob, as skycell.1405.053 or 1405.* (repeatable)."),
]
Cone = Annotated[
    tuple[str, str, str] | None,
    typer.Option(help="RA DEC RADIUS: 17h40m00s +69d00m00s '30 arcmin', or in degrees."),
]
Csv = Annotated[Path | None, typer.Option(help="Master list of skycells (NAME, pad_skycell_*).")]
Field = Annotated[
    Path | None, typer.Option(help="A cube: skycells under its objects, linked with it.")
]
Rule = Annotated[
    str, typer.Option(help="For a CCD: overlap, or centre (within 150 pixels around it).")
]
Padding = Annotated[
    bool | None,
    typer.Option("--padding/--no-padding", help="Neighbours too; those of a --csv unless not."),
]
Bands = Annotated[str, typer.Option(help="Some of grizy.")]
Kinds = Annotated[str, typer.Option(help="Some of image,mask,weight.")]
UseLocal = Annotated[
    bool | None,
    typer.Option(
        "--use-local-files/--no-local-files",
        help="Look for files on disk first; where the folder is there unless said.",
    ),
]
LocalPath = Annotated[
    list[Path] | None,
    typer.Option("--local-data-path", help="Folder of files (data/ps1_skycells; repeatable)."),
]
Template = Annotated[
    list[str] | None,
    typer.Option(
        "--local-template",
        help="Path below it, as {projection}/{cell}/*{band}*{suffix}.fits (repeatable).",
    ),
]
LocalOnly = Annotated[bool, typer.Option("--local-only", help="Never touch the network.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Fetch again what is in the store.")]
RetryAbsent = Annotated[
    bool, typer.Option("--retry-absent", help="Ask again for what the archive did not have.")
]
NumWorkers = Annotated[int, typer.Option(help="Arrays at once.", min=1, max=64)]
Mirror = Annotated[
    list[str] | None,
    typer.Option("--mirror", help="Address with {path} or {file} (repeatable); the archive's own."),
]


def fetch(  # one parameter an option
    store: SkyStore,
    sector: Sector = None,
    camera: Camera = None,
    ccd: Ccd = None,
    skycell: Names = None,
    cone: Cone = None,
    csv: Csv = None,
    field: Field = None,
    rule: Rule = "overlap",
    padding: Padding = None,
    bands: Bands = "grizy",
    kinds: Kinds = "image,mask,weight",
    use_local_files: UseLocal = None,
    local_data_path: LocalPath = None,
    local_template: Template = None,
    local_only: LocalOnly = False,
    overwrite: Overwrite = False,
    retry_absent: RetryAbsent = False,
    num_workers: NumWorkers = 8,
    mirror: Mirror = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch Pan-STARRS1 skycells into a store, from files on disk first, then from the archive.

    Run it again and it goes on where it was. The code is 0 where everything there is, is in the
    store, 1 where something failed, 130 after Ctrl-C.
    """
    from idfzarr.ps1.fetch import LOCAL_DATA, fetch_skycells
    from idfzarr.ps1.fetch_report import FetchInterrupted

    options: dict[str, Any] = {
        "skycells": skycell or None,
        "sector": sector,
        "camera": camera,
        "ccd": ccd,
        "cone": _cone(cone),
        "csv": csv,
        "field": field,
        "rule": rule,
        "padding": padding,
        "bands": "".join(bands.split(",")),
        "kinds": _kinds(kinds),
        "use_local_files": use_local_files,
        "local_data_path": local_data_path or LOCAL_DATA,
        "local_templates": tuple(local_template or ()),
        "local_only": local_only,
        "overwrite": overwrite,
        "retry_absent": retry_absent,
        "num_workers": num_workers,
    }
    if mirror:
        options["mirrors"] = tuple(mirror)
    try:
        with _drawn(quiet=quiet or as_json) as progress:
            report = fetch_skycells(store, **options, progress=progress)
    except FetchInterrupted as stopped:
        _say(stopped.report, as_json=as_json)
        raise typer.Exit(_INTERRUPTED) from None
    _say(report, as_json=as_json)
    raise typer.Exit(0 if report.ok else 1)


def _say(report: FetchReport, *, as_json: bool) -> None:
    say(report.to_json() if as_json else report.to_text())


@contextmanager
def _drawn(*, quiet: bool) -> Iterator[Progress]:
    """Draw bars: arrays, and bytes in whole megabytes with their rate."""
    with bars(quiet=quiet, rate=True) as draw:

        def progress(label: str, done: int, total: int) -> None:
            if label == "download":
                whole = -(-total // _MEGABYTE)
                draw("download MB", whole if done == total else done // _MEGABYTE, whole)
            else:
                draw(label, done, total)

        yield progress


def _kinds(text: str) -> tuple[str, ...]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    return tuple(_KINDS.get(word, word) for word in words)


def _cone(words: tuple[str, str, str] | None) -> tuple[float, float, float] | None:
    """Read a cone as people write one."""
    if words is None:
        return None
    import astropy.units as u
    from astropy.coordinates import Angle, SkyCoord

    try:
        ra, dec = (_degrees(word) for word in words[:2])
        if ra is None or dec is None:
            place = SkyCoord(words[0], words[1], unit=(u.hourangle if ra is None else u.deg, u.deg))
            ra, dec = float(place.ra.deg), float(place.dec.deg)
        size = _degrees(words[2])
        radius = float(Angle(words[2]).deg) if size is None else size
    except (ValueError, TypeError, u.UnitsError) as error:
        msg = (
            f"--cone {' '.join(words)!r} cannot be read ({str(error).splitlines()[0]}): write it "
            "as --cone 265.0 69.0 0.5, or with units"
        )
        raise UsageError(msg) from error
    return ra, dec, radius


def _degrees(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
