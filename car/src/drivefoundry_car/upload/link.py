"""A time of day and a network in, bytes a second out: when a car may use its link, and how fast."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


@dataclass(frozen=True)
class UploadWindow:
    """Part of the local day, 'HH:MM' to 'HH:MM' (past midnight where the end comes first; all day where both are the
    same), in which the link may carry `rate` bytes/s, on the networks named ('wifi:depot'; none named: on any)."""

    start: str = "00:00"
    end: str = "00:00"
    rate: float = inf
    networks: tuple[str, ...] = ()

    def validate(self) -> UploadWindow:
        """The window itself, or ValueError naming the field."""
        for name in ("start", "end"):
            if not _CLOCK.fullmatch(getattr(self, name)):
                raise ValueError(f"Window.{name}: 'HH:MM' wanted, not {getattr(self, name)!r}")
        if not self.rate > 0:
            raise ValueError(f"Window.rate: bytes a second above 0 wanted, not {self.rate}; leave out a closed window")
        return self

    def open(self, now: str, network: str) -> bool:
        """Whether it holds at this 'HH:MM' on this network."""
        if self.networks and network not in self.networks:
            return False
        if self.start < self.end:
            return self.start <= now < self.end
        return self.start == self.end or now >= self.start or now < self.end


class Link:
    """What the link may carry now, by its windows; one without windows is always open.

    network: tells the name of the network the car is in, '' for none known; clock: s since 1970. All that is sent over
    one Link shares its rate.
    """

    def __init__(
        self,
        windows: Sequence[UploadWindow] = (),
        network: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.windows = tuple(w.validate() for w in windows)
        self._network, self._clock = network, clock
        self._lock, self._free_at = threading.Lock(), 0.0

    def rate(self) -> float:
        """Bytes a second now: the fastest window that is open; 0 where none is."""
        if not self.windows:
            return inf
        now = time.strftime("%H:%M", time.localtime(self._clock()))
        network = self._network()
        return max((w.rate for w in self.windows if w.open(now, network)), default=0.0)

    def pass_on(self, wanted: int) -> int:
        """Waits for its turn, then says how many of the wanted bytes to send at once; 0 where the link is closed."""
        rate = self.rate()
        if rate in (0.0, inf):
            return 0 if rate == 0.0 else wanted
        count = min(wanted, max(1024, int(rate / 8)))  # eight times a second is smooth enough
        with self._lock:
            turn = max(time.monotonic(), self._free_at)
            self._free_at = turn + count / rate
        time.sleep(max(0.0, turn - time.monotonic()))
        return count
