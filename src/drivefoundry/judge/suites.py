"""Named suites: classify the situations in a scene by rules over its content alone.

Every rule looks at the part of the route that the recorded ego drives after the scene's start, and at the log along it;
what a policy does has no influence. A scene may belong to several suites or to none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from drivefoundry.types import (
    AGENT_CAR,
    AGENT_PEDESTRIAN,
    AGENT_TRUCK,
    DT,
    PSPEED,
    PX,
    PY,
    SIGNAL_RED,
    SIGNAL_YELLOW,
    Scene,
)

REACH_M = 20.0
"""The stretch continues this far beyond the recorded ego's last position."""
STEP_M = 1.0
"""Spacing of the route points that rules look at."""
NEAR_M, AHEAD_M = 4.0, 30.0
"""A pedestrian counts within NEAR_M of the route while within AHEAD_M of the ego."""
LANE_M, GAP_M = 2.0, 40.0
"""A lead vehicle is within LANE_M of the route and at most GAP_M ahead of the recorded ego along it."""
BRAKES = 2.0
"""A lead vehicle brakes if it loses this much speed within a second, m/s."""


@dataclass(frozen=True)
class Stretch:
    """The route that the recorded ego covers. points (R, 2); along (R,) m; ego (T, 3): x, y and m along the stretch at
    each step from the start; valid (T,)."""

    points: np.ndarray
    along: np.ndarray
    ego: np.ndarray
    valid: np.ndarray


def suites_of(scenes: list[Scene]) -> dict[str, list[str]]:
    """Suite -> ids of its scenes, in the order given; includes every suite of RULES, even if it is empty."""
    out: dict[str, list[str]] = {name: [] for name in RULES}
    for scene in scenes:
        stretch = stretch_of(scene)
        for name, rule in RULES.items():
            if rule(scene, stretch):
                out[name].append(scene.id)
    return out


def stretch_of(scene: Scene) -> Stretch:
    """Cut the route to the part that the recorded ego drives, plus REACH_M."""
    route = scene.route.astype(np.float64)
    along = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(route, axis=0).T))])
    even = np.append(np.arange(0.0, along[-1], STEP_M), along[-1])
    route, along = np.stack([np.interp(even, along, axis) for axis in route.T], 1), even
    track = scene.tracks[scene.ego, scene.start :, [PX, PY]].T.astype(np.float64)
    valid = scene.valid[scene.ego, scene.start :]
    at = along[_nearest(track, route)[0]]
    known = at[valid]
    inside = (along >= known.min() - 1.0) & (along <= known.max() + REACH_M)
    return Stretch(route[inside], along[inside], np.column_stack([track, at]), valid)


def _nearest(points: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the nearest vertex of a line (R, 2) to each point (N, 2), and the distance to it, m."""
    off = np.square(points[:, None, 0] - line[None, :, 0]) + np.square(points[:, None, 1] - line[None, :, 1])
    nearest = off.argmin(1)
    return nearest, np.sqrt(off[np.arange(len(points)), nearest])


def _lights(scene: Scene, stretch: Stretch) -> bool:
    """Whether the recorded ego comes within GAP_M of the stop line of a yellow or red light on its stretch."""
    if not len(scene.signals):
        return False
    lines = scene.map.stop_lines
    a, b = stretch.points[:-1, None], stretch.points[1:, None]
    c, d = lines[None, :, :2], lines[None, :, 2:]
    crosses = (_left(a, b, c) != _left(a, b, d)) & (_left(c, d, a) != _left(c, d, b))
    stops = np.isin(scene.signals[:, scene.start :], (SIGNAL_YELLOW, SIGNAL_RED)) & stretch.valid
    for at, light in np.argwhere(crosses):
        before = stretch.along[at] - stretch.ego[:, 2]
        if bool((stops[light] & (before > 0) & (before < GAP_M)).any()):
            return True
    return False


def _left(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Whether p lies on the line from a to b or left of it."""
    cross = (b[..., 0] - a[..., 0]) * (p[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (p[..., 0] - a[..., 0])
    return cross >= 0


def _pedestrians(scene: Scene, stretch: Stretch) -> bool:
    """Whether a pedestrian is within NEAR_M of the stretch and within AHEAD_M of the recorded ego at any step."""
    who = scene.kind == AGENT_PEDESTRIAN
    at = scene.tracks[who][:, scene.start :, [PX, PY]].astype(np.float64)
    there = scene.valid[who][:, scene.start :] & stretch.valid
    there &= np.hypot(*(at - stretch.ego[:, :2]).transpose(2, 0, 1)) < AHEAD_M
    return bool((_nearest(at[there], stretch.points)[1] < NEAR_M).any()) if there.any() else False


def _junctions(scene: Scene, stretch: Stretch) -> bool:
    """Whether the stretch runs along a whole lane inside a junction."""
    lanes, inside = scene.map.lanes, np.flatnonzero(scene.map.lane_junction)
    first, last = lanes.offsets[inside], lanes.offsets[inside + 1] - 1
    if not len(inside):
        return False
    on = [_nearest(lanes.points[end, :2], stretch.points)[1] < STEP_M for end in (first, last)]
    inside = inside[on[0] & on[1]]
    return any(bool((_nearest(lanes[int(i)][:, :2], stretch.points)[1] < STEP_M).all()) for i in inside)


def _lead_braking(scene: Scene, stretch: Stretch) -> bool:
    """Whether a vehicle ahead on the stretch loses BRAKES m/s within a second."""
    who = np.isin(scene.kind, (AGENT_CAR, AGENT_TRUCK))
    who[scene.ego] = False
    second = round(1.0 / DT)
    track, valid = scene.tracks[who][:, scene.start :], scene.valid[who][:, scene.start :]
    if track.shape[1] <= second:
        return False
    loses = track[:, :-second, PSPEED] - track[:, second:, PSPEED] >= BRAKES
    agent, step = np.nonzero(loses & valid[:, :-second] & valid[:, second:] & stretch.valid[:-second])
    if not len(agent):
        return False
    nearest, off = _nearest(track[agent, step][:, [PX, PY]].astype(np.float64), stretch.points)
    ahead = stretch.along[nearest] - stretch.ego[step, 2]
    return bool(((off < LANE_M) & (ahead > 0) & (ahead < GAP_M)).any())


RULES: dict[str, Callable[[Scene, Stretch], bool]] = {
    "lights": _lights, "pedestrians": _pedestrians, "junctions": _junctions, "lead braking": _lead_braking,
}  # fmt: skip
"""Suite -> whether a scene belongs to it."""
