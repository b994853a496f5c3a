"""Requests without a token are bounded in size, number and time, and do not disturb ongoing work."""

from __future__ import annotations

import hashlib
import itertools
import socket
from contextlib import ExitStack, suppress
from urllib.parse import urlparse

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import BODY, about, serving

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry.ingest.access.limits import Limits
from drivefoundry.ingest.access.network import Access
from drivefoundry.ingest.wire import HEAD, LINES, PIPELINED
from drivefoundry_car.log import write_drive

SECRET = "0123456789abcdef" * 2
WHO = {"Authorization": f"Bearer {issue_token(SECRET, 'car-1')}"}
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /enrol HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(ClipStore(tmp_path_factory.mktemp("store")), SECRET, limits=Limits(requests=1e6, burst=10**6)) as it:
        yield it


@pytest.fixture(scope="module")
def hasty(tmp_path_factory):
    """A service that waits half a second for headers and bodies, and accepts eight connections."""
    access = Access(connections=8, header_s=0.5, silence_s=0.5)
    with running(ClipStore(tmp_path_factory.mktemp("hasty")), SECRET, access=access) as it:
        yield it


def connected(url: str) -> socket.socket:
    at = urlparse(url)
    return socket.create_connection((at.hostname, at.port), timeout=30)


def heard(link: socket.socket) -> bytes:
    """Everything that the service sends until it closes the connection."""
    said = b""
    with suppress(ConnectionResetError):
        while piece := link.recv(1 << 16):
            said += piece
    return said


def answer(url: str, *pieces: bytes) -> bytes:
    """The answer to some bytes; empty if the connection was reset before."""
    with connected(url) as link:
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                link.sendall(piece)
        return heard(link)


def status(said: bytes) -> int:
    return int(said.split(b" ", 2)[1])


COUNT = itertools.count()
CLOSE = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([GET, b"X: " + b"a" * (2 << 20)], 431),
        ([GET, *[b"X: " + b"a" * 20_000 + b"\r\n"] * 100], 431),
        ([GET + b"X: " + b"a" * HEAD + b"\r\n" + CLOSE], 431),
        ([GET, *[b"X: a\r\n"] * (LINES + 1), CLOSE], 431),
        ([GET, *[b"a" * 1000] * 1000], 431),
        ([b"GET /" + b"a" * (2 << 20)], 414),
        ([b"GET /" + b"a" * HEAD + b" HTTP/1.1\r\nHost: x\r\n" + CLOSE], 414),
        ([b"\r\n" * (1 << 20)], 431),
        ([POST, b"1;" + b"a" * (2 << 20)], 400),
        ([POST, b"1\r\n{\r\n", b"0\r\nX: " + b"a" * (2 << 20)], 400),
        ([POST, b"1\r\n{\r\n0\r\n", *[b"X: " + b"a" * 1000 + b"\r\n"] * 1000], 400),
        ([GET[:-2] + b"\0\r\n\r\n"], 400),
        ([b"\x16\x03\x01 not HTTP at all"], 400),
        ([GET, CLOSE], 200),
        ([GET + b"X: " + b"a" * (HEAD - 200) + b"\r\n" + CLOSE], 200),
        ([GET, *[b"X: a\r\n"] * (LINES - 10), CLOSE], 200),
    ],
)
def test_headers_lines_and_framing_are_bounded(service, pieces, expected):
    assert status(answer(service.url, *pieces)) == expected
    assert httpx.get(f"{service.url}/health").status_code == 200


def test_a_second_request_is_bounded_like_the_first(service):
    large = GET + b"X: " + b"a" * HEAD + b"\r\n\r\n"
    with connected(service.url) as link:
        link.sendall(GET + b"\r\n")
        assert link.recv(1 << 16).startswith(b"HTTP/1.1 200")
        link.sendall(large)
        assert status(heard(link)) == 431
    both = answer(service.url, GET + b"\r\n" + large)  # at once: whatever is said, the large one has no answer
    assert both.count(b"HTTP/1.1 200") <= 1
    with connected(service.url) as link:
        link.sendall((GET + b"\r\n") * 10)
        said = b""
        while said.count(b"HTTP/1.1 200") < 10:
            said += link.recv(1 << 16)
        link.sendall((GET + b"\r\n") * 40 * PIPELINED)
        assert heard(link).count(b"HTTP/1.1 200") < 40 * PIPELINED


