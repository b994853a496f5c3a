"""Encode arrays as messages of a drive's MCAP channels, and decode them.

Foxglove's protobuf schemas where one fits (video, calibration, pose, objects), JSON with a JSON schema for the rest.
Signals and driver state are written when they change: a reader holds the last message.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.CompressedVideo_pb2 import CompressedVideo
from foxglove_schemas_protobuf.PoseInFrame_pb2 import PoseInFrame
from foxglove_schemas_protobuf.SceneUpdate_pb2 import SceneUpdate
from mcap_protobuf.schema import build_file_descriptor_set

CAMERA, FRONT, POSE, STATE = "/camera/", "front", "/ego/pose", "/ego/state"
ROUTE, OBJECTS, SIGNALS, DRIVER, PLAN, CORRECTION = "/route", "/objects", "/signals", "/driver", "/plan", "/correction"
STEPPED = (OBJECTS, SIGNALS, DRIVER)
"""Topics that a written drive has at its own steps."""
PROTOBUF: dict[str, Any] = {POSE: PoseInFrame, OBJECTS: SceneUpdate}
FORMATS: dict[str, Any] = {"h264": CompressedVideo, "jpeg": CompressedImage}
"""Picture format -> message schema."""
PICTURES = {message.DESCRIPTOR.full_name: message for message in FORMATS.values()}
KIND_NAMES = ("car", "truck", "pedestrian", "cyclist")
STATE_FIELDS = ("x", "y", "yaw", "speed", "acceleration", "yaw_rate", "steering_wheel_angle")
MAY_LACK = ("acceleration", "steering_wheel_angle")
"""Optional fields of a state."""
NS = 1_000_000_000


def _numbers(*names: str) -> dict[str, Any]:
    return {name: {"type": ["number", "null"]} for name in names}


def _rows(columns: str) -> dict[str, Any]:
    return {"type": "array", "description": columns, "items": {"type": "array", "items": {"type": "number"}}}


_PLAN = {
    "t": {"type": "number"},
    "points": _rows("x m, y m, yaw rad in the ego frame, 0.5 s apart"),
    "text": {"type": "string"},
}
_FLAG = {"type": ["boolean", "null"]}
JSON: dict[str, dict[str, Any]] = {
    STATE: _numbers("t", *STATE_FIELDS),
    ROUTE: {"points": _rows("x m, y m, speed limit m/s")},
    SIGNALS: {
        "id": {"type": "array", "items": {"type": "integer"}},
        "state": {"type": "array", "items": {"type": "integer"}},
    },
    DRIVER: {"engaged": _FLAG, "takeover": _FLAG},
    PLAN: _PLAN,
    CORRECTION: _PLAN,
}


@dataclass(frozen=True)
class Camera:
    """One camera: width, height px; intrinsics fx, fy, cx, cy px; mount x, y, z m and pitch rad (positive down) from
    the box centre on the ground; yaw rad, positive left; format 'h264' (Annex B, no B-frames) or 'jpeg'."""

    width: int
    height: int
    intrinsics: tuple[float, float, float, float]
    mount: tuple[float, float, float, float]
    yaw: float = 0.0
    format: str = "h264"


class Registers(Protocol):
    """A writer of MCAP files: `mcap.writer.Writer`, `stream.McapStream`."""

    def register_schema(self, name: str, encoding: str, data: bytes) -> int: ...
    def register_channel(self, topic: str, message_encoding: str, schema_id: int, metadata: dict[str, str]) -> int: ...


def to_ns(t: float) -> int:
    """Convert s to ns."""
    return round(t * NS)


def camera(name: str) -> str:
    """Topic of a camera's pictures."""
    return CAMERA + name


def calibration_of(name: str) -> str:
    """Topic of a camera's calibration."""
    return f"{CAMERA}{name}/calibration"


def schema_of(topic: str) -> str:
    """Name of the JSON schema of a topic."""
    return "drivefoundry" + topic.replace("/", ".")


def open_channel(writer: Registers, topic: str, metadata: dict[str, str] | None = None, form: str = "h264") -> int:
    """Register a topic with its schema; return the channel id. form: picture format, one of FORMATS."""
    message = PROTOBUF.get(topic)
    if topic.startswith(CAMERA):
        message = CameraCalibration if topic.endswith("/calibration") else FORMATS[form]
    if message is not None:
        described = build_file_descriptor_set(message).SerializeToString()
        schema = writer.register_schema(message.DESCRIPTOR.full_name, "protobuf", described)
        return writer.register_channel(topic, "protobuf", schema, metadata or {})
    name = schema_of(topic)
    body = json.dumps({"title": name, "type": "object", "properties": JSON[topic]})
    schema = writer.register_schema(name, "jsonschema", body.encode())
    return writer.register_channel(topic, "json", schema, metadata or {})


