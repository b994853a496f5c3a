"""Drive: one MCAP recording of one vehicle, in well-known (Foxglove) schemas. Arrays in, MCAP out, and back."""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import zstandard
from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
from google.protobuf.message import DecodeError
from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap.stream_reader import CRCValidationError
from mcap.writer import CompressionType, Writer

from drivefoundry_car import channels, live
from drivefoundry_car.channels import Camera
from drivefoundry_car.chunks import messages
from drivefoundry_car.video import Encoder, decode, demux_mp4, encode, is_key, mux_mp4

MCAP_MAGIC = b"\x89MCAP0\r\n"
_DAMAGE = (McapError, CRCValidationError, DecodeError, zstandard.ZstdError, struct.error, UnicodeDecodeError)
_DAMAGE += (json.JSONDecodeError, KeyError, IndexError, TypeError, OverflowError)
"""What the MCAP, protobuf and zstd readers raise on bytes that are not what they say."""


@dataclass(frozen=True, kw_only=True)
class Video(Camera):
    """What a camera gave: H.264 access units, one a frame, a key frame at least every second; or JPEG files.

    t (F,) s; key (F,) bool, every frame of a 'jpeg' camera; packets F byte strings.
    """

    t: np.ndarray
    key: np.ndarray
    packets: list[bytes]


@dataclass(frozen=True)
class Objects:
    """Tracked road users near the ego, on the drive's 10 Hz clock.

    track (O,) int64 ids; kind (O,) AGENT_* codes (0 car, 1 truck, 2 pedestrian, 3 cyclist); size (O, 3) length, width,
    height m; states (O, T, 4) float32 x, y, yaw, speed of the box centre in the map frame; valid (O, T) bool. The ego
    is not among them.
    """

    track: np.ndarray
    kind: np.ndarray
    size: np.ndarray
    states: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Plans:
    """Plans at decision times: t (D,) s; points (D, 8, 3) x, y, yaw in the ego frame at 0.5 .. 4 s; text D strings, ''
    if none."""

    t: np.ndarray
    points: np.ndarray
    text: list[str]


@dataclass(frozen=True)
class Drive:
    """One recording (or a clip cut from one). Everything but `t` and `ego` may be missing (None): real logs lack much.

    meta: strings; keys used: vehicle, drive, source, place, seed, map, release, campaign, trigger, trigger_t, route_id.
    t (T,) s on the 10 Hz grid (float64, seconds since the recording's epoch); ego (T, 7): x m, y m, yaw rad (map frame,
    box centre on the ground), speed m/s, acceleration m/s^2, yaw rate rad/s, steering-wheel angle rad (positive left;
    NaN unknown). ego_size: length, width, height m. route (R, 3): x, y, speed limit m/s. signals: signal_id (G,)
    indices into the map's signals, signal_state (G, T) uint8 0 off, 1 green, 2 yellow, 3 red. engaged (T,) bool: the
    model drives; takeover (T,) bool: the safety driver has just taken over (rising edge = the takeover). plan: what
    the model planned; correction: what the safety driver would have done, at the same decision times.
    """

    meta: dict[str, str]
    t: np.ndarray
    ego: np.ndarray
    ego_size: tuple[float, float, float] = (4.6, 1.9, 1.6)
    video: Video | None = None
    route: np.ndarray | None = None
    objects: Objects | None = None
    signal_id: np.ndarray | None = None
    signal_state: np.ndarray | None = None
    engaged: np.ndarray | None = None
    takeover: np.ndarray | None = None
    plan: Plans | None = None
    correction: Plans | None = None
    notes: dict[str, str] = field(default_factory=dict)
    """What the source lacks or what was derived, by field name: said in the report."""
    others: Mapping[str, Video] = field(default_factory=dict)
    """Cameras beside the front one (`video`), by name."""


