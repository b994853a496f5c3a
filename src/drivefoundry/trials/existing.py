"""Judge an existing engine, model or baseline on scenes or drives. Nothing is trained."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from drivefoundry.clips.importers.folder import kind_for, load_scenes
from drivefoundry.curate.config import CurateConfig
from drivefoundry.judge.config import JudgeConfig
from drivefoundry.judge.gate import Verdict, gate_text, judge, save_verdict
from drivefoundry.judge.release_gates import release_gates
from drivefoundry.judge.scores.pdm_closed import PdmClosed
from drivefoundry.judge.worst import SCORE
from drivefoundry.runs import named
from drivefoundry.scenes import show
from drivefoundry.sim.drive import body_of, reads_objects
from drivefoundry.sim.policies import ConstantVelocity, LogReplay, RouteFollower
from drivefoundry.sim.sensors.config import Perception
from drivefoundry.stages import label, openloop
from drivefoundry.stages.record import EGOS
from drivefoundry.stages.score import car_policy, engine_policy, load_scores, score
from drivefoundry.types import Policy, Scene, require

BASELINES: dict[str, Callable[[], Policy]] = {
    "constant-velocity": ConstantVelocity, "rules": RouteFollower, "pdm-closed": PdmClosed, "log-replay": LogReplay,
}  # fmt: skip
SHOWN = {
    "driving_score_21": "driving score", "epdms": "EPDMS", "pdms": "PDMS", "collision": "collisions",
    "at_fault_collision": "at fault", "off_road": "off road", "red_light": "red light", "progress": "progress",
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A verdict on a candidate. gated: whether its gates apply; baselines need not pass any. perception: what a
    candidate with a guard knew of other road users, in words; "" for others."""

    verdict: Verdict
    gated: bool
    perception: str


def closed_loop(who: str, scenes: Path | None, recipe: JudgeConfig, guard: bool = False) -> Judged:
    """Drive scenes in closed loop with the candidate, constant velocity and the rule-based route follower.

    who: a name of BASELINES, an engine (driven without its guard unless `guard`) or a model, see `runs.named`.
    scenes: recorded traffic, or a run, for its exam; None: the run that `who` belongs to. ValueError if there are none,
    or no such candidate.
    """
    driving = candidate(who, guard)()
    body = body_of(driving)
    exam = _scenes(who, scenes)
    beside = [BASELINES[n]() for n in ("constant-velocity", "rules") if n != who]
    with tempfile.TemporaryDirectory(prefix="drivefoundry-judge-") as folder:
        yard = Path(folder) / "yard"  # everyone's progress is measured against the route follower's, so it drives first
        yard.mkdir()
        score(RouteFollower(), exam, recipe, None, yard, body)
        made = []
        for i, driver in enumerate([driving, *beside]):
            out = yard if isinstance(driver, RouteFollower) else Path(folder) / str(i)
            if out != yard:
                out.mkdir()
                score(driver, exam, recipe, yard, out, body)
            made.append(load_scores(out))
        content = json.loads((yard / "scenes.json").read_text())
        suites = json.loads((yard / "suites.json").read_text())
    name, ids, _ = made[0]
    gated = who not in BASELINES
    scored = {policy: metrics for policy, _, metrics in made}
    gates = tuple(release_gates(recipe.gates, name, scored, suites)) if gated else ()
    perception = str(Perception()) if gated and reads_objects(driving) else ""
    return Judged(judge(name, ids, scored, gates, [content[i] for i in ids], suites), gated, perception)


def candidate(who: str, guard: bool) -> Callable[[], Policy]:
    """Return a factory for the driver of a name, see `closed_loop`. ValueError if there is none."""
    if who in BASELINES:
        return BASELINES[who]
    kind, path = named.driver(who, BASELINES)
    if kind == "engine":
        return lambda: car_policy(path) if guard else engine_policy(path)
    from drivefoundry.model.policy import TorchPolicy

    return lambda: TorchPolicy(path, "model")


def _scenes(who: str, scenes: Path | None) -> list[Scene]:
    if scenes is None:
        run = None if who in BASELINES else named.resolved(who).run
        require(run is not None, f"judge {who}: give --scenes, recorded traffic or a run (its exam)")
        assert run is not None
        return show.exam_scenes(run)
    found = named.resolved(scenes)
    if found.run is not None:
        return show.exam_scenes(found.run)
    if not scenes.is_file():
        kind_for(scenes, "scenes")
    return load_scenes(scenes, egos=EGOS)


