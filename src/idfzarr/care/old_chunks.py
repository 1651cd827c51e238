"""Which missing chunks of skycells in earlier layouts are lost, and which were never written.

Their writer left out every chunk that held nothing but the fill value: NaN in an image, 0 in a
mask. So a missing chunk may be a blank piece of sky, or damage. What lies at the same place in the
other arrays of the same skycell and band tells: the survey masks every pixel without a value, and
weights are blank where images are. Only where nothing tells, a missing chunk is a possible loss.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from idfzarr.errors import IdfzarrError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from idfzarr.care.plain import ArrayCensus
    from idfzarr.ps1.old_layouts import OldSkycells
    from idfzarr.ps1.sky_keys import Kind

__all__ = ["Judged", "judge_missing", "missing_places"]

Judgement = Literal["lost", "likely", "possible", "blank", "unknown"]
"""``lost``: certain; ``blank``: there is nothing to miss; ``unknown``: nothing can tell."""

_WORST_FIRST: tuple[Judgement, ...] = ("lost", "likely", "possible", "unknown")
_MOST_PLACES = 100_000
_FEW = 0.25  # of the chunks of a mask


@dataclass(frozen=True)
class Judged:
    """What is known of the missing chunks of an array.

    Attributes
    ----------
    judgement
        The worst of them.
    keys
        Of the chunks that it is about.
    why
        In words.
    """

    judgement: Judgement
    keys: tuple[str, ...] = ()
    why: str = ""


def missing_places(census: ArrayCensus) -> Iterator[tuple[int, ...]]:
    """Yield the places in the grid of an array at which there is no file.

    Nothing is yielded for a grid that is larger than any of a skycell.
    """
    node = census.node
    if int(np.prod(node.counts, dtype=np.float64)) > _MOST_PLACES:
        return
    head = len(node.path) + 1
    there = {node.position(key[head:]) for key in census.chunk_keys}
    for place in itertools.product(*map(range, node.counts)):
        if place not in there:
            yield place


def _key(census: ArrayCensus, place: tuple[int, ...]) -> str:
    node = census.node
    return f"{node.path}/{node.prefix}{node.separator.join(map(str, place))}"


@dataclass(frozen=True, eq=False)
class _Around:
    """An array, and those of the same skycell and band."""

    old: OldSkycells
    name: str
    band: str
    kind: Kind
    same: Mapping[Kind, ArrayCensus]

    @property
    def census(self) -> ArrayCensus:
        return self.same[self.kind]


def judge_missing(
    old: OldSkycells,
    name: str,
    band: str,
    kind: Kind,
    same: Mapping[Kind, ArrayCensus],
) -> Judged:
    """Judge the missing chunks of an array by the other arrays of its skycell and band.

    Parameters
    ----------
    old
        The store.
    name, band, kind
        Of the array.
    same
        Censuses of all arrays of that skycell and band, this one among them.
    """
    around = _Around(old, name, band, kind, same)
    places = list(missing_places(around.census))
    if not places:
        return Judged("blank")
    return _judge_mask(around, places) if kind == "mask" else _judge_pixels(around, places)


def _judge_mask(around: _Around, places: list[tuple[int, ...]]) -> Judged:
    census, image = around.census, around.same.get("image")
    keys = tuple(_key(census, place) for place in places)
    total = int(np.prod(census.node.counts))
    if not census.chunk_keys:
        if image is not None and not image.chunk_keys:
            return Judged("likely", keys, "neither the mask nor its image has a single chunk")
        why = "the mask has no chunk: all its pixels are good, or it was never written"
        return Judged("unknown", keys, why)
    if len(places) < _FEW * total:
        why = f"{len(places)} of {total} chunks of the mask are not there, and the others are"
        return Judged("possible", keys, why)
    return Judged("unknown", keys, f"{len(places)} of {total} chunks of the mask are zero or lost")


def _judge_pixels(around: _Around, places: list[tuple[int, ...]]) -> Judged:
    other: Kind = "weight" if around.kind == "image" else "image"
    beside = around.same.get(other)
    # Where the other array has a chunk and this one has none.
    lone = set(places) - set(missing_places(beside)) if beside is not None else set()
    found: dict[Judgement, list[tuple[str, str]]] = {}
    for place in places:
        judgement, why = _by_mask(around, place)
        if judgement == "unknown":
            judgement, why = _without_mask(around, other, place, lone=place in lone)
        found.setdefault(judgement, []).append((_key(around.census, place), why))
    for judgement in _WORST_FIRST:
        if many := found.get(judgement):
            return Judged(judgement, tuple(key for key, _ in many), many[0][1])
    return Judged("blank")


def _by_mask(around: _Around, place: tuple[int, ...]) -> tuple[Judgement, str]:
    """Judge a chunk by the mask: whether all its pixels have a reason to be blank."""
    node, mask = around.census.node, around.same.get("mask")
    if mask is None or mask.node.shape != node.shape or not mask.chunk_keys:
        return "unknown", ""
    rows, columns = (
        slice(at * step, min((at + 1) * step, length))
        for at, step, length in zip(place, node.grid, node.shape, strict=True)
    )
    try:
        bits = around.old.read(around.name, around.band, "mask", (rows, columns))
    except (IdfzarrError, OSError):
        return "unknown", ""
    if bits.all():
        return "blank", ""
    n_good = int((bits == 0).sum())
    why = f"a chunk of the {around.kind} is not there, and the mask has {n_good} good pixels in it"
    return "lost", why


def _without_mask(
    around: _Around, other: Kind, place: tuple[int, ...], *, lone: bool
) -> tuple[Judgement, str]:
    kind, counts = around.kind, around.census.node.counts
    if lone:
        return "likely", f"a chunk of the {kind} is not there, and that of the {other} is"
    if not around.census.chunk_keys:
        return "likely", f"the {kind} has metadata and not one chunk: it was never written"
    why = f"a chunk of the {kind} is not there: blank sky, or lost"
    # Images are blank at their borders, and hardly ever in their middle.
    at_border = any(at in {0, n - 1} for at, n in zip(place, counts, strict=True))
    return ("unknown" if at_border else "possible"), why
