"""Cutouts of the sky by position and size, across the borders of skycells.

The cutout lies on the pixels of the skycell that sees its centre best, and of the plane that these
go on in. Skycells of the same projection cell share that plane, so their pixels are taken over as
they are; those of another are interpolated. Of every array only the chunks that the cutout touches
are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from idfzarr.care.fits_files import image_file, many_images_file
from idfzarr.errors import NoSkyCoordinates, UnknownName, UsageError
from idfzarr.imaging.fits_image import silent_astropy
from idfzarr.ps1.names import parse
from idfzarr.ps1.old_layouts import open_skystore
from idfzarr.ps1.pixels import Scaling, flux_of_disk, sigma_of_disk
from idfzarr.ps1.sky_keys import BANDS, array_name
from idfzarr.ps1.skycell import best, in_cone

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from idfzarr.ps1.sky_keys import Kind, SkycellReader
    from idfzarr.store.place import PlaceLike

__all__ = ["MOST_PIXELS", "Cutout", "cut_out", "cut_out_object", "place_of_object"]

MOST_PIXELS = 20_000
"""Pixels of a cutout along either axis, at most: 83 arcmin."""

_OVERSIZE = 1.01
_SQRT2 = math.sqrt(2.0)
_UNITS: dict[str, str] = {"image": "uJy", "weight": "uJy", "mask": ""}
# Where in the frame, what values, and which of them are pixels of the tile.
_Piece: TypeAlias = tuple[tuple[slice, slice], "NDArray[Any]", "NDArray[np.bool_]"]
_WHOLE = 1e-3  # of a pixel: two grids that differ by less share their pixels


@dataclass(frozen=True, eq=False)
class Cutout:
    """A piece of the sky in one band or several.

    Attributes
    ----------
    ra, dec
        Degrees, of its middle to half a pixel.
    skycell
        On whose pixels it lies.
    kind
        ``image``: flux in microjansky; ``weight``: standard deviation in microjansky; ``mask``.
    pixels
        By band, (ny, nx): float32 and NaN where nothing is known, or uint16.
    covered
        By band, (ny, nx): where a skycell of the store has a pixel.
    wcs_cards
        Cards of its WCS.
    sources
        By band, the skycells it was made of.
    interpolated
        Those of them that lie in another projection cell.
    """

    ra: float
    dec: float
    skycell: str
    kind: Kind
    pixels: Mapping[str, NDArray[Any]]
    covered: Mapping[str, NDArray[np.bool_]]
    wcs_cards: Mapping[str, str | float]
    sources: Mapping[str, tuple[str, ...]]
    interpolated: tuple[str, ...] = ()

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands, in the order they were asked for."""
        return tuple(self.pixels)

    @property
    def shape(self) -> tuple[int, int]:
        """Pixels along y and x."""
        first = next(iter(self.pixels.values()))
        return int(first.shape[0]), int(first.shape[1])

    @property
    def coverage(self) -> float:
        """Fraction of the pixels that a skycell of the store covers, of all bands together."""
        return float(np.mean([np.mean(one) for one in self.covered.values()]))

    @cached_property
    def wcs(self) -> Any:
        """The astropy WCS."""
        return _wcs(self.wcs_cards, self.shape)

    def header(self, band: str) -> Any:
        """Return the FITS header of a band."""
        from astropy.io.fits import Header

        made = Header(dict(self.wcs_cards))
        made["FILTER"] = (band, "band of Pan-STARRS1")
        if _UNITS[self.kind]:
            made["BUNIT"] = (_UNITS[self.kind], "unit of the pixels")
        for name in self.sources[band]:
            how = "interpolated from" if name in self.interpolated else "pixels of"
            made.add_history(f"{how} {name}")
        return made

    def fits_bytes(self, *, compress: bool = True) -> bytes:
        """Return it as a FITS file; several bands are extensions named by them.

        Parameters
        ----------
        compress
            Tile-compressed, without loss.
        """
        if len(self.bands) == 1:
            band = self.bands[0]
            return image_file(self.header(band), self.pixels[band], compress=compress)
        images = [(band, self.header(band), self.pixels[band]) for band in self.bands]
        return many_images_file(images, compress=compress)

    def png_bytes(self) -> bytes:
        """Return it as a picture, north up and east to the left.

        One band in grey, asinh between the 1st and the 99.5th percentile; three in colour, the
        first one red (Lupton et al. 2004, PASP 116, 133).

        Raises
        ------
        UsageError
            It has neither one band nor three, or is of masks.
        """
        from idfzarr.care.cutout_png import picture

        if self.kind == "mask" or len(self.bands) not in {1, 3}:
            msg = (
                f"a picture is made of the images of one band or of three, not of {self.kind} "
                f"in {', '.join(self.bands)}; three are given from red to blue, as --bands zrg"
            )
            raise UsageError(msg)
        return picture([np.asarray(self.pixels[band]) for band in self.bands])


