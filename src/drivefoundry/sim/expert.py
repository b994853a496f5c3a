"""The rule-based expert: a route follower that produces labels, serves as safety driver and is a baseline.

Intelligent driver model along the route (Treiber 2000) with constant-velocity forecasts of crossing traffic, signal
compliance, comfortable speed in bends and pure-pursuit steering: the simplest of the PDM-Closed family (Dauner 2023).
It is privileged (it reads the world's state, not pixels) but uses only what the front camera could show: nothing
outside the field of view or beyond 60 m, and no future.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from drivefoundry.geometry import route_foot
from drivefoundry.sim.traffic.idm import idm
from drivefoundry.sim.world import World
from drivefoundry.types import AGENT_PEDESTRIAN, PLAN_POINTS, SIGNAL_RED, SIGNAL_YELLOW

RANGE = 60.0
HALF_VIEW = 0.75
"""Half of the expert's horizontal field of view, rad (the 80 degree camera plus a margin for box sizes)."""
LEADS = 16
GAP, LINE_GAP = 4.0, 1.5
"""Standing distance behind an obstacle (so that its wheels stay in the picture), and before a stop line, m."""


@njit(cache=True, nogil=True)
def visible(ego, agent, length):
    """Whether the front camera could see at least part of this box."""
    dx, dy = agent[0] - ego[0], agent[1] - ego[1]
    c, s = np.cos(ego[2]), np.sin(ego[2])
    x, y = c * dx + s * dy - 1.0, -s * dx + c * dy
    d = np.hypot(x, y)
    if d > RANGE:
        return False
    return abs(np.arctan2(y, x)) < HALF_VIEW + min(0.6, 0.4 * length / max(d, 0.5))


@njit(cache=True, nogil=True)
def _conflict(ego, ego_size, s0, agent, size, kind, route, n, out):
    """Whether the agent gets in the ego's way; if so, writes (s of its near edge, speed along the route) to out."""
    dx, dy = agent[0] - ego[0], agent[1] - ego[1]
    if dx * dx + dy * dy > RANGE * RANGE:
        return False
    lo, hi = int(s0) - 2, int(s0) + int(RANGE) + 2
    walker = kind == AGENT_PEDESTRIAN
    margin = 0.7 if walker else 0.3
    t_in, t_out, near, far, along = -1.0, -1.0, 1e9, 0.0, 0.0
    for k in range(8):
        t = 0.5 * k
        x = agent[0] + agent[3] * np.cos(agent[2]) * t
        y = agent[1] + agent[3] * np.sin(agent[2]) * t
        s, lat = route_foot(route, n, x, y, lo, hi)
        turn = agent[2] - route[min(n - 1, int(s + 0.5)), 2]
        ct, st = abs(np.cos(turn)), abs(np.sin(turn))
        across = size[0] / 2 * st + size[1] / 2 * ct
        lengthwise = size[0] / 2 * ct + size[1] / 2 * st
        oncoming = np.cos(turn) < -0.5
        if oncoming and not walker and t > 1.0:
            break
        if abs(lat) < ego_size[1] / 2 + across + margin and s + lengthwise > s0 + 0.5 and s < s0 + RANGE - 1:
            if t_in < 0:
                t_in, along = t, agent[3] * np.cos(turn)
            t_out = t
            near, far = min(near, s - lengthwise), max(far, s + lengthwise)
            if t == 0.0 and np.cos(turn) > 0.5:  # already ahead: follow it
                break
        elif t_in >= 0:
            break
        if agent[3] < 0.3:
            break
    if t_in < 0:
        return False
    front = s0 + ego_size[0] / 2
    if t_in > 0.0 or abs(along) < 0.5 * agent[3]:  # crossing or cutting in: a conflict only if both are there together
        v = max(ego[3], 2.5)
        arrive, leave = (near - front) / v, (far - s0 + ego_size[0] / 2) / v
        if agent[3] > 0.3 and (arrive > t_out + 1.0 or leave < t_in - 0.8):
            return False
        if near < front - 1.0 and t_in > 0.0 and ego[3] > 1.0:
            return False  # it would drive into our side: stopping now would make it worse
    out[0] = near
    out[1] = max(0.0, along) if t_in == 0.0 or along > 0.7 * agent[3] else 0.0
    return True


