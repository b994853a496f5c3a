"""Routes from driven paths: the lane-level centre line that a navigator would have given.

A route is (R, 3) float64: x, y m in the map frame, speed limit m/s; points about STEP apart.
"""

from __future__ import annotations

import numpy as np

from drivefoundry.roadmap import arc_length, resample
from drivefoundry.types import RoadMap

STEP = 1.5
"""Distance between route points, m."""
SMOOTH_M = 4.0
"""Standard deviation of the smoothing along a driven path, m: removes recording jitter, preserves turns."""
LANE_WITHIN_M, LANE_WITHIN_RAD = 3.0, 0.8
"""Maximum distance from a lane's centre line, m, and deviation from its heading, rad, of a car on it."""


def smooth(path: np.ndarray, sigma_m: float = SMOOTH_M, step: float = STEP) -> np.ndarray:
    """Smooth an evenly spaced polyline (R, 2) with a Gaussian along it; both ends stay in place."""
    if len(path) < 4:
        return path
    reach = max(1, min(round(3 * sigma_m / step), len(path) - 1))
    k = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / sigma_m) ** 2)
    # Reflecting through the end points (odd padding) preserves them and their direction.
    padded = np.pad(path, ((reach, reach), (0, 0)), mode="reflect", reflect_type="odd")
    return np.stack([np.convolve(padded[:, d], k / k.sum(), "valid") for d in range(path.shape[1])], 1)


def lane_at(map: RoadMap, xy: np.ndarray, yaw: float) -> tuple[int, float]:
    """(lane, arc length along it) of the nearest lane with a similar heading, or (-1, 0.0)."""
    if not len(map.lanes):
        return -1, 0.0
    p, o = map.lanes.points, map.lanes.offsets
    a, d = p[:-1], np.diff(p, axis=0)
    length = np.hypot(d[:, 0], d[:, 1])
    u = np.clip(((xy - a) * d).sum(1) / np.maximum(length**2, 1e-9), 0, 1)
    off = np.hypot(*(xy - a - u[:, None] * d).T)
    turn = np.arctan2(d[:, 1], d[:, 0]) - yaw
    off = off + 2.0 * np.abs(np.arctan2(np.sin(turn), np.cos(turn)))  # a parallel lane is preferred to a crossing one
    off[np.abs(np.arctan2(np.sin(turn), np.cos(turn))) > LANE_WITHIN_RAD] = np.inf
    off[o[1:-1] - 1] = np.inf  # joints between lanes are not segments
    i = int(np.argmin(off))
    if off[i] > LANE_WITHIN_M + 2.0 * LANE_WITHIN_RAD or not np.isfinite(off[i]):
        return -1, 0.0
    lane = int(np.searchsorted(o, i, "right")) - 1
    return lane, float(length[o[lane] : i].sum() + u[i] * length[i])


def ahead(map: RoadMap, lane: int, at: float, metres: float) -> np.ndarray:
    """(P, 3) x, y, limit of the road ahead for `metres` from arc length `at` on a lane, always into the straightest
    successor."""
    out: list[np.ndarray] = []
    left = metres
    while lane >= 0 and left > 0:
        line = map.lanes[lane]
        s = arc_length(line)
        at_end = min(s[-1], at + left)
        knots = np.concatenate([[at], s[(s > at) & (s < at_end)], [at_end]])
        part = np.stack([np.interp(knots, s, line[:, 0]), np.interp(knots, s, line[:, 1])], 1)
        out.append(np.column_stack([part, np.full(len(part), map.lane_speed[lane])]))
        left -= at_end - at
        lane, at = _straightest(map, lane), 0.0
    return np.concatenate(out) if out else np.zeros((0, 3))


def _straightest(map: RoadMap, lane: int) -> int:
    """The successor that turns least, -1 if the map ends."""
    successors = map.lane_next[lane].astype(int).ravel()
    if not len(successors):
        return -1
    heading = _heading(map.lanes[lane][-2:])
    turns = [abs(np.angle(np.exp(1j * (_heading(map.lanes[j][[0, -1]]) - heading)))) for j in successors]
    return int(successors[int(np.argmin(turns))])


def _heading(points: np.ndarray) -> float:
    return float(np.arctan2(points[-1, 1] - points[0, 1], points[-1, 0] - points[0, 0]))


def extend(route: np.ndarray, metres: float, map: RoadMap | None = None) -> np.ndarray:
    """Extend a route (R, 3) by `metres` at its end: along the map's lanes as far as they go, then straight on."""
    end = route[-1, :2]
    yaw = _heading(route[max(0, len(route) - 3) :, :2])
    more = np.zeros((0, 3))
    if map is not None:
        lane, at = lane_at(map, end, yaw)
        if lane >= 0:
            more = ahead(map, lane, at, metres)
            # A car is rarely exactly on the centre line: its offset fades out over the first 15 m of the lane.
            s = arc_length(more)
            more[:, :2] += (end - more[0, :2]) * np.clip(1 - s / 15.0, 0, 1)[:, None]
    done = float(arc_length(more)[-1]) if len(more) else 0.0
    if done < metres:
        last = more[-1] if len(more) else route[-1]
        heading = _heading(more[-2:, :2]) if len(more) > 1 else yaw
        go = np.array([np.cos(heading), np.sin(heading)]) * (metres - done)
        more = np.concatenate([more, [[last[0] + go[0], last[1] + go[1], last[2]]]])
    return resample(np.concatenate([route, more]), STEP)


def moved(xy: np.ndarray) -> list[int]:
    """Indices of the positions (T, 2) that make up a path, including the first: positions at standstill jitter."""
    steps = [0]
    for i in range(1, len(xy)):
        if np.hypot(*(xy[i] - xy[steps[-1]])) > 0.7:
            steps.append(i)
    return steps


def driven(
    xy: np.ndarray, limit: float, map: RoadMap | None = None, *, yaw: float = 0.0, on: float = 60.0
) -> np.ndarray:
    """Route (R, 3) of driven positions (T, 2): the smoothed path, extended by 10 m straight back and `on` metres ahead.

    `limit` m/s is the speed limit where the map has no lane under the path; `yaw` the heading if the path has no
    length.
    """
    steps = moved(xy)
    path = (
        smooth(resample(xy[steps], STEP)) if len(steps) > 1 else xy[:1] + np.array([[0, 0], [np.cos(yaw), np.sin(yaw)]])
    )
    back = path[0] - 10.0 * np.array([np.cos(h := _heading(path[:3])), np.sin(h)])
    path = resample(np.concatenate([back[None], path]), STEP)
    return extend(np.column_stack([path, limits(path, limit, map)]), on, map)


def limits(path: np.ndarray, limit: float, map: RoadMap | None) -> np.ndarray:
    """Speed limit (R,) along a path (R, 2): that of the lane under every fifth point, held in between; `limit` if there
    is none."""
    out = np.full(len(path), limit, np.float64)
    if map is None:
        return out
    for i in range(0, len(path), 5):
        lane, _ = lane_at(map, path[i], _heading(path[max(0, i - 1) : i + 2]))
        out[i : i + 5] = map.lane_speed[lane] if lane >= 0 else limit
    return out
