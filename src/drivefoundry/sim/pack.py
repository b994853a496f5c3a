"""Pack scenes into one set of padded arrays for the simulation kernels.

Axes: S scenes, A agents, T steps, R route points (1 m apart), C stop-line crossings, G signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit

from drivefoundry.roadmap import arc_length
from drivefoundry.types import DT, Scene

PATH_STEP = 1.0
"""Arc length between points of a resampled route, m."""
CROSSINGS = 6
"""Maximum number of stop lines per path; along a long route, one every STOPS_APART metres."""
STOPS_APART = 25
COMFORT_LATERAL = 2.0
"""Maximum lateral acceleration of a route's speed profile, m/s^2."""
COMFORT_BRAKE = 1.6
"""Deceleration of a route's speed profile before bends, m/s^2."""


@dataclass(frozen=True)
class Packed:
    """S scenes as arrays. Padding is invalid (valid False) or repeats the last point (routes)."""

    scenes: list[Scene]
    tracks: np.ndarray
    """(S, A, T, 4) x, y, yaw, speed."""
    valid: np.ndarray
    """(S, A, T) bool, False in the ego's slot."""
    size: np.ndarray
    """(S, A, 3)."""
    kind: np.ndarray
    """(S, A)."""
    ego: np.ndarray
    """(S,) ego slot."""
    start: np.ndarray
    """(S,) start step."""
    signals: np.ndarray
    """(S, G, T) uint8."""
    route: np.ndarray
    """(S, R, 3) x, y, yaw."""
    route_n: np.ndarray
    """(S,) number of valid route points."""
    route_limit: np.ndarray
    """(S, R) speed limit, m/s."""
    route_speed: np.ndarray
    """(S, R) comfortable speed: limit, bends and braking before them, m/s."""
    route_stops: np.ndarray
    """(S, C, 2) arc length and signal of the stop lines along the route; padded with inf, -1."""
    path_s: np.ndarray
    """(S, A, T) arc length driven by each agent in its log."""
    stops: np.ndarray
    """(S, A, C, 2) like route_stops, along each agent's logged path."""


def resample(points: np.ndarray, step: float = PATH_STEP) -> tuple[np.ndarray, np.ndarray]:
    """Resample a polyline (P, 2) at equal steps as (Q, 3) x, y, yaw; also returns the arc length of its points (P,)."""
    s = arc_length(points)
    keep = np.concatenate([[True], np.diff(s) > 1e-6])
    q = np.arange(0.0, max(s[-1], step) + 1e-9, step)
    xy = np.stack([np.interp(q, s[keep], points[keep, 0]), np.interp(q, s[keep], points[keep, 1])], 1)
    d = np.gradient(xy, axis=0)
    return np.concatenate([xy, np.arctan2(d[:, 1], d[:, 0])[:, None]], 1), s


