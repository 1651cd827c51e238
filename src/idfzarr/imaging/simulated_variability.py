"""How simulated objects vary: relative flux over time, one shape for each kind of variable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["STEADY", "VARIABLE_KINDS", "Curve", "Schedule", "vary"]

STEADY = "none"
"""The kind of an object that does not vary."""

VARIABLE_KINDS = (
    "drw",
    "eclipsing",
    "transient",
    "sinusoid",
    "sawtooth",
    "contact",
    "long_period",
    "microlensing",
)
"""Kinds of variation in time, in the order in which a small field gets them."""

# A curve that would not stand out of the noise is drawn again, so often at most.
_TRIES = 40
_WANTED_RMS_OVER_NOISE = 3.0


@dataclass(frozen=True)
class Schedule:
    """When the field is looked at: `mjd` (aor, channel) of mid-exposure; `exptime` in seconds."""

    mjd: NDArray[np.float64]
    exptime: float


@dataclass(frozen=True)
class Curve:
    """Relative flux (aor, channel); period in days or NaN; half the range over the mean."""

    relative: NDArray[np.float64]
    period: float
    amplitude: float


def vary(rng: np.random.Generator, kind: str, schedule: Schedule, *, noise: float) -> Curve:
    """Draw the variation of one object.

    Parameters
    ----------
    rng
        Where the numbers come from.
    kind
        One of `VARIABLE_KINDS`.
    schedule
        When it is looked at.
    noise
        Scatter of one AOR over the mean flux; amplitudes are at least five times as large.

    Returns
    -------
    Curve
        The same variation in every channel, at that channel's times.
    """
    draw = _DRAWS[kind]
    best = draw(rng, schedule.mjd, noise)
    for _ in range(_TRIES):
        if _rms(best) >= _WANTED_RMS_OVER_NOISE * noise:
            break
        other = draw(rng, schedule.mjd, noise)
        if _rms(other) > _rms(best):
            best = other
    return best


def _rms(curve: Curve) -> float:
    mean = curve.relative.mean()
    return float(curve.relative.std() / mean) if mean > 0 else 0.0


def _curve(relative: NDArray[np.float64], period: float = np.nan) -> Curve:
    mean = float(relative.mean())
    amplitude = 0.5 * float(np.ptp(relative)) / mean if mean > 0 else 0.0
    return Curve(relative, period, amplitude)


def _amplitude(
    rng: np.random.Generator, noise: float, low: float, high: float, *, most: float = 0.8
) -> float:
    """Draw a half-amplitude: the usual range of the kind, lifted above the noise."""
    return min(max(float(rng.uniform(low, high)), 5.0 * noise), most)


def _period(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _phase(
    rng: np.random.Generator, mjd: NDArray[np.float64], period: float
) -> NDArray[np.float64]:
    return np.asarray(((mjd - mjd.min()) / period + rng.random()) % 1.0)


def _sinusoid(rng: np.random.Generator, mjd: NDArray[np.float64], noise: float) -> Curve:
    period = _period(rng, 0.4, 60.0)
    half = _amplitude(rng, noise, 0.15, 0.4)
    return _curve(1.0 + half * np.sin(2.0 * np.pi * _phase(rng, mjd, period)), period)


def _sawtooth(rng: np.random.Generator, mjd: NDArray[np.float64], noise: float) -> Curve:
    """Rise fast and fall slowly, as RR Lyrae stars and Cepheids do."""
    period = _period(rng, 0.5, 30.0)
    half = _amplitude(rng, noise, 0.15, 0.35)
    phase = _phase(rng, mjd, period)
    rise = float(rng.uniform(0.12, 0.25))
    shape = np.where(phase < rise, phase / rise, (1.0 - phase) / (1.0 - rise))
    return _curve(1.0 + half * (2.0 * shape - 1.0), period)


def _contact(rng: np.random.Generator, mjd: NDArray[np.float64], noise: float) -> Curve:
    """Two unequal minima in every turn, as W Ursae Majoris stars have."""
    period = _period(rng, 0.25, 0.8)
    half = _amplitude(rng, noise, 0.15, 0.3, most=0.42)
    phase = _phase(rng, mjd, period)
    light = 1.0 - half * (1.0 + np.cos(4.0 * np.pi * phase))
    return _curve(light - 0.12 * half * (1.0 + np.cos(2.0 * np.pi * phase)), period)


def _eclipsing(rng: np.random.Generator, mjd: NDArray[np.float64], noise: float) -> Curve:
    """Two eclipses with flat light between them."""
    period = _period(rng, 0.8, 20.0)
    depth = min(2.0 * _amplitude(rng, noise, 0.2, 0.35), 0.85)
    second = depth * float(rng.uniform(0.3, 0.7))
    width = float(rng.uniform(0.14, 0.2))
    phase = _phase(rng, mjd, period)
    primary = _eclipse(phase, 0.25, width)
    secondary = _eclipse(phase, 0.75, width)
    return _curve(1.0 - depth * primary - second * secondary, period)


def _eclipse(phase: NDArray[np.float64], middle: float, width: float) -> NDArray[np.float64]:
    """Return a trapezium of height 1: a third of it ingress, a third flat, a third egress."""
    distance = np.abs(phase - middle)
    return np.clip((width / 2.0 - distance) / (width / 3.0), 0.0, 1.0)


def _long_period(rng: np.random.Generator, mjd: NDArray[np.float64], noise: float) -> Curve:
    """Swing over a year with an overtone, as Miras and semiregular stars do."""
    period = _period(rng, 150.0, 500.0)
    half = _amplitude(rng, noise, 0.2, 0.45)
    angle = 2.0 * np.pi * _phase(rng, mjd, period)
    overtone = 0.25 * np.sin(2.0 * angle + rng.uniform(0, 2 * np.pi))
    return _curve(1.0 + half * (np.sin(angle) + overtone) / 1.25, period)


def _microlensing(rng: np.random.Generator, mjd: NDArray[np.float64], noise: float) -> Curve:
    """One symmetric brightening (Paczynski 1986, ApJ 304, 1)."""
    del noise
    span = max(float(np.ptp(mjd)), 1.0)
    closest = float(rng.uniform(0.15, 0.45))
    middle = mjd.min() + span * float(rng.uniform(0.3, 0.7))
    crossing = span * float(rng.uniform(0.08, 0.2))
    u = np.hypot(closest, (mjd - middle) / crossing)
    return _curve((u**2 + 2.0) / (u * np.sqrt(u**2 + 4.0)))


def _transient(rng: np.random.Generator, mjd: NDArray[np.float64], noise: float) -> Curve:
    """Appear out of nothing, fade, and be gone: present in a tenth of the AORs, three at least."""
    del noise
    aors = mjd.shape[0]
    present = min(max(3, aors // 10), aors)
    first = int(rng.integers(0, aors - present + 1))
    light = np.zeros(mjd.shape)
    fading = np.exp(-1.2 * np.arange(present) / present)
    light[first : first + present] = fading[:, None]
    return _curve(light)


def _damped_random_walk(rng: np.random.Generator, mjd: NDArray[np.float64], noise: float) -> Curve:
    """Wander as quasars do: a damped random walk in magnitude (Kelly et al. 2009, ApJ 698, 895)."""
    tau = _period(rng, 60.0, 400.0)
    sigma = max(float(rng.uniform(0.15, 0.35)), 4.0 * noise)
    order = np.argsort(mjd, axis=None, kind="stable")
    times = mjd.reshape(-1)[order]
    steps = rng.normal(0.0, 1.0, times.size)
    walk = np.empty(times.size)
    walk[0] = sigma * steps[0]
    for i in range(1, times.size):
        memory = np.exp(-(times[i] - times[i - 1]) / tau)
        walk[i] = walk[i - 1] * memory + sigma * np.sqrt(1.0 - memory**2) * steps[i]
    light = np.empty(times.size)
    light[order] = 10.0 ** (-0.4 * np.clip(walk, -2.0, 2.0))
    return _curve(light.reshape(mjd.shape))


_DRAWS: dict[str, Callable[[np.random.Generator, NDArray[np.float64], float], Curve]] = {
    "drw": _damped_random_walk,
    "eclipsing": _eclipsing,
    "transient": _transient,
    "sinusoid": _sinusoid,
    "sawtooth": _sawtooth,
    "contact": _contact,
    "long_period": _long_period,
    "microlensing": _microlensing,
}
