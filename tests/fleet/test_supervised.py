"""Supervised outings become recordings of who drove, what was planned and what would have been right."""

import numpy as np
import pytest

from drivefoundry.fleet.logger import objects_near, signals_near, steering_wheel
from drivefoundry.fleet.supervised import record_supervised
from drivefoundry.sim.policies import ConstantVelocity, LogReplay
from drivefoundry.types import AGENT_CAR
from drivefoundry_car.log import read_drive
from situation import EAST, SIZES, situation, straight


def scenes():
    """A car stands in the way of the first ego, and another is too far to be noticed; the second road is free."""
    others = [(AGENT_CAR, straight(-20.0, EAST, 0.0, 0.0)), (AGENT_CAR, straight(140.0, EAST, 0.0, 0.0))]
    return [
        situation(straight(-60.0, EAST, 0.0, 8.0), others, name="blocked"),
        situation(straight(-60.0, EAST, 0.0, 8.0), name="free"),
    ]


def test_a_release_is_recorded_with_plans_corrections_and_takeovers(tmp_path):
    told = []
    rows = record_supervised(ConstantVelocity(), scenes(), tmp_path, "r1", seconds=8.0, on_drive=told.append)
    assert sum(told) == 2
    assert [(r["scene"], r["takeovers"]) for r in rows] == [("blocked", 1), ("free", 0)]
    assert rows[1]["km"] == pytest.approx(0.064, abs=0.002)
    drive, free = (read_drive(tmp_path / f"{name}.mcap") for name in ("blocked", "free"))
    assert drive.meta["release"] == "r1"
    assert len(drive.t) == 81
    assert drive.video is not None
    assert len(drive.video.t) == 81
    assert drive.engaged is not None
    assert drive.takeover is not None
    assert np.array_equal(drive.engaged, ~drive.takeover)
    assert free.takeover is not None
    assert not free.takeover.any()
    assert drive.plan is not None
    assert drive.correction is not None
    assert drive.plan.t.tolist() == drive.correction.t.tolist() == [0.5 * k for k in range(16)]
    grabbed = int(np.argmax(drive.takeover)) // 5
    assert drive.correction.points[grabbed, -1, 0] < drive.plan.points[grabbed, -1, 0] - 3.0
    assert drive.objects is not None
    assert drive.objects.track.tolist() == [1]
    assert drive.signal_id is not None
    assert drive.signal_id.tolist() == [0]


def test_people_who_drive_are_not_corrected(tmp_path):
    record_supervised(LogReplay(), scenes()[1:], tmp_path, None, seconds=4.0)
    drive = read_drive(tmp_path / "free.mcap", video=False)
    assert drive.plan is None
    assert drive.correction is None
    assert drive.engaged is not None
    assert not drive.engaged.any()


def test_the_logger_records_nearby_road_users_while_near():
    ego, passing = straight(0.0, 0.0, 0.0, 0.0), straight(-120.0, 3.0, 0.0, 20.0)
    tracks = np.stack([ego, passing, straight(200.0, 0.0, 0.0, 0.0)]).astype(np.float32)
    size = np.array([SIZES[AGENT_CAR]] * 3, np.float32)
    objects = objects_near(ego, tracks, np.ones((3, 140), bool), np.zeros(3, np.int64), size, 0)
    assert objects.track.tolist() == [1]
    near = np.hypot(*passing[:, :2].T) < 80.0
    assert np.array_equal(objects.valid[0], near)
    assert not objects.states[0, ~near].any()
    np.testing.assert_allclose(objects.states[0, near], passing[near], rtol=1e-6)


def test_signals_count_from_their_stop_line():
    road = scenes()[0].map
    for x, ids in ((-140.0, []), (-100.0, [0])):
        assert signals_near(road, straight(x, EAST, 0.0, 0.0)).tolist() == ids


def test_steering_wheel_turns_with_the_bend_and_rests_when_standing():
    angles = steering_wheel(np.array([0.0, 10.0, 10.0, 1.0]), np.array([1.0, 1.0, -1.0, 10.0]))
    assert angles[0] == 0.0
    assert angles[1] == -angles[2] > 0
    assert angles[3] == pytest.approx(np.arctan(0.25 * 2.85) * 14.8)


def test_a_recorded_person_drives_their_own_log_to_its_end(tmp_path):
    """Even into an obstacle, from which a safety driver would save a release; each for the whole length of its log."""
    standing = [(AGENT_CAR, straight(-20.0, EAST, 0.0, 0.0, 77))]
    logs = [
        situation(straight(-60.0, EAST, 0.0, 8.0, 77), standing, name="blocked"),
        situation(straight(-60.0, EAST, 0.0, 8.0, 70), name="short"),
    ]
    rows = record_supervised(LogReplay(), logs, tmp_path, None)
    assert [r["scene"] for r in rows] == ["blocked", "short"]
    assert [r["takeovers"] for r in rows] == [0, 0]
    for scene, steps in zip(logs, (61, 51), strict=True):
        drive = read_drive(tmp_path / f"{scene.id}.mcap")
        assert len(drive.t) == steps
        assert drive.video is not None
        assert len(drive.video.t) == steps
        logged = scene.tracks[0, scene.start : scene.start + steps]
        np.testing.assert_array_equal(drive.ego[:, :4].astype(np.float32), logged)
    (tmp_path / "car").mkdir()
    rows = record_supervised(ConstantVelocity(), logs, tmp_path / "car", "r1")
    assert rows[0]["takeovers"] == 1
