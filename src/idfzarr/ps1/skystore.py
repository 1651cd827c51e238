"""The store of skycells: a root of its own, an array for image, mask and weight of every band.

``{PPPP}/skycell.PPPP.0YX/{band}``, ``{band}_mask`` and ``{band}_wt`` (y, x) hold integers as the
archive serves them, with scaling, header, WCS and provenance in their attributes. An array appears
whole or not at all, whoever else writes, and the store needs neither locks nor a list of what is
in it: what is there is what was written.
"""

from __future__ import annotations

import os
import uuid as uuids
from contextlib import suppress
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.errors import (
    ChunkCorrupt,
    CorruptError,
    ForeignStore,
    FormatVersionError,
    IdfzarrError,
    MetadataCorrupt,
    ShardCorrupt,
    StoreExists,
    StoreMissing,
    UnknownName,
    UsageError,
)
from idfzarr.ps1.names import Skycell
from idfzarr.ps1.names import parse as parse_skycell
from idfzarr.ps1.sky_array import encode_shard, layout_of_document, read_window
from idfzarr.ps1.sky_keys import SkyArray, checked_window, parse_array_name, sky_array
from idfzarr.ps1.sky_metadata import (
    ATTRIBUTE,
    FORMAT,
    MOST_METADATA_BYTES,
    array_document,
    checked_cards,
    layout_for,
    parse_document,
    parse_json,
    pixel_attributes,
    scale_of,
    wcs_of_cards,
)
from idfzarr.ps1.sky_partial import SHARD, partial_folders, place_folder, remove_if_abandoned
from idfzarr.store.arrays import group_json, json_bytes
from idfzarr.store.place import PARTIAL, LocalPlace, place_of, sync_folder, write_all
from idfzarr.store.root import software
from idfzarr.store.shard import index_bytes, parse_index
from idfzarr.store.sharing import default_threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.ps1.sky_array import PixelLayout
    from idfzarr.ps1.sky_keys import Kind, Window
    from idfzarr.store.place import Place, PlaceLike

__all__ = ["SkycellStore", "create_skystore", "is_skystore", "root_document"]

_ROOT = "zarr.json"


