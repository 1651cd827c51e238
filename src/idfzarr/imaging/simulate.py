"""A field with known answers, as the FITS mosaics of many AORs.

`simulate` writes what a mission would deliver, and beside it the truth: a pipeline that is right
finds the one in the other. Nothing here knows how this package measures.
"""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from scipy.fft import next_fast_len

from idfzarr.errors import StoreExists, StoreMissing, UsageError, closest
from idfzarr.imaging.simulated_files import (
    FIELD_CENTRE,
    disk_error,
    ecsv_bytes,
    field_wcs,
    mosaic_header,
    partial_name,
    write_whole,
)
from idfzarr.imaging.simulated_frame import EXPTIME, Frame, Hits, observe
from idfzarr.imaging.simulated_psf import (
    CHANNELS,
    GRID_ARCSEC,
    STAMP_SIDE,
    FrequencyGrid,
    PsfModel,
    frequency_grid,
    model_psf,
    read_psf,
    widened,
)
from idfzarr.imaging.simulated_sources import Population, constant_transforms, populate
from idfzarr.imaging.simulated_truth import (
    TRUTH_FILES,
    aperture_sums,
    mean_transform,
    pack_arrays,
    pack_hits,
    truth_table,
)
from idfzarr.imaging.simulated_variability import Schedule
from idfzarr.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["FIELD_CENTRE", "Simulation", "read_simulation", "simulate"]

_MARK = "simulation.json"
_AOR_TABLE = "aors.ecsv"
_KINDS = ("sci", "unc", "cov")
_SMALLEST = 64
_PAD = 32
_WORKERS = 2

_FIRST_MJD, _CADENCE_DAYS, _MISSION_DAYS = 53000.0, 17.0, 5800.0
_ROLL_PER_DAY = 360.0 / 365.25
_DRIFT, _POINTING, _POINTING_LIMIT = 0.01, 0.07, 0.25
# 1 MJy/sr on a pixel of the grid, in microjansky.
_PIXEL_MICROJANSKY = 1e12 * (GRID_ARCSEC / 3600.0 * np.pi / 180.0) ** 2


@dataclass(frozen=True)
class Simulation:
    """A simulated field on disk.

    Parameters
    ----------
    folder
        Where it lies.
    n_aors, n_objects, size, seed, channels
        What was asked for; `size` in pixels.
    psf
        ``model``, or ``measured`` where the PSFs came from files.
    """

    folder: Path
    n_aors: int
    n_objects: int
    size: int
    seed: int
    channels: tuple[str, ...]
    psf: str

    @property
    def aor_table(self) -> Path:
        """The table of the AORs."""
        return self.folder / _AOR_TABLE

    @property
    def truth_table(self) -> Path:
        """The table of the objects; `read_truth` reads it with the rest of the truth."""
        return self.folder / "truth.ecsv"

    @property
    def images(self) -> tuple[Path, ...]:
        """The mosaics, AOR by AOR, then by channel, then sci, unc, cov."""
        return tuple(
            self.folder / _image_name(aor, channel, kind)
            for aor in range(self.n_aors)
            for channel in self.channels
            for kind in _KINDS
        )

    @property
    def complete(self) -> bool:
        """Whether it was finished."""
        return all((self.folder / name).is_file() for name in (_AOR_TABLE, *TRUTH_FILES))


@dataclass(frozen=True)
class _Observations:
    """When and how the field is observed; arrays (aor, channel) unless said otherwise."""

    reqkey: NDArray[np.int64]
    start: NDArray[np.float64]
    date: NDArray[np.str_]
    zeropoint: NDArray[np.float64]
    dx: NDArray[np.float64]
    dy: NDArray[np.float64]
    roll: NDArray[np.float64]
    background: NDArray[np.float64]

    @property
    def mjd(self) -> NDArray[np.float64]:
        """Middle of the exposure, UTC."""
        return self.start + EXPTIME / 2.0 / 86400.0


@dataclass(frozen=True)
class _Field:
    """All that the images are made from."""

    simulation: Simulation
    population: Population
    observations: _Observations
    grid: FrequencyGrid
    psfs: tuple[PsfModel, ...]
    constant: tuple[NDArray[np.complex128], ...]


