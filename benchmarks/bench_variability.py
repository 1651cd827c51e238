"""Statistics of lightcurves against the compiled light-curve package, and of a whole cube.

    python benchmarks/bench_variability.py [--lightcurves 80000 --objects 5000 --aors 1200]

First, in memory: lightcurves with gaps and flags, in batches by turns, over the features that both
have; values are compared before anything is timed. light-curve (``pip install light-curve``; GPL,
so for tests and benchmarks only) gets its arrays packed, in order and unchecked, which is left out
of its time; ours gets the arrays of the cube and packs them itself. Goal: as fast or faster, on one
thread and on two.

Then from a store: ``--objects`` x 40 types are written as a cube, and every statistic (all but
random walks and periods, those of two channels too) is computed as ``idfzarr stats STORE --update
--periods none`` does: shards read, checked and calibrated, on two workers. Storing the table, some
megabytes, is left out. Goal: 2,000,000 lightcurves in 15 minutes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from synthetic import Field

from idfzarr.analysis.variability import STATISTICS, statistics
from idfzarr.build.variability_table import compute_variability
from idfzarr.flags import BAD_FLAGS
from idfzarr.progress import silent
from idfzarr.store.cube import Cube, create

BATCH = 4000
DESIGN = 2_000_000
GOAL_SECONDS = 900
MAD_TO_SIGMA = 1.482602218505602


def features():
    """Return light-curve's features, the first output of each under the name of ours."""
    import light_curve as theirs

    return {
        "median": theirs.Median(),
        "robust_scatter": theirs.MedianAbsoluteDeviation(),
        "iqr": theirs.InterPercentileRange(0.25),
        "amplitude": theirs.Amplitude(),
        "weighted_mean": theirs.WeightedMean(),
        "standard_deviation": theirs.StandardDeviation(),
        "skewness": theirs.Skew(),
        "reduced_chi2": theirs.ReducedChi2(),
        "excess_variance": theirs.ExcessVariance(),
        "stetson_k": theirs.StetsonK(),
        "von_neumann": theirs.Eta(),
        "slope": theirs.LinearFit(),
    }


class Batch(NamedTuple):
    """Lightcurves as a cube holds them."""

    flux: np.ndarray
    flux_err: np.ndarray
    good: np.ndarray
    mjd: np.ndarray

    def packed(self, kind):
        """Return light-curve's input."""
        known = self.good & np.isfinite(self.flux)
        return [
            tuple(np.ascontiguousarray(a[k], dtype=kind) for a in (self.mjd, flux, error))
            for flux, error, k in zip(self.flux, self.flux_err, known, strict=True)
        ]


