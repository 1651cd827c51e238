"""Chunk arithmetic: which shard holds which object, and where a chunk stands in it.

One inner chunk (1, 1, 3, C) is one lightcurve; one shard (S, T, 3, C) holds all types of S
neighbouring objects. C is a capacity: the number of AORs with room to grow.
"""

from __future__ import annotations

from dataclasses import dataclass

from idfzarr.errors import ShardCut, UsageError

__all__ = ["SHARD_OBJECTS", "VALUES_PER_CHUNK", "Layout", "capacity_for"]

SHARD_OBJECTS = 128
"""Objects in a shard unless told otherwise: 40 MB a shard at 40 types and 1,200 AORs."""

VALUES_PER_CHUNK = 3
"""Flux, its error and the flag stand together in a chunk."""

_GRAIN = 16  # bitshuffle works on groups of eight numbers; sixteen keeps rows aligned too
_MOST_CHUNK_BYTES = 1 << 30
_MOST_SHARD_CHUNKS = 1 << 26


def capacity_for(n_aors: int) -> int:
    """Return the chunk length along ``aor`` for a number of AORs.

    Parameters
    ----------
    n_aors
        How many there are now.

    Returns
    -------
    int
        A thirty-second more than that, at least 16 more, as a multiple of 16. An append writes
        every shard anew, as laying the cube out anew does, so more room would be read for nothing.

    Examples
    --------
    >>> capacity_for(1200), capacity_for(0), capacity_for(11)
    (1248, 16, 32)
    """
    wanted = n_aors + max(_GRAIN, -(-n_aors // 32))
    return -(-wanted // _GRAIN) * _GRAIN


@dataclass(frozen=True)
class Layout:
    """The shape of a cube and of its shards.

    Parameters
    ----------
    n_objects, n_types, n_aors
        Shape of the cube.
    capacity
        C, the chunk length along ``aor``, at least `n_aors`.
    shard_objects
        S, objects in a shard.

    Raises
    ------
    UsageError
        A number is negative, zero where it must not be, or absurd.
    """

    n_objects: int
    n_types: int
    n_aors: int
    capacity: int
    shard_objects: int = SHARD_OBJECTS

    def __post_init__(self) -> None:
        if self.n_objects < 0 or self.n_types < 1 or self.n_aors < 0 or self.shard_objects < 1:
            msg = (
                f"a cube of {self.n_objects} objects, {self.n_types} types and {self.n_aors} "
                "AORs in "
                f"shards of {self.shard_objects} objects cannot be: a type and a shard need at "
                "least one"
            )
            raise UsageError(msg)
        if self.capacity < max(1, self.n_aors):
            msg = (
                f"a capacity of {self.capacity} does not hold {self.n_aors} AORs; "
                f"{capacity_for(self.n_aors)} would"
            )
            raise UsageError(msg)
        if self.chunk_bytes > _MOST_CHUNK_BYTES or self.chunks_per_shard > _MOST_SHARD_CHUNKS:
            msg = (
                f"chunks of {self.chunk_bytes} bytes, {self.chunks_per_shard} in a shard, are "
                "more than "
                f"this package handles ({_MOST_CHUNK_BYTES} and {_MOST_SHARD_CHUNKS}); choose fewer"
            )
            raise UsageError(msg)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of ``lightcurves``."""
        return (self.n_objects, self.n_types, VALUES_PER_CHUNK, self.n_aors)

    @property
    def chunk_shape(self) -> tuple[int, int, int, int]:
        """Shape of an inner chunk."""
        return (1, 1, VALUES_PER_CHUNK, self.capacity)

    @property
    def shard_shape(self) -> tuple[int, int, int, int]:
        """Shape of a shard."""
        return (self.shard_objects, self.n_types, VALUES_PER_CHUNK, self.capacity)

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk."""
        return VALUES_PER_CHUNK * self.capacity * 4

    @property
    def chunks_per_shard(self) -> int:
        """Inner chunks that a shard has room for; entries of its index."""
        return self.shard_objects * self.n_types

    @property
    def n_shards(self) -> int:
        """Shards in the cube."""
        return -(-self.n_objects // self.shard_objects)

    def rows(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard and the one after its last.

        Raises
        ------
        UsageError
            The cube has no such shard.
        """
        if not 0 <= shard < self.n_shards:
            msg = f"there is no shard {shard}: the cube has {self.n_shards}, counted from 0"
            raise UsageError(msg)
        first = shard * self.shard_objects
        return first, min(first + self.shard_objects, self.n_objects)

    def shard_of(self, row: int) -> int:
        """Return the shard that holds a row."""
        return row // self.shard_objects

    def slot(self, row: int, column: int) -> int:
        """Return the place of a lightcurve's entry in the index of its shard (C order)."""
        return (row % self.shard_objects) * self.n_types + column

    def key(self, shard: int) -> str:
        """Return the key of a shard's file."""
        return f"lightcurves/c/{shard}/0/0/0"

    def shards_of_region(self, first: int, count: int) -> range:
        """Return the shards that a region of rows covers, whole ones only.

        Parameters
        ----------
        first
            First row.
        count
            Number of rows.

        Returns
        -------
        range
            Shard numbers.

        Raises
        ------
        ShardCut
            The region begins or ends inside a shard; the sentence names regions that would do.
        UsageError
            The region is empty or reaches beyond the cube.
        """
        last = first + count
        if count < 1 or first < 0 or last > self.n_objects:
            msg = (
                f"rows {first} to {last} are not in the cube, which has rows 0 to "
                f"{self.n_objects}; "
                f"give at least one row"
            )
            raise UsageError(msg)
        step = self.shard_objects
        if first % step or (last % step and last != self.n_objects):
            inner = (
                -(-first // step) * step,
                self.n_objects if last == self.n_objects else last // step * step,
            )
            outer = (first // step * step, min(-(-last // step) * step, self.n_objects))
            fits = [outer] + ([inner] if inner[0] < inner[1] else [])
            ways = " or ".join(f"rows {a} to {b}" for a, b in fits)
            msg = (
                f"rows {first} to {last} cut a shard of {step} objects, and two writers of one "
                "shard "
                f"lose updates; write {ways}"
            )
            raise ShardCut(msg)
        return range(first // step, -(-last // step))
