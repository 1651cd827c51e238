"""From which mosaic, and together with which types, every lightcurve of a cube was measured.

The ledger is asked. An AOR's values are those of the last build, append or replacement that staged
it; types that were added later are those of the change that added them. It matters which types were
measured together, since sums depend, in their last bit, on which other apertures share their rings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import MetadataCorrupt, UsageError
from idfzarr.measurement import parse_measurement
from idfzarr.store.recognise import schema_of
from idfzarr.store.schema import COORDINATES, LIGHTCURVES, VALUES
from idfzarr.store.update import Update
from idfzarr.store.writer import CubeWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from idfzarr.store.ledger import LedgerState, Record
    from idfzarr.store.root import Root
    from idfzarr.store.schema import CubeSchema

__all__ = [
    "History",
    "Measured",
    "Staged",
    "read_history",
    "schema_of_root",
    "writer_of_root",
]


@dataclass(frozen=True)
class Measured:
    """One mosaic, or one AOR's tables, as they were measured.

    Attributes
    ----------
    aor, channel
        Which; the channel is an empty string for the tables of an import.
    position
        The AOR's place along ``aor``.
    types
        The types whose values in the cube come from it, in the order of the cube.
    together
        The types that were measured with it, in the order of the cube.
    told
        What the ledger told when it was staged: ``files`` and what was learnt of the mosaic.
    registered
        The ledger's ``registered`` of the same files; None where there is none.
    is_first
        Whether the build that made the store measured it, not a change of it.
    """

    aor: str
    channel: str
    position: int
    types: tuple[str, ...]
    together: tuple[str, ...]
    told: tuple[Mapping[str, Any], ...]
    registered: Mapping[str, Any] | None
    is_first: bool

    @property
    def name(self) -> str:
        """AOR and channel, as people name a mosaic."""
        return f"AOR {self.aor}" + (f" in {self.channel}" if self.channel else "")


@dataclass(frozen=True)
class Staged:
    """A batch that was staged and that the cube holds.

    Attributes
    ----------
    record
        The ledger's line.
    generation
        That of the root which made it visible; 0 for the build that made the store.
    kind
        ``build``, ``append``, ``replace`` or ``relayout``.
    """

    record: Record
    generation: int
    kind: str

    def sources(self, aor: str) -> list[Mapping[str, Any]]:
        """Return what the ledger tells of the sources of one AOR."""
        return [told for told in self.record.fields.get("sources", ()) if told.get("aor") == aor]


@dataclass(frozen=True)
class History:
    """What a cube was measured from.

    Attributes
    ----------
    measured
        Every mosaic, or every AOR's tables, in the order of the cube.
    unknown
        AORs, by name, that the ledger does not speak of.
    added
        The generation in which a type came, by name; types of the first build have 0.
    staged
        The batches, in the order of generation and time.
    """

    measured: tuple[Measured, ...]
    unknown: tuple[str, ...]
    added: Mapping[str, int]
    staged: tuple[Staged, ...]


def schema_of_root(root: Root) -> CubeSchema:
    """Return what a cube is by its root alone, so that a damaged coordinate does not matter.

    Channels stand in the order in which the types have them.

    Raises
    ------
    MetadataCorrupt
        The root does not describe a cube.
    UsageError
        The cube is laid out in another way than this package does.
    """
    node = root.metadata.get(LIGHTCURVES, {})
    told = node.get("attributes", {})
    try:
        types = [str(name) for name in told["type"]]
        names = [str(name) for name in told["aor_name"]]
        n_objects = int(node["shape"][0])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        msg = f"{root.place.url}/zarr.json does not describe the cube ({error!r}); repair the store"
        raise MetadataCorrupt(msg) from error
    channels = list(dict.fromkeys(parse_measurement(name).channel for name in types))
    lengths = {
        "object": n_objects,
        "type": len(types),
        "aor": len(names),
        "channel": len(channels),
        "value": len(VALUES),
    }
    coordinates: dict[str, Any] = {
        name: np.zeros([lengths[d] for d in COORDINATES[name].dims], dtype=np.int64)
        for name in ("object", "aor", "mjd", "type_channel")
    }
    coordinates |= {"type": np.array(types), "aor_name": np.array(names)}
    coordinates["channel"] = np.array(channels)
    schema, known = schema_of(root, coordinates)
    if not known:
        msg = f"{root.place.url} is laid out in chunks or codecs that idfzarr reads but never wrote"
        raise UsageError(msg)
    return schema


def writer_of_root(root: Root, schema: CubeSchema) -> CubeWriter:
    """Return a writer of a published store, to read with; it does nothing by being made."""
    return CubeWriter(
        root.place,
        uuid=root.uuid,
        created=str(root.ours["created"]),
        settings_json=json.dumps(root.ours.get("settings", {}), sort_keys=True),
        schema=schema,
    )


def read_history(state: LedgerState, root: Root, schema: CubeSchema) -> History:
    """Find out from the ledger what a cube was measured from.

    Parameters
    ----------
    state
        The ledger's records of this store.
    root
        Its root.
    schema
        What the cube is.

    Returns
    -------
    History
        Of what is visible; what an unfinished change has staged does not count.
    """
    updates = _committed(state, root)
    added = dict.fromkeys(schema.types, 0)
    for update in updates.values():
        if update.kind == "relayout":
            added |= {t: update.generation for t in update.fields["types"] if t in added}
    staged = _staged(state, updates)
    whole = {a: s for s in staged if s.kind != "relayout" for a in s.record.fields["aors"]}
    later = {
        (s.generation, a): s
        for s in staged
        if s.kind == "relayout"
        for a in s.record.fields["aors"]
    }
    registered = _Registered(state)
    measured: list[Measured] = []
    unknown: list[str] = []
    for position, aor in enumerate(schema.aor_names):
        parts = _parts_of(aor, whole, later, added)
        if parts is None:
            unknown.append(aor)
            continue
        for batch, types in parts:
            found = _sources_of(aor, batch, types, known=schema.types, registered=registered)
            measured += [replace(source, position=position) for source in found]
    return History(tuple(measured), tuple(unknown), added, tuple(staged))


def _committed(state: LedgerState, root: Root) -> dict[str, Update]:
    """Return the changes that readers see, by token."""
    given_up = {r.fields.get("update") for r in state.of("abandoned")}
    found = {}
    for record in state.of("append", "replace", "relayout"):
        update = Update.of_record(record)
        if update.generation <= root.generation and update.token not in given_up:
            found[update.token] = update
    return found


def _staged(state: LedgerState, updates: Mapping[str, Update]) -> list[Staged]:
    found = []
    for record in state.of("staged"):
        token = record.fields.get("update")
        if token is None:
            found.append(Staged(record, 0, "build"))
        elif token in updates:
            found.append(Staged(record, updates[token].generation, updates[token].kind))
    return sorted(found, key=lambda s: s.generation)  # stable: within one, in order of time


def _parts_of(
    aor: str,
    whole: Mapping[str, Staged],
    later: Mapping[tuple[int, str], Staged],
    added: Mapping[str, int],
) -> list[tuple[Staged, list[str]]] | None:
    """Return the batches that an AOR's values come from, and the types of each."""
    if aor not in whole:
        return None
    first = whole[aor]
    parts = [(first, [t for t, since in added.items() if since <= first.generation])]
    for since in sorted({g for g in added.values() if g > first.generation}):
        if (since, aor) not in later:
            return None
        parts.append((later[since, aor], [t for t, g in added.items() if g == since]))
    return parts


