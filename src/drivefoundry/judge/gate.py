"""Judge a candidate by its gates; read and write verdict files.

A gate compares a mean with a bound, or two policies scene by scene. The unfavourable end of the 95 % interval decides,
not the mean.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from drivefoundry import outputs
from drivefoundry.judge.scores import VERSIONS
from drivefoundry.judge.stats import Comparison, compare_paired, mean_interval
from drivefoundry.types import Scene, require, short_id
from drivefoundry_car.documents import read_json

FORMAT = "drivefoundry verdict 2"
MARGINS = {"driving_score_21": 0.02, "epdms": 0.02}
"""Metrics in which the candidate is compared with every other policy, each with its non-inferiority margin."""
NAMED = 6
"""Maximum number of scenes that a gate lists."""


GateState = Literal["passed", "failed", "not decided"]


@dataclass(frozen=True)
class GateResult:
    """Result of one `Gate`."""

    state: GateState
    value: float
    """Mean over the gate's scenes of the metric, or of its difference from the other policy."""
    low: float
    high: float
    """The 95 % bootstrap interval; the end nearer to the bound decides."""
    bound: float
    at_least: bool
    """Whether the bound is a lower one."""
    scenes: int
    """Number of scenes compared."""
    deciding: list[str]
    """Ids of the scenes that speak most strongly against the candidate, worst first."""
    holds: bool
    """Whether the gate, while undecided, limits a release to test cars; if False it is only reported."""

    @property
    def blocks(self) -> bool:
        """Whether the gate limits a release to test cars."""
        return self.state == "failed" or (self.state == "not decided" and self.holds)


@dataclass(frozen=True)
class Verdict:
    """Scores of several policies on the same scenes, and the results of the candidate's gates."""

    candidate: str
    scenes: list[str]
    scores: dict[str, dict[str, np.ndarray]]
    """Policy -> metric -> (n,) values on the first n scenes, with the same n for all metrics of a policy."""
    summary: dict[str, dict[str, tuple[float, float, float]]]
    """Policy -> metric -> (mean, low, high) with a 95 % bootstrap interval."""
    gates: dict[str, GateResult]
    content: dict[str, str] = field(default_factory=dict)
    """Scene -> hash of its content: a scene with the same name and content is the same exam."""
    versions: dict[str, str] = field(default_factory=dict)
    """Metric -> the version of the benchmark that it follows."""
    comparisons: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Other policy -> metric -> the candidate compared with it (fields of `judge.stats.Comparison`); not gated."""
    suites: dict[str, list[str]] = field(default_factory=dict)
    """Suite -> ids of its scenes, see `judge.suites`."""

    @property
    def passed(self) -> bool:
        """Whether no gate limits the candidate to test cars."""
        return not any(gate.blocks for gate in self.gates.values())

    @property
    def state(self) -> GateState:
        """ "failed" if a gate failed, "not decided" if an undecided gate holds the release, "passed" otherwise."""
        if any(gate.state == "failed" for gate in self.gates.values()):
            return "failed"
        return "passed" if self.passed else "not decided"


@dataclass(frozen=True)
class Gate:
    """One condition on a policy.

    metric: a key of the scores. subject: the policy to judge; None for the candidate. against: another policy, whose
    value is subtracted scene by scene. at_least or at_most: bound on the mean; give exactly one. Against another policy
    `at_least=-margin` is a test of non-inferiority. suite: restricts the gate to the scenes of this suite.

    A gate on fewer than `least_scenes` scenes is not decided. Nor is a test of non-inferiority whose interval is so
    wide that even an equal policy would not pass, unless the whole interval lies below zero difference. holds: while
    undecided, the gate limits a release to test cars.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    against: str | None = None
    subject: str | None = None
    suite: str | None = None
    least_scenes: int = 1
    holds: bool = True

    def validate(self) -> Gate:
        one = (self.at_least is None) != (self.at_most is None)
        require(one, f"Gate on {self.metric}: give exactly one of at_least and at_most")
        require(self.least_scenes > 0, f"Gate on {self.metric}: least_scenes must be > 0, got {self.least_scenes}")
        return self

    @property
    def name(self) -> str:
        """Readable key such as "student: driving_score_21 vs RL in lights >="."""
        whose = f"{self.subject}: " if self.subject else ""
        against = f" vs {self.against}" if self.against else ""
        suite = f" in {self.suite}" if self.suite else ""
        return f"{whose}{self.metric}{against}{suite} {'>=' if self.at_least is not None else '<='}"


