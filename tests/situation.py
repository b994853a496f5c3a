"""Situations on the crossroads for tests of traffic, the expert and closed-loop driving."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from drivefoundry.types import AGENT_CAR, AGENT_PEDESTRIAN, DT, SIGNAL_GREEN, RoadMap, Scene
from town import crossroads

START = 16
"""Steps of history before the simulation starts."""
EAST = -1.75
"""y of the inner lane that leads east; its stop line lies at x = -12."""
SIZES = {AGENT_CAR: (4.6, 1.9, 1.6), AGENT_PEDESTRIAN: (0.6, 0.6, 1.8)}


@cache
def town() -> RoadMap:
    return crossroads(blocks=False)


def straight(x: float, y: float, yaw: float, speed: float, steps: int = 140) -> np.ndarray:
    """A track (T, 4) at constant speed that is at (x, y) when the simulation starts."""
    d = speed * (np.arange(steps) - START) * DT
    return np.column_stack([x + np.cos(yaw) * d, y + np.sin(yaw) * d, np.full(steps, yaw), np.full(steps, speed)])


def situation(
    ego: np.ndarray,
    others: Sequence[tuple[int, np.ndarray]] = (),
    route: np.ndarray | None = None,
    signal: np.ndarray | int = SIGNAL_GREEN,
    limit: float = 10.0,
    name: str = "situation",
) -> Scene:
    """ego (T, 4); others: kind and track (T, 4) of each; signal: state of the one light, once or at each step (T,)."""
    tracks = np.stack([ego, *(track for _, track in others)]).astype(np.float32)
    kind = np.array([AGENT_CAR, *(k for k, _ in others)])
    steps = tracks.shape[1]
    if route is None:
        route = np.column_stack([np.arange(ego[START, 0] - 30, 140.0, 2.0)] * 2)
        route[:, 1] = EAST
    return Scene(
        id=name, source="test", place="crossroads", map=town(), tracks=tracks, valid=np.ones(tracks.shape[:2], bool),
        size=np.array([SIZES[int(k)] for k in kind], np.float32), kind=kind, ego=0, start=START, route=route,
        route_speed=np.full(len(route), limit), signals=np.broadcast_to(np.uint8(signal), (1, steps)).copy(),
    ).validate()  # fmt: skip
