"""Per-scene scores of policies on held-out clips, and the verdict over several policies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from drivefoundry.judge.config import JudgeConfig
from drivefoundry.judge.evaluate import BATCH, evaluate
from drivefoundry.judge.gate import gate_text, judge, load_verdict, save_verdict, scene_content
from drivefoundry.judge.release_gates import PREVIOUS, release_gates
from drivefoundry.judge.scores.pdm_closed import PdmClosed
from drivefoundry.judge.scores.realism import realism, replayed, rollout_realism, straight_on
from drivefoundry.judge.stats import mean_interval
from drivefoundry.judge.suites import suites_of
from drivefoundry.judge.worst import SCORE, listed
from drivefoundry.ledger import Artefact, fresh
from drivefoundry.progress import bar, say
from drivefoundry.sim.drive import batches, drive
from drivefoundry.sim.policies import CarPolicy, ConstantVelocity, LogReplay, RouteFollower
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.sim.world import with_traffic
from drivefoundry.stages.context import RunContext
from drivefoundry.stages.ingest import write_json
from drivefoundry.types import Policy, Rollout, Scene
from drivefoundry_car import arrays
from drivefoundry_car.driving.guard import Unguarded
from drivefoundry_car.driving.runtime import Runtime
from drivefoundry_car.vehicle.embodiment import Embodiment

if TYPE_CHECKING:
    from drivefoundry.stages.record import Source

YARDSTICK = RouteFollower.name
TRAFFIC_SCENES, TRAFFIC_SECONDS = 32, 8.0
"""Number and length of the scenes for judging traffic; Waymo simulates 8 s."""
SHOWN = (
    "driving_score_21", "epdms", "collision", "off_road", "red_light", "pdms", "progress", "tracking_max",
    "tracking_mean",
)  # fmt: skip
"""Mean scores to include in an artefact's info, if the policy has them."""
DRIVES = ("scenes", "seconds", "films", "worst")
"""Recipe fields that a score depends on."""
ENGINE, WHOLE_CAR = "int8 engine", "car (engine and guard)"


@dataclass(frozen=True)
class Exam:
    """The held-out scenes. artefact: the recordings that the scores depend on. most: use only the first ones; 0: as
    many as the recipe says."""

    source: Source
    artefact: Artefact
    most: int = 0


def engine_policy(folder: Path) -> Policy:
    """An engine without the guard."""
    return CarPolicy(Runtime.load(folder, Unguarded(), reason_every=0, patient=True), ENGINE)


def car_policy(folder: Path, vehicle: Embodiment | None = None) -> Policy:
    """The car's whole runtime: engine, guard and the slow reasoner beside them. ValueError if the engine was made for
    another vehicle."""
    return CarPolicy(Runtime.load(folder, reason_every=2, vehicle=vehicle, reason_cars=BATCH, patient=True), WHOLE_CAR)


def baselines(line: RunContext, exam: Exam) -> list[Artefact]:
    """Drivers that do not change from turn to turn; the first is the yardstick of progress."""
    yard = yardstick(line, exam)
    rest = (ConstantVelocity, LogReplay, PdmClosed)
    return [yard, *(_driven(line, None, exam, [yard], p.name, p, []) for p in rest)]


def yardstick(line: RunContext, exam: Exam) -> Artefact:
    """The route follower, whose progress counts as 1 for every policy."""
    return _driven(line, None, exam, [], YARDSTICK, RouteFollower, [])


def traffic(line: RunContext, exam: Exam) -> Artefact:
    """Realism of the simulated traffic, beside the log itself and constant velocity."""
    r, source, recordings = line.recipe.judge, exam.source, exam.artefact
    return line.make(
        None, "judge", "realism", {"scenes": r.scenes, "seconds": r.seconds}, [recordings],
        lambda d: judge_traffic(source.scenes(line, recordings), r, d),
    )  # fmt: skip


def engine(line: RunContext, turn: int, exam: Exam, base: list[Artefact], built: Artefact) -> Artefact:
    """The int8 engine alone, without the guard: the quality of the model itself."""
    return _driven(line, turn, exam, base, ENGINE, lambda: engine_policy(built.path), [built])


def car(line: RunContext, turn: int, exam: Exam, base: list[Artefact], built: Artefact) -> Artefact:
    """The car's whole runtime: engine, guard and the slow reasoner beside them."""
    body = line.body
    return _driven(line, turn, exam, base, WHOLE_CAR, lambda: car_policy(built.path, body), [built])


