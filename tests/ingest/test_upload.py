"""Clips arrive over a link that breaks, although cars and service are killed; invalid ones are refused."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlparse

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry_car.log import read_drive, write_drive
from drivefoundry_car.upload.uploader import Uploader, UploadLimits

SECRET = "0123456789abcdef" * 2
TUS = {"Tus-Resumable": "1.0.0"}
BODY = {"Content-Type": "application/offset+octet-stream"}


@pytest.fixture(scope="module")
def clips(make_drive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for i in range(5):
        write_drive(folder / f"{i}.mcap", make_drive(steps=50, seed=i, frames=i == 0))
    return [folder / f"{i}.mcap" for i in range(5)]


@pytest.fixture
def queued(clips, tmp_path):
    """Copies that an uploader may remove."""
    folder = tmp_path / "recorded"
    folder.mkdir()
    return [Path(shutil.copy(c, folder)) for c in clips]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    store = ClipStore(tmp_path_factory.mktemp("store"))
    with running(store, SECRET) as server:
        yield server


def token(vehicle="car-1", ttl=600.0):
    return issue_token(SECRET, vehicle, ttl)


def headers(vehicle="car-1", **more):
    return {**TUS, "Authorization": f"Bearer {token(vehicle)}", **{k.replace("_", "-"): v for k, v in more.items()}}


def created(url, data, vehicle="car-1", sha=None, length=None):
    sha = sha or hashlib.sha256(data).hexdigest()
    about = {"Upload-Length": str(len(data) if length is None else length)}
    about["Upload-Metadata"] = "sha256 " + base64.b64encode(sha.encode()).decode()
    return httpx.post(f"{url}/uploads", headers=headers(vehicle) | about)


def send_half_and_die(url, location, data, vehicle="car-1"):
    """Promise all of data, send half of it, drop the connection."""
    at = urlparse(url)
    lines = headers(vehicle) | BODY | {"Host": "car", "Upload-Offset": "0", "Content-Length": str(len(data))}
    head = f"PATCH {location} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    with socket.create_connection((at.hostname, at.port)) as link:
        link.sendall(head.encode() + data[: len(data) // 2])


def offset_at(url, location, at_least, vehicle="car-1"):
    """The offset, once at least that much has arrived (the service reads on after the sender has gone)."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        offset = int(httpx.head(url + location, headers=headers(vehicle)).headers["Upload-Offset"])
        if offset >= at_least:
            return offset
        time.sleep(0.01)
    raise AssertionError(f"only {offset} bytes arrived")


def test_clips_arrive_and_leave_the_queue(queued, tmp_path):
    store = ClipStore(tmp_path / "store")
    wanted = {hashlib.sha256(p.read_bytes()).hexdigest(): read_drive(p) for p in queued}
    with running(store, SECRET) as server:
        uploader = Uploader(server.url, token(), tmp_path / "queue", UploadLimits(chunk=10_000))
        receipts = uploader.send_all(queued)
        assert sorted(server.flush()) == sorted(wanted)
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "landed": 5, "waiting": 0}
    assert {r.sha256 for r in receipts} == set(wanted) == set(store.ids())
    assert all(r.sent == r.size for r in receipts)
    assert not list((tmp_path / "queue").iterdir())
    assert not list((tmp_path / "store/incoming").glob("*/*"))
    for clip, drive in wanted.items():
        assert store.drive(clip).meta == drive.meta


def test_what_the_service_has_is_not_sent_again(service, clips, tmp_path):
    for _ in range(2):
        copies = [Path(shutil.copy(c, tmp_path)) for c in clips]
        receipts = Uploader(service.url, token(), tmp_path / "queue").send_all(copies)
    assert [r.sent for r in receipts] == [0] * 5
    assert set(service.flush()) >= {r.sha256 for r in receipts}
    assert len(service.landing.store.ids()) == len(set(service.landing.store.ids()))


