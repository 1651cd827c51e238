"""Skycells as xarray Datasets: flux, sigma and mask (band, y, x), read where they are looked at.

::

    ds = open_skycell("skycells.zarr", "skycell.1405.053")
    ds.flux.sel(band="i")[2000:2512, 3000:3512].plot()
    ds.flux.where((ds.mask & ds.mask.attrs["bad"]) == 0)
    wcs_of(ds[["flux"]].isel(x=slice(3000, 3512), y=slice(2000, 2512)))

Stores in earlier layouts open the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from idfzarr.errors import ImageShape, ImageUnreadable, UnknownName, UsageError
from idfzarr.imaging.fits_image import silent_astropy
from idfzarr.ps1.headers import header_of
from idfzarr.ps1.masks import mask_bits
from idfzarr.ps1.names import parse
from idfzarr.ps1.old_layouts import open_skystore
from idfzarr.ps1.pixels import Scaling
from idfzarr.ps1.sky_keys import BANDS, KINDS
from idfzarr.ps1.sky_lazy import LazyPixels, LazySky

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from idfzarr.ps1.sky_keys import Kind, SkycellReader
    from idfzarr.store.place import PlaceLike

__all__ = ["open_datatree", "open_skycell", "wcs_of"]

_DIMS = ("band", "y", "x")
_VARIABLES: dict[Kind, str] = {"image": "flux", "weight": "sigma", "mask": "mask"}
_CHUNKS = {"band": 1, "y": 1024, "x": 1024}
_WCS = "wcs"


def open_skycell(
    store: PlaceLike | SkycellReader,
    name: str,
    *,
    bands: Iterable[str] | None = None,
    chunks: Any = None,
) -> xr.Dataset:
    """Open a skycell.

    Parameters
    ----------
    store
        Path or URL of a store of skycells, in the layout of this package or an earlier one, or
        such a store that is open.
    name
        Of the skycell.
    bands
        Which, as ``"gri"``; without them all that have an image.
    chunks
        As of `xarray.Dataset.chunk` for Dask arrays; ``{}`` for chunks of 1024 by 1024 pixels.

    Returns
    -------
    xarray.Dataset
        ``flux`` and ``sigma`` in microjansky, float32, and ``mask``, uint16 with CF flags (its
        attribute ``bad``: the bits of pixels without use), (band, y, x); ``sigma`` and ``mask``
        where any band has them: in a band that has none sigma is NaN and all bits of the mask are
        set, and the attributes ``bands_without_sigma`` and ``bands_without_mask`` name it.
        Coordinates ``band``, pixels ``y`` and ``x`` from 0, and right ascension ``ra`` and
        declination ``dec`` (y, x) in degrees; the cards of the WCS are the attributes of ``wcs``.
        All pixels are read, and positions computed, when and where they are looked at. Bands whose
        flux cannot be known, which happens in earlier layouts, are left out unless they are asked
        for; ``bands_left_out`` says why.

    Raises
    ------
    StoreError
        There is no store of skycells.
    UnknownName
        It has no image of this skycell, or none in a band that was asked for.
    ImageShape
        Its arrays differ in shape.
    ImageUnreadable
        The flux of a band that was asked for, or of all, cannot be known.
    """
    reader = open_skystore(store)
    cell = parse(name).name
    attributes = _all_attributes(reader, cell, None if bands is None else _asked(bands))
    kept, left_out = _scalable(attributes, cell, asked=bands is not None)
    dataset = _dataset(reader, cell, kept)
    if left_out:
        dataset.attrs["bands_left_out"] = "; ".join(f"{b}: {why}" for b, why in left_out.items())
    if chunks is None:
        return dataset
    return dataset.chunk(_CHUNKS if isinstance(chunks, dict) and not chunks else chunks)


def _asked(bands: Iterable[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(bands))
    unknown = [b for b in found if b not in BANDS]
    if unknown or not found:
        msg = f"bands are some of {', '.join(BANDS)}, not {', '.join(map(repr, unknown)) or 'none'}"
        raise UsageError(msg)
    return found


_Attributes = dict[str, dict["Kind", dict[str, Any]]]


def _all_attributes(reader: SkycellReader, cell: str, bands: tuple[str, ...] | None) -> _Attributes:
    """Return the attributes of every array of the bands, by band and kind."""
    found: _Attributes = {}
    for band in BANDS if bands is None else bands:
        if reader.has(cell, band, "image") or _is_damaged(reader, cell, band):
            there = [kind for kind in KINDS if kind == "image" or reader.has(cell, band, kind)]
            found[band] = {kind: reader.attributes(cell, band, kind) for kind in there}
        elif bands is not None:
            msg = f"there is no {band} image of {cell} in {reader.url}; fetch it first"
            raise UnknownName(msg)
    if not found:
        msg = f"there is no image of {cell} in {reader.url}; fetch it first"
        raise UnknownName(msg)
    return found


def _is_damaged(reader: SkycellReader, cell: str, band: str) -> bool:
    # An image that is there and damaged must be heard of, not be left out as if it were absent.
    return any(a.band == band and a.kind == "image" for a in reader.arrays(cell))


def _scalable(
    attributes: _Attributes, cell: str, *, asked: bool
) -> tuple[_Attributes, dict[str, str]]:
    """Return the bands whose flux can be known, and why it cannot in the others."""
    left_out: dict[str, str] = {}
    for band, kinds in attributes.items():
        try:
            if not kinds["image"]["scale"]:
                msg = f"the header of the {band} image of {cell} is lost, and its scaling with it"
                raise ImageUnreadable(msg)
            Scaling.from_header(kinds["image"]["scale"]).microjansky_per_dn()
        except ImageUnreadable as error:
            if asked:
                raise
            left_out[band] = str(error)
    kept = {band: kinds for band, kinds in attributes.items() if band not in left_out}
    if not kept:
        msg = f"the flux of no band of {cell} can be known: {'; '.join(left_out.values())}"
        raise ImageUnreadable(msg)
    return kept, left_out


def _scaling(attributes: Mapping[str, Any]) -> Scaling | None:
    if not attributes["scale"]:
        return None
    found = Scaling.from_header(attributes["scale"])
    return found if found.exptime else None


def _dataset(reader: SkycellReader, cell: str, attributes: _Attributes) -> xr.Dataset:
    bands = tuple(attributes)
    shape = _one_shape(reader, cell, attributes)
    cards = attributes[bands[0]]["image"]["wcs"]
    variables: dict[str, xr.Variable] = {}
    told: dict[str, Any] = {
        "Conventions": "CF-1.11",
        "title": f"Pan-STARRS1 {cell}",
        "skycell": cell,
        "source": reader.url,
    }
    for kind, called in _VARIABLES.items():
        scalings = _scalings(attributes, kind)
        if not scalings:
            continue
        pixels = LazyPixels(reader, cell, kind, bands=bands, scalings=scalings, shape=shape)
        notes = _notes(kind, attributes)
        variables[called] = xr.Variable(_DIMS, _cached(pixels), notes)
        lacking = [band for band in bands if band not in scalings]
        if lacking:
            told[f"bands_without_{called}"] = " ".join(lacking)
    others = [name for name in ("sigma", "mask") if name in variables]
    if others:
        variables["flux"].attrs["ancillary_variables"] = " ".join(others)
    return xr.Dataset(variables, attrs=told).assign_coords(_coordinates(bands, shape, cards))


def _cached(lazy: Any) -> Any:
    """Return a lazy array as `xarray.open_dataset` would: what is looked at twice is read once."""
    # xarray's own annotations of these three do not fit each other.
    lazily: Any = indexing.LazilyIndexedArray(lazy)
    protected: Any = indexing.CopyOnWriteArray(lazily)
    cache: Any = indexing.MemoryCachedArray
    return cache(protected)


def _scalings(attributes: _Attributes, kind: Kind) -> dict[str, Scaling | None]:
    """Return the scaling of every band whose array of a kind can be read."""
    if kind == "mask":
        return {band: None for band, kinds in attributes.items() if kind in kinds}
    found = {b: _scaling(kinds[kind]) for b, kinds in attributes.items() if kind in kinds}
    return {band: scaling for band, scaling in found.items() if scaling is not None}


def _one_shape(reader: SkycellReader, cell: str, attributes: _Attributes) -> tuple[int, int]:
    shapes = {
        f"{band} {kind}": reader.shape(cell, band, kind)
        for band, kinds in attributes.items()
        for kind in kinds
    }
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{which} {shape}" for which, shape in shapes.items())
        msg = f"arrays of {cell} in {reader.url} differ in shape: {told}; repair the store"
        raise ImageShape(msg)
    return next(iter(shapes.values()))


def _notes(kind: Kind, attributes: _Attributes) -> dict[str, Any]:
    if kind != "mask":
        long_name = "flux" if kind == "image" else "standard deviation of flux"
        return {"long_name": long_name, "units": "uJy", "grid_mapping": _WCS}
    headers = [kinds[kind]["header"] for kinds in attributes.values() if kind in kinds]
    cards: list[str] = next((cards for cards in headers if cards), [])
    bits = mask_bits(header_of(cards) if cards else None)
    flags = bits.attributes()
    return {
        "long_name": "mask of the survey",
        "flag_masks": np.array(flags["flag_masks"], dtype=np.uint16),
        "flag_meanings": flags["flag_meanings"],
        "bad": np.uint16(bits.bad),
        "grid_mapping": _WCS,
    }


def _positions(shape: tuple[int, int], cards: Mapping[str, Any]) -> list[Any]:
    """Return right ascension and declination as Dask arrays.

    xarray compares coordinates before it subtracts one band from another: Dask arrays by their
    names, all others by computing them.
    """
    import dask.array
    from dask.base import tokenize

    chunks = (_CHUNKS["y"], _CHUNKS["x"])
    made = []
    for axis, called in enumerate(("ra", "dec")):
        name = f"{called}-{tokenize(sorted(cards.items()), shape)}"
        made.append(dask.array.from_array(LazySky(cards, axis, shape), chunks=chunks, name=name))
    return made


def _coordinates(
    bands: tuple[str, ...], shape: tuple[int, int], cards: Mapping[str, Any]
) -> dict[str, xr.Variable]:
    ra, dec = _positions(shape, cards)
    frame = str(cards.get("RADESYS", "FK5"))
    return {
        "band": xr.Variable("band", np.array(bands), {"long_name": "band of the survey"}),
        "y": xr.Variable("y", np.arange(shape[0]), {"long_name": "row, from 0", "units": "pixel"}),
        "x": xr.Variable(
            "x", np.arange(shape[1]), {"long_name": "column, from 0", "units": "pixel"}
        ),
        "ra": xr.Variable(
            ("y", "x"), ra, {"long_name": f"right ascension, {frame}", "units": "degree"}
        ),
        "dec": xr.Variable(
            ("y", "x"), dec, {"long_name": f"declination, {frame}", "units": "degree"}
        ),
        _WCS: xr.Variable((), np.int32(0), {"long_name": "cards of the WCS", **cards}),
    }


def wcs_of(dataset: xr.Dataset | xr.DataArray) -> Any:
    """Return the astropy WCS of a skycell, or of what was cut out of it with steps or without.

    Parameters
    ----------
    dataset
        From `open_skycell`, or a variable of it, with its coordinates ``x``, ``y`` and ``wcs``.

    Returns
    -------
    astropy.wcs.WCS
        Whose pixels are those of the cutout.

    Raises
    ------
    UsageError
        Coordinates are lost, or their steps differ.
    """
    from astropy.io.fits import Header
    from astropy.wcs import WCS

    if not {"x", "y", _WCS} <= set(dataset.coords):
        msg = "the WCS of a cutout needs its coordinates x, y and wcs, as open_skycell gives them"
        raise UsageError(msg)
    cards = {k: v for k, v in dataset.coords[_WCS].attrs.items() if k.isupper()}
    sizes = []
    for number, axis in ((1, "x"), (2, "y")):
        pixels = np.atleast_1d(np.asarray(dataset.coords[axis].values, dtype=np.int64))
        steps = set(np.diff(pixels).tolist()) or {1}
        if len(steps) > 1 or steps == {0} or not pixels.size:
            msg = f"the pixels along {axis} are not evenly spaced: the cutout has no WCS"
            raise UsageError(msg)
        step = steps.pop()
        cards[f"CRPIX{number}"] = (float(cards[f"CRPIX{number}"]) - 1 - int(pixels[0])) / step + 1
        scale = f"CDELT{number}"
        cards[scale] = float(cards.get(scale, 1.0)) * step
        sizes.append(len(pixels))
    with silent_astropy():
        made = WCS(Header(cards), naxis=2)
    made.array_shape = tuple(reversed(sizes))
    return made


def open_datatree(
    store: PlaceLike | SkycellReader, names: str = "*", *, chunks: Any = None
) -> xr.DataTree:
    """Open many skycells as a tree: ``tree["1405/skycell.1405.053"].flux``.

    Parameters
    ----------
    store
        As of `open_skycell`.
    names
        Glob on the names of skycells.
    chunks
        As of `open_skycell`.

    Returns
    -------
    xarray.DataTree
        A node for every skycell that has an image, below that of its projection cell. Skycells
        whose flux cannot be known are named in the attribute ``skycells_left_out`` of the root.

    Raises
    ------
    StoreError
        There is no store of skycells.
    UnknownName
        No skycell in it matches.
    """
    reader = open_skystore(store)
    cells = sorted({a.name for a in reader.arrays(names) if a.kind == "image"})
    if not cells:
        msg = f"there is no image of a skycell {names!r} in {reader.url}"
        raise UnknownName(msg)
    nodes: dict[str, xr.Dataset] = {}
    left_out: dict[str, str] = {}
    for cell in cells:
        try:
            opened = open_skycell(reader, cell, chunks=chunks)
        except ImageUnreadable as error:
            left_out[cell] = str(error)
        else:
            nodes[f"/{cell.split('.')[1]}/{cell}"] = opened
    root: dict[str, Any] = {"source": reader.url}
    if left_out:
        root["skycells_left_out"] = "; ".join(left_out.values())
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=root), **nodes})
