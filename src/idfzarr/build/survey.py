"""What there is to build from: mosaics, AORs, their grid, and what cannot be used."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy import units

from idfzarr.build.report import Skipped
from idfzarr.build.scheduler import Task, run_tasks
from idfzarr.errors import ImageMissing, UsageError
from idfzarr.imaging.aor_table import (
    AorList,
    AorTable,
    find_aor_table,
    match_aors,
    read_aor_table,
)
from idfzarr.imaging.mosaic import (
    DEFAULT_PATTERN,
    MosaicFiles,
    MosaicHeader,
    check_kinds,
    discover,
    read_header,
    read_mosaic,
    require_times,
)
from idfzarr.imaging.register import Grid, StarField, choose_grid, find_stars

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from idfzarr.progress import Progress

__all__ = ["Survey", "fault", "grid_of", "stars_of_frames", "survey_images"]

_MICROJANSKY_PER_STERADIAN = 1e12  # 1 MJy/sr


@dataclass(frozen=True)
class Survey:
    """What a folder of mosaics holds.

    Attributes
    ----------
    mosaics, headers
        Mosaics that may be used and their headers, in one order.
    aors
        The AORs, in time order.
    skipped
        What is left out so far.
    notes
        Sentences worth reading.
    """

    mosaics: tuple[MosaicFiles, ...]
    headers: tuple[MosaicHeader, ...]
    aors: AorList
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels there are mosaics of."""
        return tuple(self.aors.channels)

    @property
    def has_wcs(self) -> bool:
        """Whether the mosaics say where on the sky they are."""
        return self.headers[0].wcs is not None

    def scale_and_unit(self, pixel_scale: float) -> tuple[float, str]:
        """Return what a sum of pixels is multiplied by, and the unit it then has.

        Parameters
        ----------
        pixel_scale
            Of the grid, arcseconds.

        Notes
        -----
        Surface brightness becomes microjansky by the solid angle of a pixel of the grid (one of
        0.6 arcsec holds 8.4616e-12 sr).

        Raises
        ------
        UsageError
            The mosaics differ in unit.
        """
        found = sorted({header.unit for header in self.headers})
        if len(found) > 1:
            units_found = ", ".join(map(repr, found))
            msg = f"the mosaics differ in unit (BUNIT): {units_found}; build them apart"
            raise UsageError(msg)
        return _scale_and_unit(found[0], pixel_scale)

    def only(self, wanted: Sequence[tuple[str, str]]) -> Survey:
        """Return the survey with some mosaics only, by AOR and channel."""
        kept = [k for k, m in enumerate(self.mosaics) if (m.aor, m.channel) in set(wanted)]
        return replace(
            self,
            mosaics=tuple(self.mosaics[k] for k in kept),
            headers=tuple(self.headers[k] for k in kept),
            aors=_aors_of(self.aors, [self.mosaics[k] for k in kept]),
        )

    def of_channels(self, wanted: Collection[str]) -> Survey:
        """Return the survey without the channels of which nothing was asked for, and say so."""
        left = [channel for channel in self.channels if channel not in wanted]
        if not left or len(left) == len(self.channels):
            return self
        kept = self.only([(m.aor, m.channel) for m in self.mosaics if m.channel in wanted])
        told = [
            Skipped("every AOR", c, f"no type of channel {c} is asked for", is_fault=False)
            for c in left
        ]
        return replace(kept, skipped=(*self.skipped, *told))

    def without(self, gone: Sequence[Skipped]) -> Survey:
        """Return the survey without the mosaics that turned out not to be usable."""
        lost = {(skipped.aor, skipped.channel) for skipped in gone}
        kept = [k for k, m in enumerate(self.mosaics) if (m.aor, m.channel) not in lost]
        if not kept:
            msg = f"not one mosaic can be used; the first: {gone[0].reason}"
            raise ImageMissing(msg)
        return replace(
            self,
            mosaics=tuple(self.mosaics[k] for k in kept),
            headers=tuple(self.headers[k] for k in kept),
            aors=_aors_of(self.aors, [self.mosaics[k] for k in kept]),
            skipped=(*self.skipped, *gone),
        )


