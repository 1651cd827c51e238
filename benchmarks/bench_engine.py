"""Compare statistics of a whole cube through the xarray engine with a scan by `Cube.block`.

    python benchmarks/bench_engine.py [--objects 2000 --aors 1200 --runs 5 --workers 2]

Both sides read the same store, whose files are in the page cache, with a pool of as many threads.
The scan takes one block for a shard and reduces it with numpy; the engine is asked by
``xr.open_dataset(store, engine="idfzarr", chunks={})`` and reduces with Dask. Rounds alternate, so
that what else the machine does falls on both; every result is compared before anything is timed.

- ``mean``: the mean over AORs of flux, NaN left out. Goal: 1.5 times the scan.
- ``weighted``: the error-weighted mean over the AORs whose flag is 0, which needs flux, its error
  and the flag of every chunk; the engine asks for each of them by itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import numpy as np
import xarray as xr
from synthetic import Field

from idfzarr.store.cube import Cube, create

if TYPE_CHECKING:
    from collections.abc import Callable

GOAL = 1.5


def make_store(path: Path, field: Field) -> None:
    """Write the field, shard by shard."""
    ra, dec = field.positions
    cube = create(
        path,
        objects={"object_id": field.object_ids, "ra": ra, "dec": dec},
        types=field.types,
        aors={"aor": field.aor_keys, "mjd": field.mjd},
    )
    layout = cube.schema.layout
    for shard in range(layout.n_shards):
        first, last = layout.rows(shard)
        block = field.block(first, last - first)
        cube.write_block(first, flux=block.flux, flux_err=block.flux_err, flag=block.flag)


def scan_mean(block: np.ndarray) -> np.ndarray:
    """Return the mean flux of every lightcurve of a block."""
    return np.nanmean(block[:, :, 0], axis=-1)


def scan_weighted(block: np.ndarray) -> np.ndarray:
    """Return the error-weighted mean of every lightcurve of a block, flagged points left out."""
    flux, error, flag = block[:, :, 0], block[:, :, 1], block[:, :, 2]
    weight = np.where(flag == 0, error**-2, np.nan)
    return np.nansum(flux * weight, axis=-1) / np.nansum(weight, axis=-1)


def ask_mean(ds: xr.Dataset) -> xr.DataArray:
    """Ask for the same through xarray."""
    return ds["flux"].mean("aor")


def ask_weighted(ds: xr.Dataset) -> xr.DataArray:
    """Ask for the same through xarray."""
    weight = (ds["flux_err"] ** -2).where(ds["flag"] == 0)
    return (ds["flux"] * weight).sum("aor") / weight.sum("aor")


def scan(cube: Cube, pool: ThreadPoolExecutor, reduce: Callable[..., np.ndarray]) -> np.ndarray:
    """Reduce every shard in the threads of a pool."""
    layout = cube.schema.layout

    def one(shard: int) -> np.ndarray:
        return reduce(cube.block(slice(*layout.rows(shard))))

    return np.concatenate(list(pool.map(one, range(layout.n_shards))))


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def compare(store: Path, *, runs: int, workers: int) -> None:
    """Time both sides in turn and print the ratios of their medians."""
    cube = Cube(store)
    with (
        xr.open_dataset(store, engine="idfzarr", chunks={}) as ds,
        ThreadPoolExecutor(workers) as pool,
        dask.config.set(scheduler="threads", pool=pool),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Mean of empty slice|invalid value", RuntimeWarning)
        for name, reduce, ask in (
            ("mean", scan_mean, ask_mean),
            ("weighted", scan_weighted, ask_weighted),
        ):
            expected, found = scan(cube, pool, reduce), ask(ds).to_numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-4)
            by_scan, by_engine = [], []
            for _ in range(runs):
                by_scan.append(timed(lambda reduce=reduce: scan(cube, pool, reduce)))
                by_engine.append(timed(lambda ask=ask: ask(ds).compute()))
            ratio = statistics.median(by_engine) / statistics.median(by_scan)
            size = cube.schema.layout.n_objects * cube.shape[1] * cube.shape[3] * 12 / 1e9
            goal = (
                f", goal {GOAL}: {'met' if ratio <= GOAL else 'MISSED'}" if name == "mean" else ""
            )
            print(
                f"{name:<9} engine {statistics.median(by_engine):.2f} s, scan "
                f"{statistics.median(by_scan):.2f} s of {size:.2f} GB: ratio {ratio:.2f}{goal}"
            )
            pairs = zip(by_engine, by_scan, strict=True)
            print("          round by round:", " ".join(f"{a / b:.2f}" for a, b in pairs))


def main() -> None:
    """Make a store, compare, and say how busy the machine was."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--objects", type=int, default=2000)
    parser.add_argument("--aors", type=int, default=1200)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--store", type=Path, help="a store of an earlier run, or where to make it")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = asked.store or Path(folder) / "field.zarr"
        if not store.exists():
            make_store(store, Field(n_objects=asked.objects, n_aors=asked.aors))
        print(f"{Cube(store)!r}, {asked.workers} threads; load {os.getloadavg()[0]:.1f} before")
        compare(store, runs=asked.runs, workers=asked.workers)
        print(f"load {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
