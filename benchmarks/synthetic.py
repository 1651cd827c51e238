"""A field's worth of lightcurves with realistic noise, the same numbers in any order of asking.

What compression sees matters: measured fluxes have random mantissas, errors follow the depth of
their AOR and the coverage of their object, what is missing is missing in whole AORs and channels,
and some flags stand for ever while others come and go.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from idfzarr.flags import flag_bit
from idfzarr.measurement import default_measurements

EMPTY_FRACTION = 0.01
RANDOMLY_MISSING = 0.10
ROLLED_OUT = 0.11  # of the AORs, while the spacecraft's roll keeps the object off the detector

EDGE, MASKED, LOW_COVERAGE = flag_bit("edge"), flag_bit("masked_pixels"), flag_bit("low_coverage")
NEIGHBOUR, NOT_OBSERVED = flag_bit("neighbour"), flag_bit("not_observed")


class Block(NamedTuple):
    """Values of some objects: flux and its error float32, flag uint16, (object, type, aor)."""

    flux: np.ndarray
    flux_err: np.ndarray
    flag: np.ndarray


@dataclass(frozen=True)
class Field:
    """Objects, types and AORs, and the values of any object."""

    n_objects: int = 2000
    n_aors: int = 1200
    seed: int = 20031001

    @cached_property
    def types(self) -> list[str]:
        """Names of the 40 default types."""
        return [measurement.name for measurement in default_measurements()]

    @cached_property
    def object_ids(self) -> np.ndarray:
        """Unique ids in no order: an id is never a position."""
        ids = 10_000 + 7 * np.arange(self.n_objects, dtype=np.int64)
        return np.random.default_rng([self.seed, 1]).permutation(ids)

    @cached_property
    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Right ascension and declination in degrees, around the IRAC Dark Field."""
        rng = np.random.default_rng([self.seed, 2])
        return 265.0 + rng.uniform(-0.4, 0.4, self.n_objects), 69.0 + rng.uniform(
            -0.15, 0.15, self.n_objects
        )

    @cached_property
    def mjd(self) -> np.ndarray:
        """Mid-exposures in days over sixteen years, ascending."""
        return np.sort(np.random.default_rng([self.seed, 3]).uniform(53000, 58850, self.n_aors))

    @cached_property
    def aor_keys(self) -> np.ndarray:
        """Request keys."""
        return 3_800_000 + 512 * np.arange(self.n_aors, dtype=np.int64)

    @cached_property
    def _noise(self) -> np.ndarray:
        """Background noise of a pixel, (channel, aor), in microjansky."""
        rng = np.random.default_rng([self.seed, 4])
        depth = rng.choice([0.02, 0.028, 0.04], size=self.n_aors, p=[0.5, 0.3, 0.2])
        return depth * rng.lognormal(0, 0.05, size=(2, self.n_aors))

    @cached_property
    def _type_parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Channel, share of the light and number of pixels of each type."""
        rng = np.random.default_rng([self.seed, 5])
        names = self.types
        channel = np.array([int(name.startswith("ch2")) for name in names])
        n = len(names)
        return channel, rng.uniform(0.6, 1.3, n), rng.integers(12, 450, n).astype(np.float64)

    def values(self, position: int) -> Block:
        """Return the lightcurves of one object, (type, aor)."""
        rng = np.random.default_rng([self.seed, 6, position])
        channel, share, pixels = self._type_parts
        shape = (len(self.types), self.n_aors)
        mean = rng.lognormal(1.5, 1.4) * np.array([1.0, rng.uniform(0.5, 1.1)])[channel] * share
        coverage = np.clip(rng.normal(1.0, 0.02, (2, self.n_aors)), 0.85, 1.0)[channel]
        background = self._noise[channel] * np.sqrt(pixels)[:, None] / coverage
        variable = 1.0 + rng.gamma(0.3, 0.02) * np.sin(
            2 * np.pi * self.mjd / rng.uniform(5, 900) + rng.uniform(0, 6)
        )
        true = mean[:, None] * variable
        error = np.sqrt(background**2 + 0.004 * true)
        flux = true + error * rng.standard_normal(shape, dtype=np.float32)
        flag = np.zeros(shape, dtype=np.uint16)
        flag[(pixels > 150) & (rng.random(len(pixels)) < 0.6)] |= NEIGHBOUR
        flag |= np.where(rng.random((2, self.n_aors)) < 0.08, MASKED, 0)[channel].astype(np.uint16)
        flag |= np.where(coverage < 0.95, LOW_COVERAGE, 0).astype(np.uint16)
        flag |= np.where(rng.random((2, self.n_aors)) < 0.01, EDGE, 0)[channel].astype(np.uint16)
        missing = self._missing(rng, channel)
        flux, error = flux.astype(np.float32), error.astype(np.float32)
        flux[missing], error[missing], flag[missing] = np.nan, np.nan, NOT_OBSERVED
        return Block(flux, error, flag)

    def _missing(self, rng: np.random.Generator, channel: np.ndarray) -> np.ndarray:
        season = np.mod(self.mjd / 365.25 - rng.uniform(), 1.0) < ROLLED_OUT
        lost = (rng.random((2, self.n_aors)) < RANDOMLY_MISSING) | season
        missing = lost[channel]
        missing[rng.random(len(channel)) < EMPTY_FRACTION] = True
        return missing

    def block(self, first: int, count: int) -> Block:
        """Return the lightcurves of neighbouring objects, (object, type, aor)."""
        parts = [self.values(position) for position in range(first, first + count)]
        return Block(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))
