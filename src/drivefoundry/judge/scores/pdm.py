"""PDM scores of proposed plans: 4 s of tracked driving among replayed agents (NAVSIM).

Versions: PDMS as in NAVSIM v1 (Dauner et al., NeurIPS 2024), EPDMS as in v2.2 with its human filter (Cao et al., CoRL
2025); both use v2's ego progress, whose numerator keeps the progress of a plan that breaks a rule. Formulas, sources
and differences: docs/metrics.md. Letters: S scenes, N plans per scene, A agents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from drivefoundry.judge.scores.comfort import PAST, SAMPLES, comfort, extended_comfort
from drivefoundry.judge.scores.motion import FIELDS, AgentTracks, judge_motions
from drivefoundry.judge.scores.surroundings import Surroundings, signal_states, surroundings
from drivefoundry.sim.ego import CAR_ACTUATORS, simulate_plan
from drivefoundry.types import DT, PLAN_DT, PLAN_POINTS, Scene, require
from drivefoundry_car.vehicle.inputs import to_ego

NEAR = 40.0
"""Margin around the area that the ego can reach; agents within it are kept, m."""
PROGRESS_COUNTS = 5.0
"""Progress is not judged if no plan could exceed this, m."""
STRIDE = round(PLAN_DT / DT)


@dataclass(frozen=True)
class Situations:
    """S moments, prepared for scoring; reuse them to score the same moments again.

    start (S, 6) ego state; past (S, 15, 6) the preceding states, of which the last past_n (S,) are known; human (S, 8,
    3) the logged drive as a plan, if human_known (S,), which is False for a drive by a release; before (S, 6) the state
    one decision (0.5 s) earlier, human_before (S, 8, 3) the logged drive from there.
    """

    start: np.ndarray
    size: np.ndarray
    past: np.ndarray
    past_n: np.ndarray
    human: np.ndarray
    human_known: np.ndarray
    human_before: np.ndarray
    before: np.ndarray
    traffic: AgentTracks
    where: Surroundings

    def __len__(self) -> int:
        return len(self.start)


def _history(scene: Scene, at: int) -> tuple[np.ndarray, int]:
    """The ego's states at the 16 steps up to `at` (16, 6), and how many before `at` are in the log."""
    t = np.arange(at - PAST - 1, at + 1)
    ok = (t >= 0) & scene.valid[scene.ego, np.maximum(t, 0)]
    known = int(np.argmin(ok[::-1])) if not ok.all() else len(ok)
    track = scene.tracks[scene.ego, np.maximum(t, 0)].astype(np.float64)
    out = np.zeros((PAST + 1, 6))
    out[:, :4] = track[1:]
    turn = np.diff(track[:, 2])
    out[:, 4] = np.clip(np.diff(track[:, 3]) / DT, CAR_ACTUATORS.accel_min, CAR_ACTUATORS.accel_max)
    out[:, 5] = np.arctan2(np.sin(turn), np.cos(turn)) / DT
    # The rates of a state need the state before it.
    out[: len(out) - max(known - 1, 0), 4:] = 0.0
    return out, max(0, known - 2)


@njit(cache=True, nogil=True)
def _near(tracks, valid, at, ego, reach, out):
    """Write the indices of agents seen within `reach` of the ego's position at step `at` during 4 s to out; return
    their number."""
    steps, count = valid.shape[1], 0
    x, y = tracks[ego, at, 0], tracks[ego, at, 1]
    for a in range(len(valid)):
        for t in range(at, min(at + SAMPLES, steps)):
            if a != ego and valid[a, t] and abs(tracks[a, t, 0] - x) < reach and abs(tracks[a, t, 1] - y) < reach:
                out[count] = a
                count += 1
                break
    return count


@njit(cache=True, nogil=True)
def _future(tracks, valid, at, which, states, seen):
    """Write the tracks of some agents from step `at` to states (A, 41, 4) and seen (A, 41), continued at constant
    velocity beyond the log."""
    last = valid.shape[1] - 1
    for i in range(len(which)):
        a = which[i]
        for k in range(SAMPLES):
            t = min(at + k, last)
            seen[i, k] = valid[a, t]
            beyond = max(at + k - last, 0) * DT
            yaw, speed = tracks[a, t, 2], tracks[a, t, 3]
            states[i, k, 0] = tracks[a, t, 0] + speed * math.cos(yaw) * beyond
            states[i, k, 1] = tracks[a, t, 1] + speed * math.sin(yaw) * beyond
            states[i, k, 2], states[i, k, 3] = yaw, speed


