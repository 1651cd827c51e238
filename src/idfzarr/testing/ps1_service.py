"""A local service that behaves like the Pan-STARRS1 image archive, and misbehaves on demand.

It runs in a thread, on this machine alone::

    with PS1Service(size=(256, 250)) as service:
        service.plant("*.1405.053.stk.r.*", Status(503, retry_after=1))
        ...                                # fetch from service.url
        assert [r.status for r in service.requests] == [503, 200]

From the command line, for demonstrations::

    python -m idfzarr.testing.ps1_service --port 8080 --size 256 250
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Self

from aiohttp import web

from idfzarr.errors import UsageError
from idfzarr.testing import ps1_archive
from idfzarr.testing.ps1_archive import Archive, file_reply, list_reply, name_at, not_found
from idfzarr.testing.ps1_files import relative_path
from idfzarr.testing.ps1_reply import Asked, Reply
from idfzarr.testing.ps1_sky import PS1Sky

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from idfzarr.testing.ps1_faults import Fault

__all__ = ["PS1Service", "Served", "main"]

_HOST, _OTHER_HOST = "127.0.0.1", "localhost"
_STARTS_WITHIN = 30.0


@dataclass
class Served:
    """One request, and what was answered; it grows while the answer is under way.

    Attributes
    ----------
    method, path, query
        Of the request.
    headers
        Its headers, names in lower case.
    status
        Of the answer; 0 before it begins, and where raw bytes were sent.
    sent
        Bytes of the body handed to the network.
    faults
        Names of the faults that acted.
    started
        Seconds since the service began.
    finished
        Whether the answer is over.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    started: float
    status: int = 0
    sent: int = 0
    faults: tuple[str, ...] = ()
    finished: bool = False

    @property
    def range(self) -> str | None:
        """The header Range."""
        return self.headers.get("range")

    @property
    def if_range(self) -> str | None:
        """The header If-Range."""
        return self.headers.get("if-range")

    @property
    def host(self) -> str:
        """The header Host, without the port."""
        return self.headers.get("host", "").rpartition(":")[0]


class _ServiceEnds(ConnectionError):
    """The service is being stopped while an answer is under way."""


@dataclass
class _Plant:
    pattern: str
    fault: Fault
    first: int
    times: int | None
    methods: frozenset[str]
    seen: dict[str, int] = field(default_factory=dict)

    def meets(self, method: str, path: str) -> int:
        """Count a request to a path; return its number if the fault acts on it, else 0."""
        if method not in self.methods or not fnmatchcase(path, self.pattern):
            return 0
        number = self.seen[path] = self.seen.get(path, 0) + 1
        past = self.times is not None and number >= self.first + self.times
        return 0 if number < self.first or past else number


