"""Scores of several policies in, a Verdict on the candidate out; Verdicts to and from JSON files.

A gate compares a mean of the candidate with a bound, or the candidate with another policy scene by scene. It passes
only where the whole interval does where `certain` is set, else where the mean does.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drivefoundry import outputs
from drivefoundry.judge.stats import compare_paired, mean_interval, paired_difference
from drivefoundry.judge.versions import VERSIONS
from drivefoundry.types import Scene, Verdict, require
from drivefoundry_car.documents import read_json

FORMAT = "drivefoundry verdict 1"
MARGINS = {"driving_score_21": 0.02, "epdms": 0.02}
"""Metrics in which the candidate is compared with every other policy, and how much worse counts as no worse."""


@dataclass(frozen=True)
class Gate:
    """One condition. metric: a key of the scores. With `against`, the difference to that policy on the same scenes is
    judged, else the candidate's own mean. at_least or at_most: the bound, just one of them. certain: the 95 %
    interval's unfavourable end must keep the bound (against with at_least = -margin: a test of non-inferiority)."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    against: str | None = None
    certain: bool = False

    def validate(self) -> Gate:
        one = (self.at_least is None) != (self.at_most is None)
        require(one, f"Gate on {self.metric}: give at_least or at_most, one of them")
        return self

    @property
    def name(self) -> str:
        what = self.metric if self.against is None else f"{self.metric} vs {self.against}"
        return f"{what} {'>=' if self.at_least is not None else '<='}"


DEFAULT_GATES = (
    Gate("at_fault_collision", at_most=0.10),
    Gate("off_road", at_most=0.15),
    Gate("driving_score_21", at_least=0.0, against="constant velocity", certain=True),
)
"""What a release must show where a recipe names nothing stricter."""


def judge(
    candidate: str,
    scenes: list[str],
    scores: dict[str, dict[str, np.ndarray]],
    gates: tuple[Gate, ...] = DEFAULT_GATES,
    content: Sequence[str] = (),
) -> Verdict:
    """Judge a candidate by scene ids, scores (policy -> metric -> (S,)) and, if known, hashes of the scenes
    (`scene_content`).

    All policies must have been scored on the same scenes in the same order. Metrics that hold infinite values (times of
    events that never came) get no summary. ValueError where a gate names a policy or metric that was not scored.
    """
    require(candidate in scores, f"candidate: {candidate} was not scored; there are {', '.join(sorted(scores))}")
    for policy, metrics in scores.items():
        for metric, values in metrics.items():
            ok = np.shape(values) == (len(scenes),)
            require(ok, f"scores of {policy}: {metric} has shape {np.shape(values)}, not ({len(scenes)},): one a scene")
    summary = {
        policy: {metric: mean_interval(v) for metric, v in metrics.items() if np.isfinite(v).all()}
        for policy, metrics in scores.items()
    }
    results = {}
    for gate in gates:
        value, bound, ok = _apply(gate.validate(), candidate, scores)
        require(gate.name not in results, f"gates: two of them are '{gate.name}'; keep the stricter")
        results[gate.name] = (value, bound, ok)
    mine = scores[candidate]
    comparisons = {
        policy: {
            m: asdict(compare_paired(mine[m], theirs[m], MARGINS[m])) for m in MARGINS if m in mine and m in theirs
        }
        for policy, theirs in scores.items()
        if policy != candidate
    }
    versions = {m: told for m, told in VERSIONS.items() if m in mine}
    known = dict(zip(scenes, content, strict=True)) if len(content) else {}
    return Verdict(candidate, list(scenes), scores, summary, results, known, versions, comparisons)


