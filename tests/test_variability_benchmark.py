"""The benchmark of statistics at a size that takes seconds, so that it cannot rot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _benchmarks_importable(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))


def test_compares_with_light_curve_and_prints_ratios(capsys):
    pytest.importorskip("light_curve", reason="pip install light-curve: GPL, tests only")
    from bench_variability import in_memory

    in_memory(200, 60)
    told = capsys.readouterr().out
    assert "12 features: median, robust_scatter" in told
    assert told.count("light-curve float64 / ours on") == 2


def test_refuses_to_time_what_does_not_agree():
    light_curve = pytest.importorskip("light_curve", reason="pip install light-curve: GPL")
    from bench_variability import batches, compare

    (batch,) = batches(80, 60)
    compare(batch, ["median"], light_curve.Extractor(light_curve.Median()))
    wrong = batch._replace(good=batch.good & (batch.mjd < batch.mjd[50]))
    right = light_curve.Extractor(light_curve.Median()).many(
        batch.packed("float64"), sorted=True, check=False
    )

    class Other:
        names = ("median",)

        def many(self, *_, **__):
            return right

    with pytest.raises(AssertionError, match="median"):
        compare(wrong, ["median"], Other())


def test_measures_a_store_and_verifies_it(tmp_path, capsys):
    from bench_variability import from_store

    from_store(tmp_path, 4, 60)
    assert "160 lightcurves of a store, 2 workers" in capsys.readouterr().out
