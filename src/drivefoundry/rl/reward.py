"""Rewards of plans in recorded situations (open loop), and of whole drives (closed loop).

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
    """Open loop: score plans in recorded situations."""

    def __call__(self, rows: np.ndarray, plans: np.ndarray, /) -> np.ndarray:
        """Rewards (S, N), 0 .. 1, of plans (S, N, 8, 3) in the ego frames of rows (S,) of the episodes."""
        ...


class DriveReward(Protocol):
    """Closed loop: score a whole drive by what happened in it."""

    def __call__(self, rollout: Rollout, scenes: list[Scene], /) -> np.ndarray:
        """Rewards (S,), 0 .. 1, of a rollout and its scenes in the same order."""
        ...


class PdmReward:
    """The PDM score of a plan among the recorded traffic.

    scenes, at: scene of each row of the episodes, and the step in it; score: "PDMS" or "EPDMS".
    """

    def __init__(self, scenes: Sequence[Scene], at: np.ndarray, score: str = "EPDMS"):
        require(len(scenes) == len(at), f"PdmReward: {len(scenes)} scenes for {len(at)} rows; give one scene per row")
        self.scenes, self.at, self.score = scenes, at, score

    def __call__(self, rows: np.ndarray, plans: np.ndarray) -> np.ndarray:
        return pdm_scores([self.scenes[i] for i in rows], self.at[rows], plans)[self.score]


class ClosedLoopReward:
    """The judge's score of a whole drive.

    progress: scene id -> distance that counts as full completion, m; score: a metric of `score_rollout` in 0 .. 1.
    """

    def __init__(self, progress: Mapping[str, float], score: str = "driving_score_21"):
        self.progress, self.score = progress, score

    @classmethod
    def of(cls, scenes: list[Scene], seconds: float = SECONDS, score: str = "driving_score_21") -> ClosedLoopReward:
        """Use the progress of the rule-based route follower, which drives each scene once."""
        return cls(dict(zip((s.id for s in scenes), yardstick(scenes, seconds).tolist(), strict=True)), score)

    def __call__(self, rollout: Rollout, scenes: list[Scene]) -> np.ndarray:
        unknown = [s.id for s in scenes if s.id not in self.progress]
        require(not unknown, f"ClosedLoopReward: no reference progress for scene {unknown[:1]}; add it to `of`")
        goal = np.array([self.progress[s.id] for s in scenes])
        return score_rollout(rollout, scenes, goal)[self.score]
