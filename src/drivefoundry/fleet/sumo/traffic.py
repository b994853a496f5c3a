"""Run SUMO in this process and write the raw log of one city: `python -m drivefoundry.fleet.sumo.traffic`.

It is a separate process because SUMO links a different Arrow than pyarrow and holds one simulation per process:
nothing here may import pyarrow, lance or torch. `fleet/sumo/city.py` starts it and reads its output. Exit code 3 and
one line on stderr: SUMO cannot be loaded on this machine.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from drivefoundry.fleet.sumo.events import NO_LANE_CHANGE, SUMO_LANE_CHANGE, Events
from drivefoundry.fleet.sumo.planting import Planting
from drivefoundry.types import AGENT_CAR, AGENT_CYCLIST, AGENT_PEDESTRIAN, AGENT_TRUCK, DT
from drivefoundry_car.vehicle.embodiment import CAR

WARM_UP = 60.0
"""Warm-up before the log begins, s: queues form and the cars spread out."""
NEEDS_LIBRARY = 3
"""Exit code if SUMO cannot be loaded."""
BLOCKER_PATIENCE = 15
"""Time that SUMO's drivers wait for a driven car standing in a junction before they pass it, s."""
EDGES_AHEAD = 5
"""Least number of route edges ahead of a car."""
SETTLED = 40.0
"""Within this distance of its edge's end, m, a car stays in its lane and follows it: no swerving at a stop line."""
ROLLING = 5.0
"""Least speed for starting a lane change, m/s: SUMO would slide a standing car sideways."""
_PACKAGES = {
    "libGL.so.1": "libgl1",
    "libX11.so.6": "libx11-6",
    "libXext.so.6": "libxext6",
    "libXrender.so.1": "libxrender1",
    "libatomic.so.1": "libatomic1",
    "libexpat.so.1": "libexpat1",
    "libxcb.so.1": "libxcb1",
}


@dataclass(frozen=True)
class Kind:
    """One kind of vehicle. size: length, width, height m; share: of the traffic; drive: car-following attributes."""

    name: str
    agent: int
    size: tuple[float, float, float]
    share: float
    drive: str


_CALM = 'carFollowModel="IDM" tau="1.4" minGap="3.5" emergencyDecel="8" speedFactor="normc(0.95,0.08,0.75,1.05)"'
KINDS = (
    Kind("fleet", AGENT_CAR, CAR.size, 0.0, f'{_CALM} accel="2.0" decel="3.0"'),
    Kind("small", AGENT_CAR, (4.1, 1.75, 1.5), 0.28, f'{_CALM} accel="2.0" decel="3.0"'),
    Kind("sedan", AGENT_CAR, (4.7, 1.85, 1.5), 0.38, f'{_CALM} accel="2.0" decel="3.0"'),
    Kind("van", AGENT_CAR, (5.3, 2.0, 2.2), 0.18, f'{_CALM} accel="1.8" decel="3.0"'),
    Kind("truck", AGENT_TRUCK, (8.0, 2.4, 3.2), 0.08, f'{_CALM} accel="1.2" decel="2.6" maxSpeed="11"'),
    Kind("bus", AGENT_TRUCK, (10.5, 2.5, 3.1), 0.05, f'{_CALM} accel="1.2" decel="2.4" maxSpeed="11"'),
    Kind("cyclist", AGENT_CYCLIST, (1.8, 0.65, 1.75), 0.03, f'{_CALM} accel="1.0" decel="2.5" maxSpeed="5.5"'),
)
WALKER = (0.5, 0.6, 1.75)


@dataclass(frozen=True)
class Demand:
    """Traffic demand, see `fleet.sumo.city.run_city`."""

    net: str
    seed: int
    steps: int
    n_cars: int
    n_traffic: int
    n_pedestrians: int
    links: list[tuple[str, list[int]]]
    """Traffic light and link indices of every signal of the map."""
    road: dict[str, list[str]]
    """Edges that cars use -> the edges each leads to."""
    lane: dict[str, int]
    way: float = 0.0
    """Length of an externally driven car's route, m."""
    car: tuple[float, float, float] = CAR.size
    """Length, width, height of the recording cars, m."""
    planted: float = 0.0
    """Planted events per recording car and hour (fleet.sumo.planting), in place of the usual surprises."""