def _scale_and_unit(unit: str, pixel_scale: float) -> tuple[float, str]:
    try:
        parsed = units.Unit(unit)
    except ValueError:
        return 1.0, ""
    if parsed.is_equivalent(units.MJy / units.sr) and math.isfinite(pixel_scale):
        solid_angle = (pixel_scale * units.arcsec).to_value(units.rad) ** 2
        factor = parsed.to(units.MJy / units.sr)
        return factor * solid_angle * _MICROJANSKY_PER_STERADIAN, "uJy"
    if parsed.is_equivalent(units.Jy):
        return parsed.to(units.uJy), "uJy"
    return 1.0, parsed.to_string()


def survey_images(
    images: str | Path,
    *,
    pattern: str | None = None,
    kinds: Mapping[str, str] | None = None,
    channel: str | None = None,
    aor_table: str | Path | None = None,
) -> Survey:
    """Find the mosaics and bring them together with the AOR table.

    Parameters
    ----------
    images
        A folder.
    pattern, kinds, channel
        See `idfzarr.imaging.mosaic.discover`.
    aor_table
        The AOR table; one that lies in the folder by its usual name is used unasked.

    Returns
    -------
    Survey
        What can be used and what cannot.

    Raises
    ------
    ImageError
        There is no mosaic, or two of one AOR and channel.
    AorTableError
        The table cannot be used, or there is none and the headers tell no time.
    """
    folder = Path(images)
    mosaics = discover(folder, pattern=pattern or DEFAULT_PATTERN, kinds=kinds, channel=channel)
    skipped = [fault(s.aor, s.channel, s.reason) for s in check_kinds(mosaics)]
    usable, headers = _read_headers(mosaics, skipped)
    if not usable:
        msg = f"not one mosaic in {folder} can be used; the first: {skipped[0].reason}"
        raise ImageMissing(msg)
    if channel is None and "{channel}" not in (pattern or DEFAULT_PATTERN):
        usable = _named_by_headers(usable, headers)
    where = Path(aor_table) if aor_table is not None else find_aor_table(folder)
    table: AorTable | None = None if where is None else read_aor_table(where)
    if table is None:
        require_times(headers)
    aors = match_aors(usable, table, headers)
    unusable = {s.aor for s in skipped}  # these have an image, and the fault is told above
    without_image = [
        Skipped(s.aor, s.channel or "*", s.reason, is_fault=False)
        for s in aors.without_image
        if s.aor not in unusable
    ]
    without_row = [fault(s.aor, s.channel, s.reason) for s in aors.without_row]
    gone = {(s.aor, s.channel) for s in without_row}
    kept = [
        k
        for k, m in enumerate(usable)
        if m.aor in set(aors.name) and (m.aor, m.channel) not in gone
    ]
    return Survey(
        mosaics=tuple(usable[k] for k in kept),
        headers=tuple(headers[k] for k in kept),
        aors=aors,
        skipped=(*skipped, *without_row, *without_image),
        notes=() if table is None else (f"times from the AOR table {where}",),
    )


def fault(aor: str, channel: str, reason: str) -> Skipped:
    """Return the record of a mosaic that was given and cannot be used."""
    return Skipped(aor, channel or "*", reason)


def _read_headers(
    mosaics: Sequence[MosaicFiles], skipped: list[Skipped]
) -> tuple[list[MosaicFiles], list[MosaicHeader]]:
    """Read the headers of the mosaics not skipped yet; add those that cannot be read."""
    gone = {(s.aor, s.channel) for s in skipped}
    asked = [m for m in mosaics if (m.aor, m.channel) not in gone]
    tasks = [Task(str(m.sci), read_header, (m,)) for m in asked]
    outcomes = run_tasks("reading headers", tasks, scheduler="synchronous")
    usable, headers = [], []
    for files, outcome in zip(asked, outcomes, strict=True):
        if outcome.ok:
            usable.append(files)
            headers.append(outcome.result)
        else:
            skipped.append(fault(files.aor, files.channel, outcome.reason or ""))
    return usable, headers