@njit(cache=True, nogil=True)
def _leads(ego, ego_size, s0, agents, seen, size, kind, route, n, stops, signals, leads):
    """Everything that the ego must stay behind, as (s of its near edge, its speed, standstill gap); returns their
    number."""
    count = 0
    one = np.empty(2)
    for a in range(agents.shape[0]):
        if count == LEADS - 1:
            break
        if not seen[a] or not visible(ego, agents[a], size[a, 0]):
            continue
        if _conflict(ego, ego_size, s0, agents[a], size[a], kind[a], route, n, one):
            leads[count, 0], leads[count, 1], leads[count, 2] = one[0], one[1], GAP
            count += 1
    front = s0 + ego_size[0] / 2
    for c in range(stops.shape[0]):
        g = int(stops[c, 1])
        if g < 0 or stops[c, 0] > s0 + RANGE:
            break
        d = stops[c, 0] - front
        if d < -1.5:
            continue
        stoppable = d > ego[3] * ego[3] / (2 * 3.5)
        if (signals[g] == SIGNAL_RED and d > ego[3] * ego[3] / 16.0 - 1.5) or (
            signals[g] == SIGNAL_YELLOW and stoppable
        ):
            leads[count, 0], leads[count, 1], leads[count, 2] = stops[c, 0], 0.0, LINE_GAP
            return count + 1
    return count


@njit(cache=True, nogil=True)
def _plan_one(ego, ego_size, s0, agents, seen, size, kind, route, n, wish, stops, signals, points):
    """Drive 4 s along the route behind whatever is ahead; writes points (8, 3) in the ego frame."""
    leads = np.empty((LEADS, 3))
    count = _leads(ego, ego_size, s0, agents, seen, size, kind, route, n, stops, signals, leads)
    x, y, yaw, v = ego[0], ego[1], ego[2], ego[3]
    c0, sn0 = np.cos(yaw), np.sin(yaw)
    s = s0
    for k in range(5 * PLAN_POINTS):
        i = min(n - 1, int(s))
        accel = max(-3.0, 2.0 * (1.0 - (v / max(wish[i], 0.5)) ** 4))
        for j in range(count):
            gap = leads[j, 0] + leads[j, 1] * 0.1 * k - s - ego_size[0] / 2
            accel = min(accel, idm(v, 30.0, gap, leads[j, 1], 2.0, 2.5, 1.3, leads[j, 2]))
        accel = max(accel, -6.5)
        ahead = max(3.5, 0.9 * v)
        i = min(n - 1, int(s + ahead))
        u = s + ahead - i
        j = min(n - 1, i + 1)
        tx = route[i, 0] + u * (route[j, 0] - route[i, 0])
        ty = route[i, 1] + u * (route[j, 1] - route[i, 1])
        c, sn = np.cos(yaw), np.sin(yaw)
        px, py = c * (tx - x) + sn * (ty - y), -sn * (tx - x) + c * (ty - y)
        bend = min(0.2, max(-0.2, 2.0 * py / max(px * px + py * py, 4.0)))
        v_next = max(0.0, v + accel * 0.1)
        d = 0.05 * (v + v_next)
        v = v_next
        x += d * np.cos(yaw + bend * d / 2)
        y += d * np.sin(yaw + bend * d / 2)
        yaw += bend * d
        s, _ = route_foot(route, n, x, y, int(s) - 2, int(s) + 6)
        if k % 5 == 4:
            p = k // 5
            points[p, 0] = c0 * (x - ego[0]) + sn0 * (y - ego[1])
            points[p, 1] = -sn0 * (x - ego[0]) + c0 * (y - ego[1])
            points[p, 2] = np.arctan2(np.sin(yaw - ego[2]), np.cos(yaw - ego[2]))


