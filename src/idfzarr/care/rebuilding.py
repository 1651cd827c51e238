"""The one door from care to the build: lightcurves measured again from the mosaics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from idfzarr.errors import CorruptError, IdfzarrError
from idfzarr.measurement import parse_measurement
from idfzarr.progress import silent
from idfzarr.store.arrays import read_array
from idfzarr.store.schema import CATALOGUE, SUPERSTACK
from idfzarr.store.tables import type_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from numpy.typing import NDArray

    from idfzarr.care.known_store import KnownStore
    from idfzarr.progress import Progress
    from idfzarr.store.place import Place

__all__ = [
    "FROM_HEADERS",
    "FROM_LIGHTCURVES",
    "Measured",
    "Source",
    "Sources",
    "find_sources",
    "made_anew",
    "measured_again",
    "rebuild",
    "recompute_statistics",
]

_OF_APERTURES = frozenset(["x", "y", "kron_a", "kron_b", "theta", "isolated", "fwhm"])
_OF_COMPARISON = "snr_"  # signal to noise by channel, which comparison stars are chosen by


@dataclass(frozen=True)
class Source:
    """A mosaic, or the tables of an AOR, that lightcurves were measured from.

    Attributes
    ----------
    name
        AOR and channel.
    types
        The types that come from it.
    why
        Why it cannot be had, in a sentence; empty where it seems that it can.
    """

    name: str
    types: frozenset[str]
    why: str = ""


@dataclass(frozen=True)
class Sources:
    """Whether lightcurves can be measured again, as far as names and sizes of files tell.

    Attributes
    ----------
    blocked
        Why none can; empty where some can.
    known
        Every source.
    """

    blocked: str = ""
    known: tuple[Source, ...] = ()

    def gone(self, types: Collection[str]) -> tuple[Source, ...]:
        """Return the sources without which lightcurves of some types would have to be done."""
        return tuple(one for one in self.known if one.why and one.types & set(types))

    def why_blocked(self, types: Collection[str]) -> str:
        """Say why no lightcurve of some types can be measured again; empty where some can."""
        of_types = [one for one in self.known if one.types & set(types)]
        if self.blocked or not of_types:
            return self.blocked or "the ledger names no source that they were measured from"
        return "" if any(not one.why for one in of_types) else of_types[0].why


@dataclass(frozen=True, eq=False)
class Measured:
    """Lightcurves that were measured again.

    Attributes
    ----------
    values
        (value, AOR) by number of the shard, row in it and place of the type.
    lost
        Sources without which it had to be done, and why.
    inexact
        Names of sources of which something was not found again to the last bit, as where packages
        have other versions than then: the values are right, but may differ in their last bits.
    """

    values: Mapping[tuple[int, int, int], NDArray[np.float32]]
    lost: tuple[Source, ...] = ()
    inexact: tuple[str, ...] = ()


def find_sources(
    known: KnownStore, images: str | None, *, damaged: Collection[str] = ()
) -> Sources:
    """Find out whether lightcurves can be measured again.

    Parameters
    ----------
    known
        The store.
    images
        Folder with the mosaics, if another than that which the ledger names.
    damaged
        Paths of arrays that are damaged and cannot be had back.
    """
    from idfzarr.build import source_files
    from idfzarr.build.provenance import read_history

    if known.root is None or known.schema is None:
        return Sources("the root of the store is lost")
    field = sorted(path for path in (*damaged, *_lost_before(known)) if _is_of_field(path))
    if field:
        return Sources(f"{field[0]}, which they are measured with, is damaged itself")
    try:
        history = read_history(known.state, known.root, known.schema)
        folder = None if images is None else source_files.ImageFolder(images)
        found = source_files.find_sources(history.measured, folder, by_size=True, progress=silent)
    except IdfzarrError as error:
        return Sources(str(error))
    if not history.measured:
        return Sources("the ledger names no mosaics that the store was made from")
    sources = [
        Source(
            one.name,
            frozenset(one.types),
            where.reason if isinstance(where, source_files.NotFound) else "",
        )
        for one, where in zip(history.measured, found, strict=True)
    ]
    every = frozenset(known.schema.types)
    sources += [
        Source(f"AOR {name}", every, f"the ledger names no source of AOR {name}")
        for name in history.unknown
    ]
    return Sources("", tuple(sources))


def _lost_before(known: KnownStore) -> list[str]:
    """Return the arrays that an earlier repair could not mend."""
    return [str(r.fields["lost"]) for r in known.state.of("note") if "lost" in r.fields]


def _is_of_field(path: str) -> bool:
    """Say whether apertures are frozen from an array, so that they need it whole."""
    group, _, name = path.partition("/")
    frozen = name in _OF_APERTURES or name.startswith(_OF_COMPARISON)
    return path.startswith(f"{SUPERSTACK}/") or (group == CATALOGUE and frozen)


def rebuild(
    place: Place,
    wanted: Mapping[int, Collection[tuple[int, int]]],
    *,
    images: str | None,
    progress: Progress,
) -> Measured:
    """Measure lightcurves again; nothing is written.

    Parameters
    ----------
    place
        The store.
    wanted
        Row in the shard and place of the type of each, by number of the shard.
    images
        Folder with the mosaics, if another than that which the ledger names.
    progress
        Told of mosaics measured.
    """
    from idfzarr.build.rebuild import rebuild_lightcurves

    found = rebuild_lightcurves(place, wanted, images=images, partial=True, progress=progress)
    values = {
        (shard, row, column): one
        for shard in found.shards
        for (row, column), one in found.chunks(shard).items()
    }
    lost = []
    for one in found.lost:
        name = f"AOR {one.aor}" + (f" in {one.channel}" if one.channel else "")
        lost.append(Source(name, _types_of(found.schema.types, one.channel), one.reason))
    return Measured(values, tuple(lost), found.inexact)


def _types_of(types: Collection[str], channel: str) -> frozenset[str]:
    """Return the types that are measured in a channel; all for an empty name of one."""
    return frozenset(t for t in types if not channel or parse_measurement(t).channel == channel)


def recompute_statistics(place: Place, *, progress: Progress) -> None:
    """Compute the statistics of all lightcurves anew."""
    from idfzarr.build.refresh import update_variability

    update_variability(place, progress=progress)


_MEASURED = ("dx", "dy", "offset_rms", "sky", "sky_rms", "n_hits")


def measured_again(known: KnownStore, path: str) -> NDArray[Any] | None:
    """Return what the ledger notes of every mosaic as it was measured, as an array of the cube.

    Parameters
    ----------
    known
        The store.
    path
        ``noise_scale`` (type, AOR), or a quantity (AOR, channel): ``dx``, ``dy``, ``sky``, ...

    Returns
    -------
    ndarray or None
        None where the ledger does not note it of every AOR.
    """
    from idfzarr.build.calibrate import measured_quantities, noise_scales

    schema, root = known.schema, known.root
    if schema is None or root is None or path not in {*_MEASURED, "noise_scale"}:
        return None
    told = measured_quantities(known.state)
    if not set(schema.aor_names) <= {aor for aor, _ in told}:
        return None
    if path == "noise_scale":
        return noise_scales(schema, told)
    channels = _channels(known)
    if channels is None:
        return None
    values = np.full((len(schema.aor_names), len(channels)), np.nan)
    for a, aor in enumerate(schema.aor_names):
        for c, channel in enumerate(channels):
            value = told.get((aor, channel), {}).get(path)
            if value is not None:
                values[a, c] = value
    return values


FROM_HEADERS = frozenset(["mjd", "exptime", "bjd_tdb", "aor"])
"""Arrays that are read again from the headers of the mosaics and the table of AORs."""

FROM_LIGHTCURVES = frozenset(["zeropoint", "zeropoint_err", f"{CATALOGUE}/comparison_flux"])
"""Arrays that are found again from the lightcurves, which must be whole."""


def made_anew(known: KnownStore, path: str, images: str | None) -> NDArray[Any] | None:
    """Return an array as a build would make it from what the cube was made from.

    Parameters
    ----------
    known
        The store.
    path
        One of `FROM_HEADERS` or `FROM_LIGHTCURVES`.
    images
        Folder with the mosaics, if another than that which the ledger names.

    Returns
    -------
    ndarray or None
        None where what it is made from is gone or damaged itself.
    """
    if path not in FROM_HEADERS | FROM_LIGHTCURVES:
        return None
    from idfzarr.build.rebuild_columns import rebuild_coordinates

    together = [[path]]
    if path in FROM_HEADERS:  # the reqkeys that they are compared with may be damaged too
        together.append([path, "aor"])
    for paths in together:
        try:
            found = rebuild_coordinates(known.place, paths, images=images)
        except CorruptError:
            continue
        except (IdfzarrError, OSError):
            return None
        return None if path in found.inexact else found.values[path]
    return None


def _channels(known: KnownStore) -> list[str] | None:
    """Return the names of the channels in order."""
    if known.root is None or known.schema is None:
        return None
    try:
        return list(read_array(known.reading, "channel", known.root.metadata["channel"]))
    except (IdfzarrError, OSError):
        columns = type_table(known.schema.types).columns
        names = list(dict.fromkeys(columns["type_channel"].tolist()))
        return names if len(names) == known.root.metadata["channel"]["shape"][0] else None
