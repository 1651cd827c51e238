"""Who lives in the simulated field: places, fluxes, shapes, and how the variable ones vary.

Numbers of sources follow N(>S) ~ S^-0.75 between the completeness limit of one AOR and saturation,
as Spitzer's counts do at these wavelengths (Fazio et al. 2004, ApJS 154, 39, figure 1: stars and
galaxies together, below and above their knee).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from idfzarr.imaging.simulated_psf import CHANNELS, GRID_ARCSEC, disc_transform
from idfzarr.imaging.simulated_variability import STEADY, VARIABLE_KINDS, Schedule, vary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from idfzarr.imaging.simulated_psf import FrequencyGrid

__all__ = ["Population", "aor_noise", "constant_transforms", "populate"]

_FAINTEST, _BRIGHTEST, _COUNTS_SLOPE = 1.5, 2000.0, 0.75
_GALAXY_SHARE = 0.45
# Enough shapes that no two galaxies of a field look alike by design, few enough to transform once.
_SHAPES = 48
_VARIABLE_SHARE = 0.05
_LONELY_PIXELS = 10.0
_EDGE_PIXELS = 3.0


@dataclass(frozen=True)
class Population:
    """The objects of a simulated field; arrays of shape (object,) unless said otherwise.

    Parameters
    ----------
    x, y
        Pixels of the grid, 0 in the middle of the first.
    kind
        ``star``, ``galaxy`` or ``quasar``; all but galaxies are points.
    variable
        How it varies: one of `VARIABLE_KINDS`, ``dropout`` or ``none``.
    period, amplitude
        Of the variation: days (NaN where it has none) and half the range over the mean.
    scale, axis_ratio, angle
        Exponential scale length in grid pixels, minor over major axis, degrees from the x axis
        to the major axis, counter-clockwise; 0, 1, 0 for points.
    flux
        Microjansky, (object, channel, aor), without zero point drift.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    kind: NDArray[np.str_]
    variable: NDArray[np.str_]
    period: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    scale: NDArray[np.float64]
    axis_ratio: NDArray[np.float64]
    angle: NDArray[np.float64]
    flux: NDArray[np.float64]

    @property
    def varies(self) -> NDArray[np.bool_]:
        """Whether the flux changes with time; a dropout's does not."""
        return np.isin(self.variable, VARIABLE_KINDS)


def aor_noise(channel: str, flux: NDArray[np.float64], exptime: float) -> NDArray[np.float64]:
    """Return about what one AOR's aperture photometry of a point source scatters by.

    Background, reading and the source's own photons over the effective area of the PSF, and 1 % for
    the zero point; used to make variations that can be seen, never as truth.

    Parameters
    ----------
    channel
        ``ch1`` or ``ch2``.
    flux
        Microjansky, any shape.
    exptime
        Seconds of the whole AOR, frames of about 100 s.

    Returns
    -------
    ndarray
        Microjansky, the shape of `flux`.
    """
    model = CHANNELS[channel]
    microjansky = 1e12 * np.radians(model.native_arcsec / 3600.0) ** 2
    rate = model.electron_rate / microjansky
    effective_pixels = 12.0
    sky = model.background * model.electron_rate * exptime + model.read_noise**2 * exptime / 100.0
    photons = np.sqrt(effective_pixels * sky + np.maximum(flux, 0.0) * rate * exptime)
    return np.asarray(np.hypot(photons / (rate * exptime), 0.01 * flux))


def populate(
    rng: np.random.Generator,
    *,
    objects: int,
    size: int,
    channels: Sequence[str],
    schedule: Schedule,
) -> Population:
    """Draw the objects of a field.

    Parameters
    ----------
    rng
        Where the numbers come from.
    objects, size
        How many, on a grid of how many pixels on a side.
    channels
        Which channels.
    schedule
        When they are looked at.

    Returns
    -------
    Population
        In no order of position or flux.
    """
    x = rng.uniform(_EDGE_PIXELS, size - 1 - _EDGE_PIXELS, objects)
    y = rng.uniform(_EDGE_PIXELS, size - 1 - _EDGE_PIXELS, objects)
    first = _counts(rng, objects)
    is_galaxy = rng.random(objects) < _GALAXY_SHARE
    # The brightest are stars of the Galaxy, the faint ones mostly galaxies.
    is_galaxy &= first < 0.1 * _BRIGHTEST
    variable = _choose_variables(rng, x, y, first, size=size, both=len(channels) > 1)
    is_galaxy &= variable == STEADY
    mean = _colours(rng, first, is_galaxy, channels)
    flux, period, amplitude, quasar = _vary_all(rng, mean, variable, channels, schedule)
    kind = np.where(is_galaxy, "galaxy", np.where(quasar, "quasar", "star"))
    scale, axis_ratio, angle = _shapes(rng, is_galaxy)
    return Population(x, y, kind, variable, period, amplitude, scale, axis_ratio, angle, flux)


def _counts(rng: np.random.Generator, objects: int) -> NDArray[np.float64]:
    """Draw fluxes in ch1, microjansky, from the truncated power law."""
    low, high = _FAINTEST**-_COUNTS_SLOPE, _BRIGHTEST**-_COUNTS_SLOPE
    uniform = rng.random(objects)
    return np.asarray((low - uniform * (low - high)) ** (-1.0 / _COUNTS_SLOPE))


def _colours(
    rng: np.random.Generator,
    first: NDArray[np.float64],
    is_galaxy: NDArray[np.bool_],
    channels: Sequence[str],
) -> NDArray[np.float64]:
    """Return mean fluxes (object, channel): stars of Vega's colour, galaxies redder and wider."""
    redness = rng.normal(0.0, 1.0, first.size)
    galaxy = np.exp(np.log(0.85) + 0.18 * redness)
    columns = []
    for channel in channels:
        star = CHANNELS[channel].star_ratio
        is_first = CHANNELS[channel].number == 1
        ratio = np.where(is_galaxy, galaxy, star * np.exp(0.03 * redness))
        columns.append(first * (1.0 if is_first else ratio))
    return np.stack(columns, axis=1)


