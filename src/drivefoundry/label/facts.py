"""Facts at steps of a scene: what the front camera could see at each step, and nothing that happens later.

Axes: D decisions, A agents, M visible (decision, agent) pairs, R route points, G signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivefoundry.roadmap import arc_length
from drivefoundry.types import (
    AGENT_PEDESTRIAN,
    COMMAND_LEFT,
    COMMAND_RIGHT,
    COMMAND_STRAIGHT,
    SIGNAL_OFF,
    Scene,
)

SEES_M = 60.0
"""Range of facts, m: beyond it, a car is two pixels wide in the embedded camera."""
PATH_HALF = 1.7
"""Half width of the path that the ego will sweep along its route, m."""
NEAR_PATH = 4.5
"""A pedestrian within this distance of the route who will be on the path within 3 s counts as near it, m."""
TURN, CURVE = 0.6, 0.2
"""Minimum heading change over the next 40 m of route for a turn and for a curve, rad."""


@dataclass(frozen=True)
class FieldOfView:
    """Bounds of the view: mount x, z m (ahead of the box centre, above ground), half the horizontal field of view, rad,
    and elevation of the picture's upper edge, rad."""

    x: float = 1.0
    z: float = 1.5
    half_view: float = 0.698
    upper: float = 0.286

    @staticmethod
    def of(width: int, intrinsics: tuple[float, ...], mount: tuple[float, ...]) -> FieldOfView:
        """Field of view of a logged Video: width px, intrinsics fx, fy, cx, cy and mount x, y, z, pitch."""
        fx, fy, _, cy = intrinsics
        return FieldOfView(mount[0], mount[2], float(np.arctan(width / 2 / fx)), float(np.arctan(cy / fy)) - mount[3])


@dataclass(frozen=True)
class Facts:
    """One entry per decision, all (D,). Distances are along the route, m; inf if there is no such thing in view.

    speed, limit m/s; lead_gap bumper to bumper, lead_closing m/s (positive: approaching); person_gap, person_on (on the
    path itself, not only near it); light SIGNAL_* (0: none in view), light_gap to its stop line; crossing_gap: to a
    vehicle about to cross the path; turn COMMAND_*, turn_gap to its start; curve: heading change over the next 40 m,
    rad (positive left).
    """

    speed: np.ndarray
    limit: np.ndarray
    lead_gap: np.ndarray
    lead_closing: np.ndarray
    person_gap: np.ndarray
    person_on: np.ndarray
    light: np.ndarray
    light_gap: np.ndarray
    crossing_gap: np.ndarray
    turn: np.ndarray
    turn_gap: np.ndarray
    curve: np.ndarray


def facts_at(scene: Scene, steps: np.ndarray, camera: FieldOfView = FieldOfView()) -> Facts:
    """Facts of a scene at steps (D,). Reads tracks and signals of exactly those steps."""
    steps = np.asarray(steps, int)
    pose = scene.tracks[scene.ego, steps].astype(np.float64)
    route, s = np.asarray(scene.route, np.float64), arc_length(np.asarray(scene.route, np.float64))
    at, _, _ = project(route, s, pose[:, :2])
    seen = visible(scene, steps, camera)
    d, a = np.nonzero(seen)
    other = scene.tracks[a, steps[d]].astype(np.float64)
    agent_s, lateral, tangent = project(route, s, other[:, :2])
    gap = agent_s - at[d] - (scene.size[a, 0] + scene.size[scene.ego, 0]) / 2
    turned = _wrap(other[:, 2] - tangent)
    before = (agent_s - at[d] > 1.0) & (agent_s < s[-1] - 0.5)
    person = scene.kind[a] == AGENT_PEDESTRIAN
    half = scene.size[a, 1] / 2
    on_path = np.abs(lateral) < PATH_HALF - 0.7 + half
    # Speed towards the path: positive if the lateral offset shrinks.
    toward = -np.sign(lateral) * other[:, 3] * np.sin(turned)

    lead = before & ~person & on_path & (np.abs(turned) < 0.8)
    arrives = (np.abs(lateral) - PATH_HALF) / np.maximum(toward, 0.1)
    walker = before & person & (on_path | (np.abs(lateral) < NEAR_PATH) & (toward > 0.3) & (arrives < 3.0))
    across = (np.abs(np.sin(turned)) > 0.6) & (on_path & (other[:, 3] > 0.5) | (toward > 1.0) & (arrives < 3.0))
    crossing = before & ~person & across

    n = len(steps)
    lead_gap, lead_pair = _nearest(n, d, np.maximum(gap, 0.0), lead)
    closing = np.zeros(n)
    has = lead_pair >= 0
    closing[has] = pose[has, 3] - (other[:, 3] * np.cos(turned))[lead_pair[has]]
    person_gap, person_pair = _nearest(n, d, np.maximum(gap, 0.0), walker)
    crossing_gap, _ = _nearest(n, d, np.maximum(gap, 0.0), crossing)
    light, light_gap = _lights(scene, steps, pose, route, s, at, camera)
    turn, turn_gap, curve = _turns(route, s, at)
    return Facts(
        speed=pose[:, 3],
        limit=np.interp(at, s, scene.route_speed),
        lead_gap=lead_gap,
        lead_closing=closing,
        person_gap=person_gap,
        person_on=np.array([p >= 0 and bool(on_path[p]) for p in person_pair], bool),
        light=light,
        light_gap=light_gap,
        crossing_gap=crossing_gap,
        turn=turn,
        turn_gap=turn_gap,
        curve=curve,
    )


