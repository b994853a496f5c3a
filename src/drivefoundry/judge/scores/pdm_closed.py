"""A planner in the style of PDM-Closed, a privileged baseline (Dauner et al., CoRL 2023).

At every decision it makes 15 proposals, three lateral offsets from the route times five target speeds, each following
its leads by the intelligent driver model (Treiber 2000). They are simulated among agents at constant velocity and
scored with the judge's own terms; the best is driven. Like the original it knows the state of the world but not the
future. It produces no labels, so it may look all around, unlike the expert (`sim.expert`), which sees only what a front
camera sees.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from drivefoundry.geometry import project_on_polyline
from drivefoundry.judge.scores.comfort import PAST, SAMPLES
from drivefoundry.judge.scores.motion import AgentTracks
from drivefoundry.judge.scores.pdm import Situations, score
from drivefoundry.judge.scores.surroundings import Surroundings, surroundings
from drivefoundry.sim.traffic.idm import idm
from drivefoundry.sim.world import World
from drivefoundry.types import DT, PLAN_POINTS, SIGNAL_RED, Observation, Plan, Scene

OFFSETS = np.array([0.0, 1.0, -1.0])
"""To the left of the route, m. Ties go to the first offset and speed."""
SPEEDS = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
"""Fractions of the comfortable speed along the route."""
RANGE = 80.0
CHANGE_S = 2.0
"""Time for a proposal to reach its offset, s."""
ACCEL, BRAKE, BRAKE_MAX, HEADWAY, STANDSTILL, ASIDE = 1.5, 3.0, 6.0, 1.5, 2.0, 0.2
"""IDM parameters (m/s^2 three times, s, m), and the clearance required beside the ego's box, m."""
STEPS = SAMPLES - 1


class PdmClosed:
    """Policy that drives the best-scored proposal; see the module."""

    name = "PDM-Closed style"
    world: World

    def __init__(self) -> None:
        self._where: Surroundings | None = None

    def bind(self, world: World) -> None:
        self.world = world

    def reset(self, scenes: list[Scene]) -> None:
        self._where = surroundings(scenes)

    def act(self, observation: Observation) -> Plan:
        assert self._where is not None, "reset comes first"
        plans = proposals(self.world)
        merit = score(_situations(self.world, self._where), plans[:, :-1])["EPDMS"]
        best = np.where(merit.max(1) > 0.0, merit.argmax(1), -1)  # if all break a rule: brake
        return Plan(plans[np.arange(len(plans)), best])


def proposals(world: World) -> np.ndarray:
    """Plans (S, 16, 8, 3) in the ego frame: offsets x speeds, then full braking along the route."""
    p = world.packed
    out = np.zeros((len(world.ego), len(OFFSETS) * len(SPEEDS) + 1, PLAN_POINTS, 3))
    _propose_all(
        world.ego, world.ego_size, world.agents, world.seen, p.size, p.route, p.route_n, p.route_speed, p.route_stops,
        world.signals_now(), np.arange(p.route.shape[1], dtype=np.float64), out,
    )  # fmt: skip
    return out