def pictures(name: str, form: str, packets: list[bytes], ns: list[int]) -> list[bytes]:
    """CompressedVideo or CompressedImage messages of a camera, one per packet."""
    message, out = FORMATS[form](frame_id=f"camera_{name}", format=form), []
    for data, at in zip(packets, ns, strict=True):
        message.timestamp.seconds, message.timestamp.nanos = divmod(at, NS)
        message.data = data
        out.append(message.SerializeToString())
    return out


def mounted(camera: Camera) -> dict[str, str]:
    """Metadata of a calibration channel: the camera's mount."""
    return {"mount": json.dumps([*camera.mount, camera.yaw][: 5 if camera.yaw else 4])}


def measured(ego_size: tuple[float, float, float]) -> dict[str, str]:
    """A file's metadata record 'ego': the car's length, width, height, m."""
    return dict(zip(("length", "width", "height"), map(repr, ego_size), strict=True))


def calibration(name: str, camera: Camera, ns: int) -> bytes:
    """A CameraCalibration message of a pinhole camera."""
    fx, fy, cx, cy = camera.intrinsics
    message = CameraCalibration(frame_id=f"camera_{name}", width=camera.width, height=camera.height)
    message.timestamp.seconds, message.timestamp.nanos = divmod(ns, NS)
    message.K[:] = [fx, 0, cx, 0, fy, cy, 0, 0, 1]
    message.R[:] = [1, 0, 0, 0, 1, 0, 0, 0, 1]
    message.P[:] = [fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0]
    return message.SerializeToString()


def poses(ego: np.ndarray, ns: list[int]) -> list[bytes]:
    """PoseInFrame messages of ego (T, 7)."""
    message, out = PoseInFrame(frame_id="map"), []
    position, orientation, stamp = message.pose.position, message.pose.orientation, message.timestamp
    half = ego[:, 2] / 2
    columns = (ego[:, 0].tolist(), ego[:, 1].tolist(), np.sin(half).tolist(), np.cos(half).tolist())
    for at, x, y, z, w in zip(ns, *columns, strict=True):
        stamp.seconds, stamp.nanos = divmod(at, NS)
        position.x, position.y, orientation.z, orientation.w = x, y, z, w
        out.append(message.SerializeToString())
    return out


def states(t: np.ndarray, ego: np.ndarray) -> list[bytes]:
    """JSON messages of t (T,) s and ego (T, 7); an unknown value (NaN) is null."""
    form = '{"t":%s,' + ",".join(f'"{name}":%s' for name in STATE_FIELDS) + "}"
    table = np.column_stack([t, ego]).tolist()
    # repr of a float is its shortest exact text; NaN is the only value unequal to itself.
    return [(form % tuple(repr(v) if v == v else "null" for v in row)).encode() for row in table]