def write_drive(path: Path | str, drive: Drive) -> None:
    """A Drive in, an MCAP file out (zstd chunks, chunk and message index); written aside, then renamed.

    Objects and plans are kept as float32, all else exactly; what a track holds where it is not valid is not kept. A yaw
    of an object comes back within (-2 pi, 2 pi]. Times are seconds since the recording's epoch, at least 0. The same
    drive gives the same bytes. ValueError names the field that does not fit the others.
    """
    check(drive)
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            _write(file, drive)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _write(file: IO[bytes], drive: Drive) -> None:
    """Messages of all channels, merged in time order, into one MCAP stream."""
    writer = Writer(file, chunk_size=1 << 20, compression=CompressionType.ZSTD)
    writer.start(profile="", library="drivefoundry")
    ns = _ns(drive.t)
    timed: list[tuple[int, int, int, bytes]] = []  # (ns, order among channels, channel, message)

    def add(
        topic: str, times: list[int], messages: list[bytes], metadata: dict[str, str] | None = None, form: str = "h264"
    ) -> None:
        channel = channels.open_channel(writer, topic, metadata, form)
        timed.extend((at, channel, channel, m) for at, m in zip(times, messages, strict=True))

    add(channels.POSE, ns, channels.poses(drive.ego, ns))
    add(channels.STATE, ns, channels.states(drive.t, drive.ego))
    if drive.route is not None:
        add(channels.ROUTE, ns[:1], [json.dumps({"points": drive.route.tolist()}).encode()])
    front = {} if drive.video is None else {channels.FRONT: drive.video}
    for name, v in [*front.items(), *sorted(drive.others.items())]:
        v_ns, about = _ns(v.t), {**channels.mounted(v), "key": "".join("01"[int(k)] for k in v.key)}
        add(channels.calibration_of(name), v_ns[:1], [channels.calibration(name, v, v_ns[0])], about)
        add(channels.camera(name), v_ns, channels.pictures(name, v.format, v.packets, v_ns), form=v.format)
    if drive.objects is not None:
        o = drive.objects
        add(channels.OBJECTS, ns, channels.scene_updates(o.track, o.kind, o.size, o.states, o.valid, ns))
        size = o.size.astype(np.float32).astype(np.float64).tolist()
        tracks = {"track": o.track.tolist(), "kind": o.kind.tolist(), "size": size}
        writer.add_metadata("objects", {name: json.dumps(value) for name, value in tracks.items()})
    if drive.signal_id is not None and drive.signal_state is not None:
        found = channels.changes(("state",), [drive.signal_state], {"id": drive.signal_id.tolist()})
        add(channels.SIGNALS, [ns[i] for i, _ in found], [m for _, m in found])
    if drive.engaged is not None or drive.takeover is not None:
        found = channels.changes(("engaged", "takeover"), [drive.engaged, drive.takeover], {})
        add(channels.DRIVER, [ns[i] for i, _ in found], [m for _, m in found])
    for topic, plans in ((channels.PLAN, drive.plan), (channels.CORRECTION, drive.correction)):
        if plans is not None:
            rows = zip(plans.t.tolist(), plans.points, plans.text, strict=True)
            add(topic, _ns(plans.t), [channels.plan_message(*row) for row in rows])
    timed.sort(key=lambda m: m[:2])
    for at, _, channel, message in timed:
        writer.add_message(channel, at, message, at)
    writer.add_metadata("drive", drive.meta)
    writer.add_metadata("ego", channels.measured(drive.ego_size))
    writer.add_metadata("notes", drive.notes)
    writer.finish()


