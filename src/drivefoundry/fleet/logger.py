"""What a fleet car's logger records, from its motion, the traffic and its frames; the same for every car."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from drivefoundry.types import DT, RoadMap
from drivefoundry_car.log import Objects, Video, encode_video
from drivefoundry_car.vehicle.embodiment import CAR, CameraSpec, Embodiment

RECORDED_RANGE = 80.0
"""Road users nearer than this are recorded, m."""
SIGNAL_RANGE = 120.0
"""Lights with a stop line nearer than this are recorded, m."""
TIGHTEST = 0.25
"""Curvature at full steering lock, 1/m."""


def steering_wheel(speed: np.ndarray, yaw_rate: np.ndarray, body: Embodiment = CAR) -> np.ndarray:
    """Angle of the steering wheel, rad: a bicycle model with the body's wheelbase and ratio; straight when standing."""
    curvature = np.where(speed > 0.3, yaw_rate / np.maximum(speed, 0.3), 0.0)
    return np.arctan(np.clip(curvature, -TIGHTEST, TIGHTEST) * body.wheelbase) * body.steering_ratio


def objects_near(
    ego: np.ndarray, tracks: np.ndarray, valid: np.ndarray, kind: np.ndarray, size: np.ndarray, own: int
) -> Objects:
    """Road users that come near, valid while near; track ids are row numbers.

    ego (T, 2 or more) x, y; tracks (A, T, 4), valid (A, T), kind (A,), size (A, 3) of all; row `own` is the car itself.
    """
    d = np.hypot(tracks[..., 0] - ego[:, 0], tracks[..., 1] - ego[:, 1])
    seen = valid & (d < RECORDED_RANGE)
    seen[own] = False
    near = np.flatnonzero(seen.any(1))
    states = np.where(seen[near, :, None], tracks[near], np.float32(0))
    return Objects(near, kind[near].astype(np.int64), size[near], states, seen[near])


def signals_near(road_map: RoadMap, ego: np.ndarray) -> np.ndarray:
    """Map indices of the signals whose stop line a path (T, 2 or more) at 10 Hz comes near."""
    middle = (road_map.stop_lines[:, :2] + road_map.stop_lines[:, 2:]) / 2
    at = ego[::10, :2].astype(np.float64)
    return np.flatnonzero(np.hypot(*(middle[:, None] - at[None]).transpose(2, 0, 1)).min(1) < SIGNAL_RANGE)


def filmed(frames: np.ndarray, view: CameraSpec) -> Video:
    """Frames (T, H, W, 3) uint8 at 10 Hz from t = 0 as the camera's video."""
    mount, lens = (view.x, view.y, view.z, view.pitch), (view.fx, view.fy, view.cx, view.cy)
    video = encode_video(frames, np.arange(len(frames)) * DT, lens, mount, fps=round(1 / DT))
    return replace(video, yaw=view.yaw)
