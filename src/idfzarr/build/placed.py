"""Mosaics on the field's grid, however they came there, and read as often as they are needed.

A mosaic that already lies on the grid is read from its own files each time. One that had to be
resampled, or whose background map was taken off first, is kept in the work folder beside the store
(``field.zarr.work/``) until the build is published.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import ImageUnreadable
from idfzarr.imaging.mosaic import MosaicFiles, read_mosaic
from idfzarr.imaging.register import Grid, Placement, StarField, mesh_background, place
from idfzarr.imaging.superstack import Strip
from idfzarr.store.place import LocalPlace, Place

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idfzarr.imaging.mosaic import Mosaic

__all__ = [
    "MosaicLayer",
    "PlacedMosaic",
    "Source",
    "bring_onto_grid",
    "place_mosaic",
    "read_own_pixels",
    "read_placed",
    "work_place",
]

WORK_SUFFIX = ".work"
"""What the work folder is called after the store's."""

_NO_VARIANCE = -1.0
"""Stands for "no unc" in a kept mosaic, where NaN stands for a bad pixel."""


@dataclass(frozen=True)
class Source:
    """Where a task finds one AOR's mosaic in one channel.

    Attributes
    ----------
    position
        The AOR's place along ``aor``.
    files
        Its own files.
    kept
        The file in the work folder that holds it on the grid; None where its own files do.
    """

    position: int
    files: MosaicFiles
    kept: str | None = None


@dataclass(frozen=True, eq=False)
class PlacedMosaic:
    """A mosaic on the field's grid.

    Attributes
    ----------
    flux
        (y, x) float32, 0 where it is not good.
    variance
        (y, x) float32, 0 where it is not good; None without ``unc``.
    good
        Pixels that may be used, (y, x).
    saturated
        Saturated pixels, (y, x); None where nothing tells.
    """

    flux: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    good: NDArray[np.bool_]
    saturated: NDArray[np.bool_] | None


def work_place(store: Place) -> LocalPlace:
    """Return the work folder of a store; one on object storage has it in the current folder."""
    if isinstance(store, LocalPlace):
        return store.beside(WORK_SUFFIX)
    name = store.url.rstrip("/").rsplit("/", 1)[-1]
    return LocalPlace(str(Path.cwd() / (name + WORK_SUFFIX)))


def place_mosaic(
    source: Source,
    grid: Grid,
    *,
    sky: str,
    stars: StarField | None,
    work: LocalPlace,
    keep: bool = False,
) -> tuple[Source, PlacedMosaic, Placement]:
    """Bring one mosaic onto the grid and keep it in the work folder where its own files do not do.

    Parameters
    ----------
    source
        The mosaic.
    grid
        The field's grid.
    sky
        ``mesh`` takes a background map off before.
    stars
        The frame's stars, for a field without WCS.
    work
        The work folder.
    keep
        Keep a copy even of a mosaic that lies on the grid, so that it can be read by strips.

    Returns
    -------
    source, placed, placement
        The source as tasks are to read it from now on, its pixels, and how it was placed.

    Raises
    ------
    ImageError
        It cannot be read, or not be aligned.
    StorageFull
        There is no room to keep it.
    """
    usable, placement = bring_onto_grid(source.files, grid, sky=sky, stars=stars)
    if placement.how == "same-grid" and sky != "mesh" and not keep:
        return source, usable, placement
    kept = f"{source.files.aor}_{source.files.channel}.npy"
    work.write(kept, _packed(usable))
    return replace(source, kept=work.path(kept)), usable, placement


def bring_onto_grid(
    files: MosaicFiles, grid: Grid, *, sky: str, stars: StarField | None
) -> tuple[PlacedMosaic, Placement]:
    """Read a mosaic and bring it onto the grid; nothing is kept.

    Parameters
    ----------
    files, grid, sky, stars
        See `place_mosaic`.

    Returns
    -------
    placed, placement
        Its pixels, and how it was placed.

    Raises
    ------
    ImageError
        It cannot be read, or not be aligned.
    """
    placed, placement = place(_read(files, sky), grid, stars=stars)
    return _usable(placed), placement


