"""Scenes in, traffic that drives by itself out: every agent keeps its own way, its distance, the lights, and its clock.

Vehicles follow the path of their log and, beyond it, the lanes; they keep their distance by the intelligent driver model
(IDM; Treiber, Hennecke and Helbing 2000) and change lanes by MOBIL (Kesting, Treiber and Helbing 2007); they stop at
red and give way to whom they would reach later than they are reached. People walk as logged and wait while a vehicle
stands in their way. Axes: S scenes, A agents, P way points 1 m apart, C stop lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from drivefoundry.roadmap import arc_length
from drivefoundry.route import ahead as lanes_ahead
from drivefoundry.route import resample, smooth
from drivefoundry.sim.pack import CROSSINGS, Packed, crossings, speed_profile
from drivefoundry.types import (
    AGENT_CYCLIST,
    AGENT_PEDESTRIAN,
    DT,
    SIGNAL_RED,
    SIGNAL_YELLOW,
    RoadMap,
    Scene,
)

SIGHT = 60.0
"""How far ahead a driver looks, m."""
ONWARD = 300.0
"""Way kept ready beyond the start, m."""
BRAKE_MAX = 7.0
POLITE, GAIN, SAFE = 0.3, 0.3, 3.0
"""MOBIL: weight of the others' loss, least gain and hardest braking forced on the follower, m/s^2."""
SIDEWAYS = 1.0
"""Speed across the lane while changing it, m/s."""
PATIENCE = 40
"""Steps between two lane changes of a vehicle."""
NEAR_LANE, SAME_WAY = 2.5, 0.7
"""A point counts as on a lane that is so near, m, and turned so little from its heading, rad."""
CELL = 16.0
"""Edge of the cells that lane segments are filed under, m."""
GONE, WAITING, DRIVING, PARKED, WALKING = range(5)


@njit(cache=True, nogil=True)
def idm(v, v0, gap, v_lead, accel=2.0, brake=3.0, headway=1.3, standstill=2.5):
    """Intelligent driver model: acceleration, m/s^2, for speed v, wish v0, gap m to a lead at v_lead."""
    free = 1.0 - (v / max(v0, 0.1)) ** 4
    want = standstill + max(0.0, v * headway + v * (v - v_lead) / (2.0 * np.sqrt(accel * brake)))
    return accel * (free - (want / max(gap, 0.3)) ** 2)


