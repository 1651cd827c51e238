"""Every statistic of a lightcurve: its name, unit, definition and source.

From this registry the attributes of the store's ``variability/`` group and every table are made.
Letters in the definitions: ``f`` a flux, ``e`` its error, ``t`` its time in days, ``n`` the number
of good measurements, ``w = e**-2``; ``d = sqrt(n / (n - 1)) * (f - weighted_mean) / e``.
"""

from __future__ import annotations

from dataclasses import dataclass

from idfzarr.errors import UnknownName, closest

__all__ = [
    "COSTLY_STATISTICS",
    "DEFINITIONS",
    "SCORE",
    "STATISTICS",
    "STRUCTURE_FUNCTION_LAGS",
    "TWO_BAND_STATISTICS",
    "StatisticDefinition",
    "definition",
]

STRUCTURE_FUNCTION_LAGS = (30, 100, 300, 1000)
"""Lags, in days, at which the structure function is stored."""


@dataclass(frozen=True)
class StatisticDefinition:
    """One statistic of a lightcurve.

    Parameters
    ----------
    name
        As in the store.
    unit
        ``flux`` in it stands for the unit of the lightcurve's type.
    definition
        What it is, in a line.
    reference
        Where the definition is from.
    """

    name: str
    unit: str
    definition: str
    reference: str

    def units(self, flux_unit: str) -> str:
        """Return the unit of the statistic where fluxes have the given one.

        Parameters
        ----------
        flux_unit
            Such as ``uJy``; empty where it is unknown.

        Returns
        -------
        str
            Such as ``uJy`` or ``uJy/d``; empty where it depends on an unknown one.
        """
        if "flux" not in self.unit:
            return self.unit
        return self.unit.replace("flux", flux_unit) if flux_unit else ""


_SOKOLOVSKY = "Sokolovsky et al. 2017, MNRAS 464, 274, section 2"
_STETSON = "Stetson 1996, PASP 108, 851"
_OWN = "this package"

_OF_RANKS = (
    StatisticDefinition("n", "1", "number of good measurements", _OWN),
    StatisticDefinition("median", "flux", "median flux", _OWN),
    StatisticDefinition("median_err", "flux", "median of flux_err", _OWN),
    StatisticDefinition(
        "robust_scatter",
        "flux",
        "1.4826 x median absolute deviation from the median",
        f"{_SOKOLOVSKY}.4 (MAD)",
    ),
    StatisticDefinition(
        "iqr", "flux", "third minus first quartile, linearly interpolated", f"{_SOKOLOVSKY}.5 (IQR)"
    ),
    StatisticDefinition(
        "amplitude",
        "flux",
        "half the difference between the largest and the smallest flux",
        "Richards et al. 2011, ApJ 733, 10, table 3",
    ),
)

