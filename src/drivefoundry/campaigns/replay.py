"""Replay stored drives through a car's recorder, campaigns and uploader, to a real service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from drivefoundry.campaigns.backlog import StoredDrive, aligned
from drivefoundry.progress import warn
from drivefoundry.types import require
from drivefoundry_car.log import Drive, Video
from drivefoundry_car.log.channels import FRONT
from drivefoundry_car.recording.recent import moments
from drivefoundry_car.recording.ring import ITEM_BYTES
from drivefoundry_car.triggers import Campaign
from drivefoundry_car.triggers.signals import SignalContext, SignalSource, signals_of
from drivefoundry_car.upload.collector import Collector, CollectorCounts
from drivefoundry_car.upload.uploader import Uploader

CAMERA_BYTES = 8 << 20


@dataclass(frozen=True)
class Replayed:
    """A drive's name, and what its car did."""

    name: str
    counts: CollectorCounts


def replay(
    campaigns: Sequence[Campaign],
    drives: Iterator[StoredDrive],
    spool: Path,
    uploader_of: Callable[[str], Uploader],
    left_out: Callable[[str], object] = warn,
) -> Iterator[Replayed]:
    """Run each drive through a car's data side (`collector`), faster than real time, and yield the results.

    spool: folder for recorded clips; uploader_of: vehicle name -> its uploader. A drive that names no vehicle is
    skipped and reported to left_out. ValueError if none names one, or the service is unreachable or refuses clips.
    """
    nameless: list[str] = []
    done = False
    for r in drives:
        vehicle = r.drive.meta.get("vehicle", "")
        if not vehicle:
            nameless.append(f"{r.name}: its meta names no vehicle; the service accepts clips of enrolled vehicles only")
            continue
        done = True
        uploader, context = uploader_of(vehicle), SignalContext(r.stop_lines)
        front = {} if r.drive.video is None else {FRONT: r.drive.video}
        cameras = {**front, **r.drive.others}
        size = max([CAMERA_BYTES, *(sum(len(p) + ITEM_BYTES for p in v.packets) for v in cameras.values())])
        signals = SignalSource([*signals_of(r.drive, context)], context)
        car = Collector(
            spool, cameras, campaigns, r.drive.meta, uploader, signals=signals, ego_size=r.drive.ego_size,
            camera_bytes=size,
        )  # fmt: skip
        try:
            _drive(car, r.drive, cameras)
        finally:
            car.close(leave_s=None)
        uploader.send_all()
        counts = car.counts()
        left = counts.queued - counts.sent
        where = f"they wait in {uploader.queue}, or are in its folder 'refused' with the reason"
        require(left <= 0, f"{r.name}: {left} of {counts.queued} clips were not uploaded; {where}")
        yield Replayed(r.name, counts)
    require(done or not nameless, "".join(nameless[:1]))
    for why in nameless:
        left_out(f"left out: {why}")


def _drive(car: Collector, drive: Drive, videos: dict[str, Video]) -> None:
    """Feed pictures at their own times, everything else at the drive's steps."""
    shown = sorted(((t, name, i) for name, v in videos.items() for i, t in enumerate(v.t.tolist())), reverse=True)
    for now in moments(drive):
        while shown and shown[-1][0] <= now.t:
            t, name, i = shown.pop()
            car.recorder.push(name, t, videos[name].packets[i], bool(videos[name].key[i]))
        car.tick(now)
        car.recorder.settle()


def replayed_table(done: Sequence[Replayed]) -> str:
    """One line per drive, and a total."""
    rows = [("drive", "fired", "recorded", "sent", "dropped")]
    cells = [
        (sum(c.fired.values()), c.recorded, c.sent, sum(c.dropped.values()) + c.failed)
        for c in (r.counts for r in done)
    ]
    names = [r.name for r in done]
    if len(done) > 1:
        names, cells = [*names, "all"], [*cells, tuple(map(sum, zip(*cells, strict=True)))]
    return aligned([*rows, *((name, *map(str, cell)) for name, cell in zip(names, cells, strict=True))])
