"""Judge ego motions among moving agents: the terms of NAVSIM's scores and the events of CARLA's.

One kernel serves both 4 s proposals and whole drives.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit, prange

from drivefoundry.edges import MAPPED_ROAD, NO_ROAD, ground_at
from drivefoundry.edges import UNMAPPED as UNMAPPED_GROUND
from drivefoundry.geometry import project_on_polyline
from drivefoundry.judge.scores.contacts import (
    IN_JUNCTION,
    OFF_ROAD,
    ONCOMING,
    STANDING,
    STRADDLING,
    UNMAPPED,
    Motion,
    Other,
    first_hit,
    keeps_clear,
)
from drivefoundry.judge.scores.lanes import JUNCTION, lane_at
from drivefoundry.judge.scores.nearby import BLOCK, agent_spans, ego_spans, near, reach_of
from drivefoundry.judge.scores.surroundings import Surroundings, route_feet
from drivefoundry.types import AGENT_CYCLIST, AGENT_PEDESTRIAN, DT, SIGNAL_RED

DDC_STEPS, DDC_FINE, DDC_BAD = 10, 2.0, 6.0
"""Metres against the driving direction within 1 s: below 2 scores 1, from 6 on 0."""
LK_OFFSET, LK_STEPS = 0.5, 20

SLACK = 0.2
"""A corner within this distance of the road, m, is on it: one texel, the accuracy of the edge (nuPlan allows 0.3 m)."""

FIELDS = (
    "NC",
    "DAC",
    "DDC",
    "TLC",
    "TTC",
    "LK",
    "progress",
    "distance",
    "off_road_distance",
    "unmapped_distance",
    "standing",
    "hit_pedestrians",
    "hit_vehicles",
    "hit_static",
    "red_lights",
    "contacts",
    "at_fault_contacts",
    "collision_at",
    "at_fault_at",
    "off_road_at",
    "red_light_at",
    "end",
)
(
    NC, DAC, DDC, TLC, TTC, LK, PROGRESS, DISTANCE, OFF_ROAD_DISTANCE, UNMAPPED_DISTANCE, STOOD, HIT_PEDESTRIANS,
    HIT_VEHICLES, HIT_STATIC, RED_LIGHTS, CONTACTS, AT_FAULT_CONTACTS, COLLISION_AT, AT_FAULT_AT, OFF_ROAD_AT,
    RED_LIGHT_AT, END,
) = range(len(FIELDS))  # fmt: skip


class AgentTracks(NamedTuple):
    """All agents except the ego, on the clock of the motions.

    states (S, A, T, 4) x, y, yaw, speed; seen (S, A, T) bool; size (S, A, 2) length, width; kind (S, A), codes beyond
    the agent kinds are static objects; signals (S, G, T).
    """

    states: np.ndarray
    seen: np.ndarray
    size: np.ndarray
    kind: np.ndarray
    signals: np.ndarray


class _Place(NamedTuple):
    """The static surroundings of one scene, see `Surroundings`: m is its map's row in the stacks, foot the route
    segment where the search for the ego starts."""

    cells: np.ndarray
    frames: np.ndarray
    m: int
    lanes: np.ndarray
    lane_frames: np.ndarray
    on_route: np.ndarray
    has_lanes: bool
    route: np.ndarray
    route_s: np.ndarray
    foot: int
    lines: np.ndarray
    facing: np.ndarray


class _Static(NamedTuple):
    """`Surroundings` of all scenes in the form that the compiled code takes; foot (S,)."""

    cells: np.ndarray
    frames: np.ndarray
    place: np.ndarray
    lanes: np.ndarray
    lane_frames: np.ndarray
    on_route: np.ndarray
    has_lanes: np.ndarray
    route: np.ndarray
    route_s: np.ndarray
    route_n: np.ndarray
    foot: np.ndarray
    lines: np.ndarray
    facing: np.ndarray


@njit(cache=True, nogil=True)
def _ground(cells, frames, m, x, y):
    """The best ground class here and one texel away; see `ground_at`."""
    best = ground_at(cells, frames, m, x, y)
    if best == MAPPED_ROAD:
        return best
    best = max(best, ground_at(cells, frames, m, x + SLACK, y), ground_at(cells, frames, m, x - SLACK, y))
    return max(best, ground_at(cells, frames, m, x, y + SLACK), ground_at(cells, frames, m, x, y - SLACK))


@njit(cache=True, nogil=True)
def _areas(states, size, place, trig, out):
    """Write the flags OFF_ROAD | STRADDLING | IN_JUNCTION | ONCOMING | UNMAPPED of each step to out (T,), cosine and
    sine of the heading to trig (T, 2). An ego that has left the road counts as off it until it is back on a road."""
    m = place.m
    beside = np.empty(4, np.int64)
    for k in range(len(states)):
        c, s = math.cos(states[k, 2]), math.sin(states[k, 2])
        trig[k, 0], trig[k, 1] = c, s
        flags = 0
        for j in range(4):  # front left, rear left, rear right, front right
            a, b = (0.5 if j in (0, 3) else -0.5) * size[0], (0.5 if j < 2 else -0.5) * size[1]
            x, y = states[k, 0] + a * c - b * s, states[k, 1] + a * s + b * c
            if not flags & OFF_ROAD:
                ground = _ground(place.cells, place.frames, m, x, y)
                flags = OFF_ROAD if ground == NO_ROAD else UNMAPPED if ground == UNMAPPED_GROUND else flags
            beside[j] = lane_at(place.lanes, place.lane_frames, m, x, y)
        if flags & UNMAPPED and k > 0 and out[k - 1] & OFF_ROAD:
            flags = OFF_ROAD
        # Left and right corner of one end in two lanes. Front and rear in different lanes is normal driving.
        front = beside[0] >= 0 and beside[3] >= 0 and beside[0] != beside[3]
        rear = beside[1] >= 0 and beside[2] >= 0 and beside[1] != beside[2]
        if front or rear:
            flags |= STRADDLING
        lane = lane_at(place.lanes, place.lane_frames, m, states[k, 0], states[k, 1])
        if lane == JUNCTION:
            flags |= IN_JUNCTION
        elif place.has_lanes and (not flags & UNMAPPED if lane < 0 else not place.on_route[lane]):
            flags |= ONCOMING
        out[k] = flags


@njit(cache=True, nogil=True)
def crosses(before, now, half, line, facing):
    """Whether a point `half` m ahead of a car's centre crosses a stop line (x0, y0, x1, y1) between two states, in the
    direction that the line stops."""
    if math.cos(now[2] - facing) < 0.3:
        return False
    x0, y0, x1, y1 = line
    ax, ay = before[0] + half * math.cos(before[2]), before[1] + half * math.sin(before[2])
    bx, by = now[0] + half * math.cos(now[2]), now[1] + half * math.sin(now[2])
    ex, ey = x1 - x0, y1 - y0
    was, is_ = ex * (ay - y0) - ey * (ax - x0), ex * (by - y0) - ey * (bx - x0)
    if was == is_ or (was < 0.0) == (is_ < 0.0):
        return False
    u = was / (was - is_)
    px, py = ax + u * (bx - ax), ay + u * (by - ay)
    along = ((px - x0) * ex + (py - y0) * ey) / (ex * ex + ey * ey)
    return 0.0 <= along <= 1.0


@njit(cache=True, nogil=True)
def _red_crossings(states, size, span, end, lines, facing, signals, out):
    """Count red-light crossings of stop lines by the ego's front, in their direction, and write the count and the first
    step to out. span: of the ego over all steps."""
    half = 0.5 * size[0]
    for g in range(len(lines)):
        x0, y0, x1, y1 = lines[g]
        if not (min(x0, x1) < span[1] + half and max(x0, x1) > span[0] - half):
            continue
        if not (min(y0, y1) < span[3] + half and max(y0, y1) > span[2] - half):
            continue
        for k in range(1, end):
            if signals[g, k] == SIGNAL_RED and crosses(states[k - 1], states[k], half, lines[g], facing[g]):
                out[RED_LIGHTS] += 1.0
                out[RED_LIGHT_AT] = min(out[RED_LIGHT_AT], k * DT)
    out[TLC] = 0.0 if out[RED_LIGHTS] > 0.0 else 1.0


@njit(cache=True, nogil=True)
def _along_route(states, areas, end, route, route_s, foot, out):
    """Write progress along the route, lane keeping, driving direction, distances and standing up to step `end` to
    out."""
    first, last, beyond, worst = 0.0, 0.0, 0, 0.0
    out[LK] = 1.0
    for k in range(end):
        s, lateral, foot = project_on_polyline(route, route_s, states[k, 0], states[k, 1], foot)
        if k == 0:
            first = s
        last = s
        if not areas[k] & IN_JUNCTION:  # inside a junction the count neither grows nor resets
            beyond = beyond + 1 if abs(lateral) > LK_OFFSET else 0
            if beyond >= LK_STEPS:
                out[LK] = 0.0
        if states[k, 3] <= STANDING:
            out[STOOD] += 1.0
        if areas[k] & OFF_ROAD and out[OFF_ROAD_AT] == math.inf:
            out[OFF_ROAD_AT] = k * DT
        if k > 0:
            step = math.hypot(states[k, 0] - states[k - 1, 0], states[k, 1] - states[k - 1, 1])
            out[DISTANCE] += step
            if areas[k] & OFF_ROAD:
                out[OFF_ROAD_DISTANCE] += step
            if areas[k] & UNMAPPED:
                out[UNMAPPED_DISTANCE] += step
        if areas[k] & ONCOMING:  # elsewhere the sum of the last second does not grow
            astray = 0.0
            for j in range(max(1, k - DDC_STEPS), k + 1):
                if areas[j] & ONCOMING:
                    astray += math.hypot(states[j, 0] - states[j - 1, 0], states[j, 1] - states[j - 1, 1])
            worst = max(worst, astray)
    out[PROGRESS] = max(0.0, last - first)
    out[DAC] = 1.0 if out[OFF_ROAD_AT] == math.inf else 0.0
    out[DDC] = 1.0 if worst < DDC_FINE else 0.5 if worst < DDC_BAD else 0.0
    out[STOOD] /= end


@njit(cache=True, nogil=True)
def _judge_one(states, size, traffic, spans, place, stop, out):
    """Judge one motion (T, 6) among its scene's traffic (`Traffic` without its first axis; its spans (A, B + 1, 4)) and
    write FIELDS to out. stop: the drive ends with the first at-fault collision."""
    steps, agents, whole = len(states), len(traffic.states), spans.shape[1] - 1
    out[:] = 0.0
    out[NC], out[TTC] = 1.0, 1.0
    out[COLLISION_AT:END] = math.inf
    areas, trig = np.empty(steps, np.int64), np.empty((steps, 2))
    _areas(states, size, place, trig, areas)
    mine = np.empty((whole + 1, 5))
    ego_spans(states, mine)
    ego = Motion(states, size, trig, areas, mine)
    close = np.empty(agents, np.int64)
    hit_at = np.empty(agents, np.int64)  # -2: overlaps at the start, -1: never hit
    fault = np.zeros((agents, 2))
    count, end = 0, steps
    for a in range(agents):
        reach = reach_of(size, traffic.size[a])
        if not near(mine, spans[a], whole, reach):
            continue
        other = Other(traffic.states[a], traffic.seen[a], traffic.size[a], spans[a], reach)
        hit_at[a] = first_hit(ego, other, fault[a])
        close[count] = a
        count += 1
        if stop and hit_at[a] >= 0 and fault[a, 0] > 0.0:
            end = min(end, hit_at[a] + 1)
    out[END] = (end - 1) * DT
    for a in close[:count]:
        if hit_at[a] == -2:
            continue
        if out[TTC] > 0.0:
            reach = reach_of(size, traffic.size[a])
            other = Other(traffic.states[a], traffic.seen[a], traffic.size[a], spans[a], reach)
            if not keeps_clear(ego, other, end):
                out[TTC] = 0.0
        if 0 <= hit_at[a] < end:
            _count_hit(hit_at[a] * DT, fault[a], traffic.kind[a], out)
    _red_crossings(states, size, mine[whole], end, place.lines, place.facing, traffic.signals, out)
    _along_route(states, areas, end, place.route, place.route_s, place.foot, out)


@njit(cache=True, nogil=True)
def _count_hit(at, fault, kind, out):
    """Add a first contact at `at` s with an agent of this kind to out; fault (2,) as filled in by `_fault`."""
    out[CONTACTS] += 1.0
    out[AT_FAULT_CONTACTS] += fault[0]
    out[COLLISION_AT] = min(out[COLLISION_AT], at)
    if fault[0] > 0.0:
        out[AT_FAULT_AT] = min(out[AT_FAULT_AT], at)
        out[NC] = min(out[NC], 0.0 if kind <= AGENT_CYCLIST else 0.5)
    if fault[1] > 0.0:
        which = HIT_PEDESTRIANS if kind == AGENT_PEDESTRIAN else HIT_VEHICLES
        out[which if kind <= AGENT_CYCLIST else HIT_STATIC] += 1.0


@njit(cache=True, nogil=True)
def _place_of(static, s):
    """The surroundings of scene s."""
    r = static.route_n[s]
    return _Place(
        static.cells, static.frames, static.place[s], static.lanes, static.lane_frames, static.on_route[s],
        static.has_lanes[s], static.route[s, :r], static.route_s[s, :r], static.foot[s], static.lines[s],
        static.facing[s],
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _traffic_of(traffic, s):
    """The traffic of scene s."""
    return AgentTracks(traffic.states[s], traffic.seen[s], traffic.size[s], traffic.kind[s], traffic.signals[s])


@njit(cache=True, nogil=True, parallel=True)
def _judge_all(states, lengths, size, traffic, spans, static, stop, out):
    per_scene = states.shape[1]
    for i in prange(states.shape[0] * per_scene):
        s, n = i // per_scene, i % per_scene
        one = states[s, n][: lengths[s]]
        _judge_one(one, size[s], _traffic_of(traffic, s), spans[s], _place_of(static, s), stop, out[s, n])


def judge_motions(
    states: np.ndarray,
    size: np.ndarray,
    traffic: AgentTracks,
    where: Surroundings,
    stop: bool,
    lengths: np.ndarray | None = None,
) -> np.ndarray:
    """Judge motions (S, N, T, 6) of egos of size (S, 2); returns (S, N, len(FIELDS)).

    The N motions of a scene start at the same place; of each only the first `lengths` (S,) states count, or all of them
    if None. With `stop`, a drive ends at its first at-fault collision, and nothing after it counts. Times are s from
    the motion's start, infinite for events that never happened. The result of each motion does not depend on the other
    motions, the batch or the number of threads.
    """
    out = np.zeros((*states.shape[:2], len(FIELDS)))
    blocks = -(-states.shape[2] // BLOCK)
    spans = np.empty((*traffic.seen.shape[:2], blocks + 1, 4))
    agent_spans(traffic.states, traffic.seen, spans)
    static = _Static(
        where.roads.classes, where.roads.frames, where.place, where.lanes.cells, where.lanes.frames, where.on_route,
        where.has_lanes, where.route, where.route_s, where.route_n, route_feet(where, states[:, 0, 0, :2]), where.lines,
        where.facing,
    )  # fmt: skip
    lengths = np.full(len(states), states.shape[2]) if lengths is None else lengths
    _judge_all(np.ascontiguousarray(states, np.float64), lengths, size, traffic, spans, static, stop, out)
    return out