def table(judged: Judged) -> str:
    """One line per policy, the candidate first: means, with the driving score's 95 % interval; then the gates."""
    verdict = judged.verdict
    metrics = [m for m in SHOWN if m in verdict.summary[verdict.candidate]]
    cells = [["policy", *(SHOWN[m] for m in metrics)]]
    for policy, summary in verdict.summary.items():
        row = [policy]
        for m in metrics:
            mean, low, high = summary[m]
            row.append(f"{mean:.3f} [{low:.3f}, {high:.3f}]" if m == SCORE else f"{mean:.3f}")
        cells.append(row)
    wide = [max(len(row[c]) for row in cells) for c in range(len(cells[0]))]
    lines = [f"{len(verdict.scenes)} scenes"]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in cells]
    lines += [f"perception of the guard: {judged.perception}"] * bool(judged.perception)
    lines += [f"gate {gate_text(name, gate)}" for name, gate in verdict.gates.items()]
    return "\n".join(lines)


def data(judged: Judged) -> dict[str, Any]:
    """The `--json` document: means with intervals per policy, and the gates."""
    v = judged.verdict
    gates = [{"gate": name, **asdict(gate)} for name, gate in v.gates.items()]
    told = {"candidate": v.candidate, "scenes": v.scenes, "suites": v.suites, "summary": v.summary, "gates": gates}
    return told | {
        "perception": judged.perception or None,
        "state": v.state if judged.gated else None,
        "passed": v.passed if judged.gated else None,
    }


def write(judged: Judged, out: Path) -> Path:
    """Write out/verdict.json, the input of `judge compare`."""
    out.mkdir(parents=True, exist_ok=True)
    save_verdict(out / "verdict.json", judged.verdict)
    return out / "verdict.json"


def open_loop(who: str, drives: Path, recipe: CurateConfig) -> dict[str, Any]:
    """A model's errors, beside constant velocity's and constant yaw rate's, on the last part of camera drives: the part
    that `run --drives` holds out. {"samples", "table": policy -> metric -> (mean, low, high)}."""
    require(who not in BASELINES, f"judge {who}: --drives is for a model; the open-loop baselines are always included")
    checkpoint, drives = named.model(who), named.resolved(drives).path
    kind_for(drives, "drives")
    with tempfile.TemporaryDirectory(prefix="drivefoundry-judge-") as folder:
        clips, curated, shard, scored = (Path(folder) / name for name in ("clips", "curated", "shard", "scored"))
        for part in (clips, curated, shard, scored):
            part.mkdir()
        store = str(Path(folder) / "store")
        openloop.import_drives(drives, store, clips)
        label.curate_clips(recipe, store, clips, None, [], "time", curated)
        from drivefoundry.model.checkpoint import load_checkpoint  # torch comes in here, and only then

        body = load_checkpoint(checkpoint).embodiment
        label.label_clips(replace(recipe, phases=1), body, store, clips, curated, "held_out", shard)
        own = checkpoint.parent if checkpoint.name == "checkpoint" else _as_artefact(checkpoint, folder)
        openloop.score(own, shard, scored)
        return json.loads((scored / "open_loop.json").read_text())


def _as_artefact(checkpoint: Path, folder: str) -> Path:
    """Lay out a checkpoint like an artefact, in a folder."""
    (Path(folder) / "checkpoint").symlink_to(checkpoint.resolve(), target_is_directory=True)
    return Path(folder)


def open_loop_table(errors: dict[str, Any]) -> str:
    """One line per policy: mean errors with 95 % intervals."""
    metrics = list(errors["table"]["model"])
    cells = [["policy", *(f"{m} {'rad/s' if m == 'yaw_rate' else 'm'}" for m in metrics)]]
    cells += [[n, *("{:.3f} [{:.3f}, {:.3f}]".format(*row[m]) for m in metrics)] for n, row in errors["table"].items()]
    wide = [max(len(row[c]) for row in cells) for c in range(len(cells[0]))]
    lines = [f"{errors['samples']} decisions of the last part of the drives"]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in cells]
    return "\n".join(lines)
