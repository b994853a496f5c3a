"""A proxy or portal that answers in the service's place costs time, but no clips or credentials."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import running
from drivefoundry.ingest.access.vehicles import Vehicles
from drivefoundry_car.log import write_drive
from drivefoundry_car.upload.enrol import Credential
from drivefoundry_car.upload.uploader import Uploader, UploadLimits
from portal import Answer, portal

PAGE = b"<html>please log in</html>"
MOMENTS: dict[str, Callable[[str, str], bool]] = {
    "token": lambda method, path: path == "/token",
    "have": lambda method, path: path == "/have",
    "create": lambda method, path: (method, path) == ("POST", "/uploads"),
    "patch": lambda method, path: method == "PATCH",
}


def forwarded(url: str, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
    """The service's own answer."""
    at = urlsplit(url)
    connection = HTTPConnection(at.hostname or "", at.port, timeout=30)
    connection.request(method, path, body, {k: v for k, v in headers.items() if k not in ("host", "connection")})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    hop = ("content-length", "transfer-encoding", "connection", "date", "server")
    return Answer(answer.status, {k: v for k, v in answer.getheaders() if k.lower() not in hop}, data)


@contextmanager
def service(folder):
    """A service, and the credential of a car that is enrolled there."""
    with running(ClipStore(folder / "store")) as server:
        vehicles = Vehicles(folder / "store" / "incoming" / "vehicles.db")
        credential = Credential(server.url, folder / "credential.json")
        credential.enrol(vehicles.invite("car-1"))
        vehicles.close()
        yield server


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, {"Content-Type": "text/html"}, PAGE),
        Answer(200, {"Content-Type": "application/json"}, b"{}"),
        Answer(302, {"Location": "/login"}, PAGE),
        Answer(401, {"WWW-Authenticate": "Basic"}, PAGE),
        Answer(403, {"Content-Type": "text/plain"}, b"forbidden"),
        Answer(413, {"Content-Type": "text/html"}, PAGE),
    ],
    ids=lambda a: f"{a.status}-{len(a.body)}",
)
def test_once_the_portal_is_gone_everything_arrives(make_drive, tmp_path, moment, answer):
    with service(tmp_path) as server:
        closed = [True]

        def ask(method, path, headers, body):
            if closed[0] and MOMENTS[moment](method, path):
                return answer
            return forwarded(server.url, method, path, headers, body)

        with portal(ask) as url:
            file = tmp_path / "credential.json"
            if moment == "token":  # the token in use has expired
                file.write_text(json.dumps(json.loads(file.read_text()) | {"token": "an.old.token"}))
            kept = json.loads(file.read_text())
            for i in range(2):
                write_drive(tmp_path / f"{i}.mcap", make_drive(steps=10, seed=i))
            uploader = Uploader(url, Credential(url, file), tmp_path / "queue", UploadLimits(attempts=2, backoff=0.001))
            clips = {uploader.enqueue(tmp_path / f"{i}.mcap") for i in range(2)}
            if moment == "have":  # nobody needs its answer
                assert {r.sha256 for r in uploader.send_all()} == clips
            else:
                with pytest.raises(ValueError, match=r"gave up after \d attempts .*clips wait in"):
                    uploader.send_all()
                assert {q.sha256 for q in uploader.outbox.waiting()} == clips
            assert uploader.outbox.refused() == []
            assert json.loads(file.read_text()) == kept
            closed[0] = False
            assert moment == "have" or {r.sha256 for r in uploader.send_all()} == clips
        server.flush()
        assert sorted(server.landing.store.ids()) == sorted(clips)


def test_clips_that_exist_already_are_not_sent(make_drive, tmp_path):
    """The service's own answer to /have is accepted: clips acknowledged earlier leave the queue at once."""
    asked = []
    with service(tmp_path) as server:

        def ask(method, path, headers, body):
            asked.append((method, path))
            return forwarded(server.url, method, path, headers, body)

        with portal(ask) as url:
            uploader = Uploader(url, Credential(url, tmp_path / "credential.json"), tmp_path / "queue")
            for again in (False, True):
                asked.clear()
                for i in range(2):
                    write_drive(tmp_path / f"{i}.mcap", make_drive(steps=10, seed=i))
                receipts = uploader.send_all([tmp_path / f"{i}.mcap" for i in range(2)])
                assert [r.sent == 0 for r in receipts] == [again] * 2
    assert asked == [("POST", "/have")]
