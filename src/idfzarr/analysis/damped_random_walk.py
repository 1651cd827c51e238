"""The damped random walk (Ornstein-Uhlenbeck process) that fits a lightcurve best.

Its covariance is ``sigma**2 exp(-|t_i - t_j| / tau)``, of which the inverse is tridiagonal, so that
the likelihood of n points, errors included, costs one tridiagonal factorisation (LAPACK's pttrf):
the reduction of Rybicki & Press 1995 (Phys. Rev. Lett. 74, 1060). The unknown mean is integrated
over, as in Kozlowski et al. 2010 (ApJ 708, 927, appendix A).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from idfzarr.analysis.points import usable
from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Double: TypeAlias = NDArray[np.float64]
    Mask: TypeAlias = NDArray[np.bool_]

__all__ = [
    "FEWEST_POINTS",
    "LONGEST_TAU",
    "SHORTEST_TAU",
    "DampedRandomWalk",
    "damped_random_walk",
]

FEWEST_POINTS = 10
"""Lightcurves with fewer points of different times are not fitted."""

SHORTEST_TAU, LONGEST_TAU = 0.1, 1e5
"""Limits of tau, in days: white noise and an undamped walk in any lightcurve of a space mission."""

_SIGMA_RANGE = (1e-3, 1e2)  # times the standard deviation
_GRID = (13, 9)  # of tau and sigma, where the fit begins
_TOLD_APART = 0.5  # difference of ln likelihood of one standard deviation
_STEEPEST = 600.0  # largest exponent; beyond it points know nothing of each other


@dataclass(frozen=True)
class DampedRandomWalk:
    """A damped random walk fitted to a lightcurve.

    Attributes
    ----------
    tau
        Damping time in days. `LONGEST_TAU` or `SHORTEST_TAU` where the lightcurve tells nothing but
        that tau is long or short; NaN where it tells neither, or where there are too few points.
    sigma
        Standard deviation of the process over times much longer than tau, in the unit of the flux
        (sigma of Kelly et al. 2009 times sqrt(tau / 2)); it belongs to `tau`.
    limit
        ``long`` where an undamped walk fits about as well (tau is but a lower bound; then only
        ``sigma**2 / tau`` is measured), ``short`` where white noise of any strength beyond the
        errors does, ``both`` where both do, else empty. About as well: ln likelihood less than 0.5
        below the best.
    log_likelihood
        Of the best fit, natural logarithm.
    noise_log_likelihood
        Of a constant with the errors as they are: without a process.
    n
        Points of different times.
    """

    tau: float
    sigma: float
    limit: Literal["", "short", "long", "both"]
    log_likelihood: float
    noise_log_likelihood: float
    n: int


def damped_random_walk(
    mjd: Floats, flux: Floats, flux_err: Floats, good: Mask | None = None
) -> DampedRandomWalk:
    """Fit a damped random walk by maximum likelihood.

    Kelly, Bechtold & Siemiginowska 2009 (ApJ 698, 895); no prior but limits of tau and sigma. Tau
    is biased where the lightcurve is shorter than some ten tau (Kozlowski 2017, A&A 597, A128).

    Parameters
    ----------
    mjd
        Times in days, in any order, shape (n,).
    flux, flux_err, good
        Shape (n,). Measurements that are not good, not finite or without a positive error do not
        count; those of equal time are averaged.

    Returns
    -------
    DampedRandomWalk
        All NaN with fewer than `FEWEST_POINTS` points, and where all fluxes are equal.

    Raises
    ------
    UsageError
        The arrays differ in shape.

    Examples
    --------
    >>> rng = np.random.default_rng(4)
    >>> time = np.arange(0.0, 3000.0, 5.0)
    >>> walk = [0.0]
    >>> for _ in time[1:]:
    ...     walk.append(walk[-1] * np.exp(-5 / 80) + rng.normal(0, np.sqrt(1 - np.exp(-10 / 80))))
    >>> found = damped_random_walk(time, 100 + np.array(walk), np.full(time.shape, 0.1))
    >>> bool(40 < found.tau < 160), found.limit
    (True, '')
    """
    shapes = [None if one is None else one.shape for one in (mjd, flux, flux_err, good)]
    if flux.ndim != 1 or any(shape not in {None, flux.shape} for shape in shapes):
        msg = f"times, fluxes, errors and good must have one shape (n,), not {shapes}"
        raise UsageError(msg)
    known = usable(flux, flux_err, good) & np.isfinite(mjd)
    time, value, error = _merged(*(a[known].astype(np.float64) for a in (mjd, flux, flux_err)))
    scale = float(np.std(value)) if len(value) else 0.0
    if len(time) < FEWEST_POINTS or scale == 0:
        return DampedRandomWalk(np.nan, np.nan, "", np.nan, np.nan, len(time))
    likelihood = _Likelihood(time, (value - value.mean()) / scale, error / scale)
    return _fit(likelihood, scale)


def _merged(time: Double, value: Double, error: Double) -> tuple[Double, Double, Double]:
    """Return points in order of time, those of one time replaced by their weighted mean."""
    times, place = np.unique(time, return_inverse=True)
    weight = error**-2
    total = np.bincount(place, weight, len(times))
    return times, np.bincount(place, weight * value, len(times)) / total, 1 / np.sqrt(total)


class _Likelihood:
    """The likelihood of parameters, for one lightcurve."""

    def __init__(self, time: Double, value: Double, error: Double) -> None:
        from scipy.linalg import lapack

        self._factorise, self._solve = lapack.dpttrf, lapack.dpttrs
        self.n = len(time)
        self._gap = np.diff(time)
        self._weight = error**-2
        self._log_noise = -np.log(self._weight).sum()
        # right-hand sides: the fluxes and ones, from which the mean is found
        self._sides = np.stack([value, np.ones_like(value)], axis=1)
        self._weighted = np.asfortranarray(self._weight[:, None] * self._sides)

    def __call__(self, log_tau: float, log_sigma: float) -> float:
        """Return ln likelihood, the mean integrated over."""
        steep = np.minimum(self._gap / np.exp(log_tau), _STEEPEST / 2)
        kept = np.exp(-steep)  # the correlation of successive points
        forgotten = -np.expm1(-2 * steep)  # 1 - kept**2
        scale = np.exp(-2 * log_sigma)
        carried = scale / np.expm1(2 * steep)
        diagonal = self._weight + scale
        diagonal[1:] += carried
        diagonal[:-1] += carried
        pivots, factors, failed = self._factorise(diagonal, -scale * kept / forgotten)
        if failed:
            return -np.inf
        signal, _ = self._solve(pivots, factors, self._weighted)
        # of the signal each side tells of: what it leaves to noise, and its own steps. Sums of
        # squares, where the shorter formula is a difference of large numbers
        left = self._sides - signal
        news = signal[1:] - kept[:, None] * signal[:-1]
        form = (left * self._weight[:, None]).T @ left
        form += (news * (scale / forgotten)[:, None]).T @ news
        form += scale * np.outer(signal[0], signal[0])
        log_process = 2 * self.n * log_sigma + np.log(forgotten).sum() + np.log(pivots).sum()
        return self._marginal(form, self._log_noise + log_process)

    def without_process(self) -> float:
        """Return ln likelihood of noise alone."""
        return self._marginal(self._weighted.T @ self._sides, self._log_noise)

    def _marginal(self, form: Double, log_determinant: float) -> float:
        chi2 = form[0, 0] - form[0, 1] ** 2 / form[1, 1]
        constant = (self.n - 1) * np.log(2 * np.pi)
        return float(-0.5 * (chi2 + log_determinant + np.log(form[1, 1]) + constant))


def _best_sigma(likelihood: _Likelihood, log_tau: float) -> tuple[float, float]:
    """Return ln likelihood and sigma of the best fit of a given tau."""
    from scipy.optimize import minimize_scalar

    smallest, largest = np.log(_SIGMA_RANGE)
    # so many that the best lies beside the maximum
    guesses = np.linspace(smallest, largest, 2 * _GRID[1])
    guess = max(guesses, key=lambda log_sigma: likelihood(log_tau, log_sigma))
    width = guesses[1] - guesses[0]
    found = minimize_scalar(
        lambda log_sigma: -likelihood(log_tau, log_sigma),
        bounds=(max(guess - width, smallest), min(guess + width, largest)),
        method="bounded",
    )
    return -float(found.fun), float(np.exp(found.x))


def _fit(likelihood: _Likelihood, scale: float) -> DampedRandomWalk:
    from scipy.optimize import minimize

    limits: dict[Literal["short", "long"], float] = {"short": SHORTEST_TAU, "long": LONGEST_TAU}
    shortest, longest = np.log(list(limits.values()))
    smallest, largest = np.log(_SIGMA_RANGE)
    grid = [
        (likelihood(tau, sigma), float(tau), float(sigma))
        for tau in np.linspace(shortest, longest, _GRID[0])
        for sigma in np.linspace(smallest, largest, _GRID[1])
    ]
    fit = minimize(
        lambda at: -likelihood(at[0], at[1]),
        max(grid)[1:],
        method="L-BFGS-B",
        bounds=[(shortest, longest), (smallest, largest)],
    )
    best, log_tau, log_sigma = max((-float(fit.fun), float(fit.x[0]), float(fit.x[1])), *grid)
    tau, sigma = float(np.exp(log_tau)), float(np.exp(log_sigma))
    as_well: list[tuple[Literal["short", "long"], float]] = []
    for name, at_limit in limits.items():
        value, its_sigma = _best_sigma(likelihood, float(np.log(at_limit)))
        if value > best - _TOLD_APART:
            as_well.append((name, its_sigma))
    limit: Literal["", "short", "long", "both"] = ""
    if len(as_well) == 2:
        limit, tau = "both", np.nan
    elif as_well:
        ((limit, sigma),) = as_well
        tau = limits[limit]
    unit = float((likelihood.n - 1) * np.log(scale))  # likelihoods are of fluxes over scale
    return DampedRandomWalk(
        tau=tau,
        sigma=sigma * scale,
        limit=limit,
        log_likelihood=best - unit,
        noise_log_likelihood=likelihood.without_process() - unit,
        n=likelihood.n,
    )
