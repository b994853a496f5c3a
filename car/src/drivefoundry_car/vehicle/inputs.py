"""Model inputs other than pixels, from the ego track and the route.

The car's runtime and the factory's labelling call the same functions, so that training and driving are consistent.
"""

from __future__ import annotations

import numpy as np

from drivefoundry_car.vehicle.embodiment import CAR, COMMANDS, ROUTE, ROUTE_AHEAD_M, Embodiment

SPEED_MIDDLE, SPEED_GAIN, RATE_GAIN, LATERAL_GAIN = 8.0, 0.15, 8.0, 0.5
SPEED_CHANGE, RATE_CHANGE = 0.7, 15.0
"""Factors that scale speeds (m/s), yaw rates (rad/s) and their changes within a history to about 1; see
`ego_changes`."""
ROUTE_FEATURES = len(ROUTE)
UNKNOWN, STRAIGHT, LEFT, RIGHT = range(len(COMMANDS))


def to_ego(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Transform points (..., 2 or 3) x, y[, yaw] from the map to the ego frame; pose (3,) x, y, yaw."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    d = points[..., :2] - pose[:2]
    out = np.array(points, np.float64, copy=True)
    out[..., 0] = c * d[..., 0] + s * d[..., 1]
    out[..., 1] = -s * d[..., 0] + c * d[..., 1]
    if points.shape[-1] == 3:
        out[..., 2] = np.arctan2(np.sin(points[..., 2] - pose[2]), np.cos(points[..., 2] - pose[2]))
    return out


def to_map(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Transform points from the ego frame to the map; inverse of `to_ego`."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    out = np.array(points, np.float64, copy=True)
    out[..., 0] = pose[0] + c * points[..., 0] - s * points[..., 1]
    out[..., 1] = pose[1] + s * points[..., 0] + c * points[..., 1]
    if points.shape[-1] == 3:
        out[..., 2] = np.arctan2(np.sin(points[..., 2] + pose[2]), np.cos(points[..., 2] + pose[2]))
    return out


def shift(poses: np.ndarray, ahead: float) -> np.ndarray:
    """Poses (..., 3) of the point `ahead` m in front of the one given."""
    out = np.array(poses, np.float64, copy=True)
    out[..., 0] += ahead * np.cos(poses[..., 2])
    out[..., 1] += ahead * np.sin(poses[..., 2])
    return out


def along(route: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, float]:
    """Arc length of every route point (R,) and of the pose's projection onto the route (R, 2+), m."""
    p = route[:, :2]
    seg = np.diff(p, axis=0)
    length = np.hypot(seg[:, 0], seg[:, 1])
    s = np.concatenate([[0.0], np.cumsum(length)])
    rel = pose[:2] - p[:-1]
    u = np.clip((rel * seg).sum(1) / np.maximum(length**2, 1e-9), 0.0, 1.0)
    off = rel - u[:, None] * seg
    i = int(np.argmin((off**2).sum(1)))
    return s, float(s[i] + u[i] * length[i])


def command(route: np.ndarray, s: np.ndarray, at: float, ahead: float = 30.0) -> int:
    """Navigator command from the heading change over the next `ahead` metres: straight, left or right (> 0.6 rad)."""
    x = np.interp([at, at + 2.0, at + ahead, at + ahead + 2.0], s, route[:, 0])
    y = np.interp([at, at + 2.0, at + ahead, at + ahead + 2.0], s, route[:, 1])
    if np.hypot(x[3] - x[2], y[3] - y[2]) < 0.5:  # the route ends: no turn to announce
        return STRAIGHT
    turn = np.arctan2(y[3] - y[2], x[3] - x[2]) - np.arctan2(y[1] - y[0], x[1] - x[0])
    turn = np.arctan2(np.sin(turn), np.cos(turn))
    return LEFT if turn > 0.6 else RIGHT if turn < -0.6 else STRAIGHT


def route_features(route: np.ndarray | None, pose: np.ndarray) -> np.ndarray:
    """Encode the route as (12,) float32; all zeros except the last four if there is none.

    route (R, 3) x, y m, speed limit m/s, or None; pose (3,) x, y, yaw. Entries 0-5: x, y (ego frame, tens of metres) of
    the route at 10, 20, 40 m ahead; 6: speed limit / 10 m/s; 7: 1 if the route is known; 8-11: one-hot command
    (unknown, straight, left, right).
    """
    out = np.zeros(ROUTE_FEATURES, np.float32)
    if route is None or len(route) < 2:
        out[8 + UNKNOWN] = 1.0
        return out
    s, at = along(route, pose)
    ahead = at + np.array(ROUTE_AHEAD_M)
    p = np.stack([np.interp(ahead, s, route[:, 0]), np.interp(ahead, s, route[:, 1])], 1)
    out[0:6] = (to_ego(p, pose) / 10.0).ravel()
    out[6] = np.interp(at, s, route[:, 2]) / 10.0
    out[7] = 1.0
    out[8 + command(route, s, at)] = 1.0
    return out


def ego_changes(history: np.ndarray) -> np.ndarray:
    """Scale ego history (N, 4, 3) to (N, 12) float32 of about 1, as a model with `ego_changes` reads it.

    0-2: current speed, yaw rate and lateral acceleration; 3-5 and 6-8: differences of the last three speeds and yaw
    rates from the current ones, if known; 9-11: whether they are. `drivefoundry.model.vla.ego_changes` is the same.
    """
    h = np.asarray(history, np.float32)
    speed, rate, known = h[:, -1, 0], h[:, -1, 1], h[:, :-1, 2]
    now = np.stack([SPEED_GAIN * (speed - SPEED_MIDDLE), RATE_GAIN * rate, LATERAL_GAIN * speed * rate], 1)
    change = (h[:, :-1, :2] - h[:, -1:, :2]) * known[..., None] * np.array([SPEED_CHANGE, RATE_CHANGE], np.float32)
    return np.concatenate([now, change[..., 0], change[..., 1], known], 1)


def ego_history(speed: np.ndarray, yaw_rate: np.ndarray, body: Embodiment = CAR) -> np.ndarray:
    """Ego history (entries, 3) float32 of speed, yaw rate and valid, from states at 10 Hz (oldest first, the last one
    current).

    Entries are `body.history_dt` apart, the last one current; entries before the log's start are zero with valid 0.
    """
    out = np.zeros((body.history, len(body.state)), np.float32)
    for i in range(body.history):
        k = len(speed) - 1 - body.history_steps * (body.history - 1 - i)
        if k >= 0:
            out[i] = speed[k], yaw_rate[k], 1.0
    return out
