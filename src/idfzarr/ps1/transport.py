"""How bytes come over the network: one request, one answer, nothing behind one's back.

`Transport` is what a download needs; `AiohttpTransport` is it by aiohttp, without redirections,
cookies, proxies, credentials or decompression of its own, and with every network address checked
before it is connected to.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

from idfzarr.ps1.mirrors import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from types import TracebackType

    from idfzarr.ps1.mirrors import AddressRules

__all__ = ["AiohttpTransport", "Answer", "Broken", "Transport"]


class Broken(Exception):
    """The network failed: no connection, a reset, a stall, an answer that is no HTTP."""


class Answer(Protocol):
    """An answer whose head has arrived."""

    @property
    def status(self) -> int:
        """Of HTTP."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers; names in any case."""

    def pieces(self) -> AsyncIterator[bytes]:
        """Yield the body as it arrives; raises `Broken` where it ends before its length."""


class Transport(Protocol):
    """Sends requests."""

    def get(self, url: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Answer]:
        """Ask for an address; raises `Broken`, or `Refused` where the address may not be."""


class AiohttpTransport:
    """Requests by aiohttp; to be entered.

    Parameters
    ----------
    rules
        Which network addresses may be connected to.
    per_host, connections
        Connections at once, to one host and to all.
    silence
        Seconds without a byte after which an answer counts as stalled.
    agent
        User-Agent.
    """

    def __init__(
        self,
        rules: AddressRules,
        *,
        per_host: int = 4,
        connections: int = 16,
        silence: float = 60.0,
        agent: str = "idfzarr",
    ) -> None:
        self._rules = rules
        self._per_host, self._connections = per_host, connections
        self._silence, self._agent = silence, agent
        self._session: Any = None

    async def __aenter__(self) -> Self:
        import aiohttp

        connector = aiohttp.TCPConnector(
            limit=self._connections,
            limit_per_host=self._per_host,
            resolver=_resolver(self._rules),
            use_dns_cache=False,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=min(30.0, self._silence), sock_read=self._silence
            ),
            headers={"User-Agent": self._agent, "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    @asynccontextmanager
    async def get(self, url: str, headers: Mapping[str, str]) -> AsyncIterator[Answer]:
        """Ask for an address; see `Transport`."""
        import aiohttp
        from yarl import URL

        self._rules.check(url)
        try:
            response = await self._session.get(
                URL(url, encoded=True), headers=dict(headers), allow_redirects=False
            )
        except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            raise _broken(error) from error
        try:
            yield _AiohttpAnswer(response)
        finally:
            # what is left of a body is not read: the connection goes with it
            response.close()


class _AiohttpAnswer:
    def __init__(self, response: Any) -> None:
        self._response = response

    @property
    def status(self) -> int:
        return int(self._response.status)

    @property
    def headers(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self._response.headers
        return found

    async def pieces(self) -> AsyncIterator[bytes]:
        import aiohttp

        content = self._response.content
        while True:
            try:
                piece = await content.readany()
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _broken(error) from error
            if not piece:
                return
            yield piece


def _broken(error: BaseException) -> Broken | Refused:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, Refused):
            return cause
        cause = cause.__cause__ or cause.__context__
    told = str(error).strip().splitlines()
    first = told[0][:160] if told else ""
    return Broken(f"{type(error).__name__}: {first}" if first else type(error).__name__)


def _resolver(rules: AddressRules) -> Any:
    """Return aiohttp's own resolver with every address checked."""
    from aiohttp import ThreadedResolver

    class Checked(ThreadedResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[Any]:
            found = await super().resolve(host, port, family)
            for entry in found:
                rules.check_address(host, entry["host"])
            return found

    return Checked()
