"""Packed scenes in, stepped worlds out: S scenes x A agents at 10 Hz, three kinds of traffic, ego by its plan.

"replay" is the log, whatever the ego does. "reactive" agents keep to their logged path and never run ahead of their
log; they brake for the ego, and for others that were delayed, by the intelligent driver model (Treiber 2000), and then
obey the lights; undisturbed, they are the log. "free" agents drive by themselves: see `sim.traffic`. A scene's course
depends on nothing but the scene and the plans, to the bit, whatever else is in the batch and however many threads run.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numba import njit, prange

from drivefoundry.sim.ego import REF_COLUMNS, REF_POINTS, bicycle_step, plan_in_map, prepare_reference, track
from drivefoundry.sim.pack import Packed, logged_ego
from drivefoundry.sim.traffic import FreeTraffic, idm
from drivefoundry.types import AGENT_PEDESTRIAN, DT, PLAN_DT, SIGNAL_RED, SIGNAL_YELLOW, require

Traffic = Literal["replay", "reactive", "free"]
TRAFFIC = get_args(Traffic)
LOOKAHEAD = 35.0
LATE = 0.3
"""An agent this far behind its log, m, is no longer the log: it and its neighbours must watch each other."""


@njit(cache=True, nogil=True)
def _inside(x, y, box, length, width, margin):
    """Is the point inside an oriented box (x, y, yaw, ...) that is widened by margin to both sides?"""
    dx, dy = x - box[0], y - box[1]
    reach = 0.5 * (length + width) + margin
    if dx * dx + dy * dy > reach * reach:
        return False
    c, s = np.cos(box[2]), np.sin(box[2])
    return abs(c * dx + s * dy) < length / 2 and abs(-s * dx + c * dy) < width / 2 + margin


@njit(cache=True, nogil=True)
def _gap_ahead(a, at, i0, tracks, path_s, states, seen, late, some_late, size, ego, ego_size, near):
    """Gap along agent a's path to the first obstacle, m, and that obstacle's speed along the path (inf, 0 if none).

    Obstacles are the ego and, where either it or agent a is late, other agents; near (A,) is scratch.
    """
    limit = LOOKAHEAD + size[a, 0] / 2
    x0, y0 = states[a, 0], states[a, 1]
    near_ego = np.hypot(ego[0] - x0, ego[1] - y0) < LOOKAHEAD + 8.0
    count = 0
    if some_late:
        reach = limit + 12.0
        for b in range(states.shape[0]):
            close = abs(states[b, 0] - x0) < reach and abs(states[b, 1] - y0) < reach
            if close and seen[b] and (late[b] or late[a]) and b != a:
                near[count] = b
                count += 1
    if count == 0 and not near_ego:
        return np.inf, 0.0
    half = size[a, 1] / 2 + 0.25
    steps = path_s.shape[1]
    last = at - 10.0
    for t in range(i0, steps):
        s = path_s[a, t]
        if s - at > limit:
            break
        if s <= at or s - last < 0.7:
            continue
        last = s
        x, y, yaw = tracks[a, t, 0], tracks[a, t, 1], tracks[a, t, 2]
        if near_ego and _inside(x, y, ego, ego_size[0], ego_size[1], half):
            return s - at - size[a, 0] / 2, max(0.0, ego[3] * np.cos(ego[2] - yaw))
        for k in range(count):
            b = near[k]
            close = abs(states[b, 0] - x) < 8.0 and abs(states[b, 1] - y) < 8.0
            if close and _inside(x, y, states[b], size[b, 0], size[b, 1], half):
                return s - at - size[a, 0] / 2, max(0.0, states[b, 3] * np.cos(states[b, 2] - yaw))
    return np.inf, 0.0


@njit(cache=True, nogil=True)
def _red_ahead(a, at, v, stops, signals, t, length):
    """Distance from agent a's front to the next stop line that it must not cross now, m (inf if none)."""
    for c in range(stops.shape[1]):
        d = stops[a, c, 0] - at - length / 2
        if stops[a, c, 1] < 0:
            break
        if d < -1.0:
            continue
        state = signals[int(stops[a, c, 1]), t]
        if state == SIGNAL_RED or (state == SIGNAL_YELLOW and d > v * v / 6.0):
            return max(d - 0.5, 0.1)
    return np.inf