def cut_out(
    store: str | os.PathLike[str] | SkycellReader,
    ra: float,
    dec: float,
    size_arcsec: float,
    *,
    bands: str | Iterable[str] | None = None,
    kind: Kind = "image",
) -> Cutout:
    """Cut a square out of the sky.

    Parameters
    ----------
    store
        Path or URL, or what is open already.
    ra, dec
        Degrees, of the middle.
    size_arcsec
        Length of a side.
    bands
        Which, in that order; all that the store has there unless given.
    kind
        ``image``, ``weight`` or ``mask``.

    Returns
    -------
    Cutout
        Where no skycell of the store has a pixel, it is NaN, a mask 0, and not ``covered``.

    Raises
    ------
    UsageError
        The position is none, the size is not above 0 or too large, or there is no such band.
    UnknownName
        No skycell of the store sees the place in a band that was asked for.
    CorruptError
        An array that is needed is damaged.

    Notes
    -----
    The position is taken to be in the frame of the images and is not turned. The survey's headers
    name no frame; its documentation says FK5, J2000, and so does the cutout's header. One in ICRS
    differs from that by 28 mas, at most 32 (both as astropy.coordinates has them): an eighth of a
    pixel, where the middle of a cutout lies within half a pixel of the position anyway.
    """
    reader = open_skystore(store)
    radius = _radius(size_arcsec)
    wanted = tuple(BANDS if bands is None else dict.fromkeys(bands))
    for band in wanted:
        array_name(band, kind)
    names = _around(ra, dec, radius)
    tiles = {band: _tiles(reader, names, band, kind) for band in wanted}
    tiles = {band: found for band, found in tiles.items() if found or bands is not None}
    base = _base(tiles, ra, dec, names)
    lacking = [band for band in tiles if not tiles[band]]
    if base is None or lacking:
        asked = "".join(lacking) or "".join(wanted)
        msg = (
            f"no skycell of {reader.url} has the {kind} in {', '.join(asked)} at {ra:.6f} "
            f"{dec:+.6f}: it would be {', '.join(names[:4]) or 'none'}; fetch it first"
        )
        raise UnknownName(msg)
    frame = _Frame.around(base, ra, dec, size_arcsec)
    painted = {band: _paint(reader, frame, found, kind) for band, found in tiles.items()}
    if not any(one.covered.any() for one in painted.values()):
        msg = f"{ra:.6f} {dec:+.6f} lies outside all images that {reader.url} has there"
        raise UnknownName(msg)
    return Cutout(
        ra=float(ra),
        dec=float(dec),
        skycell=base.name,
        kind=kind,
        pixels={band: one.pixels for band, one in painted.items()},
        covered={band: one.covered for band, one in painted.items()},
        wcs_cards=frame.cards,
        sources={band: tuple(one.sources) for band, one in painted.items()},
        interpolated=tuple(sorted({n for one in painted.values() for n in one.interpolated})),
    )


def place_of_object(cube: PlaceLike, object_id: int) -> tuple[float, float]:
    """Return right ascension and declination, degrees, of an object of a cube.

    Raises
    ------
    UnknownName
        The cube has no such object.
    NoSkyCoordinates
        Its positions are not known.
    """
    from idfzarr.store.cube import Cube

    opened = Cube(cube)
    row = opened.row(object_id)
    ra, dec = (float(opened.coordinate(name)[row]) for name in ("ra", "dec"))
    if not (math.isfinite(ra) and math.isfinite(dec)):
        msg = f"object {object_id} of {cube} has no position on the sky: its frames have no WCS"
        raise NoSkyCoordinates(msg)
    return ra, dec


def cut_out_object(
    cube: PlaceLike,
    object_id: int,
    size_arcsec: float,
    *,
    bands: str | Iterable[str] | None = None,
    kind: Kind = "image",
) -> Cutout:
    """Cut the surroundings of a cube's object out of the skycells that the cube is linked with.

    Parameters
    ----------
    cube
        Path of the cube, linked by ``fetch --field``.
    object_id
        Which.
    size_arcsec, bands, kind
        As of `cut_out`.

    Raises
    ------
    UsageError
        The cube has no skycells.
    UnknownName, NoSkyCoordinates, CorruptError
        As of `place_of_object` and `cut_out`.
    """
    from idfzarr.ps1.linking import linked_skycells

    linked = linked_skycells(cube)
    if linked is None:
        msg = f"{cube} has no skycells: idfzarr fetch SKYCELLS --field {cube}"
        raise UsageError(msg)
    ra, dec = place_of_object(cube, object_id)
    return cut_out(linked, ra, dec, size_arcsec, bands=bands, kind=kind)


