"""Every error this package raises on purpose.

::

    IdfzarrError
      * UsageError              what was asked cannot be asked (also ValueError)
        + UnknownName           no such object, type, AOR, column (also KeyError)
        + ShardCut              a region would cut a shard
      * StoreError              the store is not what it must be
        + StoreMissing          nothing there
        + ForeignStore          there, but not one of ours
        + FormatVersionError    ours, from another format version
        + UnfinishedStore       ours, build not published yet
        + SettingsDiffer        other settings, or other sources, than it was made with
        + StoreExists           something is there that must not be overwritten
      * CorruptError            bytes that do not match their checksum or their description
        + ChunkCorrupt          one chunk of one shard
        + ShardCorrupt          the index of a shard, or the whole of it
        + MetadataCorrupt       a zarr.json or a coordinate
        + ChunkMissing          a chunk that the ledger calls done is not there
      * ImageError              an image that cannot be used
        + ImageMissing          sci, unc, ... that is not there
        + ImageShape            shapes that differ
        + ImageUnreadable       truncated, not FITS, no image, all NaN
        + DuplicateMosaic       two mosaics for one AOR and channel
        + RegistrationFailed    no alignment with the field
      * AorTableError           the AOR table and the images disagree
      * NoSkyCoordinates        sky asked of a field whose frames have no WCS
      * StorageFull             the disk is full, or the quota is
      * BuildFailed             tasks failed; the report says which
      * MissingExtra            an optional package is not installed

Catch `IdfzarrError` for all of them. ``kind`` is the stable name that programs may match on;
the sentence is for people and says what was asked, where, what was found and what to do.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AorTableError",
    "BuildFailed",
    "ChunkCorrupt",
    "ChunkMissing",
    "CorruptError",
    "DuplicateMosaic",
    "ForeignStore",
    "FormatVersionError",
    "IdfzarrError",
    "ImageError",
    "ImageMissing",
    "ImageShape",
    "ImageUnreadable",
    "MetadataCorrupt",
    "MissingExtra",
    "NoSkyCoordinates",
    "RegistrationFailed",
    "SettingsDiffer",
    "ShardCorrupt",
    "ShardCut",
    "StorageFull",
    "StoreError",
    "StoreExists",
    "StoreMissing",
    "UnfinishedStore",
    "UnknownName",
    "UsageError",
    "closest",
]


class IdfzarrError(Exception):
    """Root of every error this package raises on purpose.

    Attributes
    ----------
    kind
        Stable name of the failure, for programs.
    exit_code
        What the command line returns for it (0 well, 1 findings or failed tasks, 2 usage,
        3 the store is missing or not one of ours).
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1


class UsageError(IdfzarrError, ValueError):
    """What was asked cannot be asked."""

    kind = "usage"
    exit_code = 2


class UnknownName(UsageError, KeyError):
    """No object, type, AOR or column of that name."""

    kind = "unknown_name"

    def __str__(self) -> str:
        # KeyError prints the repr of its argument; people read sentences.
        return str(self.args[0]) if self.args else ""


class ShardCut(UsageError):
    """A region would cut a shard, which two writers could then lose."""

    kind = "shard_cut"


class StoreError(IdfzarrError):
    """The store is not what it must be."""

    kind = "store"
    exit_code = 3


class StoreMissing(StoreError, FileNotFoundError):
    """There is no store at this place."""

    kind = "store_missing"


class ForeignStore(StoreError):
    """There is something, but it is not a store of this package."""

    kind = "store_foreign"


class FormatVersionError(StoreError):
    """The store is ours, but of a format version that this package does not read."""

    kind = "format_version"


class UnfinishedStore(StoreError):
    """The store is ours and its build has not been published yet."""

    kind = "store_unfinished"


class SettingsDiffer(StoreError):
    """The store was made with other settings, or from other source files."""

    kind = "settings_differ"
    exit_code = 2


class StoreExists(StoreError, FileExistsError):
    """Something is there that must not be overwritten."""

    kind = "store_exists"
    exit_code = 2


class CorruptError(IdfzarrError):
    """Bytes that do not match their checksum or their description."""

    kind = "corrupt"


class ChunkCorrupt(CorruptError):
    """One chunk of one shard is damaged."""

    kind = "chunk_corrupt"


class ShardCorrupt(CorruptError):
    """The index of a shard, or the whole of it, is damaged."""

    kind = "shard_corrupt"


class MetadataCorrupt(CorruptError):
    """A ``zarr.json``, a coordinate or a ledger line is damaged."""

    kind = "metadata_corrupt"


class ChunkMissing(CorruptError):
    """A chunk that must be there is not there."""

    kind = "chunk_missing"


class ImageError(IdfzarrError):
    """An image that cannot be used."""

    kind = "image"


class ImageMissing(ImageError, FileNotFoundError):
    """An image that the work needs is not there."""

    kind = "image_missing"


class ImageShape(ImageError):
    """Images that belong together differ in shape."""

    kind = "image_shape"


class ImageUnreadable(ImageError):
    """Truncated, not FITS, without an image, or without one finite pixel."""

    kind = "image_unreadable"


class DuplicateMosaic(ImageError):
    """Two mosaics claim one AOR, channel and kind."""

    kind = "image_duplicate"


class RegistrationFailed(ImageError):
    """A mosaic could not be aligned with the field."""

    kind = "registration"


class AorTableError(IdfzarrError):
    """The AOR table lacks what it must have, or disagrees with the images."""

    kind = "aor_table"


class NoSkyCoordinates(IdfzarrError):
    """A position on the sky was asked of a field whose frames have no WCS."""

    kind = "no_sky"
    exit_code = 2


class StorageFull(IdfzarrError, OSError):
    """The disk is full, or the quota is."""

    kind = "storage_full"


class BuildFailed(IdfzarrError):
    """Tasks of a build failed; the report names them."""

    kind = "build_failed"


class MissingExtra(IdfzarrError, ImportError):
    """An optional package is not installed."""

    kind = "missing_extra"
    exit_code = 2


def closest(name: object, known: Iterable[object], *, count: int = 3) -> str:
    """Say which known names come nearest, as the tail of an error's sentence.

    Parameters
    ----------
    name
        What was asked for.
    known
        The names that exist.
    count
        How many to suggest at most.

    Returns
    -------
    str
        ``"; nearest: 'a', 'b'"``, or an empty string where nothing comes near.

    Examples
    --------
    >>> closest("ch1_atuo_original", ["ch1_auto_original", "ch2_iso_clean"])
    "; nearest: 'ch1_auto_original'"
    """
    near = get_close_matches(str(name), [str(k) for k in known], n=count, cutoff=0.5)
    return "; nearest: " + ", ".join(repr(n) for n in near) if near else ""
