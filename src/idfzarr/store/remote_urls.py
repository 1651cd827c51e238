"""URLs that fsspec opens: which file system and path, what lies beside, and what went wrong.

What fsspec raises is taken apart here. A `FileNotFoundError` must mean that nothing is there and
nothing else: a server that fails or refuses would otherwise be read as a cube with holes.
"""

from __future__ import annotations

import sys
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from idfzarr.errors import MissingExtra, StoreError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["beside_url", "checked_url", "filesystem", "is_listed", "refuse_writing", "translated"]

_WEB = ("http", "https")
_ARCHIVES = ("zip", "tar", "libarchive")
_GONE = (404, 410)
# Errors of packages that need not be there; they are looked up among the modules that are loaded.
_FOREIGN = {
    "aiohttp": ("ClientError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "azure.core.exceptions": ("AzureError",),
}


def _protocol(url: str) -> str:
    return url.split("::", 1)[0].split("://", 1)[0]


def checked_url(url: str) -> str:
    """Return a URL as it is used from now on.

    Parameters
    ----------
    url
        As a person writes it.

    Returns
    -------
    str
        Without slashes at its end, and ``zip://::`` for ``zip::``.

    Raises
    ------
    UsageError
        It names no bucket or host, or has a query or a password in it.
    """
    head, chained, rest = url.partition("::")
    if chained and head in _ARCHIVES:
        head += "://"
    protocol, _, path = head.partition("://")
    if protocol not in _ARCHIVES:
        path = path.rstrip("/")
    if not chained and not path:
        msg = f"{url!r} names no store; give all of it, as s3://bucket/field.zarr"
        raise UsageError(msg)
    if protocol in _WEB and any(mark in path for mark in "?#"):
        msg = (
            f"{url.partition('?')[0]} has a query or a fragment, and a store is many files below "
            "one URL; give what must be sent along as storage_options={'headers': {...}} or "
            "{'params': {...}}"
        )
        raise UsageError(msg)
    if "@" in path.partition("/")[0]:
        msg = (
            f"a user or a password stands in a URL of {protocol}://, where everybody would read it "
            "in messages; give it as storage_options"
        )
        raise UsageError(msg)
    return (f"{head}{chained}{rest}" if chained else f"{protocol}://{path}").rstrip("/")


def beside_url(url: str, suffix: str) -> str:
    """Return the URL of the same name with a suffix added, inside the same archive."""
    head, chained, rest = url.partition("::")
    if chained and _protocol(head) in _ARCHIVES:
        return f"{head}{suffix}{chained}{rest}"
    return url + suffix


def is_listed(url: str) -> bool:
    """Say whether one can learn there what files there are, and not only read those one knows."""
    return _protocol(url) not in _WEB


def refuse_writing(url: str) -> None:
    """Raise `UsageError` where files cannot be written."""
    if _protocol(url) in (*_WEB, *_ARCHIVES):
        msg = (
            f"{url} can be read only: a web server and an archive take no files; write to a disk "
            "or to object storage"
        )
        raise UsageError(msg)


def filesystem(url: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it.

    fsspec keeps one file system for a protocol and its options, and makes another after a fork.

    Parameters
    ----------
    url
        As of `checked_url`.
    options
        For the file system: keys, endpoint, headers.

    Raises
    ------
    MissingExtra
        A package for this protocol is not installed.
    UsageError
        There is no such protocol, or it does not take these options.
    """
    from fsspec.core import url_to_fs

    protocol = _protocol(url)
    try:
        system, path = url_to_fs(url, **options)
    except ImportError as error:
        extra = "; pip install 'idfzarr[s3]'" if protocol == "s3" else ""
        msg = f"{url} needs a package that is not installed: {error}{extra}"
        raise MissingExtra(msg) from error
    except (TypeError, ValueError) as error:
        msg = f"{url} cannot be opened with the storage_options {sorted(options)}: {error}"
        raise UsageError(msg) from error
    return system, str(path).rstrip("/")


def _failures() -> tuple[type[BaseException], ...]:
    found: list[type[BaseException]] = [OSError, TypeError, ValueError, zipfile.BadZipFile]
    for module, names in _FOREIGN.items():
        if module in sys.modules:
            found += [getattr(sys.modules[module], n) for n in names]
    return tuple(found)


def _is_absent(error: FileNotFoundError) -> bool:
    """Say whether nothing is there; fsspec calls any failure of a web server that."""
    cause = error.__cause__
    response = getattr(cause, "response", None)  # what S3 answered
    answered = isinstance(response, dict) and "Error" in response
    gone = getattr(cause, "status", None) in _GONE
    return cause is None or isinstance(cause, KeyError) or answered or gone


@contextmanager
def translated(where: str) -> Iterator[None]:
    """Leave `FileNotFoundError` to mean that nothing is there; make sentences of the rest.

    Parameters
    ----------
    where
        The URL that is read or written.

    Raises
    ------
    StoreError
        Access is denied, or the server failed or cannot be reached.
    """
    try:
        yield
    except (StoreError, UsageError):
        raise
    except _failures() as error:
        if isinstance(error, FileNotFoundError) and _is_absent(error):
            raise
        cause = error.__cause__ or error
        status = getattr(cause, "status", None)
        if isinstance(error, PermissionError) or status in {401, 403}:
            msg = (
                f"access to {where} is denied ({cause}): it may not be read or written with these "
                "keys, or is not there and nobody may ask; check storage_options, as "
                "{'anon': True} or {'key': ..., 'secret': ...}"
            )
        else:
            told = str(cause) or type(cause).__name__
            msg = f"{where} could not be read or written: {told}; try again, or check the URL"
        raise StoreError(msg) from error
