"""ROS 2 recordings, written by the format's own libraries: their motion, clock and pictures become a drive."""

from __future__ import annotations

import io
import shutil
import struct
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.writer import CompressionType
from mcap_ros2.writer import Writer
from PIL import Image

from drivefoundry.clips.importers import clips_in, drives_in, kind_of
from drivefoundry.clips.importers.drives import ros2
from drivefoundry.curate.quality import motion_fault, video_fault
from drivefoundry.label.episodes import episodes_of
from drivefoundry_car.log import decode_video, read_drive, write_drive

HEADER = """std_msgs/Header header
{body}
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
================================================================================
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
SHAPES = """================================================================================
MSG: geometry_msgs/Point
float64 x
float64 y
float64 z
================================================================================
MSG: geometry_msgs/Quaternion
float64 x
float64 y
float64 z
float64 w
================================================================================
MSG: geometry_msgs/Vector3
float64 x
float64 y
float64 z
================================================================================
MSG: geometry_msgs/Pose
geometry_msgs/Point position
geometry_msgs/Quaternion orientation
================================================================================
MSG: geometry_msgs/Twist
geometry_msgs/Vector3 linear
geometry_msgs/Vector3 angular
"""
COVARIANCE = """================================================================================
MSG: geometry_msgs/PoseWithCovariance
geometry_msgs/Pose pose
float64[36] covariance
================================================================================
MSG: geometry_msgs/TwistWithCovariance
geometry_msgs/Twist twist
float64[36] covariance
"""
TYPES = {
    "nav_msgs/msg/Odometry": HEADER.format(
        body="string child_frame_id\ngeometry_msgs/PoseWithCovariance pose\ngeometry_msgs/TwistWithCovariance twist"
    )
    + SHAPES
    + COVARIANCE,
    "geometry_msgs/msg/PoseStamped": HEADER.format(body="geometry_msgs/Pose pose") + SHAPES,
    "sensor_msgs/msg/CompressedImage": HEADER.format(body="string format\nuint8[] data"),
    "sensor_msgs/msg/Image": HEADER.format(
        body="uint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\nuint8[] data"
    ),
    "sensor_msgs/msg/CameraInfo": HEADER.format(
        body="uint32 height\nuint32 width\nstring distortion_model\n"
        "float64[] d\nfloat64[9] k\nfloat64[9] r\nfloat64[12] p"
    ),
}
BEGUN = 1_700_000_000
SPEED, TURN = 12.0, 0.08


class Bag:
    """A recording as written by `ros2 bag record`: a folder with metadata.yaml and one MCAP file."""

    def __init__(self, folder, compression=CompressionType.ZSTD, **more):
        folder.mkdir(parents=True)
        (folder / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  storage_identifier: mcap\n")
        self.file = folder / f"{folder.name}_0.mcap"
        self._stream = self.file.open("wb")
        self._writer = Writer(self._stream, chunk_size=20_000, compression=compression, **more)
        self._schemas = {}

    def add(self, topic, kind, t, message, stamp=0.0, late=0.02):
        """Add a message of t s, stamped `stamp` s later and logged a little later still."""
        if kind not in self._schemas:
            self._schemas[kind] = self._writer.register_msgdef(kind, TYPES[kind])
        ns = round((BEGUN + t + stamp) * 1e9) if stamp is not None else 0
        header = {"stamp": {"sec": ns // 10**9, "nanosec": ns % 10**9}, "frame_id": "f"}
        self._writer.write_message(
            topic, self._schemas[kind], {"header": header, **message}, round((BEGUN + t + late) * 1e9)
        )

    def close(self):
        self._writer.finish()
        self._stream.close()
        return self.file


def at(t):
    """x, y, yaw of a steady left bend."""
    return SPEED / TURN * np.sin(TURN * t), SPEED / TURN * (1 - np.cos(TURN * t)), TURN * t


def pose(t):
    x, y, yaw = at(t)
    turned = {"x": 0.0, "y": 0.0, "z": float(np.sin(yaw / 2)), "w": float(np.cos(yaw / 2))}
    return {"position": {"x": float(x), "y": float(y), "z": 0.0}, "orientation": turned}


def odometry(t, speed=SPEED):
    still = {"x": 0.0, "y": 0.0, "z": 0.0}
    twist = {"linear": {**still, "x": speed}, "angular": {**still, "z": TURN}}
    zeros = [0.0] * 36
    return {
        "child_frame_id": "base_link",
        "pose": {"pose": pose(t), "covariance": zeros},
        "twist": {"twist": twist, "covariance": zeros},
    }


def picture(i, size=(120, 300)):
    frame = np.full((*size, 3), (20 + i % 200, 60, 120), np.uint8)
    frame[size[0] // 2 :, (7 * i) % (size[1] - 20) :][:, :20] = (200, 200, 40)
    return frame


def jpeg(frame):
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=95)
    return {"format": "rgb8; jpeg compressed bgr8", "data": out.getvalue()}


def info(width=300, height=120):
    k = [240.0, 0.0, 150.0, 0.0, 238.0, 55.0, 0.0, 0.0, 1.0]
    size = {"height": height, "width": width, "distortion_model": "plumb_bob"}
    return {**size, "d": [0.0] * 5, "k": k, "r": [0.0] * 9, "p": [0.0] * 12}


def city_bag(folder, seconds=14.0, camera_hz=30, odometry_hz=50, **more):
    """Odometry and a front camera, each with its own clock, a second camera, and an unused topic."""
    bag = Bag(folder, **more)
    front = "/camera/front/image_raw/compressed"
    bag.add("/camera/front/camera_info", "sensor_msgs/msg/CameraInfo", 0.0, info())
    for i in range(int(seconds * odometry_hz)):
        bag.add("/odom", "nav_msgs/msg/Odometry", i / odometry_hz, odometry(i / odometry_hz))
    for i in range(int(seconds * camera_hz)):
        t = 0.011 + i / camera_hz
        bag.add(front, "sensor_msgs/msg/CompressedImage", t, jpeg(picture(i)))
        if i % 30 == 0:
            bag.add("/camera/rear/compressed", "sensor_msgs/msg/CompressedImage", t, jpeg(picture(i)))
    return bag.close()


@pytest.mark.parametrize("compression", [CompressionType.ZSTD, CompressionType.LZ4, CompressionType.NONE])
def test_a_bag_becomes_a_drive_with_labels_of_the_right_length(tmp_path, compression):
    city_bag(tmp_path / "bags" / "monday", compression=compression)
    assert kind_of(tmp_path / "bags") == kind_of(tmp_path / "bags" / "monday") == "mcap"
    (drive,) = drives_in(tmp_path / "bags")
    np.testing.assert_allclose(drive.t, np.arange(len(drive.t)) * 0.1, atol=1e-6)
    assert len(drive.t) == 140
    x, y, yaw = at(drive.t)
    np.testing.assert_allclose(drive.ego[:, :3], np.column_stack([x, y, yaw]), atol=1e-2)
    np.testing.assert_allclose(drive.ego[:, [3, 5]], [[SPEED, TURN]] * 140, atol=1e-6)
    np.testing.assert_allclose(drive.ego[:, 4], 0.0, atol=1e-6)
    assert np.isnan(drive.ego[:, 6]).all()
    video = drive.video
    assert (video.width, video.height) == (300, 120)
    assert video.intrinsics == (240.0, 238.0, 150.0, 55.0)
    np.testing.assert_allclose(video.t, 0.011 + np.arange(420) / 30, atol=1e-6)
    shown = decode_video(video, np.array([0, 100, 419]))
    for frame, i in zip(shown, (0, 100, 419), strict=True):
        assert np.abs(frame.astype(int) - picture(i)).mean() < 12
    assert drive.meta["date"] == "2023-11-14"
    assert "interpolated" in drive.notes["clock"]
    assert "/camera/rear/compressed" in drive.notes["topics"]
    assert motion_fault(drive) is None
    assert video_fault(drive) is None
    made = episodes_of(drive, None, "c")
    # Four seconds of a bend of 150 m radius.
    assert len(made) > 10
    np.testing.assert_allclose(made.future[:, -1, 0], SPEED / TURN * np.sin(4 * TURN), atol=0.02)


def test_bags_and_own_drives_are_cut_into_clips_alike(tmp_path, make_drive):
    folder = tmp_path / "drives"
    city_bag(folder / "monday", seconds=7.0)
    write_drive(folder / "own.mcap", make_drive(steps=80, frames=True))
    clips = [read_drive(p) for p in clips_in(folder, tmp_path / "out")]
    assert sorted(c.meta["source"] for c in clips) == ["ros2", "test"]
    assert {len(c.t) for c in clips} == {70, 80}


@pytest.mark.parametrize(
    ("encoding", "width", "pack"),
    [
        ("rgb8", 3, lambda f: f),
        ("bgr8", 3, lambda f: f[..., ::-1]),
        ("bgra8", 4, lambda f: np.dstack([f[..., ::-1], np.full(f.shape[:2], 255, np.uint8)])),
        ("mono8", 1, lambda f: f[..., :1]),
        ("yuv422_yuy2", 2, lambda f: np.dstack([f[..., 0], np.full(f.shape[:2], 128, np.uint8)])),
        ("uyvy", 2, lambda f: np.dstack([np.full(f.shape[:2], 128, np.uint8), f[..., 0]])),
        ("bayer_rggb8", 1, lambda f: mosaic(f, ((0, 1), (1, 2)))),
        ("bayer_gbrg8", 1, lambda f: mosaic(f, ((1, 2), (0, 1)))),
    ],
)
def test_raw_pictures_of_each_encoding(tmp_path, encoding, width, pack):
    frame = np.zeros((64, 160, 3), np.uint8)
    frame[:, :80], frame[:, 80:] = (200, 100, 50), (40, 90, 160)
    bag = Bag(tmp_path / "bag")
    rows = np.pad(pack(frame).reshape(64, -1), ((0, 0), (0, 12)))  # rows may be padded
    message = {"height": 64, "width": 160, "encoding": encoding, "is_bigendian": 0, "step": rows.shape[1]}
    for i in range(60):
        bag.add("/odom", "nav_msgs/msg/Odometry", i * 0.1, odometry(i * 0.1))
        bag.add("/image", "sensor_msgs/msg/Image", i * 0.1, {**message, "data": rows.tobytes()})
    (drive,) = drives_in(bag.close())
    shown = decode_video(drive.video, np.array([30]))[0].astype(int)
    small = shown.shape[1] // 2
    left, right = shown[10, small // 2], shown[10, small + small // 2]
    if width == 3 or width == 4 or encoding.startswith("bayer"):
        assert np.abs(left - (200, 100, 50)).max() < 12
        assert np.abs(right - (40, 90, 160)).max() < 12
    else:  # grey
        assert np.ptp(left) < 12
        assert left.mean() > right.mean() + 100
    assert "no CameraInfo" in drive.notes["video.lens"]


def mosaic(frame, block):
    out = np.zeros(frame.shape[:2], np.uint8)
    for a in (0, 1):
        for b in (0, 1):
            out[a::2, b::2] = frame[a::2, b::2, block[a][b]]
    return out


def test_poses_alone_give_speed_and_turning(tmp_path):
    bag = Bag(tmp_path / "bag")
    for i in range(160):
        bag.add("/pose", "geometry_msgs/msg/PoseStamped", i / 20, {"pose": pose(i / 20)})
    (drive,) = drives_in(bag.close())
    np.testing.assert_allclose(drive.ego[5:-5, [3, 5]], [[SPEED, TURN]] * (len(drive.t) - 10), atol=0.02)
    assert drive.notes["ego.speed"] == "slope of the position"
    assert drive.notes["video"] == "absent"


def test_a_twist_that_does_not_fit_the_poses_is_not_believed(tmp_path):
    bag = Bag(tmp_path / "bag")
    for i in range(100):
        bag.add("/odom", "nav_msgs/msg/Odometry", i * 0.1, odometry(i * 0.1, speed=0.0))
    (drive,) = drives_in(bag.close())
    np.testing.assert_allclose(drive.ego[3:-3, 3], SPEED, atol=0.05)
    assert drive.notes["ego.speed"] == "slope of the position"


def test_stamps_of_different_clocks_give_way_to_log_times(tmp_path):
    bag = Bag(tmp_path / "bag")
    for i in range(100):
        bag.add("/odom", "nav_msgs/msg/Odometry", i * 0.1, odometry(i * 0.1), late=0.0)
        camera = jpeg(picture(i, (64, 160)))
        bag.add("/image", "sensor_msgs/msg/CompressedImage", i * 0.1, camera, stamp=-3600.0, late=0.03)
    (drive,) = drives_in(bag.close())
    np.testing.assert_allclose(drive.video.t, np.arange(100) * 0.1 + 0.03, atol=1e-6)
    bag = Bag(tmp_path / "unstamped")
    for i in range(100):
        bag.add("/odom", "nav_msgs/msg/Odometry", i * 0.1, odometry(i * 0.1), stamp=None, late=0.0)
    (drive,) = drives_in(bag.close())
    np.testing.assert_allclose(drive.t, np.arange(100) * 0.1, atol=1e-6)


def test_out_of_order_pictures_are_sorted_and_damaged_ones_left_out(tmp_path):
    bag = Bag(tmp_path / "bag")
    for i in range(100):
        bag.add("/odom", "nav_msgs/msg/Odometry", i * 0.1, odometry(i * 0.1))
    order = np.arange(100)
    order[[40, 41]] = order[[41, 40]]
    for i in order.tolist():
        message = jpeg(picture(20 * (i % 8), (64, 160)))
        message = message if i != 60 else {**message, "data": message["data"][:100]}
        bag.add("/image", "sensor_msgs/msg/CompressedImage", i * 0.1, message)
    (drive,) = drives_in(bag.close())
    np.testing.assert_allclose(drive.video.t, np.delete(np.arange(100), 60) * 0.1, atol=1e-6)
    shown = decode_video(drive.video, np.array([40, 41])).astype(int)
    assert np.abs(shown[0] - picture(0, (64, 160))).mean() < 12
    assert np.abs(shown[1] - picture(20, (64, 160))).mean() < 12
    assert drive.notes["video.pictures"].startswith("1 of 100 are damaged")


def test_unreadable_input_is_reported_in_one_line(tmp_path, monkeypatch):
    bag = Bag(tmp_path / "blind")
    bag.add("/image", "sensor_msgs/msg/CompressedImage", 0.0, jpeg(picture(0)))
    blind = bag.close()
    with pytest.raises(
        ValueError, match=r"blind_0\.mcap: no nav_msgs/msg/Odometry and no geometry_msgs/msg/PoseStamped"
    ):
        [*drives_in(blind)]
    bag = Bag(tmp_path / "back")
    for i in range(90):
        t = i * 0.1 if i < 60 else i * 0.1 - 4.0
        bag.add("/odom", "nav_msgs/msg/Odometry", t, odometry(i * 0.1))
    with pytest.raises(ValueError, match=r"back_0\.mcap: its clock goes back by 3.90 s at state 60"):
        [*drives_in(bag.close())]
    whole = city_bag(tmp_path / "whole", seconds=1.0)
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"cut\.mcap: truncated MCAP.*`mcap recover`"):
        [*drives_in(cut)]
    (tmp_path / "sqlite").mkdir()
    (tmp_path / "sqlite" / "a.db3").write_bytes(b"SQLite format 3\0")
    with pytest.raises(ValueError, match="a ROS 2 bag in SQLite; convert it to MCAP with `ros2 bag convert`"):
        kind_of(tmp_path / "sqlite")
    shutil.copy(whole, tmp_path / "again.mcap")
    monkeypatch.setitem(sys.modules, "mcap_ros2.decoder", None)
    with pytest.raises(ValueError, match=r"again\.mcap: a ROS 2 recording; .*pip install 'drivefoundry\[ros2\]'"):
        ros2.read(tmp_path / "again.mcap")


@settings(max_examples=60)
@given(st.data())
def test_damaged_recordings_are_refused_in_one_line(data):
    """Bytes changed, removed or duplicated, in a file without compression or checksums to detect it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.mcap"
        damaged = bytearray(small_bag())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(8, len(damaged) - 9))
            how = data.draw(st.sampled_from(["change", "cut", "double", "length"]))
            some = data.draw(st.integers(1, 30))
            if how == "change":
                damaged[at] = data.draw(st.integers(0, 255))
            elif how == "cut":
                del damaged[at : min(at + some, len(damaged) - 8)]
            elif how == "double":
                damaged[at:at] = damaged[at : at + some]
            else:
                damaged[at : at + 4] = struct.pack("<I", data.draw(st.sampled_from([0, 1, 2**31, 2**32 - 1])))
        file.write_bytes(damaged)
        refusal = f"{file}: "
        try:
            ros2.read(file)  # bytes that carry nothing, or a coordinate, may change
        except ValueError as error:
            refusal = str(error)
        assert refusal.startswith(f"{file}: ")
        assert "\n" not in refusal


@cache
def small_bag():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bag"
        bag = Bag(path, compression=CompressionType.NONE, enable_crcs=False)
        bag.add("/camera_info", "sensor_msgs/msg/CameraInfo", 0.0, info(32, 16))
        raw = {"height": 16, "width": 32, "encoding": "rgb8", "is_bigendian": 0, "step": 96, "data": bytes(16 * 96)}
        for i in range(12):
            bag.add("/odom", "nav_msgs/msg/Odometry", i * 0.1, odometry(i * 0.1))
            if i % 3 == 0:
                bag.add("/image", "sensor_msgs/msg/Image", i * 0.1, raw)
        return bag.close().read_bytes()
