"""Time cone searches on a field of 50,000 objects.

    python benchmarks/bench_cone.py [--objects 50000 --runs 200]

Three figures: the first search on arrays, tree included, in a process that has imported scipy
(goal: at most 20 ms); a later search on arrays, `SkyTree.cone` (0.05 ms); ``ds.idf.cone`` on the
lazy Dataset of a store of 40 types, whose coordinates it selects too (2 ms). For comparison,
astropy's ``SkyCoord.separation`` over all objects. Every search is checked against that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.coordinates import SkyCoord
from scipy.spatial import cKDTree

import idfzarr
from idfzarr.store.sky import SkyTree

if TYPE_CHECKING:
    from collections.abc import Callable

    import xarray as xr
    from numpy.typing import NDArray

_CENTRE = (265.0, 69.0)
_GOALS = {"first": 20.0, "arrays": 0.05, "dataset": 2.0}


def field(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return right ascension and declination of objects in half a degree."""
    rng = np.random.default_rng(1)
    dec = _CENTRE[1] + rng.uniform(-0.25, 0.25, n)
    ra = _CENTRE[0] + rng.uniform(-0.25, 0.25, n) / np.cos(np.radians(_CENTRE[1]))
    return ra, dec


def make_store(path: Path, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> xr.Dataset:
    """Write an empty cube of 40 types with these objects, and open it."""
    methods = ["auto", "iso", *(f"aper{n}" for n in range(1, 9))]
    images = ("original", "clean")
    idfzarr.create(
        path,
        objects={"object_id": np.arange(len(ra)), "ra": ra, "dec": dec},
        types=[f"{c}_{m}_{i}" for c in ("ch1", "ch2") for i in images for m in methods],
        aors={"aor": np.arange(1200), "mjd": 53000.0 + np.arange(1200)},
    )
    return idfzarr.open(path)


def milliseconds(call: Callable[[], object], runs: int) -> list[float]:
    """Return how long each of several calls took."""
    spent = []
    for _ in range(runs):
        begun = time.perf_counter()
        call()
        spent.append(1e3 * (time.perf_counter() - begun))
    return spent


def told(what: str, spent: list[float], goal: float | None) -> str:
    """Return a line of the table."""
    middle = statistics.median(spent)
    verdict = (
        "" if goal is None else f" | {goal:g} ms | {'reached' if middle <= goal else 'MISSED'}"
    )
    return f"{what}: {middle:.4f} ms (best {min(spent):.4f}, worst {max(spent):.4f}){verdict}"


def check(ds: xr.Dataset, tree: SkyTree, radius: float) -> int:
    """Compare searches with astropy's separations; return how many objects are in the cone."""
    centre = SkyCoord(*_CENTRE, unit="deg")
    apart = centre.separation(SkyCoord(ds["ra"].values, ds["dec"].values, unit="deg")).arcsec
    expected = np.flatnonzero(apart <= radius)
    expected = expected[np.argsort(apart[expected], kind="stable")]
    np.testing.assert_array_equal(tree.cone(*_CENTRE, radius), expected)
    np.testing.assert_array_equal(ds.idf.cone(*_CENTRE, radius=radius)["object"], expected)
    return len(expected)


def main() -> None:
    """Print a table of times and goals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--radius", type=float, default=30.0, help="arcseconds")
    asked = parser.parse_args()
    ra, dec = field(asked.objects)
    cKDTree(np.zeros((2, 3)))
    print(
        f"load {os.getloadavg()[0]:.1f}, {asked.objects} objects, median of {asked.runs} searches"
    )
    first = milliseconds(lambda: SkyTree(ra, dec).cone(*_CENTRE, asked.radius), 11)
    print(told("first search on arrays", first, _GOALS["first"]))
    tree = SkyTree(ra, dec)
    later = milliseconds(lambda: tree.cone(*_CENTRE, asked.radius), asked.runs)
    print(told("later search on arrays", later, _GOALS["arrays"]))
    with tempfile.TemporaryDirectory() as folder:
        ds = make_store(Path(folder) / "field.zarr", ra, dec)
        begun = milliseconds(lambda: ds.idf.cone(*_CENTRE, radius=asked.radius), 1)
        print(told("first ds.idf.cone", begun, None))
        lazy = milliseconds(lambda: ds.idf.cone(*_CENTRE, radius=asked.radius), asked.runs)
        print(told("later ds.idf.cone", lazy, _GOALS["dataset"]))
        found = check(ds, tree, asked.radius)
    every = SkyCoord(ra, dec, unit="deg")
    centre = SkyCoord(*_CENTRE, unit="deg")
    brute = milliseconds(lambda: np.flatnonzero(centre.separation(every).arcsec <= 30), 11)
    print(told("astropy, all separations", brute, None))
    print(f"{found} objects in the cone, equal to astropy's")


if __name__ == "__main__":
    main()
