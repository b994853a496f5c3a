"""Timed byte strings of one channel, bounded in bytes: what has gone by, and what a recording still waits for.

The ring is the recording's queue as well, so a slow disk costs no memory beyond the bound: what falls out before it was
written is lost, and counted.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

ITEM_BYTES = 160
"""What Python itself takes for an item: tuple, float, bytes header and a place in the deque."""
LATEST_S = 9e9
"""No time is later, s: in ns it has to fit 64 bits."""
Item = tuple[float, bytes, bool]
"""t s, data, and whether decoding can begin here: a video's key frames, every message of another channel."""
Start = Literal["any", "key", "held"]
"""Where a recording begins: with any item, with a key frame, or with the message that still holds."""


class Ring:
    """The newest items of one channel, never above `bound` bytes (data and ITEM_BYTES each), oldest first out.

    What it holds begins with a key: the frames that depend on a key frame go with it. `refused` counts the items that
    were not taken (older than the last, larger than the bound, of no key frame that is held), `lost` those that fell
    out while a recording waited for them.
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
        self._wanted: deque[Item] = deque()
        self._waiting = False
        self._last = 0.0
        self._whole = False  # no frame is missing since the last key

    def push(self, t: float, data: bytes, key: bool = True) -> bool:
        """Take data of time t (s); False where it is refused."""
        fits = self._last <= t < LATEST_S and len(data) + ITEM_BYTES <= self.bound  # not so for NaN
        self._whole = fits and (key or self._whole)
        if not self._whole:
            self.refused += 1
            return False
        (self._wanted if self._waiting else self._past).append((t, data, key))
        self.size += len(data) + ITEM_BYTES
        self._last = t
        if self.size > self.bound:
            self._evict()
        if not len(self):  # a key frame and all that depends on it exceed the bound
            self._whole = False
            self.refused += not self._waiting  # else it is among the lost
        return self._whole

    def _evict(self) -> None:
        while self.size > self.bound or (len(self) and not (self._past or self._wanted)[0][2]):
            self.lost += not self._past
            self.size -= len((self._past or self._wanted).popleft()[1]) + ITEM_BYTES

    def want(self, t: float) -> None:
        """A recording waits for all from t on, and for what they depend on: a video from the key frame at or before t,
        a latched channel from what held at t."""
        past, wanted = self._past, self._wanted
        while past and past[-1][0] >= t:
            wanted.appendleft(past.pop())
        while wanted and wanted[0][0] < t:
            past.append(wanted.popleft())
        if self.start == "held" and past and not (wanted and wanted[0][0] == t):
            wanted.appendleft(past.pop())
        if self.start == "key" and not (wanted and wanted[0][2]):
            while past and not (wanted and wanted[0][2]):
                wanted.appendleft(past.pop())
        self._waiting = True

    def forget(self) -> None:
        """No recording waits any more."""
        self._past.extend(self._wanted)
        self._wanted.clear()
        self._waiting = False

    def next(self) -> float:
        """Time of the next item that a recording waits for; inf if there is none."""
        return self._wanted[0][0] if self._wanted else float("inf")

    def take(self) -> Item:
        """That item; it is held as past."""
        item = self._wanted.popleft()
        self._past.append(item)
        return item

    def items(self) -> list[Item]:
        """All that is held, in time order."""
        return [*self._past, *self._wanted]

    def __len__(self) -> int:
        return len(self._past) + len(self._wanted)