def _situations(world: World, where: Surroundings) -> Situations:
    """The world's current state, with every agent continuing at constant velocity."""
    n = len(world.ego)
    t = np.arange(SAMPLES) * DT
    states = np.repeat(world.agents[:, :, None], SAMPLES, 2)
    states[..., 0] += np.cos(states[..., 2]) * states[..., 3] * t
    states[..., 1] += np.sin(states[..., 2]) * states[..., 3] * t
    signals = np.repeat(world.signals_now()[..., None], SAMPLES, 2)
    traffic = AgentTracks(
        states, np.repeat(world.seen[..., None], SAMPLES, 2), np.ascontiguousarray(world.size[..., :2], np.float64),
        world.packed.kind, signals,
    )  # fmt: skip
    nothing = np.zeros((n, PLAN_POINTS, 3))
    return Situations(
        start=world.ego.copy(), size=np.ascontiguousarray(world.ego_size[:, :2], np.float64),
        past=np.zeros((n, PAST, 6)), past_n=np.zeros(n, np.int64), human=nothing, human_known=np.zeros(n, np.bool_),
        human_before=nothing, before=world.ego.copy(), traffic=traffic, where=where,
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _corridor(agent, size, route, at, foot, out):
    """Project one agent at constant velocity onto the route; write near edge m, lateral offset m, half its lateral
    extent m and speed along the route m/s to out (STEPS, 4)."""
    for k in range(STEPS):
        x = agent[0] + agent[3] * math.cos(agent[2]) * k * DT
        y = agent[1] + agent[3] * math.sin(agent[2]) * k * DT
        s, lateral, foot = project_on_polyline(route, at, x, y, foot)
        turn = agent[2] - route[foot, 2]
        c, d = abs(math.cos(turn)), abs(math.sin(turn))
        out[k, 0] = s - 0.5 * (size[0] * c + size[1] * d)
        out[k, 1], out[k, 2], out[k, 3] = lateral, 0.5 * (size[0] * d + size[1] * c), agent[3] * math.cos(turn)


@njit(cache=True, nogil=True)
def _lead(k, s, half, room, offset, others, count, stop):
    """Gap to the obstacle ahead at step k, m, and its speed along the route; (inf, 0) if the way is free."""
    gap, speed = stop - s - half, 0.0
    for a in range(count):
        near, lateral, across, along = others[a, k]
        if abs(lateral - offset) < room + across and near > s - half and near - s - half < gap:
            gap, speed = near - s - half, max(0.0, along)
    return gap, speed


@njit(cache=True, nogil=True)
def _point(route, n, s, lateral, slope, ego, out):
    """Write the pose at arc length s and lateral offset of the route (points 1 m apart), x, y, yaw in the ego frame, to
    out (3,)."""
    i = min(n - 2, int(s))
    u = min(1.0, s - i)
    yaw = route[i, 2] + u * math.atan2(math.sin(route[i + 1, 2] - route[i, 2]), math.cos(route[i + 1, 2] - route[i, 2]))
    dx = route[i, 0] + u * (route[i + 1, 0] - route[i, 0]) - math.sin(yaw) * lateral - ego[0]
    dy = route[i, 1] + u * (route[i + 1, 1] - route[i, 1]) + math.cos(yaw) * lateral - ego[1]
    c, d = math.cos(ego[2]), math.sin(ego[2])
    turn = yaw + math.atan(slope) - ego[2]
    out[0], out[1], out[2] = c * dx + d * dy, c * dy - d * dx, math.atan2(math.sin(turn), math.cos(turn))


@njit(cache=True, nogil=True)
def _propose(ego, ego_size, agents, seen, size, route, n, wish, stops, signals, at, out):
    """Write all proposals of one car to out (16, 8, 3)."""
    way, at = route[:n], at[:n]
    s0, lateral0, foot0 = project_on_polyline(way, at, ego[0], ego[1], -1)
    others, count = np.empty((len(agents), STEPS, 4)), 0
    for a in range(len(agents)):
        if seen[a] and math.hypot(agents[a, 0] - ego[0], agents[a, 1] - ego[1]) < RANGE:
            _corridor(agents[a], size[a], way, at, foot0, others[count])
            count += 1
    half, stop = 0.5 * ego_size[0], math.inf
    for c in range(len(stops)):
        g = int(stops[c, 1])
        if g >= 0 and signals[g] == SIGNAL_RED and stops[c, 0] > s0 + half - 1.0:
            stop = min(stop, stops[c, 0])
    for j in range(len(out)):
        braking = j == len(out) - 1
        offset = lateral0 if braking else OFFSETS[j // len(SPEEDS)]
        share = 1.0 if braking else SPEEDS[j % len(SPEEDS)]
        s, v = s0, ego[3]
        for k in range(STEPS):
            gap, lead = _lead(k, s, half, 0.5 * ego_size[1] + ASIDE, offset, others, count, stop)
            free = max(-BRAKE, ACCEL * (1.0 - (v / max(share * wish[min(n - 1, int(s))], 0.1)) ** 4))
            accel = max(-BRAKE_MAX, min(free, idm(v, 40.0, gap, lead, ACCEL, BRAKE, HEADWAY, STANDSTILL)))
            after = max(0.0, v + (-8.0 if braking else accel) * DT)
            s += 0.5 * (v + after) * DT
            v = after
            if k % 5 == 4:
                u = min(1.0, (k + 1) * DT / CHANGE_S)
                lateral = lateral0 + (offset - lateral0) * u * u * (3.0 - 2.0 * u)
                slope = (offset - lateral0) * 6.0 * u * (1.0 - u) / CHANGE_S / max(v, 1.0)
                _point(route, n, s, lateral, slope, ego, out[j, k // 5])


@njit(cache=True, nogil=True, parallel=True)
def _propose_all(ego, ego_size, agents, seen, size, route, n, wish, stops, signals, at, out):
    for i in prange(len(ego)):
        _propose(
            ego[i], ego_size[i], agents[i], seen[i], size[i], route[i], n[i], wish[i], stops[i], signals[i], at, out[i]
        )
