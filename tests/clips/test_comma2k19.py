"""comma2k19 segments: a hand-made one, damaged ones, and the public example if available."""

import os
from pathlib import Path

import numpy as np
import pytest

from drivefoundry.clips.importers import clips_in, drives_in, kind_of, scenes_in
from drivefoundry.clips.importers.drives import comma2k19
from drivefoundry_car.log import read_drive, write_drive
from drivefoundry_car.recording.cutter import record_drive
from drivefoundry_car.triggers import firings, load_campaigns, not_evaluable

DATA = Path(os.environ.get("DRIVEFOUNDRY_DATA", Path(__file__).parents[3] / "shared" / "data")) / "comma2k19_example"
HZ = {"CAN/speed": 83, "CAN/steering_angle": 83, "IMU/gyro": 104}
V, RATE, ASIDE = 10.0, 0.05, 0.03


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as f:
        np.save(f, array)


def quaternion(r):
    """Quaternions (N, 4) w, x, y, z of rotations (N, 3, 3)."""
    w = np.sqrt(1 + r[:, 0, 0] + r[:, 1, 1] + r[:, 2, 2]) / 2
    parts = (r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1])
    return np.column_stack([w, *(p / (4 * w) for p in parts)])


def segment(folder, name="10", seconds=20.0, begin=500.03, can=True, radar=True):
    """10 m/s on a left bend of 200 m radius, seen by a device that looks 0.03 rad to the left of the way."""
    root = folder / "b0c9d2329ad1606b_2018-08-02--08-34-47" / name
    t = begin + np.arange(int(seconds * 20)) * 0.05
    yaw = 1.0 + RATE * (t - begin)
    east, north = V / RATE * (np.sin(yaw) - np.sin(1.0)), V / RATE * (np.cos(1.0) - np.cos(yaw))
    origin = np.array([-2712087.5, -4261670.0, 3881014.4])
    to_map = comma2k19._axes(origin)
    save(root / "global_pose" / "frame_times", t)
    save(root / "global_pose" / "frame_positions", origin + np.column_stack([east, north, 0 * t]) @ to_map)
    flat = lambda a: np.column_stack([np.cos(a), np.sin(a), 0 * a])  # noqa: E731
    save(root / "global_pose" / "frame_velocities", V * flat(yaw) @ to_map)
    ahead, right = flat(yaw + ASIDE), flat(yaw + ASIDE - np.pi / 2)
    axes = np.stack([ahead, right, np.tile([0.0, 0, -1], (len(t), 1))], 2)  # device x, y, z in the map frame
    save(root / "global_pose" / "frame_orientations", quaternion(to_map.T @ axes))
    log = root / "processed_log"
    for sensor, hz in HZ.items():
        at = begin + 0.04 + np.arange(int((seconds - 0.1) * hz)) / hz
        value = {
            "CAN/speed": np.full((len(at), 1), V), "CAN/steering_angle": np.full(len(at), 9.0),
            "IMU/gyro": np.tile([0.0, 0.0, -RATE], (len(at), 1)),
        }[sensor]  # fmt: skip
        save(log / sensor / "t", at)
        save(log / sensor / "value", value)
    at = np.repeat(begin + 0.05 + np.arange(int(seconds * 20) - 2) * 0.05, 3)
    target = np.tile(np.arange(3), len(at) // 3)
    distance = np.where(target == 2, 300 - V * (at - begin), np.array([30.0, 32.0, 0.0])[target])
    lateral, relative = np.array([-0.5, -0.4, 3.0])[target], np.array([0.0, 0.0, -V])[target]
    nothing = np.full(len(at), np.nan)
    if radar:
        value = np.column_stack([distance, lateral, relative, nothing, nothing, 528.0 + target, 0 * at])
        longer = (target != 1) | (at < begin + 15)
        save(log / "CAN/radar/t", at[longer])
        save(log / "CAN/radar/value", value[longer])
    if can:
        at = np.repeat(begin + 0.02 + np.arange(int(seconds * 50)) * 0.02, 2)
        lka = np.arange(len(at)) % 2 == 0
        data = np.zeros((len(at), 8), np.uint8)
        data[:, 7] = 1  # NumPy cuts trailing zeros off byte strings
        data[lka, 0] = 0x80 | (at[lka] - begin >= 5)
        hand = np.where((at - begin >= 2) & (at - begin < 3) | (at - begin >= 8) & (at - begin < 9), -120, -20)
        data[~lka, 1:3] = hand[~lka].astype(">i2").view(np.uint8).reshape(-1, 2)
        save(log / "CAN/raw_can/t", at)
        save(log / "CAN/raw_can/address", np.where(lka, comma2k19.LKA, comma2k19.EPS_TORQUE))
        save(log / "CAN/raw_can/src", np.where(lka, comma2k19.SENT, 0))
        save(log / "CAN/raw_can/data", data.view("S8")[:, 0])
    return root


def test_a_segment_is_a_drive_in_its_own_map_frame(tmp_path):
    segment(tmp_path)
    assert kind_of(tmp_path) == "comma2k19"
    (drive,) = drives_in(tmp_path)
    np.testing.assert_allclose(np.diff(drive.t), 0.1, atol=1e-9)
    assert drive.t[0] == pytest.approx(500.1)
    yaw = 1.0 + RATE * (drive.t - 500.03)
    np.testing.assert_allclose(drive.ego[:, 0], V / RATE * (np.sin(yaw) - np.sin(1.0)), atol=2e-3)
    np.testing.assert_allclose(drive.ego[:, 1], V / RATE * (np.cos(1.0) - np.cos(yaw)), atol=2e-3)
    np.testing.assert_allclose(drive.ego[:, 2], yaw, atol=1e-5)  # what the device looks aside is taken off
    wanted = [V, 0.0, RATE, np.radians(9.0)]
    np.testing.assert_allclose(drive.ego[:, 3:], np.tile(wanted, (len(drive.t), 1)), atol=1e-6)
    assert drive.meta["drive"] == "b0c9d2329ad1606b_2018-08-02--08-34-47--10"
    assert drive.video is None
    assert {"objects", "ego.yaw", "takeover", "video"} <= drive.notes.keys()
    write_drive(tmp_path / "a.mcap", drive)
    np.testing.assert_array_equal(read_drive(tmp_path / "a.mcap").ego, drive.ego)


def test_the_radar_gives_moving_cars_once_each(tmp_path):
    (drive,) = drives_in(segment(tmp_path))
    o = drive.objects
    assert len(o.track) == 1  # neither the second echo of the same car nor what stands still
    assert o.valid[0, 1:-2].all()
    step = 100
    away = o.states[0, step, :2] - drive.ego[step, :2]
    c, s = np.cos(drive.ego[step, 2]), np.sin(drive.ego[step, 2])
    assert away @ [c, s] == pytest.approx(30 + 4.6, abs=1e-2)  # from bumper to bumper, and half of each car
    assert away @ [-s, c] == pytest.approx(-0.5, abs=1e-2)
    assert o.states[0, step, 3] == pytest.approx(V)
    (without,) = drives_in(segment(tmp_path / "other", radar=False))
    assert without.objects is None


def test_a_takeover_requires_an_engaged_model(tmp_path):
    (drive,) = drives_in(segment(tmp_path))
    since = drive.t - 500.03
    np.testing.assert_array_equal(drive.engaged, since > 5)
    np.testing.assert_array_equal(drive.takeover, (since > 8.01) & (since < 9.01))
    (fired,) = [f for f in firings(load_campaigns(), drive) if f.campaign == "takeover"]
    assert fired.t == pytest.approx(508.1)
    (without,) = drives_in(segment(tmp_path / "other", can=False))
    assert without.engaged is without.takeover is None


@pytest.mark.parametrize("joint", ["|", "_", "--", "%7C"])
@pytest.mark.parametrize("above", ["", "Chunk_1", "comma2k19/Chunk_1"])
def test_a_route_is_the_same_for_any_spelling_of_its_name(tmp_path, joint, above):
    segment(tmp_path / "all" / above, seconds=4.0)
    (route,) = (tmp_path / "all" / above).iterdir()
    route.rename(route.with_name(f"b0c9d2329ad1606b{joint}2018-08-02--08-34-47"))
    (drive,) = drives_in(tmp_path / "all")
    assert drive.meta["vehicle"] == "b0c9d2329ad1606b"
    assert drive.meta["route_id"] == "b0c9d2329ad1606b_2018-08-02--08-34-47"
    assert drive.ego_size == (4.6, 1.84, 1.68)
    assert "ego.size" not in drive.notes


def test_the_size_of_another_car_is_assumed_and_marked_so(tmp_path):
    segment(tmp_path, seconds=4.0)
    (route,) = tmp_path.iterdir()
    route.rename(route.with_name("99c94dc769b5d96f|2019-01-02--03-04-05"))
    (drive,) = drives_in(tmp_path)
    assert drive.meta["vehicle"] == "99c94dc769b5d96f"
    assert drive.ego_size == comma2k19.CAR
    assert "assumed" in drive.notes["ego.size"]


def test_segments_come_in_order(tmp_path):
    for name in ("9", "10"):
        segment(tmp_path, name, seconds=3, begin=540.0 + 60 * (name == "10"))
    assert [round(d.t[0]) for d in drives_in(tmp_path)] == [540, 600]
    with pytest.raises(ValueError, match="comma2k19 logs have no pictures to train on"):
        clips_in(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="scenes come from"):
        scenes_in(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("processed_log/CAN/speed/t", None, r"CAN/speed/t: missing; copy the segment again"),
        ("processed_log/CAN/speed/t", "cut", r"CAN/speed/t: not a complete NumPy array"),
        (
            "processed_log/CAN/speed/t",
            lambda a: np.where(np.arange(len(a)) == 7, np.nan, a),
            "CAN/speed: time of sample 7",
        ),
        ("processed_log/IMU/gyro/t", lambda a: a[::-1], "IMU/gyro: time goes back at sample 1"),
        ("processed_log/IMU/gyro/value", lambda a: a[:, :2], r"gyro/value: 3 columns of numbers expected, got float64"),
        ("processed_log/IMU/gyro/value", lambda a: a[:-1], r"IMU/gyro: \d+ values for \d+ times"),
        ("processed_log/CAN/steering_angle/value", lambda a: a * np.nan, r"steering_angle/value: not finite"),
        ("processed_log/CAN/radar/value", lambda a: a[:, :5], r"radar/value: 7 columns of numbers expected"),
        ("global_pose/frame_times", lambda a: a[:-3], r"frame_positions: \d+ values for \d+ times"),
        ("global_pose/frame_orientations", lambda a: a[:, :3], r"frame_orientations: 4 columns"),
        ("global_pose/frame_times", lambda a: a + 1000.0, "its sensors have no time in common"),
        ("processed_log/CAN/raw_can/src", lambda a: a[:-1], "raw_can/src: "),
    ],
)
def test_damage_is_named(tmp_path, name, change, says):
    path = segment(tmp_path, seconds=3) / name
    if change is None:
        path.unlink()
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        save(path, change(np.load(path)))
    with pytest.raises(ValueError, match=says) as refused:
        list(drives_in(tmp_path))
    assert "\n" not in str(refused.value)


