"""Policies and held-out clips in, per-scene scores out; scores of several in, one verdict out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from drivefoundry.clips.store import ClipStore
from drivefoundry.judge.closed_loop import route_progress, score_rollout
from drivefoundry.judge.gate import Gate, judge, save_verdict
from drivefoundry.label.scene import scene_from_clip
from drivefoundry.ledger import fresh
from drivefoundry.progress import bar
from drivefoundry.recipes import Judge
from drivefoundry.roadmap import load_map
from drivefoundry.sim.drive import batches, drive
from drivefoundry.sim.policies import CarPolicy, ConstantVelocity, LogReplay, RouteFollower
from drivefoundry.stages.home import write_json
from drivefoundry.types import Policy, RoadMap, Rollout, Scene
from drivefoundry_car.runtime import Runtime

BATCH = 128
"""Scenes driven at once: bounds the memory of a rollout."""
YARDSTICK = "rule-based route follower"
SCORE = "driving_score_21"
"""The headline: CARLA's driving score, leaderboard 2.1."""


def route_follower() -> Policy:
    return RouteFollower()


def constant_velocity() -> Policy:
    return ConstantVelocity()


def log_replay() -> Policy:
    return LogReplay()


def engine(folder: Path) -> Policy:
    """The int8 engine alone, without its guard: what the model itself is worth."""
    return CarPolicy(Runtime.load(folder, reason_every=0), "int8 engine", guard=False)


def car(folder: Path, films: int) -> Policy:
    """The car's whole runtime: engine, guard, and the slow reasoner for the scenes that are filmed."""
    return CarPolicy(Runtime.load(folder, reason_every=2, reason_cars=films), "car (engine and guard)")


def torch_policy(checkpoint: Path, name: str) -> Policy:
    from drivefoundry.model.policy import TorchPolicy

    return TorchPolicy(checkpoint / "checkpoint", name)


def verdict(recipe: Judge, scored: list[Path], out: Path) -> dict:
    """Scores of the candidate (first) and of all it is compared with in; out/verdict.json with intervals and gates."""
    loaded = [load_scores(path) for path in scored]
    candidate, scenes, _ = loaded[0]
    assert all(ids == scenes for _, ids, _ in loaded), "all policies of a verdict drive the same scenes"
    gates = (
        Gate("collision", at_most=recipe.gate_collisions),
        Gate(SCORE, at_least=recipe.gate_over_baseline, against="constant velocity", certain=True),
    )
    judged = judge(candidate, scenes, {name: metrics for name, _, metrics in loaded}, gates)
    save_verdict(out / "verdict.json", judged)
    mean, low, high = judged.summary[candidate][SCORE]
    return {
        "driving_score": f"{mean:.3f} [{low:.3f}, {high:.3f}]",
        "collisions": float(judged.summary[candidate]["collision"][0]),
        "gates": "passed" if judged.passed else "failed",
    }


def scenes_of(store_url: str, clip_ids: list[str]) -> list[Scene]:
    """Clips in, their scenes out, in the same order; maps are shared between scenes."""
    store = ClipStore(store_url)
    maps: dict[str, RoadMap] = {}
    scenes = []
    for clip_id in clip_ids:
        recording = store.drive(clip_id, video=False)
        name = recording.meta["map"]
        if name not in maps:
            maps[name] = load_map(store.get_map(name))
        scenes.append(scene_from_clip(recording, maps[name], clip_id))
    return scenes


def score(policy: Policy, scenes: list[Scene], recipe: Judge, yardstick: Path | None, out: Path) -> dict:
    """One policy on the held-out scenes: scores.npz (metric -> (S,)) and the rollout of the first scenes as film.npz.

    yardstick: the artefact of the rule-based route follower, whose progress is the measure; None for itself.
    """
    fresh(out)
    scenes = scenes[: recipe.scenes]
    goal = np.load(yardstick / "progress.npy") if yardstick else None
    parts: list[tuple[Rollout, list[Scene]]] = []
    with bar(f"judge {policy.name}", len(scenes)) as advance:
        for some in batches(scenes, BATCH):
            parts.append((drive(policy, some, recipe.seconds), some))
            advance(len(some))
    if goal is None:
        goal = np.concatenate([route_progress(r, some) for r, some in parts])
        np.save(out / "progress.npy", goal)
    pieces, first = [], 0
    for rollout, some in parts:
        pieces.append(score_rollout(rollout, some, goal[first : first + len(some)]))
        first += len(some)
    scores = {m: np.concatenate([p[m] for p in pieces]) for m in pieces[0]}
    np.savez(out / "scores.npz", scenes=np.array([s.id for _, some in parts for s in some]), **scores)
    _save_films([r for r, _ in parts], goal, recipe.films, out)
    write_json(out / "policy.json", {"policy": policy.name})
    shown = ("driving_score_21", "collision", "off_road", "red_light", "pdms", "progress")
    return {"scenes": len(scenes)} | {m: float(scores[m].mean()) for m in shown}


def _save_films(rollouts: list[Rollout], goal: np.ndarray, films: int, out: Path) -> None:
    """What a film needs, of `films` scenes in which there is a way to go: the same scenes for every policy."""
    moving = np.flatnonzero(goal >= np.median(goal))
    chosen = {int(i) for i in moving[np.linspace(0, len(moving) - 1, min(films, len(moving))).round().astype(int)]} if films else set()
    kept: dict[str, np.ndarray] = {}
    first = 0
    for r in rollouts:
        for i in range(len(r.scenes)):
            if first + i in chosen:
                kept |= {
                    f"{r.scenes[i]}/ego": r.ego[i].astype(np.float32),
                    f"{r.scenes[i]}/agents": r.agents[i],
                    f"{r.scenes[i]}/valid": r.agents_valid[i],
                    f"{r.scenes[i]}/plans": r.plans[i].astype(np.float32),
                    f"{r.scenes[i]}/text": np.array(r.text[i] if r.text else [""] * len(r.plans[i])),
                }
        first += len(r.scenes)
    np.savez_compressed(out / "film.npz", **kept)  # type: ignore[arg-type]


def load_scores(artefact: Path) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """Artefact of `score` in; policy name, scene ids, metric -> (S,) out."""
    with np.load(artefact / "scores.npz") as data:
        scores = {k: data[k] for k in data.files if k != "scenes"}
        scenes = [str(s) for s in data["scenes"]]
    return json.loads((artefact / "policy.json").read_text())["policy"], scenes, scores
