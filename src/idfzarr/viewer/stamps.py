"""Stamps of an object: the superstack with its apertures, an AOR's own image, PS1 in colour.

A stamp is an array with its place; `render` makes it a picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import ImageMissing, ImageUnreadable, NoSkyCoordinates, UsageError, closest
from idfzarr.viewer.labels import plain
from idfzarr.viewer.outlines import Outline, outlines_of
from idfzarr.viewer.state import COLOUR_MAPS, STRETCHES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from idfzarr.viewer.field import Field
    from idfzarr.viewer.field_images import FieldImage

__all__ = [
    "MOST_STAMP_PIXELS",
    "PS1_COLOURS",
    "ColourStamp",
    "Stamp",
    "aor_stamp",
    "ps1_stamp",
    "render",
    "superstack_stamp",
]

MOST_STAMP_PIXELS = 600
"""Pixels of a stamp along either axis, at most."""

PS1_COLOURS = (("i", "r", "g"), ("z", "i", "g"), ("y", "i", "g"), ("y", "z", "i"), ("z", "r", "g"))
"""Bands of red, green and blue; the first three that are there are taken."""

_SOFTENING = 0.1  # of asinh: where it turns from linear to logarithmic, as a part of the range
_LOG_RANGE = 1000.0


@dataclass(frozen=True, eq=False)
class Stamp:
    """A piece of an image around an object.

    Attributes
    ----------
    object_id, channel
        Whose it is.
    title
        What is seen, in words.
    pixels
        (ny, nx) float32; NaN where nothing was observed, and beyond the image.
    left, low
        Outer edge of the first pixel, arcseconds from the object, to the right and upwards in the
        image; pixels where the scale is not known.
    scale
        Arcseconds of a pixel.
    size_unit
        ``arcsec``, or ``px`` where the scale is not known.
    unit
        Of the pixels.
    outlines
        Of the apertures, from the object in the same units.
    aor
        The AOR of which the image is; None for the superstack.
    """

    object_id: int
    channel: str
    title: str
    pixels: NDArray[np.float32]
    left: float
    low: float
    scale: float
    size_unit: str
    unit: str
    outlines: tuple[Outline, ...] = ()
    aor: int | None = None

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, low, right, high outer edges."""
        ny, nx = self.pixels.shape
        return (
            self.left,
            self.low,
            self.left + nx * self.scale,
            self.low + ny * self.scale,
        )


@dataclass(frozen=True, eq=False)
class ColourStamp:
    """A piece of the sky in colour.

    Attributes
    ----------
    object_id
        Whose it is.
    title
        What is seen, in words.
    png
        The picture, north up to the plane of its skycell.
    bands
        Red, green, blue; one band alone is grey.
    size_arcsec
        Its side.
    """

    object_id: int
    title: str
    png: bytes
    bands: tuple[str, ...]
    size_arcsec: float


def superstack_stamp(
    field: Field,
    object_id: int,
    channel: str,
    size_arcsec: float = 30.0,
    *,
    types: Sequence[str] = (),
) -> Stamp:
    """Cut the surroundings of an object out of its channel's superstack.

    Parameters
    ----------
    field
        The store.
    object_id
        Which.
    channel
        Of the superstack.
    size_arcsec
        Side; pixels where the scale is not known.
    types
        Types whose apertures are drawn; those of other channels too, since all share one grid.

    Returns
    -------
    Stamp
        At most `MOST_STAMP_PIXELS` along either axis.

    Raises
    ------
    UnknownName
        No such object, or no superstack of that channel.
    CorruptError
        The image is damaged.
    """
    image = field.image(channel)
    x, y = _place(field, object_id)
    column, row, n = _window(x, y, size_arcsec, image.scale)
    pixels = _cut(image.plane("flux"), column, row, n)
    return Stamp(
        object_id=object_id,
        channel=channel,
        title=f"superstack of {plain(channel)}",
        pixels=pixels,
        outlines=outlines_of(field, object_id, types, image, scale=image.scale),
        unit=image.unit,
        **_frame(image, x, y, column, row),
    )


def _place(field: Field, object_id: int) -> tuple[float, float]:
    row = field.cube.row(object_id)
    x, y = (float(field.cube.coordinate(name)[row]) for name in ("x", "y"))
    if not (math.isfinite(x) and math.isfinite(y)):
        msg = f"object {object_id} of {field.path} has no place in the images of the field"
        raise UsageError(msg)
    return x, y


def _window(x: float, y: float, size_arcsec: float, scale: float) -> tuple[int, int, int]:
    """Return the first column and row, and the side in pixels."""
    if not (math.isfinite(size_arcsec) and size_arcsec > 0):
        msg = f"a stamp has a side of more than 0 arcsec, not {size_arcsec}"
        raise UsageError(msg)
    n = int(np.clip(round(size_arcsec / scale), 3, MOST_STAMP_PIXELS))
    return round(x - (n - 1) / 2), round(y - (n - 1) / 2), n


