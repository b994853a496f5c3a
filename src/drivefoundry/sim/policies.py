"""Policies: the baselines of every table (constant velocity, rule-based route follower, log replay), and the car."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from drivefoundry.sim.expert import expert_plan
from drivefoundry.sim.world import World
from drivefoundry.types import DT, PLAN_DT, PLAN_POINTS, Observation, Plan, Policy, Scene
from drivefoundry_car.driving.guard import Guard, Unguarded
from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.vehicle.inputs import to_ego

TIMES = PLAN_DT * np.arange(1, PLAN_POINTS + 1)
DECISION = round(PLAN_DT / DT)
CATCH_UP_S = 2.0
"""Time in which log replay returns to the log, s."""
TANGENT, SLOWEST = 3, 0.3
"""The direction of a logged path at a step is that from TANGENT steps before it to TANGENT steps after it, if these are
at least SLOWEST apart, m."""


@runtime_checkable
class Privileged(Policy, Protocol):
    """A baseline that reads the simulator's state, which no car can. No pictures are rendered for it."""

    def bind(self, world: World, /) -> None:
        """Set the world to drive in; called before `reset`."""
        ...


class ConstantVelocity:
    """Straight on at the current speed: the lower bound in NAVSIM's tables."""

    name = "constant velocity"
    reads_objects = False

    def reset(self, scenes: list[Scene]) -> None:
        pass

    def act(self, observation: Observation) -> Plan:
        points = np.zeros((len(observation.ego), PLAN_POINTS, 3))
        points[..., 0] = observation.ego[:, -1, :1] * TIMES
        return Plan(points)


class RouteFollower:
    """The rule-based expert (`sim.expert`) as a policy; privileged."""

    name = "rule-based route follower"
    world: World

    def bind(self, world: World) -> None:
        self.world = world

    def reset(self, scenes: list[Scene]) -> None:
        pass

    def act(self, observation: Observation) -> Plan:
        return Plan(expert_plan(self.world))


class LogReplay:
    """What the recorded driver did: the ego takes the logged states themselves; beyond the log it stands.

    exact=False: the simulated car tracks the log as far as its dynamics allow, which shows what they cannot follow
    (`tracking_error`), and can start away from the log. The ego's current deviation from the log then fades out over
    CATCH_UP_S, so that the plan is drivable. A plan's heading is the direction of the path: the simulated car has no
    side slip, and recorded headings are off by several degrees.
    """

    name = "log replay"
    world: World

    def __init__(self, *, exact: bool = True):
        self.exact = exact
        self._logged: list[np.ndarray] = []

    def bind(self, world: World) -> None:
        self.world = world

    def reset(self, scenes: list[Scene]) -> None:
        self._logged = [logged_motion(s) for s in scenes] if self.exact else []

    def act(self, observation: Observation) -> Plan:
        world = self.world
        points = np.zeros((len(world.ego), PLAN_POINTS, 3))
        ahead = np.arange(len(TIMES) * DECISION + TANGENT + 1)
        for i, scene in enumerate(world.packed.scenes):
            track, ok = scene.tracks[scene.ego].astype(np.float64), scene.valid[scene.ego]
            last = len(ok) - 1 - int(np.argmax(ok[::-1]))
            way = track[np.minimum(scene.start + world.step + ahead, last), :3]
            way[:, :2] += (world.ego[i, :2] - way[0, :2]) * np.maximum(0.0, 1.0 - ahead * DT / CATCH_UP_S)[:, None]
            at = DECISION * np.arange(1, PLAN_POINTS + 1)
            step = way[at + TANGENT, :2] - way[at - TANGENT, :2]
            forward = step[:, 0] * np.cos(way[at, 2]) + step[:, 1] * np.sin(way[at, 2]) > SLOWEST
            way[at, 2] = np.where(forward, np.arctan2(step[:, 1], step[:, 0]), way[at, 2])
            points[i] = to_ego(way[at], world.ego[i, :3])
        if not self.exact:
            return Plan(points)
        soon = world.step + 1 + np.arange(DECISION)
        return Plan(points, motion=np.stack([m[np.minimum(soon, len(m) - 1)] for m in self._logged]))


def logged_motion(scene: Scene) -> np.ndarray:
    """The logged ego from the scene's start to one step past its last logged one: (T, 6) x, y, yaw, speed,
    acceleration, yaw rate.

    In gaps of the log the ego moves evenly; the last row stands where the log ends.
    """
    known = np.flatnonzero(scene.valid[scene.ego])
    track = scene.tracks[scene.ego, known].astype(np.float64)
    track[:, 2] = np.unwrap(track[:, 2])
    t = np.arange(scene.start - 1, max(known[-1], scene.start) + 1)
    out = np.zeros((len(t) + 1, 6))
    out[:-1, :4] = np.stack([np.interp(t, known, column) for column in track.T], 1)
    out[1:-1, 4:] = np.diff(out[:-1, [3, 2]], axis=0) / DT
    logged = np.isin(t, known)
    out[:-1, 2][logged] = scene.tracks[scene.ego, t[logged], 2]  # not unwrapped: bit-identical
    out[-1, :3] = out[-2, :3]
    return out[1:]


class CarPolicy:
    """The car's runtime (engine, guard) as a policy: a release acts in simulation as it would in a car."""

    def __init__(self, runtime: Runtime, name: str):
        self.runtime, self.name, self.embodiment = runtime, name, runtime.embodiment
        self.reads_objects = not isinstance(runtime.guard, Unguarded)

    def reset(self, scenes: list[Scene]) -> None:
        self.runtime.reset()

    def act(self, observation: Observation) -> Plan:
        o = observation
        planned = self.runtime.plan(o.frames, o.ego, o.route, o.objects)
        text = planned.text if self.runtime.reason_every else None
        return Plan(planned.points, planned.tokens, text, planned.guarded)


def load_engine(folder: Path | str, *, guard: bool = True) -> CarPolicy:
    """A policy that drives with the engine in `folder`: the car's runtime, with its guard unless guard=False.
    ValueError if there is no engine."""
    runtime = Runtime.load(folder, Guard() if guard else Unguarded(), reason_every=0, patient=True)
    return CarPolicy(runtime, f"engine {Path(folder).name}" + ("" if guard else ", guard off"))
