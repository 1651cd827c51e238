"""Flux, its error and the flag of a block, read together where they are asked for together.

A chunk holds all three, so that whoever asks for one of them decodes all. A Dask graph that uses
two or three asks for them one after another, or side by side; what is decoded for the first of
them is then kept for the others, for a short time and up to a few blocks. Whoever uses one alone
pays for one alone: keeping begins when a second one of the same block is asked for, and ends when
something kept was not fetched.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    Decode = Callable[["Block", Sequence[int]], list[NDArray[Any]]]

__all__ = ["Block", "SharedPlanes"]

KEPT_SECONDS = 3.0
"""How long something decoded is kept; a shard that was written anew is noticed after it."""

MOST_KEPT = 1 << 28
"""Bytes kept at most."""

WORTH_KEEPING = 256
"""Chunks from which on a block is worth it."""

_MOST_KNOWN = 64  # blocks of which it is known what was asked for
_BYTES = 4


class Block(NamedTuple):
    """Any rows, columns and AORs of the cube.

    Parameters
    ----------
    rows, columns
        Positions of objects and types.
    aors
        Positions of AORs, or a slice of them.
    n_aors
        How many those are.
    """

    rows: NDArray[Any]
    columns: NDArray[Any]
    aors: slice | NDArray[Any]
    n_aors: int

    @property
    def name(self) -> Hashable:
        """The same for the same block."""
        aors = self.aors
        along: Hashable = (
            (aors.start, aors.stop, aors.step) if isinstance(aors, slice) else aors.tobytes()
        )
        return self.rows.tobytes(), self.columns.tobytes(), along

    @property
    def n_chunks(self) -> int:
        """Lightcurves in it."""
        return len(self.rows) * len(self.columns)

    @property
    def n_bytes(self) -> int:
        """Bytes of flux."""
        return self.n_chunks * self.n_aors * _BYTES


class _Kept(NamedTuple):
    plane: NDArray[Any]
    since: float


class _Asked(NamedTuple):
    """What was asked for of a block, and since when."""

    values: set[int]
    since: float


_ALL: weakref.WeakSet[SharedPlanes] = weakref.WeakSet()


def _renew() -> None:
    for planes in _ALL:
        planes.clear()  # a thread of the parent may have held the lock, or been decoding


os.register_at_fork(after_in_child=_renew)


class SharedPlanes:
    """Gives out the planes of blocks.

    Parameters
    ----------
    decode
        Reads the planes of a block at these positions along ``value``.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self.clear()
        _ALL.add(self)

    def clear(self) -> None:
        """Forget everything."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Hashable, int], _Kept] = OrderedDict()
        self._coming: dict[tuple[Hashable, int], threading.Event] = {}
        self._asked: OrderedDict[Hashable, _Asked] = OrderedDict()
        self._together: set[int] = set()

    def get(self, block: Block, value: int) -> NDArray[Any]:
        """Return one plane of a block, (row, column, aor); the caller's own."""
        if block.n_chunks < WORTH_KEEPING or 2 * block.n_bytes > MOST_KEPT:
            return self._decode(block, (value,))[0]
        name = block.name
        while True:
            with self._lock:
                self._drop_old()
                kept = self._kept.pop((name, value), None)
                if kept is not None:
                    self._asked_of(name).add(value)
                    return kept.plane
                coming = self._coming.get((name, value))
                if coming is None:
                    others = self._to_keep(name, value)
                    arrived = threading.Event()
                    self._coming |= dict.fromkeys([(name, v) for v in others], arrived)
                    break
            coming.wait()
        try:
            planes = self._decode(block, (value, *others))
        except BaseException:
            self._arrive(name, others, [], arrived)
            raise
        self._arrive(name, others, planes[1:], arrived)
        return planes[0]

    def _to_keep(self, name: Hashable, value: int) -> list[int]:
        """Return which others are likely to be asked for too."""
        asked = self._asked_of(name)
        if value in asked:  # once more, from the beginning
            asked.clear()
        elif asked:
            self._together |= asked | {value}
        others = sorted(self._together - asked - {value}) if value in self._together else []
        asked.add(value)
        return [v for v in others if (name, v) not in self._coming and (name, v) not in self._kept]

    def _asked_of(self, name: Hashable) -> set[int]:
        """Return what was asked for of a block a moment ago."""
        now = time.monotonic()
        asked = self._asked.pop(name, None)
        if asked is None or asked.since < now - KEPT_SECONDS:
            asked = _Asked(set(), now)
        self._asked[name] = asked
        while len(self._asked) > _MOST_KNOWN:
            self._asked.popitem(last=False)
        return asked.values

    def _arrive(
        self,
        name: Hashable,
        others: list[int],
        planes: list[NDArray[Any]],
        arrived: threading.Event,
    ) -> None:
        """Keep what was decoded besides, and wake up those who wait for it."""
        now = time.monotonic()
        with self._lock:
            for value in others:
                self._coming.pop((name, value), None)
            for value, plane in zip(others, planes, strict=False):
                self._kept[name, value] = _Kept(plane, now)
            self._drop_old()
        arrived.set()

    def _drop_old(self) -> None:
        """Drop what nobody fetched; then whatever was asked for together no longer is."""
        oldest = time.monotonic() - KEPT_SECONDS
        held = sum(kept.plane.nbytes for kept in self._kept.values())
        while self._kept and (held > MOST_KEPT or next(iter(self._kept.values())).since < oldest):
            _, dropped = self._kept.popitem(last=False)
            held -= dropped.plane.nbytes
            self._together.clear()
