"""The grids on which the mosaics of a store were placed, made again exactly.

A mosaic that had to be resampled gives the same bits only on the very grid that its build had. A
change of a store takes the grid from the stored header cards, which hold fewer digits than the
grid of the build that made the store; that one is chosen again from the same headers. Which of them
it was, the ledger's placement of a mosaic tells.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.extend import grid_of_store
from idfzarr.build.placed import PlacedMosaic, bring_onto_grid
from idfzarr.build.provenance import Measured
from idfzarr.build.report import json_value
from idfzarr.build.source_files import Found, ImageFolder, find_sources
from idfzarr.build.survey import Survey
from idfzarr.errors import IdfzarrError, ImageError
from idfzarr.imaging.aor_table import AorList
from idfzarr.imaging.discovery import natural
from idfzarr.imaging.mosaic import MosaicFiles, MosaicHeader, read_header, read_mosaic
from idfzarr.imaging.register import Grid, Placement, StarField, choose_grid, find_stars
from idfzarr.imaging.sky import rough_plane

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.place import Place

__all__ = [
    "PastGrids",
    "factor_and_unit",
    "files_of",
    "is_resampled",
    "past_grids",
    "placement_differs",
    "stars_of",
]


@dataclass(frozen=True)
class PastGrids:
    """The grids of a store.

    Attributes
    ----------
    later
        That of every change of the store, from the stored header cards.
    first
        That of the build that made the store; None where it was not needed.
    """

    later: Grid
    first: Grid | None = None

    def of(self, source: Measured) -> Grid:
        """Return the grid that a mosaic was placed on."""
        return self.first if source.is_first and self.first is not None else self.later


def is_resampled(source: Measured) -> bool:
    """Say whether a mosaic's own pixels are not those of the grid."""
    return source.registered is not None and (source.registered["placement"]["how"] != "same-grid")


def files_of(source: Measured, found: Found) -> MosaicFiles:
    """Return the files of a mosaic where they are now."""
    kinds = [str(file["kind"]) for file in source.told[0]["files"]]
    paths = dict(zip(kinds, found.paths, strict=True))
    return MosaicFiles(source.aor, source.channel, paths)


def factor_and_unit(unit: str, pixel_scale: float) -> tuple[float, str]:
    """Return what a sum of pixels is multiplied by, and the unit it then has, as a build does.

    Parameters
    ----------
    unit
        That of the pixels, BUNIT.
    pixel_scale
        Of the grid, arcseconds.
    """
    nan, nothing = math.nan, np.empty((0, 0))
    header = MosaicHeader(Path(), (0, 0), None, unit, nan, nan, nan, nan, None, nan, "", "")
    aors = AorList(np.empty(0, dtype=np.int64), (), (), nothing, nothing, nothing, {}, (), ())
    return Survey((), (header,), aors, ()).scale_and_unit(pixel_scale)


def stars_of(files: MosaicFiles) -> StarField:
    """Return the stars of a frame, as a build finds them: before any background is taken off."""
    mosaic = read_mosaic(files)
    return find_stars(mosaic.sci, mosaic.bad, saturated=mosaic.saturated)


def placement_differs(placed: PlacedMosaic, placement: Placement, source: Measured) -> bool:
    """Say whether a mosaic was not placed, to the last bit, as the ledger tells it.

    Its offset is compared, and the first estimate of its background, which knows of every pixel.
    """
    if source.registered is None:
        return True
    told, sky = source.registered["placement"], source.registered["sky"]
    if any(told.get(k) != json_value(getattr(placement, k)) for k in ("how", *_NUMBERS)):
        return True
    found = rough_plane(placed.flux, ~placed.good)
    return any(sky.get(k) != json_value(value) for k, value in vars(found).items())


_NUMBERS = ("dx", "dy", "rms", "n_stars")

_SAMPLES = 12
"""Mosaics that show which grid it was: a digit less in a WCS moves some and not others."""


