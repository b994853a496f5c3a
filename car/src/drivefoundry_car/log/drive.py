"""Drive: one MCAP recording of one vehicle in Foxglove schemas, written from arrays and read back."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import zstandard
from google.protobuf.message import DecodeError
from mcap.exceptions import McapError
from mcap.reader import make_reader
from mcap.stream_reader import CRCValidationError
from mcap.writer import CompressionType, Writer

from drivefoundry_car.durable import PUBLIC, replacing
from drivefoundry_car.log import channels, clock, topics
from drivefoundry_car.log.channels import Camera
from drivefoundry_car.log.chunks import MCAP_MAGIC, Records
from drivefoundry_car.log.video import Encoder, decode, demux_mp4, encode, mux_mp4
from drivefoundry_car.vehicle.embodiment import CAR

_DAMAGE = (McapError, CRCValidationError, DecodeError, zstandard.ZstdError, struct.error, UnicodeDecodeError)
_DAMAGE += (json.JSONDecodeError, KeyError, IndexError, TypeError, OverflowError, RecursionError)
"""Errors that the MCAP, protobuf, zstd and JSON readers raise on malformed bytes."""


@dataclass(frozen=True, kw_only=True)
class Video(Camera):
    """A camera's recording: H.264 access units, one per frame, a key frame at least every second; or JPEG files.

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
    """Plans at decision times: t (D,) s; points (D, 8, 3) x, y, yaw in the ego frame at 0.5 .. 4 s; text: D strings, ''
    if none."""

    t: np.ndarray
    points: np.ndarray
    text: list[str]


