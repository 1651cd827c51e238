"""Where the values of a damaged plain array can be had from: a second copy of the same thing.

Names stand in the attributes of the cube too, positions and ids in the catalogue too, noise scales
in the ledger. A derived array is believed only where the chunks that are still intact say the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.care.rebuilding import FROM_LIGHTCURVES, made_anew, measured_again
from idfzarr.errors import IdfzarrError
from idfzarr.store.arrays import decode_chunk, encode_array, parse_array, read_array
from idfzarr.store.checksum import is_intact
from idfzarr.store.schema import CATALOGUE, LIGHTCURVES, VARIABILITY
from idfzarr.store.tables import type_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from idfzarr.care.known_store import KnownStore
    from idfzarr.store.arrays import ArraySpec

__all__ = ["Found", "find_values", "is_recomputed", "mended_chunks"]

_TWINS = {"object": f"{CATALOGUE}/object_id"} | {
    name: f"{CATALOGUE}/{name}" for name in ("ra", "dec", "x", "y")
}
_TWIN_OF = _TWINS | {twin: name for name, twin in _TWINS.items()}
_OF_TYPES = ("type_channel", "type_image", "type_method")


@dataclass(frozen=True, eq=False)
class Found:
    """Values of a damaged array.

    Attributes
    ----------
    values
        All of it; None where it cannot be had.
    source
        Where it was found, or why it was not.
    fills
        Whether what is lost can be shown as NaN.
    """

    values: NDArray[Any] | None
    source: str
    fills: bool = False


def is_recomputed(path: str) -> bool:
    """Say whether an array follows from the lightcurves."""
    return path.split("/", 1)[0] == VARIABILITY


def find_values(known: KnownStore, path: str, images: str | None = None) -> Found:
    """Find the values of a damaged array elsewhere.

    Parameters
    ----------
    known
        The store.
    path
        Of the array.
    images
        Folder with the mosaics, if another than that which the ledger names.

    Returns
    -------
    Found
        With values that its intact chunks agree with, or without any.
    """
    spec = _spec(known, path)
    if spec is None:
        return Found(None, f"{path} is in chunks or codecs that idfzarr does not write")
    derived = _derive(known, path) or _from_build(known, path, images)
    fills = spec.dtype.startswith("float")
    if derived is None:
        filled = "; what is damaged of it becomes NaN" if fills else ""
        return Found(None, f"there is no second copy of {path}{filled}", fills)
    values, source = derived
    if values.shape != spec.shape or not _agrees(known, spec, values):
        return Found(None, f"{path} and its second copy in {source} differ", fills)
    return Found(values, source, fills)


def _spec(known: KnownStore, path: str) -> ArraySpec | None:
    if known.root is None or not known.root.is_array(path):
        return None
    try:
        return parse_array(path, known.root.metadata[path])
    except IdfzarrError:
        return None


def _derive(known: KnownStore, path: str) -> tuple[NDArray[Any], str] | None:
    """Return the values of an array and where they were found, from the first place that has it."""
    attributes = (
        known.root.metadata.get(LIGHTCURVES, {}).get("attributes", {}) if known.root else {}
    )
    for look in (_from_attributes, _from_twin, _from_names, _from_ledger):
        found = look(known, path, attributes)
        if found is not None:
            return found
    return None


def _from_attributes(
    known: KnownStore, path: str, attributes: Mapping[str, Any]
) -> tuple[NDArray[Any], str] | None:
    told = f"the attributes of {LIGHTCURVES}"
    if path in {"type", "value", "aor_name"} and isinstance(attributes.get(path), list):
        return np.array(attributes[path], dtype=str), told
    if path == "unit" and isinstance(attributes.get("units"), str) and known.schema:
        return np.array([attributes["units"]] * known.schema.layout.n_types, dtype=str), told
    return None


def _from_twin(
    known: KnownStore,
    path: str,
    attributes: Mapping[str, Any],  # noqa: ARG001  # all places are looked at alike
) -> tuple[NDArray[Any], str] | None:
    twin = _TWIN_OF.get(path, "")
    if known.root is None or not known.root.is_array(twin):
        return None
    try:
        return read_array(known.reading, twin, known.root.metadata[twin]), twin
    except (IdfzarrError, OSError):
        return None


def _from_names(
    known: KnownStore,  # noqa: ARG001  # all places are looked at alike
    path: str,
    attributes: Mapping[str, Any],
) -> tuple[NDArray[Any], str] | None:
    names = attributes.get("type")
    if path not in {*_OF_TYPES, "channel"} or not isinstance(names, list):
        return None
    columns = type_table([str(name) for name in names]).columns
    if path == "channel":
        return np.array(list(dict.fromkeys(columns["type_channel"].tolist()))), "the types"
    return columns[path], "the names of the types"


def _from_ledger(
    known: KnownStore,
    path: str,
    attributes: Mapping[str, Any],  # noqa: ARG001  # all places are looked at alike
) -> tuple[NDArray[Any], str] | None:
    values = measured_again(known, path)
    return None if values is None else (values, "the ledger")


def _from_build(
    known: KnownStore, path: str, images: str | None
) -> tuple[NDArray[Any], str] | None:
    values = made_anew(known, path, images)
    told = "the lightcurves" if path in FROM_LIGHTCURVES else "the headers of the mosaics"
    return None if values is None else (values, told)


def _agrees(known: KnownStore, spec: ArraySpec, values: NDArray[Any]) -> bool:
    """Say whether the chunks that are intact hold these values."""
    for key, data in encode_array(spec, values):
        there = _intact(known, spec, key)
        if there is None:
            continue
        wanted = decode_chunk(spec, data, where=key)
        if spec.dtype == "string" or not spec.dtype.startswith("float"):
            same = np.array_equal(there, wanted)
        else:
            same = there.tobytes() == wanted.tobytes()
        if not same:
            return False
    return True


def _intact(known: KnownStore, spec: ArraySpec, key: str) -> NDArray[Any] | None:
    try:
        data = known.reading.read(key)
        return decode_chunk(spec, data, where=key) if is_intact(data) else None
    except (OSError, IdfzarrError):
        return None


def mended_chunks(known: KnownStore, path: str, found: Found) -> dict[str, bytes]:
    """Return the bytes of those chunks of an array that are damaged or gone.

    Parameters
    ----------
    known
        The store.
    path
        Of the array.
    found
        Its values; where there are none and it is of floats, NaN.

    Returns
    -------
    dict
        Bytes by key.
    """
    spec = _spec(known, path)
    if spec is None or (found.values is None and not found.fills):
        return {}
    values = np.full(spec.shape, np.nan) if found.values is None else found.values
    return {
        key: data for key, data in encode_array(spec, values) if _intact(known, spec, key) is None
    }
