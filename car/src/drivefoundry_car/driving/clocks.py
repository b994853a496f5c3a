"""Clocks of the cameras: which frame may be planned on, and what was wrong with those that may not."""

from __future__ import annotations

from dataclasses import dataclass

from drivefoundry_car.log.channels import NS

LATE_S = 0.2
"""A frame that arrives older than this is not planned on, s."""
AHEAD_S = 0.05
"""A frame from further in the future than this is of a broken clock, s."""


@dataclass
class FrameClock:
    """Checks the times of one camera's frames. period_s: between frames. The counts are never reset."""

    period_s: float
    frames: int = 0
    """Frames that may be planned on."""
    late: int = 0
    """Older than LATE_S when they arrived."""
    out_of_order: int = 0
    """Not after the frame before."""
    future: int = 0
    """From more than AHEAD_S in the future."""
    missing: int = 0
    """Frames that should have come between two that came."""
    last_ns: int | None = None

    def admit(self, ns: int, now_ns: int) -> bool:
        """Whether a frame of time ns that arrives at now_ns may be planned on."""
        if ns > now_ns + AHEAD_S * NS:  # says nothing about what came before it
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
