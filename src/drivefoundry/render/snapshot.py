"""What the renderers draw: one moment of many scenes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from drivefoundry.types import require


class Snapshot(NamedTuple):
    """One moment of S scenes with A road users each and G signal heads. Angles in rad, lengths in m."""

    map_index: np.ndarray
    """(S,) int, into the renderer's maps."""
    ego: np.ndarray
    """(S, 3+): x, y and yaw of the ego's box centre."""
    agents: np.ndarray
    """(S, A, 4): x, y, yaw, speed of the other road users."""
    valid: np.ndarray
    """(S, A) bool: which of them to draw (not the ego itself)."""
    size: np.ndarray
    """(S, A, 3): length, width, height."""
    kind: np.ndarray
    """(S, A) AGENT_*."""
    brake: np.ndarray
    """(S, A) bool: brake lamps are lit."""
    signals: np.ndarray
    """(S, G) SIGNAL_* of the map's heads; further heads are dark."""
    indicator: np.ndarray | None = None
    """(S, A): 1 left, -1 right, 0 or None none."""

    def checked(self, maps: int) -> Snapshot:
        """The same in contiguous arrays of the kernels' types. ValueError for wrong shapes, a map index that is not
        below `maps`, or a pose that is not finite."""
        s, a = self.valid.shape
        for name, shape in (
            ("map_index", (s,)), ("agents", (s, a, 4)), ("size", (s, a, 3)), ("kind", (s, a)), ("brake", (s, a)),
        ):  # fmt: skip
            given = np.shape(getattr(self, name))
            require(given == shape, f"Snapshot.{name}: shape {given}; must be {shape}")
        require(len(self.ego) == s, f"Snapshot.ego: {len(self.ego)} poses for {s} scenes")
        require(
            self.signals.ndim == 2 and len(self.signals) == s,
            f"Snapshot.signals: shape {self.signals.shape}; must be ({s}, G)",
        )
        turn = np.zeros((s, a), np.int8) if self.indicator is None else self.indicator
        require(turn.shape == (s, a), f"Snapshot.indicator: shape {turn.shape}; must be {(s, a)}")
        index = np.ascontiguousarray(self.map_index, np.int64)
        require(
            s == 0 or (index.min() >= 0 and index.max() < maps), f"Snapshot.map_index: past the last of {maps} maps"
        )
        poses, shown = np.ascontiguousarray(self.ego[:, :3], np.float64), np.ascontiguousarray(self.valid, np.bool_)
        require(bool(np.isfinite(poses).all()), "Snapshot.ego: a pose is not finite")
        require(bool(np.isfinite(self.agents[shown]).all()), "Snapshot.agents: the state of a valid one is not finite")
        return Snapshot(
            index,
            poses,
            np.ascontiguousarray(self.agents, np.float64),
            shown,
            np.ascontiguousarray(self.size, np.float64),
            np.ascontiguousarray(self.kind, np.int64),
            np.ascontiguousarray(self.brake, np.bool_),
            np.ascontiguousarray(self.signals, np.int64),
            np.ascontiguousarray(turn, np.int8),
        )
