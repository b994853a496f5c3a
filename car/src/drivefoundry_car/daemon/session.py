"""One drive: controls, plans and clips from the vehicle's messages.

`take` is the loop's body, as in openpilot's modeld: check the message's clock, drop what is late, plan when a decision
is due, command. Planning runs in a separate thread, so controls never wait for it, except in lockstep, where the
vehicle waits for both.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from typing import Any

import numpy as np

from drivefoundry_car.daemon import vehicle_state
from drivefoundry_car.daemon.bus import Message, controls
from drivefoundry_car.daemon.cameras import Eye
from drivefoundry_car.daemon.config import Config
from drivefoundry_car.daemon.vehicle_state import VehicleState
from drivefoundry_car.driving.controller import Controller
from drivefoundry_car.driving.runtime import Planned, Runtime
from drivefoundry_car.driving.stopping import BRAKE
from drivefoundry_car.driving.watchdog import Latest, Watchdog, notify
from drivefoundry_car.driving.worker import Worker
from drivefoundry_car.log import channels
from drivefoundry_car.log.channels import CAMERA, NS, PLAN, STATE, to_ns
from drivefoundry_car.log.clock import DT
from drivefoundry_car.upload.collector import Collector

log = logging.getLogger(__name__)
SILENT_S = 0.3
"""If the vehicle sends no state for this long, s, the car is braked along its last curvature."""
EDGE_S = 0.01
"""Tolerance by which decisions and ticks may come early, s."""
RELEASE_FAULTS = ("planner_failed", "planner_late", "plan_bad", "guard_failed")
"""Counts of the runtime that are faults of the release itself."""


class Session:
    """One drive of the car; close it.

    runtime: reset at the start; collector: closed with the session; None records nothing.
    """

    def __init__(self, config: Config, runtime: Runtime, collector: Collector | None) -> None:
        self.lockstep, self.collector = config.driving.lockstep, collector
        self.state = VehicleState()
        self.eyes = {name: Eye(c.camera(), c.format, c.rate_hz) for name, c in config.cameras.items()}
        self.skipped = 0
        """Decisions that were due but not made: pictures were missing, or the planner was busy."""
        self.silent = 0
        """Controls sent because the vehicle was silent."""
        self.driven_s = 0.0
        """Time driven since the release's last fault, s."""
        runtime.reset()
        self._body = runtime.embodiment
        self._now_ns = 0
        self.dog = Watchdog(runtime, patience_s=config.driving.patience_s, alive=notify, clock=self.now)
        self._controller, self._worker = Controller(self._body.limits), Worker("decisions")
        self._deciding: tuple[int, Future[Planned]] | None = None
        self._decided_ns: int | None = None
        self._fresh: tuple[int, np.ndarray, str] | None = None
        self._followed: Latest | None = None
        self._stopped, self._curvature = True, 0.0
        self._ticked, self._heard, self._faults = -np.inf, time.monotonic(), self._faults_so_far()

    def now(self) -> float:
        """Current time on the clock of all messages, s."""
        return self._now_ns / NS if self.lockstep else time.monotonic()

    def take(self, message: Message) -> list[Message]:
        """Handle a message from the vehicle; returns the answers."""
        if self.lockstep:
            self._now_ns = max(self._now_ns, message.ns)
        if message.topic.startswith(CAMERA):
            self._see(message.topic.removeprefix(CAMERA), message)
        elif message.topic in vehicle_state.TOPICS:
            last = self.state.ns
            if self.state.take(message.topic, message.ns, message.data) and message.topic == STATE:
                self._heard = time.monotonic()
                self._account(0.0 if last is None else min((message.ns - last) / NS, 1.0))
                return self._step()
        return []

    def brake(self) -> list[Message]:
        """Messages while the vehicle is silent: none at first, then braking."""
        if self.lockstep or time.monotonic() - self._heard < SILENT_S:
            return []
        if not self.silent % round(1 / DT):
            log.error("no state from the vehicle: braking")
        self.silent += 1
        return [controls(self.now(), -BRAKE, self._curvature, stopped=True)]

    def close(self) -> None:
        """End the drive; open clips are finished with what is there."""
        self._worker.close()
        if self.collector is not None:
            self.collector.close()

    def _see(self, name: str, message: Message) -> None:
        """Pass a camera's message to its pictures and to the recorder."""
        eye = self.eyes.get(name)
        if eye is None:
            return
        packet = eye.take(message.ns, message.data, to_ns(self.now()))
        if packet is not None and self.collector is not None:
            self.collector.recorder.push(name, message.t, packet[1], packet[0])

    def _step(self) -> list[Message]:
        """Handle a new state: decide if due, record, command."""
        self._collect()
        self._decide()
        plan = self._fresh
        t = self.state.t
        if self.collector is not None and t - self._ticked >= DT - EDGE_S:
            self._ticked, self._fresh = t, None
            self.collector.tick(self.state.moment(plan))
        answers = [self._command(t)]
        if plan is not None and self._fresh is None:
            answers.append(Message(PLAN, plan[0], channels.plan_message(plan[0] / NS, plan[1], plan[2])))
        return answers

    def _decide(self) -> None:
        """Hand the newest pictures to the planner if the next decision is due."""
        newest = [eye.newest_ns for eye in self.eyes.values()]
        if any(ns is None for ns in newest):
            return
        ns = min(n for n in newest if n is not None)
        if self._decided_ns is not None and ns - self._decided_ns < (self._body.decision_dt - EDGE_S) * NS:
            return
        frames = self._frames(ns)
        if frames is None or self._deciding is not None:
            self.skipped += self._decided_ns is not None
            self._decided_ns = ns
            return
        ego, route, objects = self.state.inputs(ns, self._body)
        job: dict[str, Any] = {"t": ns / NS, "now": self.now(), "seen": ns / NS}
        inputs = frames, ego[None], route[None], None if objects is None else [objects]
        self._decided_ns = ns
        self._deciding = ns, self._worker.submit(lambda: self.dog.plan(*inputs, **job))
        if self.lockstep:
            self._deciding[1].exception()
            self._collect()

    def _frames(self, ns: int) -> dict[str, np.ndarray] | None:
        """Camera -> (1, F, H, W, 3) frames for a decision at time ns; None if a camera lacks a picture."""
        back = reversed(range(self._body.frames))
        times = [ns - round(k * self._body.frame_dt * NS) for k in back]
        found = {name: eye.pictures(times) for name in self._body.pictures if (eye := self.eyes.get(name)) is not None}
        shown = {name: pictures[None] for name, pictures in found.items() if pictures is not None}
        return shown if shown.keys() == self._body.pictures.keys() else None

    def _collect(self) -> None:
        """Fetch the planner's answer if there is one."""
        if self._deciding is None or not self._deciding[1].done():
            return
        (ns, future), self._deciding = self._deciding, None
        if (error := future.exception()) is not None:
            log.error("no plan: %s: %s", type(error).__name__, error)
            return
        planned = future.result()
        self._stopped = bool(planned.stopped[0])
        self._fresh = ns, planned.points[0], planned.text[0]

    def _command(self, t: float) -> Message:
        """Controls at t s along the newest plan, or along its stop if it is too old."""
        latest = self.dog.latest()
        if latest is not self._followed:
            self._followed = latest
            self._controller.follow(latest.points[0], self.state.pose(latest.at))
        since = round(max(0.0, t - latest.at), 6)  # rounding errors matter: acceleration jumps at a plan's points
        acceleration, self._curvature = self._controller.command(self.state.ego, since)
        return controls(t, acceleration, self._curvature, latest.stopped or self._stopped)

    def _account(self, seconds: float) -> None:
        """Count the time that the release has driven without a fault of its own."""
        faults = self._faults_so_far()
        self.driven_s = 0.0 if faults > self._faults else self.driven_s + seconds
        self._faults = faults

    def _faults_so_far(self) -> int:
        counts = self.dog.runtime.counts
        return sum(getattr(counts, name) for name in RELEASE_FAULTS)
