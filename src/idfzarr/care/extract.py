"""Take skycells out of a store, as FITS.

A file is written as the archive served it, or anew: header repaired, pixels as asinh integers or
as flux in microjansky, compressed without loss or plain. Every file appears whole or not at all,
and none is replaced unless that is asked for.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from idfzarr.care.fits_files import image_file, served_file
from idfzarr.errors import IdfzarrError, StorageFull, StoreExists, UnknownName, UsageError, closest
from idfzarr.imaging.fits_image import silent_astropy
from idfzarr.progress import Progress, silent
from idfzarr.ps1.headers import as_served, linear, repaired
from idfzarr.ps1.names import parse
from idfzarr.ps1.old_layouts import open_skystore
from idfzarr.ps1.pixels import Scaling, flux_of_disk, sigma_of_disk
from idfzarr.ps1.sky_keys import BANDS, KINDS, SkyArray, array_name
from idfzarr.store.place import LocalPlace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from idfzarr.ps1.sky_keys import Kind, SkycellReader

__all__ = [
    "Extracted",
    "PixelForm",
    "choose_arrays",
    "extract_array",
    "extract_many",
    "fits_bytes",
    "refuse_inside",
    "write_new",
]

PixelForm = Literal["asinh", "linear", "served"]
"""``asinh``: integers and their scaling, header repaired; ``linear``: flux in microjansky, of a
weight the standard deviation; ``served``: pixels and cards as the archive served them."""

_SERVED = {"image": "", "mask": ".mask", "weight": ".wt"}


@dataclass(frozen=True)
class Extracted:
    """What became of one array.

    Attributes
    ----------
    skycell, band, kind
        Which.
    path
        The file.
    result
        ``written``, ``there`` (a file of that name, which stays) or ``failed``.
    message
        Why it failed.
    n_bytes
        Of the file.
    identical
        Whether it is byte for byte the file that was fetched; None where that is not known.
    """

    skycell: str
    band: str
    kind: str
    path: str
    result: Literal["written", "there", "failed"]
    message: str = ""
    n_bytes: int = 0
    identical: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return dict(vars(self))


def choose_arrays(
    reader: SkycellReader,
    skycells: str = "*",
    *,
    bands: str | Iterable[str] = BANDS,
    kinds: Sequence[Kind] = KINDS,
) -> list[SkyArray]:
    """Return the arrays of a store that are asked for.

    Parameters
    ----------
    reader
        The store.
    skycells
        Name or glob.
    bands, kinds
        Which of them.

    Raises
    ------
    UnknownName
        No skycell of the store matches, or none of its arrays does.
    UsageError
        There is no such band or kind.
    """
    for band in bands:
        array_name(band, "image")
    for kind in kinds:
        array_name("g", kind)
    pattern = _pattern(skycells)
    there = [one for one in reader.arrays(pattern) if fnmatchcase(one.name, pattern)]
    if not there:
        names = {one.name for one in reader.arrays()}
        near = closest(pattern, names)
        msg = f"no skycell in {reader.url} is called {skycells}{near}; --list says what is there"
        raise UnknownName(msg)
    wanted = [one for one in there if one.band in bands and one.kind in kinds]
    if not wanted:
        held = sorted({array_name(one.band, one.kind) for one in there})
        asked = sorted({array_name(band, kind) for band in bands for kind in kinds})
        msg = (
            f"{skycells} in {reader.url} has no array {', '.join(asked)}; it has {', '.join(held)}"
        )
        raise UnknownName(msg)
    return sorted(wanted)


def _pattern(skycells: str) -> str:
    """Return the glob for a name that is written in any of the ways people write it."""
    if set(skycells) & set("*?["):
        return skycells if skycells.startswith(("skycell", "*")) else f"skycell.{skycells}"
    return parse(skycells).name


def fits_bytes(
    reader: SkycellReader, array: SkyArray, *, form: PixelForm = "asinh", compress: bool = True
) -> bytes:
    """Return one array as a FITS file.

    Parameters
    ----------
    reader
        The store.
    array
        Which.
    form
        What pixels and header are to be; a mask is never scaled.
    compress
        Tile-compressed, without loss; as served it is what it was.

    Raises
    ------
    UsageError
        As served, and the integers are lost.
    CorruptError
        The array is damaged.
    ImageUnreadable
        Its header cannot be used.
    """
    name, band, kind = array.name, array.band, array.kind
    attributes = reader.attributes(name, band, kind)
    pixels = reader.read(name, band, kind)
    if form == "served":
        if attributes.get("provenance", {}).get("source") == "migrated":
            msg = (
                f"{array} of {reader.url} came from a store in an earlier layout, which had lost "
                "the header as served: leave out --as-served, or fetch it again"
            )
            raise UsageError(msg)
        return served_file(pixels, attributes, where=f"{array} of {reader.url}")
    cards = [str(card) for card in attributes["header"]]
    whole = any(card.startswith(("NAXIS1  =", "ZNAXIS1 =")) for card in cards)
    header = repaired(as_served(cards) if whole else _bare_header(attributes))
    if form == "linear" and kind != "mask":
        scaling = Scaling.from_header(attributes["scale"], where=str(array))
        decode = flux_of_disk if kind == "image" else sigma_of_disk
        pixels = decode(pixels, scaling).astype(np.float32)
        header = linear(header)
    return image_file(header, pixels, compress=compress)


def _bare_header(attributes: dict[str, Any]) -> Any:
    """Return what is known of an image whose header is lost."""
    from astropy.io.fits import Header

    with silent_astropy():
        return Header({**attributes.get("wcs", {}), **attributes.get("scale", {})})


def refuse_inside(path: Path, url: str) -> None:
    """Refuse to write into the store that is read, its ledger, its quarantine or the notes on it.

    Raises
    ------
    UsageError
        The file would lie there.
    """
    target = path.resolve()
    for suffix in ("", ".ledger", ".quarantine", ".notes"):
        if target.is_relative_to(Path(f"{url.rstrip('/')}{suffix}").resolve()):
            msg = f"{path} lies in the store {url} or beside it in what is its own: name another"
            raise UsageError(msg)


def write_new(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a file, all or nothing, on disk when this returns.

    Raises
    ------
    StoreExists
        There is one, and it is not to be replaced.
    StorageFull
        The disk is full; nothing is left.
    """
    if path.is_dir() or (not overwrite and os.path.lexists(path)):
        what = "is a folder" if path.is_dir() else "is there already; add --overwrite"
        msg = f"{path} {what}"
        raise StoreExists(msg)
    LocalPlace(os.path.abspath(path.parent)).write(path.name, data)


