"""Damage to a store, on purpose and by seed: all 18 rows of the fault table, in many variants.

A variant is a function that damages a copy of a store and returns what it did: the kinds of finding
that are right, the level at which one must be found, and where. It knows the specifications only,
see `zarr_bytes`; neither `care/` nor the readers and writers of `store/` have a part in it.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable  # noqa: TC003 - dataclasses are read by people
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import zarr_bytes as zb

if TYPE_CHECKING:
    from pathlib import Path

OLD = 3 * 86400
CHUNK_KINDS = ("chunk_corrupt", "chunk_missing")
ARRAYS = {
    "coordinate": ("ra", "object", "mjd", "aor_name", "type", "zeropoint"),
    "catalogue": ("catalogue/ra", "catalogue/flags", "catalogue/snr_ch1"),
    "image": ("images/superstack/ch1/flux", "images/superstack/ch2/segmentation"),
    "variability": ("variability/median", "variability/n"),
}


@dataclass(frozen=True)
class Target:
    """A store to damage: where it and its images lie, and what it was before it grew."""

    store: Path
    images: Path
    older: Path | None = None


@dataclass(frozen=True)
class Fault:
    """What was done to a store.

    `kinds` are right at `level` and above it, at the first of `keys` or below one that ends in a
    slash. `after` says what a repair with images at hand must lead to: ``mended`` (clean, and every
    chunk as it was), ``clean``, ``told`` (clean, or said to be lost) or ``stays``. `also` are kinds
    that may be found besides; `undo` takes back what lies outside the copy.
    """

    kinds: tuple[str, ...]
    level: str
    keys: tuple[str, ...] = ()
    after: str = "mended"
    object: int | None = None
    type: str = ""
    byte: int | None = None
    beside: str | None = ""
    names: str = ""
    also: tuple[str, ...] = ()
    number: int = 0
    variant: str = ""
    told: str = ""
    undo: Callable[[], None] | None = None

    def is_at(self, where):
        """Say whether a place, as a finding names it, is where this was done."""
        if self.beside is not None and where.beside != self.beside:
            return False
        if not self.keys:
            return True
        named = {where.key, where.array and f"{where.array}/zarr.json" * (not where.key)}
        return any(
            key in named
            or (key.endswith("/") and f"{where.key}/".startswith(key))
            or (key == "zarr.json" and where.key == where.array == "")
            for key in self.keys
        )

    def is_found_by(self, finding):
        """Say whether a finding is of the right kind and names the right place."""
        where = finding.where
        if finding.kind not in self.kinds or not self.is_at(where):
            return False
        if self.names and self.names not in f"{finding.message} {where.key}":
            return False
        if self.object is not None and finding.kind in CHUNK_KINDS:
            if (where.object, where.type) != (self.object, self.type):
                return False
            if self.byte is not None and finding.kind == "chunk_corrupt":
                begin, size = where.first_byte, where.n_bytes
                return begin is not None and size is not None and begin <= self.byte < begin + size
        return True


@dataclass(frozen=True)
class Variant:
    """A way to do it: row of the fault table, name, the kind of store it is done to."""

    number: int
    name: str
    base: str
    inject: Callable[[Target, random.Random], Fault]

    def __str__(self):
        return f"{self.number:02d} {self.name}"

    def __call__(self, target, seed):
        """Damage the store; the same seed does the same."""
        fault = self.inject(target, random.Random(f"{self.name} {seed}"))
        return replace(fault, number=self.number, variant=self.name)


VARIANTS: list[Variant] = []


def variant(number, name, base="built"):
    def register(function):
        VARIANTS.append(Variant(number, name, base, function))
        return function

    return register


def some_shard(target, rng):
    cube = zb.Cube.of(target.store)
    number = rng.randrange(cube.n_shards)
    return cube, number, cube.path(number), cube.shard(number)


def chunk_file(target, array, rng):
    """Return a chunk of a plain array: key and path."""
    files = [p for p in (target.store / array / "c").rglob("*") if p.is_file()]
    path = rng.choice(sorted(files))
    return path.relative_to(target.store).as_posix(), path


def some_array(rng, *groups):
    return rng.choice([name for group in groups for name in ARRAYS[group]])


def leave(path, data, age=OLD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def all_variants():
    """Return every variant of every row, in the order of the table."""
    import fault_metadata
    import fault_shards

    assert fault_shards.variant is fault_metadata.variant is variant
    return sorted(VARIANTS, key=str)
