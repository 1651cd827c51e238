"""What can go wrong with a download, one class each: planted into `idfzarr.testing.ps1_service`.

A fault changes the file that is served (`Fault.on_file`), before ranges are cut out of it, or the
reply (`Fault.on_reply`), after. Several faults on one request act one after the other. Places in a
file or a reply are bytes, or shares of its length where they are floats.
"""
# ruff: noqa: ARG002 - a fault takes what it needs of the request

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import format_datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from idfzarr.testing.ps1_reply import Reply

if TYPE_CHECKING:
    from idfzarr.testing.ps1_reply import Asked, ServedFile

__all__ = [
    "ChangedCard",
    "CutHeap",
    "Disposition",
    "Dripped",
    "ETag",
    "Fault",
    "FlippedBit",
    "GzipBomb",
    "Html",
    "NoLength",
    "RangeIgnored",
    "RangeRefused",
    "RawBytes",
    "Redirect",
    "Replaced",
    "Reset",
    "ShortLength",
    "Stalled",
    "Status",
    "Truncated",
    "WrongFile",
    "WrongRange",
    "examples",
]

_BLOCK, _CARD = 2880, 80
_HTML = (
    "<!DOCTYPE html><html><head><title>Scheduled maintenance</title></head>"
    "<body><h1>The archive is being maintained</h1></body></html>\n"
)


@dataclass(frozen=True)
class Fault:
    """Nothing wrong: what all faults begin with."""

    def on_file(self, file: ServedFile, asked: Asked) -> ServedFile:
        """Return the file to serve."""
        return file

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return the reply to send."""
        return reply


def _at(place: float, length: int) -> int:
    where = place if isinstance(place, int) else int(place * length)
    return min(max(where, 0), length)


@dataclass(frozen=True)
class Status(Fault):
    """Another status: 404, 410, 403, 429, 500, 503 ...

    Attributes
    ----------
    code
        Of HTTP.
    retry_after
        Seconds; as text, sent as it stands.
    as_date
        Whether Retry-After is a date, so many seconds from now.
    """

    code: int
    retry_after: float | str | None = None
    as_date: bool = False

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return an error, with Retry-After if it has one."""
        made = Reply.of_text(self.code, f"{self.code}\n")
        if self.retry_after is None:
            return made
        after = self.retry_after
        if self.as_date and not isinstance(after, str):
            moment = asked.now + timedelta(seconds=after)
            return made.with_headers(Retry_After=format_datetime(moment, usegmt=True))
        return made.with_headers(Retry_After=after if isinstance(after, str) else f"{after:g}")


@dataclass(frozen=True)
class Html(Fault):
    """A page for people, with status 200, where the file should be."""

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return the page."""
        return Reply.of_text(200, _HTML, "text/html; charset=utf-8")


@dataclass(frozen=True)
class Truncated(Fault):
    """The connection is closed early: fewer bytes than Content-Length."""

    at: float = 0.5

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return a reply that ends early."""
        return replace(reply, stop=_at(self.at, len(reply.body)))


@dataclass(frozen=True)
class Reset(Fault):
    """The connection is reset early."""

    at: float = 0.5

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return a reply that is cut off."""
        return replace(reply, stop=_at(self.at, len(reply.body)), reset=True)


@dataclass(frozen=True)
class ShortLength(Fault):
    """Content-Length is too small: whoever believes it has a whole, shorter file."""

    by: int = 2880

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return a reply that ends early and says so."""
        if reply.length is None:
            return reply
        return replace(reply, length=max(reply.length - self.by, 0))


@dataclass(frozen=True)
class NoLength(Fault):
    """Chunks without Content-Length.

    Attributes
    ----------
    at
        Where the chunks end without the last one, which says that they end; None sends all.
    """

    at: float | None = None

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return a reply in chunks."""
        stop = None if self.at is None else _at(self.at, len(reply.body))
        return replace(reply, length=None, stop=stop)


@dataclass(frozen=True)
class Stalled(Fault):
    """Nothing comes for a while.

    Attributes
    ----------
    at
        Where; None is before the answer begins.
    seconds
        How long.
    """

    at: float | None = 0.5
    seconds: float = 600.0

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return a reply with a pause."""
        place = -1 if self.at is None else _at(self.at, len(reply.body))
        return replace(reply, pauses=(*reply.pauses, (place, self.seconds)))


