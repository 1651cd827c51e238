"""Bring a store of skycells in an earlier layout into this package's own.

The old store is only read. Its float32 pixels become the integers of the survey again where these
give back every value bit for bit (see `idfzarr.care.lost_integers`), and stay float32 otherwise: no
value changes either way. Arrays that are damaged are left out and named, since in the new store a
lost chunk would look like blank sky. What is there already stays, so that a migration that was
stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.care.inventory import inventory
from idfzarr.care.lost_integers import BLANK, find_integers
from idfzarr.care.skycells import skycell_path
from idfzarr.errors import ForeignStore, IdfzarrError, ShardCorrupt, StorageFull, UsageError
from idfzarr.progress import Progress, silent
from idfzarr.ps1.old_layouts import OldSkycells, open_skystore
from idfzarr.ps1.pixels import Scaling, asinh_of_disk
from idfzarr.ps1.sky_keys import SkyArray, array_name
from idfzarr.ps1.skystore import SkycellStore, create_skystore, is_skystore

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

__all__ = ["Migrated", "MigrationReport", "migrate"]

Pixels = Literal["integers", "float32", "mask", ""]
_ALLOWED_DIGITS = 17


@dataclass(frozen=True)
class Migrated:
    """What became of one array.

    Attributes
    ----------
    skycell, array
        Which.
    result
        ``stored``, ``there`` (in the new store already), ``damaged`` (left out) or ``failed``.
    pixels
        How they were stored: ``integers`` give back every value bit for bit; ``float32``; ``mask``.
    message
        Why it was left out, or what is lost.
    n_bytes
        Of the pixels, decoded.
    """

    skycell: str
    array: str
    result: Literal["stored", "there", "damaged", "failed"]
    pixels: Pixels = ""
    message: str = ""
    n_bytes: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return dict(vars(self))


@dataclass(frozen=True)
class MigrationReport:
    """What a migration did.

    Attributes
    ----------
    old, new
        The stores.
    arrays
        One for every array of the old store, sorted.
    """

    old: str
    new: str
    arrays: tuple[Migrated, ...]

    @property
    def ok(self) -> bool:
        """Whether every array is in the new store."""
        return all(one.result in {"stored", "there"} for one in self.arrays)

    def count(self, result: str) -> int:
        """Return how many arrays came out so."""
        return sum(one.result == result for one in self.arrays)

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "old": self.old,
            "new": self.new,
            "ok": self.ok,
            "counts": {r: self.count(r) for r in ("stored", "there", "damaged", "failed")},
            "arrays": [one.to_dict() for one in self.arrays],
        }

    def to_text(self) -> str:
        """Return what a person is to read."""
        whole = sum(one.pixels == "integers" for one in self.arrays)
        floating = [one for one in self.arrays if one.pixels == "float32"]
        skycells = len({one.skycell for one in self.arrays})
        lines = [
            f"{self.old} -> {self.new}: {skycells} skycells, {len(self.arrays)} arrays",
            f"  {self.count('stored')} stored, {self.count('there')} there already",
        ]
        if whole:
            lines.append(f"  {whole} as integers that give back every value bit for bit")
        if floating:
            named = ", ".join(f"{one.skycell} {one.array}" for one in floating[:4])
            lines.append(f"  {len(floating)} as float32, no integers fit them: {named}")
        lines += [
            f"  {one.result}: {one.skycell} {one.array}: {one.message}"
            for one in self.arrays
            if one.message
        ]
        if not self.ok:
            lines.append(f"next: idfzarr fetch {self.new} for what is damaged")
        return "\n".join(lines)


def migrate(
    old: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    keep_float32: bool = False,
    progress: Progress = silent,
) -> MigrationReport:
    """Bring a store of skycells in an earlier layout into this package's own.

    Parameters
    ----------
    old
        Path of the store; it is only read.
    new
        Where the new one is made, or one of this package that gets the skycells too.
    keep_float32
        Store images and weights as float32 even where integers give back every value.
    progress
        Told arrays.

    Returns
    -------
    MigrationReport
        One entry for every array; those that are damaged or failed say why.

    Raises
    ------
    UsageError
        The old store is of this package's layout already, or both are one.
    StoreMissing, ForeignStore
        There are no skycells, or the new place is taken by something else.
    StorageFull
        The disk is full; what is done is kept.
    """
    if is_skystore(old):
        msg = f"{old} is in the layout of this package already: there is nothing to migrate"
        raise UsageError(msg)
    source = open_skystore(old)
    if not isinstance(source, OldSkycells):
        msg = f"{old} is no store of skycells in an earlier layout"
        raise ForeignStore(msg)
    damaged = _damaged(source.url)
    target = create_skystore(new, exist_ok=True)
    target.remove_abandoned()
    arrays = source.arrays()
    done: list[Migrated] = []
    for number, array in enumerate(arrays, start=1):
        why = damaged.get((array.name, array_name(array.band, array.kind)))
        done.append(_one(source, target, array, why, keep_float32=keep_float32))
        progress("migrating", number, len(arrays))
    return MigrationReport(source.url, target.url, tuple(done))


def _damaged(url: str) -> dict[tuple[str, str], str]:
    """Return why arrays cannot be trusted, by skycell and array, as far as the structure tells."""
    found: dict[tuple[str, str], str] = {}
    for one in inventory(url, level="structure").findings:
        path = one.where.array or one.where.key.removesuffix("/zarr.json")
        array = skycell_path(path)
        if array is not None and one.severity in {"error", "warning"}:
            found.setdefault((array.name, array_name(array.band, array.kind)), one.message)
    return found


def _one(
    source: OldSkycells,
    target: SkycellStore,
    array: SkyArray,
    damaged: str | None,
    *,
    keep_float32: bool,
) -> Migrated:
    called = array_name(array.band, array.kind)
    if target.has(array.name, array.band, array.kind):
        return Migrated(array.name, called, "there")
    if damaged is not None:
        return Migrated(array.name, called, "damaged", message=damaged)
    try:
        return _stored(source, target, array, keep_float32=keep_float32)
    except StorageFull:
        raise
    except IdfzarrError as error:
        return Migrated(array.name, called, "failed", message=str(error))


def _stored(
    source: OldSkycells, target: SkycellStore, array: SkyArray, *, keep_float32: bool
) -> Migrated:
    name, band, kind = array.name, array.band, array.kind
    values = source.read(name, band, kind)
    told = source.attributes(name, band, kind)
    cards = [str(card) for card in told["header"]]
    pixels: NDArray[Any] = values
    how: Pixels = "mask" if kind == "mask" else "float32"
    provenance = {
        **told["provenance"],
        "source": "migrated",
        "migrated": datetime.now(UTC).isoformat(timespec="seconds"),
        "pixels_sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    }
    if kind != "mask":
        pixels = values.astype(np.float32, copy=False)
        found = None if keep_float32 else find_integers(pixels)
        if found is not None:
            how, pixels = "integers", found.disk
            cards = _with_scaling(cards, found.bscale, found.bzero)
            provenance["integers"] = "as served" if found.unique else "equivalent"
    provenance["pixels"] = how
    target.write(name, band, kind, pixels, cards=cards, provenance=provenance, replace=True)
    _check(target, array, values)
    lost = ""
    if kind != "mask" and not told["scale"]:
        lost = "its header is lost: asinh values are kept, fluxes cannot be known"
    return Migrated(name, array_name(band, kind), "stored", how, lost, int(values.nbytes))


def _with_scaling(cards: list[str], bscale: float, bzero: float) -> list[str]:
    """Return cards that say what integers mean, in the place of what was said of float32."""
    ours = {
        "BITPIX": f"BITPIX  = {16:>20} / bits of a pixel",
        "BSCALE": _number("BSCALE", bscale, "found again, in single precision"),
        "BZERO": _number("BZERO", bzero, "found again, in single precision"),
        "BLANK": f"BLANK   = {BLANK:>20} / pixels without a value",
    }
    made = [ours.pop("BITPIX") if card.startswith("BITPIX  =") else card for card in cards]
    kept = [card for card in made if card[:8].rstrip() not in ours]
    return [*kept, *(card.ljust(80) for card in ours.values())]


def _number(name: str, value: float, comment: str) -> str:
    return f"{name:<8}= {value:>20.{_ALLOWED_DIGITS - 4}G} / {comment}"[:80]


def _check(target: SkycellStore, array: SkyArray, values: NDArray[Any]) -> None:
    """Read an array again and compare every value, in the arithmetic that made them."""
    name, band, kind = array.name, array.band, array.kind
    made = target.read(name, band, kind)
    if made.dtype == np.int16:
        scaling = Scaling.from_header(target.attributes(name, band, kind)["scale"])
        single = made.astype(np.float32) * np.float32(scaling.bscale) + np.float32(scaling.bzero)
        same = np.array_equal(
            np.where(made == BLANK, np.float32(np.nan), single), values, equal_nan=True
        )
        # What a reader computes in double precision must differ by a rounding only.
        close = np.nanmax(np.abs(asinh_of_disk(made, scaling) - values), initial=0.0) < 1e-5
        same = same and bool(close)
    else:
        same = np.array_equal(made, values, equal_nan=made.dtype.kind == "f")
    if not same:
        target.place.remove_tree(array.path)  # what stays would count as migrated
        msg = f"{array} in {target.url} does not read back as it is in the old store: run it again"
        raise ShardCorrupt(msg)
