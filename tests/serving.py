"""A web server on loopback that serves a folder: ranges, no listing, and faults on demand."""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class Served:
    """What the server does: its folder, the requests it has had, and how it fails."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.requests = []
        self.gives_ranges = True
        self.token = None  # header X-Token that is asked for
        self.faults = {}  # end of a path -> status, or "cut" for half a body
        self.url = ""


def handler_of(served):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def refuse(self, status):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, *, body):
            path = unquote(urlsplit(self.path).path)
            span = self.headers.get("Range")
            served.requests.append((self.command, path, span))
            fault = next((f for end, f in served.faults.items() if path.endswith(end)), None)
            if isinstance(fault, int):
                self.refuse(fault)
                return
            if served.token and self.headers.get("X-Token") != served.token:
                self.refuse(401)
                return
            file = served.folder / path.lstrip("/")
            if not file.is_file():
                self.refuse(404)
                return
            data = file.read_bytes()
            asked = _RANGE.fullmatch(span or "") if served.gives_ranges else None
            if asked is None:
                self.send_response(200)
            else:
                first = int(asked[1])
                if first >= len(data):
                    self.refuse(416)
                    return
                total = len(data)
                data = data[first : int(asked[2]) + 1 if asked[2] else total]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{total}")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
                self.close_connection = fault == "cut"

    return Handler


@contextmanager
def serving(folder):
    """Serve a folder; yields a `Served`."""
    served = Served(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(served))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
