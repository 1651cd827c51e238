"""One file from one of several mirrors: retried, resumed, bounded, and accepted only when whole.

A file is asked for with ``Range`` and ``If-Range`` where part of it is there under a strong ETag;
a 206 is believed only if it continues exactly there and is of the same length (RFC 9110, sections
13.1.5 and 14). Waits grow exponentially with full jitter (M. Brooker, "Exponential Backoff And
Jitter", AWS Architecture Blog, 2015); ``Retry-After`` is their lower bound. Attempts and time are
bounded, and so are bytes.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Generic, TypeVar

from idfzarr.errors import ImageError
from idfzarr.ps1.mirrors import Refused
from idfzarr.ps1.partial import PartNote
from idfzarr.ps1.transport import Broken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from idfzarr.ps1.mirrors import AddressRules
    from idfzarr.ps1.partial import Part
    from idfzarr.ps1.transport import Answer, Transport

__all__ = [
    "MOST_BYTES",
    "Attempt",
    "Downloaded",
    "Downloader",
    "NotDownloaded",
    "RetryRules",
    "retry_after",
]

MOST_BYTES = 1 << 28
"""No file of the survey's stacks is larger: the largest image has 84 MB before compression."""

_GONE = {404, 410}
_TEMPORARY = {408, 425, 429}
_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_HOPS = 5
_FITS = b"SIMPLE  ="
_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})", re.ASCII)
_UNSATISFIED = re.compile(r"bytes \*/([0-9]{1,15})", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,15}", re.ASCII)
_LONGEST_VALIDATOR = 256

T = TypeVar("T")


@dataclass(frozen=True)
class RetryRules:
    """How long to keep trying.

    Attributes
    ----------
    attempts
        Requests to one mirror for one file, at most.
    seconds
        For one file from one mirror, waits included, at most.
    first_wait, longest_wait
        Seconds; a wait is drawn between 0 and a limit that doubles from the first to the longest.
    bad_contents
        How often a mirror may send a whole file that turns out to be no image as asked for.
    """

    attempts: int = 6
    seconds: float = 1800.0
    first_wait: float = 1.0
    longest_wait: float = 60.0
    bad_contents: int = 2


@dataclass(frozen=True)
class Attempt:
    """What became of one request.

    Attributes
    ----------
    url
        Of the mirror, before redirections.
    why
        What went wrong.
    status
        Of HTTP; 0 where there was none.
    """

    url: str
    why: str
    status: int = 0

    def __str__(self) -> str:
        return f"{self.url}: {self.why}"


@dataclass(frozen=True)
class Downloaded(Generic[T]):
    """A file that came whole and was accepted.

    Attributes
    ----------
    accepted
        What was made of it.
    note
        Address, validators, length and sha256.
    received
        Bytes that came over the network for it, thrown away ones too.
    attempts
        What went wrong before.
    """

    accepted: T
    note: PartNote
    received: int
    attempts: tuple[Attempt, ...] = ()


class NotDownloaded(Exception):
    """No mirror gave the file.

    Attributes
    ----------
    absent
        Whether the first mirror says that there is none.
    attempts
        What each said.
    received
        Bytes that came in vain.
    """

    def __init__(self, attempts: Sequence[Attempt], *, absent: bool, received: int) -> None:
        self.attempts, self.absent, self.received = tuple(attempts), absent, received
        last = {attempt.url: attempt for attempt in self.attempts}
        super().__init__("; ".join(map(str, last.values())) or "there is no mirror")


