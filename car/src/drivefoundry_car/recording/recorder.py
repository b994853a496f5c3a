"""Record MCAP clips around triggers from a car's sensors: ring buffers always, a file while a recording is open.

    recorder = Recorder(folder, cameras, meta={"vehicle": "car-7", "drive": "2031-05-04-1"})
    recorder.push("front", t, packet); recorder.push_ego(t, ego); recorder.push(channels.OBJECTS, t, message)
    recorder.trigger("hard_brake", t)

Pushing takes a lock for microseconds and never waits for the disk, because a separate thread writes. Each clip is
written to `<name>.mcap.part`, chunk by chunk, and renamed once complete; `recover` finishes what a kill left behind.
"""

from __future__ import annotations

import json
import logging
import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heapreplace
from pathlib import Path

import numpy as np

from drivefoundry_car.durable import rename
from drivefoundry_car.log import channels
from drivefoundry_car.log.channels import Camera
from drivefoundry_car.log.video import is_key
from drivefoundry_car.recording.ring import LATEST_S, Item, Ring, Start
from drivefoundry_car.recording.stream import CHUNK_BYTES, McapStream
from drivefoundry_car.triggers.selection import Request
from drivefoundry_car.vehicle.embodiment import CAR

log = logging.getLogger(__name__)
PART = ".part"
BEFORE_S, AFTER_S = 12.0, 8.0
"""Default time in a clip before and after its trigger, s."""
LONGEST_S = 30.0
"""Triggers during a recording extend the clip up to this length, s; after that, the next clip begins."""
EDGE_S = 1e-6
"""Tolerance for rounding of times on a 0.1 s grid, s: a window that begins on a sample includes it, as in `log.cut`."""
LATE_S = 0.5
"""Time after its end at which a clip is closed, s: channels may lag by this much; anything later is not included."""
SETTLE_S = 0.0005
TICK_S, BURST_S, LONG_BURST_S = 0.05, 1.0, 10.0
"""Polling interval of the writer. A burst of drops is reported BURST_S after its last one, a long burst every
LONG_BURST_S."""
BATCH_BYTES, BATCH_ITEMS = 1 << 20, 256
WRITER_BYTES = BATCH_BYTES + 4 * CHUNK_BYTES
"""Memory for writing, beside the rings: a batch, the open chunk, a copy of it, its compressed form and its record."""
HELD = (channels.ROUTE, channels.SIGNALS, channels.DRIVER)
"""Topics recorded on change: a clip begins with their values latched at its start."""
EGO = "ego"
"""The ego's state, 7 float64 as in `log.Drive.ego`."""
TOPICS = (channels.OBJECTS, channels.PLAN, channels.CORRECTION, *HELD)


@dataclass(frozen=True)
class RecorderCounts:
    """dropped: per channel, items refused or evicted before they were written; clips written; clips that the disk did
    not take."""

    dropped: dict[str, int]
    clips: int
    failed: int


@dataclass
class Window:
    """One clip, begin <= t < end s, and its triggers as (priority, campaign, rule, t)."""

    begin: float
    end: float
    triggers: list[tuple[int, str, str, float]] = field(default_factory=list)
    noted: int = 0
    """Number of triggers already in the file's metadata."""


