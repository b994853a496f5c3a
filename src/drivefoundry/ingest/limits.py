"""What one vehicle may ask of the service: requests a second, bytes a day, bytes a clip."""

from __future__ import annotations

import time
from dataclasses import dataclass

_KEPT = 10_000
"""Callers remembered at once; those longest silent are forgotten, their bucket being full again."""


@dataclass(frozen=True)
class Limits:
    """clip: bytes of the largest; requests: a second in the long run, `burst` at once; day: bytes, None for any."""

    clip: int = 256 << 20
    requests: float = 100.0
    burst: int = 400
    day: int | None = None

    def validate(self) -> Limits:
        """The limits themselves, or ValueError naming the field."""
        for name in ("clip", "requests", "burst", "day"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"Limits.{name}: above 0 wanted, not {value}")
        return self


class Buckets:
    """A token bucket per caller. For one thread."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._of: dict[str, tuple[float, float]] = {}

    def wait(self, caller: str) -> float:
        """0 where the caller may go on now, which costs one token; else seconds until it may."""
        now = time.monotonic()
        level, at = self._of.pop(caller, (float(self.burst), now))
        level = min(self.burst, level + (now - at) * self.rate)
        if len(self._of) >= _KEPT:
            del self._of[next(iter(self._of))]
        self._of[caller] = (level - 1 if level >= 1 else level, now)
        return 0.0 if level >= 1 else (1 - level) / self.rate