def check(drive: Drive) -> Drive:
    """The drive itself, or ValueError naming the field that does not fit."""
    steps = len(drive.t)
    for name, ok, mend in (
        ("t", steps > 0 and bool((np.diff(drive.t) > 0).all()) and drive.t[0] >= 0, "rising seconds from 0 on"),
        ("ego", drive.ego.shape == (steps, 7), "shape (T, 7), one row a time step"),
        ("ego", bool(np.isfinite(drive.ego[:, :4]).all()), "finite x, y, yaw, speed; leave out steps without them"),
        ("engaged", drive.engaged is None or drive.engaged.shape == (steps,), "shape (T,)"),
        ("takeover", drive.takeover is None or drive.takeover.shape == (steps,), "shape (T,)"),
    ):
        if not ok:
            raise ValueError(f"Drive.{name}: wanted {mend}")
    if drive.objects is not None:
        o, count = drive.objects, len(drive.objects.track)
        if o.states.shape != (count, steps, 4) or o.valid.shape != (count, steps) or o.size.shape != (count, 3):
            wanted = f"({count}, {steps}, 4), valid ({count}, {steps}) and size ({count}, 3)"
            raise ValueError(f"Drive.objects: wanted states {wanted}, one row a track and one column a time step")
    if (drive.signal_id is None) != (drive.signal_state is None):
        raise ValueError("Drive.signal_state: signal_id and signal_state come together")
    if drive.signal_id is not None and drive.signal_state is not None:
        shape = (len(drive.signal_id), steps)
        if drive.signal_state.shape != shape:
            raise ValueError(f"Drive.signal_state: wanted shape {shape}, got {drive.signal_state.shape}")
    return drive


def read_drive(path: Path | str, video: bool = True) -> Drive:
    """An MCAP file in, the Drive out; without video, packets are skipped (drive.video is None).

    ValueError with one line: no such file, not an MCAP, truncated or damaged, or no drive in it (no /ego/state).
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    data = path.read_bytes()
    if not data.startswith(MCAP_MAGIC):
        raise ValueError(f"{path}: not an MCAP file; import it with the importer of its format")
    if len(data) < 2 * len(MCAP_MAGIC) or not data.endswith(MCAP_MAGIC):
        raise ValueError(f"{path}: truncated MCAP, its footer is missing; copy or record it again")
    try:
        return _read(data, video)
    except _DAMAGE as error:
        raise ValueError(f"{path}: damaged MCAP ({type(error).__name__}: {error}); copy or record it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_meta(path: Path) -> dict[str, str]:
    """An MCAP file in, its drive's meta out, its messages unread. ValueError as of `read_drive`."""
    try:
        with path.open("rb") as file:
            return next(m.metadata for m in reversed([*make_reader(file).iter_metadata()]) if m.name == "drive")
    except (*_DAMAGE, StopIteration) as error:
        raise ValueError(f"{path}: damaged MCAP ({type(error).__name__}: {error}); copy or record it again") from error


