"""Collect and upload the clips that campaigns request in a running car, tick by tick.

    uploader = Uploader("https://clips.example", Credential(...), "queue", link=Link([...]))
    with Collector("spool", cameras, load_campaigns("my.toml"), meta, uploader) as collector:
        while driving:
            collector.tick(Moment(t, ego, objects=..., cameras={"front": packet}))

Rings and rules see each moment; a firing records a clip (`recorder`), a complete clip is queued (`outbox`), and a
separate thread sends the queue (`uploader`), highest value first. A clip stays in the spool until it is in the queue,
and in the queue until the service has it: a kill at any moment loses at most what was not yet on disk.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from drivefoundry_car.log import channels
from drivefoundry_car.log.channels import Camera
from drivefoundry_car.log.drive import read_meta
from drivefoundry_car.log.video import Encoder
from drivefoundry_car.recording.recent import Moment, Recent
from drivefoundry_car.recording.recorder import Recorder
from drivefoundry_car.recording.recovery import recover, set_aside
from drivefoundry_car.triggers.selection import Selection
from drivefoundry_car.triggers.signals import SignalSource, latest
from drivefoundry_car.triggers.trigger import Campaign, Firing, Watch, note_for, targets_vehicle
from drivefoundry_car.upload.outbox import Full, Outbox
from drivefoundry_car.upload.uploader import Uploader
from drivefoundry_car.vehicle.embodiment import CAR

log = logging.getLogger(__name__)
RETRY_INTERVAL_S = 30.0
"""Interval at which the queue is checked without new clips, s: a window may have opened, the day ended, the service
recovered."""
SHUTDOWN_GRACE_S = 2.0
"""How long closing waits for the upload in progress, s; the next process continues it."""
FPS = 10
"""Frames per second assumed for cameras encoded here, which get a key frame every second."""


@dataclass(frozen=True)
class CollectorCounts:
    """What has happened since the car was started. fired: per campaign, also firings that are not in its share;
    recorded: clips; queued: clips, including those of earlier processes; sent: clips that the service has acknowledged;
    dropped: per channel, messages that came too late or were lost to a slow disk; failed: clips that the disk did not
    take; evicted: clips that made room for more valuable ones, or found none."""

    fired: dict[str, int]
    recorded: int
    queued: int
    sent: int
    dropped: dict[str, int]
    failed: int
    evicted: int = 0


class Collector:
    """The data side of one car; close it, or use it in `with`. One thread ticks.

    spool: folder in which clips are recorded; cameras, meta, ego_size, camera_bytes: as `Recorder` takes them. meta
    says which campaigns are meant for this car (`trigger.applies`): vehicle, groups, date, purpose. uploader: owns the
    queue and the link; without one, clips wait in the spool's folder 'queue'. signals: those that the car has; a rule
    that names another never fires (`lacking`).
    """

    def __init__(
        self,
        spool: Path | str,
        cameras: Mapping[str, Camera],
        campaigns: Sequence[Campaign],
        meta: Mapping[str, str],
        uploader: Uploader | None = None,
        *,
        signals: SignalSource | None = None,
        ego_size: tuple[float, float, float] = CAR.size,
        camera_bytes: int = 8 << 20,
    ) -> None:
        self.spool, self.campaigns, self.signals = Path(spool), tuple(campaigns), signals or SignalSource()
        self.spool.mkdir(parents=True, exist_ok=True)
        self.uploader = uploader
        self.outbox = Outbox(self.spool / "queue") if uploader is None else uploader.outbox
        ours = [c for c in self.campaigns if targets_vehicle(c, meta)]
        self.watch, self._recent = Watch(ours, list(self.signals.names)), Recent(meta, ego_size)
        self.lacking = self.watch.lacking
        self._selection = Selection(ours, meta)
        self._encoders: dict[str, Encoder] = {}
        self._told: dict[str, object] = {}
        self._fired: Counter[str] = Counter()
        self._queued, self._homeless, self._trouble = 0, 0, ""
        self._sent_before = 0 if uploader is None else uploader.sent
        self._taking, self._wake, self._closing = threading.Lock(), threading.Event(), False
        for found in recover(self.spool).values():
            log.warning("%s", f"{found}: recovered, to its last second" if isinstance(found, Path) else found)
        self.recorder = Recorder(
            self.spool, cameras, meta, ego_size, camera_bytes=camera_bytes, on_clip=self._wake.set,
            make_room=self._make_room,
        )  # fmt: skip
        self._wake.set()  # left by earlier processes
        self._courier = threading.Thread(target=self._run, name="courier", daemon=True)
        self._courier.start()

    def tick(self, now: Moment) -> list[Firing]:
        """Push a moment; return its firings, highest priority first. Never waits for disk or link.

        ValueError if t does not increase, or a camera is unknown.
        """
        drive = self._recent.push(now)
        fired = self.watch.push(now.t, latest(drive, list(self.signals.names), self.signals.context))
        self._record(now)
        self._fired.update(firing.campaign for firing in fired)
        for request in self._selection.at(now.t, fired):
            self.recorder.request(request)
        return fired

    def counts(self) -> CollectorCounts:
        """What has happened so far."""
        done = self.recorder.counts()
        sent = 0 if self.uploader is None else self.uploader.sent - self._sent_before
        evicted = self._homeless + self.outbox.evicted.total()
        return CollectorCounts(dict(self._fired), done.clips, self._queued, sent, done.dropped, done.failed, evicted)

    def close(self, leave_s: float | None = SHUTDOWN_GRACE_S) -> None:
        """Open clips end with what there is and are queued. What is being sent has leave_s to get there (None: as long
        as it takes); the rest waits for the next life."""
        self.recorder.close()
        self._closing = True
        self._wake.set()
        self._courier.join(leave_s)
        self._take_in()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, now: Moment) -> None:
        """A moment into the rings: pictures, ego, objects and plans as they come, what holds on when it changes."""
        push, t = self.recorder.push, now.t
        for name, picture in now.cameras.items():
            key, packet = self._encoded(name, picture) if isinstance(picture, np.ndarray) else (None, picture)
            push(name, t, packet, key)
        self.recorder.push_ego(t, now.ego)
        if (o := now.objects) is not None:
            ns = [channels.to_ns(t)]
            push(channels.OBJECTS, t, channels.scene_updates(o.track, o.kind, o.size, o.states, o.valid, ns)[0])
        for topic, points, text in ((channels.PLAN, now.plan, now.text), (channels.CORRECTION, now.correction, "")):
            if points is not None:
                push(topic, t, channels.plan_message(t, points, text))
        if now.route is not None and self._changed(channels.ROUTE, now.route.tobytes()):
            push(channels.ROUTE, t, channels.route_message(now.route))
        if now.signals is not None and self._changed(channels.SIGNALS, tuple(a.tobytes() for a in now.signals)):
            told = dict(zip(("id", "state"), (a.tolist() for a in now.signals), strict=True))
            push(channels.SIGNALS, t, json.dumps(told, separators=(",", ":")).encode())
        flags = {"engaged": now.engaged, "takeover": now.takeover}
        if any(f is not None for f in flags.values()) and self._changed(channels.DRIVER, tuple(flags.values())):
            push(channels.DRIVER, t, json.dumps(flags, separators=(",", ":")).encode())

    def _make_room(self, count: int, priority: int) -> bool:
        """Room on the spool's disk for a clip under way, of the queue's clips that are worth less."""
        one_disk = self.spool.stat().st_dev == self.outbox.folder.stat().st_dev
        return one_disk and self.outbox.make_room(count, priority)

    def _encoded(self, name: str, frame: np.ndarray) -> tuple[bool, bytes]:
        camera = self.recorder.cameras.get(name)
        if camera is None or camera.format != "h264" or frame.shape != (camera.height, camera.width, 3):
            raise ValueError(
                f"camera '{name}': frame {frame.shape} of no such H.264 camera; give it as it is described"
            )
        if name not in self._encoders:
            self._encoders[name] = Encoder(camera.width, camera.height, FPS)
        return self._encoders[name].encode(frame)

    def _changed(self, topic: str, value: object) -> bool:
        """Whether a topic holds something else than at the last moment."""
        if self._told.get(topic) == value:
            return False
        self._told[topic] = value
        return True

    def _run(self) -> None:
        """The courier: queue what is whole, send what is queued, again whenever a clip is whole."""
        while not self._closing:
            self._wake.wait(RETRY_INTERVAL_S)
            self._wake.clear()
            self._take_in()
            if self.uploader is not None and not self._closing:
                try:
                    self.uploader.send_all(until=self._wake)
                    self._trouble = ""
                except (ValueError, OSError) as error:
                    self._tell(str(error))

    def _take_in(self) -> None:
        """Every clip that is whole goes from the spool into the queue, with what its campaign says of it."""
        with self._taking:
            for clip in sorted(self.spool.glob("*.mcap")):
                try:
                    name = read_meta(clip).get("campaign", "")
                    self.outbox.put(clip, note_for(name, self.campaigns))
                    self._queued += 1
                except Full as error:  # of all clips it is worth the least, and the spool has a bound as well
                    self._homeless += 1
                    log.warning("%s: dropped: %s", clip, error.strerror)
                    clip.unlink()
                except ValueError as error:
                    log.error("%s; moved to %s", error, set_aside(clip).parent)
                except OSError as error:
                    self._tell(f"{clip}: cannot be queued yet: {error.strerror}; free some space")
                    return

    def _tell(self, trouble: str) -> None:
        """One line a trouble, however long it lasts."""
        if trouble != self._trouble:
            log.warning("%s", trouble)
        self._trouble = trouble
