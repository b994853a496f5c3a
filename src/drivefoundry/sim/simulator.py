"""Protocols of a simulator and of its sensors.

The same loop, `sim.drive.drive`, runs the true simulator (`sim.world.World`), one in the traffic of a live city
(`fleet.sumo.live_city`) and a learned world model. Letters: S scenes, A agents, G signals.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from drivefoundry.sim.pack import Packed
from drivefoundry.types import Scene
from drivefoundry_car.vehicle.embodiment import Embodiment


class Sensor(Protocol):
    """One sensor of S cars in one simulator."""

    def watch(self) -> None:
        """Process the simulator's current step; called at every 0.1 s step before `read`, possibly repeatedly."""
        ...

    def read(self) -> Any:
        """Return the reading for a decision at this step."""
        ...


class Cameras(Sensor, Protocol):
    """The cameras of S cars."""

    body: Embodiment

    def read(self) -> dict[str, np.ndarray]:
        """Camera -> (S, F, H, W, 3) uint8 RGB, oldest first, `Embodiment.frame_dt` apart, the last one current."""
        ...

    def look(self) -> dict[str, np.ndarray]:
        """Camera -> (S, H, W, 3) uint8 RGB at this step."""
        ...


class Simulator(Protocol):
    """S scenes stepped together at 10 Hz. Arrays are read-only, and current after each `advance`."""

    packed: Packed
    """The scenes: maps, routes, signals, sizes and logs."""
    step: int
    """Steps since the start."""
    ego: np.ndarray
    """(S, 6) x, y, yaw, speed, acceleration, yaw rate, in the map's frame."""
    agents: np.ndarray
    """(S, A, 4) x, y, yaw, speed."""
    seen: np.ndarray
    """(S, A) bool: the agent exists; False in the ego's slot."""
    brake: np.ndarray
    """(S, A) bool, brake lamps."""
    along: np.ndarray
    """(S,) arc length of each ego along its route, m."""
    past: list[np.ndarray]
    """Ego states (S, 6) of the last `world.PAST` steps and the current one, oldest first."""

    @property
    def now(self) -> np.ndarray:
        """(S,) current log step of each scene."""
        ...

    def cameras(self, body: Embodiment) -> Cameras:
        """The cameras of these vehicles: a renderer, or a model that generates frames."""
        ...

    def signals_now(self) -> np.ndarray:
        """(S, G) uint8 state of each signal."""
        ...

    def steps_left(self) -> np.ndarray:
        """(S,) number of steps that each scene can still be driven."""
        ...

    def follow(self, points: np.ndarray, motion: np.ndarray | None = None) -> None:
        """Set new plans: points (S, 8, 3) x, y, yaw in the ego frame at 0.5 .. 4.0 s.

        motion (S, K, 6): ego states of the next K steps that replace the dynamics, for exact replay.
        """
        ...

    def advance(self) -> None:
        """Advance everything by 0.1 s."""
        ...


SimulatorOf = Callable[[list[Scene]], Simulator]
"""Creates a simulator of scenes."""
SensorOf = Callable[[Simulator, Embodiment], Sensor]
"""Creates a sensor of the cars in a simulator."""
