"""Log replay by the tracked car: close to the log even if that has odd headings, or jumps."""

import numpy as np
import pytest

from drivefoundry.sim.drive import drive
from drivefoundry.sim.policies import LogReplay
from drivefoundry.types import Scene
from town import crossroads

TOWN = crossroads()
T = np.arange(100) * 0.1


def scene(xy: np.ndarray, yaw: np.ndarray) -> Scene:
    speed = np.hypot(*np.gradient(xy, 0.1, axis=0).T)
    return Scene(
        id="s", source="town", place="town", map=TOWN,
        tracks=np.column_stack([xy, yaw, speed])[None].astype(np.float32),
        valid=np.ones((1, len(xy)), bool), size=np.array([[4.6, 1.9, 1.5]], np.float32), kind=np.zeros(1, int), ego=0,
        start=10, route=xy[::10], route_speed=np.full(len(xy[::10]), 10.0), signals=np.zeros((1, len(xy)), np.uint8),
    ).validate()  # fmt: skip


def off(s: Scene) -> np.ndarray:
    ego = drive(LogReplay(exact=False), [s], 8.0).ego[0]
    return np.hypot(*(ego[:, :2] - s.tracks[0, s.start : s.start + len(ego), :2]).T)


@pytest.mark.parametrize("slip", [0.0, 0.03, 0.2])
def test_headings_that_are_off_do_not_lead_astray(slip):
    turn = 0.5 * T
    xy = np.column_stack([10 * np.sin(turn), 10 * (1 - np.cos(turn))])
    assert off(scene(xy, turn - slip)).max() < 0.75


def test_what_was_lost_is_caught_up():
    x = np.where(T < 3.0, 8.0 * T, 24.0 + 8.0 * (T - 3.0) + np.minimum(3.0, 30.0 * (T - 3.0)))  # a jump of 3 m in 0.1 s
    away = off(scene(np.column_stack([x, np.zeros(len(x))]), np.zeros(len(x))))
    assert away.max() > 1.5
    assert away[-10:].max() < 0.4
