"""From a hard brake in the car to a row in the store, over the real service: each clip once, whenever the car dies."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from collect_until_killed import MOMENTS

from drivefoundry.clips.store import ClipStore
from drivefoundry.ingest.access.tokens import issue_token
from drivefoundry.ingest.server import running
from drivefoundry_car.log import cut, write_drive
from drivefoundry_car.recording.recent import moments
from drivefoundry_car.triggers import load_campaigns
from drivefoundry_car.upload.collector import Collector
from drivefoundry_car.upload.uploader import Uploader, UploadLimits

SECRET = "0123456789abcdef" * 4
CAMPAIGNS = """
[brake]
rule = "accel < -4 m/s^2 for 0.3 s"
priority = 60
cooldown_s = 3.0
before_s = 4.0
after_s = 2.0
[brake_elsewhere]
rule = "accel < -4 m/s^2"
priority = 90
cohort = ["paris"]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    store = ClipStore(tmp_path_factory.mktemp("home") / "store")
    with running(store, SECRET) as up:
        yield up


def two_brakes(make_drive, vehicle: str):
    """40 s with a hard brake at 10 s and one at 30 s."""
    drive = make_drive(steps=400, vehicle=vehicle)
    for begin in (100, 300):
        drive.ego[begin : begin + 6, 4] = -6.0
    return drive


def home(service, vehicle: str) -> list[tuple[float, float]]:
    """Begin and end of each of a vehicle's clips in the store."""
    service.flush()
    rows = service.landing.store.rows(["vehicle", "t0", "duration"]).to_pylist()
    return sorted((r["t0"], r["t0"] + r["duration"]) for r in rows if r["vehicle"] == vehicle)


@pytest.mark.parametrize("when", MOMENTS)
def test_a_killed_car_uploads_each_clip_once(service, make_drive, tmp_path, when):
    drive = two_brakes(make_drive, f"car-{when}")
    (tmp_path / "campaigns.toml").write_text(CAMPAIGNS)
    write_drive(tmp_path / "first.mcap", cut(drive, 0.0, 20.0))
    token = issue_token(SECRET, f"car-{when}")
    script = Path(__file__).with_name("collect_until_killed.py")
    around = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), service.url, token, str(tmp_path), str(tmp_path / "first.mcap"), when]
    died = subprocess.run(command, env=around, timeout=60, capture_output=True, text=True)
    assert died.returncode == -9, died.stderr
    before = home(service, f"car-{when}")
    assert len(before) == (when == "acknowledged")

    uploader = Uploader(service.url, token, tmp_path / "queue")
    campaigns = load_campaigns(tmp_path / "campaigns.toml")
    with Collector(tmp_path / "spool", {}, campaigns, drive.meta, uploader) as car:
        for now in moments(cut(drive, 20.0, 40.0)):
            car.tick(now)
            car.recorder.settle()
    uploader.send_all()
    first, second = home(service, f"car-{when}")
    assert second == (pytest.approx(26.3), pytest.approx(32.2))
    assert first[0] == pytest.approx(6.3)
    if when == "recording":
        assert 10.5 < first[1] < 11.05  # what had reached the disk
    else:
        assert first[1] == pytest.approx(12.2)
    counts = car.counts()
    assert (counts.fired, counts.recorded, counts.sent) == ({"brake": 1}, 1, 2)
    assert counts.queued == (1 if when in ("queued", "sending", "acknowledged") else 2)
    assert not uploader.outbox.waiting()
    assert not list((tmp_path / "spool").glob("*.mcap*"))


def test_the_most_valuable_goes_first_and_a_budget_holds_back(service, make_drive, tmp_path):
    drive = replace(two_brakes(make_drive, "car-rich"), takeover=np.zeros(400, bool))
    drive.takeover[200:205] = True
    (tmp_path / "c.toml").write_text(
        "[brake]\nrule = 'accel < -4 m/s^2'\npriority = 1\nbefore_s = 1\nafter_s = 1\nbytes_per_day = 2000\n"
        "[takeover]\nrule = 'takeover rising'\npriority = 9\nbefore_s = 2\nafter_s = 2\n"
    )
    order = []

    class Watched(Uploader):
        def _begin(self, connection, clip):
            order.append(clip.note.campaign)
            return super()._begin(connection, clip)

    uploader = Watched(service.url, issue_token(SECRET, "car-rich"), tmp_path / "queue", UploadLimits(connections=1))
    with Collector(tmp_path / "spool", {}, load_campaigns(tmp_path / "c.toml"), drive.meta) as car:
        for now in moments(drive):
            car.tick(now)
            car.recorder.settle()
    waits = [uploader.enqueue(q.file, q.note) for q in car.outbox.waiting()]
    assert len(waits) == 3
    receipts = uploader.send_all()
    assert order[0] == "takeover"
    assert [r.sha256 for r in receipts] == waits[:1]
    assert len(uploader.outbox.waiting()) == 2  # each brake is more than the day's 2000 bytes
    assert [b - a for a, b in home(service, "car-rich")] == [pytest.approx(3.9)]
