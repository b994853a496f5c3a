"""Difficulty of scenes: the distribution that an exam must share with the scenes it is drawn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drivefoundry.judge.evaluate import evaluate
from drivefoundry.judge.worst import SCORE
from drivefoundry.sim.policies import ConstantVelocity
from drivefoundry.types import PSPEED, PYAW, Scene

EASY, HARD = 2 / 3, 1 / 3
"""Constant velocity's driving score: at least EASY is easy, below HARD is hard, medium in between."""
STANDS_M, TURNS_RAD = 2.0, 0.5
"""The recorded ego stands if it moves less than this, m, and turns if its heading changes by more than this, rad."""
MOVES = 0.5
"""Speed above which headings count, m/s: the heading of a standing vehicle is noise."""


@dataclass(frozen=True)
class Difficulty:
    """Difficulty of S scenes. score: (S,) closed-loop driving score of constant velocity, 0 .. 1; stratum: S names such
    as "hard, turns"."""

    score: np.ndarray
    stratum: list[str]


def difficulty(scenes: list[Scene]) -> Difficulty:
    """Drive the scenes at constant velocity and classify what their recorded egos do."""
    score = evaluate(ConstantVelocity(), scenes, two_stages=False).scores[SCORE]
    level = ["easy" if s >= EASY else "hard" if s < HARD else "medium" for s in score]
    return Difficulty(score, [f"{name}, {motion(scene)}" for name, scene in zip(level, scenes, strict=True)])


def motion(scene: Scene) -> str:
    """What the recorded ego does after the scene's start: "stands", "turns" or "goes straight"."""
    track = scene.tracks[scene.ego, scene.start :][scene.valid[scene.ego, scene.start :]].astype(np.float64)
    if np.hypot(*np.diff(track[:, :2], axis=0).T).sum() < STANDS_M:
        return "stands"
    yaw = np.unwrap(track[track[:, PSPEED] > MOVES, PYAW])
    return "turns" if len(yaw) and np.ptp(yaw) > TURNS_RAD else "goes straight"
