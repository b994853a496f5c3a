"""Keeps a plan available to the actuators at any moment, whatever the planning loop does.

    dog = Watchdog(Runtime.load(engine), alive=notify)
    dog.plan(frames, ego, route, objects, t)    # the planning loop's thread, at 2 Hz
    dog.latest()                                # the actuators' thread, at any rate

`latest` never waits for `plan`. If there has been no fresh plan for too long, because `plan` has not returned, has
raised or is not called, it returns the last plan braked to a stop from that moment on. `alive` is called for each plan
that is not a stop, so that a supervisor such as systemd (WatchdogSec=) restarts a process that has stopped planning.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from drivefoundry_car.driving.runtime import Planned, Runtime
from drivefoundry_car.driving.stopping import Stopping
from drivefoundry_car.vehicle.embodiment import PLAN_DT

log = logging.getLogger(__name__)
PATIENCE_S = 2.5 * PLAN_DT
"""How long a plan is followed, s: one decision may be missing."""


@dataclass(frozen=True)
class Latest:
    """The plan to follow. points (S, 8, 3) x, y, yaw, in the ego frame at the time `at`, for 0.5 .. 4.0 s after it;
    stopped: there was no fresh plan, and this is the last one braked to a stop."""

    at: float
    points: np.ndarray
    stopped: bool


class Watchdog:
    """A runtime whose last plan is available at any moment, and ages.

    patience_s: how long a plan is followed; alive: called for each plan that is not a stop; cars: S until the first
    plan; clock: monotonic time, s.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        patience_s: float = PATIENCE_S,
        alive: Callable[[], object] = lambda: None,
        cars: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not patience_s > 0:
            raise ValueError(f"Watchdog.patience_s: must be > 0, got {patience_s}")
        self.runtime, self.patience_s, self._alive, self._clock = runtime, patience_s, alive, clock
        self._lock = threading.Lock()
        self._stopping = Stopping(cars)
        self._latest = Latest(clock(), np.zeros((cars, 8, 3)), True)
        self.expired = 0
        """Plans that became too old before a fresh one came."""

    def plan(self, *args: Any, seen: float | None = None, **kwargs: Any) -> Planned:
        """As `Runtime.plan`; the result becomes the latest plan. seen: when the newest frame was taken, by the clock;
        the plan's age counts from then, or else from the call."""
        seen = self._clock() if seen is None else seen
        planned = self.runtime.plan(*args, **kwargs)
        with self._lock:
            if len(planned.points) != self._stopping.cars:
                self._stopping = Stopping(len(planned.points))
            self._stopping.keep(planned.points, np.ones(len(planned.points), bool))
            self._latest = Latest(seen, planned.points, False)
        if not planned.stopped.all():
            self._alive()
        return planned

    def latest(self) -> Latest:
        """The plan to follow now; never waits, never raises."""
        with self._lock:
            now, last = self._clock(), self._latest
            age = now - last.at
            if not last.stopped and age <= self.patience_s and math.isfinite(age):
                return last
            if not last.stopped:
                self.expired += 1
                log.error("no plan for %.1f s: braking to a stop along the last one", age)
            if not math.isfinite(age):  # a broken clock: brake from where the last plan began
                now, age = next((at for at in (now, last.at) if math.isfinite(at)), 0.0), 0.0
            expected = self._stopping.advance(age)
            points = self._stopping.stop(np.nan_to_num(expected))
            self._stopping.given(points, np.zeros(len(points), bool), np.ones(len(points), bool))
            self._latest = Latest(now, points, True)
            return self._latest


def notify(state: str = "WATCHDOG=1") -> bool:
    """Send a state to the service manager, as sd_notify(3) does; returns False if there is none ($NOTIFY_SOCKET) or it
    does not listen. READY=1 once, then WATCHDOG=1 for each sign of life."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.setblocking(False)
        try:
            channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return False
    return True