def test_a_car_killed_mid_chunk_continues_where_it_stopped(queued, tmp_path):
    with running(ClipStore(tmp_path / "store"), SECRET) as server:
        data = queued[0].read_bytes()
        location = created(server.url, data).headers["Location"]
        send_half_and_die(server.url, location, data)
        arrived = offset_at(server.url, location, len(data) // 2)
        (receipt,) = Uploader(server.url, token(), tmp_path / "queue", UploadLimits(backoff=0.01)).send_all(queued[:1])
        assert receipt.sent == len(data) - arrived
        assert server.flush() == [hashlib.sha256(data).hexdigest()]


def test_a_service_killed_mid_chunk_loses_nothing(queued, tmp_path):
    probe = socket.create_server(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    script = str(Path(__file__).with_name("serve_until_killed.py"))
    command = [sys.executable, script, str(tmp_path / "store"), SECRET, str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    data, kept = queued[0].read_bytes(), hashlib.sha256(queued[1].read_bytes()).hexdigest()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            location = created(url, data).headers["Location"]
            send_half_and_die(url, location, data)
            arrived = offset_at(url, location, len(data) // 2)
            Uploader(url, token(), tmp_path / "queue").send_all(queued[1:2])
        finally:
            process.send_signal(signal.SIGKILL)
    uploader = Uploader(url, token(), tmp_path / "queue", UploadLimits(attempts=2, backoff=0.01))
    with pytest.raises(ValueError, match=r"gave up after 2 attempts .* clips wait in .*queue"):
        uploader.send_all(queued[:1])
    store = ClipStore(tmp_path / "store")
    with running(store, SECRET, port) as server:
        server.flush()
        assert store.ids() == [kept]  # acknowledged, not yet landed when the service was killed
        (receipt,) = uploader.send_all()
        assert receipt.sent == len(data) - arrived
    assert set(store.ids()) == {kept, receipt.sha256}


def test_wrong_bytes_are_refused_and_may_be_sent_again(service, clips):
    data = clips[2].read_bytes()
    wrong = bytes([data[0] ^ 1]) + data[1:]
    location = created(service.url, wrong, vehicle="car-1", sha=hashlib.sha256(data + b"!").hexdigest()).headers[
        "Location"
    ]
    answer = httpx.patch(service.url + location, content=wrong, headers=headers(Upload_Offset="0") | BODY)
    assert answer.status_code == 460
    assert "SHA-256" in answer.text
    assert httpx.head(service.url + location, headers=headers()).headers["Upload-Offset"] == "0"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda data: data[:-60], "truncated MCAP"),
        (lambda data: b"no mcap", "not an MCAP file"),
        (lambda data: b"", "not an MCAP file"),
    ],
)
def test_an_invalid_clip_is_refused_and_set_aside(service, clips, tmp_path, make, says):
    bad = tmp_path / "bad.mcap"
    bad.write_bytes(make(clips[0].read_bytes()))
    before = service.landing.counts()
    with pytest.raises(ValueError, match="422 not a clip") as error:
        Uploader(service.url, token(), tmp_path / "queue").send_all([bad])
    assert says in str(error.value)
    assert [p.suffix for p in sorted((tmp_path / "queue/refused").iterdir())] == [".mcap", ".txt"]
    assert service.landing.counts() == before


def test_a_clip_of_another_vehicle_is_refused(service, make_drive, tmp_path):
    write_drive(tmp_path / "a.mcap", make_drive(steps=10, vehicle="car-2"))
    with pytest.raises(ValueError, match="403 the clip is from vehicle 'car-2'"):
        Uploader(service.url, token("car-1"), tmp_path / "queue").send_all([tmp_path / "a.mcap"])


def test_another_vehicles_upload_can_be_neither_seen_nor_changed(service):
    location = created(service.url, b"x" * 100, vehicle="car-7").headers["Location"]
    assert httpx.head(service.url + location, headers=headers("car-8")).status_code == 404
    foreign = headers("car-8", Upload_Offset="0") | BODY
    assert httpx.patch(service.url + location, content=b"y" * 10, headers=foreign).status_code == 404
    assert httpx.head(service.url + location, headers=headers("car-7")).headers["Upload-Offset"] == "0"
    assert created(service.url, b"x" * 100, vehicle="car-8").headers["Location"] != location


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (issue_token("another secret of 32 characters!", "car-1"), "not signed by this service"),
        (issue_token(SECRET, "car-1", ttl=-3600), "expired"),
        ("no.token.at-all", "not signed by this service"),
        ("eyJhbGciOiJub25lIn0.eyJzdWIiOiJjYXItMSJ9.", "not signed by this service"),
    ],
)
def test_foreign_and_old_tokens_are_refused(service, clips, tmp_path, bad, says):
    copy = shutil.copy(clips[0], tmp_path)
    with pytest.raises(ValueError, match=f"401 .*{says}"):
        Uploader(service.url, bad, tmp_path / "queue").send_all([copy])
    assert len(list((tmp_path / "queue").glob("*.mcap"))) == 1  # it waits for a better token


