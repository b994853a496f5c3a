"""Vehicles share the checkers; daily budgets hold under concurrency; unfinished uploads are bounded."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import struct
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import BODY, TUS, about, landed, serving

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest import issue_token, running
from drivefoundry.ingest.access.limits import Limits
from drivefoundry.ingest.access.vehicles import Vehicles
from drivefoundry.ingest.turns import FREE, LONGEST_READ_S, LONGEST_S, LOOK_S, Penalties, Readers, Turns
from drivefoundry.ingest.uploads import SILENT_S, Uploads
from drivefoundry_car.log import write_drive

SECRET = "0123456789abcdef" * 2


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(1, 3))
def test_vehicles_take_turns(asked, count):
    """At most `count` at once and one per vehicle; in rotation, without starvation."""
    at_once: Counter[int] = Counter()
    begun: list[int] = []

    async def one(turns: Turns, vehicle: int) -> None:
        async with turns.turn(str(vehicle)):
            at_once[vehicle] += 1
            begun.append(vehicle)
            assert at_once[vehicle] == 1
            assert at_once.total() <= count
            for _ in range(3):
                await asyncio.sleep(0)
            at_once[vehicle] -= 1

    async def all_of_them() -> None:
        turns = Turns(count)
        await asyncio.gather(*(one(turns, v) for v in asked))
        assert not len(turns)

    asyncio.run(all_of_them())
    assert Counter(begun) == Counter(asked)
    # Between two turns of a vehicle, every other one that waits gets at most one.
    if count == 1:
        left = Counter(asked)
        for i, vehicle in enumerate(begun):
            left[vehicle] -= 1
            later = begun[i + 1 :]
            if left[vehicle]:
                until_next = later[: later.index(vehicle)]
                assert all(n == 1 for n in Counter(until_next).values())


def test_senders_are_read_a_few_at_once():
    """Requests complete in order of arrival; one that stalls, or never ends, delays the others only briefly."""

    async def run() -> list[str]:
        readers, done = Readers(1), []

        async def send(name: str, bytes_a_turn: int, turns: int) -> None:
            came = [0]
            async with readers.reading(lambda: came[0]):
                for _ in range(turns):
                    await asyncio.sleep(LOOK_S / 4)
                    came[0] += bytes_a_turn
            done.append(name)

        endless = asyncio.create_task(send("endless", 1 << 20, 10**9))
        await asyncio.sleep(0)
        stalled = asyncio.create_task(send("stalled", 0, 10**9))
        fast = [asyncio.create_task(send(name, 1 << 20, 8)) for name in "abc"]
        gone = asyncio.create_task(send("gone", 1 << 20, 8))
        await asyncio.sleep(LOOK_S * 2)
        gone.cancel()  # while it waits
        assert not done
        async with asyncio.timeout(LONGEST_READ_S * 10):
            await asyncio.gather(*fast)
        for task in (endless, stalled):
            assert not task.done()
            task.cancel()
        await asyncio.gather(endless, stalled, gone, return_exceptions=True)
        async with asyncio.timeout(1), readers.reading(lambda: 0):  # no place is lost
            return done

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_a_cancelled_wait_leaves_no_gap():
    async def run() -> list[str]:
        turns, done = Turns(1), []

        async def one(name: str) -> None:
            async with turns.turn(name):
                await asyncio.sleep(0.01)
                done.append(name)

        tasks = [asyncio.create_task(one(name)) for name in "aabbc"]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await one("d")
        return done

    assert sorted(asyncio.run(run())) == ["a", "b", "c", "d"]


def test_refusals_cost_a_longer_wait_each_time_and_are_forgotten():
    now = [0.0]
    penalties = Penalties(lambda: now[0])
    waits = []
    for _ in range(12):
        penalties.refused("car-1", took=0.0)
        waits.append(penalties.wait("car-1"))
    assert waits[: int(FREE)] == [0.0] * int(FREE)
    assert waits == sorted(waits)
    assert waits[int(FREE) + 1] == 2 * waits[int(FREE)] > 0
    assert waits[-1] == LONGEST_S
    assert penalties.wait("car-2") == 0
    penalties.refused("car-2", took=7.0)  # it held a checker for so long: half of the time is others'
    assert penalties.wait("car-2") == 7.0
    now[0] += 24 * 3600.0
    penalties.refused("car-1", took=0.0)
    assert penalties.wait("car-1") == 0


def test_what_passes_makes_up_for_what_was_refused():
    penalties = Penalties(lambda: 0.0)
    for _ in range(50):
        penalties.refused("car-1", took=0.0)
        penalties.passed("car-1")
    assert penalties.wait("car-1") == 0


def put(url: str, who: dict[str, str], data: bytes) -> httpx.Response:
    begun = httpx.post(f"{url}/uploads", headers=about(data) | who)
    if "Clip-Sha256" in begun.headers or begun.status_code != 201:
        return begun
    return httpx.patch(url + begun.headers["Location"], content=data, headers=about(data) | who | BODY | {
        "Upload-Offset": begun.headers["Upload-Offset"]})  # fmt: skip


def test_a_vehicle_that_sends_junk_waits_and_others_do_not(tmp_path, make_drive, monkeypatch):
    monkeypatch.setattr("drivefoundry.ingest.turns.FREE", -10.0)  # the first refusal costs the longest wait at once
    who = {name: {"Authorization": f"Bearer {issue_token(SECRET, name)}"} for name in ("car-1", "car-2")}
    write_drive(tmp_path / "a.mcap", make_drive(steps=10, vehicle="car-2"))
    with running(ClipStore(tmp_path / "store"), SECRET) as service:
        answers = [put(service.url, who["car-1"], b"junk %d" % i) for i in range(3)]
        assert [a.status_code for a in answers] == [422, 429, 429]
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= LONGEST_S + 1
        assert put(service.url, who["car-2"], (tmp_path / "a.mcap").read_bytes()).status_code == 204
        metrics = httpx.get(f"{service.url}/metrics").text
    assert 'drivefoundry_ingest_refused_total{reason="clip"} 1.0\n' in metrics
    assert "drivefoundry_ingest_put_off_total 2.0\n" in metrics


@pytest.mark.parametrize("day", [200_000, 30_000])
def test_a_days_bytes_are_not_overrun_by_requests_at_once(tmp_path, make_drive, day):
    clips = []
    for seed in range(8):
        write_drive(tmp_path / "a.mcap", make_drive(steps=10, seed=seed))
        clips.append((tmp_path / "a.mcap").read_bytes())
    who = {"Authorization": f"Bearer {issue_token(SECRET, 'car-1')}"}
    together, answers = threading.Barrier(len(clips)), []
    with running(ClipStore(tmp_path / "store"), SECRET, limits=Limits(day=day)) as service:
        at = httpx.URL(service.url)

        begun = [httpx.post(f"{service.url}/uploads", headers=about(d) | who).headers["Location"] for d in clips]

        def send(data: bytes, place: str) -> None:
            link = http.client.HTTPConnection(at.host, at.port or 0, timeout=60)
            link.putrequest("PATCH", place)
            for name, text in (TUS | BODY | who | {"Upload-Offset": "0", "Content-Length": str(len(data))}).items():
                link.putheader(name, text)
            link.endheaders()
            link.send(data[:100])
            together.wait(60)
            link.send(data[100:])
            answers.append(link.getresponse().status)
            link.close()

        threads = [threading.Thread(target=send, args=each) for each in zip(clips, begun, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        said = httpx.get(f"{service.url}/status", headers=who).json()
    total = sum(map(len, clips))
    assert len(answers) == len(clips)
    assert said["bytes_today"] == total if day > total else said["bytes_today"] <= day
    assert answers.count(204) == len(clips) if day > total else 1 <= answers.count(204) <= day // min(map(len, clips))


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=20))
def test_what_is_booked_and_settled_adds_up(tmp_path_factory, steps):
    vehicles = Vehicles(tmp_path_factory.mktemp("v") / "vehicles.db", clock=lambda: 1e6)
    came, open_of = 0, {}
    for i, (wanted, used) in enumerate(steps):
        granted = vehicles.book("car-1", f"u{i}", 0, wanted, 100)
        assert 0 <= granted <= wanted
        open_of[f"u{i}"] = (granted, min(used, granted))
        assert vehicles.spent("car-1") == came + sum(g for g, _ in open_of.values()) <= 100
        if len(open_of) > 3:
            upload = next(iter(open_of))
            _, used = open_of.pop(upload)
            vehicles.settle(upload, used)
            came += used
    vehicles.settle_all(lambda upload: open_of[upload][1])  # as after a kill
    assert vehicles.spent("car-1") == came + sum(u for _, u in open_of.values())
    vehicles.close()


def test_a_kill_gives_back_what_had_not_come(tmp_path):
    data = bytes(50_000)
    with serving(tmp_path / "store", "--day", "60000") as service:
        credential = service.enrolled("car-1", tmp_path)
        who = {"Authorization": f"Bearer {credential()}"}
        begun = httpx.post(f"{service.url}/uploads", headers=about(data) | who).headers["Location"]
        link = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        link.putrequest("PATCH", begun)
        for name, text in (TUS | BODY | who | {"Upload-Offset": "0", "Content-Length": str(len(data))}).items():
            link.putheader(name, text)
        link.endheaders(data[:20_000])
        offset = 0
        while offset < 20_000:
            offset = int(httpx.head(service.url + begun, headers=TUS | who).headers["Upload-Offset"])
        assert httpx.get(f"{service.url}/status", headers=who).json()["bytes_left"] == 10_000
        service.process.kill()
        service.process.wait()
        link.close()
    with serving(tmp_path / "store", "--day", "60000", port=service.port) as service:
        assert httpx.get(f"{service.url}/status", headers=who).json()["bytes_left"] == 40_000
        service.stop()


def test_unfinished_bytes_are_bounded_and_forgotten_uploads_make_room(tmp_path):
    with running(ClipStore(tmp_path), SECRET, limits=Limits(clip=100, unfinished=250)) as service:
        who = {name: {"Authorization": f"Bearer {issue_token(SECRET, name)}"} for name in ("car-1", "car-2")}
        begun = [httpx.post(f"{service.url}/uploads", headers=about(bytes([i]) * 100) | who["car-1"]) for i in range(3)]
        assert [b.status_code for b in begun] == [201, 201, 429]
        again = httpx.post(f"{service.url}/uploads", headers=about(bytes([1]) * 100) | who["car-1"])
        assert again.headers["Location"] == begun[1].headers["Location"]
        other = httpx.post(f"{service.url}/uploads", headers=about(bytes([2]) * 100) | who["car-2"])
        assert other.status_code == 201
    uploads = Uploads(tmp_path / "incoming" / "uploads", 250)
    sha = hashlib.sha256(b"new").hexdigest()
    assert uploads.create("car-1", sha, 100) is None
    old = time.time() - SILENT_S - 1
    for file in uploads.folder.glob("*.json"):
        os.utime(file, (old, old))
    assert uploads.create("car-1", sha, 100, held=[begun[0].headers["Location"].rpartition("/")[2]]) is not None
    assert len(uploads) == 3  # one of car-1's made room, the one that is being sent did not, nor did car-2's


def test_a_clip_of_messages_without_end_holds_up_its_own_vehicle_only(tmp_path, make_drive):
    """As operators run it: a clip that unpacks to thousands of times its size is refused at once."""
    write_drive(tmp_path / "a.mcap", make_drive(steps=10))
    whole = (tmp_path / "a.mcap").read_bytes()
    one = struct.pack("<BQHIQQ", 5, 22, 60_000, 0, 0, 0)
    raw = one * ((200 << 20) // len(one))
    packed = zstandard.ZstdCompressor(level=1).compress(raw)
    record = struct.pack("<QQQII", 0, 1, len(raw), 0, 4) + b"zstd" + struct.pack("<Q", len(packed)) + packed
    at = {}
    i = 8
    while i < len(whole) - 8:
        end = i + 9 + struct.unpack_from("<Q", whole, i + 1)[0]
        at.setdefault(whole[i], (i, end))
        i = end
    begin, end = at[6]
    data = bytearray(whole[:begin] + struct.pack("<BQ", 6, len(record)) + record + whole[end:])
    moved = len(data) - len(whole)
    struct.pack_into("<QQQQ", data, at[8][0] + moved + 9, 0, 1, begin, len(record) + 9)
    footer = at[2][0] + moved + 9
    struct.pack_into("<QQI", data, footer, struct.unpack_from("<Q", data, footer)[0] + moved, 0, 0)
    with serving(tmp_path / "store") as service:
        who = {"Authorization": f"Bearer {service.enrolled('car-1', tmp_path)()}"}
        refused = put(service.url, who, bytes(data))
        assert refused.status_code == 422
        assert "unpacks to more than" in refused.text
        assert put(service.url, who, whole).status_code == 204
        service.stop()
    assert landed(Path(tmp_path / "store")) == [hashlib.sha256(whole).hexdigest()]
