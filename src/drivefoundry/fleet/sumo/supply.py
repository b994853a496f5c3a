"""Serve a running city step by step: SUMO in this process receives the driven cars' poses and returns all others.

`python -m drivefoundry.fleet.sumo.supply`: standard input is a line of JSON (traffic.Demand; all its n_cars are driven
from outside), then for each step F rows of float64 x, y of the front bumper, compass angle in degrees and speed. Output
is a length (8 bytes) and an npz with the initial state, then for each step R rows of float64 x, y, angle, speed (NaN:
absent), one byte per road user for its indicators and one per signal. Ends with its input. What holds for
`fleet.sumo.traffic` holds here: SUMO needs a process without pyarrow.
"""

from __future__ import annotations

import io
import json
import os
import sys

import numpy as np

from drivefoundry.fleet.sumo.traffic import WALKER, WARM_UP, Demand, SumoCity, begin, lamp, load_sumo
from drivefoundry.types import AGENT_PEDESTRIAN, DT

HISTORY = 16
"""Steps of history before the driven cars are handed over; SUMO drives them."""
SPARE = 30
"""Spare rows for pedestrians, beyond the number that walk at a time."""
PATIENCE = 3000
"""Steps within which every driven car must reach a place where it can be handed over."""


class Roll:
    """Rows of all road users: vehicles first, then people, whose rows are reused after they leave."""

    def __init__(self, traffic: SumoCity) -> None:
        self.traffic = traffic
        there = set(traffic.sumo.vehicle.getIDList())
        self.vehicles = [name for name in traffic.routes if name in there]  # the others found no gap
        self.people: dict[str, int] = {}
        self.free = list(range(traffic.demand.n_pedestrians + SPARE))[::-1]
        self.kind = [traffic.kinds[name].agent for name in self.vehicles] + [AGENT_PEDESTRIAN] * len(self.free)
        self.size = [traffic.kinds[name].size for name in self.vehicles] + [WALKER] * len(self.free)

    def call(self) -> tuple[np.ndarray, np.ndarray]:
        """(R, 4) x, y, angle, speed and (R,) indicators as they are now."""
        sumo = self.traffic.sumo
        pose, blinker = np.full((len(self.kind), 4), np.nan), np.zeros(len(self.kind), np.uint8)
        for row, name in enumerate(self.vehicles):
            pose[row] = *sumo.vehicle.getPosition(name), sumo.vehicle.getAngle(name), sumo.vehicle.getSpeed(name)
            blinker[row] = sumo.vehicle.getSignals(name) & 3
        now = sumo.person.getIDList()
        for name in set(self.people) - set(now):
            self.free.append(self.people.pop(name))
        for name in sorted(now):
            if name not in self.people and self.free:
                self.people[name] = self.free.pop()
            if name in self.people:
                row = len(self.vehicles) + self.people[name]
                pose[row] = *sumo.person.getPosition(name), sumo.person.getAngle(name), sumo.person.getSpeed(name)
        return pose, blinker

    def lamps(self) -> np.ndarray:
        """(G,) SIGNAL_* now."""
        links = self.traffic.demand.links
        show = self.traffic.sumo.trafficlight.getRedYellowGreenState
        shown = {light: show(light) for light in {light for light, _ in links}}
        return np.array([lamp(shown[light], which) for light, which in links], np.uint8)


def serve() -> None:
    """Read steps from standard input until it ends."""
    wire_in, wire_out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep SUMO's output off the wire
    demand = Demand(**json.loads(wire_in.readline()))
    traffic = begin(load_sumo(), demand)
    step = 0
    while step < round(WARM_UP / DT):
        traffic.drive(step)
        step += 1
    wanted = [f"fleet.{i}" for i in range(demand.n_cars)]
    last = step + PATIENCE
    while step < last and len(traffic.driven) < len(wanted):
        for name in wanted:
            if name not in traffic.driven and name in traffic.sumo.vehicle.getIDList():
                traffic.settle(name)
        traffic.drive(step)
        step += 1
    roll = Roll(traffic)
    cars = [name for name in wanted if name in traffic.driven]
    past = []
    for _ in range(HISTORY):
        traffic.drive(step)
        step += 1
        past.append((*roll.call(), roll.lamps()))
    found = io.BytesIO()
    lane = [demand.lane.get(traffic.sumo.vehicle.getLaneID(name), -1) for name in cars]
    np.savez(
        found, pose=np.stack([p for p, _, _ in past], 1), lamps=np.stack([g for _, _, g in past], 1),
        kind=np.array(roll.kind, np.int64), size=np.array(roll.size), lane=np.array(lane),
        rows=np.array([roll.vehicles.index(name) for name in cars]),
        ahead=np.array([" ".join(traffic.routes[name]) for name in cars]),
    )  # fmt: skip
    wire_out.write(len(found.getvalue()).to_bytes(8, "little") + found.getvalue())
    wire_out.flush()
    row = 4 * 8
    while len(told := wire_in.read(row * len(cars))) == row * len(cars):
        for name, (x, y, angle, speed) in zip(cars, np.frombuffer(told).reshape(-1, 4).tolist(), strict=True):
            traffic.place(name, x, y, angle, speed)
        traffic.drive(step)
        step += 1
        pose, blinker = roll.call()
        wire_out.write(pose.tobytes() + blinker.tobytes() + roll.lamps().tobytes())
        wire_out.flush()
    traffic.sumo.close()


if __name__ == "__main__":
    serve()