@dataclass(frozen=True)
class Dripped(Fault):
    """So few bytes at a time, so many seconds apart."""

    piece: int = 1000
    seconds: float = 0.05

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return a slow reply."""
        return replace(reply, piece=self.piece, piece_seconds=self.seconds)


@dataclass(frozen=True)
class Redirect(Fault):
    """Somewhere else.

    Attributes
    ----------
    to
        Location, in which {url}, {other_url}, {path} and {number} are filled in. ``{path}`` alone
        goes round in circles; ``{other_url}{path}`` is a host that is not on any list.
    code
        301, 302, 303, 307 or 308.
    """

    to: str
    code: int = 302

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return the redirection."""
        location = self.to.format(
            url=asked.url, other_url=asked.other_url, path=asked.path, number=asked.number
        )
        return Reply.of_text(self.code, "elsewhere\n").with_headers(Location=location)


@dataclass(frozen=True)
class ETag(Fault):
    """Other validators.

    Attributes
    ----------
    form
        ``strong``, ``weak``, or ``none``.
    """

    form: str = "weak"

    def on_file(self, file: ServedFile, asked: Asked) -> ServedFile:
        """Return the file under that tag."""
        if file.etag is None or self.form == "none":
            return replace(file, etag=None)
        strong = file.etag.removeprefix("W/")
        return replace(file, etag=strong if self.form == "strong" else f"W/{strong}")


@dataclass(frozen=True)
class Replaced(Fault):
    """The file is another one from now on: the same skycell, made anew; its length may differ.

    Attributes
    ----------
    etag
        ``new``; ``same``, which is a lie if it is strong; ``weak``: the same, and weak.
    """

    etag: str = "new"

    def on_file(self, file: ServedFile, asked: Asked) -> ServedFile:
        """Return the other file."""
        tag = file.etag
        if tag is not None and self.etag == "new":
            tag = tag[:-1] + '-b"'
        elif tag is not None and self.etag == "weak" and not tag.startswith("W/"):
            tag = f"W/{tag}"
        later = file.modified if self.etag != "new" else file.modified + timedelta(hours=1)
        return replace(file, body=asked.file_of(asked.name, 1), etag=tag, modified=later)


@dataclass(frozen=True)
class RangeIgnored(Fault):
    """A Range is answered with the whole file and status 200."""

    def on_file(self, file: ServedFile, asked: Asked) -> ServedFile:
        """Return the file, of which no ranges are served."""
        return replace(file, ranges=False)


@dataclass(frozen=True)
class RangeRefused(Fault):
    """A Range is answered with 416, though it could be served; other requests are not touched."""

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return the refusal."""
        if reply.status != 206:
            return reply
        total = reply.headers["Content-Range"].rpartition("/")[2]
        return Reply(416, {"Content-Range": f"bytes */{total}"})


@dataclass(frozen=True)
class WrongRange(Fault):
    """Status 206 with a Content-Range that is not the one asked for.

    Attributes
    ----------
    shift
        Content-Range tells a range so many bytes from the one that is sent.
    total
        The length of the file it tells; None leaves it true, ``*`` does not tell it.
    header
        False leaves Content-Range away.
    """

    shift: int = 0
    total: int | str | None = None
    header: bool = True

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return the wrong range; other replies are not touched."""
        if reply.status != 206:
            return reply
        if not self.header:
            return reply.with_headers(Content_Range=None)
        span, _, total = reply.headers["Content-Range"].removeprefix("bytes ").partition("/")
        start, _, stop = span.partition("-")
        told = total if self.total is None else str(self.total)
        first, last = max(int(start) + self.shift, 0), max(int(stop) + self.shift, 0)
        return reply.with_headers(Content_Range=f"bytes {first}-{last}/{told}")


@dataclass(frozen=True)
class GzipBomb(Fault):
    """Content-Encoding: gzip, and a small body that unpacks to a very large one.

    Attributes
    ----------
    size
        Bytes it unpacks to; it begins like the file.
    """

    size: int = 256 * 2**20

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return the bomb."""
        body = _bomb(reply.body[:_BLOCK], self.size)
        made = replace(reply, status=200, body=body, length=len(body))
        return made.with_headers(Content_Encoding="gzip", Content_Range=None)


@lru_cache(maxsize=4)
def _bomb(start: bytes, size: int) -> bytes:
    pack = zlib.compressobj(1, wbits=31)
    empty = bytes(2**20)
    parts = [pack.compress(start)]
    parts += [pack.compress(empty) for _ in range(size // len(empty))]
    return b"".join([*parts, pack.flush()])


@dataclass(frozen=True)
class Disposition(Fault):
    """Content-Disposition that asks for a file elsewhere."""

    name: str = "../../evil.fits"

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return the reply under that name."""
        return reply.with_headers(Content_Disposition=f'attachment; filename="{self.name}"')


