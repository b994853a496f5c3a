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
from drivefoundry.sim.drive import drive
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
        for some in _batches(scenes):
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
    _save_film(parts[0][0], recipe.films, out)
    write_json(out / "policy.json", {"policy": policy.name})
    shown = ("driving_score_21", "collision", "off_road", "red_light", "pdms", "progress")
    return {"scenes": len(scenes)} | {m: float(scores[m].mean()) for m in shown}


def _batches(scenes: list[Scene]) -> list[list[Scene]]:
    """At most BATCH scenes each, all of about one length: a batch is driven as long as its shortest log."""
    order = sorted(range(len(scenes)), key=lambda i: scenes[i].valid.shape[1] - scenes[i].start)
    longest = max(scenes[i].valid.shape[1] - scenes[i].start for i in order)
    shortest = scenes[order[0]].valid.shape[1] - scenes[order[0]].start
    if longest - shortest < 10:  # all alike: keep their order
        order = list(range(len(scenes)))
    out: list[list[Scene]] = []
    for i in order:
        length = scenes[i].valid.shape[1] - scenes[i].start
        if not out or len(out[-1]) == BATCH or length - (out[-1][0].valid.shape[1] - out[-1][0].start) >= 10:
            out.append([])
        out[-1].append(scenes[i])
    return out


def _save_film(rollout: Rollout, films: int, out: Path) -> None:
    n = min(films, len(rollout.scenes))
    np.savez_compressed(
        out / "film.npz",
        scenes=np.array(rollout.scenes[:n]),
        ego=rollout.ego[:n].astype(np.float32),
        agents=rollout.agents[:n],
        valid=rollout.agents_valid[:n],
        plans=rollout.plans[:n].astype(np.float32),
        text=np.array([json.dumps(t) for t in rollout.text[:n]]) if rollout.text else np.array([]),
        guarded=rollout.guarded[:n],
    )


def load_scores(artefact: Path) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """Artefact of `score` in; policy name, scene ids, metric -> (S,) out."""
    with np.load(artefact / "scores.npz") as data:
        scores = {k: data[k] for k in data.files if k != "scenes"}
        scenes = [str(s) for s in data["scenes"]]
    return json.loads((artefact / "policy.json").read_text())["policy"], scenes, scores
