"""The worst and the failed scenes of a policy: what went wrong in each, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SCORE = "driving_score_21"
EVENTS = {"at_fault_at": "collision at fault", "off_road_at": "left the road", "red_light_at": "ran a red light"}
"""Metric (time of the first event, s) -> name of the failure."""
FAULTS = {"collision": "collided", "off_road": "left the road", "red_light": "ran a red light"}
"""Metric -> description of the scenes where it is not 0."""
SLOW, SHORT = 0.9, 0.5
"""Progress below SLOW is called too little; below SHORT the scene counts as failed."""


@dataclass(frozen=True)
class Failure:
    """One failed scene. term: what went wrong first; at: s from the start, infinite if it has no single moment."""

    scene: str
    score: float
    term: str
    at: float


def failure(metrics: Mapping[str, np.ndarray], i: int) -> tuple[str, float]:
    """What went wrong first in scene i, and when; ("", inf) if nothing did."""
    at = {what: float(metrics[name][i]) for name, what in EVENTS.items()}
    first = min(at, key=lambda what: at[what])
    if math.isfinite(at[first]):
        return first, at[first]
    if math.isfinite(metrics["collision_at"][i]):
        return "was hit", float(metrics["collision_at"][i])
    return ("too little progress", math.inf) if metrics["progress"][i] < SLOW else ("", math.inf)


def worst_scenes(scenes: Sequence[str], metrics: Mapping[str, np.ndarray], most: int) -> list[Failure]:
    """Scenes in which something went wrong, worst first, at most `most`. metrics: metric -> (S,)."""
    order = np.argsort(metrics[SCORE], kind="stable")
    failed = [Failure(scenes[int(i)], float(metrics[SCORE][i]), *failure(metrics, int(i))) for i in order]
    return [f for f in failed if f.term][:most]


def failed_scenes(metrics: Mapping[str, np.ndarray], most: int) -> dict[str, tuple[int, list[int]]]:
    """Failure -> number of scenes with it, and indices of the `most` worst of them. metrics: metric -> (S,)."""
    bad = {what: metrics[name] > 0 for name, what in FAULTS.items()}
    bad["got less than half as far as the route follower"] = metrics["progress"] < SHORT
    order = np.argsort(metrics[SCORE], kind="stable")
    return {what: (int(of.sum()), [int(i) for i in order if of[i]][:most]) for what, of in bad.items() if of.any()}


def listed(scenes: Sequence[str], metrics: Mapping[str, np.ndarray], most: int) -> set[int]:
    """Indices of all scenes that a report lists as worst or failed."""
    worst = {scenes.index(f.scene) for f in worst_scenes(scenes, metrics, most)}
    return worst.union(*(some for _, some in failed_scenes(metrics, most).values()))
