"""Plant rare events in running traffic, with ground truth: what happens to which recording car, when, and by whom.

There are six kinds, all made with SUMO's own means. An event counts from the first step at which its criterion holds;
criteria use the simulator's state only: positions, headings, speeds and lights of the road users involved. Otherwise
(nobody in sight, nobody in the way) it is not an event. Sight: within SIGHT m and in the front camera's field of view,
ignoring occlusion. Runs in SUMO's process, so nothing here may import pyarrow, lance or torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from drivefoundry.fleet.sumo.events import NO_COMFORT_LIMIT, NO_LANE_CHANGE
from drivefoundry.types import DT

KINDS = ("hard_brake", "cut_in", "jaywalker", "stalled_car", "phantom_brake", "light_running")
SIGHT, VIEW = 40.0, 0.84
"""Sight range, m; tangent of half the front camera's field of view."""
PATIENCE = 120.0
"""A car without an opportunity for its kind of event for this long gets another kind, s."""
LASTS = 12.0
"""An event whose criterion does not hold within this time of its start does not count, s."""
REST = 20.0
"""Least time between two events of one car, s."""
ROOM = 25.0
"""Lane that a car must still have ahead, m: only light running starts at a junction."""
NO_LIGHTS = 0b0000111
"""SUMO speed mode without lights and right of way; distance is still kept."""
OBEDIENT = 31
FORCED = 0
"""SUMO lane-change mode: execute commands regardless of other vehicles."""


@dataclass(frozen=True)
class Planted:
    """One event: at simulation `step`, to recording car `car`, caused by `who` (the car itself if nobody else is
    involved)."""

    kind: str
    step: int
    car: str
    who: str


@dataclass
class _Open:
    """An event that has started. crossing: start (2,) and velocity (2,) m/s of a walker; red: the last light that the
    car faced."""

    kind: str
    begun: int
    car: str
    who: str
    until: int
    speed: float
    crossing: tuple[np.ndarray, np.ndarray] | None = None
    counted: bool = False
    red: bool = False


