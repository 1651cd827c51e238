"""Photometry of one image: frozen apertures against photutils and sep, as ratios in one run.

    python benchmarks/bench_photometry.py
    python benchmarks/bench_photometry.py --sources 20000 --size 1300 --repeats 5

The rivals take turns on the same image with error and mask, so that a noisy machine slows all of
them alike; the ratios are those of the medians. `frozen` measures flux, error, coverage and flags;
`frozen x2` two images that share their variance, as original and clean do. What is frozen once per
field stands in a line of its own.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import photutils
import sep
from photutils.aperture import CircularAperture

from idfzarr.imaging.apertures import freeze
from idfzarr.imaging.photometry import measure, profile_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RADII = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0)


@dataclass(frozen=True)
class Scene:
    """One image with its noise, mask and positions."""

    image: NDArray[np.float32]
    error: NDArray[np.float32]
    bad: NDArray[np.bool_]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    radii: tuple[float, ...]


def make_scene(sources: int, size: int, apertures: int, *, masked: float, seed: int = 1) -> Scene:
    """Draw an image of noise: the time does not depend on what is in the pixels."""
    rng = np.random.default_rng(seed)
    image = rng.normal(1.0, 1.0, (size, size)).astype(np.float32)
    error = rng.uniform(0.5, 1.5, (size, size)).astype(np.float32)
    bad = rng.uniform(size=(size, size)) < masked
    x, y = rng.uniform(0, size - 1, (2, sources))
    return Scene(image, error, bad, x, y, RADII[:apertures])


def frozen_runner(scene: Scene, images: int) -> tuple[Callable[[], NDArray[np.float64]], float]:
    """Freeze the apertures; return what measures an image, and the seconds freezing took."""
    start = time.perf_counter()
    methods = [f"r{radius}" for radius in scene.radii]
    frozen = freeze({"x": scene.x, "y": scene.y}, methods, scene.image.shape)
    seconds = time.perf_counter() - start
    profile = profile_of(frozen, scene.image)
    stack = np.stack([scene.image] * images)

    def run() -> NDArray[np.float64]:
        sums = measure(frozen, stack, scene.error**2, ~scene.bad, profile=profile)
        return np.asarray(sums.flux[0])

    return run, seconds


def photutils_runner(scene: Scene) -> Callable[[], NDArray[np.float64]]:
    """Return what measures an image with photutils' own fastest door."""
    at = np.column_stack([scene.x, scene.y])

    def run() -> NDArray[np.float64]:
        apertures = [CircularAperture(at, radius) for radius in scene.radii]
        if hasattr(photutils.aperture, "AperturePhotometry"):
            result = photutils.aperture.AperturePhotometry(
                scene.image, apertures, error=scene.error, mask=scene.bad
            )
            errors = result.flux_err
            assert errors.shape == result.flux.shape
            return np.asarray(result.flux)
        table = photutils.aperture.aperture_photometry(
            scene.image, apertures, error=scene.error, mask=scene.bad, method="exact"
        )
        return np.column_stack([table[f"aperture_sum_{k}"] for k in range(len(apertures))])

    return run


def sep_runner(scene: Scene) -> Callable[[], NDArray[np.float64]]:
    """Return what measures an image with sep, exact overlaps."""

    def run() -> NDArray[np.float64]:
        sums = [
            sep.sum_circle(
                scene.image, scene.x, scene.y, radius, err=scene.error, mask=scene.bad, subpix=0
            )[0]
            for radius in scene.radii
        ]
        return np.column_stack(sums)

    return run


def compare(scene: Scene, repeats: int) -> None:
    """Time the rivals in turn and print the table."""
    one, seconds = frozen_runner(scene, 1)
    two, _ = frozen_runner(scene, 2)
    name = f"photutils {photutils.__version__}"
    rivals = {
        "frozen": one,
        "frozen x2": two,
        name: photutils_runner(scene),
        "sep": sep_runner(scene),
    }
    answers = {rival: run() for rival, run in rivals.items()}
    finite = np.isfinite(answers["frozen"])
    worst = float(np.max(np.abs(answers["frozen"] - answers[name])[finite]))
    taken: dict[str, list[float]] = {rival: [] for rival in rivals}
    for _ in range(repeats):
        for rival, run in rivals.items():
            start = time.perf_counter()
            run()
            taken[rival].append(time.perf_counter() - start)
    count = scene.x.size * len(scene.radii)
    print(
        f"\n{scene.x.size} sources x {len(scene.radii)} apertures, {scene.image.shape[0]} px, "
        f"{scene.bad.mean():.1%} masked; frozen once in {seconds:.2f} s; "
        f"largest difference to photutils {worst:.1e}"
    )
    print(f"{'':18s}{'us per measurement':>20s}{'p99':>10s}{'ms':>10s}{'times slower':>14s}")
    best = float(np.median(taken["frozen"])) / count
    for rival, times in taken.items():
        done = count * (2 if rival == "frozen x2" else 1)
        middle, late = np.median(times) / done, np.quantile(times, 0.99) / done
        milliseconds = np.median(times) * 1e3
        print(
            f"{rival:18s}{middle * 1e6:20.3f}{late * 1e6:10.3f}{milliseconds:10.2f}"
            f"{middle / best:14.1f}"
        )


def main() -> None:
    """Compare at the two sizes, or at the one asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", type=int)
    parser.add_argument("--size", type=int, default=512, help="pixels a side")
    parser.add_argument("--apertures", type=int, default=6, choices=range(1, len(RADII) + 1))
    parser.add_argument("--masked", type=float, default=0.01, help="share of bad pixels")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    cases = [(args.sources, args.size, args.apertures)]
    if args.sources is None:
        cases = [(1000, 512, 6), (10000, 1024, len(RADII))]
    for sources, size, apertures in cases:
        compare(make_scene(sources, size, apertures, masked=args.masked), args.repeats)


if __name__ == "__main__":
    main()
