"""DuckDB: a table of BLOBs with a primary key, loaded from Arrow, one thread for a point query."""

from __future__ import annotations

from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa
from synthetic import Block

from rivals.protocol import Rival, synced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from synthetic import Field

    from rivals.protocol import Source

_SCHEMA = pa.schema([("object", pa.int64()), ("type", pa.int16()), ("data", pa.binary())])


def build(source: Source, folder: Path) -> None:
    """Load the table in blocks of 64 objects."""
    n_types = len(source.field.types)
    database = duckdb.connect(str(folder / "field.duckdb"))
    database.execute("SET force_compression = 'uncompressed'")
    database.execute(
        "CREATE TABLE lightcurve"
        " (object BIGINT, type SMALLINT, data BLOB, PRIMARY KEY (object, type))"
    )
    database.execute("BEGIN")
    for first, block in source.blocks(64):
        ids = source.field.object_ids[first : first + len(block.flux)]
        blobs = [
            b"".join(array[i, j].tobytes() for array in block)
            for i in range(len(ids))
            for j in range(n_types)
        ]
        columns = [
            np.repeat(ids, n_types),
            np.tile(np.arange(n_types, dtype=np.int16), len(ids)),
            blobs,
        ]
        database.register("loaded", pa.table(columns, schema=_SCHEMA))
        database.execute("INSERT INTO lightcurve SELECT * FROM loaded")
        database.unregister("loaded")
    database.execute("COMMIT")
    database.close()
    synced(folder)


class _Reader:
    def __init__(self, field: Field, folder: Path) -> None:
        self._database = duckdb.connect(str(folder / "field.duckdb"), read_only=True)
        self._database.execute("SET threads = 1")
        self._columns = {name: column for column, name in enumerate(field.types)}
        n = self._n = field.n_aors
        self._record = np.dtype([("flux", "<f4", n), ("err", "<f4", n), ("flag", "<u2", n)])

    def _blob(self, object_id: int, type_name: str) -> bytes:
        query = "SELECT data FROM lightcurve WHERE object = ? AND type = ?"
        found = self._database.execute(query, [object_id, self._columns[type_name]])
        return found.fetchone()[0]

    def one(self, object_id: int, type_name: str) -> Block:
        data, n = self._blob(object_id, type_name), self._n
        return Block(
            np.frombuffer(data, "<f4", n),
            np.frombuffer(data, "<f4", n, 4 * n),
            np.frombuffer(data, "<u2", n, 8 * n),
        )

    def _table(self, blobs: list[bytes]) -> Block:
        table = np.frombuffer(b"".join(blobs), self._record)
        return Block(table["flux"], table["err"], table["flag"])

    def all_types(self, object_id: int) -> Block:
        query = "SELECT data FROM lightcurve WHERE object = ? ORDER BY type"
        return self._table(
            [row[0] for row in self._database.execute(query, [object_id]).fetchall()]
        )

    def many(self, object_ids: Sequence[int], type_names: Sequence[str]) -> Block:
        return self._table([self._blob(i, t) for i, t in zip(object_ids, type_names, strict=True)])

    def flux_blocks(self) -> Iterator[np.ndarray]:
        found = self._database.execute("SELECT data FROM lightcurve")
        while rows := found.fetchmany(4 * len(self._columns)):
            yield np.stack([np.frombuffer(data, "<f4", self._n) for (data,) in rows])

    def close(self) -> None:
        self._database.close()


RIVALS = [
    Rival(
        "DuckDB BLOB",
        "duckdb",
        build,
        _Reader,
        note="uncompressed; its own compression makes the file a fifth smaller and takes ten "
        "times as long",
    )
]
