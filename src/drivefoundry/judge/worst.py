"""Scores of one policy in, its worst scenes out: what failed in each of them, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SCORE = "driving_score_21"
EVENTS = {"at_fault_at": "collision at fault", "off_road_at": "left the road", "red_light_at": "ran a red light"}
"""Metric (time of the first, s) -> the failure in words."""
SLOW = 0.9


@dataclass(frozen=True)
class Failure:
    """One scene. term: what went wrong first; at: s from the start, infinite where it has no moment."""

    scene: str
    score: float
    term: str
    at: float


def failure(metrics: Mapping[str, np.ndarray], i: int) -> tuple[str, float]:
    """What went wrong first in scene i and when; ("", inf) where nothing did."""
    at = {what: float(metrics[name][i]) for name, what in EVENTS.items()}
    first = min(at, key=lambda what: at[what])
    if math.isfinite(at[first]):
        return first, at[first]
    if math.isfinite(metrics["collision_at"][i]):
        return "was hit", float(metrics["collision_at"][i])
    return ("too little progress", math.inf) if metrics["progress"][i] < SLOW else ("", math.inf)


def worst_scenes(scenes: Sequence[str], metrics: Mapping[str, np.ndarray], most: int) -> list[Failure]:
    """Scene ids, metric -> (S,) and how many at most in; those in which something went wrong, the worst first, out."""
    order = np.argsort(metrics[SCORE], kind="stable")
    failed = [Failure(scenes[int(i)], float(metrics[SCORE][i]), *failure(metrics, int(i))) for i in order]
    return [f for f in failed if f.term][:most]