class _Gone(Exception):
    """The mirror does not have the file."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"status {status}")


class _Later(Exception):
    """Another attempt may do better."""

    def __init__(self, why: str, *, status: int = 0, after: float = 0.0) -> None:
        self.status, self.after = status, after
        super().__init__(why)


@dataclass
class _Tally:
    received: int = 0
    attempts: list[Attempt] = field(default_factory=list)


def retry_after(value: str | None, *, now: datetime | None = None) -> float:
    """Return the seconds that a header Retry-After asks for, written in seconds or as a date.

    Parameters
    ----------
    value
        The header; None where there is none.
    now
        The time to count a date from; the present unless given.

    Returns
    -------
    float
        0 where there is none, or none that can be read.
    """
    text = (value or "").strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    with suppress(ValueError, TypeError, OverflowError, IndexError):
        moment = parsedate_to_datetime(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
    return 0.0


class Downloader:
    """Downloads files.

    Parameters
    ----------
    transport
        What sends requests.
    rules
        Which addresses may be touched.
    retry
        How long to keep trying.
    most_bytes
        Files longer than this are refused.
    on_bytes
        Called with the number of bytes that arrived and the number that became known to be due.
    """

    def __init__(
        self,
        transport: Transport,
        rules: AddressRules,
        *,
        retry: RetryRules | None = None,
        most_bytes: int = MOST_BYTES,
        on_bytes: Callable[[int, int], None] | None = None,
    ) -> None:
        self._transport, self._rules = transport, rules
        self._retry = retry or RetryRules()
        self._most_bytes = most_bytes
        self._on_bytes = on_bytes or (lambda _arrived, _due: None)

    async def fetch(
        self,
        urls: Sequence[str],
        part: Part,
        accept: Callable[[Part], Awaitable[T]],
    ) -> Downloaded[T]:
        """Download a file from the first mirror that gives it.

        Parameters
        ----------
        urls
            Addresses of the same file, in the order in which to ask.
        part
            Where bytes go, and what is there already. It stays valid whatever happens.
        accept
            Called once the file is whole; raises `ImageError` where it is not what it should be.

        Raises
        ------
        NotDownloaded
            No mirror gave it.
        """
        tally = _Tally()
        gone: dict[str, int] = {}
        for url in _kept_first(urls, part.note):
            try:
                accepted = await self._from_one(url, part, accept, tally)
            except _Gone as error:
                gone[url] = error.status
                tally.attempts.append(Attempt(url, str(error), error.status))
            except Refused as error:
                tally.attempts.append(Attempt(url, str(error)))
            except _Later:
                pass  # noted already
            else:
                return Downloaded(accepted, part.note, tally.received, tuple(tally.attempts))
        absent = bool(urls) and urls[0] in gone
        raise NotDownloaded(tally.attempts, absent=absent, received=tally.received)

    async def _from_one(
        self, url: str, part: Part, accept: Callable[[Part], Awaitable[T]], tally: _Tally
    ) -> T:
        """Try one mirror until it gives the file, or will not."""
        retry = self._retry
        ends = time.monotonic() + retry.seconds
        bad = 0
        for number in range(1, retry.attempts + 1):
            try:
                await self._transfer(url, part, tally, ends)
                try:
                    return await accept(part)
                except ImageError as error:
                    part.begin(PartNote(url=url))
                    bad += 1
                    tally.attempts.append(Attempt(url, str(error)))
                    if bad >= retry.bad_contents:
                        raise
                    wait = self._wait(number, 0.0)
            except ImageError as error:
                raise _Later(str(error)) from error
            except _Later as error:
                tally.attempts.append(Attempt(url, str(error), error.status))
                wait = self._wait(number, error.after)
                if number == retry.attempts or time.monotonic() + wait > ends:
                    raise
            await asyncio.sleep(wait)
        msg = f"no success in {retry.attempts} attempts"
        raise _Later(msg)

    def _wait(self, number: int, after: float) -> float:
        longest = min(self._retry.longest_wait, self._retry.first_wait * 2.0 ** (number - 1))
        jitter = random.uniform(0, longest)  # noqa: S311 - spreads load, keeps no secret
        return after + jitter if after else jitter

    async def _transfer(self, url: str, part: Part, tally: _Tally, ends: float) -> None:
        """Bring the file of a mirror to its end in one request, or note how far it came."""
        if part.note.url != url or not part.note.resumable:
            part.begin(PartNote(url=url))
        if part.note.whole:
            return
        left = max(ends - time.monotonic(), 0.001)
        try:
            async with asyncio.timeout(left):
                await self._follow(url, part, tally)
        except TimeoutError as error:
            msg = f"not whole after {self._retry.seconds:.0f} s"
            raise _Later(msg) from error
        except Broken as error:
            raise _Later(str(error)) from error
        finally:
            if part.note.count:
                part.take_note()

    async def _follow(self, url: str, part: Part, tally: _Tally) -> None:
        """Send the request, and again to where redirections lead."""
        at = url
        for _ in range(_MOST_HOPS + 1):
            headers = {}
            if part.note.count:
                headers = {"Range": f"bytes={part.note.count}-", "If-Range": part.note.etag}
            async with self._transport.get(at, headers) as answer:
                if answer.status not in _REDIRECTS:
                    await self._receive(url, answer, part, tally)
                    return
                at = self._rules.after_redirect(at, answer.headers.get("Location", ""))
        msg = f"more than {_MOST_HOPS} redirections"
        raise Refused(msg)

    async def _receive(self, url: str, answer: Answer, part: Part, tally: _Tally) -> None:
        _check_status(answer)
        if answer.status == 416:
            if _unsatisfied(answer) == part.note.count and part.note.whole:
                return
            part.begin(PartNote(url=url))
            msg = "the rest of the file cannot be had: status 416"
            raise _Later(msg, status=416)
        length = self._continued(answer, part) if answer.status == 206 else None
        if length is None:
            length = _whole_length(answer)
            self._begin(url, answer, part, length)
        if length is not None and length > self._most_bytes:
            msg = f"a file of {length} bytes, and none of the survey has {self._most_bytes}"
            raise Refused(msg)
        self._on_bytes(0, (length or 0) - part.note.count if length else 0)
        await self._body(answer, part, tally)
        if length is not None and part.note.count < length:
            msg = f"the answer ended after {part.note.count} of {length} bytes"
            raise _Later(msg)
        if length is None:
            note = part.note
            part.note = PartNote(note.url, note.etag, note.last_modified, note.count, note.count)

    def _continued(self, answer: Answer, part: Part) -> int:
        """Return the length of the whole file where a 206 continues the part; else begin anew."""
        note = part.note
        span = _RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        etag = answer.headers.get("ETag", note.etag)
        modified = answer.headers.get("Last-Modified", note.last_modified)
        fits = (
            span is not None
            and int(span[1]) == note.count
            and int(span[2]) == int(span[3]) - 1
            and note.length in {None, int(span[3])}
            and etag == note.etag
            and modified == note.last_modified
            and note.count > 0
        )
        if not fits or span is None:
            told = answer.headers.get("Content-Range", "none")[:80]
            part.begin(PartNote(url=note.url))
            msg = f"the answer does not continue the file: Content-Range {told}"
            raise _Later(msg, status=206)
        length = int(span[3])
        part.note = PartNote(note.url, note.etag, note.last_modified, length, note.count)
        return length

    @staticmethod
    def _begin(url: str, answer: Answer, part: Part, length: int | None) -> None:
        part.begin(
            PartNote(
                url=url,
                etag=_validator(answer, "ETag"),
                last_modified=_validator(answer, "Last-Modified"),
                length=length,
            )
        )

    async def _body(self, answer: Answer, part: Part, tally: _Tally) -> None:
        begins = b""
        checked = part.note.count > 0
        most = part.note.length or self._most_bytes
        async for piece in answer.pieces():
            tally.received += len(piece)
            if part.note.count + len(begins) + len(piece) > most:
                part.begin(PartNote(url=part.note.url))
                msg = f"more than {most} bytes came"
                raise _Later(msg)
            if not checked:
                begins += piece
                if len(begins) < len(_FITS):
                    continue
                if not begins.startswith(_FITS):
                    msg = f"what came is not FITS: it begins with {begins[:20]!r}"
                    raise _Later(msg, status=answer.status)
                piece, checked = begins, True  # noqa: PLW2901 - the first bytes were held back
                begins = b""
            part.add(piece)
            self._on_bytes(len(piece), 0)
        if not checked:
            msg = f"what came is not FITS: {len(begins)} bytes"
            raise _Later(msg, status=answer.status)


def _kept_first(urls: Sequence[str], note: PartNote) -> list[str]:
    """Return the addresses, the one first of which part of the file is there already."""
    if not note.resumable or note.url not in urls:
        return list(urls)
    return [note.url, *(url for url in urls if url != note.url)]


def _check_status(answer: Answer) -> None:
    status = answer.status
    if status in _GONE:
        raise _Gone(status)
    if status in _TEMPORARY or 500 <= status <= 599:
        after = retry_after(answer.headers.get("Retry-After"))
        msg = f"status {status}"
        raise _Later(msg, status=status, after=after)
    if status not in {200, 206, 416}:
        msg = f"status {status}"
        raise Refused(msg)
    packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in {"identity", ""}:
        msg = f"the answer is packed as {packed[:20]!r}, which was not asked for"
        raise _Later(msg, status=status)
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in {"text/html", "application/xhtml+xml"}:
        msg = f"a page for people came with status {status}, not a file"
        raise _Later(msg, status=status)


def _validator(answer: Answer, name: str) -> str:
    value = answer.headers.get(name, "").strip()
    return value if len(value) <= _LONGEST_VALIDATOR and value.isprintable() else ""


def _whole_length(answer: Answer) -> int | None:
    if answer.status == 206:
        return None
    value = answer.headers.get("Content-Length", "").strip()
    return int(value) if _NUMBER.fullmatch(value) else None


def _unsatisfied(answer: Answer) -> int | None:
    match = _UNSATISFIED.fullmatch(answer.headers.get("Content-Range", "").strip())
    return int(match[1]) if match else None