def test_requests_that_are_not_tus_are_refused(service):
    url, size = f"{service.url}/uploads", {"Upload-Length": "5"}
    sha = {"Upload-Metadata": "sha256 " + base64.b64encode(b"0" * 64).decode()}
    assert httpx.post(url, headers=size | sha | {"Authorization": f"Bearer {token()}"}).status_code == 412
    assert httpx.post(url, headers=TUS | size | sha).status_code == 401
    assert httpx.post(url, headers=headers() | size).status_code == 400
    assert httpx.post(url, headers=headers() | sha).status_code == 400
    assert httpx.post(url, headers=headers() | sha | {"Upload-Length": str(1 << 40)}).status_code == 413
    assert httpx.post(url, headers=headers() | size | {"Upload-Metadata": "sha256 ???"}).status_code == 400
    assert httpx.head(f"{url}/{'0' * 32}", headers=headers()).status_code == 404
    assert httpx.head(f"{url}/..%2f..%2fx", headers=headers()).status_code == 404
    location = service.url + created(service.url, b"12345", sha="0" * 64).headers["Location"]
    at = headers(Upload_Offset="0")
    assert httpx.patch(location, content=b"1", headers=at).status_code == 415
    assert httpx.patch(location, content=b"1", headers=headers(Upload_Offset="3") | BODY).status_code == 409
    assert httpx.patch(location, content=b"123456", headers=at | BODY).status_code == 413
    assert httpx.options(url).headers["Tus-Extension"] == "creation"


def test_a_port_in_use_is_refused(service, tmp_path):
    port = urlparse(service.url).port
    with (
        pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port} .*choose another port"),
        running(ClipStore(tmp_path), SECRET, port),
    ):
        pass


def test_a_missing_file_a_remote_store_without_folder_and_a_short_secret_are_refused(service, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        Uploader(service.url, token(), tmp_path).enqueue(tmp_path / "none.mcap")
    with pytest.raises(ValueError, match="is remote; name a local --folder"), running(ClipStore("memory:///x"), SECRET):
        pass
    with pytest.raises(ValueError, match="at least 16"):
        issue_token("short", "car-1")


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    steps=st.lists(st.sampled_from(["create", "half", "again", "wrong place", "other car"]), max_size=8),
)
def test_after_any_failure_the_clip_lands_once(service, make_drive, tmp_path_factory, seed, steps):
    folder = tmp_path_factory.mktemp("h")
    write_drive(folder / "a.mcap", make_drive(steps=10, seed=seed, vehicle="car-5"))
    data = (folder / "a.mcap").read_bytes()
    sha = hashlib.sha256(data).hexdigest()
    location = created(service.url, data, "car-5").headers["Location"]
    for step in steps:
        if step == "create":
            assert created(service.url, data, "car-5").headers["Location"] == location
        elif step == "half":
            send_half_and_die(service.url, location, data, "car-5")
        elif step == "other car":
            httpx.patch(service.url + location, content=b"!", headers=headers("car-6", Upload_Offset="0") | BODY)
        else:
            at = "0" if step == "again" else str(len(data))
            httpx.patch(service.url + location, content=data[:100], headers=headers("car-5", Upload_Offset=at) | BODY)
    (receipt,) = Uploader(service.url, token("car-5"), folder / "q", UploadLimits(backoff=0.01, attempts=20)).send_all(
        [folder / "a.mcap"]
    )
    assert receipt.sha256 == sha
    service.flush()
    assert service.landing.store.ids().count(sha) == 1
