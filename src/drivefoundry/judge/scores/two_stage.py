"""Two-stage EPDMS of a policy: NAVSIM v2's pseudo closed loop (Cao et al., CoRL 2025).

Stage one scores the policy's plan at the scene's start. Stage two scores its plans at starts near the end of the
tracked first plan, 4 s later; their mean is weighted by a Gaussian of each start's distance from that end, and the
score is the product of both stages (`SceneAggregator` and `run_pdm_score.py` of the navsim devkit v2.2: sigma^2 = 0.1
m^2, equal weights if all vanish). NAVSIM renders its second starts beforehand from the log; here they are sampled
around the simulated end, seeded by the scene's id, with the same offsets for every policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from drivefoundry.judge.scores.comfort import SAMPLES, extended_comfort
from drivefoundry.judge.scores.pdm import STRIDE, epdms, filtered_terms, prepare, simulate
from drivefoundry.judge.scores.pdm_closed import PdmClosed
from drivefoundry.sim.drive import drive
from drivefoundry.types import DT, PLAN_DT, PSPEED, PYAW, Rollout, Scene, require

STARTS = 3
"""Second starts per scene."""
SPREAD = (0.3, 0.3, 0.03)
"""Standard deviations of the second starts: longitudinal and lateral (m), heading (rad); clipped at twice that."""
SIGMA_SQUARED = 0.1
"""Variance of the Gaussian over the distance of a second start, m^2."""


def two_stage(
    first: Rollout, scenes: list[Scene], again: Callable[[list[Scene], float], Rollout], most: int = 128
) -> dict[str, np.ndarray]:
    """epdms_one, epdms_two and their product epdms (S,) of a policy's rollout.

    again(scenes, seconds): drives the same policy in other scenes, at most `most` at once. ValueError if the rollout
    has too few decisions.
    """
    every = round(first.decision_dt / DT)
    needed = 2 + (STRIDE - 1) // every  # the extended comfort needs the last one
    least = int((first.lengths.min() - 1) // every)
    short = (
        f"rollout: a scene has {least} decisions; must be >= {needed}, drive at least {needed * first.decision_dt} s"
    )
    require(least >= needed, short)
    one, motions = _stage(first, scenes)
    starts = [
        second_starts(scene, motion, first.policy, needed * every)
        for scene, motion in zip(scenes, motions, strict=True)
    ]
    seconds = [s for of_one in starts for s, _ in of_one]
    parts = [seconds[i : i + most] for i in range(0, len(seconds), most)]
    scored = np.concatenate([_stage(again(part, needed * first.decision_dt), part)[0] for part in parts])
    weights = np.array([kernel_weights(np.array([d for _, d in of_one])) for of_one in starts])
    two = (scored.reshape(weights.shape) * weights).sum(1)
    return {"epdms_one": one, "epdms_two": two, "epdms": one * two}


def kernel_weights(distance: np.ndarray) -> np.ndarray:
    """Weights (K,), summing to 1, of second starts at these distances (K,) from the end of the first stage, m."""
    weight = np.exp(-(distance**2) / (2.0 * SIGMA_SQUARED))
    vanish = np.isclose(weight.sum(), 0.0)
    return np.full(len(distance), 1.0 / len(distance)) if vanish else weight / weight.sum()


def _stage(rollout: Rollout, scenes: list[Scene]) -> tuple[np.ndarray, np.ndarray]:
    """EPDMS (S,) of each first plan, with progress relative to PDM-Closed's as in NAVSIM, and its tracked motion (S,
    41, 6).

    The extended comfort compares it with the first plan made at least 0.5 s later, as NAVSIM does for the earlier frame
    of each pair.
    """
    situations = prepare(scenes, np.array([s.start for s in scenes]))
    reference = drive(PdmClosed(), scenes, PLAN_DT).plans[:, 0]
    _, terms = filtered_terms(situations, np.stack([rollout.plans[:, 0], reference], 1))
    motions = simulate(situations.start, rollout.plans[:, :1])
    every = round(rollout.decision_dt / DT)
    second = 1 + (STRIDE - 1) // every
    gap = second * every
    later = simulate(rollout.ego[:, gap], rollout.plans[:, second : second + 1])
    comfortable = extended_comfort(motions[:, :, gap:], later[:, :, :-gap])
    return epdms({**{name: value[:, :1] for name, value in terms.items()}, "EC": comfortable})[:, 0], motions[:, 0]


def second_starts(scene: Scene, motion: np.ndarray, policy: str, steps: int = 2 * STRIDE) -> list[tuple[Scene, float]]:
    """Scenes that start 4 s later, near the end of the first plan's tracked motion (41, 6), each with its distance from
    that end, m.

    The ego's past is what it drove, moved rigidly with the start; after the start its log continues. Tracks that end
    too soon continue at constant velocity. Other road users follow the log. steps: number of steps that will be driven
    from the second start.
    """
    rng = np.random.default_rng(int(hashlib.sha256(scene.id.encode()).hexdigest()[:12], 16))
    end = scene.start + SAMPLES - 1
    tracks, valid, signals = _longer(scene, end + 1 + steps)
    driven = np.concatenate([tracks[scene.ego, : scene.start], motion[:, :4]])
    out = []
    for k in range(STARTS):
        along, across, turn = np.clip(rng.normal(size=3), -2.0, 2.0) * SPREAD
        last = motion[-1]
        c, s = np.cos(last[PYAW]), np.sin(last[PYAW])
        xy = driven[:, :2] - last[:2]
        moved = driven.copy()
        moved[:, 0] = last[0] + c * along - s * across + np.cos(turn) * xy[:, 0] - np.sin(turn) * xy[:, 1]
        moved[:, 1] = last[1] + s * along + c * across + np.sin(turn) * xy[:, 0] + np.cos(turn) * xy[:, 1]
        moved[:, PYAW] += turn
        mine, there = tracks.copy(), valid.copy()
        mine[scene.ego, : end + 1], there[scene.ego, scene.start : end + 1] = moved, True
        meta = {**scene.meta, "release": policy}
        second = replace(
            scene, id=f"{scene.id}+{k}", tracks=mine, valid=there, signals=signals, start=end, meta=meta
        ).validate()
        out.append((second, float(np.hypot(along, across))))
    return out


def _longer(scene: Scene, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tracks, valid and signals, extended to at least `steps` steps."""
    more = max(0, steps - scene.valid.shape[1])
    if not more:
        return scene.tracks, scene.valid, scene.signals
    last = np.repeat(scene.tracks[:, -1:], more, 1)
    way = last[..., PSPEED] * DT * np.arange(1, more + 1)
    last[..., 0] += np.cos(last[..., PYAW]) * way
    last[..., 1] += np.sin(last[..., PYAW]) * way
    valid = np.concatenate([scene.valid, np.repeat(scene.valid[:, -1:], more, 1)], 1)
    signals = np.concatenate([scene.signals, np.repeat(scene.signals[:, -1:], more, 1)], 1)
    return np.concatenate([scene.tracks, last], 1), valid, signals