def _shapes(
    rng: np.random.Generator, is_galaxy: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    # Half-light radii of 0.25 to 1.1 arcsec; an exponential disc's is 1.678 scale lengths.
    half_light = np.exp(rng.uniform(np.log(0.25), np.log(1.1), _SHAPES))
    library = np.stack(
        [
            half_light / 1.678 / GRID_ARCSEC,
            rng.uniform(0.3, 1.0, _SHAPES),
            rng.uniform(0, 180, _SHAPES),
        ]
    )
    chosen = library[:, rng.integers(0, _SHAPES, is_galaxy.size)]
    scale, axis_ratio, angle = np.where(is_galaxy, chosen, np.array([[0.0], [1.0], [0.0]]))
    return scale, axis_ratio, angle


def _choose_variables(
    rng: np.random.Generator,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    flux: NDArray[np.float64],
    *,
    size: int,
    both: bool,
) -> NDArray[np.str_]:
    """Give kinds of variation to objects that stand alone and inside every AOR's footprint."""
    names = (*VARIABLE_KINDS, "dropout") if both else VARIABLE_KINDS
    count = min(max(round(_VARIABLE_SHARE * x.size), len(names)), x.size // 3)
    again = [name for name in VARIABLE_KINDS if name != "transient"]
    kinds = [*names, *(again[i % len(again)] for i in range(count))][:count]
    alone = _loneliness(x, y, flux)
    alone[np.hypot(x - (size - 1) / 2, y - (size - 1) / 2) > 0.46 * size] *= 0.01
    good = np.flatnonzero(alone >= _LONELY_PIXELS)
    order = np.argsort(-alone, kind="stable")
    chosen = rng.permutation(good)[:count] if good.size >= count else order[:count]
    variable = np.full(x.size, STEADY, dtype="U16")
    variable[chosen] = kinds
    return variable


def _loneliness(
    x: NDArray[np.float64], y: NDArray[np.float64], flux: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the distance to the nearest object, pixels; less in the wings of a bright one."""
    places = np.stack([x, y], axis=1)
    if x.size == 1:
        return np.full(1, np.inf)
    alone = np.asarray(cKDTree(places).query(places, k=2)[0][:, 1], dtype=np.float64)
    bright = places[flux > 0.15 * _BRIGHTEST]
    if bright.size:
        distance = np.asarray(cKDTree(bright).query(places, k=2)[0])
        # Distance 0 is the bright object itself.
        nearest = np.where(distance[:, 0] > 0, distance[:, 0], distance[:, 1])
        alone = np.minimum(alone, nearest / 4.0)
    return alone


def _vary_all(
    rng: np.random.Generator,
    mean: NDArray[np.float64],
    variable: NDArray[np.str_],
    channels: Sequence[str],
    schedule: Schedule,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    aors = schedule.mjd.shape[0]
    flux = np.repeat(mean[:, :, None], aors, axis=2)
    period = np.full(variable.size, np.nan)
    amplitude = np.zeros(variable.size)
    quasar = np.isin(variable, ["drw", "dropout"])
    for row in np.flatnonzero(variable != STEADY):
        # Bright enough that a fifth of the flux stands out of one AOR's noise.
        level = np.exp(rng.uniform(np.log(12.0), np.log(250.0)))
        # One that is there in a tenth of the AORs must still be seen in their mean.
        level *= 4.0 if variable[row] == "transient" else 1.0
        ratio = [
            1.0 if CHANNELS[c].number == 1 else (1.2 if quasar[row] else CHANNELS[c].star_ratio)
            for c in channels
        ]
        flux[row] = level * np.array(ratio)[:, None]
        if variable[row] == "dropout":
            dark = [CHANNELS[c].number == 1 for c in channels]
            flux[row, dark] = 0.0
            continue
        noise = np.array(
            [
                float(aor_noise(c, flux[row, i, 0], schedule.exptime) / flux[row, i, 0])
                for i, c in enumerate(channels)
            ]
        )
        curve = vary(rng, str(variable[row]), schedule, noise=float(noise.max()))
        flux[row] *= curve.relative.T
        period[row], amplitude[row] = curve.period, curve.amplitude
    return flux, period, amplitude, quasar


def constant_transforms(
    population: Population, grid: FrequencyGrid, *, pad: int
) -> tuple[NDArray[np.complex128], ...]:
    """Return the transforms of all objects that do not vary, before any PSF, in microjansky.

    Parameters
    ----------
    population
        The objects.
    grid
        Frequencies of the padded image.
    pad
        Pixels of padding before the first pixel.

    Returns
    -------
    tuple of ndarray
        One for each channel, of shape (side, side // 2 + 1).
    """
    rows = np.flatnonzero(~population.varies)
    shape = np.stack([population.scale, population.axis_ratio, population.angle], axis=1)
    shapes, member = np.unique(shape[rows], axis=0, return_inverse=True)
    channels = range(population.flux.shape[1])
    totals = tuple(np.zeros((grid.side, grid.kx.size), dtype=np.complex128) for _ in channels)
    for number, (scale, axis_ratio, angle) in enumerate(shapes):
        one = rows[member.reshape(-1) == number]
        disc = disc_transform(grid, scale, axis_ratio, angle) if scale > 0 else 1.0
        x, y = population.x[one] + pad, population.y[one] + pad
        for c in channels:
            np.add(totals[c], grid.points(x, y, population.flux[one, c, 0]) * disc, out=totals[c])
    return totals
