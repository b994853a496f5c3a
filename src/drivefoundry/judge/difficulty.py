"""Scenes in, how hard each is out: what an exam must have in common with its source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivefoundry.judge.evaluate import evaluate
from drivefoundry.judge.worst import SCORE
from drivefoundry.sim.policies import ConstantVelocity
from drivefoundry.types import PSPEED, PYAW, Scene

EASY, HARD = 2 / 3, 1 / 3
"""Driving scores of constant velocity from which, and below which, a scene is easy or hard."""
STANDS_M, TURNS_RAD = 2.0, 0.5
"""The recorded ego stands where it moves less, and turns where its heading changes by more."""
MOVES = 0.5
"""Headings count while the ego is faster than this, m/s: those of who stands tremble."""


@dataclass(frozen=True)
class Difficulty:
    """Of S scenes. score (S,): driving score 0 .. 1 of constant velocity in closed loop; stratum: S names such as
    "hard, turns"."""

    score: np.ndarray
    stratum: list[str]


def difficulty(scenes: list[Scene]) -> Difficulty:
    """Drive the scenes at constant velocity and look at what their recorded egos do."""
    score = evaluate(ConstantVelocity(), scenes, two_stages=False).scores[SCORE]
    level = ["easy" if s >= EASY else "hard" if s < HARD else "medium" for s in score]
    return Difficulty(score, [f"{name}, {motion(scene)}" for name, scene in zip(level, scenes, strict=True)])


def motion(scene: Scene) -> str:
    """What the recorded ego does from the scene's start on: "stands", "turns" or "goes straight"."""
    track = scene.tracks[scene.ego, scene.start :][scene.valid[scene.ego, scene.start :]].astype(np.float64)
    if np.hypot(*np.diff(track[:, :2], axis=0).T).sum() < STANDS_M:
        return "stands"
    yaw = np.unwrap(track[track[:, PSPEED] > MOVES, PYAW])
    return "turns" if len(yaw) and np.ptp(yaw) > TURNS_RAD else "goes straight"
