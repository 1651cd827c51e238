"""Full-size skycells: FITS to store, size, whole reads and cutouts, against the rivals named.

    python benchmarks/bench_skycells.py [--runs 5] [--size NX NY]

One skycell in one band as the archive serves it (image, weight, mask; RICE, 6240 x 6243 pixels),
made first and left out of the timing, in a process with one core. Rivals: the served files
themselves, read by astropy; and the earlier toolkit's layout, float32 asinh values in zarr-python
chunks of 1024 x 1024 with Zstandard at level 3. Goals: local files to store at least 60 MB/s of
decoded pixels per core; a 512-pixel cutout in at most 20 ms; at most 1.05 of the served bytes and
0.6 of the earlier layout's; memory of a few images.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import zarr
from astropy.io import fits

from idfzarr.ps1.headers import read_image_cards
from idfzarr.ps1.skydataset import open_skycell
from idfzarr.ps1.skystore import create_skystore
from idfzarr.testing.ps1_files import file_bytes
from idfzarr.testing.ps1_sky import PS1Sky

_NAME = "skycell.1405.053"
_KINDS = ("image", "weight", "mask")
_CUT = 512


def median_ms(task, runs: int) -> float:
    spent = []
    for _ in range(runs):
        begun = time.perf_counter()
        task()
        spent.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(spent)


def disk_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def integers(path: Path, kind: str) -> np.ndarray:
    with fits.open(path, do_not_scale_image_data=True) as opened:
        pixels = opened[1].data
    return pixels.view(np.uint16) ^ np.uint16(0x8000) if kind == "mask" else pixels


def into_store(store, path: Path, kind: str, band: str) -> int:
    with path.open("rb") as stream:
        cards = read_image_cards(stream)
    pixels = integers(path, kind)
    store.write(_NAME, band, kind, pixels, cards=cards.image, primary_cards=cards.primary)
    return pixels.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, metavar=("NX", "NY"))
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="bench_skycells") as name:
        measure(Path(name), given.runs, tuple(given.size) if given.size else None)


def measure(folder: Path, runs: int, size: tuple[int, int] | None) -> None:
    sky = PS1Sky(seed=1, size=size, around=None if size is None else (332.0, 2.0))
    paths = {kind: folder / f"{kind}.fits" for kind in _KINDS}
    for kind, path in paths.items():
        path.write_bytes(file_bytes(sky, _NAME, "i", kind))
    store = create_skystore(folder / "s.zarr")
    old = zarr.open_group(folder / "old.zarr", mode="w")
    total = {"served": 0, "ours": 0, "old": 0, "pixels": 0, "seconds": 0.0, "writing": 0.0}
    for kind, path in paths.items():
        begun = time.perf_counter()
        total["pixels"] += into_store(store, path, kind, "i")
        total["seconds"] += time.perf_counter() - begun
        pixels = integers(path, kind)
        cards = store.attributes(_NAME, "i", kind)["header"]
        begun = time.perf_counter()
        store.write(_NAME, "z", kind, pixels, cards=cards)
        writing = time.perf_counter() - begun
        total["writing"] += writing
        with fits.open(path) as opened:
            theirs = np.asarray(opened[1].data)
        codec = zarr.codecs.ZstdCodec(level=3)
        old.create_array(kind, data=theirs, chunks=(1024, 1024), compressors=codec)
        called = {"image": "i", "weight": "i_wt", "mask": "i_mask"}[kind]
        ours = disk_bytes(folder / "s.zarr" / "1405" / _NAME / called)
        served, before = path.stat().st_size, disk_bytes(folder / "old.zarr" / kind)
        total["ours"] += ours
        total["served"] += served
        total["old"] += before
        print(
            f"{kind:7} {ours:>11,} bytes: {ours / served:.3f} of the served file, "
            f"{ours / before:.3f} of the earlier layout; write {pixels.nbytes / 1e6 / writing:.0f} "
            "MB/s"
        )
    megabytes = total["pixels"] / 1e6
    print(
        f"all     {total['ours']:>11,} bytes: {total['ours'] / total['served']:.3f} of the served "
        f"files (goal 1.05), {total['ours'] / total['old']:.3f} of the earlier layout (goal 0.6)\n"
        f"local files to store: {megabytes / total['seconds']:.0f} MB/s of decoded pixels on one "
        f"core (goal 60); without reading FITS {megabytes / total['writing']:.0f} MB/s"
    )
    reading(folder, store, old, paths["image"], runs)
    memory(store, paths["image"])


def reading(folder: Path, store, old, path: Path, runs: int) -> None:
    height, width = store.shape(_NAME, "i", "image")
    rng = np.random.default_rng(0)

    def window() -> tuple[slice, slice]:
        y, x = (int(rng.integers(n - _CUT + 1)) for n in (height, width))
        return slice(y, y + _CUT), slice(x, x + _CUT)

    def of_fits() -> None:
        with fits.open(path) as opened:
            opened[1].section[window()]

    ds = open_skycell(folder / "s.zarr", _NAME, bands="i")
    cuts = {
        "integers": lambda: store.read(_NAME, "i", "image", window()),
        "flux, from an open Dataset": lambda: ds.flux[(0, *window())].values,
        "flux, opening the store": lambda: (
            open_skycell(folder / "s.zarr", _NAME, bands="i").flux[(0, *window())].values
        ),
        "the earlier layout by zarr-python": lambda: old["image"][window()],
        "the served file by astropy": of_fits,
    }
    for told, task in cuts.items():
        print(f"cutout of {_CUT} px, {told}: {median_ms(task, 10 * runs):.1f} ms")
    whole = median_ms(lambda: store.read(_NAME, "i", "image"), runs)
    print(f"whole image: {whole:.0f} ms")


def memory(store, path: Path) -> None:
    pixels = integers(path, "image")
    cards = store.attributes(_NAME, "i", "image")["header"]
    peaks = {}
    for told, task in {
        "write": lambda: store.write(_NAME, "y", "image", pixels, cards=cards),
        "read": lambda: store.read(_NAME, "i", "image"),
        "flux (float32)": lambda: open_skycell(store, _NAME, bands="i").flux.values,
    }.items():
        tracemalloc.start()
        task()
        peaks[told] = tracemalloc.get_traced_memory()[1] / pixels.nbytes
        tracemalloc.stop()
    told = ", ".join(f"{name} {peak:.2f}" for name, peak in peaks.items())
    print(f"peak memory, in images of integers: {told}")


if __name__ == "__main__":
    sys.exit(main())