@njit(cache=True, nogil=True)
def _place(a, s, i0, tracks, path_s, out):
    """Set out (x, y, yaw) to the point of agent a's path at arc length s; returns the step index at or before it."""
    i = i0
    steps = path_s.shape[1]
    while i + 1 < steps and path_s[a, i + 1] <= s:
        i += 1
    j = min(i + 1, steps - 1)
    span = path_s[a, j] - path_s[a, i]
    u = (s - path_s[a, i]) / span if span > 1e-6 else 0.0
    out[0] = tracks[a, i, 0] + u * (tracks[a, j, 0] - tracks[a, i, 0])
    out[1] = tracks[a, i, 1] + u * (tracks[a, j, 1] - tracks[a, i, 1])
    turn = tracks[a, j, 2] - tracks[a, i, 2]
    out[2] = tracks[a, i, 2] + u * np.arctan2(np.sin(turn), np.cos(turn))
    return i


@njit(cache=True, nogil=True)
def _step_scene(
    t, tracks, logged, path_s, size, kind, stops, signals, ego, ego_size, reactive, s, at, states, seen, brake, late
):
    """One 0.1 s step of all agents of one scene, from log step t - 1 to t."""
    agents, steps = logged.shape
    near = np.empty(agents, np.int64)
    some_late = late.any()
    for a in range(agents):
        if t >= steps or not logged[a, t]:
            seen[a] = False
            continue
        v_log, s_log = tracks[a, t, 3], path_s[a, t]
        fresh = not seen[a]
        if fresh or not reactive or kind[a] == AGENT_PEDESTRIAN:
            v_old = v_log if fresh else states[a, 3]
            s[a], at[a], late[a] = s_log, t, False
            states[a, :] = tracks[a, t]
            brake[a] = (v_log - v_old) < -0.08 or v_log < 0.2
            seen[a] = True
            continue
        v = states[a, 3]
        length = size[a, 0]
        gap, v_lead = _gap_ahead(
            a, s[a], at[a], tracks, path_s, states, seen, late, some_late, size, ego, ego_size, near
        )
        behind = s_log - s[a]
        follow = idm(v, 20.0, gap, v_lead) if gap < LOOKAHEAD else 9.0
        # On schedule and nobody closer than the log itself came: stay the log, to the bit.
        if not late[a] and follow > (v_log - v) / DT - 1.0:
            brake[a] = (v_log - v) < -0.08 or v_log < 0.2
            s[a], at[a] = s_log, t
            states[a, :] = tracks[a, t]
            continue
        accel = min(follow, max(-3.0, min(2.0, v_log + 0.4 * (behind - v * DT) - v)))
        red = _red_ahead(a, s[a], v, stops, signals, t, length) if behind > 1.0 else np.inf
        if red < LOOKAHEAD:
            accel = min(accel, idm(v, 20.0, red + 2.0, 0.0))
        v_new = max(0.0, v + max(accel, -7.0) * DT)
        s[a] = min(s[a] + v_new * DT, max(s_log, s[a]))
        at[a] = _place(a, s[a], at[a], tracks, path_s, states[a])
        states[a, 3] = v_new
        brake[a] = accel < -0.8 or v_new < 0.2
        late[a] = s_log - s[a] > LATE
        some_late |= late[a]