class SkycellStore:
    """A store of skycells.

    Parameters
    ----------
    path
        Folder or URL.
    mode
        ``r`` to read, ``r+`` to write too.

    Raises
    ------
    StoreMissing
        There is nothing.
    ForeignStore
        It is no store of skycells of this package.
    FormatVersionError
        It is one of another version.
    """

    def __init__(self, path: PlaceLike, mode: Literal["r", "r+"] = "r") -> None:
        if mode not in {"r", "r+"}:
            msg = f"a store of skycells is opened with mode 'r' or 'r+', not {mode!r}"
            raise UsageError(msg)
        self._place = place_of(path)
        self._mode = mode
        self._root = _read_root(self._place)

    def __repr__(self) -> str:
        return f"SkycellStore({self.url!r}, mode={self._mode!r})"

    @property
    def place(self) -> Place:
        """Where it lies."""
        return self._place

    @property
    def url(self) -> str:
        """The store as a person writes it."""
        return self._place.url

    @property
    def uuid(self) -> str:
        """The store's uuid, as its ledger names it."""
        return str(self._root["uuid"])

    def arrays(self, names: str = "*") -> list[SkyArray]:
        """Return the arrays that are there whole.

        Parameters
        ----------
        names
            Glob on the names of skycells.

        Returns
        -------
        list of SkyArray
            Sorted by skycell, band and kind. Their bytes are not looked at.
        """
        found = (_array_of(key) for key in _array_keys(self._place, names) if key.count("/") == 2)
        return sorted(a for a in found if a is not None and fnmatchcase(a.name, names))

    def has(self, name: str, band: str, kind: Kind, *, verify: bool = False) -> bool:
        """Say whether an array is there.

        Parameters
        ----------
        name, band, kind
            Of the array.
        verify
            Read every chunk of it. Otherwise its metadata and the size of its shard are checked.

        Returns
        -------
        bool
            False too where it is damaged.

        Raises
        ------
        UsageError
            There can be no such array.
        """
        sky_array(name, band, kind)
        try:
            if verify:
                self.verify(name, band, kind)
            else:
                opened = self._opened(name, band, kind)
                return self._place.size(opened.shard) == opened.bytes
        except (UnknownName, CorruptError):
            return False
        return True

    def verify(self, name: str, band: str, kind: Kind) -> None:
        """Read an array whole.

        Raises
        ------
        UnknownName
            It is not there.
        CorruptError
            Its metadata, its index or a chunk is damaged.
        """
        opened = self._opened(name, band, kind)
        rows = opened.layout.shape[0]
        for first in range(0, rows, 512):
            opened.read((slice(first, min(first + 512, rows)), slice(None)))

    def shape(self, name: str, band: str, kind: Kind) -> tuple[int, int]:
        """Return the shape (ny, nx) of an array; raises as `read`."""
        return self._opened(name, band, kind).layout.shape

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
            int16 (float32 where the integers are lost), a mask uint16. Only the chunks that the
            window touches are read, and the crc32c of each is verified.

        Raises
        ------
        UnknownName
            There is no such array.
        UsageError
            There can be none, or the window does not fit.
        CorruptError
            What is read is damaged.
        """
        return self._opened(name, band, kind).read(window)

    def attributes(self, name: str, band: str, kind: Kind) -> dict[str, Any]:
        """Return the attributes of an array.

        Returns
        -------
        dict
            ``scale`` (cards of `idfzarr.ps1.pixels.Scaling`), ``header`` and ``primary_header``
            (80-column cards), ``tiles`` (how the file was compressed), ``wcs`` (cards, repaired),
            ``provenance``, and CF attributes.

        Raises
        ------
        UnknownName
            There is no such array.
        CorruptError
            Its metadata are damaged.
        """
        found: dict[str, Any] = self._opened(name, band, kind).document["attributes"]
        return found

    def write(
        self,
        name: str,
        band: str,
        kind: Kind,
        pixels: NDArray[Any],
        *,
        cards: Sequence[str],
        primary_cards: Sequence[str] = (),
        tiles: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        replace: bool = False,
    ) -> bool:
        """Write an array, which appears whole or not at all.

        Parameters
        ----------
        name, band, kind
            Of the array.
        pixels
            (ny, nx) int16 as served, in any byte order; a mask uint16. Float32, asinh or linear,
            where the integers are lost.
        cards, primary_cards
            Of the HDU that held the image and of the first one, 80 columns each.
        tiles
            How the file was compressed: ``ZCMPTYPE``, ``ZTILE1``...
        provenance
            Where it came from, as JSON can hold it.
        replace
            Put it in the place of the array that is there.

        Returns
        -------
        bool
            False where the array was there already, perhaps since a moment ago: it stays.

        Raises
        ------
        UsageError
            The store is open for reading, there can be no such array, or pixels are none.
        ImageUnreadable
            Cards are none, or pixels cannot be scaled with them.
        StoreExists
            The array that is there is damaged, and `replace` was not asked for.
        StorageFull
            The disk is full; nothing of the array is left.
        """
        self._writable()
        array = sky_array(name, band, kind)
        header = checked_cards(cards, where=str(array))
        values = np.asarray(pixels)
        floating = values.dtype.kind == "f"
        scaling = None
        if kind != "mask":
            scaling = scale_of(header, floating=floating, where=str(array))
        layout = layout_for(values, kind, scaling)
        told = {
            **pixel_attributes(kind, band, header, scaling, floating=floating),
            "scale": {} if scaling is None else scaling.cards(),
            "header": header,
            "primary_header": checked_cards(primary_cards, where=str(array)),
            "tiles": dict(tiles or {}),
            "wcs": wcs_of_cards(array.name, header),
            "provenance": dict(provenance or {}),
        }
        array_document(array, layout, told, shard_bytes=0, index_crc="")  # refused before writing
        self._make_groups(array)
        return self._put(array, layout, values, told, replace=replace)

    def _put(
        self,
        array: SkyArray,
        layout: PixelLayout,
        pixels: NDArray[Any],
        told: Mapping[str, Any],
        *,
        replace: bool,
    ) -> bool:
        last = b""

        def pieces() -> Iterator[bytes]:
            nonlocal last
            for piece in encode_shard(pixels, layout):
                last = piece
                yield piece

        def document(size: int) -> bytes:
            crc = last[-4:].hex()
            return json_bytes(array_document(array, layout, told, shard_bytes=size, index_crc=crc))

        if isinstance(self._place, LocalPlace):
            placed = place_folder(self._place, array.path, pieces(), document, replace=replace)
        else:
            placed = replace or self._place.size(f"{array.path}/{_ROOT}") is None
            if placed:
                shard = b"".join(pieces())
                self._place.write(f"{array.path}/{SHARD}", shard)
                self._place.write(f"{array.path}/{_ROOT}", document(len(shard)))
        if not placed and not self.has(array.name, array.band, array.kind):
            msg = (
                f"{self.url}/{array.path} is there and damaged: repair the store, or write the "
                "array with replace=True"
            )
            raise StoreExists(msg)
        return placed

    def remove_abandoned(self) -> list[str]:
        """Remove what writers that were killed left half written; return the paths.

        Nothing is touched whose writer is alive, and nothing on object storage.
        """
        self._writable()
        if not isinstance(self._place, LocalPlace):
            return []
        folders = [
            folder
            for key in _group_keys(self._place, "*")
            for folder in partial_folders(self._place.path(key))
            if remove_if_abandoned(folder)
        ]
        return [*folders, *self._place.remove_abandoned()]

    def _writable(self) -> None:
        if self._mode != "r+":
            msg = f"{self.url} is open for reading; open it with mode 'r+' to write"
            raise UsageError(msg)

    def _make_groups(self, array: SkyArray) -> None:
        projection, name, _ = array.path.split("/")
        # Two writers write the same bytes, each by a rename.
        told: dict[str, dict[str, Any]] = {
            projection: {},
            f"{projection}/{name}": {"skycell": name},
        }
        for path, attributes in told.items():
            key = f"{path}/{_ROOT}"
            if self._place.size(key) is None:
                self._place.write(key, json_bytes(group_json(attributes)))

    def _opened(self, name: str, band: str, kind: Kind) -> _OpenedArray:
        return _OpenedArray(self._place, sky_array(name, band, kind))


class _OpenedArray:
    """An array whose metadata is read and checked."""

    def __init__(self, place: Place, array: SkyArray) -> None:
        key = f"{array.path}/{_ROOT}"
        where = f"{place.url}/{key}"
        size = place.size(key)
        if size is None:
            msg = f"there is no {array} in {place.url}; fetch it first"
            raise UnknownName(msg)
        if size > MOST_METADATA_BYTES:
            msg = f"{where} has {size} bytes and is no metadata of a skycell's array"
            raise MetadataCorrupt(msg)
        self._place = place
        self._array = array
        self.document = parse_document(place.read(key), array, where=where)
        self.layout = layout_of_document(self.document, where=where)
        stated = self.document["attributes"][ATTRIBUTE]["shard"]
        self.bytes = int(stated["bytes"])
        self._index_crc = str(stated["index_crc32c"])
        self.shard = f"{array.path}/{SHARD}"

    def read(self, window: Window | None) -> NDArray[Any]:
        """Return pixels as stored."""
        place, layout, key = self._place, self.layout, self.shard
        rows, columns = checked_window(window, layout.shape, where=str(self._array))
        where = f"{place.url}/{key}"
        tail = index_bytes(layout.n_chunks)
        try:
            size = place.size(key) or 0
            end = place.read_range(key, max(0, size - tail), tail) if size else b""
            index = parse_index(end, layout.n_chunks, size, where=where)
            if size != self.bytes or end[-4:].hex() != self._index_crc:
                msg = f"{where} is not the shard that belongs to its metadata; repair the store"
                raise ShardCorrupt(msg)
            return read_window(
                lambda first, count: place.read_range(key, first, count),
                index,
                layout,
                (rows, columns),
                where=where,
                threads=default_threads(),
            )
        except FileNotFoundError as error:
            msg = f"{where} went away while it was read; open it again"
            raise ChunkCorrupt(msg) from error


def _array_of(key: str) -> SkyArray | None:
    projection, name, called = key.split("/")
    found = parse_array_name(called)
    if found is None or not name.startswith(f"skycell.{projection}."):
        return None
    return sky_array(name, *found)


def _group_keys(place: Place, names: str) -> Iterator[str]:
    """Yield the keys of the groups of skycells whose names match a glob; local disks only."""
    for projection in _folders(place, ""):
        if len(projection) == 4 and projection.isdecimal():
            for name in _folders(place, projection):
                if fnmatchcase(name, names) and _is_name(name):
                    yield f"{projection}/{name}"


def _array_keys(place: Place, names: str) -> Iterator[str]:
    if not isinstance(place, LocalPlace):
        # The metadata is put last: what has it is whole.
        for key in place.keys():
            path = key.removesuffix(f"/{_ROOT}")
            if path != key and path.count("/") == 2 and _is_name(path.split("/")[1]):
                yield path
        return
    for group in _group_keys(place, names):
        for called in _folders(place, group):
            if parse_array_name(called) and place.size(f"{group}/{called}/{_ROOT}") is not None:
                yield f"{group}/{called}"


def _is_name(name: str) -> bool:
    try:
        found: Skycell = parse_skycell(name)
    except IdfzarrError:
        return False
    return found.name == name


def _folders(place: Place, key: str) -> list[str]:
    if not isinstance(place, LocalPlace):
        return []
    try:
        with os.scandir(place.path(key) if key else place.root) as entries:
            return sorted(e.name for e in entries if e.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def is_skystore(path: PlaceLike) -> bool:
    """Say whether there is a store of skycells of this package, of any version."""
    try:
        _read_root(place_of(path))
    except FormatVersionError:
        return True
    except IdfzarrError:
        return False
    return True


def _read_root(place: Place) -> dict[str, Any]:
    size = place.size(_ROOT)
    where = f"{place.url}/{_ROOT}"
    if size is None:
        if place.exists() and not all(map(_is_coming_root, place.keys())):
            msg = f"{place.url} holds files and no store of skycells: there is no {_ROOT} in it"
            raise ForeignStore(msg)
        msg = f"there is no store of skycells at {place.url}; check the path, or fetch into it"
        raise StoreMissing(msg)
    if size > MOST_METADATA_BYTES:
        msg = f"{where} has {size} bytes: it is no root of a store of skycells"
        raise ForeignStore(msg)
    document = parse_json(place.read(_ROOT), where=where)
    attributes = document.get("attributes")
    ours = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
    if not isinstance(ours, dict) or document.get("node_type") != "group":
        msg = (
            f"{place.url} is a Zarr {document.get('node_type', 'store')!s:.20} but no store of "
            f"skycells: its root has no attribute {ATTRIBUTE!r}; skycells in an earlier layout can "
            f"be read as they are, or migrated with `idfzarr migrate {place.url} NEW`"
        )
        raise ForeignStore(msg)
    if ours.get("format") != FORMAT:
        msg = (
            f"the store of skycells {place.url} has format {str(ours.get('format'))[:20]}, this "
            f"package reads {FORMAT}; use the version of idfzarr that wrote it"
        )
        raise FormatVersionError(msg)
    if not isinstance(ours.get("uuid"), str):
        msg = f"{where} has lost its uuid; repair the store"
        raise MetadataCorrupt(msg)
    return ours


def _is_coming_root(key: str) -> bool:
    """Say whether a file is the root of a store that another process makes at this moment."""
    return key.startswith(f"{_ROOT}.") and key.endswith(f".idfzarr{PARTIAL}")


def create_skystore(path: PlaceLike, *, exist_ok: bool = False) -> SkycellStore:
    """Create an empty store of skycells and open it for writing.

    Parameters
    ----------
    path
        Folder or URL; the folder may be there and empty.
    exist_ok
        Open the store that is there, made perhaps by another process a moment ago.

    Raises
    ------
    StoreExists
        There is a store already.
    ForeignStore
        There is something else.
    UsageError
        No folder can be made there.
    """
    place = place_of(path)
    try:
        _read_root(place)
    except StoreMissing:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = _put_root(place, json_bytes(root_document(str(uuids.uuid4()), created=now)))
    else:
        made = False
    if not made and not exist_ok:
        msg = f"there is a store of skycells at {place.url} already; open it with mode 'r+'"
        raise StoreExists(msg)
    return SkycellStore(place, "r+")


def root_document(uuid: str, **when: str) -> dict[str, Any]:
    """Return the ``zarr.json`` of the root of a store.

    Parameters
    ----------
    uuid
        Of the store.
    **when
        ``created``, or ``restored`` where the first one is lost: a time, ISO 8601.
    """
    ours = {"format": FORMAT, "uuid": uuid, **when, "software": software()}
    return group_json({"Conventions": "CF-1.11", ATTRIBUTE: ours})


def _put_root(place: Place, data: bytes) -> bool:
    """Write the root unless another process just did."""
    if not isinstance(place, LocalPlace):
        place.write(_ROOT, data)
        return True
    try:
        os.makedirs(place.root, exist_ok=True)
    except OSError as error:
        msg = f"no store can be made at {place.root}: {error.strerror}; give another path"
        raise (ForeignStore if isinstance(error, FileExistsError) else UsageError)(msg) from error
    target = place.path(_ROOT)
    partial = f"{target}.{uuids.uuid4().hex}.idfzarr{PARTIAL}"
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        write_all(handle, data)
        os.fsync(handle)
        os.link(partial, target)  # fails where there is one by now; a rename would not
    except FileExistsError:
        return False
    except FileNotFoundError:
        # Whoever made the store meanwhile has cleared what was left lying about in it.
        if not os.path.exists(target):
            raise
        return False
    finally:
        os.close(handle)
        with suppress(FileNotFoundError):
            os.unlink(partial)
    sync_folder(place.root)
    sync_folder(os.path.dirname(place.root))
    return True
