"""Drivers: the baselines of every table (constant velocity, rule-based route follower, log replay), and the car."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from drivefoundry.sim.expert import expert_plan
from drivefoundry.sim.world import World
from drivefoundry.types import DT, PLAN_DT, PLAN_POINTS, Observation, Plan, Policy, Scene
from drivefoundry_car.inputs import to_ego
from drivefoundry_car.runtime import Runtime

TIMES = PLAN_DT * np.arange(1, PLAN_POINTS + 1)


class Privileged(Protocol):
    """A baseline: as `types.Policy`, but it reads the simulator's state instead of an Observation."""

    name: str
    privileged: Literal[True]

    def reset(self, scenes: list[Scene]) -> None: ...

    def plan(self, world: World, /) -> Plan: ...


Driver = Policy | Privileged


class ConstantVelocity:
    """Straight on at the speed of now: the floor of the NAVSIM tables."""

    name = "constant velocity"
    privileged: Literal[True] = True

    def reset(self, scenes: list[Scene]) -> None:
        pass

    def plan(self, world: World) -> Plan:
        points = np.zeros((len(world.ego), PLAN_POINTS, 3))
        points[..., 0] = world.ego[:, 3:4] * TIMES
        return Plan(points)


class RouteFollower:
    """The rule-based expert (`sim.expert`) as a policy; privileged."""

    name = "rule-based route follower"
    privileged: Literal[True] = True

    def reset(self, scenes: list[Scene]) -> None:
        pass

    def plan(self, world: World) -> Plan:
        return Plan(expert_plan(world))


class LogReplay:
    """What the recorded driver did, as plans that the simulated ego tracks; beyond the log, standing still."""

    name = "log replay"
    privileged: Literal[True] = True

    def reset(self, scenes: list[Scene]) -> None:
        pass

    def plan(self, world: World) -> Plan:
        points = np.zeros((len(world.ego), PLAN_POINTS, 3))
        for i, scene in enumerate(world.packed.scenes):
            track, ok = scene.tracks[scene.ego].astype(np.float64), scene.valid[scene.ego]
            last = len(ok) - 1 - int(np.argmax(ok[::-1]))
            t = np.minimum(scene.start + world.step + np.round(TIMES / DT).astype(int), last)
            points[i] = to_ego(track[t, :3], world.ego[i, :3])
        return Plan(points)


class CarPolicy:
    """The car's runtime (engine, guard) as a policy: what a release does in simulation is what the car would do."""

    privileged: Literal[False] = False

    def __init__(self, runtime: Runtime, name: str, *, guard: bool = True):
        self.runtime, self.name, self.guard = runtime, name, guard

    def reset(self, scenes: list[Scene]) -> None:
        self.runtime.reset()

    def plan(self, observation: Observation) -> Plan:
        o = observation
        if not self.guard:
            points, tokens = self.runtime.engine.plan(o.frames, o.ego, o.route)
            return Plan(points, tokens)
        planned = self.runtime.plan(o.frames, o.ego, o.route, o.objects)
        return Plan(planned.points, planned.tokens, planned.text, planned.guarded)
