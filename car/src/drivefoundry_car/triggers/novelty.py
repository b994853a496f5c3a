"""Novelty of each moment: its distance to everything that the fleet has uploaded so far.

A moment's embedding is DIMS numbers in -1 .. 1, one for each of SCALES: quantities divided by their scale and squashed
(tanh), distances mapped to proximity (exp(-m / scale)); unknown or absent values are 0. Novelty is the Euclidean
distance to the nearest uploaded embedding: 0.1 is the same situation, 0.5 a different one, above 1 rarely seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from drivefoundry_car import arrays
from drivefoundry_car.triggers.watch.surroundings import nearest

SCALES: dict[str, tuple[str, float]] = {
    "speed": ("tanh", 15.0),
    "accel": ("tanh", 3.0),
    "lat_accel": ("tanh", 3.0),
    "yaw_rate": ("tanh", 0.5),
    "route_offset": ("tanh", 1.0),
    "objects_near": ("tanh", 10.0),
    "disagreement": ("tanh", 2.0),
    "lead_gap": ("near", 20.0),
    "stopped_gap": ("near", 20.0),
    "pedestrian_gap": ("near", 10.0),
    "cyclist_gap": ("near", 10.0),
    "oncoming_gap": ("near", 20.0),
    "crossing_gap": ("near", 15.0),
    "red_gap": ("near", 20.0),
}
"""Signal -> squashing function, and its scale in SI."""
DIMS = len(SCALES)
APART = 0.15
"""Moments closer than this to a kept one are not added."""
MOST = 1024
"""Most embeddings kept; each costs a car about a microsecond per sample."""


def embedding(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Embeddings (T, DIMS) float32 of signals (T,)."""
    steps = len(next(iter(values.values())))
    out = np.zeros((steps, DIMS), np.float32)
    for i, (name, (how, scale)) in enumerate(SCALES.items()):
        if name in values:
            x = np.asarray(values[name], np.float64) / scale
            out[:, i] = np.tanh(x) if how == "tanh" else np.exp(-np.abs(x))
    out[np.isnan(out)] = 0.0
    return out


class Sent:
    """What the fleet has uploaded: up to MOST embeddings, no two closer than APART."""

    def __init__(self, kept: np.ndarray | None = None) -> None:
        self.kept = np.zeros((0, DIMS), np.float32) if kept is None else kept

    @staticmethod
    def load(path: Path | str) -> Sent:
        """Read a file of `save`. ValueError if it is not one."""
        try:
            kept = arrays.read(Path(path), ["embeddings"])["embeddings"]
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not written by `drivefoundry campaign sent` ({error})") from None
        if kept.ndim != 2 or kept.shape[1] != DIMS or kept.dtype != np.float32 or not np.isfinite(kept).all():
            raise ValueError(
                f"{path}: must be embeddings (N, {DIMS}) float32, got {kept.shape} {kept.dtype}; write it again"
            )
        return Sent(kept)

    def save(self, path: Path | str) -> None:
        """Write one .safetensors file, for the cars."""
        arrays.write(Path(path), {"embeddings": self.kept})

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Distances (T,) of embeddings (T, DIMS) to the nearest uploaded one, inf if there is none."""
        return nearest(x, self.kept.T)

    def add(self, x: np.ndarray) -> None:
        """Add uploaded embeddings (T, DIMS): novel ones are kept, in order, up to the limit."""
        far, new = self.distance(x), []
        while len(self.kept) + len(new) < MOST and far.max(initial=0.0) >= APART:
            new.append(x[int(np.argmax(far >= APART))])
            far = np.minimum(far, nearest(x, new[-1][:, None]))
        self.kept = np.concatenate([self.kept, *(e[None] for e in new)])