@njit(cache=True, nogil=True, parallel=True)
def _plan_all(ego, slot, along, agents, seen, size, kind, route, n, wish, stops, signals, points):
    for i in prange(ego.shape[0]):
        _plan_one(
            ego[i], size[i, slot[i]], along[i], agents[i], seen[i], size[i], kind[i], route[i], n[i], wish[i], stops[i],
            signals[i], points[i],
        )  # fmt: skip


def expert_plan(world: World) -> np.ndarray:
    """The expert's plans from here: (S, 8, 3) x, y, yaw in the ego frame at 0.5 .. 4 s."""
    p = world.packed
    points = np.zeros((len(world.ego), PLAN_POINTS, 3))
    _plan_all(
        world.ego, p.ego, world.along, world.agents, world.seen, p.size, p.kind, p.route, p.route_n, p.route_speed,
        p.route_stops, world.signals_now(), points,
    )  # fmt: skip
    return points


@njit(cache=True, nogil=True, parallel=True)
def _danger_all(ego, slot, along, agents, seen, size, route, n, stops, signals, plan, right, out):
    for i in prange(ego.shape[0]):
        mine = size[i, slot[i]]
        c, sn = np.cos(ego[i, 2]), np.sin(ego[i, 2])
        s0, lat0 = route_foot(route[i], n[i], ego[i, 0], ego[i, 1], int(along[i]) - 2, int(along[i]) + 3)
        out[i] = 0
        for k in range(4):
            t = 0.5 * (k + 1)
            x = ego[i, 0] + c * plan[i, k, 0] - sn * plan[i, k, 1]
            y = ego[i, 1] + sn * plan[i, k, 0] + c * plan[i, k, 1]
            s, lat = route_foot(route[i], n[i], x, y, int(s0) - 3, int(s0) + 45)
            if k < 3 and abs(lat) > 1.3 and abs(lat) > abs(lat0) + 0.1:
                out[i] = 2
            for j in range(stops.shape[1]):
                g = int(stops[i, j, 1])
                if g < 0:
                    break
                d = stops[i, j, 0] - mine[0] / 2
                if signals[i, g] == SIGNAL_RED and s0 < d + 1.0 and s > d + 1.5:
                    out[i] = 3
            for a in range(agents.shape[1]):
                if not seen[i, a]:
                    continue
                ax = agents[i, a, 0] + agents[i, a, 3] * np.cos(agents[i, a, 2]) * t
                ay = agents[i, a, 1] + agents[i, a, 3] * np.sin(agents[i, a, 2]) * t
                dx, dy = ax - x, ay - y
                if dx * dx + dy * dy > 100.0:
                    continue
                yaw = ego[i, 2] + plan[i, k, 2]
                px, py = np.cos(yaw) * dx + np.sin(yaw) * dy, -np.sin(yaw) * dx + np.cos(yaw) * dy
                turn = agents[i, a, 2] - yaw
                ct, st = abs(np.cos(turn)), abs(np.sin(turn))
                lx = size[i, a, 0] / 2 * ct + size[i, a, 1] / 2 * st
                ly = size[i, a, 0] / 2 * st + size[i, a, 1] / 2 * ct
                if px > 0 and px < mine[0] / 2 + lx + 0.5 and abs(py) < mine[1] / 2 + ly + 0.1:
                    out[i] = 1
        if plan[i, 3, 0] < 0.5 and right[i, 3, 0] > 3.0:
            out[i] = max(out[i], 4)


DANGERS = ("", "collision", "off route", "red light", "stalled")


def dangers(world: World, plan: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Dangers of plans (S, 8, 3) as a safety driver sees them, given the right plans (S, 8, 3): (S,) index into
    DANGERS.

    Looks 2 s ahead with constant-velocity forecasts: overlap with a box ahead, leaving the lane, running a red light;
    and, as a nuisance rather than a danger, standing although the way is free.
    """
    p = world.packed
    out = np.zeros(len(world.ego), np.int64)
    _danger_all(
        world.ego, p.ego, world.along, world.agents, world.seen, p.size, p.route, p.route_n, p.route_stops,
        world.signals_now(), plan, right, out,
    )  # fmt: skip
    return out
