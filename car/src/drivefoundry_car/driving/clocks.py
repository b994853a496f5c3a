"""Frame clocks of cameras: which frames may be used for planning, and counts of what was wrong with the others."""

from __future__ import annotations

from dataclasses import dataclass

from drivefoundry_car.log.channels import NS

LATE_S = 0.2
"""Maximum age of a frame on arrival, s; older ones are not used for planning."""
AHEAD_S = 0.05
"""A frame further in the future than this indicates a broken clock, s."""


@dataclass
class FrameClock:
    """Checks the times of one camera's frames. period_s: between frames. Counts are never reset."""

    period_s: float
    frames: int = 0
    """Frames that may be used for planning."""
    late: int = 0
    """Frames older than LATE_S on arrival."""
    out_of_order: int = 0
    """Frames not later than the one before."""
    future: int = 0
    """Frames more than AHEAD_S in the future."""
    missing: int = 0
    """Frames missing between two that arrived."""
    last_ns: int | None = None

    def admit(self, ns: int, now_ns: int) -> bool:
        """Whether a frame of time ns, arriving at now_ns, may be used for planning."""
        if ns > now_ns + AHEAD_S * NS:  # must not affect the times of other frames
            self.future += 1
            return False
        if self.last_ns is not None:
            if ns <= self.last_ns:
                self.out_of_order += 1
                return False
            self.missing += max(0, round((ns - self.last_ns) / (self.period_s * NS)) - 1)
        self.last_ns = ns
        if now_ns - ns > LATE_S * NS:
            self.late += 1
            return False
        self.frames += 1
        return True
