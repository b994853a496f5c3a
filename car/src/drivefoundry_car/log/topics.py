"""Decode the messages of an MCAP file, by topic, to the fields of a `log.Drive` as plain arrays."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
from foxglove_schemas_protobuf.SceneUpdate_pb2 import SceneUpdate
from mcap.records import Channel, Schema

from drivefoundry_car.log import channels, clock, live
from drivefoundry_car.log.chunks import Records
from drivefoundry_car.log.video import is_key
from drivefoundry_car.vehicle.embodiment import CAR

SIZE = CAR.size
"""Default length, width, height of the car, m."""
SHIFT_NS = 1_000_000
"""Log times that differ from the drive's by more than this have a different epoch, s."""
_SCHEMA = {
    channels.OBJECTS: (SceneUpdate.DESCRIPTOR.full_name,),
    "calibration": (CameraCalibration.DESCRIPTOR.full_name,),
    "pictures": tuple(channels.PICTURES),
}


def fields_of(data: bytes, with_video: bool) -> dict[str, Any]:
    """Fields of `log.Drive` by name; objects and plans as tuples of their own fields, cameras as {name: fields}.

    Messages need not be in order, and a topic may have several channels: those with a drive's encoding and schema
    count. Messages at the states' own times keep those steps; otherwise each channel has its own clock.
    """
    records = Records(data, lambda c: _is_read(c, with_video))
    found: dict[int, tuple[list[int], list[bytes]]] = {}
    for block in records.blocks():
        for channel, at, message in block:
            kept = found.get(channel)
            if kept is None:
                kept = found[channel] = ([], [])
            kept[0].append(at)
            kept[1].append(message)
    of = _by_topic(records, found, with_video)
    if channels.STATE not in of:
        raise ValueError(f"no {channels.STATE} channel: not a drive; import it with the importer of its format")
    ns_of = {topic: ns for topic, (_, ns, _) in of.items()}
    data_of = {topic: messages for topic, (_, _, messages) in of.items()}
    about = records.metadata
    if not data_of[channels.STATE]:
        raise ValueError(f"no message on {channels.STATE}: not a drive; record the ego motion")
    t, ego = channels.read_states(data_of[channels.STATE])
    if not np.isfinite(t).all():
        raise ValueError(f"{channels.STATE}: a state without its time t; write seconds since the recording's epoch")
    shift = int(np.median(np.rint(t * channels.NS) - np.array(ns_of[channels.STATE], np.float64)))
    if abs(shift) > SHIFT_NS:
        ns_of = {topic: [at + shift for at in ns] for topic, ns in ns_of.items()}
    exact = dict(zip(ns_of[channels.STATE], t.tolist(), strict=True))
    fields: dict[str, Any] = {"meta": dict(about.get("drive", {})), "notes": dict(about.get("notes", {}))}
    if "recording" not in about and _are_steps(t, ns_of, data_of, about):
        fields |= {"t": t, "ego": ego} | _stepped(data_of, ns_of, about, len(t))
    else:
        fields |= _unstepped(t, ego, data_of, ns_of, "recording" in about)
        fields["notes"] |= fields.pop("clock")
    if channels.ROUTE in of:
        fields["route"] = np.array(json.loads(data_of[channels.ROUTE][0])["points"], np.float64)
    for topic, name in ((channels.PLAN, "plan"), (channels.CORRECTION, "correction")):
        if topic in of:
            rows = [json.loads(m) for m in data_of[topic]]
            points = np.array([r["points"] for r in rows], np.float32).reshape(len(rows), -1 if rows else 8, 3)
            fields[name] = np.array([r["t"] for r in rows], np.float64), points, [r["text"] for r in rows]
    fields["cameras"] = _cameras(records, of, ns_of, exact)
    if "ego" in about:
        fields["ego_size"] = tuple(float(about["ego"][name]) for name in ("length", "width", "height"))
    else:
        fields["ego_size"] = SIZE
        fields["notes"]["ego_size"] = f"absent: taken for {SIZE[0]} x {SIZE[1]} x {SIZE[2]} m"
    return fields


def _is_read(channel: Channel, with_video: bool) -> bool:
    """Whether a channel is read: poses are already in the states, and pictures are optional."""
    topic = channel.topic
    if topic.startswith(channels.CAMERA):
        return with_video and channel.message_encoding == "protobuf"
    return topic in channels.JSON or (topic == channels.OBJECTS and channel.message_encoding == "protobuf")


def _by_topic(
    records: Records, found: dict[int, tuple[list[int], list[bytes]]], with_video: bool
) -> dict[str, tuple[Channel, list[int], list[bytes]]]:
    """Topic -> one channel, and the log times and messages of all channels with the same schema, in order.

    Of several schemas on a topic a drive's own is used, else the first. A topic without messages is ignored, except
    plans: a car may not have made any decision.
    """
    out: dict[str, tuple[Channel, list[int], list[bytes]]] = {}
    own_first = sorted(records.channels.items(), key=lambda c: (not _is_own(records, c[1]), c[0]))
    for id, channel in own_first:
        schema = records.schemas.get(channel.schema_id)
        if not _matches(channel, schema) or not _is_read(channel, with_video):
            continue
        ns, messages = found.get(id, ([], []))
        if not ns and channel.topic not in (channels.STATE, channels.PLAN, channels.CORRECTION):
            continue
        if channel.topic not in out:
            out[channel.topic] = channel, ns, messages
        elif _schema_name(records, out[channel.topic][0]) == (schema.name if schema else ""):
            first, some, more = out[channel.topic]
            out[channel.topic] = (first if some else channel), some + ns, more + messages
    for topic, (channel, ns, messages) in out.items():
        if ns != sorted(ns):
            if topic == channels.STATE:
                _check_states(messages)
            order = sorted(range(len(ns)), key=ns.__getitem__)
            out[topic] = channel, [ns[i] for i in order], [messages[i] for i in order]
    return out