def read_states(messages: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Decode JSON messages to t (T,) s and ego (T, 7), NaN if a value is null or one of MAY_LACK is absent. ValueError
    names the field that is missing or not a number."""
    rows = json.loads(b"[" + b",".join(messages) + b"]")
    if len(rows) != len(messages) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{STATE}: a message that is not one JSON object; write one state in each")
    columns = []
    for field in ("t", *STATE_FIELDS):
        try:
            values = [row.get(field) if field in MAY_LACK else row[field] for row in rows]
            column = np.array([np.nan if v is None else v for v in values], np.float64)
        except KeyError:
            raise ValueError(f"{STATE}: a state without '{field}'; write it in every message") from None
        except (TypeError, ValueError, OverflowError):
            column = np.empty(0)
        if column.shape != (len(rows),):
            raise ValueError(f"{STATE}: a state whose '{field}' is not a number; write a number, or null if unknown")
        columns.append(column)
    return columns[0], np.column_stack(columns[1:])


def changes(names: tuple[str, ...], columns: list[np.ndarray | None], fixed: dict[str, Any]) -> list[tuple[int, bytes]]:
    """(step, JSON message) wherever one of several columns (.., T) changes."""
    length = next(c.shape[-1] for c in columns if c is not None)
    moved = np.zeros(length, bool)
    moved[0] = True
    for column in columns:
        if column is not None:
            different = column[..., 1:] != column[..., :-1]
            moved[1:] |= different.any(axis=tuple(range(different.ndim - 1)))
    out = []
    for step in np.flatnonzero(moved).tolist():
        values = {n: None if c is None else c[..., step].tolist() for n, c in zip(names, columns, strict=True)}
        out.append((step, json.dumps({**fixed, **values}, separators=(",", ":")).encode()))
    return out


def held(steps: list[int], messages: list[bytes], field: str, length: int, dtype: type) -> np.ndarray | None:
    """Invert `changes` for one field: each value holds until the next message. None if it is never given."""
    values = [json.loads(m)[field] for m in messages]
    if any(v is None for v in values):
        return None
    which = np.searchsorted(steps, np.arange(length), side="right") - 1
    if len(which) and which[0] < 0:
        raise ValueError(f"'{field}' is not known at the first step; record it from the start")
    return np.moveaxis(np.array(values, dtype)[which], 0, -1)


def plan_message(t: float, points: np.ndarray, text: str) -> bytes:
    """JSON of one plan (K, 3); nine digits represent a float32 exactly."""
    rows = ",".join(f"[{x:.9g},{y:.9g},{yaw:.9g}]" for x, y, yaw in points.tolist())
    return f'{{"t":{t!r},"points":[{rows}],"text":{json.dumps(text)}}}'.encode()


def route_message(route: np.ndarray) -> bytes:
    """A route (R, 3) as the JSON message of ROUTE."""
    return json.dumps({"points": route.tolist()}).encode()


def scene_updates(
    track: np.ndarray, kind: np.ndarray, size: np.ndarray, state: np.ndarray, valid: np.ndarray, ns: list[int]
) -> list[bytes]:
    """One SceneUpdate per step with a cube for each valid object; axes as in `log.Objects`."""
    parts: list[list[bytes]] = [[] for _ in ns]
    half = state[..., 2].astype(np.float64) / 2
    z_OT, w_OT = np.sin(half), np.cos(half)
    colors = ((0.2, 0.5, 0.9), (0.9, 0.6, 0.1), (0.9, 0.2, 0.3), (0.3, 0.8, 0.4))
    for o, (name, code) in enumerate(zip(track.tolist(), kind.tolist(), strict=True)):
        # Reuse one message per track and set only the moving parts: several times faster than building each.
        message = SceneUpdate()
        entity = message.entities.add(id=str(name), frame_id="map")
        entity.lifetime.nanos = 150_000_000
        entity.metadata.add(key="kind", value=KIND_NAMES[code])
        speed = entity.metadata.add(key="speed_mps")
        cube = entity.cubes.add()
        cube.size.x, cube.size.y, cube.size.z = size[o].tolist()
        cube.pose.position.z = float(size[o, 2]) / 2
        cube.color.r, cube.color.g, cube.color.b = colors[code]
        cube.color.a = 0.8
        position, orientation, stamp = cube.pose.position, cube.pose.orientation, entity.timestamp
        steps = np.flatnonzero(valid[o])
        columns = (state[o, steps, 0], state[o, steps, 1], z_OT[o, steps], w_OT[o, steps], state[o, steps, 3])
        for step, x, y, z, w, v in zip(steps.tolist(), *(c.tolist() for c in columns), strict=True):
            stamp.seconds, stamp.nanos = divmod(ns[step], NS)
            position.x, position.y, orientation.z, orientation.w = x, y, z, w
            speed.value = f"{v:.9g}"
            parts[step].append(message.SerializeToString())
    # Serialised messages with a repeated field concatenate to the message that holds all of them (protobuf encoding).
    return [b"".join(part) for part in parts]


def read_scene_updates(
    messages: list[bytes], steps: list[int], track: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Decode SceneUpdates at the given steps to states (O, T, 4) float32, zero if not valid, and valid (O, T)."""
    row = {str(name): o for o, name in enumerate(track.tolist())}
    found: list[tuple[int, int, float, float, float, float, float]] = []
    for data, step in zip(messages, steps, strict=True):
        for entity in SceneUpdate.FromString(data).entities:
            pose = entity.cubes[0].pose
            p, q = pose.position, pose.orientation
            found.append((row[entity.id], step, p.x, p.y, q.z, q.w, float(entity.metadata[1].value)))
    state, valid = np.zeros((len(track), length, 4), np.float32), np.zeros((len(track), length), bool)
    if found:
        table = np.array(found, np.float64)
        o, step = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
        yaw = 2 * np.arctan2(table[:, 4], table[:, 5])
        state[o, step] = np.column_stack([table[:, 2], table[:, 3], yaw, table[:, 6]])
        valid[o, step] = True
    return state, valid
