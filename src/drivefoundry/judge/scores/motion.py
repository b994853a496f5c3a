"""Ego motions among moving agents in, what they did out: the terms of NAVSIM's scores and the events of CARLA's.

One kernel serves proposals of 4 s and whole drives. Collision types and faults follow nuPlan: with a stopped other or
at the own front the ego is at fault; from the side only if it straddles lanes or leaves the road; standing or hit from
behind never.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from drivefoundry.edges import MAPPED_ROAD, NO_ROAD, ground_at
from drivefoundry.edges import UNMAPPED as UNMAPPED_GROUND
from drivefoundry.geometry import boxes_overlap, project_on_polyline
from drivefoundry.judge.scores.lanes import JUNCTION, lane_at
from drivefoundry.judge.scores.nearby import BLOCK, TTC_STEPS, agent_spans, ego_spans, near, reach_of, touch
from drivefoundry.judge.scores.surroundings import Surroundings, route_feet
from drivefoundry.types import AGENT_CYCLIST, AGENT_PEDESTRIAN, DT, SIGNAL_RED
from drivefoundry_car.vehicle.embodiment import CAR

STANDING = 0.05
"""Speed up to which a car counts as standing when it is hit, m/s."""
TTC_STANDING = 0.005
AHEAD_COS = math.cos(math.radians(30.0))
"""Within 30 degrees of the nose is ahead, within 30 of the tail is behind."""
REAR_AXLE = CAR.rear_axle / CAR.length
"""Rear axle behind the box centre, in lengths: angles to others are taken from there."""
DDC_STEPS, DDC_FINE, DDC_BAD = 10, 2.0, 6.0
"""Metres against the driving direction within 1 s: below 2 fine, from 6 on bad."""
LK_OFFSET, LK_STEPS = 0.5, 20

SLACK = 0.2
"""A corner this near to the road, m, is on it: one texel, no better is the edge known (nuPlan grants 0.3 m)."""

OFF_ROAD, STRADDLING, IN_JUNCTION, ONCOMING, UNMAPPED = 1, 2, 4, 8, 16

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


@dataclass(frozen=True)
class Traffic:
    """Everyone but the ego, on the clock of the motions: states (S, A, T, 4) x, y, yaw, speed; seen (S, A, T) bool;
    size (S, A, 2) length, width; kind (S, A), codes past the agents' are static things; signals (S, G, T)."""

    states: np.ndarray
    seen: np.ndarray
    size: np.ndarray
    kind: np.ndarray
    signals: np.ndarray


@njit(cache=True, nogil=True)
def _ground(cells, frames, m, x, y):
    """The best of the ground here and one texel away, as `ground_at` tells it."""
    best = ground_at(cells, frames, m, x, y)
    if best == MAPPED_ROAD:
        return best
    best = max(best, ground_at(cells, frames, m, x + SLACK, y), ground_at(cells, frames, m, x - SLACK, y))
    return max(best, ground_at(cells, frames, m, x, y + SLACK), ground_at(cells, frames, m, x, y - SLACK))


@njit(cache=True, nogil=True)
def _areas(states, size, trig, cells, frames, m, lanes, lane_frames, on_route, has_lanes, out):
    """Where the ego is at each step: OFF_ROAD | STRADDLING | IN_JUNCTION | ONCOMING | UNMAPPED flags into out (T,);
    cosine and sine of its heading into trig (T, 2). Who has left the road is off it until it is back on a road."""
    beside = np.empty(4, np.int64)
    for k in range(len(states)):
        c, s = math.cos(states[k, 2]), math.sin(states[k, 2])
        trig[k, 0], trig[k, 1] = c, s
        flags = 0
        for j in range(4):  # front left, rear left, rear right, front right
            a, b = (0.5 if j in (0, 3) else -0.5) * size[0], (0.5 if j < 2 else -0.5) * size[1]
            x, y = states[k, 0] + a * c - b * s, states[k, 1] + a * s + b * c
            if not flags & OFF_ROAD:
                ground = _ground(cells, frames, m, x, y)
                flags = OFF_ROAD if ground == NO_ROAD else UNMAPPED if ground == UNMAPPED_GROUND else flags
            beside[j] = lane_at(lanes, lane_frames, m, x, y)
        if flags & UNMAPPED and k > 0 and out[k - 1] & OFF_ROAD:
            flags = OFF_ROAD
        # Left and right corner of one end in two lanes. Front and rear in two lanes is just driving on.
        front = beside[0] >= 0 and beside[3] >= 0 and beside[0] != beside[3]
        rear = beside[1] >= 0 and beside[2] >= 0 and beside[1] != beside[2]
        if front or rear:
            flags |= STRADDLING
        lane = lane_at(lanes, lane_frames, m, states[k, 0], states[k, 1])
        if lane == JUNCTION:
            flags |= IN_JUNCTION
        elif has_lanes and (not flags & UNMAPPED if lane < 0 else not on_route[lane]):
            flags |= ONCOMING
        out[k] = flags


