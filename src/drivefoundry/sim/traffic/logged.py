"""Traffic that follows its log: replayed, or reactive to an ego that does not.

Reactive agents stay on their logged path and never get ahead of their log; they brake for the ego, and for others that
were delayed, by the intelligent driver model, and then obey the lights. Undisturbed, they match the log bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit, prange

from drivefoundry.sim.pack import Packed
from drivefoundry.sim.traffic.idm import idm
from drivefoundry.types import AGENT_PEDESTRIAN, DT, SIGNAL_RED, SIGNAL_YELLOW

LOOKAHEAD = 35.0
LATE = 0.3
"""An agent that is this far behind its log, m, no longer matches it: it and its neighbours must react to each other."""


class LoggedState(NamedTuple):
    """Current state of the agents of S scenes. s (S, A) arc length along the log, m; at (S, A) log step at or before
    it; late (S, A); states (S, A, 4) x, y, yaw, speed; seen, brake (S, A)."""

    s: np.ndarray
    at: np.ndarray
    late: np.ndarray
    states: np.ndarray
    seen: np.ndarray
    brake: np.ndarray


@njit(cache=True, nogil=True)
def _inside(x, y, box, length, width, margin):
    """Whether a point is inside an oriented box (x, y, yaw, ...) widened by margin on both sides."""
    dx, dy = x - box[0], y - box[1]
    reach = 0.5 * (length + width) + margin
    if dx * dx + dy * dy > reach * reach:
        return False
    c, s = np.cos(box[2]), np.sin(box[2])
    return abs(c * dx + s * dy) < length / 2 and abs(-s * dx + c * dy) < width / 2 + margin


@njit(cache=True, nogil=True)
def _gap_ahead(a, at, i0, tracks, path_s, states, seen, late, some_late, size, ego, ego_size, near):
    """Gap along agent a's path to the first obstacle, m, and that obstacle's speed along the path (inf, 0 if none).

    Obstacles are the ego and, if either it or agent a is late, other agents; near (A,) is scratch.
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
    """Write x, y, yaw of agent a's path at arc length s to out; return the step index at or before it."""
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
    """Advance all agents of one scene by 0.1 s, from log step t - 1 to t."""
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
        # On schedule, and no agent closer than in the log itself: stay on the log, bit for bit.
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
def _step(now, tracks, logged, path_s, size, kind, stops, signals, ego, ego_slot, reactive, state):
    for i in prange(ego.shape[0]):
        if now[i] < signals.shape[2]:
            _step_scene(
                now[i], tracks[i], logged[i], path_s[i], size[i], kind[i], stops[i], signals[i], ego[i],
                size[i, ego_slot[i]], reactive, state.s[i], state.at[i], state.states[i], state.seen[i], state.brake[i],
                state.late[i],
            )  # fmt: skip


class LoggedTraffic:
    """Agents of S scenes that follow their log; see `sim.world.Traffic`."""

    endless = False
    reactive = False

    def __init__(self, packed: Packed, states: np.ndarray, seen: np.ndarray, brake: np.ndarray):
        self.packed = packed
        s, at, late = (np.zeros(packed.kind.shape, dtype) for dtype in (np.float64, np.int64, np.bool_))
        self.state = LoggedState(s, at, late, states, seen, brake)

    def advance(self, now: np.ndarray, ego: np.ndarray) -> None:
        p = self.packed
        _step(
            now, p.tracks, p.valid, p.path_s, p.size, p.kind, p.stops, p.signals, ego, p.ego, self.reactive, self.state
        )


class ReactiveTraffic(LoggedTraffic):
    """The same, but reactive."""

    reactive = True
