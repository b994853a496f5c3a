"""Drive: one MCAP recording of one vehicle, in well-known (Foxglove) schemas. Arrays in, MCAP out, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Video:
    """H.264 Annex B access units, one a frame, no B-frames, a key frame at least every second.

    t (F,) s; key (F,) bool; packets F byte strings; width, height px; intrinsics fx, fy, cx, cy px; mount x, y, z m and
    pitch rad (positive down) of the camera relative to the box centre on the ground.
    """

    t: np.ndarray
    key: np.ndarray
    packets: list[bytes]
    width: int
    height: int
    intrinsics: tuple[float, float, float, float]
    mount: tuple[float, float, float, float]


@dataclass(frozen=True)
class Objects:
    """Tracked road users near the ego, on the drive's 10 Hz clock.

    track (O,) int64 ids; kind (O,) AGENT_* codes (0 car, 1 truck, 2 pedestrian, 3 cyclist); size (O, 3) length, width, height m;
    states (O, T, 4) float32 x, y, yaw, speed of the box centre in the map frame; valid (O, T) bool. The ego is not among them.
    """

    track: np.ndarray
    kind: np.ndarray
    size: np.ndarray
    states: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True)
class Plans:
    """Plans at decision times: t (D,) s; points (D, 8, 3) x, y, yaw in the ego frame at 0.5 .. 4 s; text D strings ('' if none)."""

    t: np.ndarray
    points: np.ndarray
    text: list[str]


@dataclass(frozen=True)
class Drive:
    """One recording (or a clip cut from one). Everything but `t` and `ego` may be missing (None): real logs lack much.

    meta: strings; keys used: vehicle, drive, source, place, seed, map, release, campaign, trigger, trigger_t, route_id.
    t (T,) s on the 10 Hz grid (float64, seconds since the recording's epoch); ego (T, 7): x m, y m, yaw rad (map frame, box
    centre on the ground), speed m/s, acceleration m/s^2, yaw rate rad/s, steering-wheel angle rad (positive left; NaN unknown).
    ego_size: length, width, height m. route (R, 3): x, y, speed limit m/s. signals: signal_id (G,) indices into the map's
    signals, signal_state (G, T) uint8 0 off, 1 green, 2 yellow, 3 red. engaged (T,) bool: the model drives; takeover (T,) bool:
    the safety driver has just taken over (rising edge = the takeover). plan: what the model planned; correction: what the
    safety driver would have done, at the same decision times.
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


def write_drive(path: Path | str, drive: Drive) -> None:
    """A Drive in, an MCAP file out; atomic."""
    raise NotImplementedError


def read_drive(path: Path | str, video: bool = True) -> Drive:
    """An MCAP file in, the Drive out. ValueError on a missing, truncated or foreign file."""
    raise NotImplementedError


def cut(drive: Drive, t0: float, t1: float) -> Drive:
    """The part of a drive with t0 <= t < t1; video from the key frame at or before t0; times stay as they are."""
    raise NotImplementedError


def encode_video(
    frames: np.ndarray,
    t: np.ndarray,
    intrinsics: tuple[float, float, float, float],
    mount: tuple[float, float, float, float],
    fps: int = 10,
) -> Video:
    """frames (F, H, W, 3) uint8 RGB in, H.264 Video out."""
    raise NotImplementedError


def decode_video(video: Video, indices: np.ndarray | None = None) -> np.ndarray:
    """Video in, frames (F, H, W, 3) uint8 RGB out; with indices, only those frames, in that order."""
    raise NotImplementedError


def to_mp4(video: Video) -> bytes:
    """Video in, MP4 bytes out: the same packets, remuxed."""
    raise NotImplementedError


def from_mp4(data: bytes) -> tuple[np.ndarray, np.ndarray, list[bytes], int, int]:
    """MP4 bytes in; t (F,) s from the first frame, key (F,) bool, Annex B packets, width and height px out."""
    raise NotImplementedError
