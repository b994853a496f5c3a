"""Per-scene scores of policies on held-out clips, and the verdict from several of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drivefoundry.judge.evaluate import BATCH, evaluate
from drivefoundry.judge.gate import Gate, judge, save_verdict, scene_content
from drivefoundry.judge.scores.pdm_closed import PdmClosed
from drivefoundry.judge.scores.realism import realism, replayed, rollout_realism, straight_on
from drivefoundry.judge.stats import mean_interval
from drivefoundry.judge.worst import SCORE, listed
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.progress import bar
from drivefoundry.recipes import Judge
from drivefoundry.sim.drive import batches, drive
from drivefoundry.sim.policies import CarPolicy, ConstantVelocity, LogReplay, RouteFollower
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.ingest import write_json
from drivefoundry.types import Policy, Rollout, Scene
from drivefoundry_car import arrays
from drivefoundry_car.driving.guard import Unguarded
from drivefoundry_car.driving.runtime import Runtime

if TYPE_CHECKING:
    from drivefoundry.stages.record import Source

YARDSTICK = RouteFollower.name
TRAFFIC_SCENES, TRAFFIC_SECONDS = 32, 8.0
"""Of the judgement of the traffic; Waymo simulates 8 s."""
SHOWN = (
    "driving_score_21", "epdms", "collision", "off_road", "red_light", "pdms", "progress", "tracking_max",
    "tracking_mean",
)  # fmt: skip
"""Means that a score's artefact tells, of those that the policy has."""
ENGINE, WHOLE_CAR = "int8 engine", "car (engine and guard)"


def baselines(line: RunContext, source: Source, exam: Artefact) -> list[Artefact]:
    """The drivers that no turn changes; the first is the yardstick of everybody's progress."""
    yard = yardstick(line, source, exam)
    rest = (ConstantVelocity, LogReplay, PdmClosed)
    return [yard, *(_driven(line, None, source, exam, [yard], p.name, p, []) for p in rest)]


def yardstick(line: RunContext, source: Source, exam: Artefact) -> Artefact:
    """The route follower, whose progress is the measure of everybody's."""
    return _driven(line, None, source, exam, [], YARDSTICK, RouteFollower, [])


def traffic(line: RunContext, source: Source, exam: Artefact) -> Artefact:
    """How real the simulated traffic is, beside the log itself and everyone straight on."""
    r = line.recipe.judge
    return line.make(
        None, "judge", "realism", {"scenes": r.scenes, "seconds": r.seconds}, [exam],
        lambda d: judge_traffic(source.exam_scenes(line, exam), r, d),
    )  # fmt: skip


def engine(
    line: RunContext, turn: int, source: Source, exam: Artefact, base: list[Artefact], built: Artefact
) -> Artefact:
    """The int8 engine alone, without its guard: what the model itself is worth."""

    def policy() -> Policy:
        return CarPolicy(Runtime.load(built.path, Unguarded(), reason_every=0, patient=True), ENGINE)

    return _driven(line, turn, source, exam, base, ENGINE, policy, [built])


def car(line: RunContext, turn: int, source: Source, exam: Artefact, base: list[Artefact], built: Artefact) -> Artefact:
    """The car's whole runtime: engine, guard, and the slow reasoner beside them."""

    def policy() -> Policy:
        return CarPolicy(Runtime.load(built.path, reason_every=2, reason_cars=BATCH, patient=True), WHOLE_CAR)

    return _driven(line, turn, source, exam, base, WHOLE_CAR, policy, [built])


def model(
    line: RunContext, turn: int, source: Source, exam: Artefact, base: list[Artefact], name: str, trained: Artefact
) -> Artefact:
    """A float checkpoint in torch."""

    def policy() -> Policy:
        from drivefoundry.model.policy import TorchPolicy

        return TorchPolicy(trained.path / "checkpoint", name)

    return _driven(line, turn, source, exam, base, name, policy, [trained])


def verdict(line: RunContext, turn: int, scored: list[Artefact], base: list[Artefact]) -> Artefact:
    """The first of `scored` is the candidate."""
    r = line.recipe.judge
    paths = [a.path for a in (*scored, *base)]
    return line.make(turn, "judge", "verdict", r, [*scored, *base], lambda d: compare(r, paths, d))


def _driven(
    line: RunContext,
    turn: int | None,
    source: Source,
    exam: Artefact,
    base: list[Artefact],
    name: str,
    policy: Callable[[], Policy],
    parents: list[Artefact],
) -> Artefact:
    """One policy's exam."""
    yard = base[0].path if base else None
    r = line.recipe.judge
    return line.make(
        turn, "judge", "score", {"policy": name, "judge": r}, [exam, *base[:1], *parents],
        lambda d: score(policy(), source.exam_scenes(line, exam), r, yard, d),
    )  # fmt: skip


