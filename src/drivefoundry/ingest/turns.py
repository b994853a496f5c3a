"""Fairness between senders: few fast senders are read at once, vehicles take turns at the checkers, and a vehicle whose
clips are refused waits longer each time."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

FREE = 3.0
"""Refusals without penalty: a recorder may have written a few bad files."""
LONGEST_S = 60.0
"""Longest wait, s; an uploader still waits this long within one attempt."""
SLOW_S = 3.0
"""A refused check that took longer than this, s, penalises its vehicle by the same time again."""
LOOK_S, FAST = 0.02, 256 << 10
"""A sender counts as fast while this many bytes arrive per interval."""
LONGEST_READ_S = 1.0
"""Longest time that a sender counts as fast, s."""
_FORGIVEN_S = 60.0
"""Time after which one refusal is forgotten, s."""
_KEPT = 10_000


class Turns:
    """`count` concurrent turns, at most one per vehicle. Waiting vehicles are served round-robin, and each vehicle's
    requests in order. For one event loop."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._busy: set[str] = set()
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def __len__(self) -> int:
        """Number of waiting requests."""
        return sum(map(len, self._lines.values()))

    @asynccontextmanager
    async def turn(self, vehicle: str) -> AsyncIterator[None]:
        """Wait for this vehicle's turn, and hold it until the block ends."""
        mine = asyncio.get_running_loop().create_future()
        self._lines.setdefault(vehicle, deque()).append(mine)
        self._next()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it already had its turn
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
    """At most `count` fast senders are read at once, in order of arrival; slow ones do not count.

    Reading all at once would finish them all at the same time: the checkers would idle until then, and early bytes
    would have left the CPU cache. For one event loop.
    """

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def reading(self, came: Callable[[], int]) -> AsyncIterator[None]:
        """Wait until a sender may be read. came: returns its bytes so far."""
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
    """Waiting time of each vehicle whose clips were refused. For one thread. clock: s, monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: dict[str, tuple[float, float, float]] = {}  # active refusals, time of the last one, end of the wait

    def wait(self, vehicle: str) -> float:
        """Seconds until a clip of the vehicle may be checked, 0 if at once."""
        return max(0.0, self._of[vehicle][2] - self._clock()) if vehicle in self._of else 0.0

    def refused(self, vehicle: str, took: float) -> None:
        """Record a refusal after a check of `took` seconds: the wait doubles each time."""
        level, now = self._level(vehicle) + 1, self._clock()
        wait = 2 ** (min(level, 60.0) - FREE - 1) if level > FREE else 0.0
        self._of.pop(vehicle, None)
        if len(self._of) >= _KEPT:
            del self._of[next(iter(self._of))]
        self._of[vehicle] = (level, now, now + min(LONGEST_S, max(wait, took if took > SLOW_S else 0.0)))

    def passed(self, vehicle: str) -> None:
        """Record an accepted clip: one refusal is forgotten."""
        if vehicle in self._of:
            level = self._level(vehicle) - 1
            if level <= 0:
                del self._of[vehicle]
            else:
                self._of[vehicle] = (level, self._clock(), self._of[vehicle][2])

    def _level(self, vehicle: str) -> float:
        level, at, _ = self._of.get(vehicle, (0.0, 0.0, 0.0))
        return max(0.0, level - (self._clock() - at) / _FORGIVEN_S)