def _radius(size_arcsec: float) -> float:
    """Return degrees from the middle to a corner."""
    size = float(size_arcsec)
    if not (math.isfinite(size) and 0 < size <= MOST_PIXELS / 4):
        msg = f"a cutout has a side of more than 0 and up to {MOST_PIXELS / 4:.0f} arcsec: {size}"
        raise UsageError(msg)
    return size / 3600 / _SQRT2 * _OVERSIZE


def _around(ra: float, dec: float, radius: float) -> tuple[str, ...]:
    """Return the skycells near a place, the best for its middle first, then its neighbours."""
    near = in_cone(ra, dec, radius)
    if not near:
        return ()
    first = best(ra, dec)
    projection = parse(first).projection
    return tuple(sorted(near, key=lambda n: (n != first, parse(n).projection != projection, n)))


@dataclass(frozen=True, eq=False)
class _Tile:
    """An array of the store, and where its pixels lie."""

    name: str
    band: str
    shape: tuple[int, int]
    cards: Mapping[str, str | float]
    attributes: Mapping[str, Any] = field(repr=False)

    @cached_property
    def wcs(self) -> Any:
        return _wcs(self.cards, self.shape)

    def holds(self, ra: float, dec: float) -> bool:
        x, y = self.wcs.all_world2pix([ra], [dec], 0)
        return bool(-0.5 <= x[0] <= self.shape[1] - 0.5 and -0.5 <= y[0] <= self.shape[0] - 0.5)


def _tiles(reader: SkycellReader, names: Sequence[str], band: str, kind: Kind) -> tuple[_Tile, ...]:
    made = []
    for name in names:
        try:
            attributes = reader.attributes(name, band, kind)
        except UnknownName:
            continue
        made.append(
            _Tile(name, band, reader.shape(name, band, kind), attributes["wcs"], attributes)
        )
    return tuple(made)


def _base(
    tiles: Mapping[str, Sequence[_Tile]], ra: float, dec: float, names: Sequence[str]
) -> _Tile | None:
    """Return the tile whose pixels the cutout is to have."""
    every = [tile for many in tiles.values() for tile in many]
    every.sort(key=lambda tile: (not tile.holds(ra, dec), names.index(tile.name)))
    return every[0] if every else None


@dataclass(frozen=True, eq=False)
class _Frame:
    """The pixels of a cutout: those of a tile's plane from a corner on."""

    base: _Tile
    column: int
    row: int
    size: int

    @classmethod
    def around(cls, base: _Tile, ra: float, dec: float, size_arcsec: float) -> _Frame:
        x, y = base.wcs.all_world2pix([ra], [dec], 0)
        scale = abs(float(base.cards["CDELT2"])) * 3600
        size = max(1, round(size_arcsec / scale))
        if size > MOST_PIXELS:
            msg = f"a cutout of {size} pixels along a side is too large: {MOST_PIXELS} at most"
            raise UsageError(msg)
        half = (size - 1) / 2
        return cls(base, round(float(x[0]) - half), round(float(y[0]) - half), size)

    @property
    def cards(self) -> dict[str, str | float]:
        """Cards of the WCS of the cutout."""
        made = dict(self.base.cards)
        made["CRPIX1"] = float(made["CRPIX1"]) - self.column
        made["CRPIX2"] = float(made["CRPIX2"]) - self.row
        return made

    def offset(self, tile: _Tile) -> tuple[int, int] | None:
        """Return column and row of the tile's first pixel; None for one of another plane."""
        same = all(
            tile.cards.get(name) == value
            for name, value in self.base.cards.items()
            if name not in {"CRPIX1", "CRPIX2"}
        )
        x = float(self.base.cards["CRPIX1"]) - float(tile.cards["CRPIX1"]) - self.column
        y = float(self.base.cards["CRPIX2"]) - float(tile.cards["CRPIX2"]) - self.row
        if not same or max(abs(x - round(x)), abs(y - round(y))) > _WHOLE:
            return None
        return round(x), round(y)


