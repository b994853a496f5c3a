"""A straight road for hand-worked cases: two lanes east at y = 0 and 3.2, one west at y = 6.4, a stop line at x = 60.

Lanes are 3.2 m wide and run from x = -60 to 400; the road ends at y = -1.6 and 8. Cars are 4.6 x 1.9 m.
"""

import numpy as np

from drivefoundry.roadmap import lane_polygon, make_map
from drivefoundry.types import SIGNAL_GREEN, SIGNAL_RED, RoadMap, Rollout, Scene

START, STEPS = 20, 110
X = np.arange(-60.0, 401.0, 5.0)


def _lane(y: float, east: bool = True) -> np.ndarray:
    return np.stack([X if east else X[::-1], np.full(len(X), y)], 1)


def road(junction: tuple[bool, bool, bool] = (False, False, False)) -> RoadMap:
    lanes = [_lane(0.0), _lane(3.2), _lane(6.4, east=False)]
    return make_map(
        lanes=lanes,
        lane_width=[3.2] * 3,
        lane_left=[1, -1, -1],
        lane_right=[-1, 0, -1],
        lane_junction=list(junction),
        lane_signal=[0, 0, -1],
        drivable=[lane_polygon(lane, 3.2) for lane in lanes],
        stop_lines=[[60.0, -1.6, 60.0, 4.8]],
        signal_heads=[[80.0, 1.6, 5.0, np.pi]],
    )


ROAD = road()


def moving(x: float, y: float, speed: float, yaw: float = 0.0, drift: float = 0.0) -> np.ndarray:
    """A track (STEPS, 4) at constant velocity that is at x, y at step START; drift is sideways speed to the left."""
    t = (np.arange(STEPS) - START) * 0.1
    out = np.zeros((STEPS, 4), np.float32)
    out[:, 0] = x + (speed * np.cos(yaw) - drift * np.sin(yaw)) * t
    out[:, 1] = y + (speed * np.sin(yaw) + drift * np.cos(yaw)) * t
    out[:, 2], out[:, 3] = yaw, speed
    return out


def scene(
    ego: np.ndarray,
    *others: np.ndarray,
    kinds: tuple[int, ...] = (),
    red: bool = False,
    map: RoadMap = ROAD,
    id: str = "s",
) -> Scene:
    """A scene of an ego track and other tracks; its route runs along y = 0."""
    tracks = np.stack([ego, *others])
    route = np.stack([X, np.zeros(len(X))], 1)
    return Scene(
        id=id,
        source="test",
        place="road",
        map=map,
        tracks=tracks,
        valid=np.ones(tracks.shape[:2], bool),
        size=np.tile(np.array([4.6, 1.9, 1.6], np.float32), (len(tracks), 1)),
        kind=np.array([0, *(kinds or [0] * len(others))]),
        ego=0,
        start=START,
        route=route,
        route_speed=np.full(len(route), 13.9),
        signals=np.full((1, tracks.shape[1]), SIGNAL_RED if red else SIGNAL_GREEN, np.uint8),
    ).validate()


def plan(speed: float, end_y: float = 0.0, brake: float = 0.0, brake_from: float = 0.0) -> np.ndarray:
    """A plan (8, 3) at `speed` that moves sideways to end_y in the first 2 s and brakes from brake_from on."""
    t = np.arange(1, 9) * 0.5
    braking = np.minimum(np.maximum(t - brake_from, 0.0), speed / brake if brake else 0.0)
    s = speed * np.minimum(t, np.inf if not brake else brake_from) + speed * braking - 0.5 * brake * braking**2
    out = np.zeros((8, 3))
    out[:, 0] = s
    u = np.minimum(t / 2.0, 1.0)
    out[:, 1] = end_y * u * u * (3 - 2 * u)
    out[:, 2] = np.arctan2(end_y * 3 * u * (1 - u), speed)
    return out


def rollout(scenes: list[Scene], ego: np.ndarray) -> Rollout:
    """Rollout of ego states (S, T, 6) among the scenes' own tracks."""
    s, t = ego.shape[:2]
    a = max(len(x.kind) for x in scenes)
    agents, valid = np.zeros((s, a, t, 4)), np.zeros((s, a, t), bool)
    for i, x in enumerate(scenes):
        agents[i, : len(x.kind)] = x.tracks[:, x.start : x.start + t]
        valid[i, : len(x.kind)] = x.valid[:, x.start : x.start + t]
        valid[i, x.ego] = False
    return Rollout(
        "test", [x.id for x in scenes], ego, agents, valid, np.zeros((s, 1, 8, 3)), None, None, np.zeros((s, 1), bool)
    )


def cruise(speed: float, steps: int = 80, y: float = 0.0, x: float = 0.0) -> np.ndarray:
    """Ego states (steps, 6) at constant speed along the road."""
    out = np.zeros((steps, 6))
    out[:, 0], out[:, 1], out[:, 3] = x + speed * 0.1 * np.arange(steps), y, speed
    return out
