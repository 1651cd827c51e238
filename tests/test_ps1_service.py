"""The pretended archive of Pan-STARRS1, asked with the standard library alone."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import pairwise
from types import SimpleNamespace

import pytest
from astropy.io import fits

from idfzarr.errors import UsageError
from idfzarr.testing.ps1_faults import (
    ChangedCard,
    CutHeap,
    Disposition,
    Dripped,
    ETag,
    FlippedBit,
    GzipBomb,
    Html,
    NoLength,
    RangeIgnored,
    RangeRefused,
    RawBytes,
    Redirect,
    Replaced,
    Reset,
    ShortLength,
    Stalled,
    Status,
    Truncated,
    WrongFile,
    WrongRange,
    examples,
)
from idfzarr.testing.ps1_files import PS1Sky, file_bytes, file_name, relative_path, write_files
from idfzarr.testing.ps1_service import PS1Service

CELL = "skycell.1405.053"
SKY = PS1Sky(seed=3, size=(96, 90))
HEADER = "projcell subcell ra dec filter mjd type filename shortname badflag"


@pytest.fixture(scope="module")
def running():
    with PS1Service(SKY, absent=["*.1405.053.stk.y.*"], bad=["*.1405.053.stk.i.*"]) as made:
        yield made


@pytest.fixture
def service(running):
    running.clear()
    yield running
    running.clear()


@pytest.fixture(scope="module")
def whole():
    return file_bytes(SKY, CELL, "r")


def ask(service, path=None, *, method="GET", timeout=20, body=None, **headers):
    """Return status, headers and body; whatever goes wrong is raised."""
    path = f"/rings.v3.skycell/{relative_path(CELL, 'r')}" if path is None else path
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=timeout)
    with contextlib.closing(connection):
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=sent)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()


def test_a_file_as_the_archive_serves_it(service, whole):
    status, headers, body = ask(service)
    assert (status, body) == (200, whole)
    assert headers["Content-Type"] == "image/fits"
    assert headers["Content-Length"] == str(len(whole))
    assert headers["Accept-Ranges"] == "bytes"
    assert headers["ETag"].startswith('"')
    assert parsedate_to_datetime(headers["Last-Modified"]).tzinfo is not None
    assert service.url_of(CELL, "r") == f"{service.url}/rings.v3.skycell/{relative_path(CELL, 'r')}"


def test_head_tells_what_get_sends_and_sends_nothing(service, whole):
    status, headers, body = ask(service, method="HEAD")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == str(len(whole))
    assert headers["ETag"] == ask(service)[1]["ETag"]
    (first, second) = service.requests
    assert (first.method, first.sent, second.sent) == ("HEAD", 0, len(whole))


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-299", 100, 300),
        ("bytes=2880-", 2880, None),
        ("bytes=-500", -500, None),
        ("bytes=100-99999999", 100, None),
    ],
)
def test_ranges(service, whole, asked, start, stop):
    status, headers, body = ask(service, Range=asked)
    assert (status, body) == (206, whole[start:stop])
    first = start if start >= 0 else len(whole) + start
    span = f"bytes {first}-{first + len(body) - 1}/{len(whole)}"
    assert headers["Content-Range"] == span
    assert headers["Content-Length"] == str(len(body))
    (record,) = service.requests
    assert (record.range, record.status, record.sent) == (asked, 206, len(body))


@pytest.mark.parametrize(
    "asked", ["bytes=5-2", "lines=1-2", "bytes=0-1,5-6", "bytes=x-", "bytes=-"]
)
def test_ranges_that_mean_nothing_are_ignored(service, whole, asked):
    assert ask(service, Range=asked)[::2] == (200, whole)


def test_a_range_beyond_the_end_is_refused(service, whole):
    status, headers, _ = ask(service, Range=f"bytes={len(whole)}-")
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    assert ask(service, Range="bytes=-0")[0] == 416


def test_if_range_and_other_conditions(service, whole):
    headers = ask(service)[1]
    tag, date = headers["ETag"], headers["Last-Modified"]
    part = {"Range": "bytes=10-19"}
    assert ask(service, **part, If_Range=tag)[::2] == (206, whole[10:20])
    assert ask(service, **part, If_Range='"other"')[::2] == (200, whole)
    assert ask(service, **part, If_Range=date)[0] == 206
    assert ask(service, **part, If_Range="Tue, 01 Jan 2030 00:00:00 GMT")[0] == 200
    assert ask(service, **part, If_Range="nonsense")[0] == 200
    assert ask(service, **part, If_Match='"other"')[0] == 412
    assert ask(service, **part, If_Match=tag)[0] == 206
    status, of_same, body = ask(service, If_None_Match=tag)
    assert (status, body, of_same["ETag"]) == (304, b"", tag)
    service.plant("*", ETag("weak"), times=None)
    assert ask(service)[1]["ETag"] == f"W/{tag}"
    # A weak tag is never good enough for a range.
    assert ask(service, **part, If_Range=f"W/{tag}")[0] == 200


def test_what_is_not_there_is_404(service):
    folder = "/rings.v3.skycell/1405/053/"
    for path in (
        "/",
        folder,
        folder[:-1],
        "/rings.v3.skycell/1405/053/" + file_name("1405.054", "r"),
        "/rings.v3.skycell/" + relative_path(CELL, "y"),
        "/rings.v3.skycell/" + relative_path("0635.001", "r"),
        folder + "rings.v3.skycell.1405.053.stk.u.unconv.fits",
        "/rings.v3.skycell/0100/000/rings.v3.skycell.0100.000.stk.r.unconv.fits",
        "/rings.v3.skycell/1405/053/../053/" + file_name(CELL, "r"),
    ):
        assert ask(service, path)[0] == 404, path
        assert ask(service, path, method="HEAD")[0] == 404, path
    assert ask(service, "/rings.v3.skycell/" + relative_path("0635.000", "r"))[0] == 200
    assert ask(service, method="DELETE")[0] == 405


def test_mirrors_have_the_same_bytes(service, whole):
    mirrors, path = service.mirrors, relative_path(CELL, "r")
    for url in (
        mirrors["images"] + path,
        mirrors["cloud"] + path,
        mirrors["mast"] + file_name(CELL, "r"),
    ):
        assert ask(service, url.removeprefix(service.url))[::2] == (200, whole)
    for url in (mirrors["cloud"] + "1405/x", mirrors["mast"] + file_name(CELL, "y")):
        assert ask(service, url.removeprefix(service.url))[0] == 404
    service.plant(f"*{file_name(CELL, 'i')}", Status(503))
    url = mirrors["mast"] + file_name(CELL, "i")
    assert ask(service, url.removeprefix(service.url))[0] == 503


def test_list_of_files_is_that_of_the_archive(service):
    status, headers, body = ask(service, "/cgi-bin/ps1filenames.py?skycell=635.0&filters=i")
    path = "/rings.v3.skycell/0635/000/rings.v3.skycell.0635.000.stk.i.unconv.fits"
    row = "635 0 2.128573126861541 -31.790888721856746 i 0.0 stack"
    assert status == 200
    assert headers.get_content_type() == "text/plain"
    assert body.decode() == f"{HEADER}\n{row} {path} {path.rpartition('/')[2]} 0\n"


def lines(service, query, **more):
    status, _, body = ask(service, f"/cgi-bin/ps1filenames.py?{query}", **more)
    assert status == 200
    header, *rows = body.decode().splitlines()
    assert header == HEADER
    return [row.split(" ") for row in rows]


def test_list_of_files_by_place_type_and_post(service):
    rows = lines(service, "ra=64.5&dec=28&filters=gr&type=stack,stack.wt,stack.mask,stack.num")
    assert [(r[4], r[6]) for r in rows] == [
        (band, kind) for band in "gr" for kind in ("stack", "stack.wt", "stack.mask")
    ]
    assert {r[0] + "." + r[1] for r in rows} == {"1944.3"}
    for row in rows:
        assert ask(service, row[7], method="HEAD")[0] == 200
    # y is absent, and i is bad.
    found = lines(service, "skycell=1405.053&format=csv")
    assert [(r[4], r[9]) for r in found] == [("g", "0"), ("r", "0"), ("i", "1"), ("z", "0")]
    assert lines(service, "skycell=635.001") == []
    assert lines(service, "skycell=100.001") == []
    assert lines(service, "ra=10&dec=-60") == []
    posted = lines(service, "filters=r", method="POST", body="64.5 28\n10.6847083 41.26875\n")
    assert [r[0] for r in posted] == ["1944", "2159"]
    form = (
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n'
        b"Content-Type: text/plain\r\n\r\n64.5 28\n\r\n--edge--\r\n"
    )
    kind = "multipart/form-data; boundary=edge"
    sent = lines(service, "filters=r", method="POST", body=form, Content_Type=kind)
    assert [r[0] for r in sent] == ["1944"]


@pytest.mark.parametrize(
    "query",
    [
        "skycell=1405",
        "skycell=1405.*",
        "",
        "ra=1",
        "ra=x&dec=1",
        "ra=1&dec=95",
        "ra=nan&dec=1",
        "skycell=1405.053&filters=u",
        "skycell=1405.053&type=galaxy",
    ],
)
def test_list_of_files_refuses(service, query):
    assert ask(service, f"/cgi-bin/ps1filenames.py?{query}")[0] == 400


@pytest.mark.parametrize("code", [403, 404, 410, 429, 500, 503])
def test_status(service, whole, code):
    service.plant("*.1405.053.stk.r.*", Status(code), first=2, times=2)
    assert [ask(service)[0] for _ in range(4)] == [200, code, code, 200]
    assert ask(service, method="HEAD")[0] == 200
    assert [r.faults for r in service.requests] == [(), ("Status",), ("Status",), (), ()]


def test_retry_after_in_seconds_as_a_date_and_as_nonsense(service):
    service.plant("*", Status(503, retry_after=2))
    service.plant("*", Status(503, retry_after=60, as_date=True), first=2)
    service.plant("*", Status(429, retry_after="soon"), first=3)
    assert ask(service)[1]["Retry-After"] == "2"
    date = parsedate_to_datetime(ask(service)[1]["Retry-After"])
    assert 50 < (date - datetime.now(tz=UTC)).total_seconds() <= 60
    status, headers, _ = ask(service)
    assert (status, headers["Retry-After"]) == (429, "soon")


@pytest.mark.parametrize("at", [0, 1000, 0.5])
def test_truncated_and_reset(service, whole, at):
    cut = at if isinstance(at, int) else len(whole) // 2
    service.plant("*", Truncated(at=at))
    service.plant("*", Reset(at=at), first=2)
    with pytest.raises(http.client.IncompleteRead, match="bytes read") as caught:
        ask(service)
    assert caught.value.partial == whole[:cut]
    with pytest.raises(ConnectionResetError, match="reset"):
        ask(service)
    assert ask(service)[2] == whole
    assert [r.sent for r in service.requests] == [cut, cut, len(whole)]


def test_a_reset_range_can_be_resumed(service, whole):
    tag = ask(service)[1]["ETag"]
    service.plant("*", Reset(at=5000))
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        path = service.requests[0].path
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while True:
                got += connection.recv(65536)
    kept = got.partition(b"\r\n\r\n")[2]
    assert kept == whole[:5000]
    rest = ask(service, Range="bytes=5000-", If_Range=tag)
    assert (rest[0], kept + rest[2]) == (206, whole)


def test_lengths_that_lie_or_are_missing(service, whole):
    service.plant("*", ShortLength(by=2880))
    service.plant("*", NoLength(), first=2)
    service.plant("*", NoLength(at=0.5), first=3)
    _, headers, body = ask(service)
    assert headers["Content-Length"] == str(len(whole) - 2880)
    assert body == whole[:-2880]
    _, headers, body = ask(service)
    assert (headers["Content-Length"], headers["Transfer-Encoding"]) == (None, "chunked")
    assert body == whole
    with pytest.raises(http.client.IncompleteRead, match="bytes read") as caught:
        ask(service)
    assert whole.startswith(caught.value.partial)


def test_html_with_status_200(service):
    service.plant("*", Html())
    status, headers, body = ask(service)
    assert (status, headers.get_content_type()) == (200, "text/html")
    assert b"<html>" in body
    assert not body.startswith(b"SIMPLE")


def test_stalls_before_and_within_the_body(service, whole):
    service.plant("*", Stalled(at=None, seconds=0.4))
    service.plant("*", Stalled(at=0.5, seconds=0.4), first=2)
    for _ in range(2):
        began = time.monotonic()
        assert ask(service)[2] == whole
        assert time.monotonic() - began > 0.35
    service.plant("*", Stalled(at=0.5, seconds=60))
    with pytest.raises(TimeoutError, match="timed out"):
        ask(service, timeout=0.5)
    assert service.requests[-1].sent == len(whole) // 2


def test_a_slow_drip(service, whole):
    service.plant("*", Dripped(piece=len(whole) // 5 + 1, seconds=0.1))
    began = time.monotonic()
    assert ask(service)[2] == whole
    assert time.monotonic() - began > 0.45


def test_stopping_does_not_wait_for_those_who_stall():
    service = PS1Service(SKY)
    service.start()
    service.plant("*", Stalled(at=0.5, seconds=600))
    failed = []

    def patient():
        try:
            ask(service)
        except (OSError, http.client.HTTPException) as error:
            failed.append(error)

    waiting = threading.Thread(target=patient)
    waiting.start()
    deadline = time.monotonic() + 10
    while not any(r.sent for r in service.requests) and time.monotonic() < deadline:
        time.sleep(0.02)
    began = time.monotonic()
    service.stop()
    waiting.join(10)
    assert time.monotonic() - began < 5
    assert not waiting.is_alive()
    assert len(failed) == 1
    with pytest.raises(ConnectionRefusedError, match="refused"):
        ask(service)


@pytest.mark.parametrize("fault", [None, Dripped(piece=2000, seconds=0.001), Truncated()])
def test_clients_that_hang_up_leave_no_traceback(service, caplog, fault):
    if fault is not None:
        service.plant("*", fault, times=None)
    path = f"/rings.v3.skycell/{relative_path(CELL, 'r')}"
    for number in range(20):
        client = socket.create_connection(("127.0.0.1", service.port))
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        if number % 4:
            client.recv(1 + 500 * number)
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    until = time.monotonic() + 20
    while not all(one.finished for one in service.requests) and time.monotonic() < until:
        time.sleep(0.01)
    assert len(service.requests) >= 15
    assert all(one.finished for one in service.requests)
    assert caplog.records == []


def test_redirects(service):
    path = "/rings.v3.skycell/" + relative_path(CELL, "r")
    service.plant("*", Redirect("{other_url}{path}", code=301))
    service.plant("*", Redirect("{path}"), first=2)
    service.plant("*", Redirect("{path}?again={number}", code=307), first=3)
    service.plant("*", Redirect("file:///etc/passwd", code=308), first=4)
    found = [ask(service) for _ in range(4)]
    assert [status for status, _, _ in found] == [301, 302, 307, 308]
    assert [headers["Location"] for _, headers, _ in found] == [
        service.other_url + path,
        path,
        f"{path}?again=3",
        "file:///etc/passwd",
    ]
    assert service.other_url == f"http://localhost:{service.port}"
    assert {r.host for r in service.requests} == {"127.0.0.1"}


@pytest.mark.parametrize("etag", ["new", "same", "weak"])
def test_a_file_that_changes_between_two_ranges(service, whole, etag):
    service.plant("*", Replaced(etag=etag), first=2, times=None)
    status, first, start = ask(service, Range="bytes=0-9999")
    assert (status, start) == (206, whole[:10000])
    status, second, rest = ask(service, Range="bytes=10000-", If_Range=first["ETag"])
    other = file_bytes(PS1Sky(seed=4, size=(96, 90)), CELL, "r")
    assert other != whole
    if etag == "same":
        assert (status, second["ETag"]) == (206, first["ETag"])
        assert rest == other[10000:]
    else:
        assert (status, rest) == (200, other)
        expected = first["ETag"][:-1] + '-b"' if etag == "new" else f"W/{first['ETag']}"
        assert second["ETag"] == expected
    changed = second["Last-Modified"] != first["Last-Modified"]
    assert changed == (etag == "new")


def test_ranges_that_go_wrong(service, whole):
    part = {"Range": "bytes=100-199"}
    for number, fault in enumerate(
        [
            RangeIgnored(),
            RangeRefused(),
            WrongRange(shift=-50),
            WrongRange(total="*"),
            WrongRange(header=False),
        ],
        start=1,
    ):
        service.plant("*", fault, first=number)
    assert ask(service, **part)[::2] == (200, whole)
    status, headers, _ = ask(service, **part)
    assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    for expected in (f"bytes 50-149/{len(whole)}", "bytes 100-199/*", None):
        status, headers, body = ask(service, **part)
        assert (status, headers["Content-Range"], body) == (206, expected, whole[100:200])
    service.clear()
    service.plant("*", RangeRefused())
    assert ask(service)[0] == 200


def test_a_bomb_is_small_and_begins_like_the_file(service, whole):
    service.plant("*", GzipBomb(size=64 * 2**20))
    _, headers, body = ask(service)
    assert headers["Content-Encoding"] == "gzip"
    assert len(body) < 2**20
    unpack, total = zlib.decompressobj(wbits=31), 0
    start = unpack.decompress(body, 2880)
    while unpack.unconsumed_tail:
        total += len(unpack.decompress(unpack.unconsumed_tail, 2**22))
    assert start == whole[:2880]
    assert total == 64 * 2**20


def test_a_name_that_leads_elsewhere(service, whole):
    service.plant("*", Disposition("../evil.fits"))
    _, headers, body = ask(service)
    assert headers["Content-Disposition"] == 'attachment; filename="../evil.fits"'
    assert body == whole


def test_bytes_that_are_wrong_under_the_right_length_and_tag(service, whole):
    tag = ask(service)[1]["ETag"]
    service.clear()
    other = file_name("skycell.1405.054", "r")
    for number, fault in enumerate(
        [
            FlippedBit(at=20_000, bit=0),
            CutHeap(at=0.5),
            WrongFile(other),
            ChangedCard("ZNAXIS1", "2000000000"),
            ChangedCard("SKYCELL", None),
        ],
        start=1,
    ):
        service.plant("*", fault, first=number)
    flipped, cut, wrong, lying, unnamed = (ask(service) for _ in range(5))
    assert {reply[1]["ETag"] for reply in (flipped, cut, wrong, lying)} == {tag}
    assert [i for i, (a, b) in enumerate(zip(flipped[2], whole, strict=True)) if a != b] == [20_000]
    half = len(whole) // 2
    assert cut[2] == whole[:half].ljust(len(whole), b"\0")
    assert wrong[2] == file_bytes(SKY, "skycell.1405.054", "r")
    with fits.open(io.BytesIO(lying[2]), disable_image_compression=True) as opened:
        assert opened[1].header["ZNAXIS1"] == 2_000_000_000
    assert b"SKYCELL =" not in unnamed[2]
    assert len(unnamed[2]) == len(whole)


def test_bytes_that_are_no_http(service):
    service.plant("*", RawBytes(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nSIMPLE"))
    service.plant("*", RawBytes(b"220 ready\r\n"), first=2)
    assert ask(service)[0] == 200
    with pytest.raises(http.client.BadStatusLine, match="220 ready"):
        ask(service)


@pytest.mark.parametrize("name", sorted(examples()))
def test_every_example_leaves_the_service_well(service, whole, name):
    fault = examples()[name]
    service.plant("*", fault)
    with contextlib.suppress(OSError, http.client.HTTPException):
        ask(service, Range="bytes=1000-50000", timeout=0.5)
    (met,) = service.requests
    assert met.faults == (type(fault).__name__,)
    assert ask(service)[::2] == (200, whole)


def test_faults_act_on_their_paths_and_together(service):
    service.plant("*.stk.g.*", Status(500), times=None)
    service.plant("*.stk.r.*", ETag("none"))
    service.plant("*.stk.r.*", NoLength())
    green = "/rings.v3.skycell/" + relative_path(CELL, "g")
    assert [ask(service, green)[0], ask(service, green)[0]] == [500, 500]
    status, headers, _ = ask(service)
    assert (status, headers["ETag"], headers["Content-Length"]) == (200, None, None)
    assert service.requests[-1].faults == ("ETag", "NoLength")
    assert service.bytes_sent("*.stk.g.*") == 8
    assert service.bytes_sent("*.stk.r.*") > 8


def test_requests_of_one_path_are_counted_apart_from_another(service):
    service.plant("*", Status(503), first=2)
    red = [f"/rings.v3.skycell/{relative_path(name, 'r')}" for name in (CELL, "1405.054")]
    assert [ask(service, path)[0] for path in (*red, *red)] == [200, 200, 503, 503]


def test_many_at_once(service, whole):
    found = []

    def one():
        found.append(hashlib.sha256(ask(service)[2]).digest())

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [hashlib.sha256(whole).digest()] * 16
    assert len(service.requests) == 16
    assert all(a.started <= b.started for a, b in pairwise(service.requests))


def test_one_connection_serves_many_requests(service, whole):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("GET", "/rings.v3.skycell/" + relative_path(CELL, "r"))
            assert connection.getresponse().read() == whole


def test_a_folder_is_served_flat_and_as_a_tree(tmp_path):
    write_files(tmp_path, SKY, [CELL], bands="r", kinds=["image"])
    write_files(tmp_path, SKY, [CELL], bands="g", kinds=["image"], flat=True)
    with PS1Service(str(tmp_path)) as service:
        assert ask(service)[2] == file_bytes(SKY, CELL, "r")
        green = "/rings.v3.skycell/" + relative_path(CELL, "g")
        assert ask(service, green)[2] == file_bytes(SKY, CELL, "g")
        assert ask(service, green.replace(".g.", ".z."))[0] == 404
        assert [r[4] for r in lines(service, "skycell=1405.053")] == ["g", "r"]
        with pytest.raises(UsageError, match="knows no sky"):
            _ = service.sky


def test_what_cannot_be_served_is_said(tmp_path, service):
    with pytest.raises(UsageError, match="there is no folder"):
        PS1Service(tmp_path / "nothing")
    with pytest.raises(UsageError, match=r"listens on .* already"):
        service.start()
    with pytest.raises(OSError, match="in use"), PS1Service(SKY, port=service.port):
        pass


def test_from_the_command_line():
    command = [sys.executable, "-m", "idfzarr.testing.ps1_service", "--port", "0"]
    running = subprocess.Popen(
        [*command, "--size", "64", "60", "--seed", "9"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        url = running.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:")
        port = SimpleNamespace(port=int(url.rpartition(":")[2]))
        assert ask(port)[2] == file_bytes(PS1Sky(seed=9, size=(64, 60)), CELL, "r")
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
        assert running.stderr.read() == ""
    finally:
        running.kill()
        running.communicate()
