"""Two-band statistics against loops in the words of their papers, scipy and hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from idfzarr.analysis import two_band
from idfzarr.analysis.statistic_definitions import TWO_BAND_STATISTICS
from idfzarr.analysis.variability import two_band_statistics
from idfzarr.errors import UsageError

NAMES = [d.name for d in TWO_BAND_STATISTICS]


def by_hand(f1, e1, f2, e2):
    n = len(f1)
    if n < 2:
        return dict.fromkeys(NAMES, math.nan)
    mean1, mean2 = np.average(f1, weights=e1**-2), np.average(f2, weights=e2**-2)
    total_i = total_j = 0.0
    for a, b, c, d in zip(f1, e1, f2, e2, strict=True):
        total_i += (a - mean1) / b * (c - mean2) / d
        p = (math.sqrt(n / (n - 1)) * (a - mean1) / b) * (math.sqrt(n / (n - 1)) * (c - mean2) / d)
        total_j += math.copysign(math.sqrt(abs(p)), p)
    return {
        "stetson_j2": total_j / n,
        "welch_stetson_i": math.sqrt(1 / (n * (n - 1))) * total_i,
        "pearson_r": stats.pearsonr(f1, f2)[0],
    }


def pairs_of(seed, rows=30, columns=250):
    rng = np.random.default_rng(seed)
    shared = np.cumsum(rng.normal(size=(rows, columns)), axis=1)
    flux1 = (100 + shared + rng.normal(size=shared.shape)).astype(np.float32)
    flux2 = (30 - 0.5 * shared + rng.normal(size=shared.shape)).astype(np.float32)
    err1, err2 = (rng.uniform(0.5, 2, flux1.shape).astype(np.float32) for _ in range(2))
    good1, good2 = (rng.random(flux1.shape) > 0.2 for _ in range(2))
    flux1[rng.random(flux1.shape) > 0.9] = np.nan
    err2[rng.random(flux1.shape) > 0.95] = 0
    return flux1, err1, flux2, err2, good1, good2


@pytest.mark.parametrize("block", [1, 700, 10**6])
def test_agrees_with_a_loop(monkeypatch, block):
    monkeypatch.setattr(two_band, "_BLOCK", block)
    flux1, err1, flux2, err2, good1, good2 = pairs_of(1)
    good1[3] = False
    good2[4] = ~good1[4]
    good1[5] = good2[5] = np.arange(250) == 7
    flux1[5, 7], err2[5, 7] = 3, 1
    found = two_band_statistics(flux1, err1, flux2, err2, good1=good1, good2=good2)
    assert list(found) == NAMES
    for row in range(len(flux1)):
        use = good1[row] & good2[row] & np.isfinite(flux1[row]) & (err2[row] > 0)
        parts = [a[row][use].astype(float) for a in (flux1, err1, flux2, err2)]
        for name, value in by_hand(*parts).items():
            np.testing.assert_allclose(found[name][row], value, rtol=1e-6, err_msg=name)
    assert (found["pearson_r"][10:] < 0).mean() > 0.8
    assert np.isnan(found["stetson_j2"][3:6]).all()


def test_hand_worked():
    flux1, flux2 = np.array([[1.0, 2, 3]]), np.array([[2.0, 4, 9]])
    found = two_band_statistics(flux1, np.ones((1, 3)), flux2, np.full((1, 3), 2.0))
    # pulls -1 0 1 and -1.5 -.5 2; products 1.5 0 2; n / (n - 1) = 1.5
    assert found["stetson_j2"][0] == pytest.approx(
        math.sqrt(1.5) * (math.sqrt(1.5) + math.sqrt(2)) / 3
    )
    assert found["welch_stetson_i"][0] == pytest.approx(3.5 / math.sqrt(6))
    assert found["pearson_r"][0] == pytest.approx(7 / math.sqrt(2 * 26))


@given(
    hnp.arrays(np.float32, (4, 2, 6), elements=st.floats(width=32)),
    hnp.arrays(bool, (2, 6)),
)
@settings(max_examples=60, deadline=None)
def test_laws_on_anything(values, good):
    flux1, err1, flux2, err2 = values
    found = two_band_statistics(flux1, err1, flux2, err2, good1=good)
    swapped = two_band_statistics(flux2, err2, flux1, err1, good2=good)
    for name in NAMES:
        np.testing.assert_array_equal(found[name], swapped[name], err_msg=name)
    known = np.abs(found["pearson_r"][np.isfinite(found["pearson_r"])])
    assert (known < 1 + 1e-6).all()


def test_order_in_time_does_not_matter_but_the_pairing_does():
    flux1, err1, flux2, err2, _, _ = pairs_of(2)
    plain = two_band_statistics(flux1, err1, flux2, err2)
    shuffle = np.random.default_rng(0).permutation(flux1.shape[1])
    both = two_band_statistics(*(a[:, shuffle] for a in (flux1, err1, flux2, err2)))
    one = two_band_statistics(flux1[:, shuffle], err1[:, shuffle], flux2, err2)
    for name in NAMES:
        np.testing.assert_allclose(both[name], plain[name], rtol=1e-5)
        assert np.abs(one[name]).mean() < 0.5 * np.abs(plain[name]).mean()


@pytest.mark.parametrize("columns", [0, 1, 2, 5])
def test_constants_and_nothing_without_a_warning(columns):
    flux = np.full((2, columns), 7.3)
    found = two_band_statistics(flux, np.full_like(flux, 0.3), flux, np.ones_like(flux))
    assert np.isnan(found["pearson_r"]).all()
    for name in ("stetson_j2", "welch_stetson_i"):
        assert (found[name] == 0).all() if columns > 1 else np.isnan(found[name]).all()


def test_refuses_shapes_that_do_not_fit():
    with pytest.raises(UsageError, match=r"one shape \(lightcurve, aor\), not .*\(2, 4\)"):
        two_band_statistics(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 4)), np.ones((2, 3)))
    with pytest.raises(UsageError, match=r"one shape \(lightcurve, aor\)"):
        two_band_statistics(*[np.ones(3)] * 4)