def extract_array(
    store: str | os.PathLike[str] | SkycellReader,
    skycell: str,
    band: str,
    kind: Kind = "image",
    *,
    output: str | os.PathLike[str] | None = None,
    form: PixelForm = "asinh",
    compress: bool = True,
    overwrite: bool = False,
) -> Extracted:
    """Write one array of a skycell to a FITS file.

    Parameters
    ----------
    store
        Path or URL, or what is open already.
    skycell, band, kind
        Which array.
    output
        The file; ``{skycell}_{band}.fits``, ``_mask`` or ``_wt`` added, here unless given, and as
        served the archive's own name.
    form, compress
        As of `fits_bytes`.
    overwrite
        Replace a file that is there.

    Returns
    -------
    Extracted
        ``written``.

    Raises
    ------
    UnknownName
        The store has no such array.
    StoreExists
        The file is there.
    CorruptError, ImageUnreadable, UsageError
        As of `fits_bytes`.
    """
    reader = open_skystore(store)
    array = choose_arrays(reader, parse(skycell).name, bands=(band,), kinds=(kind,))[0]
    path = Path(output) if output is not None else Path(_file_name(array, form))
    return _extracted(reader, array, path, form=form, compress=compress, overwrite=overwrite)


def extract_many(
    store: str | os.PathLike[str] | SkycellReader,
    skycells: str = "*",
    *,
    bands: str | Iterable[str] = BANDS,
    kinds: Sequence[Kind] = KINDS,
    output_dir: str | os.PathLike[str] = "extracted_fits",
    form: PixelForm = "asinh",
    compress: bool = True,
    overwrite: bool = False,
    progress: Progress = silent,
) -> tuple[Extracted, ...]:
    """Write arrays of many skycells to FITS files, each skycell in a folder of its own.

    Parameters
    ----------
    store
        Path or URL, or what is open already.
    skycells
        Name or glob.
    bands, kinds
        Which arrays.
    output_dir
        Where the folders go.
    form, compress, overwrite
        As of `extract_array`; without `overwrite` files that are there stay. What a call that was
        killed left half written is removed.
    progress
        Told files.

    Returns
    -------
    tuple of Extracted
        One for every array; those that failed say why, the others are written all the same.

    Raises
    ------
    UnknownName
        The store has nothing of the kind.
    StorageFull
        The disk is full.
    """
    reader = open_skystore(store)
    bands = tuple(bands)
    chosen = choose_arrays(reader, skycells, bands=bands, kinds=kinds)
    for name in {array.name for array in chosen}:
        folder = Path(output_dir) / name
        refuse_inside(folder, reader.url)
        LocalPlace(os.path.abspath(folder)).remove_abandoned()
    made = []
    for number, array in enumerate(chosen, start=1):
        path = Path(output_dir) / array.name / _file_name(array, form)
        try:
            made.append(
                _extracted(reader, array, path, form=form, compress=compress, overwrite=overwrite)
            )
        except StorageFull:
            raise
        except StoreExists as error:
            made.append(_told(array, path, "there", str(error)))
        except IdfzarrError as error:
            made.append(_told(array, path, "failed", str(error)))
        progress("extracting", number, len(chosen))
    return tuple(made)


def _told(
    array: SkyArray, path: Path, result: Literal["there", "failed"], message: str
) -> Extracted:
    return Extracted(array.name, array.band, array.kind, str(path), result, message)


def _file_name(array: SkyArray, form: PixelForm) -> str:
    if form == "served":
        suffix = _SERVED[array.kind]
        return f"rings.v3.{array.name}.stk.{array.band}.unconv{suffix}.fits"
    return f"{array.name}_{array_name(array.band, array.kind)}.fits"


def _extracted(
    reader: SkycellReader,
    array: SkyArray,
    path: Path,
    *,
    form: PixelForm,
    compress: bool,
    overwrite: bool,
) -> Extracted:
    refuse_inside(path, reader.url)
    if not overwrite and os.path.lexists(path):  # before the work, not only after it
        write_new(path, b"", overwrite=False)
    data = fits_bytes(reader, array, form=form, compress=compress)
    write_new(path, data, overwrite=overwrite)
    identical = None
    if form == "served":
        provenance = reader.attributes(array.name, array.band, array.kind).get("provenance", {})
        digest = provenance.get("sha256")
        identical = None if digest is None else hashlib.sha256(data).hexdigest() == digest
    return Extracted(
        array.name, array.band, array.kind, str(path), "written", "", len(data), identical
    )
