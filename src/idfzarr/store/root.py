"""The root ``zarr.json``: what it says, and how it is read without being believed blindly.

It is the one commit point: it carries the consolidated metadata of all arrays and is replaced by
one rename. This package reads lengths from there only. Its crc32c, over everything this package
relies on, stands in it, since a flipped bit in a ``zarr.json`` may well leave valid JSON.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from idfzarr.errors import (
    ForeignStore,
    FormatVersionError,
    MetadataCorrupt,
    StoreError,
    StoreMissing,
    UnfinishedStore,
)
from idfzarr.store.arrays import group_json, json_bytes
from idfzarr.store.checksum import crc32c
from idfzarr.store.ledger import read_ledger
from idfzarr.store.schema import DIMENSION_COORDINATES, FORMAT, LIGHTCURVES, ROOT_ATTRIBUTE, STAGING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from idfzarr.store.place import Place

__all__ = [
    "ROOT_KEY",
    "Root",
    "gather_metadata",
    "read_root",
    "root_bytes",
    "settings_digest",
    "software",
]

ROOT_KEY = "zarr.json"
_CRC = "metadata_crc32c"
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Root:
    """The root of a published store.

    Parameters
    ----------
    place
        The store.
    attributes
        Attributes of the root.
    metadata
        Metadata of every array and group, by path.
    """

    place: Place
    attributes: Mapping[str, Any]
    metadata: Mapping[str, Mapping[str, Any]]

    @property
    def ours(self) -> Mapping[str, Any]:
        """The attribute that says the store is ours: format, uuid, settings, ..."""
        value: Mapping[str, Any] = self.attributes[ROOT_ATTRIBUTE]
        return value

    @property
    def uuid(self) -> str:
        """The store's uuid."""
        return str(self.ours["uuid"])

    @property
    def generation(self) -> int:
        """How often the published store has been changed: appended to, laid out anew."""
        return int(self.ours.get("generation", 0))

    def is_array(self, path: str) -> bool:
        """Say whether there is an array of that path."""
        return self.metadata.get(path, {}).get("node_type") == "array"

    def arrays(self, group: str = "") -> list[str]:
        """Return the paths of the arrays directly in a group, sorted."""
        head = f"{group}/" if group else ""
        return sorted(
            path
            for path in self.metadata
            if path.startswith(head) and "/" not in path[len(head) :] and self.is_array(path)
        )


