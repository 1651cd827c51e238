"""Where the mosaics are that a store was made from, as far as they are still there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idfzarr.store.ledger import read_ledger
from idfzarr.store.place import LocalPlace, place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from idfzarr.store.cube import Cube
    from idfzarr.store.ledger import LedgerState

__all__ = ["FieldSources", "SourceMosaic"]

# The file of a truth that is written when all else is there, see idfzarr.imaging.simulated_truth;
# that module brings half of astropy along, for which the first page would have to wait.
_TRUTH = "truth.ecsv"


@dataclass(frozen=True)
class SourceMosaic:
    """The mosaic of one AOR and channel.

    Attributes
    ----------
    path
        Where the ledger says its image is.
    elsewhere
        Where else it may be by now: in a folder of the same name beside the store.
    size
        Bytes it had.
    """

    path: Path
    elsewhere: Path
    size: int

    def found(self) -> Path | None:
        """Return where a file of that size is now; None where there is none."""
        for path in (self.path, self.elsewhere):
            try:
                if path.is_file() and path.stat().st_size == self.size:
                    return path
            except OSError:
                continue  # a folder that may not be looked into is as good as none
        return None


@dataclass(frozen=True)
class FieldSources:
    """The mosaics of a store.

    Attributes
    ----------
    mosaics
        By name of the AOR and channel.
    truth_folder
        Where the truth of a simulated field is; None where there is none.
    """

    mosaics: Mapping[tuple[str, str], SourceMosaic] = field(default_factory=dict)
    truth_folder: Path | None = None

    @classmethod
    def of(cls, cube: Cube, *, asked_truth: str | Path | None = None) -> FieldSources:
        """Read the ledger of a store; on object storage nothing is looked for."""
        place = place_of(cube.path)
        if not isinstance(place, LocalPlace):
            return cls(truth_folder=None if asked_truth is None else Path(asked_truth))
        above = Path(place.root).absolute().parent
        mosaics = _mosaics(read_ledger(place).for_store(cube.uuid), above)
        if asked_truth is not None:
            return cls(mosaics, Path(asked_truth))
        folders = dict.fromkeys(
            folder for one in mosaics.values() for folder in (one.path.parent, one.elsewhere.parent)
        )
        return cls(mosaics, _truth_folder([*folders, above]))


def _mosaics(state: LedgerState, above: Path) -> dict[tuple[str, str], SourceMosaic]:
    found = {}
    for record in state.of("registered", "staged"):
        told = record.fields
        sources = [told] if record.kind == "registered" else told.get("sources") or ()
        for source in sources:
            image = _image_of(source)
            if image is not None:
                path = Path(str(image["path"]))
                key = str(source.get("aor")), str(source.get("channel"))
                elsewhere = above / path.parent.name / path.name
                found[key] = SourceMosaic(path, elsewhere, int(image["size"]))
    return found


def _image_of(source: Any) -> Mapping[str, Any] | None:
    """Return what a record tells of the image itself, not of its errors or coverage."""
    files = source.get("files") if isinstance(source, dict) else None
    for file in files or ():
        if isinstance(file, dict) and file.get("kind") == "sci" and {"path", "size"} <= set(file):
            return file
    return None


def _truth_folder(folders: Iterable[Path]) -> Path | None:
    for folder in folders:
        try:
            if (folder / _TRUTH).is_file():
                return folder
        except OSError:
            continue
    return None
