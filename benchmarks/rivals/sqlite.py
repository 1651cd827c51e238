"""SQLite: one row per lightcurve, the values as a BLOB of flux, its error and the flag.

The default is what most people would write: page size and cache as they come, a primary key of
object and type. Its rivals within are the tuned one (16 kB pages, one integer key, memory-mapped
or not) and the compressed one. The BLOB is handed out as views, without a copy; SQLite keeps no
checksum of it. Types are small integers looked up in a dictionary, which is faster than text keys.
"""

from __future__ import annotations

import sqlite3
import zlib
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from synthetic import Block

from rivals.protocol import Rival

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from synthetic import Field

    from rivals.protocol import Source

_ROOM = 64  # more than the types: object id times this plus the type is one integer key


def _rows(source: Source, *, compressed: bool) -> Iterator[tuple[int, int, bytes]]:
    ids = source.field.object_ids.tolist()
    for position, block in source.blocks(1):
        for column in range(len(source.field.types)):
            blob = b"".join(array[0, column].tobytes() for array in block)
            yield ids[position], column, zlib.compress(blob) if compressed else blob


def build_default(source: Source, folder: Path, *, compressed: bool = False) -> None:
    """Build a table keyed by object and type; SQLite syncs when it commits."""
    database = sqlite3.connect(folder / "lightcurves.db")
    database.execute(
        "CREATE TABLE lightcurve"
        " (object INTEGER, type INTEGER, data BLOB, PRIMARY KEY (object, type))"
    )
    rows = _rows(source, compressed=compressed)
    database.executemany("INSERT INTO lightcurve VALUES (?, ?, ?)", rows)
    database.commit()
    database.close()


def build_tuned(source: Source, folder: Path) -> None:
    """Build a table with large pages and one integer key."""
    database = sqlite3.connect(folder / "lightcurves.db")
    database.execute("PRAGMA page_size = 16384")
    database.execute("CREATE TABLE lightcurve (key INTEGER PRIMARY KEY, data BLOB)")
    rows = ((i * _ROOM + j, blob) for i, j, blob in _rows(source, compressed=False))
    database.executemany("INSERT INTO lightcurve VALUES (?, ?)", rows)
    database.commit()
    database.close()


class _Reader:
    """A connection; sqlite3 keeps the prepared statements."""

    def __init__(
        self,
        field: Field,
        folder: Path,
        *,
        tuned: bool = False,
        mapped: bool = False,
        compressed: bool = False,
    ) -> None:
        self._database = sqlite3.connect(f"file:{folder / 'lightcurves.db'}?mode=ro", uri=True)
        if mapped:
            self._database.execute("PRAGMA mmap_size = 1099511627776")
        self._columns = {name: column for column, name in enumerate(field.types)}
        self._n = field.n_aors
        self._record = np.dtype(
            [("flux", "<f4", self._n), ("err", "<f4", self._n), ("flag", "<u2", self._n)]
        )
        self._compressed = compressed
        self._tuned = tuned
        where = "key = ?" if tuned else "object = ? AND type = ?"
        every = "key BETWEEN ? AND ? ORDER BY key" if tuned else "object = ? ORDER BY type"
        self._one = f"SELECT data FROM lightcurve WHERE {where}"  # noqa: S608 - no user's words
        self._all = f"SELECT data FROM lightcurve WHERE {every}"  # noqa: S608 - likewise

    def _blob(self, object_id: int, type_name: str) -> bytes:
        column = self._columns[type_name]
        key = (object_id * _ROOM + column,) if self._tuned else (object_id, column)
        data = self._database.execute(self._one, key).fetchone()[0]
        return zlib.decompress(data) if self._compressed else data

    def one(self, object_id: int, type_name: str) -> Block:
        data = self._blob(object_id, type_name)
        n = self._n
        return Block(
            np.frombuffer(data, "<f4", n),
            np.frombuffer(data, "<f4", n, 4 * n),
            np.frombuffer(data, "<u2", n, 8 * n),
        )

    def _table(self, blobs: list[bytes]) -> Block:
        table = np.frombuffer(b"".join(blobs), self._record)
        return Block(table["flux"], table["err"], table["flag"])

    def all_types(self, object_id: int) -> Block:
        first = object_id * _ROOM
        key = (first, first + _ROOM - 1) if self._tuned else (object_id,)
        blobs = [row[0] for row in self._database.execute(self._all, key)]
        return self._table([zlib.decompress(b) for b in blobs] if self._compressed else blobs)

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        return self._table([self._blob(i, t) for i, t in zip(object_ids, type_names, strict=True)])

    def flux_blocks(self) -> Iterator[np.ndarray]:
        cursor = self._database.execute("SELECT data FROM lightcurve")
        while rows := cursor.fetchmany(len(self._columns)):
            flux = np.empty((len(rows), self._n), np.float32)
            for line, (data,) in zip(flux, rows, strict=True):
                blob = zlib.decompress(data) if self._compressed else data
                line[:] = np.frombuffer(blob, "<f4", self._n)
            yield flux

    def close(self) -> None:
        self._database.close()


RIVALS = [
    Rival("SQLite BLOB", "sqlite", build_default, _Reader, cold=True),
    Rival(
        "SQLite tuned (16 kB pages, integer key)",
        "sqlite-tuned",
        build_tuned,
        partial(_Reader, tuned=True),
        cold=True,
    ),
    Rival(
        "SQLite tuned, memory-mapped",
        "sqlite-tuned",
        build_tuned,
        partial(_Reader, tuned=True, mapped=True),
    ),
    Rival(
        "SQLite compressed (zlib)",
        "sqlite-zlib",
        partial(build_default, compressed=True),
        partial(_Reader, compressed=True),
        cold=True,
    ),
]