class Planting:
    """At most one event per car at a time, at random times, per_hour per hour on average.

    Call step() once per simulation step, before SUMO moves. `happened`: the events so far, by time.
    """

    def __init__(self, sumo: Any, rng: np.random.Generator, per_hour: float, kinds: tuple[str, ...] = KINDS) -> None:
        self.sumo, self.rng, self.per_hour, self.kinds = sumo, rng, per_hour, kinds
        self.happened: list[Planted] = []
        self.held: dict[str, int] = {}
        """Step until which a car keeps its lane."""
        self.open: dict[str, _Open] = {}
        self.due: dict[str, tuple[int, str]] = {}
        self.walkers = 0

    def step(self, step: int, fleet: list[str]) -> None:
        """Advance and end running events, start due ones. fleet: names of the recording cars."""
        for event in list(self.open.values()):
            self._go_on(event, step)
        for car in fleet:
            if car not in self.due:
                self.due[car] = self._next(step)
            at, kind = self.due[car]
            if car in self.open or at > step or (step - at) % 2:
                continue
            event = self._begin(kind, car, step)
            if event is not None:
                self.open[car] = event
                self.due[car] = self._next(event.until + round(REST / DT))
            elif step - at > PATIENCE / DT:
                self.due[car] = step + 2, self._kind()

    def _kind(self) -> str:
        return self.kinds[int(self.rng.integers(len(self.kinds)))]

    def _next(self, step: int) -> tuple[int, str]:
        return step + round(float(self.rng.exponential(3600 / self.per_hour)) / DT), self._kind()

    def _begin(self, kind: str, car: str, step: int) -> _Open | None:
        """Start an event of this kind if the car's situation allows it."""
        vehicle = self.sumo.vehicle
        lane, speed = vehicle.getLaneID(car), vehicle.getSpeed(car)
        if not lane or lane[0] == ":" or speed < 6.0 or abs(vehicle.getLateralLanePosition(car)) > 0.2:
            return None
        left = self.sumo.lane.getLength(lane) - vehicle.getLanePosition(car)
        event = getattr(self, f"_{kind}")(car, step, lane, speed, left)
        if event is not None:
            for name in {car, event.who} & set(vehicle.getIDList()):
                self.held[name] = event.until
                if kind != "cut_in" or name == car:
                    vehicle.setLaneChangeMode(name, NO_LANE_CHANGE)
        return event

    def _leader(self, car: str, reach: float) -> tuple[str, float] | None:
        found = self.sumo.vehicle.getLeader(car, reach)
        return found if found and found[0] else None

    def _leader_stops(
        self, kind: str, car: str, step: int, gap: tuple[float, float], hardness: float, stand: float
    ) -> _Open | None:
        vehicle, leader = self.sumo.vehicle, self._leader(car, 80.0)
        if leader is None or not gap[0] < leader[1] < gap[1] or self._busy(leader[0]):
            return None
        name, lane, speed = leader[0], vehicle.getLaneID(leader[0]), vehicle.getSpeed(leader[0])
        left = self.sumo.lane.getLength(lane) - vehicle.getLanePosition(name) - speed**2 / (2 * hardness)
        if lane != vehicle.getLaneID(car) or left < 12.0 or speed < 6.0:
            return None
        self._brake(name, speed, hardness)
        return _Open(kind, step, car, name, step + round((speed / hardness + stand) / DT), speed)

    def _hard_brake(self, car: str, step: int, lane: str, speed: float, left: float) -> _Open | None:
        return self._leader_stops("hard_brake", car, step, (4.0, 25.0), 6.5, 2.0)

    def _stalled_car(self, car: str, step: int, lane: str, speed: float, left: float) -> _Open | None:
        return self._leader_stops("stalled_car", car, step, (25.0, 60.0), 5.0, 12.0)

    def _phantom_brake(self, car: str, step: int, lane: str, speed: float, left: float) -> _Open | None:
        if left < 60.0 or self._leader(car, 60.0) is not None or speed < 8.0:
            return None
        self._brake(car, speed, 5.5, to=2.0)
        return _Open("phantom_brake", step, car, car, step + round((speed - 2.0) / 5.5 / DT) + 5, speed)

    def _light_running(self, car: str, step: int, lane: str, speed: float, left: float) -> _Open | None:
        lights = self.sumo.vehicle.getNextTLS(car)
        if not lights or lights[0][3] not in "rR" or not 6.0 < lights[0][2] < 40.0 or self._leader(car, 40.0):
            return None
        self.sumo.vehicle.setSpeedMode(car, NO_LIGHTS)
        self.sumo.vehicle.setSpeed(car, speed)
        return _Open("light_running", step, car, car, step + round((lights[0][2] + 20.0) / speed / DT), speed)

    def _cut_in(self, car: str, step: int, lane: str, speed: float, left: float) -> _Open | None:
        vehicle = self.sumo.vehicle
        edge, index = lane.rsplit("_", 1)
        if left < ROOM:
            return None
        place = vehicle.getLanePosition(car)
        for beside in (int(index) - 1, int(index) + 1):
            if not 0 <= beside < self.sumo.edge.getLaneNumber(edge):
                continue
            for name in sorted(self.sumo.lane.getLastStepVehicleIDs(f"{edge}_{beside}")):
                gap = vehicle.getLanePosition(name) - vehicle.getLength(name) - place
                slower = max(speed - vehicle.getSpeed(name), 0.0)
                if not 3.0 + slower < gap < 16.0 or slower > 5.0 or self._busy(name):
                    continue
                if abs(vehicle.getLateralLanePosition(name)) > 0.2:
                    continue
                vehicle.setSpeed(name, max(vehicle.getSpeed(name), speed))  # it accelerates
                vehicle.setLaneChangeMode(name, FORCED)
                vehicle.changeLane(name, int(index), 5.0)
                return _Open("cut_in", step, car, name, step + round(5.0 / DT), speed)
        return None

    def _jaywalker(self, car: str, step: int, lane: str, speed: float, left: float) -> _Open | None:
        ahead = 1.6 * speed + 6.0
        if left < ahead + 8.0 or speed < 7.0 or self._leader(car, ahead + 4.0) is not None:
            return None
        edge, index = lane.rsplit("_", 1)
        at = self.sumo.vehicle.getLanePosition(car) + ahead
        points = [self.sumo.simulation.convert2D(edge, at + off, int(index)) for off in (-1.0, 1.0)]
        along = np.subtract(points[1], points[0]) / np.hypot(*np.subtract(points[1], points[0]))
        side = np.array([along[1], -along[0]])  # from the right
        name, self.walkers = f"jaywalker.{self.walkers}", self.walkers + 1
        self.sumo.person.add(name, edge, at, typeID="walker")
        self.sumo.person.appendWaitingStage(name, 60.0)
        event = _Open("jaywalker", step, car, name, step + round(5.5 / DT), speed,
                      (np.mean(points, 0) + 3.5 * side, -1.7 * side))  # fmt: skip
        self._walk(event, step)
        return event

    def _walk(self, event: _Open, step: int) -> None:
        assert event.crossing is not None
        start, way = event.crossing
        x, y = start + way * (step - event.begun) * DT
        angle = float(np.degrees(np.arctan2(way[0], way[1])))
        self.sumo.person.moveToXY(event.who, "", x, y, angle, 2)

    def _busy(self, name: str) -> bool:
        return name in self.open or any(event.who == name for event in self.open.values())

    def _brake(self, name: str, speed: float, hardness: float, to: float = 0.0) -> None:
        self.sumo.vehicle.setSpeedMode(name, NO_COMFORT_LIMIT)
        self.sumo.vehicle.slowDown(name, to, (speed - to) / hardness)

    def _go_on(self, event: _Open, step: int) -> None:
        vehicle, age = self.sumo.vehicle, step - event.begun
        if not event.counted and age <= LASTS / DT and self._holds(event):
            event.counted = True
            self.happened.append(Planted(event.kind, step, event.car, event.who))
        if step >= event.until and (event.counted or age > LASTS / DT or event.kind != "stalled_car"):
            for name in {event.car, event.who} & set(vehicle.getIDList()):
                vehicle.setSpeed(name, -1)
                vehicle.setSpeedMode(name, OBEDIENT)
            if event.crossing is not None:
                self.sumo.person.removeStages(event.who)
            del self.open[event.car]
            return
        if event.crossing is not None:
            self._walk(event, step)
            if age == 5:  # after the driver's reaction time: stop 4 m before the walker's path
                way = 1.6 * event.speed + 2.0 - event.speed * age * DT
                self._brake(event.car, event.speed, event.speed**2 / (2 * way))
        elif event.who != event.car and event.kind != "cut_in" and vehicle.getSpeed(event.who) < 0.1:
            vehicle.setSpeed(event.who, 0)

    def _holds(self, event: _Open) -> bool:
        """Whether the event's criterion holds, see the module's docstring."""
        vehicle = self.sumo.vehicle
        speed = vehicle.getSpeed(event.car)
        if event.kind == "phantom_brake":
            return speed < event.speed - 4.0
        if event.kind == "light_running":
            if vehicle.getLaneID(event.car)[:1] == ":":
                return event.red and speed > 3.0
            event.red = any(light[3] in "rR" for light in vehicle.getNextTLS(event.car)[:1])
            return False
        ahead, left, other = self._sees(event)
        if not (0 < ahead < SIGHT and abs(left) < VIEW * ahead) or speed < 3.0:
            return False
        if event.kind == "hard_brake":
            return other < event.speed - 4.0
        if event.kind == "stalled_car":
            return other < 0.3
        if event.kind == "cut_in":
            return vehicle.getLaneID(event.who) == vehicle.getLaneID(event.car) and abs(left) < 2.0
        return abs(left) < 2.0

    def _sees(self, event: _Open) -> tuple[float, float, float]:
        """Position of `who`, m ahead of the car's front and m to its left, and its speed."""
        domain = self.sumo.person if event.crossing is not None else self.sumo.vehicle
        if event.who not in domain.getIDList():
            return -1.0, 0.0, 0.0
        d = np.subtract(domain.getPosition(event.who), self.sumo.vehicle.getPosition(event.car))
        yaw = np.pi / 2 - np.radians(self.sumo.vehicle.getAngle(event.car))
        ahead, left = d @ (np.cos(yaw), np.sin(yaw)), d @ (-np.sin(yaw), np.cos(yaw))
        return float(ahead), float(left), float(domain.getSpeed(event.who))