@dataclass(frozen=True)
class FlippedBit(Fault):
    """One bit of the file is the other way round; validators stay as they are."""

    at: float = 0.7
    bit: int = 3

    def on_file(self, file: ServedFile, asked: Asked) -> ServedFile:
        """Return the file with the bit flipped."""
        body = bytearray(file.body)
        body[min(_at(self.at, len(body)), len(body) - 1)] ^= 1 << self.bit
        return replace(file, body=bytes(body))


@dataclass(frozen=True)
class CutHeap(Fault):
    """The last tiles are zeros: the length is right, and the pixels are not there.

    Attributes
    ----------
    at
        Where the zeros begin.
    """

    at: float = 0.8

    def on_file(self, file: ServedFile, asked: Asked) -> ServedFile:
        """Return the file with its end empty."""
        keep = _at(self.at, len(file.body))
        return replace(file, body=file.body[:keep].ljust(len(file.body), b"\0"))


@dataclass(frozen=True)
class WrongFile(Fault):
    """Another file under this name.

    Attributes
    ----------
    name
        Of the file whose bytes come instead.
    """

    name: str

    def on_file(self, file: ServedFile, asked: Asked) -> ServedFile:
        """Return the other file, under the validators of this one."""
        return replace(file, body=asked.file_of(self.name, 0))


@dataclass(frozen=True)
class ChangedCard(Fault):
    """A header card says something else: a lying ZNAXIS1, another SKYCELL ...

    Attributes
    ----------
    name
        Of the card, at most 8 letters.
    text
        Its value as it stands in a header, strings with their quotes; None blanks the card.
    """

    name: str
    text: str | None

    def on_file(self, file: ServedFile, asked: Asked) -> ServedFile:
        """Return the file with the card changed wherever it stands."""
        body = bytearray(file.body)
        key = f"{self.name:<8}=".encode()
        card = b"" if self.text is None else f"{self.name:<8}= {self.text:>20}".encode()
        for at in range(0, _pixels_begin(file.body), _CARD):
            if body[at : at + len(key)] == key:
                body[at : at + _CARD] = card[:_CARD].ljust(_CARD)
        return replace(file, body=bytes(body))


@dataclass(frozen=True)
class RawBytes(Fault):
    """These bytes, with status line and headers or without, and the end of the connection."""

    text: bytes

    def on_reply(self, reply: Reply, asked: Asked) -> Reply:
        """Return the bytes."""
        return replace(reply, raw=self.text)


def _pixels_begin(body: bytes) -> int:
    """Return where the header of the image ends: the second END of a file, or its only one."""
    ends = [
        at + _BLOCK
        for at in range(0, min(len(body), 100 * _BLOCK), _BLOCK)
        if any(body[at + c : at + c + 8] == b"END     " for c in range(0, _BLOCK, _CARD))
    ]
    return ends[1] if len(ends) > 1 else ends[0] if ends else 0


def examples() -> dict[str, Fault]:
    """Return one fault of every sort by name, with waits that tests can bear."""
    return {
        "404": Status(404),
        "410": Status(410),
        "403": Status(403),
        "429": Status(429, retry_after=0.1),
        "500": Status(500),
        "503": Status(503),
        "503 seconds": Status(503, retry_after=1),
        "503 date": Status(503, retry_after=1, as_date=True),
        "503 nonsense": Status(503, retry_after="soon"),
        "html": Html(),
        "truncated": Truncated(),
        "short length": ShortLength(),
        "chunked": NoLength(),
        "chunked and cut": NoLength(at=0.5),
        "stalled": Stalled(seconds=30.0),
        "silent": Stalled(at=None, seconds=30.0),
        "reset": Reset(),
        "dripped": Dripped(),
        "redirected to a host": Redirect("{other_url}{path}"),
        "redirected to a file": Redirect("file:///etc/hostname"),
        "redirected to itself": Redirect("{path}"),
        "changed": Replaced(),
        "changed under a weak tag": Replaced(etag="weak"),
        "weak tag": ETag("weak"),
        "no tag": ETag("none"),
        "range ignored": RangeIgnored(),
        "range refused": RangeRefused(),
        "range shifted": WrongRange(shift=2880),
        "range of a longer file": WrongRange(total=10**12),
        "range not told": WrongRange(header=False),
        "bomb": GzipBomb(),
        "disposition": Disposition(),
        "flipped bit": FlippedBit(),
        "cut heap": CutHeap(),
        "wrong skycell": WrongFile("rings.v3.skycell.1944.003.stk.r.unconv.fits"),
        "lying header": ChangedCard("ZNAXIS1", "2000000000"),
        "no HTTP": RawBytes(b"220 ready\r\n"),
    }