@dataclass
class _Log:
    """Growing rows: one per road user, one entry per step."""

    steps: int
    kind: list[int] = field(default_factory=list)
    size: list[tuple[float, float, float]] = field(default_factory=list)
    pose: list[np.ndarray] = field(default_factory=list)
    blinker: list[np.ndarray] = field(default_factory=list)

    def row(self, kind: int, size: tuple[float, float, float]) -> int:
        self.kind.append(kind)
        self.size.append(size)
        self.pose.append(np.full((self.steps, 3), np.nan))
        self.blinker.append(np.zeros(self.steps, np.uint8))
        return len(self.kind) - 1


def load_sumo() -> Any:
    """Import libsumo quietly. SystemExit with NEEDS_LIBRARY and one line if a system library is missing."""
    os.environ["LIBSUMO_AS_TRACI"] = "quiet"  # suppress its warning about pyarrow, which this process never loads
    try:
        import libsumo
    except ImportError as error:
        lacking = re.search(r"(lib[\w+.-]+\.so[.\d]*): cannot open shared object", str(error))
        if lacking:
            package = _PACKAGES.get(lacking[1], "libgl1 libx11-6 libxext6 libxrender1 libatomic1")
            fix = f"SUMO needs the system library {lacking[1]}, which is not installed: apt install {package}"
        else:
            fix = f"SUMO cannot be loaded ({error}): pip install libsumo"
        print(fix, file=sys.stderr)
        raise SystemExit(NEEDS_LIBRARY) from None
    return libsumo


