"""The command that opens the viewer: ``view``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from idfzarr.cli_options import Store, say
from idfzarr.errors import MissingExtra

__all__ = ["view"]

_PACKAGES = ("panel", "panel_material_ui", "bokeh", "param")

Port = Annotated[int, typer.Option(help="Port; 0 takes a free one.")]
Address = Annotated[str, typer.Option(help="What to listen to; this machine only unless given.")]
NoOpen = Annotated[bool, typer.Option("--no-open", help="Do not open the browser.")]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-websocket-origin",
        help="HOST:PORT under which the page is used from other machines (repeatable).",
    ),
]
BasicAuth = Annotated[
    str | None,
    typer.Option(
        help="Ask for this password, or for those of a JSON file by user.",
        envvar="IDFZARR_BASIC_AUTH",
    ),
]
Prefix = Annotated[str, typer.Option(help="Path below which a proxy serves the page, as /idf.")]


def view(
    store: Store,
    port: Port = 5006,
    address: Address = "127.0.0.1",
    no_open: NoOpen = False,
    allow_websocket_origin: Origins = None,
    basic_auth: BasicAuth = None,
    prefix: Prefix = "",
) -> None:
    """Look at a store in the browser: sky map, catalogue, lightcurves, periods and stamps.

    The store is opened for reading only. Ctrl-C ends it.
    """
    _require_packages()
    from idfzarr.viewer.serve import ServerSettings, serve

    settings = ServerSettings(
        address=address,
        port=port,
        origins=tuple(allow_websocket_origin or ()),
        basic_auth=basic_auth,
        prefix=prefix,
    )
    serve(store, settings=settings, open_browser=not no_open, on_ready=_say_where)


def _require_packages() -> None:
    """Refuse where the packages of the viewer are not installed."""
    absent = [name for name in _PACKAGES if find_spec(name) is None]
    if absent:
        msg = (
            f"the viewer needs {', '.join(absent)}, not installed here: run "
            "pip install 'idfzarr[viewer]'"
        )
        raise MissingExtra(msg)


def _say_where(url: str) -> None:
    say(f"the viewer is at {url} (Ctrl-C ends it)")
