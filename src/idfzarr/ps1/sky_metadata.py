"""The ``zarr.json`` of an array of a skycell: what stands in it, and that nobody changed it.

Scaling, WCS and header decide what a pixel means, so a crc32c over them stands beside them: a
flipped bit in JSON may well leave valid JSON. Attributes that a user adds are not covered.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import FormatVersionError, ImageUnreadable, MetadataCorrupt, UsageError
from idfzarr.ps1.headers import header_of, wcs_cards_of
from idfzarr.ps1.masks import mask_bits
from idfzarr.ps1.pixels import Scaling
from idfzarr.ps1.sky_array import PixelLayout, codecs_json
from idfzarr.ps1.skycell import wcs_cards
from idfzarr.store.arrays import ArraySpec, zarr_array
from idfzarr.store.checksum import crc32c

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.ps1.sky_keys import Kind, SkyArray

__all__ = [
    "ATTRIBUTE",
    "FORMAT",
    "MOST_METADATA_BYTES",
    "array_document",
    "checked_cards",
    "layout_for",
    "parse_document",
    "parse_json",
    "pixel_attributes",
    "scale_of",
    "wcs_of_cards",
]

ATTRIBUTE = "idfzarr_ps1"
"""Attribute that says a store of skycells, or an array in it, is ours."""

FORMAT = 1
"""Version of what is on disk."""

MOST_METADATA_BYTES = 1 << 22
"""A ``zarr.json`` of a skycell's array has some 30 kB; a larger one than this is not read."""

_CRC = "metadata_crc32c"
_OURS = ("scale", "header", "primary_header", "tiles", "wcs", "provenance")
_DESCRIBED = ("shape", "data_type", "chunk_grid", "fill_value")
_CARD = 80
_BLANK = 2**15 - 1  # ZBLANK of every image of the survey
_LONG_NAMES = {
    "image": "{} stack image as served: asinh of counts where there is BSOFTEN",
    "weight": "{} variance of the stack image as served: asinh of counts squared",
    "mask": "{} mask of the stack image",
}


def layout_for(pixels: NDArray[Any], kind: Kind, scaling: Scaling | None) -> PixelLayout:
    """Return how pixels are to be cut.

    Parameters
    ----------
    pixels
        Two-dimensional: int16, or float32 where the integers are lost; a mask is uint16.
    kind
        What they are.
    scaling
        Of an image or weight, whose BLANK fills the chunks up.

    Raises
    ------
    UsageError
        Another type, or not two axes.
    """
    names = ("uint16",) if kind == "mask" else ("int16", "float32")
    found = np.dtype(pixels.dtype).newbyteorder("=").name
    if pixels.ndim != 2 or 0 in pixels.shape or found not in names:
        msg = (
            f"a skycell's {kind} has two axes and is {' or '.join(names)}; "
            f"it was given with shape {pixels.shape} and type {found}"
        )
        raise UsageError(msg)
    fill: int | None = 0
    if kind != "mask":
        blank = _BLANK if scaling is None or scaling.blank is None else scaling.blank
        fill = None if found == "float32" else blank
    return PixelLayout((int(pixels.shape[0]), int(pixels.shape[1])), found, fill)


def checked_cards(cards: Sequence[str], *, where: str) -> list[str]:
    """Return cards padded to 80 columns.

    Raises
    ------
    ImageUnreadable
        One of them is no card.
    """
    for card in cards:
        if len(card) > _CARD or not card.isascii() or (card and not card.isprintable()):
            msg = f"{where} has a card that is none: {card[:_CARD]!r}"
            raise ImageUnreadable(msg)
    return [card.ljust(_CARD) for card in cards]


def scale_of(cards: Sequence[str], *, floating: bool, where: str) -> Scaling:
    """Return the scaling that cards tell, for pixels as they are stored.

    Parameters
    ----------
    cards
        Of the HDU that held the image.
    floating
        Whether pixels are floating point: BSCALE and BZERO have been applied to those.
    where
        What to call it in an error.

    Raises
    ------
    ImageUnreadable
        As of `Scaling.from_header`.
    """
    found = Scaling.from_header(header_of(cards), where=where)
    return dataclasses.replace(found, bscale=1.0, bzero=0.0, blank=None) if floating else found


def wcs_of_cards(name: str, cards: Sequence[str]) -> dict[str, str | float]:
    """Return the cards of an image's WCS, repaired; those of the grid where it has none."""
    found = wcs_cards_of(header_of(cards)) if cards else {}
    needed = {"CTYPE1", "CTYPE2", "CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2"}
    return found if needed <= set(found) else wcs_cards(name)


