"""One file from a service that misbehaves: whole and right, or refused with the reason."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from idfzarr.errors import ImageUnreadable, UsageError
from idfzarr.ps1.download import Downloader, NotDownloaded, RetryRules, retry_after
from idfzarr.ps1.mirrors import DEFAULT_MIRRORS, AddressRules, Refused, address_of
from idfzarr.ps1.partial import BLOCK, Part, PartNote, is_strong, part_path
from idfzarr.ps1.sky_keys import sky_array
from idfzarr.ps1.transport import AiohttpTransport
from idfzarr.testing import ps1_faults as faults
from idfzarr.testing.ps1_service import PS1Service

ARRAY = sky_array("1405.053", "r", "image")
NAME = "rings.v3.skycell.1405.053.stk.r.unconv.fits"
QUICK = RetryRules(attempts=4, seconds=20.0, first_wait=0.01, longest_wait=0.05)


@pytest.fixture(scope="module")
def running():
    with PS1Service(size=(1100, 1000)) as service:
        yield service


@pytest.fixture
def service(running):
    running.clear()
    return running


@pytest.fixture(scope="module")
def wanted(running):
    body = running.archive.bytes_of(NAME)
    assert len(body) > BLOCK
    return hashlib.sha256(body).hexdigest()


async def accepted(part):
    """Accept anything, and say what its bytes are."""
    os.lseek(part.handle, 0, os.SEEK_SET)
    return hashlib.sha256(os.pread(part.handle, 1 << 28, 0)).hexdigest()


def download(service, folder, *, urls=None, retry=QUICK, accept=accepted, silence=1.0, **options):
    """Download the file; return what came of it, or raise why not."""
    mirrors = urls or [service.mirrors["images"]]
    rules = options.pop("rules", None) or AddressRules.of(mirrors)

    async def run():
        async with AiohttpTransport(rules, silence=silence) as transport:
            downloader = Downloader(transport, rules, retry=retry, **options)
            part = Part.take(folder, NAME)
            assert part is not None
            with part:
                return await downloader.fetch([address_of(m, ARRAY) for m in mirrors], part, accept)

    return asyncio.run(run())


# -------------------------------------------------------------------- what may be asked for


def test_defaults_are_the_archives_own():
    assert address_of(DEFAULT_MIRRORS[0], ARRAY) == (
        "https://ps1images.stsci.edu/rings.v3.skycell/1405/053/" + NAME
    )
    assert address_of(DEFAULT_MIRRORS[2], ARRAY).endswith("?uri=mast:PS1/product/" + NAME)
    assert address_of("https://here/x/", ARRAY) == f"https://here/x/1405/053/{NAME}"
    rules = AddressRules.of(DEFAULT_MIRRORS)
    for mirror in DEFAULT_MIRRORS:
        rules.check(address_of(mirror, ARRAY))
    assert rules.named == frozenset()


HOSTILE_ADDRESSES = (
    "http://ps1images.stsci.edu/a",  # without TLS
    "https://ps1images.stsci.edu:8443/a",
    "https://ps1images.stsci.edu.evil.org/a",
    "https://evil.org/ps1images.stsci.edu",
    "https://user@ps1images.stsci.edu/a",
    "https://user:secret@ps1images.stsci.edu/a",
    "https://ps1images.stsci.edu@evil.org/a",
    "https://169.254.169.254/latest/meta-data/",
    "https://127.0.0.1/a",
    "https://[::1]/a",
    "https://[::ffff:10.0.0.1]/a",
    "https://0x7f000001/a",
    "https://2130706433/a",
    "https://localhost/a",
    "file:///etc/passwd",
    "ftp://ps1images.stsci.edu/a",
    "gopher://ps1images.stsci.edu/a",
    "data:text/plain,SIMPLE",
    "https://:443/a",
    "https://ps1images.stsci.edu:99999/a",
    "https://ps1images.stsci.edu\\@evil.org/a",
    "https://ps1images.stsci.edu/a b",
    "https://ps1images.stsci.edu/\r\nHost: evil.org",
    "https://ps1\u0131m.org/a",
)


@pytest.mark.parametrize("address", HOSTILE_ADDRESSES)
def test_hostile_addresses_and_redirections_are_refused(address):
    rules = AddressRules.of(DEFAULT_MIRRORS)
    with pytest.raises(Refused, match=r"not on the list|it |scheme"):
        rules.check(address)
    with pytest.raises(Refused, match="redirection"):
        rules.after_redirect("https://ps1images.stsci.edu/b", address)


def test_redirections_on_the_same_hosts_are_followed():
    rules = AddressRules.of(DEFAULT_MIRRORS)
    at = "https://ps1images.stsci.edu/b/c"
    assert rules.after_redirect(at, "d#e") == "https://ps1images.stsci.edu/b/d"
    assert rules.after_redirect(at, "https://mast.stsci.edu/f") == "https://mast.stsci.edu/f"
    named = AddressRules.of(["http://127.0.0.1:8080/{path}"])
    named.check("http://127.0.0.1:8080/x")
    for other in ("http://127.0.0.1:22/x", "http://127.0.0.2:8080/x"):
        with pytest.raises(Refused, match="not on the list"):
            named.check(other)


@pytest.mark.parametrize(
    "address",
    [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "::1",
        "fe80::1%eth0",
        "::ffff:10.0.0.1",
        "192.168.1.1",
        "0.0.0.0",  # noqa: S104
        "224.0.0.1",
        "100.64.0.1",
        "fc00::1",
    ],
)
def test_private_addresses_are_refused_unless_named(address):
    rules = AddressRules.of(DEFAULT_MIRRORS)
    with pytest.raises(Refused, match="no public address"):
        rules.check_address("ps1images.stsci.edu", address)
    rules.check_address("ps1images.stsci.edu", "130.167.1.1")
    AddressRules.of(["http://mirror.lan/{path}"]).check_address("mirror.lan", address)


def test_a_name_that_leads_to_a_private_address_is_not_connected_to(service, tmp_path):
    url = service.other_url + "/rings.v3.skycell/{path}"  # localhost, by its name
    rules = AddressRules(frozenset([("http", "localhost", service.port)]), frozenset())
    with pytest.raises(NotDownloaded, match=r"localhost leads to (127|::).*no public address"):
        download(service, tmp_path, urls=[url], rules=rules)
    assert service.requests == ()


@pytest.mark.parametrize("mirror", ["ftp://a/{path}", "nothing", "", "https://a b/{path}"])
def test_mirrors_that_are_none_are_refused(mirror):
    with pytest.raises(UsageError, match="mirror"):
        AddressRules.of([mirror])
    with pytest.raises(UsageError, match="no mirror"):
        AddressRules.of([])


def test_retry_after_in_seconds_and_as_a_date():
    now = datetime(2026, 1, 1, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert retry_after("120") == 120
    assert retry_after(later, now=now) == 90
    assert retry_after(format_datetime(now - timedelta(days=1), usegmt=True), now=now) == 0
    for nothing in (None, "", "soon", "-5", "1e9", "9" * 40, "Thu, 99 Xxx 2026 25:00:00 GMT"):
        assert retry_after(nothing) == 0


# -------------------------------------------------------------------- what is under way


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/b", "..", ".", "", ".hidden", "a\0b", "x" * 129, "-rf", "a b", "a..b", "ü"],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be the name"):
        part_path(tmp_path, name)


def test_a_link_in_place_of_a_part_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    folder = tmp_path / "downloads"
    folder.mkdir()
    (folder / f"{NAME}.part").symlink_to(outside)
    with pytest.raises(OSError, match="symbolic"):
        Part.take(folder, NAME)
    assert outside.read_bytes() == b"mine"


def test_a_part_goes_on_where_its_note_says_and_no_further(tmp_path):
    body = os.urandom(BLOCK + 5000)
    with Part.take(tmp_path, NAME) as part:
        assert Part.take(tmp_path, NAME) is None, "two downloads shared one file"
        part.begin(PartNote(url="u", etag='"t"', length=len(body)))
        for at in range(0, len(body), 4096):
            part.add(body[at : at + 4096])
    with Part.take(tmp_path, NAME) as part:  # the last bytes had no note when it was killed
        assert BLOCK <= part.note.count < BLOCK + 4096
        assert part.note.resumable
        assert not part.note.whole
        part.add(body[part.note.count :])
        part.take_note()
        assert part.note.whole
        assert part.note.sha256 == hashlib.sha256(body).hexdigest()
    with part.path.open("r+b") as file:
        file.seek(10)
        file.write(b"\0\0")
    with Part.take(tmp_path, NAME) as part:
        assert part.note == PartNote(url="")
        assert part.path.stat().st_size == 0
        part.remove()
    assert list(tmp_path.iterdir()) == []


HOSTILE_NOTES = (
    b"", b"[]", b"{", b"null", b"[" * 5000, b'{"url": 1}',
    json.dumps({"url": "u", "etag": '"t"', "last_modified": "", "length": 9, "count": -1,
                "sha256": ""}).encode(),
    json.dumps({"url": "u", "etag": '"t"', "last_modified": "", "length": 9, "count": 10**12,
                "sha256": ""}).encode(),
    json.dumps({"url": "u", "etag": '"t"', "last_modified": "", "length": True, "count": 4,
                "sha256": ""}).encode(),
    json.dumps({"url": "u", "etag": '"t"', "last_modified": "", "length": 9, "count": 4,
                "sha256": "0" * 64}).encode(),
)  # fmt: skip


@pytest.mark.parametrize("note", HOSTILE_NOTES)
def test_hostile_notes_are_not_believed(tmp_path, note):
    path = part_path(tmp_path, NAME)
    path.write_bytes(b"abcdef")
    path.with_name(path.name + ".json").write_bytes(note)
    with Part.take(tmp_path, NAME) as part:
        assert part.note.count == 0
        assert path.stat().st_size == 0


def test_only_strong_tags_are_strong():
    assert is_strong('"abc"')
    for weak in ("", 'W/"abc"', "abc", '""', '"', '"a"b"'):
        assert not is_strong(weak)


# -------------------------------------------------------------------- what comes


BETTER_NEXT_TIME = {
    name: fault
    for name, fault in faults.examples().items()
    if name
    in {"429", "500", "503", "503 seconds", "503 date", "503 nonsense", "html", "truncated"}
    | {"chunked", "chunked and cut", "stalled", "silent", "reset", "weak tag", "no tag"}
    | {"redirected to itself", "bomb", "disposition", "no HTTP", "short length"}
}


@pytest.mark.parametrize("name", BETTER_NEXT_TIME)
def test_what_fails_once_comes_whole_the_next_time(service, tmp_path, wanted, name):
    service.plant("*", BETTER_NEXT_TIME[name])
    began = time.monotonic()

    async def whole(part):
        found = await accepted(part)
        if found != wanted:
            msg = "cut"
            raise ImageUnreadable(msg)
        return found

    done = download(service, tmp_path, accept=whole)
    assert done.accepted == wanted
    assert done.note.sha256 == wanted
    if name == "503 seconds":
        assert time.monotonic() - began >= 1.0, "Retry-After was not waited for"
    heeded = {"chunked", "weak tag", "no tag", "redirected to itself", "disposition"}
    assert bool(done.attempts) == (name not in heeded), done.attempts


@pytest.mark.parametrize("name", ["truncated", "chunked and cut", "stalled", "reset"])
def test_the_rest_is_asked_for_and_at_most_a_block_comes_twice(service, tmp_path, wanted, name):
    service.plant("*", faults.examples()[name])
    done = download(service, tmp_path)
    assert done.accepted == wanted
    first, second = service.requests
    assert first.range is None
    assert second.status == 206
    assert second.if_range == done.note.etag
    begins = int(second.range.removeprefix("bytes=").removesuffix("-"))
    assert 0 <= first.sent - begins <= BLOCK
    assert begins > first.sent // 2
    assert service.bytes_sent() <= done.note.length + BLOCK


@pytest.mark.parametrize(
    "name",
    [
        "changed",
        "changed under a weak tag",
        "range ignored",
        "range refused",
        "range shifted",
        "range of a longer file",
        "range not told",
    ],
)
def test_a_rest_that_does_not_fit_is_not_taken(service, tmp_path, wanted, name):
    service.plant("*", faults.Truncated())
    service.plant("*", faults.examples()[name], first=2, times=None)
    # another file takes the service a moment to make
    done = download(service, tmp_path, silence=20)
    assert len(service.requests) >= 2
    service.clear()
    service.plant("*", faults.examples()[name], times=None)
    # the file as it is now, whole, and not half of each
    assert download(service, tmp_path / "anew", silence=20).accepted == done.accepted
    assert (done.accepted == wanted) == (not name.startswith("changed"))


def test_a_weak_tag_is_never_resumed(service, tmp_path, wanted):
    service.plant("*", faults.ETag("weak"), times=None)
    service.plant("*", faults.Truncated())
    assert download(service, tmp_path).accepted == wanted
    assert [r.range for r in service.requests] == [None, None]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 414, 418, 451])
def test_answers_that_will_not_change_are_not_asked_for_again(service, tmp_path, code):
    service.plant("*", faults.Status(code), times=None)
    with pytest.raises(NotDownloaded, match=f"status {code}") as failed:
        download(service, tmp_path)
    assert failed.value.absent == (code in {404, 410})
    assert len(service.requests) == 1


def test_attempts_and_time_are_bounded(service, tmp_path):
    service.plant("*", faults.Status(503), times=None)
    with pytest.raises(NotDownloaded, match="status 503") as failed:
        download(service, tmp_path)
    assert len(service.requests) == QUICK.attempts == len(failed.value.attempts)
    service.clear()
    service.plant("*", faults.Status(503, retry_after=3600), times=None)
    began = time.monotonic()
    with pytest.raises(NotDownloaded, match="status 503"):
        download(service, tmp_path)
    assert len(service.requests) == 1
    assert time.monotonic() - began < 5
    service.clear()
    service.plant("*", faults.Dripped(piece=100, seconds=0.05), times=None)
    began = time.monotonic()
    with pytest.raises(NotDownloaded, match="not whole after"):
        download(service, tmp_path, retry=RetryRules(seconds=1.0, first_wait=0.01))
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "fault",
    [
        faults.Redirect("{other_url}{path}"),
        faults.Redirect("file:///etc/hostname"),
        faults.Redirect("http://169.254.169.254/latest/meta-data"),
        faults.Redirect("//evil.example/x", code=308),
        faults.Redirect("http://127.0.0.1:22/", code=307),
        faults.Redirect("", code=301),
        faults.Redirect("gopher://{url}/", code=303),
    ],
)
def test_hostile_redirections_end_the_download(service, tmp_path, fault):
    service.plant("*", fault, times=None)
    with pytest.raises(NotDownloaded, match="redirection"):
        download(service, tmp_path)
    assert len(service.requests) == 1
    assert {r.host for r in service.requests} == {"127.0.0.1"}


def test_circles_are_left(service, tmp_path):
    service.plant("*", faults.Redirect("{path}"), times=None)
    with pytest.raises(NotDownloaded, match="more than 5 redirections"):
        download(service, tmp_path)
    assert len(service.requests) == 6


def test_length_is_bounded_with_and_without_content_length(service, tmp_path):
    with pytest.raises(NotDownloaded, match="none of the survey has"):
        download(service, tmp_path, most_bytes=100_000)
    service.clear()
    service.plant("*", faults.NoLength(), times=None)
    with pytest.raises(NotDownloaded, match="more than 100000 bytes came"):
        download(service, tmp_path, most_bytes=100_000)
    assert part_path(tmp_path, NAME).stat().st_size == 0


def test_a_bomb_is_never_unpacked(service, tmp_path):
    service.plant("*", faults.GzipBomb(), times=None)
    with pytest.raises(NotDownloaded, match="packed as 'gzip'"):
        download(service, tmp_path)
    assert part_path(tmp_path, NAME).stat().st_size == 0


RAW_ANSWERS = (
    b"220 ready\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nSIMPLE",
    b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nSIMPLE\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nSIMPLE  =",
    b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-8/9\r\n\r\nSIMPLE  =",
    b"HTTP/1.1 302 Found\r\nLocation: \x00\x01\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
)


@pytest.mark.parametrize("number", range(len(RAW_ANSWERS)))
def test_answers_that_are_no_http_are_refused(service, tmp_path, number):
    service.plant("*", faults.RawBytes(RAW_ANSWERS[number]), times=None)
    with pytest.raises(NotDownloaded, match="127"):
        download(service, tmp_path, retry=RetryRules(attempts=2, first_wait=0.01, seconds=5))


def test_mirrors_are_asked_in_order(service, tmp_path, wanted):
    mirrors = service.mirrors
    urls = [mirrors["images"], mirrors["cloud"], mirrors["mast"] + "{file}"]
    service.plant("/rings*", faults.Status(404), times=None)
    service.plant("/stpubdata*", faults.Html(), times=None)
    done = download(service, tmp_path, urls=urls)
    assert done.accepted == wanted
    assert done.note.url == address_of(urls[2], ARRAY)
    told = " ".join(map(str, done.attempts))
    assert "404" in told
    assert "page for people" in told


def test_content_that_is_refused_is_fetched_anew_and_not_for_ever(service, tmp_path):
    async def never(part):
        msg = "it shows another sky"
        raise ImageUnreadable(msg)

    with pytest.raises(NotDownloaded, match="another sky") as failed:
        download(service, tmp_path, accept=never)
    assert [r.range for r in service.requests] == [None, None]
    assert failed.value.received == service.bytes_sent()


def test_cancelling_leaves_what_came_and_the_rest_is_asked_for(service, tmp_path, wanted):
    service.plant("*", faults.Stalled(at=0.8, seconds=30))
    rules = AddressRules.of([service.mirrors["images"]])
    url = service.url_of("1405.053", "r")

    async def run():
        async with AiohttpTransport(rules) as transport:
            with Part.take(tmp_path, NAME) as part:
                work = asyncio.create_task(
                    Downloader(transport, rules).fetch([url], part, accepted)
                )
                while part.note.count < 0.5 * len(service.archive.bytes_of(NAME)):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await work
                return part.note

    note = asyncio.run(run())
    assert note.resumable
    done = download(service, tmp_path)
    assert done.accepted == wanted
    assert service.requests[1].range == f"bytes={note.count}-"
    assert service.requests[1].status == 206
