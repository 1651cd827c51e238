"""Find the files that a cube was measured from: where they were, or in another folder.

Only the very same files will do: one of the same place, size and time is taken to be the same,
any other is told by its sha256.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from idfzarr.build.scheduler import Task, run_tasks
from idfzarr.build.shard_tasks import refuse_failures
from idfzarr.errors import IdfzarrError, ImageMissing, UsageError
from idfzarr.imaging.fits_image import source_digest
from idfzarr.imaging.mosaic import discover

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from idfzarr.build.provenance import Measured
    from idfzarr.progress import Progress

__all__ = ["Found", "ImageFolder", "NotFound", "find_sources"]


@dataclass(frozen=True)
class Found:
    """Where the files of one mosaic, or of one AOR's tables, are now.

    Attributes
    ----------
    paths
        In the order in which the ledger names them.
    """

    paths: tuple[Path, ...]


@dataclass(frozen=True)
class NotFound:
    """Why a source cannot be had.

    Attributes
    ----------
    why
        ``missing``, or ``changed`` where a file of that name has another content.
    path
        The first such file.
    reason
        One sentence.
    """

    why: Literal["missing", "changed"]
    path: str
    reason: str


class ImageFolder:
    """A folder in which files are looked for by their names, or by AOR, channel and kind.

    Parameters
    ----------
    folder
        Searched with everything below it.

    Raises
    ------
    UsageError
        It is no folder.
    """

    def __init__(self, folder: str | Path) -> None:
        root = Path(folder)
        if not root.is_dir():
            msg = f"images to rebuild from are looked for in {root}, which is no folder"
            raise UsageError(msg)
        self._named: dict[str, list[Path]] = {}
        for path in sorted(root.rglob("*")):
            if path.is_file():
                self._named.setdefault(path.name, []).append(path)
        self._of_mosaics: dict[tuple[str, str, str], Path] = {}
        try:
            mosaics = discover(root)
        except IdfzarrError:
            return  # called in another way than mosaics usually are: their names must do
        for files in mosaics:
            for kind, path in files.paths.items():
                self._of_mosaics[files.aor, files.channel, kind] = path

    def candidates(self, told: Mapping[str, Any], file: Mapping[str, Any]) -> list[Path]:
        """Return the files that may be the one that the ledger tells of."""
        found = list(self._named.get(Path(str(file["path"])).name, []))
        key = str(told.get("aor")), str(told.get("channel")), str(file.get("kind"))
        named = self._of_mosaics.get(key)
        return found if named is None or named in found else [*found, named]


def find_sources(
    measured: Sequence[Measured],
    images: ImageFolder | None,
    *,
    by_size: bool = False,
    scheduler: Any = None,
    workers: int | None = None,
    progress: Progress,
) -> list[Found | NotFound]:
    """Find the files of every source.

    Parameters
    ----------
    measured
        The sources.
    images
        Where to look first; files at the places that the ledger names do too.
    by_size
        Take files of the right size for the right ones: what is foreseen need not be proved.
    scheduler, workers
        Where files are compared, see `idfzarr.build.scheduler.run_tasks`.
    progress
        Told of sources that were looked for.

    Returns
    -------
    list of Found or NotFound
        One for each source.

    Raises
    ------
    BuildFailed
        A file cannot be read.
    """
    tasks = []
    for source in measured:
        files = [
            (dict(file), [] if images is None else images.candidates(told, file))
            for told in source.told
            for file in told["files"]
        ]
        tasks.append(Task(source.name, _find, (source.name, files, by_size)))
    outcomes = run_tasks(
        "finding images", tasks, scheduler=scheduler, workers=workers, progress=progress
    )
    refuse_failures("finding images", outcomes)
    return [outcome.result for outcome in outcomes]


def _find(
    name: str,
    files: list[tuple[dict[str, Any], list[Path]]],
    by_size: bool,  # noqa: FBT001  # a task takes no keywords
) -> Found | NotFound:
    paths = []
    for file, candidates in files:
        changed: Path | None = None
        for path in dict.fromkeys([*candidates, Path(str(file["path"]))]):
            same = _is_same(path, file, by_size=by_size)
            if same:
                paths.append(path)
                break
            changed = changed or (None if same is None else path)
        else:
            return _not_found(name, file, changed)
    return Found(tuple(paths))


def _is_same(path: Path, file: Mapping[str, Any], *, by_size: bool) -> bool | None:
    """Say whether a file is the one that the ledger tells of; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    stamp = (str(path), status.st_size, status.st_mtime_ns)
    if stamp == (str(file["path"]), file["size"], file.get("mtime_ns")):
        return True
    if status.st_size != file["size"]:
        return False
    if by_size:
        return True
    try:
        return source_digest(path)[1] == str(file["sha256"])
    except ImageMissing:
        return None


def _not_found(name: str, file: Mapping[str, Any], changed: Path | None) -> NotFound:
    if changed is None:
        path = str(file["path"])
        return NotFound("missing", path, f"{path} of {name} is not there")
    reason = f"{changed} of {name} has another sha256 than the file that was measured"
    return NotFound("changed", str(changed), reason)
