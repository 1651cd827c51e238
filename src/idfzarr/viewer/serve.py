"""The viewer's server: what it listens to, who may come in, and which store it shows.

The store is named by whoever starts the server and by nobody else: neither the page nor its URL
can name a path. Sessions are signed, cookies carry an XSRF token, and the address is this machine's
own unless more is asked for, after Bokeh's advice for deployments
(https://docs.bokeh.org/en/latest/docs/user_guide/server/deploy.html).
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import secrets
import socket
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from bokeh.server.server import Server

    from idfzarr.viewer.field import Field

__all__ = ["DEFAULT_PORT", "ServerSettings", "make_server", "serve", "shared_field", "stop_serving"]

DEFAULT_PORT = 5006
"""Bokeh's own."""

_TOKEN_SECONDS = 300  # a page that was fetched may open its socket for so long
_MESSAGE_BYTES = 20 * 2**20
_UNUSED_SECONDS = 30
_LOGGER = logging.getLogger("idfzarr.viewer")


@dataclass(frozen=True)
class ServerSettings:
    """How the server is reached.

    Attributes
    ----------
    address
        What it listens to.
    port
        0 for any that is free.
    origins
        Hosts whose pages may connect, as ``host:port``; needed for an address beyond this machine.
    basic_auth
        A password for all, or a JSON file of passwords by user; None for no login.
    prefix
        Path below which the page stands, behind a proxy.
    """

    address: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    origins: tuple[str, ...] = ()
    basic_auth: str | None = None
    prefix: str = ""

    def __post_init__(self) -> None:
        for origin in self.origins:
            if "*" in origin:
                msg = (
                    f"--allow-websocket-origin {origin} would let every web page connect to the "
                    "viewer; name the hosts, as viewer.example.org:5006"
                )
                raise UsageError(msg)
        if not self.is_local and not self.origins:
            msg = (
                f"--address {self.address} can be reached from other machines; say from which "
                f"host its page is used, as --allow-websocket-origin HOST:{self.port}"
            )
            raise UsageError(msg)
        if not 0 <= self.port <= 65535:
            msg = f"--port {self.port} is none: ports are 1 to 65535, and 0 takes a free one"
            raise UsageError(msg)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.address == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return False

    def users(self) -> str | dict[str, str] | None:
        """Return one password, or a password by user; raises `UsageError` for a bad file."""
        named = self.basic_auth
        if named is None or not Path(named).is_file():
            if named is not None and not named:
                msg = "--basic-auth is empty: give a password, or a JSON file of them by user"
                raise UsageError(msg)
            return named
        try:
            users = json.loads(Path(named).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            msg = f"--basic-auth {named} cannot be read as JSON ({error})"
            raise UsageError(msg) from error
        if not (
            isinstance(users, dict)
            and users
            and all(isinstance(word, str) and word for word in users.values())
        ):
            msg = f'--basic-auth {named} must hold passwords by user, as {{"ann": "..."}}'
            raise UsageError(msg)
        return users


def serve(
    store: str | os.PathLike[str],
    *,
    settings: ServerSettings | None = None,
    open_browser: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Show a store until interrupted.

    Parameters
    ----------
    store
        Path or URL of the cube.
    settings
        How the server is reached; this machine only, at port 5006, unless given.
    open_browser
        Open the page in the browser.
    on_ready
        Called with the page's URL once it answers.

    Raises
    ------
    UsageError
        The port is taken, or the settings are not safe.
    StoreMissing, ForeignStore, FormatVersionError, UnfinishedStore, MetadataCorrupt
        The store cannot be opened, and why.
    """
    from idfzarr.viewer.field import Field

    asked = settings or ServerSettings()
    field = Field(store)
    field.read_ahead()
    server = make_server(field, settings=asked)
    url = _url(server, asked)
    server.start()
    if on_ready is not None:
        server.io_loop.add_callback(partial(on_ready, url))
    if open_browser:
        server.io_loop.add_callback(partial(server.show, "/"))
    try:
        server.io_loop.start()
    finally:
        stop_serving(server)


def make_server(field: Field, *, settings: ServerSettings) -> Server:
    """Return the server, not yet started.

    Parameters
    ----------
    field
        The opened store; all sessions share it.
    settings
        How the server is reached.

    Returns
    -------
    Server
        ``start()`` it, then run its ``io_loop``.

    Raises
    ------
    UsageError
        The port is taken, or the file of passwords is no such file.
    """
    from panel.io.server import get_server
    from tornado.ioloop import IOLoop

    from idfzarr.viewer.app import page
    from idfzarr.viewer.session import store_name

    users = settings.users()
    if not settings.is_local and users is None:
        _LOGGER.warning(
            "the viewer at %s asks for no password: whoever reaches the address sees the data and "
            "can write notes; give --basic-auth, or let a proxy ask",
            settings.address,
        )

    def new_page() -> Any:  # a function: Panel would serve a partial as an object to show
        return page(field)

    options: dict[str, Any] = {}
    if users is not None:
        from idfzarr.viewer.login import login_provider

        options["auth_provider"] = login_provider(users)
        options["cookie_secret"] = os.environ.get("BOKEH_COOKIE_SECRET") or secrets.token_hex(32)
    _refuse_taken(settings)
    try:
        server = get_server(
            {"/": new_page},
            # A loop of its own: there may be no current one, and asking for it is deprecated.
            loop=IOLoop(asyncio_loop=asyncio.new_event_loop(), make_current=False),
            port=settings.port,
            address=settings.address,
            websocket_origin=list(settings.origins) or None,
            title=f"{store_name(field)}: idfzarr",
            admin=False,
            use_index=False,
            prefix=settings.prefix,
            sign_sessions=True,
            secret_key=(os.environ.get("BOKEH_SECRET_KEY") or secrets.token_hex(32)).encode(),
            xsrf_cookies=True,
            session_token_expiration=_TOKEN_SECONDS,
            websocket_max_message_size=_MESSAGE_BYTES,
            unused_session_lifetime_milliseconds=_UNUSED_SECONDS * 1000,
            **options,
        )
    except OSError as error:
        raise _taken(settings, error) from error
    _send_at_once(server)
    return server


def _send_at_once(server: Server) -> None:
    """Let no packet wait for the one before it to be acknowledged.

    Bokeh sends a message in many small pieces; with Nagle's algorithm, which it leaves on, the last
    ones wait for the browser's delayed acknowledgement, 40 ms on Linux.
    """
    http = server._http  # noqa: SLF001 - Bokeh has no setting for it
    take = http.handle_stream

    def take_at_once(stream: Any, address: Any) -> Any:
        stream.set_nodelay(True)
        stream.set_nodelay = _leave  # Tornado sets the default again after every request
        return take(stream, address)

    http.handle_stream = take_at_once


def _leave(_: bool) -> None:  # noqa: FBT001 - Tornado passes it so
    """Leave it as it is."""


def _refuse_taken(settings: ServerSettings) -> None:
    """Try the port before the server does, which leaves its socket open where it fails."""
    kind = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((settings.address, settings.port))
        except OSError as error:
            raise _taken(settings, error) from error


def _taken(settings: ServerSettings, error: OSError) -> UsageError:
    return UsageError(
        f"the viewer cannot listen at {settings.address} port {settings.port} "
        f"({error.strerror or error}); choose another with --port, 0 for any that is free"
    )


@cache
def shared_field(path: str) -> Field:
    """Open a store once for all sessions of this process.

    Parameters
    ----------
    path
        Path or URL, as the server's configuration names it.
    """
    from idfzarr.viewer.field import Field

    field = Field(path)
    field.read_ahead()
    return field


def stop_serving(server: Server) -> None:
    """Let go of the port and of all sessions.

    Parameters
    ----------
    server
        What `make_server` returned.
    """
    server.stop(wait=False)
    server.io_loop.close()
    asyncio.set_event_loop(None)


def _url(server: Server, settings: ServerSettings) -> str:
    host = "127.0.0.1" if settings.address in {"0.0.0.0", "::", "localhost"} else settings.address  # noqa: S104
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{server.port}{settings.prefix}/"
