"""Read ROS 2 recordings (MCAP files with CDR messages, as `ros2 bag record -s mcap` writes them) as Drives.

True: pictures, the motion that the recording's odometry reports, and the stamps of both. Derived, and noted so:
acceleration, and speed and yaw rate where no twist is given. Assumed: where the camera is mounted, and its lens where
there is no CameraInfo. Absent: route, objects, map, steering. Messages follow REP 103 and REP 105 (x forward, y left).
Of several cameras the one whose topic says "front" is taken, of several odometries the one with the most messages.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap.records import Channel, Header, Schema
from mcap.stream_reader import StreamReader

from drivefoundry.clips.importers.drives.ros2_pictures import PICTURES, encoded
from drivefoundry.clips.importers.drives.series import Series
from drivefoundry.types import require
from drivefoundry_car.log import Drive, Video, clock
from drivefoundry_car.log.channels import STATE, STATE_FIELDS
from drivefoundry_car.log.chunks import MCAP_MAGIC, Records

ODOMETRY, POSE, TWIST = "nav_msgs/msg/Odometry", "geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/TwistStamped"
INFO = "sensor_msgs/msg/CameraInfo"
MOUNT = (1.2, 0.0, 1.4, 0.0)
"""Assumed camera mount, m: behind the windscreen, level."""
SMOOTH_S = 0.5
"""Span over which slopes are fitted, s."""
APART_S = 0.5
"""Two topics whose stamps differ from the log by more than this have different clocks, s."""
_DAMAGE = (McapError, zstandard.ZstdError, struct.error, UnicodeDecodeError, IndexError, KeyError, TypeError)
_DAMAGE += (OverflowError, AttributeError)
"""Errors that decoders raise on bytes that do not match their schema."""


@dataclass
class Topic:
    """One channel's messages: log times ns, stamps ns, and the decoded messages (except pictures)."""

    channel: Channel
    schema: Schema
    logged: list[int] = field(default_factory=list)
    stamped: list[int] = field(default_factory=list)
    messages: list[Any] = field(default_factory=list)


def fits(file: Path) -> bool:
    """Whether an MCAP file is a ROS 2 recording: its profile says so, or it has CDR channels and no Drive of this
    project."""
    try:
        with file.open("rb") as f:
            if f.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
                return False
            f.seek(0)
            first = next(iter(StreamReader(f).records), None)
            if isinstance(first, Header) and first.profile == "ros2":
                return True
            f.seek(0)
            summary = make_reader(f).get_summary()
    except (*_DAMAGE, ValueError):
        return False
    of = [] if summary is None else list(summary.channels.values())
    return any(c.message_encoding == "cdr" for c in of) and all(c.topic != STATE for c in of)


def read(file: Path, *, video: bool = True) -> Drive:
    """Read one recording as a Drive on the 10 Hz clock; t is s from the second in which its motion begins.

    ValueError names the file and what it lacks: odometry, a decodable schema, complete messages.
    """
    data = _mapped(file)
    require(data[-len(MCAP_MAGIC) :] == MCAP_MAGIC, f"{file}: truncated MCAP; repair it with `mcap recover`")
    try:
        topics = _topics(file, data)
        motion, twist = _motion(file, topics)
        camera = _camera(topics) if video else None
        ns_of = _clock([t for t in (motion, twist, camera) if t is not None])
        begun = int(min(ns_of(motion))) // 10**9 * 10**9
        t, ego, notes = _ego(motion, twist, lambda topic: (np.array(ns_of(topic), np.int64) - begun) / 1e9)
        taken = None if camera is None else (np.array(ns_of(camera), np.int64) - begun) / 1e9
        shown = None
        if camera is not None and taken is not None:
            shown, more = _video(data, camera, taken, _info(topics, camera))
            notes |= more
    except _DAMAGE as error:
        raise ValueError(f"{file}: damaged ROS 2 recording ({type(error).__name__}: {error}); copy it again") from error
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(f"{file}: ") else f"{file}: {error}") from error
    left = sorted(x.channel.topic for x in topics if x not in (motion, twist, camera) and x.schema.name != INFO)
    notes |= {"video": "absent"} if video and shown is None else {}
    notes |= {"topics": f"left out: {', '.join(left)}"} if left and video else {}
    where = file.parent.name or file.stem
    meta = {"vehicle": "ros2", "drive": file.stem, "source": "ros2", "place": where, "route_id": where}
    if begun > 10**18:  # a wall clock, not one that starts at boot
        meta["date"] = datetime.fromtimestamp(begun / 1e9, UTC).date().isoformat()
    return Drive(meta, t, ego, video=shown, notes=notes)


def _mapped(file: Path) -> bytes | mmap.mmap:
    """Map a file's bytes: recordings may be larger than memory."""
    with file.open("rb") as f:
        return mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) if file.stat().st_size else b""


