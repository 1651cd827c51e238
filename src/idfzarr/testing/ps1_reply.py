"""What the pretended archive is asked, what it serves, and how it answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

__all__ = ["Asked", "Reply", "ServedFile"]


@dataclass(frozen=True)
class Asked:
    """What a fault may know of the request it meets.

    Attributes
    ----------
    method, path
        Of the request, without its query.
    name
        Of the file it is for; empty where it is for none.
    number
        Which request to this path it is, of those the fault counts, from 1.
    url, other_url
        Of the service, by two names for one address: the second is not on any list of hosts.
    file_of
        Returns the bytes of a file by its name, as it is (0), or made anew (1).
    now
        UTC.
    """

    method: str
    path: str
    name: str
    number: int
    url: str
    other_url: str
    file_of: Callable[[str, int], bytes]
    now: datetime


@dataclass(frozen=True)
class ServedFile:
    """A file as it is served.

    Attributes
    ----------
    body
        Its bytes.
    etag
        With its quotes, and with ``W/`` if it is weak; None where there is none.
    modified
        UTC.
    ranges
        Whether Range is honoured.
    """

    body: bytes
    etag: str | None
    modified: datetime
    ranges: bool = True


@dataclass(frozen=True)
class Reply:
    """An answer, and how it comes to its end.

    Attributes
    ----------
    status
        Of HTTP.
    headers
        But for Content-Length.
    body
        Its bytes.
    length
        Content-Length; None sends chunks without a length.
    stop
        Bytes of the body after which the connection ends; None sends all.
    reset
        Whether it then ends by a reset.
    pauses
        Bytes of the body before which so many seconds pass; -1 is before the status line.
    piece, piece_seconds
        Bytes at a time, with so many seconds before each.
    raw
        Sent in place of everything, as it stands; then the connection ends.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    length: int | None = 0
    stop: int | None = None
    reset: bool = False
    pauses: tuple[tuple[int, float], ...] = ()
    piece: int = 65536
    piece_seconds: float = 0.0
    raw: bytes | None = None

    def with_headers(self, **headers: str | None) -> Reply:
        """Return it with headers set, or without those that are None; _ stands for -."""
        made = dict(self.headers)
        for key, value in headers.items():
            name = key.replace("_", "-")
            made.pop(name, None)
            if value is not None:
                made[name] = value
        return replace(self, headers=made)

    @classmethod
    def of_text(cls, status: int, text: str, content_type: str = "text/plain") -> Reply:
        """Return a reply of text."""
        body = text.encode()
        return cls(status, {"Content-Type": content_type}, body, len(body))
