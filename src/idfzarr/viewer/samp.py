"""Send a table to TOPCAT, Aladin and whoever else listens, by SAMP.

SAMP 1.3 (IVOA Recommendation 2012-04-11), the Standard Profile: a hub on this machine, named by the
lock file ``~/.samp`` or by ``SAMP_HUB``, takes XML-RPC calls. Only a hub on loopback is spoken to,
and only a lock file on this machine is read. The standard library is all that is needed; astropy's
own client is to go (its version 8.0 says so).
"""

from __future__ import annotations

import http.client
import os
import secrets
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from xmlrpc.client import Fault, ProtocolError, ResponseError, ServerProxy, Transport

from idfzarr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from idfzarr.viewer.keep import KeptFile

__all__ = ["Sent", "find_hub", "send_file"]

_MESSAGES = {".vot": "table.load.votable", ".fits": "table.load.fits"}
_LOCK_BYTES = 65_536
_SECONDS = 30  # for a program to load a table
_NO_HUB = (
    "no SAMP hub runs on this machine: start TOPCAT (or Aladin, or another with a hub) first, then "
    "send again"
)


@dataclass(frozen=True)
class Sent:
    """What became of a table.

    Attributes
    ----------
    name
        As the receivers call it.
    received
        Names of the programs that loaded it.
    refused
        Names of those that could not, and what they said.
    """

    name: str
    received: tuple[str, ...]
    refused: tuple[str, ...]

    def to_text(self) -> str:
        """Return it as a sentence."""
        parts = [f"{self.name} was sent to {', '.join(self.received)}"] if self.received else []
        parts += [f"refused by {one}" for one in self.refused]
        return "; ".join(parts)


@dataclass(frozen=True)
class _Hub:
    """Where a hub is, and the word that lets its user in."""

    url: str
    secret: str


def find_hub() -> _Hub:
    """Return the hub of this user on this machine.

    Raises
    ------
    UsageError
        There is none, or it is none on this machine.
    """
    path = _lock_file()
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_LOCK_BYTES)
    except OSError as error:
        raise UsageError(_NO_HUB) from error
    told = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[:1] != "#")
    told = {key.strip(): value.strip().replace("\\", "") for key, value in told.items()}
    url, secret = told.get("samp.hub.xmlrpc.url", ""), told.get("samp.secret", "")
    if not (url and secret):
        msg = f"{path} does not say where the SAMP hub is: start the hub anew"
        raise UsageError(msg)
    parts = urlsplit(url)
    if parts.scheme != "http" or not _is_here(parts.hostname or ""):
        msg = f"the SAMP hub of {path} is not on this machine; tables are sent on it only"
        raise UsageError(msg)
    return _Hub(url, secret)


def _lock_file() -> Path:
    """Return the lock file of the Standard Profile (section 4.2)."""
    named = os.environ.get("SAMP_HUB")
    if not named:
        return Path.home() / ".samp"
    parts = urlsplit(named.removeprefix("std-lockurl:"))
    local = named.startswith("std-lockurl:") and parts.scheme in {"file", ""}
    if not local or parts.netloc not in {"", "localhost", "127.0.0.1"}:
        msg = f"SAMP_HUB={named} is no lock file on this machine (std-lockurl:file:///...)"
        raise UsageError(msg)
    return Path(unquote(parts.path))


def _is_here(host: str) -> bool:
    if host in {"localhost", socket.gethostname()}:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class _Patient(Transport):
    """Waits for the hub, but not for ever."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        made = super().make_connection(host)
        made.timeout = _SECONDS + 5.0
        return made


@contextmanager
def _session() -> Iterator[tuple[Any, str]]:
    """Register with the hub; yields its methods and the key that each call needs."""
    hub = find_hub()
    proxy = ServerProxy(hub.url, transport=_Patient(), allow_none=True)
    try:
        key = str(proxy.samp.hub.register(hub.secret)["samp.private-key"])  # type: ignore[index,call-overload]
        try:
            yield proxy.samp.hub, key
        finally:
            proxy.samp.hub.unregister(key)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise UsageError(_NO_HUB) from error
    except (OSError, Fault, ProtocolError, ResponseError, http.client.HTTPException) as error:
        told = getattr(error, "faultString", "") or str(error)
        msg = f"the SAMP hub did not take the table: {str(told)[:200]}"
        raise UsageError(msg) from error
    finally:
        proxy("close")()


def send_file(kept: KeptFile, *, title: str, table_id: str = "") -> Sent:
    """Send a table to every program that takes such.

    Parameters
    ----------
    kept
        A VOTable or a FITS table.
    title
        As the receivers are to call it.
    table_id
        Of the table, so that rows of it can be told later; one of its own for each sending unless
        given, since TOPCAT refuses a table whose id it has seen.

    Returns
    -------
    Sent
        Who has it. The file they read it from is gone when this returns.

    Raises
    ------
    UsageError
        There is no hub, nobody who takes tables, or nobody took it.
    """
    mtype = _MESSAGES.get(Path(kept.name).suffix)
    if mtype is None:
        msg = f"{kept.name} is neither a VOTable nor FITS: SAMP has no message for it"
        raise UsageError(msg)
    with _session() as (hub, key), tempfile.TemporaryDirectory(prefix="idfzarr-samp-") as folder:
        hub.declareMetadata(key, {"samp.name": "idfzarr", "samp.description.text": _ABOUT})
        clients = sorted(hub.getSubscribedClients(key, mtype))
        if not clients:
            msg = "a SAMP hub runs, but no program that takes tables: start TOPCAT, then send again"
            raise UsageError(msg)
        path = Path(folder) / kept.name
        path.write_bytes(kept.content)
        params = {"url": path.as_uri(), "name": title, "table-id": table_id or _new_id(kept)}
        message = {"samp.mtype": mtype, "samp.params": params}
        received: list[str] = []
        refused: list[str] = []
        for client in clients:
            told = _answer(hub, key, client, message)
            (refused if told else received).append(_name(hub, key, client) + told)
    sent = Sent(title, tuple(received), tuple(refused))
    if not received:
        msg = f"no program took the table: {sent.to_text()}"
        raise UsageError(msg)
    return sent


_ABOUT = "Lightcurves of a Zarr cube"


def _new_id(kept: KeptFile) -> str:
    return f"{kept.name}#{secrets.token_hex(6)}"


def _answer(hub: Any, key: str, client: str, message: dict[str, Any]) -> str:
    """Return nothing where a program loaded the table, else what it said."""
    try:
        answer = hub.callAndWait(key, client, message, str(_SECONDS))
    except Fault as fault:
        return f" ({fault.faultString[:100]})"
    if answer.get("samp.status") == "samp.ok":
        return ""
    error = answer.get("samp.error", {})
    return f" ({str(error.get('samp.errortxt', 'it did not say why'))[:100]})"


def _name(hub: Any, key: str, client: str) -> str:
    try:
        return str(hub.getMetadata(key, client).get("samp.name", client))[:60]
    except Fault:
        return client