def _decoder(file: Path) -> Callable[[Schema], Callable[[bytes], Any] | None]:
    try:
        from mcap_ros2._vendor.rosidl_adapter.parser import InvalidSpecification
        from mcap_ros2.decoder import DecoderFactory
    except ModuleNotFoundError:
        raise ValueError(
            f"{file}: a ROS 2 recording; to read it, install the extra: pip install 'drivefoundry[ros2]'"
        ) from None
    factory = DecoderFactory()

    def decoder_for(schema: Schema) -> Callable[[bytes], Any] | None:
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the parser prints what it raises
                return factory.decoder_for("cdr", schema)
        except (InvalidSpecification, NameError, AssertionError) as error:
            why = " ".join(str(error).split())
            raise ValueError(f"{schema.name}: its message definition is damaged ({why}); copy it again") from None

    return decoder_for


def _topics(file: Path, data: bytes | mmap.mmap) -> list[Topic]:
    """All supported channels with their messages decoded, except pictures."""
    decoder_for = _decoder(file)
    records = Records(data, lambda c: c.message_encoding == "cdr", limited=False)
    found: dict[int, Topic] = {}
    decoders: dict[int, Callable[[bytes], Any]] = {}
    for id, at, message in records.messages():
        if id not in found:
            channel = records.channels[id]
            schema = records.schemas.get(channel.schema_id)
            require(schema is not None, f"{channel.topic}: no schema; record it again with message definitions")
            assert schema is not None
            found[id] = Topic(channel, schema)
            if schema.name in (ODOMETRY, POSE, TWIST, INFO):
                decode = decoder_for(schema)
                what = f"{channel.topic}: its schema is written in {schema.encoding}; ros2msg can be decoded"
                require(decode is not None, what)
                assert decode is not None
                decoders[id] = decode
        topic = found[id]
        if id in decoders or topic.schema.name in PICTURES:
            topic.logged.append(at)
            topic.stamped.append(_stamp(message))
        if id in decoders:
            topic.messages.append(decoders[id](message))
    return list(found.values())


def _stamp(message: bytes) -> int:
    """Stamp of a message, ns: all supported messages start with it (CDR: 4 bytes of header, then seconds)."""
    seconds, nanos = struct.unpack_from("<iI" if message[1] & 1 else ">iI", message, 4)
    return seconds * 10**9 + nanos


def _most(topics: list[Topic], name: str) -> Topic | None:
    """The topic of a schema with the most messages, by name if tied."""
    of = [t for t in topics if t.schema.name == name and t.logged]
    return min(of, key=lambda t: (-len(t.logged), t.channel.topic), default=None)


def _motion(file: Path, topics: list[Topic]) -> tuple[Topic, Topic | None]:
    """The pose topic, and a twist topic if the pose topic has no speed."""
    odometry = _most(topics, ODOMETRY)
    if odometry is not None:
        return odometry, None
    pose = _most(topics, POSE)
    names = ", ".join(sorted(t.channel.topic for t in topics)[:4]) or "nothing"
    require(pose is not None, f"{file}: no {ODOMETRY} and no {POSE} in it ({names}); record where the car is")
    assert pose is not None
    return pose, _most(topics, TWIST)


def _camera(topics: list[Topic]) -> Topic | None:
    of = [t for t in topics if t.schema.name in PICTURES and t.logged]
    rank = {name: i for i, name in enumerate(PICTURES)}
    return min(
        of,
        key=lambda t: ("front" not in t.channel.topic.lower(), rank[t.schema.name], -len(t.logged), t.channel.topic),
        default=None,
    )


def _info(topics: list[Topic], camera: Topic) -> Any | None:
    """The first CameraInfo of the topic whose name has most in common with the camera's."""

    def common(topic: Topic) -> int:
        a, b = topic.channel.topic.split("/")[:-1], camera.channel.topic.split("/")[:-1]
        return sum(1 for _ in _same(a, b))

    of = [t for t in topics if t.schema.name == INFO and t.messages]
    best = max(of, key=common, default=None)
    return None if best is None or (len(of) > 1 and not common(best) > 1) else best.messages[0]


def _same(a: list[str], b: list[str]) -> Iterator[str]:
    for x, y in zip(a, b, strict=False):
        if x != y:
            return
        yield x


def _clock(topics: list[Topic]) -> Callable[[Topic], list[int]]:
    """The clock that all topics share: their stamps, or their log times if stamps are missing or disagree."""
    late = [float(np.median(np.array(t.logged) - np.array(t.stamped))) / 1e9 for t in topics]
    stamped = all(min(t.stamped) > 0 for t in topics) and max(late) - min(late) <= APART_S
    return lambda topic: topic.stamped if stamped else topic.logged


