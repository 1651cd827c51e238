"""Files of the survey that lie on a disk already: found by name, believed by header only.

Folders are those that the person who asks has named. Nothing outside them is opened, whatever links
lead there; what a file is stands in its header (`idfzarr.ps1.fits_check`), never in its name alone.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from idfzarr.errors import ImageUnreadable, UsageError
from idfzarr.ps1.mirrors import file_name
from idfzarr.ps1.names import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from idfzarr.ps1.sky_keys import SkyArray

__all__ = ["DEFAULT_TEMPLATES", "EXTENSIONS", "LocalFiles", "opened_inside"]

EXTENSIONS = (".fits", ".fits.fz", ".fits.gz")
"""How files end, in the order in which they are tried."""

DEFAULT_TEMPLATES = (
    "{projection}/{cell}/{stem}",
    "{stem}",
    "rings.v3.skycell/{projection}/{cell}/{stem}",
    "{projection}/{stem}",
    "{skycell}/{stem}",
    "{projection}/{skycell}/{stem}",
)
"""Where files are looked for below a folder: as the archive and the earlier toolkit lay them out,
all in one folder, or a folder a skycell. Where they are in none of these places, any folder below
is searched for the archive's name."""

_FIELDS = ("projection", "cell", "skycell", "band", "kind", "suffix", "stem", "file")
_SUFFIX = {"image": "", "mask": ".mask", "weight": ".wt"}
_MOST_FOUND = 2_000_000


@dataclass(frozen=True)
class LocalFiles:
    """Folders with files of the survey.

    Attributes
    ----------
    roots
        The folders, resolved.
    templates
        Paths below them, see `LocalFiles.of`.
    index
        Files below the folders under the archive's own names, wherever they are.
    """

    roots: tuple[Path, ...]
    templates: tuple[str, ...]
    index: dict[str, tuple[Path, ...]]

    @classmethod
    def of(
        cls,
        folders: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
        templates: Sequence[str] = (),
    ) -> LocalFiles:
        """Look through folders.

        Parameters
        ----------
        folders
            One or several; those that are not there count as empty.
        templates
            Paths below the folders, tried before `DEFAULT_TEMPLATES`: with ``{projection}``
            (0635), ``{cell}`` (053), ``{skycell}``, ``{band}``, ``{kind}``, ``{suffix}`` (nothing,
            ``.mask`` or ``.wt``), ``{stem}`` and ``{file}`` (the archive's name without and with
            ``.fits``), and with the wildcards ``*``, ``?`` and ``**``. Where a template does not
            end in a known extension, all are tried.

        Raises
        ------
        UsageError
            A template leads out of the folder, or has a field that there is not.
        """
        given = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
        roots = tuple(dict.fromkeys(Path(folder).resolve() for folder in given))
        for template in templates:
            _check_template(template)
        return cls(roots, (*templates, *DEFAULT_TEMPLATES), _index(roots))

    @property
    def present(self) -> bool:
        """Whether any of the folders is there."""
        return any(root.is_dir() for root in self.roots)

    def candidates(self, array: SkyArray) -> list[Path]:
        """Return the files that may hold an array, those most likely first.

        Parameters
        ----------
        array
            Which one.
        """
        found: dict[Path, None] = {}
        for root in self.roots:
            for template in self.templates:
                for path in _filled(root, template, array):
                    found.setdefault(path)
        stem = file_name(array).removesuffix(".fits")
        for extension in EXTENSIONS:
            for path in self.index.get(stem + extension, ()):
                found.setdefault(path)
        return list(found)


def _check_template(template: str) -> None:
    try:
        filled = template.format(**dict.fromkeys(_FIELDS, "x"))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        msg = (
            f"the template {template[:120]!r} of local files cannot be filled in ({error}): fields "
            f"are {', '.join('{' + name + '}' for name in _FIELDS)}"
        )
        raise UsageError(msg) from error
    parts = Path(filled).parts
    if not parts or Path(filled).is_absolute() or ".." in parts or "\0" in filled:
        msg = (
            f"the template {template[:120]!r} of local files leads out of the folder: give a path "
            "below it"
        )
        raise UsageError(msg)


def _filled(root: Path, template: str, array: SkyArray) -> Iterator[Path]:
    cell = parse(array.name)
    name = file_name(array)
    values = {
        "projection": f"{cell.projection:04d}",
        "cell": f"{cell.cell:03d}",
        "skycell": array.name,
        "band": array.band,
        "kind": array.kind,
        "suffix": _SUFFIX[array.kind],
        "stem": name.removesuffix(".fits"),
        "file": name,
    }
    wild = has_magic(template)
    filled = template.format(**({k: escape(v) for k, v in values.items()} if wild else values))
    known = filled.endswith(EXTENSIONS)
    for path in [filled] if known else [filled + extension for extension in EXTENSIONS]:
        if wild:
            yield from sorted(p for p in root.glob(path) if p.is_file())
        elif (root / path).is_file():
            yield root / path


def _index(roots: Sequence[Path]) -> dict[str, tuple[Path, ...]]:
    """Return files under the archive's names by name; links to folders are not followed."""
    found: dict[str, list[Path]] = {}
    count = 0
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(files):
                count += 1
                if count > _MOST_FOUND:
                    msg = f"{root} holds more than {_MOST_FOUND} files: name a folder of skycells"
                    raise UsageError(msg)
                if name.startswith("rings.v3.skycell.") and name.endswith(EXTENSIONS):
                    found.setdefault(name, []).append(Path(folder, name))
    return {name: tuple(paths) for name, paths in found.items()}


@contextmanager
def opened_inside(path: Path, roots: Sequence[Path]) -> Iterator[int]:
    """Open a plain file that lies in one of some folders, wherever links to it lie.

    Parameters
    ----------
    path
        Of the file.
    roots
        Folders, resolved.

    Yields
    ------
    int
        The open file.

    Raises
    ------
    ImageUnreadable
        It leads outside, is no plain file, or cannot be opened.
    """
    try:
        # What is opened is the resolved path, and at its end no further link.
        real = Path(os.path.realpath(path, strict=True))
        if not any(real.is_relative_to(root) for root in roots):
            msg = f"{path} is a link that leads out of the folder, to {real}: it is not followed"
            raise ImageUnreadable(msg)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(real, flags)
    except OSError as error:
        msg = f"{path} cannot be opened: {error.strerror or error}"
        raise ImageUnreadable(msg) from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            msg = f"{path} is no plain file"
            raise ImageUnreadable(msg)
        yield handle
    finally:
        os.close(handle)
