"""The viewer's server without a browser: who may come in, by which address, and to which store."""

from __future__ import annotations

import http.client
import json
import logging
import re
import socket
from urllib.parse import urlencode, urlsplit

import pytest
from viewer_browser import serving

from idfzarr import cli_view
from idfzarr.errors import UsageError
from idfzarr.viewer.serve import ServerSettings

SWITCHING = 101
TEXT, CLOSE = 1, 8  # opcodes of RFC 6455
PASSWORD = "a long and quiet word"  # noqa: S105


@pytest.fixture(scope="module")
def viewer(tiny_store):
    with serving(tiny_store.store) as served:
        yield served


@pytest.fixture(scope="module")
def guarded(tiny_store):
    with serving(tiny_store.store, "--basic-auth", PASSWORD) as served:
        yield served


def ask(served, path="/", *, method="GET", headers=None, body=None):
    """Ask once, following nothing; return status, headers and text."""
    where = urlsplit(served.url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read().decode(errors="replace")
    finally:
        connection.close()


def token_of(page):
    return re.search(r'"token":\s*"([^"]+)"', page)[1]


def upgrade(served, *, token, origin, path="/ws"):
    """Ask for the page's socket from a page of this origin; return status and first opcode."""
    where = urlsplit(served.url)
    lines = (
        f"GET {path} HTTP/1.1",
        f"Host: {where.netloc}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: bokeh, {token}",
        f"Origin: {origin}",
        "",
        "",
    )
    with socket.create_connection((where.hostname, where.port), timeout=60) as line:
        line.sendall("\r\n".join(lines).encode())
        reply = line.makefile("rb")
        with reply:
            status = int(reply.readline().split()[1])
            while reply.readline().strip():
                pass
            opcode = reply.read(1)[0] & 0x0F if status == SWITCHING else None
    return status, opcode


# ------------------------------------------------------------------ settings


def test_a_viewer_is_for_this_machine_unless_more_is_asked_for():
    assert ServerSettings().address == "127.0.0.1"
    assert ServerSettings().is_local


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "viewer.example.org"])  # noqa: S104
def test_a_wider_address_needs_the_hosts_that_may_connect(address):
    with pytest.raises(UsageError, match="--allow-websocket-origin HOST:5006"):
        ServerSettings(address=address)
    assert not ServerSettings(address=address, origins=("viewer.example.org:5006",)).is_local


@pytest.mark.parametrize("origin", ["*", "*:5006", "*.example.org"])
def test_origins_are_named_not_waved_through(origin):
    with pytest.raises(UsageError, match="would let every web page connect"):
        ServerSettings(origins=(origin,))


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_is_a_port(port):
    with pytest.raises(UsageError, match="is none: ports are 1 to 65535"):
        ServerSettings(port=port)


def test_passwords_by_user_come_from_a_file(tmp_path):
    users = tmp_path / "users.json"
    users.write_text(json.dumps({"ann": "1", "bob": "2"}))
    assert ServerSettings(basic_auth=str(users)).users() == {"ann": "1", "bob": "2"}
    assert ServerSettings(basic_auth="word").users() == "word"
    assert ServerSettings().users() is None


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"ann": 1}', '{"ann": ""}'])
def test_a_bad_file_of_passwords_lets_nobody_in(tmp_path, text):
    users = tmp_path / "users.json"
    users.write_text(text)
    with pytest.raises(UsageError, match=r"--basic-auth .+ (cannot be read|must hold passwords)"):
        ServerSettings(basic_auth=str(users)).users()


def test_an_empty_password_is_refused():
    with pytest.raises(UsageError, match="--basic-auth is empty"):
        ServerSettings(basic_auth="").users()


def test_a_wider_address_without_a_login_is_warned_of(tiny_store, caplog):
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.serve import make_server, stop_serving

    settings = ServerSettings(address="0.0.0.0", port=0, origins=("viewer.example.org",))  # noqa: S104
    with caplog.at_level(logging.WARNING, logger="idfzarr.viewer"):
        server = make_server(Field(tiny_store.store), settings=settings)
    stop_serving(server)
    assert "asks for no password" in caplog.text


