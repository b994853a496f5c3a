"""Free traffic: every agent drives on its own, keeping to its path, distances, lights and lanes.

Vehicles follow the path of their log and, beyond it, the lanes; they keep their distance by the intelligent driver
model (IDM; Treiber, Hennecke and Helbing 2000), change lanes by MOBIL (Kesting, Treiber and Helbing 2007), stop at red,
and let crossing agents pass that would be there first. Pedestrians walk as logged and wait while a vehicle is in their
way. Axes: S scenes, A agents, P way points 1 m apart, C stop lines.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from drivefoundry.sim.pack import Packed
from drivefoundry.sim.traffic.idm import idm
from drivefoundry.sim.traffic.ways import DRIVING, GONE, WAITING, WALKING, ways
from drivefoundry.types import DT, SIGNAL_RED, SIGNAL_YELLOW

SIGHT = 60.0
"""How far ahead a driver looks, m."""
BRAKE_MAX = 7.0
POLITE, GAIN, SAFE = 0.3, 0.3, 3.0
"""MOBIL: weight of others' disadvantage, minimum gain, and hardest braking imposed on the follower, m/s^2."""
MARGIN = 0.25
"""Clearance that a vehicle needs on each side, m."""
SIDEWAYS = 1.0
"""Lateral speed during a lane change, m/s."""
PATIENCE = 40
"""Minimum steps between two lane changes of a vehicle."""


class FreeState(NamedTuple):
    """Current state of the agents of S scenes. role, s (arc length along the way, m), offset (to the left of it, m),
    lane (number of lanes to the left of it, current or intended), cool (steps until the next lane change), clock (log
    step that a pedestrian has reached): (S, A); states (S, A, 4) x, y, yaw, speed; seen, brake (S, A)."""

    role: np.ndarray
    s: np.ndarray
    offset: np.ndarray
    lane: np.ndarray
    cool: np.ndarray
    clock: np.ndarray
    states: np.ndarray
    seen: np.ndarray
    brake: np.ndarray


X, Y, C, S, L, W, V = range(7)
"""Columns of a box: centre, cosine and sine of its yaw, half length, half width, speed."""
GAP, LEAD, BEHIND, FOLLOWER = range(4)
"""Results of `_look`: gap m to the agent ahead and its speed along the way; the same for the one behind."""


@njit(cache=True, nogil=True)
def _foot(way, n, x, y, guess):
    """Index of the way point nearest to (x, y), by descent from a guess."""
    i = min(n - 1, max(0, guess))
    d = (way[i, 0] - x) ** 2 + (way[i, 1] - y) ** 2
    side = 1
    for _ in range(2):
        while 0 <= i + side < n:
            e = (way[i + side, 0] - x) ** 2 + (way[i + side, 1] - y) ** 2
            if e >= d:
                break
            i, d = i + side, e
        side = -1
    return i


