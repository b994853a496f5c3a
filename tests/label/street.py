"""A street with a light and a left turn, and a car that drives it, for tests of labels."""

from __future__ import annotations

import numpy as np

from drivefoundry.roadmap import make_map
from drivefoundry.types import RoadMap
from drivefoundry_car.log import Drive, Objects, Plans, encode_video


def street() -> RoadMap:
    """East along y = 0 to x = 100, then a left turn of radius 20 m, then north; a light stops at x = 60."""
    bend = np.linspace(-np.pi / 2, 0, 12)
    turn = np.stack([100 + 20 * np.cos(bend), 20 + 20 * np.sin(bend)], 1)
    east = np.stack([np.linspace(-50, 100, 40), np.zeros(40)], 1)
    north = np.stack([np.full(40, 120.0), np.linspace(20, 200, 40)], 1)
    return make_map(
        lanes=[east, turn, north],
        lane_next=[[1], [2], []],
        lane_speed=[13.9, 8.0, 13.9],
        lane_width=[3.5, 3.5, 3.5],
        drivable=[np.array([[-50, -2], [125, -2], [125, 200], [-50, 200]], float)],
        stop_lines=[[60.0, -1.75, 60.0, 1.75]],
        signal_heads=[[80.0, 3.0, 5.0, np.pi]],
        buildings=[[70.0, -30.0, 0.0, 10.0, 10.0, 9.0]],
    )


def path_at(s: np.ndarray) -> np.ndarray:
    """(N, 3) x, y, yaw of the street's centre line at arc length s from x = 0."""
    angle = np.clip((s - 100) / 20, 0, np.pi / 2)
    rest = np.maximum(s - 100 - 10 * np.pi, 0)
    x = np.minimum(s, 100) + 20 * np.sin(angle)
    y = 20 - 20 * np.cos(angle) + rest
    return np.stack([x, y, angle], 1)


def drive(
    speed: np.ndarray | float = 10.0,
    steps: int = 200,
    *,
    begin: float = 0.0,
    others: list[np.ndarray] | None = None,
    kinds: list[int] | None = None,
    light: int | np.ndarray = 1,
    size: tuple[int, int] | None = None,
    **more: object,
) -> Drive:
    """A car along the street at `speed` m/s; `others` (T, 4) tracks of `kinds`; video of (H, W) where size is given."""
    t = 5.0 + 0.1 * np.arange(steps)
    v = np.broadcast_to(np.asarray(speed, float), (steps,))
    s = begin + np.concatenate([[0.0], np.cumsum((v[1:] + v[:-1]) / 2 * 0.1)])
    pose = path_at(s)
    ego = np.column_stack([pose, v, np.gradient(v, 0.1), np.gradient(pose[:, 2], 0.1), np.zeros(steps)])
    route = path_at(np.arange(-10.0, 200.0, 2.0) + 0.0)
    objects = None
    if others:
        states = np.stack(others).astype(np.float32)
        kind = np.array(kinds or [0] * len(others))
        box = np.where((kind == 2)[:, None], [0.6, 0.6, 1.8], [4.6, 1.9, 1.6]).astype(np.float32)
        objects = Objects(np.arange(len(others)) + 1, kind, box, states, np.ones(states.shape[:2], bool))
    video = None
    if size is not None:
        h, w = size
        # Each frame is one grey level that says its number.
        frames = np.broadcast_to((np.arange(steps) % 200 + 20).astype(np.uint8)[:, None, None, None], (steps, h, w, 3))
        video = encode_video(np.ascontiguousarray(frames), t, (95.3, 95.3, w / 2, h * 28 / 64), (1.0, 0.0, 1.5, 0.0))
    fields = {
        "meta": {"drive": "d1", "place": "street", "seed": "3", "source": "test", "route_id": "r1"},
        "t": t,
        "ego": ego,
        "video": video,
        "route": np.column_stack([route[:, :2], np.full(len(route), 13.9)]),
        "objects": objects,
        "signal_id": np.array([0]),
        "signal_state": np.broadcast_to(np.asarray(light, np.uint8), (1, steps)).copy(),
        **more,
    }
    return Drive(**fields)  # pyright: ignore[reportArgumentType]


def standing(x: float, y: float, yaw: float = 0.0, steps: int = 200, speed: float = 0.0) -> np.ndarray:
    """A track (T, 4) that starts at x, y and goes straight at `speed`."""
    s = speed * 0.1 * np.arange(steps)
    return np.stack([x + s * np.cos(yaw), y + s * np.sin(yaw), np.full(steps, yaw), np.full(steps, speed)], 1)


def plans(t: list[float], reach: float = 20.0) -> Plans:
    """Plans straight ahead over `reach` metres at the given times."""
    points = np.zeros((len(t), 8, 3), np.float32)
    points[:, :, 0] = reach * np.arange(1, 9) / 8
    return Plans(np.array(t), points, [""] * len(t))
