"""Rewards: how good plans are where they were made (open loop), and how good whole drives were (closed loop).

Axes: S situations or scenes, N plans each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from drivefoundry.judge.evaluate import SECONDS, yardstick
from drivefoundry.judge.scores.closed_loop import score_rollout
from drivefoundry.judge.scores.pdm import pdm_scores
from drivefoundry.types import Rollout, Scene, require


class PlanReward(Protocol):
    """Open loop: plans are scored in recorded situations."""

    def __call__(self, rows: np.ndarray, plans: np.ndarray, /) -> np.ndarray:
        """Rows (S,) of the episodes and plans (S, N, 8, 3) in their ego frames; returns rewards (S, N) in 0 .. 1."""
        ...


class DriveReward(Protocol):
    """Closed loop: a drive is scored by what happened in it, wherever it led."""

    def __call__(self, rollout: Rollout, scenes: list[Scene], /) -> np.ndarray:
        """A rollout and its scenes in its order; returns rewards (S,) in 0 .. 1."""
        ...


class PdmReward:
    """The PDM score of a plan, driven among the recorded traffic.

    scenes, at: the scene of each row of the episodes, and its step there; score: "PDMS" or "EPDMS".
    """

    def __init__(self, scenes: Sequence[Scene], at: np.ndarray, score: str = "EPDMS"):
        require(len(scenes) == len(at), f"PdmReward: {len(scenes)} scenes for {len(at)} rows; give one scene per row")
        self.scenes, self.at, self.score = scenes, at, score

    def __call__(self, rows: np.ndarray, plans: np.ndarray) -> np.ndarray:
        return pdm_scores([self.scenes[i] for i in rows], self.at[rows], plans)[self.score]


class ClosedLoopReward:
    """The judge's score of a whole drive.

    progress: scene id -> metres that count as all of the way; score: a metric of `score_rollout` in 0 .. 1.
    """

    def __init__(self, progress: Mapping[str, float], score: str = "driving_score_21"):
        self.progress, self.score = progress, score

    @classmethod
    def of(cls, scenes: list[Scene], seconds: float = SECONDS, score: str = "driving_score_21") -> ClosedLoopReward:
        """Measure progress by that of the rule-based route follower, which is driven once through each scene."""
        return cls(dict(zip((s.id for s in scenes), yardstick(scenes, seconds).tolist(), strict=True)), score)

    def __call__(self, rollout: Rollout, scenes: list[Scene]) -> np.ndarray:
        unknown = [s.id for s in scenes if s.id not in self.progress]
        require(not unknown, f"ClosedLoopReward: scene {unknown[:1]} has no progress to compare with; add it to `of`")
        goal = np.array([self.progress[s.id] for s in scenes])
        return score_rollout(rollout, scenes, goal)[self.score]