def batches(count: int, aors: int):
    """Yield lightcurves of the benchmarks' field."""
    field = Field(n_objects=-(-count // 40), n_aors=aors)
    per_batch = BATCH // 40
    for first in range(0, field.n_objects, per_batch):
        block = field.block(first, min(per_batch, field.n_objects - first))
        flat = [a.reshape(-1, aors) for a in block]
        good = (flat[2] & BAD_FLAGS) == 0
        # light-curve refuses short ones
        enough = (good & np.isfinite(flat[0])).sum(axis=1) > 4
        yield Batch(flat[0][enough], flat[1][enough], good[enough], field.mjd)


def compare(batch: Batch, names: list[str], extractor) -> None:
    """Refuse to time what does not agree."""
    ours = statistics(batch.flux, batch.flux_err, batch.good, mjd=batch.mjd, names=names)
    found = extractor.many(batch.packed(np.float64), sorted=True, check=False, n_jobs=1)
    theirs = dict(zip(extractor.names, found.T, strict=True))
    alone = features()
    for name in names:
        if name == "iqr":
            continue  # their percentiles interpolate in another way
        factor = MAD_TO_SIGMA if name == "robust_scatter" else 1.0
        np.testing.assert_allclose(
            ours[name], factor * theirs[alone[name].names[0]], rtol=2e-6, atol=1e-9, err_msg=name
        )


def works_of(batch: Batch, extractor, names: list[str]):
    """Return what is timed, by name."""
    arrays = (batch.flux, batch.flux_err, batch.good)
    works = {}
    for threads in (1, 2):
        how = {"mjd": batch.mjd, "threads": threads}
        works[f"idfzarr, both have, {threads}"] = partial(statistics, *arrays, names=names, **how)
        for kind in ("float64", "float32"):
            works[f"light-curve {kind}, {threads}"] = partial(
                extractor.many, batch.packed(kind), sorted=True, check=False, n_jobs=threads
            )
        works[f"idfzarr, all {len(STATISTICS)}, {threads}"] = partial(statistics, *arrays, **how)
    return works


def in_memory(count: int, aors: int) -> None:
    """Print what each takes over the features both have."""
    import light_curve

    shared = features()
    extractor = light_curve.Extractor(*shared.values())
    # outputs that light-curve gives besides are left out of the comparison, not of its time
    names = list(shared)
    spent: dict[str, tuple[float, float]] = {}
    done = points = 0
    for batch in batches(count, aors):
        if not done:
            compare(batch, names, extractor)
        done += len(batch.flux)
        points += int((batch.good & np.isfinite(batch.flux)).sum())
        for name, work in works_of(batch, extractor, names).items():
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            before = spent.get(name, (0.0, 0.0))
            spent[name] = (
                before[0] + time.perf_counter() - wall,
                before[1] + time.process_time() - cpu,
            )
    print(
        f"{done:,} lightcurves x {aors:,} AORs, {points / done:.0f} good points each, "
        f"{len(names)} features: {', '.join(names)}"
    )
    for name, (wall, cpu) in spent.items():
        each = f"{1e6 * wall / done:6.1f} us each ({1e6 * cpu / done:.1f} of processor)"
        print(f"  {name + ' threads':36} {wall:7.2f} s  {each}")
    for threads in (1, 2):
        ours = spent[f"idfzarr, both have, {threads}"][0]
        for kind in ("float64", "float32"):
            ratio = spent[f"light-curve {kind}, {threads}"][0] / ours
            verdict = "reached" if ratio >= 1 else "MISSED"
            print(f"  light-curve {kind} / ours on {threads} threads: {ratio:.2f} ({verdict})")


def write_cube(folder: Path, objects: int, aors: int) -> Path:
    """Write the benchmarks' field as a cube."""
    field = Field(n_objects=objects, n_aors=aors)
    ra, dec = field.positions
    store = folder / "field.zarr"
    cube = create(
        store,
        objects={"object_id": field.object_ids, "ra": ra, "dec": dec},
        types=field.types,
        aors={"aor": field.aor_keys, "mjd": np.stack([field.mjd, field.mjd], axis=1)},
    )
    step = cube.schema.layout.shard_objects
    for first in range(0, objects, step):
        block = field.block(first, min(step, objects - first))
        cube.write_block(first, flux=block.flux, flux_err=block.flux_err, flag=block.flag)
    return store


def from_store(folder: Path, objects: int, aors: int) -> None:
    """Print what all statistics of a cube take, reading and writing included."""
    store = write_cube(folder, objects, aors)
    os.sync()  # what is still to be written is not the statistics' time
    cube = Cube(store, mode="r+")
    count = cube.shape[0] * cube.shape[1]
    plain = np.zeros((cube.shape[1], aors), dtype=np.float32)
    cpu, begun = time.process_time(), time.perf_counter()
    table = compute_variability(
        cube.writer,
        plain,
        plain + 1,
        periods="none",
        scheduler="threads",
        workers=2,
        progress=silent,
    )
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    verify(cube, table.columns)
    whole = seconds * DESIGN / count
    print(
        f"{count:,} lightcurves of a store, 2 workers: {seconds:.1f} s, {1e6 * cpu / count:.0f} us "
        f"of processor each; {DESIGN:,} in {whole / 60:.1f} minutes "
        f"({'reached' if whole <= GOAL_SECONDS else 'MISSED'}: {GOAL_SECONDS // 60} minutes)"
    )


def verify(cube: Cube, columns: dict[str, np.ndarray]) -> None:
    """Refuse figures of a table that is not of the cube's lightcurves."""
    flux, error, flag = np.moveaxis(cube.block(slice(0, 2)), 2, 0)
    for k, name in enumerate(columns["n"][:2].ravel()):
        at = np.unravel_index(k, flux.shape[:2])
        good = ((flag[at].astype(np.uint16) & BAD_FLAGS) == 0) & np.isfinite(flux[at])
        assert name == good.sum()
        if good.any():
            np.testing.assert_allclose(columns["median"][at], np.median(flux[at][good]), rtol=1e-6)
            np.testing.assert_allclose(columns["median_err"][at], np.median(error[at][good]), 1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lightcurves", type=int, default=80_000, help="in memory; 0: not")
    parser.add_argument("--objects", type=int, default=5000, help="of the store; 0: none")
    parser.add_argument("--aors", type=int, default=1200)
    parser.add_argument("--folder", type=Path, help="where the store is made; a temporary one")
    given = parser.parse_args()
    if given.lightcurves:
        in_memory(given.lightcurves, given.aors)
    if given.objects:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            from_store(Path(folder), given.objects, given.aors)


if __name__ == "__main__":
    main()
