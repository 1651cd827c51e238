"""The superstack of one channel as the viewer needs it: a plane is read when it is first shown."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UnknownName, closest
from idfzarr.store.arrays import read_array
from idfzarr.store.images import superstack_channels
from idfzarr.store.root import read_root
from idfzarr.store.schema import SUPERSTACK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.store.place import Place

__all__ = ["FieldImage"]


@dataclass(frozen=True, eq=False)
class FieldImage:
    """The superstack of one channel.

    Attributes
    ----------
    place
        The store.
    channel
        Its name.
    shape
        (ny, nx).
    unit
        Of its pixels; empty where that is not known.
    pixel_scale
        Arcseconds; NaN where the frames have no WCS.
    header
        Cards of the WCS, empty where there is none.
    planes
        Metadata of ``flux``, ``err``, ``coverage`` and, where there is one, ``segmentation``.
    """

    place: Place
    channel: str
    shape: tuple[int, int]
    unit: str
    pixel_scale: float
    header: Mapping[str, Any]
    planes: Mapping[str, Mapping[str, Any]]
    _read: dict[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(cls, place: Place, channel: str) -> FieldImage:
        """Find the superstack of a channel; no pixel is read yet.

        Raises
        ------
        UnknownName
            The store has no superstack of that channel.
        """
        root = read_root(place)
        group = f"{SUPERSTACK}/{channel}"
        planes = {path.rsplit("/", 1)[1]: root.metadata[path] for path in root.arrays(group)}
        if "flux" not in planes:
            known = superstack_channels(place)
            msg = (
                f"{place.url} has no superstack of {channel!r}{closest(channel, known)}; "
                f"it has {', '.join(known) or 'none'}"
            )
            raise UnknownName(msg)
        told = root.metadata[group].get("attributes", {})
        ny, nx = planes["flux"]["shape"]
        return cls(
            place=place,
            channel=channel,
            shape=(int(ny), int(nx)),
            unit=str(told.get("unit") or ""),
            pixel_scale=float(told.get("pixel_scale") or math.nan),
            header=dict(told.get("header") or {}),
            planes=planes,
        )

    def plane(self, name: str = "flux") -> NDArray[Any]:
        """Return a plane, (y, x), not writable; every chunk of it was verified.

        Raises
        ------
        UnknownName
            There is no such plane.
        ChunkCorrupt, ChunkMissing
            It is damaged.
        """
        if name not in self.planes:
            msg = f"the superstack of {self.channel} has no {name!r}{closest(name, self.planes)}"
            raise UnknownName(msg)
        with self._lock:
            if name not in self._read:
                path = f"{SUPERSTACK}/{self.channel}/{name}"
                image = read_array(self.place, path, self.planes[name])
                image.flags.writeable = False
                self._read[name] = image
            return self._read[name]

    @cached_property
    def scale(self) -> float:
        """Arcseconds of a pixel; 1 where they are not known, and sizes count pixels."""
        return self.pixel_scale if math.isfinite(self.pixel_scale) else 1.0