@njit(cache=True, nogil=True, parallel=True)
def _step(
    step,
    start,
    tracks,
    logged,
    path_s,
    size,
    kind,
    stops,
    signals,
    ego,
    ego_slot,
    reactive,
    s,
    at,
    states,
    seen,
    brake,
    late,
):
    for i in prange(ego.shape[0]):
        ego_size = size[i, ego_slot[i]]
        t = start[i] + step
        ts = min(t, signals.shape[2] - 1)
        if ts < t:
            continue
        _step_scene(
            t, tracks[i], logged[i], path_s[i], size[i], kind[i], stops[i], signals[i], ego[i], ego_size, reactive,
            s[i], at[i], states[i], seen[i], brake[i], late[i],
        )  # fmt: skip


@njit(cache=True, nogil=True, parallel=True)
def _step_ego(ego, ref, since):
    for i in prange(ego.shape[0]):
        accel, curvature = track(ego[i], ref[i], since)
        bicycle_step(ego[i], accel, curvature, DT)


@njit(cache=True, nogil=True)
def _references(ego, points, ref):
    for i in range(ego.shape[0]):
        plan_in_map(ego[i], points[i], ref[i])
        prepare_reference(ref[i])


class World:
    """S scenes stepped together. Public arrays (read only): ego (S, 6) x, y, yaw, speed, acceleration, yaw rate;
    agents (S, A, 4); seen (S, A) bool (ego's slot False); brake (S, A) bool; step: steps since the start."""

    def __init__(self, packed: Packed, traffic: Traffic = "reactive"):
        require(traffic in TRAFFIC, f"traffic {traffic!r}: {', '.join(TRAFFIC)} are there")
        self.packed = packed
        self.traffic: Traffic = traffic
        p = packed
        n, a = p.kind.shape
        self.size = p.size
        self.ego_size = p.size[np.arange(n), p.ego]
        self.step = 0
        self.past = list(np.stack([logged_ego(s, 15) for s in p.scenes], 1))
        """(S, 6) ego states of all steps so far, oldest first: 15 of the log, then the start, then the driven."""
        self.ego = self.past[-1].copy()
        self._s = np.zeros((n, a))
        self._at = np.zeros((n, a), np.int64)
        self.agents = np.zeros((n, a, 4))
        self.seen = np.zeros((n, a), np.bool_)
        self.brake = np.zeros((n, a), np.bool_)
        self.late = np.zeros((n, a), np.bool_)
        self._free = FreeTraffic(packed, self.agents, self.seen, self.brake) if traffic == "free" else None
        self._advance(0, reactive=False)
        first = np.arange(n)
        t = p.start
        self.brake[:] = np.where(t[:, None] > 0, p.tracks[first, :, t, 3] - p.tracks[first, :, t - 1, 3] < -0.08, False)
        self.brake |= self.agents[..., 3] < 0.2
        self._ref = np.zeros((n, REF_POINTS, REF_COLUMNS))
        self._since = 0.0

    def _advance(self, step: int, reactive: bool) -> None:
        p = self.packed
        if self._free is not None:
            self._free.advance(step, self.ego)
            return
        _step(
            step, p.start, p.tracks, p.valid, p.path_s, p.size, p.kind, p.stops, p.signals, self.ego, p.ego, reactive,
            self._s, self._at, self.agents, self.seen, self.brake, self.late,
        )  # fmt: skip

    def follow(self, points: np.ndarray) -> None:
        """Take a new plan: points (S, 8, 3) in the ego frame of this moment."""
        _references(self.ego, np.ascontiguousarray(points, np.float64), self._ref)
        self._since = 0.0

    def advance(self) -> None:
        """One 0.1 s step of everything: the ego along its plan, then the agents, who see where the ego is now."""
        _step_ego(self.ego, self._ref, self._since)
        self._since = min(self._since + DT, PLAN_DT * 8)
        self.step += 1
        self._advance(self.step, self.traffic == "reactive")
        self.past.append(self.ego.copy())

    def signals_now(self) -> np.ndarray:
        """(S, G) uint8."""
        p = self.packed
        t = np.minimum(p.start + self.step, p.signals.shape[2] - 1)
        return p.signals[np.arange(len(t)), :, t]