class SumoCity:
    """One running city. Everything random comes from one seeded generator, drawn in a fixed order."""

    def __init__(self, sumo: Any, demand: Demand) -> None:
        self.sumo, self.demand = sumo, demand
        self.rng = np.random.default_rng(demand.seed)
        self.edges = sorted(demand.road)
        self.routes: dict[str, list[str]] = {}
        self.kinds: dict[str, Kind] = {}
        self.fleet = replace(KINDS[0], size=demand.car)
        self.walkers = 0
        self.driven: set[str] = set()
        """Vehicles driven from outside."""
        chance = np.random.default_rng(demand.seed + 1)
        self.events = Planting(sumo, chance, demand.planted) if demand.planted else Events(sumo, chance)

    def populate(self) -> None:
        shares = np.array([kind.share for kind in KINDS])
        names = [f"fleet.{i}" for i in range(self.demand.n_cars)]
        names += [f"other.{i}" for i in range(self.demand.n_traffic)]
        for name in names:
            kind = (
                self.fleet
                if name.startswith("fleet")
                else KINDS[int(self.rng.choice(len(KINDS), p=shares / shares.sum()))]
            )
            route = [self.edges[int(self.rng.integers(len(self.edges)))]]
            self.routes[name] = self._onward(route, EDGES_AHEAD + 2)
            self.kinds[name] = kind
            self.sumo.route.add(name, self.routes[name])
            self.sumo.vehicle.add(name, name, kind.name, departLane="free", departPos="random_free", departSpeed="0")
        for _ in range(self.demand.n_pedestrians):
            self._walk()

    def _onward(self, route: list[str], edges: int) -> list[str]:
        """Extend a route by random turns to the given number of edges."""
        route = list(route)
        while len(route) < edges:
            after = self.demand.road[route[-1]]
            route.append(after[int(self.rng.integers(len(after)))])
        return route

    def _walk(self) -> None:
        """Add a pedestrian with a random start and destination."""
        start, end = (self.edges[int(i)] for i in self.rng.integers(len(self.edges), size=2))
        stages = self.sumo.simulation.findIntermodalRoute(start, end, modes="")
        name, self.walkers = f"walker.{self.walkers}", self.walkers + 1
        if not stages or not stages[0].edges:
            return
        length = self.sumo.lane.getLength(f"{start}_0")
        self.sumo.person.add(name, start, float(self.rng.uniform(0, length)), typeID="walker")
        room = self.sumo.lane.getLength(f"{stages[0].edges[-1]}_0") - 0.1
        self.sumo.person.appendWalkingStage(name, stages[0].edges, min(float(self.rng.uniform(1, 20)), room))

    def drive(self, step: int) -> None:
        """Extend routes and start events before SUMO's step."""
        names = sorted(self.sumo.vehicle.getIDList())
        for i, name in enumerate(names):
            if (i + step) % 10 == 0 and name not in self.driven:
                self._reroute(name, step)
        if step % 10 == 0:
            for _ in range(self.demand.n_pedestrians - self.sumo.person.getIDCount()):
                self._walk()
        self.events.step(step, [name for name in names if name.startswith("fleet") and name not in self.driven])
        self.sumo.simulationStep()

    def _reroute(self, name: str, step: int) -> None:
        vehicle = self.sumo.vehicle
        here = vehicle.getRoadID(name)
        if not here or here[0] == ":":  # SUMO accepts no new route within a junction
            return
        # checked every second: a car has passed at most one edge since, so the first match is the right one
        left = self.routes[name] = self.routes[name][self.routes[name].index(here) :]
        lane = vehicle.getLaneID(name)
        settled = self.sumo.lane.getLength(lane) - vehicle.getLanePosition(name) < SETTLED
        stays = settled or vehicle.getSpeed(name) < ROLLING or self.events.held.get(name, 0) > step
        vehicle.setLaneChangeMode(name, NO_LANE_CHANGE if stays else SUMO_LANE_CHANGE)
        if settled:
            ways = sorted(
                {link[0].rsplit("_", 1)[0] for link in self.sumo.lane.getLinks(lane)} & self.demand.road.keys()
            )
            if left[1] not in ways:
                left = [left[0], ways[int(self.rng.integers(len(ways)))]]
        if len(left) <= EDGES_AHEAD:
            left = self._onward(left, EDGES_AHEAD + 2)
            vehicle.setRoute(name, left)
            self.routes[name] = left

    def settle(self, name: str) -> bool:
        """Give a car the long route that it keeps while driven from outside, if SUMO accepts one now: `way` metres and
        the edges that SUMO needs beyond. Returns whether it did."""
        vehicle = self.sumo.vehicle
        here = vehicle.getRoadID(name)
        if not here or here[0] == ":":
            return False
        lane = vehicle.getLaneID(name)
        if self.sumo.lane.getLength(lane) - vehicle.getLanePosition(name) < SETTLED:
            return False
        route, long = self.routes[name][self.routes[name].index(here) :], 0.0
        while long < self.demand.way:
            route = self._onward(route, len(route) + EDGES_AHEAD)
            long = sum(self.sumo.lane.getLength(f"{edge}_0") for edge in route[1:-EDGES_AHEAD])
        self.routes[name] = route
        vehicle.setRoute(name, route)
        self.driven.add(name)
        return True

    def place(self, name: str, x: float, y: float, angle: float, speed: float) -> None:
        """Move a driven car to its pose: front bumper m, compass angle in degrees, m/s."""
        vehicle = self.sumo.vehicle
        vehicle.setSpeedMode(name, 0)
        vehicle.setSpeed(name, speed)
        vehicle.moveToXY(name, "", -1, x, y, angle, 2)


def run(demand: Demand) -> dict[str, np.ndarray]:
    """Run a demand and return SUMO's raw poses as arrays (`city.py` converts them)."""
    traffic = begin(load_sumo(), demand)
    warm = round(WARM_UP / DT)
    for step in range(warm):
        traffic.drive(step)
    out = _record(traffic, warm)
    traffic.sumo.close()
    return out