def scene_content(scene: Scene) -> str:
    """Hash (16 hex digits) of everything in a scene that a drive in it depends on: a copy of it under another id is the
    same exam."""
    digest = hashlib.sha256(f"{scene.map.id} {scene.ego} {scene.start}".encode())
    for part in (scene.tracks, scene.valid, scene.size, scene.kind, scene.route, scene.route_speed, scene.signals):
        digest.update(f"{part.dtype.str} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def _apply(gate: Gate, candidate: str, scores: dict[str, dict[str, np.ndarray]]) -> tuple[float, float, bool]:
    for policy in (candidate, gate.against):
        if policy is not None:
            require(policy in scores, f"Gate on {gate.metric}: policy {policy} was not scored")
            require(gate.metric in scores[policy], f"Gate on {gate.metric}: {policy} has no such metric")
    mine = scores[candidate][gate.metric]
    if gate.against is None:
        mean, low, high = mean_interval(mine)
    else:
        mean, low, high = paired_difference(mine, scores[gate.against][gate.metric])
    if gate.at_least is not None:
        return mean, gate.at_least, bool((low if gate.certain else mean) >= gate.at_least)
    assert gate.at_most is not None
    return mean, gate.at_most, bool((high if gate.certain else mean) <= gate.at_most)


def save_verdict(path: Path, verdict: Verdict) -> None:
    """Verdict to a JSON file that another run can compare with: every policy's value on every scene. Written
    atomically."""
    body = {
        "format": FORMAT,
        "candidate": verdict.candidate,
        "scenes": verdict.scenes,
        "scores": {p: {m: [_number(x) for x in v] for m, v in ms.items()} for p, ms in verdict.scores.items()},
        "summary": verdict.summary,
        "gates": verdict.gates,
        "content": verdict.content,
        "versions": verdict.versions,
        "comparisons": verdict.comparisons,
        "passed": verdict.passed,
    }
    with outputs.file(path) as aside, aside.open("w") as file:
        json.dump(body, file, allow_nan=False)


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def load_verdict(path: Path) -> Verdict:
    """JSON file of `save_verdict` in, Verdict out; values that never came are infinite again. ValueError on another
    file."""
    require(path.exists(), f"{path}: no such verdict; judge the release first")
    body = read_json(path, "it is not a verdict; judge the release again")
    known = isinstance(body, dict) and body.get("format") == FORMAT
    require(known, f"{path}: field format is not '{FORMAT}'; judge the release again")
    for name, kind in (("candidate", str), ("scenes", list), ("scores", dict), ("summary", dict), ("gates", dict)):
        require(isinstance(body.get(name), kind), f"{path}: field {name} is missing or no {kind.__name__}; judge again")
    _require_numbers(path, body)
    scores = {
        p: {m: np.array([math.inf if x is None else x for x in v], np.float64) for m, v in ms.items()}
        for p, ms in body["scores"].items()
    }
    for policy, metrics in scores.items():
        for metric, values in metrics.items():
            fits = values.shape == (len(body["scenes"]),)
            require(fits, f"{path}: field scores.{policy}.{metric} has {values.size} values, not one a scene")
    summary = {p: {m: (v[0], v[1], v[2]) for m, v in ms.items()} for p, ms in body["summary"].items()}
    gates = {name: (v[0], v[1], bool(v[2])) for name, v in body["gates"].items()}
    more = [body.get(name, {}) for name in ("content", "versions", "comparisons")]  # older files lack them
    return Verdict(body["candidate"], body["scenes"], scores, summary, gates, *more)


def _require_numbers(path: Path, body: dict[str, Any]) -> None:
    """ValueError where a verdict's tables do not hold what `save_verdict` writes."""
    names = all(isinstance(name, str) for name in body["scenes"])
    require(names, f"{path}: field scenes holds what is no scene's name; judge the release again")
    tables = [(f"scores.{p}", ms) for p, ms in body["scores"].items()]
    for field, metrics in tables:
        lists = isinstance(metrics, dict) and all(isinstance(v, list) for v in metrics.values())
        plain = lists and all(x is None or _is_number(x) for v in metrics.values() for x in v)
        require(plain, f"{path}: field {field} is no table of numbers; judge the release again")
    threes = [(f"summary.{p}", ms) for p, ms in body["summary"].items()] + [("gates", body["gates"])]
    for field, values in threes:
        lists = isinstance(values, dict) and all(isinstance(v, list) and len(v) == 3 for v in values.values())
        plain = lists and all(_is_number(x) or isinstance(x, bool) for v in values.values() for x in v)
        require(plain, f"{path}: field {field} is no table of three values each; judge the release again")
    for field in ("content", "versions", "comparisons"):
        require(isinstance(body.get(field, {}), dict), f"{path}: field {field} is no table; judge the release again")


def _is_number(x: object) -> bool:
    return type(x) in (int, float)