@njit(cache=True, nogil=True)
def _look(a, s, offset, me, wide, way, n, box, there, back, out):
    """Find the agents on agent a's way at this offset; writes out (4,), inf if there are none. me: its box; back:
    distance to look behind, m.

    Agents that will cross within 1.5 s count too, as standing where they cross, unless agent a would be there first.
    """
    out[GAP], out[LEAD], out[BEHIND], out[FOLLOWER] = np.inf, 0.0, np.inf, 0.0
    i0 = int(s)
    p = way[i0]
    sight = min(SIGHT, 12.0 + 3.5 * me[V])
    for b in range(box.shape[0]):
        if b == a or not there[b]:
            continue
        o = box[b]
        dx, dy = o[X] - p[0], o[Y] - p[1]
        ahead = p[2] * dx + p[3] * dy
        far = sight + o[L]
        if ahead < -back or dx * dx + dy * dy > far * far:
            continue
        for soon in range(2):
            wait = 1.5 * soon
            x, y = o[X] + o[V] * wait * o[C], o[Y] + o[V] * wait * o[S]
            j = _foot(way, n, x, y, i0 + int(p[2] * (x - p[0]) + p[3] * (y - p[1])))
            q = way[j]
            cos, sin = q[2] * o[C] + q[3] * o[S], abs(q[2] * o[S] - q[3] * o[C])
            on = q[2] * (x - q[0]) + q[3] * (y - q[1])
            lateral = q[2] * (y - q[1]) - q[3] * (x - q[0])
            ends = o[L] * abs(cos) + o[W] * sin
            in_way = abs(lateral - offset) < wide + o[L] * sin + o[W] * abs(cos) and abs(on) < 2.0 + ends
            if in_way and j + on >= s:
                gap = j + on - s - me[L] - ends
                if soon == 0:
                    if gap < out[GAP]:
                        out[GAP], out[LEAD] = gap, max(0.0, o[V] * cos)
                elif gap < out[GAP] and gap > wait * max(me[V], 1.0):
                    out[GAP], out[LEAD] = gap, 0.0
            elif in_way and soon == 0 and s - j - on - me[L] - ends < out[BEHIND]:
                out[BEHIND], out[FOLLOWER] = s - j - on - me[L] - ends, max(0.0, o[V] * cos)
            if in_way or o[V] < 1.0 or sin < 0.4:
                break


@njit(cache=True, nogil=True)
def _light(s, v, half, stops, signals, t):
    """Distance to the next stop line that must not be crossed now, m; inf if there is none."""
    for c in range(stops.shape[0]):
        if stops[c, 1] < 0:
            break
        d = stops[c, 0] - s - half
        if d < -1.0:
            continue
        state = signals[int(stops[c, 1]), t]
        if state == SIGNAL_RED or (state == SIGNAL_YELLOW and d > v * v / 6.0):
            return max(d, 0.1)
    return np.inf


@njit(cache=True, nogil=True)
def _lane_ends(s, lane, left, right, n):
    """Distance to the end of the lane that is `lane` to the left of the way, m; inf if it does not end within sight."""
    if lane == 0:
        return np.inf
    for j in range(int(s), min(n, int(s) + 60)):
        if (lane > 0 and left[j] < lane) or (lane < 0 and right[j] < -lane):
            return j - s
    return np.inf


@njit(cache=True, nogil=True)
def _gain(i, a, side, accel, wish, ways, state, box, there, out):
    """MOBIL: agent a's gain from moving `side` lanes to the left, m/s^2; -inf if it may not."""
    v, n = box[a, V], ways.n[i, a]
    lane = state.lane[i, a] + side
    if _lane_ends(state.s[i, a], lane, ways.left[i, a], ways.right[i, a], n) < max(40.0, 4.0 * v):
        return -np.inf
    wide = box[a, W] + MARGIN + 0.3
    _look(a, state.s[i, a], lane * ways.spacing[i, a], box[a], wide, ways.way[i, a], n, box, there, 40.0, out)
    if out[GAP] < 2.0 or out[BEHIND] < 2.0:
        return -np.inf
    mine = idm(v, wish, out[GAP], out[LEAD])
    theirs = before = 0.0
    if out[BEHIND] < np.inf:
        top = max(wish, out[FOLLOWER])
        theirs = idm(out[FOLLOWER], top, out[BEHIND], v)
        before = idm(out[FOLLOWER], top, out[BEHIND] + out[GAP] + 2 * box[a, L], out[LEAD])
    if theirs < -SAFE or mine < -SAFE:
        return -np.inf
    return mine - accel + POLITE * (theirs - before)


@njit(cache=True, nogil=True)
def _change_lane(i, a, must, accel, wish, ways, state, box, there, out):
    """Decide on a lane change of agent a. must: its lane ends, so it returns towards its way if possible."""
    best, chosen = GAIN, 0
    for side in (1, -1):
        if must and side * state.lane[i, a] > 0:
            continue
        gain = _gain(i, a, side, accel, wish, ways, state, box, there, out)
        if gain > best or (must and gain > -np.inf):
            best, chosen = gain, side
    if chosen != 0:
        state.lane[i, a] += chosen
        state.cool[i, a] = PATIENCE


