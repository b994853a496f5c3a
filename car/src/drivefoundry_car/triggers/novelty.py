"""Signals in, how unlike each moment is to all that the fleet has sent so far, out.

A moment's embedding is DIMS numbers in -1 .. 1, one for each of SCALES: quantities divided by their scale and squashed
(tanh), distances turned into nearness (exp(-m / scale)); what is not known, or not there, is 0. Novelty is the
Euclidean distance to the nearest embedding that was sent: 0.1 is the same situation, 0.5 another, above 1 hardly seen.
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
"""Signal -> how it is squashed, and its scale in SI."""
DIMS = len(SCALES)
APART = 0.15
"""Moments nearer than this to one that is kept add nothing to what was sent."""
MOST = 1024
"""Embeddings kept; a distance costs a car about a microsecond."""


def embedding(values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Signals, each (T,), in; (T, DIMS) float32 out."""
    steps = len(next(iter(values.values())))
    out = np.zeros((steps, DIMS), np.float32)
    for i, (name, (how, scale)) in enumerate(SCALES.items()):
        if name in values:
            x = np.asarray(values[name], np.float64) / scale
            out[:, i] = np.tanh(x) if how == "tanh" else np.exp(-np.abs(x))
    out[np.isnan(out)] = 0.0
    return out


class Sent:
    """What the fleet has sent: up to MOST embeddings, no two nearer than APART."""

    def __init__(self, kept: np.ndarray | None = None) -> None:
        self.kept = np.zeros((0, DIMS), np.float32) if kept is None else kept

    @staticmethod
    def load(path: Path | str) -> Sent:
        """A file of `save` in. ValueError if it is none."""
        try:
            kept = arrays.read(Path(path), ["embeddings"])["embeddings"]
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: not what `drivefoundry campaign sent` writes ({error})") from None
        if kept.ndim != 2 or kept.shape[1] != DIMS or kept.dtype != np.float32 or not np.isfinite(kept).all():
            raise ValueError(
                f"{path}: embeddings (N, {DIMS}) float32 wanted, got {kept.shape} {kept.dtype}; make it anew"
            )
        return Sent(kept)

    def save(self, path: Path | str) -> None:
        """Write one .safetensors file, for the cars."""
        arrays.write(Path(path), {"embeddings": self.kept})

    def distance(self, x: np.ndarray) -> np.ndarray:
        """Embeddings (T, DIMS) in; (T,) distance to the nearest that was sent out, inf where nothing was."""
        return nearest(x, self.kept.T)

    def add(self, x: np.ndarray) -> None:
        """Embeddings (T, DIMS) that have been sent: those that are new are kept, in order, while there is room."""
        far, new = self.distance(x), []
        while len(self.kept) + len(new) < MOST and far.max(initial=0.0) >= APART:
            new.append(x[int(np.argmax(far >= APART))])
            far = np.minimum(far, nearest(x, new[-1][:, None]))
        self.kept = np.concatenate([self.kept, *(e[None] for e in new)])
