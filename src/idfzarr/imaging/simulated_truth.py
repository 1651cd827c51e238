"""The truth of a simulated field: what was put in, and what an aperture should find of it.

======================== ==========================================================
file                     what it holds
======================== ==========================================================
``truth.ecsv``           one row per object: place, kind, shape, variation, mean flux
                         and energy fraction per aperture and channel
``truth_lightcurves.npz`` flux (object, channel, aor), and per (aor, channel) the zero
                         point, pointing, roll and background
``truth_hits.npz``       the pixels that cosmic rays changed, mosaic by mosaic
``truth_psf.npz``        the mean transform of each channel's image of a point
======================== ==========================================================
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from idfzarr.errors import ImageUnreadable, StoreMissing, UnknownName, UsageError, closest
from idfzarr.imaging.simulated_frame import Hits
from idfzarr.imaging.simulated_psf import (
    STAMP_SIDE,
    aperture_transform,
    disc_transform,
    frequency_grid,
)
from idfzarr.measurement import APERTURE_RADII

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from idfzarr.imaging.simulated_psf import FrequencyGrid, PsfModel
    from idfzarr.imaging.simulated_sources import Population

__all__ = [
    "TRUTH_FILES",
    "Truth",
    "aperture_sums",
    "energy_in_circle",
    "energy_in_ellipse",
    "energy_in_pixels",
    "matched_rows",
    "mean_transform",
    "pack_arrays",
    "pack_hits",
    "read_truth",
    "truth_table",
]

_MATCH_PIXELS = 1.5
TRUTH_FILES = ("truth_lightcurves.npz", "truth_hits.npz", "truth_psf.npz", "truth.ecsv")
"""The files of the truth; the last one is written when all else is there."""

_ISOLATED_METHOD = "aper6"
_ISOLATED_SHARE = 0.01
_ISOLATED_PIXELS = 8.0
# Beyond this the aperture would meet the next copy of the periodic stamp.
_LARGEST_RADIUS = 36.0


@dataclass(frozen=True)
class Truth:
    """What was put into a simulated field.

    Parameters
    ----------
    folder
        Where it was read.
    channels
        Their names, in the order of the arrays.
    table
        One row per object; `id`, `ra`, `dec` (degrees), `x`, `y` (pixels), `kind`, `variable`,
        `varies`, `isolated`, `scale` (pixels), `axis_ratio`, `angle` (degrees), per channel
        ``flux_ch1`` (mean, microjansky), ``energy_ch1_aper1``.. and ``contamination_ch1_aper1``..
        (flux of all others in the aperture over the object's own there).
    reqkey
        (aor,).
    mjd
        (aor, channel), mid-exposure, UTC.
    flux
        (object, channel, aor), microjansky.
    zeropoint
        (aor, channel): every flux of the AOR was multiplied by this.
    dx, dy
        (aor, channel): sources lie so far from `x`, `y`, in pixels.
    roll
        (aor, channel), degrees.
    background
        (aor, channel, 3): level in the middle, MJy/sr, and its gradients, per pixel.
    transform
        (channel, side, side // 2 + 1): of the image of a point, mean over the AORs.
    hits
        Arrays of ``truth_hits.npz``; see `hits_of`.
    """

    folder: Path
    channels: tuple[str, ...]
    table: Table
    reqkey: NDArray[np.int64]
    mjd: NDArray[np.float64]
    flux: NDArray[np.float64]
    zeropoint: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    roll: NDArray[np.float64]
    background: NDArray[np.float64]
    transform: NDArray[np.complex128]
    hits: Mapping[str, NDArray[np.int64] | NDArray[np.float32]]

    def channel_index(self, channel: str) -> int:
        """Return the position of a channel along the arrays' channel axis.

        Raises
        ------
        UnknownName
            The field was not simulated in that channel.
        """
        if channel not in self.channels:
            msg = (
                f"{self.folder} was not simulated in {channel!r}{closest(channel, self.channels)}; "
                f"it has {', '.join(self.channels)}"
            )
            raise UnknownName(msg)
        return self.channels.index(channel)

    def row(self, object_id: int) -> int:
        """Return the row of an object.

        Raises
        ------
        UnknownName
            There is no such object.
        """
        # Ids count from 1 in the order of the table.
        if not 1 <= object_id <= len(self.table):
            msg = f"{self.folder} has no object {object_id}: ids go from 1 to {len(self.table)}"
            raise UnknownName(msg)
        return object_id - 1

    def hits_of(self, aor: int, channel: str) -> Hits:
        """Return the pixels that cosmic rays changed in the mosaic of one AOR, by its position."""
        mosaic = aor * len(self.channels) + self.channel_index(channel)
        part = slice(*(int(v) for v in self.hits["start"][mosaic : mosaic + 2]))
        return Hits(
            self.hits["y"][part].astype(np.int64),
            self.hits["x"][part].astype(np.int64),
            self.hits["amount"][part].astype(np.float32),
            self.hits["number"][part].astype(np.int32),
        )


def energy_in_ellipse(
    truth: Truth,
    object_id: int,
    channel: str,
    *,
    a: float,
    b: float,
    angle: float,
    offset: tuple[float, float] = (0.0, 0.0),
) -> float:
    """Return the share of an object's flux that an elliptical aperture holds, mean over the AORs.

    Aperture and image are compared in Fourier space; the image is that of square pixels, as a sum
    weighted by the pixels' exact overlap sees it, averaged over where in its pixel the source lies.

    Parameters
    ----------
    truth
        The field.
    object_id
        The object, as in ``truth.table["id"]``.
    channel
        The channel.
    a, b
        Semi-axes, superstack pixels.
    angle
        From the x axis to `a`, counter-clockwise, degrees.
    offset
        The aperture's middle minus the object's true place, pixels.

    Returns
    -------
    float
        0 to 1 (a little more where wings ring).

    Raises
    ------
    UsageError
        A semi-axis is not positive, or beyond 36 pixels together with the offset.
    UnknownName
        No such object or channel.
    """
    reach = max(a, b) + float(np.hypot(*offset))
    if not 0 < min(a, b) <= reach <= _LARGEST_RADIUS:
        msg = (
            f"an aperture of {a} x {b} pixels at an offset of {offset} cannot be integrated: "
            f"semi-axes must be positive and reach no further than {_LARGEST_RADIUS:g} pixels"
        )
        raise UsageError(msg)
    grid = frequency_grid(STAMP_SIDE)
    image = _image_transform(truth, grid, object_id, channel)
    if any(offset):
        image = image * grid.phase(-offset[0], -offset[1])
    return grid.mean_of(image * aperture_transform(grid, a, b, angle))


def energy_in_circle(
    truth: Truth,
    object_id: int,
    channel: str,
    *,
    radius: float,
    offset: tuple[float, float] = (0.0, 0.0),
) -> float:
    """Return the share of an object's flux within `radius` pixels; see `energy_in_ellipse`."""
    return energy_in_ellipse(
        truth, object_id, channel, a=radius, b=radius, angle=0.0, offset=offset
    )


def energy_in_pixels(
    truth: Truth, object_id: int, channel: str, *, y: ArrayLike, x: ArrayLike
) -> float:
    """Return the share of an object's flux that falls on given pixels, mean over the AORs.

    Parameters
    ----------
    truth
        The field.
    object_id
        The object.
    channel
        The channel.
    y, x
        Integer pixels of the grid, of one shape, each pixel once; those further than 60 pixels from
        the object hold nothing of it.

    Returns
    -------
    float
        The sum over the pixels.

    Raises
    ------
    UnknownName
        No such object or channel.
    """
    row = truth.row(object_id)
    grid = frequency_grid(STAMP_SIDE)
    half = STAMP_SIDE // 2
    x0, y0 = float(truth.table["x"][row]), float(truth.table["y"][row])
    left, low = int(np.floor(x0)) - half, int(np.floor(y0)) - half
    image = _image_transform(truth, grid, object_id, channel) * grid.phase(x0 - left, y0 - low)
    stamp = grid.image(image)
    rows, columns = np.asarray(y).ravel() - low, np.asarray(x).ravel() - left
    inside = (rows >= 0) & (rows < STAMP_SIDE) & (columns >= 0) & (columns < STAMP_SIDE)
    return float(stamp[rows[inside], columns[inside]].sum())


def _image_transform(
    truth: Truth, grid: FrequencyGrid, object_id: int, channel: str
) -> NDArray[np.complex128]:
    row = truth.row(object_id)
    point: NDArray[np.complex128] = truth.transform[truth.channel_index(channel)]
    scale = float(truth.table["scale"][row])
    if scale == 0:
        return point
    shape = (float(truth.table["axis_ratio"][row]), float(truth.table["angle"][row]))
    return point * disc_transform(grid, scale, *shape)


def mean_transform(
    psf: PsfModel,
    grid: FrequencyGrid,
    roll: NDArray[np.float64],
    dx: NDArray[np.float64],
    dy: NDArray[np.float64],
) -> NDArray[np.complex128]:
    """Return the transform of a point's image, mean over AORs that roll and miss their aim.

    Parameters
    ----------
    psf
        The channel's PSF.
    grid
        Where.
    roll, dx, dy
        (aor,): degrees, pixels.

    Returns
    -------
    ndarray
        Shape (side, side // 2 + 1).
    """
    total = np.zeros((grid.side, grid.kx.size), dtype=np.complex128)
    for angle, x, y in zip(roll, dx, dy, strict=True):
        total += psf.transfer(grid, float(angle)) * grid.phase(float(x), float(y))
    return total / roll.size


def aperture_sums(
    scenes: Sequence[NDArray[np.complex128]],
    grid: FrequencyGrid,
    *,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the flux of whole noiseless scenes inside the apertures around each place.

    Parameters
    ----------
    scenes
        Per channel the transform of the mean image, microjansky.
    grid
        Its frequencies.
    x, y
        (object,), pixels of the image.

    Returns
    -------
    ndarray
        (channel, aperture, object), microjansky, interpolated by a quintic spline.
    """
    sums = np.empty((len(scenes), len(APERTURE_RADII), x.size))
    for n, radius in enumerate(APERTURE_RADII):
        circle = aperture_transform(grid, radius, radius, 0.0)
        for c, scene in enumerate(scenes):
            image = grid.image(scene * circle)
            sums[c, n] = map_coordinates(image, np.stack([y, x]), order=5, mode="grid-wrap")
    return sums


def truth_table(
    population: Population,
    channels: Sequence[str],
    *,
    sky: tuple[NDArray[np.float64], NDArray[np.float64]],
    transforms: Sequence[NDArray[np.complex128]],
    sums: NDArray[np.float64],
) -> Table:
    """Return the table of the truth.

    Parameters
    ----------
    population
        The objects.
    channels
        The channels, in the order of the population's fluxes.
    sky
        ra and dec, degrees, (object,) each.
    transforms
        Per channel the mean transform of a point's image on `STAMP_SIDE` pixels.
    sums
        What `aperture_sums` found.

    Returns
    -------
    Table
        See `Truth`.
    """
    table = Table()
    table["id"] = np.arange(1, population.x.size + 1, dtype=np.int64)
    table["ra"], table["dec"] = sky
    for name in ("x", "y", "kind", "variable", "varies", "period", "amplitude"):
        table[name] = getattr(population, name)
    for name in ("scale", "axis_ratio", "angle"):
        table[name] = getattr(population, name)
    units = {"ra": "deg", "dec": "deg", "x": "pix", "y": "pix", "period": "d"}
    for name, unit in {**units, "scale": "pix", "angle": "deg"}.items():
        table[name].unit = unit
    lonely = _lonely(population)
    table["isolated"] = lonely
    for c, channel in enumerate(channels):
        mean = population.flux[:, c].mean(axis=1)
        table[f"flux_{channel}"] = mean
        table[f"flux_{channel}"].unit = "uJy"
        for n, radius in enumerate(APERTURE_RADII, start=1):
            energy = _energies(population, transforms[c], radius)
            own = mean * energy
            # Nothing contaminates what is not there: a dropout's flux in ch1 is 0.
            share = np.where(
                mean > 0, (sums[c, n - 1] - own) / np.where(mean > 0, own, 1.0), np.nan
            )
            table[f"energy_{channel}_aper{n}"] = energy
            table[f"contamination_{channel}_aper{n}"] = share
            if f"aper{n}" == _ISOLATED_METHOD:
                table["isolated"] &= ~(share > _ISOLATED_SHARE)
    return table


def _lonely(population: Population) -> NDArray[np.bool_]:
    """Say which objects have no other within eight pixels."""
    if population.x.size == 1:
        return np.ones(1, dtype=bool)
    places = np.stack([population.x, population.y], axis=1)
    distance = cKDTree(places).query(places, k=2)[0][:, 1]
    return np.asarray(distance > _ISOLATED_PIXELS)


def _energies(
    population: Population, transform: NDArray[np.complex128], radius: float
) -> NDArray[np.float64]:
    """Return the energy of every object in a circle; each shape is integrated once."""
    grid = frequency_grid(STAMP_SIDE)
    circle = transform * aperture_transform(grid, radius, radius, 0.0)
    shape = np.stack([population.scale, population.axis_ratio, population.angle], axis=1)
    shapes, member = np.unique(shape, axis=0, return_inverse=True)
    energy = [grid.mean_of(circle * disc_transform(grid, *parameters)) for parameters in shapes]
    return np.array(energy)[member.reshape(-1)]


def pack_hits(hits: Sequence[Hits]) -> dict[str, NDArray[np.int64] | NDArray[np.float32]]:
    """Join the hits of all mosaics, (aor, channel) in order, for `pack_arrays`."""
    counts = [one.y.size for one in hits]
    return {
        "start": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "y": np.concatenate([one.y for one in hits]).astype(np.int64),
        "x": np.concatenate([one.x for one in hits]).astype(np.int64),
        "amount": np.concatenate([one.amount for one in hits]).astype(np.float32),
        "number": np.concatenate([one.number for one in hits]).astype(np.int64),
    }


def pack_arrays(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return arrays as the bytes of an .npz file, the same at any time and place.

    Parameters
    ----------
    arrays
        By name; no Python objects.

    Returns
    -------
    bytes
        For `numpy.load`.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)
            # A ZipInfo without a date stands at 1980, not at the present time.
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    return buffer.getvalue()


def matched_rows(truth: Truth, x: ArrayLike, y: ArrayLike) -> NDArray[np.intp]:
    """Return which of the detected places each true object is, -1 where it was not detected.

    Parameters
    ----------
    truth
        The truth.
    x, y
        Places, superstack pixels, (n,).
    """
    tree = cKDTree(np.stack([np.asarray(x), np.asarray(y)], axis=1))
    places = np.stack([truth.table["x"], truth.table["y"]], axis=1)
    distance, row = tree.query(places, distance_upper_bound=_MATCH_PIXELS)
    return np.where(np.isfinite(distance), row, -1).astype(np.intp)


def read_truth(folder: str | Path) -> Truth:
    """Read the truth of a simulated field.

    Parameters
    ----------
    folder
        What `simulate` filled.

    Returns
    -------
    Truth
        All of it, in memory.

    Raises
    ------
    StoreMissing
        The folder holds no simulation, or one that was not finished.
    ImageUnreadable
        A file of the truth is damaged.
    """
    root = Path(folder)
    missing = [name for name in TRUTH_FILES if not (root / name).is_file()]
    if missing:
        msg = (
            f"{root} holds no finished simulation: {', '.join(missing)} not there; "
            "make one with idfzarr simulate"
        )
        raise StoreMissing(msg)
    curves = _load(root / "truth_lightcurves.npz")
    try:
        table = Table.read(root / "truth.ecsv", format="ascii.ecsv")
        return Truth(
            folder=root,
            channels=tuple(str(name) for name in curves["channel"]),
            table=table,
            **{name: curves[name] for name in _CURVES},
            transform=_load(root / "truth_psf.npz")["transform"],
            hits=_load(root / "truth_hits.npz"),
        )
    except (ValueError, KeyError) as error:
        msg = f"the truth in {root} is damaged: {error}; simulate the field again"
        raise ImageUnreadable(msg) from error


_CURVES = ("reqkey", "mjd", "flux", "zeropoint", "dx", "dy", "roll", "background")


def _load(path: Path) -> dict[str, Any]:
    try:
        # Given a path, np.load would leave the file open where it is no archive.
        content = io.BytesIO(path.read_bytes())
        with np.load(content, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        msg = f"{path} is damaged: {error}; simulate the field again"
        raise ImageUnreadable(msg) from error