def software() -> dict[str, str]:
    """Return the versions of the packages that decide what is written."""
    versions = {}
    for name in ("idfzarr", "numpy", "numcodecs", "zarr"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from its source, or without it
            versions[name] = "unknown"
    return versions


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return the sha256 of settings, however their keys are ordered."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _relied_upon(document: Mapping[str, Any]) -> bytes:
    """Return what the crc32c of a root covers, in one spelling.

    Attributes that a user adds to the root are left out: they are the user's. So is what
    zarr-python adds when it writes them: consolidated metadata of the groups below.
    """
    attributes = document["attributes"]
    ours = {k: v for k, v in attributes[ROOT_ATTRIBUTE].items() if k != _CRC}
    metadata = _nodes(document)
    covered = [ours, attributes.get("coordinates"), metadata]
    return json.dumps(covered, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _nodes(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the metadata of every array and group, each without what stands below it."""
    return {
        path: {k: v for k, v in node.items() if k != "consolidated_metadata"}
        for path, node in document["consolidated_metadata"]["metadata"].items()
    }


def root_bytes(
    ours: Mapping[str, Any],
    metadata: Mapping[str, Mapping[str, Any]],
    *,
    extra: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the root ``zarr.json``.

    Parameters
    ----------
    ours
        Content of the attribute `ROOT_ATTRIBUTE`.
    metadata
        Metadata of every array and group below, by path.
    extra
        Further attributes of the root, kept as they are.

    Returns
    -------
    bytes
        With inline consolidated metadata, as zarr-python writes it, and the crc32c.
    """
    names = [
        path
        for path, node in sorted(metadata.items())
        if "/" not in path
        and node["node_type"] == "array"
        and path not in {LIGHTCURVES, STAGING, *DIMENSION_COORDINATES}
    ]
    attributes = dict(extra or {}) | {
        "Conventions": "CF-1.12",
        "coordinates": " ".join(names),
        ROOT_ATTRIBUTE: dict(ours),
    }
    document = group_json(attributes)
    document["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": {path: dict(metadata[path]) for path in sorted(metadata)},
    }
    attributes[ROOT_ATTRIBUTE][_CRC] = f"{crc32c(_relied_upon(document)):08x}"
    return json_bytes(group_json(attributes) | document | {"attributes": attributes})


def gather_metadata(place: Place) -> dict[str, dict[str, Any]]:
    """Read the own ``zarr.json`` of every array and group below the root, staging left out.

    Groups that have none get an empty one.

    Parameters
    ----------
    place
        The store.

    Returns
    -------
    dict
        Metadata by path.

    Raises
    ------
    MetadataCorrupt
        One of them is no JSON.
    """
    found: dict[str, dict[str, Any]] = {}
    for key in place.keys():
        path = key.removesuffix("/" + ROOT_KEY)
        if path == key or path.split("/")[0] == STAGING:
            continue
        found[path] = _parse(place.read(key), f"{place.url}/{key}")
        for end in (i for i, letter in enumerate(path) if letter == "/"):
            found.setdefault(path[:end], group_json())
    return found


def _parse(data: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"{where} is no JSON ({error}); repair the store"
        raise MetadataCorrupt(msg) from error
    if not isinstance(document, dict):
        msg = f"{where} is no metadata of Zarr; repair the store"
        raise MetadataCorrupt(msg)
    return document


def read_root(place: Place) -> Root:
    """Read and check the root of a published store.

    Parameters
    ----------
    place
        The store.

    Returns
    -------
    Root
        What it says.

    Raises
    ------
    StoreMissing
        There is nothing.
    UnfinishedStore
        Its build has not been published.
    ForeignStore
        There is something else.
    FormatVersionError
        It is a store of another format version.
    MetadataCorrupt
        The root is damaged.
    """
    where = f"{place.url}/{ROOT_KEY}"
    size = place.size(ROOT_KEY)
    if size is None:
        raise _no_root(place)
    if size > _MOST_BYTES:
        msg = (
            f"{where} has {size} bytes, more than any metadata of ours; this is no store of idfzarr"
        )
        raise ForeignStore(msg)
    document = _parse(place.read(ROOT_KEY), where)
    attributes = document.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    ours = attributes.get(ROOT_ATTRIBUTE)
    if document.get("node_type") != "group" or not isinstance(ours, dict):
        msg = (
            f"{place.url} is a Zarr {document.get('node_type', 'store')} but none of idfzarr: "
            "its root "
            f"has no attribute {ROOT_ATTRIBUTE!r}; open it with zarr or xarray"
        )
        raise ForeignStore(msg)
    _check_format(place, ours)
    _check_whole(document, where)
    return Root(place, attributes, _nodes(document))


def _no_root(place: Place) -> StoreError | MetadataCorrupt:
    """Say why there is no root ``zarr.json``."""
    state = read_ledger(place)
    filled = next(iter(place.keys()), None) is not None
    if state.is_published and filled:
        msg = (
            f"{place.url} was published, but its root {ROOT_KEY} is gone; repair the store, or run "
            "the build again"
        )
        return MetadataCorrupt(msg)
    if state.begun is not None and not state.is_published:
        msg = (
            f"the store {place.url} is not finished: its build has not been published; run the "
            "build again, it goes on where it stopped"
        )
        return UnfinishedStore(msg)
    if not filled and next(state.of("relayout"), None) is not None:
        msg = (
            f"{place.url} was being exchanged for a new layout of it when its writer was stopped; "
            "run the command again that laid it out anew, or any build: it puts the store back"
        )
        return UnfinishedStore(msg)
    if filled:
        msg = (
            f"{place.url} is no store of idfzarr: there are files, but no {ROOT_KEY} at its root; "
            "give the folder that idfzarr made"
        )
        return ForeignStore(msg)
    msg = f"there is no store at {place.url}; check the path, or build one there"
    return StoreMissing(msg)


def _check_format(place: Place, ours: Mapping[str, Any]) -> None:
    found = ours.get("format")
    if found != FORMAT:
        msg = (
            f"the store {place.url} has format {found!r}, this package reads format {FORMAT}; run "
            f"`idfzarr migrate {place.url} NEW`, or use the version of idfzarr that wrote it"
        )
        raise FormatVersionError(msg)


def _check_whole(document: Mapping[str, Any], where: str) -> None:
    try:
        nodes = document["consolidated_metadata"]["metadata"]
        stated = document["attributes"][ROOT_ATTRIBUTE][_CRC]
        whole = f"{crc32c(_relied_upon(document)):08x}" == stated
        shaped = all(isinstance(node, dict) for node in nodes.values())
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        msg = (
            f"{where} has lost its consolidated metadata or its crc32c ({error!r}); repair the "
            "store"
        )
        raise MetadataCorrupt(msg) from error
    if not (whole and shaped):
        msg = (
            f"{where} does not match its own crc32c: damaged, or changed by hand; repair the store"
        )
        raise MetadataCorrupt(msg)