def model(line: RunContext, turn: int, exam: Exam, base: list[Artefact], name: str, trained: Artefact) -> Artefact:
    """A float checkpoint in torch, on the first scenes only: it takes several times as long as the engine."""

    def policy() -> Policy:
        from drivefoundry.model.policy import TorchPolicy

        return TorchPolicy(trained.path / "checkpoint", name)

    fewer = replace(exam, most=line.recipe.judge.float_scenes)
    return _driven(line, turn, fewer, base, name, policy, [trained])


Earlier = tuple[Artefact, Artefact]
"""The engine's scores in one turn, and the verdict on it."""


def verdict(
    line: RunContext, turn: int, scored: list[Artefact], base: list[Artefact], earlier: Sequence[Earlier]
) -> Artefact:
    """Judge the first of `scored`, the candidate. earlier: the releases of previous turns, oldest first."""
    r = line.recipe.judge
    paths, before = [a.path for a in (*scored, *base)], [(s.path, v.path) for s, v in earlier]
    parents = [*scored, *base, *(a for pair in earlier for a in pair)]
    return line.make(turn, "judge", "verdict", r, parents, lambda d: compare(r, paths, base[0].path, before, d))


def _driven(
    line: RunContext,
    turn: int | None,
    exam: Exam,
    base: list[Artefact],
    name: str,
    policy: Callable[[], Policy],
    parents: list[Artefact],
) -> Artefact:
    """Scores of one policy."""
    yard = base[0].path if base else None
    r, source, scenes, body = line.recipe.judge, exam.source, exam.artefact, line.body
    r = replace(r, scenes=min(r.scenes, exam.most or r.scenes))
    made_from = {"policy": name, "embodiment": body.to_dict()} | {k: getattr(r, k) for k in DRIVES}
    perception = line.perception if name == WHOLE_CAR else None
    made_from |= {"perception": perception} if perception else {}
    return line.make(
        turn, "judge", "score", made_from, [scenes, *base[:1], *parents],
        lambda d: score(policy(), source.scenes(line, scenes), r, yard, d, body, perception),
    )  # fmt: skip


def compare(
    recipe: JudgeConfig, scored: list[Path], yard: Path, earlier: Sequence[tuple[Path, Path]], out: Path
) -> dict:
    """Judge the candidate, the first of `scored`; write out/verdict.json with intervals and gates.

    yard: the route follower's scores, which include the suites. earlier: scores and verdict of each previous release.
    """
    loaded = [load_scores(path) for path in scored]
    candidate, scenes, _ = loaded[0]
    scores = {name: metrics for name, _, metrics in loaded}
    before = predecessor(earlier)
    if before is not None:
        _, ids, scores[PREVIOUS] = load_scores(before)
        loaded.append((PREVIOUS, ids, scores[PREVIOUS]))
    assert all(ids == scenes[: len(ids)] for _, ids, _ in loaded), "all policies of a verdict drive the same scenes"
    content = json.loads((scored[0] / "scenes.json").read_text())
    suites = json.loads((yard / "suites.json").read_text())
    gates = tuple(release_gates(recipe.gates, candidate, scores, suites))
    judged = judge(candidate, scenes, scores, gates, [content[i] for i in scenes], suites)
    save_verdict(out / "verdict.json", judged)
    for name, gate in judged.gates.items():
        if gate.state != "passed":
            say(f"gate {gate_text(name, gate)}")
    mean, low, high = judged.summary[candidate][SCORE]
    return {
        "driving_score": f"{mean:.3f} [{low:.3f}, {high:.3f}]",
        "collisions": float(judged.summary[candidate]["collision"][0]),
        "gates": judged.state,
    }


def predecessor(earlier: Sequence[tuple[Path, Path]]) -> Path | None:
    """Scores of the release that a new one is compared with: the newest that all cars received; if none passed, the
    newest of the test cars; None if there is none."""
    passed = [scores for scores, judged in earlier if load_verdict(judged / "verdict.json").passed]
    return [*(scores for scores, _ in earlier[-1:]), *passed][-1] if earlier else None


