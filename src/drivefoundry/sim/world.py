"""The true simulator: S scenes x A agents stepped at 10 Hz, the ego by its plan, the others by their traffic model.

The evolution of a scene depends only on the scene, the traffic and the plans, bit for bit, not on the other scenes or
the number of threads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy as np
from numba import njit, prange

from drivefoundry.geometry import first_pass, route_foot
from drivefoundry.sim.ego import (
    REF_COLUMNS,
    REF_POINTS,
    actuators,
    bicycle_step,
    plan_in_map,
    prepare_reference,
    track,
)
from drivefoundry.sim.pack import Packed, logged_ego, pack
from drivefoundry.sim.simulator import Cameras
from drivefoundry.sim.traffic.free import FreeTraffic
from drivefoundry.sim.traffic.logged import LoggedTraffic, ReactiveTraffic
from drivefoundry.types import DT, PLAN_DT, Scene, require
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment

BACK, ONWARD = 10, 40
"""Range behind and ahead along its route in which an ego is searched for after a step, m."""
PAST = 15
"""Number of past steps that a world keeps; before its start they come from the log."""


class Traffic(Protocol):
    """The agents of S scenes: created from Packed and a World's arrays states (S, A, 4), seen and brake (S, A), which
    `advance` updates."""

    state: Any
    """Tuple of arrays (S, ...) with all state of the traffic."""
    endless: bool
    """Whether it continues where the log ends."""

    def advance(self, now: np.ndarray, ego: np.ndarray) -> None:
        """Advance to log step now (S,) from the one before it; ego (S, 6): the egos at that step."""
        ...


class TrafficOf(Protocol):
    """Creates a Traffic."""

    def __call__(self, packed: Packed, states: np.ndarray, seen: np.ndarray, brake: np.ndarray, /) -> Traffic: ...


Kind = Literal["replay", "reactive", "free"]
KINDS: dict[str, TrafficOf] = {"replay": LoggedTraffic, "reactive": ReactiveTraffic, "free": FreeTraffic}


@njit(cache=True, nogil=True, parallel=True)
def _step_ego(ego, ref, since, limits):
    for i in prange(ego.shape[0]):
        accel, curvature = track(ego[i], ref[i], since)
        bicycle_step(ego[i], accel, curvature, DT, limits)


@njit(cache=True, nogil=True)
def _references(ego, points, curvature_max, ref):
    for i in range(ego.shape[0]):
        plan_in_map(ego[i], points[i], ref[i])
        prepare_reference(ref[i], curvature_max)


@njit(cache=True, nogil=True)
def _along(ego, route, n, begin, along):
    """Position of each ego along its route: near the previous one, since a route may pass the same place twice; at the
    start, on the first pass."""
    for i in range(ego.shape[0]):
        lo, hi = int(along[i]) - BACK, int(along[i]) + ONWARD
        if begin:
            lo = first_pass(route[i], n[i], ego[i, 0], ego[i, 1])
            hi = lo + 1
        along[i], _ = route_foot(route[i], n[i], ego[i, 0], ego[i, 1], lo, hi)


class World:
    """S scenes stepped together. Public arrays (read only): ego (S, 6) x, y, yaw, speed, acceleration, yaw rate;
    agents (S, A, 4); seen (S, A) bool (ego's slot False); brake (S, A) bool; along (S,) distance of the ego along
    its route, m; step: steps since the start. body: the egos' vehicle type, whose limits apply."""

    def __init__(self, packed: Packed, traffic: Kind | TrafficOf = "reactive", body: Embodiment = CAR):
        if isinstance(traffic, str):
            require(traffic in KINDS, f"traffic {traffic!r}: choose from {', '.join(KINDS)}")
            traffic = KINDS[traffic]
        self.packed = packed
        p = packed
        n, a = p.kind.shape
        self.size = p.size
        self.ego_size = p.size[np.arange(n), p.ego]
        self.step = 0
        self._limits = actuators(body)
        self.past = list(np.stack([logged_ego(s, PAST) for s in p.scenes], 1))
        """(S, 6) ego states of the last PAST steps and the current one, oldest first; from the log before the start."""
        self.ego = self.past[-1].copy()
        self.agents = np.zeros((n, a, 4))
        self.seen = np.zeros((n, a), np.bool_)
        self.brake = np.zeros((n, a), np.bool_)
        self._begin = p.start.copy()
        self.along = np.zeros(n)
        _along(self.ego, p.route, p.route_n, True, self.along)
        self.traffic = traffic(packed, self.agents, self.seen, self.brake)
        self.traffic.advance(self.now, self.ego)
        first = np.arange(n)
        t = p.start
        self.brake[:] = np.where(t[:, None] > 0, p.tracks[first, :, t, 3] - p.tracks[first, :, t - 1, 3] < -0.08, False)
        self.brake |= self.agents[..., 3] < 0.2
        self._ref = np.zeros((n, REF_POINTS, REF_COLUMNS))
        self._since = 0.0
        self._motion: list[np.ndarray] = []
        self._first = [x.copy() for x in self.traffic.state], [x.copy() for x in self.past], self.along.copy()

    @property
    def now(self) -> np.ndarray:
        """(S,) current log step of each scene."""
        return self._begin + self.step

    def steps_left(self) -> np.ndarray:
        """(S,) steps until each log ends; a very large number if the traffic needs no log."""
        if self.traffic.endless:
            return np.full(len(self.now), sys.maxsize)
        return np.array([s.valid.shape[1] for s in self.packed.scenes]) - 1 - self.now

    def restart(self, rows: np.ndarray) -> None:
        """Reset the scenes `rows` to their start; the others continue."""
        state, past, along = self._first
        for array, first in zip(self.traffic.state, state, strict=True):
            array[rows] = first[rows]
        for array, first in zip(self.past, past, strict=True):
            array[rows] = first[rows]
        self.ego[rows], self.along[rows] = past[-1][rows], along[rows]
        self._begin[rows] = self.packed.start[rows] - self.step

    def follow(self, points: np.ndarray, motion: np.ndarray | None = None) -> None:
        """Set a new plan: points (S, 8, 3) in the current ego frame.

        motion (S, K, 6): states that the egos take at the next K steps, whatever the dynamics allow; then the plan.
        """
        _references(self.ego, np.ascontiguousarray(points, np.float64), self._limits.curvature_max, self._ref)
        self._since = 0.0
        self._motion = [] if motion is None else list(np.swapaxes(motion, 0, 1))

    def advance(self) -> None:
        """Advance everything by 0.1 s: the ego along its plan, then the agents, which see the ego's new state."""
        if self._motion:
            self.ego[:] = self._motion.pop(0)
        else:
            _step_ego(self.ego, self._ref, self._since, self._limits)
        _along(self.ego, self.packed.route, self.packed.route_n, False, self.along)
        self._since = min(self._since + DT, PLAN_DT * 8)
        self.step += 1
        self.traffic.advance(self.now, self.ego)
        self.past = [*self.past[1:], self.ego.copy()]  # bounded: a drive may last for millions of steps

    def cameras(self, body: Embodiment) -> Cameras:
        """Cameras that render the scenes (`render`)."""
        from drivefoundry.sim.sensors.cameras import CameraRig  # compiles the renderer only if cameras are used

        return CameraRig(self, body)

    def signals_now(self) -> np.ndarray:
        """(S, G) uint8."""
        t = np.minimum(self.now, self.packed.signals.shape[2] - 1)
        return self.packed.signals[np.arange(len(t)), :, t]


def with_traffic(traffic: Kind | TrafficOf, body: Embodiment = CAR) -> Callable[[list[Scene]], World]:
    """Return a function that creates Worlds with this traffic and type of egos, for `drive.drive`."""
    return lambda scenes: World(pack(scenes), traffic, body)