@njit(cache=True, nogil=True)
def _bearing(state, length, x, y):
    """Cosine of the angle between the ego's heading and the way from its rear axle to x, y."""
    c, s = math.cos(state[2]), math.sin(state[2])
    dx, dy = x - (state[0] - REAR_AXLE * length * c), y - (state[1] - REAR_AXLE * length * s)
    return (dx * c + dy * s) / max(math.hypot(dx, dy), 1e-9)


@njit(cache=True, nogil=True)
def _first_hit(states, trig, size, areas, other, seen, other_size, reach, spans, other_spans, out):
    """First overlap with one agent that did not overlap at the start: step (-1 none) out; out (2,) = at fault, ego
    active."""
    steps = len(states)
    for block in range(len(spans) - 1):
        if not near(spans, other_spans, block, reach):
            continue
        for k in range(block * BLOCK, min(steps, (block + 1) * BLOCK)):
            if not seen[k]:
                continue
            if not touch(
                states[k, 0], states[k, 1], states[k, 2], trig[k, 0], trig[k, 1], size[0], size[1],
                other[k, 0], other[k, 1], other[k, 2], other_size[0], other_size[1], reach,
            ):  # fmt: skip
                continue
            if k == 0:
                return -2
            _fault(states[k], size, areas[k], other[k], other_size, out)
            return k
    return -1


@njit(cache=True, nogil=True)
def _fault(e, size, area, o, other_size, out):
    """Ego and agent at first contact in; out (2,) = at fault, ego active (neither standing nor hit from behind)."""
    out[0], out[1] = 0.0, 0.0
    if e[3] <= STANDING:
        return
    if o[3] <= STANDING:
        out[0], out[1] = 1.0, 1.0
    elif _bearing(e, size[0], o[0], o[1]) >= -AHEAD_COS:
        out[1] = 1.0
        c, s = 0.5 * size[0] * math.cos(e[2]), 0.5 * size[0] * math.sin(e[2])
        front = boxes_overlap(e[0] + c, e[1] + s, e[2], 0.0, size[1], o[0], o[1], o[2], other_size[0], other_size[1])
        if front or area & (OFF_ROAD | STRADDLING):
            out[0] = 1.0


@njit(cache=True, nogil=True)
def _keeps_clear(states, trig, size, areas, other, seen, other_size, reach, spans, other_spans, end):
    """Time to collision with one agent stays within bounds up to step `end`: the ego moved on for up to 0.9 s hits
    nothing."""
    for block in range(len(spans) - 1):
        if not near(spans, other_spans, block, reach):
            continue
        for k in range(block * BLOCK, min(end - TTC_STEPS[-1], (block + 1) * BLOCK)):
            x, y, v = states[k, 0], states[k, 1], states[k, 3]
            if v < TTC_STANDING:
                continue
            c, s = trig[k, 0], trig[k, 1]
            for f in TTC_STEPS:
                if not seen[k + f]:
                    continue
                move = v * f * DT
                ox, oy = other[k + f, 0], other[k + f, 1]
                if not touch(
                    x + c * move, y + s * move, states[k, 2], c, s, size[0], size[1],
                    ox, oy, other[k + f, 2], other_size[0], other_size[1], reach,
                ):  # fmt: skip
                    continue
                ahead = _bearing(states[k], size[0], ox, oy)
                if ahead > AHEAD_COS:
                    return False
                # From the side it is the ego's doing only where it is not simply in its lane. An agent whose doing it
                # is stays out of the count from here on.
                return not (areas[k] & (OFF_ROAD | STRADDLING | IN_JUNCTION) and ahead >= -AHEAD_COS)
    return True


