"""Which files of a folder are mosaics, and of which AOR, channel and kind.

A name pattern with named fields says how files are called. All of it must match the whole name, so
a derived file that lies beside its source (``IDF_gr1_ch1_sci_clean.fits``) is never taken for it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from idfzarr.errors import DuplicateMosaic, ImageMissing, UsageError, closest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "DEFAULT_PATTERN",
    "KINDS",
    "MosaicFiles",
    "Skipped",
    "check_kinds",
    "discover",
    "natural",
]

DEFAULT_PATTERN = "IDF_{aor}_{channel}_{kind}.fits"
"""How the mosaics of the IRAC Dark Field are called; ``aor`` is then ``gr`` and digits."""

KINDS: tuple[str, ...] = ("sci", "unc", "cov", "mask")
"""The image itself, its uncertainty, its coverage, its mask of bad pixels."""

_FIELD = r"[A-Za-z0-9.+-]+?"
_CHANNEL = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_DEFAULT = re.compile(
    r"IDF_(?P<aor>gr\d+)_(?P<channel>[A-Za-z][A-Za-z0-9]*)_(?P<kind>sci|unc|cov|mask)"
    r"\.fits(?:\.gz|\.fz)?"
)
_FITS = re.compile(r"\.(fits|fit|fts)(\.gz|\.fz)?$", re.IGNORECASE)

Kind = Literal["sci", "unc", "cov", "mask"]


@dataclass(frozen=True)
class MosaicFiles:
    """The files of one AOR in one channel.

    Attributes
    ----------
    aor
        The AOR's name, as the file names have it.
    channel
        The channel's name.
    paths
        From kind (`KINDS`) to file; ``sci`` is always there.
    """

    aor: str
    channel: str
    paths: Mapping[str, Path]

    def __post_init__(self) -> None:
        if "sci" not in self.paths:
            msg = f"a mosaic needs a sci file, {self.aor} {self.channel} has {sorted(self.paths)}"
            raise ImageMissing(msg)

    @property
    def sci(self) -> Path:
        """The image itself."""
        return self.paths["sci"]

    def __reduce__(self) -> tuple[type[MosaicFiles], tuple[str, str, dict[str, Path]]]:
        # A mapping proxy cannot be pickled, and files travel to workers.
        return MosaicFiles, (self.aor, self.channel, dict(self.paths))


@dataclass(frozen=True)
class Skipped:
    """What is left out of a build, to be listed at its end.

    Attributes
    ----------
    aor
        The AOR's name.
    channel
        The channel, or an empty string where all of the AOR is left out.
    path
        The file in question, or None where there is none.
    kind
        Stable name of the reason, for programs.
    reason
        One sentence for people.
    """

    aor: str
    channel: str
    path: Path | None
    kind: str
    reason: str


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key that puts ``gr2`` before ``gr10``."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return tuple((0, int(p), p) if p[0] in "0123456789" else (1, 0, p) for p in parts)


def discover(
    folder: str | Path,
    *,
    pattern: str = DEFAULT_PATTERN,
    kinds: Mapping[str, str] | None = None,
    channel: str | None = None,
) -> tuple[MosaicFiles, ...]:
    """Find the mosaics below a folder.

    Parameters
    ----------
    folder
        Searched with everything below it; symbolic links to folders are followed once.
    pattern
        A file name in which ``{aor}``, ``{channel}`` and ``{kind}`` stand for runs of letters,
        digits, ``.``, ``+`` and ``-``; the rest is literal. With a ``/`` in it, it is held against
        the path below ``folder``. Without ``{kind}`` every match is a sci image. The default
        pattern takes ``.fits.gz`` and ``.fits.fz`` too.
    kinds
        For each kind the word that stands for it in file names, such as
        ``{"sci": "sub2d", "unc": "unc2d"}``; without it the kinds' own names.
    channel
        The channel of files whose pattern has no ``{channel}`` (``ch1`` if not given); with
        ``{channel}`` in the pattern, the only channel to take.

    Returns
    -------
    tuple of MosaicFiles
        Sorted by AOR in natural order, then by channel.

    Raises
    ------
    UsageError
        The pattern lacks ``{aor}``, has an unknown field, or a kind or channel cannot be.
    ImageMissing
        No such folder, nothing matches, or an AOR has other kinds and no sci.
    DuplicateMosaic
        Two files for one AOR, channel and kind.
    """
    root = Path(folder)
    words = _kind_words(kinds)
    compiled = _compile(pattern, words)
    if channel is not None:
        _check_channel(channel, f"channel={channel!r}")
    kind_of = {word: kind for kind, word in words.items()}
    found: dict[tuple[str, str], dict[str, Path]] = {}
    files = tuple(_walk(root))
    for path in files:
        name = path.relative_to(root).as_posix() if "/" in pattern else path.name
        match = compiled.fullmatch(name)
        if match is None:
            continue
        fields = match.groupdict()
        of_file = fields.get("channel") or channel or "ch1"
        _check_channel(of_file, str(path))
        if channel is not None and of_file != channel:
            continue
        kind = kind_of[fields["kind"]] if fields.get("kind") else "sci"
        _claim(found.setdefault((fields["aor"], of_file), {}), kind, path, fields["aor"], of_file)
    if not found:
        raise ImageMissing(_nothing(root, pattern, channel, files))
    return tuple(_group(key, found[key], pattern) for key in sorted(found, key=_order))


def check_kinds(
    mosaics: Sequence[MosaicFiles], *, allow_missing_unc: bool = False
) -> tuple[Skipped, ...]:
    """Name every file that some mosaics have and others lack.

    Where no mosaic at all has a kind there is nothing to say: without unc a noise model is used,
    without cov or mask every finite pixel counts. Where some have it, a mosaic without it would be
    treated unlike the others without anybody having said so, and is named here.

    Parameters
    ----------
    mosaics
        As `discover` returns them.
    allow_missing_unc
        Accept mosaics without unc among mosaics with it (their errors come from the noise model).

    Returns
    -------
    tuple of Skipped
        One for each missing file, ``kind`` being ``missing_unc``, ``missing_cov`` or
        ``missing_mask``.
    """
    missing: list[Skipped] = []
    for kind in KINDS[1:]:
        with_kind = [files for files in mosaics if kind in files.paths]
        if not with_kind or (kind == "unc" and allow_missing_unc):
            continue
        remedy = ", or allow missing unc to use a noise model for it" if kind == "unc" else ""
        missing += [
            Skipped(
                files.aor,
                files.channel,
                files.sci,
                f"missing_{kind}",
                f"{files.sci} (AOR {files.aor}, {files.channel}) has no {kind} file, which "
                f"{len(with_kind)} of {len(mosaics)} mosaics have: add it, remove "
                f"the mosaic{remedy}",
            )
            for files in mosaics
            if kind not in files.paths
        ]
    return tuple(missing)


def _kind_words(kinds: Mapping[str, str] | None) -> dict[str, str]:
    if kinds is None:
        return {kind: kind for kind in KINDS}
    for kind, word in kinds.items():
        if kind not in KINDS:
            msg = (
                f"{kind!r} is no kind of image; kinds are {', '.join(KINDS)}{closest(kind, KINDS)}"
            )
            raise UsageError(msg)
        if not word or "/" in word:
            msg = f"kind {kind} cannot be called {word!r} in file names"
            raise UsageError(msg)
    if "sci" not in kinds:
        msg = f"kinds must say how sci images are called, got only {', '.join(kinds) or 'none'}"
        raise UsageError(msg)
    if len(set(kinds.values())) < len(kinds):
        msg = f"kinds give one word to two kinds: {dict(kinds)}"
        raise UsageError(msg)
    return dict(kinds)


def _compile(pattern: str, words: Mapping[str, str]) -> re.Pattern[str]:
    """Turn a name pattern into a regular expression."""
    own_words = words == {kind: kind for kind in KINDS}
    if pattern == DEFAULT_PATTERN and own_words:
        return _DEFAULT
    # Longest first, so that "sci" does not hide "sci2".
    by_length = sorted(words.values(), key=len, reverse=True)
    fields = {
        "aor": _FIELD,
        "channel": _FIELD,
        "kind": "|".join(re.escape(word) for word in by_length),
    }
    expression = ""
    seen: set[str] = set()
    for part in re.split(r"(\{[^{}]*\})", pattern):
        name = part[1:-1]
        if not part.startswith("{") or not part.endswith("}"):
            if "{" in part or "}" in part:
                msg = f"pattern {pattern!r} has a brace without its other half"
                raise UsageError(msg)
            expression += re.escape(part)
        elif name not in fields:
            msg = f"pattern {pattern!r} has {part}; fields are {{aor}}, {{channel}} and {{kind}}"
            raise UsageError(msg)
        elif name in seen:
            expression += f"(?P={name})"
        else:
            seen.add(name)
            expression += f"(?P<{name}>{fields[name]})"
    if "aor" not in seen:
        msg = f"pattern {pattern!r} does not say where the AOR's name stands: put {{aor}} there"
        raise UsageError(msg)
    return re.compile(expression)


def _check_channel(channel: str, where: str) -> None:
    if not _CHANNEL.fullmatch(channel):
        msg = (
            f"{where}: {channel!r} cannot be a channel, use letters and digits, a letter first, "
            "as ch1"
        )
        raise UsageError(msg)


def _walk(root: Path) -> Iterator[Path]:
    """Yield every file below a folder; a folder that was seen is not entered again."""
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        msg = f"no mosaics can be found in {root}: it {what}"
        raise ImageMissing(msg)
    seen: set[tuple[int, int]] = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            msg = f"folder {folder} cannot be searched for mosaics: {error.strerror or error}"
            raise ImageMissing(msg) from error
        yield from (Path(entry.path) for entry in listed if not entry.is_dir())
        waiting += [Path(entry.path) for entry in reversed(listed) if entry.is_dir()]


def _claim(group: dict[str, Path], kind: str, path: Path, aor: str, channel: str) -> None:
    if kind in group:
        msg = (
            f"two {kind} images for AOR {aor} in {channel}: {group[kind]} and {path}; "
            "keep one of them in the folder, or narrow the pattern"
        )
        raise DuplicateMosaic(msg)
    group[kind] = path


def _group(key: tuple[str, str], paths: dict[str, Path], pattern: str) -> MosaicFiles:
    aor, channel = key
    if "sci" not in paths:
        there = ", ".join(str(path) for path in paths.values())
        msg = f"AOR {aor} in {channel} has no sci image by pattern {pattern!r}, only {there}"
        raise ImageMissing(msg)
    ordered = {kind: paths[kind] for kind in KINDS if kind in paths}
    return MosaicFiles(aor, channel, MappingProxyType(ordered))


def _order(key: tuple[str, str]) -> tuple[object, object]:
    return natural(key[0]), natural(key[1])


def _nothing(root: Path, pattern: str, channel: str | None, files: Sequence[Path]) -> str:
    images = [path for path in files if _FITS.search(path.name)]
    of_channel = f" in channel {channel}" if channel is not None and "{channel}" in pattern else ""
    if not images:
        return (
            f"no mosaic{of_channel} in {root} by pattern {pattern!r}: it holds no FITS file at all"
        )
    example = min((path.relative_to(root).as_posix() for path in images), key=natural)
    return (
        f"no mosaic{of_channel} in {root} by pattern {pattern!r}: of its {len(images)} FITS files "
        f"none matches, for example {example!r}; give a pattern with {{aor}} where the AOR's name "
        "stands"
    )
