"""Difficulty of scenes: the distribution that an exam must share with the scenes it is drawn from."""

from __future__ import annotations

from collections import Counter
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


def recording_of(scene: Scene) -> str:
    """The recording that a scene was taken from; a scene that names none is one of its own."""
    return scene.meta.get("recording", scene.id)


def compared(scenes: list[Scene], hard: Difficulty, held_out: list[str]) -> dict[str, dict]:
    """Compare an exam, the scenes of the places `held_out`, with its source: row -> {"exam": .., "source": ..}.

    Rows: number of scenes, places and recordings, the mean driving score of constant velocity, and the share of each
    stratum of `judge.difficulty`.
    """
    out: dict[str, dict] = {}
    for side, rows in (
        ("exam", [i for i, s in enumerate(scenes) if s.place in held_out]), ("source", [*range(len(scenes))])
    ):  # fmt: skip
        some = [scenes[i] for i in rows]
        strata = Counter(hard.stratum[i] for i in rows)
        found: dict[str, float] = {
            "scenes": len(some),
            "places": len({s.place for s in some}),
            "recordings": len({recording_of(s) for s in some}),
            "constant_velocity_score": round(float(hard.score[rows].mean()), 4),
        }
        found |= {name: round(strata[name] / len(some), 4) for name in sorted(set(hard.stratum))}
        for name, value in found.items():
            out.setdefault(name, {})[side] = value
    return out


def likeness(table: dict[str, dict]) -> str:
    """The result of `compared` in a sentence."""
    scenes, recordings, score = (table[k] for k in ("scenes", "recordings", "constant_velocity_score"))
    return (
        f"The exam has {scenes['exam']} of {scenes['source']} scenes, from {recordings['exam']} of "
        f"{recordings['source']} recordings; constant velocity scores {score['exam']:.2f} there and "
        f"{score['source']:.2f} on all scenes."
    )
