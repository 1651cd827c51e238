"""A whole cube as Parquet in partitions, one for each row of shards, after the manner of HATS.

::

    DIR/
      idfzarr.json                      what it is: notes, columns, what was asked
      dataset/
        _common_metadata                the schema
        shard=0/part.parquet            one row a lightcurve; Hive's way of naming partitions
        shard=1/part.parquet
        ...
      partition_info.csv                shard, objects, lightcurves, measurements, bytes

A row is a lightcurve: ``object``, ``type``, ``unit``, ``ra``, ``dec``, ``_healpix_29`` and
``lightcurve``, a struct of lists (``aor``, ``mjd``, ``flux``...), which nested-pandas, Polars and
DuckDB take apart. ``_healpix_29`` is the HEALPix pixel of order 29 in NESTED numbering (Gorski et
al. 2005, ApJ 622, 759), as of HATS catalogues; null where there is no position. Partitions follow
the shards of the cube, not HEALPix tiles.

Each partition appears whole or not at all. A run that was stopped goes on with the partitions that
are missing, or whose shard has changed.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.lightcurve_rows import measured_names, rows_of
from idfzarr.errors import StoreExists, UsageError
from idfzarr.store.checksum import crc32c
from idfzarr.store.place import (
    PARTIAL,
    LocalPlace,
    place_of,
    storage_full,
    sync_folder,
    try_lock,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from idfzarr.care.lightcurve_choice import LightcurveChoice
    from idfzarr.care.lightcurve_notes import Notes
    from idfzarr.care.lightcurve_rows import RowForm, Rows
    from idfzarr.progress import Progress
    from idfzarr.store.cube import Cube

__all__ = ["HEALPIX_ORDER", "Partition", "healpix_29", "write_partitions"]

HEALPIX_ORDER = 29
"""Order of ``_healpix_29``: pixels of 0.4 milliarcseconds."""

MANIFEST = "idfzarr.json"
_FORMAT = 1
_INFO = "partition_info.csv"
_COMMON = "dataset/_common_metadata"
_AT_ONCE = 1 << 20  # measurements in a row group: some 40 MB in memory


@dataclass(frozen=True)
class Partition:
    """One partition that was written or was there.

    Attributes
    ----------
    shard
        Row of shards of the cube.
    path
        Of the file.
    objects, lightcurves, rows
        How many of them, and of measurements.
    n_bytes
        Of the file.
    kept
        It was there, whole, and made of the same.
    """

    shard: int
    path: str
    objects: int
    lightcurves: int
    rows: int
    n_bytes: int
    kept: bool


def healpix_29(ra: Any, dec: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return HEALPix pixels of order 29, NESTED; -1 where a position is not finite.

    Parameters
    ----------
    ra, dec
        Degrees, ICRS, any shape.
    """
    import astropy.units as u
    from astropy_healpix import lonlat_to_healpix

    ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    pixels = np.full(ra.shape, -1, dtype=np.int64)
    known = np.isfinite(ra) & np.isfinite(dec)
    if known.any():
        pixels[known] = lonlat_to_healpix(
            ra[known] * u.deg, dec[known] * u.deg, 1 << HEALPIX_ORDER, order="nested"
        )
    return pixels


# -------------------------------------------------------------------- the folder


def write_partitions(
    cube: Cube,
    folder: str | os.PathLike[str],
    choice: LightcurveChoice,
    notes: Notes,
    form: RowForm,
    *,
    overwrite: bool,
    progress: Progress,
) -> tuple[Partition, ...]:
    """Write lightcurves as partitions into a folder, and go on where an earlier run stopped.

    Parameters
    ----------
    cube
        The cube.
    folder
        Where; made if it is not there.
    choice, form
        Which lightcurves, and what is done to them.
    notes
        What goes into the metadata.
    overwrite
        Replace partitions that were made of another store or in another way.
    progress
        Told partitions.

    Returns
    -------
    tuple of Partition
        In the order of the shards.

    Raises
    ------
    StoreExists
        The folder holds something else, or partitions made in another way.
    StorageFull
        The disk is full; what was written stays, and the next run goes on.
    """
    place = LocalPlace(os.path.abspath(folder))
    barycentric = "bjd_tdb" in cube.coordinate_names
    names = measured_names(form, barycentric=barycentric)
    manifest = _manifest(choice, notes, form, names, cube.schema.layout.shard_objects)
    _claim(place, manifest, overwrite=overwrite)
    writer = _Writer(
        cube, place, choice.types, form=form, names=names, digest=str(manifest["digest"])
    )
    place.write(_COMMON, writer.common())
    by_shard = _by_shard(cube, choice.objects)
    made = []
    for number, (shard, rows) in enumerate(sorted(by_shard.items()), start=1):
        made.append(writer.partition(shard, sorted(rows)))
        progress("partitions", number, len(by_shard))
    place.write(_INFO, _info(made))
    return tuple(made)