class Recorder:
    """Records a running car into `folder`; close it, or use it in a `with` statement.

    cameras: name -> Camera, up to 8; meta: contents of `log.Drive.meta`. Each camera's ring is bounded by camera_bytes,
    each other channel's by signal_bytes. on_clip: called in the writer's thread when a clip is complete. make_room:
    called when the disk is full, with the number of missing bytes and the priority of the clip; returns whether some
    were freed. Times are s since one epoch for all channels, >= 0, increasing per channel.
    """

    def __init__(
        self,
        folder: Path | str,
        cameras: Mapping[str, Camera],
        meta: Mapping[str, str],
        ego_size: tuple[float, float, float] = CAR.size,
        *,
        camera_bytes: int = 8 << 20,
        signal_bytes: int = 2 << 20,
        on_clip: Callable[[], object] = lambda: None,
        make_room: Callable[[int, int], bool] = lambda _, __: False,
    ) -> None:
        for name, camera in cameras.items():
            if not re.fullmatch(r"[a-z0-9_]+", name) or camera.format not in channels.FORMATS:
                known = ", ".join(channels.FORMATS)
                raise ValueError(
                    f"camera '{name}', {camera.format}: must have a name of a-z, 0-9, _ and a format of {known}"
                )
        self.folder, self.meta, self.cameras, self.ego_size = Path(folder), dict(meta), dict(cameras), ego_size
        self.folder.mkdir(parents=True, exist_ok=True)
        self._on_clip, self._make_room = on_clip, make_room
        starts: dict[str, Start] = {name: "key" if c.format == "h264" else "any" for name, c in cameras.items()}
        self._rings = {name: Ring(camera_bytes, start) for name, start in starts.items()}
        self._rings |= {topic: Ring(signal_bytes, "held" if topic in HELD else "any") for topic in (EGO, *TOPICS)}
        self.bound = sum(ring.bound for ring in self._rings.values()) + WRITER_BYTES
        """Upper bound of the recorder's memory, bytes."""
        self._lock, self._wake = threading.Lock(), threading.Event()
        self._windows: deque[Window] = deque()
        self._clock = self._ended = -math.inf
        self._first = math.inf
        self._closing = False
        self._clips = self._failed = 0
        self._stream: McapStream | None = None
        self._ids: dict[str, int] = {}
        self._drops: dict[str, tuple[int, int, float, float]] = {}
        self._writer = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._start()

    def push(self, channel: str, t: float, data: bytes, key: bool | None = None) -> bool:
        """Add a packet of a camera (by name) or a message of a topic (TOPICS); returns False if it is dropped.

        key: whether an H.264 packet is a key frame; determined from its bytes if None.
        """
        if channel not in self._rings:
            raise ValueError(f"channel '{channel}': unknown; must be one of {', '.join(self._rings)}")
        ring, data = self._rings[channel], bytes(data)
        if key is None:
            key = ring.start != "key" or is_key(data)
        with self._lock:
            taken = ring.push(t, data, key)
            if taken:
                self._clock, self._first = max(self._clock, t), min(self._first, t)
        return taken

    def push_ego(self, t: float, ego: np.ndarray) -> bool:
        """Add the ego's state (7,) as in `log.Drive.ego`; NaN if unknown."""
        state = np.asarray(ego, "<f8")
        if state.shape != (7,):
            raise ValueError(f"ego: must have shape (7,) ({', '.join(channels.STATE_FIELDS)}), got {state.shape}")
        return self.push(EGO, t, np.where(np.isfinite(state), state, np.nan).tobytes())

    def trigger(
        self, campaign: str, t: float, rule: str = "", priority: int = 0, before_s: float = BEFORE_S,
        after_s: float = AFTER_S,
    ) -> None:  # fmt: skip
        """Record from before_s before t to after_s after it, except for what a clip already contains.

        If a clip is open and its window overlaps the trigger's, the clip is extended, up to LONGEST_S; the rest goes to
        the next clip. A new clip that cannot begin before_s before t, because another has just ended or recording has
        just started, ends later by as much. A clip's campaign is that of its trigger with the highest priority; meta
        'triggers' lists all.
        """
        if not (0 <= t < LATEST_S and 0 <= before_s < math.inf and 0 < after_s < math.inf):
            raise ValueError(f"trigger '{campaign}': times must be >= 0 s, got {t}, -{before_s}, +{after_s}")
        why = (priority, campaign, rule, t)
        with self._lock:
            last = self._windows[-1] if self._windows else None
            begin, end = t - before_s, t + after_s
            meets = last is not None and begin < last.end - EDGE_S
            if last is not None and meets and max(end, last.end) - last.begin <= LONGEST_S + EDGE_S:
                last.end = max(end, last.end)
                last.triggers.append(why)
            elif end > self._ended + EDGE_S:
                first = max(begin, self._ended, min(self._first, t))
                end = first + before_s + after_s
                window = Window(first, end, [why])
                if not self._windows:
                    self._begin_rings(window.begin)
                self._windows.append(window)
            self._ended = max(self._ended, end)
        self._wake.set()

    def request(self, request: Request) -> None:
        """Trigger what a `Selection` asks for."""
        c, r = request.campaign, request
        self.trigger(c.name, r.t, r.why, c.priority, r.before_s, max(r.after_s, 1e-3))

    def counts(self) -> RecorderCounts:
        """Totals of dropped items, written clips and failed clips so far."""
        with self._lock:
            dropped = {name: ring.refused + ring.lost for name, ring in self._rings.items() if ring.refused + ring.lost}
            return RecorderCounts(dropped, self._clips, self._failed)

    def settle(self) -> None:
        """Wait until the writer has caught up. For replay faster than real time, so that nothing is dropped and clips
        end where they would in a car."""
        while True:
            with self._lock:
                if not self._windows:
                    return
                end, waits = self._windows[0].end, min(ring.next() for ring in self._rings.values())
                if waits >= end - EDGE_S and self._clock < end + LATE_S:
                    return
            self._wake.set()
            time.sleep(SETTLE_S)

    def close(self) -> None:
        """Finish open clips with what is there; returns once they are on disk."""
        self._closing = True
        self._stop()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        self._writer.start()

    def _stop(self) -> None:
        self._wake.set()
        self._writer.join()

    def _due(self, stream: McapStream) -> bool:
        return stream.due()

    def _begin_rings(self, begin: float) -> None:
        for ring in self._rings.values():
            ring.begin(begin - EDGE_S)

    def _run(self) -> None:
        """Writer thread: serve the first window until it is complete, then the next."""
        while True:
            with self._lock:
                window = self._windows[0] if self._windows else None
            if window is not None:
                self._serve(window)
            self._report_drops(self._closing)
            if window is None and self._closing:
                return
            if not (self._closing and window):
                self._wake.wait(TICK_S if window else BURST_S)
                self._wake.clear()

    def _serve(self, window: Window) -> bool:
        """Write what waits of a window; return whether it is over."""
        try:
            while batch := self._take(window):
                stream = self._stream or self._begin(window)
                for channel, (t, data, _) in batch:
                    self._write(stream, channel, max(t, window.begin) if channel in HELD else t, data)
                if self._due(stream):
                    stream.flush()
            if self._stream is not None and len(window.triggers) > window.noted:
                self._stream.add_metadata("drive", self._meta_of(window))
            if self._stream is not None and self._due(self._stream):
                self._stream.flush()
            over = self._over(window)
            if over and self._stream is not None:
                self._finish(self._stream)
            return over
        except OSError as error:
            self._give_up(window, error)
            return True

    def _take(self, window: Window) -> list[tuple[str, Item]]:
        """The next messages of a window in time order, up to BATCH_BYTES; empty if nothing waits."""
        batch: list[tuple[str, Item]] = []
        size = 0
        with self._lock:
            waiting = [(ring.next(), name) for name, ring in self._rings.items()]
            heapify(waiting)
            while size < BATCH_BYTES and len(batch) < BATCH_ITEMS and waiting[0][0] < window.end - EDGE_S:
                channel = waiting[0][1]
                batch.append((channel, self._rings[channel].take()))
                size += len(batch[-1][1][1])
                heapreplace(waiting, (self._rings[channel].next(), channel))
        return batch

    def _over(self, window: Window) -> bool:
        """Whether a window is completely written. If so, the next begins, and no trigger extends this one any more."""
        with self._lock:
            waits = min(ring.next() for ring in self._rings.values()) < window.end - EDGE_S
            grew = self._stream is not None and len(window.triggers) > window.noted
            if waits or grew or not (self._closing or self._clock >= window.end + LATE_S):
                return False
            self._next()
            return True

    def _next(self) -> None:
        self._windows.popleft()
        for ring in self._rings.values():
            ring.end()
        if self._windows:
            self._begin_rings(self._windows[0].begin)

    def _begin(self, window: Window) -> McapStream:
        """Start a new file with what is known at the start."""
        drive = re.sub(r"[^A-Za-z0-9_.-]+", "_", self.meta.get("drive", "drive")).lstrip(".")
        stem, k = f"{drive}-{max(window.begin, 0):09.1f}", 0
        while any((self.folder / f"{stem}{f'_{k}' if k else ''}.mcap{end}").exists() for end in ("", PART)):
            k += 1
        stream = self._stream = McapStream(
            self.folder / f"{stem}{f'_{k}' if k else ''}.mcap{PART}",
            lambda count: self._make_room(count, max(priority for priority, *_ in window.triggers)),
        )
        self._ids = {}
        stream.add_metadata("recording", {"clock": "each channel's own"})
        stream.add_metadata("ego", channels.measured(self.ego_size))
        stream.add_metadata("notes", {})
        stream.add_metadata("drive", self._meta_of(window))
        ns = channels.to_ns(max(window.begin, 0))
        for name, c in self.cameras.items():
            topic = channels.calibration_of(name)
            self._ids[topic] = channels.open_channel(stream, topic, channels.mounted(c))
            stream.add(self._ids[topic], ns, channels.calibration(name, c, ns))
        return stream

    def _meta_of(self, window: Window) -> dict[str, str]:
        triggers = window.triggers[:]  # more may come meanwhile
        window.noted = len(triggers)
        _, campaign, rule, t = max(triggers, key=lambda w: w[0])
        at = {"campaign": campaign, "trigger": rule, "trigger_t": f"{t:.3f}", "clip_index": str(self._clips)}
        every = [{"campaign": c, "trigger": r, "trigger_t": round(t, 3)} for _, c, r, t in triggers]
        return {**self.meta, **at, "triggers": json.dumps(every)}

    def _write(self, stream: McapStream, channel: str, t: float, data: bytes) -> None:
        """Write one item as a message of the file."""
        ns = channels.to_ns(t)
        if channel in self.cameras:
            form = self.cameras[channel].format
            (message,) = channels.pictures(channel, form, [data], [ns])
            self._add(stream, channels.camera(channel), ns, message, form)
        elif channel == EGO:
            ego = np.frombuffer(data, "<f8")[None]
            self._add(stream, channels.STATE, ns, channels.states(np.array([t]), ego)[0])
            self._add(stream, channels.POSE, ns, channels.poses(ego, [ns])[0])
        else:
            self._add(stream, channel, ns, data)

    def _add(self, stream: McapStream, topic: str, ns: int, message: bytes, form: str = "h264") -> None:
        if topic not in self._ids:
            self._ids[topic] = channels.open_channel(stream, topic, form=form)
        stream.add(self._ids[topic], ns, message)

    def _finish(self, stream: McapStream) -> None:
        stream.finish()
        rename(stream.path, stream.path.with_suffix(""))
        self._stream = None
        self._clips += 1
        self._on_clip()

    def _give_up(self, window: Window, error: OSError) -> None:
        """Give up a clip that the disk does not take: its file stays for `recover`, and the next trigger starts a new
        clip."""
        log.error("%s: gave up a clip: %s; free some space", self.folder, error.strerror)
        kept = self._stream.abandon() if self._stream is not None else 0
        if self._stream is not None and not kept:
            self._stream.path.unlink(missing_ok=True)
        self._stream = None
        with self._lock:
            self._failed += 1
            if self._windows and self._windows[0] is window:
                self._next()
            if not self._windows:
                self._ended = self._clock if kept else window.begin

    def _report_drops(self, last: bool) -> None:
        """Log one line per channel and burst of drops."""
        now = time.monotonic()
        for channel, count in self.counts().dropped.items():
            reported, seen, since, begun = self._drops.get(channel, (0, 0, now, now))
            begun = now if reported == seen else begun
            since = now if count > seen else since
            if count > reported and (last or now - since >= BURST_S or now - begun >= LONG_BURST_S):
                log.warning("%s: %d dropped", channel, count - reported)
                reported = count
            self._drops[channel] = (reported, count, since, begun)
