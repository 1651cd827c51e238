"""What a store says of itself: its root, the ledger's copy of it, or its arrays one by one.

An inventory must be able to judge a store whose root is damaged or not written yet. The root is
believed first; where its crc32c fails, the ledger's copy; else the arrays' own metadata.
"""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.finding import Finding, Where, finding
from idfzarr.errors import (
    ForeignStore,
    FormatVersionError,
    IdfzarrError,
    MetadataCorrupt,
    StoreMissing,
    UnfinishedStore,
)
from idfzarr.store.recognise import schema_of
from idfzarr.store.root import ROOT_KEY, Root, read_root
from idfzarr.store.root_copy import choose_copy, committed_root
from idfzarr.store.schema import COORDINATES, CUBE_DIMS, LIGHTCURVES, STAGING, VALUES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idfzarr.care.read_only import ReadOnlyPlace
    from idfzarr.store.layout import Layout
    from idfzarr.store.ledger import LedgerState
    from idfzarr.store.schema import CubeSchema

__all__ = ["Claims", "claims_of", "own_node"]

_NAMED = 5
_NEEDED = ("object", "type", "aor", "channel", "mjd", "type_channel")


@dataclass(frozen=True, eq=False)
class Claims:
    """What a store says of itself.

    Attributes
    ----------
    source
        ``root``, ``copy`` (the ledger's) or ``own`` (the arrays' own metadata).
    nodes
        Metadata of arrays and groups by path.
    uuid, generation
        Of the store; None where nobody says.
    is_published
        Whether readers can see it, or could before its root was damaged.
    layout
        Of the cube; None where the metadata does not tell.
    schema
        What the cube is; None where the fast path does not know its layout and codecs.
    findings
        What is the matter with the root.
    """

    source: str
    nodes: Mapping[str, Mapping[str, Any]]
    uuid: str | None = None
    generation: int | None = None
    is_published: bool = True
    layout: Layout | None = None
    schema: CubeSchema | None = None
    root: Root | None = None
    findings: tuple[Finding, ...] = field(default_factory=tuple)

    def is_array(self, path: str) -> bool:
        """Say whether there is to be an array of that path."""
        return self.nodes.get(path, {}).get("node_type") == "array"

    @property
    def arrays(self) -> list[str]:
        """Paths of the arrays, sorted."""
        return sorted(path for path in self.nodes if self.is_array(path))


def claims_of(place: ReadOnlyPlace, state: LedgerState) -> Claims | None:
    """Find out what a store says of itself.

    Parameters
    ----------
    place
        The store.
    state
        All that the ledger beside it says.

    Returns
    -------
    Claims or None
        None for a store that is none of ours.

    Raises
    ------
    StoreMissing, UnfinishedStore
        There is nothing to look at.
    """
    try:
        root = read_root(place)
    except (IdfzarrError, OSError) as error:
        return _in_spite_of(error, place, state)
    committed = committed_root(place, root, state.for_store(root.uuid))
    layout, schema, bad = _cube_of(committed)
    if committed is not root:
        bad = [*bad, _altered(place, root, committed)]
    return Claims(
        "root" if committed is root else "copy",
        committed.metadata,
        committed.uuid,
        committed.generation,
        True,
        layout,
        schema,
        committed,
        tuple(bad),
    )


