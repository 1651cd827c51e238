"""Decode a cube and look whether its values can be what they claim to be.

All-NaN lightcurves with flags, masks of zeros and NaN borders of images are no findings: they are
how the sky and the telescope are. A flag that is no whole number, a NaN without a flag and an error
below zero cannot have been measured.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.care.safe_read import open_key
from idfzarr.errors import ChunkCorrupt, ShardCorrupt
from idfzarr.flags import FLAGS, flag_bit
from idfzarr.progress import silent
from idfzarr.store.checksum import is_intact
from idfzarr.store.schema import FLAG, FLUX, FLUX_ERR, LIGHTCURVES, VARIABILITY
from idfzarr.store.shard import ABSENT, decode_chunk, index_bytes, parse_index

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.care.finding import Severity
    from idfzarr.progress import Progress
    from idfzarr.store.schema import CubeSchema

__all__ = [
    "CubeValues",
    "check_coordinates",
    "check_cube_values",
    "check_statistics",
    "check_times",
]

_LOST = flag_bit("lost")
_KNOWN = sum(definition.bit for definition in FLAGS)
_ROWS_AT_ONCE = 8
_MOST_HEADERS = 1024  # bytes that no codec of ours adds to twice the values
_MOST_TOLD = 200  # findings of one shard, of a kind
_UNIQUE = {"object": "objects", "type": "types", "aor": "AORs", "channel": "channels",
           "value": "values"}  # fmt: skip
_ORDER = "monotonic"


@dataclass(frozen=True, eq=False)
class CubeValues:
    """What was decoded of a cube.

    Attributes
    ----------
    findings
        In the order of shards, objects and types.
    nan_object
        (object,) fraction of measurements without a flux; NaN where nothing was decoded.
    nan_aor
        (type, aor) the same.
    n_read
        Bytes read.
    """

    findings: tuple[Finding, ...]
    nan_object: NDArray[np.float64]
    nan_aor: NDArray[np.float64]
    n_read: int


@dataclass(frozen=True, eq=False)
class _ShardValues:
    findings: list[Finding]
    first: int
    seen_object: NDArray[np.int64]
    nan_object: NDArray[np.int64]
    seen_type: NDArray[np.int64]
    nan_aor: NDArray[np.int64]
    n_read: int


def check_cube_values(
    root: str,
    schema: CubeSchema,
    objects: Sequence[int] | NDArray[np.int64],
    *,
    shards: Sequence[int] | None = None,
    workers: int = 2,
    progress: Progress = silent,
) -> CubeValues:
    """Decode lightcurves and check that their values can be.

    Parameters
    ----------
    root
        Folder of the store.
    schema
        What the cube is.
    objects
        Ids, in order; rows are named where there are none.
    shards
        Numbers of the shards to decode, all unless given.
    workers
        Threads.
    progress
        Told shards.

    Returns
    -------
    CubeValues
        Findings of kind ``values_wrong``, ``values_lost``, and ``chunk_corrupt`` for chunks that
        match their crc32c and still cannot be decoded. Those that do not match it are left to the
        scrub, shards and chunks that are not there to the structure.
    """
    layout = schema.layout
    numbers = range(layout.n_shards) if shards is None else shards
    seen, nan = np.zeros((2, layout.n_objects), dtype=np.int64)
    seen_type = np.zeros(layout.n_types, dtype=np.int64)
    nan_aor = np.zeros((layout.n_types, layout.n_aors), dtype=np.int64)
    findings: list[Finding] = []
    n_read = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        try:
            made = pool.map(lambda shard: _check_shard(root, schema, objects, shard), numbers)
            for done, part in enumerate(made, start=1):
                rows = slice(part.first, part.first + len(part.seen_object))
                seen[rows], nan[rows] = part.seen_object, part.nan_object
                seen_type += part.seen_type
                nan_aor += part.nan_aor
                findings += part.findings
                n_read += part.n_read
                progress("values", done, len(numbers))
        finally:
            pool.shutdown(cancel_futures=True)
    return CubeValues(
        tuple(findings), _ratio(nan, seen * layout.n_aors), _ratio(nan_aor, seen_type[:, None]),
        n_read,
    )  # fmt: skip


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    out = np.full(part.shape, np.nan)
    np.divide(part, whole, out=out, where=np.broadcast_to(whole > 0, part.shape))
    return out


# -------------------------------------------------------------------- one shard


def _check_shard(
    root: str, schema: CubeSchema, objects: Sequence[int] | NDArray[np.int64], shard: int
) -> _ShardValues:
    layout = schema.layout
    first, last = layout.rows(shard)
    part = _ShardValues(
        findings=[],
        first=first,
        seen_object=np.zeros(last - first, dtype=np.int64),
        nan_object=np.zeros(last - first, dtype=np.int64),
        seen_type=np.zeros(layout.n_types, dtype=np.int64),
        nan_aor=np.zeros((layout.n_types, layout.n_aors), dtype=np.int64),
        n_read=0,
    )
    shard_file = _ShardFile(root, schema, objects, shard)
    n_read = 0
    for row, block, there in shard_file.blocks(part.findings):
        good = np.isnan(block[:, :, FLUX]) & there[:, :, None]
        part.seen_object[row : row + len(block)] = there.sum(axis=1)
        part.nan_object[row : row + len(block)] = good.sum(axis=(1, 2))
        part.seen_type[...] += there.sum(axis=0)
        part.nan_aor[...] += good.sum(axis=0)
        part.findings.extend(_wrong_values(block, there, shard_file, row))
        n_read += shard_file.take_count()
    return _ShardValues(
        _shortened(part.findings, shard_file.key), part.first, part.seen_object, part.nan_object,
        part.seen_type, part.nan_aor, n_read,
    )  # fmt: skip


class _ShardFile:
    """A shard as blocks of some rows each."""

    def __init__(
        self,
        root: str,
        schema: CubeSchema,
        objects: Sequence[int] | NDArray[np.int64],
        shard: int,
    ) -> None:
        self._root, self._schema, self._objects = root, schema, objects
        self._first, self._last = schema.layout.rows(shard)
        self.key = schema.layout.key(shard)
        self._n_read = 0

    def take_count(self) -> int:
        """Return the bytes read since this was asked last."""
        count, self._n_read = self._n_read, 0
        return count

    def where(self, row: int, column: int, first: int | None = None, n: int | None = None) -> Where:
        """Return the place of a lightcurve by its row in the shard."""
        at = self._first + row
        object_id = int(self._objects[at]) if at < len(self._objects) else at
        return Where(LIGHTCURVES, self.key, object_id, self._schema.types[column], first, n)

    def blocks(
        self, findings: list[Finding]
    ) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.bool_]]]:
        """Yield first row, values (row, type, value, aor), and which lightcurves they have."""
        layout = self._schema.layout
        try:
            with open_key(self._root, self.key) as handle:
                size = os.fstat(handle).st_size
                begin = max(0, size - index_bytes(layout.chunks_per_shard))
                tail = os.pread(handle, size - begin, begin)
                index = parse_index(tail, layout.chunks_per_shard, size, where=self.key)
                n_rows = self._last - self._first
                for row in range(0, n_rows, _ROWS_AT_ONCE):
                    rows = range(row, min(row + _ROWS_AT_ONCE, n_rows))
                    yield row, *self._block(handle, index, rows, findings)
        except (OSError, ShardCorrupt):
            return  # the levels before this one have told it

    def _block(
        self, handle: int, index: NDArray[np.uint64], rows: range, findings: list[Finding]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        schema = self._schema
        layout = schema.layout
        block = np.full((len(rows), *layout.shape[1:]), np.nan, dtype=np.float32)
        there = np.zeros((len(rows), layout.n_types), dtype=bool)
        chunk = np.empty(layout.chunk_shape[2:], dtype=np.float32)
        for i, row in enumerate(rows):
            for column in range(layout.n_types):
                offset, length = (int(n) for n in index[row * layout.n_types + column])
                where = self.where(row, column, offset, length)
                if offset == ABSENT or not self._decode(handle, where, chunk, findings):
                    continue
                block[i, column] = chunk[:, : layout.n_aors]
                there[i, column] = True
        return block, there

    def _decode(
        self, handle: int, where: Where, chunk: NDArray[np.float32], findings: list[Finding]
    ) -> bool:
        """Decode one lightcurve; say whether that was possible."""
        first, length = where.first_byte or 0, where.n_bytes or 0
        told = f"a chunk of {length} bytes is more than one of {chunk.nbytes} can take"
        if length <= 2 * chunk.nbytes + _MOST_HEADERS:
            data = os.pread(handle, length, first)
            self._n_read += len(data)
            if not is_intact(data):
                return False  # the scrub has told it
            try:
                decode_chunk(data, chunk, self._schema.codec, where="it")
            except ChunkCorrupt as error:
                told = f"a chunk matches its crc32c and still cannot be decoded: {error}"
            else:
                return True
        findings.append(finding("chunk_corrupt", where, told))
        return False


def _wrong_values(
    block: NDArray[np.float32], there: NDArray[np.bool_], file: _ShardFile, row: int
) -> Iterator[Finding]:
    """Yield what is wrong with lightcurves, one finding for each and kind."""
    flux, error, flag = block[:, :, FLUX], block[:, :, FLUX_ERR], block[:, :, FLAG]
    whole = np.isfinite(flag) & (flag == np.floor(flag)) & (flag >= 0) & (flag <= 65535)
    bits = np.where(whole, flag, 0).astype(np.int64)
    unflagged = whole & (bits == 0)
    unknown = (bits & ~_KNOWN) != 0
    wrong = {
        "flags that are no whole numbers of known bits": ~whole | unknown,
        "fluxes that are NaN and no flag says why": np.isnan(flux) & unflagged,
        "infinite fluxes or errors without a flag": (np.isinf(flux) | np.isinf(error)) & unflagged,
        "errors below zero": error < 0,
    }
    any_wrong = np.stack(list(wrong.values())).any(axis=(0, 3)) & there
    for i, column in np.argwhere(any_wrong).tolist():
        counted = [f"{int(bad[i, column].sum())} {what}" for what, bad in wrong.items()
                   if bad[i, column].any()]  # fmt: skip
        where = file.where(row + i, column)
        yield finding("values_wrong", where, f"{where} has {', '.join(counted)}")
    lost = (bits & _LOST) != 0
    for i, column in np.argwhere(lost.any(axis=2) & there).tolist():
        where = file.where(row + i, column)
        count = int(lost[i, column].sum())
        yield finding("values_lost", where, f"{count} values of {where} are marked as lost")


def _shortened(findings: list[Finding], key: str) -> list[Finding]:
    """Return the findings of a shard, those of a kind beyond the first many in one sentence."""
    count: Counter[str] = Counter()
    kept = []
    for one in findings:
        count[one.kind] += 1
        if count[one.kind] <= _MOST_TOLD:
            kept.append(one)
    for kind, n in sorted(count.items()):
        if n > _MOST_TOLD:
            told = f"{n - _MOST_TOLD} more lightcurves of {key}: {kind}"
            kept.append(finding(kind, Where(LIGHTCURVES, key), told))
    return kept


# -------------------------------------------------------------------- coordinates


def check_coordinates(
    coordinates: Mapping[str, NDArray[Any]], attributes: Mapping[str, Mapping[str, Any]]
) -> tuple[Finding, ...]:
    """Check that labels are unique, in the order they promise, and those that others repeat.

    Parameters
    ----------
    coordinates
        Arrays of the root besides the cube, by name; those that cannot be read left out.
    attributes
        Of every array of the root, by name.

    Returns
    -------
    tuple of Finding
        ``coordinate_duplicate``; ``coordinate_unsorted`` for a coordinate whose attribute
        ``monotonic`` says ``increasing`` or ``decreasing`` and that is not: nothing else promises
        an order, since cubes are sorted by the sky or as they were given; ``metadata_corrupt``
        where the names that the cube's attributes repeat are others.
    """
    found = []
    for name, what in _UNIQUE.items():
        found += _duplicates(name, what, coordinates.get(name))
    # Reqkeys are what tells AORs apart; two of one name are strange and can still be told apart.
    found += _duplicates("aor_name", "AORs", coordinates.get("aor_name"))
    for name in sorted(coordinates):
        found += _unsorted(name, coordinates[name], attributes.get(name, {}).get(_ORDER))
    repeated = attributes.get(LIGHTCURVES, {})
    for name in ("type", "value", "aor_name"):
        told, own = repeated.get(name), coordinates.get(name)
        if isinstance(told, list) and own is not None and told != [str(label) for label in own]:
            message = f"the names that {LIGHTCURVES} repeats in its attributes differ from {name}"
            found.append(finding("metadata_corrupt", Where(array=name), message))
    return tuple(found)


def _duplicates(name: str, what: str, values: NDArray[Any] | None) -> list[Finding]:
    if values is None or values.ndim != 1:
        return []
    labels, counts = np.unique(values, return_counts=True)
    twice = labels[counts > 1]
    if not len(twice):
        return []
    named = ", ".join(str(label)[:60] for label in twice[:5])
    more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
    told = f"{name} names two {what} alike: {named}{more}"
    severity: Severity | None = "warning" if name == "aor_name" else None
    return [finding("coordinate_duplicate", Where(array=name), told, severity=severity)]


def _unsorted(name: str, values: NDArray[Any], promised: Any) -> list[Finding]:
    if promised not in {"increasing", "decreasing"} or values.ndim != 1 or len(values) < 2:
        return []
    before, after = values[:-1], values[1:]
    if bool(np.all(after > before) if promised == "increasing" else np.all(after < before)):
        return []
    told = f"{name} is not {promised}, as its attribute {_ORDER!r} says"
    return [finding("coordinate_unsorted", Where(array=name), told)]


def check_times(
    coordinates: Mapping[str, NDArray[Any]], measured: NDArray[np.bool_]
) -> tuple[Finding, ...]:
    """Check that what was measured has a time.

    Parameters
    ----------
    coordinates
        ``mjd`` (aor, channel), ``channel``, ``aor`` and ``type_channel``.
    measured
        (type, aor) whether any object has a flux.

    Returns
    -------
    tuple of Finding
        ``values_wrong`` for each AOR and channel with fluxes and without a time.
    """
    names = ("mjd", "channel", "aor", "type_channel")
    if any(name not in coordinates for name in names):
        return ()
    mjd, channels, aors, of_type = (coordinates[name] for name in names)
    fits = mjd.shape == (len(aors), len(channels)) and measured.shape == (len(of_type), len(aors))
    if not fits:
        return ()  # lengths that disagree are told by the structure
    found = []
    for c, channel in enumerate(channels):
        timeless = measured[of_type == channel].any(axis=0) & ~np.isfinite(mjd[:, c])
        for position in np.flatnonzero(timeless)[:_MOST_TOLD].tolist():
            told = f"AOR {aors[position]} was measured in {channel} and has no time there"
            found.append(finding("values_wrong", Where(array="mjd"), told, severity="warning"))
    return tuple(found)


def check_statistics(attributes: Mapping[str, Any], n_aors: int) -> tuple[Finding, ...]:
    """Check that the table of statistics covers the cube.

    Parameters
    ----------
    attributes
        Of the group ``variability``; empty where there is none.
    n_aors
        AORs of the cube.

    Returns
    -------
    tuple of Finding
        ``statistics_stale`` where the table says that it covers another number of AORs.
    """
    covered = attributes.get("n_aors")
    if not isinstance(covered, int) or covered == n_aors:
        return ()
    told = f"the table {VARIABILITY} covers {covered} AORs, the cube has {n_aors}"
    return (finding("statistics_stale", Where(array=VARIABILITY), told),)