@settings(max_examples=40)
@given(st.data())
def test_a_request_is_the_same_in_any_fragments(service, data):
    """A chunked clip, its trailers and the request after it."""
    sha = hashlib.sha256(str(next(COUNT)).encode()).hexdigest()
    body = data.draw(st.binary(min_size=1, max_size=300))
    begun = httpx.post(f"{service.url}/uploads", headers=about(bytes(2 * len(body)), sha) | WHO).headers["Location"]
    lines = WHO | BODY | {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Transfer-Encoding": "chunked", "Host": "x"}
    text = f"PATCH {begun} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    count = data.draw(st.integers(1, len(body)))
    parts = [body[i : i + count] for i in range(0, len(body), count)]
    raw = text.encode() + b"".join(b"%x;a=b\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\nX-Trailer: 1\r\n\r\n"
    raw += GET + CLOSE
    step = data.draw(st.integers(1, len(raw)))
    said = answer(service.url, *(raw[i : i + step] for i in range(0, len(raw), step)))
    assert said.startswith(b"HTTP/1.1 204")
    assert f"upload-offset: {len(body)}\r\n".encode() in said
    assert said.count(b"HTTP/1.1 200") == 1


def test_a_trailer_is_no_header(service):
    lines = b"".join(f"{k}: {v}\r\n".encode() for k, v in WHO.items())
    raw = b"POST /have HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n" + CLOSE
    body = b'd\r\n{"sha256": []}\r\n0\r\n'.replace(b"d\r", b"e\r")
    assert status(answer(service.url, raw + body + lines + b"\r\n")) == 401


@pytest.mark.parametrize("piece", [b"", b"GET /hea", GET])
def test_headers_that_do_not_come_end_the_connection(hasty, piece):
    said = answer(hasty.url, piece)
    assert said == b"" if not piece else status(said) == 408


def test_headers_that_drip_end_the_connection(hasty):
    with connected(hasty.url) as link:
        link.sendall(GET)
        link.settimeout(0.05)
        said, sent = b"", 0
        while not said and sent < 200:
            link.sendall(b"X: a\r\n")
            sent += 1
            with suppress(TimeoutError):
                said = link.recv(1 << 16)
    assert status(said) == 408


def test_a_json_body_that_does_not_come_is_not_waited_for(hasty, monkeypatch):
    monkeypatch.setattr("drivefoundry.ingest.access.accounts._BODY_S", 0.3)
    assert status(answer(hasty.url, POST, b"1\r\n{\r\n")) == 408


def test_a_slow_clip_loses_its_turn_and_continues_later(hasty, tmp_path, make_drive):
    write_drive(tmp_path / "a.mcap", make_drive(steps=10))
    data = (tmp_path / "a.mcap").read_bytes()
    begun = httpx.post(f"{hasty.url}/uploads", headers=about(data) | WHO).headers["Location"]
    lines = WHO | BODY | {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Length": str(len(data))}
    head = f"PATCH {begun} HTTP/1.1\r\nHost: x\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    with connected(hasty.url) as link:
        link.sendall(head.encode())
        link.settimeout(0.05)
        said, sent = b"", 0
        while not said and sent < 200:
            link.sendall(data[sent : sent + 1])
            sent += 1
            with suppress(TimeoutError):
                said = link.recv(1 << 16)
    assert status(said) == 408
    about_it = {"Tus-Resumable": "1.0.0", **WHO}
    offset = int(httpx.head(hasty.url + begun, headers=about_it).headers["Upload-Offset"])
    assert 0 < offset <= sent
    rest = about_it | BODY | {"Upload-Offset": str(offset)}
    assert httpx.patch(hasty.url + begun, content=data[offset:], headers=rest).status_code == 204


def test_half_requests_make_room_for_others_and_work_continues(tmp_path, make_drive):
    write_drive(tmp_path / "a.mcap", make_drive(steps=12))
    data = (tmp_path / "a.mcap").read_bytes()
    with running(ClipStore(tmp_path / "store"), SECRET, access=Access(connections=8)) as service, ExitStack() as stack:
        begun = httpx.post(f"{service.url}/uploads", headers=about(data) | WHO).headers["Location"]
        lines = WHO | BODY | {"Tus-Resumable": "1.0.0", "Upload-Offset": "0", "Content-Length": str(len(data))}
        head = f"PATCH {begun} HTTP/1.1\r\nHost: x\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
        working = stack.enter_context(connected(service.url))
        working.sendall(head.encode() + data[:-1])
        for _ in range(40):
            stack.enter_context(connected(service.url)).sendall(b"GET /hea")
        assert httpx.get(f"{service.url}/health").status_code == 200
        working.sendall(data[-1:])
        assert working.recv(1 << 16).startswith(b"HTTP/1.1 204")
        assert 'drivefoundry_ingest_dropped_total{reason="crowded"}' in httpx.get(f"{service.url}/metrics").text


def test_few_descriptors_are_enough(tmp_path):
    with serving(tmp_path / "store", nofile=160) as service:
        held = [connected(service.url) for _ in range(200)]
        for link in held:
            with suppress(BrokenPipeError, ConnectionResetError):  # it has made room for another
                link.sendall(b"GET /hea")
        assert [httpx.get(f"{service.url}/health").status_code for _ in range(3)] == [200, 200, 200]
        for link in held:
            link.close()
        service.stop()


def test_too_few_descriptors_are_refused():
    with pytest.raises(ValueError, match=r"file descriptors are too few.* raise `ulimit -n`"):
        Access().most(10**9)
    assert Access(connections=5).most(0) == 5