@njit(cache=True, nogil=True)
def crosses(before, now, half, line, facing):
    """Does a point `half` m ahead of a car's centre cross a stop line (x0, y0, x1, y1), in the direction that it stops,
    between two states?"""
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
    """Stop lines that the front of the ego crosses, in their direction, on red: every time counted into out, with the
    first step. span: of the ego over all steps."""
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
    """Progress along the route, lane keeping, driving direction, distances and standing up to step `end`, into out."""
    first, last, beyond, worst = 0.0, 0.0, 0, 0.0
    out[LK] = 1.0
    for k in range(end):
        s, lateral, foot = project_on_polyline(route, route_s, states[k, 0], states[k, 1], foot)
        if k == 0:
            first = s
        last = s
        if not areas[k] & IN_JUNCTION:  # inside a junction the count neither grows nor ends
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
def _judge_one(
    states, size, traffic, seen, sizes, kind, other_spans, signals, cells, frames, m, lanes, lane_frames, on_route,
    has_lanes, route, route_s, foot, lines, facing, stop, out,
):  # fmt: skip
    """One motion (T, 6) in, FIELDS into out. stop: the drive ends with the first collision at fault."""
    steps, agents, whole = len(states), len(traffic), other_spans.shape[1] - 1
    out[:] = 0.0
    out[NC], out[TTC] = 1.0, 1.0
    out[COLLISION_AT:END] = math.inf
    areas, trig = np.empty(steps, np.int64), np.empty((steps, 2))
    _areas(states, size, trig, cells, frames, m, lanes, lane_frames, on_route, has_lanes, areas)
    spans = np.empty((whole + 1, 5))
    ego_spans(states, spans)
    close = np.empty(agents, np.int64)
    hit_at = np.empty(agents, np.int64)  # -2 overlaps at the start, -1 never hit
    fault = np.zeros((agents, 2))
    count, end = 0, steps
    for a in range(agents):
        reach = reach_of(size, sizes[a])
        if not near(spans, other_spans[a], whole, reach):
            continue
        hit_at[a] = _first_hit(
            states, trig, size, areas, traffic[a], seen[a], sizes[a], reach, spans, other_spans[a], fault[a]
        )
        close[count] = a
        count += 1
        if stop and hit_at[a] >= 0 and fault[a, 0] > 0.0:
            end = min(end, hit_at[a] + 1)
    out[END] = (end - 1) * DT
    for a in close[:count]:
        if hit_at[a] == -2:
            continue
        reach = reach_of(size, sizes[a])
        if out[TTC] > 0.0 and not _keeps_clear(
            states, trig, size, areas, traffic[a], seen[a], sizes[a], reach, spans, other_spans[a], end
        ):
            out[TTC] = 0.0
        if hit_at[a] < 0 or hit_at[a] >= end:
            continue
        at = hit_at[a] * DT
        out[CONTACTS] += 1.0
        out[AT_FAULT_CONTACTS] += fault[a, 0]
        out[COLLISION_AT] = min(out[COLLISION_AT], at)
        if fault[a, 0] > 0.0:
            out[AT_FAULT_AT] = min(out[AT_FAULT_AT], at)
            out[NC] = min(out[NC], 0.0 if kind[a] <= AGENT_CYCLIST else 0.5)
        if fault[a, 1] > 0.0:
            which = HIT_PEDESTRIANS if kind[a] == AGENT_PEDESTRIAN else HIT_VEHICLES
            out[which if kind[a] <= AGENT_CYCLIST else HIT_STATIC] += 1.0
    _red_crossings(states, size, spans[whole], end, lines, facing, signals, out)
    _along_route(states, areas, end, route, route_s, foot, out)


@njit(cache=True, nogil=True, parallel=True)
def _judge_all(
    states, size, traffic, seen, sizes, kind, other_spans, signals, cells, frames, place, lanes, lane_frames, on_route,
    has_lanes, route, route_s, route_n, foot, lines, facing, stop, lengths, out,
):  # fmt: skip
    per_scene = states.shape[1]
    for i in prange(states.shape[0] * per_scene):
        s, n = i // per_scene, i % per_scene
        r = route_n[s]
        _judge_one(
            states[s, n][: lengths[s]], size[s], traffic[s], seen[s], sizes[s], kind[s], other_spans[s], signals[s],
            cells, frames, place[s], lanes, lane_frames, on_route[s], has_lanes[s], route[s, :r], route_s[s, :r],
            foot[s], lines[s], facing[s], stop, out[s, n],
        )  # fmt: skip


def judge_motions(
    states: np.ndarray,
    size: np.ndarray,
    traffic: Traffic,
    where: Surroundings,
    stop: bool,
    lengths: np.ndarray | None = None,
) -> np.ndarray:
    """Judge motions (S, N, T, 6) of egos of size (S, 2): (S, N, len(FIELDS)).

    The N motions of a scene start at the same place; of each only the first `lengths` (S,) states count, all of them
    where None. With `stop` a drive ends at its first collision at fault: nothing
    after it counts. Times are s from the motion's start, infinite where a thing never happened; the result of each
    motion depends on nothing but itself, whatever the batch or the number of threads.
    """
    out = np.zeros((*states.shape[:2], len(FIELDS)))
    blocks = -(-states.shape[2] // BLOCK)
    spans = np.empty((*traffic.seen.shape[:2], blocks + 1, 4))
    agent_spans(traffic.states, traffic.seen, spans)
    _judge_all(
        np.ascontiguousarray(states, np.float64), size, traffic.states, traffic.seen, traffic.size, traffic.kind, spans,
        traffic.signals, where.roads.classes, where.roads.frames, where.place, where.lanes.cells, where.lanes.frames,
        where.on_route, where.has_lanes, where.route, where.route_s, where.route_n, route_feet(where, states[:, 0, 0,
        :2]), where.lines, where.facing, stop, np.full(len(states), states.shape[2]) if lengths is None else lengths,
        out,
    )  # fmt: skip
    return out
