"""Kills, broken links, full disks, wrong clocks and hostile files: nothing acknowledged is lost or duplicated."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from broken_link import broken_link
from serving import BODY, Service, about, free_port, invited, landed, preloaded, serving, sha_of

from drivefoundry_car.log import write_drive
from drivefoundry_car.upload.enrol import Credential
from drivefoundry_car.upload.link import Link, UploadWindow
from drivefoundry_car.upload.uploader import Uploader, UploadLimits


@pytest.fixture(scope="module")
def clips(make_drive, tmp_path_factory) -> list[Path]:
    """Three clips of car-1, 300 kB each."""
    folder, rng = tmp_path_factory.mktemp("made"), np.random.default_rng(0)
    for i in range(3):
        drive = make_drive(steps=30, seed=i, frames=True)
        padded = [
            p + b"\x00\x00\x00\x01\x06" + rng.bytes(10_000).replace(b"\x00", b"\x01") for p in drive.video.packets
        ]
        write_drive(folder / f"{i}.mcap", replace(drive, video=replace(drive.video, packets=padded)))
    return [folder / f"{i}.mcap" for i in range(3)]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("service") / "store") as running:
        yield running


@pytest.fixture
def own(clips, tmp_path) -> list[Path]:
    """Copies that an uploader may remove, different from those of all other tests."""
    folder = tmp_path / "recorded"
    folder.mkdir()
    return [varied(Path(shutil.copy(c, folder)), str(tmp_path)) for c in clips]


def varied(path: Path, text: str) -> Path:
    """The same clip with a different note, and so a different hash."""
    from drivefoundry_car.log import read_drive

    drive = read_drive(path)
    write_drive(path, replace(drive, notes={**drive.notes, "test": text}))
    return path


def car(service: Service, folder: Path, url: str | None = None, link: Link | None = None, **limits) -> Uploader:
    """car-1 with a queue in folder."""
    limits = replace(UploadLimits(backoff=0.01, attempts=20, connections=1), **limits)
    return Uploader(url or service.url, service.enrolled("car-1", folder), folder / "queue", limits, link=link)


def on_its_way(link, count: int, seconds: float = 20.0) -> None:
    """Return once the given number of bytes has been sent."""
    end = time.monotonic() + seconds
    while link.carried < count:
        assert time.monotonic() < end, f"only {link.carried} bytes arrived"
        time.sleep(0.005)


def table(service: Service, expected: set[str]) -> list[str]:
    """Rows of the table, once all expected clips have landed."""
    end = time.monotonic() + 20
    while not expected <= set(landed(service.store)):
        assert time.monotonic() < end, "acknowledged clips do not land"
        time.sleep(0.05)
    return landed(service.store)


def test_a_link_that_is_cut_again_and_again(service, own, tmp_path):
    expected, size = {sha_of(p) for p in own}, own[0].stat().st_size
    with broken_link(service.port, cuts=[700, 90_000, 1, 150_000, 40_000, size, 5_000]) as link:
        receipts = car(service, tmp_path, link.url, chunk=100_000).send_all(own)
        assert link.made > 7
    assert {r.sha256 for r in receipts} == expected
    assert len(table(service, expected)) == len(set(landed(service.store)))
    assert not list((tmp_path / "queue").glob("*.mcap"))


def test_a_slow_link_is_given_time_and_a_window_that_closes_stops_at_once(service, own, tmp_path):
    now = [10 * 3600.0 - 0.2]  # 09:59:59.8 of the first day
    zone = time.mktime(time.gmtime(0))

    def clock():
        return now[0] + zone

    slow = Link([UploadWindow("22:00", "06:00"), UploadWindow("09:00", "10:00", rate=100_000)], clock=clock)
    with broken_link(service.port, rate=2_000_000) as link:
        uploader = car(service, tmp_path, link.url, link=slow)

        def close_the_window():
            on_its_way(link, 20_000)
            now[0] = 10 * 3600.0

        closing = threading.Thread(target=close_the_window)
        closing.start()
        assert uploader.send_all(own[:1]) == []
        closing.join()
        assert 20_000 <= link.carried < 300_000
        assert len(uploader.outbox.waiting()) == 1
        now[0] = 22.5 * 3600
        (receipt,) = uploader.send_all()
    assert 0 < receipt.sent < receipt.size
    assert receipt.sha256 in table(service, {receipt.sha256})


def test_a_byte_that_changes_on_its_way(service, own, tmp_path):
    with broken_link(service.port, flip=150_000) as link:
        (receipt,) = car(service, tmp_path, link.url).send_all(own[:1])
        assert link.carried > 2 * receipt.size  # sent twice: the first time its hash was wrong
    assert receipt.sha256 in table(service, {receipt.sha256})
    metrics = httpx.get(f"{service.url}/metrics").text
    assert 'drivefoundry_ingest_refused_total{reason="hash"}' in metrics


def test_a_car_killed_mid_chunk(service, own, tmp_path):
    for path in own:
        car(service, tmp_path).enqueue(path)
    queue, expected = tmp_path / "queue", {sha_of(p) for p in (tmp_path / "queue").glob("*.mcap")}
    script = [sys.executable, str(Path(__file__).with_name("send_until_killed.py"))]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with broken_link(service.port, rate=1_500_000) as link:
        for count in (100_000, 350_000):
            command = [*script, link.url, str(tmp_path / "car-1.json"), str(queue)]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=around) as process:
                on_its_way(link, count)
                process.kill()
    assert expected - set(landed(service.store))
    receipts = car(service, tmp_path).send_all()
    assert sum(r.sent for r in receipts) < 900_000
    assert len(table(service, expected)) == len(set(landed(service.store)))


def test_two_uploaders_of_one_vehicle(service, own, tmp_path):
    expected = {sha_of(p) for p in own}
    shared = [car(service, tmp_path, connections=2) for _ in range(2)]
    apart = car(service, tmp_path / "twin")
    for path in own:
        shutil.copy(path, tmp_path / f"twin-{path.name}")
        apart.enqueue(tmp_path / f"twin-{path.name}")
        shared[0].enqueue(path)
    receipts: list[str] = []
    threads = [threading.Thread(target=lambda u=u: receipts.extend(r.sha256 for r in u.send_all())) for u in shared]
    threads.append(threading.Thread(target=apart.send_all))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(receipts) == expected
    assert len(receipts) == 3  # each clip of the shared queue was sent by one of the two
    assert len(table(service, expected)) == len(set(landed(service.store)))
    assert not apart.outbox.waiting()


def test_requests_repeated_and_out_of_order(service, own, tmp_path):
    data, at = own[0].read_bytes(), service.url
    who = {"Authorization": f"Bearer {service.enrolled('car-1', tmp_path)()}"}
    half = len(data) // 2
    begun = [httpx.post(f"{at}/uploads", headers=about(data) | who) for _ in range(2)]
    assert begun[0].headers["Location"] == begun[1].headers["Location"]
    place = at + begun[0].headers["Location"]

    def patch(begin: int, end: int) -> httpx.Response:
        return httpx.patch(place, content=data[begin:end],
                           headers=about(data) | who | BODY | {"Upload-Offset": str(begin)})  # fmt: skip

    assert patch(half, len(data)).status_code == 409
    assert patch(0, half).status_code == 204
    assert patch(0, half).status_code == 409
    assert patch(half, len(data)).headers["Clip-Sha256"] == sha_of(own[0])
    assert patch(half, len(data)).status_code == 404
    again = httpx.post(f"{at}/uploads", headers=about(data) | who)
    assert again.headers["Clip-Sha256"] == sha_of(own[0])
    assert again.headers["Upload-Offset"] == str(len(data))
    assert table(service, {sha_of(own[0])}).count(sha_of(own[0])) == 1


def test_another_vehicle_learns_nothing(service, own, tmp_path):
    (receipt,) = car(service, tmp_path).send_all(own[:1])
    who = {"Authorization": f"Bearer {service.enrolled('car-2', tmp_path)()}"}
    asked = {"sha256": [receipt.sha256, "0" * 64]}
    assert httpx.post(f"{service.url}/have", json=asked, headers=who).json() == {"have": []}
    mine = {"Authorization": f"Bearer {service.enrolled('car-1', tmp_path)()}"}
    assert httpx.post(f"{service.url}/have", json=asked, headers=mine).json() == {"have": [receipt.sha256]}
    data = own[1].read_bytes()
    begun = httpx.post(f"{service.url}/uploads", headers=about(data) | mine).headers["Location"]
    none = httpx.head(f"{service.url}/uploads/{'0' * 32}", headers=about(data) | who)
    theirs = httpx.head(service.url + begun, headers=about(data) | who)
    assert (theirs.status_code, {*theirs.headers}) == (none.status_code, {*none.headers}) == (404, {*none.headers})


def test_a_stopped_service_finishes_requests_in_progress(own, tmp_path):
    with serving(tmp_path / "store") as service, broken_link(service.port, rate=600_000) as link:
        uploader = car(service, tmp_path, link.url)
        done: list[str] = []
        thread = threading.Thread(target=lambda: done.extend(r.sha256 for r in uploader.send_all(own[:1])))
        thread.start()
        on_its_way(link, 100_000)
        service.stop()
        thread.join()
    assert done == landed(tmp_path / "store")
    assert len(done) == 1


def test_a_service_that_is_killed_keeps_what_it_acknowledged(own, tmp_path):
    port, expected = free_port(), {sha_of(p) for p in own}
    with serving(tmp_path / "store", port=port) as service:
        credential = service.enrolled("car-1", tmp_path)
        uploader = Uploader(
            service.url, credential, tmp_path / "queue", UploadLimits(backoff=0.05, attempts=60, connections=1)
        )
        thread = threading.Thread(target=uploader.send_all, args=(own,))
        thread.start()
        while len(list((tmp_path / "queue").glob("*.mcap"))) > 2 or not uploader.outbox.waiting():
            time.sleep(0.002)
        service.process.send_signal(signal.SIGKILL)
        acknowledged = expected - {q.sha256 for q in uploader.outbox.waiting()}
    with serving(tmp_path / "store", port=port) as service:
        thread.join()
        service.stop()
    assert acknowledged
    assert landed(tmp_path / "store") == sorted(expected)
    assert not uploader.outbox.waiting()


def test_a_full_disk_at_the_service(own, tmp_path):
    full = {"LD_PRELOAD": preloaded("full_disk", tmp_path), "FULL_UNDER": str(tmp_path / "store/incoming/uploads")}
    with serving(tmp_path / "store", **full, FULL_BYTES="400000") as service:
        uploader = car(service, tmp_path, attempts=2)
        with pytest.raises(ValueError, match=r"507 no room for the upload .No space left on device"):
            uploader.send_all(own)
        kept = {sha_of(p) for p in own if p.exists()} | {q.sha256 for q in uploader.outbox.waiting()}
        assert httpx.get(f"{service.url}/health").status_code == 200
        service.stop()
    assert len(kept | set(landed(tmp_path / "store"))) == 3
    with serving(tmp_path / "store") as service:
        car(service, tmp_path).send_all()
        service.stop()
    assert len(landed(tmp_path / "store")) == len(set(landed(tmp_path / "store"))) == 3


@pytest.mark.parametrize("off", ["86400", "-86400"])
def test_a_car_whose_clock_is_wrong_by_a_day(service, own, tmp_path, off):
    clip = sha_of(own[0])
    car(service, tmp_path).enqueue(own[0])
    script = [sys.executable, str(Path(__file__).with_name("send_until_killed.py"))]
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path),
              "LD_PRELOAD": preloaded("other_clock", tmp_path), "CLOCK_OFF": off}  # fmt: skip
    command = [*script, service.url, str(tmp_path / "new.json"), str(tmp_path / "queue")]
    code = invited(service.store, "car-1")
    done = subprocess.run([*command, code], env=around, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == clip
    assert clip in table(service, {clip})


def test_a_service_whose_clock_jumps_by_a_day(own, tmp_path):
    """Tokens expire or stay valid; either way the car renews what is refused, and its clips arrive."""
    clock = {"LD_PRELOAD": preloaded("other_clock", tmp_path)}
    with serving(tmp_path / "store") as service:
        credential = service.enrolled("car-1", tmp_path)
        old = credential()
    with serving(tmp_path / "store", **clock, CLOCK_OFF="86400") as service:
        late = Credential(service.url, credential.file)
        asked = httpx.get(f"{service.url}/status", headers={"Authorization": f"Bearer {old}"})
        assert (asked.status_code, asked.text) == (401, "the token has expired; fetch a new one")
        (receipt,) = Uploader(service.url, late, tmp_path / "queue").send_all(own[:1])
        assert late() != old
        service.stop()
    assert landed(tmp_path / "store") == [receipt.sha256]