_OF_SCATTER = (
    StatisticDefinition(
        "weighted_mean", "flux", "mean with weights 1/flux_err**2", f"{_SOKOLOVSKY}.1, equation 2"
    ),
    StatisticDefinition(
        "standard_deviation",
        "flux",
        "sqrt(sum((f - mean(f))**2) / (n - 1)), without weights",
        f"{_SOKOLOVSKY}.2",
    ),
    StatisticDefinition(
        "skewness",
        "1",
        "n / ((n - 1) (n - 2)) sum((f - mean(f))**3) / standard_deviation**3",
        "adjusted Fisher-Pearson coefficient; Joanes & Gill 1998, The Statistician 47, 183 (G1)",
    ),
    StatisticDefinition(
        "reduced_chi2",
        "1",
        "sum(((flux - weighted_mean) / flux_err)**2) / (n - 1)",
        f"{_SOKOLOVSKY}.1, equation 1",
    ),
    StatisticDefinition(
        "chi2_log10_p",
        "1",
        "log10 of the probability that chi2 with n - 1 degrees of freedom reaches (n - 1) "
        "reduced_chi2 or more, if the lightcurve is constant and its errors are right",
        f"{_SOKOLOVSKY}.1",
    ),
    StatisticDefinition(
        "trimmed_chi2",
        "1",
        "mean of ((flux - median) / flux_err)**2 without the largest 1 % of them, at least one",
        f"{_OWN}: one bad point in a good lightcurve does not make a variable",
    ),
    StatisticDefinition(
        "roms",
        "1",
        "robust median statistic, sum(|f - median| / e) / (n - 1)",
        f"Enoch, Brown & Burgasser 2003, AJ 126, 1006; {_SOKOLOVSKY}.6",
    ),
    StatisticDefinition(
        "max_pull",
        "1",
        "the (flux - median) / flux_err that is farthest from zero, with its sign",
        _OWN,
    ),
    StatisticDefinition(
        "excess_variance",
        "1",
        "(variance with ddof=1 - mean(flux_err**2)) / mean(flux)**2",
        "Nandra et al. 1997, ApJ 476, 70; Vaughan et al. 2003, MNRAS 345, 1271, equation 8",
    ),
    StatisticDefinition(
        "stetson_k",
        "1",
        "mean(|d|) / sqrt(mean(d**2)); 0.798 for Gaussian noise",
        f"{_STETSON}, section 2",
    ),
)

_OF_TIME = (
    StatisticDefinition(
        "von_neumann",
        "1",
        "eta: the mean squared successive difference, in order of time, over the variance with "
        "ddof=1; 2 for white noise",
        f"von Neumann 1941, Ann. Math. Stat. 12, 367; {_SOKOLOVSKY}.15",
    ),
    StatisticDefinition(
        "inverse_eta",
        "1",
        "variance with ddof=1 over the mean squared successive difference, in order of time; "
        "0.5 for white noise",
        f"von Neumann 1941, Ann. Math. Stat. 12, 367; {_SOKOLOVSKY}.15",
    ),
    StatisticDefinition(
        "stetson_j",
        "1",
        "of one channel: mean of sign(P) sqrt(|P|) over P = d[i] d[i + 1], the n - 1 pairs of "
        "measurements successive in time, each measurement in two pairs, whatever their "
        "distance, all of weight 1; 0 for white noise",
        f"{_STETSON}, equation 1; {_SOKOLOVSKY}.10; pairs of successive points: {_OWN}",
    ),
    StatisticDefinition(
        "stetson_l",
        "1",
        "stetson_j stetson_k / 0.798, of one channel, all weights 1",
        f"{_STETSON}, section 2",
    ),
    StatisticDefinition(
        "slope",
        "flux/d",
        "slope of the straight line in time, fitted with weights 1/flux_err**2",
        "Bevington & Robinson 2003, Data Reduction and Error Analysis, equation 6.12",
    ),
    StatisticDefinition(
        "max_rate",
        "mag/d",
        "largest |change of magnitude| / change of time of successive measurements; fluxes that "
        "are not positive have no magnitude and are left out, and so are pairs of equal time",
        "Richards et al. 2011, ApJ 733, 10, table 3 (max_slope)",
    ),
    *(
        StatisticDefinition(
            f"sf_{lag}",
            "1",
            f"structure function at {lag} d, in units of the median flux (x 1.086: magnitudes, "
            f"where small): sqrt(<(f_i - f_j)**2 - e_i**2 - e_j**2>) / median over all pairs "
            f"{lag}/sqrt(2) <= t_j - t_i < {lag} sqrt(2) d; the root of the absolute value with "
            "the sign of the mean, so negative where errors explain more than is seen; NaN with "
            "fewer than 10 pairs or a median that is not positive",
            "Hughes, Aller & Aller 1992, ApJ 396, 469; Kozlowski 2016, ApJ 826, 118, section 2",
        )
        for lag in STRUCTURE_FUNCTION_LAGS
    ),
)

STATISTICS: tuple[StatisticDefinition, ...] = (*_OF_RANKS, *_OF_SCATTER, *_OF_TIME)
"""Statistics of every single lightcurve, in the order in which they are stored."""