def simulate(
    folder: str | Path,
    *,
    aors: int = 64,
    objects: int = 600,
    size: int = 512,
    seed: int = 1,
    channels: Sequence[str] = ("ch1", "ch2"),
    psf_folder: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Simulation:
    """Simulate a field that is observed over and over, with known answers.

    Writes ``IDF_gr{n}_{channel}_{sci,unc,cov}.fits`` (MJy/sr, MJy/sr, frames; float32; one TAN
    grid of 0.6 arcsec), the AOR table ``aors.ecsv`` and the truth (see `read_truth`).
    The same arguments give the same bytes.

    Parameters
    ----------
    folder
        Where to; made if it is not there, and otherwise empty.
    aors
        How many AORs.
    objects
        How many stars, galaxies and quasars; about 5 % of them vary.
    size
        Pixels on a side, at least 64.
    seed
        Of all random numbers.
    channels
        Any of ``ch1``, ``ch2``.
    psf_folder
        Where measured PSFs lie (``irac_ch1_warm_psf.fits``...); a model if not given.
    overwrite
        Write once more over a simulation that was made with the same arguments.
    progress
        Told how far it is.

    Returns
    -------
    Simulation
        What lies in the folder.

    Raises
    ------
    UsageError
        An argument cannot be.
    StoreExists
        The folder is not empty, and not a simulation with the same arguments to be overwritten.
    ImageMissing, ImageUnreadable
        A measured PSF is not there or is none.
    StorageFull
        The disk is full.
    """
    names = _check(aors=aors, objects=objects, size=size, seed=seed, channels=channels)
    psf = "model" if psf_folder is None else "measured"
    simulation = Simulation(Path(folder), aors, objects, size, seed, names, psf)
    psfs = tuple(
        model_psf(name) if psf_folder is None else read_psf(psf_folder, name) for name in names
    )
    _claim(simulation, overwrite=overwrite)
    field = _make_field(simulation, psfs)
    write_whole(simulation.folder / _MARK, _mark(simulation))
    write_whole(simulation.aor_table, _aor_table(simulation, field.observations))
    _write_truth(field, _write_images(field, progress))
    return simulation


def read_simulation(folder: str | Path) -> Simulation:
    """Return the simulation that lies in a folder.

    Raises
    ------
    StoreMissing
        There is none.
    """
    path = Path(folder) / _MARK
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["channels"] = tuple(settings["channels"])
        return Simulation(folder=Path(folder), **settings)
    except (OSError, ValueError, TypeError, KeyError) as error:
        msg = f"{folder} holds no simulated field: {path.name} is not there or is none of ours"
        raise StoreMissing(msg) from error


def _check(
    *, aors: int, objects: int, size: int, seed: int, channels: Sequence[str]
) -> tuple[str, ...]:
    asked: dict[str, tuple[object, int]] = {
        "aors": (aors, 1),
        "objects": (objects, 1),
        "size": (size, _SMALLEST),
        "seed": (seed, 0),
    }
    for name, (value, least) in asked.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            msg = f"cannot simulate with {name}={value!r}: give an integer of at least {least}"
            raise UsageError(msg)
    names = (channels,) if isinstance(channels, str) else tuple(channels)
    for name in names:
        if name not in CHANNELS:
            msg = (
                f"cannot simulate the channel {name!r}{closest(name, CHANNELS)}; "
                f"there are {', '.join(CHANNELS)}"
            )
            raise UsageError(msg)
    if not names or len(set(names)) < len(names):
        msg = (
            f"cannot simulate the channels {names}: name each of {', '.join(CHANNELS)} once at most"
        )
        raise UsageError(msg)
    return names


def _claim(simulation: Simulation, *, overwrite: bool) -> None:
    """Make the folder, or make sure that nothing in it is lost."""
    folder = simulation.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = sorted(entry.name for entry in folder.iterdir())
    except FileExistsError:
        msg = f"cannot simulate into {folder}: it is a file; name a new folder"
        raise UsageError(msg) from None
    except PermissionError as error:
        msg = f"cannot simulate into {folder}: {error.strerror}; name a folder that may be written"
        raise UsageError(msg) from error
    except OSError as error:
        raise disk_error(folder, error) from error
    if not there:
        return
    ours = {_MARK, _AOR_TABLE, *TRUTH_FILES, *(path.name for path in simulation.images)}
    ours |= {partial_name(name) for name in ours}
    others = [name for name in there if name not in ours]
    if others or not _same(simulation):
        what = f"{others[0]!r}" if others else "a simulation with other arguments"
        msg = f"cannot simulate into {folder}: it holds {what}; name an empty or new folder"
        raise StoreExists(msg)
    if not overwrite:
        msg = (
            f"cannot simulate into {folder}: it holds this simulation already; use it, "
            "ask for --overwrite, or name a new folder"
        )
        raise StoreExists(msg)


def _same(simulation: Simulation) -> bool:
    try:
        return read_simulation(simulation.folder) == simulation
    except StoreMissing:
        # Killed before its first file was whole: only a partial mark can lie there.
        there = [entry.name for entry in simulation.folder.iterdir()]
        return there == [partial_name(_MARK)]


def _mark(simulation: Simulation) -> bytes:
    settings = {name: value for name, value in asdict(simulation).items() if name != "folder"}
    return (json.dumps(settings, indent=1) + "\n").encode()


def _rng(seed: int, *key: int) -> np.random.Generator:
    """Return a stream of its own, so that the order of the work does not matter."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _make_field(simulation: Simulation, psfs: tuple[PsfModel, ...]) -> _Field:
    observations = _observe(simulation)
    population = populate(
        _rng(simulation.seed, 1),
        objects=simulation.n_objects,
        size=simulation.size,
        channels=simulation.channels,
        schedule=Schedule(observations.mjd, EXPTIME),
    )
    side = next_fast_len(simulation.size + 2 * _PAD, real=True)
    # An odd side would do, but only an even one has its Nyquist frequency on the grid.
    while side % 2 or side < STAMP_SIDE:
        side = next_fast_len(max(side + 1, STAMP_SIDE), real=True)
    grid = frequency_grid(side)
    constant = constant_transforms(population, grid, pad=_PAD)
    return _Field(simulation, population, observations, grid, psfs, constant)


def _observe(simulation: Simulation) -> _Observations:
    """Draw when each AOR is taken and what is wrong with it."""
    rng = _rng(simulation.seed, 0)
    aors, shape = simulation.n_aors, (simulation.n_aors, len(simulation.channels))
    cadence = min(_CADENCE_DAYS, _MISSION_DAYS / aors)
    days = np.cumsum(rng.uniform(0.7, 1.3, aors)) * cadence
    # IRAC's channels look at the field one after the other, half an hour apart.
    numbers = np.array([CHANNELS[name].number for name in simulation.channels])
    start = np.round(_FIRST_MJD + days[:, None] + 0.0215 * (numbers - 1), 8)
    level = np.array([CHANNELS[name].background for name in simulation.channels])
    season = 1.0 + 0.15 * np.sin(2.0 * np.pi * days / 365.25)
    level = level * season[:, None] * rng.uniform(0.97, 1.03, shape)
    # From one side of the field to the other the sky changes by some 3 %.
    gradient = rng.normal(0.0, 0.03, (2, *shape)) * level / simulation.size
    dx, dy = np.clip(rng.normal(0.0, _POINTING, (2, *shape)), -_POINTING_LIMIT, _POINTING_LIMIT)
    return _Observations(
        reqkey=(148_000 + np.cumsum(rng.integers(1, 120, aors))).astype(np.int64) * 256,
        start=start,
        date=Time(start, format="mjd", scale="utc").isot,
        zeropoint=1.0 + np.clip(rng.normal(0.0, _DRIFT, shape), -4 * _DRIFT, 4 * _DRIFT),
        # The field's own frame is where the pointing is right on average.
        dx=dx - dx.mean(axis=0),
        dy=dy - dy.mean(axis=0),
        roll=np.mod(rng.uniform(0, 360) + _ROLL_PER_DAY * (start - _FIRST_MJD), 360.0),
        background=np.stack([level, gradient[0], gradient[1]], axis=-1),
    )


def _scene(field: _Field, aor: int, channel: int) -> NDArray[np.float64]:
    """Return the sources of one mosaic without noise, MJy/sr."""
    observations, population, grid = field.observations, field.population, field.grid
    moving = population.varies
    transform = field.constant[channel] + grid.points(
        population.x[moving] + _PAD,
        population.y[moving] + _PAD,
        population.flux[moving, channel, aor],
    )
    at = aor, channel
    transform *= field.psfs[channel].transfer(grid, float(observations.roll[at]))
    transform *= grid.phase(float(observations.dx[at]), float(observations.dy[at]))
    size = field.simulation.size
    inner = grid.image(transform)[_PAD : _PAD + size, _PAD : _PAD + size]
    return np.asarray(inner * (observations.zeropoint[at] / _PIXEL_MICROJANSKY))


def _write_images(field: _Field, progress: Progress) -> list[Hits]:
    """Write all mosaics and return their hits, AOR by AOR, then by channel."""
    channels = len(field.simulation.channels)
    total = field.simulation.n_aors * channels
    hits: list[Hits | None] = [None] * total
    progress("simulate", 0, total)
    with ThreadPoolExecutor(_WORKERS) as pool:
        futures = {
            pool.submit(_write_mosaic, field, number // channels, number % channels): number
            for number in range(total)
        }
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                hits[futures[future]] = future.result()
                progress("simulate", done, total)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return [one for one in hits if one is not None]


def _write_mosaic(field: _Field, aor: int, channel: int) -> Hits:
    simulation, observations = field.simulation, field.observations
    name = simulation.channels[channel]
    level, along_x, along_y = (float(v) for v in observations.background[aor, channel])
    frame = observe(
        _scene(field, aor, channel),
        _rng(simulation.seed, 2, aor, channel),
        channel=name,
        roll=float(observations.roll[aor, channel]),
        background=(level, along_x, along_y),
        bad_pixels=1000 * simulation.seed + CHANNELS[name].number,
    )
    header = mosaic_header(
        channel=name,
        size=simulation.size,
        name=f"gr{aor + 1}",
        reqkey=int(observations.reqkey[aor]),
        start=float(observations.start[aor, channel]),
        date=str(observations.date[aor, channel]),
        roll=float(observations.roll[aor, channel]),
    )
    for kind in _KINDS:
        header["BUNIT"] = ("frames" if kind == "cov" else "MJy/sr", "Unit of the pixels")
        header["EXPTYPE"] = (kind, "Exposure type")
        pixels = _pixels(frame, kind)
        buffer = io.BytesIO()
        fits.PrimaryHDU(pixels, header).writeto(buffer)
        write_whole(simulation.folder / _image_name(aor, name, kind), buffer.getvalue())
    return frame.hits


def _pixels(frame: Frame, kind: str) -> NDArray[np.float32]:
    return {"sci": frame.sci, "unc": frame.unc, "cov": frame.cov}[kind]


def _image_name(aor: int, channel: str, kind: str) -> str:
    return f"IDF_gr{aor + 1}_{channel}_{kind}.fits"


def _aor_table(simulation: Simulation, observations: _Observations) -> bytes:
    table = Table()
    table["reqkey"] = observations.reqkey
    table["group_name"] = [f"gr{n + 1}" for n in range(simulation.n_aors)]
    for c, channel in enumerate(simulation.channels):
        table[f"mjd_{channel}"] = observations.mjd[:, c]
        table[f"mjd_{channel}"].unit = "d"
    table["exptime"] = np.full(simulation.n_aors, EXPTIME)
    table["exptime"].unit = "s"
    return ecsv_bytes(table)


def _write_truth(field: _Field, hits: list[Hits]) -> None:
    simulation, observations, population = field.simulation, field.observations, field.population
    small = frequency_grid(STAMP_SIDE)
    transforms = []
    for c, psf in enumerate(field.psfs):
        aim = (observations.roll[:, c], observations.dx[:, c], observations.dy[:, c])
        transforms.append(mean_transform(psf, small, *aim))
    scenes = [_mean_scene(field, c, transform) for c, transform in enumerate(transforms)]
    sums = aperture_sums(scenes, field.grid, x=population.x + _PAD, y=population.y + _PAD)
    sky = field_wcs(simulation.size).pixel_to_world_values(population.x, population.y)
    table = truth_table(population, simulation.channels, sky=sky, transforms=transforms, sums=sums)
    curves = {
        "channel": np.array(simulation.channels),
        "reqkey": observations.reqkey,
        "mjd": observations.mjd,
        "flux": population.flux,
        "zeropoint": observations.zeropoint,
        "dx": observations.dx,
        "dy": observations.dy,
        "roll": observations.roll,
        "background": observations.background,
    }
    files = {
        "truth_lightcurves.npz": pack_arrays(curves),
        "truth_hits.npz": pack_arrays(pack_hits(hits)),
        "truth_psf.npz": pack_arrays({"transform": np.stack(transforms)}),
        "truth.ecsv": ecsv_bytes(table),
    }
    for name in TRUTH_FILES:
        write_whole(simulation.folder / name, files[name])


def _mean_scene(
    field: _Field, channel: int, transform: NDArray[np.complex128]
) -> NDArray[np.complex128]:
    """Return the transform of the mean of all mosaics, from the small one of a point."""
    population, grid = field.population, field.grid
    moving = population.varies
    sources = field.constant[channel] + grid.points(
        population.x[moving] + _PAD,
        population.y[moving] + _PAD,
        population.flux[moving, channel].mean(axis=1),
    )
    return sources * widened(transform, grid)
