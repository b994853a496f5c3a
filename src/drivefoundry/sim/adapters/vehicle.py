"""A simulated scene as the vehicle of the car's daemon: sends camera and bus messages, applies the daemon's controls.

The daemon (`python -m drivefoundry_car`) must run in lockstep: each 0.1 s step waits for its controls. While no daemon
is connected, or it does not answer, the vehicle brakes on its own, as a car's actuators do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drivefoundry.sim.ego import actuators, bicycle_step
from drivefoundry.sim.pack import pack
from drivefoundry.sim.sensors.cameras import CameraRig
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.sim.sensors.perception import detector
from drivefoundry.sim.sensors.suite import routes_near
from drivefoundry.sim.world import PAST, Kind, World
from drivefoundry.types import AGENT_CAR, DT, PLAN_POINTS, Scene
from drivefoundry_car.daemon.bus import END, Message, Vehicle
from drivefoundry_car.daemon.cameras import raw_picture
from drivefoundry_car.daemon.playback import Teller, hello
from drivefoundry_car.driving.stopping import BRAKE
from drivefoundry_car.log import channels
from drivefoundry_car.log.channels import NS
from drivefoundry_car.log.drive import Objects
from drivefoundry_car.recording.recent import Moment
from drivefoundry_car.vehicle.embodiment import CAR, Embodiment

STEP_NS = round(DT * NS)
HEIGHT = 1.6
"""Height reported for every object, m, since the detector does not estimate it."""


@dataclass(frozen=True)
class Driven:
    """ego (T, 6) as in `World`; answered (T - 1,) bool: the daemon commanded that step; stopped (T - 1,) bool: along a
    stop rather than a fresh plan."""

    ego: np.ndarray
    answered: np.ndarray
    stopped: np.ndarray


class SimulatedVehicle:
    """One scene, from its start; times are the daemon's lockstep clock, 1.5 s at the start. body: the vehicle, with
    its cameras."""

    def __init__(
        self, scene: Scene, body: Embodiment = CAR, traffic: Kind = "reactive", perception: Perception | None = None
    ):
        self.scene = scene
        self.world = World(pack([scene]), traffic, body)
        self.eyes = CameraRig(self.world, body)
        self._detector = detector(self.world, perception or Perception(), body)
        self._teller = Teller()

    def past(self) -> list[Message]:
        """Messages of the 1.5 s before the start: states, and the pictures that decisions look back to."""
        out = []
        for step in range(PAST):
            back, body = PAST - step, self.eyes.body
            if back <= body.frame_steps and (body.frame_steps - back) % body.decision_steps == 0:
                out += self._pictures(step * STEP_NS, self.eyes.render_history(back))
            (data,) = channels.states(np.array([step * DT]), _seven(self.world.past[step][0]))
            out.append(Message(channels.STATE, step * STEP_NS, data))
        return out

    def now(self) -> list[Message]:
        """Camera and bus messages of this step; the state comes last."""
        world, t = self.world, (PAST + self.world.step) * DT
        self._detector.watch()
        numbers, rows = self._detector.tracks()[0]
        known = np.append(self.scene.kind.astype(np.int64), AGENT_CAR)  # a false alarm looks like a car
        kind = known[np.minimum(numbers, len(known) - 1)]
        size = np.column_stack([rows[:, 4:], np.full(len(rows), HEIGHT)])
        objects = Objects(numbers, kind, size, rows[:, None, :4], np.ones((len(rows), 1), np.bool_))
        lights = world.signals_now()[0]
        signals = (np.arange(len(lights)), lights) if len(lights) else None
        state, (route,) = _seven(world.ego[0])[0], routes_near(world)
        moment = Moment(t, state, route, objects, signals, engaged=True, takeover=False)
        messages = self._teller.messages(moment)
        return [*self._pictures(messages[-1].ns, self.eyes.look()), *messages]

    def step(self, acceleration: float, curvature: float) -> None:
        """Apply controls for 0.1 s."""
        state = self.world.ego[0].copy()
        bicycle_step(state, acceleration, curvature, DT, actuators(self.eyes.body))
        self.world.follow(np.zeros((1, PLAN_POINTS, 3)), state[None, None])
        self.world.advance()

    def drive(self, path: Path, seconds: float = 18.0, wait_s: float = 60.0) -> Driven:
        """Serve at the socket `path` for the given simulated time, or until the scene's log ends.

        wait_s: how long to wait for a daemon to connect at the start, and to answer; simulated time does not advance.
        """
        steps = int(min(round(seconds / DT), self.world.steps_left()[0]))
        ego, answered, stopped = [self.world.ego[0].copy()], [], []
        with Vehicle(path) as vehicle:
            vehicle.accept(wait_s)
            self._greet(vehicle)
            curvature = 0.0
            for _ in range(steps):
                if vehicle.bus is None and vehicle.accept(0.0):
                    self._greet(vehicle)
                messages = self.now()
                controls = vehicle.controls(messages[-1].ns, wait_s) if vehicle.tell(*messages) else None
                acceleration, curvature = (-BRAKE, curvature) if controls is None else _controls(controls)
                self.step(acceleration, curvature)
                ego.append(self.world.ego[0].copy())
                answered.append(controls is not None)
                stopped.append(controls is None or bool(controls["stopped"]))
            vehicle.tell(Message(END, (PAST + self.world.step) * STEP_NS))
        return Driven(np.stack(ego), np.array(answered), np.array(stopped))

    def _greet(self, vehicle: Vehicle) -> None:
        """Send the first messages to a daemon; one that connects during the drive receives no history."""
        self._teller = Teller()
        meta = {"source": self.scene.source, "place": self.scene.place, "map": self.scene.map.id}
        vehicle.tell(hello(self.scene.id, meta), *(self.past() if self.world.step == 0 else []))

    def _pictures(self, ns: int, frames: dict[str, np.ndarray]) -> list[Message]:
        return [Message(channels.camera(n), ns, raw_picture(n, shown[0], ns)) for n, shown in frames.items()]


def _controls(controls: dict) -> tuple[float, float]:
    return float(controls["acceleration"]), float(controls["curvature"])


def _seven(ego: np.ndarray) -> np.ndarray:
    """An ego state (6,) as a row (1, 7) of `log.Drive.ego`; the steering wheel's angle is unknown."""
    return np.append(ego, np.nan)[None]
