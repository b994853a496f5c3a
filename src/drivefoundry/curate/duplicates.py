"""Clips' embeddings in, which to keep out: of near-duplicates, the one with the higher priority.

An embedding joins what was seen (four pictures, very small) and how the car moved (speed and yaw rate profile); both
parts and the whole have unit length, so a dot product is a cosine similarity.
"""

from __future__ import annotations

import numpy as np

from drivefoundry.curate.quality import resize
from drivefoundry_car.log import Drive

PICTURES, PICTURE = 4, (8, 20)
PROFILE = 10
"""Samples of the motion profile."""
SEEN_SHARE = 0.6
"""How much of the similarity comes from the pictures; the rest comes from the motion."""
SPEEDS, YAW_RATES = np.arange(0.0, 32.5, 2.5), np.arange(-0.45, 0.5, 0.15)
"""Centres of the bumps that encode a speed (m/s) and a yaw rate (rad/s): two values a bump apart are 0.8 alike,
three 0.1."""
DIM = 2.0
"""Contrast under which pictures count as alike, grey levels of 255: else noise would tell night clips apart."""
SIMILARITY = 0.92
"""Cosine similarity above which two clips are near-duplicates. A clip cut again a second later has about 0.9, different
clips of the embedded fleet stay below 0.85."""
BLOCK = 2048


def embedding(drive: Drive, thumbs: np.ndarray) -> np.ndarray:
    """Drive and its thumbnails (K, h, w) in, embedding (841,) float32 of unit length out."""
    chosen = thumbs[np.linspace(0, len(thumbs) - 1, PICTURES).round().astype(int)]
    small = resize(chosen, PICTURE)
    # Sky above road is in every picture: what differs is what stands out of its row.
    seen = np.append((small - small.mean(2, keepdims=True)).ravel(), DIM * np.sqrt(small.size))
    at = np.linspace(0, len(drive.t) - 1, PROFILE)
    steps = np.arange(len(drive.t))
    speed = _bumps(np.interp(at, steps, drive.ego[:, 3]), SPEEDS)
    moved = np.concatenate([speed, _bumps(np.interp(at, steps, _smooth(drive.ego[:, 5])), YAW_RATES)])
    parts = np.sqrt(SEEN_SHARE) * _unit(seen), np.sqrt(1 - SEEN_SHARE) * _unit(moved)
    return _unit(np.concatenate(parts)).astype(np.float32)


def _bumps(value: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Values in, how near each is to each centre out; so that a dot product compares values, not only their shape
    in time."""
    value = np.clip(value, centres[0], centres[-1])
    out = np.exp(-0.5 * ((value[:, None] - centres) / (centres[1] - centres[0])) ** 2)
    return (out / np.linalg.norm(out, axis=1, keepdims=True)).ravel()


def _smooth(x: np.ndarray) -> np.ndarray:
    return np.convolve(np.pad(x, 5, mode="edge"), np.ones(11) / 11, "valid")


def _unit(x: np.ndarray) -> np.ndarray:
    return x / max(float(np.linalg.norm(x)), 1e-9)


def near_duplicates(embeddings: np.ndarray, priority: np.ndarray, *, similarity: float = SIMILARITY) -> np.ndarray:
    """Embeddings (N, E) of unit length and priorities (N,) in; (N,) int out: the kept clip that stands for each,
    itself if kept.

    Clips are taken by falling priority (earlier ones first among equals); a clip is dropped when one already kept is
    more similar than `similarity`. So no two kept clips are near-duplicates, and each dropped one has a kept one near
    it.
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