class _Painting:
    """The pixels of one band, as far as they are painted."""

    def __init__(self, size: int, kind: Kind) -> None:
        mask = kind == "mask"
        self.pixels: NDArray[Any] = np.full((size, size), 0 if mask else np.nan, np.float32)
        if mask:
            self.pixels = np.zeros((size, size), np.uint16)
        self.covered = np.zeros((size, size), dtype=bool)
        self.sources: list[str] = []
        self.interpolated: list[str] = []

    @property
    def whole(self) -> bool:
        """Whether every pixel has a value."""
        known = self.covered if self.pixels.dtype.kind == "u" else np.isfinite(self.pixels)
        return bool(known.all())

    def put(self, window: tuple[slice, slice], values: NDArray[Any], inside: NDArray[Any]) -> bool:
        """Paint what is not painted yet; return whether there was anything."""
        target, covered = self.pixels[window], self.covered[window]
        if target.dtype.kind == "u":
            fresh = inside & ~covered
        else:
            fresh = inside & np.isnan(target) & np.isfinite(values)
        target[fresh] = values[fresh]
        covered |= inside
        return bool(fresh.any())


def _paint(reader: SkycellReader, frame: _Frame, tiles: Sequence[_Tile], kind: Kind) -> _Painting:
    made = _Painting(frame.size, kind)
    placed = [(tile, frame.offset(tile)) for tile in tiles]
    placed.sort(key=lambda one: (one[0].name != frame.base.name, one[1] is None))
    for tile, offset in placed:
        if made.whole:
            break
        if offset is not None:
            piece = _as_it_is(reader, frame, tile, offset, kind)
        else:
            piece = _interpolated(reader, frame, tile, kind)
        if piece is not None and made.put(*piece):
            made.sources.append(tile.name)
            if offset is None:
                made.interpolated.append(tile.name)
    return made


def _values(
    reader: SkycellReader, tile: _Tile, kind: Kind, window: tuple[slice, slice]
) -> NDArray[Any]:
    pixels = reader.read(tile.name, tile.band, kind, window)
    if kind == "mask":
        return pixels
    where = f"{tile.name} {array_name(tile.band, kind)}"
    if not tile.attributes["scale"]:
        msg = f"{where} of {reader.url} has lost its scaling: its flux cannot be known"
        raise UsageError(msg)
    scaling = Scaling.from_header(tile.attributes["scale"], where=where)
    decode = flux_of_disk if kind == "image" else sigma_of_disk
    return np.asarray(decode(pixels, scaling).astype(np.float32))


def _as_it_is(
    reader: SkycellReader, frame: _Frame, tile: _Tile, offset: tuple[int, int], kind: Kind
) -> _Piece | None:
    """Return the part of a tile of the same plane that lies in the frame."""
    source, target = [], []
    for first, length in zip((offset[1], offset[0]), tile.shape, strict=True):
        begin, end = max(0, first), min(frame.size, first + length)
        if begin >= end:
            return None
        target.append(slice(begin, end))
        source.append(slice(begin - first, end - first))
    values = _values(reader, tile, kind, (source[0], source[1]))
    return (target[0], target[1]), values, np.ones(values.shape, dtype=bool)


def _interpolated(reader: SkycellReader, frame: _Frame, tile: _Tile, kind: Kind) -> _Piece | None:
    """Interpolate a tile of another plane, bilinearly; a mask takes the nearest pixel."""
    from scipy.ndimage import map_coordinates

    rows, columns = np.mgrid[0 : frame.size, 0 : frame.size]
    ra, dec = frame.base.wcs.all_pix2world(columns + frame.column, rows + frame.row, 0)
    x, y = tile.wcs.all_world2pix(ra, dec, 0)
    inside = (x >= 0) & (x <= tile.shape[1] - 1) & (y >= 0) & (y <= tile.shape[0] - 1)
    if not inside.any():
        return None
    low_x, low_y = int(x[inside].min()), int(y[inside].min())
    high_x = min(tile.shape[1], math.ceil(x[inside].max()) + 1)
    high_y = min(tile.shape[0], math.ceil(y[inside].max()) + 1)
    values = _values(reader, tile, kind, (slice(low_y, high_y), slice(low_x, high_x)))
    at = np.where(inside, np.stack([y - low_y, x - low_x]), 0.0)
    taken = map_coordinates(values, at, order=0 if kind == "mask" else 1, mode="nearest")
    return (slice(0, frame.size), slice(0, frame.size)), taken, inside


def _wcs(cards: Mapping[str, str | float], shape: tuple[int, int]) -> Any:
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    with silent_astropy():
        made = WCS(Header(dict(cards)), naxis=2)
    made.array_shape = shape
    return made