def project(route: np.ndarray, s: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Project positions (M, 2) onto a route (R, 2) with arc lengths s: arc length, signed offset (left positive),
    tangent yaw (M,)."""
    seg = np.diff(route, axis=0)
    length = np.maximum(np.hypot(seg[:, 0], seg[:, 1]), 1e-9)
    unit = seg / length[:, None]
    rel = xy[:, None] - route[None, :-1]
    u = np.clip(rel[..., 0] * unit[:, 0] + rel[..., 1] * unit[:, 1], 0, length)
    off2 = (rel[..., 0] - u * unit[:, 0]) ** 2 + (rel[..., 1] - u * unit[:, 1]) ** 2
    i = off2.argmin(1)
    m = np.arange(len(xy))
    side = unit[i, 0] * rel[m, i, 1] - unit[i, 1] * rel[m, i, 0]
    return s[i] + u[m, i], np.copysign(np.sqrt(off2[m, i]), side), np.arctan2(unit[i, 1], unit[i, 0])


def visible(scene: Scene, steps: np.ndarray, camera: FieldOfView = FieldOfView()) -> np.ndarray:
    """(D, A) bool: agents within SEES_M and the camera's view that are not hidden by a nearer one at least as tall.

    Occlusion is angular: an agent is hidden when one nearer agent or building covers its whole bearing interval and
    reaches at least as high in the picture.
    """
    pose = scene.tracks[scene.ego, steps].astype(np.float64)
    boxes = scene.tracks[:, steps, :3].transpose(1, 0, 2).astype(np.float64)
    near = scene.valid[:, steps].T & (np.hypot(*(boxes[..., :2] - pose[:, None, :2]).transpose(2, 0, 1)) < SEES_M + 5)
    near[:, scene.ego] = False
    out = np.zeros(near.shape, bool)
    b = scene.map.buildings
    for i in range(len(steps)):
        a = np.flatnonzero(near[i])
        if not len(a):
            continue
        close = b[np.hypot(b[:, 0] - pose[i, 0], b[:, 1] - pose[i, 1]) < SEES_M + 20] if len(b) else b
        box = np.concatenate([np.column_stack([boxes[i, a], scene.size[a]]), close.reshape(-1, 6)])
        low, high, depth, top = _bearings(box, pose[i], camera)
        n = len(a)
        in_view = (depth[:n] < SEES_M) & (high[:n] > -camera.half_view) & (low[:n] < camera.half_view)
        hides = (low <= low[:n, None]) & (high >= high[:n, None]) & (depth < depth[:n, None]) & (top >= top[:n, None])
        hides[np.arange(n), np.arange(n)] = False
        out[i, a] = in_view & ~hides.any(1)
    return out


def _bearings(box: np.ndarray, pose: np.ndarray, camera: FieldOfView) -> tuple[np.ndarray, ...]:
    """Bearing interval, distance and elevation of the top, from the camera, of boxes (B, 6) x, y, yaw, length, width,
    height.

    Boxes behind the camera get the empty interval (9, 9).
    """
    c, s = np.cos(pose[2]), np.sin(pose[2])
    dx, dy = box[:, 0] - pose[0], box[:, 1] - pose[1]
    cx, cy = c * dx + s * dy - camera.x, -s * dx + c * dy
    yaw = box[:, 2] - pose[2]
    ux, uy = np.cos(yaw) * box[:, 3] / 2, np.sin(yaw) * box[:, 3] / 2
    vx, vy = -np.sin(yaw) * box[:, 4] / 2, np.cos(yaw) * box[:, 4] / 2
    x = cx[:, None] + np.stack([ux + vx, ux - vx, -ux + vx, -ux - vx], 1)
    y = cy[:, None] + np.stack([uy + vy, uy - vy, -uy + vy, -uy - vy], 1)
    behind = x.max(1) < 0.3
    bearing = np.arctan2(y, np.maximum(x, 0.05))
    depth = np.maximum(np.hypot(cx, cy), 0.1)
    low, high = np.where(behind, 9.0, bearing.min(1)), np.where(behind, 9.0, bearing.max(1))
    return low, high, depth, (box[:, 5] - camera.z) / depth


def _lights(
    scene: Scene,
    steps: np.ndarray,
    pose: np.ndarray,
    route: np.ndarray,
    s: np.ndarray,
    at: np.ndarray,
    camera: FieldOfView,
) -> tuple[np.ndarray, np.ndarray]:
    """State of the next light along the route whose lamp is in the picture, and distance to its stop line."""
    light, gap = np.full(len(steps), SIGNAL_OFF, np.uint8), np.full(len(steps), np.inf)
    line_s = stop_lines_along(scene.map.stop_lines, route, s)
    for g in np.flatnonzero(np.isfinite(line_s))[::-1] if len(scene.signals) else ():
        x, y, z, _ = scene.map.signal_heads[g]
        dx, dy = x - pose[:, 0], y - pose[:, 1]
        fx = np.cos(pose[:, 2]) * dx + np.sin(pose[:, 2]) * dy - camera.x
        fy = -np.sin(pose[:, 2]) * dx + np.cos(pose[:, 2]) * dy
        sees = (fx > 1) & (np.abs(np.arctan2(fy, fx)) < camera.half_view)
        sees &= np.arctan2(z - camera.z, np.maximum(fx, 0.1)) < camera.upper
        ahead = line_s[g] - at - scene.size[scene.ego, 0] / 2
        state = scene.signals[g, steps]
        take = sees & (ahead > -2.0) & (ahead < SEES_M) & (ahead < gap) & (state != SIGNAL_OFF)
        light[take], gap[take] = state[take], np.maximum(ahead[take], 0.0)
    return light, gap


def stop_lines_along(lines: np.ndarray, route: np.ndarray, s: np.ndarray) -> np.ndarray:
    """(G,) arc length at which a route (R, 2) with arc lengths s first crosses each stop line (G, 4), inf if never."""
    out = np.full(len(lines), np.inf)
    if not len(lines):
        return out
    p, d = route[:-1], np.diff(route, axis=0)
    q, e = lines[:, None, :2], lines[:, None, 2:] - lines[:, None, :2]
    cross = d[:, 0] * e[..., 1] - d[:, 1] * e[..., 0]
    rel = q - p
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (rel[..., 0] * e[..., 1] - rel[..., 1] * e[..., 0]) / cross
        v = (rel[..., 0] * d[:, 1] - rel[..., 1] * d[:, 0]) / cross
    hit = (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    where = s[:-1] + np.where(hit, u, 0) * np.hypot(d[:, 0], d[:, 1])
    return np.where(hit, where, np.inf).min(1)


def _turns(route: np.ndarray, s: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The next turn along the route: its command and the distance to its start; heading change over the next 40 m."""
    ahead = np.arange(0.0, SEES_M + 8.0, 4.0)
    where = np.minimum(at[:, None] + ahead, s[-1])
    x, y = np.interp(where, s, route[:, 0]), np.interp(where, s, route[:, 1])
    heading = np.unwrap(np.arctan2(np.diff(y, axis=1), np.diff(x, axis=1)), axis=1)
    # Beyond its end, the route continues straight.
    known = np.hypot(np.diff(y, axis=1), np.diff(x, axis=1)) > 0.5
    last = np.maximum.accumulate(np.where(known, np.arange(heading.shape[1]), 0), axis=1)
    heading = np.take_along_axis(heading, last, 1)
    change = heading - heading[:, :1]
    curve = change[:, 10]
    big = np.abs(change) > TURN
    first = big.argmax(1)
    rows = np.arange(len(at))
    side = np.sign(change[rows, first])
    turn = np.where(~big.any(1), COMMAND_STRAIGHT, np.where(side > 0, COMMAND_LEFT, COMMAND_RIGHT))
    begun = (change * side[:, None] > CURVE).argmax(1)
    return turn, np.where(big.any(1), ahead[begun], np.inf), curve


def _nearest(n: int, d: np.ndarray, gap: np.ndarray, take: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest gap of each of n decisions among the pairs in `take`, and the index of that pair (-1 if none)."""
    best, pair = np.full(n, np.inf), np.full(n, -1)
    for m in np.flatnonzero(take):
        if gap[m] < best[d[m]]:
            best[d[m]], pair[d[m]] = gap[m], m
    return best, pair


def _wrap(angle: np.ndarray) -> np.ndarray:
    return np.arctan2(np.sin(angle), np.cos(angle))
