"""An engine directory in, plans and reasoning out, on a CPU, in int8, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Engine:
    """A verified engine directory, loaded. Raises ValueError naming the damaged or missing file."""

    def __init__(self, path: str | Path, threads: int | None = None):
        raise NotImplementedError

    def plan(self, frames: np.ndarray, ego: np.ndarray, route: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """frames (B, 2, H, W, 3) uint8, ego (B, 4, 3), route (B, 12) in; points (B, 8, 3), tokens (B, 8) out."""
        raise NotImplementedError

    def reason(self, frames: np.ndarray, ego: np.ndarray, route: np.ndarray) -> list[str]:
        """The same inputs in, B texts out."""
        raise NotImplementedError