def prepare(scenes: list[Scene], at: np.ndarray) -> Situations:
    """Situations of scenes at one step (S,) each. ValueError if the ego has no state at that step."""
    n, steps = len(scenes), np.asarray(at, np.int64)
    require(steps.shape == (n,), f"at: must be one step per scene, got shape {steps.shape} for {n} scenes")
    require(n > 0, "scenes: none given; give at least one")
    start, past, past_n = np.zeros((n, 6)), np.zeros((n, PAST, 6)), np.zeros(n, np.int64)
    before, known = np.zeros((n, 6)), np.zeros(n, np.bool_)
    human, human_before = np.zeros((n, PLAN_POINTS, 3)), np.zeros((n, PLAN_POINTS, 3))
    kept: list[np.ndarray] = []
    for i, (scene, t) in enumerate(zip(scenes, steps, strict=True)):
        inside = 0 <= t < scene.valid.shape[1] and scene.valid[scene.ego, t]
        require(bool(inside), f"at: the ego of scene {scene.id} has no state at step {t}; choose a step of its log")
        states, past_n[i] = _history(scene, t)
        start[i], past[i], before[i] = states[-1], states[:-1], states[-1 - STRIDE]
        ahead = t + STRIDE * np.arange(1, PLAN_POINTS + 1)
        logged = ahead[-1] < scene.valid.shape[1] and bool(scene.valid[scene.ego, ahead].all())
        if logged and not scene.meta.get("release"):
            drove = scene.tracks[scene.ego, :, :3].astype(np.float64)
            human[i] = to_ego(drove[ahead], start[i, :3])
            human_before[i] = to_ego(drove[ahead - STRIDE], before[i, :3])
            known[i] = True
        near = np.empty(len(scene.kind), np.int64)
        kept.append(near[: _near(scene.tracks, scene.valid, t, scene.ego, NEAR + 4.0 * start[i, 3], near)])
    a = max(1, max(len(k) for k in kept))
    traffic = AgentTracks(
        np.zeros((n, a, SAMPLES, 4)), np.zeros((n, a, SAMPLES), np.bool_), np.ones((n, a, 2)), np.zeros((n, a),
        np.int64), signal_states(scenes, steps, SAMPLES),
    )  # fmt: skip
    for i, (scene, near) in enumerate(zip(scenes, kept, strict=True)):
        _future(scene.tracks, scene.valid, steps[i], near, traffic.states[i], traffic.seen[i])
        traffic.size[i, : len(near)], traffic.kind[i, : len(near)] = scene.size[near, :2], scene.kind[near]
    size = np.array([s.size[s.ego, :2] for s in scenes], np.float64)
    return Situations(start, size, past, past_n, human, known, human_before, before, traffic, surroundings(scenes))


@njit(cache=True, nogil=True, parallel=True)
def _simulate(start, plans, dt, limits, out):
    per_scene = plans.shape[1]
    for i in prange(plans.shape[0] * per_scene):
        s, n = i // per_scene, i % per_scene
        simulate_plan(start[s], plans[s, n], dt, limits, out[s, n])


def simulate(start: np.ndarray, plans: np.ndarray) -> np.ndarray:
    """Tracked motions (S, N, 41, 6) at 10 Hz of plans (S, N, 8, 3) from ego states (S, 6).

    As in NAVSIM one vehicle, the passenger car, tracks every plan, so that scores compare.
    """
    out = np.zeros((*plans.shape[:2], SAMPLES, 6))
    _simulate(start, np.ascontiguousarray(plans, np.float64), DT, CAR_ACTUATORS, out)
    return out