def test_pickles_are_not_opened(tmp_path):
    path = segment(tmp_path, seconds=3) / "global_pose" / "frame_times"
    with path.open("wb") as f:
        np.save(f, np.array([{}, 1], object), allow_pickle=True)
    with pytest.raises(ValueError, match="not a complete NumPy array"):
        list(drives_in(tmp_path))


@pytest.mark.skipif(not DATA.is_dir(), reason="the example segment is not at hand")
def test_rules_run_on_the_public_example(tmp_path):
    assert kind_of(DATA) == "comma2k19"
    (drive,) = drives_in(DATA)
    assert len(drive.t) == 599
    way = np.hypot(*np.diff(drive.ego[:, :2], axis=0).T).sum()
    assert way == pytest.approx(drive.ego[:, 3].sum() * 0.1, rel=0.03)  # the wheels agree with the satellites
    turned = np.diff(np.unwrap(drive.ego[:, 2])) / 0.1
    smooth = [np.convolve(a, np.ones(11) / 11, "valid") for a in (turned, drive.ego[:-1, 5])]
    assert np.corrcoef(*smooth)[0, 1] > 0.9  # and the gyroscope
    assert np.corrcoef(drive.ego[:, 6], drive.ego[:, 5] / drive.ego[:, 3])[0, 1] > 0.8  # and the steering wheel
    assert 10 < len(drive.objects.track) < 60
    assert 0.8 < drive.engaged.mean() < 0.9  # openpilot takes the wheel after 9 s
    assert not drive.takeover.any()
    campaigns = load_campaigns()
    assert "near_miss" not in not_evaluable(campaigns, drive)
    assert firings(campaigns, drive) == []  # a quiet minute
    assert record_drive(drive, campaigns, 0, tmp_path)


@pytest.mark.parametrize("sensor", ["CAN/speed", "IMU/gyro"])
def test_nothing_is_made_up_where_a_sensor_is_silent(tmp_path, sensor):
    """A sensor fails for 3 s: the drive has no steps there, and its notes say so."""
    segment(tmp_path)
    log = next(tmp_path.glob("*/*/processed_log")) / sensor
    t, value = np.load(log / "t"), np.load(log / "value")
    there = (t < 506) | (t > 509)
    save(log / "t", t[there])
    save(log / "value", value[there])
    (drive,) = drives_in(tmp_path)
    assert not ((drive.t > 506.05) & (drive.t < 508.95)).any()
    assert np.diff(drive.t).max() == pytest.approx(3.1, abs=0.15)
    assert (np.diff(drive.t) > 0.11).sum() == 1
    assert drive.notes["clock"].endswith("s are left out: a sensor is silent for more than 0.25 s")
    assert drive.objects.states.shape[1] == len(drive.t)