def past_grids(
    place: Place,
    state: LedgerState,
    resampled: Sequence[tuple[Measured, Found]],
    *,
    channel: str,
    sky: str,
    images: ImageFolder | None,
    **told: Any,
) -> PastGrids:
    """Make the grids of a store again.

    Parameters
    ----------
    place
        The store.
    state
        What its ledger says of it.
    resampled
        The mosaics that will be resampled.
    channel
        Any of its channels.
    sky
        How backgrounds are taken off, see `idfzarr.build.settings.Settings`.
    images
        Where mosaics are looked for.
    **told
        ``scheduler``, ``workers`` and ``progress``, see `idfzarr.build.scheduler.run_tasks`.

    Returns
    -------
    PastGrids
        As good as the mosaics that are left allow: see `placement_differs`.
    """
    later = grid_of_store(place, channel)
    firsts = [pair for pair in resampled if pair[0].is_first]
    if not firsts:
        return PastGrids(later)
    placed = _first_placed(state)
    found = find_sources(placed, images, **told)
    there = [
        (s, files_of(s, f)) for s, f in zip(placed, found, strict=True) if isinstance(f, Found)
    ]
    for grid in _candidates(later, there, state):
        if all(_places(grid, *pair, sky=sky) for pair in firsts[:_SAMPLES]):
            return PastGrids(later, grid)
    return PastGrids(later)


def _first_placed(state: LedgerState) -> list[Measured]:
    """Return the mosaics that the build of a store placed, in the order in which it found them."""
    laid_out = state.last("laid_out")
    newest: dict[tuple[str, str], Mapping[str, Any]] = {}
    for record in state.of("registered"):
        if laid_out is None or record.time_ns <= laid_out.time_ns:
            newest[str(record.fields["aor"]), str(record.fields["channel"])] = record.fields
    return [
        Measured(aor, channel, -1, (), (), (fields,), fields, is_first=True)
        for (aor, channel), fields in sorted(newest.items(), key=lambda item: _order(item[0]))
    ]


def _order(key: tuple[str, str]) -> tuple[object, object]:
    return natural(key[0]), natural(key[1])


def _candidates(
    later: Grid, there: Sequence[tuple[Measured, MosaicFiles]], state: LedgerState
) -> list[Grid]:
    """Return the grids that the first build may have had, the likeliest first."""
    if not there:
        return []
    if later.wcs is None:
        # The frame that all were aligned with lies on itself.
        reference = min(there, key=lambda pair: _distance(pair[0]))
        return [replace(later, stars=stars_of(reference[1]))]
    used = {(s.aor, s.channel): files.sci for s, files in there}
    found: list[Grid] = []
    for named in ({**_skipped(state), **used}, used):
        headers = [_header(key, named[key]) for key in sorted(named, key=_order)]
        try:
            grid = choose_grid([header for header in headers if header is not None])
        except IdfzarrError:
            continue
        # Sent to a process of its own, a WCS loses digits.
        found += [grid, pickle.loads(pickle.dumps(grid))]  # noqa: S301  # our own bytes
    return found


def _distance(source: Measured) -> float:
    told = {} if source.registered is None else source.registered["placement"]
    parts = [told.get(k) for k in ("dx", "dy", "rms")]
    return math.inf if None in parts else sum(abs(float(part)) for part in parts if part)


def _skipped(state: LedgerState) -> dict[tuple[str, str], Path]:
    """Return the mosaics that the first build could not use: its grid knew of their headers."""
    found: dict[tuple[str, str], Path] = {}
    for record in state.of("note"):
        for told in record.fields.get("skipped", ()):
            if told["files"]:
                found[told["aor"], told["channel"]] = Path(told["files"][0]["path"])
        if "skipped" in record.fields:
            break  # later ones are of changes
    return found


def _header(key: tuple[str, str], path: Path) -> MosaicHeader | None:
    try:
        return read_header(MosaicFiles(*key, {"sci": path}))
    except ImageError:
        return None


def _places(grid: Grid, source: Measured, found: Found, *, sky: str) -> bool:
    files = files_of(source, found)
    try:
        stars = stars_of(files) if grid.wcs is None else None
        placed, placement = bring_onto_grid(files, grid, sky=sky, stars=stars)
    except ImageError:
        return False
    return not placement_differs(placed, placement, source)
