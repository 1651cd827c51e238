"""Skycells in earlier layouts, read as if they were in this package's own.

The layouts are those of an earlier toolkit (Zarr v3, or v2): asinh values as float32 whose BSCALE,
BZERO and BLANK are lost, masks as uint16 or uint32, one header as text.

===  ==========================================================================================
G0   ``projections/{PPPP}/skycell.PPPP.0YX/{array}``, images and masks
G1   ``{PPPP}/skycell.PPPP.0YX/{array}``; the header of one of the arrays on the group, masks uint32
G2   the header on every array
G3   weights too, masks uint16
===  ==========================================================================================

One store may hold several of them, and a skycell in both trees; then the newer tree counts. A chunk
that holds nothing but the fill value was never written, so that one which was lost cannot be told
from it: such chunks read as NaN or 0, and `OldSkycells.missing_chunks` counts them.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.errors import (
    ChunkCorrupt,
    CorruptError,
    ForeignStore,
    IdfzarrError,
    ImageUnreadable,
    MetadataCorrupt,
    UnknownName,
)
from idfzarr.ps1.headers import card_value, header_of
from idfzarr.ps1.names import parse
from idfzarr.ps1.sky_keys import SkyArray, checked_window, parse_array_name, sky_array
from idfzarr.ps1.sky_metadata import (
    ATTRIBUTE,
    MOST_METADATA_BYTES,
    parse_json,
    pixel_attributes,
    scale_of,
    wcs_of_cards,
)
from idfzarr.ps1.skystore import SkycellStore
from idfzarr.store.place import LocalPlace, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from idfzarr.ps1.sky_keys import Kind, SkycellReader, Window
    from idfzarr.store.place import Place, PlaceLike

__all__ = ["OldSkycells", "open_skystore"]

_OLD_TREE = "projections"
_CARD = 80
_MOST_PIXELS = 1 << 15
_MOST_CHUNK_BYTES = 1 << 28
_PROJECTION = re.compile(r"[0-9]{1,4}")


def open_skystore(store: PlaceLike | SkycellReader) -> SkycellReader:
    """Open a store of skycells for reading, in the layout of this package or an earlier one.

    Parameters
    ----------
    store
        Path or URL; a store that is open is returned as it is.

    Raises
    ------
    StoreMissing
        There is nothing.
    ForeignStore
        There are no skycells in it.
    MetadataCorrupt
        It is one of this package, and its root is damaged or gone.
    """
    if isinstance(store, SkycellStore | OldSkycells):
        return store
    try:
        return SkycellStore(store)  # type: ignore[arg-type]
    except ForeignStore:
        found = OldSkycells(store)  # type: ignore[arg-type]
        if not found.is_recognised():
            raise
        if found.is_of_this_package():
            msg = (
                f"the root of {found.url} is damaged or gone, and the skycells below it are those "
                f"of a store of this package: write it anew with `idfzarr repair {found.url}`"
            )
            raise MetadataCorrupt(msg) from None
        return found


@dataclass(frozen=True)
class _Node:
    """An array's own metadata, of either version of Zarr; its chunks' keys begin with `prefix`."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: tuple[int, int]
    attributes: Mapping[str, Any]
    zarr_format: Literal[2, 3]
    prefix: str
    separator: str

    def keys(self) -> Iterator[str]:
        """Yield the keys of all chunks below the array."""
        rows, columns = (-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))
        for row in range(rows):
            for column in range(columns):
                yield f"{self.prefix}{row}{self.separator}{column}"


