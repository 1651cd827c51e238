"""The viewer under ``panel serve``, behind somebody else's login, and in the browser's history."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from http.cookiejar import CookieJar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from test_viewer_serve import CLOSE, SWITCHING, TEXT, ask, token_of, upgrade
from viewer_browser import Served, Visit, chromium
from viewer_field import OBJECTS, TYPES, make_field

import idfzarr.viewer
from idfzarr.viewer.field import Field
from idfzarr.viewer.link import follow, restored_state, search_of
from idfzarr.viewer.session import Session

APP = f"{idfzarr.viewer.__path__[0]}/app.py"
SAFE = ("--address", "127.0.0.1", "--session-ids", "signed", "--enable-xsrf-cookies", "--warm")
BROWSER = (pytest.mark.slow, pytest.mark.long, pytest.mark.browser, pytest.mark.timeout(600))


def in_browser(test):
    """Mark a test that needs Chromium."""
    for mark in BROWSER:
        test = mark(test)
    return test


def free_port():
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return trial.getsockname()[1]


@contextmanager
def panel_serving(*stores, options=(), port=None, **environment):
    """Serve the application's file as the README says, in a process of its own."""
    port = port or free_port()
    here = ("--port", str(port), "--allow-websocket-origin", f"127.0.0.1:{port}")
    process = subprocess.Popen(
        [sys.executable, "-m", "panel", "serve", APP, *SAFE, *here, *options, "--args", *stores],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"BOKEH_SECRET_KEY": secrets.token_hex(20)} | environment,
    )
    lines, running = [], threading.Event()

    def read():
        for line in process.stdout:
            lines.append(line)
            if "app running at" in line:
                running.set()
        running.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert running.wait(90)
        assert process.poll() is None, "".join(lines)
        yield Served(f"http://127.0.0.1:{port}/app", process, lines)
    finally:
        process.terminate()
        process.wait(timeout=20)
        reader.join(timeout=20)
        process.stdout.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "field.zarr"
    make_field(path)
    return path


# ------------------------------------------------------------------ panel serve


def test_panel_serve_shows_the_store_to_signed_sessions_of_its_own_page(store):
    with panel_serving(os.path.relpath(store)) as served:
        status, _, text = ask(served, "/app?object=12")
        assert status == 200
        assert re.search(r"<title>idfzarr\s+·\s+field\.zarr", text), served.log
        assert re.search(r"https?://(?!127\.0\.0\.1)[^\"' ]+\.(js|css|woff2?)", text) is None
        own = served.url.removesuffix("/app")
        token = token_of(text)
        path = "/app/ws"
        assert upgrade(served, token=token, origin="http://evil.example.org", path=path)[0] == 403
        forged = token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
        refused = upgrade(served, token=forged, origin=own, path=path)
        assert refused == (SWITCHING, CLOSE)
        assert upgrade(served, token=token, origin=own, path=path) == (SWITCHING, TEXT)
        assert "failed" not in served.log, served.log


@pytest.mark.parametrize(
    ("stores", "said"),
    [
        ((), "name one store, not 0"),
        (("a.zarr", "b.zarr"), "name one store, not 2"),
        (("nowhere<b>.zarr",), "nowhere&lt;b&gt;.zarr"),
    ],
    ids=["none", "two", "missing"],
)
def test_what_cannot_be_served_is_one_sentence_on_the_page(stores, said):
    from idfzarr.viewer import app

    page = app._served(list(stores))
    [alert] = page.main
    assert said in alert.object
    assert "<b>" not in alert.object


# ------------------------------------------------------------------ somebody else's login