class PS1Service:
    """A pretended archive of Pan-STARRS1 stacks on a port of this machine.

    Parameters
    ----------
    source
        A sky, a folder of files under the archive's names, or None for a sky of `size` and
        `seed`.
    size
        Pixels (nx, ny) of every image; None is the survey's own.
    seed
        Of the sky.
    absent
        Globs of names of files that are not there: 404.
    bad
        Globs of names of files whose badflag is 1 in the list of files.
    compression
        As of `idfzarr.testing.ps1_files.file_bytes`.
    port
        0 takes a free one.

    Notes
    -----
    Faults are planted with `plant` and taken away with `clear`; `requests` is what was asked.
    """

    def __init__(
        self,
        source: PS1Sky | Path | str | None = None,
        *,
        size: tuple[int, int] | None = (256, 250),
        seed: int = 0,
        absent: Iterable[str] = (),
        bad: Iterable[str] = (),
        compression: str = "RICE_1",
        port: int = 0,
    ) -> None:
        held = PS1Sky(seed=seed, size=size) if source is None else source
        held = Path(held) if isinstance(held, str) else held
        if isinstance(held, Path) and not held.is_dir():
            msg = f"there is no folder {held} to serve files from"
            raise UsageError(msg)
        self.archive = Archive(held, absent=absent, bad=bad, compression=compression)
        self._asked_port = port
        self._port = 0
        self._plants: list[_Plant] = []
        self._served: list[Served] = []
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._failure: BaseException | None = None

    @property
    def sky(self) -> PS1Sky:
        """The sky that is served.

        Raises
        ------
        UsageError
            A folder is served.
        """
        if isinstance(self.archive.source, PS1Sky):
            return self.archive.source
        msg = f"the service serves the folder {self.archive.source} and knows no sky"
        raise UsageError(msg)

    @property
    def port(self) -> int:
        """The port it listens on; 0 before it starts."""
        return self._port

    @property
    def url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"http://{_HOST}:{self._port}"

    @property
    def other_url(self) -> str:
        """The same service by another host name, which no list of hosts should have."""
        return f"http://{_OTHER_HOST}:{self._port}"

    @property
    def mirrors(self) -> dict[str, str]:
        """Addresses before a file, by server.

        ``images`` and ``cloud`` go before ``1405/053/rings.v3...fits``, ``mast`` before the file's
        name.
        """
        return {
            "images": self.url + ps1_archive.IMAGES,
            "cloud": self.url + ps1_archive.CLOUD,
            "mast": f"{self.url}{ps1_archive.MAST}?uri=mast:PS1/product/",
        }

    def url_of(self, name: str, band: str, kind: str = "image") -> str:
        """Return the address of a file on the image server."""
        return self.mirrors["images"] + relative_path(name, band, kind)

    @property
    def requests(self) -> tuple[Served, ...]:
        """Return what was asked so far, in order, as it stands now."""
        with self._lock:
            return tuple(replace(served) for served in self._served)

    def bytes_sent(self, pattern: str = "*") -> int:
        """Return how many bytes of bodies were sent for paths that match a glob."""
        return sum(s.sent for s in self.requests if fnmatchcase(s.path, pattern))

    def plant(
        self,
        pattern: str,
        fault: Fault,
        *,
        first: int = 1,
        times: int | None = 1,
        methods: Iterable[str] = ("GET",),
    ) -> None:
        """Let something go wrong with requests.

        Parameters
        ----------
        pattern
            Glob of paths; for the download of MAST, of the names of files too.
        fault
            What goes wrong. Several on one request act in the order in which they were planted.
        first
            On which request to a path it begins, of those it counts, from 1.
        times
            On how many it acts; None never stops.
        methods
            Requests that it counts.
        """
        with self._lock:
            self._plants.append(_Plant(pattern, fault, first, times, frozenset(methods)))

    def clear(self) -> None:
        """Forget all faults and all requests."""
        with self._lock:
            self._plants.clear()
            self._served.clear()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        UsageError
            It listens already.
        OSError
            The port is taken.
        """
        if self._thread is not None:
            msg = f"the service listens on {self.url} already"
            raise UsageError(msg)
        ready = threading.Event()
        self._failure = None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(ready)), name="ps1-service", daemon=True
        )
        self._thread.start()
        ready.wait(_STARTS_WITHIN)
        failure = self._failed()
        if failure is not None:
            self._thread.join()
            self._thread = None
            raise failure

    def _failed(self) -> BaseException | None:
        return self._failure

    def stop(self) -> None:
        """End all answers, also those that stall, and stop listening."""
        if self._thread is None or self._loop is None or self._closing is None:
            return
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()
        self._thread = None

    async def _run(self, ready: threading.Event) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(
            application, handler_cancellation=True, shutdown_timeout=0.2, access_log=None
        )
        await runner.setup()
        try:
            listening = socket.create_server((_HOST, self._asked_port), backlog=128)
            self._port = listening.getsockname()[1]
            await web.SockSite(runner, listening).start()
            ready.set()
            await self._closing.wait()
        except OSError as error:
            self._failure = error
        finally:
            await runner.cleanup()
            ready.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        served = Served(
            method=request.method,
            path=request.path,
            query=request.query_string,
            headers={name.lower(): value for name, value in request.headers.items()},
            started=time.monotonic() - self._began,
        )
        with self._lock:
            self._served.append(served)
            acting = [(p.fault, self._meeting(p, request)) for p in self._plants]
        acting = [(fault, number) for fault, number in acting if number]
        served.faults = tuple(type(fault).__name__ for fault, _ in acting)
        positions = await _posted(request) if request.method == "POST" else None
        try:
            reply = await asyncio.to_thread(self._reply, request, acting, positions)
            return await self._send(request, reply, served)
        except ConnectionError:  # the client has gone, or the service ends
            _hang_up(request, reset=True)
            return web.Response()
        finally:
            served.finished = True

    @staticmethod
    def _meeting(plant: _Plant, request: web.Request) -> int:
        asked = name_at(request.path, request.query) if request.path == ps1_archive.MAST else None
        return plant.meets(request.method, f"{request.path}/{asked}" if asked else request.path)

    def _reply(
        self, request: web.Request, acting: Sequence[tuple[Fault, int]], positions: str | None
    ) -> Reply:
        asked = [
            Asked(
                method=request.method,
                path=request.path,
                name=name_at(request.path, request.query) or "",
                number=number,
                url=self.url,
                other_url=self.other_url,
                file_of=self.archive.bytes_of,
                now=datetime.now(tz=UTC),
            )
            for _, number in acting
        ]
        reply = self._of_path(request, list(zip(acting, asked, strict=True)), positions)
        for (fault, _), about in zip(acting, asked, strict=True):
            reply = fault.on_reply(reply, about)
        return reply

    def _of_path(
        self,
        request: web.Request,
        acting: Sequence[tuple[tuple[Fault, int], Asked]],
        positions: str | None,
    ) -> Reply:
        if request.path == ps1_archive.LIST and request.method in {"GET", "POST"}:
            return list_reply(self.archive, request.query, positions)
        name = name_at(request.path, request.query)
        if name is None or not self.archive.has(name):
            return not_found(request.path)
        if request.method not in {"GET", "HEAD"}:
            return Reply.of_text(405, "GET or HEAD\n").with_headers(Allow="GET, HEAD")
        file = self.archive.file(name)
        for (fault, _), about in acting:
            file = fault.on_file(file, about)
        reply = file_reply(file, request.headers)
        if request.path == ps1_archive.MAST and reply.status in {200, 206}:
            return reply.with_headers(Content_Disposition=f"attachment; filename={name}")
        return reply

    async def _send(self, request: web.Request, reply: Reply, served: Served) -> web.StreamResponse:
        pauses = sorted(reply.pauses)
        while pauses and pauses[0][0] < 0:
            await self._wait(pauses.pop(0)[1])
        response = web.StreamResponse(status=reply.status, headers=dict(reply.headers))
        if reply.raw is not None:
            served.sent = len(reply.raw)
            if request.transport is not None:
                request.transport.write(reply.raw)
            _hang_up(request, reset=False)
            return response
        if reply.length is None:
            response.enable_chunked_encoding()
        else:
            response.content_length = reply.length
        served.status = reply.status
        await response.prepare(request)
        if request.method == "HEAD" or reply.status == 304:
            await response.write_eof()
            return response
        ends_early = reply.stop is not None and reply.stop < len(reply.body)
        limit = len(reply.body) if reply.length is None else min(len(reply.body), reply.length)
        end = min(limit, reply.stop) if reply.stop is not None else limit
        await self._send_body(response, replace(reply, body=reply.body[:end]), pauses, served)
        if ends_early:
            # What was sent must arrive before the connection ends: a reset overtakes it.
            await self._wait(0.02)
            _hang_up(request, reset=reply.reset)
        else:
            await response.write_eof()
        return response

    async def _send_body(
        self,
        response: web.StreamResponse,
        reply: Reply,
        pauses: Sequence[tuple[int, float]],
        served: Served,
    ) -> None:
        waiting, at = list(pauses), 0
        body = memoryview(reply.body)
        while at < len(body) or waiting:
            while waiting and waiting[0][0] <= at:
                await self._wait(waiting.pop(0)[1])
            if reply.piece_seconds:
                await self._wait(reply.piece_seconds)
            stop = min(at + reply.piece, len(body))
            if waiting:
                stop = min(stop, max(waiting[0][0], at))
            if stop == at:
                break
            served.sent += stop - at
            await response.write(body[at:stop])
            at = stop

    async def _wait(self, seconds: float) -> None:
        """Wait, but not beyond the end of the service."""
        if self._closing is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)
                raise _ServiceEnds


def _hang_up(request: web.Request, *, reset: bool) -> None:
    transport = request.transport
    if transport is None:
        return
    if not reset:
        transport.close()
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:
        # Without lingering the system answers with a reset, not with an end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _posted(request: web.Request) -> str:
    """Return the positions of a form's file, of its first field, or of the body itself."""
    if not request.content_type.startswith(("multipart/", "application/x-www-form")):
        return await request.text()
    fields = await request.post()
    for value in fields.values():
        if isinstance(value, web.FileField):
            return value.file.read().decode("utf-8", "replace")
        if isinstance(value, str):
            return value
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; return 130 then, and 1 where the port is taken.

    Parameters
    ----------
    arguments
        In place of those of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m idfzarr.testing.ps1_service",
        description="Serve pretended Pan-STARRS1 skycells on this machine, until Ctrl-C.",
    )
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(256, 250), metavar=("NX", "NY"), help="pixels"
    )
    parser.add_argument("--full-size", action="store_true", help="the survey's own 6240 x 6243")
    parser.add_argument(
        "--around",
        type=float,
        nargs=2,
        metavar=("RA", "DEC"),
        help="images of that size show the survey's own pixels around this place",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another sky")
    parser.add_argument("--folder", type=Path, help="serve the files in this folder instead")
    parser.add_argument("--absent", action="append", default=[], metavar="GLOB", help="file names")
    asked = parser.parse_args(arguments)
    size = None if asked.full_size else tuple(asked.size)
    around = None if asked.around is None else tuple(asked.around)
    sky = PS1Sky(seed=asked.seed, size=size, around=around)
    try:
        with PS1Service(asked.folder or sky, absent=asked.absent, port=asked.port) as service:
            sys.stdout.write(f"{service.url}\n")
            sys.stdout.flush()
            threading.Event().wait()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        sys.stderr.write(f"cannot listen on port {asked.port}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