class OldSkycells:
    """A store of skycells in earlier layouts, for reading.

    Parameters
    ----------
    path
        Folder or URL.
    """

    def __init__(self, path: PlaceLike) -> None:
        self._place = place_of(path)

    def __repr__(self) -> str:
        return f"OldSkycells({self.url!r})"

    @property
    def url(self) -> str:
        """The store as a person writes it."""
        return self._place.url

    def is_recognised(self) -> bool:
        """Say whether there is any skycell in it."""
        return next(self._found("*"), None) is not None

    def is_of_this_package(self) -> bool:
        """Say whether the skycells are this package's own, by the first that can be read."""
        for array in self._found("*"):
            with suppress(MetadataCorrupt, OSError):
                document = _json(self._place, _metadata_key(self._place, array.path))
                return ATTRIBUTE in (document.get("attributes") or {})
        return False

    def arrays(self, names: str = "*") -> list[SkyArray]:
        """Return the arrays that are there, each once.

        Parameters
        ----------
        names
            Glob on the names of skycells.

        Returns
        -------
        list of SkyArray
            Sorted; with the path of the copy that counts where there are several.
        """
        best: dict[tuple[str, str, Kind], SkyArray] = {}
        for array in self._found(names):
            best.setdefault((array.name, array.band, array.kind), array)
        return sorted(best.values())

    def copies(self, name: str, band: str, kind: Kind) -> tuple[str, ...]:
        """Return the paths of all copies of an array, the one that counts first."""
        wanted = sky_array(name, band, kind)
        called = wanted.path.rsplit("/", 1)[1]
        cell = parse(name)
        found = []
        # A list of padding cells lost the leading zeros of names; they are found by both.
        for projection in dict.fromkeys([f"{cell.projection:04d}", str(cell.projection)]):
            group = f"{projection}/skycell.{projection}.{cell.cell:03d}"
            found += [f"{tree}{group}/{called}" for tree in ("", f"{_OLD_TREE}/")]
        ordered = sorted(found, key=lambda path: path.startswith(_OLD_TREE))
        return tuple(path for path in ordered if _metadata_key(self._place, path))

    def has(self, name: str, band: str, kind: Kind, *, verify: bool = False) -> bool:
        """Say whether an array is there; with `verify`, whether every chunk of it decodes.

        Chunks have no checksums in these layouts, and those that are not there cannot be told from
        empty ones: `missing_chunks`.
        """
        try:
            self._node(name, band, kind)
            if verify:
                height = self._node(name, band, kind)[1].chunks[0]
                rows = self.shape(name, band, kind)[0]
                for first in range(0, rows, height):
                    window = (slice(first, min(first + height, rows)), slice(None))
                    self.read(name, band, kind, window)
        except (UnknownName, CorruptError):
            return False
        return True

    def shape(self, name: str, band: str, kind: Kind) -> tuple[int, int]:
        """Return the shape (ny, nx) of an array; raises as `read`."""
        return self._node(name, band, kind)[1].shape

    def read(self, name: str, band: str, kind: Kind, window: Window | None = None) -> NDArray[Any]:
        """Return pixels as they are stored.

        Parameters
        ----------
        name, band, kind
            Of the array.
        window
            Slices of rows and columns without a step; None for the whole image.

        Returns
        -------
        ndarray
            Asinh values, float32, NaN where there is none; a mask as uint16.

        Raises
        ------
        UnknownName
            There is no such array.
        UsageError
            There can be none, or the window does not fit.
        MetadataCorrupt, ChunkCorrupt
            It is damaged.
        """
        import zarr

        path, node = self._node(name, band, kind)
        where = f"{self.url}/{path}"
        rows, columns = checked_window(window, node.shape, where=where)
        try:
            array = zarr.open_array(where, mode="r", zarr_format=node.zarr_format)
            values = np.asarray(array[rows, columns])
        except (ValueError, RuntimeError, TypeError, KeyError, NotImplementedError) as error:
            msg = f"{where} cannot be decoded ({str(error)[:120]}); fetch the array again"
            raise ChunkCorrupt(msg) from error
        if kind != "mask":
            return values.astype(values.dtype.newbyteorder("="), copy=False)
        if values.size and (int(values.min()) < 0 or int(values.max()) > 0xFFFF):
            msg = f"the mask {where} has bits beyond the sixteen of the survey: it is damaged"
            raise ChunkCorrupt(msg)
        return values.astype(np.uint16)

    def missing_chunks(self, name: str, band: str, kind: Kind) -> tuple[str, ...]:
        """Return the keys of chunks that are not there: lost, or never written as all was blank.

        Raises
        ------
        UnknownName, MetadataCorrupt
            As of `read`.
        """
        path, node = self._node(name, band, kind)
        return tuple(k for k in node.keys() if self._place.size(f"{path}/{k}") is None)

    def generation(self, name: str, band: str, kind: Kind) -> str:
        """Return in which of the layouts an array is: ``G0`` to ``G3``.

        Raises
        ------
        UnknownName, MetadataCorrupt
            As of `read`.
        """
        path, node = self._node(name, band, kind)
        if path.startswith(_OLD_TREE):
            return "G0"
        group = path.rsplit("/", 1)[0]
        if not _text(node.attributes) and _text(self._group_attributes(group)):
            return "G1"
        if kind == "weight" or (kind == "mask" and node.dtype.itemsize == 2):
            return "G3"
        mask = f"{path}_mask"
        narrow = kind == "image" and _metadata_key(self._place, mask)
        return "G3" if narrow and self._read_node(mask).dtype.itemsize == 2 else "G2"

    def attributes(self, name: str, band: str, kind: Kind) -> dict[str, Any]:
        """Return the attributes of an array, as those of a store of this package.

        Returns
        -------
        dict
            ``scale`` is empty where the array has no header of its own, and neither is that of the
            group its own: counts, and so fluxes, cannot be known then. ``header_of`` says whose
            header it is, ``array``, ``group`` or ``none``; ``provenance`` which layout and path.

        Raises
        ------
        UnknownName, MetadataCorrupt
            As of `read`.
        """
        array = sky_array(name, band, kind)
        path, node = self._node(name, band, kind)
        where = f"{self.url}/{path}"
        shared = _cards(self._group_attributes(path.rsplit("/", 1)[0]), where=where)
        own = _cards(node.attributes, where=where)
        source = "array" if own else "none"
        if not own and _belongs(shared, array):
            own, source = shared, "group"
        floating = node.dtype.kind == "f"
        scaling = None
        if own and kind != "mask":
            scaling = scale_of(own, floating=floating, where=where)
        return {
            **pixel_attributes(kind, band, own, scaling, floating=floating),
            "scale": {} if scaling is None else scaling.cards(),
            "header": own,
            "primary_header": [],
            "tiles": {},
            "wcs": wcs_of_cards(array.name, own or shared),
            "header_of": source,
            "provenance": {
                "source": "earlier layout",
                "layout": self.generation(name, band, kind),
                "path": where,
            },
        }

    def _node(self, name: str, band: str, kind: Kind) -> tuple[str, _Node]:
        paths = self.copies(name, band, kind)
        if not paths:
            msg = f"there is no {sky_array(name, band, kind)} in {self.url}"
            raise UnknownName(msg)
        return paths[0], self._read_node(paths[0])

    def _read_node(self, path: str) -> _Node:
        where = f"{self.url}/{path}"
        key = _metadata_key(self._place, path)
        document = _json(self._place, key)
        try:
            node = _v3(document) if key.endswith("zarr.json") else _v2(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            msg = f"the metadata of {where} is none of an image: {str(error)[:80]!r}"
            raise MetadataCorrupt(msg) from error
        if node.zarr_format == 2 and self._place.size(f"{path}/.zattrs") is not None:
            node = replace(node, attributes=_json(self._place, f"{path}/.zattrs"))
        pixels, chunk = math.prod(node.shape), math.prod(node.chunks) * node.dtype.itemsize
        kinds = "iu" if path.endswith("_mask") else "fiu"
        if not 0 < pixels <= _MOST_PIXELS**2 or not 0 < chunk <= _MOST_CHUNK_BYTES:
            msg = f"{where} of shape {node.shape} in chunks {node.chunks} is no image of a skycell"
            raise MetadataCorrupt(msg)
        if node.dtype.kind not in kinds:
            msg = f"{where} holds {node.dtype}, which is no type of pixels"
            raise MetadataCorrupt(msg)
        return node

    def _group_attributes(self, group: str) -> dict[str, Any]:
        place = self._place
        if place.size(f"{group}/zarr.json") is not None:
            found = _json(place, f"{group}/zarr.json").get("attributes")
            return found if isinstance(found, dict) else {}
        if place.size(f"{group}/.zattrs") is not None:
            return _json(place, f"{group}/.zattrs")
        return {}

    def _found(self, names: str) -> Iterator[SkyArray]:
        """Yield every array of either tree, the newer tree first, well written names first."""
        trees = [("", 0), (f"{_OLD_TREE}/", 1)]
        for tree, _ in trees:
            top = tree.rstrip("/")
            projections = [p for p in self._members(top) if _PROJECTION.fullmatch(p)]
            for projection in sorted(projections, key=lambda p: (len(p) != 4, p)):
                for called in self._members(f"{tree}{projection}"):
                    cell = _cell_name(called, projection)
                    if cell and fnmatchcase(cell, names):
                        yield from self._of_group(f"{tree}{projection}/{called}", cell)

    def _of_group(self, group: str, cell: str) -> Iterator[SkyArray]:
        for member in self._members(group):
            found = parse_array_name(member)
            if found and _metadata_key(self._place, f"{group}/{member}"):
                yield SkyArray(cell, *found, f"{group}/{member}")

    def _members(self, key: str) -> list[str]:
        place = self._place
        if not isinstance(place, LocalPlace):
            head = f"{key}/" if key else ""
            keys = (k[len(head) :] for k in place.keys(key))
            return sorted({k.split("/")[0] for k in keys if "/" in k})
        try:
            with os.scandir(place.path(key) if key else place.root) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []


def _cell_name(called: str, projection: str) -> str:
    """Return the full name of a skycell by the name of its group; empty where it is none."""
    if not called.startswith(f"skycell.{projection}."):
        return ""
    try:
        return parse(called).name
    except IdfzarrError:
        return ""


def _metadata_key(place: Place, path: str) -> str:
    """Return the key of an array's metadata, of either version; empty where there is none."""
    keys = (f"{path}/zarr.json", f"{path}/.zarray")
    return next((key for key in keys if place.size(key) is not None), "")


def _json(place: Place, key: str) -> dict[str, Any]:
    where = f"{place.url}/{key}"
    size = place.size(key) or 0
    if size > MOST_METADATA_BYTES:
        msg = f"{where} has {size} bytes and is no metadata of a skycell"
        raise MetadataCorrupt(msg)
    return parse_json(place.read(key), where=where)


def _pair(value: Any) -> tuple[int, int]:
    first, second = value
    if type(first) is not int or type(second) is not int or min(first, second) < 1:
        msg = f"{value} are no lengths"
        raise ValueError(msg)
    return first, second


def _v3(document: Mapping[str, Any]) -> _Node:
    encoding = document["chunk_key_encoding"]
    default = encoding["name"] == "default"
    separator = str(encoding.get("configuration", {}).get("separator", "/" if default else "."))
    return _Node(
        shape=_pair(document["shape"]),
        dtype=np.dtype(str(document["data_type"])),
        chunks=_pair(document["chunk_grid"]["configuration"]["chunk_shape"]),
        attributes=dict(document.get("attributes") or {}),
        zarr_format=3,
        prefix=f"c{separator}" if default else "",
        separator=separator,
    )


def _v2(document: Mapping[str, Any]) -> _Node:
    return _Node(
        shape=_pair(document["shape"]),
        dtype=np.dtype(str(document["dtype"])),
        chunks=_pair(document["chunks"]),
        attributes={},
        zarr_format=2,
        prefix="",
        separator=str(document.get("dimension_separator", ".")),
    )


def _text(attributes: Mapping[str, Any]) -> str:
    text = attributes.get("header")
    return text if isinstance(text, str) else ""


def _cards(attributes: Mapping[str, Any], *, where: str) -> list[str]:
    """Return the cards of a header that is kept as one text, up to and without END."""
    text = _text(attributes)
    lines = text.splitlines() if "\n" in text else None
    cards = lines or [text[at : at + _CARD] for at in range(0, len(text), _CARD)]
    kept = []
    for card in cards:
        if card.rstrip() == "END":
            break
        if len(card) > _CARD or not card.isascii() or (card and not card.isprintable()):
            msg = f"the header of {where} has a card that is none: {card[:_CARD]!r}"
            raise MetadataCorrupt(msg)
        kept.append(card.ljust(_CARD))
    return kept


def _belongs(cards: list[str], array: SkyArray) -> bool:
    """Say whether the header of a group, which is that of one of its arrays, is this array's.

    The filter tells the band; images have BSOFTEN, and masks a table of bits and none. In this
    layout there are no weights.
    """
    if not cards:
        return False
    try:
        header = header_of(cards)
    except ImageUnreadable:
        return False
    band = str(card_value(header, "FPA.FILTER", "")).strip()[:1]
    kind = "image" if card_value(header, "BSOFTEN") is not None else "mask"
    return (band, kind) == (array.band, array.kind)