@njit(cache=True, nogil=True)
def _drive(i, a, t, ways, state, signals, box, there, out):
    """Advance vehicle a of scene i by one step: accelerate, steer and move."""
    way, n, me = ways.way[i, a], ways.n[i, a], box[a]
    s, v, offset = state.s[i, a], me[V], state.offset[i, a]
    wish = ways.wish[i, a, int(s)]
    _look(a, s, offset, me, me[W] + MARGIN, way, n, box, there, 0.0, out)
    gap, lead = out[GAP], out[LEAD]
    accel = idm(v, wish, gap, lead)
    ends = _lane_ends(s, state.lane[i, a], ways.left[i, a], ways.right[i, a], n)
    if (t + a) % 10 == 0 and state.cool[i, a] == 0 and v > 2.0 and (ends < np.inf or accel < 1.0):
        _change_lane(i, a, ends < np.inf, accel, wish, ways, state, box, there, out)
    state.cool[i, a] = max(0, state.cool[i, a] - 1)
    target = state.lane[i, a] * ways.spacing[i, a]
    if abs(target - offset) > 0.8:  # between two lanes: consider the agents ahead in both
        _look(a, s, target, me, me[W] + MARGIN, way, n, box, there, 0.0, out)
        accel = min(accel, idm(v, wish, out[GAP], out[LEAD]))
    if ends < np.inf:
        accel = min(accel, idm(v, wish, max(ends - me[L] - 2.0, 0.3), 0.0))
    red = _light(s, v, me[L], ways.stops[i, a], signals, t)
    if red < SIGHT:
        accel = min(accel, idm(v, wish, red + 1.5, 0.0))
    v_new = max(0.0, v + max(-BRAKE_MAX, accel) * DT)
    s += 0.5 * (v + v_new) * DT
    if s >= n - 1:
        state.role[i, a] = GONE
        return
    across = max(-SIDEWAYS, min(SIDEWAYS, (target - offset) / 0.6)) * min(1.0, v_new / 3.0)
    offset += across * DT
    k = int(s)
    u, j = s - k, min(k + 1, n - 1)
    c, sn = way[k, 2] + u * (way[j, 2] - way[k, 2]), way[k, 3] + u * (way[j, 3] - way[k, 3])
    out = state.states[i, a]
    out[0] = way[k, 0] + u * (way[j, 0] - way[k, 0]) - sn * offset
    out[1] = way[k, 1] + u * (way[j, 1] - way[k, 1]) + c * offset
    slip = across / max(v_new, 1.0)
    out[2] = np.arctan2(sn + c * slip, c - sn * slip)
    out[3] = v_new
    state.s[i, a], state.offset[i, a] = s, offset
    state.brake[i, a] = accel < -0.8 or v_new < 0.2


@njit(cache=True, nogil=True)
def _blocked(a, box, there):
    """Whether the next metre of pedestrian a leads into a vehicle."""
    me = box[a]
    for b in range(box.shape[0]):
        o = box[b]
        if b == a or not there[b] or o[L] < 0.5 or (o[X] - me[X]) ** 2 + (o[Y] - me[Y]) ** 2 > (o[L] + 3.0) ** 2:
            continue
        for ahead in (0.3, 1.0):
            dx, dy = me[X] + ahead * me[C] - o[X], me[Y] + ahead * me[S] - o[Y]
            if abs(o[C] * dx + o[S] * dy) < o[L] + me[W] and abs(o[C] * dy - o[S] * dx) < o[W] + me[W]:
                return True
    return False