class Provider(BaseHTTPRequestHandler):
    """Logs in whoever comes, as RFC 6749 (4.1, the authorization code) says; all told in `seen`."""

    client, secret, mail = "idfzarr-test", "s3cret", "ann@example.org"

    def do_GET(self):
        where = urlsplit(self.path)
        asked = dict(parse_qsl(where.query))
        if where.path == "/authorize":
            assert (asked["client_id"], asked["response_type"]) == (self.client, "code")
            self.server.code, self.server.back = secrets.token_urlsafe(9), asked["redirect_uri"]
            query = urlencode({"code": self.server.code, "state": asked["state"]})
            self.send_response(302)
            self.send_header("Location", f"{asked['redirect_uri']}?{query}")
            self.end_headers()
        elif where.path == "/user":
            good = self.headers.get("Authorization") == f"Bearer {self.server.access}"
            self.answer(200 if good else 401, {"email": self.mail} if good else {})
        self.server.seen.append(where.path)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = {name: words[0] for name, words in parse_qs(body).items()}
        self.server.seen.append(self.path)
        wanted = {"client_id": self.client, "client_secret": self.secret,
                  "redirect_uri": self.server.back, "code": self.server.code}  # fmt: skip
        if any(asked.get(name) != word for name, word in wanted.items()):
            self.answer(400, {"error": "invalid_grant"})
            return
        self.server.access = secrets.token_urlsafe(9)
        self.answer(200, {"access_token": self.server.access, "token_type": "Bearer"})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def provider():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.seen, server.code, server.access = [], "", ""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join(20)
    server.server_close()


def test_a_visitor_is_sent_to_the_provider_and_sees_the_page_once_logged_in(store, provider):
    asks, port = f"http://127.0.0.1:{provider.server_port}", free_port()
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    if importlib.util.find_spec("cryptography") is None:
        key = ""
    environment = {
        "PANEL_OAUTH_KEY": Provider.client,
        "PANEL_OAUTH_SECRET": Provider.secret,
        "PANEL_COOKIE_SECRET": secrets.token_hex(32),
        "PANEL_OAUTH_AUTHORIZE_URL": f"{asks}/authorize",
        "PANEL_OAUTH_TOKEN_URL": f"{asks}/token",
        "PANEL_OAUTH_USER_URL": f"{asks}/user",
    } | ({"PANEL_OAUTH_ENCRYPTION": key} if key else {})
    back = f"http://127.0.0.1:{port}/login"
    options = ("--oauth-provider", "generic", "--oauth-redirect-uri", back)
    with panel_serving(str(store), options=options, port=port, **environment) as served:
        status, headers, text = ask(served, "/app")
        assert (status, headers["Location"].split("?")[0]) == (302, "./login")
        assert "field.zarr" not in text
        own = f"http://127.0.0.1:{port}"
        assert upgrade(served, token="x", origin=own, path="/app/ws")[0] == 403  # noqa: S106
        jar = CookieJar()
        visitor = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
        page = visitor.open(served.url, timeout=60)
        assert provider.seen == ["/authorize", "/token", "/user"], served.log
        assert page.url.split("?")[0] == served.url
        assert re.search(r"<title>idfzarr\s+·\s+field\.zarr", page.read().decode()), served.log
        assert {"user", "access_token"} <= {cookie.name for cookie in jar}
        assert provider.access not in str([cookie.value for cookie in jar])
        assert all("HttpOnly" in c._rest for c in jar if c.name in {"user", "access_token"})
        # A code that somebody else was given, with a state that this visitor was not.
        stranger = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with pytest.raises(urllib.error.HTTPError, match="401"):
            stranger.open(f"{back}?code={provider.code}&state=abc", timeout=60)


# ------------------------------------------------------------------ back and forward