TWO_BAND_STATISTICS: tuple[StatisticDefinition, ...] = (
    StatisticDefinition(
        "stetson_j2",
        "1",
        "of two channels, over the n AORs good in both: mean of sign(P) sqrt(|P|) with P = d1 d2, "
        "weighted means and n from these AORs alone, all weights 1",
        f"{_STETSON}, equation 1",
    ),
    StatisticDefinition(
        "welch_stetson_i",
        "1",
        "of two channels, over the n AORs good in both: sqrt(1 / (n (n - 1))) sum(((f1 - "
        "weighted_mean1) / e1) ((f2 - weighted_mean2) / e2)), weighted means from these AORs",
        "Welch & Stetson 1993, AJ 105, 1813, equation 2",
    ),
    StatisticDefinition(
        "pearson_r",
        "1",
        "Pearson correlation of the fluxes of two channels over the AORs good in both",
        "Kozlowski et al. 2010, ApJ 716, 530, section 3",
    ),
)
"""Statistics of a lightcurve in ch1 and its partner in ch2, stored at both types of a pair."""

COSTLY_STATISTICS: tuple[StatisticDefinition, ...] = (
    StatisticDefinition(
        "drw_tau",
        "d",
        "damping time of the damped random walk of the largest likelihood; 100000 d: an undamped "
        "walk fits about as well, tau is long; 0.1 d: white noise fits about as well, tau is short "
        "(ln likelihood within 0.5); NaN where both do, with fewer than 10 points, or not computed",
        "Kelly, Bechtold & Siemiginowska 2009, ApJ 698, 895; Kozlowski et al. 2010, ApJ 708, 927",
    ),
    StatisticDefinition(
        "drw_sigma",
        "flux",
        "asymptotic standard deviation of the damped random walk (Kelly's sigma sqrt(tau / 2))",
        "Kelly, Bechtold & Siemiginowska 2009, ApJ 698, 895; Kozlowski et al. 2010, ApJ 708, 927",
    ),
    StatisticDefinition(
        "period",
        "d",
        "period in which the star turns: that of the highest peaks of the Lomb-Scargle "
        "periodogram, or twice it, whose sum of harmonics has the least Bayesian information "
        "criterion; NaN where it was not computed",
        "Lomb 1976, Ap&SS 39, 447; Scargle 1982, ApJ 263, 835; VanderPlas 2018, ApJS 236, 16; "
        "Schwarz 1978, Ann. Stat. 6, 461",
    ),
    StatisticDefinition(
        "false_alarm_log10",
        "1",
        "log10 of the probability that noise alone makes as high a peak as the highest of that "
        "periodogram",
        "Baluev 2008, MNRAS 385, 1279",
    ),
)
"""Statistics that take milliseconds each: computed for candidates only, NaN elsewhere."""

SCORE = StatisticDefinition(
    "score",
    "1",
    "excess of trimmed_chi2 and inverse_eta over objects as bright, joined",
    "Sokolovsky et al. 2017, MNRAS 464, 274, section 4",
)
"""What ranks objects: see `idfzarr.analysis.excess.variability_score`."""

DEFINITIONS: dict[str, StatisticDefinition] = {
    one.name: one for one in (*STATISTICS, *TWO_BAND_STATISTICS, *COSTLY_STATISTICS, SCORE)
}
"""Every column of the store's ``variability/`` group by name."""


def definition(name: str) -> StatisticDefinition:
    """Return the definition of a statistic.

    Parameters
    ----------
    name
        As in the store.

    Returns
    -------
    StatisticDefinition
        Of that name.

    Raises
    ------
    UnknownName
        There is none of that name; the closest ones are named.
    """
    if name not in DEFINITIONS:
        msg = f"there is no statistic {name!r}{closest(name, DEFINITIONS)}"
        raise UnknownName(msg)
    return DEFINITIONS[name]