def _sources_of(
    aor: str,
    batch: Staged,
    types: Sequence[str],
    *,
    known: Sequence[str],
    registered: _Registered,
) -> Iterator[Measured]:
    sources = batch.sources(aor)
    tables = tuple(told for told in sources if "noise_scale" not in told)
    if tables:  # an import: a table may hold several channels
        yield Measured(
            aor=aor,
            channel="",
            position=-1,
            types=tuple(types),
            together=tuple(types),
            told=tables,
            registered=None,
            is_first=batch.kind == "build",
        )
    for told in sources:
        if "noise_scale" not in told:
            continue
        channel = str(told["channel"])
        together = tuple(t for t in known if t in told["noise_scale"])
        own = tuple(t for t in types if parse_measurement(t).channel == channel)
        if own:
            yield Measured(
                aor=aor,
                channel=channel,
                position=-1,
                types=own,
                together=together,
                told=(told,),
                registered=registered.of(told, before=batch.record),
                is_first=batch.kind == "build",
            )


class _Registered:
    """The ledger's ``registered`` records, to be found by the files they speak of."""

    def __init__(self, state: LedgerState) -> None:
        self._found: dict[tuple[str, str], list[Record]] = {}
        for record in state.of("registered"):
            key = str(record.fields["aor"]), str(record.fields["channel"])
            self._found.setdefault(key, []).append(record)

    def of(self, told: Mapping[str, Any], *, before: Record) -> Mapping[str, Any] | None:
        """Return the newest record of a mosaic that is older than what was staged of it.

        Where no clock says so, the newest of all: writers on other machines have other clocks.
        """
        digests = _digests(told)
        same = [
            record
            for record in self._found.get((str(told["aor"]), str(told["channel"])), [])
            if _digests(record.fields) == digests
        ]
        older = [record for record in same if record.time_ns <= before.time_ns]
        return (older or same)[-1].fields if same else None


def _digests(told: Mapping[str, Any]) -> dict[str, str]:
    return {str(file["kind"]): str(file["sha256"]) for file in told["files"]}