def judge_traffic(scenes: list[Scene], recipe: JudgeConfig, out: Path) -> dict:
    """Judge traffic in held-out scenes; write out/realism.json: traffic -> feature -> mean and interval over scenes."""
    rows: dict[str, list[dict[str, float]]] = {"constant velocity": [], "reactive traffic": [], "log replay": []}
    scenes = scenes[: min(recipe.scenes, TRAFFIC_SCENES)]
    for numbers in batches(scenes, BATCH):
        some = [scenes[i] for i in numbers]
        driven = drive(LogReplay(), some, min(recipe.seconds, TRAFFIC_SECONDS), simulator=with_traffic("reactive"))
        for i, (scene, steps) in enumerate(zip(some, driven.lengths.tolist(), strict=True)):
            rows["constant velocity"].append(realism(scene, *straight_on(scene, steps)))
            rows["log replay"].append(realism(scene, *replayed(scene, steps)))
            alone = rollout_realism([scene], [driven.of(i)])
            rows["reactive traffic"].append({k: float(v[0]) for k, v in alone.items()})
    table = {name: {k: _known_mean([row[k] for row in of_one]) for k in of_one[0]} for name, of_one in rows.items()}
    write_json(out / "realism.json", table)
    return {name: entry["realism"][0] for name, entry in table.items() if entry["realism"]}


def _known_mean(values: list[float]) -> tuple[float, float, float] | None:
    known = np.array(values)[np.isfinite(values)]
    return mean_interval(known) if len(known) else None


def score(
    policy: Policy,
    scenes: list[Scene],
    recipe: JudgeConfig,
    yardstick: Path | None,
    out: Path,
    body: Embodiment | None = None,
    perception: Perception | None = None,
) -> dict:
    """Score one policy on the held-out scenes; write scores.safetensors (metric -> (S,)), policy.json (its name and the
    ids of the scenes), scenes.json (id -> content hash) and the rollouts of a few scenes, film.safetensors and
    film.json.

    yardstick: the artefact of the rule-based route follower, whose progress is the reference; None for the route
    follower itself, which also gets progress.safetensors and suites.json (suite -> ids).
    """
    fresh(out)
    scenes = scenes[: recipe.scenes]
    goal = None
    if yardstick is not None:
        goal = arrays.read(yardstick / "progress.safetensors", ["progress"])["progress"][: len(scenes)]
    with bar(f"judge {policy.name}", len(scenes)) as advance:
        judged = evaluate(
            policy, scenes, recipe.seconds, reference=goal, body=body, perception=perception, on_scenes=advance
        )
    if goal is None:
        goal = judged.progress
        arrays.write(out / "progress.safetensors", {"progress": goal})
        write_json(out / "suites.json", suites_of(scenes))
    scores, ids = judged.scores, judged.scenes
    arrays.write(out / "scores.safetensors", scores)
    write_json(out / "scenes.json", {s.id: scene_content(s) for s in scenes})
    _save_films(judged.rollouts, goal, recipe.films, listed(ids, scores, recipe.worst), out)
    write_json(out / "policy.json", {"policy": policy.name, "scenes": ids})
    return {"policy": policy.name, "scenes": len(scenes)} | {m: float(scores[m].mean()) for m in SHOWN if m in scores}


def _save_films(rollouts: list[Rollout], goal: np.ndarray, films: int, failed: set[int], out: Path) -> None:
    """Save what films need: the same `films` scenes with a way to go for every policy, and those in `failed`.

    rollouts: one per scene.
    """
    moving = np.flatnonzero(goal >= np.median(goal))
    alike = moving[np.linspace(0, len(moving) - 1, min(films, len(moving))).round().astype(int)]
    chosen = {*alike.tolist(), *failed}
    kept: dict[str, np.ndarray] = {}
    text: dict[str, list[str]] = {}
    for i in sorted(chosen):
        r = rollouts[i]
        (name,) = r.scenes
        kept |= {
            f"{name}/ego": r.ego[0].astype(np.float32),
            f"{name}/agents": r.agents[0],
            f"{name}/valid": r.agents_valid[0],
            f"{name}/plans": r.plans[0].astype(np.float32),
        }
        text[name] = list(r.text[0]) if r.text else [""] * len(r.plans[0])
    arrays.write(out / "film.safetensors", kept)
    write_json(out / "film.json", text)


def load_scores(artefact: Path) -> tuple[str, list[str], dict[str, np.ndarray]]:
    """Read an artefact of `score`: policy name, scene ids, metric -> (S,)."""
    about = json.loads((artefact / "policy.json").read_text())
    return about["policy"], about["scenes"], arrays.read(artefact / "scores.safetensors")
