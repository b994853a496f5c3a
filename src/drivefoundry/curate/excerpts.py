"""Find recordings that overlap: files cut from one recording, each with its own origin and first second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from drivefoundry.types import PSPEED, PX, Scene

STEPS = 8
"""Length of the motions that are compared."""
MOVES, CHANGES = 2.0, 0.05
"""Least speed, and least change of speed within a motion, m/s: steady motion looks alike in any recording."""
LEAST = 20
"""Least number of equal motions, all shifted by the same distance, of two recordings that overlap."""


def linked(recordings: Mapping[str, Sequence[Scene]]) -> dict[str, str]:
    """Recording -> the first name of those that overlap with it, directly or through others.

    Two recordings of a place overlap if vehicles move equally to the millimetre in both, at one distance from each
    other: the same vehicles, seen from two origins. Times are not compared.
    """
    names = sorted(recordings)
    motions = {name: _motions(recordings[name]) for name in names}
    group = {name: name for name in names}
    for a, b in combinations(names, 2):
        common = motions[a].keys() & motions[b].keys()
        shifts = Counter(tuple(np.round(motions[b][k] - motions[a][k], 1).tolist()) for k in common)
        if shifts and max(shifts.values()) >= LEAST:
            one, other = sorted((group[a], group[b]))
            group = {name: one if g == other else g for name, g in group.items()}
    return group


def _motions(scenes: Sequence[Scene]) -> dict[bytes, np.ndarray]:
    """Displacements of each vehicle over STEPS steps, mm -> where they begin (2,), m."""
    out: dict[bytes, np.ndarray] = {}
    for scene in scenes:
        for track, valid in zip(scene.tracks, scene.valid, strict=True):
            steps = np.round(1000.0 * np.diff(track[:, PX : PX + 2], axis=0)).astype(np.int32)
            for i in range(len(steps) - STEPS):
                speed = track[i : i + STEPS + 1, PSPEED]
                if valid[i : i + STEPS + 1].all() and speed.min() > MOVES and np.ptp(speed) > CHANGES:
                    out.setdefault(steps[i : i + STEPS].tobytes(), track[i, PX : PX + 2])
    return out
