"""The status report as a JSON file: what the daemon is doing, and what went wrong since it started."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drivefoundry_car.daemon.cameras import Eye
from drivefoundry_car.daemon.supervisor import Child
from drivefoundry_car.daemon.vehicle_state import VehicleState
from drivefoundry_car.driving.watchdog import Watchdog
from drivefoundry_car.durable import write_json
from drivefoundry_car.update.slots import Health
from drivefoundry_car.upload.collector import Collector

log = logging.getLogger(__name__)
EVERY_S = 1.0


def releases(health: Health) -> dict[str, Any]:
    """State of the car's releases."""
    return {**asdict(health), "reports": [asdict(report) for report in health.reports]}


def cameras(eyes: dict[str, Eye]) -> dict[str, Any]:
    """Counts of each camera."""
    of = {name: asdict(eye.clock) | {"damaged": eye.damaged} for name, eye in eyes.items()}
    return {name: {k: v for k, v in counts.items() if k not in ("period_s", "last_ns")} for name, counts in of.items()}


def driving(dog: Watchdog, skipped: int, silent: int, state: VehicleState) -> dict[str, Any]:
    """The runtime's counts, expired plans, decisions not made because the planner was busy or pictures were missing,
    controls sent while the bus was silent, unreadable messages."""
    return {
        **asdict(dog.runtime.counts), "expired": dog.expired, "skipped": skipped, "bus_silent": silent,
        "bus_bad": state.bad,
    }  # fmt: skip


def recording(collector: Collector | None) -> dict[str, Any]:
    """What has been recorded and queued in this drive."""
    return {} if collector is None else asdict(collector.counts())


class StatusFile:
    """Writes the status file at most once per EVERY_S; a full disk is logged once and is not a fault."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self.path, self._clock = path, clock
        self._due, self._failed = float("-inf"), False
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, content: Callable[[], dict[str, Any]], *, now: bool = False) -> None:
        """Write the result of `content` if due, or if `now`."""
        if not now and self._clock() < self._due:
            return
        self._due = self._clock() + EVERY_S
        try:
            write_json(self.path, content(), durable=False)
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.warning("%s: not written: %s", self.path, error.strerror)
            self._failed = True


def children(of: list[Child]) -> dict[str, Any]:
    """State of each process beside the daemon's."""
    return {child.name: child.health() for child in of}
