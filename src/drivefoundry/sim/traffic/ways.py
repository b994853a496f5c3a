"""Default path of each agent of a scene, which it would follow on its own, with the adjacent lanes.

A vehicle's way is the path of its log and, beyond that, the lanes that it leads into, straight on. Axes: S scenes, A
agents, P way points 1 m apart, C stop lines.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from drivefoundry.roadmap import arc_length
from drivefoundry.route import ahead as lanes_ahead
from drivefoundry.route import moved, resample, smooth
from drivefoundry.sim.pack import CROSSINGS, Packed, crossings, speed_profile
from drivefoundry.types import AGENT_CYCLIST, AGENT_PEDESTRIAN, RoadMap, Scene
from drivefoundry_car.vehicle.inputs import along

ONWARD = 300.0
"""Length of the way prepared beyond the start, m."""
NEAR_LANE, SAME_WAY = 2.5, 0.7
"""Maximum distance from a lane, m, and deviation from its heading, rad, of a point on it."""
CELL = 16.0
"""Edge of the grid cells that index lane segments, m."""
GONE, WAITING, DRIVING, PARKED, WALKING = range(5)
"""Roles of an agent; WAITING: its place is not free, or its time has not come."""


class Ways(NamedTuple):
    """Where each agent of S scenes will go.

    way (S, A, P, 4) x, y, cosine and sine of the heading; n (S, A) number of valid points; wish (S, A, P) comfortable
    speed, m/s; left, right (S, A, P) int8 number of lanes in the same direction beside the way; spacing (S, A) between
    them, m; stops (S, A, C, 2) arc length and signal of the stop lines; role (S, A): WAITING (will drive), PARKED,
    WALKING or GONE; enter (S, A) first log step; offset (S, A) of the agent's start to the left of its way, m.
    """

    way: np.ndarray
    n: np.ndarray
    wish: np.ndarray
    left: np.ndarray
    right: np.ndarray
    spacing: np.ndarray
    stops: np.ndarray
    role: np.ndarray
    enter: np.ndarray
    offset: np.ndarray


class _Lanes:
    """Lane segments of a map in a spatial index, which finds the lane under a point from nearby segments only."""

    def __init__(self, road_map: RoadMap):
        self.map = road_map
        p, o = road_map.lanes.points[:, :2], road_map.lanes.offsets
        start = np.setdiff1d(np.arange(len(p) - 1), o[1:-1] - 1) if len(p) else np.zeros(0, np.int64)
        a, b = p[start], p[start + 1]
        self.seg = np.column_stack([a, b - a, np.searchsorted(o, start, "right") - 1]) if len(a) else np.zeros((0, 5))
        self.origin = p.min(0) - CELL if len(p) else np.zeros(2)
        size = np.ceil((p.max(0) - self.origin) / CELL).astype(int) + 2 if len(p) else np.ones(2, int)
        self.shape = (int(size[1]), int(size[0]))
        self.first, self.item = _file(self.seg, self.origin, self.shape)
        self.to_left, self.to_right = (self._beside(n) for n in (road_map.lane_left, road_map.lane_right))

    @staticmethod
    def _beside(neighbour: np.ndarray) -> np.ndarray:
        """Number of lanes beyond each lane on one side."""
        out = np.zeros(len(neighbour), np.int8)
        for lane in range(len(neighbour)):
            at, seen = int(neighbour[lane]), {lane}
            while at >= 0 and at not in seen:
                seen.add(at)
                at = int(neighbour[at])
            out[lane] = len(seen) - 1
        return out

    def under(self, way: np.ndarray) -> np.ndarray:
        """Lane (P,) under each of poses (P, 3), -1 if there is none."""
        out = np.full(len(way), -1, np.int64)
        _under(way, self.seg, self.origin, self.shape, self.first, self.item, out)
        return out


@njit(cache=True)
def _file(seg, origin, shape):
    """Index segments (n, 5) by the cells that they touch (with a margin), as ranges first (cells + 1,) of item."""
    rows, cols = shape
    first = np.zeros(rows * cols + 1, np.int64)
    item = np.zeros(0, np.int64)
    for go in range(2):
        fill = first[:-1].copy()
        for i in range(len(seg)):
            x0, x1 = min(seg[i, 0], seg[i, 0] + seg[i, 2]), max(seg[i, 0], seg[i, 0] + seg[i, 2])
            y0, y1 = min(seg[i, 1], seg[i, 1] + seg[i, 3]), max(seg[i, 1], seg[i, 1] + seg[i, 3])
            for r in range(
                max(0, int((y0 - NEAR_LANE - origin[1]) / CELL)),
                min(rows, int((y1 + NEAR_LANE - origin[1]) / CELL) + 1),
            ):
                for c in range(
                    max(0, int((x0 - NEAR_LANE - origin[0]) / CELL)),
                    min(cols, int((x1 + NEAR_LANE - origin[0]) / CELL) + 1),
                ):
                    if go == 0:
                        first[r * cols + c + 1] += 1
                    else:
                        item[fill[r * cols + c]] = i
                        fill[r * cols + c] += 1
        if go == 0:
            first = np.cumsum(first)
            item = np.zeros(first[-1], np.int64)
    return first, item


@njit(cache=True)
def _under(way, seg, origin, shape, first, item, out):
    for k in range(len(way)):
        c, r = int((way[k, 0] - origin[0]) / CELL), int((way[k, 1] - origin[1]) / CELL)
        if c < 0 or r < 0 or c >= shape[1] or r >= shape[0]:
            continue
        best = NEAR_LANE
        for q in range(first[r * shape[1] + c], first[r * shape[1] + c + 1]):
            s = seg[item[q]]
            turn = abs(np.arctan2(s[3], s[2]) - way[k, 2])
            turn = min(turn, abs(turn - 2 * np.pi), abs(turn - 4 * np.pi))
            if turn > SAME_WAY:
                continue
            dx, dy = way[k, 0] - s[0], way[k, 1] - s[1]
            u = min(1.0, max(0.0, (dx * s[2] + dy * s[3]) / max(s[2] * s[2] + s[3] * s[3], 1e-9)))
            d = np.hypot(dx - u * s[2], dy - u * s[3]) + turn
            if d < best:
                best, out[k] = d, int(s[4])


def _poses(line: np.ndarray) -> np.ndarray:
    """Poses (Q, 3) 1 m apart along a line (P, 2)."""
    s = arc_length(line)
    q = np.arange(0.0, s[-1] + 1e-9, 1.0)
    xy = np.stack([np.interp(q, s, line[:, 0]), np.interp(q, s, line[:, 1])], 1)
    d = np.gradient(xy, axis=0) if len(xy) > 1 else np.zeros_like(xy)
    return np.column_stack([xy, np.unwrap(np.arctan2(d[:, 1], d[:, 0]))])


def _way(scene: Scene, lanes: _Lanes, a: int, first: int) -> np.ndarray | None:
    """The way of one vehicle from log step `first` on: its path, then the lanes; None if it is parked."""
    track = scene.tracks[a, first:][scene.valid[a, first:]].astype(np.float64)
    xy = track[:, :2]
    steps = moved(xy)
    line, heading = xy[steps], float(track[steps[-1], 2])
    if len(steps) == 1 and lanes.under(track[:1, :3])[0] < 0:
        return None
    if len(line) > 2:
        line = smooth(resample(line, 1.0), 2.0, 1.0)
    left = ONWARD - (arc_length(line)[-1] if len(line) > 1 else 0.0)
    end = np.array([[*line[-1], heading]])
    lane = int(lanes.under(end)[0])
    if left > 1.0 and lane >= 0:
        at = along(lanes.map.lanes[lane], end[0])[1]
        more = lanes_ahead(lanes.map, lane, at, left)[:, :2]
        keep = np.concatenate([[True], np.hypot(*np.diff(more, axis=0).T) > 1e-6])
        more = more[keep]
        if len(more) > 1 and arc_length(more)[-1] > 2.0:
            fade = np.clip(1 - arc_length(more) / 15.0, 0, 1)[:, None]  # now off the centre line, on it 15 m later
            more = more + (line[-1] - more[0]) * fade
            line = np.concatenate([line, more[1:]])
    if len(line) < 2 or arc_length(line)[-1] < 2.0:
        return None
    return _poses(line)


def ways(packed: Packed) -> Ways:
    """The ways of all agents of these scenes; see Ways."""
    n, a = packed.kind.shape
    roads: dict[str, _Lanes] = {}
    found: dict[tuple[int, int], np.ndarray] = {}
    role, enter = np.full((n, a), GONE, np.int8), np.zeros((n, a), np.int64)
    for i, scene in enumerate(packed.scenes):
        if scene.map.id not in roads:
            roads[scene.map.id] = _Lanes(scene.map)
        lanes = roads[scene.map.id]
        for k in range(len(scene.kind)):
            there = np.flatnonzero(scene.valid[k, scene.start :])
            if k == scene.ego or not len(there):
                continue
            enter[i, k] = scene.start + there[0]
            if scene.kind[k] == AGENT_PEDESTRIAN:
                role[i, k] = WALKING
            elif (way := _way(scene, lanes, k, int(enter[i, k]))) is None:
                role[i, k] = PARKED
            else:
                role[i, k], found[i, k] = WAITING, way
    longest = max((len(w) for w in found.values()), default=2)
    out = Ways(
        way=np.zeros((n, a, longest, 4)), n=np.zeros((n, a), np.int64), wish=np.zeros((n, a, longest)),
        left=np.zeros((n, a, longest), np.int8), right=np.zeros((n, a, longest), np.int8), spacing=np.full((n, a), 3.5),
        stops=np.full((n, a, CROSSINGS, 2), np.inf), role=role, enter=enter, offset=np.zeros((n, a)),
    )  # fmt: skip
    out.stops[..., 1] = -1
    for (i, k), way in found.items():
        _fill(out, packed.scenes[i], roads[packed.scenes[i].map.id], i, k, way)
    return out


def _fill(out: Ways, scene: Scene, lanes: _Lanes, i: int, k: int, way: np.ndarray) -> None:
    m = len(way)
    out.n[i, k] = m
    out.way[i, k, :m] = np.column_stack([way[:, :2], np.cos(way[:, 2]), np.sin(way[:, 2])])
    lane = lanes.under(way)
    on = lane >= 0
    track = scene.tracks[k, out.enter[i, k] :][scene.valid[k, out.enter[i, k] :]]
    top = float(track[:, 3].max())
    limit = np.full(m, max(top, 5.0))
    if on.any():
        under = lane[on]
        limit[on] = lanes.map.lane_speed[under] * np.clip(top / lanes.map.lane_speed[under].max(), 0.8, 1.15)
        limit = np.where(on, limit, np.interp(np.arange(m), np.flatnonzero(on), limit[on]))
        out.spacing[i, k] = float(lanes.map.lane_width[under].mean())
        inside = on & lanes.map.lane_junction[np.maximum(lane, 0)]
        for side, room in ((lanes.to_left, out.left), (lanes.to_right, out.right)):
            room[i, k, :m] = _carried(np.where(on, side[np.maximum(lane, 0)], 0), inside, way[:, 2])
    if scene.kind[k] == AGENT_CYCLIST:
        limit = np.minimum(limit, max(top, 3.0))
    out.wish[i, k, :m] = speed_profile(way, limit)
    pose = track[0, :3].astype(np.float64)
    out.offset[i, k] = -np.sin(way[0, 2]) * (pose[0] - way[0, 0]) + np.cos(way[0, 2]) * (pose[1] - way[0, 1])
    if len(scene.signals):
        lines, heads = np.asarray(scene.map.stop_lines, np.float64), np.asarray(scene.map.signal_heads, np.float64)
        crossings(way, m, lines, heads, out.stops[i, k])


def _carried(room: np.ndarray, inside: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Number of lanes beside a way (P,); in a junction crossed straight on, taken from before and after it."""
    out = room.copy()
    edge = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
    for first, end in zip(edge[::2], edge[1::2], strict=True):
        before, after = out[max(first - 1, 0)], room[min(end, len(room) - 1)]
        straight = abs(yaw[end - 1] - yaw[first]) < 0.3
        out[first:end] = min(before, after) if straight and first > 0 and end < len(room) else 0
    return out
