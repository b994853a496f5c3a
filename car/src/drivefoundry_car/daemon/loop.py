"""The daemon's loop: boot a release, connect to the vehicle and drive, repeatedly, until it is stopped.

Uploader and updater run in separate processes (`supervisor`); the status report covers all of them.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from drivefoundry_car.daemon import bus, status
from drivefoundry_car.daemon.bus import Bus, Closed, Message
from drivefoundry_car.daemon.config import Config
from drivefoundry_car.daemon.session import Session
from drivefoundry_car.daemon.supervisor import Child
from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.driving.watchdog import notify
from drivefoundry_car.driving.worker import Worker
from drivefoundry_car.triggers.trigger import load_campaigns
from drivefoundry_car.update.slotfiles import Installed
from drivefoundry_car.update.slots import Slots
from drivefoundry_car.upload.collector import Collector

log = logging.getLogger(__name__)
POLL_S = 0.1
"""How long the loop waits for a message before it turns to other work, s."""
AGAIN_S = 1.0
"""Interval between attempts to boot or to connect, s."""
HEALTH_S = 60.0
"""Driven time between reports of health to the slots, s."""


class Daemon:
    """One car. path: the configuration's file, for the other processes; load: creates the runtime of an engine
    directory."""

    def __init__(self, config: Config, path: Path, load: Callable[..., Runtime] = Runtime.load) -> None:
        self.config, self._load = config, load
        self.slots = Slots(config.driving.slots, root=config.driving.root.read_bytes())
        beside = {"uploader": ("uploading", config.upload), "updater": ("updating", config.update)}
        self.children = [
            Child(name, f"drivefoundry_car.daemon.{module}", [str(path)])
            for name, (module, given) in beside.items()
            if given is not None
        ]
        self._status = status.StatusFile(config.status, time.monotonic)
        self._ending = threading.Event()
        self._worker = Worker("slots")
        self._phase, self._trouble = "starting", ""
        self._release: Installed | None = None
        self._runtime: Runtime | None = None
        self._session: Session | None = None
        self._drive = ""
        self._reported_s = 0.0
        self._health: Future[dict[str, Any]] | None = None
        self._known: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        """What the status report says about the current or the last drive."""

    def end(self) -> None:
        """Let `run` return cleanly."""
        self._ending.set()

    def run(self, once: bool = False) -> None:
        """Drive again and again until `end` is called; once: drive only once."""
        try:
            while not self._ending.is_set():
                connection = self._connected() if self._boot() else None
                if connection is not None:
                    self._driven(connection)
                    self._ended()
                    if once:
                        return
            self._ended()
        finally:
            self._close_session()
            self._phase = "ended"
            for child in self.children:
                child.close()
            self._status.write(self._report, now=True)

    def _boot(self) -> bool:
        """Choose and load the release to drive with; wait if there is none. Returns False if ended."""
        self._phase = "waiting for a release"
        d, runtime = self.config.driving, None
        while not self._ending.is_set():
            self._look_after()
            try:
                self._release = self.slots.boot()
                options = {"reason_every": d.reason_every, "deadline_s": d.deadline_s, "vehicle": d.vehicle}
                runtime = self._load(self._release.engine, **options)
                break
            except ValueError as error:
                self._warn_once(str(error))
                self._ending.wait(AGAIN_S)
        if self._release is None or runtime is None or self._ending.is_set():
            return False
        log.info("driving with release %s", self._release.release)
        if self._runtime is not None:
            self._runtime.close()
        self._runtime = runtime
        self._ask_health()
        return True

    def _connected(self) -> Bus | None:
        """Connect to the vehicle whenever it comes; None if ended, or if another release must be booted first."""
        self._phase = "waiting for the vehicle"
        while not self._ending.is_set():
            self._look_after()
            try:
                connection = bus.connect(self.config.socket)
                notify("READY=1")
                return connection
            except OSError as error:
                self._warn_once(f"{self.config.socket}: no vehicle there yet ({error.strerror})")
            if self._session is None and self._newer():
                return None
            self._ending.wait(AGAIN_S)
        return None

    def _driven(self, connection: Bus) -> None:
        """Serve one drive, over as many connections as it takes."""
        over = False
        while not over and not self._ending.is_set():
            self._phase = "driving"
            try:
                over = self._served(connection)
            except Closed as error:
                log.error("%s: %s; connecting again", self.config.socket, error)
            connection.close()
            if not over and (new := self._connected()) is not None:
                connection = new

    def _served(self, connection: Bus) -> bool:
        """Receive, check, run, publish; returns whether the vehicle ended the drive. Raises Closed."""
        while not self._ending.is_set():
            message = connection.receive(POLL_S)
            self._look_after()
            if message is None:
                answers = self._session.brake() if self._session is not None else []
            elif message.topic == bus.END:
                return True
            elif message.topic == bus.VEHICLE:
                answers = self._begin(message)
            else:
                answers = self._session.take(message) if self._session is not None else []
            for answer in answers:
                connection.send(answer)
        return True

    def _begin(self, message: Message) -> list[Message]:
        """Begin the drive that the vehicle announces, or resume it after a lost connection."""
        try:
            hello = json.loads(message.data)
            drive, meta = str(hello["drive"]), {str(k): str(v) for k, v in hello.get("meta", {}).items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise Closed(f'{bus.VEHICLE}: no JSON object with "drive" and "meta"') from None
        if self._session is not None and drive == self._drive:
            return []
        self._close_session()
        assert self._runtime, "a drive begins after the boot"
        assert self._release
        meta = {
            **self.config.recording.meta,
            **meta,
            "vehicle": self.config.vehicle,
            "drive": drive,
            "release": self._release.release,
        }
        self._drive, self._reported_s = drive, 0.0
        self._session = Session(self.config, self._runtime, self._collector(meta))
        log.info("drive %s begins", drive)
        return []

    def _collector(self, meta: dict[str, str]) -> Collector | None:
        """The recorder of this drive; None if the disk does not take it: the car drives all the same."""
        r = self.config.recording
        cameras = {name: c.camera() for name, c in self.config.cameras.items()}
        size = self.config.driving.vehicle.size
        try:
            return Collector(r.spool, cameras, load_campaigns(r.campaigns or None), meta, ego_size=size)
        except OSError as error:
            self._warn_once(f"{r.spool}: nothing is recorded in this drive: {error.strerror}; see to the disk")
            return None

    def _ended(self) -> None:
        """Finish a drive that ended normally."""
        self._close_session()
        if self._release is not None and not self._newer():
            self.slots.ended()

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._status.write(self._report, now=True)
        self._session = None

    def _newer(self) -> bool:
        """Whether a release other than the one driving has become current."""
        slot = self.slots.slot()
        return self._release is not None and slot is not None and self.slots.id_in(slot) != self._release.release

    def _look_after(self) -> None:
        """Work other than the drive itself, none of which blocks: processes, health, status."""
        for child in self.children:
            child.watch()
        session = self._session
        if session is not None and session.driven_s < self._reported_s:  # the count restarts after a fault
            self._reported_s = 0.0
        if session is not None and session.driven_s - self._reported_s >= HEALTH_S:
            self._reported_s = session.driven_s
            if not self._newer():
                self._worker.submit(self.slots.healthy, session.driven_s / 60.0)
            self._ask_health()
        self._status.write(self._report)

    def _ask_health(self) -> None:
        """Read the releases' state again, in the background, since that hashes the running release."""
        self._health = self._worker.submit(lambda: status.releases(self.slots.health()))

    def _report(self) -> dict[str, Any]:
        """The status report."""
        if self._health is not None and self._health.done() and self._health.exception() is None:
            self._known = self._health.result()
        session = self._session
        if session is not None:
            self._last = {
                "driving": status.driving(session.dog, session.skipped, session.silent, session.state),
                "cameras": status.cameras(session.eyes),
                "recording": status.recording(session.collector),
            }
        return {
            "phase": self._phase,
            "vehicle": self.config.vehicle,
            "drive": self._drive,
            "release": self._release.release if self._release is not None else None,
            "releases": self._known,
            **self._last,
            "waiting": sum(1 for _ in self.config.recording.queue.glob("*.mcap")),
            "processes": status.children(self.children),
            "trouble": self._trouble,
        }

    def _warn_once(self, trouble: str) -> None:
        """Log each distinct trouble once."""
        if trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble
