"""A Drive and campaigns in, the clips worth sending out; and the ring buffer that a running car records into."""

from __future__ import annotations

from drivefoundry_car.log import Drive
from drivefoundry_car.trigger import Campaign


def clips_of(drive: Drive, campaigns: list[Campaign], seed: int, length_s: float = 20.0) -> list[Drive]:
    """Non-overlapping clips of length_s around firings, highest priority first, plus a random share."""
    raise NotImplementedError


class RingBuffer:
    """Timed byte strings per channel, bounded in bytes; the oldest fall out."""

    def __init__(self, bytes_per_channel: int) -> None:
        raise NotImplementedError

    def push(self, channel: str, t: float, data: bytes) -> None:
        raise NotImplementedError

    def snapshot(self, t0: float, t1: float) -> dict[str, list[tuple[float, bytes]]]:
        raise NotImplementedError