def begin(sumo: Any, demand: Demand) -> SumoCity:
    """Start SUMO on a demand: all road users exist, none has moved yet."""
    with tempfile.TemporaryDirectory() as scratch:
        types = os.path.join(scratch, "types.add.xml")
        with open(types, "w") as file:
            file.write(_types(demand.car))
        options = (
            f"-n {demand.net} -a {types} --seed {demand.seed} --step-length {DT} --step-method.ballistic true "
            "--no-warnings --no-step-log --time-to-teleport -1 --collision.action none --lanechange.duration 3 "
            "--max-depart-delay -1 --pedestrian.striping.jamtime -1 --xml-validation never --duration-log.disable"
        )
        if demand.way:  # an externally driven car may block a junction indefinitely
            options += f" --ignore-junction-blocker {BLOCKER_PATIENCE}"
        sumo.start(["sumo", *options.split()])
    traffic = SumoCity(sumo, demand)
    traffic.populate()
    return traffic


def _record(traffic: SumoCity, warm: int) -> dict[str, np.ndarray]:
    sumo, demand = traffic.sumo, traffic.demand
    log = _Log(demand.steps)
    there = set(sumo.vehicle.getIDList())
    names = [
        name for name in traffic.routes if name in there
    ]  # vehicles that found no gap to enter by now are excluded
    fleet = [i for i, name in enumerate(names) if name.startswith("fleet")]
    for name in names:
        log.row(traffic.kinds[name].agent, traffic.kinds[name].size)
    walkers: dict[str, int] = {}
    lights = sorted({light for light, _ in demand.links})
    signals = np.zeros((len(demand.links), demand.steps), np.uint8)
    lane = np.full((len(fleet), demand.steps), -1, np.int32)
    for step in range(demand.steps):
        for i, name in enumerate(names):
            x, y = sumo.vehicle.getPosition(name)
            log.pose[i][step] = x, y, sumo.vehicle.getAngle(name)
            log.blinker[i][step] = sumo.vehicle.getSignals(name) & 3
        for name in sumo.person.getIDList():
            row = walkers.get(name)
            if row is None:
                row = walkers[name] = log.row(AGENT_PEDESTRIAN, WALKER)
            log.pose[row][step] = *sumo.person.getPosition(name), sumo.person.getAngle(name)
        for k, i in enumerate(fleet):
            lane[k, step] = demand.lane.get(sumo.vehicle.getLaneID(names[i]), -1)
        shown = {light: sumo.trafficlight.getRedYellowGreenState(light) for light in lights}
        signals[:, step] = [lamp(shown[light], links) for light, links in demand.links]
        if step + 1 < demand.steps:
            traffic.drive(warm + step)
    row = {name: i for i, name in enumerate(names)} | walkers
    planted = [e for e in traffic.events.happened if e.step >= warm] if isinstance(traffic.events, Planting) else []
    return {
        "planted_kind": np.array([e.kind for e in planted], np.str_),
        "planted": np.array([[e.step - warm, row[e.car], row[e.who]] for e in planted], np.int64).reshape(-1, 3),
        "pose": np.stack(log.pose),
        "blinker": np.stack(log.blinker),
        "kind": np.array(log.kind, np.int32),
        "size": np.array(log.size),
        "signals": signals,
        "fleet": np.array(fleet, np.int32),
        "lane": lane,
        "ahead": np.array([" ".join(traffic.routes[names[i]]) for i in fleet]),
    }


def lamp(shown: str, links: list[int]) -> int:
    """SIGNAL_* of one lane from a light's state letters and the lane's links: the most permissive.

    Links of a lane share a phase; those that must yield within it show a small g. SUMO letters: G g green, y Y yellow,
    r s u red, o O off.
    """
    letters = {shown[i] for i in links}
    if letters & set("Gg"):
        return 1
    if letters & set("yY"):
        return 2
    return 3 if letters & set("rsu") else 0


def _types(car: tuple[float, float, float]) -> str:
    kinds = replace(KINDS[0], size=car), *KINDS[1:]
    rows = [
        f'<vType id="{k.name}" length="{k.size[0]}" width="{k.size[1]}" height="{k.size[2]}" {k.drive}/>' for k in kinds
    ]
    rows.append('<vType id="walker" vClass="pedestrian" speedFactor="normc(1,0.12,0.7,1.4)"/>')
    return "<additional>" + "".join(rows) + "</additional>"


if __name__ == "__main__":
    given = json.loads(sys.stdin.read())
    result = run(Demand(**given))
    np.savez(sys.argv[1], **result)  # type: ignore[arg-type]
