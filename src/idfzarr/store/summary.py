"""What a store holds, in a few lines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import UnknownName
from idfzarr.store.cube import Cube
from idfzarr.store.place import place_of
from idfzarr.store.schema import LIGHTCURVES, VARIABILITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from idfzarr.store.place import Place, PlaceLike

__all__ = ["ChannelSummary", "Summary", "summarise"]

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class ChannelSummary:
    """One channel of a store.

    Attributes
    ----------
    name
        Its name.
    n_types
        Its measurement types.
    methods, images
        What they are made of.
    n_aors
        AORs with a time in this channel.
    completeness
        Fraction of its measurements that are good; NaN without statistics.
    """

    name: str
    n_types: int
    methods: tuple[str, ...]
    images: tuple[str, ...]
    n_aors: int
    completeness: float


@dataclass(frozen=True)
class Summary:
    """What a store holds.

    Attributes
    ----------
    path, uuid, created
        Which store.
    n_objects, n_types, n_aors, capacity
        Its lengths; it has room for `capacity` AORs.
    chunk_shape, shard_shape
        Of ``lightcurves``.
    codec
        How chunks are compressed.
    precision
        Fraction of an error bar that flux was rounded to; None for lossless.
    logical_bytes, stored_bytes
        Of ``lightcurves``, decoded and on disk.
    total_bytes
        Of the whole store.
    first_mjd, last_mjd
        Time span, UTC; NaN without times.
    units
        Units of flux.
    has_sky
        Whether objects have positions on the sky.
    channels
        Channel by channel.
    """

    path: str
    uuid: str
    created: str
    n_objects: int
    n_types: int
    n_aors: int
    capacity: int
    chunk_shape: tuple[int, ...]
    shard_shape: tuple[int, ...]
    codec: str
    precision: float | None
    logical_bytes: int
    stored_bytes: int
    total_bytes: int
    first_mjd: float
    last_mjd: float
    units: tuple[str, ...]
    has_sky: bool
    channels: tuple[ChannelSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain values, None for what is not known, for JSON."""
        return {key: _known(value) for key, value in asdict(self).items()}

    def to_text(self) -> str:
        """Return the summary as people read it."""
        dims = f"{self.n_objects} objects x {self.n_types} types x {self.n_aors} AORs"
        ratio = self.stored_bytes / max(1, self.logical_bytes)
        rounding = "lossless" if self.precision is None else f"flux to {self.precision:g} sigma"
        lines = [
            f"{self.path}  (made {self.created}, uuid {self.uuid})",
            f"  cube         {dims}, room for {self.capacity} AORs",
            f"  chunk        {_shape(self.chunk_shape)}: one lightcurve",
            f"  shard        {_shape(self.shard_shape)}: one file",
            f"  codec        {self.codec}, {rounding}",
            (
                f"  on disk      {_size(self.stored_bytes)} of {_size(self.logical_bytes)} "
                f"({ratio:.0%}); whole store {_size(self.total_bytes)}"
            ),
            f"  time         {self._span()}",
            f"  unit         {', '.join(unit or 'none' for unit in self.units)}",
            f"  positions    {'ra, dec and pixels' if self.has_sky else 'pixels (no WCS)'}",
        ]
        for c in self.channels:
            complete = "unknown" if np.isnan(c.completeness) else f"{c.completeness:.1%}"
            lines += [
                f"  {c.name:<12} {c.n_types} types in {c.n_aors} AORs, {complete} good",
                f"  {'':<12} {', '.join(c.methods)} on {', '.join(c.images)}",
            ]
        return "\n".join(lines)

    def _span(self) -> str:
        if np.isnan(self.first_mjd):
            return "unknown"
        days = self.last_mjd - self.first_mjd
        return f"MJD {self.first_mjd:.4f} to {self.last_mjd:.4f} UTC ({days:.4g} d)"


def _known(value: Any) -> Any:
    if isinstance(value, float) and np.isnan(value):
        return None
    if isinstance(value, dict):
        return {key: _known(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_known(inner) for inner in value]
    return value


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _size(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} {_UNITS[-1]}"


def summarise(path: PlaceLike) -> Summary:
    """Say what a store holds, without reading a lightcurve.

    Parameters
    ----------
    path
        The store.

    Returns
    -------
    Summary
        Sizes, channels, types, time span, layout, completeness.

    Raises
    ------
    StoreError
        There is no finished store of ours.
    """
    cube = Cube(path)
    layout = cube.schema.layout
    place = place_of(path)
    mjd = cube.coordinate("mjd")
    finite = mjd[np.isfinite(mjd)]
    counted = _counted(cube)
    return Summary(
        path=cube.path,
        uuid=cube.uuid,
        created=str(cube.attributes["idfzarr"]["created"]),
        n_objects=layout.n_objects,
        n_types=layout.n_types,
        n_aors=layout.n_aors,
        capacity=layout.capacity,
        chunk_shape=tuple(layout.chunk_shape),
        shard_shape=tuple(layout.shard_shape),
        codec=str(cube.schema.codec),
        precision=cube.schema.precision,
        logical_bytes=int(np.prod(layout.shape)) * 4,
        stored_bytes=_stored(place, f"{LIGHTCURVES}/c"),
        total_bytes=_stored(place, ""),
        first_mjd=float(finite.min()) if finite.size else np.nan,
        last_mjd=float(finite.max()) if finite.size else np.nan,
        units=tuple(dict.fromkeys(str(u) for u in cube.coordinate("unit"))),
        has_sky=bool(np.isfinite(cube.coordinate("ra")).any()),
        channels=tuple(
            _channel(cube, c, name, mjd, counted) for c, name in enumerate(cube.channels)
        ),
    )


def _counted(cube: Cube) -> NDArray[Any] | None:
    """Return the number of good measurements (object, type); None in a cube without statistics."""
    try:
        return cube.table(VARIABILITY).get("n")
    except UnknownName:
        return None


def _stored(place: Place, prefix: str) -> int:
    return sum(place.size(key) or 0 for key in place.keys(prefix))


def _channel(cube: Cube, position: int, name: str, mjd: Any, counted: Any) -> ChannelSummary:
    own = cube.coordinate("type_channel") == name
    n_aors = int(np.isfinite(mjd[:, position]).sum())
    complete = np.nan
    if counted is not None and own.any() and n_aors:
        complete = float(np.nansum(counted[:, own]) / (counted[:, own].size * n_aors))
    return ChannelSummary(
        name=name,
        n_types=int(own.sum()),
        methods=tuple(dict.fromkeys(str(m) for m in cube.coordinate("type_method")[own])),
        images=tuple(dict.fromkeys(str(i) for i in cube.coordinate("type_image")[own])),
        n_aors=n_aors,
        completeness=complete,
    )