def _manifest(
    choice: LightcurveChoice,
    notes: Notes,
    form: RowForm,
    names: Sequence[str],
    shard_objects: int,
) -> dict[str, Any]:
    # What the same numbers depend on; the version of this package does not, its format does.
    store = {k: v for k, v in notes.plain().items() if k.startswith("store_") or k == "n_aors"}
    objects = np.array(sorted(choice.objects), dtype="<i8").tobytes()
    asked = {
        "format": _FORMAT,
        "store": store,
        "types": list(choice.types),
        "form": vars(form),
        "columns": list(names),
        "shard_objects": shard_objects,
        "objects": len(choice.objects),
        "objects_sha256": hashlib.sha256(objects).hexdigest(),
    }
    text = json.dumps(asked, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {"asked": asked, "digest": digest, "notes": notes.to_dict()}


def _claim(place: LocalPlace, manifest: dict[str, Any], *, overwrite: bool) -> None:
    """Make the folder ours, or see that it is, before anything is written into it."""
    if os.path.lexists(place.root) and not os.path.isdir(place.root):
        msg = f"{place.root} is there already and is no folder: name another"
        raise StoreExists(msg)
    there = set(os.listdir(place.root)) if os.path.isdir(place.root) else set()
    digest = _digest_of(place) if MANIFEST in there else None
    if digest is None and there:
        msg = f"{place.root} is there already and is no export of partitions: name another folder"
        raise StoreExists(msg)
    if digest not in {None, manifest["digest"]}:
        if not overwrite:
            msg = (
                f"{place.root} holds partitions of another store, another state of it, or made "
                "otherwise: name another folder, or add --overwrite"
            )
            raise StoreExists(msg)
        _remove_partitions(place)
    place.remove_abandoned()
    place.write(MANIFEST, f"{json.dumps(manifest, indent=1)}\n".encode())


def _digest_of(place: LocalPlace) -> str | None:
    """Return what the partitions of a folder were made of; None where the manifest is not ours."""
    try:
        return str(json.loads(place.read(MANIFEST))["digest"])
    except (ValueError, KeyError, TypeError):
        return None


def _remove_partitions(place: LocalPlace) -> None:
    """Remove the partitions of an export that is to be replaced, and nothing that is not ours."""
    for key in list(place.keys("dataset")):
        folder, _, name = key.removeprefix("dataset/").partition("/")
        if folder.startswith("shard=") and name == "part.parquet":
            place.remove(key)
    place.remove(_INFO)
    place.remove(_COMMON)


def _by_shard(cube: Cube, objects: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for one in objects:
        row = cube.row(one)
        found.setdefault(cube.schema.layout.shard_of(row), []).append(row)
    return found


def _info(made: Sequence[Partition]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["shard", "objects", "lightcurves", "measurements", "bytes"])
    for one in made:
        table.writerow([one.shard, one.objects, one.lightcurves, one.rows, one.n_bytes])
    return text.getvalue().encode()


# -------------------------------------------------------------------- one partition


class _Writer:
    """Writes partitions of one export."""

    def __init__(
        self,
        cube: Cube,
        place: LocalPlace,
        types: Sequence[str],
        *,
        form: RowForm,
        names: Sequence[str],
        digest: str,
    ) -> None:
        self._cube, self._place, self._types = cube, place, tuple(types)
        self._form, self._names, self._digest = form, tuple(names), digest
        # An empty table tells what the columns are.
        self._schema = self._schema_of()

    def _schema_of(self) -> Any:
        import pyarrow as pa

        from idfzarr.care.lightcurve_parquet import arrow_field

        one = self._cube.lightcurves([int(self._cube.objects[0])], self._types)
        rows = rows_of(one, self._form, names=self._names)
        measured = {c.name: c for c in rows.columns(flat=True) if c.name in self._names}
        inner = [
            arrow_field(measured[n], pa.list_(pa.from_numpy_dtype(measured[n].values.dtype)))
            for n in self._names
        ]
        word = pa.dictionary(pa.int32(), pa.string())
        return pa.schema(
            [
                pa.field("_healpix_29", pa.int64()),
                pa.field("object", pa.int64(), nullable=False),
                pa.field("type", word, nullable=False),
                pa.field("unit", word, nullable=False),
                pa.field("ra", pa.float64(), metadata={"unit": "deg"}),
                pa.field("dec", pa.float64(), metadata={"unit": "deg"}),
                pa.field("lightcurve", pa.struct(inner), nullable=False),
            ]
        )

    def common(self) -> bytes:
        """Return a Parquet file with the schema and no rows."""
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_metadata(self._schema, sink)
        return sink.getvalue()

    def partition(self, shard: int, rows: Sequence[int]) -> Partition:
        """Write one partition, or keep it."""
        key = f"dataset/shard={shard}/part.parquet"
        made_of = f"{self._digest} {self._state(shard)}"
        kept = self._kept(key, made_of)
        if kept is None:
            self._write(key, made_of, rows)
        found = self._kept(key, made_of)
        if found is None:
            msg = f"{self._place.path(key)} was written and cannot be read again: look at the disk"
            raise UsageError(msg)
        lightcurves, n_rows = found
        size = self._place.size(key) or 0
        path = self._place.path(key)
        return Partition(shard, path, len(rows), lightcurves, n_rows, size, kept is not None)

    def _state(self, shard: int) -> str:
        """Return what changes whenever the bytes of a shard do."""
        try:
            data = place_of(self._cube.path).read(self._cube.schema.layout.key(shard))
        except FileNotFoundError:
            return "absent"
        return f"{len(data)} {crc32c(data):08x}"

    def _kept(self, key: str, made_of: str) -> tuple[int, int] | None:
        """Return lightcurves and measurements of a partition that is whole and made of the same."""
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        path = self._place.path(key)
        if not os.path.isfile(path):
            return None
        try:
            footer = pq.read_metadata(path)
            told = footer.metadata or {}
            if told.get(b"idfzarr_made_of", b"").decode() != made_of:
                return None
            return footer.num_rows, int(told[b"idfzarr_measurements"])
        except (ArrowException, OSError, ValueError, KeyError):
            return None

    def _write(self, key: str, made_of: str, rows: Sequence[int]) -> None:
        """Stream a partition to a file of another name, and give it its own when it is whole."""
        import pyarrow.parquet as pq

        target = self._place.path(key)
        folder = os.path.dirname(target)
        # Readers of the folder pass over names that begin with a dot.
        partial = f"{folder}/.{uuid.uuid4().hex}.idfzarr{PARTIAL}"
        try:
            os.makedirs(folder, exist_ok=True)
            with open(partial, "xb") as file:
                try_lock(file.fileno())  # so that nobody takes it for abandoned
                n_rows = 0
                with pq.ParquetWriter(file, self._schema, compression="zstd") as writer:
                    for part in self._parts(rows):
                        n_rows += len(part)
                        writer.write_table(self._table(part))
                    told = {"idfzarr_made_of": made_of, "idfzarr_measurements": str(n_rows)}
                    writer.add_key_value_metadata(told)
                file.flush()
                os.fsync(file.fileno())
                os.replace(partial, target)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(partial)
            if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise storage_full(target, 0, error) from error
            raise
        sync_folder(folder)

    def _parts(self, rows: Sequence[int]) -> Iterator[Rows]:
        """Yield the lightcurves of some objects, so many that they fit in memory."""
        objects, n_aors = self._cube.objects, max(1, self._cube.shape[3])
        step = max(1, _AT_ONCE // (n_aors * len(self._types)))
        for first in range(0, len(rows), step):
            ids = [int(objects[row]) for row in rows[first : first + step]]
            curves = self._cube.lightcurves(ids, self._types)
            yield rows_of(curves, self._form, names=self._names)

    def _table(self, rows: Rows) -> Any:
        import pyarrow as pa

        kinds = self._schema.field("lightcurve").type
        ends = np.cumsum([0, *(one.length for one in rows.curves)], dtype=np.int32)
        lists = [
            pa.ListArray.from_arrays(
                pa.array(ends), pa.array(rows.values[n]), type=kinds.field(n).type
            )
            for n in self._names
        ]
        ra = np.array([one.ra for one in rows.curves])
        dec = np.array([one.dec for one in rows.curves])
        pixels = healpix_29(ra, dec)
        return pa.Table.from_arrays(
            [
                pa.array(pixels, mask=pixels < 0),
                pa.array([one.object for one in rows.curves], pa.int64()),
                pa.array([one.type for one in rows.curves]).dictionary_encode(),
                pa.array([one.unit for one in rows.curves]).dictionary_encode(),
                pa.array(ra, mask=~np.isfinite(ra)),
                pa.array(dec, mask=~np.isfinite(dec)),
                pa.StructArray.from_arrays(lists, fields=list(kinds)),
            ],
            schema=self._schema,
        )
