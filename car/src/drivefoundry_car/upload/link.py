"""When a car may use its link, and at what rate, by time of day and network."""

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
    """Part of the local day, 'HH:MM' to 'HH:MM' (across midnight if the end is earlier; all day if both are equal),
    during which the link may carry `rate` bytes/s on the named networks ('wifi:depot'; none: any)."""

    start: str = "00:00"
    end: str = "00:00"
    rate: float = inf
    networks: tuple[str, ...] = ()

    def validate(self) -> UploadWindow:
        """Return the window; ValueError names the invalid field."""
        for name in ("start", "end"):
            if not _CLOCK.fullmatch(getattr(self, name)):
                raise ValueError(f"Window.{name}: must be 'HH:MM', got {getattr(self, name)!r}")
        if not self.rate > 0:
            raise ValueError(f"Window.rate: must be > 0 bytes per second, got {self.rate}; omit closed windows")
        return self

    def open(self, now: str, network: str) -> bool:
        """Whether it is open at this 'HH:MM' on this network."""
        if self.networks and network not in self.networks:
            return False
        if self.start < self.end:
            return self.start <= now < self.end
        return self.start == self.end or now >= self.start or now < self.end


class Link:
    """A link with windows and rates; without windows it is always open.

    network: returns the name of the current network, '' if unknown; clock: s since 1970. All uploads over one Link
    share its rate.
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
        """Current rate in bytes per second: that of the fastest open window, 0 if none is open."""
        if not self.windows:
            return inf
        now = time.strftime("%H:%M", time.localtime(self._clock()))
        network = self._network()
        return max((w.rate for w in self.windows if w.open(now, network)), default=0.0)

    def pass_on(self, requested: int) -> int:
        """Wait for this caller's turn, then return how many of the requested bytes to send; 0 if the link is closed."""
        rate = self.rate()
        if rate in (0.0, inf):
            return 0 if rate == 0.0 else requested
        count = min(requested, max(1024, int(rate / 8)))  # eight times a second is smooth enough
        with self._lock:
            turn = max(time.monotonic(), self._free_at)
            self._free_at = turn + count / rate
        time.sleep(max(0.0, turn - time.monotonic()))
        return count