@dataclass(frozen=True)
class Ways:
    """Where each agent of S scenes will go.

    way (S, A, P, 3) x, y, yaw; n (S, A) points in use; wish (S, A, P) comfortable speed, m/s; left, right (S, A, P) int8
    lanes in the same direction beside the way; spacing (S, A) m between them; stops (S, A, C, 2) arc length and signal
    of the stop lines; role (S, A): WAITING (will drive), PARKED, WALKING or GONE; enter (S, A) first log step; offset
    (S, A) m by which the agent starts to the left of its way.
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
    """Lane segments of a map, filed by place: finds the lane under a point by looking at its neighbours alone."""

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
        """How many lanes lie beyond each lane on one side."""
        out = np.zeros(len(neighbour), np.int8)
        for lane in range(len(neighbour)):
            at, seen = int(neighbour[lane]), {lane}
            while at >= 0 and at not in seen:
                seen.add(at)
                at = int(neighbour[at])
            out[lane] = len(seen) - 1
        return out

    def under(self, way: np.ndarray) -> np.ndarray:
        """Poses (P, 3) in, the lane under each (P,), -1 where there is none, out."""
        out = np.full(len(way), -1, np.int64)
        _under(way, self.seg, self.origin, self.shape, self.first, self.item, out)
        return out


@njit(cache=True)
def _file(seg, origin, shape):
    """Segments (n, 5) in; which of them touch each cell (with a margin), as ranges first (cells + 1,) of item."""
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
    """Line (P, 2) in, poses (Q, 3) 1 m apart out."""
    s = arc_length(line)
    q = np.arange(0.0, s[-1] + 1e-9, 1.0)
    xy = np.stack([np.interp(q, s, line[:, 0]), np.interp(q, s, line[:, 1])], 1)
    d = np.gradient(xy, axis=0) if len(xy) > 1 else np.zeros_like(xy)
    return np.column_stack([xy, np.unwrap(np.arctan2(d[:, 1], d[:, 0]))])


def _way(scene: Scene, lanes: _Lanes, a: int, first: int) -> np.ndarray | None:
    """The way of one vehicle from log step `first` on: its path, then the lanes; None where it is parked."""
    track = scene.tracks[a, first:][scene.valid[a, first:]].astype(np.float64)
    xy = track[:, :2]
    moved = [0]
    for i in range(1, len(xy)):  # standing still jitters: only real steps make a path
        if np.hypot(*(xy[i] - xy[moved[-1]])) > 0.7:
            moved.append(i)
    line = xy[moved]
    heading = float(track[moved[-1], 2])
    if len(moved) == 1 and lanes.under(track[:1, :3])[0] < 0:
        return None
    if len(line) > 2:
        line = smooth(resample(line, 1.0), 2.0, 1.0)
    left = ONWARD - (arc_length(line)[-1] if len(line) > 1 else 0.0)
    end = np.array([[*line[-1], heading]])
    lane = int(lanes.under(end)[0])
    if left > 1.0 and lane >= 0:
        centre = lanes.map.lanes[lane]
        s = arc_length(centre)
        at = s[int(np.argmin(np.hypot(*(centre - end[0, :2]).T)))]
        along = (
            np.interp(np.arange(0.0, s[-1], 0.5), s, centre[:, 0]),
            np.interp(np.arange(0.0, s[-1], 0.5), s, centre[:, 1]),
        )
        at = 0.5 * int(np.argmin(np.hypot(along[0] - end[0, 0], along[1] - end[0, 1]))) if len(along[0]) else at
        more = lanes_ahead(lanes.map, lane, at, left)[:, :2]
        keep = np.concatenate([[True], np.hypot(*np.diff(more, axis=0).T) > 1e-6])
        more = more[keep]
        if len(more) > 1 and arc_length(more)[-1] > 2.0:
            fade = np.clip(1 - arc_length(more) / 15.0, 0, 1)[:, None]  # off the centre line now, on it 15 m later
            more = more + (line[-1] - more[0]) * fade
            line = np.concatenate([line, more[1:]])
    if len(line) < 2 or arc_length(line)[-1] < 2.0:
        return None
    return _poses(line)


def ways(packed: Packed) -> Ways:
    """Where the agents of these scenes will go; see Ways."""
    n, a = packed.kind.shape
    roads: dict[str, _Lanes] = {}
    found: dict[tuple[int, int], np.ndarray] = {}
    role, enter = np.full((n, a), GONE, np.int8), np.zeros((n, a), np.int64)
    for i, scene in enumerate(packed.scenes):
        lanes = roads.setdefault(scene.map.id, _Lanes(scene.map))
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
        way=np.zeros((n, a, longest, 3)), n=np.zeros((n, a), np.int64), wish=np.zeros((n, a, longest)),
        left=np.zeros((n, a, longest), np.int8), right=np.zeros((n, a, longest), np.int8), spacing=np.full((n, a), 3.5),
        stops=np.full((n, a, CROSSINGS, 2), np.inf), role=role, enter=enter, offset=np.zeros((n, a)),
    )  # fmt: skip
    out.stops[..., 1] = -1
    for (i, k), way in found.items():
        _fill(out, packed.scenes[i], roads[packed.scenes[i].map.id], i, k, way)
    return out


def _fill(out: Ways, scene: Scene, lanes: _Lanes, i: int, k: int, way: np.ndarray) -> None:
    m = len(way)
    out.n[i, k], out.way[i, k, :m] = m, way
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
    """Lanes beside a way (P,), with those of a junction that is crossed straight on taken from before and behind it."""
    out = room.copy()
    edge = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
    for first, end in zip(edge[::2], edge[1::2], strict=True):
        before, after = out[max(first - 1, 0)], room[min(end, len(room) - 1)]
        straight = abs(yaw[end - 1] - yaw[first]) < 0.3
        out[first:end] = min(before, after) if straight and first > 0 and end < len(room) else 0
    return out


X, Y, C, S, L, W, V = range(7)
"""Columns of a box: centre, cosine and sine of its yaw, half length, half width, speed."""


@njit(cache=True, nogil=True)
def _foot(way, n, x, y, guess):
    """Index of the way point nearest to (x, y), found downhill from a guess."""
    i = min(n - 1, max(0, guess))
    d = (way[i, 0] - x) ** 2 + (way[i, 1] - y) ** 2
    for step in (4, 1):
        for side in (step, -step):
            while 0 <= i + side < n:
                e = (way[i + side, 0] - x) ** 2 + (way[i + side, 1] - y) ** 2
                if e >= d:
                    break
                i, d = i + side, e
    return i


@njit(cache=True, nogil=True)
def _lead(a, s, offset, half_l, half_w, v, way, n, box, there, people, back, out):
    """What drives, stands or walks on agent a's way at this offset: fills out with gap m and speed along the way of the
    nearest ahead, and with gap and speed of the nearest behind (up to `back` m)."""
    out[0], out[1], out[2], out[3] = np.inf, 0.0, np.inf, 0.0
    i0 = int(s)
    p = way[i0]
    c, sn = np.cos(p[2]), np.sin(p[2])
    sight = min(SIGHT, 12.0 + 3.5 * v)
    for b in range(box.shape[0]):
        if b == a or not there[b] or (not people and box[b, L] < 0.5):
            continue
        o = box[b]
        dx, dy = o[X] - p[0], o[Y] - p[1]
        ahead = c * dx + sn * dy
        if ahead < -back or dx * dx + dy * dy > (sight + o[L]) ** 2:
            continue
        moves = o[V] > 1.0
        for look in range(2):
            wait = 0.0 if look == 0 else 1.5
            if look == 1 and not moves:
                break
            x, y = o[X] + o[V] * wait * o[C], o[Y] + o[V] * wait * o[S]
            j = _foot(way, n, x, y, i0 + int(c * (x - p[0]) + sn * (y - p[1])))
            q = way[j]
            qc, qs = np.cos(q[2]), np.sin(q[2])
            cos, sin = abs(qc * o[C] + qs * o[S]), abs(qc * o[S] - qs * o[C])
            along = j + qc * (x - q[0]) + qs * (y - q[1])
            lat = -qs * (x - q[0]) + qc * (y - q[1])
            if abs(lat - offset) > half_w + o[L] * sin + o[W] * cos + 0.25:
                continue
            if abs(along - j) > 2.0 and (j == 0 or j == n - 1):
                continue
            ends = o[L] * cos + o[W] * sin
            speed = o[V] * (qc * o[C] + qs * o[S])
            if along >= s:
                gap = along - s - half_l - ends
                if look == 1:
                    # It will cross, but is not there yet: who would be there first goes first.
                    if sin < 0.4 or gap < 0.0 or gap / max(v, 1.0) < wait:
                        continue
                    speed = 0.0
                if gap < out[0]:
                    out[0], out[1] = gap, max(0.0, speed)
            elif look == 0 and s - along - half_l - ends < out[2]:
                out[2], out[3] = s - along - half_l - ends, max(0.0, speed)


@njit(cache=True, nogil=True)
def _light(s, v, half_l, stops, signals, t):
    """Gap to the next stop line that must not be crossed now, m."""
    for c in range(stops.shape[0]):
        if stops[c, 1] < 0:
            break
        d = stops[c, 0] - s - half_l
        if d < -1.0:
            continue
        state = signals[int(stops[c, 1]), t]
        if state == SIGNAL_RED or (state == SIGNAL_YELLOW and d > v * v / 6.0):
            return max(d, 0.1)
    return np.inf


@njit(cache=True, nogil=True)
def _room_ends(s, lane, left, right, n):
    """Distance along the way to where the lane that is `lane` to the left of it ends, m (inf within sight if not)."""
    if lane == 0:
        return np.inf
    for j in range(int(s), min(n, int(s) + 60)):
        if (lane > 0 and left[j] < lane) or (lane < 0 and right[j] < -lane):
            return j - s
    return np.inf


@njit(cache=True, nogil=True)
def _wants_lane(a, side, s, lane, v, wish, accel, half_l, half_w, spacing, way, n, left, right, box, there, scratch):
    """MOBIL: what agent a gains by moving `side` lanes to the left, m/s^2; -inf where it may not."""
    target = lane + side
    if _room_ends(s, target, left, right, n) < max(40.0, 4.0 * v):
        return -np.inf
    _lead(a, s, target * spacing, half_l, half_w + 0.3, v, way, n, box, there, True, 40.0, scratch)
    gap, v_lead, behind, v_back = scratch[0], scratch[1], scratch[2], scratch[3]
    if gap < 2.0 or behind < 2.0:
        return -np.inf
    mine = idm(v, wish, gap, v_lead)
    theirs = idm(v_back, max(wish, v_back), behind, v) if behind < np.inf else 0.0
    before = idm(v_back, max(wish, v_back), behind + gap + 2 * half_l, v_lead) if behind < np.inf else 0.0
    if theirs < -SAFE or mine < -SAFE:
        return -np.inf
    return mine - accel + POLITE * (theirs - before)


@njit(cache=True, nogil=True)
def _drive(
    t,
    a,
    role,
    states,
    s,
    offset,
    lane,
    cool,
    half,
    way,
    n,
    wish,
    left,
    right,
    spacing,
    stops,
    signals,
    box,
    there,
    scratch,
):
    """One step of vehicle a: its states (4,) are moved on; returns its acceleration."""
    v, half_l, half_w = states[a, 3], half[0], half[1]
    i = min(n - 1, int(s[a]))
    _lead(a, s[a], offset[a], half_l, half_w, v, way, n, box, there, True, 0.0, scratch)
    gap, v_lead = scratch[0], scratch[1]
    target = lane[a] * spacing
    if abs(target - offset[a]) > 0.8:  # between two lanes: mind the leader of both
        _lead(a, s[a], target, half_l, half_w, v, way, n, box, there, True, 0.0, scratch)
        if scratch[0] < gap:
            gap, v_lead = scratch[0], scratch[1]
    accel = idm(v, wish[i], gap, v_lead)
    ends = _room_ends(s[a], lane[a], left, right, n)
    if (t + a) % 10 == 0 and cool[a] == 0 and v > 2.0:
        side = 0
        if ends < np.inf:
            side = -1 if lane[a] > 0 else 1
            if _wants_lane(
                a, side, s[a], lane[a], v, wish[i], accel, half_l, half_w, spacing, way, n, left, right, box, there, scratch
            ) == -np.inf:  # fmt: skip
                side = 0
        else:
            best = GAIN
            for way_to in (1, -1):
                gain = _wants_lane(
                    a, way_to, s[a], lane[a], v, wish[i], accel, half_l, half_w, spacing, way, n, left, right, box, there,
                    scratch,
                )  # fmt: skip
                if gain > best:
                    best, side = gain, way_to
        if side != 0:
            lane[a] += side
            cool[a] = PATIENCE
    cool[a] = max(0, cool[a] - 1)
    if ends < np.inf:
        accel = min(accel, idm(v, wish[i], max(ends - half_l - 2.0, 0.3), 0.0))
    red = _light(s[a], v, half_l, stops, signals, t)
    if red < SIGHT:
        accel = min(accel, idm(v, wish[i], red + 1.5, 0.0))
    v_new = max(0.0, v + max(-BRAKE_MAX, accel) * DT)
    s[a] += 0.5 * (v + v_new) * DT
    if s[a] >= n - 1:
        role[a] = GONE
        return accel
    across = max(-SIDEWAYS, min(SIDEWAYS, (lane[a] * spacing - offset[a]) / 0.6)) * min(1.0, v_new / 3.0)
    offset[a] += across * DT
    i = int(s[a])
    u, j = s[a] - i, min(i + 1, n - 1)
    yaw = way[i, 2] + u * (way[j, 2] - way[i, 2])
    c, sn = np.cos(yaw), np.sin(yaw)
    states[a, 0] = way[i, 0] + u * (way[j, 0] - way[i, 0]) - sn * offset[a]
    states[a, 1] = way[i, 1] + u * (way[j, 1] - way[i, 1]) + c * offset[a]
    yaw += np.arctan2(across, max(v_new, 1.0))
    states[a, 2] = np.arctan2(np.sin(yaw), np.cos(yaw))
    states[a, 3] = v_new
    return accel


@njit(cache=True, nogil=True)
def _blocked(a, state, half, box, there):
    """Would a person's next metre lead into a vehicle?"""
    for b in range(box.shape[0]):
        if b == a or not there[b] or box[b, L] < 0.5:
            continue
        o = box[b]
        for ahead in (0.3, 1.0):
            dx = state[0] + ahead * np.cos(state[2]) - o[X]
            dy = state[1] + ahead * np.sin(state[2]) - o[Y]
            along, side = o[C] * dx + o[S] * dy, -o[S] * dx + o[C] * dy
            if abs(along) < o[L] + half and abs(side) < o[W] + half:
                return True
    return False


