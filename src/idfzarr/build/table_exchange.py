"""Exchange a table of a published store for a new one: readers find the old or the new.

The new table is written whole into staging and exchanged with the old by one
``renameat2(RENAME_EXCHANGE)``; then the root is published, whose copy of the table's metadata tells
how many AORs it covers. A writer that is killed before the exchange leaves the old table, after it
the new one, and staging, which the next writer removes. Where the file system cannot exchange, and
on object storage, arrays are replaced one by one, and until all are the root says that the table
covers no AOR.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.build.shard_tasks import schema_of_writer
from idfzarr.errors import UsageError
from idfzarr.store import exchange
from idfzarr.store.arrays import array_json, encode_array, group_json, json_bytes
from idfzarr.store.checksum import crc32c
from idfzarr.store.ledger import LEDGER_SUFFIX
from idfzarr.store.place import LocalPlace, locked, sync_folder
from idfzarr.store.root import ROOT_KEY, read_root
from idfzarr.store.schema import STAGING, plain_spec
from idfzarr.store.store_writer import zarr_dtype
from idfzarr.store.update import update_under_way

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.writer import CubeWriter

__all__ = ["NewTable", "exchange_table"]

_NEW = f"{STAGING}/table"


@dataclass(frozen=True, eq=False)
class NewTable:
    """A table of the cube, as it is to be.

    Parameters
    ----------
    group
        Its name.
    columns
        By name.
    dims
        Their dimensions.
    attributes
        Of the group.
    column_attributes
        CF attributes by column.
    """

    group: str
    columns: Mapping[str, NDArray[Any]]
    dims: tuple[str, ...]
    attributes: Mapping[str, Any]
    column_attributes: Mapping[str, Mapping[str, Any]]


def exchange_table(writer: CubeWriter, table: NewTable, *, generation: int) -> None:
    """Exchange a table for a new one and publish it.

    Parameters
    ----------
    writer
        Of a published store.
    table
        The new one; columns that the store has besides stay as they are.
    generation
        That of the root when the columns were computed.

    Raises
    ------
    UsageError
        The store has been changed since.
    """
    place = writer.place
    with locked(place.beside(LEDGER_SUFFIX), "update.lock"):
        _refuse_changed(writer, generation)
        if not (isinstance(place, LocalPlace) and _exchanged(writer, place, table)):
            _replace_in_place(writer, table)
        writer.publish(complete=False)
        place.remove_tree(STAGING)


def _exchanged(writer: CubeWriter, place: LocalPlace, table: NewTable) -> bool:
    """Write the new table beside the old and exchange them; False where that cannot be."""
    new = LocalPlace(f"{place.root}/{_NEW}")
    new.remove_tree("")
    documents = {table.group: group_json(table.attributes)}
    for name, values in table.columns.items():
        spec = plain_spec(
            schema_of_writer(writer),
            f"{table.group}/{name}",
            dims=table.dims,
            dtype=zarr_dtype(values),
            attributes=table.column_attributes.get(name, {}),
            codec="zstd",
        )
        for key, data in encode_array(spec, np.asarray(values)):
            new.write(key, data)
        documents[spec.path] = array_json(spec)
    for path, document in documents.items():
        new.write(f"{path}/{ROOT_KEY}", json_bytes(document))
    _keep_others(place, new, table.group, set(documents))
    # `publish` takes over metadata only that a writer said it would write
    told = [{"metadata": p, "crc32c": crc32c(json_bytes(d))} for p, d in documents.items()]
    writer.ledger.append_all("note", told)
    before, after = Path(place.root) / table.group, Path(new.root) / table.group
    if not before.is_dir():
        after.rename(before)
    elif not exchange.exchange_at_once(str(after), str(before)):
        return False
    sync_folder(str(before.parent))
    return True


def _keep_others(place: LocalPlace, new: LocalPlace, group: str, ours: set[str]) -> None:
    """Take along what stands in the old table and is not written anew."""
    for key in place.keys(group):
        if exchange.owner_of(key) not in ours:
            new.write(key, place.read(key))


def _replace_in_place(writer: CubeWriter, table: NewTable) -> None:
    writer.write_group(table.group, dict(table.attributes) | {"n_aors": 0})
    writer.publish(complete=False)
    writer.write_table(
        table.group,
        table.columns,
        dims=table.dims,
        attributes=table.attributes,
        column_attributes=table.column_attributes,
    )


def _refuse_changed(writer: CubeWriter, generation: int) -> None:
    root = read_root(writer.place)
    under_way = update_under_way(writer.state(), root)
    if under_way is not None or root.generation != generation:
        what = f"the {under_way} began" if under_way is not None else "the cube was changed"
        msg = (
            f"while the statistics of {writer.place.url} were computed {what}: the table stays as "
            "it was; compute it again when that is done"
        )
        raise UsageError(msg)