def speed_profile(route: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Comfortable speed along a route (R, 3) at 1 m: the limit, bends, and braking into them; (R,) m/s."""
    yaw = np.unwrap(route[:, 2])
    bend = np.abs(np.gradient(yaw)) / PATH_STEP
    bend = np.convolve(np.pad(bend, 2, mode="edge"), np.ones(5) / 5, mode="valid")
    v = np.minimum(limit, np.sqrt(COMFORT_LATERAL / np.maximum(bend, 1e-3)))
    for i in range(len(v) - 2, -1, -1):
        v[i] = min(v[i], np.sqrt(v[i + 1] ** 2 + 2 * COMFORT_BRAKE * PATH_STEP))
    return np.maximum(v, 1.5)


@njit(cache=True, nogil=True)
def crossings(path, n, lines, heads, out):
    """Write path index and signal of stop lines that a path crosses, in the direction that they guard, to out (C, 2).

    A path that returns to a line crosses it again; one that jitters on it does not.
    """
    found = 0
    for g in range(lines.shape[0]):
        x3, y3, x4, y4 = lines[g, 0], lines[g, 1], lines[g, 2], lines[g, 3]
        crossed = False
        for i in range(n - 1):
            x1, y1, x2, y2 = path[i, 0], path[i, 1], path[i + 1, 0], path[i + 1, 1]
            if abs(x1 - x3) > 12.0 or abs(y1 - y3) > 12.0:
                crossed = False
                continue
            if crossed or (x1 == x2 and y1 == y2):
                continue
            den = (x2 - x1) * (y4 - y3) - (y2 - y1) * (x4 - x3)
            if abs(den) < 1e-9:
                continue
            u = ((x3 - x1) * (y4 - y3) - (y3 - y1) * (x4 - x3)) / den
            w = ((x3 - x1) * (y2 - y1) - (y3 - y1) * (x2 - x1)) / den
            if u < 0.0 or u >= 1.0 or w < 0.0 or w > 1.0:
                continue
            if np.cos(np.arctan2(y2 - y1, x2 - x1) - heads[g, 3]) > -0.3:
                continue
            if found < out.shape[0]:
                out[found, 0] = i + u
                out[found, 1] = g
                found += 1
            crossed = True
    for a in range(1, found):  # insertion sort along the path
        b = a
        while b > 0 and out[b - 1, 0] > out[b, 0]:
            for c in range(2):
                keep = out[b - 1, c]
                out[b - 1, c] = out[b, c]
                out[b, c] = keep
            b -= 1


@njit(cache=True, nogil=True)
def _agent_stops(tracks, valid, path_s, lines, heads, out):
    """For one scene: arc length along each agent's log, and the stop lines that its path crosses (in m along it)."""
    agents, steps = valid.shape
    crossing = np.empty((out.shape[1], 2))
    for a in range(agents):
        s = 0.0
        first, last = -1, -1
        for t in range(steps):
            if valid[a, t]:
                if first < 0:
                    first = t
                else:
                    s += np.hypot(tracks[a, t, 0] - tracks[a, last, 0], tracks[a, t, 1] - tracks[a, last, 1])
                last = t
            path_s[a, t] = s
        if s < 1.0:
            continue
        crossing[:, 0] = np.inf
        crossing[:, 1] = -1.0
        crossings(tracks[a, first : last + 1], last + 1 - first, lines, heads, crossing)
        for c in range(crossing.shape[0]):
            if crossing[c, 1] >= 0:
                i = int(crossing[c, 0])
                u = crossing[c, 0] - i
                out[a, c, 0] = path_s[a, first + i] * (1 - u) + path_s[a, first + i + 1] * u
                out[a, c, 1] = crossing[c, 1]


def pack(scenes: list[Scene]) -> Packed:
    """Pack scenes of any sizes."""
    n = len(scenes)
    a_max = max(len(s.kind) for s in scenes)
    t_max = max(s.valid.shape[1] for s in scenes)
    g_max = max(1, max(len(s.signals) for s in scenes))
    routes = [resample(np.asarray(s.route[:, :2], np.float64)) for s in scenes]
    r_max = max(len(r) for r, _ in routes)
    p = Packed(
        scenes=scenes,
        tracks=np.zeros((n, a_max, t_max, 4)),
        valid=np.zeros((n, a_max, t_max), np.bool_),
        size=np.ones((n, a_max, 3)),
        kind=np.zeros((n, a_max), np.int64),
        ego=np.array([s.ego for s in scenes]),
        start=np.array([s.start for s in scenes]),
        signals=np.zeros((n, g_max, t_max), np.uint8),
        route=np.zeros((n, r_max, 3)),
        route_n=np.array([len(r) for r, _ in routes]),
        route_limit=np.zeros((n, r_max)),
        route_speed=np.zeros((n, r_max)),
        route_stops=np.full((n, max(CROSSINGS, r_max // STOPS_APART), 2), np.inf),
        path_s=np.zeros((n, a_max, t_max)),
        stops=np.full((n, a_max, CROSSINGS, 2), np.inf),
    )
    p.route_stops[..., 1] = -1
    p.stops[..., 1] = -1
    for i, scene in enumerate(scenes):
        _pack_one(p, i, scene, *routes[i])
    return p


def _pack_one(p: Packed, i: int, scene: Scene, route: np.ndarray, along: np.ndarray) -> None:
    a, t = scene.valid.shape
    g, r = len(scene.signals), len(route)
    p.tracks[i, :a, :t] = scene.tracks
    p.valid[i, :a, :t] = scene.valid
    p.valid[i, scene.ego] = False
    p.size[i, :a] = scene.size
    p.kind[i, :a] = scene.kind
    p.route[i, :r] = route
    p.route[i, r:] = route[-1]
    p.route_limit[i] = np.interp(np.arange(p.route.shape[1]) * PATH_STEP, along, scene.route_speed)
    p.route_speed[i, :r] = speed_profile(route, p.route_limit[i, :r])
    p.route_speed[i, r:] = p.route_speed[i, r - 1]
    lines, heads = np.zeros((0, 4)), np.zeros((0, 4))
    if g:
        p.signals[i, :g, :t] = scene.signals
        p.signals[i, :g, t:] = scene.signals[:, -1:]
        lines, heads = np.asarray(scene.map.stop_lines, np.float64), np.asarray(scene.map.signal_heads, np.float64)
        room = max(CROSSINGS, r // STOPS_APART)  # for this route, not the longest one in the batch
        crossings(route, r, lines, heads, p.route_stops[i, :room])
    _agent_stops(p.tracks[i], p.valid[i], p.path_s[i], lines, heads, p.stops[i])


def logged_ego(scene: Scene, steps: int) -> np.ndarray:
    """The logged ego up to and including the start: (steps + 1, 6) x, y, yaw, speed, acceleration, yaw rate, oldest
    first. The log's first state is repeated for steps before it.
    """
    track = scene.tracks[scene.ego].astype(np.float64)
    first = int(np.argmax(scene.valid[scene.ego]))
    t = np.maximum(np.arange(scene.start - steps, scene.start + 1), first)
    before = np.maximum(t - 1, first)
    span = np.maximum(t - before, 1) * DT
    turn = track[t, 2] - track[before, 2]
    out = np.zeros((steps + 1, 6))
    out[:, :4] = track[t]
    out[:, 4] = (track[t, 3] - track[before, 3]) / span
    out[:, 5] = np.arctan2(np.sin(turn), np.cos(turn)) / span
    return out