def _named_by_headers(
    mosaics: list[MosaicFiles], headers: Sequence[MosaicHeader]
) -> list[MosaicFiles]:
    """Return the mosaics under IRAC's channel where all headers agree on it."""
    told = {header.filter for header in headers}
    name = told.pop() if len(told) == 1 else ""
    if not re.fullmatch(r"ch[1-4]", name):
        return mosaics
    return [replace(mosaic, channel=name) for mosaic in mosaics]


def _aors_of(aors: AorList, mosaics: Sequence[MosaicFiles]) -> AorList:
    """Return the AORs that still have a mosaic, NaN times where a channel has none."""
    there = {(m.aor, m.channel) for m in mosaics}
    names = {aor for aor, _ in there}
    rows = np.array([k for k, name in enumerate(aors.name) if name in names], dtype=np.intp)
    seen = np.array(
        [[(aors.name[k], channel) in there for channel in aors.channels] for k in rows], dtype=bool
    )
    kept = [k for k, channel in enumerate(aors.channels) if seen[:, k].any()]
    seen = seen[:, kept]

    def cut(values: Any) -> Any:
        return np.where(seen, values[rows][:, kept], np.nan)

    return replace(
        aors,
        reqkey=aors.reqkey[rows],
        name=tuple(aors.name[k] for k in rows),
        channels=tuple(aors.channels[k] for k in kept),
        mjd=cut(aors.mjd),
        exptime=cut(aors.exptime),
        bjd_tdb=cut(aors.bjd_tdb),
        columns={name: values[rows] for name, values in aors.columns.items()},
    )


def _stars_of(files: MosaicFiles) -> StarField:
    mosaic = read_mosaic(files)
    return find_stars(mosaic.sci, mosaic.bad, saturated=mosaic.saturated)


def grid_of(
    survey: Survey, *, scheduler: Any, workers: int | None, progress: Progress
) -> tuple[Survey, Grid, dict[tuple[str, str], StarField]]:
    """Choose the field's grid; for frames without WCS by their stars.

    Returns
    -------
    survey, grid, stars
        The survey without frames that cannot be read; the grid; the stars of each frame by AOR and
        channel, empty where WCS say it all.
    """
    if survey.has_wcs:
        return survey, choose_grid(survey.headers), {}
    left, stars = stars_of_frames(survey, scheduler=scheduler, workers=workers, progress=progress)
    fields = [stars[m.aor, m.channel] for m in left.mosaics]
    return left, choose_grid(left.headers, stars=fields), stars


def stars_of_frames(
    survey: Survey, *, scheduler: Any, workers: int | None, progress: Progress
) -> tuple[Survey, dict[tuple[str, str], StarField]]:
    """Find the stars of frames without WCS.

    Returns
    -------
    survey, stars
        The survey without frames that cannot be read; the stars of each frame by AOR and channel,
        empty where WCS say it all.
    """
    if survey.has_wcs:
        return survey, {}
    tasks = [Task(str(files.sci), _stars_of, (files,)) for files in survey.mosaics]
    outcomes = run_tasks(
        "finding stars", tasks, scheduler=scheduler, workers=workers, progress=progress
    )
    gone = [
        fault(files.aor, files.channel, outcome.reason or "")
        for files, outcome in zip(survey.mosaics, outcomes, strict=True)
        if not outcome.ok
    ]
    left = survey.without(gone) if gone else survey
    fields = [outcome.result for outcome in outcomes if outcome.ok]
    return left, {(m.aor, m.channel): f for m, f in zip(left.mosaics, fields, strict=True)}