def pdm_scores(
    scenes: list[Scene],
    at: np.ndarray,
    plans: np.ndarray,
    reference_progress: np.ndarray | None = None,
    previous: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Scores (S, N) by name of plans (S, N, 8, 3), in the ego frame, at one step (S,) of each scene.

    See `score`. ValueError if the ego has no state at the step, or plans have a wrong shape or are not finite.
    """
    return score(prepare(scenes, at), plans, reference_progress, previous)


def score(
    situations: Situations,
    plans: np.ndarray,
    reference_progress: np.ndarray | None = None,
    previous: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Scores (S, N) float64 by name of plans (S, N, 8, 3) of x, y, yaw in the ego frame.

    NC no at-fault collision, DAC drivable area, DDC driving direction, TLC traffic lights, TTC time to collision, EP
    progress, C comfort, LK lane keeping, HC comfort with the history, PDMS, EPDMS, and progress along the route in m.
    EP is relative to the furthest of the scene's plans, weighted by their rule multipliers, and to reference_progress
    (S,) m, that of a rule-based planner. previous (S, 8, 3), the plan made 0.5 s earlier in the ego frame of that time,
    adds EC, the comfort of changing plans; without it EPDMS omits EC (weights sum to 14). EPDMS does not penalise a
    plan for what the logged driver failed too, unless the logged driver was a release (meta).
    """
    terms, filtered = filtered_terms(situations, plans, reference_progress, previous)
    return {**terms, "PDMS": pdms(terms), "EPDMS": epdms(filtered)}


def filtered_terms(
    situations: Situations,
    plans: np.ndarray,
    reference_progress: np.ndarray | None = None,
    previous: np.ndarray | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Terms (S, N) of `score`: unfiltered, and as EPDMS uses them, set to 1 where the logged driver's is 0.

    The logged driver is scored alone, as in NAVSIM, so no other plan's progress can make its EP 0.
    """
    n = len(situations)
    shaped = plans.ndim == 4 and plans.shape[0] == n and plans.shape[2:] == (PLAN_POINTS, 3)
    require(shaped, f"plans: must have shape ({n}, N, {PLAN_POINTS}, 3), got {plans.shape}")
    require(bool(np.isfinite(plans).all()), "plans: NaN or infinite point; plans must be finite")
    every = np.concatenate([plans, situations.human[:, None]], 1)
    states = simulate(situations.start, every)
    raw = judge_motions(states, situations.size, situations.traffic, situations.where, False)
    terms = {name: raw[..., FIELDS.index(name)] for name in ("NC", "DAC", "DDC", "TLC", "TTC", "LK", "progress")}
    comfortable = comfort(states, situations.past, situations.past_n)
    terms["C"], terms["HC"] = comfortable[..., 0], comfortable[..., 1]
    gate = terms["NC"] * terms["DAC"] * terms["DDC"] * terms["TLC"]
    best = (terms["progress"] * gate)[:, :-1].max(1)
    if reference_progress is not None:
        best = np.maximum(best, reference_progress)
    terms["EP"] = progress_ratio(terms["progress"], best[:, None])
    known = {name: situations.human_known for name in terms if name not in ("EP", "progress")}
    if previous is not None:
        require(previous.shape == (n, PLAN_POINTS, 3), f"previous: must have shape ({n}, 8, 3), got {previous.shape}")
        earlier = simulate(situations.before, np.stack([previous, situations.human_before], 1))[:, :, STRIDE:]
        now = states[:, :, :-STRIDE]
        both = (extended_comfort(earlier[:, :1], now[:, :-1]), extended_comfort(earlier[:, 1:], now[:, -1:]))
        terms["EC"] = np.concatenate(both, 1)
        known["EC"] = situations.human_known & (situations.past_n >= STRIDE)
    excused = {name: (terms[name][:, -1] == 0.0) & sure for name, sure in known.items()}
    terms = {name: value[:, :-1].copy() for name, value in terms.items()}
    return terms, {k: np.where(excused[k][:, None], 1.0, v) if k in excused else v for k, v in terms.items()}


def progress_ratio(progress: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Progress as a share of the best possible, 0 .. 1; 1 if the best is 5 m or less (both m)."""
    return np.where(best > PROGRESS_COUNTS, np.clip(progress / np.maximum(best, PROGRESS_COUNTS), 0.0, 1.0), 1.0)


def pdms(terms: dict[str, np.ndarray]) -> np.ndarray:
    """NAVSIM v1: NC DAC (5 TTC + 5 EP + 2 C) / 12."""
    return terms["NC"] * terms["DAC"] * (5 * terms["TTC"] + 5 * terms["EP"] + 2 * terms["C"]) / 12


def epdms(terms: dict[str, np.ndarray]) -> np.ndarray:
    """NAVSIM v2, from filtered terms: NC DAC DDC TLC (5 TTC + 5 EP + 2 LK + 2 HC + 2 EC) / 16; / 14 without EC."""
    gate = terms["NC"] * terms["DAC"] * terms["DDC"] * terms["TLC"]
    kept = 5 * terms["TTC"] + 5 * terms["EP"] + 2 * terms["LK"] + 2 * terms["HC"]
    return gate * (kept + 2 * terms["EC"]) / 16 if "EC" in terms else gate * kept / 14
