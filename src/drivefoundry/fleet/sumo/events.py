"""Surprises in running traffic: cars ahead of fleet cars brake hard, stand for a while, and drive on."""

from __future__ import annotations

from typing import Any

import numpy as np

from drivefoundry.types import DT

EVERY = 0.3
"""Interval at which a fleet car is considered for an event, s; its leader must be suitable."""
REACH = 45.0
"""Largest distance of the leader, m."""
DECELERATION = (2.5, 6.5)
"""m/s^2."""
STAND = (1.5, 5.0)
"""s."""
ROOM = 12.0
"""Least distance from the lane's end at which the leader stops, m: it must not block a junction."""
NO_COMFORT_LIMIT = 31 - 4
"""SUMO speed mode without its check of the usual deceleration; distance and right of way are still kept."""

NO_LANE_CHANGE, SUMO_LANE_CHANGE = 0b1000000000, 0b11001010101
"""SUMO lane-change modes: none at all; its own default."""


class Events:
    """At most one event per vehicle at a time. Call step() once per simulation step, before SUMO moves."""

    def __init__(self, sumo: Any, rng: np.random.Generator) -> None:
        self.sumo, self.rng = sumo, rng
        self.rest: dict[str, int] = {}
        self.until: dict[str, int] = {}
        self.held: dict[str, int] = {}
        """Step until which a car keeps its lane: the braking car and the one behind it."""

    def step(self, step: int, fleet: list[str]) -> None:
        """Start an event now and then, and end those whose time is up. fleet: names of the recording cars."""
        for name in [name for name, at in self.rest.items() if at <= step]:
            self.sumo.vehicle.setSpeed(name, 0)
            del self.rest[name]
        for name in [name for name, end in self.until.items() if end <= step]:
            self.sumo.vehicle.setSpeed(name, -1)
            self.sumo.vehicle.setSpeedMode(name, 31)
            del self.until[name]
        if fleet and step % round(EVERY / DT) == 0:
            self._begin(step, fleet[int(self.rng.integers(len(fleet)))])

    def _begin(self, step: int, car: str) -> None:
        vehicle = self.sumo.vehicle
        hardness, stand = self.rng.uniform(*DECELERATION), self.rng.uniform(*STAND)
        leader = vehicle.getLeader(car, REACH)
        if not leader or leader[0] in self.until or not leader[0]:
            return
        name, speed = leader[0], vehicle.getSpeed(leader[0])
        lane = vehicle.getLaneID(name)
        beside = max(abs(vehicle.getLateralLanePosition(v)) for v in (name, car))
        if speed < 4.0 or lane[0] == ":" or beside > 0.2:  # SUMO completes lane changes at standstill
            return
        left = self.sumo.lane.getLength(lane) - vehicle.getLanePosition(name)
        if left - speed**2 / (2 * hardness) < ROOM:
            return
        for v in (name, car):
            vehicle.setLaneChangeMode(v, NO_LANE_CHANGE)
        vehicle.setSpeedMode(name, NO_COMFORT_LIMIT)
        vehicle.slowDown(name, 0.0, speed / hardness)
        self.rest[name] = step + round(speed / hardness / DT)
        self.until[name] = self.held[name] = self.held[car] = self.rest[name] + round(stand / DT)
