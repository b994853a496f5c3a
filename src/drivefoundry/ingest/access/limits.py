"""Limits per vehicle: requests per second, bytes per day, bytes per clip, bytes in progress."""

from __future__ import annotations

import time
from dataclasses import dataclass

_KEPT = 10_000
"""Callers remembered at once; the longest silent are dropped, as their buckets are full again."""


@dataclass(frozen=True)
class Limits:
    """clip: largest clip, bytes; requests: sustained rate per second, with `burst` at once; day: bytes per day, None
    for no limit; unfinished: bytes of all unfinished uploads; sending: concurrent requests with clip bytes.

    requests and burst also limit wrong codes, secrets and tokens from one address.
    """

    clip: int = 256 << 20
    requests: float = 100.0
    burst: int = 400
    day: int | None = None
    unfinished: int = 4 << 30
    sending: int = 32

    def validate(self) -> Limits:
        """Return the limits; ValueError names the invalid field."""
        for name in ("clip", "requests", "burst", "day", "unfinished", "sending"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Limits.{name}: must be > 0, got {value}")
        if self.unfinished < self.clip:
            raise ValueError(
                f"Limits.unfinished: {self.unfinished} bytes are fewer than one clip's {self.clip}; raise it"
            )
        return self


class Buckets:
    """A token bucket per caller. For one thread."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._of: dict[str, tuple[float, float]] = {}

    def wait(self, caller: str) -> float:
        """0 if the caller may proceed, at the cost of one token; otherwise the seconds until it may."""
        now = time.monotonic()
        level, at = self._of.pop(caller, (float(self.burst), now))
        level = min(self.burst, level + (now - at) * self.rate)
        if len(self._of) >= _KEPT:
            del self._of[next(iter(self._of))]
        self._of[caller] = (level - 1 if level >= 1 else level, now)
        return 0.0 if level >= 1 else (1 - level) / self.rate
