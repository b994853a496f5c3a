"""Drop near-duplicate clips by their embeddings, keeping the one with the higher priority.

An embedding combines four thumbnails and the motion (speed and yaw rate profile). Both parts and the whole have unit
length, so a dot product is a cosine similarity.
"""

from __future__ import annotations

import numpy as np

from drivefoundry.curate.quality import resize
from drivefoundry_car.log import Drive

PICTURES, PICTURE = 4, (8, 20)
PROFILE = 10
"""Samples of the motion profile."""
SEEN_SHARE = 0.6
"""Weight of the pictures in the similarity; the rest is motion."""
SPEEDS, YAW_RATES = np.arange(0.0, 32.5, 2.5), np.arange(-0.45, 0.5, 0.15)
"""Centres of the radial basis functions for speed (m/s) and yaw rate (rad/s): values one centre apart have similarity
0.8, three apart 0.1."""
DIM = 2.0
"""Contrast below which pictures count as equal, grey levels of 255, so that noise does not separate night clips."""
SIMILARITY = 0.92
"""Cosine similarity above which two clips are near-duplicates. A clip cut again a second later has about 0.9, different
clips of the embedded fleet stay below 0.85."""
BLOCK = 2048


def embedding(drive: Drive, thumbs: np.ndarray) -> np.ndarray:
    """Embedding (841,) float32 of unit length of a drive and its thumbnails (K, h, w)."""
    chosen = thumbs[np.linspace(0, len(thumbs) - 1, PICTURES).round().astype(int)]
    small = resize(chosen, PICTURE)
    # Sky above road is in every picture: the row mean is not informative.
    seen = np.append((small - small.mean(2, keepdims=True)).ravel(), DIM * np.sqrt(small.size))
    at = np.linspace(0, len(drive.t) - 1, PROFILE)
    steps = np.arange(len(drive.t))
    speed = _bumps(np.interp(at, steps, drive.ego[:, 3]), SPEEDS)
    moved = np.concatenate([speed, _bumps(np.interp(at, steps, _smooth(drive.ego[:, 5])), YAW_RATES)])
    parts = np.sqrt(SEEN_SHARE) * _unit(seen), np.sqrt(1 - SEEN_SHARE) * _unit(moved)
    return _unit(np.concatenate(parts)).astype(np.float32)


def _bumps(value: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Encode values by their closeness to each centre, so that a dot product compares values, not only their shape in
    time."""
    value = np.clip(value, centres[0], centres[-1])
    out = np.exp(-0.5 * ((value[:, None] - centres) / (centres[1] - centres[0])) ** 2)
    return (out / np.linalg.norm(out, axis=1, keepdims=True)).ravel()


def _smooth(x: np.ndarray) -> np.ndarray:
    return np.convolve(np.pad(x, 5, mode="edge"), np.ones(11) / 11, "valid")


def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-9)


def near_duplicates(embeddings: np.ndarray, priority: np.ndarray, *, similarity: float = SIMILARITY) -> np.ndarray:
    """For each clip, index (N,) of the kept clip that represents it, itself if kept.

    embeddings (N, E) of unit length; priority (N,). Clips are considered by descending priority (earlier ones first if
    tied); a clip is dropped if a kept one is more similar than `similarity`. So no two kept clips are near-duplicates,
    and every dropped clip has a similar kept one.
    """
    n = len(embeddings)
    order = np.lexsort((np.arange(n), -np.asarray(priority, np.float64)))
    e = np.asarray(embeddings, np.float32)[order]
    stands = np.arange(n)
    for first in range(0, n, BLOCK):
        rows = e[first : first + BLOCK]
        close = rows @ e[: first + len(rows)].T > similarity
        for i in np.flatnonzero(close.sum(1) > 1):
            me = first + int(i)
            others = np.flatnonzero(close[i, :me])
            kept = others[stands[others] == others]
            if len(kept):
                stands[me] = kept[(rows[i] @ e[kept].T).argmax()]
    out = np.empty(n, int)
    out[order] = order[stands]
    return out
