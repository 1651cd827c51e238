"""Take measurements from the tables of an import once more, as the import took them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from idfzarr.build.catalogue_columns import ColumnRule, Columns, FluxScale
from idfzarr.build.catalogue_objects import ObjectList
from idfzarr.build.catalogue_survey import Reading
from idfzarr.build.catalogue_tasks import TableInput, stage_batch
from idfzarr.build.catalogues import TableFile, read_catalogue
from idfzarr.store.arrays import read_array
from idfzarr.store.ledger import Record
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from idfzarr.build.provenance import Measured
    from idfzarr.build.source_files import Found
    from idfzarr.store.root import Root

__all__ = ["TableReader", "measure_tables"]

_MADE_BY = "import_tables"


@dataclass(frozen=True, eq=False)
class TableReader:
    """How the tables of an import were read, and which objects they were matched with.

    Attributes
    ----------
    reading
        As the store's settings have it.
    objects
        As the store's catalogue has them, in the order of the cube.
    """

    reading: Reading
    objects: ObjectList

    @classmethod
    def of_root(cls, root: Root) -> TableReader | None:
        """Return the reader of a store that was imported, None for any other.

        Raises
        ------
        ChunkCorrupt, ChunkMissing
            The catalogue is damaged.
        """
        told = root.ours.get("settings", {})
        if told.get("made_by") != _MADE_BY:
            return None
        ids, ra, dec, x, y = (
            read_array(root.place, f"catalogue/{name}", root.metadata[f"catalogue/{name}"])
            for name in ("object_id", "ra", "dec", "x", "y")
        )
        return cls(_reading(told), ObjectList(ids, ra, dec, x, y))


def _reading(told: Mapping[str, Any]) -> Reading:
    rules = told["rules"]
    return Reading(
        rules=None if rules is None else tuple(_rule(rule) for rule in rules),
        radii=None if told["radii"] is None else tuple(told["radii"]),
        scale=FluxScale(**told["scale"]),
        object_id=told["object_id"],
        by_sky=told["by_sky"],
        radius=told["radius"],
        time=told["time"],
    )


def _rule(told: Mapping[str, Any]) -> ColumnRule:
    return ColumnRule(**(dict(told) | {"columns": Columns(**told["columns"])}))


@dataclass(frozen=True)
class _Keeping(CubeWriter):
    """A writer that keeps what an import would stage of one AOR, and writes nothing."""

    position: int = field(kw_only=True)
    kept: list[NDArray[np.float32]] = field(kw_only=True, default_factory=list, compare=False)

    def batch_aors(self, batch: int) -> tuple[int, int]:  # noqa: ARG002  # there is but one
        """Return the place of the AOR, and the one after it."""
        return self.position, self.position + 1

    def write_staging(
        self,
        batch: int,
        block: NDArray[np.float32],
        *,
        sources: Sequence[Mapping[str, Any]] = (),
    ) -> Record:
        """Keep the block."""
        self.kept.append(block)
        return Record("staged", self.uuid, "", batch, 0, {"sources": list(sources)})


def measure_tables(
    writer: CubeWriter, reader: TableReader, source: Measured, found: Found
) -> NDArray[np.float32]:
    """Return the measurements of one AOR as its tables have them.

    Parameters
    ----------
    writer
        Of the store; nothing is written.
    reader
        How tables are read.
    source
        The AOR.
    found
        Where its tables are.

    Returns
    -------
    ndarray of float32
        (object, type, value), all types.

    Raises
    ------
    UsageError
        A table is not what it was when it was imported.
    SettingsDiffer
        A table changed while it was read.
    """
    known = set(writer.schema.types) if writer.schema else set()
    inputs = []
    for told, path in zip(source.told, found.paths, strict=True):
        file = TableFile(source.aor, str(told["channel"]), str(told["image"]), path)
        types = reader.reading.types(read_catalogue(path), file)
        # Types that only some tables have were left out of the cube.
        kept = {name: columns for name, columns in types.items() if name in known}
        inputs.append(TableInput(source.position, file, kept, dict(told["files"][0])))
    keeping = _Keeping(
        writer.place,
        writer.uuid,
        writer.created,
        writer.settings_json,
        writer.schema,
        position=source.position,
    )
    stage_batch(keeping, 0, inputs, reader.objects, reader.reading)
    block: NDArray[np.float32] = keeping.kept[0][0]
    return block
