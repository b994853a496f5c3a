"""Braking to a stop along the last good plan: what a car follows if there is no fresh plan.

This is the minimal-risk manoeuvre: stay on the planned path, never speed up, brake at a bounded rate, and stay stopped.
"""

from __future__ import annotations

import numpy as np

from drivefoundry_car.driving.guard import FINE, FINE_DT, POINTS, fine_path, poses_along

BRAKE = 4.0
"""Deceleration of the manoeuvre, m/s^2: firm, but manageable for traffic behind. The guard brakes harder if it predicts
a contact."""
STEPS = POINTS * FINE


class Stopping:
    """The last plans given to S cars, and where along them the cars should be now.

    At a decision at which some car needs a stop, call `advance`, then `stop`; at every decision call `keep` for the
    cars with a good plan and `given` for the others.
    """

    def __init__(self, cars: int, brake: float = BRAKE) -> None:
        self.cars, self.brake = cars, brake
        self._points, self._kept = np.zeros((cars, POINTS, 3)), np.zeros(cars, bool)
        self._path = np.zeros((cars, STEPS + 1, 3))
        self._run = np.zeros((cars, STEPS + 1))
        self._planned = np.full((cars, STEPS), np.inf)
        """Speed of the last good plan in each step of 0.1 s; a car without a plan goes straight ahead."""
        self._begun, self._travelled = np.zeros(cars), np.zeros(cars)
        """Seconds since the last good plan, and distance travelled along its path, m."""
        self._given, self._speed = np.full((2, cars, STEPS + 1), np.nan)
        """Distance along what was last given, every 0.1 s, and speed there."""
        self._braked = self._given, self._speed

    def advance(self, seconds: float) -> np.ndarray:
        """Advance by the time since the last decision; returns the expected speed of each car, NaN if unknown."""
        self._look_back()
        seconds = max(seconds, 0.0)
        k = min(int(seconds / FINE_DT), STEPS - 1)
        rest = min(seconds - k * FINE_DT, FINE_DT)
        speed = self._speed[:, k] + rest / FINE_DT * (self._speed[:, k + 1] - self._speed[:, k])
        self._travelled += np.nan_to_num(self._given[:, k] + rest * (self._speed[:, k] + speed) / 2)
        self._begun += seconds
        return speed

    def keep(self, points: np.ndarray, cars: np.ndarray) -> None:
        """Remember the plans (S, 8, 3) of the cars in a mask (S,) as good."""
        self._points[cars] = points[cars]
        self._kept |= cars

    def _look_back(self) -> None:
        """Process what was kept; deferred, because only a stop needs it."""
        if (cars := self._kept).any():
            self._path[cars] = path = fine_path(self._points[cars])
            self._given[cars], self._speed[cars], self._planned[cars] = _profile(path)
            self._run[cars] = self._given[cars]
            self._begun[cars] = self._travelled[cars] = 0.0
            self._kept = np.zeros(self.cars, bool)

    def stop(self, speed: np.ndarray) -> np.ndarray:
        """Plans (S, 8, 3), in each car's current ego frame, that brake to a stop along its path from now on; speed (S,)
        m/s, finite."""
        self._look_back()
        t = np.arange(2 * STEPS + 1) * FINE_DT / 2  # ends and middles of the steps
        v = np.maximum(np.maximum(speed, 0.0)[:, None] - self.brake * t, 0.0)
        later = np.minimum((self._begun[:, None] + t) / FINE_DT, STEPS - 1).astype(np.int64)
        v = np.minimum.accumulate(np.minimum(v, np.take_along_axis(self._planned, later, 1)), 1)
        run = np.concatenate([np.zeros((self.cars, 1)), np.cumsum(v[:, 1::2] * FINE_DT, 1)], 1)
        self._braked = run, v[:, ::2]
        ahead = self._pose(self._travelled[:, None] + run[:, FINE::FINE])
        here = self._pose(self._travelled[:, None])
        c, s = np.cos(here[..., 2]), np.sin(here[..., 2])
        d, yaw = ahead[..., :2] - here[..., :2], ahead[..., 2] - here[..., 2]
        yaw = np.arctan2(np.sin(yaw), np.cos(yaw))
        return np.stack([c * d[..., 0] + s * d[..., 1], c * d[..., 1] - s * d[..., 0], yaw], -1)

    def given(self, points: np.ndarray, changed: np.ndarray, cars: np.ndarray) -> None:
        """Remember that the cars in a mask (S,) were given a stop: the last result of `stop` or, where the guard
        changed it, points (S, 8, 3)."""
        self._given[cars], self._speed[cars] = (a[cars] for a in self._braked)
        if changed.any():
            self._given[changed], self._speed[changed], _ = _profile(fine_path(points[changed]))

    def _pose(self, s: np.ndarray) -> np.ndarray:
        """Poses (S, K, 3) at distances s (S, K), m, along the paths; straight on beyond their end."""
        out = poses_along(self._path, s)
        beyond = np.maximum(s - self._run[:, -1:], 0.0)
        out[..., 0] += beyond * np.cos(out[..., 2])
        out[..., 1] += beyond * np.sin(out[..., 2])
        return out


def _profile(path: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance and speed at each point of fine paths (S, 41, 3), (S, 41) each, and the mean speed of each step
    (S, 40)."""
    step = np.hypot(*np.moveaxis(np.diff(path[..., :2], axis=1), -1, 0))
    run = np.concatenate([np.zeros((len(step), 1)), np.cumsum(step, 1)], 1)
    mean = step / FINE_DT
    return run, np.concatenate([mean[:, :1], (mean[:, :-1] + mean[:, 1:]) / 2, mean[:, -1:]], 1), mean
