"""Whose bytes are read and whose clip is checked next: few fast senders are read at once, vehicles take turns at the
checkers, and one whose clips are refused waits longer each time."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

FREE = 3.0
"""Refusals that cost no wait: a recorder may have written a few bad files."""
LONGEST_S = 60.0
"""Longest wait; an uploader still waits so long within one attempt."""
SLOW_S = 3.0
"""A refused check that took longer costs its vehicle as long again."""
LOOK_S, FAST = 0.02, 256 << 10
"""A sender counts as a fast one while so many bytes come between two looks."""
LONGEST_READ_S = 1.0
"""It counts as one for so long at most."""
_FORGIVEN_S = 60.0
"""One refusal is forgotten in so long."""
_KEPT = 10_000


class Turns:
    """`count` turns at once, at most one of them a vehicle's; vehicles that wait are served in rotation, the requests
    of one in order. For one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._busy: set[str] = set()
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def __len__(self) -> int:
        """How many wait."""
        return sum(map(len, self._lines.values()))

    @asynccontextmanager
    async def turn(self, vehicle: str) -> AsyncIterator[None]:
        """Wait for a turn of this vehicle, and hold it until the block ends."""
        mine = asyncio.get_running_loop().create_future()
        self._lines.setdefault(vehicle, deque()).append(mine)
        self._next()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it had come to its turn already
                self._leave(vehicle)
            else:
                self._drop(vehicle, mine)
            raise
        try:
            yield
        finally:
            self._leave(vehicle)

    def _leave(self, vehicle: str) -> None:
        self._free += 1
        self._busy.discard(vehicle)
        self._next()

    def _drop(self, vehicle: str, mine: asyncio.Future[None]) -> None:
        line = self._lines.get(vehicle)
        if line is not None and mine in line:
            line.remove(mine)
            if not line:
                del self._lines[vehicle]

    def _next(self) -> None:
        while self._free:
            vehicle = next((v for v in self._lines if v not in self._busy), None)
            if vehicle is None:
                return
            line = self._lines.pop(vehicle)
            first = line.popleft()
            if line:  # behind all others
                self._lines[vehicle] = line
            if not first.done():
                self._free -= 1
                self._busy.add(vehicle)
                first.set_result(None)


class Readers:
    """`count` fast senders are read at once, in the order in which they came; slow ones do not count.

    Many that are read in turn all end at the same time: until then the checkers are idle, and what came first has left
    the processor's cache. For one event loop.
    """

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def reading(self, came: Callable[[], int]) -> AsyncIterator[None]:
        """Wait until a sender may be read. came: its bytes so far."""
        await self._free.acquire()
        held, look = True, asyncio.get_running_loop().call_later

        def let_go() -> None:
            nonlocal held
            if held:
                held = False
                self._free.release()

        def slow(before: int, looks: int) -> None:
            nonlocal timer
            if came() - before < FAST or not looks:
                let_go()
            else:
                timer = look(LOOK_S, slow, came(), looks - 1)

        timer = look(LOOK_S, slow, 0, round(LONGEST_READ_S / LOOK_S))
        try:
            yield
        finally:
            timer.cancel()
            let_go()


class Penalties:
    """How long each vehicle must wait because its clips were refused. For one thread. clock: s, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: dict[str, tuple[float, float, float]] = {}  # refusals not yet forgotten, when, and free again when

    def wait(self, vehicle: str) -> float:
        """Seconds until a clip of the vehicle may be checked; 0 where that is now."""
        return max(0.0, self._of[vehicle][2] - self._clock()) if vehicle in self._of else 0.0

    def refused(self, vehicle: str, took: float) -> None:
        """A check that took so many seconds ended in a refusal: the wait doubles each time."""
        level, now = self._level(vehicle) + 1, self._clock()
        wait = 2 ** (min(level, 60.0) - FREE - 1) if level > FREE else 0.0
        self._of.pop(vehicle, None)
        if len(self._of) >= _KEPT:
            del self._of[next(iter(self._of))]
        self._of[vehicle] = (level, now, now + min(LONGEST_S, max(wait, took if took > SLOW_S else 0.0)))

    def passed(self, vehicle: str) -> None:
        """A clip of the vehicle was taken: one refusal is forgotten."""
        if vehicle in self._of:
            level = self._level(vehicle) - 1
            if level <= 0:
                del self._of[vehicle]
            else:
                self._of[vehicle] = (level, self._clock(), self._of[vehicle][2])

    def _level(self, vehicle: str) -> float:
        level, at, _ = self._of.get(vehicle, (0.0, 0.0, 0.0))
        return max(0.0, level - (self._clock() - at) / _FORGIVEN_S)