def _ego(
    motion: Topic, twist: Topic | None, seconds: Callable[[Topic], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
    """t (T,), ego (T, 7) on the 10 Hz clock, and what was derived."""
    has_twist = motion.schema.name == ODOMETRY
    poses = [m.pose.pose if has_twist else m.pose for m in motion.messages]
    q = np.array([(p.orientation.w, p.orientation.x, p.orientation.y, p.orientation.z) for p in poses], np.float64)
    w, x, y, z = q.T
    yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    ego = np.full((len(poses), len(STATE_FIELDS)), np.nan)
    ego[:, :3] = np.column_stack([[(p.position.x, p.position.y) for p in poses], yaw])
    t = seconds(motion)
    clock.check_order(t, ego)
    t, first = np.unique(t, return_index=True)
    ego = ego[first]
    known = np.isfinite(ego[:, :3]).all(axis=1)
    t, ego = t[known], ego[known]
    require(len(t) > 2, f"{motion.channel.topic}: fewer than three poses; record for longer")
    notes = {"ego.pose": f"as {motion.channel.topic} has it", "ego.acceleration": "slope of the speed over 0.5 s"}
    notes |= {"ego.steering": "absent", "route": "absent", "objects": "absent"}
    derived = _slopes(t, ego)
    told = _twist(motion if has_twist else twist, seconds, has_twist)
    speed, rate = derived
    if told is not None:
        at, v, turning = told
        v, turning = np.interp(t, at, v), np.interp(t, at, turning)
        if np.abs(v - derived[0]).mean() <= 0.5 + 0.25 * np.abs(derived[0]).mean():
            speed, rate = v, turning
        else:
            told = None
    if told is None:
        notes |= {"ego.speed": "slope of the position", "ego.yaw_rate": "slope of the heading"}
    ego[:, 3], ego[:, 5] = speed, rate
    ego[:, 4] = _slope(t, speed)
    at, states = clock.on_grid(t, ego)
    if len(at) != len(t) or (at != t).any():
        rate_hz = 1 / float(np.median(np.diff(t)))
        notes["clock"] = f"poses came about {rate_hz:.3g} times a second; interpolated at 10 a second"
    return at, states, notes


def _twist(
    topic: Topic | None, seconds: Callable[[Topic], np.ndarray], in_odometry: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Times, forward speeds and yaw rates in the car's frame; None if nothing reports them."""
    if topic is None:
        return None
    of = [m.twist.twist if in_odometry else m.twist for m in topic.messages]
    table = np.array([(v.linear.x, v.angular.z) for v in of], np.float64)
    t, first = np.unique(seconds(topic), return_index=True)
    table = table[first]
    known = np.isfinite(table).all(axis=1)
    return (t[known], *table[known].T) if known.any() else None


def _slope(t: np.ndarray, v: np.ndarray) -> np.ndarray:
    _, slope = Series(t, v).near(t, SMOOTH_S)
    return np.where(np.isnan(slope), np.gradient(v, t), slope)


def _slopes(t: np.ndarray, ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forward speed and yaw rate from poses."""
    vx, vy = _slope(t, ego[:, 0]), _slope(t, ego[:, 1])
    yaw = np.unwrap(ego[:, 2])
    return vx * np.cos(yaw) + vy * np.sin(yaw), _slope(t, yaw)


def _video(
    data: bytes | mmap.mmap, camera: Topic, t: np.ndarray, info: Any | None
) -> tuple[Video | None, dict[str, str]]:
    """The camera's pictures as H.264, and what is assumed of it or missing."""
    records = Records(data, lambda c: c.id == camera.channel.id, limited=False)
    pictures = (m for _, _, m in records.messages())
    order = np.argsort(t, kind="stable")
    if (order != np.arange(len(t))).any():  # only then are they all held in memory
        held = [*pictures]
        pictures = (held[i] for i in order)
    t = t[order]
    fps = max(1, round(1 / max(float(np.median(np.diff(t))), 1e-3))) if len(t) > 1 else 1
    made = encoded(pictures, camera.schema.name, fps)
    if made is None:
        return None, {"video": f"absent: none of the {len(t)} pictures on {camera.channel.topic} is whole"}
    notes = {"video.mount": "not in the recording: assumed"}
    if made.bad:
        notes["video.pictures"] = f"{made.bad} of {len(t)} are damaged or of another size, and left out"
    width, height = made.width, made.height
    lens = (float(width), float(width), width / 2, height / 2)
    if info is not None and info.width and info.k[0] > 0:
        scale = width / info.width
        fx, _, cx, _, fy, cy = (float(v) * scale for v in info.k[:6])
        lens = (fx, fy, cx, cy)
    else:
        lens = (float(width), float(width), width / 2, height / 2)
        notes["video.lens"] = "no CameraInfo: assumed, 53 degrees wide"
    return Video(width, height, lens, MOUNT, t=t[made.kept], key=made.key, packets=made.packets), notes