def _altered(place: ReadOnlyPlace, root: Root, committed: Root) -> Finding:
    """Tell of a root that is not the one that was committed, though its crc32c is right."""
    old, new = committed.metadata, root.metadata
    paths = sorted(path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    shown = ", ".join(paths[:_NAMED]) + (", ..." if len(paths) > _NAMED else "")
    told = (
        f"what the root {ROOT_KEY} says of {shown or 'the store'} is not what was committed as "
        f"generation {root.generation}, of which the ledger has a copy; no writer noted the change"
    )
    where = Where(key=ROOT_KEY, n_bytes=place.size(ROOT_KEY))
    return finding("consolidated_stale", where, told, severity="error")


def _in_spite_of(
    error: IdfzarrError | OSError, place: ReadOnlyPlace, state: LedgerState
) -> Claims | None:
    """Find out what a store says of itself whose root cannot be read."""
    if isinstance(error, StoreMissing | UnfinishedStore):
        return _without_root(place, state, error)
    if isinstance(error, FormatVersionError):
        return _of_other_version(place, state, error)
    if not _is_damaged_cube(error, place, state):
        return None
    if not isinstance(error, OSError):
        return _damaged(place, state, str(error))
    if error.errno == errno.EFBIG:
        return _damaged(place, state, f"the root {ROOT_KEY} is too large: {error.strerror}")
    return _from_elsewhere(place, state, ())  # the listing has seen why


def _is_damaged_cube(
    error: IdfzarrError | OSError, place: ReadOnlyPlace, state: LedgerState
) -> bool:
    """Say whether a store whose root cannot be read is one of ours."""
    is_cube = _is_cube(own_node(place, LIGHTCURVES))
    if isinstance(error, ForeignStore):
        return bool(state.records) and (place.size(ROOT_KEY) is None or is_cube)
    bears_our_name = isinstance(error, MetadataCorrupt) and _says_ours(place)
    return state.begun is not None or is_cube or bears_our_name


def _without_root(place: ReadOnlyPlace, state: LedgerState, error: IdfzarrError) -> Claims | None:
    """Judge a store without a root: a build under way, or nothing at all."""
    if isinstance(error, StoreMissing) and not place.exists():
        raise error
    if next(iter(place.keys()), None) is None and not state.records:
        return None
    if state.begun is None:
        raise error
    nodes = _own_nodes(place)
    if not nodes and next(iter(place.keys()), None) is None:
        raise error
    return _of_nodes(place, nodes, state, published=False, findings=())


def _damaged(place: ReadOnlyPlace, state: LedgerState, told: str) -> Claims:
    size = place.size(ROOT_KEY)
    found = finding("metadata_corrupt", Where(key=ROOT_KEY, n_bytes=size), told)
    return _from_elsewhere(place, state, (found,))


def _of_other_version(
    place: ReadOnlyPlace, state: LedgerState, error: FormatVersionError
) -> Claims | None:
    """Tell a store of another version from one whose version is damaged."""
    copy = choose_copy(place)
    if copy is not None:
        return _damaged(place, state, f"{error}; the ledger's copy of the root says otherwise")
    found = finding("format_version", Where(key=ROOT_KEY), str(error))
    return Claims("root", {}, findings=(found,))


def _from_elsewhere(
    place: ReadOnlyPlace, state: LedgerState, findings: tuple[Finding, ...]
) -> Claims:
    copy = choose_copy(place)
    if copy is None:
        return _of_nodes(place, _own_nodes(place), state, published=True, findings=findings)
    root = copy[1]
    layout, schema, bad = _cube_of(root)
    return Claims(
        "copy",
        root.metadata,
        root.uuid,
        root.generation,
        True,
        layout,
        schema,
        root,
        (*findings, *bad),
    )


def _of_nodes(
    place: ReadOnlyPlace,
    nodes: Mapping[str, Mapping[str, Any]],
    state: LedgerState,
    *,
    published: bool,
    findings: tuple[Finding, ...],
) -> Claims:
    layout, schema, _ = _cube_of(Root(place, {}, nodes))
    uuid = state.begun.uuid if state.begun else None
    return Claims("own", nodes, uuid, None, published, layout, schema, None, findings)


# -------------------------------------------------------------------- is it ours


def _says_ours(place: ReadOnlyPlace) -> bool:
    """Say whether a damaged root still bears our attribute."""
    try:
        return b'"idfzarr"' in place.read(ROOT_KEY)
    except OSError:
        return False


def _is_cube(node: Mapping[str, Any] | None) -> bool:
    return node is not None and node.get("dimension_names") == list(CUBE_DIMS)


# -------------------------------------------------------------------- nodes


def own_node(place: ReadOnlyPlace, path: str) -> Mapping[str, Any] | None:
    """Return the metadata that an array or a group keeps itself; None for none that can be read."""
    try:
        found = json.loads(place.read(f"{path}/{ROOT_KEY}"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _own_nodes(place: ReadOnlyPlace) -> dict[str, Mapping[str, Any]]:
    """Return the metadata of all arrays and groups, by themselves; staging left out."""
    found: dict[str, Mapping[str, Any]] = {}
    for key in place.keys():
        path = key.removesuffix(f"/{ROOT_KEY}")
        if path != key and path.split("/")[0] != STAGING:
            node = own_node(place, path)
            if node is not None and node.get("node_type") in {"array", "group"}:
                found[path] = node
    return found


def _cube_of(root: Root) -> tuple[Layout | None, CubeSchema | None, list[Finding]]:
    """Return what the metadata alone says of the cube."""
    node = root.metadata.get(LIGHTCURVES)
    if not isinstance(node, dict) or node.get("node_type") != "array":
        told = f"the root names no array {LIGHTCURVES!r}"
        return None, None, [finding("metadata_corrupt", Where(key=ROOT_KEY), told)]
    try:
        schema, known = schema_of(root, _stand_ins(root, node))
    except IdfzarrError as error:
        where = Where(LIGHTCURVES, f"{LIGHTCURVES}/{ROOT_KEY}")
        return None, None, [finding("metadata_corrupt", where, str(error))]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        where = Where(LIGHTCURVES, f"{LIGHTCURVES}/{ROOT_KEY}")
        told = f"the metadata of {LIGHTCURVES} does not describe a cube: {error!r}"
        return None, None, [finding("metadata_corrupt", where, told)]
    if known:
        return schema.layout, schema, []
    return schema.layout if _is_laid_out(node, schema.layout) else None, None, []


def _is_laid_out(node: Mapping[str, Any], layout: Layout) -> bool:
    """Say whether a cube whose codecs are not ours is laid out as ours are, an index at its end."""
    link = node["codecs"][0]
    told = link.get("configuration", {})
    return (
        link.get("name") == "sharding_indexed"
        and len(node["codecs"]) == 1
        and told.get("chunk_shape") == list(layout.chunk_shape)
        and told.get("index_location", "end") == "end"
        and [codec.get("name") for codec in told.get("index_codecs", ())] == ["bytes", "crc32c"]
        and node["chunk_grid"]["configuration"]["chunk_shape"] == list(layout.shard_shape)
    )


def _stand_ins(root: Root, node: Mapping[str, Any]) -> dict[str, Any]:
    """Return arrays of the lengths that coordinates must have, names where they are repeated."""
    attributes = node.get("attributes", {})
    shape = dict(zip(CUBE_DIMS, (int(n) for n in node["shape"]), strict=True))
    channel = root.metadata.get("channel", {}).get("shape", [1])
    lengths = shape | {"channel": int(channel[0]), "value": len(VALUES)}
    if max(lengths.values()) > 1 << 28:
        msg = f"a cube of {lengths} is absurd"
        raise ValueError(msg)
    made: dict[str, Any] = {}
    for name in (*_NEEDED, "aor_name"):
        told = attributes.get(name)
        dims = COORDINATES[name].dims
        wanted = tuple(lengths[dim] for dim in dims)
        if isinstance(told, list) and (len(told),) == wanted:
            made[name] = np.array([str(label) for label in told], dtype=object)
        else:
            made[name] = np.broadcast_to(np.int64(0), wanted)
    return made
