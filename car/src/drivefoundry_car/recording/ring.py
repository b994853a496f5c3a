"""Timed byte strings of one channel, bounded in bytes: the recent past, and what a recording still has to write.

The ring also serves as the recording's queue, so a slow disk costs no memory beyond the bound: items evicted before
they were written are lost, and counted.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

ITEM_BYTES = 160
"""Python's overhead per item: tuple, float, bytes header and a slot in the deque."""
LATEST_S = 9e9
"""Upper bound of times, s: in ns they must fit into 64 bits."""
Item = tuple[float, bytes, bool]
"""t s, data, and whether decoding can begin here: key frames of a video, every message of other channels."""
Start = Literal["any", "key", "held"]
"""Where a recording begins: with any item, with a key frame, or with the message that is still valid."""


class Ring:
    """The newest items of one channel, within `bound` bytes (data plus ITEM_BYTES each); the oldest are evicted first.

    The ring always begins with a key: frames that depend on a key frame are evicted with it. `refused` counts items not
    accepted (older than the last, larger than the bound, without their key frame), `lost` those evicted while a
    recording still needed them.
    """

    def __init__(self, bound: int, start: Start = "any") -> None:
        if bound <= 0:
            raise ValueError(f"ring: bound must be > 0 bytes, got {bound}")
        self.bound = bound
        self.start: Start = start
        self.size = 0
        self.refused = 0
        self.lost = 0
        self._past: deque[Item] = deque()
        self._pending: deque[Item] = deque()
        self._waiting = False
        self._last = 0.0
        self._whole = False  # whether no frame is missing since the last key

    def push(self, t: float, data: bytes, key: bool = True) -> bool:
        """Add data of time t (s); returns False if it is refused."""
        fits = self._last <= t < LATEST_S and len(data) + ITEM_BYTES <= self.bound  # False for NaN
        self._whole = fits and (key or self._whole)
        if not self._whole:
            self.refused += 1
            return False
        (self._pending if self._waiting else self._past).append((t, data, key))
        self.size += len(data) + ITEM_BYTES
        self._last = t
        if self.size > self.bound:
            self._evict()
        if not len(self):  # a key frame and its dependants exceed the bound
            self._whole = False
            self.refused += not self._waiting  # otherwise it counts as lost
        return self._whole

    def _evict(self) -> None:
        while self.size > self.bound or (len(self) and not (self._past or self._pending)[0][2]):
            self.lost += not self._past
            self.size -= len((self._past or self._pending).popleft()[1]) + ITEM_BYTES

    def begin(self, t: float) -> None:
        """Start a recording of everything from t on and what it depends on: for a video from the key frame at or before
        t, for a latched channel from the value valid at t."""
        past, pending = self._past, self._pending
        while past and past[-1][0] >= t:
            pending.appendleft(past.pop())
        while pending and pending[0][0] < t:
            past.append(pending.popleft())
        if self.start == "held" and past and not (pending and pending[0][0] == t):
            pending.appendleft(past.pop())
        if self.start == "key" and not (pending and pending[0][2]):
            while past and not (pending and pending[0][2]):
                pending.appendleft(past.pop())
        self._waiting = True

    def end(self) -> None:
        """End the recording."""
        self._past.extend(self._pending)
        self._pending.clear()
        self._waiting = False

    def next(self) -> float:
        """Time of the next item to record; inf if there is none."""
        return self._pending[0][0] if self._pending else float("inf")

    def take(self) -> Item:
        """Take the next item to record; it stays in the ring as part of the past."""
        item = self._pending.popleft()
        self._past.append(item)
        return item

    def items(self) -> list[Item]:
        """All items in time order."""
        return [*self._past, *self._pending]

    def __len__(self) -> int:
        return len(self._past) + len(self._pending)