def _is_own(records: Records, channel: Channel) -> bool:
    """Whether a channel's schema has the name that a written drive gives it."""
    return _schema_name(records, channel) == channels.schema_of(channel.topic)


def _matches(channel: Channel, schema: Schema | None) -> bool:
    """Whether a channel's encoding and schema are a drive's."""
    topic = channel.topic
    if topic in channels.JSON:
        return channel.message_encoding == "json"
    calibration = topic.endswith("/calibration")
    kind = ("calibration" if calibration else "pictures") if topic.startswith(channels.CAMERA) else topic
    return channel.message_encoding == "protobuf" and schema is not None and schema.name in _SCHEMA.get(kind, ())


def _schema_name(records: Records, channel: Channel) -> str:
    schema = records.schemas.get(channel.schema_id)
    return schema.name if schema else ""


def _check_states(messages: list[bytes]) -> None:
    clock.check_order(*channels.read_states(messages))


def _are_steps(
    t: np.ndarray, ns_of: dict[str, list[int]], data_of: dict[str, list[bytes]], about: dict[str, dict[str, str]]
) -> bool:
    """Whether the states' times increase, and all per-step messages are at one of them."""
    steps = set(ns_of[channels.STATE])
    there = all(steps.issuperset(ns_of.get(topic, ())) for topic in channels.STEPPED)
    return bool((np.diff(t) > 0).all()) and there and (channels.OBJECTS not in data_of or "objects" in about)


def _unstepped(
    t: np.ndarray, ego: np.ndarray, data_of: dict[str, list[bytes]], ns_of: dict[str, list[int]], recorded: bool
) -> dict[str, Any]:
    """Per-step fields if each channel has its own clock; clock: a note if states were resampled."""
    clock.check_order(t, ego)
    at, states = clock.on_grid(t, ego)
    moved = not recorded and not (len(at) == len(t) and (at == t).all())
    note = {"clock": "states came at other times; interpolated at 10 a second"} if moved else {}
    return {"t": at, "ego": states, "clock": note} | live.fields(data_of, ns_of, at)


def _stepped(
    data_of: dict[str, list[bytes]], ns_of: dict[str, list[int]], about: dict[str, dict[str, str]], length: int
) -> dict[str, Any]:
    """Per-step fields if messages are at the drive's own steps."""
    step_of = {at: i for i, at in enumerate(ns_of[channels.STATE])}
    steps = {topic: [step_of[at] for at in ns_of.get(topic, ())] for topic in channels.STEPPED}
    fields: dict[str, Any] = {}
    if channels.OBJECTS in data_of:
        of = {name: json.loads(value) for name, value in about["objects"].items()}
        track, size = np.array(of["track"], np.int64), np.array(of["size"], np.float32).reshape(-1, 3)
        moved = channels.read_scene_updates(data_of[channels.OBJECTS], steps[channels.OBJECTS], track, length)
        fields["objects"] = (track, np.array(of["kind"], np.int64), size, *moved)
    if channels.SIGNALS in data_of:
        changed = data_of[channels.SIGNALS]
        fields["signal_id"] = np.array(json.loads(changed[0])["id"], np.int64)
        fields["signal_state"] = channels.held(steps[channels.SIGNALS], changed, "state", length, np.uint8)
    if channels.DRIVER in data_of:
        for name in ("engaged", "takeover"):
            fields[name] = channels.held(steps[channels.DRIVER], data_of[channels.DRIVER], name, length, np.bool_)
    return fields


def _cameras(
    records: Records,
    of: dict[str, tuple[Channel, list[int], list[bytes]]],
    ns_of: dict[str, list[int]],
    exact: dict[int, float],
) -> dict[str, dict[str, Any]]:
    """Fields of `log.Video` by camera; a picture at a state's time has that state's exact time."""
    out = {}
    for topic, (channel, _, data) in of.items():
        if not topic.startswith(channels.CAMERA) or topic.endswith("/calibration"):
            continue
        name = topic.removeprefix(channels.CAMERA)
        calibration = of.get(channels.calibration_of(name))
        if calibration is None or "mount" not in calibration[0].metadata:
            raise ValueError(f"{topic}: no calibration with its mount; write it on {channels.calibration_of(name)}")
        times = np.array([exact.get(at, at / channels.NS) for at in ns_of[topic]], np.float64)
        message = channels.PICTURES[_schema_name(records, channel)]
        out[name] = _camera([message.FromString(m) for m in data], calibration[2], times, calibration[0].metadata)
    return out


def _camera(messages: list[Any], calibration: list[bytes], times: np.ndarray, about: dict[str, str]) -> dict[str, Any]:
    at = CameraCalibration.FromString(calibration[0])
    x, y, z, pitch, *yaw = json.loads(about["mount"])
    packets, form, given = [m.data for m in messages], messages[0].format, about.get("key", "")
    known = len(given) == len(packets)
    key = [k == "1" for k in given] if known else [form != "h264" or is_key(p) for p in packets]
    first = 0 if known else next((i for i, k in enumerate(key) if k), len(key))
    if first == len(key):
        raise ValueError(f"{messages[0].frame_id}: no key frame; record it from one")
    return {
        "width": at.width,
        "height": at.height,
        "intrinsics": (at.K[0], at.K[4], at.K[2], at.K[5]),
        "mount": (x, y, z, pitch),
        "yaw": yaw[0] if yaw else 0.0,
        "format": form,
        "t": times[first:],
        "key": np.array(key[first:], bool),
        "packets": packets[first:],
    }