@dataclass(frozen=True)
class Drive:
    """One recording, or a clip cut from one. Everything but `t` and `ego` may be missing (None).

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
    ego_size: tuple[float, float, float] = CAR.size
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
    """What the source lacks or what was derived, by field name, for the report."""
    others: Mapping[str, Video] = field(default_factory=dict)
    """Cameras other than the front one (`video`), by name."""


def write_drive(path: Path | str, drive: Drive) -> None:
    """Write a Drive atomically as an MCAP file (zstd chunks, chunk and message index).

    Objects and plans are stored as float32, everything else exactly; states of a track at invalid steps are dropped. An
    object's yaw comes back within (-2 pi, 2 pi]. Times are seconds since the recording's epoch, at least 0. The same
    drive gives the same bytes. ValueError names an inconsistent field.
    """
    check(drive)
    path = Path(path)
    with replacing(path, mode=PUBLIC) as file:
        _write(file, drive)


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
        add(channels.ROUTE, ns[:1], [channels.route_message(drive.route)])
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
    """Return the drive; ValueError names an inconsistent field."""
    steps = len(drive.t)
    for name, ok, rule in (
        ("t", steps > 0 and bool((np.diff(drive.t) > 0).all()) and drive.t[0] >= 0, "increasing seconds from 0 on"),
        ("ego", drive.ego.shape == (steps, 7), "shape (T, 7), one row per time step"),
        ("ego", bool(np.isfinite(drive.ego[:, :4]).all()), "finite x, y, yaw, speed; leave out steps without them"),
        ("engaged", drive.engaged is None or drive.engaged.shape == (steps,), "shape (T,)"),
        ("takeover", drive.takeover is None or drive.takeover.shape == (steps,), "shape (T,)"),
    ):
        if not ok:
            raise ValueError(f"Drive.{name}: must be {rule}")
    if drive.objects is not None:
        o, count = drive.objects, len(drive.objects.track)
        if o.states.shape != (count, steps, 4) or o.valid.shape != (count, steps) or o.size.shape != (count, 3):
            shapes = f"({count}, {steps}, 4), valid ({count}, {steps}) and size ({count}, 3)"
            raise ValueError(
                f"Drive.objects: must have states {shapes}, one row per track and one column per time step"
            )
        if not np.isfinite(o.states[o.valid]).all():
            raise ValueError("Drive.objects: states must be finite where valid; mark steps without them as not valid")
    if (drive.signal_id is None) != (drive.signal_state is None):
        raise ValueError("Drive.signal_state: signal_id and signal_state come together")
    if drive.signal_id is not None and drive.signal_state is not None:
        shape = (len(drive.signal_id), steps)
        if drive.signal_state.shape != shape:
            raise ValueError(f"Drive.signal_state: must have shape {shape}, got {drive.signal_state.shape}")
    return drive


def read_drive(path: Path | str, video: bool = True) -> Drive:
    """Read the drive of an MCAP file; without video, packets are skipped (drive.video is None).

    Accepts any writer's layout. States that are not on the 10 Hz clock are resampled, see `clock.onto`; gaps remain
    gaps in `t`. ValueError with one line: no such file, not an MCAP file, truncated or damaged, no drive in it (no
    /ego/state), or a clock that cannot be repaired.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    data = path.read_bytes()
    if not data.startswith(MCAP_MAGIC):
        raise ValueError(f"{path}: not an MCAP file; import it with the importer of its format")
    if len(data) < 2 * len(MCAP_MAGIC) or not data.endswith(MCAP_MAGIC):
        raise ValueError(
            f"{path}: truncated MCAP, its footer is missing; copy it again, or repair it with `mcap recover`"
        )
    try:
        return _read(data, video)
    except _DAMAGE as error:
        raise ValueError(f"{path}: damaged MCAP ({type(error).__name__}: {error}); copy or record it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_meta(path: Path) -> dict[str, str]:
    """Read the meta of an MCAP file's drive, {} if there is none. ValueError as in `read_drive`.

    Messages are not read, unless the file has no index of its metadata.
    """
    try:
        with path.open("rb") as file:
            found = [m.metadata for m in make_reader(file).iter_metadata() if m.name == "drive"]
        if not found:
            records = Records(path.read_bytes(), lambda _: False)
            for _ in records.blocks():
                pass
            found = [records.metadata.get("drive", {})]
        return dict(found[-1])
    except _DAMAGE as error:
        raise ValueError(f"{path}: damaged MCAP ({type(error).__name__}: {error}); copy or record it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read(data: bytes, with_video: bool) -> Drive:
    """Read the drive and resample it to the 10 Hz clock."""
    with np.errstate(over="ignore", invalid="ignore"):  # values beyond float32 are rejected below
        fields = topics.fields_of(data, with_video)
    others = {name: Video(**camera) for name, camera in fields.pop("cameras").items()}
    made = {"objects": Objects, "plan": Plans, "correction": Plans}
    fields |= {name: made[name](*fields[name]) for name in made if name in fields}
    if channels.FRONT in others:
        fields["video"] = others.pop(channels.FRONT)
    return clock.onto(check(Drive(others=others, **fields)))


def cut(drive: Drive, t0: float, t1: float) -> Drive:
    """Cut the part of a drive with t0 <= t < t1, with video from the key frame at or before t0; times are unchanged.

    Tracks that are never valid in the part are dropped; plans are those decided within it. ValueError if it is empty.
    """
    # Times on a 0.1 s grid have rounding errors: a window that starts on a sample must contain it.
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
    """Encode frames (F, H, W, 3) uint8 RGB at times t (F,) s as H.264 (x264 ultrafast, one key frame per second)."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(t) == len(frames) > 0:
        got = f"{frames.shape} {frames.dtype} and {len(t)} times"
        raise ValueError(f"frames: must be (F, H, W, 3) uint8 with F > 0 times, got {got}")
    key, packets = encode(frames, fps)
    height, width = frames.shape[1:3]
    return Video(width, height, intrinsics, mount, t=np.asarray(t, np.float64), key=key, packets=packets)


def decode_video(video: Video, indices: np.ndarray | None = None) -> np.ndarray:
    """Decode a video to frames (F, H, W, 3) uint8 RGB; with indices, only those, in order. ValueError if damaged."""
    return decode(video.packets, video.key, video.width, video.height, indices, video.format)


def as_h264(video: Video) -> Video:
    """Convert a video to H.264: JPEG pictures are re-encoded at their median rate."""
    if video.format == "h264":
        return video
    fps = round(1 / float(np.median(np.diff(video.t)))) if len(video.t) > 1 else 1
    encoder = Encoder(video.width, video.height, max(fps, 1))
    # One picture at a time: a minute of them would fill memory.
    made = [encoder.encode(decode_video(video, np.array([i]))[0]) for i in range(len(video.packets))]
    key = np.array([k for k, _ in made], bool)
    return replace(video, key=key, packets=[p for _, p in made], format="h264")


def to_mp4(video: Video) -> bytes:
    """Remux an H.264 video to MP4 bytes, with the same packets. The first frame is at 0 s."""
    return mux_mp4(video.packets, video.key, video.t, video.width, video.height)


def from_mp4(data: bytes) -> tuple[np.ndarray, np.ndarray, list[bytes], int, int]:
    """Demux MP4 bytes to t (F,) s from the first frame, key (F,) bool, Annex B packets, width and height px.

    ValueError if it is not MP4, not H.264, or has B-frames.
    """
    return demux_mp4(data)
