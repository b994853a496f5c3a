"""State of the car and its surroundings from the bus, as model inputs and as moments to record."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
from google.protobuf.message import DecodeError

from drivefoundry_car.log import channels, live
from drivefoundry_car.log.channels import DRIVER, NS, OBJECTS, ROUTE, SIGNALS, STATE
from drivefoundry_car.log.clock import DT
from drivefoundry_car.log.drive import Objects
from drivefoundry_car.recording.recent import Moment
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment
from drivefoundry_car.vehicle.inputs import ego_history, route_features, to_ego, to_map

HELD_S = 3.0
"""How long states are kept, s."""
OLD_S = 0.3
"""Maximum age of perception, s; older output is ignored."""
TOPICS = (STATE, ROUTE, OBJECTS, SIGNALS, DRIVER)


class VehicleState:
    """The newest message of each topic, and the states of the last seconds."""

    def __init__(self) -> None:
        self.bad = 0
        """Unreadable messages, and states whose time did not increase."""
        self._ns: deque[int] = deque()
        self._ego: deque[np.ndarray] = deque()
        self._route: np.ndarray | None = None
        self._objects: tuple[int, Objects] | None = None
        self._signals: tuple[np.ndarray, np.ndarray] | None = None
        self._flags: dict[str, bool | None] = {"engaged": None, "takeover": None}

    def take(self, topic: str, ns: int, data: bytes) -> bool:
        """Handle a message of one of TOPICS; returns whether it could be read."""
        try:
            if topic == STATE:
                self._take_state(ns, data)
            elif topic == ROUTE:
                route = np.array(json.loads(data)["points"], np.float64).reshape(-1, 3)
                self._route = route if len(route) else None
            elif topic == OBJECTS:
                track, kind, size, states, valid = live.objects([data], [ns], np.array([ns / NS]))
                self._objects = ns, Objects(track, kind, size, states, valid)
            elif topic == SIGNALS:
                body = json.loads(data)
                self._signals = np.array(body["id"], np.int64), np.array(body["state"], np.uint8)
            elif topic == DRIVER:
                body = json.loads(data)
                self._flags = {name: None if body[name] is None else bool(body[name]) for name in self._flags}
        except (ValueError, KeyError, TypeError, IndexError, OverflowError, RecursionError, DecodeError):
            self.bad += 1
            return False
        return True

    @property
    def ns(self) -> int | None:
        """Time of the newest state."""
        return self._ns[-1] if self._ns else None

    @property
    def t(self) -> float:
        """The same, s."""
        return self._ns[-1] / NS

    @property
    def ego(self) -> np.ndarray:
        """The newest state (7,), as in `log.Drive.ego`."""
        return self._ego[-1]

    def pose(self, t: float) -> np.ndarray:
        """Pose x, y, yaw (3,) in the map frame at t s: interpolated between states, constant beyond them."""
        at = np.array(self._ns, np.float64) / NS
        poses = np.array([e[:3] for e in self._ego])
        poses[:, 2] = np.unwrap(poses[:, 2])
        return np.array([np.interp(t, at, column) for column in poses.T])

    def inputs(self, ns: int, body: Embodiment = CAR) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Inputs of the model and the guard for a picture of time ns: ego history, route, and objects (n, 6) x, y, yaw,
        speed, length, width in the ego frame; None without perception."""
        times = np.array(self._ns, np.float64)
        grid = np.arange(body.history_steps * (body.history - 1), -1, -1) * round(DT * NS)  # 10 Hz, oldest first
        at = float(ns) - grid
        at = at[at >= times[0]]
        speed, rate = (np.interp(at, times, [e[k] for e in self._ego]) for k in (3, 5))
        pose = self.pose(ns / NS)
        objects = self._recent_objects(ns)
        rows = None
        if objects is not None:
            states = objects.states[:, 0].astype(np.float64)
            rows = np.column_stack([to_ego(states[:, :3], pose), states[:, 3], objects.size[:, :2]])
        return ego_history(speed, rate, body), route_features(self._route, pose), rows

    def moment(self, plan: tuple[int, np.ndarray, str] | None = None) -> Moment:
        """What the car knows now, for the recorder and the triggers. plan: time ns, points (8, 3) and text of a
        decision since the last moment; points are transformed to the current ego frame."""
        ns, points, text = plan or (self._ns[-1], None, "")
        if points is not None and ns != self._ns[-1]:
            points = to_ego(to_map(points, self.pose(ns / NS)), self.ego[:3])
        return Moment(
            self._ns[-1] / NS, self.ego, self._route, self._recent_objects(self._ns[-1]), self._signals,
            self._flags["engaged"], self._flags["takeover"], plan=points, text=text,
        )  # fmt: skip

    def _recent_objects(self, ns: int) -> Objects | None:
        if self._objects is None or ns - self._objects[0] > OLD_S * NS:
            return None
        return self._objects[1]

    def _take_state(self, ns: int, data: bytes) -> None:
        (_, (ego,)) = channels.read_states([data])
        if self._ns and ns <= self._ns[-1]:
            raise ValueError("a state whose time does not increase")
        if not np.isfinite(ego[:4]).all():
            raise ValueError("a state without position or speed")
        self._ns.append(ns)
        self._ego.append(ego)
        while self._ns[0] < ns - HELD_S * NS:
            self._ns.popleft()
            self._ego.popleft()