def judge(
    candidate: str,
    scenes: list[str],
    scores: dict[str, dict[str, np.ndarray]],
    gates: tuple[Gate, ...],
    content: Sequence[str] = (),
    suites: Mapping[str, Sequence[str]] | None = None,
) -> Verdict:
    """Compare a candidate with its bounds and with the other policies.

    scores: policy -> metric -> (n,) values on the first n scenes; n may differ between policies, which are compared on
    the scenes that both drove. content: hashes of the scenes (`scene_content`), if known. suites: name -> ids of its
    scenes. Metrics with infinite values (times of events that never happened) get no summary. ValueError if a gate
    names a policy, metric or suite that does not exist.
    """
    require(candidate in scores, f"candidate: {candidate} was not scored; scored are {', '.join(sorted(scores))}")
    for policy, metrics in scores.items():
        lengths = {np.shape(values) for values in metrics.values()}
        fits = len(lengths) == 1 and all(len(shape) == 1 and 0 < shape[0] <= len(scenes) for shape in lengths)
        shapes = ", ".join(f"{m} {np.shape(v)}" for m, v in metrics.items())
        require(fits, f"scores of {policy}: {shapes}: must be one value for each of the first of {len(scenes)} scenes")
    summary = {
        policy: {metric: mean_interval(v) for metric, v in metrics.items() if np.isfinite(v).all()}
        for policy, metrics in scores.items()
    }
    suites = {name: list(ids) for name, ids in (suites or {}).items()}
    results: dict[str, GateResult] = {}
    for gate in gates:
        require(gate.name not in results, f"gates: two of them are '{gate.name}'; keep the stricter")
        results[gate.name] = _apply(gate.validate(), candidate, scenes, scores, suites)
    mine = scores[candidate]
    comparisons = {
        policy: {m: asdict(_compared(mine[m], theirs[m], MARGINS[m])) for m in MARGINS if m in mine and m in theirs}
        for policy, theirs in scores.items()
        if policy != candidate
    }
    versions = {m: told for m, told in VERSIONS.items() if m in mine}
    known = dict(zip(scenes, content, strict=True)) if len(content) else {}
    return Verdict(candidate, list(scenes), scores, summary, results, known, versions, comparisons, suites)


def _compared(ours: np.ndarray, theirs: np.ndarray, margin: float) -> Comparison:
    both = min(len(ours), len(theirs))
    return compare_paired(ours[:both], theirs[:both], margin)


def scene_content(scene: Scene) -> str:
    """Hash (16 hex digits) of everything in a scene that driving it depends on: a copy under another id is the same
    exam."""
    digest = hashlib.sha256(f"{scene.map.id} {scene.ego} {scene.start}".encode())
    for part in (scene.tracks, scene.valid, scene.size, scene.kind, scene.route, scene.route_speed, scene.signals):
        digest.update(f"{part.dtype.str} {part.shape}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def _apply(
    gate: Gate,
    candidate: str,
    scenes: list[str],
    scores: dict[str, dict[str, np.ndarray]],
    suites: Mapping[str, Sequence[str]],
) -> GateResult:
    subject = gate.subject or candidate
    for policy in (subject, gate.against):
        if policy is not None:
            require(policy in scores, f"Gate on {gate.metric}: policy {policy} was not scored")
            require(gate.metric in scores[policy], f"Gate on {gate.metric}: {policy} has no such metric")
    values = scores[subject][gate.metric]
    if gate.against is not None:
        both = min(len(values), len(scores[gate.against][gate.metric]))
        values = values[:both] - scores[gate.against][gate.metric][:both]
    rows = np.arange(len(values))
    if gate.suite is not None:
        require(gate.suite in suites, f"Gate on {gate.metric}: suite {gate.suite} does not exist")
        members = set(suites[gate.suite])
        rows = np.array([i for i in rows if scenes[i] in members], np.int64)
    at_least = gate.at_least is not None
    bound = gate.at_least if gate.at_least is not None else gate.at_most
    assert bound is not None
    chosen, sign = values[rows], 1.0 if at_least else -1.0
    mean, low, high = mean_interval(chosen) if len(chosen) else (0.0, 0.0, 0.0)
    worst, best = (low, high) if at_least else (-high, -low)
    state = _state(gate, len(chosen), sign * mean, worst, best)
    gain = sign * chosen
    against = [int(k) for k in np.argsort(gain, kind="stable") if gain[k] < (0.0 if gate.against else sign * bound)]
    named = [scenes[rows[k]] for k in against[:NAMED]]
    return GateResult(state, mean, low, high, bound, at_least, len(chosen), named, gate.holds)


def _state(gate: Gate, scenes: int, mean: float, worst: float, best: float) -> GateState:
    """mean, worst, best: the gate's value and the ends of its interval, signed so that higher is better."""
    if scenes < gate.least_scenes:
        return "not decided"
    bound = gate.at_least if gate.at_least is not None else -(gate.at_most or 0.0)
    if worst >= bound:
        return "passed"
    margin = -bound if gate.against is not None else 0.0
    too_wide = 0.0 < margin < mean - worst and best >= 0.0
    return "not decided" if too_wide else "failed"


def gate_text(name: str, gate: GateResult) -> str:
    """One line about a gate: comparison, bound, value, interval, number of scenes and the deciding scenes."""
    return f"{name} {gate_figures(gate)}"