def test_a_port_that_is_taken_is_said(viewer, tiny_store):
    from idfzarr.viewer.field import Field
    from idfzarr.viewer.serve import make_server

    port = urlsplit(viewer.url).port
    with pytest.raises(UsageError, match=rf"cannot listen at 127\.0\.0\.1 port {port} \(.*--port"):
        make_server(Field(tiny_store.store), settings=ServerSettings(port=port))


# ------------------------------------------------------------------ a running server


def test_the_page_answers_and_names_the_store(viewer):
    status, _, text = ask(viewer)
    assert status == 200
    assert "field.zarr" in text
    assert re.search(r"https?://(?!127\.0\.0\.1)[^\"' ]+\.(js|css|woff2?)", text) is None


def test_the_socket_opens_for_the_own_page_alone(viewer):
    own = viewer.url.rstrip("/")
    status, _, text = ask(viewer)
    assert status == 200
    assert upgrade(viewer, token=token_of(text), origin="http://evil.example.org") == (403, None)
    assert upgrade(viewer, token=token_of(text), origin=own) == (SWITCHING, TEXT)


def test_a_session_that_was_not_signed_here_is_refused(viewer):
    own = viewer.url.rstrip("/")
    _, _, text = ask(viewer)
    token = token_of(text)
    forged = token[:-4] + ("AAAA" if not token.endswith("AAAA") else "BBBB")
    assert upgrade(viewer, token=forged, origin=own) == (SWITCHING, CLOSE)


@pytest.mark.parametrize(
    "path", ["/?store=/etc", "/?path=../../other.zarr", "/?Store=http://example.org/x.zarr"]
)
def test_no_url_names_another_store(viewer, path):
    status, _, text = ask(viewer, path)
    assert status == 200
    assert "<title>field.zarr: idfzarr</title>" in text or "field.zarr" in text
    assert "other.zarr" not in re.sub(r"path=[^\"&]*", "", text)


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/../../../etc/passwd",
        "/zarr.json",
        "/lightcurves/zarr.json",
        "/admin",
    ],
)
def test_nothing_of_the_disk_is_served(viewer, path):
    status, _, text = ask(viewer, path)
    assert status in {400, 403, 404}
    assert "root:" not in text
    assert '"zarr_format"' not in text


def test_a_login_is_asked_for_and_its_page_asks_nothing_of_the_network(guarded):
    status, headers, _ = ask(guarded)
    assert status == 302
    assert headers["Location"].startswith("./login")
    status, headers, text = ask(guarded, "/login")
    assert status == 200
    assert "http://" not in text
    assert "https://" not in text
    assert 'name="_xsrf"' in text


@pytest.mark.parametrize(
    ("password", "with_token", "expected"),
    [(PASSWORD, True, "/"), ("wrong", True, "/login?error="), (PASSWORD, False, None)],
    ids=["right", "wrong", "without the token"],
)
def test_a_login_needs_the_word_and_the_token(guarded, password, with_token, expected):
    _, headers, text = ask(guarded, "/login")
    cookies = "; ".join(c.split(";")[0] for c in headers.get_all("Set-Cookie"))
    token = re.search(r'name="_xsrf" value="([^"]+)"', text)[1]
    fields = {"username": "ann", "password": password} | ({"_xsrf": token} if with_token else {})
    status, headers, _ = ask(
        guarded,
        "/login",
        method="POST",
        body=urlencode(fields),
        headers={"Cookie": cookies, "Content-Type": "application/x-www-form-urlencoded"},
    )
    if expected is None:
        assert status == 403
        return
    assert status == 302
    assert headers["Location"].startswith(expected)
    logged_in = any(c.startswith("user=") for c in headers.get_all("Set-Cookie") or [])
    assert logged_in == (password == PASSWORD)


def test_the_store_is_not_touched_by_visits(viewer, tiny_store, tree):
    before = tree(tiny_store.store)
    assert ask(viewer)[0] == 200
    assert tree(tiny_store.store) == before
    assert before


def test_packages_that_are_absent_are_named(tmp_path, monkeypatch, run_cli):
    monkeypatch.setattr(cli_view, "_PACKAGES", ("panel", "no_such_package"))
    done = run_cli("view", str(tmp_path))
    assert done.code == 2
    assert "needs no_such_package, not installed here" in done.err
    assert "idfzarr[viewer]" in done.err