@njit(cache=True, nogil=True)
def _box(state, size, out):
    out[X], out[Y], out[C], out[S] = state[0], state[1], np.cos(state[2]), np.sin(state[2])
    out[L], out[W], out[V] = 0.5 * size[0], 0.5 * size[1], state[3]


@njit(cache=True, nogil=True)
def _fits(a, box, there):
    """Is agent a's place free, with a metre to spare before and behind it?"""
    for b in range(box.shape[0]):
        if b == a or not there[b]:
            continue
        dx, dy = box[b, X] - box[a, X], box[b, Y] - box[a, Y]
        cos = abs(box[a, C] * box[b, C] + box[a, S] * box[b, S])
        sin = abs(box[a, C] * box[b, S] - box[a, S] * box[b, C])
        along, side = abs(box[a, C] * dx + box[a, S] * dy), abs(-box[a, S] * dx + box[a, C] * dy)
        if along < box[a, L] + box[b, L] * cos + box[b, W] * sin + 1.0 and side < (
            box[a, W] + box[b, L] * sin + box[b, W] * cos + 0.2
        ):
            return False
    return True


@njit(cache=True, nogil=True)
def _step_scene(
    t, first, tracks, valid, size, way, n, wish, left, right, spacing, stops, signals, enter, beside, ego, ego_size, role,
    s, offset, lane, cool, clock, states, seen, brake,
):  # fmt: skip
    """All agents of one scene from log step t - 1 to t; everyone acts on where the others were."""
    agents, steps = valid.shape
    box = np.empty((agents + 1, 7))
    there = np.zeros(agents + 1, np.bool_)
    scratch = np.empty(4)
    for a in range(agents):
        if seen[a]:
            _box(states[a], size[a], box[a])
            there[a] = True
    _box(ego, ego_size, box[agents])
    there[agents] = True
    for a in range(agents):
        if role[a] == GONE:
            continue
        if not seen[a]:
            if t < enter[a]:
                continue
            _box(tracks[a, enter[a]], size[a], box[a])
            if t > first and not _fits(a, box, there):  # in its place stands someone who is not the log any more
                continue
            states[a] = tracks[a, enter[a]]
            seen[a], there[a], s[a], offset[a], clock[a] = True, True, 0.0, beside[a], enter[a]
            brake[a] = states[a, 3] < 0.2
            if role[a] == WAITING:
                role[a] = DRIVING
        elif role[a] == DRIVING:
            accel = _drive(
                t, a, role, states, s, offset, lane, cool, box[a, L : W + 1], way[a], n[a], wish[a], left[a], right[a],
                spacing[a], stops[a], signals, box, there, scratch,
            )  # fmt: skip
            brake[a] = accel < -0.8 or states[a, 3] < 0.2
        elif role[a] == WALKING:
            if clock[a] + 1 >= steps or not valid[a, clock[a] + 1]:
                role[a] = GONE
            elif _blocked(a, states[a], box[a, W], box, there):
                states[a, 3] = 0.0
            else:
                clock[a] += 1
                states[a] = tracks[a, clock[a]]
        seen[a] = role[a] != GONE


