"""The served viewer: its process, what it spends, and sessions that click without a browser."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bokeh.protocol import Protocol
from bokeh.protocol.messages.patch_doc import patch_doc
from bokeh.protocol.receiver import Receiver
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMMAND = [sys.executable, "-m", "idfzarr", "view"]
_PATIENCE = 60.0  # seconds
_FAILED = ("Traceback", "ERROR")


class Server:
    """A process that serves a store."""

    def __init__(self, store: Path) -> None:
        self.begun = time.perf_counter()
        self.process = subprocess.Popen(
            [*_COMMAND, str(store), "--port", "0", "--no-open"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        self.lines: list[str] = []
        self._ready: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = self._ready.get(timeout=_PATIENCE)
        if not self.url:
            raise SystemExit("the viewer did not start:\n" + "".join(self.lines))

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"viewer is at (http://\S+/)", line):
                self._ready.put(found[1])
        self._ready.put("")

    @property
    def failures(self) -> list[str]:
        """Lines of the log that tell of a failure."""
        return [line for line in self.lines if any(word in line for word in _FAILED)]

    @property
    def megabytes(self) -> float:
        """Memory in use, that of no other process."""
        told = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text(encoding="utf-8")
        sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB$", told, re.MULTILINE))
        return sum(int(sizes[name]) for name in ("Private_Clean", "Private_Dirty")) / 1024

    @property
    def spent(self) -> float:
        """Milliseconds that all threads were on a processor; waiting is not in it."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        return sum(int((t / "schedstat").read_text().split()[0]) for t in tasks.iterdir()) / 1e6

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(timeout=20)
        self._reader.join(timeout=20)
        self.process.stdout.close()


@contextmanager
def serving(store: Path) -> Iterator[Server]:
    """Serve a store in a process of its own."""
    server = Server(store)
    try:
        yield server
    finally:
        server.stop()


@dataclass
class Session:
    """A session as a browser has it, of which nothing is drawn.

    Attributes
    ----------
    url
        Address of the page.
    clicks
        Milliseconds of each click, from sending it until all it changes was received.
    """

    url: str
    clicks: list[float] = field(default_factory=list)
    _socket: WebSocketClientConnection | None = None
    _keys: str = ""
    _wanted: dict[str, set[str]] = field(default_factory=dict)
    _receiver: Receiver = field(default_factory=lambda: Receiver(Protocol()))

    async def open(self) -> None:
        """Fetch the page, open its socket and take its document over."""
        client = AsyncHTTPClient()
        page = await client.fetch(self.url, request_timeout=_PATIENCE)
        token = re.search(r'"token":\s*"([^"]+)"', page.body.decode())[1]
        cookies = SimpleCookie()
        for one in page.headers.get_list("Set-Cookie"):
            cookies.load(one)
        said = "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items())
        where = self.url.replace("http:", "ws:").partition("?")[0] + "ws"
        self._socket = await websocket_connect(
            HTTPRequest(where, headers={"Cookie": said}),
            subprotocols=["bokeh", token],
            max_message_size=100 * 2**20,
        )
        self._socket.protocol.set_nodelay(True)  # as browsers do
        await self._receive("ACK")
        await self._send(Protocol().create("PULL-DOC-REQ"))
        self._learn((await self._receive("PULL-DOC-REPLY")).content["doc"])
        await self._tell("document_ready")

    def close(self) -> None:
        """Leave."""
        if self._socket is not None:
            self._socket.close()

    def _learn(self, document: dict[str, Any]) -> None:
        """Find the model that hears keys, and those that another object changes."""
        models = [one for one in _objects(document) if "id" in one]
        named = {one.get("attributes", {}).get("name"): one for one in models}
        self._keys = next(
            one["id"]
            for one in models
            if "send_msg({key: e.key})" in str(one.get("attributes", {}).get("esm", ""))
        )
        for figure in ("lightcurve preview", "superstack stamp preview"):
            inside = _objects(named[figure]["attributes"]["renderers"])
            self._wanted[figure] = {
                one["id"] for one in inside if one.get("name") == "ColumnDataSource"
            }
        tables = [one for one in models if "Tabulator" in str(one.get("name"))]
        self._wanted["table"] = {
            one["id"]
            for table in tables
            for one in _objects(table)
            if one.get("name") == "ColumnDataSource"
        }

    async def press(self, key: str) -> None:
        """Press a key and wait until lightcurve, table row and stamp of the object are there."""
        pressed = {"type": "map", "entries": [["key", key]]}
        begun = time.perf_counter()
        await self._tell("data_event", ["model", {"id": self._keys}], ["data", pressed])
        missing = dict(self._wanted)
        while missing:
            patch = await self._receive("PATCH-DOC")
            changed = {
                (one.get("model") or one.get("column_source") or {}).get("id")
                for one in patch.content["events"]
            }
            missing = {name: ids for name, ids in missing.items() if not ids & changed}
        self.clicks.append(1e3 * (time.perf_counter() - begun))

    async def _tell(self, name: str, *values: list[Any]) -> None:
        """Send an event, as Bokeh's own code in the browser does."""
        event = {"type": "event", "name": name, "values": {"type": "map", "entries": [*values]}}
        sent = {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": event}
        await self._send(patch_doc(patch_doc.create_header(), {}, {"events": [sent]}))

    async def _send(self, message: Any) -> None:
        for part in (message.header_json, message.metadata_json, message.content_json):
            await self._socket.write_message(part)

    async def _receive(self, kind: str) -> Any:
        while True:
            part = await asyncio.wait_for(self._socket.read_message(), _PATIENCE)
            if part is None:
                msg = "the server closed the socket"
                raise ConnectionError(msg)
            message = await self._receiver.consume(part)
            if message is None:
                continue
            if message.msgtype == "ERROR":
                raise ConnectionError(str(message.content))
            if message.msgtype == kind:
                return message


def _objects(part: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping inside a document as it was sent."""
    todo = [part]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            yield one
            todo += one.values()
        elif isinstance(one, (list, tuple)):
            todo += one