def _frame(image: FieldImage, x: float, y: float, column: int, row: int) -> dict[str, Any]:
    return {
        "left": (column - 0.5 - x) * image.scale,
        "low": (row - 0.5 - y) * image.scale,
        "scale": image.scale,
        "size_unit": "arcsec" if math.isfinite(image.pixel_scale) else "px",
    }


def _overlap(first: int, n: int, length: int) -> tuple[slice, slice]:
    """Return where in the image, and where in the stamp."""
    begin, end = max(first, 0), min(first + n, length)
    begin, end = (begin, end) if begin < end else (0, 0)
    return slice(begin, end), slice(begin - first, end - first) if begin < end else slice(0, 0)


def _cut(image: Any, column: int, row: int, n: int) -> NDArray[np.float32]:
    """Return a window of an image, NaN beyond its edges; only the window is asked for."""
    made = np.full((n, n), np.nan, dtype=np.float32)
    rows, into_rows = _overlap(row, n, image.shape[0])
    columns, into_columns = _overlap(column, n, image.shape[1])
    if rows.stop > rows.start and columns.stop > columns.start:
        made[into_rows, into_columns] = image[rows, columns]
    return made


# ------------------------------------------------------------------ an AOR's own image


def aor_stamp(
    field: Field,
    object_id: int,
    channel: str,
    aor: int,
    size_arcsec: float = 30.0,
    *,
    types: Sequence[str] = (),
) -> Stamp:
    """Cut the surroundings of an object out of the mosaic of one AOR.

    Only the window is read. The mosaic is looked for where the ledger says it was, and in a folder
    of the same name beside the store.

    Parameters
    ----------
    field
        The store.
    object_id, channel
        Which.
    aor
        Its reqkey.
    size_arcsec, types
        As of `superstack_stamp`.

    Returns
    -------
    Stamp
        In the pixels of the mosaic, with the object in the middle.

    Raises
    ------
    UnknownName
        No such object or AOR, or the store has no superstack of that channel.
    ImageMissing
        The mosaic is not there any more, or never was.
    ImageUnreadable
        It is no FITS image.
    """
    at = np.flatnonzero(field.cube.aors == aor)
    if not at.size:
        msg = f"{field.path} has no AOR {aor}; see the table of AORs"
        raise UsageError(msg)
    name = str(field.aor_names[at[0]])
    noted = field.sources.mosaics.get((name, channel))
    path = None if noted is None else noted.found()
    if path is None:
        where = "the ledger names no mosaic" if noted is None else f"it was {noted.path}"
        msg = f"the mosaic of AOR {plain(name)} in {plain(channel)} is not there: {where}"
        raise ImageMissing(msg)
    image = field.image(channel)
    x, y = _place(field, object_id)
    column, row, n = _window(x, y, size_arcsec, image.scale)
    pixels, shift = _read_window(path, field, object_id, (column, row, n), (x, y))
    frame = _frame(image, x, y, column, row)
    frame["left"] += shift[0] * image.scale
    frame["low"] += shift[1] * image.scale
    return Stamp(
        object_id=object_id,
        channel=channel,
        title=f"AOR {plain(name)} in {plain(channel)}",
        pixels=pixels,
        outlines=outlines_of(field, object_id, types, image, scale=image.scale),
        unit=image.unit,
        aor=int(aor),
        **frame,
    )


def _read_window(
    path: Path,
    field: Field,
    object_id: int,
    window: tuple[int, int, int],
    place: tuple[float, float],
) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Return pixels around an object, and how far the window is from that of the superstack."""
    from astropy.io import fits

    from idfzarr.imaging.fits_image import silent_astropy

    try:
        with silent_astropy(), fits.open(path, memmap=True) as hdus:
            for hdu in hdus:
                shape = getattr(hdu, "shape", ())
                if hdu.is_image and len(shape) >= 2 and math.prod(shape[:-2]) == 1:
                    x, y = _place_in(hdu.header, field, object_id, place)
                    n = window[2]
                    column, row = round(x - (n - 1) / 2), round(y - (n - 1) / 2)
                    # of the place in the superstack, less that of the place in the mosaic
                    shift = (column - x - (window[0] - place[0]), row - y - (window[1] - place[1]))
                    return _cut(_Section(hdu), column, row, n), shift
    except (OSError, ValueError, TypeError, fits.VerifyError) as error:
        msg = f"{path} cannot be read as a FITS image: {error}"
        raise ImageUnreadable(msg) from error
    msg = f"{path} cannot be read as a FITS image: it has no two-dimensional image"
    raise ImageUnreadable(msg)


class _Section:
    """The part of an HDU's image that is asked for; the rest stays on disk."""

    def __init__(self, hdu: Any) -> None:
        self._hdu = hdu
        self._above = (0,) * (len(hdu.shape) - 2)
        self.shape = tuple(hdu.shape[-2:])

    def __getitem__(self, window: tuple[slice, slice]) -> Any:
        return self._hdu.section[(*self._above, *window)]