class Clock:
    """Tells the time that it is told."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("idfzarr.viewer.link.time.monotonic", clock)
    return clock


@pytest.fixture
def session(store):
    return Session(Field(store))


def test_objects_and_pages_that_were_stayed_at_are_entries_and_other_choices_are_not(
    session, clock
):
    state, history = session.state, follow(session)
    state.object = 5
    assert history.address == ["push", search_of(state)]
    clock.now = 0.5
    state.object = 8
    assert history.address == ["replace", "?object=8"]
    clock.now = 1.5
    state.unit = "mag"
    assert history.address == ["replace", search_of(state)]
    state.page = "look"
    assert history.address == ["push", search_of(state)]
    assert dict(parse_qsl(search_of(state)[1:])) == {"object": "8", "unit": "mag", "page": "look"}


def test_going_back_shows_what_was_looked_at_as_it_was_left(session, clock):
    state, history = session.state, follow(session)
    state.param.update(object=5, unit="mag", types=TYPES[1:2])
    left, values = search_of(state), state.param.values()
    clock.now = 10.0
    state.param.update(object=8, unit="flux", types=TYPES[:1], page="see", compared=[11])
    ahead = search_of(state)
    state.dark = True
    history.went = [left, "1"]
    assert state.param.values() == values | {"dark": True}
    assert history.address[0] == "replace", "an entry made now would cut off those ahead"
    state.dark = False
    history.went = ["", "2"]
    assert (state.object, state.unit) == (OBJECTS[0], "flux")
    history.went = [ahead, "3"]
    assert (state.object, state.page, state.compared) == (8, "see", [11])
    history.went = ["?object=99", "4"]
    assert (state.object, session.notice.visible) == (OBJECTS[0], True)
    assert "the object" in session.notice.object


def test_a_selection_too_long_for_the_address_outlives_going_back(session, monkeypatch):
    monkeypatch.setattr("idfzarr.viewer.link.MOST_SELECTED_IN_URL", 2)
    monkeypatch.setattr("idfzarr.viewer.address.MOST_SELECTED_IN_URL", 2)
    history = follow(session)
    session.state.selection = OBJECTS
    history.went = ["?object=5", "1"]
    assert session.state.selection == OBJECTS
    session.state.selection = OBJECTS[:2]
    history.went = ["?object=5", "2"]
    assert session.state.selection == []


def test_the_address_is_a_state_again(session):
    session.state.param.update(object=5, unit="mag", compared=[8, 11])
    state, refused = restored_state(search_of(session.state), session.field.choices())
    assert refused == ()
    assert state.param.values() | {"name": ""} == session.state.param.values() | {"name": ""}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@in_browser
def test_panel_serve_and_the_way_back_in_a_browser(browser, store):
    with panel_serving(str(store)) as served:
        visit = Visit(browser)
        visit.open(f"{served.url}?object=11").shows_object(11)
        visit.page.get_by_role("button", name=re.compile("^Next object")).click()
        visit.shows_object(5)
        visit.wait_url("object=5")
        time.sleep(1.1)
        visit.turn_to("Judge")
        visit.page.get_by_role("textbox", name="New tag").wait_for()
        time.sleep(1.1)
        visit.page.keyboard.press("j")
        visit.shows_object(8)
        visit.wait_url("object=8")
        entries = visit.page.evaluate("history.length")
        visit.page.go_back()
        visit.shows_object(5)
        assert "page=judge" in visit.page.evaluate("location.search")
        visit.page.go_back()
        visit.wait_figure("sky map")
        visit.page.get_by_role("tab", name="Find", selected=True).wait_for()
        visit.page.go_back()
        visit.shows_object(11)
        visit.page.go_forward()
        visit.shows_object(5)
        visit.page.go_forward()
        visit.page.get_by_role("tab", name="Judge", selected=True).wait_for()
        visit.page.go_forward()
        visit.shows_object(8)
        assert visit.page.evaluate("history.length") == entries
        visit.close()


@in_browser
def test_a_note_of_one_visitor_is_soon_on_the_page_of_another(browser, store):
    with panel_serving(str(store)) as served:
        ann, bob = Visit(browser), Visit(browser)
        for visit in (ann, bob):
            visit.open(f"{served.url}?page=judge&object=11").shows_object(11)
            visit.page.get_by_role("textbox", name="New tag").wait_for()
        note = ann.page.get_by_role("textbox", name=re.compile("^Note"))
        note.fill("seen by both")
        note.blur()
        bob.page.get_by_role("gridcell", name="seen by both").wait_for(timeout=5000)
        typed = bob.page.get_by_role("textbox", name=re.compile("^Note"))
        assert typed.input_value() == "seen by both"
        typed.fill("bob is typ")
        note.fill("changed by ann")
        note.blur()
        bob.page.get_by_role("gridcell", name="changed by ann").wait_for(timeout=5000)
        assert typed.input_value() == "bob is typ"
        bob.page.get_by_text("changed by somebody else while you type").wait_for()
        ann.close()
        bob.close()