@njit(cache=True, nogil=True, parallel=True)
def _step(
    step, start, tracks, valid, size, way, n, wish, left, right, spacing, stops, signals, enter, beside, ego, ego_slot,
    role, s, offset, lane, cool, clock, states, seen, brake,
):  # fmt: skip
    for i in prange(ego.shape[0]):
        t = start[i] + step
        if t < signals.shape[2]:
            _step_scene(
                t, start[i], tracks[i], valid[i], size[i], way[i], n[i], wish[i], left[i], right[i], spacing[i], stops[i],
                signals[i], enter[i], beside[i], ego[i], size[i, ego_slot[i]], role[i], s[i], offset[i], lane[i], cool[i],
                clock[i], states[i], seen[i], brake[i],
            )  # fmt: skip


class FreeTraffic:
    """Agents of S scenes that drive by themselves; `advance` moves them on in the arrays it is given."""

    def __init__(self, packed: Packed):
        n, a = packed.kind.shape
        self.packed, self.ways = packed, ways(packed)
        self.role = self.ways.role.copy()
        self.s, self.offset = np.zeros((n, a)), np.zeros((n, a))
        """Arc length along its way and distance to the left of it, m, of each agent."""
        self.lane, self.cool, self.clock = (np.zeros((n, a), np.int64) for _ in range(3))
        """Lanes to the left of its way; steps until it may change again; log step that a walker has come to."""

    def advance(self, step: int, ego: np.ndarray, states: np.ndarray, seen: np.ndarray, brake: np.ndarray) -> None:
        """To `step` steps after the start, in place: states (S, A, 4), seen and brake (S, A); ego (S, 6) as it is now."""
        p, w = self.packed, self.ways
        _step(
            step, p.start, p.tracks, p.valid, p.size, w.way, w.n, w.wish, w.left, w.right, w.spacing, w.stops, p.signals,
            w.enter, w.offset, ego, p.ego, self.role, self.s, self.offset, self.lane, self.cool, self.clock, states, seen,
            brake,
        )  # fmt: skip