def _place_in(
    header: Any, field: Field, object_id: int, place: tuple[float, float]
) -> tuple[float, float]:
    """Return where an object is in a mosaic: by its WCS, else where it is in the superstack."""
    row = field.cube.row(object_id)
    ra, dec = (float(field.cube.coordinate(name)[row]) for name in ("ra", "dec"))
    if not (math.isfinite(ra) and math.isfinite(dec)):
        return place
    from astropy.wcs import WCS

    wcs = WCS(header, naxis=2)
    if not wcs.has_celestial:
        return place
    x, y = wcs.all_world2pix([ra], [dec], 0)
    return (float(x[0]), float(y[0])) if np.isfinite([x[0], y[0]]).all() else place


# ------------------------------------------------------------------ PS1


def ps1_stamp(field: Field, object_id: int, size_arcsec: float = 30.0) -> ColourStamp:
    """Cut the surroundings of an object out of the PS1 skycells that the cube is linked with.

    Parameters
    ----------
    field
        The store.
    object_id
        Which.
    size_arcsec
        Side.

    Returns
    -------
    ColourStamp
        In colour where three bands are there, else one of them in grey.

    Raises
    ------
    UsageError
        The cube is linked with no skycells.
    UnknownName
        No such object, or no skycell sees the place.
    NoSkyCoordinates
        Where it is on the sky is not known.
    CorruptError
        A skycell is damaged.
    """
    from idfzarr.care.cutout import cut_out
    from idfzarr.care.cutout_png import picture

    store = field.skycells
    if store is None:
        msg = f"{field.path} has no skycells: idfzarr fetch SKYCELLS --field {field.path}"
        raise UsageError(msg)
    row = field.cube.row(object_id)
    ra, dec = (float(field.cube.coordinate(name)[row]) for name in ("ra", "dec"))
    if not (math.isfinite(ra) and math.isfinite(dec)):
        msg = f"object {object_id} of {field.path} has no position on the sky"
        raise NoSkyCoordinates(msg)
    cutout = cut_out(store, ra, dec, size_arcsec)
    bands = next((c for c in PS1_COLOURS if set(c) <= set(cutout.bands)), cutout.bands[:1])
    return ColourStamp(
        object_id=object_id,
        title=f"PS1 {''.join(bands)}, {cutout.skycell}",
        png=picture([cutout.pixels[band] for band in bands]),
        bands=tuple(bands),
        size_arcsec=size_arcsec,
    )


# ------------------------------------------------------------------ brightness to colour


def render(
    pixels: NDArray[Any],
    *,
    stretch: str = "asinh",
    low: float = 1.0,
    high: float = 99.5,
    colour_map: str = "gray",
) -> NDArray[np.uint8]:
    """Make a picture of an image.

    Parameters
    ----------
    pixels
        (ny, nx); NaN becomes transparent.
    stretch
        One of `idfzarr.viewer.state.STRETCHES`; ``asinh`` as Lupton et al. 2004, PASP 116, 133.
    low, high
        Percentiles of the pixels between which brightness is shown.
    colour_map
        One of `idfzarr.viewer.state.COLOUR_MAPS`.

    Returns
    -------
    ndarray of uint8
        (ny, nx, 4): red, green, blue, opacity; rows in the order of `pixels`.

    Raises
    ------
    UsageError
        There is no such stretch or colour map, or the percentiles are none.
    """
    if stretch not in STRETCHES:
        msg = f"{stretch!r} is no stretch{closest(stretch, STRETCHES)}; one of {STRETCHES}"
        raise UsageError(msg)
    if colour_map not in COLOUR_MAPS:
        msg = f"{colour_map!r} is no colour map{closest(colour_map, COLOUR_MAPS)}; {COLOUR_MAPS}"
        raise UsageError(msg)
    if not 0 <= low < high <= 100:
        msg = f"percentiles are 0 <= low < high <= 100, not {low} and {high}"
        raise UsageError(msg)
    values = np.asarray(pixels, dtype=np.float64)
    known = np.isfinite(values)
    first, last = np.percentile(values[known], [low, high]) if known.any() else (0.0, 1.0)
    span = last - first if last > first else 1.0
    part = np.clip((np.where(known, values, first) - first) / span, 0.0, 1.0)
    if stretch == "sqrt":
        part = np.sqrt(part)
    elif stretch == "log":
        part = np.log1p(_LOG_RANGE * part) / np.log1p(_LOG_RANGE)
    elif stretch == "asinh":
        part = np.arcsinh(part / _SOFTENING) / np.arcsinh(1 / _SOFTENING)
    drawn = _colours(colour_map)[np.minimum((part * 256).astype(np.intp), 255)]
    drawn[..., 3] = np.where(known, 255, 0)
    return drawn


@cache
def _colours(name: str) -> NDArray[np.uint8]:
    """Return the 256 colours of a map, (256, 4); bokeh is quicker to import than matplotlib."""
    from bokeh import palettes

    words = getattr(palettes, "Greys256" if name == "gray" else f"{name.capitalize()}256")
    return np.array([[*bytes.fromhex(word[1:]), 255] for word in words], dtype=np.uint8)
