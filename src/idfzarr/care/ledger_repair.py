"""Mend a ledger: take out lines that cannot be believed, note anew what the store itself proves.

What a damaged line said, or one that is gone, is not guessed. A shard of which no line speaks any
more, and whose every chunk is proved by its crc32c, is noted as done with ``provenance: unknown``;
so are the beginning and the publication of a store whose root is whole. The damaged file goes to
quarantine as it was.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from idfzarr.care.ledger_check import lines_gone
from idfzarr.care.quarantine import contained
from idfzarr.care.shard_repair import examine_shard, noted_shards, put_together, shard_record
from idfzarr.store.checksum import crc32c
from idfzarr.store.ledger import LEDGER_SUFFIX, Ledger, read_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idfzarr.care.known_store import KnownStore
    from idfzarr.care.quarantine import Quarantine
    from idfzarr.store.root import Root
    from idfzarr.store.schema import CubeSchema

__all__ = ["mend_ledger"]

_UNKNOWN = {"provenance": "unknown"}


def mend_ledger(known: KnownStore, key: str, quarantine: Quarantine, *, reason: str) -> str | None:
    """Take the damaged lines out of one file of a ledger.

    Parameters
    ----------
    known
        The store.
    key
        The file's name in the ledger's folder.
    quarantine
        Where the file goes as it was.
    reason
        Why.

    Returns
    -------
    str or None
        What was done; None where every line matches its crc32c and none is gone unnoted.
    """
    place = known.place.beside(LEDGER_SUFFIX)
    bad = {one.line for one in known.state.damaged if one.file == f"{place.url}/{key}"}
    gone = lines_gone(read_ledger(known.reading)).get(key, 0)
    told = [r.fields.get("gone") for r in known.state.of("note") if r.fields.get("damaged") == key]
    if not bad and (not gone or gone in told):
        return None
    noted = 0
    if known.root is not None:
        ledger = Ledger(known.place, known.root.uuid)
        ledger.append("note", damaged=key, lines=sorted(bad), gone=gone, **_UNKNOWN)
        _note_store(known, known.root, ledger)
        if known.schema is not None:
            proved = list(_proved_shards(known, known.schema))
            noted = len(ledger.append_all("done", proved)) if proved else 0
    if not bad:
        return (
            f"{gone} lines of {key} are gone; {noted} shards of which no other line speaks were "
            "noted as done, of unknown provenance"
        )
    contained(place.url, key)
    lines = place.read(key).split(b"\n")
    good = [line for number, line in enumerate(lines, start=1) if line and number not in bad]
    if good:
        quarantine.keep(key, reason, beside="ledger")
        place.write(key, b"\n".join(good) + b"\n")
    else:
        quarantine.take(key, reason, beside="ledger")
    return (
        f"{len(bad)} damaged lines were taken out of {key}; {noted} shards of which no other line "
        "speaks were noted as done, of unknown provenance"
    )


def _note_store(known: KnownStore, root: Root, ledger: Ledger) -> None:
    """Note the beginning and the publication of a store if no line speaks of them any more."""
    ours = root.ours
    if known.state.last("begin") is None:
        ledger.append(
            "begin",
            created=str(ours.get("created")),
            format=ours.get("format"),
            settings=_canonical(ours.get("settings", {})),
            settings_digest=ours.get("settings_digest"),
            software=ours.get("software"),
            **_UNKNOWN,
        )
    if known.state.last("published") is None:
        told: dict[str, Any] = {"generation": root.generation}
        ledger.append("published", **told, **_UNKNOWN)


def _canonical(settings: object) -> str:
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _proved_shards(known: KnownStore, schema: CubeSchema) -> Iterator[dict[str, Any]]:
    """Yield what is to be noted of shards that are whole and of which no line speaks."""
    for shard in range(schema.layout.n_shards):
        key = schema.layout.key(shard)
        notes = noted_shards(known, key)
        if key in known.state.done:
            continue
        damaged = examine_shard(known, schema, shard)
        if damaged.data is None or damaged.left.lost:
            continue
        if notes and notes[0].get("crc32c") == crc32c(damaged.data):
            yield dict(notes[0])
        elif not notes and put_together(schema, damaged, {}) == damaged.data:
            yield shard_record(schema, damaged, damaged.data, **_UNKNOWN)
