"""Policies and held-out clips in, per-scene scores out; scores of several in, one verdict out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from drivefoundry.clips.store import ClipStore
from drivefoundry.judge.closed_loop import score_rollout
from drivefoundry.label.scene import scene_from_clip
from drivefoundry.progress import bar
from drivefoundry.roadmap import load_map
from drivefoundry.sim.drive import drive
from drivefoundry.stages.home import write_json
from drivefoundry.types import Policy, RoadMap, Rollout, Scene

BATCH = 128
"""Scenes driven at once: bounds the memory of a rollout."""


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


def score(policy: Policy, scenes: list[Scene], seconds: float, reference: Path | None, films: int, out: Path) -> dict:
    """One policy on the held-out scenes: scores.npz (metric -> (S,)) and the rollout of the first `films` scenes as film.npz.

    reference: the artefact of the rule-based route follower, whose progress is the yardstick; None for itself.
    """
    goal = np.load(reference / "progress.npy") if reference else None
    parts: list[Rollout] = []
    with bar(f"judge {policy.name}", len(scenes)) as advance:
        for first in range(0, len(scenes), BATCH):
            some = scenes[first : first + BATCH]
            parts.append(drive(policy, some, seconds))
            advance(len(some))
    if goal is None:
        goal = np.concatenate([_distance(r) for r in parts])
        np.save(out / "progress.npy", goal)
    pieces = []
    for k, rollout in enumerate(parts):
        of = slice(k * BATCH, k * BATCH + len(rollout.scenes))
        pieces.append(score_rollout(rollout, scenes[of], goal[of]))
    scores = {m: np.concatenate([p[m] for p in pieces]) for m in pieces[0]}
    np.savez(out / "scores.npz", scenes=np.array([s.id for s in scenes]), **scores)
    _save_film(parts[0], films, out)
    write_json(out / "policy.json", {"policy": policy.name})
    return {m: float(v.mean()) for m, v in scores.items()} | {"scenes": len(scenes)}


def _distance(rollout: Rollout) -> np.ndarray:
    return np.hypot(*np.moveaxis(np.diff(rollout.ego[..., :2], axis=1), -1, 0)).sum(1)


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
