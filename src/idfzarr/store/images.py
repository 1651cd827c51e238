"""Images of the field: the superstack of every channel, beside the cube."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UnknownName, UsageError, closest
from idfzarr.store.arrays import read_array
from idfzarr.store.place import place_of
from idfzarr.store.root import read_root
from idfzarr.store.schema import SUPERSTACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.place import PlaceLike
    from idfzarr.store.writer import CubeWriter

__all__ = ["SuperstackImages", "read_superstack", "superstack_channels", "write_superstack"]

_TILE = 1024  # pixels along a side of a chunk: a cutout reads one to four of them
_PLANES = {
    "flux": ("float32", "superstack"),
    "err": ("float32", "1-sigma error of the superstack"),
    "coverage": ("float32", "exposures, or AORs, that reached the pixel"),
    "segmentation": ("int32", "number of the object's segment, 0 for none"),
}


@dataclass(frozen=True, eq=False)
class SuperstackImages:
    """The superstack of one channel.

    Parameters
    ----------
    channel
        Its name.
    flux, err, coverage
        (y, x) float32; NaN in flux where nothing was observed.
    segmentation
        (y, x) int32: 0 for sky, else the number of a segment; None where none was stored.
    header
        FITS cards of the WCS, by keyword; empty where the frames have none.
    attributes
        Whatever else was stored: unit, pixel scale, AORs that went in.
    """

    channel: str
    flux: NDArray[np.float32]
    err: NDArray[np.float32]
    coverage: NDArray[np.float32]
    segmentation: NDArray[np.int32] | None = None
    header: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def planes(self) -> dict[str, NDArray[Any]]:
        """Return the images that are there, by name."""
        found = {name: getattr(self, name) for name in _PLANES}
        return {name: image for name, image in found.items() if image is not None}


def write_superstack(writer: CubeWriter, images: SuperstackImages) -> None:
    """Write the superstack of a channel.

    Parameters
    ----------
    writer
        Of a store that has been begun; it need not be laid out yet.
    images
        What to write. A header card that JSON cannot hold (NaN) is left out.

    Raises
    ------
    UsageError
        The images are not of one shape, or the channel cannot be a name.
    """
    planes = images.planes()
    shapes = {name: np.shape(image) for name, image in planes.items()}
    if len(set(shapes.values())) != 1 or images.flux.ndim != 2 or not images.channel.isidentifier():
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        msg = f"the superstack of {images.channel!r} must be images of one shape, not {told}"
        raise UsageError(msg)
    group = f"{SUPERSTACK}/{images.channel}"
    unit = images.attributes.get("unit")
    for name, image in planes.items():
        dtype, long_name = _PLANES[name]
        attributes: dict[str, Any] = {"long_name": long_name}
        if unit and name in {"flux", "err"}:
            attributes["units"] = str(unit)
        writer.write_array(
            f"{group}/{name}",
            np.asarray(image),
            dims=("y", "x"),
            dtype=dtype,
            chunks=tuple(max(1, min(_TILE, n)) for n in np.shape(image)),
            codec="zstd",
            attributes=attributes,
        )
    cards = {key: value for key, value in images.header.items() if not _is_nan(value)}
    writer.write_group(group, dict(images.attributes) | {"header": cards})


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def superstack_channels(path: PlaceLike) -> tuple[str, ...]:
    """Return the channels of a published store that have a superstack.

    Parameters
    ----------
    path
        Path or place of the store.
    """
    root = read_root(place_of(path))
    heads = (key.split("/") for key in root.metadata if key.startswith(SUPERSTACK + "/"))
    return tuple(dict.fromkeys(parts[2] for parts in heads))


def read_superstack(path: PlaceLike, channel: str) -> SuperstackImages:
    """Read the superstack of a channel, every chunk verified.

    Parameters
    ----------
    path
        Path or place of a published store.
    channel
        Name of the channel.

    Returns
    -------
    SuperstackImages
        As written.

    Raises
    ------
    UnknownName
        The store has no superstack of that channel.
    ChunkCorrupt, ChunkMissing
        An image is damaged.
    """
    place = place_of(path)
    root = read_root(place)
    group = f"{SUPERSTACK}/{channel}"
    planes = {name: f"{group}/{name}" for name in _PLANES if root.is_array(f"{group}/{name}")}
    if not {"flux", "err", "coverage"} <= planes.keys():
        known = superstack_channels(place)
        msg = (
            f"{place.url} has no superstack of {channel!r}{closest(channel, known)}; it has {known}"
        )
        raise UnknownName(msg)
    images = {name: read_array(place, at, root.metadata[at]) for name, at in planes.items()}
    attributes = dict(root.metadata[group].get("attributes", {}))
    header = attributes.pop("header", {})
    return SuperstackImages(channel=channel, header=header, attributes=attributes, **images)
