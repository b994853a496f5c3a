"""Clips of a stored drive, cut by the recorder that cuts them in the car."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from drivefoundry_car.log import channels, clock
from drivefoundry_car.log.drive import Drive, cut
from drivefoundry_car.recording.recorder import EGO, LATE_S, Recorder, Window
from drivefoundry_car.recording.ring import ITEM_BYTES
from drivefoundry_car.recording.stream import McapStream
from drivefoundry_car.triggers.selection import Selection
from drivefoundry_car.triggers.signals import SignalContext
from drivefoundry_car.triggers.trigger import Campaign, firings

Message = tuple[float, str, bytes, bool]
"""Time s, the recorder's channel, data, and whether a video can be decoded from there."""


class SerialRecorder(Recorder):
    """Writes in the caller's thread, at `settle` and `close`; OSError if the disk takes no more. The bytes of a clip
    depend on what was pushed, not on the clock."""

    def settle(self) -> None:
        while self._windows and self._is_due(self._windows[0]) and self._serve(self._windows[0]):
            pass

    def _is_due(self, window: Window) -> bool:
        """Whether a clip can be written whole; no ring is short of room until then."""
        return self._closing or self._clock >= window.end + LATE_S

    def _start(self) -> None:
        pass

    def _stop(self) -> None:
        self.settle()

    def _due(self, stream: McapStream) -> bool:
        return False

    def _give_up(self, window: Window, error: OSError) -> None:
        super()._give_up(window, error)
        raise error


def record_drive(
    drive: Drive, campaigns: Sequence[Campaign], seed: int, folder: Path, context: SignalContext | None = None
) -> list[Path]:
    """Record what the campaigns would have recorded in the car, into `folder`; return the clips in time order.

    The rules run over the drive at once, which fires as sample by sample; shares, windows and files are those of
    `upload.collector.Collector`, with time as the drive has it. Pictures are passed through undecoded. The same drive,
    campaigns and seed give the same bytes. Parts of a drive on either side of a gap (`log.clock.runs`) are recorded
    one by one, and rules start afresh. context: inputs of signals beyond the drive.
    """
    if not len(drive.t):
        return []
    selection, parts = Selection(campaigns, drive.meta, seed), [drive]
    runs = clock.runs(drive.t)
    period = float(np.median(np.diff(drive.t))) if len(drive.t) > 1 else clock.DT
    if len(runs) > 1 and period <= clock.GAP_S:
        parts = [cut(drive, float(drive.t[a]), float(drive.t[b - 1]) + period / 2) for a, b in runs]
    return [clip for part in parts for clip in _recorded(part, campaigns, selection, folder, context)]


def _recorded(
    drive: Drive, campaigns: Sequence[Campaign], selection: Selection, folder: Path, context: SignalContext | None
) -> list[Path]:
    """Record a drive without gaps."""
    selection.interrupt()
    there = {*folder.glob("*.mcap")} if folder.exists() else set()
    waiting = _messages(drive)
    size = sum(len(data) + ITEM_BYTES for *_, data, _ in waiting)
    cameras = {} if drive.video is None else {channels.FRONT: drive.video}
    fired = {t: list(some) for t, some in groupby(firings(list(campaigns), drive, context), key=lambda f: f.t)}
    with SerialRecorder(
        folder, {**cameras, **drive.others}, drive.meta, drive.ego_size, camera_bytes=size, signal_bytes=size
    ) as recorder:
        at = 0
        for t in drive.t.tolist():
            while at < len(waiting) and waiting[at][0] <= t:
                moment, channel, data, key = waiting[at]
                recorder.push(channel, moment, data, key)
                at += 1
            for request in selection.at(t, fired.get(t, [])):
                recorder.request(request)
            recorder.settle()
    return sorted({*folder.glob("*.mcap")} - there)


def _messages(drive: Drive) -> list[Message]:
    """Everything that a drive's car pushed into its recorder, in time order."""
    t, ns = drive.t.tolist(), [channels.to_ns(x) for x in drive.t.tolist()]
    states = np.where(np.isfinite(drive.ego), drive.ego, np.nan).astype("<f8")
    out: list[Message] = [(x, EGO, row.tobytes(), True) for x, row in zip(t, states, strict=True)]
    if (o := drive.objects) is not None:
        updates = channels.scene_updates(o.track, o.kind, o.size, o.states, o.valid, ns)
        out += [(x, channels.OBJECTS, m, True) for x, m in zip(t, updates, strict=True)]
    for topic, plans in ((channels.PLAN, drive.plan), (channels.CORRECTION, drive.correction)):
        if plans is not None:
            rows = zip(plans.t.tolist(), plans.points, plans.text, strict=True)
            out += [(row[0], topic, channels.plan_message(*row), True) for row in rows]
    out += [(t[i], topic, m, True) for topic, i, m in _latched(drive)]
    videos = {} if drive.video is None else {channels.FRONT: drive.video}
    for name, v in {**videos, **drive.others}.items():
        out += [(x, name, p, bool(k)) for x, p, k in zip(v.t.tolist(), v.packets, v.key, strict=True)]
    return sorted(out, key=lambda m: m[0])


def _latched(drive: Drive) -> Iterator[tuple[str, int, bytes]]:
    """Topics that are recorded on change: topic, step and message."""
    if drive.route is not None:
        yield channels.ROUTE, 0, channels.route_message(drive.route)
    if drive.signal_id is not None and drive.signal_state is not None:
        for i, m in channels.changes(("state",), [drive.signal_state], {"id": drive.signal_id.tolist()}):
            yield channels.SIGNALS, i, m
    if drive.engaged is not None or drive.takeover is not None:
        for i, m in channels.changes(("engaged", "takeover"), [drive.engaged, drive.takeover], {}):
            yield channels.DRIVER, i, m