@njit(cache=True, nogil=True)
def _box(state, size, out):
    out[X], out[Y], out[C], out[S] = state[0], state[1], np.cos(state[2]), np.sin(state[2])
    out[L], out[W], out[V] = 0.5 * size[0], 0.5 * size[1], state[3]


@njit(cache=True, nogil=True)
def _fits(a, box, there):
    """Whether agent a's place is free, with a metre to spare before and behind it."""
    me = box[a]
    for b in range(box.shape[0]):
        if b == a or not there[b]:
            continue
        o = box[b]
        dx, dy = o[X] - me[X], o[Y] - me[Y]
        cos, sin = abs(me[C] * o[C] + me[S] * o[S]), abs(me[C] * o[S] - me[S] * o[C])
        long, wide = me[L] + o[L] * cos + o[W] * sin + 1.0, me[W] + o[L] * sin + o[W] * cos + 0.2
        if abs(me[C] * dx + me[S] * dy) < long and abs(me[C] * dy - me[S] * dx) < wide:
            return False
    return True


@njit(cache=True, nogil=True)
def _step_scene(i, t, first, tracks, valid, size, signals, ego, ego_size, ways, state):
    """Advance all agents of scene i from log step t - 1 to t; all react to the others' previous states."""
    agents, steps = valid.shape
    box = np.empty((agents + 1, 7))
    there = np.zeros(agents + 1, np.bool_)
    out = np.empty(4)
    role, seen = state.role[i], state.seen[i]
    for a in range(agents):
        if seen[a]:
            _box(state.states[i, a], size[a], box[a])
            there[a] = True
    _box(ego, ego_size, box[agents])
    there[agents] = True
    for a in range(agents):
        if role[a] == GONE:
            continue
        if not seen[a]:
            if t < ways.enter[i, a]:
                continue
            start = tracks[a, ways.enter[i, a]]
            _box(start, size[a], box[a])
            if t > first and not _fits(a, box, there):  # an agent that has left its log occupies its place
                continue
            state.states[i, a] = start
            state.offset[i, a], state.clock[i, a], state.brake[i, a] = (
                ways.offset[i, a],
                ways.enter[i, a],
                start[3] < 0.2,
            )
            there[a] = True
            if role[a] == WAITING:
                role[a] = DRIVING
        elif role[a] == DRIVING:
            _drive(i, a, t, ways, state, signals, box, there, out)
        elif role[a] == WALKING:
            k = state.clock[i, a] + 1
            if k >= steps or not valid[a, k]:
                role[a] = GONE
            elif _blocked(a, box, there):
                state.states[i, a, 3] = 0.0
            else:
                state.clock[i, a] = k
                state.states[i, a] = tracks[a, k]
        seen[a] = role[a] != GONE


@njit(cache=True, nogil=True, parallel=True)
def _step(now, start, tracks, valid, size, signals, ego, ego_slot, ways, state):
    for i in prange(ego.shape[0]):
        if now[i] < signals.shape[2]:
            mine = size[i, ego_slot[i]]
            _step_scene(i, now[i], start[i], tracks[i], valid[i], size[i], signals[i], ego[i], mine, ways, state)


class FreeTraffic:
    """Agents of S scenes that drive on their own as long as the log has signal states; see `sim.world.Traffic`."""

    endless = False

    def __init__(self, packed: Packed, states: np.ndarray, seen: np.ndarray, brake: np.ndarray):
        self.packed, self.ways = packed, ways(packed)
        n = packed.kind.shape
        self.state = FreeState(
            self.ways.role.copy(), np.zeros(n), np.zeros(n), np.zeros(n, np.int64), np.zeros(n, np.int64),
            np.zeros(n, np.int64), states, seen, brake,
        )  # fmt: skip

    def advance(self, now: np.ndarray, ego: np.ndarray) -> None:
        p = self.packed
        _step(now, p.start, p.tracks, p.valid, p.size, p.signals, ego, p.ego, self.ways, self.state)
