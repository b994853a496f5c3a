"""Sequences of different lengths in one array."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """A list of point sequences stored flat. points (P, D); offsets (n+1,) int, offsets[0] = 0."""

    points: np.ndarray
    offsets: np.ndarray

    @staticmethod
    def of(parts: list[np.ndarray], dim: int = 2) -> Ragged:
        """Pack arrays of shape (p_i, dim)."""
        offsets = np.zeros(len(parts) + 1, np.int64)
        offsets[1:] = np.cumsum([len(p) for p in parts])
        points = np.concatenate(parts).astype(np.float64) if parts else np.zeros((0, dim))
        return Ragged(points.reshape(-1, dim), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> np.ndarray:
        return self.points[self.offsets[i] : self.offsets[i + 1]]