def _read(data: bytes, with_video: bool) -> Drive:
    reader = make_reader(io.BytesIO(data), validate_crcs=True)
    summary = reader.get_summary()
    assert summary is not None  # the footer is there: `read_drive` has looked
    topics = {c.topic: c for c in summary.channels.values()}
    if channels.STATE not in topics:
        raise ValueError(f"no {channels.STATE} channel: it holds no drive; import it with the importer of its format")
    skipped = (channels.POSE,) if with_video else (channels.POSE, channels.CAMERA)
    wanted = [topic for topic in topics if not topic.startswith(skipped)]
    data_of: dict[str, list[bytes]] = {topic: [] for topic in wanted}
    ns_of: dict[str, list[int]] = {topic: [] for topic in wanted}
    kept = {id: (data_of[c.topic], ns_of[c.topic]) for id, c in summary.channels.items() if c.topic in data_of}
    for channel, at, message in messages(data, summary, kept.keys()):
        if channel in kept:
            kept[channel][0].append(message)
            kept[channel][1].append(at)
    records = {m.name: m.metadata for m in reader.iter_metadata()}
    t, ego = channels.read_states(data_of[channels.STATE])
    exact = dict(zip(ns_of[channels.STATE], t.tolist(), strict=True))
    if "recording" in records:
        t, ego = live.on_grid(t, ego)
        fields = live.fields(data_of, ns_of, t)
    else:
        fields = _stepped(data_of, ns_of, records, len(t))
    if "objects" in fields:
        fields["objects"] = Objects(*fields["objects"])
    if channels.ROUTE in wanted:
        fields["route"] = np.array(json.loads(data_of[channels.ROUTE][0])["points"], np.float64)
    others: dict[str, Video] = {}
    for topic in wanted:
        if topic.startswith(channels.CAMERA) and not topic.endswith("/calibration"):
            name = topic.removeprefix(channels.CAMERA)
            times = np.array([exact.get(at, at / channels.NS) for at in ns_of[topic]], np.float64)
            message = channels.PICTURES[summary.schemas[topics[topic].schema_id].name]
            about = topics[channels.calibration_of(name)].metadata
            told = [message.FromString(m) for m in data_of[topic]]
            others[name] = _read_video(told, data_of[channels.calibration_of(name)], times, about)
    if channels.FRONT in others:
        fields["video"] = others.pop(channels.FRONT)
    for topic, name in ((channels.PLAN, "plan"), (channels.CORRECTION, "correction")):
        if topic in wanted:
            rows = [json.loads(m) for m in data_of[topic]]
            points = np.array([r["points"] for r in rows], np.float32).reshape(len(rows), -1, 3)
            fields[name] = Plans(np.array([r["t"] for r in rows], np.float64), points, [r["text"] for r in rows])
    size_of = records["ego"]
    ego_size = (float(size_of["length"]), float(size_of["width"]), float(size_of["height"]))
    return check(Drive(dict(records["drive"]), t, ego, ego_size, notes=dict(records["notes"]), others=others, **fields))


def _stepped(
    data_of: dict[str, list[bytes]], ns_of: dict[str, list[int]], records: dict[str, dict[str, str]], length: int
) -> dict[str, Any]:
    """The fields whose messages stand at the drive's own steps, objects as a tuple."""
    step_of = {at: i for i, at in enumerate(ns_of[channels.STATE])}
    steps = {topic: [step_of[at] for at in ns_of.get(topic, ())] for topic in channels.STEPPED}
    fields: dict[str, Any] = {}
    if channels.OBJECTS in data_of:
        of = {name: json.loads(value) for name, value in records["objects"].items()}
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


def _read_video(told: list[Any], calibration: list[bytes], times: np.ndarray, about: dict[str, str]) -> Video:
    at = CameraCalibration.FromString(calibration[0])
    x, y, z, pitch, *yaw = json.loads(about["mount"])
    packets, form = [m.data for m in told], told[0].format
    key = [k == "1" for k in about["key"]] if "key" in about else [form != "h264" or is_key(p) for p in packets]
    first = 0 if "key" in about else next((i for i, k in enumerate(key) if k), len(key))
    if first == len(key):
        raise ValueError(f"{told[0].frame_id}: no key frame; record it from one")
    lens = (at.K[0], at.K[4], at.K[2], at.K[5])
    kept = {"t": times[first:], "key": np.array(key[first:], bool), "packets": packets[first:]}
    return Video(at.width, at.height, lens, (x, y, z, pitch), *yaw, format=form, **kept)