def gate_figures(gate: GateResult) -> str:
    """The line of `gate_text` without the gate's name."""
    scenes = ", ".join(short_id(i) for i in gate.deciding)
    against = f"; worst: {scenes}" if scenes and gate.state != "passed" else ""
    figure = f"{gate.value:.3f} [{gate.low:.3f}, {gate.high:.3f}]" if gate.scenes else "nothing to compare"
    held = "" if gate.state != "not decided" else ", holds the release" if gate.holds else ", reported only"
    return f"{gate.bound:g}: {figure} on {gate.scenes} scenes: {gate.state}{held}{against}"


def save_verdict(path: Path, verdict: Verdict) -> None:
    """Write a verdict, with every policy's value on every scene, to a JSON file that other runs can be compared with.
    The write is atomic."""
    body = {
        "format": FORMAT,
        "candidate": verdict.candidate,
        "scenes": verdict.scenes,
        "scores": {p: {m: [_number(x) for x in v] for m, v in ms.items()} for p, ms in verdict.scores.items()},
        "summary": verdict.summary,
        "gates": {name: asdict(gate) for name, gate in verdict.gates.items()},
        "content": verdict.content,
        "versions": verdict.versions,
        "comparisons": verdict.comparisons,
        "suites": verdict.suites,
        "passed": verdict.passed,
    }
    with outputs.file(path) as aside, aside.open("w") as file:
        json.dump(body, file, allow_nan=False)


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def load_verdict(path: Path) -> Verdict:
    """Read a verdict that `save_verdict` wrote; null becomes infinity again. ValueError if the file is not a
    verdict."""
    require(path.exists(), f"{path}: no such verdict; judge the release first")
    body = read_json(path, "it is not a verdict; judge the release again")
    known = isinstance(body, dict) and body.get("format") == FORMAT
    require(known, f"{path}: field format is not '{FORMAT}'; judge the release again")
    for name, kind in (("candidate", str), ("scenes", list), ("scores", dict), ("summary", dict), ("gates", dict)):
        require(isinstance(body.get(name), kind), f"{path}: field {name} must be a {kind.__name__}; judge again")
    _require_numbers(path, body)
    scores = {
        p: {m: np.array([math.inf if x is None else x for x in v], np.float64) for m, v in ms.items()}
        for p, ms in body["scores"].items()
    }
    for policy, metrics in scores.items():
        driven = max((values.size for values in metrics.values()), default=0)
        for metric, values in metrics.items():
            fits = values.size == driven <= len(body["scenes"])
            require(fits, f"{path}: field scores.{policy}.{metric} has {values.size} values; must be one per scene")
    summary = {p: {m: (v[0], v[1], v[2]) for m, v in ms.items()} for p, ms in body["summary"].items()}
    gates = {name: GateResult(**gate) for name, gate in body["gates"].items()}
    more = [body.get(name, {}) for name in ("content", "versions", "comparisons", "suites")]
    return Verdict(body["candidate"], body["scenes"], scores, summary, gates, *more)


def _require_numbers(path: Path, body: dict[str, Any]) -> None:
    """Check that a verdict's tables hold what `save_verdict` writes. ValueError names the field."""
    names = all(isinstance(name, str) for name in body["scenes"])
    require(names, f"{path}: field scenes must hold the names of scenes; judge the release again")
    tables = [(f"scores.{p}", ms) for p, ms in body["scores"].items()]
    for part, metrics in tables:
        lists = isinstance(metrics, dict) and all(isinstance(v, list) for v in metrics.values())
        plain = lists and all(x is None or _is_number(x) for v in metrics.values() for x in v)
        require(plain, f"{path}: field {part} must be a table of numbers; judge the release again")
    threes = [(f"summary.{p}", ms) for p, ms in body["summary"].items()]
    for part, values in threes:
        lists = isinstance(values, dict) and all(isinstance(v, list) and len(v) == 3 for v in values.values())
        plain = lists and all(_is_number(x) for v in values.values() for x in v)
        require(plain, f"{path}: field {part} must be a table of three values each; judge the release again")
    for name, gate in body["gates"].items():
        require(_is_gate(gate), f"{path}: field gates.{name} is not a gate's result; judge the release again")
    for part in ("content", "versions", "comparisons", "suites"):
        require(isinstance(body.get(part, {}), dict), f"{path}: field {part} must be a table; judge the release again")


def _is_number(x: object) -> bool:
    return type(x) in (int, float)


def _is_gate(gate: object) -> bool:
    """Whether a value has the fields of GateResult, each with its type."""
    if not isinstance(gate, dict) or set(gate) != set(GateResult.__dataclass_fields__):
        return False
    numbers = all(_is_number(gate[k]) for k in ("value", "low", "high", "bound", "scenes"))
    flags = all(isinstance(gate[k], bool) for k in ("at_least", "holds"))
    named = isinstance(gate["deciding"], list) and all(isinstance(i, str) for i in gate["deciding"])
    return numbers and flags and named and gate["state"] in get_args(GateState)
