"""Stores of skycells for tests: this package's own, and those of the earlier toolkit's layouts."""

from __future__ import annotations

import hashlib
import io
import warnings
from typing import TYPE_CHECKING

import numpy as np
import zarr
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from idfzarr.ps1.headers import read_image_cards
from idfzarr.ps1.sky_keys import array_name
from idfzarr.ps1.skystore import create_skystore
from idfzarr.testing.ps1_files import disk_pixels, file_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from idfzarr.ps1.skystore import SkycellStore
    from idfzarr.testing.ps1_files import PS1Sky

ALL = ("image", "mask", "weight")


def put(store, sky: PS1Sky, name, band, kind="image", *, compression="RICE_1") -> bytes:
    """Store what the archive would serve; return the file."""
    served = file_bytes(sky, name, band, kind, compression=compression)
    cards = read_image_cards(io.BytesIO(served))
    pixels, _ = disk_pixels(sky, name, band, kind)
    store.write(
        name,
        band,
        kind,
        pixels,
        cards=cards.image,
        primary_cards=cards.primary,
        provenance={"source": "local", "sha256": hashlib.sha256(served).hexdigest()},
    )
    return served


def make_store(path: Path, sky, names, *, bands="ri", kinds=ALL) -> SkycellStore:
    """Make a store of this package."""
    store = create_skystore(path, exist_ok=True)
    for name in names:
        for band in bands:
            for kind in kinds:
                put(store, sky, name, band, kind)
    return store


def decoded(sky, name, band, kind):
    """Return pixels and header as the earlier toolkit got them out of astropy."""
    served = io.BytesIO(file_bytes(sky, name, band, kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        with fits.open(served) as opened:
            values = np.asarray(opened[1].data)
            header = opened[1].header
            text = "".join(card.image.ljust(80) for card in header.cards)
    return values, text


def make_old(
    path: Path,
    sky,
    names,
    *,
    bands="ri",
    kinds=ALL,
    tree="",
    zarr_format=3,
    header_on="array",
    mask_type="uint16",
    chunk=128,
) -> None:
    """Make a store of the earlier toolkit, written by zarr-python as that did."""
    root = zarr.open_group(path, mode="a", zarr_format=zarr_format)
    for name in names:
        group = root.require_group(f"{tree}{name.split('.')[1]}/{name}")
        for band in bands:
            for kind in kinds:
                values, header = decoded(sky, name, band, kind)
                mask = kind == "mask"
                values = values.astype(mask_type if mask else "float32")
                array = group.create_array(
                    array_name(band, kind),
                    shape=values.shape,
                    dtype=values.dtype,
                    chunks=tuple(min(chunk, n) for n in values.shape),
                    fill_value=0 if mask else np.nan,
                )
                array[...] = values
                if header_on == "array":
                    array.attrs["header"] = header
                elif "header" not in group.attrs:
                    group.attrs["header"] = header