def cut(drive: Drive, t0: float, t1: float) -> Drive:
    """The part of a drive with t0 <= t < t1; video from the key frame at or before t0; times stay as they are.

    Tracks nowhere valid in the part are left out; plans are those decided within it. ValueError if it is empty.
    """
    # Times on a 0.1 s grid carry rounding: a window that begins on a sample must hold that sample.
    lo, hi = np.searchsorted(drive.t, [t0 - 1e-6, t1 - 1e-6])
    if hi <= lo:
        raise ValueError(f"cut: no samples in {t0} .. {t1} s; the drive has {drive.t[0]:.1f} .. {drive.t[-1]:.1f} s")
    fields: dict[str, Any] = {"t": drive.t[lo:hi], "ego": drive.ego[lo:hi]}
    for name in ("engaged", "takeover", "signal_state"):
        value = getattr(drive, name)
        fields[name] = None if value is None else value[..., lo:hi]
    if drive.objects is not None:
        o, seen = drive.objects, drive.objects.valid[:, lo:hi].any(axis=1)
        fields["objects"] = Objects(
            o.track[seen], o.kind[seen], o.size[seen], o.states[seen, lo:hi], o.valid[seen, lo:hi]
        )
    for name in ("plan", "correction"):
        plans: Plans | None = getattr(drive, name)
        if plans is not None:
            a, b = np.searchsorted(plans.t, [t0 - 1e-6, t1 - 1e-6])
            fields[name] = Plans(plans.t[a:b], plans.points[a:b], plans.text[a:b])
    if drive.video is not None:
        fields["video"] = _cut_video(drive.video, t0, t1)
    parts = {name: _cut_video(v, t0, t1) for name, v in drive.others.items()}
    return replace(drive, others={name: v for name, v in parts.items() if v is not None}, **fields)


def _cut_video(v: Video, t0: float, t1: float) -> Video | None:
    a, b = np.searchsorted(v.t, [t0 - 1e-6, t1 - 1e-6])
    if not (a < len(v.t) and v.key[a]):
        a = int(np.flatnonzero(v.key[: a + 1])[-1]) if v.key[: a + 1].any() else a
    return replace(v, t=v.t[a:b], key=v.key[a:b], packets=v.packets[a:b]) if b > a else None


def _ns(t: np.ndarray) -> list[int]:
    return np.round(np.asarray(t, np.float64) * channels.NS).astype(np.int64).tolist()


def encode_video(
    frames: np.ndarray,
    t: np.ndarray,
    intrinsics: tuple[float, float, float, float],
    mount: tuple[float, float, float, float],
    fps: int = 10,
) -> Video:
    """frames (F, H, W, 3) uint8 RGB at times t (F,) s in, H.264 Video out (x264 ultrafast, a key frame a second)."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(t) == len(frames) > 0:
        got = f"{frames.shape} {frames.dtype} and {len(t)} times"
        raise ValueError(f"frames: wanted (F, H, W, 3) uint8 and F > 0 times, got {got}")
    key, packets = encode(frames, fps)
    height, width = frames.shape[1:3]
    return Video(width, height, intrinsics, mount, t=np.asarray(t, np.float64), key=key, packets=packets)


def decode_video(video: Video, indices: np.ndarray | None = None) -> np.ndarray:
    """Video in, frames (F, H, W, 3) uint8 RGB out; with indices, only those, in that order. ValueError if damaged."""
    return decode(video.packets, video.key, video.width, video.height, indices, video.format)


def as_h264(video: Video) -> Video:
    """Video in, the same as H.264 out: JPEG pictures are encoded anew, at their median rate."""
    if video.format == "h264":
        return video
    fps = round(1 / float(np.median(np.diff(video.t)))) if len(video.t) > 1 else 1
    encoder = Encoder(video.width, video.height, max(fps, 1))
    # One picture at a time: a minute of them at once would fill the memory.
    made = [encoder.encode(decode_video(video, np.array([i]))[0]) for i in range(len(video.packets))]
    key = np.array([k for k, _ in made], bool)
    return replace(video, key=key, packets=[p for _, p in made], format="h264")


def to_mp4(video: Video) -> bytes:
    """H.264 Video in, MP4 bytes out: the same packets, remuxed. The first frame is at 0 s."""
    return mux_mp4(video.packets, video.key, video.t, video.width, video.height)


def from_mp4(data: bytes) -> tuple[np.ndarray, np.ndarray, list[bytes], int, int]:
    """MP4 bytes in; t (F,) s from the first frame, key (F,) bool, Annex B packets, width and height px out.

    ValueError if it is no MP4, not H.264, or has B-frames.
    """
    return demux_mp4(data)