def read_own_pixels(files: MosaicFiles, *, sky: str) -> PlacedMosaic:
    """Read a mosaic whose own pixels are the grid's.

    Parameters
    ----------
    files, sky
        See `place_mosaic`.

    Returns
    -------
    PlacedMosaic
        What `place_mosaic` gives where it finds ``same-grid``.

    Raises
    ------
    ImageError
        It cannot be read.
    """
    return _usable(_read(files, sky))


def _read(files: MosaicFiles, sky: str) -> Mosaic:
    mosaic = read_mosaic(files)
    if sky != "mesh":
        return mosaic
    background = mesh_background(mosaic.sci, mosaic.bad)
    return replace(mosaic, sci=mosaic.sci - background)


def read_placed(source: Source) -> PlacedMosaic:
    """Read a mosaic on the field's grid.

    Parameters
    ----------
    source
        From `place_mosaic`.

    Returns
    -------
    PlacedMosaic
        Its pixels.

    Raises
    ------
    ImageError
        A file is missing or cannot be read.
    """
    if source.kept is None:
        return _usable(read_mosaic(source.files))
    return _unpacked(_load(source.kept))


def _usable(mosaic: Mosaic) -> PlacedMosaic:
    good = ~mosaic.bad
    flux = np.where(good, mosaic.sci, np.float32(0))
    variance = None if mosaic.unc is None else np.where(good, mosaic.unc**2, np.float32(0))
    return PlacedMosaic(flux, variance, good, mosaic.saturated)


def _packed(placed: PlacedMosaic) -> bytes:
    """Return three planes as an .npy file: flux (NaN where bad), variance, saturated."""
    planes = np.empty((3, *placed.flux.shape), dtype=np.float32)
    planes[0] = np.where(placed.good, placed.flux, np.nan)
    planes[1] = _NO_VARIANCE if placed.variance is None else placed.variance
    planes[2] = _NO_VARIANCE if placed.saturated is None else placed.saturated
    buffer = io.BytesIO()
    np.save(buffer, planes)
    return buffer.getvalue()


def _load(path: str, *, mmap: bool = False) -> NDArray[np.float32]:
    try:
        planes: NDArray[np.float32] = np.load(path, mmap_mode="r" if mmap else None)
    except (OSError, ValueError) as error:
        msg = (
            f"{path}, a mosaic on the field's grid, cannot be read ({error}): "
            "remove the folder it is in and build again"
        )
        raise ImageUnreadable(msg) from error
    return planes


def _unpacked(planes: NDArray[np.float32]) -> PlacedMosaic:
    flux = np.array(planes[0])
    good = np.isfinite(flux)
    flux[~good] = 0
    variance = planes[1] if planes[1].max(initial=_NO_VARIANCE) > _NO_VARIANCE else None
    saturated = planes[2] > 0 if planes[2].max(initial=_NO_VARIANCE) > _NO_VARIANCE else None
    return PlacedMosaic(flux, None if variance is None else np.array(variance), good, saturated)


class MosaicLayer:
    """One AOR of a superstack, read by strips.

    A kept mosaic is mapped into memory; one that is read from its own files is held until the
    superstack is made, so it is kept first where a channel does not fit into memory.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._placed: PlacedMosaic | None = None

    def strip(self, y0: int, y1: int) -> Strip:
        """Return rows `y0` up to, without, `y1`."""
        if self._source.kept is not None:
            planes: Any = _load(self._source.kept, mmap=True)
            placed = _unpacked(planes[:, y0:y1])
            return Strip(placed.flux, placed.variance, placed.good)
        if self._placed is None:
            self._placed = read_placed(self._source)
        rows = slice(y0, y1)
        variance = self._placed.variance
        return Strip(
            self._placed.flux[rows],
            None if variance is None else variance[rows],
            self._placed.good[rows],
        )