def pixel_attributes(
    kind: Kind, band: str, cards: Sequence[str], scaling: Scaling | None, *, floating: bool
) -> dict[str, Any]:
    """Return the CF attributes of pixels as stored.

    With ``scale_factor``, ``add_offset`` and ``_FillValue`` plain xarray turns integers into asinh
    values (CF Conventions 1.11, sections 2.5.1 and 8.1).
    """
    made: dict[str, Any] = {"long_name": _LONG_NAMES[kind].format(band)}
    if kind == "mask":
        return made | mask_bits(header_of(cards) if cards else None).attributes()
    made["units"] = "1" if scaling is None or scaling.asinh else "count"
    if scaling is None or floating:
        return made
    made |= {"scale_factor": scaling.bscale, "add_offset": scaling.bzero}
    return made if scaling.blank is None else made | {"_FillValue": scaling.blank}


def array_document(
    array: SkyArray,
    layout: PixelLayout,
    attributes: Mapping[str, Any],
    *,
    shard_bytes: int,
    index_crc: str,
) -> dict[str, Any]:
    """Return the ``zarr.json`` of an array whose shard is written.

    Parameters
    ----------
    array
        Which one.
    layout
        How it is cut.
    attributes
        CF attributes and those of the header.
    shard_bytes, index_crc
        Size of the shard, and the crc32c of its index: they tell a shard from every other.

    Raises
    ------
    UsageError
        Attributes hold what JSON cannot.
    """
    ours = {
        "format": FORMAT,
        "skycell": array.name,
        "band": array.band,
        "kind": array.kind,
        "shard": {"bytes": shard_bytes, "index_crc32c": index_crc},
    }
    try:
        told = json.loads(json.dumps({**attributes, ATTRIBUTE: ours}, allow_nan=False))
    except (TypeError, ValueError) as error:
        msg = f"attributes of {array} cannot be written as JSON: {error}"
        raise UsageError(msg) from error
    spec = ArraySpec(
        path=array.path,
        dims=("y", "x"),
        dtype=layout.dtype,
        shape=layout.shape,
        chunks=layout.shard_shape,
        attributes=told,
    )
    document = zarr_array(spec, grid=layout.shard_shape, codecs=codecs_json(layout))
    document["fill_value"] = layout.fill_json
    document["attributes"][ATTRIBUTE][_CRC] = _crc(document)
    return document


def _crc(document: Mapping[str, Any]) -> str:
    attributes = document["attributes"]
    ours = {k: v for k, v in attributes[ATTRIBUTE].items() if k != _CRC}
    covered = [
        ours,
        [attributes.get(name) for name in _OURS],
        [document.get(name) for name in _DESCRIBED],
    ]
    text = json.dumps(covered, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"{crc32c(text.encode()):08x}"


def parse_json(data: bytes, *, where: str) -> dict[str, Any]:
    """Return a ``zarr.json`` as a dictionary.

    Raises
    ------
    MetadataCorrupt
        It is none.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        msg = f"{where} is no JSON ({str(error)[:80]}); repair the store"
        raise MetadataCorrupt(msg) from error
    if not isinstance(document, dict):
        msg = f"{where} is no metadata of Zarr; repair the store"
        raise MetadataCorrupt(msg)
    return document


def parse_document(data: bytes, array: SkyArray, *, where: str) -> dict[str, Any]:
    """Read the ``zarr.json`` of an array and check that it is whole, and of this array.

    Raises
    ------
    FormatVersionError
        Another version of this package wrote it.
    MetadataCorrupt
        It is damaged, or of another array.
    """
    document = parse_json(data, where=where)
    try:
        ours = document["attributes"][ATTRIBUTE]
        version = ours["format"]
        told = [ours["skycell"], ours["band"], ours["kind"]]
        whole = ours[_CRC] == _crc(document) and document["node_type"] == "array"
        shard = ours["shard"]["bytes"], ours["shard"]["index_crc32c"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        msg = f"{where} is no metadata of a skycell's array ({error!r:.80}); repair the store"
        raise MetadataCorrupt(msg) from error
    if type(version) is int and version != FORMAT:
        msg = f"{where} has format {version}, this package reads {FORMAT}; use a newer one"
        raise FormatVersionError(msg)
    if not whole or type(shard[0]) is not int or not isinstance(shard[1], str):
        msg = f"{where} does not match its own crc32c: damaged or changed by hand; repair the store"
        raise MetadataCorrupt(msg)
    if told != [array.name, array.band, array.kind]:
        msg = f"{where} is that of {' '.join(map(str, told))}, not of {array}; repair the store"
        raise MetadataCorrupt(msg)
    return document
