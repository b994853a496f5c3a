"""The sensors of simulated cars, combined into the Observation of a decision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from drivefoundry.roadmap import arc_length
from drivefoundry.sim.simulator import Cameras, Sensor, Simulator
from drivefoundry.types import Observation
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment
from drivefoundry_car.vehicle.inputs import ego_history, route_features

ROUTE_BACK, ROUTE_ON = 5.0, 50.0
"""Part of its route that the navigator uses, behind and ahead of a car, m: only as much as its features need, because
at a roundabout, for example, a route soon returns to the same place."""


class SensorSuite:
    """The sensors of S cars in one simulator. Call `watch` at every step, and `observe` at a decision.

    cameras, objects (a detector, see `perception`): None if the policy reads none; others: further sensors by name.
    """

    def __init__(
        self,
        simulator: Simulator,
        body: Embodiment = CAR,
        cameras: Cameras | None = None,
        objects: Sensor | None = None,
        others: Mapping[str, Sensor] | None = None,
    ):
        self.simulator, self.body = simulator, body
        self._cameras, self._objects, self._others = cameras, objects, dict(others or {})

    def watch(self) -> None:
        """Let every sensor process this step."""
        for sensor in (self._cameras, self._objects, *self._others.values()):
            if sensor is not None:
                sensor.watch()

    def observe(self) -> Observation:
        """The policy's observation at this step."""
        frames = {} if self._cameras is None else self._cameras.read()
        objects = None if self._objects is None else self._objects.read()
        readings = {name: sensor.read() for name, sensor in self._others.items()}
        return Observation(frames, *policy_inputs(self.simulator, self.body), objects, readings)


def policy_inputs(world: Simulator, body: Embodiment = CAR) -> tuple[np.ndarray, np.ndarray]:
    """Policy inputs other than pixels: Observation.ego (S, history, state) and .route (S, features)."""
    past = np.stack(world.past, 1)
    ego = np.stack([ego_history(p[:, 3], p[:, 5], body) for p in past])
    route = np.stack([route_features(r, e) for r, e in zip(routes_near(world), world.ego[:, :3], strict=True)])
    return ego, route


def routes_near(world: Simulator, on: float = ROUTE_ON) -> list[np.ndarray]:
    """The part of each ego's route around it, up to `on` metres ahead: x, y, limit. The whole route may pass the same
    place twice."""
    out = []
    for scene, at in zip(world.packed.scenes, world.along, strict=True):
        s = arc_length(scene.route)
        first = max(0, int(np.searchsorted(s, at - ROUTE_BACK)) - 1)
        part = slice(first, int(np.searchsorted(s, at + on, "right")) + 1)
        out.append(np.column_stack([scene.route[part, :2], scene.route_speed[part]]))
    return out