def compare(recipe: Judge, scored: list[Path], out: Path) -> dict:
    """Scores of the candidate (first) and of all it is compared with in; out/verdict.json with intervals and gates."""
    loaded = [load_scores(path) for path in scored]
    candidate, scenes, _ = loaded[0]
    assert all(ids == scenes for _, ids, _ in loaded), "all policies of a verdict drive the same scenes"
    content = json.loads((scored[0] / "scenes.json").read_text())
    gates = (
        Gate("collision", at_most=recipe.gate_collisions),
        Gate(SCORE, at_least=recipe.gate_over_baseline, against="constant velocity", certain=True),
    )
    judged = judge(
        candidate, scenes, {name: metrics for name, _, metrics in loaded}, gates, [content[i] for i in scenes]
    )
    save_verdict(out / "verdict.json", judged)
    mean, low, high = judged.summary[candidate][SCORE]
    return {
        "driving_score": f"{mean:.3f} [{low:.3f}, {high:.3f}]",
        "collisions": float(judged.summary[candidate]["collision"][0]),
        "gates": "passed" if judged.passed else "failed",
    }


def judge_traffic(scenes: list[Scene], recipe: Judge, out: Path) -> dict:
    """Held-out scenes in; out/realism.json, traffic -> feature -> mean and interval over scenes."""
    rows: dict[str, list[dict[str, float]]] = {"constant velocity": [], "reactive traffic": [], "log replay": []}
    scenes = scenes[: min(recipe.scenes, TRAFFIC_SCENES)]
    for numbers in batches(scenes, BATCH):
        some = [scenes[i] for i in numbers]
        driven = drive(LogReplay(), some, min(recipe.seconds, TRAFFIC_SECONDS), traffic="reactive")
        for i, (scene, steps) in enumerate(zip(some, driven.lengths.tolist(), strict=True)):
            rows["constant velocity"].append(realism(scene, *straight_on(scene, steps)))
            rows["log replay"].append(realism(scene, *replayed(scene, steps)))
            alone = rollout_realism([scene], [driven.of(i)])
            rows["reactive traffic"].append({k: float(v[0]) for k, v in alone.items()})
    table = {name: {k: _known_mean([row[k] for row in of_one]) for k in of_one[0]} for name, of_one in rows.items()}
    write_json(out / "realism.json", table)
    return {name: told["realism"][0] for name, told in table.items() if told["realism"]}


def _known_mean(values: list[float]) -> tuple[float, float, float] | None:
    known = np.array(values)[np.isfinite(values)]
    return mean_interval(known) if len(known) else None


def score(policy: Policy, scenes: list[Scene], recipe: Judge, yardstick: Path | None, out: Path) -> dict:
    """One policy on the held-out scenes: scores.safetensors (metric -> (S,)), policy.json (its name and the ids of the
    scenes), scenes.json (id -> content hash) and the rollouts of a few scenes as film.safetensors and film.json.

    yardstick: the artefact of the rule-based route follower, whose progress is the measure; None for itself.
    """
    fresh(out)
    scenes = scenes[: recipe.scenes]
    goal = arrays.read(yardstick / "progress.safetensors", ["progress"])["progress"] if yardstick else None
    with bar(f"judge {policy.name}", len(scenes)) as advance:
        judged = evaluate(policy, scenes, recipe.seconds, reference=goal, on_scenes=advance)
    if goal is None:
        goal = judged.progress
        arrays.write(out / "progress.safetensors", {"progress": goal})
    scores, ids = judged.scores, judged.scenes
    arrays.write(out / "scores.safetensors", scores)
    write_json(out / "scenes.json", {s.id: scene_content(s) for s in scenes})
    _save_films(judged.rollouts, goal, recipe.films, listed(ids, scores, recipe.worst), out)
    write_json(out / "policy.json", {"policy": policy.name, "scenes": ids})
    return {"policy": policy.name, "scenes": len(scenes)} | {m: float(scores[m].mean()) for m in SHOWN if m in scores}


def _save_films(rollouts: list[Rollout], goal: np.ndarray, films: int, failed: set[int], out: Path) -> None:
    """What a film needs, of `films` scenes in which there is a way to go, alike for every policy, and of `failed`.

    rollouts: one a scene.
    """
    moving = np.flatnonzero(goal >= np.median(goal))
    alike = moving[np.linspace(0, len(moving) - 1, min(films, len(moving))).round().astype(int)]
    chosen = {*alike.tolist(), *failed}
    kept: dict[str, np.ndarray] = {}
    said: dict[str, list[str]] = {}
    for i in sorted(chosen):
        r = rollouts[i]
        (name,) = r.scenes
        kept |= {
            f"{name}/ego": r.ego[0].astype(np.float32),
            f"{name}/agents": r.agents[0],
            f"{name}/valid": r.agents_valid[0],
            f"{name}/plans": r.plans[0].astype(np.float32),
        }
        said[name] = list(r.text[0]) if r.text else [""] * len(r.plans[0])
    arrays.write(out / "film.safetensors", kept)
    write_json(out / "film.json", said)


def load_scores(artefact: Path) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """Artefact of `score` in; policy name, scene ids, metric -> (S,) out."""
    about = json.loads((artefact / "policy.json").read_text())
    return about["policy"], about["scenes"], arrays.read(artefact / "scores.safetensors")
