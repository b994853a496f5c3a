"""The last good plan in, the same path braked to a stop out: what a car follows when there is no fresh plan.

This is the minimal-risk manoeuvre: stay on the path that was planned, never speed up, brake at a bounded rate, and
stand still once standing.
"""

from __future__ import annotations

import numpy as np

from drivefoundry_car.guard import FINE, FINE_DT, POINTS, fine_path, poses_along

BRAKE = 4.0
"""Deceleration of the manoeuvre, m/s^2: the most that UN Regulation 157 (5.4) allows it. The guard brakes harder where
it foresees a contact."""
STEPS = POINTS * FINE


class Stopping:
    """What S cars were last given to follow, and where on it they are now, if they followed it.

    At each decision call `advance`, then `keep` for the cars with a good plan, and `stop` and `given` for the others.
    """

    def __init__(self, cars: int, brake: float = BRAKE) -> None:
        self.cars, self.brake = cars, brake
        self._path = np.zeros((cars, STEPS + 1, 3))
        self._run = np.zeros((cars, STEPS + 1))
        self._planned = np.full((cars, STEPS), np.inf)
        """Speed that the last good plan had in each step of 0.1 s; a car without a plan goes straight ahead."""
        self._begun, self._travelled = np.zeros(cars), np.zeros(cars)
        """Seconds since the last good plan, and metres of its path behind the car."""
        self._given = np.full((cars, STEPS + 1), np.nan)
        """Metres that what was last given covers, every 0.1 s."""

    def advance(self, seconds: float) -> np.ndarray:
        """Move on by the time since the last decision; the speed that each car should have now, NaN if unknown."""
        at = min(max(seconds, 0.0) / FINE_DT, float(STEPS))
        k = min(int(at), STEPS - 1)
        step = self._given[:, k + 1] - self._given[:, k]
        self._travelled += np.nan_to_num(self._given[:, k] + (at - k) * step)
        self._begun += max(seconds, 0.0)
        return step / FINE_DT

    def keep(self, points: np.ndarray, cars: np.ndarray) -> None:
        """Remember the plans (S, 8, 3) of some cars (S,) bool as good."""
        if cars.any():
            path = fine_path(points[cars])
            step = np.hypot(*np.moveaxis(np.diff(path[..., :2], axis=1), -1, 0))
            self._path[cars], self._planned[cars] = path, step / FINE_DT
            self._run[cars] = np.concatenate([np.zeros((len(step), 1)), np.cumsum(step, 1)], 1)
            self._given[cars] = self._run[cars]
            self._begun[cars] = self._travelled[cars] = 0.0

    def stop(self, speed: np.ndarray) -> np.ndarray:
        """Speeds (S,) m/s, finite, in; every car's path braked from now on to a stop, (S, 8, 3) in its ego frame of
        now, out."""
        t = (np.arange(STEPS) + 0.5) * FINE_DT
        v = np.maximum(np.maximum(speed, 0.0)[:, None] - self.brake * t, 0.0)
        later = np.minimum((self._begun[:, None] + t) / FINE_DT, STEPS - 1).astype(np.int64)
        v = np.minimum.accumulate(np.minimum(v, np.take_along_axis(self._planned, later, 1)), 1)
        ahead = self._pose(self._travelled[:, None] + np.cumsum(v * FINE_DT, 1)[:, FINE - 1 :: FINE])
        here = self._pose(self._travelled[:, None])
        c, s = np.cos(here[..., 2]), np.sin(here[..., 2])
        d = ahead[..., :2] - here[..., :2]
        yaw = ahead[..., 2] - here[..., 2]
        out = np.stack([c * d[..., 0] + s * d[..., 1], c * d[..., 1] - s * d[..., 0], yaw], -1)
        out[..., 2] = np.arctan2(np.sin(yaw), np.cos(yaw))
        return out

    def given(self, points: np.ndarray, cars: np.ndarray) -> None:
        """Remember that some cars were given these plans (S, 8, 3), which brake along the last good path."""
        if cars.any():
            step = np.hypot(*np.moveaxis(np.diff(fine_path(points[cars])[..., :2], axis=1), -1, 0))
            self._given[cars] = np.concatenate([np.zeros((len(step), 1)), np.cumsum(step, 1)], 1)

    def _pose(self, s: np.ndarray) -> np.ndarray:
        """Poses (S, K, 3) at metres s (S, K) of the paths; beyond their end straight on."""
        out = poses_along(self._path, s)
        beyond = np.maximum(s - self._run[:, -1:], 0.0)
        out[..., 0] += beyond * np.cos(out[..., 2])
        out[..., 1] += beyond * np.sin(out[..., 2])
        return out
